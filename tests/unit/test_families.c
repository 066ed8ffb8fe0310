/*
 * Every family against transformers in float64 (tests/oracle/families.py): a tiny checkpoint goes
 * the way of any other, from config.json and its tensors' names to logits, loss, and the gradient
 * at the output of every linear; the same bits for any number of threads, and from run to run.
 */
#include "tap.h"

#include "base/mem.h"
#include "io/safetensors.h"
#include "model/family.h"
#include "model/lm_extract.h"

#include <dirent.h>
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

#include "model_run.h"

static void *copy_of(const struct st_tensor *t)
{
    size_t bytes = (size_t)(t->end - t->begin);
    void *to = xmalloc(bytes);
    memcpy(to, t->data, bytes);
    return to;
}

static void run_case(const char *name)
{
    char dir[256], path[300];
    struct lm lm;
    struct st_file f;
    struct tiles tiles;
    struct aq_buf notes = AQ_BUF_INIT;
    (void)snprintf(dir, sizeof dir, "tests/oracle/families/%s", name);
    (void)snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    must(lm_extract(&lm, dir, LM_DIGEST_SAMPLE, &notes, &err), name);
    must(st_open(&f, path, &err), path);
    const struct st_tensor *ids = st_need(&f, "ids", ST_I32, 1, &err);
    const struct st_tensor *offsets = st_need(&f, "offsets", ST_I64, 1, &err);
    must(ids && offsets ? 0 : -1, path);
    struct tile_source samples = {.ids = copy_of(ids),
                                  .offsets = copy_of(offsets),
                                  .samples = (int64_t)offsets->elements - 1,
                                  .pad_id = -1};
    must(tiles_build(&tiles, &samples, 64, lm.arch.vocab_size, &err), "tiles");
    const struct nn_source s = nn_source_of_lm(&lm);
    struct result one = run_tile(&s, &tiles.items[0], 1);
    compare(name, &f, &lm.arch, &one);
    struct result many = run_tile(&s, &tiles.items[0], 3);
    tap_ok(strcmp(one.digest, many.digest) == 0, "%s: same bits with 3 threads", name);
    result_release(&one, &lm.arch);
    result_release(&many, &lm.arch);
    tiles_release(&tiles);
    free((void *)samples.ids);
    free((void *)samples.offsets);
    aq_buf_release(&notes);
    st_close(&f);
    lm_close(&lm);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_case(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* test_families [DEVICE [CASE]] */
int main(int argc, char **argv)
{
    struct dirent **list;
    if (argc > 1)
        model_device = argv[1];
    int n = scandir("tests/oracle/families", &list, is_case, by_name);
    if (n < 1) {
        printf("Bail out! no cases in tests/oracle/families\n");
        return 2;
    }
    for (int i = 0; i < n; i++) {
        if (argc < 3 || strcmp(argv[2], list[i]->d_name) == 0)
            run_case(list[i]->d_name);
        free(list[i]);
    }
    free(list);
    return tap_done();
}
