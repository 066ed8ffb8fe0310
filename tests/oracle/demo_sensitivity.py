#!/usr/bin/env python3
"""Is the demo model a model worth analysing? An independent check in PyTorch.

    demo_sensitivity.py [CHECKPOINT] [CAPTIONS] [HELDOUT]

1. transformers loads the checkpoint as Qwen3VLForConditionalGeneration and gives the losses of our own forward pass.
2. The gradient score of every linear, sum over tokens and outputs of (dL/dY)^2 (Yq - Y)^2 with L the summed token loss
   (no padding), is printed per group and layer for a few treatments, with the spread between groups and between layers.
"""
import os
import sys
import warnings

import torch

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "models", "qwen3_vl_demo"))
import model as demo  # noqa: E402

CHECKPOINT = os.path.join(ROOT, "models", "qwen3_vl_demo", "checkpoint")
CAPTIONS = os.path.join(ROOT, "datasets", "demo", "captions_medium.txt")
HELDOUT = os.path.join(ROOT, "datasets", "demo", "captions_heldout.txt")
GROUPS = {"qkv": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "gate_up": ("gate_proj", "up_proj"), "down": ("down_proj",)}


def integer(x, scale, bits):
    top = 2 ** (bits - 1) - 1
    return (x / scale).round().clamp(-top - 1, top) * scale


def int_rows(w, bits):
    return integer(w, w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1), bits)


def int_blocks(w, bits, block):
    return int_rows(w.reshape(-1, block), bits).view_as(w)


def e4m3(x):
    scale = x.abs().max() / 448
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


def same(x):
    return x


# name: weight, activation (per-tensor scale over all calibration rows)
TREATMENTS = {
    "fp8 weights": (e4m3, same),
    "int8 weights per row": (lambda w: int_rows(w, 8), same),
    "int4 weights per 128": (lambda w: int_blocks(w, 4, 128), same),
    "fp8 weights and activations": (e4m3, e4m3),
    "int8 weights and activations": (lambda w: int_rows(w, 8), lambda x: integer(x, x.abs().max() / 127, 8)),
}


def read(path, tokenizer):
    with open(path, encoding="utf-8") as f:
        return [torch.tensor([tokenizer.encode(line.rstrip("\n")).ids]) for line in f]


def trace(model, samples):
    """Inputs of every linear and gradients of its output, rows of all samples one below the other."""
    inputs, grads = {}, {}

    def hook(name):
        def forward(module, args, out):
            inputs.setdefault(name, []).append(args[0].detach()[0])
            out.register_hook(lambda g: grads.setdefault(name, []).append(g[0]))
        return forward

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    for ids in samples:
        total, _ = demo.loss_sum(model, ids, torch.tensor([ids.shape[1]]))
        total.backward()
        model.zero_grad()
    for h in handles:
        h.remove()
    return {n: (torch.cat(inputs[n]), torch.cat(grads[n])) for n in inputs}


def scores(model, traced):
    weights = {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    out = {}
    for treatment, (qw, qx) in TREATMENTS.items():
        for name, (x, g) in traced.items():
            w = weights[name]
            change = qx(x) @ qw(w).T - x @ w.T
            out[treatment, name] = float((g.double() * change.double()).square().sum())
    return out


def report(result, layers):
    for treatment in TREATMENTS:
        def group(layer, members):
            return sum(v for (t, n), v in result.items() if t == treatment and n.startswith("layers.%d." % layer) and n.endswith(members))

        table = [[group(i, m) for m in GROUPS.values()] for i in range(layers)]
        flat = sorted(v for row in table for v in row)
        whole = [sum(row) for row in table]
        print("\n%s: largest over smallest group %.1f, layer %.1f" % (treatment, flat[-1] / flat[0], max(whole) / min(whole)), end="")
        print(", within a kind: " + ", ".join("%s %.1f" % (k, max(c) / min(c)) for k, c in zip(GROUPS, zip(*table))))
        print("layer " + "".join("%12s" % k for k in GROUPS) + "         sum")
        for i, row in enumerate(table):
            print("%5d " % i + "".join("%12.3e" % v for v in row + [whole[i]]))


def outliers(traced):
    print("\nlargest input over its root mean square, and largest channel over the median channel (both by amax)")
    for name, (x, _) in traced.items():
        amax = x.abs().amax(0)
        if name.endswith(("q_proj", "o_proj", "gate_proj", "down_proj")):
            print("%-30s %8.1f %8.1f" % (name, amax.max() / x.square().mean().sqrt(), amax.max() / amax.median()))


def mean_loss(model, samples):
    pairs = [demo.loss_sum(model, ids, torch.tensor([ids.shape[1]])) for ids in samples]
    return float(sum(s.double() for s, _ in pairs) / sum(n for _, n in pairs))


@torch.no_grad()
def against_transformers(checkpoint, samples, ours):
    warnings.filterwarnings("ignore")
    import transformers
    transformers.logging.set_verbosity_error()
    theirs, info = transformers.Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    bad = {k: v for k, v in info.items() if v}
    assert not bad, "transformers: %s" % bad
    worst = max(float((theirs(input_ids=ids).logits - ours(ids)).abs().max()) for ids in samples[:64])
    a = mean_loss(lambda ids: theirs(input_ids=ids).logits, samples)
    b = mean_loss(ours, samples)
    print("transformers %s: held-out loss %.6f, ours %.6f; largest difference of a logit %.2e" % (transformers.__version__, a, b, worst))
    assert abs(a - b) < 1e-5 and worst < 1e-3


def main():
    checkpoint, captions, heldout = (sys.argv[1:] + [CHECKPOINT, CAPTIONS, HELDOUT][len(sys.argv) - 1:])[:3]
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(checkpoint, "tokenizer.json"))
    model = demo.load(checkpoint)
    samples = read(captions, tokenizer)
    print("torch %s; %d captions, %d tokens" % (torch.__version__, len(samples), sum(s.shape[1] for s in samples)))
    against_transformers(checkpoint, read(heldout, tokenizer), model)
    traced = trace(model, samples)
    report(scores(model, traced), demo.TEXT["num_hidden_layers"])
    outliers(traced)


if __name__ == "__main__":
    main()
