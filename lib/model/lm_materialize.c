#include "model/lm_materialize.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "model/family.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Keys that change nothing here, but that other programs read. */
static const char *const kept_keys[] = {"max_position_embeddings", "initializer_range",
                                        "bos_token_id", "eos_token_id", "pad_token_id"};
/* Files that make the copy usable by itself. */
static const char *const kept_files[] = {"tokenizer.json", "tokenizer_config.json", "vocab.json",
                                         "merges.txt", "generation_config.json"};

struct copy {
    const struct lm *lm;
    const char *dir;
    size_t *shard_end; /* index of the first tensor after each shard */
    size_t shards;
    struct aq_progress progress;
    uint64_t done;
    struct aq_err *err;
};

static char *new_name(const struct lm_tensor *t)
{
    bool head = strcmp(t->name, "lm_head.weight") == 0;
    const char *at = strstr(t->source, "layers."); /* checkpoints may name experts otherwise */
    return xasprintf("%s%s", head ? "" : "model.", at ? at : t->name);
}

static char *shard_name(const struct copy *c, size_t k)
{
    return c->shards == 1 ? xstrdup("model.safetensors")
                          : xasprintf("model-%05zu-of-%05zu.safetensors", k + 1, c->shards);
}

static uint64_t plan_shards(struct copy *c, uint64_t limit)
{
    uint64_t total = 0, in_shard = 0;
    c->shard_end = xcalloc(c->lm->count, sizeof *c->shard_end);
    for (size_t i = 0; i < c->lm->count; i++) {
        uint64_t n = c->lm->tensors[i].end - c->lm->tensors[i].begin;
        if (in_shard && in_shard + n > limit) {
            c->shard_end[c->shards++] = i;
            in_shard = 0;
        }
        in_shard += n;
        total += n;
    }
    c->shard_end[c->shards++] = c->lm->count;
    return total;
}

/* ---- tensors ---- */

static int copy_bytes(struct copy *c, struct st_writer *w, int handle, int fd, uint64_t from,
                      uint64_t n)
{
    enum { STEP = 64 << 20 };
    for (uint64_t at = 0; at < n;) {
        uint64_t take = n - at < STEP ? n - at : STEP;
        if (st_write_from(w, handle, at, fd, from + at, take, c->err) < 0)
            return -1;
        at += take;
        c->done += take;
        aq_progress_update(&c->progress, c->done);
    }
    return 0;
}

/* Neighbours mostly share a file: one descriptor is open at a time. */
struct source {
    int fd;
    uint32_t file;
};

static int open_source(const struct copy *c, struct source *s, uint32_t file)
{
    if (s->fd >= 0 && s->file == file)
        return 0;
    if (s->fd >= 0)
        (void)close(s->fd);
    char *path = aq_path_join(c->lm->root, c->lm->files[file].name);
    struct stat st;
    s->fd = aq_open_input(path, &st, c->err);
    s->file = file;
    free(path);
    return s->fd < 0 ? -1 : 0;
}

static int write_tensors(struct copy *c, struct st_writer *w, size_t from, size_t to)
{
    struct source s = {.fd = -1};
    int r = 0;
    for (size_t i = from; i < to && r == 0; i++) {
        const struct lm_tensor *t = &c->lm->tensors[i];
        r = open_source(c, &s, t->file);
        if (r == 0 && copy_bytes(c, w, (int)(i - from), s.fd, t->begin, t->end - t->begin) < 0)
            r = aq_err_prefix(c->err, "%s: tensor '%s'", aq_show(c->lm->files[t->file].name),
                              aq_show(t->source));
    }
    if (s.fd >= 0)
        (void)close(s.fd);
    return r;
}

static int write_shard(struct copy *c, size_t k, struct json *map)
{
    size_t from = k ? c->shard_end[k - 1] : 0, to = c->shard_end[k];
    char *file = shard_name(c, k), *path = aq_path_join(c->dir, file);
    struct st_writer *w = st_writer_new();
    struct json *meta = json_new_object();
    json_add_string(meta, "format", "pt");
    st_writer_metadata(w, meta);
    for (size_t i = from; i < to; i++) {
        char *name = new_name(&c->lm->tensors[i]);
        (void)st_declare(w, name, c->lm->tensors[i].dtype, c->lm->tensors[i].rank,
                         c->lm->tensors[i].shape);
        json_add_string(map, name, file);
        free(name);
    }
    int r = st_begin(w, path, c->err);
    if (r == 0)
        r = write_tensors(c, w, from, to);
    if (r == 0)
        r = st_commit(w, c->err);
    st_writer_free(w);
    free(path);
    free(file);
    return r;
}

static int write_weights(struct copy *c, uint64_t total)
{
    struct json *index = json_new_object();
    json_add_int(json_add_object(index, "metadata"), "total_size", (int64_t)total);
    struct json *map = json_add_object(index, "weight_map");
    int r = 0;
    aq_progress_begin(&c->progress, "copy", total);
    for (size_t k = 0; k < c->shards && r == 0; k++)
        r = write_shard(c, k, map);
    aq_progress_end(&c->progress);
    if (r == 0 && c->shards > 1) {
        char *path = aq_path_join(c->dir, "model.safetensors.index.json");
        r = json_write_file(path, index, c->err);
        free(path);
    }
    json_free(index);
    return r;
}

/* ---- the files beside them ---- */

static int copy_small_file(const struct copy *c, const char *name)
{
    enum { LIMIT = 256 << 20 };
    struct aq_buf text = AQ_BUF_INIT;
    char *from = aq_path_join(c->lm->root, name), *to = aq_path_join(c->dir, name);
    int r = 0;
    if (aq_path_exists(from)) {
        r = aq_read_file(from, LIMIT, &text, c->err);
        if (r == 0)
            r = aq_write_file(to, aq_buf_str(&text), text.len, c->err);
    }
    aq_buf_release(&text);
    free(from);
    free(to);
    return r;
}

static const char *common_dtype(const struct lm *lm)
{
    enum st_dtype t = lm->tensors[0].dtype;
    return t == ST_BF16 ? "bfloat16" : t == ST_F16 ? "float16" : "float32";
}

/* What a family reads besides sizes, copied as it was found. A rotation by the default angles and
   windows that no layer has are left out. */
static const char *const rope_keys[] = {"rope_scaling", "rope_parameters", "rope_local_base_freq",
                                        "original_max_position_embeddings"};
static const char *const window_keys[] = {"sliding_window", "use_sliding_window",
                                          "max_window_layers", "layer_types",
                                          "sliding_window_pattern"};
static const char *const trait_keys[] = {"mlp_bias",
                                         "partial_rotary_factor",
                                         "no_rope_layers",
                                         "no_rope_layer_interval",
                                         "attention_multiplier",
                                         "embedding_multiplier",
                                         "residual_multiplier",
                                         "logits_scaling",
                                         "query_pre_attn_scalar",
                                         "attn_logit_softcapping",
                                         "final_logit_softcapping"};

static void copy_keys(struct json *v, const struct json *from, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct json *k = json_get(from, keys[i]);
        if (k)
            json_add(v, keys[i], json_copy(k));
    }
}

static void add_traits(struct json *v, const struct lm_arch *a, const struct json *from)
{
    if (a->rope_count > 1 || a->rope[0].type != ROPE_DEFAULT)
        copy_keys(v, from, rope_keys, AQ_COUNT(rope_keys));
    if (a->layer_window)
        copy_keys(v, from, window_keys, AQ_COUNT(window_keys));
    else if (a->family->windows != WINDOWS_NONE)
        json_add_null(v, "sliding_window");
    if (a->rotary_dim != a->head_dim || a->family->reads)
        copy_keys(v, from, trait_keys, AQ_COUNT(trait_keys));
}

static void add_experts(struct json *v, const struct lm_arch *a)
{
    if (!a->experts)
        return;
    bool sparse_keys = a->family->reads & READS_SPARSE;
    json_add_int(v, strcmp(a->family->name, "mixtral") == 0 ? "num_local_experts" : "num_experts",
                 a->experts);
    json_add_int(v, "num_experts_per_tok", a->experts_per_token);
    json_add_bool(v, "norm_topk_prob", a->norm_topk);
    if (!sparse_keys)
        return;
    json_add_int(v, "moe_intermediate_size", a->moe_intermediate_size);
    json_add_int(v, "decoder_sparse_step", 1);
    struct json *dense = json_add_array(v, "mlp_only_layers");
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        if (!a->layer_sparse[l])
            json_push(dense, json_new_int(l));
}

static struct json *new_config(const struct lm *lm, const struct json *old)
{
    const struct lm_arch *a = &lm->arch;
    const struct json *text = json_get(old, "text_config");
    struct json *v = json_new_object();
    json_push(json_add_array(v, "architectures"), json_new_string(a->family->architecture));
    json_add_string(v, "model_type", a->family->text_type);
    json_add_int(v, "hidden_size", a->hidden_size);
    json_add_int(v, "intermediate_size", a->intermediate_size);
    json_add_int(v, "num_hidden_layers", a->num_hidden_layers);
    json_add_int(v, "num_attention_heads", a->num_attention_heads);
    json_add_int(v, "num_key_value_heads", a->num_key_value_heads);
    json_add_int(v, "head_dim", a->head_dim);
    json_add_int(v, "vocab_size", a->vocab_size);
    if (a->act == ACT_GELU_TANH)
        json_add_string(v, "hidden_activation", "gelu_pytorch_tanh");
    else
        json_add_string(v, "hidden_act", "silu");
    json_add_double(v, "rms_norm_eps", a->rms_norm_eps);
    json_add_double(v, "rope_theta", a->rope_theta);
    json_add_bool(v, "attention_bias", a->bias & BIAS_O);
    json_add_bool(v, "tie_word_embeddings", a->tie_word_embeddings);
    json_add_string(v, "torch_dtype", common_dtype(lm));
    copy_keys(v, text ? text : old, kept_keys, AQ_COUNT(kept_keys));
    add_traits(v, a, text ? text : old);
    add_experts(v, a);
    return v;
}

static int write_config(const struct copy *c)
{
    char *from = aq_path_join(c->lm->root, "config.json");
    char *to = aq_path_join(c->dir, "config.json");
    int r = -1;
    struct json *old = json_read(from, c->err), *v = NULL;
    if (old) {
        v = new_config(c->lm, old);
        r = json_write_file(to, v, c->err);
    }
    json_free(old);
    json_free(v);
    free(from);
    free(to);
    return r;
}

/* ---- all ---- */

static int check_target(const char *dir, struct aq_err *err)
{
    char *config = aq_path_join(dir, "config.json");
    bool taken = aq_path_exists(config);
    free(config);
    if (taken)
        return aq_err_set(err, AQ_ERUN, "'%s' holds a checkpoint already", aq_show(dir));
    return aq_make_dirs(dir, err);
}

int lm_materialize(const struct lm *lm, const char *dir, uint64_t shard_bytes, struct aq_err *err)
{
    struct copy c = {.lm = lm, .dir = dir, .err = err};
    if (check_target(dir, err) < 0)
        return -1;
    uint64_t total = plan_shards(&c, shard_bytes);
    int r = write_weights(&c, total);
    for (size_t i = 0; i < AQ_COUNT(kept_files) && r == 0; i++)
        r = copy_small_file(&c, kept_files[i]);
    if (r == 0)
        r = write_config(&c);
    free(c.shard_end);
    return r;
}
