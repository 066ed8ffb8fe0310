#include "report/run.h"
#include "base/file.h"
#include "base/mem.h"
#include "report/answer.h"
#include "report/cell_list.h"
#include "report/diff.h"
#include "report/explore.h"
#include "report/html.h"
#include "report/serving.h"
#include "report/summary.h"

#include <stdlib.h>
#include <string.h>

/* A manifest, its report, and the curve once somebody asks for it. */
struct session {
    struct manifest manifest;
    struct report report;
    struct curve curve;
    bool have_curve;
    struct measured measured;
    const struct report_request *q; /* borrowed */
};

static int session_open(struct session *s, const struct report_request *q, struct aq_err *err)
{
    *s = (struct session){.q = q};
    if (manifest_read(&s->manifest, q->manifest, err) < 0)
        return -1;
    if ((!q->evals || measured_read(&s->measured, q->evals, err) == 0) &&
        report_init(&s->report, &s->manifest, q->title, err) == 0)
        return 0;
    measured_release(&s->measured);
    manifest_release(&s->manifest);
    return -1;
}

static void session_close(struct session *s)
{
    curve_release(&s->curve);
    report_release(&s->report);
    measured_release(&s->measured);
    manifest_release(&s->manifest);
}

static const struct curve *curve_of(struct session *s)
{
    if (!s->have_curve)
        curve_init(&s->curve, &s->manifest);
    s->have_curve = true;
    return &s->curve;
}

static enum chart_kind chart_named(const char *name)
{
    int i = 0;
    while (strcmp(chart_names[i], name) != 0)
        i++;
    return (enum chart_kind)i;
}

static int draw_page(struct aq_buf *out, struct session *s, struct aq_err *err)
{
    const struct report_request *q = s->q;
    struct answer a;
    struct serving serving;
    if (serving_init(&serving, &s->report, curve_of(s), q->conf_dir, q->engine, err) < 0)
        return -1;
    const struct page page = {.report = &s->report,
                              .curve = curve_of(s),
                              .answer = &a,
                              .measured = &s->measured,
                              .serving = &serving};
    answer_init(&a, &s->report, page.curve, s->measured.count ? &s->measured.items[0] : NULL);
    report_html(out, &page);
    answer_release(&a);
    serving_release(&serving);
    return 0;
}

static int draw(struct aq_buf *out, struct session *s, enum report_format format, const char *chart,
                struct aq_err *err)
{
    const struct chart_style file = {CHART_WIDE, true};
    switch (format) {
    case REPORT_MD:
        report_markdown(out, &s->report);
        return 0;
    case REPORT_JSON:
        return report_json(out, &s->report, err);
    case REPORT_TSV:
        report_tsv(out, &s->report);
        return 0;
    case REPORT_HTML:
        return draw_page(out, s, err);
    case REPORT_SVG:
        chart_draw(out, chart_named(chart), &s->report, curve_of(s), &s->measured, file);
        return 0;
    }
    return 0;
}

static int write_product(struct session *s, enum report_format format, const char *chart,
                         const char *path, struct aq_err *err)
{
    struct aq_buf out = AQ_BUF_INIT;
    int status = draw(&out, s, format, chart, err);
    if (status == 0)
        status = aq_write_file(path, aq_buf_str(&out), out.len, err);
    aq_buf_release(&out);
    return status;
}

int report_one(const struct report_request *q, struct aq_err *err)
{
    struct session s;
    if (session_open(&s, q, err) < 0)
        return -1;
    int status = write_product(&s, q->format, q->chart, q->output, err);
    session_close(&s);
    return status;
}

static int write_in(struct session *s, const char *dir, const char *name, enum report_format format,
                    const char *chart, struct aq_err *err)
{
    char *path = aq_path_join(dir, name);
    int status = write_product(s, format, chart, path, err);
    free(path);
    return status;
}

static int write_all(struct session *s, const char *dir, struct aq_err *err)
{
    if (aq_make_dirs(dir, err) < 0 ||
        write_in(s, dir, "per-layer-sensitivity.md", REPORT_MD, NULL, err) < 0 ||
        write_in(s, dir, "per-layer-sensitivity.json", REPORT_JSON, NULL, err) < 0 ||
        write_in(s, dir, "per-layer-sensitivity.tsv", REPORT_TSV, NULL, err) < 0)
        return -1;
    for (int i = 0; i < CHARTS; i++) {
        char *name = xasprintf("%s.svg", chart_names[i]);
        int status = write_in(s, dir, name, REPORT_SVG, chart_names[i], err);
        free(name);
        if (status < 0)
            return -1;
    }
    return write_in(s, dir, "report.html", REPORT_HTML, NULL, err);
}

int report_all(const struct report_request *q, const char *dir, struct aq_err *err)
{
    struct session s;
    if (session_open(&s, q, err) < 0)
        return -1;
    int status = write_all(&s, dir, err);
    session_close(&s);
    return status;
}

static int write_summary(const struct summary *s, enum report_format format, const char *output,
                         struct aq_err *err)
{
    struct aq_buf out = AQ_BUF_INIT;
    if (format == REPORT_MD)
        summary_markdown(&out, s);
    else if (format == REPORT_TSV)
        summary_tsv(&out, s);
    else
        summary_html(&out, s);
    int status = aq_write_file(output, out.data, out.len, err);
    aq_buf_release(&out);
    return status;
}

int report_summary(const struct summary_request *q, struct aq_err *err)
{
    struct summary s;
    int status = summary_read(&s, q->manifests, q->count, q->cells_json, q->keep_going, err);
    if (status == 0)
        status = write_summary(&s, q->format, q->output, err);
    summary_release(&s);
    return status;
}

int report_summary_all(const struct summary_request *q, const char *dir, struct aq_err *err)
{
    static const struct {
        enum report_format format;
        const char *name;
    } files[] = {
        {REPORT_MD, "summary.md"}, {REPORT_TSV, "summary.tsv"}, {REPORT_HTML, "summary.html"}};
    struct summary s;
    int status = summary_read(&s, q->manifests, q->count, q->cells_json, q->keep_going, err);
    for (size_t i = 0; i < AQ_COUNT(files) && status == 0; i++) {
        char *path = aq_path_join(dir, files[i].name);
        status = write_summary(&s, files[i].format, path, err);
        free(path);
    }
    summary_release(&s);
    return status;
}

/* The directory of a cell says which one it is: two options may share a name. */
static int add_sweep_cell(struct fields *f, const char *path, const struct cell_list *list,
                          struct aq_err *err)
{
    const struct report_request one = {.manifest = path};
    const struct cell_entry *e = cell_list_find(list, path);
    struct session s;
    if (session_open(&s, &one, err) < 0)
        return -1;
    struct cell *c = &s.report.cell;
    if (e) {
        free(c->pair);
        free(c->granularity);
        free(c->size);
        c->pair = xstrdup(e->pair);
        c->granularity = xstrdup(e->granularity);
        c->size = xstrdup(e->size);
    }
    report_fields(f, &s.report);
    session_close(&s);
    return 0;
}

int report_sweep(const struct summary_request *q, char separator, struct aq_err *err)
{
    struct aq_buf out = AQ_BUF_INIT;
    struct fields f = {.out = &out, .separator = separator};
    struct cell_list list = {0};
    int status = q->cells_json ? cell_list_read(&list, q->cells_json, err) : 0;
    report_fields_names(&f);
    for (size_t i = 0; i < q->count && status == 0; i++)
        status = add_sweep_cell(&f, q->manifests[i], &list, err);
    if (status == 0)
        status = aq_write_file(q->output, out.data, out.len, err);
    cell_list_release(&list);
    aq_buf_release(&out);
    return status;
}

int report_explore(const struct summary_request *q, const char *conf_dir, struct aq_err *err)
{
    const struct explore_request page = {q->manifests, q->count, q->cells_json, conf_dir};
    struct aq_buf out = AQ_BUF_INIT;
    int status = explore_html(&out, &page, err);
    if (status == 0)
        status = aq_write_file(q->output, out.data, out.len, err);
    aq_buf_release(&out);
    return status;
}

int report_diff(const char *a, const char *b, enum report_format format, const char *output,
                struct aq_err *err)
{
    const struct report_request first = {.manifest = a}, second = {.manifest = b};
    struct session x, y;
    struct aq_buf out = AQ_BUF_INIT;
    if (session_open(&x, &first, err) < 0)
        return -1;
    int status = session_open(&y, &second, err);
    if (status == 0) {
        if (format == REPORT_MD)
            diff_markdown(&out, &x.report, &y.report);
        else
            diff_tsv(&out, &x.report, &y.report);
        status = aq_write_file(output, out.data, out.len, err);
        session_close(&y);
    }
    session_close(&x);
    aq_buf_release(&out);
    return status;
}
