/*
 * Every op of the CPU backend against a reference in double, and every backward against finite
 * differences of that reference; odd sizes, a pad row, unused rows, and guards around outputs.
 */
#include "tap.h"

#include "backend/backend.h"
#include "backend/cpu/simd.h"
#include "base/mem.h"
#include "base/num.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static struct backend *be;
static struct aq_err err;
static uint64_t seed = 1;

static double uniform(void) /* -1 to 1 */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(seed ^ seed >> 29) / 9223372036854775808.0;
}

static double *random_doubles(int64_t n)
{
    double *x = xmalloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)uniform();
    return x;
}

/* ---- a tile: samples of 5, 1, 7 and 3 rows, the third after a pad row, two rows unused ---- */

enum { SAMPLES = 4, ROWS = 18, USED = 16 };
static const int32_t starts[SAMPLES + 1] = {0, 5, 6, 13, USED};
static const uint8_t pads[SAMPLES] = {0, 0, 1, 0};
static int32_t ids[ROWS], positions[ROWS], targets[ROWS];
static struct backend_tile *tile;

static void make_tile(int vocab)
{
    for (int r = 0; r < ROWS; r++)
        ids[r] = targets[r] = -1;
    for (int s = 0; s < SAMPLES; s++) {
        for (int r = starts[s]; r < starts[s + 1]; r++) {
            ids[r] = (int)(fabs(uniform()) * vocab);
            positions[r] = r - starts[s] - pads[s];
            targets[r] = r + 1 < starts[s + 1] ? (int)(fabs(uniform()) * vocab) : -1;
        }
    }
    static const struct backend_tile_desc d = {ROWS, SAMPLES,   starts, pads,
                                               ids,  positions, targets};
    tile = be->ops->tile_new(be, &d, &err);
}

/* ---- device buffers with guards ---- */

enum { GUARD = 32 };
static const float sentinel = 12345.678F;

struct guarded {
    float *base, *data;
    int64_t n;
};

static struct guarded guarded_new(int64_t n, const double *from)
{
    struct guarded g = {xmalloc((size_t)(n + 2 * GUARD) * sizeof(float)), NULL, n};
    g.data = g.base + GUARD;
    for (int64_t i = 0; i < n + 2 * GUARD; i++)
        g.base[i] = sentinel;
    for (int64_t i = 0; from && i < n; i++)
        g.data[i] = (float)from[i];
    return g;
}

static int guarded_free(struct guarded *g)
{
    int good = 1;
    for (int i = 0; i < GUARD; i++)
        good &= g->base[i] == sentinel && g->data[g->n + i] == sentinel;
    free(g->base);
    return good;
}

/* Frobenius norm of the difference, relative */
static double distance(const float *found, const double *expected, int64_t n)
{
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        diff += (found[i] - expected[i]) * (found[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

/* ---- the references ---- */

static int visible(int r, int *first) /* sample of a row, -1 for a blind row */
{
    for (int s = 0; s < SAMPLES; s++) {
        if (r >= starts[s] && r < starts[s + 1]) {
            *first = starts[s] + pads[s];
            return r < *first ? -1 : s;
        }
    }
    return -1;
}

/* Numbers of an op; what a family may set is 0 or NULL where it is as in Llama. */
struct dims {
    int64_t cols, out;
    int heads, kv_heads, dim;
    const double *w; /* the op's weight */
    int one_plus;
    int no_norm, rotary; /* of a rotation: 0: none */
    double factor;       /* of cosines and sines */
    double scale, cap;
    int window;
};

static float inv_freq[8]; /* 0.7^k; any table will do */

typedef void reference_fn(const struct dims *d, double *const *in, double *out);

static void ref_rmsnorm(const struct dims *d, double *const *in, double *out)
{
    for (int r = 0; r < ROWS; r++) {
        const double *x = in[0] + r * d->cols;
        double sum = 0;
        for (int64_t i = 0; i < d->cols; i++)
            sum += x[i] * x[i];
        for (int64_t i = 0; i < d->cols; i++)
            out[r * d->cols + i] =
                (d->one_plus + d->w[i]) * x[i] / sqrt(sum / (double)d->cols + 1e-6);
    }
}

static void ref_rope(const struct dims *d, double *const *in, double *out)
{
    int n = d->dim, half = d->rotary / 2;
    for (int r = 0; r < ROWS; r++) {
        for (int h = 0; h < d->heads; h++) {
            const double *x = in[0] + (r * d->heads + h) * n;
            double *y = out + (r * d->heads + h) * n, sum = 0;
            for (int i = 0; i < n; i++)
                sum += x[i] * x[i];
            double f = 1 / sqrt(sum / n + 1e-6);
            for (int i = 0; i < n; i++)
                y[i] = d->no_norm ? x[i] : (d->one_plus + d->w[i]) * x[i] * f;
            for (int k = 0; k < half; k++) {
                double angle = (double)positions[r] * inv_freq[k], a = y[k], b = y[k + half];
                y[k] = (a * cos(angle) - b * sin(angle)) * d->factor;
                y[k + half] = (b * cos(angle) + a * sin(angle)) * d->factor;
            }
        }
    }
}

static void ref_attention(const struct dims *d, double *const *in, double *out)
{
    int group = d->heads / d->kv_heads, n = d->dim;
    memset(out, 0, (size_t)(ROWS * d->heads * n) * sizeof *out);
    for (int r = 0; r < ROWS; r++) {
        int first;
        if (visible(r, &first) < 0)
            continue;
        for (int h = 0; h < d->heads; h++) {
            double p[ROWS] = {0}, sum = 0;
            const double *q = in[0] + (r * d->heads + h) * n;
            int seen = d->window && r - d->window >= first ? r - d->window + 1 : first;
            for (int s = seen; s <= r; s++) {
                const double *k = in[1] + (s * d->kv_heads + h / group) * n;
                double dot = 0;
                for (int i = 0; i < n; i++)
                    dot += q[i] * k[i];
                dot *= d->scale;
                sum += p[s] = exp(d->cap > 0 ? d->cap * tanh(dot / d->cap) : dot);
            }
            for (int s = seen; s <= r; s++)
                for (int i = 0; i < n; i++)
                    out[(r * d->heads + h) * n + i] +=
                        p[s] / sum * in[2][(s * d->kv_heads + h / group) * n + i];
        }
    }
}

static void ref_swiglu(const struct dims *d, double *const *in, double *out)
{
    for (int64_t i = 0; i < ROWS * d->cols; i++)
        out[i] = in[0][i] / (1 + exp(-in[0][i])) * in[1][i];
}

static void ref_geglu(const struct dims *d, double *const *in, double *out)
{
    for (int64_t i = 0; i < ROWS * d->cols; i++) {
        double x = in[0][i] * 4; /* to both sides of where tanh changes its formula */
        out[i] = 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))) * in[1][i];
    }
}

static void ref_bias(const struct dims *d, double *const *in, double *out)
{
    for (int r = 0; r < ROWS; r++)
        for (int64_t i = 0; i < d->cols; i++)
            out[r * d->cols + i] = in[0][r * d->cols + i] + (r < USED ? d->w[i] : 0);
}

static void ref_scale(const struct dims *d, double *const *in, double *out)
{
    for (int64_t i = 0; i < ROWS * d->cols; i++)
        out[i] = in[0][i] * d->scale;
}

static void ref_linear(const struct dims *d, double *const *in, double *out)
{
    for (int r = 0; r < ROWS; r++)
        for (int64_t o = 0; o < d->out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < d->cols; i++)
                sum += in[0][r * d->cols + i] * d->w[o * d->cols + i];
            out[r * d->out + o] = sum;
        }
}

/* A logit from a product of the head: scale is one over the divisor. */
static double ref_logit(const struct dims *d, double z)
{
    z *= d->scale;
    return d->cap > 0 ? d->cap * tanh(z / d->cap) : z;
}

static void ref_loss(const struct dims *d, double *const *in, double *out)
{
    double *z = xmalloc((size_t)d->out * sizeof *z);
    memset(out, 0, SAMPLES * sizeof *out);
    for (int s = 0; s < SAMPLES; s++) {
        for (int r = starts[s]; r < starts[s + 1]; r++) {
            double sum = 0;
            if (targets[r] < 0)
                continue;
            for (int64_t o = 0; o < d->out; o++) {
                z[o] = 0;
                for (int64_t i = 0; i < d->cols; i++)
                    z[o] += in[0][r * d->cols + i] * d->w[o * d->cols + i];
                z[o] = ref_logit(d, z[o]);
                sum += exp(z[o]);
            }
            out[s] += log(sum) - z[targets[r]];
        }
    }
    free(z);
}

/* ---- running the ops ---- */

struct op {
    const char *name;
    reference_fn *reference;
    void (*forward)(const struct dims *d, const struct backend_weight *w, struct guarded *in,
                    struct guarded *out);
    void (*backward)(const struct dims *d, const struct backend_weight *w, struct guarded *in,
                     struct guarded *dy, struct guarded *din);
    struct dims d;
    int inputs;
    int64_t in_cols[3], out_cols, w_rows, w_cols;
};

#define ARGS_F                                                                                     \
    (const struct dims *d, const struct backend_weight *w, struct guarded *in, struct guarded *out)
#define ARGS_B                                                                                     \
    (const struct dims *d, const struct backend_weight *w, struct guarded *in, struct guarded *dy, \
     struct guarded *din)

static struct backend_norm norm_of(const struct dims *d, const struct backend_weight *w)
{
    return (struct backend_norm){w, 1e-6, d->one_plus, 1};
}

static void rmsnorm_f ARGS_F
{
    struct backend_norm n = norm_of(d, w);
    be->ops->rmsnorm_forward(be, tile, out->data, in[0].data, &n);
}
static void rmsnorm_b ARGS_B
{
    struct backend_norm n = norm_of(d, w);
    memset(din[0].data, 0, (size_t)din[0].n * sizeof(float));
    be->ops->rmsnorm_backward(be, tile, din[0].data, dy->data, in[0].data, &n);
}
static void rope_f ARGS_F
{
    struct backend_norm n = norm_of(d, w);
    struct backend_rope rope = {inv_freq, d->rotary, (float)d->factor};
    be->ops->norm_rope_forward(be, tile, out->data, in[0].data, d->heads, d->dim,
                               d->no_norm ? NULL : &n, d->rotary ? &rope : NULL);
}
static void rope_b ARGS_B
{
    struct backend_norm n = norm_of(d, w);
    struct backend_rope rope = {inv_freq, d->rotary, (float)d->factor};
    be->ops->norm_rope_backward(be, tile, din[0].data, dy->data, in[0].data, d->heads, d->dim,
                                d->no_norm ? NULL : &n, d->rotary ? &rope : NULL);
}
static struct backend_attention attention_of(const struct dims *d)
{
    return (struct backend_attention){.heads = d->heads,
                                      .kv_heads = d->kv_heads,
                                      .dim = d->dim,
                                      .scale = (float)d->scale,
                                      .cap = (float)d->cap,
                                      .window = d->window};
}
static void attention_f ARGS_F
{
    struct backend_attention a = attention_of(d);
    be->ops->attention_forward(be, tile, out->data, in[0].data, in[1].data, in[2].data, &a);
}
static void attention_b ARGS_B
{
    struct backend_attention a = attention_of(d);
    be->ops->attention_backward(be, tile, din[0].data, din[1].data, din[2].data, dy->data,
                                in[0].data, in[1].data, in[2].data, &a);
}
static void swiglu_f ARGS_F
{
    be->ops->glu_forward(be, tile, out->data, in[0].data, in[1].data, d->cols, BACKEND_SILU);
}
static void swiglu_b ARGS_B
{
    be->ops->glu_backward(be, tile, din[0].data, din[1].data, dy->data, in[0].data, in[1].data,
                          d->cols, BACKEND_SILU);
}
/* the gate is four times the input, exactly */
static void scale_gate(float *gate, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        gate[i] *= factor;
}
static void geglu_f ARGS_F
{
    scale_gate(in[0].data, in[0].n, 4);
    be->ops->glu_forward(be, tile, out->data, in[0].data, in[1].data, d->cols, BACKEND_GELU_TANH);
    scale_gate(in[0].data, in[0].n, 0.25F);
}
static void geglu_b ARGS_B
{
    scale_gate(in[0].data, in[0].n, 4);
    be->ops->glu_backward(be, tile, din[0].data, din[1].data, dy->data, in[0].data, in[1].data,
                          d->cols, BACKEND_GELU_TANH);
    scale_gate(in[0].data, in[0].n, 0.25F);
    scale_gate(din[0].data, din[0].n, 4);
}
static void bias_f ARGS_F
{
    be->ops->bias_add(be, tile, out->data, in[0].data, w);
}
static void scale_f ARGS_F
{
    be->ops->scale(be, tile, out->data, in[0].data, d->cols, (float)d->scale);
}
/* the gradient of a scale is a scale; in two halves, by way of add */
static void scale_b ARGS_B
{
    be->ops->scale(be, tile, din[0].data, dy->data, d->cols, (float)d->scale / 2);
    be->ops->add(be, tile, din[0].data, dy->data, d->cols, (float)d->scale / 2);
}
static void linear_f ARGS_F
{
    be->ops->linear_forward(be, tile, out->data, in[0].data, w);
}
static void linear_b ARGS_B
{
    /* twice, the second time added: halves are exact */
    for (int64_t i = 0; i < dy->n; i++)
        dy->data[i] /= 2;
    be->ops->linear_backward(be, tile, din[0].data, dy->data, w, 0);
    be->ops->linear_backward(be, tile, din[0].data, dy->data, w, 1);
}

/* Central difference of sum(dy * reference(in)) in the given input element. */
static double slope(const struct op *op, double *const *in, int which, int64_t at, const double *dy,
                    double *out)
{
    const double step = 1e-5;
    double keep = in[which][at], sum = 0;
    for (int side = 1; side >= -1; side -= 2) {
        in[which][at] = keep + side * step;
        op->reference(&op->d, in, out);
        for (int64_t i = 0; i < ROWS * op->out_cols; i++)
            sum += side * dy[i] * out[i];
    }
    in[which][at] = keep;
    return sum / (2 * step);
}

static void zero_unused(double *x, int64_t cols)
{
    memset(x + USED * cols, 0, (size_t)((ROWS - USED) * cols) * sizeof *x);
}

static struct backend_weight weight_of(const double *w, int64_t rows, int64_t cols, float **room)
{
    *room = xmalloc((size_t)(rows * cols) * sizeof **room);
    for (int64_t i = 0; i < rows * cols; i++)
        (*room)[i] = (float)w[i];
    struct backend_weight bw = {*room, NUM_F32, rows, cols, "w", *room};
    return bw;
}

static void check_op(struct op *op)
{
    double *in[3] = {0}, *w = random_doubles(op->w_rows * op->w_cols + 1);
    int64_t n_out = ROWS * op->out_cols;
    double *dy = random_doubles(n_out), *out = random_doubles(n_out);
    struct guarded gin[3], gdin[3], gout = guarded_new(n_out, NULL), gdy;
    float *room;
    struct backend_weight bw = weight_of(w, op->w_rows, op->w_cols, &room);
    op->d.w = w;
    zero_unused(dy, op->out_cols);
    gdy = guarded_new(n_out, dy);
    for (int i = 0; i < op->inputs; i++) {
        in[i] = random_doubles(ROWS * op->in_cols[i]);
        zero_unused(in[i], op->in_cols[i]);
        gin[i] = guarded_new(ROWS * op->in_cols[i], in[i]);
        gdin[i] = guarded_new(ROWS * op->in_cols[i], NULL);
    }
    op->reference(&op->d, in, out);
    op->forward(&op->d, &bw, gin, &gout);
    tap_ok(distance(gout.data, out, n_out) < 1e-6, "%s forward (%.1e)", op->name,
           distance(gout.data, out, n_out));
    int zero = 1;
    for (int64_t i = USED * op->out_cols; i < n_out; i++)
        zero &= gout.data[i] == 0;
    tap_ok(zero, "%s: unused rows stay zero", op->name);
    if (op->backward)
        op->backward(&op->d, &bw, gin, &gdy, gdin);
    for (int i = 0; op->backward && i < op->inputs; i++) {
        int64_t n = ROWS * op->in_cols[i];
        double *expected = xcalloc((size_t)n, sizeof *expected);
        for (int64_t at = 0; at < USED * op->in_cols[i]; at++)
            expected[at] = slope(op, in, i, at, dy, out);
        double far = distance(gdin[i].data, expected, n);
        tap_ok(far < 2e-6, "%s backward, input %d, against differences (%.1e)", op->name, i, far);
        free(expected);
    }
    int guards = guarded_free(&gout) & guarded_free(&gdy);
    for (int i = 0; i < op->inputs; i++) {
        guards &= guarded_free(&gin[i]) & guarded_free(&gdin[i]);
        free(in[i]);
    }
    tap_ok(guards, "%s writes nothing else", op->name);
    free(w);
    free(dy);
    free(out);
    free(room);
}

static void test_loss(int64_t vocab, int64_t cols, double divisor, double cap)
{
    double *w = random_doubles(vocab * cols), *h = random_doubles(ROWS * cols);
    double out[SAMPLES], *in[1] = {h};
    float *room;
    struct backend_weight bw = weight_of(w, vocab, cols, &room);
    struct guarded gh, gdh = guarded_new(ROWS * cols, NULL);
    zero_unused(h, cols);
    gh = guarded_new(ROWS * cols, h);
    double loss[SAMPLES + 1] = {0, 0, 0, 0, 12345};
    struct backend_head head = {&bw, (float)divisor, (float)cap};
    be->ops->loss(be, tile, loss, gdh.data, gh.data, &head);
    struct dims d = {.cols = cols, .out = vocab, .w = w, .scale = 1 / divisor, .cap = cap};
    ref_loss(&d, in, out);
    double far = 0;
    for (int s = 0; s < SAMPLES; s++)
        far = fmax(far, fabs(loss[s] - out[s]) / (1 + fabs(out[s])));
    tap_ok(far < 1e-6 && loss[SAMPLES] == 12345, "loss over %d words, / %g, cap %g (%.1e)",
           (int)vocab, divisor, cap, far);
    far = 0;
    struct guarded z = guarded_new(ROWS * vocab, NULL);
    be->ops->logits(be, tile, z.data, gh.data, &head);
    for (int64_t i = 0; i < ROWS * vocab; i++) {
        double expected = 0;
        for (int64_t k = 0; k < cols; k++)
            expected += h[i / vocab * cols + k] * w[i % vocab * cols + k];
        far = fmax(far, fabs(z.data[i] - ref_logit(&d, expected)));
    }
    tap_ok(far < 1e-6 && guarded_free(&z), "logits (%.1e)", far);
    double *expected = xcalloc((size_t)(ROWS * cols), sizeof *expected);
    for (int64_t at = 0; at < USED * cols; at += 3) {
        double keep = h[at], sum = 0;
        for (int side = 1; side >= -1; side -= 2) {
            h[at] = keep + side * 1e-5;
            ref_loss(&d, in, out);
            for (int s = 0; s < SAMPLES; s++)
                sum += side * out[s];
        }
        h[at] = keep;
        expected[at] = sum / 2e-5;
    }
    for (int64_t at = 0; at < ROWS * cols; at++)
        if (at % 3 || at >= USED * cols)
            expected[at] = at < USED * cols ? gdh.data[at] : 0;
    far = distance(gdh.data, expected, ROWS * cols);
    tap_ok(far < 2e-6, "gradient of the loss against differences (%.1e)", far);
    tap_ok(guarded_free(&gh) & guarded_free(&gdh), "loss writes nothing else");
    free(expected);
    free(w);
    free(h);
    free(room);
}

static double ref_kl(const struct dims *d, const double *h, const double *hq)
{
    const double *w = d->w;
    int64_t vocab = d->out, cols = d->cols;
    double sum[2] = {0}, kl = 0;
    double *z = xmalloc((size_t)(2 * vocab) * sizeof *z);
    for (int64_t o = 0; o < 2 * vocab; o++) {
        const double *x = o < vocab ? h : hq;
        z[o] = 0;
        for (int64_t i = 0; i < cols; i++)
            z[o] += x[i] * w[o % vocab * cols + i];
        z[o] = ref_logit(d, z[o]);
        sum[o / vocab] += exp(z[o]);
    }
    for (int64_t o = 0; o < vocab; o++)
        kl += exp(z[o]) / sum[0] * (z[o] - log(sum[0]) - z[o + vocab] + log(sum[1]));
    free(z);
    return kl;
}

static void test_kl(double divisor, double cap)
{
    enum { COLS = 13, VOCAB = 1103, COUNT = 2 };
    double *w = random_doubles(VOCAB * COLS), *h = random_doubles(ROWS * COLS);
    double *changed = random_doubles(ROWS * COLS), kl[COUNT][ROWS] = {0};
    float *room;
    struct backend_weight bw = weight_of(w, VOCAB, COLS, &room);
    for (int i = 0; i < ROWS * COLS; i++)
        changed[i] = (float)(h[i] + 0.05 * changed[i]);
    struct guarded gh = guarded_new(ROWS * COLS, h), gq = guarded_new(ROWS * COLS, changed);
    const void *hq[COUNT] = {gq.data, gh.data};
    double *const found[COUNT] = {kl[0], kl[1]};
    struct backend_head head = {&bw, (float)divisor, (float)cap};
    struct dims d = {.cols = COLS, .out = VOCAB, .w = w, .scale = 1 / divisor, .cap = cap};
    be->ops->kl(be, tile, found, gh.data, hq, COUNT, &head, NULL);
    struct backend_logits kept = {.z = xmalloc((size_t)(ROWS * VOCAB) * sizeof(float))};
    double again[2][COUNT][ROWS] = {0};
    for (int turn = 0; turn < 2; turn++) { /* made, and used without the reference's input */
        double *const to[COUNT] = {again[turn][0], again[turn][1]};
        be->ops->kl(be, tile, to, turn ? NULL : gh.data, hq, COUNT, &head, &kept);
    }
    tap_ok(kept.made && same_bits(again[0], again[1], sizeof kl) &&
               same_bits(kl, again[0], sizeof kl),
           "KL from kept logits has the same bits");
    free(kept.z);
    double far = 0;
    int zero = 1;
    for (int r = 0; r < USED; r++) {
        double expected = ref_kl(&d, h + r * COLS, changed + r * COLS);
        far = fmax(far, fabs(kl[0][r] - expected) / expected);
        zero &= kl[1][r] == 0;
    }
    tap_ok(far < 1e-4, "KL of each row, / %g, cap %g (%.1e)", divisor, cap, far);
    tap_ok(zero, "KL of an unchanged row is exactly 0");
    tap_ok(guarded_free(&gh) & guarded_free(&gq), "KL writes nothing else");
    free(w);
    free(h);
    free(changed);
    free(room);
}

/* The sums that a KL is made of against the same in long double. n fills no whole number of
 * vectors. */
static void test_divergence_sums(int64_t n)
{
    enum { MOST = 2000, SUMS = 4 };
    float a[MOST], b[MOST];
    double sums[SUMS], worst = 0;
    for (int64_t i = 0; i < n; i++) {
        a[i] = (float)(20 * uniform());
        b[i] = (float)(a[i] + 0.1 * uniform());
    }
    a[n / 2] = -3000; /* an exp of 0 */
    b[n / 3] = -2000; /* moved by far, with a weight that counts */
    float top = -INFINITY, topq = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        top = fmaxf(top, a[i]);
        topq = fmaxf(topq, b[i]);
    }
    simd()->divergence(sums, a, b, top, topq, n);
    long double expected[SUMS] = {0}, size[SUMS] = {0};
    for (int64_t i = 0; i < n; i++) {
        long double e = expl((long double)a[i] - top), f = expl((long double)b[i] - topq);
        long double away = (long double)a[i] - b[i];
        expected[0] += e;
        expected[1] += e * away;
        expected[2] += f;
        expected[3] -= f * away;
        size[1] += e * fabsl(away);
        size[3] += f * fabsl(away);
    }
    for (int i = 0; i < SUMS; i++)
        worst =
            fmax(worst, (double)(fabsl(sums[i] - expected[i]) / (i % 2 ? size[i] : expected[i])));
    /* an exp's last bit, and those of the sums */
    tap_ok(worst < 1e-15, "sums of %lld exp (%.1e)", (long long)n, worst);
    a[n - 1] = NAN;
    simd()->divergence(sums, a, b, top, topq, n);
    tap_ok(isnan(sums[0]) && isnan(sums[1]) && !isnan(sums[2]), "a NaN stays, on its side");
}

static void test_small_ops(void)
{
    enum { COLS = 259 };
    double *x = random_doubles(ROWS * COLS);
    struct guarded g = guarded_new(ROWS * COLS, x), y = guarded_new(ROWS * COLS, x);
    be->ops->add(be, tile, y.data, g.data, COLS, 1);
    be->ops->add(be, tile, y.data, g.data, COLS, 0.5F);
    int good = 1;
    for (int i = 0; i < ROWS * COLS; i++)
        good &= y.data[i] == 2.5F * g.data[i];
    tap_ok(good & guarded_free(&y), "add");

    float per_sample[SAMPLES + 1], per_channel[COLS + 1] = {0};
    for (int i = 0; i <= SAMPLES; i++)
        per_sample[i] = sentinel;
    per_channel[COLS] = sentinel;
    be->ops->amax(be, tile, g.data, COLS, 1, SAMPLES, per_sample, per_channel);
    good = per_sample[0] == sentinel && per_sample[SAMPLES] == sentinel &&
           per_channel[COLS] == sentinel;
    for (int s = 1; s < SAMPLES; s++) {
        float top = 0;
        for (int i = starts[s] * COLS; i < starts[s + 1] * COLS; i++)
            top = fmaxf(top, fabsf(g.data[i]));
        good &= per_sample[s] == top;
    }
    for (int c = 0; c < COLS; c++) {
        float top = 0;
        for (int r = starts[1]; r < USED; r++)
            top = fmaxf(top, fabsf(g.data[r * COLS + c]));
        good &= per_channel[c] == top;
    }
    tap_ok(good, "amax per sample and per channel");

    double sums[COLS + 1], expected[COLS];
    for (int c = 0; c <= COLS; c++)
        sums[c] = 0.25 * c;
    be->ops->magnitudes(be, tile, g.data, COLS, 1, SAMPLES, sums);
    good = sums[COLS] == 0.25 * COLS;
    for (int c = 0; c < COLS; c++) {
        expected[c] = 0.25 * c;
        for (int s = 1; s < SAMPLES; s++)
            for (int r = starts[s]; r < starts[s + 1] && !pads[s]; r++)
                expected[c] += fabs((double)g.data[r * COLS + c]);
    }
    tap_ok(good && same_bits(sums, expected, sizeof expected),
           "magnitudes: sums over samples, without those that are pads");
    g.data[starts[2] * COLS + 7] = NAN;
    be->ops->amax(be, tile, g.data, COLS, 0, SAMPLES, per_sample, per_channel);
    tap_ok(isnan(per_sample[2]) && !isnan(per_sample[1]) && isnan(per_channel[7]),
           "amax: a NaN stays a NaN");
    (void)guarded_free(&g);
    free(x);
}

/* bf16 weights at odd addresses are read as they are */
static void test_embed(void)
{
    enum { COLS = 37, VOCAB = 50 };
    char *bytes = xcalloc(VOCAB * COLS * 2 + 1, 1);
    for (int i = 0; i < VOCAB * COLS; i++) {
        uint16_t half = (uint16_t)(0x3f80 + i % 300);
        memcpy(bytes + 1 + i * 2, &half, 2);
    }
    struct backend_weight w = {bytes + 1, NUM_BF16, VOCAB, COLS, "embed", bytes + 1};
    struct guarded h = guarded_new(ROWS * COLS, NULL);
    be->ops->embed(be, tile, h.data, &w, 1);
    int good = 1;
    for (int r = 0; r < ROWS; r++) {
        for (int c = 0; c < COLS; c++) {
            uint32_t bits = r < USED ? (uint32_t)(0x3f80 + (ids[r] * COLS + c) % 300) << 16 : 0;
            float expected;
            memcpy(&expected, &bits, 4);
            good &= h.data[r * COLS + c] == expected;
        }
    }
    tap_ok(good, "embed, bf16 at an odd address");
    struct guarded scaled = guarded_new(ROWS * COLS, NULL);
    be->ops->embed(be, tile, scaled.data, &w, 48);
    for (int64_t i = 0; i < ROWS * COLS; i++)
        good &= scaled.data[i] == 48 * h.data[i];
    tap_ok(good & guarded_free(&h) & guarded_free(&scaled), "embed, scaled");
    free(bytes);
}

/* Every fp16 number, at an odd address: as rows of a table, and as a weight of ones and zeros. */
static void test_fp16(void)
{
    enum { COLS = 64, VOCAB = 1024 };
    char *bytes = xcalloc(VOCAB * COLS * 2 + 1, 1);
    for (int i = 0; i < VOCAB * COLS; i++) {
        uint16_t half = (uint16_t)i;
        memcpy(bytes + 1 + i * 2, &half, 2);
    }
    struct backend_weight w = {bytes + 1, NUM_F16, VOCAB, COLS, "embed", bytes + 1};
    int wrong = 0;
    for (int from = 0; from < VOCAB; from += USED) {
        float h[ROWS * COLS];
        int32_t all[ROWS];
        for (int r = 0; r < ROWS; r++)
            all[r] = r < USED && from + r < VOCAB ? from + r : -1;
        const struct backend_tile_desc d = {ROWS, SAMPLES, starts, pads, all, positions, targets};
        struct backend_tile *t = be->ops->tile_new(be, &d, &err);
        be->ops->embed(be, t, h, &w, 1);
        for (int i = 0; i < USED * COLS && all[i / COLS] >= 0; i++) {
            float expected = num_from_fp16((uint16_t)(from * COLS + i));
            wrong += !(h[i] == expected || (isnan(h[i]) && isnan(expected)));
        }
        be->ops->tile_free(be, t);
    }
    tap_ok(wrong == 0, "fp16 weights: %d of 65536 numbers differ", wrong);
    free(bytes);
}

int main(void)
{
    struct backend_config config = {.threads = 2};
    if (backend_open(&be, "cpu", &config, &err) < 0) {
        printf("Bail out! %s\n", err.msg);
        return 2;
    }
    make_tile(50);
    for (size_t k = 0; k < AQ_COUNT(inv_freq); k++)
        inv_freq[k] = powf(0.7F, (float)k);
    const double usual = 1 / sqrt(5);
    struct op ops[] = {
        {"rmsnorm", ref_rmsnorm, rmsnorm_f, rmsnorm_b, {.cols = 33}, 1, {33}, 33, 1, 33},
        {"rmsnorm, 1 + w",
         ref_rmsnorm,
         rmsnorm_f,
         rmsnorm_b,
         {.cols = 33, .one_plus = 1},
         1,
         {33},
         33,
         1,
         33},
        {"norm and rope",
         ref_rope,
         rope_f,
         rope_b,
         {.heads = 3, .dim = 10, .rotary = 10, .factor = 1},
         1,
         {30},
         30,
         1,
         10},
        {"norm with 1 + w and rope",
         ref_rope,
         rope_f,
         rope_b,
         {.heads = 3, .dim = 10, .rotary = 10, .factor = 1, .one_plus = 1},
         1,
         {30},
         30,
         1,
         10},
        {"norm without rope",
         ref_rope,
         rope_f,
         rope_b,
         {.heads = 3, .dim = 10},
         1,
         {30},
         30,
         1,
         10},
        {"rope with a factor",
         ref_rope,
         rope_f,
         rope_b,
         {.heads = 3, .dim = 10, .rotary = 10, .factor = 1.25, .no_norm = 1},
         1,
         {30},
         30,
         1,
         1},
        {"rope of a part of each head",
         ref_rope,
         rope_f,
         rope_b,
         {.heads = 3, .dim = 11, .rotary = 6, .factor = 1, .no_norm = 1},
         1,
         {33},
         33,
         1,
         1},
        {"neither norm nor rope",
         ref_rope,
         rope_f,
         rope_b,
         {.heads = 3, .dim = 10, .no_norm = 1},
         1,
         {30},
         30,
         1,
         1},
        {"attention",
         ref_attention,
         attention_f,
         attention_b,
         {.heads = 6, .kv_heads = 2, .dim = 5, .scale = usual},
         3,
         {30, 10, 10},
         30,
         1,
         1},
        {"attention, capped",
         ref_attention,
         attention_f,
         attention_b,
         {.heads = 6, .kv_heads = 2, .dim = 5, .scale = 2, .cap = 1.5},
         3,
         {30, 10, 10},
         30,
         1,
         1},
        {"attention in a window",
         ref_attention,
         attention_f,
         attention_b,
         {.heads = 6, .kv_heads = 2, .dim = 5, .scale = 0.3, .window = 3},
         3,
         {30, 10, 10},
         30,
         1,
         1},
        {"attention, capped, in a window of two",
         ref_attention,
         attention_f,
         attention_b,
         {.heads = 2, .kv_heads = 1, .dim = 4, .scale = 1, .cap = 2, .window = 2},
         3,
         {8, 4, 4},
         8,
         1,
         1},
        {"attention, one head each",
         ref_attention,
         attention_f,
         attention_b,
         {.heads = 3, .kv_heads = 3, .dim = 4, .scale = 0.5},
         3,
         {12, 12, 12},
         12,
         1,
         1},
        {"swiglu", ref_swiglu, swiglu_f, swiglu_b, {.cols = 19}, 2, {19, 19}, 19, 1, 1},
        {"geglu", ref_geglu, geglu_f, geglu_b, {.cols = 19}, 2, {19, 19}, 19, 1, 1},
        {"bias", ref_bias, bias_f, NULL, {.cols = 37}, 1, {37}, 37, 1, 37},
        {"scale", ref_scale, scale_f, scale_b, {.cols = 19, .scale = 0.22}, 1, {19}, 19, 1, 1},
        {"linear", ref_linear, linear_f, linear_b, {.cols = 21, .out = 35}, 1, {21}, 35, 35, 21},
    };
    for (size_t i = 0; i < AQ_COUNT(ops); i++)
        check_op(&ops[i]);
    test_loss(1103, 13, 1, 0);
    test_loss(1103, 13, 8, 0);
    test_loss(1103, 13, 0.5, 3);
    test_kl(1, 0);
    test_kl(0.5, 3);
    for (int64_t n = 3; n < 2000; n = 3 * n + 1)
        test_divergence_sums(n);
    test_small_ops();
    test_embed();
    test_fp16();
    be->ops->tile_free(be, tile);
    make_tile(9001); /* words that the CPU takes in more than one chunk */
    test_loss(9001, 3, 1, 0);
    test_loss(9001, 3, 0.25, 2);
    be->ops->tile_free(be, tile);
    backend_close(be);
    return tap_done();
}
