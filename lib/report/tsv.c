/* One long table: a row per layer and candidate, for sort, awk, DuckDB and pandas. */
#include "base/mem.h"
#include "report/cell.h"
#include "report/report.h"

#include <math.h>
#include <stdlib.h>

void report_fields_names(struct fields *f)
{
    static const char *const names[] = {"model",          "pair",      "granularity",  "size",
                                        "layer",          "candidate", "sensitivity",  "stderr",
                                        "per_batch_mean", "bits",      "storage_bits", "size_cost",
                                        "chosen",         "rank",      "group"};
    fields_names(f, names, AQ_COUNT(names));
}

static void add_row(struct fields *f, const struct cell *c, const struct report_row *row, size_t i)
{
    const struct manifest_group *g = row->group;
    const struct manifest_option *o = &g->options[i];
    char *candidate = manifest_candidate(o);
    fields_text(f, c->model);
    fields_text(f, c->pair);
    fields_text(f, c->granularity);
    fields_text(f, c->size);
    fields_text(f, g->layer);
    fields_text(f, candidate);
    free(candidate);
    fields_number(f, o->score);
    fields_number(f, o->error);
    fields_number(f, o->per_batch_mean);
    fields_number(f, o->bits);
    fields_number(f, o->storage_bits);
    fields_number(f, o->cost);
    fields_number(f, g->chosen < 0 ? NAN : (size_t)g->chosen == i);
    fields_count(f, row->rank);
    fields_text(f, row->shown);
    fields_end(f);
}

void report_fields(struct fields *f, const struct report *r)
{
    for (size_t i = 0; i < r->count; i++)
        for (size_t j = 0; j < r->rows[i].group->count; j++)
            add_row(f, &r->cell, &r->rows[i], j);
}

void report_tsv(struct aq_buf *out, const struct report *r)
{
    struct fields f = {.out = out, .separator = '\t'};
    report_fields_names(&f);
    report_fields(&f, r);
}
