#include "report/answer.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- counting ---- */

static struct answer_format *format_of(struct answer *a, const struct manifest_option *o)
{
    for (size_t i = 0; i < a->count; i++)
        if (o->none ? a->formats[i].option->none : manifest_same_candidate(a->formats[i].option, o))
            return &a->formats[i];
    a->formats[a->count].option = o;
    return &a->formats[a->count++];
}

static int by_bits(const void *x, const void *y)
{
    const struct answer_format *a = x, *b = y;
    if (a->option->none != b->option->none)
        return a->option->none ? 1 : -1;
    if (a->option->bits != b->option->bits)
        return a->option->bits < b->option->bits ? -1 : 1;
    return a->option < b->option ? -1 : a->option > b->option;
}

static void count_formats(struct answer *a, const struct report *r, const struct curve *c)
{
    a->formats = xcalloc(r->count + 1, sizeof *a->formats);
    a->groups = r->count;
    for (size_t g = 0; g < r->count; g++) {
        const struct manifest_group *group = r->rows[g].group;
        const struct manifest_option *o = &group->options[c->recipe[g]];
        double weights = manifest_group_weights(group);
        double bytes = weights * (isnan(o->storage_bits) ? o->bits : o->storage_bits) / 8;
        struct answer_format *f = format_of(a, o);
        f->groups++;
        f->weights += weights;
        f->bytes += bytes;
        a->before += weights * 2;
        a->after += bytes;
    }
    qsort(a->formats, a->count, sizeof *a->formats, by_bits);
}

/* ---- what it costs ---- */

static void read_prediction(struct answer *a, const struct report *r)
{
    const struct json *p = json_find(r->m->selection, "predicted_kl");
    a->kl = json_find_number(p, "nats");
    a->low = json_find_number(p, "low");
    a->high = json_find_number(p, "high");
    const struct json *flagged = json_find(p, "flagged");
    a->flagged = flagged && json_type(flagged) == JSON_ARRAY ? json_size(flagged) : 0;
}

void answer_init(struct answer *a, const struct report *r, const struct curve *c,
                 const struct measured_result *measured)
{
    *a = (struct answer){.measured = measured};
    a->known = c->recipe != NULL;
    a->recomputed = c->recomputed;
    if (a->known)
        count_formats(a, r, c);
    read_prediction(a, r);
}

void answer_release(struct answer *a)
{
    free(a->formats);
    *a = (struct answer){0};
}

/* ---- in words ---- */

/* Adds a part of a list of n: "one, two and three". */
static void add_item(struct aq_buf *out, size_t i, size_t n, const char *text)
{
    aq_buf_addf(out, "%s%s", i == 0 ? "" : i + 1 == n ? " and " : ", ", text);
}

/* Who takes what, the unquantized groups first; more than three formats together. */
static void add_formats(struct aq_buf *out, const struct answer *a, const struct report *r,
                        size_t kept, size_t quantized)
{
    enum { SAID = 3 };
    size_t each = quantized > SAID + 1 ? SAID : quantized, rest = 0, i = 0;
    size_t items = (kept > 0) + each + (each < quantized);
    if (kept) {
        char *text = xasprintf("%zu of %zu groups of layers %s at 16 bits", kept, a->groups,
                               kept == 1 ? "stays" : "stay");
        add_item(out, i++, items, text);
        free(text);
    }
    for (size_t f = 0; f < quantized; f++) {
        const struct answer_format *format = &a->formats[f];
        if (f >= each) {
            rest += format->groups;
            continue;
        }
        char *words = report_candidate_words(r, format->option);
        char *text =
            xasprintf("%zu %s %s", format->groups, format->groups == 1 ? "takes" : "take", words);
        add_item(out, i++, items, text);
        free(words);
        free(text);
    }
    if (rest) {
        char *text = xasprintf("%zu take other formats", rest);
        add_item(out, i, items, text);
        free(text);
    }
}

char *answer_sentence(const struct answer *a, const struct report *r)
{
    struct aq_buf out = AQ_BUF_INIT;
    if (!a->known)
        return xasprintf("This manifest lists %zu groups of layers and no recipe.", r->count);
    bool none = a->count && a->formats[a->count - 1].option->none;
    size_t kept = none ? a->formats[a->count - 1].groups : 0, quantized = a->count - none;
    if (!isnan(r->m->effective_bits))
        aq_buf_addf(&out, "At %.4g bits per weight, ", r->m->effective_bits);
    if (quantized == 0) {
        aq_buf_addf(&out, "all %zu groups of layers stay at 16 bits", kept);
    } else if (kept == 0 && quantized == 1) {
        char *words = report_candidate_words(r, a->formats[0].option);
        aq_buf_addf(&out, "all %zu groups of layers take %s", a->groups, words);
        free(words);
    } else {
        if (!kept)
            aq_buf_addf(&out, "all %zu groups of layers are quantized: ", a->groups);
        add_formats(&out, a, r, kept, quantized);
    }
    aq_buf_addc(&out, '.');
    if (a->before > 0 && !isnan(a->after))
        aq_buf_addf(&out, " %s of weights become %s.", svg_bytes(a->before), svg_bytes(a->after));
    return aq_buf_detach(&out);
}

static void add_measured(struct aq_buf *out, const struct measured_text *t, bool predicted)
{
    aq_buf_addf(out, "%s %s",
                predicted ? "measured:" : "Measured divergence (KL):", svg_number(t->kl));
    if (!isnan(t->error))
        aq_buf_addf(out, " ± %s", svg_number(t->error));
    aq_buf_adds(out, predicted ? "." : " nats per token.");
    if (!isnan(t->top1))
        aq_buf_addf(out, " The most likely token stays the same at %.1f %% of positions.",
                    100 * t->top1);
    if (!isnan(t->perplexity) && !isnan(t->reference_perplexity))
        aq_buf_addf(out, " Perplexity goes from %.4g to %.4g.", t->reference_perplexity,
                    t->perplexity);
}

char *answer_divergence(const struct answer *a)
{
    struct aq_buf out = AQ_BUF_INIT;
    if (!isnan(a->kl)) {
        aq_buf_addf(&out, "Predicted divergence (KL): %s nats per token", svg_number(a->kl));
        if (!isnan(a->low) && !isnan(a->high))
            aq_buf_addf(&out, ", between %s and %s", svg_number(a->low), svg_number(a->high));
        aq_buf_adds(&out, a->measured ? "; " : ".");
    }
    if (a->measured)
        add_measured(&out, &a->measured->all, !isnan(a->kl));
    if (!isnan(a->kl) && a->flagged)
        aq_buf_addf(&out,
                    " For %zu group%s the two forms of the score differ by more than a factor of "
                    "3: measure before you trust this prediction.",
                    a->flagged, a->flagged == 1 ? "" : "s");
    return aq_buf_detach(&out);
}

char *answer_sharing(const struct answer *a)
{
    const struct measured_result *m = a->measured;
    if (!m || !(m->shared_groups > 0))
        return xstrdup("");
    return xasprintf("The members of %.0f fused layers share an NVFP4 second level, as engines "
                     "compute them: the mean squared error of their weights is %.4f times that "
                     "under a second level for each. Ranges of members differ by up to a factor of "
                     "%.2f.",
                     m->shared_groups, m->shared_ratio, m->shared_widest);
}

char *answer_worst(const struct report *r)
{
    static const char *const words[] = {"",
                                        "The most sensitive group carries",
                                        "The two most sensitive groups carry",
                                        "The three most sensitive groups carry",
                                        "The four most sensitive groups carry",
                                        "The five most sensitive groups carry"};
    double sum = 0;
    size_t n = r->count < 5 ? r->count : 5;
    if (!(r->total > 0))
        return xstrdup("No group has a sensitivity above zero.");
    struct aq_buf out = AQ_BUF_INIT;
    for (size_t i = 0; i < n; i++)
        sum += r->by_sensitivity[i]->sensitivity;
    aq_buf_addf(&out, "%s %.0f %% of the total sensitivity, first of all %s (%.0f %%).", words[n],
                100 * (sum / r->total), r->by_sensitivity[0]->shown,
                100 * (r->by_sensitivity[0]->sensitivity / r->total));
    return aq_buf_detach(&out);
}

/* ---- to paste ---- */

/* A name that needs no quotes, neither in a shell nor in make. */
static bool is_plain(const char *name)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-";
    return *name && *name != '-' && *name != '.' && *name != '+' &&
           name[strspn(name, fine)] == '\0';
}

/* Names that were met, each once. */
struct words {
    char **items;
    size_t count, cap;
};

static void words_release(struct words *w)
{
    for (size_t i = 0; i < w->count; i++)
        free(w->items[i]);
    free(w->items);
}

/* Adds the first n characters unless they are there; false if they cannot be typed. */
static bool add_word(struct words *w, const char *text, size_t n)
{
    char *word = xstrndup(text, n);
    bool fine = is_plain(word), known = false;
    for (size_t i = 0; i < w->count; i++)
        known = known || strcmp(w->items[i], word) == 0;
    if (!fine || known) {
        free(word);
        return fine;
    }
    AQ_GROW(w->items, w->count, w->cap);
    w->items[w->count++] = word;
    return true;
}

static void add_words(struct aq_buf *out, const char *key, const struct words *w)
{
    aq_buf_addf(out, " %s=%s", key, w->count > 1 ? "\"" : "");
    for (size_t i = 0; i < w->count; i++)
        aq_buf_addf(out, "%s%s", i ? " " : "", w->items[i]);
    aq_buf_adds(out, w->count > 1 ? "\"" : "");
}

/* The options of the sweep that the candidates are named after. */
static bool cell_words(const struct report *r, struct words *pairs, struct words *grans)
{
    for (size_t i = 0; i < r->m->option_count; i++) {
        const struct manifest_option *o = &r->m->options[i];
        const char *slash = o->name && !o->none ? strchr(o->name, '/') : NULL;
        if (o->none)
            continue;
        if (!slash || !add_word(pairs, o->name, (size_t)(slash - o->name)) ||
            !add_word(grans, slash + 1, strlen(slash + 1)))
            return false;
    }
    return pairs->count > 0;
}

/* A sweep of one cell gives it again; a mix needs the selection over several. */
static void add_goal(struct aq_buf *out, const struct report *r, bool one)
{
    char number[AQ_FMT_MAX];
    double budget = json_find_number(r->m->selection, "budget");
    bool demo = strcmp(r->cell.model, "qwen3_vl_demo") == 0, own_budget = one && budget != 8;
    bool path = !demo && r->m->model_id && !strpbrk(r->m->model_id, "'\"$\\\n");
    if (!isnan(budget) && !one)
        aq_buf_addf(out, " BITS=%s", aq_fmt_double(budget, number));
    if (!path && !(own_budget && !isnan(budget)))
        return;
    aq_buf_adds(out, " OVERRIDES='");
    if (path)
        aq_buf_addf(out, "model.path=\"%s\"%s", r->m->model_id, own_budget ? " " : "");
    if (own_budget)
        aq_buf_addf(out, "autoquant.effective_bits=%s", aq_fmt_double(budget, number));
    aq_buf_addc(out, '\'');
}

/* engine: of an export, whose budget is always said; NULL: what gives the manifest again. */
static char *command_for(const struct report *r, const char *engine)
{
    struct words pairs = {0}, grans = {0};
    struct aq_buf out = AQ_BUF_INIT;
    const char *dataset = json_find_string(r->m->dataset, "name");
    char *command = NULL;
    if (r->m->aq && cell_words(r, &pairs, &grans) && is_plain(r->cell.model) &&
        is_plain(r->cell.size) && dataset && is_plain(dataset)) {
        bool one = pairs.count == 1 && grans.count == 1;
        aq_buf_addf(&out, "make -f pipelines/sweep.mk %s",
                    engine ? "export"
                    : one  ? "sweep"
                           : "select");
        if (engine)
            aq_buf_addf(&out, " ENGINE=%s", engine);
        add_words(&out, "PAIRS", &pairs);
        add_words(&out, "GRANS", &grans);
        aq_buf_addf(&out, " SIZES=%s MODEL=%s DATASET=%s", r->cell.size, r->cell.model, dataset);
        add_goal(&out, r, one && !engine);
        command = aq_buf_detach(&out);
    }
    aq_buf_release(&out);
    words_release(&pairs);
    words_release(&grans);
    return command;
}

char *answer_command(const struct report *r)
{
    return command_for(r, NULL);
}

char *answer_export(const struct report *r, const char *engine)
{
    return command_for(r, engine);
}

/* A text for YAML's double quotes, of which JSON's are a part. */
static void add_quoted(struct aq_buf *out, const char *text)
{
    struct json *v = json_new_string(text);
    if (json_write(out, v, JSON_COMPACT, NULL) < 0)
        aq_buf_adds(out, "\"\"");
    json_free(v);
}

char *answer_menu(const struct report *r, const struct curve *c)
{
    struct aq_buf out = AQ_BUF_INIT;
    if (!c->recipe)
        return NULL;
    for (size_t g = 0; g < r->count; g++) {
        const struct manifest_option *o = &r->rows[g].group->options[c->recipe[g]];
        char *name = o->none ? xstrdup("NONE") : report_candidate(r, o);
        aq_buf_adds(&out, "- {match: ");
        add_quoted(&out, r->rows[g].group->layer);
        aq_buf_adds(&out, ", pin: ");
        add_quoted(&out, name);
        aq_buf_adds(&out, "}\n");
        free(name);
    }
    return aq_buf_detach(&out);
}
