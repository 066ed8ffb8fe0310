/* Which cell of a sweep a manifest is: model, quantization pair, granularity, size of the data. */
#ifndef AQ_REPORT_CELL_H
#define AQ_REPORT_CELL_H

#include "select/manifest.h"

struct cell {
    char *model, *pair, *granularity, *size; /* "" where the manifest does not say */
};

void cell_init(struct cell *c, const struct manifest *m);
/* For people: "-" for what is not known. */
const char *cell_show(const char *text);
void cell_release(struct cell *c);

#endif
