# The score, its second form and the first rows' part of it against transformers in float64 (tests/oracle/second.py), as aq-score
# collect reports them.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    cd "$T"
    DEMO=$REPO/models/qwen3_vl_demo/checkpoint
    head -n 4 "$REPO/datasets/demo/captions_small.txt" >captions
    aq-extract-lm -o lm "$DEMO"
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o int8.json
    aq-overlay --format INT4_BLOCKWISE_WEIGHT_ONLY_CFG -o int4.json
    aq-overlay --format FP8_WEIGHT_ONLY_CFG -o fp8.json
    aq-overlay --format NVFP4_WEIGHT_ONLY_CFG -o group.json
    aq-resolve -q --config-name preset/demo quant_pair=wfp4_afp16 dataset.size=small autoquant.shared_scale=false -o own.run
    aq-overlay own.run -o own.json
    for padding in none max_length; do
        aq-calib tokens --tokenizer "$DEMO" --padding $padding -o $padding captions
        aq-score -q --lm lm --tokens $padding --dtype fp32 --device cpu -o $padding.store {int8,int4,fp8,group,own}.json
    done
    aq-score -q --lm lm --tokens none --dtype fp32 --device cpu --method kl_div -o kl.store int8.json
}

setup() {
    cd "$T" || return
}

# collected STORE QUANT METHOD: its scores.json
collected() {
    jq -n --arg method "$3" --arg padding "${1%.store}" '{model: {name: "m", path: "model", dtype: "fp32"},
      dataset: {name: "d", size: "s", padding: $padding},
      quant_pair: {name: "pair"}, autoquant: {method: $method, batch_size: 8, effective_bits: 8.0, normalization: "per_token"},
      _aq: {schema: "aq.run/1", scheme_name: "x", num_calib_samples: 4, score_samples: 4}}' >run.json
    aq-score collect --run run.json --quant "$2" "$1"
}

@test "score, dot form and first rows are those of float64, padded and not" {
    for padding in none max_length; do
        for width in int8 int4 fp8 group own; do
            collected $padding.store $width.json gradient >scores.json
            far=$(jq -n --slurpfile a "$REPO/tests/oracle/second/demo.json" --slurpfile b scores.json --arg padding $padding '
                def far($x; $y): ($x - $y) / $y | fabs;
                $b[0] as $b | $a[0].cases[] | select(.padding == $padding and (.treatment == $b.candidate.treatment.w)) | .groups as $g
                | if ($g | length) == ($b.groups | length) and ($g | length) == 28 then . else error("groups") end
                | [$b.groups[] | $g[.name] as [$sum, $dot, $first]
                   | [far(.sum; $sum), ((.first_position * .sum - $first) / $sum | fabs), far(.per_token_dot * $b.labels; $dot)]]
                | transpose | map(max)')
            # what float32 itself makes of the outputs' differences, in torch: int8 moves them by a few thousandths only,
            # and terms of the second form cancel; another program's products are as far on another side
            allowed=$(jq -n --slurpfile a "$REPO/tests/oracle/second/demo.json" --slurpfile b scores.json --arg padding $padding '
                $a[0].cases[] | select(.padding == $padding and (.treatment == $b[0].candidate.treatment.w)) | .float32
                | [.[0], .[2], .[1]] | map([2 * ., 1e-4] | max)')
            echo "$padding $width: $far, allowed $allowed"
            jq -en "$far as \$far | $allowed as \$allowed | all(range(3); \$far[.] < \$allowed[.])"
        done
    done
}

@test "members of a group under one scale are scored so: as float64 has it, and otherwise than under scales of their own" {
    is "$(jq -r .treatment.w group.json own.json | tr '\n' ' ')" "e2m1:nvfp4(16):dynamic@group e2m1:nvfp4(16):dynamic "
    collected none.store group.json gradient >group
    collected none.store own.json gradient >own
    # q, k and v and gate and up differ, o and down have one member
    is "$(jq -n -c --slurpfile a group --slurpfile b own '[$a[0].groups, $b[0].groups] | transpose | map([.[0].kind, .[0].sum == .[1].sum]) | unique')" \
        '[["down",true],["gate_up",false],["o",true],["qkv",false]]'
}

@test "the first rows have the part that the padding rule gives them" {
    collected none.store int8.json gradient | jq -e '[.groups[].first_position] | all(. > 0 and . < 1)'
    # a pad row attends to nothing and nothing to it: no error before the residual stream of attention
    collected max_length.store int8.json gradient |
        jq -e '[.groups[] | select(.kind == "qkv" or .kind == "o").first_position] | length == 14 and all(. == 0)'
}

@test "a divergence has one score: no second one, and no part of a first row" {
    collected kl.store int8.json kl_div >kl.json
    jq -e '[.groups[] | .per_token_dot, .first_position] | length == 56 and all(. == null)' kl.json
    head -c 20000 kl.store | LC_ALL=C grep -qa '"s/' && ! head -c 20000 kl.store | LC_ALL=C grep -qaE '"[df]/'
}

@test "a second score that is impossible, or a first row above the whole, is refused by name" {
    header() { n=$(od -An -tu8 -N8 "$1"); head -c $((8 + n)) "$1" | tail -c "$n"; }
    for part in d f; do
        for bytes in '\000\000\000\000\000\000\370\177' '\000\000\000\000\000\000\360\277' '\000\000\000\000\000\000\360\177'; do
            cp none.store bad
            n=$(od -An -tu8 -N8 bad)
            at=$((8 + n + $(header bad | jq --arg p $part/ '[to_entries[] | select(.key | startswith($p)) | .value.data_offsets[0]] | min')))
            printf "$bytes" | dd of=bad bs=1 seek=$at conv=notrunc status=none
            refused 3 "damaged at layer 0, tile 0" aq-score ls bad
            "$O"/tests/store_seal bad
            refused 3 "tensor '$part/" aq-score ls bad
        done
    done
    printf '\000\000\000\000\000\000\360\077' | dd of=bad bs=1 seek=$at conv=notrunc status=none # 1: more than the group has
    "$O"/tests/store_seal bad
    refused 3 "holds 1 at group 0, sample 0" aq-score ls bad
}

@test "collect says what share the pad row has, and warns above 20 %" {
    local own strange
    collected none.store int8.json gradient >/dev/null 2>message
    [ ! -s message ]
    # the demo model knows its pad token before a caption
    collected max_length.store int8.json gradient 2>message >padded.json
    own=$(jq '([.groups[] | .sum * .first_position] | add) / ([.groups[].sum] | add) * 1000 | round / 10' padded.json)
    has "$(cat message)" "$own % of the score comes from the pad row"
    [[ $(cat message) != *warning* ]]
    # <|fim_pad|>, which it never saw
    strange=$(jq '.added_tokens[] | select(.content == "<|fim_pad|>").id' "$REPO/models/qwen3_vl_demo/checkpoint/tokenizer.json")
    aq-calib tokens --tokenizer "$REPO/models/qwen3_vl_demo/checkpoint" --padding max_length --pad-id "$strange" -o strange captions
    aq-score -q --lm lm --tokens strange --dtype fp32 --device cpu -o strange.store int8.json
    aq-score collect --run run.json --quant int8.json strange.store 2>message >padded.json
    own=$(jq '([.groups[] | .sum * .first_position] | add) / ([.groups[].sum] | add) * 1000 | round / 10' padded.json)
    has "$(cat message)" "aq-score: warning: $own % of the score comes from the pad row"
    jq -en "$own > 50"
}
