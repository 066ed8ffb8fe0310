#include "export/gguf_export.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/pool.h"
#include "base/progress.h"
#include "export/gguf_model.h"
#include "export/weights.h"
#include "model/fold.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A tensor of the model, and where it goes. */
struct entry {
    const struct lm_tensor *t;
    const struct export_module *m; /* NULL: not quantized */
    struct gguf_form form;
    enum gguf_type type;
    int handle, scale; /* scale: of NVFP4's second level; -1 */
};

struct gguf_job {
    const struct export_plan *p;
    struct gguf_writer *w;
    const struct entry *e;
    struct coder coder;
    pthread_mutex_t lock;
    int64_t failed;
    struct aq_err err;
};

/* ---- the plan of the file ---- */

static enum gguf_type plain_type(const struct lm_tensor *t)
{
    if (t->rank == 1) /* norms */
        return GGUF_F32;
    return t->dtype == ST_BF16 ? GGUF_BF16 : t->dtype == ST_F16 ? GGUF_F16 : GGUF_F32;
}

static enum gguf_type coded_type(const struct scheme *s)
{
    switch (s->codes) {
    case CODES_Q8_0:
        return GGUF_Q8_0;
    case CODES_Q4_0:
        return GGUF_Q4_0;
    case CODES_MXFP4:
        return GGUF_MXFP4;
    default:
        assert(s->codes == CODES_NVFP4);
        return GGUF_NVFP4;
    }
}

static int describe(const struct export_plan *p, const struct lm_tensor *t, struct entry *e,
                    struct aq_err *err)
{
    *e = (struct entry){.t = t, .m = export_plan_find(p, t->source), .scale = -1};
    e->type = e->m ? coded_type(&e->m->group->verdict.scheme) : plain_type(t);
    if (t->rank != 1 && t->rank != 2)
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' has rank %d, which is not written as GGUF",
                          aq_show(t->name), t->rank);
    return 0;
}

static int declare(const struct export_plan *p, struct gguf_writer *w, struct entry *e,
                   struct aq_err *err)
{
    struct aq_buf name = AQ_BUF_INIT;
    int r = gguf_tensor_name(&p->lm.arch, p->arch, e->t->name, &name, &e->form, err);
    if (r == 0 && e->type == GGUF_NVFP4) {
        char *scale = xasprintf("%.*s.scale", (int)(name.len - strlen(".weight")), name.data);
        e->scale = gguf_declare(w, scale, GGUF_F32, 1, (uint64_t[]){1});
        free(scale);
    }
    if (r == 0)
        e->handle = gguf_declare(w, name.data, e->type, e->t->rank, e->t->shape);
    aq_buf_release(&name);
    return r;
}

/* The type that most weights have, as llama.cpp numbers whole files. */
static uint32_t file_type(const struct entry *entries, size_t n)
{
    static const struct {
        enum gguf_type type;
        uint32_t number;
    } files[] = {{GGUF_F32, 0},   {GGUF_F16, 1},    {GGUF_Q4_0, 2},  {GGUF_Q8_0, 7},
                 {GGUF_BF16, 32}, {GGUF_MXFP4, 38}, {GGUF_NVFP4, 39}};
    uint64_t most = 0;
    uint32_t found = 32;
    for (size_t k = 0; k < AQ_COUNT(files); k++) {
        uint64_t count = 0;
        for (size_t i = 0; i < n; i++) /* of the linears */
            if (entries[i].type == files[k].type && entries[i].t->rank == 2 &&
                strncmp(entries[i].t->name, "layers.", 7) == 0)
                count += entries[i].t->elements;
        if (count > most) {
            most = count;
            found = files[k].number;
        }
    }
    return found;
}

/* ---- bytes ---- */

/* Rows r0 <= r < r1 as the file has them: borrowed, or gathered into `room`. */
static const void *source_rows(const struct entry *e, int64_t r0, int64_t r1, char *room)
{
    int64_t rows = (int64_t)e->t->shape[0];
    size_t row = (size_t)e->t->shape[1] * st_dtype_bits(e->t->dtype) / 8;
    if (!e->form.heads)
        return (const char *)e->t->data + (size_t)r0 * row;
    for (int64_t r = r0; r < r1; r++)
        memcpy(room + (size_t)(r - r0) * row,
               (const char *)e->t->data + (size_t)gguf_source_row(r, rows, e->form.heads) * row,
               row);
    return room;
}

static int write_tile(struct gguf_job *j, int64_t r0, int64_t r1, struct aq_err *err)
{
    const struct entry *e = j->e;
    size_t row = (size_t)e->t->shape[1] * st_dtype_bits(e->t->dtype) / 8;
    char *room = e->form.heads ? xmalloc((size_t)(r1 - r0) * row) : NULL;
    const void *from = source_rows(e, r0, r1, room);
    int r;
    if (!e->m) {
        r = gguf_write(j->w, e->handle, (uint64_t)r0 * row, from, (size_t)(r1 - r0) * row, err);
    } else {
        uint64_t at = coder_code_bytes(&j->coder, r0);
        size_t n = (size_t)(coder_code_bytes(&j->coder, r1) - at);
        void *blocks = xmalloc(n);
        r = coder_tile(&j->coder, from, st_num_type(e->t->dtype), r0, r1, blocks, NULL, err);
        if (r == 0)
            r = gguf_write(j->w, e->handle, at, blocks, n, err);
        free(blocks);
    }
    free(room);
    return r;
}

static void tile_unit(void *arg, int64_t unit, int worker)
{
    struct gguf_job *j = arg;
    struct aq_err err = {0};
    int64_t rows = (int64_t)j->e->t->shape[0], r0 = unit * CODES_TILE;
    int64_t r1 = r0 + CODES_TILE < rows ? r0 + CODES_TILE : rows;
    if (write_tile(j, r0, r1, &err) == 0)
        return;
    pthread_mutex_lock(&j->lock);
    if (j->failed < 0 || unit < j->failed) {
        j->failed = unit;
        j->err = err;
    }
    pthread_mutex_unlock(&j->lock);
}

static int write_vector(const struct gguf_job *j, struct aq_err *err)
{
    const struct lm_tensor *t = j->e->t;
    float *y = xcalloc(2 * (size_t)t->elements + 1, sizeof *y);
    enum num_type type = st_num_type(t->dtype);
    const struct gguf_form *form = &j->e->form;
    float *x = y + t->elements;
    num_widen(t->data, type, (size_t)t->elements, x);
    const struct export_group *norm = export_plan_norm(j->p, t->source);
    for (uint64_t i = 0; norm && i < t->elements; i++)
        x[i] = fold_norm(x[i], norm->scale[i], j->p->lm.arch.norm_one_plus, type);
    for (uint64_t i = 0; i < t->elements; i++)
        y[i] = form->plus + (form->heads
                                 ? x[gguf_source_row((int64_t)i, (int64_t)t->elements, form->heads)]
                                 : x[i]);
    int r = gguf_write(j->w, j->e->handle, 0, y, (size_t)t->elements * 4, err);
    free(y);
    return r;
}

static int write_entry(struct gguf_job *j, struct aq_err *err)
{
    const struct entry *e = j->e;
    j->failed = -1;
    if (e->t->rank == 1)
        return write_vector(j, err);
    if (e->m && coder_of(j->p, e->m, &j->coder, err) < 0)
        return -1;
    j->coder.heads = e->form.heads;
    if (e->scale >= 0) {
        float second = coder_second_level(&j->coder);
        if (gguf_write(j->w, e->scale, 0, &second, sizeof second, err) < 0)
            return -1;
    }
    int64_t rows = (int64_t)e->t->shape[0];
    aq_pool_run(j->p->pool, (rows + CODES_TILE - 1) / CODES_TILE, tile_unit, j);
    if (j->failed >= 0 && err)
        *err = j->err;
    return j->failed >= 0 ? -1 : 0;
}

/* What the checkpoint does not have: few and small. */
struct extras {
    struct gguf_extra of[GGUF_EXTRAS];
    size_t count;
    int handle[GGUF_EXTRAS];
};

static void declare_extras(struct gguf_writer *w, struct extras *x)
{
    for (size_t i = 0; i < x->count; i++)
        x->handle[i] = gguf_declare(w, x->of[i].name, GGUF_F32, 1, &x->of[i].count);
}

static int write_extras(struct gguf_writer *w, const struct extras *x, struct aq_err *err)
{
    for (size_t i = 0; i < x->count; i++)
        if (gguf_write(w, x->handle[i], 0, x->of[i].values, (size_t)x->of[i].count * 4, err) < 0)
            return -1;
    return 0;
}

static int write_file(const struct export_plan *p, struct gguf_writer *w,
                      const struct entry *entries, const struct extras *extras, const char *path,
                      struct aq_err *err)
{
    struct gguf_job j = {.p = p, .w = w, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct aq_progress progress;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < p->lm.count; i++)
        total += p->lm.tensors[i].end - p->lm.tensors[i].begin;
    int r = gguf_begin(w, path, err);
    if (r == 0)
        r = write_extras(w, extras, err);
    aq_progress_begin(&progress, "export", total);
    for (size_t i = 0; i < p->lm.count && r == 0; i++) {
        j.e = &entries[i];
        r = write_entry(&j, err);
        aq_map_drop(entries[i].t->data, entries[i].t->end - entries[i].t->begin);
        done += entries[i].t->end - entries[i].t->begin;
        aq_progress_update(&progress, done);
    }
    aq_progress_end(&progress);
    return r < 0 ? -1 : gguf_commit(w, err);
}

int export_gguf(struct export_plan *p, const char *path, struct aq_err *err)
{
    struct gguf_writer *w = gguf_writer_new();
    struct entry *entries = xcalloc(p->lm.count + 1, sizeof *entries);
    struct extras extras = {.count = 0};
    int r = export_plan_start(p, err);
    if (r == 0)
        r = export_plan_numbers(p, err);
    for (size_t i = 0; i < p->lm.count && r == 0; i++)
        r = describe(p, &p->lm.tensors[i], &entries[i], err);
    if (r == 0) {
        r = gguf_add_keys(p, w, extras.of, &extras.count, err);
        gguf_add_u32(w, "general.file_type", file_type(entries, p->lm.count));
        declare_extras(w, &extras);
    }
    for (size_t i = 0; i < p->lm.count && r == 0; i++)
        r = declare(p, w, &entries[i], err);
    if (r == 0)
        r = write_file(p, w, entries, &extras, path, err);
    for (size_t i = 0; i < extras.count; i++)
        free(extras.of[i].values);
    gguf_writer_free(w);
    free(entries);
    return r;
}
