/* JSON texts: what is accepted is written and read back as an equal tree, in every layout; what
 * cJSON alone refuses is refused. */
#include "base/buf.h"
#include "io/json.h"

#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layout(const struct json *v, unsigned flags)
{
    struct aq_buf text = AQ_BUF_INIT, again = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (json_write(&text, v, flags, &err) < 0)
        abort();
    struct json *back = json_parse(text.data, text.len, "again.json", &err);
    if (!back || !json_equal(v, back))
        abort();
    if (json_write(&again, back, flags, &err) < 0 || strcmp(text.data, again.data) != 0)
        abort();
    json_free(back);
    aq_buf_release(&text);
    aq_buf_release(&again);
}

/* Strict means: a subset of what a lenient parser takes. */
static void check_lenient(const char *text, size_t size)
{
    cJSON *c = cJSON_ParseWithLength(text, size);
    if (!c)
        abort();
    cJSON_Delete(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_err err = {0};
    struct json *v = json_parse((const char *)data, size, "fuzz.json", &err);
    if (!v) {
        if (err.code != AQ_EINPUT || strncmp(err.msg, "fuzz.json:", 10) != 0)
            abort();
        return 0;
    }
    check_lenient((const char *)data, size);
    check_layout(v, 0);
    check_layout(v, JSON_COMPACT | JSON_SORT_KEYS);
    json_free(v);
    return 0;
}
