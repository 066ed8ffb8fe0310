#include "eval/inputs.h"

#include "base/file.h"
#include "base/mem.h"
#include "eval/file.h"
#include "eval/gguf_tokens.h"
#include "score/dtype.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Digest of the tokenizer in a directory; "" where there is none, or no text has one. */
static int tokenizer_of(const struct eval_inputs *in, const char *dir, char out[AQ_SHA256_HEX],
                        struct aq_err *err)
{
    char *json = aq_path_join(dir, "tokenizer.json"), *vocab = aq_path_join(dir, "vocab.json");
    bool there = aq_path_exists(json) || aq_path_exists(vocab), known = false;
    for (size_t i = 0; i < in->domains.count; i++)
        known |= in->domains.items[i].tokens.tokenizer[0] != '\0';
    free(json);
    free(vocab);
    out[0] = '\0';
    if (!there || !known)
        return 0;
    struct tokenizer *t = tokenizer_open(dir, err);
    if (!t)
        return -1;
    (void)snprintf(out, AQ_SHA256_HEX, "%s", tokenizer_digest(t));
    tokenizer_free(t);
    return 0;
}

static int check_tokenizer(const struct eval_inputs *in, const char *digest, const char *whose,
                           struct aq_err *err)
{
    for (size_t i = 0; i < in->domains.count && *digest; i++) {
        const struct eval_domain *d = &in->domains.items[i];
        if (d->tokens.tokenizer[0] && strcmp(d->tokens.tokenizer, digest) != 0)
            return aq_err_set(err, AQ_EINPUT,
                              "%s has another tokenizer than the one that made '%s'",
                              aq_show(whose), aq_show(d->path));
    }
    return 0;
}

static int open_ranges(struct eval_inputs *in, struct aq_err *err)
{
    const struct range_user user = {.lm = in->lm.digest, .model = &in->lm.groups};
    if (!in->where->ranges)
        return 0;
    if (range_file_open(&in->ranges, in->where->ranges, err) < 0)
        return -1;
    return range_file_matches(&in->ranges, &user, err);
}

static int open_solved(struct eval_inputs *in, struct aq_err *err)
{
    if (!in->where->solved)
        return 0;
    if (solved_open(&in->solved, in->where->solved, err) < 0)
        return -1;
    return solved_matches(&in->solved, in->lm.digest, &in->lm.groups, err);
}

int eval_inputs_open(struct eval_inputs *in, const struct eval_where *where,
                     const struct aq_names *domains, struct aq_err *err)
{
    *in = (struct eval_inputs){.where = where};
    if (compute_dtype_parse(where->dtype, &in->bf16, err) < 0 ||
        served_open(&in->served, where->engine, where->conf_dir, err) < 0 ||
        lm_open(&in->lm, where->reference, err) < 0 ||
        (where->verify && lm_verify(&in->lm, where->reference, err) < 0) ||
        eval_domains_open(&in->domains, domains, err) < 0 || open_ranges(in, err) < 0 ||
        open_solved(in, err) < 0 || tokenizer_of(in, in->lm.root, in->tokenizer, err) < 0)
        return -1;
    return check_tokenizer(in, in->tokenizer, where->reference, err);
}

void eval_inputs_close(struct eval_inputs *in)
{
    eval_domains_close(&in->domains);
    range_file_close(&in->ranges);
    solved_close(&in->solved);
    lm_close(&in->lm);
    served_close(&in->served);
}

struct eval_reference eval_inputs_reference(struct eval_inputs *in)
{
    return (struct eval_reference){.lm = &in->lm,
                                   .path = in->where->reference,
                                   .ranges = in->ranges.path ? &in->ranges : NULL,
                                   .solved = in->solved.path ? &in->solved : NULL,
                                   .conf_dir = in->where->conf_dir,
                                   .served = in->served};
}

struct backend_config eval_inputs_config(const struct eval_inputs *in)
{
    return (struct backend_config){.struct_size = sizeof(struct backend_config),
                                   .threads = (int)in->where->threads,
                                   .kept_until = in->where->memory,
                                   .bf16 = in->bf16};
}

int eval_inputs_operand(struct eval_inputs *in, struct eval_operand *o, const char *path,
                        struct aq_err *err)
{
    const struct eval_reference ref = eval_inputs_reference(in);
    if (eval_operand_open(o, path, &ref, err) < 0)
        return -1;
    if (o->arch->vocab_size != in->lm.arch.vocab_size)
        return aq_err_set(err, AQ_EINPUT,
                          "'%s' has a vocabulary of %" PRId64 ", the reference one of %" PRId64,
                          aq_show(path), o->arch->vocab_size, in->lm.arch.vocab_size);
    if (o->kind == EVAL_GGUF && in->tokenizer[0])
        return gguf_tokens_check(&o->file->gguf, in->lm.root, err);
    const char *dir = o->kind == EVAL_CHECKPOINT ? path : o->kind == EVAL_LM ? o->own->root : NULL;
    if (dir && tokenizer_of(in, dir, o->tokenizer, err) < 0)
        return -1;
    return check_tokenizer(in, o->tokenizer, path, err);
}
