#!/usr/bin/env bats
# aq-export: verdicts, the compressed-tensors checkpoint against what compressed-tensors and transformers said of the same bytes
# (tests/oracle/export_ct.py), the same bytes for any thread count, and what is refused.
load helpers

D=models/qwen3_vl_demo/checkpoint # relative, as lm.json has it: commands run in the repository
F=$BATS_FILE_TMPDIR

setup_file() {
    cd "$REPO" || return
    export AQ_CONF=$REPO/conf
    aq-extract-lm "$D" -o "$F/lm.json"
    aq-calib tokens --tokenizer "$D" --size small=datasets/demo/captions_small.txt -o "$F/tokens"
    aq-calib ranges --lm "$F/lm.json" --prefix 16 -o "$F/ranges" "$F/tokens"
    aq-resolve -q --config-name preset/demo quant_pair=wint8_aint8 dataset.size=small -o "$F/run.json"
    aq-overlay "$F/run.json" -o "$F/quant.json"
    aq-score -q --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" --prefix 16 --score-samples 16 -o "$F/store" "$F/quant.json"
    aq-score collect --run "$F/run.json" --quant "$F/quant.json" -o "$F/scores.json" "$F/store"
    aq-select -q --effective-bits 10 -o "$F/base.json" "$F/scores.json"
    mix "$(jq .recipe tests/export-mix.json)" >"$F/mix.json"
}

setup() {
    cd "$REPO" || return
    export AQ_CONF=$REPO/conf
    T=$BATS_TEST_TMPDIR
}

# mix RECIPE [TREATMENTS]: the manifest with another recipe
mix() {
    jq --argjson treatments "${2:-$(jq .treatments "$REPO/tests/export-mix.json")}" --argjson recipe "$1" -f "$REPO/tests/recipe.jq" "$F/base.json"
}

export_mix() {
    aq-export -q --force --engine vllm:sm90 --lm "$F/lm.json" --ranges "$F/ranges" "$@" "$F/mix.json"
}

digests() {
    "$O/tests/st_digest" "$1"/*.safetensors | LC_ALL=C sort
}

@test "--check prints one line for each group, and fails for a recipe that is not served" {
    aq 0 aq-export --check -q --engine vllm:sm90 --lm "$F/lm.json" "$F/mix.json"
    is "${#lines[@]}" 28
    is "$(jq -r 'select(.group == "layers.5.self_attn.q_proj") | [.candidate, .scheme, .verdict] | join(" ")' <<<"$output")" "nvfp4 nvfp4 other"
    is "$(jq -r 'select(.verdict != "exact") | .source == null' <<<"$output" | sort -u)" false
    is "$(jq -r 'select(.group == "layers.6.mlp.down_proj") | [.candidate, .scheme, .verdict] | map(. // "-") | join(" ")' <<<"$output")" "NONE - exact"
    aq 3 aq-export --check -q --engine sglang:sm90 --lm "$F/lm.json" "$F/mix.json"
    is "${#lines[@]}" 28
    has "$stderr" "layers.2.self_attn.o_proj: candidate 'w5a16' (int5:axis0:static | none) is 'no' for sglang"
    has "$stderr" "nearest candidate of this manifest that is served: nvfp4a16"
    aq 0 aq-export --check --engine vllm --lm "$F/lm.json" "$F/mix.json"
    has "$stderr" "compute capability 9.0"
}

# as_shown DIR VECTORS: the tensors and the configuration that the oracle saw
as_shown() {
    local v=$2
    is "$(jq -c .loading "$v")" "{}"
    is "$(jq -r '.schemes | map(.mse_ratio) | min > 0.99 and max < 1.01' "$v")" true
    is "$(jq -r '[.schemes | to_entries[] | select(.key | test("^(fp8|mx)")) | .value.weights == .value.equal] | unique | tostring' "$v")" "[true]"
    jq -r '.tensors | to_entries[] | "\(.key) \(.value.dtype) \(.value.shape | tostring) \(.value.sha256)"' "$v" | LC_ALL=C sort >"$T/expected"
    digests "$1" | grep -vE 'input_(global_)?scale ' | diff - "$T/expected"
    jq -S .config "$v" >"$T/config"
    jq -S .quantization_config "$1/config.json" | diff - "$T/config"
}

@test "compressed-tensors: the bytes that its own unpackers and transformers were shown" {
    local v=$REPO/tests/oracle/export
    aq 0 export_mix -o "$T/out"
    as_shown "$T/out" "$v/ct.json"
    is "$(jq '.kl < 1e-4 and .positions > 100' "$v/ct.json")" true
    is "$("$O/tests/st_digest" "$T"/out/*.safetensors | grep -c 'input_scale F32 \[1\]')" 6
    is "$("$O/tests/st_digest" "$T"/out/*.safetensors | grep -c 'input_global_scale F32 \[1\]')" 6
    mix "$(jq .recipe tests/export-more.json)" "$(jq .treatments tests/export-more.json)" >"$T/more.json"
    aq 0 aq-export -q --force --engine vllm:sm90 --lm "$F/lm.json" -o "$T/more" "$T/more.json"
    as_shown "$T/more" "$v/ct-more.json"
    mix "$(jq .recipe tests/export-block.json)" "$(jq .treatments tests/export-block.json)" >"$T/block.json"
    aq 0 aq-export -q --engine vllm:sm90 --lm "$F/lm.json" -o "$T/block" "$T/block.json"
    as_shown "$T/block" "$v/ct-block.json"
    is "$(jq '.kl < 1e-4 and .positions > 800' "$v/ct-block.json")" true
}

@test "quantized activations: aq-eval finds the mean KL of compressed-tensors' own forward pass over 4,096 positions within 2 %" {
    local v=$REPO/tests/oracle/export/acts.json
    mix "$(jq .recipe tests/export-acts.json)" "$(jq .treatments tests/export-acts.json)" >"$T/m.json"
    aq 0 aq-export -q --engine vllm:sm90 --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/out" "$T/m.json"
    is "$(digests "$T/out" | grep -v 'input_scale ' | awk '{ print $1, $NF }' | sort | sha256sum | cut -c1-64)" "$(jq -r .tensors "$v")"
    head -n "$(jq .texts "$v")" datasets/demo/captions_heldout.txt >"$T/texts"
    aq 0 aq-calib tokens -q --tokenizer "$D" --padding none -o "$T/tokens" "$T/texts"
    aq 0 aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$T/tokens" -o "$T/eval.json" "$T/out"
    is "$(jq .all.positions "$T/eval.json")" "$(jq .positions "$v")"
    jq -e --slurpfile v "$v" '.all.kl.mean as $k | $v[0].kl as $e | $v[0].positions >= 4096 and (($k - $e) | fabs) <= 0.02 * $e' "$T/eval.json" ||
        { echo "aq-eval $(jq .all.kl.mean "$T/eval.json"), compressed-tensors $(jq .kl "$v")"; return 1; }
}

# scored METHOD SAMPLES FORMAT [OPTION]: each group's name and sum
scored() {
    aq-overlay --format "$3" ${4:+"$4"} -o "$T/$3$4.quant"
    aq-score -q --method "$1" --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" --prefix 16 --score-samples "$2" -o "$T/$1" "$T/$3$4.quant"
    aq-score collect --run <(jq --arg m "$1" --argjson n "$2" '.autoquant.method = $m | ._aq.score_samples = $n' "$F/run.json") \
        --quant "$T/$3$4.quant" -o - "$T/$1" | jq -r '.groups[] | "\(.name) \(.sum)"'
}

@test "NVFP4 members of a group are scored under one range and written under it" {
    local m
    for m in "gradient 16" "kl_div 2"; do
        # shellcheck disable=SC2086
        scored $m NVFP4_WEIGHT_ONLY_CFG >"$T/shared"
        # shellcheck disable=SC2086
        scored $m NVFP4_WEIGHT_ONLY_CFG --own-scales >"$T/own"
        is "$(grep -c . "$T/own")" 28
        is "$(diff "$T/own" "$T/shared" | grep -cE '^> layers.*(q_proj|gate_proj) ')" 14 # every fused group, and no other
        is "$(diff "$T/own" "$T/shared" | grep -c '^>')" 14
    done
    mix '[["layers", "x"]]' '{"x": ["e2m1:nvfp4(16):dynamic@group", "none"]}' >"$T/group.json"
    mix '[["layers", "x"]]' '{"x": ["e2m1:nvfp4(16):dynamic", "none"]}' >"$T/own.json"
    aq 0 aq-export --check -q --engine vllm --lm "$F/lm.json" "$T/group.json"
    is "$(jq -r .verdict <<<"$output" | sort | uniq -c | tr -s ' \n' ' ')" " 28 exact "
    aq 0 aq-export --check -q --engine vllm --lm "$F/lm.json" "$T/own.json"
    is "$(jq -r .verdict <<<"$output" | sort | uniq -c | tr -s ' \n' ' ')" " 14 exact 14 near "
    aq 0 aq-export -q --lm "$F/lm.json" -o "$T/g" "$T/group.json"
    aq 0 aq-export -q --lm "$F/lm.json" -o "$T/o" "$T/own.json"
    diff <(digests "$T/g") <(digests "$T/o") # engines have one layout: a range for the group
    is "$(digests "$T/g" | grep -E 'layers.0.self_attn.[qkv]_proj.weight_global_scale' | cut -d' ' -f4 | sort -u | wc -l)" 1
    for m in group own; do aq-export -q --engine llamacpp --lm "$F/lm.json" -o "$T/$m.gguf" "$T/$m.json"; done
    is "$("$O/tests/gguf_digest" "$T/group.gguf" | grep -E 'blk.0.attn_[qkv].scale' | cut -d' ' -f3 | sort -u | wc -l)" 1
    is "$("$O/tests/gguf_digest" "$T/own.gguf" | grep -E 'blk.0.attn_[qkv].scale' | cut -d' ' -f3 | sort -u | wc -l)" 3
    has "$(<"$T/g/CHECK.md")" "under one second-level scale"
    # aq-eval says the same of the recipe, and the page repeats it; of own scales there is nothing to say
    for i in 1 2 3; do seq -s' ' $((i * 7)) $((i * 7 + 12)); done | "$O/tests/make_tokens" --sizes 3 -o "$T/tokens"
    aq 0 aq-eval -q --reference "$F/lm.json" --domain text="$T/tokens" -o "$T/evals" "$T/group.json" "$T/own.json"
    is "$(jq -c .operand.sharing.groups "$T/evals/1.json") $(jq -c .operand.sharing "$T/evals/2.json")" "14 null"
    ratio=$(jq '.operand.sharing.mse_ratio | . * 10000 | round / 10000' "$T/evals/1.json")
    ratio=$(LC_ALL=C printf %.4f "$ratio")
    has "$(tr '\n' ' ' <"$T/g/CHECK.md")" "is $ratio times that under a scale for each"
    has "$(aq-report --html --eval "$T/evals/1.json" "$T/group.json")" "The members of 14 fused layers share an NVFP4 second level, as engines compute them: the mean squared error of their weights is $ratio times"
    [[ $(aq-report --html --eval "$T/evals/2.json" "$T/group.json") != *"fused layers share"* ]]
}

@test "everything else is the source's: tensors, tokenizer, configuration, names of shards" {
    aq 0 export_mix -o "$T/out"
    digests "$D" | grep -vE 'layers\.[0-5]\..*proj.weight|layers\.6\..*(q|k|v|o|gate|up)_proj.weight' >"$T/kept"
    is "$(wc -l <"$T/kept")" 76
    digests "$T/out" | grep -Fxf "$T/kept" | diff - "$T/kept"
    cmp "$D/tokenizer.json" "$T/out/tokenizer.json"
    cmp "$D/tokenizer_config.json" "$T/out/tokenizer_config.json"
    is "$(jq -S 'del(.quantization_config, .dtype)' "$T/out/config.json")" "$(jq -S . "$D/config.json")"
    is "$(jq -r '[.weight_map[]] | unique | join(" ")' "$T/out/model.safetensors.index.json")" "model-00001-of-00002.safetensors model-00002-of-00002.safetensors"
    is "$(jq -r '.weight_map | keys_unsorted | .[]' "$T/out/model.safetensors.index.json")" "$(digests "$T/out" | cut -d' ' -f1)"
    is "$(grep -c '^| [0-6] |' "$T/out/CHECK.md")" 28
    has "$(<"$T/out/README.md")" "vllm serve"
    [ ! -e "$T/out.part" ]
}

@test "the same bytes for any number of threads; --codes keep changes packed codes alone" {
    local n
    mkdir "$T"/{1,2,5}
    for n in 1 2 5; do
        export_mix --threads $n -o "$T/$n/out" # README.md names the directory
        diff -r "$T/1" "$T/$n"
    done
    export_mix --codes keep -o "$T/keep"
    run diff <(digests "$T/1/out") <(digests "$T/keep")
    is "$(grep -c '^<' <<<"$output")" "$(grep '^<' <<<"$output" | grep -c weight_packed)"
    has "$output" "layers.3.self_attn.q_proj.weight_packed"
}

@test "a recipe that is not served is refused, with the nearest that would be" {
    refused 3 "layers.5.self_attn.q_proj: candidate 'nvfp4' (e2m1:nvfp4(16):dynamic | e2m1:nvfp4(16):static) is 'other' for vllm" \
        aq-export -q --engine vllm:sm90 --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/out" "$F/mix.json"
    has "$stderr" "served: nvfp4a16; --force"
    mix '[["layers.3.mlp.down", "x"]]' '{"x": ["int4:block(-1:128):static", "int8:tensor:static"]}' >"$T/no.json"
    refused 3 "is 'no' for vllm: static int8 activations" aq-export -q --force --engine vllm:sm90 --lm "$F/lm.json" -o "$T/out" "$T/no.json"
    has "$stderr" "no candidate of this manifest is served there"
    mix '[["layers.3.mlp.down", "x"]]' '{"x": ["int8:axis0:static", "none"]}' >"$T/wrong.json"
    refused 3 "is 'wrong' for vllm" aq-export -q --force --engine vllm:sm90 --format modelopt --lm "$F/lm.json" -o "$T/out" "$T/wrong.json"
    mix '[["layers.3.mlp.down", "x"]]' '{"x": ["int4:block(-1:128):static", "none"]}' >"$T/tp.json"
    refused 3 "multiple of the group size" aq-export -q --engine vllm:sm90:tp2 --lm "$F/lm.json" -o "$T/out" "$T/tp.json"
    aq 0 aq-export -q --engine vllm:sm90 --lm "$F/lm.json" -o "$T/fine" "$T/tp.json"
    is "$(jq -r .quantization_config.format "$T/fine/config.json")" pack-quantized
    mix '[]' >"$T/nothing.json"
    refused 3 "quantizes nothing" aq-export -q --engine vllm:sm90 --lm "$F/lm.json" -o "$T/out" "$T/nothing.json"
    [ ! -e "$T/out" ] && [ ! -e "$T/out.part" ]
}

@test "a recipe with the head, which shares the embedding's tensor: refused by every engine and before the count of groups" {
    local e
    mix '[["layers.3.mlp.down", "x"]]' '{"x": ["int8:axis0:static", "none"]}' |
        jq '.layer_sensitivity["lm_head.quant_recipe"] = (.layer_sensitivity["layers.3.mlp.down_proj.quant_recipe"] | del(.rank))
            | .selection.recipe["lm_head.quant_recipe"] = .selection.recipe["layers.3.mlp.down_proj.quant_recipe"]
            | del(.sensitivity_ranking, .groups) | del(.layer_sensitivity[].rank)' >"$T/head.json"
    for e in vllm sglang trtllm llamacpp transformers; do
        refused 3 "lm_head: candidate 'x' (int8:axis0:static | none) is 'no' for $e: the head shares the embedding's tensor" \
            aq-export -q --force --engine $e --lm "$F/lm.json" -o "$T/out" "$T/head.json"
        has "$stderr" "select again with lm_head pinned to NONE"
    done
    refused 3 "lm_head: candidate 'x'" aq-export -q --check --lm "$F/lm.json" "$T/head.json"
    # a head of its own is not a group of a recipe either
    "$O/tests/random_checkpoint" --kind qwen3 --layers 1 --hidden 64 --intermediate 128 --tied no "$T/model"
    aq 0 aq-extract-lm -q -o "$T/lm.json" "$T/model"
    jq --argjson treatments '{"x": ["int8:axis0:static", "none"]}' --argjson cycle '["x"]' -f "$REPO/tests/manifest.jq" "$T/lm.json" |
        jq '.layer_sensitivity["lm_head.quant_recipe"] = .layer_sensitivity["layers.0.mlp.down_proj.quant_recipe"]
            | .selection.recipe["lm_head.quant_recipe"] = .selection.recipe["layers.0.mlp.down_proj.quant_recipe"]' >"$T/untied.json"
    refused 3 "is 'no' for vllm: aq-export does not quantize the head" aq-export -q --lm "$T/lm.json" -o "$T/out" "$T/untied.json"
    jq '.selection.recipe["lm_head.quant_recipe"].candidate = "NONE"' "$T/head.json" >"$T/none.json" # the head is left alone, but not of this model
    refused 3 "has 29 groups, the model 28" aq-export -q --lm "$F/lm.json" -o "$T/out" "$T/none.json"
    [ ! -e "$T/out" ] && [ ! -e "$T/out.part" ]
}

@test "shapes that do not divide, whole or among tensor-parallel GPUs: group, treatment, reason" {
    local lm=$T/lm.json
    "$O/tests/random_checkpoint" --kind qwen3 --layers 1 --hidden 80 --intermediate 200 --heads 2 --kv-heads 1 --head-dim 40 "$T/model"
    aq 0 aq-extract-lm -q -o "$lm" "$T/model"
    # shape TEXT ENGINE FORMAT GROUP WEIGHTS
    shape() {
        jq --arg g "$4" --argjson treatments "{\"x\": [\"$5\", \"none\"], \"row\": [\"int8:axis0:static\", \"none\"]}" --argjson cycle '["NONE"]' -f "$REPO/tests/manifest.jq" "$lm" |
            jq --arg g "$4" '.selection.recipe["layers.0.\($g).quant_recipe"].candidate = "x"' >"$T/m.json"
        refused 3 "layers.0.$4: candidate 'x' ($5 | none) is 'no' for ${2%%:*}: $1" \
            aq-export -q --force --engine "$2" --format "$3" --lm "$lm" -o "$T/out" "$T/m.json" || return 1
        [ ! -e "$T/out" ] && [ ! -e "$T/out.part" ]
    }
    shape "the inputs (of a shard) are not a multiple of the group size" vllm compressed-tensors self_attn.q_proj int4:block\(-1:32\):static
    has "$stderr" "nearest candidate of this manifest that is served: row"
    shape "the inputs (of a shard) are not a multiple of 16" vllm compressed-tensors mlp.down_proj e2m1:nvfp4\(16\):dynamic
    shape "the inputs (of a shard) are not a multiple of 16" vllm:tp2 compressed-tensors self_attn.o_proj e2m1:nvfp4\(16\):dynamic
    shape "the inputs (of a shard) are not a multiple of 32" vllm compressed-tensors self_attn.q_proj e2m1:mx\(32\):dynamic
    shape "" llamacpp gguf self_attn.q_proj int8:block\(-1:32\):static
    shape "" sglang:tp2 compressed-tensors self_attn.o_proj e2m1:nvfp4\(16\):dynamic
    shape "" trtllm:tp2 modelopt self_attn.o_proj e2m1:nvfp4\(16\):dynamic
    jq '.selection.candidates.x.w = "e2m1:nvfp4(16):dynamic" | .selection.recipe["layers.0.self_attn.o_proj.quant_recipe"].candidate = "x" | .selection.recipe["layers.0.self_attn.q_proj.quant_recipe"].candidate = "NONE"' \
        "$T/m.json" >"$T/whole.json" # the same group whole
    aq 0 aq-export -q --engine vllm --lm "$lm" -o "$T/fine" "$T/whole.json"
    refused 2 "expected ENGINE" aq-export -q --engine vllm:tp0 --lm "$lm" -o "$T/out" "$T/m.json"
    refused 2 "expected ENGINE" aq-export -q --engine vllm:tp99999 --lm "$lm" -o "$T/out" "$T/m.json"
    refused 2 "expected ENGINE" aq-export -q --engine vllm:tp2:tp2 --lm "$lm" -o "$T/out" "$T/m.json"
}

@test "what is typed wrongly" {
    refused 2 "--lm is needed" aq-export -o "$T/out" "$F/mix.json"
    refused 2 "-o is needed" aq-export --lm "$F/lm.json" "$F/mix.json"
    refused 2 "standard output" aq-export --lm "$F/lm.json" -o - "$F/mix.json"
    refused 2 "unknown engine 'vlm'" aq-export --check --engine vlm --lm "$F/lm.json" "$F/mix.json"
    has "$stderr" "did you mean vllm? engines: llamacpp, sglang"
    refused 2 "expected ENGINE" aq-export --check --engine vllm:gpu --lm "$F/lm.json" "$F/mix.json"
    refused 2 "trtllm does not load compressed-tensors" aq-export --check --engine trtllm --format compressed-tensors --lm "$F/lm.json" "$F/mix.json"
    refused 2 "give --ranges" aq-export -q --force --engine vllm:sm90 --lm "$F/lm.json" -o "$T/out" "$F/mix.json"
    [ ! -e "$T/out" ] && [ ! -e "$T/out.part" ]
}

@test "a manifest of another checkpoint, without a recipe, or without what its candidates do" {
    jq '.aq.identity.lm = "00"' "$F/mix.json" >"$T/other.json"
    refused 3 "made from another checkpoint" aq-export --check --lm "$F/lm.json" "$T/other.json"
    jq 'del(.selection.candidates)' "$F/mix.json" >"$T/old.json"
    refused 3 "does not say what its candidates do" aq-export --check --lm "$F/lm.json" "$T/old.json"
    jq 'del(.selection)' "$F/mix.json" >"$T/bare.json"
    refused 3 "holds no recipe" aq-export --check --lm "$F/lm.json" "$T/bare.json"
    jq '.selection.candidates.w4a16.w = 4' "$F/mix.json" >"$T/type.json"
    refused 3 "selection.candidates.w4a16.w" aq-export --check --lm "$F/lm.json" "$T/type.json"
    jq '.selection.candidates.w4a16.w = "int4:sideways"' "$F/mix.json" >"$T/grammar.json"
    refused 3 "is 'no' for vllm" aq-export -q --force --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/out" "$T/grammar.json"
}

@test "only a new directory outside of the source is written" {
    mkdir "$T/there" "$T/foreign.part"
    echo mine >"$T/foreign.part/mine"
    refused 1 "exists already" export_mix -o "$T/there"
    refused 1 "is not an unfinished export" export_mix -o "$T/foreign"
    is "$(<"$T/foreign.part/mine")" mine
    refused 2 "is in the source checkpoint" export_mix -o "$D/out"
    refused 2 "is in the source checkpoint" export_mix -o "$D"
    ln -s "$REPO/$D" "$T/link"
    refused 2 "is in the source checkpoint" export_mix -o "$T/link/out"
    refused 1 "does not exist" export_mix -o "$T/no/such/place"
    : >"$T/file"
    refused 1 "exists already" export_mix -o "$T/file"
    is "$(ls "$D" | wc -l)" 6
}

@test "killed at 20 moments: nothing under the name, or all of it, and the next run succeeds" {
    [ -e "$O/tests/fault.so" ] || skip "tests/fault.so is not built"
    ! sanitized || skip "no preload below a sanitizer"
    # a directory, and a file
    killed 15 "1 2 3 4 5 6 8 10 13 17 22 28 36 46 60 78 100 130 170 220" \
        aq-export -q --force --engine vllm:sm90 --lm "$F/lm.json" --ranges "$F/ranges" "$F/mix.json"
    gguf_recipe >"$T/m.json"
    killed 5 "1 2 3 5 8 13 21 34" aq-export -q --engine llamacpp --lm "$F/lm.json" "$T/m.json"
}

# killed LEAST MOMENTS COMMAND...: the command without its -o; at least LEAST of the moments are within the run
killed() {
    local least=$1 moments=$2 n dead=0
    shift 2
    rm -rf "$T/d" "$T/out"
    mkdir "$T/d"
    aq 0 "$@" -o "$T/out"
    for n in $moments; do
        FAULT=kill:9:$n FAULT_DIR=$T/d LD_PRELOAD=$O/tests/fault.so "$@" -o "$T/d/out" 2>/dev/null || dead=$((dead + 1))
        if [ -e "$T/d/out" ]; then
            diff -r "$T/out" "$T/d/out" || return 1
            rm -r "$T/d/out"
        fi
    done
    [ "$dead" -ge "$least" ] || { echo "$dead runs were killed"; return 1; }
    aq 0 "$@" -o "$T/d/out"
    diff -r "$T/out" "$T/d/out"
    is "$(ls -A "$T/d")" out
}

@test "a full disk, at every write: one line, nothing is left behind" {
    [ -e "$O/tests/fault.so" ] || skip "tests/fault.so is not built"
    ! sanitized || skip "no preload below a sanitizer"
    full 5 "1 2 3 5 8 13 40 100 200" aq-export -q --force --engine vllm:sm90 --lm "$F/lm.json" --ranges "$F/ranges" "$F/mix.json"
    gguf_recipe >"$T/m.json"
    full 3 "1 2 5 13" aq-export -q --engine llamacpp --lm "$F/lm.json" "$T/m.json"
}

# full LEAST MOMENTS COMMAND...: as killed
full() {
    local least=$1 moments=$2 n fired=0
    shift 2
    rm -rf "$T/d"
    mkdir "$T/d"
    for n in $moments; do
        code=0
        FAULT=pwrite:ENOSPC:$n:forever,write:ENOSPC:$n:forever FAULT_DIR=$T/d FAULT_REPORT=$T/report LD_PRELOAD=$O/tests/fault.so \
            "$@" -o "$T/d/out" 2>"$T/message" || code=$?
        if [ "$code" -ne 0 ]; then
            is "$code" 1
            has "$(<"$T/message")" "cannot write"
            is "$(ls -A "$T/d")" ""
            fired=$((fired + 1))
        else
            rm -r "$T/d/out"
        fi
    done
    [ "$fired" -ge "$least" ] || { echo "$fired writes failed"; return 1; }
}

# ---- GGUF ----

gguf_recipe() {
    mix "$(jq .recipe tests/export-gguf.json)" "$(jq .treatments tests/export-gguf.json)"
}

@test "GGUF: the bytes whose values the package gguf gave, keys and tokenizer too; the same for any number of threads" {
    local v=$REPO/tests/oracle/export/gguf.json
    gguf_recipe >"$T/m.json"
    aq 0 aq-export -q --engine llamacpp --threads 1 --lm "$F/lm.json" -o "$T/1.gguf" "$T/m.json"
    aq 0 aq-export -q --format gguf --threads 3 --lm "$F/lm.json" -o "$T/3.gguf" "$T/m.json"
    cmp "$T/1.gguf" "$T/3.gguf"
    "$O/tests/gguf_digest" "$T/1.gguf" >"$T/found"
    jq -r '.tensors | to_entries[] | "\(.key) \(.value.type) \(.value.sha256)"' "$v" | diff - "$T/found"
    is "$(jq -r '.values | to_entries[] | select(.value[1] != 0) | .key' "$v")" ""
    is "$(jq -c '.keys | [."general.architecture", ."qwen3.block_count", ."qwen3.attention.key_length", ."tokenizer.ggml.pre", ."tokenizer.ggml.tokens"]' "$v")" \
        '["qwen3",7,64,"qwen2",2048]'
    aq 0 aq-export -q --engine llamacpp --check --lm "$F/lm.json" "$T/m.json"
    is "$(jq -r .verdict <<<"$output" | sort | uniq -c | tr -s ' \n' ' ')" " 4 exact 24 near "
}

# Values, types and names: tests/oracle/export_gguf.py, as above.
@test "GGUF of a mixture: all experts of a layer in one tensor, the bytes whose values the package gguf gave; read back as they were" {
    local v=$REPO/tests/oracle/export/gguf_experts.json k
    aq 0 aq-extract-lm --moe-split -o "$T/lm.json" models/qwen3_moe_demo/checkpoint
    made() { # LM CYCLE
        jq --argjson treatments "$(jq .treatments tests/export-gguf-experts.json)" --argjson cycle "$2" -f tests/manifest.jq "$1"
    }
    made "$T/lm.json" "$(jq .cycle tests/export-gguf-experts.json)" >"$T/mixed.json"
    made "$T/lm.json" '["NONE"]' >"$T/plain.json"
    made "$T/lm.json" '["NONE", "NONE", "q4", "NONE"]' >"$T/split.json"
    for k in mixed plain; do aq 0 aq-export -q --engine llamacpp --lm "$T/lm.json" -o "$T/$k.gguf" "$T/$k.json"; done
    "$O/tests/gguf_digest" "$T/mixed.gguf" >"$T/found"
    jq -r '.tensors | to_entries[] | "\(.key) \(.value.type) \(.value.sha256)"' "$v" | diff - "$T/found"
    is "$(jq -r '.values | to_entries[] | select(.value[1] != 0 and (.key | startswith("NVFP4") | not)) | .key' "$v")" ""
    is "$(jq -c '.keys | [."general.architecture", ."qwen3moe.expert_count", ."qwen3moe.expert_used_count", ."qwen3moe.expert_feed_forward_length"]' "$v")" '["qwen3moe",8,2,128]'
    head -4 datasets/demo/captions_heldout.txt >"$T/captions"
    aq 0 aq-calib tokens -q --tokenizer models/qwen3_moe_demo/checkpoint -o "$T/tokens" "$T/captions"
    aq 0 aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" --device cpu -o "$T/ev" "$T/plain.gguf" "$T/mixed.json" "$T/mixed.gguf"
    is "$(jq -c '[.all.kl.mean, .all.kl.max]' "$T/ev/1.json")" '[0,0]'
    # scales in fp16: the file's weights are not quite those of the recipe
    jq -s -e '(.[0].all.kl.mean / .[1].all.kl.mean - 1) | -0.05 < . and . < 0.05' "$T/ev/2.json" "$T/ev/3.json"
    aq 0 aq-eval -q --reference "$T/lm.json" --domain t="$T/tokens" --device cpu --engine llamacpp -o "$T/served.json" "$T/mixed.gguf"
    jq -s -e '.[0].all.kl.mean != .[1].all.kl.mean' "$T/ev/3.json" "$T/served.json"
    # what llama.cpp's architectures cannot say
    aq 0 aq-extract-lm -o "$T/tiny.json" tests/oracle/families/qwen3_moe
    made "$T/tiny.json" '["NONE"]' >"$T/tiny"
    refused 3 "architecture 'qwen3moe' has no way to say: layers without experts" aq-export -q --engine llamacpp --lm "$T/tiny.json" -o "$T/x.gguf" "$T/tiny"
    # engines that make one layer of all experts take one scheme for them
    for k in vllm:sm90 sglang:sm90 trtllm:sm100 transformers; do
        aq 3 aq-export -q --check --engine $k --lm "$T/lm.json" "$T/split.json"
        has "$stderr" "layers.0.mlp.experts.gate_up: candidate 'q4' (int4:block(-1:128):static | none) is 'no' for ${k%:*}: the experts of a layer have one scheme here"
    done
}

@test "GGUF: llama.cpp's logits of these very files are within 1e-5 nats of transformers'" {
    local v=$REPO/tests/oracle/export/llama.json
    gguf_recipe >"$T/coded.json"
    mix '[]' "$(jq .treatments tests/export-gguf.json)" >"$T/plain.json"
    aq 0 aq-export -q --engine llamacpp --lm "$F/lm.json" -o "$T/coded" "$T/coded.json"
    aq 0 aq-export -q --engine llamacpp --lm "$F/lm.json" -o "$T/plain" "$T/plain.json"
    aq 0 aq-export -q --engine llamacpp --arch qwen3vl --lm "$F/lm.json" -o "$T/vl" "$T/plain.json"
    for k in coded plain vl; do is "$k $(sha256sum <"$T/$k" | cut -c1-64)" "$k $(jq -r --arg k demo_$k '.[$k].sha256' "$v")"; done
    is "$(jq -c '[.demo_plain, .demo_vl, .demo_coded] | [(map(.kl) | max < 1e-5), (map(.top1) | min), (map(.texts_tokenized_alike) | min)]' "$v")" '[true,1,16]'
}

@test "GGUF: what does not fit an architecture or the format is refused" {
    gguf_recipe >"$T/m.json"
    refused 3 "layers.3.mlp.gate_proj: candidate 'nv'" aq-export -q --engine llamacpp --arch qwen3vl --lm "$F/lm.json" -o "$T/out.gguf" "$T/m.json"
    has "$stderr" "nearest candidate of this manifest that is served: q4"
    refused 2 "--arch gemma does not fit" aq-export -q --engine llamacpp --arch gemma --lm "$F/lm.json" -o "$T/out.gguf" "$T/m.json"
    refused 2 "--arch goes with GGUF" aq-export -q --engine vllm --arch qwen3 --lm "$F/lm.json" -o "$T/out" "$T/m.json"
    refused 3 "is 'other' for llamacpp" aq-export -q --engine llamacpp --lm "$F/lm.json" -o "$T/out.gguf" "$F/base.json"
    has "$stderr" "--force writes it all the same"
    mix '[["mlp.down", "x"]]' '{"x": ["e4m3:axis0:static", "none"]}' >"$T/fp8.json"
    refused 3 "GGUF has no type" aq-export -q --force --engine llamacpp --lm "$F/lm.json" -o "$T/out.gguf" "$T/fp8.json"
    is "$(ls "$T" | grep -c gguf)" 0
    mix '[["self_attn", "x"]]' '{"x": ["e2m1:nvfp4(16):dynamic", "none"]}' >"$T/attn.json"
    aq 0 aq-export -q --engine llamacpp --arch qwen3vl --lm "$F/lm.json" -o "$T/vl.gguf" "$T/attn.json"
    has "$("$O/tests/gguf_digest" --keys "$T/vl.gguf")" "qwen3vl.n_deepstack_layers"
}

# ---- ModelOpt's layout ----

modelopt_recipe() {
    mix '[["layers\\.[01]\\.", "fp8"], ["layers\\.[23]\\.", "nv"], ["layers\\.4\\.", "nva"], ["layers\\.5\\.", "row"]]' \
        '{"fp8": ["e4m3:tensor:static", "e4m3:tensor:static"], "nv": ["e2m1:nvfp4(16):dynamic", "none"],
          "nva": ["e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):static"], "row": ["e4m3:axis0:static", "e4m3:token:dynamic"]}'
}

@test "ModelOpt's layout: types and shapes as its own export has them, fused names listed" {
    modelopt_recipe >"$T/m.json"
    aq 0 aq-export -q --force --engine vllm:sm100 --format modelopt --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/out" "$T/m.json"
    local p=model.language_model.layers
    "$O/tests/st_digest" "$T"/out/*.safetensors | sed 's/ [0-9a-f]*$//' | grep -E '^model.language_model.layers.[0-5].self_attn.(q|k)_proj' | LC_ALL=C sort >"$T/found"
    {
        for l in 0 1; do echo "$p.$l.self_attn.q_proj.weight F8_E4M3 [384,256]"; done
        for l in 0 1; do echo "$p.$l.self_attn.k_proj.weight F8_E4M3 [128,256]"; done
        for l in 0 1; do for m in q k; do printf '%s\n' "$p.$l.self_attn.${m}_proj."{weight_scale,input_scale}" F32 []"; done; done
        for l in 2 3 4; do
            printf '%s\n' "$p.$l.self_attn.q_proj.weight U8 [384,128]" "$p.$l.self_attn.q_proj.weight_scale F8_E4M3 [384,16]" "$p.$l.self_attn.q_proj.weight_scale_2 F32 []" \
                "$p.$l.self_attn.k_proj.weight U8 [128,128]" "$p.$l.self_attn.k_proj.weight_scale F8_E4M3 [128,16]" "$p.$l.self_attn.k_proj.weight_scale_2 F32 []"
        done
        printf '%s\n' "$p.4.self_attn."{q,k}"_proj.input_scale F32 []" "$p.5.self_attn.q_proj.weight F8_E4M3 [384,256]" "$p.5.self_attn.q_proj.weight_scale F32 [384]" \
            "$p.5.self_attn.k_proj.weight F8_E4M3 [128,256]" "$p.5.self_attn.k_proj.weight_scale F32 [128]"
    } | LC_ALL=C sort | diff - "$T/found"
    is "$(jq -c '.quantization.quantized_layers | [."model.language_model.layers.0.self_attn.qkv_proj", ."model.language_model.layers.3.mlp.gate_up_proj"]' "$T/out/hf_quant_config.json")" \
        '[{"quant_algo":"FP8"},{"quant_algo":"W4A16_NVFP4","group_size":16}]'
    is "$(jq -c '.quantization_config | [.quant_method, .quant_algo, (.quantized_layers | length)]' "$T/out/config.json")" '["modelopt","MIXED_PRECISION",54]'
    is "$(jq -c '.quantization.exclude_modules[:2]' "$T/out/hf_quant_config.json")" '["lm_head","model.visual*"]'
    refused 3 "is 'wrong' for sglang" aq-export -q --force --engine sglang:sm100 --format modelopt --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/no" "$T/m.json"
}

@test "ModelOpt's layout: NVFP4 codes and scales are the bytes of ModelOpt's own export; names, types, shapes and algorithms of the others" {
    local v=$REPO/tests/oracle/export/modelopt.json
    mix "$(jq .recipe tests/export-modelopt.json)" "$(jq .treatments tests/export-modelopt.json)" >"$T/m.json"
    aq 0 aq-export -q --engine trtllm:sm100 --format modelopt --lm "$F/lm.json" --ranges "$F/ranges" -o "$T/out" "$T/m.json"
    "$O/tests/st_digest" "$T"/out/*.safetensors | grep language_model.layers | LC_ALL=C sort >"$T/found"
    jq -r '.tensors | to_entries[] | "\(.key) \(.value[0]) \(.value[1] | tojson)"' "$v" | LC_ALL=C sort | diff - <(cut -d' ' -f1-3 "$T/found")
    is "$(jq '.nvfp4 | length' "$v")" 42
    jq -r '.nvfp4 | to_entries[] | "\(.key) \(.value)"' "$v" | LC_ALL=C sort >"$T/expected"
    cut -d' ' -f1,4 "$T/found" | LC_ALL=C join - <(cut -d' ' -f1 "$T/expected") | diff "$T/expected" -
    is "$(jq -c '[.differ | to_entries[] | select(.key | test("^[23] weight")) | .value[1]] | unique' "$v")" "[0]"
    jq -S '.quantization.quantized_layers | with_entries(select(.key | test("qkv_proj|gate_up_proj") | not))' "$T/out/hf_quant_config.json" | diff <(jq -S .algorithms "$v") -
}

# ---- recipes alone ----

@test "recipe files: as ModelOpt and llm-compressor were shown; the other two" {
    aq 0 aq-export -q --format modelopt-cfg --lm "$F/lm.json" "$F/mix.json"
    is "$(sha256sum <<<"$output" | cut -c1-64)" "$(<tests/oracle/export/modelopt-cfg.sha256)"
    aq 0 aq-export -q --force --engine vllm:sm90 --format llm-compressor --lm "$F/lm.json" "$F/mix.json"
    is "$(sha256sum <<<"$output" | cut -c1-64)" "$(<tests/oracle/export/llm-compressor.sha256)"
    aq 0 aq-export -q --format autoround --lm "$F/lm.json" "$F/mix.json"
    is "$(jq -c '."model.language_model.layers.3.self_attn.q_proj"' <<<"$output")" '{"bits":4,"group_size":128,"sym":true,"data_type":"int","act_bits":16}'
    is "$(jq -c '."model.language_model.layers.6.mlp.down_proj"' <<<"$output")" '{"bits":16}'
    is "$(jq length <<<"$output")" 49
    mix '[["layers\\.0\\.", "q8"], ["layers\\.1\\.mlp", "mx"]]' "$(jq .treatments tests/export-gguf.json)" >"$T/m.json"
    aq 0 aq-export --format llama-types --engine llamacpp --lm "$F/lm.json" "$T/m.json"
    is "${#lines[@]}" 49
    is "$(cut -d= -f2 <<<"$output" | sort | uniq -c | tr -s ' \n' ' ')" " 39 bf16 3 mxfp4 7 q8_0 "
    has "$output" '^blk\.1\.ffn_gate\.weight$=mxfp4'
    has "$stderr" "--tensor-type-file"
    gguf_recipe >"$T/nv.json"
    refused 3 "llama-quantize cannot make NVFP4" aq-export -q --format llama-types --engine llamacpp --lm "$F/lm.json" "$T/nv.json"
}

# ---- selection for an engine ----

@test "aq-select --engine: what is not served is not chosen, whatever it scores" {
    local p
    for p in wint4_aint8 wint4_afp16; do
        aq-resolve -q --config-name preset/demo quant_pair=$p dataset.size=small -o "$T/$p.run"
        aq-overlay "$T/$p.run" -o "$T/$p.quant"
        aq-score -q --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" --prefix 16 --score-samples 16 -o "$T/store" "$T/$p.quant"
        aq-score collect --run "$T/$p.run" --quant "$T/$p.quant" -o "$T/$p.json" "$T/store"
    done
    aq 0 aq-select -q --engine vllm:sm90 --effective-bits 4.2 -o "$T/bound.json" "$T"/wint4_a{int8,fp16}.json
    is "$(jq -c '[.selection.recipe[].candidate] | unique' "$T/bound.json")" '["wint4_afp16/default"]'
    is "$(jq -r '.selection.engine, .selection.cost' "$T/bound.json" | tr '\n' ' ')" "vllm:sm90 storage "
    is "$(jq -c '.layer_sensitivity[].candidates' "$T/bound.json" | sort -u)" '["wint4_aint8/default","wint4_afp16/default","NONE"]'
    aq 0 aq-export --check -q --engine vllm:sm90 --lm "$F/lm.json" "$T/bound.json"
    aq 0 aq-select -q --engine llamacpp --effective-bits 4.6 -o "$T/gguf.json" "$T/wint4_afp16.json"
    is "$(jq -c '[.layer_sensitivity[].storage_bits] | unique' "$T/gguf.json")" "[[4.5,16]]"
    aq 0 aq-export -q --engine llamacpp --lm "$F/lm.json" -o "$T/model.gguf" "$T/gguf.json"
    refused 2 "unknown engine" aq-select --engine vlm "$T/wint4_afp16.json"
    refused 3 "the smallest reachable is 16.0; the engine serves no candidate of 28 of 28 groups: layers.0.self_attn.q_proj: " \
        aq-select --strict --engine vllm:sm90 --effective-bits 4.2 "$T/wint4_aint8.json"
    printf -- '- {match: "layers.0.*", only: [wint4_aint8/default]}\n' >"$T/menu.yaml"
    refused 3 "leaves no format" aq-select --engine vllm:sm90 --menu "$T/menu.yaml" "$T"/wint4_a{int8,fp16}.json
    jq 'del(.selection.candidates)' "$T/bound.json" >"$T/bare.json"
    refused 3 "nothing says what it does" aq-select -q --engine vllm:sm90 "$T/bare.json"
}

# ---- sweeps for an engine ----

@test "PAIRS=servable: pairs that the engine serves, other cells with the rule, a recipe of them as a checkpoint" {
    unset AQ_CONF MAKEFLAGS MAKELEVEL MFLAGS
    export AQ_BIN=$BIN PAIRS=servable GRANS="default recipe_match_channel_token" SIZES=small P=tmp/model-experiments/lm_sensitivity/qwen3_vl_demo
    cd "$T" || return
    cp -R "$REPO"/{conf,pipelines} .
    ln -s "$REPO"/{models,datasets} .
    aq 0 make -s -f pipelines/sweep.mk sweep export ENGINE=vllm:sm90 BITS=6
    is "$(jq -c .engine.name,.engine.sm $P/cells.json | tr '\n' ' ')" '"vllm" 90 '
    is "$(jq -r '[.cells[] | select(.supported) | .verdict] | unique | join(" ")' $P/cells.json)" "exact near"
    is "$(jq -r '.cells[] | select(.pair == "wint4_aint8" and .granularity == "default") | [.supported, .verdict, .reason] | @tsv' $P/cells.json)" \
        $'false\tno\t\'no\' for vllm: static int8 activations go with int8 weights per channel only'
    is "$(jq -r '[.cells[].pair] | map(select(test("_lm_only|wfp16|wfp8_aint"))) | length' $P/cells.json)" 0
    has "$(grep wint4_afp16 $P/summary.md | head -1)" "| near |"
    has "$(head -1 $P/summary.tsv)" $'skipped\tverdict'
    has "$(grep -o '<td>exact</td>' $P/summary.html | head -1)" exact
    is "$(jq -r .quantization_config.quant_method $P/select/6/small/export-vllm-sm90/config.json)" compressed-tensors
    aq 0 make -q -s -f pipelines/sweep.mk sweep export ENGINE=vllm:sm90 BITS=6
    aq 0 make -s -f pipelines/sweep.mk plan ENGINE=llamacpp GRANS=default
    has "$output" "4 cells in"
    refused 2 "ENGINE: 'nope' is not one of" make -s -f pipelines/sweep.mk plan ENGINE=nope
    refused 2 "trtllm serves no pair" make -s -f pipelines/sweep.mk plan ENGINE=trtllm GRANS=w_per_in_channel
    refused 2 "--servable needs --cells" aq-overlay --servable --format FP8_DEFAULT_CFG
    refused 2 "unknown engine 'vlm'" aq-overlay --served-pairs default --engine vlm
    refused 2 "unknown granularity" aq-overlay --served-pairs defalt
}

# ---- the page about serving ----

@test "docs/serving.md: ten commands, each run but the engine's own" {
    cd "$T" || return
    ln -s "$REPO"/{models,datasets,conf} .
    unset AQ_CONF
    mkdir served
    awk '/^```$/ {n++; next} n == 1' "$REPO/docs/serving.md" >commands
    is "$(wc -l <commands)" 10
    grep -v '^vllm ' commands >ours
    is "$(wc -l <ours)" 9
    run bash -eu -o pipefail ours
    [ "$status" -eq 0 ] || { echo "$output"; return 1; }
    [ -e served/model/model.safetensors.index.json ]
    is "$(jq -r '.quantization_config.quant_method' served/model/config.json)" compressed-tensors
    run bash -c "$(awk '/^```$/ {n++; next} n == 3' "$REPO/docs/serving.md") 2>&1 | tail -1 | jq -r .verdict"
    is "$status" 0
}
