/* aq-calib: what calibration needs. Each subcommand is a table of options and one library call. */
#include "backend/backend.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/opt.h"
#include "base/pool.h"
#include "io/hub.h"
#include "score/ranges.h"
#include "score/solve.h"
#include "store/range_file.h"
#include "store/solved.h"
#include "text/dataset.h"
#include "text/tokenizer.h"
#include "text/tokens.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RESULT_VERSION = 8 };

/* ---- tokens ---- */

static const char *const paddings[] = {"none", "max_length", NULL};
static const char *const formats[] = {"auto", "text", "jsonl", NULL}; /* as enum dataset_format */

static struct {
    const char *tokenizer, *padding, *format;
    struct aq_names sizes; /* NAME=FILE */
    int64_t seq_len, limit, window, stride, pad_id;
    bool dump, no_special;
} o = {.padding = "none", .format = "auto", .pad_id = -1};

enum { DEFAULT_SEQ_LEN = 512, MAX_SEQ_LEN = 1 << 20 };

static const struct aq_opt tokens_options[] = {
    {"tokenizer", 't', AQ_OPT_TEXT, &o.tokenizer, "PATH",
     "directory, tokenizer.json or vocab.json"},
    {"format", 0, AQ_OPT_CHOICE, &o.format, "F",
     "auto (default: JSON lines if the first line is a JSON object), text, jsonl", formats},
    {"no-special", 0, AQ_OPT_FLAG, &o.no_special, NULL,
     "no special tokens around a text, whatever the tokenizer says"},
    {"seq-len", 0, AQ_OPT_INT, &o.seq_len, "N", "longer samples lose their end (512)", NULL, 1,
     MAX_SEQ_LEN},
    {"window", 0, AQ_OPT_INT, &o.window, "N", "cut long text into samples of N tokens", NULL, 2,
     MAX_SEQ_LEN},
    {"stride", 0, AQ_OPT_INT, &o.stride, "M",
     "with --window: from one sample's start to the next, in tokens\n(default: no overlap)", NULL,
     1, MAX_SEQ_LEN},
    {"padding", 0, AQ_OPT_CHOICE, &o.padding, "RULE",
     "none (default), or max_length: left padding to --seq-len", paddings},
    {"pad-id", 0, AQ_OPT_INT, &o.pad_id, "N", "id of the padding (default: the tokenizer's)", NULL,
     0, INT32_MAX},
    {"size", 0, AQ_OPT_LIST, &o.sizes, "NAME=FILE",
     "a size with a name of its own, after the operands"},
    {"limit", 0, AQ_OPT_INT, &o.limit, "N", "make no more than N samples", NULL, 1,
     DATASET_MAX_SAMPLES},
    {"dump", 0, AQ_OPT_FLAG, &o.dump, NULL,
     "print text, ids and pieces; the product only goes to -o then"},
    AQ_OPT_END,
};

/* Sizes by position, then those with names of their own. Names from --size are copied to *own. */
static int collect_sizes(struct dataset_size *sizes, size_t *count, char **own,
                         const struct aq_cmdline *cl, struct aq_err *err)
{
    static const char *const names[] = {"small", "medium", "large"};
    if (cl->count > (int)AQ_COUNT(names))
        return aq_err_set(err, AQ_EUSAGE,
                          "%d files, but only small, medium and large "
                          "go by position: use --size NAME=FILE",
                          cl->count);
    for (int i = 0; i < cl->count; i++)
        sizes[(*count)++] = (struct dataset_size){names[i], cl->args[i]};
    for (size_t i = 0; i < o.sizes.count; i++) {
        const char *text = o.sizes.items[i], *equals = strchr(text, '=');
        if (!equals || equals == text || !equals[1])
            return aq_err_set(err, AQ_EUSAGE, "--size '%s': expected NAME=FILE", aq_show(text));
        own[i] = xstrndup(text, (size_t)(equals - text));
        sizes[(*count)++] = (struct dataset_size){own[i], equals + 1};
    }
    for (size_t i = 0; i < *count; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(sizes[i].name, sizes[k].name) == 0)
                return aq_err_set(err, AQ_EUSAGE, "size '%s' is given twice",
                                  aq_show(sizes[i].name));
    return *count ? 0 : aq_err_set(err, AQ_EUSAGE, "no file given");
}

struct dump {
    struct tokenizer *tokenizer;
    struct aq_buf piece;
};

/* Text, ids and pieces of one sample, for people. */
static void dump_sample(void *context, int64_t sample, const char *text, size_t len,
                        const int32_t *ids, size_t count)
{
    struct dump *d = context;
    printf("%" PRId64 "\t%s\n\t", sample + 1, aq_show_n(text, len));
    for (size_t i = 0; i < count; i++)
        printf("%s%" PRId32, i ? " " : "", ids[i]);
    putchar('\n');
    if (!d->tokenizer)
        return;
    putchar('\t');
    for (size_t i = 0; i < count; i++) {
        aq_buf_reset(&d->piece);
        tokenizer_piece(d->tokenizer, ids[i], &d->piece);
        printf("[%s]", aq_show_n(aq_buf_str(&d->piece), d->piece.len));
    }
    putchar('\n');
}

static void warn_about(const struct tokens *t)
{
    int64_t bare = 0;
    for (int64_t s = 0; s < t->samples; s++)
        bare += t->offsets[s + 1] - t->offsets[s] == 1;
    if (bare && !t->max_length)
        aq_warn("%" PRId64 " samples have one token, hence nothing to predict", bare);
    if (t->truncated)
        aq_note(1, "%" PRId64 " samples were cut to %" PRId64 " tokens", t->truncated, t->seq_len);
    aq_note(1, "%" PRId64 " samples, %" PRId64 " tokens", t->samples, t->id_count);
}

static enum dataset_format format_of(const char *name)
{
    int k = 0;
    while (formats[k] && strcmp(formats[k], name) != 0)
        k++;
    return (enum dataset_format)k;
}

static int write_tokens(const struct aq_cmdline *cl, const struct dataset_size *sizes, size_t count,
                        struct aq_err *err)
{
    struct tokens tokens;
    char *place = o.tokenizer ? hub_directory(o.tokenizer) : NULL;
    struct tokenizer *t = place ? tokenizer_open(place, err) : NULL;
    free(place);
    if (o.tokenizer && !t)
        return -1;
    struct dump dump = {t, AQ_BUF_INIT};
    struct dataset d = {.sizes = sizes,
                        .count = count,
                        .format = format_of(o.format),
                        .seq_len = o.seq_len ? o.seq_len : DEFAULT_SEQ_LEN,
                        .max_length = strcmp(o.padding, "max_length") == 0,
                        .limit = o.limit,
                        .window = o.window,
                        .stride = o.stride,
                        .no_special = o.no_special,
                        .pad_id = (int32_t)o.pad_id,
                        .each = o.dump ? dump_sample : NULL,
                        .context = &dump};
    int status = dataset_tokenize(&tokens, &d, t, err);
    if (status == 0) {
        warn_about(&tokens);
        if (!o.dump || cl->output)
            status = tokens_write(&tokens, "aq-calib", RESULT_VERSION, cl->output, err);
        tokens_release(&tokens);
    }
    aq_buf_release(&dump.piece);
    tokenizer_free(t);
    return status;
}

static int check_window(struct aq_err *err)
{
    if (o.window && o.seq_len)
        return aq_err_set(err, AQ_EUSAGE, "--window and --seq-len: a window is the longest sample");
    if (o.stride && !o.window)
        return aq_err_set(err, AQ_EUSAGE, "--stride needs --window");
    if (o.stride > o.window)
        return aq_err_set(err, AQ_EUSAGE, "--stride %" PRId64 " is larger than --window %" PRId64,
                          o.stride, o.window);
    return 0;
}

static int run_tokens(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (check_window(err) < 0)
        return -1;
    if (!cl->output && !o.dump && isatty(STDOUT_FILENO))
        return aq_err_set(err, AQ_EUSAGE, "the product is binary: use -o FILE");
    size_t count = 0;
    struct dataset_size *sizes = xcalloc((size_t)cl->count + o.sizes.count, sizeof *sizes);
    char **own = xcalloc(o.sizes.count, sizeof *own);
    int r = collect_sizes(sizes, &count, own, cl, err);
    if (r == 0)
        r = write_tokens(cl, sizes, count, err);
    for (size_t i = 0; i < o.sizes.count; i++)
        free(own[i]);
    free(own);
    free(sizes);
    return r;
}

static const struct aq_tool tokens_command = {
    .name = "tokens",
    .summary = "token ids of captions, texts and conversations",
    .usage = "aq-calib tokens --tokenizer PATH [OPTION...] -o FILE SMALL [MEDIUM [LARGE]]",
    .details =
        "The files are the sizes of one data set: each is a prefix of the next. A sample a\n"
        "line: text (blanks around it and empty lines do not count), or JSON lines with one\n"
        "of the keys text, messages, conversations, input_ids.",
    .example = "aq-calib tokens --tokenizer models/qwen3_vl_demo/checkpoint --dump \\\n"
               "    datasets/demo/captions_small.txt",
    .options = tokens_options,
    .max_args = -1,
    .run = run_tokens,
};

/* ---- ranges ---- */

static const char *const dtypes[] = {"bf16", "fp32", "bfloat16", "float32", NULL};

static struct {
    struct ranges_job job;
    int64_t threads;
    bool plain;
} r = {.job = {.device = "auto", .dtype = "bf16"}};

static const struct aq_opt ranges_options[] = {
    {"lm", 0, AQ_OPT_TEXT, &r.job.lm, "FILE", "lm.json of the model"},
    {"prefix", 0, AQ_OPT_TEXT, &r.job.prefixes, "N,...",
     "ranges of channels over the first N samples, for each N\n(default: the sizes of TOKENS)"},
    {"dtype", 0, AQ_OPT_CHOICE, &r.job.dtype, "T",
     "compute type of a GPU: bf16 (default) or fp32; aq-score\nneeds ranges of its own dtype",
     dtypes},
    {"device", 0, AQ_OPT_TEXT, &r.job.device, "D", "auto (default), cpu, cuda, cuda:N"},
    {"threads", 0, AQ_OPT_INT, &r.threads, "N", "CPU threads; default: all that may be used", NULL,
     1, AQ_POOL_MAX},
    {"memory", 0, AQ_OPT_SIZE, &r.job.memory, "SIZE", "limit, such as 8G; more is streamed"},
    {"plain-products", 0, AQ_OPT_FLAG, &r.plain, NULL,
     "fp32 products only, no integer or bf16 matrix units"},
    {"verify", 0, AQ_OPT_FLAG, &r.job.verify, NULL,
     "read the whole checkpoint first and compare it with the\nfull digest of lm.json"},
    AQ_OPT_END,
};

static int run_ranges(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct ranges_job *job = &r.job;
    job->tokens = cl->args[0];
    job->output = cl->output;
    job->config.threads = (int)r.threads;
    job->config.memory = job->memory;
    job->config.matrix = r.plain ? BACKEND_MATRIX_PLAIN : BACKEND_MATRIX_AUTO;
    if (!job->lm)
        return aq_err_set(err, AQ_EUSAGE, "--lm is missing");
    if (!cl->output && isatty(STDOUT_FILENO))
        return aq_err_set(err, AQ_EUSAGE, "the product is binary: use -o FILE");
    return ranges_run(job, err);
}

static const struct aq_tool ranges_command = {
    .name = "ranges",
    .summary = "magnitudes of the activations at the inputs of the linears",
    .usage = "aq-calib ranges --lm FILE [--prefix N,...] [OPTION...] -o FILE TOKENS",
    .details = "One forward pass serves all sizes of a data set: the largest magnitudes are kept\n"
               "per tensor and sample, and with the mean ones per channel over the first N\n"
               "samples of each size.",
    .example = "aq-calib ranges --lm lm.json --prefix 16,128 -o ranges.safetensors "
               "tokens.safetensors",
    .options = ranges_options,
    .min_args = 1,
    .max_args = 1,
    .run = run_ranges,
};

/* ---- solve ---- */

static struct {
    struct solve_job job;
    int64_t threads;
    bool plain;
} s = {.job = {.device = "auto", .dtype = "bf16", .batch = 8}};

static const struct aq_opt solve_options[] = {
    {"lm", 0, AQ_OPT_TEXT, &s.job.lm, "FILE", "lm.json of the model"},
    {"tokens", 0, AQ_OPT_TEXT, &s.job.tokens, "FILE", "tokens.safetensors of aq-calib tokens"},
    {"ranges", 0, AQ_OPT_TEXT, &s.job.ranges, "FILE",
     "ranges.safetensors of the same tokens, device and dtype"},
    {"prefix", 0, AQ_OPT_INT, &s.job.prefix, "N",
     "solve over the first N samples: a size that the ranges\nhave (default: the largest)", NULL, 1,
     INT32_MAX},
    {"layers", 0, AQ_OPT_TEXT, &s.job.layers, "A-B",
     "solve these layers alone, counted from 0, and keep them;\nthe product is written once all "
     "are there"},
    {"batch", 0, AQ_OPT_INT, &s.job.batch, "N",
     "samples of a batch (8), for AWQ over a quarter of them\n(autoquant.awq_samples)", NULL, 1,
     INT32_MAX},
    {"dtype", 0, AQ_OPT_CHOICE, &s.job.dtype, "T", "compute type of a GPU: bf16 (default) or fp32",
     dtypes},
    {"device", 0, AQ_OPT_TEXT, &s.job.device, "D", "auto (default), cpu, cuda, cuda:N"},
    {"threads", 0, AQ_OPT_INT, &s.threads, "N", "CPU threads; default: all that may be used", NULL,
     1, AQ_POOL_MAX},
    {"memory", 0, AQ_OPT_SIZE, &s.job.memory, "SIZE", "limit, such as 8G"},
    {"replace", 0, AQ_OPT_FLAG, &s.job.replace, NULL,
     "start over if the product was made from other inputs"},
    {"plain-products", 0, AQ_OPT_FLAG, &s.plain, NULL,
     "fp32 products only, no integer or bf16 matrix units"},
    {"verify", 0, AQ_OPT_FLAG, &s.job.verify, NULL,
     "read the whole checkpoint first and compare it with the\nfull digest of lm.json"},
    AQ_OPT_END,
};

static int run_solve(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct solve_job *job = &s.job;
    job->output = cl->output;
    job->quants = cl->args;
    job->quant_count = (size_t)cl->count;
    job->config.struct_size = sizeof job->config;
    job->config.threads = (int)s.threads;
    job->config.memory = job->memory;
    job->config.matrix = s.plain ? BACKEND_MATRIX_PLAIN : BACKEND_MATRIX_AUTO;
    if (!job->lm || !job->tokens || !job->ranges)
        return aq_err_set(err, AQ_EUSAGE, "--%s is missing",
                          !job->lm       ? "lm"
                          : !job->tokens ? "tokens"
                                         : "ranges");
    if (!cl->output || strcmp(cl->output, "-") == 0)
        return aq_err_set(err, AQ_EUSAGE,
                          "-o FILE is needed: candidates are added to those that it has");
    return solve_run(job, err);
}

static const struct aq_tool solve_command = {
    .name = "solve",
    .summary = "scales, ranges and codes of calibrated candidates: GPTQ, AWQ, SmoothQuant, clip",
    .usage =
        "aq-calib solve --lm FILE --tokens FILE --ranges FILE [OPTION...] -o FILE QUANT.json...",
    .details =
        "One forward pass of the unquantized network; the second moments of a layer's inputs\n"
        "are held for that layer alone. Candidates that the product has are kept, and a run\n"
        "that was broken off continues after its last layer.",
    .example = "aq-calib solve --lm lm.json --tokens tokens.safetensors --ranges "
               "ranges.safetensors \\\n    -o solved.safetensors quant.json",
    .options = solve_options,
    .min_args = 1,
    .max_args = -1,
    .run = run_solve,
};

/* ---- aq-calib ---- */

static const struct aq_tool *const commands[] = {&tokens_command, &ranges_command, &solve_command,
                                                 NULL};
static const char *const schemas[] = {TOKENS_SCHEMA, RANGES_SCHEMA, SOLVED_SCHEMA, NULL};

static const struct aq_tool tool = {
    .name = "aq-calib",
    .summary = "what calibration needs of a data set",
    .usage = "aq-calib tokens ...\naq-calib ranges ...\naq-calib solve ...",
    .example = "aq-calib tokens --help",
    .commands = commands,
    .result_version = RESULT_VERSION,
    .schemas = schemas,
    .print_build_info = backend_print_build_info,
};

int main(int argc, char **argv)
{
    backend_begin(argv);
    return aq_tool_main(&tool, argc, argv);
}
