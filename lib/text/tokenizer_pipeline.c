#include "base/mem.h"
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- what must be as it is implemented ---- */

int tokenizer_need_text(const struct jref *object, const char *key, const char *wanted,
                        struct aq_err *err)
{
    struct jref r;
    const char *found;
    if (!jref_has(object, key, &r))
        return jref_fail(object, err, "no %s, expected '%s'", key, wanted);
    if (jref_string(object, key, &found, err) < 0)
        return -1;
    if (strcmp(found, wanted) != 0)
        return jref_fail(&r, err, "'%s' is not supported, expected '%s'", aq_show(found), wanted);
    return 0;
}

int tokenizer_need_off(const struct jref *object, const char *const *keys, size_t count,
                       struct aq_err *err)
{
    for (size_t i = 0; i < count; i++) {
        struct jref r;
        if (!jref_has(object, keys[i], &r))
            continue;
        enum json_type type = json_type(r.v);
        bool off = (type == JSON_BOOL && !json_bool(r.v)) ||
                   (type == JSON_STRING && !*json_string(r.v)) ||
                   ((type == JSON_INT || type == JSON_FLOAT) && json_number(r.v) == 0);
        if (!off)
            return jref_fail(&r, err, "is set, which is not supported");
    }
    return 0;
}

int tokenizer_flag(const struct jref *object, const char *key, bool otherwise, bool *out,
                   struct aq_err *err)
{
    *out = otherwise;
    return jref_maybe_bool(object, key, out, err);
}

/* The step's type, one of a list of names; -1 with the list. */
static int type_of(const struct jref *r, const char *const *names, size_t count, const char *list,
                   struct aq_err *err)
{
    const char *type;
    struct jref t;
    if (jref_is(r, JSON_OBJECT, err) < 0)
        return -1;
    if (!jref_has(r, "type", &t))
        return jref_fail(r, err, "no type, expected one of: %s", list);
    if (jref_string(r, "type", &type, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (strcmp(type, names[i]) == 0)
            return (int)i;
    return jref_fail(&t, err, "'%s' is not supported, expected one of: %s", aq_show(type), list);
}

/* `each` for the value itself, or for each of the steps in its list if its type is Sequence. */
static int for_each_step(struct tokenizer *t, const struct jref *r, const char *list_key,
                         int (*each)(struct tokenizer *t, const struct jref *r, bool last,
                                     struct aq_err *err),
                         struct aq_err *err)
{
    struct jref list;
    const char *type = json_find_string(r->v, "type");
    if (!type || strcmp(type, "Sequence") != 0)
        return each(t, r, true, err);
    if (jref_get(r, list_key, JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref step = jref_child(&list, v, i);
        if (i == MAX_STEPS)
            return jref_fail(&step, err, "more than %d steps", MAX_STEPS);
        if (each(t, &step, !json_next(v), err) < 0)
            return -1;
    }
    return 0;
}

/* ---- normalizer ---- */

static int string_pattern(const struct jref *r, const char **out, struct aq_err *err)
{
    struct jref pattern, s;
    if (jref_get(r, "pattern", JSON_OBJECT, &pattern, err) < 0)
        return -1;
    if (!jref_has(&pattern, "String", &s))
        return jref_fail(&pattern, err, "only a String is supported here");
    if (jref_string(&pattern, "String", out, err) < 0)
        return -1;
    return **out ? 0 : jref_fail(&s, err, "is empty");
}

static int read_normal(struct tokenizer *t, const struct jref *r, bool last, struct aq_err *err)
{
    static const char *const names[] = {
        [NORMAL_NFC] = "NFC", [NORMAL_PREPEND] = "Prepend", [NORMAL_REPLACE] = "Replace"};
    const char *from = NULL, *to = NULL;
    int kind = type_of(r, names, AQ_COUNT(names), "NFC, Prepend, Replace, Sequence", err);
    (void)last;
    if (kind < 0)
        return -1;
    if (kind == NORMAL_PREPEND && jref_string(r, "prepend", &to, err) < 0)
        return -1;
    if (kind == NORMAL_REPLACE &&
        (string_pattern(r, &from, err) < 0 || jref_string(r, "content", &to, err) < 0))
        return -1;
    t->normals[t->normal_count++] =
        (struct normal_step){(enum normal)kind, from ? xstrdup(from) : NULL, xstrdup(to ? to : "")};
    return 0;
}

/* ---- pre-tokenizer ---- */

static int read_byte_level(struct tokenizer *t, const struct jref *r, bool last, struct aq_err *err)
{
    static const char *const off[] = {"add_prefix_space"};
    struct jref v;
    bool regex;
    if (!jref_has(r, off[0], &v)) /* its default is true */
        return jref_fail(r, err, "%s is missing, expected false", off[0]);
    if (tokenizer_need_off(r, off, 1, err) < 0 ||
        tokenizer_flag(r, "use_regex", true, &regex, err) < 0)
        return -1;
    if (!last)
        return jref_fail(r, err, "ByteLevel must be the last step");
    t->byte_level = true;
    if (regex)
        t->splits[t->split_count++] = SPLIT_GPT2;
    return 0;
}

static int read_regex(struct tokenizer *t, const struct jref *pattern, struct aq_err *err)
{
    const char *regex;
    if (jref_string(pattern, "Regex", &regex, err) < 0)
        return -1;
    for (size_t i = 0; i < AQ_COUNT(split_patterns); i++)
        if (strcmp(regex, split_patterns[i]) == 0) {
            t->splits[t->split_count++] = (enum split)i;
            return 0;
        }
    struct jref r;
    (void)jref_has(pattern, "Regex", &r);
    jref_fail(&r, err, "the pattern is none of those of Qwen2, Llama 3 and GPT-2");
    return aq_err_hint(err, "ready-made ids need no tokenizer: JSON lines with \"input_ids\"");
}

static int read_split(struct tokenizer *t, const struct jref *r, struct aq_err *err)
{
    static const char *const off[] = {"invert"};
    struct jref pattern, v;
    const char *blank;
    if (jref_get(r, "pattern", JSON_OBJECT, &pattern, err) < 0 ||
        tokenizer_need_off(r, off, 1, err) < 0)
        return -1;
    if (jref_has(&pattern, "Regex", &v))
        return read_regex(t, &pattern, err) < 0
                   ? -1
                   : tokenizer_need_text(r, "behavior", "Isolated", err);
    if (string_pattern(r, &blank, err) < 0)
        return -1;
    if (strcmp(blank, " ") != 0)
        return jref_fail(&pattern, err, "'%s' is not supported, expected ' '", aq_show(blank));
    t->splits[t->split_count++] = SPLIT_AFTER_BLANK;
    return tokenizer_need_text(r, "behavior", "MergedWithPrevious", err);
}

static int read_digits(struct tokenizer *t, const struct jref *r, struct aq_err *err)
{
    bool individual;
    if (tokenizer_flag(r, "individual_digits", false, &individual, err) < 0)
        return -1;
    t->splits[t->split_count++] = individual ? SPLIT_DIGIT : SPLIT_DIGITS;
    return 0;
}

static int read_metaspace(struct tokenizer *t, const struct jref *r, struct aq_err *err)
{
    const char *scheme = "always";
    bool prefix, cut;
    struct jref v;
    if (t->split_count || t->metaspace != META_NONE)
        return jref_fail(r, err, "Metaspace must be the first step");
    if (tokenizer_need_text(r, "replacement", BLANK_MARK, err) < 0 ||
        tokenizer_flag(r, "add_prefix_space", true, &prefix, err) < 0 ||
        tokenizer_flag(r, "split", true, &cut, err) < 0 ||
        jref_maybe_string(r, "prepend_scheme", &scheme, err) < 0)
        return -1;
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 &&
        strcmp(scheme, "never") != 0)
        return jref_fail(&v, err, "'%s' is not one of: always, first, never", aq_show(scheme));
    if (!prefix && strcmp(scheme, "never") != 0)
        return jref_fail(r, err, "add_prefix_space contradicts prepend_scheme");
    t->metaspace = *scheme == 'a' ? META_ALWAYS : *scheme == 'f' ? META_FIRST : META_NEVER;
    if (cut)
        t->splits[t->split_count++] = SPLIT_AT_MARK;
    return 0;
}

static int read_pre_step(struct tokenizer *t, const struct jref *r, bool last, struct aq_err *err)
{
    static const char *const names[] = {"ByteLevel", "Split", "Digits", "Metaspace"};
    switch (
        type_of(r, names, AQ_COUNT(names), "ByteLevel, Split, Digits, Metaspace, Sequence", err)) {
    case 0:
        return read_byte_level(t, r, last, err);
    case 1:
        return read_split(t, r, err);
    case 2:
        return read_digits(t, r, err);
    case 3:
        return read_metaspace(t, r, err);
    default:
        return -1;
    }
}

/* ---- post-processor ---- */

static int add_special(struct tokenizer *t, const struct jref *special, const struct jref *map,
                       bool after, struct aq_err *err)
{
    const char *name;
    struct jref entry, ids;
    if (jref_string(special, "id", &name, err) < 0 ||
        jref_get(map, name, JSON_OBJECT, &entry, err) < 0 ||
        jref_get(&entry, "ids", JSON_ARRAY, &ids, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(ids.v); v; v = json_next(v), i++) {
        struct jref r = jref_child(&ids, v, i);
        int64_t id;
        size_t *count = after ? &t->specials.after_count : &t->specials.before_count;
        if (json_type(v) != JSON_INT || !json_int(v, &id) || id < 0 || id >= TOKENIZER_MAX_VOCAB)
            return jref_fail(&r, err, "expected an id");
        if (*count == TOKENIZER_MAX_SPECIALS)
            return jref_fail(&r, err, "more than %d special tokens", TOKENIZER_MAX_SPECIALS);
        (after ? t->specials.after : t->specials.before)[(*count)++] = (int32_t)id;
    }
    return 0;
}

/* "single": special tokens, the text ("Sequence" A), special tokens. */
static int read_template(struct tokenizer *t, const struct jref *r, struct aq_err *err)
{
    struct jref single, map = {NULL};
    bool text = false;
    if (jref_get(r, "single", JSON_ARRAY, &single, err) < 0 ||
        jref_get(r, "special_tokens", JSON_OBJECT, &map, err) < 0)
        return -1;
    if (t->specials.before_count || t->specials.after_count)
        return jref_fail(r, err, "there is a TemplateProcessing before this one");
    size_t i = 0;
    for (const struct json *v = json_first(single.v); v; v = json_next(v), i++) {
        struct jref item = jref_child(&single, v, i), part;
        if (jref_is(&item, JSON_OBJECT, err) < 0)
            return -1;
        if (jref_has(&item, "SpecialToken", &part)) {
            if (jref_get(&item, "SpecialToken", JSON_OBJECT, &part, err) < 0 ||
                add_special(t, &part, &map, text, err) < 0)
                return -1;
        } else if (jref_get(&item, "Sequence", JSON_OBJECT, &part, err) < 0 ||
                   tokenizer_need_text(&part, "id", "A", err) < 0) {
            return -1;
        } else if (text) {
            return jref_fail(&item, err, "the text is there twice");
        } else {
            text = true;
        }
    }
    return text ? 0 : jref_fail(&single, err, "the text is not there");
}

/* ByteLevel changes offsets alone. */
static int read_post_step(struct tokenizer *t, const struct jref *r, bool last, struct aq_err *err)
{
    static const char *const names[] = {"ByteLevel", "TemplateProcessing"};
    int kind = type_of(r, names, AQ_COUNT(names), "ByteLevel, TemplateProcessing, Sequence", err);
    (void)last;
    return kind == 1 ? read_template(t, r, err) : kind;
}

int tokenizer_read_pipeline(struct tokenizer *t, const struct jref *root, struct aq_err *err)
{
    static const char *const own[] = {"truncation", "padding"};
    struct jref r;
    if (jref_has(root, "normalizer", &r) &&
        for_each_step(t, &r, "normalizers", read_normal, err) < 0)
        return -1;
    if (jref_has(root, "pre_tokenizer", &r) &&
        for_each_step(t, &r, "pretokenizers", read_pre_step, err) < 0)
        return -1;
    if (t->byte_level && t->metaspace != META_NONE)
        return jref_fail(&r, err, "Metaspace and ByteLevel do not go together");
    if (jref_has(root, "post_processor", &r) &&
        for_each_step(t, &r, "processors", read_post_step, err) < 0)
        return -1;
    return tokenizer_need_off(root, own, AQ_COUNT(own), err);
}
