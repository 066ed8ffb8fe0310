/* aq-eval: what a recipe or a quantized file really costs, in nats, on text that chose nothing. */
#include "backend/backend.h"
#include "base/file.h"
#include "base/msg.h"
#include "base/opt.h"
#include "conf/search.h"
#include "eval/eval_run.h"
#include "eval/polish.h"
#include "eval/polish_command.h"
#include "eval/receipt.h"
#include "eval/receipts.h"
#include "eval/singles.h"
#include "select/manifest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- aq-eval merge ---- */

static int run_merge(const struct aq_cmdline *cl, struct aq_err *err)
{
    return eval_merge(cl->output, cl->args, (size_t)cl->count, err);
}

static const struct aq_tool merge = {
    .name = "merge",
    .summary = "Makes receipts of the parts that --shard wrote. Their order does not matter.",
    .usage = "aq-eval merge [-o EVAL.json|DIR] PART...",
    .example = "aq-eval merge -o eval.json shards/*.part",
    .min_args = 1,
    .max_args = -1,
    .run = run_merge,
};

/* ---- aq-eval receipts ---- */

static bool as_json, as_tsv;

static const struct aq_opt receipts_options[] = {
    {"json", 0, AQ_OPT_FLAG, &as_json, NULL, "rows, and how well the predictions did"},
    {"tsv", 0, AQ_OPT_FLAG, &as_tsv, NULL, "rows alone"},
    AQ_OPT_END,
};

static int write_receipts(const struct receipts *r, const char *output, struct aq_err *err)
{
    if (as_json) {
        struct json *v = receipts_json(r);
        int bad = json_write_file(output, v, err);
        json_free(v);
        return bad;
    }
    struct aq_buf text = AQ_BUF_INIT;
    receipts_tsv(r, &text);
    int bad = aq_write_file(output, text.data, text.len, err);
    aq_buf_release(&text);
    return bad;
}

static int run_receipts(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct receipts r;
    if (as_json == as_tsv)
        return aq_err_set(err, AQ_EUSAGE, "exactly one of --json and --tsv is needed");
    if (receipts_read(&r, cl->args, (size_t)cl->count, err) < 0)
        return -1;
    int bad = write_receipts(&r, cl->output, err);
    receipts_release(&r);
    return bad;
}

static const struct aq_tool receipts = {
    .name = "receipts",
    .summary = "Puts receipts side by side: one row an operand, predicted and measured.",
    .usage = "aq-eval receipts (--json|--tsv) [-o FILE] EVAL.json...",
    .example = "aq-eval receipts --json evals/*.json | jq .rank_correlation",
    .options = receipts_options,
    .min_args = 1,
    .max_args = -1,
    .run = run_receipts,
};

/* ---- what measuring commands share ---- */

static const char *const dtypes[] = {"fp32", "bf16", "float32", "bfloat16", NULL};
static struct eval_where where = {.dtype = "fp32", .device = "auto"};

#define REFERENCE_OPTION                                                                           \
    {                                                                                              \
        "reference", 0, AQ_OPT_TEXT, &where.reference, "LM.json",                                  \
            "the model that operands are held against"                                             \
    }
#define WHERE_OPTIONS                                                                               \
    {"ranges",                                                                                      \
     0,                                                                                             \
     AQ_OPT_TEXT,                                                                                   \
     &where.ranges,                                                                                 \
     "FILE",                                                                                        \
     "ranges.safetensors of aq-calib ranges; for manifests with\nstatic activation ranges"},        \
        {"solved",      0,      AQ_OPT_TEXT,                                                        \
         &where.solved, "FILE", "solved.safetensors of aq-calib solve; for calibrated candidates"}, \
        {"dtype", 0, AQ_OPT_CHOICE, &where.dtype, "T", "compute type: fp32 or bf16 (fp32)", dtypes, \
         0,       0},                                                                               \
        {"device", 0, AQ_OPT_TEXT, &where.device, "D", "auto, cpu, cuda or cuda:N (auto)"},         \
        {"threads",      0,   AQ_OPT_INT,                                                           \
         &where.threads, "N", "CPU threads (all that the process may use)",                         \
         NULL,           1,   1024},                                                                \
        {"memory",      0,      AQ_OPT_SIZE,                                                        \
         &where.memory, "SIZE", "limit, such as 8G; fewer tiles are then at work together"},        \
    {                                                                                               \
        "verify", 0, AQ_OPT_FLAG, &where.verify, NULL,                                              \
            "read the whole reference first and compare it with the\nfull digest of its lm.json"    \
    }

static int need_reference(struct aq_err *err)
{
    return where.reference
               ? 0
               : aq_err_set(err, AQ_EUSAGE, "--reference is needed: lm.json of the source model");
}

/* ---- aq-eval polish ---- */

static struct polish_options polishing = {.trials = POLISH_TRIALS, .seconds = INFINITY};

static const struct aq_opt polish_opts[] = {
    REFERENCE_OPTION,
    {"search", 0, AQ_OPT_TEXT, &polishing.search, "NAME=TOKENS",
     "the text that moves are tried on"},
    {"confirm", 0, AQ_OPT_TEXT, &polishing.confirm, "NAME=TOKENS",
     "another text, which must agree with each accepted move"},
    {"held-out", 0, AQ_OPT_TEXT, &polishing.held_out, "NAME=TOKENS",
     "a third one, read once at the end: without a clear gain on\nit the recipe stays as it is"},
    {"pairs", 0, AQ_OPT_TEXT, &polishing.pairs, "SINGLES",
     "predict moves by what aq-eval singles measured, interactions\nof all groups included"},
    {"trials", 0, AQ_OPT_INT, &polishing.trials, "N", "moves to try at most (600)", NULL, 1,
     1000000},
    {"time", 0, AQ_OPT_DOUBLE, &polishing.seconds, "SECONDS",
     "stop earlier; the manifest then says complete: false"},
    WHERE_OPTIONS,
    AQ_OPT_END,
};

static int check_polish(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (need_reference(err) < 0)
        return -1;
    if (!polishing.search || !polishing.confirm)
        return aq_err_set(err, AQ_EUSAGE,
                          "--search and --confirm NAME=TOKENS are needed: two texts");
    if (!(polishing.seconds > 0))
        return aq_err_set(err, AQ_EUSAGE, "--time must be above 0");
    polishing.output = cl->output;
    polishing.manifest = cl->args[0];
    polishing.scores = cl->args + 1;
    polishing.count = (size_t)cl->count - 1;
    return 0;
}

static int run_polish(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (check_polish(cl, err) < 0)
        return -1;
    char *dir = conf_find(NULL, err); /* rules of the manifest's engine, if it has one */
    where.conf_dir = dir;
    polishing.where = where;
    int r = dir ? eval_polish(&polishing, err) : -1;
    free(dir);
    return r;
}

static const struct aq_tool polish = {
    .name = "polish",
    .summary =
        "Improves a recipe by measuring: moves of up to three groups within the budget, tried\n"
        "on one text, confirmed on a second, and judged once on a third.",
    .usage = "aq-eval polish --reference LM.json --search NAME=TOKENS --confirm NAME=TOKENS\n"
             "        [--held-out NAME=TOKENS] [OPTION...] [-o MANIFEST] MANIFEST SCORES...",
    .details = "SCORES are the files that the manifest was chosen from; budget and cost are the\n"
               "manifest's. Texts need 30 samples each, and should have 8,192 positions.",
    .example = "aq-eval polish --reference lm.json --search s=search.safetensors \\\n"
               "  --confirm c=confirm.safetensors --held-out h=heldout.safetensors \\\n"
               "  -o polished.json manifest.json scores.json",
    .options = polish_opts,
    .min_args = 2,
    .max_args = -1,
    .run = run_polish,
};

/* ---- aq-eval singles ---- */

static struct singles_options single;

static const struct aq_opt singles_opts[] = {
    REFERENCE_OPTION,
    {"domain", 0, AQ_OPT_TEXT, &single.domain, "NAME=TOKENS",
     "the text, from aq-calib tokens without padding"},
    WHERE_OPTIONS,
    AQ_OPT_END,
};

static int run_singles(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (need_reference(err) < 0)
        return -1;
    if (!single.domain)
        return aq_err_set(err, AQ_EUSAGE, "--domain NAME=TOKENS is needed: the text");
    if (!cl->output || strcmp(cl->output, "-") == 0)
        return aq_err_set(err, AQ_EUSAGE, "-o FILE is needed");
    single.where = where;
    single.output = cl->output;
    single.scores = cl->args;
    single.count = (size_t)cl->count;
    return eval_singles(&single, err);
}

static const struct aq_tool singles = {
    .name = "singles",
    .summary =
        "Measures what each candidate of each group costs alone, and how two of them add up.",
    .usage = "aq-eval singles --reference LM.json --domain NAME=TOKENS [OPTION...]\n"
             "        -o SINGLES SCORES...",
    .details = "The candidates are those of the scores. aq-select --pairs chooses by the result.",
    .example = "aq-eval singles --reference lm.json --domain s=search.safetensors \\\n"
               "  -o singles.safetensors a/scores.json b/scores.json",
    .options = singles_opts,
    .min_args = 1,
    .max_args = -1,
    .run = run_singles,
};

/* ---- aq-eval ---- */

static struct aq_names domains;
static struct eval_options o = {.domains = &domains};

static const struct aq_opt options[] = {
    REFERENCE_OPTION,
    {"domain", 0, AQ_OPT_LIST, &domains, "NAME=TOKENS",
     "a text, from aq-calib tokens without padding; may be\ngiven several times"},
    WHERE_OPTIONS,
    {"engine", 0, AQ_OPT_TEXT, &where.engine, "NAME[:smNN]",
     "what this engine runs in place of what operands ask for,\nsuch as vllm:sm90"},
    {"shard", 0, AQ_OPT_TEXT, &o.shard, "K/N",
     "only the K-th of N parts of the text; -o is then a part\nfor aq-eval merge"},
    AQ_OPT_END,
};

static int check(const struct aq_cmdline *cl, struct aq_err *err)
{
    bool to_stdout = !cl->output || strcmp(cl->output, "-") == 0;
    if (need_reference(err) < 0)
        return -1;
    if (domains.count == 0)
        return aq_err_set(err, AQ_EUSAGE, "--domain NAME=TOKENS is needed: the text");
    if (to_stdout && o.shard)
        return aq_err_set(err, AQ_EUSAGE, "-o PART is needed with --shard: a part is a file");
    if (to_stdout && cl->count > 1)
        return aq_err_set(err, AQ_EUSAGE, "-o DIR is needed: there are several operands");
    return 0;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    char *dir = where.engine ? conf_find(NULL, err) : NULL;
    where.conf_dir = dir;
    o.where = where;
    o.output = cl->output;
    o.operands = cl->args;
    o.count = (size_t)cl->count;
    int r = check(cl, err) < 0 || (where.engine && !dir) ? -1 : eval_run(&o, err);
    free(dir);
    return r;
}

static const struct aq_tool *const commands[] = {&merge, &receipts, &singles, &polish, NULL};
static const char *const schemas[] = {EVAL_SCHEMA, RECEIPTS_SCHEMA, MANIFEST_SCHEMA, SINGLES_SCHEMA,
                                      NULL};

static const struct aq_tool tool = {
    .name = "aq-eval",
    .summary = "Measures what operands cost against a reference model: KL over the full\n"
               "vocabulary, perplexity and agreement, with standard errors.",
    .usage = "aq-eval --reference LM.json --domain NAME=TOKENS... [--ranges F] [OPTION...]\n"
             "        [-o EVAL.json|DIR|PART] OPERAND...\n"
             "aq-eval merge [-o EVAL.json|DIR] PART...\n"
             "aq-eval singles --reference LM.json --domain N=T [OPTION...] -o SINGLES SCORES...\n"
             "aq-eval polish --reference LM.json --search N=T --confirm N=T [OPTION...]\n"
             "        [-o MANIFEST] MANIFEST SCORES...\n"
             "aq-eval receipts (--json|--tsv) [-o FILE] EVAL.json...",
    .details =
        "An operand is a manifest of aq-select (fake quantization), an lm.json (a model as it\n"
        "is), a checkpoint directory (compressed-tensors, ModelOpt) or a GGUF file. Several\n"
        "operands share one pass of the reference; -o is then a directory, with 1.json for\n"
        "the first. An interrupted run continues.",
    .example = "aq-eval --reference lm.json --domain captions=tokens.safetensors \\\n"
               "  --ranges ranges.safetensors -o eval.json manifest.json",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .run = run,
    .commands = commands,
    .result_version = EVAL_RESULT_VERSION,
    .schemas = schemas,
    .print_build_info = backend_print_build_info,
};

int main(int argc, char **argv)
{
    backend_begin(argv);
    return aq_tool_main(&tool, argc, argv);
}
