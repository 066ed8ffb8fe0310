/*
 * Candidates: what the quant.json files of one call ask for, each distinct treatment once. A row is
 * one candidate's scores; a candidate whose activation takes a calibrated range has one row for
 * every data-set prefix, since the range is that of the prefix.
 */
#ifndef AQ_STORE_CANDIDATE_H
#define AQ_STORE_CANDIDATE_H

#include "base/err.h"
#include "quant/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TREATMENT_ID = 17 }; /* 16 hex digits and the NUL */

struct candidate {
    char id[TREATMENT_ID];
    char *w, *a; /* normal forms */
    struct quant_spec ws, as;
    bool ranged;    /* the activation takes a calibrated range */
    bool own_range; /* the activation's range is its own largest magnitude */
};

struct candidates {
    struct candidate *items; /* by rising id: the order of files does not matter */
    size_t count, cap;
};

/* Adds the treatment of a quant.json, unless it is there already. An unsupported cell is AQ_EINPUT.
 */
int candidates_add_file(struct candidates *c, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void candidates_sort(struct candidates *c);
void candidates_release(struct candidates *c);

/* Does an activation treatment take a calibrated range? */
bool treatment_ranged(const struct quant_spec *act);
/* Bits of an element, the fewest of its steps; 16: not quantized; 0: not a treatment. */
int treatment_width(const char *treatment);
/* First 16 hex digits of the SHA-256 of "w|a". */
void treatment_id(const char *w, const char *a, char out[TREATMENT_ID]);

struct score_row {
    size_t candidate;
    int64_t prefix;  /* 0: no calibrated range */
    int64_t samples; /* wanted: this many from the first on */
};

struct score_rows {
    struct score_row *items;
    size_t count;
};

/* Rows of all candidates for these prefixes, each for its first min(prefix, score_samples). */
void score_rows_make(struct score_rows *r, const struct candidates *c, const int64_t *prefixes,
                     size_t prefix_count, int64_t score_samples);
void score_rows_release(struct score_rows *r);

#endif
