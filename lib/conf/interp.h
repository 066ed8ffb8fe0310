/*
 * Interpolations: ${a.b}, ${.x}, ${a[0]}, ${oc.env:HOME,x} inside string values. A value that is
 * exactly one interpolation keeps the type of what it names; mixed with text it becomes a string.
 * Nothing is resolved before it is asked for, so an override changes everything that refers to it.
 */
#ifndef AQ_CONF_INTERP_H
#define AQ_CONF_INTERP_H

#include "base/arena.h"
#include "io/node.h"

#include <stdbool.h>
#include <time.h>

enum {
    INTERP_MAX_DEPTH = 64,      /* a value that names a value that names ... */
    INTERP_MAX_STEPS = 1000000, /* of one tree */
    INTERP_MAX_TEXT = 1 << 20,  /* bytes of one resolved value */
};

struct interp {
    struct aq_arena *a;
    struct node *root; /* absolute keys start here; "hydra" is hidden from all but its own values */
    struct tm now;     /* ${now:...} */
    struct aq_err *err;
    const struct node *active[INTERP_MAX_DEPTH]; /* values being resolved, outermost first */
    int depth;
    size_t steps;
};

void interp_init(struct interp *in, struct aq_arena *a, struct node *root, const struct tm *now,
                 struct aq_err *err);

bool interp_is(const struct node *v); /* a string with an interpolation in it */

/*
 * The value of v: v itself unless it is an interpolation; else an existing node or a new one.
 * A list or mapping is returned as it is, not resolved inside. NULL with an error: AQ_EUSAGE if
 * the text came from an override, else AQ_EINPUT.
 */
struct node *interp_value(struct interp *in, struct node *v);
/* A copy of v with everything inside resolved. A value ??? is an error. */
struct node *interp_deep(struct interp *in, struct node *v);

/*
 * The resolved value at "a.b[0].c" below from. 1 found, 0 not there (also ???), -1 error.
 */
int interp_select(struct interp *in, struct node *from, const char *key, struct node **out);

/* "a.b[c].d" into parts. */
size_t interp_split_key(struct aq_arena *a, const char *key, const char ***parts);

#endif
