/*
 * From the rows of a store to the scores of a cell (scores.json): the samples of its data-set size,
 * the normalisations, standard errors, and the parts due to weights and to activations alone.
 * Arithmetic on stored numbers: milliseconds a cell.
 */
#ifndef AQ_STORE_COLLECT_H
#define AQ_STORE_COLLECT_H

#include "base/err.h"
#include "io/json.h"
#include "store/range_file.h"
#include "store/store.h"

#include <stddef.h>

#define SCORES_SCHEMA "aq.scores/2"

/* What cells are made from. */
struct collect_source {
    const struct store *store;
    const struct range_file *ranges; /* of the same model and tokens; NULL: no range ratios */
};
/* Are the ranges those of the store? AQ_EINPUT says what differs. */
int collect_check_ranges(const struct collect_source *from, struct aq_err *err) AQ_MUST_CHECK;

/*
 * NULL: what is missing in the store, or wrong in the run. Caller frees. A note names the groups
 * whose score does not depend on bits, if there are any; of padded samples another says what share
 * of the score the pad rows have, and is a warning above 20 %.
 */
struct json *collect_cell(const struct collect_source *from, const char *run_path,
                          const char *quant_path, struct aq_err *err);

/*
 * Every supported cell of cells.json: DIR/run.json and DIR/../quant.json to DIR/scores.json, which
 * is written if its bytes change. A cell that fails spoils no other: all are tried, each failure is
 * a warning, and the first one is the error. One note for all cells, as above.
 */
int collect_cells(const struct collect_source *from, const char *cells_path, size_t *written,
                  struct aq_err *err) AQ_MUST_CHECK;

/* The treatments of the supported cells, for store_gc. */
int collect_treatments(const char *cells_path, struct candidates *out,
                       struct aq_err *err) AQ_MUST_CHECK;

#endif
