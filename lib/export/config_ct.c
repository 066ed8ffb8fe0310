/* compressed-tensors: one config group for each distinct scheme. */
#include "base/mem.h"
#include "export/config.h"
#include "export/targets.h"

#include <stdlib.h>
#include <string.h>

/* The version of compressed-tensors whose words these are. */
static const char version[] = "0.20.1";

struct json *config_read(const struct export_plan *p, struct aq_err *err)
{
    char *path = aq_path_join(p->lm.root, "config.json");
    struct json *v = json_read(path, err);
    struct jref root = jref_root(v, path);
    if (v && jref_is(&root, JSON_OBJECT, err) < 0) {
        json_free(v);
        v = NULL;
    } else if (v && json_find(v, "quantization_config")) {
        aq_err_set(err, AQ_EINPUT, "%s: the checkpoint is quantized already", aq_show(path));
        json_free(v);
        v = NULL;
    }
    free(path);
    return v;
}

void config_finish(const struct export_plan *p, struct json *config, struct json *quantization)
{
    enum st_dtype t = p->lm.tensors[0].dtype;
    if (!json_find(config, "dtype") && !json_find(config, "torch_dtype"))
        json_add_string(config, "dtype", t == ST_F16 ? "float16" : "bfloat16");
    json_add(config, "quantization_config", quantization);
}

const char *config_ct_format(const struct scheme *s)
{
    switch (s->codes) {
    case CODES_INT8:
        return "int-quantized";
    case CODES_PACKED:
        return "pack-quantized";
    case CODES_NVFP4:
        return "nvfp4-pack-quantized";
    case CODES_MXFP4:
        return "mxfp4-pack-quantized";
    case CODES_MXFP8:
        return "mxfp8-quantized";
    default:
        return "float-quantized";
    }
}

struct args {
    int bits;
    bool is_float;
    const char *strategy;
    int group;           /* 0: null */
    const char *dynamic; /* "local", or NULL for `is_dynamic` */
    bool is_dynamic, tiles;
    const char *scale_dtype; /* NULL: not said */
};

static struct json *args_json(const struct args *a)
{
    struct json *v = json_new_object();
    json_add_int(v, "num_bits", a->bits);
    json_add_string(v, "type", a->is_float ? "float" : "int");
    json_add_bool(v, "symmetric", true);
    json_add_string(v, "strategy", a->strategy);
    if (a->group)
        json_add_int(v, "group_size", a->group);
    else
        json_add_null(v, "group_size");
    if (a->tiles) {
        struct json *tile = json_add_array(v, "block_structure");
        json_push(tile, json_new_int(128));
        json_push(tile, json_new_int(128));
    }
    if (a->dynamic)
        json_add_string(v, "dynamic", a->dynamic);
    else
        json_add_bool(v, "dynamic", a->is_dynamic);
    if (a->scale_dtype) {
        json_add_string(v, "scale_dtype", a->scale_dtype);
        json_add_string(v, "zp_dtype", a->scale_dtype);
    }
    return v;
}

static const char e4m3[] = "torch.float8_e4m3fn", e8m0[] = "torch.uint8";

static struct json *weights_json(const struct scheme *s)
{
    struct args a = {
        .bits = s->bits, .strategy = s->group ? "group" : "channel", .group = s->group};
    a.is_float = s->codes != CODES_INT8 && s->codes != CODES_PACKED;
    switch (s->codes) {
    case CODES_FP8_BLOCK:
        a.strategy = "block";
        a.tiles = true;
        break;
    case CODES_NVFP4:
        a.strategy = "tensor_group";
        a.group = 16;
        a.scale_dtype = e4m3;
        break;
    case CODES_MXFP4:
    case CODES_MXFP8:
        a.strategy = "group";
        a.group = 32;
        a.scale_dtype = e8m0;
        break;
    default:
        break;
    }
    return args_json(&a);
}

static struct json *acts_json(enum scheme_act act)
{
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_INT8_TENSOR:
    case ACT_FP8_TENSOR:
        return args_json(
            &(struct args){.bits = 8, .is_float = act == ACT_FP8_TENSOR, .strategy = "tensor"});
    case ACT_INT8_TOKEN:
    case ACT_INT4_TOKEN:
    case ACT_FP8_TOKEN:
        return args_json(&(struct args){.bits = act == ACT_INT4_TOKEN ? 4 : 8,
                                        .is_float = act == ACT_FP8_TOKEN,
                                        .strategy = "token",
                                        .is_dynamic = true});
    case ACT_FP8_BLOCK:
        return args_json(&(struct args){
            .bits = 8, .is_float = true, .strategy = "group", .group = 128, .is_dynamic = true});
    case ACT_NVFP4:
        return args_json(&(struct args){.bits = 4,
                                        .is_float = true,
                                        .strategy = "tensor_group",
                                        .group = 16,
                                        .dynamic = "local",
                                        .scale_dtype = e4m3});
    case ACT_MXFP4:
    case ACT_MXFP8:
        return args_json(&(struct args){.bits = act == ACT_MXFP4 ? 4 : 8,
                                        .is_float = true,
                                        .strategy = "group",
                                        .group = 32,
                                        .is_dynamic = true,
                                        .scale_dtype = e8m0});
    }
    return json_new_null();
}

struct json *config_ct_groups(const struct export_plan *p, const int *number, int count,
                              const size_t *first)
{
    struct json *groups = json_new_object();
    for (int i = 0; i < count; i++) {
        const struct scheme *s = &p->groups[first[i]].verdict.scheme;
        char *name = xasprintf("group_%d", i);
        struct json *g = json_add_object(groups, name);
        json_add(g, "targets", targets_of(p, number, i));
        json_add_string(g, "format", config_ct_format(s));
        json_add(g, "weights", weights_json(s));
        json_add(g, "input_activations", acts_json(s->act));
        json_add_null(g, "output_activations");
        free(name);
    }
    return groups;
}

static const char *whole_format(const struct export_plan *p, int count, const size_t *first)
{
    return count == 1 ? config_ct_format(&p->groups[first[0]].verdict.scheme) : "mixed-precision";
}

struct json *config_ct(const struct export_plan *p)
{
    int *number = xcalloc(p->count + 1, sizeof *number);
    size_t *first = xcalloc(p->count + 1, sizeof *first);
    int count = targets_number(p, number, first);
    struct json *v = json_new_object();
    json_add_string(v, "quant_method", "compressed-tensors");
    json_add_string(v, "format", whole_format(p, count, first));
    json_add_string(v, "quantization_status", "compressed");
    json_add_string(v, "version", version);
    json_add_null(v, "global_compression_ratio");
    json_add_null(v, "kv_cache_scheme");
    json_add_object(v, "sparsity_config");
    json_add_object(v, "transform_config");
    json_add(v, "ignore", targets_ignored(p, number));
    json_add(v, "config_groups", config_ct_groups(p, number, count, first));
    free(number);
    free(first);
    return v;
}
