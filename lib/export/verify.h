/* The written shards, read again: do they decode to what the treatments say? */
#ifndef AQ_EXPORT_VERIFY_H
#define AQ_EXPORT_VERIFY_H

#include "export/directory.h"
#include "export/plan.h"

/*
 * Three rows of every module are decoded as a reader would and compared with the treatment's own
 * values; shapes and types of all tensors are looked up. A difference is AQ_ERUN: a fault here, or
 * of the disk.
 */
int verify_weights(const struct export_plan *p, const struct out_dir *d,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
