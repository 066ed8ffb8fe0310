/*
 * Engines as data: what vLLM, SGLang, TensorRT-LLM, llama.cpp and transformers make of a scheme.
 * conf/engine/NAME.yaml holds the rules, each with the source that says so:
 *
 *     version: "0.33.0"                        # of the engine that the rules were taken from
 *     layouts: [compressed-tensors, modelopt]  # that it loads; the first is the default
 *     sm: true                                 # its answers depend on the GPU's compute capability
 *     rules:
 *       - scope: sm
 *         scheme: [fp8_dyn, fp8_static]        # all conditions of a rule must hold
 *         sm: "<89"
 *         verdict: other
 *         reason: activations are not quantized
 *         source: V/compressed_tensors/compressed_tensors.py:895
 *
 * Rules are tried from the top, and the first that applies decides; where none does the verdict is
 * `exact`. A pair that the layout has no scheme for is `no` before any rule.
 *
 * Conditions: layout, kind, arch and scheme, weight, act (the last three are globs; lists of
 * alternatives); and numbers: sm, tp, group (inputs per scale, 0 for a row), modules, rows, cols,
 * inner_rows. A number's condition is "<89", ">=100", "!=90", "%16" (is not a multiple of 16) or
 * "not in 0,64,128". rows and cols are those of one tensor-parallel shard: rows are divided for
 * qkv and gate_up, cols for o and down; it is enough that one module of the group meets it.
 * inner_rows: the same for all modules but the last. `cols: "%group"`: the shard cuts a group.
 * tied: true holds where the head shares the embedding's tensor.
 *
 * Where the engine runs another treatment of activations than the file asks for, `runs` says which:
 * "none", or a treatment. `other` without it is a computation that is not known here.
 *
 * Rules with `recipe: true` are about a whole recipe: `schemes: ">1"` counts distinct schemes,
 * `lacks: [A, B]` holds if no group has one of these. They come after all others.
 */
#ifndef AQ_ENGINE_ENGINE_H
#define AQ_ENGINE_ENGINE_H

#include "base/err.h"
#include "engine/scheme.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* From best to worst: as scored; the same with other roundings; another computation than the one
   that was scored; loads and computes garbage; refused. */
enum verdict { VERDICT_EXACT, VERDICT_NEAR, VERDICT_OTHER, VERDICT_WRONG, VERDICT_NO, VERDICTS };
extern const char *const verdict_names[VERDICTS + 1]; /* NULL at the end */

/* "vllm:sm90:tp2" */
struct engine_target {
    char name[32];
    int sm, tp; /* 90 and 1 where not given */
    bool sm_given;
};

/* AQ_EUSAGE for what is typed wrongly; whether the name has rules is engine_load's business. */
int engine_target_parse(const char *text, struct engine_target *out,
                        struct aq_err *err) AQ_MUST_CHECK;

struct engine;
/* conf_dir/engine/NAME.yaml, checked. An unknown name is AQ_EUSAGE with the list. */
struct engine *engine_load(const char *conf_dir, const char *name, struct aq_err *err);
void engine_free(struct engine *e);
const char *engine_name(const struct engine *e);
const char *engine_version(const struct engine *e);
bool engine_has_layout(const struct engine *e, enum scheme_layout layout);
enum scheme_layout engine_default_layout(const struct engine *e);
bool engine_needs_sm(const struct engine *e);

enum { ENGINE_MAX_MODULES = 8 };

/* A group of linears that share a treatment, as the engine sees it. */
struct engine_group {
    const char *kind; /* "qkv", "o", "gate_up", "down", ... */
    const char *arch; /* of the file: "qwen3_vl", or GGUF's name of it */
    bool tied;        /* it is the head, and shares the embedding's tensor */
    bool normed;      /* a norm gives its input */
    int modules;
    int64_t rows[ENGINE_MAX_MODULES], cols[ENGINE_MAX_MODULES];
    const char *weight, *act; /* treatments */
};

/* Kind, shapes and `normed` of a group as scores and manifests hold it; where: for messages. The
   rest of g is left alone. */
int engine_group_read(struct engine_group *g, const struct json *group, const char *where,
                      struct aq_err *err) AQ_MUST_CHECK;

struct engine_verdict {
    enum verdict verdict;
    bool quantized;       /* false: both treatments are none; scheme is then empty */
    struct scheme scheme; /* name is empty if there is none */
    char reason[240];     /* empty for exact */
    const char *source;   /* borrowed from the engine; NULL if no rule decided */
    const char *runs;     /* the activations' treatment in place of the group's; borrowed likewise;
                             NULL: as asked, or not known */
};

void engine_judge(const struct engine *e, const struct engine_target *t, enum scheme_layout layout,
                  const struct engine_group *g, struct engine_verdict *out);
/*
 * The same before a model is known: the worst verdict over the kinds of groups of a decoder, with
 * sizes that divide by everything. What a shape or a recipe forbids is not seen, nor that a
 * calibrated scale has no norm to take it: that is a matter of kinds, and qkv and gate_up alone
 * are asked about.
 */
void engine_judge_treatments(const struct engine *e, const struct engine_target *t,
                             enum scheme_layout layout, const char *weight, const char *act,
                             struct engine_verdict *out);
/*
 * The treatment of activations that the engine runs the group under: g->act, or what it puts in its
 * place. AQ_EINPUT, naming `where`: it refuses the group, or what it computes is not known.
 */
int engine_runs(const struct engine *e, const struct engine_target *t, enum scheme_layout layout,
                const struct engine_group *g, const char *where, const char **act,
                struct aq_err *err) AQ_MUST_CHECK;
/* The rules about a whole recipe: raises the verdicts of groups where one applies. */
void engine_judge_recipe(const struct engine *e, enum scheme_layout layout,
                         struct engine_verdict *groups, size_t count);

#endif
