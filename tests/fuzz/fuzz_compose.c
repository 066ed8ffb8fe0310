/*
 * A whole tree: pieces of the input, separated by bytes 0xff, are the primary configuration, two
 * options of a group, and overrides. No crash, no file outside the tree.
 */
#include "base/file.h"
#include "conf/resolve.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char tree[64];

static void remove_tree(void)
{
    static const char *const names[] = {"/main.yaml", "/g/a.yaml", "/g/b.yaml", "/g", ""};
    char path[96];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "%s%s", tree, names[i]);
        (void)remove(path);
    }
}

static void make_tree(void)
{
    char group[80];
    (void)snprintf(tree, sizeof tree, "/tmp/aq-fuzz-XXXXXX");
    if (!mkdtemp(tree))
        abort();
    (void)snprintf(group, sizeof group, "%s/g", tree);
    if (aq_make_dirs(group, NULL) < 0)
        abort();
    (void)setenv("AQ_CONF", tree, 1);
    (void)atexit(remove_tree);
}

static void put_file(const char *name, const uint8_t *data, size_t size)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/%s", tree, name);
    FILE *f = fopen(path, "w");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const files[] = {"main.yaml", "g/a.yaml", "g/b.yaml"};
    enum { MAX_OVERRIDES = 8 };
    char *overrides[MAX_OVERRIDES] = {NULL};
    size_t count = 0, part = 0;
    if (!tree[0])
        make_tree();
    for (size_t from = 0; part < 3 + MAX_OVERRIDES; part++) {
        const uint8_t *end = from < size ? memchr(data + from, 0xff, size - from) : NULL;
        size_t n = from < size ? (end ? (size_t)(end - data) : size) - from : 0;
        if (part < 3)
            put_file(files[part], n ? data + from : data, n);
        else if (n)
            overrides[count++] = strndup((const char *)data + from, n);
        from += n + 1;
    }
    struct resolver r;
    struct aq_buf shown = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (resolver_init(&r, NULL, "main", (const char *const *)overrides, count, &err) == 0 &&
        resolve_show(&r, "a", true, &shown, &err) == 0)
        (void)resolve_explain(&r, "a", &shown, &err);
    resolver_release(&r);
    aq_buf_release(&shown);
    for (size_t i = 0; i < count; i++)
        free(overrides[i]);
    return 0;
}
