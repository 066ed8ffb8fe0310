#!/usr/bin/env python3
"""What others do to choose and to polish a recipe, re-made on a Llama-like checkpoint in torch; for tests/real/rivals.

    rivals.py ids FILE.safetensors...                   the samples' ids, a line each
    rivals.py scores CHECKPOINT LM.json TOKENS K        what two unary scores say that NVFP4 (blocks of 16, one second level a group) and
                                                        FP8 (a scale a row) cost each group, weights alone, in nats per token
    rivals.py blocks CHECKPOINT LM.json TOKENS SCORES.json,SCORES.json OUT [published]
                                                        divergences of single groups and of pairs within a block by four terms, as
                                                        'aq-eval singles' would write them
    rivals.py flips CHECKPOINT LM.json TOKENS SINGLES CREEP,... TRIALS OUT MANIFEST... [published]
                                                        their polish of these recipes: single flips, CREEP a share of the bits to spare;
                                                        to OUT-CREEP.json
    rivals.py alone SINGLES                             divergences of single groups, [group][candidate] in nats per position
    rivals.py menu FLIPS.json NUMBER                    the recipe of one of them as a menu of aq-select
    rivals.py errors CHECKPOINT LM.json TOKENS          squared errors of the outputs that INT4 (blocks of 128) and INT8 (a scale a row)
                                                        weights make, summed over each group and the text
    rivals.py compare PART...                           divergences of the operands, and differences of arms paired by sample

April: 1/2 <H, dW^2>, H the sum over samples of the squared gradient of the sample's loss on its own labels (PrismaQuant's
sensitivity_probe.py and measure_quant_cost.py of April 2026). AURA: 1/2 mean over K probes of <gW, dW>^2, gW the gradient of the
whole text under labels drawn from the model (aura_cost.py). Both by group, per token, in fp32. Pairs: KL(i and j) - KL(i) - KL(j)
(Block-CLADO). Flips: every single change of a group's format, in the order of what the single divergences promise, the first that
lowers the measured divergence by more than 1e-5 is taken (coord_descent_polish.py, steepest first). `published`: the first 128 tokens
of two samples, in bf16, the divergence at the last position alone: the defaults of the scripts that made the published figures.
"""
import hashlib
import json
import math
import struct
import sys

import numpy as np

DTYPES = {"I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8", "U8": "u1"}
FORMATS = 2  # NVFP4, FP8; unquantized is the third


def tensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    meta = header.pop("__metadata__", {})
    return {k: np.frombuffer(data[v["data_offsets"][0]:v["data_offsets"][1]], DTYPES[v["dtype"]]).reshape(v["shape"])
            for k, v in header.items() if v["dtype"] in DTYPES}, meta


def samples_of(path):
    t, _ = tensors(path)
    return [t["ids"][a:b].tolist() for a, b in zip(t["offsets"][:-1], t["offsets"][1:])]


def read_json(path):
    with open(path) as f:
        return json.load(f)


def batches(samples, tokens):
    """Numbers of samples of like length, up to `tokens` ids with their padding at a time."""
    out, now = [], []
    for i in sorted(range(len(samples)), key=lambda i: len(samples[i])):
        if now and (len(now) + 1) * len(samples[i]) > tokens:
            out.append(now)
            now = []
        now.append(i)
    return out + [now]


# ---- formats ----

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


def quantized(torch, ws):
    """Of a group's weights: [format][member]."""
    top = max(w.abs().max() for w in ws)
    return [[nvfp4(torch, w, top) for w in ws], [fp8(torch, w) for w in ws]]


def open_model(checkpoint, dtype):
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch, transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype(torch)).to(device).eval()


# ---- unary scores ----

def loss(torch, model, batch, labels):
    """Sum of the losses; labels: the text's own, or a generator that draws them from the model."""
    device = model.device
    n = max(map(len, batch))
    ids = torch.zeros(len(batch), n, dtype=torch.long, device=device)
    wanted = torch.zeros(len(batch), n - 1, dtype=torch.bool, device=device)
    for i, s in enumerate(batch):
        ids[i, :len(s)] = torch.tensor(s, device=device)
        wanted[i, :len(s) - 1] = True
    z = model(input_ids=ids, use_cache=False).logits[:, :-1].float()[wanted]  # padding comes last, and nothing looks at it
    if labels is None:
        target = ids[:, 1:][wanted]
    else:
        with torch.no_grad():
            target = torch.multinomial(torch.softmax(z, -1), 1, generator=labels)[:, 0]
    return torch.nn.functional.cross_entropy(z, target, reduction="sum")


def scores(checkpoint, lm, tokens, probes):
    torch, model = open_model(checkpoint, lambda t: t.float32)
    groups = read_json(lm)["groups"]
    samples = [s for s in samples_of(tokens) if len(s) > 1]
    count = sum(len(s) - 1 for s in samples)
    modules = dict(model.named_modules())
    weights, errors = [], []
    for p in model.parameters():
        p.requires_grad_(False)
    for g in groups:
        ws = [modules[m].weight for m in g["modules"]]
        with torch.no_grad():
            errors.append([[q - w for q, w in zip(qs, ws)] for qs in quantized(torch, ws)])
        for w in ws:
            w.requires_grad_(True)
        weights.append(ws)
    april = torch.zeros(len(groups), FORMATS, dtype=torch.float64)
    squares = [[torch.zeros_like(w) for w in ws] for ws in weights]
    for s in samples:  # a sample at a time
        model.zero_grad(set_to_none=True)
        loss(torch, model, [s], None).backward()
        for sq, ws in zip(squares, weights):
            for h, w in zip(sq, ws):
                h.addcmul_(w.grad, w.grad)
    for i, (sq, e) in enumerate(zip(squares, errors)):
        for c in range(FORMATS):
            april[i, c] = sum((h.double() * d.double() ** 2).sum().item() for h, d in zip(sq, e[c])) / 2 / count
    del squares
    aura = torch.zeros(len(groups), FORMATS, dtype=torch.float64)
    draw = torch.Generator(device=model.device).manual_seed(1)
    for _ in range(probes):  # the whole text at a time
        model.zero_grad(set_to_none=True)
        for b in batches(samples, 2048):
            loss(torch, model, [samples[i] for i in b], draw).backward()
        for i, (ws, e) in enumerate(zip(weights, errors)):
            for c in range(FORMATS):
                dot = sum((w.grad.double() * d.double()).sum().item() for w, d in zip(ws, e[c]))
                aura[i, c] += dot * dot / 2 / count / probes
    print(json.dumps({"positions": count, "samples": len(samples), "probes": probes, "torch": torch.__version__,
                      "april": april.tolist(), "aura": aura.tolist()}))


# ---- errors of outputs ----

def whole_numbers(torch, w, most, block):
    rest = -w.shape[1] % block  # the last block may be a short one
    b = torch.nn.functional.pad(w, (0, rest)).reshape(w.shape[0], -1, block)
    s = b.abs().amax(-1, keepdim=True) / most
    s = torch.where(s == 0, torch.ones_like(s), s)
    return ((b / s).round().clamp(-most - 1, most) * s).reshape(w.shape[0], -1)[:, :w.shape[1]]


def errors(checkpoint, lm, tokens):
    torch, model = open_model(checkpoint, lambda t: t.float32)
    groups, modules = read_json(lm)["groups"], dict(model.named_modules())
    sums = [[0.0, 0.0] for _ in groups]

    def hook(sum_of, away):
        def add(_, inputs):
            for c, d in enumerate(away):
                sum_of[c] += torch.nn.functional.linear(inputs[0][0, :-1], d).double().pow(2).sum().item()
        return add

    with torch.no_grad():
        for g, sum_of in zip(groups, sums):
            for name in g["modules"]:
                w = modules[name].weight
                away = [whole_numbers(torch, w, 7, 128) - w, whole_numbers(torch, w, 127, w.shape[1]) - w]
                modules[name].register_forward_pre_hook(hook(sum_of, away))
        for s in samples_of(tokens):
            if len(s) > 1:
                model(input_ids=torch.tensor([s], device=model.device), use_cache=False)
    print(json.dumps(sums))


# ---- measured divergences ----

class Measured:
    """The model layer by layer, with the inputs of all layers kept, so that a change is measured from its first layer on."""

    def __init__(self, checkpoint, lm, tokens, published):
        self.torch, model = open_model(checkpoint, lambda t: t.bfloat16 if published else t.float32)
        torch, self.inner, self.head = self.torch, model.model, model.lm_head
        self.layers = self.inner.layers
        self.groups = read_json(lm)["groups"]
        modules = dict(model.named_modules())
        self.members = [[modules[m] for m in g["modules"]] for g in self.groups]
        self.weights = []  # [group][format][member]; the last format is the model's own
        with torch.no_grad():
            for ms in self.members:
                own = [m.weight.data for m in ms]
                made = quantized(torch, [w.float() for w in own])
                self.weights.append([[q.to(own[0].dtype) for q in qs] for qs in made] + [own])
        self.layer_of = [g["layer"] for g in self.groups]
        samples = samples_of(tokens)
        if published:
            samples = [s[:128] for s in samples if len(s) >= 128][:2]
        self.samples = samples
        self.positions = [1 if published else len(s) - 1 for s in samples]
        self.text = []  # batches: ids, counted positions, their samples
        for numbers in batches(samples, 8192):
            n = max(len(samples[i]) for i in numbers)
            ids = torch.zeros(len(numbers), n, dtype=torch.long)
            counted = torch.zeros(len(numbers), n, dtype=torch.bool)
            for row, i in enumerate(numbers):
                ids[row, :len(samples[i])] = torch.tensor(samples[i])
                if published:
                    counted[row, len(samples[i]) - 1] = True
                else:
                    counted[row, :len(samples[i]) - 1] = True
            owner = torch.tensor(numbers)[:, None].expand(-1, n)[counted]
            self.text.append((ids.to(model.device), counted.to(model.device), owner.to(model.device)))
        self.kept = [[None] * (len(self.layers) + 1) for _ in self.text]
        self.choice = [FORMATS] * len(self.groups)
        with torch.no_grad():
            for b, (ids, _, _) in enumerate(self.text):
                self.kept[b][0] = self.inner.embed_tokens(ids)
            self.reference = [None] * len(self.text)
            self.run(0, keep=True)
            self.reference = [self.logs(b, self.kept[b][-1]) for b in range(len(self.text))]
            first = self.text[0]
            whole = model(input_ids=first[0], use_cache=False).logits[first[1]].float().log_softmax(-1)
            apart = (whole - self.reference[0]).abs().max().item()
            assert apart < (0.5 if published else 1e-2), f"layer by layer is not the model: {apart}"

    def logs(self, b, h):
        return self.head(self.inner.norm(h[self.text[b][1]])).float().log_softmax(-1)

    def set(self, group, option):
        for m, w in zip(self.members[group], self.weights[group][option]):
            m.weight.data = w

    def run(self, layer, keep=False):
        """The recipe's sums of divergences, by sample."""
        torch = self.torch
        sums = torch.zeros(len(self.samples), dtype=torch.float64, device=self.text[0][0].device)
        with torch.no_grad():
            for b, (ids, _, owner) in enumerate(self.text):
                h = self.kept[b][layer]
                place = torch.arange(ids.shape[1], device=ids.device)[None]
                rotary = self.inner.rotary_emb(h, position_ids=place)
                for l in range(layer, len(self.layers)):
                    h = self.layers[l](h, attention_mask=None, position_ids=place, position_embeddings=rotary, use_cache=False)
                    h = h[0] if isinstance(h, tuple) else h
                    if keep:
                        self.kept[b][l + 1] = h
                if self.reference[b] is not None:
                    p, q = self.reference[b], self.logs(b, h)
                    sums.index_add_(0, owner, (p.exp() * (p - q)).sum(-1, dtype=torch.float64))
        return sums

    def change(self, options, keep=False):
        """What {group: option} on top of the recipe costs; back again, unless it is kept."""
        for g, o in options.items():
            self.set(g, o)
        sums = self.run(min(self.layer_of[g] for g in options), keep)
        for g, o in options.items():
            if keep:
                self.choice[g] = o
            else:
                self.set(g, self.choice[g])
        return sums

    def move_to(self, choice):
        changed = {g: o for g, o in enumerate(choice) if o != self.choice[g]}
        return self.change(changed, keep=True) if changed else self.run(0, keep=True)


def blocks(checkpoint, lm, tokens, score_files, out, published):
    m = Measured(checkpoint, lm, tokens, published)
    k, n = len(m.groups), len(m.groups) * FORMATS
    count = sum(m.positions)
    alone = [[m.change({g: c}).cpu().numpy() for c in range(FORMATS)] for g in range(k)]
    cov, forwards = np.zeros((n, n)), n
    for a in range(k):
        for b in range(a + 1, k):
            if m.layer_of[a] != m.layer_of[b]:
                continue
            for c in range(FORMATS):
                for d in range(FORMATS):
                    both = m.change({a: c, b: d}).sum().item()
                    forwards += 1
                    i, j = a * FORMATS + c, b * FORMATS + d
                    cov[i, j] = cov[j, i] = (both - alone[a][c].sum() - alone[b][d].sum()) / count
    own = {f"{read_json(f)['candidate']['name']}": read_json(f)["candidate"]["treatment_id"] for f in score_files}
    parts = [("kl", np.array(alone), "F64"), ("positions", np.array(m.positions, np.int64), "I64"), ("cov", cov, "F64")]
    for layer in range(len(m.layers)):
        at = [g * FORMATS + c for g in range(k) if m.layer_of[g] == layer for c in range(FORMATS)]
        parts.append((f"pair/{layer}", cov[np.ix_(at, at)], "F64"))
    digest = hashlib.sha256()
    header, data = {}, b""
    for name, x, dtype in parts:
        raw = np.ascontiguousarray(x, DTYPES[dtype]).tobytes()
        digest.update(name.encode() + b"\0" + raw)
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    _, meta = tensors(tokens)
    header["__metadata__"] = {"aq": json.dumps({
        "schema": "aq.singles/1", "lm": read_json(lm)["digest"]["sample"], "tokens": json.loads(meta["aq"])["digest"],
        "dtype": "bf16" if published else "fp32", "backend": f"torch {m.torch.__version__}", "groups": [g["name"] for g in m.groups],
        "layers": m.layer_of, "candidates": [{"name": x, "treatment_id": i} for x, i in own.items()], "digest": digest.hexdigest()})}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    print(json.dumps({"forwards": forwards, "positions": count, "samples": len(m.samples)}))


BITS = [4.5, 8, 16]


def flips(m, singles, creep, trials, manifests):
    t, meta = tensors(singles)
    names = [c["name"] for c in json.loads(meta["aq"])["candidates"]]
    alone = np.concatenate([t["kl"].sum(-1) / t["positions"].sum(), np.zeros((len(m.groups), 1))], 1)
    sizes = [g["weights"] for g in m.groups]
    found = []
    for path in manifests:
        recipe = read_json(path)["selection"]["recipe"]
        start = [recipe[g["name"] + ".quant_recipe"]["candidate"] for g in m.groups]
        choice = [FORMATS if c == "NONE" else names.index(c) for c in start]
        cost = sum(BITS[o] * s for o, s in zip(choice, sizes))
        budget, count = cost * (1 + creep), sum(m.positions)
        now = before = m.move_to(choice).sum().item() / count
        done, accepted, better = 0, 0, True
        while better and done < trials:
            better = False
            moves = sorted((alone[g][o] - alone[g][choice[g]], g, o) for g in range(len(choice)) for o in range(FORMATS + 1)
                           if o != choice[g] and cost + (BITS[o] - BITS[choice[g]]) * sizes[g] <= budget)
            for _, g, o in moves:
                if done == trials:
                    break
                done += 1
                new = m.change({g: o}).sum().item() / count
                if new < now - 1e-5:
                    m.change({g: o}, keep=True)
                    cost += (BITS[o] - BITS[choice[g]]) * sizes[g]
                    choice[g], now, better = o, new, True
                    accepted += 1
                    break
        found.append({"manifest": path, "trials": done, "accepted": accepted, "before": before, "after": now,
                      "bits": cost / sum(sizes), "recipe": {g["members"][0]: (names + ["NONE"])[o] for g, o in zip(m.groups, choice)}})
    return found


# ---- comparisons ----

def ratio(sums, n):
    """Mean per position, and its error over samples."""
    m, total = len(n), n.sum()
    r = sums.sum() / total
    return r, math.sqrt(m / (m - 1) * ((sums - r * n) ** 2).sum()) / total


PAIRS = [["aq", "april"], ["aq", "aura"], ["aq", "random"], ["singles", "aq"], ["singles", "pairs-own"], ["sums", "pairs-own"],
         ["from-singles", "flips-own-0"], ["from-covered", "flips-own-0"], ["aq", "pairs-published"], ["aq", "pairs-own"], ["polish", "aq"],
         ["polish", "pairs-own"], ["polish", "flips-own-0"], ["polish", "flips-published-0"], ["aq-published", "flips-published-0.05"],
         ["aq-own", "flips-own-0.05"]]


def compare(*parts):
    """Parts of aq-eval over one text; beside each a file [[arm, budget], ...] in the order of its operands."""
    by, counts = {}, []
    for part in parts:
        t, meta = tensors(part)
        names = read_json(part + ".json")
        n, sums = [], [[] for _ in names]
        for d in json.loads(meta["aq"])["done"]:
            at = t[f"{d}/offsets"]
            keep = at[1:] > at[:-1]
            n.append((at[1:] - at[:-1])[keep])
            for k, s in enumerate(sums):
                s.append(np.add.reduceat(np.append(t[f"{k + 1}/{d}/kl"], 0), at[:-1])[keep])
        counts.append(np.concatenate(n).astype(float))
        by.update((tuple(name), np.concatenate(s)) for name, s in zip(names, sums))
    for budget in {b for arm, b in by if arm.startswith("random")}:
        by["random", budget] = np.mean([s for (arm, b), s in by.items() if arm.startswith("random") and b == budget], 0)
    n = counts[0]
    assert all(np.array_equal(n, c) for c in counts), "parts of different texts"
    out = {"positions": int(n.sum()), "samples": len(n), "kl": [[*name, *ratio(s, n)] for name, s in by.items()], "differences": []}
    for a, b in PAIRS:
        each = {budget: by[a, budget] - by[b, budget] for arm, budget in by if arm == a and (b, budget) in by}
        for budget, d in [*each.items(), ("sum", sum(each.values()))] if each else []:
            out["differences"].append([a, b, budget, *ratio(d, n)])
    print(json.dumps(out))


def main():
    what, args = sys.argv[1], sys.argv[2:]
    published = args[-1] == "published"
    args = args[:-1] if published else args
    if what == "ids":
        for path in args:
            for s in samples_of(path):
                print(*s)
    elif what == "scores":
        scores(args[0], args[1], args[2], int(args[3]))
    elif what == "errors":
        errors(*args)
    elif what == "blocks":
        blocks(args[0], args[1], args[2], args[3].split(","), args[4], published)
    elif what == "flips":
        m = Measured(args[0], args[1], args[2], published)
        for creep in args[4].split(","):
            found = flips(m, args[3], float(creep), int(args[5]), args[7:])
            with open(f"{args[6]}-{creep}.json", "w") as f:
                json.dump(found, f)
    elif what == "alone":
        t, _ = tensors(args[0])
        print(json.dumps((t["kl"].sum(-1) / t["positions"].sum()).tolist()))
    elif what == "menu":
        print(json.dumps([{"match": k, "pin": v} for k, v in read_json(args[0])[int(args[1])]["recipe"].items()]))
    elif what == "compare":
        compare(*args)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
