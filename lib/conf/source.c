#include "conf/source.h"
#include "base/buf.h"
#include "base/file.h"
#include "conf/defaults_item.h"
#include "conf/search.h"
#include "io/yaml.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_NAME = 1024 };

/* ---- directories ---- */

static void add_dir(struct conf_search *s, const char *dir)
{
    aq_names_add(&s->dirs, aq_arena_strdup(&s->arena, dir));
}

int conf_search_add(struct conf_search *s, const char *dir, struct aq_err *err)
{
    if (!aq_is_directory(dir))
        return aq_err_set(err, AQ_EUSAGE, "configuration directory '%s' is not there",
                          aq_show(dir));
    add_dir(s, dir);
    return 0;
}

int conf_search_init(struct conf_search *s, const char *config_dir, struct aq_err *err)
{
    *s = (struct conf_search){AQ_ARENA_INIT, {0}, AQ_STRMAP_INIT, AQ_STRMAP_INIT};
    if (config_dir && conf_search_add(s, config_dir, err) < 0)
        return -1;
    char *tree = conf_find(NULL, err);
    if (tree)
        add_dir(s, tree);
    free(tree);
    return s->dirs.count ? 0 : -1;
}

void conf_search_release(struct conf_search *s)
{
    free(s->dirs.items);
    aq_strmap_release(&s->files);
    aq_strmap_release(&s->groups);
    aq_arena_release(&s->arena);
    *s = (struct conf_search){AQ_ARENA_INIT, {0}, AQ_STRMAP_INIT, AQ_STRMAP_INIT};
}

/* ---- names ---- */

/* Plain components with single slashes between them: nothing that leads out of the tree. */
static bool is_inside(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > MAX_NAME)
        return false;
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    for (const char *p = name; p; p = strchr(p, '/'), p = p ? p + 1 : NULL) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
    }
    return true;
}

static bool ends_in_yaml(const char *name)
{
    size_t n = strlen(name);
    return n >= 5 && strcmp(name + n - 5, ".yaml") == 0;
}

static const char *path_in(struct conf_search *s, size_t dir, const char *name, const char *ending)
{
    const char *d = s->dirs.items[dir];
    size_t n = strlen(d);
    return aq_arena_printf(&s->arena, "%s%s%s%s", d, n && d[n - 1] == '/' ? "" : "/", name, ending);
}

static const char *find_file(struct conf_search *s, const char *name, size_t *dir)
{
    for (size_t i = 0; i < s->dirs.count; i++) {
        struct stat st;
        const char *path = path_in(s, i, name, ends_in_yaml(name) ? "" : ".yaml");
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            *dir = i;
            return path;
        }
    }
    return NULL;
}

const char *conf_dir_of(struct conf_search *s, const char *name)
{
    size_t dir;
    return is_inside(name) && find_file(s, name, &dir) ? s->dirs.items[dir] : NULL;
}

bool conf_group_exists(struct conf_search *s, const char *group)
{
    if (!is_inside(group))
        return false;
    if (!aq_strmap_has(&s->groups, group)) {
        bool found = false;
        for (size_t i = 0; i < s->dirs.count && !found; i++)
            found = aq_is_directory(path_in(s, i, group, ""));
        aq_strmap_put(&s->groups, aq_arena_strdup(&s->arena, group), found ? s : NULL);
    }
    return aq_strmap_get(&s->groups, group);
}

/* ---- files ---- */

/* "# @package NAME" among the leading comments of that form, in the first 512 characters. */
static int read_header(struct conf_search *s, struct conf_file *f, const struct aq_buf *text,
                       struct aq_err *err)
{
    size_t end = 0;
    for (size_t chars = 0; end < text->len && chars < 512; chars++)
        for (end++; end < text->len && (text->data[end] & 0xc0) == 0x80;)
            end++;
    char *head = aq_arena_strndup(&s->arena, text->data, end), *save = NULL;
    int line = 0;
    for (char *next = head, *at; (at = next) != NULL;) {
        next = strpbrk(at, "\r\n");
        line++;
        if (next) {
            size_t ending = next[0] == '\r' && next[1] == '\n' ? 2 : 1;
            *next = '\0';
            next += ending;
        }
        at += strspn(at, " \t\f\v");
        if (!*at)
            continue;
        const char *word = at + strspn(at, "#");
        word += strspn(word, " \t");
        if (*at != '#' || *word != '@')
            break;
        const char *key = strtok_r(at + (word - at), " \t", &save);
        const char *value = strtok_r(NULL, " \t", &save);
        if (!value || strtok_r(NULL, " \t", &save))
            return aq_err_set(err, AQ_EINPUT, "%s:%d: expected a header of the form '# @key value'",
                              aq_show(f->file), line);
        if (strcmp(key, "@package") == 0)
            f->package = value;
    }
    return 0;
}

static int read_conf(struct conf_search *s, struct conf_file *f, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    int r = aq_read_file(f->file, YAML_MAX_BYTES, &text, err);
    if (r == 0) {
        f->tree = yaml_parse_node(&s->arena, aq_buf_str(&text), text.len, f->file, err);
        r = f->tree ? 0 : -1;
    }
    if (r == 0 && f->tree->type != NODE_MAP)
        r = aq_err_set(err, AQ_EINPUT, "%s:%d: expected a mapping, found %s", aq_show(f->file),
                       f->tree->place.line, node_type_name(f->tree));
    if (r == 0)
        r = read_header(s, f, &text, err);
    if (r == 0)
        r = conf_read_defaults(&s->arena, f, err);
    aq_buf_release(&text);
    return r;
}

int conf_load(struct conf_search *s, const char *name, const struct conf_file **out,
              struct aq_err *err)
{
    *out = NULL;
    if (!is_inside(name))
        return aq_err_set(err, AQ_EUSAGE,
                          "'%s' is not the name of a configuration: expected plain names with '/' "
                          "between them",
                          aq_show(name));
    if (aq_strmap_has(&s->files, name)) {
        *out = aq_strmap_get(&s->files, name);
        return 0;
    }
    const char *kept = aq_arena_strdup(&s->arena, name);
    size_t dir;
    const char *path = find_file(s, name, &dir);
    struct conf_file *f = NULL;
    if (path) {
        f = aq_arena_alloc(&s->arena, sizeof *f);
        f->name = kept;
        f->file = path;
        if (read_conf(s, f, err) < 0)
            return -1;
    }
    aq_strmap_put(&s->files, kept, f);
    *out = f;
    return 0;
}

/* ---- lists of names ---- */

static struct aq_names list_all(struct conf_search *s, const char *group, enum aq_names_kind what)
{
    struct aq_names names = {0};
    if (*group && !is_inside(group))
        return names;
    for (size_t i = 0; i < s->dirs.count; i++)
        (void)aq_names_read_dir(&names, &s->arena, path_in(s, i, group, ""), what);
    aq_names_order(&names);
    aq_names_unique(&names);
    return names;
}

struct aq_names conf_options(struct conf_search *s, const char *group)
{
    return list_all(s, group, AQ_NAMES_OPTIONS);
}

struct aq_names conf_subgroups(struct conf_search *s, const char *group)
{
    return list_all(s, group, AQ_NAMES_GROUPS);
}

bool conf_has_model(struct conf_search *s, const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') &&
           conf_dir_of(s, aq_arena_printf(&s->arena, "model/%s/arch/%s.default", name, name));
}

struct aq_names conf_models(struct conf_search *s)
{
    struct aq_names names = conf_subgroups(s, "model");
    size_t kept = 0;
    for (size_t i = 0; i < names.count; i++)
        if (conf_has_model(s, names.items[i]))
            names.items[kept++] = names.items[i];
    names.count = kept;
    return names;
}
