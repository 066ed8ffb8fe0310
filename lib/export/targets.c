#include "export/targets.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static const char marker[] = "layers.";

/* ---- names ---- */

size_t targets_parent(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? (size_t)(dot - module) + 1 : 0;
}

/* What comes after "layers.N."; NULL: the name has no such part. */
static const char *after_layer(const char *module)
{
    const char *at = strstr(module, marker);
    if (!at || (at > module && at[-1] != '.'))
        return NULL;
    at += strlen(marker);
    size_t digits = strspn(at, "0123456789");
    return digits && at[digits] == '.' ? at + digits + 1 : NULL;
}

const char *targets_fused(const struct model_group *g)
{
    if (g->module_count < 2)
        return NULL;
    if (strcmp(g->kind, "qkv") == 0)
        return "qkv_proj";
    return strcmp(g->kind, "gate_up") == 0 ? "gate_up_proj" : NULL;
}

char *targets_router(const struct model_group *g)
{
    const char *experts = g->experts ? strstr(g->modules[0].name, ".experts.") : NULL;
    return experts ? xasprintf("%.*s.gate", (int)(experts - g->modules[0].name), g->modules[0].name)
                   : NULL;
}

int targets_check(const struct export_plan *p, struct aq_err *err)
{
    for (size_t i = 0; i < p->count; i++)
        for (int k = 0; k < p->groups[i].module_count; k++) {
            const char *name = p->groups[i].modules[k].name, *rest = after_layer(name);
            static const char plain[] =
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
            if (!rest || rest[strspn(rest, plain)])
                return aq_err_set(err, AQ_EINPUT,
                                  "module '%s': expected a name such as 'layers.0.mlp.up_proj'",
                                  aq_show(name));
        }
    return 0;
}

/* ---- numbering ---- */

static bool same_scheme(const struct scheme *a, const struct scheme *b)
{
    return strcmp(a->name, b->name) == 0 && a->codes == b->codes && a->bits == b->bits &&
           a->group == b->group && a->act == b->act;
}

int targets_number(const struct export_plan *p, int *number, size_t *first)
{
    int count = 0;
    for (size_t i = 0; i < p->count; i++) {
        number[i] = -1;
        if (!p->groups[i].verdict.quantized)
            continue;
        for (int k = 0; k < count && number[i] < 0; k++)
            if (same_scheme(&p->groups[first[k]].verdict.scheme, &p->groups[i].verdict.scheme))
                number[i] = k;
        if (number[i] < 0) {
            first[count] = i;
            number[i] = count++;
        }
    }
    return count;
}

/* ---- expressions ---- */

static void add_escaped(struct aq_buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (n - i >= 3 && memcmp(s + i, "{e}", 3) == 0) { /* any expert */
            aq_buf_adds(out, "[0-9]+");
            i += 2;
            continue;
        }
        if (s[i] == '.')
            aq_buf_addc(out, '\\');
        aq_buf_addc(out, s[i]);
    }
}

/* "self_attn\.(q_proj|k_proj|v_proj|qkv_proj)$": groups with the same tail share an expression. */
static char *tail_of(const struct model_group *g)
{
    struct aq_buf out = AQ_BUF_INIT;
    const char *rest = after_layer(g->modules[0].name);
    add_escaped(&out, rest, targets_parent(rest));
    aq_buf_addc(&out, '(');
    for (int i = 0; i < g->module_count; i++) {
        const char *name = g->modules[i].name;
        aq_buf_addf(&out, "%s%s", i ? "|" : "", name + targets_parent(name));
    }
    if (targets_fused(g))
        aq_buf_addf(&out, "|%s", targets_fused(g));
    aq_buf_adds(&out, ")$");
    return aq_buf_detach(&out);
}

struct expression {
    char *tail;
    struct aq_buf layers;
};

static struct json *expressions(const struct export_plan *p, const int *number, int wanted,
                                struct json *list)
{
    struct expression *all = NULL;
    size_t count = 0, cap = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (number[i] != wanted)
            continue;
        char *tail = tail_of(p->groups[i].model);
        size_t k = 0;
        while (k < count && strcmp(all[k].tail, tail) != 0)
            k++;
        if (k == count) {
            AQ_GROW(all, count, cap);
            all[count++] = (struct expression){tail, AQ_BUF_INIT};
        } else {
            free(tail);
        }
        aq_buf_addf(&all[k].layers, "%s%lld", all[k].layers.len ? "|" : "",
                    (long long)p->groups[i].model->layer);
    }
    for (size_t k = 0; k < count; k++) {
        char *text =
            xasprintf("re:.*\\blayers\\.(%s)\\.%s", aq_buf_str(&all[k].layers), all[k].tail);
        json_push(list, json_new_string(text));
        free(text);
        free(all[k].tail);
        aq_buf_release(&all[k].layers);
    }
    free(all);
    return list;
}

struct json *targets_of(const struct export_plan *p, const int *number, int wanted)
{
    return expressions(p, number, wanted, json_new_array());
}

/* "re:.*\bvisual\..*" of the prefix "model.visual.": by its last part, so that the names that
   engines give to the tower match, too. */
static void ignore_prefix(struct json *list, const char *prefix)
{
    struct aq_buf out = AQ_BUF_INIT;
    size_t n = strlen(prefix);
    if (n && prefix[n - 1] == '.')
        n--;
    size_t from = n;
    while (from && prefix[from - 1] != '.')
        from--;
    if (from == n)
        return;
    aq_buf_adds(&out, "re:.*\\b");
    add_escaped(&out, prefix + from, n - from);
    aq_buf_adds(&out, "\\..*");
    json_push(list, json_new_string(aq_buf_str(&out)));
    aq_buf_release(&out);
}

struct json *targets_ignored(const struct export_plan *p, const int *number)
{
    struct json *list = json_new_array();
    for (size_t i = 0; i < p->lm.dropped_count; i++)
        if (p->lm.dropped[i].linears)
            ignore_prefix(list, p->lm.dropped[i].prefix);
    json_push(list, json_new_string("re:.*lm_head$"));
    for (size_t i = 0; i < p->count; i++) {
        char *router = targets_router(p->groups[i].model);
        struct aq_buf tail = AQ_BUF_INIT;
        if (!router)
            continue;
        const char *rest = after_layer(router); /* the same in all layers */
        aq_buf_adds(&tail, "re:.*\\b");
        add_escaped(&tail, rest, strlen(rest));
        aq_buf_addc(&tail, '$');
        json_push(list, json_new_string(aq_buf_str(&tail)));
        aq_buf_release(&tail);
        free(router);
        break;
    }
    return expressions(p, number, -1, list);
}
