#include "export/verify.h"

#include "base/mem.h"
#include "base/num.h"
#include "export/weights.h"
#include "model/fold.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct check {
    const struct export_plan *p;
    const struct st_file *f;
    const struct export_module *m;
    struct coder coder;
    const struct st_tensor *codes, *scales;
    struct aq_err *err;
};

static int fail(const struct check *c, const char *what)
{
    return aq_err_set(c->err, AQ_ERUN, "%s: module '%s': %s", aq_show(c->f->path),
                      aq_show(c->m->model->name), what);
}

/* The tensors of the module, and the numbers that are written once. */
static int find_pieces(struct check *c)
{
    struct piece pieces[PIECES];
    const struct coder *k = &c->coder;
    int n = pieces_of(k->layout, &k->scheme, k->rows, k->cols, pieces);
    c->codes = c->scales = NULL;
    for (int i = 0; i < n; i++) {
        char *name = xasprintf("%s%s", c->m->model->name, pieces[i].suffix);
        const struct st_tensor *t = st_need(c->f, name, pieces[i].dtype, pieces[i].rank, NULL);
        free(name);
        if (!t || memcmp(t->shape, pieces[i].shape, (size_t)t->rank * sizeof *t->shape) != 0)
            return fail(c, "a tensor is missing or of another shape");
        if (pieces[i].kind == PIECE_CODES)
            c->codes = t;
        else if (pieces[i].kind == PIECE_SCALES || k->scheme.codes == CODES_FP8_ONE)
            c->scales = c->scales ? c->scales : t;
    }
    return 0;
}

/* One code more or less where the file rounds a scale; the last bits elsewhere. */
static bool close_enough(const struct coder *c, float found, float expected, float step)
{
    float away = fabsf(found - expected);
    if (c->scheme.codes == CODES_PACKED)
        return away <= 1.01F * step + fabsf(expected) * 0x1p-8F;
    return away <= fabsf(expected) * 0x1p-21F;
}

/* Rows r0 <= r < r1 as `aq-calib solve` left them. */
static int solved_rows(const struct check *c, const struct quant_spec *spec,
                       const struct quant_matrix *m, int64_t r0, float *out)
{
    const struct coder *k = &c->coder;
    struct quant_plan *plan = NULL;
    int64_t n = m->rows, cols = k->cols, row_bytes = quant_code_row_bytes(spec, cols);
    if (k->codes) {
        int8_t *q = xmalloc((size_t)(n * cols));
        for (int64_t r = 0; r < n; r++)
            quant_unpack_codes(spec, k->codes + (r0 + r) * row_bytes, cols, q + r * cols);
        quant_decode(spec, &k->grid, k->ranges, q, r0, r0 + n, cols, out);
        free(q);
        return 0;
    }
    /* clip: blocks of one row */
    const float *ranges = k->ranges + r0 * k->grid.grid_cols;
    if (quant_plan_weight_ranges(&plan, spec, m, ranges, QUANT_UNROUNDED, c->err) < 0)
        return -1;
    quant_apply(plan, m, 0, n, out, NUM_F32, NULL);
    quant_plan_free(plan);
    return 0;
}

/* Rows r0 <= r < r1 of the source, dequantized by the treatment. */
static int expected_rows(const struct check *c, const struct export_source *t, int64_t r0,
                         int64_t r1, float *out)
{
    struct quant_spec spec;
    struct quant_plan *plan = NULL;
    int64_t n = r1 - r0, cols = c->coder.cols;
    float *w = xmalloc((size_t)(n * cols) * sizeof *w);
    int r = quant_parse(c->m->group->weight, &spec, c->err);
    enum num_type type = st_num_type(t->dtype);
    num_widen((const char *)t->data + (size_t)(r0 * cols) * num_bytes(type), type,
              (size_t)(n * cols), w);
    coder_scale_rows(&c->coder, r0, r1, w);
    struct quant_step *s = &spec.step[0];
    if (r == 0 && s->scope == QUANT_BLOCK) { /* ragged ends */
        s->block_rows = s->block_rows > n ? (int32_t)n : s->block_rows;
        s->block_cols = s->block_cols > cols ? (int32_t)cols : s->block_cols;
    }
    struct quant_matrix m = {w, NUM_F32, n, cols, c->m->model->name};
    spec.methods =
        coder_spec(&c->coder).methods; /* scaled already; and solved ones are looked up */
    if (r == 0 && c->coder.ranges) {
        r = solved_rows(c, &spec, &m, r0, out);
    } else if (r == 0) {
        r = quant_plan_weight_under(&plan, &spec, &m, c->coder.amax, QUANT_UNROUNDED, c->err);
        if (r == 0)
            quant_apply(plan, &m, 0, n, out, NUM_F32, NULL);
        quant_plan_free(plan);
    }
    free(w);
    return r;
}

static int check_row(const struct check *c, const struct export_source *source, int64_t row)
{
    const struct coder *k = &c->coder;
    bool tiles = k->scheme.codes == CODES_FP8_BLOCK;
    int64_t r0 = tiles ? row / 128 * 128 : row;
    int64_t r1 = tiles ? (r0 + 128 < k->rows ? r0 + 128 : k->rows) : row + 1;
    size_t n = (size_t)((r1 - r0) * k->cols);
    assert(c->codes); /* looked up before any row */
    float *expected = xmalloc(n * sizeof *expected), *found = xmalloc(n * sizeof *found);
    int r = expected_rows(c, source, r0, r1, expected);
    if (r == 0)
        coder_decode(k, c->codes->data, c->scales ? c->scales->data : NULL, r0, r1, found);
    int64_t group = k->scheme.group ? k->scheme.group : k->cols;
    for (size_t i = 0; i < n && r == 0; i++) {
        /* a step of the row's or group's largest: an upper bound is enough */
        size_t from = i / (size_t)group * (size_t)group;
        float a =
            k->scheme.one_range ? k->amax : quant_absmax(expected + from, NUM_F32, (size_t)group);
        float step = a / (float)((1 << (k->scheme.bits - 1)) - 1);
        if (!close_enough(k, found[i], expected[i], step))
            r = fail(c, "what was written does not decode to the treatment's values");
    }
    free(expected);
    free(found);
    return r;
}

static int check_module(struct check *c)
{
    struct export_source source;
    if (coder_of(c->p, c->m, &c->coder, c->err) < 0 || find_pieces(c) < 0)
        return -1;
    const int64_t rows[] = {0, c->coder.rows / 2, c->coder.rows - 1};
    int r = 0;
    export_source_of(c->p, c->m->group, (int)(c->m->model - c->m->group->modules), &source);
    for (size_t i = 0; i < AQ_COUNT(rows) && r == 0; i++)
        r = check_row(c, &source, rows[i]);
    free(source.owned);
    const struct st_tensor *seen[] = {c->codes, c->scales};
    for (size_t i = 0; i < AQ_COUNT(seen); i++)
        if (seen[i])
            aq_map_drop(seen[i]->data, seen[i]->end - seen[i]->begin);
    return r;
}

/* A folded norm times the scale is the norm, in the last bits of fp32. */
static int check_norm(const struct export_plan *p, const struct st_file *f,
                      const struct st_tensor *t, const struct export_group *g, struct aq_err *err)
{
    const struct st_tensor *w = st_need(f, t->name, t->dtype, t->rank, err);
    float one = p->lm.arch.norm_one_plus ? 1 : 0;
    enum num_type type = st_num_type(t->dtype);
    for (size_t i = 0; w && i < t->elements; i++) {
        float before = one + num_read(t->data, type, i);
        float after = (one + num_read(w->data, type, i)) * g->scale[i];
        if (!(fabsf(after - before) <= fabsf(before) * 0x1p-20F))
            return aq_err_set(err, AQ_ERUN, "%s: norm '%s' does not carry the scale of %s",
                              aq_show(f->path), aq_show(t->name), aq_show(g->model->name));
    }
    return w ? 0 : -1;
}

/* A router reads what its norm divided. */
static int check_router(const struct st_file *f, const struct st_tensor *t,
                        const struct export_group *g, struct aq_err *err)
{
    const struct st_tensor *w = st_need(f, t->name, t->dtype, t->rank, err);
    enum num_type type = st_num_type(t->dtype);
    for (size_t i = 0; w && i < t->elements; i++) {
        float before = num_read(t->data, type, i) * g->scale[i % t->shape[1]];
        if (num_read(w->data, type, i) != before)
            return aq_err_set(err, AQ_ERUN, "%s: router '%s' does not carry the scale of %s",
                              aq_show(f->path), aq_show(t->name), aq_show(g->model->name));
    }
    return w ? 0 : -1;
}

/* All that a tensor of experts was taken apart into. */
static int check_apart(struct check *c, const struct export_group *g, int from, int end,
                       enum st_dtype dtype)
{
    for (int e = 0; e < g->model->experts; e++)
        for (int k = from; k < end; k++) {
            const struct export_module m = export_plan_module(c->p, g, e * g->parts + k);
            char *name = xasprintf("%s.weight", m.model->name);
            c->m = &m;
            int r = g->verdict.quantized                    ? check_module(c)
                    : st_need(c->f, name, dtype, 2, c->err) ? 0
                                                            : -1;
            c->m = NULL;
            free(name);
            if (r < 0)
                return -1;
        }
    return 0;
}

static int check_shard(const struct export_plan *p, const struct st_file *f, uint32_t file,
                       struct aq_err *err)
{
    const struct st_file *source = &p->ckpt.files[file];
    struct check c = {.p = p, .f = f, .err = err};
    for (size_t i = 0; i < source->count; i++) {
        const struct st_tensor *t = &source->tensors[i];
        const struct ckpt_tensor *known = ckpt_find(&p->ckpt, t->name);
        if (!known || known->file != file)
            continue;
        const struct export_group *norm = export_plan_norm(p, t->name);
        int from = 0, end = 0;
        const struct export_group *apart = export_plan_apart(p, t->name, &from, &end);
        if (apart) {
            if (check_apart(&c, apart, from, end, t->dtype) < 0)
                return -1;
            continue;
        }
        c.m = export_plan_find(p, t->name);
        const struct export_group *router = export_plan_router(p, t->name);
        if ((norm && check_norm(p, f, t, norm, err) < 0) ||
            (router && check_router(f, t, router, err) < 0))
            return -1;
        if (c.m ? check_module(&c) < 0 : !st_need(f, t->name, t->dtype, t->rank, err))
            return -1;
    }
    return 0;
}

int verify_weights(const struct export_plan *p, const struct out_dir *d, struct aq_err *err)
{
    int r = 0;
    for (size_t i = 0; i < p->ckpt.file_count && r == 0; i++) {
        struct st_file f;
        char *path = aq_path_join(d->part, p->ckpt.names[i]);
        r = st_open(&f, path, err);
        free(path);
        if (r < 0)
            return -1;
        r = check_shard(p, &f, (uint32_t)i, err);
        st_close(&f);
    }
    return r;
}
