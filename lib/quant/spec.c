/* Treatments as text and as numbers. */
#include "base/fmt.h"
#include "base/suggest.h"
#include "quant/quant.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *text;
    enum quant_number number;
    int bits;
} numbers[] = {
    {"int2", QUANT_INT, 2},  {"int3", QUANT_INT, 3},  {"int4", QUANT_INT, 4},
    {"int5", QUANT_INT, 5},  {"int6", QUANT_INT, 6},  {"int7", QUANT_INT, 7},
    {"int8", QUANT_INT, 8},  {"e4m3", QUANT_E4M3, 8}, {"e5m2", QUANT_E5M2, 8},
    {"e2m1", QUANT_E2M1, 4}, {"e3m2", QUANT_E3M2, 6}, {"e2m3", QUANT_E2M3, 6},
};

static const struct {
    const char *text; /* up to the parenthesis, if it takes a length */
    enum quant_scope scope;
    bool lengths;
} scopes[] = {
    {"tensor", QUANT_TENSOR, false}, {"axis0", QUANT_AXIS0, false}, {"axis1", QUANT_AXIS1, false},
    {"axis-1", QUANT_HIDDEN, false}, {"token", QUANT_TOKEN, false}, {"block", QUANT_BLOCK, true},
    {"nvfp4", QUANT_NVFP4, true},    {"mx", QUANT_MX, true},
};

enum { NUMBERS = sizeof numbers / sizeof *numbers, SCOPES = sizeof scopes / sizeof *scopes };

struct spec_text {
    const char *at;
    const char *text; /* all of it, for messages */
    struct aq_err *err;
};

static int wrong(const struct spec_text *c, const char *expected)
{
    return aq_err_set(c->err, AQ_EINPUT, "treatment '%s': expected %s at '%s'", aq_show(c->text),
                      expected, aq_show(c->at));
}

static bool skip(struct spec_text *c, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

/* A word up to the next punctuation, compared whole: "axis-1" is not "axis". */
static bool skip_word(struct spec_text *c, const char *word)
{
    size_t n = strcspn(c->at, ":(+@");
    if (n != strlen(word) || memcmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

static int parse_length(struct spec_text *c, int32_t *out)
{
    size_t digits = strspn(c->at, "0123456789");
    long n = digits && digits <= 7 ? strtol(c->at, NULL, 10) : 0;
    if (n < 1 || n > QUANT_MAX_BLOCK || *c->at == '0')
        return wrong(c, "a block length from 1 to 1048576 without leading zeros");
    c->at += digits;
    *out = (int32_t)n;
    return 0;
}

static int parse_block(struct spec_text *c, struct quant_step *s)
{
    bool cols = skip(c, "-1:");
    if (cols && parse_length(c, &s->block_cols) < 0)
        return -1;
    bool more = cols && skip(c, ",");
    if (!cols || more) {
        if (!skip(c, "-2:"))
            return wrong(c, cols ? "'-2:'" : "'-1:' or '-2:'");
        if (parse_length(c, &s->block_rows) < 0)
            return -1;
    }
    if (more && (s->block_cols == 1 || s->block_rows == 1))
        return aq_err_set(c->err, AQ_EINPUT,
                          "treatment '%s': a length of 1 beside another one is left out",
                          aq_show(c->text));
    return 0;
}

/* What numbers and scopes go together, whatever is quantized. */
static int check_step(const struct spec_text *c, const struct quant_step *s)
{
    const char *rule = NULL;
    if (s->scope == QUANT_NVFP4 && s->number != QUANT_E2M1)
        rule = "nvfp4 blocks hold e2m1 numbers";
    else if (s->scope == QUANT_MX && s->number == QUANT_INT && s->bits != 8)
        rule = "mx blocks hold int8 or floats, not other integers";
    else if (s->scope == QUANT_MX && s->block_cols != 8 && s->block_cols != 16 &&
             s->block_cols != 32)
        rule = "mx blocks are 8, 16 or 32 long";
    else if (s->scope == QUANT_MX && !s->dynamic)
        rule = "mx scales are always dynamic";
    else if (s->scope != QUANT_NVFP4 && s->scope != QUANT_MX && s->number != QUANT_INT &&
             s->number != QUANT_E4M3)
        rule = "this number format needs blocks with their own scales: nvfp4(n) or mx(n)";
    else if (s->scope == QUANT_TOKEN && !s->dynamic)
        rule = "the scale of a token is always dynamic";
    else if ((s->scope == QUANT_AXIS0 || s->scope == QUANT_AXIS1 || s->scope == QUANT_HIDDEN) &&
             s->dynamic)
        rule = "scales per channel are always static";
    else if (s->scope == QUANT_BLOCK && s->dynamic &&
             ((s->number != QUANT_E4M3 && (s->number != QUANT_INT || s->bits != 8)) ||
              s->block_rows != 1))
        rule = "dynamic blocks hold e4m3 or int8 numbers of one row";
    if (rule)
        return aq_err_set(c->err, AQ_EINPUT, "treatment '%s': %s", aq_show(c->text), rule);
    return 0;
}

static int parse_step(struct spec_text *c, struct quant_step *s)
{
    *s = (struct quant_step){.block_rows = 1, .block_cols = 1};
    int i = 0;
    while (i < NUMBERS && !skip_word(c, numbers[i].text))
        i++;
    if (i == NUMBERS)
        return wrong(c, "a number format (int2 to int8, e4m3, e5m2, e2m1, e3m2, e2m3)");
    s->number = numbers[i].number;
    s->bits = numbers[i].bits;
    if (!skip(c, ":"))
        return wrong(c, "':'");
    for (i = 0; i < SCOPES && !skip_word(c, scopes[i].text);)
        i++;
    if (i == SCOPES)
        return wrong(c,
                     "a scope (tensor, axis0, axis1, axis-1, token, block(..), nvfp4(n), mx(n))");
    s->scope = scopes[i].scope;
    if (scopes[i].lengths) {
        if (!skip(c, "("))
            return wrong(c, "'('");
        if ((s->scope == QUANT_BLOCK ? parse_block(c, s) : parse_length(c, &s->block_cols)) < 0)
            return -1;
        if (!skip(c, ")"))
            return wrong(c, "')'");
    }
    if (!skip(c, ":"))
        return wrong(c, "':'");
    if (skip_word(c, "dynamic"))
        s->dynamic = 1;
    else if (!skip_word(c, "static"))
        return wrong(c, "'static' or 'dynamic'");
    return check_step(c, s);
}

/* ---- methods ---- */

/* A number in its shortest form, from just above `low` to `high`. */
static int parse_number(struct spec_text *c, double low, double high, double *out)
{
    char word[AQ_FMT_MAX], again[AQ_FMT_MAX];
    size_t n = strspn(c->at, "0123456789.e-");
    if (n == 0 || n >= sizeof word)
        return wrong(c, "a number");
    memcpy(word, c->at, n);
    word[n] = '\0';
    if (!aq_parse_double(word, out) || !(*out >= low && *out <= high))
        return aq_err_set(c->err, AQ_EINPUT, "treatment '%s': %s is outside %g..%g",
                          aq_show(c->text), aq_show(word), low, high);
    if (strcmp(aq_fmt_double(*out, again), word) != 0)
        return aq_err_set(c->err, AQ_EINPUT, "treatment '%s': %s is written %s", aq_show(c->text),
                          aq_show(word), again);
    c->at += n;
    return 0;
}

/* One of two words; *out says whether it is the second. */
static int parse_choice(struct spec_text *c, const char *first, const char *second, int32_t *out)
{
    char expected[64];
    *out = 0;
    size_t n = strspn(c->at, "abcdefghijklmnopqrstuvwxyz");
    if (n == strlen(first) && memcmp(c->at, first, n) == 0) {
        c->at += n;
        return 0;
    }
    if (n == strlen(second) && memcmp(c->at, second, n) == 0) {
        c->at += n;
        *out = 1;
        return 0;
    }
    (void)snprintf(expected, sizeof expected, "'%s' or '%s'", first, second);
    return wrong(c, expected);
}

static int parse_mark(struct spec_text *c, const char *mark)
{
    char expected[8];
    if (skip(c, mark))
        return 0;
    (void)snprintf(expected, sizeof expected, "'%s'", mark);
    return wrong(c, expected);
}

static int parse_awq(struct spec_text *c, struct quant_methods *m)
{
    m->scaling = QUANT_AWQ;
    if (parse_number(c, 0.001, 1, &m->alpha) < 0 || parse_mark(c, ",") < 0 ||
        parse_choice(c, "joint", "own", &m->own) < 0 || parse_mark(c, ",") < 0 ||
        parse_choice(c, "all", "quarter", &m->quarter) < 0 || parse_mark(c, ",") < 0 ||
        parse_choice(c, "identity", "plain", &m->plain_grid) < 0)
        return -1;
    return parse_mark(c, "}");
}

static int parse_gptq(struct spec_text *c, struct quant_methods *m)
{
    m->choice = QUANT_GPTQ;
    size_t n = strspn(c->at, "0123456789");
    if (n < 1 || n > 4 || *c->at == '0')
        return wrong(c, "a number of columns from 1 to 9999");
    m->block = (int32_t)strtol(c->at, NULL, 10);
    c->at += n;
    if (parse_mark(c, ",") < 0 || parse_number(c, 1e-6, 1, &m->damp) < 0 ||
        parse_mark(c, ",") < 0 || parse_choice(c, "static", "none", &m->plain_order) < 0 ||
        parse_mark(c, ",") < 0 || parse_choice(c, "plain", "quantized", &m->quantized_input) < 0)
        return -1;
    return parse_mark(c, "}");
}

/* "clip/" comes first, then what scales, then what else chooses codes or ranges. */
static int parse_methods(struct spec_text *c, struct quant_methods *m)
{
    if (skip(c, "clip/"))
        m->choice = QUANT_CLIP;
    if (skip(c, "smooth{")) {
        m->scaling = QUANT_SMOOTH;
        if (parse_number(c, 0, 1, &m->alpha) < 0)
            return -1;
        m->own = skip(c, ",own");
        if (parse_mark(c, "}/") < 0)
            return -1;
    } else if (skip(c, "awq{") && (parse_awq(c, m) < 0 || parse_mark(c, "/") < 0)) {
        return -1;
    }
    if (m->choice == QUANT_CLIP)
        return 0;
    if (skip(c, "gptq{"))
        return parse_gptq(c, m) < 0 ? -1 : parse_mark(c, "/");
    if (skip(c, "mse{")) {
        m->choice = QUANT_MSE;
        return parse_choice(c, "aq", "modelopt", &m->modelopt_grid) < 0 ? -1 : parse_mark(c, "}/");
    }
    if (skip(c, "sweep/"))
        m->choice = QUANT_SWEEP;
    else if (skip(c, "4o6/"))
        m->choice = QUANT_4O6;
    return 0;
}

/* Does a step of a weight have the ranges that the choice needs? NULL, or the rule. */
static const char *choice_rule(enum quant_choice choice, const struct quant_step *s)
{
    bool grid = s->scope == QUANT_TENSOR || s->scope == QUANT_AXIS0 ||
                (s->scope == QUANT_BLOCK && !s->dynamic);
    bool nvfp4 = s->scope == QUANT_NVFP4 && s->dynamic;
    switch (choice) {
    case QUANT_NEAREST:
        break;
    case QUANT_CLIP:
        if (s->number != QUANT_INT || s->scope != QUANT_BLOCK || s->block_rows != 1)
            return "clip goes with integers in blocks along the inputs";
        break;
    case QUANT_GPTQ:
        if (s->number != QUANT_INT || !grid || s->block_rows != 1)
            return "gptq goes with integers per tensor, per output channel, or in blocks along "
                   "the inputs";
        break;
    case QUANT_MSE:
        if (!grid && s->scope != QUANT_AXIS1)
            return "mse goes with ranges per tensor, per channel or in blocks";
        break;
    case QUANT_SWEEP:
    case QUANT_4O6:
        if (!nvfp4)
            return choice == QUANT_SWEEP ? "sweep goes with nvfp4 weights"
                                         : "4o6 goes with nvfp4 weights";
        break;
    }
    return NULL;
}

const char *quant_methods_rule(const struct quant_spec *spec)
{
    const struct quant_methods *m = &spec->methods;
    if (!quant_has_method(spec))
        return NULL;
    if (spec->steps == 0)
        return "a method needs something to quantize";
    if (m->choice != QUANT_NEAREST && spec->steps > 1)
        return "this method goes with one step, not with a sequence";
    if (m->quantized_input)
        return "GPTQ is computed with the unquantized inputs: autoquant.gptq_input plain";
    for (int i = 0; m->scaling && i < spec->steps; i++)
        if (spec->step[i].scope == QUANT_AXIS1)
            return "ranges per input channel undo the scaling of input channels";
    return choice_rule(m->choice, &spec->step[0]);
}

bool quant_has_method(const struct quant_spec *spec)
{
    return spec->methods.scaling != QUANT_NO_SCALING || spec->methods.choice != QUANT_NEAREST;
}

bool quant_is_solved(const struct quant_spec *spec)
{
    return spec->methods.scaling != QUANT_NO_SCALING || spec->methods.choice == QUANT_CLIP ||
           spec->methods.choice == QUANT_GPTQ;
}

/* Returns the letters written; none at all leave `out` as it is. */
static size_t print_methods(const struct quant_methods *m, char *out, size_t size)
{
    static const char *const choices[] = {"", "", "", "", "sweep/", "4o6/"};
    char a[AQ_FMT_MAX], b[AQ_FMT_MAX], scaling[96] = "", choice[96] = "";
    if (m->scaling == QUANT_SMOOTH)
        (void)snprintf(scaling, sizeof scaling, "smooth{%s%s}/", aq_fmt_double(m->alpha, a),
                       m->own ? ",own" : "");
    if (m->scaling == QUANT_AWQ)
        (void)snprintf(scaling, sizeof scaling, "awq{%s,%s,%s,%s}/", aq_fmt_double(m->alpha, a),
                       m->own ? "own" : "joint", m->quarter ? "quarter" : "all",
                       m->plain_grid ? "plain" : "identity");
    if (m->choice == QUANT_GPTQ)
        (void)snprintf(choice, sizeof choice, "gptq{%d,%s,%s,%s}/", (int)m->block,
                       aq_fmt_double(m->damp, b), m->plain_order ? "none" : "static",
                       m->quantized_input ? "quantized" : "plain");
    else if (m->choice == QUANT_MSE)
        (void)snprintf(choice, sizeof choice, "mse{%s}/", m->modelopt_grid ? "modelopt" : "aq");
    else
        (void)snprintf(choice, sizeof choice, "%s", choices[m->choice]);
    if (!scaling[0] && !choice[0] && m->choice != QUANT_CLIP)
        return 0;
    (void)snprintf(out, size, "%s%s%s", m->choice == QUANT_CLIP ? "clip/" : "", scaling, choice);
    return strlen(out);
}

static bool same_methods(const struct quant_methods *a, const struct quant_methods *b)
{
    return a->scaling == b->scaling && a->choice == b->choice && a->alpha == b->alpha &&
           a->own == b->own && a->quarter == b->quarter && a->plain_grid == b->plain_grid &&
           a->block == b->block && a->damp == b->damp && a->plain_order == b->plain_order &&
           a->quantized_input == b->quantized_input && a->modelopt_grid == b->modelopt_grid;
}

/* ---- treatments ---- */

int quant_parse(const char *text, struct quant_spec *spec, struct aq_err *err)
{
    struct spec_text c = {text, text, err};
    *spec = (struct quant_spec){0};
    if (strcmp(text, "none") == 0)
        return 0;
    if (parse_methods(&c, &spec->methods) < 0)
        return -1;
    do {
        if (spec->steps == QUANT_MAX_STEPS)
            return aq_err_set(err, AQ_EINPUT, "treatment '%s': more than %d steps", aq_show(text),
                              QUANT_MAX_STEPS);
        if (parse_step(&c, &spec->step[spec->steps++]) < 0)
            return -1;
    } while (skip(&c, "+"));
    spec->group = skip(&c, "@group");
    if (*c.at)
        return wrong(&c, "'+' or the end");
    if (spec->group && (spec->steps != 1 || spec->step[0].scope != QUANT_NVFP4))
        return aq_err_set(err, AQ_EINPUT, "treatment '%s': @group goes with nvfp4 alone",
                          aq_show(text));
    const char *rule = quant_methods_rule(spec);
    return rule ? aq_err_set(err, AQ_EINPUT, "treatment '%s': %s", aq_show(text), rule) : 0;
}

int quant_parse_act(const char *text, struct quant_spec *spec, struct aq_err *err)
{
    if (quant_parse(text, spec, err) < 0)
        return -1;
    if (spec->group || quant_has_method(spec))
        return aq_err_set(err, AQ_EINPUT, "treatment '%s': %s for weights", aq_show(text),
                          spec->group ? "@group is" : "methods are");
    for (int i = 0; i < spec->steps; i++)
        if (spec->step[i].scope == QUANT_NVFP4 && spec->step[i].dynamic)
            return aq_err_set(err, AQ_EINPUT,
                              "treatment '%s': the second level of nvfp4 activations is static",
                              aq_show(text));
    return 0;
}

static const char *number_text(const struct quant_step *s)
{
    for (int i = 0; i < NUMBERS; i++)
        if (numbers[i].number == s->number &&
            (s->number != QUANT_INT || numbers[i].bits == s->bits))
            return numbers[i].text;
    return "?";
}

static void print_step(const struct quant_step *s, char *out, size_t size)
{
    char lengths[40] = "";
    if (s->scope == QUANT_NVFP4 || s->scope == QUANT_MX)
        (void)snprintf(lengths, sizeof lengths, "(%d)", s->block_cols);
    else if (s->scope == QUANT_BLOCK && s->block_rows == 1)
        (void)snprintf(lengths, sizeof lengths, "(-1:%d)", s->block_cols);
    else if (s->scope == QUANT_BLOCK && s->block_cols == 1)
        (void)snprintf(lengths, sizeof lengths, "(-2:%d)", s->block_rows);
    else if (s->scope == QUANT_BLOCK)
        (void)snprintf(lengths, sizeof lengths, "(-1:%d,-2:%d)", s->block_cols, s->block_rows);
    (void)snprintf(out, size, "%s:%s%s:%s", number_text(s), scopes[s->scope].text, lengths,
                   s->dynamic ? "dynamic" : "static");
}

static bool same_step(const struct quant_step *a, const struct quant_step *b)
{
    return a->number == b->number && a->bits == b->bits && a->scope == b->scope &&
           a->block_rows == b->block_rows && a->block_cols == b->block_cols &&
           a->dynamic == b->dynamic;
}

bool quant_same(const struct quant_spec *a, const struct quant_spec *b)
{
    bool same = a->steps == b->steps && a->group == b->group && a->group_amax == b->group_amax &&
                same_methods(&a->methods, &b->methods);
    for (int32_t i = 0; i < a->steps && same; i++)
        same = same_step(&a->step[i], &b->step[i]);
    return same;
}

void quant_print(const struct quant_spec *spec, char out[QUANT_TEXT_MAX])
{
    (void)snprintf(out, QUANT_TEXT_MAX, "none");
    size_t at = print_methods(&spec->methods, out, QUANT_TEXT_MAX);
    for (int i = 0; i < spec->steps; i++) {
        if (i)
            out[at++] = '+';
        print_step(&spec->step[i], out + at, QUANT_TEXT_MAX - at);
        at += strlen(out + at);
    }
    if (spec->group)
        (void)snprintf(out + at, QUANT_TEXT_MAX - at, "@group");
}
