/* One long table: a row per layer and candidate, ready for sort, awk, Miller and pandas. */
#include "base/fmt.h"
#include "base/mem.h"
#include "report/cell.h"
#include "report/escape.h"
#include "report/report.h"

#include <math.h>
#include <stdlib.h>

static void add_number(struct aq_buf *out, double x)
{
    char text[AQ_FMT_MAX];
    aq_buf_adds(out, isnan(x) ? "-" : aq_fmt_double(x, text));
    aq_buf_addc(out, '\t');
}

static void add_row(struct aq_buf *out, const struct cell *c, const struct manifest_group *g,
                    size_t i)
{
    const struct manifest_option *o = &g->options[i];
    char *candidate = manifest_candidate(o);
    const char *texts[] = {c->model, c->pair, c->granularity, c->size, g->layer, candidate};
    for (size_t t = 0; t < AQ_COUNT(texts); t++) {
        escape_field(out, texts[t]);
        aq_buf_addc(out, '\t');
    }
    free(candidate);
    add_number(out, o->score);
    add_number(out, o->error);
    add_number(out, o->per_batch_mean);
    add_number(out, o->bits);
    add_number(out, o->storage_bits);
    add_number(out, o->cost);
    aq_buf_addf(out, "%s\t%zu\n",
                g->chosen < 0            ? "-"
                : (size_t)g->chosen == i ? "1"
                                         : "0",
                g->rank);
}

void report_tsv(struct aq_buf *out, const struct report *r)
{
    struct cell c;
    cell_init(&c, r->m);
    aq_buf_adds(out, "model\tpair\tgranularity\tsize\tlayer\tcandidate\tsensitivity\tstderr\t"
                     "per_batch_mean\tbits\tstorage_bits\tsize_cost\tchosen\trank\n");
    for (size_t i = 0; i < r->m->count; i++)
        for (size_t j = 0; j < r->m->groups[i].count; j++)
            add_row(out, &c, &r->m->groups[i], j);
    cell_release(&c);
}
