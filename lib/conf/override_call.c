/* Functions in override values: casts, sweeps, sort() and tag(). */
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "conf/lex.h"
#include "conf/override.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct caller {
    struct aq_arena *a;
    const struct function_call *call;
    struct aq_err *err;
};

static int fail(const struct caller *c, const char *text)
{
    return aq_err_set(c->err, AQ_EUSAGE, "%s(): %s", aq_show(c->call->name), text);
}

/* ---- arguments ---- */

/*
 * Arguments by position and by name, as many as there are parameters. Absent ones are empty
 * values.
 */
static int bind(const struct caller *c, const char *const *parameters, size_t count,
                struct value *bound)
{
    memset(bound, 0, count * sizeof *bound);
    for (size_t i = 0; i < c->call->count; i++) {
        const char *name = c->call->names[i];
        size_t at = i;
        if (name)
            for (at = 0; at < count && strcmp(parameters[at], name) != 0;)
                at++;
        if (at >= count)
            return name ? fail(c, "unknown named argument") : fail(c, "too many arguments");
        if (bound[at].node || bound[at].sweep)
            return fail(c, "an argument is given twice");
        bound[at] = c->call->args[i];
    }
    return 0;
}

static struct value unquoted(struct aq_arena *a, struct value v)
{
    if (v.node && v.node->type == NODE_STRING && v.node->quote)
        v.node = node_string(a, v.node->s, v.node->place);
    return v;
}

static bool is_number(const struct node *v)
{
    return v && node_is_number(v);
}

static struct sweep *new_sweep(struct aq_arena *a, enum sweep_kind kind)
{
    struct sweep *s = aq_arena_alloc(a, sizeof *s);
    s->kind = kind;
    return s;
}

/* The positional arguments as a sweep over them. */
static int choices_of(const struct caller *c, enum sweep_kind kind, struct value *out)
{
    struct sweep *s = new_sweep(c->a, kind);
    s->items = node_new(c->a, NODE_LIST, (struct place){0});
    for (size_t i = 0; i < c->call->count; i++) {
        struct value v = unquoted(c->a, c->call->args[i]);
        if (!v.node || v.node->type == NODE_NULL)
            return fail(c, "expected plain values");
        node_push(c->a, s->items, v.node);
    }
    *out = (struct value){NULL, s};
    return 0;
}

/* ---- casts ---- */

enum cast { CAST_INT, CAST_FLOAT, CAST_STR, CAST_BOOL };

/* Python's int() and float() take blanks around the digits and underscores between them. */
static const char *trimmed(struct aq_arena *a, const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1]))
        n--;
    return aq_arena_strndup(a, s, n);
}

static struct node *int_of_text(struct aq_arena *a, const char *text)
{
    const char *s = trimmed(a, text);
    size_t zeros = 0, sign = *s == '-' || *s == '+';
    while (s[sign + zeros] == '0' && isdigit((unsigned char)s[sign + zeros + 1]))
        zeros++;
    const char *digits = aq_arena_printf(a, "%s%s", *s == '-' ? "-" : "", s + sign + zeros);
    size_t n = lex_int(digits);
    return n && !digits[n] ? lex_int_value(a, digits, n, (struct place){0}) : NULL;
}

static struct node *float_of_text(struct aq_arena *a, const char *text)
{
    const char *s = trimmed(a, text);
    size_t n = lex_float(s);
    if (!n)
        n = lex_int(s);
    size_t sign = *s == '-' || *s == '+';
    size_t word = lex_word(s + sign, "infinity");
    if (word)
        n = sign + word;
    return n && !s[n] ? lex_float_value(a, s, n, (struct place){0}) : NULL;
}

static struct node *to_int(struct aq_arena *a, const struct node *v)
{
    if (v->type == NODE_STRING)
        return int_of_text(a, v->s);
    if (v->type == NODE_FLOAT)
        return fabs(v->f) < 9e18 ? node_int(a, (int64_t)v->f, v->place) : NULL;
    if (v->type == NODE_BOOL)
        return node_int(a, v->b, v->place);
    return v->type == NODE_INT ? node_copy(a, v) : NULL;
}

static struct node *to_float(struct aq_arena *a, const struct node *v)
{
    if (v->type == NODE_STRING)
        return float_of_text(a, v->s);
    if (v->type == NODE_INT)
        return node_float(a, v->wide ? strtod(v->wide, NULL) : (double)v->i, v->place);
    if (v->type == NODE_BOOL)
        return node_float(a, v->b, v->place);
    return v->type == NODE_FLOAT ? node_copy(a, v) : NULL;
}

static struct node *to_str(struct aq_arena *a, const struct node *v)
{
    if (v->type == NODE_NULL)
        return NULL;
    if (v->type == NODE_BOOL)
        return node_string(a, v->b ? "true" : "false", v->place);
    struct aq_buf text = AQ_BUF_INIT;
    node_print(&text, v);
    struct node *s = node_string(a, aq_arena_strdup(a, aq_buf_str(&text)), v->place);
    aq_buf_release(&text);
    return s;
}

static struct node *to_bool(struct aq_arena *a, const struct node *v)
{
    if (v->type == NODE_STRING) {
        bool yes = strcasecmp(v->s, "true") == 0;
        return yes || strcasecmp(v->s, "false") == 0 ? node_bool(a, yes, v->place) : NULL;
    }
    if (v->type == NODE_INT)
        return node_bool(a, v->wide || v->i, v->place);
    if (v->type == NODE_FLOAT)
        return node_bool(a, v->f != 0, v->place);
    return v->type == NODE_BOOL ? node_copy(a, v) : NULL;
}

/* Lists and mappings are cast element by element. NULL if a part cannot be cast. */
static struct node *cast_node(struct aq_arena *a, enum cast cast, const struct node *v)
{
    static struct node *(*const scalar[])(struct aq_arena *, const struct node *) = {
        to_int, to_float, to_str, to_bool};
    if (!node_is_container(v))
        return scalar[cast](a, v);
    struct node *copy = node_copy(a, v);
    for (size_t i = 0; i < copy->count; i++)
        if (!(copy->items[i].value = cast_node(a, cast, copy->items[i].value)))
            return NULL;
    return copy;
}

static int cast_sweep(const struct caller *c, enum cast cast, const struct sweep *from,
                      struct value *out)
{
    bool ranged = from->kind == SWEEP_RANGE || from->kind == SWEEP_INTERVAL;
    if (from->kind == SWEEP_GLOB || (ranged && cast != CAST_INT && cast != CAST_FLOAT))
        return fail(c, "this sweep cannot be cast");
    struct sweep *s = new_sweep(c->a, from->kind);
    *s = *from;
    struct node **parts[] = {&s->items, &s->start, &s->stop, &s->step};
    for (size_t i = 0; i < AQ_COUNT(parts); i++)
        if (*parts[i] && !(*parts[i] = cast_node(c->a, cast, *parts[i])))
            return fail(c, "a value cannot be cast");
    *out = (struct value){NULL, s};
    return 0;
}

static int call_cast(const struct caller *c, enum cast cast, struct value *out)
{
    struct value v;
    if (c->call->count == 0)
        return fail(c, "expected a value");
    if (c->call->count > 1) {
        if (choices_of(c, SWEEP_SIMPLE, &v) < 0)
            return -1;
    } else if (bind(c, (const char *const[]){"value"}, 1, &v) < 0) {
        return -1;
    }
    if (v.sweep)
        return cast_sweep(c, cast, v.sweep, out);
    out->node = cast_node(c->a, cast, v.node);
    return out->node ? 0 : fail(c, "this value cannot be cast");
}

static int call_int(const struct caller *c, struct value *out)
{
    return call_cast(c, CAST_INT, out);
}

static int call_float(const struct caller *c, struct value *out)
{
    return call_cast(c, CAST_FLOAT, out);
}

static int call_str(const struct caller *c, struct value *out)
{
    return call_cast(c, CAST_STR, out);
}

static int call_bool(const struct caller *c, struct value *out)
{
    return call_cast(c, CAST_BOOL, out);
}

/* ---- sweeps ---- */

static int call_choice(const struct caller *c, struct value *out)
{
    if (c->call->count == 0)
        return fail(c, "expected at least one value");
    if (c->call->count == 1 && c->call->args[0].sweep) {
        struct sweep *s = c->call->args[0].sweep;
        if (s->kind != SWEEP_SIMPLE)
            return fail(c, "choices cannot be nested");
        s->kind = SWEEP_CHOICE;
        out->sweep = s;
        return 0;
    }
    return choices_of(c, SWEEP_CHOICE, out);
}

static int call_range(const struct caller *c, struct value *out)
{
    struct value v[3];
    if (bind(c, (const char *const[]){"start", "stop", "step"}, 3, v) < 0)
        return -1;
    struct sweep *s = new_sweep(c->a, SWEEP_RANGE);
    s->start = v[1].node ? v[0].node : node_int(c->a, 0, (struct place){0});
    s->stop = v[1].node ? v[1].node : v[0].node;
    s->step = v[2].node ? v[2].node : node_int(c->a, 1, (struct place){0});
    if (!is_number(s->start) || !is_number(s->stop) || !is_number(s->step))
        return fail(c, "expected numbers: start, stop and step");
    out->sweep = s;
    return 0;
}

static int call_interval(const struct caller *c, struct value *out)
{
    struct value v[2];
    if (bind(c, (const char *const[]){"start", "end"}, 2, v) < 0)
        return -1;
    if (!is_number(v[0].node) || !is_number(v[1].node))
        return fail(c, "expected two numbers");
    struct sweep *s = new_sweep(c->a, SWEEP_INTERVAL);
    s->start = to_float(c->a, v[0].node);
    s->stop = to_float(c->a, v[1].node);
    out->sweep = s;
    return 0;
}

/* One pattern or a list of them; NULL is an empty list. */
static struct node *patterns(const struct caller *c, struct node *v)
{
    if (v && v->type == NODE_LIST) {
        for (size_t i = 0; i < v->count; i++)
            if (v->items[i].value->type != NODE_STRING)
                return NULL;
        return v;
    }
    if (v && v->type != NODE_STRING)
        return NULL;
    struct node *list = node_new(c->a, NODE_LIST, (struct place){0});
    if (v)
        node_push(c->a, list, v);
    return list;
}

static int call_glob(const struct caller *c, struct value *out)
{
    struct value v[2];
    if (bind(c, (const char *const[]){"include", "exclude"}, 2, v) < 0)
        return -1;
    struct sweep *s = new_sweep(c->a, SWEEP_GLOB);
    s->include = v[0].node ? patterns(c, v[0].node) : NULL;
    s->exclude = patterns(c, v[1].node);
    if (!s->include || !s->exclude)
        return fail(c, "expected patterns: glob(include, exclude=...)");
    out->sweep = s;
    return 0;
}

static int call_tag(const struct caller *c, struct value *out)
{
    for (size_t i = 0; i + 1 < c->call->count; i++)
        if (!c->call->args[i].node || c->call->args[i].node->type != NODE_STRING)
            return fail(c, "tags must be strings");
    if (!c->call->count || !c->call->args[c->call->count - 1].sweep)
        return fail(c, "the last argument must be choice(), range() or interval()");
    *out = c->call->args[c->call->count - 1];
    return 0;
}

/* ---- sort ---- */

static int compare(const struct node *a, const struct node *b)
{
    if (a->type == NODE_STRING)
        return strcmp(a->s, b->s);
    double x = node_number(a), y = node_number(b);
    return (x > y) - (x < y);
}

/* Stable, also in reverse, as Python's. Lists here are short: they were typed. */
static int sort_list(const struct caller *c, struct node *list, bool reverse)
{
    for (size_t i = 0; i < list->count; i++) {
        const struct node *v = list->items[i].value, *first = list->items[0].value;
        if ((v->type != NODE_STRING && !is_number(v)) ||
            (v->type == NODE_STRING) != (first->type == NODE_STRING))
            return fail(c, "only numbers, or only strings, can be sorted");
        struct node_entry moving = list->items[i];
        size_t at = i;
        for (; at > 0; at--) {
            int order = compare(list->items[at - 1].value, moving.value);
            if (reverse ? order >= 0 : order <= 0)
                break;
            list->items[at] = list->items[at - 1];
        }
        list->items[at] = moving;
    }
    return 0;
}

static struct node *number(const struct caller *c, bool whole, double x)
{
    struct place none = {0};
    return whole ? node_int(c->a, (int64_t)x, none) : node_float(c->a, x, none);
}

/* A range sorted the other way round: the same steps from the other end. */
static void sort_range(const struct caller *c, struct sweep *s, bool reverse)
{
    double start = to_float(c->a, s->start)->f, stop = to_float(c->a, s->stop)->f;
    double step = to_float(c->a, s->step)->f;
    bool whole =
        s->start->type == NODE_INT && s->stop->type == NODE_INT && s->step->type == NODE_INT;
    if (reverse ? start >= stop : start <= stop)
        return;
    double shift = reverse ? -fabs(step) : fabs(step);
    s->start = number(c, whole, stop + shift);
    s->stop = number(c, whole, start + shift);
    s->step = number(c, whole, -step);
}

static int call_sort(const struct caller *c, struct value *out)
{
    bool reverse = false;
    struct function_call rest = {.name = c->call->name};
    rest.args = aq_arena_alloc(c->a, c->call->count * sizeof *rest.args);
    rest.names = aq_arena_alloc(c->a, c->call->count * sizeof *rest.names);
    for (size_t i = 0; i < c->call->count; i++) {
        const char *name = c->call->names[i];
        const struct node *v = c->call->args[i].node;
        if (name && strcmp(name, "reverse") == 0) {
            if (!v || v->type != NODE_BOOL)
                return fail(c, "reverse must be true or false");
            reverse = v->b;
        } else if (name && strcmp(name, "list") != 0 && strcmp(name, "sweep") != 0) {
            return fail(c, "unknown named argument");
        } else {
            rest.args[rest.count++] = c->call->args[i];
        }
    }
    const struct caller plain = {c->a, &rest, c->err};
    if (rest.count == 0)
        return fail(c, "expected values");
    if (rest.count > 1) {
        if (choices_of(&plain, SWEEP_SIMPLE, out) < 0)
            return -1;
        return sort_list(c, out->sweep->items, reverse);
    }
    *out = unquoted(c->a, rest.args[0]);
    if (out->node)
        return out->node->type == NODE_LIST ? sort_list(c, out->node, reverse) : 0;
    if (out->sweep->items)
        return sort_list(c, out->sweep->items, reverse);
    if (out->sweep->kind != SWEEP_RANGE)
        return fail(c, "this sweep cannot be sorted");
    sort_range(c, out->sweep, reverse);
    return 0;
}

static int call_shuffle(const struct caller *c, struct value *out)
{
    (void)out;
    return fail(c, "a random order cannot be made again; write the order that you want");
}

/* ---- the table ---- */

static const struct {
    const char *name;
    int (*call)(const struct caller *c, struct value *out);
} functions[] = {
    {"bool", call_bool},   {"choice", call_choice},   {"float", call_float},
    {"glob", call_glob},   {"int", call_int},         {"interval", call_interval},
    {"range", call_range}, {"shuffle", call_shuffle}, {"sort", call_sort},
    {"str", call_str},     {"tag", call_tag},
};

int override_call(struct aq_arena *a, const struct function_call *call, struct value *out,
                  struct aq_err *err)
{
    struct caller c = {a, call, err};
    for (size_t i = 0; i < AQ_COUNT(functions); i++)
        if (strcmp(functions[i].name, call->name) == 0)
            return functions[i].call(&c, out);
    struct aq_names names = {0};
    for (size_t i = 0; i < AQ_COUNT(functions); i++)
        aq_names_add(&names, functions[i].name);
    aq_err_set(err, AQ_EUSAGE, "unknown function '%s'", aq_show(call->name));
    aq_names_hint(err, "available", call->name, &names);
    free(names.items);
    return -1;
}
