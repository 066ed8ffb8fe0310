#include "base/name_list.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/suggest.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void name_list_add(struct name_list *names, const char *name)
{
    AQ_GROW(names->items, names->count, names->cap);
    names->items[names->count++] = name;
}

bool name_list_have(const struct name_list *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->items[i], name) == 0)
            return true;
    return false;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void name_list_sort(struct name_list *names)
{
    if (names->count)
        qsort(names->items, names->count, sizeof *names->items, by_text);
}

void name_list_unique(struct name_list *names)
{
    size_t kept = 0;
    for (size_t i = 0; i < names->count; i++)
        if (!kept || strcmp(names->items[i], names->items[kept - 1]) != 0)
            names->items[kept++] = names->items[i];
    names->count = kept;
}

/* Length of the option's name, 0 if the file is none. */
static size_t option_length(const char *file)
{
    static const char ending[] = ".yaml";
    size_t n = strlen(file), cut = sizeof ending - 1;
    return n > cut && strcmp(file + n - cut, ending) == 0 ? n - cut : 0;
}

int name_list_list(struct name_list *names, struct aq_arena *a, const char *dir,
                   enum name_listing what)
{
    DIR *d = opendir(dir);
    if (!d)
        return -1;
    errno = 0;
    for (const struct dirent *e; (e = readdir(d)) != NULL; errno = 0) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        size_t n = what == NAME_LIST_GROUPS ? strlen(e->d_name) : option_length(e->d_name);
        if (n && (what == NAME_LIST_GROUPS ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode)))
            name_list_add(names, aq_arena_strndup(a, e->d_name, n));
    }
    int error = errno;
    (void)closedir(d);
    errno = error;
    return error ? -1 : 0;
}

void name_list_hint(struct aq_err *err, const char *what, const char *name,
                    const struct name_list *options)
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
