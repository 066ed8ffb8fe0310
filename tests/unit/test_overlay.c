/* lib/conf: overlay, treatments and formats, held against vectors of ModelOpt
 * (tests/oracle/overlay.py). */
#include "tap.h"

#include "quant/format.h"
#include "quant/overlay.h"
#include "quant/quant.h"
#include "quant/treatment.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define CONF "conf"
static struct format_shelf shelf = {.conf_dir = CONF};
#define V40 "tests/oracle/overlay/modelopt-0.40.0.json"
#define V47 "tests/oracle/overlay/modelopt-0.47.0.json"

static struct json *parse(const char *text)
{
    struct aq_err err = {0};
    struct json *v = json_parse(text, strlen(text), "test", &err);
    if (!v)
        printf("# %s\n", err.msg);
    return v;
}

static const char *text_of(const struct json *object, const char *key)
{
    const struct json *v = json_get(object, key);
    return v && json_type(v) == JSON_STRING ? json_string(v) : "";
}

static bool truth_of(const struct json *object, const char *key)
{
    const struct json *v = json_get(object, key);
    return v && json_type(v) == JSON_BOOL && json_bool(v);
}

/* ---- presets ---- */

static bool lists_version(const struct json *format, const char *version)
{
    const struct json *versions = json_get(format, "modelopt");
    for (const struct json *v = versions ? json_first(versions) : NULL; v; v = json_next(v))
        if (strcmp(json_string(v), version) == 0)
            return true;
    return false;
}

static bool same_preset(const struct json *preset, const struct json *format)
{
    bool same = json_equal(json_get(format, "quant_cfg"), json_get(preset, "quant_cfg")) &&
                json_equal(json_get(format, "algorithm"), json_get(preset, "algorithm"));
    if (!same)
        printf("# %s differs\n", json_key(preset));
    return same;
}

/* 0.40 says what its presets are; the newest one only what 0.40 does not have. */
static void test_presets(const struct json *v40, const struct json *v47)
{
    struct aq_err err = {0};
    int bad = 0, old = 0, newer = 0;
    for (const struct json *p = json_first(json_get(v40, "presets")); p; p = json_next(p), old++) {
        struct json *f = format_load(CONF, json_key(p), &err);
        bad += !f || !same_preset(p, f) || lists_version(f, "0.40") != truth_of(p, "choice");
        json_free(f);
    }
    for (const struct json *p = json_first(json_get(v47, "presets")); p; p = json_next(p)) {
        struct json *f = format_load(CONF, json_key(p), &err);
        bool only_there = !json_get(json_get(v40, "presets"), json_key(p));
        newer += only_there;
        bad += !f || !lists_version(f, "0.47") || (only_there && !same_preset(p, f));
        json_free(f);
    }
    tap_ok(bad == 0 && old == 24 && newer == 6,
           "%d presets of ModelOpt 0.40 and %d of 0.47 have the same contents here", old, newer);
}

/* ---- cells ---- */

/* Presets whose patterns carry layer names: ModelOpt charges them for what it never applies. */
static bool has_layer_names(const char *format)
{
    return strstr(format, "MLP_") || strstr(format, "EXPERTS_");
}

static struct json *quant_of(const struct json *vectors, const struct json *format,
                             const struct json *row, struct json **merged)
{
    struct aq_err err = {0};
    const char *granularity = text_of(row, "granularity");
    struct overlay_cell cell = {
        .format_name = text_of(row, "format"),
        .format = jref_root(format, text_of(row, "format")),
        .granularity = granularity,
        .overrides =
            jref_root(json_get(json_get(vectors, "granularities"), granularity), "overrides"),
        .shelf = &shelf,
    };
    struct json *quant = overlay_quant(&cell, &err);
    if (merged)
        *merged = overlay_merge(&cell.format, &cell.overrides, &err);
    if (!quant)
        printf("# %s\n", err.msg);
    return quant;
}

/* Refusals of our own, where ModelOpt's validation has nothing to say. */
static bool is_own_rule(const char *reason)
{
    static const char *const rules[] = {"(rule 2)",  "(rule 6)",  "(rule 8)",
                                        "(rule 9)",  "(rule 10)", "(rule 11)",
                                        "(rule 24)", "(rule 25)", "(rule 26)"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strstr(reason, rules[i]))
            return true;
    return false;
}

struct found {
    int merges, verdicts, labels, bits;
};

static void hold_cell(const struct json *row, const struct json *format, const struct json *merged,
                      const struct json *quant, struct found *wrong)
{
    bool valid = truth_of(row, "valid"), supported = truth_of(quant, "supported");
    const char *reason = text_of(quant, "reason");
    wrong->merges += !json_equal(json_get(merged, "quant_cfg"), json_get(row, "quant_cfg"));
    /* what 0.40 does not have yet, and is searched for here: NVFP4 scales that are stored */
    bool searched =
        strstr(text_of(row, "format"), "SWEEP") || strstr(text_of(row, "format"), "SIX");
    if (supported ? !valid && !searched : (valid && !is_own_rule(reason))) {
        printf("# %s %s: valid %d, supported %d, %s\n", text_of(row, "format"),
               text_of(row, "granularity"), valid, supported, reason);
        wrong->verdicts++;
    }
    const char *label = text_of(row, "label"), *mine = text_of(quant, "label");
    /* A preset that 0.40 has no name for yet keeps the name of its file. */
    bool newer = json_get(format, "modelopt") && !lists_version(format, "0.40");
    if (strcmp(mine, *label ? label : "CUSTOM_0") != 0 && !(newer && !*label)) {
        printf("# %s %s: label %s, ModelOpt %s\n", text_of(row, "format"),
               text_of(row, "granularity"), mine, label);
        wrong->labels++;
    }
}

static bool bits_agree(const struct json *row, const struct json *quant, const char *column)
{
    if (!truth_of(row, "valid") || has_layer_names(text_of(row, "format")))
        return true;
    double mine = json_number(json_get(json_get(quant, "bits"), column));
    double theirs = json_number(json_get(row, "bits"));
    if (mine != theirs)
        printf("# %s %s: %s %g, ModelOpt %g\n", text_of(row, "format"), text_of(row, "granularity"),
               column, mine, theirs);
    return mine == theirs;
}

static void test_cells(const struct json *vectors, const char *column, bool all)
{
    struct aq_err err = {0};
    struct found wrong = {0};
    int count = 0;
    struct json *format = NULL;
    const char *loaded = "";
    for (const struct json *row = json_first(json_get(vectors, "cells")); row;
         row = json_next(row), count++) {
        struct json *merged = NULL;
        if (strcmp(loaded, text_of(row, "format")) != 0) {
            loaded = text_of(row, "format");
            json_free(format);
            format = format_load(CONF, loaded, &err);
        }
        struct json *quant = format ? quant_of(vectors, format, row, &merged) : NULL;
        if (!quant || !merged) {
            wrong.merges++;
        } else {
            if (all)
                hold_cell(row, format, merged, quant, &wrong);
            wrong.bits += !bits_agree(row, quant, column);
        }
        json_free(merged);
        json_free(quant);
    }
    json_free(format);
    tap_ok(count > 600 && wrong.bits == 0, "%d cells: %s as ModelOpt counts", count, column);
    if (!all)
        return;
    tap_ok(wrong.merges == 0, "%d cells: merged configuration", count);
    tap_ok(wrong.verdicts == 0,
           "%d cells: nothing supported that ModelOpt refuses, and no refusal without a rule",
           count);
    tap_ok(wrong.labels == 0, "%d cells: label", count);
}

/* ---- equal treatments are equal numbers ---- */

struct judged {
    struct treatment t;
    const char *digest, *of;
};

static const struct treatment_rules plain_rules = {.calibrated = true};

static bool judge_row(const struct json *row, struct judged *j)
{
    struct aq_err err = {0};
    struct quantizer q;
    struct jref place = jref_root(json_get(row, "attributes"), "attributes");
    *j = (struct judged){.of = text_of(row, "of"), .digest = text_of(row, "digest")};
    if (quantizer_read(&place, &q, &err) < 0) {
        printf("# %s\n", err.msg);
        return false;
    }
    treatment_find(&q, 1, strcmp(j->of, "weight") == 0 ? TREATMENT_WEIGHT : TREATMENT_INPUT,
                   &plain_rules, &j->t);
    return true;
}

static bool engine_reads(const struct treatment *t)
{
    struct aq_err err = {0};
    struct quant_spec spec;
    if (!t->runs || quant_parse(t->text, &spec, &err) == 0)
        return true;
    printf("# %s\n", err.msg);
    return false;
}

static void test_quantizers(const struct json *vectors)
{
    size_t n = json_size(json_get(vectors, "quantizers")), i = 0;
    struct judged *all = calloc(n ? n : 1, sizeof *all);
    int unread = 0, foreign = 0, wrongly_run = 0, unexplained = 0, pairs = 0, unequal = 0;
    int blocks = 0;
    for (const struct json *row = json_first(json_get(vectors, "quantizers")); row;
         row = json_next(row), i++) {
        unread += !judge_row(row, &all[i]);
        foreign += !engine_reads(&all[i].t);
        /* Blocks with a scale made from the data need a GPU in ModelOpt: no digest, no statement.
         */
        bool gpu = strstr(all[i].t.text, "mx(") || strstr(all[i].t.text, "nvfp4(");
        /* Engines run it; ModelOpt fails, but only where a batch has another shape than the first.
         */
        bool engines = strstr(all[i].t.text, "e4m3:block(-1:50):dynamic");
        blocks += engines;
        if (all[i].t.runs && !*all[i].digest && !gpu && !engines) {
            printf("# row %zu: %s, which ModelOpt does not run\n", i, all[i].t.text);
            wrongly_run++;
        }
        unexplained += !all[i].t.runs && !all[i].t.reason[0];
    }
    for (size_t a = 0; a < n; a++)
        for (size_t b = a + 1; b < n; b++) {
            if (!all[a].t.runs || !all[b].t.runs || !*all[a].digest || !*all[b].digest ||
                strcmp(all[a].of, all[b].of) != 0)
                continue;
            pairs++;
            bool same_text = strcmp(all[a].t.text, all[b].t.text) == 0;
            if (same_text != (strcmp(all[a].digest, all[b].digest) == 0)) {
                printf("# rows %zu and %zu: %s, %s\n", a, b, all[a].t.text, all[b].t.text);
                unequal++;
            }
        }
    tap_ok(unread == 0, "%zu quantizers are read", n);
    tap_ok(foreign == 0, "the numeric engine reads their treatments");
    tap_ok(wrongly_run == 0 && unexplained == 0 && blocks == 1,
           "what ModelOpt does not run is refused, with a reason");
    tap_ok(pairs > 1000 && unequal == 0,
           "%d pairs: treatments are equal where ModelOpt's outputs are, and only there", pairs);
    free(all);
}

/* ---- single cases ---- */

static void treats(const char *of, const char *attributes, const char *expected)
{
    struct aq_err err = {0};
    struct json *v = parse(attributes);
    struct quantizer q;
    struct jref place = jref_root(v, "x");
    struct treatment t = {0};
    if (quantizer_read(&place, &q, &err) == 0)
        treatment_find(&q, 1, *of == 'w' ? TREATMENT_WEIGHT : TREATMENT_INPUT, &plain_rules, &t);
    if (t.runs)
        tap_same(t.text, expected, attributes);
    else
        tap_ok(strstr(t.reason, expected) != NULL, "%s: %s", attributes, t.reason);
    json_free(v);
}

static void test_treatments(void)
{
    treats("w",
           "{\"num_bits\": [2, 1], \"block_sizes\": {\"-1\": 32, \"type\": \"dynamic\", "
           "\"scale_bits\": [4, 3]}}",
           "e2m1:nvfp4(32):dynamic");
    treats("w",
           "{\"num_bits\": [2, 1], \"block_sizes\": {\"1\": 16, \"type\": \"dynamic\", "
           "\"scale_bits\": [8, 0]}}",
           "e2m1:mx(16):dynamic");
    treats("a",
           "{\"num_bits\": [2, 1], \"block_sizes\": {\"-1\": 16, \"type\": \"dynamic\", "
           "\"scale_bits\": [4, 3]}}",
           "e2m1:nvfp4(16):static");
    treats("a",
           "{\"num_bits\": [2, 1], \"type\": \"dynamic\", \"block_sizes\": {\"2\": 16, \"type\": "
           "\"dynamic\", "
           "\"scale_bits\": [4, 3]}}",
           "e2m1:nvfp4(16):static"); /* one computation, one text */
    treats("a",
           "{\"num_bits\": 8, \"block_sizes\": {\"-1\": 32, \"type\": \"dynamic\", \"scale_bits\": "
           "[8, 0]}}",
           "int8:mx(32):dynamic");
    treats("a", "{\"num_bits\": [4, 3], \"type\": \"dynamic\", \"block_sizes\": {\"-1\": 128}}",
           "e4m3:block(-1:128):dynamic");
    treats("a", "{\"num_bits\": 8, \"type\": \"dynamic\", \"block_sizes\": {\"-1\": 128}}",
           "(rule 11)");
    treats("a", "{\"num_bits\": [4, 3], \"block_sizes\": {\"-1\": 128}}", "(rule 11)");
    treats("a",
           "{\"num_bits\": [4, 3], \"type\": \"dynamic\", \"block_sizes\": {\"-1\": 128, \"-2\": "
           "128}}",
           "(rule 11)");
    treats("w",
           "{\"num_bits\": 8, \"block_sizes\": {\"-1\": 64, \"type\": \"dynamic\", \"scale_bits\": "
           "[8, 0]}}",
           "(rule 6)");
    treats("w",
           "{\"num_bits\": 8, \"block_sizes\": {\"-1\": 16, \"type\": \"dynamic\", \"scale_bits\": "
           "[4, 3]}}",
           "(rule 10)");
    treats("w",
           "{\"num_bits\": 8, \"block_sizes\": {\"-2\": 16, \"type\": \"dynamic\", \"scale_bits\": "
           "[8, 0]}}",
           "(rule 2)");
    treats("w",
           "{\"num_bits\": 8, \"block_sizes\": {\"type\": \"dynamic\", \"scale_bits\": [8, 0]}}",
           "(rule 2)");
    treats("w", "{\"num_bits\": 8, \"block_sizes\": {\"type\": \"static\"}}", "(rule 2)");
    treats("w", "{\"num_bits\": 8, \"block_sizes\": {\"-1\": 8, \"1\": 8}}", "(rule 23)");
    treats("w", "{\"num_bits\": 8, \"axis\": 0, \"block_sizes\": {\"-1\": 8}}", "(rule 1)");
    treats("w", "{\"num_bits\": 8, \"rotate\": true, \"enable\": false}", "(rule 22)");
    treats("w", "{\"num_bits\": 8, \"bias\": {\"-1\": null}}", "(rule 22)");
    treats("w", "{\"num_bits\": 8, \"unsigned\": true, \"fake_quant\": false}", "(rule 22)");
    treats("w", "{\"num_bits\": [4, 3], \"unsigned\": true}", "e4m3:tensor:static");
    treats("w", "{\"enable\": true}", "(rule 21)");
    treats("w", "{}", "(rule 21)");
    treats("w", "{\"num_bits\": 1024}", "(rule 20)");
    treats("w", "{\"block_sizes\": {\"-1\": 1048576, \"-2\": 1048576}}",
           "int8:block(-1:1048576,-2:1048576):static");
}

static void unread(const char *attributes, const char *expected)
{
    struct aq_err err = {0};
    struct json *v = parse(attributes);
    struct quantizer q;
    struct jref place = jref_root(v, "x");
    tap_ok(quantizer_read(&place, &q, &err) < 0 && err.code == AQ_EINPUT, "%s is refused",
           attributes);
    tap_same(err.msg, expected, "message");
    json_free(v);
}

static void test_bad_attributes(void)
{
    unread("[]", "x: expected an object of quantizer attributes, found a list");
    unread("{\"num_bits\": \"4\"}", "x: num_bits: expected an integer, found a string");
    unread("{\"num_bits\": 4.0}", "x: num_bits: expected an integer, found a number");
    unread("{\"num_bits\": true}", "x: num_bits: expected an integer, found a boolean");
    unread("{\"num_bits\": 9007199254740993}",
           "x: num_bits: expected an integer from -1024 to 1024");
    unread("{\"num_bits\": [4]}",
           "x: num_bits: expected an integer or [exponent bits, mantissa bits]");
    unread("{\"num_bits\": [4, \"3\"]}", "x: num_bits[1]: expected an integer, found a string");
    unread("{\"nun_bits\": 4}", "x: nun_bits: unknown quantizer attribute");
    unread("{\"enable\": 1}", "x: enable: expected a boolean, found an integer");
    unread("{\"enable\": null}", "x: enable: expected a boolean, found null");
    unread("{\"type\": \"Dynamic\"}", "x: type: 'Dynamic' is not one of: static, dynamic");
    unread("{\"axis\": \"0\"}", "x: axis: expected an integer, found a string");
    unread("{\"axis\": [0, 1, 2, 3, 4]}", "x: axis: more than 4 dimensions");
    unread("{\"block_sizes\": 128}",
           "x: block_sizes: expected an object or null, found an integer");
    unread("{\"block_sizes\": {\"-1\": 0}}",
           "x: block_sizes.-1: expected an integer from 1 to 1048576");
    unread("{\"block_sizes\": {\"-1\": -8}}",
           "x: block_sizes.-1: expected an integer from 1 to 1048576");
    unread("{\"block_sizes\": {\"-1\": 2147483648}}",
           "x: block_sizes.-1: expected an integer from 1 to 1048576");
    unread("{\"block_sizes\": {\"-1\": 128.0}}",
           "x: block_sizes.-1: expected an integer, found a number");
    unread("{\"block_sizes\": {\"-01\": 8}}", "x: block_sizes.-01: unknown key of block_sizes");
    unread("{\"block_sizes\": {\"65\": 8}}", "x: block_sizes.65: unknown key of block_sizes");
    unread("{\"block_sizes\": {\"Type\": \"dynamic\"}}",
           "x: block_sizes.Type: unknown key of block_sizes");
    unread("{\"block_sizes\": {\"type\": \"banana\"}}",
           "x: block_sizes.type: 'banana' is not one of: static, dynamic");
    unread("{\"block_sizes\": {\"scale_block_sizes\": 4}}",
           "x: block_sizes.scale_block_sizes: expected an object, found an integer");
    unread("{\"block_sizes\": {\"-1\": 1, \"-2\": 1, \"-3\": 1, \"-4\": 1, \"0\": 1}}",
           "x: block_sizes.0: more than 4 dimensions");
    unread("{\"calibrator\": \"mse\"}", "x: calibrator: 'mse' is not one of: max, histogram");
    unread("{\"bias\": []}", "x: bias: expected an object or null, found a list");
    unread("{\"trt_high_precision_dtype\": \"FP32\"}",
           "x: trt_high_precision_dtype: 'FP32' is not one of: Float, Half, BFloat16");
}

/* The grid of upstream: 16 pairs with 9 granularities (quant_cfg_overrides of the vectors). */
static const char *const upstream_formats[] = {
    "NVFP4_WEIGHT_ONLY_CFG",
    "W4A8_NVFP4_FP8_CFG",
    "NVFP4_WEIGHT_INT4_ACT_CFG",
    "NVFP4_WEIGHT_INT8_ACT_CFG",
    "FP8_WEIGHT_ONLY_CFG",
    "FP8_DEFAULT_CFG",
    "FP8_WEIGHT_INT4_ACT_CFG",
    "FP8_WEIGHT_INT8_ACT_CFG",
    "INT4_WEIGHT_FP8_ACT_CFG",
    "INT4_WEIGHT_INT4_ACT_CFG",
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "INT4_WEIGHT_INT8_ACT_CFG",
    "INT8_WEIGHT_ONLY_CFG",
    "INT8_WEIGHT_FP8_ACT_CFG",
    "INT8_WEIGHT_INT4_ACT_CFG",
    "INT8_LM_DEFAULT_CFG",
};
static const char *const upstream_granularities[] = {
    "default",      "a_per_tensor_static", "a_per_token_dynamic", "recipe_match_channel_token",
    "w_group64",    "w_group128",          "w_per_out_channel",   "w_per_in_channel",
    "w_per_tensor",
};

static void count_grid(const struct json *vectors, bool always_16, int *runnable, int *distinct,
                       int *with_ranges)
{
    enum { CELLS = 144 };
    char seen[CELLS][20];
    struct aq_err err = {0};
    *runnable = *distinct = *with_ranges = 0;
    for (size_t f = 0; f < 16; f++) {
        struct json *format = format_load(CONF, upstream_formats[f], &err);
        for (size_t g = 0; format && g < 9; g++) {
            const struct json *over =
                json_get(json_get(vectors, "granularities"), upstream_granularities[g]);
            struct overlay_cell cell = {.format_name = upstream_formats[f],
                                        .format = jref_root(format, "f"),
                                        .granularity = upstream_granularities[g],
                                        .overrides = jref_root(over, "o"),
                                        .fp4_always_16 = always_16,
                                        .shelf = &shelf};
            struct json *quant = overlay_quant(&cell, &err);
            if (quant && truth_of(quant, "supported")) {
                const char *id = text_of(quant, "treatment_id");
                int i = 0;
                ++*runnable;
                while (i < *distinct && strcmp(seen[i], id) != 0)
                    i++;
                if (i == *distinct) {
                    (void)snprintf(seen[(*distinct)++], sizeof seen[0], "%s", id);
                    *with_ranges +=
                        strstr(text_of(json_get(quant, "treatment"), "a"), ":static") != NULL;
                }
            }
            json_free(quant);
        }
        json_free(format);
    }
}

static void test_grid(const struct json *vectors)
{
    int runnable, distinct, with_ranges;
    count_grid(vectors, true, &runnable, &distinct, &with_ranges);
    tap_ok(runnable == 128 && distinct == 82 && with_ranges == 48,
           "blocks of FP4 read as 16: %d of 144 cells run, %d distinct, %d need calibrated ranges",
           runnable, distinct, with_ranges);
    count_grid(vectors, false, &runnable, &distinct, &with_ranges);
    tap_ok(runnable == 128 && distinct == 90 && with_ranges == 54,
           "blocks of FP4 honoured: %d of 144 cells run, %d distinct, %d need calibrated ranges",
           runnable, distinct, with_ranges);
}

int main(void)
{
    struct aq_err err = {0};
    struct json *v40 = json_read(V40, &err), *v47 = json_read(V47, &err);
    if (!tap_ok(v40 && v47, "vectors of ModelOpt 0.40 and 0.47 are there %s", err.msg))
        return tap_done();
    test_presets(v40, v47);
    test_cells(v40, "modelopt40", true);
    test_cells(v47, "modelopt47", false);
    test_quantizers(v40);
    test_treatments();
    test_bad_attributes();
    test_grid(v40);
    format_shelf_release(&shelf);
    json_free(v40);
    json_free(v47);
    return tap_done();
}
