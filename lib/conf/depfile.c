/* Dependencies as a make rule. */
#include "base/strmap.h"
#include "conf/resolve.h"

#include <stdbool.h>
#include <string.h>

/*
 * What no escape makes a part of a name: ';' begins a recipe, which would run what follows it, '='
 * an assignment, '|' order-only prerequisites, '&' a group, '%' a pattern and '(' an archive.
 */
static bool can_name(const char *name)
{
    size_t n = strlen(name);
    return n && !strpbrk(name, "\n\r;=|&%()") && name[0] != '~' && name[n - 1] != '\\';
}

/* A name as make reads it back. */
static int add_name(struct aq_buf *out, const char *name, struct aq_err *err)
{
    if (!can_name(name))
        return aq_err_set(err, AQ_EINPUT, "a make rule cannot name the file '%s'", aq_show(name));
    size_t slashes = 0; /* backslashes right before: they mean themselves unless one escapes */
    for (const char *p = name; *p; p++) {
        if (*p == '$')
            aq_buf_addc(out, '$');
        if (strchr(" \t#:*?[", *p))
            for (size_t i = 0; i <= slashes; i++)
                aq_buf_addc(out, '\\');
        aq_buf_addc(out, *p);
        slashes = *p == '\\' ? slashes + 1 : 0;
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
    /* a file that has gone is not an error: its former users are made again */
    return add_names(out, files, "\n", ":\n", err);
}
