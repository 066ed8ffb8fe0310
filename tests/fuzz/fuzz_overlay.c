/* A run.json of any contents: refused, or a document that reads back equal, whose treatments the
 * engine reads. */
#include "quant/overlay.h"
#include "io/json.h"
#include "quant/quant.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The label needs the shipped presets, some fifty files a call: a tree without any is as good here.
 */
static char tree[] = "/tmp/fuzz_overlay.XXXXXX";
static char formats[sizeof tree + 8];

static void remove_tree(void)
{
    (void)rmdir(formats);
    (void)rmdir(tree);
}

static const char *empty_tree(void)
{
    if (!formats[0]) {
        if (!mkdtemp(tree) || snprintf(formats, sizeof formats, "%s/format", tree) < 0 ||
            mkdir(formats, 0777) < 0 || atexit(remove_tree) != 0)
            abort();
    }
    return tree;
}

static void check_treatment(const struct json *quant, const char *key)
{
    struct aq_err err = {0};
    struct quant_spec spec;
    const struct json *text = json_get(json_get(quant, "treatment"), key);
    if (json_type(text) == JSON_STRING && quant_parse(json_string(text), &spec, &err) < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_err err = {0};
    struct json *run = json_parse((const char *)data, size, "run.json", &err);
    if (!run)
        return 0;
    struct jref root = jref_root(run, "run.json");
    struct format_shelf shelf = {.conf_dir = empty_tree()};
    struct json *quant = overlay_quant_of_run(&root, &shelf, &err);
    format_shelf_release(&shelf);
    if (quant) {
        struct aq_buf text = AQ_BUF_INIT;
        if (json_write(&text, quant, 0, &err) < 0)
            abort();
        struct json *again = json_parse(text.data, text.len, "quant.json", &err);
        if (!again || !json_equal(quant, again))
            abort();
        check_treatment(quant, "w");
        check_treatment(quant, "a");
        json_free(again);
        aq_buf_release(&text);
    } else if (err.code != AQ_EINPUT || !err.msg[0]) {
        abort();
    }
    json_free(quant);
    json_free(run);
    return 0;
}
