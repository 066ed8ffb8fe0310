#include "model/family.h"

#include "base/buf.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the tables ---- */

/* Inputs of a dense layer, and the groups that read them: one for one. */
enum { QKV, O, GATE_UP, DOWN };
static const char *const dense_inputs[] = {"qkv", "o", "gate_up", "down", NULL};

#define LINEAR(name, role, out, in, group)                                                         \
    {                                                                                              \
        name ".weight", role, out, in, group, group                                                \
    }
#define VECTOR(name, role, dim)                                                                    \
    {                                                                                              \
        name ".weight", role, dim, DIM_NONE, -1, -1                                                \
    }

static const struct model_tensor qwen3_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    LINEAR("self_attn.q_proj", ROLE_Q, DIM_Q, DIM_HIDDEN, QKV),
    LINEAR("self_attn.k_proj", ROLE_K, DIM_KV, DIM_HIDDEN, QKV),
    LINEAR("self_attn.v_proj", ROLE_V, DIM_KV, DIM_HIDDEN, QKV),
    LINEAR("self_attn.o_proj", ROLE_O, DIM_HIDDEN, DIM_Q, O),
    VECTOR("self_attn.q_norm", ROLE_Q_NORM, DIM_HEAD),
    VECTOR("self_attn.k_norm", ROLE_K_NORM, DIM_HEAD),
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN),
    LINEAR("mlp.gate_proj", ROLE_GATE, DIM_FF, DIM_HIDDEN, GATE_UP),
    LINEAR("mlp.up_proj", ROLE_UP, DIM_FF, DIM_HIDDEN, GATE_UP),
    LINEAR("mlp.down_proj", ROLE_DOWN, DIM_HIDDEN, DIM_FF, DOWN),
};
static const char *const qwen3_types[] = {"qwen3", "qwen3_vl_text", NULL};
static const char *const qwen3_wrappers[] = {"qwen3_vl", NULL};

static const struct model_family families[] = {
    {.name = "qwen3",
     .model_types = qwen3_types,
     .wrappers = qwen3_wrappers,
     .tensors = qwen3_tensors,
     .tensor_count = AQ_COUNT(qwen3_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Qwen3ForCausalLM",
     .text_type = "qwen3"},
};

static const struct model_tensor embedding = {
    "embed_tokens.weight", MODEL_ROLES, DIM_VOCAB, DIM_HIDDEN, -1, -1};
static const struct model_tensor last_norm = VECTOR("norm", MODEL_ROLES, DIM_HIDDEN);
static const struct model_tensor head = {"lm_head.weight", MODEL_ROLES, DIM_VOCAB,
                                         DIM_HIDDEN,       -1,          -1};

/* ---- looking up ---- */

static bool listed(const char *const *list, const char *word)
{
    for (; *list; list++)
        if (strcmp(*list, word) == 0)
            return true;
    return false;
}

const struct model_family *model_family_find(const char *model_type)
{
    for (size_t f = 0; f < AQ_COUNT(families); f++)
        if (listed(families[f].model_types, model_type) || listed(families[f].wrappers, model_type))
            return &families[f];
    return NULL;
}

bool model_family_wraps(const char *model_type)
{
    for (size_t f = 0; f < AQ_COUNT(families); f++)
        if (listed(families[f].wrappers, model_type))
            return true;
    return false;
}

const struct model_family *model_family_named(const char *name)
{
    for (size_t f = 0; f < AQ_COUNT(families); f++)
        if (strcmp(families[f].name, name) == 0)
            return &families[f];
    return NULL;
}

static void add_types(struct aq_buf *list, const char *const *types)
{
    for (; *types; types++)
        aq_buf_addf(list, "%s%s", list->len ? ", " : "", *types);
}

char *model_family_types(void)
{
    struct aq_buf list = AQ_BUF_INIT;
    for (size_t f = 0; f < AQ_COUNT(families); f++) {
        add_types(&list, families[f].model_types);
        add_types(&list, families[f].wrappers);
    }
    return aq_buf_detach(&list);
}

int64_t model_dim_size(const struct lm_arch *a, enum model_dim d)
{
    switch (d) {
    case DIM_HIDDEN:
        return a->hidden_size;
    case DIM_FF:
        return a->intermediate_size;
    case DIM_Q:
        return a->num_attention_heads * a->head_dim;
    case DIM_KV:
        return a->num_key_value_heads * a->head_dim;
    case DIM_HEAD:
        return a->head_dim;
    case DIM_VOCAB:
        return a->vocab_size;
    default:
        return 1;
    }
}

/* ---- one layer ---- */

static void add_linear(struct model_layer *l, const struct lm_arch *a, int tensor)
{
    const struct model_tensor *t = &l->tensors[tensor];
    assert(l->linear_count < MODEL_LINEARS);
    struct model_linear *n = &l->linears[l->linear_count];
    *n = (struct model_linear){.role = t->role,
                               .tensor = tensor,
                               .input = t->input,
                               .group = t->group,
                               .rows = model_dim_size(a, t->out),
                               .cols = model_dim_size(a, t->in)};
    (void)snprintf(n->name, sizeof n->name, "%.*s", (int)(strlen(t->name) - strlen(".weight")),
                   t->name);
    l->linear_of[t->role] = l->linear_count;
    l->inputs[n->input].cols = n->cols;
    if (l->groups[n->group].linears++ == 0)
        l->groups[n->group].first = l->linear_count;
    l->groups[n->group].input = n->input;
    l->weights += n->rows * n->cols;
    l->linear_count++;
}

void model_layer_describe(struct model_layer *out, const struct lm_arch *a, int64_t layer)
{
    const struct model_family *f = a->family;
    (void)layer; /* all layers of the dense families are alike */
    *out = (struct model_layer){.tensors = f->tensors, .tensor_count = f->tensor_count};
    assert(f->tensor_count <= MODEL_TENSORS);
    for (; f->inputs[out->input_count]; out->input_count++)
        out->inputs[out->input_count].name = f->inputs[out->input_count];
    for (; f->groups[out->group_count]; out->group_count++)
        out->groups[out->group_count].kind = f->groups[out->group_count];
    for (int r = 0; r < MODEL_ROLES; r++)
        out->tensor_of[r] = out->linear_of[r] = -1;
    for (int i = 0; i < f->tensor_count; i++) {
        out->tensor_of[f->tensors[i].role] = i;
        if (f->tensors[i].group >= 0)
            add_linear(out, a, i);
    }
}

/* ---- the whole model ---- */

struct model_place *model_layout(const struct lm_arch *a, size_t *count)
{
    size_t per_layer = (size_t)a->family->tensor_count, n = 0;
    struct model_place *all = xcalloc(3 + per_layer * (size_t)a->num_hidden_layers, sizeof *all);
    all[n++] = (struct model_place){-1, &embedding};
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        for (size_t i = 0; i < per_layer; i++)
            all[n++] = (struct model_place){l, &a->family->tensors[i]};
    all[n++] = (struct model_place){-1, &last_norm};
    if (!a->tie_word_embeddings)
        all[n++] = (struct model_place){-1, &head};
    *count = n;
    return all;
}

void model_place_describe(const struct model_place *p, const struct lm_arch *a, struct aq_buf *name,
                          int *rank, uint64_t shape[2])
{
    aq_buf_reset(name);
    if (p->layer >= 0)
        aq_buf_addf(name, "layers.%" PRId64 ".", p->layer);
    aq_buf_adds(name, p->tensor->name);
    *rank = p->tensor->in == DIM_NONE ? 1 : 2;
    shape[0] = (uint64_t)model_dim_size(a, p->tensor->out);
    shape[1] = (uint64_t)model_dim_size(a, p->tensor->in);
}
