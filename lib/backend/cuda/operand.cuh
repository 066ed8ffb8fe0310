/* Operands of quantized products. */
#ifndef AQ_BACKEND_CUDA_OPERAND_CUH
#define AQ_BACKEND_CUDA_OPERAND_CUH

#include "backend/cuda/quantize.cuh"

/* A side of a product: planes of (rows, cols) whose sum is the operand, times row_scale if any. */
struct planes {
    const void *data;
    int terms;
    int64_t plane; /* elements from a term to the next */
    const float *row_scale;
    /* of a side with a scale for each block of columns, as in struct blocks_side; block 0: none */
    int64_t block;
    const float *ratio;
    int64_t stride;
};

struct backend_operand {
    bool is_weight;
    struct quant_spec spec;
    /* of a weight */
    const struct backend_weight *w;
    const void *w_dev; /* w->dev when it was quantized */
    uint32_t version;  /* w->version then */
    void *data;        /* in `form`, [terms](out, in) */
    size_t bytes;
    enum form form;
    float *row_scale; /* [room for rows] */
    float *ratio;     /* after data, where the form is FORM_BLOCKS */
    int64_t rows;
    /* of an activation: what to do once a product asks for it */
    const struct backend_tile *t;
    const void *x;
    int64_t cols;
    float range;
    float *hidden; /* device, [cols] */
    size_t hidden_bytes;
    std::vector<float> *columns; /* the same on the host; empty: there are none */
    float *scaled; /* device, (rows, cols): x with its columns multiplied; NULL: never asked for */
    float *factor; /* device, [cols]: by these */
    size_t scaled_bytes;
    bool is_scaled;  /* x is `scaled` */
    double *clipped; /* waits to be raised; NULL: done, or not asked for */
    /* while it is the backend's in_scratch: of this many rows */
    struct planes made;
    int64_t made_rows;
};

/* False after a failure. */
bool operand_weight(struct cuda_backend *c, const struct backend_operand *op, struct planes *out);
/* Has it planes of its own? Else it is the loaded weight. */
bool operand_has_planes(const struct cuda_backend *c, const struct backend_operand *op);

/*
 * Quantizes the first rows[i] rows of activations of one shape and form into scratch, one after
 * another, those of one treatment in one launch, and raises the counts that wait, of the samples
 * that end within these rows.
 */
bool operand_acts(struct cuda_backend *c, struct backend_operand *const *x, const int64_t *rows,
                  int count, struct planes *out);
/* The same, or the planes that were kept of them; what is quantized is kept where there is room. */
bool operand_acts_kept(struct cuda_backend *c, struct backend_operand *const *x,
                       const int64_t *rows, int count, struct planes *out);
/* May b follow a in one call of operand_acts? Where inputs are kept, only if they are likely to
   follow each other again, whatever the treatment of the weight. */
bool operand_matches(const struct cuda_backend *c, const struct backend_operand *a,
                     const struct backend_operand *b);
/* Bytes of a row of an activation in its form. */
size_t operand_row_bytes(const struct cuda_backend *c, const struct backend_operand *op);
/* Planes of bf16 numbers that the two operands of a product have together make this many products.
 */
int operand_products(const struct cuda_backend *c, const struct quant_spec *weight,
                     const struct quant_spec *act);

#endif
