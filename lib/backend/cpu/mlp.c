/* The gated activations of an MLP: act(gate) * up, and back. Elementwise, a few rows to a unit. */
#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"

enum { ROWS = 16 };

struct mlp_job {
    struct cpu_backend *c;
    int64_t rows, cols;
    enum backend_act act;
    float *y, *dgate, *dup; /* (rows, cols), as are all here */
    const float *dy, *gate, *up;
    const float *pair; /* (rows, 2 x cols) */
};

static int64_t end_of(const struct mlp_job *j, int64_t unit)
{
    int64_t end = (unit + 1) * ROWS;
    return (end < j->rows ? end : j->rows) * j->cols;
}

static void forward_unit(void *arg, int64_t unit, int worker)
{
    const struct mlp_job *j = arg;
    int64_t at = unit * ROWS * j->cols;
    (void)worker;
    simd()->glu(j->y + at, j->gate + at, j->up + at, j->act, end_of(j, unit) - at);
}

static void pair_unit(void *arg, int64_t unit, int worker)
{
    const struct mlp_job *j = arg;
    int64_t end = (unit + 1) * ROWS;
    (void)worker;
    for (int64_t r = unit * ROWS; r < end && r < j->rows; r++) {
        const float *gate = j->pair + 2 * r * j->cols;
        simd()->glu(j->y + r * j->cols, gate, gate + j->cols, j->act, j->cols);
    }
}

static void backward_unit(void *arg, int64_t unit, int worker)
{
    const struct mlp_job *j = arg;
    int64_t at = unit * ROWS * j->cols;
    (void)worker;
    simd()->glu_backward(j->dgate + at, j->dup + at, j->dy + at, j->gate + at, j->up + at, j->act,
                         end_of(j, unit) - at);
}

static void run(struct mlp_job *j, aq_pool_fn *fn)
{
    if (cpu_begin(j->c, 0, 0))
        aq_pool_run(j->c->pool, (j->rows + ROWS - 1) / ROWS, fn, j);
}

void cpu_glu_forward(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                     const void *up, int64_t cols, enum backend_act act)
{
    struct mlp_job j = {
        .c = cpu_of(b), .rows = t->rows, .cols = cols, .act = act, .y = y, .gate = gate, .up = up};
    run(&j, forward_unit);
}

void cpu_glu_pair_forward(struct backend *b, const struct backend_tile *t, void *y,
                          const void *gate_up, int64_t cols, enum backend_act act)
{
    struct mlp_job j = {
        .c = cpu_of(b), .rows = t->rows, .cols = cols, .act = act, .y = y, .pair = gate_up};
    run(&j, pair_unit);
}

void cpu_glu_backward(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                      const void *dy, const void *gate, const void *up, int64_t cols,
                      enum backend_act act)
{
    struct mlp_job j = {.c = cpu_of(b),
                        .rows = t->rows,
                        .cols = cols,
                        .act = act,
                        .dgate = dgate,
                        .dup = dup,
                        .dy = dy,
                        .gate = gate,
                        .up = up};
    run(&j, backward_unit);
}
