# Mixtures of experts: config.json in its spellings, the forms of a checkpoint, what is refused, and the trained demo model from its
# checkpoint to an exported and measured one. What the engine computes is compared in tests/unit/test_families.c and test_experts.c.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    CASES=$REPO/tests/oracle/families
    DEMO=$REPO/models/qwen3_moe_demo/checkpoint
}

# take CASE: a copy of its checkpoint, as ./tiny
take() {
    rm -rf tiny
    mkdir tiny
    cp "$CASES/$1"/{config.json,model.safetensors} tiny/
}

# with FILTER COMMAND...: config.json changed like this while the command runs
with() {
    cp tiny/config.json kept.json
    jq "$1" kept.json >tiny/config.json
    shift
    "$@" || {
        diff kept.json tiny/config.json
        return 1
    }
    cp kept.json tiny/config.json
}

# arch FILTER JQ VALUE: with config.json changed like this, lm.json's arch has that value
arch() {
    with "$1" aq 0 aq-extract-lm tiny
    is "$(jq -c ".arch | $2" <<<"$output")" "$3"
}

# bad FILTER TEXT
bad() {
    with "$1" refused 3 "$2" aq-extract-lm tiny
}

# header FROM TO: the header of ./tiny's tensors, changed; the same length
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

# fuse FROM TO plain|turned: the checkpoint with the experts of a layer in one tensor, (experts, out, in) or (experts, in, out)
fuse() {
    python3 - "$@" <<'PY'
import json, os, shutil, sys
source, to, turned = sys.argv[1], sys.argv[2], sys.argv[3] == "turned"
os.makedirs(to)
shutil.copy(source + "/config.json", to)
b = open(source + "/model.safetensors", "rb").read()
n = int.from_bytes(b[:8], "little")
h = json.loads(b[8:8 + n])
meta = h.pop("__metadata__", {})
data = {k: b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]] for k, v in h.items()}
experts = json.load(open(source + "/config.json"))["num_experts"]
def turn(x, rows, cols): # of two bytes an element
    return b"".join(x[2 * (r * cols + c):2 * (r * cols + c) + 2] for c in range(cols) for r in range(rows))
shapes, out = {}, {}
for k in h:
    at = k.find(".experts.")
    if at < 0:
        shapes[k], out[k] = h[k]["shape"], data[k]
    elif ".experts.0.gate_proj." in k:
        p = k[:at] + ".experts."
        for name, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            rows, cols = h[p + "0." + parts[0] + ".weight"]["shape"]
            rows *= len(parts)
            all = [b"".join(data["%s%d.%s.weight" % (p, e, x)] for x in parts) for e in range(experts)]
            out[p + name] = b"".join(turn(x, rows, cols) if turned else x for x in all)
            shapes[p + name] = [experts, cols, rows] if turned else [experts, rows, cols]
head, at = {}, 0
for k in sorted(out):
    head[k] = {"dtype": "BF16", "shape": shapes[k], "data_offsets": [at, at + len(out[k])]}
    at += len(out[k])
head = json.dumps(head).encode()
with open(to + "/model.safetensors", "wb") as f:
    f.write(len(head).to_bytes(8, "little") + head + b"".join(out[k] for k in sorted(out)))
PY
}

@test "config.json: the number of experts in both spellings, and what is contradictory" {
    take qwen3_moe_plain
    arch . '[.experts, .experts_per_token, .moe_intermediate_size, .norm_topk, .layer_sparse]' '[6,2,16,false,[0,1]]'
    arch 'del(.num_local_experts) | .num_experts = 6' .experts 6
    arch '.num_local_experts = 6 | .num_experts = 6' .experts 6
    bad '.num_local_experts = 6 | .num_experts = 8' "num_experts is 8, num_local_experts 6"
    bad 'del(.num_local_experts) | del(.num_experts)' "neither num_experts nor num_local_experts"
    bad '.num_experts_per_tok = 7' "7 experts for each token, but there are 6"
    bad '.num_experts_per_tok = 0' "num_experts_per_tok: expected an integer"
    bad 'del(.num_experts_per_tok)' "key 'num_experts_per_tok' is missing"
    bad 'del(.moe_intermediate_size)' "key 'moe_intermediate_size' is missing"
    bad '.mlp_only_layers = [2]' "mlp_only_layers[0]: expected the number of a layer, 0 to 1"
    bad '.mlp_only_layers = [0, 1]' "no layer has experts: take model_type 'qwen3'"
    bad '.decoder_sparse_step = 0' "decoder_sparse_step: expected an integer"
    bad 'del(.intermediate_size)' "some layers are dense, and intermediate_size is missing"
    bad '.norm_topk_prob = 1' "norm_topk_prob: expected"
    bad '.shared_expert_intermediate_size = 64' "the family qwen3_moe does not compute this"
    # more experts than the checkpoint has, and fewer
    bad '.num_experts = 7 | .num_local_experts = 7' "config.json needs [7, 24]"
    with '.output_router_logits = true' aq 0 aq-extract-lm tiny
    has "$stderr" "output_router_logits adds a loss in training"
}

@test "layers: every n-th has experts, the others four groups" {
    aq 0 aq-extract-lm -o lm.json "$CASES/qwen3_moe"
    is "$(jq -c .arch.layer_sparse lm.json)" '[0,1,0]'
    is "$(jq -c '[.groups[] | .kind]' lm.json)" '["qkv","o","gate_up","down","qkv","o","experts","qkv","o","gate_up","down"]'
    is "$(jq -c '.groups[6] | [.name, .modules, .experts, .inputs, .shapes, .weights, .cost_weight]' lm.json)" \
        '["layers.1.mlp.experts",["model.layers.1.mlp.experts.{e}.gate_proj","model.layers.1.mlp.experts.{e}.up_proj","model.layers.1.mlp.experts.{e}.down_proj"],8,[6,7],[[16,24],[16,24],[24,16]],9216,0.25]'
    is "$(jq -c '[.inputs[6:8][] | [.name, .cols]]' lm.json)" '[["layers.1.gate_up",24],["layers.1.down",16]]'
    aq 0 aq-extract-lm --moe-split -o split.json "$CASES/qwen3_moe"
    is "$(jq -c '.groups[6:8][] | [.name, .kind, .modules, .experts, .inputs, .weights, .cost_weight]' split.json)" \
        '["layers.1.mlp.experts.gate_up","experts.gate_up",["model.layers.1.mlp.experts.{e}.gate_proj","model.layers.1.mlp.experts.{e}.up_proj"],8,[6],6144,0.25]
["layers.1.mlp.experts.down","experts.down",["model.layers.1.mlp.experts.{e}.down_proj"],8,[7],3072,0.25]'
    # the router is in no group
    is "$(jq '[.groups[] | .modules[] | select(endswith("mlp.gate"))] | length' lm.json)" 0
}

@test "forms of a checkpoint: each expert, fused, fused the other way; the same scores" {
    need_command python3
    for i in $(seq 6); do seq -s' ' $((i + 1)) $((i * 7 % 40 + 9)); done >ids
    "$O"/tests/make_tokens --sizes 6 -o tokens <ids
    aq-overlay --format INT8_DEFAULT_CFG -o q.json
    for form in qwen3_vl_moe qwen3_vl_moe_turned; do
        aq 0 aq-extract-lm -o $form.json "$CASES/$form"
        aq 0 aq-calib ranges --lm $form.json --prefix 6 --device cpu -o ranges tokens
        aq 0 aq-score --lm $form.json --tokens tokens --ranges ranges --prefix 6 --device cpu -o $form.store q.json
    done
    is "$(jq -c '[.tensors[] | .orientation // empty] | unique' qwen3_vl_moe.json)" '["linear"]'
    is "$(jq -c '[.tensors[] | .orientation // empty] | unique' qwen3_vl_moe_turned.json)" '["transposed"]'
    same_scores qwen3_vl_moe.store qwen3_vl_moe_turned.store 6
    # shapes that fit neither form, both, or contradict each other
    cp -r "$CASES/qwen3_vl_moe" tiny
    header '[8,32,24]' '[8,16,48]'
    refused 3 "has shape [8, 16, 48], config.json needs [8, 32, 24] or [8, 24, 32]" aq-extract-lm tiny
    rm -rf tiny
    cp -r "$CASES/qwen3_vl_moe" tiny
    header '[8,24,16]' '[8,16,24]'
    refused 3 "have different orientations" aq-extract-lm tiny
}

@test "square shapes: the other tensor of the layer says which way round they are; the same scores" {
    need_command python3
    local m form
    for i in 1 2 3; do seq -s' ' 1 $((i * 7)); done | "$O"/tests/make_tokens --sizes 3 -o tokens
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o q.json
    for m in 16 32; do # 2 M = hidden: gate_up is square; M = hidden: down is
        rm -rf each* plain* turned*
        "$O"/tests/random_checkpoint --kind qwen3_moe --hidden 32 --moe-intermediate $m --experts 4 --per-token 2 each
        for form in plain turned; do fuse each $form $form; done
        for form in each plain turned; do
            aq 0 aq-extract-lm -o $form.json $form
            aq 0 aq-score --lm $form.json --tokens tokens --device cpu -o $form.store q.json
        done
        is "$(jq -c '[.tensors[] | .orientation // empty] | unique' plain.json turned.json)" $'["linear"]\n["transposed"]'
        same_scores each.store plain.store 3
        same_scores each.store turned.store 3
    done
}

@test "tensors: a missing expert, an extra one, another shape, NaN in a router" {
    need_command python3
    take qwen3_moe_plain
    header experts.3.up_proj experts.9.up_proj
    refused 3 "tensor 'model.layers.1.mlp.experts.3.up_proj.weight' is missing" aq-extract-lm tiny
    take qwen3_moe_plain
    with '.num_experts_per_tok = 2' true
    python3 - <<'PY'
import json
p = "tiny/model.safetensors"
b = open(p, "rb").read()
n = int.from_bytes(b[:8], "little")
h, data = json.loads(b[8:8 + n]), b[8 + n:]
t = dict(h["model.layers.1.mlp.experts.0.up_proj.weight"])
t["data_offsets"] = [len(data), len(data) + t["data_offsets"][1] - t["data_offsets"][0]]
h["model.layers.1.mlp.experts.6.up_proj.weight"] = t
data += bytes(t["data_offsets"][1] - t["data_offsets"][0])
h = json.dumps(h).encode()
open(p, "wb").write(len(h).to_bytes(8, "little") + h + data)
PY
    refused 3 "unexpected tensor 'model.layers.1.mlp.experts.6.up_proj.weight'" aq-extract-lm tiny
    take qwen3_moe_plain
    python3 - <<'PY'
import json, struct
p = "tiny/model.safetensors"
b = bytearray(open(p, "rb").read())
n = int.from_bytes(b[:8], "little")
at = 8 + n + json.loads(b[8:8 + n])["model.layers.1.mlp.gate.weight"]["data_offsets"][0]
b[at:at + 4] = struct.pack("<f", float("nan"))
open(p, "wb").write(b)
PY
    echo "1 2 3 4 5" | "$O"/tests/make_tokens --sizes 1 -o tokens
    aq 0 aq-extract-lm -o lm.json tiny
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o q.json
    aq 0 aq-calib ranges --lm lm.json --prefix 1 --device cpu -o ranges tokens
    refused 3 "layer 1: its output is not finite in sample 0" aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 1 --device cpu -o s q.json
}

@test "one token, an expert that gets every token: scores, and a sum of them that is none without tokens" {
    for i in 1 2 3 4; do echo $((i * 9)); done >ids
    seq -s' ' 1 40 >>ids
    "$O"/tests/make_tokens --sizes 5 -o tokens <ids
    aq-overlay --format INT8_DEFAULT_CFG -o q.json
    for case in qwen3_moe_one qwen3_moe_all; do
        aq 0 aq-extract-lm -o lm.json "$CASES/$case"
        aq 0 aq-calib ranges --lm lm.json --prefix 5 --device cpu -o ranges tokens
        aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 5 --device cpu -o $case.store q.json
    done
    # a model of one layer, whose last is its first
    "$O"/tests/random_checkpoint --kind qwen3_moe --layers 1 one
    aq 0 aq-extract-lm -o lm.json one
    aq 0 aq-calib ranges --lm lm.json --prefix 5 --device cpu -o ranges tokens
    aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 5 --device cpu -o one.store q.json
}

@test "dimensions of 30B-A3B: extracted without its bytes; the plan says what memory and disk cost" {
    "$O"/tests/random_checkpoint --sparse --kind qwen3_moe --layers 3 --hidden 2048 --heads 32 --kv-heads 4 --head-dim 128 --vocab 4096 --experts 128 \
        --per-token 8 --moe-intermediate 768 big
    aq 0 aq-extract-lm -o lm.json big
    is "$(jq -c '[.groups[2] | .weights, .cost_weight]' lm.json)" '[603979776,0.0625]'
    seq -s' ' 1 30 | "$O"/tests/make_tokens --sizes 1 -o tokens
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o q.json
    plan=(aq-score --dry-run --lm lm.json --tokens tokens --device cpu -o store q.json)
    aq 0 "${plan[@]}"
    # 3 layers of 623,116,288 weights (the router's among them) and norms, the embedding, 2 bytes each
    [[ $output =~ weights\ +3755\.5\ MB ]]
    [[ $output =~ "passes over them"\ +2 ]]
    [[ $output =~ "reading weights, at 3 GB/s"\ +[12]\.[0-9]\ s ]]
    [[ $output =~ "reading weights, at 0.3 GB/s"\ +[12][0-9]\.[0-9]\ s ]]
    aq 0 "${plan[@]}" --method kl_div
    [[ $output =~ "passes over them"\ +3 ]]
    refused 1 "one tile of this model needs" "${plan[@]}" --memory 10M
}

# What transformers chose is in tests/oracle/moe, made by tests/oracle/moe.py.
@test "--dump-routes: where transformers sends the tokens, whatever the store has; a dense model has none" {
    need_command python3
    for case in qwen3_moe mixtral; do
        python3 - "$CASES/$case/expected.safetensors" >ids <<'PY'
import json, struct, sys
b = open(sys.argv[1], "rb").read()
n = int.from_bytes(b[:8], "little")
h = json.loads(b[8:8 + n])
def get(name, kind):
    at, end = h[name]["data_offsets"]
    return struct.unpack("<%d%s" % ((end - at) // struct.calcsize(kind), kind), b[8 + n + at:8 + n + end])
ids, offsets = get("ids", "i"), get("offsets", "q")
for i in range(len(offsets) - 1):
    print(*ids[offsets[i]:offsets[i + 1]])
PY
        "$O"/tests/make_tokens --sizes "$(wc -l <ids)" -o tokens <ids
        aq-overlay --format INT8_WEIGHT_ONLY_CFG -o q.json
        aq 0 aq-extract-lm -o lm.json "$CASES/$case"
        for _ in 1 2; do aq 0 aq-score --lm lm.json --tokens tokens --device cpu --dump-routes routes -v -o $case.store q.json; done
        has "$stderr" "0 candidates computed"
        has "$stderr" "layer 1: tokens of an expert: "
        # and the scores of the experts' halves, under autoquant.moe_split
        aq 0 aq-extract-lm --moe-split -o split.json "$CASES/$case"
        aq 0 aq-score --lm split.json --tokens tokens --device cpu -o split.$case q.json
        refused 3 "was made with another 'lm'" aq-score --lm split.json --tokens tokens --device cpu -o $case.store q.json
        jq -r '.groups[] | "\(.layer) \(.kind)"' split.json >groups
        python3 - routes "$REPO/tests/oracle/moe/$case.safetensors" split.$case <<'PY'
import json, struct, sys
def read(path):
    b = open(path, "rb").read()
    n = int.from_bytes(b[:8], "little")
    h = json.loads(b[8:8 + n])
    kinds = {"I16": "h", "I32": "i", "F32": "f", "F64": "d"}
    return {k: struct.unpack("<%d%s" % ((v["data_offsets"][1] - v["data_offsets"][0]) // struct.calcsize(kinds[v["dtype"]]), kinds[v["dtype"]]),
                             b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in h.items() if k.startswith(("sel/", "w/", "s/", "half/"))}
found, expected, store = map(read, sys.argv[1:])
sums, = (v for k, v in store.items() if k.startswith("s/"))
groups = [line.split() for line in open("groups")]
samples = len(sums) // len(groups)
for g, (layer, kind) in enumerate(groups): # int8 weights alone: treatment 0 of moe.py
    if kind in ("experts.gate_up", "experts.down"):
        e = expected["half/%d/0/%s" % (kind == "experts.down", layer)]
        s = sums[g * samples:(g + 1) * samples]
        assert len(e) == samples and sum(e) > 0 and sum((a - b) ** 2 for a, b in zip(s, e)) < 1e-8 * sum(b * b for b in e), (layer, kind, s, e)
expected = {k: v for k, v in expected.items() if k.startswith(("sel/", "w/"))}
assert sorted(found) == sorted(expected), (sorted(found), sorted(expected))
for k in found:
    assert len(found[k]) == len(expected[k]) > 0, k
    assert all(abs(x - y) < 1e-6 for x, y in zip(found[k], expected[k])), k
PY
    done
    aq 0 aq-extract-lm -o dense.json "$CASES/qwen2"
    refused 3 "the model has no experts: there are no routes" aq-score --lm dense.json --tokens tokens --device cpu --dump-routes r -o s q.json
    [ ! -e r ] && [ ! -e s ]
}

@test "the trained model: threads, shards and memory give the same bytes; its recipe is exported and costs what it did" {
    head -12 "$REPO"/datasets/demo/captions_medium.txt >captions
    aq 0 aq-extract-lm -o lm.json "$DEMO"
    is "$(jq -c '[.arch.experts, .arch.experts_per_token, (.groups | length)]' lm.json)" '[8,2,12]'
    aq 0 aq-calib tokens --tokenizer "$DEMO" -o tokens captions
    aq 0 aq-calib ranges --lm lm.json --prefix 12 --device cpu -o ranges tokens
    for f in INT8_DEFAULT_CFG INT4_BLOCKWISE_WEIGHT_ONLY_CFG NVFP4_DEFAULT_CFG FP8_PER_CHANNEL_PER_TOKEN_CFG; do aq-overlay --format $f -o $f.json; done
    run=(aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 12 --device cpu)
    aq 0 "${run[@]}" --threads 1 -o store ./*_CFG.json
    run --separate-stderr "${run[@]}" --threads 3 --memory 1M -o small ./*_CFG.json
    aq 0 "${run[@]}" --threads 3 --memory "$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' <<<"$stderr")000000" -o small ./*_CFG.json
    cmp store small
    aq 0 "${run[@]}" --shard 1/2 -o a ./*_CFG.json
    aq 0 "${run[@]}" --shard 2/2 -o b ./*_CFG.json
    aq 0 aq-score merge -o merged a b
    cmp store merged
    # one candidate alone
    aq 0 "${run[@]}" -o alone NVFP4_DEFAULT_CFG.json
    same_scores alone store 12
}

@test "tokens per expert: as many as --dump-routes sends there, for each prefix; experts that get none are named" {
    need_command python3
    for i in 1 2 3 4 5; do seq -s' ' $i $((i * 9)); done | "$O"/tests/make_tokens --sizes 5 -o tokens
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o q.json
    aq 0 aq-extract-lm -o lm.json "$CASES/qwen3_moe"
    aq 0 aq-calib ranges --lm lm.json --prefix 1,3,5 --device cpu -o ranges tokens
    aq 0 aq-score --lm lm.json --tokens tokens --device cpu --dump-routes routes -o s q.json
    python3 - <<'PY'
import json, struct
def read(path):
    b = open(path, "rb").read()
    n = int.from_bytes(b[:8], "little")
    h = json.loads(b[8:8 + n])
    kinds = {"I16": "h", "I32": "i", "F32": "f", "F64": "d", "I64": "q"}
    return {k: struct.unpack("<%d%s" % ((v["data_offsets"][1] - v["data_offsets"][0]) // struct.calcsize(kinds[v["dtype"]]), kinds[v["dtype"]]),
                             b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in h.items() if k != "__metadata__"}
routes, ranges, offsets = read("routes"), read("ranges"), read("tokens")["offsets"]
layers = [k[4:] for k in routes if k.startswith("sel/")]
assert layers and sorted("routed/" + l for l in layers) == sorted(k for k in ranges if k.startswith("routed/"))
for l in layers:
    sel, found = routes["sel/" + l], ranges["routed/" + l]
    k = len(sel) // offsets[-1]
    for p, samples in enumerate((1, 3, 5)):
        part = sel[:offsets[samples] * k]
        assert list(found[8 * p:8 * p + 8]) == [part.count(e) for e in range(8)] and sum(found[8 * p:8 * p + 8]) == len(part) > 0
PY
    aq-overlay --format INT8_DEFAULT_CFG -o act.json
    # one token goes to two of eight
    echo 5 | "$O"/tests/make_tokens --sizes 1 -o one
    aq 0 aq-calib ranges --lm lm.json --prefix 1 --device cpu -o few one
    has "$stderr" "warning: no token reaches 6 experts of 1 layers, 6 of 8 in layer 1: they are scored on part of their weights"
    # a file without them is damaged
    python3 - <<'PY'
b = open("ranges", "rb").read()
open("old", "wb").write(b.replace(b'"routed/1"', b'"router/1"'))
PY
    refused 3 "tensor 'routed/1' is missing" aq-score --lm lm.json --tokens tokens --ranges old --prefix 5 --device cpu -o x act.json
}

@test "fused experts are exported one by one, as engines load them: the same tensors from every form" {
    need_command python3
    local form
    for i in $(seq 16); do seq -s' ' $i $((i + 5)); done | "$O"/tests/make_tokens --sizes 16 -o tokens
    aq-overlay --format FP8_PER_CHANNEL_PER_TOKEN_CFG -o q.json
    (cd "$REPO" && aq-resolve --config-name preset/lm_sensitivity model=qwen3_moe_demo dataset=demo_captions dataset.size=small \
        autoquant.device=cpu dataset.padding=none) >run.json
    "$O"/tests/random_checkpoint --kind qwen3_moe --layers 2 --hidden 64 --moe-intermediate 48 --experts 4 --per-token 2 each
    for form in plain turned; do fuse each $form $form; done
    for form in each plain turned; do
        aq 0 aq-extract-lm -o $form.json $form
        aq 0 aq-score --lm $form.json --tokens tokens --device cpu --score-samples 16 -o $form.store q.json
        aq 0 aq-score collect --run run.json --quant q.json -o $form.scores $form.store
        printf -- '- {match: "layers.1.mlp.experts", pin: NONE}\n' >menu.yaml
        aq 0 aq-select --effective-bits 8 -o $form.all --unchecked $form.scores
        aq 0 aq-select --effective-bits 8 --menu menu.yaml -o $form.some --unchecked $form.scores
        for k in all some; do
            aq 0 aq-export --engine vllm:sm90 --lm $form.json -o $form-$k $form.$k
        done
    done
    python3 - <<'PY'
import json
def read(d):
    b = open(d + "/model.safetensors", "rb").read()
    n = int.from_bytes(b[:8], "little")
    h = json.loads(b[8:8 + n])
    return {k: (v["dtype"], v["shape"], b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in h.items() if k != "__metadata__"}
for k in ("all", "some"):
    one = read("each-" + k)
    assert one["model.layers.0.mlp.experts.3.up_proj.weight"][0] == "F8_E4M3", one["model.layers.0.mlp.experts.3.up_proj.weight"][:2]
    assert (one["model.layers.1.mlp.experts.3.down_proj.weight"][0] == "BF16") == (k == "some")
    for form in ("plain", "turned"):
        assert read(form + "-" + k) == one, (form, k)
    config = [json.load(open(f + "-" + k + "/config.json"))["quantization_config"] for f in ("each", "plain", "turned")]
    assert config[0] == config[1] == config[2]
PY
    aq 0 aq-eval --reference turned.json --domain t=tokens --device cpu -o ev.json turned-some
    jq -e '.all.kl.mean > 0' ev.json
}

# ModelOpt 0.47's scores, and its costs under active_moe: tests/oracle/moe_parity.py.
@test "ModelOpt's AutoQuantize of a mixture: its scores, and its costs of active weights" {
    local v=$REPO/tests/oracle/moe/parity.json n
    cd "$BATS_TEST_TMPDIR" || return
    # shellcheck disable=SC2046 # the options are words
    "$O"/tests/random_checkpoint $(jq -r .model "$v") model
    jq -r '.ids[] | map(tostring) | join(" ")' "$v" | "$O"/tests/make_tokens --padding none --seq-len 6 --sizes 16 -o tokens
    (cd "$REPO" && aq-resolve --config-name preset/demo autoquant=modelopt_parity dataset.padding=none \
        model.dtype=fp32 dataset.size=small autoquant.device=cpu) >run.json
    aq 0 aq-extract-lm -o lm.json model
    aq 0 aq-calib ranges --lm lm.json --dtype fp32 --device cpu --prefix 16 -o ranges tokens
    for n in $(jq -r '.formats | keys[]' "$v"); do
        aq 0 aq-overlay --fp4-block 16 --own-scales --format "$(jq -r ".formats[$n].format" "$v")" -o "q$n.json"
    done
    aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 16 --score-samples 16 --dtype fp32 --device cpu \
        --operand-rounding dtype --dynamic-batch 8 -o store q?.json
    for n in $(jq -r '.formats | keys[]' "$v"); do
        aq 0 aq-score collect --run run.json --quant "q$n.json" -o "s$n.json" store
        aq 0 aq-select --cost modelopt47 --cost-model active --effective-bits 12 -o "m$n.json" "s$n.json"
        jq -s -e --argjson i "$n" '.[0].formats[$i] as $v | [.[1].groups[] | (.per_batch_mean / $v.scores[.name] - 1)]
            | length == 6 and all(. > -1e-4 and . < 1e-4)' "$v" "s$n.json" ||
            jq -s -c -e --argjson i "$n" '.[0].formats[$i] as $v | [$v.format, (.[1].groups[] | [.name, .per_batch_mean / $v.scores[.name] - 1])], false' "$v" "s$n.json"
        jq -s -e --argjson i "$n" '.[0].formats[$i] as $v | [.[1].layer_sensitivity | to_entries[]
            | .value.costs[0] == $v.active_costs[.key | sub(".quant_recipe$"; "")]] | length == 6 and all' "$v" "m$n.json"
    done
}

@test "aq-eval: what other routes do to the divergence: all of it where only a router differs, nothing where nothing does" {
    need_command python3
    take qwen3_moe_plain
    for i in 1 2 3; do seq -s' ' $i $((i * 11)); done | "$O"/tests/make_tokens --sizes 3 -o tokens
    cp -r tiny other
    python3 - <<'PY'
import json, struct
p = "other/model.safetensors"
b = bytearray(open(p, "rb").read())
n = int.from_bytes(b[:8], "little")
t = json.loads(b[8:8 + n])["model.layers.1.mlp.gate.weight"]
size = {"F32": 4, "BF16": 2}[t["dtype"]]
at, end = (8 + n + x for x in t["data_offsets"])
row = (end - at) // t["shape"][0]
b[at:end] = b[at + row:end] + b[at:at + row] # its rows change places
open(p, "wb").write(b)
PY
    aq 0 aq-extract-lm -o lm.json tiny
    aq 0 aq-extract-lm -o other.json other
    aq 0 aq-eval --reference lm.json --domain t=tokens --device cpu -o ev lm.json other.json
    is "$(jq -c '[.all.kl.mean, .all.kl.routing.mean, .all.kl.routing.max]' ev/1.json)" '[0,0,0]'
    jq -e '.all.kl.mean > 0 and (.all.kl | del(.routing)) == .all.kl.routing' ev/2.json
    for k in 1 2; do aq 0 aq-eval --reference lm.json --domain t=tokens --device cpu --shard $k/2 -o part$k lm.json other.json; done
    aq 0 aq-eval merge -o merged part1 part2
    diff -r ev merged
    # no routes to compare with
    aq 0 aq-extract-lm -o dense.json "$CASES/qwen3_moe_one/../qwen2"
    "$O"/tests/make_tokens --sizes 2 -o few <<<$'1 2 3\n4 5 6'
    aq 0 aq-eval --reference dense.json --domain t=few --device cpu -o dense-ev.json dense.json
    is "$(jq -c '[.all.kl | has("routing"), .routing]' dense-ev.json)" '[true,null]'
}

@test "make: from the trained model to an exported checkpoint, which costs what its recipe does" {
    sanitized && skip "the tools of these steps run by themselves in a sanitizer build"
    unset AQ_CONF
    T=$BATS_TEST_TMPDIR/tmp
    cd "$REPO" || return
    mkdir "$BATS_TEST_TMPDIR/texts" # a short held-out one
    cp datasets/demo/captions_small.txt "$BATS_TEST_TMPDIR/texts"
    head -48 datasets/demo/captions_heldout.txt >"$BATS_TEST_TMPDIR/texts/captions_heldout.txt"
    texts="dataset.captions_path='$BATS_TEST_TMPDIR/texts/captions_\${dataset.size}.txt'"
    sweep=(make -f pipelines/sweep.mk MODEL=qwen3_moe_demo PAIRS='wfp8_afp8 wfp4_afp4' GRANS='default recipe_match_channel_token' SIZES=small TMP_ROOT="$T"
        EXPERIMENT=moe OVERRIDES="$texts")
    P=$T/model-experiments/moe/qwen3_moe_demo
    # FP8's codes and scales are those that were scored. Matrix units would make the recipe's products of codes and the checkpoint's of
    # values: sums rounded in another order, and of so few captions one input on another code is half a percent of the KL.
    export AQ_MATRIX=plain
    aq 0 "${sweep[@]}" BITS=8 ENGINE=vllm:sm90 export eval
    S=$P/select/8/small
    aq 0 aq-eval --reference "$P/lm.json" --domain held="$P/demo_captions/heldout.safetensors" --dtype bf16 --device cpu -o "$T/ev.json" "$S/export-vllm-sm90"
    jq -s -e '(.[0].all.kl.mean / .[1].all.kl.mean - 1) | -1e-6 < . and . < 1e-6' "$T/ev.json" "$S/eval.json"
    is "$(jq '.all.kl.mean > 0' "$T/ev.json")" true
    is "$(jq '.all.kl.routing.mean | . > 0 and . < 1' "$T/ev.json")" true
    # and a calibrated pair, whose codes are solved expert by expert
    aq 0 "${sweep[@]}" PAIRS='wint4_afp16 wint4_afp16_gptq' GRANS=default BITS=4.6 ENGINE=vllm:sm90 export eval
    S=$P/select/4.6/small
    is "$(jq -c '[.selection.recipe | to_entries[] | select(.key | test("experts")) | .value.candidate] | unique' "$S"/*_quant_manifest.json)" '["wint4_afp16_gptq/default"]'
    for form in md html; do
        aq 0 aq-report --$form "$S"/*_quant_manifest.json
        has "$output" "In 4 of 4 layers an expert got fewer tokens than the 256 columns of its matrices: calibrated candidates of such experts were solved over"
    done
    aq 0 aq-eval --reference "$P/lm.json" --domain held="$P/demo_captions/heldout.safetensors" --dtype bf16 --device cpu -o "$T/gptq.json" "$S/export-vllm-sm90"
    jq -s -e '(.[0].all.kl.mean / .[1].all.kl.mean - 1) | -1e-4 < . and . < 1e-4' "$T/gptq.json" "$S/eval.json"
    # ModelOpt's layout names every expert; a layer's have one format, and no router has one
    aq 0 "${sweep[@]}" BITS=6 ENGINE=trtllm:sm100 export
    config=$P/select/6/small/export-trtllm-sm100/config.json
    is "$(jq -c '[.quantization_config.quantized_layers | to_entries[] | select(.key | contains(".experts."))
        | [(.key | capture("layers.(?<l>[0-9]+)").l), .value.quant_algo]] | group_by(.[0]) | map([length, (map(.[1]) | unique | length)]) | unique' "$config")" '[[24,1]]'
    is "$(jq '[.quantization_config.quantized_layers | keys[] | select(endswith("mlp.gate"))] | length' "$config")" 0
    # gate and up of an expert are one product there, and have one second scale
    is "$(python3 - "${config%/*}/model.safetensors" <<'PY'
import json, struct, sys
with open(sys.argv[1], "rb") as f:
    n = struct.unpack("<Q", f.read(8))[0]
    h = json.loads(f.read(n))
    def scale(k):
        f.seek(8 + n + h[k]["data_offsets"][0])
        return f.read(4)
    gates = [k for k in h if ".experts." in k and k.endswith("gate_proj.weight_scale_2")]
    print(len(gates), all(scale(k) == scale(k.replace("gate_proj", "up_proj")) for k in gates))
PY
    )" '16 True'
    is "$(jq '[.quantization_config.ignore[] | select(endswith("mlp.gate"))] | length' "$config")" 4
    is "$(jq '[.. | objects | select(.name? == "layers.3.mlp.experts")] | length > 0' "$P"/select/6/small/*_quant_manifest.json)" true
    # autoquant.moe_split: two groups, which llama.cpp may give two types; down keeps more bits than gate and up
    aq 0 "${sweep[@]}" EXPERIMENT=split OVERRIDES="$texts autoquant.moe_split=true" PAIRS='wint8_afp16 wint4_afp16' GRANS=default BITS=6.25 ENGINE=llamacpp export eval
    split=$T/model-experiments/split/qwen3_moe_demo/select/6.25/small
    is "$(jq -c '[.selection.recipe | to_entries[] | select(.key | test("experts")) | (.key | capture("experts.(?<h>[a-z_]+)").h) + " " + .value.candidate] | unique' "$split"/*_quant_manifest.json)" \
        '["down wint8_afp16/default","gate_up wint4_afp16/default"]'
    refused 3 "the engine serves no candidate of 8 of 16 groups: layers.0.mlp.experts.gate_up: the experts of a layer have one scheme here" \
        aq-select --config-dir conf --strict --engine vllm --effective-bits 6.25 "$T"/model-experiments/split/qwen3_moe_demo/w*/default/small/scores.json
    aq 0 aq-report --md "$split"/*_quant_manifest.json
    has "$output" "|layers.3.mlp.experts.gate_up|"
    aq 0 aq-eval -q --reference "$T/model-experiments/split/qwen3_moe_demo/lm.json" --domain held="$P/demo_captions/heldout.safetensors" --dtype bf16 --device cpu -o "$T/gguf.json" "$split"/export-llamacpp/*.gguf
    jq -s -e '(.[0].all.kl.mean / .[1].all.kl.mean - 1) | -0.03 < . and . < 0.03' "$T/gguf.json" "$split/eval.json"
    # how many tokens each expert got, in scores, manifest and reports
    cd "$T" || return
    one=$(find "$P" -path '*wfp8_afp8*/small/scores.json' | head -1)
    is "$(jq -c '[.groups[] | select(.routed) | [.name, .routed.experts, (.routed | .least <= .median and .median <= .most)]] | [length, (map(.[1:]) | unique)]' "$one")" \
        '[4,[[8,true]]]'
    aq 0 aq-select --effective-bits 8 -o seen.json "$one"
    [[ $stderr != *"part of"* ]]
    is "$(jq -c '[.layer_sensitivity[] | .routed // empty]' seen.json)" "$(jq -c '[.groups[] | .routed // empty]' "$one")"
    aq 0 aq-report --md -o seen.md seen.json
    grep -q "^|layers.2.mlp.experts|8|[0-9]*|[0-9]*|[0-9]*|0|$" seen.md
    sealed_jq '.groups |= map(if .name == "layers.2.mlp.experts" then .routed += {unseen: 2, least: 0} else . end)' "$one" >few.json
    aq 0 aq-select --effective-bits 8 -o few-manifest.json few.json
    has "$stderr" "warning: 1 group of experts is scored on part of its weights: no token reaches 2 of the 8 experts of 'layers.2.mlp.experts'"
    aq 0 aq-report --md -o few.md few-manifest.json
    grep -q "^Scored on part of their weights, .*: .layers.2.mlp.experts." few.md
    aq 0 aq-report --html -o few.html few-manifest.json
    grep -q "Scored on part of their weights, .*<code>layers.2.mlp.experts" few.html
    sealed_jq '.groups |= map(if .routed then .routed.unseen = 9 else . end)' "$one" >bad.json
    refused 3 "routed.unseen" aq-select --effective-bits 8 bad.json
    sealed_jq '.groups |= map(if .routed then .routed += {unseen: 1, least: 3} else . end)' "$one" >bad.json
    refused 3 "'least' and 'unseen' contradict each other" aq-select --effective-bits 8 bad.json
    # costs of active weights: 2 of 8 experts
    active=(aq-select --cost-model active --effective-bits 6)
    aq 0 "${active[@]}" -o active.json "$P"/wf*/*/small/scores.json
    aq 0 aq-select --effective-bits 6 -o weight.json "$P"/wf*/*/small/scores.json
    jq -e '.selection.cost_model == "active" and .selection.effective_bits <= 6' active.json
    is "$(jq -c '.selection.cost_model' weight.json)" '"weight"'
    costs='[.layer_sensitivity | to_entries[] | select(.key | test("experts")) | .value.costs[]]'
    is "$(jq -c "$costs | map(. * 4)" active.json)" "$(jq -c "$costs" weight.json)"
    jq -e '([.groups[] | .weights * .cost_weight] | add) as $all | .selection as $s
        | [.layer_sensitivity | to_entries[] | (.key | sub(".quant_recipe$"; "")) as $n | .value as $v | $s.recipe[.key].candidate as $c
            | if $c == "NONE" then $v.costs[-1] else $v.costs[$v.candidates | index($c)] end]
        | add / $all * 16 - $s.effective_bits | -1e-9 < . and . < 1e-9' active.json
    # it pays to keep the bits where every token passes
    is "$(jq -s '.[0].selection.recipe == .[1].selection.recipe' active.json weight.json)" false
    # a manifest says which costs it has
    aq 0 "${active[@]}" --unchecked -o again.json active.json
    is "$(jq -c '[.selection.recipe, .layer_sensitivity]' again.json)" "$(jq -c '[.selection.recipe, .layer_sensitivity]' active.json)"
    aq 0 aq-select --cost-model weight --effective-bits 6 --unchecked -o again.json active.json
    is "$(jq -c '[.selection.recipe, .layer_sensitivity]' again.json)" "$(jq -c '[.selection.recipe, .layer_sensitivity]' weight.json)"
    jq 'del(.groups)' active.json >no-groups.json
    refused 3 "key 'groups', which says their share, is missing" aq-select --unchecked no-groups.json
    refused 2 "--size counts stored bytes: --cost-model active does not go with it" aq-select --cost-model active --size 1M active.json
}
