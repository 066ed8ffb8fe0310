#!/usr/bin/env bats
# What aq-eval reads of other people: GGUF files of every type, ModelOpt's algorithms (tests/oracle/eval_files), what an engine makes
# of an operand, tokenizers that differ, and layouts that are refused by name.
load helpers

F=$BATS_FILE_TMPDIR
V=$REPO/tests/oracle/eval_files.json

setup_file() {
    cd "$REPO" || return
    local kind options
    for kind in gguf modelopt; do
        mapfile -t options < <(jq -r ".$kind.model[]" "$V")
        "$O"/tests/random_checkpoint "${options[@]}" "$F/$kind"
        aq-extract-lm -q -o "$F/$kind.json" "$F/$kind"
    done
    jq -r '.samples[] | map(tostring) | join(" ")' "$V" | "$O"/tests/make_tokens --sizes 7 -o "$F/tokens"
}

setup() {
    cd "$REPO" || return
    T=$BATS_TEST_TMPDIR
}

# made LM TREATMENTS CYCLE: a manifest whose groups take the treatments in turn
made() {
    jq --argjson treatments "$2" --argjson cycle "$3" -f "$REPO/tests/manifest.jq" "$1" | jq '.aq = {schema: "aq.manifest/2", identity: {prefix: 7}}'
}

measure() { aq-eval -q --device cpu --reference "$F/modelopt.json" --domain t="$F/tokens" "$@"; }

# close FOUND EXPECTED SHARE KEY...: numbers of two documents, within a share of the expected one
close() {
    jq -en --argjson f "$1" --argjson e "$2" --argjson share "$3" '[$ARGS.positional[] as $k | ($f | getpath($k / ".")) as $a | ($e | getpath($k / ".")) as $b
          | if ((($a - $b) | fabs) <= $share * ($b | fabs)) then empty else "\($k): found \($a), expected \($b)" end]
         | if . == [] then true else error(join("; ")) end' --args "${@:4}" >/dev/null
}

# is_reference KIND: the model is the one that the vectors were made from
is_reference() { is "$(sha256sum <"$F/$1/model.safetensors" | cut -d' ' -f1)" "$(jq -r ".$1.sha256" "$V")"; }

@test "a GGUF file of Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K: its values bit for bit, and what transformers computes with them" {
    local file=tests/oracle/eval_files/types.gguf
    is_reference gguf
    is "$("$O/tests/gguf_digest" --decoded $file | cut -d' ' -f1,3 | sort)" "$(jq -r '.gguf.decoded | to_entries[] | "\(.key) \(.value)"' "$V" | sort)"
    is "$("$O/tests/gguf_digest" $file | cut -d' ' -f2 | sort -u | tr '\n' ' ')" "F32 Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0 "
    aq 0 aq-eval -q --device cpu --reference "$F/gguf.json" --domain t="$F/tokens" $file
    close "$(jq .all <<<"$output")" "$(jq .gguf.expected "$V")" 1e-4 kl.mean kl.se kl.p99 kl.max reverse_kl.mean top1 first_share
    close "$(jq .all <<<"$output")" "$(jq .gguf.expected "$V")" 1e-5 loss ppl loss_reference
    # a type that is not read is named
    local at
    at=$(grep -abo blk.0.attn_q.weight $file | cut -d: -f1)
    cp $file "$T/q3.gguf"
    printf '\x0b' | dd of="$T/q3.gguf" bs=1 seek=$((at + 19 + 4 + 16)) conv=notrunc status=none
    refused 3 "type 11" aq-eval -q --reference "$F/gguf.json" --domain t="$F/tokens" "$T/q3.gguf"
}

@test "a checkpoint of ModelOpt with each of its algorithms in one place" {
    is_reference modelopt
    is "$(jq -r '[.quantization_config.quantized_layers[].quant_algo] | unique | join(" ")' tests/oracle/eval_files/modelopt/config.json)" \
        "FP8 FP8_PB_WO FP8_PER_CHANNEL_PER_TOKEN MXFP8 NVFP4 NVFP4_AWQ W4A16_AWQ W4A16_NVFP4 W4A8_AWQ W8A16 W8A8_SQ_PER_CHANNEL"
    aq 0 measure tests/oracle/eval_files/modelopt
    close "$(jq .all <<<"$output")" "$(jq .modelopt.expected "$V")" 0.02 kl.mean reverse_kl.mean
    close "$(jq .all <<<"$output")" "$(jq .modelopt.expected "$V")" 1e-5 loss_reference
    # a scale that is not there
    local missing
    for missing in layers.2.mlp.up_proj.weight_scale_2 layers.0.mlp.up_proj.weight_scale_2 layers.1.self_attn.q_proj.weight_scale \
        layers.0.self_attn.k_proj.input_scale layers.1.self_attn.o_proj.input_scale; do
        rm -rf "$T/d"
        cp -r tests/oracle/eval_files/modelopt "$T/d"
        sed -i "s/$missing\"/${missing%?}X\"/" "$T/d/model.safetensors"
        refused 3 "tensor 'model.$missing' is missing" measure "$T/d"
    done
    jq '.quantization_config.quantized_layers["model.layers.0.mlp.down_proj"].quant_algo = "NVFP4_SVD"' tests/oracle/eval_files/modelopt/config.json >"$T/d/config.json"
    refused 3 "model.layers.0.mlp.down_proj: ModelOpt's 'NVFP4_SVD' is not read" measure "$T/d"
}

@test "layouts that are not read are refused by name" {
    local method
    cp -r tests/oracle/eval_files/modelopt "$T/d"
    for method in awq gptq hqq bitsandbytes auto-round quark; do
        jq --arg m $method '.quantization_config.quant_method = $m' tests/oracle/eval_files/modelopt/config.json >"$T/d/config.json"
        refused 3 "quantization '$method' is not read" measure "$T/d"
    done
}

@test "--engine: what vLLM and llama.cpp run in place of what a recipe asks for" {
    export AQ_CONF=$REPO/conf
    local lm=$F/modelopt.json nv="e2m1:nvfp4(16):dynamic" q8="int8:block(-1:32):static"
    all() { jq -c .all <<<"$output"; }
    aq-calib ranges -q --lm "$lm" --prefix 7 -o "$T/ranges" "$F/tokens"
    made "$lm" "{\"a\": [\"$nv\", \"e2m1:nvfp4(16):static\"], \"b\": [\"e4m3:axis0:static\", \"e4m3:token:dynamic\"]}" '["a", "b", "NONE"]' >"$T/m.json"
    made "$lm" "{\"a\": [\"$nv\", \"none\"], \"b\": [\"e4m3:axis0:static\", \"e4m3:token:dynamic\"]}" '["a", "b", "NONE"]' >"$T/w4.json"
    aq 0 measure "$T/w4.json"
    local w4 plain
    w4=$(all)
    is "$(jq .operand.engine <<<"$output")" null
    aq 0 measure --ranges "$T/ranges" --engine vllm:sm90 "$T/m.json" # below sm_100 NVFP4 is weight-only
    is "$(all)" "$w4"
    is "$(jq -r .operand.engine <<<"$output")" vllm:sm90
    aq 0 measure --ranges "$T/ranges" --engine vllm:sm100 "$T/m.json"
    plain=$(all)
    [ "$plain" != "$w4" ]
    aq 0 measure --ranges "$T/ranges" "$T/m.json"
    is "$(all)" "$plain"
    # llama.cpp rounds the input of whatever is quantized
    made "$lm" "{\"a\": [\"$q8\", \"none\"]}" '["a", "NONE"]' >"$T/q8.json"
    made "$lm" "{\"a\": [\"$q8\", \"int8:block(-1:32):dynamic\"]}" '["a", "NONE"]' >"$T/both.json"
    aq 0 measure "$T/both.json"
    plain=$(all)
    aq 0 measure --engine llamacpp "$T/q8.json"
    is "$(all)" "$plain"
    aq 0 measure "$T/q8.json"
    [ "$(all)" != "$plain" ]
    # what is refused, and what nobody knows
    made "$lm" '{"a": ["int8:axis1:static", "none"]}' '["a"]' >"$T/no.json"
    refused 3 "layers.0.self_attn.q_proj: int8:axis1:static with none is 'no' for vllm" measure --engine vllm "$T/no.json"
    made "$lm" '{"a": ["int8:axis0:static", "e4m3:tensor:static"]}' '["a"]' >"$T/other.json"
    refused 3 "is 'other' for vllm: runs as int8 weights with int8 activations" measure --ranges "$T/ranges" --engine vllm "$T/other.json"
    refused 2 "unknown engine 'vlm'" measure --engine vlm "$T/m.json"
    refused 2 "expected ENGINE" measure --engine vllm:90 "$T/m.json"
}

@test "--engine on written files" {
    export AQ_CONF=$REPO/conf
    local lm=$F/modelopt.json
    aq-calib ranges -q --lm "$lm" --prefix 7 -o "$T/ranges" "$F/tokens"
    made "$lm" '{"a": ["e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):static"], "b": ["int4:block(-1:32):static", "none"]}' '["a", "b"]' >"$T/m.json"
    made "$lm" '{"a": ["e2m1:nvfp4(16):dynamic", "none"], "b": ["int4:block(-1:32):static", "none"]}' '["a", "b"]' >"$T/w.json"
    for kind in m w; do aq 0 aq-export -q --force --engine vllm:sm90 --lm "$lm" --ranges "$T/ranges" -o "$T/$kind" "$T/$kind.json"; done
    aq 0 measure "$T/w"
    local w
    w=$(jq -c .all <<<"$output")
    aq 0 measure --engine vllm:sm90 "$T/m"
    is "$(jq -c .all <<<"$output")" "$w"
    aq 0 measure --engine vllm:sm100 "$T/m"
    [ "$(jq -c .all <<<"$output")" != "$w" ]
    refused 3 "vllm does not load gguf" aq-eval -q --reference "$F/gguf.json" --domain t="$F/tokens" --engine vllm tests/oracle/eval_files/types.gguf
    aq 0 aq-eval -q --reference "$F/gguf.json" --domain t="$F/tokens" --engine llamacpp tests/oracle/eval_files/types.gguf
    # rounded inputs cost something, and little beside these weights
    is "$(jq --argjson e "$(jq .gguf.expected "$V")" '(.all.kl.mean / $e.kl.mean - 1 | fabs) | . > 1e-5 and . < 0.1' <<<"$output")" true
}

@test "a GGUF file, a checkpoint and another model of other tokenizers are refused" {
    export AQ_CONF=$REPO/conf
    local demo=models/qwen3_vl_demo/checkpoint d
    aq-extract-lm -q -o "$T/lm.json" $demo
    head -n 4 datasets/demo/captions_heldout.txt >"$T/captions"
    aq-calib tokens -q --tokenizer $demo -o "$T/tokens" "$T/captions"
    made "$T/lm.json" '{"a": ["int8:block(-1:32):static", "none"]}' '["a"]' >"$T/m.json"
    aq 0 aq-export -q --force --engine llamacpp --lm "$T/lm.json" -o "$T/m.gguf" "$T/m.json"
    aq 0 aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" "$T/m.gguf"
    # two tokens change places; a merge fewer
    for d in swapped shorter; do cp -r $demo "$T/$d"; done
    jq '(.model.vocab | to_entries | map(select(.value == 300 or .value == 301).key)) as [$a, $b]
        | .model.vocab[$a] as $x | .model.vocab[$a] = .model.vocab[$b] | .model.vocab[$b] = $x' $demo/tokenizer.json >"$T/swapped/tokenizer.json"
    jq '.model.merges |= .[:-1]' $demo/tokenizer.json >"$T/shorter/tokenizer.json"
    for d in swapped shorter; do
        aq-extract-lm -q -o "$T/$d.json" "$T/$d"
        aq-calib tokens -q --tokenizer "$T/$d" -o "$T/$d.tokens" "$T/captions"
        refused 3 "has another tokenizer than the one that made" aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" "$T/$d"
        refused 3 "has another tokenizer than the one that made" aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" "$T/$d.json"
        refused 3 "has another tokenizer than the one that made" aq-eval -q --reference "$T/$d.json" --domain t="$T/tokens" "$T/lm.json"
    done
    refused 3 "m.gguf has another tokenizer than the reference: token 30" aq-eval -q --reference "$T/swapped.json" --domain t="$T/swapped.tokens" "$T/m.gguf"
    refused 3 "m.gguf has another tokenizer than the reference: merge" aq-eval -q --reference "$T/shorter.json" --domain t="$T/shorter.tokens" "$T/m.gguf"
}
