#include "export/notes.h"

#include "base/mem.h"
#include "export/targets.h"

#include <string.h>

static const char ct_words[] =
    "## Loading\n\n"
    "    vllm serve DIR\n"
    "    python -m sglang.launch_server --model-path DIR\n\n"
    "transformers, with the package compressed-tensors, needs bfloat16, whatever is computed "
    "later:\n\n"
    "    AutoModelForCausalLM.from_pretrained(\"DIR\", dtype=torch.bfloat16)\n\n"
    "(for a model with a vision tower: the class that `architectures` in config.json names).\n"
    "`CompressedTensorsConfig(dequantize=True)` fails on mixed checkpoints; the default loads.\n";

static const char modelopt_words[] = "## Loading\n\n"
                                     "    trtllm-serve DIR\n"
                                     "    vllm serve DIR\n"
                                     "    python -m sglang.launch_server --model-path DIR "
                                     "--quantization modelopt\n";

void notes_readme(const struct export_plan *p, const char *name, struct aq_buf *out)
{
    bool ct = p->layout == LAYOUT_CT;
    aq_buf_addf(out, "# %s\n\n", name);
    aq_buf_addf(out,
                "A quantized checkpoint in the layout of %s, made by aq-export. Each layer has its "
                "own format, chosen by\nmeasured sensitivity. CHECK.md lists them, with what %s "
                "%s%s makes of each.\n\n",
                ct ? "compressed-tensors" : "ModelOpt", engine_name(p->engine),
                engine_version(p->engine),
                engine_needs_sm(p->engine) ? " on the GPU named there" : "");
    aq_buf_adds(out, ct ? ct_words : modelopt_words);
    aq_buf_adds(out, "\n## Checking\n\n"
                     "An engine logs the scheme of each layer as it loads. CHECK.md says which to "
                     "expect: a layer that is\nmissing there was left as it was in the source.\n");
}

static void check_head(const struct export_plan *p, struct aq_buf *out)
{
    aq_buf_addf(out, "# What runs where\n\nEngine: %s %s", engine_name(p->engine),
                engine_version(p->engine));
    if (engine_needs_sm(p->engine))
        aq_buf_addf(out, ", compute capability %d.%d", p->target.sm / 10, p->target.sm % 10);
    if (p->target.tp > 1)
        aq_buf_addf(out, ", %d-way tensor parallelism", p->target.tp);
    aq_buf_addf(out, ". Layout: %s.\n\n", layout_names[p->layout]);
    aq_buf_adds(
        out,
        "exact: computed as it was scored. near: the same with other roundings. other: another "
        "computation than the\none that was scored.\n\n"
        "| layer | modules | weights | activations | scheme | verdict |\n"
        "| --- | --- | --- | --- | --- | --- |\n");
}

static void check_sharing(const struct sharing *s, struct aq_buf *out)
{
    if (!s->groups)
        return;
    aq_buf_addf(out,
                "\n%d fused NVFP4 layers have all members under one second-level scale. Ranges of "
                "members differ by up to a factor of\n%.2f; the mean squared error of the weights "
                "is %.4f times that under a scale for each (%d rows of each weight).\n",
                s->groups, s->widest, sharing_ratio(s), SHARING_ROWS);
}

static void check_scales(const struct export_plan *p, struct aq_buf *out)
{
    bool any = false;
    for (size_t i = 0; i < p->count; i++) {
        const struct export_group *g = &p->groups[i];
        if (!g->scale)
            continue;
        if (!any)
            aq_buf_adds(out, "\nCalibrated scales of inputs: columns of weights are multiplied by "
                             "them, and what divides the input is\n\n"
                             "| layer | group | divided by |\n| --- | --- | --- |\n");
        any = true;
        aq_buf_addf(out, "| %lld | %s | %s%s |\n", (long long)g->model->layer, g->model->kind,
                    g->norm ? "the norm in front: " : "pre_quant_scale, beside the weights",
                    g->norm ? g->norm : "");
    }
}

void notes_check(const struct export_plan *p, const struct sharing *sharing, struct aq_buf *out)
{
    check_head(p, out);
    for (size_t i = 0; i < p->count; i++) {
        const struct export_group *g = &p->groups[i];
        aq_buf_addf(out, "| %lld | ", (long long)g->model->layer);
        for (int k = 0; k < g->model->module_count; k++) {
            const char *name = g->model->modules[k].name;
            aq_buf_addf(out, "%s%s", k ? ", " : "", name + targets_parent(name));
        }
        aq_buf_addf(out, " | %s | %s | %s | %s%s%s |\n", g->weight, g->act,
                    g->verdict.quantized ? g->verdict.scheme.name : "as in the source",
                    verdict_names[g->verdict.verdict], g->verdict.reason[0] ? ": " : "",
                    g->verdict.reason);
    }
    check_sharing(sharing, out);
    check_scales(p, out);
}
