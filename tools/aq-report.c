/* aq-report: manifests as Markdown, JSON, TSV, pictures and one HTML page; sweeps; differences. */
#include "base/opt.h"
#include "report/chart.h"
#include "report/run.h"

#include <string.h>

enum { RESULT_VERSION = 2 };

struct opts {
    bool md, json, tsv, html;
    const char *svg, *all, *scheme;
};

static int run(const struct opts *o, const struct aq_cmdline *cl, struct aq_err *err)
{
    struct report_request q = {.manifest = cl->count ? cl->args[0] : "-",
                               .title = o->scheme,
                               .chart = o->svg,
                               .output = cl->output};
    int chosen = o->md + o->json + o->tsv + o->html + (o->svg != NULL) + (o->all != NULL);
    if (chosen != 1)
        return aq_err_set(err, AQ_EUSAGE,
                          "give exactly one of --md, --json, --tsv, --html, --svg, --all");
    if (o->all && cl->output)
        return aq_err_set(err, AQ_EUSAGE, "--all writes into a directory: no --output");
    if (o->all)
        return report_all(&q, o->all, err);
    q.format = o->md     ? REPORT_MD
               : o->json ? REPORT_JSON
               : o->tsv  ? REPORT_TSV
               : o->html ? REPORT_HTML
                         : REPORT_SVG;
    return report_one(&q, err);
}

static int main_summary(int argc, char **argv)
{
    struct summary_request q = {0};
    bool md = false, tsv = false, html = false;
    const struct aq_opt table[] = {
        {"md", 0, AQ_OPT_FLAG, &md, NULL, "Markdown"},
        {"tsv", 0, AQ_OPT_FLAG, &tsv, NULL, "one row for each cell"},
        {"html", 0, AQ_OPT_FLAG, &html, NULL, "one self-contained page"},
        {"cells", 0, AQ_OPT_TEXT, &q.cells_json, "cells.json",
         "all cells, with the reasons of those left out"},
        {"keep-going", 'k', AQ_OPT_FLAG, &q.keep_going, NULL,
         "leave out manifests that cannot be read, with a warning"},
        AQ_OPT_END,
    };
    const struct aq_tool tool = {
        .name = "aq-report",
        .command = "summary",
        .summary = "A sweep: totals, agreement of the rankings, cells left out.",
        .usage =
            "aq-report summary (--md | --tsv | --html) [--cells cells.json] [-o FILE] MANIFEST...",
        .example = "aq-report summary --md */*/*/*_quant_manifest.json",
        .options = table,
        .result_version = RESULT_VERSION,
        .min_args = 1,
        .max_args = -1,
    };
    struct aq_cmdline cl;
    struct aq_err err = {0};
    int code;
    if (!aq_tool_begin(&tool, argc, argv, &cl, &code))
        return code;
    if (md + tsv + html != 1)
        return aq_tool_end(aq_err_set(&err, AQ_EUSAGE, "give exactly one of --md, --tsv, --html"),
                           &err);
    q.manifests = cl.args;
    q.count = (size_t)cl.count;
    q.output = cl.output;
    q.format = md ? REPORT_MD : tsv ? REPORT_TSV : REPORT_HTML;
    return aq_tool_end(report_summary(&q, &err), &err);
}

static int main_diff(int argc, char **argv)
{
    bool md = false, tsv = false;
    const struct aq_opt table[] = {
        {"md", 0, AQ_OPT_FLAG, &md, NULL, "Markdown"},
        {"tsv", 0, AQ_OPT_FLAG, &tsv, NULL, "one row for each layer"},
        AQ_OPT_END,
    };
    const struct aq_tool tool = {
        .name = "aq-report",
        .command = "diff",
        .summary = "Two cells layer by layer.",
        .usage = "aq-report diff (--md | --tsv) [-o FILE] A B",
        .example = "aq-report diff --md a/quant_manifest.json b/quant_manifest.json",
        .options = table,
        .result_version = RESULT_VERSION,
        .min_args = 2,
        .max_args = 2,
    };
    struct aq_cmdline cl;
    struct aq_err err = {0};
    int code;
    if (!aq_tool_begin(&tool, argc, argv, &cl, &code))
        return code;
    if (md + tsv != 1)
        return aq_tool_end(aq_err_set(&err, AQ_EUSAGE, "give exactly one of --md, --tsv"), &err);
    return aq_tool_end(
        report_diff(cl.args[0], cl.args[1], md ? REPORT_MD : REPORT_TSV, cl.output, &err), &err);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "summary") == 0)
        return main_summary(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "diff") == 0)
        return main_diff(argc - 1, argv + 1);
    struct opts o = {0};
    const struct aq_opt table[] = {
        {"md", 0, AQ_OPT_FLAG, &o.md, NULL, "per-layer-sensitivity.md"},
        {"json", 0, AQ_OPT_FLAG, &o.json, NULL, "per-layer-sensitivity.json"},
        {"tsv", 0, AQ_OPT_FLAG, &o.tsv, NULL, "one row for each layer and candidate"},
        {"html", 0, AQ_OPT_FLAG, &o.html, NULL, "one self-contained page"},
        {"svg", 0, AQ_OPT_CHOICE, &o.svg, "PICTURE", "heatmap, bars, frontier, depth or strip",
         .choices = chart_names},
        {"all", 0, AQ_OPT_TEXT, &o.all, "DIR", "all of these into a directory"},
        {"scheme", 0, AQ_OPT_TEXT, &o.scheme, "NAME", "title instead of the manifest's scheme"},
        AQ_OPT_END,
    };
    const struct aq_tool tool = {
        .name = "aq-report",
        .summary = "Reports from a quantization manifest.",
        .usage =
            "aq-report (--md | --json | --tsv | --html | --svg PICTURE) [-o FILE] [MANIFEST]\n"
            "aq-report --all DIR [MANIFEST]\n"
            "aq-report summary (--md | --tsv | --html) [--cells cells.json] [-o FILE] MANIFEST...\n"
            "aq-report diff (--md | --tsv) [-o FILE] A B",
        .example = "aq-report --md quant_manifest.json",
        .options = table,
        .result_version = RESULT_VERSION,
        .max_args = 1,
    };
    struct aq_cmdline cl;
    struct aq_err err = {0};
    int code;
    if (!aq_tool_begin(&tool, argc, argv, &cl, &code))
        return code;
    return aq_tool_end(run(&o, &cl, &err), &err);
}
