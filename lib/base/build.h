/* What this build is: filled in by the Makefile. */
#ifndef AQ_BASE_BUILD_H
#define AQ_BASE_BUILD_H

#ifndef AQ_VERSION
#define AQ_VERSION "0.1.0"
#endif

void aq_print_build_info(void);

#endif
