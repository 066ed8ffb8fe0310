/* Which backend: the CPU's table is linked in, others are plugins found by name. */
#include "backend/backend.h"

#include "backend/cpu/blas.h"
#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "quant/quant.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct backend_host the_host = {
    .struct_size = sizeof(struct backend_host),
    .err_set = aq_err_set,
    .warn = aq_warn,
    .note = aq_note,
};

static char *own_directory(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    return aq_path_dir(path);
}

/* $AQ_BACKEND_PATH alone if it is set; else next to the program, in ../lib, in libexec. Caller
 * frees. */
static char *find_plugin(const char *file, struct aq_err *err)
{
    const char *set = getenv("AQ_BACKEND_PATH");
    char *own = own_directory();
    char *beside = own ? aq_path_join(own, file) : NULL;
    char *lib = own ? xasprintf("%s/../lib/%s", own, file) : NULL;
    char *tries[] = {set && *set ? aq_path_join(set, file) : NULL, beside, lib,
                     aq_path_join(AQ_LIBEXECDIR, file)};
    char *found = NULL;
    size_t last = tries[0] ? 1 : AQ_COUNT(tries);
    for (size_t i = 0; i < last && !found; i++)
        if (tries[i] && aq_path_exists(tries[i]))
            found = xstrdup(tries[i]);
    if (!found) {
        (void)aq_err_set(err, AQ_EBACKEND, "no plugin '%s' in %s", file,
                         tries[0] ? aq_show(set)
                                  : "the program's directory, ../lib or " AQ_LIBEXECDIR);
        (void)aq_err_hint(err, "build it where nvcc is installed, or set AQ_BACKEND_PATH to its "
                               "directory");
    }
    for (size_t i = 0; i < AQ_COUNT(tries); i++)
        free(tries[i]);
    free(own);
    return found;
}

/* The table of a plugin, which stays loaded until the process ends. */
static const struct backend_ops *load_plugin(const char *name, struct aq_err *err)
{
    char *file = xasprintf("aq-backend-%s.so", name);
    char *path = find_plugin(file, err);
    free(file);
    if (!path)
        return NULL;
    const struct backend_ops *ops = NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    backend_plugin_fn *entry = NULL;
    if (handle) /* POSIX: a symbol's address fits a function pointer */
        *(void **)&entry = dlsym(handle, "aq_backend_plugin");
    if (!handle)
        (void)aq_err_set(err, AQ_EBACKEND, "cannot load plugin: %s", aq_show(dlerror()));
    else if (!entry)
        (void)aq_err_set(err, AQ_EBACKEND, "'%s' is not a backend plugin (no aq_backend_plugin)",
                         aq_show(path));
    else
        ops = entry();
    if (ops && (ops->abi != BACKEND_ABI || ops->struct_size != sizeof *ops)) {
        (void)aq_err_set(err, AQ_EBACKEND,
                         "plugin '%s' has interface %u of %u bytes, expected %d of %zu",
                         aq_show(path), ops->abi, ops->struct_size, BACKEND_ABI, sizeof *ops);
        (void)aq_err_hint(err, "build plugin and program from the same sources");
        ops = NULL;
    }
    free(path);
    return ops;
}

/* "cuda" or "cuda:3" */
static int parse_cuda(const char *device, int *index)
{
    int64_t n = 0;
    if (strncmp(device, "cuda", 4) != 0)
        return -1;
    if (device[4] == ':' ? !aq_parse_i64(device + 5, &n) || n < 0 || n > 1024 : device[4] != '\0')
        return -1;
    *index = (int)n;
    return 0;
}

static int open_cuda(struct backend **out, struct backend_config *config, struct aq_err *err)
{
    const struct backend_ops *ops = load_plugin("cuda", err);
    if (!ops)
        return -1;
    int devices = ops->probe(&the_host, err);
    if (devices <= 0)
        return -1;
    if (config->device >= devices)
        return aq_err_set(err, AQ_EBACKEND, "there is no device cuda:%d, only %d", config->device,
                          devices);
    return ops->open(out, &the_host, config, err);
}

void backend_begin(char **argv)
{
    blas_begin(argv);
}

int backend_open(struct backend **out, const char *device, const struct backend_config *config,
                 struct aq_err *err)
{
    struct backend_config c = *config;
    c.struct_size = sizeof c;
    c.device = 0;
    *out = NULL;
    if (strcmp(device, "cpu") == 0)
        return backend_cpu_ops.open(out, &the_host, &c, err);
    if (strcmp(device, "auto") == 0) {
        struct aq_err why = {0};
        if (open_cuda(out, &c, &why) == 0) {
            aq_note(1, "device: %s", (*out)->identity);
            return 0;
        }
        aq_note(1, "device: cpu (%s)", why.msg);
        return backend_cpu_ops.open(out, &the_host, &c, err);
    }
    if (parse_cuda(device, &c.device) < 0) {
        (void)aq_err_set(err, AQ_EUSAGE, "unknown device '%s'", aq_show(device));
        (void)aq_err_hint(err, "devices: auto, cpu, cuda, cuda:N");
        return -1;
    }
    if (open_cuda(out, &c, err) < 0)
        return aq_err_prefix(err, "device '%s'", device);
    return 0;
}

void backend_close(struct backend *b)
{
    if (b)
        b->ops->close(b);
}

void backend_print_build_info(void)
{
    const struct backend_config one_thread = {.threads = 1};
    struct aq_err err = {0};
    struct backend *cpu = NULL;
    if (backend_open(&cpu, "cpu", &one_thread, &err) == 0)
        printf("device cpu: %s, quantizers %s; fp32 arithmetic, with bf16 weights as stored\n",
               cpu->identity, quant_cpu());
    else
        printf("device cpu: %s\n", err.msg);
    backend_close(cpu);
    char *plugin = find_plugin("aq-backend-cuda.so", &err);
    printf("device cuda: %s\n", plugin ? plugin : err.msg);
    free(plugin);
}
