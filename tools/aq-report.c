/* aq-report: a manifest as Markdown, JSON, TSV, pictures and one HTML page. */
#include "base/file.h"
#include "base/opt.h"
#include "report/report.h"

#include <stdlib.h>
#include <string.h>

enum { RESULT_VERSION = 1 };

struct opts {
    bool md, json, tsv;
    const char *scheme;
};

static int write_one(const struct opts *o, const struct report *r, const char *path,
                     struct aq_err *err)
{
    struct aq_buf out = AQ_BUF_INIT;
    int status = 0;
    if (o->md)
        report_markdown(&out, r);
    else if (o->json)
        status = report_json(&out, r, err);
    else
        report_tsv(&out, r);
    if (status == 0)
        status = aq_write_file(path, out.data, out.len, err);
    aq_buf_release(&out);
    return status;
}

static int run(const struct opts *o, const struct aq_cmdline *cl, struct aq_err *err)
{
    struct manifest m;
    struct report r;
    if (o->md + o->json + o->tsv != 1)
        return aq_err_set(err, AQ_EUSAGE, "give exactly one of --md, --json, --tsv");
    if (manifest_read(&m, cl->count ? cl->args[0] : "-", err) < 0)
        return -1;
    int status = report_init(&r, &m, o->scheme, err);
    if (status == 0) {
        status = write_one(o, &r, cl->output, err);
        report_release(&r);
    }
    manifest_release(&m);
    return status;
}

int main(int argc, char **argv)
{
    struct opts o = {0};
    const struct aq_opt table[] = {
        {"md", 0, AQ_OPT_FLAG, &o.md, NULL, "per-layer-sensitivity.md"},
        {"json", 0, AQ_OPT_FLAG, &o.json, NULL, "per-layer-sensitivity.json"},
        {"tsv", 0, AQ_OPT_FLAG, &o.tsv, NULL, "one row per layer and candidate"},
        {"scheme", 0, AQ_OPT_TEXT, &o.scheme, "NAME", "title instead of the manifest's scheme"},
        AQ_OPT_END,
    };
    const struct aq_tool tool = {
        .name = "aq-report",
        .summary = "Reports from a quantization manifest.",
        .usage = "aq-report (--md | --json | --tsv) [-o FILE] MANIFEST",
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
