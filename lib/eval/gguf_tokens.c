#include "eval/gguf_tokens.h"

#include "base/file.h"
#include "base/mem.h"
#include "io/json.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char **list_strings(struct gguf_file *f, const char *key, uint64_t *count)
{
    const struct gguf_value *v = gguf_get(f, key);
    *count = 0;
    if (!v || v->kind != GGUF_KIND_ARRAY || v->element != GGUF_KIND_STRING)
        return NULL;
    const char **list = xcalloc((size_t)v->count + 1, sizeof *list), *text;
    size_t at = 0;
    while (*count < v->count && (text = gguf_next_string(f, v, &at)))
        list[(*count)++] = text;
    return list;
}

static int differs(const struct gguf_file *f, const char *what, int64_t i, const char *found,
                   const char *expected, struct aq_err *err)
{
    return aq_err_set(err, AQ_EINPUT,
                      "%s has another tokenizer than the reference: %s %" PRId64
                      " is '%s', expected '%s'",
                      aq_show(f->path), what, i, aq_show(found), aq_show(expected));
}

/* Tokens that were added have their texts changed by converters: blanks, and the like. */
static bool *list_added(const struct json *tokenizer, uint64_t count)
{
    bool *added = xcalloc((size_t)count + 1, sizeof *added);
    for (const struct json *t = json_find_first(tokenizer, "added_tokens"); t; t = json_next(t)) {
        double id = json_find_number(t, "id");
        if (id >= 0 && id < (double)count)
            added[(size_t)id] = true;
    }
    return added;
}

static int check_vocabulary(struct gguf_file *f, const struct json *tokenizer, struct aq_err *err)
{
    uint64_t count;
    const char **tokens = list_strings(f, "tokenizer.ggml.tokens", &count);
    bool *added = list_added(tokenizer, count);
    const struct json *vocabulary = json_find(json_find(tokenizer, "model"), "vocab");
    int r = 0;
    for (const struct json *t = vocabulary ? json_first(vocabulary) : NULL; t && tokens && r == 0;
         t = json_next(t)) {
        int64_t id;
        if (json_type(t) != JSON_INT || !json_int(t, &id) || id < 0)
            continue;
        if ((uint64_t)id >= count)
            r = differs(f, "token", id, "", json_key(t), err);
        else if (!added[id] && strcmp(tokens[id], json_key(t)) != 0)
            r = differs(f, "token", id, tokens[id], json_key(t), err);
    }
    free(added);
    free(tokens);
    return r;
}

/* "a b", or ["a", "b"]. */
static char *merge_text(const struct json *m)
{
    const struct json *a = json_type(m) == JSON_ARRAY ? json_first(m) : NULL;
    const struct json *b = a ? json_next(a) : NULL;
    if (json_type(m) == JSON_STRING)
        return xstrdup(json_string(m));
    return b && json_type(a) == JSON_STRING && json_type(b) == JSON_STRING
               ? xasprintf("%s %s", json_string(a), json_string(b))
               : NULL;
}

static int check_merges(struct gguf_file *f, const struct json *tokenizer, struct aq_err *err)
{
    uint64_t count, i = 0;
    const char **merges = list_strings(f, "tokenizer.ggml.merges", &count);
    int r = 0;
    for (const struct json *m = json_find_first(json_find(tokenizer, "model"), "merges");
         m && merges && r == 0; m = json_next(m), i++) {
        char *text = merge_text(m);
        if (text && (i >= count || strcmp(text, merges[i]) != 0))
            r = differs(f, "merge", (int64_t)i, i < count ? merges[i] : "", text, err);
        free(text);
    }
    if (r == 0 && merges && i > 0 && i < count)
        r = differs(f, "merge", (int64_t)i, merges[i], "", err);
    free(merges);
    return r;
}

int gguf_tokens_check(struct gguf_file *f, const char *dir, struct aq_err *err)
{
    char *path = aq_path_join(dir, "tokenizer.json");
    struct json *tokenizer = NULL;
    int r = 0;
    if (aq_path_exists(path)) {
        tokenizer = json_read_max(path, TOKENIZER_MAX_FILE, err);
        r = tokenizer ? 0 : -1;
    }
    if (tokenizer)
        r = check_vocabulary(f, tokenizer, err) < 0 ? -1 : check_merges(f, tokenizer, err);
    json_free(tokenizer);
    free(path);
    return r;
}
