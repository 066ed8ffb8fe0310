#!/usr/bin/env bats
# aq-score where the machine gives it less than it wants, or where others have set things before it: the bytes of an
# undisturbed run, or exit 1 with one line before the work starts; never a wait for ever.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 128 --intermediate 192 --scale 0.08 "$T/model"
    # weights so small that they are denormal, and so are their products with the gradient
    local at
    at=$(aq-extract-lm "$T/model" | jq '.tensors[] | select(.name == "layers.1.mlp.up_proj.weight") | .begin')
    # (a shell of its own: bats looks at every turn of a loop in this one)
    bash -c 'for ((i = 0; i < 128 * 192; i++)); do printf "\\$((i % 7 + 1))\\$((i % 2 * 200))"; done' |
        dd of="$T/model/model.safetensors" bs=4096 seek="$at" oflag=seek_bytes conv=notrunc status=none
    aq-extract-lm -o "$T/lm.json" "$T/model"
    for i in $(seq 12); do seq -s' ' $((i * 7)) $((i * 7 + 29 + i * 11 % 31)); done >"$T/ids"
    "$O"/tests/make_tokens --sizes 4,12 -o "$T/tokens" <"$T/ids"
    for f in FP8_DEFAULT_CFG INT8_WEIGHT_ONLY_CFG NVFP4_WEIGHT_ONLY_CFG; do aq-overlay --format $f -o "$T/$f.json"; done
    # programs, so that limits and signals are theirs
    printf '#!/bin/sh\nexec timeout 20 aq-calib ranges --lm "%s/lm.json" --prefix 4,12 --device cpu --threads 2 "$@" "%s/tokens"\n' \
        "$T" "$T" >"$T/ranged"
    printf '#!/bin/sh\nexec timeout 20 aq-score --lm "%s/lm.json" --tokens "%s/tokens" --ranges "%s/ranges" --prefix 4,12 %s "$@" %s\n' \
        "$T" "$T" "$T" "--device cpu --threads 2" "\"$T\"/*_CFG.json" >"$T/score"
    chmod +x "$T/ranged" "$T/score"
    "$T/ranged" -o "$T/ranges"
    "$T/score" -q -o "$T/gradient"
    "$T/score" -q --method kl_div -o "$T/kl_div"
}

setup() { cd "$BATS_TEST_TMPDIR" || return; }

# within LIMIT COMMAND...: sets $code and $stderr
within() {
    local limit=$1
    shift
    # shellcheck disable=SC2086
    run --separate-stderr bash -c "ulimit $limit; exec \"\$@\"" - "$@"
}

# No product, and one line with at most one hint.
# shellcheck disable=SC2154
refused_here() {
    [ "$status" -eq 1 ] && [ ! -e out ] && [[ $stderr == aq-*": cannot "* ]] && [ "$(wc -l <<<"$stderr")" -le 2 ] &&
        [[ $stderr == *"ulimit -"*" allows "* ]]
}

# limited OPTION KB EXPECTED COMMAND...: refused, or the expected bytes. Counts in $refusals and $runs.
limited() {
    local option=$1 kb=$2 expected=$3
    shift 3
    rm -rf out out.*
    within "$option $kb" "$@" -o out
    if refused_here; then
        refusals=$((refusals + 1))
    elif [ "$status" -eq 0 ] && cmp out "$expected"; then
        runs=$((runs + 1))
    else
        printf 'ulimit %s %s: exit %s\n%s\n' "$option" "$kb" "$status" "$stderr"
        return 1
    fi
}

# Address space that the program has at its start, and what the plan asks for, in KB: of OpenBLAS, of ours.
planned_peak() {
    local ours
    ours=$("$T/score" --dry-run | awk '/^memory/ {on = 1} on && $NF == "MB" {sum += $(NF - 1)} END {printf "%d", sum * 1000}')
    echo $((110000 + 2 * 131072 + ours))
}

@test "a limit on address space or data: refused before the work starts, or the same bytes, never a wait for ever" {
    ! sanitized || skip "no limits on address space below a sanitizer"
    # what a machine of several processors does: OpenBLAS starts a thread that takes memory of its own
    export OPENBLAS_NUM_THREADS=2
    local peak percent
    peak=$(planned_peak)
    refusals=0 runs=0
    for percent in 25 50 75 90 130; do
        limited -v $((peak * percent / 100)) "$T/gradient" "$T/score"
        limited -d $((peak * percent / 100)) "$T/gradient" "$T/score"
    done
    limited -v $((peak * 9 / 10)) "$T/kl_div" "$T/score" --method kl_div
    for percent in 50 130; do limited -v $((peak * percent / 100)) "$T/ranges" "$T/ranged"; done
    echo "refused: $refusals, done: $runs, planned peak: $peak KB"
    [ "$refusals" -ge 6 ] && [ "$runs" -ge 3 ]
    # what needs no memory to speak of works under any limit that lets it start
    within "-v 80000" timeout 20 aq-score --version
    is "$status" 0
    within "-v 80000" timeout 20 aq-score ls "$T/gradient"
    is "$status" 0
}

@test "fewer threads need less memory, as the message says" {
    ! sanitized || skip "no limits on address space below a sanitizer"
    export OPENBLAS_NUM_THREADS=2 # as above
    local kb=$(($(planned_peak) - 131072))
    refusals=0 runs=0
    limited -v $kb "$T/gradient" "$T/score"
    has "$stderr" "--threads"
    is $refusals 1
    limited -v $kb "$T/gradient" "$T/score" --threads 1
    is $runs 1
}

@test "--memory smaller than the plan is refused, with what is needed; that much is enough" {
    refused 1 "--memory 1 MB is too little" "$T/score" --memory 1M -o out
    [ ! -e out ]
    local need
    need=$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' <<<"$stderr")
    refused 1 "is too little" "$T/score" --memory $((need * 9 / 10))M -o out
    aq 0 "$T/score" --memory "${need}M" -o out
    cmp out "$T/gradient"
}

@test "settings of thread libraries in the environment change no byte" {
    local set
    for set in 'OMP_NUM_THREADS=5 OPENBLAS_NUM_THREADS=3 GOTO_NUM_THREADS=7' 'OPENBLAS_NUM_THREADS=0 OMP_NUM_THREADS=-1' \
        'OPENBLAS_NUM_THREADS=1000 OPENBLAS_MAIN_FREE=1' 'OPENBLAS_NUM_THREADS=x OMP_DYNAMIC=TRUE OMP_NESTED=TRUE OMP_PROC_BIND=close' \
        'MKL_NUM_THREADS=0 MKL_DYNAMIC=x MKL_CBWR=COMPATIBLE BLIS_ARCH_TYPE=x BLIS_NUM_THREADS=9' \
        'OPENBLAS_THREAD_TIMEOUT=1 OPENBLAS_BLOCK_FACTOR=0 OMP_WAIT_POLICY=active OMP_STACKSIZE=1'; do
        rm -f s
        # shellcheck disable=SC2086
        aq 0 env $set "$T/score" -o s
        cmp s "$T/gradient"
    done
    # shellcheck disable=SC2086
    aq 0 env $set "$T/ranged" -o r
    cmp r "$T/ranges"
}

@test "denormal numbers switched off by a preloaded library change no byte" {
    need_preload flush
    # the library does what it says
    is "$(jq -n '1e-300 * 1e-10 > 0')" true
    is "$(LD_PRELOAD=$O/tests/flush.so jq -n '1e-300 * 1e-10 > 0')" false
    aq 0 env LD_PRELOAD="$O/tests/flush.so" "$T/ranged" -o r
    cmp r "$T/ranges"
    local threads
    for threads in 1 2; do
        aq 0 env LD_PRELOAD="$O/tests/flush.so" "$T/score" --threads $threads -o s$threads
        cmp s$threads "$T/gradient"
    done
    aq 0 env LD_PRELOAD="$O/tests/flush.so" "$T/score" --method kl_div -o k
    cmp k "$T/kl_div"
    # the tools that only count, too: here with scores that are denormal
    jq -n -f "$REPO/tests/scores.jq" --arg name wint8_aint8/default --argjson bits 8 --argjson seed 1 --argjson layers 4 |
        sealed_jq '.groups[] |= with_entries(if .key | test("^(sum|per_)") then .value *= 1e-309 else . end)' >scores.json
    aq-select --effective-bits 12 scores.json >expected.json
    LD_PRELOAD=$O/tests/flush.so aq-select --effective-bits 12 scores.json | cmp - expected.json
}

@test "a processor that OpenBLAS takes for an older one: said once per process" {
    grep -q '^flags.* avx2' /proc/cpuinfo || skip "no processor that it could underrate"
    # many backends are opened here
    run --separate-stderr env OPENBLAS_CORETYPE=Prescott "$O/tests/test_score"
    is "$status" 0
    is "$(grep -c "OpenBLAS takes this processor for a 'Prescott'" <<<"$stderr")" 1
}

# One run with a fault in a directory of its own; sets $code, $message and $fired.
with_fault() {
    rm -rf d report
    mkdir d
    code=0
    timeout 20 env FAULT="$1" FAULT_DIR="$PWD/d" FAULT_REPORT="$PWD/report" LD_PRELOAD="$O/tests/fault.so" \
        aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 4,12 --device cpu --threads 2 -q \
        -o d/out "$T"/*_CFG.json 2>message || code=$?
    message=$(<message)
    fired=$(awk '$1 == "fired" {print $2}' report)
}

# faults CALL ERROR FIRST STEP [:forever]: each is survived, or exit 1 with one line and no store.
faults() {
    local n
    for ((n = $3; ; n += $4)); do
        with_fault "$1:$2:$n$5"
        [ "$fired" -gt 0 ] || break
        if [ "$code" -eq 0 ]; then
            cmp d/out "$T/gradient" || return 1
        elif [ "$code" -ne 1 ] || [ -e d/out ] || [[ $message != aq-score:* ]] || [ "$(wc -l <<<"$message")" -gt 2 ]; then
            printf '%s:%s:%s%s: exit %s, in d: %s\n%s\n' "$1" "$2" "$n" "$5" "$code" "$(ls -A d)" "$message"
            return 1
        else
            failures=$((failures + 1))
        fi
    done
    is "$code" 0
    cmp d/out "$T/gradient"
}

@test "memory runs out at some allocation: exit 1, no crash, no store" {
    need_preload fault
    failures=0
    faults malloc 0 1 293
    faults calloc 0 3 71
    faults realloc 0 1 29
    faults mmap ENOMEM 1 4
    faults mmap ENOMEM 2 6 :forever
    faults thread EAGAIN 1 1
    echo "failures: $failures"
    [ "$failures" -ge 15 ]
}

@test "a write, sync, rename or close of the store fails: exit 1, no store, and the next run converges" {
    need_preload fault
    failures=0
    faults pwrite ENOSPC 1 61
    faults pwrite EIO 30 90 :forever
    faults fsync EIO 1 1
    faults ftruncate ENOSPC 1 1
    faults rename EXDEV 1 1
    faults open EMFILE 1 1
    [ "$failures" -ge 10 ]
    with_fault pwrite:ENOSPC:60
    is "$code" 1
    has "$message" "cannot write 'd/out.part': No space left on device"
    aq 0 "$T/score" -o d/out
    cmp d/out "$T/gradient"
}
