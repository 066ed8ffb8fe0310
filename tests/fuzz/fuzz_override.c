/* Overrides: no crash; setting a value twice is the same as once; a value's text reads back. */
#include "conf/override.h"
#include "conf/tree.h"
#include "io/yaml.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char base[] = "a: {b: 1, c: [1, {d: 2}], e: null}\nf: ${a.b}\ng: text\nh: {-1: x}\n";

static void apply(const struct override *o)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_buf once = AQ_BUF_INIT, twice = AQ_BUF_INIT;
    struct aq_err err = {0};
    struct interp in;
    struct node *root = node_copy(&a, yaml_parse_node(&a, base, strlen(base), "base", &err));
    interp_init(&in, &a, root, &(struct tm){0}, &err);
    if (tree_apply(&in, root, o) == 0) {
        yaml_write(&once, root);
        if (o->kind == OVERRIDE_SET || o->kind == OVERRIDE_FORCE) {
            if (tree_apply(&in, root, o) < 0)
                abort();
            yaml_write(&twice, root);
            if (strcmp(once.data, twice.data) != 0)
                abort();
        }
    }
    aq_buf_release(&once);
    aq_buf_release(&twice);
    aq_arena_release(&a);
}

/* "x=<value>" in the spelling of sweeps gives the same text again. */
static void round_trip(struct aq_arena *a, const struct node *v)
{
    struct aq_buf text = AQ_BUF_INIT, again = AQ_BUF_INIT;
    struct override o;
    struct aq_err err = {0};
    aq_buf_adds(&text, "x=");
    override_value_text(&text, v);
    if (override_parse(a, aq_arena_strdup(a, text.data), 1, &o, &err) == 0 && o.value.node) {
        aq_buf_adds(&again, "x=");
        override_value_text(&again, o.value.node);
        struct override last;
        struct aq_buf third = AQ_BUF_INIT;
        aq_buf_adds(&third, "x=");
        /* strings made by functions lose their kind once, not twice */
        if (override_parse(a, aq_arena_strdup(a, again.data), 1, &last, &err) == 0 &&
            last.value.node) {
            override_value_text(&third, last.value.node);
            if (strcmp(again.data, third.data) != 0)
                abort();
        }
        aq_buf_release(&third);
    }
    aq_buf_release(&text);
    aq_buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct override o;
    struct aq_err err = {0};
    const char *text = aq_arena_strndup(&a, (const char *)data, size);
    if (override_parse(&a, text, 1, &o, &err) == 0 && !o.value.sweep) {
        apply(&o);
        if (o.value.node)
            round_trip(&a, o.value.node);
    }
    aq_arena_release(&a);
    return 0;
}
