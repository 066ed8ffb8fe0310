/*
 * A checkpoint directory in the Hugging Face layout: model.safetensors, or shards named by
 * model.safetensors.index.json. If both are there, the single file is taken and a note says so.
 *
 * Rules for what is inconsistent: a tensor of the index must be in its shard; a tensor that a
 * shard holds although the index places it in another one is an error; a tensor that the index
 * does not know is ignored with a note. The index's total_size is not used.
 */
#ifndef AQ_MODEL_CHECKPOINT_H
#define AQ_MODEL_CHECKPOINT_H

#include "base/arena.h"
#include "base/err.h"
#include "io/safetensors.h"

#include <stddef.h>
#include <stdint.h>

enum { CKPT_MAX_SHARDS = 10000 };

struct ckpt_tensor {
    const struct st_tensor *t;
    uint32_t file;
};

struct ckpt {
    const char *dir;
    const char **names; /* of the files, sorted */
    struct st_file *files;
    size_t file_count;
    struct ckpt_tensor *tensors; /* sorted by name */
    size_t count;
    struct aq_buf notes; /* warnings for the user, one a line */
    struct aq_arena arena;
};

int ckpt_open(struct ckpt *c, const char *dir, struct aq_err *err) AQ_MUST_CHECK;
void ckpt_close(struct ckpt *c);
const struct ckpt_tensor *ckpt_find(const struct ckpt *c, const char *name); /* NULL if absent */

#endif
