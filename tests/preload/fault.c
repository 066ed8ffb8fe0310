/*
 * Faults on demand, by LD_PRELOAD. Environment:
 *
 *   FAULT=CALL:ERROR:N[:forever]   the N-th CALL fails with ERROR (ENOSPC, EIO, ...), or from then
 * on FAULT=CALL:short:N[:forever]   read and write transfer one byte FAULT=kill:9:N the process
 * dies before its N-th call of those that change files FAULT_DIR=DIR                  only files
 * below DIR count (calls without a file always do) FAULT_REPORT=FILE              at the end, "CALL
 * COUNT" lines and "fired COUNT"; loops raise N until nothing fires any more FAULT_LOG=FILE a line
 * for each call that counts, in their order: "pwrite PATH AT BYTES", "fsync PATH", "rename TO"
 *
 * Several faults are separated by commas. Calls that the C library makes inside itself (stdio's
 * writes) do not pass here. Standard error never fails: messages must come through.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum call {
    READ,
    WRITE,
    PWRITE,
    OPEN,
    CLOSE,
    FSYNC,
    FTRUNCATE,
    RENAME,
    UNLINK,
    MKDIR,
    MMAP,
    MALLOC,
    CALLOC,
    REALLOC,
    MEMALIGN,
    THREAD,
    CALLS
};

static const char *const names[CALLS] = {
    "read",   "write", "pwrite", "open",   "close",  "fsync",   "ftruncate", "rename",
    "unlink", "mkdir", "mmap",   "malloc", "calloc", "realloc", "memalign",  "thread",
};

enum { SHORT = -1, KILL = -2, MAX_FAULTS = 8 };

static struct fault {
    int call; /* CALLS: any that changes files */
    int error;
    unsigned long at;
    bool forever;
} faults[MAX_FAULTS];
static int fault_count;
static unsigned long seen[CALLS], changes, fired;
static char dir[PATH_MAX];
static bool ready;
static int log_fd = -1;

/* ---- the environment ---- */

static int error_number(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO},       {"EDQUOT", EDQUOT}, {"EXDEV", EXDEV},
                  {"EINTR", EINTR},   {"EMFILE", EMFILE}, {"ENOMEM", ENOMEM}, {"EACCES", EACCES},
                  {"EROFS", EROFS},   {"EFBIG", EFBIG},   {"EAGAIN", EAGAIN}, {"EPERM", EPERM},
                  {"0", ENOMEM},      {"short", SHORT},   {"9", KILL}};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strcmp(errors[i].name, name) == 0)
            return errors[i].number;
    (void)fprintf(stderr, "fault: unknown error '%s'\n", name);
    _exit(99);
}

static int call_number(const char *name)
{
    for (int i = 0; i < CALLS; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    if (strcmp(name, "kill") == 0)
        return CALLS;
    (void)fprintf(stderr, "fault: unknown call '%s'\n", name);
    _exit(99);
}

static void parse_faults(const char *text)
{
    char copy[1000], *rest = copy, *one;
    (void)snprintf(copy, sizeof copy, "%s", text);
    while ((one = strsep(&rest, ",")) && fault_count < MAX_FAULTS) {
        const char *call = strsep(&one, ":"), *error = strsep(&one, ":"), *at = strsep(&one, ":");
        if (!call || !error || !at) {
            (void)fprintf(stderr, "fault: expected CALL:ERROR:N\n");
            _exit(99);
        }
        faults[fault_count++] =
            (struct fault){call_number(call), error_number(error), strtoul(at, NULL, 10),
                           one && strcmp(one, "forever") == 0};
    }
}

static void report(void)
{
    const char *path = getenv("FAULT_REPORT");
    ready = false;
    FILE *f = path ? fopen(path, "w") : NULL;
    if (!f)
        return;
    for (int i = 0; i < CALLS; i++)
        (void)fprintf(f, "%s %lu\n", names[i], seen[i]);
    (void)fprintf(f, "changes %lu\nfired %lu\n", changes, fired);
    (void)fclose(f);
}

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("FAULT"), *only = getenv("FAULT_DIR");
    if (text)
        parse_faults(text);
    if (only && !realpath(only, dir))
        dir[0] = '\0';
    const char *log = getenv("FAULT_LOG");
    if (log)
        log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    (void)atexit(report);
    ready = true;
}

/* ---- does this call count, and does it fail? ---- */

static bool below_dir(const char *path)
{
    char full[PATH_MAX * 2];
    if (!dir[0])
        return true;
    if (path[0] == '/') {
        (void)snprintf(full, sizeof full, "%s", path);
    } else {
        if (!getcwd(full, PATH_MAX))
            return false;
        size_t n = strlen(full);
        (void)snprintf(full + n, sizeof full - n, "/%s", path);
    }
    size_t n = strlen(dir);
    return strncmp(full, dir, n) == 0 && (full[n] == '/' || full[n] == '\0');
}

/* The name of an open file; false: it has none. */
static bool fd_path(int fd, char path[PATH_MAX])
{
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = '\0';
    return n >= 0;
}

static bool fd_counts(int fd)
{
    char path[PATH_MAX];
    if (fd == STDERR_FILENO)
        return false;
    return !dir[0] || (fd_path(fd, path) && below_dir(path));
}

/* at < 0: the call has no place and no size. */
static void note(const char *call, int fd, off_t at, size_t n)
{
    char path[PATH_MAX];
    if (log_fd < 0 || !fd_counts(fd) || !fd_path(fd, path))
        return;
    if (at < 0)
        (void)dprintf(log_fd, "%s %s\n", call, path);
    else
        (void)dprintf(log_fd, "%s %s %jd %zu\n", call, path, (intmax_t)at, n);
}

/* 0: go on; SHORT; else the errno to fail with. */
static int verdict(enum call c, bool counts)
{
    if (!ready || !counts)
        return 0;
    unsigned long n = __atomic_add_fetch(&seen[c], 1, __ATOMIC_RELAXED), m = 0;
    bool changing = c == WRITE || c == PWRITE || c == FSYNC || c == FTRUNCATE || c == RENAME ||
                    c == UNLINK || c == MKDIR || c == CLOSE;
    if (changing)
        m = __atomic_add_fetch(&changes, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < fault_count; i++) {
        const struct fault *f = &faults[i];
        if (f->call == CALLS ? !changing || m != f->at
                             : f->call != (int)c || (f->forever ? n < f->at : n != f->at))
            continue;
        (void)__atomic_add_fetch(&fired, 1, __ATOMIC_RELAXED);
        if (f->error == KILL)
            (void)raise(SIGKILL);
        if (f->error != SHORT)
            errno = f->error;
        return f->error;
    }
    return 0;
}

static void *next_function(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f)
        abort();
    return f;
}

/* The function that is being replaced, looked up once. */
#define NEXT(name)                                                                                 \
    static __typeof__(name) *next;                                                                 \
    if (!next)                                                                                     \
    next = (__typeof__(name) *)next_function(#name)

/* ---- files ---- */

ssize_t read(int fd, void *p, size_t n)
{
    NEXT(read);
    int v = verdict(READ, fd_counts(fd));
    return v > 0 ? -1 : next(fd, p, v == SHORT && n ? 1 : n);
}

ssize_t write(int fd, const void *p, size_t n)
{
    NEXT(write);
    int v = verdict(WRITE, fd_counts(fd));
    return v > 0 ? -1 : next(fd, p, v == SHORT && n ? 1 : n);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    NEXT(pwrite);
    note("pwrite", fd, at, n);
    int v = verdict(PWRITE, fd_counts(fd));
    return v > 0 ? -1 : next(fd, p, v == SHORT && n ? 1 : n, at);
}

static mode_t mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(ap, int) : 0;
}

int open(const char *path, int flags, ...)
{
    NEXT(open);
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_of(flags, ap);
    va_end(ap);
    return verdict(OPEN, below_dir(path)) > 0 ? -1 : next(path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of an open without a mode. */
int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags)
{
    return open(path, flags);
}

int close(int fd)
{
    NEXT(close);
    int v = verdict(CLOSE, fd_counts(fd)), error = errno;
    int result = next(fd); /* Linux closes it whatever it reports */
    if (v > 0)
        errno = error;
    return v > 0 ? -1 : result;
}

int fsync(int fd)
{
    NEXT(fsync);
    note("fsync", fd, -1, 0);
    return verdict(FSYNC, fd_counts(fd)) > 0 ? -1 : next(fd);
}

int fdatasync(int fd)
{
    NEXT(fdatasync);
    note("fsync", fd, -1, 0);
    return verdict(FSYNC, fd_counts(fd)) > 0 ? -1 : next(fd);
}

int ftruncate(int fd, off_t size)
{
    NEXT(ftruncate);
    return verdict(FTRUNCATE, fd_counts(fd)) > 0 ? -1 : next(fd, size);
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    if (log_fd >= 0 && below_dir(to))
        (void)dprintf(log_fd, "rename %s\n", to);
    return verdict(RENAME, below_dir(to)) > 0 ? -1 : next(from, to);
}

int unlink(const char *path)
{
    NEXT(unlink);
    return verdict(UNLINK, below_dir(path)) > 0 ? -1 : next(path);
}

int mkdir(const char *path, mode_t mode)
{
    NEXT(mkdir);
    return verdict(MKDIR, below_dir(path)) > 0 ? -1 : next(path, mode);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    NEXT(mmap);
    return verdict(MMAP, fd < 0 || fd_counts(fd)) > 0 ? MAP_FAILED
                                                      : next(at, n, protection, flags, fd, offset);
}

/* ---- memory and threads; dlsym itself allocates, so the C library is called by its inner names
 * ---- */

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);

void *malloc(size_t n)
{
    return verdict(MALLOC, true) > 0 ? NULL : __libc_malloc(n);
}

void *calloc(size_t count, size_t size)
{
    return verdict(CALLOC, true) > 0 ? NULL : __libc_calloc(count, size);
}

void *realloc(void *p, size_t n)
{
    return verdict(REALLOC, true) > 0 ? NULL : __libc_realloc(p, n);
}

int posix_memalign(void **out, size_t alignment, size_t n)
{
    if (verdict(MEMALIGN, true) > 0)
        return ENOMEM;
    *out = __libc_memalign(alignment, n);
    return *out ? 0 : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t n)
{
    return verdict(MEMALIGN, true) > 0 ? NULL : __libc_memalign(alignment, n);
}

int pthread_create(pthread_t *restrict t, const pthread_attr_t *restrict a, void *(*f)(void *),
                   void *restrict arg)
{
    NEXT(pthread_create);
    return verdict(THREAD, true) > 0 ? EAGAIN : next(t, a, f, arg);
}
