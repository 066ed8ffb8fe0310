#include "select/select_cell.h"
#include "base/file.h"
#include "base/mem.h"
#include "select/select_read.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30 };

const char *const sel_cost_names[SEL_COSTS + 1] = {"storage", "modelopt40", "modelopt47", NULL};

const char *const sel_fact_names[SEL_FACTS] = {
    "lm",      "tokens",        "method", "padding",          "normalization",
    "prefix",  "score_samples", "dtype",  "operand_rounding", "dynamic_batch",
    "backend", "result_version"};

int sel_cell_read(struct sel_cell *c, const char *path, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    *c = (struct sel_cell){.path = xstrdup(strcmp(path, "-") == 0 ? "standard input" : path)};
    struct json *root = NULL;
    if (aq_read_file(path, MAX_FILE, &text, err) == 0) {
        aq_sha256_of(aq_buf_str(&text), text.len, c->digest);
        root = json_parse(aq_buf_str(&text), text.len, c->path, err);
    }
    aq_buf_release(&text);
    if (!root)
        return -1;
    if (json_type(root) == JSON_OBJECT && json_get(root, "layer_sensitivity")) {
        c->is_manifest = true;
        return sel_read_manifest(c, root, err);
    }
    c->root = root;
    return sel_read_scores(c, err);
}

void sel_cell_release(struct sel_cell *c)
{
    for (size_t i = 0; i < c->candidate_count; i++) {
        free(c->candidates[i].name);
        free(c->candidates[i].label);
        json_free(c->candidates[i].own_facts);
    }
    for (size_t i = 0; i < SEL_FACTS; i++)
        free(c->facts[i]);
    free(c->candidates);
    free(c->groups);
    free(c->values);
    free(c->path);
    json_free(c->root);
    if (c->is_manifest)
        manifest_release(&c->manifest);
    *c = (struct sel_cell){0};
}
