#!/usr/bin/env bats
# aq-report: published reports to the byte, every product well formed, hostile names, sweeps, speed.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR"
    PUBLISHED=$SHARED/data/published
}

# manifest FILE: a mixed one of two cells
manifest() {
    scores a.json wint4_aint8/default 4.125 1
    scores b.json wint8_aint8/default 8 2
    aq-select --effective-bits 6 a.json b.json -o "$1"
}

# The free prose of a published report: four bullets and a note, which are in our own words.
without_prose() {
    sed -E '/^- \*\*(Layer|Num Bits|Sensitivity|Size Cost)\*\*/d; /^Note:/d' "$1"
}

# ---- the fixed products ----

@test "published sets: JSON to the byte, Markdown to the byte but for the prose" {
    need_shared
    local d m
    for d in wfp8_afp8 wint4_aint8 int8_lm_large; do
        m=$(echo "$PUBLISHED/$d"/*_quant_manifest.json)
        aq-report --json "$m" -o r.json
        cmp r.json "$PUBLISHED/$d/per-layer-sensitivity.json"
        aq-report --md "$m" -o r.md
        without_prose r.md >ours
        without_prose "$PUBLISHED/$d/per-layer-sensitivity.md" >theirs
        cmp ours theirs
        is "$(grep -cE '^- \*\*(Layer|Num Bits|Sensitivity|Size Cost)\*\*|^Note:' r.md)" 5
        is "$(wc -l <r.md)" "$(wc -l <"$PUBLISHED/$d/per-layer-sensitivity.md")"
    done
}

@test "Markdown has the data set, the quantization and several formats in one cell" {
    manifest m.json
    aq 0 aq-report --md m.json
    has "$output" '- **Calibration samples:** `16` / `16` (used / max)'
    has "$output" '## Quantization'
    has "$output" '- **Candidate:** `wint8_aint8/default`'
    has "$output" '- **Overrides:** `{}`'
    [[ $output =~ \|layers\.[0-9].mlp.gate_proj\|[0-9.]+\|[0-9.e+-]+,\ [0-9.e+-]+\|[0-9.e+-]+\| ]]
    aq 0 aq-report --md --scheme other m.json
    has "$output" 'AutoQuant Layer Sensitivity (other)
==================================='
}

@test "groups whose score does not depend on bits are listed, in the order of the table; usually there is no such line" {
    manifest m.json
    aq 0 aq-report --md m.json
    [[ $output != *"does not depend"* ]]
    scores a.json wint4_aint8/default 4.125 1
    sealed_jq '.groups[3].flat = "weights" | .groups[5] |= (.flat = "zero" | .sum = 0 | .per_token = 0 | .per_batch_mean = 0)' a.json >flat.json
    aq-select -q flat.json -o flat.m
    aq-select -q flat.m -o again.m # a manifest as input keeps it
    is "$(jq -c '[.layer_sensitivity[] | .flat // empty]' again.m)" '[["weights",null],["zero",null]]'
    aq 0 aq-report --md again.m
    is "$(grep 'does not depend' <<<"$output")" "Note: Groups whose score does not depend on the bits of the operand in parentheses, or is zero: \`layers.0.mlp.down_proj\` (weights), \`layers.1.self_attn.o_proj\` (zero)."
    has "$(aq-report --html again.m)" "<code>layers.1.self_attn.o_proj</code> (zero)"
    sealed_jq '.groups[3].flat = "<b>"' a.json >bad.json
    refused 3 "groups[3].flat: expected one of" aq-select bad.json
    jq '.layer_sensitivity["layers.1.self_attn.o_proj.quant_recipe"].flat[0] = 1' again.m >bad.m
    refused 3 "flat[0]: expected one of" aq-report --md bad.m
}

# name TAB bits TAB cost of what the recipe takes, sorted
recipe_of() {
    jq -r '.layer_sensitivity as $t | .selection.recipe | to_entries[] | .key as $k | $t[$k] as $e
        | [$k | sub(".quant_recipe$"; "")] + ([.value.candidate] | map(. as $c | $e.candidates | index($c)) | .[0] as $i
        | [($e.formats[$i] | capture("effective-bits: (?<b>[0-9.]+)").b | tonumber), $e.costs[$i]]) | @tsv' "$1" | sort
}

@test "bits and cost are those of the recipe: nothing shows the bits of a candidate that was not chosen" {
    scores a.json wint4_aint8/default 4.125 1
    scores b.json wint8_aint8/default 8 2
    aq-select -q --effective-bits 9 a.json b.json -o m.json
    is "$(jq '[.selection.recipe[].candidate] | unique | length' m.json)" 3
    recipe_of m.json >expected
    aq-report --json m.json | jq -r '.layer_sensitivity[] | [.layer, .num_bits, .size_cost] | @tsv' | sort >json
    diff expected json
    aq-report --md m.json | sed -n 's/^|\(layers[^|]*\)|\([^|]*\)|.*/\1 \2/p' | sort >md
    awk -F'\t' '{ printf "%s %.1f\n", $1, $2 }' expected | diff - md
    aq-report --html m.json | grep -o '<tr><td class="n more" data-v="[0-9.]*">.*</tr>' | sed -E 's/<wbr>//g
        s#^.*<td class="name">([^<]*)</td>.*data-v="([0-9.]+)">[^<]*</td><td class="name more">[^<]*</td></tr>$#\1\t\2#; s/\.0$//' | sort >html
    cut -f1,2 expected | sed 's/q_proj/q+k+v_proj/; s/gate_proj/gate+up_proj/' | sort | diff - html
    has "$(aq-report --md m.json)" "- **Num Bits**: Bits per weight that the recipe gives the group"
    # without a recipe the candidates' bits are named as such in .md, and the page shows none of them as a layer's
    jq 'del(.selection)' m.json >none.json
    has "$(aq-report --md none.json)" "This manifest has no recipe: these are not the bits that a layer gets."
}

@test "JSON is sorted by the first format that counts" {
    manifest m.json
    aq-report --json m.json -o r.json
    is "$(jq -c 'keys_unsorted' r.json)" '["scheme","model","dataset","quantization","run_config","autoquant_state","layer_sensitivity"]'
    is "$(jq -c '[.layer_sensitivity[].sensitivity] | . == (sort | reverse)' r.json)" true
    is "$(tail -c 1 r.json)" "}"
}

@test "the table is rectangular, sorts, and has rank 1 for the most sensitive layer" {
    manifest m.json
    aq-report --tsv m.json >t.tsv
    is "$(head -1 t.tsv)" "$(printf 'model\tpair\tgranularity\tsize\tlayer\tcandidate\tsensitivity\tstderr\tper_batch_mean\tbits\tstorage_bits\tsize_cost\tchosen\trank\tgroup')"
    is "$(awk -F'\t' '{ print NF }' t.tsv | sort -u)" 15
    is "$(wc -l <t.tsv)" 49
    is "$(awk -F'\t' '$13 == 1' t.tsv | wc -l)" 16
    is "$(sed 1d t.tsv | sort -t$'\t' -k7g | tail -1 | cut -f7)" "$(jq '[.layer_sensitivity[].importance] | max' m.json)"
    is "$(awk -F'\t' 'NR > 1 && $14 == 1 { print $5 ".quant_recipe" }' t.tsv | sort -u)" "$(jq -r '.sensitivity_ranking[-1].name' m.json)"
    # what is missing is empty, so that a column of numbers is one for pandas and DuckDB
    jq 'del(.layer_sensitivity[].stderr, .selection)' m.json >less.json
    aq-report --tsv less.json >t.tsv
    is "$(sed 1d t.tsv | cut -f8,13 | sort -u)" $'\t'
    is "$(sed 1d t.tsv | cut -f7,8,9,10,11,12,13,14 | tr '\t' '\n' | grep -cvE '^$|^-?[0-9.]+(e[-+]?[0-9]+)?$')" 0
}

@test "manifests that lack what others have" {
    manifest m.json
    jq 'del(.model, .dataset, .quantization, .run_config, .selection, .aq, .groups, .sensitivity_ranking) | del(.layer_sensitivity[] | .rank, .importance, .candidates, .stderr, .storage_bits)
        | .unknown = {"kept": 1}' m.json >old.json
    aq 0 aq-report --md old.json
    has "$output" '**Model:** `unknown`

**Effective bits (from search):**'
    aq 0 aq-report --json old.json
    is "$(jq -c '[keys_unsorted, .model]' <<<"$output")" '[["scheme","model","autoquant_state","layer_sensitivity"],{}]'
    aq 0 aq-report --tsv old.json
    aq 0 aq-report --all out old.json
    jq '.layer_sensitivity = {} | del(.sensitivity_ranking, .selection, .groups)' m.json >none.json
    aq 0 aq-report --all out none.json
    has "$(cat out/heatmap.svg)" "No layer has a score above zero."
    jq '.dataset.license = "own" | .model.revision = 3 | .scheme.note = {"x": [1]}' m.json >more.json
    is "$(aq-report --json more.json | jq -c '[.dataset.license, .model.revision, .scheme.note]')" '["own",3,{"x":[1]}]'
    jq '.autoquant_state.score = null | .autoquant_state.constraints.effective_bits = null' m.json >null.json
    aq 0 aq-report --md null.json
    has "$output" '**Effective bits (from search):** `None`'
    has "$output" '**Total AutoQuant score:** `None`'
    scores one.json w4/default 4 1 1
    sealed_jq '.groups |= .[3:]' one.json | aq-select -o one.out
    aq 0 aq-report --all out one.out
}

@test "what a model is called: its name, else the end of its path" {
    manifest m.json
    local case expected
    for case in '{id: "models/x/checkpoint", name: "tiny"}|tiny' '{id: "/data/models/Big-4B/"}|Big-4B' '{}|'; do
        expected=${case#*|}
        jq ".model = ${case%|*}" m.json >n.json
        is "$(aq-report --tsv n.json | sed -n '2p' | cut -f1)" "$expected"
        has "$(aq-report --html n.json | grep 'class="lead"')" "Model <code>${expected:--}</code>"
        has "$(aq-report summary --md n.json)" "Model: \`${expected:--}\`"
    done
    jq '.model.name = 5' m.json >n.json
    refused 3 "model.name: expected a string, found an integer" aq-report --md n.json
}

# ---- pictures and pages ----

well_formed() {
    python3 - "$@" <<'END'
import sys, xml.dom.minidom
for p in sys.argv[1:]:
    xml.dom.minidom.parse(p)
END
}

@test "--all writes all products, the pictures are XML, the page loads nothing" {
    need_command python3
    manifest m.json
    aq 0 aq-report --all out m.json
    is "$(ls out | tr '\n' ' ')" "bars.svg depth.svg frontier.svg heatmap.svg per-layer-sensitivity.json per-layer-sensitivity.md per-layer-sensitivity.tsv report.html strip.svg "
    well_formed out/*.svg
    is "$(sed -E 's/url\(#h[0-9]\)|href="#[a-z-]+"//g' out/report.html | grep -cE '(src|href)=|url\(|@import|https?://' | tr -d '\n')" "$(grep -c 'http://www.w3.org/2000/svg' out/report.html)"
    has "$(cat out/report.html)" "default-src 'none'"
    has "$(cat out/report.html)" "prefers-color-scheme:dark"
    has "$(tr '\n' ' ' <out/report.html)" "per token about half of their sum is the divergence"
    local k
    for k in heatmap bars frontier depth strip; do
        aq-report --svg $k m.json | cmp - out/$k.svg
    done
    aq-report --html m.json | cmp - out/report.html
    aq-report --all again m.json
    diff -r out again
}

@test "pages, pictures and summaries name all layers of a group; tables for programs keep the name of the first" {
    manifest m.json
    local page
    for page in "--html m.json" "--svg heatmap m.json" "--svg bars m.json" "--svg depth m.json" "--svg strip m.json" "summary --html m.json" "summary --md m.json"; do
        # what a reader sees: no markup, no recipe to paste
        aq-report $page | sed -E 's/<wbr>//g; s/<(pre|script|template)[^>]*>.*//; /^- \{match/d; s/"layers\.[0-9]+\.[a-z_.]*"//g' >seen
        if ! grep -qE 'self_attn\.q\+k\+v_proj|mlp\.gate\+up_proj' seen || grep -nE '[^+a-z]q_proj|[^+a-z]gate_proj' seen; then
            echo "aq-report $page"
            return 1
        fi
    done
    is "$(aq-report --tsv m.json | cut -f5,15 | sed -n '/q_proj/{p;q}')" $'layers.0.self_attn.q_proj\tlayers.0.self_attn.q+k+v_proj'
    # also of a model that fuses nothing; a manifest without lists of members: by the rule for names, unless a layer that it adds has a row
    jq 'del(.selection) | .groups[].members |= .[:1]' m.json >one.json
    has "$(aq-report --svg heatmap one.json)" ">self_attn.q_proj<"
    jq 'del(.selection, .groups)' m.json >none.json
    has "$(aq-report --svg heatmap none.json)" "self_attn.q+k+v_proj"
    jq '.layer_sensitivity |= with_entries(.key |= sub("o_proj"; "k_proj")) | .sensitivity_ranking[].name |= sub("o_proj"; "k_proj")' none.json >alone.json
    aq-report --svg heatmap alone.json >svg
    grep -q 'self_attn.q_proj' svg
    grep -q 'self_attn.k_proj' svg
}

@test "ten kinds of layers have ten lines that differ in colour or dash" {
    need_command python3
    scores a.json wint8_aint8/default 8 1 40
    # layer i's first group is of kind i mod 10, and nothing else is there
    sealed_jq '.groups |= [to_entries[] | select(.key % 4 == 0) | .value
        | (.name | capture("layers.(?<n>[0-9]+)").n | tonumber) as $n | .name = "layers.\($n).part\($n % 10).proj" | .members = [.name]]' a.json >ten.json
    aq-select -q ten.json | aq-report --svg depth - >depth.svg
    is "$(grep -oE 'class="curve [^"]*"' depth.svg | sort -u | wc -l)" 10
    # and each class is drawn in its own way: no two have the same stroke and the same dashes
    python3 - <<'P'
import re
svg = open("depth.svg").read()
style = dict()
for names, body in re.findall(r"((?:\.aq \.[a-z0-9]+,?)+)\{([^}]*)\}", svg):
    for name in re.findall(r"\.aq \.([a-z0-9]+)", names):
        style.setdefault(name, "")
        style[name] += ";".join(p for p in body.split(";") if p.startswith(("stroke:", "stroke-dasharray:"))) + ";"
looks = [tuple(style.get(c, "") for c in m.split()[1:]) for m in sorted(set(re.findall(r'class="(curve [^"]*)"', svg)))]
looks = ["".join(x) for x in looks]
assert len(looks) == 10 and len(set(looks)) == 10 and all("stroke:" in x for x in looks), looks
P
}

@test "the page is nested properly" {
    need_command python3
    manifest m.json
    aq-report --html m.json >r.html
    aq-report summary --html m.json >s.html
    python3 - r.html s.html <<'END'
import sys
from html.parser import HTMLParser
VOID = {"meta", "br", "wbr", "img", "input", "hr", "link"}
class P(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
    def handle_startendtag(self, tag, attrs):
        pass
    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.getpos(), tag, self.open[-3:])
        self.open.pop()
for path in sys.argv[1:]:
    p = P()
    p.feed(open(path, encoding="utf-8").read())
    assert not p.open, p.open
END
}

# Nothing that a terminal or a Markdown renderer would act on; code spans are text.
inert() {
    local text
    text=$(sed 's/`[^`]*`//g' <<<"$1")
    [[ $1 != *$'\e'* && $text != *'<img'* && ! $text =~ (^|[^\\])\[x\]\( ]]
}

@test "hostile names: no markup, no table cell, no escape sequence, no change of direction" {
    need_command python3
    manifest m.json
    local evil=$'layers.1.<img src=x onerror=alert(1)>[x](javascript:1)|\e]0;x\a\u202e\u2066`"\'&\t\nx' bytes
    jq --arg n "$evil" '.scheme.name = $n | .model = {id: $n, name: $n} | .dataset.name = $n | .dataset.size = $n
        | .layer_sensitivity |= (to_entries | .[0].key = ($n + ".quant_recipe") | from_entries)
        | .sensitivity_ranking[] |= (if .name == "layers.0.self_attn.q_proj.quant_recipe" then .name = $n + ".quant_recipe" else . end)
        | .selection.recipe |= (to_entries | .[0].key = ($n + ".quant_recipe") | from_entries) | .groups[0].name = $n
        | .quantization.candidates[$n] = {base_format_name: $n} | .selection.pins = [{match: $n, rule: $n, score_cost: 1}]' m.json >evil.json
    aq 0 aq-report --all out evil.json
    well_formed out/*.svg
    for f in out/*.md out/*.tsv out/*.html out/*.svg; do
        bytes=$(LC_ALL=C grep -c -P '\x1b|\x07|\xe2\x80\xae|\xe2\x81\xa6' "$f" || true)
        is "$f: $bytes" "$f: 0"
    done
    is "$(grep -c '<img' out/report.html out/*.svg | grep -v ':0$' || true)" ""
    is "$(awk -F'\t' '{ print NF }' out/per-layer-sensitivity.tsv | sort -u)" 15
    # nothing in the Markdown acts, the title line included
    inert "$(cat out/per-layer-sensitivity.md)"
    # whoever quotes an attribute either way
    has "$(cat out/report.html)" '`&quot;&#39;&amp;'
    # a pipe in a name stays inside its cell
    is "$(grep -F 'onerror' out/per-layer-sensitivity.md | grep '^|' | sed 's/\\|//g' | awk -F'|' '{ print NF }')" 6
    aq 0 aq-report summary --md evil.json
    inert "$output"
    aq 0 aq-report diff --tsv evil.json m.json
    is "$(awk -F'\t' '{ print NF }' <<<"$output" | sort -u)" 8
    aq 0 aq-report diff --md evil.json m.json
    inert "$output"
}

@test "scores and errors from the smallest to the largest number: every position is a number" {
    manifest m.json
    jq '.layer_sensitivity[] |= (.scores = [5e-324, 5e-324, 0] | .stderr = [1e308, 1e308, 0] | .weight_only = [1e308, 1e308, 0])
        | .layer_sensitivity["layers.1.mlp.down_proj.quant_recipe"].scores[0] = 1.7e308
        | del(.layer_sensitivity[] | .importance, .rank) | del(.sensitivity_ranking)' m.json >wide.json
    aq 0 aq-report --all out wide.json
    aq-report summary --html wide.json m.json >out/summary.html
    aq-report summary --tsv wide.json m.json >out/summary.tsv
    aq-report diff --tsv wide.json m.json >out/diff.tsv
    is "$(grep -rnE '[^a-z](nan|inf)[^a-z]' out | cut -c1-120 | head -3)" ""
}

# ---- the answer ----

# eval FILE MEAN SE: what aq-eval writes, as far as reports read it
eval_json() {
    jq -n --argjson m "$2" --argjson se "$3" '{schema: "aq.eval/1", reference: {}, operand: {kind: "manifest", digest: "x"}, dtype: "fp32",
        all: {samples: 16, positions: 200, kl: {mean: $m, se: $se, p50: 0, p99: 0, max: 0}, top1: 0.981, ppl: 12.5, ppl_reference: 12.25}}' >"$1"
}

text_of() { sed -E 's/<svg.*<\/svg>//; s/<[^>]*>//g; s/&#39;/'"'"'/g' <<<"$1"; }

@test "the first screen: counts, bytes, predicted and measured divergence" {
    scores a.json wint4_aint8/default 4.125 1
    aq-select -q --effective-bits 9 a.json -o m.json
    # by hand: bytes at 16 bits from the weights of the groups, now from the bits of the recipe
    jq -r '[.layer_sensitivity as $t | .selection.recipe | to_entries[] | $t[.key] as $e | .value.candidate as $c
        | ($e.candidates | index("NONE")) as $n | {kept: ($c == "NONE"), w: $e.costs[$n], b: $e.storage_bits[$e.candidates | index($c)]}]
        | "\([.[] | select(.kept)] | length) \(length) \([.[] | select(.kept | not)] | length) \([.[].w * 2] | add) \([.[] | .w * .b / 8] | add)"' m.json >facts
    read -r kept all taken before after <facts
    aq 0 aq-report --html m.json
    local answer
    answer=$(text_of "$(grep -o '<p class="answer">[^<]*' <<<"$output")")
    has "$answer" "$kept of $all groups of layers stay at 16 bits and $taken take INT4 weights with INT8 activations."
    has "$answer" "$(awk -v b="$before" -v a="$after" 'function s(x) { return x >= 99950 ? sprintf("%.0f kB", x / 1000) : x >= 9995 ? sprintf("%.1f kB", x / 1000) : sprintf("%.2f kB", x / 1000) }
        BEGIN { printf "%s of weights become %s.", s(b), s(a) }')"
    [[ $output == *"Predicted divergence (KL)"* && $output != *"Measured divergence"* ]]
    jq '.selection.predicted_kl = null' m.json >none.json
    [[ $(aq-report --html none.json) != *"Predicted divergence"* ]]
    jq '.selection.predicted_kl = {nats: 0.0123, low: 0.0077, high: 0.0197, flagged: ["x"]}' m.json >kl.json
    has "$(aq-report --html kl.json)" "Predicted divergence (KL): 0.0123 nats per token, between 0.00770 and 0.0197. For 1 group the two forms of the score differ"
    eval_json e.json 0.011 0.001
    has "$(aq-report --html --eval e.json kl.json)" "measured: 0.0110 ± 0.00100. The most likely token stays the same at 98.1 % of positions. Perplexity goes from 12.25 to 12.5."
    has "$(aq-report --html --eval e.json none.json)" "Measured divergence (KL): 0.0110 ± 0.00100 nats per token."
    aq 0 aq-report --all out --eval e.json none.json
    has "$(cat out/report.html)" "Measured divergence"
    jq '.schema = "aq.eval/9"' e.json >bad.json
    refused 3 "bad.json: expected a result of aq-eval (aq.eval/1), found 'aq.eval/9'" aq-report --html --eval bad.json m.json
    jq 'del(.all.kl.mean)' e.json >bad.json
    refused 3 "bad.json: all.kl: key 'mean' is missing" aq-report --html --eval bad.json m.json
    refused 2 "--eval is shown in the page and in the frontier" aq-report --md --eval e.json m.json
    # nothing quantized, everything quantized, out of reach
    has "$(aq-select -q --effective-bits 16 a.json | aq-report --html)" "all 16 groups of layers stay at 16 bits."
    has "$(aq-select -q --effective-bits 4.125 a.json | aq-report --html)" "all 16 groups of layers take INT4 weights with INT8 activations."
    has "$(aq-select -q --effective-bits 2 a.json | aq-report --html)" "The budget of 2 bits cannot be met"
}

# receipt FILE MEAN SE BITS TEXT: of the same model, on a text of two domains
receipt() {
    jq -n --argjson m "$2" --argjson se "$3" --argjson b "$4" --arg t "$5" 'def text: {samples: 8, positions: 100, kl: {mean: ($m * .), se: $se, p50: 0, p99: ($m * 9), max: 1}, top1: 0.975, ppl: 12.5, ppl_reference: 12.25};
        {schema: "aq.eval/1", reference: {}, operand: {kind: "manifest", digest: "x", bits: $b}, dtype: "fp32", domains: {captions: (1 | text), "pro<se": (3 | text)},
         all: (2 | text), provenance: {inputs: {reference: "r", operand: "x\($b)", "tokens captions": "c", "tokens pro<se": $t}}}' >"$1"
}

@test "measured: a row for each text; the frontier is in nats, with every measured recipe of this model and text" {
    manifest m.json
    receipt one.json 0.01 0.001 6 p
    receipt two.json 0.004 0.005 9 p
    receipt other.json 0.5 0.1 10 q
    aq 0 aq-report --html --eval one.json --eval two.json --eval other.json m.json
    has "$stderr" "aq-report: warning: 'other.json' is left out: it is not of the model and text of 'one.json'"
    is "$(grep -c 'left out' <<<"$stderr")" 1
    has "$output" '<td class="name">pro&lt;se</td><td class="n more" data-v="8.0">8</td><td class="n" data-v="100.0">100</td><td class="n" data-v="0.03">0.0300</td><td class="n" data-v="0.001">0.00100</td>'
    is "$(grep -o '<td class="name">[a-z&;]*</td><td class="n more" data-v="8.0">' <<<"$output" | sed 's/<td class="name">\([^<]*\).*/\1/' | tr '\n' ' ')" "captions pro&lt;se all "
    has "$output" "12.2500 → 12.5000"
    # both widths of the page have both points, and nothing of what is left out
    is "$(grep -oE 'measured at [0-9.]+ bits: [0-9.]+ ± [0-9.]+ nats' <<<"$output" | sort | uniq -c | tr -s ' ' | tr '\n' ';')" " 2 measured at 6 bits: 0.0200 ± 0.00100 nats; 2 measured at 9 bits: 0.00800 ± 0.00500 nats;"
    has "$output" "Divergence against size"
    has "$output" "<title>predicted: $(grep -oE 'Predicted divergence \(KL\): [^ ]+' <<<"$output" | cut -d' ' -f4) nats</title>"
    has "$output" "<title>measured: 0.0200 nats</title>"
    aq 0 aq-report --svg frontier --eval one.json m.json
    has "$output" "measured at 6 bits"
    # without predictions the frontier is that of scores, and nothing measured is in it
    jq 'del(.layer_sensitivity[].scores_per_token)' m.json >old.json
    aq 0 aq-report --html --eval one.json old.json
    [[ $output == *"Score against size"* && $output != *"measured at 6 bits"* && $output == *"Measured, text by text"* ]]
    [[ $(aq-report --html m.json) != *"Measured, text by text"* ]]
    jq '.domains.captions.kl = 3' one.json >bad.json
    refused 3 "bad.json: domains.captions.kl: expected an object" aq-report --html --eval bad.json m.json
    refused 3 "bad.json: domains.captions.kl: expected an object" aq-report --svg frontier --eval one.json --eval bad.json m.json
}

@test "the recipes of the page: aq-select's prediction at every budget" {
    manifest m.json
    aq-report --html m.json | sed -n '/aria-label="Budgets in numbers"/,/<\/table>/p' | grep '^<tr><td' |
        sed -E 's#<td class="n" data-v="([^"]*)">[^<]*</td>#\1 #g; s#</?tr>##g' >rows
    local budget bits score nats
    [ "$(wc -l <rows)" -ge 5 ]
    while read -r budget bits score nats; do
        aq-select -q --effective-bits "$budget" a.json b.json | jq -r '"\(.selection.effective_bits) \(.autoquant_state.score) \(.selection.predicted_kl.nats)"' >want
        awk -v b="$bits" -v s="$score" -v n="$nats" 'function near(x, y) { d = x - y; return d * d <= 1e-8 * y * y }
            { if (!near(b, $1) || !near(s, $2) || !near(n, $3)) exit 1 }' want || { echo "$budget $bits $score $nats: $(<want)"; return 1; }
    done <rows
}

@test "what engines make of the recipe: the chosen one first, each group, and why; a manifest without shapes has no such section" {
    local lm=$BATS_TEST_TMPDIR/lm.json
    (cd "$REPO" && aq-extract-lm -q -o "$lm" models/qwen3_vl_demo/checkpoint)
    export AQ_CONF=$REPO/conf
    jq --argjson treatments '{"four": ["int4:block(-1:128):static", "none"], "eight": ["int8:axis0:static", "int8:tensor:static"]}' --argjson cycle '["four", "eight", "NONE"]' \
        -f "$REPO/tests/manifest.jq" "$lm" | jq --slurpfile lm "$lm" '.groups = $lm[0].groups' >m.json
    aq 0 aq-report --html --engine llamacpp m.json
    has "$output" '<section id="engines"'
    has "$output" '<a href="#engines">'
    # the columns of the table, the chosen engine first; and aq-export's verdict on every group in each of them
    is "$(grep -o '<th scope="col">[^<]*</th>' <<<"$output" | sed -n 's/.*>\(vLLM\|SGLang\|TensorRT-LLM\|llama.cpp\|transformers\)<.*/\1/p' | tr '\n' ' ')" "llama.cpp vLLM SGLang TensorRT-LLM transformers "
    sed -n '/aria-label="Verdict of each engine/,/<\/table>/p' <<<"$output" | grep '^<tr><td class="name">' | sed -E 's/<wbr>//g; s/<\/td>/ /g; s/<[^>]*>//g' >rows
    is "$(wc -l <rows)" 28
    local e i=2
    for e in llamacpp vllm sglang trtllm transformers; do
        i=$((i + 1))
        (cd "$REPO" && aq-export --check -q --engine $e --lm "$lm" "$OLDPWD/m.json" || true) | jq -r 'if .scheme == null then "16-bit" else .verdict end' >want
        cut -d' ' -f$i rows | diff - want || { echo "$e"; return 1; }
    done
    has "$(tr '\n' ' ' <<<"$output")" "llama.cpp $(sed -n 's/^version: *"\{0,1\}\([^"]*\)"\{0,1\}.*/\1/p' "$REPO/conf/engine/llamacpp.yaml") (chosen)"
    # the selection's own engine is the chosen one where none is given
    jq '.selection.engine = "sglang:sm100"' m.json >s.json
    has "$(aq-report --html s.json)" ", compute capability 10.0 (chosen)"
    [[ $(aq-report --html m.json) != *"(chosen)"* ]]
    jq '.selection.engine = "nobody"' m.json >bad.json
    refused 3 "bad.json: selection.engine: there is no engine 'nobody'" aq-report --html bad.json
    refused 2 "there is no engine 'nobody'" aq-report --html --engine nobody m.json
    refused 2 "--engine and --config-dir are for the page" aq-report --md --engine vllm m.json
    jq 'del(.groups)' m.json >less.json
    [[ $(aq-report --html less.json) != *'id="engines"'* ]]
    AQ_CONF=$BATS_TEST_TMPDIR aq-report --html m.json >plain.html # a tree without rules: nothing is known
    [[ $(<plain.html) != *'id="engines"'* ]]
}

@test "a published manifest has no recipe: it is computed again, and its total is the manifest's" {
    need_shared
    local m total
    for m in "$PUBLISHED"/*/*_quant_manifest.json; do
        aq-report --html "$m" >r.html
        grep -q 'bits (recomputed)' r.html
        # the sensitivity of what is quantized, summed over the table, against the score of the search
        total=$(sed -E 's/<wbr>//g' r.html | grep -E '^<tr><td class="n more"' | grep -vE '>NONE</td></tr>$' |
            sed -E 's#^.*<td class="name">[^<]*</td><td class="n" data-v="([^"]*)">.*#\1#' | awk '{ s += $1 } END { printf "%.10g\n", s }')
        awk -v a="$total" -v b="$(jq .autoquant_state.score "$m")" 'BEGIN { d = a - b; exit !(d * d <= 1e-16 * b * b) }' || { echo "$m: $total"; return 1; }
    done
}

@test "what the page offers to paste: the make command, and a menu that gives the recipe" {
    scores a.json wint4_aint8/default 4.125 1
    scores b.json wint8_aint8/w_per_tensor 8 2
    aq-select -q --effective-bits 9 a.json b.json -o m.json
    has "$(aq-report --html m.json)" '<pre tabindex="0">make -f pipelines/sweep.mk select PAIRS=&quot;wint4_aint8 wint8_aint8&quot; GRANS=&quot;default w_per_tensor&quot; SIZES=small MODEL=sample DATASET=sample_captions BITS=9.0 OVERRIDES=&#39;model.path=&quot;models/sample&quot;&#39;</pre>'
    has "$(aq-select -q a.json | aq-report --html)" "make -f pipelines/sweep.mk sweep PAIRS=wint4_aint8 GRANS=default SIZES=small MODEL=sample"
    # the menu, out of the page, gives the same recipe at any budget
    aq-report --html m.json | sed -n '/<pre tabindex="0">- {match/,/<\/pre>/p' | sed 's/.*<pre tabindex="0">//; s/<[^>]*>//g; s/&quot;/"/g' >menu.yaml
    is "$(grep -c match menu.yaml)" 16
    aq-select -q --effective-bits 16 --menu menu.yaml a.json b.json -o again.json
    is "$(jq -c '[.selection.recipe[].candidate]' again.json)" "$(jq -c '[.selection.recipe[].candidate]' m.json)"
    # each engine has its export, with the recipe's own budget, also of one cell
    has "$(aq-select -q --effective-bits 8.5 a.json | aq-report --html)" '<summary>export for llama.cpp</summary><pre tabindex="0">make -f pipelines/sweep.mk export ENGINE=llamacpp PAIRS=wint4_aint8 GRANS=default SIZES=small MODEL=sample DATASET=sample_captions BITS=8.5 '
    is "$(aq-report --html m.json | grep -c '<summary>export for')" 4
    # a name that would need quotes in a shell gives no command
    sealed_jq '.run.dataset.name = "$(x)"' a.json | aq-select -q -o evil.json
    [[ $(aq-report --html evil.json) != *"make -f"* ]]
    # nor does a path that would
    sealed_jq '.run.model.id = "/m/a\u0027; touch canary; \u0027"' a.json | aq-select -q -o evil.json
    [[ $(aq-report --html evil.json | grep 'make -f') != *canary* ]]
}

# ---- bad manifests ----

bad() {
    [ -e m.json ] || manifest m.json
    jq "$1" m.json >bad.json
    refused 3 "$2" aq-report --md bad.json
}

@test "manifests that are none are refused with the place" {
    local first='.layer_sensitivity["layers.0.self_attn.q_proj.quant_recipe"]'
    bad '[.]' "expected a manifest, an object, found a list"
    bad 'del(.layer_sensitivity)' "expected the keys 'layer_sensitivity' and 'autoquant_state'"
    bad 'del(.autoquant_state)' "expected the keys 'layer_sensitivity' and 'autoquant_state'"
    bad '.layer_sensitivity = []' "layer_sensitivity: expected an object, found a list"
    bad '.autoquant_state = 5' "autoquant_state: expected an object, found an integer"
    bad '.autoquant_state.is_satisfied = "yes"' "is_satisfied: expected a boolean, found a string"
    bad 'del(.scheme)' "key 'scheme' is missing"
    bad 'del(.scheme.name)' "scheme.name is missing"
    bad '.dataset = "x"' "dataset: expected an object, found a string"
    bad "$first = 5" "expected an object, found an integer"
    bad "del($first.scores)" "key 'scores' is missing"
    bad "$first.scores = [1]" "expected 3 values, one for each format, found 1"
    bad "$first.scores[0] = \"1\"" "scores[0]: expected a number, found a string"
    bad "$first.scores[0] = null" "scores[0]: expected a number, found null"
    bad "$first.costs[0] = -1" "costs[0]: a cost cannot be negative"
    bad "$first.formats[0] = 5" "formats[0]: expected a string, found an integer"
    bad "$first.formats[1] = $first.formats[0]" "appears twice"
    bad "$first.importance = 0.5" "but the largest score is"
    bad "$first.importance = \"x\"" "importance: expected a number, found a string"
    bad "$first.rank = 99" "by ascending importance"
    bad "$first.rank = 1.5" "rank: expected an integer, found a number"
    bad '.sensitivity_ranking[0].name = "x"' "sensitivity_ranking[0]: disagrees with the table"
    bad '.sensitivity_ranking |= .[1:]' "sensitivity_ranking[0]: disagrees with the table"
    bad '.sensitivity_ranking |= .[:-1]' "expected 16 entries as in the table, found 15"
    bad '.selection.recipe["nowhere"] = {candidate: "NONE"}' "the table has no such layer"
    bad '.selection.recipe["layers.0.self_attn.q_proj.quant_recipe"].candidate = "x"' "candidate 'x' is not in the table"
    bad 'del(.selection.recipe["layers.0.self_attn.q_proj.quant_recipe"])' "expected 16 layers as in the table, found 15"
    bad "$first.stderr = [1]" "stderr: expected 3 values"
    bad '.layer_sensitivity[] |= (.scores[0] = 1e308 | del(.importance, .rank)) | del(.sensitivity_ranking)' "the sum of the scores is too large"
    sed '0,/"importance": [0-9.e-]*/s//"importance": NaN/' m.json >nan.json
    refused 3 "nan.json:" aq-report --md nan.json
    sed '0,/o_proj.quant_recipe": {/s//q_proj.quant_recipe": {/' m.json >twice.json
    refused 3 "key 'layers.0.self_attn.q_proj.quant_recipe' appears twice" aq-report --md twice.json
    sed '0,/"scores": \[/s//"scores": [ NaN,/' m.json >nan.json
    refused 3 "nan.json:" aq-report --md nan.json
    head -c 3000 m.json >cut.json
    refused 3 "cut.json:" aq-report --html cut.json
    refused 3 "not a quantization manifest" aq-report --md a.json
    refused 1 "cannot open 'none.json'" aq-report --md none.json
}

@test "options that do not go together" {
    manifest m.json
    refused 2 "give exactly one of" aq-report m.json
    refused 2 "give exactly one of" aq-report --md --tsv m.json
    refused 2 "--all writes into a directory" aq-report --all out -o x m.json
    refused 2 "--svg: 'pie' is not one of: heatmap, bars, frontier, depth, strip" aq-report --svg pie m.json
    refused 2 "unexpected operand" aq-report --md m.json m.json
    refused 2 "give exactly one of --md, --tsv, --html, --all" aq-report summary m.json
    refused 2 "missing operand" aq-report summary --md
    refused 2 "missing operand" aq-report diff --md m.json
    refused 1 "ro/x" aq-report --md m.json -o ro/x
    aq-report --md <m.json >/dev/null
    aq-report --md - <m.json >/dev/null
}

# ---- sweeps ----

sweep() {
    local s=1 size pair
    for size in small large; do
        for pair in wint4_afp16:4.125 wint4_aint8:4.125 wint8_aint8:8; do
            scores x.json "${pair%%:*}/default" "${pair##*:}" $((s++))
            sealed_jq --arg s $size '.run.dataset.size = $s | .groups[] |= (.weight_only = null | .activation_only = null)' x.json | aq-select -q --effective-bits 16 -o "${pair%%:*}-$size.json"
        done
    done
    rm x.json
}

@test "a sweep: totals, agreement, parts, and cells left out with their reasons" {
    sweep
    printf '{"cells": [{"pair": "wfp4_afp8", "granularity": "w_per_tensor", "size": "small", "supported": false, "reason": "axis | with dynamic blocks", "dir": "x"},
        {"pair": "wint4_aint8", "granularity": "default", "size": "small", "supported": true, "reason": null, "dir": "y"}]}' >cells.json
    aq-report summary --tsv --cells cells.json wint*.json >s.tsv
    is "$(awk -F'\t' '{ print NF }' s.tsv | sort -u)" 20
    is "$(wc -l <s.tsv)" 8
    has "$(tail -1 s.tsv)" "axis | with dynamic blocks"
    is "$(awk -F'\t' '$2 == "wint4_aint8" && $4 == "small" { print ($12 + $13 - $5) ^ 2 < 1e-12 * $5 ^ 2 }' s.tsv)" 1
    is "$(awk -F'\t' '$4 == "small" && $18 == "" && $14 == ""' s.tsv | wc -l)" 0
    is "$(awk -F'\t' '$4 == "large" && $14 != ""' s.tsv | wc -l)" 0
    is "$(awk -F'\t' 'NR > 1 && $16 != "" && ($16 < -1 || $16 > 1)' s.tsv | wc -l)" 0
    aq 0 aq-report summary --md --cells cells.json wint*.json
    has "$output" "## Cells left out"
    has "$output" 'axis \| with dynamic blocks'
    aq 0 aq-report summary --html --cells cells.json wint*.json
    has "$output" "Do the pairs agree on the order?"
    mkdir all
    aq 0 aq-report summary --all all --cells cells.json wint*.json
    is "$(cd all && echo *)" "summary.html summary.md summary.tsv"
    for f in md tsv html; do aq-report summary --$f --cells cells.json wint*.json | cmp - all/summary.$f; done
    # links to the reports of cells, as seen from the directory of the sweep, and to the explorer, only where the cells are listed
    is "$(cat all/summary.html all/summary.md | grep -cE 'href="[^#]|explore.html' || true)" 0
    mkdir -p P/wint4_aint8/default/small 'P/x:/default/small'
    cp wint4_aint8-small.json P/wint4_aint8/default/small/m.json
    cp wint8_aint8-small.json P/x:/default/small/m.json
    jq -n '{cells: [["wint4_aint8", "x:"][] | {pair: ., granularity: "default", size: "small", supported: true, reason: null, dir: "P/\(.)/default/small"}]}' >P/cells.json
    aq-report summary --all P --cells P/cells.json P/*/default/small/m.json
    is "$(grep -oE 'href="[^#"]+"' P/summary.html | sort | uniq -c | xargs)" '1 href=explore.html 2 href=wint4_aint8/default/small/report.html'
    is "$(grep -oE '\]\([^)]*\)' P/summary.md | xargs)" '](explore.html) ](wint4_aint8/default/small/report.html)'
    # only reasons, and nothing at all
    aq 0 aq-report summary --md --cells cells.json
    has "$output" 'axis \| with dynamic blocks'
    refused 2 "" aq-report summary --md
    jq '.aq.normalization = "per_batch_mean"' wint8_aint8-small.json >other.json
    aq 0 aq-report summary --md other.json wint4_aint8-small.json
    has "$output" "their totals do not compare"
}

@test "a broken manifest in a sweep is named; --keep-going reports the rest" {
    sweep
    echo '{' >broken.json
    refused 3 "broken.json:" aq-report summary --md wint4_aint8-small.json broken.json wint8_aint8-small.json
    # of several the first, in whatever order threads come to them
    echo '[]' >other.json
    refused 3 "broken.json:" aq-report summary --md $(printf 'wint4_aint8-small.json %.0s' {1..40}) broken.json other.json other.json
    refused 3 "broken.json:" aq-report sweep --tsv $(printf 'wint4_aint8-small.json %.0s' {1..40}) broken.json other.json other.json
    aq 0 aq-report summary --md -k wint4_aint8-small.json broken.json wint8_aint8-small.json
    has "$stderr" "warning: broken.json:"
    has "$output" "2 cells, 1 left out"
    # of a whole sweep, too
    local all
    all=$(yes wint4_aint8-small.json | head -314)
    refused 3 "broken.json:" aq-report summary --tsv $all broken.json
    is "$(aq-report summary -q --tsv -k $all broken.json | wc -l)" 316
    echo '{"cells": [{"pair": 1}]}' >cells.json
    refused 3 "cells.json: cells[0].pair: expected a string, found an integer" aq-report summary --md --cells cells.json wint4_aint8-small.json
}

@test "the difference of two cells" {
    sweep
    aq-report diff --tsv wint4_aint8-small.json wint8_aint8-small.json >d.tsv
    is "$(wc -l <d.tsv)" 17
    is "$(awk -F'\t' 'NR > 1 { r = $4 > 1 ? $4 : 1 / $4; if (NR > 2 && r > last * 1.000001) exit 1; last = r }' d.tsv && echo sorted)" sorted
    aq 0 aq-report diff --md wint4_aint8-small.json wint4_aint8-small.json
    has "$output" "Spearman 1.0000, Kendall 1.0000"
    scores a.json wint4_aint8/default 4.125 2 3
    aq-select a.json -o three.json
    aq 0 aq-report diff --md wint4_aint8-small.json three.json
    has "$output" "**Layers in both:** 12 of 16"
}

# ---- speed ----

# Processor time, which other jobs on the machine hardly change: the shortest of three runs, in ms.
cpu_ms() {
    local TIMEFORMAT='%U %S' times i
    for i in 1 2 3; do
        times+=$({ time "$@" >/dev/null; } 2>&1)$'\n'
    done
    awk 'NF == 2 { t = 1000 * ($1 + $2); if (!n++ || t < best) best = t } END { printf "%d\n", best }' <<<"$times"
}

@test "10,000 groups in two seconds, 300 cells in two seconds, the page below 20 MB" {
    sanitized && skip "not in a sanitizer build"
    scores a.json wint4_aint8/default 4.125 1 2500
    aq-select -q --effective-bits 16 a.json -o m.json
    [ "$(cpu_ms aq-report --html m.json -o r.html)" -lt 2000 ]
    [ "$(stat -c %s r.html)" -lt 20000000 ]
    scores a.json wint4_aint8/default 4.125 1 36
    aq-select -q --effective-bits 16 a.json -o s.json
    [ "$(cpu_ms aq-report summary --html $(yes s.json | head -300) -o s.html)" -lt 2000 ]
}
