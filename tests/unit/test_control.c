/*
 * kl_div's control can fail: a backend whose ops drift from one call to the next is found out by
 * the unchanged model that walks along, and nothing of the layer is kept.
 */
#include "tap.h"

#include "qwen3_case.h"

#include "score/scoring.h"

#include <limits.h>
#include <unistd.h>

static int calls, steady; /* ops of this kind so far, and how many of them come out right */

static void drifting_glu(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                         const void *up, int64_t cols, enum backend_act act)
{
    backend_cpu_ops.glu_forward(b, t, y, gate, up, cols, act);
    if (calls++ >= steady)
        *(float *)y += 0.25F;
}

struct bench {
    struct qwen3_case c;
    struct tiles tiles;
    struct backend *b;
    struct nn_model *m;
    struct candidates candidates;
    struct score_rows rows;
    struct json *identity, *none;
    struct model_groups groups;
    char dir[40];
};

static void add_candidate(struct candidates *all, const char *w)
{
    struct candidate c = {.w = xstrdup(w), .a = xstrdup("none")};
    treatment_id(c.w, c.a, c.id);
    must(quant_parse(c.w, &c.ws, &err), w);
    AQ_GROW(all->items, all->count, all->cap);
    all->items[all->count++] = c;
}

static void bench_open(struct bench *s, const struct backend_ops *ops)
{
    const struct backend_config config = {.threads = 2};
    *s = (struct bench){.dir = "/tmp/aq-test-control-XXXXXX"};
    must(mkdtemp(s->dir) ? 0 : -1, "mkdtemp");
    case_open(&s->c, "deep", NULL);
    must(tiles_build(&s->tiles, &s->c.samples, 512, s->c.source.arch->vocab_size, &err), "tiles");
    must(backend_open(&s->b, "cpu", &config, &err), "backend");
    s->b->ops = ops;
    must(nn_open(&s->m, &s->c.source, s->b, s->tiles.rows, 1, &err), "model");
    add_candidate(&s->candidates, "int8:axis0:static");
    score_rows_make(&s->rows, &s->candidates, NULL, 0, s->c.samples.samples);
    s->identity = json_new_object();
    json_add_string(s->identity, "method", "kl_div");
    s->none = json_new_object();
    model_groups_make(&s->groups, s->c.source.arch, NULL);
}

static struct store_writer *open_store(const struct bench *s)
{
    struct store_writer *w = NULL;
    char *path = xasprintf("%s/s", s->dir);
    int64_t samples = s->c.samples.samples;
    int32_t *labels = xcalloc((size_t)samples, sizeof *labels);
    const int32_t first[] = {0, (int32_t)samples};
    struct store_plan plan = {.shape = {(int64_t)s->groups.count, s->groups.layers, samples, 1},
                              .identity = s->identity,
                              .weights = s->none,
                              .groups = &s->groups,
                              .ranges = s->none,
                              .candidates = &s->candidates,
                              .rows = &s->rows,
                              .labels = labels,
                              .sample_tokens = labels,
                              .tile_first = first};
    must(s->tiles.count == 1 ? 0 : -1, "one tile");
    must(store_begin(&w, path, &plan, false, &err), "store");
    free(labels);
    free(path);
    return w;
}

static void bench_close(struct bench *s)
{
    static const char *const files[] = {"s.part", "s.lock"};
    for (size_t i = 0; i < AQ_COUNT(files); i++) {
        char *path = xasprintf("%s/%s", s->dir, files[i]);
        (void)unlink(path);
        free(path);
    }
    (void)rmdir(s->dir);
    nn_close(s->m);
    backend_close(s->b);
    tiles_release(&s->tiles);
    candidates_release(&s->candidates);
    score_rows_release(&s->rows);
    json_free(s->identity);
    json_free(s->none);
    model_groups_release(&s->groups);
    case_close(&s->c);
}

/* Layers that are in the store after a run whose first ops are right; err: of the run. */
static int layers_scored(const struct backend_ops *ops, int right)
{
    struct bench bench;
    int done = 0;
    bench_open(&bench, ops);
    struct scoring s = {.b = bench.b,
                        .model = bench.m,
                        .groups = &bench.groups,
                        .tiles = &bench.tiles,
                        .candidates = &bench.candidates,
                        .rows = &bench.rows,
                        .store = open_store(&bench),
                        .end_tile = 1,
                        .kl_div = true,
                        .spill_dir = bench.dir};
    calls = 0;
    steady = right;
    err = (struct aq_err){0};
    int status = kl_run(&s, &err);
    tap_ok((status == 0) == (err.code == 0), "a failure has a message, and only a failure");
    for (int64_t l = 0; l < bench.c.source.arch->num_hidden_layers; l++)
        done += store_done(s.store, 0, l, 0);
    store_writer_free(s.store);
    bench_close(&bench);
    return done;
}

/* A tile holds what fits, and no row more. */
static void full_tiles(void)
{
    static const int32_t ids[17] = {0};
    static const int64_t offsets[] = {0, 4, 8, 12, 17};
    static const int32_t samples[] = {2, 1, 1};
    const struct tile_source source = {.ids = ids, .offsets = offsets, .samples = 4, .pad_id = -1};
    struct tiles t;
    must(tiles_build(&t, &source, 8, 1, &err), "tiles");
    int right = t.rows == 8 && t.count == AQ_COUNT(samples);
    for (size_t i = 0; right && i < t.count; i++)
        right = t.items[i].desc.samples == samples[i] && t.items[i].used <= t.rows;
    tap_ok(right, "4 + 4, 4, 5 rows in tiles of 8");
    tiles_release(&t);
}

/* A sum that is not a number is refused, named, and not written. */
static void finite_sums(void)
{
    int32_t zero = 0;
    struct tile tile = {.desc.samples = 2, .sample = 5, .tokens = &zero};
    const struct tiles tiles = {.items = &tile, .count = 1};
    size_t first[] = {0, 1};
    struct model_group group = {.name = (char *)"layers.0.mlp.down_proj"};
    const struct model_groups groups = {.items = &group, .count = 1, .first = first, .layers = 1};
    struct candidate candidate = {.w = (char *)"int8:tensor:static", .a = (char *)"none"};
    const struct candidates candidates = {.items = &candidate, .count = 1};
    struct score_row row = {.samples = 7};
    const struct score_rows rows = {.items = &row, .count = 1};
    const struct scoring s = {
        .groups = &groups, .tiles = &tiles, .candidates = &candidates, .rows = &rows};
    const double bad[] = {INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < AQ_COUNT(bad); i++) {
        const double sums[] = {1, bad[i]}, clip[] = {0, 0};
        struct scoring_result result = {{NULL}};
        result.parts[STORE_SUMS] = sums;
        result.parts[STORE_CLIP] = clip;
        struct aq_err why = {0};
        tap_ok(scoring_save(&s, 0, 0, 0, &result, &why) < 0 && why.code == AQ_EINPUT &&
                   strstr(why.msg, "layers.0.mlp.down_proj: the score of 'int8:tensor:static | "
                                   "none' is not finite at sample 6"),
               "%g: %s", bad[i], why.msg);
    }
}

int main(void)
{
    full_tiles();
    finite_sums();
    struct backend_ops drifting = backend_cpu_ops;
    drifting.glu_forward = drifting_glu;
    int layers = layers_scored(&backend_cpu_ops, INT_MAX);
    tap_ok(layers > 1 && err.code == 0, "the control of the CPU backend is exactly 0");
    /* one op a layer brings the inputs; each variant of the last layer takes two, the control one
     */
    tap_ok(layers_scored(&drifting, layers) == 0 && err.code == AQ_ERUN,
           "an op that drifts after the first pass: nothing is scored");
    char expected[64];
    (void)snprintf(expected, sizeof expected,
                   "layer %d: the unchanged model diverges from itself by ", layers - 1);
    tap_ok(strncmp(err.msg, expected, strlen(expected)) == 0, "%s", err.msg);
    int last = layers + 2 * 4 + 1 /* groups */;
    tap_ok(layers_scored(&drifting, last) == 1 && err.code == AQ_ERUN,
           "one that drifts after the last layer: that layer alone");
    return tap_done();
}
