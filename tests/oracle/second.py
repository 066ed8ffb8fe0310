#!/usr/bin/env python3
"""The two gradient scores and the first rows' part of the demo model in float64, for tests/49-second.bats.

    tests/oracle/second.py      # needs torch, transformers, tokenizers; writes tests/oracle/second/demo.json

transformers runs the checkpoint on the first captions of captions_small.txt, without padding and with one pad token in front (of
the pads of a padded caption only the last has a target, and no text sees any). With dY = (Yq - Y) for weights that are quantized in
float32 (NVFP4 with one second-level scale for the members of a group, and with one for each), g = dL/dY and L the sum of the targets' losses, it writes per treatment and group, over all captions

    [sum over tokens and outputs of (g dY)^2, sum over tokens of (sum over the outputs of all members of g dY)^2,
     the part of the first at the first row of each caption]

and how far torch is from that when it computes all of it in float32, outputs before and after the quantizer included: the largest
relative difference of the first two and of the third to the first, over all groups.
"""
import json
import os

import tokenizers
import torch
import transformers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CHECKPOINT = os.path.join(ROOT, "models", "qwen3_vl_demo", "checkpoint")
CAPTIONS = os.path.join(ROOT, "datasets", "demo", "captions_small.txt")
OUT = os.path.join(ROOT, "tests", "oracle", "second", "demo.json")
COUNT, PAD = 4, "<|endoftext|>"
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


def e4m3(x):
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def fp8_tensor(w):
    """One range for the matrix: k = (1 / amax) * 448, value = e4m3(w * k) * (1 / k)."""
    k = torch.tensor(1.0) / w.abs().amax() * 448
    return e4m3(w * k) * (1 / k)


def nvfp4(w, group):
    """Blocks of 16 whose scale is an e4m3 number under a second level, which all of `group` have in common."""
    level = max(m.abs().amax() for m in group) / 2688
    blocks = w.reshape(w.shape[0], -1, 16)
    scale = e4m3(torch.minimum(blocks.abs().amax(2, keepdim=True) / (6 * level), torch.tensor(448.0))) * level
    scale = torch.where(scale < 1e-5, torch.tensor(1.0), scale)
    values, edges = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6]), torch.tensor([.25, .75, 1.25, 1.75, 2.5, 3.5, 5])
    x = blocks / scale
    code = torch.searchsorted(edges, x.abs().contiguous())
    code = code + ((code < 7) & (x.abs() == edges[code.clamp(max=6)]) & (code % 2 == 1))  # ties to the even code
    return (torch.copysign(values[code], x) * scale).reshape(w.shape)


# of a weight and the weights of its group
TREATMENTS = {"int8:axis0:static": lambda w, group: integer(w, 8, w.shape[1]), "int4:block(-1:128):static": lambda w, group: integer(w, 4, 128),
              "e4m3:tensor:static": lambda w, group: fp8_tensor(w), "e2m1:nvfp4(16):dynamic@group": nvfp4,
              "e2m1:nvfp4(16):dynamic": lambda w, group: nvfp4(w, [w])}


def trace(model, ids, mask, targets):
    """Input of every linear and gradient of the loss at its output, each (rows, columns)."""
    seen, inputs, handles = {}, {}, []
    for i, layer in enumerate(model.model.language_model.layers):
        for name in sum(GROUPS, []):
            def keep(_module, args, y, key=(i, name)):
                y.retain_grad()
                inputs[key], seen[key] = args[0].detach()[0], y
            handles.append(layer.get_submodule(name).register_forward_hook(keep))
    logits = model(input_ids=ids[None], attention_mask=mask[None], use_cache=False).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    return {key: (inputs[key], y.grad[0]) for key, y in seen.items()}


def scores(model, tokenizer, samples, weights, quantized):
    """By padding and treatment: the three sums of each group, in the model's own precision; in float64 from the weights' differences,
    which are exact there, in float32 from the outputs' ones."""
    layers, dtype, out = len(model.model.language_model.layers), model.dtype, {}
    for padding in ("none", "max_length"):
        pads = torch.tensor([tokenizer.token_to_id(PAD)] if padding == "max_length" else [], dtype=torch.long)
        sums = {t: {f"layers.{i}.{g[0]}": [0.0, 0.0, 0.0] for i in range(layers) for g in GROUPS} for t in quantized}
        for text in samples:
            ids = torch.cat([pads, text])
            mask = torch.cat([torch.zeros_like(pads), torch.ones_like(text)])
            model.zero_grad(set_to_none=True)
            traced = trace(model, ids, mask, ids[1:])

            def error(key, changed):
                x = traced[key][0]
                if dtype == torch.float64:
                    return x @ (changed[key].double() - weights[key].double()).T
                return x @ changed[key].T - x @ weights[key].T
            for treatment, changed in quantized.items():
                for i in range(layers):
                    for group in GROUPS:
                        effect = torch.cat([traced[i, n][1] * error((i, n), changed) for n in group], dim=1).double()
                        to = sums[treatment][f"layers.{i}.{group[0]}"]
                        to[0] += effect.square().sum().item()
                        to[1] += effect.sum(dim=1).square().sum().item()
                        to[2] += effect[0].square().sum().item()
        out.update({(padding, t): s for t, s in sums.items()})
    return out


def main():
    torch.set_num_threads(2)
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(CHECKPOINT, "tokenizer.json"))
    with open(CAPTIONS, encoding="utf-8") as f:
        samples = [torch.tensor(tokenizer.encode(next(f).rstrip("\n")).ids) for _ in range(COUNT)]
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    layers = model.model.language_model.layers
    weights = {(i, n): m.get_submodule(n).weight.detach().clone() for i, m in enumerate(layers) for n in sum(GROUPS, [])}
    model = model.eval().requires_grad_(False)
    model.model.language_model.embed_tokens.weight.requires_grad_(True)  # so that there is a graph
    group = {n: g for g in GROUPS for n in g}
    quantized = {t: {(i, n): q(w, [weights[i, m] for m in group[n]]) for (i, n), w in weights.items()} for t, q in TREATMENTS.items()}
    single = scores(model, tokenizer, samples, weights, quantized)
    double = scores(model.double(), tokenizer, samples, weights, quantized)
    cases = []
    for (padding, treatment), groups in double.items():
        off = [max(abs(v[k] - w[k]) / (w[0] if k == 2 else w[k]) for v, w in zip(single[padding, treatment].values(), groups.values()))
               for k in range(3)]
        cases.append({"padding": padding, "treatment": treatment, "float32": [float(f"{x:.2g}") for x in off],
                      "groups": {k: [float(f"{x:.10g}") for x in v] for k, v in groups.items()}})
    with open(OUT, "w", encoding="utf-8") as f:
        head = {"made_by": "tests/oracle/second.py", "torch": torch.__version__, "transformers": transformers.__version__,
                "captions": COUNT}
        f.write(json.dumps(head)[:-1] + ', "cases": [' + ",".join("\n" + json.dumps(c).replace('], "', '],\n "') for c in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
