/*
 * GGUF, version 3, little endian: the files of llama.cpp. A strict mapped reader, the values of
 * its quantized blocks, and a streaming writer. The reader trusts nothing: counts, lengths, types,
 * alignment, sizes, overlap and duplicate names are checked before a byte of data is handed out.
 */
#ifndef AQ_IO_GGUF_H
#define AQ_IO_GGUF_H

#include "base/arena.h"
#include "base/err.h"
#include "base/file.h"
#include "base/names.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers of the format. Other types are not read. */
enum gguf_type {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_BF16 = 30,
    GGUF_MXFP4 = 39,
    GGUF_NVFP4 = 40,
};

struct gguf_type_info {
    enum gguf_type type;
    const char *name;
    int block;       /* weights */
    int block_bytes; /* of them */
};

const struct gguf_type_info *gguf_type_info(enum gguf_type t); /* NULL: not one of these */

/*
 * The values of n weights (a multiple of the type's block), equal bit for bit to gguf.dequantize
 * of the Python package. The second level of NVFP4, a tensor of its own, is not applied.
 */
void gguf_dequantize(enum gguf_type t, const void *blocks, size_t n, float *out);

/* ---- reading ---- */

enum gguf_kind {
    GGUF_KIND_U8,
    GGUF_KIND_I8,
    GGUF_KIND_U16,
    GGUF_KIND_I16,
    GGUF_KIND_U32,
    GGUF_KIND_I32,
    GGUF_KIND_FLOAT,
    GGUF_KIND_BOOL,
    GGUF_KIND_STRING,
    GGUF_KIND_ARRAY,
    GGUF_KIND_U64,
    GGUF_KIND_I64,
    GGUF_KIND_DOUBLE,
    GGUF_KINDS,
};

enum {
    GGUF_MAX_RANK = 4,
    GGUF_MAX_NAME = 1024,
    GGUF_MAX_TENSORS = 1000000,
    GGUF_MAX_KEYS = 100000,
    GGUF_ALIGNMENT = 32,
};

/* Values lie in the map, unaligned. */
struct gguf_value {
    const char *key;
    enum gguf_kind kind;
    enum gguf_kind element; /* of an array */
    uint64_t count;         /* of an array; 1 otherwise */
    const unsigned char *data, *end;
};

struct gguf_tensor {
    const char *name;
    enum gguf_type type;
    int rank;
    uint64_t shape[GGUF_MAX_RANK]; /* outermost first, as in safetensors: (rows, columns) */
    uint64_t elements;
    uint64_t begin, end; /* byte range in the file */
    const void *data;    /* into the map */
};

struct gguf_file {
    char *path;
    struct aq_map map;
    struct gguf_value *values;
    size_t value_count;
    struct gguf_tensor *tensors; /* in the order of the file */
    size_t count;
    struct aq_names keys, names;
    struct aq_arena arena; /* owns keys and names */
    bool borrowed;         /* opened on memory */
};

int gguf_open(struct gguf_file *f, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* The same on memory that outlives f; name is for messages. */
int gguf_open_memory(struct gguf_file *f, const void *bytes, size_t size, const char *name,
                     struct aq_err *err) AQ_MUST_CHECK;
void gguf_close(struct gguf_file *f);
const struct gguf_tensor *gguf_find(const struct gguf_file *f, const char *name); /* or NULL */
const struct gguf_value *gguf_get(const struct gguf_file *f, const char *key);    /* or NULL */

/* False: another kind, or out of range. */
bool gguf_int(const struct gguf_value *v, int64_t *out);   /* any integer kind */
bool gguf_number(const struct gguf_value *v, double *out); /* any number */
bool gguf_bool(const struct gguf_value *v, bool *out);
/* Strings are not NUL-terminated in the file: a copy in the arena of `f`. NULL: another kind. */
const char *gguf_string(struct gguf_file *f, const struct gguf_value *v);
/* Element i of an array of strings; *at: 0 for the first call, then passed on. NULL at the end. */
const char *gguf_next_string(struct gguf_file *f, const struct gguf_value *v, size_t *at);
/* Element i of an array of integers or floats. */
bool gguf_int_at(const struct gguf_value *v, uint64_t i, int64_t *out);

/* ---- writing ---- */

/*
 * Keys in the order they are added, tensors in the order they are declared, then begin, their
 * bytes in any order and pieces, from several threads if need be, then commit. The file appears
 * under its name at the commit.
 */
struct gguf_writer;
struct gguf_writer *gguf_writer_new(void);
void gguf_writer_free(struct gguf_writer *w); /* abandons an uncommitted file */
void gguf_add_string(struct gguf_writer *w, const char *key, const char *value);
void gguf_add_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_add_f32(struct gguf_writer *w, const char *key, float value);
void gguf_add_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_add_strings(struct gguf_writer *w, const char *key, const char *const *values, size_t n);
void gguf_add_i32s(struct gguf_writer *w, const char *key, const int32_t *values, size_t n);
void gguf_add_f32s(struct gguf_writer *w, const char *key, const float *values, size_t n);
void gguf_add_bools(struct gguf_writer *w, const char *key, const bool *values, size_t n);
/* shape outermost first; the last must be a multiple of the type's block. Returns a handle. */
int gguf_declare(struct gguf_writer *w, const char *name, enum gguf_type t, int rank,
                 const uint64_t *shape);
uint64_t gguf_declared_bytes(const struct gguf_writer *w, int handle);
int gguf_begin(struct gguf_writer *w, const char *path, struct aq_err *err) AQ_MUST_CHECK;
int gguf_write(struct gguf_writer *w, int handle, uint64_t byte_offset, const void *data, size_t n,
               struct aq_err *err) AQ_MUST_CHECK;
int gguf_commit(struct gguf_writer *w, struct aq_err *err) AQ_MUST_CHECK;

#endif
