#!/usr/bin/env bats
# Stored numbers vouch for themselves: a flipped bit is refused and named, or changes nothing. FLIPS=1000 for the long run.
load helpers

FLIPS=${FLIPS:-100}

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    cd "$T" || return
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --scale 0.08 model
    aq-extract-lm -o lm.json "$T/model"
    for i in $(seq 24); do seq -s' ' $((i * 5)) $((i * 5 + 39 + i * 11 % 31)); done >ids
    "$O"/tests/make_tokens --sizes 8,24 -o tokens <ids
    aq-calib ranges --lm lm.json --prefix 8,24 -o ranges tokens
    for f in FP8_DEFAULT_CFG INT8_WEIGHT_ONLY_CFG; do aq-overlay --format $f -o $f.json; done
    jq -n '{model: {name: "m", path: "model", dtype: "bf16"}, dataset: {name: "d", size: "s", root: "r", captions_path: "r/c"},
        quant_pair: {name: "pair"}, quant_granularity: {name: "default"},
        autoquant: {method: "gradient", batch_size: 8, effective_bits: 8.0, normalization: "per_token", operand_rounding: "none"},
        _aq: {schema: "aq.run/1", scheme_name: "pair_autoquant_lm", num_calib_samples: 24, score_samples: 24}}' >run.json
    score -o store && collect store >scores.json
}

setup() { cd "$BATS_TEST_TMPDIR" || return; }

score() { # OPTION...
    aq-score -q --lm "$T/lm.json" --tokens "$T/tokens" --ranges "${ranges:-$T/ranges}" --prefix 8,24 --device cpu "$@" "$T"/*_CFG.json
}

collect() { aq-score collect --run "$T/run.json" --quant "$T/FP8_DEFAULT_CFG.json" "$1"; }

header_of() { echo $((8 + $(od -An -tu8 -N8 "$1"))); } # bytes, the length in front included

# flips FILE COMMAND...: each flip of the copy "bad", FROM here and up TO there, is refused with exit 3, in words that name the
# place (NAMED), or the command prints what it prints for FILE.
flips() {
    local file=$1 n where code refusals=0
    shift
    cp "$file" bad
    "$@" >expected
    for ((n = 0; n < FLIPS; n++)); do
        cp "$file" bad
        where=$("$O"/tests/flip_bit bad "$n" ${FROM:-0} ${TO:+"$TO"})
        code=0
        "$@" >found 2>message || code=$?
        if [ "$code" -eq 3 ]; then
            refusals=$((refusals + 1))
            head -1 message | grep -qE "$NAMED" || { echo "flip $n, $where: $(<message)"; return 1; }
        elif [ "$code" -ne 0 ] || ! cmp -s found expected; then
            echo "flip $n, $where: exit $code, $(<message)"
            return 1
        fi
    done
    echo "$refusals of $FLIPS refused"
    [ "$refusals" -gt $((FLIPS * 8 / 10)) ]
}

store_names="store 'bad': (row '[0-9a-f]{16}/[0-9]+' .* is damaged at layer [0-9]+, tile [0-9]+|the header (is damaged|has no digest)|bad: )"

@test "store: a flipped bit of its numbers is refused, naming row and layer, or the header" {
    FROM=$(header_of "$T/store") NAMED=$store_names flips "$T/store" collect bad
}

@test "store: a flipped bit of its header is refused, naming the header" {
    TO=$(header_of "$T/store") NAMED="store 'bad': (the header (is damaged|has no digest)|bad: )" flips "$T/store" collect bad
}

@test "store: every reader refuses it: scoring, merging, listing" {
    merged() { rm -f m && aq-score merge -q -o m bad "$T/store" && collect m; }
    scored() { score -o bad && collect bad; }
    listed() { aq-score ls --json bad; }
    local reader
    for reader in merged scored listed; do
        FLIPS=$((FLIPS / 20)) NAMED=$store_names flips "$T/store" $reader
    done
}

@test "ranges: a flipped bit is refused, and names the file" {
    ranged() { aq-score collect --ranges bad --run "$T/run.json" --quant "$T/FP8_DEFAULT_CFG.json" "$T/store"; }
    TO=$(header_of "$T/ranges") NAMED="'bad'|bad: " flips "$T/ranges" ranged
    FROM=$(header_of "$T/ranges") NAMED="'bad'|bad: " flips "$T/ranges" ranged
    scored() { rm -f s && ranges=bad score -o s && collect s; }
    FLIPS=$((FLIPS / 20)) NAMED="bad" flips "$T/ranges" scored
}

@test "--repair computes the damaged cells again, and no others; --replace starts over" {
    local n mended=0
    for ((n = 1; n <= FLIPS / 4; n++)); do
        cp "$T/store" s
        "$O"/tests/flip_bit s "$n" >/dev/null
        refused 3 "store 's'" score -o s
        # a header that cannot be read, or names another identity, says too little
        if score -o s --repair 2>message; then
            cmp s "$T/store"
            mended=$((mended + 1))
        else
            grep -q "store 's'" message && ! grep -q "at layer" message
        fi
    done
    [ "$mended" -ge $((FLIPS / 8)) ] || { echo "$mended mended"; return 1; }
    # what no check of a number covers: whose ranges these rows have. They are computed again, and no key stays for others.
    local key
    for key in 's/\\"24\\":/\\"25\\":/' 's/\\"8\\":/\\"9\\":/'; do
        sed "$key" "$T/store" >s
        if cmp -s s "$T/store"; then return 1; fi
        aq 0 score -o s --repair
        cmp s "$T/store"
    done
    # one cell in one row: the other candidate is complete
    local at
    at=$(od -An -tu8 -N8 "$T/store")
    at=$((8 + at + $(head -c $((8 + at)) "$T/store" | tail -c "$at" | jq '[to_entries[] | select(.key | startswith("s/")) | .value.data_offsets[0]] | min')))
    cp "$T/store" s
    printf '\x55' | dd of=s bs=1 seek="$at" conv=notrunc status=none
    cp s t
    aq 0 aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 8,24 --device cpu -o s --repair "$T"/*_CFG.json
    has "$stderr" "1 damaged cells of 's' are left out"
    has "$stderr" "1 candidates computed, 1 were in the store"
    cmp s "$T/store"
    aq 0 score -o t --replace
    cmp t "$T/store"
    refused 2 "--repair and --replace exclude each other" score -o t --replace --repair
}

@test "files that are no stores are refused without the advice to remove them" {
    cp "$T/tokens" tokens
    cp "$T/lm.json" lm.json
    cp "$T/model/model.safetensors" weights
    # the lock is made beside the file, and only root makes files in /dev
    local null=
    if [ -w /dev ]; then null=/dev/null; fi
    for f in $null . lm.json tokens weights; do
        aq 3 score -o $f
        [[ $stderr != *remove* ]] || { echo "$f: $stderr"; return 1; }
        aq 3 score -o $f --replace
        aq 3 aq-score ls $f
        [[ $stderr != *remove* ]]
    done
    cmp tokens "$T/tokens" && cmp lm.json "$T/lm.json" && cmp weights "$T/model/model.safetensors"
    head -c 5000 "$T/store" >cut
    refused 3 "store 'cut'" score -o cut
    has "$stderr" "remove it to start over"
    aq 0 score -o cut --replace
    cmp cut "$T/store"
}

@test "a planted link in the place of the unfinished store leads nowhere" {
    echo victim >victim
    for name in s.part s.part.new s.lock; do
        rm -f s.*
        ln -s victim $name
        score -o s || [ $name = s.lock ]
        is "$(<victim)" victim
        rm -f s
    done
}

@test "scores.json: a flipped bit is refused, or changes nothing but the layout; jq may print it again" {
    cp "$T/scores.json" s.json
    pick() ( # the choice, without the digest of the file's bytes
        set -o pipefail
        aq-select -q --effective-bits 9 "$1" | jq 'del(.aq.inputs, .provenance, .aq.provenance)'
    )
    FLIPS=$((FLIPS * 2)) NAMED="bad" flips s.json pick bad
    jq . s.json >again.json
    jq -c . s.json | pick - >compact
    pick again.json | cmp - compact
    jq '.groups[1].per_token *= 1.0001' s.json >edited.json
    refused 3 "edited.json: the file was changed" aq-select edited.json
    has "$stderr" "--unchecked takes it as it is"
    aq 0 aq-select --unchecked edited.json
    jq 'del(.digest)' s.json >none.json
    refused 3 "key 'digest' is missing" aq-select none.json
}
