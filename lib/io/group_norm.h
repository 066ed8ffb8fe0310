/*
 * "norm" of a group: does a norm give its input? Files name it only where the answer is not what
 * is usual for the group's kind, so that who writes and who reads must agree on what is usual.
 */
#ifndef AQ_IO_GROUP_NORM_H
#define AQ_IO_GROUP_NORM_H

#include <stdbool.h>

bool group_norm_usual(const char *kind);

#endif
