/* aq-export: the recipe of a manifest as a checkpoint that an engine loads, or as a recipe file. */
#include "base/err.h"
#include "base/file.h"
#include "base/msg.h"
#include "base/opt.h"
#include "conf/search.h"
#include "export/checkpoint.h"
#include "export/gguf_export.h"
#include "export/plan.h"
#include "export/recipe.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *format, *engine, *codes, *arch, *lm, *ranges, *solved, *config_dir;
    bool check, force;
    int64_t threads;
} o;

static const char *const formats[] = {
    "compressed-tensors", "modelopt",    "gguf",      "llm-compressor",
    "modelopt-cfg",       "llama-types", "autoround", NULL};
static const char *const codes[] = {"served", "keep", NULL};

static const struct aq_opt options[] = {
    {"format", 0, AQ_OPT_CHOICE, &o.format, "NAME",
     "what to write: compressed-tensors, modelopt or gguf; or a\n"
     "recipe alone, for a tool that quantizes by itself:\n"
     "llm-compressor, modelopt-cfg, llama-types or autoround\n"
     "(default: the engine's first layout)",
     formats, 0, 0},
    {"engine", 0, AQ_OPT_TEXT, &o.engine, "NAME[:smNN][:tpN]",
     "who is to load it: vllm, sglang, trtllm, llamacpp or\n"
     "transformers, on which compute capability (sm90) and with\n"
     "which tensor parallelism (tp1)",
     NULL, 0, 0},
    {"check", 0, AQ_OPT_FLAG, &o.check, NULL,
     "write nothing: print the verdict on each group, as JSON lines", NULL, 0, 0},
    {"force", 0, AQ_OPT_FLAG, &o.force, NULL,
     "write also what the engine computes in another way than scored", NULL, 0, 0},
    {"codes", 0, AQ_OPT_CHOICE, &o.codes, "RULE",
     "where the file rounds a scale: served chooses codes for the\n"
     "rounded one (default), keep leaves those that were scored",
     codes, 0, 0},
    {"arch", 0, AQ_OPT_TEXT, &o.arch, "NAME",
     "llama.cpp's name of the architecture, where several fit:\n"
     "qwen3 (default) or qwen3vl",
     NULL, 0, 0},
    {"lm", 0, AQ_OPT_TEXT, &o.lm, "FILE", "lm.json of the source checkpoint", NULL, 0, 0},
    {"ranges", 0, AQ_OPT_TEXT, &o.ranges, "FILE", "ranges.safetensors, for static activations",
     NULL, 0, 0},
    {"solved", 0, AQ_OPT_TEXT, &o.solved, "FILE",
     "solved.safetensors of aq-calib solve, for calibrated candidates", NULL, 0, 0},
    {"threads", 0, AQ_OPT_INT, &o.threads, "N", "default: one for each CPU", NULL, 1, 1024},
    {"config-dir", 0, AQ_OPT_TEXT, &o.config_dir, "DIR", "the configuration tree", NULL, 0, 0},
    AQ_OPT_END,
};

/* RECIPES: a checkpoint. */
static enum recipe_kind recipe_kind(void)
{
    int k = 0;
    while (k < RECIPES && (!o.format || strcmp(o.format, recipe_names[k]) != 0))
        k++;
    return (enum recipe_kind)k;
}

static int check_options(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (!o.lm)
        return aq_err_set(err, AQ_EUSAGE, "--lm is needed: lm.json of the source checkpoint");
    if (o.check || recipe_kind() < RECIPES)
        return 0;
    if (!cl->output)
        return aq_err_set(err, AQ_EUSAGE, "-o is needed: the directory or file to write");
    if (strcmp(cl->output, "-") == 0)
        return aq_err_set(err, AQ_EUSAGE, "a checkpoint cannot be written to standard output");
    return 0;
}

static void say_target(const struct export_plan *p)
{
    if (!o.engine)
        aq_note(0, "for %s: --engine names another", engine_name(p->engine));
    if (engine_needs_sm(p->engine) && !p->target.sm_given)
        aq_note(0, "for compute capability %d.%d: --engine %s:smNN names another",
                p->target.sm / 10, p->target.sm % 10, engine_name(p->engine));
}

static int check(const struct export_plan *p, const struct aq_cmdline *cl, struct aq_err *err)
{
    struct aq_buf lines = AQ_BUF_INIT;
    export_plan_lines(p, &lines);
    int r = aq_write_file(cl->output, lines.data, lines.len, err);
    aq_buf_release(&lines);
    return r < 0 ? -1 : export_plan_accept(p, true, err);
}

static int write_recipe(const struct export_plan *p, const struct aq_cmdline *cl,
                        struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    int r = recipe_text(p, recipe_kind(), &text, err);
    if (r == 0)
        r = aq_write_file(cl->output, text.data, text.len, err);
    if (r == 0 && recipe_kind() == RECIPE_LLAMA)
        aq_note(0, "llama-quantize --tensor-type-file %s MODEL-BF16.gguf OUT.gguf q8_0",
                cl->output ? aq_show(cl->output) : "FILE");
    aq_buf_release(&text);
    return r;
}

static int write_product(struct export_plan *p, const struct aq_cmdline *cl, struct aq_err *err)
{
    /* what a tool makes of a recipe without a layout here is that tool's own */
    bool judged = recipe_kind() == RECIPES || recipe_layout(recipe_kind()) != LAYOUTS;
    if (judged && export_plan_accept(p, false, err) < 0)
        return -1;
    if (recipe_kind() < RECIPES)
        return write_recipe(p, cl, err);
    return p->layout == LAYOUT_GGUF ? export_gguf(p, cl->output, err)
                                    : export_checkpoint(p, cl->output, err);
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (check_options(cl, err) < 0)
        return -1;
    struct export_request q = {.manifest = cl->count ? cl->args[0] : "-",
                               .lm = o.lm,
                               .ranges = o.ranges,
                               .solved = o.solved,
                               .engine = o.engine,
                               .arch = o.arch,
                               .keep_codes = o.codes && strcmp(o.codes, "keep") == 0,
                               .force = o.force,
                               .threads = (int)o.threads};
    q.layout_given = o.format && layout_parse(o.format, &q.layout);
    if (recipe_kind() < RECIPES && recipe_layout(recipe_kind()) != LAYOUTS) {
        q.layout = recipe_layout(recipe_kind());
        q.layout_given = true;
    }
    char *conf_dir = conf_find(o.config_dir, err);
    if (!conf_dir)
        return -1;
    q.conf_dir = conf_dir;
    struct export_plan p;
    int r = export_plan_open(&p, &q, err);
    if (r == 0) {
        say_target(&p);
        r = o.check ? check(&p, cl, err) : write_product(&p, cl, err);
    }
    export_plan_close(&p);
    free(conf_dir);
    return r;
}

static const struct aq_tool tool = {
    .name = "aq-export",
    .summary = "Writes the recipe of a manifest as a checkpoint that an engine loads.",
    .usage = "aq-export [--engine NAME[:smNN][:tpN]] [--format NAME] --lm LM.json\n"
             "          [--ranges F] [--solved F] [--force] -o DIR|FILE MANIFEST\n"
             "aq-export --check [--engine NAME[:smNN][:tpN]] [--format NAME] --lm LM.json MANIFEST",
    .details =
        "Each treatment of the recipe becomes a scheme of the layout, and the tables in "
        "conf/engine\n"
        "say what the engine makes of it: exact (as scored), near (with other roundings), other\n"
        "(another computation), wrong (garbage) or no (refused). A recipe with a no or a wrong is\n"
        "not written, one with an other only under --force. DIR must not exist; it appears when "
        "it\n"
        "is complete. GGUF types are Q8_0, Q4_0, MXFP4, NVFP4 and BF16: treatments are symmetric, "
        "so\n"
        "Q4_1, whose blocks have a least value too, is not written.",
    .example = "aq-export --check --engine vllm:sm90 --lm lm.json manifest.json",
    .options = options,
    .max_args = 1,
    .run = run,
    .result_version = 3,
};

int main(int argc, char **argv)
{
    return aq_tool_main(&tool, argc, argv);
}
