/*
 * Records of a data set, one a line: text as it is, or JSON lines: {"text": ...}, a conversation
 * ({"messages": [{"role", "content"}]} or ShareGPT's {"conversations": [{"from", "value"}]}), or
 * ready-made ids ({"input_ids": [...]}). Other keys of an object are not read.
 */
#ifndef AQ_TEXT_RECORDS_H
#define AQ_TEXT_RECORDS_H

#include "base/err.h"
#include "text/bpe.h"
#include "text/chat.h"

#include <stdbool.h>
#include <stddef.h>

enum record_kind { RECORD_TEXT, RECORD_CHAT, RECORD_IDS };

/* One record; start zeroed, used again for each line. */
struct record {
    enum record_kind kind;
    const char *text; /* borrowed from the line, or from json */
    size_t len;
    struct chat_message *messages; /* RECORD_CHAT; texts borrowed from json */
    size_t message_count, message_cap;
    struct ids ids; /* RECORD_IDS */
    struct json *json;
};

void record_release(struct record *r);
/* A line of a plain text file. */
void record_of_text(struct record *r, const char *line, size_t len);
/* A line of a JSON lines file; place ("file:12") is for messages. Errors are AQ_EINPUT. */
int record_of_json(struct record *r, const char *line, size_t len, const char *place,
                   struct aq_err *err) AQ_MUST_CHECK;

/*
 * Does a file with this first line (not blank) hold JSON lines? What begins like JSON but is
 * something else (a list, an object over several lines) is AQ_EINPUT.
 */
int records_detect(const char *line, size_t len, const char *place, bool *json,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
