/*
 * scores.json, and the table that a selection makes of it. What is accepted has groups with weights
 * and, where there is a score, one that is a number.
 */
#include "mem_file.h"
#include "select/select_table.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct sel_table *t)
{
    if (!t->count || !(t->total > 0) || !isfinite(t->total))
        abort();
    for (size_t g = 0; g < t->count; g++) {
        const struct sel_row *row = &t->rows[g];
        if (!row->name || !(row->weights >= 0) || !row->count)
            abort();
        for (size_t i = 0; i < row->count; i++)
            if (!isfinite(row->options[i].score) || !isfinite(row->options[i].cost) ||
                (i && row->options[i].bits < row->options[i - 1].bits))
                abort();
        json_free(sel_members(row));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_file file;
    const char *path = mem_file_set(&file, data, size);
    const struct sel_table_options options = {.unchecked = true};
    struct sel_table t;
    struct aq_err err = {0};
    if (sel_table_read(&t, &path, 1, &options, &err) < 0)
        must_be_refusal(&err);
    else
        check(&t);
    sel_table_release(&t);
    return 0;
}
