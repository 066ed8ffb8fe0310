#include "export/sharing.h"

#include "base/mem.h"
#include "export/weights.h"
#include "quant/quant.h"

#include <stdlib.h>
#include <string.h>

/* The rows that are looked at, as one matrix. Caller frees. */
static void *sample_rows(const struct st_tensor *t, int64_t rows, int64_t cols, int64_t *count)
{
    size_t bytes = (size_t)cols * st_dtype_bits(t->dtype) / 8;
    *count = rows < SHARING_ROWS ? rows : SHARING_ROWS;
    char *to = xmalloc((size_t)*count * bytes);
    for (int64_t i = 0; i < *count; i++)
        memcpy(to + (size_t)i * bytes, (const char *)t->data + (size_t)(i * rows / *count) * bytes,
               bytes);
    return to;
}

static double squared_error(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return sum;
}

static int add_error(const struct quant_spec *spec, const struct quant_matrix *w, float amax,
                     const float *plain, double *sum, struct aq_err *err)
{
    struct quant_plan *plan = NULL;
    size_t n = (size_t)(w->rows * w->cols);
    if (quant_plan_weight_under(&plan, spec, w, amax, QUANT_UNROUNDED, err) < 0)
        return -1;
    float *y = xmalloc(n * sizeof *y);
    quant_apply(plan, w, 0, w->rows, y, QUANT_F32, NULL);
    *sum += squared_error(plain, y, n);
    free(y);
    quant_plan_free(plan);
    return 0;
}

/* own, shared: squared errors, added to. */
static int add_module(const struct export_plan *p, struct export_group *g, int module, float shared,
                      double sums[2], struct aq_err *err)
{
    const struct model_module *m = &g->model->modules[module];
    char *name = xasprintf("%s.weight", m->name);
    const struct st_tensor *t = ckpt_find(&p->ckpt, name)->t;
    struct quant_matrix w = {.dtype = QUANT_F32, .cols = m->cols, .name = name};
    void *rows = sample_rows(t, m->rows, m->cols, &w.rows);
    float *plain = xmalloc((size_t)(w.rows * w.cols) * sizeof *plain), own;
    struct quant_spec spec;
    codes_widen(rows, t->dtype, (size_t)(w.rows * w.cols), plain);
    w.data = plain;
    int r = quant_parse(g->weight, &spec, err);
    if (r == 0)
        r = module_amax(p, g, module, &own, err);
    if (r == 0)
        r = add_error(&spec, &w, own, plain, &sums[0], err);
    if (r == 0)
        r = add_error(&spec, &w, shared, plain, &sums[1], err);
    free(plain);
    free(rows);
    free(name);
    return r;
}

static int add_group(const struct export_plan *p, struct export_group *g, double sums[2],
                     struct sharing *out, struct aq_err *err)
{
    float low = 0, high = 0;
    for (int i = 0; i < g->model->module_count; i++) {
        float a;
        if (module_amax(p, g, i, &a, err) < 0)
            return -1;
        low = i == 0 || a < low ? a : low;
        high = a > high ? a : high;
    }
    out->groups++;
    if (low > 0 && (double)high / low > out->widest)
        out->widest = (double)high / low;
    for (int i = 0; i < g->model->module_count; i++)
        if (add_module(p, g, i, high, sums, err) < 0)
            return -1;
    return 0;
}

int sharing_measure(const struct export_plan *p, struct sharing *out, struct aq_err *err)
{
    double sums[2] = {0, 0};
    *out = (struct sharing){.ratio = 1, .widest = 1};
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        /* scaled weights are left out: their ranges are others */
        if (g->verdict.quantized && g->verdict.scheme.codes == CODES_NVFP4 &&
            g->model->module_count > 1 && !g->model->experts && !g->scale &&
            add_group(p, g, sums, out, err) < 0)
            return -1;
    }
    if (sums[0] > 0)
        out->ratio = sums[1] / sums[0];
    return 0;
}
