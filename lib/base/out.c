#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- temporaries and signals ---- */

enum { MAX_TEMPS = 64 };
static char *volatile temps[MAX_TEMPS]; /* read by the signal handler */
static pthread_mutex_t temps_lock = PTHREAD_MUTEX_INITIALIZER;

void aq_out_remove_temporaries(void)
{
    for (int i = 0; i < MAX_TEMPS; i++)
        if (temps[i])
            (void)unlink(temps[i]);
}

static void remove_temps_and_die(int sig)
{
    aq_out_remove_temporaries();
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

/* The longest part of a target's name in that of its temporary: names have a limit. */
enum { NAME_PART = 40 };

/* The n-th name that a temporary for this target may have. Caller frees. */
static char *temp_name(const char *path, int n)
{
    char *dir = aq_path_dir(path);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *temp = xasprintf("%s/.aq-%d-%.*s.tmp", dir, n, NAME_PART, name);
    free(dir);
    return temp;
}

/* Is the open file still the one of this name? */
static bool is_named(int fd, const char *path)
{
    struct stat open_file, named;
    return fstat(fd, &open_file) == 0 && lstat(path, &named) == 0 &&
           open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

/*
 * Whoever writes a temporary holds a lock on it until it has its final name. One that can be locked
 * was left by a process that was killed, and is removed. Only our own regular files are touched.
 */
static void remove_abandoned(const char *temp)
{
    struct stat st;
    int fd = open(temp, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && st.st_nlink == 1 &&
        flock(fd, LOCK_EX | LOCK_NB) == 0 && is_named(fd, temp))
        (void)unlink(temp);
    (void)close(fd);
}

/* 1: created and locked; 0: the name is taken; -1: cannot be (errno). */
static int create_temp(struct aq_out *o, char *temp)
{
    o->temp = temp;
    o->slot = register_temp(temp);
    o->fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    int error = errno;
    if (o->fd >= 0) {
        /* where locks do not exist, nobody takes the file for abandoned either */
        (void)flock(o->fd, LOCK_EX | LOCK_NB);
        if (is_named(o->fd, temp))
            return 1;
        (void)close(o->fd); /* somebody else removed it between open and lock */
        o->fd = -1;
        error = EEXIST;
    }
    forget_temp(o->slot); /* not ours to remove */
    o->slot = -1;
    o->temp = NULL;
    errno = error;
    return error == EEXIST ? 0 : -1;
}

/*
 * Several processes may write one target at a time, each to a temporary of its own; the names are
 * few and always the same, so that a later run finds what a killed one left.
 */
static int create_any_temp(struct aq_out *o)
{
    enum { SWEPT = 8, TRIES = 1000 };
    int r = 0;
    for (int i = 0; i < SWEPT; i++) {
        char *temp = temp_name(o->path, i);
        remove_abandoned(temp);
        free(temp);
    }
    for (int i = 0; i < TRIES && r == 0; i++) {
        char *temp = temp_name(o->path, i);
        r = create_temp(o, temp);
        if (r <= 0)
            free(temp);
    }
    return r;
}

static int open_temp(struct aq_out *o, struct aq_err *err)
{
    if (create_any_temp(o) <= 0) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(o->path));
        return aq_out_abort(o);
    }
    return 0;
}

/* The number in /dev/stdout and its like, which name a file that is open already; else -1. */
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

/* A file that is open already is written from its current position on, and never renamed over. */
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

static int check_not_input(const char *path, const struct stat *st, struct aq_err *err)
{
    if (!aq_is_input(st))
        return 0;
    return aq_err_set(err, AQ_EUSAGE, "cannot write '%s': it is an input of this run",
                      aq_show(path));
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
        if (check_not_input(path, &st, err) < 0)
            return -1;
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

int aq_out_write(struct aq_out *o, const void *p, size_t n, struct aq_err *err)
{
    const char *from = p;
    while (n) {
        ssize_t put = TEMP_FAILURE_RETRY(write(o->fd, from, n));
        if (put < 0)
            return aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(out_name(o)));
        from += put;
        n -= (size_t)put;
    }
    return 0;
}

void aq_out_push(const struct aq_out *o)
{
    (void)sync_file_range(o->fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint: commit looks at errors */
}

int aq_out_pwrite(struct aq_out *o, const void *p, size_t n, size_t at, struct aq_err *err)
{
    char name[300];
    (void)snprintf(name, sizeof name, "'%s'", aq_show(out_name(o)));
    return aq_pwrite_all(o->fd, p, n, at, name, err);
}

/* Below $AQ_SCRATCH, which a pipeline removes as soon as it has printed its plan: such a file need
   not outlive a power cut, and hundreds of syncs are most of the time that a plan takes. */
static bool is_scratch(const char *path)
{
    const char *dir = getenv("AQ_SCRATCH");
    size_t n = dir ? strlen(dir) : 0;
    return n && strncmp(path, dir, n) == 0 && path[n] == '/';
}

/* Under its final name, while the lock on the temporary is held. */
static int commit_temp(struct aq_out *o, struct aq_err *err)
{
    struct stat st;
    const bool synced = !is_scratch(o->path);
    int lock = fcntl(o->fd, F_DUPFD_CLOEXEC, 0), r = -1;
    if (lock < 0 || (synced && fsync(o->fd) < 0))
        goto fail;
    /* an input may have been opened since, or the temporary taken away */
    if (lstat(o->path, &st) == 0 && check_not_input(o->path, &st, err) < 0)
        goto out;
    if (!is_named(lock, o->temp)) {
        errno = ESTALE;
        goto fail;
    }
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) < 0 || rename(o->temp, o->path) < 0)
        goto fail;
    forget_temp(o->slot);
    free(o->temp);
    o->temp = NULL;
    if (synced)
        aq_sync_dir(o->path);
    r = 0;
    goto out;
fail:
    aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(o->path));
out:
    if (lock >= 0)
        (void)close(lock);
    return r;
}

int aq_out_commit(struct aq_out *o, struct aq_err *err)
{
    int r = 0;
    if (o->temp) {
        r = commit_temp(o, err);
    } else if (o->path) {
        int fd = o->fd;
        o->fd = -1;
        if (close(fd) < 0)
            r = aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(o->path));
    } /* standard output is closed and checked by aq_tool_main */
    (void)aq_out_abort(o);
    return r;
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

int aq_write_if_changed(const char *path, const void *p, size_t n, struct aq_err *err)
{
    if (path && strcmp(path, "-") != 0 && aq_file_equals(path, p, n))
        return 0;
    return aq_write_file(path, p, n, err);
}
