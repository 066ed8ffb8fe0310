#include "conf/sweep.h"
#include "base/buf.h"
#include "base/mem.h"
#include "conf/decimal.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

int sweep_check_single(const struct override *overrides, size_t count, struct aq_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct override *o = &overrides[i];
        if (!o->value.sweep)
            continue;
        if (o->value.sweep->kind != SWEEP_SIMPLE)
            return aq_err_set(err, AQ_EUSAGE, "sweep parameters '%s' require -m", aq_show(o->text));
        aq_err_set(err, AQ_EUSAGE, "ambiguous value for argument '%s'", aq_show(o->text));
        return aq_err_hint(err,
                           "for a list write %s=[a,b]; for a string quote the value: "
                           "%s=\\'a,b\\'; for a sweep add -m",
                           aq_show(o->key), aq_show(o->key));
    }
    return 0;
}

/* ---- the values of one sweep ---- */

static int fail(const struct override *o, const char *what, struct aq_err *err)
{
    return aq_err_set(err, AQ_EUSAGE, "override '%s': %s", aq_show(o->text), what);
}

static void add_typed(struct sweep_key *k, const char *text)
{
    aq_names_add(&k->texts, text);
}

static void add_text(struct aq_arena *a, struct sweep_key *k, const char *key, const char *value)
{
    add_typed(k, aq_arena_printf(a, "%s=%s", key, value));
}

static void add_value(struct aq_arena *a, struct sweep_key *k, const char *key,
                      const struct node *v)
{
    struct aq_buf text = AQ_BUF_INIT;
    override_value_text(&text, v);
    add_text(a, k, key, aq_buf_str(&text));
    aq_buf_release(&text);
}

static int add_choices(struct aq_arena *a, struct sweep_key *k, const char *key,
                       const struct node *items)
{
    for (size_t i = 0; i < items->count; i++)
        add_value(a, k, key, items->items[i].value);
    return 0;
}

static int add_ints(struct aq_arena *a, const struct override *o, struct sweep_key *k,
                    const char *key, struct aq_err *err)
{
    const struct sweep *s = o->value.sweep;
    int64_t step = s->step->i, at = s->start->i;
    if (step == 0)
        return fail(o, "the step of a range must not be zero", err);
    while (step > 0 ? at < s->stop->i : at > s->stop->i) {
        if (k->texts.count > SWEEP_MAX_JOBS)
            return fail(o, "too many values (limit 65536)", err);
        const struct node v = {.type = NODE_INT, .i = at};
        add_value(a, k, key, &v);
        if (__builtin_add_overflow(at, step, &at))
            break;
    }
    return 0;
}

static struct decimal decimal_of(const struct node *v)
{
    return decimal_from_double(node_number(v));
}

/* Floats are added as decimals of 28 digits, so that ten steps of 0.1 do not drift away. */
static int add_floats(struct aq_arena *a, const struct override *o, struct sweep_key *k,
                      const char *key, struct aq_err *err)
{
    const struct sweep *s = o->value.sweep;
    struct decimal at = decimal_of(s->start), stop = decimal_of(s->stop),
                   step = decimal_of(s->step);
    int direction = decimal_sign(&step);
    if (direction == 0 || !at.finite || !stop.finite || !step.finite)
        return fail(o, "start, stop and step of a range must be finite, the step not zero", err);
    while (decimal_compare(&at, &stop) * direction < 0) {
        if (k->texts.count > SWEEP_MAX_JOBS)
            return fail(o, "too many values (limit 65536)", err);
        const struct node v = {.type = NODE_FLOAT, .f = decimal_to_double(&at)};
        add_value(a, k, key, &v);
        struct decimal next = decimal_add(&at, &step);
        if (decimal_compare(&next, &at) == 0)
            return fail(o, "the step is too small", err);
        at = next;
    }
    return 0;
}

static bool matches(const struct node *patterns, const char *name)
{
    for (size_t i = 0; i < patterns->count; i++)
        if (fnmatch(patterns->items[i].value->s, name, FNM_NOESCAPE) == 0)
            return true;
    return false;
}

static int add_glob(struct conf_search *s, struct aq_arena *a, const struct override *o,
                    struct sweep_key *k, const char *key)
{
    const struct sweep *g = o->value.sweep;
    struct aq_names names = strcmp(o->key, "model") == 0 ? conf_models(s) : conf_options(s, o->key);
    for (size_t i = 0; i < names.count; i++)
        if (matches(g->include, names.items[i]) && !matches(g->exclude, names.items[i]))
            add_text(a, k, key, names.items[i]);
    free(names.items);
    return 0;
}

static bool is_whole(const struct node *v)
{
    return v->type == NODE_INT && !v->wide;
}

static int add_sweep(struct conf_search *s, struct aq_arena *a, const struct override *o,
                     struct sweep_key *k, const char *key, struct aq_err *err)
{
    const struct sweep *sw = o->value.sweep;
    if (override_of_hydra(o))
        return fail(o, "values of hydra cannot be swept", err);
    switch (sw->kind) {
    case SWEEP_SIMPLE:
    case SWEEP_CHOICE:
        return add_choices(a, k, key, sw->items);
    case SWEEP_RANGE:
        return is_whole(sw->start) && is_whole(sw->stop) && is_whole(sw->step)
                   ? add_ints(a, o, k, key, err)
                   : add_floats(a, o, k, key, err);
    case SWEEP_GLOB:
        return add_glob(s, a, o, k, key);
    case SWEEP_INTERVAL:
        break;
    }
    return fail(o, "an interval has no list of values, use range() or choice()", err);
}

/* ---- all keys ---- */

/* A repeated key replaces the earlier one at its position. */
static struct sweep_key *slot(struct sweep_plan *p, struct aq_strmap *by_key, const char *key)
{
    size_t at = (size_t)(uintptr_t)aq_strmap_get(by_key, key);
    if (at) {
        p->keys[at - 1].texts.count = 0;
        return &p->keys[at - 1];
    }
    AQ_GROW(p->keys, p->count, p->cap);
    p->keys[p->count++] = (struct sweep_key){0};
    aq_strmap_put(by_key, key, (void *)(uintptr_t)p->count);
    return &p->keys[p->count - 1];
}

static int expand(struct conf_search *s, struct aq_arena *a, const struct override *overrides,
                  size_t count, struct sweep_plan *p, struct aq_strmap *by_key, struct aq_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct override *o = &overrides[i];
        const char *key = override_key_element(a, o);
        struct sweep_key *k = slot(p, by_key, key);
        k->number = o->number;
        if (override_of_hydra(o) && !o->value.sweep) {
            add_typed(k, o->text);
        } else if (o->value.sweep) {
            if (add_sweep(s, a, o, k, key, err) < 0)
                return -1;
        } else if (o->has_value) {
            add_value(a, k, key, o->value.node);
        } else {
            add_text(a, k, key, "null");
        }
    }
    p->jobs = 1;
    for (size_t i = 0; i < p->count; i++)
        if (!aq_mul(p->jobs, p->keys[i].texts.count, &p->jobs) || p->jobs > SWEEP_MAX_JOBS)
            return aq_err_set(err, AQ_EUSAGE, "the sweep has more than %d jobs",
                              (int)SWEEP_MAX_JOBS);
    return 0;
}

int sweep_expand(struct conf_search *s, struct aq_arena *a, const struct override *overrides,
                 size_t count, struct sweep_plan *out, struct aq_err *err)
{
    struct aq_strmap by_key = AQ_STRMAP_INIT;
    *out = (struct sweep_plan){0};
    int r = expand(s, a, overrides, count, out, &by_key, err);
    aq_strmap_release(&by_key);
    if (r < 0)
        sweep_release(out);
    return r;
}

void sweep_release(struct sweep_plan *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->keys[i].texts.items);
    free(p->keys);
    *p = (struct sweep_plan){0};
}

int sweep_job(const struct sweep_plan *p, size_t job, struct aq_arena *a, struct override *list,
              struct aq_err *err)
{
    for (size_t i = p->count; i-- > 0;) {
        const struct sweep_key *k = &p->keys[i];
        const char *text = k->texts.items[job % k->texts.count];
        job /= k->texts.count;
        if (override_parse(a, text, k->number, &list[i], err) < 0)
            return -1;
    }
    return 0;
}
