#include "export/gguf_export.h"

#include "base/arena.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/pool.h"
#include "base/progress.h"
#include "export/codes.h"
#include "export/gguf_model.h"
#include "export/weights.h"
#include "model/family.h"
#include "model/fold.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A tensor of the file: one of the model, or a matrix of all experts of a layer. */
struct entry {
    const char *name;          /* the model's; of experts with "{e}" */
    const struct lm_tensor *t; /* NULL: it is of experts */
    struct export_group *g;    /* of experts, and which of their matrices it is */
    enum expert_part part;
    const struct export_module *m; /* of t; NULL: it is not quantized */
    bool quantized;
    int rank;
    uint64_t shape[MODEL_RANK]; /* (experts, rows, columns) of experts */
    struct gguf_form form;
    enum gguf_type type;
    int handle, scale; /* scale: of NVFP4's second level; -1 */
};

struct entries {
    struct entry *items;
    size_t count;
    struct aq_arena names;
};

/* A matrix being written: a tensor, or that of one expert. */
struct gguf_job {
    const struct export_plan *p;
    struct gguf_writer *w;
    const struct entry *e;
    struct export_source from;
    int64_t rows, cols;
    uint64_t before; /* bytes in front of it in the tensor */
    struct coder coder;
    pthread_mutex_t lock;
    int64_t failed;
    struct aq_err err;
};

/* ---- the plan of the file ---- */

static enum gguf_type plain_type(enum st_dtype dtype)
{
    return dtype == ST_BF16 ? GGUF_BF16 : dtype == ST_F16 ? GGUF_F16 : GGUF_F32;
}

/* Norms and routers are F32, as llama.cpp's own converter writes them. */
static void describe_tensor(const struct export_plan *p, const struct lm_tensor *t, bool router,
                            struct entry *e)
{
    *e = (struct entry){
        .name = t->name, .t = t, .m = export_plan_find(p, t->source), .rank = t->rank, .scale = -1};
    memcpy(e->shape, t->shape, sizeof e->shape);
    e->quantized = e->m != NULL;
    e->type = e->m                     ? codes_gguf_type(&e->m->group->verdict.scheme)
              : t->rank == 1 || router ? GGUF_F32
                                       : plain_type(t->dtype);
}

/* The tensors of a layer's experts, one for each of their matrices. */
static void describe_experts(const struct export_plan *p, int64_t layer, struct entries *all)
{
    static const enum model_role roles[] = {ROLE_EXPERT_GATE, ROLE_EXPERT_UP, ROLE_EXPERT_DOWN};
    const struct lm_arch *a = &p->lm.arch;
    for (size_t i = p->lm.groups.first[layer]; i < p->lm.groups.first[layer + 1]; i++) {
        struct export_group *g = &p->groups[i];
        for (int k = 0; k < g->parts; k++) {
            struct export_source from;
            enum expert_part part = export_plan_part(g, k);
            struct entry *e = &all->items[all->count++];
            export_source_of(p, g, k, &from);
            free(from.owned);
            *e = (struct entry){.name =
                                    aq_arena_printf(&all->names, "layers.%lld.%s", (long long)layer,
                                                    model_role_name(a->family, roles[part])),
                                .g = g,
                                .part = part,
                                .quantized = g->verdict.quantized,
                                .rank = MODEL_RANK,
                                .shape = {(uint64_t)a->experts, (uint64_t)g->modules[k].rows,
                                          (uint64_t)g->modules[k].cols},
                                .type = g->verdict.quantized ? codes_gguf_type(&g->verdict.scheme)
                                                             : plain_type(from.dtype),
                                .scale = -1};
        }
    }
}

/* In the order of the model; experts stand where the layer's first one is. */
static void describe(const struct export_plan *p, struct entries *all)
{
    size_t count;
    int64_t done = -1;
    struct model_place *places = model_layout(&p->lm.arch, &count);
    all->items = xcalloc(count + 1, sizeof *all->items);
    for (size_t i = 0; i < count; i++) {
        const struct model_tensor *t = places[i].layer >= 0 ? places[i].tensor : NULL;
        if (!t || !model_is_expert(t)) {
            describe_tensor(p, &p->lm.tensors[i], t && t->role == ROLE_ROUTER,
                            &all->items[all->count++]);
        } else if (places[i].layer != done) {
            done = places[i].layer;
            describe_experts(p, done, all);
        }
    }
    free(places);
}

static int declare(const struct export_plan *p, struct gguf_writer *w, struct entry *e,
                   struct aq_err *err)
{
    struct aq_buf name = AQ_BUF_INIT;
    int r = gguf_tensor_name(&p->lm.arch, p->arch, e->name, &name, &e->form, err);
    if (r == 0 && e->type == GGUF_NVFP4) {
        char *scale = xasprintf("%.*s.scale", (int)(name.len - strlen(".weight")), name.data);
        e->scale = gguf_declare(w, scale, GGUF_F32, 1, (uint64_t[]){e->g ? e->shape[0] : 1});
        free(scale);
    }
    if (r == 0)
        e->handle = gguf_declare(w, name.data, e->type, e->rank, e->shape);
    aq_buf_release(&name);
    return r;
}

static uint64_t elements_of(const struct entry *e)
{
    uint64_t n = 1;
    for (int i = 0; i < e->rank; i++)
        n *= e->shape[i];
    return n;
}

/* The type that most weights have, as llama.cpp numbers whole files. */
static uint32_t file_type(const struct entries *all)
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
        for (size_t i = 0; i < all->count; i++) /* of the linears */
            if (all->items[i].type == files[k].type && all->items[i].rank > 1 &&
                strncmp(all->items[i].name, "layers.", 7) == 0)
                count += elements_of(&all->items[i]);
        if (count > most) {
            most = count;
            found = files[k].number;
        }
    }
    return found;
}

/* ---- bytes ---- */

/* Rows r0 <= r < r1 as the file has them: borrowed, or gathered into `room`. */
static const void *source_rows(const struct gguf_job *j, int64_t r0, int64_t r1, char *room)
{
    int64_t heads = j->e->form.heads;
    size_t row = (size_t)j->cols * st_dtype_bits(j->from.dtype) / 8;
    if (!heads)
        return (const char *)j->from.data + (size_t)r0 * row;
    for (int64_t r = r0; r < r1; r++)
        memcpy(room + (size_t)(r - r0) * row,
               (const char *)j->from.data + (size_t)gguf_source_row(r, j->rows, heads) * row, row);
    return room;
}

static int write_tile(struct gguf_job *j, int64_t r0, int64_t r1, struct aq_err *err)
{
    const struct entry *e = j->e;
    size_t row = (size_t)j->cols * st_dtype_bits(j->from.dtype) / 8;
    char *room = e->form.heads ? xmalloc((size_t)(r1 - r0) * row) : NULL;
    const void *from = source_rows(j, r0, r1, room);
    int r;
    if (!e->quantized) {
        r = gguf_write(j->w, e->handle, j->before + (uint64_t)r0 * row, from,
                       (size_t)(r1 - r0) * row, err);
    } else {
        uint64_t at = coder_code_bytes(&j->coder, r0);
        size_t n = (size_t)(coder_code_bytes(&j->coder, r1) - at);
        void *blocks = xmalloc(n);
        r = coder_tile(&j->coder, from, st_num_type(j->from.dtype), r0, r1, blocks, NULL, err);
        if (r == 0)
            r = gguf_write(j->w, e->handle, j->before + at, blocks, n, err);
        free(blocks);
    }
    free(room);
    return r;
}

static void tile_unit(void *arg, int64_t unit, int worker)
{
    struct gguf_job *j = arg;
    struct aq_err err = {0};
    int64_t r0 = unit * CODES_TILE, r1 = r0 + CODES_TILE < j->rows ? r0 + CODES_TILE : j->rows;
    (void)worker;
    if (write_tile(j, r0, r1, &err) == 0)
        return;
    pthread_mutex_lock(&j->lock);
    if (j->failed < 0 || unit < j->failed) {
        j->failed = unit;
        j->err = err;
    }
    pthread_mutex_unlock(&j->lock);
}

/* A norm or a router, with the calibrated scale that it takes. */
static int write_small(const struct gguf_job *j, struct aq_err *err)
{
    const struct lm_tensor *t = j->e->t;
    float *y = xcalloc(2 * (size_t)t->elements + 1, sizeof *y);
    enum num_type type = st_num_type(t->dtype);
    const struct gguf_form *form = &j->e->form;
    float *x = y + t->elements;
    num_widen(t->data, type, (size_t)t->elements, x);
    const struct export_group *norm = export_plan_norm(j->p, t->source);
    const struct export_group *router = export_plan_router(j->p, t->source);
    for (uint64_t i = 0; norm && i < t->elements; i++)
        x[i] = fold_norm(x[i], norm->scale[i], j->p->lm.arch.norm_one_plus, type);
    for (uint64_t i = 0; router && i < t->elements; i++)
        x[i] *= router->scale[i % t->shape[1]];
    for (uint64_t i = 0; i < t->elements; i++)
        y[i] = form->plus + (form->heads
                                 ? x[gguf_source_row((int64_t)i, (int64_t)t->elements, form->heads)]
                                 : x[i]);
    int r = gguf_write(j->w, j->e->handle, 0, y, (size_t)t->elements * 4, err);
    free(y);
    return r;
}

/* One matrix: expert 0 <= index, or the whole tensor. */
static int write_matrix(struct gguf_job *j, const struct export_module *m, int64_t index,
                        struct aq_err *err)
{
    const struct entry *e = j->e;
    j->failed = -1;
    if (m && coder_of(j->p, m, &j->coder, err) < 0)
        return -1;
    j->coder.heads = e->form.heads;
    if (e->scale >= 0) {
        float second = coder_second_level(&j->coder);
        if (gguf_write(j->w, e->scale, (uint64_t)index * sizeof second, &second, sizeof second,
                       err) < 0)
            return -1;
    }
    aq_pool_run(j->p->pool, aq_div_up(j->rows, CODES_TILE), tile_unit, j);
    if (j->failed >= 0 && err)
        *err = j->err;
    return j->failed >= 0 ? -1 : 0;
}

static int write_experts(struct gguf_job *j, struct aq_err *err)
{
    const struct entry *e = j->e;
    const struct export_group *g = e->g;
    uint64_t each = gguf_declared_bytes(j->w, e->handle) / e->shape[0];
    int r = 0;
    for (int x = 0; x < g->model->experts && r == 0; x++) {
        int module = x * g->parts + (int)e->part - g->part;
        const struct export_module m = export_plan_module(j->p, g, module);
        export_source_of(j->p, g, module, &j->from);
        j->rows = m.model->rows;
        j->cols = m.model->cols;
        j->before = (uint64_t)x * each;
        r = write_matrix(j, e->quantized ? &m : NULL, x, err);
        if (!j->from.owned)
            aq_map_drop(j->from.data,
                        (size_t)(j->rows * j->cols) * st_dtype_bits(j->from.dtype) / 8);
        free(j->from.owned);
    }
    return r;
}

static int write_entry(struct gguf_job *j, struct aq_err *err)
{
    const struct lm_tensor *t = j->e->t;
    if (!t)
        return write_experts(j, err);
    j->from = (struct export_source){.data = t->data, .dtype = t->dtype};
    j->rows = (int64_t)t->shape[0];
    j->cols = t->rank == 2 ? (int64_t)t->shape[1] : 1;
    j->before = 0;
    bool small = t->rank == 1 || (j->e->type == GGUF_F32 && t->dtype != ST_F32);
    int r = small || export_plan_router(j->p, t->source) ? write_small(j, err)
                                                         : write_matrix(j, j->e->m, 0, err);
    aq_map_drop(t->data, t->end - t->begin);
    return r;
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

static int write_file(const struct export_plan *p, struct gguf_writer *w, const struct entries *all,
                      const struct extras *extras, const char *path, struct aq_err *err)
{
    struct gguf_job j = {.p = p, .w = w, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct aq_progress progress;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < all->count; i++)
        total += elements_of(&all->items[i]);
    int r = gguf_begin(w, path, err);
    if (r == 0)
        r = write_extras(w, extras, err);
    aq_progress_begin(&progress, "export", total);
    for (size_t i = 0; i < all->count && r == 0; i++) {
        j.e = &all->items[i];
        r = write_entry(&j, err);
        done += elements_of(j.e);
        aq_progress_update(&progress, done);
    }
    aq_progress_end(&progress);
    return r < 0 ? -1 : gguf_commit(w, err);
}

int export_gguf(struct export_plan *p, const char *path, struct aq_err *err)
{
    struct gguf_writer *w = gguf_writer_new();
    struct entries all = {.count = 0};
    struct extras extras = {.count = 0};
    int r = export_plan_start(p, err);
    if (r == 0)
        r = export_plan_numbers(p, err);
    if (r == 0) {
        describe(p, &all);
        r = gguf_add_keys(p, w, extras.of, &extras.count, err);
        gguf_add_u32(w, "general.file_type", file_type(&all));
        declare_extras(w, &extras);
    }
    for (size_t i = 0; i < all.count && r == 0; i++)
        r = declare(p, w, &all.items[i], err);
    if (r == 0)
        r = write_file(p, w, &all, &extras, path, err);
    for (size_t i = 0; i < extras.count; i++)
        free(extras.of[i].values);
    gguf_writer_free(w);
    free(all.items);
    aq_arena_release(&all.names);
    return r;
}
