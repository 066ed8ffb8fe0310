#include "nn/qwen3.h"

#include "base/mem.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 96, CUT = 256 /* bytes; buffers begin on such a boundary */ };

/* Of a layer: seven linears, then the norms. */
enum { IN_NORM = QWEN3_LINEARS, POST_NORM, Q_NORM, K_NORM, LAYER_WEIGHTS };
enum { EMBED, NORM, HEAD, ENDS };

static const char *const layer_names[LAYER_WEIGHTS] = {
    [QWEN3_Q] = "self_attn.q_proj",
    [QWEN3_K] = "self_attn.k_proj",
    [QWEN3_V] = "self_attn.v_proj",
    [QWEN3_O] = "self_attn.o_proj",
    [QWEN3_GATE] = "mlp.gate_proj",
    [QWEN3_UP] = "mlp.up_proj",
    [QWEN3_DOWN] = "mlp.down_proj",
    [IN_NORM] = "input_layernorm",
    [POST_NORM] = "post_attention_layernorm",
    [Q_NORM] = "self_attn.q_norm",
    [K_NORM] = "self_attn.k_norm",
};

struct layer {
    struct backend_weight w[LAYER_WEIGHTS];
    bool loaded;
};

/* Buffers of one tile, named by what they hold; shapes in buffer_cols. */
enum buffer {
    X0,
    X1,
    X2,
    X3, /* inputs of the linears */
    Y0,
    Y_LAST = Y0 + QWEN3_LINEARS - 1, /* outputs */
    Q_ROT,
    K_ROT, /* after norm and rotation */
    MID,   /* h after attention */
    FORWARD_BUFFERS,
    DY0 = FORWARD_BUFFERS,
    DY_LAST = DY0 + QWEN3_LINEARS - 1, /* gradients at the outputs */
    DQ_ROT,
    DK_ROT,
    DX1,
    DX3,
    DX, /* at inputs: of o, of down, of the norms */
    BUFFERS
};

struct qwen3 {
    struct qwen3_config c;
    struct backend *b;
    int32_t rows;
    struct layer *layers;
    struct backend_weight ends[ENDS];
    bool ends_loaded;
    char *arena;
    size_t arena_bytes;
    void *buf[BUFFERS];
    struct qwen3_acts acts;
    uint64_t bytes_read;
};

const char *qwen3_linear_name(enum qwen3_linear l)
{
    return layer_names[l];
}

const char *qwen3_input_name(enum qwen3_input i)
{
    static const char *const names[QWEN3_INPUTS] = {"qkv", "o", "gate_up", "down"};
    return names[i];
}

enum qwen3_input qwen3_input_of(enum qwen3_linear l)
{
    static const enum qwen3_input of[QWEN3_LINEARS] = {
        [QWEN3_Q] = QWEN3_IN_QKV,        [QWEN3_K] = QWEN3_IN_QKV,
        [QWEN3_V] = QWEN3_IN_QKV,        [QWEN3_O] = QWEN3_IN_O,
        [QWEN3_GATE] = QWEN3_IN_GATE_UP, [QWEN3_UP] = QWEN3_IN_GATE_UP,
        [QWEN3_DOWN] = QWEN3_IN_DOWN,
    };
    return of[l];
}

const struct qwen3_config *qwen3_config(const struct qwen3 *m)
{
    return &m->c;
}

const struct backend_weight *qwen3_weight(const struct qwen3 *m, int64_t layer, enum qwen3_linear l)
{
    return &m->layers[layer].w[l];
}

uint64_t qwen3_weight_bytes_read(const struct qwen3 *m)
{
    return m->bytes_read;
}

/* ---- shapes ---- */

/* (out, in) of a layer's weight; a norm is one row */
static void weight_shape(const struct qwen3_config *c, int w, int64_t *rows, int64_t *cols)
{
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    int64_t shapes[LAYER_WEIGHTS][2] = {
        [QWEN3_Q] = {q, c->hidden},
        [QWEN3_K] = {kv, c->hidden},
        [QWEN3_V] = {kv, c->hidden},
        [QWEN3_O] = {c->hidden, q},
        [QWEN3_GATE] = {c->intermediate, c->hidden},
        [QWEN3_UP] = {c->intermediate, c->hidden},
        [QWEN3_DOWN] = {c->hidden, c->intermediate},
        [IN_NORM] = {1, c->hidden},
        [POST_NORM] = {1, c->hidden},
        [Q_NORM] = {1, c->head_dim},
        [K_NORM] = {1, c->head_dim},
    };
    *rows = shapes[w][0];
    *cols = shapes[w][1];
}

static int64_t buffer_cols(const struct qwen3_config *c, int buffer)
{
    int64_t rows, cols;
    if (buffer >= X0 && buffer <= X3) {
        static const int reader[] = {QWEN3_Q, QWEN3_O, QWEN3_GATE, QWEN3_DOWN};
        weight_shape(c, reader[buffer - X0], &rows, &cols);
        return cols;
    }
    if (buffer >= Y0 && buffer <= Y_LAST) {
        weight_shape(c, buffer - Y0, &rows, &cols);
        return rows;
    }
    if (buffer >= DY0 && buffer <= DY_LAST) {
        weight_shape(c, buffer - DY0, &rows, &cols);
        return rows;
    }
    switch (buffer) {
    case Q_ROT:
    case DQ_ROT:
    case DX1:
        return c->heads * c->head_dim;
    case K_ROT:
    case DK_ROT:
        return c->kv_heads * c->head_dim;
    case DX3:
        return c->intermediate;
    default: /* MID, DX */
        return c->hidden;
    }
}

static size_t buffer_bytes(const struct qwen3_config *c, size_t act_size, int32_t rows, int buffer)
{
    size_t bytes = (size_t)buffer_cols(c, buffer) * (size_t)rows * act_size;
    return (bytes + CUT - 1) / CUT * CUT;
}

uint64_t qwen3_buffer_bytes(const struct qwen3_config *c, size_t act_size, int32_t rows,
                            int backward)
{
    uint64_t sum = 0;
    for (int i = 0; i < (backward ? BUFFERS : FORWARD_BUFFERS); i++)
        sum += buffer_bytes(c, act_size, rows, i);
    return sum;
}

int64_t qwen3_input_cols(const struct qwen3 *m, enum qwen3_input i)
{
    return buffer_cols(&m->c, X0 + (int)i);
}

/* ---- opening ---- */

static int check_config(const struct qwen3_config *c, struct aq_err *err)
{
    const struct {
        const char *name;
        int64_t value, max;
    } sizes[] = {
        {"hidden_size", c->hidden, 1 << 20},
        {"intermediate_size", c->intermediate, 1 << 22},
        {"num_hidden_layers", c->layers, 1 << 16},
        {"num_attention_heads", c->heads, 1 << 14},
        {"num_key_value_heads", c->kv_heads, 1 << 14},
        {"head_dim", c->head_dim, 1 << 14},
        {"vocab_size", c->vocab, 1 << 28},
    };
    for (size_t i = 0; i < AQ_COUNT(sizes); i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max)
            return aq_err_set(err, AQ_EINPUT, "'%s' is %lld, expected 1 to %lld", sizes[i].name,
                              (long long)sizes[i].value, (long long)sizes[i].max);
    if (c->heads % c->kv_heads)
        return aq_err_set(err, AQ_EINPUT,
                          "num_attention_heads %lld is not a multiple of num_key_value_heads %lld",
                          (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2)
        return aq_err_set(err, AQ_EINPUT, "head_dim %lld is odd", (long long)c->head_dim);
    if (!(c->rope_theta > 0) || !(c->eps >= 0))
        return aq_err_set(err, AQ_EINPUT, "rope_theta %g or rms_norm_eps %g is out of range",
                          c->rope_theta, c->eps);
    return 0;
}

static int find_weight(const struct qwen3_source *s, const char *name, int64_t rows, int64_t cols,
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

static int find_weights(struct qwen3 *m, const struct qwen3_source *s, struct aq_err *err)
{
    const struct qwen3_config *c = &m->c;
    char name[NAME_MAX_LEN];
    for (int64_t l = 0; l < c->layers; l++) {
        for (int i = 0; i < LAYER_WEIGHTS; i++) {
            int64_t rows, cols;
            weight_shape(c, i, &rows, &cols);
            (void)snprintf(name, sizeof name, "layers.%lld.%s.weight", (long long)l,
                           layer_names[i]);
            if (find_weight(s, name, rows, cols, &m->layers[l].w[i], err) < 0)
                return -1;
        }
    }
    const char *head = c->tied ? "embed_tokens.weight" : "lm_head.weight";
    if (find_weight(s, "embed_tokens.weight", c->vocab, c->hidden, &m->ends[EMBED], err) < 0 ||
        find_weight(s, "norm.weight", 1, c->hidden, &m->ends[NORM], err) < 0 ||
        find_weight(s, head, c->vocab, c->hidden, &m->ends[HEAD], err) < 0)
        return -1;
    return 0;
}

static int take_buffers(struct qwen3 *m, int backward, struct aq_err *err)
{
    m->arena_bytes = (size_t)qwen3_buffer_bytes(&m->c, m->b->act_size, m->rows, backward);
    m->arena = m->b->ops->alloc(m->b, m->arena_bytes, "activations of a tile", err);
    if (!m->arena)
        return -1;
    char *at = m->arena;
    for (int i = 0; i < (backward ? BUFFERS : FORWARD_BUFFERS); i++) {
        m->buf[i] = at;
        at += buffer_bytes(&m->c, m->b->act_size, m->rows, i);
    }
    for (int i = 0; i < QWEN3_INPUTS; i++)
        m->acts.x[i] = m->buf[X0 + i];
    for (int i = 0; i < QWEN3_LINEARS; i++) {
        m->acts.y[i] = m->buf[Y0 + i];
        m->acts.dy[i] = m->buf[DY0 + i];
    }
    return 0;
}

int qwen3_open(struct qwen3 **out, const struct qwen3_source *source, struct backend *b,
               int32_t rows, int backward, struct aq_err *err)
{
    *out = NULL;
    if (check_config(&source->config, err) < 0)
        return -1;
    struct qwen3 *m = xcalloc(1, sizeof *m);
    m->c = source->config;
    m->b = b;
    m->rows = rows;
    m->layers = xcalloc((size_t)m->c.layers, sizeof *m->layers);
    if (find_weights(m, source, err) < 0 || take_buffers(m, backward, err) < 0) {
        qwen3_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

/* ---- weights on the device ---- */

static void layer_release(struct qwen3 *m, int64_t layer)
{
    struct layer *l = &m->layers[layer];
    if (!l->loaded)
        return;
    struct backend_weight *w[LAYER_WEIGHTS];
    for (int i = 0; i < LAYER_WEIGHTS; i++)
        w[i] = &l->w[i];
    m->b->ops->weights_release(m->b, w, LAYER_WEIGHTS);
    l->loaded = false;
}

static uint64_t weight_bytes(const struct backend_weight *w)
{
    return (uint64_t)w->rows * (uint64_t)w->cols * (w->dtype == BACKEND_BF16 ? 2 : 4);
}

static int layer_load(struct qwen3 *m, int64_t layer, struct aq_err *err)
{
    struct layer *l = &m->layers[layer];
    if (l->loaded)
        return 0;
    struct backend_weight *w[LAYER_WEIGHTS];
    for (int i = 0; i < LAYER_WEIGHTS; i++) {
        w[i] = &l->w[i];
        m->bytes_read += weight_bytes(w[i]);
    }
    l->loaded = true;
    if (m->b->ops->weights_load(m->b, w, LAYER_WEIGHTS, err) < 0)
        return aq_err_prefix(err, "layer %lld", (long long)layer);
    return 0;
}

int qwen3_use_layer(struct qwen3 *m, int64_t layer, int64_t next, struct aq_err *err)
{
    for (int64_t l = 0; l < m->c.layers; l++)
        if (l != layer && l != next)
            layer_release(m, l);
    if (layer_load(m, layer, err) < 0)
        return -1;
    return next < 0 ? 0 : layer_load(m, next, err);
}

/* A tied head is the embedding: one matrix, loaded once. */
static int list_ends(struct qwen3 *m, struct backend_weight **w)
{
    w[0] = &m->ends[EMBED];
    w[1] = &m->ends[NORM];
    w[2] = &m->ends[HEAD];
    return m->c.tied ? 2 : 3;
}

static struct backend_weight *head_of(struct qwen3 *m)
{
    return &m->ends[m->c.tied ? EMBED : HEAD];
}

uint64_t qwen3_layer_bytes(const struct qwen3 *m)
{
    uint64_t sum = 0;
    for (int i = 0; i < LAYER_WEIGHTS; i++)
        sum += weight_bytes(&m->layers[0].w[i]);
    return sum;
}

uint64_t qwen3_end_bytes(const struct qwen3 *m)
{
    uint64_t sum = 0;
    for (int i = 0; i < (m->c.tied ? HEAD : ENDS); i++)
        sum += weight_bytes(&m->ends[i]);
    return sum;
}

int qwen3_use_ends(struct qwen3 *m, struct aq_err *err)
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

void qwen3_drop_ends(struct qwen3 *m)
{
    struct backend_weight *w[ENDS];
    int count = list_ends(m, w);
    if (m->ends_loaded)
        m->b->ops->weights_release(m->b, w, count);
    m->ends_loaded = false;
}

void qwen3_close(struct qwen3 *m)
{
    if (!m)
        return;
    for (int64_t l = 0; l < m->c.layers; l++)
        layer_release(m, l);
    qwen3_drop_ends(m);
    m->b->ops->free(m->b, m->arena, m->arena_bytes);
    free(m->layers);
    free(m);
}

/* ---- forward ---- */

static void linear(struct qwen3 *m, int64_t layer, const struct backend_tile *t,
                   enum qwen3_linear l, const struct qwen3_swap *swap)
{
    const struct backend_ops *op = m->b->ops;
    enum qwen3_input in = qwen3_input_of(l);
    if (swap && swap->w[l])
        op->linear_quantized(m->b, t, m->acts.y[l], swap->x[in], swap->w[l]);
    else
        op->linear_forward(m->b, t, m->acts.y[l], m->acts.x[in], &m->layers[layer].w[l]);
}

static size_t hidden_bytes(const struct qwen3 *m)
{
    return (size_t)m->rows * (size_t)m->c.hidden * m->b->act_size;
}

void qwen3_embed(struct qwen3 *m, const struct backend_tile *t, void *h)
{
    m->b->ops->embed(m->b, t, h, &m->ends[EMBED]);
}

/* Fills x, MID and y from h_in: all but the last linear and the layer's output. */
static void layer_inside(struct qwen3 *m, int64_t layer, const struct backend_tile *t,
                         const void *h_in, const struct qwen3_swap *swap)
{
    const struct backend_ops *op = m->b->ops;
    const struct qwen3_config *c = &m->c;
    const struct backend_weight *w = m->layers[layer].w;
    void **buf = m->buf, **y = m->acts.y;
    int heads = (int)c->heads, kv_heads = (int)c->kv_heads;

    op->rmsnorm_forward(m->b, t, buf[X0], h_in, &w[IN_NORM], c->eps);
    linear(m, layer, t, QWEN3_Q, swap);
    linear(m, layer, t, QWEN3_K, swap);
    linear(m, layer, t, QWEN3_V, swap);
    op->norm_rope_forward(m->b, t, buf[Q_ROT], y[QWEN3_Q], &w[Q_NORM], heads, c->eps,
                          c->rope_theta);
    op->norm_rope_forward(m->b, t, buf[K_ROT], y[QWEN3_K], &w[K_NORM], kv_heads, c->eps,
                          c->rope_theta);
    op->attention_forward(m->b, t, buf[X1], buf[Q_ROT], buf[K_ROT], y[QWEN3_V], heads, kv_heads,
                          (int)c->head_dim);
    linear(m, layer, t, QWEN3_O, swap);
    op->copy(m->b, buf[MID], h_in, hidden_bytes(m));
    op->add(m->b, t, buf[MID], y[QWEN3_O], c->hidden);

    op->rmsnorm_forward(m->b, t, buf[X2], buf[MID], &w[POST_NORM], c->eps);
    linear(m, layer, t, QWEN3_GATE, swap);
    linear(m, layer, t, QWEN3_UP, swap);
    op->swiglu_forward(m->b, t, buf[X3], y[QWEN3_GATE], y[QWEN3_UP], c->intermediate);
}

/* The layer's output, from MID and y. */
static void layer_output(struct qwen3 *m, const struct backend_tile *t, void *h_out)
{
    const struct backend_ops *op = m->b->ops;
    op->copy(m->b, h_out, m->buf[MID], hidden_bytes(m));
    op->add(m->b, t, h_out, m->acts.y[QWEN3_DOWN], m->c.hidden);
}

const struct qwen3_acts *qwen3_layer_forward(struct qwen3 *m, int64_t layer,
                                             const struct backend_tile *t, const void *h_in,
                                             void *h_out, const struct qwen3_swap *swap)
{
    layer_inside(m, layer, t, h_in, swap);
    if (h_out) {
        linear(m, layer, t, QWEN3_DOWN, swap);
        layer_output(m, t, h_out);
    }
    return &m->acts;
}

/* ---- backward ---- */

/* dh: gradient at h' becomes that at m. */
static void mlp_backward(struct qwen3 *m, int64_t layer, const struct backend_tile *t, void *dh)
{
    const struct backend_ops *op = m->b->ops;
    const struct backend_weight *w = m->layers[layer].w;
    void **buf = m->buf, **y = m->acts.y, **dy = m->acts.dy;
    op->copy(m->b, dy[QWEN3_DOWN], dh, hidden_bytes(m));
    op->linear_backward(m->b, t, buf[DX3], dy[QWEN3_DOWN], &w[QWEN3_DOWN], 0);
    op->swiglu_backward(m->b, t, dy[QWEN3_GATE], dy[QWEN3_UP], buf[DX3], y[QWEN3_GATE], y[QWEN3_UP],
                        m->c.intermediate);
    op->linear_backward(m->b, t, buf[DX], dy[QWEN3_GATE], &w[QWEN3_GATE], 0);
    op->linear_backward(m->b, t, buf[DX], dy[QWEN3_UP], &w[QWEN3_UP], 1);
    op->rmsnorm_backward(m->b, t, dh, buf[DX], buf[MID], &w[POST_NORM], m->c.eps);
}

/* dh: gradient at m becomes that at h, if it is wanted. */
static void attention_backward(struct qwen3 *m, int64_t layer, const struct backend_tile *t,
                               const void *h_in, void *dh, int to_input)
{
    const struct backend_ops *op = m->b->ops;
    const struct qwen3_config *c = &m->c;
    const struct backend_weight *w = m->layers[layer].w;
    void **buf = m->buf, **y = m->acts.y, **dy = m->acts.dy;
    int heads = (int)c->heads, kv_heads = (int)c->kv_heads;
    op->copy(m->b, dy[QWEN3_O], dh, hidden_bytes(m));
    op->linear_backward(m->b, t, buf[DX1], dy[QWEN3_O], &w[QWEN3_O], 0);
    op->attention_backward(m->b, t, buf[DQ_ROT], buf[DK_ROT], dy[QWEN3_V], buf[DX1], buf[Q_ROT],
                           buf[K_ROT], y[QWEN3_V], heads, kv_heads, (int)c->head_dim);
    op->norm_rope_backward(m->b, t, dy[QWEN3_Q], buf[DQ_ROT], y[QWEN3_Q], &w[Q_NORM], heads, c->eps,
                           c->rope_theta);
    op->norm_rope_backward(m->b, t, dy[QWEN3_K], buf[DK_ROT], y[QWEN3_K], &w[K_NORM], kv_heads,
                           c->eps, c->rope_theta);
    if (!to_input)
        return;
    op->linear_backward(m->b, t, buf[DX], dy[QWEN3_Q], &w[QWEN3_Q], 0);
    op->linear_backward(m->b, t, buf[DX], dy[QWEN3_K], &w[QWEN3_K], 1);
    op->linear_backward(m->b, t, buf[DX], dy[QWEN3_V], &w[QWEN3_V], 1);
    op->rmsnorm_backward(m->b, t, dh, buf[DX], h_in, &w[IN_NORM], c->eps);
}

static void use_acts(struct qwen3 *m, const struct qwen3_acts *a)
{
    m->acts = *a;
    for (int i = 0; i < QWEN3_INPUTS; i++)
        m->buf[X0 + i] = a->x[i];
    for (int i = 0; i < QWEN3_LINEARS; i++) {
        m->buf[Y0 + i] = a->y[i];
        m->buf[DY0 + i] = a->dy[i];
    }
}

/* ---- head ---- */

/* dh: the gradient at the layer's output. Works in gradients of the layer that come later. */
static void head_backward(struct qwen3 *m, const struct backend_tile *t, double *loss, void *dh)
{
    const struct backend_ops *op = m->b->ops;
    void *h = m->acts.dy[QWEN3_O], *x = m->acts.dy[QWEN3_DOWN];
    layer_output(m, t, h);
    op->rmsnorm_forward(m->b, t, x, h, &m->ends[NORM], m->c.eps);
    op->loss(m->b, t, loss, m->buf[DX], x, head_of(m));
    op->zero(m->b, dh, hidden_bytes(m));
    op->rmsnorm_backward(m->b, t, dh, m->buf[DX], h, &m->ends[NORM], m->c.eps);
}

/* loss: of the last layer, whose dh the head sets; else NULL. */
static const struct qwen3_acts *backward(struct qwen3 *m, int64_t layer,
                                         const struct backend_tile *t, const void *h_in,
                                         double *loss, void *dh, int to_input,
                                         const struct qwen3_acts *into)
{
    const struct qwen3_acts own = m->acts;
    if (into)
        use_acts(m, into);
    layer_inside(m, layer, t, h_in, NULL);
    linear(m, layer, t, QWEN3_DOWN, NULL);
    if (loss)
        head_backward(m, t, loss, dh);
    mlp_backward(m, layer, t, dh);
    attention_backward(m, layer, t, h_in, dh, to_input);
    use_acts(m, &own);
    return into ? into : &m->acts;
}

const struct qwen3_acts *qwen3_layer_backward(struct qwen3 *m, int64_t layer,
                                              const struct backend_tile *t, const void *h_in,
                                              void *dh, int to_input, const struct qwen3_acts *into)
{
    return backward(m, layer, t, h_in, NULL, dh, to_input, into);
}

const struct qwen3_acts *qwen3_last_backward(struct qwen3 *m, const struct backend_tile *t,
                                             const void *h_in, double *loss, void *dh, int to_input,
                                             const struct qwen3_acts *into)
{
    return backward(m, m->c.layers - 1, t, h_in, loss, dh, to_input, into);
}

void qwen3_kl(struct qwen3 *m, const struct backend_tile *t, const void *h, void *const *hq,
              double *const *kl, int count)
{
    const struct backend_ops *op = m->b->ops;
    op->rmsnorm_forward(m->b, t, m->buf[X0], h, &m->ends[NORM], m->c.eps);
    for (int i = 0; i < count; i++)
        op->rmsnorm_forward(m->b, t, hq[i], hq[i], &m->ends[NORM], m->c.eps);
    op->kl(m->b, t, kl, m->buf[X0], (const void *const *)hq, count, head_of(m));
}

void qwen3_logits(struct qwen3 *m, const struct backend_tile *t, const void *h, void *logits)
{
    const struct backend_ops *op = m->b->ops;
    op->rmsnorm_forward(m->b, t, m->buf[X0], h, &m->ends[NORM], m->c.eps);
    op->linear_forward(m->b, t, logits, m->buf[X0], head_of(m));
}
