/*
 * What the runner makes of a composed configuration: values checked for type and range, scheme
 * name, number of samples, output directory, base format.
 */
#ifndef AQ_CONF_RUN_H
#define AQ_CONF_RUN_H

#include "conf/compose.h"
#include "io/json.h"

#include <stdbool.h>

struct run {
    const char *scheme_name;
    int64_t calib_samples, score_samples;
    const char *out_dir; /* relative to the start directory, or absolute */
    const char *pair_name;
    bool experimental;
    const char *format_name;
    struct place format_place;
};

/* Checks every value that the tools read. Strings live in the result's arena. */
int run_describe(struct conf_result *r, struct node *app, bool sweep, struct run *out,
                 struct aq_err *err) AQ_MUST_CHECK;

/* hydra.sweep.subdir of this job. */
const char *run_subdir(struct conf_result *r, struct aq_err *err);

/* Base formats by name, each read once. Zero-initialize. */
struct run_formats {
    struct aq_strmap by_name;
    struct aq_strmap files; /* name -> path of the file */
};
void run_formats_release(struct run_formats *f);

/* run.json: the configuration and `_aq`. Caller frees. */
struct json *run_to_json(struct conf_search *s, struct run_formats *formats, const struct node *app,
                         const struct run *run, const struct override *overrides, size_t count,
                         struct aq_err *err);

#endif
