#!/usr/bin/env python3
"""Unary scores of others, re-made on a checkpoint, and paired comparisons of recipes; for tests/real/rivals.

    rivals.py ids FILE.safetensors...               the samples' ids, a line each
    rivals.py scores CHECKPOINT LM.json TOKENS K    what two scores say NVFP4 (blocks of 16, one second level a group) and FP8 (a scale
                                                    a row) of each group cost, weights alone, in nats per token
    rivals.py pairs PART NAMES.json                 divergences of the operands, and the differences of arms paired by sample

April: 1/2 <H, dW^2>, H the sum over samples of the squared gradient of the sample's loss on its own labels (PrismaQuant's
sensitivity_probe.py and measure_quant_cost.py of April 2026). AURA: 1/2 mean over K probes of <gW, dW>^2, gW the gradient of the
whole text under labels drawn from the model (aura_cost.py). Both by group, both per token, in fp32.
"""
import json
import math
import struct
import sys

DTYPES = {"I32": "i", "I64": "q", "F32": "f", "F64": "d", "U8": "B"}


def tensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    meta = header.pop("__metadata__", {})
    out = {}
    for k, v in header.items():
        if v["dtype"] in DTYPES:
            a, b = v["data_offsets"]
            out[k] = memoryview(data)[a:b].cast(DTYPES[v["dtype"]])
    return out, meta


def samples_of(path):
    t, _ = tensors(path)
    ids, at = t["ids"], t["offsets"]
    return [list(ids[at[i]:at[i + 1]]) for i in range(len(at) - 1)]


# ---- scores ----

def nvfp4(torch, w, top):
    gs = top / 2688
    b = w.reshape(w.shape[0], -1, 16)
    s = (b.abs().amax(-1, keepdim=True) / (6 * gs)).clamp(max=448).to(torch.float8_e4m3fn).float() * gs
    s = torch.where(s < 1e-5, torch.ones_like(s), s)
    x = b.abs() / s
    code = sum((x > t).int() for t in (.25, 1.25, 2.5, 5)) + sum((x >= t).int() for t in (.75, 1.75, 3.5))
    table = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6], device=w.device)
    return (torch.sign(b) * table[code.long()] * s).reshape(w.shape)


def fp8(torch, w):
    k = 448 / w.abs().amax(1, keepdim=True)
    return (w * k).to(torch.float8_e4m3fn).float() / k


def batches(samples, tokens):
    """Samples of like length, so many tokens at a time."""
    out, now = [], []
    for s in sorted(samples, key=len):
        if now and (len(now) + 1) * len(s) > tokens:
            out.append(now)
            now = []
        now.append(s)
    return out + [now]


def run(torch, model, batch, labels):
    """Sum of the losses; labels: the text's own, or drawn from the model."""
    device = model.device
    n = max(map(len, batch))
    ids = torch.zeros(len(batch), n, dtype=torch.long, device=device)
    mask = torch.zeros(len(batch), n, dtype=torch.long, device=device)
    for i, s in enumerate(batch):
        ids[i, :len(s)] = torch.tensor(s, device=device)
        mask[i, :len(s)] = 1
    z = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    wanted = mask[:, 1:].bool()
    z = z[wanted]
    if labels == "own":
        target = ids[:, 1:][wanted]
    else:
        with torch.no_grad():
            target = torch.multinomial(torch.softmax(z, -1), 1, generator=labels)[:, 0]
    return torch.nn.functional.cross_entropy(z, target, reduction="sum")


def scores(checkpoint, lm, tokens, probes):
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).to(device).eval()
    with open(lm) as f:
        groups = json.load(f)["groups"]
    samples = [s for s in samples_of(tokens) if len(s) > 1]
    count = sum(len(s) - 1 for s in samples)
    modules = dict(model.named_modules())
    errors, weights = [], []
    for p in model.parameters():
        p.requires_grad_(False)
    for g in groups:
        ws = [modules[m].weight for m in g["modules"]]
        for w in ws:
            w.requires_grad_(True)
        with torch.no_grad():
            top = max(w.abs().max() for w in ws)
            errors.append([[nvfp4(torch, w, top) - w for w in ws], [fp8(torch, w) - w for w in ws]])
        weights.append(ws)
    # April: a sample at a time
    april = torch.zeros(len(groups), 2, dtype=torch.float64)
    squares = [[torch.zeros_like(w) for w in ws] for ws in weights]
    for s in samples:
        model.zero_grad(set_to_none=True)
        run(torch, model, [s], "own").backward()
        for sq, ws in zip(squares, weights):
            for h, w in zip(sq, ws):
                h.addcmul_(w.grad, w.grad)
    for i, (sq, e) in enumerate(zip(squares, errors)):
        for c in range(2):
            april[i, c] = sum((h.double() * d.double() ** 2).sum().item() for h, d in zip(sq, e[c])) / 2 / count
    del squares
    # AURA: a probe at a time
    aura = torch.zeros(len(groups), 2, dtype=torch.float64)
    draw = torch.Generator(device=device).manual_seed(1)
    for _ in range(probes):
        model.zero_grad(set_to_none=True)
        for b in batches(samples, 2048):
            run(torch, model, b, draw).backward()
        for i, (ws, e) in enumerate(zip(weights, errors)):
            for c in range(2):
                dot = sum((w.grad.double() * d.double()).sum().item() for w, d in zip(ws, e[c]))
                aura[i, c] += dot * dot / 2 / count / probes
    print(json.dumps({"positions": count, "samples": len(samples), "probes": probes, "torch": torch.__version__,
                      "transformers": transformers.__version__, "april": april.tolist(), "aura": aura.tolist()}))


# ---- comparisons ----

def ratio(sums, n):
    """Mean per position, and its error over samples."""
    m, total = len(n), sum(n)
    r = sum(sums) / total
    return r, math.sqrt(m / (m - 1) * sum((s - r * k) ** 2 for s, k in zip(sums, n))) / total


def pairs(part, names):
    """names: [[arm, budget], ...] in the order of the operands."""
    t, meta = tensors(part)
    with open(names) as f:
        names = json.load(f)
    domains = list(json.loads(meta["aq"])["done"])
    n, sums = [], [[] for _ in names]
    for d in domains:
        at = t[f"{d}/offsets"]
        keep = [i for i in range(len(at) - 1) if at[i + 1] > at[i]]
        n += [at[i + 1] - at[i] for i in keep]
        for k in range(len(names)):
            kl = t[f"{k + 1}/{d}/kl"]
            sums[k] += [sum(kl[at[i]:at[i + 1]]) for i in keep]
    by = {tuple(name): s for name, s in zip(names, sums)}
    out = {"positions": sum(n), "samples": len(n), "kl": [], "differences": []}
    for (arm, budget), s in by.items():
        out["kl"].append([arm, budget, *ratio(s, n)])
    arms = sorted({a for a, b in by if b and a != "aq"})
    for arm in arms:
        total = [0.0] * len(n)
        for budget in sorted({b for a, b in by if a == arm}):
            d = [x - y for x, y in zip(by["aq", budget], by[arm, budget])]
            out["differences"].append([arm, budget, *ratio(d, n)])
            total = [x + y for x, y in zip(total, d)]
        out["differences"].append([arm, "sum", *ratio(total, n)])
    print(json.dumps(out))


if __name__ == "__main__":
    what, args = sys.argv[1], sys.argv[2:]
    if what == "ids":
        for path in args:
            for s in samples_of(path):
                print(*s)
    elif what == "scores":
        scores(args[0], args[1], args[2], int(args[3]))
    else:
        pairs(*args)
