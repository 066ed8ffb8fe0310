"""Selections of aq-select against GLPK's integer solver, on random problems and on request on files.

    python3 tests/oracle/select_glpk.py COUNT SEED     # needs aq-select and glpsol in PATH; numpy is not needed

Each problem is a pair of scores.json files; the model is written as a CPLEX LP and solved to optimality. The
scores are whole numbers, so that the optimum has one exact value.
"""
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

KINDS = [("self_attn.q_proj", ["q_proj", "k_proj", "v_proj"]), ("self_attn.o_proj", ["o_proj"]),
         ("mlp.gate_proj", ["gate_proj", "up_proj"]), ("mlp.down_proj", ["down_proj"])]


def cell(name, bits, groups, scores):
    pair = name.split("/")[0]
    members = lambda n, all_: [n.rsplit(".", 1)[0] + "." + m for m in all_]
    return {
        "schema": "aq.scores/2",
        "run": {"scheme": {"name": pair, "auto_quantize_bits": 8.0}, "model": {"id": "m"}, "dataset": {},
                "quantization": {"base_format_name": pair},
                "autoquant": {"effective_bits": 8.0, "normalization": "per_token", "cost": "storage"}},
        "identity": {"lm": "a", "tokens": "b", "method": "gradient", "prefix": 16, "score_samples": 16},
        "candidate": {"name": name, "treatment": {"w": "none", "a": "none"}, "num_bits": {"weight": 16, "activation": 16}, "treatment_id": name, "label": "CUSTOM_0",
                      "bits": {"modelopt40": bits, "modelopt47": bits, "storage": bits}},
        "weights": {"lm": sum(w for _, _, w in groups), "head": 0, "vision": 0},
        "groups": [{"name": n, "members": members(n, m), "weights": w, "sum": s, "per_token": s, "per_token_se": None,
                    "per_batch_mean": s, "per_batch_mean_se": None} for (n, m, w), s in zip(groups, scores)]}


def optimum(groups, bits, table, budget):
    """The least score that the budget can pay, by glpsol."""
    lines = ["Minimize", " s: " + " + ".join(f"{table[c][g]} x{g}_{c}" for g in range(len(groups)) for c in range(len(bits))),
             "Subject To"]
    for g in range(len(groups)):
        lines.append(f" g{g}: " + " + ".join(f"x{g}_{c}" for c in range(len(bits))) + " = 1")
    lines.append(" b: " + " + ".join(f"{groups[g][2] * bits[c]} x{g}_{c}" for g in range(len(groups))
                                     for c in range(len(bits))) + f" <= {budget}")
    lines += ["Binary"] + [f" x{g}_{c}" for g in range(len(groups)) for c in range(len(bits))] + ["End"]
    with tempfile.TemporaryDirectory() as d:
        lp, out = pathlib.Path(d, "p.lp"), pathlib.Path(d, "p.out")
        lp.write_text("\n".join(lines) + "\n")
        subprocess.run(["glpsol", "--lp", lp, "--mipgap", "0", "-o", out], check=True, stdout=subprocess.DEVNULL)
        text = out.read_text()
    if "INTEGER OPTIMAL" not in text:
        return None
    return float(re.search(r"Objective:\s+s = (\S+)", text).group(1))


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    for i in range(count):
        layers = rng.randint(1, 4)
        groups = [(f"layers.{l}.{k}", m, rng.randint(1, 400)) for l in range(layers) for k, m in KINDS]
        bits = sorted(rng.sample([2.125, 3.0, 4.0, 4.125, 4.5, 6.0, 8.0, 8.5], 3)) + [16.0]
        table = [[rng.randint(0, 1000) for _ in groups] for _ in bits[:-1]] + [[0] * len(groups)]
        target = round(rng.uniform(bits[0], 12), 2)
        total = sum(w for _, _, w in groups)
        with tempfile.TemporaryDirectory() as d:
            files = []
            for c in range(len(bits) - 1):
                files.append(pathlib.Path(d, f"{c}.json"))
                files[-1].write_text(json.dumps(cell(f"w{c}/default", bits[c], groups, table[c])))
            done = subprocess.run(["aq-select", "-q", "--unchecked", "--effective-bits", str(target), *files], check=True,
                                  stdout=subprocess.PIPE)
        state = json.loads(done.stdout)["autoquant_state"]
        best = optimum(groups, bits, table, total * target)
        assert state["is_satisfied"] == (best is not None), (i, state, best)
        if best is not None:
            assert state["constraints"]["effective_bits"] <= target, (i, state, target)
            assert state["score"] == best, (i, state, best)
    print(f"{count} selections are optimal")


main()
