/* A case of tests/oracle/qwen3: model, samples and expected tensors. */
#ifndef AQ_TEST_QWEN3_CASE_H
#define AQ_TEST_QWEN3_CASE_H

#include "base/mem.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/lm_extract.h"
#include "model/family.h"
#include "nn/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct aq_err err;

static void must(int status, const char *what)
{
    if (status < 0) {
        printf("Bail out! %s: %s\n", what, err.msg);
        exit(2);
    }
}

static int find_tensor(void *arg, const char *name, struct backend_weight *w, struct aq_err *e)
{
    const struct st_tensor *t = st_find(arg, name);
    if (!t)
        return aq_err_set(e, AQ_EINPUT, "there is no tensor '%s'", name);
    *w = (struct backend_weight){.host = t->data,
                                 .dtype = t->dtype == ST_BF16 ? NUM_BF16 : NUM_F32,
                                 .rows = t->rank == 2 ? (int64_t)t->shape[0] : 1,
                                 .cols = (int64_t)t->shape[t->rank - 1],
                                 .name = t->name};
    return 0;
}

/* The architecture that a vectors' file describes. */
static void read_arch(struct lm_arch *a, struct st_file *f)
{
    const char *text = st_meta(f, "config");
    struct json *j = json_parse(text, strlen(text), "config", &err);
    must(j ? 0 : -1, "config");
    struct jref r = jref_root(j, "config");
    const struct {
        const char *key;
        int64_t *to;
    } ints[] = {
        {"hidden_size", &a->hidden_size},
        {"intermediate_size", &a->intermediate_size},
        {"num_hidden_layers", &a->num_hidden_layers},
        {"num_attention_heads", &a->num_attention_heads},
        {"num_key_value_heads", &a->num_key_value_heads},
        {"head_dim", &a->head_dim},
        {"vocab_size", &a->vocab_size},
    };
    *a = (struct lm_arch){.family = model_family_named("qwen3"), .qk_norm = QK_NORM_HEAD};
    for (size_t i = 0; i < AQ_COUNT(ints); i++)
        must(jref_int(&r, ints[i].key, 1, 1 << 20, ints[i].to, &err), "config");
    must(jref_double(&r, "rope_theta", &a->rope_theta, &err), "config");
    must(jref_double(&r, "rms_norm_eps", &a->rms_norm_eps, &err), "config");
    must(jref_bool(&r, "tie_word_embeddings", &a->tie_word_embeddings, &err), "config");
    arch_defaults(a);
    json_free(j);
}

struct qwen3_case {
    struct st_file file;
    struct lm lm; /* of a case with a checkpoint */
    bool has_lm;
    struct lm_arch arch; /* of a case without one */
    struct nn_source source;
    struct tile_source samples;
    int32_t *ids;
    int64_t *offsets;
};

/* Weights are in the vectors' own file, or in a checkpoint. */
static void case_open(struct qwen3_case *c, const char *name, const char *checkpoint)
{
    char path[128];
    struct st_file *f = &c->file;
    struct aq_buf notes = AQ_BUF_INIT;
    (void)snprintf(path, sizeof path, "tests/oracle/qwen3/%s.safetensors", name);
    must(st_open(f, path, &err), path);
    c->has_lm = checkpoint != NULL;
    if (c->has_lm) {
        must(lm_extract(&c->lm, checkpoint, LM_DIGEST_SAMPLE, &notes, &err), checkpoint);
        c->source = nn_source_of_lm(&c->lm);
    } else {
        read_arch(&c->arch, f);
        c->source = (struct nn_source){.arch = &c->arch, .find = find_tensor, .arg = f};
    }
    aq_buf_release(&notes);
    const struct st_tensor *ids = st_need(f, "ids", ST_I32, 1, &err);
    const struct st_tensor *offsets = st_need(f, "offsets", ST_I64, 1, &err);
    must(ids && offsets ? 0 : -1, path);
    c->ids = xmalloc(ids->elements * sizeof *c->ids);
    c->offsets = xmalloc(offsets->elements * sizeof *c->offsets);
    memcpy(c->ids, ids->data, ids->elements * sizeof *c->ids);
    memcpy(c->offsets, offsets->data, offsets->elements * sizeof *c->offsets);
    int64_t seq_len = strtol(st_meta(f, "seq_len"), NULL, 10);
    c->samples = (struct tile_source){
        c->ids,      c->offsets, (int64_t)offsets->elements - 1,
        seq_len > 0, seq_len,    (int32_t)strtol(st_meta(f, "pad_id"), NULL, 10)};
}

static void case_close(struct qwen3_case *c)
{
    free(c->ids);
    free(c->offsets);
    st_close(&c->file);
    if (c->has_lm)
        lm_close(&c->lm);
}

#endif
