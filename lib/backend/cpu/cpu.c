/* Opening, memory, tiles, weights, and the table itself. */
#include "backend/cpu/cpu.h"
#include "backend/cpu/blas.h"
#include "backend/cpu/chain.h"
#include "backend/cpu/operand.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int cpu_probe(const struct backend_host *host, struct aq_err *err)
{
    (void)host;
    (void)err;
    return 1;
}

bool cpu_buffer_room(struct cpu_backend *c, struct cpu_buffer *buf, size_t size, struct aq_err *err)
{
    if (size <= buf->size)
        return true;
    aq_big_free(buf->data, buf->size);
    c->used -= buf->size;
    *buf = (struct cpu_buffer){NULL, 0};
    buf->data = aq_big_alloc(size, "scratch of the CPU backend", err);
    if (!buf->data)
        return false;
    buf->size = size;
    c->used += size;
    return true;
}

bool cpu_begin(struct cpu_backend *c, size_t each, size_t shared)
{
    if (c->failed.code)
        return false;
    for (int i = 0; i < c->base.threads; i++)
        if (!cpu_buffer_room(c, &c->scratch[i], each, &c->failed))
            return false;
    return cpu_buffer_room(c, &c->shared, shared, &c->failed);
}

static void cpu_close(struct backend *b)
{
    struct cpu_backend *c = cpu_of(b);
    for (int i = 0; c->scratch && i < b->threads; i++)
        aq_big_free(c->scratch[i].data, c->scratch[i].size);
    aq_big_free(c->shared.data, c->shared.size);
    aq_pool_free(c->pool);
    free(c->scratch);
    free(c);
}

/*
 * $AQ_MATRIX caps the instructions: "plain" (fp32 products alone), "avx512", "amx". The identity
 * names what is used: its sums are rounded in another order than the BLAS's.
 */
static int choose_levels(struct cpu_backend *c, struct aq_err *err)
{
    const char *cap = getenv("AQ_MATRIX");
    enum matrix_level most = MATRIX_AMX;
    if (c->config.matrix == BACKEND_MATRIX_PLAIN || (cap && strcmp(cap, "plain") == 0))
        most = MATRIX_NONE;
    else if (cap && strcmp(cap, "avx512") == 0)
        most = MATRIX_AVX512;
    else if (cap && *cap && strcmp(cap, "amx") != 0)
        return aq_err_set(err, AQ_EUSAGE, "AQ_MATRIX is '%s', expected plain, avx512 or amx",
                          aq_show(cap));
    for (int kind = MATRIX_INT8; kind <= MATRIX_BF16; kind++)
        c->levels[kind] = matrix_best((enum matrix_kind)kind, most);
    (void)snprintf(c->base.identity, sizeof c->base.identity, "cpu/%s/fp32%s%s%s", blas_name(),
                   matrix_suffix(MATRIX_INT8, c->levels[MATRIX_INT8]),
                   matrix_suffix(MATRIX_BF16, c->levels[MATRIX_BF16]), chain_suffix());
    return 0;
}

static int cpu_open(struct backend **out, const struct backend_host *host,
                    const struct backend_config *config, struct aq_err *err)
{
    struct cpu_backend *c = xcalloc(1, sizeof *c);
    c->base.ops = &backend_cpu_ops;
    c->base.act_size = sizeof(float);
    c->base.batch_bytes = UINT64_C(1) << 30;
    c->base.tile_tokens = 512;
    c->base.expert_tile_tokens = 2048;
    c->base.inputs_at_once = 1;
    /* what is filled up is only moved where products take any rows; else products of the BLAS */
    c->base.expert_rows = chain_kernel() ? 16 : 64;
    c->base.experts_at_once = 1; /* its rows stay in the caches from product to product */
    c->host = *host;
    c->config = *config;
    const char *warning = blas_init();
    if (warning)
        host->warn("%s", warning);
    if (choose_levels(c, err) == 0)
        c->pool = aq_pool_new(config->threads, err);
    if (!c->pool || blas_reserve(aq_pool_threads(c->pool), err) < 0) {
        aq_pool_free(c->pool);
        free(c);
        return -1;
    }
    c->base.threads = aq_pool_threads(c->pool);
    c->base.input_size = cpu_has_terms(c) ? 12 : 8; /* act_forms of operand.h, padded */
    c->base.weight_size = CPU_WEIGHT_SIZE;
    c->scratch = xcalloc((size_t)c->base.threads, sizeof *c->scratch);
    *out = &c->base;
    return 0;
}

/* ---- memory ---- */

/*
 * A worker's scratch holds a block of weights (PANEL_FLOATS of linear.c, or 128 rows), a strip of
 * them being quantized, and the block's results. Partial sums of scores, two a row (squares and the
 * dot form), are shared, as is the input of a product with an expert. Weights stay in the map.
 */
static uint64_t cpu_scratch_bytes(const struct backend *b, const struct backend_sizes *s)
{
    const struct cpu_backend *c = (const struct cpu_backend *)b;
    const uint64_t base = UINT64_C(16) << 20, panel = UINT64_C(2) << 20;
    const uint64_t block_cols = 544, jobs = 64, units = 32;
    uint64_t rows = (uint64_t)s->rows, inputs = (uint64_t)s->inputs, weight = (uint64_t)s->weight;
    uint64_t block = 128 * inputs > panel ? 128 * inputs : panel;
    uint64_t each = (block < weight ? block : weight) *
                    (cpu_has_terms(c) ? MATRIX_TERMS * sizeof(uint16_t) : sizeof(float));
    each += MATRIX_STRIP * inputs * (sizeof(float) + MATRIX_TERMS * sizeof(uint16_t));
    each += rows * block_cols * 2 * sizeof(float);
    uint64_t part = (uint64_t)s->part_rows * (uint64_t)s->part_inputs * sizeof(float);
    return base + part + (uint64_t)b->threads * each + 2 * jobs * units * rows * sizeof(double);
}

static void *cpu_alloc(struct backend *b, size_t bytes, const char *purpose, struct aq_err *err)
{
    struct cpu_backend *c = cpu_of(b);
    uint64_t limit = c->config.memory;
    if (limit && (bytes > limit || c->used > limit - bytes)) {
        (void)aq_err_set(err, AQ_ERUN, "%.1f MB for %s do not fit in the memory limit of %.1f MB",
                         (double)bytes / 1e6, purpose, (double)limit / 1e6);
        return NULL;
    }
    void *p = aq_big_alloc(bytes, purpose, err);
    if (p)
        c->used += bytes;
    return p;
}

static void cpu_free(struct backend *b, void *p, size_t bytes)
{
    if (!p)
        return;
    aq_big_free(p, bytes);
    cpu_of(b)->used -= bytes;
}

/* Large blocks are shared by the threads: one alone does not fill the memory's bandwidth. */
enum { BLOCK = 256 << 10 };

struct block_job {
    char *to;
    const char *from; /* NULL: zeros */
    size_t bytes;
};

static void block_unit(void *arg, int64_t unit, int worker)
{
    const struct block_job *j = arg;
    size_t at = (size_t)unit * BLOCK, n = j->bytes - at < BLOCK ? j->bytes - at : BLOCK;
    (void)worker;
    if (j->from)
        memcpy(j->to + at, j->from + at, n);
    else
        memset(j->to + at, 0, n);
}

static void cpu_zero(struct backend *b, void *p, size_t bytes)
{
    struct block_job j = {p, NULL, bytes};
    aq_pool_run(cpu_of(b)->pool, (int64_t)((bytes + BLOCK - 1) / BLOCK), block_unit, &j);
}

static void cpu_copy(struct backend *b, void *to, const void *from, size_t bytes)
{
    struct block_job j = {to, from, bytes};
    aq_pool_run(cpu_of(b)->pool, (int64_t)((bytes + BLOCK - 1) / BLOCK), block_unit, &j);
}

static int cpu_sync(struct backend *b, struct aq_err *err)
{
    struct cpu_backend *c = cpu_of(b);
    if (!c->failed.code)
        return 0;
    if (err)
        *err = c->failed;
    c->failed.code = 0;
    return -1;
}

static int cpu_download(struct backend *b, void *host, const void *from, size_t bytes,
                        struct aq_err *err)
{
    memcpy(host, from, bytes);
    return cpu_sync(b, err);
}

/* ---- weights stay in the map ---- */

static int cpu_weights_load(struct backend *b, struct backend_weight *const *w, int count,
                            struct aq_err *err)
{
    (void)err;
    for (int i = 0; i < count; i++) {
        w[i]->dev = (void *)w[i]->host;
        b->weights_read += (uint64_t)w[i]->rows * (uint64_t)w[i]->cols * num_bytes(w[i]->dtype);
    }
    return 0;
}

static void cpu_weights_release(struct backend *b, struct backend_weight *const *w, int count)
{
    (void)b;
    for (int i = 0; i < count; i++)
        w[i]->dev = NULL;
}

/* ---- tiles ---- */

static void *dup_bytes(const void *from, size_t n)
{
    void *p = xmalloc(n);
    memcpy(p, from, n);
    return p;
}

static struct backend_tile *cpu_tile_new(struct backend *b, const struct backend_tile_desc *desc,
                                         struct aq_err *err)
{
    (void)b;
    (void)err;
    struct backend_tile *t = xcalloc(1, sizeof *t);
    size_t rows = (size_t)desc->rows;
    t->rows = desc->rows;
    t->samples = desc->samples;
    t->chunk = desc->rows;
    t->first = dup_bytes(desc->first, ((size_t)desc->samples + 1) * sizeof *t->first);
    t->pad = dup_bytes(desc->pad, (size_t)desc->samples * sizeof *t->pad);
    t->ids = dup_bytes(desc->ids, rows * sizeof *t->ids);
    t->pos = dup_bytes(desc->pos, rows * sizeof *t->pos);
    t->target = dup_bytes(desc->target, rows * sizeof *t->target);
    t->sample_of = xmalloc(rows * sizeof *t->sample_of);
    for (size_t r = 0; r < rows; r++)
        t->sample_of[r] = -1;
    for (int32_t s = 0; s < t->samples; s++)
        for (int32_t r = t->first[s]; r < t->first[s + 1]; r++)
            t->sample_of[r] = s;
    return t;
}

static void cpu_tile_free(struct backend *b, struct backend_tile *t)
{
    (void)b;
    if (!t)
        return;
    free(t->first);
    free(t->pad);
    free(t->ids);
    free(t->pos);
    free(t->target);
    free(t->sample_of);
    free(t->slots);
    for (struct cpu_angles *a = t->angles, *next; a; a = next) {
        next = a->next;
        free(a->inv_freq);
        free(a->cos);
        free(a->sin);
        free(a);
    }
    free(t);
}

const struct backend_ops backend_cpu_ops = {
    .abi = BACKEND_ABI,
    .struct_size = sizeof(struct backend_ops),
    .name = "cpu",
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .scratch_bytes = cpu_scratch_bytes,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .upload = cpu_copy,
    .download = cpu_download,
    .sync = cpu_sync,
    .weights_load = cpu_weights_load,
    .weights_release = cpu_weights_release,
    .tile_new = cpu_tile_new,
    .tile_free = cpu_tile_free,
    .tile_part = cpu_tile_part,
    .embed = cpu_embed,
    .add = cpu_add,
    .scale = cpu_scale,
    .bias_add = cpu_bias_add,
    .cols_copy = cpu_cols_copy,
    .rmsnorm_forward = cpu_rmsnorm_forward,
    .rmsnorm_backward = cpu_rmsnorm_backward,
    .norm_rope_forward = cpu_norm_rope_forward,
    .norm_rope_backward = cpu_norm_rope_backward,
    .attention_forward = cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .glu_forward = cpu_glu_forward,
    .glu_pair_forward = cpu_glu_pair_forward,
    .glu_backward = cpu_glu_backward,
    .linear_forward = cpu_linear_forward,
    .linear_backward = cpu_linear_backward,
    .loss = cpu_loss,
    .kl = cpu_kl,
    .logits = cpu_logits,
    .compare = cpu_compare,
    .route = cpu_route,
    .route_backward = cpu_route_backward,
    .part_take = cpu_part_take,
    .part_add = cpu_part_add,
    .part_put = cpu_part_put,
    .part_dot = cpu_part_dot,
    .experts_forward = cpu_experts_forward,
    .experts_backward = cpu_experts_backward,
    .experts_quantized = cpu_experts_quantized,
    .score_output = cpu_score_output,
    .amax = cpu_amax,
    .magnitudes = cpu_magnitudes,
    .operand_new = cpu_operand_new,
    .operand_free = cpu_operand_free,
    .quantize_weight = cpu_quantize_weight,
    .quantize_act = cpu_quantize_act,
    .linear_quantized = cpu_linear_quantized,
    .products = cpu_products,
    .score = cpu_score,
    .dots_end = cpu_dots_end,
};
