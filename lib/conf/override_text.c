/* Values back to text, for the job overrides of a sweep. */
#include "conf/override.h"

#include <string.h>

static bool is_special(char c)
{
    return c && strchr("\\()[]{}:=, \t", c);
}

/* Runs of backslashes before a quote or the end are doubled, quotes are escaped. */
static void add_quoted(struct aq_buf *out, const char *s, char quote)
{
    aq_buf_addc(out, quote);
    while (*s) {
        size_t run = strspn(s, "\\");
        bool doubled = s[run] == quote || !s[run];
        for (size_t i = 0; i < run; i++)
            aq_buf_adds(out, doubled ? "\\\\" : "\\");
        s += run;
        if (*s == quote)
            aq_buf_addc(out, '\\');
        if (*s)
            aq_buf_addc(out, *s++);
    }
    aq_buf_addc(out, quote);
}

static void add_plain(struct aq_buf *out, const char *s)
{
    for (; *s; s++) {
        if (is_special(*s))
            aq_buf_addc(out, '\\');
        aq_buf_addc(out, *s);
    }
}

void override_value_text(struct aq_buf *out, const struct node *v)
{
    switch (v->type) {
    case NODE_NULL:
        aq_buf_adds(out, "null");
        break;
    case NODE_STRING:
        if (v->quote)
            add_quoted(out, v->s, v->quote);
        else
            add_plain(out, v->s);
        break;
    case NODE_LIST:
    case NODE_MAP:
        aq_buf_addc(out, v->type == NODE_MAP ? '{' : '[');
        for (size_t i = 0; i < v->count; i++) {
            if (i)
                aq_buf_addc(out, ',');
            if (v->type == NODE_MAP) {
                override_value_text(out, v->items[i].key);
                aq_buf_addc(out, ':');
            }
            override_value_text(out, v->items[i].value);
        }
        aq_buf_addc(out, v->type == NODE_MAP ? '}' : ']');
        break;
    default:
        node_print(out, v);
        break;
    }
}
