/*
 * Command lines: one table per tool, one block of options that all tools share, one main function.
 *
 *     static struct {...} o = {...};                      // what the options set
 *     static const struct aq_opt options[] = {..., AQ_OPT_END};
 *     static int run(const struct aq_cmdline *cl, struct aq_err *err) {...}
 *     static const struct aq_tool tool = {.name = "aq-x", .options = options, .run = run, ...};
 *
 *     int main(int argc, char **argv)
 *     {
 *         return aq_tool_main(&tool, argc, argv);
 *     }
 *
 * A tool may have commands, each a struct aq_tool of its own: the first word selects it. Options
 * may come before, between and after operands; "--" ends them. Every option can be written
 * --name VALUE or --name=VALUE, and must be spelled in full.
 */
#ifndef AQ_BASE_OPT_H
#define AQ_BASE_OPT_H

#include "base/err.h"
#include "base/names.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum aq_opt_type {
    AQ_OPT_FLAG,   /* bool *: set to true */
    AQ_OPT_INT,    /* int64_t * */
    AQ_OPT_DOUBLE, /* double * */
    AQ_OPT_SIZE,   /* uint64_t *: bytes, with K M G T */
    AQ_OPT_TEXT,   /* const char ** */
    AQ_OPT_CHOICE, /* const char **: one of `choices` */
    AQ_OPT_LIST,   /* struct aq_names *: may be given several times */
};

struct aq_opt {
    const char *name; /* without dashes */
    char letter;      /* 0: none */
    enum aq_opt_type type;
    void *dest;
    const char *arg;            /* name of the value in --help; NULL for a flag */
    const char *help;           /* may contain \n */
    const char *const *choices; /* NULL-terminated; AQ_OPT_CHOICE only */
    int64_t min, max;           /* AQ_OPT_INT: both 0 means any */
};

#define AQ_OPT_END                                                                                 \
    {                                                                                              \
        .name = NULL                                                                               \
    }

struct aq_cmdline {
    const char *output; /* -o; NULL: stdout */
    const char **args;  /* operands, NULL-terminated */
    int count;
};

struct aq_tool {
    const char *name;    /* "aq-score"; of a command "collect" */
    const char *summary; /* one line */
    const char *usage;   /* one or more lines, without the leading "usage: " */
    const char *details; /* paragraphs for --help; may be NULL */
    const char *example; /* runnable, one or more lines */
    const struct aq_opt *options;
    int min_args, max_args; /* operands; max_args < 0: any number */
    /* The work. -1 with an error, or 0. NULL: the tool does nothing without a command. */
    int (*run)(const struct aq_cmdline *cl, struct aq_err *err);

    /* Of the tool alone; its commands share them. */
    const struct aq_tool *const *commands; /* NULL-terminated; NULL: there are none */
    int result_version;                    /* raised whenever equal inputs may give other results */
    const char *const *schemas;            /* of its products, NULL-terminated; may be NULL */
    void (*print_build_info)(void);        /* more lines of --build-info; may be NULL */
};

/* A whole main function: parses, runs, prints the error, checks stdout. Returns the exit status. */
int aq_tool_main(const struct aq_tool *tool, int argc, char **argv);

/*
 * The parser alone, without commands: sets what the tables point at, and cl. argv[0] is skipped.
 * Operands (valid until the next parse) and list values point into argv.
 */
int aq_cmdline_parse(const struct aq_tool *tool, int argc, char **argv, struct aq_cmdline *cl,
                     struct aq_err *err);

#endif
