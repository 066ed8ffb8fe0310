#include "select/pattern.h"
#include "base/mem.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fnmatch.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum { MATCH_LIMIT = 100000 }; /* steps for one name: a module name is short */

struct pattern {
    char *glob; /* NULL: an expression */
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *context;
};

struct pattern *pattern_new(const char *text, struct aq_err *err)
{
    struct pattern *p = xcalloc(1, sizeof *p);
    if (strncmp(text, "re:", 3) != 0) {
        p->glob = xstrdup(text);
        return p;
    }
    int number;
    PCRE2_SIZE at;
    p->code = pcre2_compile((PCRE2_SPTR)text + 3, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &number, &at, NULL);
    if (!p->code) {
        PCRE2_UCHAR message[200];
        (void)pcre2_get_error_message(number, message, sizeof message);
        aq_err_set(err, AQ_EINPUT, "pattern '%s' is not valid at character %zu: %s", aq_show(text),
                   (size_t)at + 3, (const char *)message);
        free(p);
        return NULL;
    }
    p->data = pcre2_match_data_create(1, NULL);
    p->context = pcre2_match_context_create(NULL);
    (void)pcre2_set_match_limit(p->context, MATCH_LIMIT);
    return p;
}

void pattern_free(struct pattern *p)
{
    if (!p)
        return;
    pcre2_match_context_free(p->context);
    pcre2_match_data_free(p->data);
    pcre2_code_free(p->code);
    free(p->glob);
    free(p);
}

int pattern_match(const struct pattern *p, const char *name, struct aq_err *err)
{
    if (p->glob)
        return fnmatch(p->glob, name, 0) == 0;
    int found = pcre2_match(p->code, (PCRE2_SPTR)name, strlen(name), 0, 0, p->data, p->context);
    if (found >= 0)
        return 1;
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    return aq_err_set(err, AQ_EINPUT, "the pattern takes too long on '%s'", aq_show(name));
}
