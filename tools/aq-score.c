/* aq-score: how much each layer suffers under each candidate, for every cell of a sweep at once. */
#include "base/opt.h"
#include "sens/score_run.h"

#include <string.h>

static const char *const methods[] = {"gradient", NULL};
static const char *const dtypes[] = {"fp32",     "bf16",    "fp16", "float32",
                                     "bfloat16", "float16", NULL};
static const char *const roundings[] = {"none", "dtype", NULL};

static int check(const struct score_options *o, struct aq_err *err)
{
    static const char need[] = "--%s is needed";
    if (!o->lm)
        return aq_err_set(err, AQ_EUSAGE, need, "lm");
    if (!o->tokens)
        return aq_err_set(err, AQ_EUSAGE, need, "tokens");
    if (!o->store || strcmp(o->store, "-") == 0)
        return aq_err_set(err, AQ_EUSAGE, "-o STORE is needed: a store is a file");
    return 0;
}

static int score_main(int argc, char **argv)
{
    struct score_options o = {
        .method = "gradient", .dtype = "bf16", .operand_rounding = "none", .device = "auto"};
    const struct aq_opt table[] = {
        {"lm", 0, AQ_OPT_TEXT, &o.lm, "FILE", "lm.json of aq-extract-lm", NULL, 0, 0},
        {"tokens", 0, AQ_OPT_TEXT, &o.tokens, "FILE", "tokens.safetensors of aq-calib tokens", NULL,
         0, 0},
        {"ranges", 0, AQ_OPT_TEXT, &o.ranges, "FILE",
         "ranges.safetensors of aq-calib ranges; for static\nactivation ranges", NULL, 0, 0},
        {"prefix", 0, AQ_OPT_TEXT, &o.prefixes, "LIST",
         "data-set sizes that have ranges of their own, such as\n16,128,512 (the tokens' sizes)",
         NULL, 0, 0},
        {"score-samples", 0, AQ_OPT_INT, &o.score_samples, "N", "score the first N samples (all)",
         NULL, 1, INT32_MAX},
        {"method", 0, AQ_OPT_CHOICE, &o.method, "M", "gradient or kl_div (gradient)", methods, 0,
         0},
        {"dtype", 0, AQ_OPT_CHOICE, &o.dtype, "T", "compute type: bf16 or fp32 (bf16)", dtypes, 0,
         0},
        {"operand-rounding", 0, AQ_OPT_CHOICE, &o.operand_rounding, "R",
         "none, or dtype: round dequantized operands to the\ncompute type, as ModelOpt does (none)",
         roundings, 0, 0},
        {"device", 0, AQ_OPT_TEXT, &o.device, "D", "auto, cpu, cuda or cuda:N (auto)", NULL, 0, 0},
        {"threads", 0, AQ_OPT_INT, &o.threads, "N", "CPU threads (all that the process may use)",
         NULL, 1, 1024},
        {"memory", 0, AQ_OPT_SIZE, &o.memory, "SIZE", "limit, such as 8G; more is streamed", NULL,
         0, 0},
        {"shard", 0, AQ_OPT_TEXT, &o.shard, "K/N", "only the K-th of N parts of the samples", NULL,
         0, 0},
        {"replace", 0, AQ_OPT_FLAG, &o.replace, NULL,
         "start over if STORE was made from other inputs", NULL, 0, 0},
        {"plain-products", 0, AQ_OPT_FLAG, &o.plain_products, NULL,
         "fp32 products only, no integer or bf16 matrix units", NULL, 0, 0},
        {"dry-run", 0, AQ_OPT_FLAG, &o.dry_run, NULL, "print the plan; write nothing", NULL, 0, 0},
        AQ_OPT_END,
    };
    const struct aq_tool tool = {
        .name = "aq-score",
        .summary =
            "Scores every candidate of the quant.json files on every layer group, per sample.\n"
            "What STORE holds already is kept; only what is missing is computed.",
        .usage = "aq-score --lm F --tokens F [--ranges F] [OPTION...] -o STORE QUANT.json...\n"
                 "aq-score merge|ls|gc|collect ...",
        .example =
            "aq-score --lm lm.json --tokens tokens.safetensors --ranges ranges.safetensors \\\n"
            "  --score-samples 128 -o store.safetensors quant.json",
        .options = table,
        .result_version = SCORE_RESULT_VERSION,
        .min_args = 1,
        .max_args = -1,
    };
    struct aq_cmdline cl;
    struct aq_err err = {0};
    int code;
    if (!aq_tool_begin(&tool, argc, argv, &cl, &code))
        return code;
    o.store = cl.output;
    o.quants = cl.args;
    o.quant_count = (size_t)cl.count;
    if (check(&o, &err) < 0 || score_run(&o, &err) < 0)
        return aq_tool_fail(&err);
    return aq_tool_finish();
}

int main(int argc, char **argv)
{
    return score_main(argc, argv);
}
