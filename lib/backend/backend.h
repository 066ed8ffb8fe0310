/*
 * The ops table: everything the model and the scores need from a device. The CPU is built in, CUDA
 * is a plugin; lib/nn is written once against this page. Plain C that C++ can read.
 *
 * Memory. Device memory is a void pointer that the host never follows; offsets are bytes. An
 * activation is a row-major matrix without gaps, tile rows x columns, of `act_size` bytes an
 * element (4: fp32). Weights are described by the host and made usable by `weights_load`.
 *
 * Order. Ops of one backend run one after another in the order of the calls, possibly later than
 * the call (CUDA: one stream); `download` and `sync` wait. Ops return nothing: the first failure is
 * kept and reported by the next `download` or `sync`, and ops after a failure do nothing.
 *
 * Bits. Every product is made with exactly the tile's number of rows, or in chunks of one number of
 * rows (`chunk_rows`). Results of a row depend on that row alone (attention: on its sample), never
 * on other samples or on the number of threads. Rows that hold no token are zero on input and stay
 * zero.
 */
#ifndef AQ_BACKEND_BACKEND_H
#define AQ_BACKEND_BACKEND_H

#include "base/err.h"
#include "base/num.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BACKEND_ABI = 16 };

struct backend;
struct quant_spec; /* all three quant/quant.h: plain numbers, readable by plugins */
struct quant_step;
struct quant_range;

/* What a plugin may ask of its host; it links with nothing of ours. */
struct backend_host {
    uint32_t struct_size;
    /* base/err.h's aq_err_set; returns -1 */
    int (*err_set)(struct aq_err *err, int code, const char *fmt, ...) AQ_PRINTF(3, 4);
    void (*warn)(const char *fmt, ...) AQ_PRINTF(1, 2);
    void (*note)(int level, const char *fmt, ...) AQ_PRINTF(2, 3);
};

enum backend_matrix {
    BACKEND_MATRIX_AUTO,  /* integer and bf16 matrix instructions where the machine has them */
    BACKEND_MATRIX_PLAIN, /* fp32 products only */
};

struct backend_config {
    uint32_t struct_size;
    int device;           /* index among the devices of this backend */
    int threads;          /* CPU: 0 means all that the process may use */
    uint64_t memory;      /* limit in bytes; 0: none */
    uint64_t kept_until;  /* bytes in use beyond which no released weight is kept; 0: by itself */
    int bf16;             /* compute type of model.dtype; the CPU computes in fp32 either way */
    int operand_rounding; /* round dequantized operands to the compute type first */
    enum backend_matrix matrix;
};

/*
 * A matrix of the checkpoint, or some consecutive rows of one. The caller owns the struct and the
 * mapped bytes. A backend that computes in bf16 rounds F32 and F16 weights to bf16 once, when they
 * are loaded, so that the reference and every quantizer start from the same numbers.
 */
struct backend_weight {
    const void *host; /* any alignment */
    enum num_type dtype;
    int64_t rows, cols; /* (out, in); the weight of a norm and a bias are (1, n) */
    const char *name;   /* for messages */
    void *dev;          /* backend's own; NULL until loaded */
    uint32_t version;   /* another one whenever the numbers at `host` are others than before */
    /* Of its own for numbers that stay what they are from load to load, so that a backend may keep
       them after their release; 0: made anew at each load. */
    uint64_t serial;
    /* fp32 numbers made from the model's weight, not the weight itself: also a backend that
       computes in bf16 takes them as they are. */
    int exact;
    /* NULL, or where the rows from rows / 2 on are instead, any alignment: an expert's up
       projection, which most checkpoints have apart from its gate. */
    const void *lower;
};

/*
 * How a model computes. A family sets what differs; {.w = w, .eps = e, .to_product = 1} and the
 * like are Llama's and Qwen3's forms.
 */

/* RMS norm of n = w->cols numbers: y = w x / sqrt(mean(x^2) + eps). */
struct backend_norm {
    const struct backend_weight *w; /* (1, n) */
    double eps;
    int one_plus; /* the weight is 1 + w (Gemma) */
    /* The result is the input of a linear: a backend that computes in bf16 rounds it there, once.
       Families that also round x / sqrt(...) before they multiply differ from that by rounding. */
    int to_product;
};

/*
 * Rotary embedding. Elements k and k + dim / 2 of a head are a pair, turned by the angle
 * position * inv_freq[k]; elements from dim on stay as they are. The table is read by every call
 * and may be freed when the tile is.
 */
struct backend_rope {
    const float *inv_freq; /* host memory, [dim / 2] */
    int dim;               /* even, at most the head's size */
    float factor;          /* multiplies cosines and sines (yarn, longrope); else 1 */
};

/* Causal attention; q and o have heads x dim columns, k and v kv_heads x dim. */
struct backend_attention {
    int heads, kv_heads, dim;
    float scale;    /* of q . k */
    float cap;      /* scores become cap * tanh(score / cap) before the mask (Gemma 2); 0: none */
    int32_t window; /* row i sees rows j with i - window < j <= i; 0: no limit */
};

enum backend_act { BACKEND_SILU, BACKEND_GELU_TANH };

/* logits = h w' / divisor, then cap * tanh(logits / cap) if cap is not 0. */
struct backend_head {
    const struct backend_weight *w; /* (vocabulary, hidden) */
    float divisor, cap;             /* 1 and 0: as they are */
};

/* A tile's logits, in an order that is the backend's. */
struct backend_logits {
    void *z;  /* device F32 [rows x vocabulary] */
    int made; /* 0: the next call makes them */
};

/*
 * The rows of one unit of work. Samples lie one after another without gaps, row first[i] to
 * first[i + 1] - 1; rows from first[samples] on hold no token. If pad[i], the sample's first row
 * represents all its pad rows: it attends to nothing, gives nothing to the others, and takes part
 * in the rest.
 */
struct backend_tile_desc {
    int32_t rows, samples;
    const int32_t *first;  /* [samples + 1] */
    const uint8_t *pad;    /* [samples] */
    const int32_t *ids;    /* [rows]; -1: no token */
    const int32_t *pos;    /* [rows]: position for the rotation */
    const int32_t *target; /* [rows]; -1: not counted in the loss */
};
struct backend_tile;    /* the same, on the device */
struct backend_operand; /* a quantized weight or activation, in whatever form suits the device */

/* What is known of one of two distributions at one row, after some ids. */
struct backend_side {
    double top, sum; /* the largest logit; sum of exp(z - top) */
    double moved;    /* of exp(z - top) (z - the other's) */
    int64_t best;    /* the lowest id with the largest logit */
    float target;    /* the target's logit, once its id was seen */
};

/* One quantized input against the weight operand of backend_ops.score. */
struct backend_score_job {
    const struct backend_tile *tile;
    const struct backend_operand *x;
    const void *y;  /* reference output without its bias, (rows, out) */
    const void *dy; /* gradient at the output, (rows, out) */
    double *sums;   /* device, [samples of the tile]; added to */
    /* What follows may be NULL: not wanted. All of it is device memory and added to. */
    double *firsts; /* [samples]: the part of sums that comes from each sample's first row */
    double *dots;   /* [rows]: sum over the outputs of (Yq - Y) dY, for dots_end */
    /* Only this many samples, from the first on, are wanted: the numbers of the others may come out
       as they like. 0: all samples. */
    int32_t samples;
};

/* What a plan of memory must know of a model. */
struct backend_sizes {
    int32_t rows;                    /* of a tile */
    int64_t outputs, inputs;         /* the most of any linear */
    int64_t weight;                  /* elements of the largest linear */
    uint64_t layer_bytes, end_bytes; /* weights of a layer; of embedding, last norm and head */
    /* Of experts: the most rows of a part, the most inputs of an expert's matrix, and the elements
       of the largest matrix for all experts of a part. */
    int64_t part_rows, part_inputs, part_weights;
    int64_t keys; /* columns of attention's keys, those of all heads */
};

struct backend_ops {
    uint32_t abi, struct_size;
    const char *name; /* "cpu", "cuda" */

    /* Number of usable devices; 0 and a reason in err. */
    int (*probe)(const struct backend_host *host, struct aq_err *err);
    int (*open)(struct backend **out, const struct backend_host *host,
                const struct backend_config *config, struct aq_err *err);
    void (*close)(struct backend *b);

    /* ---- memory ---- */
    /* What loaded weights, operands and the ops' own scratch take at most, and the device itself:
       all that the caller does not ask `alloc` for. */
    uint64_t (*scratch_bytes)(const struct backend *b, const struct backend_sizes *s);
    void *(*alloc)(struct backend *b, size_t bytes, const char *purpose, struct aq_err *err);
    void (*free)(struct backend *b, void *p, size_t bytes);
    void (*zero)(struct backend *b, void *p, size_t bytes);
    void (*copy)(struct backend *b, void *to, const void *from, size_t bytes);
    void (*upload)(struct backend *b, void *to, const void *host, size_t bytes);
    int (*download)(struct backend *b, void *host, const void *from, size_t bytes,
                    struct aq_err *err); /* waits */
    int (*sync)(struct backend *b, struct aq_err *err);

    /* Starts to bring weights to the device; ops that use them wait by themselves. */
    int (*weights_load)(struct backend *b, struct backend_weight *const *w, int count,
                        struct aq_err *err);
    void (*weights_release)(struct backend *b, struct backend_weight *const *w, int count);

    struct backend_tile *(*tile_new)(struct backend *b, const struct backend_tile_desc *desc,
                                     struct aq_err *err);
    void (*tile_free)(struct backend *b, struct backend_tile *t);
    /*
     * The rows of t that go to some experts, one expert after the other, as a tile of their own;
     * slots of expert i end before ends[i] in `slots`. A slot is row * per_token + place among the
     * row's experts; those of an expert rise, so that the rows of a sample lie together. Samples
     * are those of t. Each expert's rows are filled up to a multiple of b->expert_rows, and
     * products are made with that many rows at a time, so that a row's bits depend on that row and
     * its place among them. At most b->experts_at_once experts. NULL in a backend without experts,
     * as are the ops under "experts" below.
     */
    struct backend_tile *(*tile_part)(struct backend *b, const struct backend_tile *t,
                                      const int32_t *slots, const int32_t *ends, int experts,
                                      int per_token, struct aq_err *err);

    /* ---- the model; activations are (tile rows, cols) ---- */
    /* h = factor * table[id] */
    void (*embed)(struct backend *b, const struct backend_tile *t, void *h,
                  const struct backend_weight *table, float factor);
    /* y += factor * x */
    void (*add)(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                int64_t cols, float factor);
    /* y = factor * x; y may be x */
    void (*scale)(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                  int64_t cols, float factor);
    /* y = x + bias in the rows that hold a token; y may be x. bias: (1, cols) */
    void (*bias_add)(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                     const struct backend_weight *bias);
    /* Columns y_at.. of y (rows, y_cols) = columns x_at.. of x (rows, x_cols), `cols` of them:
       parts of what a fused projection makes, taken apart or put together. */
    void (*cols_copy)(struct backend *b, const struct backend_tile *t, void *y, int64_t y_cols,
                      int64_t y_at, const void *x, int64_t x_cols, int64_t x_at, int64_t cols);
    /* Over rows of norm->w->cols. y may be x. */
    void (*rmsnorm_forward)(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                            const struct backend_norm *norm);
    /* dx += the gradient */
    void (*rmsnorm_backward)(struct backend *b, const struct backend_tile *t, void *dx,
                             const void *dy, const void *x, const struct backend_norm *norm);
    /* Each head of `dim` columns: norm over the head (NULL: none), then rotation (NULL: none).
       x and y: (rows, heads x dim), y is not x. */
    void (*norm_rope_forward)(struct backend *b, const struct backend_tile *t, void *y,
                              const void *x, int heads, int dim, const struct backend_norm *norm,
                              const struct backend_rope *rope);
    /* dx is set; x is not read without a norm */
    void (*norm_rope_backward)(struct backend *b, const struct backend_tile *t, void *dx,
                               const void *dy, const void *x, int heads, int dim,
                               const struct backend_norm *norm, const struct backend_rope *rope);
    /* Within each sample; a pad row sees nothing and is not seen. */
    void (*attention_forward)(struct backend *b, const struct backend_tile *t, void *o,
                              const void *q, const void *k, const void *v,
                              const struct backend_attention *a);
    void (*attention_backward)(struct backend *b, const struct backend_tile *t, void *dq, void *dk,
                               void *dv, const void *d_o, const void *q, const void *k,
                               const void *v,
                               const struct backend_attention *a); /* all three set */
    /* y = act(gate) * up */
    void (*glu_forward)(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                        const void *up, int64_t cols, enum backend_act act);
    /* The same from one matrix (rows, 2 x cols), gate beside up. */
    void (*glu_pair_forward)(struct backend *b, const struct backend_tile *t, void *y,
                             const void *gate_up, int64_t cols, enum backend_act act);
    void (*glu_backward)(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                         const void *dy, const void *gate, const void *up, int64_t cols,
                         enum backend_act act);
    void (*linear_forward)(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                           const struct backend_weight *w); /* y = x W^T */
    void (*linear_backward)(struct backend *b, const struct backend_tile *t, void *dx,
                            const void *dy, const struct backend_weight *w,
                            int accumulate); /* dx = dy W, or dx += */
    /*
     * The head. loss: device F64 [samples], summed over each sample's targets (set). dh: gradient
     * of that sum at h, the head's input (set).
     */
    void (*loss)(struct backend *b, const struct backend_tile *t, double *loss, void *dh,
                 const void *h, const struct backend_head *head);
    /* KL(reference || changed) of each row's distribution over the vocabulary: kl[i] is device
       F64 [rows] (set), hq[i] the changed input of the head. Equal inputs give exactly 0. kept:
       NULL, or where the reference's logits stay for further calls, which need no h then. */
    void (*kl)(struct backend *b, const struct backend_tile *t, double *const *kl, const void *h,
               const void *const *hq, int count, const struct backend_head *head,
               struct backend_logits *kept);
    /* z: (rows, vocabulary) in fp32; for small vocabularies. */
    void (*logits)(struct backend *b, const struct backend_tile *t, void *z, const void *h,
                   const struct backend_head *head);
    /*
     * Two next-token distributions, a slice of the vocabulary at a time: device logits z and zq
     * (rows, ids) of the ids from `at` on join what is known of them, sides, device [rows][2],
     * which the slice at 0 sets. Rows without a target stay as they are. Equal logits leave equal
     * sides.
     */
    void (*compare)(struct backend *b, const struct backend_tile *t, struct backend_side *sides,
                    const void *z, const void *zq, int64_t at, int64_t ids);

    /* ---- experts; part: of tile_part, its activations are (part rows, cols) ---- */
    /*
     * A token's experts from logits (rows, experts): p = softmax(logits) in fp32, then the
     * per_token largest p, of equal ones the lower number, by rising number: sel, device I32 [rows
     * x per_token], -1 in rows without a token. w, device F32 likewise: their p, divided by the sum
     * of these if `normed`.
     */
    void (*route)(struct backend *b, const struct backend_tile *t, float *p, int32_t *sel, float *w,
                  const void *logits, int experts, int per_token, int normed);
    /* dlogits (rows, experts), set, from q, the gradient at w [rows x per_token]. */
    void (*route_backward)(struct backend *b, const struct backend_tile *t, void *dlogits,
                           const float *p, const int32_t *sel, const float *w, const float *q,
                           int experts, int per_token, int normed);
    /* y (part) = w[slot] * x[row of the slot]; w NULL: 1 */
    void (*part_take)(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                      int64_t cols, const float *w);
    /* y[row of the slot] += w[slot] * x (part), one expert after the other; w NULL: 1 */
    void (*part_add)(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                     int64_t cols, const float *w);
    /* y[slot] = x (part): y has rows x per_token rows */
    void (*part_put)(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                     int64_t cols);
    /* q[slot] = sum over the columns of g[row of the slot] * f (part) */
    void (*part_dot)(struct backend *b, const struct backend_tile *part, float *q, const void *g,
                     const void *f, int64_t cols);
    /* As linear_forward, linear_backward (which sets dx) and linear_quantized, the rows of the
       part's expert i with w[i]. That of an expert without rows is not read. */
    void (*experts_forward)(struct backend *b, const struct backend_tile *part, void *y,
                            const void *x, const struct backend_weight *const *w);
    void (*experts_backward)(struct backend *b, const struct backend_tile *part, void *dx,
                             const void *dy, const struct backend_weight *const *w);
    void (*experts_quantized)(struct backend *b, const struct backend_tile *part, void *y,
                              const struct backend_operand *x,
                              const struct backend_operand *const *w);
    /* `score` for an output that is there already: yq, y and dy are (rows, cols). */
    void (*score_output)(struct backend *b, const struct backend_score_job *job, const void *yq,
                         int64_t cols);

    /* ---- measuring and quantizing ---- */
    /*
     * Largest magnitudes of x over samples from <= i < to of the tile: per_sample, device F32
     * [samples] (set for those samples), and per_channel, device F32 [cols] (raised). Either may be
     * NULL. A NaN anywhere stays a NaN.
     */
    void (*amax)(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
                 int32_t from, int32_t to, float *per_sample, float *per_channel);
    /* sums, device F64 [cols], += |x|, row after row of these samples. Of a tile whose samples are
       parts of samples: those that are flagged as a pad are left out, all of their rows. */
    void (*magnitudes)(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
                       int32_t from, int32_t to, double *sums);
    /* Room for one quantized weight, or activation of a tile, of at most this size. */
    struct backend_operand *(*operand_new)(struct backend *b, int64_t rows, int64_t cols,
                                           int is_weight, struct aq_err *err);
    void (*operand_free)(struct backend *b, struct backend_operand *op);
    /* w stays in use for as long as the operand holds it. A spec without steps leaves it unchanged;
       an operand that already holds this weight with this spec costs nothing. Without methods, but
       for those of `searches`. */
    void (*quantize_weight)(struct backend *b, struct backend_operand *op,
                            const struct backend_weight *w, const struct quant_spec *spec);
    /*
     * x stays in use likewise. range: of a static spec, else NULL; in host memory, read before the
     * call returns; its factor, which any spec may have, multiplies the columns of x first, now or
     * later: it stays in use. A dynamic "per tensor" is per sample of t, which may divide the rows
     * otherwise than the tile of the products. One operand serves products with any weight operand.
     * clipped: device F64 [samples], raised by the number of elements beyond the last code; may be
     * NULL.
     */
    void (*quantize_act)(struct backend *b, struct backend_operand *op,
                         const struct backend_tile *t, const void *x, int64_t cols,
                         const struct quant_spec *spec, const struct quant_range *range,
                         double *clipped);
    /* y = Q(x) Q(W)^T */
    void (*linear_quantized)(struct backend *b, const struct backend_tile *t, void *y,
                             const struct backend_operand *x, const struct backend_operand *w);
    /* Products of one linear that `score` makes for this pair of treatments. */
    int (*products)(const struct backend *b, const struct quant_spec *weight,
                    const struct quant_spec *act);
    /* For every job: sums[i] += sum over the sample's rows and all outputs of
       ((Q(x) Q(W)^T - y) * dy)^2, squares and sums in double. */
    void (*score)(struct backend *b, const struct backend_operand *w,
                  const struct backend_score_job *jobs, int count);
    /*
     * From here on quantized inputs of `score` are kept, in up to `bytes`, and serve its later
     * calls: the numbers at an x stay what they are until the next call, which forgets all. 0: none
     * are kept. NULL in a backend that keeps none.
     */
    void (*inputs_keep)(struct backend *b, uint64_t bytes);
    /*
     * The dot form, after `score` has seen all members of a group: an error's first-order effect on
     * the loss at a row is the sum over the outputs of all members of (Yq - Y) dY, and this adds
     * the squares of that over each sample's rows. dots: device F64 (count, rows of the tile), set
     * to zero for the next group; sums[i * stride + sample] is added to for each of the count.
     */
    void (*dots_end)(struct backend *b, const struct backend_tile *t, double *dots, double *sums,
                     int64_t stride, int count);
    /*
     * square, device F64 (cols, cols), += the sum of x'x over the tile's rows of text. The op is
     * NULL in a backend whose activations the host may as well add up.
     */
    void (*moments)(struct backend *b, const struct backend_tile *t, double *square, const void *x,
                    int64_t cols);

    /* ---- numbers of calibrated candidates ---- */
    /*
     * What lib/quant's gptq.h and scaling.h compute on the host, operation by operation but for the
     * order of sums in double. All are NULL in a backend without `moments`. They return 0 or -1,
     * and wait for their results, which are host memory. A weight, which must be loaded, is taken
     * in fp32, its columns multiplied by scale, host [cols] (NULL: by 1). square: second moments,
     * device F64 (n, n), both triangles.
     */
    /* Device memory that these ops take for a candidate of a weight of this size, whose errors
       scaled_error takes over `sampled` rows; beside factors and moments. */
    uint64_t (*solve_bytes)(const struct backend *b, const struct quant_spec *spec, int64_t rows,
                            int64_t cols, int64_t sampled);
    /* Copies the lower triangle of square to the upper one. diagonal: [n], set. */
    int (*moments_end)(struct backend *b, double *square, int64_t n, double *diagonal,
                       struct aq_err *err);
    /* u, device F64 (n, n): the factor of gptq.h of square with `added` on its diagonal, columns in
       this order, [n], moments divided by the scales. 1: there is none. */
    int (*gptq_factor)(struct backend *b, double *u, const double *square, int64_t n,
                       const int64_t *order, const float *scale, double added, struct aq_err *err);
    /* Codes under ranges, [grid of the spec], as they are stored: packed, (rows, row bytes), set.
       Columns pass their errors on in blocks of the backend's own size. */
    int (*gptq_codes)(struct backend *b, const double *u, const int64_t *order,
                      const struct backend_weight *w, const float *scale,
                      const struct quant_spec *spec, const float *ranges, uint8_t *packed,
                      struct aq_err *err);
    /* The largest magnitude of each cell of the step's grid: ranges, [cells], set. */
    int (*weight_ranges)(struct backend *b, const struct backend_weight *w, const float *scale,
                         const struct quant_step *step, float *ranges, struct aq_err *err);
    /* Ranges [grid], the largest magnitudes, become clip_ranges'. */
    int (*clip_ranges)(struct backend *b, const double *square, const struct backend_weight *w,
                       const float *scale, const struct quant_spec *spec, float *ranges,
                       struct aq_err *err);
    /* mean [cols], set: the mean over the rows of all weights of |w| over the largest magnitude of
       its block of columns. */
    int (*weight_measure)(struct backend *b, const struct backend_weight *const *w, int count,
                          int64_t block, double *mean, struct aq_err *err);
    /* The squared error of the outputs of every step[i]-th row of w[i], its columns multiplied by
       scale, quantized by spec and divided again. */
    int (*scaled_error)(struct backend *b, const double *square,
                        const struct backend_weight *const *w, const int64_t *step, int count,
                        const struct quant_spec *spec, const float *scale, double *error,
                        struct aq_err *err);
};

/* Every backend's own struct begins with this. */
struct backend {
    const struct backend_ops *ops;
    size_t act_size;       /* bytes of an activation element */
    char identity[96];     /* "cpu/openblas-SkylakeX/fp32": what equal bits depend on */
    int threads;           /* CPU workers; 1 elsewhere */
    uint64_t weights_read; /* bytes of weights loaded so far, without those that were still there */
    uint64_t batch_bytes;  /* tiles scored together gain nothing more beyond this */
    int32_t chunk_rows;    /* `score` takes a job's wanted rows, rounded up to these; 0: all rows */
    int32_t tile_tokens;   /* rows that fill the device; a tile has that many, or a multiple */
    /* The same for a model with experts, each of which gets few of a tile's rows: a multiple of
       tile_tokens, or 0: no other. */
    int32_t expert_tile_tokens;
    int inputs_at_once;  /* quantized inputs of a tile beyond which one call of score gains nothing
                          */
    uint64_t keep_bytes; /* of quantized inputs, beyond which inputs_keep should not be asked */
    int32_t expert_rows; /* of a product with an expert's weight; divides tile_tokens */
    int experts_at_once; /* the most of a part */
    uint64_t experts_bytes; /* of the quantized weights of a part beyond which it gains nothing */
    size_t input_size;  /* bytes of their elements in operands; 0: they are part of scratch_bytes */
    size_t weight_size; /* bytes that an operand may take for each element of its weight */
    int weights_bf16;   /* weights that are not `exact` are rounded to bf16 when they are loaded */
    int searches;       /* quantize_weight takes treatments with mse, sweep and 4o6 */
};

/* The plugin's one symbol, "aq_backend_plugin". The table is static storage of the plugin. */
typedef const struct backend_ops *backend_plugin_fn(void);

/* The first thing in the main() of a program that opens a backend. It may start the program again.
 */
void backend_begin(char **argv);
/*
 * The host's side. device: "auto" (a GPU if there is one that works, else the CPU), "cpu", "cuda",
 * "cuda:N". A device that is not there is AQ_EBACKEND with the reason, never another device.
 */
int backend_open(struct backend **out, const char *device, const struct backend_config *config,
                 struct aq_err *err) AQ_MUST_CHECK;
void backend_close(struct backend *b); /* NULL is fine */
/* Lines of --build-info: what computes here. */
void backend_print_build_info(void);

extern const struct backend_ops backend_cpu_ops;

#ifdef __cplusplus
}
#endif

#endif
