#!/usr/bin/env python3
"""Confirms a receipt of aq-eval with transformers in fp32.

    tests/oracle/receipt.py CHECKPOINT MANIFEST EVAL.json TOKENS RANGES [VECTORS]

VECTORS, tests/oracle/receipt.json, is written with what was found here: tests/47-eval.bats replays it for the sweep of `aq eval
PAIRS=wint4_afp16 GRANS=default SIZES=small BITS=8`, whose recipe it was made from.

Reads the recipe of the manifest and applies it to the checkpoint by the formulas of tests/oracle/eval.py; runs both over the
text of TOKENS, the receipt's only domain. Divergences of weight-only recipes agree within 1e-4, those of quantized activations
within 2 % (fp32 and fp64 of one such model are 0.5 % apart), perplexities within 1e-5. Where activations are quantized, those that fall on
another code in another order of sums make the losses of the quantized model differ from position to position as far as those of the
quantized and the unquantized model do, sqrt(2 KL) each: three standard errors of their mean. On SmolLM2 (KL 0.0159, 691 positions)
that is 2.0e-2; transformers' own fp32 and fp64 of the quantized model are 3.3e-3 apart there, aq 3.1e-3 from its fp32. Prints TAP, and
fails.
"""
import json
import math
import re
import struct
import sys

import numpy as np
import torch
import transformers

import eval as oracle
from eval import F, blocks, fp8_round, int_round, linears

transformers.utils.logging.disable_progress_bar()


def tensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    dtypes = {"I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
    return {k: np.frombuffer(data[8 + n:], dtypes[v["dtype"]], offset=v["data_offsets"][0],
                             count=int(np.prod(v["shape"]))).reshape(v["shape"])
            for k, v in header.items() if k != "__metadata__" and v["dtype"] in dtypes}


def unknown(text):
    sys.exit(f"receipt.py: the treatment '{text}' is not among those that it computes")


def nvfp4(x, top):
    out, gs = np.empty_like(x), F(F(top) / F(6 * 448))
    for at in range(0, x.shape[1], 16):
        b = x[:, at:at + 16]
        m = np.abs(b).max(1, keepdims=True)
        s = (oracle.e4m3_round(np.minimum((m / (F(6) * gs)).astype(F), F(448))) * gs).astype(F)
        s = np.where(s < 1e-5, F(1), s)
        q = oracle.e2m1_round(np.abs(b) / s)
        out[:, at:at + 16] = np.where(b >= 0, q, -q) * s
    return out


def weight(x, text, top):
    """top: the largest magnitude of all members of the group, for @group."""
    a = np.abs(x)
    m = re.fullmatch(r"int(\d):(axis0|tensor|block\(-1:(\d+)\)):static", text)
    if m:
        n = int(m[3]) if m[3] else x.shape[1]
        if m[2] == "tensor":
            return int_round(x, a.max(), int(m[1]))
        return np.concatenate([int_round(b, np.abs(b).max(1, keepdims=True), int(m[1])) for b in blocks(x, n)], 1)
    m = re.fullmatch(r"e4m3:(axis0|tensor):static", text)
    if m:
        return fp8_round(x, a.max(1, keepdims=True) if m[1] == "axis0" else a.max())
    m = re.fullmatch(r"e2m1:nvfp4\(16\):(dynamic|static)(@group)?", text)
    return nvfp4(x, top if m[2] else a.max()) if m else unknown(text)


def act(x, text, amax):
    m = re.fullmatch(r"(int8|e4m3):(token:dynamic|tensor:static)", text)
    if not m:
        unknown(text)
    a = np.abs(x).max(-1, keepdims=True) if m[2] == "token:dynamic" else F(amax)
    return int_round(x, a, 8) if m[1] == "int8" else fp8_round(x, a)


def apply(model, manifest, ranges):
    """True if any activation is quantized."""
    recipe, candidates = manifest["selection"]["recipe"], manifest["selection"]["candidates"]
    prefix = int(manifest["aq"]["identity"]["prefix"])
    groups, acts = manifest["groups"], False
    members = {}
    for g, m in linears(model):
        members.setdefault(g, []).append(m)
    for g, all_of in members.items():
        choice = recipe[groups[g]["name"] + ".quant_recipe"]["candidate"]
        if choice == "NONE":
            continue
        w, a = candidates[choice]["w"], candidates[choice]["a"]
        top = max(m.weight.abs().max().item() for m in all_of)
        i = groups[g]["inputs"][0]
        amax = max(ranges["first"][i, :prefix].max(), ranges["rest"][i, :prefix].max())
        for m in all_of:
            if w != "none":
                m.weight.data = torch.from_numpy(weight(m.weight.detach().float().numpy(), w, top).copy()).to(m.weight.dtype)
            if a != "none":
                acts = True
                m.register_forward_pre_hook(
                    lambda _m, args, a=a, amax=amax:
                    (torch.from_numpy(act(args[0].detach().float().numpy(), a, amax)).to(args[0].dtype),))
    return acts


def main():
    torch.set_num_threads(1)
    checkpoint, manifest, receipt, tokens, ranges, *vectors = sys.argv[1:]
    with open(manifest) as f:
        manifest = json.load(f)
    with open(receipt) as f:
        found = json.load(f)["all"]
    t = tensors(tokens)
    samples = [t["ids"][a:b].tolist() for a, b in zip(t["offsets"][:-1], t["offsets"][1:])]
    model, other = oracle.open_model(checkpoint).float(), oracle.open_model(checkpoint).float()
    acts = apply(other, manifest, tensors(ranges))
    expected = oracle.compare(oracle.logits(model, samples), oracle.logits(other, samples), samples)
    if vectors:
        with open(vectors[0], "w") as f:
            json.dump({"script": "tests/oracle/receipt.py", "transformers": transformers.__version__, "torch": torch.__version__,
                       "recipe": {k: v["candidate"] for k, v in manifest["selection"]["recipe"].items()}, "expected": expected}, f, indent=1)
            f.write("\n")
    share, bad = 0.02 if acts else 1e-4, 0
    checks = [("positions", expected["positions"], found["positions"], 0),
              ("KL", expected["kl"]["mean"], found["kl"]["mean"], share),
              ("its standard error", expected["kl"]["se"], found["kl"]["se"], 5 * share),
              ("reverse KL", expected["reverse_kl"]["mean"], found["reverse_kl"]["mean"], share),
              ("perplexity of the reference", expected["ppl_reference"], found["ppl_reference"], 1e-5),
              ("perplexity", expected["ppl"], found["ppl"],
               3 * math.sqrt(2 * expected["kl"]["mean"] / expected["positions"]) if acts else 1e-5)]
    for i, (what, e, x, allowed) in enumerate(checks, 1):
        good = abs(e - x) <= allowed * abs(e)
        bad += not good
        print(f"{'ok' if good else 'not ok'} {i} - {what}: aq {x:.9g}, transformers {e:.9g}, "
              f"{abs(x / e - 1):.1e} apart, {allowed:g} allowed")
    print(f"1..{len(checks)}  # transformers {transformers.__version__}, fp32")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
