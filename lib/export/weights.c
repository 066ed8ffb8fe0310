#include "export/weights.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/pool.h"
#include "base/progress.h"
#include "model/fold.h"

#include <assert.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the tensors of a module ---- */

static void add(struct piece *out, int *n, enum piece_kind kind, const char *suffix,
                enum st_dtype dtype, int rank, int64_t a, int64_t b)
{
    assert(*n < PIECES);
    out[(*n)++] = (struct piece){kind, suffix, dtype, rank, {(uint64_t)a, (uint64_t)b}};
}

int pieces_of(enum scheme_layout layout, const struct scheme *s, int64_t rows, int64_t cols,
              struct piece out[PIECES])
{
    bool ct = layout == LAYOUT_CT;
    int n = 0, scale_rank = ct ? 2 : 1; /* ModelOpt writes a scale per row as a vector */
    const char *packed = ct ? ".weight_packed" : ".weight";
    int64_t groups = s->group ? cols / s->group : 1;
    switch (s->codes) {
    case CODES_INT8:
    case CODES_FP8:
        add(out, &n, PIECE_CODES, ".weight", s->codes == CODES_INT8 ? ST_I8 : ST_F8_E4M3, 2, rows,
            cols);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_F32, scale_rank, rows, 1);
        break;
    case CODES_FP8_ONE:
        add(out, &n, PIECE_CODES, ".weight", ST_F8_E4M3, 2, rows, cols);
        add(out, &n, PIECE_SECOND, ".weight_scale", ST_F32, 0, 0, 0);
        break;
    case CODES_FP8_BLOCK:
        add(out, &n, PIECE_CODES, ".weight", ST_F8_E4M3, 2, rows, cols);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_F32, 2, (rows + 127) / 128,
            (cols + 127) / 128);
        break;
    case CODES_PACKED:
        add(out, &n, PIECE_CODES, ".weight_packed", ST_I32, 2, rows, (cols * s->bits + 31) / 32);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_BF16, 2, rows, groups);
        add(out, &n, PIECE_SHAPE, ".weight_shape", ST_I64, 1, 2, 0);
        break;
    case CODES_INT4_ROWS:
        add(out, &n, PIECE_CODES, ".weight", ST_U8, 2, rows / 2, cols);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_F32, 2, rows, groups);
        break;
    case CODES_NVFP4:
        add(out, &n, PIECE_CODES, packed, ST_U8, 2, rows, cols / 2);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_F8_E4M3, 2, rows, cols / 16);
        add(out, &n, PIECE_SECOND, ct ? ".weight_global_scale" : ".weight_scale_2", ST_F32, ct, 1,
            0);
        break;
    case CODES_MXFP4:
        add(out, &n, PIECE_CODES, packed, ST_U8, 2, rows, cols / 2);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_U8, 2, rows, cols / 32);
        break;
    case CODES_MXFP8:
        add(out, &n, PIECE_CODES, ".weight", ST_F8_E4M3, 2, rows, cols);
        add(out, &n, PIECE_SCALES, ".weight_scale", ST_U8, 2, rows, cols / 32);
        break;
    case CODES_Q8_0:
    case CODES_Q4_0:
        break; /* GGUF's alone */
    }
    if (scheme_is_calibrated(s))
        add(out, &n, PIECE_INPUT,
            ct && s->act == ACT_NVFP4 ? ".input_global_scale" : ".input_scale", ST_F32, ct, 1, 0);
    if (s->prescaled)
        add(out, &n, PIECE_FACTOR, ".pre_quant_scale", ST_BF16, 1, cols, 0);
    return n;
}

float piece_input_value(enum scheme_layout layout, const struct scheme *s, float amax)
{
    if (s->act == ACT_NVFP4)
        return layout == LAYOUT_CT ? 2688 / amax : amax / 2688;
    return amax / (s->act == ACT_INT8_TENSOR ? 127.0F : 448.0F);
}

/* compressed-tensors stores a divisor, ModelOpt a factor. */
float piece_second_value(const struct coder *c)
{
    float gs = coder_second_level(c);
    return c->layout == LAYOUT_CT ? 1 / gs : gs;
}

static float fp8_one_scale(float amax)
{
    float a = amax <= 0x1p-24F ? 1 : amax;
    return 1 / (1 / a * 448); /* as lib/quant rounds it */
}

/* ---- ranges ---- */

/* A module's weight in fp32, scaled by its candidate. Caller frees. */
static float *scaled_weight(const struct export_group *g, const struct export_source *t,
                            const struct model_module *m)
{
    struct coder c = {.cols = m->cols};
    float *w = xmalloc((size_t)(m->rows * m->cols) * sizeof *w);
    export_plan_scales(g, (int)(m - g->modules), &c.scale, &c.row_scale);
    num_widen(t->data, st_num_type(t->dtype), (size_t)(m->rows * m->cols), w);
    coder_scale_rows(&c, 0, m->rows, w);
    return w;
}

/* The best multiple of a range that spans the whole weight. */
static int search_range(const struct quant_spec *spec, const struct quant_matrix *w, float *out,
                        struct aq_err *err)
{
    struct quant_plan *plan = NULL;
    struct quant_spec own = *spec;
    own.methods.scaling = QUANT_NO_SCALING;
    if (quant_plan_weight(&plan, &own, w, QUANT_UNROUNDED, err) < 0)
        return -1;
    *out = quant_plan_range(plan);
    quant_plan_free(plan);
    return 0;
}

/* Largest magnitudes of tiles of rows, one after the other: units are tiles. */
struct tile_ranges {
    const struct quant_matrix *w;
    float *found; /* NaN: there is an element that is not finite */
};

static void amax_unit(void *arg, int64_t unit, int worker)
{
    const struct tile_ranges *j = arg;
    const struct quant_matrix *w = j->w;
    int64_t r0 = unit * CODES_TILE, r1 = r0 + CODES_TILE < w->rows ? r0 + CODES_TILE : w->rows;
    size_t row = (size_t)w->cols * num_bytes(w->dtype);
    j->found[unit] = quant_absmax((const char *)w->data + (size_t)r0 * row, w->dtype,
                                  (size_t)((r1 - r0) * w->cols));
    (void)worker;
}

/* quant_weight_amax by all threads: a maximum does not depend on the order. */
static int weight_amax(const struct export_plan *p, const struct quant_matrix *w, float *out,
                       struct aq_err *err)
{
    int64_t tiles = (w->rows + CODES_TILE - 1) / CODES_TILE;
    float *found = xcalloc((size_t)tiles, sizeof *found), most = 0;
    struct tile_ranges j = {w, found};
    bool finite = true;
    aq_pool_run(p->pool, tiles, amax_unit, &j);
    for (int64_t i = 0; i < tiles; i++) {
        finite = finite && isfinite(found[i]);
        most = found[i] > most ? found[i] : most;
    }
    free(found);
    *out = most;
    return finite ? 0 : quant_weight_amax(w, out, err); /* which names the element */
}

static int find_amax(const struct export_plan *p, const struct export_group *g,
                     const struct export_source *t, const struct model_module *m, const char *name,
                     float *out, struct aq_err *err)
{
    const struct scheme *s = &g->verdict.scheme;
    bool search = s->one_range && s->methods.choice == QUANT_MSE;
    struct quant_matrix w = {t->data, st_num_type(t->dtype), m->rows, m->cols, name};
    struct quant_spec spec;
    float *wide = NULL;
    if (g->scale || search) {
        w.data = wide = scaled_weight(g, t, m);
        w.dtype = NUM_F32;
    }
    int r = quant_parse(g->weight, &spec, err);
    if (r == 0)
        r = search ? search_range(&spec, &w, out, err) : weight_amax(p, &w, out, err);
    free(wide);
    return r;
}

int module_amax(const struct export_plan *p, struct export_group *g, int module, float *out,
                struct aq_err *err)
{
    const struct model_module *m = &g->modules[module];
    float *known = &g->module_amax[module];
    if (*known < 0) {
        char *name = xasprintf("%s.weight", m->name);
        struct export_source source;
        export_source_of(p, g, module, &source);
        int r = find_amax(p, g, &source, m, name, known, err);
        free(source.owned);
        free(name);
        if (r < 0) {
            *known = -1;
            return -1;
        }
    }
    *out = *known;
    return 0;
}

/*
 * The same of one expert. Solved numbers are by the modules of the checkpoint, which may have gate
 * and up in one.
 */
static int take_expert(const struct export_plan *p, const struct export_module *m, struct coder *c,
                       struct aq_err *err)
{
    const struct export_group *g = m->group;
    size_t group = (size_t)(g - p->groups);
    int module = (int)(m->model - g->modules), first;
    enum expert_part part = export_plan_part(g, module);
    int64_t expert = module / g->parts, experts = g->model->experts;
    const struct quant_spec spec = coder_spec(c);
    int half = m->inner ? EXPERT_DOWN : EXPERT_GATE_UP;
    int count = model_group_half(&p->lm.groups.items[group], half, &first);
    bool fused = half == EXPERT_GATE_UP && count == 1;
    int64_t rows = fused ? 2 * c->rows : c->rows, before = fused && part == PART_UP ? c->rows : 0;
    int64_t row_bytes = quant_code_row_bytes(&spec, c->cols);
    struct quant_grid all;
    module = half == EXPERT_DOWN || fused ? first : first + (int)part;
    (void)quant_weight_grid(&spec, c->rows, c->cols, &c->grid);
    (void)quant_weight_grid(&spec, rows, c->cols, &all);
    if (fused && all.rows_each < rows && c->rows % all.rows_each)
        return aq_err_set(err, AQ_EINPUT, "%s: blocks of %lld rows span gate and up", c->name,
                          (long long)all.rows_each);
    int64_t each = all.grid_rows * all.grid_cols;
    c->ranges = solved_ranges(p->solved, g->id, group, module, experts * each, err);
    if (!c->ranges)
        return -1;
    c->ranges += expert * each + (all.grid_rows > 1 ? before / all.rows_each * all.grid_cols : 0);
    if (c->scheme.methods.choice != QUANT_GPTQ)
        return 0;
    c->codes = solved_codes(p->solved, g->id, group, module, experts * rows, row_bytes, err);
    if (!c->codes)
        return -1;
    c->codes += (expert * rows + before) * row_bytes;
    return 0;
}

/* What `aq-calib solve` found for this module. */
static int take_solved(const struct export_plan *p, const struct export_module *m, struct coder *c,
                       struct aq_err *err)
{
    const struct export_group *g = m->group;
    enum quant_choice choice = c->scheme.methods.choice;
    size_t group = (size_t)(g - p->groups);
    int module = (int)(m->model - g->modules);
    struct quant_spec spec = coder_spec(c);
    export_plan_scales(g, module, &c->scale, &c->row_scale);
    if (g->model->experts && (choice == QUANT_CLIP || choice == QUANT_GPTQ))
        return take_expert(p, m, c, err);
    if (choice != QUANT_CLIP && choice != QUANT_GPTQ)
        return 0;
    (void)quant_weight_grid(&spec, c->rows, c->cols, &c->grid);
    c->ranges =
        solved_ranges(p->solved, g->id, group, module, c->grid.grid_rows * c->grid.grid_cols, err);
    if (c->ranges && choice == QUANT_GPTQ)
        c->codes = solved_codes(p->solved, g->id, group, module, c->rows,
                                quant_code_row_bytes(&spec, c->cols), err);
    return c->ranges && (choice == QUANT_CLIP || c->codes) ? 0 : -1;
}

int coder_of(const struct export_plan *p, const struct export_module *m, struct coder *out,
             struct aq_err *err)
{
    struct export_group *g = m->group;
    *out = (struct coder){.scheme = g->verdict.scheme,
                          .layout = p->layout,
                          .rows = m->model->rows,
                          .cols = m->model->cols,
                          .keep = p->request->keep_codes,
                          .name = m->model->name};
    if (take_solved(p, m, out, err) < 0)
        return -1;
    if (!coder_needs_range(&out->scheme))
        return 0;
    /* GGUF has a second level for each tensor: each keeps its own range if it was scored so */
    bool own = !g->model->experts && (!coder_shares_range(&out->scheme) ||
                                      (p->layout == LAYOUT_GGUF && !out->scheme.group_range));
    for (int i = m->first; i < m->end; i++) {
        float a;
        if (own && &g->modules[i] != m->model)
            continue;
        if (module_amax(p, g, i, &a, err) < 0)
            return -1;
        out->amax = a > out->amax ? a : out->amax;
    }
    return 0;
}

/* ---- one shard ---- */

struct shard {
    const struct export_plan *p;
    struct st_writer *w;
    struct aq_progress *progress;
    uint64_t *done;
    struct aq_err *err;
};

/* One module being written: unit 0 starts writing what is there, the others are tiles. */
struct module_job {
    struct shard *s;
    struct coder coder;
    struct export_source source;
    int handle[PIECES]; /* by kind of piece is not needed: [0] codes, [1] scales */
    pthread_mutex_t lock;
    int64_t failed; /* first tile that failed; -1 */
    struct aq_err err;
};

static void code_unit(void *arg, int64_t unit, int worker)
{
    struct module_job *j = arg;
    const struct coder *c = &j->coder;
    struct aq_err err = {0};
    if (unit == 0) { /* the disk has something to do while the tiles are coded */
        st_push(j->s->w);
        return;
    }
    unit--;
    int64_t r0 = unit * CODES_TILE, r1 = r0 + CODES_TILE < c->rows ? r0 + CODES_TILE : c->rows;
    uint64_t code_at = coder_code_bytes(c, r0), scale_at = coder_scale_bytes(c, r0);
    size_t code_n = (size_t)(coder_code_bytes(c, r1) - code_at);
    size_t scale_n = (size_t)(coder_scale_bytes(c, r1) - scale_at);
    void *codes = xmalloc(code_n), *scales = xmalloc(scale_n ? scale_n : 1);
    size_t row = (size_t)c->cols * st_dtype_bits(j->source.dtype) / 8;
    const void *from = (const char *)j->source.data + (size_t)r0 * row;
    int r = coder_tile(c, from, st_num_type(j->source.dtype), r0, r1, codes, scales, &err);
    if (r == 0)
        r = st_write(j->s->w, j->handle[0], code_at, codes, code_n, &err);
    if (r == 0 && scale_n)
        r = st_write(j->s->w, j->handle[1], scale_at, scales, scale_n, &err);
    free(codes);
    free(scales);
    if (r == 0)
        return;
    pthread_mutex_lock(&j->lock);
    if (j->failed < 0 || unit < j->failed) {
        j->failed = unit;
        j->err = err;
    }
    pthread_mutex_unlock(&j->lock);
}

static int write_factor(struct module_job *j, int handle)
{
    size_t n = (size_t)j->coder.cols;
    uint16_t *factor = xmalloc(n * sizeof *factor);
    for (size_t c = 0; c < n; c++)
        factor[c] = num_to_bf16(1 / j->coder.scale[c]);
    int r = st_write(j->s->w, handle, 0, factor, n * sizeof *factor, j->s->err);
    free(factor);
    return r;
}

static int write_piece(struct module_job *j, const struct export_module *m,
                       const struct piece *piece, int handle)
{
    const struct coder *c = &j->coder;
    int64_t shape[2] = {c->rows, c->cols};
    float value = NAN;
    if (piece->kind == PIECE_FACTOR)
        return write_factor(j, handle);
    if (piece->kind == PIECE_SHAPE)
        return st_write(j->s->w, handle, 0, shape, sizeof shape, j->s->err);
    if (piece->kind == PIECE_SECOND)
        value = c->scheme.codes == CODES_FP8_ONE ? fp8_one_scale(c->amax) : piece_second_value(c);
    else if (piece->kind == PIECE_INPUT)
        value = piece_input_value(c->layout, &c->scheme,
                                  m->inner ? m->group->inner_amax : m->group->input_amax);
    else
        return 0;
    return st_write(j->s->w, handle, 0, &value, sizeof value, j->s->err);
}

static int code_module(struct shard *s, const struct export_module *m, int first_handle)
{
    struct module_job j = {.s = s, .failed = -1, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct piece pieces[PIECES];
    if (coder_of(s->p, m, &j.coder, s->err) < 0)
        return -1;
    int n = pieces_of(s->p->layout, &j.coder.scheme, j.coder.rows, j.coder.cols, pieces);
    j.handle[0] = first_handle; /* codes come first, then scales where there are any by row */
    j.handle[1] = first_handle + 1;
    for (int i = 0; i < n; i++)
        if (write_piece(&j, m, &pieces[i], first_handle + i) < 0)
            return -1;
    export_source_of(s->p, m->group, (int)(m->model - m->group->modules), &j.source);
    aq_pool_run(s->p->pool, 1 + (j.coder.rows + CODES_TILE - 1) / CODES_TILE, code_unit, &j);
    free(j.source.owned);
    if (j.failed >= 0 && s->err)
        *s->err = j.err;
    return j.failed >= 0 ? -1 : 0;
}

static int copy_tensor(struct shard *s, const struct st_tensor *t, int fd, int handle)
{
    enum { STEP = 64 << 20 };
    for (uint64_t at = 0, n = t->end - t->begin; at < n;) {
        uint64_t take = n - at < STEP ? n - at : STEP;
        if (st_write_from(s->w, handle, at, fd, t->begin + at, take, s->err) < 0)
            return -1;
        st_push(s->w);
        at += take;
    }
    return 0;
}

/* A norm that takes the scale of what reads it. */
static int write_norm(struct shard *s, const struct st_tensor *t, const struct export_group *g,
                      int handle)
{
    size_t bytes = (size_t)(t->end - t->begin);
    char *folded = xmalloc(bytes);
    enum num_type type = st_num_type(t->dtype);
    for (size_t i = 0; i < t->elements; i++)
        num_write(
            folded, type, i,
            fold_norm(num_read(t->data, type, i), g->scale[i], s->p->lm.arch.norm_one_plus, type));
    int r = st_write(s->w, handle, 0, folded, bytes, s->err);
    free(folded);
    return r;
}

/* A router whose input was divided: its columns take the scale. */
static int write_router(struct shard *s, const struct st_tensor *t, const struct export_group *g,
                        int handle)
{
    size_t bytes = (size_t)(t->end - t->begin), cols = (size_t)t->shape[1];
    char *scaled = xmalloc(bytes);
    enum num_type type = st_num_type(t->dtype);
    for (size_t i = 0; i < t->elements; i++)
        num_write(scaled, type, i, num_read(t->data, type, i) * g->scale[i % cols]);
    int r = st_write(s->w, handle, 0, scaled, bytes, s->err);
    free(scaled);
    return r;
}

/* Writes a tensor of all experts one by one, in the order in which they were declared. */
static int write_apart(struct shard *s, const struct export_group *g, int from, int end, int handle)
{
    for (int e = 0; e < g->model->experts; e++)
        for (int k = from; k < end; k++) {
            int module = e * g->parts + k;
            const struct export_module m = export_plan_module(s->p, g, module);
            size_t elements = (size_t)(m.model->rows * m.model->cols);
            struct export_source source;
            struct piece pieces[PIECES];
            int r;
            if (g->verdict.quantized) {
                r = code_module(s, &m, handle);
                handle += pieces_of(s->p->layout, &g->verdict.scheme, m.model->rows, m.model->cols,
                                    pieces);
            } else {
                export_source_of(s->p, g, module, &source);
                r = st_write(s->w, handle++, 0, source.data,
                             elements * st_dtype_bits(source.dtype) / 8, s->err);
                free(source.owned);
            }
            if (r < 0)
                return -1;
        }
    return 0;
}

static int write_tensors(struct shard *s, const struct st_file *f, const int *handles)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC), r = 0;
    if (fd < 0)
        return aq_err_sys(s->err, AQ_ERUN, "cannot open '%s'", aq_show(f->path));
    for (size_t i = 0; i < f->count && r == 0; i++) {
        const struct st_tensor *t = &f->tensors[i];
        if (handles[i] < 0)
            continue;
        const struct export_module *m = export_plan_find(s->p, t->name);
        int from = 0, end = 0;
        const struct export_group *norm = m ? NULL : export_plan_norm(s->p, t->name);
        const struct export_group *apart = export_plan_apart(s->p, t->name, &from, &end);
        const struct export_group *router = m ? NULL : export_plan_router(s->p, t->name);
        r = m        ? code_module(s, m, handles[i])
            : apart  ? write_apart(s, apart, from, end, handles[i])
            : norm   ? write_norm(s, t, norm, handles[i])
            : router ? write_router(s, t, router, handles[i])
                     : copy_tensor(s, t, fd, handles[i]);
        aq_map_drop(t->data, t->end - t->begin);
        *s->done += t->end - t->begin;
        aq_progress_update(s->progress, *s->done);
    }
    (void)close(fd);
    return r;
}

static uint64_t bytes_of(enum st_dtype dtype, int rank, const uint64_t *shape)
{
    uint64_t count = 1;
    for (int k = 0; k < rank; k++)
        count *= shape[k];
    return count * (st_dtype_bits(dtype) / 8);
}

/* The tensors of a module. Returns the first handle. */
static int declare_module(struct shard *s, const struct export_group *g,
                          const struct model_module *m, struct json *map, const char *file,
                          uint64_t *bytes)
{
    struct piece pieces[PIECES];
    int n = pieces_of(s->p->layout, &g->verdict.scheme, m->rows, m->cols, pieces), first = -1;
    for (int i = 0; i < n; i++) {
        char *name = xasprintf("%s%s", m->name, pieces[i].suffix);
        int h = st_declare(s->w, name, pieces[i].dtype, pieces[i].rank, pieces[i].shape);
        first = i ? first : h;
        *bytes += bytes_of(pieces[i].dtype, pieces[i].rank, pieces[i].shape);
        json_add_string(map, name, file);
        free(name);
    }
    return first;
}

/* What a tensor of all experts becomes; returns the first handle. */
static int declare_apart(struct shard *s, const struct export_group *g, int from, int end,
                         enum st_dtype dtype, struct json *map, const char *file, uint64_t *bytes)
{
    int first = -1;
    for (int e = 0; e < g->model->experts; e++)
        for (int k = from; k < end; k++) {
            const struct model_module *m = &g->modules[e * g->parts + k];
            const uint64_t shape[] = {(uint64_t)m->rows, (uint64_t)m->cols};
            int h;
            if (g->verdict.quantized) {
                h = declare_module(s, g, m, map, file, bytes);
            } else {
                char *name = xasprintf("%s.weight", m->name);
                h = st_declare(s->w, name, dtype, 2, shape);
                *bytes += bytes_of(dtype, 2, shape);
                json_add_string(map, name, file);
                free(name);
            }
            first = first < 0 ? h : first;
        }
    return first;
}

/* Declares a tensor, or those that replace it. Returns the first handle. */
static int declare(struct shard *s, const struct st_tensor *t, struct json *map, const char *file,
                   uint64_t *bytes)
{
    const struct export_module *m = export_plan_find(s->p, t->name);
    int from = 0, end = 0;
    const struct export_group *apart = m ? NULL : export_plan_apart(s->p, t->name, &from, &end);
    if (m)
        return declare_module(s, m->group, m->model, map, file, bytes);
    if (apart)
        return declare_apart(s, apart, from, end, t->dtype, map, file, bytes);
    json_add_string(map, t->name, file);
    *bytes += t->end - t->begin;
    return st_declare(s->w, t->name, t->dtype, t->rank, t->shape);
}

static int write_shard(struct shard *s, const struct out_dir *d, uint32_t file, struct json *map,
                       uint64_t *bytes)
{
    const struct ckpt *c = &s->p->ckpt;
    const struct st_file *f = &c->files[file];
    int *handles = xcalloc(f->count + 1, sizeof *handles), r = 0;
    struct json *meta = json_new_object();
    char *path = aq_path_join(d->part, c->names[file]);
    s->w = st_writer_new();
    json_add_string(meta, "format", "pt");
    st_writer_metadata(s->w, meta);
    for (size_t i = 0; i < f->count && r == 0; i++) {
        const struct ckpt_tensor *t = ckpt_find(c, f->tensors[i].name);
        bool ours = t && t->file == file; /* what the index does not name is left out */
        if (ours && f->tensors[i].dtype == ST_OTHER)
            r = aq_err_set(s->err, AQ_EINPUT, "%s: tensor '%s' has type '%s', which is not copied",
                           aq_show(f->path), aq_show(f->tensors[i].name),
                           aq_show(f->tensors[i].dtype_name));
        handles[i] = ours && r == 0 ? declare(s, &f->tensors[i], map, c->names[file], bytes) : -1;
    }
    if (r == 0)
        r = st_begin(s->w, path, s->err);
    if (r == 0)
        r = write_tensors(s, f, handles);
    if (r == 0)
        r = st_commit(s->w, s->err);
    st_writer_free(s->w);
    free(path);
    free(handles);
    return r;
}

/* ---- all shards ---- */

/* Readers find the weights by this file, in the order of names. */
static int write_index(const struct out_dir *d, const struct json *map, uint64_t bytes,
                       struct aq_err *err)
{
    struct json *index = json_new_object();
    json_add_int(json_add_object(index, "metadata"), "total_size", (int64_t)bytes);
    json_add(index, "weight_map", json_copy(map));
    char *path = aq_path_join(d->part, "model.safetensors.index.json");
    struct aq_buf text = AQ_BUF_INIT;
    int r = json_write(&text, index, JSON_SORT_KEYS | JSON_NEWLINE, err);
    if (r == 0)
        r = aq_write_file(path, text.data, text.len, err);
    free(path);
    aq_buf_release(&text);
    json_free(index);
    return r;
}

int weights_write(const struct export_plan *p, const struct out_dir *d, struct aq_err *err)
{
    struct aq_progress progress;
    uint64_t total = 0, done = 0, bytes = 0;
    struct json *map = json_new_object();
    struct shard s = {.p = p, .progress = &progress, .done = &done, .err = err};
    int r = 0;
    for (size_t i = 0; i < p->ckpt.file_count; i++)
        total += p->ckpt.files[i].map.size;
    aq_progress_begin(&progress, "export", total);
    for (size_t i = 0; i < p->ckpt.file_count && r == 0; i++)
        r = write_shard(&s, d, (uint32_t)i, map, &bytes);
    aq_progress_end(&progress);
    if (r == 0 && p->ckpt.file_count > 1)
        r = write_index(d, map, bytes, err);
    json_free(map);
    return r;
}
