#include "export/gguf_model.h"

#include "base/mem.h"
#include "base/msg.h"
#include "export/gguf_vocab.h"
#include "model/family.h"
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- architectures ---- */

enum {
    ALTERNATES = 1 << 0,  /* rows of q and k alternate between a head's halves */
    LLAMA_KEYS = 1 << 1,  /* vocab_size and rope.dimension_count */
    FREQUENCIES = 1 << 2, /* loads rope_freqs: Llama 3's rotation */
    PARTIAL = 1 << 3,     /* a part of a head rotates; loads short and long factors */
    SECTIONS = 1 << 4,    /* rotation by three positions, for a vision tower */
    SCALES = 1 << 5,      /* multipliers of attention, embedding, residual and logits */
    PLAIN_HEADS = 1 << 6, /* heads x head_dim must be hidden_size */
    ATTN_CAP = 1 << 7,
    LOGIT_CAP = 1 << 8,
    TWO_ROPES = 1 << 9,  /* layers with a window rotate at their own frequency */
    TIED = 1 << 10,      /* has no head of its own */
    UNTIED = 1 << 11,    /* must have one */
    NO_ROPE_4 = 1 << 12, /* every fourth layer does not rotate */
    EXPERTS = 1 << 13,   /* in every layer */
    SUM_FREE = 1 << 14,  /* weights of a token's experts are as they are; else they add up to 1 */
    MOE_SIZE = 1 << 15,  /* has a key for what is between gate and down of an expert */
    UNGROUPED = 1 << 16, /* norms of q and k are over whole rows, both of hidden_size */
};

static const struct architecture {
    const char *family, *name; /* the first of a family is taken where none is given */
    unsigned flags;
    unsigned biases;        /* enum arch_bias: those that are loaded */
    int window_period;      /* all layers but every n-th have the window; 0: windows are ignored */
    int64_t wide_attention; /* with as many layers attention is scaled by hidden_size / heads */
} architectures[] = {
    {"qwen3", "qwen3", 0, 0, 0, 0},
    {"qwen3", "qwen3vl", SECTIONS, 0, 0, 0},
    {"llama", "llama", ALTERNATES | LLAMA_KEYS | FREQUENCIES, BIAS_QKV | BIAS_O | BIAS_MLP, 0, 0},
    {"mistral", "llama", ALTERNATES | LLAMA_KEYS | FREQUENCIES, 0, 0, 0},
    {"qwen3_moe", "qwen3moe", EXPERTS | MOE_SIZE, 0, 0, 0},
    {"qwen3_vl_moe", "qwen3moe", EXPERTS | MOE_SIZE, 0, 0, 0},
    {"qwen3_vl_moe", "qwen3vlmoe", EXPERTS | MOE_SIZE | SECTIONS, 0, 0, 0},
    {"mixtral", "llama", ALTERNATES | LLAMA_KEYS | FREQUENCIES | EXPERTS, 0, 0, 0},
    {"olmoe", "olmoe", PLAIN_HEADS | UNTIED | EXPERTS | SUM_FREE | UNGROUPED, 0, 0, 0},
    {"qwen2", "qwen2", PLAIN_HEADS, BIAS_QKV, 0, 0},
    {"smollm3", "smollm3", ALTERNATES | LLAMA_KEYS | NO_ROPE_4, 0, 0, 0},
    {"phi3", "phi3", PLAIN_HEADS | PARTIAL, 0, 0, 0},
    {"granite", "granite", ALTERNATES | LLAMA_KEYS | FREQUENCIES | SCALES,
     BIAS_QKV | BIAS_O | BIAS_MLP, 0, 0},
    {"olmo2", "olmo2", PLAIN_HEADS | UNTIED, 0, 0, 0},
    {"gemma2", "gemma2", ATTN_CAP | LOGIT_CAP | TIED, 0, 2, 46},
    {"gemma3", "gemma3", LOGIT_CAP | TWO_ROPES, 0, 6, 62},
};

static const struct architecture *find_architecture(const char *family, const char *name)
{
    for (size_t i = 0; i < AQ_COUNT(architectures); i++)
        if (strcmp(architectures[i].family, family) == 0 &&
            (!name || strcmp(architectures[i].name, name) == 0))
            return &architectures[i];
    return NULL;
}

const char *gguf_arch(const struct lm *lm, const char *given, struct aq_err *err)
{
    const char *family = lm->arch.family->name;
    const struct architecture *own = find_architecture(family, NULL);
    const struct architecture *found = own ? find_architecture(family, given) : NULL;
    if (!own)
        aq_err_set(err, AQ_EINPUT, "models of family '%s' are not written as GGUF", family);
    else if (!found)
        aq_err_set(err, AQ_EUSAGE, "--arch %s does not fit a model of family '%s'", aq_show(given),
                   family);
    return found ? found->name : NULL;
}

/* ---- names ---- */

static const struct {
    const char *ours, *theirs;
} names[] = {
    {"embed_tokens.weight", "token_embd.weight"},
    {"norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

static const char *const roles[MODEL_ROLES] = {
    [ROLE_Q] = "attn_q",
    [ROLE_K] = "attn_k",
    [ROLE_V] = "attn_v",
    [ROLE_O] = "attn_output",
    [ROLE_GATE] = "ffn_gate",
    [ROLE_UP] = "ffn_up",
    [ROLE_DOWN] = "ffn_down",
    [ROLE_QKV] = "attn_qkv",
    [ROLE_GATE_UP] = "ffn_up", /* rows of gate, then up: as llama.cpp splits them too */
    [ROLE_ATTN_NORM] = "attn_norm",
    [ROLE_MLP_NORM] = "ffn_norm",
    [ROLE_ATTN_POST_NORM] = "post_attention_norm",
    [ROLE_MLP_POST_NORM] = "post_ffw_norm",
    [ROLE_Q_NORM] = "attn_q_norm",
    [ROLE_K_NORM] = "attn_k_norm",
    [ROLE_ROUTER] = "ffn_gate_inp",
    [ROLE_EXPERT_GATE] = "ffn_gate_exps", /* of all experts in one tensor, (experts, out, in) */
    [ROLE_EXPERT_UP] = "ffn_up_exps",
    [ROLE_EXPERT_DOWN] = "ffn_down_exps",
};

/* What comes after "layers.N.", and the length of "N"; NULL: another name. */
static const char *in_layer(const char *name, const char **number, size_t *digits)
{
    if (strncmp(name, "layers.", 7) != 0)
        return NULL;
    *number = name + 7;
    *digits = strspn(*number, "0123456789");
    return *digits && (*number)[*digits] == '.' ? *number + *digits + 1 : NULL;
}

static const struct model_tensor *find_tensor(const struct model_family *f, const char *name)
{
    for (int i = 0; i < f->tensor_count; i++)
        if (strcmp(f->tensors[i].name, name) == 0)
            return &f->tensors[i];
    return NULL;
}

int64_t gguf_feed_forward(const struct lm_arch *a, const char *arch)
{
    const struct architecture *x = find_architecture(a->family->name, arch);
    bool own = x && (x->flags & EXPERTS) && !(x->flags & MOE_SIZE);
    return own || a->intermediate_size == 0 ? a->moe_intermediate_size : a->intermediate_size;
}

int gguf_tensor_name(const struct lm_arch *a, const char *arch, const char *name,
                     struct aq_buf *out, struct gguf_form *form, struct aq_err *err)
{
    const struct architecture *x = find_architecture(a->family->name, arch);
    struct gguf_form own = {0, 0};
    const char *number;
    size_t digits;
    const char *rest = in_layer(name, &number, &digits);
    const struct model_tensor *t = rest ? find_tensor(a->family, rest) : NULL;
    aq_buf_reset(out);
    for (size_t i = 0; !rest && i < AQ_COUNT(names); i++)
        if (strcmp(name, names[i].ours) == 0)
            aq_buf_adds(out, names[i].theirs);
    if (t && roles[t->role])
        aq_buf_addf(out, "blk.%.*s.%s%s", (int)digits, number, roles[t->role], strrchr(rest, '.'));
    if (x && (x->flags & ALTERNATES) && t && (t->role == ROLE_Q || t->role == ROLE_K))
        own.heads = t->role == ROLE_Q ? a->num_attention_heads : a->num_key_value_heads;
    if (a->norm_one_plus && ((t && t->group < 0 && !t->bias) || strcmp(name, "norm.weight") == 0))
        own.plus = 1;
    if (form)
        *form = own;
    return out->len ? 0
                    : aq_err_set(err, AQ_EINPUT, "tensor '%s' has no name in GGUF", aq_show(name));
}

int64_t gguf_source_row(int64_t r, int64_t rows, int64_t heads)
{
    int64_t d = rows / heads, head = r / d, i = r % d; /* (half, 2) there, (2, half) here */
    return head * d + i % 2 * (d / 2) + i / 2;
}

/* ---- what an architecture computes in one way only ---- */

/* Where llama.cpp would compute something else, it has no key to say so. */
static int cannot(const struct architecture *x, struct aq_err *err, const char *what)
{
    return aq_err_set(err, AQ_EINPUT, "llama.cpp's architecture '%s' has no way to say: %s",
                      x->name, what);
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-6 * fabs(b);
}

static double usual_scale(const struct lm_arch *a, const struct architecture *x)
{
    bool wide = x->wide_attention && a->num_hidden_layers == x->wide_attention;
    int64_t n = wide ? a->hidden_size / a->num_attention_heads : a->head_dim;
    return 1 / sqrt((double)n);
}

static bool windowed(const struct lm_arch *a, int64_t layer)
{
    return a->layer_window && a->layer_window[layer];
}

static int check_layers(const struct lm_arch *a, const struct architecture *x, struct aq_err *err)
{
    for (int64_t i = 0; i < a->num_hidden_layers; i++) {
        int rope = a->layer_rope ? a->layer_rope[i] : 0;
        int usual = x->flags & NO_ROPE_4   ? ((i + 1) % 4 == 0 ? -1 : 0)
                    : x->flags & TWO_ROPES ? (windowed(a, i) ? 1 : 0)
                                           : 0;
        if (rope != usual)
            return cannot(x, err, "which layers rotate, and how");
    }
    return 0;
}

static int check_rope(const struct lm_arch *a, const struct architecture *x, struct aq_err *err)
{
    const struct arch_rope *r = &a->rope[0];
    if (a->rope_count == 2 && a->rope[1].type != ROPE_DEFAULT)
        return cannot(x, err, "a scaled rotation in the layers that have a window");
    if (!(x->flags & PARTIAL) && a->rotary_dim != a->head_dim)
        return cannot(x, err, "a rotation of a part of each head");
    switch (r->type) {
    case ROPE_LLAMA3:
        return x->flags & FREQUENCIES ? 0 : cannot(x, err, "rope of type 'llama3'");
    case ROPE_LONGROPE:
        return x->flags & PARTIAL ? 0 : cannot(x, err, "rope of type 'longrope'");
    case ROPE_YARN:
        if (r->no_truncate || !near(r->attention_factor, 0.1 * log(r->factor) + 1))
            return cannot(x, err, "YaRN with mscale, attention_factor or truncate of its own");
        return 0;
    case ROPE_DYNAMIC:
        return cannot(x, err, "rope of type 'dynamic'");
    default:
        return 0;
    }
}

static int check_experts(const struct lm_arch *a, const struct architecture *x, struct aq_err *err)
{
    if (!(x->flags & EXPERTS))
        return 0;
    for (int64_t i = 0; i < a->num_hidden_layers; i++)
        if (!arch_sparse(a, i))
            return cannot(x, err, "layers without experts");
    if (a->experts == 1)
        return cannot(x, err, "a single expert");
    if (a->norm_topk == ((x->flags & SUM_FREE) != 0))
        return cannot(x, err,
                      a->norm_topk ? "weights of a token's experts that add up to 1"
                                   : "weights of a token's experts that do not add up to 1");
    return 0;
}

static int check_model(const struct lm_arch *a, const struct architecture *x, struct aq_err *err)
{
    if (a->bias & ~x->biases)
        return cannot(x, err, "biases of these linears");
    if ((x->flags & PLAIN_HEADS) && a->num_attention_heads * a->head_dim != a->hidden_size)
        return cannot(x, err, "a head_dim that is not hidden_size / num_attention_heads");
    if ((x->flags & UNGROUPED) && a->num_attention_heads != a->num_key_value_heads)
        return cannot(x, err, "fewer heads of keys than of queries");
    if (check_experts(a, x, err) < 0)
        return -1;
    if (!(x->flags & SCALES) && !near(a->attn_scale, usual_scale(a, x)))
        return cannot(x, err, "attention scaled otherwise than by the root of the head's size");
    if ((x->flags & ATTN_CAP) && (a->attn_cap == 0 || a->logit_cap == 0))
        return cannot(x, err, "attention and logits without a cap");
    if ((x->flags & TIED) && !a->tie_word_embeddings)
        return cannot(x, err, "a head of its own");
    if ((x->flags & UNTIED) && a->tie_word_embeddings)
        return cannot(x, err, "a head that is the embedding");
    return check_layers(a, x, err) < 0 ? -1 : check_rope(a, x, err);
}

/* ---- hyperparameters ---- */

/* Keys "<architecture>.<key>" of one file. */
struct keys {
    struct gguf_writer *w;
    const char *arch;
};

static void add_u32(const struct keys *k, const char *key, int64_t value)
{
    char *name = xasprintf("%s.%s", k->arch, key);
    gguf_add_u32(k->w, name, (uint32_t)value);
    free(name);
}

static void add_f32(const struct keys *k, const char *key, double value)
{
    char *name = xasprintf("%s.%s", k->arch, key);
    gguf_add_f32(k->w, name, (float)value);
    free(name);
}

static void add_string(const struct keys *k, const char *key, const char *value)
{
    char *name = xasprintf("%s.%s", k->arch, key);
    gguf_add_string(k->w, name, value);
    free(name);
}

const struct json *gguf_text_value(const struct json *config, const char *key)
{
    const struct json *text = json_find(config, "text_config"), *v = json_find(text, key);
    return v ? v : json_find(config, key);
}

static const struct json *rope_values(const struct json *config)
{
    const struct json *rope = gguf_text_value(config, "rope_scaling");
    return rope && json_type(rope) == JSON_OBJECT ? rope
                                                  : gguf_text_value(config, "rope_parameters");
}

/* What a vision tower needs to know of the language model. */
static int add_sections(const struct keys *k, const struct json *config, struct aq_err *err)
{
    const struct json *deep =
        json_find(json_find(config, "vision_config"), "deepstack_visual_indexes");
    int32_t values[4] = {0};
    size_t n = 0;
    for (const struct json *v = json_find_first(rope_values(config), "mrope_section"); v && n < 3;
         v = json_next(v)) {
        int64_t x;
        if (json_type(v) == JSON_INT && json_int(v, &x) && x >= 0 && x < 1 << 20)
            values[n++] = (int32_t)x;
    }
    if (n != 3 || !deep || json_type(deep) != JSON_ARRAY)
        return aq_err_set(err, AQ_EINPUT,
                          "config.json lacks mrope_section or deepstack_visual_indexes, which "
                          "architecture %s needs",
                          k->arch);
    char *name = xasprintf("%s.rope.dimension_sections", k->arch);
    gguf_add_i32s(k->w, name, values, 4);
    free(name);
    add_u32(k, "n_deepstack_layers", (int64_t)json_size(deep));
    return 0;
}

/* Windows, where the architecture has them; said aloud where it attends to everything. */
static void add_windows(const struct keys *k, const struct lm_arch *a, const struct architecture *x,
                        int64_t context)
{
    bool *window = xcalloc((size_t)a->num_hidden_layers, sizeof *window);
    bool usual = true, any = false;
    for (int64_t i = 0; i < a->num_hidden_layers; i++) {
        window[i] = windowed(a, i);
        any |= window[i];
        usual &= x->window_period && window[i] == (i % x->window_period < x->window_period - 1);
    }
    if (x->window_period ? a->window != 0 : (x->flags & PARTIAL) != 0)
        add_u32(k, "attention.sliding_window", a->window);
    if (x->window_period && !usual) {
        char *name = xasprintf("%s.attention.sliding_window_pattern", k->arch);
        gguf_add_bools(k->w, name, window, (size_t)a->num_hidden_layers);
        free(name);
    }
    if (!x->window_period && any && a->window < context)
        aq_warn("llama.cpp's architecture '%s' attends to all tokens, this model's layers to %lld: "
                "longer texts give other results",
                x->name, (long long)a->window);
    free(window);
}

static void add_scaling(const struct keys *k, const struct arch_rope *r)
{
    bool yarn = r->type == ROPE_YARN;
    if (r->type != ROPE_LINEAR && !yarn)
        return;
    add_string(k, "rope.scaling.type", yarn ? "yarn" : "linear");
    add_f32(k, "rope.scaling.factor", r->factor);
    if (yarn) {
        add_u32(k, "rope.scaling.original_context_length", r->original_max);
        add_f32(k, "rope.scaling.yarn_beta_fast", r->beta_fast);
        add_f32(k, "rope.scaling.yarn_beta_slow", r->beta_slow);
    }
}

static void add_multipliers(const struct keys *k, const struct lm_arch *a)
{
    add_f32(k, "attention.scale", a->attn_scale);
    add_f32(k, "embedding_scale", a->embed_scale);
    add_f32(k, "residual_scale", a->residual_scale);
    add_f32(k, "logit_scale", a->logit_div);
}

static int add_arch_keys(const struct keys *k, const struct lm_arch *a,
                         const struct architecture *x, const struct json *config,
                         struct aq_err *err)
{
    const struct json *v = gguf_text_value(config, "max_position_embeddings");
    const struct arch_rope *rope = &a->rope[0];
    int64_t context;
    if (!v || json_type(v) != JSON_INT || !json_int(v, &context) || context < 1 ||
        context > INT32_MAX)
        return aq_err_set(err, AQ_EINPUT, "config.json: max_position_embeddings is missing");
    add_u32(k, "block_count", a->num_hidden_layers);
    add_u32(k, "context_length", context);
    add_u32(k, "embedding_length", a->hidden_size);
    add_u32(k, "feed_forward_length", gguf_feed_forward(a, k->arch));
    if (x->flags & EXPERTS) {
        add_u32(k, "expert_count", a->experts);
        add_u32(k, "expert_used_count", a->experts_per_token);
    }
    if (x->flags & MOE_SIZE)
        add_u32(k, "expert_feed_forward_length", a->moe_intermediate_size);
    add_u32(k, "attention.head_count", a->num_attention_heads);
    add_u32(k, "attention.head_count_kv", a->num_key_value_heads);
    add_u32(k, "attention.key_length", a->head_dim);
    add_u32(k, "attention.value_length", a->head_dim);
    add_f32(k, "attention.layer_norm_rms_epsilon", a->rms_norm_eps);
    add_f32(k, "rope.freq_base", rope->theta);
    if (a->rope_count == 2)
        add_f32(k, "rope.freq_base_swa", a->rope[1].theta);
    add_scaling(k, rope);
    if (x->flags & LLAMA_KEYS)
        add_u32(k, "vocab_size", a->vocab_size);
    if (x->flags & (LLAMA_KEYS | PARTIAL))
        add_u32(k, "rope.dimension_count", a->rotary_dim);
    if (x->flags & PARTIAL)
        add_u32(k, "rope.scaling.original_context_length",
                rope->original_max ? rope->original_max : context);
    if (rope->type == ROPE_LONGROPE)
        add_f32(k, "rope.scaling.attn_factor", rope->attention_factor);
    if (x->flags & SCALES)
        add_multipliers(k, a);
    if (x->flags & ATTN_CAP)
        add_f32(k, "attn_logit_softcapping", a->attn_cap);
    if ((x->flags & LOGIT_CAP) && a->logit_cap > 0)
        add_f32(k, "final_logit_softcapping", a->logit_cap);
    add_windows(k, a, x, context);
    return x->flags & SECTIONS ? add_sections(k, config, err) : 0;
}

/* ---- tensors of the rotation ---- */

static int read_factors(const struct json *config, const char *key, uint64_t count, float *out,
                        struct aq_err *err)
{
    const struct json *v = json_find_first(rope_values(config), key);
    uint64_t n = 0;
    for (; v && n < count; v = json_next(v)) {
        bool number = json_type(v) == JSON_INT || json_type(v) == JSON_FLOAT;
        if (!number || !(json_number(v) > 0))
            break;
        out[n++] = (float)json_number(v);
    }
    if (v || n != count)
        return aq_err_set(err, AQ_EINPUT, "config.json: %s is not a list of %llu positive numbers",
                          key, (unsigned long long)count);
    return 0;
}

/* By how much each frequency is divided. */
static void llama3_factors(const struct lm_arch *a, float *out)
{
    struct arch_rope plain = {.theta = a->rope[0].theta, .attention_factor = 1};
    float *scaled = xcalloc((size_t)a->rotary_dim, sizeof *scaled);
    float unused;
    rope_table(a, &plain, out, &unused);
    rope_table(a, &a->rope[0], scaled, &unused);
    for (int64_t i = 0; i < a->rotary_dim / 2; i++)
        out[i] /= scaled[i];
    free(scaled);
}

static int add_extras(const struct lm_arch *a, const struct json *config,
                      struct gguf_extra extras[GGUF_EXTRAS], size_t *count, struct aq_err *err)
{
    static const struct {
        const char *key, *name;
    } factors[] = {{"long_factor", "rope_factors_long.weight"},
                   {"short_factor", "rope_factors_short.weight"}};
    uint64_t n = (uint64_t)a->rotary_dim / 2;
    int r = 0;
    *count = 0;
    if (a->rope[0].type == ROPE_LLAMA3) {
        extras[0] = (struct gguf_extra){"rope_freqs.weight", xcalloc(n, sizeof(float)), n};
        llama3_factors(a, extras[0].values);
        *count = 1;
    }
    for (size_t i = 0; a->rope[0].type == ROPE_LONGROPE && i < AQ_COUNT(factors) && r == 0; i++) {
        extras[i] = (struct gguf_extra){factors[i].name, xcalloc(n, sizeof(float)), n};
        *count = i + 1;
        r = read_factors(config, factors[i].key, n, extras[i].values, err);
    }
    return r;
}

/* ---- all ---- */

int gguf_add_keys(const struct export_plan *p, struct gguf_writer *w,
                  struct gguf_extra extras[GGUF_EXTRAS], size_t *extra_count, struct aq_err *err)
{
    const struct lm_arch *a = &p->lm.arch;
    const struct architecture *x = find_architecture(a->family->name, p->arch);
    struct keys k = {w, p->arch};
    char *path = aq_path_join(p->lm.root, "config.json");
    struct json *config = json_read(path, err);
    int r = config ? check_model(a, x, err) : -1;
    *extra_count = 0;
    free(path);
    if (r == 0) {
        gguf_add_string(w, "general.architecture", p->arch);
        gguf_add_string(w, "general.type", "model");
        gguf_add_string(w, "general.name",
                        p->manifest.model_name ? p->manifest.model_name : "model");
        gguf_add_u32(w, "general.quantization_version", 2);
        r = add_arch_keys(&k, a, x, config, err);
    }
    if (r == 0)
        r = gguf_add_vocabulary(p, w, config, err);
    if (r == 0)
        r = add_extras(a, config, extras, extra_count, err);
    json_free(config);
    return r;
}
