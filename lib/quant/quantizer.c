#include "quant/quantizer.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "base/suggest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int read_fn(const struct jref *v, struct quantizer *q, struct aq_err *err);

static int wrong(const struct jref *v, const char *expected, struct aq_err *err)
{
    return jref_fail(v, err, "expected %s, found %s", expected, json_type_name(json_type(v->v)));
}

static int read_flag(const struct jref *v, bool *out, struct aq_err *err)
{
    if (json_type(v->v) != JSON_BOOL)
        return wrong(v, "a boolean", err);
    *out = json_bool(v->v);
    return 0;
}

static int read_small_int(const struct jref *v, int min, int max, int *out, struct aq_err *err)
{
    int64_t n = 0;
    if (json_type(v->v) != JSON_INT)
        return wrong(v, "an integer", err);
    if (!json_int(v->v, &n) || n < min || n > max)
        return jref_fail(v, err, "expected an integer from %d to %d", min, max);
    *out = (int)n;
    return 0;
}

static int read_word(const struct jref *v, const char *const *words, size_t *which,
                     struct aq_err *err)
{
    size_t count = 0;
    if (json_type(v->v) != JSON_STRING)
        return wrong(v, "a string", err);
    for (; words[count]; count++)
        if (strcmp(words[count], json_string(v->v)) == 0) {
            *which = count;
            return 0;
        }
    struct aq_buf list = AQ_BUF_INIT;
    aq_join_names(&list, words, count);
    jref_fail(v, err, "'%s' is not one of: %s", aq_show(json_string(v->v)), list.data);
    aq_buf_release(&list);
    return -1;
}

static int read_type(const struct jref *v, bool *dynamic, struct aq_err *err)
{
    static const char *const words[] = {"static", "dynamic", NULL};
    size_t which = 0;
    if (read_word(v, words, &which, err) < 0)
        return -1;
    *dynamic = which == 1;
    return 0;
}

/* 4, or [4, 3]. Any small number passes: which of them exist is a matter of rules, not of types. */
static int read_number_format(const struct jref *v, struct number_format *f, struct aq_err *err)
{
    enum { LIMIT = 1024 };
    *f = (struct number_format){0};
    if (json_type(v->v) != JSON_ARRAY)
        return read_small_int(v, -LIMIT, LIMIT, &f->bits, err);
    if (json_size(v->v) != 2)
        return jref_fail(v, err, "expected an integer or [exponent bits, mantissa bits]");
    struct jref e = jref_child(v, json_at(v->v, 0), 0), m = jref_child(v, json_at(v->v, 1), 1);
    if (read_small_int(&e, -LIMIT, LIMIT, &f->exponent, err) < 0 ||
        read_small_int(&m, -LIMIT, LIMIT, &f->mantissa, err) < 0)
        return -1;
    f->is_float = true;
    f->bits = 1 + f->exponent + f->mantissa;
    return 0;
}

/* ---- block_sizes ---- */

static int read_block(const struct jref *v, int dim, struct quantizer *q, struct aq_err *err)
{
    struct block_size b = {.dim = dim};
    if (q->blocks == QUANTIZER_DIMS)
        return jref_fail(v, err, "more than %d dimensions", QUANTIZER_DIMS);
    if (json_type(v->v) != JSON_NULL &&
        read_small_int(v, 1, QUANTIZER_MAX_BLOCK, &b.length, err) < 0)
        return -1;
    q->block[q->blocks++] = b;
    return 0;
}

/* The key of a dimension: an integer in its plain spelling. */
static bool parse_dim(const char *key, int *dim)
{
    int64_t n;
    char plain[24];
    if (!aq_parse_i64(key, &n) || n < -64 || n > 64)
        return false;
    (void)snprintf(plain, sizeof plain, "%d", (int)n);
    *dim = (int)n;
    return strcmp(plain, key) == 0;
}

static int read_block_member(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    int dim;
    if (parse_dim(v->name, &dim))
        return read_block(v, dim, q, err);
    if (strcmp(v->name, "type") == 0)
        return read_type(v, &q->dynamic_blocks, err);
    if (strcmp(v->name, "four_over_six") == 0)
        return read_flag(v, &q->four_over_six, err);
    if (strcmp(v->name, "scale_bits") == 0) {
        if (json_type(v->v) == JSON_NULL)
            return 0;
        q->has_scale = true;
        return read_number_format(v, &q->scale, err);
    }
    if (strcmp(v->name, "scale_block_sizes") == 0) /* no fake quantizer of ModelOpt reads it */
        return json_type(v->v) == JSON_OBJECT ? 0 : wrong(v, "an object", err);
    jref_fail(v, err, "unknown key of block_sizes");
    return aq_err_hint(err, "known: dimensions such as -1, type, scale_bits, scale_block_sizes");
}

static int read_block_sizes(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    if (json_type(v->v) == JSON_NULL)
        return 0;
    if (json_type(v->v) != JSON_OBJECT)
        return wrong(v, "an object or null", err);
    q->has_blocks = true;
    for (const struct json *c = json_first(v->v); c; c = json_next(c)) {
        struct jref member = jref_child(v, c, 0);
        if (read_block_member(&member, q, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the other attributes ---- */

static int read_axis(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    enum { LIMIT = 64 };
    if (json_type(v->v) == JSON_NULL)
        return 0;
    if (json_type(v->v) != JSON_ARRAY) {
        q->has_axis = true;
        q->axes = 1;
        return read_small_int(v, -LIMIT, LIMIT, &q->axis[0], err);
    }
    if (json_size(v->v) > QUANTIZER_DIMS)
        return jref_fail(v, err, "more than %d dimensions", QUANTIZER_DIMS);
    for (const struct json *c = json_first(v->v); c; c = json_next(c)) {
        struct jref member = jref_child(v, c, (size_t)q->axes);
        if (read_small_int(&member, -LIMIT, LIMIT, &q->axis[q->axes++], err) < 0)
            return -1;
    }
    q->has_axis = true;
    return 0;
}

static int read_enable(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_flag(v, &q->enable, err);
}

static int read_num_bits(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_number_format(v, &q->number, err);
}

static int read_dynamic(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_type(v, &q->dynamic, err);
}

static int read_rotate(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_flag(v, &q->rotate, err);
}

static void note_odd(const struct jref *v, struct quantizer *q, bool for_integers)
{
    if (q->odd && !q->odd_for_integers)
        return; /* one that always matters is kept */
    q->odd = v->name;
    q->odd_for_integers = for_integers;
}

/* A flag that changes nothing unless it has this unusual value. */
static int read_odd_flag(const struct jref *v, bool odd, bool for_integers, struct quantizer *q,
                         struct aq_err *err)
{
    bool on = false;
    if (read_flag(v, &on, err) < 0)
        return -1;
    if (on == odd)
        note_odd(v, q, for_integers);
    return 0;
}

static int read_integer_flag(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_odd_flag(v, true, true, q, err);
}

static int read_learn_amax(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_odd_flag(v, true, false, q, err);
}

static int read_fake_quant(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    return read_odd_flag(v, false, false, q, err);
}

static int read_calibrator(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    static const char *const words[] = {"max", "histogram", NULL};
    size_t which = 0;
    if (read_word(v, words, &which, err) < 0)
        return -1;
    if (which == 1)
        note_odd(v, q, false);
    return 0;
}

static int read_bias(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    if (json_type(v->v) == JSON_NULL)
        return 0;
    if (json_type(v->v) != JSON_OBJECT)
        return wrong(v, "an object or null", err);
    note_odd(v, q, false);
    return 0;
}

/* These two touch gradients through a quantizer and exports; no score depends on them. */
static int read_pass_through_bwd(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    bool ignored;
    return read_flag(v, &ignored, err);
}

static int read_trt_dtype(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    static const char *const words[] = {"Float", "Half", "BFloat16", NULL};
    size_t ignored;
    return read_word(v, words, &ignored, err);
}

static const struct attribute {
    const char *name;
    read_fn *read;
} attributes[] = {
    {"num_bits", read_num_bits},
    {"axis", read_axis},
    {"block_sizes", read_block_sizes},
    {"type", read_dynamic},
    {"enable", read_enable},
    {"unsigned", read_integer_flag},
    {"narrow_range", read_integer_flag},
    {"fake_quant", read_fake_quant},
    {"learn_amax", read_learn_amax},
    {"calibrator", read_calibrator},
    {"bias", read_bias},
    {"rotate", read_rotate},
    {"pass_through_bwd", read_pass_through_bwd},
    {"trt_high_precision_dtype", read_trt_dtype},
};

static int unknown_attribute(const struct jref *v, struct aq_err *err)
{
    struct aq_names names = {0};
    for (size_t i = 0; i < AQ_COUNT(attributes); i++)
        aq_names_add(&names, attributes[i].name);
    jref_fail(v, err, "unknown quantizer attribute");
    aq_names_hint(err, "known", v->name, &names);
    free(names.items);
    return -1;
}

static int read_attribute(const struct jref *v, struct quantizer *q, struct aq_err *err)
{
    for (size_t i = 0; i < AQ_COUNT(attributes); i++)
        if (strcmp(attributes[i].name, v->name) == 0)
            return attributes[i].read(v, q, err);
    return unknown_attribute(v, err);
}

int quantizer_read(const struct jref *entry, struct quantizer *q, struct aq_err *err)
{
    *q = (struct quantizer){.enable = true, .number = {.bits = 8}};
    if (json_type(entry->v) != JSON_OBJECT)
        return wrong(entry, "an object of quantizer attributes", err);
    size_t count = 0;
    for (const struct json *c = json_first(entry->v); c; c = json_next(c), count++) {
        struct jref member = jref_child(entry, c, 0);
        if (read_attribute(&member, q, err) < 0)
            return -1;
    }
    q->bare = count == 0 || (count == 1 && q->enable && json_get(entry->v, "enable"));
    return 0;
}
