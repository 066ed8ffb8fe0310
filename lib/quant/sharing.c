#include "quant/sharing.h"

#include "base/mem.h"
#include "base/num.h"

#include <stdlib.h>
#include <string.h>

/* The rows that are looked at, widened to fp32 (rows, cols). Caller frees the data. */
static struct quant_matrix sample_rows(const struct quant_matrix *w)
{
    struct quant_matrix out = {.dtype = NUM_F32, .cols = w->cols, .name = w->name};
    size_t row = (size_t)w->cols * num_bytes(w->dtype);
    out.rows = w->rows < SHARING_ROWS ? w->rows : SHARING_ROWS;
    float *to = xmalloc((size_t)(out.rows * w->cols) * sizeof *to);
    for (int64_t i = 0; i < out.rows; i++) {
        const char *from = (const char *)w->data + (size_t)(i * w->rows / out.rows) * row;
        num_widen(from, w->dtype, (size_t)w->cols, to + i * w->cols);
    }
    out.data = to;
    return out;
}

static int add_error(const struct quant_spec *spec, const struct quant_matrix *w, float amax,
                     double *sum, struct aq_err *err)
{
    struct quant_plan *plan = NULL;
    size_t n = (size_t)(w->rows * w->cols);
    const float *x = w->data;
    if (quant_plan_weight_under(&plan, spec, w, amax, QUANT_UNROUNDED, err) < 0)
        return -1;
    float *y = xmalloc(n * sizeof *y);
    quant_apply(plan, w, 0, w->rows, y, NUM_F32, NULL);
    for (size_t i = 0; i < n; i++)
        *sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    free(y);
    quant_plan_free(plan);
    return 0;
}

int sharing_add(struct sharing *s, const struct quant_spec *spec,
                const struct quant_matrix *members, const float *amax, int count,
                struct aq_err *err)
{
    float low = amax[0], high = amax[0];
    for (int i = 1; i < count; i++) {
        low = amax[i] < low ? amax[i] : low;
        high = amax[i] > high ? amax[i] : high;
    }
    s->groups++;
    if (low > 0 && (double)high / low > s->widest)
        s->widest = (double)high / low;
    for (int i = 0; i < count; i++) {
        struct quant_matrix rows = sample_rows(&members[i]);
        int r = add_error(spec, &rows, amax[i], &s->own, err);
        if (r == 0)
            r = add_error(spec, &rows, high, &s->shared, err);
        free((void *)rows.data);
        if (r < 0)
            return -1;
    }
    return 0;
}

double sharing_ratio(const struct sharing *s)
{
    return s->own > 0 ? s->shared / s->own : 1;
}
