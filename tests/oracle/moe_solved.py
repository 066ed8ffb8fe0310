#!/usr/bin/env python3
"""GPTQ's codes of experts by their definition, in float64, for tests/33-calibrated-experts.bats.

    tests/oracle/moe_solved.py [CASE...]      rewrites tests/oracle/moe_solved/*.safetensors

A case is one of tests/oracle/families. What each expert reads comes from transformers; its second moments are those of its own
tokens, or of all tokens of the layer (for down: of all experts) where it got fewer than its matrix has columns. Codes are int4 in
blocks of 8 inputs, columns by falling second moment, scales rounded to bf16. gate_up/<layer> I8 [experts, rows, cols], down/<layer>,
own/<layer> I32 [experts, 2]: whether its own tokens were enough.
"""
import importlib.util
import os
import sys

import numpy as np
import safetensors.torch
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("moe", os.path.join(HERE, "moe.py"))
moe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(moe)
families, F = moe.families, moe.F
CASES = ["qwen3_moe", "mixtral", "qwen3_vl_moe"]
BLOCK, SAMPLES, VOCAB = 8, 5, 60
f32 = np.float32


def codes(w, x):
    """w (rows, cols) float32, x (tokens, cols): int4 codes by GPTQ."""
    rows, cols = w.shape
    x = x.astype(np.float64)
    h = x.T @ x
    amax = np.abs(w.reshape(rows, -1, BLOCK)).max(-1)
    scale = torch.from_numpy((amax / f32(7)).astype(f32)).bfloat16().float().numpy()
    mul = (f32(7) / (scale * f32(7))).astype(f32)
    perm = np.argsort(-np.diag(h), kind="stable")
    v, h, group = w.astype(np.float64)[:, perm], h[perm][:, perm], (np.arange(cols) // BLOCK)[perm]
    h[np.arange(cols), np.arange(cols)] += 0.01 * np.mean(np.diag(h))
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    q = np.zeros_like(v)
    for j in range(cols):
        s = mul[:, group[j]].astype(np.float64)
        q[:, j] = np.clip(np.rint(v[:, j] * s), -8, 7)
        v[:, j:] -= np.outer((v[:, j] - q[:, j] / s) / u[j, j], u[j, j:])
    return q[:, np.argsort(perm)].astype(np.int8)


def make(name):
    prefix, kind, values = families.CASES[name]
    directory = os.path.join(HERE, "families", name)
    cls = type(families.build(prefix, values))
    model = cls.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    model = families.reference(model, families.TYPES[kind])
    rng = np.random.default_rng(5)
    ids = [rng.integers(1, VOCAB, n) for n in rng.integers(8, 24, SAMPLES)]
    kept = {}
    for key, module in families.mixtures(model):
        module.register_forward_hook(lambda _m, inputs, _o, key=key: kept.setdefault(key, []).append(inputs[0].detach().reshape(-1, inputs[0].shape[-1])))
    with torch.no_grad():
        for one in ids:
            model(input_ids=torch.from_numpy(one)[None], use_cache=False)
    out = {"ids": torch.from_numpy(np.concatenate(ids)).int(), "offsets": torch.tensor(np.cumsum([0] + [len(i) for i in ids]))}
    for key, mlp in families.mixtures(model):
        layer = key.split(".")[1]
        n = torch.cat(kept[key]).double()
        sel, _ = moe.routes(mlp, n, model.config.get_text_config())
        gate_up, down = (w.float().numpy() for w in moe.expert_weights(mlp))
        rows = [torch.where(sel == e)[0] for e in range(len(gate_up))]
        inner = []
        for e, r in enumerate(rows):
            a, b = (n[r] @ torch.from_numpy(gate_up[e]).double().t()).chunk(2, -1)
            inner.append((F.silu(a) * b).numpy())
        all_inner = np.concatenate(inner)
        own = [[len(r) >= gate_up.shape[2], len(r) >= down.shape[2]] for r in rows]
        out["gate_up/" + layer] = torch.from_numpy(np.stack([codes(gate_up[e], n[r].numpy() if own[e][0] else n.numpy()) for e, r in enumerate(rows)]))
        out["down/" + layer] = torch.from_numpy(np.stack([codes(down[e], inner[e] if own[e][1] else all_inner) for e in range(len(rows))]))
        out["own/" + layer] = torch.tensor(own).int()
        print(name, key, [len(r) for r in rows], own)
    meta = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__, "case": name}
    os.makedirs(os.path.join(HERE, "moe_solved"), exist_ok=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(HERE, "moe_solved", name + ".safetensors"), metadata=meta)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        make(case)
