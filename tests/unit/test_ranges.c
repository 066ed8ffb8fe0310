/*
 * Activation ranges against transformers in float64 (vectors of tests/oracle/qwen3.py), and the
 * file that holds them.
 */
#include "tap.h"

#include "qwen3_case.h"

#include "store/range_file.h"
#include "score/ranges.h"

#include <float.h>
#include <unistd.h>

static const int64_t prefixes[] = {2, 5};

/* Largest relative error. */
static double farthest(const float *found, const struct st_tensor *expected)
{
    double far = 0;
    for (uint64_t i = 0; i < expected->elements; i++) {
        float e;
        memcpy(&e, (const char *)expected->data + i * sizeof e, sizeof e);
        far = fmax(far, found[i] == e ? 0 : fabs((double)found[i] - e) / (double)fmaxf(e, FLT_MIN));
    }
    return far;
}

/* Per tensor: the vectors hold one number a sample, pads included. */
static float *amax_of(const struct ranges *r)
{
    size_t n = r->model->input_count * (size_t)r->samples;
    float *all = xcalloc(n, sizeof *all);
    for (size_t i = 0; i < n; i++)
        all[i] = fmaxf(r->first[i], r->rest[i]);
    return all;
}

/* A padded sample's number in the vectors may be that of its pad row. */
static void add_pads(float *all, const struct ranges *r, const struct tiles *tiles)
{
    for (size_t t = 0; t < tiles->count; t++)
        for (int32_t s = 0; s < tiles->items[t].desc.samples; s++)
            for (size_t i = 0; i < r->model->input_count && tiles->items[t].desc.pad[s]; i++) {
                float *to = &all[(int64_t)i * r->samples + tiles->items[t].sample + s];
                *to = fmaxf(*to, r->pad[i]);
            }
}

/* Largest error of the means, relative to a sum of numbers as large as their largest. */
static double means_far(const struct st_file *f, const struct ranges *r, size_t input)
{
    char key[64];
    int64_t cols = r->model->inputs[input].cols;
    (void)snprintf(key, sizeof key, "mean/%s", r->model->inputs[input].name + strlen("layers."));
    const struct st_tensor *t = st_need(f, key, ST_F64, 2, &err);
    must(t ? 0 : -1, key);
    double far = 0;
    for (uint64_t i = 0; i < t->elements; i++) {
        double e, found = r->mean[input][i];
        memcpy(&e, (const char *)t->data + i * sizeof e, sizeof e);
        far = fmax(far, fabs(found - e) / (double)r->channel[input][i]);
    }
    return t->elements == AQ_COUNT(prefixes) * (uint64_t)cols ? far : INFINITY;
}

static void compare(const char *name, const struct st_file *f, const struct ranges *r,
                    const struct tiles *tiles)
{
    const struct st_tensor *amax = st_need(f, "amax", ST_F32, 2, &err);
    const struct st_tensor *pad = st_find(f, "pad");
    must(amax ? 0 : -1, name);
    float *found = amax_of(r);
    add_pads(found, r, tiles);
    double far = farthest(found, amax), worst = 0, mean = 0;
    free(found);
    tap_ok(far < 1e-5, "%s: per tensor and sample (%.1e)", name, far);
    tap_ok(!pad == !r->pad && (!pad || farthest(r->pad, pad) < 1e-5), "%s: of the pad row", name);
    for (size_t i = 0; i < r->model->input_count; i++) {
        char key[64]; /* the vectors say "channel/3.down", aq "layers.3.down" */
        (void)snprintf(key, sizeof key, "channel/%s", r->model->inputs[i].name + strlen("layers."));
        const struct st_tensor *t = st_need(f, key, ST_F32, 2, &err);
        must(t ? 0 : -1, key);
        worst = fmax(worst, farthest(r->channel[i], t));
        mean = fmax(mean, means_far(f, r, i));
    }
    tap_ok(worst < 1e-5, "%s: per channel of each prefix (%.1e)", name, worst);
    tap_ok(mean < 1e-5, "%s: means per channel of each prefix, without pads (%.1e)", name, mean);
}

/* Ranges of another model, of other tokens, or computed otherwise are not taken for these. */
static void belongs(const char *name, const struct range_file *file, const struct ranges *r)
{
    const struct range_user user = {"x", "y", r->model, "z", "fp32"};
    static const char *const what[] = {"model", "tokens", "backend", "dtype"};
    tap_ok(range_file_matches(file, &user, &err) == 0, "%s: belongs to its model", name);
    for (size_t i = 0; i < AQ_COUNT(what); i++) {
        struct range_user other = user;
        const char **of[] = {&other.lm, &other.tokens, &other.backend, &other.dtype};
        struct aq_err why = {0};
        *of[i] = "other";
        tap_ok(range_file_matches(file, &other, &why) < 0 && why.code == AQ_EINPUT &&
                   strstr(why.msg, what[i]),
               "%s: not to another %s: %s", name, what[i], why.msg);
    }
}

/* What is written reads back through the reader that aq-score uses. */
static void round_trip(const char *name, const struct ranges *r)
{
    enum { INPUT = 3 };
    char path[] = "/tmp/aq-test-ranges-XXXXXX", digest[2][AQ_SHA256_HEX];
    int fd = mkstemp(path);
    struct range_file file;
    struct quant_range range;
    const struct range_user of = {.lm = "x", .tokens = "y", .backend = "z", .dtype = "fp32"};
    must(fd < 0 ? -1 : 0, "mkstemp");
    must(ranges_write(r, path, &of, false, &err), "write");
    must(range_file_open(&file, path, &err), "read");
    int64_t cols = r->model->inputs[INPUT].cols;
    int good = file.model.layers == r->model->layers && file.samples == r->samples;
    for (int position = 0; position < 2; position++) {
        float first = 0, rest = 0;
        for (int64_t i = 0; i < (int64_t)r->model->input_count; i++) {
            float most = r->pad ? r->pad[i] : 0;
            for (int64_t s = 0; s < prefixes[position]; s++)
                most =
                    fmaxf(most, fmaxf(r->first[i * r->samples + s], r->rest[i * r->samples + s]));
            range_file_get(&file, i, position, &range);
            good &= range.amax == most;
        }
        range_file_get(&file, INPUT, position, &range);
        for (int64_t s = 0; s < prefixes[position]; s++) {
            first = fmaxf(first, r->first[INPUT * r->samples + s]);
            rest = fmaxf(rest, r->rest[INPUT * r->samples + s]);
        }
        good &= memcmp(range.hidden, r->channel[INPUT] + position * cols,
                       (size_t)cols * sizeof(float)) == 0;
        double *mean = xcalloc((size_t)cols, sizeof *mean);
        range_file_mean(&file, INPUT, position, mean);
        good &= same_bits(mean, r->mean[INPUT] + position * cols, (size_t)cols * sizeof *mean);
        free(mean);
        good &= range_file_ratio(&file, INPUT, position) == (double)first / (double)rest;
        range_file_digest(&file, position, digest[position]);
    }
    tap_ok(good, "%s: the file reads back", name);
    tap_ok(strcmp(digest[0], digest[1]) != 0, "%s: each prefix has a digest of its own", name);
    belongs(name, &file, r);
    range_file_close(&file);
    (void)close(fd);
    (void)unlink(path);
}

static void run_case(const char *name, int threads)
{
    struct qwen3_case c;
    struct tiles tiles;
    struct backend *b;
    struct nn_model *m;
    struct walk w;
    struct ranges r;
    struct model_groups groups;
    struct backend_config config = {.threads = threads};
    case_open(&c, name, NULL);
    must(tiles_build(&tiles, &c.samples, 512, c.source.arch->vocab_size, &err), "tiles");
    must(backend_open(&b, "cpu", &config, &err), "backend");
    must(nn_open(&m, &c.source, b, tiles.rows, 0, &err), "model");
    model_groups_make(&groups, c.source.arch, NULL);
    const struct walk_job job = {.b = b, .model = m, .tiles = &tiles, .end_tile = tiles.count};
    must(walk_open(&w, &job, &err), "walk");
    must(ranges_compute(&r, &groups, &w, prefixes, AQ_COUNT(prefixes), &err), "ranges");
    walk_close(&w);
    compare(name, &c.file, &r, &tiles);
    round_trip(name, &r);
    ranges_release(&r);
    model_groups_release(&groups);
    nn_close(m);
    backend_close(b);
    tiles_release(&tiles);
    case_close(&c);
}

int main(void)
{
    static const char *const cases[] = {"plain", "grouped", "deep", "vl", "padded"};
    for (size_t i = 0; i < AQ_COUNT(cases); i++)
        run_case(cases[i], 1 + (int)i % 3);
    return tap_done();
}
