#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---- reading ---- */

/* Files that were opened as inputs: no product may replace one of them. */
static struct {
    bool guarded;
    pthread_mutex_t lock;
    struct file_id {
        dev_t dev;
        ino_t ino;
    } * items;
    size_t count, cap;
} inputs = {.lock = PTHREAD_MUTEX_INITIALIZER};

void aq_guard_inputs(void)
{
    inputs.guarded = true;
}

static void note_input(const struct stat *st)
{
    if (!inputs.guarded)
        return;
    (void)pthread_mutex_lock(&inputs.lock);
    AQ_GROW(inputs.items, inputs.count, inputs.cap);
    inputs.items[inputs.count++] = (struct file_id){st->st_dev, st->st_ino};
    (void)pthread_mutex_unlock(&inputs.lock);
}

void aq_rewrite_input(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return;
    (void)pthread_mutex_lock(&inputs.lock);
    for (size_t i = 0; i < inputs.count; i++)
        while (i < inputs.count && inputs.items[i].dev == st.st_dev &&
               inputs.items[i].ino == st.st_ino)
            inputs.items[i] = inputs.items[--inputs.count];
    (void)pthread_mutex_unlock(&inputs.lock);
}

bool aq_is_input(const struct stat *st)
{
    bool found = false;
    (void)pthread_mutex_lock(&inputs.lock);
    for (size_t i = 0; i < inputs.count && !found; i++)
        found = inputs.items[i].dev == st->st_dev && inputs.items[i].ino == st->st_ino;
    (void)pthread_mutex_unlock(&inputs.lock);
    return found;
}

/*
 * What can be read to its end. A pipe that was inherited (<(command), /dev/stdin) has no name of
 * its own in a file system; one that has would make the program wait for somebody to write. Of the
 * devices, most never end.
 */
static const char *unreadable(int fd, const struct stat *st)
{
    enum { PIPES = 0x50495045 }; /* PIPEFS_MAGIC of linux/magic.h */
    struct statfs fs;
    if (S_ISDIR(st->st_mode))
        return "a directory";
    if (S_ISFIFO(st->st_mode) && fstatfs(fd, &fs) == 0 && fs.f_type != PIPES)
        return "a named pipe";
    if (S_ISBLK(st->st_mode))
        return "a device";
    if (S_ISCHR(st->st_mode) && st->st_rdev != makedev(1, 3) && !isatty(fd)) /* 1, 3: /dev/null */
        return "a device";
    return NULL;
}

/* O_NONBLOCK: opening a named pipe would wait for its other end. It means nothing to files. */
static int open_to_read(const char *path, struct stat *st, struct aq_err *err)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot open '%s'", aq_show(path));
    if (fstat(fd, st) < 0 || (!S_ISREG(st->st_mode) && fcntl(fd, F_SETFL, 0) < 0)) {
        aq_err_sys(err, AQ_ERUN, "cannot examine '%s'", aq_show(path));
        (void)close(fd);
        return -1;
    }
    const char *what = unreadable(fd, st);
    if (what) {
        (void)close(fd);
        return aq_err_set(err, AQ_EINPUT, "'%s' is %s, expected a file", aq_show(path), what);
    }
    return fd;
}

int aq_open_input(const char *path, struct stat *st, struct aq_err *err)
{
    int fd = open_to_read(path, st, err);
    if (fd >= 0 && S_ISREG(st->st_mode))
        note_input(st);
    return fd;
}

ssize_t aq_read_some(int fd, void *p, size_t n)
{
    return TEMP_FAILURE_RETRY(read(fd, p, n));
}

int aq_pread_all(int fd, void *p, size_t n, uint64_t at, const char *name, struct aq_err *err)
{
    while (n) {
        ssize_t got = TEMP_FAILURE_RETRY(pread(fd, p, n, (off_t)at));
        if (got < 0)
            return aq_err_sys(err, AQ_ERUN, "cannot read %s at byte %" PRIu64, name, at);
        if (got == 0)
            return aq_err_set(err, AQ_ERUN,
                              "%s ended at byte %" PRIu64 ": changed while it was read", name, at);
        p = (char *)p + got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

int aq_pwrite_all(int fd, const void *p, size_t n, uint64_t at, const char *name,
                  struct aq_err *err)
{
    while (n) {
        ssize_t put = TEMP_FAILURE_RETRY(pwrite(fd, p, n, (off_t)at));
        if (put < 0)
            return aq_err_sys(err, AQ_ERUN, "cannot write %s", name);
        p = (const char *)p + put;
        at += (uint64_t)put;
        n -= (size_t)put;
    }
    return 0;
}

enum { READ_STEP = 65536 };

static int fail_size(const char *name, size_t max, struct aq_err *err)
{
    return aq_err_set(err, AQ_EINPUT, "'%s' is larger than the limit of %zu bytes", aq_show(name),
                      max);
}

static int read_all(int fd, const char *name, size_t max, struct aq_buf *out, struct aq_err *err)
{
    for (;;) {
        aq_buf_reserve(out, READ_STEP);
        ssize_t n = aq_read_some(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0)
            return aq_err_sys(err, AQ_ERUN, "cannot read '%s'", aq_show(name));
        if (n == 0)
            break;
        out->len += (size_t)n;
        if (out->len > max)
            return fail_size(name, max, err);
    }
    out->data[out->len] = '\0';
    return 0;
}

int aq_read_file(const char *path, size_t max, struct aq_buf *out, struct aq_err *err)
{
    if (strcmp(path, "-") == 0 && isatty(STDIN_FILENO))
        return aq_err_set(err, AQ_EUSAGE,
                          "standard input is a terminal: name a file, or pipe one in");
    if (strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "standard input", max, out, err);
    struct stat st;
    int fd = aq_open_input(path, &st, err);
    if (fd < 0)
        return -1;
    size_t size = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : 0;
    int r;
    if (size > max) {
        r = fail_size(path, max, err);
    } else {
        aq_buf_reserve(
            out, size + READ_STEP); /* one allocation, with room for the read that returns 0 */
        r = read_all(fd, path, max, out, err);
    }
    (void)close(fd);
    return r;
}

/* A mapped file was cut short by somebody, or its disk failed: the process cannot go on. */
static void die_of_lost_map(int sig)
{
    (void)sig;
    aq_out_remove_temporaries();
    aq_msg_line("a mapped file changed while it was read, or cannot be read");
    _exit(AQ_ERUN);
}

static void watch_maps(void)
{
    struct sigaction old, sa = {.sa_handler = die_of_lost_map};
    (void)sigemptyset(&sa.sa_mask);
    if (sigaction(SIGBUS, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        (void)sigaction(SIGBUS, &sa, NULL);
}

static int map_open(struct aq_map *m, const char *path, int fd, const struct stat *st,
                    struct aq_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const unsigned char nothing[1];
    *m = (struct aq_map){NULL, 0};
    if (fd < 0)
        return -1;
    if (!S_ISREG(st->st_mode)) {
        (void)close(fd);
        return aq_err_set(err, AQ_EINPUT, "'%s' is not a regular file", aq_show(path));
    }
    m->size = (size_t)st->st_size;
    m->data = nothing;
    if (m->size) {
        void *p = mmap(NULL, m->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            aq_err_sys(err, AQ_ERUN, "cannot map '%s'", aq_show(path));
            (void)close(fd);
            *m = (struct aq_map){NULL, 0};
            return -1;
        }
        m->data = p;
        (void)pthread_once(&once, watch_maps);
    }
    (void)close(fd);
    return 0;
}

int aq_map_open(struct aq_map *m, const char *path, struct aq_err *err)
{
    struct stat st;
    int fd = aq_open_input(path, &st, err);
    return map_open(m, path, fd, &st, err);
}

void aq_map_close(struct aq_map *m)
{
    if (m->data && m->size)
        (void)munmap((void *)m->data, m->size);
    *m = (struct aq_map){NULL, 0};
}

void aq_map_drop(const void *p, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)p + page - 1) / page * page, to = ((uintptr_t)p + n) / page * page;
    if (to > from) /* whole pages: the others hold bytes of the neighbours too */
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

bool aq_file_equals(const char *path, const void *p, size_t n)
{
    struct aq_map m;
    struct stat st;
    int fd = open_to_read(path, &st, NULL);
    if (fd < 0)
        return false;
    if (!S_ISREG(st.st_mode) || (size_t)st.st_size != n) {
        (void)close(fd);
        return false;
    }
    if (map_open(&m, path, fd, &st, NULL) < 0)
        return false;
    bool same = n == 0 || memcmp(m.data, p, n) == 0;
    aq_map_close(&m);
    return same;
}

/* ---- directories, locks, names ---- */

int aq_make_dirs(const char *path, struct aq_err *err)
{
    char *copy = xstrdup(path);
    for (char *p = copy + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char kept = *p;
        *p = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST) {
            aq_err_sys(err, AQ_ERUN, "cannot make directory '%s'", aq_show(copy));
            free(copy);
            return -1;
        }
        *p = kept;
        if (!kept)
            break;
    }
    free(copy);
    return 0;
}

/* Some file systems refuse this: not our failure. */
void aq_sync_dir(const char *path)
{
    char *dir = aq_path_dir(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(dir);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
}

int aq_lock_take(struct aq_lock *l, const char *path, struct aq_err *err)
{
    l->fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (l->fd < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot open lock file '%s'", aq_show(path));
    if (flock(l->fd, LOCK_EX | LOCK_NB) < 0) {
        bool busy = errno == EWOULDBLOCK;
        if (busy)
            aq_err_set(err, AQ_ERUN, "'%s' is in use by another process", aq_show(path));
        else
            aq_err_sys(err, AQ_ERUN, "cannot lock '%s'", aq_show(path));
        (void)close(l->fd);
        l->fd = -1;
        return -1;
    }
    return 0;
}

void aq_lock_release(struct aq_lock *l)
{
    if (l->fd >= 0)
        (void)close(l->fd);
    l->fd = -1;
}

char *aq_path_join(const char *dir, const char *name)
{
    if (name[0] == '/' || !*dir)
        return xstrdup(name);
    size_t n = strlen(dir);
    return xasprintf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

char *aq_path_dir(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return xstrdup(".");
    return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

int aq_log_open(const char *path, struct aq_err *err)
{
    /* a FIFO without a reader is an error, not a reason to wait */
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd < 0 || fcntl(fd, F_SETFL, O_APPEND) < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot write the log '%s'", aq_show(path));
    aq_msg_to(fd);
    return 0;
}

bool aq_path_ends(const char *path, const char *tail)
{
    size_t n = strlen(path), m = strlen(tail);
    return n >= m && strcmp(path + n - m, tail) == 0;
}

bool aq_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool aq_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}
