/* aq-overlay: the effective quantization configuration of one cell, and whether it can run. */
#include "base/buf.h"
#include "base/file.h"
#include "base/msg.h"
#include "base/opt.h"
#include "conf/cells.h"
#include "conf/search.h"
#include "io/json.h"
#include "quant/overlay.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *format, *granularity, *fp4_block, *config_dir, *cells, *engine, *served_pairs;
    bool strict, own_scales, servable;
} o;

static const char *const blocks[] = {"honour", "16", NULL};

static const struct aq_opt options[] = {
    {"format", 0, AQ_OPT_TEXT, &o.format, "NAME", "base format: conf/format/NAME.yaml", NULL, 0, 0},
    {"granularity", 0, AQ_OPT_TEXT, &o.granularity, "NAME|FILE",
     "granularity to lay over it (default: default)", NULL, 0, 0},
    {"fp4-block", 0, AQ_OPT_CHOICE, &o.fp4_block, "RULE",
     "honour the block length of NVFP4 (default), or read\nit as 16 like ModelOpt's kernels",
     blocks, 0, 0},
    {"own-scales", 0, AQ_OPT_FLAG, &o.own_scales, NULL,
     "each NVFP4 weight has a second level of its own, as in\nModelOpt, instead of one for its "
     "group",
     NULL, 0, 0},
    {"strict", 0, AQ_OPT_FLAG, &o.strict, NULL, "exit 3 for a combination that cannot run", NULL, 0,
     0},
    {"cells", 0, AQ_OPT_TEXT, &o.cells, "DIR",
     "for the runs that aq-resolve -m --dir DIR left: write each\nquant.json, cells.json and "
     "cells.mk",
     NULL, 0, 0},
    {"engine", 0, AQ_OPT_TEXT, &o.engine, "NAME[:smNN][:tpN]",
     "with --cells: the engine whose verdict is written beside\neach cell (default: vllm)", NULL, 0,
     0},
    {"servable", 0, AQ_OPT_FLAG, &o.servable, NULL,
     "with --cells: a cell that the engine does not serve as it is\nscored is unsupported", NULL, 0,
     0},
    {"served-pairs", 0, AQ_OPT_TEXT, &o.served_pairs, "GRAN,GRAN",
     "print the quant pairs that the engine serves as they are\nscored with one of these "
     "granularities",
     NULL, 0, 0},
    {"config-dir", 0, AQ_OPT_TEXT, &o.config_dir, "DIR", "the configuration tree", NULL, 0, 0},
    AQ_OPT_END,
};

static int check_options(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (o.served_pairs && (o.cells || o.format || cl->count || o.strict || o.servable))
        return aq_err_set(err, AQ_EUSAGE, "--served-pairs goes with --engine and -o alone");
    if ((o.engine && !o.cells && !o.served_pairs) || (o.servable && !o.cells))
        return aq_err_set(err, AQ_EUSAGE, "%s needs --cells",
                          o.servable ? "--servable" : "--engine");
    if (o.cells && (o.format || cl->count || cl->output || o.strict))
        return aq_err_set(err, AQ_EUSAGE, "--cells excludes a run, --format, --strict and -o");
    if (o.format && cl->count)
        return aq_err_set(err, AQ_EUSAGE, "a run and --format exclude one another");
    if (!o.format && o.granularity)
        return aq_err_set(err, AQ_EUSAGE, "--granularity needs --format");
    if (!o.format && o.own_scales)
        return aq_err_set(err, AQ_EUSAGE,
                          "--own-scales needs --format: a run has autoquant.shared_scale");
    if (!o.format && o.fp4_block)
        return aq_err_set(err, AQ_EUSAGE,
                          "--fp4-block needs --format: a run has autoquant.fp4_block");
    return 0;
}

static struct json *make_quant(struct format_shelf *formats, const char *operand, struct aq_err *err)
{
    if (o.format) {
        bool always_16 = o.fp4_block && strcmp(o.fp4_block, "16") == 0;
        return overlay_quant_of_names(formats, o.format, o.granularity ? o.granularity : "default",
                                      always_16, o.own_scales, err);
    }
    const char *path = operand ? operand : "-";
    struct json *run = json_read(path, err), *quant = NULL;
    if (run) {
        struct jref root = jref_root(run, path);
        quant = overlay_quant_of_run(&root, formats, err);
    }
    json_free(run);
    return quant;
}

/* --strict turns the verdict into an error; the product is not written then. */
static int check_supported(const struct json *quant, struct aq_err *err)
{
    if (json_bool(json_get(quant, "supported")))
        return 0;
    return aq_err_set(err, AQ_EINPUT, "%s with granularity %s is not supported: %s",
                      aq_show(json_string(json_get(quant, "base_format_name"))),
                      aq_show(json_string(json_get(json_get(quant, "quant_granularity"), "name"))),
                      json_string(json_get(quant, "reason")));
}

static int print_served(const char *conf_dir, const char *output, struct aq_err *err)
{
    struct aq_buf names = AQ_BUF_INIT;
    int r = cells_served_pairs(conf_dir, o.engine ? o.engine : "vllm", o.served_pairs, &names, err);
    if (r == 0)
        r = aq_write_file(output, aq_buf_str(&names), names.len, err);
    aq_buf_release(&names);
    return r;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (check_options(cl, err) < 0)
        return -1;
    char *conf_dir = conf_find(o.config_dir, err);
    if (!conf_dir)
        return -1;
    if (o.cells || o.served_pairs) {
        const struct cells_request q = {.dir = o.cells,
                                        .conf_dir = conf_dir,
                                        .engine = o.engine ? o.engine : "vllm",
                                        .servable = o.servable};
        int result = o.cells ? cells_write(&q, err) : print_served(conf_dir, cl->output, err);
        free(conf_dir);
        return result;
    }
    struct format_shelf formats = {.conf_dir = conf_dir};
    struct json *quant = make_quant(&formats, cl->args[0], err);
    int bad = !quant || (o.strict && check_supported(quant, err) < 0) ||
              json_write_file(cl->output, quant, err) < 0;
    if (!bad)
        overlay_warn(quant);
    json_free(quant);
    format_shelf_release(&formats);
    free(conf_dir);
    return bad ? -1 : 0;
}

static const char *const schemas[] = {QUANT_SCHEMA, CELLS_SCHEMA, NULL};

static const struct aq_tool tool = {
    .name = "aq-overlay",
    .summary = "Shows the effective quantization configuration of a run: the base format with\n"
               "the granularity laid over it, what it computes, its bits, and whether it can\n"
               "run.",
    .usage = "aq-overlay [--strict] [RUN.json]\n"
             "aq-overlay [--strict] --format NAME [--granularity NAME|FILE] [--fp4-block RULE]\n"
             "           [--own-scales]\n"
             "aq-overlay --cells DIR [--engine NAME] [--servable]\n"
             "aq-overlay --served-pairs GRAN,GRAN [--engine NAME]",
    .example = "aq-overlay --format INT4_WEIGHT_INT8_ACT_CFG --granularity w_group64",
    .options = options,
    .max_args = 1,
    .run = run,
    .result_version = 4,
    .schemas = schemas,
};

int main(int argc, char **argv)
{
    return aq_tool_main(&tool, argc, argv);
}
