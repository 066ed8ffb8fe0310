#include "io/safetensors_dtype.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

const struct st_dtype_info st_dtypes[] = {
    {"BOOL", ST_BOOL, 8, 0},
    {"F4", ST_OTHER, 4, 1},
    {"F6_E2M3", ST_OTHER, 6, 2},
    {"F6_E3M2", ST_OTHER, 6, 3},
    {"U8", ST_U8, 8, 4},
    {"I8", ST_I8, 8, 5},
    {"F8_E5M2", ST_F8_E5M2, 8, 6},
    {"F8_E4M3", ST_F8_E4M3, 8, 7},
    {"F8_E8M0", ST_OTHER, 8, 8},
    {"F8_E4M3FNUZ", ST_OTHER, 8, 9},
    {"F8_E5M2FNUZ", ST_OTHER, 8, 10},
    {"I16", ST_I16, 16, 11},
    {"U16", ST_U16, 16, 12},
    {"F16", ST_F16, 16, 13},
    {"BF16", ST_BF16, 16, 14},
    {"I32", ST_I32, 32, 15},
    {"U32", ST_U32, 32, 16},
    {"F32", ST_F32, 32, 17},
    {"C64", ST_OTHER, 64, 18},
    {"F64", ST_F64, 64, 19},
    {"I64", ST_I64, 64, 20},
    {"U64", ST_U64, 64, 21},
};
const size_t st_dtype_count = AQ_COUNT(st_dtypes);

const struct st_dtype_info *st_dtype_named(const char *name)
{
    for (size_t i = 0; i < st_dtype_count; i++)
        if (strcmp(st_dtypes[i].name, name) == 0)
            return &st_dtypes[i];
    return NULL;
}

const struct st_dtype_info *st_dtype_info(enum st_dtype t)
{
    assert(t != ST_OTHER);
    size_t i = 0;
    while (st_dtypes[i].dtype != t)
        i++;
    return &st_dtypes[i];
}

size_t st_dtype_bits(enum st_dtype t)
{
    return t == ST_OTHER ? 0 : st_dtype_info(t)->bits;
}

const char *st_dtype_text(enum st_dtype t)
{
    return t == ST_OTHER ? "other" : st_dtype_info(t)->name;
}

enum num_type st_num_type(enum st_dtype t)
{
    assert(t == ST_F32 || t == ST_BF16 || t == ST_F16);
    return t == ST_F32 ? NUM_F32 : t == ST_BF16 ? NUM_BF16 : NUM_F16;
}

bool st_dtype_parse(const char *name, enum st_dtype *out)
{
    const struct st_dtype_info *d = st_dtype_named(name);
    if (d)
        *out = d->dtype;
    return d != NULL;
}

bool st_count_elements(const uint64_t *shape, int rank, uint64_t *out)
{
    uint64_t n = 1;
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(n, shape[i], &n))
            return false;
    *out = n;
    return true;
}
