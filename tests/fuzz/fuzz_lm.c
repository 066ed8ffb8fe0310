/*
 * config.json and lm.json. A configuration that is accepted has sizes within the limits; an lm.json
 * that is accepted comes out of the writer and back the same, and every range is inside its file.
 */
#include "model/lm.h"
#include "model/lm_config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const struct aq_err *err)
{
    if (err->code != AQ_EINPUT || !err->msg[0] || strchr(err->msg, '\n'))
        abort();
}

static void check_arch(const struct lm_arch *a)
{
    if (a->num_hidden_layers > LM_MAX_LAYERS || a->hidden_size > LM_MAX_DIM ||
        a->num_attention_heads % a->num_key_value_heads || a->head_dim % 2 ||
        !(a->rope_theta > 0) || !(a->rms_norm_eps > 0))
        abort();
}

static void check_lm(const struct lm *lm)
{
    struct json *v = lm_to_json(lm, "fuzz", 1), *w;
    struct aq_buf once = AQ_BUF_INIT, twice = AQ_BUF_INIT;
    struct lm again;
    for (size_t i = 0; i < lm->count; i++)
        if (lm->tensors[i].end > lm->files[lm->tensors[i].file].bytes)
            abort();
    if (json_write(&once, v, JSON_COMPACT, NULL) < 0 || lm_from_json(&again, v, "again", NULL) < 0)
        abort();
    w = lm_to_json(&again, "fuzz", 1);
    if (json_write(&twice, w, JSON_COMPACT, NULL) < 0 || strcmp(once.data, twice.data) != 0)
        abort();
    lm_close(&again);
    aq_buf_release(&once);
    aq_buf_release(&twice);
    json_free(v);
    json_free(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_err err = {0};
    struct lm_arch arch = {0};
    struct aq_arena strings = {0};
    struct lm lm;
    struct json *v = json_parse((const char *)data, size, "fuzz", &err);
    if (!v)
        return 0;
    err = (struct aq_err){0};
    if (lm_config_read(&arch, v, "fuzz", &strings, &err) == 0)
        check_arch(&arch);
    else
        check_refusal(&err);
    aq_arena_release(&strings);
    err = (struct aq_err){0};
    if (lm_from_json(&lm, v, "fuzz", &err) == 0) {
        check_lm(&lm);
        lm_close(&lm);
    } else {
        check_refusal(&err);
    }
    json_free(v);
    return 0;
}
