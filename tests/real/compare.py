#!/usr/bin/env python3
"""What aq made of a real model, against float64 and against what is known of it; prints TAP. Needs numpy alone.

    tests/real/compare.py VECTORS WORK IDLE GRADIENT KL MORE MORE-KL [COCO COCO-PADDED]      from GRADIENT on directories of sweeps
"""
import json
import os
import sys

import numpy

# treatments whose scores and divergences are known in float64: their cells, and how well both must agree in rank
CELLS = {"fp8": ("wfp8_afp8/default", .93), "int8_static": ("wint8_aint8/default", .98),
         "int8_token": ("wint8_aint8/a_per_token_dynamic", .98), "int4_g128": ("wint4_afp16/default", .96)}
# cell: with COCO captions the MLP's share of the score, without and with padding, and the ten most sensitive groups
FIGURES = {
    "wfp8_afp8/default": (.697, .9967, "11.down 29.down 2.down 9.down 1.qkv 29.gate_up 0.o 0.gate_up 28.gate_up 0.down"),
    "wint8_aint8/default": (.919, .9990, "29.down 28.down 11.down 2.down 9.down 1.down 29.gate_up 10.down 0.down 28.gate_up"),
    "wint8_aint8/a_per_token_dynamic": (.702, .9918, "28.gate_up 9.down 29.gate_up 2.down 1.down 11.down 29.down 1.qkv 3.qkv 0.down"),
    "wint4_afp16/default": (.753, .9956, "11.down 9.down 28.down 29.gate_up 29.down 2.down 0.gate_up 1.down 0.down 1.qkv"),
}
# the largest input of down_proj at a sample's first position over the largest elsewhere, COCO captions
RANGE_RATIOS = {11: 3378 / 19, 28: 2383 / 58, 29: 508 / 68, 9: 120 / 75, 2: 99 / 78}

failed = count = 0


def ok(good, what):
    global failed, count
    count += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {count} - {what}", flush=True)


def tensor(path, name, dtype):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        at = json.loads(f.read(n))[name]["data_offsets"]
        f.seek(8 + n + at[0])
        return numpy.frombuffer(f.read(at[1] - at[0]), dtype)


def samples(path):
    ids, offsets = tensor(path, "ids", "<i4"), tensor(path, "offsets", "<i8")
    return [ids[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:])]


def groups(sweep, cell):
    with open(os.path.join(sweep, cell, "small", "scores.json")) as f:
        return json.load(f)["groups"]


def sums(sweep, treatment):
    return numpy.array([g["sum"] for g in groups(sweep, CELLS[treatment][0])])


def ranks(x):
    return numpy.argsort(numpy.argsort(x))


def check_text(expected, work):
    text = expected["text"]
    ok(samples(os.path.join(work, "prompt.safetensors"))[0] == text["texts"][0]["ids"][:text["prompt_tokens"]], "ids of a prompt")
    rows = [r for t in text["texts"] for r in t["rows"]]
    z = numpy.fromfile(os.path.join(work, "logits.f32"), "<f4").reshape(len(rows), -1)
    worst = max(float(numpy.max(numpy.abs(z[i, r["ids"]] - r["values"]))) / r["largest"] for i, r in enumerate(rows))
    most = max(abs(float(numpy.max(numpy.abs(z[i]))) / r["largest"] - 1) for i, r in enumerate(rows))
    ok(worst < 1e-4, f"logits at {len(rows)} tokens against transformers' (farthest {worst:.1e} of the row's largest)")
    ok(most < 1e-4, f"no logit is larger than transformers' largest (off by {most:.1e})")
    # every token of the continuation is the most likely one after those before it: greedy decoding step by step
    ids, n = text["texts"][0]["ids"], text["prompt_tokens"]
    ok([int(numpy.argmax(z[i])) for i in range(n - 1, len(ids) - 1)] == ids[n:], f"greedy continuation of '{text['prompt']}'")
    with open(os.path.join(work, "smollm2", "tokenizer.json")) as f:
        words = {i: w for w, i in json.load(f)["model"]["vocab"].items()}
    found = words[int(numpy.argmax(z[n - 1]))].replace("\u0120", " ")
    ok(found == " Paris", f"'{text['prompt']}' goes on with '{found}'")


def check_scores(expected, gradient, kl):
    """Within 1e-4 of float64, and what ties may change in a group: an activation that is close to one may take another code in
    float32, which is no error. The vectors say how much all such elements change as a root of a sum of squares; twice that is
    allowed, which a first run chose: three of 480 divergences were beyond once of it. With codes made from aq's own inputs instead, tests/oracle/real.py found all scores within 8e-5 of float64 and all
    divergences within 1e-4, but four under INT8 per token (2e-4), which are 1e-5 nats a token."""
    ok(samples(os.path.join(gradient, "demo_captions", "tokens.safetensors")) == expected["ids"], "ids of the captions")
    for t in CELLS:
        for what, sweep, key, ties in (("scores", gradient, "scores", "score_ties"), ("divergences", kl, "kl", "kl_ties")):
            found, tie = sums(sweep, t), 2 * numpy.array(expected[ties][t])
            off = numpy.abs(found / numpy.array(expected[key][t]) - 1)
            ok(len(found) == 120 and numpy.all(off <= 1e-4 + tie),
               f"{t}: {what} of {len(found)} groups against float64: median {numpy.median(off):.1e}, {numpy.sum(off > 1e-4)} beyond 1e-4, "
               f"farthest {numpy.max(off):.1e}; ties may change {numpy.median(tie):.1e}, at most {numpy.max(tie):.1e}")


def check_ranks(sweeps):
    """sweeps: of scores and of divergences, for each treatment."""
    for t, (gradient, kl) in sweeps.items():
        s, k = sums(gradient, t), sums(kl, t)
        rho, least = float(numpy.corrcoef(ranks(s), ranks(k))[0, 1]), CELLS[t][1]
        ratio = float(numpy.exp(numpy.mean(numpy.log(k / s))))
        ok(rho >= least, f"{t}: Spearman of score and divergence {rho:.3f}, at least {least} (divergence / score {ratio:.2f})")


def check_reports(sweep):
    names = ["per-layer-sensitivity.md", "report.html", "heatmap.svg"]
    found = [n for c in FIGURES for n in names if os.path.getsize(os.path.join(sweep, c, "small", n)) > 1000]
    ok(len(found) == 12 and os.path.exists(os.path.join(sweep, "summary.html")), "reports of every cell, and the summary")


def check_figures(plain, padded):
    """Measured once by another program in torch in float32: shares to one in the last digit that was noted, ranks where
    neighbours differ by more than 2 %."""
    for t, (share, share_padded, top) in FIGURES.items():
        for sweep, what, noted, digits in ((plain, "", share, 3), (padded, ", padded", share_padded, 4)):
            g = groups(sweep, t)
            mlp = sum(x["sum"] for x in g if x["kind"] in ("gate_up", "down")) / sum(x["sum"] for x in g)
            ok(abs(mlp - noted) < 10 ** -digits, f"{t}{what}: the MLP has {100 * mlp:.2f} % of the score ({100 * noted:.2f} %)")
        score = {f"{g['layer']}.{g['kind']}": g["sum"] for g in groups(plain, t)}
        found = sorted(score, key=lambda name: -score[name])[:10]
        falls = all(score[a] > .98 * score[b] for a, b in zip(top.split(), top.split()[1:]))
        ok(falls and set(found) == set(top.split()), f"{t}: the ten most sensitive groups {' '.join(found)}")
    down = {g["layer"]: g["range_ratio"] for g in groups(plain, "wint8_aint8/default") if g["kind"] == "down"}
    for layer, ratio in RANGE_RATIOS.items():
        ok(abs(down[layer] / ratio - 1) < .03, f"layer {layer}: first position's range is {down[layer]:.1f} of the others' ({ratio:.1f})")


def check_export(work):
    with open(os.path.join(work, "export", "found")) as f:
        facts = [line.rstrip("\n").split("\t") for line in f]
    ok(len(facts) == 14, "every target of aq-export")
    for name, found, expected in facts:
        ok(found == expected, f"aq-export, {name}: {found}")


def main():
    with open(sys.argv[1]) as f:
        expected = json.load(f)
    work, idle, gradient, kl, more, more_kl = sys.argv[2:8]
    check_text(expected, work)
    check_scores(expected, gradient, kl)
    check_ranks({t: (more, more_kl) if t == "int4_g128" else (gradient, kl) for t in CELLS})
    check_reports(gradient)
    ok(idle == "1", "a second sweep has nothing to do")
    check_export(work)
    if len(sys.argv) > 8:
        check_figures(*sys.argv[8:10])
    print(f"1..{count}")
    print(f"{count - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
