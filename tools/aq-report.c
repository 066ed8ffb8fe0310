/* aq-report: manifests as Markdown, JSON, TSV, pictures and one HTML page; sweeps; differences. */
#include "base/file.h"
#include "base/mem.h"
#include "base/opt.h"
#include "conf/search.h"
#include "report/chart.h"
#include "report/run.h"

#include <stdlib.h>

enum { RESULT_VERSION = 8 };

/*
 * The tree with the rules of engines; NULL where nobody asks for it (given: --config-dir) and there
 * is none.
 */
static int find_rules(char **out, const char *given, bool asked, struct aq_err *err)
{
    struct aq_err none = {0};
    asked = asked || given;
    *out = conf_find(given, asked ? err : &none);
    if (!*out)
        return asked ? -1 : 0;
    char *rules = aq_path_join(*out, "engine");
    if (!asked && !aq_is_directory(rules)) {
        free(*out);
        *out = NULL;
    }
    free(rules);
    return 0;
}

/* ---- one manifest ---- */

static struct {
    bool md, json, tsv, html;
    const char *svg, *all, *scheme, *engine, *config_dir;
    struct aq_names evals;
} o;

static const struct aq_opt options[] = {
    {"md", 0, AQ_OPT_FLAG, &o.md, NULL, "per-layer-sensitivity.md"},
    {"json", 0, AQ_OPT_FLAG, &o.json, NULL, "per-layer-sensitivity.json"},
    {"tsv", 0, AQ_OPT_FLAG, &o.tsv, NULL, "one row for each layer and candidate"},
    {"html", 0, AQ_OPT_FLAG, &o.html, NULL, "one self-contained page"},
    {"svg", 0, AQ_OPT_CHOICE, &o.svg, "PICTURE", "heatmap, bars, frontier, depth or strip",
     .choices = chart_names},
    {"all", 0, AQ_OPT_TEXT, &o.all, "DIR", "all of these into a directory"},
    {"scheme", 0, AQ_OPT_TEXT, &o.scheme, "NAME", "title instead of the manifest's scheme"},
    {"eval", 0, AQ_OPT_LIST, &o.evals, "EVAL.json",
     "result of aq-eval for this recipe, for the page and the\n"
     "frontier; given again, of other recipes, for the frontier"},
    {"engine", 0, AQ_OPT_TEXT, &o.engine, "NAME[:smNN][:tpN]",
     "the engine whose verdicts the page shows first (default:\n"
     "the one that the recipe was chosen for)"},
    {"config-dir", 0, AQ_OPT_TEXT, &o.config_dir, "DIR",
     "the configuration tree, for what engines serve"},
    AQ_OPT_END,
};

static int report(struct report_request *q, struct aq_err *err)
{
    char *conf = NULL;
    if ((q->format == REPORT_HTML || o.all) &&
        find_rules(&conf, o.config_dir, o.engine != NULL, err) < 0)
        return -1;
    q->conf_dir = conf;
    int status = o.all ? report_all(q, o.all, err) : report_one(q, err);
    free(conf);
    return status;
}

static int run_options(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct report_request q = {.manifest = cl->count ? cl->args[0] : "-",
                               .title = o.scheme,
                               .evals = &o.evals,
                               .engine = o.engine,
                               .chart = o.svg,
                               .output = cl->output};
    int chosen = o.md + o.json + o.tsv + o.html + (o.svg != NULL) + (o.all != NULL);
    if (chosen != 1)
        return aq_err_set(err, AQ_EUSAGE,
                          "give exactly one of --md, --json, --tsv, --html, --svg, --all");
    if (o.all && cl->output)
        return aq_err_set(err, AQ_EUSAGE, "--all writes into a directory: no --output");
    if (o.evals.count && !o.html && !o.svg && !o.all)
        return aq_err_set(err, AQ_EUSAGE,
                          "--eval is shown in the page and in the frontier: give --html, --svg or "
                          "--all");
    if ((o.engine || o.config_dir) && !o.html && !o.all)
        return aq_err_set(err, AQ_EUSAGE,
                          "--engine and --config-dir are for the page: give --html or --all");
    q.format = o.md     ? REPORT_MD
               : o.json ? REPORT_JSON
               : o.tsv  ? REPORT_TSV
               : o.html ? REPORT_HTML
                        : REPORT_SVG;
    return report(&q, err);
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    int status = run_options(cl, err);
    aq_names_release(&o.evals);
    return status;
}

/* ---- aq-report summary ---- */

static struct summary_request sum;
static struct {
    bool md, tsv, html;
    const char *all;
} sum_format;

static const struct aq_opt summary_options[] = {
    {"md", 0, AQ_OPT_FLAG, &sum_format.md, NULL, "Markdown"},
    {"tsv", 0, AQ_OPT_FLAG, &sum_format.tsv, NULL, "one row for each cell"},
    {"html", 0, AQ_OPT_FLAG, &sum_format.html, NULL, "one self-contained page"},
    {"all", 0, AQ_OPT_TEXT, &sum_format.all, "DIR",
     "summary.md, summary.tsv and summary.html there"},
    {"cells", 0, AQ_OPT_TEXT, &sum.cells_json, "cells.json",
     "all cells, with the reasons of those left out"},
    {"keep-going", 'k', AQ_OPT_FLAG, &sum.keep_going, NULL,
     "leave out manifests that cannot be read, with a warning"},
    AQ_OPT_END,
};

static int run_summary(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (sum_format.md + sum_format.tsv + sum_format.html + (sum_format.all != NULL) != 1)
        return aq_err_set(err, AQ_EUSAGE, "give exactly one of --md, --tsv, --html, --all");
    sum.manifests = cl->args;
    sum.count = (size_t)cl->count;
    sum.output = cl->output;
    sum.format = sum_format.md ? REPORT_MD : sum_format.tsv ? REPORT_TSV : REPORT_HTML;
    if (!cl->count && !sum.cells_json)
        return aq_err_set(err, AQ_EUSAGE, "missing operand: a manifest, or --cells of a sweep");
    return sum_format.all ? report_summary_all(&sum, sum_format.all, err)
                          : report_summary(&sum, err);
}

static const struct aq_tool summary = {
    .name = "summary",
    .summary = "A sweep: totals, agreement of the rankings, cells left out.",
    .usage = "aq-report summary (--md | --tsv | --html | --all DIR) [--cells cells.json] [-o FILE] "
             "MANIFEST...",
    .example = "aq-report summary --md */*/*/*_quant_manifest.json",
    .options = summary_options,
    .min_args = 0,
    .max_args = -1,
    .run = run_summary,
};

/* ---- aq-report sweep ---- */

static struct summary_request table;
static struct {
    bool tsv, csv;
} table_format;

static const struct aq_opt table_options[] = {
    {"tsv", 0, AQ_OPT_FLAG, &table_format.tsv, NULL, "separated by tabs"},
    {"csv", 0, AQ_OPT_FLAG, &table_format.csv, NULL, "separated by commas"},
    {"cells", 0, AQ_OPT_TEXT, &table.cells_json, "cells.json", "names of the cells"},
    AQ_OPT_END,
};

static int run_sweep(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (table_format.tsv + table_format.csv != 1)
        return aq_err_set(err, AQ_EUSAGE, "give exactly one of --tsv, --csv");
    table.manifests = cl->args;
    table.count = (size_t)cl->count;
    table.output = cl->output;
    return report_sweep(&table, table_format.csv ? ',' : '\t', err);
}

static const struct aq_tool sweep = {
    .name = "sweep",
    .summary = "A sweep as data: one row for each layer and candidate of each cell.",
    .usage = "aq-report sweep (--tsv | --csv) [--cells cells.json] [-o FILE] MANIFEST...",
    .example = "aq-report sweep --csv */*/*/*_quant_manifest.json",
    .options = table_options,
    .min_args = 1,
    .max_args = -1,
    .run = run_sweep,
};

/* ---- aq-report explore ---- */

static struct summary_request page;
static const char *page_conf;

static const struct aq_opt explore_options[] = {
    {"cells", 0, AQ_OPT_TEXT, &page.cells_json, "cells.json",
     "all cells, with the reasons of those left out; needed"},
    {"config-dir", 0, AQ_OPT_TEXT, &page_conf, "DIR",
     "the configuration tree, for what engines serve"},
    AQ_OPT_END,
};

static int run_explore(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (!page.cells_json)
        return aq_err_set(err, AQ_EUSAGE, "--cells is needed");
    page.manifests = cl->args;
    page.count = (size_t)cl->count;
    page.output = cl->output;
    char *conf;
    if (find_rules(&conf, page_conf, false, err) < 0)
        return -1;
    int status = report_explore(&page, conf, err);
    free(conf);
    return status;
}

static const struct aq_tool explore = {
    .name = "explore",
    .summary = "A sweep as one page: matrix, comparison of cells, recipe for any budget.",
    .usage = "aq-report explore --cells cells.json [-o FILE] MANIFEST...",
    .example = "aq-report explore --cells cells.json -o explore.html */*/*/*_quant_manifest.json",
    .options = explore_options,
    .min_args = 1,
    .max_args = -1,
    .run = run_explore,
};

/* ---- aq-report diff ---- */

static struct {
    bool md, tsv;
} diff_format;

static const struct aq_opt diff_options[] = {
    {"md", 0, AQ_OPT_FLAG, &diff_format.md, NULL, "Markdown"},
    {"tsv", 0, AQ_OPT_FLAG, &diff_format.tsv, NULL, "one row for each layer"},
    AQ_OPT_END,
};

static int run_diff(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (diff_format.md + diff_format.tsv != 1)
        return aq_err_set(err, AQ_EUSAGE, "give exactly one of --md, --tsv");
    return report_diff(cl->args[0], cl->args[1], diff_format.md ? REPORT_MD : REPORT_TSV,
                       cl->output, err);
}

static const struct aq_tool diff = {
    .name = "diff",
    .summary = "Two cells layer by layer.",
    .usage = "aq-report diff (--md | --tsv) [-o FILE] A B",
    .example = "aq-report diff --md a/quant_manifest.json b/quant_manifest.json",
    .options = diff_options,
    .min_args = 2,
    .max_args = 2,
    .run = run_diff,
};

/* ---- aq-report ---- */

static const struct aq_tool *const commands[] = {&summary, &sweep, &explore, &diff, NULL};

static const struct aq_tool tool = {
    .name = "aq-report",
    .summary = "Reports from a quantization manifest.",
    .usage = "aq-report (--md | --json | --tsv | --html | --svg PICTURE) [-o FILE] [MANIFEST]\n"
             "aq-report --all DIR [MANIFEST]\n"
             "aq-report summary (--md | --tsv | --html | --all DIR) [--cells cells.json] [-o FILE] "
             "MANIFEST...\n"
             "aq-report sweep (--tsv | --csv) [--cells cells.json] [-o FILE] MANIFEST...\n"
             "aq-report explore --cells cells.json [-o FILE] MANIFEST...\n"
             "aq-report diff (--md | --tsv) [-o FILE] A B",
    .example = "aq-report --md quant_manifest.json",
    .options = options,
    .max_args = 1,
    .run = run,
    .commands = commands,
    .result_version = RESULT_VERSION,
};

int main(int argc, char **argv)
{
    return aq_tool_main(&tool, argc, argv);
}
