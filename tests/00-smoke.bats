#!/usr/bin/env bats
# What all tools share: help, version, usage errors, closed or full standard output.
load helpers

each_tool() {
    local t
    for t in "$BIN"/aq-*; do
        "$@" "$(basename "$t")" || { echo "tool: $t"; return 1; }
    done
}

help_is_whole() {
    aq 0 "$1" --help || return 1
    has "$output" "usage: $1" && has "$output" "example:" && has "$output" "exit status:" && is "$stderr" ""
}

@test "--help goes to stdout, with an example and the exit codes" {
    each_tool help_is_whole
}

version_is_one_line() {
    aq 0 "$1" --version || return 1
    [[ $output =~ ^$1\ [0-9]+\.[0-9]+\.[0-9]+$ ]] && [ "${#lines[@]}" -eq 1 ] || return 1
    aq 0 "$1" --result-version && [[ $output =~ ^[0-9]+($'\n'aq\.[[:lower:]]+/[0-9]+)*$ ]] || return 1
    aq 0 "$1" --build-info
    [[ $output =~ compiler:\ (gcc|clang)\ [0-9]+\. ]] && has "$output" "flags: -std=gnu11" && has "$output" "libraries: -lyaml"
}

@test "--version, --result-version and --build-info" {
    each_tool version_is_one_line
}

@test "--build-info of the tools that compute names what they compute on" {
    local t
    for t in aq-score aq-calib; do
        aq 0 "$t" --build-info
        [[ $output =~ device\ cpu:\ cpu/[^,]+,\ quantizers\ (plain|avx2|avx512)\; ]] && has "$output" "device cuda: " || { echo "$output"; return 1; }
    done
    AQ_CPU=plain aq 0 aq-score --build-info
    has "$output" "quantizers plain;"
}

usage_error() {
    refused 2 "$1: unknown option '--hepl'" "$1" --hepl || return 1
    has "$stderr" "did you mean --help?" || return 1
    refused 2 "$1: " "$1" --progress=sometimes
}

@test "an unknown option is exit 2, one line and the nearest match" {
    each_tool usage_error
}

@test "a misspelled command is answered with the nearest one, whatever follows it" {
    cd "$BATS_TEST_TMPDIR"
    refused 2 "'colect' is neither a command nor a file" aq-score colect s
    has "$stderr" "did you mean collect? commands: collect, merge, ls, gc"
    refused 2 "'sumary' is neither a command nor a file" aq-report sumary --cells c.json m.json
    has "$stderr" "did you mean summary?"
    refused 2 "unknown command 'tokns'" aq-calib tokns -t x
    has "$stderr" "did you mean tokens?"
    refused 2 "the command 'diff' must be the first word" aq-report --md diff a b
    refused 2 "no command given" aq-calib -q
    has "$stderr" "commands: tokens, ranges"
    refused 2 "unknown option '--cell'" aq-report summary --cell c.json
    has "$stderr" "try 'aq-report summary --help'"
}

@test "a file with the name of a slip is an operand" {
    cd "$BATS_TEST_TMPDIR"
    echo '{}' >difff
    refused 3 "difff" aq-report --md difff
}

@test "--log takes the messages, and adds to what is there" {
    cd "$BATS_TEST_TMPDIR"
    echo before >log
    run --separate-stderr aq-report --md --log log nowhere.json
    is "$status" 1
    is "$stderr" ""
    is "$(head -1 log)" before
    has "$(tail -1 log)" "aq-report: cannot open 'nowhere.json'"
    refused 1 "cannot write the log '/nowhere/log'" aq-report --md --log /nowhere/log nowhere.json
    mkfifo pipe
    refused 1 "cannot write the log 'pipe'" timeout 5 aq-report --md --log pipe nowhere.json
}

@test "--progress=json: whole objects, the first and the last state" {
    cd "$BATS_TEST_TMPDIR"
    aq 0 aq-extract-lm --digest full --progress=json -o lm.json "$REPO/models/qwen3_vl_demo/checkpoint"
    jq -es 'length >= 2 and (.[0] | .progress == "digest" and .done == 0 and .eta_s == null)
        and (.[-1] | .done == .total and .eta_s == 0) and all(.[]; keys == ["done", "elapsed_s", "eta_s", "progress", "total"])' <<<"$stderr" || { echo "$stderr"; return 1; }
    aq 0 aq-extract-lm --digest full --progress=json -q -o lm.json "$REPO/models/qwen3_vl_demo/checkpoint"
    is "$stderr" ""
}

full_disk() {
    run --separate-stderr bash -c "$1 --help >/dev/full"
    [ "$status" -eq 1 ] && has "$stderr" "$1: cannot write standard output"
}

@test "a full disk behind stdout is exit 1 with a message" {
    [ -e /dev/full ] || skip "no /dev/full"
    each_tool full_disk
}

@test "make help lists the targets" {
    aq 0 make -s -C "$REPO" help
    has "$output" "test" && has "$output" "install"
}

closed_streams() {
    run bash -c "$1 --help >&- 2>/dev/null"
    is "$status" 1 || return 1
    run bash -c "$1 --hepl 2>&-"
    is "$status" 2 || return 1
    is "$output" ""
}

@test "closed standard streams are no files" {
    each_tool closed_streams
}
