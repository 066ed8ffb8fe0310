/*
 * What aq-resolve does: one run or a whole sweep, composed, checked, and put into text before
 * anything is written.
 */
#ifndef AQ_CONF_RESOLVE_H
#define AQ_CONF_RESOLVE_H

#include "base/buf.h"
#include "conf/run.h"
#include "conf/source.h"
#include "conf/sweep.h"

#include <stdbool.h>
#include <time.h>

struct resolver {
    struct conf_search search;
    struct aq_arena arena; /* overrides as typed, names of files */
    const char *primary;
    struct override *overrides;
    size_t count;
    struct tm now;
    struct run_formats formats;
    struct aq_names experimental; /* pairs, each once */
};

int resolver_init(struct resolver *r, const char *config_dir, const char *primary,
                  const char *const *overrides, size_t count, struct aq_err *err) AQ_MUST_CHECK;
void resolver_release(struct resolver *r);

enum resolve_format { RESOLVE_JSON, RESOLVE_JSON_LINE, RESOLVE_YAML };

/* One job's product and where it belongs. */
struct resolved {
    char *text;
    size_t len;
    const char *label;  /* the overrides of the job, with blanks between them */
    const char *subdir; /* hydra.sweep.subdir; only of a sweep */
    const char *out_dir;
    struct aq_names files; /* what it was made from */
};

struct resolved_list {
    struct resolved *items;
    size_t count, cap;
};

/* The single run. */
int resolve_one(struct resolver *r, enum resolve_format format, struct resolved_list *out,
                struct aq_err *err) AQ_MUST_CHECK;
/* All jobs of a sweep; two jobs with one output directory are an error. */
int resolve_all(struct resolver *r, enum resolve_format format, struct resolved_list *out,
                struct aq_err *err) AQ_MUST_CHECK;
/* For products below hydra.sweep.subdir: no two jobs may share it. */
int resolve_check_subdirs(struct resolver *r, const struct resolved_list *l,
                          struct aq_err *err) AQ_MUST_CHECK;
void resolved_release(struct resolved_list *l);

/*
 * One value, bare: a string as it is, a list or mapping as JSON or YAML. Keys below `_aq` are those
 * of run.json.
 */
int resolve_show(struct resolver *r, const char *key, bool yaml, struct aq_buf *out,
                 struct aq_err *err) AQ_MUST_CHECK;
/* What set it: "file:line" or "override N"; of a mapping a line for each value inside. */
int resolve_explain(struct resolver *r, const char *key, struct aq_buf *out,
                    struct aq_err *err) AQ_MUST_CHECK;
/*
 * What the overrides from number `typed` on change of the values that scores depend on: 8 hex
 * digits of them with a newline, or nothing. Equal values give equal digits, however they were set;
 * an override of the budget, the solver or a name gives none.
 */
int resolve_scoring_id(struct resolver *r, size_t typed, struct aq_buf *out,
                       struct aq_err *err) AQ_MUST_CHECK;
/* The options of a group, one a line. */
int resolve_list(struct resolver *r, const char *group, struct aq_buf *out,
                 struct aq_err *err) AQ_MUST_CHECK;

/* A make rule: the targets depend on every file; the files are targets without recipes. */
int resolve_depfile(struct aq_buf *out, const struct aq_names *targets,
                    const struct aq_names *files, struct aq_err *err) AQ_MUST_CHECK;

#endif
