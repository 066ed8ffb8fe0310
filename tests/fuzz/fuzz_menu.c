/*
 * A menu for the scores of tests/fuzz/seeds/fuzz_scores. What is accepted leaves every group a
 * candidate, and leaving out one rule never allows less. Started in the root of the repository.
 */
#include "mem_file.h"
#include "select/select_menu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sel_table *table(void)
{
    static struct sel_table t;
    static const char *const path = "tests/fuzz/seeds/fuzz_scores/small.json";
    const struct sel_table_options options = {.unchecked = true};
    struct aq_err err = {0};
    if (!t.count && sel_table_read(&t, &path, 1, &options, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    return &t;
}

static size_t allowed(const struct sel_table *t)
{
    size_t n = 0;
    for (size_t g = 0; g < t->count; g++) {
        size_t before = n;
        for (size_t i = 0; i < t->rows[g].count; i++)
            n += t->rows[g].options[i].allowed;
        if (n == before)
            abort();
    }
    return n;
}

static void check(const struct sel_menu *m, struct sel_table *t)
{
    struct aq_err err = {0};
    if (sel_menu_apply(m, t, -1, &err) < 0) {
        must_be_refusal(&err);
        return;
    }
    size_t all = allowed(t);
    for (size_t i = 0; i < m->count; i++)
        if (sel_menu_apply(m, t, (ptrdiff_t)i, &err) < 0 || allowed(t) < all)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_file file;
    struct sel_menu m;
    struct aq_err err = {0};
    struct sel_table *t = table();
    if (sel_menu_read(&m, mem_file_set(&file, data, size), t, &err) < 0)
        must_be_refusal(&err);
    else
        check(&m, t);
    sel_menu_release(&m);
    return 0;
}
