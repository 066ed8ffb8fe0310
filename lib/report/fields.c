#include "report/fields.h"
#include "base/fmt.h"
#include "report/escape.h"

#include <math.h>

static void begin(struct fields *f)
{
    if (f->open)
        aq_buf_addc(f->out, f->separator);
    f->open = true;
}

void fields_text(struct fields *f, const char *text)
{
    begin(f);
    if (text && f->separator == ',')
        escape_csv(f->out, text);
    else if (text)
        escape_plain(f->out, text);
}

void fields_number(struct fields *f, double x)
{
    char text[AQ_FMT_MAX];
    begin(f);
    if (!isnan(x))
        aq_buf_adds(f->out, aq_fmt_double(x, text));
}

void fields_count(struct fields *f, size_t n)
{
    begin(f);
    aq_buf_addf(f->out, "%zu", n);
}

void fields_end(struct fields *f)
{
    aq_buf_addc(f->out, '\n');
    f->open = false;
}

void fields_names(struct fields *f, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fields_text(f, names[i]);
    fields_end(f);
}
