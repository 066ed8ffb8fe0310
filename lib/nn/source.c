/* Weights from an open lm.json. */
#include "model/lm.h"
#include "nn/model.h"

static int find_tensor(void *arg, const char *name, struct backend_weight *w, struct aq_err *err)
{
    const struct lm_tensor *t = lm_find(arg, name);
    if (!t || !t->data)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", name);
    if (t->dtype != ST_BF16 && t->dtype != ST_F32 && t->dtype != ST_F16) {
        (void)aq_err_set(err, AQ_EINPUT, "tensor '%s' is of type %s", aq_show(t->source),
                         st_dtype_text(t->dtype));
        (void)aq_err_hint(err, "weights may be: BF16, F16, F32");
        return -1;
    }
    *w = (struct backend_weight){.host = t->data,
                                 .dtype = t->dtype == ST_BF16  ? BACKEND_BF16
                                          : t->dtype == ST_F16 ? BACKEND_F16
                                                               : BACKEND_F32,
                                 .rows = t->rank == 2 ? (int64_t)t->shape[0] : 1,
                                 .cols = (int64_t)t->shape[t->rank - 1],
                                 .name = t->name};
    return 0;
}

struct nn_source nn_source_of_lm(struct lm *lm)
{
    return (struct nn_source){.arch = &lm->arch, .find = find_tensor, .arg = lm};
}
