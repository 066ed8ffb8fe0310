/*
 * What runs that were broken off leave in a store: nothing but what its flags vouch for. A run is
 * broken off by freeing its writer, which keeps STORE.part as a killed process does.
 */
#include "tap.h"

#include "base/mem.h"
#include "io/json.h"
#include "model/family.h"
#include "store/store.h"

#include <stdlib.h>
#include <unistd.h>

enum { LAYERS = 2, SAMPLES = 4, TILES = 2, PER_LAYER = 4, GROUPS = LAYERS * PER_LAYER };

static const int32_t labels[SAMPLES] = {3, 5, 2, 4}, tile_first[TILES + 1] = {0, 2, SAMPLES};
static struct aq_err err;
static struct candidates candidates;
static struct score_rows rows;
static struct json *identity, *weights, *ranges;
static struct model_groups groups;
static char dir[] = "/tmp/aq-test-store-XXXXXX";

static void must(int status)
{
    if (status < 0) {
        printf("Bail out! %s\n", err.msg);
        exit(2);
    }
}

static char *in_dir(const char *name)
{
    return xasprintf("%s/%s", dir, name);
}

static void add(const char *w, const char *a, bool ranged)
{
    struct candidate c = {.w = xstrdup(w), .a = xstrdup(a), .ranged = ranged};
    treatment_id(w, a, c.id);
    AQ_GROW(candidates.items, candidates.count, candidates.cap);
    candidates.items[candidates.count++] = c;
}

static void set_up(void)
{
    static const int64_t prefix = SAMPLES;
    must(mkdtemp(dir) ? 0 : -1);
    add("int8:axis0:static", "none", false);
    add("e4m3:tensor:static", "e4m3:tensor:static", true);
    candidates_sort(&candidates);
    score_rows_make(&rows, &candidates, &prefix, 1, SAMPLES);
    identity = json_new_object();
    json_add_string(identity, "method", "gradient");
    weights = json_new_object();
    const struct lm_arch arch = {.family = model_family_named("qwen3"),
                                 .hidden_size = 8,
                                 .intermediate_size = 8,
                                 .num_hidden_layers = LAYERS,
                                 .num_attention_heads = 2,
                                 .num_key_value_heads = 2,
                                 .head_dim = 4,
                                 .vocab_size = 8};
    model_groups_make(&groups, &arch, NULL);
    ranges = json_new_object();
    json_add_string(ranges, "4", "a digest");
}

static struct store_writer *start_as(const char *path, enum store_old old)
{
    struct store_plan plan = {.shape = {GROUPS, LAYERS, SAMPLES, TILES},
                              .identity = identity,
                              .weights = weights,
                              .groups = &groups,
                              .ranges = ranges,
                              .candidates = &candidates,
                              .rows = &rows,
                              .labels = labels,
                              .sample_tokens = labels,
                              .tile_first = tile_first};
    struct store_writer *w = NULL;
    if (store_begin(&w, path, &plan, old, &err) < 0)
        return NULL;
    return w;
}

static struct store_writer *start(const char *path)
{
    struct store_writer *w = start_as(path, STORE_REFUSE);
    must(w ? 0 : -1);
    return w;
}

/* Sums of one layer and tile in all rows; other numbers for another `run`. */
static void put(struct store_writer *w, int64_t layer, int64_t tile, double run)
{
    double sums[SAMPLES], dots[SAMPLES], firsts[SAMPLES];
    float clip[SAMPLES];
    const void *const parts[STORE_PARTS] = {
        [STORE_SUMS] = sums, [STORE_DOTS] = dots, [STORE_FIRSTS] = firsts, [STORE_CLIP] = clip};
    int32_t from = tile_first[tile], to = tile_first[tile + 1];
    for (size_t r = 0; r < rows.count; r++)
        for (int64_t g = layer * PER_LAYER; g < (layer + 1) * PER_LAYER; g++) {
            for (int32_t i = 0; i < to - from; i++) {
                sums[i] = run + (double)(g * SAMPLES + from + i);
                dots[i] = 3 * sums[i];
                firsts[i] = sums[i] / 2;
                clip[i] = (float)r;
            }
            must(store_put(w, r, g, from, to, parts, &err));
        }
}

static void finish(struct store_writer *w, int64_t layer, int64_t tile)
{
    if (store_done(w, 0, layer, tile))
        return;
    put(w, layer, tile, 1);
    for (size_t r = 0; r < rows.count; r++)
        store_mark(w, r, layer, tile);
}

/* A whole call that wants the first tile alone. */
static void small_call(const char *path)
{
    struct store_writer *w = start(path);
    for (int64_t layer = 0; layer < LAYERS; layer++)
        finish(w, layer, 0);
    must(store_commit(w, &err));
    store_writer_free(w);
}

/* A call for both tiles that is killed between its sums and their flags; layer 1 was finished. */
static void killed_call(const char *path, bool layer_1)
{
    struct store_writer *w = start(path);
    for (int64_t tile = 0; tile < TILES && layer_1; tile++)
        finish(w, 1, tile);
    must(store_checkpoint(w, &err));
    for (int64_t layer = 0; layer < LAYERS; layer++)
        for (int64_t tile = 0; tile < TILES; tile++)
            if (!store_done(w, 0, layer, tile))
                put(w, layer, tile, 1000);
    store_writer_free(w);
}

static int same_files(const char *a, const char *b)
{
    struct aq_buf x = AQ_BUF_INIT, y = AQ_BUF_INIT;
    must(aq_read_file(a, 1 << 20, &x, &err));
    must(aq_read_file(b, 1 << 20, &y, &err));
    int same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    aq_buf_release(&x);
    aq_buf_release(&y);
    return same;
}

/* Sums and counts that the file holds where a flag is 0. */
static int unvouched(const char *path)
{
    struct store s;
    int found = 0;
    must(store_open_for(&s, path, STORE_PART, &err));
    for (size_t r = 0; r < s.count; r++)
        for (int64_t tile = 0; tile < TILES; tile++)
            for (int64_t g = 0; g < GROUPS; g++)
                for (int32_t i = tile_first[tile]; i < tile_first[tile + 1]; i++)
                    for (int p = 0; p < STORE_PARTS; p++)
                        found += !store_have(&s, &s.rows[r], g / PER_LAYER, tile) &&
                                 store_number(&s, &s.rows[r], p, g, i) != 0;
    store_close(&s);
    return found;
}

/* What is expected where the small call finds layer 1 finished. */
static void half_call(const char *path)
{
    struct store_writer *w = start(path);
    finish(w, 1, 0);
    finish(w, 1, 1);
    finish(w, 0, 0);
    must(store_commit(w, &err));
    store_writer_free(w);
}

static void test_part(const char *small, const char *half)
{
    char *path = in_dir("killed"), *part = in_dir("killed.part");
    killed_call(path, false);
    tap_ok(unvouched(part) > 0, "a killed run leaves sums without flags");
    small_call(path);
    tap_ok(same_files(path, small), "a smaller call after it: the bytes of an undisturbed one");
    must(unlink(path));
    killed_call(path, true);
    small_call(path);
    tap_ok(same_files(path, half), "a finished layer is kept, and nothing else");
    free(path);
    free(part);
}

/* A finished store with such sums is damaged: refused, and mended to the bytes of a sound one. */
static void test_store(const char *half)
{
    char *path = in_dir("planted"), *part = in_dir("planted.part"), *merged = in_dir("merged");
    struct store_writer *w = NULL;
    struct aq_err why = {0};
    killed_call(path, true);
    must(rename(part, path));
    tap_ok(unvouched(path) > 0, "a store with sums below flags of 0");
    tap_ok(store_merge(merged, (const char *const[]){path, half}, 2, &why) < 0 &&
               why.code == AQ_EINPUT && strstr(why.msg, "damaged at layer 0, tile 0"),
           "no merge takes it: %s", why.msg);
    tap_ok(!start_as(path, STORE_REFUSE) && err.code == AQ_EINPUT, "nor a call that adds to it");
    w = start_as(path, STORE_MEND);
    must(w ? 0 : -1);
    for (int64_t layer = 0; layer < LAYERS; layer++)
        finish(w, layer, 0);
    must(store_commit(w, &err));
    store_writer_free(w);
    tap_ok(same_files(path, half), "mended");
    free(path);
    free(part);
    free(merged);
}

static void tear_down(void)
{
    static const char *const stores[] = {"small", "half", "killed", "planted", "merged"};
    static const char *const suffixes[] = {"", ".part", ".lock"};
    for (size_t i = 0; i < AQ_COUNT(stores); i++)
        for (size_t k = 0; k < AQ_COUNT(suffixes); k++) {
            char *path = xasprintf("%s/%s%s", dir, stores[i], suffixes[k]);
            (void)unlink(path);
            free(path);
        }
    tap_ok(rmdir(dir) == 0, "no other files are left");
    candidates_release(&candidates);
    score_rows_release(&rows);
    json_free(identity);
    json_free(weights);
    model_groups_release(&groups);
    json_free(ranges);
}

int main(void)
{
    set_up();
    char *small = in_dir("small"), *half = in_dir("half");
    small_call(small);
    half_call(half);
    tap_ok(unvouched(small) == 0 && unvouched(half) == 0, "undisturbed runs leave none");
    test_part(small, half);
    test_store(half);
    free(small);
    free(half);
    tear_down();
    return tap_done();
}
