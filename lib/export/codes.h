/*
 * From rows of a weight to the bytes of a scheme: codes and scales as the file holds them. A coder
 * is made for one weight; rows are coded in tiles, from any thread, and a tile's bytes depend on
 * its rows alone. Codes are those of lib/quant, except where the file rounds a scale: then they are
 * chosen again for the rounded scale, which brings the error back to that of the treatment.
 */
#ifndef AQ_EXPORT_CODES_H
#define AQ_EXPORT_CODES_H

#include "base/err.h"
#include "engine/scheme.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "quant/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Rows of a tile; a multiple of what any scheme puts under one scale. */
enum { CODES_TILE = 128 };

struct coder {
    struct scheme scheme;
    enum scheme_layout layout; /* GGUF interleaves scales and codes */
    int64_t rows, cols;
    float amax;       /* over all that share a range, where the scheme has such a range */
    bool keep;        /* leave the treatment's codes where the file rounds a scale */
    const char *name; /* for messages */
    int64_t heads;    /* rows are those of gguf_source_row; 0: as in the model */
    /* Of a calibrated candidate, borrowed; NULL: none. What the columns are multiplied by; ranges
       of the grid; packed codes (quant_pack_codes), whose rows are those of the model. */
    const float *scale, *ranges;
    const float *row_scale; /* [rows]: factors of the rows; NULL: none */
    const uint8_t *codes;
    struct quant_grid grid;
};

/* The type of a tensor of such codes in a GGUF file. */
enum gguf_type codes_gguf_type(const struct scheme *s);
/* Does the scheme need the largest weight of all members of the group, or of this weight? */
bool coder_shares_range(const struct scheme *s);
bool coder_needs_range(const struct scheme *s);

/* Bytes of the codes and of the scales of the first `rows` rows: a multiple of the tile, or all. In
   GGUF everything is codes. */
uint64_t coder_code_bytes(const struct coder *c, int64_t rows);
uint64_t coder_scale_bytes(const struct coder *c, int64_t rows);

/*
 * Codes rows r0 <= r < r1, at most a tile, r0 a multiple of it. source: the rows, in dtype BF16,
 * F16 or F32. codes and scales hold what the two functions above say about these rows. AQ_EINPUT
 * for a number that is not finite.
 */
int coder_tile(const struct coder *c, const void *source, enum num_type type, int64_t r0,
               int64_t r1, void *codes, void *scales, struct aq_err *err) AQ_MUST_CHECK;

/* Rows r0 <= r < r1 as the file's reader sees them: code times scale, in fp32. */
void coder_decode(const struct coder *c, const void *codes, const void *scales, int64_t r0,
                  int64_t r1, float *out);

/* The second level of NVFP4: amax / 2688, or amax / 1536 for four over six. */
float coder_second_level(const struct coder *c);
/* The steps of the scheme's weights, with the methods that are computed as rows are coded. */
struct quant_spec coder_spec(const struct coder *c);
/* Multiplies rows r0 <= r < r1 by the candidate's scales, if it has any; w: row r0. */
void coder_scale_rows(const struct coder *c, int64_t r0, int64_t r1, float *w);

#endif
