/*
 * A directory that appears complete or not at all: made as NAME.part, renamed at the end. A part
 * left by a process that died is emptied and used again; it is known by a marker file, so that
 * nobody else's directory is touched. Two processes exclude each other by a lock on it.
 */
#ifndef AQ_EXPORT_DIRECTORY_H
#define AQ_EXPORT_DIRECTORY_H

#include "base/err.h"

struct out_dir {
    char *path, *part; /* final name, and where files go until then */
    int fd;            /* of the part, locked */
};

/* source must not be, hold or lie in the new directory, which must not exist. */
int out_dir_open(struct out_dir *d, const char *path, const char *source,
                 struct aq_err *err) AQ_MUST_CHECK;
int out_dir_commit(struct out_dir *d, struct aq_err *err) AQ_MUST_CHECK;
/* Removes an uncommitted part. Returns -1; harmless after a commit. */
int out_dir_abort(struct out_dir *d);

/*
 * Copies the files of a checkpoint that are not weights: all regular files of `source` but
 * config.json, weights in any format, their indices, and hidden files. A README.md is copied as
 * README.source.md, since the export has one of its own.
 */
int out_dir_copy_files(const struct out_dir *d, const char *source,
                       struct aq_err *err) AQ_MUST_CHECK;
int out_dir_write(const struct out_dir *d, const char *name, const char *text, unsigned long len,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
