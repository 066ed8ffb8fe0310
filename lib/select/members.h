/*
 * The linear layers of a group: engines fuse them, so they share one format. A group is called
 * after its first member wherever a program reads; people read what members_name makes of all of
 * them.
 */
#ifndef AQ_SELECT_MEMBERS_H
#define AQ_SELECT_MEMBERS_H

#include "base/buf.h"
#include "io/json.h"

/*
 * A new list of names: a copy of members, or where that is NULL what the group's name means: q_proj
 * is q, k and v, gate_proj is gate and up.
 */
struct json *members_list(const struct json *members, const char *name);

/* Appends "layers.0.self_attn.q+k+v_proj" for three members; the name itself for one. */
void members_name(struct aq_buf *out, const struct json *list);

#endif
