/*
 * Messages to the person who started the program: one line on stderr, "aq-x: text". The main
 * function says who speaks and how much; everybody else only speaks. Errors are not printed here
 * but returned (base/err.h): the main function prints the one that ends the program.
 */
#ifndef AQ_BASE_MSG_H
#define AQ_BASE_MSG_H

#include "base/err.h"

#include <stdbool.h>

void aq_warn(const char *fmt, ...) AQ_PRINTF(1, 2);            /* "warning: ...", unless -q */
void aq_note(int level, const char *fmt, ...) AQ_PRINTF(2, 3); /* from this level of -v upwards */

/* For the main function. The name is borrowed. Verbosity: -1 errors only, 0, 1, 2. */
void aq_msg_name(const char *tool);
void aq_msg_verbosity(int level);
/* From now on to this descriptor instead of stderr. */
void aq_msg_to(int fd);
/* A line without an end is on the terminal (base/progress.h): the next message replaces it. */
void aq_msg_line_open(bool open);
/* "aq-x: text", whatever the verbosity. Safe in a signal handler. */
void aq_msg_line(const char *text);
/* Prints an error and its hint. Returns its class, the exit status. */
int aq_msg_error(const struct aq_err *err);

#endif
