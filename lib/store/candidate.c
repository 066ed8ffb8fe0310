#include "store/candidate.h"

#include "base/mem.h"
#include "base/sha256.h"
#include "io/product.h"
#include "quant/overlay.h"

#include <stdlib.h>
#include <string.h>

void treatment_id(const char *w, const char *a, char out[TREATMENT_ID])
{
    struct aq_sha256 s;
    char hex[AQ_SHA256_HEX];
    aq_sha256_init(&s);
    aq_sha256_add(&s, w, strlen(w));
    aq_sha256_add(&s, "|", 1);
    aq_sha256_add(&s, a, strlen(a));
    aq_sha256_hex(&s, hex);
    memcpy(out, hex, TREATMENT_ID - 1);
    out[TREATMENT_ID - 1] = '\0';
}

int treatment_width(const char *treatment)
{
    enum { UNQUANTIZED_BITS = 16 };
    struct quant_spec spec;
    struct aq_err ignored = {0};
    int bits = UNQUANTIZED_BITS;
    if (quant_parse(treatment, &spec, &ignored) < 0)
        return 0;
    for (int i = 0; i < spec.steps; i++)
        bits = spec.step[i].bits < bits ? spec.step[i].bits : bits;
    return bits;
}

static bool treatment_has_own_range(const struct quant_spec *act)
{
    for (int i = 0; i < act->steps; i++)
        if (act->step[i].dynamic && act->step[i].scope == QUANT_TENSOR)
            return true;
    return false;
}

bool treatment_ranged(const struct quant_spec *act)
{
    for (int i = 0; i < act->steps; i++)
        if (!act->step[i].dynamic)
            return true;
    return false;
}

/* Unless it is there already. */
static int add_treatment(struct candidates *c, const char *w, const char *a, struct aq_err *err)
{
    struct candidate n = {0};
    if (quant_parse(w, &n.ws, err) < 0 || quant_parse_act(a, &n.as, err) < 0)
        return -1;
    if (!n.ws.steps && !n.as.steps)
        return aq_err_set(err, AQ_EINPUT, "treatment 'none|none' quantizes nothing");
    treatment_id(w, a, n.id);
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->items[i].id, n.id) == 0)
            return 0;
    n.ranged = treatment_ranged(&n.as);
    n.own_range = treatment_has_own_range(&n.as);
    n.w = xstrdup(w);
    n.a = xstrdup(a);
    AQ_GROW(c->items, c->count, c->cap);
    c->items[c->count++] = n;
    return 0;
}

static int add_document(struct candidates *c, const struct jref *root, struct aq_err *err)
{
    struct jref treatment, reason;
    const char *w, *a, *id;
    bool supported;
    if (jref_bool(root, "supported", &supported, err) < 0)
        return -1;
    if (!supported)
        return jref_fail(root, err, "this cell is not supported: %s",
                         jref_has(root, "reason", &reason) && json_type(reason.v) == JSON_STRING
                             ? aq_show(json_string(reason.v))
                             : "no reason given");
    if (jref_get(root, "treatment", JSON_OBJECT, &treatment, err) < 0 ||
        jref_string(&treatment, "w", &w, err) < 0 || jref_string(&treatment, "a", &a, err) < 0 ||
        jref_string(root, "treatment_id", &id, err) < 0)
        return -1;
    char expected[TREATMENT_ID];
    treatment_id(w, a, expected);
    if (strcmp(id, expected) != 0)
        return jref_fail(root, err, "treatment_id is '%s', but that of its treatment is '%s'",
                         aq_show(id), expected);
    return add_treatment(c, w, a, err) < 0 ? aq_err_prefix(err, "%s", jref_show(&treatment)) : 0;
}

int candidates_add_file(struct candidates *c, const char *path, struct aq_err *err)
{
    struct json *v = product_read(path, QUANT_SCHEMA, err);
    if (!v)
        return -1;
    struct jref root = jref_root(v, path);
    int r = add_document(c, &root, err);
    json_free(v);
    return r;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct candidate *)a)->id, ((const struct candidate *)b)->id);
}

void candidates_sort(struct candidates *c)
{
    if (c->count)
        qsort(c->items, c->count, sizeof *c->items, by_id);
}

void candidates_release(struct candidates *c)
{
    for (size_t i = 0; i < c->count; i++) {
        free(c->items[i].w);
        free(c->items[i].a);
    }
    free(c->items);
    *c = (struct candidates){0};
}

void score_rows_make(struct score_rows *r, const struct candidates *c, const int64_t *prefixes,
                     size_t prefix_count, int64_t score_samples)
{
    r->count = 0;
    r->items = xcalloc(c->count * (prefix_count + 1), sizeof *r->items);
    for (size_t i = 0; i < c->count; i++) {
        if (!c->items[i].ranged) {
            r->items[r->count++] = (struct score_row){i, 0, score_samples};
            continue;
        }
        for (size_t p = 0; p < prefix_count; p++) {
            int64_t n = prefixes[p] < score_samples ? prefixes[p] : score_samples;
            r->items[r->count++] = (struct score_row){i, prefixes[p], n};
        }
    }
}

void score_rows_release(struct score_rows *r)
{
    free(r->items);
    *r = (struct score_rows){0};
}
