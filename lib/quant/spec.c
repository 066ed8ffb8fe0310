/* Treatments as text and as numbers. */
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
             (s->number != QUANT_E4M3 || s->block_rows != 1))
        rule = "dynamic blocks hold e4m3 numbers of one row";
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

int quant_parse(const char *text, struct quant_spec *spec, struct aq_err *err)
{
    struct spec_text c = {text, text, err};
    *spec = (struct quant_spec){0};
    if (strcmp(text, "none") == 0)
        return 0;
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
    return 0;
}

int quant_parse_act(const char *text, struct quant_spec *spec, struct aq_err *err)
{
    if (quant_parse(text, spec, err) < 0)
        return -1;
    if (spec->group)
        return aq_err_set(err, AQ_EINPUT, "treatment '%s': @group is for weights", aq_show(text));
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
    bool same = a->steps == b->steps && a->group == b->group && a->group_amax == b->group_amax;
    for (int32_t i = 0; i < a->steps && same; i++)
        same = same_step(&a->step[i], &b->step[i]);
    return same;
}

void quant_print(const struct quant_spec *spec, char out[QUANT_TEXT_MAX])
{
    (void)snprintf(out, QUANT_TEXT_MAX, "none");
    size_t at = 0;
    for (int i = 0; i < spec->steps; i++) {
        if (i)
            out[at++] = '+';
        print_step(&spec->step[i], out + at, QUANT_TEXT_MAX - at);
        at += strlen(out + at);
    }
    if (spec->group)
        (void)snprintf(out + at, QUANT_TEXT_MAX - at, "@group");
}
