#include "conf/check.h"
#include "base/buf.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "base/suggest.h"

#include <stdio.h>
#include <string.h>

enum kind {
    K_STRING,
    K_NAME, /* a string that becomes a part of a path */
    K_BOOL,
    K_FALSE, /* a switch whose other position is not computed */
    K_COUNT, /* an integer from 1 */
    K_NUMBER,
    K_CHOICE,
    K_DEVICE,
    K_MAP,
    K_STRINGS, /* a list of strings */
};

enum { REQUIRED = 1, OR_NULL = 2 };

struct option_rule {
    const char *group, *key;
    enum kind kind;
    unsigned flags;
    const char *const *choices;
    double above, most; /* K_NUMBER */
};

#define CHOICES(...) ((const char *const[]){__VA_ARGS__, NULL})

static const struct option_rule rules[] = {
    {NULL, "experiment", K_NAME, 0},
    {"model", "name", K_NAME, REQUIRED},
    {"model", "path", K_STRING, REQUIRED},
    {"model", "dtype", K_CHOICE, REQUIRED, CHOICES("bf16", "fp32")},
    {"dataset", "name", K_STRING, OR_NULL},
    {"dataset", "root", K_STRING, OR_NULL},
    {"dataset", "size", K_NAME, REQUIRED},
    {"dataset", "captions_path", K_STRING, REQUIRED},
    {"dataset", "size_to_max_samples", K_MAP, OR_NULL},
    {"dataset", "max_calib_samples", K_COUNT, OR_NULL},
    {"dataset", "calib_seq_len", K_COUNT, REQUIRED},
    {"dataset", "padding", K_CHOICE, 0, CHOICES("none", "max_length")},
    {"quant_pair", "name", K_NAME, REQUIRED},
    {"quant_pair", "weight", K_NAME, REQUIRED},
    {"quant_pair", "activation", K_NAME, REQUIRED},
    {"quant_pair", "format_name", K_NAME, REQUIRED},
    {"quant_pair", "experimental", K_BOOL, OR_NULL},
    {"quant_pair", "scheme_name", K_NAME, OR_NULL},
    {"quant_pair", "publish_pair_dir", K_STRING, OR_NULL},
    {"quant_pair", "publish_run_dir", K_STRING, OR_NULL},
    {"quant_pair", "coverage_mode", K_STRING, OR_NULL},
    {"quant_pair", "coverage_fraction", K_NUMBER, OR_NULL, NULL, -1, 1},
    {"quant_granularity", "name", K_NAME, REQUIRED},
    {"quant_granularity", "quant_cfg_overrides", K_MAP, OR_NULL},
    {"autoquant", "method", K_CHOICE, REQUIRED, CHOICES("gradient", "kl_div")},
    {"autoquant", "device", K_DEVICE, REQUIRED},
    {"autoquant", "batch_size", K_COUNT, REQUIRED},
    {"autoquant", "effective_bits", K_NUMBER, REQUIRED, NULL, 0, 16},
    {"autoquant", "score_size", K_COUNT, REQUIRED},
    {"autoquant", "verbose", K_BOOL, 0},
    {"autoquant", "normalization", K_CHOICE, 0, CHOICES("per_token", "per_batch_mean")},
    {"autoquant", "cost", K_CHOICE, 0, CHOICES("storage", "modelopt40", "modelopt47")},
    {"autoquant", "monotone", K_BOOL, 0},
    {"autoquant", "operand_rounding", K_CHOICE, 0, CHOICES("none", "dtype")},
    {"autoquant", "dynamic_range", K_CHOICE, 0, CHOICES("per_sample", "per_batch")},
    {"autoquant", "fp4_block", K_CHOICE, 0, CHOICES("honour", "16")},
    {"autoquant", "solver", K_CHOICE, 0, CHOICES("exact", "threshold")},
    {"autoquant", "include_lm_head", K_FALSE, 0},
    {"autoquant", "count_vision", K_BOOL, 0},
    {"autoquant", "disabled_layers", K_STRINGS, OR_NULL},
    {"autoquant", "shared_scale", K_BOOL, 0},
    {"autoquant", "moe_split", K_BOOL, 0},
    {"autoquant", "cost_model", K_CHOICE, 0, CHOICES("weight", "active")},
    {"autoquant", "awq_shared", K_CHOICE, 0, CHOICES("joint", "own")},
    {"autoquant", "awq_samples", K_CHOICE, 0, CHOICES("all", "quarter")},
    {"autoquant", "awq_identity", K_BOOL, 0},
    {"autoquant", "gptq_order", K_CHOICE, 0, CHOICES("static", "none")},
    {"autoquant", "gptq_input", K_CHOICE, 0, CHOICES("plain", "quantized")},
    {"autoquant", "mse_grid", K_CHOICE, 0, CHOICES("aq", "modelopt")},
    {"output_layout", "mode", K_CHOICE, REQUIRED, CHOICES("tmp", "publish")},
    {"output_layout", "root_dir", K_STRING, OR_NULL},
    {"runner", "report_only", K_BOOL, 0},
    {"runner", "output_dir", K_STRING, OR_NULL},
};

int check_fail(const struct node *v, const char *key, const char *expected, struct aq_err *err)
{
    struct aq_buf found = AQ_BUF_INIT;
    if (node_is_container(v))
        aq_buf_adds(&found, node_type_name(v));
    else if (v->type == NODE_STRING)
        aq_buf_addf(&found, "the string '%s'", aq_show(v->s));
    else if (v->type == NODE_NULL)
        aq_buf_adds(&found, "null");
    else
        node_print(&found, v);
    aq_err_set(err, place_class(v->place), "%s: expected %s, found %s", key, expected,
               aq_show(found.data));
    if (v->place.file)
        aq_err_prefix(err, "%s:%d", aq_show(v->place.file), v->place.line);
    aq_buf_release(&found);
    return -1;
}

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

bool check_is_name(const char *s)
{
    enum { LONGEST = 200 };
    size_t n = strlen(s);
    return n && n <= LONGEST && strchr(LETTERS, s[0]) && strspn(s, LETTERS ".+-") == n;
}

static bool is_device(const char *s)
{
    int64_t n;
    if (strcmp(s, "auto") == 0 || strcmp(s, "cpu") == 0 || strcmp(s, "cuda") == 0)
        return true;
    return strncmp(s, "cuda:", 5) == 0 && aq_parse_i64(s + 5, &n) && n >= 0;
}

static int check_choice(const struct option_rule *r, const struct node *v, const char *key,
                        struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT, expected = AQ_BUF_INIT;
    size_t n = 0;
    bool found = false;
    if (!node_is_container(v))
        node_print(&text, v);
    for (; r->choices[n]; n++)
        found |= strcmp(r->choices[n], aq_buf_str(&text)) == 0;
    aq_buf_adds(&expected, "one of ");
    aq_join_names(&expected, r->choices, n);
    int result = found ? 0 : check_fail(v, key, expected.data, err);
    aq_buf_release(&text);
    aq_buf_release(&expected);
    return result;
}

static int check_number(const struct option_rule *r, const struct node *v, const char *key,
                        struct aq_err *err)
{
    char expected[80];
    double x = v->type == NODE_INT ? (double)v->i : v->type == NODE_FLOAT ? v->f : r->above;
    if (x > r->above && x <= r->most)
        return 0;
    (void)snprintf(expected, sizeof expected, "a number above %g and at most %g", r->above,
                   r->most);
    return check_fail(v, key, expected, err);
}

static int check_strings(const struct node *v, const char *key, struct aq_err *err)
{
    bool good = v->type == NODE_LIST;
    for (size_t i = 0; good && i < v->count; i++)
        good = v->items[i].value->type == NODE_STRING;
    return good ? 0 : check_fail(v, key, "a list of strings", err);
}

static int check_value(const struct option_rule *r, const struct node *v, const char *key,
                       struct aq_err *err)
{
    bool text = v->type == NODE_STRING;
    if (v->type == NODE_NULL && (r->flags & OR_NULL))
        return 0;
    switch (r->kind) {
    case K_STRING:
        return text ? 0 : check_fail(v, key, "a string", err);
    case K_NAME:
        return text && check_is_name(v->s)
                   ? 0
                   : check_fail(
                         v, key,
                         "a name: letters, digits, _ . + -, the first a letter, a digit or _", err);
    case K_BOOL:
        return v->type == NODE_BOOL ? 0 : check_fail(v, key, "true or false", err);
    case K_FALSE:
        return v->type == NODE_BOOL && !v->b
                   ? 0
                   : check_fail(v, key, "false (true is not computed)", err);
    case K_COUNT:
        return v->type == NODE_INT && !v->wide && v->i >= 1 && v->i <= INT32_MAX
                   ? 0
                   : check_fail(v, key, "an integer from 1 to 2147483647", err);
    case K_NUMBER:
        return check_number(r, v, key, err);
    case K_CHOICE:
        return check_choice(r, v, key, err);
    case K_DEVICE:
        return text && is_device(v->s) ? 0 : check_fail(v, key, "auto, cpu, cuda or cuda:N", err);
    case K_MAP:
        return v->type == NODE_MAP ? 0 : check_fail(v, key, "a mapping", err);
    case K_STRINGS:
        return check_strings(v, key, err);
    }
    return 0;
}

/* Most often the key is there, in another spelling, in the file that made the group. */
static int fail_missing(const struct node *group, const struct option_rule *r, const char *key,
                        struct aq_err *err)
{
    if (!group || !group->place.file)
        return aq_err_set(err, AQ_EUSAGE, "the configuration has no '%s'", key);
    struct aq_names names = AQ_NAMES_INIT;
    for (size_t i = 0; i < group->count; i++)
        if (group->items[i].key->type == NODE_STRING)
            aq_names_add(&names, group->items[i].key->s);
    const char *near = aq_nearest(r->key, names.items, names.count);
    aq_err_set(err, AQ_EINPUT, "the configuration has no '%s', which '%s' should set", key,
               aq_show(group->place.file));
    if (near)
        aq_err_hint(err, "is '%s' meant to be '%s'?", aq_show(near), r->key);
    aq_names_release(&names);
    return -1;
}

static int check_rule(const struct option_rule *r, const struct node *app, struct aq_err *err)
{
    char key[80];
    (void)snprintf(key, sizeof key, "%s%s%s", r->group ? r->group : "", r->group ? "." : "",
                   r->key);
    const struct node *group = r->group ? node_get(app, r->group) : app;
    if (group && group->type != NODE_MAP)
        return check_fail(group, r->group, "a mapping", err);
    const struct node *v = group ? node_get(group, r->key) : NULL;
    if (v)
        return check_value(r, v, key, err);
    return r->flags & REQUIRED ? fail_missing(group, r, key, err) : 0;
}

/* Names that Hugging Face uses for a dtype become those of this project. */
static void make_canonical(struct node *app)
{
    static const char *const names[][2] = {{"bfloat16", "bf16"}, {"float32", "fp32"}};
    struct node *v = node_at(app, "model", "dtype", NULL);
    for (size_t i = 0; i < AQ_COUNT(names); i++)
        if (v && v->type == NODE_STRING && strcmp(v->s, names[i][0]) == 0)
            v->s = names[i][1];
}

int check_run(struct node *app, struct aq_err *err)
{
    make_canonical(app);
    for (size_t i = 0; i < AQ_COUNT(rules); i++)
        if (check_rule(&rules[i], app, err) < 0)
            return -1;
    return 0;
}
