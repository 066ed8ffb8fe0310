/*
 * Where configuration files are found: a short list of directories, searched in order, and what
 * was read from them, kept for the life of the search. A configuration is named by its path below
 * such a directory, without ".yaml": "quant_pair/wfp8_afp8". Names that would leave the
 * directories are refused before anything is opened.
 */
#ifndef AQ_CONF_SOURCE_H
#define AQ_CONF_SOURCE_H

#include "base/arena.h"
#include "base/names.h"
#include "base/strmap.h"
#include "io/node.h"

#include <stdbool.h>

/* One item of a defaults list, as written. */
struct conf_item {
    const char *group; /* "/db", "db"; NULL: a single file, named by path */
    const char *path;  /* of a single file; "_self_" */
    const char *package;
    struct node *value; /* of a group: a string, a list of strings, or null */
    bool optional, override;
    int line;
};

struct conf_file {
    const char *name;    /* "quant_pair/wfp8_afp8" */
    const char *file;    /* "conf/quant_pair/wfp8_afp8.yaml" */
    const char *package; /* of the "# @package" header, or NULL */
    struct node *tree;   /* a mapping, without the defaults list */
    struct conf_item *defaults;
    size_t default_count;
};

struct conf_search {
    struct aq_arena arena;
    struct aq_names dirs;
    struct aq_strmap files;  /* name -> struct conf_file, or NULL for one that is not there */
    struct aq_strmap groups; /* name -> non-NULL if it is a directory */
};

/*
 * config_dir (may be NULL), then the tree of conf_find. A directory that was asked for and is
 * missing is an error.
 */
int conf_search_init(struct conf_search *s, const char *config_dir,
                     struct aq_err *err) AQ_MUST_CHECK;
void conf_search_release(struct conf_search *s);
/* One more directory, searched last. */
int conf_search_add(struct conf_search *s, const char *dir, struct aq_err *err) AQ_MUST_CHECK;

/* *out is NULL if there is no such file. */
int conf_load(struct conf_search *s, const char *name, const struct conf_file **out,
              struct aq_err *err) AQ_MUST_CHECK;
/* The directory that holds name.yaml, or NULL. */
const char *conf_dir_of(struct conf_search *s, const char *name);
bool conf_group_exists(struct conf_search *s, const char *group);

/* Sorted names of a group's options, or of its subgroups; free .items. */
struct aq_names conf_options(struct conf_search *s, const char *group);
struct aq_names conf_subgroups(struct conf_search *s, const char *group);

/* Models are groups of their own: conf/model/NAME/arch/NAME.default.yaml. Free .items. */
struct aq_names conf_models(struct conf_search *s);
bool conf_has_model(struct conf_search *s, const char *name);

#endif
