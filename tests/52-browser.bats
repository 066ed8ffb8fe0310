#!/usr/bin/env bats
# The reports in a real browser: texts of the pictures do not touch, nothing leaves its frame, and pages do not
# scroll sideways, on a desk and on a phone, in light and dark.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR"
    BROWSER=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || skip "no browser"
}

browse() {
    timeout 60 "$BROWSER" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$PWD/profile" "$@" 2>/dev/null
}

# clean PAGE...: each in two frames, of a desk and of a phone; the page around them collects the verdicts.
clean() {
    local page width
    {
        echo '<!doctype html><body><pre id="v"></pre><script>addEventListener("message",e=>{v.textContent+="("+e.data+")\n"})</script>'
        for page in "$@"; do
            { sed 's#</body>##; s#</html>##' "$page"
              echo '<script>'; cat "$REPO/tests/browser/check.js"; echo '</script></body></html>'; } >"checked-$page"
            for width in 1100 390; do echo "<iframe src=\"checked-$page\" width=$width height=900></iframe>"; done
        done
    } >frames.html
    browse --window-size=1300,1000 --virtual-time-budget=5000 --dump-dom "file://$PWD/frames.html" | sed -n '/id="v"/,/<.pre>/p' >verdicts
    if [ "$(grep -c ': clean)' verdicts)" -ne $(($# * 2)) ]; then
        cat verdicts
        return 1
    fi
}

@test "the published sets" {
    need_shared
    local d
    for d in wfp8_afp8 wint4_aint8 int8_lm_large; do
        aq-report --html "$SHARED/data/published/$d"/*_quant_manifest.json -o $d.html
    done
    clean wfp8_afp8.html wint4_aint8.html int8_lm_large.html
}

@test "one layer, a mix of three formats over 36 layers, a summary" {
    scores one.json wint8_aint8/default 8 1 1
    aq-select one.json -o one.out
    aq-report --html one.out -o one.html
    local i=0 b files=()
    for b in 4.125 6 8; do
        scores $((++i)).json w$i/default $b $i 36
        aq-select -q --effective-bits 16 $i.json -o cell$i.out
    done
    aq-select --effective-bits 6 1.json 2.json 3.json -o mix.out
    aq-report --html mix.out -o mix.html
    aq-report summary --html cell?.out -o summary.html
    clean one.html mix.html summary.html
}

@test "on paper nothing leaves the margins, and a table that goes on has its headings again" {
    command -v pdftotext >/dev/null || skip "needs pdftotext (poppler-utils)"
    local b i=0 page
    for b in 4.125 6 8; do
        scores $((++i)).json w$i/default $b $i 36
        aq-select -q --effective-bits 16 $i.json -o cell$i.out
    done
    aq-select --effective-bits 6 1.json 2.json 3.json -o mix.out
    aq-report --html mix.out -o mix.html
    # cells enough for a second page, of long names
    for i in $(seq 60); do
        mkdir -p wint4_aint8/recipe_match_channel_token_$i/medium
        jq --arg i $i '.run.quantization = {pair: {name: "wint4_aint8"}, granularity: {name: "recipe_match_channel_token_\($i)"}}' cell1.out \
            >wint4_aint8/recipe_match_channel_token_$i/medium/m.json
        echo "{\"pair\": \"wint4_aint8\", \"granularity\": \"recipe_match_channel_token_$i\", \"size\": \"medium\", \"supported\": true, \"reason\": null, \"dir\": \"wint4_aint8/recipe_match_channel_token_$i/medium\", \"verdict\": \"exact\", \"verdict_reason\": null}"
    done | jq -s '{engine: {name: "vllm"}, cells: .}' >cells.json
    aq-report summary --html --cells cells.json wint4_aint8/*/medium/m.json -o summary.html
    for page in mix summary; do
        # a browser that hangs on a busy machine gets a second chance
        for i in 1 2; do [ -s $page.pdf ] || browse --no-pdf-header-footer --print-to-pdf=$page.pdf "file://$PWD/$page.html" || true; done
        pdftotext -bbox $page.pdf $page.words
        # 1 cm is left at least on every side
        awk -F'"' '/<page/ { width = $2 } /<word/ { if ($2 < 28 || $6 > width - 28) { print; bad = 1 } n++ } END { exit bad || n < 100 }' $page.words ||
            { echo "$page: beyond the margins"; return 1; }
    done
    pdftotext -layout summary.pdf summary.txt
    [ "$(grep -c 'rho, cells' summary.txt)" -ge 2 ]
}

@test "labels of 1,200 blocks" {
    scores all.json wint8_aint8/default 8 1 1200
    sealed_jq '.groups |= map(select(.name | endswith("down_proj")))' all.json | aq-select -q --effective-bits 9 -o many.out
    aq-report --html many.out -o many.html
    clean many.html
}

@test "layers of long and hostile names" {
    scores a.json wint4_aint8/a_rather_long_name_of_a_granularity_that_somebody_made 4.125 1 6
    sealed_jq '.groups[] |= (.name |= "model.language_model.with.a.long.prefix." + . + ".and_an_ending_longer_than_usual" | .members = [.name])
        | .groups[0] |= (.name = "<script>document.title=1</script>|\u202e" | .members = [.name])' a.json >b.json
    aq-select -q --effective-bits 16 b.json -o long.out
    aq-report --html long.out -o long.html
    clean long.html
    has "$(browse --dump-dom "file://$PWD/long.html" | grep -o '<title>.*</title>')" "Layer sensitivity"
}

@test "the table sorts by its headings" {
    scores a.json wint8_aint8/default 8 1 4
    aq-select a.json | aq-report --html -o r.html
    { sed 's#</body>##; s#</html>##' r.html
      echo '<script>const t=document.querySelector("table.sortable"),h=t.querySelectorAll("th button");
        h[2].click(); h[2].click(); const v=[...t.tBodies[0].rows].map(r=>+r.cells[2].dataset.v);
        document.documentElement.dataset.sorted=v.every((x,i)=>i===0||x>=v[i-1]) && t.querySelectorAll("th")[2].getAttribute("aria-sort");
        </script></body></html>'; } >s.html
    has "$(browse --dump-dom "file://$PWD/s.html" | head -5)" 'data-sorted="ascending"'
}

@test "a picture of the page, light and dark, is not empty" {
    scores a.json wint8_aint8/default 8 1 4
    aq-select a.json | aq-report --html -o r.html
    browse --window-size=1100,900 --screenshot="$PWD/light.png" "file://$PWD/r.html" >/dev/null
    browse --window-size=1100,900 --blink-settings=preferredColorScheme=0 --screenshot="$PWD/dark.png" "file://$PWD/r.html" >/dev/null
    [ "$(stat -c %s light.png)" -gt 20000 ] && [ "$(stat -c %s dark.png)" -gt 20000 ]
    ! cmp -s light.png dark.png
}
