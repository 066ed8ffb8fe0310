/* Weights from an open lm.json. */
#include "base/mem.h"
#include "model/lm.h"
#include "model/turn.h"
#include "nn/experts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/*
 * One expert's matrix as it is computed with: "layers.3.mlp.experts.5.gate_up" is (2 M, hidden),
 * gate above up, "...down" (hidden, M). The map serves where the checkpoint has it so, in one piece
 * or in two; else it is transposed while its layer is at work.
 */
bool nn_expert_name(const char *name, struct nn_expert_name *out)
{
    int at = 0;
    if (sscanf(name, "layers.%" SCNd64 ".mlp.experts.%" SCNd64 ".%n", &out->layer, &out->expert,
               &at) != 2 ||
        at == 0)
        return false;
    out->down = strcmp(name + at, "down") == 0;
    return out->down || strcmp(name + at, "gate_up") == 0;
}

int nn_expert_parts(const struct nn_expert_name *e, char names[NN_EXPERT_PARTS][NN_EXPERT_NAME_MAX])
{
    static const char *const parts[] = {"gate", "up", "down"};
    int first = e->down ? 2 : 0, count = e->down ? 1 : 2;
    for (int k = 0; k < count; k++)
        (void)snprintf(names[k], NN_EXPERT_NAME_MAX,
                       "layers.%" PRId64 ".mlp.experts.%" PRId64 ".%s_proj.weight", e->layer,
                       e->expert, parts[first + k]);
    return count;
}

/* The parts of a matrix, one above the other. */
struct matrix_parts {
    const char *data[NN_EXPERT_PARTS];
    enum st_dtype dtype;
    int64_t rows, cols; /* of each part */
    int64_t ld;         /* elements from a row to the next, or from a column where transposed */
    int count;
    bool transposed;
};

static int add_part(const struct lm *lm, const char *name, struct matrix_parts *p,
                    struct aq_err *err)
{
    const struct lm_tensor *t = lm_find(lm, name);
    if (!t || !t->data)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", name);
    if (p->count && p->dtype != t->dtype)
        return aq_err_set(err, AQ_EINPUT, "'%s' is %s, the gate of the same expert %s",
                          aq_show(t->source), st_dtype_text(t->dtype), st_dtype_text(p->dtype));
    p->dtype = t->dtype;
    p->data[p->count++] = t->data;
    return 0;
}

static int parts_of(const struct lm *lm, const struct nn_expert_name *e, struct matrix_parts *p,
                    struct aq_err *err)
{
    const struct lm_arch *a = &lm->arch;
    int64_t m = a->moe_intermediate_size, d = a->hidden_size;
    *p = (struct matrix_parts){.rows = e->down ? d : m, .cols = e->down ? m : d};
    if (arch_layout(a, e->layer) == EXPERTS_EACH) {
        char names[NN_EXPERT_PARTS][NN_EXPERT_NAME_MAX];
        int count = nn_expert_parts(e, names);
        p->ld = p->cols;
        for (int k = 0; k < count; k++)
            if (add_part(lm, names[k], p, err) < 0)
                return -1;
        return 0;
    }
    char name[96];
    (void)snprintf(name, sizeof name, "layers.%" PRId64 ".mlp.experts.%s_proj", e->layer,
                   e->down ? "down" : "gate_up");
    const struct lm_tensor *t = lm_find(lm, name);
    if (!t || !t->data)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", name);
    p->dtype = t->dtype;
    p->rows *= e->down ? 1 : 2;
    p->transposed = t->transposed;
    p->ld = p->transposed ? p->rows : p->cols;
    p->data[0] = (const char *)t->data +
                 (size_t)(e->expert * p->rows * p->cols) * (st_dtype_bits(t->dtype) / 8);
    p->count = 1;
    return 0;
}

static int find_matrix(struct lm *lm, const struct nn_expert_name *e, const char *name,
                       struct backend_weight *w, struct aq_err *err)
{
    struct matrix_parts p;
    if (parts_of(lm, e, &p, err) < 0)
        return -1;
    *w = (struct backend_weight){.host = p.transposed ? NULL : p.data[0],
                                 .lower = p.count > 1 ? p.data[1] : NULL,
                                 .dtype = st_num_type(p.dtype),
                                 .rows = p.rows * p.count,
                                 .cols = p.cols,
                                 .name = aq_arena_strdup(&lm->strings, name)};
    return 0;
}

static int make_expert(void *arg, struct backend_weight *w, struct aq_err *err)
{
    struct nn_expert_name e;
    struct matrix_parts p;
    if (!nn_expert_name(w->name, &e))
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", w->name);
    if (parts_of(arg, &e, &p, err) < 0)
        return -1;
    size_t size = num_bytes(w->dtype);
    char *all = aq_big_alloc((size_t)(p.rows * p.cols) * size, "the weights of an expert", err);
    if (!all)
        return -1;
    matrix_turn(all, p.data[0], p.rows, p.cols, p.ld, size);
    w->host = all;
    return 0;
}

/* Weights in the map are nobody's to free. */
static void drop_expert(void *arg, struct backend_weight *w)
{
    struct nn_expert_name e;
    struct matrix_parts p;
    struct aq_err ignored;
    if (!w->host || !nn_expert_name(w->name, &e) || parts_of(arg, &e, &p, &ignored) < 0 ||
        !p.transposed)
        return;
    aq_big_free((void *)w->host, (size_t)(w->rows * w->cols) * num_bytes(w->dtype));
    w->host = NULL;
}

static int find_tensor(void *arg, const char *name, struct backend_weight *w, struct aq_err *err)
{
    const struct lm_tensor *t = lm_find(arg, name);
    struct nn_expert_name e;
    if (!t && nn_expert_name(name, &e))
        return find_matrix(arg, &e, name, w, err);
    if (!t || !t->data)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", name);
    if (t->dtype != ST_BF16 && t->dtype != ST_F32 && t->dtype != ST_F16) {
        (void)aq_err_set(err, AQ_EINPUT, "tensor '%s' is of type %s", aq_show(t->source),
                         st_dtype_text(t->dtype));
        (void)aq_err_hint(err, "weights may be: BF16, F16, F32");
        return -1;
    }
    *w = (struct backend_weight){.host = t->data,
                                 .dtype = st_num_type(t->dtype),
                                 .rows = t->rank == 2 ? (int64_t)t->shape[0] : 1,
                                 .cols = (int64_t)t->shape[t->rank - 1],
                                 .name = t->name};
    return 0;
}

struct nn_source nn_source_of_lm(struct lm *lm)
{
    return (struct nn_source){.arch = &lm->arch,
                              .find = find_tensor,
                              .arg = lm,
                              .make = make_expert,
                              .drop = drop_expert};
}
