#include "model/lm.h"
#include "base/mem.h"
#include "io/product.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void lm_index(struct lm *lm)
{
    for (size_t i = 0; i < lm->count; i++)
        aq_names_add(&lm->names, lm->tensors[i].name);
    (void)aq_names_sort(&lm->names); /* all of them come from the layout: no duplicates */
    lm->head = lm->arch.tie_word_embeddings ? &lm->tensors[0] : &lm->tensors[lm->count - 1];
}

/* ---- mapping ---- */

static int map_file(struct lm *lm, struct lm_file *f, struct aq_err *err)
{
    char *path = aq_path_join(lm->root, f->name);
    int r = aq_map_open(&f->map, path, err);
    if (r == 0 && f->map.size != f->bytes)
        r = aq_err_set(err, AQ_EINPUT, "'%s' has %zu bytes, %" PRIu64 " when it was extracted",
                       aq_show(path), f->map.size, f->bytes);
    free(path);
    return r;
}

int lm_map(struct lm *lm, struct aq_err *err)
{
    for (size_t i = 0; i < lm->file_count; i++)
        if (map_file(lm, &lm->files[i], err) < 0)
            return -1;
    for (size_t i = 0; i < lm->count; i++) {
        struct lm_tensor *t = &lm->tensors[i];
        t->data = lm->files[t->file].map.data + t->begin;
    }
    return 0;
}

static int changed(const struct lm *lm, const char *what, const char *found, const char *expected,
                   struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT,
               "the checkpoint in '%s' has changed: %s %.16s..., extracted %.16s...",
               aq_show(lm->root), what, found, expected);
    return aq_err_hint(err, "run aq-extract-lm again");
}

static int check_digest(const struct lm *lm, struct aq_err *err)
{
    char found[AQ_SHA256_HEX];
    lm_compute_digest(lm, LM_DIGEST_SAMPLE, found);
    return strcmp(found, lm->digest) == 0 ? 0 : changed(lm, "digest", found, lm->digest, err);
}

int lm_verify(const struct lm *lm, const char *path, struct aq_err *err)
{
    char found[AQ_SHA256_HEX];
    if (!lm->full[0]) {
        aq_err_set(err, AQ_EINPUT, "'%s' has no full digest to verify the checkpoint with",
                   aq_show(path));
        return aq_err_hint(err, "make it with aq-extract-lm --digest full");
    }
    lm_compute_digest(lm, LM_DIGEST_FULL, found);
    return strcmp(found, lm->full) == 0 ? 0 : changed(lm, "full digest", found, lm->full, err);
}

int lm_open(struct lm *lm, const char *path, struct aq_err *err)
{
    *lm = (struct lm){.root = NULL};
    struct json *v = product_read(path, LM_SCHEMA, err);
    if (!v)
        return -1;
    int r = lm_from_json(lm, v, path, err);
    json_free(v);
    if (r == 0 && (lm_map(lm, err) < 0 || check_digest(lm, err) < 0))
        r = aq_err_prefix(err, "%s", aq_show(path));
    if (r < 0)
        lm_close(lm);
    return r;
}

void lm_close(struct lm *lm)
{
    for (size_t i = 0; i < lm->file_count; i++)
        aq_map_close(&lm->files[i].map);
    free(lm->files);
    free(lm->tensors);
    aq_names_release(&lm->names);
    free(lm->dropped);
    model_groups_release(&lm->groups);
    aq_arena_release(&lm->strings);
    *lm = (struct lm){.root = NULL};
}

/* ---- looking up ---- */

const struct lm_tensor *lm_find(const struct lm *lm, const char *name)
{
    ptrdiff_t i = aq_names_find(&lm->names, name);
    return i < 0 ? NULL : &lm->tensors[i];
}
