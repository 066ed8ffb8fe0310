/* The polish on sums that are made up: what is accepted, what is refused, and by which text. */
#include "eval/polish.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = 6, OPTIONS = 3, ALL = GROUPS * OPTIONS, SAMPLES = 64, PIECES = 16, LABELS = 10 };

/* A world: what each option costs on each text, per position, and how much samples differ. */
struct world {
    double nats[POLISH_TEXTS][ALL];
    double noise; /* of each sample and option, relative */
    double share; /* of `both`, in truth */
    double both[ALL * ALL];
    size_t kept[GROUPS], measured[POLISH_TEXTS], pieces;
    int kept_calls;
    bool wrong_layer;
    double now; /* seconds */
};

static double noise_at(size_t text, int64_t sample, size_t option)
{
    uint64_t z = (text * 1000003 + (uint64_t)sample * 7919 + option * 104729 + 1) *
                 UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)(z >> 11) * 0x1p-53 - 0.5;
}

static int measure(void *arg, const struct polish_measure *m, struct aq_err *err)
{
    struct world *w = arg;
    (void)err;
    w->measured[m->text]++;
    w->pieces += m->end - m->first;
    for (size_t g = 0; g < GROUPS; g++) /* group g is of layer g / 2 */
        if (m->choice[g] != w->kept[g] && w->kept_calls >= POLISH_TEXTS &&
            (int64_t)(g / 2) < m->layer)
            w->wrong_layer = true;
    for (size_t s = m->first * SAMPLES / PIECES; s < m->end * SAMPLES / PIECES; s++) {
        m->sums[s] = 0;
        for (size_t g = 0; g < GROUPS; g++) {
            double x = w->nats[m->text][m->choice[g]];
            m->sums[s] += LABELS * x * (1 + w->noise * noise_at(m->text, (int64_t)s, m->choice[g]));
            for (size_t h = 0; h < g; h++)
                m->sums[s] += LABELS * w->share * w->both[m->choice[g] * ALL + m->choice[h]];
        }
    }
    if (m->keep) {
        memcpy(w->kept, m->choice, sizeof w->kept);
        w->kept_calls++;
    }
    return 0;
}

static double tick(void *arg)
{
    struct world *w = arg;
    return w->now++;
}

struct setting {
    size_t start[GROUPS + 1];
    int64_t costs[ALL], layer[GROUPS], first[PIECES + 1];
    double predicted[ALL];
    int32_t labels[SAMPLES];
    size_t choice[GROUPS];
    struct polish_job job;
};

/* Options of a group: 4, 8 and 16 bits, with errors that fall by 4; all groups start at 8 bits. */
static void set_up(struct setting *s, struct world *w)
{
    memset(s, 0, sizeof *s);
    memset(w, 0, sizeof *w);
    for (size_t g = 0; g < GROUPS; g++) {
        s->layer[g] = (int64_t)g / 2;
        s->choice[g] = g * OPTIONS + 1;
        for (size_t i = 0; i < OPTIONS; i++) {
            size_t at = g * OPTIONS + i;
            s->costs[at] = 4 << i;
            s->predicted[at] = i == 2 ? 0 : (i == 0 ? 4e-3 : 1e-3) * (1 + 0.1 * (double)g);
            for (int t = 0; t < POLISH_TEXTS; t++)
                w->nats[t][at] = s->predicted[at];
        }
    }
    w->noise = 0.3;
    for (size_t g = 0; g <= GROUPS; g++)
        s->start[g] = g * OPTIONS;
    for (size_t i = 0; i < SAMPLES; i++)
        s->labels[i] = LABELS;
    for (size_t i = 0; i <= PIECES; i++)
        s->first[i] = (int64_t)(i * SAMPLES / PIECES);
    s->job = (struct polish_job){.moves = {.groups = GROUPS,
                                           .start = s->start,
                                           .costs = s->costs,
                                           .nats = s->predicted,
                                           .layer = s->layer,
                                           .layers = 3,
                                           .head = 1,
                                           .budget = GROUPS * 8},
                                 .measure = measure,
                                 .clock = tick,
                                 .arg = w,
                                 .trials = 1000,
                                 .seconds = INFINITY};
    for (int t = 0; t < POLISH_TEXTS; t++)
        s->job.texts[t] = (struct polish_samples){SAMPLES, s->labels, PIECES, s->first};
}

static int64_t cost_of(const struct setting *s, const size_t *choice)
{
    int64_t sum = 0;
    for (size_t g = 0; g < GROUPS; g++)
        sum += s->costs[choice[g]];
    return sum;
}

/* Group 0 at 16 bits and group 1 at 4 is much better than the scores say; on one text or on both.
 */
static void plant(struct world *w, bool also_confirmed)
{
    for (int t = 0; t < POLISH_TEXTS; t++) {
        bool good = t == POLISH_SEARCH || also_confirmed;
        w->nats[t][1] = good ? 4e-3 : 1e-3; /* group 0 at 8 bits */
        w->nats[t][OPTIONS] = w->nats[t][2 * OPTIONS] = good ? 1.2e-3 : 4e-3; /* groups 1, 2 at 4 */
    }
}

static void test_good_move(void)
{
    struct setting s;
    struct world w;
    struct polish_result r;
    struct aq_err err = {0};
    set_up(&s, &w);
    plant(&w, true);
    tap_ok(polish_run(&s.job, s.choice, &r, &err) == 0, "it runs");
    tap_ok(r.accepted >= 1 && r.choice[0] == 2, "what is better on both texts is accepted");
    tap_ok(cost_of(&s, r.choice) <= s.job.moves.budget, "within the budget");
    tap_ok(r.after[POLISH_SEARCH] < r.before[POLISH_SEARCH] &&
               r.after[POLISH_CONFIRM] < r.before[POLISH_CONFIRM],
           "and what it says it measured is better");
    tap_ok(memcmp(w.kept, r.choice, sizeof w.kept) == 0, "what is kept is the recipe");
    tap_ok(!w.wrong_layer, "a trial starts at or before the first layer that differs");
    tap_ok(r.steps[0].accepted && r.steps[0].search.mean < -2 * r.steps[0].search.error &&
               r.steps[0].confirm.mean < -r.steps[0].confirm.error,
           "by two errors, confirmed by one");
    polish_release(&r);
}

static void test_planted_bad_move(void)
{
    struct setting s;
    struct world w;
    struct polish_result r;
    struct aq_err err = {0};
    size_t refused = 0;
    set_up(&s, &w);
    plant(&w, false);
    tap_ok(polish_run(&s.job, s.choice, &r, &err) == 0, "it runs");
    for (size_t i = 0; i < r.step_count; i++)
        refused += !r.steps[i].accepted;
    tap_ok(refused >= 1,
           "a planted bad move, which only the search text likes, reaches the confirm text");
    tap_ok(r.accepted == 0, "the confirm text refuses the planted bad move");
    tap_ok(memcmp(r.choice, s.choice, sizeof s.choice) == 0, "and the recipe stays");
    bool again = false;
    for (size_t i = 0; i < r.step_count; i++)
        for (size_t k = i + 1; k < r.step_count; k++)
            again = again || move_same(&r.steps[i].move, &r.steps[k].move);
    tap_ok(!again, "no move is tried again");
    polish_release(&r);
}

/* Groups 4 and 5 have a move that both texts like, besides the one that only one does. */
static void test_refused_for_good(void)
{
    struct setting s;
    struct world w;
    struct polish_result r;
    struct aq_err err = {0};
    size_t refused = 0, again = 0;
    set_up(&s, &w);
    plant(&w, false);
    for (int t = 0; t < POLISH_TEXTS; t++) {
        w.nats[t][4 * OPTIONS + 1] = 3e-3;
        w.nats[t][5 * OPTIONS] = 1.6e-3;
    }
    s.predicted[5 * OPTIONS] *= 1.5; /* so that the good one comes later */
    tap_ok(polish_run(&s.job, s.choice, &r, &err) == 0 && r.accepted >= 1, "some are accepted");
    for (size_t i = 0; i < r.step_count; i++) {
        refused += !r.steps[i].accepted;
        for (size_t k = i + 1; k < r.step_count && !r.steps[i].accepted; k++)
            again += move_same(&r.steps[i].move, &r.steps[k].move);
    }
    tap_ok(refused >= 1 && again == 0, "what was refused before is not tried after: %zu refused",
           refused);
    polish_release(&r);
}

/* Gains from none to many errors. */
static void test_two_errors(void)
{
    size_t steps = 0, trials = 0, wrong = 0;
    for (int i = 0; i < 40; i++) {
        struct setting s;
        struct world w;
        struct polish_result r;
        struct aq_err err = {0};
        set_up(&s, &w);
        w.noise = 1;
        for (int t = 0; t < POLISH_TEXTS; t++)
            w.nats[t][1] = w.nats[t][4] = 1e-3 + 1e-4 * i; /* groups 0 and 1 at 8 bits */
        wrong += polish_run(&s.job, s.choice, &r, &err) < 0;
        for (size_t k = 0; k < r.step_count; k++)
            wrong += !(r.steps[k].search.mean < -2 * r.steps[k].search.error);
        steps += r.step_count;
        trials += r.trials;
        polish_release(&r);
    }
    tap_ok(wrong == 0 && steps > 0 && trials > steps,
           "only moves better by two errors go on: %zu of %zu", steps, trials);
}

static void test_nothing_to_gain(void)
{
    struct setting s;
    struct world w;
    struct polish_result r;
    struct aq_err err = {0};
    set_up(&s, &w);
    tap_ok(polish_run(&s.job, s.choice, &r, &err) == 0, "it runs");
    tap_ok(r.accepted == 0, "nothing is better than an optimum");
    tap_ok(r.stop == POLISH_NO_PROMISE || r.stop == POLISH_NO_MOVE, "and it says why it stopped");
    tap_ok(w.pieces < r.trials * PIECES / 2, "races end early");
    polish_release(&r);
}

static void test_limits(void)
{
    struct setting s;
    struct world w;
    struct polish_result r;
    struct aq_err err = {0};
    set_up(&s, &w);
    s.job.trials = 3;
    tap_ok(polish_run(&s.job, s.choice, &r, &err) == 0 && r.trials == 3 && r.stop == POLISH_TRIED,
           "as many trials as asked for");
    polish_release(&r);
    set_up(&s, &w);
    s.job.seconds = 4; /* the clock is asked once a trial */
    tap_ok(polish_run(&s.job, s.choice, &r, &err) == 0 && r.trials == 3 && r.stop == POLISH_TIMED,
           "no longer than asked for");
    polish_release(&r);
}

static void test_gain(void)
{
    tap_ok(polish_is_gain(&(struct polish_difference){-2, 1}), "two errors are a gain");
    tap_ok(!polish_is_gain(&(struct polish_difference){-1.9, 1}), "1.9 errors may be chance");
    tap_ok(!polish_is_gain(&(struct polish_difference){2, 1}), "a loss is none");
    tap_ok(!polish_is_gain(&(struct polish_difference){-2, NAN}), "nothing is known without one");
}

/* Interactions of all options of different groups, of either sign. */
static void couple(struct setting *s, struct world *w)
{
    for (size_t a = 0; a < ALL; a++)
        for (size_t b = 0; b < a; b++)
            if (a / OPTIONS != b / OPTIONS)
                w->both[a * ALL + b] = w->both[b * ALL + a] = 2e-4 * noise_at(7, (int64_t)a, b);
    s->job.moves.both = w->both;
}

/* What is predicted of a choice. */
static double predicted_of(const struct setting *s, const size_t *choice)
{
    double sum = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        sum += s->predicted[choice[g]];
        for (size_t h = 0; h < g; h++)
            sum += s->job.moves.share * s->job.moves.both[choice[g] * ALL + choice[h]];
    }
    return sum;
}

static void test_interactions(void)
{
    struct setting s;
    struct world w;
    struct moves m;
    double worst = 0;
    int counts[MOVE_GROUPS + 1] = {0};
    set_up(&s, &w);
    couple(&s, &w);
    s.job.moves.share = 0.7;
    s.choice[2] = 2 * OPTIONS; /* not all alike */
    moves_find(&m, &s.job.moves, s.choice, 0.28, NULL, 0);
    for (size_t i = 0; i < m.count; i++) {
        size_t choice[GROUPS];
        memcpy(choice, s.choice, sizeof choice);
        for (int k = 0; k < m.items[i].count; k++)
            choice[m.items[i].group[k]] = m.items[i].option[k];
        worst = fmax(worst, fabs(predicted_of(&s, choice) - predicted_of(&s, s.choice) -
                                 m.items[i].predicted));
        counts[m.items[i].count]++;
    }
    tap_ok(counts[1] && counts[2] && counts[3] && worst < 1e-12,
           "a move's prediction is the difference of those of two recipes: %d, %d and %d moves, "
           "%.1e apart",
           counts[1], counts[2], counts[3], worst);
    moves_release(&m);
}

static void test_share(void)
{
    static const double shares[] = {0.6, 0, -1, 3};
    for (size_t i = 0; i < 4; i++) {
        struct setting s;
        struct world w;
        struct polish_result r;
        struct aq_err err = {0};
        set_up(&s, &w);
        couple(&s, &w);
        w.noise = 0.02;
        w.share = shares[i];
        double right = fmin(fmax(w.share, 0), 1);
        int status = polish_run(&s.job, s.choice, &r, &err);
        tap_ok(status == 0 && fabs(r.share - right) < 0.05, "a share of %g is found: %g", right,
               r.share);
        polish_release(&r);
    }
}

static int by_brute_force(const struct setting *s, double spread)
{
    int n = 0;
    for (size_t a = 0; a < ALL; a++)
        for (size_t b = a; b < ALL; b++)
            for (size_t c = b; c < ALL; c++) {
                /* a == b == c: one group; b == c: two */
                bool one = a == b && b == c, two = a != b && b == c;
                size_t g[] = {a / OPTIONS, b / OPTIONS, c / OPTIONS};
                size_t o[] = {a, b, c}, choice[GROUPS];
                int count = one ? 1 : two ? 2 : 3;
                bool valid = (one || two || (a != b && b != c)) && (count < 2 || g[0] != g[1]) &&
                             (count < 3 || g[1] != g[2]);
                double nats = 0, square = 0;
                memcpy(choice, s->choice, sizeof choice);
                for (int i = 0; i < count && valid; i++) {
                    valid = o[i] != s->choice[g[i]];
                    choice[g[i]] = o[i];
                    nats += s->predicted[o[i]] - s->predicted[s->choice[g[i]]];
                    square += pow(s->predicted[o[i]], 2) + pow(s->predicted[s->choice[g[i]]], 2);
                }
                n += valid && cost_of(s, choice) <= s->job.moves.budget &&
                     nats <= 4 * spread * sqrt(square) &&
                     move_improvement(nats, spread * sqrt(square)) > 0;
            }
    return n;
}

static void test_moves(void)
{
    struct setting s;
    struct world w;
    struct moves m;
    set_up(&s, &w);
    moves_find(&m, &s.job.moves, s.choice, 0.28, NULL, 0);
    tap_ok((int)m.count == by_brute_force(&s, 0.28), "all moves of up to three groups: %zu",
           m.count);
    bool sorted = true;
    for (size_t i = 1; i < m.count; i++)
        sorted = sorted && m.items[i - 1].improvement / m.items[i - 1].cost >=
                               m.items[i].improvement / m.items[i].cost;
    tap_ok(sorted, "the most promising for their cost come first");
    struct moves rest;
    moves_find(&rest, &s.job.moves, s.choice, 0.28, m.items, 2);
    tap_ok(rest.count == m.count - 2 && move_same(&rest.items[0], &m.items[2]),
           "without those tried");
    moves_release(&rest);
    moves_release(&m);
    tap_ok(move_improvement(-1, 0) == 1, "a sure improvement is itself");
    tap_ok(fabs(move_improvement(0, 1) - 0.3989422804014327) < 1e-12, "one that may be either way");
    tap_ok(fabs(move_improvement(1, 1) - 0.08331547058768608) < 1e-12, "one that is unlikely");
}

int main(void)
{
    test_moves();
    test_interactions();
    test_share();
    test_good_move();
    test_planted_bad_move();
    test_refused_for_good();
    test_two_errors();
    test_nothing_to_gain();
    test_limits();
    test_gain();
    return tap_done();
}
