#include "conf/search.h"
#include "base/file.h"
#include "base/mem.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static char *named(const char *path, const char *by, struct aq_err *err)
{
    if (aq_is_directory(path))
        return xstrdup(path);
    aq_err_set(err, AQ_EUSAGE, "%s: '%s' is not a directory", by, aq_show(path));
    return NULL;
}

char *conf_find(const char *given, struct aq_err *err)
{
    static const char installed[] = AQ_DATADIR "/conf";
    const char *from_environment = getenv("AQ_CONF");
    if (given)
        return named(given, "--config-dir", err);
    if (from_environment && *from_environment)
        return named(from_environment, "$AQ_CONF", err);
    if (aq_is_directory("conf"))
        return xstrdup("conf");
    if (aq_is_directory(installed))
        return xstrdup(installed);
    aq_err_set(err, AQ_ERUN, "no configuration tree: neither './conf' nor '%s' is there",
               installed);
    (void)aq_err_hint(err, "name one with --config-dir DIR or AQ_CONF=DIR");
    return NULL;
}

char *conf_data_path(const char *path)
{
    static const char installed[] = AQ_DATADIR;
    const char *home = getenv("HOME");
    if (path[0] == '~' && (!path[1] || path[1] == '/') && home && *home)
        return xasprintf("%s%s", home, path + 1);
    if (path[0] == '/' || aq_path_exists(path))
        return xstrdup(path);
    char *there = aq_path_join(installed, path);
    if (aq_path_exists(there))
        return there;
    free(there);
    return xstrdup(path);
}
