#!/usr/bin/env python3
"""Scores and costs of ModelOpt's AutoQuant of a mixture of experts, for tests/27-experts.bats.

    tests/oracle/moe_parity.py          # needs torch, transformers, modelopt; the tools are built

As parity.py drives it: one format and NONE, batches of 8 samples of equal length, mean cross entropy, float32, ranges by
'max'. The model is random, of eight experts with two active (MODEL below; the test makes it again). Under transformers 5
ModelOpt has a layer's experts as one module with one input range for all, and scores it at the output of the block with the
routes of the unquantized model; it measures routers as no group.

INT8 activations next to a rounding tie fall one way here and the other way there: parity.py says how much that can do to a
score. Here samples are few and the seed is one where no code differs.

Writes moe/parity.json: per format the scores of all groups, and the costs under the cost model active_moe.
"""

import json
import os
import random
import tempfile

import parity
import modelopt
import modelopt.torch.quantization as mtq
import torch
import transformers

MODEL = ["--kind", "qwen3_moe", "--layers", "2", "--head-dim", "32", "--heads", "4", "--kv-heads", "2", "--hidden", "128",
         "--intermediate", "256", "--vocab", "256", "--experts", "8", "--per-token", "2", "--moe-intermediate", "128",
         "--dtype", "f32", "--scale", "0.08"]
FORMATS = [("INT8_WEIGHT_ONLY_CFG", "default"), ("FP8_WEIGHT_ONLY_CFG", "default"),
           ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "default"), ("INT8_DEFAULT_CFG", "default"), ("FP8_DEFAULT_CFG", "default")]
SAMPLES, LENGTH = 16, 6


def drive(path, quant, batches, meta):
    model = parity.load(path, "cpu")
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": 8.0 if quant["bits"]["modelopt47"] < 8 else 12.0, "cost_model": "active_moe",
                     "cost": {"excluded_module_name_patterns": ["*lm_head*"]}},
        quantization_formats=[parity.config_of(quant)], data_loader=batches, forward_step=lambda m, b: m(**b),
        loss_func=parity.loss_of(meta["pad_id"]), disabled_layers=["*lm_head*", "*mlp.gate"],
        num_calib_steps=len(batches), num_score_steps=len(batches), method="gradient")
    scores, costs = {}, {}
    for name, stats in state["candidate_stats"].items():
        short = name.removeprefix("model.").removesuffix(".quant_recipe")
        if short.startswith("layers."):
            scores[short], costs[short] = float(stats["scores"][0]), float(stats["costs"][0])
    return scores, costs


def main():
    torch.set_num_threads(2)
    out = {"modelopt": modelopt.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
           "model": " ".join(MODEL), "ids": [], "formats": []}
    rng = random.Random(5)
    out["ids"] = [[rng.randrange(256) for _ in range(LENGTH)] for _ in range(SAMPLES)]
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "model")
        parity.subprocess.run([os.path.join(parity.GEN, "random_checkpoint"), *MODEL, path], check=True)
        ids = os.path.join(work, "ids")
        with open(ids, "w") as f:
            f.writelines(" ".join(map(str, s)) + "\n" for s in out["ids"])
        parity.make_tokens(os.path.join(work, "tokens"), ids, "none", LENGTH)
        meta, samples = parity.read_tokens(os.path.join(work, "tokens"))
        batches = parity.batches_of(samples, meta, "cpu")
        for name, granularity in FORMATS:
            quant = json.loads(parity.tool("aq-overlay", "--fp4-block", "16", "--own-scales", "--format", name,
                                           "--granularity", granularity))
            scores, costs = drive(path, quant, batches, meta)
            out["formats"].append({"format": name, "granularity": granularity, "scores": scores, "active_costs": costs})
            print(name, {k: "%.4e" % v for k, v in scores.items()}, flush=True)
    with open(os.path.join(parity.HERE, "moe", "parity.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


main()
