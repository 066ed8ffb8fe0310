#!/usr/bin/env bats
# The front command aq, installed use, completions, and the pages for newcomers: what they say runs.
load helpers

setup() {
    T=$BATS_TEST_TMPDIR/tree
    mkdir -p "$T"
    cp -R "$REPO"/{conf,pipelines,models,datasets} "$T/"
    export AQ_BIN=$BIN
    unset MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF
    cd "$T"
}

@test "aq: help, version, wrong words" {
    aq 0 pipelines/aq --help
    has "$output" "usage: aq COMMAND"
    aq 2 pipelines/aq
    refused 2 "'sweeep' is not a command: demo, plan, sweep, select, eval, export, explore, report" pipelines/aq sweeep
    refused 2 "'wint4_afp16': expected NAME=VALUE or a flag of make" pipelines/aq sweep wint4_afp16
    aq 0 pipelines/aq help
    has "$output" "PAIRS"
    aq 0 "$REPO/pipelines/aq" --version
    has "$output" "aq 0."
}

@test "aq: plan, sweep, and a second sweep that does nothing" {
    aq 0 pipelines/aq plan PAIRS=wint8_aint8 SIZES=small
    has "$output" "1 cells"
    has "$output" "activation ranges"
    has "$output" "one NVIDIA H200"
    grep -qE '^  here, at [0-9]+ GFLOP/s +[0-9.]+ (s|min|h)$' <<<"$output"
    # 28 groups, 16 samples, in one row: sums, both parts of them, clipped counts, and the flags and checks of 7 layers
    awk '/^  the store/ { exit !($(NF - 1) < 0.1) }' <<<"$output"
    [ ! -e tmp ]
    aq 0 pipelines/aq sweep PAIRS=wint8_aint8 SIZES=small
    [ -e tmp/model-experiments/lm_sensitivity/qwen3_vl_demo/wint8_aint8/default/small/report.html ]
    aq 0 pipelines/aq sweep PAIRS=wint8_aint8 SIZES=small
    [[ $output != *SUMMARY* ]]
}

@test "aq: a plan starts few processes, and writes its small files into memory" {
    command -v strace >/dev/null || skip "needs strace"
    aq 0 strace -f -qq -e trace=execve,openat,mkdir -o calls env -u TMPDIR pipelines/aq plan
    has "$output" "21 cells"
    # each takes some of the 0.2 s that an answer may take; 20 with env, five of them tools
    local started elsewhere
    started=$(grep -c '^[0-9]* *execve(.*= 0$' calls)
    [ "$started" -le 21 ] || { echo "$started processes"; return 1; }
    elsewhere=$(grep -E 'O_CREAT|mkdir' calls | grep -vE '"/dev/(shm|null)|"/dev", ' || true)
    [ ! -w /dev/shm ] || is "$elsewhere" ""
}

@test "aq: plan of a model of which config.json is here, and nothing else" {
    mkdir bare
    jq '.text_config.num_hidden_layers = 40' models/qwen3_vl_demo/checkpoint/config.json >bare/config.json
    aq 0 pipelines/aq plan PAIRS=wint8_aint8 OVERRIDES="model.path=$PWD/bare"
    has "$output" "the weights are not there: their shapes are those of config.json"
    has "$output" "there is no tokenizer"
    grep -qE '^  layers +40$' <<<"$output"
    has "$output" "one NVIDIA H200"
    is "$(ls bare)" config.json
    [ ! -e tmp ]
    echo '{"model_type": "nonesuch"}' >bare/config.json
    aq 0 pipelines/aq plan PAIRS=wint8_aint8 OVERRIDES="model.path=$PWD/bare"
    has "$output" "model_type 'nonesuch' is not supported"
    # and of one that is not here at all, as a sweep says it
    aq 0 pipelines/aq plan PAIRS=wint8_aint8 OVERRIDES="model.path=Qwen/Nonesuch"
    has "$output" "no checkpoint at 'Qwen/Nonesuch', nor a model of that name in Hugging Face's cache (model.path)"
}

@test "aq: exits with the code of the tool that failed, not with make's" {
    # 3: the content of a file
    mkdir notes
    export TMPDIR=$PWD/notes # of this test alone
    cp datasets/demo/captions_small.txt keep
    printf 'caption \xff\xfe\n' >datasets/demo/captions_small.txt
    aq 3 pipelines/aq sweep PAIRS=wint8_aint8 SIZES=small
    # our line, and at most one of make's
    is "$(grep -c '^aq-calib: ' <<<"$stderr")" 1
    is "$(grep -c '^make' <<<"$stderr")" 1
    cp keep datasets/demo/captions_small.txt
    # 2: typed wrongly
    aq 2 pipelines/aq sweep PAIRS=wint9_aint8
    mkdir "with a blank"
    cp -R pipelines "with a blank/"
    refused 2 "contains blanks, which make cannot handle" "with a blank/pipelines/aq" plan
    (cd "with a blank" && refused 2 "contains blanks, which make cannot handle" "$T/pipelines/aq" plan)
    # 1: a recipe that cannot write; the code of an earlier run is not left behind
    aq 0 pipelines/aq sweep PAIRS=wint8_aint8 SIZES=small
    is "$(ls notes)" ""
}

@test "aq: an output that cannot be written is one line and exit 1, after the work; a reader that goes away is none" {
    run --separate-stderr bash -c 'pipelines/aq plan PAIRS=wint8_aint8 >&-'
    is "$status $stderr" "1 aq: standard output is closed"
    run --separate-stderr bash -c 'pipelines/aq sweep PAIRS=wint8_aint8 >/dev/full'
    is "$status $stderr" "1 aq: cannot write to standard output: No space left on device"
    [ -e tmp/model-experiments/lm_sensitivity/qwen3_vl_demo/summary.html ]
    run --separate-stderr bash -o pipefail -c 'pipelines/aq plan PAIRS=wint8_aint8 | head -n 1'
    is "$status $stderr" "0 "
    has "$output" "1 cells"
}

@test "installed: aq and the tools work in an empty directory; completions know commands, options and choices" {
    ! sanitized || skip "would mix objects with and without sanitizers"
    local root=$BATS_TEST_TMPDIR/root/usr o=$BATS_TEST_TMPDIR/o
    mkdir "$o"
    cp -a "$O"/{bin,lib,tools,gen,flags,dirs,probe.mk,libaq.a} "$o/"
    # -o: whatever flags it was built with, so only what knows the directories is compiled again
    make -s -C "$REPO" O="$o" -o "$o/flags" CUDA=0 prefix="$root" install >/dev/null
    mkdir "$BATS_TEST_TMPDIR/empty"
    cd "$BATS_TEST_TMPDIR/empty"
    unset AQ_BIN
    export PATH=$root/bin:/usr/bin:/bin
    aq 0 "$root/bin/aq" --help
    has "$output" "usage: aq COMMAND"
    aq 0 "$root/bin/aq" --version
    has "$output" "aq 0."
    aq 0 "$root/bin/aq" plan PAIRS=wint8_aint8 SIZES=small
    has "$output" "1 cells in tmp/model-experiments/lm_sensitivity/qwen3_vl_demo"
    [ -e "$root/share/aq/doc/README.md" ] && [ -e "$root/share/aq/models/qwen3_vl_demo/checkpoint/config.json" ]
    aq 0 bash -c ". '$root/share/bash-completion/completions/aq'
        try() { COMP_WORDS=(\"\$@\"); COMP_CWORD=\$((\$# - 1)); _aq 2>/dev/null; echo \"\${COMPREPLY[*]}\"; }
        try aq-select --cost ''; try aq-report su; try aq-select --fr; try aq pl; try aq-report summary --h; try aq-score --method ''"
    is "$output" "storage modelopt40 modelopt47
summary
--frontier
plan
--html --help
gradient kl_div"
    # every option of every tool is in all three
    local t option
    for t in aq-select aq-report aq-score; do
        for option in $("$root/bin/$t" --help | grep -oE '^ +(-[a-z], )?--[a-z0-9-]+' | sed 's/.*--//'); do
            grep -q -- "--$option" "$root/share/bash-completion/completions/aq"
            grep -q -- "--$option\[" "$root/share/zsh/site-functions/_aq"
            grep -q -- "complete -c $t .*-l $option" "$root/share/fish/vendor_completions.d/aq.fish"
        done
    done
    make -s -C "$REPO" O="$o" -o "$o/flags" CUDA=0 prefix="$root" uninstall
    is "$(find "$root" -type f -o -type l)" ""
}

@test "every command of the tutorial runs" {
    awk '/^```sh/ { inside = 1; next } /^```/ { if (inside) print "%%"; inside = 0 } inside' "$REPO/docs/tutorial.md" >steps
    [ "$(grep -c '^%%' steps)" -ge 10 ]
    { echo 'set -eu -o pipefail'; sed 's/^%%$/echo "%%"/' steps; } >run.sh
    aq 0 bash run.sh
    is "$(grep -c '^%%' <<<"$output")" "$(grep -c '^%%' steps)"
    has "$output" "layer 0 at 16 bits adds"
    has "$output" "model,pair,granularity,size,layer,candidate"
    jq -e '.selection.polish | .kept == "polished" and .held_out.difference + 2 * .held_out.se < 0' polished.json
    [ -s tmp/model-experiments/lm_sensitivity/qwen3_vl_demo/explore.html ]
}

@test "each test that docs/security.md names is there" {
    local file name n=0
    while IFS=$'\t' read -r file name; do
        n=$((n + 1))
        if [[ $file == test_* ]]; then file=tests/unit/$file.c; else file=tests/$file.bats; fi
        grep -qF -- "$name" "$REPO/$file" || { echo "$file has no test '$name'"; return 1; }
    done < <(awk '{
        while (match($0, /(test_[a-z_]+|[0-9][0-9]-[a-z-]+) "|, "|"[^"]*"/)) {
            word = substr($0, RSTART, RLENGTH)
            if (word ~ /^(test_|[0-9])/) file = substr(word, 1, length(word) - 2)
            if (word ~ /^".*"$/) { if (file != "") print file "\t" substr(word, 2, length(word) - 2); $0 = substr($0, RSTART + RLENGTH) }
            else $0 = substr($0, RSTART + RLENGTH - 1)
        }
        file = ""
    }' "$REPO/docs/security.md")
    [ "$n" -ge 60 ]
}

@test "links between the pages are good; every error message of the FAQ is one of ours" {
    local page link part
    while read -r page; do
        while read -r link; do
            case $link in http* | '') continue ;; esac
            [ -e "$REPO/$(dirname "$page")/$link" ] || { echo "$page: no $link"; return 1; }
        done < <(cd "$REPO" && grep -oE '\]\([^)#]+' "$page" | sed 's/^](//')
    done < <(cd "$REPO" && ls README.md docs/*.md models/*/layer-analysis/README.md)
    for page in "$REPO"/docs/*.md; do
        page=${page##*/}
        [ "$page" = index.md ] || grep -qF "]($page)" "$REPO/docs/index.md" || { echo "docs/index.md leaves out $page"; return 1; }
    done
    # what is between the dots of a message is in a source file
    grep -oE '^\| `[^`]+`' "$REPO/docs/faq.md" | sed 's/^| `//; s/`$//' >messages
    [ "$(wc -l <messages)" -ge 10 ]
    while read -r link; do
        while read -r part; do
            part=${part#"${part%%[![:space:]]*}"}
            [ ${#part} -ge 8 ] || continue
            grep -rqF -- "$part" "$REPO/lib" "$REPO/tools" "$REPO/pipelines" "$REPO/Makefile" || { echo "not ours: $part"; return 1; }
        done < <(sed "s/\.\.\./\n/g; s/'[^' ]*'/\n/g; s/[0-9][0-9]*/\n/g; s/[():]/\n/g" <<<"$link")
    done <messages
}

@test "the architecture picture is XML" {
    need_command python3
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$REPO/docs/images/architecture.svg"
}
