#include "io/product.h"

#include <string.h>

struct json *product_new(const char *schema)
{
    struct json *root = json_new_object();
    json_add_string(root, "schema", schema);
    return root;
}

struct json *product_add_provenance(struct json *root, const char *tool, int result_version)
{
    struct json *p = json_add_object(root, "provenance");
    json_add_string(p, "tool", tool);
    json_add_int(p, "result_version", result_version);
    return json_add_object(p, "inputs");
}

int product_check(const struct jref *root, const char *schema, struct aq_err *err)
{
    if (json_type(root->v) != JSON_OBJECT)
        return jref_fail(root, err, "expected an object with schema '%s', found %s", schema,
                         json_type_name(json_type(root->v)));
    const struct json *v = json_get(root->v, "schema");
    if (!v || json_type(v) != JSON_STRING)
        return jref_fail(root, err, "not a product of aq: no schema, expected '%s'", schema);
    if (strcmp(json_string(v), schema) != 0)
        return jref_fail(root, err, "schema is '%s', expected '%s'", aq_show(json_string(v)),
                         schema);
    return 0;
}

struct json *product_read(const char *path, const char *schema, struct aq_err *err)
{
    struct json *v = json_read(path, err);
    if (!v)
        return NULL;
    struct jref root = jref_root(v, path);
    if (product_check(&root, schema, err) < 0) {
        json_free(v);
        return NULL;
    }
    return v;
}
