#include "report/html.h"
#include "base/fmt.h"
#include "report/escape.h"
#include "report/svg.h"

#include <math.h>
#include <stdio.h>

static const char styles[] =
    ":root{color-scheme:light "
    "dark;--page:#fff;--ink:#1d2129;--soft:#5b6370;--line:#e0e4e9;--card:#f6f7f9;"
    "--accent:#0072b2;--note:#eef5fa}"
    "@media "
    "(prefers-color-scheme:dark){:root{--page:#14171c;--ink:#e8eaee;--soft:#a3abb8;--line:#2d333c;"
    "--card:#1b1f26;--accent:#56a8e0;--note:#17222d}}"
    "*{box-sizing:border-box}"
    "body{margin:0 auto;max-width:980px;padding:28px 24px "
    "64px;background:var(--page);color:var(--ink);"
    "font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu "
    "Sans\",sans-serif;overflow-wrap:anywhere}"
    "h1{font-size:1.6rem;line-height:1.25;margin:0 0 .3em}h2{font-size:1.15rem;margin:2.4em 0 .4em}"
    "p{margin:.5em "
    "0}.soft,figcaption,.lead{color:var(--soft)}figcaption{font-size:.88rem;margin:.2em 0 .6em}"
    "figure{margin:0}svg.aq{display:block;max-width:100%;height:auto}.narrow{display:none}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:"
    "20px 0}"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}"
    ".card b{display:block;font-size:1.3rem;line-height:1.4}.card "
    "span{font-size:.82rem;color:var(--soft)}"
    ".note{background:var(--note);border-left:4px solid "
    "var(--accent);border-radius:4px;padding:10px 16px;margin:18px 0}"
    ".scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}"
    "table{overflow-wrap:normal;border-collapse:collapse;width:100%;font-size:.86rem;font-variant-"
    "numeric:tabular-nums}"
    "th,td{padding:5px 8px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}"
    "td.n,th.n{text-align:right;white-space:nowrap}td.name{white-space:nowrap;font-family:ui-"
    "monospace,Menlo,\"DejaVu "
    "Sans Mono\",monospace;"
    "font-size:.8rem}"
    "th{position:sticky;top:0;background:var(--page)}th "
    "button{all:unset;cursor:pointer;font-weight:600}"
    "th button:focus-visible{outline:2px solid var(--accent)}th[aria-sort=ascending] "
    "button::after{content:\" \\25b2\"}"
    "th[aria-sort=descending] button::after{content:\" \\25bc\"}"
    "pre,code{font-family:ui-monospace,Menlo,\"DejaVu Sans Mono\",monospace;font-size:.84rem}"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px "
    "14px;overflow-x:auto;"
    "white-space:pre}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:2px "
    "16px;font-size:.9rem}dt{color:var(--soft)}dd{margin:0}"
    "@media (max-width:640px){body{padding:18px 14px 48px}.wide{display:none}.narrow{display:block}"
    ".more{display:none}h1{font-size:1.3rem}.cards{grid-template-columns:1fr "
    "1fr}dl{grid-template-columns:1fr}"
    "dt{margin-top:6px}}"
    ".swatch{display:inline-block!important;vertical-align:-1px}h3{font-size:1rem;margin:1.2em 0 "
    ".3em}"
    "@media print{.scroll{overflow:visible}th{position:static}}";

/* Sorting is all that needs a script; the page reads well without it. */
static const char script[] =
    "document.querySelectorAll('table.sortable').forEach(function(t){"
    "t.querySelectorAll('th').forEach(function(h,i){"
    "var "
    "b=document.createElement('button');b.type='button';while(h.firstChild)b.appendChild(h."
    "firstChild);"
    "h.appendChild(b);b.addEventListener('click',function(){"
    "var up=h.getAttribute('aria-sort')==='descending';"
    "t.querySelectorAll('th').forEach(function(o){o.removeAttribute('aria-sort')});"
    "h.setAttribute('aria-sort',up?'ascending':'descending');"
    "var body=t.tBodies[0],rows=Array.from(body.rows).map(function(r){var "
    "c=r.cells[i],v=c.dataset.v;"
    "return[v===undefined?c.textContent:v===''?-Infinity:+v,r]});"
    "rows.sort(function(a,b){var x=a[0],y=b[0],c=x<y?-1:x>y?1:0;return up?c:-c});"
    "rows.forEach(function(r){body.appendChild(r[1])})})})});";

void html_begin(struct aq_buf *out, const char *title)
{
    aq_buf_adds(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                     "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>");
    escape_html(out, title);
    aq_buf_adds(out, "</title>\n<style>");
    aq_buf_adds(out, styles);
    svg_styles(out);
    aq_buf_adds(out, "</style>\n</head>\n<body>\n");
}

void html_end(struct aq_buf *out)
{
    aq_buf_addf(out, "<script>%s</script>\n</body>\n</html>\n", script);
}

void html_text(struct aq_buf *out, const char *tag, const char *class, const char *text)
{
    aq_buf_addf(out, class ? "<%s class=\"%s\">" : "<%s>", tag, class);
    escape_html(out, text);
    aq_buf_addf(out, "</%s>", tag);
}

void html_number_cell(struct aq_buf *out, const char *class, double x, const char *text)
{
    char exact[AQ_FMT_MAX];
    aq_buf_addf(out, "<td class=\"n%s%s\" data-v=\"%s\">", class ? " " : "", class ? class : "",
                isnan(x) ? "" : aq_fmt_double(x, exact));
    escape_html(out, isnan(x) ? "" : text);
    aq_buf_adds(out, "</td>");
}

void html_fixed_cell(struct aq_buf *out, const char *class, double x, int decimals,
                     const char *unit)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%.*f%s", decimals, x, unit);
    html_number_cell(out, class, x, text);
}
