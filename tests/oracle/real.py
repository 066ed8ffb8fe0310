#!/usr/bin/env python3
"""Logits, losses, gradient scores and divergences of SmolLM2-135M in float64, for tests/real/run.

    make test-real                                  # makes build/real/smollm2 and build/real/captions-16.txt, then fails
    tests/oracle/real.py build/real                 # needs torch, transformers, tokenizers; a GPU if there is one; writes tests/oracle/real/
    tests/oracle/real.py build/real INPUTS.f32 GRADIENT KL     # and says why aq's numbers differ

Weights are quantized in float32, as is every scale; all other numbers are float64 (the code of an activation is that of the
float64 value). Per group of linears and treatment, over all rows of all captions:

    scores      sum over the outputs of ((Yq - Y) dL/dY)^2, L the summed cross entropy on the captions' own tokens
    kl          sum of KL(model || model with this group quantized)
    near        share of the activation's elements that a computation in float32 may round to another code
    score_ties, kl_ties    what those elements may change together, each by one code, as a share of the score and of the KL

An element is near a tie if its distance from one is within eight times the noise of its row: the root mean square of what
transformers itself differs by between float32 and float64. Few of them do take the other code, in either direction, so that what they
change together is the root of the sum of the squares of what each would change (to first order for the KL).

INPUTS.f32 is what aq's linears read (build/tests/logits LM TOKENS OUT INPUTS), GRADIENT and KL are the sweeps of tests/real/run. With
codes made from those inputs in float32, and everything else in float64 as before, the differences from aq must go away.
"""
import json
import os
import sys

import tokenizers
import torch
import transformers

GROUPS = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"],
          ["mlp.down_proj"]]
TREATMENTS = {"fp8": "wfp8_afp8/default", "int8_static": "wint8_aint8/default", "int8_token": "wint8_aint8/a_per_token_dynamic",
              "int4_g128": "wint4_afp16/default"}
PROMPT, GREEDY = "The capital of France is", 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# ---- quantizers: what a value becomes, and for activations the step to the neighbouring code and how far the tie is, in codes ----

def integer_scale(amax, bits):
    return torch.tensor(float(2 ** (bits - 1) - 1), device=amax.device) / amax.float()  # float32: most / amax is rounded once


def e4m3_scale(amax):
    return (torch.tensor(1.0, device=amax.device) / amax.float()) * 448  # float32: the reciprocal is rounded first


def integer_code(z, bits):
    most = 2 ** (bits - 1) - 1
    return torch.clamp(torch.round(z), -most - 1, most)


def e4m3_step(z):
    return torch.exp2(torch.clamp(torch.frexp(z)[1] - 1, min=-6, max=8).to(z.dtype) - 3)


def e4m3_code(z):
    z = torch.clamp(z, -448, 448)
    step = e4m3_step(z)
    return torch.round(z / step) * step


def quantize_weight(weight, treatment):
    """In float32: on the grids that weights come from, a product's rounding makes ties."""
    w = weight.float()
    if treatment == "fp8":
        scale = e4m3_scale(w.abs().max())
        return (e4m3_code(w * scale) * (1 / scale)).double()
    if treatment == "int4_g128":
        scales = [integer_scale(w[:, at:at + 128].abs().amax(dim=1, keepdim=True), 4) for at in range(0, w.shape[1], 128)]
        return torch.cat([integer_code(w[:, 128 * i:128 * i + 128] * s, 4) / s for i, s in enumerate(scales)], dim=1).double()
    scale = integer_scale(w.abs().amax(dim=1, keepdim=True), 8)
    return (integer_code(w * scale, 8) / scale).double()


class Codes:
    """Of one input under one treatment: x as its codes say, in x's precision."""

    def __init__(self, x, treatment, noise=None):
        amax = x.abs().max() if treatment in ("fp8", "int8_static") else x.abs().amax(dim=-1, keepdim=True)
        scale = e4m3_scale(amax) if treatment == "fp8" else integer_scale(amax, 8)
        z = x * scale.to(x.dtype)
        code = e4m3_code(z) if treatment == "fp8" else integer_code(z, 8)
        back = (1 / scale).to(x.dtype) if treatment == "fp8" else None
        self.value = (code * back if treatment == "fp8" else code / scale.to(x.dtype)).double()
        if noise is None:
            return
        step = e4m3_step(torch.clamp(z, -448, 448)) if treatment == "fp8" else torch.ones_like(z)
        tie = (torch.abs(z - code) - step / 2).abs()  # towards the neighbour on z's side
        top = torch.abs(z) >= (448 if treatment == "fp8" else 127)  # clamped, or at the end of the grid
        # noise of the element itself, and of the range that its scale came from
        far = 8 * noise * scale.to(x.dtype) + torch.abs(z) * 2.0 ** -20
        self.near = (tie < far) & ~top
        self.step = torch.where(self.near, step / scale.to(x.dtype), torch.zeros_like(z))


# ---- the model ----

class Model:
    def __init__(self, path, dtype):
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        self.model = model.to(dtype).to(DEVICE).eval().requires_grad_(False)
        self.layers = self.model.model.layers

    def linear(self, layer, name):
        return self.layers[layer].get_submodule(name)

    def logits(self, ids):
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids], device=DEVICE), use_cache=False).logits[0]

    def head(self, h):
        return self.model.lm_head(self.model.model.norm(h))


class Batch:
    """All captions at once, padded on the right, where causal attention lets no pad reach a token."""

    def __init__(self, samples):
        longest = max(len(s) for s in samples)
        self.ids = torch.tensor([s + [0] * (longest - len(s)) for s in samples], device=DEVICE)
        self.real = torch.tensor([[i < len(s) for i in range(longest)] for s in samples], device=DEVICE)

    def forward(self, model, each=None):
        """States before each layer and after the last; each(layer, group, input): what the linears read."""
        hooks = []
        for i in range(len(model.layers)):
            for g, members in enumerate(GROUPS):
                def see(_m, args, key=(i, g)):
                    if each:
                        each(*key, args[0][self.real])
                hooks.append(model.linear(i, members[0]).register_forward_pre_hook(see))
        h = [model.model.model.embed_tokens(self.ids)]
        for layer in model.layers:
            h.append(self.layer(model, layer, h[-1]))
        for hook in hooks:
            hook.remove()
        return h

    def layer(self, model, layer, h):
        if not hasattr(self, "rope"):
            self.rope = model.model.model.rotary_emb(h, torch.arange(h.shape[1], device=DEVICE)[None])
            n = h.shape[1]
            self.mask = torch.full((n, n), -1e30, dtype=h.dtype, device=DEVICE).triu(1)[None, None]
        rope = tuple(x.to(h.dtype) for x in self.rope)
        y = layer(h, position_embeddings=rope, attention_mask=self.mask.to(h.dtype))
        return y[0] if isinstance(y, tuple) else y


# ---- text ----

def pick(z):
    """Of a row of logits: the largest eight, and every 1024th."""
    ids = sorted(set(torch.topk(z, 8).indices.tolist()) | set(range(0, len(z), 1024)))
    return {"ids": ids, "values": [float(f"{z[i].item():.9g}") for i in ids], "largest": float(f"{z.abs().max().item():.9g}"),
            "best": int(z.argmax())}


def record_text(model, encode, captions):
    ids = encode(PROMPT)
    prompt = len(ids)
    for _ in range(GREEDY):
        ids = ids + [int(model.logits(ids)[-1].argmax())]
    texts = [ids] + [encode(c) for c in captions[:3]]
    return {"prompt": PROMPT, "prompt_tokens": prompt,
            "texts": [{"ids": t, "rows": [pick(z) for z in model.logits(t)]} for t in texts]}


# ---- scores and divergences ----

def find_gradients(model, samples, out):
    """{(layer, name): gradient of the loss at the linear's output, all captions' rows}."""
    seen, slopes, hooks = {}, {}, []
    for i in range(len(model.layers)):
        for name in sum(GROUPS, []):
            def keep(_m, args, y, key=(i, name)):
                y.retain_grad()
                seen[key] = y
            hooks.append(model.linear(i, name).register_forward_hook(keep))
    model.model.model.embed_tokens.weight.requires_grad_(True)  # so that there is a graph
    for ids in samples:
        z = model.model(input_ids=torch.tensor([ids], device=DEVICE), use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(z[:-1], torch.tensor(ids[1:], device=DEVICE), reduction="sum")
        model.model.zero_grad(set_to_none=True)
        loss.backward()
        out["loss"].append(loss.item())
        for key, y in seen.items():
            slopes.setdefault(key, []).append(y.grad[0])
    for hook in hooks:
        hook.remove()
    model.model.requires_grad_(False)
    return {key: torch.cat(g) for key, g in slopes.items()}


def score(model, layer, group, treatment, x, codes, slopes):
    """The score, and what the codes near ties could change in it."""
    total, pull, bend = 0.0, torch.zeros_like(x), torch.zeros_like(x)
    for name in GROUPS[group]:
        w, dy = model.linear(layer, name).weight, slopes[layer, name]
        q = quantize_weight(w, treatment)
        change = (codes.value if codes else x) @ q.T - x @ w.T
        total += ((change * dy) ** 2).sum().item()
        if codes and hasattr(codes, "step"):
            pull += 2 * (change * dy ** 2) @ q
            bend += dy ** 2 @ q ** 2
    if not codes or not hasattr(codes, "step"):
        return total, 0.0
    return total, (pull.abs() * codes.step + bend * codes.step ** 2).norm().item()


def divergence(model, batch, h, p, layer, group, treatment, codes, ties):
    """The KL of all rows, and what the codes near ties could change in it."""
    leaf = None
    if codes:
        leaf = torch.zeros(*batch.real.shape, codes.value.shape[1], dtype=torch.float64, device=DEVICE)
        leaf[batch.real] = codes.value
        leaf.requires_grad_(ties)
    hooks = []
    for name in GROUPS[group]:
        m = model.linear(layer, name)
        q = quantize_weight(m.weight, treatment)
        hooks.append(m.register_forward_hook(lambda _m, args, _y, q=q: (args[0] if leaf is None else leaf) @ q.T))
    with torch.set_grad_enabled(ties and leaf is not None):
        x = h[layer]
        for each in model.layers[layer:]:
            x = batch.layer(model, each, x)
            while hooks:
                hooks.pop().remove()
        q = torch.log_softmax(model.head(x[batch.real]), dim=-1)
        kl = (p.exp() * (p - q)).sum()
        if not ties or leaf is None:
            return kl.item(), 0.0
        kl.backward()
    return kl.item(), (leaf.grad[batch.real] * codes.step).norm().item()


def short(x):
    return float(f"{x:.9g}")


def record_groups(model, samples, noise, out, inputs=None):
    """inputs: {(layer, group): float32}: the codes are made of them instead."""
    slopes = find_gradients(model, samples, out)
    batch, x = Batch(samples), {}
    with torch.no_grad():
        h = batch.forward(model, lambda i, g, v: x.__setitem__((i, g), v))
        p = torch.log_softmax(model.head(h[-1][batch.real]), dim=-1)
    for t in TREATMENTS:
        rows = {k: [] for k in ("scores", "score_ties", "kl", "kl_ties", "near")}
        for i in range(len(model.layers)):
            for g in range(len(GROUPS)):
                codes = None
                if t != "int4_g128":
                    codes = Codes(inputs[i, g], t) if inputs else Codes(x[i, g], t, noise[i, g])
                s, s_ties = score(model, i, g, t, x[i, g], codes, slopes)
                kl, kl_ties = divergence(model, batch, h, p, i, g, t, codes, not inputs)
                rows["scores"].append(short(s))
                rows["kl"].append(short(kl))
                rows["score_ties"].append(float(f"{s_ties / s:.3g}"))
                rows["kl_ties"].append(float(f"{kl_ties / kl:.3g}"))
                rows["near"].append(float(f"{codes.near.double().mean().item():.3g}") if codes and not inputs else 0)
        for key, values in rows.items():
            out[key][t] = values
        print("groups under", t, file=sys.stderr)


def find_noise(model, path, samples):
    """{(layer, group): (rows, 1)}: how far float32 is from float64 in transformers, root mean square of a row."""
    batch, x, noise = Batch(samples), {}, {}
    with torch.no_grad():
        batch.forward(model, lambda i, g, v: x.__setitem__((i, g), v))
        single = Model(path, torch.float32)
        Batch(samples).forward(single, lambda i, g, v: noise.__setitem__(
            (i, g), ((v.double() - x[i, g]) ** 2).mean(dim=-1, keepdim=True).sqrt()))
    return noise


def new_vectors():
    return {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
            "device": DEVICE, "loss": [], "scores": {}, "score_ties": {}, "kl": {}, "kl_ties": {}, "near": {}}


# ---- why aq differs ----

def read_inputs(path, model, rows):
    data = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.float32)
    at, inputs = 0, {}
    for i in range(len(model.layers)):
        for g, members in enumerate(GROUPS):
            cols = model.linear(i, members[0]).weight.shape[1]
            inputs[i, g] = data[at:at + rows * cols].reshape(rows, cols).to(DEVICE)
            at += rows * cols
    assert at == len(data)
    return inputs


def explain(reference, same_codes, sweeps):
    for what, ties, sweep in (("scores", "score_ties", sweeps[0]), ("kl", "kl_ties", sweeps[1])):
        for t, cell in TREATMENTS.items():
            with open(os.path.join(sweep, cell, "small", "scores.json")) as f:
                found = torch.tensor([g["sum"] for g in json.load(f)["groups"]], dtype=torch.float64)
            far = [(found / torch.tensor(v[what][t]) - 1).abs() for v in (reference, same_codes)]
            tie = torch.tensor(reference[ties][t], dtype=torch.float64)
            print(f"{what} {t}: float64 median {far[0].median():.1e} largest {far[0].max():.1e}, {(far[0] > 1e-4).sum()} of {len(tie)} beyond "
                  f"1e-4, {(far[0] > 1e-4 + tie).sum()} beyond 1e-4 and their ties (median {tie.median():.1e}, largest {tie.max():.1e}; the part "
                  f"of them that is seen at most {((far[0] - 1e-4) / tie.clamp_min(1e-12)).max():.2f}); "
                  f"same codes median {far[1].median():.1e} largest {far[1].max():.1e}, {(far[1] > 1e-4).sum()} beyond 1e-4")
            for i in torch.nonzero(far[1] > 1e-4).flatten().tolist():
                print(f"  group {i}: {found[i]:.6g}, same codes {same_codes[what][t][i]:.6g}")


def main():
    work = sys.argv[1]
    path = os.path.join(work, "smollm2")
    with open(os.path.join(work, "captions-16.txt")) as f:
        captions = f.read().splitlines()
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text).ids
    samples = [encode(c) for c in captions]
    model = Model(path, torch.float64)
    out = dict(new_vectors(), ids=samples, text=record_text(model, encode, captions))
    record_groups(model, samples, find_noise(model, path, samples), out)
    here = os.environ.get("OUT", os.path.join(os.path.dirname(os.path.abspath(__file__)), "real"))
    os.makedirs(here, exist_ok=True)
    with open(os.path.join(here, "smollm2.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")
    if len(sys.argv) > 2:
        same = new_vectors()
        record_groups(model, samples, None, same, read_inputs(sys.argv[2], model, sum(map(len, samples))))
        explain(out, same, sys.argv[3:])


if __name__ == "__main__":
    main()
