#include "text/records.h"
#include "base/mem.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

void record_release(struct record *r)
{
    json_free(r->json);
    free(r->messages);
    ids_release(&r->ids);
    *r = (struct record){.text = NULL};
}

static void clear(struct record *r)
{
    json_free(r->json);
    r->json = NULL;
    r->text = "";
    r->len = r->message_count = r->ids.count = 0;
}

void record_of_text(struct record *r, const char *line, size_t len)
{
    clear(r);
    r->kind = RECORD_TEXT;
    r->text = line;
    r->len = len;
}

/* ---- conversations ---- */

static const struct {
    const char *name;
    enum chat_role role;
} roles[] = {{"system", CHAT_SYSTEM},       {"user", CHAT_USER},     {"human", CHAT_USER},
             {"assistant", CHAT_ASSISTANT}, {"gpt", CHAT_ASSISTANT}, {"chatgpt", CHAT_ASSISTANT},
             {"model", CHAT_ASSISTANT}};

static int read_role(const struct jref *message, const char *key, enum chat_role *out,
                     struct aq_err *err)
{
    const char *text;
    struct jref r;
    if (jref_string(message, key, &text, err) < 0)
        return -1;
    for (size_t i = 0; i < AQ_COUNT(roles); i++)
        if (strcmp(text, roles[i].name) == 0) {
            *out = roles[i].role;
            return 0;
        }
    (void)jref_has(message, key, &r);
    return jref_fail(&r, err, "'%s' is not supported, expected system, user or assistant",
                     aq_show(text));
}

/* Present, and neither null nor empty. */
static bool is_set(const struct jref *object, const char *key, struct jref *out)
{
    if (!jref_has(object, key, out))
        return false;
    enum json_type type = json_type(out->v);
    return (type != JSON_ARRAY && type != JSON_OBJECT) || json_first(out->v);
}

static int read_message(struct record *r, const struct jref *m, bool sharegpt, struct aq_err *err)
{
    struct chat_message message = {.content = NULL};
    struct jref other;
    if (jref_is(m, JSON_OBJECT, err) < 0 ||
        read_role(m, sharegpt ? "from" : "role", &message.role, err) < 0 ||
        jref_string(m, sharegpt ? "value" : "content", &message.content, err) < 0)
        return -1;
    if (is_set(m, "tool_calls", &other))
        return jref_fail(&other, err, "calls of tools are not supported");
    if (jref_maybe_string(m, "reasoning_content", &message.reasoning, err) < 0)
        return -1;
    AQ_GROW(r->messages, r->message_count, r->message_cap);
    r->messages[r->message_count++] = message;
    return 0;
}

static int read_messages(struct record *r, const struct jref *object, const char *key,
                         struct aq_err *err)
{
    struct jref list, tools;
    bool sharegpt = strcmp(key, "conversations") == 0;
    if (jref_get(object, key, JSON_ARRAY, &list, err) < 0)
        return -1;
    if (is_set(object, "tools", &tools))
        return jref_fail(&tools, err, "tools are not supported");
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref m = jref_child(&list, v, i);
        if (read_message(r, &m, sharegpt, err) < 0)
            return -1;
    }
    r->kind = RECORD_CHAT;
    return r->message_count ? 0 : jref_fail(&list, err, "there are no messages");
}

/* ---- the others ---- */

static int read_ids(struct record *r, const struct jref *object, struct aq_err *err)
{
    struct jref list;
    if (jref_get(object, "input_ids", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref item = jref_child(&list, v, i);
        int64_t id;
        if (json_type(v) != JSON_INT || !json_int(v, &id) || id < 0 || id > INT32_MAX)
            return jref_fail(&item, err, "expected a token id from 0 to %d", INT32_MAX);
        ids_push(&r->ids, (int32_t)id);
    }
    r->kind = RECORD_IDS;
    return r->ids.count ? 0 : jref_fail(&list, err, "there are no ids");
}

static int read_text(struct record *r, const struct jref *object, struct aq_err *err)
{
    r->kind = RECORD_TEXT;
    if (jref_string(object, "text", &r->text, err) < 0)
        return -1;
    r->len = strlen(r->text);
    return 0;
}

int record_of_json(struct record *r, const char *line, size_t len, const char *place,
                   struct aq_err *err)
{
    static const char *const keys[] = {"text", "messages", "conversations", "input_ids"};
    const char *found = NULL;
    clear(r);
    r->json = json_parse(line, len, place, err);
    if (!r->json)
        return -1;
    struct jref root = jref_root(r->json, place);
    if (json_type(r->json) != JSON_OBJECT)
        return jref_fail(&root, err, "expected an object, found %s",
                         json_type_name(json_type(r->json)));
    for (size_t i = 0; i < AQ_COUNT(keys); i++) {
        if (!json_get(r->json, keys[i]))
            continue;
        if (found)
            return jref_fail(&root, err, "both '%s' and '%s', expected one of them", found,
                             keys[i]);
        found = keys[i];
    }
    if (!found) {
        const struct json *first = json_first(r->json);
        return jref_fail(&root, err,
                         "no text, messages, conversations or input_ids; the first key is '%s'",
                         first ? aq_show(json_key(first)) : "");
    }
    if (strcmp(found, "text") == 0)
        return read_text(r, &root, err);
    return strcmp(found, "input_ids") == 0 ? read_ids(r, &root, err)
                                           : read_messages(r, &root, found, err);
}

int records_detect(const char *line, size_t len, const char *place, bool *json, struct aq_err *err)
{
    /* a caption may begin with a brace or a bracket, but hardly as JSON does */
    bool blank = len > 1 && line[1] == ' ';
    bool like_json = len == 1 || blank || (len > 1 && strchr("\"{}]", line[1]));
    *json = false;
    if (len == 0 || !like_json || (*line != '{' && *line != '['))
        return 0;
    struct json *v = json_parse(line, len, place, blank ? NULL : err);
    bool parsed = v != NULL;
    *json = parsed && json_type(v) == JSON_OBJECT;
    json_free(v);
    if (*json || (blank && !parsed))
        return 0;
    if (parsed)
        aq_err_set(err, AQ_EINPUT, "%s: a JSON list, expected an object a line", aq_show(place));
    else
        (void)aq_err_prefix(err, "neither text nor JSON lines");
    return aq_err_hint(err, "a list becomes JSON lines by: jq -c '.[]' FILE; text stays text by: "
                            "--format text");
}
