/*
 * store_seal STORE: makes the checks of all cells and the digest of the header anew, whatever they
 * cover. For tests of stores that say impossible things without being damaged.
 */
#include "base/mem.h"
#include "base/opt.h"
#include "store/store_check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int seal_row(const struct store *s, const struct store_row *r, int fd, struct aq_err *err)
{
    for (int64_t layer = 0; layer < s->shape.layers; layer++)
        for (int64_t tile = 0; tile < s->shape.tiles; tile++) {
            size_t cell = (size_t)(layer * s->shape.tiles + tile);
            struct store_cell c = store_cell_of(s, r, layer, tile);
            uint64_t check = r->have[cell] ? store_cell_check(&r->key, layer, tile, &c) : 0;
            size_t at = (size_t)((const unsigned char *)r->check - s->file.map.data) + cell * 8;
            if (aq_pwrite_all(fd, &check, 8, at, "the store", err) < 0)
                return -1;
        }
    return 0;
}

/* One tensor "s/..." with what belongs to it. */
static int seal_tensor(struct store *s, const struct st_tensor *t, int fd, struct aq_err *err)
{
    char name[64];
    struct store_row r = {0};
    for (int p = 0; p < STORE_PARTS; p++) {
        (void)snprintf(name, sizeof name, "%s%s", store_part_kinds[p].name, t->name + 1);
        const struct st_tensor *part = st_find(&s->file, name);
        if (part)
            r.parts[p] = part->data;
        else if (!store_part_kinds[p].gradient)
            return 0; /* not a row */
    }
    const void **const marks[] = {(const void **)&r.have, &r.check};
    static const char *const kinds[] = {"have", "check"};
    for (size_t i = 0; i < AQ_COUNT(kinds); i++) {
        (void)snprintf(name, sizeof name, "%s%s", kinds[i], t->name + 1);
        const struct st_tensor *other = st_find(&s->file, name);
        if (!other)
            return 0;
        *marks[i] = other->data;
    }
    memcpy(r.key.id, t->name + 2, TREATMENT_ID - 1);
    r.key.prefix = atoll(t->name + 2 + TREATMENT_ID);
    return seal_row(s, &r, fd, err);
}

static int seal_header(const struct store *s, int fd, struct aq_err *err)
{
    struct store_header h;
    char digest[AQ_SHA256_HEX];
    if (store_header_of(s, &h, err) < 0)
        return -1;
    store_header_digest(&h, digest);
    return aq_pwrite_all(fd, digest, sizeof digest - 1, (uint64_t)(h.digits - h.bytes), "the store",
                         err);
}

static int seal(const char *path, struct aq_err *err)
{
    struct store s = {0};
    struct jref root;
    int fd = open(path, O_RDWR | O_CLOEXEC), r = -1;
    if (fd < 0 || st_open(&s.file, path, err) < 0)
        return aq_err_set(err, AQ_ERUN, "cannot open '%s'", path);
    s.path = xstrdup(path);
    const char *text = st_meta(&s.file, "aq");
    s.meta = text ? json_parse(text, strlen(text), "metadata", err) : NULL;
    root = jref_root(s.meta, "metadata");
    const struct st_tensor *first = st_find(&s.file, "tile_first");
    if (s.meta && first && model_groups_read(&s.model, &root, err) == 0) {
        s.shape.layers = s.model.layers;
        s.shape.tiles = (int64_t)first->shape[0] - 1;
        s.tile_first = xcalloc(first->shape[0], sizeof *s.tile_first);
        memcpy(s.tile_first, first->data, first->shape[0] * sizeof *s.tile_first);
        s.shape.samples = s.tile_first[s.shape.tiles];
        r = 0;
    }
    bool cells = r == 0 && s.tile_first[0] == 0;
    for (size_t i = 0; i < s.file.count && r == 0 && cells; i++)
        if (strncmp(s.file.tensors[i].name, "s/", 2) == 0)
            r = seal_tensor(&s, &s.file.tensors[i], fd, err);
    if (r == 0)
        r = seal_header(&s, fd, err);
    (void)close(fd);
    store_close(&s);
    return r;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    return seal(cl->args[0], err);
}

int main(int argc, char **argv)
{
    static const struct aq_tool tool = {.name = "store_seal",
                                        .summary = "new checks and digest for a store",
                                        .usage = "store_seal STORE",
                                        .example = "store_seal s",
                                        .min_args = 1,
                                        .max_args = 1,
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
