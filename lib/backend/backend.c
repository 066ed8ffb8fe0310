/* Which backend: the CPU's table is linked in, others are plugins found by name. */
#include "backend/backend.h"

#include "backend/cpu/blas.h"
#include "backend/plugin.h"
#include "base/fmt.h"
#include "base/msg.h"
#include "quant/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct backend_host the_host = {
    .struct_size = sizeof(struct backend_host),
    .err_set = aq_err_set,
    .warn = aq_warn,
    .note = aq_note,
};

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
    const struct backend_ops *ops = plugin_load("cuda", err);
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
    char *plugin = plugin_find("aq-backend-cuda.so", &err);
    printf("device cuda: %s\n", plugin ? plugin : err.msg);
    free(plugin);
}
