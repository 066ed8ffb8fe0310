/* Writing a small ZIP archive in memory: entries stored as they are, dates fixed, no comments. */
#ifndef AQ_IO_ZIP_H
#define AQ_IO_ZIP_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

struct zip_writer {
    struct aq_buf out;     /* local entries */
    struct aq_buf central; /* directory */
    size_t count;
};

#define ZIP_WRITER_INIT                                                                            \
    {                                                                                              \
        AQ_BUF_INIT, AQ_BUF_INIT, 0                                                                \
    }

/* Each entry and the whole archive must stay below 4 GiB: asserted. */
void zip_add(struct zip_writer *z, const char *name, const void *data, size_t n);
/* Ends the archive; out takes the bytes, the writer is empty again. */
void zip_finish(struct zip_writer *z, struct aq_buf *out);

uint32_t zip_crc32(const void *data, size_t n);

#endif
