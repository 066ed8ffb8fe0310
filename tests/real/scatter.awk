# Predicted against measured divergence of many recipes as SVG, both axes logarithmic. Input: NAME<TAB>PREDICTED<TAB>MEASURED<TAB>ERROR, as
# tests/real/evidence makes them of receipts; each NAME has a colour and a line in the legend, in the order of the first lines.
BEGIN {
    FS = "\t"
    split("#1b6ca8 #c2571a #3a7d44 #7b3f98", colour, " ")
    size = 420; left = 70; top = 20; low = log(0.004); high = log(1.6)
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"560\" height=\"500\" viewBox=\"0 0 560 500\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">"
    print "<title>Predicted and measured divergence of recipes</title>"
    print "<rect width=\"560\" height=\"500\" fill=\"#fff\"/>"
    band = log(1.6) # within the predicted interval
    printf "<path d=\"M%s %sV%sL%s %sH%sV%sL%s %sZ\" fill=\"#eee\"/>\n", x(low), y(low), y(low + band), x(high - band), y(high), x(high), y(high - band), x(low + band), y(low)
    printf "<path d=\"M%s %sL%s %s\" stroke=\"#888\"/>\n", x(low), y(low), x(high), y(high)
    n = split("0.01 0.03 0.1 0.3 1", tick, " ")
    for (i = 1; i <= n; i++) {
        at = log(tick[i])
        printf "<path d=\"M%s %sv%d\" stroke=\"#ddd\"/><path d=\"M%s %sh%d\" stroke=\"#ddd\"/>", x(at), top, size, left, y(at), size
        printf "<text x=\"%s\" y=\"%d\" text-anchor=\"middle\">%s</text><text x=\"%d\" y=\"%s\" text-anchor=\"end\" dy=\".35em\">%s</text>\n", x(at), top + size + 18, tick[i], left - 6, y(at), tick[i]
    }
    printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#444\"/>\n", left, top, size, size
    printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">predicted KL, nats per token</text>\n", left + size / 2, top + size + 40
    printf "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">measured KL, nats per token</text>\n", top + size / 2
}
function x(v) { return sprintf("%.1f", left + size * (v - low) / (high - low)) }
function y(v, w) { w = v < low ? low : v > high ? high : v; return sprintf("%.1f", top + size - size * (w - low) / (high - low)) }
$2 > 0 && $3 > 0 {
    if (!($1 in number)) { number[$1] = ++names; name[names] = $1 }
    printf "<circle cx=\"%s\" cy=\"%s\" r=\"2.2\" fill=\"%s\" fill-opacity=\".55\"/>\n", x(log($2)), y(log($3)), colour[number[$1]]
}
END {
    for (i = 1; i <= names; i++)
        printf "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\" dy=\".35em\">%s</text>\n", left + 16, top + 16 + 18 * (i - 1), colour[i], left + 26, top + 16 + 18 * (i - 1), name[i]
    print "</svg>"
}
