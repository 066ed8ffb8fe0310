/*
 * Many manifests as one table: the cells of a sweep, what they add up to, how well their rankings
 * agree, and what was left out.
 */
#ifndef AQ_REPORT_SUMMARY_H
#define AQ_REPORT_SUMMARY_H

#include "base/buf.h"
#include "base/err.h"
#include "base/sha256.h"
#include "report/cell.h"

#include <stdbool.h>
#include <stddef.h>

struct summary_cell {
    struct cell cell;
    char *normalization; /* NULL if unknown */
    char *verdict;       /* of the summary's engine; NULL if unknown */
    char *link;          /* to the cell's report, from the directory of the sweep; NULL: unknown */
    char **layers;       /* short names of the groups with a candidate, in order */
    double *scores;      /* their sensitivities */
    double *ranks;       /* average ranks of the scores */
    size_t count;
    char digest[AQ_SHA256_HEX]; /* of the names: cells of a sweep nearly always have the same */
    double total;               /* their sum */
    double score, effective_bits, storage_bits; /* of the selection; NAN: unknown */
    bool satisfied;
    size_t worst;                        /* layer with the largest sensitivity */
    char *worst_shown;                   /* its group for people; NULL: there is none */
    double weight_part, activation_part; /* NAN: unknown */
    /* agreement of rankings; NAN: nothing to compare with */
    double rho_size, tau_size; /* with the largest data set of the same pair and granularity */
    double rho_cells;          /* mean over the other cells of the same size */
};

struct summary_skipped {
    char *pair, *granularity, *size, *reason;
    char *verdict; /* NULL if unknown */
};

struct summary {
    struct summary_cell *cells; /* by model, pair, granularity, size as given */
    size_t count;
    struct summary_skipped *skipped;
    size_t skipped_count, skipped_cap;
    char *engine; /* whose verdicts the cells have; NULL: they have none */
    bool linked;  /* some cell has a link: then explore.html is beside the summary */
    bool mixed;   /* cells of several normalizations: totals do not compare */
};

/*
 * cells_json: NULL, or the list of all cells with the reasons of those left out. Caller releases,
 * also after a failure.
 */
int summary_read(struct summary *s, const char *const *paths, size_t count, const char *cells_json,
                 bool keep_going, struct aq_err *err) AQ_MUST_CHECK;
void summary_release(struct summary *s);

void summary_markdown(struct aq_buf *out, const struct summary *s);
void summary_tsv(struct aq_buf *out, const struct summary *s);
void summary_html(struct aq_buf *out, const struct summary *s);

/* The budget was out of the cell's reach: its recipe is the smallest there is, and larger. */
bool summary_unreached(const struct summary_cell *c);
size_t summary_count_unreached(const struct summary *s);

/* 0 for small, 1 for medium, 2 for large; -1 for any other name. */
int summary_size_order(const char *size);
/* Compares two names of sizes for qsort: by that order, then as texts. */
int summary_by_size(const void *a, const void *b);
/* The correlation of two cells' rankings over the layers that both have; NAN if fewer than two. */
double summary_spearman(const struct summary_cell *a, const struct summary_cell *b);

#endif
