#!/usr/bin/env python3
"""Losses and gradient scores of SmolLM2-135M in float64, for tests/real/run.

    make test-real                                  # once, for build/real; it fails for want of vectors
    tests/oracle/real.py build/real                 # needs torch and transformers; writes tests/oracle/real/

For each caption of build/real/tokens: the summed loss; for each group of linears and weight treatment the sum over its rows and
outputs of ((Yq - Y) dL/dY)^2, with weights quantized in float32 and everything else in float64.
"""
import json
import os
import sys

import safetensors.torch
import torch
import transformers

GROUPS = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"],
          ["mlp.down_proj"]]


def integer(w, bits, block):
    """Symmetric, one range for each row's block: code = clamp(rint(w * (max / amax))), value = code / scale."""
    most = 2 ** (bits - 1) - 1
    out = torch.empty_like(w)
    for at in range(0, w.shape[1], block):
        part = w[:, at:at + block]
        scale = torch.tensor(float(most)) / part.abs().amax(dim=1, keepdim=True)
        out[:, at:at + block] = torch.clamp(torch.round(part * scale), -most - 1, most) / scale
    return out


TREATMENTS = {"int8:axis0:static": lambda w: integer(w, 8, w.shape[1]), "int4:block(-1:128):static": lambda w: integer(w, 4, 128)}


def main():
    torch.set_num_threads(2)
    work = sys.argv[1]
    tokens = safetensors.torch.load_file(os.path.join(work, "tokens"))
    offsets = tokens["offsets"].tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(work, "smollm2"), dtype=torch.float32)
    layers = model.model.layers
    single = {(i, n): m.get_submodule(n).weight.detach().clone() for i, m in enumerate(layers) for n in sum(GROUPS, [])}
    model = model.double().eval().requires_grad_(False)
    model.model.embed_tokens.weight.requires_grad_(True)  # so that there is a graph
    seen, inputs, slopes = {}, {k: [] for k in single}, {k: [] for k in single}
    for i, name in single:
        def keep(_m, args, y, key=(i, name)):
            y.retain_grad()
            inputs[key].append(args[0].detach()[0])
            seen[key] = y
        layers[i].get_submodule(name).register_forward_hook(keep)
    losses = []
    for begin, end in zip(offsets[:-1], offsets[1:]):
        ids = tokens["ids"][begin:end].long()
        model.zero_grad(set_to_none=True)
        z = model(input_ids=ids[None], use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(z[:-1], ids[1:], reduction="sum")
        loss.backward()
        losses.append(loss.item())
        for key, y in seen.items():
            slopes[key].append(y.grad[0])
    scores = {t: torch.zeros(4 * len(layers), dtype=torch.float64) for t in TREATMENTS}
    for (i, name), w in single.items():
        x, dy = torch.cat(inputs[i, name]), torch.cat(slopes[i, name])
        group = next(g for g, names in enumerate(GROUPS) if name in names)
        for t, quantize in TREATMENTS.items():
            change = quantize(w).double() - w.double()
            scores[t][4 * i + group] += (((x @ change.T) * dy) ** 2).sum()
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "real")
    os.makedirs(here, exist_ok=True)
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "ids": tokens["ids"].tolist(), "offsets": offsets,
           "loss": losses, "scores": {t: s.tolist() for t, s in scores.items()}}
    with open(os.path.join(here, "smollm2.json"), "w") as f:
        json.dump(out, f)
        f.write("\n")


if __name__ == "__main__":
    main()
