/*
 * One tile of a model from its embedding to the first layer's gradients, and what came of it
 * against a file of vectors. Include after `err` and `must`.
 */
#ifndef AQ_TEST_MODEL_RUN_H
#define AQ_TEST_MODEL_RUN_H

#include "base/sha256.h"
#include "nn/experts.h"
#include "nn/model.h"
#include "quant/quant.h"

#include <math.h>

/* Where it is computed; `make test-gpu` starts the programs with "cuda". */
static const char *model_device = "cpu";

/* Everything one run of a case leaves: what is compared, and a digest of all of it. */
struct result {
    float *logits; /* (rows, vocabulary) */
    float **dy;    /* [layer * MODEL_LINEARS + linear]: (rows, out) */
    float **block; /* [layer]: at the output of the experts, (rows, hidden); NULL: there are none */
    double *loss;
    int32_t rows, used;
    double unchanged; /* score of all linears without any treatment: exactly 0 */
    char digest[AQ_SHA256_HEX];
};

static void *get(struct backend *b, const void *dev, size_t bytes)
{
    void *host = xmalloc(bytes);
    must(b->ops->download(b, host, dev, bytes, &err), "download");
    return host;
}

/* Score of a layer's experts left as they are. */
static void experts_score(struct backend *b, const struct backend_tile *t, struct nn_model *m,
                          int64_t layer, const struct nn_acts *a, int32_t rows, double *sums)
{
    const struct model_layer *l = nn_layer(m, layer);
    const struct lm_arch *c = nn_arch(m);
    const struct quant_spec none = {0};
    int64_t d = c->hidden_size;
    size_t bytes = (size_t)rows * (size_t)d * sizeof(float);
    float *yq = b->ops->alloc(b, bytes, "yq", &err);
    struct nn_expert_swap swap = {.w = {&none, &none}, .a = {&none, &none}};
    must(nn_expert_operands_new(&swap, c, b, rows, &err), "operands");
    b->ops->zero(b, yq, bytes);
    for (int i = 0; i < a->routes->part_count; i++) {
        nn_experts_take(m, a->routes, i, a->x[l->experts_input[EXPERT_GATE_UP]]);
        must(nn_experts_add(m, layer, a->routes, i, &swap, yq, &err), "experts");
    }
    struct backend_score_job job = {.tile = t, .y = a->block_y, .dy = a->block_dy, .sums = sums};
    b->ops->score_output(b, &job, yq, d);
    must(b->ops->sync(b, &err), "score");
    nn_expert_operands_free(&swap, c, b);
    b->ops->free(b, yq, bytes);
}

/* Scores of a layer's linears left as they are. A bias that one side lacked would show. */
static double unchanged_score(struct backend *b, const struct backend_tile *t, struct nn_model *m,
                              int64_t layer, const struct nn_acts *a, int32_t rows, int32_t samples)
{
    const struct model_layer *l = nn_layer(m, layer);
    const struct quant_spec none = {0};
    size_t bytes = (size_t)samples * sizeof(double);
    double sum = 0, *sums = b->ops->alloc(b, bytes, "sums", &err), *host;
    must(sums ? 0 : -1, "sums");
    b->ops->zero(b, sums, bytes);
    for (int i = 0; i < l->linear_count; i++) {
        const struct model_linear *n = &l->linears[i];
        struct backend_operand *wo = b->ops->operand_new(b, n->rows, n->cols, 1, &err);
        struct backend_operand *xo = b->ops->operand_new(b, rows, n->cols, 0, &err);
        struct backend_score_job job = {
            .tile = t, .x = xo, .y = a->y[i], .dy = a->dy[i], .sums = sums};
        b->ops->quantize_weight(b, wo, nn_weight(m, layer, i), &none);
        b->ops->quantize_act(b, xo, t, a->x[n->input], n->cols, &none, NULL, NULL);
        b->ops->score(b, wo, &job, 1);
        must(b->ops->sync(b, &err), "score");
        b->ops->operand_free(b, wo);
        b->ops->operand_free(b, xo);
    }
    if (l->experts)
        experts_score(b, t, m, layer, a, rows, sums);
    host = get(b, sums, bytes);
    for (int32_t s = 0; s < samples; s++)
        sum += host[s];
    free(host);
    b->ops->free(b, sums, bytes);
    return sum;
}

/* One tile from embedding to the first layer's gradients. */
static struct result run_tile(const struct nn_source *s, const struct tile *t, int threads)
{
    struct backend *b;
    struct nn_model *m;
    struct backend_config config = {.threads = threads};
    const struct lm_arch *c = s->arch;
    struct result out = {.rows = t->desc.rows, .used = t->used};
    size_t rows = (size_t)t->desc.rows, h_bytes = rows * (size_t)c->hidden_size * sizeof(float);
    must(backend_open(&b, model_device, &config, &err), "backend");
    must(nn_open(&m, s, b, t->desc.rows, 1, &err), "model");
    must(nn_use_ends(m, &err), "ends");
    struct backend_tile *dev = b->ops->tile_new(b, &t->desc, &err);
    char **h = xcalloc((size_t)c->num_hidden_layers + 2, sizeof *h);
    for (int64_t l = 0; l < c->num_hidden_layers + 2; l++)
        h[l] = b->ops->alloc(b, h_bytes, "h", &err);
    char *dh = h[c->num_hidden_layers + 1];
    nn_embed(m, dev, h[0]);
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        must(nn_use_layer(m, l, l + 1 < c->num_hidden_layers ? l + 1 : -1, &err), "layer");
        (void)nn_layer_forward(m, l, dev, h[l], h[l + 1], NULL);
    }
    size_t logit_bytes = rows * (size_t)c->vocab_size * sizeof(float);
    size_t loss_bytes = (size_t)t->desc.samples * sizeof(double);
    float *logits = b->ops->alloc(b, logit_bytes, "logits", &err);
    double *loss = b->ops->alloc(b, loss_bytes, "loss", &err);
    nn_logits(m, dev, h[c->num_hidden_layers], logits);
    out.logits = get(b, logits, logit_bytes);
    struct aq_sha256 sha;
    aq_sha256_init(&sha);
    aq_sha256_add(&sha, out.logits, logit_bytes);
    out.dy = xcalloc((size_t)(c->num_hidden_layers * MODEL_LINEARS), sizeof *out.dy);
    out.block = xcalloc((size_t)c->num_hidden_layers, sizeof *out.block);
    for (int64_t l = c->num_hidden_layers - 1; l >= 0; l--) {
        must(nn_use_layer(m, l, l - 1, &err), "layer");
        const struct nn_acts *a = l == c->num_hidden_layers - 1
                                      ? nn_last_backward(m, dev, h[l], loss, dh, 1, NULL)
                                      : nn_layer_backward(m, l, dev, h[l], dh, l > 0, NULL);
        out.unchanged += unchanged_score(b, dev, m, l, a, t->desc.rows, t->desc.samples);
        for (int i = 0; i < nn_layer(m, l)->linear_count; i++) {
            size_t bytes = rows * (size_t)nn_weight(m, l, i)->rows * sizeof(float);
            float *dy = get(b, a->dy[i], bytes);
            out.dy[l * MODEL_LINEARS + i] = dy;
            aq_sha256_add(&sha, dy, bytes);
        }
        if (nn_layer(m, l)->experts) {
            out.block[l] = get(b, a->block_dy, h_bytes);
            aq_sha256_add(&sha, out.block[l], h_bytes);
        }
        must(nn_check(m, &err), "layer");
    }
    out.loss = get(b, loss, loss_bytes);
    aq_sha256_add(&sha, out.loss, loss_bytes);
    aq_sha256_hex(&sha, out.digest);
    b->ops->free(b, logits, logit_bytes);
    b->ops->free(b, loss, loss_bytes);
    for (int64_t l = 0; l < c->num_hidden_layers + 2; l++)
        b->ops->free(b, h[l], h_bytes);
    free(h);
    b->ops->tile_free(b, dev);
    nn_close(m);
    backend_close(b);
    return out;
}

static void result_release(struct result *r, const struct lm_arch *c)
{
    for (int64_t i = 0; i < c->num_hidden_layers * MODEL_LINEARS; i++)
        free(r->dy[i]);
    for (int64_t l = 0; l < c->num_hidden_layers; l++)
        free(r->block[l]);
    free(r->block);
    free(r->dy);
    free(r->logits);
    free(r->loss);
}

static double distance(const float *found, const char *expected, int64_t n)
{
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        float e;
        memcpy(&e, expected + i * 4, sizeof e);
        diff += ((double)found[i] - e) * ((double)found[i] - e);
        norm += (double)e * e;
    }
    return norm > 0 ? sqrt(diff / norm) : diff;
}

static void compare(const char *name, const struct st_file *f, const struct lm_arch *c,
                    const struct result *r)
{
    const struct st_tensor *z = st_need(f, "logits", ST_F32, 2, &err);
    const struct st_tensor *loss = st_need(f, "loss", ST_F64, 1, &err);
    must(z && loss ? 0 : -1, name);
    tap_ok((int64_t)z->shape[0] == r->used, "%s: %d rows", name, (int)r->used);
    double far = distance(r->logits, z->data, r->used * c->vocab_size);
    tap_ok(far < 1e-5, "%s: logits (%.1e)", name, far);
    far = 0;
    for (uint64_t s = 0; s < loss->shape[0]; s++) {
        double e;
        memcpy(&e, (const char *)loss->data + s * 8, sizeof e);
        far = fmax(far, fabs(r->loss[s] - e) / (e != 0 ? fabs(e) : 1));
    }
    tap_ok(far < 1e-5, "%s: loss of each sample (%.1e)", name, far);
    double worst = 0;
    int compared = 0, wanted = 0, blocks = 0;
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        struct model_layer shape;
        char name_of_block[80];
        model_layer_describe(&shape, c, l);
        wanted += r->block[l] != NULL;
        (void)snprintf(name_of_block, sizeof name_of_block, "dy/%d.mlp.experts", (int)l);
        const struct st_tensor *block = st_find(f, name_of_block);
        if (block && r->block[l]) {
            blocks++;
            worst = fmax(worst, distance(r->block[l], block->data, (int64_t)block->elements));
        }
        wanted += l == 0 ? shape.linear_count : 0;
        for (int i = 0; i < shape.linear_count; i++) {
            char key[80];
            (void)snprintf(key, sizeof key, "dy/%d.%s", (int)l, shape.linears[i].name);
            const struct st_tensor *t = st_find(f, key);
            compared += t != NULL;
            if (t)
                worst = fmax(worst,
                             distance(r->dy[l * MODEL_LINEARS + i], t->data, (int64_t)t->elements));
        }
    }
    tap_ok(compared + blocks >= wanted && worst < 1e-5,
           "%s: gradient at %d linears and %d mixtures (worst %.1e)", name, compared, blocks,
           worst);
    tap_ok(r->unchanged == 0, "%s: linears left as they are score 0", name);
}

#endif
