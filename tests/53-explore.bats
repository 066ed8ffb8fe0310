#!/usr/bin/env bats
# A sweep as data (aq-report sweep) and as one page to explore: tables, frontiers against aq-select, and the page in a real
# browser where there is one.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR"
}

# Three pairs, two granularities, two sizes, one cell of them unsupported; manifests, cells.json and a list in P.
sweep() {
    local size gran pair s=1 d
    mkdir -p P
    for size in small large; do
        for gran in default w_group64; do
            for pair in wint4_afp16:4.125 wint4_aint8:4.25 wint8_aint8:8; do
                d=P/${pair%%:*}/$gran/$size
                [ "$pair $gran" != "wint4_aint8:4.25 w_group64" ] || continue
                mkdir -p "$d"
                scores s.json "${pair%%:*}/$gran" "${pair##*:}" $((s++)) "${LAYERS:-4}"
                sealed_jq --arg s $size '.run.dataset.size = $s | .identity.prefix = ($s | length)' s.json >s2.json
                aq-select -q -o "$d/x_quant_manifest.json" s2.json
            done
        done
    done
    jq -n '[("small", "large") as $s | ("default", "w_group64") as $g | ("wint4_afp16", "wint4_aint8", "wint8_aint8") as $p
        | ($p == "wint4_aint8" and $g == "w_group64") as $no
        | {pair: $p, granularity: $g, size: $s, supported: ($no | not), reason: (if $no then "blocks <of> 64" else null end), dir: "P/\($p)/\($g)/\($s)"}]
        | {schema: "aq.cells/2", cells: .}' >P/cells.json
    find P -name '*_quant_manifest.json' | LC_ALL=C sort >list
}

# The data in the page.
data_of() {
    sed -n '/<script type="application\/json" id="data">/,/<\/script>/p' "$1" | sed '1d;$d'
}

# ---- the table ----

@test "sweep: every layer of every cell, as TSV and as CSV; names of the cells come from their directories" {
    sweep
    aq-report sweep --tsv --cells P/cells.json $(cat list) >s.tsv
    is "$(head -1 s.tsv)" "$(printf 'model\tpair\tgranularity\tsize\tlayer\tcandidate\tsensitivity\tstderr\tper_batch_mean\tbits\tstorage_bits\tsize_cost\tchosen\trank\tgroup')"
    is "$(wc -l <s.tsv)" $((1 + 10 * 16 * 2))
    is "$(awk -F'\t' '{ print NF }' s.tsv | sort -u)" 15
    # the rows of one cell are those of its own table
    aq-report --tsv P/wint8_aint8/default/large/x_quant_manifest.json >one.tsv
    diff <(sed 1d one.tsv) <(awk -F'\t' '$2 == "wint8_aint8" && $3 == "default" && $4 == "large"' s.tsv)
    # an option's own name, where two options share the name in the configuration
    mkdir -p P/other/default/small && cp P/wint8_aint8/default/small/x_quant_manifest.json P/other/default/small/
    jq '.cells += [{pair: "other", granularity: "default", size: "small", supported: true, reason: null, dir: "P/other/default/small"}]' P/cells.json >cells.json
    is "$(aq-report sweep --tsv --cells cells.json P/other/default/small/x_quant_manifest.json | sed -n '2,$p' | cut -f2 | sort -u)" other
    # CSV: quotes where RFC 4180 asks for them
    jq '.model.name = "a,b \"c\""' P/wint8_aint8/default/small/x_quant_manifest.json >q.json
    has "$(aq-report sweep --csv q.json | sed -n 2p)" '"a,b ""c""",wint8_aint8,default,small,layers.0.self_attn.q_proj,wint8_aint8/default,'
    is "$(aq-report sweep --csv q.json | head -1)" "$(head -1 s.tsv | tr '\t' ,)"
    refused 2 "give exactly one of --tsv, --csv" aq-report sweep q.json
    refused 2 "missing operand" aq-report sweep --tsv
    refused 3 "not a quantization manifest" aq-report sweep --tsv P/cells.json
}

@test "numbers of the table are numbers for Python's csv reader, missing ones are empty" {
    need_command python3
    sweep
    jq 'del(.layer_sensitivity[].stderr, .selection)' P/wint8_aint8/default/small/x_quant_manifest.json >less.json
    aq-report sweep --csv P/wint4_afp16/default/small/x_quant_manifest.json less.json >t.csv
    python3 - <<'P'
import csv
rows = list(csv.DictReader(open("t.csv", newline="")))
assert len(rows) == 64, len(rows)
numeric = ["sensitivity", "stderr", "per_batch_mean", "bits", "storage_bits", "size_cost", "chosen", "rank"]
for r in rows:
    for k in numeric:
        if r[k] != "":
            float(r[k])
assert {r["chosen"] for r in rows[:32]} == {"0.0", "1.0"}, {r["chosen"] for r in rows}
assert {r["chosen"] for r in rows[32:]} == {""}
assert [r["stderr"] for r in rows[32:]].count("") == 32
P
}

# ---- the frontiers ----

# corners FILE SIZE: "bits TAB score TAB bytes TAB recipe", one a line
corners() {
    data_of "$1" | jq -r --arg s "$2" '(.sizes | index($s)) as $i | .groups as $g | .frontiers[] | select(.size == $i and .engine == "") | [.candidates[][0]] as $names
        | foreach .corners[] as $c ([range($g | length) | null]; reduce range(0; $c[3] | length; 2) as $k (.; .[$c[3][$k]] = $c[3][$k + 1]);
            [$c[0], $c[1], $c[2], (map(if . < 0 then "NONE" else $names[.] end) | join(" "))]) | @tsv'
}

@test "every corner of the frontier is aq-select's recipe at these bits, with its score and its bytes" {
    sweep
    aq-report explore --cells P/cells.json $(cat list) -o e.html
    local size n=0 bits score bytes recipe files
    for size in small large; do
        files=$(grep "/$size/" list)
        corners e.html $size >corners.tsv
        [ "$(wc -l <corners.tsv)" -gt 15 ]
        while IFS=$'\t' read -r bits score bytes recipe; do
            aq-select -q --effective-bits "$bits" $files -o m.json
            is "$(jq -r '[.selection.recipe[].candidate] | join(" ")' m.json)" "$recipe"
            jq -e --argjson b "$bits" --argjson s "$score" --argjson y "$bytes" '.selection.effective_bits == $b and ((.autoquant_state.score - $s) | fabs) <= 1e-12 * $s
                and ([.layer_sensitivity as $t | .selection.recipe | to_entries[] | .value.candidate as $c | $t[.key] as $e | ($e.candidates | index($c)) as $i
                    | $e.storage_bits[$i] * ($e.costs[$e.candidates | index("NONE")]) / 8] | add | round) == $y' m.json >/dev/null
            n=$((n + 1))
        done <corners.tsv
    done
    [ $n -gt 30 ]
}

@test "what an engine serves: its frontier is aq-select's with all other formats forbidden" {
    mkdir -p P
    # int8 per channel with int8 per token and int4 in blocks of 128 are served by vLLM; int4 activations per tensor by nobody
    local pair w a bits n=0
    while read -r pair w a bits; do
        mkdir -p P/$pair/default/small
        scores s.json $pair/default $bits $((++n))
        sealed_jq --arg w "$w" --arg a "$a" '.candidate.treatment = {w: $w, a: $a} | .groups[] |= (.shapes |= map([128, 128]))' s.json | aq-select -q -o P/$pair/default/small/x_quant_manifest.json
    done <<'L'
w8a8 int8:axis0:static int8:token:dynamic 8
w4 int4:block(-1:128):static none 4.125
w4a4 int4:axis0:static int4:tensor:static 4
L
    jq -n '{cells: [("w8a8", "w4", "w4a4") | {pair: ., granularity: "default", size: "small", supported: true, reason: null, dir: "P/\(.)/default/small"}]}' >P/cells.json
    aq-report explore --config-dir "$REPO/conf" --cells P/cells.json P/*/default/small/x_quant_manifest.json -o e.html
    data_of e.html | jq -r '.frontiers[] | select(.engine == "vllm") | .corners | length' >count
    [ "$(cat count)" -gt 10 ]
    printf -- '- {match: "*", never: [w4a4/default]}\n' >menu.yaml
    data_of e.html | jq -r '.groups as $g | [.frontiers[0].candidates[][0]] as $names | .frontiers[] | select(.engine == "vllm")
        | foreach .corners[] as $c ([range($g | length) | null]; reduce range(0; $c[3] | length; 2) as $k (.; .[$c[3][$k]] = $c[3][$k + 1]);
            [$c[0], (map(if . < 0 then "NONE" else $names[.] end) | join(" "))]) | @tsv' >corners.tsv
    while IFS=$'\t' read -r bits recipe; do
        aq-select -q --menu menu.yaml --effective-bits "$bits" P/*/default/small/x_quant_manifest.json -o m.json
        is "$(jq -r '[.selection.recipe[].candidate] | join(" ")' m.json)" "$recipe"
    done <corners.tsv
    is "$(data_of e.html | jq -c '[.frontiers[].engine] | index("")')" 0
    # without the tree, or without treatments in the manifests, there is no such choice
    refused 2 "nowhere" aq-report explore --config-dir nowhere --cells P/cells.json P/*/default/small/x_quant_manifest.json
    for m in P/*/default/small/x_quant_manifest.json; do jq 'del(.selection.candidates)' $m >less && mv less $m; done
    aq-report explore --config-dir "$REPO/conf" --cells P/cells.json P/*/default/small/x_quant_manifest.json -o e.html
    is "$(data_of e.html | jq -c '[.frontiers[].engine]')" '[""]'
}

@test "the order in which a cell's groups go back to 16 bits is aq-select's" {
    sweep
    aq-report explore --cells P/cells.json $(cat list) -o e.html
    local m=P/wint4_aint8/default/large/x_quant_manifest.json
    # recipes at growing budgets, of the groups that are not quantized
    data_of e.html | jq -c '(.pairs | index("wint4_aint8")) as $p | (.granularities | index("default")) as $g | (.sizes | index("large")) as $s
        | .cells[] | select(.[0] == $p and .[1] == $g and .[2] == $s) | .[7]' >order
    is "$(jq length order)" 16
    local k
    for k in 1 4 9 15; do
        kept=$(jq -c --argjson k $k '[.[:$k][] | if . < 0 then -1 - . else . end] | sort' order)
        bits=$(jq -r --argjson kept "$kept" '[.layer_sensitivity[] | .costs] as $c | ([$c[][1]] | add) as $all
            | ([$c | to_entries[] | .key as $g | if $kept | index($g) then .value[1] else .value[0] end] | add) / $all * 16' $m)
        aq-select -q --effective-bits "$bits" $m -o again.json
        is "$(jq -c '[.selection.recipe | to_entries | to_entries[] | select(.value.value.candidate == "NONE") | .key]' again.json)" "$kept"
    done
}

@test "the page: one file, nothing loaded, every cell linked, names harmless; errors name the place" {
    sweep
    aq-report explore --cells P/cells.json $(cat list) -o e.html
    is "$(sed -E 's/url\(#h[0-9]\)|href="[^":]*"//g; s/http:..www.w3.org.2000.svg//g' e.html | grep -cE '(src|href)=|url\(|@import|https?://')" 0
    is "$(grep -oE '<a href="[^"#]*report.html"' e.html | wc -l)" 10
    local link
    for link in $(grep -oE 'href="[^"#]*report.html' e.html | cut -c7-); do [ -d "P/$(dirname "$link")" ]; done
    has "$(cat e.html)" "blocks &lt;of&gt; 64"
    # people read all layers of a group
    data_of e.html | jq -e '(.kinds | index("self_attn.q+k+v_proj") != null and index("mlp.gate+up_proj") != null and index("self_attn.q_proj") == null)
        and .groups[0][0] == "layers.0.self_attn.q+k+v_proj" and .groups[0][4] == "layers.0.self_attn.q_proj"'
    aq-report explore --cells P/cells.json $(cat list) | cmp - e.html
    refused 2 "--cells is needed" aq-report explore $(cat list)
    cp P/wint8_aint8/default/small/x_quant_manifest.json stray.json
    refused 3 "stray.json: is in no directory of the list of cells" aq-report explore --cells P/cells.json stray.json
    jq 'del(.layer_sensitivity["layers.0.self_attn.q_proj.quant_recipe"], .selection, .sensitivity_ranking) | del(.layer_sensitivity[].rank)' stray.json >P/wint8_aint8/default/small/x_quant_manifest.json
    refused 3 "groups" aq-report explore --cells P/cells.json $(cat list)
    # a name that would end the element it is in
    jq '.model.name = "</script><script>alert(1)//"' stray.json >P/wint8_aint8/default/small/x_quant_manifest.json
    aq-report explore --cells P/cells.json P/wint8_aint8/default/small/x_quant_manifest.json -o e.html
    is "$(grep -c '<script>alert' e.html)" 0
    data_of e.html | jq -e '.model == "</script><script>alert(1)//"'
}

@test "555 cells in two seconds of processor time, below 2 MB" {
    sanitized && skip "not in a sanitizer build"
    sweep
    local TIMEFORMAT='%U %S' i size list=() d
    for i in $(seq 185); do
        for size in small large medium; do
            d=Q/pair$((i % 17))/g$((i / 17))/$size
            mkdir -p "$d"
            list+=("$d/x_quant_manifest.json")
            sed "s#wint4_aint8/default#pair$((i % 17))/g$((i / 17))#g; s/\"size\": *\"large\"/\"size\": \"$size\"/" P/wint4_aint8/default/large/x_quant_manifest.json >"$d/x_quant_manifest.json"
        done
    done
    printf '%s\n' "${list[@]}" | jq -R 'split("/") | {pair: .[1], granularity: .[2], size: .[3], supported: true, reason: null, dir: (.[:4] | join("/"))}' | jq -s '{cells: .}' >cells.json
    times=$({ time aq-report explore --cells cells.json "${list[@]}" -o e.html; } 2>&1)
    awk -v t="$times" 'BEGIN { split(t, x, " "); exit !(x[1] + x[2] < 2) }' || { echo "$times"; return 1; }
    [ "$(stat -c %s e.html)" -lt 2000000 ]
}

# ---- in a browser ----

need_browser() { # in the test itself: a skip in a pipe would end the pipe alone
    BROWSER=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || skip "no browser"
}

browse() {
    timeout 90 "$BROWSER" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$PWD/profile" "$@" 2>browser.log
}

# with_script PAGE SCRIPT: the page with a script at its end
with_script() {
    sed 's#</body>##; s#</html>##' "$1"
    printf '<script>\n%s\n</script></body></html>\n' "$2"
}

@test "browser: the slider shows the recipe of every corner; two tiles compare; the filter hides" {
    need_browser
    sweep
    aq-report explore --cells P/cells.json $(cat list) -o e.html
    # shellcheck disable=SC2016  # JavaScript
    with_script e.html '
        const out = document.createElement("pre"), slide = document.getElementById("corner"), say = (...t) => { out.textContent += t.join("\t") + "\n"; };
        out.id = "out";
        for (let i = 0; i <= +slide.max; i++) {
            const s = document.getElementById("corner");
            s.value = i;
            s.dispatchEvent(new Event("input"));
            const p = document.getElementById("says").dataset;
            say("corner", p.bits, p.score, p.bytes, document.documentElement.dataset.recipe);
        }
        document.querySelector("[aria-label=\"fewer bits\"]").click();
        say("back", document.getElementById("corner").value);
        document.querySelector("[data-cell=\"wint4_afp16/default\"]").click();
        document.querySelector("[data-cell=\"wint8_aint8/w_group64\"]").click();
        say("heading", document.querySelector("#compare h2").textContent);
        say("pressed", [...document.querySelectorAll(".tile[aria-pressed=true]")].map(t => t.dataset.cell).join(" "));
        say("links", [...document.querySelectorAll("#compare a")].map(a => a.getAttribute("href")).join(" "));
        const source = document.getElementById("source");
        source.value = "a";
        source.dispatchEvent(new Event("change"));
        say("own", document.getElementById("corner").max);
        const tile = document.querySelector(".tile[tabindex=\"0\"]");
        tile.focus();
        tile.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
        say("focus", document.activeElement.dataset.x, document.activeElement.dataset.y);
        const filter = document.querySelector("input[type=search]");
        filter.value = "INT8 group";
        filter.dispatchEvent(new Event("input"));
        say("tiles", document.querySelectorAll(".tile").length, [...document.querySelectorAll("#cells tbody tr")].filter(r => !r.hidden).length);
        document.body.append(out);' >s.html
    browse --dump-dom "file://$PWD/s.html" | sed -n '/<pre id="out">/,/<\/pre>/p' | sed 's/.*<pre id="out">//; s/<.*//' >out
    sed -n 's/^corner\t//p' out >seen
    corners e.html large >wanted
    # numbers as JavaScript writes them
    diff <(awk -F'\t' '{ printf "%.17g %.17g %d %s\n", $1, $2, $3, $4 }' wanted) <(awk -F'\t' '{ printf "%.17g %.17g %d %s\n", $1, $2, $3, $4 }' seen)
    is "$(grep '^back' out | cut -f2)" $(($(wc -l <wanted) - 2))
    is "$(grep '^heading' out | cut -f2)" "Two cells side by side"
    is "$(grep '^pressed' out | cut -f2)" "wint4_afp16/default wint8_aint8/w_group64"
    is "$(grep '^links' out | cut -f2)" "wint4_afp16/default/large/report.html wint8_aint8/w_group64/large/report.html"
    is "$(grep '^own' out | cut -f2)" 16
    is "$(grep '^focus' out | cut -f2,3)" $'1\t0'
    is "$(grep '^tiles' out | cut -f2,3)" $'1\t2'
    is "$(grep -c 'CONSOLE' browser.log)" 0
}

@test "browser: no page scrolls sideways, on a desk and on a phone; what is pressed is large enough and named; headings have scopes" {
    need_browser
    LAYERS=36 sweep
    aq-report explore --cells P/cells.json $(cat list) -o explore.html
    aq-report --html P/wint4_aint8/default/large/x_quant_manifest.json -o report.html
    aq-report summary --html --cells P/cells.json $(cat list) -o summary.html
    local page width
    {
        echo '<!doctype html><body><pre id="v"></pre><script>addEventListener("message",e=>{v.textContent+="("+e.data+")\n"})</script>'
        for page in explore report summary; do
            with_script $page.html "$(cat "$REPO/tests/browser/check.js" "$REPO/tests/browser/access.js")" >checked-$page.html
            for width in 1440 390 360; do echo "<iframe src=\"checked-$page.html\" width=$width height=900></iframe>"; done
        done
    } >frames.html
    browse --window-size=1600,1000 --virtual-time-budget=9000 --dump-dom "file://$PWD/frames.html" | sed -n '/id="v"/,/<.pre>/p' >verdicts
    if [ "$(grep -c ': clean)' verdicts)" -ne 9 ] || [ "$(grep -c 'access: fine)' verdicts)" -ne 9 ]; then
        cat verdicts
        return 1
    fi
}

# axe-core is not a part of the product: from a package of PyPI (axe-playwright-python) or of the system, or $AXE.
find_axe() {
    local f
    for f in "${AXE:-}" /usr/share/nodejs/axe-core/axe.min.js /usr/share/javascript/axe-core/axe.min.js \
        "$(python3 -c 'import axe_playwright_python as a; print(a.__path__[0] + "/axe.min.js")' 2>/dev/null)"; do
        [ ! -r "$f" ] || { echo "$f"; return; }
    done
}

@test "browser: axe-core finds nothing, on a desk and on a phone, in light and dark" {
    need_browser
    local axe page width scheme
    axe=$(find_axe)
    [ -n "$axe" ] || skip "no axe-core: pip install axe-playwright-python, or AXE=/path/to/axe.min.js"
    LAYERS=12 sweep
    aq-report explore --cells P/cells.json $(cat list) -o explore.html
    aq-report --html P/wint4_aint8/default/large/x_quant_manifest.json -o report.html
    aq-report summary --html --cells P/cells.json $(cat list) -o summary.html
    {
        echo '<!doctype html><body><pre id="v"></pre><script>addEventListener("message",e=>{v.textContent+="("+e.data+")\n"})</script>'
        for page in explore report summary; do
            { sed 's#</body>##; s#</html>##' $page.html
              echo "<script>"; cat "$axe"; echo "</script><script>"; cat "$REPO/tests/browser/axe.js"; echo '</script></body></html>'; } >axe-$page.html
            for width in 1440 390; do echo "<iframe src=\"axe-$page.html\" width=$width height=900></iframe>"; done
        done
    } >frames.html
    for scheme in 0 1; do # dark, light
        browse --blink-settings=preferredColorScheme=$scheme --window-size=1600,1000 --virtual-time-budget=20000 --dump-dom \
            "file://$PWD/frames.html" | sed -n '/id="v"/,/<.pre>/p' >verdicts
        if [ "$(grep -c ': axe: no violation)' verdicts)" -ne 6 ]; then
            echo "preferredColorScheme=$scheme"
            cat verdicts
            return 1
        fi
    done
}

@test "browser: without JavaScript every cell is a row of a table" {
    need_browser
    sweep
    aq-report explore --cells P/cells.json $(cat list) -o e.html
    # as a browser shows it that runs no scripts: without them, and with what stands there instead
    sed -e '/^<script/,/^<\/script>/d' -e 's/<noscript>//; s/<\/noscript>//' e.html >plain.html
    ! grep -q '<script' plain.html || return 1
    browse --window-size=1100,950 --screenshot="$PWD/plain.png" "file://$PWD/plain.html" >/dev/null
    [ "$(stat -c %s plain.png)" -gt 8000 ]
    is "$(sed -n '/<section id="cells"/,/<\/section>/p' e.html | grep -c '<tr><td')" 10
    has "$(cat e.html)" "<noscript>"
}
