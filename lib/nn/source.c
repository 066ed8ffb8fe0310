/* Weights from an open lm.json. */
#include "model/lm.h"
#include "nn/qwen3.h"

static int find_tensor(void *arg, const char *name, struct backend_weight *w, struct aq_err *err)
{
    const struct lm_tensor *t = lm_find(arg, name);
    if (!t || !t->data)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", name);
    if (t->dtype != ST_BF16 && t->dtype != ST_F32) {
        (void)aq_err_set(err, AQ_EINPUT, "tensor '%s' is of type %s", aq_show(t->source),
                         st_dtype_text(t->dtype));
        (void)aq_err_hint(err, "weights may be: BF16, F32");
        return -1;
    }
    *w = (struct backend_weight){.host = t->data,
                                 .dtype = t->dtype == ST_BF16 ? BACKEND_BF16 : BACKEND_F32,
                                 .rows = t->rank == 2 ? (int64_t)t->shape[0] : 1,
                                 .cols = (int64_t)t->shape[t->rank - 1],
                                 .name = t->name};
    return 0;
}

struct qwen3_source qwen3_source_of_lm(struct lm *lm)
{
    const struct lm_arch *a = &lm->arch;
    return (struct qwen3_source){.config = {.hidden = a->hidden_size,
                                            .intermediate = a->intermediate_size,
                                            .layers = a->num_hidden_layers,
                                            .heads = a->num_attention_heads,
                                            .kv_heads = a->num_key_value_heads,
                                            .head_dim = a->head_dim,
                                            .vocab = a->vocab_size,
                                            .rope_theta = a->rope_theta,
                                            .eps = a->rms_norm_eps,
                                            .tied = a->tie_word_embeddings},
                                 .find = find_tensor,
                                 .arg = lm};
}
