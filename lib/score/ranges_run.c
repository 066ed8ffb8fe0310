/* The job of `aq-calib ranges`: files in, one file out. */
#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "model/lm.h"
#include "score/dtype.h"
#include "score/prefixes.h"
#include "score/ranges.h"
#include "score/samples.h"
#include "score/walk.h"
#include "store/range_file.h"
#include "text/tokens.h"

#include <inttypes.h>
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

static struct json *describe(const struct ranges_inputs *in)
{
    struct json *aq = json_new_object();
    json_add_string(aq, "schema", RANGES_SCHEMA);
    struct json *list = json_add_array(aq, "prefixes");
    for (size_t i = 0; i < in->prefixes.count; i++)
        (void)json_push(list, json_new_int(in->prefixes.items[i]));
    json_add_string(aq, "lm", in->lm.digest);
    json_add_string(aq, "tokens", in->tokens.digest);
    json_add_string(aq, "backend", in->backend->identity);
    json_add_string(aq, "dtype", compute_dtype_name(in->bf16));
    return aq;
}

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

/* One line, however many layers there are; of the largest prefix, which has the fewest unseen. */
static void say_unseen(const struct ranges *r)
{
    struct routed worst = {0};
    int64_t at = 0, layers = 0, experts = 0;
    for (int64_t l = 0; l < r->model->layers; l++) {
        if (!r->routed[l])
            continue;
        const struct routed n =
            routed_of(r->routed[l] + (int64_t)(r->prefix_count - 1) * r->experts, r->experts);
        layers += n.unseen > 0;
        experts += n.unseen;
        if (n.unseen > worst.unseen) {
            worst = n;
            at = l;
        }
    }
    if (!layers)
        return;
    if (routed_partly(&worst))
        aq_warn("no token reaches %" PRId64 " experts of %" PRId64 " layers, %" PRId64
                " of %" PRId64 " in layer %" PRId64 ": they are scored on part of their weights",
                experts, layers, worst.unseen, worst.experts, at);
    else
        aq_note(0, "no token reaches %" PRId64 " experts of %" PRId64 " layers", experts, layers);
}

static int measure(struct ranges_inputs *in, struct aq_err *err)
{
    struct ranges r = {0};
    char *dir = spill_dir(in);
    int status = ranges_compute(&r, &in->lm.groups, in->model, in->backend, &in->tiles,
                                in->prefixes.items, in->prefixes.count, dir, err);
    if (status == 0)
        say_unseen(&r);
    if (status == 0)
        status = ranges_write(&r, in->job->output, describe(in), err);
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
