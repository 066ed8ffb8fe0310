#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ---- */

static int open_for_reading(const char *path, struct stat *st, struct aq_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot open '%s'", aq_show(path));
    if (fstat(fd, st) < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot examine '%s'", aq_show(path));
        (void)close(fd);
        return -1;
    }
    if (S_ISDIR(st->st_mode)) {
        (void)close(fd);
        return aq_err_set(err, AQ_EINPUT, "'%s' is a directory, expected a file", aq_show(path));
    }
    return fd;
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
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
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
    int fd = open_for_reading(path, &st, err);
    if (fd < 0)
        return -1;
    size_t size = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : 0;
    int r;
    if (size > max) {
        r = fail_size(path, max, err);
    } else {
        aq_buf_reserve(out, size + READ_STEP); /* in one piece, the read that finds the end too */
        r = read_all(fd, path, max, out, err);
    }
    (void)close(fd);
    return r;
}

static void watch_maps(void);

int aq_map_open(struct aq_map *m, const char *path, struct aq_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const unsigned char nothing[1];
    struct stat st;
    *m = (struct aq_map){NULL, 0};
    int fd = open_for_reading(path, &st, err);
    if (fd < 0)
        return -1;
    if (!S_ISREG(st.st_mode)) {
        (void)close(fd);
        return aq_err_set(err, AQ_EINPUT, "'%s' is not a regular file", aq_show(path));
    }
    m->size = (size_t)st.st_size;
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

void aq_map_close(struct aq_map *m)
{
    if (m->data && m->size)
        (void)munmap((void *)m->data, m->size);
    *m = (struct aq_map){NULL, 0};
}

/* ---- temporaries and signals ---- */

enum { MAX_TEMPS = 64 };
static char *volatile temps[MAX_TEMPS]; /* read by the signal handler */
static pthread_mutex_t temps_lock = PTHREAD_MUTEX_INITIALIZER;

static void remove_temps(void)
{
    for (int i = 0; i < MAX_TEMPS; i++)
        if (temps[i])
            (void)unlink(temps[i]);
}

static void remove_temps_and_die(int sig)
{
    remove_temps();
    /* SA_RESETHAND put the default action back: the parent sees the true cause of death. */
    (void)raise(sig);
}

static void install_handlers(void)
{
    static const int fatal[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa = {.sa_handler = remove_temps_and_die, .sa_flags = (int)SA_RESETHAND};
    (void)sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < AQ_COUNT(fatal); i++) {
        struct sigaction old;
        /* nohup and background jobs ignore some of these on purpose */
        if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            (void)sigaction(fatal[i], &sa, NULL);
    }
}

/* A mapped file was cut short by somebody, or its disk failed: there is no way to go on. */
static void die_of_lost_map(int sig)
{
    (void)sig;
    remove_temps();
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

static int register_temp(char *path)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, install_handlers);
    int slot = -1;
    (void)pthread_mutex_lock(&temps_lock);
    for (int i = 0; i < MAX_TEMPS && slot < 0; i++)
        if (!temps[i]) {
            temps[i] = path;
            slot = i;
        }
    (void)pthread_mutex_unlock(&temps_lock);
    return slot;
}

static void forget_temp(int slot)
{
    if (slot >= 0)
        temps[slot] = NULL;
}

/* ---- writing ---- */

static const char *out_name(const struct aq_out *o)
{
    return o->path ? o->path : "standard output";
}

static int open_direct(struct aq_out *o, struct aq_err *err)
{
    o->fd = open(o->path, O_WRONLY | O_CLOEXEC);
    if (o->fd < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot open '%s' for writing", aq_show(o->path));
        return aq_out_abort(o);
    }
    return 0;
}

/*
 * A name of its own beside the target, even against a process of the same number on another host:
 * never a file that is there. It is short, since the target's name may be as long as names can be.
 */
static void create_temp(struct aq_out *o)
{
    enum { TRIES = 1000 }; /* leftovers of killed runs are in the way, and harmless */
    char *dir = aq_path_dir(o->path);
    const char *slash = strrchr(o->path, '/'), *name = slash ? slash + 1 : o->path;
    for (int i = 0; i < TRIES && o->fd < 0; i++) {
        o->temp = xasprintf("%s/.aq-%ld-%d-%.40s.tmp", dir, (long)getpid(), i, name);
        o->slot = register_temp(o->temp);
        o->fd = open(o->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (o->fd >= 0)
            break;
        int error = errno;
        forget_temp(o->slot); /* not ours to remove */
        o->slot = -1;
        free(o->temp);
        o->temp = NULL;
        errno = error;
        if (error != EEXIST)
            break;
    }
    free(dir);
}

static int open_temp(struct aq_out *o, struct aq_err *err)
{
    create_temp(o);
    if (o->fd < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(o->path));
        return aq_out_abort(o);
    }
    return 0;
}

/* The number in /dev/stdout and its like, which stand for a file that is open already; else -1. */
static int inherited_fd(const char *path)
{
    static const char *const prefixes[] = {"/dev/fd/", "/proc/self/fd/"};
    int64_t n;
    if (strcmp(path, "/dev/stdout") == 0)
        return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0)
        return STDERR_FILENO;
    for (size_t i = 0; i < AQ_COUNT(prefixes); i++) {
        size_t len = strlen(prefixes[i]);
        if (strncmp(path, prefixes[i], len) == 0 && aq_parse_i64(path + len, &n) && n >= 0 &&
            n <= INT_MAX)
            return (int)n;
    }
    return -1;
}

/* A file that is open already is written on from where it stands, and never renamed over. */
static int open_inherited(struct aq_out *o, const char *path, int fd, struct aq_err *err)
{
    o->path = xstrdup(path);
    o->fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (o->fd < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(path));
        return aq_out_abort(o);
    }
    return 0;
}

static bool is_link(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

int aq_out_open(struct aq_out *o, const char *path, struct aq_err *err)
{
    *o = (struct aq_out)AQ_OUT_INIT;
    if (!path || strcmp(path, "-") == 0) {
        o->fd = STDOUT_FILENO;
        return 0;
    }
    struct stat st;
    int inherited = inherited_fd(path);
    if (inherited >= 0)
        return open_inherited(o, path, inherited, err);
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return aq_err_set(err, AQ_ERUN, "cannot write '%s': it is a directory", aq_show(path));
        /* what a link names is replaced, not the link */
        o->path = is_link(path) ? realpath(path, NULL) : xstrdup(path);
        if (!o->path)
            return aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(path));
        return S_ISREG(st.st_mode) ? open_temp(o, err) : open_direct(o, err);
    }
    if (is_link(path))
        return aq_err_set(err, AQ_ERUN, "cannot write '%s': a symbolic link to nowhere",
                          aq_show(path));
    o->path = xstrdup(path);
    return open_temp(o, err);
}

/* At an offset, or with -1 where the file stands. */
static int write_all(struct aq_out *o, const char *p, size_t n, off_t at, struct aq_err *err)
{
    while (n) {
        ssize_t w = at < 0 ? write(o->fd, p, n) : pwrite(o->fd, p, n, at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(out_name(o)));
        p += w;
        n -= (size_t)w;
        if (at >= 0)
            at += w;
    }
    return 0;
}

int aq_out_write(struct aq_out *o, const void *p, size_t n, struct aq_err *err)
{
    return write_all(o, p, n, -1, err);
}

int aq_out_pwrite(struct aq_out *o, const void *p, size_t n, size_t offset, struct aq_err *err)
{
    return write_all(o, p, n, (off_t)offset, err);
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

int aq_out_commit(struct aq_out *o, struct aq_err *err)
{
    int fd = o->fd;
    o->fd = -1;
    if (fd == STDOUT_FILENO && !o->path)
        return 0; /* closed and checked by aq_tool_main */
    if (o->temp && fsync(fd) < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(o->path));
        (void)close(fd);
        return aq_out_abort(o);
    }
    if (close(fd) < 0 || (o->temp && rename(o->temp, o->path) < 0)) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(o->path));
        return aq_out_abort(o);
    }
    if (o->temp) {
        forget_temp(o->slot);
        aq_sync_dir(o->path);
        free(o->temp);
        o->temp = NULL;
    }
    aq_out_abort(o);
    return 0;
}

int aq_out_abort(struct aq_out *o)
{
    if (o->fd >= 0 && (o->path || o->fd != STDOUT_FILENO))
        (void)close(o->fd);
    if (o->temp) {
        (void)unlink(o->temp);
        forget_temp(o->slot);
    }
    free(o->temp);
    free(o->path);
    *o = (struct aq_out)AQ_OUT_INIT;
    return -1;
}

int aq_write_file(const char *path, const void *p, size_t n, struct aq_err *err)
{
    struct aq_out o;
    if (aq_out_open(&o, path, err) < 0 || aq_out_write(&o, p, n, err) < 0 ||
        aq_out_commit(&o, err) < 0)
        return aq_out_abort(&o);
    return 0;
}

static bool file_equals(const char *path, const void *p, size_t n)
{
    struct aq_map m;
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size != n)
        return false;
    if (aq_map_open(&m, path, NULL) < 0)
        return false;
    bool same = m.size == n && memcmp(m.data, p, n) == 0;
    aq_map_close(&m);
    return same;
}

int aq_write_if_changed(const char *path, const void *p, size_t n, struct aq_err *err)
{
    if (path && strcmp(path, "-") != 0 && file_equals(path, p, n))
        return 0;
    return aq_write_file(path, p, n, err);
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

int aq_lock_take(struct aq_lock *l, const char *path, struct aq_err *err)
{
    l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
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
