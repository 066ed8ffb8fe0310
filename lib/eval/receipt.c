#include "eval/receipt.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "io/product.h"
#include "store/score_sums.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* Values of several domains, one after the other, with what is asked of them. */
struct pooled {
    int64_t positions, samples; /* samples: those with a position */
    double *kl, *rkl, *nll_reference, *nll;
    double *routing; /* NULL: not measured */
    uint8_t *top1;
    int32_t *counts; /* [samples] */
    double first;    /* sum of kl at the first position of each sample */
};

static void pool_domain(struct pooled *all, const struct eval_part_domain *d,
                        const struct eval_values *v)
{
    for (int64_t s = d->first; s < d->end; s++) {
        int64_t from = d->offsets[s], to = d->offsets[s + 1];
        if (from == to)
            continue;
        all->counts[all->samples++] = (int32_t)(to - from);
        all->first += v->kl[from];
        for (int64_t i = from; i < to; i++, all->positions++) {
            all->kl[all->positions] = v->kl[i];
            all->rkl[all->positions] = v->rkl[i];
            all->nll_reference[all->positions] = v->nll_reference[i];
            all->nll[all->positions] = v->nll[i];
            if (all->routing)
                all->routing[all->positions] = v->routing[i];
            all->top1[all->positions] = v->top1[i];
        }
    }
}

static void pool_init(struct pooled *all, const struct eval_part_domain *domains, size_t count,
                      size_t operand, bool routing)
{
    size_t positions = 0, samples = 0;
    for (size_t i = 0; i < count; i++) {
        positions +=
            (size_t)(domains[i].offsets[domains[i].end] - domains[i].offsets[domains[i].first]);
        samples += (size_t)(domains[i].end - domains[i].first);
    }
    *all = (struct pooled){.kl = xcalloc(positions + 1, sizeof(double)),
                           .rkl = xcalloc(positions + 1, sizeof(double)),
                           .nll_reference = xcalloc(positions + 1, sizeof(double)),
                           .nll = xcalloc(positions + 1, sizeof(double)),
                           .top1 = xcalloc(positions + 1, 1),
                           .routing = routing ? xcalloc(positions + 1, sizeof(double)) : NULL,
                           .counts = xcalloc(samples + 1, sizeof(int32_t))};
    for (size_t i = 0; i < count; i++)
        pool_domain(all, &domains[i], &domains[i].values[operand]);
}

static void pool_release(struct pooled *all)
{
    free(all->kl);
    free(all->rkl);
    free(all->nll_reference);
    free(all->nll);
    free(all->routing);
    free(all->top1);
    free(all->counts);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value that a share of n sorted ones do not exceed: nearest rank. */
static double percentile(const double *sorted, int64_t n, int64_t percent)
{
    int64_t rank = (percent * n + 99) / 100;
    return sorted[rank - 1];
}

static double sum_of(const double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

static struct json *spread(const struct pooled *all, const double *values)
{
    double *sums = xcalloc((size_t)all->samples + 1, sizeof *sums);
    double *sorted = xcalloc((size_t)all->positions + 1, sizeof *sorted);
    struct json *v = json_new_object();
    int64_t at = 0;
    for (int64_t s = 0; s < all->samples; s++)
        for (int32_t i = 0; i < all->counts[s]; i++, at++)
            sums[s] += sorted[at] = values[at];
    struct score_mean m = score_per_token(sums, all->counts, all->samples);
    qsort(sorted, (size_t)all->positions, sizeof *sorted, by_value);
    json_add_double(v, "mean", m.mean);
    json_add_finite(v, "se", m.error);
    json_add_double(v, "p50", percentile(sorted, all->positions, 50));
    json_add_double(v, "p99", percentile(sorted, all->positions, 99));
    json_add_double(v, "max", sorted[all->positions - 1]);
    free(sums);
    free(sorted);
    return v;
}

/* Of the domains first <= i < first + count. */
static struct json *summary(const struct eval_part *p, size_t operand, size_t first, size_t count,
                            const char *name)
{
    struct pooled all;
    struct json *v = json_new_object();
    pool_init(&all, p->domains + first, count, operand, p->routing);
    int64_t n = all.positions, same = 0;
    for (int64_t i = 0; i < n; i++)
        same += all.top1[i];
    if (all.samples < 2)
        aq_warn("%s: one sample has no standard error", name);
    double sum = sum_of(all.kl, n), loss = sum_of(all.nll, n) / (double)n;
    double loss_reference = sum_of(all.nll_reference, n) / (double)n;
    json_add_int(v, "samples", all.samples);
    json_add_int(v, "positions", n);
    struct json *kl = json_add(v, "kl", spread(&all, all.kl));
    json_add(kl, "routing", all.routing ? spread(&all, all.routing) : json_new_null());
    json_add(v, "reverse_kl", spread(&all, all.rkl));
    json_add_double(v, "top1", (double)same / (double)n);
    json_add_double(v, "loss", loss);
    json_add_double(v, "loss_reference", loss_reference);
    json_add_finite(v, "ppl", exp(loss));
    json_add_finite(v, "ppl_reference", exp(loss_reference));
    json_add_finite(v, "first_share", sum != 0 ? all.first / sum : NAN);
    pool_release(&all);
    return v;
}

static double noise_floor(const struct eval_part *p)
{
    double sum = 0, n = 0;
    if (!p->noise) /* the reference computes in fp32, or bf16 is fp32 on this backend */
        return json_find_number(p->identity, "noise_floor");
    const struct json *domains = json_find(p->identity, "domains");
    for (size_t i = 0; i < p->count; i++) {
        const struct eval_part_domain *d = &p->domains[i];
        double samples = json_find_number(json_find(domains, d->name), "noise_samples");
        int64_t end = samples < (double)d->end ? (int64_t)samples : d->end;
        for (int64_t k = d->offsets[d->first]; end > d->first && k < d->offsets[end]; k++) {
            sum += d->noise[k];
            n++;
        }
    }
    return n > 0 ? sum / n : NAN;
}

static void add_copy(struct json *to, const char *key, const struct json *from,
                     const char *from_key)
{
    const struct json *v = json_find(from, from_key);
    json_add(to, key, v ? json_copy(v) : json_new_null());
}

static void add_provenance(struct json *root, const struct eval_part *p, const struct json *operand)
{
    struct json *inputs = product_add_provenance(root, "aq-eval", EVAL_RESULT_VERSION);
    add_copy(inputs, "reference", json_find(p->identity, "reference"), "digest");
    add_copy(inputs, "operand", operand, "digest");
    if (json_find(p->identity, "ranges"))
        add_copy(inputs, "ranges", p->identity, "ranges");
    if (json_find(p->identity, "solved"))
        add_copy(inputs, "solved", p->identity, "solved");
    const struct json *domains = json_find(p->identity, "domains");
    for (const struct json *d = json_first(domains); d; d = json_next(d)) {
        char *key = xasprintf("tokens %s", json_key(d));
        add_copy(inputs, key, d, "tokens");
        free(key);
    }
}

struct json *eval_receipt(const struct eval_part *p, size_t operand)
{
    const struct json *facts = json_at(json_get(p->identity, "operands"), operand);
    struct json *v = product_new(EVAL_SCHEMA), *o;
    add_copy(v, "reference", p->identity, "reference");
    o = json_add_object(v, "operand");
    add_copy(o, "kind", facts, "kind");
    add_copy(o, "digest", facts, "digest");
    add_copy(o, "bits", facts, "bits");
    add_copy(o, "sharing", facts, "sharing");
    add_copy(o, "engine", p->identity, "engine");
    add_copy(v, "dtype", p->identity, "dtype");
    add_copy(v, "backend", p->identity, "backend");
    double floor = noise_floor(p);
    json_add_finite(v, "noise_floor", floor);
    add_copy(v, "predicted", facts, "predicted");
    if (isnan(json_find_number(facts, "low"))) {
        json_add_null(v, "predicted_interval");
    } else {
        struct json *interval = json_add_object(v, "predicted_interval");
        add_copy(interval, "low", facts, "low");
        add_copy(interval, "high", facts, "high");
    }
    struct json *domains = json_add_object(v, "domains");
    for (size_t i = 0; i < p->count; i++)
        json_add(domains, p->domains[i].name, summary(p, operand, i, 1, p->domains[i].name));
    json_add(v, "all", summary(p, operand, 0, p->count, "all domains"));
    double mean = json_find_number(json_find(json_get(v, "all"), "kl"), "mean");
    json_add_finite(v, "residual", mean - json_find_number(facts, "predicted"));
    if (floor > 0 && mean < 3 * floor)
        aq_warn("KL %.3g is below three times the noise of bf16 arithmetic, %.3g", mean, floor);
    add_provenance(v, p, facts);
    return v;
}

int eval_receipts_write(const struct eval_part *p, const char *output, struct aq_err *err)
{
    if (p->operands > 1 && aq_make_dirs(output, err) < 0)
        return -1;
    for (size_t i = 0; i < p->operands; i++) {
        struct json *v = eval_receipt(p, i);
        char *path = p->operands > 1 ? xasprintf("%s/%zu.json", output, i + 1) : NULL;
        int r = json_write_file(path ? path : output, v, err);
        free(path);
        json_free(v);
        if (r < 0)
            return -1;
    }
    return 0;
}
