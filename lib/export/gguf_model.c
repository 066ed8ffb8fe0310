#include "export/gguf_model.h"

#include "base/mem.h"
#include "model/family.h"

#include <stdlib.h>
#include <string.h>

/* ---- architectures ---- */

static const struct {
    const char *family, *archs[3]; /* the first is taken where none is given */
} archs[] = {
    {"qwen3", {"qwen3", "qwen3vl", NULL}},
    {"llama", {"llama", NULL}},
};

const char *gguf_arch(const struct lm *lm, const char *given, struct aq_err *err)
{
    const char *family = lm->arch.family->name;
    for (size_t i = 0; i < AQ_COUNT(archs); i++) {
        if (strcmp(archs[i].family, family) != 0)
            continue;
        if (!given)
            return archs[i].archs[0];
        for (const char *const *a = archs[i].archs; *a; a++)
            if (strcmp(*a, given) == 0)
                return *a;
        aq_err_set(err, AQ_EUSAGE, "--arch %s does not fit a model of family '%s'", aq_show(given),
                   family);
        return NULL;
    }
    aq_err_set(err, AQ_EINPUT, "models of family '%s' are not written as GGUF", family);
    return NULL;
}

/* ---- names ---- */

static const struct {
    const char *ours, *theirs;
} names[] = {
    {"embed_tokens.weight", "token_embd.weight"},
    {"norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

static const struct {
    const char *ours, *theirs;
} layer_names[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
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

int gguf_tensor_name(const char *name, struct aq_buf *out, struct aq_err *err)
{
    const char *number;
    size_t digits;
    const char *rest = in_layer(name, &number, &digits);
    aq_buf_reset(out);
    for (size_t i = 0; !rest && i < AQ_COUNT(names); i++)
        if (strcmp(name, names[i].ours) == 0)
            aq_buf_adds(out, names[i].theirs);
    for (size_t i = 0; rest && i < AQ_COUNT(layer_names); i++)
        if (strcmp(rest, layer_names[i].ours) == 0)
            aq_buf_addf(out, "blk.%.*s.%s", (int)digits, number, layer_names[i].theirs);
    return out->len ? 0
                    : aq_err_set(err, AQ_EINPUT, "tensor '%s' has no name in GGUF", aq_show(name));
}

bool gguf_permutes(const char *arch, const char *name)
{
    const char *number;
    size_t digits;
    const char *rest = in_layer(name, &number, &digits);
    return strcmp(arch, "llama") == 0 && rest &&
           (strcmp(rest, "self_attn.q_proj.weight") == 0 ||
            strcmp(rest, "self_attn.k_proj.weight") == 0);
}

int64_t gguf_source_row(int64_t r, int64_t rows, int64_t heads)
{
    int64_t d = rows / heads, head = r / d, i = r % d; /* (half, 2) there, (2, half) here */
    return head * d + i % 2 * (d / 2) + i / 2;
}

/* ---- hyperparameters ---- */

static void add_u32(struct gguf_writer *w, const char *arch, const char *key, int64_t value)
{
    char *name = xasprintf("%s.%s", arch, key);
    gguf_add_u32(w, name, (uint32_t)value);
    free(name);
}

static void add_f32(struct gguf_writer *w, const char *arch, const char *key, double value)
{
    char *name = xasprintf("%s.%s", arch, key);
    gguf_add_f32(w, name, (float)value);
    free(name);
}

/* A key of the language model's part of config.json, or of the whole. */
static const struct json *text_value(const struct json *config, const char *key)
{
    const struct json *text = json_find(config, "text_config"), *v = json_find(text, key);
    return v ? v : json_find(config, key);
}

static bool text_int(const struct json *config, const char *key, int64_t *out)
{
    const struct json *v = text_value(config, key);
    if (v && json_type(v) == JSON_ARRAY) /* some have several ends of text */
        v = json_first(v);
    return v && json_type(v) == JSON_INT && json_int(v, out);
}

/* What a vision tower needs to know of the language model. */
static int add_vl_keys(struct gguf_writer *w, const char *arch, const struct json *config,
                       struct aq_err *err)
{
    const struct json *rope = text_value(config, "rope_scaling");
    const struct json *sections =
        json_find(rope ? rope : text_value(config, "rope_parameters"), "mrope_section");
    const struct json *deep =
        json_find(json_find(config, "vision_config"), "deepstack_visual_indexes");
    int32_t values[4] = {0};
    size_t n = 0;
    for (const struct json *v = json_first(sections); v && n < 3; v = json_next(v)) {
        int64_t x;
        if (json_type(v) == JSON_INT && json_int(v, &x) && x >= 0 && x < 1 << 20)
            values[n++] = (int32_t)x;
    }
    if (n != 3 || !deep || json_type(deep) != JSON_ARRAY)
        return aq_err_set(err, AQ_EINPUT,
                          "config.json lacks mrope_section or deepstack_visual_indexes, which "
                          "architecture qwen3vl needs");
    char *name = xasprintf("%s.rope.dimension_sections", arch);
    gguf_add_i32s(w, name, values, 4);
    free(name);
    add_u32(w, arch, "n_deepstack_layers", (int64_t)json_size(deep));
    return 0;
}

/* Stretched rotations need factors of their own in the file, which are not written. */
static int check_rope(const struct json *config, struct aq_err *err)
{
    const struct json *rope = text_value(config, "rope_scaling");
    rope = rope && json_type(rope) == JSON_OBJECT ? rope : text_value(config, "rope_parameters");
    const char *type = json_find_string(rope, "rope_type");
    type = type ? type : json_find_string(rope, "type");
    if (type && strcmp(type, "default") != 0 && strcmp(type, "mrope") != 0)
        return aq_err_set(err, AQ_EINPUT, "config.json: rope of type '%s' is not written as GGUF",
                          aq_show(type));
    return 0;
}

static int add_arch_keys(const struct export_plan *p, struct gguf_writer *w,
                         const struct json *config, struct aq_err *err)
{
    const struct lm_arch *a = &p->lm.arch;
    const char *arch = p->arch;
    int64_t context;
    if (check_rope(config, err) < 0)
        return -1;
    if (!text_int(config, "max_position_embeddings", &context) || context < 1 ||
        context > INT32_MAX)
        return aq_err_set(err, AQ_EINPUT, "config.json: max_position_embeddings is missing");
    add_u32(w, arch, "block_count", a->num_hidden_layers);
    add_u32(w, arch, "context_length", context);
    add_u32(w, arch, "embedding_length", a->hidden_size);
    add_u32(w, arch, "feed_forward_length", a->intermediate_size);
    add_u32(w, arch, "attention.head_count", a->num_attention_heads);
    add_u32(w, arch, "attention.head_count_kv", a->num_key_value_heads);
    add_u32(w, arch, "attention.key_length", a->head_dim);
    add_u32(w, arch, "attention.value_length", a->head_dim);
    add_f32(w, arch, "attention.layer_norm_rms_epsilon", a->rms_norm_eps);
    add_f32(w, arch, "rope.freq_base", a->rope_theta);
    if (strcmp(arch, "llama") == 0) {
        add_u32(w, arch, "rope.dimension_count", a->head_dim);
        add_u32(w, arch, "vocab_size", a->vocab_size);
    }
    return strcmp(arch, "qwen3vl") == 0 ? add_vl_keys(w, arch, config, err) : 0;
}

/* ---- the tokenizer ---- */

enum token_type { TOKEN_NORMAL = 1, TOKEN_SPECIAL = 3, TOKEN_ADDED = 4, TOKEN_UNUSED = 5 };

struct vocabulary {
    const char **text;
    int32_t *type;
    char **made; /* texts that the tokenizer does not have */
    int64_t size;
};

/*
 * llama.cpp knows how text is split into words by a name. The expressions of the splits that are
 * known, as tokenizer.json has them.
 */
static const struct {
    const char *name, *regex; /* NULL: digits one by one, then GPT-2's words */
} splits[] = {
    {"qwen2", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
              "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"llama-bpe", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                  "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"smollm", NULL},
};

static bool has_type(const struct json *step, const char *type)
{
    const char *t = json_find_string(step, "type");
    return t && strcmp(t, type) == 0;
}

static const char *split_name(const struct json *tokenizer)
{
    const struct json *steps = json_find(json_find(tokenizer, "pre_tokenizer"), "pretokenizers");
    const struct json *first = steps && json_type(steps) == JSON_ARRAY ? json_first(steps) : NULL;
    const struct json *second = first ? json_next(first) : NULL;
    if (!second || json_next(second) || !has_type(second, "ByteLevel"))
        return NULL;
    const char *regex = json_find_string(json_find(first, "pattern"), "Regex");
    for (size_t i = 0; i < AQ_COUNT(splits); i++)
        if (splits[i].regex
                ? has_type(first, "Split") && regex && strcmp(regex, splits[i].regex) == 0
                : has_type(first, "Digits"))
            return splits[i].name;
    return NULL;
}

static int put_token(struct vocabulary *v, int64_t id, const char *text, int32_t type,
                     struct aq_err *err)
{
    if (id < 0 || id >= v->size)
        return aq_err_set(err, AQ_EINPUT, "tokenizer.json: token %lld is beyond the model's %lld",
                          (long long)id, (long long)v->size);
    v->text[id] = text;
    v->type[id] = type;
    return 0;
}

static int fill_vocabulary(struct vocabulary *v, const struct jref *root, struct aq_err *err)
{
    struct jref model, vocab, added;
    int64_t id;
    if (jref_get(root, "model", JSON_OBJECT, &model, err) < 0 ||
        jref_get(&model, "vocab", JSON_OBJECT, &vocab, err) < 0 ||
        jref_get(root, "added_tokens", JSON_ARRAY, &added, err) < 0)
        return -1;
    for (const struct json *t = json_first(vocab.v); t; t = json_next(t)) {
        struct jref at = jref_child(&vocab, t, 0);
        if (jref_is(&at, JSON_INT, err) < 0 || !json_int(t, &id) ||
            put_token(v, id, json_key(t), TOKEN_NORMAL, err) < 0)
            return -1;
    }
    size_t i = 0;
    for (const struct json *t = json_first(added.v); t; t = json_next(t)) {
        struct jref at = jref_child(&added, t, i++);
        const char *content;
        bool special;
        if (jref_int(&at, "id", 0, INT32_MAX, &id, err) < 0 ||
            jref_string(&at, "content", &content, err) < 0 ||
            jref_bool(&at, "special", &special, err) < 0)
            return -1;
        size_t n = strlen(content); /* "<|name|>" controls the model whatever the flag says */
        special = special ||
                  (n > 4 && strncmp(content, "<|", 2) == 0 && strcmp(content + n - 2, "|>") == 0);
        if (put_token(v, id, content, special ? TOKEN_SPECIAL : TOKEN_ADDED, err) < 0)
            return -1;
    }
    for (id = 0; id < v->size; id++)
        if (!v->text[id]) {
            v->made[id] = xasprintf("[PAD%lld]", (long long)id);
            v->text[id] = v->made[id];
            v->type[id] = TOKEN_UNUSED;
        }
    return 0;
}

static int add_merges(struct gguf_writer *w, const struct jref *root, struct aq_err *err)
{
    struct jref model, merges;
    if (jref_get(root, "model", JSON_OBJECT, &model, err) < 0 ||
        jref_get(&model, "merges", JSON_ARRAY, &merges, err) < 0)
        return -1;
    size_t n = json_size(merges.v), i = 0;
    char **made = xcalloc(n + 1, sizeof *made);
    int r = 0;
    for (const struct json *m = json_first(merges.v); m && r == 0; m = json_next(m), i++) {
        struct jref at = jref_child(&merges, m, i);
        const struct json *a = json_type(m) == JSON_ARRAY ? json_first(m) : NULL;
        const struct json *b = a ? json_next(a) : NULL;
        if (json_type(m) == JSON_STRING)
            made[i] = xstrdup(json_string(m));
        else if (b && json_type(a) == JSON_STRING && json_type(b) == JSON_STRING)
            made[i] = xasprintf("%s %s", json_string(a), json_string(b));
        else
            r = jref_fail(&at, err, "expected two strings");
    }
    if (r == 0)
        gguf_add_strings(w, "tokenizer.ggml.merges", (const char *const *)made, n);
    for (i = 0; i < n; i++)
        free(made[i]);
    free(made);
    return r;
}

/* The id of a token that tokenizer_config.json names by its text. */
static int64_t named_token(const struct vocabulary *v, const struct json *config, const char *key)
{
    const struct json *t = json_find(config, key);
    const char *text =
        t && json_type(t) == JSON_STRING ? json_string(t) : json_find_string(t, "content");
    for (int64_t id = 0; text && id < v->size; id++)
        if (strcmp(v->text[id], text) == 0)
            return id;
    return -1;
}

static void add_special_ids(const struct export_plan *p, struct gguf_writer *w,
                            const struct vocabulary *v, const struct json *config,
                            const struct json *tokenizer_config)
{
    static const struct {
        const char *theirs, *config, *tokenizer;
    } ids[] = {{"tokenizer.ggml.bos_token_id", "bos_token_id", "bos_token"},
               {"tokenizer.ggml.eos_token_id", "eos_token_id", "eos_token"},
               {"tokenizer.ggml.padding_token_id", "pad_token_id", "pad_token"}};
    for (size_t i = 0; i < AQ_COUNT(ids); i++) {
        int64_t id = -1;
        if (!text_int(config, ids[i].config, &id) || id < 0 || id >= v->size)
            id = named_token(v, tokenizer_config, ids[i].tokenizer);
        if (id >= 0)
            gguf_add_u32(w, ids[i].theirs, (uint32_t)id);
    }
    const struct json *bos = json_find(tokenizer_config, "add_bos_token");
    gguf_add_bool(w, "tokenizer.ggml.add_bos_token",
                  bos && json_type(bos) == JSON_BOOL && json_bool(bos));
    (void)p;
}

/* From tokenizer_config.json, or a file of its own. */
static int add_template(const struct export_plan *p, struct gguf_writer *w,
                        const struct json *tokenizer_config, struct aq_err *err)
{
    enum { LIMIT = 16 << 20 };
    const char *text = json_find_string(tokenizer_config, "chat_template");
    struct aq_buf file = AQ_BUF_INIT;
    char *path = aq_path_join(p->lm.root, "chat_template.jinja");
    int r = 0;
    if (!text && aq_path_exists(path)) {
        r = aq_read_file(path, LIMIT, &file, err);
        text = r == 0 ? aq_buf_str(&file) : NULL;
    }
    if (text)
        gguf_add_string(w, "tokenizer.chat_template", text);
    aq_buf_release(&file);
    free(path);
    return r;
}

static int add_tokenizer(const struct export_plan *p, struct gguf_writer *w,
                         const struct json *config, const struct json *tokenizer,
                         const struct json *tokenizer_config, struct aq_err *err)
{
    struct jref root = jref_root(tokenizer, "tokenizer.json");
    const char *split = split_name(tokenizer);
    if (!has_type(json_find(tokenizer, "model"), "BPE") || !split)
        return aq_err_set(err, AQ_EINPUT,
                          "tokenizer.json: a tokenizer of this kind is not written as GGUF");
    struct vocabulary v = {.size = p->lm.arch.vocab_size};
    size_t n = (size_t)v.size;
    v.text = xcalloc(n, sizeof *v.text);
    v.type = xcalloc(n, sizeof *v.type);
    v.made = xcalloc(n, sizeof *v.made);
    int r = fill_vocabulary(&v, &root, err);
    if (r == 0) {
        gguf_add_string(w, "tokenizer.ggml.model", "gpt2");
        gguf_add_string(w, "tokenizer.ggml.pre", split);
        gguf_add_strings(w, "tokenizer.ggml.tokens", v.text, n);
        gguf_add_i32s(w, "tokenizer.ggml.token_type", v.type, n);
        r = add_merges(w, &root, err);
    }
    if (r == 0) {
        add_special_ids(p, w, &v, config, tokenizer_config);
        r = add_template(p, w, tokenizer_config, err);
    }
    for (size_t i = 0; i < n; i++)
        free(v.made[i]);
    free(v.text);
    free(v.type);
    free(v.made);
    return r;
}

/* ---- all ---- */

static struct json *read_beside(const struct export_plan *p, const char *name, bool needed,
                                int *status, struct aq_err *err)
{
    char *path = aq_path_join(p->lm.root, name);
    struct json *v = NULL;
    if (needed || aq_path_exists(path)) {
        v = json_read(path, err);
        if (!v)
            *status = -1;
    }
    free(path);
    return v;
}

int gguf_add_keys(const struct export_plan *p, struct gguf_writer *w, struct aq_err *err)
{
    int r = 0;
    const char *name = p->manifest.model_name ? p->manifest.model_name : "model";
    struct json *config = read_beside(p, "config.json", true, &r, err);
    struct json *tokenizer = r == 0 ? read_beside(p, "tokenizer.json", true, &r, err) : NULL;
    struct json *more = r == 0 ? read_beside(p, "tokenizer_config.json", false, &r, err) : NULL;
    if (r == 0) {
        gguf_add_string(w, "general.architecture", p->arch);
        gguf_add_string(w, "general.type", "model");
        gguf_add_string(w, "general.name", name);
        gguf_add_u32(w, "general.quantization_version", 2);
        r = add_arch_keys(p, w, config, err);
    }
    if (r == 0)
        r = add_tokenizer(p, w, config, tokenizer, more, err);
    json_free(config);
    json_free(tokenizer);
    json_free(more);
    return r;
}
