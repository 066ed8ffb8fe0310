/*
 * Weights from the mapped checkpoint to the device. A few threads copy chunks of the map into
 * pinned memory and send them on from there, each with two chunks in turn; the ops' stream waits
 * for a weight when it is first used. Released weights stay in memory that nothing else needs, at
 * most half of what was free at first, or up to the limit that was set: the next pass finds them
 * there. Beyond that the last that was released makes room for the next of its size, so that the
 * first layers stay, whichever way the next pass goes.
 *
 * In a bf16 run F32 and F16 become bf16 in that copy, so that products and quantizers start from
 * one and the same weight; in an fp32 run F16 becomes fp32, which is exact.
 */
#include "backend/cuda/cuda.cuh"

#include "base/num.h"

#include <string.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

static const size_t chunk_bytes = (size_t)4 << 20;
enum { MOST_THREADS = 8, STAGES = 2 };

/* What weight->dev points to. */
struct device_weight {
    char *data;
    size_t bytes;
    size_t chunks_left;
    bool sent;          /* all of its copies are on the copy stream */
    bool waited;        /* and the ops' stream waits for them */
    cudaEvent_t ready;  /* the last copy */
    cudaEvent_t unused; /* the last op that read it, while it is in the pool */
    uint64_t serial;    /* of the weight that it holds; 0: of none that comes again */
};

struct chunk {
    struct device_weight *w;
    const char *from; /* in the map: the weight, or its lower half */
    enum num_type from_type, to_type;
    size_t at, bytes; /* of the weight on the device */
    size_t begin;     /* `from` on the device */
};

struct uploader {
    struct cuda_backend *c;
    cudaStream_t stream;
    std::mutex lock;
    std::condition_variable work, done;
    std::deque<chunk> queue;
    std::vector<std::thread> threads;
    std::vector<device_weight *> pool; /* released, the last one at the end */
    uint64_t keep;                     /* bytes in use up to which the pool grows */
    cudaError_t failed;
    bool stop;
};

/* n elements at any address to bf16 or fp32. */
static void convert(void *to, enum num_type to_type, const char *from, enum num_type from_type,
                    size_t n)
{
    for (size_t i = 0; i < n; i++)
        num_write(to, to_type, i, num_read(from, from_type, i));
}

static void fill_stage(void *stage, const struct chunk *k)
{
    if (k->from_type == k->to_type) {
        memcpy(stage, k->from + (k->at - k->begin), k->bytes);
        return;
    }
    size_t size = num_bytes(k->to_type), first = (k->at - k->begin) / size;
    convert(stage, k->to_type, k->from + first * num_bytes(k->from_type), k->from_type,
            k->bytes / size);
}

static cudaError_t send_chunk(struct uploader *u, const struct chunk *k, void *stage,
                              cudaEvent_t sent)
{
    cudaError_t e = cudaEventSynchronize(sent); /* of the chunk that was here before */
    if (e != cudaSuccess)
        return e;
    fill_stage(stage, k);
    std::lock_guard<std::mutex> hold(u->lock);
    e = cudaMemcpyAsync(k->w->data + k->at, stage, k->bytes, cudaMemcpyHostToDevice, u->stream);
    if (e == cudaSuccess)
        e = cudaEventRecord(sent, u->stream);
    if (--k->w->chunks_left == 0) {
        if (e == cudaSuccess)
            e = cudaEventRecord(k->w->ready, u->stream);
        k->w->sent = true;
    }
    return e;
}

static void upload_thread(struct uploader *u)
{
    void *stage[STAGES] = {};
    cudaEvent_t sent[STAGES] = {};
    cudaError_t e = cudaSetDevice(u->c->config.device);
    for (int i = 0; i < STAGES && e == cudaSuccess; i++) {
        e = cudaMallocHost(&stage[i], chunk_bytes);
        if (e == cudaSuccess)
            e = cudaEventCreateWithFlags(&sent[i], cudaEventDisableTiming);
    }
    for (int turn = 0;; turn = (turn + 1) % STAGES) {
        struct chunk k;
        {
            std::unique_lock<std::mutex> hold(u->lock);
            u->work.wait(hold, [u] { return u->stop || !u->queue.empty(); });
            if (u->stop)
                break;
            k = u->queue.front();
            u->queue.pop_front();
        }
        if (e == cudaSuccess)
            e = send_chunk(u, &k, stage[turn], sent[turn]);
        std::lock_guard<std::mutex> hold(u->lock);
        if (e != cudaSuccess) {
            u->failed = e;
            k.w->sent = true;
        }
        if (k.w->sent)
            u->done.notify_all();
    }
    for (int i = 0; i < STAGES; i++) {
        if (sent[i])
            (void)cudaEventSynchronize(sent[i]);
        (void)cudaEventDestroy(sent[i]);
        (void)cudaFreeHost(stage[i]);
    }
}

int uploader_open(struct cuda_backend *c, struct aq_err *err)
{
    struct uploader *u = new uploader{};
    u->c = c;
    c->uploader = u;
    cudaError_t e = cudaStreamCreateWithFlags(&u->stream, cudaStreamNonBlocking);
    if (e != cudaSuccess)
        return c->host.err_set(err, AQ_EBACKEND, "cannot make a stream for weights: %s",
                               cudaGetErrorString(e));
    size_t available = 0, total = 0;
    (void)cudaMemGetInfo(&available, &total);
    u->keep = c->config.memory       ? c->config.memory
              : c->config.kept_until ? c->config.kept_until
                                     : available / 2;
    unsigned cores = std::thread::hardware_concurrency();
    unsigned threads = cores / 2 < 1 ? 1 : cores / 2 > MOST_THREADS ? MOST_THREADS : cores / 2;
    for (unsigned i = 0; i < threads; i++)
        u->threads.emplace_back(upload_thread, u);
    return 0;
}

static void discard(struct cuda_backend *c, struct device_weight *w)
{
    cuda_give(c, w->data, w->bytes);
    (void)cudaEventDestroy(w->ready);
    (void)cudaEventDestroy(w->unused);
    delete w;
}

bool uploader_spare(struct cuda_backend *c)
{
    struct uploader *u = c->uploader;
    if (!u || u->pool.empty())
        return false;
    struct device_weight *w = u->pool.back();
    u->pool.pop_back();
    discard(c, w);
    return true;
}

void uploader_close(struct cuda_backend *c)
{
    struct uploader *u = c->uploader;
    if (!u)
        return;
    {
        std::lock_guard<std::mutex> hold(u->lock);
        u->stop = true;
        u->work.notify_all();
    }
    for (std::thread &t : u->threads)
        t.join();
    while (uploader_spare(c)) {
    }
    if (u->stream)
        (void)cudaStreamDestroy(u->stream);
    delete u;
    c->uploader = NULL;
}

static struct device_weight *out_of_pool(struct uploader *u, size_t i)
{
    struct device_weight *w = u->pool[i];
    u->pool.erase(u->pool.begin() + (long)i);
    return w;
}

/* The very numbers, from an earlier load. */
static struct device_weight *kept(struct uploader *u, uint64_t serial)
{
    for (size_t i = u->pool.size(); serial && i-- > 0;)
        if (u->pool[i]->serial == serial)
            return out_of_pool(u, i);
    return NULL;
}

/* Memory of this size that a released weight left, the last one first. */
static struct device_weight *left_over(struct uploader *u, size_t bytes, bool kept_too)
{
    for (size_t i = u->pool.size(); i-- > 0;) {
        if (u->pool[i]->bytes != bytes || (u->pool[i]->serial && !kept_too))
            continue;
        struct device_weight *w = out_of_pool(u, i);
        (void)cudaStreamWaitEvent(u->stream, w->unused, 0);
        return w;
    }
    return NULL;
}

static struct device_weight *weight_room(struct cuda_backend *c, size_t bytes, struct aq_err *err)
{
    bool full = c->used + bytes > c->uploader->keep;
    struct device_weight *w = left_over(c->uploader, bytes, full);
    if (w)
        return w;
    char *data = (char *)cuda_take(c, bytes, "weights", err);
    if (!data)
        return NULL;
    w = new device_weight{};
    w->data = data;
    w->bytes = bytes;
    (void)cudaEventCreateWithFlags(&w->ready, cudaEventDisableTiming);
    (void)cudaEventCreateWithFlags(&w->unused, cudaEventDisableTiming);
    return w;
}

static void say_rounded(struct cuda_backend *c, const struct backend_weight *w)
{
    if (!c->config.bf16 || w->dtype == NUM_BF16 || w->exact || c->said_rounded)
        return;
    c->host.note(0, "weights of type %s are rounded to bf16 for this run",
                 w->dtype == NUM_F16 ? "F16" : "F32");
    c->said_rounded = true;
}

/* A piece of a weight, in chunks. */
static void queue_piece(struct uploader *u, struct chunk all)
{
    for (size_t at = 0; at < all.bytes; at += chunk_bytes) {
        struct chunk k = all;
        k.at += at;
        k.bytes = all.bytes - at < chunk_bytes ? all.bytes - at : chunk_bytes;
        k.w->chunks_left++;
        u->queue.push_back(k);
    }
}

int cuda_weights_load(struct backend *b, struct backend_weight *const *w, int count,
                      struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct uploader *u = c->uploader;
    for (int i = 0; i < count; i++) {
        if (w[i]->dev)
            continue;
        enum num_type type = cuda_weight_is_bf16(c, w[i]) ? NUM_BF16 : NUM_F32;
        size_t bytes = (size_t)w[i]->rows * (size_t)w[i]->cols * num_bytes(type);
        say_rounded(c, w[i]);
        struct device_weight *d = kept(u, w[i]->serial);
        if (d) {
            w[i]->dev = d;
            continue;
        }
        d = weight_room(c, bytes, err);
        if (!d)
            return -1;
        d->serial = w[i]->serial;
        c->base.weights_read +=
            (uint64_t)w[i]->rows * (uint64_t)w[i]->cols * num_bytes(w[i]->dtype);
        d->sent = d->waited = false;
        d->chunks_left = 0;
        w[i]->dev = d;
        size_t upper = w[i]->lower ? bytes / 2 : bytes;
        std::lock_guard<std::mutex> hold(u->lock);
        queue_piece(u, chunk{d, (const char *)w[i]->host, w[i]->dtype, type, 0, upper, 0});
        if (w[i]->lower)
            queue_piece(u, chunk{d, (const char *)w[i]->lower, w[i]->dtype, type, upper,
                                 bytes - upper, upper});
        u->work.notify_all();
    }
    return 0;
}

/* Until every chunk is on the copy stream. */
static void wait_until_sent(struct uploader *u, const struct device_weight *d)
{
    std::unique_lock<std::mutex> hold(u->lock);
    u->done.wait(hold, [d] { return d->sent; });
}

void cuda_weights_release(struct backend *b, struct backend_weight *const *w, int count)
{
    struct cuda_backend *c = cuda_of(b);
    for (int i = 0; i < count; i++) {
        struct device_weight *d = (struct device_weight *)w[i]->dev;
        w[i]->dev = NULL;
        if (!d)
            continue;
        wait_until_sent(c->uploader, d);
        (void)cudaEventRecord(d->unused, c->stream);
        c->uploader->pool.push_back(d);
    }
}

const void *cuda_weight(struct cuda_backend *c, const struct backend_weight *w)
{
    struct device_weight *d = (struct device_weight *)w->dev;
    if (!cuda_good(c))
        return NULL;
    if (!d->waited) {
        wait_until_sent(c->uploader, d);
        if (!cuda_check(c, c->uploader->failed, "upload of weights") ||
            !cuda_check(c, cudaStreamWaitEvent(c->stream, d->ready, 0), "waiting for weights"))
            return NULL;
        d->waited = true;
    }
    return d->data;
}

/* ---- the compute type ---- */

__global__ static void widen(float *to, const bf16 *from, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        to[i] = __bfloat162float(from[i]);
}

/* w numbers at a time */
template <int w> __global__ static void narrow(bf16 *to, const float *from, int64_t n)
{
    struct alignas(w * sizeof(bf16)) narrowed {
        bf16 e[w];
    };
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n / w; i += step) {
        struct floats<w> x = ((const struct floats<w> *)from)[i];
        struct narrowed y;
        for (int k = 0; k < w; k++)
            y.e[k] = __float2bfloat16_rn(x.e[k]);
        ((struct narrowed *)to)[i] = y;
    }
}

enum { CONVERT_BLOCKS = 1056 };

const void *cuda_weight_typed(struct cuda_backend *c, const struct backend_weight *w, int64_t at,
                              int64_t rows)
{
    const char *from = (const char *)cuda_weight(c, w);
    bool is_bf16 = cuda_weight_is_bf16(c, w);
    int64_t n = rows * w->cols;
    if (!from)
        return NULL;
    from += at * w->cols * (is_bf16 ? 2 : 4);
    if (is_bf16 == (c->config.bf16 != 0))
        return from;
    void *to = cuda_scratch(c, SCRATCH_W, (size_t)n * sizeof(float));
    if (!to)
        return NULL;
    widen<<<CONVERT_BLOCKS, THREADS, 0, c->stream>>>((float *)to, (const bf16 *)from, n);
    return cuda_launched(c, "converting a weight") ? to : NULL;
}

bool cuda_weights_typed(struct cuda_backend *c, const struct backend_weight *const *w, int count,
                        const void **to)
{
    size_t each = 0, widened = 0;
    for (int i = 0; i < count; i++) {
        to[i] = w[i] ? cuda_weight(c, w[i]) : NULL;
        if (w[i] && !to[i])
            return false;
        if (!w[i] || cuda_weight_is_bf16(c, w[i]) == (c->config.bf16 != 0))
            continue;
        each = (size_t)(w[i]->rows * w[i]->cols);
        widened++;
    }
    float *room =
        widened ? (float *)cuda_scratch(c, SCRATCH_W, widened * each * sizeof *room) : NULL;
    for (int i = 0; i < count && widened && room; i++) {
        if (!w[i] || cuda_weight_is_bf16(c, w[i]) == (c->config.bf16 != 0))
            continue;
        widen<<<CONVERT_BLOCKS, THREADS, 0, c->stream>>>(room, (const bf16 *)to[i], (int64_t)each);
        to[i] = room;
        room += each;
    }
    return cuda_good(c) && cuda_launched(c, "converting weights");
}

const void *gemm_input(struct cuda_backend *c, const void *x, int64_t elements)
{
    if (!c->config.bf16)
        return x;
    void *to = cuda_scratch(c, SCRATCH_X, (size_t)elements * sizeof(bf16));
    if (!to)
        return NULL;
    auto kernel = in_quads(elements, to, x, NULL) ? narrow<4> : narrow<1>;
    kernel<<<CONVERT_BLOCKS, THREADS, 0, c->stream>>>((bf16 *)to, (const float *)x, elements);
    return cuda_launched(c, "converting an input") ? to : NULL;
}
