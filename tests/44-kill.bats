#!/usr/bin/env bats
# aq-score broken off and started again: the store and the scores are those of a run that nobody disturbed.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 128 --intermediate 256 --scale 0.08 "$T/model"
    aq-extract-lm -o "$T/lm.json" "$T/model"
    # 30 samples of 30 to 60 tokens: three tiles
    for i in $(seq 30); do seq -s' ' $((i * 7)) $((i * 7 + 29 + i * 11 % 31)); done >"$T/ids"
    "$O"/tests/make_tokens --sizes 8,30 -o "$T/tokens" <"$T/ids"
    aq-calib ranges --lm "$T/lm.json" --prefix 8,30 -o "$T/ranges" "$T/tokens"
    for f in FP8_DEFAULT_CFG INT8_WEIGHT_ONLY_CFG NVFP4_WEIGHT_ONLY_CFG; do aq-overlay --format $f -o "$T/$f.json"; done
    jq -n '{model: {name: "m", path: "model", dtype: "bf16"}, dataset: {name: "d", size: "s", root: "r", captions_path: "r/c"},
        quant_pair: {name: "pair"}, quant_granularity: {name: "default"},
        autoquant: {method: "gradient", batch_size: 8, effective_bits: 8.0, normalization: "per_token", operand_rounding: "none"},
        _aq: {schema: "aq.run/1", scheme_name: "pair_autoquant_lm", num_calib_samples: 30, score_samples: 30}}' >"$T/run.json"
    # a program, so that a signal reaches aq-score itself
    printf '#!/bin/sh\nexec aq-score --lm "%s/lm.json" --tokens "%s/tokens" --ranges "%s/ranges" --prefix 8,30 --device cpu %s\n' \
        "$T" "$T" "$T" "-o s \"\$@\" \"$T\"/*_CFG.json" >"$T/score"
    chmod +x "$T/score"
    mkdir "$T/undisturbed"
    cd "$T/undisturbed" || return
    # in milliseconds, the quicker of two: what is cut short below must be cut short
    local start i
    for i in 1 2; do
        rm -f s
        start=$(date +%s%3N)
        "$T/score" 2>"$T/log" || { cat "$T/log" >&2; return 1; }
        echo $(($(date +%s%3N) - start))
    done | sort -n | head -1 >"$T/whole_ms"
    collect
}

setup() {
    mkdir "$BATS_TEST_TMPDIR/run"
    cd "$BATS_TEST_TMPDIR/run" || return
    whole_ms=$(<"$T/whole_ms")
}

collect() { aq-score collect --run "$T/run.json" --quant "$T/FP8_DEFAULT_CFG.json" -o scores.json s; }

seconds() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); } # of milliseconds

# broken_off SIGNAL MILLISECONDS: a run that gets the signal so long after its start, and SIGKILL if it lives two seconds
# longer. A shell in the background ignores SIGINT, and its programs inherit that.
broken_off() {
    env --default-signal=INT,TERM,HUP timeout --foreground --preserve-status -k 2 -s "$1" "$(seconds "$2")" "$T/score" 2>"$T/log"
}

# Started once more, the run ends where an undisturbed one does, and nothing else is left lying about.
converges() {
    aq 0 "$T/score"
    collect
    cmp s "$T/undisturbed/s" && cmp scores.json "$T/undisturbed/scores.json"
    is "$(ls -A)" "$(ls -A "$T/undisturbed")"
}

@test "kill -9 at 20 points of a run: each time the next run gives the undisturbed bytes" {
    local killed=0 part=0 code
    for i in $(seq 20); do
        rm -f s s.* scores.json
        code=0
        broken_off KILL $((whole_ms * i / 21)) || code=$?
        [ "$code" -eq 137 ] && killed=$((killed + 1))
        [ -e s.part ] && part=$((part + 1))
        converges
    done
    echo "killed: $killed, with an unfinished store: $part"
    [ "$killed" -ge 5 ] && [ "$part" -ge 1 ]
}

@test "kill -9 again and again, without a whole run in between" {
    for i in 19 3 16 7 13 10; do
        broken_off KILL $((whole_ms * i / 21)) || true
        if [ -e s ]; then cmp s "$T/undisturbed/s"; fi
    done
    converges
}

@test "SIGINT, SIGTERM and SIGHUP end it within two seconds by that signal, what was finished is kept" {
    local signal tenths code ended=0 part=0
    for signal in INT:130 TERM:143 HUP:129; do
        for tenths in 3 7; do
            rm -f s s.* scores.json
            code=0
            broken_off "${signal%:*}" $((whole_ms * tenths / 10)) || code=$?
            # unless it was the quicker one
            if [ "$code" -ne 0 ]; then
                is "$code" "${signal#*:}"
                # the store has its name only if it is complete, and the signal came after that
                [ ! -e s ] || cmp s "$T/undisturbed/s"
                is "$(find . -name '.*' -type f)" ""
                ended=$((ended + 1))
                [ ! -e s.part ] || part=$((part + 1))
            fi
            converges
        done
    done
    echo "ended: $ended, with an unfinished store: $part"
    [ "$ended" -ge 3 ] && [ "$part" -ge 1 ]
}

@test "stopped in the middle for a second and continued: the same bytes" {
    local pid stopped=0
    for tenths in 5 7 3 4 6 2; do # where the machine is quick, some come too late
        rm -f s s.*
        "$T/score" 2>"$T/log" &
        pid=$!
        sleep "$(seconds $((whole_ms * tenths / 10)))"
        if kill -STOP $pid 2>/dev/null; then
            sleep 1
            [[ $(<"/proc/$pid/stat") != *") T "* ]] || stopped=$((stopped + 1))
            kill -CONT $pid
        fi
        wait $pid
        cmp s "$T/undisturbed/s"
        [ "$stopped" -lt 2 ] || break
    done
    [ "$stopped" -ge 1 ]
}

# at TENSOR: where its data begin in s.part
at() {
    local n
    n=$(od -An -tu8 -N8 s.part)
    echo $((8 + n + $(head -c $((8 + n)) s.part | tail -c "$n" | jq --arg t "$1" '.[$t].data_offsets[0]')))
}

@test "layers that were finished are not computed again, an unfinished and a damaged one are" {
    cp "$T/undisturbed/s" s.part
    local tiles row a_layer
    tiles=$(aq-score ls --json s.part | jq .tiles)
    [ "$tiles" -gt 1 ]
    # layer 0 is taken back in every row; one sum is changed there, one in layer 1, and one in layer 1 with a check that fits
    while read -r row; do
        head -c "$tiles" /dev/zero | dd of=s.part bs=1 seek="$(at "have/$row")" conv=notrunc status=none
    done < <(aq-score ls --json s.part | jq -r '.rows[] | "\(.treatment_id)/\(.prefix)"')
    row=$(aq-score ls --json s.part | jq -r '.rows[2] | "\(.treatment_id)/\(.prefix)"') # of all samples
    a_layer=$((4 * 30 * 8)) # bytes of sums: groups, samples
    printf '\125' | dd of=s.part bs=1 seek=$(($(at "s/$row") + a_layer)) conv=notrunc status=none
    "$O"/tests/store_seal s.part
    local changed=$(($(at "s/$row") + a_layer + 1))
    printf '\125' | dd of=s.part bs=1 seek="$(at "s/$row")" conv=notrunc status=none
    printf '\125' | dd of=s.part bs=1 seek=$(($(at "s/$row") + a_layer + 29 * 8)) conv=notrunc status=none
    aq 0 "$T/score"
    has "$stderr" "1 damaged cells of 's.part' are left out"
    # three layers of ten results each: without layer 0 and the damaged one
    has "$stderr" "going on: 19 of 30 layer results are in the store already"
    # the one that its check vouches for is kept, and so is that check
    is "$(cmp -l s "$T/undisturbed/s" | awk -v c="$changed" '$1 == c {print $2}')" 125
    [ "$(cmp -l s "$T/undisturbed/s" | wc -l)" -le 9 ]
}

@test "a power cut: flags are written after a sync of what they vouch for, the name after a sync of all, then the directory is synced" {
    need_preload fault
    FAULT_LOG=$PWD/log FAULT_DIR=$PWD LD_PRELOAD=$O/tests/fault.so "$T/score"
    # D: data, F: flags, S: a sync of the store, N: its name, d: a sync of the directory
    local n order
    n=$(od -An -tu8 -N8 s)
    head -c $((8 + n)) s | tail -c "$n" | jq -r --argjson n "$n" \
        'to_entries[] | select(.key | startswith("have/")) | "flags \(.value.data_offsets[0] + 8 + $n) \(.value.data_offsets[1] + 8 + $n)"' >flags
    order=$(awk -v dir="$PWD" '
        $1 == "flags" { from[++count] = $2; to[count] = $3; next }
        $2 != "s" && $2 !~ /\/s(\.part)?$/ && $2 != dir { next }
        $1 == "fsync" { printf "%s", $2 == dir ? "d" : "S"; next }
        $1 == "rename" { printf "N"; next }
        { c = "D"; for (i = 1; i <= count; i++) if ($3 >= from[i] && $3 < to[i]) c = "F"; printf "%s", c }' flags log)
    # three layers, each with data and flags of its own
    [[ $order =~ ^(D+S+F+){3}S+Nd+$ ]] || { echo "$order"; return 1; }
}

@test "a store that was finished, but not yet renamed, is taken as it is" {
    cp "$T/undisturbed/s" s.part
    aq 0 "$T/score"
    has "$stderr" "0 candidates computed"
    collect
    cmp s "$T/undisturbed/s"
    [ ! -e s.part ]
}
