#!/usr/bin/env python3
"""Scores and choices of ModelOpt's AutoQuant with AWQ and SmoothQuant candidates, for tests/42-parity.bats, on the CPU.

    tests/oracle/parity_calibrated.py [CASE...]      # tiny, equal: the models and ids of parity.py

As parity.py, in whose form the vectors are, but each format keeps its algorithm: AWQ's scales are found by ModelOpt over the first
quarter of the batches, SmoothQuant's over all, both for each linear by itself. Writes <case>-calibrated.json.
"""

import os
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")

import modelopt.torch.quantization as mtq
import parity
import torch

FORMATS = ["INT4_AWQ_CFG", "INT8_SMOOTHQUANT_CFG", "INT8_SMOOTHQUANT_HALF_CFG"]
plain_config = parity.config_of


def config_of(quant):
    return {**plain_config(quant), "algorithm": quant["algorithm"]}


def calibrated(path, quant, batches):
    """The model as a recipe of auto_quantize has it."""
    some = batches[: max(1, len(batches) // 4)] if "awq" in str(quant["algorithm"]) else batches
    return mtq.quantize(parity.load(path, "cpu"), config_of(quant), forward_loop=lambda m: [m(**b) for b in some])


def slack(path, model, seen, scores):
    """As parity.slack, where inputs are scaled."""
    change, noise = (dict.fromkeys(scores, 0.0) for _ in range(2))
    linear, plain = torch.nn.functional.linear, parity.linears_of(parity.load(path, "cpu"))
    with torch.no_grad():
        for name, module in parity.linears_of(model).items():
            weight, own, group = module.weight_quantizer(module.weight), plain[name].weight, parity.group_of(name)
            scale = module.input_quantizer.pre_quant_scale
            for batch in seen:
                x, g = batch[name]
                code, g2 = module.input_quantizer(x), g.square()
                d = linear(code, weight) - linear(x, own)
                exact = linear(code.double(), weight.double()) - linear(x.double(), own.double())
                noise[group] += (2 * g2 * d * (d - exact)).square().sum().item()
                near = parity.TIE * (x.abs() + x.square().mean(-1, keepdim=True).sqrt())
                step = module.input_quantizer(x + near) - module.input_quantizer(x - near)
                tied = (step.abs() > 10 * near * scale) & (g != 0).any(-1, keepdim=True)
                if not tied.any():
                    continue
                b, t, k = tied.nonzero(as_tuple=True)
                e = step[b, t, k, None] * weight[:, k].T
                both = (2 * g2[b, t] * d[b, t] * e).sum(1).abs() + (g2[b, t] * e.square()).sum(1)
                change[group] += both.sum().item()
    scale = {name: max(score, 1e-300) for name, score in scores.items()}
    return ([float(f"{change[n] / scale[n]:.1e}") for n in scores],
            [float(f"{noise[n] ** 0.5 / scale[n]:.1e}") for n in scores])


def run(case, path, tokens, out):
    meta, samples = parity.read_tokens(tokens)
    batches = parity.batches_of(samples, meta, "cpu")
    seen = parity.capture(parity.load(path, "cpu"), batches, meta["pad_id"])
    head = {**parity.versions("cpu"), "padding": meta["padding"], "seq_len": meta["seq_len"], "tie": parity.TIE,
            "kl_noise": parity.kl_noise(path, batches)}
    rows = {"gradient": [], "kl_div": [], "skipped": []}
    for name in FORMATS:
        quant = parity.json.loads(parity.tool("aq-overlay", "--format", name, "--granularity", "default"))
        for method in ("gradient", "kl_div"):
            bits, found = parity.drive(path, quant, batches, meta, method)
            head["groups"] = list(found)
            scores = {g: s for g, (s, _) in found.items()}
            if method == "gradient":
                ties, noise = slack(path, calibrated(path, quant, batches), seen, scores)
            row = {"format": name, "granularity": "default", "w": quant["treatment"]["w"], "a": quant["treatment"]["a"],
                   "noise": noise, "bits": bits, "scores": [float(f"{x:.9g}") for x in scores.values()],
                   "chosen": "".join(str(c) for _, c in found.values())}
            if any(ties) or quant["treatment"]["a"] != "none":
                row["ties"] = ties
            rows[method].append(row)
            print(case, method, name, sum(scores.values()), file=sys.stderr)
    with open(os.path.join(out, case + "-calibrated.json"), "w") as f:
        lists = [f'"{key}": [\n  ' + ",\n  ".join(map(parity.json.dumps, value)) + "]" for key, value in rows.items()]
        f.write(parity.json.dumps(head)[:-1] + ",\n " + ",\n ".join(lists) + "}\n")


def main():
    torch.set_num_threads(1)
    parity.algorithms._get_log_prob = lambda logits, lm_head=None: torch.log_softmax(logits.double(), dim=-1)
    parity.config_of = config_of
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([os.path.join(parity.GEN, "random_checkpoint"), *parity.TINY, tmp + "/tiny"], check=True)
        parity.make_tokens(tmp + "/tiny.tokens", parity.OUT + "/tiny.ids", "max_length", 40)
        parity.make_tokens(tmp + "/equal.tokens", parity.OUT + "/equal.ids", "none", 64)
        for case in sys.argv[1:] or ["tiny", "equal"]:
            run(case, tmp + "/tiny", f"{tmp}/{case}.tokens", parity.OUT)


main()
