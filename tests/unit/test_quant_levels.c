/* Every treatment on every kind of bits: instruction sets, codes, tiles (quant_check.h). */
#include "tap.h"

#include "quant_check.h"
#include "quant_inputs.h"

static const char *const weights[] = {
    "none",
    "int8:tensor:static",
    "int4:axis0:static",
    "int8:axis1:static",
    "int3:block(-1:16):static",
    "int8:block(-1:7):static",
    "int4:block(-2:3):static",
    "int8:block(-1:20,-2:2):static",
    "int4:block(-1:1):static",
    "int2:axis0:static",
    "e4m3:tensor:static",
    "e4m3:axis0:static",
    "e4m3:axis1:static",
    "e4m3:block(-1:32):static",
    "e4m3:block(-1:9,-2:2):static",
    "e2m1:nvfp4(16):dynamic",
    "e2m1:nvfp4(16):static",
    "e2m1:nvfp4(5):dynamic",
    "e2m1:nvfp4(33):static",
    "e2m1:nvfp4(1):dynamic",
    "e2m1:mx(32):dynamic",
    "e3m2:mx(16):dynamic",
    "e2m3:mx(8):dynamic",
    "e4m3:mx(32):dynamic",
    "e5m2:mx(16):dynamic",
    "int8:mx(32):dynamic",
    "int4:block(-1:16):static+e4m3:tensor:static",
    "e2m1:mx(16):dynamic+int8:axis1:static",
    "e4m3:axis0:static+e2m1:nvfp4(16):dynamic+int6:tensor:static",
};

static const char *const acts[] = {
    "none",
    "int8:tensor:static",
    "int8:tensor:dynamic",
    "int8:token:dynamic",
    "int4:axis-1:static",
    "e4m3:tensor:static",
    "e4m3:tensor:dynamic",
    "e4m3:token:dynamic",
    "e4m3:block(-1:128):dynamic",
    "e4m3:block(-1:5):dynamic",
    "e4m3:axis-1:static",
    "e2m1:nvfp4(16):static",
    "e2m1:nvfp4(16):dynamic",
    "e2m1:nvfp4(40):dynamic",
    "e2m1:mx(32):dynamic",
    "e3m2:mx(8):dynamic",
    "e2m3:mx(16):dynamic",
    "e4m3:mx(8):dynamic",
    "e5m2:mx(32):dynamic",
    "int8:mx(16):dynamic",
};

static const char *const dists[] = {"normal", "heavy", "constant", "zeros", "denormal",
                                    "tiny",   "huge",  "ties",     "bits",  "nonfinite"};

enum { COUNT_DISTS = sizeof dists / sizeof *dists, MAX_ROWS = 5, MAX_COLS = 203 };

static void fill(const char *dist, const char *number, enum num_type dtype, int64_t rows,
                 int64_t cols, char *x)
{
    for (int64_t i = 0; i < rows * cols; i++) {
        float v = strcmp(dist, "bits") == 0 ? num_float((uint32_t)draw(3, (uint64_t)i))
                                            : input(dist, number, (uint64_t)i, (uint64_t)cols);
        uint16_t h = num_to_bf16(v);
        memcpy(x + (size_t)i * check_size(dtype), dtype == NUM_BF16 ? (const void *)&h : &v,
               check_size(dtype));
    }
}

static void all(const char *text, int is_weight)
{
    static const int64_t shape[][2] = {{MAX_ROWS, MAX_COLS}, {3, 40}, {1, 64}};
    static char room[MAX_ROWS * MAX_COLS * 4 + 1];
    char *x = room + 1; /* as a mapped file may have it */
    float hidden[MAX_COLS];
    struct quant_spec spec;
    struct check c = {.spec = &spec, .is_weight = is_weight};
    int rc = quant_parse(text, &spec, NULL), cases = 0, refused = 0;
    const char *ties = strncmp(text, "int", 3) == 0 ? text : "e4m3";
    for (int64_t i = 0; i < MAX_COLS; i++)
        hidden[i] = (float)(i % 11) * 0.125F;
    c.range = (struct quant_range){0.875F, hidden};
    for (int d = 0; rc == 0 && d < COUNT_DISTS; d++)
        for (int s = 0; rc == 0 && s < 3; s++)
            for (int t = 0; rc == 0 && t < 2; t++) {
                c.x =
                    (struct quant_matrix){x, t ? NUM_BF16 : NUM_F32, shape[s][0], shape[s][1], "x"};
                fill(dists[d], ties, c.x.dtype, c.x.rows, c.x.cols, x);
                struct quant_plan *p = check_plan(&c, QUANT_UNROUNDED);
                refused += !p;
                quant_plan_free(p);
                rc = quant_check(&c);
                cases++;
            }
    if (!tap_ok(rc == 0 && refused < cases / 2, "%s %s: %d cases", is_weight ? "weight" : "act",
                text, cases))
        printf("# %s (%d refused)\n", c.what, refused);
}

/* Every bf16 number, NaN with every payload among them. */
static void all_bf16(void)
{
    enum { ROWS = 16, COLS = 65536 / ROWS };
    static uint16_t x[ROWS * COLS];
    float hidden[COLS];
    struct quant_spec spec;
    struct check c = {.spec = &spec, .x = {x, NUM_BF16, ROWS, COLS, "x"}};
    int rc = 0;
    for (int i = 0; i < COLS; i++)
        hidden[i] = (float)(i % 11) * 0.125F;
    /* an odd factor: each number once, and no two alike side by side */
    for (unsigned i = 0; i < ROWS * COLS; i++)
        x[i] = (uint16_t)(i * 40503U);
    c.range = (struct quant_range){0.875F, hidden};
    for (size_t i = 0; i < AQ_COUNT(acts) && rc == 0; i++)
        rc = quant_parse(acts[i], &spec, NULL) < 0 ? -1 : quant_check(&c);
    if (!tap_ok(rc == 0, "every bf16 number under every treatment of activations"))
        printf("# %s\n", c.what);
}

int main(void)
{
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        all(weights[i], 1);
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        all(acts[i], 0);
    all_bf16();
    return tap_done();
}
