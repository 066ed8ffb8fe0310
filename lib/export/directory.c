#include "export/directory.h"

#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARKER "aq-export.incomplete"

/* ---- where it may be ---- */

/* Path without symbolic links; its last part need not exist. NULL: its directory does not. */
static char *real_path(const char *path)
{
    char *whole = realpath(path, NULL);
    if (whole)
        return whole;
    char *dir = aq_path_dir(path), *real = realpath(dir, NULL), *joined = NULL;
    const char *name = strrchr(path, '/');
    if (real)
        joined = aq_path_join(real, name ? name + 1 : path);
    free(dir);
    free(real);
    return joined;
}

static bool inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0' || n == 1);
}

static int check_place(const char *path, const char *source, struct aq_err *err)
{
    struct stat st;
    char *target = real_path(path), *from = real_path(source);
    int r = 0;
    if (!target)
        r = aq_err_set(err, AQ_ERUN, "'%s': the directory that is to hold it does not exist",
                       aq_show(path));
    else if (from && inside(target, from))
        r = aq_err_set(err, AQ_EUSAGE, "'%s' is in the source checkpoint '%s'", aq_show(path),
                       aq_show(source));
    else if (lstat(path, &st) == 0)
        r = aq_err_set(err, AQ_ERUN, "'%s' exists already", aq_show(path));
    free(target);
    free(from);
    return r;
}

/* ---- the part ---- */

/* Removes the plain files of a directory. Others stay, and rmdir will fail. */
static void empty(int fd)
{
    int copy = dup(fd);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d) {
        if (copy >= 0)
            (void)close(copy);
        return;
    }
    rewinddir(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (strcmp(e->d_name, MARKER) != 0)
            (void)unlinkat(fd, e->d_name, 0);
    (void)closedir(d);
}

static bool is_empty(int fd)
{
    int copy = dup(fd), count = 0;
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d) {
        if (copy >= 0)
            (void)close(copy);
        return false;
    }
    rewinddir(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    (void)closedir(d);
    return count == 0;
}

static int take_part(struct out_dir *d, struct aq_err *err)
{
    bool made = mkdir(d->part, 0777) == 0;
    if (!made && errno != EEXIST)
        return aq_err_sys(err, AQ_ERUN, "cannot make '%s'", aq_show(d->part));
    d->fd = open(d->part, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->fd < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot open '%s'", aq_show(d->part));
    if (flock(d->fd, LOCK_EX | LOCK_NB) < 0)
        return aq_err_set(err, AQ_ERUN, "'%s' is being written by another process",
                          aq_show(d->part));
    if (!made && faccessat(d->fd, MARKER, F_OK, 0) < 0 && !is_empty(d->fd))
        return aq_err_set(err, AQ_ERUN, "'%s' exists and is not an unfinished export",
                          aq_show(d->part));
    int marker = openat(d->fd, MARKER, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (marker < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot write into '%s'", aq_show(d->part));
    (void)close(marker);
    if (!made)
        empty(d->fd);
    return 0;
}

int out_dir_open(struct out_dir *d, const char *path, const char *source, struct aq_err *err)
{
    *d = (struct out_dir){.fd = -1};
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (len == 0 || (len == 1 && *path == '/'))
        return aq_err_set(err, AQ_EUSAGE, "'%s' is not the name of a new directory", aq_show(path));
    d->path = xstrndup(path, len);
    d->part = xasprintf("%s.part", d->path);
    if (check_place(d->path, source, err) < 0 || take_part(d, err) < 0) {
        if (d->fd >= 0)
            (void)close(d->fd);
        d->fd = -1; /* not ours: nothing is removed */
        return out_dir_abort(d);
    }
    return 0;
}

int out_dir_abort(struct out_dir *d)
{
    if (d->fd >= 0) {
        empty(d->fd);
        (void)unlinkat(d->fd, MARKER, 0);
        (void)rmdir(d->part);
        (void)close(d->fd);
    }
    free(d->path);
    free(d->part);
    *d = (struct out_dir){.fd = -1};
    return -1;
}

int out_dir_commit(struct out_dir *d, struct aq_err *err)
{
    if (unlinkat(d->fd, MARKER, 0) < 0 || fsync(d->fd) < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot finish '%s'", aq_show(d->part));
    int r = renameat2(AT_FDCWD, d->part, AT_FDCWD, d->path, RENAME_NOREPLACE);
    if (r < 0 && (errno == EINVAL || errno == ENOSYS)) /* a file system without this flag */
        r = aq_path_exists(d->path) ? (errno = EEXIST, -1) : rename(d->part, d->path);
    if (r < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot rename '%s' to '%s'", aq_show(d->part),
                          aq_show(d->path));
    aq_sync_dir(d->path);
    (void)close(d->fd);
    d->fd = -1;
    return 0;
}

/* ---- files ---- */

static bool is_copied(const char *name)
{
    static const char *const tails[] = {".safetensors", ".index.json", ".bin",  ".pt",
                                        ".pth",         ".gguf",       ".onnx", ".incomplete",
                                        ".msgpack",     ".h5"};
    if (name[0] == '.' || strcmp(name, "config.json") == 0)
        return false;
    for (size_t i = 0; i < AQ_COUNT(tails); i++)
        if (aq_path_ends(name, tails[i]))
            return false;
    return true;
}

int out_dir_write(const struct out_dir *d, const char *name, const char *text, unsigned long len,
                  struct aq_err *err)
{
    char *path = aq_path_join(d->part, name);
    int r = aq_write_file(path, text, len, err);
    free(path);
    return r;
}

static int copy_file(const struct out_dir *d, const char *source, const char *name,
                     struct aq_err *err)
{
    enum { LIMIT = 1 << 30 };
    char *from = aq_path_join(source, name);
    struct aq_buf text = AQ_BUF_INIT;
    struct stat st;
    int r = 0;
    if (stat(from, &st) == 0 && S_ISREG(st.st_mode)) {
        r = aq_read_file(from, LIMIT, &text, err);
        if (r == 0)
            r = out_dir_write(d, strcmp(name, "README.md") == 0 ? "README.source.md" : name,
                              aq_buf_str(&text), text.len, err);
    }
    aq_buf_release(&text);
    free(from);
    return r;
}

int out_dir_copy_files(const struct out_dir *d, const char *source, struct aq_err *err)
{
    struct dirent **list = NULL;
    int n = scandir(source, &list, NULL, alphasort), r = 0;
    if (n < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot read '%s'", aq_show(source));
    for (int i = 0; i < n; i++) {
        if (r == 0 && is_copied(list[i]->d_name))
            r = copy_file(d, source, list[i]->d_name, err);
        free(list[i]);
    }
    free(list);
    return r;
}
