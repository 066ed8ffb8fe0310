/* The job of `aq-calib ranges`: files in, one file out. */
#include "base/file.h"
#include "base/mem.h"
#include "model/lm.h"
#include "score/dtype.h"
#include "score/prefixes.h"
#include "score/ranges.h"
#include "score/samples.h"
#include "text/tokens.h"

#include <stdlib.h>
#include <string.h>

struct ranges_inputs {
    const struct ranges_job *job;
    struct lm lm;
    struct tokens tokens;
    struct prefixes prefixes;
    struct backend *backend;
    struct nn_model *model;
    struct tiles tiles;
    bool bf16;
};

static int check_prefixes(const struct ranges_inputs *in, struct aq_err *err)
{
    if (in->prefixes.count)
        return 0;
    return aq_err_set(err, AQ_EUSAGE, "'%s' names no sizes: --prefix is needed",
                      aq_show(in->job->tokens));
}

static int open_model(struct ranges_inputs *in, struct aq_err *err)
{
    struct backend_config config = in->job->config;
    const struct sample_set set = {.tokens = &in->tokens,
                                   .path = in->job->tokens,
                                   .samples = in->prefixes.items[in->prefixes.count - 1]};
    struct nn_source source = nn_source_of_lm(&in->lm);
    config.bf16 = in->bf16;
    if (backend_open(&in->backend, in->job->device, &config, err) < 0 ||
        sample_tiles(&in->tiles, &set, &in->lm.arch, in->backend, err) < 0)
        return -1;
    return nn_open(&in->model, &source, in->backend, in->tiles.rows, 0, err);
}

/* Where the states of the tiles go if they do not fit into --memory; NULL: they fit. */
static char *spill_dir(const struct ranges_inputs *in)
{
    const struct lm_arch *a = &in->lm.arch;
    uint64_t states = in->tiles.count * walk_act_bytes(in->tiles.rows, in->backend, a->hidden_size);
    uint64_t rest = nn_buffer_bytes(a, in->backend, in->tiles.rows, 0);
    const char *out = in->job->output;
    if (!in->job->memory || states + rest <= in->job->memory)
        return NULL;
    return out && strcmp(out, "-") != 0 ? aq_path_dir(out) : xstrdup(".");
}

static int measure(struct ranges_inputs *in, struct aq_err *err)
{
    struct ranges r = {0};
    struct walk w = {0};
    char *dir = spill_dir(in);
    const struct walk_job job = {.b = in->backend,
                                 .model = in->model,
                                 .tiles = &in->tiles,
                                 .end_tile = in->tiles.count,
                                 .spilled = dir != NULL,
                                 .spill_dir = dir};
    const struct range_user of = {.lm = in->lm.digest,
                                  .tokens = in->tokens.digest,
                                  .backend = in->backend->identity,
                                  .dtype = compute_dtype_name(in->bf16)};
    int status = walk_open(&w, &job, err);
    if (status == 0)
        status =
            ranges_compute(&r, &in->lm.groups, &w, in->prefixes.items, in->prefixes.count, err);
    if (w.op)
        walk_close(&w);
    if (status == 0) {
        ranges_say_unseen(&r);
        status = ranges_write(&r, in->job->output, &of, false, err);
    }
    ranges_release(&r);
    free(dir);
    return status;
}

static int run(struct ranges_inputs *in, struct aq_err *err)
{
    const struct ranges_job *job = in->job;
    if (compute_dtype_parse(job->dtype, &in->bf16, err) < 0 || lm_open(&in->lm, job->lm, err) < 0 ||
        (job->verify && lm_verify(&in->lm, job->lm, err) < 0) ||
        tokens_open(&in->tokens, job->tokens, err) < 0 ||
        prefixes_parse(&in->prefixes, job->prefixes, &in->tokens, err) < 0 ||
        check_prefixes(in, err) < 0 || open_model(in, err) < 0)
        return -1;
    return measure(in, err);
}

int ranges_run(const struct ranges_job *job, struct aq_err *err)
{
    struct ranges_inputs in = {.job = job};
    int status = run(&in, err);
    nn_close(in.model);
    backend_close(in.backend);
    tiles_release(&in.tiles);
    tokens_release(&in.tokens);
    lm_close(&in.lm);
    return status;
}
