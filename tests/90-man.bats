#!/usr/bin/env bats
# The manual: every tool has a page that knows all its options, pages are clean mdoc, and their examples run.
#
# An example is a literal display (.Bd -literal) in the section EXAMPLES. A line that begins with "$ " is a command, "> "
# continues it, and the lines after it, up to an empty one, are exactly what it prints. All examples of a page run in
# order in one scratch directory. It has the product's conf/, pipelines/, models/ and datasets/, and files of a small sweep of the
# demo model under the names that manuals use: see sweep().
load helpers

PAGES=$REPO/docs/man

# lm.json, tokens.safetensors, ranges.safetensors, store.safetensors, two cells a/ and b/ with run.json, quant.json and scores.json,
# and quant_manifest.json over both; as far as the tools are built.
sweep() {
    local demo=$REPO/models/qwen3_vl_demo/checkpoint pair cell
    export AQ_CONF=$REPO/conf
    for cell in a:wfp8_afp8 b:wint4_aint8; do
        pair=${cell#*:} cell=${cell%:*}
        mkdir -p "$cell"
        aq-resolve -q --config-name preset/demo "quant_pair=$pair" dataset.size=small -o $cell/run.json && aq-overlay $cell/run.json -o $cell/quant.json
    done
    aq-extract-lm "$demo" -o lm.json
    aq-calib tokens --tokenizer "$demo" -o tokens.safetensors "$REPO"/datasets/demo/captions_{small,medium}.txt
    aq-calib ranges --lm lm.json -o ranges.safetensors tokens.safetensors
    aq-score -q --lm lm.json --tokens tokens.safetensors --ranges ranges.safetensors --prefix 16,128 --score-samples 16 -o store.safetensors {a,b}/quant.json
    for cell in a b; do
        aq-score collect --run $cell/run.json --quant $cell/quant.json -o $cell/scores.json store.safetensors
    done
    aq-select -q --effective-bits 6 -o quant_manifest.json {a,b}/scores.json
    cp a/run.json a/quant.json a/scores.json .
}

setup_file() {
    mkdir "$BATS_FILE_TMPDIR/sweep"
    (cd "$BATS_FILE_TMPDIR/sweep" && sweep >log 2>&1) || true
}

setup() {
    need_command mandoc
    cd "$BATS_TEST_TMPDIR" || return
}

# page FILE: as plain text in lines of any length.
page() {
    mandoc -T ascii -O width=1000 "$1" | sed 's/.\x08//g'
}

# options COMMAND...: the long and short options that its --help knows.
options() {
    "$@" --help | grep -E '^ {2,6}(-|  )' | grep -oE '(^| )--?[A-Za-z][A-Za-z0-9-]*' | grep -E -- '^ *(--[a-z][a-z0-9-]+|-[A-Za-z])$' | tr -d ' ' | sort -u
}

# subcommands TOOL: those that its usage shows.
subcommands() {
    "$1" --help | sed -n "1,/^\$/s/^[a-z: ]*$1 \([a-z]\{2,\}\)\( .*\)\?\$/\1/p" | sort -u
}

@test "every tool has a page, and the page names every option and every subcommand" {
    local t name sub option missing=0 pageless=
    for t in "$BIN"/aq-*; do
        name=$(basename "$t")
        if [ ! -e "$PAGES/$name.1" ]; then
            pageless+=" $name"
            continue
        fi
        page "$PAGES/$name.1" >text
        while read -r option; do
            grep -qE -- "(^|[^a-z-])${option}([^a-z-]|\$)" text || { echo "$name.1 lacks $option"; missing=$((missing + 1)); }
        done < <(
            options "$name"
            for sub in $(subcommands "$name"); do options "$name" "$sub"; done
        )
        for sub in $(subcommands "$name"); do
            grep -qE -- "(^|[^a-z])${sub}([^a-z]|\$)" text || { echo "$name.1 lacks $sub"; missing=$((missing + 1)); }
        done
    done
    is "$missing" 0
    [ -z "$pageless" ] || skip "no page yet:$pageless"
}

@test "no page has an option that the tool does not have" {
    local t name sub option extra=0
    for t in "$BIN"/aq-*; do
        name=$(basename "$t")
        [ -e "$PAGES/$name.1" ] || continue
        {
            options "$name"
            for sub in $(subcommands "$name"); do options "$name" "$sub"; done
        } >known
        # what is at the head of a list item is an option of this tool
        while read -r option; do
            grep -qxF -- "$option" known || { echo "$name.1 has $option"; extra=$((extra + 1)); }
        done < <(sed -n 's/^\.It Fl //p' "$PAGES/$name.1" | grep -oE '(^|Fl )Fl [a-z][a-z0-9-]+' | sed -E 's/^(Fl )+/--/' | sort -u)
    done
    is "$extra" 0
}

@test "pages are clean mdoc" {
    local p
    for p in "$PAGES"/*.[1-9]; do
        run mandoc -T lint -W warning "$p"
        is "$output" "" && is "$status" 0 || { echo "page: $p"; return 1; }
    done
}

@test "pages refer to pages that are there" {
    local p ref missing=
    for p in "$PAGES"/*.[1-9]; do
        while read -r ref; do
            [ -e "$PAGES/$ref" ] || missing+=" $(basename "$p"):$ref"
        done < <(sed -nE 's/^\.Xr (aq[a-z-]*) ([1-9]).*/\1.\2/p' "$p" | sort -u)
    done
    [ -z "$missing" ] || skip "no page yet:$missing"
}

# examples FILE: "C command", "O line of output" and "E" at the end of what a command prints.
examples() {
    page "$1" | awk '
        /^[A-Z]/ { inside = $0 == "EXAMPLES"; next }
        !inside { next }
        /^           \$ / { if (command) print "E"; print "C " substr($0, 14); command = 1; next }
        command && /^           > / { print "+ " substr($0, 14); next }
        command && /^           / { print "O " substr($0, 12); next }
        command { print "E"; command = 0 }
        END { if (command) print "E" }'
}

@test "the examples of the manual run, and print what they say" {
    local p d count=0
    for p in "$PAGES"/*.[1-9]; do
        cp -R "$BATS_FILE_TMPDIR/sweep" scratch
        for d in conf pipelines models datasets docs; do ln -s "$REPO/$d" "scratch/$d"; done
        pushd scratch >/dev/null
        run_examples < <(examples "$p") || { echo "page: $p"; cat log; return 1; }
        popd >/dev/null
        rm -rf scratch
        count=$((count + $(examples "$p" | grep -c '^C' || true)))
    done
    [ "$count" -gt 3 ]
}

@test "every page of a tool has an example" {
    local p
    for p in "$PAGES"/aq-*.1; do
        [ "$(examples "$p" | grep -c '^C')" -gt 0 ] || { echo "no example in $p"; return 1; }
    done
}
