#include "io/run_schema.h"

#include <string.h>

int run_check_schema(const struct jref *root, struct aq_err *err)
{
    struct jref schema, aq;
    if (json_type(root->v) != JSON_OBJECT)
        return jref_fail(root, err, "expected a run of aq-resolve, found %s",
                         json_type_name(json_type(root->v)));
    if (jref_has(root, "schema", &schema) && json_type(schema.v) == JSON_STRING)
        return jref_fail(root, err, "schema is '%s', expected a run of aq-resolve",
                         aq_show(json_string(schema.v)));
    if (jref_has(root, "_aq", &aq) && jref_has(&aq, "schema", &schema) &&
        (json_type(schema.v) != JSON_STRING || strcmp(json_string(schema.v), RUN_SCHEMA) != 0))
        return jref_fail(&schema, err, "expected '" RUN_SCHEMA "', as this version writes it");
    return 0;
}
