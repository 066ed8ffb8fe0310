#!/usr/bin/env bats
# aq-eval singles against aq-eval, and aq-select --pairs by them. The solver against all combinations is in tests/unit/test_pairs.c.
load helpers

F=$BATS_FILE_TMPDIR

setup_file() {
    cd "$REPO" || return
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --scale 0.1 "$F/model"
    aq-extract-lm -q -o "$F/lm.json" "$F/model"
    for i in $(seq 60); do seq -s" " $((i * 5)) $((i * 5 + 2 + i * 11 % 20)); done | "$O"/tests/make_tokens --sizes 60 -o "$F/text"
    made "$F/4.json" wint4_afp16/default 4 1
    made "$F/8.json" wint8_afp16/default 8 2
    singles -o "$F/singles" "$F/4.json" "$F/8.json"
}

setup() {
    cd "$REPO" || return
    T=$BATS_TEST_TMPDIR
}

made() {
    scores "$1.any" "$2" "$3" "$4" 2
    sealed_jq --arg lm "$(jq -r .digest.sample "$F/lm.json")" ".identity.lm = \$lm | ${5:-.}" "$1.any" >"$1"
}

singles() { aq-eval singles -q --device cpu --reference "$F/lm.json" --domain s="$F/text" "$@"; }

@test "what each candidate of each group costs alone is what aq-eval measures" {
    is "$(header "$F/singles" | jq -c '[.kl.shape, .cov.shape, .["pair/0"].shape, .["pair/1"].shape]')" '[[8,2,60],[16,16],[8,8],[8,8]]'
    is "$(header "$F/singles" | jq -r '.__metadata__.aq' | jq -c '[.schema, .layers, (.candidates | map(.name))]')" \
        '["aq.singles/1",[0,0,0,0,1,1,1,1],["wint4_afp16/default","wint8_afp16/default"]]'
    numbers "$F/singles" kl >"$T/kl"
    local group candidate positions
    for group in 0 3 6; do
        for candidate in 0 1; do
            jq --argjson treatments '{"a": ["int4:axis0:static", "none"], "b": ["int8:axis0:static", "none"]}' --argjson cycle '["NONE"]' \
                -f "$REPO/tests/manifest.jq" "$F/lm.json" | jq --argjson g $group --argjson c $candidate \
                '(.selection.recipe | keys_unsorted[$g]) as $k | .selection.recipe[$k].candidate = ["a", "b"][$c]' >"$T/m.json"
            aq 0 aq-eval -q --device cpu --reference "$F/lm.json" --domain t="$F/text" "$T/m.json"
            positions=$(jq .all.positions <<<"$output")
            sed -n "$((group * 120 + candidate * 60 + 1)),$((group * 120 + candidate * 60 + 60))p" "$T/kl" |
                jq -es --argjson n "$positions" --argjson e "$(jq .all.kl.mean <<<"$output")" '(add / $n / $e - 1 | fabs) < 1e-9'
        done
    done
    # half of the variance is the divergence, but for what 64 buckets lose
    numbers "$F/singles" cov | jq -es --slurpfile kl "$T/kl" --argjson n "$positions" '[range(16) as $i | .[$i * 17] / 2 / (($kl[$i * 60:$i * 60 + 60] | add) / $n)]
        | all(. > 0.8 and . < 1.2)'
    # a layer's block of it, without two candidates of one group
    numbers "$F/singles" cov >"$T/cov"
    numbers "$F/singles" pair/0 | jq -es --slurpfile cov "$T/cov" '. == [range(8) as $a | range(8) as $b
        | if ($a / 2 | floor) == ($b / 2 | floor) then 0 else $cov[$a * 16 + $b] end]'
}

@test "the same bits for any number of threads, and within --memory" {
    local n need
    for n in 1 2 8; do
        aq 0 singles --threads $n -o "$T/$n" "$F/4.json" "$F/8.json"
        cmp "$T/$n" "$F/singles"
    done
    refused 1 "--memory 1 MB is too little" singles --memory 1M -o "$T/s" "$F/4.json" "$F/8.json"
    need=$(sed -nE 's/.*: ([0-9]+) MB are needed.*/\1/p' <<<"$stderr")000000
    for n in "$need" $((need + 60000000)); do
        aq 0 singles --memory "$n" -o "$T/s" "$F/4.json" "$F/8.json"
        cmp "$T/s" "$F/singles"
    done
}

@test "aq-select --pairs: by what was measured, within the budget" {
    aq 0 aq-select --effective-bits 6 --pairs "$F/singles" -o "$T/m.json" "$F/4.json" "$F/8.json"
    is "$(jq -c '.selection | [.solver, .effective_bits <= 6, .pairs.nats > 0]' "$T/m.json")" '["pairs",true,true]'
    # the scores know nothing, so that their recipe is no better by measurement
    aq-select -q --effective-bits 6 -o "$T/s.json" "$F/4.json" "$F/8.json"
    [ "$(jq -c '.selection.recipe | map_values(.candidate)' "$T/m.json")" != "$(jq -c '.selection.recipe | map_values(.candidate)' "$T/s.json")" ]
    local by_pairs by_scores
    by_pairs=$(aq-eval -q --device cpu --reference "$F/lm.json" --domain t="$F/text" "$T/m.json" | jq .all.kl.mean)
    by_scores=$(aq-eval -q --device cpu --reference "$F/lm.json" --domain t="$F/text" "$T/s.json" | jq .all.kl.mean)
    is "$(jq -n "$by_pairs < $by_scores")" true
    refused 2 "--pairs is one budget and its own solver" aq-select --pairs "$F/singles" --frontier "$F/4.json"
}

@test "what does not belong together, or is damaged, is refused" {
    made "$T/x.json" wint4_afp16/default 4 1 '.identity.lm = "other"'
    refused 3 "was made from another checkpoint" aq-select --pairs "$F/singles" "$T/x.json"
    made "$T/5.json" wint5_afp16/default 5 1
    refused 3 "has nothing of 'wint5_afp16/default'" aq-select --pairs "$F/singles" "$F/4.json" "$T/5.json"
    refused 3 "expected 'aq.singles/1'" aq-select --pairs "$F/text" "$F/4.json"
    cp "$F/singles" "$T/bad"
    printf '\x01' | dd of="$T/bad" bs=1 seek=$(($(stat -c %s "$T/bad") - 1)) conv=notrunc status=none
    refused 3 "the file is damaged" aq-select --pairs "$T/bad" "$F/4.json"
    truncate -s -100 "$T/bad"
    refused 3 "aq-select: $T/bad: truncated" aq-select --pairs "$T/bad" "$F/4.json"
    refused 2 "-o FILE is needed" singles "$F/4.json"
    refused 2 "--domain NAME=TOKENS is needed" aq-eval singles --reference "$F/lm.json" -o "$T/s" "$F/4.json"
}
