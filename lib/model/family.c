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
/* A sparse layer has the same inputs: what the experts read, and what is between gate and down. */
static const char *const sparse_groups[] = {"qkv", "o", "experts", NULL};

#define LINEAR(name, role, out, in, group)                                                         \
    {                                                                                              \
        name ".weight", role, out, in, group, group                                                \
    }
#define VECTOR(name, role, dim)                                                                    \
    {                                                                                              \
        name ".weight", role, dim, DIM_NONE, -1, -1                                                \
    }

/* After its linear; in models with biases of this kind. */
#define BIAS(name, role, dim, kind)                                                                \
    {                                                                                              \
        name ".bias", role, dim, DIM_NONE, -1, -1, kind                                            \
    }

#define Q_K_V                                                                                      \
    LINEAR("self_attn.q_proj", ROLE_Q, DIM_Q, DIM_HIDDEN, QKV),                                    \
        BIAS("self_attn.q_proj", ROLE_Q, DIM_Q, BIAS_QKV),                                         \
        LINEAR("self_attn.k_proj", ROLE_K, DIM_KV, DIM_HIDDEN, QKV),                               \
        BIAS("self_attn.k_proj", ROLE_K, DIM_KV, BIAS_QKV),                                        \
        LINEAR("self_attn.v_proj", ROLE_V, DIM_KV, DIM_HIDDEN, QKV),                               \
        BIAS("self_attn.v_proj", ROLE_V, DIM_KV, BIAS_QKV)
#define O_PROJ                                                                                     \
    LINEAR("self_attn.o_proj", ROLE_O, DIM_HIDDEN, DIM_Q, O),                                      \
        BIAS("self_attn.o_proj", ROLE_O, DIM_HIDDEN, BIAS_O)
#define MLP                                                                                        \
    LINEAR("mlp.gate_proj", ROLE_GATE, DIM_FF, DIM_HIDDEN, GATE_UP),                               \
        BIAS("mlp.gate_proj", ROLE_GATE, DIM_FF, BIAS_MLP),                                        \
        LINEAR("mlp.up_proj", ROLE_UP, DIM_FF, DIM_HIDDEN, GATE_UP),                               \
        BIAS("mlp.up_proj", ROLE_UP, DIM_FF, BIAS_MLP),                                            \
        LINEAR("mlp.down_proj", ROLE_DOWN, DIM_HIDDEN, DIM_FF, DOWN),                              \
        BIAS("mlp.down_proj", ROLE_DOWN, DIM_HIDDEN, BIAS_MLP)

/* The parts of a layer that may be sparse. */
#define DENSE_LINEAR(name, role, out, in, group)                                                   \
    {                                                                                              \
        name ".weight", role, out, in, group, group, 0, IN_DENSE, NULL                             \
    }
#define DENSE_MLP                                                                                  \
    DENSE_LINEAR("mlp.gate_proj", ROLE_GATE, DIM_FF, DIM_HIDDEN, GATE_UP),                         \
        DENSE_LINEAR("mlp.up_proj", ROLE_UP, DIM_FF, DIM_HIDDEN, GATE_UP),                         \
        DENSE_LINEAR("mlp.down_proj", ROLE_DOWN, DIM_HIDDEN, DIM_FF, DOWN)
#define EXPERTS_AS(router, gate, up, down)                                                         \
    {"mlp.gate.weight", ROLE_ROUTER, DIM_EXPERTS, DIM_HIDDEN, -1, -1, 0, IN_SPARSE, router},       \
        {"mlp.experts.{e}.gate_proj.weight",                                                       \
         ROLE_EXPERT_GATE,                                                                         \
         DIM_MOE,                                                                                  \
         DIM_HIDDEN,                                                                               \
         -1,                                                                                       \
         -1,                                                                                       \
         0,                                                                                        \
         IN_EACH,                                                                                  \
         gate},                                                                                    \
        {"mlp.experts.{e}.up_proj.weight",                                                         \
         ROLE_EXPERT_UP,                                                                           \
         DIM_MOE,                                                                                  \
         DIM_HIDDEN,                                                                               \
         -1,                                                                                       \
         -1,                                                                                       \
         0,                                                                                        \
         IN_EACH,                                                                                  \
         up},                                                                                      \
        {"mlp.experts.{e}.down_proj.weight",                                                       \
         ROLE_EXPERT_DOWN,                                                                         \
         DIM_HIDDEN,                                                                               \
         DIM_MOE,                                                                                  \
         -1,                                                                                       \
         -1,                                                                                       \
         0,                                                                                        \
         IN_EACH,                                                                                  \
         down},                                                                                    \
        {"mlp.experts.gate_up_proj",                                                               \
         ROLE_EXPERTS_GATE_UP,                                                                     \
         DIM_2MOE,                                                                                 \
         DIM_HIDDEN,                                                                               \
         -1,                                                                                       \
         -1,                                                                                       \
         0,                                                                                        \
         IN_FUSED,                                                                                 \
         NULL},                                                                                    \
    {                                                                                              \
        "mlp.experts.down_proj", ROLE_EXPERTS_DOWN, DIM_HIDDEN, DIM_MOE, -1, -1, 0, IN_FUSED, NULL \
    }
#define EXPERTS EXPERTS_AS(NULL, NULL, NULL, NULL)

/* Llama, and those that differ from it in numbers alone */
static const struct model_tensor llama_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),         Q_K_V, O_PROJ,
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN), MLP,
};

static const struct model_tensor qwen3_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    Q_K_V,
    O_PROJ,
    VECTOR("self_attn.q_norm", ROLE_Q_NORM, DIM_HEAD),
    VECTOR("self_attn.k_norm", ROLE_K_NORM, DIM_HEAD),
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN),
    MLP,
};

static const struct model_tensor phi3_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    LINEAR("self_attn.qkv_proj", ROLE_QKV, DIM_QKV, DIM_HIDDEN, QKV),
    O_PROJ,
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN),
    LINEAR("mlp.gate_up_proj", ROLE_GATE_UP, DIM_2FF, DIM_HIDDEN, GATE_UP),
    LINEAR("mlp.down_proj", ROLE_DOWN, DIM_HIDDEN, DIM_FF, DOWN),
};

/* Norms of what the branches add, none before them; q and k are normalized as whole rows. */
static const struct model_tensor olmo2_tensors[] = {
    Q_K_V,
    O_PROJ,
    VECTOR("self_attn.q_norm", ROLE_Q_NORM, DIM_Q),
    VECTOR("self_attn.k_norm", ROLE_K_NORM, DIM_KV),
    VECTOR("post_attention_layernorm", ROLE_ATTN_POST_NORM, DIM_HIDDEN),
    MLP,
    VECTOR("post_feedforward_layernorm", ROLE_MLP_POST_NORM, DIM_HIDDEN),
};

/* Norms before and after both branches. */
#define GEMMA_NORMS                                                                                \
    VECTOR("post_attention_layernorm", ROLE_ATTN_POST_NORM, DIM_HIDDEN),                           \
        VECTOR("pre_feedforward_layernorm", ROLE_MLP_NORM, DIM_HIDDEN)

static const struct model_tensor gemma2_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    Q_K_V,
    O_PROJ,
    GEMMA_NORMS,
    MLP,
    VECTOR("post_feedforward_layernorm", ROLE_MLP_POST_NORM, DIM_HIDDEN),
};

static const struct model_tensor gemma3_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    Q_K_V,
    O_PROJ,
    VECTOR("self_attn.q_norm", ROLE_Q_NORM, DIM_HEAD),
    VECTOR("self_attn.k_norm", ROLE_K_NORM, DIM_HEAD),
    GEMMA_NORMS,
    MLP,
    VECTOR("post_feedforward_layernorm", ROLE_MLP_POST_NORM, DIM_HIDDEN),
};

static const struct model_tensor qwen3_moe_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    Q_K_V,
    O_PROJ,
    VECTOR("self_attn.q_norm", ROLE_Q_NORM, DIM_HEAD),
    VECTOR("self_attn.k_norm", ROLE_K_NORM, DIM_HEAD),
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN),
    DENSE_MLP,
    EXPERTS,
};

static const struct model_tensor mixtral_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    Q_K_V,
    O_PROJ,
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN),
    EXPERTS_AS("block_sparse_moe.gate.weight", "block_sparse_moe.experts.{e}.w1.weight",
               "block_sparse_moe.experts.{e}.w3.weight", "block_sparse_moe.experts.{e}.w2.weight"),
};

/* Llama's norms, and q and k normalized as whole rows. */
static const struct model_tensor olmoe_tensors[] = {
    VECTOR("input_layernorm", ROLE_ATTN_NORM, DIM_HIDDEN),
    Q_K_V,
    O_PROJ,
    VECTOR("self_attn.q_norm", ROLE_Q_NORM, DIM_Q),
    VECTOR("self_attn.k_norm", ROLE_K_NORM, DIM_KV),
    VECTOR("post_attention_layernorm", ROLE_MLP_NORM, DIM_HIDDEN),
    EXPERTS,
};

#define TYPES(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }
#define TENSORS(table) .tensors = (table), .tensor_count = AQ_COUNT(table)
#define NO_WRAPPERS                                                                                \
    (const char *const[])                                                                          \
    {                                                                                              \
        NULL                                                                                       \
    }

static const struct model_family families[] = {
    {.name = "qwen3",
     .model_types = TYPES("qwen3", "qwen3_vl_text"),
     .wrappers = TYPES("qwen3_vl"),
     TENSORS(qwen3_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Qwen3ForCausalLM",
     .text_type = "qwen3",
     .qk_norm = QK_NORM_HEAD,
     .head_dim = 128},
    {.name = "llama",
     .model_types = TYPES("llama"),
     .wrappers = NO_WRAPPERS,
     TENSORS(llama_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "LlamaForCausalLM",
     .text_type = "llama",
     .reads = READS_ATTENTION_BIAS | READS_MLP_BIAS},
    {.name = "qwen2",
     .model_types = TYPES("qwen2", "qwen2_vl_text", "qwen2_5_vl_text"),
     .wrappers = TYPES("qwen2_vl", "qwen2_5_vl"),
     TENSORS(llama_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Qwen2ForCausalLM",
     .text_type = "qwen2",
     .bias = BIAS_QKV,
     .windows = WINDOWS_QWEN2,
     .window = 4096},
    {.name = "mistral",
     .model_types = TYPES("mistral"),
     .wrappers = NO_WRAPPERS,
     TENSORS(llama_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "MistralForCausalLM",
     .text_type = "mistral",
     .windows = WINDOWS_ALL,
     .window = 4096},
    {.name = "smollm3",
     .model_types = TYPES("smollm3"),
     .wrappers = NO_WRAPPERS,
     TENSORS(llama_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "SmolLM3ForCausalLM",
     .text_type = "smollm3",
     .reads = READS_ATTENTION_BIAS | READS_MLP_BIAS | READS_NO_ROPE,
     .tied = true},
    {.name = "phi3",
     .model_types = TYPES("phi3"),
     .wrappers = NO_WRAPPERS,
     TENSORS(phi3_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Phi3ForCausalLM",
     .text_type = "phi3",
     .reads = READS_PARTIAL_ROTARY,
     .windows = WINDOWS_ALL,
     .eps = 1e-5},
    {.name = "granite",
     .model_types = TYPES("granite"),
     .wrappers = NO_WRAPPERS,
     TENSORS(llama_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "GraniteForCausalLM",
     .text_type = "granite",
     .reads = READS_ATTENTION_BIAS | READS_MLP_BIAS | READS_MULTIPLIERS},
    {.name = "olmo2",
     .model_types = TYPES("olmo2"),
     .wrappers = NO_WRAPPERS,
     TENSORS(olmo2_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Olmo2ForCausalLM",
     .text_type = "olmo2",
     .norm_place = NORM_POST,
     .norm_round_once = true,
     .qk_norm = QK_NORM_ROW,
     .reads = READS_ATTENTION_BIAS,
     .eps = 1e-5},
    {.name = "olmo3",
     .model_types = TYPES("olmo3"),
     .wrappers = NO_WRAPPERS,
     TENSORS(olmo2_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Olmo3ForCausalLM",
     .text_type = "olmo3",
     .norm_place = NORM_POST,
     .norm_round_once = true,
     .qk_norm = QK_NORM_ROW,
     .reads = READS_ATTENTION_BIAS | READS_TWO_ROPES,
     .windows = WINDOWS_EVERY,
     .window_period = 4,
     .window = 4096,
     .eps = 1e-5,
     .theta = {5e5, 5e5}},
    {.name = "gemma2",
     .model_types = TYPES("gemma2"),
     .wrappers = NO_WRAPPERS,
     TENSORS(gemma2_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Gemma2ForCausalLM",
     .text_type = "gemma2",
     .norm_place = NORM_BOTH,
     .norm_one_plus = true,
     .norm_round_once = true,
     .act = ACT_GELU_TANH,
     .embed_root = true,
     .reads = READS_ATTENTION_BIAS | READS_ATTN_CAP | READS_LOGIT_CAP | READS_QUERY_SCALAR,
     .windows = WINDOWS_EVERY,
     .window_period = 2,
     .tied = true,
     .head_dim = 256,
     .window = 4096,
     .attn_cap = 50,
     .logit_cap = 30},
    {.name = "gemma3",
     .model_types = TYPES("gemma3_text"),
     .wrappers = TYPES("gemma3"),
     TENSORS(gemma3_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .architecture = "Gemma3ForCausalLM",
     .text_type = "gemma3_text",
     .norm_place = NORM_BOTH,
     .norm_one_plus = true,
     .norm_round_once = true,
     .qk_norm = QK_NORM_HEAD,
     .act = ACT_GELU_TANH,
     .embed_root = true,
     .reads = READS_ATTENTION_BIAS | READS_LOGIT_CAP | READS_QUERY_SCALAR | READS_TWO_ROPES |
              READS_LOCAL_THETA,
     .windows = WINDOWS_EVERY,
     .window_period = 6,
     .tied = true,
     .head_dim = 256,
     .window = 4096,
     .theta = {1e6, 1e4}},
    {.name = "qwen3_moe",
     .model_types = TYPES("qwen3_moe"),
     .wrappers = NO_WRAPPERS,
     TENSORS(qwen3_moe_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .sparse_groups = sparse_groups,
     .architecture = "Qwen3MoeForCausalLM",
     .text_type = "qwen3_moe",
     .qk_norm = QK_NORM_HEAD,
     .reads = READS_EXPERTS | READS_SPARSE | READS_NORM_TOPK},
    /* The text part of Qwen3-VL-MoE always makes the weights of a token add up to 1. */
    {.name = "qwen3_vl_moe",
     .model_types = TYPES("qwen3_vl_moe_text"),
     .wrappers = TYPES("qwen3_vl_moe"),
     TENSORS(qwen3_moe_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .sparse_groups = sparse_groups,
     .architecture = "Qwen3MoeForCausalLM",
     .text_type = "qwen3_moe",
     .qk_norm = QK_NORM_HEAD,
     .reads = READS_EXPERTS | READS_SPARSE,
     .tied = true},
    {.name = "mixtral",
     .model_types = TYPES("mixtral"),
     .wrappers = NO_WRAPPERS,
     TENSORS(mixtral_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .sparse_groups = sparse_groups,
     .architecture = "MixtralForCausalLM",
     .text_type = "mixtral",
     .reads = READS_EXPERTS,
     .windows = WINDOWS_ALL,
     .eps = 1e-5},
    {.name = "olmoe",
     .model_types = TYPES("olmoe"),
     .wrappers = NO_WRAPPERS,
     TENSORS(olmoe_tensors),
     .inputs = dense_inputs,
     .groups = dense_inputs,
     .sparse_groups = sparse_groups,
     .architecture = "OlmoeForCausalLM",
     .text_type = "olmoe",
     .qk_norm = QK_NORM_ROW,
     .reads = READS_ATTENTION_BIAS | READS_EXPERTS | READS_NORM_TOPK,
     .eps = 1e-5},
};

static const struct model_tensor embedding = {
    .name = "embed_tokens.weight", MODEL_ROLES, DIM_VOCAB, DIM_HIDDEN, -1, -1};
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
    case DIM_QKV:
        return model_dim_size(a, DIM_Q) + 2 * model_dim_size(a, DIM_KV);
    case DIM_2FF:
        return 2 * a->intermediate_size;
    case DIM_HEAD:
        return a->head_dim;
    case DIM_VOCAB:
        return a->vocab_size;
    case DIM_EXPERTS:
        return a->experts;
    case DIM_MOE:
        return a->moe_intermediate_size;
    case DIM_2MOE:
        return 2 * a->moe_intermediate_size;
    default:
        return 1;
    }
}

/* ---- one layer ---- */

bool model_is_expert(const struct model_tensor *t)
{
    return t->where == IN_EACH || t->where == IN_FUSED;
}

/* A bias is there in models that have biases of its kind; the rest depends on the layer. */
static bool has_tensor(const struct lm_arch *a, const struct model_tensor *t, int64_t layer)
{
    bool sparse = arch_sparse(a, layer), fused = arch_layout(a, layer) != EXPERTS_EACH;
    switch (t->where) {
    case IN_DENSE:
        return !sparse;
    case IN_SPARSE:
        return sparse;
    case IN_EACH:
        return sparse && !fused;
    case IN_FUSED:
        return sparse && fused;
    default:
        return !t->bias || (a->bias & t->bias);
    }
}

static void add_linear(struct model_layer *l, const struct lm_arch *a, int tensor)
{
    const struct model_tensor *t = l->tensors[tensor];
    assert(l->linear_count < MODEL_LINEARS);
    struct model_linear *n = &l->linears[l->linear_count];
    *n = (struct model_linear){.role = t->role,
                               .tensor = tensor,
                               .input = t->input,
                               .group = t->group,
                               .bias = -1,
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

/* The last group of the family's list is that of the experts; split, it becomes two. */
static void add_experts(struct model_layer *l, const struct lm_arch *a)
{
    static const char *const half_kinds[EXPERT_HALVES] = {"experts.gate_up", "experts.down"};
    l->experts = (int)a->experts;
    l->experts_group = l->group_count - 1;
    l->experts_groups = a->moe_split ? EXPERT_HALVES : 1;
    l->group_count = l->experts_group + l->experts_groups;
    assert(l->group_count <= MODEL_GROUPS);
    l->experts_input[EXPERT_GATE_UP] = GATE_UP;
    l->experts_input[EXPERT_DOWN] = DOWN;
    for (int h = EXPERT_HALVES - 1; h >= 0; h--) {
        int g = l->experts_group + (a->moe_split ? h : 0);
        l->groups[g].first = l->linear_count;
        l->groups[g].input = l->experts_input[h];
        l->groups[g].half[h] = true;
        if (a->moe_split)
            l->groups[g].kind = half_kinds[h];
    }
    l->inputs[GATE_UP].cols = a->hidden_size;
    l->inputs[DOWN].cols = a->moe_intermediate_size;
    l->weights += 3 * a->experts * a->moe_intermediate_size * a->hidden_size;
}

void model_layer_describe(struct model_layer *out, const struct lm_arch *a, int64_t layer)
{
    const struct model_family *f = a->family;
    bool sparse = arch_sparse(a, layer);
    const char *const *groups = sparse ? f->sparse_groups : f->groups;
    *out = (struct model_layer){.experts_group = -1, .experts_input = {-1, -1}};
    for (; f->inputs[out->input_count]; out->input_count++)
        out->inputs[out->input_count].name = f->inputs[out->input_count];
    for (; groups[out->group_count]; out->group_count++)
        out->groups[out->group_count].kind = groups[out->group_count];
    for (int r = 0; r < MODEL_ROLES; r++)
        out->tensor_of[r] = out->linear_of[r] = -1;
    for (int i = 0; i < f->tensor_count; i++) {
        const struct model_tensor *t = &f->tensors[i];
        if (!has_tensor(a, t, layer) || model_is_expert(t))
            continue;
        assert(out->tensor_count < MODEL_TENSORS);
        int at = out->tensor_count++;
        out->tensors[at] = t;
        if (t->bias) {
            out->linears[out->linear_of[t->role]].bias = at;
            continue;
        }
        out->tensor_of[t->role] = at;
        if (t->group >= 0)
            add_linear(out, a, at);
    }
    if (sparse)
        add_experts(out, a);
}

/* ---- the whole model ---- */

struct place_list {
    struct model_place *all;
    size_t count, room;
};

static void add_place(struct place_list *l, int64_t layer, const struct model_tensor *t, int expert)
{
    if (l->count == l->room) {
        l->room = 2 * l->room + 64;
        l->all = xreallocarray(l->all, l->room, sizeof *l->all);
    }
    l->all[l->count++] = (struct model_place){layer, t, expert};
}

static void add_layer(struct place_list *l, const struct lm_arch *a, int64_t layer)
{
    const struct model_family *f = a->family;
    int each = 0; /* the first tensor that each expert has: they come expert by expert */
    for (int i = 0; i < f->tensor_count; i++) {
        if (f->tensors[i].where != IN_EACH && has_tensor(a, &f->tensors[i], layer))
            add_place(l, layer, &f->tensors[i], -1);
        else if (f->tensors[i].where == IN_EACH && !each)
            each = i;
    }
    if (!each || !has_tensor(a, &f->tensors[each], layer))
        return;
    for (int e = 0; e < a->experts; e++)
        for (int i = each; i < f->tensor_count && f->tensors[i].where == IN_EACH; i++)
            add_place(l, layer, &f->tensors[i], e);
}

struct model_place *model_layout(const struct lm_arch *a, size_t *count)
{
    struct place_list l = {0};
    add_place(&l, -1, &embedding, -1);
    for (int64_t layer = 0; layer < a->num_hidden_layers; layer++)
        add_layer(&l, a, layer);
    add_place(&l, -1, &last_norm, -1);
    if (!a->tie_word_embeddings)
        add_place(&l, -1, &head, -1);
    *count = l.count;
    return l.all;
}

/* "{e}" becomes the number of the expert. */
static void add_name(struct aq_buf *out, const struct model_place *p, const char *name)
{
    const char *e = p->expert >= 0 ? strstr(name, "{e}") : NULL;
    aq_buf_reset(out);
    if (p->layer >= 0)
        aq_buf_addf(out, "layers.%" PRId64 ".", p->layer);
    if (e)
        aq_buf_addf(out, "%.*s%d%s", (int)(e - name), name, p->expert, e + strlen("{e}"));
    else
        aq_buf_adds(out, name);
}

void model_place_source(const struct model_place *p, struct aq_buf *name)
{
    add_name(name, p, p->tensor->source ? p->tensor->source : p->tensor->name);
}

void model_place_describe(const struct model_place *p, const struct lm_arch *a, struct aq_buf *name,
                          int *rank, uint64_t shape[MODEL_RANK])
{
    uint64_t out = (uint64_t)model_dim_size(a, p->tensor->out);
    uint64_t in = (uint64_t)model_dim_size(a, p->tensor->in);
    add_name(name, p, p->tensor->name);
    if (p->tensor->where == IN_FUSED) {
        bool turned = arch_layout(a, p->layer) == EXPERTS_TRANSPOSED;
        *rank = 3;
        shape[0] = (uint64_t)a->experts;
        shape[1] = turned ? in : out;
        shape[2] = turned ? out : in;
        return;
    }
    *rank = p->tensor->in == DIM_NONE ? 1 : 2;
    shape[0] = out;
    shape[1] = in;
    shape[2] = 1;
}

const char *model_role_name(const struct model_family *f, enum model_role role)
{
    int i = 0;
    while (i < f->tensor_count && f->tensors[i].role != role)
        i++;
    assert(i < f->tensor_count);
    return f->tensors[i].name;
}

const struct model_tensor *model_expert_tensor(const struct lm_arch *a, enum model_role role)
{
    for (int i = 0; i < a->family->tensor_count; i++)
        if (a->family->tensors[i].role == role)
            return &a->family->tensors[i];
    return NULL;
}
