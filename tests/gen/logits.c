/*
 * logits LM TOKENS OUT [INPUTS]: the model's logits at every token of a data set, F32 (tokens,
 * vocabulary), without a header, and what its linears read: layer by layer, input by input, F32
 * (tokens, columns). On the CPU, all samples in one tile.
 */
#include "base/file.h"
#include "base/mem.h"
#include "model/lm.h"
#include "nn/model.h"
#include "text/tokens.h"

#include <stdio.h>
#include <stdlib.h>

static struct aq_err err;

static void must(int status)
{
    if (status < 0) {
        (void)fprintf(stderr, "logits: %s\n", err.msg);
        exit(1);
    }
}

static struct tiles one_tile(const struct tokens *t, int64_t vocab)
{
    struct tile_source samples = {
        .ids = t->ids, .offsets = t->offsets, .samples = t->samples, .pad_id = -1};
    struct tiles tiles;
    must(tiles_build(&tiles, &samples, (int32_t)t->id_count, vocab, &err));
    return tiles;
}

static void write_all(FILE *f, const char *path, const float *x, size_t count)
{
    if (fwrite(x, sizeof *x, count, f) != count) {
        perror(path);
        exit(1);
    }
}

static FILE *open_file(const char *path)
{
    FILE *f = fopen(path, "wb");
    if (!f) {
        perror(path);
        exit(1);
    }
    return f;
}

static void close_file(FILE *f, const char *path)
{
    if (fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

/* Forward through all layers; z: (tile rows, vocabulary) on the host. inputs: a path, or NULL. */
static void forward(struct backend *b, struct nn_model *m, const struct tile *tile, float *z,
                    size_t tokens, const char *inputs)
{
    FILE *f = inputs ? open_file(inputs) : NULL;
    const struct lm_arch *a = nn_arch(m);
    size_t rows = (size_t)tile->desc.rows;
    size_t h_bytes = rows * (size_t)a->hidden_size * b->act_size;
    size_t z_bytes = rows * (size_t)a->vocab_size * sizeof *z;
    void *h = b->ops->alloc(b, h_bytes, "states", &err);
    void *dev = b->ops->alloc(b, z_bytes, "logits", &err);
    struct backend_tile *t = b->ops->tile_new(b, &tile->desc, &err);
    must(h && dev && t ? nn_use_ends(m, &err) : -1);
    nn_embed(m, t, h);
    for (int64_t l = 0; l < nn_layers(m); l++) {
        must(nn_use_layer(m, l, l + 1 < nn_layers(m) ? l + 1 : -1, &err));
        const struct nn_acts *acts = nn_layer_forward(m, l, t, h, h, NULL);
        const struct model_layer *shape = nn_layer(m, l);
        for (int i = 0; f && i < shape->input_count; i++) /* of the CPU: host memory */
            write_all(f, inputs, acts->x[i], tokens * (size_t)shape->inputs[i].cols);
    }
    if (f)
        close_file(f, inputs);
    nn_logits(m, t, h, dev);
    must(b->ops->download(b, z, dev, z_bytes, &err));
    b->ops->tile_free(b, t);
    b->ops->free(b, h, h_bytes);
    b->ops->free(b, dev, z_bytes);
}

int main(int argc, char **argv)
{
    struct lm lm;
    struct tokens tokens;
    struct backend *b;
    struct nn_model *m;
    const struct backend_config config = {0};
    backend_begin(argv);
    if (argc != 4 && argc != 5) {
        (void)fprintf(stderr, "usage: logits LM TOKENS OUT [INPUTS]\n");
        return 2;
    }
    must(lm_open(&lm, argv[1], &err));
    must(tokens_open(&tokens, argv[2], &err));
    must(backend_open(&b, "cpu", &config, &err));
    struct tiles tiles = one_tile(&tokens, lm.arch.vocab_size);
    const struct nn_source source = nn_source_of_lm(&lm);
    must(nn_open(&m, &source, b, tiles.rows, 0, &err));
    size_t cells = (size_t)tiles.rows * (size_t)lm.arch.vocab_size;
    float *z = xcalloc(cells, sizeof *z);
    size_t count = (size_t)tokens.id_count;
    forward(b, m, &tiles.items[0], z, count, argc == 5 ? argv[4] : NULL);
    FILE *f = open_file(argv[3]);
    write_all(f, argv[3], z, count * (size_t)lm.arch.vocab_size);
    close_file(f, argv[3]);
    free(z);
    nn_close(m);
    tiles_release(&tiles);
    backend_close(b);
    tokens_release(&tokens);
    lm_close(&lm);
    return 0;
}
