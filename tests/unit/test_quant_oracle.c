/*
 * Replays the vectors of tests/oracle/quant/, bit for bit: ModelOpt's outputs, and for the formats
 * that it does not have on CPUs those of a second implementation of the formulas.
 */
#include "tap.h"

#include "base/mem.h"
#include "base/sha256.h"
#include "quant/quant.h"
#include "quant_inputs.h"

#include <glob.h>
#include <stdlib.h>

struct case_ {
    char role, treatment[QUANT_TEXT_MAX], dist[16], dtype[8];
    long rows, cols;
};

static size_t dtype_size(enum num_type t)
{
    return t == NUM_BF16 ? 2 : 4;
}

static void make_input(const struct case_ *c, enum num_type dtype, void *x)
{
    for (long i = 0; i < c->rows * c->cols; i++) {
        float v = input(c->dist, c->treatment, (uint64_t)i, (uint64_t)c->cols);
        uint16_t h = num_to_bf16(v);
        memcpy((char *)x + (size_t)i * dtype_size(dtype), dtype == NUM_BF16 ? (const void *)&h : &v,
               dtype_size(dtype));
    }
}

/* The range of a static activation: that of the first half of the rows. */
static void half_range(const struct case_ *c, const struct quant_matrix *x, float *hidden,
                       struct quant_range *range)
{
    long rows = (c->rows + 1) / 2;
    for (long r = 0; r < rows; r++)
        quant_absmax_cols(hidden,
                          (const char *)x->data + (size_t)(r * c->cols) * dtype_size(x->dtype),
                          x->dtype, (size_t)c->cols);
    *range = (struct quant_range){
        .amax = quant_absmax(x->data, x->dtype, (size_t)(rows * c->cols)),
        .hidden = hidden,
    };
}

static void canonical_nan(void *y, enum num_type dtype, long n)
{
    for (long i = 0; i < n; i++) {
        if (dtype == NUM_BF16) {
            uint16_t *h = (uint16_t *)y + i;
            *h = (*h & 0x7fff) > 0x7f80 ? 0x7fc0 : *h;
        } else {
            uint32_t *u = (uint32_t *)y + i;
            *u = (*u & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : *u;
        }
    }
}

static int run_case(const struct case_ *c, char digest[17], struct aq_err *err)
{
    enum num_type dtype = strcmp(c->dtype, "bf16") == 0 ? NUM_BF16 : NUM_F32;
    enum quant_rounding rounding = dtype == NUM_BF16 ? QUANT_TO_BF16 : QUANT_UNROUNDED;
    size_t bytes = (size_t)(c->rows * c->cols) * dtype_size(dtype);
    void *x = xmalloc(bytes), *y = xmalloc(bytes);
    float *hidden = xcalloc((size_t)c->cols, sizeof *hidden);
    struct quant_matrix m = {x, dtype, c->rows, c->cols, "x"};
    struct quant_plan *plan = NULL;
    struct quant_spec spec;
    struct quant_range range;
    make_input(c, dtype, x);
    half_range(c, &m, hidden, &range);
    int rc = quant_parse(c->treatment, &spec, err);
    if (rc == 0 && c->role == 'w')
        rc = quant_plan_weight(&plan, &spec, &m, rounding, err);
    else if (rc == 0)
        rc = quant_plan_act(&plan, &spec, c->cols, &range, rounding, err);
    if (rc == 0) {
        char hex[AQ_SHA256_HEX];
        quant_apply(plan, &m, 0, c->rows, y, dtype, NULL);
        canonical_nan(y, dtype, c->rows * c->cols);
        aq_sha256_of(y, bytes, hex);
        memcpy(digest, hex, 16);
        digest[16] = 0;
    }
    quant_plan_free(plan);
    free(hidden);
    free(x);
    free(y);
    return rc;
}

enum { SHAPES = 8 };

/* "# shapes 1x17 3x37": how many. */
static int read_shapes(char *line, long shape[SHAPES][2])
{
    int n = 0;
    (void)strtok(line, " \n"); /* "#", "shapes" */
    (void)strtok(NULL, " \n");
    for (char *w; (w = strtok(NULL, " \n")) != NULL && n < SHAPES; n++)
        if (sscanf(w, "%ldx%ld", &shape[n][0], &shape[n][1]) != 2)
            return 0;
    return n;
}

struct tally {
    char treatment[QUANT_TEXT_MAX];
    int cases, bad, total;
};

static void report(struct tally *t)
{
    if (t->cases)
        tap_ok(t->bad == 0, "%s: %d cases, %d differ", t->treatment, t->cases, t->bad);
    t->total += t->cases;
    t->cases = t->bad = 0;
}

/* Role, treatment, distribution, dtype, and a digest for every shape. */
static int replay_line(char *line, long shape[SHAPES][2], int shapes, struct tally *t)
{
    struct case_ c = {.role = line[0]};
    char *word[4] = {strtok(line, "\t\n")};
    for (int i = 1; i < 4; i++)
        if (!(word[i] = strtok(NULL, "\t\n")))
            return -1;
    (void)snprintf(c.treatment, sizeof c.treatment, "%s", word[1]);
    (void)snprintf(c.dist, sizeof c.dist, "%s", word[2]);
    (void)snprintf(c.dtype, sizeof c.dtype, "%s", word[3]);
    if (strcmp(c.treatment, t->treatment) != 0)
        report(t);
    (void)snprintf(t->treatment, sizeof t->treatment, "%s", c.treatment);
    for (int i = 0; i < shapes; i++) {
        const char *want = strtok(NULL, "\t\n");
        if (!want)
            return -1;
        if (strcmp(want, "-") == 0)
            continue;
        char digest[17] = "";
        struct aq_err err = {0};
        c.rows = shape[i][0];
        c.cols = shape[i][1];
        if (run_case(&c, digest, &err) < 0 || strcmp(digest, want) != 0) {
            printf("# %c %s %s %s %ldx%ld: %s\n", c.role, c.treatment, c.dist, c.dtype, c.rows,
                   c.cols, err.code ? err.msg : "other bits");
            t->bad++;
        }
        t->cases++;
    }
    return 0;
}

/* One test for each treatment of a file; returns the number of cases. */
static int replay(const char *path)
{
    FILE *f = fopen(path, "r");
    char line[1024];
    long shape[SHAPES][2];
    int shapes = 0;
    struct tally t = {0};
    if (!f) {
        tap_ok(0, "%s can be read", path);
        return 0;
    }
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "# shapes ", 9) == 0)
            shapes = read_shapes(line, shape);
        else if (line[0] != '#' && replay_line(line, shape, shapes, &t) < 0)
            tap_ok(0, "%s: bad line: %s", path, line);
    }
    (void)fclose(f);
    report(&t);
    tap_ok(t.total > 0, "%d cases in %s", t.total, path);
    return t.total;
}

int main(void)
{
    glob_t files;
    int total = 0;
    if (glob("tests/oracle/quant/*.tsv", 0, NULL, &files) == 0) {
        for (size_t i = 0; i < files.gl_pathc; i++)
            total += replay(files.gl_pathv[i]);
        globfree(&files);
    }
    tap_ok(total >= 6000, "%d cases (run from the root of the sources)", total);
    return tap_done();
}
