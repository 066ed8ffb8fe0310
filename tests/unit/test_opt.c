/* lib/base/opt: every type of option in every spelling, operands, and what is refused. */
#include "tap.h"

#include "base/mem.h"
#include "base/opt.h"

struct values {
    bool flag;
    int64_t number;
    double real;
    uint64_t size;
    const char *text, *choice;
    struct aq_names list;
    struct aq_cmdline cl;
    int code; /* 0: the command line is right */
};

static const char *const choices[] = {"one", "two", NULL};

/* argv is given without the name of the program, NULL at its end. */
static struct values parse(const char *const *words)
{
    static struct values v;
    v = (struct values){.number = 7};
    const struct aq_opt table[] = {{"flag", 'f', AQ_OPT_FLAG, &v.flag, NULL, "", NULL, 0, 0},
                                   {"number", 'n', AQ_OPT_INT, &v.number, "N", "", NULL, 1, 9},
                                   {"real", 0, AQ_OPT_DOUBLE, &v.real, "X", "", NULL, 0, 0},
                                   {"size", 0, AQ_OPT_SIZE, &v.size, "SIZE", "", NULL, 0, 0},
                                   {"text", 't', AQ_OPT_TEXT, &v.text, "T", "", NULL, 0, 0},
                                   {"choice", 0, AQ_OPT_CHOICE, &v.choice, "C", "", choices, 0, 0},
                                   {"list", 0, AQ_OPT_LIST, &v.list, "L", "", NULL, 0, 0},
                                   AQ_OPT_END};
    const struct aq_tool tool = {.name = "aq-x",
                                 .summary = "",
                                 .usage = "",
                                 .example = "",
                                 .options = table,
                                 .min_args = 0,
                                 .max_args = 2};
    char *argv[16] = {"aq-x"};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)words[argc - 1];
    struct aq_err err = {0};
    v.code = aq_cmdline_parse(&tool, argc, argv, &v.cl, &err) < 0 ? err.code : 0;
    return v;
}
#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void test_good(void)
{
    struct values v =
        PARSE("-f", "--number", "3", "--real=2.5", "--size=1.5K", "--text", "", "--choice=two");
    tap_ok(v.code == 0 && v.flag && v.number == 3 && v.real == 2.5 && v.size == 1536, "numbers");
    tap_ok(v.text && !*v.text && strcmp(v.choice, "two") == 0 && v.cl.count == 0,
           "texts, also empty ones");
    v = PARSE("a", "-fn5", "b", "-o", "out", "-tx=y");
    tap_ok(v.code == 0 && v.flag && v.number == 5 && strcmp(v.text, "x=y") == 0,
           "letters in one word, a value after its letter");
    tap_ok(v.cl.count == 2 && strcmp(v.cl.args[1], "b") == 0 && !v.cl.args[2] &&
               strcmp(v.cl.output, "out") == 0,
           "operands before and between options");
    v = PARSE("--list", "1", "--list=2", "--", "--flag", "-");
    tap_ok(v.list.count == 2 && strcmp(v.list.items[1], "2") == 0, "a list grows");
    tap_ok(!v.flag && v.cl.count == 2 && strcmp(v.cl.args[0], "--flag") == 0,
           "after -- there are only operands");
    v = PARSE("--number=1", "--number=9");
    tap_ok(v.number == 9, "the last one counts");
}

static void test_bad(void)
{
    static const char *const words[][2] = {{"--number=0"},
                                           {"--number=10"},
                                           {"--number= 5"},
                                           {"--number=0x5"},
                                           {"--number=5."},
                                           {"--number="},
                                           {"--number"},
                                           {"--real=x"},
                                           {"--real=1e999"},
                                           {"--real=nan"},
                                           {"--size=-1"},
                                           {"--size=1X"},
                                           {"--choice=three"},
                                           {"--choice="},
                                           {"--choice=tw"},
                                           {"--flag=1"},
                                           {"--fla"},
                                           {"--unknown"},
                                           {"-x"},
                                           {"-n"},
                                           {"-fz"},
                                           {"--number=9223372036854775808"},
                                           {"--=1"},
                                           {"--number=\xef\xbc\x95"}};
    for (size_t i = 0; i < AQ_COUNT(words); i++) {
        struct values v = PARSE(words[i][0]);
        tap_ok(v.code == AQ_EUSAGE, "refused: %s", aq_show(words[i][0]));
    }
    tap_ok(PARSE("a", "b", "c").code == AQ_EUSAGE, "too many operands");
}

int main(void)
{
    test_good();
    test_bad();
    return tap_done();
}
