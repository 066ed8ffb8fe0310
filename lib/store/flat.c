#include "store/flat.h"

#include "base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Equal operands in another form of product differ by up to 1e-6; a real change is far larger. */
static const double same_score = 1e-5;

static bool other_width(const char *treatment, const char *own)
{
    int width = treatment_width(treatment);
    return width && width != treatment_width(own);
}

void flat_init(struct flat *f, const struct store *s, const struct store_row *row, int64_t prefix,
               int64_t samples)
{
    *f = (struct flat){.s = s, .row = row, .samples = samples};
    f->weights = xcalloc(s->count, sizeof *f->weights);
    f->activations = xcalloc(s->count, sizeof *f->activations);
    for (size_t i = 0; i < s->count; i++) {
        const struct store_row *r = &s->rows[i];
        if ((r->key.prefix != 0 && r->key.prefix != prefix) || !store_complete(s, r, samples))
            continue;
        if (strcmp(r->a, row->a) == 0 && other_width(r->w, row->w))
            f->weights[f->weight_count++] = r;
        else if (strcmp(r->w, row->w) == 0 && other_width(r->a, row->a))
            f->activations[f->activation_count++] = r;
    }
}

void flat_release(struct flat *f)
{
    free(f->weights);
    free(f->activations);
    *f = (struct flat){0};
}

static double score_of(const struct flat *f, const struct store_row *r, int64_t group)
{
    double sum = 0;
    for (int64_t i = 0; i < f->samples; i++)
        sum += store_sum(f->s, r, group, i);
    return sum;
}

static bool all_same(const struct flat *f, double score, const struct store_row *const *rows,
                     size_t count, int64_t group)
{
    for (size_t i = 0; i < count; i++) {
        double other = score_of(f, rows[i], group);
        if (fabs(other - score) > same_score * fmax(fabs(other), fabs(score)))
            return false;
    }
    return count > 0;
}

const char *flat_group(const struct flat *f, int64_t group)
{
    double score = score_of(f, f->row, group);
    if (score == 0)
        return "zero";
    bool weights = all_same(f, score, f->weights, f->weight_count, group);
    bool activations = all_same(f, score, f->activations, f->activation_count, group);
    return weights && activations ? "both"
           : weights              ? "weights"
           : activations          ? "activations"
                                  : NULL;
}
