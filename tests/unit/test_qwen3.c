/*
 * The model against transformers in float64 (vectors of tests/oracle/qwen3.py): logits, loss, and
 * the gradient at the output of every linear; the same bits for any number of threads and for
 * any set of samples behind the ones compared.
 */
#include "tap.h"

#include "qwen3_case.h"

#include "base/sha256.h"

enum { LINEARS = 7 };

/* Everything one run of a case leaves: what is compared, and a digest of all of it. */
struct result {
    float *logits, **dy; /* dy[layer * LINEARS + linear] */
    double *loss;
    int32_t rows, used;
    char digest[AQ_SHA256_HEX];
};

static void *get(struct backend *b, const void *dev, size_t bytes)
{
    void *host = xmalloc(bytes);
    must(b->ops->download(b, host, dev, bytes, &err), "download");
    return host;
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
    must(backend_open(&b, "cpu", &config, &err), "backend");
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
    out.dy = xcalloc((size_t)(c->num_hidden_layers * LINEARS), sizeof *out.dy);
    for (int64_t l = c->num_hidden_layers - 1; l >= 0; l--) {
        must(nn_use_layer(m, l, l - 1, &err), "layer");
        const struct nn_acts *a = l == c->num_hidden_layers - 1
                                      ? nn_last_backward(m, dev, h[l], loss, dh, 1, NULL)
                                      : nn_layer_backward(m, l, dev, h[l], dh, l > 0, NULL);
        for (int i = 0; i < LINEARS; i++) {
            size_t bytes = rows * (size_t)nn_weight(m, l, i)->rows * sizeof(float);
            float *dy = get(b, a->dy[i], bytes);
            out.dy[l * LINEARS + i] = dy;
            aq_sha256_add(&sha, dy, bytes);
        }
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
    for (int64_t i = 0; i < c->num_hidden_layers * LINEARS; i++)
        free(r->dy[i]);
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
    struct model_layer shape;
    model_layer_describe(&shape, c, 0);
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
    int compared = 0;
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        for (int i = 0; i < LINEARS; i++) {
            char key[80];
            (void)snprintf(key, sizeof key, "dy/%d.%s", (int)l, shape.linears[i].name);
            const struct st_tensor *t = st_find(f, key);
            compared += t != NULL;
            if (t)
                worst =
                    fmax(worst, distance(r->dy[l * LINEARS + i], t->data, (int64_t)t->elements));
        }
    }
    tap_ok(compared >= LINEARS && worst < 1e-5, "%s: gradient at %d linears (worst %.1e)", name,
           compared, worst);
}

static void run_case(const char *name, const char *checkpoint)
{
    struct qwen3_case c;
    struct tiles tiles, fewer;
    case_open(&c, name, checkpoint);
    const struct nn_source *s = &c.source;
    must(tiles_build(&tiles, &c.samples, 512, s->arch->vocab_size, &err), "tiles");
    tap_ok(tiles.count == 1, "%s: one tile", name);

    struct result one = run_tile(s, &tiles.items[0], 1);
    compare(name, &c.file, s->arch, &one);
    static const int threads[] = {2, 3, 8};
    for (size_t i = 0; i < AQ_COUNT(threads); i++) {
        struct result many = run_tile(s, &tiles.items[0], threads[i]);
        tap_ok(strcmp(one.digest, many.digest) == 0, "%s: same bits with %d threads", name,
               threads[i]);
        result_release(&many, s->arch);
    }
    if (c.samples.samples > 3)
        c.samples.samples = 3;
    must(tiles_build(&fewer, &c.samples, 512, s->arch->vocab_size, &err), "tiles");
    struct result part = run_tile(s, &fewer.items[0], 2);
    size_t q_bytes =
        (size_t)(part.used * s->arch->num_attention_heads * s->arch->head_dim) * sizeof(float);
    tap_ok(memcmp(part.loss, one.loss, (size_t)c.samples.samples * sizeof(double)) == 0 &&
               memcmp(part.dy[0], one.dy[0], q_bytes) == 0,
           "%s: same bits without the later samples", name);
    result_release(&part, s->arch);
    result_release(&one, s->arch);
    tiles_release(&tiles);
    tiles_release(&fewer);
    case_close(&c);
}

int main(void)
{
    static const char *const cases[] = {"plain", "grouped", "deep", "vl", "padded"};
    for (size_t i = 0; i < AQ_COUNT(cases); i++)
        run_case(cases[i], NULL);
    run_case("demo", "models/qwen3_vl_demo/checkpoint");
    return tap_done();
}
