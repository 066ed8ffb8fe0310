#include "report/report.h"
#include "base/mem.h"
#include "base/names.h"
#include "select/members.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * "model.language_model.layers.7.mlp.down_proj" is block 7 and kind "mlp.down_proj": the first
 * all-digit component is the block, what follows is the kind. Towers stay apart: a name that has a
 * "visual" component before the block gets it into the kind.
 */
struct layer_split {
    size_t at;   /* where the short name begins */
    size_t kind; /* where the kind does */
    long block;  /* -1: none */
    bool visual;
};

static struct layer_split split_layer(const char *layer)
{
    const char *stack = layer; /* the component before the number */
    const char *visual = NULL;
    for (const char *part = layer; *part;) {
        size_t n = strcspn(part, ".");
        if (n > 0 && n < 7 && strspn(part, "0123456789") == n && part[n] == '.')
            return (struct layer_split){(size_t)((visual ? visual : stack) - layer),
                                        (size_t)(part + n + 1 - layer), strtol(part, NULL, 10),
                                        visual};
        if (n == 6 && strncmp(part, "visual", n) == 0)
            visual = part;
        stack = part;
        part += n + (part[n] == '.');
    }
    return (struct layer_split){.block = -1};
}

/* Appends what people call a group. A manifest that does not list the members follows ModelOpt's
   rule for names, unless a layer that the rule adds has a row of its own. */
static void shown_name(struct aq_buf *out, const struct manifest_group *g,
                       const struct aq_names *layers)
{
    if (g->members && json_first(g->members)) {
        members_name(out, g->members);
        return;
    }
    struct json *members = members_list(NULL, g->layer);
    const struct json *v = json_next(json_first(members));
    while (v && aq_names_find(layers, json_string(v)) < 0)
        v = json_next(v);
    if (v)
        aq_buf_adds(out, g->layer);
    else
        members_name(out, members);
    json_free(members);
}

/* Names a row for people. Returns its kind, which lives as long as the report. */
static const char *name_row(struct report *r, struct report_row *row, const struct aq_names *layers,
                            struct aq_buf *name)
{
    const struct manifest_group *g = row->group;
    aq_buf_reset(name);
    shown_name(name, g, layers);
    const char *text = aq_buf_str(name);
    struct layer_split s = split_layer(text), own = split_layer(g->layer);
    row->short_name = g->layer + own.at;
    row->block = own.block;
    row->shown = aq_arena_strdup(&r->names, text + s.at);
    return s.visual ? aq_arena_printf(&r->names, "visual.%s", text + s.kind)
                    : row->shown + (s.kind - s.at);
}

/* Kinds in order of appearance; many rows share few of them. */
static void collect_kinds(struct report *r, const char *const *kinds)
{
    struct aq_names names = AQ_NAMES_INIT;
    for (size_t i = 0; i < r->count; i++)
        aq_names_add(&names, kinds[i]);
    (void)aq_names_sort(&names);
    size_t *first = xcalloc(r->count + 1, sizeof *first); /* first row with the name of row i */
    size_t *number = xcalloc(r->count + 1, sizeof *number);
    size_t run = 0;
    for (size_t i = 0; i < r->count; i++) {
        if (i > 0 && strcmp(kinds[names.sorted[i]], kinds[names.sorted[run]]) != 0)
            run = i;
        first[names.sorted[i]] = names.sorted[run];
    }
    r->kinds = xcalloc(r->count + 1, sizeof *r->kinds);
    for (size_t i = 0; i < r->count; i++) {
        if (first[i] == i) {
            number[i] = r->kind_count;
            r->kinds[r->kind_count++] = kinds[i];
        }
        r->rows[i].kind = number[first[i]];
    }
    free(first);
    free(number);
    aq_names_release(&names);
}

static void fill_row(struct report *r, struct report_row *row, const struct manifest_group *g,
                     size_t *used)
{
    bool real = false;
    for (size_t i = 0; i < g->count; i++)
        real = real || !g->options[i].none;
    row->group = g;
    row->searched = real;
    row->counted = r->counted + *used;
    for (size_t i = 0; i < g->count; i++) {
        const struct manifest_option *o = &g->options[i];
        if (real && o->none)
            continue;
        if (!row->worst || o->score > row->worst->score)
            row->worst = o;
        row->counted[row->count++] = o;
    }
    row->sensitivity = row->worst ? row->worst->score : 0;
    *used += row->count;
}

static int by_sensitivity(const void *a, const void *b)
{
    const struct report_row *x = *(const struct report_row *const *)a;
    const struct report_row *y = *(const struct report_row *const *)b;
    if (x->sensitivity != y->sensitivity)
        return x->sensitivity > y->sensitivity ? -1 : 1;
    return x < y ? -1 : x > y;
}

int report_init(struct report *r, const struct manifest *m, const char *title, struct aq_err *err)
{
    *r = (struct report){.m = m, .title = title ? title : m->scheme_name, .count = m->count};
    if (!r->title)
        return aq_err_set(err, AQ_EINPUT, "%s: scheme.name is missing", aq_show(m->path));
    r->rows = xcalloc(m->count + 1, sizeof *r->rows);
    r->by_sensitivity = xcalloc(m->count + 1, sizeof *r->by_sensitivity);
    r->counted = xcalloc(m->option_count + 1, sizeof *r->counted);
    const char **kinds = xcalloc(m->count + 1, sizeof *kinds);
    struct aq_names layers = AQ_NAMES_INIT;
    struct aq_buf name = AQ_BUF_INIT;
    for (size_t i = 0; i < m->count; i++)
        if (!m->groups[i].members)
            aq_names_add(&layers, m->groups[i].layer);
    (void)aq_names_sort(&layers);
    size_t used = 0;
    for (size_t i = 0; i < m->count; i++) {
        fill_row(r, &r->rows[i], &m->groups[i], &used);
        kinds[i] = name_row(r, &r->rows[i], &layers, &name);
        r->by_sensitivity[i] = &r->rows[i];
        r->total += r->rows[i].sensitivity;
    }
    aq_names_release(&layers);
    aq_buf_release(&name);
    collect_kinds(r, kinds);
    cell_init(&r->cell, m);
    qsort(r->by_sensitivity, r->count, sizeof *r->by_sensitivity, by_sensitivity);
    for (size_t i = 0; i < m->count; i++)
        r->by_sensitivity[i]->rank = i + 1;
    free(kinds);
    if (isfinite(r->total))
        return 0;
    report_release(r);
    return aq_err_set(err, AQ_EINPUT, "%s: the sum of the scores is too large", aq_show(m->path));
}

void report_release(struct report *r)
{
    free(r->kinds);
    aq_arena_release(&r->names);
    free(r->rows);
    free(r->by_sensitivity);
    free(r->counted);
    cell_release(&r->cell);
    *r = (struct report){0};
}

/* Is there but one quantized candidate, without a name? */
static bool only_unnamed(const struct report *r, const struct manifest_option *o)
{
    bool only = !o->name;
    for (size_t i = 0; i < r->m->option_count && only; i++)
        only = r->m->options[i].none || manifest_same_candidate(&r->m->options[i], o);
    return only;
}

char *report_candidate(const struct report *r, const struct manifest_option *o)
{
    if (o->none)
        return xstrdup("16-bit");
    if (only_unnamed(r, o) && *r->cell.pair)
        return xstrdup(r->cell.pair);
    return manifest_candidate(o);
}

/* "INT4" for the n characters "int4". */
static char *upper(const char *text, size_t n)
{
    char *word = xstrndup(text, n);
    for (char *p = word; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return word;
}

char *report_candidate_words(const struct report *r, const struct manifest_option *o)
{
    char *name = report_candidate(r, o);
    const char *slash = strchr(name, '/'), *act = strstr(name, "_a");
    size_t n = slash ? (size_t)(slash - name) : strlen(name);
    if (o->none || name[0] != 'w' || !act || (size_t)(act - name) > n)
        return name;
    char *w = upper(name + 1, (size_t)(act - name) - 1);
    char *a = upper(act + 2, n - (size_t)(act + 2 - name));
    const char *gran = slash && strcmp(slash, "/default") != 0 ? slash + 1 : NULL;
    char *words =
        xasprintf("%s weights%s%s%s%s%s%s", w, strcmp(a, "FP16") == 0 ? "" : " with ",
                  strcmp(a, "FP16") == 0 ? "" : a, strcmp(a, "FP16") == 0 ? "" : " activations",
                  gran ? " (" : "", gran ? gran : "", gran ? ")" : "");
    free(w);
    free(a);
    free(name);
    return words;
}

const struct manifest_option *report_row_chosen(const struct report_row *row)
{
    const struct manifest_group *g = row->group;
    return g->chosen >= 0 ? &g->options[g->chosen] : NULL;
}

bool report_has_recipe(const struct report *r)
{
    bool all = r->count > 0;
    for (size_t i = 0; i < r->count; i++)
        all = all && r->rows[i].group->chosen >= 0;
    return all;
}

const char *report_row_flat(const struct report_row *row)
{
    const char *flat = NULL;
    for (size_t i = 0; i < row->count && !flat; i++)
        flat = row->counted[i]->flat;
    return flat;
}
