/* aq-score: how much each layer suffers under each candidate, for every cell of a sweep at once. */
#include "backend/backend.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/opt.h"
#include "score/score_run.h"
#include "store/collect.h"
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- aq-score collect ---- */

static struct {
    const char *run, *quant, *ranges, *cells;
} from;

static const struct aq_opt collect_options[] = {
    {"run", 0, AQ_OPT_TEXT, &from.run, "RUN.json", "the cell's run, from aq-resolve"},
    {"quant", 0, AQ_OPT_TEXT, &from.quant, "QUANT.json", "its quantization, from aq-overlay"},
    {"ranges", 0, AQ_OPT_TEXT, &from.ranges, "FILE",
     "ranges.safetensors of the same model and tokens, for the\nrange ratios of scores.json"},
    {"cells", 0, AQ_OPT_TEXT, &from.cells, "CELLS.json",
     "all cells of a sweep: each DIR/run.json and DIR/../quant.json\n"
     "to DIR/scores.json, written if its bytes change"},
    AQ_OPT_END,
};

static int collect_one(const struct collect_source *source, const char *output, struct aq_err *err)
{
    struct json *v = collect_cell(source, from.run, from.quant, err);
    int r = v ? json_write_file(output, v, err) : -1;
    json_free(v);
    return r;
}

/* With the store open. */
static int collect_from(const struct store *s, const char *output, struct aq_err *err)
{
    struct range_file ranges = {0};
    struct collect_source source = {.store = s, .ranges = from.ranges ? &ranges : NULL};
    size_t written = 0;
    int r = from.ranges ? range_file_open(&ranges, from.ranges, err) : 0;
    if (r == 0)
        r = collect_check_ranges(&source, err);
    if (r == 0)
        r = from.cells ? collect_cells(&source, from.cells, &written, err)
                       : collect_one(&source, output, err);
    if (r == 0 && from.cells)
        aq_note(1, "%zu cells collected", written);
    range_file_close(&ranges);
    return r;
}

static int run_collect(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct store s;
    if (from.cells ? from.run || from.quant || cl->output : !from.run || !from.quant)
        return aq_err_set(err, AQ_EUSAGE, "give either --run and --quant, or --cells alone");
    if (store_open(&s, cl->args[0], err) < 0)
        return -1;
    int r = collect_from(&s, cl->output, err);
    store_close(&s);
    return r;
}

static const struct aq_tool collect = {
    .name = "collect",
    .summary = "Turns rows of a store into the scores of a cell.",
    .usage = "aq-score collect --run RUN.json --quant QUANT.json [-o SCORES.json] STORE\n"
             "aq-score collect --cells CELLS.json STORE",
    .example = "aq-score collect --run run.json --quant quant.json store | jq '.groups[0]'",
    .options = collect_options,
    .min_args = 1,
    .max_args = 1,
    .run = run_collect,
};

/* ---- aq-score merge ---- */

static int run_merge(const struct aq_cmdline *cl, struct aq_err *err)
{
    return store_merge(cl->output, cl->args, (size_t)cl->count, err);
}

static const struct aq_tool merge = {
    .name = "merge",
    .summary = "Makes one store of the parts that --shard wrote. Their order does not matter.",
    .usage = "aq-score merge -o STORE PART...",
    .example = "aq-score merge -o store.safetensors shards/*.safetensors",
    .min_args = 1,
    .max_args = -1,
    .run = run_merge,
};

/* ---- aq-score ls ---- */

static bool as_json;

static const struct aq_opt ls_options[] = {
    {"json", 0, AQ_OPT_FLAG, &as_json, NULL, "identity, digests and rows as JSON"},
    AQ_OPT_END,
};

static void print_rows(const struct json *v)
{
    const struct json *rows = json_get(v, "rows");
    printf("treatment_id\tw\ta\tprefix\tcomplete\n");
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        int64_t prefix = 0;
        (void)json_int(json_get(r, "prefix"), &prefix);
        printf("%s\t%s\t%s\t%lld\t%.4g\n", json_string(json_get(r, "treatment_id")),
               json_string(json_get(r, "w")), json_string(json_get(r, "a")), (long long)prefix,
               json_number(json_get(r, "complete")));
    }
}

static int run_ls(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct store s;
    if (store_open(&s, cl->args[0], err) < 0)
        return -1;
    struct json *v = store_describe(&s);
    int r = 0;
    if (as_json)
        r = json_write_file(cl->output, v, err);
    else
        print_rows(v);
    json_free(v);
    store_close(&s);
    return r;
}

static const struct aq_tool ls = {
    .name = "ls",
    .summary = "Lists the candidates of a store.",
    .usage = "aq-score ls [--json] STORE",
    .example = "aq-score ls --json store.safetensors | jq .identity",
    .options = ls_options,
    .min_args = 1,
    .max_args = 1,
    .run = run_ls,
};

/* ---- aq-score gc ---- */

static const char *keep_cells;

static const struct aq_opt gc_options[] = {
    {"keep", 0, AQ_OPT_TEXT, &keep_cells, "CELLS.json", "keep the candidates of these cells"},
    AQ_OPT_END,
};

static int run_gc(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct candidates keep = {0};
    size_t dropped = 0;
    if (!keep_cells)
        return aq_err_set(err, AQ_EUSAGE, "--keep is needed: what shall stay?");
    int r = collect_treatments(keep_cells, &keep, err);
    const char **ids = xcalloc(keep.count + 1, sizeof *ids);
    for (size_t i = 0; i < keep.count; i++)
        ids[i] = keep.items[i].id;
    if (r == 0)
        r = store_gc(cl->args[0], ids, keep.count, &dropped, err);
    if (r == 0)
        aq_note(0, "%zu rows dropped", dropped);
    free(ids);
    candidates_release(&keep);
    return r;
}

static const struct aq_tool gc = {
    .name = "gc",
    .summary = "Drops from a store the candidates that no cell needs.",
    .usage = "aq-score gc --keep CELLS.json STORE",
    .example = "aq-score gc --keep cells.json store.safetensors",
    .options = gc_options,
    .min_args = 1,
    .max_args = 1,
    .run = run_gc,
};

/* ---- aq-score ---- */

static const char *const methods[] = {"gradient", "kl_div", NULL};
static const char *const dtypes[] = {"fp32",     "bf16",    "fp16", "float32",
                                     "bfloat16", "float16", NULL};
static const char *const roundings[] = {"none", "dtype", NULL};

static struct score_options o = {
    .method = "gradient", .dtype = "bf16", .operand_rounding = "none", .device = "auto"};

static const struct aq_opt options[] = {
    {"lm", 0, AQ_OPT_TEXT, &o.lm, "FILE", "lm.json of aq-extract-lm", NULL, 0, 0},
    {"tokens", 0, AQ_OPT_TEXT, &o.tokens, "FILE", "tokens.safetensors of aq-calib tokens", NULL, 0,
     0},
    {"ranges", 0, AQ_OPT_TEXT, &o.ranges, "FILE",
     "ranges.safetensors of aq-calib ranges; for static\nactivation ranges", NULL, 0, 0},
    {"measure", 0, AQ_OPT_TEXT, &o.measure, "FILE",
     "measure these ranges in the same pass, and write them to\nFILE first", NULL, 0, 0},
    {"solved", 0, AQ_OPT_TEXT, &o.solved, "FILE",
     "solved.safetensors of aq-calib solve; for calibrated\ncandidates"},
    {"prefix", 0, AQ_OPT_TEXT, &o.prefixes, "LIST",
     "data-set sizes that have ranges of their own, such as\n16,128,512 (the tokens' sizes)", NULL,
     0, 0},
    {"score-samples", 0, AQ_OPT_INT, &o.score_samples, "N", "score the first N samples (all)", NULL,
     1, INT32_MAX},
    {"method", 0, AQ_OPT_CHOICE, &o.method, "M", "gradient or kl_div (gradient)", methods, 0, 0},
    {"dtype", 0, AQ_OPT_CHOICE, &o.dtype, "T", "compute type: bf16 or fp32 (bf16)", dtypes, 0, 0},
    {"operand-rounding", 0, AQ_OPT_CHOICE, &o.operand_rounding, "R",
     "none, or dtype: round dequantized operands to the\ncompute type, as ModelOpt does (none)",
     roundings, 0, 0},
    {"dynamic-batch", 0, AQ_OPT_INT, &o.dynamic_batch, "N",
     "samples that share the range of a dynamic per-tensor\nactivation, as ModelOpt's batches "
     "do (0: each has its own)",
     NULL, 0, INT32_MAX},
    {"device", 0, AQ_OPT_TEXT, &o.device, "D", "auto, cpu, cuda or cuda:N (auto)", NULL, 0, 0},
    {"threads", 0, AQ_OPT_INT, &o.threads, "N", "CPU threads (all that the process may use)", NULL,
     1, 1024},
    {"memory", 0, AQ_OPT_SIZE, &o.memory, "SIZE", "limit, such as 8G; more is streamed", NULL, 0,
     0},
    {"shard", 0, AQ_OPT_TEXT, &o.shard, "K/N", "only the K-th of N parts of the samples", NULL, 0,
     0},
    {"replace", 0, AQ_OPT_FLAG, &o.replace, NULL, "start over if STORE was made from other inputs",
     NULL, 0, 0},
    {"repair", 0, AQ_OPT_FLAG, &o.repair, NULL,
     "leave out the damaged cells of STORE and compute them again", NULL, 0, 0},
    {"plain-products", 0, AQ_OPT_FLAG, &o.plain_products, NULL,
     "fp32 products only, no integer or bf16 matrix units", NULL, 0, 0},
    {"verify", 0, AQ_OPT_FLAG, &o.verify, NULL,
     "read the whole checkpoint first and compare it with the\nfull digest of lm.json"},
    {"dump-routes", 0, AQ_OPT_TEXT, &o.routes, "FILE",
     "also write which experts each token goes to, and their weights"},
    {"dry-run", 0, AQ_OPT_FLAG, &o.dry_run, NULL, "print the plan; write nothing", NULL, 0, 0},
    AQ_OPT_END,
};

static int check(struct aq_err *err)
{
    static const char need[] = "--%s is needed";
    if (!o.lm)
        return aq_err_set(err, AQ_EUSAGE, need, "lm");
    if (!o.tokens)
        return aq_err_set(err, AQ_EUSAGE, need, "tokens");
    if (o.repair && o.replace)
        return aq_err_set(err, AQ_EUSAGE, "--repair and --replace exclude each other");
    if (o.store ? strcmp(o.store, "-") == 0 : !o.dry_run)
        return aq_err_set(err, AQ_EUSAGE, "-o STORE is needed: a store is a file");
    return 0;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    o.store = cl->output;
    o.quants = cl->args;
    o.quant_count = (size_t)cl->count;
    return check(err) < 0 ? -1 : score_run(&o, err);
}

static const struct aq_tool *const commands[] = {&collect, &merge, &ls, &gc, NULL};
static const char *const schemas[] = {STORE_SCHEMA, SCORES_SCHEMA, NULL};

static const struct aq_tool tool = {
    .name = "aq-score",
    .summary = "Scores every candidate of the quant.json files on every layer group, per sample.\n"
               "What STORE holds already is kept; only what is missing is computed.",
    .usage =
        "aq-score --lm F --tokens F [--ranges F | --measure F] [OPTION...] -o STORE QUANT.json...\n"
        "aq-score collect ... STORE\n"
        "aq-score merge -o STORE PART...\n"
        "aq-score ls STORE\n"
        "aq-score gc --keep CELLS.json STORE",
    .example = "aq-score --lm lm.json --tokens tokens.safetensors --ranges ranges.safetensors \\\n"
               "  --score-samples 128 -o store.safetensors quant.json",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .run = run,
    .commands = commands,
    .result_version = SCORE_RESULT_VERSION,
    .schemas = schemas,
    .print_build_info = backend_print_build_info,
};

int main(int argc, char **argv)
{
    backend_begin(argv);
    return aq_tool_main(&tool, argc, argv);
}
