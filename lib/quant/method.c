#include "quant/method.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

/* ---- the rules of a run ---- */

static int read_choice(const struct jref *autoquant, const char *key, const char *usual,
                       const char *other, bool *out, struct aq_err *err)
{
    struct jref v;
    *out = false;
    if (!jref_has(autoquant, key, &v))
        return 0;
    const char *text = json_type(v.v) == JSON_STRING ? json_string(v.v) : "";
    *out = strcmp(text, other) == 0;
    return *out || strcmp(text, usual) == 0 ? 0
                                            : jref_fail(&v, err, "expected %s or %s", usual, other);
}

int method_rules_read(struct method_rules *r, const struct jref *run, struct aq_err *err)
{
    struct jref autoquant, identity;
    *r = (struct method_rules){0};
    if (!jref_has(run, "autoquant", &autoquant) || json_type(autoquant.v) != JSON_OBJECT)
        return 0;
    if (jref_has(&autoquant, "awq_identity", &identity)) {
        if (json_type(identity.v) != JSON_BOOL)
            return jref_fail(&identity, err, "expected true or false");
        r->awq_plain = !json_bool(identity.v);
    }
    if (read_choice(&autoquant, "awq_shared", "joint", "own", &r->awq_own, err) < 0 ||
        read_choice(&autoquant, "awq_samples", "all", "quarter", &r->awq_quarter, err) < 0 ||
        read_choice(&autoquant, "gptq_order", "static", "none", &r->gptq_plain_order, err) < 0 ||
        read_choice(&autoquant, "gptq_input", "plain", "quantized", &r->gptq_quantized, err) < 0)
        return -1;
    return read_choice(&autoquant, "mse_grid", "aq", "modelopt", &r->mse_modelopt, err);
}

/* ---- the algorithm ---- */

static const char *method_of(const struct json *algorithm)
{
    if (algorithm && json_type(algorithm) == JSON_OBJECT)
        algorithm = json_get(algorithm, "method");
    return algorithm && json_type(algorithm) == JSON_STRING ? json_string(algorithm) : "";
}

static bool sweeps(const struct json *algorithm)
{
    const struct json *v = algorithm && json_type(algorithm) == JSON_OBJECT
                               ? json_get(algorithm, "fp8_scale_sweep")
                               : NULL;
    return v && json_type(v) == JSON_BOOL && json_bool(v);
}

bool method_stores_scales(const struct json *algorithm)
{
    return strcmp(method_of(algorithm), "mse") == 0;
}

/* A number of the algorithm's object within low..high; *out is kept where it says nothing. */
static int read_number(const struct jref *algorithm, const char *key, double low, double high,
                       double *out, struct aq_err *err)
{
    struct jref v;
    if (json_type(algorithm->v) != JSON_OBJECT || !jref_has(algorithm, key, &v))
        return 0;
    if (json_type(v.v) != JSON_INT && json_type(v.v) != JSON_FLOAT)
        return jref_fail(&v, err, "expected a number, found %s", json_type_name(json_type(v.v)));
    *out = json_number(v.v);
    return *out >= low && *out <= high
               ? 0
               : jref_fail(&v, err, "%g is outside %g..%g", *out, low, high);
}

static int awq(const struct jref *algorithm, const struct method_rules *rules,
               struct quant_methods *out, struct aq_err *err)
{
    out->scaling = QUANT_AWQ;
    out->alpha = 0.1;
    out->own = rules->awq_own;
    out->quarter = rules->awq_quarter;
    out->plain_grid = rules->awq_plain;
    return read_number(algorithm, "alpha_step", 0.001, 1, &out->alpha, err);
}

static int gptq(const struct jref *algorithm, const struct method_rules *rules,
                struct quant_methods *out, struct aq_err *err)
{
    double block = 128;
    out->choice = QUANT_GPTQ;
    out->damp = 0.01;
    out->plain_order = rules->gptq_plain_order;
    out->quantized_input = rules->gptq_quantized;
    if (read_number(algorithm, "block_size", 1, 9999, &block, err) < 0 ||
        read_number(algorithm, "percdamp", 1e-6, 1, &out->damp, err) < 0 ||
        read_number(algorithm, "perc_damp", 1e-6, 1, &out->damp, err) < 0)
        return -1;
    out->block = (int32_t)block;
    return out->block == block ? 0 : jref_fail(algorithm, err, "block_size %g is not whole", block);
}

int method_find(const struct jref *format, const struct quantizer *weight,
                const struct method_rules *rules, struct quant_methods *out, bool *applied,
                struct aq_err *err)
{
    struct jref algorithm;
    *out = (struct quant_methods){0};
    *applied = true;
    if (!jref_has(format, "algorithm", &algorithm))
        return 0;
    const char *name = method_of(algorithm.v);
    if (!name[0] || strcmp(name, "max") == 0)
        return 0;
    if (strcmp(name, "smoothquant") == 0) {
        out->scaling = QUANT_SMOOTH;
        out->alpha = 1;
        out->own = rules->awq_own;
        return read_number(&algorithm, "alpha", 0, 1, &out->alpha, err);
    }
    if (strcmp(name, "awq_lite") == 0)
        return awq(&algorithm, rules, out, err);
    if (strcmp(name, "awq_full") == 0 || strcmp(name, "awq_clip") == 0) {
        out->choice = QUANT_CLIP;
        return strcmp(name, "awq_full") == 0 ? awq(&algorithm, rules, out, err) : 0;
    }
    if (strcmp(name, "gptq") == 0)
        return gptq(&algorithm, rules, out, err);
    if (strcmp(name, "mse") == 0) {
        out->choice = weight && weight->four_over_six ? QUANT_4O6
                      : sweeps(algorithm.v)           ? QUANT_SWEEP
                                                      : QUANT_MSE;
        out->modelopt_grid = out->choice == QUANT_MSE && rules->mse_modelopt;
        return 0;
    }
    *applied = false;
    return 0;
}
