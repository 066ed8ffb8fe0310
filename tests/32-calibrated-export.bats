#!/usr/bin/env bats
# Calibrated candidates as checkpoints: what aq-export --solved writes is, to aq-eval, what the manifest is with --solved. GPTQ's
# codes are in the file; scales of inputs are in the norms in front, or beside the weights, or refused.
load helpers

F=$BATS_FILE_TMPDIR

setup_file() {
    cd "$REPO" || return
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 128 --intermediate 256 --vocab 2048 --scale 0.2 "$F/model"
    cp models/qwen3_vl_demo/checkpoint/tokenizer{,_config}.json "$F/model"
    aq-extract-lm -q -o "$F/lm.json" "$F/model"
    for i in $(seq 40); do seq -s" " $((i * 5)) $((i * 5 + 2 + i * 11 % 38)); done | "$O"/tests/make_tokens --sizes 40 -o "$F/tokens"
    aq-calib ranges -q --device cpu --lm "$F/lm.json" --prefix 40 -o "$F/ranges" "$F/tokens"
    jq -n --arg i4 "int4:block(-1:128):static" --arg i8 "int8:axis0:static" --arg s8 "int8:tensor:static" \
        --arg f4 "e2m1:nvfp4(16):dynamic@group" --arg a4 "e2m1:nvfp4(16):static" '{
        gptq: ["gptq{128,0.01,static,plain}/\($i4)", "none"], awq: ["awq{0.1,joint,all,identity}/\($i4)", "none"],
        clip: ["clip/\($i4)", "none"], full: ["clip/awq{0.1,joint,all,identity}/\($i4)", "none"], mse: ["mse{aq}/\($i4)", "none"],
        both: ["smooth{0.5}/gptq{128,0.01,static,plain}/\($i8)", "int8:token:dynamic"], smooth: ["smooth{0.5}/\($i8)", $s8], int8: [$i8, $s8],
        tokens: [$i8, "int8:token:dynamic"], sweep: ["sweep/\($f4)", "none"], "4o6": ["4o6/\($f4)", "none"],
        fp4awq: ["awq{0.1,joint,all,identity}/\($f4)", $a4], fp4: [$f4, $a4]}' >"$F/treatments"
    for n in gptq awq clip full both smooth fp4awq; do quant_json "$n" >"$F/$n.json"; done
    aq-calib solve -q --device cpu --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" -o "$F/solved" "$F"/{gptq,awq,clip,full,both,smooth,fp4awq}.json
}

setup() {
    cd "$REPO" || return
    T=$BATS_TEST_TMPDIR
}

# 16 digits of sha256, as treatments are called in files
treatment_id() {
    jq -j --arg n "$1" '.[$n] | "\(.[0])|\(.[1])"' "$F/treatments" | sha256sum | cut -c1-16
}

quant_json() {
    jq --arg n "$1" --arg id "$(treatment_id "$1")" '{schema: "aq.quant/1", base_format_name: "X", quant_granularity: {name: "default", quant_cfg_overrides: {}},
        quant_cfg: {}, algorithm: "max", effective_quantizer_summary: {}, treatment: {w: .[$n][0], a: .[$n][1]}, treatment_id: $id, label: "CUSTOM_0",
        bits: {modelopt40: 4.0, modelopt47: 4.0, storage: 4.125}, supported: true, reason: null}' "$F/treatments"
}

# recipe NAME...: a manifest whose groups (qkv, o, gate_up, down) take these in turn
recipe() {
    jq --argjson treatments "$(cat "$F/treatments")" --argjson cycle "$(printf '%s\n' "$@" | jq -R . | jq -sc .)" -f tests/manifest.jq "$F/lm.json" |
        jq --arg lm "$(jq -r .digest.sample "$F/lm.json")" '.aq = {schema: "aq.manifest/2", normalization: "per_token", identity: {lm: $lm, prefix: 40}}'
}

export_to() {
    aq-export -q --lm "$F/lm.json" --ranges "$F/ranges" --solved "$F/solved" -o "$@"
}

# same FAR OUT MANIFEST: the checkpoint's KL is the manifest's, FAR relative
same() {
    rm -rf "$T/ev"
    aq 0 aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" --solved "$F/solved" -o "$T/ev" "$3" "$2"
    jq -se --argjson far "$1" 'map(.all.kl.mean) | .[0] > 1e-4 and ((.[0] - .[1]) | fabs) <= $far * .[0]' "$T/ev/1.json" "$T/ev/2.json" >/dev/null ||
        { jq .all.kl.mean "$T/ev/1.json" "$T/ev/2.json"; return 1; }
}

# header FILE: the JSON of a safetensors file
header() {
    head -c $((8 + $(od -An -t u8 -N 8 "$1"))) "$1" | tail -c +9
}

# bytes_of FILE TENSOR: where its bytes are in the file
bytes_of() {
    echo $((8 + $(od -An -t u8 -N 8 "$1") + $(header "$1" | jq --arg t "$2" '.[$t].data_offsets[0]')))
}

tensors() {
    header "$1/model.safetensors" | jq -r 'to_entries[] | select(.key != "__metadata__") | "\(.key) \(.value.dtype) \(.value.shape | tojson)"' | sort
}

@test "compressed-tensors: codes and ranges that were solved, scales in the norms" {
    local far names
    # 1e-6: sums in fp32 in another order. A quantized activation may fall on the other side of a tie, and weights whose scale the
    # file rounds have other codes: 1e-2.
    while read -r far names; do
        # shellcheck disable=SC2086 # words
        recipe $names >"$T/m.json"
        rm -rf "$T/out"
        aq 0 export_to "$T/out" --engine vllm:sm100 "$T/m.json"
        same "$far" "$T/out" "$T/m.json"
    done <<'R'
1e-6 gptq
1e-6 full gptq full clip
1e-6 sweep 4o6
1e-2 both tokens both tokens
1e-2 smooth int8
1e-4 fp4awq fp4
1e-2 awq mse
R
    recipe awq gptq >"$T/m.json"
    aq 0 export_to "$T/said" --engine vllm "$T/m.json"
    has "$(cat "$T/said/CHECK.md")" "| 1 | gate_up | the norm in front: model.layers.1.post_attention_layernorm.weight |"
    aq 0 export_to "$T/one" --threads 1 --engine vllm "$T/m.json"
    cmp "$T/one/model.safetensors" "$T/said/model.safetensors"
}

@test "GPTQ's codes in the file are those of solved.safetensors" {
    recipe gptq >"$T/m.json"
    aq 0 export_to "$T/out" --engine trtllm --format modelopt "$T/m.json"
    local from to w=model.layers.0.self_attn.o_proj.weight codes
    codes=codes/$(treatment_id gptq)/1.0
    # there two columns share a byte, here two rows: the first row is all nibbles there, and the low ones here
    from=$(od -An -v -t x1 -j "$(bytes_of "$F/solved" "$codes")" -N 64 "$F/solved" | sed 's/ \(.\)\(.\)/\2\1/g' | tr -d '\n')
    to=$(od -An -v -t x1 -j "$(bytes_of "$T/out/model.safetensors" "$w")" -N 128 "$T/out/model.safetensors" | sed 's/ .\(.\)/\1/g' | tr -d '\n')
    is "${#from}" 128
    is "$to" "$from"
}

@test "ModelOpt's layout: pre_quant_scale where no norm is in front; static ranges are those of scaled inputs" {
    local far n
    while read -r far n; do
        recipe "$n" >"$T/m.json"
        rm -rf "$T/out"
        aq 0 export_to "$T/out" --engine trtllm --format modelopt "$T/m.json"
        same "$far" "$T/out" "$T/m.json"
        is "$n $(tensors "$T/out" | grep -c pre_quant_scale)" "$n 4"
        is "$(tensors "$T/out" | grep pre_quant_scale | head -n 1)" "model.layers.0.mlp.down_proj.pre_quant_scale BF16 [256]"
    done <<'R'
1e-6 awq
1e-6 full
1e-2 smooth
1e-4 fp4awq
R
    is "$(jq -c '.quantization.quantized_layers | [."model.layers.0.self_attn.o_proj", ."model.layers.0.self_attn.q_proj"]' "$T/out/hf_quant_config.json")" \
        '[{"quant_algo":"NVFP4_AWQ","group_size":16,"has_zero_point":false,"pre_quant_scale":true},{"quant_algo":"NVFP4","group_size":16}]'
    has "$(cat "$T/out/CHECK.md")" "| 0 | down | pre_quant_scale, beside the weights |"
}

@test "GGUF: solved codes, and norms with scales" {
    recipe gptq >"$T/m.json"
    aq 0 aq-export -q --engine llamacpp --lm "$F/lm.json" --solved "$F/solved" -o "$T/out.gguf" "$T/m.json"
    same 1e-6 "$T/out.gguf" "$T/m.json"
    recipe full gptq full clip >"$T/m.json"
    rm "$T/out.gguf"
    aq 0 aq-export -q --engine llamacpp --lm "$F/lm.json" --solved "$F/solved" -o "$T/out.gguf" "$T/m.json"
    same 1e-6 "$T/out.gguf" "$T/m.json"
}

@test "GGUF of a Llama, whose rows of q and k are in another order there" {
    local w="gptq{128,0.01,static,plain}/int4:block(-1:32):static"
    cp -r tests/oracle/export/families/llama "$T/model"
    cp tests/oracle/export/tokenizers/llama3/* "$T/model"
    aq 0 aq-extract-lm -q -o "$T/lm.json" "$T/model"
    for i in $(seq 20); do seq -s" " $((i * 7)) $((i * 7 + 20)); done | "$O"/tests/make_tokens --sizes 20 -o "$T/tokens"
    aq 0 aq-calib ranges -q --device cpu --lm "$T/lm.json" --prefix 20 -o "$T/ranges" "$T/tokens"
    quant_json gptq | jq --arg w "$w" --arg id "$(printf '%s|none' "$w" | sha256sum | cut -c1-16)" '.treatment.w = $w | .treatment_id = $id' >"$T/q.json"
    aq 0 aq-calib solve -q --device cpu --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" -o "$T/solved" "$T/q.json"
    jq --argjson treatments "$(jq -n --arg w "$w" '{gptq: [$w, "none"]}')" --argjson cycle '["gptq"]' -f tests/manifest.jq "$T/lm.json" >"$T/m.json"
    aq 0 aq-export -q --engine llamacpp --lm "$T/lm.json" --solved "$T/solved" -o "$T/out.gguf" "$T/m.json"
    F=$T same 1e-6 "$T/out.gguf" "$T/m.json"
}

@test "what is refused: no norm in front, no --solved, another's or a damaged one, recipe files" {
    recipe awq >"$T/m.json"
    refused 3 "no norm is in front to take its scale, and compressed-tensors has no factor of inputs" export_to "$T/out" --engine vllm "$T/m.json"
    has "$stderr" "nearest candidate of this manifest that is served: "
    refused 3 "o_proj: candidate 'awq'" export_to "$T/out.gguf" --engine llamacpp "$T/m.json"
    aq 3 aq-export --check --engine vllm --lm "$F/lm.json" "$T/m.json"
    is "$(jq -sc 'map(.verdict)' <<<"$output")" '["near","no","near","no","near","no","near","no"]'
    recipe fp4awq >"$T/m.json"
    refused 3 "has no factor of inputs (pre_quant_scale)" export_to "$T/out" --engine vllm:sm100 --format modelopt "$T/m.json"
    recipe gptq >"$T/m.json"
    refused 2 "has a calibrated candidate in layers.0.self_attn.q_proj: --solved is needed" aq-export -q --engine vllm --lm "$F/lm.json" -o "$T/out" "$T/m.json"
    refused 3 "was calibrated here" aq-export -q --format autoround --lm "$F/lm.json" "$T/m.json"
    sed 's/gptq{128,0.01,static/gptq{128,0.02,static/' "$T/m.json" >"$T/other.json"
    refused 3 "has no candidate" export_to "$T/out" --engine vllm "$T/other.json"
    cp "$F/solved" "$T/s"
    printf '\x55' | dd of="$T/s" bs=1 seek="$(bytes_of "$F/solved" "codes/$(treatment_id gptq)/7.0")" conv=notrunc status=none
    refused 3 "is damaged: its digest is another" aq-export -q --engine vllm --lm "$F/lm.json" --solved "$T/s" -o "$T/out" "$T/m.json"
    [ ! -e "$T/out" ]
}

@test "a family without norms in front: OLMo 2 says so in its groups, and no scale is written" {
    aq 0 aq-extract-lm -q -o "$T/lm.json" tests/oracle/export/families/olmo2
    is "$(jq -c '[.groups[] | select(.layer == 0) | .norm]' "$T/lm.json")" '[false,null,false,null]'
    is "$(jq -c '[.groups[].norm] | unique' "$F/lm.json")" '[null]'
    jq --argjson treatments "$(cat "$F/treatments")" --argjson cycle '["fp4awq"]' -f tests/manifest.jq "$T/lm.json" >"$T/m.json"
    aq 3 aq-export --check --engine vllm:sm100 --lm "$T/lm.json" "$T/m.json"
    is "$(jq -sr 'map(.verdict) | unique[]' <<<"$output")" no
}
