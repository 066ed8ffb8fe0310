/* Interpolations over a fixed tree: no crash, and an end within the limits. */
#include "conf/interp.h"
#include "io/yaml.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char base[] =
    "a: {b: 1, c: [x, {d: '${a.b}'}], e: null, f: '${.b}${..g}'}\n"
    "g: text\nh: ${i}\ni: ${a}\nj: '${j}'\nk: ${x}\nhydra: {job: {name: n}}\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_err err = {0};
    struct interp in;
    const struct place place = {NULL, 1};
    const char *text = aq_arena_strndup(&a, (const char *)data, size);
    struct node *root = node_copy(&a, yaml_parse_node(&a, base, strlen(base), "base", &err));
    struct node *v = node_string(&a, text, place), *found;
    node_put_text(&a, root, "x", v);
    interp_init(&in, &a, root, &(struct tm){.tm_year = 100, .tm_mday = 1}, &err);
    (void)interp_deep(&in, v);
    (void)interp_select(&in, root, text, &found);
    aq_arena_release(&a);
    return 0;
}
