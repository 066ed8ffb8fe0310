#!/usr/bin/env bats
# What the tools do when the machine fails them: writes, closes, renames, memory, disks, permissions, names. Faults come from
# tests/preload/fault.c. The rule: exit 1 with one line, the product is the old one or a whole new one, nothing is left behind.
load helpers

FAULT_SO=$O/tests/fault.so

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    # A product of some 40 KB: the contents of `bias` are carried along whatever they are.
    jq -n '{quant_pair: {format_name: "FP8_DEFAULT_CFG"}, quant_granularity: {name: "g", quant_cfg_overrides:
        {"*input_quantizer": {bias: ([range(400) | {key: "filler number \(.)", value: .}] | from_entries)}}}}' >run.json
}

# each_product FUNCTION: calls it with the command of every cheap tool that is built; "-o FILE" comes after it.
each_product() {
    local demo=$REPO/models/qwen3_vl_demo/checkpoint
    one_product "$1" aq-overlay "$BATS_TEST_TMPDIR/run.json" &&
        one_product "$1" aq-resolve --config-name preset/qwen3_lm_sensitivity quant_pair=wint8_aint8 &&
        one_product "$1" aq-extract-lm "$demo" &&
        one_product "$1" aq-calib tokens --tokenizer "$REPO/tests/data/tiny-tokenizer" "$REPO/datasets/demo/captions_small.txt"
}

one_product() {
    [ -x "$BIN/$2" ] || return 0
    "$@" || { echo "tool: $2"; return 1; }
}

# One run with a fault. Sets $code, $message and $fired; the product is d/out.
with_fault() {
    local fault=$1
    shift
    rm -rf d report
    mkdir d
    echo old >d/out
    code=0
    FAULT=$fault FAULT_DIR=$PWD/d FAULT_REPORT=$PWD/report LD_PRELOAD=$FAULT_SO "$@" -o d/out >stdout 2>message </dev/null || code=$?
    message=$(<message)
    fired=$(awk '$1 == "fired" {print $2}' report 2>/dev/null)
}

# The product is whole: the old one after a failure, else the new one.
product_is() {
    if [ "$1" = old ]; then [ "$(<d/out)" = old ]; else cmp -s d/out expected; fi
}

failed_cleanly() {
    [ "$code" -eq 1 ] && product_is old && [ "$(ls -A d)" = out ] && [ "$(wc -l <<<"$message")" -eq 1 ] && [[ $message == aq-*": cannot "* ]]
}

# fault_loop CALL ERROR COMMAND...: the first call fails, then the second, ..., until all went well; once, and for ever.
fault_loop() {
    local call=$1 error=$2 n forever failures=0
    shift 2
    "$@" -o expected
    for forever in '' :forever; do
        for n in {1..30}; do
            with_fault "$call:$error:$n$forever" "$@"
            [ "$fired" -gt 0 ] || break
            # what only tidies up after the rename may fail: the product is there
            if failed_cleanly; then
                failures=$((failures + 1))
            elif [ "$code" -ne 0 ] || ! product_is new || [ "$(ls -A d)" != out ]; then
                echo "$call:$error:$n$forever: exit $code, in d: $(ls -A d), message: $message"
                return 1
            fi
        done
        [ "$fired" -eq 0 ] && [ "$code" -eq 0 ] && product_is new || { echo "$call:$error does not come to an end"; return 1; }
    done
    [ "$failures" -ge 2 ] || { echo "$call:$error goes unnoticed"; return 1; }
}

# The calls that this command makes on its product.
files() {
    local call error
    with_fault read:EIO:1000000 "$@"
    cp report calls
    for error in write:ENOSPC write:EIO pwrite:ENOSPC ftruncate:ENOSPC fsync:EIO close:EDQUOT rename:EXDEV open:EMFILE; do
        call=${error%:*}
        [ "$(awk -v c="$call" '$1 == c {print $2}' calls)" -eq 0 ] || fault_loop "$call" "${error#*:}" "$@" || return 1
    done
}

@test "write, pwrite, ftruncate, fsync, close, rename, open fail at the n-th call: old product or new one, no leftovers" {
    need_preload
    each_product files
}

slow_files() {
    "$@" -o expected
    local fault
    for fault in write:short:1:forever read:short:1:forever write:EINTR:1 write:EINTR:1,write:short:2:forever pwrite:EINTR:1,pwrite:short:2:forever; do
        with_fault "$fault" "$@"
        [ "$code" -eq 0 ] && product_is new || { echo "$fault: exit $code, $message"; return 1; }
    done
}

@test "a power cut: the data are synced before they have the name, and then the directory" {
    need_preload
    FAULT_LOG=$PWD/log FAULT_DIR=$PWD LD_PRELOAD=$FAULT_SO aq-overlay --format FP8_DEFAULT_CFG -o out.json
    is "$(grep -vE '^pwrite' log | sed "s|$PWD|.|; s|/\.aq-[^ ]*|/temporary|")" $'fsync ./temporary\nrename out.json\nfsync .'
}

@test "short transfers and interruptions change nothing" {
    need_preload
    each_product slow_files
}

killed() {
    local n
    "$@" -o expected
    for n in {1..40}; do
        with_fault "kill:9:$n" "$@" 2>/dev/null
        if [ "$code" -eq 0 ]; then
            product_is new && [ "$n" -gt 3 ]
            return
        fi
        [ "$code" -eq 137 ] || { echo "kill:9:$n: exit $code"; return 1; }
        product_is old || product_is new || { echo "kill:9:$n: a product in pieces"; return 1; }
        "$@" -o d/out && product_is new || { echo "kill:9:$n: the next run fails"; return 1; }
        [ "$(ls -A d)" = out ] || { echo "kill:9:$n: the next run leaves $(ls -A d)"; return 1; }
    done
    echo "still killed at the 40th call"
    return 1
}

@test "killed before the n-th change to a file: the product is whole, the next run converges" {
    need_preload
    each_product killed
}

memory() {
    local call n forever
    [ "$1" != aq-calib ] || return 0 # a hundred thousand allocations: aq-extract-lm is enough
    "$@" -o expected
    for call in malloc calloc realloc; do
        for forever in '' :forever; do
            for ((n = 1; n < 2000; n += n < 8 ? 1 : 113)); do
                with_fault "$call:0:$n$forever" "$@"
                [ "${fired:-1}" -gt 0 ] || break
                if [ "$code" -eq 0 ]; then
                    product_is new || { echo "$call:0:$n$forever: another product"; return 1; }
                elif [ "$code" -ne 1 ] || ! product_is old || [ "$(ls -A d)" != out ]; then
                    echo "$call:0:$n$forever: exit $code, in d: $(ls -A d), message: $message"
                    return 1
                fi
            done
        done
    done
}

@test "memory runs out at the n-th allocation: exit 1, no crash, no product in pieces" {
    need_preload
    each_product memory
}

full_stdout() {
    run --separate-stderr bash -c '"$@" >/dev/full' - "$@"
    [ "$status" -eq 1 ] && has "$stderr" "cannot write 'standard output': No space left on device" || return 1
    run --separate-stderr bash -c '"$@" >&-' - "$@"
    [ "$status" -eq 1 ] && has "$stderr" "cannot write 'standard output': Bad file descriptor" || return 1
    # the reader is gone before the first byte
    run --separate-stderr bash -c 'mkfifo p; true <p & exec 3>p; wait; rm p; "$@" >&3' - "$@"
    [ "$status" -eq 1 ] && has "$stderr" "cannot write 'standard output': Broken pipe"
}

@test "standard output full, closed, or without a reader" {
    [ -e /dev/full ] || skip "no /dev/full"
    each_product full_stdout
}

closed_streams() {
    "$@" -o expected
    "$@" -o out <&- >&- 2>&- && cmp out expected
}

@test "with all standard streams closed a product has its own bytes only" {
    each_product closed_streams
}

limited() {
    rm -f out
    run --separate-stderr bash -c 'ulimit -f 1; "$@" -o out' - "$@"
    [ "$status" -eq 1 ] && has "$stderr" "cannot write 'out': File too large" && [ ! -e out ] || return 1
    run --separate-stderr bash -c 'ulimit -f 1; "$@" >out' - "$@"
    [ "$status" -eq 1 ] && has "$stderr" "File too large" && rm -f out || return 1
    aq 0 bash -c 'ulimit -n 16; "$@" -o out' - "$@"
}

@test "limits on file size and on open files" {
    each_product limited
}

full_disk() {
    local k
    "$@" -o expected
    for k in {0..24..4}; do
        echo old >disk/out
        dd if=/dev/zero of=disk/filler bs=1k count=$k status=none
        code=0
        message=$("$@" -o disk/out 2>&1) || code=$?
        if [ "$code" -eq 0 ]; then
            cmp disk/out expected || return 1
        else
            is "$(<disk/out)" old && is "$(ls -A disk | sort | tr '\n' ' ')" "filler out " &&
                has "$message" "cannot write '" && has "$message" "No space left on device" || return 1
            full=1
        fi
        rm -f disk/filler disk/out
    done
}

@test "a disk that fills up at every page" {
    need_root
    mkdir disk
    mount -t tmpfs -o size=24k tmpfs disk 2>/dev/null || skip "cannot mount a tmpfs here"
    full=0
    each_product full_disk || { umount disk; return 1; }
    umount disk
    is "$full" 1
}

@test "directories that are missing, read-only, deleted, and a directory as the product" {
    local cmd="aq-overlay $PWD/run.json"
    refused 1 "cannot write 'no/out': No such file or directory" $cmd -o no/out
    refused 1 "cannot write 'run.json/out': Not a directory" $cmd -o run.json/out
    mkdir d
    refused 1 "cannot write 'd': it is a directory" $cmd -o d
    refused 1 "cannot write '': No such file or directory" $cmd -o ''
    mkdir gone
    refused 1 "cannot write 'out': No such file or directory" bash -c "cd gone && rmdir ../gone && exec $cmd -o out"
    need_root
    need_other_user
    chmod 755 "$BATS_TEST_TMPDIR"
    echo old >d/out
    chmod 555 d
    run --separate-stderr setpriv --reuid 65534 --regid 65534 --clear-groups "$BIN/aq-overlay" run.json -o d/out
    [[ $stderr != *"cannot open 'run.json'"* ]] || skip "an ordinary user cannot reach the test directory"
    is "$status" 1
    has "$stderr" "cannot write 'd/out': Permission denied"
    is "$(<d/out)" old
}

@test "an input that is not there is exit 1 for every tool; one that is, but of the wrong kind, exit 3" {
    local demo=$REPO/models/qwen3_vl_demo/checkpoint command
    aq-extract-lm -o lm.json "$demo"
    aq-overlay --format FP8_DEFAULT_CFG -o quant.json
    aq-calib tokens -t "$demo" -o tokens "$REPO/datasets/demo/captions_small.txt"
    mkdir dir
    while read -ra command; do
        refused 1 "cannot " "${command[@]//INPUT/gone}"
        has "$stderr" "gone'"
        has "$stderr" "No such file or directory"
        refused 3 "dir'" "${command[@]//INPUT/dir}"
    done <<END
aq-overlay INPUT
aq-overlay --format FP8_DEFAULT_CFG --granularity ./INPUT
aq-extract-lm INPUT
aq-calib tokens -t INPUT -o out $REPO/datasets/demo/captions_small.txt
aq-calib tokens -t $demo -o out INPUT
aq-calib ranges --lm INPUT -o out tokens
aq-calib ranges --lm lm.json -o out INPUT
aq-score --lm INPUT --tokens tokens -o out quant.json
aq-score --lm lm.json --tokens INPUT -o out quant.json
aq-score --lm lm.json --tokens tokens -o out INPUT
aq-score --lm lm.json --tokens tokens --ranges INPUT -o out quant.json
aq-score ls INPUT
aq-score merge -o out INPUT
aq-score gc --keep INPUT out
aq-score collect --run INPUT --quant quant.json -o out INPUT
aq-select INPUT
aq-report --md INPUT
aq-report summary --md INPUT
END
    [ ! -e out ]
}

@test "modes are those of an ordinary new file" {
    local cmd="aq-overlay run.json"
    (umask 077 && $cmd -o a)
    is "$(stat -c %a a)" 600
    (umask 000 && $cmd -o b)
    is "$(stat -c %a b)" 666
    (umask 022 && $cmd -o c)
    is "$(stat -c %a c)" 644
    need_root
    mkdir d
    chgrp 65534 d
    chmod 2775 d
    $cmd -o d/out
    is "$(stat -c %g d/out)" 65534
}

@test "devices, pipes, open descriptors and links are written, never replaced" {
    local cmd="aq-overlay run.json"
    $cmd -o expected
    $cmd -o /dev/null
    [ -c /dev/null ]
    mkfifo p
    cat p >got &
    $cmd -o p
    wait
    cmp got expected
    [ -p p ]
    echo head >log
    { $cmd -o /dev/stdout && $cmd -o /dev/fd/1; } >>log
    cmp log <(echo head; cat expected expected)
    $cmd -o /dev/fd/3 3>got
    cmp got expected
    refused 1 "cannot write '/dev/fd/77': Bad file descriptor" $cmd -o /dev/fd/77
    echo old >real
    ln -s real link
    $cmd -o link
    [ -L link ] && cmp real expected
    ln -s nowhere dangling
    refused 1 "cannot write 'dangling': a symbolic link to nowhere" $cmd -o dangling
}

@test "names with blanks, quotes, line breaks, bytes that are no text, of 255 bytes" {
    local name long
    long=$(printf 'n%.0s' {1..255})
    aq-overlay run.json -o expected
    for name in 'a b' "it's" '"q"' '$HOME' $'line\nbreak' '-dash' ' ' 'trailing ' $'\xff\xfe' '*' "$long"; do
        cp run.json "./$name.in" 2>/dev/null || cp run.json ./in
        aq 0 aq-overlay -o "./$name" -- run.json
        cmp -- "./$name" expected
        rm -- "./$name"
        # and as an input
        cp run.json "./$name"
        aq 0 aq-overlay -- "$name"
        rm -- "./$name"
    done
    aq 0 aq-overlay -o -dash run.json
    cmp ./-dash expected
    refused 1 "cannot write '" aq-overlay run.json -o "${long}x"
    has "$stderr" "File name too long"
    refused 1 "cannot write '" aq-overlay run.json -o "$(printf './%.0s' {1..3000})out"
    refused 1 "cannot open 'line\\nbreak': No such file or directory" aq-overlay $'line\nbreak'
}

@test "leftovers of killed runs are removed by the next run with that product; files of the living and of others are not" {
    mkdir d
    local i
    for i in 0 1 3 5; do echo left >"d/.aq-$i-out.tmp"; done
    for i in 7 8 9 12; do : >"d/.aq-$i-other.tmp"; done
    echo victim >victim
    ln -s ../victim d/.aq-2-out.tmp
    ln victim d/.aq-4-out.tmp
    mkfifo d/.aq-6-out.tmp
    flock d/.aq-3-out.tmp sleep 60 &
    local holder=$!
    until ! flock -n d/.aq-3-out.tmp true; do sleep 0.01; done
    aq-overlay run.json -o d/out
    pkill -P "$holder" sleep || true
    wait "$holder" || true
    jq -e 'has("supported")' d/out >/dev/null
    is "$(find d -name '.aq-*-out.tmp' -printf '%f\n' | sort | tr '\n' ' ')" ".aq-2-out.tmp .aq-3-out.tmp .aq-4-out.tmp .aq-6-out.tmp "
    is "$(find d -name '.aq-*-other.tmp' | wc -l)" 4
    is "$(<victim)" victim
}

@test "no product replaces an input of the same run, by whatever name" {
    local demo=$REPO/models/qwen3_vl_demo/checkpoint
    cp run.json before
    ln -s run.json soft
    ln run.json hard
    for name in run.json ./run.json soft hard "$PWD/run.json"; do
        refused 2 "cannot write '$name': it is an input of this run" aq-overlay run.json -o "$name"
        cmp run.json before
    done
    aq 0 aq-overlay before -o run.json
    cp -r "$demo" model
    chmod -R u+w model
    for name in config.json "$(basename "$(find model -name '*.safetensors' | head -1)")"; do
        refused 2 "it is an input of this run" aq-extract-lm -o "model/$name" model
        cmp "model/$name" "$demo/$name"
    done
    cp "$REPO/datasets/demo/captions_small.txt" c.txt
    refused 2 "it is an input of this run" aq-calib tokens -t "$demo" -o c.txt c.txt
    cmp c.txt "$REPO/datasets/demo/captions_small.txt"
    cp "$demo/tokenizer.json" t.json
    refused 2 "it is an input of this run" aq-calib tokens -t t.json -o t.json c.txt
    cmp t.json "$demo/tokenizer.json"
    scores s.json a 4 1
    refused 2 "it is an input of this run" aq-select --unchecked -o s.json s.json
    aq 0 jq -e .groups s.json
    is "$(find . -name '.aq-*')" ""
}

@test "named pipes and endless devices are refused at once, wherever a file is expected" {
    local demo=$REPO/models/qwen3_vl_demo/checkpoint command
    aq-extract-lm -o lm.json "$demo"
    aq-overlay --format FP8_DEFAULT_CFG -o quant.json
    aq-calib tokens -t "$demo" -o tokens "$REPO/datasets/demo/captions_small.txt"
    scores s.json a 4 1
    mkfifo pipe
    for name in config.json model.safetensors model.safetensors.index.json tokenizer.json; do
        mkdir "in-$name"
        cp -r "$demo"/. "in-$name"
        chmod -R u+w "in-$name"
        rm -f "in-$name/$name"
        mkfifo "in-$name/$name"
    done
    while read -ra command; do
        refused 3 "is a named pipe, expected a file" timeout 10 "${command[@]//INPUT/pipe}"
        case ${command[*]} in *in-* | *./INPUT*) continue ;; esac
        refused 3 "is a device, expected a file" timeout 10 "${command[@]//INPUT//dev/zero}"
    done <<END
aq-overlay INPUT
aq-overlay --format FP8_DEFAULT_CFG --granularity ./INPUT
aq-extract-lm in-config.json
aq-extract-lm in-model.safetensors.index.json
aq-calib tokens -t INPUT -o out $REPO/datasets/demo/captions_small.txt
aq-calib tokens -t in-tokenizer.json -o out $REPO/datasets/demo/captions_small.txt
aq-calib tokens -t $demo -o out INPUT
aq-calib ranges --lm INPUT -o out tokens
aq-calib ranges --lm lm.json -o out INPUT
aq-score --lm INPUT --tokens tokens -o out2 quant.json
aq-score --lm lm.json --tokens INPUT -o out2 quant.json
aq-score --lm lm.json --tokens tokens -o out2 INPUT
aq-score --lm lm.json --tokens tokens --ranges INPUT -o out2 quant.json
aq-score ls INPUT
aq-score merge -o out2 INPUT
aq-score gc --keep INPUT out2
aq-score collect --run INPUT --quant quant.json INPUT
aq-select INPUT
aq-select --unchecked --menu INPUT s.json
aq-report --md INPUT
aq-report summary --md INPUT
END
    [ ! -e out ] && [ ! -e out2 ]
}

@test "inputs without a size, and strange environments" {
    aq-overlay run.json >expected
    aq-overlay <(cat run.json) | cmp - expected
    cat run.json | aq-overlay | cmp - expected
    env -i "$BIN/aq-overlay" --config-dir "$REPO/conf" run.json | cmp - expected
    HOME='' TZ=odd POSIXLY_CORRECT=1 COLUMNS=1 NO_COLOR=1 TERM=dumb LC_ALL=de_DE.UTF-8 aq-overlay run.json | cmp - expected
    refused 1 "cannot read 'standard input': Bad file descriptor" bash -c 'aq-overlay <&-'
    need_command script
    script -qec true /dev/null >/dev/null || skip "no pseudo-terminals here"
    run script -qec "aq-overlay" /dev/null
    is "$status" 2
    has "$output" "standard input is a terminal"
}
