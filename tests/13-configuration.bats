#!/usr/bin/env bats
# docs/configuration.md and the recipe of the README do what they say, step by step; and the page knows every key.
load helpers

PAGE=$REPO/docs/configuration.md

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    cp -R "$REPO/conf" "$REPO/pipelines" .
    ln -s "$REPO/models" "$REPO/datasets" .
    export AQ_BIN=$BIN
    unset AQ_CONF MAKEFLAGS MAKELEVEL MFLAGS
}

# In ```sh, "$ " begins a command and what follows is what it prints; with 2>&1 it shows how a command fails. ```yaml after
# a line `conf/...`: is that file.
steps() {
    awk '
        function finish() { if (command) print "E"; command = 0 }
        /^`conf\/.*`:$/ { file = substr($0, 2, length($0) - 3); next }
        /^```/ { finish(); kind = kind ? "" : substr($0, 4); if (kind == "yaml" && file) print "F " file; next }
        kind == "yaml" && file { print "L " $0; next }
        kind == "sh" && /^\$ / { finish(); print "C " substr($0, 3) (/2>&1$/ ? " || true" : ""); command = 1; next }
        kind == "sh" && command { print "O " $0; next }
        kind == "" { if ($0 != "") file = "" }' "$1"
}

@test "every step of docs/configuration.md does and prints what the page says" {
    steps "$PAGE" >steps
    [ "$(grep -c '^C' steps)" -ge 15 ] && [ "$(grep -c '^F' steps)" -ge 4 ]
    run_examples <steps
}

@test "docs/configuration.md knows every key of a run" {
    local key
    aq 0 aq-resolve -q --config-name preset/demo
    while read -r key; do
        grep -qF "\`$key\`" "$PAGE" || { echo "not in the page: $key"; return 1; }
    done < <(jq -r 'del(._aq) | to_entries[] | .key as $k | if .value | type == "object" then .value | keys[] | "\($k).\(.)" else $k end' <<<"$output")
    while read -r key; do
        grep -qF "$key" "$REPO/lib/conf/check.c" || { echo "in the page, but not checked: $key"; return 1; }
    done < <(grep -oE '^\| `autoquant\.[a-z0-9_]+`' "$PAGE" | sed 's/.*\.//; s/`//')
}

@test "the README's recipe for a precision pair" {
    awk '/^```/ { if (inside && block ~ /cat >conf\/quant_pair/) printf "%s", block; inside = !inside; block = ""; next } inside { block = block $0 "\n" }' \
        "$REPO/README.md" >recipe
    [ -s recipe ]
    aq 0 bash -eu -o pipefail recipe
    has "$output" '"w": "int6:axis0:static"'
    [ -n "$(find tmp -path '*wint6_afp8/*/per-layer-sensitivity.md')" ]
}

# Lines of code blocks that begin with make and name a sweep, whole: "page<TAB>command".
make_commands() {
    local page
    while read -r page; do
        sed -e ':a; /\\$/{N; s/\\\n */ /; ta}' "$page" | sed -nE 's/^ *(\$ )?(make -f pipelines\/(qwen3|sweep|demo)\.mk( .*)?)$/\2/p' |
            sed -E 's/ +# .*//' | awk -v page="$page" '{ print page "\t" $0 }'
    done < <(cd "$REPO" && ls README.md docs/*.md models/*/README.md models/*/layer-analysis/README.md datasets/*/README.md)
}

@test "every make command of the pages names goals, options and overrides that are there" {
    ln -s "$REPO/docs" "$REPO/README.md" .
    make_commands >commands
    [ "$(wc -l <commands)" -ge 12 ]
    [ "$(cut -f1 commands | sort -u | wc -l)" -ge 4 ]
    local page command n=0
    while IFS=$'\t' read -r page command; do
        case $command in
        *' reports'*) continue ;;    # needs manifests: 61-demo.bats runs it
        *wint6_afp8*) continue ;;    # an option that README.md adds first: 61-demo.bats adds it
        esac
        echo "$page: $command"
        eval "$command -n" </dev/null >out 2>&1 || { cat out; return 1; }
        n=$((n + 1))
    done <commands
    [ $n -ge 10 ]
    # and a wrong word would be noticed
    ! eval "$(sed -n 's/^docs\/parity.md\t//p' commands | head -1) -n PAIRS=wint9" >out 2>&1 || return 1
}
