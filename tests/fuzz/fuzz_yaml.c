/* YAML files: no crash, and what was accepted is written and read back as the same text. */
#include "io/yaml.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Texts that PyYAML, and this writer after it, does not write so that they read back. */
static bool is_odd(const char *text)
{
    return strpbrk(text, "\r\\") || strstr(text, "\xc2\x85") || strstr(text, "\xe2\x80\xa8") ||
           strstr(text, "\xe2\x80\xa9") || strstr(text, "\xef\xbb\xbf");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_buf once = AQ_BUF_INIT, twice = AQ_BUF_INIT;
    struct aq_err err = {0};
    const struct node *v = yaml_parse_node(&a, (const char *)data, size, "fuzz.yaml", &err);
    if (v) {
        yaml_write(&once, v);
        const struct node *again = yaml_parse_node(&a, aq_buf_str(&once), once.len, "again", &err);
        if (again)
            yaml_write(&twice, again);
        if (!is_odd(aq_buf_str(&once)) && again && strcmp(once.data, aq_buf_str(&twice)) != 0)
            abort();
    }
    aq_buf_release(&once);
    aq_buf_release(&twice);
    aq_arena_release(&a);
    return 0;
}
