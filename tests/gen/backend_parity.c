/*
 * The CUDA backend against the CPU's, op by op: odd sizes, a pad row, rows without a token, guards
 * around every output; quantizers bit by bit. TAP on stdout; exit status 2 without a GPU.
 */
#include "../unit/tap.h"

#include "backend/backend.h"
#include "base/mem.h"
#include "base/num.h"
#include "eval/compare.h"
#include "quant/quant.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum { CPU, GPU, SIDES };
static struct backend *be[SIDES];
static struct backend_tile *tile[SIDES];
static struct aq_err err;
static uint64_t seed = 1;

static float uniform(void) /* -1 to 1 */
{
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (float)((double)(int64_t)(seed ^ seed >> 29) / 9223372036854775808.0);
}

static void must(int status)
{
    if (status < 0) {
        printf("Bail out! %s\n", err.msg);
        exit(2);
    }
}

/* samples of 5, 1, 37 and 3 rows, the third after a pad row; five rows without a token */
enum { SAMPLES = 4, ROWS = 51, USED = 46, VOCAB = 1103 };
static const int32_t starts[SAMPLES + 1] = {0, 5, 6, 43, USED};
static const uint8_t pads[SAMPLES] = {0, 0, 1, 0};

static int32_t tile_target[ROWS];

static void make_tiles(void)
{
    static int32_t ids[ROWS], pos[ROWS];
    int32_t *target = tile_target;
    for (int r = 0; r < ROWS; r++)
        ids[r] = target[r] = -1;
    for (int s = 0; s < SAMPLES; s++) {
        for (int r = starts[s]; r < starts[s + 1]; r++) {
            ids[r] = (int)(fabsf(uniform()) * VOCAB);
            pos[r] = r - starts[s] - pads[s] > 0 ? r - starts[s] - pads[s] : 0;
            target[r] = r + 1 < starts[s + 1] ? (int)(fabsf(uniform()) * VOCAB) : -1;
        }
    }
    struct backend_tile_desc d = {ROWS, SAMPLES, starts, pads, ids, pos, target};
    for (int i = 0; i < SIDES; i++) {
        tile[i] = be[i]->ops->tile_new(be[i], &d, &err);
        must(tile[i] ? 0 : -1);
    }
}

/* ---- buffers on both sides, with guards ---- */

enum { GUARD = 64, BUFFERS = 8 };
static const float sentinel = 12345.678F;

struct buffer {
    int64_t n;
    float *host;      /* what was put in */
    char *dev[SIDES]; /* with guards */
    void *at[SIDES];
};

static size_t buffer_bytes(int64_t n)
{
    return (size_t)(n + 2 * GUARD) * sizeof(float);
}

/* Rows without a token are zero. bf16: numbers that bf16 holds, as a backend's inputs are. */
static struct buffer buffer_new(int64_t cols, int bf16)
{
    struct buffer b = {.n = ROWS * cols};
    b.host = xmalloc(buffer_bytes(b.n));
    for (int64_t i = 0; i < b.n + 2 * GUARD; i++)
        b.host[i] = sentinel;
    for (int64_t i = 0; i < b.n; i++) {
        float x = i < USED * cols ? uniform() : 0;
        if (bf16) {
            uint32_t u;
            memcpy(&u, &x, 4);
            u &= 0xffff0000;
            memcpy(&x, &u, 4);
        }
        b.host[GUARD + i] = x;
    }
    for (int i = 0; i < SIDES; i++) {
        b.dev[i] = be[i]->ops->alloc(be[i], buffer_bytes(b.n), "a test", &err);
        must(b.dev[i] ? 0 : -1);
        b.at[i] = b.dev[i] + GUARD * sizeof(float);
        be[i]->ops->upload(be[i], b.dev[i], b.host, buffer_bytes(b.n));
    }
    return b;
}

static float *buffer_get(const struct buffer *b, int side)
{
    float *host = xmalloc(buffer_bytes(b->n));
    must(be[side]->ops->download(be[side], host, b->dev[side], buffer_bytes(b->n), &err));
    return host;
}

static void buffer_free(struct buffer *b)
{
    for (int i = 0; i < SIDES; i++)
        be[i]->ops->free(be[i], b->dev[i], buffer_bytes(b->n));
    free(b->host);
}

/* Both sides hold the same to a relative distance (Frobenius), and no guard was touched. */
static void check_buffer(const struct buffer *b, double tolerance, const char *what)
{
    float *host[SIDES] = {buffer_get(b, CPU), buffer_get(b, GPU)};
    double diff = 0, norm = 0;
    int guards = 1;
    for (int i = 0; i < GUARD; i++)
        guards &= host[GPU][i] == sentinel && host[GPU][GUARD + b->n + i] == sentinel;
    for (int64_t i = GUARD; i < GUARD + b->n; i++) {
        double d = (double)host[GPU][i] - host[CPU][i];
        diff += d * d;
        norm += (double)host[CPU][i] * host[CPU][i];
    }
    double far = sqrt(diff / (norm > 0 ? norm : 1));
    tap_ok(far <= tolerance && guards, "%s (%.1e%s)", what, far, guards ? "" : ", a guard changed");
    free(host[CPU]);
    free(host[GPU]);
}

/* ---- weights ---- */

struct pair {
    struct backend_weight w[SIDES];
    void *bytes;
};

static struct pair weight_new(int64_t rows, int64_t cols, enum num_type dtype, float scale)
{
    struct pair p = {.bytes = xmalloc((size_t)(rows * cols) * sizeof(float))};
    for (int64_t i = 0; i < rows * cols; i++) {
        float x = uniform() * scale;
        uint32_t u;
        memcpy(&u, &x, 4);
        if (dtype == NUM_BF16)
            ((uint16_t *)p.bytes)[i] = (uint16_t)(u >> 16);
        else if (dtype == NUM_F16)
            ((uint16_t *)p.bytes)[i] = num_to_fp16(x);
        else
            ((float *)p.bytes)[i] = x;
    }
    for (int i = 0; i < SIDES; i++) {
        p.w[i] = (struct backend_weight){p.bytes, dtype, rows, cols, "w", NULL};
        struct backend_weight *one = &p.w[i];
        must(be[i]->ops->weights_load(be[i], &one, 1, &err));
    }
    return p;
}

static void weight_free(struct pair *p)
{
    for (int i = 0; i < SIDES; i++) {
        struct backend_weight *one = &p->w[i];
        must(be[i]->ops->sync(be[i], &err));
        be[i]->ops->weights_release(be[i], &one, 1);
    }
    free(p->bytes);
}

/* ---- ops of the model ---- */

enum { HEADS = 6, KV = 2, DIM = 10, HIDDEN = 35, INNER = 53, PART = 6 };

struct call {
    const char *name;
    int64_t cols[6]; /* of the buffers; 0: no more */
    int outputs;     /* this many from the first on */
    int64_t w_rows, w_cols;
    double tolerance; /* in fp32 */
    void (*run)(struct backend *b, struct backend_tile *t, struct backend_weight *w, void **p);
};

#define OP(name)                                                                                   \
    static void name(struct backend *b, struct backend_tile *t, struct backend_weight *w, void **p)
static const float inv_freq[DIM / 2] = {1, 0.31F, 0.1F, 0.03F, 0.01F};
static const struct backend_rope whole = {inv_freq, DIM, 1}, part = {inv_freq, PART, 1.19F};

static struct backend_norm norm_of(const struct backend_weight *w, int one_plus)
{
    return (struct backend_norm){w, 1e-6, one_plus, 1};
}

static struct backend_attention attention_of(int heads, float cap, int window)
{
    return (struct backend_attention){.heads = heads,
                                      .kv_heads = KV,
                                      .dim = DIM,
                                      .scale = cap > 0 ? 3 : 0.3F,
                                      .cap = cap,
                                      .window = window};
}

OP(embed)
{
    b->ops->embed(b, t, p[0], w, 1);
}
OP(embed_scaled)
{
    b->ops->embed(b, t, p[0], w, 5.9F);
}
OP(add)
{
    b->ops->add(b, t, p[0], p[1], INNER, 1);
}
OP(add_scaled)
{
    b->ops->add(b, t, p[0], p[1], INNER, 0.22F);
}
OP(scale)
{
    b->ops->scale(b, t, p[0], p[1], INNER, 0.22F);
}
OP(bias)
{
    b->ops->bias_add(b, t, p[0], p[1], w);
}
OP(cols_copy)
{
    b->ops->cols_copy(b, t, p[0], INNER, 7, p[1], HIDDEN, 11, 17);
}
OP(norm)
{
    struct backend_norm n = norm_of(w, 0);
    b->ops->rmsnorm_forward(b, t, p[0], p[1], &n);
}
OP(norm_one_plus)
{
    struct backend_norm n = norm_of(w, 1);
    b->ops->rmsnorm_forward(b, t, p[0], p[1], &n);
}
OP(norm_back)
{
    struct backend_norm n = norm_of(w, 0);
    b->ops->rmsnorm_backward(b, t, p[0], p[1], p[2], &n);
}
OP(norm_one_plus_back)
{
    struct backend_norm n = norm_of(w, 1);
    b->ops->rmsnorm_backward(b, t, p[0], p[1], p[2], &n);
}
OP(rope)
{
    struct backend_norm n = norm_of(w, 0);
    b->ops->norm_rope_forward(b, t, p[0], p[1], HEADS, DIM, &n, &whole);
}
OP(rope_back)
{
    struct backend_norm n = norm_of(w, 0);
    b->ops->norm_rope_backward(b, t, p[0], p[1], p[2], HEADS, DIM, &n, &whole);
}
OP(rope_one_plus)
{
    struct backend_norm n = norm_of(w, 1);
    b->ops->norm_rope_forward(b, t, p[0], p[1], HEADS, DIM, &n, &part);
}
OP(rope_one_plus_back)
{
    struct backend_norm n = norm_of(w, 1);
    b->ops->norm_rope_backward(b, t, p[0], p[1], p[2], HEADS, DIM, &n, &part);
}
OP(rope_alone)
{
    b->ops->norm_rope_forward(b, t, p[0], p[1], HEADS, DIM, NULL, &part);
}
OP(rope_alone_back)
{
    b->ops->norm_rope_backward(b, t, p[0], p[1], NULL, HEADS, DIM, NULL, &part);
}
OP(no_rope)
{
    b->ops->norm_rope_forward(b, t, p[0], p[1], HEADS, DIM, NULL, NULL);
}
OP(no_rope_back)
{
    b->ops->norm_rope_backward(b, t, p[0], p[1], NULL, HEADS, DIM, NULL, NULL);
}
/* Heads that a warp takes whole; more of them than a block has warps. */
enum { WIDE_HEADS = 10 };
static void rope_wide(struct backend *b, struct backend_tile *t, const struct backend_norm *norm,
                      void **p, int dim, bool turned)
{
    static float frequency[128];
    for (int i = 0; i < dim / 2; i++)
        frequency[i] = expf((float)-i / 16);
    const struct backend_rope all = {frequency, dim, 1.19F};
    b->ops->norm_rope_forward(b, t, p[0], p[1], WIDE_HEADS, dim, norm, turned ? &all : NULL);
}
OP(rope_64)
{
    rope_wide(b, t, NULL, p, 64, true);
}
OP(rope_128)
{
    struct backend_norm n = norm_of(w, 0);
    rope_wide(b, t, &n, p, 128, true);
}
OP(norm_128)
{
    struct backend_norm n = norm_of(w, 0);
    rope_wide(b, t, &n, p, 128, false);
}
OP(rope_256)
{
    struct backend_norm n = norm_of(w, 1);
    rope_wide(b, t, &n, p, 256, true);
}
OP(attention)
{
    struct backend_attention a = attention_of(HEADS, 0, 0);
    b->ops->attention_forward(b, t, p[0], p[1], p[2], p[3], &a);
}
OP(attention_capped)
{
    struct backend_attention a = attention_of(HEADS, 1.7F, 0);
    b->ops->attention_forward(b, t, p[0], p[1], p[2], p[3], &a);
}
OP(attention_window)
{
    struct backend_attention a = attention_of(HEADS, 0, 35);
    b->ops->attention_forward(b, t, p[0], p[1], p[2], p[3], &a);
}
OP(attention_narrow)
{
    struct backend_attention a = attention_of(HEADS, 1.7F, 3);
    b->ops->attention_forward(b, t, p[0], p[1], p[2], p[3], &a);
}
OP(attention_back)
{
    struct backend_attention a = attention_of(KV, 0, 0);
    b->ops->attention_backward(b, t, p[0], p[1], p[2], p[3], p[4], p[5], p[5], &a);
}
OP(attention_capped_back)
{
    struct backend_attention a = attention_of(KV, 1.7F, 0);
    b->ops->attention_backward(b, t, p[0], p[1], p[2], p[3], p[4], p[5], p[5], &a);
}
OP(attention_narrow_back)
{
    struct backend_attention a = attention_of(KV, 1.7F, 3);
    b->ops->attention_backward(b, t, p[0], p[1], p[2], p[3], p[4], p[5], p[5], &a);
}
OP(attention_window_back)
{
    struct backend_attention a = attention_of(KV, 0, 35);
    b->ops->attention_backward(b, t, p[0], p[1], p[2], p[3], p[4], p[5], p[5], &a);
}
enum { EVEN = 52 }; /* columns that are read four at a time */
OP(swiglu_even)
{
    b->ops->glu_forward(b, t, p[0], p[1], p[2], EVEN, BACKEND_SILU);
}
OP(geglu_even)
{
    b->ops->glu_forward(b, t, p[0], p[1], p[2], EVEN, BACKEND_GELU_TANH);
}
OP(add_even)
{
    b->ops->add(b, t, p[0], p[1], EVEN, 0.22F);
}
OP(swiglu)
{
    b->ops->glu_forward(b, t, p[0], p[1], p[2], INNER, BACKEND_SILU);
}
OP(swiglu_pair)
{
    b->ops->glu_pair_forward(b, t, p[0], p[1], INNER, BACKEND_SILU);
}
OP(swiglu_back)
{
    b->ops->glu_backward(b, t, p[0], p[1], p[2], p[3], p[4], INNER, BACKEND_SILU);
}
OP(geglu)
{
    b->ops->glu_forward(b, t, p[0], p[1], p[2], INNER, BACKEND_GELU_TANH);
}
OP(geglu_back)
{
    b->ops->glu_backward(b, t, p[0], p[1], p[2], p[3], p[4], INNER, BACKEND_GELU_TANH);
}
OP(linear)
{
    b->ops->linear_forward(b, t, p[0], p[1], w);
}
OP(linear_back)
{
    b->ops->linear_backward(b, t, p[0], p[1], w, 0);
}
OP(linear_add)
{
    b->ops->linear_backward(b, t, p[0], p[1], w, 1);
}

enum { QD = HEADS * DIM, KD = KV * DIM };

static const struct call calls[] = {
    {"embed", {HIDDEN}, 1, VOCAB, HIDDEN, 0, embed},
    {"embed, scaled", {HIDDEN}, 1, VOCAB, HIDDEN, 0, embed_scaled},
    {"add", {INNER, INNER}, 1, 1, 1, 0, add},
    {"add, scaled", {INNER, INNER}, 1, 1, 1, 0, add_scaled},
    {"scale", {INNER, INNER}, 1, 1, 1, 0, scale},
    {"bias", {INNER, INNER}, 1, 1, INNER, 0, bias},
    {"copy of columns", {INNER, HIDDEN}, 1, 1, 1, 0, cols_copy},
    {"rmsnorm", {INNER, INNER}, 1, 1, INNER, 1e-6, norm},
    {"rmsnorm, 1 + w", {INNER, INNER}, 1, 1, INNER, 1e-6, norm_one_plus},
    {"rmsnorm backward", {INNER, INNER, INNER}, 1, 1, INNER, 1e-6, norm_back},
    {"rmsnorm, 1 + w, backward", {INNER, INNER, INNER}, 1, 1, INNER, 1e-6, norm_one_plus_back},
    {"norm and rope", {QD, QD}, 1, 1, DIM, 1e-6, rope},
    {"norm and rope backward", {QD, QD, QD}, 1, 1, DIM, 1e-6, rope_back},
    {"norm, 1 + w, and rope of a part", {QD, QD}, 1, 1, DIM, 1e-6, rope_one_plus},
    {"norm, 1 + w, and rope of a part, backward",
     {QD, QD, QD},
     1,
     1,
     DIM,
     1e-6,
     rope_one_plus_back},
    {"rope alone", {QD, QD}, 1, 1, 1, 1e-6, rope_alone},
    {"rope alone, backward", {QD, QD}, 1, 1, 1, 1e-6, rope_alone_back},
    {"rope of 64", {WIDE_HEADS * 64, WIDE_HEADS * 64}, 1, 1, 1, 1e-6, rope_64},
    {"norm and rope of 128", {WIDE_HEADS * 128, WIDE_HEADS * 128}, 1, 1, 128, 1e-6, rope_128},
    {"norm of 128", {WIDE_HEADS * 128, WIDE_HEADS * 128}, 1, 1, 128, 1e-6, norm_128},
    {"norm, 1 + w, and rope of 256",
     {WIDE_HEADS * 256, WIDE_HEADS * 256},
     1,
     1,
     256,
     1e-6,
     rope_256},
    {"neither norm nor rope", {QD, QD}, 1, 1, 1, 0, no_rope},
    {"neither norm nor rope, backward", {QD, QD}, 1, 1, 1, 0, no_rope_back},
    {"attention", {QD, QD, KD, KD}, 1, 1, 1, 2e-6, attention},
    {"attention, capped", {QD, QD, KD, KD}, 1, 1, 1, 2e-6, attention_capped},
    {"attention in a window", {QD, QD, KD, KD}, 1, 1, 1, 2e-6, attention_window},
    {"attention, capped, in a window of 3", {QD, QD, KD, KD}, 1, 1, 1, 2e-6, attention_narrow},
    {"attention backward", {KD, KD, KD, KD, KD, KD}, 3, 1, 1, 5e-6, attention_back},
    {"attention, capped, backward", {KD, KD, KD, KD, KD, KD}, 3, 1, 1, 5e-6, attention_capped_back},
    {"attention in a window, backward",
     {KD, KD, KD, KD, KD, KD},
     3,
     1,
     1,
     5e-6,
     attention_window_back},
    {"attention, capped, in a window of 3, backward",
     {KD, KD, KD, KD, KD, KD},
     3,
     1,
     1,
     5e-6,
     attention_narrow_back},
    {"swiglu, whole quads", {EVEN, EVEN, EVEN}, 1, 1, 1, 1e-6, swiglu_even},
    {"geglu, whole quads", {EVEN, EVEN, EVEN}, 1, 1, 1, 1e-6, geglu_even},
    {"add, whole quads", {EVEN, EVEN}, 1, 1, 1, 1e-6, add_even},
    {"linear, whole quads", {EVEN, EVEN}, 1, EVEN, EVEN, 1e-6, linear},
    {"swiglu", {INNER, INNER, INNER}, 1, 1, 1, 1e-6, swiglu},
    {"swiglu of a pair", {INNER, 2 * INNER}, 1, 1, 1, 1e-6, swiglu_pair},
    {"swiglu backward", {INNER, INNER, INNER, INNER, INNER}, 2, 1, 1, 1e-6, swiglu_back},
    {"geglu", {INNER, INNER, INNER}, 1, 1, 1, 1e-6, geglu},
    {"geglu backward", {INNER, INNER, INNER, INNER, INNER}, 2, 1, 1, 1e-6, geglu_back},
    {"linear", {INNER, HIDDEN}, 1, INNER, HIDDEN, 1e-6, linear},
    {"linear backward", {HIDDEN, INNER}, 1, INNER, HIDDEN, 1e-6, linear_back},
    {"linear backward, added", {HIDDEN, INNER}, 1, INNER, HIDDEN, 1e-6, linear_add},
};

static void check_call(const struct call *c, int bf16, enum num_type dtype)
{
    static const char *const names[] = {"F32", "BF16", "F16"};
    struct buffer bufs[6];
    struct pair w = weight_new(c->w_rows, c->w_cols, dtype, 1);
    int n = 0;
    for (; n < 6 && c->cols[n]; n++)
        bufs[n] = buffer_new(c->cols[n], bf16);
    for (int i = 0; i < SIDES; i++) {
        void *p[6];
        for (int k = 0; k < n; k++)
            p[k] = bufs[k].at[i];
        c->run(be[i], tile[i], &w.w[i], p);
    }
    for (int k = 0; k < n; k++) {
        char what[96];
        (void)snprintf(what, sizeof what, "%s %s of %s, %s %d", bf16 ? "bf16" : "fp32", c->name,
                       names[dtype], k < c->outputs ? "output" : "input", k);
        /* bf16 rounds the inputs of products once, and weights that are not bf16 */
        check_buffer(&bufs[k], k >= c->outputs ? 0 : bf16 ? 4e-3 : c->tolerance, what);
        buffer_free(&bufs[k]);
    }
    weight_free(&w);
}

/* Doubles in buffers of floats: two a double. */
static void check_head(int bf16, float divisor, float cap)
{
    struct pair w = weight_new(VOCAB, HIDDEN, bf16 ? NUM_BF16 : NUM_F32, 1);
    struct backend_head head[SIDES] = {{&w.w[CPU], divisor, cap}, {&w.w[GPU], divisor, cap}};
    struct buffer z = buffer_new(VOCAB, 0);
    struct buffer h = buffer_new(HIDDEN, bf16), dh = buffer_new(HIDDEN, bf16);
    struct buffer hq = buffer_new(HIDDEN, bf16), sums = buffer_new(4, 0);
    double found[SIDES][2][ROWS];
    for (int i = 0; i < SIDES; i++) {
        be[i]->ops->loss(be[i], tile[i], sums.at[i], dh.at[i], h.at[i], &head[i]);
        be[i]->ops->logits(be[i], tile[i], z.at[i], h.at[i], &head[i]);
        must(be[i]->ops->download(be[i], found[i][0], sums.at[i], SAMPLES * 8, &err));
    }
    double far = 0;
    for (int s = 0; s < SAMPLES; s++)
        far = fmax(far, fabs(found[GPU][0][s] - found[CPU][0][s]) / (1 + found[CPU][0][s]));
    tap_ok(far < 1e-6, "%s loss, / %g, cap %g (%.1e)", bf16 ? "bf16" : "fp32", divisor, cap, far);
    check_buffer(&dh, bf16 ? 4e-3 : 1e-6, "gradient of the loss");
    check_buffer(&z, 1e-6, "logits");
    for (int i = 0; i < SIDES; i++) {
        double *kl[2] = {sums.at[i], (double *)sums.at[i] + ROWS};
        const void *changed[2] = {hq.at[i], h.at[i]};
        be[i]->ops->kl(be[i], tile[i], kl, h.at[i], changed, 2, &head[i], NULL);
        must(be[i]->ops->download(be[i], found[i], sums.at[i], sizeof found[i], &err));
        struct backend_logits kept = {.z = z.at[i]};
        double again[2][2][ROWS];
        for (int turn = 0; turn < 2; turn++) {
            be[i]->ops->kl(be[i], tile[i], kl, turn ? NULL : h.at[i], changed, 2, &head[i], &kept);
            must(be[i]->ops->download(be[i], again[turn], sums.at[i], sizeof again[turn], &err));
        }
        tap_ok(same_bits(again[0], found[i], sizeof found[i]) &&
                   same_bits(again[1], found[i], sizeof found[i]),
               "KL from kept logits has the same bits");
    }
    int zero = 1;
    far = 0;
    for (int r = 0; r < ROWS; r++) {
        far = fmax(far, fabs(found[GPU][0][r] - found[CPU][0][r]) / (1e-3 + found[CPU][0][r]));
        zero &= found[GPU][1][r] == 0;
    }
    tap_ok(far < 1e-4 && zero, "%s KL (%.1e)", bf16 ? "bf16" : "fp32", far);
    buffer_free(&z);
    buffer_free(&h);
    buffer_free(&dh);
    buffer_free(&hq);
    buffer_free(&sums);
    weight_free(&w);
}

/* ---- attention over longer samples, whose rows share keys ---- */

enum { LONG_SAMPLES = 3, LONG_ROWS = 300, SHORT = 40, LONG_SECOND = 138 };
enum { LONG_HEADS = 4, LONG_KV = 2 };

/* `to` [side] = outputs (rows, heads x dim) of the first samples */
static void attend(float *const *to, int samples, const float *const *in,
                   const struct backend_attention *a)
{
    static const int32_t first[] = {0, SHORT, LONG_SECOND, 288};
    static const uint8_t pad[] = {0, 1, 0};
    static int32_t ids[LONG_ROWS];
    int32_t rows = samples == LONG_SAMPLES ? LONG_ROWS : first[samples];
    const struct backend_tile_desc d = {rows, samples, first, pad, ids, ids, ids};
    const int64_t q = (int64_t)rows * a->heads * a->dim, k = (int64_t)rows * a->kv_heads * a->dim;
    const size_t bytes[] = {(size_t)q * 4, (size_t)q * 4, (size_t)k * 4, (size_t)k * 4};
    for (int i = 0; i < SIDES; i++) {
        struct backend_tile *t = be[i]->ops->tile_new(be[i], &d, &err);
        void *room[4];
        must(t ? 0 : -1);
        for (int n = 0; n < 4; n++) {
            room[n] = be[i]->ops->alloc(be[i], bytes[n], "a test", &err);
            must(room[n] ? 0 : -1);
            be[i]->ops->upload(be[i], room[n], in[n], bytes[n]);
        }
        be[i]->ops->attention_forward(be[i], t, room[0], room[1], room[2], room[3], a);
        must(be[i]->ops->download(be[i], to[i], room[0], bytes[0], &err));
        for (int n = 0; n < 4; n++)
            be[i]->ops->free(be[i], room[n], bytes[n]);
        be[i]->ops->tile_free(be[i], t);
    }
}

/*
 * Against the CPU, in bf16 against its numbers rounded: two bf16 terms for each of q, k, v and the
 * probabilities leave 5e-6 of a number (numpy, float64 beside them), which moves one in 200 to the
 * next bf16 number, 2.5e-4 in all; one term would be 3e-3. And samples have the same bits beside
 * longer ones as without them.
 */
static void check_long_attention(int bf16)
{
    static const struct {
        int dim, window;
        float cap;
    } cases[] = {{64, 0, 0},  {128, 0, 0}, {256, 0, 0}, {128, 50, 1.7F},
                 {64, 20, 0}, {96, 0, 0},  {80, 0, 0}};
    for (size_t c = 0; c < AQ_COUNT(cases); c++) {
        const struct backend_attention a = {.heads = LONG_HEADS,
                                            .kv_heads = LONG_KV,
                                            .dim = cases[c].dim,
                                            .scale = 0.3F,
                                            .cap = cases[c].cap,
                                            .window = cases[c].window};
        int64_t n = (int64_t)LONG_ROWS * a.heads * a.dim;
        float *in[4], *all[SIDES], *alone[SIDES];
        for (int k = 0; k < 4; k++) {
            in[k] = xmalloc((size_t)n * sizeof(float));
            for (int64_t i = 0; i < n; i++)
                in[k][i] = k == 0 ? sentinel : uniform();
        }
        for (int i = 0; i < SIDES; i++) {
            all[i] = xmalloc((size_t)n * sizeof(float));
            alone[i] = xmalloc((size_t)n * sizeof(float));
        }
        attend(all, LONG_SAMPLES, (const float *const *)in, &a);
        double diff = 0, norm = 0;
        for (int64_t i = 0; i < n; i++) {
            double want = bf16 ? num_from_bf16(num_to_bf16(all[CPU][i])) : all[CPU][i];
            diff += (all[GPU][i] - want) * (all[GPU][i] - want);
            norm += want * want;
        }
        tap_ok(sqrt(diff / norm) <= (bf16 ? 5e-4 : 2e-6),
               "%s attention over long samples, %d columns, window %d, cap %g (%.1e)",
               bf16 ? "bf16" : "fp32", a.dim, a.window, (double)a.cap, sqrt(diff / norm));
        for (int samples = 1; samples < LONG_SAMPLES; samples++) {
            attend(alone, samples, (const float *const *)in, &a);
            size_t rows = (size_t)(samples == 1 ? SHORT : LONG_SECOND);
            tap_ok(
                same_bits(all[GPU], alone[GPU], rows * (size_t)(a.heads * a.dim) * sizeof(float)),
                "%d shorter beside them have the bits that they have without", samples);
        }
        for (int k = 0; k < 4; k++)
            free(in[k]);
        for (int i = 0; i < SIDES; i++) {
            free(all[i]);
            free(alone[i]);
        }
    }
}

/* The same rows in the same order in double: the same bits. */
static void check_magnitudes(void)
{
    enum { COLS = 131 };
    struct buffer x = buffer_new(COLS, 0);
    double *found[SIDES];
    for (int i = 0; i < SIDES; i++) {
        size_t bytes = COLS * sizeof(double);
        double *sums = be[i]->ops->alloc(be[i], bytes, "sums", &err);
        found[i] = xcalloc(COLS, sizeof(double));
        must(sums ? 0 : -1);
        be[i]->ops->zero(be[i], sums, bytes);
        be[i]->ops->magnitudes(be[i], tile[i], x.at[i], COLS, 0, 2, sums);
        be[i]->ops->magnitudes(be[i], tile[i], x.at[i], COLS, 2, SAMPLES, sums);
        must(be[i]->ops->download(be[i], found[i], sums, bytes, &err));
        be[i]->ops->free(be[i], sums, bytes);
    }
    tap_ok(found[CPU][0] > 1 && same_bits(found[CPU], found[GPU], COLS * sizeof(double)),
           "sums of magnitudes");
    free(found[CPU]);
    free(found[GPU]);
    buffer_free(&x);
}

/* Two slices, the second with the sides in turn; and logits against themselves. */
static void check_compare(void)
{
    enum { PAIRS = 2 };
    struct buffer z = buffer_new(VOCAB, 0), zq = buffer_new(VOCAB, 0);
    struct buffer sides = buffer_new(2 * PAIRS * (int64_t)sizeof(struct backend_side) / 4, 0);
    static struct backend_side found[SIDES][PAIRS][ROWS][2];
    for (int i = 0; i < SIDES; i++) {
        for (int k = 0; k < PAIRS; k++) {
            struct backend_side *to = (struct backend_side *)sides.at[i] + (size_t)k * 2 * ROWS;
            const void *other = k ? z.at[i] : zq.at[i];
            be[i]->ops->compare(be[i], tile[i], to, z.at[i], other, 0, VOCAB);
            be[i]->ops->compare(be[i], tile[i], to, other, z.at[i], VOCAB, VOCAB);
        }
        must(be[i]->ops->download(be[i], found[i], sides.at[i], sizeof found[i], &err));
    }
    double far = 0;
    int same = 1, zero = 1;
    for (int r = 0; r < ROWS; r++) {
        if (tile_target[r] < 0)
            continue;
        struct backend_side(*gpu)[ROWS][2] = found[GPU], *cpu = found[CPU][0][r];
        const struct comparison x = compare_sides(&gpu[0][r][0], &gpu[0][r][1]),
                                y = compare_sides(&cpu[0], &cpu[1]),
                                self = compare_sides(&gpu[1][r][0], &gpu[1][r][1]);
        far = fmax(far, fabs(x.kl - y.kl) + fabs(x.rkl - y.rkl) + fabs(x.nll - y.nll) +
                            fabs(x.nll_reference - y.nll_reference));
        same &= x.same_top == y.same_top;
        zero &= self.kl == 0 && self.rkl == 0 && self.nll == self.nll_reference && self.same_top;
    }
    tap_ok(far < 1e-12 && same && zero, "logits compared (%.1e)", far);
    buffer_free(&z);
    buffer_free(&zq);
    buffer_free(&sides);
}

/* ---- quantizers ---- */

static struct quant_spec spec_of(const char *text)
{
    struct quant_spec s = {0};
    if (strcmp(text, "none") != 0)
        must(quant_parse(text, &s, &err));
    return s;
}

/*
 * What one element of a product of unit vectors shows of a weight: its dequantized value, or its
 * code times the scale's multiplier where the scale goes to the result.
 */
static void expected_weight(const struct quant_spec *spec, const struct quant_matrix *m,
                            enum quant_rounding rounding, int codes, float *to)
{
    struct quant_plan *p;
    must(quant_plan_weight(&p, spec, m, rounding, &err));
    struct quant_code_form form = {0};
    quant_apply(p, m, 0, m->rows, to, NUM_F32, NULL);
    if (codes && quant_code_form(p, &form, &err) == 0 && form.scale_cols == 1 && form.divide) {
        float *scale = xmalloc((size_t)m->rows * sizeof *scale);
        uint16_t *code = xmalloc((size_t)(m->rows * m->cols) * sizeof *code);
        quant_apply_codes(p, m, 0, m->rows, code, QUANT_CODE_BF16, scale, NULL);
        for (int64_t i = 0; i < m->rows * m->cols; i++) {
            uint32_t u = (uint32_t)code[i] << 16;
            float q;
            memcpy(&q, &u, 4);
            to[i] = q * (1 / scale[i / m->cols]);
        }
        free(scale);
        free(code);
    }
    quant_plan_free(p);
}

/* x = unit vectors, so that y (rows, out) holds columns of the quantized weight. */
/* A weight as a backend computes with it: as it is, or rounded to bf16. */
static void loaded_weight(const struct pair *w, enum num_type dtype, int bf16,
                          struct quant_matrix *m)
{
    if (dtype == NUM_BF16 || !bf16)
        return;
    uint16_t *rounded = xmalloc((size_t)(m->rows * m->cols) * sizeof *rounded);
    for (int64_t i = 0; i < m->rows * m->cols; i++)
        rounded[i] = num_to_bf16(dtype == NUM_F16 ? num_from_fp16(((uint16_t *)w->bytes)[i])
                                                  : ((float *)w->bytes)[i]);
    memcpy(w->bytes, rounded, (size_t)(m->rows * m->cols) * sizeof *rounded);
    m->dtype = NUM_BF16;
    free(rounded);
}

/*
 * NVFP4 in bf16: code x e4m3 scale is exact and the second level multiplies the result, where the
 * CPU rounds the block's scale and then the element. Three roundings of 2^-24 lie between the two.
 */
static float nvfp4_slack(const char *text, int bf16, int rounding)
{
    return bf16 && !rounding && strstr(text, ":nvfp4") ? 0x1p-22F : 0;
}

static int weight_differs(const char *text, enum num_type dtype, int bf16, int rounding)
{
    enum { OUT = 45, IN = 144 }; /* rows are longer than a block of threads */
    struct quant_spec spec = spec_of(text), none = {0};
    struct pair w = weight_new(OUT, IN, dtype, 0.07F);
    struct buffer x = buffer_new(IN, 0), y = buffer_new(OUT, 0);
    struct backend *b = be[GPU];
    memset(x.host + GUARD, 0, (size_t)x.n * sizeof(float));
    for (int r = 0; r < USED; r++)
        x.host[GUARD + r * IN + r] = 1;
    b->ops->upload(b, x.at[GPU], x.host + GUARD, (size_t)x.n * sizeof(float));
    struct backend_operand *wo = b->ops->operand_new(b, OUT, IN, 1, &err);
    struct backend_operand *xo = b->ops->operand_new(b, ROWS, IN, 0, &err);
    b->ops->quantize_weight(b, wo, &w.w[GPU], &spec);
    b->ops->quantize_act(b, xo, tile[GPU], x.at[GPU], IN, &none, NULL, NULL);
    b->ops->linear_quantized(b, tile[GPU], y.at[GPU], xo, wo);
    float *found = buffer_get(&y, GPU), *expected = xmalloc(OUT * IN * sizeof *expected);
    static const enum num_type types[] = {NUM_F32, NUM_BF16, NUM_F16};
    struct quant_matrix m = {w.bytes, types[dtype], OUT, IN, "w"};
    loaded_weight(&w, dtype, bf16, &m);
    bool codes = bf16 && !rounding && spec.methods.choice == QUANT_NEAREST;
    expected_weight(&spec, &m, rounding ? QUANT_TO_BF16 : QUANT_UNROUNDED, codes, expected);
    int differ = 0;
    float slack = nvfp4_slack(text, bf16, rounding);
    for (int r = 0; r < USED; r++)
        for (int o = 0; o < OUT; o++) {
            float a = expected[o * IN + r];
            differ += !(fabsf(found[GUARD + r * OUT + o] - a) <= slack * fabsf(a));
        }
    b->ops->operand_free(b, wo);
    b->ops->operand_free(b, xo);
    free(found);
    free(expected);
    buffer_free(&x);
    buffer_free(&y);
    weight_free(&w);
    return differ;
}

/* w = unit vectors: y holds the quantized input. Both sides make the same codes and scales, which
   the same multipliers scale. Also the counts of clipped elements. */
static int act_differs(const char *text, int bf16, int rounding, int *clips)
{
    enum { N = 64 };
    struct quant_spec spec = spec_of(text), none = {0};
    struct pair w = weight_new(N, N, NUM_F32, 0);
    struct buffer x = buffer_new(N, bf16), y = buffer_new(N, 0), clip = buffer_new(2, 0);
    float hidden[N], *found[SIDES];
    double counts[SIDES][SAMPLES];
    for (int i = 0; i < N; i++) {
        ((float *)w.bytes)[i * N + i] = 1;
        hidden[i] = 0.1F + fabsf(uniform());
    }
    struct quant_range range = {0.7F, hidden};
    bool is_static = spec.steps && !spec.step[0].dynamic;
    for (int i = 0; i < SIDES; i++) {
        struct backend *b = be[i];
        struct backend_weight unit = {w.bytes, NUM_F32, N, N, "unit", NULL}, *one = &unit;
        must(b->ops->weights_load(b, &one, 1, &err));
        struct backend_operand *wo = b->ops->operand_new(b, N, N, 1, &err);
        struct backend_operand *xo = b->ops->operand_new(b, ROWS, N, 0, &err);
        b->ops->zero(b, clip.at[i], SAMPLES * sizeof(double));
        b->ops->quantize_weight(b, wo, &unit, &none);
        b->ops->quantize_act(b, xo, tile[i], x.at[i], N, &spec, is_static ? &range : NULL,
                             clip.at[i]);
        b->ops->linear_quantized(b, tile[i], y.at[i], xo, wo);
        must(b->ops->download(b, counts[i], clip.at[i], sizeof counts[i], &err));
        found[i] = buffer_get(&y, i);
        b->ops->operand_free(b, wo);
        b->ops->operand_free(b, xo);
        b->ops->weights_release(b, &one, 1);
    }
    int differ = 0;
    /* a scale that goes to the result is multiplied with, where the CPU divides each element */
    bool result = bf16 && (strstr(text, ":tensor") || strstr(text, ":token"));
    float slack =
        result && strncmp(text, "int", 3) == 0 ? 0x1p-22F : nvfp4_slack(text, bf16, rounding);
    for (int64_t i = 0; i < y.n; i++) {
        float a = found[CPU][GUARD + i], b = found[GPU][GUARD + i];
        differ += !(fabsf(a - b) <= slack * fabsf(a));
    }
    *clips = 1;
    for (int i = 0; i < SAMPLES; i++)
        *clips &= counts[CPU][i] == counts[GPU][i];
    free(found[CPU]);
    free(found[GPU]);
    buffer_free(&x);
    buffer_free(&y);
    buffer_free(&clip);
    weight_free(&w);
    return differ;
}

static const char *const weight_treatments[] = {
    "int8:tensor:static",
    "int8:axis0:static",
    "int8:axis1:static",
    "int4:block(-1:16):static",
    "int4:block(-1:13):static",
    "int8:block(-1:16,-2:7):static",
    "e4m3:tensor:static",
    "e4m3:axis0:static",
    "e4m3:axis1:static",
    "e4m3:block(-1:16):static",
    "e4m3:block(-1:24,-2:20):static",
    "int4:axis0:static",
    "int2:tensor:static",
    "int6:axis0:static",
    "e2m1:nvfp4(16):dynamic",
    "e2m1:nvfp4(16):static",
    "e2m1:nvfp4(24):dynamic",
    "e2m1:mx(32):dynamic",
    "e4m3:mx(32):dynamic",
    "e5m2:mx(16):dynamic",
    "e3m2:mx(32):dynamic",
    "e2m3:mx(32):dynamic",
    "int8:mx(32):dynamic",
    "int4:block(-1:16):static+e4m3:tensor:static",
    "sweep/e2m1:nvfp4(16):dynamic",
    "sweep/e2m1:nvfp4(20):dynamic",
    "4o6/e2m1:nvfp4(16):dynamic",
    "mse{aq}/int8:tensor:static",
    "mse{modelopt}/e4m3:tensor:static",
    "mse{aq}/int8:axis0:static",
    "mse{modelopt}/int8:axis1:static",
    "mse{aq}/int4:block(-1:16):static",
    "mse{modelopt}/int4:block(-1:13):static",
    "mse{aq}/e4m3:block(-1:24,-2:20):static",
    "mse{aq}/int8:block(-1:200,-2:7):static",
};
static const char *const act_treatments[] = {
    "none",
    "int8:tensor:static",
    "int4:tensor:static",
    "e4m3:tensor:static",
    "int8:tensor:dynamic",
    "e4m3:tensor:dynamic",
    "int8:token:dynamic",
    "int4:token:dynamic",
    "e4m3:token:dynamic",
    "int8:axis-1:static",
    "e4m3:axis-1:static",
    "e2m1:nvfp4(16):dynamic",
    "e2m1:nvfp4(16):static",
    "e4m3:mx(32):dynamic",
    "e2m1:mx(32):dynamic",
    "int8:mx(32):dynamic",
    "int8:block(-1:32):dynamic",
    "e4m3:block(-1:32):dynamic",
};

static void check_quantizers(int bf16, int rounding)
{
    const char *mode = rounding ? "bf16, rounded" : bf16 ? "bf16" : "fp32";
    for (size_t i = 0; i < AQ_COUNT(weight_treatments); i++) {
        int differ = weight_differs(weight_treatments[i], NUM_BF16, bf16, rounding);
        int wide = weight_differs(weight_treatments[i], NUM_F32, bf16, rounding);
        int half = weight_differs(weight_treatments[i], NUM_F16, bf16, rounding);
        tap_ok(differ == 0 && wide == 0 && half == 0,
               "%s weight %s: %d (BF16), %d (F32) and %d (F16) elements differ", mode,
               weight_treatments[i], differ, wide, half);
    }
    for (size_t i = 0; i < AQ_COUNT(act_treatments); i++) {
        int clips, differ = act_differs(act_treatments[i], bf16, rounding, &clips);
        tap_ok(differ == 0 && clips, "%s activation %s: %d elements differ%s", mode,
               act_treatments[i], differ, clips ? "" : ", and counts of clipped ones");
    }
}

/* ---- products of operands with a scale for each block of columns ---- */

/* The rows of the tile as those of the second of three experts: the bits of the product as it is.
 */
static int differs_of_expert(struct backend *b, const struct buffer *x,
                             const struct backend_operand *w, const struct quant_spec *as,
                             const struct quant_range *range, const float *y, int out, int in)
{
    const struct backend_operand *experts[] = {w, w, w};
    int32_t slots[USED], ends[] = {0, USED, USED};
    size_t room = 2 * (size_t)ROWS + (size_t)b->expert_rows, differ = 0;
    for (int32_t i = 0; i < USED; i++)
        slots[i] = i;
    struct backend_tile *rows = b->ops->tile_part(b, tile[GPU], slots, ends, 3, 1, &err);
    must(rows ? 0 : -1);
    float *px = b->ops->alloc(b, room * (size_t)in * sizeof *px, "x", &err);
    float *py = b->ops->alloc(b, room * (size_t)out * sizeof *py, "y", &err);
    struct backend_operand *xo = b->ops->operand_new(b, ROWS, in, 0, &err);
    b->ops->part_take(b, rows, px, x->at[GPU], in, NULL);
    b->ops->quantize_act(b, xo, rows, px, in, as, range, NULL);
    b->ops->experts_quantized(b, rows, py, xo, experts);
    float *found = xmalloc((size_t)USED * (size_t)out * sizeof *found);
    must(b->ops->download(b, found, py, (size_t)USED * (size_t)out * sizeof *found, &err));
    for (size_t i = 0; i < (size_t)USED * (size_t)out; i++)
        differ += found[i] != y[i];
    free(found);
    b->ops->operand_free(b, xo);
    b->ops->free(b, px, room * (size_t)in * sizeof *px);
    b->ops->free(b, py, room * (size_t)out * sizeof *py);
    b->ops->tile_free(b, rows);
    return (int)differ;
}

/*
 * Shapes that fill no block of results, with blocks that K ends within. Codes and scales are the
 * same on both sides, which round where they multiply by a scale: the GPU a sum at the end of each
 * block, the CPU each element. That is 2^-24 of the terms for each of six blocks, and the sums in
 * fp32; 3e-6 of the largest result allows it a few times. A scale that is missing or another
 * block's is 1e-2.
 */
static void check_blocks(const char *wt, const char *at)
{
    enum { OUT = 301, IN = 328 };
    struct quant_spec ws = spec_of(wt), as = spec_of(at);
    struct pair w = weight_new(OUT, IN, NUM_BF16, 0.1F);
    struct buffer x = buffer_new(IN, 1), y = buffer_new(OUT, 0);
    float hidden[IN], *found[SIDES];
    int differ = 0;
    for (int i = 0; i < IN; i++)
        hidden[i] = 0.1F + fabsf(uniform());
    struct quant_range range = {0.9F, hidden, NULL};
    for (int i = 0; i < SIDES; i++) {
        struct backend *b = be[i];
        struct backend_operand *wo = b->ops->operand_new(b, OUT, IN, 1, &err);
        struct backend_operand *xo = b->ops->operand_new(b, ROWS, IN, 0, &err);
        b->ops->quantize_weight(b, wo, &w.w[i], &ws);
        b->ops->quantize_act(b, xo, tile[i], x.at[i], IN, &as, &range, NULL);
        b->ops->linear_quantized(b, tile[i], y.at[i], xo, wo);
        found[i] = buffer_get(&y, i);
        if (i == GPU)
            differ = differs_of_expert(b, &x, wo, &as, &range, found[i] + GUARD, OUT, IN);
        b->ops->operand_free(b, wo);
        b->ops->operand_free(b, xo);
    }
    double far = 0, most = 0;
    for (int64_t k = GUARD; k < GUARD + (int64_t)USED * OUT; k++) {
        double d = fabs((double)found[GPU][k] - found[CPU][k]);
        far = d <= far ? far : d; /* NaN is far */
        most = fmax(most, fabs((double)found[CPU][k]));
    }
    tap_ok(most > 0 && far <= 3e-6 * most, "product of %s, %s (%.1e)", wt, at, far / most);
    tap_ok(differ == 0, "the same bits where the weight is an expert's: %d differ", differ);
    free(found[CPU]);
    free(found[GPU]);
    buffer_free(&x);
    buffer_free(&y);
    weight_free(&w);
}

static void check_all_blocks(void)
{
    check_blocks("int4:block(-1:64):static", "none");
    check_blocks("int4:block(-1:128):static", "int8:token:dynamic");
    check_blocks("e4m3:block(-1:128,-2:128):static", "e4m3:block(-1:128):dynamic");
    check_blocks("e4m3:block(-1:64,-2:100):static", "e4m3:block(-1:128):dynamic");
    check_blocks("int4:block(-1:128):static+e4m3:tensor:static", "e4m3:block(-1:64):dynamic");
    check_blocks("int4:block(-1:128):static", "int8:axis-1:static");
    check_blocks("int8:axis1:static", "e4m3:block(-1:128):dynamic");
    check_blocks("int8:axis0:static", "e4m3:block(-1:64):dynamic");
    check_blocks("int4:block(-1:48):static", "none"); /* terms: not a multiple of 64 */
}

/* ---- scores: several tiles in one call ---- */

static void check_score(const char *wt, const char *at, int bf16)
{
    enum { OUT = 77, IN = 96, TILES = 3 };
    struct quant_spec ws = spec_of(wt), as = spec_of(at);
    struct pair w = weight_new(OUT, IN, NUM_BF16, 0.1F);
    struct buffer x[TILES], y[TILES], dy[TILES], sums = buffer_new(8, 0), dots = buffer_new(8, 0);
    /* of each tile: sums, what the first rows add, the dot form */
    double found[SIDES][3][TILES * SAMPLES];
    for (int k = 0; k < TILES; k++) {
        x[k] = buffer_new(IN, bf16);
        y[k] = buffer_new(OUT, 0);
        dy[k] = buffer_new(OUT, 0);
    }
    for (int i = 0; i < SIDES; i++) {
        struct backend *b = be[i];
        struct backend_score_job jobs[TILES];
        struct backend_operand *wo = b->ops->operand_new(b, OUT, IN, 1, &err), *xo[TILES];
        struct quant_range range = {0.9F, NULL};
        b->ops->quantize_weight(b, wo, &w.w[i], &ws);
        b->ops->zero(b, sums.at[i], sizeof found[i]);
        for (int k = 0; k < TILES; k++) {
            xo[k] = b->ops->operand_new(b, ROWS, IN, 0, &err);
            b->ops->linear_forward(b, tile[i], y[k].at[i], x[k].at[i], &w.w[i]);
            b->ops->quantize_act(b, xo[k], tile[i], x[k].at[i], IN, &as, &range, NULL);
            double *to = (double *)sums.at[i] + k * SAMPLES;
            jobs[k] = (struct backend_score_job){tile[i],
                                                 xo[k],
                                                 y[k].at[i],
                                                 dy[k].at[i],
                                                 to,
                                                 to + TILES * SAMPLES,
                                                 (double *)dots.at[i] + (size_t)k * ROWS};
        }
        b->ops->zero(b, dots.at[i], (size_t)TILES * ROWS * sizeof(double));
        b->ops->score(b, wo, jobs, TILES);
        b->ops->dots_end(b, tile[i], dots.at[i], (double *)sums.at[i] + 2 * TILES * SAMPLES,
                         SAMPLES, TILES);
        double left[TILES * ROWS], sum = 0;
        must(b->ops->download(b, left, dots.at[i], sizeof left, &err));
        for (int r = 0; r < TILES * ROWS; r++)
            sum += fabs(left[r]);
        tap_ok(sum == 0, "%s: dots are zero afterwards", i == CPU ? "cpu" : "cuda");
        must(b->ops->download(b, found[i], sums.at[i], sizeof found[i], &err));
        b->ops->operand_free(b, wo);
        for (int k = 0; k < TILES; k++)
            b->ops->operand_free(b, xo[k]);
    }
    static const char *const parts[] = {"score", "first rows", "dot form"};
    for (int k = 0; k < 3; k++) {
        double far = 0, *a = found[CPU][k], *b = found[GPU][k];
        for (int s = 0; s < TILES * SAMPLES; s++)
            far = fmax(far, fabs(b[s] / a[s] - 1));
        /* terms of a dot cancel, so that rounding weighs more */
        tap_ok(far < (k == 2 ? 2e-3 : 2e-4), "%s %s %s, %s (%.1e)", bf16 ? "bf16" : "fp32",
               parts[k], wt, at, far);
    }
    for (int k = 0; k < TILES; k++) {
        buffer_free(&x[k]);
        buffer_free(&y[k]);
        buffer_free(&dy[k]);
    }
    buffer_free(&sums);
    buffer_free(&dots);
    weight_free(&w);
}

/* ---- quantized inputs that are kept: the same bits, and none of numbers that are there no more
 * ---- */

static const char *const kept_acts[] = {"e4m3:tensor:static", "int8:tensor:static",
                                        "int8:token:dynamic", "int8:axis-1:static", "none"};
enum { KEPT = AQ_COUNT(kept_acts), KEPT_IN = 96, KEPT_OUT = 77 };

struct kept_case {
    struct pair w;
    struct buffer x, y, dy, sums;
};

/* Scores and counts of clipped elements of all these inputs under one weight treatment. */
struct kept_found {
    double scores[KEPT][SAMPLES], clipped[KEPT][SAMPLES];
};

static struct kept_found score_inputs(const struct kept_case *k, const char *wt, float amax)
{
    struct backend *b = be[GPU];
    struct quant_spec ws = spec_of(wt);
    struct backend_operand *wo = b->ops->operand_new(b, KEPT_OUT, KEPT_IN, 1, &err), *xo[KEPT];
    struct backend_score_job jobs[KEPT];
    struct kept_found found;
    float hidden[KEPT_IN];
    double *sums = k->sums.at[GPU], *clipped = sums + KEPT * SAMPLES;
    for (int i = 0; i < KEPT_IN; i++)
        hidden[i] = amax * (float)(1 + i % 3) / 3;
    struct quant_range range = {amax, hidden};
    b->ops->zero(b, sums, sizeof found);
    b->ops->quantize_weight(b, wo, &k->w.w[GPU], &ws);
    for (int i = 0; i < (int)KEPT; i++) {
        struct quant_spec as = spec_of(kept_acts[i]);
        bool is_static = as.steps && !as.step[0].dynamic;
        xo[i] = b->ops->operand_new(b, ROWS, KEPT_IN, 0, &err);
        b->ops->quantize_act(b, xo[i], tile[GPU], k->x.at[GPU], KEPT_IN, &as,
                             is_static ? &range : NULL, is_static ? clipped + i * SAMPLES : NULL);
        jobs[i] = (struct backend_score_job){.tile = tile[GPU],
                                             .x = xo[i],
                                             .y = k->y.at[GPU],
                                             .dy = k->dy.at[GPU],
                                             .sums = sums + i * SAMPLES};
    }
    b->ops->score(b, wo, jobs, KEPT);
    must(b->ops->download(b, &found, sums, sizeof found, &err));
    b->ops->operand_free(b, wo);
    for (int i = 0; i < (int)KEPT; i++)
        b->ops->operand_free(b, xo[i]);
    return found;
}

static bool same_found(const struct kept_found *a, const struct kept_found *b)
{
    return same_bits(a->scores[0], b->scores[0], sizeof a->scores) &&
           same_bits(a->clipped[0], b->clipped[0], sizeof a->clipped);
}

static void check_kept(int bf16)
{
    static const struct {
        const char *w;
        float amax;
    } turns[] = {{"int8:axis0:static", 0.9F},
                 {"int4:tensor:static", 0.9F},
                 {"int4:tensor:static", 0.5F},
                 {"int8:axis0:static", 0.9F}};
    enum { TURNS = AQ_COUNT(turns) };
    static const uint64_t rooms[] = {0, 1 << 20, 40000};
    const char *type = bf16 ? "bf16" : "fp32";
    struct backend *b = be[GPU];
    struct kept_case k = {weight_new(KEPT_OUT, KEPT_IN, NUM_BF16, 0.1F), buffer_new(KEPT_IN, bf16),
                          buffer_new(KEPT_OUT, 0), buffer_new(KEPT_OUT, 0), buffer_new(8, 0)};
    struct buffer other = buffer_new(KEPT_IN, bf16);
    struct kept_found first[TURNS], now;
    size_t bytes = (size_t)k.x.n * sizeof(float);
    b->ops->linear_forward(b, tile[GPU], k.y.at[GPU], k.x.at[GPU], &k.w.w[GPU]);
    for (size_t r = 0; r < AQ_COUNT(rooms); r++) {
        bool same = true;
        b->ops->inputs_keep(b, rooms[r]);
        for (size_t i = 0; i < TURNS; i++) {
            now = score_inputs(&k, turns[i].w, turns[i].amax);
            if (r == 0)
                first[i] = now;
            same &= same_found(&now, &first[i]);
        }
        tap_ok(same && now.clipped[0][0] > 0, "%s: the same bits where inputs are kept in %d bytes",
               type, (int)rooms[r]);
    }
    b->ops->inputs_keep(b, 1 << 20);
    (void)score_inputs(&k, turns[0].w, turns[0].amax);
    b->ops->copy(b, k.x.at[GPU], other.at[GPU], bytes);
    now = score_inputs(&k, turns[0].w, turns[0].amax);
    tap_ok(same_found(&now, &first[0]), "%s: kept inputs are not quantized again", type);
    b->ops->inputs_keep(b, 1 << 20);
    now = score_inputs(&k, turns[0].w, turns[0].amax);
    b->ops->inputs_keep(b, 0);
    struct kept_found fresh = score_inputs(&k, turns[0].w, turns[0].amax);
    tap_ok(same_found(&now, &fresh) && !same_found(&now, &first[0]),
           "%s: nor kept where their numbers are others", type);
    buffer_free(&k.x);
    buffer_free(&k.y);
    buffer_free(&k.dy);
    buffer_free(&k.sums);
    buffer_free(&other);
    weight_free(&k.w);
}

/* ---- calibrated candidates: fp32 numbers made on the host, and inputs whose columns are scaled
 * ----
 */

static void check_made(const char *wt, const char *at, int bf16, int rounding)
{
    enum { OUT = 77, IN = 96 };
    struct quant_spec ws = spec_of(wt), as = spec_of(at);
    struct buffer x = buffer_new(IN, bf16), y = buffer_new(OUT, 0);
    float values[OUT * IN], factor[IN];
    char what[160];
    for (int i = 0; i < OUT * IN; i++) {
        values[i] = uniform() * 0.1F;
        if (rounding) /* as whoever makes them does then */
            values[i] = num_from_bf16(num_to_bf16(values[i]));
    }
    for (int i = 0; i < IN; i++)
        factor[i] = 1 + 0.9F * uniform();
    struct quant_range range = {0.9F, NULL, factor};
    for (int i = 0; i < SIDES; i++) {
        struct backend *b = be[i];
        struct backend_weight made = {
            .host = values, .dtype = NUM_F32, .rows = OUT, .cols = IN, .name = "made", .exact = 1};
        struct backend_weight *one = &made;
        struct backend_operand *wo = b->ops->operand_new(b, OUT, IN, 1, &err);
        struct backend_operand *xo = b->ops->operand_new(b, ROWS, IN, 0, &err);
        must(b->ops->weights_load(b, &one, 1, &err));
        b->ops->quantize_weight(b, wo, &made, &ws);
        b->ops->quantize_act(b, xo, tile[i], x.at[i], IN, &as, &range, NULL);
        b->ops->linear_quantized(b, tile[i], y.at[i], xo, wo);
        must(b->ops->sync(b, &err));
        b->ops->operand_free(b, wo);
        b->ops->operand_free(b, xo);
        b->ops->weights_release(b, &one, 1);
    }
    (void)snprintf(what, sizeof what, "%s%s made weight %s, scaled input %s",
                   bf16 ? "bf16" : "fp32", rounding ? ", rounded," : "", wt, at);
    /* rounded to bf16 the GPU multiplies rounded inputs, the CPU those in fp32 */
    check_buffer(&y, rounding && as.steps == 0 ? 4e-3 : 2e-6, what);
    buffer_free(&x);
    buffer_free(&y);
}

/* ---- experts ---- */

enum { EXPERTS = 37, CHOSEN = 5 };

/* The first n floats of both sides: the greatest difference, relative to the largest number. */
static double floats_differ(void *const dev[SIDES], int64_t n)
{
    float *host[SIDES];
    double far = 0, most = 0;
    for (int i = 0; i < SIDES; i++) {
        host[i] = xmalloc((size_t)n * sizeof(float));
        must(be[i]->ops->download(be[i], host[i], dev[i], (size_t)n * sizeof(float), &err));
    }
    for (int64_t i = 0; i < n; i++) {
        far = fmax(far, fabs((double)host[GPU][i] - host[CPU][i]));
        most = fmax(most, fabs((double)host[CPU][i]));
    }
    free(host[CPU]);
    free(host[GPU]);
    return far / (most > 0 ? most : 1);
}

/* What a side has of a tile's routes and of one expert's rows. */
struct routed {
    struct buffer logits, dlogits, p, w, q, sel; /* sel: integers in a buffer of floats */
    struct buffer x, sum, slots; /* (rows, HIDDEN); slots: (rows x CHOSEN, HIDDEN) */
    struct buffer part;          /* (3 x ROWS, HIDDEN): a chunk of any backend, and more */
};

/* Takes the rows of one expert there and back on one side; returns their number. */
static int32_t part_there_and_back(struct routed *r, int i, const int32_t *sel, int32_t e)
{
    struct backend *b = be[i];
    int32_t slots[ROWS], count = 0;
    for (int32_t k = 0; k < USED * CHOSEN; k++)
        if (sel[k] == e)
            slots[count++] = k;
    if (count == 0) /* a part of no rows is never asked for */
        return 0;
    struct backend_tile *own = b->ops->tile_part(b, tile[i], slots, &count, 1, CHOSEN, &err);
    must(own ? 0 : -1);
    b->ops->part_take(b, own, r->part.at[i], r->x.at[i], HIDDEN, r->w.at[i]);
    b->ops->part_add(b, own, r->sum.at[i], r->part.at[i], HIDDEN, r->w.at[i]);
    b->ops->part_add(b, own, r->sum.at[i], r->part.at[i], HIDDEN, NULL);
    b->ops->part_put(b, own, r->slots.at[i], r->part.at[i], HIDDEN);
    b->ops->part_dot(b, own, r->q.at[i], r->x.at[i], r->part.at[i], HIDDEN);
    b->ops->part_take(b, own, r->part.at[i], r->x.at[i], HIDDEN, NULL);
    b->ops->tile_free(b, own);
    return count;
}

static void check_experts(int bf16, int normed)
{
    struct routed r = {.logits = buffer_new(EXPERTS, 0),
                       .dlogits = buffer_new(EXPERTS, 0),
                       .p = buffer_new(EXPERTS, 0),
                       .w = buffer_new(CHOSEN, 0),
                       .q = buffer_new(CHOSEN, 0),
                       .sel = buffer_new(CHOSEN, 0),
                       .x = buffer_new(HIDDEN, bf16),
                       .sum = buffer_new(HIDDEN, 0),
                       .slots = buffer_new((int64_t)CHOSEN * HIDDEN, 0),
                       .part = buffer_new(3 * HIDDEN, 0)};
    int32_t *sel[SIDES], rows = 0;
    const char *mode = bf16 ? "bf16" : "fp32";
    float *l = r.logits.host + GUARD;
    for (int64_t k = 0; k < (int64_t)USED * EXPERTS; k++) /* eight values: many ties */
        l[k] = k / EXPERTS % 2 ? floorf(4 * l[k]) : 3 * l[k];
    for (int i = 0; i < SIDES; i++) {
        struct backend *b = be[i];
        b->ops->upload(b, r.logits.at[i], l, (size_t)r.logits.n * sizeof(float));
        b->ops->route(b, tile[i], r.p.at[i], r.sel.at[i], r.w.at[i], r.logits.at[i], EXPERTS,
                      CHOSEN, normed);
        sel[i] = xmalloc((size_t)ROWS * CHOSEN * sizeof *sel[i]);
        must(
            b->ops->download(b, sel[i], r.sel.at[i], (size_t)ROWS * CHOSEN * sizeof *sel[i], &err));
    }
    tap_ok(memcmp(sel[CPU], sel[GPU], (size_t)ROWS * CHOSEN * sizeof **sel) == 0,
           "%s the same experts, also where logits are equal", mode);
    check_buffer(&r.p, 1e-6, "router's softmax");
    check_buffer(&r.w, 1e-6, normed ? "weights that add up to 1" : "weights as they are");
    double far = 0;
    for (int32_t e = 0; e < EXPERTS; e++) {
        int32_t count[SIDES];
        for (int i = 0; i < SIDES; i++)
            count[i] = part_there_and_back(&r, i, sel[CPU], e);
        rows += count[CPU];
        /* the rest of the part is zero; how much there is of it is the backend's */
        far = fmax(far, floats_differ(r.part.at, (int64_t)count[CPU] * HIDDEN));
    }
    tap_ok(rows == USED * CHOSEN && far == 0, "%s rows of %d experts, as they are", mode, EXPERTS);
    check_buffer(&r.sum, 1e-6, "rows added up by token");
    check_buffer(&r.slots, 1e-6, "rows by slot");
    check_buffer(&r.q, 1e-6, "gradients at the weights");
    for (int i = 0; i < SIDES; i++)
        be[i]->ops->route_backward(be[i], tile[i], r.dlogits.at[i], r.p.at[i], r.sel.at[i],
                                   r.w.at[i], r.q.at[i], EXPERTS, CHOSEN, normed);
    check_buffer(&r.dlogits, 1e-5, "gradient at the router's logits");
    check_buffer(&r.x, 0, "rows that are only read");
    struct buffer *all[] = {&r.logits, &r.dlogits, &r.p,   &r.w,     &r.q,
                            &r.sel,    &r.x,       &r.sum, &r.slots, &r.part};
    for (size_t k = 0; k < AQ_COUNT(all); k++)
        buffer_free(all[k]);
    free(sel[CPU]);
    free(sel[GPU]);
}

/* A score of an output that is there already. */
static void check_score_output(void)
{
    struct buffer yq = buffer_new(HIDDEN, 0), y = buffer_new(HIDDEN, 0), dy = buffer_new(HIDDEN, 0);
    struct buffer sums = buffer_new(2, 0), dots = buffer_new(2, 0);
    double found[SIDES][2][SAMPLES], row[SIDES][ROWS], far = 0;
    for (int i = 0; i < SIDES; i++) {
        struct backend *b = be[i];
        double *to = sums.at[i];
        struct backend_score_job job = {.tile = tile[i],
                                        .y = y.at[i],
                                        .dy = dy.at[i],
                                        .sums = to,
                                        .firsts = to + SAMPLES,
                                        .dots = dots.at[i]};
        b->ops->zero(b, sums.at[i], sizeof found[i]);
        b->ops->zero(b, dots.at[i], sizeof row[i]);
        b->ops->score_output(b, &job, yq.at[i], HIDDEN);
        must(b->ops->download(b, found[i], sums.at[i], sizeof found[i], &err));
        must(b->ops->download(b, row[i], dots.at[i], sizeof row[i], &err));
    }
    for (int k = 0; k < 2; k++)
        for (int s = 0; s < SAMPLES; s++)
            far = fmax(far, fabs(found[GPU][k][s] / found[CPU][k][s] - 1));
    for (int s = 0; s < ROWS; s++)
        far = fmax(far, fabs(row[GPU][s] - row[CPU][s]) / (1 + fabs(row[CPU][s])));
    tap_ok(far < 1e-9 && found[CPU][0][0] > 0 && row[CPU][0] != 0,
           "score of an output that is there (%.1e)", far);
    buffer_free(&yq);
    buffer_free(&y);
    buffer_free(&dy);
    buffer_free(&sums);
    buffer_free(&dots);
}

static void check_mode(int bf16, int rounding)
{
    struct backend_config config = {
        .threads = 2, .bf16 = bf16, .operand_rounding = rounding, .matrix = BACKEND_MATRIX_PLAIN};
    must(backend_open(&be[CPU], "cpu", &config, &err));
    must(backend_open(&be[GPU], "cuda", &config, &err));
    make_tiles();
    if (!rounding) {
        for (size_t i = 0; i < AQ_COUNT(calls); i++)
            for (int dtype = NUM_F32; dtype <= NUM_F16; dtype++)
                check_call(&calls[i], bf16, (enum num_type)dtype);
        check_head(bf16, 1, 0);
        check_head(bf16, 8, 0);
        check_head(bf16, 0.5F, 3);
        check_long_attention(bf16);
        check_score("int8:axis0:static", "int8:tensor:static", bf16);
        check_score("int4:block(-1:32):static", "e4m3:token:dynamic", bf16);
        check_score("e4m3:axis1:static", "none", bf16);
        check_score("e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):dynamic", bf16);
        check_score("e4m3:tensor:static", "int8:tensor:dynamic", bf16);
        check_kept(bf16);
        if (bf16)
            check_all_blocks();
        check_experts(bf16, 0);
        check_experts(bf16, 1);
        check_score_output();
        check_compare();
        check_magnitudes();
    }
    check_made("none", "none", bf16, rounding);
    check_made("none", "int8:token:dynamic", bf16, rounding);
    check_made("int8:axis0:static", "none", bf16, rounding);
    check_made("int4:block(-1:32):static", "none", bf16, rounding);
    check_made("int8:axis0:static", "int8:tensor:static", bf16, rounding);
    check_quantizers(bf16, rounding);
    for (int i = 0; i < SIDES; i++) {
        be[i]->ops->tile_free(be[i], tile[i]);
        backend_close(be[i]);
    }
}

int main(void)
{
    check_mode(0, 0);
    check_mode(1, 0);
    check_mode(1, 1);
    return tap_done();
}
