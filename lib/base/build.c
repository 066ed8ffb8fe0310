#include "base/build.h"

#include <stdio.h>

#ifndef AQ_CFLAGS
#define AQ_CFLAGS "unknown"
#endif
#ifndef AQ_LIBS
#define AQ_LIBS "unknown"
#endif

enum { MAX_LINES = 16 };
static const char *keys[MAX_LINES], *values[MAX_LINES];
static int lines;

void aq_build_info_add(const char *key, const char *value)
{
    if (lines < MAX_LINES) {
        keys[lines] = key;
        values[lines++] = value;
    }
}

void aq_print_build_info(void)
{
    printf("version: %s\ncompiler: %s\nflags: %s\nlibraries: %s\n", AQ_VERSION, __VERSION__,
           AQ_CFLAGS, AQ_LIBS);
    for (int i = 0; i < lines; i++)
        printf("%s: %s\n", keys[i], values[i]);
}
