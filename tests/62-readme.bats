#!/usr/bin/env bats
# The commands of README.md, run as they stand in a copy of the tree. Left out: the installation, and what needs a
# checkpoint, captions or a cluster that are not here.
load helpers

setup() {
    T=$BATS_TEST_TMPDIR/tree
    mkdir -p "$T"
    cp -R "$REPO"/{conf,pipelines,models,datasets} "$T/"
    export AQ_BIN=$BIN
    unset MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF
    cd "$T"
}

# Every fenced block without a language, one after the other, each ended by a line "%%".
blocks() { awk '/^```/ {inside = !inside; if (!inside) print "%%"; next} inside' "$REPO/README.md"; }

pages() { (cd "$REPO" && git ls-files '*.md' 2>/dev/null || find . -name '*.md' -printf '%P\n') | grep -v -e '^CHANGELOG.md$' -e '/per-layer-sensitivity.md$' -e '^build/' -e '^tmp/'; }
# "page<TAB>command" of all pages
documented() { (cd "$REPO" && pages | xargs awk -f tests/documented.awk); }

# fate PAGE COMMAND: what tests/documented.list says of it: $fate is a test or "-", $row the number of the line that says so
fate() {
    local page pattern i
    fate='' row=''
    for i in "${!list[@]}"; do
        IFS=$'\t' read -r page pattern fate _ <<<"${list[i]}"
        # shellcheck disable=SC2053  # patterns
        if [[ $1 == $page && $2 == $pattern ]]; then
            row=$i
            return 0
        fi
    done
    fate=''
    return 1
}
read_list() { mapfile -t list < <(grep -v '^#' "$REPO/tests/documented.list"); }

@test "every command of every page is run by a test, or is left out for a reason" {
    local list page command fate row used=' ' n=0
    read_list
    while IFS=$'\t' read -r page command; do
        fate "$page" "$command" || { echo "$page: nothing runs: $command"; return 1; }
        [ "$fate" = - ] || [ -e "$REPO/tests/$fate" ] || { echo "no test $fate"; return 1; }
        used+="$row "
        n=$((n + 1))
    done < <(documented)
    [ $n -ge 80 ]
    for row in "${!list[@]}"; do
        [[ $used == *" $row "* ]] || { echo "fits no command: ${list[row]}"; return 1; }
        IFS=$'\t' read -r page command fate reason <<<"${list[row]}"
        if [ "$fate" = - ]; then [ ${#reason} -ge 10 ]; fi
    done
}

@test "each command of README.md does what it is for" {
    local block='' line ran=0 list fate row wanted=1
    read_list
    while IFS= read -r line; do
        if [ "$line" != %% ]; then
            block+=$line$'\n'
            line=${line%% #*}
            if fate README.md "${line%"${line##*[! ]}"}" && [ "$fate" != 62-readme.bats ]; then wanted=0; fi
            continue
        fi
        if [ $wanted -eq 1 ]; then
            run --separate-stderr timeout 300 bash -eu -o pipefail -c "$block"
            [ "$status" -eq 0 ] || { printf '%s\n%s\n%s\n' "$block" "$output" "$stderr"; return 1; }
            [ -n "$output" ]
            ran=$((ran + 1))
        fi
        block='' wanted=1
    done < <(blocks)
    [ "$ran" -ge 8 ]
}

@test "the options of the scripts that pages show; the training of the models, with a tiny corpus, where its packages are" {
    need_command python3
    local scripts=$'\t(python3|v40/bin/python|tests/[^ ]*[.]py)'
    aq 0 bash -c 'python3 "$1/tests/documented_options.py" "$1"' - "$REPO" < <(documented | grep -E "$scripts")
    [ "$output" -ge 10 ]
    aq 2 bash -c 'python3 "$1/tests/documented_options.py" "$1"' - "$REPO" < <(documented | grep 'train\.py' | sed 's/--valid/--validation/')
    # what is not run elsewhere is understood: options and formats are checked before files are opened
    documented | grep -E '^docs/(serving|formats)' | cut -f2 | grep -E '^aq-(export|overlay)' >commands
    [ "$(wc -l <commands)" -ge 6 ]
    while IFS= read -r line; do
        run bash -c "$line"
        [ "$status" -ne 2 ] || { echo "$line"; echo "$output"; return 1; }
    done <commands
    python3 -c 'import torch, tokenizers, safetensors' 2>/dev/null || return 0
    cp -R "$REPO"/models/qwen3_*_demo .
    cd qwen3_vl_demo
    documented | sed -n 's/^models.qwen3_vl_demo.README.md\t//p' | sed 's/make_corpus.py corpus/& -n 3000/; s/-n 4096/-n 64/; s/train.py/& --steps 4 --batch 16/' >run
    is "$(wc -l <run)" 6
    aq 0 bash -eu run
    grep -q 'held-out loss of the bf16 checkpoint' train.log
    cp corpus.safetensors valid.safetensors ../qwen3_moe_demo
    cd ../qwen3_moe_demo
    documented | sed -n 's/^models.qwen3_moe_demo.README.md\tpython3/python3/p' | sed 's/--steps 6000/--steps 4 --batch 16/' >run
    aq 0 bash -eu run
    aq 0 aq-extract-lm checkpoint
}

@test "the excerpt of README.md is the head of the published report" {
    local report
    report=$(grep -oE 'models/[^)]*per-layer-sensitivity.md' "$REPO/README.md" | head -1)
    diff <(sed -n '/^|Layer|/,/^$/p' "$REPO/README.md" | sed '/^$/d') <(sed -n '/^|Layer|/,$p' "$REPO/$report" | head -7)
}

@test "files that README.md links to are there" {
    local f
    grep -oE '\]\([^)#]+' "$REPO/README.md" | sed 's/^](//' | while read -r f; do
        case $f in http*) continue ;; esac
        [ -e "$REPO/$f" ] || { echo "README.md: no $f"; return 1; }
    done
}

@test "every term of the glossary is linked where the README and each page of docs first use it" {
    need_command python3
    cd "$REPO"
    local pages
    pages=$(ls README.md docs/*.md | grep -vx docs/glossary.md)
    # shellcheck disable=SC2086
    aq 0 python3 tests/first_use.py docs/glossary.md $pages
    # a link that is taken away, a term that is new, and a link to no entry are noticed
    sed 's/\[budget\](docs.glossary.md#budget)/budget/' README.md >"$BATS_TEST_TMPDIR/page.md"
    aq 1 python3 tests/first_use.py docs/glossary.md "$BATS_TEST_TMPDIR/page.md"
    is "$(wc -l <<<"$output")" 1
    has "$output" "page.md: budget: "
    sed 's/#budget/#money/' README.md >"$BATS_TEST_TMPDIR/page.md"
    aq 1 python3 tests/first_use.py docs/glossary.md "$BATS_TEST_TMPDIR/page.md"
    has "$output" "page.md: no entry 'money'"
    { cat docs/glossary.md; echo '| <a id="new"></a>new | A word. |'; } >"$BATS_TEST_TMPDIR/glossary.md"
    aq 1 python3 tests/first_use.py "$BATS_TEST_TMPDIR/glossary.md"
    has "$output" "new: not in the list of terms"
}

@test "README's heat map is drawn from the published report" {
    aq 0 aq-report --svg heatmap --scheme 'the embedded model: 4-bit weights in blocks of 128, 512 captions' -o "$BATS_TEST_TMPDIR/heatmap.svg" \
        "$REPO"/models/qwen3_vl_demo/layer-analysis/weight-int4-act-fp16/default/*_large/*_quant_manifest.json
    cmp "$BATS_TEST_TMPDIR/heatmap.svg" "$REPO/docs/images/heatmap.svg"
}

@test "README's picture of the mixture has all its groups; the experts of the last two blocks are the darkest" {
    local f=$REPO/docs/images/experts.svg k
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$f"
    grep -q 'the experts of the last two blocks are darkest](docs/images/experts.svg)' "$REPO/README.md"
    grep -oE '<title>layers[^<]*' "$f" | sed -E 's/<title>//; s/×10/e/; y/⁻⁰¹²³⁴⁵⁶⁷⁸⁹/-0123456789/' >"$BATS_TEST_TMPDIR/drawn"
    for k in 0 1 2 3; do printf 'layers.%s.%s\n' $k self_attn.q+k+v_proj $k self_attn.o_proj $k mlp.experts; done | sort >"$BATS_TEST_TMPDIR/groups"
    diff <(sed 's/:.*//' "$BATS_TEST_TMPDIR/drawn" | sort) "$BATS_TEST_TMPDIR/groups"
    is "$(sort -t: -k2 -g -r "$BATS_TEST_TMPDIR/drawn" | head -2 | sed 's/:.*//' | sort | paste -sd' ')" 'layers.2.mlp.experts layers.3.mlp.experts'
}

@test "README's second picture has the measured figures of docs/evidence.md" {
    local f=$REPO/docs/images/frontier.svg bits kl
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$f"
    grep -oE 'measured at [0-9.]+ bits: [^ ]+' "$f" | sed -E 's/measured at ([0-9.]+) bits: (.*)/\1 \2/; s/×10/e/; y/⁻⁰¹²³⁴⁵⁶⁷⁸⁹/-0123456789/' | sort >"$BATS_TEST_TMPDIR/drawn"
    is "$(wc -l <"$BATS_TEST_TMPDIR/drawn")" 5
    sed -n 's/^| [4-8] bits | \([0-9.]*\) | [^|]* | \([^ ]*\) .*/\1 \2/p' "$REPO/docs/evidence.md" | sort | paste -d' ' - "$BATS_TEST_TMPDIR/drawn" |
        awk '{ near += ($1 - $3) ^ 2 < 1e-4 && ($2 - $4) ^ 2 <= 1e-4 * $2 ^ 2 } END { exit !(NR == 5 && near == 5) }'
}
