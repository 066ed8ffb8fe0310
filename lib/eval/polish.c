#include "eval/polish.h"

#include "base/mem.h"
#include "store/score_sums.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One log standard deviation of measured over predicted divergences of single groups, before the
   trials show their own (docs/evidence.md). */
static const double spread_at_first = 0.28;
static const double spread_least = 0.05, spread_most = 1;
/* The share of interactions until it is fitted: what was best on another model. */
static const double share_at_first = 0.4;
enum {
    REFIT = 50,        /* trials after which the spread is fitted again */
    STAGES = 3,        /* 1/16, 1/4 and all of the search text */
    PROBES = 16,       /* moves that the share of interactions is fitted to */
    JUDGED_SAMPLES = 8 /* a stage of fewer says nothing */
};

const char *const polish_stop_names[] = {"no move promises more than noise", "no move is left",
                                         "no trial was accepted for long", "all trials were made",
                                         "the time is over"};

struct polish {
    const struct polish_job *job;
    struct move_problem problem; /* the job's, with the share of interactions */
    struct polish_result *out;
    size_t *changed;            /* [groups]: the choice of a trial */
    double *base[POLISH_TEXTS]; /* [samples]: sums of the recipe */
    double *sums[POLISH_TEXTS]; /* of the trial */
    double *difference;         /* [samples] */
    struct moves moves;
    size_t next;        /* of the moves */
    struct move *tried; /* from this recipe, after those that are forbidden */
    size_t tried_count, tried_room, forbidden;
    size_t idle;    /* trials since the last accepted one */
    double off, of; /* squares of misses, less their noise; of what was predicted */
    double started;
};

bool polish_is_gain(const struct polish_difference *d)
{
    return d->mean < -1.96 * d->error; /* false without an error */
}

/* ---- measuring ---- */

static int measure(struct polish *p, enum polish_text text, const size_t *choice, int64_t layer,
                   size_t first, size_t end, bool keep, double *sums, struct aq_err *err)
{
    const struct polish_measure m = {text, choice, layer, first, end, keep, sums};
    return first < end ? p->job->measure(p->job->arg, &m, err) : 0;
}

/* Over the samples of the first pieces. */
static struct polish_difference difference(struct polish *p, enum polish_text text, size_t pieces)
{
    const struct polish_samples *t = &p->job->texts[text];
    int64_t n = t->first[pieces];
    for (int64_t i = 0; i < n; i++)
        p->difference[i] = p->sums[text][i] - p->base[text][i];
    const struct score_mean m = score_per_token(p->difference, t->labels, n);
    return (struct polish_difference){m.mean, m.error};
}

static struct score_mean current(const struct polish *p, enum polish_text text)
{
    const struct polish_samples *t = &p->job->texts[text];
    return score_per_token(p->base[text], t->labels, t->samples);
}

/* ---- what was tried ---- */

static void remember(struct polish *p, const struct move *m)
{
    if (p->tried_count == p->tried_room) {
        p->tried_room = 2 * p->tried_room + 64;
        p->tried = xreallocarray(p->tried, p->tried_room, sizeof *p->tried);
    }
    p->tried[p->tried_count++] = *m;
}

/* Never again, whatever the recipe. It is the last that was tried. */
static void forbid(struct polish *p)
{
    struct move m = p->tried[p->tried_count - 1];
    p->tried[p->tried_count - 1] = p->tried[p->forbidden];
    p->tried[p->forbidden++] = m;
}

static void list_moves(struct polish *p)
{
    moves_release(&p->moves);
    moves_find(&p->moves, &p->problem, p->out->choice, p->out->spread, p->tried, p->tried_count);
    p->next = 0;
}

/* How far predictions are off, as the trials so far say. */
static void refit(struct polish *p)
{
    if (p->of > 0) {
        double x = sqrt(fmax(p->off, 0) / p->of);
        p->out->spread = fmin(fmax(x, spread_least), spread_most);
    }
    p->off = p->of = 0;
    list_moves(p);
}

/* ---- a trial ---- */

static int64_t lowest_layer(const struct polish *p, const struct move *m)
{
    int64_t lowest = p->job->moves.layers;
    for (int i = 0; i < m->count; i++) {
        int64_t layer = p->job->moves.layer[m->group[i]];
        lowest = layer < lowest ? layer : lowest;
    }
    return lowest;
}

static void take(size_t *choice, const struct move *m)
{
    for (int i = 0; i < m->count; i++)
        choice[m->group[i]] = m->option[i];
}

/* The race over the search text. *better: at its end it was, by two errors. */
static int race(struct polish *p, const struct move *m, struct polish_difference *d, bool *better,
                struct aq_err *err)
{
    static const size_t parts[STAGES] = {16, 4, 1};
    const struct polish_samples *t = &p->job->texts[POLISH_SEARCH];
    size_t done = 0;
    *better = false;
    for (int stage = 0; stage < STAGES; stage++) {
        size_t end = (t->pieces + parts[stage] - 1) / parts[stage];
        bool last = stage == STAGES - 1;
        if (measure(p, POLISH_SEARCH, p->changed, lowest_layer(p, m), done, end, false,
                    p->sums[POLISH_SEARCH], err) < 0)
            return -1;
        done = end;
        *d = difference(p, POLISH_SEARCH, end);
        if (!last && t->first[end] < JUDGED_SAMPLES)
            continue;
        double least = stage == 0 ? 1 : stage == 1 ? -0.5 : -2; /* errors */
        *better = d->mean < least * d->error;
        if (!*better)
            break;
    }
    if (isfinite(d->error)) {
        double miss = d->mean - m->predicted, unit = m->spread / p->out->spread;
        p->off += miss * miss - d->error * d->error;
        p->of += unit * unit;
    }
    return 0;
}

/* Another text, that had no say in the search, must agree. */
static int confirm(struct polish *p, const struct move *m, struct polish_step *step,
                   struct aq_err *err)
{
    if (measure(p, POLISH_CONFIRM, p->changed, lowest_layer(p, m), 0,
                p->job->texts[POLISH_CONFIRM].pieces, false, p->sums[POLISH_CONFIRM], err) < 0)
        return -1;
    step->confirm = difference(p, POLISH_CONFIRM, p->job->texts[POLISH_CONFIRM].pieces);
    step->accepted = step->confirm.mean < -step->confirm.error;
    return 0;
}

/* The trial's recipe is the one that others start from. */
static int accept(struct polish *p, const struct move *m, struct aq_err *err)
{
    for (int t = 0; t < POLISH_TEXTS; t++)
        if (measure(p, (enum polish_text)t, p->changed, lowest_layer(p, m), 0,
                    p->job->texts[t].pieces, true, p->base[t], err) < 0)
            return -1;
    take(p->out->choice, m);
    p->out->accepted++;
    p->idle = 0;
    p->tried_count = p->forbidden;
    list_moves(p);
    return 0;
}

static int keep_step(struct polish *p, struct polish_step *step, struct aq_err *err)
{
    for (int i = 0; i < step->move.count; i++)
        step->from[i] = p->out->choice[step->move.group[i]];
    if (confirm(p, &step->move, step, err) < 0)
        return -1;
    p->out->steps = xreallocarray(p->out->steps, p->out->step_count + 1, sizeof *p->out->steps);
    p->out->steps[p->out->step_count++] = *step;
    if (step->accepted)
        return accept(p, &step->move, err);
    forbid(p);
    return 0;
}

static int try_move(struct polish *p, const struct move *m, struct aq_err *err)
{
    struct polish_step step = {.move = *m, .trial = ++p->out->trials};
    bool better;
    p->idle++;
    remember(p, m);
    memcpy(p->changed, p->out->choice, p->job->moves.groups * sizeof *p->changed);
    take(p->changed, m);
    if (race(p, m, &step.search, &better, err) < 0)
        return -1;
    if (better && keep_step(p, &step, err) < 0)
        return -1;
    if (p->out->trials % REFIT == 0)
        refit(p);
    return 0;
}

/* ---- the share of interactions ---- */

/* The most promising moves on the confirm text: what the sums of their options leave unexplained,
   regressed on the interactions. */
static int fit_share(struct polish *p, struct aq_err *err)
{
    double xx = 0, xy = 0;
    p->problem.share = share_at_first;
    list_moves(p);
    for (size_t i = 0; i < p->moves.count && i < PROBES; i++) {
        const struct move *m = &p->moves.items[i];
        memcpy(p->changed, p->out->choice, p->job->moves.groups * sizeof *p->changed);
        take(p->changed, m);
        if (measure(p, POLISH_CONFIRM, p->changed, lowest_layer(p, m), 0,
                    p->job->texts[POLISH_CONFIRM].pieces, false, p->sums[POLISH_CONFIRM], err) < 0)
            return -1;
        double apart = m->predicted - p->problem.share * m->together;
        xx += m->together * m->together;
        xy += m->together *
              (difference(p, POLISH_CONFIRM, p->job->texts[POLISH_CONFIRM].pieces).mean - apart);
    }
    p->problem.share = p->out->share = xx > 0 ? fmin(fmax(xy / xx, 0), 1) : 0;
    return 0;
}

/* ---- when to stop ---- */

static double promised(const struct polish *p)
{
    double sum = 0;
    for (size_t i = p->next; i < p->moves.count; i++)
        sum += p->moves.items[i].improvement;
    return sum;
}

static bool is_over(struct polish *p)
{
    const struct polish_job *job = p->job;
    if (p->next == p->moves.count)
        p->out->stop = POLISH_NO_MOVE;
    else if (promised(p) < 0.1 * current(p, POLISH_SEARCH).error)
        p->out->stop = POLISH_NO_PROMISE;
    else if (p->idle >= POLISH_IDLE)
        p->out->stop = POLISH_IDLED;
    else if (p->out->trials >= job->trials)
        p->out->stop = POLISH_TRIED;
    else if (isfinite(job->seconds) && job->clock(job->arg) - p->started >= job->seconds)
        p->out->stop = POLISH_TIMED;
    else
        return false;
    return true;
}

/* ---- all of it ---- */

static int run(struct polish *p, struct aq_err *err)
{
    for (int t = 0; t < POLISH_TEXTS; t++) {
        if (measure(p, (enum polish_text)t, p->out->choice, 0, 0, p->job->texts[t].pieces, true,
                    p->base[t], err) < 0)
            return -1;
        p->out->before[t] = current(p, (enum polish_text)t).mean;
    }
    if (p->problem.both && fit_share(p, err) < 0)
        return -1;
    list_moves(p);
    while (!is_over(p)) {
        struct move m = p->moves.items[p->next++];
        if (try_move(p, &m, err) < 0)
            return -1;
    }
    for (int t = 0; t < POLISH_TEXTS; t++)
        p->out->after[t] = current(p, (enum polish_text)t).mean;
    return 0;
}

int polish_run(const struct polish_job *job, const size_t *start, struct polish_result *out,
               struct aq_err *err)
{
    struct polish p = {
        .job = job, .problem = job->moves, .out = out, .started = job->clock(job->arg)};
    int64_t most = 0;
    *out = (struct polish_result){.spread = spread_at_first};
    out->choice = xcalloc(job->moves.groups + 1, sizeof *out->choice);
    memcpy(out->choice, start, job->moves.groups * sizeof *start);
    p.changed = xcalloc(job->moves.groups + 1, sizeof *p.changed);
    for (int t = 0; t < POLISH_TEXTS; t++) {
        int64_t n = job->texts[t].samples;
        most = n > most ? n : most;
        p.base[t] = xcalloc((size_t)n + 1, sizeof(double));
        p.sums[t] = xcalloc((size_t)n + 1, sizeof(double));
    }
    p.difference = xcalloc((size_t)most + 1, sizeof *p.difference);
    int r = run(&p, err);
    for (int t = 0; t < POLISH_TEXTS; t++) {
        free(p.base[t]);
        free(p.sums[t]);
    }
    free(p.difference);
    free(p.changed);
    free(p.tried);
    moves_release(&p.moves);
    return r;
}

void polish_release(struct polish_result *r)
{
    free(r->choice);
    free(r->steps);
    *r = (struct polish_result){0};
}
