#!/usr/bin/env python3
"""What left padding does to the scores of SmolLM2-135M-Instruct: the first table of docs/padding.md.

    AQ_BIN=build/bin tests/real/padding.py CHECKPOINT [CAPTIONS [COUNT [PAGE]]]

CHECKPOINT is what `make test-real` made: build/real/smollm2. CAPTIONS: text, one caption a line, of which the first COUNT (64) are
used; by default those of ../shared if they are there, else datasets/demo/captions_medium.txt. Rewrites what is between the
markers of PAGE (docs/padding.md). Needs nothing but aq and Python.

The pad row's part is the tensor f of a padded store; without padding f is the part of position 0.
"""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BIN = os.environ.get("AQ_BIN", os.path.join(ROOT, "build", "bin"))
os.environ.setdefault("AQ_CONF", os.path.join(ROOT, "conf"))
SHARED = os.path.join(ROOT, "..", "shared", "data", "vlm-quantize-calib", "coco2017_captions_medium.txt")
DEMO = os.path.join(ROOT, "datasets", "demo", "captions_medium.txt")
PAGE = os.path.join(ROOT, "docs", "padding.md")
BEGIN, END = "<!-- made by tests/real/padding.py -->", "<!-- end of SmolLM2 -->"
FORMATS = {"FP8, weights and activations": ("FP8_DEFAULT_CFG", "default"), "INT8, static activations": ("INT8_DEFAULT_CFG", "default"),
           "INT8, per-token activations": ("INT8_DEFAULT_CFG", "a_per_token_dynamic"),
           "INT4 weights": ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "default"), "FP8 weights": ("FP8_WEIGHT_ONLY_CFG", "default"),
           "INT8 weights": ("INT8_WEIGHT_ONLY_CFG", "default")}
KINDS = 4  # q/k/v, o, gate/up, down: the last two are the MLP
WAYS = {"not padded": ("none", None), "padded with `<\\|im_end\\|>`": ("max_length", 2), "padded with `<\\|endoftext\\|>`": ("max_length", 0)}


def tool(name, *args):
    subprocess.run([os.path.join(BIN, name), *map(str, args), "-q"], check=True)


def tensors(path):
    """Name to rows of a [groups, samples] F64 tensor."""
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        head, data = json.loads(f.read(size)), f.read()
    out = {}
    for name, t in head.items():
        if t.get("dtype") == "F64":
            groups, samples = t["shape"]
            values = struct.unpack(f"<{groups * samples}d", data[slice(*t["data_offsets"])])
            out[name] = [sum(values[g * samples:(g + 1) * samples]) for g in range(groups)]
    return out


def ranks(scores):
    order = sorted(range(len(scores)), key=lambda g: -scores[g])
    place = [0] * len(scores)
    for p, g in enumerate(order):
        place[g] = p
    return place


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    n = len(a)
    return 1 - 6 * sum((x - y) ** 2 for x, y in zip(a, b)) / (n * (n * n - 1))


def measure(tmp, captions, padding, pad, quants):
    """Per format the score and its part at first rows, by group."""
    tokens, ranges, store = (os.path.join(tmp, f"{padding}-{pad}.{x}") for x in ("tokens", "ranges", "store"))
    lm = os.path.join(tmp, "lm")
    tool("aq-calib", "tokens", "--tokenizer", CHECKPOINT, "--padding", padding, *(["--pad-id", pad] if pad is not None else []),
         "-o", tokens, captions)
    tool("aq-calib", "ranges", "--lm", lm, "--dtype", "fp32", "--device", "cpu", "-o", ranges, tokens)
    tool("aq-score", "--lm", lm, "--tokens", tokens, "--ranges", ranges, "--dtype", "fp32", "--device", "cpu", "-o", store, *quants.values())
    found, out = tensors(store), {}
    for name, path in quants.items():
        with open(path, encoding="utf-8") as f:
            key = json.load(f)["treatment_id"]
        row, = (k[2:] for k in found if k.startswith("s/" + key))
        out[name] = found["s/" + row], found["f/" + row]
    return out


def mlp(scores):
    return sum(s for g, s in enumerate(scores) if g % KINDS >= 2) / sum(scores)


def percent(x):
    return f"{100 * x:.1f} %" if not math.isnan(x) else ""


def table(found):
    lines = ["| format | data | MLP share | share of the first row | Spearman with not padded |", "| --- | --- | ---: | ---: | ---: |"]
    for name in FORMATS:
        own = found["not padded"][name][0]
        for way in WAYS:
            s, f = found[way][name]
            lines.append(f"| {name} | {way} | {percent(mlp(s))} | {percent(sum(f) / sum(s))} | {spearman(s, own):.3f} |")
    return "\n".join(lines) + "\n"


def main():
    global CHECKPOINT
    CHECKPOINT = sys.argv[1]
    captions = sys.argv[2] if len(sys.argv) > 2 else SHARED if os.path.exists(SHARED) else DEMO
    count, page = int((sys.argv + ["64"] * 4)[3] if len(sys.argv) > 3 else 64), sys.argv[4] if len(sys.argv) > 4 else PAGE
    with tempfile.TemporaryDirectory() as tmp:
        own = os.path.join(tmp, "captions")
        with open(captions, encoding="utf-8") as f, open(own, "w", encoding="utf-8") as to:
            to.writelines(line for _, line in zip(range(count), f))
        tool("aq-extract-lm", "-o", os.path.join(tmp, "lm"), CHECKPOINT)
        quants = {}
        for i, (name, (base, granularity)) in enumerate(FORMATS.items()):
            quants[name] = os.path.join(tmp, f"{i}.json")
            tool("aq-overlay", "--format", base, "--granularity", granularity, "-o", quants[name])
        found = {way: measure(tmp, own, padding, pad, quants) for way, (padding, pad) in WAYS.items()}
    text = f"SmolLM2-135M-Instruct, the first {count} captions of `{os.path.basename(captions)}`.\n\n{table(found)}"
    with open(page, encoding="utf-8") as f:
        before, rest = f.read().split(BEGIN)
    with open(page, "w", encoding="utf-8") as f:
        f.write(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
