#include "conf/inputs.h"
#include "base/file.h"
#include "base/mem.h"
#include "conf/check.h"
#include "conf/search.h"
#include "io/hub.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- links ---- */

/* The way from one directory to another path, both absolute and without links. */
static char *way_from(const char *from, const char *to)
{
    size_t common = 0, i = 0;
    for (; from[i] && from[i] == to[i]; i++)
        if (from[i] == '/')
            common = i + 1;
    if (!from[i] && (to[i] == '/' || !to[i]))
        common = i + (to[i] == '/');
    else if (from[i] == '/' && !to[i])
        common = i + 1;
    struct aq_buf text = AQ_BUF_INIT;
    for (const char *p = common <= strlen(from) ? from + common : ""; *p;) {
        size_t n = strcspn(p, "/");
        if (n)
            aq_buf_adds(&text, "../");
        p += n + (p[n] == '/');
    }
    aq_buf_adds(&text, common <= strlen(to) ? to + common : "");
    return aq_buf_detach(&text);
}

/* What the link in `dir` holds, so that a tree that is moved as a whole keeps working. */
static char *link_text(const char *dir, const char *path)
{
    char *found = conf_data_path(path), *here, *there, *way, *full;
    if (found[0] == '/')
        return found;
    here = realpath(dir, NULL);
    there = realpath(".", NULL);
    if (!here || !there) {
        free(here);
        free(there);
        return found;
    }
    way = way_from(here, there);
    full = aq_path_join(way, found);
    free(way);
    free(here);
    free(there);
    free(found);
    return full;
}

static bool holds(const char *link, const char *text)
{
    char now[PATH_MAX];
    ssize_t n = readlink(link, now, sizeof now);
    return n >= 0 && (size_t)n == strlen(text) && memcmp(now, text, (size_t)n) == 0;
}

static int put_link(const char *dir, const char *name, const char *path, struct aq_err *err)
{
    char *text = link_text(dir, path), *link = aq_path_join(dir, name);
    char *temp = xasprintf("%s/.aq-link.%ld", dir, (long)getpid());
    int result = 0;
    if (!holds(link, text)) {
        (void)unlink(temp);
        if (symlink(text, temp) < 0 || rename(temp, link) < 0) {
            result =
                aq_err_set(err, AQ_ERUN, "cannot link '%s': %s", aq_show(link), strerror(errno));
            (void)unlink(temp);
        }
    }
    free(temp);
    free(link);
    free(text);
    return result;
}

/* ---- which ---- */

/* A string of the configuration of one run; in the arena of the result. */
static const char *path_in(const struct node *app, const char *group, const char *key)
{
    const struct node *v = node_at(app, group, key, NULL);
    return v && v->type == NODE_STRING ? v->s : "";
}

struct paths {
    char *checkpoint, *captions;
    struct aq_names sizes; /* copies */
};

static void paths_release(struct paths *p)
{
    for (size_t i = 0; i < p->sizes.count; i++)
        free((char *)p->sizes.items[i]);
    aq_names_release(&p->sizes);
    free(p->checkpoint);
    free(p->captions);
    *p = (struct paths){0};
}

static int read_paths(const struct conf_job *job, struct aq_arena *scratch, struct paths *out,
                      struct aq_err *err)
{
    struct conf_result c;
    *out = (struct paths){0};
    if (conf_compose(job, scratch, &c, err) < 0)
        return -1;
    const struct node *app = conf_resolve(&c);
    int result = app ? 0 : -1;
    if (app) {
        const struct node *sizes = node_at(app, "dataset", "size_to_max_samples", NULL);
        char *path = conf_data_path(path_in(app, "model", "path"));
        out->checkpoint = hub_directory(path);
        free(path);
        out->captions = xstrdup(path_in(app, "dataset", "captions_path"));
        for (size_t i = 0; sizes && sizes->type == NODE_MAP && i < sizes->count; i++)
            if (sizes->items[i].key->type == NODE_STRING)
                aq_names_add(&out->sizes, xstrdup(sizes->items[i].key->s));
        if (!sizes || sizes->type != NODE_MAP)
            aq_names_add(&out->sizes, xstrdup(path_in(app, "dataset", "size")));
    }
    conf_result_release(&c);
    return result;
}

/* The captions of one size: the first run, but for its size. other_than: a path that is not linked.
 */
static int link_captions(struct resolver *r, struct conf_job *job, const char *dir,
                         const char *size, const char *other_than, struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct paths at = {0};
    struct override *list = xcalloc(job->count + 1, sizeof *list);
    struct conf_job one = *job;
    if (!check_is_name(size)) {
        free(list);
        return aq_err_set(err, AQ_EINPUT, "dataset.size_to_max_samples: '%s' is not a name",
                          aq_show(size));
    }
    memcpy(list, job->overrides, job->count * sizeof *list);
    one.overrides = list;
    one.count = job->count + 1;
    char *text = xasprintf("dataset.size=%s", size), *name = xasprintf("captions-%s", size);
    int result = override_parse(&r->arena, text, (int)one.count, &list[job->count], err);
    if (result == 0)
        result = read_paths(&one, &scratch, &at, err);
    if (result == 0 && !(other_than && strcmp(at.captions, other_than) == 0))
        result = put_link(dir, name, at.captions, err);
    paths_release(&at);
    free(name);
    free(text);
    free(list);
    aq_arena_release(&scratch);
    return result;
}

static const char heldout[] = "heldout";

static int link_all(struct resolver *r, const struct sweep_plan *plan, const char *dir,
                    struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT, kept = AQ_ARENA_INIT;
    struct override *list = xcalloc(plan->count + 1, sizeof *list);
    struct conf_job job = {.search = &r->search,
                           .primary = r->primary,
                           .overrides = list,
                           .count = plan->count,
                           .sweep = true,
                           .now = r->now};
    struct paths first = {0};
    int result = sweep_job(plan, 0, &kept, list, err);
    if (result == 0)
        result = read_paths(&job, &scratch, &first, err);
    if (result == 0)
        result = aq_make_dirs(dir, err);
    if (result == 0)
        result = put_link(dir, "checkpoint", first.checkpoint, err);
    for (size_t i = 0; i < first.sizes.count && result == 0; i++)
        result = link_captions(r, &job, dir, first.sizes.items[i], NULL, err);
    /* the text that recipes are judged by is called like a size; a path that does not depend on the
       size is the one that chose them */
    if (result == 0 && !aq_names_have(&first.sizes, heldout))
        result = link_captions(r, &job, dir, heldout, first.captions, err);
    paths_release(&first);
    free(list);
    aq_arena_release(&kept);
    aq_arena_release(&scratch);
    return result;
}

/* Is the model swept over? Its keys and groups begin with these words. */
static bool one_model(const struct sweep_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        if (plan->keys[i].texts.count > 1 &&
            (strncmp(plan->keys[i].texts.items[0], "model", 5) == 0 ||
             strncmp(plan->keys[i].texts.items[0], "dataset=", 8) == 0))
            return false;
    return true;
}

int inputs_link(struct resolver *r, const char *dir, struct aq_err *err)
{
    struct sweep_plan plan;
    if (sweep_expand(&r->search, &r->arena, r->overrides, r->count, &plan, err) < 0)
        return -1;
    char *in = aq_path_join(dir, "in");
    int result = one_model(&plan) ? link_all(r, &plan, in, err) : 0;
    free(in);
    sweep_release(&plan);
    return result;
}
