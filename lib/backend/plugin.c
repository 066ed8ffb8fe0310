#include "backend/plugin.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *own_directory(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    return aq_path_dir(path);
}

char *plugin_find(const char *file, struct aq_err *err)
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

/* ---- is the file whole? ---- */

static bool fits(uint64_t offset, uint64_t bytes, size_t size)
{
    return offset <= size && bytes <= size - offset;
}

/* All that the ELF header and the program headers speak of. Other files are dlopen's to refuse. */
static bool is_whole(const struct aq_map *m)
{
    Elf64_Ehdr e;
    if (m->size < sizeof e)
        return true;
    memcpy(&e, m->data, sizeof e);
    if (memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS64 ||
        e.e_phentsize != sizeof(Elf64_Phdr))
        return true;
    if (!fits(e.e_phoff, (uint64_t)e.e_phnum * sizeof(Elf64_Phdr), m->size) ||
        !fits(e.e_shoff, (uint64_t)e.e_shnum * e.e_shentsize, m->size))
        return false;
    for (size_t i = 0; i < e.e_phnum; i++) {
        Elf64_Phdr p;
        memcpy(&p, m->data + e.e_phoff + i * sizeof p, sizeof p);
        if (!fits(p.p_offset, p.p_filesz, m->size))
            return false;
    }
    return true;
}

/*
 * dlopen maps the file: of one that was cut short, touching what is missing would be SIGBUS. A
 * named pipe it would wait for.
 */
static int check_file(const char *path, struct aq_err *err)
{
    struct aq_map m;
    int r = aq_map_open(&m, path, err);
    if (r == 0 && !is_whole(&m))
        r = aq_err_set(err, AQ_EBACKEND, "'%s' is cut short", aq_show(path));
    aq_map_close(&m);
    if (r < 0 && err)
        err->code = AQ_EBACKEND;
    return r < 0 ? aq_err_prefix(err, "cannot load plugin") : 0;
}

/* ---- loading ---- */

static const char *loading; /* the file whose code runs */

/* Called by exit: without this, a constructor that ends the program would pass for success. */
static void report_exit(void)
{
    if (!loading)
        return;
    char text[400];
    (void)snprintf(text, sizeof text, "cannot load plugin: '%s' ended the program",
                   aq_show(loading));
    aq_out_remove_temporaries();
    aq_msg_line(text);
    _exit(AQ_EBACKEND);
}

static const struct backend_ops *call_entry(const char *path, struct aq_err *err)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    backend_plugin_fn *entry = NULL;
    if (handle) /* POSIX: a symbol's address fits a function pointer */
        *(void **)&entry = dlsym(handle, "aq_backend_plugin");
    const struct backend_ops *ops = entry ? entry() : NULL;
    if (!handle)
        (void)aq_err_set(err, AQ_EBACKEND, "cannot load plugin: %s", aq_show(dlerror()));
    else if (!entry)
        (void)aq_err_set(err, AQ_EBACKEND, "'%s' is not a backend plugin (no aq_backend_plugin)",
                         aq_show(path));
    else if (!ops)
        (void)aq_err_set(err, AQ_EBACKEND, "plugin '%s' has no table of operations", aq_show(path));
    return ops;
}

static const struct backend_ops *check_ops(const struct backend_ops *ops, const char *path,
                                           struct aq_err *err)
{
    if (ops->abi == BACKEND_ABI && ops->struct_size == sizeof *ops)
        return ops;
    (void)aq_err_set(err, AQ_EBACKEND,
                     "plugin '%s' has interface %u of %u bytes, expected %d of %zu", aq_show(path),
                     ops->abi, ops->struct_size, BACKEND_ABI, sizeof *ops);
    (void)aq_err_hint(err, "build plugin and program from the same sources");
    return NULL;
}

const struct backend_ops *plugin_load(const char *name, struct aq_err *err)
{
    char *file = xasprintf("aq-backend-%s.so", name);
    char *path = plugin_find(file, err);
    const struct backend_ops *ops = NULL;
    free(file);
    if (path && check_file(path, err) == 0) {
        static bool registered;
        if (!registered)
            registered = atexit(report_exit) == 0;
        loading = path;
        ops = call_entry(path, err);
        loading = NULL;
    }
    ops = ops ? check_ops(ops, path, err) : NULL;
    free(path);
    return ops;
}
