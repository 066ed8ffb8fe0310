#include "base/opt.h"
#include "base/buf.h"
#include "base/build.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/progress.h"
#include "base/suggest.h"

#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct aq_tool *current;
static int verbosity;

/* Operands and lists of values point into argv and live as long as the process: held here. */
static const char ***kept;
static size_t kept_count, kept_cap;
static size_t most_values; /* no list can get longer than the command line */

static const char **keep_values(void)
{
    AQ_GROW(kept, kept_count, kept_cap);
    return kept[kept_count++] = xcalloc(most_values, sizeof **kept);
}

static bool flag_help, flag_version, flag_build, flag_result, flag_quiet;
static const char *opt_output, *opt_progress;

static const char *const progress_choices[] = {"auto", "always", "never", NULL};

static const struct aq_opt shared[] = {
    {"output", 'o', AQ_OPT_TEXT, &opt_output, "FILE", "write the product to FILE instead of stdout",
     NULL, 0, 0},
    {"quiet", 'q', AQ_OPT_FLAG, &flag_quiet, NULL, "errors only", NULL, 0, 0},
    {"verbose", 'v', AQ_OPT_FLAG, NULL, NULL, "say what is being done; twice: in detail", NULL, 0,
     0},
    {"progress", 0, AQ_OPT_CHOICE, &opt_progress, "WHEN", "auto, always or never", progress_choices,
     0, 0},
    {"help", 'h', AQ_OPT_FLAG, &flag_help, NULL, "this text", NULL, 0, 0},
    {"version", 'V', AQ_OPT_FLAG, &flag_version, NULL, "version", NULL, 0, 0},
    {"build-info", 0, AQ_OPT_FLAG, &flag_build, NULL, "compiler, flags, libraries", NULL, 0, 0},
    {"result-version", 0, AQ_OPT_FLAG, &flag_result, NULL,
     "a number that changes when equal inputs may give other results", NULL, 0, 0},
    AQ_OPT_END,
};

/* ---- the end ---- */

int aq_tool_finish(void)
{
    int bad = ferror(stdout);
    errno = 0;
    if (fclose(stdout) != 0 || bad) {
        (void)fprintf(stderr, "%s: cannot write standard output: %s\n", aq_tool_name(),
                      strerror(errno ? errno : EIO));
        return AQ_ERUN;
    }
    return AQ_OK;
}

int aq_tool_end(int result, const struct aq_err *err)
{
    return result < 0 ? aq_msg_error(err) : aq_tool_finish();
}

/* ---- help ---- */

static void print_option(const struct aq_opt *o)
{
    char left[64];
    (void)snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->letter ? '-' : ' ',
                   o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name, o->arg ? " " : "",
                   o->arg ? o->arg : "");
    printf("  %-28s ", left);
    if (strlen(left) > 28)
        printf("\n%31s", "");
    for (const char *p = o->help; *p; p++) {
        putchar(*p);
        if (*p == '\n')
            printf("%31s", "");
    }
    putchar('\n');
}

static void print_help(const struct aq_tool *t)
{
    printf("usage: ");
    for (const char *p = t->usage; *p; p++) {
        putchar(*p);
        if (*p == '\n')
            printf("       ");
    }
    printf("\n\n%s\n", t->summary);
    if (t->details)
        printf("\n%s\n", t->details);
    if (t->options && t->options[0].name) {
        printf("\noptions:\n");
        for (const struct aq_opt *o = t->options; o->name; o++)
            print_option(o);
    }
    printf("\ncommon options:\n");
    for (const struct aq_opt *o = shared; o->name; o++)
        print_option(o);
    printf("\nexample:\n");
    printf("  ");
    for (const char *p = t->example; *p; p++) {
        putchar(*p);
        if (*p == '\n')
            printf("  ");
    }
    printf("\n\nexit status: 0 done, 1 run-time failure, 2 usage, 3 an input is wrong,\n"
           "4 backend or device not available\n");
}

/* ---- parsing ---- */

static const struct aq_opt *find_in(const struct aq_opt *table, const char *name, size_t len)
{
    for (const struct aq_opt *o = table; o && o->name; o++)
        if (strlen(o->name) == len && memcmp(o->name, name, len) == 0)
            return o;
    return NULL;
}

static const struct aq_opt *find_letter(const struct aq_opt *table, char letter)
{
    for (const struct aq_opt *o = table; o && o->name; o++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

static int unknown_option(const char *text, size_t len, struct aq_err *err)
{
    const char *names[128];
    size_t count = 0;
    for (const struct aq_opt *o = current->options; o && o->name && count < 96; o++)
        names[count++] = o->name;
    for (const struct aq_opt *o = shared; o->name; o++)
        names[count++] = o->name;
    char *word = xstrndup(text, len);
    aq_err_set(err, AQ_EUSAGE, "unknown option '--%s'", aq_show(word));
    const char *near = aq_nearest(word, names, count);
    if (near)
        aq_err_hint(err, "did you mean --%s? (try '%s%s%s --help')", near, current->name,
                    current->command ? " " : "", current->command ? current->command : "");
    free(word);
    return -1;
}

static int set_int(const struct aq_opt *o, const char *value, struct aq_err *err)
{
    int64_t v;
    if (!aq_parse_i64(value, &v))
        return aq_err_set(err, AQ_EUSAGE, "--%s: '%s' is not a whole number", o->name,
                          aq_show(value));
    if ((o->min || o->max) && (v < o->min || v > o->max))
        return aq_err_set(err, AQ_EUSAGE, "--%s: %" PRId64 " is outside %" PRId64 "..%" PRId64,
                          o->name, v, o->min, o->max);
    *(int64_t *)o->dest = v;
    return 0;
}

static int set_choice(const struct aq_opt *o, const char *value, struct aq_err *err)
{
    size_t count = 0;
    for (; o->choices[count]; count++)
        if (strcmp(o->choices[count], value) == 0) {
            *(const char **)o->dest = value;
            return 0;
        }
    struct aq_buf list = AQ_BUF_INIT;
    aq_join_names(&list, o->choices, count);
    aq_err_set(err, AQ_EUSAGE, "--%s: '%s' is not one of: %s", o->name, aq_show(value), list.data);
    aq_buf_release(&list);
    return -1;
}

static int set_value(const struct aq_opt *o, const char *value, struct aq_err *err)
{
    switch (o->type) {
    case AQ_OPT_FLAG:
        break; /* handled by the caller */
    case AQ_OPT_INT:
        return set_int(o, value, err);
    case AQ_OPT_DOUBLE:
        if (!aq_parse_double(value, o->dest))
            return aq_err_set(err, AQ_EUSAGE, "--%s: '%s' is not a number", o->name,
                              aq_show(value));
        break;
    case AQ_OPT_SIZE:
        if (!aq_parse_size(value, o->dest))
            return aq_err_set(err, AQ_EUSAGE, "--%s: '%s' is not a size such as 8G or 512M",
                              o->name, aq_show(value));
        break;
    case AQ_OPT_TEXT:
        *(const char **)o->dest = value;
        break;
    case AQ_OPT_CHOICE:
        return set_choice(o, value, err);
    case AQ_OPT_LIST: {
        struct aq_strings *l = o->dest;
        if (!l->items)
            l->items = keep_values();
        l->items[l->count++] = value;
        break;
    }
    }
    return 0;
}

static void set_flag(const struct aq_opt *o)
{
    if (o->dest)
        *(bool *)o->dest = true;
    else
        verbosity++; /* -v is the one flag that counts */
}

struct cursor {
    int argc, at;
    char **argv;
};

static int take_value(const struct aq_opt *o, struct cursor *c, struct aq_err *err)
{
    if (c->at + 1 >= c->argc)
        return aq_err_set(err, AQ_EUSAGE, "--%s needs a value (%s)", o->name, o->arg);
    return set_value(o, c->argv[++c->at], err);
}

static int parse_long(const char *text, struct cursor *c, struct aq_err *err)
{
    size_t len = strcspn(text, "=");
    const struct aq_opt *o = find_in(current->options, text, len);
    if (!o)
        o = find_in(shared, text, len);
    if (!o)
        return unknown_option(text, len, err);
    if (o->type == AQ_OPT_FLAG) {
        if (text[len])
            return aq_err_set(err, AQ_EUSAGE, "--%s takes no value", o->name);
        set_flag(o);
        return 0;
    }
    return text[len] ? set_value(o, text + len + 1, err) : take_value(o, c, err);
}

static int parse_letters(const char *text, struct cursor *c, struct aq_err *err)
{
    for (; *text; text++) {
        const struct aq_opt *o = find_letter(current->options, *text);
        if (!o)
            o = find_letter(shared, *text);
        if (!o)
            return aq_err_set(err, AQ_EUSAGE, "unknown option '-%s'", aq_show_n(text, 1));
        if (o->type != AQ_OPT_FLAG)
            return text[1] ? set_value(o, text + 1, err) : take_value(o, c, err);
        set_flag(o);
    }
    return 0;
}

static int parse(int argc, char **argv, struct aq_cmdline *cl, struct aq_err *err)
{
    struct cursor c = {argc, 1, argv};
    bool only_operands = false;
    most_values = (size_t)argc + 1;
    cl->args = keep_values();
    for (; c.at < argc; c.at++) {
        const char *a = argv[c.at];
        if (only_operands || a[0] != '-' || a[1] == '\0')
            cl->args[cl->count++] = a;
        else if (strcmp(a, "--") == 0)
            only_operands = true;
        else if ((a[1] == '-' ? parse_long(a + 2, &c, err) : parse_letters(a + 1, &c, err)) < 0)
            return -1;
    }
    return 0;
}

static int check_operands(const struct aq_tool *t, const struct aq_cmdline *cl, struct aq_err *err)
{
    if (cl->count < t->min_args)
        return aq_err_set(err, AQ_EUSAGE, "missing operand: expected %d, got %d", t->min_args,
                          cl->count);
    if (t->max_args >= 0 && cl->count > t->max_args)
        return aq_err_set(err, AQ_EUSAGE, "unexpected operand '%s'",
                          aq_show(cl->args[t->max_args]));
    return 0;
}

static void print_build_info(const struct aq_tool *t)
{
    aq_print_build_info();
    if (t->print_build_info)
        t->print_build_info();
}

/* --help and its like: true if one was asked for and answered. */
static bool answer_meta(const struct aq_tool *t, int *code)
{
    if (flag_help)
        print_help(t);
    else if (flag_version)
        printf("%s %s\n", t->name, AQ_VERSION);
    else if (flag_build)
        print_build_info(t);
    else if (flag_result)
        printf("%d\n", t->result_version);
    else
        return false;
    *code = aq_tool_finish();
    return true;
}

/*
 * A standard stream that the caller closed would give its number to the next file opened, and
 * messages would end up in a product. Held open the wrong way round, using it still fails.
 */
static void hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

bool aq_tool_begin(const struct aq_tool *tool, int argc, char **argv, struct aq_cmdline *cl,
                   int *code)
{
    struct aq_err err = {0};
    current = tool;
    aq_msg_name(tool->name);
    *cl = (struct aq_cmdline){0};
    hold_standard_streams();
    /* A preloaded library may have switched denormals off: here they are numbers. */
    (void)fesetenv(FE_DFL_ENV);
    /* A reader that goes away, or a file at its size limit, is a write error with a message. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    int bad = parse(argc, argv, cl, &err);
    if (bad == 0 && answer_meta(tool, code))
        return false;
    if (bad == 0)
        bad = check_operands(tool, cl, &err);
    if (bad < 0) {
        if (!err.hint[0])
            aq_err_hint(&err, "try '%s%s%s --help'", tool->name, tool->command ? " " : "",
                        tool->command ? tool->command : "");
        *code = aq_msg_error(&err);
        return false;
    }
    if (flag_quiet)
        verbosity = -1;
    if (opt_progress)
        aq_progress_set_mode(strcmp(opt_progress, "always") == 0  ? AQ_PROGRESS_ALWAYS
                             : strcmp(opt_progress, "never") == 0 ? AQ_PROGRESS_NEVER
                                                                  : AQ_PROGRESS_AUTO);
    if (flag_quiet)
        aq_progress_set_mode(AQ_PROGRESS_NEVER);
    aq_msg_verbosity(verbosity);
    cl->output = opt_output;
    return true;
}
