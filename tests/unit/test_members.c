/* What a group of fused layers is called, from the names of its members. */
#include "tap.h"

#include "base/mem.h"
#include "io/json.h"
#include "select/members.h"

#include <stdlib.h>
#include <string.h>

/* names: separated by blanks; NULL: what the name of the group means */
static void called(const char *group, const char *names, const char *expected)
{
    struct json *members = names ? json_new_array() : NULL;
    char *copy = xstrdup(names ? names : ""), *rest = copy;
    for (char *name; (name = strsep(&rest, " ")) && *name;)
        json_push(members, json_new_string(name));
    struct json *list = members_list(members, group);
    struct aq_buf name = AQ_BUF_INIT;
    members_name(&name, list);
    const char *shown = aq_buf_str(&name);
    tap_ok(strcmp(shown, expected) == 0, "%s: found '%s', expected '%s'", names ? names : group,
           shown, expected);
    aq_buf_release(&name);
    json_free(list);
    json_free(members);
    free(copy);
}

int main(void)
{
    called("layers.0.self_attn.q_proj", NULL, "layers.0.self_attn.q+k+v_proj");
    called("layers.12.mlp.gate_proj", NULL, "layers.12.mlp.gate+up_proj");
    called("layers.0.mlp.down_proj", NULL, "layers.0.mlp.down_proj");
    called("q_proj", NULL, "q+k+v_proj");
    called("lm_head", NULL, "lm_head");
    /* members go before the rule for names */
    called("l.0.a.q_proj", "l.0.a.q_proj", "l.0.a.q_proj");
    called("l.0.a.q_proj", "l.0.a.q_proj l.0.a.k_proj", "l.0.a.q+k_proj");
    called("m.w1", "m.w1 m.w3", "m.w1+w3");
    called("m.q_a_proj", "m.q_a_proj m.kv_a_proj", "m.q+kv_a_proj");
    called("m.in.x", "m.in.x m.on.x", "m.in+on.x");
    /* nothing in common, one name within another, the same name twice */
    called("a.x", "a.x b.y", "a.x+b.y");
    called("a.proj", "a.proj a.b_proj", "a.proj+b_proj");
    called("a._proj", "a._proj a.b_proj", "a._proj+b_proj");
    called("a.b.", "a.b. a.b.c", "a.b.+c");
    called("x", "x x", "x+x");
    called("x_proj", "x_proj x_proj", "x+x_proj");
    called("e.0", "e.0 e.1 e.2 e.3", "e.0+1+2+3");
    called("e.0.w", "e.0.w e.1.w e.2.w e.3.w e.4.w e.5.w", "e.0+1+2+3.w and 2 more");
    return tap_done();
}
