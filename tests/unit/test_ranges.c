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

static void compare(const char *name, const struct st_file *f, const struct ranges *r)
{
    const struct st_tensor *amax = st_need(f, "amax", ST_F32, 2, &err);
    const struct st_tensor *pad = st_find(f, "pad");
    must(amax ? 0 : -1, name);
    double far = farthest(r->amax, amax), worst = 0;
    tap_ok(far < 1e-5, "%s: per tensor and sample (%.1e)", name, far);
    tap_ok(!pad == !r->pad && (!pad || farthest(r->pad, pad) < 1e-5), "%s: of the pad row", name);
    for (int64_t l = 0; l < r->layers; l++) {
        for (int in = 0; in < QWEN3_INPUTS; in++) {
            char key[64];
            (void)snprintf(key, sizeof key, "channel/%d.%s", (int)l, qwen3_input_name(in));
            const struct st_tensor *t = st_need(f, key, ST_F32, 2, &err);
            must(t ? 0 : -1, key);
            int64_t each = (int64_t)r->prefix_count * r->cols[in];
            worst = fmax(worst, farthest(r->channel[in] + l * each, t));
        }
    }
    tap_ok(worst < 1e-5, "%s: per channel of each prefix (%.1e)", name, worst);
}

/* What is written reads back through the reader that aq-score uses. */
static void round_trip(const char *name, const struct ranges *r)
{
    char path[] = "/tmp/aq-test-ranges-XXXXXX";
    int fd = mkstemp(path);
    struct range_file file;
    struct quant_range range;
    struct json *meta = json_new_object();
    json_add_string(meta, "aq",
                    "{\"schema\": \"aq.ranges/1\", \"prefixes\": [2, 5], \"lm\": \"x\", "
                    "\"tokens\": \"y\", \"backend\": \"z\"}");
    must(fd < 0 ? -1 : 0, "mkstemp");
    must(ranges_write(r, path, meta, &err), "write");
    must(range_file_open(&file, path, &err), "read");
    int good = file.layers == r->layers && file.samples == r->samples;
    for (int position = 0; position < 2; position++) {
        float top = 0;
        range_file_get(&file, 0, QWEN3_IN_DOWN, position, &range);
        for (int64_t s = 0; s < prefixes[position]; s++)
            top = fmaxf(top, r->amax[QWEN3_IN_DOWN * r->samples + s]);
        good &= range.amax == top || (r->pad && range.amax >= top);
        good &= memcmp(range.hidden, r->channel[QWEN3_IN_DOWN] + position * r->cols[QWEN3_IN_DOWN],
                       (size_t)r->cols[QWEN3_IN_DOWN] * sizeof(float)) == 0;
    }
    tap_ok(good, "%s: the file reads back", name);
    range_file_close(&file);
    (void)close(fd);
    (void)unlink(path);
}

static void run_case(const char *name, int threads)
{
    struct qwen3_case c;
    struct tiles tiles;
    struct backend *b;
    struct qwen3 *m;
    struct ranges r;
    struct backend_config config = {.threads = threads};
    case_open(&c, name, NULL);
    must(tiles_build(&tiles, &c.samples, 512, c.source.config.vocab, &err), "tiles");
    must(backend_open(&b, "cpu", &config, &err), "backend");
    must(qwen3_open(&m, &c.source, b, tiles.rows, 0, &err), "model");
    must(ranges_compute(&r, m, b, &tiles, prefixes, AQ_COUNT(prefixes), &err), "ranges");
    compare(name, &c.file, &r);
    round_trip(name, &r);
    ranges_release(&r);
    qwen3_close(m);
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
