#include "backend/cpu/blas.h"

#include "base/mem.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * OpenBLAS's own calls, weak so that any other CBLAS links too. Its serial variant hands out work
 * buffers without a lock: two callers at once now and then get a wrong product, silently.
 */
extern int openblas_get_parallel(void) __attribute__((weak));
extern void openblas_set_num_threads(int n) __attribute__((weak));
extern char *openblas_get_corename(void) __attribute__((weak));
extern void *blas_memory_alloc(int) __attribute__((weak));
extern void blas_memory_free(void *) __attribute__((weak));
extern int blas_thread_shutdown_(void) __attribute__((weak));

enum { SERIAL, PTHREAD, OPENMP };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t serial_lock = PTHREAD_MUTEX_INITIALIZER;
static int locked;
static char name[64] = "cblas";
static char modest[200];
static const char *warning;

/*
 * OpenBLAS knows processors by model number, and takes one that it does not know for a very old
 * one. It chooses when it is loaded, so that the environment alone can tell it better.
 */
static bool too_modest(const char *core)
{
#if defined(__x86_64__)
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    static const char *const plain[] = {"Haswell", "Zen", "Excavator"};
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
    const char *const *fits = avx512 ? wide : plain;
    size_t count = avx512 ? AQ_COUNT(wide) : AQ_COUNT(plain);
    if (!avx512 && !__builtin_cpu_supports("avx2"))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(core, fits[i]) == 0)
            return false;
    return true;
#else
    (void)core;
    return false;
#endif
}

static const char *better_core(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") ? "SkylakeX" : "Haswell";
#else
    return "";
#endif
}

static void init(void)
{
    if (openblas_get_corename) {
        const char *core = openblas_get_corename();
        (void)snprintf(name, sizeof name, "openblas-%s", core);
        if (too_modest(core)) {
            (void)snprintf(modest, sizeof modest,
                           "OpenBLAS takes this processor for a '%s': OPENBLAS_CORETYPE=%s in the "
                           "environment makes its products faster",
                           core, better_core());
            warning = modest;
        }
    }
    if (!openblas_get_parallel) {
        /* Unknown library: only one caller at a time is safe whatever it is. */
        locked = 1;
        warning = "this BLAS does not say whether several threads may call it; its calls are "
                  "made one at a time (OpenBLAS with pthreads is faster)";
        return;
    }
    int variant = openblas_get_parallel();
    if (variant == SERIAL) {
        locked = 1;
        warning = "the serial OpenBLAS is not safe under several threads; its calls are made one "
                  "at a time (libopenblas0-pthread is faster)";
    } else if (variant == OPENMP) {
        warning = "OpenBLAS with OpenMP makes its callers wait for one another; "
                  "libopenblas0-pthread is faster";
    }
    if (openblas_set_num_threads)
        openblas_set_num_threads(1);
    /* Its own threads, started when it was loaded, would spin for a tenth of a second before they
     * sleep, on the processors that ours need. OpenBLAS ends them so itself before a fork. */
    if (variant == PTHREAD && blas_thread_shutdown_)
        (void)blas_thread_shutdown_();
}

const char *blas_init(void)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    (void)pthread_once(&once, init);
    return atomic_flag_test_and_set(&warned) ? NULL : warning;
}

const char *blas_name(void)
{
    (void)pthread_once(&once, init);
    return name;
}

/* ---- memory ---- */

/* What OpenBLAS maps for each caller that it has at once, BUFFER_SIZE of its sources. */
enum { CALLER_BYTES = 128 << 20 };

void blas_begin(char **argv)
{
    static const char variable[] = "OPENBLAS_NUM_THREADS";
    const char *threads = getenv(variable);
    char self[PATH_MAX];
    if (!openblas_set_num_threads || !aq_mem_limited() || (threads && strcmp(threads, "1") == 0))
        return;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || setenv(variable, "1", 1) < 0)
        return;
    self[n] = '\0';
    (void)execv(self, argv);
}

/* Can `count` buffers be had? They are mapped as OpenBLAS maps them, and unmapped again. */
static int try_buffers(void **buffers, int count, struct aq_err *err)
{
    int got = 0;
    for (; got < count; got++) {
        buffers[got] =
            mmap(NULL, CALLER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (buffers[got] == MAP_FAILED)
            break;
    }
    if (got < count) {
        (void)aq_err_sys(err, AQ_ERUN,
                         "cannot get the %.1f MB that OpenBLAS takes for each of %d threads",
                         CALLER_BYTES / 1e6, count);
        (void)aq_mem_hint(err);
    }
    for (int i = 0; i < got; i++)
        (void)munmap(buffers[i], CALLER_BYTES);
    return got < count ? -1 : 0;
}

/* Once mapped, a buffer stays with OpenBLAS, for whichever thread calls next. */
static int take_buffers(void **buffers, int count, struct aq_err *err)
{
    int got = 0;
    for (; got < count; got++)
        if (!(buffers[got] = blas_memory_alloc(0)))
            break;
    for (int i = 0; i < got; i++)
        blas_memory_free(buffers[i]);
    if (got < count)
        return aq_err_set(err, AQ_ERUN, "OpenBLAS serves %d threads at once, not %d", got, count);
    return 0;
}

int blas_reserve(int callers, struct aq_err *err)
{
    static int reserved;
    if (!blas_memory_alloc || !blas_memory_free)
        return 0;
    int count = locked ? 1 : callers;
    if (count <= reserved)
        return 0;
    void **buffers = xcalloc((size_t)count, sizeof *buffers);
    int r = try_buffers(buffers, count - reserved, err);
    if (r == 0)
        r = take_buffers(buffers, count, err);
    free(buffers);
    if (r == 0)
        reserved = count;
    return r;
}

void blas_gemm(int ta, int tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
               const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (locked)
        (void)pthread_mutex_lock(&serial_lock);
    cblas_sgemm(CblasRowMajor, ta == BLAS_T ? CblasTrans : CblasNoTrans,
                tb == BLAS_T ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1.0F, a, (int)lda,
                b, (int)ldb, beta, c, (int)ldc);
    if (locked)
        (void)pthread_mutex_unlock(&serial_lock);
}

void blas_gemm_plain(int ta, int tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                     const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = beta != 0 ? (double)beta * c[i * ldc + j] : 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)(ta == BLAS_T ? a[l * lda + i] : a[i * lda + l]) *
                       (double)(tb == BLAS_T ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = (float)sum;
        }
    }
}
