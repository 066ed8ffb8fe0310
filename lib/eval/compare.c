#include "eval/compare.h"

#include <math.h>

struct comparison compare_sides(const struct backend_side *p, const struct backend_side *q)
{
    double all = p->top + log(p->sum), allq = q->top + log(q->sum);
    return (struct comparison){
        .kl = p->moved / p->sum + allq - all,
        .rkl = q->moved / q->sum + all - allq,
        .nll_reference = all - p->target,
        .nll = allq - q->target,
        .same_top = p->best == q->best,
    };
}
