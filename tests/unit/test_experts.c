/*
 * Mixtures of experts: where tokens go and what a treatment of the experts costs, against the
 * definition in float64 (tests/oracle/moe.py); ties; and that a row's bits do not depend on the
 * rows beside it, whatever their number.
 */
#include "tap.h"

#include "base/mem.h"
#include "base/num.h"
#include "io/safetensors.h"
#include "model/family.h"
#include "model/lm_extract.h"
#include "nn/experts.h"
#include "nn/tile.h"
#include "quant/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct aq_err err;
static const char *device = "cpu"; /* `make test-gpu` starts this with "cuda" */

static void must(int status, const char *what)
{
    if (status < 0) {
        printf("Bail out! %s: %s\n", what, err.msg);
        exit(2);
    }
}

static void *copy_of(const struct st_tensor *t)
{
    size_t bytes = (size_t)(t->end - t->begin);
    void *to = xmalloc(bytes);
    memcpy(to, t->data, bytes);
    return to;
}

/* Device memory with these bytes in it; and a copy of device memory, for the caller to free. */
static void *put(struct backend *b, const void *host, size_t bytes)
{
    void *p = b->ops->alloc(b, bytes, "a test", &err);
    must(p ? 0 : -1, "memory");
    if (host)
        b->ops->upload(b, p, host, bytes);
    return p;
}

static void *get(struct backend *b, const void *dev, size_t bytes)
{
    void *host = xmalloc(bytes);
    must(b->ops->download(b, host, dev, bytes, &err), "download");
    return host;
}

/* A case of tests/oracle/families at its mixtures, from the last to the first. */
struct run {
    struct lm lm;
    struct st_file samples, vectors;
    struct tiles tiles;
    struct tile_source source;
    struct backend *b;
    struct nn_model *m;
    struct backend_tile *t;
    char **h; /* [layers + 1]: states */
    void *dh;
    double *sums; /* [samples] */
    size_t h_bytes;
};

static void run_open(struct run *r, const char *name, int threads)
{
    char path[256];
    struct aq_buf notes = AQ_BUF_INIT;
    struct backend_config config = {.threads = threads};
    *r = (struct run){.dh = NULL};
    (void)snprintf(path, sizeof path, "tests/oracle/families/%s", name);
    must(lm_extract(&r->lm, path, LM_DIGEST_SAMPLE, &notes, &err), name);
    aq_buf_release(&notes);
    (void)snprintf(path, sizeof path, "tests/oracle/families/%s/expected.safetensors", name);
    must(st_open(&r->samples, path, &err), path);
    const struct st_tensor *ids = st_need(&r->samples, "ids", ST_I32, 1, &err);
    const struct st_tensor *offsets = st_need(&r->samples, "offsets", ST_I64, 1, &err);
    must(ids && offsets ? 0 : -1, path);
    r->source = (struct tile_source){.ids = copy_of(ids),
                                     .offsets = copy_of(offsets),
                                     .samples = (int64_t)offsets->elements - 1,
                                     .pad_id = -1};
    must(tiles_build(&r->tiles, &r->source, 64, r->lm.arch.vocab_size, &err), "tiles");
    must(backend_open(&r->b, device, &config, &err), "backend");
    const struct nn_source s = nn_source_of_lm(&r->lm);
    must(nn_open(&r->m, &s, r->b, r->tiles.rows, 1, &err), "model");
    r->t = r->b->ops->tile_new(r->b, &r->tiles.items[0].desc, &err);
    r->h_bytes = (size_t)r->tiles.rows * (size_t)r->lm.arch.hidden_size * sizeof(float);
    int64_t layers = r->lm.arch.num_hidden_layers;
    r->h = xcalloc((size_t)layers + 1, sizeof *r->h);
    for (int64_t l = 0; l <= layers; l++)
        r->h[l] = r->b->ops->alloc(r->b, r->h_bytes, "h", &err);
    r->dh = r->b->ops->alloc(r->b, r->h_bytes, "dh", &err);
    r->sums = r->b->ops->alloc(r->b, 64 * sizeof *r->sums, "sums", &err);
    must(nn_use_ends(r->m, &err), "ends");
    nn_embed(r->m, r->t, r->h[0]);
    for (int64_t l = 0; l < layers; l++) {
        must(nn_use_layer(r->m, l, -1, &err), "layer");
        (void)nn_layer_forward(r->m, l, r->t, r->h[l], r->h[l + 1], NULL);
    }
    must(nn_check(r->m, &err), "forward");
}

static const struct nn_acts *run_layer(struct run *r, int64_t l)
{
    bool last = l + 1 == r->lm.arch.num_hidden_layers;
    must(nn_use_layer(r->m, l, -1, &err), "layer");
    const struct nn_acts *a = last ? nn_last_backward(r->m, r->t, r->h[l], r->sums, r->dh, 1, NULL)
                                   : nn_layer_backward(r->m, l, r->t, r->h[l], r->dh, 1, NULL);
    must(nn_check(r->m, &err), "backward");
    return a;
}

static void run_close(struct run *r)
{
    for (int64_t l = 0; l <= r->lm.arch.num_hidden_layers; l++)
        r->b->ops->free(r->b, r->h[l], r->h_bytes);
    free(r->h);
    r->b->ops->free(r->b, r->dh, r->h_bytes);
    r->b->ops->free(r->b, r->sums, 64 * sizeof *r->sums);
    r->b->ops->tile_free(r->b, r->t);
    nn_close(r->m);
    backend_close(r->b);
    tiles_release(&r->tiles);
    free((void *)r->source.ids);
    free((void *)r->source.offsets);
    st_close(&r->samples);
    lm_close(&r->lm);
}

/* Scores of one treatment of a layer's experts, or of one half of them (half < 0: both); sums:
   [samples] of the host. */
static void score(struct run *r, int64_t l, const struct nn_acts *a, const char *w, const char *act,
                  const float amax[2], int half, double *sums)
{
    const struct backend_ops *op = r->b->ops;
    const struct lm_arch *c = &r->lm.arch;
    const struct model_layer *shape = nn_layer(r->m, l);
    int64_t d = c->hidden_size;
    struct quant_spec ws, as;
    struct quant_range in = {.amax = amax[0]}, inner = {.amax = amax[1]};
    must(quant_parse(w, &ws, &err), w);
    must(quant_parse_act(act, &as, &err), act);
    const struct quant_spec none = {0};
    const struct quant_range *ranges[EXPERT_HALVES] = {&in, &inner};
    struct nn_expert_swap swap = {.by = NULL};
    for (int h = 0; h < EXPERT_HALVES; h++) {
        bool is = half < 0 || half == h;
        swap.w[h] = is ? &ws : &none;
        swap.a[h] = is ? &as : &none;
        swap.range[h] = is && strstr(act, "static") ? ranges[h] : NULL;
    }
    must(nn_expert_operands_new(&swap, c, r->b, r->tiles.rows, &err), "operands");
    float *yq = op->alloc(r->b, r->h_bytes, "yq", &err);
    op->zero(r->b, yq, r->h_bytes);
    op->zero(r->b, r->sums, 64 * sizeof *r->sums);
    for (int i = 0; i < a->routes->part_count; i++) {
        nn_experts_take(r->m, a->routes, i, a->x[shape->experts_input[EXPERT_GATE_UP]]);
        must(nn_experts_add(r->m, l, a->routes, i, &swap, yq, &err), "experts");
    }
    const struct backend_score_job job = {
        .tile = r->t, .y = a->block_y, .dy = a->block_dy, .sums = r->sums};
    op->score_output(r->b, &job, yq, d);
    must(op->download(r->b, sums, r->sums, (size_t)r->source.samples * sizeof *sums, &err),
         "score");
    nn_expert_operands_free(&swap, c, r->b);
    op->free(r->b, yq, r->h_bytes);
}

/* ---- against the definition ---- */

static void compare_routes(const struct run *r, const char *name, int64_t l,
                           const struct nn_acts *a)
{
    char key[64];
    (void)snprintf(key, sizeof key, "sel/%d", (int)l);
    const struct st_tensor *sel = st_need(&r->vectors, key, ST_I32, 2, &err);
    (void)snprintf(key, sizeof key, "w/%d", (int)l);
    const struct st_tensor *w = st_need(&r->vectors, key, ST_F32, 2, &err);
    must(sel && w ? 0 : -1, key);
    size_t n = (size_t)sel->elements;
    tap_ok(memcmp(a->routes->host, sel->data, n * sizeof(int32_t)) == 0,
           "%s: layer %d: every token goes where transformers sends it", name, (int)l);
    double worst = 0;
    float *found = get(r->b, a->routes->w, n * sizeof *found);
    for (size_t i = 0; i < n; i++) {
        float e;
        memcpy(&e, (const char *)w->data + i * 4, sizeof e);
        worst = fmax(worst, fabs((double)found[i] - e));
    }
    free(found);
    tap_ok(worst < 1e-6, "%s: layer %d: weights of the experts (%.1e)", name, (int)l, worst);
}

/* Relative distance of the scores from the vectors' tensor `key`; half: as of score(). */
static void compare_score(struct run *r, const char *name, int64_t l, const struct nn_acts *a,
                          const char *w, const char *act, const float amax[2], int half,
                          const char *key)
{
    static const char *const what[] = {"gate and up", "down", "experts"};
    double sums[64], far = 0, all = 0;
    const struct st_tensor *t = st_need(&r->vectors, key, ST_F64, 1, &err);
    must(t ? 0 : -1, key);
    score(r, l, a, w, act, amax, half, sums);
    for (int64_t i = 0; i < r->source.samples; i++) {
        double e;
        memcpy(&e, (const char *)t->data + i * 8, sizeof e);
        all += e * e;
        far += (sums[i] - e) * (sums[i] - e);
    }
    far = sqrt(far / all);
    tap_ok(all > 0 && far < 1e-4, "%s: layer %d: %s: %s | %s (%.1e)", name, (int)l,
           what[half < 0 ? EXPERT_HALVES : half], w, act, far);
}

static void compare_scores(struct run *r, const char *name, int64_t l, const struct nn_acts *a)
{
    char *list = xstrdup(st_meta(&r->vectors, "treatments")), *rest = list, *one;
    float amax[2];
    char key[64];
    (void)snprintf(key, sizeof key, "amax/%d", (int)l);
    const struct st_tensor *t = st_need(&r->vectors, key, ST_F32, 1, &err);
    must(t ? 0 : -1, key);
    memcpy(amax, t->data, sizeof amax);
    for (int k = 0; (one = strsep(&rest, ";")); k++) {
        char *act = strchr(one, '|');
        *act++ = '\0';
        (void)snprintf(key, sizeof key, "score/%d/%d", k, (int)l);
        compare_score(r, name, l, a, one, act, amax, -1, key);
        for (int h = 0; h < EXPERT_HALVES; h++) {
            (void)snprintf(key, sizeof key, "half/%d/%d/%d", h, k, (int)l);
            compare_score(r, name, l, a, one, act, amax, h, key);
        }
    }
    free(list);
}

static void test_case(const char *name)
{
    struct run r;
    char path[256];
    (void)snprintf(path, sizeof path, "tests/oracle/moe/%s.safetensors", name);
    run_open(&r, name, 2);
    must(st_open(&r.vectors, path, &err), path);
    for (int64_t l = r.lm.arch.num_hidden_layers - 1; l >= 0; l--) {
        const struct nn_acts *a = run_layer(&r, l);
        if (!nn_layer(r.m, l)->experts)
            continue;
        compare_routes(&r, name, l, a);
        compare_scores(&r, name, l, a);
    }
    st_close(&r.vectors);
    run_close(&r);
}

/* ---- forms of a checkpoint ---- */

/* The fused tensors as (experts, out, in) and as (experts, in, out) give the same bits. */
static void test_forms(void)
{
    struct run one, two;
    run_open(&one, "qwen3_vl_moe", 1);
    run_open(&two, "qwen3_vl_moe_turned", 3);
    int64_t layers = one.lm.arch.num_hidden_layers;
    tap_ok(arch_layout(&one.lm.arch, 0) == EXPERTS_LINEAR &&
               arch_layout(&two.lm.arch, 0) == EXPERTS_TRANSPOSED,
           "the shapes say which form it is");
    char *a = get(one.b, one.h[layers], one.h_bytes), *b = get(two.b, two.h[layers], two.h_bytes);
    tap_ok(memcmp(a, b, one.h_bytes) == 0, "both forms: the same bits");
    free(a);
    free(b);
    run_close(&one);
    run_close(&two);
}

/* ---- ties, and rows beside each other ---- */

enum { EXPERTS = 4, K = 2, ROWS = 256 };

static struct backend_tile *plain_tile(struct backend *b, int32_t used)
{
    static int32_t zeros[ROWS];
    static const uint8_t pad[1];
    const int32_t first[] = {0, used};
    const struct backend_tile_desc d = {.rows = ROWS,
                                        .samples = 1,
                                        .first = first,
                                        .pad = pad,
                                        .ids = zeros,
                                        .pos = zeros,
                                        .target = zeros};
    /* cppcheck-suppress returnDanglingLifetime ; the tile has copies of what d refers to */
    return b->ops->tile_new(b, &d, &err);
}

static void test_ties(struct backend *b)
{
    static const float logits[][EXPERTS] = {
        {1, 1, 1, 1}, {0, 2, 2, 2}, {3, 0, 3, 0}, {0, 0, 1, 0}, {NAN, 0, 0, 0}};
    static const int32_t expected[][K] = {{0, 1}, {1, 2}, {0, 2}, {0, 2}, {0, 1}};
    const int32_t n = AQ_COUNT(logits);
    static float l[ROWS * EXPERTS];
    struct backend_tile *t = plain_tile(b, n);
    memcpy(l, logits, sizeof logits);
    float *dev = put(b, l, sizeof l), *dev_p = put(b, NULL, sizeof l);
    float *dev_w = put(b, NULL, ROWS * K * sizeof *dev_w);
    int32_t *dev_sel = put(b, NULL, ROWS * K * sizeof *dev_sel);
    b->ops->route(b, t, dev_p, dev_sel, dev_w, dev, EXPERTS, K, 1);
    int32_t *sel = get(b, dev_sel, ROWS * K * sizeof *sel);
    float *w = get(b, dev_w, ROWS * K * sizeof *w);
    tap_ok(memcmp(sel, expected, sizeof expected) == 0, "of equal ones the lower number");
    tap_ok(w[0] == 0.5F && w[1] == 0.5F && isnan(w[2 * (n - 1)]),
           "weights add up to 1; a NaN stays one");
    tap_ok(sel[n * K] == -1 && w[n * K] == 0, "rows without a token go nowhere");
    free(sel);
    free(w);
    b->ops->free(b, dev, sizeof l);
    b->ops->free(b, dev_p, sizeof l);
    b->ops->free(b, dev_w, ROWS * K * sizeof *dev_w);
    b->ops->free(b, dev_sel, ROWS * K * sizeof *dev_sel);
    b->ops->tile_free(b, t);
}

/*
 * A row's product depends on that row and its place in a chunk, whatever the other rows are and
 * however many chunks there are. Not on the row alone: the BLAS cuts a chunk's rows into blocks, of
 * 12 and then of 4 for Haswell and Zen, whose sums differ.
 */
static void test_places(struct backend *b)
{
    enum { OUT = 48, IN = 72, ROW = 192, PLACES = 3 };
    static const int32_t places[PLACES] = {0, 13, 31};
    static float x[ROWS * IN], w[OUT * IN];
    struct backend_weight weight = {
        .host = w, .dtype = NUM_F32, .rows = OUT, .cols = IN, .name = "w"};
    struct backend_weight *list[] = {&weight};
    const struct backend_weight *one = &weight;
    struct backend_tile *t = plain_tile(b, ROWS);
    int32_t chunk = b->expert_rows;
    bool same = true, filled = true;
    uint32_t seed = 7;
    for (int i = 0; i < OUT * IN; i++)
        w[i] = (float)(int32_t)(seed = seed * 1664525 + 1013904223) * 0x1p-31F;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = (float)(int32_t)(seed = seed * 1664525 + 1013904223) * 0x1p-31F;
    must(b->ops->weights_load(b, list, 1, &err), "weights");
    float *dev_x = put(b, x, sizeof x), *part_x = put(b, NULL, sizeof x);
    float *dev_y = put(b, NULL, ROWS * OUT * sizeof *dev_y);
    for (int k = 0; k < PLACES; k++) {
        float first[OUT] = {0};
        /* alone with the rows before it; in the next chunk, after others; with many after it */
        for (int how = 0; how < 3; how++) {
            int32_t slots[ROWS], count = 0;
            int32_t place = places[k] + (how == 1 ? chunk : 0);
            for (int32_t i = 0; i < place; i++)
                slots[count++] = how == 2 ? i : ROW - place + i;
            for (int32_t i = ROW; i < ROWS && (i == ROW || how > 0); i++)
                slots[count++] = i;
            struct backend_tile *part = b->ops->tile_part(b, t, slots, &count, 1, 1, &err);
            b->ops->part_take(b, part, part_x, dev_x, IN, NULL);
            b->ops->experts_forward(b, part, dev_y, part_x, &one);
            float *taken = get(b, part_x, sizeof x);
            float *y = get(b, dev_y, ROWS * OUT * sizeof *y);
            const float *row = y + (size_t)place * OUT;
            if (how == 0)
                memcpy(first, row, sizeof first);
            if (!same_bits(first, row, sizeof first)) {
                printf("# place %d differs among %d rows\n", (int)place, (int)count);
                same = false;
            }
            same &= first[0] != 0;
            int32_t padded = (count + chunk - 1) / chunk * chunk;
            for (int64_t i = (int64_t)count * OUT; i < (int64_t)padded * OUT; i++)
                filled &= y[i] == 0;
            for (int64_t i = (int64_t)count * IN; i < (int64_t)padded * IN; i++)
                filled &= taken[i] == 0;
            free(taken);
            free(y);
            b->ops->tile_free(b, part);
        }
    }
    tap_ok(same,
           "a row's product is the same bits at its place in a chunk, whatever the others are");
    tap_ok(filled, "rows that fill up a part are zero, and their products");
    must(b->ops->sync(b, &err), "products");
    b->ops->weights_release(b, list, 1);
    b->ops->free(b, dev_x, sizeof x);
    b->ops->free(b, part_x, sizeof x);
    b->ops->free(b, dev_y, ROWS * OUT * sizeof *dev_y);
    b->ops->tile_free(b, t);
}

/* ---- products of numbers whose sums are exact, at shapes that no block divides ---- */

enum { PRODUCT_OUT = 264, PRODUCT_IN = 304 };

/* n multiples of 1/64 below 2: exact in bf16, and sums of 304 products in fp32. */
static float *small_numbers(int64_t n, uint32_t seed)
{
    float *x = xmalloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)((seed = seed * 1664525 + 1013904223) >> 24) / 64 - 2;
    return x;
}

/* y (count, out) = x (count, depth) w, where w[k][o] is w[k * step_k + o * step_o] */
static bool is_product(const float *y, const float *x, const float *w, int count, int out,
                       int depth, int step_k, int step_o)
{
    for (int r = 0; r < count; r++)
        for (int o = 0; o < out; o++) {
            double sum = 0;
            for (int k = 0; k < depth; k++)
                sum += (double)x[r * depth + k] * w[k * step_k + o * step_o];
            if ((double)y[r * out + o] != sum)
                return false;
        }
    return true;
}

/* A matrix in one piece, or its lower half elsewhere, both at odd addresses. */
static void test_products(struct backend *b)
{
    enum { OUT = PRODUCT_OUT, IN = PRODUCT_IN, HALF = OUT / 2 * IN };
    static const int32_t counts[] = {1, 16, 17, 40};
    static char whole[2 * OUT * IN + 1], upper[sizeof whole], lower[2 * HALF + 1];
    float *w = small_numbers((int64_t)OUT * IN, 3), *x = small_numbers((int64_t)ROWS * IN, 5);
    for (int i = 0; i < OUT * IN; i++) {
        uint16_t code = num_to_bf16(w[i]);
        memcpy(whole + 1 + 2 * i, &code, 2);
        memcpy(i < HALF ? upper + 1 + 2 * i : lower + 1 + 2 * (i - HALF), &code, 2);
    }
    struct backend_weight one = {
        .host = whole + 1, .dtype = NUM_BF16, .rows = OUT, .cols = IN, .name = "w"};
    struct backend_weight apart = one, *list[] = {&one, &apart};
    apart.host = upper + 1;
    apart.lower = lower + 1;
    struct backend_tile *t = plain_tile(b, ROWS);
    size_t bytes = (size_t)ROWS * IN * sizeof *x;
    float *dev_x = put(b, x, bytes), *dev_y = put(b, NULL, bytes);
    must(b->ops->weights_load(b, list, 2, &err), "weights");
    for (size_t c = 0; c < AQ_COUNT(counts); c++) {
        int32_t slots[ROWS], count = counts[c];
        for (int32_t i = 0; i < count; i++)
            slots[i] = i;
        struct backend_tile *part = b->ops->tile_part(b, t, slots, &count, 1, 1, &err);
        for (int i = 0; i < 2; i++) {
            const struct backend_weight *of[] = {list[i]};
            b->ops->experts_forward(b, part, dev_y, dev_x, of);
            float *y = get(b, dev_y, bytes);
            b->ops->experts_backward(b, part, dev_y, dev_x, of);
            float *dx = get(b, dev_y, bytes);
            tap_ok(is_product(y, x, w, count, OUT, IN, 1, IN) &&
                       is_product(dx, x, w, count, IN, OUT, IN, 1),
                   "%d rows, weight in %d pieces: both products are exact", (int)count, i + 1);
            free(y);
            free(dx);
        }
        b->ops->tile_free(b, part);
    }
    must(b->ops->sync(b, &err), "products");
    b->ops->weights_release(b, list, 2);
    b->ops->free(b, dev_x, bytes);
    b->ops->free(b, dev_y, bytes);
    b->ops->tile_free(b, t);
    free(w);
    free(x);
}

/* ---- experts one at a time, and together ---- */

enum { TOGETHER_OUT = 48, TOGETHER_IN = 72 };

/* A treatment of experts over a tile: results by slot and by row, and clipped elements. */
struct together {
    float *slots, *sum; /* [ROWS x K][OUT], [ROWS][OUT] */
    double *clipped;    /* [1] */
};

/* Every token goes to two experts, expert 2 gets none, 3 all of them. */
static void run_together(struct backend *b, const struct backend_tile *t, const float *dev_x,
                         struct backend_weight *w, const char *treatment, const char *act,
                         int at_once, struct together *out)
{
    const struct backend_ops *op = b->ops;
    const size_t slot_bytes = sizeof(float) * ROWS * K * TOGETHER_OUT;
    const size_t room = sizeof(float) * (ROWS * K + EXPERTS * 128) * TOGETHER_IN;
    struct quant_spec ws, as;
    struct quant_range range = {.amax = 0.5F};
    must(quant_parse(treatment, &ws, &err), treatment);
    must(quant_parse_act(act, &as, &err), act);
    float *x = put(b, NULL, room), *y = put(b, NULL, room), *dev = put(b, NULL, slot_bytes);
    float *sum = put(b, NULL, slot_bytes);
    double *clipped = put(b, NULL, sizeof *clipped);
    op->zero(b, dev, slot_bytes);
    op->zero(b, sum, slot_bytes);
    op->zero(b, clipped, sizeof *clipped);
    struct backend_operand *wo[EXPERTS], *xo = op->operand_new(b, ROWS, TOGETHER_IN, 0, &err);
    for (int e = 0; e < EXPERTS; e++) {
        wo[e] = op->operand_new(b, TOGETHER_OUT, TOGETHER_IN, 1, &err);
        op->quantize_weight(b, wo[e], &w[e], &ws);
    }
    for (int first = 0; first < EXPERTS; first += at_once) {
        int32_t slots[ROWS * K], ends[EXPERTS], n = 0;
        for (int e = first; e < first + at_once; e++) {
            for (int32_t i = 0; i < ROWS - 9 && e != 2; i++) /* the last rows hold no token */
                if (e == 3 || i % 3 % 2 == e)
                    slots[n++] = i * K + (e == 3);
            ends[e - first] = n;
        }
        if (n == 0)
            continue;
        struct backend_tile *part = op->tile_part(b, t, slots, ends, at_once, K, &err);
        op->part_take(b, part, x, dev_x, TOGETHER_IN, NULL);
        op->quantize_act(b, xo, part, x, TOGETHER_IN, &as, strstr(act, "static") ? &range : NULL,
                         clipped);
        op->experts_quantized(b, part, y, xo, (const struct backend_operand *const *)wo + first);
        op->part_put(b, part, dev, y, TOGETHER_OUT);
        op->part_add(b, part, sum, y, TOGETHER_OUT, NULL);
        op->tile_free(b, part);
    }
    *out = (struct together){get(b, dev, slot_bytes), get(b, sum, slot_bytes),
                             get(b, clipped, sizeof *clipped)};
    for (int e = 0; e < EXPERTS; e++)
        op->operand_free(b, wo[e]);
    op->operand_free(b, xo);
    op->free(b, x, room);
    op->free(b, y, room);
    op->free(b, dev, slot_bytes);
    op->free(b, sum, slot_bytes);
    op->free(b, clipped, sizeof *clipped);
}

static void test_together(struct backend *b)
{
    static float x[ROWS * TOGETHER_IN], w[EXPERTS][TOGETHER_OUT * TOGETHER_IN];
    static const char *const pairs[][2] = {{"none", "none"},
                                           {"int8:axis0:static", "int8:tensor:static"},
                                           {"e2m1:nvfp4(16):dynamic", "e4m3:tensor:dynamic"},
                                           {"int4:block(-1:24):static", "int8:token:dynamic"},
                                           {"int4:block(-1:64):static", "e4m3:token:dynamic"}};
    const size_t n = (size_t)ROWS * K * TOGETHER_OUT;
    struct backend_weight weights[EXPERTS], *list[EXPERTS];
    struct backend_tile *t = plain_tile(b, ROWS - 9);
    uint32_t seed = 11;
    for (int i = 0; i < (ROWS - 9) * TOGETHER_IN; i++)
        x[i] = (float)(int32_t)(seed = seed * 1664525 + 1013904223) * 0x1p-31F;
    for (int e = 0; e < EXPERTS; e++) {
        for (int i = 0; i < TOGETHER_OUT * TOGETHER_IN; i++)
            w[e][i] = (float)(int32_t)(seed = seed * 1664525 + 1013904223) * 0x1p-31F;
        weights[e] = (struct backend_weight){
            .host = w[e], .dtype = NUM_F32, .rows = TOGETHER_OUT, .cols = TOGETHER_IN, .name = "w"};
        list[e] = &weights[e];
    }
    must(b->ops->weights_load(b, list, EXPERTS, &err), "weights");
    float *dev_x = put(b, x, sizeof x);
    int at_once = b->experts_at_once < EXPERTS ? 1 : EXPERTS;
    for (size_t i = 0; i < AQ_COUNT(pairs); i++) {
        struct together one, all;
        double found = 0;
        run_together(b, t, dev_x, weights, pairs[i][0], pairs[i][1], 1, &one);
        run_together(b, t, dev_x, weights, pairs[i][0], pairs[i][1], at_once, &all);
        for (size_t k = 0; k < n; k++)
            found += fabs((double)one.slots[k]);
        tap_ok(found > 0 && same_bits(one.slots, all.slots, n * sizeof(float)) &&
                   same_bits(one.sum, all.sum, n * sizeof(float)),
               "%s | %s: %d experts at a time: the same bits as one", pairs[i][0], pairs[i][1],
               at_once);
        tap_ok(*one.clipped == *all.clipped && (*one.clipped > 0) == (i == 1),
               "and as many clipped elements (%.0f)", *all.clipped);
        free(one.slots);
        free(one.sum);
        free(one.clipped);
        free(all.slots);
        free(all.sum);
        free(all.clipped);
    }
    must(b->ops->sync(b, &err), "products");
    b->ops->weights_release(b, list, EXPERTS);
    b->ops->free(b, dev_x, sizeof x);
    b->ops->tile_free(b, t);
}

/* test_experts [DEVICE] */
int main(int argc, char **argv)
{
    backend_begin(argv);
    if (argc > 1)
        device = argv[1];
    static const char *const cases[] = {"qwen3_moe", "qwen3_moe_plain", "mixtral", "olmoe"};
    for (size_t i = 0; i < AQ_COUNT(cases); i++)
        test_case(cases[i]);
    test_forms();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct backend *b;
        struct backend_config config = {.threads = 2, .bf16 = bf16};
        must(backend_open(&b, device, &config, &err), "backend");
        test_ties(b);
        test_places(b);
        test_products(b);
        test_together(b);
        backend_close(b);
    }
    return tap_done();
}
