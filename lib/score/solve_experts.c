#include "score/solve_experts.h"

#include "base/mem.h"
#include "base/msg.h"
#include "nn/experts.h"
#include "quant/dense.h"
#include "quant/gptq.h"
#include "quant/scaling.h"
#include "score/made.h"

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

void expert_inputs_mean(const struct expert_inputs *x, int half, double *mean)
{
    int64_t rows = input_rows(x, half), cols = x->cols[half];
    memset(mean, 0, (size_t)cols * sizeof *mean);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            mean[c] += fabs((double)x->x[half][r * cols + c]);
    for (int64_t c = 0; c < cols; c++)
        mean[c] /= (double)rows;
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
    double *layer[EXPERT_HALVES]; /* moments over the layer; NULL: nobody needs them */
    double *own;                  /* of the expert at work */
    int64_t *tokens;              /* [experts] */
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

/* Some rows of every expert's matrix, spread evenly; caller frees w->w. */
static void sample_expert(const struct experts_work *w, int expert, int half,
                          struct scaled_weight *out)
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
    *out = (struct scaled_weight){wide, rows, from->name};
}

static int find_scales(const struct experts_work *w, const struct candidate *c, int half,
                       float *scale, struct aq_err *err)
{
    const struct input_stats *in = &w->job->inputs[w->m->experts_input[half]];
    const struct scaled_input input = {in->cols, w->layer[half], in->mean, in->amax, true};
    int experts = w->job->experts->experts, bad = 0;
    double exponent;
    /* Column i of one expert's down has nothing to do with that of another: a joint search over
       outputs finds nothing for it, as ranges do. In a group without up no row could take it. */
    if (half == EXPERT_DOWN && (c->ws.methods.scaling == QUANT_AWQ || w->m->experts_groups > 1)) {
        for (int64_t i = 0; i < in->cols; i++)
            scale[i] = 1;
        return 0;
    }
    if (c->ws.methods.scaling == QUANT_SMOOTH) {
        float *most = column_maxima(w, half);
        smooth_scales(w->job->pool, &input, &(struct scaled_weight){most, 1, "experts"}, 1,
                      c->ws.methods.alpha, scale);
        free(most);
    } else {
        struct scaled_weight *sampled = xcalloc((size_t)experts, sizeof *sampled);
        for (int e = 0; e < experts; e++)
            sample_expert(w, e, half, &sampled[e]);
        bad = awq_scales(w->job->pool, &input, sampled, experts, &c->ws, scale, &exponent, err);
        for (int e = 0; e < experts; e++)
            free((void *)sampled[e].w);
        free(sampled);
    }
    return bad;
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

static float *scaled_matrix(const struct experts_work *w, const struct candidate_work *cw,
                            int expert, int half)
{
    const struct backend_weight *m = matrix_of(w, expert, half);
    const float *cols = cw->scale[half], *inner = cw->scale[EXPERT_DOWN];
    float *wide = xmalloc((size_t)(m->rows * m->cols) * sizeof *wide);
    made_widen(w->job->pool, w->job->backend, m, cols, wide);
    for (int64_t r = m->rows / 2; cols && half == EXPERT_GATE_UP && r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            wide[r * m->cols + c] *= 1 / inner[r - m->rows / 2];
    return wide;
}

/* From the matrix of an expert as it is computed with to the modules of the checkpoint. */
static void keep_numbers(const struct candidate_work *cw, int expert, int half,
                         const struct quant_grid *grid, const float *ranges, const int8_t *codes,
                         int64_t cols)
{
    for (int k = 0; k < cw->count[half]; k++) {
        const struct module_numbers *n = &cw->modules[half][k];
        int64_t each = n->grid.grid_rows * n->grid.grid_cols;
        int64_t from = grid->grid_rows > 1 ? k * each : 0; /* one range is that of both */
        memcpy(n->ranges + expert * each, ranges + from, (size_t)each * sizeof *ranges);
        for (int64_t r = 0; codes && r < n->rows; r++)
            quant_pack_codes(&cw->c->ws, codes + (k * n->rows + r) * cols, cols,
                             n->codes + (expert * n->rows + r) * n->row_bytes);
    }
}

static int make_factor(const struct experts_work *w, const struct candidate_work *cw, int half,
                       const double *moments, struct gptq_factor *f, struct aq_err *err)
{
    const struct quant_methods *m = &cw->c->ws.methods;
    const char *input = w->job->groups->inputs[input_of(w, half)].name;
    double damp;
    if (gptq_factor(f, w->job->pool, moments, w->job->experts->cols[half], cw->scale[half], m,
                    &damp, err) < 0)
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
        return make_factor(w, cw, half, w->own, of_expert, err);
    if (cw->layer_there[half])
        return 0;
    if (make_factor(w, cw, half, w->layer[half], &cw->layer[half], err) < 0)
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
    float *wide = scaled_matrix(w, cw, expert, half);
    (void)quant_weight_grid(&c->ws, m->rows, m->cols, &grid);
    int64_t count = grid.grid_rows * grid.grid_cols;
    float *ranges = xcalloc((size_t)count, sizeof *ranges);
    int8_t *codes = takes_codes(c) ? xmalloc((size_t)(m->rows * m->cols)) : NULL;
    int bad;
    if (codes) {
        bad = take_factor(w, cw, half, own, &of_expert, &f, err);
        gptq_ranges(&c->ws, wide, m->rows, m->cols, ranges);
        if (bad == 0)
            bad = gptq_codes(w->job->pool, f, &c->ws, wide, m->rows, ranges, codes, err);
        gptq_factor_release(&of_expert);
    } else {
        bad = clip_ranges(w->job->pool, own ? w->own : w->layer[half], cw->scale[half], &c->ws,
                          wide, m->rows, m->cols, ranges, err);
        for (int64_t i = 0; i < count; i++)
            ranges[i] = quant_stored_range(&c->ws, ranges[i]);
    }
    if (bad == 0)
        keep_numbers(cw, expert, half, &grid, ranges, codes, m->cols);
    free(wide);
    free(ranges);
    free(codes);
    return bad < 0 ? aq_err_prefix(err, "%s", aq_show(m->name)) : 0;
}

/* ---- the layer ---- */

static int open_work(struct experts_work *w, const struct layer_job *job)
{
    const struct expert_inputs *x = job->experts;
    bool awq = false, ranges = false;
    *w = (struct experts_work){.job = job, .m = nn_layer(job->model, job->layer)};
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
    for (int h = 0; h < EXPERT_HALVES; h++) {
        size_t bytes = (size_t)(x->cols[h] * x->cols[h]) * sizeof(double);
        bool few = false;
        for (int e = 0; e < x->experts; e++)
            few |= w->tokens[e] < x->cols[h];
        if (awq || (ranges && few)) {
            w->layer[h] = xmalloc(bytes);
            take_moments(job, h, ALL, w->layer[h]);
        }
    }
    int64_t most = x->cols[0] > x->cols[1] ? x->cols[0] : x->cols[1];
    w->own = xmalloc((size_t)(most * most) * sizeof *w->own);
    return 0;
}

static void close_work(struct experts_work *w)
{
    for (size_t i = 0; i < w->count; i++)
        for (int h = 0; h < EXPERT_HALVES; h++) {
            gptq_factor_release(&w->all[i].layer[h]);
            for (int k = 0; k < w->all[i].count[h]; k++) {
                free(w->all[i].modules[h][k].ranges);
                free(w->all[i].modules[h][k].codes);
            }
        }
    for (int h = 0; h < EXPERT_HALVES; h++)
        free(w->layer[h]);
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
        if (own && !there)
            take_moments(w->job, half, expert, w->own);
        there = true;
        if (solve_matrix(w, cw, expert, half, own, err) < 0)
            return -1;
    }
    return 0;
}

int solve_experts(const struct layer_job *job, struct solved_items *out, struct aq_err *err)
{
    struct experts_work w;
    int bad = open_work(&w, job);
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

uint64_t solve_experts_bytes(const struct lm_arch *a)
{
    uint64_t d = (uint64_t)a->hidden_size, m = (uint64_t)a->moe_intermediate_size;
    uint64_t most = d > m ? d : m, matrix = 2 * m * d;
    /* moments of the layer and of an expert, a factor; a matrix in fp32 and fp64 and its codes */
    return a->experts ? (d * d + m * m + 2 * most * most) * 8 + matrix * 14 + 2 * m * 1024 : 0;
}
