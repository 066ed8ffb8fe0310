/* Dependencies as a make rule. */
#include "base/strmap.h"
#include "conf/resolve.h"

#include <string.h>

/* A name as make reads it back. A newline cannot be written. */
static int add_name(struct aq_buf *out, const char *name, struct aq_err *err)
{
    for (const char *p = name; *p; p++) {
        if (*p == '\n' || *p == '\r')
            return aq_err_set(err, AQ_EINPUT, "a make rule cannot name the file '%s'",
                              aq_show(name));
        if (*p == '$')
            aq_buf_addc(out, '$');
        else if (strchr(" \t#:%\\", *p))
            aq_buf_addc(out, '\\');
        aq_buf_addc(out, *p);
    }
    return 0;
}

static int add_names(struct aq_buf *out, const struct aq_names *names, const char *before,
                     const char *after, struct aq_err *err)
{
    struct aq_strmap seen = AQ_STRMAP_INIT;
    int result = 0;
    for (size_t i = 0; i < names->count && result == 0; i++) {
        if (aq_strmap_has(&seen, names->items[i]))
            continue;
        aq_strmap_put(&seen, names->items[i], &seen);
        aq_buf_adds(out, before);
        result = add_name(out, names->items[i], err);
        aq_buf_adds(out, after);
    }
    aq_strmap_release(&seen);
    return result;
}

int resolve_depfile(struct aq_buf *out, const struct aq_names *targets,
                    const struct aq_names *files, struct aq_err *err)
{
    for (size_t i = 0; i < targets->count; i++) {
        aq_buf_adds(out, i ? " " : "");
        if (add_name(out, targets->items[i], err) < 0)
            return -1;
    }
    aq_buf_addc(out, ':');
    if (add_names(out, files, " ", "", err) < 0)
        return -1;
    aq_buf_addc(out, '\n');
    /* a file that has gone is no error: its former users are made again */
    return add_names(out, files, "\n", ":\n", err);
}
