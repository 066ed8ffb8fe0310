#include "report/summary.h"
#include "base/mem.h"
#include "base/names.h"
#include "base/msg.h"
#include "base/pool.h"
#include "report/cell_list.h"
#include "report/report.h"
#include "solve/ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one cell ---- */

/* Sums of the parts over all layers; NAN as soon as one is missing. */
static void add_parts(struct summary_cell *c, const struct report_row *row)
{
    c->weight_part += row->worst->weight_only;
    c->activation_part += row->worst->activation_only;
}

/* NAN for a sum of nothing, or one that is too large. */
static double known_sum(double sum, size_t count)
{
    return count > 0 && isfinite(sum) ? sum : NAN;
}

static void fill_cell(struct summary_cell *c, const struct manifest *m, const struct report *r)
{
    cell_init(&c->cell, m);
    const char *normalization = json_find_string(m->aq, "normalization");
    c->normalization = normalization ? xstrdup(normalization) : NULL;
    c->layers = xcalloc(r->count + 1, sizeof *c->layers);
    c->scores = xcalloc(r->count + 1, sizeof *c->scores);
    c->score = m->score;
    c->effective_bits = m->effective_bits;
    c->storage_bits = json_find_number(m->selection, "storage_bits");
    c->satisfied = m->satisfied;
    c->rho_size = c->tau_size = c->rho_cells = NAN;
    for (size_t i = 0; i < r->count; i++) {
        const struct report_row *row = &r->rows[i];
        if (!row->searched)
            continue;
        c->layers[c->count] = xstrdup(row->short_name);
        c->scores[c->count] = row->sensitivity;
        c->total += row->sensitivity;
        if (row->sensitivity > c->scores[c->worst])
            c->worst = c->count;
        if (c->worst == c->count) {
            free(c->worst_shown);
            c->worst_shown = xstrdup(row->shown);
        }
        c->count++;
        add_parts(c, row);
    }
    struct aq_sha256 names;
    aq_sha256_init(&names);
    for (size_t i = 0; i < c->count; i++)
        aq_sha256_add(&names, c->layers[i], strlen(c->layers[i]) + 1);
    aq_sha256_hex(&names, c->digest);
    c->ranks = rank_averages(c->scores, c->count);
    c->weight_part = known_sum(c->weight_part, c->count);
    c->activation_part = known_sum(c->activation_part, c->count);
}

static int read_cell(struct summary_cell *c, const char *path, struct aq_err *err)
{
    struct manifest m;
    struct report r;
    if (manifest_read(&m, path, err) < 0)
        return -1;
    int status = report_init(&r, &m, NULL, err);
    if (status == 0) {
        fill_cell(c, &m, &r);
        report_release(&r);
    }
    manifest_release(&m);
    return status;
}

static void release_cell(struct summary_cell *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->layers[i]);
    free(c->layers);
    free(c->scores);
    free(c->ranks);
    free(c->normalization);
    free(c->verdict);
    free(c->link);
    free(c->worst_shown);
    cell_release(&c->cell);
}

/* ---- agreement ---- */

static bool same_layers(const struct summary_cell *a, const struct summary_cell *b)
{
    return strcmp(a->digest, b->digest) == 0;
}

/* Scores of the layers that both cells have. */
static size_t common_scores(const struct summary_cell *a, const struct summary_cell *b, double *x,
                            double *y)
{
    size_t n = 0;
    if (same_layers(a, b)) {
        memcpy(x, a->scores, a->count * sizeof *x);
        memcpy(y, b->scores, a->count * sizeof *y);
        return a->count;
    }
    struct aq_names names = AQ_NAMES_INIT;
    for (size_t i = 0; i < b->count; i++)
        aq_names_add(&names, b->layers[i]);
    (void)aq_names_sort(&names);
    for (size_t i = 0; i < a->count; i++) {
        ptrdiff_t at = aq_names_find(&names, a->layers[i]);
        if (at < 0)
            continue;
        x[n] = a->scores[i];
        y[n++] = b->scores[at];
    }
    aq_names_release(&names);
    return n;
}

static void agreement(const struct summary_cell *a, const struct summary_cell *b, double *rho,
                      double *tau)
{
    double *x = xcalloc(a->count + 1, sizeof *x), *y = xcalloc(a->count + 1, sizeof *y);
    size_t n = common_scores(a, b, x, y);
    *rho = rank_spearman(x, y, n);
    *tau = rank_kendall(x, y, n);
    free(x);
    free(y);
}

double summary_spearman(const struct summary_cell *a, const struct summary_cell *b)
{
    if (same_layers(a, b))
        return rank_correlation(a->ranks, b->ranks, a->count);
    double rho, tau;
    agreement(a, b, &rho, &tau);
    return rho;
}

static bool same_text(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static bool same_kind(const struct cell *a, const struct cell *b)
{
    return same_text(a->model, b->model) && same_text(a->pair, b->pair) &&
           same_text(a->granularity, b->granularity);
}

bool summary_unreached(const struct summary_cell *c)
{
    return !c->satisfied && !isnan(c->effective_bits);
}

size_t summary_count_unreached(const struct summary *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->count; i++)
        n += summary_unreached(&s->cells[i]);
    return n;
}

int summary_size_order(const char *size)
{
    static const char *const known[] = {"small", "medium", "large"};
    for (size_t i = 0; i < AQ_COUNT(known); i++)
        if (same_text(size, known[i]))
            return (int)i;
    return -1;
}

int summary_by_size(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int order = summary_size_order(x) - summary_size_order(y);
    return order ? order : strcmp(x, y);
}

static void compare_sizes(struct summary *s, size_t i)
{
    struct summary_cell *c = &s->cells[i];
    const struct summary_cell *largest = c;
    for (size_t j = 0; j < s->count; j++)
        if (same_kind(&c->cell, &s->cells[j].cell) &&
            summary_size_order(s->cells[j].cell.size) > summary_size_order(largest->cell.size))
            largest = &s->cells[j];
    if (largest != c)
        agreement(c, largest, &c->rho_size, &c->tau_size);
}

/* Ranks once per cell, then plain correlations: a sweep of hundreds has tens of thousands of pairs.
 */
static void compare_cells(struct summary *s)
{
    double *sum = xcalloc(s->count + 1, sizeof *sum);
    size_t *pairs = xcalloc(s->count + 1, sizeof *pairs);
    for (size_t i = 0; i < s->count; i++)
        for (size_t j = i + 1; j < s->count; j++) {
            const struct cell *a = &s->cells[i].cell, *b = &s->cells[j].cell;
            if (!same_text(a->size, b->size) || !same_text(a->model, b->model))
                continue;
            double rho = summary_spearman(&s->cells[i], &s->cells[j]);
            if (isnan(rho))
                continue;
            sum[i] += rho;
            sum[j] += rho;
            pairs[i]++;
            pairs[j]++;
        }
    for (size_t i = 0; i < s->count; i++)
        s->cells[i].rho_cells = pairs[i] ? sum[i] / (double)pairs[i] : NAN;
    free(sum);
    free(pairs);
}

/* Where the scores do not say it: weights alone are the cell with 16-bit activations. */
static void find_parts(struct summary *s, size_t i)
{
    struct summary_cell *c = &s->cells[i];
    const char *a = strstr(c->cell.pair, "_a");
    if (!isnan(c->weight_part) || !a)
        return;
    char *plain = xasprintf("%.*s_afp16", (int)(a - c->cell.pair), c->cell.pair);
    for (size_t j = 0; j < s->count; j++) {
        const struct summary_cell *w = &s->cells[j];
        if (same_text(w->cell.pair, plain) && same_text(w->cell.granularity, c->cell.granularity) &&
            same_text(w->cell.size, c->cell.size) && same_text(w->cell.model, c->cell.model)) {
            c->weight_part = w->total;
            c->activation_part = c->total - w->total;
        }
    }
    free(plain);
}

/* ---- what was left out ---- */

static void add_skipped(struct summary *s, const struct cell_entry *e)
{
    AQ_GROW(s->skipped, s->skipped_count, s->skipped_cap);
    s->skipped[s->skipped_count++] =
        (struct summary_skipped){xstrdup(e->pair), xstrdup(e->granularity), xstrdup(e->size),
                                 xstrdup(e->reason), e->verdict ? xstrdup(e->verdict) : NULL};
}

static void skip_broken(struct summary *s, const char *reason)
{
    const struct cell_entry e = {.pair = "", .granularity = "", .size = "", .reason = reason};
    add_skipped(s, &e);
}

/* paths: the manifests of s's cells. */
static int read_cells_json(struct summary *s, const char *path, const char *const *paths,
                           struct aq_err *err)
{
    struct cell_list list;
    if (cell_list_read(&list, path, err) < 0)
        return -1;
    for (size_t i = 0; i < list.count; i++) {
        const struct cell_entry *e = &list.items[i];
        if (e->reason)
            add_skipped(s, e);
    }
    s->engine = list.engine ? xstrdup(list.engine) : NULL;
    for (size_t i = 0; i < s->count; i++) {
        const struct cell_entry *e = cell_list_find(&list, paths[i]);
        s->cells[i].verdict = e && e->verdict ? xstrdup(e->verdict) : NULL;
        s->cells[i].link = e ? cell_entry_link(e) : NULL;
        s->linked = s->linked || s->cells[i].link;
    }
    cell_list_release(&list);
    return 0;
}

static bool same_normalization(const struct summary_cell *a, const struct summary_cell *b)
{
    return same_text(a->normalization ? a->normalization : "",
                     b->normalization ? b->normalization : "");
}

/* ---- all together ---- */

struct cells_read {
    struct summary_cell *cells;
    const char *const *paths;
};

static int read_unit(void *arg, int64_t unit, struct aq_err *err)
{
    const struct cells_read *r = arg;
    return read_cell(&r->cells[unit], r->paths[unit], err);
}

/* All that can be read to s->cells, their paths to `read`; the first error ends it but for
   keep_going. */
static int read_cells(struct summary *s, const char *const *paths, size_t count, bool keep_going,
                      const char **read, struct aq_err *err)
{
    struct cells_read r = {s->cells, paths};
    struct aq_tried *tried = aq_pool_try((int64_t)count, read_unit, &r);
    int status = keep_going ? 0 : aq_tried_error(tried, (int64_t)count, err);
    for (size_t i = 0; i < count; i++) {
        if (tried[i].status == 0) {
            s->cells[s->count] = s->cells[i];
            read[s->count++] = paths[i];
        } else if (keep_going) {
            aq_warn("%s", tried[i].why.msg);
            skip_broken(s, tried[i].why.msg);
        }
    }
    free(tried);
    return status;
}

int summary_read(struct summary *s, const char *const *paths, size_t count, const char *cells_json,
                 bool keep_going, struct aq_err *err)
{
    const char **read = xcalloc(count + 1, sizeof *read);
    *s = (struct summary){.cells = xcalloc(count + 1, sizeof *s->cells)};
    int bad = read_cells(s, paths, count, keep_going, read, err);
    if (bad == 0 && cells_json)
        bad = read_cells_json(s, cells_json, read, err);
    free(read);
    if (bad < 0)
        return -1;
    for (size_t i = 0; i < s->count; i++) {
        compare_sizes(s, i);
        find_parts(s, i);
        s->mixed = s->mixed || !same_normalization(&s->cells[i], &s->cells[0]);
    }
    compare_cells(s);
    return 0;
}

void summary_release(struct summary *s)
{
    for (size_t i = 0; i < s->count; i++)
        release_cell(&s->cells[i]);
    for (size_t i = 0; i < s->skipped_count; i++) {
        free(s->skipped[i].pair);
        free(s->skipped[i].granularity);
        free(s->skipped[i].size);
        free(s->skipped[i].reason);
        free(s->skipped[i].verdict);
    }
    free(s->engine);
    free(s->cells);
    free(s->skipped);
    *s = (struct summary){0};
}
