/* aq-report: manifests as Markdown, JSON, TSV, pictures and one HTML page; sweeps; differences. */
#include "base/opt.h"
#include "report/chart.h"
#include "report/run.h"

#include <string.h>

enum { RESULT_VERSION = 1 };

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

int main(int argc, char **argv)
{
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
        .usage = "aq-report (--md | --json | --tsv | --html | --svg PICTURE) [-o FILE] [MANIFEST]\n"
                 "aq-report --all DIR [MANIFEST]",
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
    if (run(&o, &cl, &err) < 0)
        return aq_tool_fail(&err);
    return aq_tool_finish();
}
