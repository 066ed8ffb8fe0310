/*
 * A decoder: forward, loss, and the gradient at every linear's output, written once against the ops
 * table, over the tables of lib/model/family.h.
 *
 *     h = e embed[ids]
 *     layer:  x0 = RMS(h)           q, k, v = x0 Wq', x0 Wk', x0 Wv'
 *             x1 = attention(rope(norm(q)), rope(norm(k)), v)
 *             m  = h + r RMS(x1 Wo')
 *             x2 = RMS(m)           gate, up = x2 Wg', x2 Wu'
 *             x3 = act(gate) * up
 *             h' = m + r RMS(x3 Wd')
 *     head:   logits = cap(RMS(h) embed' / d), or head' for embed'
 *
 * Which of the norms are there, whether a linear has a bias (added after what is scored as its
 * output) or holds several in one, and the numbers e, r and d are the family's: docs/families.md.
 *
 * Nothing here allocates after nn_open. One tile is worked on at a time; its buffers belong to
 * the model and are overwritten by the next call.
 */
#ifndef AQ_NN_MODEL_H
#define AQ_NN_MODEL_H

#include "backend/backend.h"
#include "base/err.h"
#include "model/family.h"
#include "nn/tile.h"

#include <stddef.h>
#include <stdint.h>

/* Where weights come from: a checkpoint's tensors by their LM names ("layers.0.mlp.up_proj.weight",
   "embed_tokens.weight", "norm.weight", "lm_head.weight"). */
struct nn_source {
    const struct lm_arch *arch;
    /* Fills host, dtype, rows, cols (a vector is one row) and name, all borrowed for as long as the
       model is open; -1 and an error if the tensor is absent or cannot be computed with. */
    int (*find)(void *arg, const char *name, struct backend_weight *out, struct aq_err *err);
    void *arg;
    /*
     * For weights that are made when they are needed, those whose host `find` leaves NULL: `make`
     * sets it before the weight is brought to the device, `drop` takes it away again afterwards.
     * Both NULL: there are none. `make` is called from several threads, for a weight each.
     */
    int (*make)(void *arg, struct backend_weight *w, struct aq_err *err);
    void (*drop)(void *arg, struct backend_weight *w);
};

struct lm;                                       /* model/lm.h */
struct nn_source nn_source_of_lm(struct lm *lm); /* lm is borrowed */

struct nn_model;

/*
 * Checks the shapes of all tensors and takes the buffers of one tile of `rows` rows from the
 * backend, which outlives the model. backward = 0 leaves out what only gradients need.
 */
int nn_open(struct nn_model **out, const struct nn_source *source, struct backend *b, int32_t rows,
            int backward, struct aq_err *err) AQ_MUST_CHECK;
void nn_close(struct nn_model *m);
const struct lm_arch *nn_arch(const struct nn_model *m);
int64_t nn_layers(const struct nn_model *m);
/* A layer's linears, inputs and groups, by which all arrays below are indexed. */
const struct model_layer *nn_layer(const struct nn_model *m, int64_t layer);
/* Bytes that nn_open takes from the backend; for plans. */
uint64_t nn_buffer_bytes(const struct lm_arch *a, const struct backend *b, int32_t rows,
                         int backward);
const struct backend_weight *nn_weight(const struct nn_model *m, int64_t layer, int linear);
/*
 * The treatment as it is for the members of a group: with `@group` the range of all of them, found
 * when it is first asked for. AQ_EINPUT: a weight that is not finite.
 */
struct quant_spec; /* quant/quant.h */
int nn_group_spec(struct nn_model *m, int64_t layer, int group, const struct quant_spec *spec,
                  struct quant_spec *out, struct aq_err *err) AQ_MUST_CHECK;

/*
 * Brings the weights of a layer to the device, starts on those of `next` (-1: none), and lets other
 * layers go. The ends are the embedding, the last norm and the head; they stay until dropped.
 */
int nn_use_layer(struct nn_model *m, int64_t layer, int64_t next, struct aq_err *err) AQ_MUST_CHECK;
int nn_use_ends(struct nn_model *m, struct aq_err *err) AQ_MUST_CHECK;
void nn_drop_ends(struct nn_model *m);
/* Weights of a layer, and of the ends; for plans. */
uint64_t nn_layer_bytes(const struct nn_model *m);
uint64_t nn_end_bytes(const struct nn_model *m);
uint64_t nn_model_bytes(const struct nn_model *m);       /* of all layers and the ends */
uint64_t nn_weight_bytes_read(const struct nn_model *m); /* of weights loaded so far */

/* What a layer call computed for its tile: device memory, valid until the next layer call. */
struct nn_acts {
    void *x[MODEL_INPUTS];   /* (rows, inputs[i].cols): inputs of the linears */
    void *y[MODEL_LINEARS];  /* (rows, linears[l].rows): their outputs, without biases */
    void *dy[MODEL_LINEARS]; /* as y: gradients at the outputs; after nn_layer_backward only */
    /* Of a layer with experts: their sum and its gradient, (rows, hidden), and where tokens went.
       The input of down is (rows x experts per token, cols). */
    void *block_y, *block_dy;
    struct nn_routes *routes; /* nn/experts.h; device memory, as the rest */
};

/* Linears replaced in a forward call: those with an operand use it instead of their weight. */
struct nn_swap {
    const struct backend_operand *w[MODEL_LINEARS]; /* NULL: unquantized */
    const struct backend_operand *x[MODEL_LINEARS]; /* of the replaced linears; else not read */
    /* Makes x during the call: called with each input as soon as it is computed, before the first
       linear that reads it. NULL: x was made before the call. */
    void (*ready)(void *arg, int input, const void *x);
    void *arg;
    const struct nn_expert_swap *experts; /* nn/experts.h; NULL: unquantized */
    const struct nn_kept_routes *routes;  /* taken instead of the router's; NULL: its own */
};

/* h: (rows, hidden) in the backend's memory, as are all h below. */
void nn_embed(struct nn_model *m, const struct backend_tile *t, void *h);
/* h_out may be h_in, or NULL if only the inputs of the linears are wanted. swap may be NULL. */
const struct nn_acts *nn_layer_forward(struct nn_model *m, int64_t layer,
                                       const struct backend_tile *t, const void *h_in, void *h_out,
                                       const struct nn_swap *swap);
/* Recomputes the layer from its input h_in. dh (rows, hidden) holds the gradient at the layer's
   output and receives the gradient at its input; with to_input = 0, which costs less, its content
   is undefined afterwards. into: device memory for the acts returned; NULL: the model's own. */
const struct nn_acts *nn_layer_backward(struct nn_model *m, int64_t layer,
                                        const struct backend_tile *t, const void *h_in, void *dh,
                                        int to_input, const struct nn_acts *into);
/* The last layer and the head at once. loss: device F64 [samples], summed over each sample's
   targets; dh becomes its gradient at the layer's input. */
const struct nn_acts *nn_last_backward(struct nn_model *m, const struct backend_tile *t,
                                       const void *h_in, double *loss, void *dh, int to_input,
                                       const struct nn_acts *into);
/* Layer calls return nothing: what went wrong in one of them since the last check. AQ_MUST_CHECK
   after every pass over a tile. */
int nn_check(struct nn_model *m, struct aq_err *err) AQ_MUST_CHECK;
/* KL of each row against the unchanged output h (rows, hidden), for `count` changed outputs hq[i]
   of the same shape, which are overwritten: kl[i] is device F64 [rows]. kept: NULL, or where the
   logits of h stay; h is not read once they are made. */
void nn_kl(struct nn_model *m, const struct backend_tile *t, const void *h, void *const *hq,
           double *const *kl, int count, struct backend_logits *kept);
/*
 * The head by slices of the vocabulary: logits of NN_SLICE ids at a time. nn_use_head brings the
 * last norm and the head, until nn_drop_head; with a tied head, first let the ends go.
 */
enum { NN_SLICE = 8192 };
int nn_use_head(struct nn_model *m, struct aq_err *err) AQ_MUST_CHECK;
void nn_drop_head(struct nn_model *m);
/* x (rows, hidden): what the head reads, from the output h of the last layer. */
void nn_head_input(struct nn_model *m, const struct backend_tile *t, void *x, const void *h);
/* z (rows, ids of the slice) in fp32. Slices are counted from 0; the last may be shorter. */
int64_t nn_slice_ids(const struct nn_model *m, int64_t slice); /* 0: after the last one */
void nn_slice_logits(struct nn_model *m, const struct backend_tile *t, int64_t slice, void *z,
                     const void *x);
/* The slice itself, for other ops; valid until nn_drop_head. */
struct backend_head nn_slice_head(struct nn_model *m, int64_t slice);
/* logits: (rows, vocab) in the backend's memory; for tests and small vocabularies. */
void nn_logits(struct nn_model *m, const struct backend_tile *t, const void *h, void *logits);

#endif
