# Loaded by every bats file: `load helpers`.
# shellcheck shell=bash
# tags of tests
bats_require_minimum_version 1.8.0

REPO=$(cd "${BATS_TEST_DIRNAME:-tests}/.." && pwd)
O=${O:-build}
case $O in /*) ;; *) O=$REPO/$O ;; esac
BIN=$O/bin
SHARED=$REPO/../shared
export PATH="$BIN:$PATH"
# UTF-8 for bash's own $'\u202e'. AQ_TEST_LOCALE: all of them in another language, but with messages that tests can match.
export LC_ALL=${AQ_TEST_LOCALE:-C.UTF-8} LANGUAGE=en
export REPO O BIN SHARED
# what the tests themselves calculate, sort and match is one language's: in Turkish [a-z] lacks the i
grep() { LC_ALL=C.UTF-8 command grep "$@"; }
sed() { LC_ALL=C.UTF-8 command sed "$@"; }
awk() { LC_ALL=C command awk "$@"; }
sort() { LC_ALL=C command sort "$@"; }
od() { LC_ALL=C command od "$@"; }
export -f awk grep od sed sort
# settings of a thread library would be those of whoever starts the tests
for v in $(compgen -e OPENBLAS_) OMP_NUM_THREADS GOTO_NUM_THREADS; do unset "$v"; done

# aq STATUS COMMAND...: runs it with stdout and stderr apart ($output, $stderr, $lines), and fails with
# everything shown if the exit status is another one.
aq() {
    local want=$1
    shift
    run --separate-stderr "$@"
    # shellcheck disable=SC2154
    if [ "$status" -ne "$want" ]; then
        printf 'command: %s\nexit status: %s, expected %s\nstdout:\n%s\nstderr:\n%s\n' "$*" "$status" "$want" "$output" "$stderr"
        return 1
    fi
}

# refused STATUS TEXT COMMAND...: exits with STATUS, prints nothing on stdout, and says TEXT in its first line.
refused() {
    local want=$1 text=$2
    shift 2
    aq "$want" "$@" || return 1
    local first=${stderr%%$'\n'*}
    if [ -n "$output" ] || [[ $first != *"$text"* ]] || [ "$(wc -l <<<"$stderr")" -gt 2 ]; then
        printf 'command: %s\nexpected on stderr: %s\nstdout:\n%s\nstderr:\n%s\n' "$*" "$text" "$output" "$stderr"
        return 1
    fi
}

# within SECONDS COMMAND...: as `aq 0`, in so much processor time (ten times in a sanitizer build), whatever else the machine does
within() {
    local seconds=$1
    shift
    if sanitized; then seconds=$((seconds * 10)); fi
    # shellcheck disable=SC2016
    aq 0 bash -c 'ulimit -t "$1"; shift; exec "$@"' - "$seconds" "$@"
}

# is WHAT EXPECTED: like test =, but shows both.
is() {
    if [ "$1" != "$2" ]; then
        printf 'found:    %s\nexpected: %s\n' "$1" "$2"
        return 1
    fi
}

# has TEXT PART
has() {
    if [[ $1 != *"$2"* ]]; then
        printf 'text:    %s\nlacks:   %s\n' "$1" "$2"
        return 1
    fi
}

# scores FILE NAME BITS SEED [LAYERS]: a scores.json without a model
scores() {
    sealed_jq -n -f "$REPO/tests/scores.jq" --arg name "$2" --argjson bits "$3" --argjson seed "$4" --argjson layers "${5:-4}" >"$1"
}

# sealed_jq ARG...: jq's document with the digest of its new content, as a scores.json needs it
sealed_jq() {
    jq "$@" | "$O"/tests/json_seal
}

# header FILE: of a safetensors file
header() { tail -c +9 "$1" | head -c "$(od -An -tu8 -N8 "$1")"; }

# numbers FILE TENSOR: its float64, one a line
numbers() {
    local begin size
    begin=$(($(od -An -tu8 -N8 "$1") + 8 + $(header "$1" | jq --arg t "$2" '.[$t].data_offsets[0]')))
    size=$(header "$1" | jq --arg t "$2" '.[$t].data_offsets | .[1] - .[0]')
    od -An -tf8 -w8 -v -j "$begin" -N "$size" "$1"
}

need_shared() {
    [ -d "$SHARED/data" ] || skip "test data in ../shared is not here"
}

need_command() {
    command -v "$1" >/dev/null || skip "$1 is not installed"
}

need_root() {
    [ "$(id -u)" -eq 0 ] || skip "needs root"
}

# Can another user run what was built? Not where root cloned into a home of mode 0700.
need_other_user() {
    need_command setpriv
    need_root
    # (a program that setpriv starts itself is found with root's rights)
    setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$BIN/aq-overlay" || skip "another user cannot reach $BIN"
}

# True in a sanitizer build, where limits on address space make no sense.
sanitized() {
    nm "$BIN"/aq-overlay 2>/dev/null | grep -q __asan_init
}

# A library for LD_PRELOAD out of tests/preload
need_preload() {
    [ -e "$O/tests/${1:-fault}.so" ] || skip "tests/${1:-fault}.so is not built"
    ! sanitized || skip "no preload below a sanitizer"
}

# One command and what it should print (nothing said: anything). Tools that are not built are passed over.
run_example() {
    local command=$1 expected=$2 tool
    while read -r tool; do
        [ -x "$BIN/$tool" ] || return 0
    done < <(grep -oE 'aq-[a-z]+(-lm)?' <<<"$command" | sort -u)
    run --separate-stderr timeout 120 bash -eu -o pipefail -c "$command"
    if [ "$status" -ne 0 ] || { [ -n "$expected" ] && [ "$output" != "$expected" ]; }; then
        printf 'example: %s\nexit status: %s\nstdout:\n%s\nexpected:\n%s\nstderr:\n%s\n' "$command" "$status" "$output" "$expected" "$stderr"
        return 1
    fi
}

# Examples of a document, one thing a line of stdin: "C command", "+ line" that continues it, "O line" that it prints, "E" at
# its end; "F file" and "L line": a file of these lines.
run_examples() {
    local line text command='' expected='' file=''
    while IFS= read -r line; do
        text=${line:2}
        case ${line:0:1} in
        C) command=$text expected='' ;;
        +) command+=$'\n'$text ;;
        O) expected+=${expected:+$'\n'}$text ;;
        E) run_example "$command" "$expected" || return 1 ;;
        F) file=$text && mkdir -p "$(dirname "$file")" && : >"$file" ;;
        L) printf '%s\n' "$text" >>"$file" ;;
        esac
    done
}

# same_scores EXPECTED FOUND SAMPLES: no group differs by a bit
same_scores() {
    aq 0 "$O"/tests/store_diff "$@"
    is "$(awk '{ if ($(NF - 2) + 0 != 0 || $(NF - 1) + 0 != 0) print }' <<<"$output")" ''
    [ -n "$output" ]
}
