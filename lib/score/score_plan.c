#include "score/score_plan.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "score/cost.h"
#include "store/store_layout.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Cells (row, layer, tile) that are wanted, those of them that an old store has, and what the
 * others cost. */
struct count {
    uint64_t wanted, done;
    size_t rows_open;
    double operations;
};

/* What was measured on devices that this machine need not have: docs/performance.md. */
static const struct device {
    const char *name;
    double rate;  /* operations a second of whole runs with 120 treatments */
    double fixed; /* seconds for the start and the upload of the weights */
} devices[] = {{"one NVIDIA H200", 200e12, 1.0}};

static bool store_has(const struct store *old, const struct scoring *s, size_t row, int64_t layer,
                      size_t tile)
{
    if (!old)
        return false;
    const struct score_row *want = &s->rows->items[row];
    const struct store_row *r =
        store_find(old, s->candidates->items[want->candidate].id, want->prefix);
    return r && tile < (size_t)old->shape.tiles && layer < old->shape.layers &&
           store_have(old, r, layer, (int64_t)tile);
}

static struct count count_cells(const struct scoring *s, const struct store *old)
{
    struct count n = {0};
    for (size_t r = 0; r < s->rows->count; r++) {
        uint64_t before = n.wanted - n.done;
        for (size_t t = s->first_tile; t < s->end_tile; t++) {
            if (!scoring_wants(s, r, t))
                continue;
            for (int64_t l = 0; l < nn_layers(s->model); l++) {
                bool has = store_has(old, s, r, l, t);
                n.wanted++;
                n.done += has;
                n.operations += has ? 0 : cost_cell(s, l);
            }
        }
        n.rows_open += n.wanted - n.done > before;
    }
    return n;
}

/* Of the first layer. */
static const struct backend_weight *largest_weight(const struct scoring *s)
{
    const struct model_layer *m = nn_layer(s->model, 0);
    int best = 0;
    for (int l = 1; l < m->linear_count; l++)
        if (m->linears[l].rows > m->linears[best].rows)
            best = l;
    return nn_weight(s->model, 0, best);
}

/* Seconds of a product of a tile with w, the fastest of three: what else the machine does only
 * slows one down. 0 where it fails. */
static double product_time(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                           const struct backend_weight *w)
{
    double best = 0;
    for (int i = 0; i < 3; i++) {
        double start = aq_now();
        b->ops->linear_forward(b, t, y, x, w);
        if (b->ops->sync(b, NULL) < 0)
            return 0;
        double seconds = aq_now() - start + 1e-9;
        best = i == 0 || seconds < best ? seconds : best;
    }
    return best;
}

/* Rate of a product with a large linear, measured here and now, in operations a second. It takes
 * only so many of the linear's rows that the product lasts five milliseconds: all those of a large
 * model take a second. */
static double product_rate(const struct scoring *s)
{
    const struct backend_ops *op = s->b->ops;
    const struct backend_weight *all = largest_weight(s);
    size_t in = (size_t)s->tiles->rows * (size_t)all->cols * s->b->act_size;
    size_t out = (size_t)s->tiles->rows * (size_t)all->rows * s->b->act_size;
    struct backend_tile *t = op->tile_new(s->b, &s->tiles->items[0].desc, NULL);
    void *x = op->alloc(s->b, in, "a trial product", NULL);
    void *y = op->alloc(s->b, out, "a trial product", NULL);
    double rate = 0;
    if (t && x && y && nn_use_layer(s->model, 0, -1, NULL) == 0) {
        struct backend_weight w = *all; /* with its first rows alone */
        double seconds = 0;
        op->zero(s->b, x, in);
        for (w.rows = 0; seconds < 0.005 && w.rows < all->rows;) {
            w.rows = w.rows ? 2 * w.rows : 256;
            w.rows = w.rows < all->rows ? w.rows : all->rows;
            seconds = product_time(s->b, t, y, x, &w);
            if (seconds == 0)
                break;
            rate = 2.0 * s->tiles->rows * (double)w.rows * (double)w.cols / seconds;
        }
    }
    if (x)
        op->free(s->b, x, in);
    if (y)
        op->free(s->b, y, out);
    if (t)
        op->tile_free(s->b, t);
    return rate;
}

static void print_bytes(const char *what, uint64_t bytes)
{
    printf("  %-34s %12.1f MB\n", what, (double)bytes / 1e6);
}

/* The tensors of all rows; header and flags are small beside them. */
static uint64_t store_bytes(const struct scoring *s)
{
    const struct tile *last = &s->tiles->items[s->tiles->count - 1];
    const struct store_shape shape = {(int64_t)s->groups->count, s->groups->layers,
                                      last->sample + last->desc.samples, (int64_t)s->tiles->count,
                                      !s->kl_div};
    const struct store_sizes sizes = store_sizes_of(&shape);
    uint64_t row = sizes.have + sizes.check;
    for (size_t p = 0; p < STORE_PARTS; p++)
        row += sizes.parts[p];
    return row * s->rows->count;
}

static void print_seconds(const char *where, double seconds)
{
    if (seconds < 120)
        printf("  %-34s %12.1f s\n", where, seconds);
    else if (seconds < 7200)
        printf("  %-34s %12.1f min\n", where, seconds / 60);
    else
        printf("  %-34s %12.1f h\n", where, seconds / 3600);
}

/*
 * How often all weights are used: the gradient goes through the layers and back. kl_div computes
 * for every layer, tile and batch of variants the layers after it.
 */
static double weight_passes(const struct scoring *s, const struct scoring_bytes *bytes)
{
    if (!s->kl_div)
        return 2;
    uint64_t each = scoring_act_bytes(s, nn_arch(s->model)->hidden_size) +
                    (uint64_t)s->tiles->rows * sizeof(double);
    uint64_t states = bytes->batch / each; /* the control's among them */
    double room = (double)states - 1, layers = (double)nn_layers(s->model);
    double variants = (double)s->rows->count * (double)s->groups->count / layers;
    return 1 + (double)(s->end_tile - s->first_tile) * ceil(variants / room) * (layers + 1) / 2;
}

/* Files of more than the memory are read again in each pass, others once. */
static void print_reading(const struct scoring *s, const struct scoring_bytes *bytes)
{
    static const double speeds[] = {3, 0.3}; /* GB/s: an NVMe disk, one behind a network */
    const double worth_it = 1e9;
    double weights = (double)nn_model_bytes(s->model);
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    double times = weights > memory ? weight_passes(s, bytes) : 1;
    for (size_t i = 0; i < AQ_COUNT(speeds) && weights >= worth_it; i++) {
        char what[64];
        (void)snprintf(what, sizeof what, "reading weights, at %g GB/s", speeds[i]);
        print_seconds(what, times * weights / (speeds[i] * 1e9));
    }
}

static void print_work(const struct scoring *s, const struct count *n)
{
    double tiles = (double)(s->end_tile - s->first_tile);
    double measured = s->measures ? (double)s->passing : tiles;
    double passes = n->rows_open ? tiles * cost_passes(s) : 0;
    double ranges = s->needs_ranges && !s->ranges ? measured * cost_forward(s) : 0;
    double all = ranges + passes + n->operations, rate = product_rate(s);
    printf("work\n");
    if (ranges > 0 || s->measures)
        printf("  %-34s %12.3f TFLOP\n",
               s->measures ? "activation ranges, beyond forward" : "activation ranges",
               ranges / 1e12);
    printf("  %-34s %12.3f TFLOP\n  %-34s %12.3f TFLOP\n",
           s->kl_div ? "forward" : "forward and backward", passes / 1e12, "scores",
           n->operations / 1e12);
    printf("expected time\n");
    if (rate > 0) {
        char here[64];
        (void)snprintf(here, sizeof here, "here, at %.0f GFLOP/s", rate / 1e9);
        print_seconds(here, all / rate);
    }
    for (size_t i = 0; i < AQ_COUNT(devices); i++)
        print_seconds(devices[i].name, all > 0 ? devices[i].fixed + all / devices[i].rate : 0);
}

int score_plan_print(struct scoring *s, const char *path, const struct json *identity,
                     struct aq_err *err)
{
    struct scoring_bytes bytes = {0};
    struct store old;
    bool have_old = false;
    if ((s->kl_div ? kl_plan : gradient_plan)(s, &bytes, err) < 0)
        return -1;
    if (path && aq_path_exists(path)) {
        if (store_open(&old, path, err) < 0)
            return -1;
        have_old = store_same_identity(old.identity, identity, path, NULL) == 0;
    }
    struct count n = count_cells(s, have_old ? &old : NULL);
    printf("model\n  %-34s %12" PRId64 "\n  %-34s %12zu of %d tokens\n", "layers",
           nn_layers(s->model), "tiles", s->end_tile - s->first_tile, (int)s->tiles->rows);
    printf("candidates\n  %-34s %12zu in %zu rows\n  %-34s %12zu\n", "distinct",
           s->candidates->count, s->rows->count, "rows to compute", n.rows_open);
    printf("disk\n");
    print_bytes("the store", store_bytes(s));
    print_bytes("weights", nn_model_bytes(s->model));
    printf("  %-34s %12.0f\n", "passes over them", weight_passes(s, &bytes));
    printf("memory on '%s'\n", s->b->identity);
    print_bytes("activations of a tile", bytes.model);
    print_bytes(bytes.spilled ? "kept layer inputs, in a file" : "kept layer inputs", bytes.kept);
    print_bytes("tiles scored together", bytes.batch);
    print_bytes("quantized operands", bytes.operands);
    if (bytes.inputs)
        print_bytes("quantized inputs that are kept", bytes.inputs);
    if (bytes.outputs)
        print_bytes("outputs of experts", bytes.outputs);
    print_bytes("score sums", bytes.sums);
    print_bytes("scratch", bytes.scratch);
    printf("  %-34s %12zu\n", "tiles at once", bytes.tiles_at_once);
    print_work(s, &n);
    print_reading(s, &bytes);
    if (path && aq_path_exists(path))
        store_close(&old);
    return 0;
}
