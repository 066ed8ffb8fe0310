/* Opening, memory, and the table itself. */
#include "backend/cuda/blocks.cuh"
#include "backend/cuda/quantize.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

/* Of device memory, what a context takes: beside what is taken here. */
static const uint64_t context_bytes = UINT64_C(550) << 20;

bool cuda_check(struct cuda_backend *c, cudaError_t e, const char *what)
{
    if (e != cudaSuccess && cuda_good(c))
        c->host.err_set(&c->failed, AQ_ERUN, "%s: %s failed: %s", c->base.identity, what,
                        cudaGetErrorString(e));
    return cuda_good(c);
}

/* ---- devices ---- */

static int cuda_probe(const struct backend_host *host, struct aq_err *err)
{
    int driver = 0, runtime = 0, count = 0;
    (void)cudaRuntimeGetVersion(&runtime);
    cudaError_t e = cudaDriverGetVersion(&driver);
    if (e != cudaSuccess || driver == 0) {
        host->err_set(err, AQ_EBACKEND, "there is no NVIDIA driver on this machine");
        return 0;
    }
    e = cudaGetDeviceCount(&count);
    if (e == cudaErrorInsufficientDriver)
        host->err_set(err, AQ_EBACKEND,
                      "the NVIDIA driver is too old: it serves CUDA %d.%d, the plugin needs %d.%d",
                      driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0))
        host->err_set(err, AQ_EBACKEND, "the NVIDIA driver finds no GPU");
    else if (e != cudaSuccess)
        host->err_set(err, AQ_EBACKEND, "cannot list the GPUs: %s", cudaGetErrorString(e));
    return e == cudaSuccess ? count : 0;
}

static void cuda_close(struct backend *b)
{
    struct cuda_backend *c = cuda_of(b);
    if (c->stream)
        (void)cudaStreamSynchronize(c->stream);
    uploader_close(c);
    gemm_close(c);
    kept_close(c);
    for (int i = 0; i < SCRATCHES; i++)
        cuda_give(c, c->scratch[i].data, c->scratch[i].bytes);
    for (auto &f : *c->frequencies)
        (void)cudaFree(f.second);
    for (auto &r : *c->rooms)
        cuda_give(c, r.second, r.first);
    (void)cudaFree(c->bad);
    (void)cudaFreeHost(c->bad_host);
    if (c->stream)
        (void)cudaStreamDestroy(c->stream);
    c->host.note(1, "peak device memory %.2f GB", (double)c->peak / 1e9);
    delete c->quantized;
    delete c->waiting;
    delete c->frequencies;
    delete c->rooms;
    free(c);
}

extern const struct backend_ops cuda_ops;

/* Of quantized inputs: 512 captions in a 4B model's dimensions take no longer than with all. */
static const uint64_t most_kept = UINT64_C(2304) << 20;

static int open_device(struct cuda_backend *c, struct aq_err *err)
{
    cudaDeviceProp prop;
    cudaError_t e = cudaSetDevice(c->config.device);
    if (e == cudaSuccess)
        e = cudaGetDeviceProperties(&prop, c->config.device);
    if (e == cudaSuccess && prop.major < 8)
        return c->host.err_set(err, AQ_EBACKEND,
                               "'%s' has compute capability %d.%d, the plugin needs 8.0", prop.name,
                               prop.major, prop.minor);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&c->bad, sizeof *c->bad);
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&c->bad_host, sizeof *c->bad_host);
    if (e != cudaSuccess)
        return c->host.err_set(err, AQ_EBACKEND, "cannot use GPU %d: %s", c->config.device,
                               cudaGetErrorString(e));
    c->blocks = c->config.bf16 && blocks_available(c);
    if (c->blocks)
        c->base.expert_rows = BLOCKS_ROWS;
    /* bits depend on which kernels there are: sm_90a has those of blocks.cu */
    (void)snprintf(c->base.identity, sizeof c->base.identity, "cuda/sm_%d%d%s/%s", prop.major,
                   prop.minor, c->blocks ? "a" : "", c->config.bf16 ? "bf16" : "fp32");
    c->multiprocessors = prop.multiProcessorCount;
    size_t available = 0, total = 0;
    (void)cudaMemGetInfo(&available, &total);
    c->base.keep_bytes = std::min(most_kept, (uint64_t)available / 32);
    c->host.note(2, "GPU %d is '%s'", c->config.device, prop.name);
    *c->bad_host = INT32_MAX;
    (void)cudaMemcpyAsync(c->bad, c->bad_host, sizeof *c->bad, cudaMemcpyHostToDevice, c->stream);
    return 0;
}

/* Blocks of 128 x 256 results of even the narrow linears fill a large GPU nearly evenly; more rows
   are mostly padding after a small data set's last sample. */
enum { usual_rows = 1536 };

static int cuda_open(struct backend **out, const struct backend_host *host,
                     const struct backend_config *config, struct aq_err *err)
{
    *out = NULL;
    if (host->struct_size != sizeof *host || config->struct_size != sizeof *config)
        return host->err_set(err, AQ_EBACKEND, "plugin and program differ in their structs");
    struct cuda_backend *c = (struct cuda_backend *)calloc(1, sizeof *c);
    if (!c)
        return host->err_set(err, AQ_ERUN, "no memory for the CUDA backend");
    c->base.ops = &cuda_ops;
    c->base.act_size = sizeof(float);
    c->base.weight_size = form_bytes(config->bf16 ? FORM_TERMS : FORM_F32);
    c->base.weights_bf16 = config->bf16;
    c->base.searches = 1;
    c->base.threads = 1;
    c->base.batch_bytes = (uint64_t)6 << 30;
    c->base.tile_tokens = usual_rows;
    c->base.chunk_rows = (int32_t)gemm_chunk(usual_rows);
    c->base.inputs_at_once = 12; /* three numbers at three sizes, and three dynamic ones */
    c->base.expert_tile_tokens =
        4 * usual_rows; /* of 128 experts with 8 a token: 384 rows for each */
    /* 660 TFLOP/s of an H200 where 64 have 490 and 192 have 700; an expert's last are padded */
    c->base.expert_rows = 128;
    c->base.experts_at_once = MOST_EXPERTS;
    c->base.experts_bytes = (uint64_t)4 << 30;
    c->host = *host;
    c->config = *config;
    if (config->kept_until > context_bytes)
        c->config.kept_until -= context_bytes;
    c->quantized = new std::vector<const char *>;
    c->waiting = new std::vector<struct backend_operand *>;
    c->frequencies = new std::map<std::vector<float>, float *>;
    c->rooms = new std::multimap<size_t, void *>;
    c->kept = kept_open();
    if (open_device(c, err) < 0 || gemm_open(c, err) < 0 || uploader_open(c, err) < 0) {
        cuda_close(&c->base);
        return -1;
    }
    *out = &c->base;
    return 0;
}

/* ---- memory ---- */

static void *take_refused(struct cuda_backend *c, size_t bytes, const char *purpose, cudaError_t e,
                          struct aq_err *err)
{
    size_t available = 0, total = 0;
    (void)cudaMemGetInfo(&available, &total);
    if (e == cudaErrorMemoryAllocation)
        (void)c->host.err_set(
            err, AQ_ERUN,
            "out of device memory: %.1f MB for %s, after %.1f MB of ours; %.1f of "
            "%.1f MB are free",
            (double)bytes / 1e6, purpose, (double)c->used / 1e6, (double)available / 1e6,
            (double)total / 1e6);
    else
        (void)c->host.err_set(err, AQ_ERUN, "cannot take %.1f MB of device memory for %s: %s",
                              (double)bytes / 1e6, purpose, cudaGetErrorString(e));
    return NULL;
}

static bool beyond(const struct cuda_backend *c, uint64_t limit, size_t bytes)
{
    return limit && (bytes > limit || c->used > limit - bytes);
}

static bool beyond_limit(const struct cuda_backend *c, size_t bytes)
{
    return beyond(c, c->config.memory, bytes);
}

/* Weights that are kept for a later pass make room. */
void *cuda_take(struct cuda_backend *c, size_t bytes, const char *purpose, struct aq_err *err)
{
    while ((beyond_limit(c, bytes) || beyond(c, c->config.kept_until, bytes)) &&
           uploader_spare(c)) {
    }
    if (beyond_limit(c, bytes)) {
        (void)c->host.err_set(
            err, AQ_ERUN,
            "%.1f MB of device memory for %s do not fit: %.1f MB are taken of the "
            "limit of %.1f MB",
            (double)bytes / 1e6, purpose, (double)c->used / 1e6, (double)c->config.memory / 1e6);
        return NULL;
    }
    void *p = NULL;
    cudaError_t e;
    do {
        e = cudaMalloc(&p, bytes ? bytes : 1);
        if (e != cudaSuccess)
            (void)cudaGetLastError();
    } while (e == cudaErrorMemoryAllocation && uploader_spare(c));
    if (e != cudaSuccess)
        return take_refused(c, bytes, purpose, e, err);
    c->used += bytes;
    c->peak = c->used > c->peak ? c->used : c->peak;
    return p;
}

void cuda_give(struct cuda_backend *c, void *p, size_t bytes)
{
    if (!p)
        return;
    (void)cudaFree(p); /* waits for the device */
    c->used -= bytes;
}

void *cuda_scratch(struct cuda_backend *c, enum scratch s, size_t bytes)
{
    struct scratch_room *r = &c->scratch[s];
    if (s == SCRATCH_X || s == SCRATCH_ROWS)
        c->in_scratch = NULL; /* the caller writes there */
    if (!cuda_good(c))
        return NULL;
    if (bytes <= r->bytes && r->data)
        return r->data;
    cuda_give(c, r->data, r->bytes);
    *r = scratch_room{NULL, 0};
    r->data = cuda_take(c, bytes, "scratch of the CUDA backend", &c->failed);
    if (r->data)
        r->bytes = bytes;
    return r->data;
}

/*
 * Two layers of weights, one in use and one being loaded, and the ends; a weight in its widest
 * quantized form, before it (fp32), and its scales; inputs and results of the products of a turn;
 * the head's logits; attention's matrices, or its terms of keys and values, which are more from
 * some 30,000 rows on; and the context.
 */
static uint64_t cuda_scratch_bytes(const struct backend *b, const struct backend_sizes *s)
{
    const uint64_t turn = cuda_turn_bytes, matrices = UINT64_C(256) << 20;
    uint64_t terms = (uint64_t)s->rows * (uint64_t)s->keys * 4 * sizeof(bf16);
    uint64_t result = (uint64_t)s->rows * (uint64_t)s->outputs * sizeof(float);
    uint64_t input = (uint64_t)s->rows * (uint64_t)s->inputs * form_bytes(FORM_TERMS);
    uint64_t results = result > turn ? result : turn, inputs = input > turn ? input : turn;
    uint64_t part = (uint64_t)s->part_rows * (uint64_t)s->part_inputs * form_bytes(FORM_TERMS);
    bool widens = b->weight_size != form_bytes(FORM_TERMS); /* fp32 */
    uint64_t widened = widens ? (uint64_t)s->part_weights * sizeof(float) : 0;
    return context_bytes + 2 * s->layer_bytes + s->end_bytes + (uint64_t)s->weight * 11 + results +
           (inputs > part ? inputs : part) + widened + (UINT64_C(64) << 20) +
           (terms > matrices ? terms : matrices);
}

static void *cuda_alloc(struct backend *b, size_t bytes, const char *purpose, struct aq_err *err)
{
    return cuda_take(cuda_of(b), bytes, purpose, err);
}

static void cuda_free(struct backend *b, void *p, size_t bytes)
{
    cuda_give(cuda_of(b), p, bytes);
}

static void cuda_zero(struct backend *b, void *p, size_t bytes)
{
    struct cuda_backend *c = cuda_of(b);
    if (cuda_good(c))
        (void)cuda_check(c, cudaMemsetAsync(p, 0, bytes, c->stream), "zeroing");
}

static void cuda_copy(struct backend *b, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *c = cuda_of(b);
    if (cuda_good(c))
        (void)cuda_check(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, c->stream),
                         "copying");
}

/* From pageable memory, which the call has read when it returns. */
static void cuda_upload(struct backend *b, void *to, const void *host, size_t bytes)
{
    struct cuda_backend *c = cuda_of(b);
    if (cuda_good(c))
        (void)cuda_check(c, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, c->stream),
                         "upload");
}

/* Names the first weight that was found wanting since the last look. */
static void look_at_weights(struct cuda_backend *c)
{
    if (*c->bad_host != INT32_MAX && cuda_good(c)) {
        size_t at = (size_t)*c->bad_host;
        const char *name = at < c->quantized->size() ? (*c->quantized)[at] : "a weight";
        c->host.err_set(&c->failed, AQ_EINPUT, "%s: not finite, or not after quantizing", name);
    }
    *c->bad_host = INT32_MAX;
    if (c->quantized->size())
        (void)cudaMemcpyAsync(c->bad, c->bad_host, sizeof *c->bad, cudaMemcpyHostToDevice,
                              c->stream);
    c->quantized->clear();
}

static int cuda_sync(struct backend *b, struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    cuda_flush_clipped(c);
    (void)cuda_check(
        c, cudaMemcpyAsync(c->bad_host, c->bad, sizeof *c->bad, cudaMemcpyDeviceToHost, c->stream),
        "reading the state");
    (void)cuda_check(c, cudaStreamSynchronize(c->stream), "the device's work");
    look_at_weights(c);
    if (cuda_good(c))
        return 0;
    if (err)
        *err = c->failed;
    c->failed.code = 0;
    return -1;
}

static int cuda_download(struct backend *b, void *host, const void *from, size_t bytes,
                         struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    cuda_flush_clipped(c);
    if (cuda_good(c))
        (void)cuda_check(c, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, c->stream),
                         "download");
    return cuda_sync(b, err);
}

/* In the order of struct backend_ops: C++17 has no designated initializers. */
const struct backend_ops cuda_ops = {
    BACKEND_ABI,
    sizeof(struct backend_ops),
    "cuda",
    cuda_probe,
    cuda_open,
    cuda_close,
    cuda_scratch_bytes,
    cuda_alloc,
    cuda_free,
    cuda_zero,
    cuda_copy,
    cuda_upload,
    cuda_download,
    cuda_sync,
    cuda_weights_load,
    cuda_weights_release,
    cuda_tile_new,
    cuda_tile_free,
    cuda_tile_part,
    cuda_embed,
    cuda_add,
    cuda_scale,
    cuda_bias_add,
    cuda_cols_copy,
    cuda_rmsnorm_forward,
    cuda_rmsnorm_backward,
    cuda_norm_rope_forward,
    cuda_norm_rope_backward,
    cuda_attention_forward,
    cuda_attention_backward,
    cuda_glu_forward,
    cuda_glu_pair_forward,
    cuda_glu_backward,
    cuda_linear_forward,
    cuda_linear_backward,
    cuda_loss,
    cuda_kl,
    cuda_logits,
    cuda_compare,
    cuda_route,
    cuda_route_backward,
    cuda_part_take,
    cuda_part_add,
    cuda_part_put,
    cuda_part_dot,
    cuda_experts_forward,
    cuda_experts_backward,
    cuda_experts_quantized,
    cuda_score_output,
    cuda_amax,
    cuda_magnitudes,
    cuda_operand_new,
    cuda_operand_free,
    cuda_quantize_weight,
    cuda_quantize_act,
    cuda_linear_quantized,
    cuda_products,
    cuda_score,
    cuda_inputs_keep,
    cuda_dots_end,
    cuda_moments,
    cuda_solve_bytes,
    cuda_moments_end,
    cuda_gptq_factor,
    cuda_gptq_codes,
    cuda_weight_ranges,
    cuda_clip_ranges,
    cuda_weight_measure,
    cuda_scaled_error,
};

extern "C" __attribute__((visibility("default"))) const struct backend_ops *aq_backend_plugin(void)
{
    return &cuda_ops;
}
