/*
 * The CPU backend's inside, shared by the files of this directory.
 *
 * Work is cut into units whose shapes follow from the operands alone, and units are taken by
 * whichever thread is free; partial sums have a place per unit and are added in the order of the
 * units. Hence the same bits for any number of threads.
 */
#ifndef AQ_BACKEND_CPU_CPU_H
#define AQ_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/matrix.h"
#include "base/mem.h"
#include "base/pool.h"
#include "quant/quant.h"

#include <stdbool.h>

enum { CPU_ALIGN = 64 };

static inline size_t cpu_aligned(size_t bytes)
{
    return (bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
}

struct cpu_buffer { /* grows, never shrinks */
    char *data;
    size_t size;
};

struct cpu_backend {
    struct backend base; /* first: struct backend * is this struct */
    struct backend_host host;
    struct backend_config config;
    struct aq_pool *pool;
    enum matrix_level levels[2]; /* by enum matrix_kind */
    struct aq_err failed;        /* the first failure since the last sync; code 0: none */
    struct cpu_buffer *scratch;  /* one a worker */
    struct cpu_buffer shared;    /* of the op that is running */
    uint64_t used;               /* bytes held, limited by config.memory */
};

struct backend_tile {
    int32_t rows, samples;
    int32_t *first;
    uint8_t *pad;
    int32_t *ids, *pos, *target;
    int32_t *sample_of; /* [rows]; -1 after the last */
    /* of tile_part: [rows], -1 in rows without one; else NULL */
    int32_t *slots;
    int32_t per_token;
    int32_t chunk; /* rows of a product; divides rows */
    struct cpu_angles *angles;
};

/* Cosines and sines of a tile's positions under one table of frequencies; a list, since a model may
   have a table for some of its layers and another for the rest. Made by the first op that asks. */
struct cpu_angles {
    struct cpu_angles *next;
    int64_t half;     /* pairs of a head */
    float factor;     /* in both already */
    float *inv_freq;  /* [half], a copy: what the entry is found by */
    float *cos, *sin; /* (rows, half) */
};

static inline struct cpu_backend *cpu_of(struct backend *b)
{
    return (struct cpu_backend *)b;
}

/* Numbers that are no codes are multiplied as bf16 terms (matrix.h): three bf16 products are faster
 * than one in fp32 on AMX alone. */
static inline bool cpu_has_terms(const struct cpu_backend *c)
{
    return c->levels[MATRIX_BF16] == MATRIX_AMX;
}

/* At least `size` bytes; what was there is lost if it grows. */
bool cpu_buffer_room(struct cpu_backend *c, struct cpu_buffer *buf, size_t size,
                     struct aq_err *err);
/*
 * Scratch for one op: `each` bytes a worker, and `shared` bytes for all. False after a failure, of
 * memory now or of an earlier op; the op then returns at once.
 */
bool cpu_begin(struct cpu_backend *c, size_t each, size_t shared);
static inline void *cpu_scratch(const struct cpu_backend *c, int worker)
{
    return c->scratch[worker].data;
}

/* Columns of a product that one unit makes: depth is the length of its dot products. */
int64_t cpu_unit_cols(int64_t cols, int64_t depth);
static inline int64_t cpu_units(int64_t cols, int64_t depth)
{
    return aq_div_up(cols, cpu_unit_cols(cols, depth));
}

/* A loaded weight where it is. */
struct quant_matrix cpu_weight_matrix(const struct backend_weight *w);
/* dst (rows, cols) in fp32, ld = cols, from rows row.. and columns col.. of w. */
void cpu_weight_panel(const struct backend_weight *w, int64_t row, int64_t rows, int64_t col,
                      int64_t cols, float *dst);
/* Rows of w as fp32, ld = w->cols: w's own bytes where they serve, else converted to room. */
const float *cpu_weight_rows(const struct backend_weight *w, int64_t row, int64_t rows,
                             float *room);

/* The ops, by file. */
void cpu_embed(struct backend *b, const struct backend_tile *t, void *h,
               const struct backend_weight *table, float factor);
void cpu_add(struct backend *b, const struct backend_tile *t, void *y, const void *x, int64_t cols,
             float factor);
void cpu_scale(struct backend *b, const struct backend_tile *t, void *y, const void *x,
               int64_t cols, float factor);
void cpu_bias_add(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                  const struct backend_weight *bias);
void cpu_cols_copy(struct backend *b, const struct backend_tile *t, void *y, int64_t y_cols,
                   int64_t y_at, const void *x, int64_t x_cols, int64_t x_at, int64_t cols);
void cpu_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                         const struct backend_norm *norm);
void cpu_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                          const void *x, const struct backend_norm *norm);
void cpu_norm_rope_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                           int heads, int dim, const struct backend_norm *norm,
                           const struct backend_rope *rope);
void cpu_norm_rope_backward(struct backend *b, const struct backend_tile *t, void *dx,
                            const void *dy, const void *x, int heads, int dim,
                            const struct backend_norm *norm, const struct backend_rope *rope);
void cpu_glu_forward(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                     const void *up, int64_t cols, enum backend_act act);
void cpu_glu_pair_forward(struct backend *b, const struct backend_tile *t, void *y,
                          const void *gate_up, int64_t cols, enum backend_act act);
void cpu_glu_backward(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                      const void *dy, const void *gate, const void *up, int64_t cols,
                      enum backend_act act);
void cpu_attention_forward(struct backend *b, const struct backend_tile *t, void *o, const void *q,
                           const void *k, const void *v, const struct backend_attention *as);
void cpu_attention_backward(struct backend *b, const struct backend_tile *t, void *dq, void *dk,
                            void *dv, const void *d_o, const void *q, const void *k, const void *v,
                            const struct backend_attention *as);
void cpu_linear_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                        const struct backend_weight *w);
void cpu_linear_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                         const struct backend_weight *w, int accumulate);
void cpu_loss(struct backend *b, const struct backend_tile *t, double *loss, void *dh,
              const void *h, const struct backend_head *head);
void cpu_kl(struct backend *b, const struct backend_tile *t, double *const *kl, const void *h,
            const void *const *hq, int count, const struct backend_head *head,
            struct backend_logits *kept);
void cpu_logits(struct backend *b, const struct backend_tile *t, void *z, const void *h,
                const struct backend_head *head);
void cpu_compare(struct backend *b, const struct backend_tile *t, struct backend_side *sides,
                 const void *z, const void *zq, int64_t at, int64_t ids);
struct backend_tile *cpu_tile_part(struct backend *b, const struct backend_tile *t,
                                   const int32_t *slots, const int32_t *ends, int experts,
                                   int per_token, struct aq_err *err);
void cpu_experts_forward(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                         const struct backend_weight *const *w);
void cpu_experts_backward(struct backend *b, const struct backend_tile *part, void *dx,
                          const void *dy, const struct backend_weight *const *w);
void cpu_experts_quantized(struct backend *b, const struct backend_tile *part, void *y,
                           const struct backend_operand *x, const struct backend_operand *const *w);
void cpu_route(struct backend *b, const struct backend_tile *t, float *p, int32_t *sel, float *w,
               const void *logits, int experts, int per_token, int normed);
void cpu_route_backward(struct backend *b, const struct backend_tile *t, void *dlogits,
                        const float *p, const int32_t *sel, const float *w, const float *q,
                        int experts, int per_token, int normed);
void cpu_part_take(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                   int64_t cols, const float *w);
void cpu_part_add(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                  int64_t cols, const float *w);
void cpu_part_put(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                  int64_t cols);
void cpu_part_dot(struct backend *b, const struct backend_tile *part, float *q, const void *g,
                  const void *f, int64_t cols);
void cpu_score_output(struct backend *b, const struct backend_score_job *job, const void *yq,
                      int64_t cols);
void cpu_magnitudes(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
                    int32_t from, int32_t to, double *sums);
void cpu_amax(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
              int32_t from, int32_t to, float *per_sample, float *per_channel);
struct backend_operand *cpu_operand_new(struct backend *b, int64_t rows, int64_t cols,
                                        int is_weight, struct aq_err *err);
void cpu_operand_free(struct backend *b, struct backend_operand *op);
void cpu_quantize_weight(struct backend *b, struct backend_operand *op,
                         const struct backend_weight *w, const struct quant_spec *spec);
void cpu_quantize_act(struct backend *b, struct backend_operand *op, const struct backend_tile *t,
                      const void *x, int64_t cols, const struct quant_spec *spec,
                      const struct quant_range *range, double *clipped);
void cpu_linear_quantized(struct backend *b, const struct backend_tile *t, void *y,
                          const struct backend_operand *x, const struct backend_operand *w);
int cpu_products(const struct backend *b, const struct quant_spec *weight,
                 const struct quant_spec *act);
void cpu_score(struct backend *b, const struct backend_operand *w,
               const struct backend_score_job *jobs, int count);
void cpu_dots_end(struct backend *b, const struct backend_tile *t, double *dots, double *sums,
                  int64_t stride, int count);

#endif
