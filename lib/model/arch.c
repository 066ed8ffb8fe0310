#include "model/arch.h"

#include "base/fmt.h"
#include "base/mem.h"
#include "model/family.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- one table of members ---- */

enum kind { INT, REAL, FLAG, WORD };

struct member {
    const char *key;
    enum kind kind;
    size_t at;
    int64_t min, max;         /* INT */
    const char *const *words; /* WORD, NULL at the end */
};

#define INT_OF(name, low, high)                                                                    \
    {                                                                                              \
#name, INT, offsetof(struct lm_arch, name), low, high, NULL                                \
    }
#define REAL_OF(name)                                                                              \
    {                                                                                              \
#name, REAL, offsetof(struct lm_arch, name), 0, 0, NULL                                    \
    }
#define FLAG_OF(name)                                                                              \
    {                                                                                              \
#name, FLAG, offsetof(struct lm_arch, name), 0, 0, NULL                                    \
    }
#define WORD_OF(name, words)                                                                       \
    {                                                                                              \
#name, WORD, offsetof(struct lm_arch, name), 0, 0, words                                   \
    }

static const char *const norm_places[] = {"pre", "post", "both", NULL};
static const char *const qk_norms[] = {"none", "head", "row", NULL};
static const char *const acts[] = {"silu", "gelu_tanh", NULL};
static const char *const biases[] = {"qkv", "o", "mlp", NULL};
static const char *const rope_types[] = {"default",  "linear",  "llama3", "yarn",
                                         "longrope", "dynamic", NULL};

/* Those that every model has, and that are always part of its digest. */
static const struct member sizes[] = {
    INT_OF(hidden_size, 1, LM_MAX_DIM),
    INT_OF(intermediate_size, 1, LM_MAX_DIM),
    INT_OF(num_hidden_layers, 1, LM_MAX_LAYERS),
    INT_OF(num_attention_heads, 1, LM_MAX_HEADS),
    INT_OF(num_key_value_heads, 1, LM_MAX_HEADS),
    INT_OF(head_dim, 1, LM_MAX_HEADS),
    INT_OF(vocab_size, 1, LM_MAX_DIM),
    REAL_OF(rope_theta),
    REAL_OF(rms_norm_eps),
    FLAG_OF(tie_word_embeddings),
};

/* Those that have a default, which arch_defaults gives. */
static const struct member traits[] = {
    WORD_OF(norm_place, norm_places),
    FLAG_OF(norm_one_plus),
    FLAG_OF(norm_round_once),
    WORD_OF(qk_norm, qk_norms),
    WORD_OF(act, acts),
    REAL_OF(attn_scale),
    REAL_OF(attn_cap),
    REAL_OF(embed_scale),
    REAL_OF(residual_scale),
    REAL_OF(logit_div),
    REAL_OF(logit_cap),
    INT_OF(rotary_dim, 0, LM_MAX_HEADS),
    INT_OF(window, 0, INT32_MAX),
};

/* Of models with experts alone: written and read where there are some. */
static const struct member experts[] = {
    INT_OF(experts, 1, LM_MAX_EXPERTS),
    INT_OF(experts_per_token, 1, LM_MAX_EXPERTS),
    INT_OF(moe_intermediate_size, 1, LM_MAX_DIM),
    FLAG_OF(norm_topk),
};

/* enums are read and written as ints: gcc and clang give all of ours that size */
_Static_assert(sizeof(enum arch_act) == sizeof(int), "an enum member is an int");

static void *member_of(struct lm_arch *a, const struct member *m)
{
    return (char *)a + m->at;
}

static const void *value_of(const struct lm_arch *a, const struct member *m)
{
    return (const char *)a + m->at;
}

void arch_defaults(struct lm_arch *a)
{
    a->attn_scale = 1 / sqrt((double)a->head_dim);
    a->embed_scale = a->residual_scale = a->logit_div = 1;
    a->rotary_dim = a->head_dim;
    a->rope_count = 1;
    a->rope[0] =
        (struct arch_rope){.theta = a->rope_theta, .type = ROPE_DEFAULT, .attention_factor = 1};
}

void arch_take_experts(struct lm_arch *a, struct aq_arena *strings)
{
    size_t n = (size_t)a->num_hidden_layers;
    if (!a->experts)
        return;
    a->layer_sparse = aq_arena_alloc(strings, n);
    a->experts_layout = aq_arena_alloc(strings, n);
    memset(a->layer_sparse, 0, n);
    memset(a->experts_layout, EXPERTS_EACH, n);
}

int arch_check(const struct lm_arch *a, struct aq_err *err)
{
    if (a->experts_per_token > a->experts)
        return aq_err_set(err, AQ_EINPUT,
                          "%" PRId64 " experts for each token, but there are %" PRId64,
                          a->experts_per_token, a->experts);
    if (a->num_attention_heads % a->num_key_value_heads)
        return aq_err_set(err, AQ_EINPUT,
                          "num_key_value_heads %" PRId64
                          " does not divide num_attention_heads %" PRId64,
                          a->num_key_value_heads, a->num_attention_heads);
    if (a->rotary_dim >= a->head_dim && a->head_dim % 2)
        return aq_err_set(err, AQ_EINPUT,
                          "head_dim %" PRId64 " is odd: rotary embedding needs pairs", a->head_dim);
    if (a->rotary_dim % 2 || a->rotary_dim > a->head_dim)
        return aq_err_set(err, AQ_EINPUT,
                          "%" PRId64 " of the %" PRId64
                          " elements of a head are rotated, expected an even number up to all",
                          a->rotary_dim, a->head_dim);
    if (a->num_attention_heads * a->head_dim > LM_MAX_DIM)
        return aq_err_set(err, AQ_EINPUT,
                          "num_attention_heads x head_dim is %" PRId64 ", the limit is %d",
                          a->num_attention_heads * a->head_dim, LM_MAX_DIM);
    if (!(a->rope_theta > 0))
        return aq_err_set(err, AQ_EINPUT, "rope_theta is %g, expected a positive number",
                          a->rope_theta);
    if (!(a->rms_norm_eps > 0))
        return aq_err_set(err, AQ_EINPUT, "rms_norm_eps is %g, expected a positive number",
                          a->rms_norm_eps);
    return 0;
}

int64_t arch_max_length(const struct lm_arch *a)
{
    int64_t least = 0;
    for (int i = 0; i < a->rope_count; i++)
        if (a->rope[i].max_length > 0 && (least == 0 || a->rope[i].max_length < least))
            least = a->rope[i].max_length;
    return least;
}

/* Members of a rotation besides theta and type: written where they are not 0. */
static const struct {
    const char *key;
    size_t at;
    bool whole;
} rope_members[] = {
    {"factor", offsetof(struct arch_rope, factor), false},
    {"low_freq_factor", offsetof(struct arch_rope, low_freq_factor), false},
    {"high_freq_factor", offsetof(struct arch_rope, high_freq_factor), false},
    {"beta_fast", offsetof(struct arch_rope, beta_fast), false},
    {"beta_slow", offsetof(struct arch_rope, beta_slow), false},
    {"attention_factor", offsetof(struct arch_rope, attention_factor), false},
    {"original_max_position_embeddings", offsetof(struct arch_rope, original_max), true},
    {"max_length", offsetof(struct arch_rope, max_length), true},
};

static double *rope_real(const struct arch_rope *r, size_t i)
{
    return (void *)((char *)r + rope_members[i].at);
}

static int64_t *rope_int(const struct arch_rope *r, size_t i)
{
    return (int64_t *)((char *)r + rope_members[i].at);
}

/* ---- reading ---- */

static int find_word(const char *const *words, const char *word)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return i;
    return -1;
}

static int read_word(const struct jref *v, const char *key, const char *const *words, int *out,
                     struct aq_err *err)
{
    const char *text;
    if (jref_string(v, key, &text, err) < 0)
        return -1;
    *out = find_word(words, text);
    return *out < 0 ? jref_fail(v, err, "%s is '%s', which is not known", key, aq_show(text)) : 0;
}

static int read_member(struct lm_arch *a, const struct member *m, const struct jref *v,
                       struct aq_err *err)
{
    void *out = member_of(a, m);
    switch (m->kind) {
    case INT:
        return jref_int(v, m->key, m->min, m->max, out, err);
    case REAL:
        return jref_double(v, m->key, out, err);
    case FLAG:
        return jref_bool(v, m->key, out, err);
    default:
        return read_word(v, m->key, m->words, out, err);
    }
}

static int read_members(struct lm_arch *a, const struct member *m, size_t count,
                        const struct jref *v, struct aq_err *err)
{
    for (size_t i = 0; i < count; i++)
        if (read_member(a, &m[i], v, err) < 0)
            return -1;
    return 0;
}

static int read_bias(struct lm_arch *a, const struct jref *v, struct aq_err *err)
{
    struct jref list;
    if (jref_get(v, "bias", JSON_ARRAY, &list, err) < 0)
        return -1;
    a->bias = 0;
    size_t i = 0;
    for (const struct json *e = json_first(list.v); e; e = json_next(e), i++) {
        struct jref at = jref_child(&list, e, i);
        int k = json_type(e) == JSON_STRING ? find_word(biases, json_string(e)) : -1;
        if (k < 0)
            return jref_fail(&at, err, "expected one of: qkv, o, mlp");
        a->bias |= 1u << k;
    }
    return 0;
}

/* short_factor of longrope: one positive number for each pair. */
static int read_factors(struct arch_rope *rope, int64_t pairs, const struct jref *at,
                        struct aq_arena *strings, struct aq_err *err)
{
    struct jref list;
    if (jref_get(at, "short_factor", JSON_ARRAY, &list, err) < 0)
        return -1;
    if (json_size(list.v) != (size_t)pairs)
        return jref_fail(&list, err, "%zu entries for %" PRId64 " rotated pairs", json_size(list.v),
                         pairs);
    rope->short_factor = aq_arena_alloc(strings, (size_t)pairs * sizeof *rope->short_factor);
    size_t i = 0;
    for (const struct json *e = json_first(list.v); e; e = json_next(e), i++) {
        struct jref one = jref_child(&list, e, i);
        if (json_type(e) != JSON_INT && json_type(e) != JSON_FLOAT)
            return jref_fail(&one, err, "expected a number");
        rope->short_factor[i] = json_number(e);
        if (!(rope->short_factor[i] > 0))
            return jref_fail(&one, err, "expected a positive number");
    }
    return 0;
}

static int read_one_rope(struct lm_arch *a, struct arch_rope *rope, const struct jref *at,
                         struct aq_arena *strings, struct aq_err *err)
{
    struct jref r;
    int type;
    *rope = (struct arch_rope){.attention_factor = 1};
    if (jref_double(at, "theta", &rope->theta, err) < 0 ||
        read_word(at, "type", rope_types, &type, err) < 0)
        return -1;
    rope->type = (enum arch_rope_type)type;
    for (size_t i = 0; i < AQ_COUNT(rope_members); i++) {
        const char *key = rope_members[i].key;
        if (!jref_has(at, key, &r))
            continue;
        if (rope_members[i].whole
                ? jref_int(at, key, 1, INT64_C(1) << 40, rope_int(rope, i), err) < 0
                : jref_double(at, key, rope_real(rope, i), err) < 0)
            return -1;
    }
    if (jref_has(at, "truncate", &r)) {
        bool truncate = true;
        if (jref_bool(at, "truncate", &truncate, err) < 0)
            return -1;
        rope->no_truncate = !truncate;
    }
    return rope->type == ROPE_LONGROPE ? read_factors(rope, a->rotary_dim / 2, at, strings, err)
                                       : 0;
}

static int read_rope(struct lm_arch *a, const struct jref *v, struct aq_arena *strings,
                     struct aq_err *err)
{
    struct jref list;
    if (jref_get(v, "rope", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t n = json_size(list.v), i = 0;
    if (n < 1 || n > ARCH_ROPES)
        return jref_fail(&list, err, "expected 1 to %d entries", ARCH_ROPES);
    for (const struct json *e = json_first(list.v); e; e = json_next(e), i++) {
        struct jref at = jref_child(&list, e, i);
        if (read_one_rope(a, &a->rope[i], &at, strings, err) < 0)
            return -1;
    }
    a->rope_count = (int)n;
    return 0;
}

/* One small number a layer; NULL if all are 0. */
static int read_layers(const struct lm_arch *a, const struct jref *v, const char *key, int64_t min,
                       int64_t max, struct aq_arena *strings, int8_t **out, struct aq_err *err)
{
    struct jref list;
    if (jref_get(v, key, JSON_ARRAY, &list, err) < 0)
        return -1;
    if (json_size(list.v) != (size_t)a->num_hidden_layers)
        return jref_fail(&list, err, "%zu entries for %" PRId64 " layers", json_size(list.v),
                         a->num_hidden_layers);
    int8_t *all = aq_arena_alloc(strings, (size_t)a->num_hidden_layers);
    bool any = false;
    size_t i = 0;
    for (const struct json *e = json_first(list.v); e; e = json_next(e), i++) {
        struct jref at = jref_child(&list, e, i);
        int64_t n;
        if (!json_int(e, &n) || n < min || n > max)
            return jref_fail(&at, err, "expected %" PRId64 " to %" PRId64, min, max);
        all[i] = (int8_t)n;
        any |= n != 0;
    }
    *out = any ? all : NULL;
    return 0;
}

/* How the checkpoint has the experts is said by its tensors. */
static int read_experts(struct lm_arch *a, const struct jref *v, struct aq_arena *strings,
                        struct aq_err *err)
{
    struct jref r;
    bool family = a->family->reads & READS_EXPERTS, there = jref_has(v, "experts", &r);
    if (family != there)
        return jref_fail(v, err, "the family %s has %s", a->family->name,
                         family ? "experts" : "no experts");
    if (!there)
        return 0;
    if (read_members(a, experts, AQ_COUNT(experts), v, err) < 0)
        return -1;
    arch_take_experts(a, strings);
    int8_t *sparse = NULL;
    if (jref_maybe_bool(v, "moe_split", &a->moe_split, err) < 0 ||
        read_layers(a, v, "layer_sparse", 0, 1, strings, &sparse, err) < 0)
        return -1;
    if (sparse)
        memcpy(a->layer_sparse, sparse, (size_t)a->num_hidden_layers);
    return 0;
}

int arch_read(struct lm_arch *a, const struct jref *v, struct aq_arena *strings, struct aq_err *err)
{
    const char *family, *type;
    *a = (struct lm_arch){0};
    if (jref_string(v, "family", &family, err) < 0 || jref_string(v, "model_type", &type, err) < 0)
        return -1;
    (void)snprintf(a->model_type, sizeof a->model_type, "%s", type);
    a->family = model_family_named(family);
    if (!a->family)
        return jref_fail(v, err, "family is '%s', which is not known", aq_show(family));
    if (read_members(a, sizes, AQ_COUNT(sizes), v, err) < 0)
        return -1;
    arch_defaults(a);
    if (read_members(a, traits, AQ_COUNT(traits), v, err) < 0 || read_bias(a, v, err) < 0 ||
        read_rope(a, v, strings, err) < 0 ||
        read_layers(a, v, "layer_rope", -1, a->rope_count - 1, strings, &a->layer_rope, err) < 0 ||
        read_layers(a, v, "layer_window", 0, 1, strings, (int8_t **)&a->layer_window, err) < 0)
        return -1;
    if (read_experts(a, v, strings, err) < 0)
        return -1;
    struct aq_err why = {0};
    return arch_check(a, &why) < 0 ? jref_fail(v, err, "%s", why.msg) : 0;
}

/* ---- writing ---- */

static void write_members(struct json *v, const struct lm_arch *a, const struct member *m,
                          size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const void *from = value_of(a, &m[i]);
        switch (m[i].kind) {
        case INT:
            json_add_int(v, m[i].key, *(const int64_t *)from);
            break;
        case REAL:
            json_add_double(v, m[i].key, *(const double *)from);
            break;
        case FLAG:
            json_add_bool(v, m[i].key, *(const bool *)from);
            break;
        default:
            json_add_string(v, m[i].key, m[i].words[*(const int *)from]);
        }
    }
}

static void write_layers(struct json *v, const char *key, const int8_t *values, int64_t layers)
{
    struct json *list = json_add_array(v, key);
    for (int64_t l = 0; l < layers; l++)
        json_push(list, json_new_int(values ? values[l] : 0));
}

static void write_rope(struct json *v, const struct arch_rope *r, int64_t pairs)
{
    for (size_t i = 0; i < AQ_COUNT(rope_members); i++) {
        const char *key = rope_members[i].key;
        if (rope_members[i].whole && *rope_int(r, i))
            json_add_int(v, key, *rope_int(r, i));
        else if (!rope_members[i].whole && *rope_real(r, i) != 0 && r->type != ROPE_DEFAULT)
            json_add_double(v, key, *rope_real(r, i));
    }
    if (r->no_truncate)
        json_add_bool(v, "truncate", false);
    if (!r->short_factor)
        return;
    struct json *list = json_add_array(v, "short_factor");
    for (int64_t i = 0; i < pairs; i++)
        json_push(list, json_new_double(r->short_factor[i]));
}

void arch_write(struct json *v, const struct lm_arch *a)
{
    json_add_string(v, "family", a->family->name);
    json_add_string(v, "model_type", a->model_type);
    write_members(v, a, sizes, AQ_COUNT(sizes));
    write_members(v, a, traits, AQ_COUNT(traits));
    struct json *list = json_add_array(v, "bias");
    for (int i = 0; biases[i]; i++)
        if (a->bias & 1u << i)
            json_push(list, json_new_string(biases[i]));
    list = json_add_array(v, "rope");
    for (int i = 0; i < a->rope_count; i++) {
        struct json *rope = json_push(list, json_new_object());
        json_add_double(rope, "theta", a->rope[i].theta);
        json_add_string(rope, "type", rope_types[a->rope[i].type]);
        write_rope(rope, &a->rope[i], a->rotary_dim / 2);
    }
    write_layers(v, "layer_rope", a->layer_rope, a->num_hidden_layers);
    write_layers(v, "layer_window", (const int8_t *)a->layer_window, a->num_hidden_layers);
    if (!a->experts)
        return;
    write_members(v, a, experts, AQ_COUNT(experts));
    if (a->moe_split)
        json_add_bool(v, "moe_split", true);
    write_layers(v, "layer_sparse", a->layer_sparse, a->num_hidden_layers);
}

/* ---- digest ---- */

static void add_value(struct aq_buf *line, const struct lm_arch *a, const struct member *m)
{
    char text[AQ_FMT_MAX];
    const void *from = value_of(a, m);
    switch (m->kind) {
    case INT:
        aq_buf_addf(line, "%" PRId64, *(const int64_t *)from);
        break;
    case REAL:
        aq_buf_adds(line, aq_fmt_double(*(const double *)from, text));
        break;
    case FLAG:
        aq_buf_addf(line, "%d", *(const bool *)from);
        break;
    default:
        aq_buf_adds(line, m->words[*(const int *)from]);
    }
}

static void add_rope(struct aq_buf *line, const struct arch_rope *r, int64_t pairs)
{
    char text[AQ_FMT_MAX];
    aq_buf_addf(line, " rope=%s,%s", rope_types[r->type], aq_fmt_double(r->theta, text));
    for (size_t i = 0; i < AQ_COUNT(rope_members); i++)
        if (rope_members[i].whole)
            aq_buf_addf(line, ",%" PRId64, *rope_int(r, i));
        else
            aq_buf_addf(line, ",%s", aq_fmt_double(*rope_real(r, i), text));
    aq_buf_adds(line, r->no_truncate ? ",whole" : "");
    for (int64_t i = 0; r->short_factor && i < pairs; i++)
        aq_buf_addf(line, ",%s", aq_fmt_double(r->short_factor[i], text));
}

static void add_layers(struct aq_buf *line, const char *key, const int8_t *values, int64_t layers)
{
    if (!values)
        return;
    aq_buf_addf(line, " %s=", key);
    for (int64_t l = 0; l < layers; l++)
        aq_buf_addf(line, "%s%d", l ? "," : "", values[l]);
}

void arch_digest_line(const struct lm_arch *a, struct aq_buf *line)
{
    struct lm_arch plain = *a;
    plain.norm_place = NORM_PRE;
    plain.norm_one_plus = plain.norm_round_once = false;
    plain.qk_norm = QK_NORM_HEAD;
    plain.act = ACT_SILU;
    plain.attn_cap = plain.logit_cap = 0;
    plain.window = 0;
    arch_defaults(&plain);
    aq_buf_adds(line, "aq.lm/1"); /* of the first version, which had no traits */
    for (size_t i = 0; i < AQ_COUNT(sizes); i++) {
        aq_buf_addc(line, ' ');
        add_value(line, a, &sizes[i]);
    }
    for (size_t i = 0; i < AQ_COUNT(traits); i++) {
        const struct member *m = &traits[i];
        size_t n = m->kind == INT    ? sizeof(int64_t)
                   : m->kind == REAL ? sizeof(double)
                   : m->kind == FLAG ? sizeof(bool)
                                     : sizeof(int);
        if (memcmp(value_of(a, m), value_of(&plain, m), n) == 0)
            continue;
        aq_buf_addf(line, " %s=", m->key);
        add_value(line, a, m);
    }
    if (a->bias)
        aq_buf_addf(line, " bias=%u", a->bias);
    for (int i = 0; i < a->rope_count; i++)
        if (i > 0 || a->rope[i].type != ROPE_DEFAULT)
            add_rope(line, &a->rope[i], a->rotary_dim / 2);
    add_layers(line, "layer_rope", a->layer_rope, a->num_hidden_layers);
    add_layers(line, "layer_window", (const int8_t *)a->layer_window, a->num_hidden_layers);
    for (size_t i = 0; a->experts && i < AQ_COUNT(experts); i++) {
        aq_buf_addf(line, " %s=", experts[i].key);
        add_value(line, a, &experts[i]);
    }
    if (a->experts && a->moe_split) /* files of before it was there keep their digests */
        aq_buf_adds(line, " moe_split=1");
    add_layers(line, "layer_sparse", a->layer_sparse, a->num_hidden_layers);
    aq_buf_addc(line, '\n');
}
