#!/usr/bin/env bats
# aq-eval: against transformers in float64 (tests/oracle/eval.json), the same bits for any threads, shards and memory, runs that
# continue, several operands and domains in one pass, and what is refused.
load helpers

F=$BATS_FILE_TMPDIR
V=$REPO/tests/oracle/eval.json

setup_file() {
    cd "$REPO" || return
    # a random model and 40 samples of 3 to 40 tokens: two tiles
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --scale 0.1 "$F/model"
    aq-extract-lm -o "$F/lm.json" "$F/model"
    for i in $(seq 90); do seq -s" " $((i * 5)) $((i * 5 + 2 + i * 11 % 38)); done >"$F/ids"
    "$O"/tests/make_tokens --sizes 90 -o "$F/tokens" <"$F/ids"
    head -n 9 "$F/ids" | "$O"/tests/make_tokens --sizes 9 -o "$F/few"
    aq-calib ranges --lm "$F/lm.json" --prefix 90 -o "$F/ranges" "$F/tokens"
    made "$F/lm.json" '{"a": ["int4:axis0:static", "none"], "b": ["e4m3:tensor:static", "int8:tensor:static"]}' '["a", "b", "NONE"]' >"$F/m.json"
    made "$F/lm.json" '{"a": ["int8:axis0:static", "int8:token:dynamic"]}' '["a"]' >"$F/n.json"
    made "$F/lm.json" '{"a": ["int8:axis0:static", "none"]}' '["NONE"]' >"$F/nothing.json"
    measure -o "$F/whole.json" "$F/m.json"
}

setup() {
    cd "$REPO" || return
    T=$BATS_TEST_TMPDIR
}

# made LM TREATMENTS CYCLE: a manifest whose groups take the treatments in turn
made() {
    jq --argjson treatments "$2" --argjson cycle "$3" -f "$REPO/tests/manifest.jq" "$1"
}

measure() {
    aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" "$@"
}

# close FOUND EXPECTED KEY...: numbers of two documents, within a share of the expected one
close() {
    local found=$1 expected=$2 share=$3
    shift 3
    jq -en --slurpfile f "$found" --argjson e "$expected" --argjson share "$share" \
        '[$ARGS.positional[] as $k | ($f[0].all | getpath($k / ".")) as $a | ($e | getpath($k / ".")) as $b
          | if ((($a - $b) | fabs) <= $share * ($b | fabs) + 1e-15) then empty else "\($k): found \($a), expected \($b)" end]
         | if . == [] then true else error(join("; ")) end' --args "$@" >/dev/null || return 1
}

# replay INDEX: a case of the vectors
replay() {
    local c lm share=1e-4
    c=$(jq -c ".cases[$1]" "$V")
    lm=$T/lm-$1.json
    aq 0 aq-extract-lm -q -o "$lm" "$(jq -r .model <<<"$c")"
    jq -r '.samples[] | map(tostring) | join(" ")' <<<"$c" | "$O"/tests/make_tokens --sizes "$(jq '.samples | length' <<<"$c")" -o "$T/tok-$1"
    made "$lm" "$(jq .treatments <<<"$c")" "$(jq .cycle <<<"$c")" >"$T/m-$1.json"
    local ranges=()
    if [ "$(jq .acts <<<"$c")" = true ]; then
        aq 0 aq-calib ranges -q --lm "$lm" --prefix "$(jq '.samples | length' <<<"$c")" -o "$T/ranges-$1" "$T/tok-$1"
        ranges=(--ranges "$T/ranges-$1")
        share=0.02 # one activation that falls on the other side of a rounding moves a token
    fi
    aq 0 aq-eval -q --reference "$lm" --domain t="$T/tok-$1" "${ranges[@]}" -o "$T/e-$1.json" "$T/m-$1.json"
    echo "case $(jq -r .name <<<"$c")"
    is "$(jq -c '.all | [.samples, .positions]' "$T/e-$1.json")" "$(jq -c '.expected | [.samples, .positions]' <<<"$c")"
    close "$T/e-$1.json" "$(jq .expected <<<"$c")" $share kl.mean reverse_kl.mean top1
    close "$T/e-$1.json" "$(jq .expected <<<"$c")" 1e-5 ppl_reference loss_reference
    if [ $share = 1e-4 ]; then
        close "$T/e-$1.json" "$(jq .expected <<<"$c")" 1e-4 kl.se kl.p50 kl.p99 kl.max reverse_kl.p99 first_share
        close "$T/e-$1.json" "$(jq .expected <<<"$c")" 1e-5 ppl loss
    fi
}

@test "weights and activations of the demo checkpoint are measured as in float64" {
    replay 0
    replay 1
}

@test "so are the tiny models of all families" {
    local i
    for i in $(seq 2 $(($(jq '.cases | length' "$V") - 1))); do replay "$i"; done
}

@test "a model costs nothing against itself, to the last bit, nor does a recipe that replaces nothing" {
    local o
    for o in "$F/lm.json" "$F/nothing.json"; do
        aq 0 measure "$o"
        is "$(jq -c '.all | [.kl.mean, .kl.max, .reverse_kl.mean, .top1, .loss == .loss_reference, .first_share]' <<<"$output")" '[0,0,0,1,true,null]'
    done
}

@test "a receipt has every key, and says what it was made from" {
    is "$(jq -c 'keys_unsorted' "$F/whole.json")" \
        '["schema","reference","operand","dtype","backend","noise_floor","predicted","predicted_interval","domains","all","residual","provenance"]'
    is "$(jq -c '.domains.text | keys_unsorted' "$F/whole.json")" \
        '["samples","positions","kl","reverse_kl","top1","loss","loss_reference","ppl","ppl_reference","first_share"]'
    is "$(jq -c '.all.kl | keys_unsorted' "$F/whole.json")" '["mean","se","p50","p99","max","routing"]'
    is "$(jq -r '.schema + " " + .operand.kind + " " + .operand.digest' "$F/whole.json")" "aq.eval/1 manifest $(sha256sum <"$F/m.json" | cut -d' ' -f1)"
    is "$(jq -r .reference.digest "$F/whole.json")" "$(jq -r .digest.sample "$F/lm.json")"
    is "$(jq -c '.domains.text == .all' "$F/whole.json")" true
    aq 0 measure --dtype bf16 "$F/m.json"
    is "$(jq -c .noise_floor <<<"$output")" 0 # the CPU computes in fp32 either way
    is "$(jq -c .all <<<"$output")" "$(jq -c .all "$F/whole.json")"
}

@test "a prediction of the manifest is repeated" {
    jq '.selection += {effective_bits: 7.5, predicted_kl: {nats: 0.25, low: 0.125, high: 0.5, flagged: []}}' "$F/m.json" >"$T/m.json"
    aq 0 measure "$T/m.json"
    is "$(jq -c '[.operand.bits, .predicted, .predicted_interval]' <<<"$output")" '[7.5,0.25,{"low":0.125,"high":0.5}]'
    is "$(jq -c '.residual == .all.kl.mean - 0.25' <<<"$output")" true
    is "$(jq -c .residual "$F/whole.json")" null # nothing was predicted
}

@test "receipts side by side: rows, rank correlation, slope and coverage" {
    local i
    # measured 1e-3 times 1, 4, 2, 8; predicted as measured but for the order of two; the last is out of its interval
    for i in 1:1:1 2:4:2 3:2:4 4:8:8; do
        IFS=: read -r n kl p <<<"$i"
        jq --argjson kl "$kl" --argjson p "$p" '.all.kl.mean = $kl / 1000 | .predicted = $p / 1000
            | .predicted_interval = {low: ($p / 3000), high: (if $p == 8 then 0.001 else $p * 3 / 1000 end)}' "$F/whole.json" >"$T/$n.json"
    done
    aq 0 aq-eval receipts --json "$T"/{1,2,3,4}.json
    is "$(jq -c '[.schema, (.rows | length), .coverage]' <<<"$output")" '["aq.receipts/1",4,0.75]'
    is "$(jq '.rank_correlation' <<<"$output")" 0.8
    # logs in units of log 2: measured 0 2 1 3, predicted 0 1 2 3: slope 0.8, squares left 1.8 over two degrees
    is "$(jq '.slope - 0.8 | fabs < 1e-12' <<<"$output")" true
    is "$(jq '.residual - ((0.9 | sqrt) * (2 | log)) | fabs < 1e-12' <<<"$output")" true
    aq 0 aq-eval receipts --tsv "$T/2.json" "$F/whole.json"
    is "${lines[0]}" $'digest\tbits\tpredicted\tlow\thigh\tkl\tse'
    is "$(cut -f 2,3,6 <<<"${lines[1]}")" $'\t0.002\t0.004'
    is "$(cut -f 3-5 <<<"${lines[2]}")" $'\t\t'
    aq 0 aq-eval receipts --json "$T"/{1,2}.json
    is "$(jq -c '[.rank_correlation, .slope]' <<<"$output")" '[null,null]'
    jq '.provenance.inputs.reference = "0"' "$F/whole.json" >"$T/x.json"
    refused 3 "are of different references" aq-eval receipts --json "$F/whole.json" "$T/x.json"
    refused 3 "expected" aq-eval receipts --json "$F/m.json"
    refused 2 "exactly one of" aq-eval receipts "$F/whole.json"
}

@test "the same bits for any number of threads and any memory" {
    local n
    for n in 1 2 8; do
        aq 0 measure --threads $n -o "$T/$n.json" "$F/m.json"
        cmp "$T/$n.json" "$F/whole.json"
    done
    aq 1 measure --memory 1M "$F/m.json"
    [[ $stderr =~ "is too little: one tile needs "([0-9]+)" MB" ]]
    aq 0 measure --memory "${BASH_REMATCH[1]}000000" -o "$T/small.json" "$F/m.json"
    cmp "$T/small.json" "$F/whole.json"
}

@test "the same bits from any number of shards, in any order" {
    local n k
    for n in 1 3 7; do
        for k in $(seq $n); do aq 0 measure --shard $k/$n -o "$T/$n-$k" "$F/m.json"; done
        # shellcheck disable=SC2046
        aq 0 aq-eval merge -o "$T/$n.json" $(printf "$T/$n-%s " $(seq $n | tac))
        cmp "$T/$n.json" "$F/whole.json"
    done
    # whole tiles may be there twice
    aq 0 aq-eval merge -o "$T/twice.json" "$T"/3-* "$T/1-1"
    cmp "$T/twice.json" "$F/whole.json"
    refused 3 "is in none of the parts" aq-eval merge "$T/3-1" "$T/3-2"
    measure --shard 1/3 -o "$T/other" "$F/n.json"
    refused 3 "differ in 'operands'" aq-eval merge "$T/3-1" "$T/other"
    printf '\x01' | dd of="$T/3-1" bs=1 seek=$(($(stat -c %s "$T/3-1") - 1)) conv=notrunc status=none
    refused 3 "its digest does not fit" aq-eval merge "$T"/3-*
}

@test "an interrupted run continues, and one of something else starts over" {
    aq 0 measure --shard 1/3 -o "$T/part" "$F/m.json"
    cp "$T/part" "$T/e.json.part"
    aq 0 aq-eval --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" -o "$T/e.json" "$F/m.json"
    [[ $stderr =~ ([0-9]+)" of "[0-9]+" tiles were done before" ]]
    [ "${BASH_REMATCH[1]}" -gt 0 ]
    cmp "$T/e.json" "$F/whole.json"
    [ ! -e "$T/e.json.part" ]
    # what was done is not computed again: a value of it stays as it is
    cp "$T/part" "$T/n.json.part"
    aq 0 aq-eval --device cpu --reference "$F/lm.json" --domain text="$F/tokens" -o "$T/n.json" "$F/n.json"
    has "$stderr" "starting over: '$T/n.json.part' is of another evaluation"
    echo x >"$T/m.json.part"
    aq 0 aq-eval --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" -o "$T/m.json" "$F/m.json"
    has "$stderr" "starting over: "
    cmp "$T/m.json" "$F/whole.json"
}

@test "a killed run leaves what it has done, and no receipt" {
    ! sanitized || skip "a sanitizer build takes no preloaded library"
    local memory
    aq 1 measure --memory 1M "$F/m.json"
    [[ $stderr =~ "one tile needs "([0-9]+)" MB" ]]
    memory=${BASH_REMATCH[1]}000000 # some of the tiles at a time
    # the first checkpoint can be written, what comes after it cannot
    run env LD_PRELOAD="$O/tests/fault.so" FAULT=rename:EIO:2 aq-eval -q --device cpu --memory $memory --reference "$F/lm.json" \
        --domain text="$F/tokens" --domain again="$F/tokens" --ranges "$F/ranges" -o "$T/e.json" "$F/m.json"
    is "$status" 1
    [ ! -e "$T/e.json" ]
    # what goes on writes checkpoints too
    aq 0 aq-eval --device cpu --memory $memory --reference "$F/lm.json" --domain text="$F/tokens" --domain again="$F/tokens" --ranges "$F/ranges" -o "$T/e.json" "$F/m.json"
    [[ $stderr =~ ([0-9]+)" of 8 tiles were done before" ]]
    [ "${BASH_REMATCH[1]}" -gt 0 ]
    is "$(jq -c .domains.again "$T/e.json")" "$(jq -c .all "$F/whole.json")"
}

@test "several operands and domains share one pass" {
    aq 0 measure --domain few="$F/few" -o "$T/dir" "$F/m.json" "$F/lm.json" "$F/n.json"
    is "$(cd "$T/dir" && echo *)" "1.json 2.json 3.json"
    is "$(jq -c .domains.text "$T/dir/1.json")" "$(jq -c .all "$F/whole.json")"
    is "$(jq -c '[.all.samples, .domains.few.samples, .all.positions - .domains.text.positions - .domains.few.positions]' "$T/dir/1.json")" '[99,9,0]'
    is "$(jq -c .all.kl.max "$T/dir/2.json")" 0
    measure -o "$T/n.json" "$F/n.json"
    is "$(jq -c .domains.text "$T/dir/3.json")" "$(jq -c .all "$T/n.json")"
    refused 2 "-o DIR is needed" measure "$F/m.json" "$F/n.json"
}

@test "overlapping windows count each position once" {
    jq -nc '{input_ids: [range(1; 21)]}' >"$T/ids.jsonl"
    aq 0 aq-calib tokens -q --window 8 --stride 4 -o "$T/windows" "$T/ids.jsonl"
    aq 0 aq-eval -q --reference "$F/lm.json" --domain w="$T/windows" --ranges "$F/ranges" "$F/m.json"
    is "$(jq -c '[.all.samples, .all.positions]' <<<"$output")" '[4,19]'
}

@test "one sample has no standard error, and says so" {
    head -n 1 "$F/ids" | "$O"/tests/make_tokens --sizes 1 -o "$T/one"
    aq 0 aq-eval --reference "$F/lm.json" --domain t="$T/one" --ranges "$F/ranges" -o "$T/e.json" "$F/m.json"
    has "$stderr" "warning: t: one sample has no standard error"
    is "$(jq -c '[.all.kl.se, .all.samples]' "$T/e.json")" '[null,1]'
}

@test "what is typed wrongly is refused" {
    refused 2 "--reference is needed" aq-eval --domain t="$F/tokens" "$F/m.json"
    refused 2 "--domain NAME=TOKENS is needed" aq-eval --reference "$F/lm.json" "$F/m.json"
    refused 2 "is not NAME=TOKENS" aq-eval --reference "$F/lm.json" --domain "$F/tokens" "$F/m.json"
    refused 2 "is given twice" measure --domain text="$F/few" "$F/m.json"
    refused 2 "--shard: '4/3'" measure --shard 4/3 -o "$T/p" "$F/m.json"
    refused 2 "-o PART is needed" measure --shard 1/3 "$F/m.json"
    refused 2 "--ranges is needed" aq-eval -q --reference "$F/lm.json" --domain t="$F/tokens" "$F/m.json"
}

@test "files that do not belong together are refused" {
    echo '{}' >"$T/x.json"
    refused 3 "neither a manifest nor an lm.json" measure "$T/x.json"
    jq '.aq = {schema: "aq.manifest/2", identity: {lm: "0"}}' "$F/m.json" >"$T/m.json"
    refused 3 "was made from another checkpoint" measure "$T/m.json"
    jq 'del(.selection)' "$F/m.json" >"$T/old.json"
    refused 3 "neither a manifest" measure <(jq 'del(.selection, .autoquant_state)' "$F/m.json")
    refused 3 "holds no recipe" measure "$T/old.json"
    "$O"/tests/make_tokens --sizes 1 --padding max_length --seq-len 12 -o "$T/padded" <<<"1 2 3"
    refused 3 "is padded to 12 tokens" aq-eval --reference "$F/lm.json" --domain t="$T/padded" "$F/m.json"
    "$O"/tests/make_tokens --sizes 1 -o "$T/single" <<<"7"
    refused 3 "nothing is predicted" aq-eval --reference "$F/lm.json" --domain t="$T/single" "$F/lm.json"
}

@test "an operand of another vocabulary is refused" {
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --vocab 999 "$T/model"
    aq-extract-lm -q -o "$T/lm.json" "$T/model"
    refused 3 "has a vocabulary of 999, the reference one of" measure "$T/lm.json"
    refused 3 "has a vocabulary of 999, the reference one of" measure "$T/model"
}

# with_nan TENSOR: $T/bad.json, the model with a NaN in it
with_nan() {
    rm -rf "$T/bad"
    cp -r "$F/model" "$T/bad"
    local begin
    begin=$(jq --arg n "$1" '.tensors[] | select(.name == $n).begin' "$F/lm.json")
    printf '\xc0\x7f' | dd of="$T/bad/$(jq -r '.files[0].name' "$F/lm.json")" bs=1 seek="$begin" conv=notrunc status=none
    aq-extract-lm -q -o "$T/bad.json" "$T/bad"
}

@test "a number that is none is named with its layer and sample" {
    with_nan layers.1.mlp.down_proj.weight
    refused 3 "layer 1: its output is not finite in sample 0 of 'text'" measure "$T/bad.json"
    refused 3 "reference: layer 1: its output" aq-eval -q --reference "$T/bad.json" --domain text="$F/tokens" "$F/lm.json"
}

@test "logits that are NaN are named with their sample" {
    with_nan norm.weight
    refused 3 "head: a logit is not finite in sample 0 of 'text'" measure "$T/bad.json"
    refused 3 "reference: head: a logit is not finite in sample 0 of 'text'" aq-eval -q --reference "$T/bad.json" --domain text="$F/tokens" "$F/lm.json"
}

# served FORMAT TREATMENTS CYCLE [OPTION...]: a recipe of the random model as aq-export writes it, in $T/FORMAT, and as a manifest
served() {
    local format=$1
    made "$F/lm.json" "$2" "$3" | jq '.aq = {schema: "aq.manifest/2", identity: {prefix: 90}}' >"$T/$format.json"
    shift 3
    AQ_CONF=$REPO/conf aq 0 aq-export -q --force "$@" --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/$format" "$T/$format.json"
    aq 0 measure -o "$T/$format-both" "$T/$format.json" "$T/$format"
    jq -c '[.operand.kind, .all.kl.mean]' "$T/$format-both"/*.json
}

# agrees FORMAT SHARE: the file costs what its recipe does
agrees() { close "$T/$1-both/2.json" "$(jq .all "$T/$1-both/1.json")" "$2" kl.mean reverse_kl.mean loss; }

@test "a checkpoint directory as it is costs nothing" {
    aq 0 measure "$F/model"
    is "$(jq -c '[.operand.kind, .all.kl.max, .all.top1]' <<<"$output")" '["checkpoint",0,1]'
}

@test "somebody else's checkpoint: zero points, groups by index, quantized activations, as transformers computes it" {
    local v=$REPO/tests/oracle/eval_ct.json d=tests/oracle/eval_ct
    aq-extract-lm -q -o "$T/lm.json" tests/oracle/families/llama
    jq -r '.samples[] | map(tostring) | join(" ")' "$v" | "$O"/tests/make_tokens --sizes 7 -o "$T/tokens"
    aq 0 aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" -o "$T/e.json" $d
    close "$T/e.json" "$(jq .expected "$v")" 1e-4 kl.mean reverse_kl.mean kl.p99 kl.max top1 first_share
    close "$T/e.json" "$(jq .expected "$v")" 1e-5 loss ppl loss_reference
    # an expression finds at the beginning of a name, as Python's match does
    cp -r $d "$T/prefix"
    jq '.quantization_config.config_groups.group_0.targets = ["re:.*self_attn\\.(q|k|v)"]' $d/config.json >"$T/prefix/config.json"
    aq 0 aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" "$T/prefix"
    is "$(jq -c .all <<<"$output")" "$(jq -c .all "$T/e.json")"
    # what is not read is named
    changed() { rm -rf "$T/d"; cp -r $d "$T/d"; jq "$1" $d/config.json >"$T/d/config.json"; }
    other() { refused 3 "$1" aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" "$T/d"; }
    changed '.quantization_config.quant_method = "awq"'; other "quantization 'awq' is not read"
    changed '.quantization_config.transform_config = {x: 1}'; other "transforms (transform_config) are not computed"
    changed '.quantization_config.sparsity_config = {format: "sparse-24"}'; other "sparse weights (sparsity_config) are not read"
    changed '.quantization_config.config_groups |= del(.group_3)'; other "model.layers.0.mlp.down_proj: it is quantized, and no config group names it"
    changed '.quantization_config.config_groups.group_2.input_activations.symmetric = false'; other "asymmetric activations are not computed"
    changed 'del(.quantization_config)'; other "is quantized, and"
}

@test "a checkpoint with a missing scale is refused, and the tensor named" { # of ModelOpt: 47-operands.bats
    local missing
    aq-extract-lm -q -o "$T/lm.json" tests/oracle/families/llama
    "$O"/tests/make_tokens --sizes 2 -o "$T/tokens" <<<$'5 9 13 2 7 40\n1 2 3 4'
    for missing in layers.1.mlp.down_proj.weight_scale layers.0.self_attn.q_proj.weight_scale; do
        rm -rf "$T/d"
        cp -r tests/oracle/eval_ct "$T/d"
        sed -i "s/$missing\"/${missing%?}f\"/" "$T/d/model.safetensors"
        refused 3 "tensor 'model.$missing' is missing" aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" "$T/d"
    done
}

@test "what aq-export writes for vLLM costs what its recipe does" {
    # scales in fp32, powers of two, or of two levels: to the last bits; packed integers have scales of 16 bits
    served compressed-tensors '{"a": ["e4m3:axis0:static", "e4m3:token:dynamic"], "b": ["int8:axis0:static", "none"], "c": ["e2m1:nvfp4(16):dynamic", "none"],
        "d": ["e2m1:mx(32):dynamic", "none"], "e": ["e4m3:tensor:static", "e4m3:tensor:static"]}' '["a", "c", "d", "e"]' --engine vllm:sm90
    agrees compressed-tensors 1e-3
    rm -r "$T"/compressed-tensors*
    served compressed-tensors '{"a": ["int4:block(-1:32):static", "none"], "b": ["int8:axis0:static", "int8:token:dynamic"]}' '["a", "b"]' --engine vllm:sm90
    agrees compressed-tensors 0.05
}

@test "so does ModelOpt's layout" {
    served modelopt '{"a": ["e4m3:tensor:static", "e4m3:tensor:static"], "b": ["e2m1:nvfp4(16):dynamic", "none"], "c": ["e4m3:axis0:static", "e4m3:token:dynamic"]}' \
        '["a", "b", "c", "NONE"]' --format modelopt --engine trtllm
    agrees modelopt 0.02 # the members of a group share one range there
}

@test "and GGUF files" {
    # the embedded model has a tokenizer, which a GGUF file holds
    local demo=models/qwen3_vl_demo/checkpoint
    aq-extract-lm -q -o "$T/lm.json" $demo
    head -n 8 datasets/demo/captions_heldout.txt >"$T/captions"
    aq-calib tokens -q --tokenizer $demo -o "$T/tokens" "$T/captions"
    made "$T/lm.json" '{"a": ["int8:block(-1:32):static", "none"], "b": ["int4:block(-1:32):static", "none"], "c": ["e2m1:mx(32):dynamic", "none"],
        "d": ["e2m1:nvfp4(16):dynamic", "none"]}' '["a", "b", "c", "NONE", "d"]' >"$T/m.json"
    AQ_CONF=$REPO/conf aq 0 aq-export -q --force --engine llamacpp --lm "$T/lm.json" -o "$T/m.gguf" "$T/m.json"
    aq 0 aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" -o "$T/gguf-both" "$T/m.json" "$T/m.gguf"
    agrees gguf 0.05 # scales of 16 bits
    is "$(jq -r .operand.kind "$T/gguf-both/2.json")" gguf
    # rows of heads come back where they were: of a model that is only copied
    cp -r tests/oracle/families/llama "$T/llama"
    jq '.model.vocab |= with_entries(select(.value < 61)) | .model.merges = [] | .added_tokens = []' tests/data/tiny-tokenizer/tokenizer.json >"$T/llama/tokenizer.json"
    aq-extract-lm -q -o "$T/llama.json" "$T/llama"
    made "$T/llama.json" '{"a": ["int8:block(-1:32):static", "none"]}' '["NONE"]' >"$T/none.json"
    AQ_CONF=$REPO/conf aq 0 aq-export -q --engine llamacpp --lm "$T/llama.json" -o "$T/llama.gguf" "$T/none.json"
    "$O"/tests/make_tokens --sizes 2 -o "$T/ids" <<<$'5 9 13 2 7 40\n1 2 3 4'
    aq 0 aq-eval -q --reference "$T/llama.json" --domain t="$T/ids" "$T/llama.gguf"
    is "$(jq -c '[.operand.kind, .all.kl.max]' <<<"$output")" '["gguf",0]'
    # another model's file
    refused 3 "is not read as a model of family 'llama'" aq-eval -q --reference "$T/llama.json" --domain t="$T/ids" "$T/m.gguf"
    refused 3 "rope.freq_base is" aq-eval -q --reference <(jq '.arch.rope[0].theta = 777' "$T/llama.json") --domain t="$T/ids" "$T/llama.gguf"
}

@test "aq eval: the recipe of a sweep on the held-out captions, made once" {
    unset MAKEFLAGS MAKELEVEL MFLAGS
    export AQ_BIN=$BIN
    local goal=(PAIRS=wint4_afp16 GRANS=default SIZES=small BITS=8 TMP_ROOT="$T/tmp")
    local d=$T/tmp/model-experiments/lm_sensitivity/qwen3_vl_demo/select/8/small
    aq 0 "$REPO/pipelines/aq" eval "${goal[@]}"
    has "$output" "eval.json: KL "
    is "$(jq -c '[.domains.heldout.samples, .operand.kind, .all.kl.mean > 0, .all.kl.mean < 0.01]' "$d/eval.json")" '[512,"manifest",true,true]'
    is "$(jq -r .operand.digest "$d/eval.json")" "$(sha256sum <"$d/mixed_autoquant_lm_quant_manifest.json" | cut -d' ' -f1)"
    # what transformers in fp32 finds (tests/oracle/receipt.py)
    local v=$REPO/tests/oracle/receipt.json
    is "$(jq -S '.selection.recipe | map_values(.candidate)' "$d/mixed_autoquant_lm_quant_manifest.json")" "$(jq -S .recipe "$v")"
    is "$(jq .all.positions "$d/eval.json")" "$(jq .expected.positions "$v")"
    close "$d/eval.json" "$(jq .expected "$v")" 1e-4 kl.mean kl.p99 reverse_kl.mean top1
    close "$d/eval.json" "$(jq .expected "$v")" 1e-5 ppl ppl_reference
    grep -q 'easured' "$d/eval.html"
    local before
    before=$(stat -c %y "$d/eval.json" "$d/eval.html")
    aq 0 "$REPO/pipelines/aq" eval "${goal[@]}"
    is "$(stat -c %y "$d/eval.json" "$d/eval.html")" "$before"
    # a directory beside it has a name, which is nobody's text
    local other=${d%/8/small}/'x;>canary;'
    mkdir -p "$other/small"
    cp "$d/eval.json" "$other/small/"
    rm "$d/eval.html"
    aq 0 "$REPO/pipelines/aq" eval "${goal[@]}"
    [ -s "$d/eval.html" ]
    is "$(find "$REPO" "$PWD" "$T" -maxdepth 1 -name canary)" ""
    rm -r "$other"
    aq 2 "$REPO/pipelines/aq" eval "${goal[@]}" OVERRIDES="dataset.captions_path=datasets/demo/captions_small.txt"
    has "$stderr" "no held-out text: dataset.captions_path of DATASET=demo_captions does not depend on dataset.size"
}
