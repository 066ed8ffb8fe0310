#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_CHAT_TEMPLATE = 1 << 20 };

/* ---- vocabulary ---- */

static void hash_u32(struct tokenizer *t, uint32_t x)
{
    unsigned char le[4] = {(unsigned char)x, (unsigned char)(x >> 8), (unsigned char)(x >> 16),
                           (unsigned char)(x >> 24)};
    aq_sha256_add(&t->symbols, le, sizeof le);
}

/* Ids may leave gaps, which added tokens often fill. */
static int vocab_size(const struct jref *vocab, uint32_t *out, struct aq_err *err)
{
    int64_t last = -1;
    for (const struct json *v = json_first(vocab->v); v; v = json_next(v)) {
        struct jref r = jref_child(vocab, v, 0);
        int64_t id;
        if (json_type(v) != JSON_INT || !json_int(v, &id) || id < 0 || id >= TOKENIZER_MAX_VOCAB)
            return jref_fail(&r, err, "expected an id from 0 to %d", TOKENIZER_MAX_VOCAB - 1);
        last = id > last ? id : last;
    }
    *out = (uint32_t)(last + 1);
    return 0;
}

/* The symbols of bytes: in a byte-level vocabulary some may be missing, as in SmolLM2's. */
static void find_bytes(struct tokenizer *t, bool byte_fallback)
{
    for (int b = 0; b < 256; b++) {
        char symbol[8];
        size_t n = 0;
        if (t->byte_level)
            n = (size_t)aq_utf8_encode(byte_to_char((unsigned char)b), symbol);
        else if (byte_fallback)
            n = (size_t)snprintf(symbol, sizeof symbol, "<0x%02X>", b);
        t->byte_id[b] = n ? (int32_t)vocab_id(&t->vocab, symbol, n) : -1;
    }
}

static int load_vocab(struct tokenizer *t, const struct jref *vocab, struct aq_err *err)
{
    uint32_t count = 0;
    if (vocab_size(vocab, &count, err) < 0)
        return -1;
    if (count == 0)
        return jref_fail(vocab, err, "there are no symbols");
    vocab_init(&t->vocab, count);
    for (const struct json *v = json_first(vocab->v); v; v = json_next(v)) {
        int64_t id = 0;
        (void)json_int(v, &id);
        if (!vocab_set(&t->vocab, (uint32_t)id, json_key(v))) {
            struct jref r = jref_child(vocab, v, 0);
            return jref_fail(&r, err, "id %lld is taken by '%s' already", (long long)id,
                             aq_show(t->vocab.symbols[id]));
        }
    }
    for (uint32_t id = 0; id < count; id++) {
        const char *symbol = t->vocab.symbols[id];
        if (!symbol)
            continue;
        hash_u32(t, id);
        hash_u32(t, (uint32_t)strlen(symbol));
        aq_sha256_add(&t->symbols, symbol, strlen(symbol));
    }
    return 0;
}

/* ---- merges ---- */

struct merge_half {
    const char *s;
    size_t n;
};

/* NULL, or why the merge cannot be. */
static const char *add_merge(struct tokenizer *t, struct merge_half left, struct merge_half right,
                             uint32_t rank, struct aq_buf *joined)
{
    int64_t l = vocab_id(&t->vocab, left.s, left.n), r = vocab_id(&t->vocab, right.s, right.n);
    if (left.n == 0 || right.n == 0)
        return "a side of the merge is empty";
    if (l < 0 || r < 0)
        return "a side of the merge is not in the vocabulary";
    aq_buf_reset(joined);
    aq_buf_add(joined, left.s, left.n);
    aq_buf_add(joined, right.s, right.n);
    int64_t id = vocab_id(&t->vocab, joined->data, joined->len);
    if (id < 0)
        return "the merged symbol is not in the vocabulary";
    if (!bpe_add_merge(&t->bpe, (uint32_t)l, (uint32_t)r, rank, (uint32_t)id))
        return "the merge is there twice";
    hash_u32(t, (uint32_t)l);
    hash_u32(t, (uint32_t)r);
    return NULL;
}

/* "left right", with exactly one blank. */
static bool split_pair(const char *s, size_t n, struct merge_half *left, struct merge_half *right)
{
    const char *blank = memchr(s, ' ', n);
    if (!blank || memchr(blank + 1, ' ', n - (size_t)(blank + 1 - s)))
        return false;
    *left = (struct merge_half){s, (size_t)(blank - s)};
    *right = (struct merge_half){blank + 1, n - left->n - 1};
    return true;
}

/* Both spellings: "a b" and ["a", "b"]. */
static bool merge_sides(const struct json *v, struct merge_half *left, struct merge_half *right)
{
    if (json_type(v) == JSON_STRING)
        return split_pair(json_string(v), strlen(json_string(v)), left, right);
    if (json_type(v) != JSON_ARRAY)
        return false;
    const struct json *a = json_first(v), *b = a ? json_next(a) : NULL;
    if (!b || json_next(b) || json_type(a) != JSON_STRING || json_type(b) != JSON_STRING)
        return false;
    *left = (struct merge_half){json_string(a), strlen(json_string(a))};
    *right = (struct merge_half){json_string(b), strlen(json_string(b))};
    return true;
}

static int load_merges(struct tokenizer *t, const struct jref *merges, struct aq_err *err)
{
    struct aq_buf joined = AQ_BUF_INIT;
    uint32_t rank = 0;
    int r = 0;
    for (const struct json *v = json_first(merges->v); v && r == 0; v = json_next(v), rank++) {
        struct merge_half left, right;
        const char *why = "expected \"left right\" or [\"left\", \"right\"]";
        if (merge_sides(v, &left, &right))
            why = add_merge(t, left, right, rank, &joined);
        if (why) {
            struct jref place = jref_child(merges, v, rank);
            r = jref_fail(&place, err, "%s", why);
        }
    }
    aq_buf_release(&joined);
    return r;
}

static int load_unknown(struct tokenizer *t, const struct jref *model, struct aq_err *err)
{
    const char *text;
    struct jref r;
    t->unk_id = -1;
    if (!jref_has(model, "unk_token", &r))
        return 0;
    if (jref_string(model, "unk_token", &text, err) < 0)
        return -1;
    t->unk_id = (int32_t)vocab_id(&t->vocab, text, strlen(text));
    return t->unk_id < 0 ? jref_fail(&r, err, "'%s' is not in the vocabulary", aq_show(text)) : 0;
}

static int load_model(struct tokenizer *t, const struct jref *root, struct aq_err *err)
{
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    struct jref model, vocab, merges;
    bool byte_fallback;
    if (jref_get(root, "model", JSON_OBJECT, &model, err) < 0 ||
        tokenizer_need_text(&model, "type", "BPE", err) < 0 ||
        tokenizer_need_off(&model, off, AQ_COUNT(off), err) < 0 ||
        tokenizer_flag(&model, "byte_fallback", false, &byte_fallback, err) < 0 ||
        tokenizer_flag(&model, "fuse_unk", false, &t->fuse_unk, err) < 0 ||
        tokenizer_flag(&model, "ignore_merges", false, &t->ignore_merges, err) < 0 ||
        jref_get(&model, "vocab", JSON_OBJECT, &vocab, err) < 0 ||
        jref_get(&model, "merges", JSON_ARRAY, &merges, err) < 0)
        return -1;
    if (byte_fallback && t->byte_level)
        return jref_fail(&model, err, "byte_fallback and ByteLevel do not go together");
    size_t n = json_size(merges.v);
    if (n > TOKENIZER_MAX_VOCAB)
        return jref_fail(&merges, err, "%zu merges, the limit is %d", n, TOKENIZER_MAX_VOCAB);
    bpe_init(&t->bpe, n);
    if (load_vocab(t, &vocab, err) < 0 || load_unknown(t, &model, err) < 0)
        return -1;
    find_bytes(t, byte_fallback);
    return load_merges(t, &merges, err);
}

/* ---- added tokens ---- */

static int add_token(struct tokenizer *t, const struct jref *r, int64_t id, struct aq_err *err)
{
    static const char *const off[] = {"single_word"};
    const char *text;
    struct added_token token = {.id = (int32_t)id};
    bool normalized, special;
    if (jref_string(r, "content", &text, err) < 0 || tokenizer_need_off(r, off, 1, err) < 0 ||
        tokenizer_flag(r, "lstrip", false, &token.lstrip, err) < 0 ||
        tokenizer_flag(r, "rstrip", false, &token.rstrip, err) < 0 ||
        tokenizer_flag(r, "special", false, &special, err) < 0 ||
        tokenizer_flag(r, "normalized", !special, &normalized, err) < 0)
        return -1;
    size_t n = strlen(text);
    if (n == 0 || n > ADDED_MAX_BYTES)
        return jref_fail(r, err, "an added token of %zu bytes, expected 1 to %d", n,
                         ADDED_MAX_BYTES);
    int64_t known = vocab_id(&t->vocab, text, n);
    bool taken = id < (int64_t)t->vocab.count && id >= 0 && t->vocab.symbols[id];
    if (id < 0 || id >= TOKENIZER_MAX_VOCAB || (known >= 0 ? known != id : taken))
        return jref_fail(r, err, "id %lld of added token '%s' does not fit the vocabulary",
                         (long long)id, aq_show(text));
    if (normalized && tokenizer_normalize(t, &text, &n, err) < 0)
        return aq_err_prefix(err, "%s", jref_show(r));
    if (n == 0 || n > ADDED_MAX_BYTES)
        return jref_fail(r, err, "normalized it has %zu bytes, expected 1 to %d", n,
                         ADDED_MAX_BYTES);
    token.text = text;
    token.len = (uint32_t)n;
    added_push(normalized && t->normal_count ? &t->normalized : &t->added, token);
    return 0;
}

static int finish_added(struct tokenizer *t, const struct jref *place, struct aq_err *err)
{
    const char *twice = added_sort(&t->added);
    if (!twice)
        twice = added_sort(&t->normalized);
    return twice ? jref_fail(place, err, "added token '%s' is there twice", aq_show(twice)) : 0;
}

static int load_added(struct tokenizer *t, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (!jref_has(root, "added_tokens", &list))
        return 0;
    if (jref_get(root, "added_tokens", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref r = jref_child(&list, v, i);
        int64_t id;
        if (jref_int(&r, "id", 0, TOKENIZER_MAX_VOCAB, &id, err) < 0 ||
            add_token(t, &r, id, err) < 0)
            return -1;
    }
    return finish_added(t, &list, err);
}

/* tokenizer_config.json's form, for vocab.json: an object of ids as text. */
static int load_added_decoder(struct tokenizer *t, const struct jref *root, struct aq_err *err)
{
    struct jref map;
    if (!jref_has(root, "added_tokens_decoder", &map))
        return 0;
    if (jref_get(root, "added_tokens_decoder", JSON_OBJECT, &map, err) < 0)
        return -1;
    for (const struct json *v = json_first(map.v); v; v = json_next(v)) {
        struct jref r = jref_child(&map, v, 0);
        char *end;
        long long id = strtoll(json_key(v), &end, 10);
        if (*end || end == json_key(v))
            return jref_fail(&r, err, "'%s' is not an id", aq_show(json_key(v)));
        if (add_token(t, &r, id, err) < 0)
            return -1;
    }
    return finish_added(t, &map, err);
}

/* A token by name: a string or an object with content. *text stays as it is if there is none. */
static int named_token(const struct jref *config, const char *key, const char **text,
                       struct aq_err *err)
{
    struct jref r;
    if (!jref_has(config, key, &r))
        return 0;
    if (json_type(r.v) == JSON_STRING) {
        *text = json_string(r.v);
        return 0;
    }
    return jref_string(&r, "content", text, err);
}

/* Without a config file: <|endoftext|>. */
static int load_pad(struct tokenizer *t, const struct jref *config, struct aq_err *err)
{
    const char *text = config ? NULL : "<|endoftext|>";
    if (config && named_token(config, "pad_token", &text, err) < 0)
        return -1;
    if (!text)
        return 0;
    const struct added_token *a = added_find(&t->added, text);
    if (!a)
        a = added_find(&t->normalized, text);
    int64_t id = a ? a->id : vocab_id(&t->vocab, text, strlen(text));
    if (id < 0 && config)
        return jref_fail(config, err, "pad token '%s' is not a token", aq_show(text));
    t->pad_id = (int32_t)id;
    return 0;
}

static int load_ends(struct tokenizer *t, const struct jref *config, struct aq_err *err)
{
    const char *bos = NULL, *eos = NULL;
    if (named_token(config, "bos_token", &bos, err) < 0 ||
        named_token(config, "eos_token", &eos, err) < 0)
        return -1;
    t->bos = bos ? xstrdup(bos) : NULL;
    t->eos = eos ? xstrdup(eos) : NULL;
    return 0;
}

/* chat_template: a text, or a list of {"name", "template"} of which "default" counts. */
static int load_chat_template(struct tokenizer *t, const struct jref *config, struct aq_err *err)
{
    struct jref r;
    if (!jref_has(config, "chat_template", &r))
        return 0;
    const struct json *text = r.v;
    if (json_type(r.v) == JSON_ARRAY) {
        text = NULL;
        for (const struct json *v = json_first(r.v); v && !text; v = json_next(v)) {
            const char *name = json_find_string(v, "name");
            if (name && strcmp(name, "default") == 0)
                text = json_find(v, "template");
        }
    }
    if (!text || json_type(text) != JSON_STRING)
        return jref_fail(&r, err, "expected a template's text");
    t->chat_template = xstrdup(json_string(text));
    return 0;
}

/* tokenizer_config.json, which may be NULL. */
static int load_config(struct tokenizer *t, const struct jref *config, struct aq_err *err)
{
    if (load_pad(t, config, err) < 0)
        return -1;
    if (!config)
        return 0;
    return load_ends(t, config, err) < 0 ? -1 : load_chat_template(t, config, err);
}

/* ---- tokenizer.json ---- */

static struct tokenizer *new_tokenizer(void)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->pad_id = t->unk_id = -1;
    aq_sha256_init(&t->files);
    aq_sha256_init(&t->symbols);
    return t;
}

/* Ends the loading: NULL if it failed. */
static struct tokenizer *loaded(struct tokenizer *t, int r)
{
    if (r == 0) {
        aq_sha256_hex(&t->files, t->files_digest);
        aq_sha256_hex(&t->symbols, t->digest);
        return t;
    }
    tokenizer_free(t);
    return NULL;
}

static struct json *parse_text(struct tokenizer *t, const char *text, size_t len, const char *name,
                               struct aq_err *err)
{
    aq_sha256_add(&t->files, text, len);
    return json_parse(text, len, name, err);
}

/* config may be NULL. */
static int load_json(struct tokenizer *t, const struct json *v, const char *name,
                     const struct json *config, const char *config_name, struct aq_err *err)
{
    struct jref root = jref_root(v, name), c = {NULL};
    if (config)
        c = jref_root(config, config_name);
    if (json_type(v) != JSON_OBJECT)
        return jref_fail(&root, err, "expected a tokenizer's object, found %s",
                         json_type_name(json_type(v)));
    if (tokenizer_read_pipeline(t, &root, err) < 0 || load_model(t, &root, err) < 0 ||
        load_added(t, &root, err) < 0)
        return -1;
    return load_config(t, config ? &c : NULL, err);
}

struct tokenizer *tokenizer_parse(const char *json, size_t len, const char *name,
                                  const char *config, size_t config_len, struct aq_err *err)
{
    static const char config_name[] = "tokenizer_config.json";
    struct tokenizer *t = new_tokenizer();
    struct json *c = config ? parse_text(t, config, config_len, config_name, err) : NULL;
    struct json *v = config && !c ? NULL : parse_text(t, json, len, name, err);
    int r = v ? load_json(t, v, name, c, config_name, err) : -1;
    json_free(v);
    json_free(c);
    return loaded(t, r);
}

/* ---- files ---- */

static struct json *read_json(struct tokenizer *t, const char *path, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct json *v = NULL;
    if (aq_read_file(path, TOKENIZER_MAX_FILE, &text, err) == 0) {
        if (text.len > 1 && memcmp(text.data, "\x1f\x8b", 2) == 0)
            aq_err_set(err, AQ_EINPUT, "'%s' is gzip data: unpack it first", aq_show(path));
        else
            v = parse_text(t, aq_buf_str(&text), text.len, path, err);
    }
    aq_buf_release(&text);
    return v;
}

/* tokenizer_config.json beside a file; *out stays NULL if there is none. */
static int read_config(struct tokenizer *t, const char *dir, char **path, struct json **out,
                       struct aq_err *err)
{
    *path = aq_path_join(dir, "tokenizer_config.json");
    *out = NULL;
    if (!aq_path_exists(*path))
        return 0;
    *out = read_json(t, *path, err);
    return *out ? 0 : -1;
}

static int merge_lines(struct tokenizer *t, const struct aq_buf *text, const char *path,
                       struct aq_err *err)
{
    struct aq_buf joined = AQ_BUF_INIT;
    uint32_t rank = 0;
    size_t line = 0;
    const char *p = aq_buf_str(text), *stop = p + text->len;
    int r = 0;
    while (p < stop && r == 0) {
        const char *nl = memchr(p, '\n', (size_t)(stop - p));
        size_t n = (size_t)((nl ? nl : stop) - p), len = n && p[n - 1] == '\r' ? n - 1 : n;
        line++;
        if (len && !(line == 1 && len >= 8 && memcmp(p, "#version", 8) == 0)) {
            struct merge_half left, right;
            const char *why = "expected 'left right'";
            if (split_pair(p, len, &left, &right))
                why = add_merge(t, left, right, rank++, &joined);
            if (why)
                r = aq_err_set(err, AQ_EINPUT, "%s:%zu: %s", aq_show(path), line, why);
        }
        p += n + 1;
    }
    aq_buf_release(&joined);
    return r;
}

static size_t count_lines(const struct aq_buf *text)
{
    size_t n = 1;
    for (size_t i = 0; i < text->len; i++)
        n += text->data[i] == '\n';
    return n;
}

static int load_merges_file(struct tokenizer *t, const char *dir, const struct jref *vocab,
                            struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    char *path = aq_path_join(dir, "merges.txt");
    int r = -1;
    if (!aq_path_exists(path)) {
        aq_err_set(err, AQ_EINPUT, "'%s' is missing, vocab.json needs it", aq_show(path));
    } else if (aq_read_file(path, TOKENIZER_MAX_FILE, &text, err) == 0) {
        size_t lines = count_lines(&text);
        aq_sha256_add(&t->files, text.data, text.len);
        if (lines > TOKENIZER_MAX_VOCAB + 2) {
            aq_err_set(err, AQ_EINPUT, "'%s' has %zu lines, the limit is %d", aq_show(path), lines,
                       TOKENIZER_MAX_VOCAB);
        } else {
            bpe_init(&t->bpe, lines);
            r = load_vocab(t, vocab, err);
            if (r == 0) {
                find_bytes(t, false);
                r = merge_lines(t, &text, path, err);
            }
        }
    }
    aq_buf_release(&text);
    free(path);
    return r;
}

/* Without tokenizer.json, the class says how a text is split; Qwen2 unless there is one. */
static int assume_pipeline(struct tokenizer *t, const struct jref *config, struct aq_err *err)
{
    const char *class = "Qwen2Tokenizer";
    struct jref r;
    if (config && jref_maybe_string(config, "tokenizer_class", &class, err) < 0)
        return -1;
    bool qwen = strncmp(class, "Qwen2Tokenizer", 14) == 0;
    if (!qwen && strncmp(class, "GPT2Tokenizer", 13) != 0)
        return jref_fail(&r, err,
                         "'%s' needs tokenizer.json: vocab.json serves Qwen2 and GPT-2 alone",
                         aq_show(class));
    t->byte_level = true;
    t->splits[t->split_count++] = qwen ? SPLIT_QWEN : SPLIT_GPT2;
    if (qwen)
        t->normals[t->normal_count++] = (struct normal_step){NORMAL_NFC, NULL, xstrdup("")};
    return 0;
}

static int load_vocab_files(struct tokenizer *t, const struct json *v, const char *path,
                            const char *dir, const struct json *config, const char *config_path,
                            struct aq_err *err)
{
    struct jref root = jref_root(v, path), c = {NULL};
    if (json_type(v) != JSON_OBJECT)
        return jref_fail(&root, err, "expected an object of symbols");
    if (config)
        c = jref_root(config, config_path);
    if (assume_pipeline(t, config ? &c : NULL, err) < 0 ||
        load_merges_file(t, dir, &root, err) < 0 || (config && load_added_decoder(t, &c, err) < 0))
        return -1;
    return load_config(t, config ? &c : NULL, err);
}

/* chat_template.jinja beside the files, which goes before the one in the configuration. */
static int read_chat_file(struct tokenizer *t, const char *dir, struct aq_err *err)
{
    char *path = aq_path_join(dir, "chat_template.jinja");
    struct aq_buf text = AQ_BUF_INIT;
    int r = 0;
    if (aq_path_exists(path)) {
        r = aq_read_file(path, MAX_CHAT_TEMPLATE, &text, err);
        aq_sha256_add(&t->files, aq_buf_str(&text), text.len);
        free(t->chat_template);
        t->chat_template = aq_buf_detach(&text);
    }
    aq_buf_release(&text);
    free(path);
    return r;
}

/* path is a tokenizer.json, or a vocab.json with merges.txt beside it. */
static struct tokenizer *open_file(const char *path, const char *dir, bool vocab,
                                   struct aq_err *err)
{
    struct tokenizer *t = new_tokenizer();
    struct json *config, *v = NULL;
    char *config_path;
    int r = read_config(t, dir, &config_path, &config, err);
    if (r == 0)
        v = read_json(t, path, err);
    if (!v)
        r = -1;
    else if (vocab)
        r = load_vocab_files(t, v, path, dir, config, config_path, err);
    else
        r = load_json(t, v, path, config, config_path, err);
    if (r == 0)
        r = read_chat_file(t, dir, err);
    json_free(v);
    json_free(config);
    free(config_path);
    return loaded(t, r);
}

static struct tokenizer *open_directory(const char *dir, struct aq_err *err)
{
    char *json = aq_path_join(dir, "tokenizer.json"), *vocab = aq_path_join(dir, "vocab.json");
    struct tokenizer *t = NULL;
    if (aq_path_exists(json))
        t = open_file(json, dir, false, err);
    else if (aq_path_exists(vocab))
        t = open_file(vocab, dir, true, err);
    else
        aq_err_set(err, AQ_EINPUT,
                   "'%s' holds no tokenizer: found neither tokenizer.json nor vocab.json",
                   aq_show(dir));
    free(json);
    free(vocab);
    return t;
}

struct tokenizer *tokenizer_open(const char *path, struct aq_err *err)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot read tokenizer '%s'", aq_show(path));
        return NULL;
    }
    if (S_ISDIR(st.st_mode))
        return open_directory(path, err);
    char *dir = aq_path_dir(path);
    struct tokenizer *t = open_file(path, dir, aq_path_ends(path, "vocab.json"), err);
    free(dir);
    return t;
}
