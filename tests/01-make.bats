#!/usr/bin/env bats
# The Makefile as a house: what is rebuilt when, quiet and loud, settings kept in a file, lists for people and editors, and an
# installation that works from anywhere.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    built_here=$O
    unset MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF AQ_BIN SAN CFLAGS O
    export CUDA=0
}

# A copy of what the build needs. One small object is enough.
tree() {
    cp -R "$REPO/Makefile" "$REPO/lib" "$REPO/tools" .
    object=build/lib/base/suggest.o
}

# built COMMAND...: the number of files that it compiles
built() {
    aq 0 "$@"
    compiled=$(grep -c '^  CC ' <<<"$output" || true)
}

@test "an object is built once, and again when a header, a flag or a kept setting changes" {
    tree
    built make $object
    has "$output" "compiler     "
    is "$compiled" 1
    built make $object
    is "$compiled" 0
    touch -d '+1 minute' lib/base/suggest.h
    built make $object
    is "$compiled" 1
    touch -d '-1 minute' lib/base/suggest.h
    built make CFLAGS=-O1 $object
    is "$compiled" 1
    built make CFLAGS=-O1 $object
    is "$compiled" 0
    echo 'CFLAGS = -O3 -DMINE' >config.mak
    built make V=1 $object
    has "$output" "-O3 -DMINE"
    rm config.mak
    built make prefix=/elsewhere CFLAGS='-O3 -DMINE' $object
    is "$compiled" 0
}

@test "a developer's build at -O1 has no warning either: a message that is cut is meant to be" {
    tree
    aq 0 make DEVELOPER=1 CFLAGS=-O1 O=one one/lib/base/err.o
}

@test "V=1 shows commands; DEVELOPER and SAN reach the compiler; O= keeps builds apart; CUDA is 0 or 1" {
    tree
    aq 0 make V=1 DEVELOPER=1 SAN=address,undefined O=elsewhere elsewhere/lib/base/suggest.o
    has "$output" "-Werror" && has "$output" "-fsanitize=address,undefined"
    [[ $output != *"  CC "* ]]
    [ -e elsewhere/lib/base/suggest.o ] && [ ! -e build ]
    aq 2 make CUDA=2 all
    has "$stderr" "CUDA must be 0 or 1, not '2'"
}

@test "a missing library is named, with what to do" {
    tree
    aq 2 make PKG_CONFIG=false all
    has "$stderr" "missing libraries: yaml-0.1 libcjson libpcre2-8 (run ./setup)"
    [ ! -e build/probe.mk ]
}

@test "make help lists every public target with its line" {
    aq 0 make -s -C "$REPO" help
    local t
    for t in all test test-san test-gpu bench fuzz-smoke demo lint format compdb install uninstall clean help; do
        grep -qE "^  $t +[a-zA-Z]" <<<"$output" || { echo "no $t"; return 1; }
    done
}

@test "names of tests, benchmarks and mutants are arguments, never shell text" {
    local v
    for v in test:TESTS bench:BENCH mutants:MUTANTS fuzz-smoke:FUZZ_SECONDS test-san:LEAKS; do
        aq 0 make -n -C "$REPO" "${v%:*}" "${v#*:}=x;touch canary"
        is "$(grep -F canary <<<"$output" | grep -vF "'x;touch' 'canary'" || true)" ""
    done
}

@test "make demo from a directory whose name is shell text, or has blanks" {
    house() { # house NAME: a directory that has everything
        mkdir "$1"
        cp "$REPO/Makefile" "$1"
        ln -s "$REPO"/{pipelines,conf,models,datasets,lib,tools,tests,docs,packaging} "$1"
        ln -s "${BIN%/bin}" "$1/build"
    }
    local d
    for d in "a';>canary;'b" 'a;>canary' "x;>canary;\$x'y"; do
        house "$d"
        aq 0 make -s -C "$d" -o all demo TMP_ROOT="$PWD/one"
        has "$output" "tools:    export PATH=$(printf %q "$(realpath "$BIN")"):\$PATH"
        is "$(find "$PWD" -name canary)" ""
    done
    house 'a b;>canary'
    run make -C "$PWD/a b;>canary" -o all demo
    [ "$status" -eq 2 ]
    has "$output" "the path '$PWD/a b;>canary' contains blanks, which make cannot handle"
    is "$(find "$PWD" -name canary)" ""
}

@test "compdb: every C file once, with a command that compiles it" {
    tree
    mkdir -p tests/unit && cp "$REPO"/tests/unit/tap.h "$REPO"/tests/unit/test_base.c tests/unit/
    aq 0 make -s compdb
    is "$(jq -r '.[].file' compile_commands.json | sort | md5sum)" "$(find lib tools tests -name '*.c' | sort | md5sum)"
    is "$(jq -r 'map(.directory) | unique[]' compile_commands.json)" "$PWD"
    bash -c "$(jq -r '.[] | select(.file == "lib/conf/search.c").command' compile_commands.json) -o search.o"
}

@test "format: a file comes back in the style of the tree" {
    need_command clang-format
    tree
    cp "$REPO/.clang-format" .
    sed 's/^    /  /; s/{$/{ /' "$REPO/lib/base/suggest.c" >lib/base/suggest.c
    run ! cmp -s lib/base/suggest.c "$REPO/lib/base/suggest.c"
    aq 0 make -s format
    cmp lib/base/suggest.c "$REPO/lib/base/suggest.c"
}

@test "install and uninstall: the tools find their own conf, pipelines run from it, nothing is left behind" {
    ! sanitized || skip "would mix objects with and without sanitizers"
    local o=$BATS_TEST_TMPDIR/o root=$BATS_TEST_TMPDIR/root t
    mkdir "$o"
    cp -a "$built_here"/{bin,lib,tools,flags,dirs,probe.mk,libaq.a} "$o/"
    # -o: whatever flags it was built with; so only what knows the directories is compiled again
    built make -C "$REPO" O="$o" -o "$o/flags" prefix="$root/usr" install
    is "$compiled" 2
    aq 0 make -C "$REPO" O="$o" -o "$o/flags" prefix="$root/usr" DESTDIR="$root/stage" install
    diff <(cd "$root/usr" && find . | sort) <(cd "$root/stage$root/usr" && find . | sort)
    rm -rf conf
    for t in "$BIN"/aq-*; do [ -x "$root/usr/bin/$(basename "$t")" ] || { echo "no $t"; return 1; }; done
    aq 0 env -i PATH="$root/usr/bin:$PATH" aq-resolve -q --config-name preset/demo --explain dataset.size
    has "$output" "$root/usr/share/aq/conf/preset/demo.yaml:"
    ln -s "$REPO/models" "$REPO/datasets" .
    aq 0 env PATH="$root/usr/bin:$PATH" make -s -f "$root/usr/share/aq/pipelines/qwen3.mk" PAIRS=wfp8_afp8 GRANS=default
    has "$output" "1 cells, 0 unsupported"
    aq 0 env PATH="$root/usr/bin:$PATH" make -q -f "$root/usr/share/aq/pipelines/qwen3.mk" PAIRS=wfp8_afp8 GRANS=default
    [ -e "$root/usr/share/man/man7/aq.7" ]
    aq 0 make -C "$REPO" O="$o" prefix="$root/usr" uninstall
    is "$(find "$root/usr" -type f)" ""
}
