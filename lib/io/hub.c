#include "io/hub.h"

#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

/* One part of an id, or the name of a snapshot: no path, no hidden file. */
static bool is_name(const char *s, size_t n)
{
    return n > 0 && s[0] != '.' && s[0] != '-' && strspn(s, NAME_LETTERS) >= n;
}

static bool has_id_form(const char *path)
{
    const char *slash = strchr(path, '/');
    return slash && is_name(path, (size_t)(slash - path)) && is_name(slash + 1, strlen(slash + 1));
}

bool hub_is_id(const char *path)
{
    return has_id_form(path) && !aq_path_exists(path);
}

/* The commit in refs/main, or NULL. */
static char *main_commit(const char *repository)
{
    char line[128] = "", *path = aq_path_join(repository, "refs/main");
    FILE *f = fopen(path, "re");
    free(path);
    if (!f)
        return NULL;
    size_t n = fread(line, 1, sizeof line - 1, f);
    (void)fclose(f);
    line[n] = '\0';
    line[strcspn(line, " \r\n")] = '\0';
    return is_name(line, strlen(line)) ? xstrdup(line) : NULL;
}

/* The name of the only directory below, or NULL. */
static char *only_entry(const char *dir)
{
    char *found = NULL;
    int count = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        if (!is_name(e->d_name, strlen(e->d_name)))
            continue;
        free(found);
        found = xstrdup(e->d_name);
        count++;
    }
    if (d)
        (void)closedir(d);
    if (count == 1)
        return found;
    free(found);
    return NULL;
}

/* The directory of a cached repository's files, or NULL. */
static char *snapshot(const char *repository)
{
    char *snapshots = aq_path_join(repository, "snapshots"), *found = NULL;
    if (aq_is_directory(snapshots)) {
        char *name = main_commit(repository);
        if (!name)
            name = only_entry(snapshots);
        found = name ? aq_path_join(snapshots, name) : NULL;
        free(name);
        if (found && !aq_is_directory(found)) {
            free(found);
            found = NULL;
        }
    }
    free(snapshots);
    return found;
}

/* The snapshot of ORG/NAME in the cache `root`/`below`; a root that is not set has none. */
static char *find_in(const char *root, const char *below, const char *id)
{
    if (!root || !*root)
        return NULL;
    const char *slash = strchr(id, '/');
    char *repository =
        xasprintf("%s%s/models--%.*s--%s", root, below, (int)(slash - id), id, slash + 1);
    char *found = snapshot(repository);
    free(repository);
    return found;
}

static char *find_in_caches(const char *id)
{
    static const struct {
        const char *variable, *below;
    } caches[] = {{"HF_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    char *found = NULL;
    for (size_t i = 0; i < sizeof caches / sizeof *caches && !found; i++)
        found = find_in(getenv(caches[i].variable), caches[i].below, id);
    return found;
}

char *hub_directory(const char *path)
{
    char *config = aq_path_join(path, "config.json"), *found = NULL;
    if (hub_is_id(path))
        found = find_in_caches(path);
    else if (!aq_path_exists(config))
        found = snapshot(path);
    free(config);
    return found ? found : xstrdup(path);
}
