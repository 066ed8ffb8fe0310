/* The rules of an engine, and what they say of some groups: a verdict with a printable reason. */
#include "engine/engine.h"
#include "mem_file.h"

#include <fcntl.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void leave(void)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/engine/e.yaml", dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/engine", dir);
    (void)rmdir(path);
    (void)rmdir(dir);
}

/* conf/engine/e.yaml in a directory of its own; the reader makes the path itself. */
static void write_rules(const uint8_t *data, size_t size)
{
    char path[96];
    if (!dir[0]) {
        (void)snprintf(dir, sizeof dir, "%s/aq-fuzz-XXXXXX",
                       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(dir))
            abort();
        (void)snprintf(path, sizeof path, "%s/engine", dir);
        if (mkdir(path, 0700) < 0)
            abort();
        (void)atexit(leave);
    }
    (void)snprintf(path, sizeof path, "%s/engine/e.yaml", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size || close(fd) < 0)
        abort();
}

static void check(const struct engine *e)
{
    static const char *const treatments[][2] = {
        {"none", "none"},
        {"e4m3:axis0:static", "e4m3:token:dynamic"},
        {"int4:block(-1:128):static", "none"},
        {"e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):static"},
    };
    struct engine_target target;
    if (engine_target_parse("e:sm90:tp2", &target, NULL) < 0)
        abort();
    for (int layout = 0; layout < LAYOUTS; layout++) {
        struct engine_verdict all[4];
        for (size_t i = 0; i < 4; i++) {
            const struct engine_group g = {.kind = i % 2 ? "qkv" : "down",
                                           .arch = "qwen3",
                                           .tied = i == 2,
                                           .modules = 1 + (int)i,
                                           .rows = {64, 96, 128, 130},
                                           .cols = {256, 100, 64, 0},
                                           .weight = treatments[i][0],
                                           .act = treatments[i][1]};
            engine_judge(e, &target, (enum scheme_layout)layout, &g, &all[i]);
        }
        engine_judge_recipe(e, (enum scheme_layout)layout, all, 4);
        for (size_t i = 0; i < 4; i++)
            if (all[i].verdict >= VERDICTS || !memchr(all[i].reason, 0, sizeof all[i].reason))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_err err = {0};
    write_rules(data, size);
    struct engine *e = engine_load(dir, "e", &err);
    if (!e) {
        must_be_refusal(&err);
        return 0;
    }
    (void)engine_has_layout(e, engine_default_layout(e));
    check(e);
    engine_free(e);
    return 0;
}
