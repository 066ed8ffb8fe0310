/*
 * A store and the scores collected from it. The input is a header up to the first zero byte with
 * the data after it; the length in front is put right. An accepted store has finite numbers, only
 * divergences below 0, no row twice, and a description that reads back; its scores are finite or
 * refused.
 */
#include "base/mem.h"
#include "store/collect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A cell whose treatment is in the seeds. */
static const char run[] =
    "{\"model\":{\"name\":\"m\",\"path\":\"p\",\"dtype\":\"bf16\"},"
    "\"dataset\":{\"name\":\"d\",\"size\":\"s\"},\"quant_pair\":{\"name\":\"pair\"},"
    "\"autoquant\":{\"method\":\"gradient\",\"batch_size\":2,\"effective_bits\":8.0,"
    "\"normalization\":\"per_batch_mean\",\"operand_rounding\":\"none\","
    "\"dynamic_range\":\"per_sample\"},"
    "\"_aq\":{\"schema\":\"aq.run/1\",\"scheme_name\":\"x\",\"num_calib_samples\":3,"
    "\"score_samples\":3}}";
static const char quant[] =
    "{\"schema\":\"aq.quant/"
    "1\",\"treatment_id\":\"f98e5084022c566a\",\"treatment\":{\"w\":\"int8:axis0:static\",\"a\":"
    "\"none\"},"
    "\"base_format_name\":\"INT8_WEIGHT_ONLY_CFG\",\"quant_granularity\":{\"name\":\"default\"},"
    "\"label\":\"l\",\"bits\":{\"w\":8}}";

/* A file that is only in memory; its name in path. */
static void keep(const char *text, char path[32])
{
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        abort();
    (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
}

static void check_refusal(const struct aq_err *err)
{
    if (err->code != AQ_EINPUT || !err->msg[0] || strchr(err->msg, '\n'))
        abort();
}

static void check_number(const struct store *s, const struct store_row *r, int part, int64_t group,
                         int64_t sample)
{
    if (!r->parts[part] && !s->shape.gradient && store_part_kinds[part].gradient)
        return;
    double x = store_number(s, r, part, group, sample);
    if (!isfinite(x) || (x < 0 && (part != STORE_SUMS || s->shape.gradient)))
        abort();
}

/* What a killed run left where nothing is marked is never read. */
static void check_cell(const struct store *s, const struct store_row *r, int64_t layer,
                       int64_t tile)
{
    for (size_t g = s->model.first[layer]; g < s->model.first[layer + 1]; g++)
        for (int64_t n = s->tile_first[tile]; n < s->tile_first[tile + 1]; n++)
            for (int p = 0; p < STORE_PARTS; p++)
                check_number(s, r, p, (int64_t)g, n);
}

static void check_rows(const struct store *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct store_row *r = &s->rows[i];
        if (store_find(s, r->key.id, r->key.prefix) != r)
            abort();
        if (i && strcmp(r[-1].key.id, r->key.id) == 0 && r[-1].key.prefix >= r->key.prefix)
            abort();
        for (int64_t l = 0; l < s->shape.layers; l++)
            for (int64_t t = 0; t < s->shape.tiles; t++)
                if (store_have(s, r, l, t))
                    check_cell(s, r, l, t);
    }
}

/* Numbers that JSON cannot hold make json_write refuse. */
static void check_json(struct json *v, bool must)
{
    struct aq_buf out = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (json_write(&out, v, JSON_NEWLINE, &err) == 0) {
        struct json *again = json_parse(aq_buf_str(&out), out.len, "again", &err);
        if (!again)
            abort();
        json_free(again);
    } else if (must || !err.msg[0]) {
        abort();
    }
    aq_buf_release(&out);
    json_free(v);
}

static void check_scores(const struct store *s)
{
    static char run_path[32], quant_path[32];
    struct aq_err err = {0};
    if (!run_path[0]) {
        keep(run, run_path);
        keep(quant, quant_path);
    }
    const struct collect_source source = {.store = s};
    struct json *scores = collect_cell(&source, run_path, quant_path, &err);
    if (scores)
        check_json(scores, false);
    else
        check_refusal(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t header = size ? strnlen((const char *)data, size) : 0;
    size_t rest = header < size ? size - header - 1 : 0;
    unsigned char *file = xmalloc(8 + size);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)header >> (8 * i));
    if (header)
        memcpy(file + 8, data, header);
    if (rest)
        memcpy(file + 8 + header, data + header + 1, rest);
    struct store s;
    struct aq_err err = {0};
    if (store_open_memory(&s, file, 8 + header + rest, "fuzz", STORE_REPAIR, &err) < 0) {
        check_refusal(&err);
    } else {
        check_rows(&s);
        check_json(store_describe(&s), true);
        check_scores(&s);
        store_close(&s);
    }
    free(file);
    return 0;
}
