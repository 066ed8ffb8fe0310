#!/usr/bin/env python3
"""ModelOpt's layout of aq-export against ModelOpt's own export of the demo model, seven algorithms in one checkpoint, on the CPU.

    pip install nvidia-modelopt==0.47.0 torch transformers==5.24.0 numpy
    python tests/oracle/export_modelopt.py EXPORT SOURCE tests/oracle/export/modelopt.json

EXPORT was written by aq-export --engine trtllm from SOURCE for the recipe of tests/export-modelopt.json (tests/55-export.bats does it).
ModelOpt quantizes the same layers with its own formats, calibrated with 16 captions, and exports them. Fails unless

  * every tensor has the same name, type and shape in both (no tensor too many);
  * NVFP4's codes, block scales and second-level scales are the same bytes;
  * of the others, as many codes and scales differ as are explained here. int8, int4: scales equal; ModelOpt divides by a / 127 where aq
    multiplies by 127 / a, which tips ties. FP8 per channel: ModelOpt's scale is amax / 448 in bf16 steps of its own, aq's 1 / k with
    k = 448 / amax in fp32. FP8 per tensor: ModelOpt divides in bf16 and rounds twice (o and down: 2.6 % of the codes), and gives q, k and v
    a scale each, which an engine then quantizes again; aq divides in fp32 and gives the group one (counted, not compared);
  * input scales agree within 3 % (ModelOpt runs the model in bf16).

Writes the digests of ModelOpt's NVFP4 tensors, names, types and shapes of all, and the counts.
"""
import hashlib, json, os, re, struct, sys, tempfile
from importlib.metadata import version

import numpy as np
import torch
import transformers
import modelopt.torch.quantization as mtq
from modelopt.torch.export import export_hf_checkpoint

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FP8, FP8_ROW = {"num_bits": (4, 3), "axis": None}, {"num_bits": (4, 3), "axis": 0}
FP8_TOKEN = {"num_bits": (4, 3), "type": "dynamic", "block_sizes": {-1: None}}
NV = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}, "axis": None}
INT4, INT8, INT8_A = {"num_bits": 4, "block_sizes": {-1: 128}}, {"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}
LAYERS = {0: (FP8, FP8), 1: (FP8_ROW, FP8_TOKEN), 2: (NV, None), 3: (NV, NV), 4: (INT4, None), 5: (INT8, INT8_A), 6: (INT8, None)}
# share of codes that may differ, by layer: what was seen, rounded up to one digit
CODES = {0: 0.03, 1: 0.001, 2: 0, 3: 0, 4: 0.0004, 5: 0.0004, 6: 0.0004}


def read(d):
    out = {}
    for f in sorted(os.listdir(d)):
        if f.endswith(".safetensors"):
            b = open(os.path.join(d, f), "rb").read()
            n = struct.unpack("<Q", b[:8])[0]
            for k, v in json.loads(b[8:8 + n]).items():
                if k != "__metadata__":
                    x, y = v["data_offsets"]
                    out[k] = (v["dtype"], v["shape"], b[8 + n + x:8 + n + y])
    return out


def modelopt(source, out):
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(source, dtype=torch.bfloat16).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    texts = open(ROOT + "/datasets/demo/captions_small.txt").read().splitlines()
    config = [{"quantizer_name": "*", "enable": False}]
    for i, (w, a) in LAYERS.items():
        config.append({"quantizer_name": f"*language_model.layers.{i}.*weight_quantizer", "cfg": w})
        if a:
            config.append({"quantizer_name": f"*language_model.layers.{i}.*input_quantizer", "cfg": a})

    def loop(m):
        with torch.no_grad():
            for t in texts:
                m(input_ids=torch.tensor([tokenizer(t)["input_ids"]]))

    export_hf_checkpoint(mtq.quantize(model, {"quant_cfg": config, "algorithm": "max"}, loop), export_dir=out)


def codes(t):
    b = np.frombuffer(t[2], np.uint8)
    return np.stack([b & 15, b >> 4]) if t[0] == "U8" else b


def main(export, source, out):
    with tempfile.TemporaryDirectory() as d:
        modelopt(source, d)
        theirs = read(d)
        config = json.load(open(d + "/hf_quant_config.json"))["quantization"]
    ours = read(export)
    own = json.load(open(export + "/hf_quant_config.json"))["quantization"]
    bad, stats, kept = [], {}, {}
    names = {k for k in set(ours) | set(theirs) if ".language_model.layers." in k}
    for k in sorted(names):
        if k not in ours or k not in theirs or ours[k][:2] != theirs[k][:2]:
            bad.append((k, ours.get(k, "-")[:2], theirs.get(k, "-")[:2]))
            continue
        a, b = ours[k], theirs[k]
        i, suffix = int(re.search(r"layers\.(\d+)", k)[1]), k.rsplit(".", 1)[1]
        if not re.search(r"_proj\.", k):
            continue
        shared = i == 0 and not re.search(r"\.(o|down)_proj\.", k)  # the group's range in aq's file, each member's own in ModelOpt's
        e = stats.setdefault(f"{i} {suffix}{' of q, k, v, gate, up' * shared}", [0, 0, 0.0])
        if suffix == "weight":
            x, y = codes(a), codes(b)
        elif a[0] == "F32":
            x, y = np.frombuffer(a[2], np.float32), np.frombuffer(b[2], np.float32)
            e[2] = max(e[2], float(np.max(np.abs(x - y) / np.abs(y))))
        else:
            x, y = np.frombuffer(a[2], np.uint8), np.frombuffer(b[2], np.uint8)
        e[0] += x.size
        e[1] += int((x != y).sum())
        if i in (2, 3) and suffix != "input_scale":
            kept[k] = hashlib.sha256(b[2]).hexdigest()
            if x.tobytes() != y.tobytes():
                bad.append((k, "NVFP4 differs"))
    for k, (n, d, rel) in stats.items():
        i, suffix = int(k[0]), k[2:]
        print(f"layer {k}: {d} of {n} differ, by {rel:.1e} at most" if rel else f"layer {k}: {d} of {n} differ")
        if " of " in k:
            continue
        limit = CODES[i] if suffix == "weight" else {"input_scale": 0.03, "weight_scale": 2e-7}.get(suffix, 0)
        if (d / n if suffix == "weight" else rel) > limit:
            bad.append((k, d, n, rel))
    layers = {k: v for k, v in own["quantized_layers"].items() if not re.search(r"(qkv|gate_up)_proj$", k)}
    for k, v in config["quantized_layers"].items():
        if layers.get(k) != v:
            bad.append((k, layers.get(k), v))
    if set(layers) != set(config["quantized_layers"]):
        bad.append(("layers", sorted(set(layers) ^ set(config["quantized_layers"]))[:4]))
    json.dump({"versions": {n: version(n) for n in ("nvidia-modelopt", "torch", "transformers")}, "differ": stats, "nvfp4": kept,
               "tensors": {k: [ours[k][0], ours[k][1]] for k in sorted(names)}, "algorithms": config["quantized_layers"]}, open(out, "w"), indent=0)
    if bad:
        sys.exit(f"FAILED: {bad[:8]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
