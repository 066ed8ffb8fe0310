/* Legality: each rule of conf/engine by a group that it decides, and the reader on bad files. */
#include "engine/engine.h"
#include "tap.h"

#include "base/file.h"
#include "base/mem.h"

#include <stdlib.h>
#include <unistd.h>

struct ask {
    const char *target, *layout, *kind, *weight, *act;
    int64_t rows, cols; /* of each of three modules for qkv, two for gate_up, else one */
    const char *verdict, *scheme;
    const char *says; /* part of the reason */
};

#define INT8 "int8:axis0:static"
#define INT8G "int8:block(-1:128):static"
#define INT4G "int4:block(-1:128):static"
#define FP8 "e4m3:axis0:static"
#define TILE "e4m3:block(-1:128,-2:128):static"
#define NV "e2m1:nvfp4(16):dynamic"
#define NVG NV "@group"
#define MX4 "e2m1:mx(32):dynamic"
#define MX8 "e4m3:mx(32):dynamic"
#define A8T "int8:tensor:static"
#define A8 "int8:token:dynamic"
#define A4 "int4:token:dynamic"
#define F8T "e4m3:tensor:static"
#define F8 "e4m3:token:dynamic"
#define F8B "e4m3:block(-1:128):dynamic"
#define NVA "e2m1:nvfp4(16):static"
#define CT "compressed-tensors"
#define MO "modelopt"

static const struct ask asks[] = {
    /* the pairs that no layout has */
    {"vllm", CT, "o", "none", A8T, 256, 256, "no", "", "activations alone"},
    {"vllm", CT, "o", INT4G, A8T, 256, 256, "no", "", "static int8 activations"},
    {"vllm", CT, "o", "int8:axis1:static", "none", 256, 256, "no", "", "numbers and scales"},
    {"vllm", CT, "o", "e3m2:mx(32):dynamic", "none", 256, 256, "no", "", "numbers and scales"},
    {"vllm", CT, "o", NV, F8T, 256, 256, "no", "", "own kind"},
    {"vllm", CT, "o", INT8, "int8:axis-1:static", 256, 256, "no", "", "activations with these"},
    {"vllm", CT, "o", INT8, "int8:tensor:dynamic", 256, 256, "no", "", "activations with these"},
    {"vllm", CT, "o", "int4:block(-1:64):static", F8, 256, 256, "no", "", "blocks of 128 only"},
    {"vllm", CT, "o", "e4m3:block(-1:128):static", "none", 256, 256, "no", "", "numbers and"},
    {"vllm", CT, "o", "int4:block(-1:128):static+e4m3:tensor:static", F8T, 256, 256, "no", "",
     "sequence"},
    {"vllm", CT, "o", "int4:bogus:static", "none", 256, 256, "no", "", "treatment"},
    /* what is served as it was scored */
    {"vllm", CT, "qkv", "none", "none", 256, 256, "exact", "", ""},
    {"vllm", CT, "qkv", INT8, A8, 256, 256, "exact", "int8_dyn", ""},
    {"vllm", CT, "qkv", "int8:tensor:static", A8T, 256, 256, "exact", "int8_static", ""},
    {"vllm", CT, "qkv", FP8, F8, 256, 256, "exact", "fp8_dyn", ""},
    {"vllm", CT, "qkv", "e4m3:tensor:static", F8T, 256, 256, "exact", "fp8_static", ""},
    {"vllm", CT, "qkv", FP8, "none", 256, 256, "exact", "fp8_wo", ""},
    {"vllm", CT, "qkv", NVG, "none", 256, 256, "exact", "nvfp4a16", ""},
    {"vllm:sm100", CT, "qkv", NVG, NVA, 256, 256, "exact", "nvfp4", ""},
    {"vllm", CT, "qkv", NV, "none", 256, 256, "near", "nvfp4a16", "for each member"},
    {"sglang", CT, "qkv", NV, "none", 256, 256, "near", "nvfp4a16", "for each member"},
    {"trtllm", MO, "qkv", NV, "none", 256, 256, "near", "W4A16_NVFP4", "for each member"},
    {"transformers", CT, "qkv", NV, "none", 256, 256, "near", "nvfp4a16", "for each member"},
    {"vllm", CT, "o", NV, "none", 256, 256, "exact", "nvfp4a16", ""},
    {"vllm", CT, "qkv", TILE, F8B, 256, 256, "exact", "fp8_block", ""},
    {"vllm", CT, "qkv", MX4, "none", 256, 256, "exact", "mxfp4a16", ""},
    {"vllm", CT, "qkv", MX8, MX8, 256, 256, "exact", "mxfp8", ""},
    {"vllm", CT, "qkv", INT4G, "none", 256, 256, "near", "w4a16", "bf16"},
    {"vllm", CT, "qkv", INT8G, A8, 256, 256, "near", "w8a8", "humming"},
    {"vllm", CT, "qkv", INT4G, A4, 256, 256, "near", "w4a4", "humming"},
    {"vllm", CT, "qkv", "int3:axis0:static", "none", 256, 256, "near", "w3a16", "humming"},
    {"vllm", MO, "qkv", NVG, "none", 256, 256, "exact", "W4A16_NVFP4", ""},
    {"vllm", MO, "qkv", "e4m3:tensor:static", F8T, 256, 256, "exact", "FP8", ""},
    {"vllm", MO, "qkv", FP8, F8, 256, 256, "exact", "FP8_PER_CHANNEL_PER_TOKEN", ""},
    {"vllm", MO, "qkv", MX8, MX8, 256, 256, "near", "MXFP8", "not compared"},
    /* vllm's rules */
    {"vllm", MO, "o", INT4G, "none", 256, 256, "wrong", "W4A16_AWQ", "codes for weights"},
    {"vllm", MO, "o", INT8, "none", 256, 256, "wrong", "W8A16", "codes for weights"},
    {"vllm", MO, "o", INT8, A8T, 256, 256, "wrong", "W8A8_SQ_PER_CHANNEL", "codes for weights"},
    {"vllm", CT, "o", INT4G, "none", 256, 192, "no", "w4a16", "multiple of the group"},
    {"vllm:tp4", CT, "o", INT4G, "none", 256, 256, "no", "w4a16", "multiple of the group"},
    {"vllm:tp4", CT, "gate_up", INT4G, "none", 256, 256, "near", "w4a16", "bf16"},
    {"vllm", CT, "o", "int4:block(-1:16):static", "none", 256, 256, "no", "w4a16", "group sizes"},
    {"vllm:tp2", CT, "down", NV, "none", 256, 48, "no", "nvfp4a16", "multiple of 16"},
    {"vllm", CT, "down", NV, "none", 256, 48, "exact", "nvfp4a16", ""},
    {"vllm:tp2", CT, "down", MX4, "none", 256, 96, "no", "mxfp4a16", "multiple of 32"},
    {"vllm:tp3", CT, "o", INT8, A8, 256, 256, "near", "int8_dyn", "inputs"},
    {"vllm:tp3", CT, "qkv", INT8, A8, 256, 256, "near", "int8_dyn", "outputs"},
    {"vllm:sm80", CT, "o", FP8, F8, 256, 256, "other", "fp8_dyn", "not quantized"},
    {"vllm:sm80", CT, "o", FP8, "none", 256, 256, "exact", "fp8_wo", ""},
    {"vllm", CT, "o", INT4G, F8, 256, 256, "other", "w4afp8", "rounded again"},
    {"vllm:sm100", CT, "o", INT4G, F8, 256, 256, "no", "w4afp8", "sm_90"},
    {"vllm", CT, "o", NV, NVA, 256, 256, "other", "nvfp4", "sm_100"},
    {"vllm", MO, "o", NV, NVA, 256, 256, "other", "NVFP4", "sm_100"},
    {"vllm:sm100", CT, "o", MX4, "none", 256, 256, "other", "mxfp4a16", "quantized to mxfp4"},
    {"vllm", CT, "o", MX4, MX4, 256, 256, "other", "mxfp4", "sm_100"},
    {"vllm", CT, "o", INT8, F8, 256, 256, "other", "int8_fp8dyn", "int8 activations"},
    {"vllm", CT, "o", INT8, F8T, 256, 256, "other", "int8_fp8static", "int8 activations"},
    {"vllm", CT, "o", FP8, A8, 256, 256, "other", "fp8_int8dyn", "e4m3 weights alone"},
    {"vllm", CT, "o", FP8, A8T, 256, 256, "other", "fp8_int8static", "e4m3 weights alone"},
    {"vllm:sm70", CT, "o", INT8G, A8, 256, 256, "no", "w8a8", "sm_75"},
    {"vllm", CT, "o", INT8, A8, 250, 256, "near", "int8_dyn", "outputs"},
    {"vllm", CT, "o", FP8, F8, 256, 250, "near", "fp8_dyn", "inputs"},
    {"vllm", "gguf", "o", INT8, "none", 256, 256, "no", "", "does not load gguf"},
    /* sglang */
    {"sglang", CT, "o", INT4G, "none", 256, 256, "near", "w4a16", "bf16"},
    {"sglang", CT, "o", "int3:axis0:static", "none", 256, 256, "no", "w3a16", "4 or 8"},
    {"sglang", CT, "o", INT4G, A8, 256, 256, "no", "w4a8", "packed"},
    {"sglang", CT, "o", INT4G, F8, 256, 256, "no", "w4afp8", "packed"},
    {"sglang", CT, "o", MX4, "none", 256, 256, "no", "mxfp4a16", "mx"},
    {"sglang", CT, "o", MX8, MX8, 256, 256, "no", "mxfp8", "mx"},
    {"sglang", CT, "o", INT4G, "none", 256, 192, "no", "w4a16", "multiple of the group"},
    {"sglang:tp2", CT, "o", NV, "none", 256, 48, "no", "nvfp4a16", "multiple of 16"},
    {"vllm", CT, "experts", FP8, "e4m3:token:dynamic", 256, 256, "exact", "fp8_dyn", ""},
    {"vllm", CT, "experts", FP8, F8T, 256, 256, "no", "fp8_static", "per token only"},
    {"vllm", CT, "experts", INT8, A8T, 256, 256, "no", "int8_static", "per token only"},
    {"vllm", CT, "experts", FP8, "none", 256, 256, "no", "fp8_wo", "no method"},
    {"vllm", CT, "experts", INT4G, "none", 256, 256, "near", "w4a16", "bf16"},
    {"vllm", CT, "experts", "int3:block(-1:128):static", "none", 256, 256, "no", "w3a16", "4 or 8"},
    {"vllm", CT, "experts", MX8, "none", 256, 256, "other", "mxfp8a16", "inputs"},
    {"vllm", CT, "experts", TILE, "e4m3:block(-1:128):dynamic", 192, 256, "no", "fp8_block", "128"},
    {"sglang:sm80", CT, "o", FP8, F8T, 256, 256, "other", "fp8_static", "sm_89"},
    {"sglang", CT, "o", NV, NVA, 256, 256, "other", "nvfp4", "sm_100"},
    {"sglang", CT, "o", INT8, F8, 256, 256, "other", "int8_fp8dyn", "int8 activations"},
    {"sglang", CT, "o", FP8, A8, 256, 256, "other", "fp8_int8dyn", "alone"},
    {"sglang", MO, "o", FP8, F8, 256, 256, "wrong", "FP8_PER_CHANNEL_PER_TOKEN", "codes"},
    {"sglang", MO, "o", MX8, MX8, 256, 256, "near", "MXFP8", "not compared"},
    /* the others */
    {"trtllm", CT, "o", INT8, A8, 256, 256, "no", "", "does not load"},
    {"trtllm", MO, "o", INT4G, "none", 256, 256, "near", "W4A16_AWQ", "not run"},
    {"trtllm", MO, "o", INT8, "none", 256, 256, "near", "W8A16", "TensorRT path"},
    {"trtllm", MO, "o", INT4G, "none", 255, 256, "no", "W4A16_AWQ", "odd"},
    {"trtllm", MO, "o", INT4G, "none", 256, 192, "no", "W4A16_AWQ", "group size"},
    {"trtllm:tp2", MO, "o", NV, "none", 256, 48, "no", "W4A16_NVFP4", "multiple of 16"},
    {"llamacpp", "gguf", "o", INT8, "none", 256, 256, "near", "Q8_0", "fp16"},
    {"llamacpp", "gguf", "o", "int3:block(-1:64):static", "none", 256, 256, "near", "Q4_0", "fp16"},
    {"llamacpp", "gguf", "o", "int4:block(-1:16):static", "none", 256, 256, "no", "", "of 32"},
    {"llamacpp", "gguf", "o", INT8, A8, 256, 256, "other", "Q8_0", "whatever was chosen"},
    {"llamacpp", "gguf", "o", INT8, "none", 256, 48, "no", "Q8_0", "multiple of 32"},
    {"llamacpp", "gguf", "o", NV, "none", 256, 96, "no", "NVFP4", "multiple of 64"},
    {"llamacpp", "gguf", "down", NV, "none", 256, 128, "wrong", "NVFP4", "NaN"},
    {"llamacpp", "gguf", "qkv", NV, "none", 256, 128, "near", "NVFP4", "as scored"},
    {"llamacpp", "gguf", "o", FP8, "none", 256, 256, "no", "", "no type"},
    {"transformers", CT, "o", INT8, A8, 256, 256, "near", "int8_dyn", "bf16"},
    {"transformers", CT, "o", INT4G, "none", 256, 192, "no", "w4a16", "group size"},
    {"transformers", CT, "o", NV, "none", 256, 24, "no", "nvfp4a16", "multiple of 16"},
    {"transformers", CT, "o", MX4, "none", 256, 48, "no", "mxfp4a16", "multiple of 32"},
};

static struct engine_group group_of(const struct ask *q)
{
    struct engine_group g = {.kind = q->kind, .weight = q->weight, .act = q->act};
    g.arch = "qwen3vl";
    bool three = strcmp(q->kind, "qkv") == 0 || strcmp(q->kind, "experts") == 0;
    g.modules = three ? 3 : strcmp(q->kind, "gate_up") == 0 ? 2 : 1;
    for (int i = 0; i < g.modules; i++) {
        g.rows[i] = q->rows;
        g.cols[i] = q->cols;
    }
    return g;
}

static bool judge(const struct ask *q, struct engine_verdict *v)
{
    struct aq_err err = {0};
    struct engine_target t;
    enum scheme_layout layout;
    struct engine *e = NULL;
    if (engine_target_parse(q->target, &t, &err) < 0 || !layout_parse(q->layout, &layout) ||
        !(e = engine_load("conf", t.name, &err))) {
        printf("# %s\n", err.msg);
        return false;
    }
    struct engine_group g = group_of(q);
    engine_judge(e, &t, layout, &g, v);
    v->source = v->source ? "named" : NULL; /* the engine is closed */
    engine_free(e);
    return true;
}

static void test_rules(void)
{
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        const struct ask *q = &asks[i];
        struct engine_verdict v = {0};
        bool good = judge(q, &v) && strcmp(verdict_names[v.verdict], q->verdict) == 0 &&
                    strcmp(v.scheme.name, q->scheme) == 0 && strstr(v.reason, q->says);
        tap_ok(good, "%s %s %s: %s | %s is %s", q->target, q->layout, q->kind, q->weight, q->act,
               q->verdict);
        if (!good)
            printf("# found %s, scheme '%s': %s\n", verdict_names[v.verdict], v.scheme.name,
                   v.reason);
    }
}

/* A tile of 128 outputs must not reach from one member of a fused layer into the next. */
static void test_tiles(void)
{
    struct aq_err err = {0};
    struct engine_target t;
    struct engine *e = engine_load("conf", "vllm", &err);
    struct engine_group g = {.kind = "qkv", .arch = "", .modules = 3, .act = "none"};
    struct engine_verdict v = {0};
    g.weight = TILE;
    g.act = F8B;
    int64_t rows[2][3] = {{384, 128, 100}, {384, 100, 128}};
    static const enum verdict expected[] = {VERDICT_EXACT, VERDICT_NO};
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 3; k++) {
            g.rows[k] = rows[i][k];
            g.cols[k] = 256;
        }
        tap_ok(engine_target_parse("vllm", &t, &err) == 0, "a target");
        engine_judge(e, &t, LAYOUT_CT, &g, &v);
        tap_ok(v.verdict == expected[i], "fp8_block, member %d ragged: %s", 2 - i, v.reason);
    }
    g.kind = "o";
    g.modules = 1;
    g.cols[0] = 384;
    tap_ok(engine_target_parse("vllm:tp2", &t, &err) == 0, "a target");
    engine_judge(e, &t, LAYOUT_CT, &g, &v);
    tap_ok(v.verdict == VERDICT_NO && strstr(v.reason, "tile"), "fp8_block, 192 inputs a shard");
    engine_free(e);
}

static void test_head(void)
{
    static const char *const engines[] = {"vllm", "sglang", "trtllm", "llamacpp", "transformers"};
    for (int i = 0; i < 5; i++) {
        struct aq_err err = {0};
        struct engine_target t = {.sm = 90, .tp = 1};
        struct engine *e = engine_load("conf", engines[i], &err);
        struct engine_group g = {.kind = "head",
                                 .arch = "llama",
                                 .modules = 1,
                                 .rows = {256},
                                 .cols = {256},
                                 .weight = NV,
                                 .act = "none"};
        struct engine_verdict v[2];
        for (int tied = 0; e && tied < 2; tied++) {
            g.tied = tied;
            engine_judge(e, &t, engine_default_layout(e), &g, &v[tied]);
        }
        tap_ok(e && v[0].verdict != VERDICT_NO && v[1].verdict == VERDICT_NO,
               "%s: a head is refused if it is the embedding", engines[i]);
        engine_free(e);
    }
}

static void test_recipe(void)
{
    struct aq_err err = {0};
    struct engine *e = engine_load("conf", "sglang", &err);
    struct engine_verdict mixed[3] = {{.quantized = true, .scheme = {.name = "FP8"}},
                                      {.quantized = false},
                                      {.quantized = true, .scheme = {.name = "MXFP8"}}};
    engine_judge_recipe(e, LAYOUT_MODELOPT, mixed, 2);
    tap_ok(mixed[0].verdict == VERDICT_EXACT, "sglang, modelopt: one algorithm is not a mixture");
    engine_judge_recipe(e, LAYOUT_CT, mixed, 3);
    tap_ok(mixed[0].verdict == VERDICT_EXACT, "sglang: the rule is about modelopt's layout");
    engine_judge_recipe(e, LAYOUT_MODELOPT, mixed, 3);
    tap_ok(mixed[0].verdict == VERDICT_WRONG && mixed[1].verdict == VERDICT_EXACT &&
               mixed[2].verdict == VERDICT_WRONG && strstr(mixed[0].reason, "w4afp8"),
           "sglang, modelopt: a mixture without NVFP4 is wrong");
    struct engine_verdict good[2] = {{.scheme = {.name = "FP8"}}, {.scheme = {.name = "NVFP4"}}};
    engine_judge_recipe(e, LAYOUT_MODELOPT, good, 2);
    tap_ok(good[0].verdict == VERDICT_EXACT, "sglang, modelopt: a mixture with NVFP4 is read");
    engine_free(e);
}

static void test_targets(void)
{
    static const char *const bad[] = {"",
                                      ":sm90",
                                      "vllm:",
                                      "vllm:sm",
                                      "vllm:sm0",
                                      "vllm:tp0",
                                      "vllm:sm90:sm90",
                                      "vllm:tp2:tp2",
                                      "vllm:sm9x",
                                      "vllm:xy",
                                      "vllm:sm-1",
                                      "vllm:tp99999",
                                      "vllm::sm90",
                                      "a-name-that-is-much-too-long-for-an-engine"};
    struct engine_target t;
    struct aq_err err = {0};
    tap_ok(engine_target_parse("vllm:tp2:sm100", &t, &err) == 0 && t.sm == 100 && t.tp == 2 &&
               t.sm_given && strcmp(t.name, "vllm") == 0,
           "vllm:tp2:sm100");
    tap_ok(engine_target_parse("sglang", &t, &err) == 0 && t.sm == 90 && t.tp == 1 && !t.sm_given,
           "sglang");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tap_ok(engine_target_parse(bad[i], &t, &err) < 0 && err.code == AQ_EUSAGE, "'%s'", bad[i]);
}

static void test_files(const char *dir)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"version: 1\n", "a string"},
        {"version: x\nsm: true\nlayouts: []\nrules: []\n", "no layout"},
        {"version: x\nsm: true\nlayouts: [tar]\nrules: []\n", "'tar' is unknown"},
        {"version: x\nsm: true\nlayouts: [gguf, gguf, gguf, gguf]\nrules: []\n", "unknown"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{}]\n", "scope"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: 3\n", "rules"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrule: []\nrules: []\n", "unknown key"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{scope: dims, verdict: maybe, reason: r, "
         "source: s}]\n",
         "'maybe'"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{scope: luck, verdict: near, reason: r, "
         "source: s}]\n",
         "'luck'"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{scope: dims, verdict: near, reason: r, "
         "source: s, rwos: '%2'}]\n",
         "unknown key"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{scope: dims, verdict: near, reason: r, "
         "source: s, rows: '%0'}]\n",
         "expected"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{scope: dims, verdict: near, reason: r, "
         "source: s, rows: '<1,2'}]\n",
         "expected"},
        {"version: x\nsm: true\nlayouts: [gguf]\nrules: [{scope: dims, verdict: near, reason: r, "
         "source: s, scheme: [1]}]\n",
         "a string"},
    };
    char *path = xasprintf("%s/engine/odd.yaml", dir), *sub = xasprintf("%s/engine", dir);
    struct aq_err err = {0};
    bool made = aq_make_dirs(sub, &err) == 0;
    for (size_t i = 0; made && i < sizeof bad / sizeof *bad; i++) {
        made = aq_write_file(path, bad[i].text, strlen(bad[i].text), &err) == 0;
        struct engine *e = engine_load(dir, "odd", &err);
        bool good = !e && err.code == AQ_EINPUT && strstr(err.msg, bad[i].says);
        tap_ok(good, "a bad file: %s", bad[i].says);
        if (!good)
            printf("# %s\n", err.msg);
        engine_free(e);
    }
    tap_ok(made, "files in %s", dir);
    (void)unlink(path);
    (void)rmdir(sub);
    free(path);
    free(sub);
}

static void test_names(void)
{
    static const char *const unknown[] = {"vlm", "tgi", "../engine/vllm", ""};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        struct aq_err err = {0};
        struct engine *e = engine_load("conf", unknown[i], &err);
        tap_ok(!e && err.code == AQ_EUSAGE && strstr(err.hint, "vllm"), "no engine '%s'",
               unknown[i]);
    }
}

int main(void)
{
    char dir[] = "/tmp/aq-engine-XXXXXX";
    test_rules();
    test_tiles();
    test_head();
    test_recipe();
    test_targets();
    test_names();
    if (mkdtemp(dir)) {
        test_files(dir);
        (void)rmdir(dir);
    }
    return tap_done();
}
