#!/usr/bin/env python3
"""Scores of mixtures of experts by their definition, in float64, for tests/unit/test_experts.c.

    tests/oracle/moe.py [CASE...]      rewrites tests/oracle/moe/*.safetensors

A case is one of tests/oracle/families, which families.py made. For every mixture: the input n, where transformers' router sends each
token, its weights, and the gradient g at the output y. A treatment quantizes the input, each expert's gate and up as one
matrix, what is between gate and down, and down; the routing stays. The score of a sample is the sum over its tokens and the outputs
of (g (yq - y))^2. `half/0` and `half/1` are the scores where only gate with up and their input, or only down and its input, are
quantized (autoquant.moe_split).
"""
import importlib.util
import os
import sys

import safetensors.torch
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("families", os.path.join(HERE, "families.py"))
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)
F = torch.nn.functional
CASES = ["qwen3_moe", "qwen3_moe_plain", "mixtral", "olmoe"]
# weights, activations: as aq writes them
TREATMENTS = [("int8:axis0:static", "none"), ("int4:tensor:static", "none"), ("int8:axis0:static", "int8:token:dynamic"),
              ("int8:tensor:static", "int8:tensor:static")]


def integer(x, amax, bits):
    """Codes in float32, as ModelOpt finds them: half of a code is common among bf16 weights. What they stand for in float64."""
    top = 2 ** (bits - 1) - 1
    s = torch.tensor(float(top)) / torch.as_tensor(amax).float()  # a number / tensor would take the reciprocal first
    return (x.float() * s).round().clamp(-top - 1, top).double() / s.double()


def weight(w, text):
    bits = int(text[3])
    return integer(w, w.abs().amax(1, keepdim=True) if "axis0" in text else w.abs().max(), bits)


def activation(x, text, amax):
    if text == "none":
        return x
    return integer(x, x.abs().amax(1, keepdim=True) if "token" in text else amax, int(text[3]))


def expert_weights(mlp):
    return mlp.experts.gate_up_proj.detach(), mlp.experts.down_proj.detach()


def routes(mlp, n, text):
    """[tokens, K]: experts and weights."""
    p = F.softmax(n @ mlp.gate.weight.detach().t(), -1)
    top, sel = p.topk(text.num_experts_per_tok, -1)
    norm = getattr(text, "norm_topk_prob", True) if text.model_type != "mixtral" else True
    return sel, top / top.sum(-1, keepdim=True) if norm else top


def mixture(mlp, n, sel, w, wt, at, amax, halves=(0, 1)):
    """y; without wt, also the largest of what is between gate and down, in amax."""
    at = [at if h in halves else "none" for h in (0, 1)]
    y = torch.zeros_like(n)
    gate_up, down = expert_weights(mlp)
    for e in range(gate_up.shape[0]):
        rows, place = torch.where(sel == e)
        if not len(rows):
            continue
        gu = weight(gate_up[e], wt) if wt and 0 in halves else gate_up[e]
        d = weight(down[e], wt) if wt and 1 in halves else down[e]
        a, b = (activation(n[rows], at[0], amax[0]) @ gu.t()).chunk(2, -1)
        u = F.silu(a) * b
        if not wt:
            amax[1] = max(amax[1], u.abs().max().item())
        y[rows] += w[rows, place][:, None] * (activation(u, at[1], amax[1]) @ d.t())
    return y


def make(name):
    prefix, kind, values = families.CASES[name]
    dtype = families.TYPES[kind]
    directory = os.path.join(HERE, "families", name)
    model = families.build(prefix, values).float().eval()
    cls = type(model)
    model = cls.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    model = families.reference(model, dtype)
    expected = safetensors.torch.load_file(os.path.join(directory, "expected.safetensors"))
    ids, offsets = expected["ids"].long(), expected["offsets"].tolist()
    kept = {}
    for key, module in families.mixtures(model):
        def hook(_m, inputs, output, key=key):
            output = output[0] if isinstance(output, tuple) else output
            output.retain_grad()
            kept.setdefault(key, []).append((inputs[0].detach(), output))
        module.register_forward_hook(hook)
    for a, b in zip(offsets, offsets[1:]):
        z = model(input_ids=ids[a:b][None], use_cache=False).logits[0]
        target = torch.cat([ids[a + 1:b], torch.tensor([-100])])
        F.cross_entropy(z, target, ignore_index=-100, reduction="sum").backward()
    out, text = {}, model.config.get_text_config()
    for key, mlp in families.mixtures(model):
        layer = int(key.split(".")[1])
        n = torch.cat([i.reshape(-1, i.shape[-1]) for i, _ in kept[key]])
        y = torch.cat([o.reshape(-1, o.shape[-1]).detach() for _, o in kept[key]])
        g = torch.cat([o.grad.reshape(-1, o.shape[-1]) for _, o in kept[key]])
        amax = [n.abs().max().item(), 0.0]
        sel, w = routes(mlp, n, text)
        ours = mixture(mlp, n, sel, w, None, "none", amax)
        assert (ours - y).norm() < 1e-6 * y.norm(), (name, key)
        order = sel.sort(-1)
        out[f"sel/{layer}"] = order.values.to(torch.int32)
        out[f"w/{layer}"] = w.gather(1, order.indices).float()
        out[f"amax/{layer}"] = torch.tensor(amax)
        for k, (wt, at) in enumerate(TREATMENTS):
            for key, halves in (("score", (0, 1)), ("half/0", (0,)), ("half/1", (1,))):
                d = (g * (mixture(mlp, n, sel, w, wt, at, amax, halves) - y)) ** 2
                out[f"{key}/{k}/{layer}"] = torch.stack([d[a:b].sum() for a, b in zip(offsets, offsets[1:])])
    meta = {"torch": torch.__version__, "transformers": transformers.__version__, "case": name,
            "treatments": ";".join("|".join(t) for t in TREATMENTS)}
    os.makedirs(os.path.join(HERE, "moe"), exist_ok=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(HERE, "moe", name + ".safetensors"), metadata=meta)
    print(name, {k: v.tolist() for k, v in out.items() if k.startswith("score/0")})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        make(case)
