#!/usr/bin/env python3
"""Logits, losses and gradient scores of SmolLM2-135M in float64, for tests/real/run.

    make test-real                                  # makes build/real/smollm2 and build/real/captions.txt, then fails
    tests/oracle/real.py build/real                 # needs torch, transformers, tokenizers; writes tests/oracle/real/

Per group of linears: the sum over all rows and outputs of all captions of ((Yq - Y) dL/dY)^2, L the summed cross entropy on the
captions' own tokens. Weights are quantized in float32, on whose grids a product's rounding makes ties; all other numbers are float64.
"""
import json
import os
import sys

import tokenizers
import torch
import transformers

GROUPS = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"],
          ["mlp.down_proj"]]
TREATMENTS = ["int8_weight", "int4_g128"]
PROMPT, GREEDY = "The capital of France is", 8


def integer(w, bits):
    """One range for each row: code = clamp(rint(w * (most / amax))), value = code / scale."""
    most = 2 ** (bits - 1) - 1
    scale = torch.tensor(float(most)) / w.abs().amax(dim=1, keepdim=True)  # most / amax would round twice
    return torch.clamp(torch.round(w * scale), -most - 1, most) / scale


def quantize(weight, treatment):
    w = weight.float()
    if treatment == "int8_weight":
        return integer(w, 8).double()
    return torch.cat([integer(w[:, at:at + 128], 4) for at in range(0, w.shape[1], 128)], dim=1).double()


class Model:
    def __init__(self, path):
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.model = model.double().eval().requires_grad_(False)
        self.layers = self.model.model.layers

    def linear(self, layer, name):
        return self.layers[layer].get_submodule(name)

    def logits(self, ids):
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


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


def record_scores(model, samples, out):
    names = [(i, n) for i in range(len(model.layers)) for n in sum(GROUPS, [])]
    seen, inputs, slopes = {}, {k: [] for k in names}, {k: [] for k in names}
    hooks = []
    for key in names:
        def keep(_m, args, y, key=key):
            y.retain_grad()
            inputs[key].append(args[0].detach()[0])
            seen[key] = y
        hooks.append(model.linear(*key).register_forward_hook(keep))
    model.model.model.embed_tokens.weight.requires_grad_(True)  # so that there is a graph
    for ids in samples:
        z = model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(z[:-1], torch.tensor(ids[1:]), reduction="sum")
        model.model.zero_grad(set_to_none=True)
        loss.backward()
        out["loss"].append(loss.item())
        for key, y in seen.items():
            slopes[key].append(y.grad[0])
    for h in hooks:
        h.remove()
    model.model.requires_grad_(False)
    scores = {t: torch.zeros(4 * len(model.layers), dtype=torch.float64) for t in TREATMENTS}
    for i, name in names:
        x, dy, w = torch.cat(inputs[i, name]), torch.cat(slopes[i, name]), model.linear(i, name).weight
        group = next(g for g, members in enumerate(GROUPS) if name in members)
        for t in TREATMENTS:
            change = x @ (quantize(w, t) - w).T
            scores[t][4 * i + group] += ((change * dy) ** 2).sum()
    out["scores"] = {t: s.tolist() for t, s in scores.items()}


def main():
    torch.set_num_threads(2)
    work = sys.argv[1]
    with open(os.path.join(work, "captions.txt")) as f:
        captions = f.read().splitlines()
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(work, "smollm2", "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text).ids
    samples = [encode(c) for c in captions]
    model = Model(os.path.join(work, "smollm2"))
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
           "ids": samples, "text": record_text(model, encode, captions), "loss": [], "scores": {}}
    record_scores(model, samples, out)
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "real")
    os.makedirs(here, exist_ok=True)
    with open(os.path.join(here, "smollm2.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
