#include "base/mem.h"
#include "base/msg.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

static AQ_NORETURN void out_of_memory(size_t n)
{
    char text[64];
    (void)snprintf(text, sizeof text, "out of memory (%zu bytes)", n);
    aq_msg_line(text);
    exit(AQ_ERUN);
}

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p)
        out_of_memory(n);
    return p;
}

void *xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p)
        out_of_memory(size);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);
    if (!q)
        out_of_memory(n);
    return q;
}

void *xreallocarray(void *p, size_t count, size_t size)
{
    size_t n;
    if (!aq_mul(count, size, &n))
        out_of_memory(SIZE_MAX);
    return xrealloc(p, n);
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *xstrndup(const char *s, size_t n)
{
    char *p = xmalloc(n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *xasprintf(const char *fmt, ...)
{
    char *p = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    if (n < 0)
        out_of_memory(0);
    return p;
}

bool aq_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

bool aq_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* The lower of both; RLIM_INFINITY where there is none. */
static rlim_t lowest_limit(const char **option)
{
    struct rlimit space = {RLIM_INFINITY, 0}, data = {RLIM_INFINITY, 0};
    (void)getrlimit(RLIMIT_AS, &space);
    (void)getrlimit(RLIMIT_DATA, &data);
    bool by_data = data.rlim_cur < space.rlim_cur;
    *option = by_data ? "-d" : "-v";
    return by_data ? data.rlim_cur : space.rlim_cur;
}

bool aq_mem_limited(void)
{
    const char *option;
    return lowest_limit(&option) != RLIM_INFINITY;
}

int aq_mem_hint(struct aq_err *err)
{
    const char *option;
    rlim_t limit = lowest_limit(&option);
    if (limit == RLIM_INFINITY)
        return -1;
    return aq_err_hint(err,
                       "ulimit %s allows %.1f MB in all: raise it, or ask for less with --threads "
                       "or --memory",
                       option, (double)limit / 1e6);
}

void *aq_big_alloc(size_t bytes, const char *purpose, struct aq_err *err)
{
    void *p =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        aq_err_sys(err, AQ_ERUN, "cannot get %.1f MB for %s", (double)bytes / 1e6, purpose);
        (void)aq_mem_hint(err);
        return NULL;
    }
    /* Advice only: first touch of 4 KiB pages is several times slower than of huge ones. */
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

void aq_big_free(void *p, size_t bytes)
{
    if (p)
        (void)munmap(p, bytes ? bytes : 1);
}
