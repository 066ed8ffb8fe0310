#!/usr/bin/env bats
# aq-score on weights, stores and surroundings at the edge: a number that means something, or a refusal that says where.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 64 --scale 0.08 --tied no "$T/model"
    aq-extract-lm -o "$T/lm.json" "$T/model"
    printf '1 2 3\n4 5 6 7\n8 9\n10 11 12 13\n' | "$O"/tests/make_tokens -o "$T/tokens"
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o "$T/quant.json"
    cd "$T" && score s
}

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    export -f score
}

# score STORE [OPTION...]
score() {
    local store=$1
    shift
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --prefix 4 --score-samples 4 --device cpu -q -o "$store" "$@" "$T/quant.json"
}

# model_with TENSOR ELEMENT COUNT BYTES: lm.json of the model with COUNT bf16 numbers of TENSOR replaced
model_with() {
    local at
    rm -rf model
    cp -r "$T/model" model
    at=$(jq --arg t "$1" '.tensors[] | select(.name == $t) | .begin' "$T/lm.json")
    for ((i = 0; i < $3; i++)); do printf "$4"; done |
        dd of=model/model.safetensors bs=4096 seek=$((at + 2 * $2)) oflag=seek_bytes conv=notrunc status=none
    aq-extract-lm -o lm.json model
}

# a_run [JQ-PROGRAM]: run.json, changed by the program
a_run() {
    jq -n '{model: {name: "m", path: "model", dtype: "bf16"}, dataset: {name: "d", size: "s", root: "r", captions_path: "r/c"},
        quant_pair: {name: "pair"}, quant_granularity: {name: "default"},
        autoquant: {method: "gradient", batch_size: 2, effective_bits: 8.0, normalization: "per_token", operand_rounding: "none"},
        _aq: {schema: "aq.run/1", scheme_name: "pair_autoquant_lm", num_calib_samples: 4, score_samples: 4}}' | jq "${1:-.}" >run.json
}

# collected STORE [JQ-PROGRAM]: scores.json of it, for a run that the program has changed
collected() {
    a_run "${2:-.}"
    aq-score collect --run run.json --quant "$T/quant.json" -o scores.json "$1"
}

# at TENSOR: where its data begin in the store s
at() {
    local n
    n=$(od -An -tu8 -N8 s)
    echo $((8 + n + $(head -c $((8 + n)) s | tail -c "$n" | jq --arg t "$1" \
        'with_entries(select(.key | startswith($t)))[].data_offsets[0]')))
}

# patch TENSOR BYTES: s is the store with the first bytes of a tensor (or of the first so called) replaced
patch() {
    cp "$T/s" s
    printf "$2" | dd of=s bs=1 seek="$(at "$1")" conv=notrunc status=none
    "$O"/tests/store_seal s
}

@test "weights of zero: the group's score is exactly 0, by gradient and by kl_div; the others are finite" {
    model_with layers.1.mlp.down_proj.weight 0 4096 '\0\0'
    aq 0 score s --lm lm.json
    aq 0 collected s
    jq -e '[.groups[] | .sum == 0] == [false, false, false, false, false, false, true, true]' scores.json
    aq 0 score kl --lm lm.json --method kl_div
    aq 0 collected kl '.autoquant.method = "kl_div"'
    jq -e '[.groups[] | .sum == 0] == [false, false, false, false, false, false, true, true]' scores.json
}

# zero TENSOR FIRST COUNT [TIMES STRIDE]: COUNT bf16 numbers of it in the model of lm.json, and again a stride further on
zero() {
    local at i
    at=$(jq --arg t "$1" '.tensors[] | select(.name == $t) | .begin' lm.json)
    for ((i = 0; i < ${4:-1}; i++)); do
        head -c $((2 * $3)) /dev/zero | dd of=model/model.safetensors bs=4096 seek=$((at + 2 * $2 + i * 2 * ${5:-0})) \
            oflag=seek_bytes conv=notrunc status=none
    done
}

# Treatments of all formats, and of some under all granularities, as ID/quant.json.
all_treatments() {
    local format granularity
    for format in "$REPO"/conf/format/*.yaml; do
        format=$(basename "$format" .yaml)
        aq-overlay -q --format "$format"
        case $format in FP8_DEFAULT_CFG | INT8_DEFAULT_CFG | INT4_WEIGHT_INT8_ACT_CFG) ;; *) continue ;; esac
        for granularity in "$REPO"/conf/quant_granularity/*.yaml; do
            aq-overlay -q --format "$format" --granularity "$(basename "$granularity" .yaml)"
        done
    done >all
    jq -s 'map(select(.supported)) | unique_by(.treatment_id)' all | jq -rc '.[] | .treatment_id, .' |
        while read -r id && read -r text; do mkdir "$id" && echo "$text" >"$id/quant.json"; done
}

@test "zeros in every form under every treatment: 0 where nothing can change, above 0 elsewhere, nowhere NaN" {
    local method cells
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 128 --intermediate 128 --heads 2 --kv-heads 2 --head-dim 64 --scale 0.08 --tied no model
    aq-extract-lm -o lm.json model
    # beside normal weights: outputs, a block of 16 and one of 128 within a row, an input
    zero layers.0.self_attn.q_proj.weight 0 $((16 * 128))
    zero layers.0.mlp.down_proj.weight $((3 * 128 + 32)) 16
    zero layers.0.mlp.up_proj.weight $((5 * 128)) 128
    zero layers.0.mlp.gate_proj.weight 7 1 128 128
    # values of attention, and a norm: what comes out of either half is 0, so are activations and their ranges
    zero layers.1.self_attn.v_proj.weight 0 $((128 * 128))
    zero layers.1.post_attention_layernorm.weight 0 128
    zero layers.2.mlp.down_proj.weight 0 $((128 * 128))
    zero embed_tokens.weight $((3 * 128)) 128
    aq-extract-lm -o lm.json model
    aq-calib ranges --lm lm.json --prefix 4 --device cpu -o ranges "$T/tokens"
    all_treatments
    aq 0 aq-calib solve -q --lm lm.json --tokens "$T/tokens" --ranges ranges --device cpu -o solved */quant.json
    for method in gradient kl_div; do
        cells=(*/quant.json)
        [ ${#cells[@]} -ge 40 ]
        # a treatment costs kl_div a hundred times more: some of them
        [ $method = gradient ] || cells=([0-3]*/quant.json)
        aq 0 aq-score --lm lm.json --tokens "$T/tokens" --ranges ranges --solved solved --prefix 4 --method $method --device cpu -q -o $method "${cells[@]}"
        a_run ".autoquant.method = \"$method\""
        for cell in "${cells[@]}"; do mkdir -p "${cell%/*}/$method" && cp run.json "${cell%/*}/$method"; done
        printf '%s\n' "${cells[@]%/*}" | jq -nR --arg m $method '{cells: [inputs |
            {pair: "p", granularity: ., size: "s", supported: true, reason: null, dir: "\(.)/\($m)"}]}' >cells.json
        aq 0 aq-score collect --cells cells.json $method
        jq -es 'all([.groups[].sum == 0] ==
            [false, false, false, false, true, true, true, true, false, false, true, true])' ./*/$method/scores.json
        is "$(cat ./*/$method/scores.json | jq -s length)" ${#cells[@]}
    done
}

@test "weights all equal, denormal, a norm of zeros, an embedding of zeros: finite" {
    local what
    for what in 'layers.1.mlp.up_proj.weight 0 4096 \0\77' 'layers.1.mlp.up_proj.weight 0 4096 \1\0' \
        'layers.0.input_layernorm.weight 0 64 \0\0' 'embed_tokens.weight 192 64 \0\0'; do
        # shellcheck disable=SC2086
        model_with $what
        rm -f s
        aq 0 score s --lm lm.json
        aq 0 collected s
        jq -e '[.groups[].sum | isfinite and . >= 0] | all' scores.json
    done
}

# The preset's tiles of 128 x 128 hold every matrix of this model whole: one scale, as for a tensor. ModelOpt pads them.
@test "blocks longer than an input are scored like blocks that end with it" {
    local which
    a_run .
    aq-overlay --format FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG -o tiles.json
    jq --arg id "$(printf 'e4m3:tensor:static|none' | sha256sum | head -c 16)" \
        '.treatment.w = "e4m3:tensor:static" | .treatment_id = $id' tiles.json >tensor.json
    for which in tiles tensor; do
        aq 0 aq-score --lm "$T/lm.json" --tokens "$T/tokens" --device cpu -o "$which.st" "$which.json"
        aq 0 aq-score collect --run run.json --quant "$which.json" -o "$which-scores.json" "$which.st"
    done
    # the same sums but for the order of products: scales per block, or one on the result
    jq -en --slurpfile a tiles-scores.json --slurpfile b tensor-scores.json \
        '[$a[0].groups, $b[0].groups] | transpose | all(.[0].sum > 0 and ((.[0].sum / .[1].sum - 1) | fabs < 1e-5))'
}

@test "numbers that overflow are named, with the sample; nothing is left that looks finished" {
    model_with layers.1.mlp.up_proj.weight 0 4096 '\176\177'
    refused 3 "layer 1" score s --lm lm.json
    # the row of token 8, which the sample numbered 2 alone has
    model_with embed_tokens.weight $((8 * 64)) 64 '\200\177'
    refused 3 "not finite in sample 2" score s --lm lm.json
    has "$stderr" "embedding"
    [ ! -e s ]
}

@test "the same bytes for odd numbers of threads, more shards than samples, and odd settings of the libraries" {
    for n in 3 7 64; do
        aq 0 score s$n --threads $n
        cmp s$n "$T/s"
    done
    for k in 1 2 3 4 5; do aq 0 score p$k --shard $k/5; done
    aq 0 aq-score merge -o m p4 p2 p5 p1 p3
    cmp m "$T/s"
    aq 0 env OMP_NUM_THREADS=5 OPENBLAS_NUM_THREADS=3 GOTO_NUM_THREADS=7 MKL_NUM_THREADS=0 BLIS_ARCH_TYPE=x bash -c 'score e'
    cmp e "$T/s"
    refused 2 "threads" score s --threads 1000000
}

@test "a store cut anywhere, with a flipped bit in its header, or of a later version is refused and kept" {
    local size header
    size=$(stat -c %s "$T/s")
    header=$(($(od -An -tu8 -N8 "$T/s") + 8))
    for ((n = 300; n < size; n += size / 9)); do
        head -c "$n" "$T/s" >s
        cp s before
        refused 3 "'s'" score s
        has "$stderr" "remove it to start over"
        cmp s before
    done
    for ((n = 0; n < header - 8; n += header / 6)); do
        cp "$T/s" s
        printf '\001' | dd of=s bs=1 seek="$n" conv=notrunc status=none
        cp s before
        refused 3 "'s'" score s
        cmp s before
    done
    sed 's|aq\.store/2|aq.store/3|' "$T/s" >s
    refused 3 "the header is damaged" score s
    "$O"/tests/store_seal s
    refused 3 "schema is 'aq.store/3'" score s
}

@test "flags, counts, labels and tiles that cannot be are refused" {
    patch have/ '\002'
    refused 3 "damaged at layer 0, tile 0" score s
    for bytes in '\0\0\300\177' '\0\0\200\177' '\0\0\200\277'; do
        patch clip/ "$bytes"
        refused 3 "'clip/" aq-score ls s
    done
    patch s/ '\0\0\0\0\0\0\360\177'
    refused 3 "holds inf" aq-score ls s
    patch labels '\377\377\377\377'
    refused 3 "negative" aq-score ls s
    patch tile_first '\001'
    refused 3 "tile_first" aq-score ls s
    # two names of the same row
    LC_ALL=C sed -E 's|"s/([0-9a-f]{16})/0"|"s/\1/+"|' "$T/s" >s
    "$O"/tests/store_seal s
    refused 3 "no proper name" aq-score ls s
    # labels that are not those of the samples
    patch labels '\003'
    refused 3 "other samples" score s
}

@test "collect: sums that overflow are refused, the share of saturated elements is reported" {
    patch s/ '\377\377\377\377\377\377\357\177\377\377\377\377\377\377\357\177'
    aq 3 collected s || aq 1 collected s
    [ ! -e scores.json ]
    # 5 elements of the first group in the first sample; 13 tokens of 64 columns
    patch clip/ '\0\0\240\100'
    aq 0 collected s
    jq -e '.groups[0].saturation == 5 / (13 * 64) and ([.groups[1:][].saturation] | add) == 0' scores.json
}

@test "collect: a run that asks for other samples, method, dtype or rounding than the store has" {
    refused 3 "has 4 samples" collected "$T/s" '._aq.num_calib_samples = 9 | ._aq.score_samples = 9'
    refused 3 "more than num_calib_samples" collected "$T/s" '._aq.score_samples = 5'
    refused 3 "another method" collected "$T/s" '.autoquant.method = "kl_div"'
    refused 3 "another dtype" collected "$T/s" '.model.dtype = "fp32"'
    refused 3 "another operand_rounding" collected "$T/s" '.autoquant.operand_rounding = "dtype"'
    refused 3 "normalization" collected "$T/s" '.autoquant.normalization = "none"'
}
