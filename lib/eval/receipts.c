#include "eval/receipts.h"

#include "base/fmt.h"
#include "base/mem.h"
#include "eval/receipt.h"
#include "io/product.h"
#include "solve/ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

/* What receipts must share to be compared: "provenance.inputs" but for the operand's. */
static bool same_inputs(const struct json *a, const struct json *b)
{
    const struct json *x = json_find(json_find(a, "provenance"), "inputs");
    const struct json *y = json_find(json_find(b, "provenance"), "inputs");
    for (const struct json *m = json_first(x); m; m = json_next(m)) {
        const struct json *other = json_find(y, json_key(m));
        bool own = strcmp(json_key(m), "operand") == 0 || strcmp(json_key(m), "ranges") == 0;
        if (!own && (!other || !json_equal(m, other)))
            return false;
    }
    return json_equal(json_find(a, "dtype"), json_find(b, "dtype"));
}

static int read_row(struct receipt_row *row, const struct json *v, const char *path,
                    struct aq_err *err)
{
    struct jref root = jref_root(v, path), all, kl, operand, inputs, provenance;
    const char *digest, *dtype;
    const struct json *interval = json_find(v, "predicted_interval");
    if (jref_string(&root, "dtype", &dtype, err) < 0 ||
        jref_get(&root, "provenance", JSON_OBJECT, &provenance, err) < 0 ||
        jref_get(&provenance, "inputs", JSON_OBJECT, &inputs, err) < 0 ||
        jref_get(&root, "operand", JSON_OBJECT, &operand, err) < 0 ||
        jref_string(&operand, "digest", &digest, err) < 0 ||
        jref_get(&root, "all", JSON_OBJECT, &all, err) < 0 ||
        jref_get(&all, "kl", JSON_OBJECT, &kl, err) < 0 ||
        jref_double(&kl, "mean", &row->kl, err) < 0)
        return -1;
    row->file = xstrdup(path);
    row->digest = xstrdup(digest);
    row->bits = json_find_number(operand.v, "bits");
    row->predicted = json_find_number(v, "predicted");
    row->low = json_find_number(interval, "low");
    row->high = json_find_number(interval, "high");
    row->se = json_find_number(kl.v, "se");
    return 0;
}

static int read_all(struct receipts *r, const char *const *paths, size_t count, struct aq_err *err)
{
    struct json *first = NULL;
    int bad = 0;
    for (size_t i = 0; i < count && bad == 0; i++) {
        struct json *v = product_read(paths[i], EVAL_SCHEMA, err);
        r->rows[i] = (struct receipt_row){0};
        r->count = i + 1;
        bad = v ? read_row(&r->rows[i], v, paths[i], err) : -1;
        if (bad == 0 && first && !same_inputs(first, v))
            bad = aq_err_set(err, AQ_EINPUT,
                             "'%s' and '%s' are of different references, texts or dtypes",
                             aq_show(paths[0]), aq_show(paths[i]));
        if (first)
            json_free(v);
        else
            first = v;
    }
    json_free(first);
    return bad;
}

/* ---- how well the predictions did ---- */

struct moments {
    double xx, xy, yy, mean_x, mean_y;
};

static struct moments moments(const double *x, const double *y, size_t n)
{
    struct moments m = {0};
    for (size_t i = 0; i < n; i++) {
        m.mean_x += x[i] / (double)n;
        m.mean_y += y[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double dx = x[i] - m.mean_x, dy = y[i] - m.mean_y;
        m.xx += dx * dx;
        m.xy += dx * dy;
        m.yy += dy * dy;
    }
    return m;
}

/* x, y: room for as many numbers as there are rows. */
static void judge(struct receipts *r, double *x, double *y)
{
    size_t n = 0, with_interval = 0, inside = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct receipt_row *row = &r->rows[i];
        if (isfinite(row->low) && isfinite(row->high)) {
            with_interval++;
            inside += row->kl >= row->low && row->kl <= row->high;
        }
        if (!(row->predicted > 0) || !(row->kl > 0))
            continue;
        x[n] = log(row->predicted);
        y[n++] = log(row->kl);
    }
    r->rank_correlation = r->slope = r->residual = r->coverage = NAN;
    if (with_interval)
        r->coverage = (double)inside / (double)with_interval;
    if (n < 3)
        return;
    struct moments logs = moments(x, y, n);
    r->rank_correlation = rank_spearman(x, y, n);
    if (logs.xx > 0) {
        r->slope = logs.xy / logs.xx;
        r->residual = sqrt(fmax(logs.yy - r->slope * logs.xy, 0) / (double)(n - 2));
    }
}

int receipts_read(struct receipts *r, const char *const *paths, size_t count, struct aq_err *err)
{
    *r = (struct receipts){.rows = xcalloc(count + 1, sizeof *r->rows)};
    if (read_all(r, paths, count, err) < 0) {
        receipts_release(r);
        return -1;
    }
    double *x = xcalloc(count + 1, sizeof *x), *y = xcalloc(count + 1, sizeof *y);
    judge(r, x, y);
    free(x);
    free(y);
    return 0;
}

void receipts_release(struct receipts *r)
{
    for (size_t i = 0; i < r->count; i++) {
        free(r->rows[i].file);
        free(r->rows[i].digest);
    }
    free(r->rows);
    *r = (struct receipts){0};
}

/* ---- writing ---- */

struct json *receipts_json(const struct receipts *r)
{
    struct json *v = product_new(RECEIPTS_SCHEMA), *rows = json_add_array(v, "rows");
    for (size_t i = 0; i < r->count; i++) {
        const struct receipt_row *row = &r->rows[i];
        struct json *e = json_push(rows, json_new_object());
        json_add_string(e, "digest", row->digest);
        json_add_finite(e, "bits", row->bits);
        json_add_finite(e, "predicted", row->predicted);
        json_add_finite(e, "low", row->low);
        json_add_finite(e, "high", row->high);
        json_add_double(e, "kl", row->kl);
        json_add_finite(e, "se", row->se);
    }
    json_add_finite(v, "rank_correlation", r->rank_correlation);
    json_add_finite(v, "slope", r->slope);
    json_add_finite(v, "residual", r->residual);
    json_add_finite(v, "coverage", r->coverage);
    return v;
}

static void add_cell(struct aq_buf *out, double x)
{
    char text[AQ_FMT_MAX];
    aq_buf_addf(out, "\t%s", isfinite(x) ? aq_fmt_double(x, text) : "");
}

void receipts_tsv(const struct receipts *r, struct aq_buf *out)
{
    aq_buf_adds(out, "digest\tbits\tpredicted\tlow\thigh\tkl\tse\n");
    for (size_t i = 0; i < r->count; i++) {
        const struct receipt_row *row = &r->rows[i];
        aq_buf_adds(out, row->digest);
        add_cell(out, row->bits);
        add_cell(out, row->predicted);
        add_cell(out, row->low);
        add_cell(out, row->high);
        add_cell(out, row->kl);
        add_cell(out, row->se);
        aq_buf_addc(out, '\n');
    }
}
