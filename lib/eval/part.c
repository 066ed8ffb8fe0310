#include "eval/part.h"

#include "base/mem.h"
#include "base/sha256.h"
#include "io/safetensors.h"
#include "text/dataset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void eval_part_init(struct eval_part *p, struct json *identity, size_t operands, bool noise)
{
    const struct json *routing = json_get(identity, "routing");
    *p = (struct eval_part){.identity = identity,
                            .operands = operands,
                            .noise = noise,
                            .routing =
                                routing && json_type(routing) == JSON_BOOL && json_bool(routing)};
}

void eval_part_add(struct eval_part *p, const char *name, int64_t samples, const int64_t *offsets)
{
    p->domains = xreallocarray(p->domains, p->count + 1, sizeof *p->domains);
    struct eval_part_domain *d = &p->domains[p->count++];
    size_t n = (size_t)offsets[samples];
    *d = (struct eval_part_domain){.name = xstrdup(name), .samples = samples};
    d->offsets = xcalloc((size_t)samples + 1, sizeof *d->offsets);
    memcpy(d->offsets, offsets, ((size_t)samples + 1) * sizeof *offsets);
    d->values = xcalloc(p->operands + 1, sizeof *d->values);
    for (size_t i = 0; i < p->operands; i++)
        d->values[i] =
            (struct eval_values){.kl = xcalloc(n + 1, sizeof(double)),
                                 .rkl = xcalloc(n + 1, sizeof(double)),
                                 .nll_reference = xcalloc(n + 1, sizeof(double)),
                                 .nll = xcalloc(n + 1, sizeof(double)),
                                 .routing = p->routing ? xcalloc(n + 1, sizeof(double)) : NULL,
                                 .top1 = xcalloc(n + 1, 1)};
    if (p->noise)
        d->noise = xcalloc(n + 1, sizeof *d->noise);
}

void eval_part_release(struct eval_part *p)
{
    for (size_t i = 0; i < p->count; i++) {
        struct eval_part_domain *d = &p->domains[i];
        for (size_t k = 0; k < p->operands; k++) {
            free(d->values[k].kl);
            free(d->values[k].rkl);
            free(d->values[k].nll_reference);
            free(d->values[k].nll);
            free(d->values[k].routing);
            free(d->values[k].top1);
        }
        free(d->values);
        free(d->noise);
        free(d->offsets);
        free(d->name);
    }
    free(p->domains);
    json_free(p->identity);
    *p = (struct eval_part){0};
}

/* ---- the tensors of a part, in one order for writing, reading and digests ---- */

enum { MOST_COLUMNS = 6 };
static const char *const columns[MOST_COLUMNS] = {"kl", "rkl", "nll", "nll", "top1", "routing"};

/* Of an operand. */
static size_t column_count(const struct eval_part *p)
{
    return p->routing ? MOST_COLUMNS : MOST_COLUMNS - 1;
}

struct column {
    char name[160];
    void *data; /* of the whole domain, at the first position of the part */
    enum st_dtype dtype;
    uint64_t row, rows; /* nll has two rows */
    int64_t positions;
};

static size_t cell_bytes(const struct column *c)
{
    return c->dtype == ST_U8 ? 1 : 8;
}

/* Column i of all: operands, domains, kinds; then noise by domain. False after the last. */
static bool column_at(const struct eval_part *p, size_t i, struct column *c)
{
    size_t each = column_count(p), per_domain = p->operands * each + (p->noise ? 1 : 0);
    if (per_domain == 0)
        return false;
    size_t number = i / per_domain, k = i % per_domain;
    if (number >= p->count)
        return false;
    const struct eval_part_domain *d = &p->domains[number];
    int64_t at = d->offsets[d->first];
    *c = (struct column){.dtype = ST_F64, .rows = 1, .positions = d->offsets[d->end] - at};
    if (k == p->operands * each) {
        (void)snprintf(c->name, sizeof c->name, "noise/%s", d->name);
        c->data = d->noise + at;
        return true;
    }
    const struct eval_values *v = &d->values[k / each];
    int kind = (int)(k % each);
    (void)snprintf(c->name, sizeof c->name, "%zu/%s/%s", k / each + 1, d->name, columns[kind]);
    double *const doubles[] = {v->kl, v->rkl, v->nll_reference, v->nll, NULL, v->routing};
    if (kind == 4) {
        c->dtype = ST_U8;
        c->data = v->top1 + at;
    } else {
        c->data = doubles[kind] + at;
        c->rows = kind == 2 || kind == 3 ? 2 : 1;
        c->row = kind == 3;
    }
    return true;
}

/* ---- writing ---- */

static struct json *describe(const struct eval_part *p)
{
    struct json *v = json_new_object();
    json_add_string(v, "schema", EVAL_PART_SCHEMA);
    json_add(v, "identity", json_copy(p->identity));
    struct json *done = json_add_object(v, "done");
    for (size_t i = 0; i < p->count; i++) {
        struct json *range = json_add_array(done, p->domains[i].name);
        json_push(range, json_new_int(p->domains[i].first));
        json_push(range, json_new_int(p->domains[i].end));
    }
    return v;
}

/* Of the description without the digest, and of all values. */
static int seal(const struct eval_part *p, const struct json *v, char out[AQ_SHA256_HEX],
                struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_sha256 sha;
    struct column c;
    int r = json_write(&text, v, JSON_COMPACT, err);
    aq_sha256_init(&sha);
    aq_sha256_add(&sha, text.data, text.len);
    for (size_t i = 0; r == 0 && column_at(p, i, &c); i++)
        aq_sha256_add(&sha, c.data, (size_t)c.positions * cell_bytes(&c));
    for (size_t i = 0; r == 0 && i < p->count; i++) {
        const struct eval_part_domain *d = &p->domains[i];
        for (int64_t s = d->first; s <= d->end; s++) {
            int64_t offset = d->offsets[s] - d->offsets[d->first];
            aq_sha256_add(&sha, &offset, sizeof offset);
        }
    }
    aq_sha256_hex(&sha, out);
    aq_buf_release(&text);
    return r;
}

static int write_columns(const struct eval_part *p, struct st_writer *w, const int *handles,
                         const int *offsets, struct aq_err *err)
{
    struct column c;
    for (size_t i = 0; column_at(p, i, &c); i++) {
        size_t bytes = (size_t)c.positions * cell_bytes(&c);
        if (st_write(w, handles[i], c.row * bytes, c.data, bytes, err) < 0)
            return -1;
    }
    for (size_t i = 0; i < p->count; i++) {
        const struct eval_part_domain *d = &p->domains[i];
        for (int64_t s = d->first; s <= d->end; s++) {
            int64_t offset = d->offsets[s] - d->offsets[d->first];
            if (st_write(w, offsets[i], (uint64_t)(s - d->first) * sizeof offset, &offset,
                         sizeof offset, err) < 0)
                return -1;
        }
    }
    return 0;
}

static void declare(const struct eval_part *p, struct st_writer *w, int *handles, int *offsets)
{
    struct column c;
    for (size_t i = 0; column_at(p, i, &c); i++) {
        const uint64_t shape[2] = {2, (uint64_t)c.positions}, *s = c.rows == 2 ? shape : shape + 1;
        handles[i] =
            c.row ? handles[i - 1] : st_declare(w, c.name, c.dtype, c.rows == 2 ? 2 : 1, s);
    }
    for (size_t i = 0; i < p->count; i++) {
        const struct eval_part_domain *d = &p->domains[i];
        const uint64_t n = (uint64_t)(d->end - d->first) + 1;
        char *name = xasprintf("%s/offsets", d->name);
        offsets[i] = st_declare(w, name, ST_I64, 1, &n);
        free(name);
    }
}

int eval_part_write(const struct eval_part *p, const char *path, struct aq_err *err)
{
    struct json *v = describe(p), *meta = json_new_object();
    struct aq_buf text = AQ_BUF_INIT;
    char digest[AQ_SHA256_HEX];
    size_t n = p->count * (p->operands * column_count(p) + 1);
    int *handles = xcalloc(n + 1, sizeof *handles),
        *offsets = xcalloc(p->count + 1, sizeof *offsets);
    struct st_writer *w = st_writer_new();
    int r = seal(p, v, digest, err);
    json_add_string(v, "digest", digest);
    if (r == 0)
        r = json_write(&text, v, JSON_COMPACT, err);
    json_add_string(meta, "aq", aq_buf_str(&text));
    st_writer_metadata(w, meta);
    declare(p, w, handles, offsets);
    if (r == 0)
        r = st_begin(w, path, err);
    if (r == 0)
        r = write_columns(p, w, handles, offsets, err);
    if (r == 0)
        r = st_commit(w, err);
    st_writer_free(w);
    free(handles);
    free(offsets);
    aq_buf_release(&text);
    json_free(v);
    return r;
}

/* ---- reading ---- */

static int read_domain(struct eval_part *p, const struct st_file *f, const struct jref *identity,
                       const struct jref *range, struct aq_err *err)
{
    const char *name = json_key(range->v);
    struct jref domains, own;
    int64_t ends[2] = {0, 0}, samples, i = 0;
    if (jref_get(identity, "domains", JSON_OBJECT, &domains, err) < 0 ||
        jref_get(&domains, name, JSON_OBJECT, &own, err) < 0 ||
        jref_int(&own, "samples", 1, DATASET_MAX_SAMPLES, &samples, err) < 0)
        return -1;
    if (json_size(range->v) != 2)
        return jref_fail(range, err, "expected two numbers");
    for (const struct json *v = json_first(range->v); v; v = json_next(v), i++)
        if (json_type(v) != JSON_INT || !json_int(v, &ends[i]))
            return jref_fail(range, err, "expected two whole numbers");
    if (ends[0] < 0 || ends[0] > ends[1] || ends[1] > samples)
        return jref_fail(range, err, "expected samples out of %lld", (long long)samples);
    char *offsets_name = xasprintf("%s/offsets", name);
    const struct st_tensor *t = st_need(f, offsets_name, ST_I64, 1, err);
    free(offsets_name);
    if (!t)
        return aq_err_prefix(err, "%s", aq_show(f->path));
    if (t->shape[0] != (uint64_t)(ends[1] - ends[0]) + 1)
        return jref_fail(range, err, "the offsets are of %llu samples",
                         (unsigned long long)t->shape[0] - 1);
    /* outside the part a sample has no positions; what is there is rebuilt by merge */
    int64_t *offsets = xcalloc((size_t)samples + 1, sizeof *offsets), before = 0;
    const int64_t most = (int64_t)1 << 40;
    memcpy(offsets + ends[0], t->data, (size_t)t->shape[0] * sizeof *offsets);
    bool good = offsets[ends[0]] == 0;
    for (int64_t s = ends[0]; s <= ends[1] && good; s++) {
        good = offsets[s] >= before && offsets[s] < most;
        before = offsets[s];
    }
    for (int64_t s = ends[1] + 1; s <= samples; s++)
        offsets[s] = before;
    /* the values' own tensors bound how many positions there can be */
    char *kl = xasprintf("1/%s/kl", name);
    const struct st_tensor *v = good ? st_need(f, kl, ST_F64, 1, err) : NULL;
    free(kl);
    if (good && v && v->shape[0] == (uint64_t)before) {
        eval_part_add(p, name, samples, offsets);
        p->domains[p->count - 1].first = ends[0];
        p->domains[p->count - 1].end = ends[1];
        free(offsets);
        return 0;
    }
    free(offsets);
    return good && !v ? aq_err_prefix(err, "%s", aq_show(f->path))
                      : jref_fail(range, err, "the offsets do not rise, or do not fit the values");
}

static int read_columns(struct eval_part *p, const struct st_file *f, struct aq_err *err)
{
    struct column c;
    for (size_t i = 0; column_at(p, i, &c); i++) {
        int rank = c.rows == 2 ? 2 : 1;
        const struct st_tensor *t = st_need(f, c.name, c.dtype, rank, err);
        if (!t)
            return aq_err_prefix(err, "%s", aq_show(f->path));
        if (t->shape[rank - 1] != (uint64_t)c.positions || (rank == 2 && t->shape[0] != 2))
            return aq_err_set(err, AQ_EINPUT, "%s: tensor '%s' has another shape than the offsets",
                              aq_show(f->path), c.name);
        size_t bytes = (size_t)c.positions * cell_bytes(&c);
        memcpy(c.data, (const char *)t->data + c.row * bytes, bytes);
    }
    return 0;
}

static int read_all(struct eval_part *p, const struct st_file *f, struct json *v,
                    struct aq_err *err)
{
    struct jref root = jref_root(v, f->path), identity, done, operands;
    const char *schema, *digest;
    char own[AQ_SHA256_HEX];
    bool noise;
    if (jref_is(&root, JSON_OBJECT, err) < 0 || jref_string(&root, "schema", &schema, err) < 0)
        return -1;
    if (strcmp(schema, EVAL_PART_SCHEMA) != 0)
        return jref_fail(&root, err, "expected a part of aq-eval (%s), found '%s'",
                         EVAL_PART_SCHEMA, aq_show(schema));
    if (jref_string(&root, "digest", &digest, err) < 0 ||
        jref_get(&root, "identity", JSON_OBJECT, &identity, err) < 0 ||
        jref_get(&identity, "operands", JSON_ARRAY, &operands, err) < 0 ||
        jref_bool(&identity, "noise", &noise, err) < 0 ||
        jref_get(&root, "done", JSON_OBJECT, &done, err) < 0)
        return -1;
    if (json_size(operands.v) == 0 || json_size(operands.v) > 100000)
        return jref_fail(&operands, err, "expected at least one operand");
    eval_part_init(p, json_copy(identity.v), json_size(operands.v), noise);
    for (const struct json *d = json_first(done.v); d; d = json_next(d)) {
        struct jref range = jref_child(&done, d, 0);
        if (jref_is(&range, JSON_ARRAY, err) < 0 || read_domain(p, f, &identity, &range, err) < 0)
            return -1;
    }
    if (p->count == 0)
        return jref_fail(&done, err, "expected at least one domain");
    char *given = xstrdup(digest);
    (void)json_remove(v, "digest");
    int r = read_columns(p, f, err) < 0 || seal(p, v, own, err) < 0 ? -1 : 0;
    if (r == 0 && strcmp(own, given) != 0)
        r = aq_err_set(err, AQ_EINPUT, "%s: its digest does not fit: the file is damaged or edited",
                       aq_show(f->path));
    free(given);
    return r;
}

int eval_part_read(struct eval_part *p, const char *path, struct aq_err *err)
{
    struct st_file f;
    *p = (struct eval_part){0};
    if (st_open(&f, path, err) < 0)
        return -1;
    const char *text = st_meta(&f, "aq");
    struct json *v = text ? json_parse(text, strlen(text), path, err) : NULL;
    int r = -1;
    if (!text)
        aq_err_set(err, AQ_EINPUT, "'%s' is not a part of aq-eval", aq_show(path));
    else if (v)
        r = read_all(p, &f, v, err);
    json_free(v);
    st_close(&f);
    if (r < 0)
        eval_part_release(p);
    return r;
}

/* ---- merging ---- */

/* The sample of `p` that is covered by no part yet; samples if all are. */
static int64_t first_gap(const bool *have, int64_t samples)
{
    int64_t s = 0;
    while (s < samples && have[s])
        s++;
    return s;
}

static int check_same(const struct eval_part *parts, size_t count, const char *const *paths,
                      struct aq_err *err)
{
    for (size_t i = 1; i < count; i++) {
        if (json_equal(parts[i].identity, parts[0].identity))
            continue;
        for (const struct json *m = json_first(parts[0].identity); m; m = json_next(m)) {
            const struct json *other = json_get(parts[i].identity, json_key(m));
            if (!other || !json_equal(m, other))
                return aq_err_set(err, AQ_EINPUT, "'%s' and '%s' differ in '%s'", aq_show(paths[0]),
                                  aq_show(paths[i]), json_key(m));
        }
        return aq_err_set(err, AQ_EINPUT, "'%s' and '%s' are of different evaluations",
                          aq_show(paths[0]), aq_show(paths[i]));
    }
    return 0;
}

static const struct eval_part_domain *find_domain(const struct eval_part *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->domains[i].name, name) == 0)
            return &p->domains[i];
    return NULL;
}

/* Lengths of a domain's samples from all parts. */
static int join_lengths(const struct eval_part *parts, size_t count, const char *name,
                        int64_t samples, int64_t *offsets, struct aq_err *err)
{
    bool *have = xcalloc((size_t)samples, sizeof *have);
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct eval_part_domain *d = find_domain(&parts[i], name);
        for (int64_t s = d ? d->first : 0; d && s < d->end && r == 0; s++) {
            int64_t n = d->offsets[s + 1] - d->offsets[s];
            if (have[s] && offsets[s + 1] != n)
                r = aq_err_set(err, AQ_EINPUT, "domain '%s': sample %lld has two lengths", name,
                               (long long)s);
            offsets[s + 1] = n;
            have[s] = true;
        }
    }
    int64_t gap = first_gap(have, samples);
    free(have);
    if (r < 0)
        return -1;
    if (gap < samples) {
        aq_err_set(err, AQ_EINPUT, "domain '%s': sample %lld is in none of the parts", name,
                   (long long)gap);
        return aq_err_hint(err, "a shard is missing, or was interrupted: run it again");
    }
    for (int64_t s = 0; s < samples; s++)
        offsets[s + 1] += offsets[s];
    return 0;
}

static int copy_cells(void *to, const void *from, size_t n, bool again, const char *what,
                      const char *name, int64_t sample, struct aq_err *err)
{
    if (again && memcmp(to, from, n) != 0)
        return aq_err_set(err, AQ_EINPUT, "domain '%s': two parts differ in '%s' of sample %lld",
                          name, what, (long long)sample);
    memcpy(to, from, n);
    return 0;
}

static int join_values(struct eval_part *p, const struct eval_part *from, size_t domain, bool *have,
                       struct aq_err *err)
{
    struct eval_part_domain *d = &p->domains[domain];
    const struct eval_part_domain *f = find_domain(from, d->name);
    for (int64_t s = f ? f->first : 0; f && s < f->end; s++) {
        size_t n = (size_t)(d->offsets[s + 1] - d->offsets[s]), bytes = n * sizeof(double);
        int64_t at = d->offsets[s], x = f->offsets[s];
        for (size_t k = 0; k < p->operands; k++) {
            struct eval_values *a = &d->values[k];
            const struct eval_values *b = &f->values[k];
            if (copy_cells(a->kl + at, b->kl + x, bytes, have[s], "kl", d->name, s, err) < 0 ||
                copy_cells(a->rkl + at, b->rkl + x, bytes, have[s], "rkl", d->name, s, err) < 0 ||
                copy_cells(a->nll_reference + at, b->nll_reference + x, bytes, have[s], "nll",
                           d->name, s, err) < 0 ||
                copy_cells(a->nll + at, b->nll + x, bytes, have[s], "nll", d->name, s, err) < 0 ||
                copy_cells(a->top1 + at, b->top1 + x, n, have[s], "top1", d->name, s, err) < 0 ||
                (p->routing && copy_cells(a->routing + at, b->routing + x, bytes, have[s],
                                          "routing", d->name, s, err) < 0))
                return -1;
        }
        if (p->noise &&
            copy_cells(d->noise + at, f->noise + x, bytes, have[s], "noise", d->name, s, err) < 0)
            return -1;
        have[s] = true;
    }
    return 0;
}

static int merge(struct eval_part *p, const struct eval_part *parts, size_t count,
                 struct aq_err *err)
{
    eval_part_init(p, json_copy(parts[0].identity), parts[0].operands, parts[0].noise);
    const struct json *domains = json_get(p->identity, "domains");
    for (const struct json *m = json_first(domains); m; m = json_next(m)) {
        const char *name = json_key(m);
        double samples = json_find_number(m, "samples");
        if (!(samples >= 1 && samples <= DATASET_MAX_SAMPLES))
            return aq_err_set(err, AQ_EINPUT, "domain '%s' does not say how many samples it has",
                              aq_show(name));
        int64_t n = (int64_t)samples, *offsets = xcalloc((size_t)n + 1, sizeof *offsets);
        int r = join_lengths(parts, count, name, n, offsets, err);
        if (r == 0)
            eval_part_add(p, name, n, offsets);
        free(offsets);
        if (r < 0)
            return -1;
        bool *have = xcalloc((size_t)n, sizeof *have);
        for (size_t i = 0; i < count && r == 0; i++)
            r = join_values(p, &parts[i], p->count - 1, have, err);
        free(have);
        if (r < 0)
            return -1;
        p->domains[p->count - 1].end = n;
    }
    return 0;
}

int eval_part_merge(struct eval_part *p, const char *const *paths, size_t count, struct aq_err *err)
{
    struct eval_part *parts = xcalloc(count, sizeof *parts);
    int r = 0;
    *p = (struct eval_part){0};
    for (size_t i = 0; i < count && r == 0; i++)
        r = eval_part_read(&parts[i], paths[i], err);
    if (r == 0)
        r = check_same(parts, count, paths, err);
    if (r == 0)
        r = merge(p, parts, count, err);
    for (size_t i = 0; i < count; i++)
        eval_part_release(&parts[i]);
    free(parts);
    if (r < 0)
        eval_part_release(p);
    return r;
}
