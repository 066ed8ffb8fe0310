#include "score/samples.h"

int sample_tiles(struct tiles *out, const struct sample_set *set, const struct lm_arch *a,
                 const struct backend *b, struct aq_err *err)
{
    const struct tokens *t = set->tokens;
    const struct tile_source source = {.ids = t->ids,
                                       .offsets = t->offsets,
                                       .samples = set->samples,
                                       .count_from = t->count_from,
                                       .max_length = t->max_length,
                                       .seq_len = t->seq_len,
                                       .pad_id = t->pad_id,
                                       .batch = set->batch,
                                       .max_positions = arch_max_length(a)};
    if (tiles_build(out, &source, tiles_tokens(b, a, t->offsets[t->samples]), a->vocab_size, err) <
        0)
        return aq_err_prefix(err, "'%s'", aq_show(set->path));
    return 0;
}
