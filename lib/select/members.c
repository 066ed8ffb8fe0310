#include "select/members.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct json *members_list(const struct json *members, const char *name)
{
    static const struct {
        const char *ending;
        const char *all[3];
    } rules[] = {
        {"q_proj", {"q_proj", "k_proj", "v_proj"}},
        {"gate_proj", {"gate_proj", "up_proj", NULL}},
    };
    if (members)
        return json_copy(members);
    struct json *list = json_new_array();
    const char *dot = strrchr(name, '.');
    const char *last = dot ? dot + 1 : name;
    for (size_t i = 0; i < AQ_COUNT(rules); i++) {
        if (strcmp(last, rules[i].ending) != 0)
            continue;
        for (size_t j = 0; j < AQ_COUNT(rules[i].all) && rules[i].all[j]; j++) {
            char *member = xasprintf("%.*s%s", (int)(last - name), name, rules[i].all[j]);
            json_push(list, json_new_string(member));
            free(member);
        }
        return list;
    }
    json_push(list, json_new_string(name));
    return list;
}

/* More members than that are counted. */
enum { SHOWN = 4 };

/* What all names begin with, up to a dot; and what they end with, from a '_' or a dot. */
struct affixes {
    size_t before, after;
};

static struct affixes affixes_of(const struct json *list, const char *first)
{
    size_t n = strlen(first), before = n, after = n;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        const char *name = json_string(v);
        size_t length = strlen(name), b = 0, a = 0;
        while (b < before && name[b] == first[b])
            b++;
        while (a < after && a < length && name[length - 1 - a] == first[n - 1 - a])
            a++;
        before = b;
        after = a;
    }
    while (before > 0 && first[before - 1] != '.')
        before--;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        size_t rest = strlen(json_string(v)) - before;
        after = rest < after + 1 ? (rest ? rest - 1 : 0) : after; /* something stays of each */
    }
    while (after > 0 && first[n - after] != '_' && first[n - after] != '.')
        after--;
    return (struct affixes){before, after};
}

void members_name(struct aq_buf *out, const struct json *list)
{
    const struct json *v = json_first(list);
    const char *first = v ? json_string(v) : "";
    struct affixes x = v && json_next(v) ? affixes_of(list, first) : (struct affixes){0, 0};
    size_t count = 0;
    aq_buf_add(out, first, x.before);
    for (; v; v = json_next(v)) {
        const char *name = json_string(v);
        if (++count > SHOWN)
            continue;
        aq_buf_adds(out, count > 1 ? "+" : "");
        aq_buf_add(out, name + x.before, strlen(name) - x.before - x.after);
    }
    aq_buf_adds(out, first + strlen(first) - x.after);
    if (count > SHOWN)
        aq_buf_addf(out, " and %zu more", count - SHOWN);
}
