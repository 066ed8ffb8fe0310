#!/usr/bin/env bats
# aq-score --dynamic-batch: the range of a dynamic per-tensor activation over a batch of samples, as ModelOpt has it.
# That its scores are ModelOpt's is in 42-parity.bats.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 128 --intermediate 256 --scale 0.08 "$T/model"
    aq-extract-lm -o "$T/lm.json" "$T/model"
    # 52 samples of 3 to 40 tokens: with batches of 8, tiles end at other samples than without, and the last is short
    for i in $(seq 52); do seq -s' ' $((i * 7)) $((i * 7 + 2 + i * 11 % 38)); done >"$T/ids"
    "$O"/tests/make_tokens --sizes 8,50 -o "$T/tokens" <"$T/ids"
    aq-overlay --format MXINT8_DEFAULT_CFG --granularity a_per_tensor_static -o "$T/tensor.json"
    aq-overlay --format MXFP4_MLP_WEIGHT_ONLY_CFG --granularity a_per_tensor_static -o "$T/activation.json"
    aq-overlay --format INT8_DEFAULT_CFG --granularity a_per_token_dynamic -o "$T/token.json"
}

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    export -f score
}

score() { # score STORE [OPTION...]
    local store=$1
    shift
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --prefix 8 --device cpu -q -o "$store" "$@" "$T"/{tensor,activation,token}.json
}

# changed A B SAMPLES: the activations whose scores differ between the stores
changed() {
    "$O"/tests/store_diff "$1" "$2" "$3" | awk '$4 != 0 {print $1}' | jq -nrR --slurpfile q <(cat "$T"/{tensor,activation,token}.json) \
        '[inputs as $id | $q[] | select(.treatment_id == $id) | .treatment.a] | join(" ")'
}

@test "the same bytes for any threads and shards, within --memory, and however samples were added" {
    score whole --dynamic-batch 8
    score threads --dynamic-batch 8 --threads 3
    cmp threads whole
    need=$(score memory --dynamic-batch 8 --memory 1M 2>&1 | sed -nE 's/.*needs ([0-9]+) MB.*/\1/p')
    score memory --dynamic-batch 8 --memory "${need}000000"
    cmp memory whole
    score more --dynamic-batch 8 --score-samples 16
    score more --dynamic-batch 8
    cmp more whole
    for n in 3 7; do
        for k in $(seq $n); do score part-$n-"$k" --dynamic-batch 8 --shard "$k/$n"; done
        aq-score merge -o m$n part-$n-?
        cmp m$n whole
    done
}

@test "only dynamic ranges per tensor change; a batch of one sample, or of equal samples, changes nothing" {
    score each
    score batches --dynamic-batch 8
    is "$(changed each batches 52)" "int8:tensor:dynamic int8:tensor:dynamic"
    score ones --dynamic-batch 1
    is "$(changed each ones 52)" ""
    for i in $(seq 9); do for _ in $(seq 8); do seq -s' ' "$i" $((i * 5 + 3)); done; done | "$O"/tests/make_tokens --sizes 8 -o equal
    score equal-each --tokens equal
    score equal-batches --tokens equal --dynamic-batch 8
    is "$(changed equal-each equal-batches 72)" ""
}

@test "a batch is as long as it is: longer than a tile, padded, and by kl_div" {
    for i in $(seq 11); do seq -s' ' "$i" $((i + 150)); done | "$O"/tests/make_tokens -o long
    score long-batches --tokens long --dynamic-batch 8 --score-samples 8
    is "$(aq-score ls --json long-batches | jq -c '[.identity.tile_tokens, .identity.dynamic_batch, .tiles]')" "[1536,8,2]"
    head -12 "$T/ids" | "$O"/tests/make_tokens --padding max_length --seq-len 64 -o padded
    for m in gradient kl_div; do
        score each-$m --tokens padded --method $m
        score batches-$m --tokens padded --method $m --dynamic-batch 8
        is "$(changed each-$m batches-$m 12)" "int8:tensor:dynamic int8:tensor:dynamic"
        score padded-$m --tokens padded --method $m --dynamic-batch 8 --threads 3
        cmp padded-$m batches-$m
    done
}

@test "wrong numbers, stores of other batches and data sets that end within a batch are refused" {
    refused 2 "dynamic-batch" score s --dynamic-batch -1
    refused 2 "dynamic-batch" score s --dynamic-batch 8x
    refused 2 "--dynamic-batch 8: the data set of 50 samples ends within a batch" score s --dynamic-batch 8 --prefix 8,50
    refused 2 "the data set of 12 samples" score s --dynamic-batch 8 --score-samples 12
    [ ! -e s ]
    score s --dynamic-batch 8
    cp s before
    refused 3 "another 'dynamic_batch': 8, now 0" score s
    refused 3 "another 'dynamic_batch': 8, now 4" score s --dynamic-batch 4
    jq -n '{model: {name: "m", path: "model", dtype: "bf16"}, dataset: {name: "d", size: "s", root: "r", captions_path: "r/c"},
        quant_pair: {name: "pair"}, quant_granularity: {name: "default"},
        autoquant: {method: "gradient", batch_size: 4, effective_bits: 8.0, normalization: "per_token", dynamic_range: "per_batch"},
        _aq: {schema: "aq.run/1", scheme_name: "pair_autoquant_lm", num_calib_samples: 8, score_samples: 8}}' >run.json
    refused 3 "another dynamic_batch: 8, not 4" aq-score collect --run run.json --quant "$T/tensor.json" s
    sed 's/dynamic_batch/dynamic_botch/' s >older
    "$O"/tests/store_seal older
    refused 3 "has no dynamic_batch" aq-score collect --run run.json --quant "$T/tensor.json" older
    jq '.autoquant.dynamic_range = "per_sample"' run.json >each.json
    refused 3 "another dynamic_batch: 8, not 0" aq-score collect --run each.json --quant "$T/tensor.json" s
    jq '.autoquant.batch_size = 8' run.json >batches.json
    aq 0 aq-score collect --run batches.json --quant "$T/tensor.json" s
    is "$(jq .identity.dynamic_batch <<<"$output")" 8
    cmp s before
}
