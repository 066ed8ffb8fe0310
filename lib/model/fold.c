#include "model/fold.h"

#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int model_layer_norm_before(const struct model_layer *l, int input)
{
    int found = -1;
    if (input >= 0 && input == l->experts_input[EXPERT_GATE_UP])
        return l->tensor_of[ROLE_MLP_NORM];
    for (int i = 0; i < l->linear_count; i++) {
        const struct model_linear *m = &l->linears[i];
        if (m->input != input)
            continue;
        if (m->role == ROLE_Q || m->role == ROLE_QKV)
            found = l->tensor_of[ROLE_ATTN_NORM];
        else if (m->role == ROLE_GATE || m->role == ROLE_GATE_UP)
            found = l->tensor_of[ROLE_MLP_NORM];
    }
    return found;
}

const struct lm_tensor *lm_router_beside(const struct lm *lm, size_t input)
{
    const struct model_input *in = &lm->groups.inputs[input];
    struct model_layer layer;
    char name[128];
    model_layer_describe(&layer, &lm->arch, in->layer);
    if ((int)(input - lm->groups.first_input[in->layer]) != layer.experts_input[EXPERT_GATE_UP])
        return NULL;
    (void)snprintf(name, sizeof name, "layers.%" PRId64 ".%s", in->layer,
                   layer.tensors[layer.tensor_of[ROLE_ROUTER]]->name);
    return lm_find(lm, name);
}

const struct lm_tensor *lm_norm_before(const struct lm *lm, size_t input)
{
    const struct model_input *in = &lm->groups.inputs[input];
    struct model_layer layer;
    char name[128];
    model_layer_describe(&layer, &lm->arch, in->layer);
    int norm = model_layer_norm_before(&layer, (int)(input - lm->groups.first_input[in->layer]));
    if (norm < 0)
        return NULL;
    (void)snprintf(name, sizeof name, "layers.%" PRId64 ".%s", in->layer,
                   layer.tensors[norm]->name);
    return lm_find(lm, name);
}

float fold_norm(float weight, float scale, bool one_plus, enum num_type type)
{
    /* in double: a scale that is carried must come back as the weight that carries it */
    double one = one_plus ? 1 : 0;
    return num_as((float)((one + (double)weight) / (double)scale - one), type);
}

float fold_norm_scale(float weight, float scale, bool one_plus, enum num_type type)
{
    double one = one_plus ? 1 : 0, whole = one + (double)weight;
    double folded = one + (double)fold_norm(weight, scale, one_plus, type);
    /* a channel that is 0 stays so; one that the fold would make 0, or endless, is left alone */
    if (folded == 0)
        return 1;
    float carried = (float)(whole / folded);
    return carried > 0 && carried <= 1e6F && carried >= 1e-6F ? carried : 1;
}

float fold_free_scale(float scale)
{
    return 1 / num_as(1 / scale, NUM_BF16);
}
