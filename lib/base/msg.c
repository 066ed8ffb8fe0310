#include "base/msg.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static const char *tool_name = "aq";
static int verbosity, sink = STDERR_FILENO;
static atomic_bool line_open;

void aq_msg_name(const char *tool)
{
    tool_name = tool;
}

void aq_msg_verbosity(int level)
{
    verbosity = level;
}

void aq_msg_line_open(bool open)
{
    atomic_store(&line_open, open);
}

void aq_msg_to(int fd)
{
    sink = fd;
}

/* One write per line, so that lines of several processes that share a stream do not mix. */
static void put(char *line, size_t len, size_t cap)
{
    if (len > cap - 1)
        len = cap - 1;
    line[len] = '\n';
    if (sink == STDERR_FILENO && atomic_exchange(&line_open, false))
        (void)!write(sink, "\r\033[K", 4);
    (void)!write(sink, line, len + 1);
}

static AQ_PRINTF(2, 0) void say(const char *kind, const char *fmt, va_list ap)
{
    char line[4096];
    int n = snprintf(line, sizeof line, "%s: %s", tool_name, kind);
    size_t len = n < 0 ? 0 : (size_t)n;
    n = vsnprintf(line + len, sizeof line - len, fmt, ap);
    put(line, n < 0 ? len : len + (size_t)n, sizeof line);
}

void aq_msg_line(const char *text)
{
    char line[512];
    size_t len = 0;
    const char *parts[] = {tool_name, ": ", text};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (const char *p = parts[i]; *p && len < sizeof line; p++)
            line[len++] = *p;
    put(line, len, sizeof line);
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
    char line[sizeof err->msg + sizeof err->hint + 256];
    int n = snprintf(line, sizeof line, "%s: %s%s%s", tool_name, err->msg, err->hint[0] ? "\n" : "",
                     err->hint);
    put(line, n < 0 ? 0 : (size_t)n, sizeof line);
    return err->code ? err->code : AQ_ERUN;
}
