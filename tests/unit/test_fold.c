/*
 * Scales of inputs folded into the norms in front: in every family the logits are those of before,
 * and they are transformers' in float64 as those of the model itself; and which inputs have no norm
 * to fold into.
 */
#include "tap.h"

#include "base/mem.h"
#include "io/safetensors.h"
#include "model/fold.h"
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

/* A model whose norms carry scales, and whose weights are multiplied by them. */
struct folded {
    struct lm *lm;
    struct nn_source plain;
    float **scale; /* [inputs]; NULL: the input has no norm in front */
    void **made;   /* owned copies */
    size_t made_count;
    int norms, linears;
};

/* Between 1/8 and 8, by the channel. */
static float wanted_scale(size_t input, int64_t c)
{
    uint32_t x = (uint32_t)input * 2654435761U + (uint32_t)c * 40503U + 12345;
    x ^= x >> 13;
    x *= 2246822519U;
    return exp2f((float)(x >> 8) / (1 << 24) * 6 - 3);
}

static void *keep(struct folded *f, void *p)
{
    f->made = xreallocarray(f->made, f->made_count + 1, sizeof *f->made);
    return f->made[f->made_count++] = p;
}

static void fold_norm_of(struct folded *f, const struct lm_tensor *t, const float *scale,
                         struct backend_weight *w)
{
    char *to = keep(f, xmalloc((size_t)(t->end - t->begin)));
    enum num_type type = st_num_type(t->dtype);
    for (size_t i = 0; i < t->elements; i++)
        num_write(to, type, i,
                  fold_norm(num_read(t->data, type, i), scale[i], f->lm->arch.norm_one_plus, type));
    w->host = to;
    f->norms++;
}

static void scale_linear(struct folded *f, const struct lm_tensor *t, const float *scale,
                         struct backend_weight *w)
{
    float *to = keep(f, xmalloc(t->elements * sizeof *to));
    for (size_t i = 0; i < t->elements; i++)
        to[i] = num_read(t->data, st_num_type(t->dtype), i) * scale[i % t->shape[1]];
    w->host = to;
    w->dtype = NUM_F32;
    f->linears++;
}

static int find_folded(void *arg, const char *name, struct backend_weight *w, struct aq_err *e)
{
    struct folded *f = arg;
    const struct lm_tensor *t = lm_find(f->lm, name);
    const struct model_groups *g = &f->lm->groups;
    if (f->plain.find(f->plain.arg, name, w, e) < 0)
        return -1;
    for (size_t i = 0; t && i < g->input_count; i++)
        if (f->scale[i] && lm_norm_before(f->lm, i) == t)
            fold_norm_of(f, t, f->scale[i], w);
    for (size_t i = 0; t && i < g->count; i++)
        for (int k = 0; k < g->items[i].member_count; k++) {
            char *member = xasprintf("%s.weight", g->items[i].members[k]);
            const float *scale = f->scale[g->items[i].inputs[0]];
            if (scale && strcmp(member, name) == 0)
                scale_linear(f, t, scale, w);
            free(member);
        }
    return 0;
}

/* Every scale must be one that the norm's type carries: folding it twice is folding it once. */
static int take_scales(struct folded *f)
{
    const struct model_groups *g = &f->lm->groups;
    int uneven = 0;
    f->scale = xcalloc(g->input_count, sizeof *f->scale);
    for (size_t i = 0; i < g->input_count; i++) {
        const struct lm_tensor *t = lm_norm_before(f->lm, i);
        if (!t)
            continue;
        f->scale[i] = xcalloc((size_t)g->inputs[i].cols, sizeof(float));
        for (int64_t c = 0; c < g->inputs[i].cols; c++) {
            enum num_type type = st_num_type(t->dtype);
            float w = num_read(t->data, type, (size_t)c);
            bool one = f->lm->arch.norm_one_plus;
            float s = fold_norm_scale(w, wanted_scale(i, c), one, type);
            float back = fold_norm_scale(w, s, one, type);
            uneven += !(s > 0) || fabsf(back - s) > s * 0x1p-22F;
            f->scale[i][c] = s;
        }
    }
    return uneven;
}

static void run_case(const char *name)
{
    char dir[256], path[300];
    struct lm lm;
    struct st_file vectors;
    struct tiles tiles;
    struct aq_buf notes = AQ_BUF_INIT;
    (void)snprintf(dir, sizeof dir, "tests/oracle/families/%s", name);
    (void)snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    must(lm_extract(&lm, dir, LM_DIGEST_SAMPLE, &notes, &err), name);
    must(st_open(&vectors, path, &err), path);
    const struct st_tensor *ids = st_need(&vectors, "ids", ST_I32, 1, &err);
    const struct st_tensor *offsets = st_need(&vectors, "offsets", ST_I64, 1, &err);
    must(ids && offsets ? 0 : -1, path);
    int32_t *own_ids = xmalloc((size_t)(ids->end - ids->begin));
    int64_t *own_offsets = xmalloc((size_t)(offsets->end - offsets->begin));
    memcpy(own_ids, ids->data, (size_t)(ids->end - ids->begin));
    memcpy(own_offsets, offsets->data, (size_t)(offsets->end - offsets->begin));
    struct tile_source samples = {.ids = own_ids,
                                  .offsets = own_offsets,
                                  .samples = (int64_t)offsets->elements - 1,
                                  .pad_id = -1};
    must(tiles_build(&tiles, &samples, 64, lm.arch.vocab_size, &err), "tiles");
    struct folded f = {.lm = &lm, .plain = nn_source_of_lm(&lm)};
    struct nn_source source = f.plain;
    int uneven = take_scales(&f), normed = 0;
    for (size_t i = 0; i < lm.groups.count; i++)
        normed += lm.groups.items[i].normed;
    source.find = find_folded;
    source.arg = &f;
    source.make = NULL; /* of experts, which are not asked for here */
    source.drop = NULL;
    struct result before = run_tile(&f.plain, &tiles.items[0], 2);
    struct result after = run_tile(&source, &tiles.items[0], 2);
    double most = 0, away = 0;
    for (int64_t i = 0; i < before.used * lm.arch.vocab_size; i++) {
        most = fmax(most, fabs((double)before.logits[i]));
        away = fmax(away, fabs((double)before.logits[i] - (double)after.logits[i]));
    }
    tap_ok(uneven == 0, "%s: scales are those that the norm's type carries", name);
    tap_ok(f.norms == normed && (normed == 0) == (lm.arch.norm_place == NORM_POST),
           "%s: %d norms take scales, of %d groups", name, f.norms, normed);
    tap_ok(away <= 1e-5 * fmax(1, most), "%s: logits as before (%.1e of %.1f)", name, away, most);
    compare(name, &vectors, &lm.arch, &after);
    for (size_t i = 0; i < f.made_count; i++)
        free(f.made[i]);
    for (size_t i = 0; i < lm.groups.input_count; i++)
        free(f.scale[i]);
    free(f.scale);
    free(f.made);
    result_release(&before, &lm.arch);
    result_release(&after, &lm.arch);
    tiles_release(&tiles);
    free(own_ids);
    free(own_offsets);
    aq_buf_release(&notes);
    st_close(&vectors);
    lm_close(&lm);
}

/* Numbers that a fold cannot carry leave the channel alone. */
static void test_limits(void)
{
    tap_ok(fold_norm_scale(0, 3, false, NUM_BF16) == 1, "a channel that is 0 has no scale");
    tap_ok(fold_norm_scale(-1, 3, true, NUM_BF16) == 1, "nor one that 1 + w makes 0");
    tap_ok(fold_norm_scale(-0.999F, 1e4F, true, NUM_BF16) == 1,
           "a scale that would make 1 + w zero in bf16 is not taken");
    tap_ok(fold_norm_scale(6e4F, 1e-4F, false, NUM_F16) == 1, "nor one beyond fp16");
    tap_ok(fold_norm(1.5F, 1, false, NUM_BF16) == 1.5F &&
               fold_norm(0.25F, 1, true, NUM_F32) == 0.25F,
           "a scale of 1 changes nothing");
    bool good = true;
    for (int i = 0; i < 1000; i++) {
        float s = fold_free_scale(wanted_scale(0, i)), inverse = 1 / s;
        uint32_t bits;
        memcpy(&bits, &inverse, sizeof bits);
        bits = (bits + 0x10) & ~0x1fU; /* the last bits of the inverse of an inverse */
        good &= (bits & 0xffff) == 0 && fabsf(s - wanted_scale(0, i)) < s / 200;
    }
    tap_ok(good, "without a norm, the inverse is a number of bf16");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Dense families. */
static int is_case(const struct dirent *d)
{
    return d->d_name[0] != '.' && !strstr(d->d_name, "moe") && strcmp(d->d_name, "mixtral") != 0;
}

int main(int argc, char **argv)
{
    struct dirent **list;
    int n = scandir("tests/oracle/families", &list, is_case, by_name);
    if (n < 1) {
        printf("Bail out! no cases in tests/oracle/families\n");
        return 2;
    }
    test_limits();
    for (int i = 0; i < n; i++) {
        if (argc < 2 || strcmp(argv[1], list[i]->d_name) == 0)
            run_case(list[i]->d_name);
        free(list[i]);
    }
    free(list);
    return tap_done();
}
