#include "model/shard_name.h"

#include <limits.h>
#include <string.h>

bool shard_name_is_plain(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > NAME_MAX || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (const char *p = name; *p; p++)
        if (strchr("/\\:", *p) || (unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return true;
}
