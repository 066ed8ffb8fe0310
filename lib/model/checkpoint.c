#include "model/checkpoint.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/hub.h"
#include "model/shard_name.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

/* ---- the directory ---- */

static bool has_file(const char *dir, const char *name)
{
    char *path = aq_path_join(dir, name);
    bool there = aq_path_exists(path);
    free(path);
    return there;
}

/* Neither form is there: say what is. */
static int fail_empty(const char *dir, struct aq_err *err)
{
    DIR *d = opendir(dir);
    if (!d)
        return aq_err_sys(err, AQ_ERUN, "cannot read checkpoint directory '%s'", aq_show(dir));
    bool torch = false, partial = false;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        torch |= aq_path_ends(e->d_name, ".bin") || aq_path_ends(e->d_name, ".pt") ||
                 aq_path_ends(e->d_name, ".pth");
        partial |= aq_path_ends(e->d_name, ".incomplete");
    }
    (void)closedir(d);
    aq_err_set(err, AQ_EINPUT, "'%s' holds no checkpoint: found neither " SINGLE " nor " INDEX,
               aq_show(dir));
    if (torch)
        aq_err_hint(err, "PyTorch files are not read: a checkpoint in safetensors form is needed");
    else if (partial)
        aq_err_hint(err, "there are .incomplete files: finish the download");
    return -1;
}

static int check_directory(const char *dir, struct aq_err *err)
{
    struct stat st;
    if (stat(dir, &st) < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot read checkpoint directory '%s'", aq_show(dir));
        return hub_is_id(dir) ? aq_err_hint(err,
                                            "nor is it in the local Hugging Face cache: 'hf "
                                            "download %s' puts it there",
                                            aq_show(dir))
                              : -1;
    }
    if (!S_ISDIR(st.st_mode))
        return aq_err_set(err, AQ_EINPUT, "'%s' is not a directory, expected a checkpoint's",
                          aq_show(dir));
    return 0;
}

/* ---- the index ---- */

struct placed {
    const char *tensor, *file;
};

struct index {
    struct json *root; /* owns the names */
    struct placed *entries;
    size_t count;
};

static int by_file(const void *a, const void *b)
{
    return strcmp(((const struct placed *)a)->file, ((const struct placed *)b)->file);
}

static int read_map(struct index *x, const char *path, struct aq_err *err)
{
    struct jref root = jref_root(x->root, path), map;
    if (jref_get(&root, "weight_map", JSON_OBJECT, &map, err) < 0)
        return -1;
    size_t n = json_size(map.v);
    if (n == 0)
        return jref_fail(&map, err, "names no tensors");
    x->entries = xcalloc(n, sizeof *x->entries);
    for (const struct json *v = json_first(map.v); v; v = json_next(v)) {
        struct jref r = jref_child(&map, v, 0);
        if (json_type(v) != JSON_STRING)
            return jref_fail(&r, err, "expected a file name, found %s",
                             json_type_name(json_type(v)));
        if (!shard_name_is_plain(json_string(v)))
            return jref_fail(&r, err, "'%s': shard names must be plain file names",
                             aq_show(json_string(v)));
        x->entries[x->count++] = (struct placed){json_key(v), json_string(v)};
    }
    qsort(x->entries, x->count, sizeof *x->entries, by_file);
    return 0;
}

static void release_index(struct index *x)
{
    json_free(x->root);
    free(x->entries);
}

/* ---- shards ---- */

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct ckpt_tensor *)a)->t->name,
                  ((const struct ckpt_tensor *)b)->t->name);
}

static void add_note(struct ckpt *c, const char *text)
{
    aq_buf_adds(&c->notes, text);
    aq_buf_addc(&c->notes, '\n');
}

static int fail_shard(const struct ckpt *c, const char *name, size_t shards, const struct placed *p,
                      size_t lost, struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT,
               "'%s': shard %zu of %zu is not there: '%s'; with it %zu tensors are missing, the "
               "first is '%s'",
               aq_show(c->dir), c->file_count + 1, shards, aq_show(name), lost, aq_show(p->tensor));
    char *partial = xasprintf("%s.incomplete", name);
    if (has_file(c->dir, partial))
        aq_err_hint(err, "there is '%s': finish the download", aq_show(partial));
    free(partial);
    return -1;
}

/* One shard and the tensors that the index places in it: p[0..n-1]. */
static int open_shard(struct ckpt *c, const struct placed *p, size_t n, size_t shards,
                      struct aq_err *err)
{
    const char *name = aq_arena_strdup(&c->arena, p->file);
    if (!has_file(c->dir, name))
        return fail_shard(c, name, shards, p, n, err);
    char *path = aq_path_join(c->dir, name);
    struct st_file *f = &c->files[c->file_count];
    int r = st_open(f, path, err);
    free(path);
    if (r < 0)
        return -1;
    c->names[c->file_count] = name;
    uint32_t file = (uint32_t)c->file_count++;
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = st_find(f, p[i].tensor);
        if (!t)
            return aq_err_set(err, AQ_EINPUT,
                              "%s: tensor '%s' is missing, although " INDEX " places it there",
                              aq_show(f->path), aq_show(p[i].tensor));
        c->tensors[c->count++] = (struct ckpt_tensor){t, file};
    }
    return 0;
}

/* What the shards hold beyond the index. */
static int check_strays(struct ckpt *c, struct aq_err *err)
{
    size_t strays = 0;
    const char *first = NULL;
    for (size_t k = 0; k < c->file_count; k++)
        for (size_t i = 0; i < c->files[k].count; i++) {
            const char *name = c->files[k].tensors[i].name;
            const struct ckpt_tensor *t = ckpt_find(c, name);
            if (t && t->file != k)
                return aq_err_set(err, AQ_EINPUT, "'%s': tensor '%s' is in '%s' and in '%s'",
                                  aq_show(c->dir), aq_show(name), aq_show(c->names[t->file]),
                                  aq_show(c->names[k]));
            if (!t && strays++ == 0)
                first = name;
        }
    if (strays) {
        char *text = xasprintf("%s: %zu tensors that " INDEX " does not name are ignored, "
                               "the first is '%s'",
                               aq_show(c->dir), strays, aq_show(first));
        add_note(c, text);
        free(text);
    }
    return 0;
}

static int open_shards(struct ckpt *c, const struct index *x, const char *path, struct aq_err *err)
{
    size_t shards = 1;
    for (size_t i = 1; i < x->count; i++)
        shards += by_file(&x->entries[i - 1], &x->entries[i]) != 0;
    if (shards > CKPT_MAX_SHARDS)
        return aq_err_set(err, AQ_EINPUT, "%s: %zu shards, the limit is %d", aq_show(path), shards,
                          CKPT_MAX_SHARDS);
    c->files = xcalloc(shards, sizeof *c->files);
    c->names = xcalloc(shards, sizeof *c->names);
    c->tensors = xcalloc(x->count, sizeof *c->tensors);
    for (size_t from = 0, to; from < x->count; from = to) {
        for (to = from + 1; to < x->count && by_file(&x->entries[from], &x->entries[to]) == 0;)
            to++;
        if (open_shard(c, &x->entries[from], to - from, shards, err) < 0)
            return -1;
    }
    qsort(c->tensors, c->count, sizeof *c->tensors, compare_tensors);
    return check_strays(c, err);
}

static int open_sharded(struct ckpt *c, struct aq_err *err)
{
    struct index x = {NULL};
    char *path = aq_path_join(c->dir, INDEX);
    int r = -1;
    x.root = json_read_max(path, JSON_CONFIG_MAX, err);
    if (x.root && read_map(&x, path, err) == 0)
        r = open_shards(c, &x, path, err);
    release_index(&x);
    free(path);
    return r;
}

static int open_single(struct ckpt *c, struct aq_err *err)
{
    char *path = aq_path_join(c->dir, SINGLE);
    c->files = xcalloc(1, sizeof *c->files);
    c->names = xcalloc(1, sizeof *c->names);
    c->names[0] = SINGLE;
    int r = st_open(&c->files[0], path, err);
    free(path);
    if (r < 0)
        return -1;
    const struct st_file *f = &c->files[0];
    c->file_count = 1;
    c->count = f->count;
    c->tensors = xcalloc(f->count, sizeof *c->tensors);
    for (size_t i = 0; i < f->count; i++)
        c->tensors[i] = (struct ckpt_tensor){&f->tensors[f->names.sorted[i]], 0};
    return 0;
}

int ckpt_open(struct ckpt *c, const char *dir, struct aq_err *err)
{
    *c = (struct ckpt){.dir = NULL};
    if (check_directory(dir, err) < 0)
        return -1;
    c->dir = aq_arena_strdup(&c->arena, dir);
    bool single = has_file(dir, SINGLE), index = has_file(dir, INDEX);
    if (single && index)
        add_note(c, "both " SINGLE " and " INDEX " are there: " SINGLE " is taken");
    int r = single ? open_single(c, err) : index ? open_sharded(c, err) : fail_empty(dir, err);
    if (r < 0)
        ckpt_close(c);
    return r;
}

void ckpt_close(struct ckpt *c)
{
    for (size_t i = 0; i < c->file_count; i++)
        st_close(&c->files[i]);
    free(c->files);
    free(c->names);
    free(c->tensors);
    aq_buf_release(&c->notes);
    aq_arena_release(&c->arena);
    *c = (struct ckpt){.dir = NULL};
}

const struct ckpt_tensor *ckpt_find(const struct ckpt *c, const char *name)
{
    size_t lo = 0, hi = c->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int d = strcmp(name, c->tensors[mid].t->name);
        if (d == 0)
            return &c->tensors[mid];
        if (d < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}
