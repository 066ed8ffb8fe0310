/*
 * Errors. Library code prints none and never exits: it fills a struct aq_err and returns -1 (or
 * NULL); the tool prints one line and exits with the class. The class of an error is its exit code.
 */
#ifndef AQ_BASE_ERR_H
#define AQ_BASE_ERR_H

#include <stdarg.h>

#define AQ_MUST_CHECK __attribute__((warn_unused_result))
#define AQ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define AQ_NORETURN __attribute__((noreturn))

enum aq_class {
    AQ_OK = 0,
    AQ_ERUN = 1,     /* run-time failure: I/O, memory, internal */
    AQ_EUSAGE = 2,   /* something typed: option, override, key, number */
    AQ_EINPUT = 3,   /* the content of a file */
    AQ_EBACKEND = 4, /* backend or device not available */
};

struct aq_err {
    int code;        /* enum aq_class */
    char msg[1000];  /* one printable line, no "tool: " prefix, no full stop */
    char hint[1600]; /* empty, or one more line: the choices, or what to type next */
};

/* All return -1, so that `return aq_err_set(err, ...)` reads well. err may be NULL. */
int aq_err_set(struct aq_err *err, int code, const char *fmt, ...) AQ_PRINTF(3, 4);
int aq_err_vset(struct aq_err *err, int code, const char *fmt, va_list ap) AQ_PRINTF(3, 0);
/* The same with ": <strerror(errno)>" at the end. */
int aq_err_sys(struct aq_err *err, int code, const char *fmt, ...) AQ_PRINTF(3, 4);
/* Put "<text>: " before the message on the way up. */
int aq_err_prefix(struct aq_err *err, const char *fmt, ...) AQ_PRINTF(2, 3);
/* The second line. */
int aq_err_hint(struct aq_err *err, const char *fmt, ...) AQ_PRINTF(2, 3);

/* The static analyzer looks at one file at a time and would doubt the -1. */
#ifdef __clang_analyzer__
#define aq_err_set(...) ((void)(aq_err_set)(__VA_ARGS__), -1)
#define aq_err_sys(...) ((void)(aq_err_sys)(__VA_ARGS__), -1)
#define aq_err_prefix(...) ((void)(aq_err_prefix)(__VA_ARGS__), -1)
#endif

/*
 * A copy of text (a name from a file, an argument) that is safe to print on a terminal: control
 * characters, invalid UTF-8 and bidirectional marks become \xNN or \u{NNNN}; long text ends in
 * "...". The result lives in a ring of static buffers: good for one message, not for keeping.
 * Not thread-safe; for messages only.
 */
const char *aq_show(const char *text);
const char *aq_show_n(const char *text, unsigned long len);

#endif
