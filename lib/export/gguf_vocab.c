#include "export/gguf_vocab.h"

#include "base/mem.h"
#include "base/strmap.h"
#include "export/gguf_model.h"

#include <stdlib.h>
#include <string.h>

enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_SPECIAL = 3,
    TOKEN_ADDED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

/* U+2581, SentencePiece's sign for a blank. */
#define MARK "\xe2\x96\x81"

/* The files of a tokenizer, and what becomes of them. */
struct vocabulary {
    const struct export_plan *p;
    struct gguf_writer *w;
    const struct json *config, *tokenizer, *tokenizer_config;
    bool pieces; /* SentencePiece's way: blanks marked, unknown bytes as tokens */
    const char *split;
    const char **text;
    int32_t *type;
    char **made; /* texts that the tokenizer has otherwise, or not at all */
    int64_t size;
};

static bool has_type(const struct json *step, const char *type)
{
    const char *t = json_find_string(step, "type");
    return t && strcmp(t, type) == 0;
}

static bool flag(const struct json *v, const char *key)
{
    const struct json *b = json_find(v, key);
    return b && json_type(b) == JSON_BOOL && json_bool(b);
}

/* ---- what kind of tokenizer ---- */

/*
 * llama.cpp knows how text is split into words by a name. The expressions of the splits that are
 * known, as tokenizer.json has them.
 */
#define WORDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(tail)                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER    \
    "*" tail "|"
#define SLASHES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *regex;
    const char *name, *whole; /* whole: where a word that is a token is not split further */
} splits[] = {
    {WORDS "\\p{N}" REST, "qwen2", NULL},
    {WORDS "\\p{N}{1,3}" REST, "dbrx", "llama-bpe"},
    {CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?") "\\p{N}{1,3}" SLASHES, "gpt-4o", NULL},
    {CASED("") "\\p{N}" SLASHES, NULL, "tekken"},
};

/* The name of a list of steps that ends with ByteLevel; NULL: another kind. */
static const char *split_name(const struct json *tokenizer)
{
    const struct json *pre = json_find(tokenizer, "pre_tokenizer");
    const struct json *first = json_find_first(pre, "pretokenizers");
    const struct json *second = first ? json_next(first) : NULL;
    if (has_type(pre, "ByteLevel"))
        return flag(pre, "add_prefix_space") ? NULL : "gpt-2";
    if (!second || json_next(second) || !has_type(second, "ByteLevel") ||
        flag(second, "add_prefix_space"))
        return NULL;
    if (has_type(first, "Digits"))
        return flag(first, "individual_digits") ? "smollm" : NULL;
    const char *regex = json_find_string(json_find(first, "pattern"), "Regex");
    bool whole = flag(json_find(tokenizer, "model"), "ignore_merges");
    for (size_t i = 0; i < AQ_COUNT(splits); i++)
        if (has_type(first, "Split") && regex && strcmp(regex, splits[i].regex) == 0)
            return whole && splits[i].whole ? splits[i].whole : splits[i].name;
    return NULL;
}

/* Does one of the steps, or the only one, have this type? */
static const struct json *find_step(const struct json *root, const char *list, const char *type)
{
    if (has_type(root, type))
        return root;
    for (const struct json *s = json_find_first(root, list); s; s = json_next(s))
        if (has_type(s, type))
            return s;
    return NULL;
}

/* Blanks become marks, in a normalizer or in Metaspace; *in_front: one is put before the text. */
static bool marks_blanks(const struct json *tokenizer, bool *in_front)
{
    const struct json *normalizer = json_find(tokenizer, "normalizer");
    const struct json *replace = find_step(normalizer, "normalizers", "Replace");
    const struct json *meta = json_find(tokenizer, "pre_tokenizer");
    const char *content = json_find_string(replace, "content");
    *in_front = find_step(normalizer, "normalizers", "Prepend") != NULL;
    if (has_type(meta, "Metaspace")) {
        const char *scheme = json_find_string(meta, "prepend_scheme");
        *in_front = scheme && strcmp(scheme, "never") != 0;
        return true;
    }
    return content && strcmp(content, MARK) == 0;
}

static int find_kind(struct vocabulary *v, bool *in_front, struct aq_err *err)
{
    const struct json *model = json_find(v->tokenizer, "model");
    v->pieces = flag(model, "byte_fallback") && marks_blanks(v->tokenizer, in_front);
    v->split = v->pieces ? "default" : split_name(v->tokenizer);
    if (!has_type(model, "BPE") || !v->split)
        return aq_err_set(err, AQ_EINPUT,
                          "tokenizer.json: a tokenizer of this kind is not written as GGUF");
    return 0;
}

/* ---- tokens ---- */

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

static bool between(const char *text, const char *first, const char *last)
{
    size_t n = strlen(text), a = strlen(first), b = strlen(last);
    return n > a + b && strncmp(text, first, a) == 0 && strcmp(text + n - b, last) == 0;
}

/* Some control the model although their flag does not say so. */
static bool looks_special(const char *text)
{
    static const char *const known[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
    for (size_t i = 0; i < AQ_COUNT(known); i++)
        if (strcmp(text, known[i]) == 0)
            return true;
    return between(text, "<|", "|>") || between(text, "<\xef\xbd\x9c", "\xef\xbd\x9c>") ||
           between(text, "<unused", ">");
}

static bool is_byte_token(const char *text)
{
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 &&
           strspn(text + 3, "0123456789ABCDEF") == 2 && text[5] == '>';
}

/* The text with blanks for marks, as llama.cpp wants added tokens; NULL: it has none. */
static char *without_marks(const char *text)
{
    if (!strstr(text, MARK))
        return NULL;
    struct aq_buf out = AQ_BUF_INIT;
    for (; *text; text++) {
        bool mark = strncmp(text, MARK, strlen(MARK)) == 0;
        aq_buf_addc(&out, mark ? ' ' : *text);
        text += mark ? strlen(MARK) - 1 : 0;
    }
    return aq_buf_detach(&out);
}

static int fill_added(struct vocabulary *v, const struct jref *root, struct aq_err *err)
{
    struct jref added;
    size_t i = 0;
    if (jref_get(root, "added_tokens", JSON_ARRAY, &added, err) < 0)
        return -1;
    for (const struct json *t = json_first(added.v); t; t = json_next(t)) {
        struct jref at = jref_child(&added, t, i++);
        const char *content;
        int64_t id;
        bool special;
        if (jref_int(&at, "id", 0, INT32_MAX, &id, err) < 0 ||
            jref_string(&at, "content", &content, err) < 0 ||
            jref_bool(&at, "special", &special, err) < 0)
            return -1;
        special |= looks_special(content);
        if (put_token(v, id, content, special ? TOKEN_SPECIAL : TOKEN_ADDED, err) < 0)
            return -1;
        char *plain = v->pieces && !special ? without_marks(content) : NULL;
        if (plain) {
            free(v->made[id]);
            v->text[id] = v->made[id] = plain;
        }
    }
    return 0;
}

static int fill_tokens(struct vocabulary *v, const struct jref *root, struct aq_err *err)
{
    struct jref model, vocab;
    int64_t id;
    if (jref_get(root, "model", JSON_OBJECT, &model, err) < 0 ||
        jref_get(&model, "vocab", JSON_OBJECT, &vocab, err) < 0)
        return -1;
    const char *unknown = v->pieces ? json_find_string(model.v, "unk_token") : NULL;
    for (const struct json *t = json_first(vocab.v); t; t = json_next(t)) {
        struct jref at = jref_child(&vocab, t, 0);
        const char *text = json_key(t);
        int32_t type = unknown && strcmp(text, unknown) == 0 ? TOKEN_UNKNOWN
                       : v->pieces && is_byte_token(text)    ? TOKEN_BYTE
                                                             : TOKEN_NORMAL;
        if (jref_is(&at, JSON_INT, err) < 0 || !json_int(t, &id) ||
            put_token(v, id, text, type, err) < 0)
            return -1;
    }
    if (fill_added(v, root, err) < 0)
        return -1;
    for (id = 0; id < v->size; id++)
        if (!v->text[id]) {
            v->made[id] = xasprintf("[PAD%lld]", (long long)id);
            v->text[id] = v->made[id];
            v->type[id] = TOKEN_UNUSED;
        }
    return 0;
}

/* ---- merges, and the scores that say the same ---- */

struct merge {
    const char *a, *b; /* b NULL: a holds both, with a blank between */
};

/* Caller frees the list. */
static struct merge *read_merges(const struct jref *root, size_t *count, struct aq_err *err)
{
    struct jref model, merges;
    if (jref_get(root, "model", JSON_OBJECT, &model, err) < 0 ||
        jref_get(&model, "merges", JSON_ARRAY, &merges, err) < 0)
        return NULL;
    struct merge *all = xcalloc(json_size(merges.v) + 1, sizeof *all);
    size_t i = 0;
    for (const struct json *m = json_first(merges.v); m; m = json_next(m), i++) {
        struct jref at = jref_child(&merges, m, i);
        const struct json *a = json_type(m) == JSON_ARRAY ? json_first(m) : NULL;
        const struct json *b = a ? json_next(a) : NULL;
        if (json_type(m) == JSON_STRING) {
            all[i].a = json_string(m);
        } else if (b && json_type(a) == JSON_STRING && json_type(b) == JSON_STRING) {
            all[i] = (struct merge){json_string(a), json_string(b)};
        } else {
            (void)jref_fail(&at, err, "expected two strings");
            free(all);
            return NULL;
        }
    }
    *count = i;
    return all;
}

static int add_merges(struct vocabulary *v, const struct jref *root, struct aq_err *err)
{
    size_t n;
    struct merge *all = read_merges(root, &n, err);
    if (!all)
        return -1;
    char **made = xcalloc(n + 1, sizeof *made);
    for (size_t i = 0; i < n; i++)
        made[i] = all[i].b ? xasprintf("%s %s", all[i].a, all[i].b) : xstrdup(all[i].a);
    gguf_add_strings(v->w, "tokenizer.ggml.merges", (const char *const *)made, n);
    for (size_t i = 0; i < n; i++)
        free(made[i]);
    free(made);
    free(all);
    return 0;
}

/*
 * SentencePiece joins the pair whose token has the highest score. In the order of merges, tokens
 * get 0, -1, -2, ...; those that no merge makes come after them. tokenizer.model, where a
 * checkpoint has one, says the same numbers.
 */
static int add_scores(struct vocabulary *v, const struct jref *root, struct aq_err *err)
{
    struct aq_strmap ids = AQ_STRMAP_INIT;
    struct aq_buf joined = AQ_BUF_INIT;
    size_t n, next = 0;
    struct merge *all = read_merges(root, &n, err);
    if (!all)
        return -1;
    float *score = xcalloc((size_t)v->size, sizeof *score);
    bool *done = xcalloc((size_t)v->size, sizeof *done);
    for (int64_t id = 0; id < v->size; id++) {
        if (v->type[id] == TOKEN_NORMAL)
            aq_strmap_put(&ids, v->text[id], &score[id]);
        else if (v->type[id] == TOKEN_UNUSED)
            score[id] = -10000;
        else if (v->type[id] == TOKEN_SPECIAL || v->type[id] == TOKEN_ADDED)
            score[id] = -1000;
    }
    for (size_t i = 0; i < n; i++) {
        const char *blank = all[i].b ? NULL : strchr(all[i].a, ' ');
        aq_buf_reset(&joined);
        if (blank)
            aq_buf_addf(&joined, "%.*s%s", (int)(blank - all[i].a), all[i].a, blank + 1);
        else
            aq_buf_addf(&joined, "%s%s", all[i].a, all[i].b ? all[i].b : "");
        float *s = aq_strmap_get(&ids, aq_buf_str(&joined));
        if (s && !done[s - score]) {
            done[s - score] = true;
            *s = -(float)next++;
        }
    }
    for (int64_t id = 0; id < v->size; id++)
        if (v->type[id] == TOKEN_NORMAL && !done[id])
            score[id] = -(float)next++;
    gguf_add_f32s(v->w, "tokenizer.ggml.scores", score, (size_t)v->size);
    aq_strmap_release(&ids);
    aq_buf_release(&joined);
    free(all);
    free(score);
    free(done);
    return 0;
}

/* ---- tokens with a part to play ---- */

static int64_t find_token(const struct vocabulary *v, const char *text)
{
    for (int64_t id = 0; text && id < v->size; id++)
        if (strcmp(v->text[id], text) == 0)
            return id;
    return -1;
}

/* The id of a token that tokenizer_config.json names by its text. */
static int64_t named_token(const struct vocabulary *v, const char *key)
{
    const struct json *t = json_find(v->tokenizer_config, key);
    return find_token(v, t && json_type(t) == JSON_STRING ? json_string(t)
                                                          : json_find_string(t, "content"));
}

static int64_t configured_token(const struct vocabulary *v, const char *key)
{
    const struct json *t = gguf_text_value(v->config, key);
    int64_t id;
    if (t && json_type(t) == JSON_ARRAY) /* some have several ends of text */
        t = json_first(t);
    return t && json_type(t) == JSON_INT && json_int(t, &id) && id >= 0 && id < v->size ? id : -1;
}

static void add_special_ids(const struct vocabulary *v)
{
    static const struct {
        const char *theirs, *config, *tokenizer;
    } ids[] = {{"tokenizer.ggml.bos_token_id", "bos_token_id", "bos_token"},
               {"tokenizer.ggml.eos_token_id", "eos_token_id", "eos_token"},
               {"tokenizer.ggml.padding_token_id", "pad_token_id", "pad_token"}};
    for (size_t i = 0; i < AQ_COUNT(ids); i++) {
        int64_t id = named_token(v, ids[i].tokenizer);
        if (id < 0)
            id = configured_token(v, ids[i].config);
        if (id >= 0)
            gguf_add_u32(v->w, ids[i].theirs, (uint32_t)id);
    }
    int64_t unknown = named_token(v, "unk_token");
    if (unknown < 0 && v->pieces)
        unknown = find_token(v, json_find_string(json_find(v->tokenizer, "model"), "unk_token"));
    if (unknown >= 0)
        gguf_add_u32(v->w, "tokenizer.ggml.unknown_token_id", (uint32_t)unknown);
}

/* Which tokens go around a text: the template's, or as tokenizer_config.json says. */
static void add_around(const struct vocabulary *v)
{
    const struct json *around =
        find_step(json_find(v->tokenizer, "post_processor"), "processors", "TemplateProcessing");
    const struct json *first = json_find_first(around, "single"), *last = first;
    while (last && json_next(last))
        last = json_next(last);
    bool bos = first ? json_find(first, "SpecialToken") != NULL
                     : flag(v->tokenizer_config, "add_bos_token");
    bool eos = last ? last != first && json_find(last, "SpecialToken")
                    : flag(v->tokenizer_config, "add_eos_token");
    gguf_add_bool(v->w, "tokenizer.ggml.add_bos_token", bos);
    gguf_add_bool(v->w, "tokenizer.ggml.add_eos_token", eos);
}

/* From tokenizer_config.json, or a file of its own. */
static int add_template(const struct vocabulary *v, struct aq_err *err)
{
    enum { LIMIT = 16 << 20 };
    const char *text = json_find_string(v->tokenizer_config, "chat_template");
    struct aq_buf file = AQ_BUF_INIT;
    char *path = aq_path_join(v->p->lm.root, "chat_template.jinja");
    int r = 0;
    if (!text && aq_path_exists(path)) {
        r = aq_read_file(path, LIMIT, &file, err);
        text = r == 0 ? aq_buf_str(&file) : NULL;
    }
    if (text)
        gguf_add_string(v->w, "tokenizer.chat_template", text);
    aq_buf_release(&file);
    free(path);
    return r;
}

/* ---- all ---- */

static int add_tokenizer(struct vocabulary *v, struct aq_err *err)
{
    struct jref root = jref_root(v->tokenizer, "tokenizer.json");
    size_t n = (size_t)v->size;
    bool in_front = false;
    if (find_kind(v, &in_front, err) < 0 || fill_tokens(v, &root, err) < 0)
        return -1;
    gguf_add_string(v->w, "tokenizer.ggml.model", v->pieces ? "llama" : "gpt2");
    gguf_add_string(v->w, "tokenizer.ggml.pre", v->split);
    gguf_add_strings(v->w, "tokenizer.ggml.tokens", v->text, n);
    gguf_add_i32s(v->w, "tokenizer.ggml.token_type", v->type, n);
    if ((v->pieces ? add_scores(v, &root, err) : add_merges(v, &root, err)) < 0)
        return -1;
    add_special_ids(v);
    add_around(v);
    if (v->pieces)
        gguf_add_bool(v->w, "tokenizer.ggml.add_space_prefix", in_front);
    return add_template(v, err);
}

static struct json *read_beside(const struct export_plan *p, const char *name, bool needed,
                                int *status, struct aq_err *err)
{
    char *path = aq_path_join(p->lm.root, name);
    struct json *v = NULL;
    if (*status == 0 && (needed || aq_path_exists(path))) {
        v = json_read(path, err);
        if (!v)
            *status = -1;
    }
    free(path);
    return v;
}

int gguf_add_vocabulary(const struct export_plan *p, struct gguf_writer *w,
                        const struct json *config, struct aq_err *err)
{
    int r = 0;
    struct json *tokenizer = read_beside(p, "tokenizer.json", true, &r, err);
    struct json *more = read_beside(p, "tokenizer_config.json", false, &r, err);
    size_t n = (size_t)p->lm.arch.vocab_size;
    struct vocabulary v = {.p = p,
                           .w = w,
                           .config = config,
                           .tokenizer = tokenizer,
                           .tokenizer_config = more,
                           .text = xcalloc(n, sizeof *v.text),
                           .type = xcalloc(n, sizeof *v.type),
                           .made = xcalloc(n, sizeof *v.made),
                           .size = (int64_t)n};
    if (r == 0)
        r = add_tokenizer(&v, err);
    for (size_t i = 0; i < n; i++)
        free(v.made[i]);
    free(v.text);
    free(v.type);
    free(v.made);
    json_free(tokenizer);
    json_free(more);
    return r;
}
