/* silu(gate) * up, and back. */
#include "backend/cpu/cpu.h"

#include <math.h>

enum { ROWS = 16 };

struct mlp_job {
    struct cpu_backend *c;
    int64_t rows, cols;
    float *y, *dgate, *dup;
    const float *dy, *gate, *up;
};

static int64_t end_of(const struct mlp_job *j, int64_t unit)
{
    int64_t end = (unit + 1) * ROWS;
    return (end < j->rows ? end : j->rows) * j->cols;
}

static void forward_unit(void *arg, int64_t unit, int worker)
{
    const struct mlp_job *j = arg;
    (void)worker;
    for (int64_t i = unit * ROWS * j->cols; i < end_of(j, unit); i++)
        j->y[i] = j->gate[i] / (1 + expf(-j->gate[i])) * j->up[i];
}

static void backward_unit(void *arg, int64_t unit, int worker)
{
    const struct mlp_job *j = arg;
    (void)worker;
    for (int64_t i = unit * ROWS * j->cols; i < end_of(j, unit); i++) {
        float a = j->gate[i], s = 1 / (1 + expf(-a));
        j->dgate[i] = j->dy[i] * j->up[i] * s * (1 + a * (1 - s));
        j->dup[i] = j->dy[i] * a * s;
    }
}

static void run(struct mlp_job *j, aq_pool_fn *fn)
{
    if (cpu_begin(j->c, 0, 0))
        aq_pool_run(j->c->pool, (j->rows + ROWS - 1) / ROWS, fn, j);
}

void cpu_swiglu_forward(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                        const void *up, int64_t cols)
{
    struct mlp_job j = {
        .c = cpu_of(b), .rows = t->rows, .cols = cols, .y = y, .gate = gate, .up = up};
    run(&j, forward_unit);
}

void cpu_swiglu_backward(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                         const void *dy, const void *gate, const void *up, int64_t cols)
{
    struct mlp_job j = {.c = cpu_of(b),
                        .rows = t->rows,
                        .cols = cols,
                        .dgate = dgate,
                        .dup = dup,
                        .dy = dy,
                        .gate = gate,
                        .up = up};
    run(&j, backward_unit);
}
