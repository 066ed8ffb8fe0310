#include "base/opt.h"
#include "base/buf.h"
#include "base/build.h"
#include "base/file.h"
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

static const struct aq_tool *program; /* what was started */
static const struct aq_tool *current; /* the same, or one of its commands */

static struct aq_names operands; /* of the last parse */

static struct {
    bool help, version, build, result, quiet;
    int verbosity;
    const char *output, *progress, *log;
} common;

static const char *const progress_choices[] = {"auto", "always", "never", "json", NULL};

static const struct aq_opt shared[] = {
    {"output", 'o', AQ_OPT_TEXT, &common.output, "FILE",
     "write the product to FILE instead of stdout"},
    {"quiet", 'q', AQ_OPT_FLAG, &common.quiet, NULL, "errors only"},
    {"verbose", 'v', AQ_OPT_FLAG, NULL, NULL, "say what is being done; twice: in detail"},
    {"progress", 0, AQ_OPT_CHOICE, &common.progress, "WHEN",
     "auto, always, never, or json: lines for programs", progress_choices},
    {"log", 0, AQ_OPT_TEXT, &common.log, "FILE",
     "append messages to FILE instead of stderr; progress\nstays on stderr"},
    {"help", 'h', AQ_OPT_FLAG, &common.help, NULL, "this text"},
    {"version", 'V', AQ_OPT_FLAG, &common.version, NULL, "version"},
    {"build-info", 0, AQ_OPT_FLAG, &common.build, NULL, "compiler, flags, libraries"},
    {"result-version", 0, AQ_OPT_FLAG, &common.result, NULL,
     "a number that changes when equal inputs may give other\nresults, and the schemas of the "
     "products"},
    AQ_OPT_END,
};

/* "aq-score", "aq-score collect": what to type. */
static const char *full_name(void)
{
    static char name[64];
    bool command = current != program;
    (void)snprintf(name, sizeof name, "%s%s%s", program->name, command ? " " : "",
                   command ? current->name : "");
    return name;
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
    if (t->commands) {
        printf("\ncommands, each with a --help of its own:\n");
        for (const struct aq_tool *const *c = t->commands; *c; c++)
            printf("  %-28s %s\n", (*c)->name, (*c)->summary);
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
        aq_err_hint(err, "did you mean --%s? (try '%s --help')", near, full_name());
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
    case AQ_OPT_LIST:
        aq_names_add(o->dest, value);
        break;
    }
    return 0;
}

static void set_flag(const struct aq_opt *o)
{
    if (o->dest)
        *(bool *)o->dest = true;
    else
        common.verbosity++; /* -v is the one flag that counts */
}

struct arguments {
    int argc, at;
    char **argv;
};

static int take_value(const struct aq_opt *o, struct arguments *c, struct aq_err *err)
{
    if (c->at + 1 >= c->argc)
        return aq_err_set(err, AQ_EUSAGE, "--%s needs a value (%s)", o->name, o->arg);
    return set_value(o, c->argv[++c->at], err);
}

static int parse_long(const char *text, struct arguments *c, struct aq_err *err)
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

static int parse_letters(const char *text, struct arguments *c, struct aq_err *err)
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
    struct arguments c = {argc, 1, argv};
    bool only_operands = false;
    for (; c.at < argc; c.at++) {
        const char *a = argv[c.at];
        if (only_operands || a[0] != '-' || a[1] == '\0')
            aq_names_add(&operands, a);
        else if (strcmp(a, "--") == 0)
            only_operands = true;
        else if ((a[1] == '-' ? parse_long(a + 2, &c, err) : parse_letters(a + 1, &c, err)) < 0)
            return -1;
    }
    cl->count = (int)operands.count;
    aq_names_add(&operands, NULL); /* the end */
    cl->args = operands.items;
    cl->output = common.output;
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

/* --help and its like, which need no operands. */
static bool asks_about_itself(void)
{
    return common.help || common.version || common.build || common.result;
}

static void forget_last_parse(void)
{
    aq_names_release(&operands);
    memset(&common, 0, sizeof common);
}

/* ---- commands ---- */

static const struct aq_tool *find_command(const char *word)
{
    for (const struct aq_tool *const *c = program->commands; c && *c; c++)
        if (strcmp((*c)->name, word) == 0)
            return *c;
    return NULL;
}

enum { MOST_COMMANDS = 32 };

static size_t command_names(const char *names[MOST_COMMANDS])
{
    size_t count = 0;
    for (const struct aq_tool *const *c = program->commands; *c && count < MOST_COMMANDS; c++)
        names[count++] = (*c)->name;
    return count;
}

static int hint_commands(const char *near, struct aq_err *err)
{
    const char *names[MOST_COMMANDS];
    struct aq_buf text = AQ_BUF_INIT;
    if (near)
        aq_buf_addf(&text, "did you mean %s? ", near);
    aq_buf_adds(&text, "commands: ");
    size_t count = command_names(names);
    aq_join_names(&text, names, count);
    aq_err_hint(err, "%s", aq_buf_str(&text));
    aq_buf_release(&text);
    return -1;
}

/*
 * An operand that is not a file but looks like a command: a slip of the keyboard, or a command
 * after an option. Of a tool that only has commands, every operand.
 */
static int check_operand(const char *word, struct aq_err *err)
{
    const char *names[MOST_COMMANDS];
    if (current != program || !program->commands || (program->run && access(word, F_OK) == 0))
        return 0;
    size_t count = command_names(names);
    const char *near = aq_nearest(word, names, count);
    if (near && strcmp(near, word) == 0)
        return aq_err_set(err, AQ_EUSAGE, "the command '%s' must be the first word", word);
    if (!program->run)
        (void)aq_err_set(err, AQ_EUSAGE, "unknown command '%s'", aq_show(word));
    else if (near)
        (void)aq_err_set(err, AQ_EUSAGE, "'%s' is neither a command nor a file", aq_show(word));
    else
        return 0;
    return hint_commands(near, err);
}

/* First: other complaints about the command line of a misspelled command would be misleading. */
static int check_first_word(int argc, char **argv, struct aq_err *err)
{
    return argc > 1 && argv[1][0] != '-' ? check_operand(argv[1], err) : 0;
}

static int check_first_operand(const struct aq_cmdline *cl, struct aq_err *err)
{
    if (cl->count)
        return check_operand(cl->args[0], err);
    if (!current->commands || current->run)
        return 0;
    (void)aq_err_set(err, AQ_EUSAGE, "no command given");
    return hint_commands(NULL, err);
}

/* ---- the whole command line ---- */

static int parse_current(int argc, char **argv, struct aq_cmdline *cl, struct aq_err *err)
{
    *cl = (struct aq_cmdline){0};
    forget_last_parse();
    int bad = parse(argc, argv, cl, err);
    if (bad == 0 && !asks_about_itself())
        bad = check_first_operand(cl, err) < 0 ? -1 : check_operands(current, cl, err);
    if (bad < 0 && err && !err->hint[0])
        aq_err_hint(err, "try '%s --help'", full_name());
    return bad;
}

int aq_cmdline_parse(const struct aq_tool *tool, int argc, char **argv, struct aq_cmdline *cl,
                     struct aq_err *err)
{
    program = current = tool;
    return parse_current(argc, argv, cl, err);
}

/* ---- the main function ---- */

static void print_about(void)
{
    if (common.help) {
        print_help(current);
    } else if (common.version) {
        printf("%s %s\n", program->name, AQ_VERSION);
    } else if (common.build) {
        aq_print_build_info();
        if (program->print_build_info)
            program->print_build_info();
    } else {
        printf("%d\n", program->result_version);
        for (const char *const *s = program->schemas; s && *s; s++)
            printf("%s\n", *s);
    }
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

static void prepare_process(void)
{
    hold_standard_streams();
    /* A preloaded library may have switched denormals off: here they are numbers. */
    (void)fesetenv(FE_DFL_ENV);
    /* A reader that goes away, or a file at its size limit, is a write error with a message. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
}

/* Where messages go and how many, and how progress is shown. */
static int apply_common(struct aq_err *err)
{
    static const enum aq_progress_mode modes[] = {AQ_PROGRESS_AUTO, AQ_PROGRESS_ALWAYS,
                                                  AQ_PROGRESS_NEVER, AQ_PROGRESS_JSON};
    for (size_t i = 0; common.progress && i < AQ_COUNT(modes); i++)
        if (strcmp(common.progress, progress_choices[i]) == 0)
            aq_progress_set_mode(modes[i]);
    if (common.quiet)
        aq_progress_set_mode(AQ_PROGRESS_NEVER);
    aq_msg_verbosity(common.quiet ? -1 : common.verbosity);
    return common.log ? aq_log_open(common.log, err) : 0;
}

static int finish_stdout(struct aq_err *err)
{
    int bad = ferror(stdout);
    errno = 0;
    if (fclose(stdout) != 0 || bad) {
        errno = errno ? errno : EIO;
        return aq_err_sys(err, AQ_ERUN, "cannot write standard output");
    }
    return 0;
}

static int run_tool(int argc, char **argv, struct aq_err *err)
{
    struct aq_cmdline cl;
    if (check_first_word(argc, argv, err) < 0 || parse_current(argc, argv, &cl, err) < 0)
        return -1;
    if (asks_about_itself())
        print_about();
    else if (apply_common(err) < 0 || current->run(&cl, err) < 0)
        return -1;
    return finish_stdout(err);
}

int aq_tool_main(const struct aq_tool *tool, int argc, char **argv)
{
    struct aq_err err = {0};
    program = current = tool;
    aq_msg_name(tool->name);
    prepare_process();
    aq_guard_inputs();
    const struct aq_tool *command = argc > 1 ? find_command(argv[1]) : NULL;
    if (command) {
        current = command;
        argc--;
        argv++;
    }
    return run_tool(argc, argv, &err) < 0 ? aq_msg_error(&err) : AQ_OK;
}
