#include "model/lm_shapes.h"

#include "base/file.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "model/family.h"
#include "model/lm_config.h"

#include <stdlib.h>
#include <string.h>

/* All tensors of the language model, as published: in bf16, the layers below "model.". */
static int write_tensors(const struct lm_arch *arch, const char *dir, struct aq_err *err)
{
    size_t count;
    struct model_place *places = model_layout(arch, &count);
    struct aq_buf name = AQ_BUF_INIT;
    struct st_writer *w = st_writer_new();
    char *path = aq_path_join(dir, "model.safetensors");
    for (size_t i = 0; i < count; i++) {
        uint64_t shape[ST_MAX_RANK];
        int rank;
        model_place_describe(&places[i], arch, &name, &rank, shape);
        bool head = strcmp(name.data, "lm_head.weight") == 0;
        char *full = xasprintf("%s%s", head ? "" : "model.", name.data);
        (void)st_declare(w, full, ST_BF16, rank, shape);
        free(full);
    }
    int r = st_begin(w, path, err);
    if (r == 0)
        r = st_commit(w, err);
    st_writer_free(w);
    aq_buf_release(&name);
    free(places);
    free(path);
    return r;
}

static int write_shapes(const char *from, const char *to, const char *out, struct aq_err *err)
{
    struct aq_arena strings = AQ_ARENA_INIT;
    struct aq_buf text = AQ_BUF_INIT;
    struct lm_arch arch = {0};
    struct json *config = json_read_max(from, JSON_CONFIG_MAX, err);
    int r = config ? lm_config_read(&arch, config, from, &strings, err) : -1;
    if (r == 0)
        r = aq_make_dirs(out, err);
    if (r == 0)
        r = write_tensors(&arch, out, err);
    /* last: without it the directory is not a checkpoint */
    if (r == 0)
        r = aq_read_file(from, JSON_CONFIG_MAX, &text, err);
    if (r == 0)
        r = aq_write_file(to, aq_buf_str(&text), text.len, err);
    aq_buf_release(&text);
    json_free(config);
    aq_arena_release(&strings);
    return r;
}

int lm_shapes(const char *config_dir, const char *out, struct aq_err *err)
{
    char *from = aq_path_join(config_dir, "config.json"), *to = aq_path_join(out, "config.json");
    int r;
    if (aq_path_exists(to))
        r = aq_err_set(err, AQ_ERUN, "'%s' holds a checkpoint already", aq_show(out));
    else
        r = write_shapes(from, to, out, err);
    free(from);
    free(to);
    return r;
}
