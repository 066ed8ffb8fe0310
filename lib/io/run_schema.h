/* What makes a document a run.json: the schema of its `_aq`. */
#ifndef AQ_IO_RUN_SCHEMA_H
#define AQ_IO_RUN_SCHEMA_H

#include "io/json.h"

#define RUN_SCHEMA "aq.run/1"

/*
 * Another product given as a run is recognized by its schema, a run of another version by that of
 * its `_aq`. A configuration without `_aq`, such as one composed by Hydra, passes.
 */
int run_check_schema(const struct jref *root, struct aq_err *err) AQ_MUST_CHECK;

#endif
