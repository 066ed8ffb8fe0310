#include "text/chat.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "text/unicode.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* In the texts below: the tokenizer's begin and end token. */
#define BOS "\x01"
#define EOS "\x02"

enum {
    STRIP = 1,         /* white space around every content */
    STRIP_USER = 2,    /* around contents other than the first system message */
    ALTERNATE = 4,     /* user, assistant, user, ... after an optional system message */
    NO_SYSTEM = 8,     /* a system message is an error, or would be lost */
    FIRST_SYSTEM = 16, /* only as the first message */
    SKIP_EMPTY_SYSTEM = 32,
    HOIST_SYSTEM = 128, /* the last system message is printed at the start, others are not */
    CUT_THOUGHT = 64,   /* an answer begins after its last "</think>" */
};

/* What a template prints before and after a message's content. */
struct turn_marks {
    const char *before, *after;
};

struct chat {
    const char *name;
    const char *sha256[2]; /* of the template's text, see canonical() */
    unsigned flags;
    const char *start;
    struct turn_marks system, user, assistant;
    /* A first system message has a frame of its own, or is put into the first user's content. */
    struct turn_marks first_system, in_user;
    const char *default_system;       /* content where the first message is not a system message */
    struct turn_marks last_assistant; /* where the conversation ends with one */
    const char *end;
    void (*special)(const struct chat_message *m, size_t count, struct aq_buf *out);
};

static void render_qwen3(const struct chat_message *m, size_t count, struct aq_buf *out);

#define CHATML(role)                                                                               \
    {                                                                                              \
        "<|im_start|>" role "\n", "<|im_end|>\n"                                                   \
    }
#define HEADER(role)                                                                               \
    {                                                                                              \
        "<|start_header_id|>" role "<|end_header_id|>\n\n", "<|eot_id|>"                           \
    }
#define TAGGED(role)                                                                               \
    {                                                                                              \
        "<|" role "|>\n", "<|end|>\n"                                                              \
    }
#define TURN(role)                                                                                 \
    {                                                                                              \
        "<start_of_turn>" role "\n", "<end_of_turn>\n"                                             \
    }
#define GRANITE(role)                                                                              \
    {                                                                                              \
        "<|start_of_role|>" role "<|end_of_role|>", "<|end_of_text|>\n"                            \
    }
#define CHATML_ALL                                                                                 \
    .system = CHATML("system"), .user = CHATML("user"), .assistant = CHATML("assistant")
#define HEADER_ALL                                                                                 \
    .system = HEADER("system"), .user = HEADER("user"), .assistant = HEADER("assistant")
#define TAGGED_ALL                                                                                 \
    .system = TAGGED("system"), .user = TAGGED("user"), .assistant = TAGGED("assistant")
#define TULU                                                                                       \
    .system = {"<|system|>\n", "\n"}, .user = {"<|user|>\n", "\n"},                                \
    .assistant = {"<|assistant|>\n", EOS "\n"}, .last_assistant = {"<|assistant|>\n", EOS}
#define LLAMA31_SYSTEM                                                                             \
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"        \
    "Today Date: 26 Jul 2024\n\n"

static const struct chat all[] = {
    {.name = "chatml",
     .sha256 = {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3"},
     CHATML_ALL},
    {.name = "smollm2",
     .sha256 = {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"},
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
     CHATML_ALL},
    {.name = "qwen2",
     .sha256 = {"793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb",
                "7d6302983e64f35c4ad9459413ee827d5dcfa23ba5373f58cde030c9f724f7e8"},
     .default_system = "You are a helpful assistant.",
     CHATML_ALL},
    {.name = "qwen2.5",
     .sha256 = {"a18cc698dd45623eb707279d08e66f7bb8d76afc89ead84016b88487b395b5cc"},
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     CHATML_ALL},
    {.name = "qwen3",
     .sha256 = {"2df317a15cbc983d9602cc391d33be17237d47ec7eb11ead80fae277143958aa"},
     .special = render_qwen3},
    {.name = "llama2",
     .sha256 = {"9780fae5bfea3cfd7be37d328c6edfd296a8869be8131495bbe7eb37e780c88c"},
     .flags = ALTERNATE | STRIP | FIRST_SYSTEM,
     .user = {BOS "[INST] ", " [/INST]"},
     .assistant = {" ", " " EOS},
     .in_user = {"<<SYS>>\n", "\n<</SYS>>\n\n"}},
    {.name = "llama3",
     .sha256 = {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122"},
     .flags = STRIP,
     .start = BOS,
     HEADER_ALL},
    {.name = "llama3.1",
     .sha256 = {"99799a835a31e1d33c4a9c7ee8a0de3923b291a95155ed6dc8efcbd0fe1d0238",
                "0cac23ffd2b33ff7b039e17ee143a080053318146fdc788f1d49ed4745aa8683"},
     .flags = STRIP,
     .start = BOS,
     .first_system = {LLAMA31_SYSTEM, "<|eot_id|>"},
     .default_system = "",
     HEADER_ALL},
    {.name = "mistral",
     .sha256 = {"26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7"},
     .flags = ALTERNATE | NO_SYSTEM,
     .start = BOS,
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", EOS}},
    {.name = "mistral-v1",
     .sha256 = {"1c6594f8393552ef16bbf3ddecb67d8258fb8d66339a1a092a8f8496061f02d3"},
     .flags = ALTERNATE | FIRST_SYSTEM,
     .start = BOS,
     .user = {" [INST] ", " [/INST]"},
     .assistant = {" ", EOS},
     .in_user = {"", "\n\n"}},
    {.name = "phi3",
     .sha256 = {"dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa"},
     TAGGED_ALL,
     .end = EOS},
    {.name = "phi3-first",
     .sha256 = {"268b6082ceb7176dc6ed80557a2f7837f9f0339592fbee677d405a553af15f88"},
     .flags = NO_SYSTEM,
     .start = BOS,
     .user = {"<|user|>\n", "<|end|>\n<|assistant|>\n"},
     .assistant = {"", "<|end|>\n"}},
    {.name = "phi3-medium",
     .sha256 = {"605841622bcb6572225608f09ec2afcdfb9fb50844ef52715a12689f7b9278b1"},
     .flags = NO_SYSTEM,
     .user = {"<|user|>\n", "<|end|>\n<|assistant|>\n"},
     .assistant = {"", "<|end|>\n"}},
    {.name = "phi3-small",
     .sha256 = {"b0e53f5e7bae6fdb93013abeceef343e8841cce87def2601e7269a53439b5740"},
     .start = BOS,
     TAGGED_ALL,
     .end = EOS},
    {.name = "phi3.5",
     .sha256 = {"78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90"},
     .flags = SKIP_EMPTY_SYSTEM,
     TAGGED_ALL,
     .end = EOS},
    {.name = "phi4-mini",
     .sha256 = {"febf589225c9728ab791f52e8897d7607a823d45368f0a4c92fa68997b40cce9"},
     .system = {"<|system|>", "<|end|>"},
     .user = {"<|user|>", "<|end|>"},
     .assistant = {"<|assistant|>", "<|end|>"},
     .end = EOS},
    {.name = "gemma",
     .sha256 = {"ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6"},
     .flags = ALTERNATE | NO_SYSTEM | STRIP,
     .start = BOS,
     .user = TURN("user"),
     .assistant = TURN("model")},
    {.name = "gemma3",
     .sha256 = {"8d9e3a3c114fb2053ec500184677af4f7e5f8ec2582443cd535834e68b3ade29"},
     .flags = ALTERNATE | FIRST_SYSTEM | STRIP_USER,
     .start = BOS,
     .user = TURN("user"),
     .assistant = TURN("model"),
     .in_user = {"", "\n\n"}},
    {.name = "granite3",
     .sha256 = {"09d68eeb5c0eaa551adea6cc088a05c7298966f395f203126e76b74f5a77a8ff"},
     .system = GRANITE("system"),
     .user = GRANITE("user"),
     .assistant = GRANITE("assistant")},
    {.name = "deepseek-r1",
     .sha256 = {"795ba6276beff6e84e75213f77a7e7fff71b6c587618a6ed43c1f90c2ad2334a"},
     .flags = HOIST_SYSTEM | CUT_THOUGHT,
     .start = BOS,
     .system = {"", ""},
     .user = {"<\uff5cUser\uff5c>", ""},
     .assistant = {"<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"}},
    {.name = "olmo2",
     .sha256 = {"fe689ffbd6a4e2d0532d7480696b065b10e0e1eff3f9b9fc4bea415761e4bf4a"},
     .start = BOS,
     TULU},
    {.name = "tulu3",
     .sha256 = {"ac7498a36a719da630e99d48e6ebc4409de85a77556c2b6159eeb735bcbd11df"},
     TULU},
};

/* ---- finding ---- */

/* Files write a line end inside of Jinja's strings as \n or as itself, which means the same. */
static void canonical(const char *jinja, struct aq_buf *out)
{
    for (const char *p = jinja; *p; p++) {
        bool escaped = p[0] == '\\' && p[1] == 'n';
        aq_buf_addc(out, escaped ? '\n' : *p);
        p += escaped;
    }
    out->len -= chars_trailing(aq_buf_str(out), out->len, char_is_strippable);
}

const struct chat *chat_of_digest(const char *sha256)
{
    for (size_t i = 0; i < AQ_COUNT(all); i++)
        for (size_t k = 0; k < AQ_COUNT(all[i].sha256); k++)
            if (all[i].sha256[k] && strcmp(all[i].sha256[k], sha256) == 0)
                return &all[i];
    return NULL;
}

const struct chat *chat_find(const char *jinja, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT, names = AQ_BUF_INIT;
    char hex[AQ_SHA256_HEX];
    canonical(jinja, &text);
    aq_sha256_of(aq_buf_str(&text), text.len, hex);
    aq_buf_release(&text);
    const struct chat *c = chat_of_digest(hex);
    if (c)
        return c;
    for (size_t i = 0; i < AQ_COUNT(all); i++)
        aq_buf_addf(&names, "%s%s", i ? ", " : "", all[i].name);
    aq_err_set(err, AQ_EINPUT, "the chat template (sha256 %.16s...) is none of those known: %s",
               hex, aq_buf_str(&names));
    aq_err_hint(err, "render conversations yourself: JSON lines with \"text\", or \"input_ids\"");
    aq_buf_release(&names);
    return NULL;
}

const char *chat_name(const struct chat *c)
{
    return c->name;
}

/* ---- rendering ---- */

struct rendering {
    const struct chat *c;
    const char *bos, *eos;
    struct aq_buf *out;
};

static void put(const struct rendering *r, const char *text)
{
    for (const char *p = text ? text : ""; *p; p++) {
        if (*p == *BOS)
            aq_buf_adds(r->out, r->bos);
        else if (*p == *EOS)
            aq_buf_adds(r->out, r->eos);
        else
            aq_buf_addc(r->out, *p);
    }
}

static void put_stripped(struct aq_buf *out, const char *text, size_t len)
{
    len -= chars_trailing(text, len, char_is_strippable);
    size_t skip = chars_leading(text, len, char_is_strippable);
    aq_buf_add(out, text + skip, len - skip);
}

static void put_content(const struct rendering *r, const char *content, unsigned strip)
{
    if (r->c->flags & strip)
        put_stripped(r->out, content, strlen(content));
    else
        aq_buf_adds(r->out, content);
}

static void put_framed(const struct rendering *r, const struct turn_marks *f, const char *content,
                       unsigned strip)
{
    put(r, f->before);
    put_content(r, content, strip);
    put(r, f->after);
}

/* The first user's message with the system message inside; both are stripped as one, or neither. */
static void put_with_system(const struct rendering *r, const char *system, const char *content)
{
    struct aq_buf both = AQ_BUF_INIT;
    aq_buf_addf(&both, "%s%s%s", r->c->in_user.before, system, r->c->in_user.after);
    put(r, r->c->user.before);
    if (r->c->flags & STRIP) {
        aq_buf_adds(&both, content);
        put_stripped(r->out, both.data, both.len);
    } else {
        aq_buf_adds(r->out, both.data);
        put_content(r, content, STRIP_USER);
    }
    put(r, r->c->user.after);
    aq_buf_release(&both);
}

static int check_order(const struct chat *c, const struct chat_message *m, size_t count,
                       struct aq_err *err)
{
    size_t first = m[0].role == CHAT_SYSTEM && !(c->flags & NO_SYSTEM);
    for (size_t i = 0; i < count; i++) {
        if (m[i].reasoning && !c->special)
            return aq_err_set(err, AQ_EINPUT, "the chat template '%s' takes no reasoning_content",
                              c->name);
        if (m[i].role == CHAT_SYSTEM && (c->flags & NO_SYSTEM))
            return aq_err_set(err, AQ_EINPUT, "the chat template '%s' takes no system message",
                              c->name);
        if (m[i].role == CHAT_SYSTEM && i && (c->flags & FIRST_SYSTEM))
            return aq_err_set(err, AQ_EINPUT,
                              "the chat template '%s' takes a system message at the start only",
                              c->name);
        if ((c->flags & ALTERNATE) && i >= first &&
            m[i].role != ((i - first) % 2 ? CHAT_ASSISTANT : CHAT_USER))
            return aq_err_set(err, AQ_EINPUT,
                              "the chat template '%s' wants user and assistant in turns, from user "
                              "on; message %zu breaks that",
                              c->name, i + 1);
    }
    if (c->in_user.before && first && count < 2)
        return aq_err_set(err, AQ_EINPUT,
                          "a system message alone, which the chat template '%s' leaves out",
                          c->name);
    return 0;
}

#define THOUGHT_END "</think>"

/* The last place of a text, or NULL. */
static const char *find_last(const char *text, size_t len, const char *what)
{
    const char *found = NULL;
    size_t n = strlen(what);
    for (const char *p; (p = memmem(text, len, what, n)) != NULL;) {
        found = p;
        len -= (size_t)(p - text) + 1;
        text = p + 1;
    }
    return found;
}

static void render(const struct rendering *r, const struct chat_message *m, size_t count)
{
    const struct chat *c = r->c;
    bool hoist = c->flags & HOIST_SYSTEM, given = !hoist && m[0].role == CHAT_SYSTEM;
    const char *system = given ? m[0].content : c->default_system;
    for (size_t k = 0; hoist && k < count; k++)
        if (m[k].role == CHAT_SYSTEM)
            system = m[k].content;
    const struct turn_marks *first = c->first_system.before ? &c->first_system : &c->system;
    size_t i = given;
    put(r, c->start);
    if (system && c->in_user.before && count > i)
        put_with_system(r, system, m[i++].content);
    else if (system && (*system || !(c->flags & SKIP_EMPTY_SYSTEM)))
        put_framed(r, first, system, STRIP);
    for (; i < count; i++) {
        const char *content = m[i].content, *thought = NULL;
        if (m[i].role == CHAT_SYSTEM && (hoist || (!*content && (c->flags & SKIP_EMPTY_SYSTEM))))
            continue;
        if (m[i].role == CHAT_ASSISTANT && (c->flags & CUT_THOUGHT))
            thought = find_last(content, strlen(content), THOUGHT_END);
        if (thought)
            content = thought + strlen(THOUGHT_END);
        const struct turn_marks *f = m[i].role == CHAT_SYSTEM ? &c->system
                                     : m[i].role == CHAT_USER ? &c->user
                                                              : &c->assistant;
        if (f == &c->assistant && i + 1 == count && c->last_assistant.before)
            f = &c->last_assistant;
        put_framed(r, f, content, STRIP | STRIP_USER);
    }
    put(r, c->end);
}

/* ---- Qwen3: reasoning is kept after the last question only ---- */

/* Without line ends at the start, and at the end if asked. */
static void put_lines(struct aq_buf *out, const char *text, size_t len, bool both)
{
    while (len && *text == '\n') {
        text++;
        len--;
    }
    while (both && len && text[len - 1] == '\n')
        len--;
    aq_buf_add(out, text, len);
}

struct text_span {
    const char *s;
    size_t n;
};

/* Splits "<think>\nwhy\n</think>\n\nanswer" as the template does. */
static void split_thought(const struct chat_message *m, struct text_span *thought,
                          struct text_span *answer)
{
    static const char open[] = "<think>", close[] = THOUGHT_END;
    *answer = (struct text_span){m->content, strlen(m->content)};
    *thought = (struct text_span){m->reasoning ? m->reasoning : "", 0};
    thought->n = strlen(thought->s);
    const char *end = strstr(m->content, close);
    if (m->reasoning || !end)
        return;
    const char *last = find_last(m->content, answer->n, close) + strlen(close);
    answer->n -= (size_t)(last - m->content);
    answer->s = last;
    while (answer->n && *answer->s == '\n') {
        answer->s++;
        answer->n--;
    }
    *thought = (struct text_span){m->content, (size_t)(end - m->content)};
    while (thought->n && thought->s[thought->n - 1] == '\n')
        thought->n--;
    const char *begin = find_last(thought->s, thought->n, open);
    if (begin) {
        begin += strlen(open);
        thought->n -= (size_t)(begin - thought->s);
        thought->s = begin;
    }
    while (thought->n && *thought->s == '\n') {
        thought->s++;
        thought->n--;
    }
}

static void put_answer(const struct chat_message *m, bool after_query, bool last,
                       struct aq_buf *out)
{
    struct text_span thought, answer;
    split_thought(m, &thought, &answer);
    aq_buf_adds(out, "<|im_start|>assistant\n");
    if (after_query && (last || thought.n)) {
        aq_buf_adds(out, "<think>\n");
        put_lines(out, thought.s, thought.n, true);
        aq_buf_adds(out, "\n</think>\n\n");
        put_lines(out, answer.s, answer.n, false);
    } else {
        aq_buf_add(out, answer.s, answer.n);
    }
    aq_buf_adds(out, "<|im_end|>\n");
}

static bool is_tool_response(const char *text)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    size_t n = strlen(text);
    return strncmp(text, open, strlen(open)) == 0 && n >= strlen(close) &&
           strcmp(text + n - strlen(close), close) == 0;
}

static void render_qwen3(const struct chat_message *m, size_t count, struct aq_buf *out)
{
    size_t query = count - 1;
    for (size_t i = count; i--;)
        if (m[i].role == CHAT_USER && !is_tool_response(m[i].content)) {
            query = i;
            break;
        }
    for (size_t i = 0; i < count; i++) {
        if (m[i].role == CHAT_ASSISTANT)
            put_answer(&m[i], i > query, i + 1 == count, out);
        else
            aq_buf_addf(out, "<|im_start|>%s\n%s<|im_end|>\n",
                        m[i].role == CHAT_USER ? "user" : "system", m[i].content);
    }
}

int chat_render(const struct chat *c, const char *bos, const char *eos,
                const struct chat_message *messages, size_t count, struct aq_buf *out,
                struct aq_err *err)
{
    aq_buf_reset(out);
    if (count == 0)
        return aq_err_set(err, AQ_EINPUT, "a conversation without messages");
    if (check_order(c, messages, count, err) < 0)
        return -1;
    if (c->special)
        c->special(messages, count, out);
    else
        render(&(struct rendering){c, bos, eos, out}, messages, count);
    return 0;
}
