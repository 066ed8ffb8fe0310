/*
 * coverage STORE M...: how often the 95 % interval of M captions holds the mean of all captions of
 * the store, over groups, candidates and all disjoint blocks of M. Prints "M covered intervals".
 */
#include "base/fmt.h"
#include "base/mem.h"
#include "store/score_sums.h"
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>

struct tally {
    long covered, all;
};

static void count_group(const struct store *s, const struct store_row *row, int64_t group,
                        int64_t m, struct tally *t)
{
    int64_t n = s->shape.samples;
    double *sums = xcalloc((size_t)n, sizeof *sums);
    for (int64_t i = 0; i < n; i++)
        sums[i] = store_sum(s, row, group, i);
    double truth = score_per_token(sums, s->labels, n).mean;
    for (int64_t at = 0; at + m <= n; at += m) {
        struct score_sums block;
        score_sums(&block, sums + at, s->labels + at, m, 8, false);
        t->all++;
        t->covered += block.per_token_low <= truth && truth <= block.per_token_high;
    }
    free(sums);
}

int main(int argc, char **argv)
{
    struct store s;
    struct aq_err err = {0};
    if (argc < 3 || store_open(&s, argv[1], &err) < 0) {
        (void)fprintf(stderr, "usage: coverage STORE M...: %s\n", err.msg);
        return 2;
    }
    for (int a = 2; a < argc; a++) {
        struct tally t = {0};
        int64_t m;
        if (!aq_parse_i64(argv[a], &m) || m < 2)
            return 2;
        for (size_t r = 0; r < s.count; r++) {
            if (!store_complete(&s, &s.rows[r], s.shape.samples))
                continue;
            for (int64_t g = 0; g < s.shape.groups; g++)
                count_group(&s, &s.rows[r], g, m, &t);
        }
        printf("%s %ld %ld\n", argv[a], t.covered, t.all);
    }
    store_close(&s);
    return 0;
}
