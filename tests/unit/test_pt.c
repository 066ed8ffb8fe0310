/* lib/io/pickle, zip: byte for byte what Python's zipfile and pickle opcodes give
 * (tests/oracle/pt.py). */
#include "tap.h"

#include "base/file.h"
#include "io/pickle.h"
#include "io/zip.h"

int main(void)
{
    struct aq_err err = {0};
    struct aq_buf expected = AQ_BUF_INIT, found = AQ_BUF_INIT;
    struct json *v = json_read("tests/oracle/pt/state.json", &err);
    if (!v || aq_read_file("tests/oracle/pt/state.zip", 1 << 20, &expected, &err) < 0) {
        tap_ok(0, "%s", err.msg);
        return tap_done();
    }
    torch_archive(&found, v);
    tap_ok(found.len == expected.len && memcmp(found.data, expected.data, found.len) == 0,
           "the archive equals the vector (%zu bytes)", found.len);
    tap_ok(zip_crc32("123456789", 9) == 0xcbf43926, "CRC-32 of the standard text");
    json_free(v);
    aq_buf_release(&found);
    aq_buf_release(&expected);
    return tap_done();
}
