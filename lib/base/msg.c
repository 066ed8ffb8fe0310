#include "base/msg.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *tool_name = "aq";
static int verbosity;

const char *aq_tool_name(void)
{
    return tool_name;
}

void aq_msg_name(const char *tool)
{
    tool_name = tool;
}

void aq_msg_verbosity(int level)
{
    verbosity = level;
}

/* One write a line: lines of several processes that share a stream do not mix. */
static AQ_PRINTF(2, 0) void say(const char *kind, const char *fmt, va_list ap)
{
    char line[4096];
    int n = snprintf(line, sizeof line, "%s: %s", tool_name, kind);
    size_t len = n < 0 ? 0 : (size_t)n;
    n = vsnprintf(line + len, sizeof line - len, fmt, ap);
    len = n < 0 ? len : strlen(line);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len] = '\n';
    (void)!write(STDERR_FILENO, line, len + 1);
}

void aq_warn(const char *fmt, ...)
{
    if (verbosity < 0)
        return;
    va_list ap;
    va_start(ap, fmt);
    say("warning: ", fmt, ap);
    va_end(ap);
}

void aq_note(int level, const char *fmt, ...)
{
    if (verbosity < level)
        return;
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
}

int aq_msg_error(const struct aq_err *err)
{
    (void)fprintf(stderr, "%s: %s\n", tool_name, err->msg);
    if (err->hint[0])
        (void)fprintf(stderr, "%s\n", err->hint);
    return err->code ? err->code : AQ_ERUN;
}
