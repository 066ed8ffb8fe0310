#!/usr/bin/env bats
# GGUF files of every family: the keys and bytes that llama.cpp's converter, engine and tokenizer were shown
# (tests/oracle/export_families.py), read back by aq-eval, and models that llama.cpp has no way to say.
load helpers

V=$REPO/tests/oracle/export/families.json

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
}

# as_shown CASE: both files of it
as_shown() {
    local kind
    mkdir "$1"
    cd "$1" || return
    for kind in plain coded; do
        "$REPO/tests/gguf_case" "$1" $kind $kind.gguf || return
        is "$("$O/tests/gguf_digest" --values $kind.gguf | sha256sum | cut -c1-64)" "$(jq -r --arg c "$1" --arg k $kind '.cases[$c][$k].keys' "$V")" || return
        "$O/tests/gguf_digest" $kind.gguf >found
        jq -r --arg c "$1" --arg k $kind '.cases[$c][$k].tensors | to_entries[] | "\(.key) \(.value)"' "$V" | diff - found || return
    done
    cd ..
}

@test "every family: keys, tokenizer and tensors that llama.cpp's converter, engine and tokenizer were shown" {
    local c
    is "$(jq '.cases | length' "$V")" "$(ls "$REPO/tests/oracle/export/families" | wc -l)"
    for c in $(jq -r '.cases | keys[]' "$V"); do
        as_shown "$c" || {
            echo "case $c"
            return 1
        }
    done
    is "$(jq '[.cases[] | .kl] | max < 1e-5' "$V")" true
    is "$(jq '[.cases | to_entries[] | select(.key | startswith("gemma") | not) | .value.kl_float32] | max < 1e-10' "$V")" true
    is "$(jq '[.cases[].kl_float32] | max < 1e-6' "$V")" true
    is "$(jq '[.cases[].values[][1]] | unique == [0]' "$V")" true
}

@test "aq-eval reads them back: without quantization KL is 0, with it what its own fake quantization has" {
    local c
    jq -n -c '[range(40)] | {input_ids: map(. * 11 + 3)}' >ids.jsonl
    aq 0 aq-calib tokens --format jsonl --size small=ids.jsonl -o tokens
    for c in llama llama_bias gemma2 phi3 olmo2; do
        mkdir $c && cd $c && "$REPO/tests/gguf_case" $c plain plain.gguf && "$REPO/tests/gguf_case" $c coded coded.gguf
        aq 0 aq-eval -q --reference lm.json --domain a=../tokens -o eval.json plain.gguf
        is "$c $(jq -c '.all.kl.mean' eval.json)" "$c 0"
        aq 0 aq-eval -q --reference lm.json --domain a=../tokens -o coded.json coded.gguf
        aq 0 aq-eval -q --reference lm.json --domain a=../tokens -o fake.json manifest.json
        # scales in fp16 and codes chosen for them are near what was scored
        is "$(jq -s '.[0].all.kl.mean / .[1].all.kl.mean | . > 0.9 and . < 1.1' coded.json fake.json)" true
        cd ..
    done
}

# unsaid FAMILY FILTER TEXT: a checkpoint of tests/oracle/families with that config.json is refused with that text
unsaid() {
    rm -rf tiny
    mkdir tiny
    cp "$REPO/tests/oracle/families/$1/model.safetensors" tiny/
    jq "$2" "$REPO/tests/oracle/families/$1/config.json" >tiny/config.json
    aq-extract-lm -q -o lm.json tiny || return
    jq --argjson treatments '{"q8": ["int8:block(-1:32):static", "none"]}' --argjson cycle '["NONE"]' -f "$REPO/tests/manifest.jq" lm.json >m.json
    refused 3 "has no way to say: $3" aq-export -q --engine llamacpp --lm lm.json -o out.gguf m.json && [ ! -e out.gguf ]
}

@test "what an architecture of llama.cpp computes in one way only is refused in any other" {
    unsaid gemma2 . "attention scaled otherwise"
    unsaid gemma2 '.query_pre_attn_scalar = 10 | .attn_logit_softcapping = null' "attention and logits without a cap"
    unsaid smollm3 . "which layers rotate"
    unsaid llama_dynamic . "rope of type 'dynamic'"
    unsaid llama_yarn_mscale . "YaRN with mscale"
    unsaid qwen2 '.rope_parameters = {rope_type: "llama3", rope_theta: 1e4, factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64}' \
        "rope of type 'llama3'"
    unsaid gemma3_text '.query_pre_attn_scalar = 10 | .rope_parameters.sliding_attention = {rope_type: "linear", rope_theta: 1e4, factor: 2}' "a scaled rotation in the layers that have a window"
}

@test "windows that llama.cpp ignores are said aloud; a tokenizer that it does not know is refused" {
    "$REPO/tests/gguf_case" mistral plain plain.gguf
    jq '.sliding_window = 16' source/config.json >c.json && mv c.json source/config.json
    aq-extract-lm -q -o lm.json source
    aq 0 aq-export --engine llamacpp --lm lm.json -o window.gguf manifest.json
    has "$stderr" "warning: llama.cpp's architecture 'llama' attends to all tokens, this model's layers to 16"
    cmp plain.gguf window.gguf
    jq '.model.byte_fallback = false' source/tokenizer.json >t.json && mv t.json source/tokenizer.json
    refused 3 "a tokenizer of this kind is not written as GGUF" aq-export -q --engine llamacpp --lm lm.json -o out.gguf manifest.json
    jq '.model = {}' source/tokenizer.json >t.json && mv t.json source/tokenizer.json
    refused 3 "a tokenizer of this kind" aq-export -q --engine llamacpp --lm lm.json -o out.gguf manifest.json
    [ ! -e out.gguf ]
}

@test "NVFP4 in feed-forward layers: only where the architecture applies its second level" {
    local nv='{"nv": ["e2m1:nvfp4(16):dynamic", "none"]}' down='["NONE", "NONE", "NONE", "nv"]'
    mkdir llama && cd llama && "$REPO/tests/gguf_case" llama plain plain.gguf
    jq --argjson treatments "$nv" --argjson cycle "$down" -f "$REPO/tests/manifest.jq" lm.json >nv.json
    aq 0 aq-export -q --engine llamacpp --lm lm.json -o nv.gguf nv.json
    has "$("$O/tests/gguf_digest" nv.gguf)" "blk.0.ffn_down.scale F32"
    cd .. && mkdir gemma2 && cd gemma2 && "$REPO/tests/gguf_case" gemma2 plain plain.gguf
    jq --argjson treatments "$nv" --argjson cycle "$down" -f "$REPO/tests/manifest.jq" lm.json >nv.json
    refused 3 "is 'wrong' for llamacpp" aq-export -q --force --engine llamacpp --lm lm.json -o no.gguf nv.json
}
