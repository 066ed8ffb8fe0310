#include "report/position.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

static const double sink_ratio = 10, sink_share = 0.3, pad_limit = 0.2;

const char position_sinks_before[] =
    "Attention sinks: the inputs of these groups are at least ten times larger at the first "
    "position than at any other, and at least 30 % of the score comes from there: ";
const char position_sinks_after[] =
    ". A static range that covers the first position is coarse for all others; ranges per token "
    "avoid that.";

bool position_is_pad(const struct report *r)
{
    const char *padding = json_find_string(r->m->dataset, "padding");
    return padding && strcmp(padding, "max_length") == 0;
}

double position_share(const struct report_row *row)
{
    return row->worst ? row->worst->first_position : NAN;
}

double position_ratio(const struct report_row *row)
{
    return row->worst ? row->worst->range_ratio : NAN;
}

bool position_known(const struct report *r)
{
    bool known = false;
    for (size_t i = 0; i < r->count; i++)
        known = known || !isnan(position_share(&r->rows[i])) || !isnan(position_ratio(&r->rows[i]));
    return known;
}

double position_total(const struct report *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->count; i++)
        if (r->rows[i].sensitivity > 0)
            sum += r->rows[i].sensitivity * position_share(&r->rows[i]);
    return r->total > 0 ? sum / r->total : NAN;
}

bool position_is_sink(const struct report *r, const struct report_row *row)
{
    bool share = false;
    for (size_t i = 0; i < row->count; i++)
        share = share || row->counted[i]->first_position >= sink_share;
    return share && position_ratio(row) >= sink_ratio && !position_is_pad(r);
}

char *position_padding(const struct report *r, bool *warning)
{
    double share = position_is_pad(r) ? position_total(r) : NAN;
    *warning = share > pad_limit;
    if (isnan(share))
        return NULL;
    return xasprintf("Samples are padded: %.1f %% of the total sensitivity comes from the pad "
                     "row, which sees no text.%s",
                     100 * share,
                     *warning ? " Above 20 % the ranking is no longer that of the text; measure "
                                "with dataset.padding=none."
                              : "");
}
