/*
 * One manifest as a report: what the writers of the several formats share. A row is a group of the
 * table with the candidates that count: all but the unquantized one, unless there is no other.
 */
#ifndef AQ_REPORT_REPORT_H
#define AQ_REPORT_REPORT_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "report/cell.h"
#include "report/fields.h"
#include "select/manifest.h"

#include <stdbool.h>
#include <stddef.h>

struct report_row {
    const struct manifest_group *group;
    const struct manifest_option **counted; /* at least one, unless the group has no format */
    size_t count;
    bool searched;                       /* there is something to choose */
    const struct manifest_option *worst; /* of those that count; NULL if there is none */
    double sensitivity;                  /* its score, else 0 */
    const char *short_name; /* the layer's name without what precedes the stack of blocks */
    const char *shown;      /* the same with all members, for people: "layers.0.mlp.gate+up_proj" */
    long block;             /* number of the decoder or vision block in the name; -1: none */
    size_t kind;            /* what it is inside its block: index into report.kinds */
    size_t rank;            /* 1: the most sensitive */
};

struct report {
    const struct manifest *m;           /* borrowed */
    const char *title;                  /* scheme name to show */
    struct report_row *rows;            /* in candidate order */
    struct report_row **by_sensitivity; /* descending, ties in candidate order */
    size_t count;
    const struct manifest_option **counted; /* backs the rows */
    const char *
        *kinds; /* "self_attn.q+k+v_proj", "mlp.down_proj", "lm_head": in order of appearance */
    size_t kind_count;
    struct aq_arena names; /* backs what rows and kinds are called */
    double total;          /* sum of the sensitivities */
    struct cell cell;
};

/* title: NULL for the manifest's own scheme name. */
int report_init(struct report *r, const struct manifest *m, const char *title,
                struct aq_err *err) AQ_MUST_CHECK;
void report_release(struct report *r);

/*
 * What to call a candidate: its name, or the pair if the manifest has only one candidate and does
 * not name it, or the label of its format; "16-bit" for what is not quantized. Caller frees.
 */
char *report_candidate(const struct report *r, const struct manifest_option *o);
/* The same in words: "INT4 weights with INT8 activations (w_group64)". Caller frees. */
char *report_candidate_words(const struct report *r, const struct manifest_option *o);
/* The candidate that the recipe takes; NULL if the manifest has no recipe. */
const struct manifest_option *report_row_chosen(const struct report_row *row);
/* Does the manifest say what every group takes? */
bool report_has_recipe(const struct report *r);
/* Why a row does not depend on bits, as manifest_option.flat of any option that counts; or NULL. */
const char *report_row_flat(const struct report_row *row);

/* per-layer-sensitivity.md and .json, and one long table; appended to out. */
void report_markdown(struct aq_buf *out, const struct report *r);
int report_json(struct aq_buf *out, const struct report *r, struct aq_err *err) AQ_MUST_CHECK;
void report_tsv(struct aq_buf *out, const struct report *r);
/* The rows of that table, for a table of several reports. */
void report_fields_names(struct fields *f);
void report_fields(struct fields *f, const struct report *r);

#endif
