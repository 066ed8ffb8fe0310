#!/usr/bin/env bats
# ./setup with stand-ins for apt: it installs what is missing, says why, asks for root only then, and changes nothing twice.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    mkdir bin
    : >log
    stub apt-get 'echo "apt-get $*" >>log; [ "$1" != update ] || touch lists'
    stub sudo 'echo "sudo" >>log; exec "$@"'
    stub id 'echo "${FAKE_UID:-0}"'
    # as on Debian 12; without lists apt knows nothing
    stub apt-cache '[ -e lists ] && printf "clang\n  Depends: clang-%s\n  Breaks: clang (<< 3)\n" "${FAKE_CLANG:-14}"'
    stub dpkg-query 'for p; do :; done; grep -qx "$p" missing 2>/dev/null || printf installed'
    touch lists
}

# stub NAME BODY
stub() {
    printf '#!/bin/bash\n%s\n' "$2" >"bin/$1"
    chmod +x "bin/$1"
}

set_up() {
    aq "$1" env PATH="$PWD/bin:/usr/bin:/bin" "$REPO/setup" "${@:2}"
}

@test "nothing is missing: nothing is done, and nobody has to be root" {
    FAKE_UID=1000 set_up 0
    has "$output" "packages are installed; nothing to do"
    is "$(cat log)" ""
}

@test "what is missing is installed, with the reason, and nothing else" {
    printf 'jq\nlibyaml-dev\n' >missing
    set_up 0
    has "$output" "jq                       pipelines, tests"
    has "$output" "libyaml-dev              reads configuration files"
    [[ $output != *libcjson-dev* ]]
    is "$(cat log)" "apt-get update -q
apt-get install -q -y --no-install-recommends libyaml-dev jq"
}

@test "an ordinary user goes through sudo, or is told" {
    echo jq >missing
    FAKE_UID=1000 set_up 0
    has "$output" "setup: with sudo: apt-get update"
    is "$(grep -c sudo log)" 2
    rm bin/sudo
    command -v sudo >/dev/null && skip "sudo is installed: the other half cannot be tried"
    FAKE_UID=1000 set_up 1
    has "$stderr" "not root and no sudo: ask an administrator to run
  apt-get update && apt-get install --no-install-recommends jq"
}

@test "a new system gets its lists first, and the run-time library of its own clang" {
    rm lists
    echo libclang-rt-18-dev >missing
    FAKE_CLANG=18 set_up 0 --dev
    has "$output" "libclang-rt-18-dev       run-time library"
    is "$(sed -n 1p log)" "apt-get update -q"
    has "$(tail -1 log)" "install -q -y --no-install-recommends libclang-rt-18-dev"
}

@test "what a user needs is short; --dev adds the tools of the checks; another word is refused" {
    printf 'jq\nclang\ncppcheck\nchromium\n' >missing
    set_up 0
    is "$(tail -1 log)" "apt-get install -q -y --no-install-recommends jq"
    set_up 0 --dev
    is "$(tail -1 log)" "apt-get install -q -y --no-install-recommends jq chromium clang cppcheck"
    set_up 2 --all
    has "$stderr$output" "'--all' is not an option"
    rm missing
    set_up 0
    has "$output" " packages are installed"
    set_up 0 --help
    has "$output" "./setup --dev"
}

@test "apt that fails is a failure" {
    echo jq >missing
    stub apt-get 'exit 100'
    set_up 100
}

@test "without apt the packages are listed" {
    mkdir none
    for c in bash sed cat id env dpkg-query apt-cache; do ln -s "$(PATH="$PWD/bin:$PATH" command -v $c)" none/$c; done
    aq 1 env PATH="$PWD/none" "$REPO/setup"
    has "$stderr" "install these by your own means" && has "$stderr" "libopenblas-pthread-dev  matrix products"
}
