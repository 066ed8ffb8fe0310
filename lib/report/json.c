/*
 * per-layer-sensitivity.json: the manifest's metadata and one flat list of records. Bits and cost
 * are those of the recipe; without a recipe, those of the first candidate, as upstream writes them.
 */
#include "report/report.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

static void copy_object(struct json *root, const char *key, const struct json *v)
{
    if (v)
        json_add(root, key, json_copy(v));
}

static void add_record(struct json *list, const struct report_row *row)
{
    struct json *record = json_push(list, json_new_object());
    const struct manifest_option *o = row->count ? row->counted[0] : NULL;
    json_add_string(record, "layer", row->group->layer);
    const struct manifest_option *chosen = report_row_chosen(row), *size = chosen ? chosen : o;
    if (size && !isnan(size->bits))
        json_add_double(record, "num_bits", size->bits);
    else
        json_add_null(record, "num_bits");
    json_add(record, "sensitivity", o ? json_copy(o->score_value) : json_new_null());
    json_add(record, "size_cost", size ? json_copy(size->cost_value) : json_new_null());
}

/* This file shows the first format that counts, and is sorted by it: null counts as 0. */
static double first_score(const struct report_row *row)
{
    return row->count ? row->counted[0]->score : 0;
}

static int by_first_score(const void *a, const void *b)
{
    const struct report_row *x = *(const struct report_row *const *)a;
    const struct report_row *y = *(const struct report_row *const *)b;
    double p = first_score(x), q = first_score(y);
    if (p != q)
        return p > q ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void add_records(struct json *list, const struct report *r)
{
    const struct report_row **order = xcalloc(r->count + 1, sizeof *order);
    for (size_t i = 0; i < r->count; i++)
        order[i] = &r->rows[i];
    qsort(order, r->count, sizeof(struct report_row *), by_first_score);
    for (size_t i = 0; i < r->count; i++)
        add_record(list, order[i]);
    free(order);
}

int report_json(struct aq_buf *out, const struct report *r, struct aq_err *err)
{
    const struct manifest *m = r->m;
    struct json *root = json_new_object();
    copy_object(root, "scheme", m->scheme);
    json_add(root, "model", m->model ? json_copy(m->model) : json_new_object());
    copy_object(root, "dataset", m->dataset);
    copy_object(root, "quantization", m->quantization);
    copy_object(root, "run_config", m->run_config);
    copy_object(root, "autoquant_state", m->state);
    add_records(json_add_array(root, "layer_sensitivity"), r);
    int status = json_write(out, root, 0, err);
    json_free(root);
    return status;
}
