#include "select/select_settled.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "io/product.h"
#include "select/select.h"
#include "select/select_menu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One size: its files, and what they choose. */
struct settled_size {
    int64_t samples;
    const char **paths;
    size_t count;
    struct sel_table table;
    struct sel_problem problem;
    struct sel_choice choice;
    bool opened;
    double same, difference, error; /* against the size before it */
    bool agrees;
};

struct settled {
    const struct sel_request *q;
    struct settled_size *sizes; /* rising */
    size_t count;
    struct sel_budget budget;
};

/* ---- sizes ---- */

static int samples_of(const char *path, int64_t *out, struct aq_err *err)
{
    struct sel_cell c;
    int r = sel_cell_read(&c, path, err);
    if (r == 0) {
        *out = c.facts[SEL_PREFIX] ? strtoll(c.facts[SEL_PREFIX], NULL, 10) : 0;
        if (*out < 1)
            r = aq_err_set(err, AQ_EINPUT, "%s does not say how many samples it is from",
                           aq_show(path));
    }
    sel_cell_release(&c);
    return r;
}

static int by_samples(const void *a, const void *b)
{
    const struct settled_size *x = a, *y = b;
    return x->samples < y->samples ? -1 : x->samples > y->samples;
}

static int list_sizes(struct settled *s, struct aq_err *err)
{
    const struct sel_request *q = s->q;
    s->sizes = xcalloc(q->input_count + 1, sizeof *s->sizes);
    for (size_t i = 0; i < q->input_count; i++) {
        int64_t samples = 0;
        size_t k = 0;
        if (samples_of(q->inputs[i], &samples, err) < 0)
            return -1;
        while (k < s->count && s->sizes[k].samples != samples)
            k++;
        struct settled_size *size = &s->sizes[k];
        if (k == s->count) {
            s->count++;
            size->samples = samples;
            size->paths = xcalloc(q->input_count, sizeof *size->paths);
        }
        size->paths[size->count++] = q->inputs[i];
    }
    qsort(s->sizes, s->count, sizeof *s->sizes, by_samples);
    if (s->count < 2)
        return aq_err_set(err, AQ_EUSAGE, "--settled compares sizes: all files are of %lld samples",
                          (long long)s->sizes[0].samples);
    return 0;
}

/* Options of equal number must be equal: groups and candidates as in the first size. */
static int check_same(const struct settled_size *a, const struct settled_size *b,
                      struct aq_err *err)
{
    static const enum sel_fact facts[] = {SEL_LM, SEL_TOKENS, SEL_METHOD, SEL_PADDING};
    const char *path = b->table.cells[0].path;
    for (size_t i = 0; i < AQ_COUNT(facts); i++) {
        const char *x = a->table.cells[0].facts[facts[i]], *y = b->table.cells[0].facts[facts[i]];
        if (strcmp(x ? x : "", y ? y : "") != 0) /* what neither says is equal */
            return aq_err_set(err, AQ_EINPUT, "%s differs from %s in '%s'", aq_show(path),
                              aq_show(a->table.cells[0].path), sel_fact_names[facts[i]]);
    }
    bool same = a->table.count == b->table.count;
    for (size_t g = 0; g < a->table.count && same; g++) {
        const struct sel_row *x = &a->table.rows[g], *y = &b->table.rows[g];
        same = x->count == y->count && strcmp(x->name, y->name) == 0;
        for (size_t i = 0; i < x->count && same; i++)
            same = strcmp(sel_candidate_name(&a->table, &x->options[i]),
                          sel_candidate_name(&b->table, &y->options[i])) == 0;
    }
    return same
               ? 0
               : aq_err_set(err, AQ_EINPUT, "%s: the sizes %lld and %lld have different candidates",
                            aq_show(path), (long long)a->samples, (long long)b->samples);
}

static int choose(struct settled *s, struct settled_size *size, struct aq_err *err)
{
    const struct sel_request *q = s->q;
    const struct sel_table_options o = {.cost = q->bytes ? "storage" : q->cost,
                                        .cost_model = q->bytes ? "weight" : q->cost_model,
                                        .count_vision = q->count_vision,
                                        .monotone = SEL_MONOTONE_AS_RUN};
    struct sel_menu menu = {0};
    size->opened = true;
    int r = sel_table_read(&size->table, size->paths, size->count, &o, err);
    if (r == 0 && q->menu)
        r = sel_menu_read(&menu, q->menu, &size->table, err);
    if (r == 0)
        r = sel_menu_apply(&menu, &size->table, -1, err);
    sel_menu_release(&menu);
    if (r < 0 || sel_problem_init(&size->problem, &size->table, err) < 0 ||
        check_same(&s->sizes[0], size, err) < 0)
        return -1;
    if (size == s->sizes)
        s->budget =
            (struct sel_budget){.bytes = q->bytes,
                                .bits = q->bytes      ? 0
                                        : q->bits > 0 ? q->bits
                                                      : size->table.cells[0].effective_bits};
    sel_solve(&size->problem, &s->budget, &size->choice);
    return 0;
}

/* ---- comparing ---- */

/* By the scores of `now`: the recipe of `before` less its own. */
static void compare(const struct settled_size *before, struct settled_size *now)
{
    double same = 0, all = 0, square = 0;
    for (size_t g = 0; g < now->table.count; g++) {
        const struct sel_row *row = &now->table.rows[g];
        int x = before->choice.option[g], y = now->choice.option[g];
        all += row->weights;
        if (x == y) {
            same += row->weights;
            continue;
        }
        now->difference += row->options[x].score - row->options[y].score;
        for (int k = 0; k < 2; k++) {
            const struct sel_option *o = &row->options[k ? x : y];
            if (o->candidate != SEL_NONE)
                square += o->error * o->error; /* NAN where there is no error: never agrees */
        }
    }
    now->same = same / all;
    now->error = sqrt(square);
    now->agrees = now->same == 1 || now->difference <= 1.96 * now->error;
}

/* ---- the product ---- */

static struct json *product(const struct settled *s)
{
    struct json *v = product_new(SETTLED_SCHEMA);
    const struct settled_size *settled = NULL;
    for (size_t i = s->count; i-- > 1 && s->sizes[i].agrees;)
        settled = &s->sizes[i - 1];
    json_add_double(v, "budget", sel_budget_bits(&s->budget, &s->sizes[0].table));
    json_add_string(v, "cost", sel_cost_names[s->sizes[0].table.cost]);
    json_add_string(v, "cost_model", s->sizes[0].table.active ? "active" : "weight");
    if (settled)
        json_add_int(v, "settled", settled->samples);
    else
        json_add_null(v, "settled");
    struct json *list = json_add_array(v, "sizes");
    for (size_t i = 0; i < s->count; i++) {
        const struct settled_size *size = &s->sizes[i];
        struct json *e = json_push(list, json_new_object());
        json_add_int(e, "samples", size->samples);
        json_add_double(e, "score", size->choice.score);
        json_add_double(e, "effective_bits", size->choice.effective_bits);
        json_add_finite(e, "same_weights", i ? size->same : NAN);
        json_add_finite(e, "difference", i ? size->difference : NAN);
        json_add_finite(e, "se", i ? size->error : NAN);
        if (i)
            json_add_bool(e, "agrees", size->agrees);
        else
            json_add_null(e, "agrees");
    }
    struct json *inputs = product_add_provenance(v, "aq-select", s->q->result_version);
    for (size_t i = 0; i < s->count; i++)
        for (size_t k = 0; k < s->sizes[i].table.cell_count; k++) {
            const struct sel_cell *c = &s->sizes[i].table.cells[k];
            char *key = xasprintf("%s/%lld", c->candidate_count ? c->candidates[0].name : "?",
                                  (long long)s->sizes[i].samples);
            if (!json_get(inputs, key))
                json_add_string(inputs, key, c->digest);
            free(key);
        }
    return v;
}

int sel_settled(const struct sel_request *q, struct aq_err *err)
{
    struct settled s = {.q = q};
    int r = list_sizes(&s, err);
    for (size_t i = 0; i < s.count && r == 0; i++) {
        r = choose(&s, &s.sizes[i], err);
        if (r == 0 && i > 0)
            compare(&s.sizes[i - 1], &s.sizes[i]);
    }
    if (r == 0) {
        struct json *v = product(&s);
        r = json_write_file(q->output, v, err);
        json_free(v);
    }
    for (size_t i = 0; i < s.count; i++) {
        struct settled_size *size = &s.sizes[i];
        if (size->opened) {
            sel_choice_release(&size->choice);
            sel_problem_release(&size->problem);
            sel_table_release(&size->table);
        }
        free(size->paths);
    }
    free(s.sizes);
    return r;
}
