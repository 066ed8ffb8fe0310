/*
 * Quantized operands. A weight is quantized by the call; an activation is noted, and quantized
 * together with those of other tiles by the product that reads it.
 */
#include "backend/cuda/operand.cuh"

#include "backend/cuda/blocks.cuh"
#include "backend/cuda/kept.cuh"

#include <math.h>
#include <string.h>

#include <algorithm>

struct backend_operand *cuda_operand_new(struct backend *b, int64_t rows, int64_t cols,
                                         int is_weight, struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct backend_operand *op = new backend_operand{};
    op->is_weight = is_weight;
    op->rows = rows;
    op->hidden_bytes = is_weight ? 0 : (size_t)cols * sizeof(float);
    op->scaled_bytes = (size_t)rows * op->hidden_bytes;
    if (is_weight)
        op->row_scale =
            (float *)cuda_take(c, (size_t)rows * sizeof(float), "scales of a weight", err);
    else
        op->hidden = (float *)cuda_take(c, op->hidden_bytes, "ranges of columns", err);
    if (!is_weight)
        op->columns = new std::vector<float>;
    if (op->row_scale || op->hidden)
        return op;
    delete op->columns;
    delete op;
    return NULL;
}

static void flush_clipped(struct cuda_backend *c, struct backend_operand *op)
{
    struct planes unused;
    if (!op->clipped) /* nothing waits, and its tile may be gone */
        return;
    int64_t rows = op->t ? op->t->rows : 0;
    (void)operand_acts(c, &op, &rows, 1, &unused);
}

void cuda_flush_clipped(struct cuda_backend *c)
{
    std::vector<backend_operand *> waiting = *c->waiting;
    for (struct backend_operand *op : waiting)
        flush_clipped(c, op);
    c->waiting->clear();
}

static void forget_clipped(struct cuda_backend *c, struct backend_operand *op)
{
    op->clipped = NULL;
    c->waiting->erase(std::remove(c->waiting->begin(), c->waiting->end(), op), c->waiting->end());
}

void cuda_operand_free(struct backend *b, struct backend_operand *op)
{
    struct cuda_backend *c = cuda_of(b);
    if (!op)
        return;
    forget_clipped(c, op);
    c->in_scratch = c->in_scratch == op ? NULL : c->in_scratch;
    cuda_give(c, op->data, op->bytes);
    cuda_give(c, op->row_scale, (size_t)op->rows * sizeof(float));
    cuda_give(c, op->hidden, op->hidden_bytes);
    cuda_give(c, op->scaled, op->scaled_bytes);
    cuda_give(c, op->factor, op->hidden_bytes);
    delete op->columns;
    delete op;
}

/* ---- forms ---- */

static bool rounds(const struct cuda_backend *c)
{
    return c->config.operand_rounding && c->config.bf16;
}

/*
 * A scale for each row or for all goes to the result. Powers of two leave a value that bf16 holds,
 * and so does the e4m3 scale of a block in NVFP4: 2 and 4 significant bits make 6. Scales of other
 * blocks along K go to the sums where a kernel does that; those of columns, and where none does, do
 * not, and the value is split.
 */
static enum form form_of(const struct cuda_backend *c, const struct quant_step *last, int64_t cols)
{
    enum quant_scope scope = last->scope;
    if (!c->config.bf16)
        return FORM_F32;
    if (rounds(c) || scope == QUANT_MX)
        return FORM_BF16;
    if (scope == QUANT_TENSOR || scope == QUANT_AXIS0 || scope == QUANT_TOKEN ||
        scope == QUANT_NVFP4)
        return FORM_CODES;
    if (scope == QUANT_BLOCK && c->blocks && blocks_fit(cols, last->block_cols))
        return FORM_BLOCKS;
    return FORM_TERMS;
}

/* Of fp32 numbers that no step quantizes: those made on the host, and scaled inputs. */
static enum form form_exact(const struct cuda_backend *c)
{
    return !c->config.bf16 ? FORM_F32 : rounds(c) ? FORM_BF16 : FORM_TERMS;
}

/* Bytes of the ratios of `rows` rows, with what the kernel may read after them. */
static size_t ratio_bytes(const struct quant_step *last, int64_t rows, int64_t cols)
{
    int64_t blocks = (cols + last->block_cols - 1) / last->block_cols;
    return (size_t)(blocks * blocks_stride(rows) + blocks_stride(1)) * sizeof(float);
}

static enum form form_between(const struct cuda_backend *c)
{
    return rounds(c) ? FORM_F32_VIA_BF16 : FORM_F32;
}

/* ---- weights ---- */

static bool check_weight(struct cuda_backend *c, const struct backend_weight *w,
                         const struct quant_spec *spec)
{
    for (int k = 0; k < spec->steps; k++) {
        const struct quant_step *t = &spec->step[k];
        const char *wrong = NULL;
        if (t->scope == QUANT_TOKEN || t->scope == QUANT_HIDDEN)
            wrong = "a scope of activations, not of a weight";
        else if ((t->scope == QUANT_TENSOR || t->scope == QUANT_BLOCK) && t->dynamic)
            wrong = "a weight's range is its own: 'static' is expected";
        if (wrong) {
            c->host.err_set(&c->failed, AQ_EINPUT, "%s: step %d of its treatment: %s", w->name,
                            k + 1, wrong);
            return false;
        }
    }
    return true;
}

static bool weight_room(struct cuda_backend *c, struct backend_operand *op, size_t bytes)
{
    if (bytes <= op->bytes)
        return true;
    cuda_give(c, op->data, op->bytes);
    op->bytes = 0;
    op->data = cuda_take(c, bytes, "a quantized weight", &c->failed);
    if (!op->data)
        return false;
    op->bytes = bytes;
    return true;
}

/* The steps, each on the result of the one before. */
static bool run_steps(struct cuda_backend *c, struct backend_operand *op,
                      const struct backend_weight *w, const void *from)
{
    struct sources m = {1, cuda_weight_is_bf16(c, w), 1, w->rows, w->cols, {from}};
    m.range[0] = m.is_bf16 ? num_from_bf16(num_to_bf16(op->spec.group_amax)) : op->spec.group_amax;
    const struct quant_spec *spec = &op->spec;
    float *between = NULL;
    if (spec->steps > 1)
        between =
            (float *)cuda_scratch(c, SCRATCH_BEFORE, (size_t)(w->rows * w->cols) * sizeof *between);
    int32_t number = (int32_t)c->quantized->size();
    c->quantized->push_back(w->name);
    for (int k = 0; k < spec->steps && cuda_good(c); k++) {
        bool last = k == spec->steps - 1;
        struct device_step s = step_of(&spec->step[k], 1, w->rows, w->cols, 1);
        struct quantized q = {between, form_between(c), w->rows * w->cols, NULL, NULL, 0, NULL};
        struct scales scales;
        if (last)
            q = quantized{op->data,      op->form,  w->rows * w->cols,
                          op->row_scale, op->ratio, blocks_stride(w->rows),
                          NULL};
        if (!step_scales(c, &m, &s, &scales, c->bad, number))
            return false;
        step_apply(c, &m, &s, &scales, &q);
        m.at[0] = between;
        m.is_bf16 = 0;
    }
    return cuda_good(c);
}

static void copy_step(struct device_step *s, int64_t cols)
{
    *s = device_step{};
    s->op = STEP_COPY;
    s->groups = CELL_ALL_ROWS;
    s->block = cols;
    s->grid_cols = 1;
}

/* fp32 numbers that were made of the weight, in the form of products. */
static bool take_exact(struct cuda_backend *c, struct backend_operand *op,
                       const struct backend_weight *w, const void *values)
{
    struct device_step s;
    const struct scales none = {};
    op->form = form_exact(c);
    if (!weight_room(c, op, (size_t)(w->rows * w->cols) * form_bytes(op->form)))
        return false;
    const struct sources m = {1, 0, 1, w->rows, w->cols, {values}};
    const struct quantized q = {op->data, op->form, w->rows * w->cols, NULL, NULL};
    if (!m.at[0])
        return false;
    copy_step(&s, w->cols);
    step_apply(c, &m, &s, &none, &q);
    return cuda_good(c);
}

/* Under the best multiples of its ranges. */
static bool search_mse(struct cuda_backend *c, const struct sources *m,
                       const struct quant_spec *spec, float *to, int32_t number)
{
    struct device_step s = step_of(&spec->step[0], 1, m->rows, m->cols, 1);
    const struct quantized q = {to, form_between(c), m->rows * m->cols, NULL, NULL, 0, NULL};
    struct scales scales;
    s.search = spec->methods.modelopt_grid ? SEARCH_MODELOPT : SEARCH_OWN;
    if (!step_scales(c, m, &s, &scales, c->bad, number))
        return false;
    step_apply(c, m, &s, &scales, &q);
    return cuda_good(c);
}

/* Ranges or block scales that are searched for. */
static bool take_searched(struct cuda_backend *c, struct backend_operand *op,
                          const struct backend_weight *w, const void *from)
{
    struct sources m = {1, cuda_weight_is_bf16(c, w), 1, w->rows, w->cols, {from}};
    float *values =
        (float *)cuda_scratch(c, SCRATCH_BEFORE, (size_t)(w->rows * w->cols) * sizeof *values);
    int32_t number = (int32_t)c->quantized->size();
    if (!values)
        return false;
    m.range[0] = m.is_bf16 ? num_from_bf16(num_to_bf16(op->spec.group_amax)) : op->spec.group_amax;
    c->quantized->push_back(w->name);
    return (op->spec.methods.choice == QUANT_MSE
                ? search_mse(c, &m, &op->spec, values, number)
                : search_nvfp4(c, &m, &op->spec, rounds(c), values, number)) &&
           take_exact(c, op, w, values);
}

/* Does the operand hold planes of its own? Otherwise it is the loaded weight. */
static bool has_planes(const struct cuda_backend *c, const struct quant_spec *spec,
                       const struct backend_weight *w)
{
    return spec->steps > 0 || (w->exact && c->config.bf16);
}

void cuda_quantize_weight(struct backend *b, struct backend_operand *op,
                          const struct backend_weight *w, const struct quant_spec *spec)
{
    struct cuda_backend *c = cuda_of(b);
    if (op->w == w && op->w_dev == w->dev && op->version == w->version &&
        memcmp(&op->spec, spec, sizeof *spec) == 0)
        return;
    op->w = NULL;
    op->version = w->version;
    op->spec = *spec;
    if (spec->methods.choice != QUANT_NEAREST) {
        const void *from = cuda_weight(c, w);
        if (!from || !check_weight(c, w, spec) || !take_searched(c, op, w, from))
            return;
    } else if (spec->steps > 0) {
        const void *from = cuda_weight(c, w);
        const struct quant_step *last = &spec->step[spec->steps - 1];
        op->form = form_of(c, last, w->cols);
        size_t bytes = (size_t)(w->rows * w->cols) * form_bytes(op->form), all = bytes;
        if (op->form == FORM_BLOCKS)
            all += ratio_bytes(last, w->rows, w->cols);
        if (!from || !check_weight(c, w, spec) || !weight_room(c, op, all))
            return;
        op->ratio = op->form == FORM_BLOCKS ? (float *)((char *)op->data + bytes) : NULL;
        if (!run_steps(c, op, w, from))
            return;
    } else if (has_planes(c, spec, w) && !take_exact(c, op, w, cuda_weight(c, w))) {
        return;
    }
    op->w = w;
    op->w_dev = w->dev;
}

static void scale_planes(struct planes *p, enum form form, const struct quant_step *last,
                         const float *row_scale, const float *ratio, int64_t rows)
{
    p->row_scale = form == FORM_CODES || form == FORM_BLOCKS ? row_scale : NULL;
    if (form != FORM_BLOCKS)
        return;
    p->block = last->block_cols;
    p->ratio = ratio;
    p->stride = blocks_stride(rows);
}

bool operand_has_planes(const struct cuda_backend *c, const struct backend_operand *op)
{
    return has_planes(c, &op->spec, op->w);
}

bool operand_weight(struct cuda_backend *c, const struct backend_operand *op, struct planes *out)
{
    *out = planes{NULL, 1, 0};
    if (!cuda_good(c) || !op->w)
        return false;
    if (!has_planes(c, &op->spec, op->w)) {
        out->data = cuda_weight_typed(c, op->w, 0, op->w->rows);
        return out->data != NULL;
    }
    out->data = op->data;
    out->terms = form_terms(op->form);
    out->plane = op->w->rows * op->w->cols;
    scale_planes(out, op->form, &op->spec.step[op->spec.steps ? op->spec.steps - 1 : 0],
                 op->row_scale, op->ratio, op->w->rows);
    return true;
}

/* ---- activations ---- */

static bool check_act(struct cuda_backend *c, const struct quant_spec *spec, int64_t cols,
                      const struct quant_range *range)
{
    const struct quant_step *t = &spec->step[0];
    const char *wrong = NULL;
    if (spec->steps == 0)
        return true;
    bool hidden = t->scope == QUANT_HIDDEN;
    if (spec->steps > 1)
        wrong = "only weights have sequences";
    else if (t->scope == QUANT_AXIS0 || t->scope == QUANT_AXIS1 ||
             (t->scope == QUANT_BLOCK && !t->dynamic))
        wrong = "a scope of weights";
    else if (!t->dynamic && (!range || (hidden && !range->hidden)))
        wrong = "static, but no calibrated range";
    for (int64_t i = 0; !wrong && !t->dynamic && i < (hidden ? cols : 1); i++) {
        float a = hidden ? range->hidden[i] : range->amax;
        if (!isfinite(a) || a < 0)
            wrong = "a calibrated range that is negative or no number";
    }
    if (wrong)
        c->host.err_set(&c->failed, AQ_EINPUT, "treatment of an activation: %s", wrong);
    return !wrong;
}

__global__ static void scale_columns(float *to, const float *x, const float *factor, int64_t cols)
{
    int64_t row = (int64_t)blockIdx.x * cols;
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        to[row + i] = x[row + i] * factor[i];
}

/* x with its columns multiplied; NULL after a failure. */
static const void *scaled_input(struct cuda_backend *c, struct backend_operand *op,
                                const struct backend_tile *t, const void *x, int64_t cols,
                                const float *factor)
{
    if (!op->scaled)
        op->scaled = (float *)cuda_take(c, op->scaled_bytes, "a scaled activation", &c->failed);
    if (!op->factor && op->scaled)
        op->factor = (float *)cuda_take(c, op->hidden_bytes, "factors of its columns", &c->failed);
    if (!cuda_good(c) ||
        !cuda_check(c,
                    cudaMemcpyAsync(op->factor, factor, (size_t)cols * sizeof *factor,
                                    cudaMemcpyHostToDevice, c->stream),
                    "upload of factors"))
        return NULL;
    scale_columns<<<(unsigned)t->rows, THREADS, 0, c->stream>>>(op->scaled, (const float *)x,
                                                                op->factor, cols);
    return cuda_launched(c, "scaling an input") ? op->scaled : NULL;
}

void cuda_quantize_act(struct backend *b, struct backend_operand *op, const struct backend_tile *t,
                       const void *x, int64_t cols, const struct quant_spec *spec,
                       const struct quant_range *range, double *clipped)
{
    struct cuda_backend *c = cuda_of(b);
    flush_clipped(c, op);
    c->in_scratch = c->in_scratch == op ? NULL : c->in_scratch; /* it holds another input now */
    op->t = NULL;
    if (!cuda_good(c) || !check_act(c, spec, cols, range))
        return;
    op->is_scaled = range && range->factor;
    if (op->is_scaled && !(x = scaled_input(c, op, t, x, cols, range->factor)))
        return;
    op->spec = *spec;
    op->t = t;
    op->x = x;
    op->cols = cols;
    op->range = range ? range->amax : 0;
    op->columns->clear();
    if (spec->steps && spec->step[0].scope == QUANT_HIDDEN)
        op->columns->assign(range->hidden, range->hidden + cols);
    if (op->columns->size())
        (void)cuda_check(c,
                         cudaMemcpyAsync(op->hidden, range->hidden, (size_t)cols * sizeof(float),
                                         cudaMemcpyHostToDevice, c->stream),
                         "upload of ranges");
    if (spec->steps && clipped) {
        op->clipped = clipped;
        c->waiting->push_back(op);
    }
}

static enum form act_form(const struct cuda_backend *c, const struct backend_operand *op)
{
    if (op->spec.steps)
        return form_of(c, &op->spec.step[0], op->cols);
    if (op->is_scaled)
        return form_exact(c);
    return c->config.bf16 ? FORM_BF16 : FORM_F32;
}

/* What the scales of its first step are for; -1: it is not quantized. */
static int scope_of(const struct backend_operand *op)
{
    return op->spec.steps ? (int)op->spec.step[0].scope : -1;
}

bool operand_matches(const struct cuda_backend *c, const struct backend_operand *a,
                     const struct backend_operand *b)
{
    enum form form = a->t && b->t ? act_form(c, a) : FORM_F32;
    return a->t && b->t && a->t->rows == b->t->rows && a->cols == b->cols &&
           form == act_form(c, b) &&
           (form != FORM_BLOCKS || a->spec.step[0].block_cols == b->spec.step[0].block_cols) &&
           (!kept_wanted(c) || scope_of(a) == scope_of(b));
}

size_t operand_row_bytes(const struct cuda_backend *c, const struct backend_operand *op)
{
    return op->t ? (size_t)op->cols * form_bytes(act_form(c, op)) : 0;
}

/* As if its columns were whole blocks; short blocks take about as long as two products do. */
static int terms_of(const struct cuda_backend *c, const struct quant_spec *spec)
{
    const struct quant_step *last = &spec->step[spec->steps ? spec->steps - 1 : 0];
    enum form form = spec->steps ? form_of(c, last, 8 * (int64_t)last->block_cols) : FORM_BF16;
    return form == FORM_BLOCKS && last->block_cols < 128 ? 2 : form_terms(form);
}

int operand_products(const struct cuda_backend *c, const struct quant_spec *weight,
                     const struct quant_spec *act)
{
    int w = terms_of(c, weight), x = terms_of(c, act);
    if (weight->methods.choice != QUANT_NEAREST)
        w = form_terms(form_exact(c));
    if (weight->methods.scaling && act->steps == 0)
        x = form_terms(form_exact(c));
    return w * x == 9 ? 6 : w * x; /* a third term times a second, and smaller ones, are left out */
}

struct clipped_jobs {
    double *to[BATCH]; /* NULL: not asked for */
    const int32_t *first[BATCH];
    int32_t samples[BATCH]; /* of the tile */
    int32_t experts[BATCH]; /* of a part, under each of which it has these samples; else 1 */
    int64_t base[BATCH], rows[BATCH]; /* of its counts */
};

/* A warp has a sample, and its lanes the experts in turn. */
__global__ static void raise_clipped(struct clipped_jobs j, const uint32_t *counts)
{
    int job = (int)blockIdx.y;
    int32_t s = (int32_t)((blockIdx.x * THREADS + threadIdx.x) / WARP);
    if (!j.to[job] || s >= j.samples[job] || j.first[job][s + 1] > j.rows[job])
        return;
    unsigned long long sum = 0;
    for (int e = (int)(threadIdx.x % WARP); e < j.experts[job]; e += WARP) {
        const int32_t *first = j.first[job] + e * j.samples[job] + s;
        for (int32_t r = first[0]; r < first[1]; r++)
            sum += counts[j.base[job] + r];
    }
    for (int k = WARP / 2; k > 0; k /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, k);
    if (threadIdx.x % WARP == 0)
        j.to[job][s] += (double)sum;
}

static void raise_waiting(struct cuda_backend *c, struct backend_operand *const *x,
                          const int64_t *rows, int count, const uint32_t *counts)
{
    struct clipped_jobs j = {};
    int32_t most = 0;
    int64_t base = 0;
    for (int i = 0; i < count; base += rows[i++]) {
        j.base[i] = base;
        j.rows[i] = rows[i];
        j.to[i] = x[i]->clipped;
        j.first[i] = x[i]->t->first;
        j.experts[i] = x[i]->t->experts ? x[i]->t->experts : 1;
        j.samples[i] = x[i]->t->samples / j.experts[i];
        most = j.samples[i] > most ? j.samples[i] : most;
        forget_clipped(c, x[i]);
    }
    dim3 grid((unsigned)((most + THREADS / WARP - 1) / (THREADS / WARP)), (unsigned)count);
    raise_clipped<<<grid, THREADS, 0, c->stream>>>(j, counts);
    (void)cuda_launched(c, "counting clipped elements");
}

static void add_source(struct sources *m, const struct backend_operand *op, int64_t base,
                       int64_t rows)
{
    int i = m->count++;
    m->at[i] = op->x;
    m->base[i] = base;
    m->taken[i] = rows;
    m->sample_of[i] = op->t->sample_of;
    m->samples = op->t->samples > m->samples ? op->t->samples : m->samples;
    m->range[i] = op->range;
    m->hidden[i] = op->spec.steps && op->spec.step[0].scope == QUANT_HIDDEN ? op->hidden : NULL;
}

/* Matrices of one treatment. */
static bool quantize_sources(struct cuda_backend *c, const struct sources *m,
                             const struct quant_spec *spec, const struct quantized *q)
{
    struct device_step s = {};
    struct scales scales = {};
    struct quantized to = *q;
    if (spec->steps) {
        s = step_of(&spec->step[0], 0, m->rows, m->cols, m->samples);
        if (!step_scales(c, m, &s, &scales, NULL, 0))
            return false;
    } else {
        copy_step(&s, m->cols);
        to.clipped = NULL; /* nothing clips them, and no one asks */
    }
    step_apply(c, m, &s, &scales, &to);
    return cuda_good(c);
}

static bool quantize_alike(struct cuda_backend *c, struct backend_operand *const *x,
                           const int64_t *rows, int count, const struct quantized *q)
{
    bool done[BATCH] = {};
    for (int first = 0; first < count; first++) {
        struct sources m = {0, 0, 0, x[0]->t->rows, x[0]->cols};
        int64_t base = 0;
        for (int i = 0; i < count; base += rows[i++]) {
            if (done[i] || memcmp(&x[i]->spec, &x[first]->spec, sizeof x[i]->spec) != 0)
                continue;
            done[i] = true;
            add_source(&m, x[i], base, rows[i]);
        }
        if (m.count && !quantize_sources(c, &m, &x[first]->spec, q))
            return false;
    }
    return true;
}

/* What activations of one shape and form take, one after another. */
struct acts_size {
    int64_t rows;
    size_t data, scales; /* bytes: planes, and scales and counts of rows with ratios of blocks */
    bool counted;        /* does any wait for its clipped elements? */
};

/* False after a failure. */
static bool acts_size(const struct cuda_backend *c, struct backend_operand *const *x,
                      const int64_t *rows, int count, struct acts_size *out)
{
    *out = (struct acts_size){};
    for (int i = 0; i < count; i++) {
        if (!cuda_good(c) || !x[i]->t)
            return false;
        out->counted |= x[i]->clipped != NULL;
        out->rows += rows[i];
    }
    out->data = (size_t)out->rows * operand_row_bytes(c, x[0]);
    out->scales = (size_t)out->rows * 2 * sizeof(float);
    if (act_form(c, x[0]) == FORM_BLOCKS)
        out->scales += ratio_bytes(&x[0]->spec.step[0], out->rows, x[0]->cols);
    return true;
}

/* clipped: [rows of all], set where counts are wanted. */
static bool quantize_acts(struct cuda_backend *c, struct backend_operand *const *x,
                          const int64_t *rows, int count, const struct acts_size *size, void *data,
                          float *scales, struct planes *out, uint32_t **clipped)
{
    int64_t all = size->rows;
    if (!data || !scales)
        return false;
    struct quantized q = {data, act_form(c, x[0]), all * x[0]->cols, scales, NULL, 0, NULL};
    q.clipped = size->counted ? (uint32_t *)scales + all : NULL;
    q.ratio = scales + 2 * all;
    q.stride = blocks_stride(all);
    if (!quantize_alike(c, x, rows, count, &q))
        return false;
    *out = planes{q.to, form_terms(q.form), q.plane};
    scale_planes(out, q.form, &x[0]->spec.step[0], scales, q.ratio, all);
    *clipped = q.clipped;
    return cuda_good(c);
}

bool operand_acts(struct cuda_backend *c, struct backend_operand *const *x, const int64_t *rows,
                  int count, struct planes *out)
{
    struct acts_size size;
    uint32_t *clipped = NULL;
    *out = planes{NULL, 1, 0};
    if (count == 1 && c->in_scratch == x[0] && x[0]->made_rows == rows[0] && !x[0]->clipped) {
        *out = x[0]->made;
        return cuda_good(c);
    }
    if (!acts_size(c, x, rows, count, &size))
        return false;
    float *scales = (float *)cuda_scratch(c, SCRATCH_ROWS, size.scales);
    void *data = cuda_scratch(c, SCRATCH_X, size.data);
    if (!quantize_acts(c, x, rows, count, &size, data, scales, out, &clipped))
        return false;
    if (clipped)
        raise_waiting(c, x, rows, count, clipped);
    if (count == 1 && cuda_good(c)) {
        x[0]->made = *out;
        x[0]->made_rows = size.rows;
        c->in_scratch = x[0];
    }
    return cuda_good(c);
}

bool operand_acts_kept(struct cuda_backend *c, struct backend_operand *const *x,
                       const int64_t *rows, int count, struct planes *out)
{
    struct acts_size size;
    bool scaled = false;
    *out = planes{NULL, 1, 0};
    if (!acts_size(c, x, rows, count, &size))
        return false;
    for (int i = 0; i < count; i++)
        scaled |= x[i]->is_scaled; /* its x is the operand's own, and soon another's */
    if (scaled || !kept_wanted(c))
        return operand_acts(c, x, rows, count, out);
    static const uint32_t none = 0;
    const uint32_t *kept_counts = size.counted ? &none : NULL;
    uint32_t *clipped = NULL;
    if (!kept_find(c, x, rows, count, out, &kept_counts)) {
        size_t scales_at = (size.data + 255) / 256 * 256;
        char *room = (char *)kept_room(c, scales_at + size.scales);
        if (!room)
            return operand_acts(c, x, rows, count, out);
        if (!quantize_acts(c, x, rows, count, &size, room, (float *)(room + scales_at), out,
                           &clipped))
            return false;
        kept_add(c, x, rows, count, out, clipped);
        kept_counts = clipped;
    }
    if (size.counted)
        raise_waiting(c, x, rows, count, kept_counts);
    return cuda_good(c);
}
