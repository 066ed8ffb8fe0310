#include "eval/eval_run.h"

#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "eval/pass.h"
#include "eval/receipt.h"
#include "score/dtype.h"
#include "score/shard.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct eval_call {
    const struct eval_options *o;
    struct eval_inputs in;
    struct eval_operand *operands;
    size_t opened;
    struct eval_pass *pass;
    struct eval_part part;
    size_t first, end; /* tiles of the shard */
    char *unfinished;  /* where an interrupted run continues; NULL: nowhere */
};

/* ---- opening ---- */

static int open_inputs(struct eval_call *r, struct aq_err *err)
{
    const struct eval_options *o = r->o;
    if (eval_inputs_open(&r->in, &o->where, o->domains, err) < 0)
        return -1;
    r->operands = xcalloc(o->count, sizeof *r->operands);
    for (size_t i = 0; i < o->count; i++)
        if (eval_inputs_operand(&r->in, &r->operands[r->opened++], o->operands[i], err) < 0)
            return -1;
    return 0;
}

static int open_pass(struct eval_call *r, struct aq_err *err)
{
    const struct eval_pass_job job = {
        .device = r->o->where.device,
        .config = eval_inputs_config(&r->in),
        .memory = r->o->where.memory,
        .lm = &r->in.lm,
        .domains = &r->in.domains,
        .operands = r->operands,
        .count = r->o->count,
        .routing = true,
    };
    return eval_pass_open(&r->pass, &job, err);
}

/* ---- the part ---- */

static bool uses_ranges(const struct eval_call *r)
{
    for (size_t i = 0; i < r->o->count; i++) {
        const struct eval_operand *o = &r->operands[i];
        for (int64_t k = 0; o->kind == EVAL_MANIFEST && k < o->layers * MODEL_LINEARS; k++)
            if (o->linears[k].ranged)
                return true;
        for (int64_t k = 0; o->kind == EVAL_MANIFEST && k < o->layers * EXPERT_HALVES; k++)
            if (o->experts[k].ranged)
                return true;
    }
    return false;
}

static bool uses_solved(const struct eval_call *r)
{
    for (size_t i = 0; i < r->o->count; i++) {
        const struct eval_operand *o = &r->operands[i];
        for (int64_t k = 0; o->kind == EVAL_MANIFEST && k < o->layers * MODEL_LINEARS; k++)
            if (quant_is_solved(&o->linears[k].w))
                return true;
        for (int64_t k = 0; o->kind == EVAL_MANIFEST && k < o->layers * EXPERT_HALVES; k++)
            if (quant_is_solved(&o->experts[k].w))
                return true;
    }
    return false;
}

static struct json *identity_of(const struct eval_call *r)
{
    struct json *v = json_new_object(), *reference = json_add_object(v, "reference");
    json_add_string(reference, "kind", eval_kind_names[EVAL_LM]);
    json_add_string(reference, "digest", r->in.lm.digest);
    struct json *list = json_add_array(v, "operands");
    for (size_t i = 0; i < r->o->count; i++) {
        const struct eval_operand *o = &r->operands[i];
        struct json *e = json_push(list, json_new_object());
        json_add_string(e, "kind", eval_kind_names[o->kind]);
        json_add_string(e, "digest", o->digest);
        json_add_finite(e, "bits", o->bits);
        json_add_finite(e, "predicted", o->predicted);
        json_add_finite(e, "low", o->low);
        json_add_finite(e, "high", o->high);
        if (o->sharing.groups) {
            struct json *sharing = json_add_object(e, "sharing");
            json_add_int(sharing, "groups", o->sharing.groups);
            json_add_double(sharing, "mse_ratio", sharing_ratio(&o->sharing));
            json_add_double(sharing, "widest", o->sharing.widest);
        }
    }
    json_add_string(v, "dtype", compute_dtype_name(r->in.bf16));
    json_add_string(v, "backend", eval_pass_backend(r->pass));
    if (r->o->where.engine)
        json_add_string(v, "engine", r->o->where.engine);
    json_add_bool(v, "noise", eval_pass_noise(r->pass));
    if (eval_pass_routing(r->pass))
        json_add_bool(v, "routing", true);
    json_add_finite(v, "noise_floor", r->in.bf16 ? 0 : NAN);
    if (uses_ranges(r)) {
        json_add_string(v, "ranges", json_find_string(r->in.ranges.meta, "digest"));
        if (strcmp(r->in.ranges.backend, eval_pass_backend(r->pass)) != 0)
            aq_note(0, "'%s' was measured on %s", aq_show(r->o->where.ranges),
                    aq_show(r->in.ranges.backend));
    }
    if (uses_solved(r))
        json_add_string(v, "solved", json_find_string(r->in.solved.meta, "digest"));
    struct json *domains = json_add_object(v, "domains");
    for (size_t i = 0; i < r->in.domains.count; i++) {
        const struct eval_domain *d = &r->in.domains.items[i];
        struct json *e = json_add_object(domains, d->name);
        json_add_string(e, "tokens", d->tokens.digest);
        json_add_int(e, "samples", d->tokens.samples);
        if (eval_pass_noise(r->pass))
            json_add_int(e, "noise_samples", eval_pass_noise_samples(r->pass, i));
    }
    json_add_int(v, "result_version", EVAL_RESULT_VERSION);
    return v;
}

static void make_part(struct eval_call *r)
{
    eval_part_init(&r->part, identity_of(r), r->o->count, eval_pass_noise(r->pass));
    for (size_t i = 0; i < r->in.domains.count; i++) {
        const struct eval_domain *d = &r->in.domains.items[i];
        eval_part_add(&r->part, d->name, d->tokens.samples, d->positions);
    }
}

/* The part holds the shard's tiles before `end`. */
static void mark_done(struct eval_call *r, size_t end)
{
    for (size_t i = 0; i < r->in.domains.count; i++) {
        const struct eval_domain *d = &r->in.domains.items[i];
        struct eval_part_domain *to = &r->part.domains[i];
        size_t from = r->in.domains.first_tile[i], beyond = r->in.domains.first_tile[i + 1];
        size_t a = r->first > from ? r->first : from, b = end < beyond ? end : beyond;
        to->first = to->end = 0;
        if (a >= b)
            continue;
        const struct tile *last = &d->tiles.items[b - 1 - from];
        to->first = d->tiles.items[a - from].sample;
        to->end = last->sample + last->desc.samples;
    }
}

/* ---- an unfinished run ---- */

static void copy_values(struct eval_part *to, const struct eval_part *from, size_t domain,
                        int64_t sample, int64_t end)
{
    struct eval_part_domain *d = &to->domains[domain];
    const struct eval_part_domain *f = &from->domains[domain];
    int64_t at = d->offsets[sample], x = f->offsets[sample];
    size_t n = (size_t)(d->offsets[end] - at), bytes = n * sizeof(double);
    for (size_t k = 0; k < to->operands; k++) {
        memcpy(d->values[k].kl + at, f->values[k].kl + x, bytes);
        memcpy(d->values[k].rkl + at, f->values[k].rkl + x, bytes);
        memcpy(d->values[k].nll_reference + at, f->values[k].nll_reference + x, bytes);
        memcpy(d->values[k].nll + at, f->values[k].nll + x, bytes);
        memcpy(d->values[k].top1 + at, f->values[k].top1 + x, n);
        if (to->routing)
            memcpy(d->values[k].routing + at, f->values[k].routing + x, bytes);
    }
    if (to->noise)
        memcpy(d->noise + at, f->noise + x, bytes);
}

/* Are the samples of a tile in it, with as many positions? */
static bool holds(const struct eval_call *r, const struct eval_part *old,
                  const struct eval_place *place)
{
    const struct eval_part_domain *f = &old->domains[place->number];
    int64_t s = place->tile->sample, end = s + place->tile->desc.samples;
    const int64_t *p = r->in.domains.items[place->number].positions;
    return s >= f->first && end <= f->end && f->offsets[end] - f->offsets[s] == p[end] - p[s];
}

/* Takes over what an interrupted run left. Returns the first tile that is still to do. */
static size_t resume(struct eval_call *r)
{
    struct eval_part old;
    struct aq_err ignored = {0};
    size_t tile = r->first;
    if (!r->unfinished || !aq_path_exists(r->unfinished))
        return tile;
    if (eval_part_read(&old, r->unfinished, &ignored) < 0) {
        aq_note(0, "starting over: %s", ignored.msg);
        aq_rewrite_input(r->unfinished);
        return tile;
    }
    if (json_equal(old.identity, r->part.identity) && old.count == r->part.count) {
        for (; tile < r->end; tile++) {
            struct eval_place place = eval_domains_tile_at(&r->in.domains, tile);
            if (!holds(r, &old, &place))
                break;
            copy_values(&r->part, &old, place.number, place.tile->sample,
                        place.tile->sample + place.tile->desc.samples);
        }
        aq_note(0, "%zu of %zu tiles were done before", tile - r->first, r->end - r->first);
    } else {
        aq_note(0, "starting over: '%s' is of another evaluation", aq_show(r->unfinished));
    }
    eval_part_release(&old);
    aq_rewrite_input(r->unfinished); /* further tiles go there */
    return tile;
}

static int save(void *arg, size_t end, struct aq_err *err)
{
    struct eval_call *r = arg;
    mark_done(r, end);
    return r->unfinished && end < r->end ? eval_part_write(&r->part, r->unfinished, err) : 0;
}

/* ---- the call ---- */

/* Tiles are cut by their number. */
static int take_shard(struct eval_call *r, struct aq_err *err)
{
    size_t tiles = r->in.domains.first_tile[r->in.domains.count];
    int64_t which, jobs;
    if (shard_parse(r->o->shard, &which, &jobs, err) < 0)
        return -1;
    r->first = tiles * (size_t)which / (size_t)jobs;
    r->end = tiles * (size_t)(which + 1) / (size_t)jobs;
    return 0;
}

static int run(struct eval_call *r, struct aq_err *err)
{
    if (open_inputs(r, err) < 0 || open_pass(r, err) < 0 || take_shard(r, err) < 0)
        return -1;
    aq_note(1, "backend %s, tiles %zu to %zu of %zu", eval_pass_backend(r->pass), r->first, r->end,
            r->in.domains.first_tile[r->in.domains.count]);
    make_part(r);
    if (r->o->output && strcmp(r->o->output, "-") != 0)
        r->unfinished = xasprintf("%s.part", r->o->output);
    size_t from = resume(r);
    if (eval_pass_run(r->pass, from, r->end, &r->part, save, r, err) < 0)
        return -1;
    mark_done(r, r->end);
    if ((r->o->shard ? eval_part_write(&r->part, r->o->output, err)
                     : eval_receipts_write(&r->part, r->o->output, err)) < 0)
        return -1;
    if (r->unfinished)
        (void)unlink(r->unfinished);
    return 0;
}

int eval_run(const struct eval_options *o, struct aq_err *err)
{
    struct eval_call r = {.o = o};
    int bad = run(&r, err);
    eval_pass_close(r.pass);
    for (size_t i = 0; i < r.opened; i++)
        eval_operand_close(&r.operands[i]);
    free(r.operands);
    eval_part_release(&r.part);
    eval_inputs_close(&r.in);
    free(r.unfinished);
    return bad;
}

int eval_merge(const char *output, const char *const *parts, size_t count, struct aq_err *err)
{
    struct eval_part p;
    if (eval_part_merge(&p, parts, count, err) < 0)
        return -1;
    int r = p.operands > 1 && (!output || strcmp(output, "-") == 0)
                ? aq_err_set(err, AQ_EUSAGE, "-o DIR is needed: the parts are of %zu operands",
                             p.operands)
                : eval_receipts_write(&p, output, err);
    eval_part_release(&p);
    return r;
}
