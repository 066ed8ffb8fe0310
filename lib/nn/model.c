#include "nn/model.h"

#include "base/mem.h"
#include "base/pool.h"
#include "model/rope.h"
#include "nn/experts.h"
#include "quant/quant.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 96, CUT = 256 /* bytes; buffers begin on such a boundary */ };

enum { EMBED, NORM, HEAD, ENDS };

struct layer {
    struct backend_weight w[MODEL_TENSORS]; /* as in the layer's description */
    struct backend_weight *experts;         /* [experts][2]: gate above up, and down; or NULL */
    bool loaded;
    float amax[MODEL_GROUPS]; /* of all members of a group, where it is known */
    bool amax_known[MODEL_GROUPS];
};

/*
 * Buffers of one tile besides inputs, outputs and their gradients, all with the tile's rows. With
 * Q = heads x dim, KV = kv_heads x dim, D = hidden, F = intermediate, M = that of an expert: q
 * buffers are (rows, Q), k and v (rows, KV), gate and up (rows, F); the others say it. extra_cols
 * knows the columns: 0 for a buffer that the family does not need.
 */
enum extra {
    Q_IN,
    K_IN,
    V_IN, /* q, k, v: with their biases, or taken out of a fused product */
    Q_ROW,
    K_ROW, /* q and k after a norm over the whole row */
    Q_ROT,
    K_ROT, /* after norm and rotation: what attention reads */
    O_OUT, /* (rows, D): o with its bias */
    MID,   /* (rows, D): h after attention */
    GATE_IN,
    UP_IN,       /* gate, up: as Q_IN */
    DOWN_OUT,    /* (rows, D): down with its bias */
    BRANCH,      /* (rows, D): what a branch adds to the residual stream, after its norm */
    ROUTER,      /* (rows, experts): logits, and their gradients */
    EXP_X,       /* rows of the experts of a part: their input (n, D), */
    EXP_GATE_UP, /* gate and up in one (n, 2 M), */
    EXP_U,       /* their product after the activation (n, M), */
    EXP_F,       /* and the output (n, D) */
    FORWARD_EXTRAS,
    DQ_ROT = FORWARD_EXTRAS,
    DK_ROT,
    DV_ROT,
    DGATE,
    DUP,     /* gradients at q, k, v, gate and up, before they are put into a fused one */
    DX_O,    /* (rows, Q): gradient at the input of o */
    DX_DOWN, /* (rows, F): gradient at the input of down */
    DX,      /* (rows, D): gradient at the output of a norm */
    DBRANCH, /* (rows, D): gradient at a branch's result after its norm */
    EXP_DF,  /* (n, D): gradient at EXP_F */
    EXP_GATE,
    EXP_UP, /* (n, M): gate and up, each by itself */
    EXP_DU,
    EXP_DGATE,
    EXP_DUP,
    EXP_DGATE_UP,
    EXTRAS
};

/* Dense layers are alike, and so are those with experts. */
struct kind {
    struct model_layer shape;
    struct nn_acts acts;
    void *buf[EXTRAS];
};

struct nn_model {
    struct nn_source source;
    struct lm_arch arch;
    struct kind kinds[2];     /* dense, with experts */
    struct model_layer shape; /* as are acts and buf: of the layer at work */
    struct backend *b;
    int32_t rows;
    struct layer *layers;
    struct backend_weight ends[ENDS];
    bool ends_loaded;
    struct backend_weight *slices;              /* of the head; NULL: not in use */
    const struct backend_weight **part_weights; /* [experts of a part]: room for a call */
    struct aq_pool *makers; /* of weights that are not in the map; NULL: none was made yet */
    char *arena;
    size_t arena_bytes;
    void *buf[EXTRAS];
    struct nn_acts acts;
    struct aq_err failed; /* of a layer call, until nn_check */
    struct backend_rope rope[ARCH_ROPES];
    float *inv_freq; /* of all, one after the other */
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
    return &m->kinds[arch_sparse(&m->arch, layer)].shape;
}

/* Before anything is computed in a layer. */
static void enter_layer(struct nn_model *m, int64_t layer)
{
    const struct kind *k = &m->kinds[arch_sparse(&m->arch, layer)];
    m->shape = k->shape;
    m->acts = k->acts;
    memcpy(m->buf, k->buf, sizeof m->buf);
}

const struct backend_weight *nn_weight(const struct nn_model *m, int64_t layer, int linear)
{
    return &m->layers[layer].w[nn_layer(m, layer)->linears[linear].tensor];
}

const struct backend_weight *nn_expert_weight(const struct nn_model *m, int64_t layer, int expert,
                                              int down)
{
    return &m->layers[layer].experts[2 * expert + down];
}

uint64_t nn_weight_bytes_read(const struct nn_model *m)
{
    return m->b->weights_read;
}

/* Of the linear with this role: its weight (out, in); its output and the gradient there, (rows,
   out); its input, (rows, in). */
static const struct backend_weight *weight(const struct nn_model *m, int64_t layer,
                                           enum model_role role)
{
    return &m->layers[layer].w[nn_layer(m, layer)->tensor_of[role]];
}

static void *y_of(const struct nn_model *m, enum model_role role)
{
    return m->acts.y[m->shape.linear_of[role]];
}

static void *dy_of(const struct nn_model *m, enum model_role role)
{
    return m->acts.dy[m->shape.linear_of[role]];
}

static void *x_of(const struct nn_model *m, enum model_role role)
{
    return m->acts.x[m->shape.linears[m->shape.linear_of[role]].input];
}

/* ---- buffers ---- */

static bool has(const struct model_layer *l, enum model_role role)
{
    return l->tensor_of[role] >= 0;
}

static bool has_bias(const struct model_layer *l, enum model_role role)
{
    return l->linear_of[role] >= 0 && l->linears[l->linear_of[role]].bias >= 0;
}

static int64_t extra_cols(const struct lm_arch *a, const struct model_layer *l, int extra)
{
    int64_t q = model_dim_size(a, DIM_Q), kv = model_dim_size(a, DIM_KV), ff = a->intermediate_size;
    bool fused = has(l, ROLE_QKV), fused_mlp = has(l, ROLE_GATE_UP);
    bool post = has(l, ROLE_ATTN_POST_NORM), row = a->qk_norm == QK_NORM_ROW;
    bool sparse = l->experts > 0;
    int64_t moe = sparse ? a->moe_intermediate_size : 0;
    switch (extra) {
    case ROUTER:
        return l->experts;
    case EXP_X:
    case EXP_F:
    case EXP_DF:
        return sparse ? a->hidden_size : 0;
    case EXP_GATE_UP:
    case EXP_DGATE_UP:
        return 2 * moe;
    case EXP_GATE:
    case EXP_UP:
    case EXP_U:
    case EXP_DU:
    case EXP_DGATE:
    case EXP_DUP:
        return moe;
    case Q_IN:
        return fused || has_bias(l, ROLE_Q) ? q : 0;
    case K_IN:
        return fused || has_bias(l, ROLE_K) ? kv : 0;
    case V_IN:
        return fused || has_bias(l, ROLE_V) ? kv : 0;
    case Q_ROW:
        return row ? q : 0;
    case K_ROW:
        return row ? kv : 0;
    case O_OUT:
        return has_bias(l, ROLE_O) ? a->hidden_size : 0;
    case DOWN_OUT:
        return has_bias(l, ROLE_DOWN) ? a->hidden_size : 0;
    case GATE_IN:
        return fused_mlp || has_bias(l, ROLE_GATE) ? ff : 0;
    case UP_IN:
        return fused_mlp || has_bias(l, ROLE_UP) ? ff : 0;
    case BRANCH:
    case DBRANCH:
        return post ? a->hidden_size : 0;
    case DV_ROT:
        return fused ? kv : 0;
    case DGATE:
    case DUP:
        return fused_mlp ? ff : 0;
    case Q_ROT:
    case DQ_ROT:
    case DX_O:
        return q;
    case K_ROT:
    case DK_ROT:
        return kv;
    case DX_DOWN:
        return sparse ? 0 : ff;
    default: /* MID, DX */
        return a->hidden_size;
    }
}

/* The next `cols` columns of the arena, or with a NULL arena just their bytes. */
static void *carve(char *arena, size_t *at, int64_t cols, size_t act_size, int64_t rows)
{
    void *p = arena ? arena + *at : NULL;
    size_t bytes = (size_t)cols * (size_t)rows * act_size;
    *at += (bytes + CUT - 1) / CUT * CUT;
    return p;
}

/* Rows of experts, in a buffer of their own. */
static bool is_of_part(int extra)
{
    return (extra >= EXP_X && extra <= EXP_F) || extra >= EXP_DF;
}

/* The tile and the backend that buffers are for. */
struct room {
    size_t act_size;
    int32_t rows;
    int64_t part_rows;
    int backward;
};

static struct room room_of(const struct lm_arch *a, const struct backend *b, int32_t rows,
                           int backward)
{
    return (struct room){b->act_size, rows, nn_part_rows(a, b, rows), backward};
}

static void *carve_extra(char *arena, size_t *at, const struct lm_arch *a,
                         const struct model_layer *l, int extra, const struct room *r)
{
    return carve(arena, at, extra_cols(a, l, extra), r->act_size,
                 is_of_part(extra) ? r->part_rows : r->rows);
}

/* Bytes of all buffers; acts and buf point into the arena, if there is one. */
static size_t lay_out(const struct lm_arch *a, const struct model_layer *l, const struct room *r,
                      char *arena, struct nn_acts *acts, void **buf)
{
    size_t at = 0, act_size = r->act_size;
    int32_t rows = r->rows;
    int inner = l->experts_input[EXPERT_DOWN];
    for (int i = 0; i < l->input_count; i++)
        acts->x[i] = carve(arena, &at, l->inputs[i].cols * (i == inner ? a->experts_per_token : 1),
                           act_size, rows);
    for (int i = 0; i < l->linear_count; i++)
        acts->y[i] = carve(arena, &at, l->linears[i].rows, act_size, rows);
    if (l->experts)
        acts->block_y = carve(arena, &at, a->hidden_size, act_size, rows);
    for (int i = 0; i < FORWARD_EXTRAS; i++)
        buf[i] = carve_extra(arena, &at, a, l, i, r);
    if (!r->backward)
        return at;
    for (int i = 0; i < l->linear_count; i++)
        acts->dy[i] = carve(arena, &at, l->linears[i].rows, act_size, rows);
    if (l->experts)
        acts->block_dy = carve(arena, &at, a->hidden_size, act_size, rows);
    for (int i = FORWARD_EXTRAS; i < EXTRAS; i++)
        buf[i] = carve_extra(arena, &at, a, l, i, r);
    return at;
}

/* A layer of either kind; -1: the model has none. */
static int64_t layer_of_kind(const struct lm_arch *a, bool sparse)
{
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        if (arch_sparse(a, l) == sparse)
            return l;
    return -1;
}

/* What the kinds of layers need; they share the memory. */
static size_t buffer_bytes(const struct lm_arch *a, const struct room *r)
{
    size_t most = 0;
    for (int k = 0; k < 2; k++) {
        int64_t layer = layer_of_kind(a, k);
        struct model_layer shape;
        struct nn_acts acts;
        void *buf[EXTRAS];
        if (layer < 0)
            continue;
        model_layer_describe(&shape, a, layer);
        size_t n = lay_out(a, &shape, r, NULL, &acts, buf);
        most = n > most ? n : most;
    }
    return most;
}

uint64_t nn_buffer_bytes(const struct lm_arch *a, const struct backend *b, int32_t rows,
                         int backward)
{
    const struct room r = room_of(a, b, rows, backward);
    return buffer_bytes(a, &r) + nn_routes_bytes(a, rows);
}

/* ---- opening ---- */

static int find_weight(const struct nn_source *s, const char *name, int64_t rows, int64_t cols,
                       struct backend_weight *w, struct aq_err *err)
{
    static atomic_uint_fast64_t serials; /* no two weights of a process have the same */
    *w = (struct backend_weight){0};
    if (s->find(s->arg, name, w, err) < 0)
        return -1;
    if (w->host)
        w->serial = atomic_fetch_add(&serials, 1) + 1;
    if (w->rows != rows || w->cols != cols)
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' is %lld x %lld, expected %lld x %lld", name,
                          (long long)w->rows, (long long)w->cols, (long long)rows, (long long)cols);
    return 0;
}

static int find_experts(struct nn_model *m, const struct nn_source *s, int64_t layer,
                        struct aq_err *err)
{
    int64_t d = m->arch.hidden_size, moe = m->arch.moe_intermediate_size;
    char name[NAME_MAX_LEN];
    struct backend_weight *w = xcalloc((size_t)m->arch.experts * 2, sizeof *w);
    m->layers[layer].experts = w;
    for (int64_t e = 0; e < m->arch.experts; e++, w += 2) {
        (void)snprintf(name, sizeof name, "layers.%lld.mlp.experts.%lld.gate_up", (long long)layer,
                       (long long)e);
        if (find_weight(s, name, 2 * moe, d, &w[0], err) < 0)
            return -1;
        (void)snprintf(name, sizeof name, "layers.%lld.mlp.experts.%lld.down", (long long)layer,
                       (long long)e);
        if (find_weight(s, name, d, moe, &w[1], err) < 0)
            return -1;
    }
    return 0;
}

static int find_weights(struct nn_model *m, const struct nn_source *s, struct aq_err *err)
{
    const struct lm_arch *a = &m->arch;
    char name[NAME_MAX_LEN];
    for (int64_t l = 0; l < a->num_hidden_layers; l++) {
        const struct model_layer *shape = nn_layer(m, l);
        if (shape->experts && find_experts(m, s, l, err) < 0)
            return -1;
        for (int i = 0; i < shape->tensor_count; i++) {
            const struct model_tensor *t = shape->tensors[i];
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
    const struct room room = room_of(&m->arch, m->b, m->rows, backward);
    struct nn_routes *routes;
    m->arena_bytes = buffer_bytes(&m->arch, &room);
    m->arena = m->b->ops->alloc(m->b, m->arena_bytes, "activations of a tile", err);
    if (!m->arena)
        return -1;
    if (nn_routes_new(&routes, &m->arch, m->b, m->rows, err) < 0)
        return -1;
    for (int k = 0; k < 2; k++) {
        struct kind *kind = &m->kinds[k];
        if (layer_of_kind(&m->arch, k) >= 0)
            (void)lay_out(&m->arch, &kind->shape, &room, m->arena, &kind->acts, kind->buf);
    }
    m->kinds[1].acts.routes = routes;
    enter_layer(m, 0);
    return 0;
}

static void make_ropes(struct nn_model *m)
{
    const struct lm_arch *a = &m->arch;
    int64_t pairs = a->rotary_dim / 2;
    m->inv_freq = xcalloc((size_t)(pairs * a->rope_count) + 1, sizeof *m->inv_freq);
    for (int i = 0; i < a->rope_count; i++) {
        float *table = m->inv_freq + i * pairs;
        m->rope[i] = (struct backend_rope){.inv_freq = table, .dim = (int)a->rotary_dim};
        rope_table(a, &a->rope[i], table, &m->rope[i].factor);
    }
}

int nn_open(struct nn_model **out, const struct nn_source *source, struct backend *b, int32_t rows,
            int backward, struct aq_err *err)
{
    *out = NULL;
    if (arch_check(source->arch, err) < 0)
        return -1;
    if (source->arch->experts && !b->ops->route)
        return aq_err_set(err, AQ_EBACKEND,
                          "the %s backend does not compute mixtures of experts: take --device cpu",
                          b->ops->name);
    struct nn_model *m = xcalloc(1, sizeof *m);
    m->source = *source;
    m->arch = *source->arch;
    m->b = b;
    m->rows = rows;
    for (int k = 0; k < 2; k++)
        if (layer_of_kind(&m->arch, k) >= 0)
            model_layer_describe(&m->kinds[k].shape, &m->arch, layer_of_kind(&m->arch, k));
    m->layers = xcalloc((size_t)m->arch.num_hidden_layers, sizeof *m->layers);
    m->part_weights = xcalloc((size_t)m->arch.experts + 1, sizeof(struct backend_weight *));
    make_ropes(m);
    if (find_weights(m, source, err) < 0 || take_buffers(m, backward, err) < 0) {
        nn_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

/* ---- treatments of groups ---- */

int nn_group_spec(struct nn_model *m, int64_t layer, int group, const struct quant_spec *spec,
                  struct quant_spec *out, struct aq_err *err)
{
    struct layer *at = &m->layers[layer];
    const struct model_layer *shape = nn_layer(m, layer);
    *out = *spec;
    if (!spec->group)
        return 0;
    if (shape->experts &&
        group >= shape->experts_group) { /* each expert's gate and up are one matrix with a range */
        out->group = 0;
        return 0;
    }
    if (!at->amax_known[group]) {
        int first = shape->groups[group].first, end = first + shape->groups[group].linears;
        for (int l = first; l < end; l++) {
            const struct backend_weight *w = nn_weight(m, layer, l);
            const struct quant_matrix x = {w->host, w->dtype, w->rows, w->cols, w->name, w->lower};
            float own;
            if (quant_weight_amax(&x, &own, err) < 0)
                return -1;
            at->amax[group] = own > at->amax[group] ? own : at->amax[group];
        }
        at->amax_known[group] = true;
    }
    out->group_amax = at->amax[group];
    return 0;
}

/* ---- weights on the device ---- */

struct making {
    const struct nn_source *source;
    struct backend_weight **w;
    struct aq_err *failed; /* [weights]: of class 0 where it did not */
};

static void make_unit(void *arg, int64_t unit, int worker)
{
    const struct making *j = arg;
    struct aq_err err = {0};
    (void)worker;
    if (j->source->make(j->source->arg, j->w[unit], &err) < 0)
        j->failed[unit] = err;
}

/* Copies and decodes are made by several threads, as the backend's device waits for them. */
enum { MAKERS = 8 };

static int open_makers(struct nn_model *m, struct aq_err *err)
{
    int cpus = aq_pool_cpus(), threads = cpus < MAKERS ? cpus : MAKERS;
    if (!m->makers)
        m->makers = aq_pool_new(m->b->ops == &backend_cpu_ops ? m->b->threads : threads, err);
    return m->makers ? 0 : -1;
}

/* Weights that are not in the map, before they are loaded and after they are released. */
static int make_weights(struct nn_model *m, struct backend_weight *const *w, int count,
                        struct aq_err *err)
{
    struct making j = {.source = &m->source, .w = xcalloc((size_t)count + 1, sizeof *j.w)};
    int missing = 0, bad = 0;
    for (int i = 0; i < count; i++)
        if (!w[i]->host)
            j.w[missing++] = w[i];
    j.failed = xcalloc((size_t)missing + 1, sizeof *j.failed);
    if (missing > 0)
        bad = open_makers(m, err);
    if (missing > 0 && bad == 0)
        aq_pool_run(m->makers, missing, make_unit, &j);
    for (int i = 0; i < missing && bad == 0; i++) {
        if (!j.failed[i].code)
            continue;
        bad = -1;
        if (err)
            *err = j.failed[i];
    }
    free(j.w);
    free(j.failed);
    return bad;
}

static void drop_weights(struct nn_model *m, struct backend_weight *const *w, int count)
{
    for (int i = 0; i < count && m->source.drop; i++)
        m->source.drop(m->source.arg, w[i]);
}

/* All weights of a layer. Caller frees the list. */
static struct backend_weight **list_weights(struct nn_model *m, int64_t layer, int *count)
{
    struct layer *l = &m->layers[layer];
    const struct model_layer *shape = nn_layer(m, layer);
    size_t room = (size_t)shape->tensor_count + 2 * (size_t)shape->experts;
    struct backend_weight **w = xcalloc(room, sizeof(struct backend_weight *));
    *count = 0;
    for (int i = 0; i < shape->tensor_count; i++)
        w[(*count)++] = &l->w[i];
    for (int i = 0; i < 2 * shape->experts; i++)
        w[(*count)++] = &l->experts[i];
    return w;
}

static void layer_release(struct nn_model *m, int64_t layer)
{
    struct layer *l = &m->layers[layer];
    int count;
    if (!l->loaded)
        return;
    struct backend_weight **w = list_weights(m, layer, &count);
    m->b->ops->weights_release(m->b, w, count);
    drop_weights(m, w, count);
    free(w);
    l->loaded = false;
}

static uint64_t weight_bytes(const struct backend_weight *w)
{
    return (uint64_t)w->rows * (uint64_t)w->cols * num_bytes(w->dtype);
}

static int layer_load(struct nn_model *m, int64_t layer, struct aq_err *err)
{
    struct layer *l = &m->layers[layer];
    if (l->loaded)
        return 0;
    int count, r;
    struct backend_weight **w = list_weights(m, layer, &count);
    l->loaded = true;
    r = make_weights(m, w, count, err);
    if (r == 0)
        r = m->b->ops->weights_load(m->b, w, count, err);
    free(w);
    return r < 0 ? aq_err_prefix(err, "layer %lld", (long long)layer) : 0;
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

static uint64_t bytes_of_layer(const struct nn_model *m, int64_t layer)
{
    const struct model_layer *shape = nn_layer(m, layer);
    uint64_t sum = 0;
    for (int i = 0; i < shape->tensor_count; i++)
        sum += weight_bytes(&m->layers[layer].w[i]);
    for (int i = 0; i < 2 * shape->experts; i++)
        sum += weight_bytes(&m->layers[layer].experts[i]);
    return sum;
}

uint64_t nn_layer_bytes(const struct nn_model *m)
{
    uint64_t most = 0;
    for (int k = 0; k < 2; k++) {
        int64_t layer = layer_of_kind(&m->arch, k);
        uint64_t sum = layer < 0 ? 0 : bytes_of_layer(m, layer);
        most = sum > most ? sum : most;
    }
    return most;
}

uint64_t nn_model_bytes(const struct nn_model *m)
{
    uint64_t sum = nn_end_bytes(m);
    for (int64_t layer = 0; layer < m->arch.num_hidden_layers; layer++)
        sum += bytes_of_layer(m, layer);
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
    m->ends_loaded = true;
    if (make_weights(m, w, count, err) < 0)
        return -1;
    return m->b->ops->weights_load(m->b, w, count, err);
}

void nn_drop_ends(struct nn_model *m)
{
    struct backend_weight *w[ENDS];
    int count = list_ends(m, w);
    if (!m->ends_loaded)
        return;
    m->b->ops->weights_release(m->b, w, count);
    drop_weights(m, w, count);
    m->ends_loaded = false;
}

/* ---- the head in slices ---- */

int64_t nn_slice_ids(const struct nn_model *m, int64_t slice)
{
    int64_t left = m->arch.vocab_size - slice * NN_SLICE;
    return left < 0 ? 0 : left < NN_SLICE ? left : NN_SLICE;
}

/* The slices of the head, and the last norm after them, in one list of *count weights. */
static struct backend_weight **list_slices(struct nn_model *m, int *count)
{
    int n = (int)((m->arch.vocab_size + NN_SLICE - 1) / NN_SLICE);
    struct backend_weight **w = xcalloc((size_t)n + 1, sizeof *w);
    for (int i = 0; i < n; i++)
        w[i] = &m->slices[i];
    w[n] = &m->ends[NORM];
    *count = n + 1;
    return w;
}

int nn_use_head(struct nn_model *m, struct aq_err *err)
{
    struct backend_weight *whole[] = {head_of(m), &m->ends[NORM]};
    int64_t slices = (m->arch.vocab_size + NN_SLICE - 1) / NN_SLICE;
    if (m->slices)
        return 0;
    m->slices = xcalloc((size_t)slices, sizeof *m->slices);
    if (make_weights(m, whole, 2, err) < 0)
        return -1;
    size_t row = (size_t)whole[0]->cols * num_bytes(whole[0]->dtype);
    for (int64_t i = 0; i < slices; i++) {
        m->slices[i] = *whole[0];
        m->slices[i].dev = NULL;
        m->slices[i].serial = 0;
        m->slices[i].host = (const char *)whole[0]->host + (size_t)(i * NN_SLICE) * row;
        m->slices[i].rows = nn_slice_ids(m, i);
    }
    int count;
    struct backend_weight **w = list_slices(m, &count);
    int r = m->b->ops->weights_load(m->b, w, count, err);
    free(w);
    return r;
}

void nn_drop_head(struct nn_model *m)
{
    struct backend_weight *whole[] = {head_of(m), &m->ends[NORM]};
    int count;
    if (!m->slices)
        return;
    struct backend_weight **w = list_slices(m, &count);
    m->b->ops->weights_release(m->b, w, count);
    drop_weights(m, whole, 2);
    free(w);
    free(m->slices);
    m->slices = NULL;
}

void nn_close(struct nn_model *m)
{
    if (!m)
        return;
    for (int64_t l = 0; l < m->arch.num_hidden_layers; l++)
        layer_release(m, l);
    nn_drop_ends(m);
    nn_drop_head(m);
    m->b->ops->free(m->b, m->arena, m->arena_bytes);
    nn_routes_free(m->kinds[1].acts.routes);
    aq_pool_free(m->makers);
    for (int64_t l = 0; l < m->arch.num_hidden_layers; l++)
        free(m->layers[l].experts);
    free(m->layers);
    free(m->part_weights);
    free(m->inv_freq);
    free(m);
}

/* ---- what the blocks have in common ---- */

static size_t hidden_bytes(const struct nn_model *m)
{
    return (size_t)m->rows * (size_t)m->arch.hidden_size * m->b->act_size;
}

/* to_product: the result is what a linear reads. */
static struct backend_norm norm_of(const struct nn_model *m, const struct backend_weight *w,
                                   int to_product)
{
    return (struct backend_norm){.w = w,
                                 .eps = m->arch.rms_norm_eps,
                                 .one_plus = m->arch.norm_one_plus,
                                 .to_product = to_product};
}

static struct backend_head head_of_model(struct nn_model *m)
{
    return (struct backend_head){
        .w = head_of(m), .divisor = (float)m->arch.logit_div, .cap = (float)m->arch.logit_cap};
}

/* In fp32, as it is usually written. */
static float attention_scale(const struct lm_arch *a)
{
    bool usual = a->attn_scale == 1 / sqrt((double)a->head_dim);
    return usual ? 1 / sqrtf((float)a->head_dim) : (float)a->attn_scale;
}

static struct backend_attention attention_of(const struct nn_model *m, int64_t layer)
{
    const struct lm_arch *a = &m->arch;
    bool window = a->window > 0 && a->layer_window && a->layer_window[layer];
    return (struct backend_attention){.heads = (int)a->num_attention_heads,
                                      .kv_heads = (int)a->num_key_value_heads,
                                      .dim = (int)a->head_dim,
                                      .scale = attention_scale(a),
                                      .cap = (float)a->attn_cap,
                                      .window = window ? (int32_t)a->window : 0};
}

/* NULL: the layer does not rotate. */
static const struct backend_rope *rope_of(const struct nn_model *m, int64_t layer)
{
    int i = m->arch.layer_rope ? m->arch.layer_rope[layer] : 0;
    return i < 0 ? NULL : &m->rope[i];
}

/* The linear's output (rows, out) with its bias: y itself if it has none, else in `room`, since y
   is scored without it. */
static void *with_bias(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                       enum model_role role, void *room)
{
    const struct model_linear *l = &m->shape.linears[m->shape.linear_of[role]];
    if (l->bias < 0)
        return y_of(m, role);
    m->b->ops->bias_add(m->b, t, room, y_of(m, role), &m->layers[layer].w[l->bias]);
    return room;
}

static void linear(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                   enum model_role role, const struct nn_swap *swap)
{
    const struct backend_ops *op = m->b->ops;
    int l = m->shape.linear_of[role], in = m->shape.linears[l].input;
    if (swap && swap->w[l])
        op->linear_quantized(m->b, t, m->acts.y[l], swap->x[l], swap->w[l]);
    else
        op->linear_forward(m->b, t, m->acts.y[l], m->acts.x[in], weight(m, layer, role));
}

/* The input of the linear with this role has been computed. */
static void input_ready(struct nn_model *m, enum model_role role, const struct nn_swap *swap)
{
    int in = m->shape.linears[m->shape.linear_of[role]].input;
    if (swap && swap->ready)
        swap->ready(swap->arg, in, m->acts.x[in]);
}

/* x = the norm of h that the branch begins with, or h itself in a family without one. All of this
   and the next three are (rows, hidden). */
static void enter_branch(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                         enum model_role norm, void *x, const void *h)
{
    const struct backend_ops *op = m->b->ops;
    if (!has(&m->shape, norm)) {
        op->copy(m->b, x, h, hidden_bytes(m));
        return;
    }
    const struct backend_norm n = norm_of(m, weight(m, layer, norm), 1);
    op->rmsnorm_forward(m->b, t, x, h, &n);
}

/* h_out = h + residual_scale * (the branch's result, after its norm if it has one) */
static void leave_branch(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                         enum model_role norm, void *h_out, const void *h, const void *result)
{
    const struct backend_ops *op = m->b->ops;
    op->copy(m->b, h_out, h, hidden_bytes(m));
    if (has(&m->shape, norm)) {
        const struct backend_norm n = norm_of(m, weight(m, layer, norm), 0);
        op->rmsnorm_forward(m->b, t, m->buf[BRANCH], result, &n);
        result = m->buf[BRANCH];
    }
    op->add(m->b, t, h_out, result, m->arch.hidden_size, (float)m->arch.residual_scale);
}

/* dy = the gradient at the branch's result, from dh, the gradient at h_out. */
static void reenter_branch(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                           enum model_role norm, void *dy, const void *dh, const void *result)
{
    const struct backend_ops *op = m->b->ops;
    float factor = (float)m->arch.residual_scale;
    bool normed = has(&m->shape, norm);
    void *d = normed ? m->buf[DBRANCH] : dy;
    if (factor == 1)
        op->copy(m->b, d, dh, hidden_bytes(m));
    else
        op->scale(m->b, t, d, dh, m->arch.hidden_size, factor);
    if (!normed)
        return;
    const struct backend_norm n = norm_of(m, weight(m, layer, norm), 0);
    op->zero(m->b, dy, hidden_bytes(m));
    op->rmsnorm_backward(m->b, t, dy, d, result, &n);
}

/* dh += the gradient at h by way of the branch, from dx, the gradient at what its linears read. */
static void exit_branch(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                        enum model_role norm, void *dh, const void *dx, const void *h)
{
    const struct backend_ops *op = m->b->ops;
    if (!has(&m->shape, norm)) {
        op->add(m->b, t, dh, dx, m->arch.hidden_size, 1);
        return;
    }
    const struct backend_norm n = norm_of(m, weight(m, layer, norm), 1);
    op->rmsnorm_backward(m->b, t, dh, dx, h, &n);
}

/* ---- attention ---- */

/* q, k and v as attention's norms and rotation find them: (rows, heads x dim), biases included. */
struct qkv {
    void *q, *k, *v;
};

static struct qkv split_qkv(struct nn_model *m, int64_t layer, const struct backend_tile *t)
{
    const struct backend_ops *op = m->b->ops;
    void **buf = m->buf;
    if (!has(&m->shape, ROLE_QKV))
        return (struct qkv){with_bias(m, layer, t, ROLE_Q, buf[Q_IN]),
                            with_bias(m, layer, t, ROLE_K, buf[K_IN]),
                            with_bias(m, layer, t, ROLE_V, buf[V_IN])};
    int64_t q = model_dim_size(&m->arch, DIM_Q), kv = model_dim_size(&m->arch, DIM_KV);
    int64_t all = q + 2 * kv;
    const void *y = y_of(m, ROLE_QKV);
    op->cols_copy(m->b, t, buf[Q_IN], q, 0, y, all, 0, q);
    op->cols_copy(m->b, t, buf[K_IN], kv, 0, y, all, q, kv);
    op->cols_copy(m->b, t, buf[V_IN], kv, 0, y, all, q + kv, kv);
    return (struct qkv){buf[Q_IN], buf[K_IN], buf[V_IN]};
}

/* to = `from`, one of q and k (rows, heads x dim), after norm and rotation, as attention reads it.
   row: room of the same shape for a norm over whole rows. */
static void rotate(struct nn_model *m, int64_t layer, const struct backend_tile *t, void *to,
                   const void *from, int64_t heads, enum model_role norm, void *row)
{
    const struct backend_ops *op = m->b->ops;
    int dim = (int)m->arch.head_dim;
    struct backend_norm n = {0};
    if (has(&m->shape, norm))
        n = norm_of(m, weight(m, layer, norm), 0);
    if (n.w && m->arch.qk_norm == QK_NORM_ROW) {
        op->rmsnorm_forward(m->b, t, row, from, &n);
        from = row;
        n.w = NULL;
    }
    op->norm_rope_forward(m->b, t, to, from, (int)heads, dim, n.w ? &n : NULL, rope_of(m, layer));
}

/* The same backwards: d, the gradient at `from`, from d_rot, that at the rotated one; d_rot is
   overwritten where the norm is over whole rows. */
static void rotate_back(struct nn_model *m, int64_t layer, const struct backend_tile *t, void *d,
                        void *d_rot, const void *from, int64_t heads, enum model_role norm,
                        void *row)
{
    const struct backend_ops *op = m->b->ops;
    int dim = (int)m->arch.head_dim;
    struct backend_norm n = {0};
    if (has(&m->shape, norm))
        n = norm_of(m, weight(m, layer, norm), 0);
    if (!n.w || m->arch.qk_norm != QK_NORM_ROW) {
        op->norm_rope_backward(m->b, t, d, d_rot, from, (int)heads, dim, n.w ? &n : NULL,
                               rope_of(m, layer));
        return;
    }
    op->norm_rope_backward(m->b, t, row, d_rot, NULL, (int)heads, dim, NULL, rope_of(m, layer));
    op->zero(m->b, d, (size_t)m->rows * (size_t)(heads * dim) * m->b->act_size);
    op->rmsnorm_backward(m->b, t, d, row, from, &n);
}

/* MID from h_in, both (rows, hidden). Returns q, k and v. */
static struct qkv attention_forward(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                                    const void *h_in, const struct nn_swap *swap)
{
    const struct lm_arch *a = &m->arch;
    bool fused = has(&m->shape, ROLE_QKV);
    void **buf = m->buf;
    enter_branch(m, layer, t, ROLE_ATTN_NORM, x_of(m, fused ? ROLE_QKV : ROLE_Q), h_in);
    input_ready(m, fused ? ROLE_QKV : ROLE_Q, swap);
    if (fused) {
        linear(m, layer, t, ROLE_QKV, swap);
    } else {
        linear(m, layer, t, ROLE_Q, swap);
        linear(m, layer, t, ROLE_K, swap);
        linear(m, layer, t, ROLE_V, swap);
    }
    struct qkv in = split_qkv(m, layer, t);
    rotate(m, layer, t, buf[Q_ROT], in.q, a->num_attention_heads, ROLE_Q_NORM, buf[Q_ROW]);
    rotate(m, layer, t, buf[K_ROT], in.k, a->num_key_value_heads, ROLE_K_NORM, buf[K_ROW]);
    const struct backend_attention as = attention_of(m, layer);
    m->b->ops->attention_forward(m->b, t, x_of(m, ROLE_O), buf[Q_ROT], buf[K_ROT], in.v, &as);
    input_ready(m, ROLE_O, swap);
    linear(m, layer, t, ROLE_O, swap);
    leave_branch(m, layer, t, ROLE_ATTN_POST_NORM, buf[MID], h_in,
                 with_bias(m, layer, t, ROLE_O, buf[O_OUT]));
    return in;
}

/* dh (rows, hidden): the gradient at MID becomes the one at h_in, if it is wanted. */
static void attention_backward(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                               const void *h_in, const struct qkv *in, void *dh, int to_input)
{
    const struct backend_ops *op = m->b->ops;
    const struct lm_arch *a = &m->arch;
    bool fused = has(&m->shape, ROLE_QKV);
    void **buf = m->buf;
    int64_t heads = a->num_attention_heads, kv_heads = a->num_key_value_heads;
    const void *o = has_bias(&m->shape, ROLE_O) ? buf[O_OUT] : y_of(m, ROLE_O);
    reenter_branch(m, layer, t, ROLE_ATTN_POST_NORM, dy_of(m, ROLE_O), dh, o);
    op->linear_backward(m->b, t, buf[DX_O], dy_of(m, ROLE_O), weight(m, layer, ROLE_O), 0);
    void *dv = fused ? buf[DV_ROT] : dy_of(m, ROLE_V);
    const struct backend_attention as = attention_of(m, layer);
    op->attention_backward(m->b, t, buf[DQ_ROT], buf[DK_ROT], dv, buf[DX_O], buf[Q_ROT], buf[K_ROT],
                           in->v, &as);
    /* in a fused family q and k have served: their room takes the gradients */
    void *dq = fused ? in->q : dy_of(m, ROLE_Q), *dk = fused ? in->k : dy_of(m, ROLE_K);
    rotate_back(m, layer, t, dq, buf[DQ_ROT], in->q, heads, ROLE_Q_NORM, buf[Q_ROW]);
    rotate_back(m, layer, t, dk, buf[DK_ROT], in->k, kv_heads, ROLE_K_NORM, buf[K_ROW]);
    if (fused) {
        int64_t q = model_dim_size(a, DIM_Q), kv = model_dim_size(a, DIM_KV), all = q + 2 * kv;
        void *d = dy_of(m, ROLE_QKV);
        op->cols_copy(m->b, t, d, all, 0, dq, q, 0, q);
        op->cols_copy(m->b, t, d, all, q, dk, kv, 0, kv);
        op->cols_copy(m->b, t, d, all, q + kv, dv, kv, 0, kv);
    }
    if (!to_input)
        return;
    if (fused) {
        op->linear_backward(m->b, t, buf[DX], dy_of(m, ROLE_QKV), weight(m, layer, ROLE_QKV), 0);
    } else {
        op->linear_backward(m->b, t, buf[DX], dq, weight(m, layer, ROLE_Q), 0);
        op->linear_backward(m->b, t, buf[DX], dk, weight(m, layer, ROLE_K), 1);
        op->linear_backward(m->b, t, buf[DX], dv, weight(m, layer, ROLE_V), 1);
    }
    exit_branch(m, layer, t, ROLE_ATTN_NORM, dh, buf[DX], h_in);
}

/* ---- MLP ---- */

/* gate and up, (rows, intermediate), biases included. */
struct gate_up {
    void *gate, *up;
};

static struct gate_up split_gate_up(struct nn_model *m, int64_t layer, const struct backend_tile *t)
{
    const struct backend_ops *op = m->b->ops;
    void **buf = m->buf;
    if (!has(&m->shape, ROLE_GATE_UP))
        return (struct gate_up){with_bias(m, layer, t, ROLE_GATE, buf[GATE_IN]),
                                with_bias(m, layer, t, ROLE_UP, buf[UP_IN])};
    int64_t ff = m->arch.intermediate_size;
    op->cols_copy(m->b, t, buf[GATE_IN], ff, 0, y_of(m, ROLE_GATE_UP), 2 * ff, 0, ff);
    op->cols_copy(m->b, t, buf[UP_IN], ff, 0, y_of(m, ROLE_GATE_UP), 2 * ff, ff, ff);
    return (struct gate_up){buf[GATE_IN], buf[UP_IN]};
}

static enum backend_act act_of(const struct nn_model *m)
{
    return m->arch.act == ACT_GELU_TANH ? BACKEND_GELU_TANH : BACKEND_SILU;
}

/* ---- experts ---- */

/* The matrices of a part's experts: gate with up, or down. */
static const struct backend_weight **part_weights(struct nn_model *m, int64_t layer,
                                                  const struct nn_routes *r, int i, int down)
{
    int first = i * r->at_once;
    for (int e = 0; e < r->at_once && first + e < r->experts; e++)
        m->part_weights[e] = nn_expert_weight(m, layer, first + e, down);
    return m->part_weights;
}

/* EXP_U from EXP_GATE_UP. */
static void experts_act(struct nn_model *m, const struct backend_tile *part)
{
    void **buf = m->kinds[1].buf;
    m->b->ops->glu_pair_forward(m->b, part, buf[EXP_U], buf[EXP_GATE_UP],
                                m->arch.moe_intermediate_size, act_of(m));
}

/* The experts of a part over their rows in EXP_X: the result in EXP_F; gate, up and their product
   stay for the backward pass. */
static void part_forward(struct nn_model *m, int64_t layer, const struct nn_routes *r, int i)
{
    const struct backend_ops *op = m->b->ops;
    void **buf = m->buf;
    op->experts_forward(m->b, r->parts[i], buf[EXP_GATE_UP], buf[EXP_X],
                        part_weights(m, layer, r, i, 0));
    experts_act(m, r->parts[i]);
    op->experts_forward(m->b, r->parts[i], buf[EXP_F], buf[EXP_U], part_weights(m, layer, r, i, 1));
}

void nn_experts_take(struct nn_model *m, const struct nn_routes *r, int i, const void *n)
{
    if (r->parts[i])
        m->b->ops->part_take(m->b, r->parts[i], m->kinds[1].buf[EXP_X], n, m->arch.hidden_size,
                             NULL);
}

/* Those of a part that have rows. */
static int quantize_experts(struct nn_model *m, int64_t layer, const struct nn_routes *r, int i,
                            const struct nn_expert_swap *swap, struct aq_err *err)
{
    const struct backend_ops *op = m->b->ops;
    int first = i * r->at_once;
    for (int e = 0; e < r->at_once && first + e < r->experts; e++) {
        if (r->begin[first + e + 1] == r->begin[first + e])
            continue;
        for (int h = 0; h < EXPERT_HALVES; h++) {
            struct backend_operand *to = h == EXPERT_DOWN ? swap->down[e] : swap->gate_up[e];
            if (!swap->quantize)
                op->quantize_weight(m->b, to, nn_expert_weight(m, layer, first + e, h), swap->w[h]);
            else if (swap->quantize(swap->arg, to, swap->w[h], layer, first + e, h, err) < 0)
                return -1;
        }
    }
    return 0;
}

int nn_experts_add(struct nn_model *m, int64_t layer, const struct nn_routes *r, int i,
                   const struct nn_expert_swap *swap, void *yq, struct aq_err *err)
{
    const struct backend_ops *op = m->b->ops;
    const struct backend_tile *part = r->parts[i], *by = part;
    struct backend_tile *other = NULL;
    int64_t d = m->arch.hidden_size, moe = m->arch.moe_intermediate_size;
    void **buf = m->kinds[1].buf;
    if (!part)
        return 0;
    if (swap->by && swap->by != r->t) {
        if (nn_routes_part(r, i, swap->by, &other, err) < 0)
            return -1;
        by = other;
    }
    if (quantize_experts(m, layer, r, i, swap, err) < 0) {
        if (other)
            op->tile_free(m->b, other);
        return -1;
    }
    op->quantize_act(m->b, swap->x, by, buf[EXP_X], d, swap->a[EXPERT_GATE_UP],
                     swap->range[EXPERT_GATE_UP], swap->clipped);
    op->experts_quantized(m->b, part, buf[EXP_GATE_UP], swap->x,
                          (const struct backend_operand *const *)swap->gate_up);
    experts_act(m, part);
    op->quantize_act(m->b, swap->u, by, buf[EXP_U], moe, swap->a[EXPERT_DOWN],
                     swap->range[EXPERT_DOWN], swap->clipped);
    op->experts_quantized(m->b, part, buf[EXP_F], swap->u,
                          (const struct backend_operand *const *)swap->down);
    op->part_add(m->b, part, yq, buf[EXP_F], d, r->w);
    if (other)
        op->tile_free(m->b, other);
    return 0;
}

/* Part i's share of DX and of the gradients of its weights, from block_dy and from what its forward
   pass has just left. */
static void part_backward(struct nn_model *m, int64_t layer, const struct nn_routes *r, int i)
{
    const struct backend_ops *op = m->b->ops;
    const struct backend_tile *part = r->parts[i];
    const void *dy = m->acts.block_dy;
    int64_t d = m->arch.hidden_size, moe = m->arch.moe_intermediate_size;
    void **buf = m->buf;
    op->cols_copy(m->b, part, buf[EXP_GATE], moe, 0, buf[EXP_GATE_UP], 2 * moe, 0, moe);
    op->cols_copy(m->b, part, buf[EXP_UP], moe, 0, buf[EXP_GATE_UP], 2 * moe, moe, moe);
    op->part_dot(m->b, part, r->q, dy, buf[EXP_F], d);
    op->part_take(m->b, part, buf[EXP_DF], dy, d, r->w);
    op->experts_backward(m->b, part, buf[EXP_DU], buf[EXP_DF], part_weights(m, layer, r, i, 1));
    op->glu_backward(m->b, part, buf[EXP_DGATE], buf[EXP_DUP], buf[EXP_DU], buf[EXP_GATE],
                     buf[EXP_UP], moe, act_of(m));
    op->cols_copy(m->b, part, buf[EXP_DGATE_UP], 2 * moe, 0, buf[EXP_DGATE], moe, 0, moe);
    op->cols_copy(m->b, part, buf[EXP_DGATE_UP], 2 * moe, moe, buf[EXP_DUP], moe, 0, moe);
    op->experts_backward(m->b, part, buf[EXP_X], buf[EXP_DGATE_UP],
                         part_weights(m, layer, r, i, 0));
    op->part_add(m->b, part, buf[DX], buf[EXP_X], d, NULL);
}

/* block_y (rows, hidden) from the block's input, which enter_branch left in place. `through`:
   block_dy is known, and each part's share of DX is made while the part is there. */
static int experts_forward(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                           const struct nn_swap *swap, bool through)
{
    const struct backend_ops *op = m->b->ops;
    const struct model_layer *s = &m->shape;
    int in = s->experts_input[EXPERT_GATE_UP], inner = s->experts_input[EXPERT_DOWN];
    const void *n = m->acts.x[in];
    struct nn_routes *r = m->acts.routes;
    if (swap && swap->routes) {
        size_t slots = (size_t)r->rows * (size_t)r->per_token;
        op->upload(m->b, r->sel, swap->routes->sel, slots * sizeof *r->sel);
        op->upload(m->b, r->w, swap->routes->w, slots * sizeof *r->w);
    } else {
        op->linear_forward(m->b, t, m->buf[ROUTER], n, weight(m, layer, ROLE_ROUTER));
        op->route(m->b, t, r->p, r->sel, r->w, m->buf[ROUTER], r->experts, r->per_token,
                  m->arch.norm_topk);
    }
    if (nn_routes_sort(r, t, &m->failed) < 0)
        return -1;
    op->zero(m->b, m->acts.block_y, hidden_bytes(m));
    if (through)
        op->zero(m->b, m->buf[DX], hidden_bytes(m));
    if (m->acts.x[inner])
        op->zero(m->b, m->acts.x[inner],
                 (size_t)m->rows * (size_t)(r->per_token * m->arch.moe_intermediate_size) *
                     m->b->act_size);
    for (int i = 0; i < r->part_count; i++) {
        const struct backend_tile *part = r->parts[i];
        if (!part)
            continue;
        nn_experts_take(m, r, i, n);
        if (swap && swap->experts) {
            if (nn_experts_add(m, layer, r, i, swap->experts, m->acts.block_y, &m->failed) < 0)
                return -1;
            continue;
        }
        part_forward(m, layer, r, i);
        if (m->acts.x[inner])
            op->part_put(m->b, part, m->acts.x[inner], m->buf[EXP_U],
                         m->arch.moe_intermediate_size);
        op->part_add(m->b, part, m->acts.block_y, m->buf[EXP_F], m->arch.hidden_size, r->w);
        if (through)
            part_backward(m, layer, r, i);
    }
    return 0;
}

/* DX, the gradient at the block's input, from block_dy, the one at its output, both (rows, hidden):
   through the experts and the router. `through`: the experts' part is there already. */
static void experts_backward(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                             bool through)
{
    const struct backend_ops *op = m->b->ops;
    const void *n = m->acts.x[m->shape.experts_input[EXPERT_GATE_UP]];
    struct nn_routes *r = m->acts.routes;
    void **buf = m->buf;
    if (!through)
        op->zero(m->b, buf[DX], hidden_bytes(m));
    for (int i = 0; i < r->part_count && !through; i++) {
        if (!r->parts[i])
            continue;
        if (r->part_count > 1) { /* the only one is still there */
            nn_experts_take(m, r, i, n);
            part_forward(m, layer, r, i);
        }
        part_backward(m, layer, r, i);
    }
    op->route_backward(m->b, t, buf[ROUTER], r->p, r->sel, r->w, r->q, r->experts, r->per_token,
                       m->arch.norm_topk);
    op->linear_backward(m->b, t, buf[DX], buf[ROUTER], weight(m, layer, ROLE_ROUTER), 1);
}

/* ---- MLP, the dense one or the experts ---- */

/* The input of down, from MID; with experts the whole block, and where dh, the gradient at the
   layer's output, is not NULL the way back through them too. */
static struct gate_up mlp_inside(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                                 const struct nn_swap *swap, const void *dh)
{
    bool fused = has(&m->shape, ROLE_GATE_UP);
    if (m->shape.experts) {
        int in = m->shape.experts_input[EXPERT_GATE_UP];
        enter_branch(m, layer, t, ROLE_MLP_NORM, m->acts.x[in], m->buf[MID]);
        if (dh)
            reenter_branch(m, layer, t, ROLE_MLP_POST_NORM, m->acts.block_dy, dh, NULL);
        /* m->failed says what went wrong */
        (void)experts_forward(m, layer, t, swap, dh != NULL);
        return (struct gate_up){0};
    }
    enter_branch(m, layer, t, ROLE_MLP_NORM, x_of(m, fused ? ROLE_GATE_UP : ROLE_GATE),
                 m->buf[MID]);
    input_ready(m, fused ? ROLE_GATE_UP : ROLE_GATE, swap);
    if (fused) {
        linear(m, layer, t, ROLE_GATE_UP, swap);
    } else {
        linear(m, layer, t, ROLE_GATE, swap);
        linear(m, layer, t, ROLE_UP, swap);
    }
    struct gate_up in = split_gate_up(m, layer, t);
    m->b->ops->glu_forward(m->b, t, x_of(m, ROLE_DOWN), in.gate, in.up, m->arch.intermediate_size,
                           act_of(m));
    return in;
}

/* h_out (rows, hidden): the layer's output, from MID and the output of the MLP. */
static void layer_output(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                         void *h_out)
{
    leave_branch(m, layer, t, ROLE_MLP_POST_NORM, h_out, m->buf[MID],
                 m->shape.experts ? m->acts.block_y
                                  : with_bias(m, layer, t, ROLE_DOWN, m->buf[DOWN_OUT]));
}

/* dh (rows, hidden): the gradient at the layer's output becomes the one at MID. `through`: the
   experts are passed already. */
static void mlp_backward(struct nn_model *m, int64_t layer, const struct backend_tile *t,
                         const struct gate_up *in, void *dh, bool through)
{
    const struct backend_ops *op = m->b->ops;
    bool fused = has(&m->shape, ROLE_GATE_UP);
    int64_t ff = m->arch.intermediate_size;
    void **buf = m->buf;
    if (m->shape.experts) {
        if (!through)
            reenter_branch(m, layer, t, ROLE_MLP_POST_NORM, m->acts.block_dy, dh, m->acts.block_y);
        experts_backward(m, layer, t, through);
        exit_branch(m, layer, t, ROLE_MLP_NORM, dh, buf[DX], buf[MID]);
        return;
    }
    void *dgate = fused ? buf[DGATE] : dy_of(m, ROLE_GATE);
    void *dup = fused ? buf[DUP] : dy_of(m, ROLE_UP);
    reenter_branch(m, layer, t, ROLE_MLP_POST_NORM, dy_of(m, ROLE_DOWN), dh,
                   with_bias(m, layer, t, ROLE_DOWN, buf[DOWN_OUT]));
    op->linear_backward(m->b, t, buf[DX_DOWN], dy_of(m, ROLE_DOWN), weight(m, layer, ROLE_DOWN), 0);
    op->glu_backward(m->b, t, dgate, dup, buf[DX_DOWN], in->gate, in->up, ff, act_of(m));
    if (fused) {
        void *d = dy_of(m, ROLE_GATE_UP);
        op->cols_copy(m->b, t, d, 2 * ff, 0, dgate, ff, 0, ff);
        op->cols_copy(m->b, t, d, 2 * ff, ff, dup, ff, 0, ff);
        op->linear_backward(m->b, t, buf[DX], d, weight(m, layer, ROLE_GATE_UP), 0);
    } else {
        op->linear_backward(m->b, t, buf[DX], dgate, weight(m, layer, ROLE_GATE), 0);
        op->linear_backward(m->b, t, buf[DX], dup, weight(m, layer, ROLE_UP), 1);
    }
    exit_branch(m, layer, t, ROLE_MLP_NORM, dh, buf[DX], buf[MID]);
}

/* ---- forward ---- */

void nn_embed(struct nn_model *m, const struct backend_tile *t, void *h)
{
    m->b->ops->embed(m->b, t, h, &m->ends[EMBED], (float)m->arch.embed_scale);
}

const struct nn_acts *nn_layer_forward(struct nn_model *m, int64_t layer,
                                       const struct backend_tile *t, const void *h_in, void *h_out,
                                       const struct nn_swap *swap)
{
    enter_layer(m, layer);
    (void)attention_forward(m, layer, t, h_in, swap);
    (void)mlp_inside(m, layer, t, swap, NULL);
    if (!m->shape.experts) {
        input_ready(m, ROLE_DOWN, swap);
        if (h_out)
            linear(m, layer, t, ROLE_DOWN, swap);
    }
    if (h_out)
        layer_output(m, layer, t, h_out);
    return &m->acts;
}

int nn_check(struct nn_model *m, struct aq_err *err)
{
    if (!m->failed.code)
        return 0;
    if (err)
        *err = m->failed;
    m->failed.code = 0;
    return -1;
}

/* ---- head ---- */

/* dh: the gradient at the layer's output. Works in gradients of the layer that come later. */
static void head_backward(struct nn_model *m, const struct backend_tile *t, double *loss, void *dh)
{
    const struct backend_ops *op = m->b->ops;
    void *h = dy_of(m, ROLE_O), *x = m->shape.experts ? m->acts.block_dy : dy_of(m, ROLE_DOWN);
    const struct backend_norm n = norm_of(m, &m->ends[NORM], 1);
    const struct backend_head head = head_of_model(m);
    layer_output(m, m->arch.num_hidden_layers - 1, t, h);
    op->rmsnorm_forward(m->b, t, x, h, &n);
    op->loss(m->b, t, loss, m->buf[DX], x, &head);
    op->zero(m->b, dh, hidden_bytes(m));
    op->rmsnorm_backward(m->b, t, dh, m->buf[DX], h, &n);
}

/* loss: of the last layer, whose dh the head sets; else NULL. */
static const struct nn_acts *backward(struct nn_model *m, int64_t layer,
                                      const struct backend_tile *t, const void *h_in, double *loss,
                                      void *dh, int to_input, const struct nn_acts *into)
{
    enter_layer(m, layer);
    if (into)
        m->acts = *into;
    struct qkv in = attention_forward(m, layer, t, h_in, NULL);
    /* once the gradient is known, each expert's products serve both ways */
    bool through = m->shape.experts && !loss && !has(&m->shape, ROLE_MLP_POST_NORM);
    struct gate_up mlp = mlp_inside(m, layer, t, NULL, through ? dh : NULL);
    if (!m->shape.experts)
        linear(m, layer, t, ROLE_DOWN, NULL);
    if (loss)
        head_backward(m, t, loss, dh);
    mlp_backward(m, layer, t, &mlp, dh, through);
    attention_backward(m, layer, t, h_in, &in, dh, to_input);
    if (into)
        enter_layer(m, layer);
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
           double *const *kl, int count, struct backend_logits *kept)
{
    const struct backend_ops *op = m->b->ops;
    const struct backend_norm n = norm_of(m, &m->ends[NORM], 1);
    const struct backend_head head = head_of_model(m);
    if (!kept || !kept->made)
        op->rmsnorm_forward(m->b, t, m->acts.x[0], h, &n);
    for (int i = 0; i < count; i++)
        op->rmsnorm_forward(m->b, t, hq[i], hq[i], &n);
    op->kl(m->b, t, kl, m->acts.x[0], (const void *const *)hq, count, &head, kept);
}

void nn_head_input(struct nn_model *m, const struct backend_tile *t, void *x, const void *h)
{
    const struct backend_norm n = norm_of(m, &m->ends[NORM], 1);
    m->b->ops->rmsnorm_forward(m->b, t, x, h, &n);
}

void nn_slice_logits(struct nn_model *m, const struct backend_tile *t, int64_t slice, void *z,
                     const void *x)
{
    const struct backend_head head = nn_slice_head(m, slice);
    m->b->ops->logits(m->b, t, z, x, &head);
}

struct backend_head nn_slice_head(struct nn_model *m, int64_t slice)
{
    struct backend_head head = head_of_model(m);
    head.w = &m->slices[slice];
    return head;
}

void nn_logits(struct nn_model *m, const struct backend_tile *t, const void *h, void *logits)
{
    const struct backend_ops *op = m->b->ops;
    const struct backend_norm n = norm_of(m, &m->ends[NORM], 1);
    const struct backend_head head = head_of_model(m);
    op->rmsnorm_forward(m->b, t, m->acts.x[0], h, &n);
    op->logits(m->b, t, logits, m->acts.x[0], &head);
}
