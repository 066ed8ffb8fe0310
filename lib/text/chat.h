/*
 * Chat templates: how a checkpoint writes a conversation as one text. A template is a Jinja program
 * in tokenizer_config.json; it is not run here. Those of the families that aq knows are implemented
 * and found by the SHA-256 of their text, others are refused.
 *
 * "Today", where a template prints it, is the template's own default date.
 */
#ifndef AQ_TEXT_CHAT_H
#define AQ_TEXT_CHAT_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

struct chat_message {
    enum chat_role role;
    const char *content;
    const char *reasoning; /* "reasoning_content", or NULL */
};

struct chat;

/* The template with this text; NULL with AQ_EINPUT and the way out if it is not implemented. */
const struct chat *chat_find(const char *jinja, struct aq_err *err);
/* The one with this SHA-256 (hex) of its text, where "\\n" is a line end and white space at the end
   is left out; or NULL. */
const struct chat *chat_of_digest(const char *sha256);
const char *chat_name(const struct chat *c);
/*
 * Replaces out's content by the text of a conversation, without a prompt for a next answer. bos and
 * eos are the tokenizer's begin and end tokens, "" if it has none. What the template itself would
 * refuse or leave out (a system message where it takes none, roles that do not alternate) is
 * AQ_EINPUT.
 */
int chat_render(const struct chat *c, const char *bos, const char *eos,
                const struct chat_message *messages, size_t count, struct aq_buf *out,
                struct aq_err *err) AQ_MUST_CHECK;

#endif
