/* aq-select: one format per layer within a budget, from scores or manifests. */
#include "base/opt.h"
#include "conf/search.h"
#include "select/manifest.h"
#include "select/select_run.h"
#include "select/select_settled.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Raised whenever equal inputs may give another manifest. */
enum { RESULT_VERSION = 4 };

static const char *const costs[] = {"storage", "modelopt40", "modelopt47", NULL};
static const char *const cost_models[] = {"weight", "active", NULL};
static const char *const solvers[] = {"exact", "threshold", NULL};
static const char *const monotones[] = {"no", "v40", "v39", NULL};

static const char details[] =
    "Each FILE is a scores.json or a manifest; several are joined into one choice. They must come\n"
    "from the same model, tokens, method, padding, normalization, prefix and samples. Budget and\n"
    "cost rule default to those of the run that made the first FILE.\n"
    "\n"
    "A budget that cannot be met gives the cheapest assignment, is_satisfied false, and a warning\n"
    "with the smallest reachable bits; with --strict it is an error.";

#define NO_SIZE UINT64_MAX

static struct sel_request q = {
    .bits = NAN, /* what no option value gives */
    .bytes = NO_SIZE,
    .result_version = RESULT_VERSION,
};

static const char *config_dir;

static const struct aq_opt options[] = {
    {"effective-bits", 0, AQ_OPT_DOUBLE, &q.bits, "B", "budget: average bits of a weight"},
    {"size", 0, AQ_OPT_SIZE, &q.bytes, "BYTES",
     "budget: bytes of the stored weights, such as 3.5G"},
    {"cost", 0, AQ_OPT_CHOICE, &q.cost, "RULE",
     "what a format costs: storage, modelopt40 or modelopt47", .choices = costs},
    {"cost-model", 0, AQ_OPT_CHOICE, &q.cost_model, "MODEL",
     "weight: every weight counts; active: experts count the share\nof them that a token uses",
     .choices = cost_models},
    {"count-vision", 0, AQ_OPT_FLAG, &q.count_vision, NULL,
     "count the vision tower, at 16 bits, in the average"},
    {"menu", 0, AQ_OPT_TEXT, &q.menu, "F.yaml", "pins, bans and menus by module name"},
    {"engine", 0, AQ_OPT_TEXT, &q.engine, "NAME[:smNN][:tpN]",
     "choose only what this engine serves as it was scored, and\n"
     "count the bits of its files unless --cost is given"},
    {"config-dir", 0, AQ_OPT_TEXT, &config_dir, "DIR", "the configuration tree, for --engine"},
    {"solver", 0, AQ_OPT_CHOICE, &q.solver, "S", "exact, or threshold (ModelOpt's, for kl_div)",
     .choices = solvers},
    {"monotone", 0, AQ_OPT_CHOICE, &q.monotone, "M",
     "force scores not to rise with bits: no, v40 or v39", .choices = monotones},
    {"pairs", 0, AQ_OPT_TEXT, &q.pairs, "SINGLES",
     "choose by what aq-eval singles measured, each candidate\nalone and pairs within a layer, "
     "exactly"},
    {"state", 0, AQ_OPT_TEXT, &q.state, "F.pt", "also write the state that torch.load opens"},
    {"frontier", 0, AQ_OPT_FLAG, &q.frontier, NULL, "every budget at once, as TSV"},
    {"settled", 0, AQ_OPT_FLAG, &q.settled, NULL,
     "instead of a recipe: do those of nested sizes agree?"},
    {"random", 0, AQ_OPT_INT, &q.random, "N",
     "N recipes to hold predictions against, in DIR/1.json and so\n"
     "on: near-optimal and random ones in turn, over all budgets\n"
     "or at --effective-bits",
     NULL, 1, 100000},
    {"seed", 0, AQ_OPT_INT, &q.seed, "S", "of --random (0)", NULL, 0, INT64_MAX},
    {"dir", 0, AQ_OPT_TEXT, &q.dir, "DIR", "where --random writes"},
    {"strict", 0, AQ_OPT_FLAG, &q.strict, NULL, "an unreachable budget is an error"},
    {"unchecked", 0, AQ_OPT_FLAG, &q.unchecked, NULL,
     "take inputs that do not say where they come from"},
    AQ_OPT_END,
};

static int check(bool have_bits, bool have_size, const char *output, struct aq_err *err)
{
    if (q.bytes == 0)
        return aq_err_set(err, AQ_EUSAGE, "--size must be above 0");
    q.bytes = have_size ? q.bytes : 0;
    if (have_bits && q.bytes)
        return aq_err_set(err, AQ_EUSAGE, "--effective-bits and --size exclude each other");
    if (have_bits && !(q.bits > 0 && q.bits <= 16))
        return aq_err_set(err, AQ_EUSAGE, "--effective-bits must be above 0 and at most 16");
    if (q.bytes && q.cost && strcmp(q.cost, "storage") != 0)
        return aq_err_set(err, AQ_EUSAGE,
                          "--size counts stored bytes: --cost %s does not go with it", q.cost);
    if (q.bytes && q.cost_model && strcmp(q.cost_model, "weight") != 0)
        return aq_err_set(err, AQ_EUSAGE,
                          "--size counts stored bytes: --cost-model %s does not go with it",
                          q.cost_model);
    if (q.frontier && (have_bits || q.bytes || q.state || q.strict))
        return aq_err_set(
            err, AQ_EUSAGE,
            "--frontier is every budget: no --effective-bits, --size, --state or --strict");
    if (q.pairs && (q.frontier || q.random || q.solver))
        return aq_err_set(err, AQ_EUSAGE,
                          "--pairs is one budget and its own solver: no --frontier, --random or "
                          "--solver");
    if (q.settled && (q.frontier || q.random || q.pairs || q.solver || q.state || q.engine ||
                      q.strict || q.unchecked))
        return aq_err_set(
            err, AQ_EUSAGE,
            "--settled goes with a budget, --cost, --cost-model, --count-vision and --menu "
            "alone");
    if (q.random && !q.dir)
        return aq_err_set(err, AQ_EUSAGE, "--dir is needed with --random");
    if (!q.random && (q.dir || q.seed))
        return aq_err_set(err, AQ_EUSAGE, "--seed and --dir go with --random");
    if (q.random && (q.bytes || q.state || q.strict || q.frontier || output))
        return aq_err_set(err, AQ_EUSAGE,
                          "--random is many recipes in a directory: no --size, --state, --strict, "
                          "--frontier or -o");
    return 0;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    static const char *const standard_input[] = {"-"};
    bool have_bits = !isnan(q.bits);
    q.inputs = cl->count ? cl->args : standard_input;
    q.input_count = cl->count ? (size_t)cl->count : 1;
    q.output = cl->output;
    if (check(have_bits, q.bytes != NO_SIZE, cl->output, err) < 0)
        return -1;
    q.bits = have_bits ? q.bits : 0;
    if (q.settled)
        return sel_settled(&q, err);
    if (!q.engine)
        return sel_run(&q, err);
    char *dir = conf_find(config_dir, err);
    q.conf_dir = dir;
    int r = dir ? sel_run(&q, err) : -1;
    free(dir);
    return r;
}

static const char *const schemas[] = {MANIFEST_SCHEMA, SETTLED_SCHEMA, NULL};

static const struct aq_tool tool = {
    .name = "aq-select",
    .summary = "Choose one format per layer within a budget.",
    .usage = "aq-select [--effective-bits B | --size BYTES] [OPTION...] FILE...\n"
             "aq-select --settled [--effective-bits B | --size BYTES] FILE...\n"
             "aq-select --random N [--seed S] [--effective-bits B] --dir DIR [OPTION...] FILE...",
    .details = details,
    .example = "aq-select --effective-bits 5.4 a/scores.json b/scores.json -o quant_manifest.json",
    .options = options,
    .max_args = -1,
    .run = run,
    .result_version = RESULT_VERSION,
    .schemas = schemas,
};

int main(int argc, char **argv)
{
    return aq_tool_main(&tool, argc, argv);
}
