# Families of decoders: config.json in all its spellings, what is refused, the way from a checkpoint to
# scores. What the engine computes is compared in tests/unit/test_families.c.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    CASES=$REPO/tests/oracle/families
}

# take CASE: a copy of its checkpoint, as ./tiny
take() {
    rm -rf tiny
    mkdir tiny
    cp "$CASES/$1"/{config.json,model.safetensors} tiny/
}

config() {
    jq "$1" tiny/config.json >new.json
    mv new.json tiny/config.json
}

# bad FILTER TEXT: with config.json changed like this, refused with that text
bad() {
    cp tiny/config.json kept.json
    config "$1"
    refused 3 "$2" aq-extract-lm tiny || {
        echo "filter: $1"
        return 1
    }
    cp kept.json tiny/config.json
}

# good FILTER JQ VALUE: with config.json changed like this, lm.json has that value
good() {
    cp tiny/config.json kept.json
    config "$1"
    aq 0 aq-extract-lm tiny || {
        echo "filter: $1"
        return 1
    }
    is "$(jq -c "$2" <<<"$output")" "$3" || {
        echo "filter: $1"
        return 1
    }
    cp kept.json tiny/config.json
}

# header FROM TO: the header of ./tiny's tensors, changed
header() {
    python3 - "$1" "$2" <<'PY'
import sys
p = "tiny/model.safetensors"
b = open(p, "rb").read()
n = int.from_bytes(b[:8], "little")
h = b[8:8 + n].replace(sys.argv[1].encode(), sys.argv[2].encode(), 1)
open(p, "wb").write(len(h).to_bytes(8, "little") + h + b[8 + n:])
PY
}

# retype NAME DTYPE SIZE: ./tiny's tensor of that name, zeros of another type with elements of SIZE bytes
retype() {
    python3 - "$@" <<'PY'
import json, sys
p = "tiny/model.safetensors"
b = open(p, "rb").read()
n = int.from_bytes(b[:8], "little")
h, data, out = json.loads(b[8:8 + n]), b[8 + n:], b""
for name, t in h.items():
    if name == "__metadata__":
        continue
    begin, end = t["data_offsets"]
    part = data[begin:end]
    if name == sys.argv[1]:
        t["dtype"], part = sys.argv[2], bytes(len(part) // 2 * int(sys.argv[3]))
    t["data_offsets"] = [len(out), len(out) + len(part)]
    out += part
h = json.dumps(h).encode()
open(p, "wb").write(len(h).to_bytes(8, "little") + h + out)
PY
}

@test "every family: lm.json, and a copy of the language model alone with the same digest" {
    for dir in "$CASES"/*/; do
        name=$(basename "$dir")
        aq 0 aq-extract-lm -o "$name.json" "$dir"
        aq 0 aq-extract-lm --materialize "$name" -o copied.json "$dir"
        aq 0 aq-extract-lm -o again.json "$name"
        is "$(jq -r .digest.sample again.json)" "$(jq -r .digest.sample "$name.json")"
        is "$(jq -c .dropped again.json)" '[]'
        case $name in
        qwen3_moe | qwen3_moe_plain) kinds='["down","experts","gate_up","o","qkv"]' ;; # some layers are dense
        *moe* | mixtral) kinds='["experts","o","qkv"]' ;;
        *) kinds='["down","gate_up","o","qkv"]' ;;
        esac
        is "$(jq -c '[.groups[].kind] | unique' "$name.json")" "$kinds"
    done
    is "$(jq -c '.arch | [.family, .model_type, .bias]' qwen2_5_vl.json)" '["qwen2","qwen2_5_vl_text",["qkv"]]'
    is "$(jq -c '[.dropped[].prefix] | sort' gemma3.json)" '["multi_modal_projector.","vision_tower."]'
    is "$(jq -c .groups[0].modules gemma3.json)" \
        '["language_model.model.layers.0.self_attn.q_proj","language_model.model.layers.0.self_attn.k_proj","language_model.model.layers.0.self_attn.v_proj"]'
    # fused projections are one member, with one shape
    is "$(jq -c '.groups[0] | [.members, .shapes]' phi3.json)" '[["layers.0.self_attn.qkv_proj"],[[48,24]]]'
    is "$(jq -c '.groups[2] | [.members, .shapes]' phi3.json)" '[["layers.0.mlp.gate_up_proj"],[[72,24]]]'
}

@test "every family: ranges, gradient and kl_div scores, the same bytes from shards" {
    for i in $(seq 12); do seq -s' ' $((i % 50)) $((i % 50 + 1 + i % 7)); done >ids
    "$O"/tests/make_tokens --sizes 4,12 -o tokens <ids
    for f in INT8_DEFAULT_CFG FP8_DEFAULT_CFG INT8_WEIGHT_ONLY_CFG; do aq-overlay --format $f -o $f.json; done
    for name in llama_bias llama_linear mistral smollm3 phi3_longrope granite olmo2 gemma2 gemma3_text qwen3_moe mixtral; do
        aq-extract-lm -o lm.json "$CASES/$name"
        aq 0 aq-calib ranges --lm lm.json --prefix 4,12 --device cpu -o ranges tokens
        for method in gradient kl_div; do
            run=(aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 4,12 --device cpu --method $method)
            aq 0 "${run[@]}" -o "$name-$method" ./*_CFG.json
            aq 0 "${run[@]}" --shard 1/2 -o a ./*_CFG.json
            aq 0 "${run[@]}" --shard 2/2 -o b ./*_CFG.json
            aq 0 aq-score merge -o merged a b
            cmp merged "$name-$method"
            rm -f a b merged
        done
    done
}

@test "the rotation: both spellings, and what they may not say" {
    take llama
    good 'del(.rope_parameters) | .rope_theta = 10000' .arch.rope '[{"theta":10000,"type":"default"}]'
    good 'del(.rope_parameters) | .rope_theta = 5e5 | .rope_scaling = {"type": "linear", "factor": 2}' \
        '.arch.rope[0] | [.theta, .type, .factor]' '[500000,"linear",2]'
    good 'del(.rope_parameters) | .rope_theta = 5e5 | .rope_scaling = {"rope_type": "yarn", "factor": 4}' \
        '.arch.rope[0] | [.original_max_position_embeddings, .beta_fast, (.attention_factor * 1e6 | round)]' '[512,32,1138629]'
    good '.rope_scaling = {"rope_type": "linear", "factor": 4} | .rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 7}' \
        '.arch.rope[0] | [.theta, .type, .factor]' '[7,"linear",4]'
    while IFS='~' read -r filter text; do
        bad "$filter" "$text"
    done <<'CASES'
del(.rope_parameters)~rope_theta is missing
.rope_scaling = {"rope_type": "linear", "factor": 4} | .rope_parameters = {"rope_type": "linear", "factor": 8, "rope_theta": 7}~rope_scaling and rope_parameters contradict each other
.rope_scaling = {"rope_type": "linear", "factor": 4}~rope_scaling and rope_parameters contradict each other
.rope_theta = 7~rope_theta is 7, but 10000 in rope_parameters
.rope_parameters.type = "yarn"~rope_type is 'default', but type is 'yarn'
.rope_parameters.rope_type = "proportional"~rope_parameters.rope_type: 'proportional' is not supported
.rope_parameters.rope_type = 3~rope_type: expected a string
.rope_parameters.rope_type = "linear"~key 'factor' is missing
.rope_parameters |= . + {"rope_type": "linear", "factor": 0}~factor: 0, expected a positive number
.rope_parameters |= . + {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}~key 'high_freq_factor' is missing
.rope_parameters |= . + {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}~low_freq_factor is not below high_freq_factor
.rope_parameters |= . + {"rope_type": "longrope"}~key 'short_factor' is missing
.rope_parameters |= . + {"rope_type": "longrope", "short_factor": [1, 2]}~short_factor: 2 entries for 3 rotated pairs
.rope_parameters |= . + {"rope_type": "longrope", "short_factor": [1, 2, 0]}~short_factor[2]: expected a positive number
.rope_parameters |= . + {"rope_type": "yarn", "factor": 2, "beta_slow": -1}~beta_slow: -1, expected a positive number
del(.max_position_embeddings) | .rope_parameters.rope_type = "dynamic"~key 'max_position_embeddings' is missing
.rope_parameters.partial_rotary_factor = 0.5~partial_rotary_factor: 0.5 is not supported
CASES
    take phi3
    bad '.partial_rotary_factor = 0.5 | .rope_parameters.partial_rotary_factor = 0.5' "of the 6 elements of a head are rotated"
    bad '.rope_parameters.partial_rotary_factor = 2' "expected more than 0 and at most 1"
    # the first files of Phi-3 call it "su"
    take phi3_longrope
    good '.rope_scaling = (.rope_parameters | del(.rope_type, .rope_theta) + {"type": "su"}) | .rope_theta = 1e4 | .partial_rotary_factor = 0.6 | del(.rope_parameters)' \
        '.arch.rope[0].type' '"longrope"'
}

@test "a sample longer than the rotation is known for is refused with the numbers" {
    seq -s' ' 1 60 >ids
    "$O"/tests/make_tokens --sizes 1 -o tokens <ids
    take phi3_longrope
    config '.original_max_position_embeddings = 59'
    aq-extract-lm -o lm.json tiny
    refused 3 "sample 0 has 60 positions; the model's rotation changes beyond 59" \
        aq-calib ranges --lm lm.json --prefix 1 --device cpu -o r tokens
    take llama_dynamic
    config '.max_position_embeddings = 60'
    aq-extract-lm -o lm.json tiny
    aq 0 aq-calib ranges --lm lm.json --prefix 1 --device cpu -o r tokens
}

@test "keys that a family does not compute are refused by name" {
    take qwen2
    while IFS='~' read -r filter text; do
        bad "$filter" "$text"
    done <<'CASES'
.mlp_bias = true~mlp_bias: true is not supported in the family qwen2
.attention_bias = true~attention_bias: true is not supported
.attn_logit_softcapping = 50~attn_logit_softcapping: the family qwen2 does not compute this
.final_logit_softcapping = 30.0~final_logit_softcapping: the family qwen2 does not compute this
.embedding_multiplier = 12~embedding_multiplier: 12 is not supported
.residual_multiplier = 0.2~residual_multiplier: 0.2 is not supported
.logits_scaling = 8~logits_scaling: 8 is not supported
.query_pre_attn_scalar = 224~query_pre_attn_scalar: the family qwen2 does not compute this
.no_rope_layers = [1, 0]~no_rope_layers: the family qwen2 does not compute this
.num_experts = 8~num_experts: the family qwen2 does not compute this
.hidden_act = "relu"~hidden_act: 'relu' is not supported, expected 'silu'
CASES
    good '.mlp_bias = false | .residual_multiplier = 1.0 | .attn_logit_softcapping = null' .arch.family '"qwen2"'
    take llama
    bad '.sliding_window = 4096' "sliding_window: the family llama does not compute this"
    bad '.use_sliding_window = true' "use_sliding_window: true is not supported in the family llama"
    good '.use_sliding_window = false | .sliding_window = 4096' .arch.window 0
    take gemma3_text
    bad '.attn_logit_softcapping = 50' "attn_logit_softcapping: the family gemma3 does not compute this"
    bad '.use_bidirectional_attention = true' "use_bidirectional_attention: true is not supported"
    bad '.hidden_activation = "gelu"' "hidden_activation: 'gelu' is not supported, expected 'gelu_pytorch_tanh'"
    bad '.sliding_window = null' "there is no sliding_window"
    bad '.layer_types[1] = "chunked_attention"' "layer_types[1]: expected 'full_attention' or 'sliding_attention'"
    take smollm3
    bad '.no_rope_layers = [1, 1]' "no_rope_layers: 2 entries for 5 layers"
    bad '.no_rope_layers[2] = 2' "no_rope_layers[2]: expected 0 (no rotation) or 1"
}

@test "defaults are transformers'" {
    take mistral
    good 'del(.sliding_window)' '[.arch.window, .arch.layer_window]' '[4096,[1,1]]'
    take gemma2
    good 'del(.layer_types, .attn_logit_softcapping, .final_logit_softcapping, .query_pre_attn_scalar, .tie_word_embeddings)' \
        '.arch | [.layer_window, .attn_cap, .logit_cap, .attn_scale, .tie_word_embeddings]' '[[1,0,1,0],50,30,0.0625,true]'
    good '.attn_logit_softcapping = null' .arch.attn_cap 0
    bad 'del(.head_dim)' "config.json needs [1024, 20]"
    take gemma3_text
    good 'del(.layer_types) | .sliding_window_pattern = 2' '.arch | [.layer_window, .layer_rope]' '[[1,0,1],[1,0,1]]'
    good 'del(.rope_parameters) | .rope_theta = 1e6 | .rope_local_base_freq = 2e4 | .rope_scaling = {"rope_type": "linear", "factor": 8}' \
        '[.arch.rope[] | [.theta, .type]]' '[[1000000,"linear"],[20000,"default"]]'
    take smollm3
    good 'del(.no_rope_layers)' .arch.layer_rope '[0,0,0,-1,0]'
    take llama
    good 'del(.head_dim)' .arch.head_dim 6
    take phi3
    good 'del(.rms_norm_eps)' .arch.rms_norm_eps 1e-05
}

@test "another model_type: the list, and what it would need" {
    take llama
    bad '.model_type = "deepseek_v3"' "model_type 'deepseek_v3' is not supported: it would need latent attention, shared experts"
    has "$stderr" "supported are qwen3, qwen3_vl_text, qwen3_vl, llama, qwen2,"
    bad '.model_type = "qwen2_moe"' "it would need a shared expert beside the others"
    bad '.model_type = "glm4_moe"' "it would need shared experts and a router with sigmoids and groups"
    bad '.model_type = "new_moe"' "it would need to know how its router chooses experts"
    bad '.model_type = "phi"' "it would need layer norms, parallel branches"
    bad '.model_type = "cohere2"' "interleaved rotation"
    bad '.model_type = "shiny"' "model_type 'shiny' is not supported"
    bad '.model_type = "gemma3"' "key 'text_config' is missing"
}

@test "tensors: missing, extra, of another shape, of a type that is no weight" {
    need_command python3
    while IFS='~' read -r name from to text; do
        take "$name"
        header "$from" "$to"
        refused 3 "$text" aq-extract-lm tiny || {
            echo "$name: $from -> $to"
            return 1
        }
    done <<'CASES'
qwen2~layers.1.self_attn.k_proj.bias~layers.1.self_attn.k_proj.bais~tensor 'model.layers.1.self_attn.k_proj.bias' is missing
gemma2~layers.0.pre_feedforward_layernorm.weight~layers.0.pre_feedforward_layernorn.weight~tensor 'model.layers.0.pre_feedforward_layernorm.weight' is missing
phi3~self_attn.qkv_proj.weight~self_attn.qkv_porj.weight~qkv_proj.weight' is missing
llama~"BF16"~"I16"~has dtype I16, expected BF16, F16 or F32
CASES
    # of a bf16 checkpoint, one tensor of another type
    for type in F64:8 F8_E4M3:1 F8_E5M2:1 I8:1 I32:4 U8:1; do
        take llama
        retype model.layers.1.mlp.up_proj.weight "${type%:*}" "${type#*:}"
        refused 3 "up_proj.weight' has dtype ${type%:*}, expected BF16, F16 or F32" aq-extract-lm tiny
    done
    # F32 among BF16 is welcome: types may be mixed
    take llama
    retype model.layers.1.mlp.up_proj.weight F32 4
    aq 0 aq-extract-lm tiny
    is "$(jq -c '[.tensors[].dtype] | unique' <<<"$output")" '["BF16","F32"]'
    take llama_bias
    config '.mlp_bias = false'
    refused 3 "unexpected tensor 'model.layers.0.mlp.down_proj.bias'" aq-extract-lm tiny
    take olmo2
    config '.model_type = "llama"'
    refused 3 "tensor 'model.layers.0.input_layernorm.weight' is missing" aq-extract-lm tiny
    take phi3
    config '.num_key_value_heads = 4'
    refused 3 "qkv_proj.weight' has shape [48, 24], config.json needs [72, 24]" aq-extract-lm tiny
}

# Every tensor of a family, the last layer's and the ends', in turn.
@test "each tensor of each family: missing, of another shape; and one too many" {
    need_command python3
    run python3 - "$CASES" <<'PY'
import json, os, subprocess, sys

def write(header, data):
    h = json.dumps(header).encode()
    with open("tiny/model.safetensors", "wb") as f:
        f.write(len(h).to_bytes(8, "little") + h + data)

def expect(text, what):
    global count
    r = subprocess.run(["aq-extract-lm", "-o", "lm.json", "tiny"], capture_output=True, text=True)
    count += 1
    if r.returncode != 3 or text not in r.stderr or r.stderr.count("\n") > 2:
        print(f"{what}: status {r.returncode}, {r.stderr!r} lacks {text!r}")
        sys.exit(1)

os.mkdir("tiny")
count = 0
for case in "llama_bias qwen2 qwen2_5_vl mistral smollm3 phi3 granite olmo2 gemma2 gemma3 gemma3_text".split():
    with open(f"{sys.argv[1]}/{case}/config.json") as f, open("tiny/config.json", "w") as to:
        config = f.read()
        to.write(config)
    config = json.loads(config)
    layers = config.get("text_config", config)["num_hidden_layers"]
    with open(f"{sys.argv[1]}/{case}/model.safetensors", "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header, data = json.loads(f.read(n)), f.read()
    ours = [k for k in header if k != "__metadata__" and "vision" not in k and "visual" not in k and "projector" not in k]
    last = [k for k in ours if f"layers.{layers - 1}." in k]
    ends = [k for k in ours if "layers." not in k]
    assert len(last) >= 6 and len(ends) >= 2, case
    for name in last + [k for k in ends if "embed" not in k]:
        write({name + "x" if k == name else k: t for k, t in header.items()}, data)
        short = name[name.index("lm_head" if "lm_head" in name else "layers." if "layers." in name else "norm"):]
        expect(f"{short}' is missing", f"{case} without {name}")
    for name in last + ends:
        size = 1
        for d in header[name]["shape"]:
            size *= d
        shape = [1, size] if header[name]["shape"] != [1, size] else [size, 1]
        write({k: dict(t, shape=shape) if k == name else t for k, t in header.items()}, data)
        expect(f"' has shape [{shape[0]}, {shape[1]}], config.json needs [", f"{case} with a flat {name}")
    for extra in ("bias", "scales"):
        name = last[0].rsplit(".", 2)[0] + ".more." + extra
        end = {"dtype": "BF16", "shape": [2], "data_offsets": [len(data), len(data) + 4]}
        write(dict(header, **{name: end}), data + bytes(4))
        expect(f"unexpected tensor '{name}'", f"{case} with {name}")
print(count)
PY
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$output" -ge 200 ]
}

# The same numbers in other types: the scores are the same to the last bit, on the CPU, which computes in fp32.
@test "F16, F32 and BF16, also mixed, are the same numbers" {
    need_command python3
    python3 - "$CASES" <<'PY'
import array, json, os, shutil, struct, sys

def load():
    with open(f"{sys.argv[1]}/qwen2/model.safetensors", "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header, data = json.loads(f.read(n)), f.read()
    for k, t in header.items():
        if k != "__metadata__":
            assert t["dtype"] == "BF16"
            half = array.array("H", data[slice(*t["data_offsets"])])
            yield k, t["shape"], [struct.unpack("<f", struct.pack("<I", h << 16))[0] for h in half]

def save(name, kinds):
    header, data = {}, b""
    for i, (k, shape, values) in enumerate(load()):
        kind = kinds[i % len(kinds)]
        if kind == "BF16":
            part = array.array("H", [struct.unpack("<I", struct.pack("<f", v))[0] >> 16 for v in values]).tobytes()
        else:
            form = "<%d%s" % (len(values), "f" if kind == "F32" else "e")
            part = struct.pack(form, *values)
            assert list(struct.unpack(form, part)) == values
        header[k] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    os.mkdir(name)
    shutil.copy(f"{sys.argv[1]}/qwen2/config.json", name)
    h = json.dumps(header).encode()
    with open(f"{name}/model.safetensors", "wb") as f:
        f.write(len(h).to_bytes(8, "little") + h + data)

save("bf16", ["BF16"])
save("f16", ["F16"])
save("mixed", ["F32", "BF16", "F16"])
PY
    for i in $(seq 6); do seq -s' ' "$i" $((i + 5)); done >ids
    "$O"/tests/make_tokens --sizes 6 -o tokens <ids
    aq-overlay --format INT8_DEFAULT_CFG -o int8.json
    for m in bf16 f16 mixed; do
        aq-extract-lm -o lm.json "$m"
        aq 0 aq-calib ranges --lm lm.json --prefix 6 --device cpu -o ranges tokens
        aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 6 --device cpu -o "$m.store" int8.json
        "$O"/tests/st_digest "$m.store" | grep '^s/' >"$m.sums"
        [ -s "$m.sums" ]
    done
    is "$(jq -c '[.tensors[].dtype] | unique' lm.json)" '["BF16","F16","F32"]'
    cmp bf16.sums f16.sums
    cmp bf16.sums mixed.sums
}
