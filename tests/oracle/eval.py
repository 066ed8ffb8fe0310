#!/usr/bin/env python3
"""What aq-eval must find: models and their fake-quantized forms in transformers, in float64.

    tests/oracle/eval.py > tests/oracle/eval.json

Weights and activations are quantized here by the formulas of docs/quantizers.md, in fp32, by numpy;
divergences over the whole vocabulary, losses and agreement are in float64. The demo checkpoint reads
the first lines of its held-out captions, the tiny checkpoints of tests/oracle/families random ids.
A treatment of group i (layer by layer: qkv, o, gate_up, down) is cycle[i % len(cycle)].
tests/47-eval.bats replays the file.
"""
import json
import math
import os

import numpy as np
import safetensors
import tokenizers
import torch
import transformers

from families import reference, text_part

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
TINY = np.float32(2.0**-24)
F = np.float32

WEIGHTS = {
    "int8": "int8:axis0:static", "int4": "int4:block(-1:4):static", "int4g": "int4:block(-1:128):static",
    "fp8": "e4m3:tensor:static", "fp8c": "e4m3:axis0:static", "fp4": "e2m1:nvfp4(16):dynamic",
}
ACTS = {"token": "int8:token:dynamic", "ftoken": "e4m3:token:dynamic", "static": "int8:tensor:static",
        "ftensor": "e4m3:tensor:static"}


def int_round(x, a, bits):
    top = F(2 ** (bits - 1) - 1)
    safe = np.where(a <= TINY, F(1), a).astype(F)
    s = (top / safe).astype(F)
    q = np.clip(np.rint((x * s).astype(F)), -top - 1, top)
    return np.where(a <= TINY, F(0), (q / s).astype(F)).astype(F)


def e4m3_round(x):
    return torch.from_numpy(np.clip(x, -448, 448).astype(F)).to(torch.float8_e4m3fn).float().numpy()


def fp8_round(x, a):
    k = ((F(1) / np.where(a <= TINY, F(1), a)).astype(F) * F(448)).astype(F)
    return (e4m3_round((x * k).astype(F)) * (F(1) / k).astype(F)).astype(F)


E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], F)


def e2m1_round(a):
    """Magnitudes; a tie goes to the even code."""
    d = np.abs(a[..., None].astype(np.float64) - E2M1)
    best = d.min(-1, keepdims=True)
    codes = np.arange(8)
    tie = d == best
    even = np.where(tie & (codes % 2 == 0), codes, 99).min(-1)
    return E2M1[np.where(even < 99, even, d.argmin(-1))]


def nvfp4_round(x):
    out = np.empty_like(x)
    gs = F(F(np.abs(x).max()) / F(6 * 448))
    for at in range(0, x.shape[1], 16):
        b = x[:, at:at + 16]
        m = np.abs(b).max(1, keepdims=True)
        s = (e4m3_round(np.minimum((m / (F(6) * gs)).astype(F), F(448))) * gs).astype(F)
        s = np.where(s < 1e-5, F(1), s)
        q = e2m1_round(np.abs(b) / s)
        out[:, at:at + 16] = np.where(b >= 0, q, -q) * s
    return out


def blocks(x, n):
    return [x[:, i:i + n] for i in range(0, x.shape[1], n)]


def weight(x, name):
    a = np.abs(x)
    if name == "int8":
        return int_round(x, a.max(1, keepdims=True), 8)
    if name in ("int4", "int4g"):
        n = 4 if name == "int4" else 128
        return np.concatenate([int_round(b, np.abs(b).max(1, keepdims=True), 4) for b in blocks(x, n)], 1)
    if name == "fp8":
        return fp8_round(x, a.max())
    if name == "fp8c":
        return fp8_round(x, a.max(1, keepdims=True))
    return nvfp4_round(x)


def act(x, name, amax):
    a = np.abs(x).max(-1, keepdims=True) if "token" in name else F(amax)
    return int_round(x, a, 8) if name in ("token", "static") else fp8_round(x, a)


KINDS = [("q_proj", "k_proj", "v_proj", "qkv_proj"), ("o_proj",), ("gate_proj", "up_proj", "gate_up_proj"),
         ("down_proj",)]


def linears(model):
    for i, layer in enumerate(text_part(model).layers):
        for name, m in layer.named_modules():
            if isinstance(m, torch.nn.Linear):
                kind = next(k for k, names in enumerate(KINDS) if name.split(".")[-1] in names)
                yield i * 4 + kind, m


def logits(model, samples):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double() for ids in samples]


def ranges(model, samples):
    """Largest input of each group, unquantized."""
    found, hooks = {}, []
    for g, m in linears(model):
        def see(_m, args, g=g):
            found[g] = max(found.get(g, 0.0), args[0].abs().max().item())
        hooks.append(m.register_forward_pre_hook(see))
    logits(model, samples)
    for h in hooks:
        h.remove()
    return found


def quantized(model, cycle, treatments, amax):
    for g, m in linears(model):
        choice = cycle[g % len(cycle)]
        if choice == "NONE":
            continue
        w, a = treatments[choice]
        if w != "none":
            m.weight.data = torch.from_numpy(weight(m.weight.detach().float().numpy(), w)).double()
        if a != "none":
            def feed(_m, args, a=a, g=g):
                x = args[0].detach().float().numpy()
                return (torch.from_numpy(act(x, a, amax[g])).double(),)
            m.register_forward_pre_hook(feed)
    return model


def spread(values):
    """Of a list of samples' positions."""
    sums, n = np.array([v.sum() for v in values]), np.array([len(v) for v in values])
    flat, m = np.sort(np.concatenate(values)), len(values)
    r = sums.sum() / n.sum()
    se = math.sqrt(m / (m - 1) * ((sums - r * n) ** 2).sum()) / n.sum()
    rank = lambda p: float(flat[math.ceil(p * len(flat) / 100) - 1])
    return {"mean": float(r), "se": se, "p50": rank(50), "p99": rank(99), "max": float(flat[-1])}


def compare(z, zq, samples):
    kl, rkl, loss, loss_reference, same, first = [], [], [], [], [], 0.0
    for a, b, ids in zip(z, zq, samples):
        if len(ids) < 2:
            continue
        p, q = torch.log_softmax(a[:-1], -1), torch.log_softmax(b[:-1], -1)
        targets = torch.tensor(ids[1:])[:, None]
        kl.append((p.exp() * (p - q)).sum(-1).numpy())
        rkl.append((q.exp() * (q - p)).sum(-1).numpy())
        loss_reference.append(-p.gather(1, targets)[:, 0].numpy())
        loss.append(-q.gather(1, targets)[:, 0].numpy())
        same.append((p.argmax(-1) == q.argmax(-1)).numpy())
        first += float(kl[-1][0])
    mean = lambda v: float(np.concatenate(v).mean())
    return {"samples": len(kl), "positions": sum(map(len, kl)), "kl": spread(kl), "reverse_kl": spread(rkl),
            "top1": mean(same), "loss": mean(loss), "loss_reference": mean(loss_reference),
            "ppl": math.exp(mean(loss)), "ppl_reference": math.exp(mean(loss_reference)),
            "first_share": first / float(sum(v.sum() for v in kl))}


def open_model(directory):
    config = transformers.AutoConfig.from_pretrained(directory)
    cls = getattr(transformers, config.architectures[0])
    shard = sorted(f for f in os.listdir(directory) if f.startswith("model") and f.endswith(".safetensors"))[0]
    with safetensors.safe_open(os.path.join(directory, shard), "pt") as f:
        dtype = f.get_tensor(next(iter(f.keys()))).dtype
    kind = "eager" if "gemma" in config.model_type else "sdpa"
    return reference(cls.from_pretrained(directory, dtype=torch.float32, attn_implementation=kind), dtype)


def demo_samples():
    t = tokenizers.Tokenizer.from_file(os.path.join(ROOT, "models/qwen3_vl_demo/checkpoint/tokenizer.json"))
    with open(os.path.join(ROOT, "datasets/demo/captions_heldout.txt")) as f:
        return [t.encode(line.rstrip("\n")).ids for line in f][:32]


def tiny_samples(vocab, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n,), generator=g).tolist() for n in (9, 1, 14, 2, 7, 21, 5)]


def case(name, directory, samples, cycle, treatments):
    model = open_model(directory)
    z, amax = logits(model, samples), ranges(model, samples)
    zq = logits(quantized(open_model(directory), cycle, treatments, amax), samples)
    text = {k: [WEIGHTS.get(w, "none"), ACTS.get(a, "none")] for k, (w, a) in treatments.items()}
    return {"name": name, "model": os.path.relpath(directory, ROOT), "samples": samples, "cycle": cycle,
            "treatments": text, "acts": any(a != "none" for _, a in treatments.values()),
            "expected": compare(z, zq, samples)}


def main():
    torch.set_num_threads(1)
    demo, out = os.path.join(ROOT, "models/qwen3_vl_demo/checkpoint"), []
    out.append(case("demo", demo, demo_samples(), ["a", "b", "NONE", "c", "d"],
                    {"a": ("int8", "none"), "b": ("int4g", "none"), "c": ("fp8", "none"), "d": ("fp4", "none")}))
    out.append(case("demo-acts", demo, demo_samples(), ["a", "b", "c", "NONE", "d"],
                    {"a": ("int8", "token"), "b": ("fp8c", "ftoken"), "c": ("fp8", "ftensor"),
                     "d": ("int8", "static")}))
    for i, name in enumerate(["llama", "llama_bias", "qwen2", "mistral", "phi3", "granite", "olmo2", "gemma2",
                              "gemma3_text", "smollm3"]):
        directory = os.path.join(HERE, "families", name)
        out.append(case(name, directory, tiny_samples(61, i), ["a", "b", "c"],
                        {"a": ("int8", "none"), "b": ("int4", "none"), "c": ("fp8", "none")}))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    print('{"versions": %s, "cases": [' % json.dumps(versions))
    print(",\n".join(json.dumps(c, separators=(",", ":")) for c in out) + "\n]}")


if __name__ == "__main__":
    main()
