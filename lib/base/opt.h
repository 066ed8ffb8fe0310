/*
 * Command lines: one table per tool, one block of options that all tools share, one way to end.
 *
 *     int main(int argc, char **argv)
 *     {
 *         struct opts o = {...};
 *         const struct aq_opt table[] = {..., AQ_OPT_END};
 *         const struct aq_tool tool = {.name = "aq-x", .options = table, ...};
 *         struct aq_cmdline cl;
 *         struct aq_err err = {0};
 *         int code;
 *         if (!aq_tool_begin(&tool, argc, argv, &cl, &code))
 *             return code;                   // --help and friends, or a usage error
 *         // "aq-x: ..." and the class as exit code, or stdout flushed and checked
 *         return aq_tool_end(run(&o, &cl, &err), &err);
 *     }
 *
 * Options may stand before, between and behind operands; "--" ends them. Every option can be
 * written --name VALUE or --name=VALUE, and must be spelled in full.
 */
#ifndef AQ_BASE_OPT_H
#define AQ_BASE_OPT_H

#include "base/err.h"

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
    AQ_OPT_LIST,   /* struct aq_strings *: may be given several times */
};

struct aq_strings {
    const char **items; /* owned by opt.c, pointing into argv */
    size_t count;
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

struct aq_tool {
    const char *name;    /* "aq-score" */
    const char *command; /* subcommand, or NULL */
    const char *summary; /* one line */
    const char *usage;   /* one or more lines, without the leading "usage: " */
    const char *details; /* paragraphs for --help; may be NULL */
    const char *example; /* runnable, one or more lines */
    const struct aq_opt *options;
    int result_version;             /* raised whenever equal inputs may give different results */
    int min_args, max_args;         /* operands; max_args < 0: any number */
    void (*print_build_info)(void); /* more lines of --build-info; may be NULL */
};

struct aq_cmdline {
    const char *output; /* -o; NULL: stdout */
    const char **args;  /* operands, NULL-terminated */
    int count;
};

/*
 * False: the tool is to return *code at once (help was printed, or a usage error). argv[0] is
 * skipped; for a subcommand pass argc - 1, argv + 1.
 */
bool aq_tool_begin(const struct aq_tool *tool, int argc, char **argv, struct aq_cmdline *cl,
                   int *code);
int aq_tool_finish(void);
/* The end of a main(): aq_msg_error if the result is negative, else aq_tool_finish. */
int aq_tool_end(int result, const struct aq_err *err);

#endif
