/* The engines that reports speak of, with their rules. */
#ifndef AQ_REPORT_ENGINES_H
#define AQ_REPORT_ENGINES_H

#include "engine/engine.h"

enum { REPORT_SERVERS = 4, REPORT_ENGINES }; /* the last one, transformers, does not serve */

extern const struct engines_name {
    const char *name, *title; /* as in conf/engine, and as it calls itself */
} engines_names[REPORT_ENGINES];

struct engines {
    struct engine *rules[REPORT_ENGINES]; /* NULL: not known */
};

/* conf_dir: NULL leaves all unknown. Release also after a failure. */
int engines_load(struct engines *e, const char *conf_dir, struct aq_err *err) AQ_MUST_CHECK;
void engines_release(struct engines *e);

#endif
