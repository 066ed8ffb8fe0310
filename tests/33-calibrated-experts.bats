#!/usr/bin/env bats
# Calibrated candidates on the experts of a mixture: codes against float64 (tests/oracle/moe_solved.py), over an expert's own tokens
# or its layer's; scales that the norm, the router and up take without any rounding; exported and measured.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    CASES=$REPO/tests/oracle/families
    DEMO=$REPO/models/qwen3_moe_demo/checkpoint
}

# quant NAME FORMAT ALGORITHM: NAME.json
quant() {
    mkdir -p conf/format conf/quant_granularity
    cp "$REPO"/conf/quant_granularity/default.yaml conf/quant_granularity
    printf 'quant_cfg: {"*weight_quantizer": {%s}, "*input_quantizer": {%s}}\nalgorithm: %s\n' "${2%%|*}" "${2#*|}" "$3" >"conf/format/T_$1.yaml"
    aq-overlay --config-dir conf --format "T_$1" -o "$1.json"
}
INT4='num_bits: 4, block_sizes: {-1: 8, type: static}, enable: true|enable: false'
INT8='num_bits: 8, axis: 0|num_bits: 8, axis: null'

# ids FILE: the samples of a vector file, a line each
ids() {
    python3 - "$1" <<'PY'
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
}

# codes SOLVED LM VECTORS: as many codes as differ, of how many, and whether each layer's counts of own moments agree
codes() {
    python3 - "$@" <<'PY'
import json, struct, sys
def read(path):
    b = open(path, "rb").read()
    n = int.from_bytes(b[:8], "little")
    h = json.loads(b[8:8 + n])
    meta = h.pop("__metadata__")
    return {k: (v["shape"], b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in h.items()}, meta
solved, meta = read(sys.argv[1])
vectors, _ = read(sys.argv[3])
groups = json.load(open(sys.argv[2]))["groups"]
def unpack(shape, data, cols): # low bits first, a row padded to a byte
    out = []
    for r in range(shape[0] * shape[1]):
        row = data[r * shape[2]:(r + 1) * shape[2]]
        out.append([((row[c // 2] >> 4 * (c % 2) & 15) ^ 8) - 8 for c in range(cols)])
    return [out[e * shape[1]:(e + 1) * shape[1]] for e in range(shape[0])]
far = count = 0
for i, g in enumerate(groups):
    if g["kind"] != "experts":
        continue
    modules = []
    for k, (_, cols) in enumerate(g["shapes"]):
        (shape, data), = [v for name, v in solved.items() if name.startswith("codes/") and name.endswith("/%d.%d" % (i, k))]
        assert shape[0] == g["experts"], shape
        modules.append(unpack(shape, data, cols))
    found = {"down": modules[-1], "gate_up": [sum((m[e] for m in modules[:-1]), []) for e in range(g["experts"])]}
    for half, all in found.items():
        shape, data = vectors["%s/%d" % (half, g["layer"])]
        expected = struct.unpack("<%db" % len(data), data)
        flat = [c for e in all for r in e for c in r]
        assert len(flat) == len(expected) == shape[0] * shape[1] * shape[2], (len(flat), shape)
        count += len(flat)
        far += sum(a != b for a, b in zip(flat, expected))
    own = struct.unpack("<%di" % (2 * g["experts"]), vectors["own/%d" % g["layer"]][1])
    said, = [v for v in json.loads(meta["aq"])["experts"] if v["layer"] == g["layer"]]
    assert (said["own_gate_up"], said["own_down"]) == (sum(own[::2]), sum(own[1::2])), (said, own)
print(far, count)
PY
}

@test "GPTQ: the codes of every expert are float64's, over its own tokens or those of its layer" {
    need_command python3
    quant gptq "$INT4" gptq
    for case in qwen3_moe mixtral qwen3_vl_moe qwen3_vl_moe_turned; do
        vectors=$REPO/tests/oracle/moe_solved/${case%_turned}.safetensors
        ids "$vectors" | "$O"/tests/make_tokens --sizes 5 -o tokens
        aq 0 aq-extract-lm -o lm.json "$CASES/$case"
        aq 0 aq-calib ranges --lm lm.json --prefix 5 --device cpu -o ranges tokens
        aq 0 aq-calib solve --lm lm.json --tokens tokens --ranges ranges --device cpu --threads 3 -o solved gptq.json
        has "$stderr" "experts got fewer tokens than they have columns"
        is "$(codes solved lm.json "$vectors" | sed -E 's/ [0-9]{4,}$/ of thousands/')" "0 of thousands"
        aq 0 aq-calib solve --lm lm.json --tokens tokens --ranges ranges --device cpu --threads 1 -o again gptq.json
        cmp solved again
        rm solved again
    done
}

@test "scales are powers of two: the norm, the router and the rows of up take them without rounding; what is exported is what was scored" {
    need_command python3
    quant rtn "${INT4/-1: 8/-1: 128}" max
    quant gptq "${INT4/-1: 8/-1: 128}" gptq
    quant smooth "$INT8" '{method: smoothquant, alpha: 0.5}'
    head -12 "$REPO"/datasets/demo/captions_medium.txt >captions
    aq 0 aq-extract-lm -o lm.json "$DEMO"
    aq 0 aq-calib tokens --tokenizer "$DEMO" -o tokens captions
    aq 0 aq-calib ranges --lm lm.json --prefix 12 --device cpu -o ranges tokens
    aq 0 aq-calib solve --lm lm.json --tokens tokens --ranges ranges --device cpu -o solved {gptq,smooth}.json
    aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --solved solved --prefix 12 --device cpu -o store {rtn,gptq,smooth}.json
    aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --solved solved --prefix 12 --device cpu --threads 3 -o again {smooth,gptq}.json
    same_scores again store 12
    for n in gptq smooth; do
        jq --argjson treatments "$(jq '{a: [.treatment.w, .treatment.a]}' $n.json)" --argjson cycle '["NONE", "NONE", "a"]' \
            -f "$REPO"/tests/manifest.jq lm.json | jq --arg lm "$(jq -r .digest.sample lm.json)" '.aq = {schema: "aq.manifest/2", normalization: "per_token", identity: {lm: $lm, prefix: 12}}' >m_$n.json
        aq 0 aq-export --engine transformers --lm lm.json --ranges ranges --solved solved -o out-$n m_$n.json
        aq 0 aq-eval --reference lm.json --domain t=tokens --ranges ranges --solved solved --device cpu -o $n.ev m_$n.json
        aq 0 aq-eval --reference lm.json --domain t=tokens --device cpu -o $n.out out-$n
        jq -s -e '(.[0].all.kl.mean / .[1].all.kl.mean - 1) | -1e-3 < . and . < 1e-3' $n.ev $n.out
    done
    python3 - "$DEMO/model.safetensors" out-smooth/model.safetensors <<'PY'
import json, math, struct, sys
def read(path):
    b = open(path, "rb").read()
    n = int.from_bytes(b[:8], "little")
    return b[8 + n:], json.loads(b[8:8 + n])
def bf16(f, name):
    data, h = f
    at, end = h[name]["data_offsets"]
    return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(at, end, 2)]
before, after = read(sys.argv[1]), read(sys.argv[2])
for l in range(4):
    p = "model.layers.%d." % l
    a, b = (bf16(f, p + "post_attention_layernorm.weight") for f in (before, after))
    scale = [x / y for x, y in zip(a, b)]
    assert all(math.frexp(s)[0] == 0.5 for s in scale) and set(scale) != {1.0}, scale[:8]
    a, b = (bf16(f, p + "mlp.gate.weight") for f in (before, after))
    assert b == [x * scale[i % len(scale)] for i, x in enumerate(a)], p
PY
}

@test "experts without tokens: solved over those of their layer, and said; samples of one token" {
    quant gptq "$INT4" gptq
    quant mse "$INT4" mse
    printf '7\n9\n7 7 7\n' | "$O"/tests/make_tokens --sizes 3 -o tokens
    aq 0 aq-extract-lm -o lm.json "$CASES/qwen3_moe"
    aq 0 aq-calib ranges --lm lm.json --prefix 3 --device cpu -o ranges tokens
    aq 0 aq-calib solve --lm lm.json --tokens tokens --ranges ranges --device cpu -o solved {gptq,mse}.json
    [[ $stderr =~ 8\ of\ 8\ experts\ got\ fewer\ tokens\ than\ they\ have\ columns\ \([1-9]\ got\ none\) ]]
    aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --solved solved --prefix 3 --device cpu -o store {gptq,mse}.json
    aq 0 aq-score --method kl_div --score-samples 3 --lm lm.json --tokens tokens --ranges ranges --solved solved --prefix 3 --device cpu -o kl {gptq,mse}.json
}

# sums STORE LM: "<activation> <the sum of all experts' scores>" of each row
sums() {
    python3 - "$@" <<'PY'
import json, struct, sys
b = open(sys.argv[1], "rb").read()
n = int.from_bytes(b[:8], "little")
h, data = json.loads(b[8:8 + n]), b[8 + n:]
candidates = json.loads(h.pop("__metadata__")["aq"])["candidates"]
experts = [i for i, g in enumerate(json.load(open(sys.argv[2]))["groups"]) if g["kind"] == "experts"]
for name, t in h.items():
    if name.startswith("s/"):
        at, end = t["data_offsets"]
        v = struct.unpack("<%dd" % ((end - at) // 8), data[at:end])
        print(candidates[name.split("/")[1]]["a"], sum(sum(v[i * t["shape"][1]:(i + 1) * t["shape"][1]]) for i in experts))
PY
}

@test "a range for each channel is that of its own input: experts' scores are smaller under it than under one range" {
    need_command python3
    quant channel 'num_bits: 8, axis: 0|num_bits: 8, axis: -1' max
    quant tensor "$INT8" max
    head -8 "$REPO"/datasets/demo/captions_medium.txt >captions
    aq 0 aq-extract-lm -o lm.json "$DEMO"
    aq 0 aq-calib tokens --tokenizer "$DEMO" -o tokens captions
    aq 0 aq-calib ranges --lm lm.json --prefix 8 --device cpu -o ranges tokens
    aq 0 aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 8 --device cpu -o store {channel,tensor}.json
    sums store lm.json >sums
    awk '{ s[$1] = $2 } END { exit !(s["int8:axis-1:static"] > 0 && s["int8:axis-1:static"] < s["int8:tensor:static"]) }' sums || { cat sums; return 1; }
}
