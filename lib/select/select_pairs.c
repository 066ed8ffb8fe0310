#include "select/select_pairs.h"

#include "base/mem.h"
#include "io/product.h"
#include "io/safetensors.h"
#include "solve/knapsack.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

/* An open file and where its groups and candidates are in the table. */
struct pairs_file {
    struct st_file st;
    struct json *meta;
    size_t groups, candidates;
    int64_t samples;
    int64_t *row;    /* of each group in the table */
    int64_t *column; /* of each candidate; -1: the table does not have it */
    const char *lm;
};

static int check_shape(const struct st_tensor *t, uint64_t a, uint64_t b, uint64_t c,
                       struct aq_err *err)
{
    uint64_t want[] = {a, b, c};
    for (int i = 0; i < t->rank && i < 3; i++)
        if (t->shape[i] != want[i])
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' has %" PRIu64 " in place of %" PRIu64,
                              t->name, t->shape[i], want[i]);
    return 0;
}

static double at(const struct st_tensor *t, size_t i)
{
    double x;
    memcpy(&x, (const char *)t->data + i * sizeof x, sizeof x);
    return x;
}

static int check_finite(const struct st_tensor *t, struct aq_err *err)
{
    for (size_t i = 0; i < t->elements; i++)
        if (!isfinite(at(t, i)))
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' holds a number that is none", t->name);
    return 0;
}

/* Where the names of the list are among those of the table. */
static int find_names(const struct jref *list, const char *const *names, size_t count,
                      const char *key, int64_t **out, size_t *n, struct aq_err *err)
{
    size_t i = 0;
    *n = json_size(list->v);
    *out = xcalloc(*n + 1, sizeof **out);
    for (const struct json *v = json_first(list->v); v; v = json_next(v), i++) {
        const char *name = key                           ? json_find_string(v, key)
                           : json_type(v) == JSON_STRING ? json_string(v)
                                                         : NULL;
        struct jref e = jref_child(list, v, i);
        if (!name)
            return jref_fail(&e, err, "expected a name");
        (*out)[i] = -1;
        for (size_t k = 0; k < count; k++)
            if (strcmp(names[k], name) == 0)
                (*out)[i] = (int64_t)k;
    }
    return 0;
}

static int find_places(struct pairs_file *f, const struct sel_table *t, const struct jref *root,
                       struct aq_err *err)
{
    struct jref groups, candidates;
    size_t most = t->count > t->candidate_count ? t->count : t->candidate_count;
    const char **names = xcalloc(most + 1, sizeof *names);
    int r = jref_get(root, "groups", JSON_ARRAY, &groups, err);
    for (size_t i = 0; i < t->count; i++)
        names[i] = t->rows[i].name;
    if (r == 0)
        r = find_names(&groups, names, t->count, NULL, &f->row, &f->groups, err);
    if (r == 0)
        r = jref_get(root, "candidates", JSON_ARRAY, &candidates, err);
    for (size_t i = 0; i < t->candidate_count; i++)
        names[i] = t->candidates[i].treatment ? t->candidates[i].treatment : "";
    if (r == 0)
        r = find_names(&candidates, names, t->candidate_count, "treatment_id", &f->column,
                       &f->candidates, err);
    free(names);
    return r;
}

static int check_digest(struct pairs_file *f, struct sel_pairs *p, const struct jref *root,
                        struct aq_err *err)
{
    const char *given;
    struct aq_sha256 sum;
    if (jref_string(root, "digest", &given, err) < 0)
        return -1;
    aq_sha256_init(&sum);
    static const char *const first[] = {"kl", "positions", "cov"};
    for (size_t i = 0; i < f->st.count; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "pair/%zu", i - AQ_COUNT(first));
        const struct st_tensor *t = st_find(&f->st, i < AQ_COUNT(first) ? first[i] : name);
        if (!t)
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' is missing",
                              i < AQ_COUNT(first) ? first[i] : name);
        aq_sha256_add(&sum, t->name, strlen(t->name) + 1);
        aq_sha256_add(&sum, t->data, t->end - t->begin);
    }
    aq_sha256_hex(&sum, p->digest);
    if (strcmp(p->digest, given) == 0)
        return 0;
    aq_err_set(err, AQ_EINPUT, "the file is damaged: its digest is %.16s, not %.16s", p->digest,
               aq_show(given));
    return aq_err_hint(err, "make it again with 'aq-eval singles'");
}

static int read_meta(struct pairs_file *f, struct sel_pairs *p, const struct sel_table *t,
                     struct aq_err *err)
{
    const char *text = st_meta(&f->st, "aq"), *lm = t->cells[0].facts[SEL_LM];
    if (!text)
        return aq_err_set(err, AQ_EINPUT,
                          "not of aq-eval singles: the metadata key 'aq' is missing");
    f->meta = json_parse(text, strlen(text), "metadata", err);
    if (!f->meta)
        return -1;
    struct jref root = jref_root(f->meta, "metadata");
    if (product_check(&root, SINGLES_SCHEMA, err) < 0 || check_digest(f, p, &root, err) < 0 ||
        jref_string(&root, "lm", &f->lm, err) < 0 || find_places(f, t, &root, err) < 0)
        return -1;
    if (lm && strcmp(lm, f->lm) != 0)
        return aq_err_set(err, AQ_EINPUT, "was made from another checkpoint than %s",
                          aq_show(t->cells[0].path));
    return 0;
}

/* nats of each candidate: sums over samples divided by positions. */
static int read_nats(struct pairs_file *f, struct sel_pairs *p, struct aq_err *err)
{
    const struct st_tensor *kl = st_need(&f->st, "kl", ST_F64, 3, err), *n;
    if (!kl || !(n = st_need(&f->st, "positions", ST_I64, 1, err)) ||
        check_shape(kl, f->groups, f->candidates, n->elements, err) < 0 ||
        check_finite(kl, err) < 0)
        return -1;
    int64_t positions = 0, x;
    for (size_t i = 0; i < n->elements; i++) {
        memcpy(&x, (const char *)n->data + i * sizeof x, sizeof x);
        if (x < 0 || x > (INT64_C(1) << 40) || positions > (INT64_C(1) << 50))
            return aq_err_set(err, AQ_EINPUT, "tensor 'positions' holds %" PRId64, x);
        positions += x;
    }
    if (positions == 0)
        return aq_err_set(err, AQ_EINPUT, "there is no position");
    for (size_t g = 0; g < f->groups; g++)
        for (size_t c = 0; c < f->candidates; c++) {
            double sum = 0;
            if (f->row[g] < 0 || f->column[c] < 0)
                continue;
            for (size_t i = 0; i < n->elements; i++)
                sum += at(kl, (g * f->candidates + c) * n->elements + i);
            p->nats[(size_t)f->row[g] * p->candidates + (size_t)f->column[c]] =
                sum / (double)positions;
        }
    return 0;
}

/* The block of one layer, whose groups are neighbours in the file from `first` on. */
static int read_block(struct pairs_file *f, struct sel_pairs *p, int64_t layer, size_t first,
                      size_t groups, struct aq_err *err)
{
    char name[64];
    size_t k = groups * f->candidates, n = p->groups * p->candidates;
    (void)snprintf(name, sizeof name, "pair/%" PRId64, layer);
    const struct st_tensor *t = st_need(&f->st, name, ST_F64, 2, err);
    if (!t || check_shape(t, k, k, 0, err) < 0 || check_finite(t, err) < 0)
        return -1;
    for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b < k; b++) {
            int64_t row[] = {f->row[first + a / f->candidates], f->row[first + b / f->candidates]};
            int64_t column[] = {f->column[a % f->candidates], f->column[b % f->candidates]};
            if (row[0] >= 0 && row[1] >= 0 && column[0] >= 0 && column[1] >= 0)
                p->pair[((size_t)row[0] * p->candidates + (size_t)column[0]) * n +
                        (size_t)row[1] * p->candidates + (size_t)column[1]] = at(t, a * k + b);
        }
    return 0;
}

/* Of all groups. */
static int read_cov(struct pairs_file *f, struct sel_pairs *p, struct aq_err *err)
{
    size_t k = f->groups * f->candidates, n = p->groups * p->candidates;
    const struct st_tensor *t = st_need(&f->st, "cov", ST_F64, 2, err);
    if (!t || check_shape(t, k, k, 0, err) < 0 || check_finite(t, err) < 0)
        return -1;
    for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b < k; b++) {
            int64_t row[] = {f->row[a / f->candidates], f->row[b / f->candidates]};
            int64_t column[] = {f->column[a % f->candidates], f->column[b % f->candidates]};
            if (row[0] >= 0 && row[1] >= 0 && row[0] != row[1] && column[0] >= 0 && column[1] >= 0)
                p->cov[((size_t)row[0] * p->candidates + (size_t)column[0]) * n +
                       (size_t)row[1] * p->candidates + (size_t)column[1]] = at(t, a * k + b);
        }
    return 0;
}

static int read_blocks(struct pairs_file *f, struct sel_pairs *p, struct aq_err *err)
{
    struct jref root = jref_root(f->meta, "metadata"), list;
    int64_t *layers = xcalloc(f->groups + 1, sizeof *layers);
    int r = jref_get(&root, "layers", JSON_ARRAY, &list, err);
    size_t n = 0;
    if (r == 0 && json_size(list.v) != f->groups)
        r = jref_fail(&list, err, "expected one of each group");
    for (const struct json *v = r == 0 ? json_first(list.v) : NULL; v && r == 0;
         v = json_next(v), n++)
        if (!json_int(v, &layers[n]) || layers[n] < 0)
            r = jref_fail(&list, err, "expected layers");
    for (size_t g = 0; g < n && r == 0; g++)
        if (f->row[g] >= 0)
            p->layer[f->row[g]] = layers[g];
    for (size_t first = 0, end; first < n && r == 0; first = end) {
        for (end = first; end < n && layers[end] == layers[first];)
            end++;
        r = read_block(f, p, layers[first], first, end - first, err);
    }
    free(layers);
    return r;
}

/* Does the file have all that the table may choose? */
static int check_all(const struct sel_pairs *p, const struct sel_table *t, struct aq_err *err)
{
    for (size_t row = 0; row < t->count; row++)
        for (size_t i = 0; i < t->rows[row].count; i++) {
            int c = t->rows[row].options[i].candidate;
            if (c != SEL_NONE && isnan(p->nats[row * p->candidates + (size_t)c]))
                return aq_err_set(err, AQ_EINPUT, "has nothing of '%s' in %s",
                                  aq_show(t->candidates[c].name), aq_show(t->rows[row].name));
        }
    return 0;
}

static int read_file(struct pairs_file *f, struct sel_pairs *p, const struct sel_table *t,
                     struct aq_err *err)
{
    int r = read_meta(f, p, t, err);
    if (r == 0)
        r = read_nats(f, p, err);
    if (r == 0)
        r = check_all(p, t, err);
    if (r == 0)
        r = read_blocks(f, p, err);
    return r == 0 ? read_cov(f, p, err) : r;
}

int sel_pairs_read(struct sel_pairs *p, const char *path, const struct sel_table *t,
                   struct aq_err *err)
{
    struct pairs_file f = {0};
    *p = (struct sel_pairs){
        .path = xstrdup(path), .groups = t->count, .candidates = t->candidate_count};
    size_t n = p->groups * p->candidates;
    p->nats = xcalloc(n + 1, sizeof *p->nats);
    p->pair = xcalloc(n * n + 1, sizeof *p->pair);
    p->cov = xcalloc(n * n + 1, sizeof *p->cov);
    p->layer = xcalloc(p->groups + 1, sizeof *p->layer);
    for (size_t i = 0; i < n; i++)
        p->nats[i] = NAN;
    int r = st_open(&f.st, path, err); /* which names the file itself */
    if (r == 0 && read_file(&f, p, t, err) < 0)
        r = aq_err_prefix(err, "%s", aq_show(path));
    st_close(&f.st);
    json_free(f.meta);
    free(f.row);
    free(f.column);
    return r;
}

void sel_pairs_release(struct sel_pairs *p)
{
    free(p->path);
    free(p->nats);
    free(p->pair);
    free(p->cov);
    free(p->layer);
    *p = (struct sel_pairs){0};
}

/* ---- solving ---- */

static double nats_of(const struct sel_pairs *p, const struct sel_table *t, size_t row, int option)
{
    int c = t->rows[row].options[option].candidate;
    return c == SEL_NONE ? 0 : p->nats[row * p->candidates + (size_t)c];
}

static double pair_of(const struct sel_pairs *p, const struct sel_table *t, size_t a, int x,
                      size_t b, int y)
{
    int ca = t->rows[a].options[x].candidate, cb = t->rows[b].options[y].candidate;
    if (ca == SEL_NONE || cb == SEL_NONE)
        return 0;
    return p->pair[(a * p->candidates + (size_t)ca) * p->groups * p->candidates +
                   b * p->candidates + (size_t)cb];
}

double sel_pairs_nats(const struct sel_pairs *p, const struct sel_table *t, const int *option)
{
    double sum = 0;
    for (size_t a = 0; a < t->count; a++) {
        sum += nats_of(p, t, a, option[a]);
        for (size_t b = a + 1; b < t->count; b++)
            if (p->layer[a] == p->layer[b])
                sum += pair_of(p, t, a, option[a], b, option[b]);
    }
    return sum;
}

/* One combination of a layer's options. */
struct block_choice {
    int64_t cost;
    double nats;
    size_t number; /* mixed-radix number of the options, the last row's digit first */
};

/* A layer: its rows, and the combinations that none other beats. */
struct block {
    size_t *rows, count;
    struct block_choice *choices;
    size_t kept;
};

static int by_cost(const void *x, const void *y)
{
    const struct block_choice *a = x, *b = y;
    if (a->cost != b->cost)
        return a->cost < b->cost ? -1 : 1;
    if (a->nats != b->nats)
        return a->nats < b->nats ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

/* The allowed option of the block's row i, as a number among all of the problem. */
static size_t digit(const struct sel_problem *q, const struct block *b, size_t i, size_t *number)
{
    size_t row = b->rows[i], n = q->start[row + 1] - q->start[row], d = *number % n;
    *number /= n;
    return q->start[row] + d;
}

static struct block_choice price(const struct sel_pairs *p, const struct sel_problem *q,
                                 const struct block *b, size_t number)
{
    struct block_choice c = {.number = number};
    size_t rest = number, chosen[64];
    for (size_t i = 0; i < b->count; i++) {
        chosen[i] = digit(q, b, i, &rest);
        c.cost += q->costs[chosen[i]];
        c.nats += nats_of(p, q->table, b->rows[i], q->option[chosen[i]]);
        for (size_t k = 0; k < i; k++)
            c.nats += pair_of(p, q->table, b->rows[k], q->option[chosen[k]], b->rows[i],
                              q->option[chosen[i]]);
    }
    return c;
}

static int price_block(const struct sel_pairs *p, const struct sel_problem *q, struct block *b,
                       struct aq_err *err)
{
    size_t n = 1;
    for (size_t i = 0; i < b->count; i++) {
        n *= q->start[b->rows[i] + 1] - q->start[b->rows[i]];
        if (n > 1000000 || b->count > 64)
            return aq_err_set(err, AQ_EINPUT,
                              "layer %" PRId64 " has more than a million combinations: fewer "
                              "candidates, please",
                              p->layer[b->rows[0]]);
    }
    b->choices = xcalloc(n + 1, sizeof *b->choices);
    for (size_t i = 0; i < n; i++)
        b->choices[i] = price(p, q, b, i);
    qsort(b->choices, n, sizeof *b->choices, by_cost);
    for (size_t i = 0; i < n; i++)
        if (b->kept == 0 || b->choices[i].nats < b->choices[b->kept - 1].nats)
            b->choices[b->kept++] = b->choices[i];
    return b->kept <= KNAPSACK_MAX_OPTIONS
               ? 0
               : aq_err_set(err, AQ_EINPUT, "layer %" PRId64 " has too many combinations",
                            p->layer[b->rows[0]]);
}

/* Rows of one layer, in their order. */
static size_t make_blocks(const struct sel_pairs *p, struct block *blocks)
{
    size_t n = 0;
    for (size_t row = 0; row < p->groups; row++) {
        size_t b = 0;
        while (b < n && p->layer[blocks[b].rows[0]] != p->layer[row])
            b++;
        if (b == n)
            blocks[n++].rows = xcalloc(p->groups + 1, sizeof *blocks[0].rows);
        blocks[b].rows[blocks[b].count++] = row;
    }
    return n;
}

static void solve_blocks(const struct sel_problem *q, const struct block *blocks, size_t count,
                         int64_t budget, struct sel_choice *out)
{
    size_t all = 0;
    for (size_t b = 0; b < count; b++)
        all += blocks[b].kept;
    size_t *start = xcalloc(count + 1, sizeof *start);
    int64_t *costs = xcalloc(all + 1, sizeof *costs);
    double *scores = xcalloc(all + 1, sizeof *scores);
    for (size_t b = 0, n = 0; b < count; b++) {
        for (size_t i = 0; i < blocks[b].kept; i++, n++) {
            costs[n] = blocks[b].choices[i].cost;
            scores[n] = blocks[b].choices[i].nats;
        }
        start[b + 1] = n;
    }
    const struct knapsack_problem k = {count, start, costs, scores, 0};
    struct knapsack *s = knapsack_solve(&k, budget, budget);
    ptrdiff_t point = knapsack_find(s, budget);
    int *pick = xcalloc(count + 1, sizeof *pick),
        *option = xcalloc(q->table->count + 1, sizeof *option);
    if (point >= 0)
        knapsack_choices(s, (size_t)point, pick); /* else the cheapest, which come first */
    for (size_t b = 0; b < count; b++) {
        size_t number = blocks[b].choices[pick[b]].number;
        for (size_t i = 0; i < blocks[b].count; i++)
            option[blocks[b].rows[i]] = q->option[digit(q, &blocks[b], i, &number)];
    }
    sel_choice_take(q->table, option, out);
    out->satisfied = point >= 0;
    out->gap = point >= 0 ? knapsack_gap(s) : 0;
    knapsack_free(s);
    free(pick);
    free(option);
    free(start);
    free(costs);
    free(scores);
}

int sel_pairs_solve(const struct sel_pairs *p, const struct sel_problem *problem,
                    const struct sel_budget *b, struct sel_choice *out, struct aq_err *err)
{
    struct block *blocks = xcalloc(p->groups + 1, sizeof *blocks);
    size_t n = make_blocks(p, blocks);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = price_block(p, problem, &blocks[i], err);
    if (r == 0)
        solve_blocks(problem, blocks, n, sel_budget_units(problem, b), out);
    else
        (void)aq_err_prefix(err, "%s", aq_show(p->path));
    for (size_t i = 0; i < n; i++) {
        free(blocks[i].rows);
        free(blocks[i].choices);
    }
    free(blocks);
    return r;
}
