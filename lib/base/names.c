#include "base/names.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/suggest.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void aq_names_add(struct aq_names *n, const char *name)
{
    AQ_GROW(n->items, n->count, n->cap);
    n->items[n->count++] = name;
}

size_t aq_names_place(struct aq_names *n, const char *name)
{
    size_t i = 0;
    while (i < n->count && strcmp(n->items[i], name) != 0)
        i++;
    if (i == n->count)
        aq_names_add(n, name);
    return i;
}

static int by_name(const void *a, const void *b, void *names)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    const char *const *list = names;
    int order = strcmp(list[x], list[y]);
    if (order)
        return order;
    return x < y ? -1 : x > y;
}

ptrdiff_t aq_names_sort(struct aq_names *n)
{
    free(n->sorted);
    n->sorted = xcalloc(n->count + 1, sizeof *n->sorted);
    for (size_t i = 0; i < n->count; i++)
        n->sorted[i] = i;
    if (n->count > 1)
        qsort_r(n->sorted, n->count, sizeof *n->sorted, by_name, n->items);
    ptrdiff_t first = -1;
    for (size_t i = 1; i < n->count; i++) {
        size_t at = n->sorted[i];
        if (strcmp(n->items[n->sorted[i - 1]], n->items[at]) == 0 &&
            (first < 0 || at < (size_t)first))
            first = (ptrdiff_t)at;
    }
    return first;
}

ptrdiff_t aq_names_find(const struct aq_names *n, const char *name)
{
    size_t low = 0, high = n->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, n->items[n->sorted[middle]]);
        if (order == 0)
            return (ptrdiff_t)n->sorted[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

void aq_names_release(struct aq_names *n)
{
    free(n->items);
    free(n->sorted);
    *n = (struct aq_names)AQ_NAMES_INIT;
}

bool aq_names_have(const struct aq_names *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->items[i], name) == 0)
            return true;
    return false;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void aq_names_order(struct aq_names *n)
{
    free(n->sorted);
    n->sorted = NULL;
    if (n->count)
        qsort(n->items, n->count, sizeof *n->items, by_text);
}

void aq_names_unique(struct aq_names *n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n->count; i++)
        if (!kept || strcmp(n->items[i], n->items[kept - 1]) != 0)
            n->items[kept++] = n->items[i];
    n->count = kept;
}

/* Length of the option's name, 0 if the file is none. */
static size_t option_length(const char *file)
{
    static const char ending[] = ".yaml";
    size_t n = strlen(file), cut = sizeof ending - 1;
    return n > cut && strcmp(file + n - cut, ending) == 0 ? n - cut : 0;
}

int aq_names_read_dir(struct aq_names *n, struct aq_arena *a, const char *dir,
                      enum aq_names_kind kind)
{
    DIR *d = opendir(dir);
    if (!d)
        return -1;
    errno = 0;
    for (const struct dirent *e; (e = readdir(d)) != NULL; errno = 0) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        size_t len = kind == AQ_NAMES_GROUPS ? strlen(e->d_name) : option_length(e->d_name);
        if (len && (kind == AQ_NAMES_GROUPS ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode)))
            aq_names_add(n, aq_arena_strndup(a, e->d_name, len));
    }
    int error = errno;
    (void)closedir(d);
    errno = error;
    return error ? -1 : 0;
}

void aq_names_hint(struct aq_err *err, const char *what, const char *name,
                   const struct aq_names *options)
{
    struct aq_buf list = AQ_BUF_INIT;
    const char *near = aq_nearest(name, options->items, options->count);
    if (near)
        aq_buf_addf(&list, "did you mean %s? ", aq_show(near));
    aq_buf_addf(&list, "%s: ", what);
    aq_join_names(&list, options->items, options->count);
    aq_err_hint(err, "%s", aq_buf_str(&list));
    aq_buf_release(&list);
}
