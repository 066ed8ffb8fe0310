# aq-extract-lm: what lm.json says, the copy, and the checkpoints that are refused.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    GEN=$O/tests/random_checkpoint
}

# config FILTER: the tiny checkpoint's config.json changed by jq
config() {
    jq "$1" tiny/config.json >new.json
    mv new.json tiny/config.json
}

# bad_config FILTER TEXT: refused with that text
bad_config() {
    cp tiny/config.json kept.json
    config "$1"
    refused 3 "$2" aq-extract-lm tiny || {
        echo "filter: $1"
        return 1
    }
    cp kept.json tiny/config.json
}

# change_index FILTER
change_index() {
    jq "$1" tiny/model.safetensors.index.json >new.json
    mv new.json tiny/model.safetensors.index.json
}

@test "architecture, tensors, head and what was dropped" {
    "$GEN" --shards 3 tiny
    aq 0 aq-extract-lm tiny
    is "$(jq -c '[.schema, .root, .head, .arch.hidden_size, .arch.rope_theta, (.tensors | length)]' <<<"$output")" \
        '["aq.lm/2","tiny","embed_tokens.weight",64,5000000,24]'
    is "$(jq -r '.tensors[1, 4, -1].name' <<<"$output")" $'layers.0.input_layernorm.weight\nlayers.0.self_attn.v_proj.weight\nnorm.weight'
    is "$(jq -c '.dropped' <<<"$output")" \
        '[{"prefix":"model.visual.","tensors":51,"elements":239904,"linears":17,"linear_weights":163840}]'
    is "$(jq -c '.digest.full, .provenance' <<<"$output")" $'null\n{"tool":"aq-extract-lm","result_version":1,"inputs":{}}'
    # the byte ranges are those of the files
    python=$(jq -r '.tensors[] | select(.name == "layers.1.mlp.down_proj.weight") | "\(.file) \(.begin) \(.end)"' <<<"$output")
    read -r file begin end <<<"$python"
    is $((end - begin)) $((64 * 128 * 2))
    [ -e "tiny/$(jq -r ".files[$file].name" <<<"$output")" ]
}

@test "the 4B model's headers: figures of the published checkpoint, in no time and little memory" {
    "$GEN" -p 4b --sparse --shards 4 big
    within 1 aq-extract-lm -o lm.json big
    is "$(jq -c .dropped lm.json)" \
        '[{"prefix":"model.visual.","tensors":315,"elements":415347712,"linears":105,"linear_weights":412614656}]'
    is "$(jq '[.tensors[] | .shape | reduce .[] as $d (1; . * $d)] | add' lm.json)" 4022468096
    is "$(jq '[.tensors[] | select(.name | test("_proj")) | .shape[0] * .shape[1]] | add' lm.json)" 3633315840
    if ! sanitized && [ -x /usr/bin/time ]; then
        /usr/bin/time -f %M -o rss aq-extract-lm -o lm.json big
        [ "$(cat rss)" -lt 100000 ]
    fi
}

@test "the digest knows the weights, not the files they lie in" {
    "$GEN" --shards 3 tiny
    "$GEN" single
    "$GEN" --seed 2 other
    "$GEN" --theta 10000 theta
    digest() { aq-extract-lm --digest full "$@" | jq -r ".digest.$kind"; }
    for kind in sample full; do
        is "$(digest tiny)" "$(digest single)"
        [ "$(digest tiny)" != "$(digest other)" ]
        [ "$(digest tiny)" != "$(digest theta)" ]
    done
    is "$(kind=sample digest tiny)" "$(aq-extract-lm tiny | jq -r .digest.sample)"
    [ "$(kind=sample digest tiny)" != "$(kind=full digest tiny)" ]
}

@test "materialize: a checkpoint of its own with the same tensors, in one file or in shards" {
    for opts in "--kind qwen3_vl" "--kind qwen3 --tied no" "--shards 3 --copy-head"; do
        # shellcheck disable=SC2086
        "$GEN" $opts from
        aq 0 aq-extract-lm -o from.json from
        aq 0 aq-extract-lm --materialize to -o to.json from
        is "$(jq -r .model_type to/config.json)" qwen3
        is "$(jq -r .digest.sample to.json)" "$(jq -r .digest.sample from.json)"
        is "$(jq -c .dropped to.json)" '[]'
        is "$(jq -r '[.tensors[] | .source] | .[0], .[-1]' to.json)" \
            "model.embed_tokens.weight"$'\n'"$(jq -r 'if .arch.tie_word_embeddings then "model.norm.weight" else "lm_head.weight" end' to.json)"
        aq 0 aq-extract-lm --materialize sharded --shard-size 100K -o sharded.json from
        [ "$(jq '.files | length' sharded.json)" -ge 3 ]
        aq 0 aq-extract-lm --digest full -o a.json from
        aq 0 aq-extract-lm --digest full -o b.json sharded
        is "$(jq -c .digest a.json)" "$(jq -c .digest b.json)"
        rm -r from to sharded
    done
}

@test "materialize: the bytes that transformers was seen to load, of a random and of the demo model" {
    local sums=$REPO/tests/oracle/materialize
    "$GEN" --seed 7 random
    ln -s "$REPO/models/qwen3_vl_demo/checkpoint" demo
    for model in random demo; do
        aq-extract-lm --materialize "$model.copy" "$model" >/dev/null
        (LC_ALL=C && cd "$model.copy" && sha256sum -- *) | diff - "$sums/$model.sha256sums"
    done
}

@test "materialize: never over a checkpoint, nor into its own source" {
    "$GEN" tiny
    before=$(cat tiny/* | sha256sum)
    refused 1 "'tiny' holds a checkpoint already" aq-extract-lm --materialize tiny tiny
    "$GEN" --seed 2 other
    refused 1 "'other' holds a checkpoint already" aq-extract-lm --materialize other tiny
    is "$(cat tiny/* | sha256sum)" "$before"
    refused 1 "" aq-extract-lm --materialize tiny/config.json tiny
    refused 1 "" aq-extract-lm --materialize /proc/no/where tiny
}

@test "materialize: a full disk leaves nothing under a final name, and works afterwards" {
    need_root
    "$GEN" --vocab 20000 tiny
    mkdir full
    mount -t tmpfs -o size=1m none full 2>/dev/null || skip "no tmpfs here"
    run --separate-stderr aq-extract-lm --materialize full/to tiny
    left=$(find full -type f | wc -l)
    umount full
    is "$status" 1
    has "$stderr" "No space left on device"
    is "$left" 0
    aq 0 aq-extract-lm --materialize full/to tiny
}

@test "memory stays small while more is copied" {
    sanitized && skip "memory of a sanitizer build says nothing"
    [ -x /usr/bin/time ] || skip "no time(1)"
    "$GEN" -p 4b --layers 1 --vocab 20000 --vision-depth 0 --sparse big
    /usr/bin/time -f %M -o rss aq-extract-lm --materialize copy -o lm.json big
    [ "$(cat rss)" -lt 100000 ]
}

@test "the three naming regimes, and a language model without prefix" {
    for prefix in model.language_model. language_model. model. ""; do
        "$GEN" --prefix "$prefix" --vision-depth 0 tiny
        aq 0 aq-extract-lm tiny
        is "$(jq -r '.tensors[2].source' <<<"$output")" "${prefix}layers.0.self_attn.q_proj.weight"
        is "$(jq -r '.tensors[2].name' <<<"$output")" "layers.0.self_attn.q_proj.weight"
        rm -r tiny
    done
}

@test "a repeated head is dropped where it is tied, and said to differ if it does" {
    "$GEN" --copy-head tiny
    aq 0 aq-extract-lm tiny
    is "$(jq -c '.head, .dropped[] | select(.prefix? == "lm_head.")? // .' <<<"$output" | head -2 | tail -1)" \
        '{"prefix":"lm_head.","tensors":1,"elements":32768,"linears":0,"linear_weights":0}'
    has "$stderr" "lm_head.weight differs from the embedding it is tied to"
}

@test "directories that are none" {
    refused 1 "cannot read checkpoint directory 'nothing'" aq-extract-lm nothing
    touch file
    refused 3 "'file' is not a directory" aq-extract-lm file
    mkdir empty
    refused 3 "found neither model.safetensors nor model.safetensors.index.json" aq-extract-lm empty
    touch empty/pytorch_model.bin
    refused 3 "holds no checkpoint" aq-extract-lm empty
    has "$stderr" "PyTorch files are not read"
    mkdir cut
    touch cut/model.safetensors.incomplete
    refused 3 "holds no checkpoint" aq-extract-lm cut
    has "$stderr" "finish the download"
    refused 2 "" aq-extract-lm
    refused 2 "" aq-extract-lm a b
    refused 2 "--digest" aq-extract-lm --digest none empty
}

@test "shards: missing, empty, unfinished, with other tensors than the index says" {
    "$GEN" --shards 3 tiny
    mv tiny/model-00002-of-00003.safetensors kept
    refused 3 "shard 2 of 3 is not there: 'model-00002-of-00003.safetensors'" aq-extract-lm tiny
    has "$stderr" "the first is 'model."
    touch tiny/model-00002-of-00003.safetensors.incomplete
    refused 3 "shard 2 of 3" aq-extract-lm tiny
    has "$stderr" "finish the download"
    : >tiny/model-00002-of-00003.safetensors
    refused 3 "too short for a safetensors header: 0 bytes" aq-extract-lm tiny
    cp tiny/model-00001-of-00003.safetensors tiny/model-00002-of-00003.safetensors
    refused 3 "is missing, although model.safetensors.index.json places it there" aq-extract-lm tiny
    head -c 90000 kept >tiny/model-00002-of-00003.safetensors
    refused 3 "truncated" aq-extract-lm tiny
    mv kept tiny/model-00002-of-00003.safetensors
    aq 0 aq-extract-lm tiny
}

@test "index: names that leave the directory are refused before anything is opened" {
    need_command strace
    export ASAN_OPTIONS=detect_leaks=0 # which does not work under strace
    "$GEN" --shards 2 tiny
    cp tiny/model.safetensors.index.json kept.json
    for name in ../x.safetensors /etc/passwd a/../../x a/b.safetensors . .. "" 'C:\x' "$(head -c 5000 /dev/zero | tr '\0' n)"; do
        jq --arg n "$name" '.weight_map["model.language_model.norm.weight"] = $n' kept.json >tiny/model.safetensors.index.json
        refused 3 "shard names must be plain file names" strace -f -o trace -e trace=openat aq-extract-lm tiny
        run ! grep -E 'passwd|safetensors"|/x"' trace
    done
    # \u0000 cannot even be parsed
    sed 's/"model-00002-of-00002.safetensors"/"x\\u0000y"/' kept.json >tiny/model.safetensors.index.json
    refused 3 "\\u0000" aq-extract-lm tiny
}

@test "index: values and maps of the wrong kind" {
    "$GEN" --shards 2 tiny
    cp tiny/model.safetensors.index.json kept.json
    while IFS='~' read -r filter text; do
        jq "$filter" kept.json >tiny/model.safetensors.index.json
        refused 3 "$text" aq-extract-lm tiny || {
            echo "filter: $filter"
            return 1
        }
    done <<'CASES'
.weight_map["model.language_model.norm.weight"] = 7~weight_map.model.language_model.norm.weight: expected a file name, found an integer
.weight_map["model.language_model.norm.weight"] = null~expected a file name, found null
del(.weight_map)~key 'weight_map' is missing
.weight_map = []~weight_map: expected an object, found a list
.weight_map = {}~weight_map: names no tensors
[]~expected an object
.weight_map["x"] = "model-00001-of-00002.safetensors"~tensor 'x' is missing
CASES
    echo '{"weight_map": {"a": "b", "a": "c"}}' >tiny/model.safetensors.index.json
    refused 3 "appears twice" aq-extract-lm tiny
    jq -n '{weight_map: [range(10001) | {key: "t\(.)", value: "\(.).safetensors"}] | from_entries}' >tiny/model.safetensors.index.json
    refused 3 "10001 shards, the limit is 10000" aq-extract-lm tiny
    # total_size is of no importance
    for size in 1 '"x"' null 1e30; do
        jq ".metadata.total_size = $size" kept.json >tiny/model.safetensors.index.json
        aq 0 aq-extract-lm tiny
    done
}

@test "config.json and the index are small files: above 16 MiB they are refused unread" {
    local name
    "$GEN" --shards 2 tiny
    for name in config.json model.safetensors.index.json; do
        cp "tiny/$name" kept
        head -c 16777217 /dev/zero | tr '\0' ' ' >>"tiny/$name"
        refused 3 "'tiny/$name' is larger than the limit of 16777216 bytes" aq-extract-lm tiny
        head -c 16777216 "tiny/$name" >cut && mv cut "tiny/$name"
        aq 0 aq-extract-lm -o lm.json tiny
        mv kept "tiny/$name"
    done
}

@test "index: a tensor it does not name is ignored with a warning; one in two shards is refused" {
    "$GEN" --shards 2 tiny
    change_index 'del(.weight_map["model.visual.blocks.0.norm1.weight"])'
    aq 0 aq-extract-lm tiny
    has "$stderr" "1 tensors that model.safetensors.index.json does not name are ignored, the first is 'model.visual.blocks.0.norm1.weight'"
    "$GEN" single
    mv single/model.safetensors tiny/model-00002-of-00002.safetensors
    change_index '.weight_map[]? |= .'
    refused 3 "is in 'model-00001-of-00002.safetensors' and in 'model-00002-of-00002.safetensors'" aq-extract-lm tiny
}

@test "both forms: the single file is taken, and it says so" {
    "$GEN" --shards 2 tiny
    "$GEN" --seed 3 single
    mv single/model.safetensors tiny/
    aq 0 aq-extract-lm tiny
    is "$(jq -c '[.files[].name]' <<<"$output")" '["model.safetensors"]'
    has "$stderr" "warning: both model.safetensors and model.safetensors.index.json are there"
}

@test "config.json: missing, empty, cut off, not an object" {
    "$GEN" tiny
    cp tiny/config.json kept.json
    rm tiny/config.json
    refused 3 "'tiny/config.json' is missing" aq-extract-lm tiny
    : >tiny/config.json
    refused 3 "tiny/config.json:1:1:" aq-extract-lm tiny
    echo '[]' >tiny/config.json
    refused 3 "tiny/config.json: expected an object, found a list" aq-extract-lm tiny
    head -c 300 kept.json >tiny/config.json
    refused 3 "tiny/config.json:" aq-extract-lm tiny
    truncate -s 2G tiny/config.json
    refused 3 "'tiny/config.json' is larger than the limit of 16777216 bytes" aq-extract-lm tiny
    cp kept.json tiny/config.json
    # what it says of dtypes is of no importance: the tensors know
    config '.torch_dtype = "float32" | .text_config.dtype = "float8_e4m3fn"'
    aq 0 aq-extract-lm tiny
    is "$(jq -r '.tensors[2].dtype' <<<"$output")" BF16
}

@test "config.json: kinds of models" {
    "$GEN" tiny
    for type in bert qwen2_moe glm4_moe phi; do
        bad_config ".model_type = \"$type\"" "model_type '$type' is not supported"
        has "$stderr" "supported are qwen3, qwen3_vl_text, qwen3_vl"
    done
    bad_config 'del(.model_type)' "key 'model_type' is missing"
    bad_config 'del(.text_config)' "key 'text_config' is missing"
    bad_config '.text_config.model_type = "bert"' "text_config: model_type 'bert' is not supported"
    bad_config '.text_config.model_type = "llama"' "text_config.model_type: 'llama' inside a model of type 'qwen3_vl'"
    config 'del(.vision_config)'
    aq 0 aq-extract-lm tiny
}

@test "config.json: sizes of every wrong kind" {
    "$GEN" tiny
    for key in hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size; do
        for value in 0 -1 2.5 '"4096"' 2147483648 9223372036854775808; do
            bad_config ".text_config.$key = $value" "text_config.$key: expected an integer"
        done
    done
    for key in hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size; do
        bad_config "del(.text_config.$key)" "text_config: key '$key' is missing"
        bad_config ".text_config.$key = null" "text_config.$key: expected an integer, found null"
    done
    bad_config '.text_config.num_key_value_heads = 3' "num_key_value_heads 3 does not divide num_attention_heads 4"
    bad_config '.text_config.head_dim = 31' "head_dim 31 is odd"
    bad_config 'del(.text_config.num_key_value_heads)' "k_proj.weight' has shape [64, 64], config.json needs [128, 64]"
    bad_config '.text_config.num_attention_heads = 65536 | .text_config.num_key_value_heads = 1 | .text_config.head_dim = 65536' "the limit is 16777216"
    # transformers has 128 for this family, whatever the other sizes
    bad_config 'del(.text_config.head_dim)' "q_proj.weight' has shape [128, 64], config.json needs [512, 64]"
}

@test "config.json: what the engine does not compute is refused by name" {
    "$GEN" tiny
    while IFS='~' read -r filter text; do
        bad_config "$filter" "$text"
    done <<'CASES'
del(.text_config.rope_theta)~rope_theta is missing
.text_config.rope_theta = 0~rope_theta is 0, expected a positive number
.text_config.rope_theta = -1~rope_theta is -1
.text_config.rope_theta = "1e6"~rope_theta: expected a number, found a string
.text_config.rms_norm_eps = 0~rms_norm_eps is 0
.text_config.rms_norm_eps = -1e-6~rms_norm_eps is -1e-06
.text_config.rope_scaling = {"rope_type": "proportional", "factor": 4}~rope_scaling.rope_type: 'proportional' is not supported
.text_config.rope_scaling = {"type": "linear"}~rope_scaling: key 'factor' is missing
.text_config.rope_scaling = {"factor": 4}~rope_scaling: key 'rope_type' is missing
.text_config.rope_scaling = 4~rope_scaling: expected an object
.text_config.rope_parameters = {"rope_theta": 7, "rope_type": "default"}~rope_theta is 5e+06, but 7 in rope_parameters
.text_config.rope_parameters = {"rope_type": "llama3"}~rope_parameters: key 'factor' is missing
.text_config.partial_rotary_factor = 0.5~partial_rotary_factor: 0.5 is not supported
.text_config.attention_bias = true~attention_bias: true is not supported
.text_config.use_sliding_window = true~use_sliding_window: true is not supported
.text_config.layer_types = ["full_attention", "sliding_attention"]~layer_types[1]: only 'full_attention' is supported
.text_config.layer_types = 7~layer_types: expected a list
.text_config.layer_types = ["full_attention"]~layer_types: 1 entries for 2 layers
.text_config.hidden_act = "gelu"~hidden_act: 'gelu' is not supported, expected 'silu'
.quantization_config = {"quant_method": "fp8"}~quantization_config: the checkpoint is quantized already
.text_config.tie_word_embeddings = false~tie_word_embeddings is true at the top, false in text_config
.tie_word_embeddings = false | .text_config.tie_word_embeddings = false~tensor 'lm_head.weight' is missing, and config.json does not tie it
.tie_word_embeddings = 1~tie_word_embeddings: expected a boolean
CASES
    # what says the same as silence is welcome
    config '.text_config.layer_types = ["full_attention", "full_attention"] | .text_config.partial_rotary_factor = 1.0 | del(.text_config.model_type)'
    aq 0 aq-extract-lm tiny
    # newer files keep theta inside rope_parameters
    config 'del(.text_config.rope_theta, .text_config.rope_scaling) | .text_config.rope_parameters = {"rope_theta": 5e6, "rope_type": "default"}'
    aq 0 aq-extract-lm tiny
    is "$(jq .arch.rope_theta <<<"$output")" 5000000
}

@test "tensors: missing, unexpected, of another shape or dtype, layers too few or too many" {
    "$GEN" --layers 3 tiny
    bad_config '.text_config.num_hidden_layers = 4' "config.json says 4 layers, the first 3 are there"
    bad_config '.text_config.num_hidden_layers = 65536' "config.json says 65536 layers, the first 3 are there"
    bad_config '.text_config.num_hidden_layers = 2' "unexpected tensor 'model.language_model.layers.2."
    has "$stderr" "config.json says 2 layers, the checkpoint has 3"
    bad_config '.text_config.vocab_size = 511' "embed_tokens.weight' has shape [512, 64], config.json needs [511, 64]"
    bad_config '.text_config.intermediate_size = 127' "gate_proj.weight' has shape [128, 64], config.json needs [127, 64]"
    bad_config '.text_config.head_dim = 16' "q_proj.weight' has shape [128, 64], config.json needs [64, 64]"
    edit() { python3 - "$1" "$2" <<'PY'
import sys
p = "tiny/model.safetensors"
b = open(p, "rb").read()
n = int.from_bytes(b[:8], "little")
h = b[8:8 + n].replace(sys.argv[1].encode(), sys.argv[2].encode(), 1)
open(p, "wb").write(len(h).to_bytes(8, "little") + h + b[8 + n:])
PY
    }
    need_command python3
    cp tiny/model.safetensors kept
    edit layers.1.self_attn.q_norm.weight layers.1.self_attn.q_norm.bias
    refused 3 "tensor 'model.language_model.layers.1.self_attn.q_norm.weight' is missing" aq-extract-lm tiny
    cp kept tiny/model.safetensors
    edit model.visual.blocks.0.norm1.bias model.language_model.layers.0.self_attn.q_proj.bias
    refused 3 "unexpected tensor 'model.language_model.layers.0.self_attn.q_proj.bias'" aq-extract-lm tiny
    cp kept tiny/model.safetensors
    edit '"model.language_model.layers.1.mlp.down_proj.weight":{"dtype":"BF16","shape":[64,128]' \
        '"model.language_model.layers.1.mlp.down_proj.weight":{"dtype":"BF16","shape":[128,64]'
    refused 3 "down_proj.weight' has shape [128, 64], config.json needs [64, 128]" aq-extract-lm tiny
    cp kept tiny/model.safetensors
    edit '"model.language_model.layers.1.mlp.down_proj.weight":{"dtype":"BF16"' \
        '"model.language_model.layers.1.mlp.down_proj.weight":{"dtype":"I16"'
    refused 3 "down_proj.weight' has dtype I16, expected BF16, F16 or F32" aq-extract-lm tiny
    cp kept tiny/model.safetensors
    edit model.language_model.embed_tokens.weight model.language_model.embed_token.weight
    refused 3 "tensor 'embed_tokens.weight' is missing (looked for the prefixes" aq-extract-lm tiny
}

@test "50 MB of metadata in a header are read and forgotten" {
    need_command python3
    "$GEN" tiny
    aq-extract-lm -o plain.json tiny
    python3 - <<'PY'
p = "tiny/model.safetensors"
b = open(p, "rb").read()
n = int.from_bytes(b[:8], "little")
h = b'{"__metadata__":{"notes":"' + b"m" * 50000000 + b'","format":"pt"},' + b[8:8 + n].split(b"},", 1)[1]
open(p, "wb").write(len(h).to_bytes(8, "little") + h + b[8 + n:])
PY
    aq 0 aq-extract-lm -o noted.json tiny
    is "$(jq -r .digest.sample noted.json)" "$(jq -r .digest.sample plain.json)"
    [ "$(stat -c %s noted.json)" -lt 20000 ]
}

# The reader of lm.json is the same in every tool; aq-calib ranges is the first to open one.
@test "lm.json edited by hand is refused" {
    "$GEN" tiny
    aq-extract-lm -o lm.json tiny
    echo 1 2 3 | "$O/tests/make_tokens" -o tokens.st
    while IFS='~' read -r filter text; do
        jq "$filter" lm.json >bad.json
        refused 3 "bad.json: $text" aq-calib ranges --lm bad.json -o r.st tokens.st || {
            echo "filter: $filter"
            return 1
        }
    done <<'CASES'
.tensors[3].end = 99999999~tensors[3]: bytes
.tensors[3].end -= 2~tensors[3]: bytes 123320 to 131510 do not fit dtype and shape
.tensors[3].begin = -1~tensors[3].begin: expected an integer from 0
.tensors[3].file = 7~tensors[3].file: expected an integer from 0 to 0
.tensors[1].shape = [32]~tensors[1].shape: the architecture needs [64]
.tensors[3].shape = [32, 64]~tensors[3].shape: the architecture needs [64, 64]
.tensors[3].dtype = "F8_E4M3"~tensors[3]: dtype is 'F8_E4M3', expected BF16, F16 or F32
.tensors[3].name = "layers.0.mlp.up_proj.weight"~tensors[3]: tensor is 'layers.0.mlp.up_proj.weight', expected 'layers.0.self_attn.k_proj.weight'
.tensors[3] |= (.begin -= 2 | .end -= 2)~tensors 'layers.0.self_attn.k_norm.weight' and 'layers.0.self_attn.k_proj.weight' overlap
del(.tensors[3])~tensors: 23 tensors, the architecture has 24
.arch.num_hidden_layers = 60000~arch.layer_rope: 2 entries for 60000 layers
.arch |= (.num_hidden_layers = 3 | .layer_rope += [0] | .layer_window += [0])~tensors: 24 tensors, the architecture has 35
.arch.head_dim = 31~arch: head_dim 31 is odd
.files[0].name = "../x"~files[0]: '../x' is not a plain file name
.files[0].name = "/etc/passwd"~files[0]: '/etc/passwd' is not a plain file name
.files[0].bytes = 5~tensors[0]: bytes
.files[0].bytes += 1~'tiny/model.safetensors' has 751160 bytes, 751161 when it was extracted
.digest.sample = "00"~digest: sample is not 64 hexadecimal digits
.digest.sample |= sub("^.."; "zz")~digest: sample is not
.digest.full = "x"~digest: full is not 64 hexadecimal digits
.groups[0].members[1] = "x"~inputs and groups differ from what the tensors and the family say
.groups[0].members[0] = "x"~groups[0].members: the first member must be
.groups[1].weights += 1~inputs and groups differ from
.inputs[0].cols = 2~inputs and groups differ from
.groups[3].layer = 5~groups[3]: layer 5 comes after layer 0
.groups[0].inputs = [9]~groups[0].inputs[0]: expected the index of an input of layer 0
.arch.family = "x"~arch: family is 'x', which is not known
.head = "lm_head.weight"~head is 'lm_head.weight', the architecture says 'embed_tokens.weight'
.schema = "aq.lm/1"~schema is 'aq.lm/1', expected 'aq.lm/2'
CASES
    jq '.digest.sample |= ("0" * 64)' lm.json >bad.json
    refused 3 "the checkpoint in 'tiny' has changed" aq-calib ranges --lm bad.json -o r.st tokens.st
    # a file that was replaced since
    "$GEN" --seed 2 tiny
    refused 3 "the checkpoint in 'tiny' has changed" aq-calib ranges --lm lm.json -o r.st tokens.st
    has "$stderr" "run aq-extract-lm again"
    [ ! -e r.st ]
}

# The sample digest reads 12 KiB of a tensor; what it does not see, --verify does.
@test "--verify reads every byte and needs a full digest" {
    "$GEN" --hidden 256 tiny
    echo 1 2 3 | "$O/tests/make_tokens" -o tokens.st
    aq-extract-lm -o sample.json tiny
    aq-extract-lm --digest full -o full.json tiny
    local run=(aq-calib ranges --prefix 1 -o r.st tokens.st)
    aq 0 "${run[@]}" --lm full.json --verify
    refused 3 "'sample.json' has no full digest" "${run[@]}" --lm sample.json --verify
    has "$stderr" "aq-extract-lm --digest full"
    # one bit of a weight, outside of what the sample digest reads
    local at
    at=$(jq '.tensors[] | select(.name == "layers.0.mlp.up_proj.weight") | .begin + 8192' full.json)
    printf '\x2a' | dd of=tiny/model.safetensors bs=1 seek="$at" conv=notrunc status=none
    aq 0 "${run[@]}" --lm full.json
    refused 3 "the checkpoint in 'tiny' has changed: full digest" "${run[@]}" --lm full.json --verify
    # one in each of its three samples: nobody has to ask
    local bytes place
    bytes=$(jq '.tensors[] | select(.name == "layers.0.mlp.up_proj.weight") | .end - .begin' full.json)
    cp tiny/model.safetensors weights
    for place in 100 $(((bytes - 4096) / 2 + 100)) $((bytes - 100)); do
        cp weights tiny/model.safetensors
        printf '\x2a' | dd of=tiny/model.safetensors bs=1 seek=$((at - 8192 + place)) conv=notrunc status=none
        refused 3 "the checkpoint in 'tiny' has changed: digest" "${run[@]}" --lm sample.json
        refused 3 "the checkpoint in 'tiny' has changed: digest" "${run[@]}" --lm full.json
    done
    cp weights tiny/model.safetensors
    aq-overlay --config-dir "$REPO/conf" -o quant.json --format INT8_WEIGHT_ONLY_CFG --granularity default
    refused 3 "the checkpoint in 'tiny' has changed: full digest" \
        aq-score --lm full.json --tokens tokens.st --verify -o store.st quant.json
}

@test "weights that are quantized already are advised against" {
    need_command python3
    "$GEN" --dtype f16 tiny
    python3 - <<'PY'
import json
p = "tiny/model.safetensors"
b = open(p, "rb").read()
n = int.from_bytes(b[:8], "little")
h = json.loads(b[8:8 + n])
name = "model.language_model.layers.0.mlp.up_proj.weight"
data = b[8 + n:]
order = sorted((k for k in h if k != "__metadata__"), key=lambda k: h[k]["data_offsets"][0])
out = b""
for k in order:
    s, e = h[k]["data_offsets"]
    piece = data[s:e] if k != name else data[s:s + (e - s) // 2]
    h[k]["data_offsets"] = [len(out), len(out) + len(piece)]
    out += piece
h[name]["dtype"] = "F8_E4M3"
t = json.dumps(h).encode()
open(p, "wb").write(len(t).to_bytes(8, "little") + t + out)
PY
    refused 3 "up_proj.weight' has dtype F8_E4M3" aq-extract-lm tiny
    has "$stderr" "take the checkpoint it was made from"
}

@test "a model as deep as 1,000 layers is read in a moment" {
    "$GEN" --layers 1000 --hidden 8 --intermediate 8 --heads 1 --kv-heads 1 --head-dim 8 --vocab 16 --shards 200 --vision-depth 0 deep
    within 5 aq-extract-lm -o lm.json deep
    is "$(jq '.tensors | length' lm.json)" 11002
    ulimit -n 16
    aq 0 aq-extract-lm -o lm.json deep
}

@test "NaN in a weight does not concern the extraction; -o, --quiet, help and version work" {
    "$GEN" tiny
    printf '\x7f\xff\x7f\xff' | dd of=tiny/model.safetensors bs=1 seek=100000 conv=notrunc 2>/dev/null
    aq 0 aq-extract-lm -q -o out/lm.json tiny || true
    mkdir -p out
    aq 0 aq-extract-lm -o out/lm.json tiny
    is "$output" ""
    aq 0 aq-extract-lm --help
    has "$output" "--materialize"
    aq 0 aq-extract-lm --result-version
    is "${lines[0]}" 1
}

@test "checkpoints in the cache of the hub's client: the repository's directory, or ORG/NAME" {
    "$GEN" -p tiny tiny
    local repo=hf/hub/models--Org--Tiny-0.1B commit=0123456789abcdef0123456789abcdef01234567
    mkdir -p $repo/refs $repo/snapshots/$commit $repo/snapshots/other
    printf %s $commit >$repo/refs/main
    for f in tiny/*; do ln -s "$PWD/$f" $repo/snapshots/$commit/; done
    aq 0 aq-extract-lm -o plain.json tiny
    aq 0 aq-extract-lm -o a.json $repo
    is "$(jq -r .root a.json)" $repo/snapshots/$commit
    is "$(jq .digest a.json)" "$(jq .digest plain.json)"
    HF_HUB_CACHE=hf/hub aq 0 aq-extract-lm -o b.json Org/Tiny-0.1B
    HF_HOME=hf aq 0 aq-extract-lm -o c.json Org/Tiny-0.1B
    cmp b.json c.json
    # without refs/main the only snapshot there is
    rm $repo/refs/main
    refused 1 "'$repo'" aq-extract-lm $repo || refused 3 "'$repo' holds no checkpoint" aq-extract-lm $repo
    rmdir $repo/snapshots/other
    aq 0 aq-extract-lm -o d.json $repo
    cmp a.json d.json
    # a file that refs/main names cannot lead out of the snapshots
    printf ../../../../tiny >$repo/refs/main
    aq 0 aq-extract-lm -o e.json $repo
    cmp a.json e.json
    HOME=$PWD refused 1 "cannot read checkpoint directory 'Org/Else'" aq-extract-lm Org/Else
    has "$stderr" "'hf download Org/Else'"
}

@test "model.path as ORG/NAME: the sweep's link leads into the cache" {
    local snap=hf/hub/models--Org--Tiny/snapshots/c0ffee
    mkdir -p $snap
    HF_HOME=$PWD/hf aq 0 aq-resolve --config-dir "$REPO/conf" --config-name preset/demo -m --dir p model.path=Org/Tiny
    is "$(readlink p/in/checkpoint)" "$PWD/$snap"
}
