#include "score/kept.h"

#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct kept {
    struct backend *b;
    size_t bytes, total;
    char *memory; /* NULL: spilled */
    int fd;
    void *host; /* one state, while it is copied to or from the file */
};

/* A file without a name: gone with the process, whatever ends it. */
static int open_unlinked(const char *dir, struct aq_err *err)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    char *name = xasprintf("%s/.aq-spill-XXXXXX", dir);
    fd = mkstemp(name);
    if (fd < 0)
        aq_err_sys(err, AQ_ERUN, "cannot make a spill file in '%s'", aq_show(dir));
    else
        (void)unlink(name);
    free(name);
    return fd;
}

int kept_new(struct kept **out, struct backend *b, int64_t slots, size_t bytes, uint64_t limit,
             const char *dir, struct aq_err *err)
{
    struct kept *k = xcalloc(1, sizeof *k);
    *out = NULL;
    k->b = b;
    k->bytes = bytes;
    k->fd = -1;
    if (!aq_mul((size_t)slots, bytes, &k->total)) {
        free(k);
        return aq_err_set(err, AQ_ERUN, "too many kept states");
    }
    if (k->total <= limit) {
        k->memory = b->ops->alloc(b, k->total, "kept layer inputs", err);
    } else {
        k->host = xmalloc(bytes);
        k->fd = open_unlinked(dir, err);
    }
    if (!k->memory && k->fd < 0) {
        kept_free(k);
        return -1;
    }
    *out = k;
    return 0;
}

void kept_free(struct kept *k)
{
    if (!k)
        return;
    if (k->memory)
        k->b->ops->free(k->b, k->memory, k->total);
    if (k->fd >= 0)
        (void)close(k->fd);
    free(k->host);
    free(k);
}

void *kept_get(struct kept *k, int64_t slot, void *scratch, struct aq_err *err)
{
    if (k->memory)
        return k->memory + (size_t)slot * k->bytes;
    if (aq_pread_all(k->fd, k->host, k->bytes, (uint64_t)slot * k->bytes, "spilled layer inputs",
                     err) < 0)
        return NULL;
    k->b->ops->upload(k->b, scratch, k->host, k->bytes);
    return k->b->ops->sync(k->b, err) < 0 ? NULL : scratch; /* host is used again */
}

void *kept_place(struct kept *k, int64_t slot, void *scratch)
{
    return k->memory ? k->memory + (size_t)slot * k->bytes : scratch;
}

int kept_put(struct kept *k, int64_t slot, const void *p, struct aq_err *err)
{
    if (k->memory) {
        void *own = k->memory + (size_t)slot * k->bytes;
        if (own != p)
            k->b->ops->copy(k->b, own, p, k->bytes);
        return 0;
    }
    if (k->b->ops->download(k->b, k->host, p, k->bytes, err) < 0)
        return -1;
    return aq_pwrite_all(k->fd, k->host, k->bytes, (uint64_t)slot * k->bytes,
                         "spilled layer inputs", err);
}
