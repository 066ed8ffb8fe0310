/*
 * What an export will do, before a weight is read: the recipe of a manifest, group by group, with
 * the scheme that each treatment becomes in the layout and the engine's verdict on it.
 */
#ifndef AQ_EXPORT_PLAN_H
#define AQ_EXPORT_PLAN_H

#include "base/err.h"
#include "base/pool.h"
#include "engine/engine.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/lm.h"
#include "select/manifest.h"
#include "store/candidate.h"
#include "store/range_file.h"
#include "store/solved.h"

#include <stdbool.h>
#include <stddef.h>

struct export_request {
    const char *conf_dir;
    const char *manifest, *lm, *ranges; /* ranges: NULL if no scheme needs them */
    const char *solved;                 /* NULL if no candidate was solved */
    const char *engine;                 /* "vllm:sm90", NULL: the layout's usual one */
    const char *arch;                   /* GGUF's name of the architecture; NULL: by the family */
    enum scheme_layout layout;
    bool layout_given; /* false: the engine's first layout */
    bool keep_codes, force;
    int threads; /* 0: one for each CPU */
};

/* The matrices of an expert, as which they are written. */
enum expert_part { PART_GATE, PART_UP, PART_DOWN, EXPERT_PARTS };

struct export_group {
    const struct model_group *model;
    const char *candidate;    /* "NONE": unquantized */
    const char *weight, *act; /* treatments */
    struct engine_verdict verdict;
    const struct model_module *modules; /* model's; of experts: those of every expert, in turn */
    int module_count;
    int part, parts; /* of experts: each has `parts` modules, from this enum expert_part on */
    struct model_module *own; /* modules, where they are made here */
    /* Experts that the checkpoint has in two tensors, gate with up and down: `model` is a copy that
       names the matrices of each, as which they are written. NULL: nothing is taken apart. */
    struct model_group *apart;
    const struct ckpt_tensor *fused[EXPERT_HALVES]; /* NULL: a half that the group does not have */
    bool turned;                                    /* these are (experts, in, out) */
    /* Calibrated ranges of what the modules read, where the scheme needs them. inner: of experts'
       down. */
    float input_amax, inner_amax;
    char id[TREATMENT_ID]; /* of the treatments */
    /* Of a calibrated candidate that scales its input, [cols of the input]; NULL: it does not, or
       export_plan_numbers was not called. norm: the checkpoint's tensor that takes it, or NULL. */
    const float *scale;
    const char *norm;
    /* Of experts: that of the inputs of their downs, whose inverse the rows of up take; and the
       checkpoint's router, whose columns take `scale`. */
    const float *inner_scale, *inner_factor;
    const char *router;
    float *module_amax; /* ranges of the modules, each found when it is first asked for; else < 0 */
};

struct export_plan {
    const struct export_request *request;
    struct lm lm;
    struct ckpt ckpt;
    struct manifest manifest;
    struct range_file ranges;
    struct solved_file *solved; /* NULL: nothing was solved */
    bool has_lm, has_ckpt, has_manifest, has_ranges;
    struct engine *engine;
    struct engine_target target;
    enum scheme_layout layout;
    const char *arch;
    struct export_group *groups; /* in the order of lm's groups */
    size_t count;
    struct aq_names modules;       /* of all groups */
    struct export_module *by_name; /* in the order of `modules` */
    struct aq_pool *pool;          /* of who writes weights; NULL before export_plan_start */
};

struct export_module {
    struct export_group *group;
    const struct model_module *model;
    int first, end; /* modules of the group that may share a range with it, itself among them */
    bool inner;     /* it is an expert's down */
};

/* Everything that can be known without the weights. plan_close also after a failure. */
int export_plan_open(struct export_plan *p, const struct export_request *q,
                     struct aq_err *err) AQ_MUST_CHECK;
void export_plan_close(struct export_plan *p);

/* One JSON object a line: {"group", "candidate", "scheme", "verdict", "reason", "source"}. */
void export_plan_lines(const struct export_plan *p, struct aq_buf *out);
/*
 * Is the recipe fit to be written? AQ_EINPUT names the first group that is `no` or `wrong` (or
 * `other`, unless that is forced), its treatment and the nearest candidate that would do.
 * for_check: `other` passes.
 */
int export_plan_accept(const struct export_plan *p, bool for_check,
                       struct aq_err *err) AQ_MUST_CHECK;
/* Starts the threads that write weights. */
int export_plan_start(struct export_plan *p, struct aq_err *err) AQ_MUST_CHECK;
/* Reads what calibration found: scales of inputs, and the ranges of those that need one. */
int export_plan_numbers(struct export_plan *p, struct aq_err *err) AQ_MUST_CHECK;

/*
 * A module's weight, (rows, cols) in the checkpoint's type: in its map, or `owned`, which the
 * caller frees.
 */
struct export_source {
    const void *data;
    enum st_dtype dtype;
    void *owned;
};
struct export_module export_plan_module(const struct export_plan *p, const struct export_group *g,
                                        int module);
void export_source_of(const struct export_plan *p, const struct export_group *g, int module,
                      struct export_source *out);
/* Which matrix of its expert a module is. */
enum expert_part export_plan_part(const struct export_group *g, int module);
/* The group of a tensor that holds all experts and is taken apart, NULL: it is not. Of each expert
   it has modules *from <= k < *end of the group's parts. */
struct export_group *export_plan_apart(const struct export_plan *p, const char *tensor, int *from,
                                       int *end);

/* The module of a tensor "<module>.weight" that the recipe quantizes; NULL: it is copied. */
const struct export_module *export_plan_find(const struct export_plan *p, const char *tensor);
/* The factors of a module's columns and rows; NULL: none. */
void export_plan_scales(const struct export_group *g, int module, const float **cols,
                        const float **rows);
/* The group whose scale this tensor of the checkpoint takes, a norm or a router; NULL: it is
   copied. */
const struct export_group *export_plan_router(const struct export_plan *p, const char *tensor);
const struct export_group *export_plan_norm(const struct export_plan *p, const char *tensor);

#endif
