#include "conf/search.h"
#include "base/mem.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>

static bool is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static char *named(const char *path, const char *by, struct aq_err *err)
{
    if (is_directory(path))
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
    if (is_directory("conf"))
        return xstrdup("conf");
    if (is_directory(installed))
        return xstrdup(installed);
    aq_err_set(err, AQ_ERUN, "no configuration tree: neither './conf' nor '%s' is there",
               installed);
    (void)aq_err_hint(err, "name one with --config-dir DIR or AQ_CONF=DIR");
    return NULL;
}
