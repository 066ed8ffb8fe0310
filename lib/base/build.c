#include "base/build.h"

#include <stdio.h>

#ifndef AQ_CFLAGS
#define AQ_CFLAGS "unknown"
#endif
#ifndef AQ_LIBS
#define AQ_LIBS "unknown"
#endif

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

void aq_print_build_info(void)
{
    printf("version: %s\ncompiler: %s\nflags: %s\nlibraries: %s\n", AQ_VERSION, COMPILER, AQ_CFLAGS,
           AQ_LIBS);
}
