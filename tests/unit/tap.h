/* TAP on stdout: one line per check, "1..N" at the end, exit status 1 if anything failed. */
#ifndef AQ_TEST_TAP_H
#define AQ_TEST_TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int tap_count, tap_failed;

__attribute__((format(printf, 2, 3), unused)) static int tap_ok(int good, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("%sok %d - ", good ? "" : "not ", ++tap_count);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    tap_failed += !good;
    return good;
}

__attribute__((unused)) static int tap_same(const char *found, const char *expected,
                                            const char *what)
{
    int good = found && strcmp(found, expected) == 0;
    tap_ok(good, "%s", what);
    if (!good)
        printf("#    found: %s\n# expected: %s\n", found ? found : "(null)", expected);
    return good;
}

/* Through void: the very bits are what is compared. */
__attribute__((unused)) static int same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

__attribute__((unused)) static void tap_skip(const char *what, const char *why)
{
    printf("ok %d - %s # skip %s\n", ++tap_count, what, why);
}

__attribute__((unused)) static int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed ? 1 : 0;
}

#endif
