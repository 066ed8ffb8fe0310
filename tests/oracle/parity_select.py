#!/usr/bin/env python3
"""What ModelOpt's own solver chooses at several budgets, for tests/45-parity-select.bats.

ModelOpt hands its scores to CBC as they are. CBC takes differences below about 1e-7 for nothing, so where scores are
smaller (a mean over thousands of padded positions) it calls any affordable choice optimal: "as_is" records what
auto_quantize's solver then returns, "chosen" what the same solver returns for the same scores times 1e9.

Reads parity/long.json (scores by parity.py) and writes parity/select.json. Needs the tools built (O=build).
"""
import json
import os
import subprocess
import sys

import modelopt
import pulp
from modelopt.torch.opt.searcher import LPS

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(HERE, "parity")
SCALE = 1e9


def weights_of_groups():
    """Weights of each group of the demo model, named by its first module."""
    tool = os.path.join(ROOT, os.environ.get("O", "build"), "bin", "aq-extract-lm")
    lm = json.loads(subprocess.check_output([tool, os.path.join(ROOT, "models/qwen3_vl_demo/checkpoint")]))
    first = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
    groups = {}
    for tensor in lm["tensors"]:
        parts = tensor["name"].split(".")
        if "layers" in parts and parts[-2].endswith("_proj"):
            short = parts[parts.index("layers"):-1]
            short[-1] = first.get(short[-1], short[-1])
            rows, cols = tensor["shape"]
            key = ".".join(short)
            groups[key] = groups.get(key, 0) + rows * cols
    return groups


def solve(scores, costs, budget, scale):
    chosen, status = LPS(name="AutoQuantize", constraints={"bits": budget}, objective_type="minimize",
                         constraints_to_candidate_costs={"bits": costs},
                         candidate_scores=[[s * scale, 0] for s in scores])()
    assert status == "Optimal"
    return "".join("1" if c == 0 else "0" for c in chosen), sum(s for s, c in zip(scores, chosen) if c == 0)


def main():
    with open(os.path.join(OUT, "long.json")) as f:
        case = json.load(f)
    row, weights = case["gradient"][0], weights_of_groups()
    costs = [[weights[g] * 8 / 16, float(weights[g])] for g in case["groups"]]
    budgets = []
    for bits in (8.5, 9.5, 10.5, 11.6, 12.5, 13.5, 15):
        budget = sum(c[1] for c in costs) * bits / 16
        chosen, score = solve(row["scores"], costs, budget, SCALE)
        as_is, as_is_score = solve(row["scores"], costs, budget, 1)
        budgets.append({"bits": bits, "chosen": chosen, "score": score, "as_is": as_is, "as_is_score": as_is_score})
    with open(os.path.join(OUT, "select.json"), "w") as f:
        json.dump({"modelopt": modelopt.__version__, "pulp": pulp.__version__, "format": row["format"],
                   "granularity": row["granularity"], "groups": case["groups"], "budgets": budgets}, f, indent=1)
        f.write("\n")


sys.exit(main())
