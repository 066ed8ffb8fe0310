/* Which experiment a set of overrides belongs to: a digest of what scoring reads. */
#include "base/mem.h"
#include "base/sha256.h"
#include "conf/resolve.h"

#include <string.h>

static const char *const keys[][2] = {
    {"model", "path"},
    {"model", "dtype"},
    {"dataset", "captions_path"},
    {"dataset", "padding"},
    {"dataset", "calib_seq_len"},
    {"dataset", "max_calib_samples"},
    {"autoquant", "method"},
    {"autoquant", "score_size"},
    {"autoquant", "batch_size"},
    {"autoquant", "operand_rounding"},
    {"autoquant", "dynamic_range"},
    {"autoquant", "fp4_block"},
    {"autoquant", "shared_scale"},
    {"autoquant", "moe_split"},
};

enum { ID_DIGITS = 8 };

/* One line for each key: its value as it reads back. */
static int read_values(struct resolver *r, size_t overrides, struct aq_buf lines[],
                       struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct conf_job job = {.search = &r->search,
                           .primary = r->primary,
                           .overrides = r->overrides,
                           .count = overrides,
                           .now = r->now};
    struct conf_result c;
    int result = sweep_check_single(r->overrides, overrides, err);
    if (result == 0)
        result = conf_compose(&job, &scratch, &c, err);
    if (result == 0) {
        const struct node *app = conf_resolve(&c);
        result = app ? 0 : -1;
        for (size_t i = 0; app && i < AQ_COUNT(keys); i++) {
            const struct node *v = node_at(app, keys[i][0], keys[i][1], NULL);
            aq_buf_addf(&lines[i], "%s.%s=", keys[i][0], keys[i][1]);
            if (v && !node_is_container(v))
                override_value_text(&lines[i], v);
            aq_buf_addc(&lines[i], '\n');
        }
        conf_result_release(&c);
    }
    aq_arena_release(&scratch);
    return result;
}

int resolve_scoring_id(struct resolver *r, size_t typed, struct aq_buf *out, struct aq_err *err)
{
    struct aq_buf own[AQ_COUNT(keys)] = {{0}}, now[AQ_COUNT(keys)] = {{0}}, changed = AQ_BUF_INIT;
    int result = read_values(r, typed, own, err);
    if (result == 0)
        result = read_values(r, r->count, now, err);
    for (size_t i = 0; i < AQ_COUNT(keys) && result == 0; i++)
        if (strcmp(aq_buf_str(&own[i]), aq_buf_str(&now[i])) != 0)
            aq_buf_adds(&changed, aq_buf_str(&now[i]));
    if (changed.len) {
        char hex[AQ_SHA256_HEX];
        aq_sha256_of(changed.data, changed.len, hex);
        aq_buf_addf(out, "%.*s\n", (int)ID_DIGITS, hex);
    }
    for (size_t i = 0; i < AQ_COUNT(keys); i++) {
        aq_buf_release(&own[i]);
        aq_buf_release(&now[i]);
    }
    aq_buf_release(&changed);
    return result;
}
