#include "report/serving.h"

#include "base/mem.h"
#include "base/names.h"
#include "report/escape.h"
#include "report/html.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which engines ---- */

static int choose(struct serving *s, const char *engine, struct aq_err *err)
{
    struct engine_target target;
    if (!engine)
        return 0;
    if (engine_target_parse(engine, &target, err) < 0)
        return -1;
    for (int e = 0; e < REPORT_ENGINES; e++)
        if (strcmp(engines_names[e].name, target.name) == 0) {
            s->targets[e] = target;
            s->chosen = e;
            return 0;
        }
    struct aq_names names = AQ_NAMES_INIT;
    for (int e = 0; e < REPORT_ENGINES; e++)
        aq_names_add(&names, engines_names[e].name);
    aq_err_set(err, AQ_EUSAGE, "there is no engine '%s'", aq_show(target.name));
    aq_names_hint(err, "engines", target.name, &names);
    aq_names_release(&names);
    return -1;
}

/* What the file says is the file's mistake. */
static int choose_own(struct serving *s, const struct report *r, struct aq_err *err)
{
    struct aq_err own = {0};
    const char *engine = json_find_string(r->m->selection, "engine");
    if (choose(s, engine, &own) == 0)
        return 0;
    return aq_err_set(err, AQ_EINPUT, "%s: selection.engine: %s", aq_show(r->m->path), own.msg);
}

static int set_targets(struct serving *s, const struct report *r, const char *engine,
                       struct aq_err *err)
{
    int n = 0;
    s->chosen = -1;
    for (int e = 0; e < REPORT_ENGINES; e++)
        if (engine_target_parse(engines_names[e].name, &s->targets[e], err) < 0)
            return -1;
    if ((engine ? choose(s, engine, err) : choose_own(s, r, err)) < 0)
        return -1;
    if (s->chosen >= 0)
        s->order[n++] = s->chosen;
    for (int e = 0; e < REPORT_ENGINES; e++)
        if (e != s->chosen)
            s->order[n++] = e;
    return 0;
}

/* ---- verdicts ---- */

/* What an engine is asked about a group of the recipe; false: the manifest does not say enough. */
static bool ask_about(const struct report *r, const struct manifest_group *group,
                      const struct manifest_option *o, struct engine_group *q)
{
    const struct json *facts = json_find(r->m->selection, "candidates");
    struct aq_err none = {0};
    *q = (struct engine_group){.arch = "", .weight = "none", .act = "none"};
    if (!o->none) {
        facts = o->name ? json_find(facts, o->name) : NULL;
        q->weight = json_find_string(facts, "w");
        q->act = json_find_string(facts, "a");
    }
    return q->weight && q->act && group->model &&
           engine_group_read(q, group->model, group->layer, &none) == 0;
}

static void judge(struct serving *s, const struct report *r, const struct curve *c)
{
    for (int e = 0; e < REPORT_ENGINES; e++)
        s->verdicts[e] = xcalloc(r->count + 1, sizeof *s->verdicts[e]);
    for (size_t g = 0; g < r->count; g++) {
        const struct manifest_group *group = r->rows[g].group;
        struct engine_group q;
        if (!ask_about(r, group, &group->options[c->recipe[g]], &q)) {
            for (int e = 0; e < REPORT_ENGINES; e++) {
                free(s->verdicts[e]);
                s->verdicts[e] = NULL;
            }
            return;
        }
        for (int e = 0; e < REPORT_ENGINES; e++)
            engine_judge(s->engines.rules[e], &s->targets[e],
                         engine_default_layout(s->engines.rules[e]), &q, &s->verdicts[e][g]);
    }
    for (int e = 0; e < REPORT_ENGINES; e++)
        engine_judge_recipe(s->engines.rules[e], engine_default_layout(s->engines.rules[e]),
                            s->verdicts[e], r->count);
}

int serving_init(struct serving *s, const struct report *r, const struct curve *c,
                 const char *conf_dir, const char *engine, struct aq_err *err)
{
    *s = (struct serving){.chosen = -1};
    if (set_targets(s, r, engine, err) == 0 && engines_load(&s->engines, conf_dir, err) == 0) {
        if (conf_dir && c->recipe)
            judge(s, r, c);
        return 0;
    }
    serving_release(s);
    return -1;
}

void serving_release(struct serving *s)
{
    for (int e = 0; e < REPORT_ENGINES; e++)
        free(s->verdicts[e]);
    engines_release(&s->engines);
    *s = (struct serving){0};
}

bool serving_known(const struct serving *s)
{
    return s->verdicts[0] != NULL;
}

/* ---- the section ---- */

/* "vLLM 0.33.0, compute capability 9.0, chosen". Caller frees. */
static char *describe(const struct serving *s, int e)
{
    const struct engine *rules = s->engines.rules[e];
    struct aq_buf text = AQ_BUF_INIT;
    aq_buf_addf(&text, "%s %s", engines_names[e].title, engine_version(rules));
    if (engine_needs_sm(rules))
        aq_buf_addf(&text, ", compute capability %d.%d", s->targets[e].sm / 10,
                    s->targets[e].sm % 10);
    if (s->targets[e].tp > 1)
        aq_buf_addf(&text, ", %d-way tensor parallelism", s->targets[e].tp);
    if (e == s->chosen)
        aq_buf_adds(&text, " (chosen)");
    return aq_buf_detach(&text);
}

static bool same_answer(const struct engine_verdict *a, const struct engine_verdict *b)
{
    return a->quantized == b->quantized && a->verdict == b->verdict &&
           strcmp(a->reason, b->reason) == 0;
}

/* A row for each answer that the engine gives, in the order of groups. */
static void add_answers(struct aq_buf *out, const struct report *r, const struct serving *s, int e)
{
    const struct engine_verdict *all = s->verdicts[e];
    char *title = describe(s, e);
    for (size_t g = 0; g < r->count; g++) {
        size_t before = 0, groups = 0;
        while (before < g && !same_answer(&all[before], &all[g]))
            before++;
        if (before < g)
            continue;
        for (size_t k = g; k < r->count; k++)
            groups += same_answer(&all[k], &all[g]);
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", NULL, title);
        html_text(out, "td", NULL, all[g].quantized ? verdict_names[all[g].verdict] : "16-bit");
        html_fixed_cell(out, NULL, (double)groups, 0, "");
        html_text(out, "td", NULL,
                  all[g].quantized ? all[g].reason : "not quantized: as in the source");
        aq_buf_adds(out, "</tr>\n");
    }
    free(title);
}

static void add_groups(struct aq_buf *out, const struct report *r, const struct curve *c,
                       const struct serving *s)
{
    struct html_column columns[2 + REPORT_ENGINES] = {{NULL, "layer"}, {"more", "format"}};
    for (int i = 0; i < REPORT_ENGINES; i++)
        columns[2 + i] = (struct html_column){NULL, engines_names[s->order[i]].title};
    html_table(out, "Verdict of each engine on each group", true, columns, AQ_COUNT(columns));
    for (size_t g = 0; g < r->count; g++) {
        const struct manifest_option *o = &r->rows[g].group->options[c->recipe[g]];
        char *name = o->none ? xstrdup("NONE") : report_candidate(r, o);
        aq_buf_adds(out, "<tr>");
        html_name_cell(out, NULL, r->rows[g].shown);
        html_name_cell(out, "more", name);
        for (int i = 0; i < REPORT_ENGINES; i++) {
            const struct engine_verdict *v = &s->verdicts[s->order[i]][g];
            html_text(out, "td", NULL, v->quantized ? verdict_names[v->verdict] : "16-bit");
        }
        aq_buf_adds(out, "</tr>\n");
        free(name);
    }
    html_table_end(out);
}

void serving_html(struct aq_buf *out, const struct report *r, const struct curve *c,
                  const struct serving *s)
{
    static const struct html_column columns[] = {
        {NULL, "engine"}, {NULL, "verdict"}, {"n", "groups"}, {NULL, "why"}};
    if (!serving_known(s))
        return;
    html_section(out, "engines", "What engines make of it",
                 "exact: computed as it was scored. near: the same with other roundings. other: "
                 "another computation than the one that was scored. wrong: loads, and computes "
                 "garbage. no: refused.");
    html_table(out, "What each engine makes of the recipe", false, columns, AQ_COUNT(columns));
    for (int i = 0; i < REPORT_ENGINES; i++)
        add_answers(out, r, s, s->order[i]);
    html_table_end(out);
    add_groups(out, r, c, s);
    html_section_end(out);
}
