/*
 * Chat templates: conversations as Jinja renders the published texts (vectors of
 * tests/oracle/chat.py). Where a template raises an exception, or leaves a message out without a
 * word, there is an error.
 */
#include "base/file.h"
#include "base/mem.h"
#include "io/json.h"
#include "tap.h"
#include "text/chat.h"

#include <stdlib.h>

enum { MAX_MESSAGES = 8 };

static size_t read_conversation(const struct json *list, struct chat_message *out)
{
    size_t n = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        const char *role = json_find_string(v, "role");
        out[n++] = (struct chat_message){.role = *role == 's'   ? CHAT_SYSTEM
                                                 : *role == 'u' ? CHAT_USER
                                                                : CHAT_ASSISTANT,
                                         .content = json_find_string(v, "content"),
                                         .reasoning = json_find_string(v, "reasoning_content")};
    }
    return n;
}

/* Refused here and rendered there: a content of the conversation is not in the text. */
static bool left_out(const struct chat_message *m, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++)
        if (m[i].role == CHAT_SYSTEM && *m[i].content && !strstr(text, m[i].content))
            return true;
    /* an empty one cannot be seen; two templates of Phi-3 print none at all */
    return count > 0 && m[0].role == CHAT_SYSTEM && !*m[0].content;
}

static void check_template(const struct json *head, const struct json *line)
{
    const struct chat *c = chat_of_digest(json_find_string(line, "sha256"));
    const char *name = json_find_string(line, "template");
    struct aq_buf out = AQ_BUF_INIT;
    int same = 0, refused = 0, count = 0;
    if (!tap_ok(c != NULL, "%s is implemented", name))
        return;
    const struct json *talk = json_first(json_find(head, "conversations"));
    for (const struct json *t = json_first(json_find(line, "texts")); t;
         t = json_next(t), talk = json_next(talk), count++) {
        struct chat_message m[MAX_MESSAGES];
        struct aq_err err = {0};
        size_t n = read_conversation(talk, m);
        const char *want = json_type(t) == JSON_STRING ? json_string(t) : NULL;
        int r = chat_render(c, json_find_string(head, "bos"), json_find_string(head, "eos"), m, n,
                            &out, &err);
        if (r < 0 && err.code == AQ_EINPUT && (!want || left_out(m, n, want)))
            refused++;
        else if (r == 0 && want && strcmp(aq_buf_str(&out), want) == 0)
            same++;
        else
            printf("# conversation %d: '%s' expected '%s'\n", count,
                   r < 0 ? err.msg : aq_buf_str(&out), want ? want : "(an exception)");
    }
    tap_ok(same >= 4 && same + refused == count, "%s: %d texts as Jinja's, %d of %d refused", name,
           same, refused, count);
    aq_buf_release(&out);
}

static void unknown(void)
{
    struct aq_err err = {0};
    tap_ok(!chat_find("{{ messages }}", &err) && err.code == AQ_EINPUT &&
               strstr(err.msg, "is none of those known: chatml, ") && strstr(err.hint, "input_ids"),
           "another template is refused with the way out");
    static const char spelled[] =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt "
        "%}{{ '<|im_start|>assistant\\n' }}{% endif %}\n";
    const struct chat *c = chat_find(spelled, &err);
    tap_ok(c && strcmp(chat_name(c), "chatml") == 0, "line ends in both spellings");
}

int main(void)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (aq_read_file("tests/oracle/chat/vectors.jsonl", 1 << 22, &text, &err) < 0) {
        puts("Bail out! run in the root of the repository");
        return 2;
    }
    struct json *head = NULL;
    for (char *rest = text.data, *line; (line = strsep(&rest, "\n")) && *line;) {
        struct json *v = json_parse(line, strlen(line), "vectors.jsonl", &err);
        if (!head) {
            head = v;
            continue;
        }
        check_template(head, v);
        json_free(v);
    }
    unknown();
    json_free(head);
    aq_buf_release(&text);
    return tap_done();
}
