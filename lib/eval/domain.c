#include "eval/domain.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static bool is_name(const char *s, size_t n)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-";
    return n > 0 && n <= 64 && strspn(s, letters) >= n && strchr("_.+-", s[0]) == NULL;
}

static int open_domain(struct eval_domains *d, const char *word, struct aq_err *err)
{
    const char *equal = strchr(word, '=');
    if (!equal || !equal[1] || !is_name(word, (size_t)(equal - word)))
        return aq_err_set(err, AQ_EUSAGE,
                          "'%s' is not NAME=TOKENS, NAME of letters, digits and _.+-",
                          aq_show(word));
    struct eval_domain *one = &d->items[d->count];
    *one = (struct eval_domain){.name = xasprintf("%.*s", (int)(equal - word), word),
                                .path = equal + 1};
    for (size_t i = 0; i < d->count; i++)
        if (strcmp(d->items[i].name, one->name) == 0) {
            aq_err_set(err, AQ_EUSAGE, "a text '%s' is given twice", aq_show(one->name));
            free(one->name);
            return -1;
        }
    d->count++;
    if (tokens_open(&one->tokens, one->path, err) < 0)
        return -1;
    if (one->tokens.max_length) {
        aq_err_set(err, AQ_EINPUT, "'%s' is padded to %lld tokens", aq_show(one->path),
                   (long long)one->tokens.seq_len);
        return aq_err_hint(err, "a served model sees no padding: make the tokens with "
                                "--padding none");
    }
    return 0;
}

int eval_domains_open(struct eval_domains *d, const struct aq_names *words, struct aq_err *err)
{
    *d = (struct eval_domains){0};
    if (words->count == 0)
        return aq_err_set(err, AQ_EUSAGE, "--domain NAME=TOKENS is needed");
    d->items = xcalloc(words->count, sizeof *d->items);
    for (size_t i = 0; i < words->count; i++)
        if (open_domain(d, words->items[i], err) < 0)
            return -1;
    return 0;
}

static int count_positions(struct eval_domain *one, struct aq_err *err)
{
    int64_t sample = 0;
    one->positions = xcalloc((size_t)one->tokens.samples + 1, sizeof *one->positions);
    for (size_t t = 0; t < one->tiles.count; t++)
        for (int32_t i = 0; i < one->tiles.items[t].desc.samples; i++, sample++)
            one->positions[sample + 1] = one->positions[sample] + one->tiles.items[t].labels[i];
    if (one->positions[sample] == 0)
        return aq_err_set(err, AQ_EINPUT, "'%s': no sample has two tokens, so nothing is predicted",
                          aq_show(one->path));
    return 0;
}

int64_t eval_domains_tokens(const struct eval_domains *d)
{
    int64_t most = 0;
    for (size_t i = 0; i < d->count; i++) {
        const struct tokens *t = &d->items[i].tokens;
        int64_t n = t->offsets[t->samples];
        most = n > most ? n : most;
    }
    return most;
}

int eval_domains_tile(struct eval_domains *d, int32_t rows, int64_t vocab, int64_t max_positions,
                      struct aq_err *err)
{
    d->first_tile = xcalloc(d->count + 1, sizeof *d->first_tile);
    for (size_t i = 0; i < d->count; i++) {
        struct eval_domain *one = &d->items[i];
        const struct tile_source source = {.ids = one->tokens.ids,
                                           .offsets = one->tokens.offsets,
                                           .samples = one->tokens.samples,
                                           .pad_id = -1,
                                           .max_positions = max_positions,
                                           .count_from = one->tokens.count_from};
        if (tiles_build(&one->tiles, &source, rows, vocab, err) < 0)
            return aq_err_prefix(err, "'%s'", aq_show(one->path));
        if (count_positions(one, err) < 0)
            return -1;
        if (one->tiles.rows > d->rows)
            d->rows = one->tiles.rows;
        d->first_tile[i + 1] = d->first_tile[i] + one->tiles.count;
    }
    return 0;
}

void eval_domains_close(struct eval_domains *d)
{
    for (size_t i = 0; i < d->count; i++) {
        tokens_release(&d->items[i].tokens);
        tiles_release(&d->items[i].tiles);
        free(d->items[i].positions);
        free(d->items[i].name);
    }
    free(d->items);
    free(d->first_tile);
    *d = (struct eval_domains){0};
}

struct eval_place eval_domains_tile_at(const struct eval_domains *d, size_t tile)
{
    size_t i = 0;
    while (tile >= d->first_tile[i + 1])
        i++;
    struct eval_domain *one = &d->items[i];
    return (struct eval_place){one, i, &one->tiles.items[tile - d->first_tile[i]]};
}
