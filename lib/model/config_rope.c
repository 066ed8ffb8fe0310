#include "model/config_rope.h"

#include "base/mem.h"
#include "model/family.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

struct rope_reader {
    struct lm_arch *a;
    const struct jref *text;
    struct aq_arena *strings;
    struct aq_err *err;
};

static const char *const types[] = {"default",  "linear",  "llama3", "yarn",
                                    "longrope", "dynamic", NULL};

/* Older names: Phi-3 called its first files' longrope "su" and "yarn"; "mrope" turns the three
   axes of an image, which are one and the same for text. */
static const char *modern(const struct lm_arch *a, const char *type)
{
    bool phi3 = strcmp(a->family->name, "phi3") == 0;
    if (phi3 && (strcmp(type, "su") == 0 || strcmp(type, "yarn") == 0))
        return "longrope";
    return strcmp(type, "mrope") == 0 && a->family->wrappers[0] ? "default" : type;
}

static int read_type(struct rope_reader *x, const struct jref *at, bool required,
                     enum arch_rope_type *out)
{
    struct jref now, old;
    const char *type = "default", *other;
    bool has_now = jref_has(at, "rope_type", &now), has_old = jref_has(at, "type", &old);
    *out = ROPE_DEFAULT;
    if (!has_now && !has_old)
        return required ? jref_fail(at, x->err, "key 'rope_type' is missing") : 0;
    if (jref_string(at, has_now ? "rope_type" : "type", &type, x->err) < 0)
        return -1;
    if (has_now && has_old) {
        if (jref_string(at, "type", &other, x->err) < 0)
            return -1;
        if (strcmp(modern(x->a, type), modern(x->a, other)) != 0)
            return jref_fail(at, x->err, "rope_type is '%s', but type is '%s'", aq_show(type),
                             aq_show(other));
    }
    for (int i = 0; types[i]; i++)
        if (strcmp(types[i], modern(x->a, type)) == 0) {
            *out = (enum arch_rope_type)i;
            return 0;
        }
    jref_fail(has_now ? &now : &old, x->err, "'%s' is not supported", aq_show(type));
    return aq_err_hint(x->err, "supported are default, linear, llama3, yarn, longrope, dynamic");
}

/* A number that must be there, or one that may be missing. */
static int positive(struct rope_reader *x, const struct jref *at, const char *key, double fallback,
                    double *out)
{
    struct jref r;
    *out = fallback;
    if (!jref_has(at, key, &r) && fallback > 0)
        return 0;
    if (jref_double(at, key, out, x->err) < 0)
        return -1;
    return *out > 0 ? 0 : jref_fail(&r, x->err, "%g, expected a positive number", *out);
}

/* The longest sample of the first training: beside the rotation, or inside it, or the model's. */
static int read_context(struct rope_reader *x, const struct jref *at, int64_t *out)
{
    static const char *const key = "original_max_position_embeddings";
    const int64_t most = INT64_C(1) << 40;
    struct jref r;
    if (jref_has(x->text, key, &r))
        return jref_int(x->text, key, 1, most, out, x->err);
    if (jref_has(at, key, &r))
        return jref_int(at, key, 1, most, out, x->err);
    return jref_int(x->text, "max_position_embeddings", 1, most, out, x->err);
}

/* factor, or how many times longer the model's context is than that of the first training */
static int read_stretch(struct rope_reader *x, const struct jref *at, struct arch_rope *rope)
{
    struct jref r;
    int64_t longest;
    if (jref_has(at, "factor", &r))
        return positive(x, at, "factor", 0, &rope->factor);
    if (jref_int(x->text, "max_position_embeddings", 1, INT64_C(1) << 40, &longest, x->err) < 0)
        return -1;
    rope->factor = (double)longest / (double)rope->original_max;
    return 0;
}

static double mscale(double factor, double by)
{
    return factor <= 1 ? 1 : 0.1 * by * log(factor) + 1;
}

static int read_yarn(struct rope_reader *x, const struct jref *at, struct arch_rope *rope)
{
    double m = 0, m_all = 0;
    bool truncate = true;
    if (read_stretch(x, at, rope) < 0 || positive(x, at, "beta_fast", 32, &rope->beta_fast) < 0 ||
        positive(x, at, "beta_slow", 1, &rope->beta_slow) < 0 ||
        jref_maybe_double(at, "mscale", &m, x->err) < 0 ||
        jref_maybe_double(at, "mscale_all_dim", &m_all, x->err) < 0 ||
        jref_maybe_bool(at, "truncate", &truncate, x->err) < 0)
        return -1;
    rope->no_truncate = !truncate;
    double usual = m != 0 && m_all != 0 ? mscale(rope->factor, m) / mscale(rope->factor, m_all)
                                        : mscale(rope->factor, 1);
    return positive(x, at, "attention_factor", usual, &rope->attention_factor);
}

static int read_longrope(struct rope_reader *x, const struct jref *at, struct arch_rope *rope)
{
    struct jref list;
    int64_t pairs = x->a->rotary_dim / 2;
    if (read_stretch(x, at, rope) < 0 ||
        jref_get(at, "short_factor", JSON_ARRAY, &list, x->err) < 0)
        return -1;
    if (json_size(list.v) != (size_t)pairs)
        return jref_fail(&list, x->err, "%zu entries for %" PRId64 " rotated pairs",
                         json_size(list.v), pairs);
    rope->short_factor = aq_arena_alloc(x->strings, (size_t)pairs * sizeof *rope->short_factor);
    size_t i = 0;
    for (const struct json *e = json_first(list.v); e; e = json_next(e), i++) {
        struct jref one = jref_child(&list, e, i);
        bool number = json_type(e) == JSON_INT || json_type(e) == JSON_FLOAT;
        rope->short_factor[i] = number ? json_number(e) : 0;
        if (!(rope->short_factor[i] > 0))
            return jref_fail(&one, x->err, "expected a positive number");
    }
    /* longer samples take the other list */
    rope->max_length = rope->original_max;
    double usual =
        rope->factor <= 1 ? 1 : sqrt(1 + log(rope->factor) / log((double)rope->original_max));
    return positive(x, at, "attention_factor", usual, &rope->attention_factor);
}

/* The rotation that one object describes; its theta is the caller's. */
static int read_rope(struct rope_reader *x, const struct jref *at, bool required,
                     struct arch_rope *rope)
{
    *rope = (struct arch_rope){.attention_factor = 1};
    if (read_type(x, at, required, &rope->type) < 0)
        return -1;
    if (rope->type >= ROPE_LLAMA3 && rope->type <= ROPE_LONGROPE &&
        read_context(x, at, &rope->original_max) < 0)
        return -1;
    switch (rope->type) {
    case ROPE_LINEAR:
        return positive(x, at, "factor", 0, &rope->factor);
    case ROPE_LLAMA3:
        if (positive(x, at, "factor", 0, &rope->factor) < 0 ||
            positive(x, at, "low_freq_factor", 0, &rope->low_freq_factor) < 0 ||
            positive(x, at, "high_freq_factor", 0, &rope->high_freq_factor) < 0)
            return -1;
        return rope->low_freq_factor < rope->high_freq_factor
                   ? 0
                   : jref_fail(at, x->err, "low_freq_factor is not below high_freq_factor");
    case ROPE_YARN:
        return read_yarn(x, at, rope);
    case ROPE_LONGROPE:
        return read_longrope(x, at, rope);
    case ROPE_DYNAMIC: /* as the default, up to the length that the model knows */
        return jref_int(x->text, "max_position_embeddings", 1, INT64_C(1) << 40, &rope->max_length,
                        x->err);
    default:
        return 0;
    }
}

static bool same_rope(const struct arch_rope *a, const struct arch_rope *b, int64_t pairs)
{
    size_t list = a->short_factor && b->short_factor ? (size_t)pairs * sizeof(double) : 0;
    return a->type == b->type && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->attention_factor == b->attention_factor && a->original_max == b->original_max &&
           a->no_truncate == b->no_truncate &&
           (list == 0 || memcmp(a->short_factor, b->short_factor, list) == 0);
}

/* rope_theta at the top or inside; both may be there if they agree. fallback 0: it must be there.
 */
static int read_theta(struct rope_reader *x, const struct jref *inside, double fallback,
                      double *out)
{
    struct jref r;
    double inner = 0;
    bool at_top = jref_has(x->text, "rope_theta", &r);
    bool in = inside && jref_has(inside, "rope_theta", &r);
    *out = fallback;
    if ((at_top && jref_double(x->text, "rope_theta", out, x->err) < 0) ||
        (in && jref_double(inside, "rope_theta", &inner, x->err) < 0))
        return -1;
    if (!at_top && !in && fallback == 0)
        /* libraries disagree on the default: 10000, 500000, 5000000 */
        return jref_fail(x->text, x->err, "rope_theta is missing");
    if (at_top && in && *out != inner)
        return jref_fail(x->text, x->err, "rope_theta is %g, but %g in rope_parameters", *out,
                         inner);
    if (in)
        *out = inner;
    return 0;
}

/* One rotation for all layers, in rope_parameters, or in the older rope_scaling, or in both. */
static int read_one(struct rope_reader *x)
{
    struct jref old, now;
    struct arch_rope other, *rope = &x->a->rope[0];
    bool has_old = jref_has(x->text, "rope_scaling", &old);
    bool has_now = jref_has(x->text, "rope_parameters", &now);
    *rope = (struct arch_rope){.attention_factor = 1};
    if (has_old && (jref_get(x->text, "rope_scaling", JSON_OBJECT, &old, x->err) < 0 ||
                    read_rope(x, &old, true, rope) < 0))
        return -1;
    if (has_now && (jref_get(x->text, "rope_parameters", JSON_OBJECT, &now, x->err) < 0 ||
                    read_rope(x, &now, false, &other) < 0))
        return -1;
    if (has_now && has_old && !same_rope(rope, &other, x->a->rotary_dim / 2))
        return jref_fail(x->text, x->err, "rope_scaling and rope_parameters contradict each other");
    if (has_now)
        *rope = other;
    x->a->rope_count = 1;
    return read_theta(x, has_now ? &now : has_old ? &old : NULL, 0, &rope->theta);
}

/* One for layers that see all, in rope[0], and one for those with a window. */
static int read_two(struct rope_reader *x)
{
    static const char *const layers[] = {"full_attention", "sliding_attention"};
    struct jref all, own;
    struct lm_arch *a = x->a;
    const double *usual = a->family->theta;
    bool by_type = jref_has(x->text, "rope_parameters", &all);
    if (by_type && jref_get(x->text, "rope_parameters", JSON_OBJECT, &all, x->err) < 0)
        return -1;
    a->rope_count = 2;
    for (int i = 0; i < 2; i++) {
        a->rope[i] = (struct arch_rope){.attention_factor = 1, .theta = usual[i]};
        if (by_type && jref_has(&all, layers[i], &own)) {
            if (jref_get(&all, layers[i], JSON_OBJECT, &own, x->err) < 0 ||
                read_rope(x, &own, false, &a->rope[i]) < 0 ||
                positive(x, &own, "rope_theta", usual[i], &a->rope[i].theta) < 0)
                return -1;
        }
    }
    if (by_type)
        return 0;
    if (jref_has(x->text, "rope_scaling", &own) &&
        (jref_get(x->text, "rope_scaling", JSON_OBJECT, &own, x->err) < 0 ||
         read_rope(x, &own, true, &a->rope[0]) < 0))
        return -1;
    if ((a->family->reads & READS_LOCAL_THETA) &&
        jref_maybe_double(x->text, "rope_local_base_freq", &a->rope[1].theta, x->err) < 0)
        return -1;
    return read_theta(x, NULL, usual[0], &a->rope[0].theta);
}

/* Elements of a head that are rotated. */
static int read_rotary_dim(struct rope_reader *x)
{
    struct jref r, rope;
    double share = 1;
    struct lm_arch *a = x->a;
    const struct jref *place = x->text;
    bool has = jref_has(x->text, "partial_rotary_factor", &r);
    if (!has && jref_has(x->text, "rope_parameters", &rope) && json_type(rope.v) == JSON_OBJECT &&
        jref_has(&rope, "partial_rotary_factor", &r)) {
        place = &rope;
        has = true;
    }
    if (has && jref_double(place, "partial_rotary_factor", &share, x->err) < 0)
        return -1;
    if (share != 1 && !(a->family->reads & READS_PARTIAL_ROTARY))
        return jref_fail(&r, x->err, "%g is not supported, expected 1", share);
    if (!(share > 0 && share <= 1))
        return jref_fail(&r, x->err, "%g, expected more than 0 and at most 1", share);
    a->rotary_dim = (int64_t)((double)a->head_dim * share);
    return 0;
}

int config_read_ropes(struct lm_arch *a, const struct jref *text, struct aq_arena *strings,
                      struct aq_err *err)
{
    struct rope_reader x = {a, text, strings, err};
    if (read_rotary_dim(&x) < 0 ||
        (a->family->reads & READS_TWO_ROPES ? read_two(&x) : read_one(&x)) < 0)
        return -1;
    a->rope_theta = a->rope[0].theta;
    return 0;
}
