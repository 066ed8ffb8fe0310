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
    aq 0 "$1" --result-version && [[ $output =~ ^[0-9]+$ ]] || return 1
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
