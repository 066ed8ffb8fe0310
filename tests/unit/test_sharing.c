/* What one NVFP4 second level for several weights costs: against sums worked out by hand. */
#include "tap.h"

#include "quant/sharing.h"

#include <math.h>

enum { COLS = 16 };

static bool near(double found, double expected)
{
    return fabs(found - expected) <= 1e-5 * fabs(expected);
}

int main(void)
{
    /* Ranges .3 and 1. Alone, a's block scale is .3 / 6 and its codes are 6 and 2 (of 1.8): an
       error of .01. Under the range of b it is 128 / 2688, the e4m3 number next to 134.4 / 2688. */
    static const float a[COLS] = {0.3F, 0.09F}, b[COLS] = {1, 0.3F};
    const struct quant_matrix members[] = {{a, NUM_F32, 1, COLS, "a"}, {b, NUM_F32, 1, COLS, "b"}};
    static const float amax[] = {0.3F, 1};
    const double s = 128.0 / 2688, of_b = (2.0 / 6 - 0.3) * (2.0 / 6 - 0.3);
    const double alone = 0.01 * 0.01, under = pow(6 * s - 0.3, 2) + pow(2 * s - 0.09, 2);
    struct quant_spec spec;
    struct sharing sharing = SHARING_INIT;
    struct aq_err err = {0};
    tap_ok(near(sharing_ratio(&sharing), 1), "nothing added: a ratio of 1");
    tap_ok(quant_parse("e2m1:nvfp4(16):dynamic@group", &spec, &err) == 0 &&
               sharing_add(&sharing, &spec, members, amax, 2, &err) == 0,
           "two members %s", err.msg);
    tap_ok(near(sharing.own, of_b + alone), "under a range of its own: %.9g", sharing.own);
    tap_ok(near(sharing.shared, of_b + under), "under the larger one: %.9g", sharing.shared);
    tap_ok(near(sharing_ratio(&sharing), (of_b + under) / (of_b + alone)), "ratio %.6f",
           sharing_ratio(&sharing));
    tap_ok(near(sharing.widest, 1 / 0.3) && sharing.groups == 1, "ranges differ by %.3f",
           sharing.widest);

    /* of more rows than are looked at, every second one: in bf16, where odd rows are zero */
    static uint16_t rows[2 * SHARING_ROWS * COLS];
    for (int i = 0; i < SHARING_ROWS; i++) {
        rows[(size_t)(2 * i) * COLS] = 0x3f80;     /* 1 */
        rows[(size_t)(2 * i) * COLS + 1] = 0x3e80; /* .25: code 1.5, exact */
        rows[(size_t)(2 * i) * COLS + 2] = 0x3e00; /* .125: code .75, the even neighbour is 1 */
    }
    const struct quant_matrix one = {rows, NUM_BF16, 2 * SHARING_ROWS, COLS, "rows"};
    static const float top[] = {1};
    sharing = (struct sharing)SHARING_INIT;
    int r = sharing_add(&sharing, &spec, &one, top, 1, &err);
    tap_ok(r == 0 && near(sharing.own, SHARING_ROWS * pow(1.0 / 6 - 0.125, 2)) &&
               sharing.own == sharing.shared,
           "%d rows of twice as many, widened from bf16: %.9g", SHARING_ROWS, sharing.own);
    return tap_done();
}
