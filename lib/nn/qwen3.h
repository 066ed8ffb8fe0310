/*
 * Qwen3 and the text model of Qwen3-VL: forward, loss, and the gradient at every linear's output,
 * written once against the ops table.
 *
 *     h = embed[ids]
 *     layer:  x0 = RMS(h)           q, k, v = x0 Wq', x0 Wk', x0 Wv'
 *             x1 = attention(rope(norm(q)), rope(norm(k)), v)
 *             m  = h + x1 Wo'
 *             x2 = RMS(m)           gate, up = x2 Wg', x2 Wu'
 *             x3 = silu(gate) * up
 *             h' = m + x3 Wd'
 *     head:   logits = RMS(h) embed' or head'
 *
 * Nothing here allocates after qwen3_open. One tile is worked on at a time; its buffers belong to
 * the model and are overwritten by the next call.
 */
#ifndef AQ_NN_QWEN3_H
#define AQ_NN_QWEN3_H

#include "backend/backend.h"
#include "base/err.h"
#include "nn/tile.h"

#include <stddef.h>
#include <stdint.h>

enum qwen3_linear {
    QWEN3_Q,
    QWEN3_K,
    QWEN3_V,
    QWEN3_O,
    QWEN3_GATE,
    QWEN3_UP,
    QWEN3_DOWN,
    QWEN3_LINEARS
};

/* Linears that read the same tensor share an input. */
enum qwen3_input { QWEN3_IN_QKV, QWEN3_IN_O, QWEN3_IN_GATE_UP, QWEN3_IN_DOWN, QWEN3_INPUTS };

struct qwen3_config {
    int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab;
    double rope_theta, eps;
    int tied;
};

/* Where weights come from: a checkpoint's tensors by their LM names ("layers.0.mlp.up_proj.weight",
   "embed_tokens.weight", "norm.weight", "lm_head.weight"). */
struct qwen3_source {
    struct qwen3_config config;
    /* Fills host, dtype, rows, cols (a vector is one row) and name, all borrowed for as long as the
       model is open; -1 and an error if the tensor is absent or cannot be computed with. */
    int (*find)(void *arg, const char *name, struct backend_weight *out, struct aq_err *err);
    void *arg;
};

struct lm;                                             /* model/lm.h */
struct qwen3_source qwen3_source_of_lm(struct lm *lm); /* lm is borrowed */

struct qwen3;

/* Names as in lm.json: "self_attn.q_proj" and so on; inputs "qkv", "o", "gate_up", "down". */
const char *qwen3_linear_name(enum qwen3_linear l);
const char *qwen3_input_name(enum qwen3_input i);
enum qwen3_input qwen3_input_of(enum qwen3_linear l);

/*
 * Checks the shapes of all tensors and takes the buffers of one tile of `rows` rows from the
 * backend, which outlives the model. backward = 0 leaves out what only gradients need.
 */
int qwen3_open(struct qwen3 **out, const struct qwen3_source *source, struct backend *b,
               int32_t rows, int backward, struct aq_err *err) AQ_MUST_CHECK;
void qwen3_close(struct qwen3 *m);
const struct qwen3_config *qwen3_config(const struct qwen3 *m);
/* Bytes that qwen3_open takes from the backend; for plans. */
uint64_t qwen3_buffer_bytes(const struct qwen3_config *c, size_t act_size, int32_t rows,
                            int backward);
const struct backend_weight *qwen3_weight(const struct qwen3 *m, int64_t layer,
                                          enum qwen3_linear l);
/* Columns of an input, (out, in) of a linear: qwen3_weight(...)->rows and ->cols. */
int64_t qwen3_input_cols(const struct qwen3 *m, enum qwen3_input i);

/*
 * Brings the weights of a layer to the device, starts on those of `next` (-1: none), and lets other
 * layers go. The ends are the embedding, the last norm and the head; they stay until dropped.
 */
int qwen3_use_layer(struct qwen3 *m, int64_t layer, int64_t next, struct aq_err *err) AQ_MUST_CHECK;
int qwen3_use_ends(struct qwen3 *m, struct aq_err *err) AQ_MUST_CHECK;
void qwen3_drop_ends(struct qwen3 *m);
/* Weights of a layer, and of the ends; for plans. */
uint64_t qwen3_layer_bytes(const struct qwen3 *m);
uint64_t qwen3_end_bytes(const struct qwen3 *m);
uint64_t qwen3_weight_bytes_read(const struct qwen3 *m); /* weights brought in so far */

/* What a layer call left behind for its tile: device memory, valid until the next layer call. */
struct qwen3_acts {
    void *x[QWEN3_INPUTS];   /* inputs of the linears */
    void *y[QWEN3_LINEARS];  /* their outputs */
    void *dy[QWEN3_LINEARS]; /* gradients at the outputs; after qwen3_layer_backward only */
};

/* One group replaced in a forward call: linears with an operand use it instead of their weight. */
struct qwen3_swap {
    const struct backend_operand *w[QWEN3_LINEARS]; /* NULL: as it is */
    const struct backend_operand *x[QWEN3_INPUTS];  /* of the replaced linears; else not read */
};

/* h: (rows, hidden) in the backend's memory, as are all h below. */
void qwen3_embed(struct qwen3 *m, const struct backend_tile *t, void *h);
/* h_out may be h_in, or NULL if only the inputs of the linears are wanted. swap may be NULL. */
const struct qwen3_acts *qwen3_layer_forward(struct qwen3 *m, int64_t layer,
                                             const struct backend_tile *t, const void *h_in,
                                             void *h_out, const struct qwen3_swap *swap);
/* Recomputes the layer from its input; dh is the gradient at its output, and becomes that at its
   input, or with to_input = 0 nothing of use, which costs less. into: device memory for what it
   leaves behind; NULL: the model's own. */
const struct qwen3_acts *qwen3_layer_backward(struct qwen3 *m, int64_t layer,
                                              const struct backend_tile *t, const void *h_in,
                                              void *dh, int to_input,
                                              const struct qwen3_acts *into);
/* The last layer and the head at once. loss: device F64 [samples], summed over each sample's
   targets; dh becomes its gradient at the layer's input. */
const struct qwen3_acts *qwen3_last_backward(struct qwen3 *m, const struct backend_tile *t,
                                             const void *h_in, double *loss, void *dh, int to_input,
                                             const struct qwen3_acts *into);
/* KL of each row against the unchanged output h: kl[i] is device F64 [rows]. hq[i] is overwritten.
 */
void qwen3_kl(struct qwen3 *m, const struct backend_tile *t, const void *h, void *const *hq,
              double *const *kl, int count);
/* logits: (rows, vocab) in the backend's memory; for tests and small vocabularies. */
void qwen3_logits(struct qwen3 *m, const struct backend_tile *t, const void *h, void *logits);

#endif
