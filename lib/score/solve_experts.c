#include "score/solve_experts.h"

#include "base/mem.h"
#include "base/msg.h"
#include "nn/experts.h"
#include "quant/dense.h"
#include "quant/gptq.h"
#include "quant/scaling.h"
#include "score/made.h"
#include "score/solver.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what experts read ---- */

static int64_t half_cols(const struct lm_arch *a, int half)
{
    return half == EXPERT_DOWN ? a->moe_intermediate_size : a->hidden_size;
}

/* Columns of all that a token leaves: what its experts read, and the inputs of their downs. */
static int64_t token_cols(const struct lm_arch *a)
{
    return a->hidden_size + a->experts_per_token * a->moe_intermediate_size;
}

uint64_t expert_inputs_bytes(const struct lm_arch *a, int64_t tokens, int64_t tile_rows)
{
    if (!a->experts)
        return 0;
    return (uint64_t)(tokens + tile_rows) * (uint64_t)token_cols(a) * sizeof(float) +
           (uint64_t)tokens * (uint64_t)a->experts_per_token * sizeof(int32_t);
}

int expert_inputs_open(struct expert_inputs *x, const struct lm_arch *a, int64_t tokens,
                       int64_t tile_rows, struct aq_err *err)
{
    *x = (struct expert_inputs){.experts = (int)a->experts};
    if (!a->experts)
        return 0;
    x->per_token = (int)a->experts_per_token;
    size_t n = (size_t)tokens + 1, slots = n * (size_t)x->per_token;
    for (int h = 0; h < EXPERT_HALVES; h++) {
        x->cols[h] = half_cols(a, h);
        x->x[h] = malloc((h == EXPERT_DOWN ? slots : n) * (size_t)x->cols[h] * sizeof(float));
    }
    x->sel = malloc(slots * sizeof *x->sel);
    x->tile = malloc((size_t)(tile_rows * token_cols(a)) * sizeof *x->tile);
    if (x->x[EXPERT_GATE_UP] && x->x[EXPERT_DOWN] && x->sel && x->tile)
        return 0;
    return aq_err_set(err, AQ_ERUN, "no memory for what the experts of a layer read: %.0f MB",
                      (double)expert_inputs_bytes(a, tokens, tile_rows) / 1e6);
}

void expert_inputs_close(struct expert_inputs *x)
{
    for (int h = 0; h < EXPERT_HALVES; h++)
        free(x->x[h]);
    free(x->sel);
    free(x->tile);
    *x = (struct expert_inputs){.tokens = 0};
}

int expert_inputs_add(struct expert_inputs *x, struct backend *b, const struct model_layer *m,
                      const struct tile *t, const struct nn_acts *acts, struct aq_err *err)
{
    const struct backend_tile_desc *d = &t->desc;
    int64_t from = x->tokens;
    for (int h = 0; h < EXPERT_HALVES; h++) {
        int64_t each = x->cols[h] * (h == EXPERT_DOWN ? x->per_token : 1);
        size_t bytes = (size_t)d->rows * (size_t)each * sizeof(float);
        if (b->ops->download(b, x->tile, acts->x[m->experts_input[h]], bytes, err) < 0)
            return -1;
        x->tokens = from;
        for (int32_t s = 0; s < d->samples; s++) {
            int32_t row = d->first[s] + (d->pad[s] ? 1 : 0), n = d->first[s + 1] - row;
            memcpy(x->x[h] + x->tokens * each, x->tile + row * each,
                   (size_t)n * (size_t)each * sizeof(float));
            memcpy(x->sel + x->tokens * x->per_token, acts->routes->host + row * x->per_token,
                   (size_t)n * (size_t)x->per_token * sizeof *x->sel);
            x->tokens += n;
        }
    }
    return 0;
}

static int64_t input_rows(const struct expert_inputs *x, int half)
{
    return half == EXPERT_DOWN ? x->tokens * x->per_token : x->tokens;
}

/* Tokens of each expert; caller frees. */
static int64_t *count_tokens(const struct expert_inputs *x)
{
    int64_t *counts = xcalloc((size_t)x->experts, sizeof *counts);
    for (int64_t i = 0; i < x->tokens * x->per_token; i++)
        counts[x->sel[i]]++;
    return counts;
}

struct expert_counts expert_counts_of(const struct expert_inputs *x)
{
    struct expert_counts n = {.unseen = 0};
    int64_t *counts = count_tokens(x);
    for (int e = 0; e < x->experts; e++) {
        n.unseen += counts[e] == 0;
        for (int h = 0; h < EXPERT_HALVES; h++)
            n.own[h] += counts[e] >= x->cols[h];
    }
    free(counts);
    return n;
}

/* ---- moments ---- */

enum { GATHERED = 512 /* rows at a time */, ALL = -1 };

/* to (cols, cols) = sum of x'x over the rows of one expert, or of all of them. */
static void take_moments(const struct layer_job *job, int half, int expert, double *to)
{
    const struct expert_inputs *x = job->experts;
    int64_t cols = x->cols[half], rows = input_rows(x, half), held = 0;
    int each = half == EXPERT_DOWN ? 1 : x->per_token; /* slots of a row */
    double *room = xmalloc((size_t)(GATHERED * cols) * sizeof *room);
    memset(to, 0, (size_t)(cols * cols) * sizeof *to);
    for (int64_t r = 0; r < rows; r++) {
        bool wanted = expert == ALL;
        for (int k = 0; k < each && !wanted; k++)
            wanted = x->sel[r * each + k] == expert;
        for (int64_t c = 0; wanted && c < cols; c++)
            room[held * cols + c] = (double)x->x[half][r * cols + c];
        held += wanted;
        if (held == GATHERED) {
            dense_add_square(job->pool, to, room, held, cols);
            held = 0;
        }
    }
    if (held)
        dense_add_square(job->pool, to, room, held, cols);
    dense_mirror(job->pool, to, cols);
    free(room);
}

/* ---- the work on a layer ---- */

/* What a candidate has of a module of all experts. */
struct module_numbers {
    float *ranges;  /* (experts, grid rows, grid cols) */
    uint8_t *codes; /* (experts, rows, bytes of a row); NULL: ranges alone */
    int64_t rows;   /* of an expert */
    int64_t row_bytes;
    struct quant_grid grid;
};

struct candidate_work {
    const struct candidate *c;
    const float *scale[EXPERT_HALVES];       /* [cols]; NULL: none */
    struct gptq_factor layer[EXPERT_HALVES]; /* over all experts' tokens, once it was needed */
    bool layer_there[EXPERT_HALVES];
    struct module_numbers modules[EXPERT_HALVES][2]; /* gate and up, or both; down */
    int count[EXPERT_HALVES];
};

struct experts_work {
    const struct layer_job *job;
    const struct model_layer *m;
    struct candidate_work *all; /* those that are to be solved */
    size_t count;
    struct layer_solver by;
    /* moments over the layer, and of the expert at work; NULL: nobody needs them */
    double *layer[EXPERT_HALVES], *own;
    struct solver_moments layer_at[EXPERT_HALVES], own_at[EXPERT_HALVES];
    int64_t *tokens; /* [experts] */
};

static const struct backend_weight *matrix_of(const struct experts_work *w, int expert, int half)
{
    return nn_expert_weight(w->job->model, w->job->layer, expert, half);
}

static const struct model_group *group_of(const struct experts_work *w, int half, size_t *index)
{
    int g = w->m->experts_group;
    while (!w->m->groups[g].half[half])
        g++;
    *index = w->job->groups->first[w->job->layer] + (size_t)g;
    return &w->job->groups->items[*index];
}

static size_t input_of(const struct experts_work *w, int half)
{
    return w->job->groups->first_input[w->job->layer] + (size_t)w->m->experts_input[half];
}

static bool takes_codes(const struct candidate *c)
{
    return c->ws.methods.choice == QUANT_GPTQ;
}

static bool takes_ranges(const struct candidate *c)
{
    return takes_codes(c) || c->ws.methods.choice == QUANT_CLIP;
}

/* ---- scales ---- */

/* Rows of all experts' matrices that AWQ's losses are taken over. */
enum { AWQ_EXPERT_ROWS = 8192 };

/* The column maxima of all experts' matrices, as a weight of one row. */
static float *column_maxima(const struct experts_work *w, int half)
{
    const struct backend_weight *one = matrix_of(w, 0, half);
    float *most = xcalloc((size_t)one->cols, sizeof *most);
    float *wide = xmalloc((size_t)(one->rows * one->cols) * sizeof *wide);
    for (int e = 0; e < w->job->experts->experts; e++) {
        made_widen(w->job->pool, w->job->backend, matrix_of(w, e, half), NULL, wide);
        for (int64_t r = 0; r < one->rows; r++)
            quant_absmax_cols(most, wide + r * one->cols, NUM_F32, (size_t)one->cols);
    }
    free(wide);
    return most;
}

/* A matrix that was made of an expert's, in fp32, as a loaded weight; it takes the values. */
static int load_made(const struct experts_work *w, const struct backend_weight *from, int64_t rows,
                     float *values, struct backend_weight *out, struct aq_err *err)
{
    struct backend *b = w->job->backend;
    *out = (struct backend_weight){.host = values,
                                   .dtype = NUM_F32,
                                   .rows = rows,
                                   .cols = from->cols,
                                   .name = from->name,
                                   .exact = 1};
    return b->ops->weights_load(b, &out, 1, err);
}

static void drop_made(const struct experts_work *w, struct backend_weight *m)
{
    struct backend *b = w->job->backend;
    if (m->dev)
        b->ops->weights_release(b, &m, 1);
    free((void *)m->host);
}

/* Some rows of every expert's matrix, spread evenly. */
static int sample_expert(const struct experts_work *w, int expert, int half,
                         struct backend_weight *out, struct aq_err *err)
{
    const struct backend_weight *from = matrix_of(w, expert, half);
    int64_t wish = AWQ_EXPERT_ROWS / w->job->experts->experts;
    int64_t step = from->rows / (wish < 1 ? 1 : wish), rows;
    step = step < 1 ? 1 : step;
    rows = aq_div_up(from->rows, step);
    float *wide = xmalloc((size_t)(from->rows * from->cols) * sizeof *wide);
    made_widen(w->job->pool, w->job->backend, from, NULL, wide);
    for (int64_t r = 1; r < rows && step > 1; r++)
        memcpy(wide + r * from->cols, wide + r * step * from->cols,
               (size_t)from->cols * sizeof *wide);
    return load_made(w, from, rows, wide, out, err);
}

static int search_awq(const struct experts_work *w, const struct candidate *c, int half,
                      const struct scaled_input *in, float *scale, struct aq_err *err)
{
    int experts = w->job->experts->experts, taken = 0, bad = 0;
    struct backend_weight *sampled = xcalloc((size_t)experts, sizeof *sampled);
    const struct backend_weight **of = xcalloc((size_t)experts, sizeof(void *));
    for (; taken < experts && bad == 0; taken++) {
        of[taken] = &sampled[taken];
        bad = sample_expert(w, taken, half, &sampled[taken], err);
    }
    if (bad == 0)
        bad = solver_scales(&w->by, in, of, experts, &c->ws, scale, err);
    while (taken > 0)
        drop_made(w, &sampled[--taken]);
    free(sampled);
    free(of);
    return bad;
}

static int find_scales(const struct experts_work *w, const struct candidate *c, int half,
                       float *scale, struct aq_err *err)
{
    const struct input_stats *in = &w->job->inputs[w->m->experts_input[half]];
    const struct scaled_input input = {in->cols, w->layer_at[half].at, in->mean, in->amax, true};
    /* Column i of one expert's down has nothing to do with that of another: a joint search over
       outputs finds nothing for it, as ranges do. In a group without up no row could take it. */
    if (half == EXPERT_DOWN && (c->ws.methods.scaling == QUANT_AWQ || w->m->experts_groups > 1)) {
        for (int64_t i = 0; i < in->cols; i++)
            scale[i] = 1;
        return 0;
    }
    if (c->ws.methods.scaling == QUANT_AWQ)
        return search_awq(w, c, half, &input, scale, err);
    float *most = column_maxima(w, half);
    smooth_scales(w->job->pool, &input, &(struct scaled_weight){most, 1, "experts"}, 1,
                  c->ws.methods.alpha, scale);
    free(most);
    return 0;
}

static int scale_candidate(const struct experts_work *w, struct candidate_work *cw,
                           struct solved_items *out, struct aq_err *err)
{
    for (int h = 0; h < EXPERT_HALVES && cw->c->ws.methods.scaling; h++) {
        size_t index = input_of(w, h);
        int64_t cols = w->job->experts->cols[h];
        float *scale = xcalloc((size_t)cols, sizeof *scale);
        cw->scale[h] = scale;
        solved_items_add(out, xasprintf("scale/%s/%zu", cw->c->id, index), ST_F32, 0, 0, cols,
                         scale);
        if (find_scales(w, cw->c, h, scale, err) < 0)
            return aq_err_prefix(err, "input '%s'", w->job->groups->inputs[index].name);
    }
    return 0;
}

/* ---- codes and ranges ---- */

static int take_modules(const struct experts_work *w, struct candidate_work *cw, int half,
                        struct aq_err *err)
{
    size_t index;
    int first, experts = w->job->experts->experts;
    const struct model_group *g = group_of(w, half, &index);
    const struct backend_weight *m = matrix_of(w, 0, half);
    cw->count[half] = model_group_half(g, half, &first);
    for (int k = 0; k < cw->count[half]; k++) {
        struct module_numbers *n = &cw->modules[half][k];
        n->rows = m->rows / cw->count[half];
        n->row_bytes = quant_code_row_bytes(&cw->c->ws, m->cols);
        (void)quant_weight_grid(&cw->c->ws, n->rows, m->cols, &n->grid);
        if (cw->count[half] > 1 && n->grid.rows_each < n->rows && n->rows % n->grid.rows_each)
            return aq_err_set(err, AQ_EINPUT,
                              "%s: blocks of %" PRId64 " rows do not divide the %" PRId64
                              " rows of an expert's gate",
                              g->name, n->grid.rows_each, n->rows);
        n->ranges =
            xcalloc((size_t)(experts * n->grid.grid_rows * n->grid.grid_cols), sizeof *n->ranges);
        if (takes_codes(cw->c))
            n->codes = xcalloc((size_t)(experts * n->rows), (size_t)n->row_bytes);
    }
    return 0;
}

/* They belong to the product from here on. */
static void give_modules(const struct experts_work *w, struct candidate_work *cw, int half,
                         struct solved_items *out)
{
    size_t index;
    int first, experts = w->job->experts->experts;
    const struct model_group *g = group_of(w, half, &index);
    (void)model_group_half(g, half, &first);
    for (int k = 0; k < cw->count[half]; k++) {
        struct module_numbers *n = &cw->modules[half][k];
        solved_items_add(out, xasprintf("range/%s/%zu.%d", cw->c->id, index, first + k), ST_F32,
                         experts, n->grid.grid_rows, n->grid.grid_cols, n->ranges);
        if (n->codes)
            solved_items_add(out, xasprintf("codes/%s/%zu.%d", cw->c->id, index, first + k), ST_U8,
                             experts, n->rows, n->row_bytes, n->codes);
        *n = (struct module_numbers){.ranges = NULL};
    }
}

/* The lower half of the rows, those of up, divide down's input by its scale; columns are left. */
static float *divided_matrix(const struct experts_work *w, const struct candidate_work *cw,
                             int expert, int half)
{
    const struct backend_weight *m = matrix_of(w, expert, half);
    const float *inner = cw->scale[EXPERT_DOWN];
    float *wide = xmalloc((size_t)(m->rows * m->cols) * sizeof *wide);
    made_widen(w->job->pool, w->job->backend, m, NULL, wide);
    for (int64_t r = m->rows / 2; inner && half == EXPERT_GATE_UP && r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            wide[r * m->cols + c] *= 1 / inner[r - m->rows / 2];
    return wide;
}

/* From the matrix of an expert as it is computed with to the modules of the checkpoint. */
static void keep_numbers(const struct candidate_work *cw, int expert, int half,
                         const struct quant_grid *grid, const float *ranges, const uint8_t *codes)
{
    for (int k = 0; k < cw->count[half]; k++) {
        const struct module_numbers *n = &cw->modules[half][k];
        int64_t each = n->grid.grid_rows * n->grid.grid_cols;
        int64_t from = grid->grid_rows > 1 ? k * each : 0; /* one range is that of both */
        memcpy(n->ranges + expert * each, ranges + from, (size_t)each * sizeof *ranges);
        size_t bytes = (size_t)(n->rows * n->row_bytes);
        if (codes)
            memcpy(n->codes + (size_t)expert * bytes, codes + (size_t)k * bytes, bytes);
    }
}

static int make_factor(const struct experts_work *w, const struct candidate_work *cw, int half,
                       const struct solver_moments *moments, struct gptq_factor *f,
                       struct aq_err *err)
{
    const struct quant_methods *m = &cw->c->ws.methods;
    const char *input = w->job->groups->inputs[input_of(w, half)].name;
    double damp;
    if (solver_factor(&w->by, f, moments->at, moments->diagonal, w->job->experts->cols[half],
                      cw->scale[half], m, &damp, err) < 0)
        return aq_err_prefix(err, "input '%s'", input);
    if (damp > m->damp)
        aq_warn("input '%s': its second moments had no factor before %g of their mean was added",
                input, damp);
    return 0;
}

/* The factor of this candidate for an expert; own: its tokens are enough. */
static int take_factor(const struct experts_work *w, struct candidate_work *cw, int half, bool own,
                       struct gptq_factor *of_expert, const struct gptq_factor **out,
                       struct aq_err *err)
{
    *out = own ? of_expert : &cw->layer[half];
    if (own)
        return make_factor(w, cw, half, &w->own_at[half], of_expert, err);
    if (cw->layer_there[half])
        return 0;
    if (make_factor(w, cw, half, &w->layer_at[half], &cw->layer[half], err) < 0)
        return -1;
    cw->layer_there[half] = true;
    return 0;
}

static int solve_matrix(const struct experts_work *w, struct candidate_work *cw, int expert,
                        int half, bool own, struct aq_err *err)
{
    const struct backend_weight *m = matrix_of(w, expert, half);
    const struct candidate *c = cw->c;
    struct gptq_factor of_expert = {.n = 0};
    const struct gptq_factor *f;
    struct quant_grid grid;
    struct backend_weight made;
    (void)quant_weight_grid(&c->ws, m->rows, m->cols, &grid);
    float *ranges = xcalloc((size_t)(grid.grid_rows * grid.grid_cols), sizeof *ranges);
    size_t row_bytes = (size_t)quant_code_row_bytes(&c->ws, m->cols);
    uint8_t *codes = takes_codes(c) ? xmalloc((size_t)m->rows * row_bytes) : NULL;
    int bad = load_made(w, m, m->rows, divided_matrix(w, cw, expert, half), &made, err);
    if (bad == 0 && codes) {
        bad = take_factor(w, cw, half, own, &of_expert, &f, err);
        if (bad == 0)
            bad = solver_codes(&w->by, f, &made, cw->scale[half], &c->ws, ranges, codes, err);
        solver_factor_release(&w->by, &of_expert);
    } else if (bad == 0) {
        bad = solver_clip(&w->by, (own ? w->own_at : w->layer_at)[half].at, &made, cw->scale[half],
                          &c->ws, ranges, err);
    }
    if (bad == 0)
        keep_numbers(cw, expert, half, &grid, ranges, codes);
    drop_made(w, &made);
    free(ranges);
    free(codes);
    return bad < 0 ? aq_err_prefix(err, "%s", aq_show(m->name)) : 0;
}

/* ---- the layer ---- */

static int open_work(struct experts_work *w, const struct layer_job *job, struct aq_err *err)
{
    const struct expert_inputs *x = job->experts;
    bool awq = false, ranges = false;
    *w = (struct experts_work){
        .job = job, .m = nn_layer(job->model, job->layer), .by = {job->pool, job->backend}};
    w->tokens = count_tokens(x);
    w->all = xcalloc(job->candidates->count + 1, sizeof *w->all);
    for (size_t i = 0; i < job->candidates->count; i++) {
        const struct candidate *c = &job->candidates->items[i];
        if (job->done[i])
            continue;
        w->all[w->count++].c = c;
        awq |= c->ws.methods.scaling == QUANT_AWQ;
        ranges |= takes_ranges(c);
    }
    int64_t most = x->cols[0] > x->cols[1] ? x->cols[0] : x->cols[1];
    w->own = xmalloc((size_t)(most * most) * sizeof *w->own);
    for (int h = 0; h < EXPERT_HALVES; h++) {
        size_t bytes = (size_t)(x->cols[h] * x->cols[h]) * sizeof(double);
        bool few = false;
        for (int e = 0; e < x->experts; e++)
            few |= w->tokens[e] < x->cols[h];
        if (awq || (ranges && few)) {
            w->layer[h] = xmalloc(bytes);
            take_moments(job, h, ALL, w->layer[h]);
            if (solver_moments_set(&w->by, &w->layer_at[h], w->layer[h], x->cols[h], err) < 0)
                return -1;
        }
    }
    return 0;
}

static void close_work(struct experts_work *w)
{
    for (size_t i = 0; i < w->count; i++)
        for (int h = 0; h < EXPERT_HALVES; h++) {
            solver_factor_release(&w->by, &w->all[i].layer[h]);
            for (int k = 0; k < w->all[i].count[h]; k++) {
                free(w->all[i].modules[h][k].ranges);
                free(w->all[i].modules[h][k].codes);
            }
        }
    for (int h = 0; h < EXPERT_HALVES; h++) {
        solver_moments_release(&w->by, &w->layer_at[h]);
        solver_moments_release(&w->by, &w->own_at[h]);
        free(w->layer[h]);
    }
    free(w->own);
    free(w->tokens);
    free(w->all);
}

static int solve_expert(struct experts_work *w, int expert, int half, struct aq_err *err)
{
    bool own = w->tokens[expert] >= w->job->experts->cols[half], there = false;
    for (size_t i = 0; i < w->count; i++) {
        struct candidate_work *cw = &w->all[i];
        if (!takes_ranges(cw->c))
            continue;
        if (own && !there) {
            take_moments(w->job, half, expert, w->own);
            if (solver_moments_set(&w->by, &w->own_at[half], w->own, w->job->experts->cols[half],
                                   err) < 0)
                return -1;
        }
        there = true;
        if (solve_matrix(w, cw, expert, half, own, err) < 0)
            return -1;
    }
    return 0;
}

int solve_experts(const struct layer_job *job, struct solved_items *out, struct aq_err *err)
{
    struct experts_work w;
    int bad = open_work(&w, job, err);
    for (size_t i = 0; i < w.count && bad == 0; i++) {
        bad = scale_candidate(&w, &w.all[i], out, err);
        for (int h = 0; h < EXPERT_HALVES && bad == 0 && takes_ranges(w.all[i].c); h++)
            bad = take_modules(&w, &w.all[i], h, err);
    }
    for (int e = 0; e < job->experts->experts && bad == 0; e++)
        for (int h = 0; h < EXPERT_HALVES && bad == 0; h++)
            bad = solve_expert(&w, e, h, err);
    for (size_t i = 0; i < w.count && bad == 0; i++)
        for (int h = 0; h < EXPERT_HALVES; h++)
            give_modules(&w, &w.all[i], h, out);
    close_work(&w);
    return bad;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint64_t solve_experts_bytes(const struct lm_arch *a, const struct backend *b,
                             const struct candidates *c)
{
    uint64_t d = (uint64_t)a->hidden_size, m = (uint64_t)a->moe_intermediate_size;
    uint64_t squares = (d * d + m * m) * sizeof(double), most = larger(d, m);
    uint64_t matrix = 2 * m * d * sizeof(float), factors = 0, sampled = 0, one = 0;
    for (size_t i = 0; i < c->count && a->experts; i++) {
        const struct quant_spec *spec = &c->items[i].ws;
        one = larger(one, solver_bytes(b, spec, 2 * (int64_t)m, (int64_t)d));
        one = larger(one, solver_bytes(b, spec, (int64_t)d, (int64_t)m));
        factors += spec->methods.choice == QUANT_GPTQ;
        if (spec->methods.scaling == QUANT_AWQ)
            sampled = (AWQ_EXPERT_ROWS + (uint64_t)a->experts) * d * sizeof(float) + matrix;
    }
    /* the host's moments of the layer and of an expert; on a device both of each half, and the
       matrix at work; the layer's factors; one candidate of one expert */
    uint64_t device = solver_on_device(b) ? 2 * squares + matrix : 0;
    return a->experts ? squares + most * most * sizeof(double) + device + factors * squares +
                            larger(one + matrix, 2 * sampled)
                      : 0;
}
