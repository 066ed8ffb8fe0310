/*
 * Error statistics of quantized weights: quant_probe FILE.safetensors [TREATMENT...]
 *
 * TSV, one line for every matrix of the file and treatment: tensor, treatment, elements, mean
 * squared error, signal to noise in dB, largest error, share of clipped elements. A treatment
 * that does not fit a matrix has its reason on stderr and "-" in the line.
 */
#include "base/mem.h"
#include "base/num.h"
#include "io/safetensors.h"
#include "quant/quant.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const usual[] = {
    "int8:tensor:static",        "int8:axis0:static",   "int4:axis0:static",
    "int4:block(-1:128):static", "e4m3:tensor:static",  "e4m3:axis0:static",
    "e2m1:nvfp4(16):dynamic",    "e2m1:mx(32):dynamic", "e3m2:mx(32):dynamic",
    "e2m3:mx(32):dynamic",       "e4m3:mx(32):dynamic", "int8:mx(32):dynamic",
};

struct errors {
    double signal, noise, largest;
    struct quant_stats stats;
};

static double element(const struct quant_matrix *m, int64_t i)
{
    if (m->dtype == NUM_BF16) {
        uint16_t h;
        memcpy(&h, (const char *)m->data + 2 * i, sizeof h);
        return (double)num_from_bf16(h);
    }
    float v;
    memcpy(&v, (const char *)m->data + 4 * i, sizeof v);
    return (double)v;
}

static void measure(const struct quant_plan *p, const struct quant_matrix *m, struct errors *e)
{
    float *row = xmalloc((size_t)m->cols * sizeof *row);
    *e = (struct errors){0};
    for (int64_t r = 0; r < m->rows; r++) {
        quant_apply(p, m, r, r + 1, row, NUM_F32, &e->stats);
        for (int64_t c = 0; c < m->cols; c++) {
            double x = element(m, r * m->cols + c), d = (double)row[c] - x;
            e->signal += x * x;
            e->noise += d * d;
            e->largest = fabs(d) > e->largest ? fabs(d) : e->largest;
        }
    }
    free(row);
}

static void probe(const struct quant_matrix *m, const char *text)
{
    struct quant_spec spec;
    struct quant_plan *p = NULL;
    struct aq_err err = {0};
    int64_t n = m->rows * m->cols;
    if (quant_parse(text, &spec, &err) < 0 ||
        quant_plan_weight(&p, &spec, m, QUANT_UNROUNDED, &err) < 0) {
        (void)fprintf(stderr, "quant_probe: %s\n", err.msg);
        printf("%s\t%s\t%lld\t-\t-\t-\t-\n", aq_show(m->name), text, (long long)n);
        return;
    }
    struct errors e;
    measure(p, m, &e);
    quant_plan_free(p);
    char snr[32] = "inf";
    if (e.noise > 0)
        (void)snprintf(snr, sizeof snr, "%.2f", 10 * log10(e.signal / e.noise));
    printf("%s\t%s\t%lld\t%.6e\t%s\t%.6e\t%.6f\n", aq_show(m->name), text, (long long)n,
           e.noise / (double)n, snr, e.largest, (double)e.stats.clipped / (double)n);
}

int main(int argc, char **argv)
{
    struct st_file f;
    struct aq_err err = {0};
    if (argc < 2) {
        (void)fprintf(stderr, "usage: quant_probe FILE.safetensors [TREATMENT...]\n");
        return AQ_EUSAGE;
    }
    if (st_open(&f, argv[1], &err) < 0) {
        (void)fprintf(stderr, "quant_probe: %s\n", err.msg);
        return err.code;
    }
    const char *const *texts = argc > 2 ? (const char *const *)argv + 2 : usual;
    size_t count = argc > 2 ? (size_t)argc - 2 : AQ_COUNT(usual);
    printf("tensor\ttreatment\telements\tmse\tsqnr_db\tmax_error\tclipped\n");
    for (size_t i = 0; i < f.count; i++) {
        const struct st_tensor *t = &f.tensors[i];
        if (t->rank != 2 || (t->dtype != ST_BF16 && t->dtype != ST_F32))
            continue;
        struct quant_matrix m = {t->data, t->dtype == ST_BF16 ? NUM_BF16 : NUM_F32,
                                 (int64_t)t->shape[0], (int64_t)t->shape[1], t->name};
        for (size_t k = 0; k < count; k++)
            probe(&m, texts[k]);
    }
    st_close(&f);
    return 0;
}
