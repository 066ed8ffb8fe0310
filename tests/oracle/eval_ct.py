#!/usr/bin/env python3
"""Somebody else's quantized checkpoint: zero points, groups by index, one scale a tensor, quantized activations.

    tests/oracle/eval_ct.py         rewrites tests/oracle/eval_ct/ and eval_ct.json

The tiny llama of tests/oracle/families in the layout of compressed-tensors, packed and decoded by that
package, and what transformers computes in float64 with the decoded weights. tests/47-eval.bats runs
aq-eval on the directory.
"""
import json
import os
import shutil

import compressed_tensors
import numpy as np
import safetensors.torch
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize

import eval as reference

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE, OUT = os.path.join(HERE, "families/llama"), os.path.join(HERE, "eval_ct")


def grid(w, bits, symmetric):
    """Scale and zero point of each row of a block (rows, n)."""
    lo, hi = torch.clamp(w.amin(1), max=0), torch.clamp(w.amax(1), min=0)
    if symmetric:
        return torch.maximum(hi, -lo) / (2 ** (bits - 1) - 1), torch.zeros(len(w), dtype=torch.int8)
    s = (hi - lo) / (2**bits - 1)
    return s, torch.clamp(torch.round(-lo / s) - 2 ** (bits - 1), -2 ** (bits - 1), 2 ** (bits - 1) - 1).to(torch.int8)


def codes(w, s, z, bits):
    return torch.clamp(torch.round(w / s) + z, -2 ** (bits - 1), 2 ** (bits - 1) - 1).to(torch.int8)


def packed(w, bits, group):
    """Asymmetric, columns in shuffled groups."""
    rows, cols = w.shape
    order = torch.randperm(cols, generator=torch.Generator().manual_seed(cols + rows))
    g_idx = torch.empty(cols, dtype=torch.int32)
    for i, c in enumerate(order):
        g_idx[c] = i // group
    s, z = torch.empty(rows, cols // group), torch.empty(rows, cols // group, dtype=torch.int8)
    for g in range(cols // group):
        s[:, g], z[:, g] = grid(w[:, g_idx == g], bits, False)
    s = s.to(torch.bfloat16)
    wide = s.float()[:, g_idx.long()]
    q = codes(w, wide, z[:, g_idx.long()], bits)
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=False, strategy="group", group_size=group)
    p, pz = pack_to_int32(q, bits), pack_to_int32(z, bits, packed_dim=0)
    back = unpack_from_int32(p, bits, q.shape)
    zero = unpack_from_int32(pz, bits, z.shape, packed_dim=0)
    decoded = (back.float() - zero[:, g_idx.long()]) * wide
    plain = dequantize(back[:, g_idx.argsort()], s.float(), zero, args)  # the package's own, in the order of groups
    assert torch.equal(plain, decoded[:, g_idx.argsort()].to(plain.dtype))
    return {"weight_packed": p, "weight_scale": s, "weight_zero_point": pz, "weight_g_idx": g_idx,
            "weight_shape": torch.tensor(w.shape)}, decoded


def int8(w, symmetric):
    s, z = grid(w, 8, symmetric)
    s, z = s[:, None], z[:, None]
    q = codes(w, s, z, 8)
    out = {"weight": q, "weight_scale": s}
    if not symmetric:
        out["weight_zero_point"] = z
    return out, (q.float() - z) * s


def fp8(w):
    s = (w.abs().max() / 448).reshape(1)
    q = torch.clamp(w / s, -448, 448).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": s}, q.float() * s


def args(**kw):
    base = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "group_size": None, "dynamic": False}
    return {**base, **kw}


GROUPS = {
    "group_0": {"targets": ["re:.*self_attn\\.(q|k|v)_proj$"], "format": "pack-quantized", "input_activations": None,
                "weights": args(num_bits=3, symmetric=False, strategy="group", group_size=8, actorder="group")},
    "group_1": {"targets": ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"],
                "format": "int-quantized", "weights": args(symmetric=False), "input_activations": None},
    "group_2": {"targets": ["re:.*mlp\\.(gate|up)_proj"], "format": "int-quantized", "weights": args(),
                "input_activations": args(strategy="token", dynamic=True)},
    "group_3": {"targets": ["re:.*down_proj"], "format": "float-quantized",
                "weights": args(type="float", strategy="tensor"),
                "input_activations": args(type="float", strategy="tensor")},
}


def main():
    tensors = safetensors.torch.load_file(os.path.join(SOURCE, "model.safetensors"))
    samples = reference.tiny_samples(61, 99)
    model = reference.open_model(SOURCE)
    z, amax = reference.logits(model, samples), reference.ranges(model, samples)
    changed = reference.open_model(SOURCE)
    modules = dict(changed.named_modules())
    kinds = dict((id(m), g) for g, m in reference.linears(changed))
    out = {}
    for name, t in tensors.items():
        module = name.removesuffix(".weight")
        if not name.endswith("_proj.weight"):
            out[name] = t
            continue
        w, last, acts = t.float(), module.split(".")[-1], None
        if last in ("q_proj", "k_proj", "v_proj"):
            pieces, decoded = packed(w, 3, 8)
        elif last == "o_proj":
            pieces, decoded = int8(w, False)
        elif last == "down_proj":
            pieces, decoded = fp8(w)
            a = amax[kinds[id(modules[module])]]
            pieces["input_scale"] = torch.tensor([a / 448])
            acts = ("ftensor", np.float32(pieces["input_scale"].item()) * np.float32(448))
        else:
            pieces, decoded = int8(w, True)
            acts = ("token", 0)
        out.update({f"{module}.{k}": v.contiguous() for k, v in pieces.items()})
        modules[module].weight.data = decoded.double()
        if acts:
            def feed(_m, x, acts=acts):
                return (torch.from_numpy(reference.act(x[0].detach().float().numpy(), *acts)).double(),)
            modules[module].register_forward_pre_hook(feed)
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    safetensors.torch.save_file(out, os.path.join(OUT, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(SOURCE, "config.json")) as f:
        config = json.load(f)
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "mixed-precision",
                                     "quantization_status": "compressed", "version": compressed_tensors.__version__,
                                     "ignore": ["lm_head"], "config_groups": GROUPS, "kv_cache_scheme": None,
                                     "sparsity_config": {}, "transform_config": {}}
    with open(os.path.join(OUT, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    doc = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                        "compressed-tensors": compressed_tensors.__version__},
           "samples": samples, "expected": reference.compare(z, reference.logits(changed, samples), samples)}
    with open(os.path.join(HERE, "eval_ct.json"), "w") as f:
        json.dump(doc, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
