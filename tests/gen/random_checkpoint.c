/*
 * Writes a checkpoint with random weights in the layout of Qwen3, Qwen3-VL or Qwen3-MoE:
 * config.json and one or more safetensors files. The bytes follow from the options alone; a
 * tensor's values depend on the seed and its name, not on how the files are cut.
 */
#include "base/hash.h"
#include "base/mem.h"
#include "base/opt.h"
#include "base/pool.h"
#include "io/safetensors.h"
#include "model/family.h"
#include "model/lm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    const char *name;
    struct lm_arch arch;
    int64_t vision_depth, vision_hidden, vision_intermediate;
};

#define SHAPE(hidden, ff, layers, heads, kv, dim, vocab, tied)                                     \
    {                                                                                              \
        .hidden_size = (hidden), .intermediate_size = (ff), .num_hidden_layers = (layers),         \
        .num_attention_heads = (heads), .num_key_value_heads = (kv), .head_dim = (dim),            \
        .vocab_size = (vocab), .rope_theta = 5e6, .rms_norm_eps = 1e-6,                            \
        .tie_word_embeddings = (tied)                                                              \
    }

/* Published sizes; theta is the VL models'. The tiny one has every code path and is quick. */
static const struct shape presets[] = {
    {"tiny", SHAPE(64, 128, 2, 4, 2, 32, 512, true), 2, 32, 64},
    {"2b", SHAPE(2048, 6144, 28, 16, 8, 128, 151936, true), 24, 1024, 4096},
    {"4b", SHAPE(2560, 9728, 36, 32, 8, 128, 151936, true), 24, 1024, 4096},
    {"8b", SHAPE(4096, 12288, 36, 32, 8, 128, 151936, false), 27, 1152, 4304},
    {"32b", SHAPE(5120, 25600, 64, 64, 8, 128, 151936, false), 27, 1152, 4304},
    {"30b-a3b", SHAPE(2048, 6144, 48, 32, 4, 128, 151936, false), 0, 0, 0},
};

/* Of kind qwen3_moe, unless the options say otherwise. */
enum { EXPERTS = 128, PER_TOKEN = 8, MOE_INTERMEDIATE = 768 };

struct options {
    const char *preset, *kind, *dtype, *tied, *prefix;
    struct aq_names zeros, signs; /* parts of names */
    int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, vision_depth;
    int64_t experts, per_token, moe_intermediate;
    int64_t shards, seed;
    double theta, scale;
    bool sparse, copy_head, config_only;
};

/* One tensor to come: rank up to 5 for the patch embedding. */
struct tensor {
    char *name;
    int rank;
    uint64_t shape[ST_MAX_RANK], bytes;
    int handle;
};

struct plan {
    const struct options *o;
    struct shape s;
    enum st_dtype dtype;
    struct aq_pool *pool;
    struct aq_arena strings;
    struct tensor *items;
    size_t count, cap;
};

/* ---- what a checkpoint holds ---- */

static void add(struct plan *p, char *name, int rank, const uint64_t *shape)
{
    AQ_GROW(p->items, p->count, p->cap);
    struct tensor *t = &p->items[p->count++];
    *t = (struct tensor){.name = name, .rank = rank, .bytes = st_dtype_bits(p->dtype) / 8};
    for (int i = 0; i < rank; i++) {
        t->shape[i] = shape[i];
        t->bytes *= shape[i];
    }
}

static void add_vision(struct plan *p, const char *prefix, const char *module, uint64_t out,
                       uint64_t in)
{
    add(p, xasprintf("%s%s.weight", prefix, module), in ? 2 : 1, (uint64_t[]){out, in});
    add(p, xasprintf("%s%s.bias", prefix, module), 1, (uint64_t[]){out});
}

static void plan_vision(struct plan *p)
{
    const char *v = "model.visual.";
    uint64_t d = (uint64_t)p->s.vision_hidden, f = (uint64_t)p->s.vision_intermediate;
    add(p, xasprintf("%spatch_embed.proj.weight", v), 5, (uint64_t[]){d, 3, 2, 16, 16});
    add(p, xasprintf("%spatch_embed.proj.bias", v), 1, &d);
    add(p, xasprintf("%spos_embed.weight", v), 2, (uint64_t[]){2304, d});
    for (int64_t i = 0; i < p->s.vision_depth; i++) {
        char *block = xasprintf("%sblocks.%d.", v, (int)i);
        add_vision(p, block, "norm1", d, 0);
        add_vision(p, block, "norm2", d, 0);
        add_vision(p, block, "attn.qkv", 3 * d, d);
        add_vision(p, block, "attn.proj", d, d);
        add_vision(p, block, "mlp.linear_fc1", f, d);
        add_vision(p, block, "mlp.linear_fc2", d, f);
        free(block);
    }
    for (int k = -1; k < 3; k++) {
        char *m =
            k < 0 ? xasprintf("%smerger.", v) : xasprintf("%sdeepstack_merger_list.%d.", v, k);
        add_vision(p, m, "norm", k < 0 ? d : 4 * d, 0);
        add_vision(p, m, "linear_fc1", 4 * d, 4 * d);
        add_vision(p, m, "linear_fc2", (uint64_t)p->s.arch.hidden_size, 4 * d);
        free(m);
    }
}

static void plan_language(struct plan *p, const char *prefix)
{
    struct lm_arch arch = p->s.arch;
    struct aq_buf name = AQ_BUF_INIT;
    if (p->o->copy_head)
        arch.tie_word_embeddings = false; /* a tied checkpoint that repeats its head */
    size_t n;
    struct model_place *places = model_layout(&arch, &n);
    for (size_t i = 0; i < n; i++) {
        uint64_t shape[MODEL_RANK];
        int rank;
        model_place_describe(&places[i], &arch, &name, &rank, shape);
        bool head = strcmp(aq_buf_str(&name), "lm_head.weight") == 0;
        add(p, xasprintf("%s%s", head ? "" : prefix, aq_buf_str(&name)), rank, shape);
    }
    free(places);
    aq_buf_release(&name);
}

/* ---- values ---- */

#define STEP UINT64_C(0x9e3779b97f4a7c15)

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += STEP; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Sum of four uniform 16-bit numbers: close to normal, and the same bits on every machine. */
static float normal(uint64_t *state)
{
    uint64_t r = next_random(state);
    int64_t sum = (int64_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));
    return (float)(sum - 2 * 65535) / 37837.2F; /* 65536 x sqrt(4 / 12) */
}

/*
 * fp16 of an fp32 pattern, to nearest even; in integers because clang 14 has no _Float16 here.
 * Weights are finite and far below 65504.
 */
static uint16_t to_half(uint32_t bits)
{
    uint32_t sign = bits >> 16 & 0x8000, mantissa = (bits & 0x7fffff) | 0x800000;
    int exponent = (int)(bits >> 23 & 0xff) - 127;
    int drop = exponent >= -14 ? 13 : -1 - exponent; /* below 2^-14 the grid stops shrinking */
    if (drop > 24)
        return (uint16_t)sign;
    uint32_t half = mantissa >> drop, rest = mantissa & ((1U << drop) - 1), tie = 1U << (drop - 1);
    half += rest > tie || (rest == tie && (half & 1));
    /* the leading bit of a normal number, carries included, adds one to the exponent's field */
    return (uint16_t)(sign + half + (exponent >= -14 ? (uint32_t)(exponent + 14) << 10 : 0));
}

static void store(unsigned char *to, enum st_dtype dtype, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (dtype == ST_F32) {
        memcpy(to, &bits, 4);
    } else if (dtype == ST_BF16) {
        bits += 0x7fff + (bits >> 16 & 1);
        to[0] = (unsigned char)(bits >> 16);
        to[1] = (unsigned char)(bits >> 24);
    } else {
        uint16_t half = to_half(bits);
        to[0] = (unsigned char)half;
        to[1] = (unsigned char)(half >> 8);
    }
}

static bool named(const struct aq_names *parts, const struct tensor *t)
{
    for (size_t i = 0; i < parts->count; i++)
        if (strstr(t->name, parts->items[i]))
            return true;
    return false;
}

enum { BLOCK = 1 << 20, BLOCKS = 64 }; /* bytes; made together */

struct filling {
    const struct plan *p;
    const struct tensor *t;
    unsigned char *to; /* of element `first` */
    uint64_t seed, first, bytes;
};

/* A block of values. The state of splitmix64 counts, so that any element can be the next. */
static void fill_unit(void *arg, int64_t unit, int worker)
{
    const struct filling *j = arg;
    const struct plan *p = j->p;
    const struct tensor *t = j->t;
    size_t size = st_dtype_bits(p->dtype) / 8, n = strlen(t->name);
    bool norm = t->rank == 1 && n > 7 && strcmp(t->name + n - 7, ".weight") == 0;
    bool zero = named(&p->o->zeros, t), sign = named(&p->o->signs, t);
    float scale = norm ? 0.1F : (float)p->o->scale, centre = norm ? 1 : 0;
    uint64_t from = (uint64_t)unit * BLOCK;
    uint64_t to = j->bytes - from < BLOCK ? j->bytes : from + BLOCK;
    uint64_t state = j->seed + (j->first + from / size) * STEP;
    (void)worker;
    for (uint64_t i = from; i < to; i += size) {
        float x = normal(&state);
        store(j->to + i, p->dtype, zero ? 0 : sign ? copysignf(0x1p-5F, x) : centre + scale * x);
    }
}

static int write_values(const struct plan *p, struct st_writer *w, const struct tensor *t,
                        struct aq_err *err)
{
    uint64_t start = AQ_HASH_START ^ (uint64_t)p->o->seed * STEP, most = (uint64_t)BLOCK * BLOCKS;
    struct filling j = {.p = p, .t = t, .seed = aq_hash(start, t->name, strlen(t->name))};
    int r = 0;
    j.to = xmalloc(t->bytes < most ? t->bytes : most);
    for (uint64_t at = 0; at < t->bytes && r == 0; at += j.bytes) {
        j.bytes = t->bytes - at < most ? t->bytes - at : most;
        j.first = at / (st_dtype_bits(p->dtype) / 8);
        aq_pool_run(p->pool, aq_div_up((int64_t)j.bytes, BLOCK), fill_unit, &j);
        r = st_write(w, t->handle, at, j.to, j.bytes, err);
    }
    free(j.to);
    return r;
}

/* ---- files ---- */

static int write_shard(const struct plan *p, const char *path, size_t from, size_t to,
                       struct aq_err *err)
{
    struct st_writer *w = st_writer_new();
    struct json *meta = json_new_object();
    json_add_string(meta, "format", "pt");
    st_writer_metadata(w, meta);
    for (size_t i = from; i < to; i++)
        p->items[i].handle =
            st_declare(w, p->items[i].name, p->dtype, p->items[i].rank, p->items[i].shape);
    int r = st_begin(w, path, err);
    for (size_t i = from; i < to && r == 0 && !p->o->sparse; i++)
        r = write_values(p, w, &p->items[i], err);
    if (r == 0)
        r = st_commit(w, err);
    st_writer_free(w);
    return r;
}

static int write_weights(const struct plan *p, const char *dir, struct aq_err *err)
{
    uint64_t total = 0, done = 0;
    size_t from = 0;
    int64_t shards = p->o->shards;
    struct json *index = json_new_object();
    int r = 0;
    for (size_t i = 0; i < p->count; i++)
        total += p->items[i].bytes;
    json_add_int(json_add_object(index, "metadata"), "total_size", (int64_t)total);
    struct json *map = json_add_object(index, "weight_map");
    for (int64_t s = 1; s <= shards && r == 0; s++) {
        char *name = shards == 1 ? xstrdup("model.safetensors")
                                 : xasprintf("model-%05d-of-%05d.safetensors", (int)s, (int)shards);
        size_t to = from;
        while (to < p->count && (s == shards || done < total / (uint64_t)shards * (uint64_t)s)) {
            done += p->items[to].bytes;
            json_add_string(map, p->items[to++].name, name);
        }
        char *path = aq_path_join(dir, name);
        r = write_shard(p, path, from, to, err);
        free(path);
        free(name);
        from = to;
    }
    if (r == 0 && shards > 1) {
        char *path = aq_path_join(dir, "model.safetensors.index.json");
        r = json_write_file(path, index, err);
        free(path);
    }
    json_free(index);
    return r;
}

static void add_text_config(struct json *c, const struct plan *p, const char *type)
{
    const struct lm_arch *a = &p->s.arch;
    json_add_string(c, "model_type", type);
    json_add_int(c, "hidden_size", a->hidden_size);
    json_add_int(c, "intermediate_size", a->intermediate_size);
    json_add_int(c, "num_hidden_layers", a->num_hidden_layers);
    json_add_int(c, "num_attention_heads", a->num_attention_heads);
    json_add_int(c, "num_key_value_heads", a->num_key_value_heads);
    json_add_int(c, "head_dim", a->head_dim);
    json_add_int(c, "vocab_size", a->vocab_size);
    json_add_string(c, "hidden_act", "silu");
    if (a->experts) {
        json_add_int(c, "num_experts", a->experts);
        json_add_int(c, "num_experts_per_tok", a->experts_per_token);
        json_add_int(c, "moe_intermediate_size", a->moe_intermediate_size);
        json_add_bool(c, "norm_topk_prob", true);
    }
    json_add_double(c, "rms_norm_eps", a->rms_norm_eps);
    json_add_int(c, "rope_theta", (int64_t)a->rope_theta);
    json_add_bool(c, "attention_bias", false);
    json_add_int(c, "max_position_embeddings", 4096);
    json_add_bool(c, "tie_word_embeddings", a->tie_word_embeddings);
    json_add_string(c, "dtype",
                    p->dtype == ST_BF16  ? "bfloat16"
                    : p->dtype == ST_F16 ? "float16"
                                         : "float32");
}

static void add_vision_config(struct json *c, const struct plan *p)
{
    struct json *v = json_add_object(c, "vision_config");
    json_add_string(v, "model_type", "qwen3_vl");
    json_add_int(v, "depth", p->s.vision_depth);
    json_add_int(v, "hidden_size", p->s.vision_hidden);
    json_add_int(v, "intermediate_size", p->s.vision_intermediate);
    json_add_int(v, "num_heads", 16);
    json_add_int(v, "num_position_embeddings", 2304);
    json_add_int(v, "out_hidden_size", p->s.arch.hidden_size);
    json_add_int(v, "patch_size", 16);
    json_add_int(v, "spatial_merge_size", 2);
    json_add_int(v, "temporal_patch_size", 2);
    struct json *deep = json_add_array(v, "deepstack_visual_indexes");
    for (int64_t k = 0; k < 3; k++)
        json_push(deep, json_new_int(k * p->s.vision_depth / 3));
}

static int write_config(const struct plan *p, const char *dir, struct aq_err *err)
{
    bool vl = strcmp(p->o->kind, "qwen3_vl") == 0;
    struct json *c = json_new_object();
    json_push(json_add_array(c, "architectures"),
              json_new_string(vl                  ? "Qwen3VLForConditionalGeneration"
                              : p->s.arch.experts ? "Qwen3MoeForCausalLM"
                                                  : "Qwen3ForCausalLM"));
    if (vl) {
        json_add_string(c, "model_type", "qwen3_vl");
        json_add_bool(c, "tie_word_embeddings", p->s.arch.tie_word_embeddings);
        struct json *t = json_add_object(c, "text_config");
        add_text_config(t, p, "qwen3_vl_text");
        struct json *rope = json_add_object(t, "rope_scaling");
        json_add_string(rope, "rope_type", "default");
        json_add_bool(rope, "mrope_interleaved", true);
        struct json *sections = json_add_array(rope, "mrope_section");
        int64_t half = p->s.arch.head_dim / 2, side = half * 5 / 16;
        json_push(sections, json_new_int(half - 2 * side));
        json_push(sections, json_new_int(side));
        json_push(sections, json_new_int(side));
        add_vision_config(c, p);
    } else {
        add_text_config(c, p, p->o->kind);
    }
    char *path = aq_path_join(dir, "config.json");
    int r = json_write_file(path, c, err);
    free(path);
    json_free(c);
    return r;
}

/* ---- command line ---- */

static void choose_size(struct plan *p)
{
    const struct options *o = p->o;
    for (size_t i = 0; i < AQ_COUNT(presets); i++)
        if (strcmp(presets[i].name, o->preset) == 0)
            p->s = presets[i];
    bool moe = strcmp(o->kind, "qwen3_moe") == 0;
    p->s.arch.family = model_family_named(moe ? o->kind : "qwen3");
    struct lm_arch *a = &p->s.arch;
    if (moe) {
        a->experts = EXPERTS;
        a->experts_per_token = PER_TOKEN;
        a->moe_intermediate_size = MOE_INTERMEDIATE;
        a->norm_topk = true;
    }
    const struct {
        int64_t given, *to;
    } sizes[] = {{o->layers, &a->num_hidden_layers},
                 {o->hidden, &a->hidden_size},
                 {o->intermediate, &a->intermediate_size},
                 {o->heads, &a->num_attention_heads},
                 {o->kv_heads, &a->num_key_value_heads},
                 {o->head_dim, &a->head_dim},
                 {o->vocab, &a->vocab_size},
                 {o->vision_depth, &p->s.vision_depth},
                 {moe ? o->experts : -1, &a->experts},
                 {moe ? o->per_token : -1, &a->experts_per_token},
                 {moe ? o->moe_intermediate : -1, &a->moe_intermediate_size}};
    for (size_t i = 0; i < AQ_COUNT(sizes); i++)
        if (sizes[i].given >= 0)
            *sizes[i].to = sizes[i].given;
    arch_take_experts(a, &p->strings);
    if (moe)
        memset(a->layer_sparse, 1, (size_t)a->num_hidden_layers);
    if (o->tied)
        a->tie_word_embeddings = strcmp(o->tied, "yes") == 0;
    if (o->theta > 0)
        a->rope_theta = o->theta;
}

static int write_checkpoint(const struct options *o, const char *dir, struct aq_err *err)
{
    struct plan p = {.o = o};
    bool vl = strcmp(o->kind, "qwen3_vl") == 0;
    p.dtype = strcmp(o->dtype, "f32") == 0   ? ST_F32
              : strcmp(o->dtype, "f16") == 0 ? ST_F16
                                             : ST_BF16;
    choose_size(&p);
    if (vl && p.s.vision_depth > 0)
        plan_vision(&p);
    plan_language(&p, o->prefix ? o->prefix : vl ? "model.language_model." : "model.");
    int r = aq_make_dirs(dir, err);
    if (r == 0 && !o->sparse && !o->config_only && !(p.pool = aq_pool_new(0, err)))
        r = -1;
    if (r == 0)
        r = write_config(&p, dir, err);
    if (r == 0 && !o->config_only)
        r = write_weights(&p, dir, err);
    for (size_t i = 0; i < p.count; i++)
        free(p.items[i].name);
    free(p.items);
    aq_pool_free(p.pool);
    aq_arena_release(&p.strings);
    return r;
}

static const char *const preset_names[] = {"tiny", "2b", "4b", "8b", "32b", "30b-a3b", NULL};
static const char *const kinds[] = {"qwen3_vl", "qwen3", "qwen3_moe", NULL};
static const char *const dtypes[] = {"bf16", "f16", "f32", NULL};
static const char *const yes_no[] = {"yes", "no", NULL};
static struct options o = {.preset = "tiny",
                           .kind = "qwen3_vl",
                           .dtype = "bf16",
                           .layers = -1,
                           .hidden = -1,
                           .intermediate = -1,
                           .heads = -1,
                           .kv_heads = -1,
                           .head_dim = -1,
                           .vocab = -1,
                           .vision_depth = -1,
                           .experts = -1,
                           .per_token = -1,
                           .moe_intermediate = -1,
                           .shards = 1,
                           .seed = 1,
                           .scale = 0.02};
#define SIZE(name, field, help)                                                                    \
    {                                                                                              \
        name, 0, AQ_OPT_INT, &o.field, "N", help, NULL, 0, INT32_MAX                               \
    }
static const struct aq_opt options[] = {
    {"preset", 'p', AQ_OPT_CHOICE, &o.preset, "SIZE", "start from these sizes (tiny)",
     preset_names},
    {"kind", 'k', AQ_OPT_CHOICE, &o.kind, "KIND", "model_type (qwen3_vl)", kinds},
    SIZE("layers", layers, "layers of the language model"),
    SIZE("hidden", hidden, "hidden_size"),
    SIZE("intermediate", intermediate, "intermediate_size"),
    SIZE("heads", heads, "num_attention_heads"),
    SIZE("kv-heads", kv_heads, "num_key_value_heads"),
    SIZE("head-dim", head_dim, "head_dim"),
    SIZE("vocab", vocab, "vocab_size"),
    SIZE("vision-depth", vision_depth, "blocks of the vision tower; 0: no tower"),
    SIZE("experts", experts, "num_experts of kind qwen3_moe (128)"),
    SIZE("per-token", per_token, "num_experts_per_tok (8)"),
    SIZE("moe-intermediate", moe_intermediate, "moe_intermediate_size (768)"),
    {"tied", 0, AQ_OPT_CHOICE, &o.tied, "YES", "tie_word_embeddings", yes_no},
    {"copy-head", 0, AQ_OPT_FLAG, &o.copy_head, NULL, "store lm_head.weight also if tied"},
    {"theta", 0, AQ_OPT_DOUBLE, &o.theta, "X", "rope_theta"},
    {"prefix", 0, AQ_OPT_TEXT, &o.prefix, "P", "prefix of the language model's names"},
    {"dtype", 0, AQ_OPT_CHOICE, &o.dtype, "TYPE", "of all weights (bf16)", dtypes},
    {"scale", 0, AQ_OPT_DOUBLE, &o.scale, "X", "standard deviation of the weights (0.02)"},
    {"zeros", 0, AQ_OPT_LIST, &o.zeros, "PART", "tensors with this in their names are all 0"},
    {"signs", 0, AQ_OPT_LIST, &o.signs, "PART",
     "tensors with this in their names are +-1/32: exact in every format"},
    {"shards", 's', AQ_OPT_INT, &o.shards, "N", "files (1)", NULL, 1, 99999},
    {"seed", 0, AQ_OPT_INT, &o.seed, "N", "of the weights (1)", NULL, 0, INT64_MAX},
    {"sparse", 0, AQ_OPT_FLAG, &o.sparse, NULL,
     "exact headers and sizes, but holes for data: no disk, all weights 0"},
    {"config-only", 0, AQ_OPT_FLAG, &o.config_only, NULL, "no weights"},
    AQ_OPT_END};

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    return write_checkpoint(&o, cl->args[0], err);
}

int main(int argc, char **argv)
{
    static const struct aq_tool tool = {
        .name = "random_checkpoint",
        .summary = "random weights in the layout of a Qwen3, Qwen3-VL or Qwen3-MoE checkpoint",
        .usage = "random_checkpoint [OPTION...] DIR",
        .example = "random_checkpoint --preset 4b --sparse --shards 2 /tmp/ckpt",
        .options = options,
        .min_args = 1,
        .max_args = 1,
        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
