/* Which kinds of groups follow a norm in most families. */
#include "io/group_norm.h"

#include <string.h>

bool group_norm_usual(const char *kind)
{
    return strcmp(kind, "qkv") == 0 || strcmp(kind, "gate_up") == 0 ||
           strcmp(kind, "experts") == 0 || strcmp(kind, "experts.gate_up") == 0;
}
