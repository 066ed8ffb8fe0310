/*
 * From a base format and a granularity to one cell of a sweep: the merged configuration, what it
 * computes, what it costs, and whether it can run.
 *
 * A *treatment* says what happens to the weights or to the activations of a linear layer, in a
 * normal form: two cells mean the same computation exactly if their treatments are equal as text.
 * It is all that the numeric engine gets to see. The grammar (no blanks, decimal numbers without
 * leading zeros):
 *
 *     treatment = "none" | methods step { "+" step } [ "@group" ]
 *     methods   = [ "clip/" ] [ scaling "/" ] | [ scaling "/" ] [ choice "/" ]
 *     scaling   = "smooth{" alpha "}" | "awq{" step "," ( "joint" | "own" ) "," ( "all" | "quarter"
 * )
 *                 "," ( "identity" | "plain" ) "}"
 *     choice    = "gptq{" columns "," damp "," ( "static" | "none" ) "," ( "plain" | "quantized" )
 *                 "}" | "mse{" ( "aq" | "modelopt" ) "}" | "sweep" | "4o6"
 *     step      = number ":" scope ":" when
 *     number    = "int2" .. "int8" | "e4m3" | "e5m2" | "e2m1" | "e3m2" | "e2m3"
 *     scope     = "tensor" | "axis0" | "axis1" | "axis-1" | "token"
 *               | "block(-1:" n ")" | "block(-2:" n ")" | "block(-1:" n ",-2:" n ")"
 *               | "nvfp4(" n ")" | "mx(" ( "8" | "16" | "32" ) ")"
 *     when      = "static" | "dynamic"
 *     n         = 1 .. 1048576
 *
 * One owner: quant_print and quant_parse (quant/quant.h). Steps of a sequence are applied from left
 * to right, each with the amax of its own input; only weights have them. These steps occur, and no
 * others:
 *
 *     weights, (out, in)
 *       int<N>, e4m3                            tensor axis0 axis1 block(..)   static
 *       e2m1                                    nvfp4(n)                       dynamic
 *       e2m1 e3m2 e2m3 e4m3 e5m2 int8           mx(n)                          dynamic
 *     activations, (tokens, in)
 *       int<N>, e4m3                            tensor                         static dynamic
 *       int<N>, e4m3                            token                          dynamic
 *       int<N>, e4m3                            axis-1                         static
 *       e4m3                                    block(-1:n)                    dynamic
 *       e2m1                                    nvfp4(n)                       static
 *       e2m1 e3m2 e2m3 e4m3 e5m2 int8           mx(n)                          dynamic
 *
 * tensor: one amax. axis0: one per output channel (row). axis1: one per input channel (column).
 * axis-1: one per input feature of an activation. token: one per token. block(-1:b): one per b
 * neighbours along the inputs of a row, the last block of a row zero-padded; block(-2:c): per c
 * neighbours along the outputs; both: per tile of c x b. A length of 1 is left out beside
 * another one. Of an activation block(-1:b) is one per token and b inputs, never below 1e-10.
 * nvfp4(b): an e4m3 scale for every b inputs, under one amax of the whole tensor. mx(b): a power of
 * two for every b inputs.
 *
 * @group, after the nvfp4 step of a weight: its one amax is that of all members of the group (q, k
 * and v; gate and up), which engines fuse into one tensor.
 *
 * Methods, of weights alone, say how codes and ranges are chosen where not by rounding under the
 * largest magnitude: docs/quantizers.md. They need a step, and one step alone but for scalings.
 *
 * static activations need calibrated ranges: the amax of a data set (for nvfp4 that of the second
 * level); dynamic ones take the amax of what they see. A weight never changes, so its amax is
 * always its own: "static" by convention, "dynamic" where a block scale is made from the data.
 */
#ifndef AQ_QUANT_OVERLAY_H
#define AQ_QUANT_OVERLAY_H

#include "base/err.h"
#include "io/json.h"
#include "quant/format.h"
#include "quant/method.h"

#include <stdbool.h>

#define QUANT_SCHEMA "aq.quant/1"

struct overlay_cell {
    const char *format_name;
    struct jref format;      /* {"quant_cfg", "algorithm"}, not yet checked */
    const char *granularity; /* its name */
    struct jref overrides;   /* {"*weight_quantizer": {...}, ...} or null, not yet checked */
    bool fp4_always_16;      /* autoquant.fp4_block: 16 instead of honour */
    bool own_scales;         /* autoquant.shared_scale is false: no "@group" */
    struct method_rules methods;
    struct format_shelf *shelf; /* whose presets give the label */
};

/*
 * A copy of the format with the overrides merged in. Only *weight_quantizer, *input_quantizer and
 * default may be overridden. Attributes replace those of the base, block_sizes merges into the
 * base's; axis and block_sizes drop one another, and null beside the other means unset.
 * Malformed overrides are AQ_EINPUT. Caller frees.
 */
struct json *overlay_merge(const struct jref *format, const struct jref *overrides,
                           struct aq_err *err);

/*
 * The whole aq.quant/1 document. A combination that cannot run is not an error: it has
 * "supported": false and a reason. Caller frees.
 */
struct json *overlay_quant(const struct overlay_cell *cell, struct aq_err *err);

/* Warns of what such a document leaves out of what is computed: an algorithm that changes weights
   before they are rounded (AWQ, SmoothQuant, ...), and quantizers of other things than linears. */
void overlay_warn(const struct json *quant);

/* overlay_quant for a run of aq-resolve (run.json). A format that the run does not carry is looked
 * up.
 */
struct json *overlay_quant_of_run(const struct jref *run, struct format_shelf *shelf,
                                  struct aq_err *err);
/* The same for conf/format/<format>.yaml and conf/quant_granularity/<granularity>.yaml; a
   granularity with a dot or a slash in it is a file. What is typed wrongly is AQ_EUSAGE. */
struct json *overlay_quant_of_names(struct format_shelf *shelf, const char *format,
                                    const char *granularity, bool fp4_always_16, bool own_scales,
                                    struct aq_err *err);

#endif
