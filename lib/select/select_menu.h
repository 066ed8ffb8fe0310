/*
 * What a user wants regardless of scores: a YAML list of rules.
 *
 *     - {match: "layers.*.mlp.down_proj", never: [wint4_aint8/default]}
 *     - {match: "re:layers\\.(0|1)\\..*", only: [wfp8_afp8/default, NONE]}
 *     - {match: "layers.35.*", pin: NONE}
 *
 * A rule acts on each group of which the pattern matches any member. Rules add up: a format must be
 * allowed by all of them.
 */
#ifndef AQ_SELECT_SELECT_MENU_H
#define AQ_SELECT_SELECT_MENU_H

#include "select/select_table.h"

enum sel_rule_kind { SEL_ONLY, SEL_NEVER, SEL_PIN, SEL_RULE_KINDS };

extern const char *const sel_rule_names[SEL_RULE_KINDS];

struct sel_rule {
    const char *match;
    enum sel_rule_kind kind;
    int *candidates; /* SEL_NONE or a position in the table */
    size_t count;
    bool *rows; /* that it acts on */
};

struct sel_menu {
    char *path;
    struct json *root; /* owns the texts */
    struct sel_rule *rules;
    size_t count;
};

/* Reads the file and finds groups and candidates. Caller releases, also after a failure. */
int sel_menu_read(struct sel_menu *m, const char *path, const struct sel_table *t,
                  struct aq_err *err) AQ_MUST_CHECK;
void sel_menu_release(struct sel_menu *m);

/* Sets `allowed` of all options; leaves out rule number `without` (-1: none). */
int sel_menu_apply(const struct sel_menu *m, struct sel_table *t, ptrdiff_t without,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
