/*
 * safetensors: a strict mapped reader for single files and sharded checkpoints, and a streaming
 * writer. The reader trusts nothing: header length, offsets, overlap, holes, dtype against size,
 * duplicate names and shape overflow are all checked before a byte of data is handed out.
 *
 * Stricter than the reference: blanks before the header, duplicate names, more than ST_MAX_RANK
 * dimensions and names longer than ST_MAX_NAME are refused. Unknown keys of a tensor entry are
 * ignored, as there.
 */
#ifndef AQ_IO_SAFETENSORS_H
#define AQ_IO_SAFETENSORS_H

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/names.h"
#include "base/num.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum st_dtype {
    ST_BOOL,
    ST_U8,
    ST_I8,
    ST_F8_E4M3,
    ST_F8_E5M2,
    ST_I16,
    ST_U16,
    ST_F16,
    ST_BF16,
    ST_I32,
    ST_U32,
    ST_F32,
    ST_I64,
    ST_U64,
    ST_F64,
    ST_OTHER, /* valid, sized, but not for computing: the name is kept for messages */
};

enum {
    ST_MAX_RANK = 8,
    ST_MAX_NAME = 1024,
    ST_MAX_TENSORS = 1000000,
    ST_MAX_HEADER = 100000000,
};

struct st_tensor {
    const char *name; /* borrowed from the file */
    enum st_dtype dtype;
    char dtype_name[16]; /* as in the file: "BF16" */
    int rank;
    uint64_t shape[ST_MAX_RANK];
    uint64_t elements;
    uint64_t begin, end; /* byte range in the file, not in the data buffer */
    const void *data;    /* into the map: any alignment */
};

struct st_file {
    char *path;
    struct aq_map map;
    struct st_tensor *tensors; /* in the order of their offsets */
    struct aq_names names;     /* theirs */
    size_t count;
    struct json *metadata; /* object of strings, or NULL */
    struct json *header;   /* owns the names */
    bool borrowed;         /* opened on memory: nothing to unmap */
};

size_t st_dtype_bits(enum st_dtype t); /* 0 for ST_OTHER */
const char *st_dtype_text(enum st_dtype t);
/* Of F32, BF16 and F16 alone. */
enum num_type st_num_type(enum st_dtype t);
/* The dtype of this name; false for a name that the format does not know. */
bool st_dtype_parse(const char *name, enum st_dtype *out);

int st_open(struct st_file *f, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* The same on memory that outlives f; name is for messages. */
int st_open_memory(struct st_file *f, const void *bytes, size_t size, const char *name,
                   struct aq_err *err) AQ_MUST_CHECK;
void st_close(struct st_file *f);
const struct st_tensor *st_find(const struct st_file *f, const char *name); /* NULL if absent */
/* The tensor must be there with this dtype and rank (rank < 0: any). The caller names the file. */
const struct st_tensor *st_need(const struct st_file *f, const char *name, enum st_dtype dtype,
                                int rank, struct aq_err *err);
/* A metadata string, NULL if absent. */
const char *st_meta(const struct st_file *f, const char *key);

/*
 * Writing. Declare all tensors first (the header is made from them, in the order of the Python
 * library: by dtype, the wide ones first, then by name), then write their bytes in any order and
 * any pieces, then commit. Bytes never written are zero. The file appears under its name at the
 * commit. Standard output, which cannot seek, gets everything at the commit.
 */
struct st_writer;
struct st_writer *st_writer_new(void);
void st_writer_free(struct st_writer *w); /* abandons an uncommitted file */
/* metadata: object of strings; taken over. */
void st_writer_metadata(struct st_writer *w, struct json *metadata);
/* Returns a handle for st_write. A name that the format forbids is reported by st_begin. */
int st_declare(struct st_writer *w, const char *name, enum st_dtype dtype, int rank,
               const uint64_t *shape);
int st_begin(struct st_writer *w, const char *path, struct aq_err *err) AQ_MUST_CHECK;
int st_write(struct st_writer *w, int handle, uint64_t byte_offset, const void *data, size_t n,
             struct aq_err *err) AQ_MUST_CHECK;
/* n bytes from an open file, without passing through this process where the kernel can. */
int st_write_from(struct st_writer *w, int handle, uint64_t byte_offset, int fd, uint64_t from,
                  uint64_t n, struct aq_err *err) AQ_MUST_CHECK;
/* As aq_out_push. */
void st_push(const struct st_writer *w);
int st_commit(struct st_writer *w, struct aq_err *err) AQ_MUST_CHECK;
/* Serialized header (8 length bytes included) for callers that manage the file themselves, as the
   store does; data offsets are then header size + the tensor's begin. */
void st_header(struct st_writer *w, struct aq_buf *out);
/* Offset of a declared tensor in the data buffer, and the size of that buffer. */
uint64_t st_declared_begin(struct st_writer *w, int handle);
uint64_t st_data_size(struct st_writer *w);

#endif
