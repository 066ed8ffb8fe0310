/*
 * Files. Reading: a read-only map or a bounded read. Writing: a temporary beside the target, then
 * fsync and rename, so that a file under its final name is complete; the temporary is removed on
 * every error and on SIGINT, SIGTERM, SIGHUP, and after kill -9 by the next run that writes the
 * same target.
 */
#ifndef AQ_BASE_FILE_H
#define AQ_BASE_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/*
 * An input, opened to be read: the descriptor, or -1. Never waits: a named pipe, a directory or a
 * device that has no end is AQ_EINPUT. A file that cannot be opened is AQ_ERUN.
 */
int aq_open_input(const char *path, struct stat *st, struct aq_err *err) AQ_MUST_CHECK;

/* From now on inputs are remembered: no product replaces one. For a process that is one run. */
void aq_guard_inputs(void);
bool aq_is_input(const struct stat *st);
/* But this one is rewritten in place: that is what the user asked for. */
void aq_rewrite_input(const char *path);

/* As read(2) and its like, but not ended by signals. Messages say `name` as it is. */
ssize_t aq_read_some(int fd, void *p, size_t n);
int aq_pread_all(int fd, void *p, size_t n, uint64_t at, const char *name,
                 struct aq_err *err) AQ_MUST_CHECK;
int aq_pwrite_all(int fd, const void *p, size_t n, uint64_t at, const char *name,
                  struct aq_err *err) AQ_MUST_CHECK;

/*
 * Reads a whole file (path "-": standard input) of at most max bytes; more is AQ_EINPUT.
 * A file that cannot be opened or read is AQ_ERUN.
 */
int aq_read_file(const char *path, size_t max, struct aq_buf *out,
                 struct aq_err *err) AQ_MUST_CHECK;

/*
 * A read-only map of a regular file. data is never NULL for an open map, even of an empty file. If
 * the file is cut short while it is mapped, touching the lost part ends the program with a message.
 */
struct aq_map {
    const unsigned char *data;
    size_t size;
};

int aq_map_open(struct aq_map *m, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void aq_map_close(struct aq_map *m);
/* Gives back the memory of a part of a map that was read; the system may still have it in its
   cache, and a later look at it works. */
void aq_map_drop(const void *p, size_t n);

/* Is this a file of these very bytes? Not an input by that. */
bool aq_file_equals(const char *path, const void *p, size_t n);

/*
 * A product while it is written, before it gets its final name. A path of NULL or "-" is standard
 * output; a device, a FIFO and /dev/fd/N are written directly; a symbolic link is followed. Large
 * products pwrite to out.fd.
 *
 *     struct aq_out out = AQ_OUT_INIT;
 *     if (aq_out_open(&out, path, err) < 0 || aq_out_write(&out, p, n, err) < 0 ||
 *         aq_out_commit(&out, err) < 0)
 *         return aq_out_abort(&out);       // -1; harmless after a commit
 */
struct aq_out {
    int fd;     /* -1 when closed */
    char *path; /* final name; NULL: standard output */
    char *temp; /* NULL when written directly */
    int slot;   /* in the table that the signal handler cleans */
};

#define AQ_OUT_INIT                                                                                \
    {                                                                                              \
        -1, NULL, NULL, -1                                                                         \
    }

int aq_out_open(struct aq_out *o, const char *path, struct aq_err *err) AQ_MUST_CHECK;
int aq_out_write(struct aq_out *o, const void *p, size_t n, struct aq_err *err) AQ_MUST_CHECK;
/* Starts writing to the disk what was written so far, so that a commit has less to wait for. */
void aq_out_push(const struct aq_out *o);
int aq_out_pwrite(struct aq_out *o, const void *p, size_t n, size_t at,
                  struct aq_err *err) AQ_MUST_CHECK;
int aq_out_commit(struct aq_out *o, struct aq_err *err) AQ_MUST_CHECK;
int aq_out_abort(struct aq_out *o);
void aq_out_remove_temporaries(void); /* of the whole process, which is about to end */

/* Open, write, commit in one; the usual way for JSON and text. */
int aq_write_file(const char *path, const void *p, size_t n, struct aq_err *err) AQ_MUST_CHECK;
/* The same, but an existing file with these very bytes is left alone, time stamp and all. */
int aq_write_if_changed(const char *path, const void *p, size_t n,
                        struct aq_err *err) AQ_MUST_CHECK;

/* Messages (base/msg.h) are appended to this file from now on. */
int aq_log_open(const char *path, struct aq_err *err) AQ_MUST_CHECK;

/* After a rename to path: make it survive a power cut. */
void aq_sync_dir(const char *path);

/* mkdir -p. */
int aq_make_dirs(const char *path, struct aq_err *err) AQ_MUST_CHECK;

/*
 * An exclusive lock on a lock file, held until aq_lock_release or the end of the process (kill -9
 * included). Busy is AQ_ERUN with a message that names the file.
 */
struct aq_lock {
    int fd;
};
int aq_lock_take(struct aq_lock *l, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void aq_lock_release(struct aq_lock *l);

/* Path pieces: both return memory that the caller frees. */
char *aq_path_join(const char *dir, const char *name); /* an absolute name wins */
char *aq_path_dir(const char *path);                   /* "." if there is no slash */
bool aq_path_exists(const char *path);
bool aq_path_ends(const char *path, const char *tail);
bool aq_is_directory(const char *path);

#endif
