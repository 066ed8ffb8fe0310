/* Which kernels run on this machine. */
#include "quant/kernel.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

static const struct kernels *active;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* From the plainest to the best. */
#if defined(__x86_64__)
enum { PLAIN, AVX2, AVX512, LEVELS };
static const struct kernels *const levels[LEVELS] = {
    [PLAIN] = &kernels_plain,
    [AVX2] = &kernels_avx2,
    [AVX512] = &kernels_avx512,
};

static bool available(int level)
{
    __builtin_cpu_init();
    if (level == AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return level == PLAIN;
}
#else
enum { PLAIN, LEVELS };
static const struct kernels *const levels[LEVELS] = {[PLAIN] = &kernels_plain};

static bool available(int level)
{
    return level == PLAIN;
}
#endif

static int find(const char *name)
{
    for (int i = 0; i < LEVELS; i++)
        if (strcmp(levels[i]->name, name) == 0)
            return i;
    return -1;
}

static int best(void)
{
    int i = LEVELS - 1;
    while (!available(i))
        i--;
    return i;
}

/* A variable that asks for what is not there changes nothing: all kernels give the same bits. */
static void choose(void)
{
    const char *name = getenv("AQ_CPU");
    int wanted = name ? find(name) : -1;
    active = levels[wanted >= 0 && available(wanted) ? wanted : best()];
}

const struct kernels *kernels_active(void)
{
    pthread_once(&once, choose);
    return active;
}

const char *quant_cpu(void)
{
    return kernels_active()->name;
}

int quant_cpu_select(const char *name, struct aq_err *err)
{
    pthread_once(&once, choose);
    if (!name) {
        active = levels[best()];
        return 0;
    }
    int i = find(name);
    if (i < 0) {
        aq_err_set(err, AQ_EUSAGE, "unknown instruction set '%s'", aq_show(name));
        return aq_err_hint(err, "choices: plain, avx2, avx512");
    }
    if (!available(i))
        return aq_err_set(err, AQ_EBACKEND, "this CPU does not have %s", name);
    active = levels[i];
    return 0;
}
