/*
 * What the runs of a sweep read, under names that hold no data: DIR/in/checkpoint for model.path
 * and DIR/in/captions-<size> for dataset.captions_path of every size of the data set, also of one
 * that the sweep leaves out. A rule or a recipe that names the links names no value.
 */
#ifndef AQ_CONF_INPUTS_H
#define AQ_CONF_INPUTS_H

#include "conf/resolve.h"

/*
 * Writes the links, each only if it changes. Runs of several models have no links. A relative path
 * is one of the start directory, or, where nothing is there, of the installed data.
 */
int inputs_link(struct resolver *r, const char *dir, struct aq_err *err) AQ_MUST_CHECK;

#endif
