#include "nn/model.h"

#include "base/mem.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 96, CUT = 256 /* bytes; buffers begin on such a boundary */ };

enum { EMBED, NORM, HEAD, ENDS };

struct layer {
    struct backend_weight w[MODEL_TENSORS]; /* as in the layer's description */
    bool loaded;
};

/* Buffers of one tile besides inputs, outputs and their gradients; columns in extra_cols. */
enum extra {
    Q_ROT,
    K_ROT, /* after norm and rotation */
    MID,   /* h after attention */
    FORWARD_EXTRAS,
    DQ_ROT = FORWARD_EXTRAS,
    DK_ROT,
    DX_O,    /* gradient at the input of o */
    DX_DOWN, /* gradient at the input of down */
    DX,      /* gradient at the output of a norm */
    EXTRAS
};

struct nn_model {
    struct lm_arch arch;
    struct model_layer shape; /* of every layer */
    struct backend *b;
    int32_t rows;
    struct layer *layers;
    struct backend_weight ends[ENDS];
    bool ends_loaded;
    char *arena;
    size_t arena_bytes;
    void *buf[EXTRAS];
    struct nn_acts acts;
    uint64_t bytes_read;
};

const struct lm_arch *nn_arch(const struct nn_model *m)
{
    return &m->arch;
}

int64_t nn_layers(const struct nn_model *m)
{
    return m->arch.num_hidden_layers;
}

const struct model_layer *nn_layer(const struct nn_model *m, int64_t layer)
{
    (void)layer;
    return &m->shape;
}

const struct backend_weight *nn_weight(const struct nn_model *m, int64_t layer, int linear)
{
    return &m->layers[layer].w[m->shape.linears[linear].tensor];
}

uint64_t nn_weight_bytes_read(const struct nn_model *m)
{
    return m->bytes_read;
}

/* Weight, output and gradient of the linear with this role. */
static const struct backend_weight *weight(const struct nn_model *m, int64_t layer,
                                           enum model_role role)
{
    return &m->layers[layer].w[m->shape.tensor_of[role]];
}

static void *y_of(const struct nn_model *m, enum model_role role)
{
    return m->acts.y[m->shape.linear_of[role]];
}

static void *dy_of(const struct nn_model *m, enum model_role role)
{
    return m->acts.dy[m->shape.linear_of[role]];
}

/* The input that the linear with this role reads. */
static void *x_of(const struct nn_model *m, enum model_role role)
{
    return m->acts.x[m->shape.linears[m->shape.linear_of[role]].input];
}

/* ---- buffers ---- */

static int64_t extra_cols(const struct lm_arch *a, int extra)
{
    switch (extra) {
    case Q_ROT:
    case DQ_ROT:
    case DX_O:
        return model_dim_size(a, DIM_Q);
    case K_ROT:
    case DK_ROT:
        return model_dim_size(a, DIM_KV);
    case DX_DOWN:
        return a->intermediate_size;
    default: /* MID, DX */
        return a->hidden_size;
    }
}

/* The next `cols` columns of the arena, or with a NULL arena just their bytes. */
static void *carve(char *arena, size_t *at, int64_t cols, size_t act_size, int32_t rows)
{
    void *p = arena ? arena + *at : NULL;
    size_t bytes = (size_t)cols * (size_t)rows * act_size;
    *at += (bytes + CUT - 1) / CUT * CUT;
    return p;
}

/* Bytes of all buffers; acts and buf point into the arena, if there is one. */
static size_t lay_out(const struct lm_arch *a, const struct model_layer *l, size_t act_size,
                      int32_t rows, int backward, char *arena, struct nn_acts *acts, void **buf)
{
    size_t at = 0;
    for (int i = 0; i < l->input_count; i++)
        acts->x[i] = carve(arena, &at, l->inputs[i].cols, act_size, rows);
    for (int i = 0; i < l->linear_count; i++)
        acts->y[i] = carve(arena, &at, l->linears[i].rows, act_size, rows);
    for (int i = 0; i < FORWARD_EXTRAS; i++)
        buf[i] = carve(arena, &at, extra_cols(a, i), act_size, rows);
    if (!backward)
        return at;
    for (int i = 0; i < l->linear_count; i++)
        acts->dy[i] = carve(arena, &at, l->linears[i].rows, act_size, rows);
    for (int i = FORWARD_EXTRAS; i < EXTRAS; i++)
        buf[i] = carve(arena, &at, extra_cols(a, i), act_size, rows);
    return at;
}

uint64_t nn_buffer_bytes(const struct lm_arch *a, size_t act_size, int32_t rows, int backward)
{
    struct model_layer shape;
    struct nn_acts acts;
    void *buf[EXTRAS];
    model_layer_describe(&shape, a, 0);
    return lay_out(a, &shape, act_size, rows, backward, NULL, &acts, buf);
}

/* ---- opening ---- */

static int find_weight(const struct nn_source *s, const char *name, int64_t rows, int64_t cols,
                       struct backend_weight *w, struct aq_err *err)
{
    *w = (struct backend_weight){0};
    if (s->find(s->arg, name, w, err) < 0)
        return -1;
    if (w->rows != rows || w->cols != cols)
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' is %lld x %lld, expected %lld x %lld", name,
                          (long long)w->rows, (long long)w->cols, (long long)rows, (long long)cols);
    return 0;
}

static int find_weights(struct nn_model *m, const struct nn_source *s, struct aq_err *err)
{
    const struct lm_arch *a = &m->arch;
    char name[NAME_MAX_LEN];
    for (int64_t l = 0; l < a->num_hidden_layers; l++) {
        for (int i = 0; i < m->shape.tensor_count; i++) {
            const struct model_tensor *t = &m->shape.tensors[i];
            int64_t out = model_dim_size(a, t->out), in = model_dim_size(a, t->in);
            bool vector = t->in == DIM_NONE;
            (void)snprintf(name, sizeof name, "layers.%lld.%s", (long long)l, t->name);
            if (find_weight(s, name, vector ? 1 : out, vector ? out : in, &m->layers[l].w[i], err) <
                0)
                return -1;
        }
    }
    const char *head = a->tie_word_embeddings ? "embed_tokens.weight" : "lm_head.weight";
    int64_t vocab = a->vocab_size, hidden = a->hidden_size;
    if (find_weight(s, "embed_tokens.weight", vocab, hidden, &m->ends[EMBED], err) < 0 ||
        find_weight(s, "norm.weight", 1, hidden, &m->ends[NORM], err) < 0 ||
        find_weight(s, head, vocab, hidden, &m->ends[HEAD], err) < 0)
        return -1;
    return 0;
}

static int take_buffers(struct nn_model *m, int backward, struct aq_err *err)
{
    size_t act = m->b->act_size;
    m->arena_bytes = (size_t)nn_buffer_bytes(&m->arch, act, m->rows, backward);
    m->arena = m->b->ops->alloc(m->b, m->arena_bytes, "activations of a tile", err);
    if (!m->arena)
        return -1;
    (void)lay_out(&m->arch, &m->shape, act, m->rows, backward, m->arena, &m->acts, m->buf);
    return 0;
}

int nn_open(struct nn_model **out, const struct nn_source *source, struct backend *b, int32_t rows,
            int backward, struct aq_err *err)
{
    *out = NULL;
    if (arch_check(source->arch, err) < 0)
        return -1;
    struct nn_model *m = xcalloc(1, sizeof *m);
    m->arch = *source->arch;
    m->b = b;
    m->rows = rows;
    model_layer_describe(&m->shape, &m->arch, 0);
    m->layers = xcalloc((size_t)m->arch.num_hidden_layers, sizeof *m->layers);
    if (find_weights(m, source, err) < 0 || take_buffers(m, backward, err) < 0) {
        nn_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

/* ---- weights on the device ---- */

static void layer_release(struct nn_model *m, int64_t layer)
{
    struct layer *l = &m->layers[layer];
    if (!l->loaded)
        return;
    struct backend_weight *w[MODEL_TENSORS];
    for (int i = 0; i < m->shape.tensor_count; i++)
        w[i] = &l->w[i];
    m->b->ops->weights_release(m->b, w, m->shape.tensor_count);
    l->loaded = false;
}

static uint64_t weight_bytes(const struct backend_weight *w)
{
    return (uint64_t)w->rows * (uint64_t)w->cols * (w->dtype == BACKEND_BF16 ? 2 : 4);
}

static int layer_load(struct nn_model *m, int64_t layer, struct aq_err *err)
{
    struct layer *l = &m->layers[layer];
    if (l->loaded)
        return 0;
    struct backend_weight *w[MODEL_TENSORS];
    for (int i = 0; i < m->shape.tensor_count; i++) {
        w[i] = &l->w[i];
        m->bytes_read += weight_bytes(w[i]);
    }
    l->loaded = true;
    if (m->b->ops->weights_load(m->b, w, m->shape.tensor_count, err) < 0)
        return aq_err_prefix(err, "layer %lld", (long long)layer);
    return 0;
}

int nn_use_layer(struct nn_model *m, int64_t layer, int64_t next, struct aq_err *err)
{
    for (int64_t l = 0; l < m->arch.num_hidden_layers; l++)
        if (l != layer && l != next)
            layer_release(m, l);
    if (layer_load(m, layer, err) < 0)
        return -1;
    return next < 0 ? 0 : layer_load(m, next, err);
}

/* A tied head is the embedding: one matrix, loaded once. */
static int list_ends(struct nn_model *m, struct backend_weight **w)
{
    w[0] = &m->ends[EMBED];
    w[1] = &m->ends[NORM];
    w[2] = &m->ends[HEAD];
    return m->arch.tie_word_embeddings ? 2 : 3;
}

static struct backend_weight *head_of(struct nn_model *m)
{
    return &m->ends[m->arch.tie_word_embeddings ? EMBED : HEAD];
}

uint64_t nn_layer_bytes(const struct nn_model *m)
{
    uint64_t sum = 0;
    for (int i = 0; i < m->shape.tensor_count; i++)
        sum += weight_bytes(&m->layers[0].w[i]);
    return sum;
}

uint64_t nn_end_bytes(const struct nn_model *m)
{
    uint64_t sum = 0;
    for (int i = 0; i < (m->arch.tie_word_embeddings ? HEAD : ENDS); i++)
        sum += weight_bytes(&m->ends[i]);
    return sum;
}

int nn_use_ends(struct nn_model *m, struct aq_err *err)
{
    struct backend_weight *w[ENDS];
    int count = list_ends(m, w);
    if (m->ends_loaded)
        return 0;
    for (int i = 0; i < count; i++)
        m->bytes_read += weight_bytes(w[i]);
    m->ends_loaded = true;
    return m->b->ops->weights_load(m->b, w, count, err);
}

void nn_drop_ends(struct nn_model *m)
{
    struct backend_weight *w[ENDS];
    int count = list_ends(m, w);
    if (m->ends_loaded)
        m->b->ops->weights_release(m->b, w, count);
    m->ends_loaded = false;
}

void nn_close(struct nn_model *m)
{
    if (!m)
        return;
    for (int64_t l = 0; l < m->arch.num_hidden_layers; l++)
        layer_release(m, l);
    nn_drop_ends(m);
    m->b->ops->free(m->b, m->arena, m->arena_bytes);
    free(m->layers);
    free(m);
}

/* ---- forward ---- */

static void linear(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                   enum model_role role, const struct nn_swap *swap)
{
    const struct backend_ops *op = m->b->ops;
    int l = m->shape.linear_of[role], in = m->shape.linears[l].input;
    if (swap && swap->w[l])
        op->linear_quantized(m->b, t, m->acts.y[l], swap->x[in], swap->w[l]);
    else
        op->linear_forward(m->b, t, m->acts.y[l], m->acts.x[in], weight(m, layer, role));
}

static size_t hidden_bytes(const struct nn_model *m)
{
    return (size_t)m->rows * (size_t)m->arch.hidden_size * m->b->act_size;
}

void nn_embed(struct nn_model *m, const struct backend_tile *t, void *h)
{
    m->b->ops->embed(m->b, t, h, &m->ends[EMBED]);
}

/* Fills x, MID and y from h_in: all but the last linear and the layer's output. */
static void layer_inside(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                         const void *h_in, const struct nn_swap *swap)
{
    const struct backend_ops *op = m->b->ops;
    const struct lm_arch *a = &m->arch;
    void **buf = m->buf;
    int heads = (int)a->num_attention_heads, kv_heads = (int)a->num_key_value_heads;
    double eps = a->rms_norm_eps;

    op->rmsnorm_forward(m->b, t, x_of(m, ROLE_Q), h_in, weight(m, layer, ROLE_ATTN_NORM), eps);
    linear(m, layer, t, ROLE_Q, swap);
    linear(m, layer, t, ROLE_K, swap);
    linear(m, layer, t, ROLE_V, swap);
    op->norm_rope_forward(m->b, t, buf[Q_ROT], y_of(m, ROLE_Q), weight(m, layer, ROLE_Q_NORM),
                          heads, eps, a->rope_theta);
    op->norm_rope_forward(m->b, t, buf[K_ROT], y_of(m, ROLE_K), weight(m, layer, ROLE_K_NORM),
                          kv_heads, eps, a->rope_theta);
    op->attention_forward(m->b, t, x_of(m, ROLE_O), buf[Q_ROT], buf[K_ROT], y_of(m, ROLE_V), heads,
                          kv_heads, (int)a->head_dim);
    linear(m, layer, t, ROLE_O, swap);
    op->copy(m->b, buf[MID], h_in, hidden_bytes(m));
    op->add(m->b, t, buf[MID], y_of(m, ROLE_O), a->hidden_size);

    op->rmsnorm_forward(m->b, t, x_of(m, ROLE_GATE), buf[MID], weight(m, layer, ROLE_MLP_NORM),
                        eps);
    linear(m, layer, t, ROLE_GATE, swap);
    linear(m, layer, t, ROLE_UP, swap);
    op->swiglu_forward(m->b, t, x_of(m, ROLE_DOWN), y_of(m, ROLE_GATE), y_of(m, ROLE_UP),
                       a->intermediate_size);
}

/* The layer's output, from MID and y. */
static void layer_output(struct nn_model *m, const struct backend_tile *t, void *h_out)
{
    const struct backend_ops *op = m->b->ops;
    op->copy(m->b, h_out, m->buf[MID], hidden_bytes(m));
    op->add(m->b, t, h_out, y_of(m, ROLE_DOWN), m->arch.hidden_size);
}

const struct nn_acts *nn_layer_forward(struct nn_model *m, int64_t layer,
                                       const struct backend_tile *t, const void *h_in, void *h_out,
                                       const struct nn_swap *swap)
{
    layer_inside(m, layer, t, h_in, swap);
    if (h_out) {
        linear(m, layer, t, ROLE_DOWN, swap);
        layer_output(m, t, h_out);
    }
    return &m->acts;
}

/* ---- backward ---- */

/* dh: gradient at h' becomes that at m. */
static void mlp_backward(struct nn_model *m, int64_t layer, const struct backend_tile *t, void *dh)
{
    const struct backend_ops *op = m->b->ops;
    void **buf = m->buf, *dgate = dy_of(m, ROLE_GATE), *dup = dy_of(m, ROLE_UP);
    op->copy(m->b, dy_of(m, ROLE_DOWN), dh, hidden_bytes(m));
    op->linear_backward(m->b, t, buf[DX_DOWN], dy_of(m, ROLE_DOWN), weight(m, layer, ROLE_DOWN), 0);
    op->swiglu_backward(m->b, t, dgate, dup, buf[DX_DOWN], y_of(m, ROLE_GATE), y_of(m, ROLE_UP),
                        m->arch.intermediate_size);
    op->linear_backward(m->b, t, buf[DX], dgate, weight(m, layer, ROLE_GATE), 0);
    op->linear_backward(m->b, t, buf[DX], dup, weight(m, layer, ROLE_UP), 1);
    op->rmsnorm_backward(m->b, t, dh, buf[DX], buf[MID], weight(m, layer, ROLE_MLP_NORM),
                         m->arch.rms_norm_eps);
}

/* dh: gradient at m becomes that at h, if it is wanted. */
static void attention_backward(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                               const void *h_in, void *dh, int to_input)
{
    const struct backend_ops *op = m->b->ops;
    const struct lm_arch *a = &m->arch;
    void **buf = m->buf, *dq = dy_of(m, ROLE_Q), *dk = dy_of(m, ROLE_K), *dv = dy_of(m, ROLE_V);
    int heads = (int)a->num_attention_heads, kv_heads = (int)a->num_key_value_heads;
    double eps = a->rms_norm_eps;
    op->copy(m->b, dy_of(m, ROLE_O), dh, hidden_bytes(m));
    op->linear_backward(m->b, t, buf[DX_O], dy_of(m, ROLE_O), weight(m, layer, ROLE_O), 0);
    op->attention_backward(m->b, t, buf[DQ_ROT], buf[DK_ROT], dv, buf[DX_O], buf[Q_ROT], buf[K_ROT],
                           y_of(m, ROLE_V), heads, kv_heads, (int)a->head_dim);
    op->norm_rope_backward(m->b, t, dq, buf[DQ_ROT], y_of(m, ROLE_Q), weight(m, layer, ROLE_Q_NORM),
                           heads, eps, a->rope_theta);
    op->norm_rope_backward(m->b, t, dk, buf[DK_ROT], y_of(m, ROLE_K), weight(m, layer, ROLE_K_NORM),
                           kv_heads, eps, a->rope_theta);
    if (!to_input)
        return;
    op->linear_backward(m->b, t, buf[DX], dq, weight(m, layer, ROLE_Q), 0);
    op->linear_backward(m->b, t, buf[DX], dk, weight(m, layer, ROLE_K), 1);
    op->linear_backward(m->b, t, buf[DX], dv, weight(m, layer, ROLE_V), 1);
    op->rmsnorm_backward(m->b, t, dh, buf[DX], h_in, weight(m, layer, ROLE_ATTN_NORM), eps);
}

/* ---- head ---- */

/* dh: the gradient at the layer's output. Works in gradients of the layer that come later. */
static void head_backward(struct nn_model *m, const struct backend_tile *t, double *loss, void *dh)
{
    const struct backend_ops *op = m->b->ops;
    void *h = dy_of(m, ROLE_O), *x = dy_of(m, ROLE_DOWN);
    layer_output(m, t, h);
    op->rmsnorm_forward(m->b, t, x, h, &m->ends[NORM], m->arch.rms_norm_eps);
    op->loss(m->b, t, loss, m->buf[DX], x, head_of(m));
    op->zero(m->b, dh, hidden_bytes(m));
    op->rmsnorm_backward(m->b, t, dh, m->buf[DX], h, &m->ends[NORM], m->arch.rms_norm_eps);
}

/* loss: of the last layer, whose dh the head sets; else NULL. */
static const struct nn_acts *backward(struct nn_model *m, int64_t layer,
                                      const struct backend_tile *t, const void *h_in, double *loss,
                                      void *dh, int to_input, const struct nn_acts *into)
{
    const struct nn_acts own = m->acts;
    if (into)
        m->acts = *into;
    layer_inside(m, layer, t, h_in, NULL);
    linear(m, layer, t, ROLE_DOWN, NULL);
    if (loss)
        head_backward(m, t, loss, dh);
    mlp_backward(m, layer, t, dh);
    attention_backward(m, layer, t, h_in, dh, to_input);
    m->acts = own;
    return into ? into : &m->acts;
}

const struct nn_acts *nn_layer_backward(struct nn_model *m, int64_t layer,
                                        const struct backend_tile *t, const void *h_in, void *dh,
                                        int to_input, const struct nn_acts *into)
{
    return backward(m, layer, t, h_in, NULL, dh, to_input, into);
}

const struct nn_acts *nn_last_backward(struct nn_model *m, const struct backend_tile *t,
                                       const void *h_in, double *loss, void *dh, int to_input,
                                       const struct nn_acts *into)
{
    return backward(m, m->arch.num_hidden_layers - 1, t, h_in, loss, dh, to_input, into);
}

void nn_kl(struct nn_model *m, const struct backend_tile *t, const void *h, void *const *hq,
           double *const *kl, int count)
{
    const struct backend_ops *op = m->b->ops;
    op->rmsnorm_forward(m->b, t, m->acts.x[0], h, &m->ends[NORM], m->arch.rms_norm_eps);
    for (int i = 0; i < count; i++)
        op->rmsnorm_forward(m->b, t, hq[i], hq[i], &m->ends[NORM], m->arch.rms_norm_eps);
    op->kl(m->b, t, kl, m->acts.x[0], (const void *const *)hq, count, head_of(m));
}

void nn_logits(struct nn_model *m, const struct backend_tile *t, const void *h, void *logits)
{
    const struct backend_ops *op = m->b->ops;
    op->rmsnorm_forward(m->b, t, m->acts.x[0], h, &m->ends[NORM], m->arch.rms_norm_eps);
    op->linear_forward(m->b, t, logits, m->acts.x[0], head_of(m));
}
