#!/usr/bin/env python3
"""What left padding does to the scores of the demo model: the tables of docs/padding.md.

    AQ_BIN=build/bin AQ_GEN=build/tests tests/oracle/padding.py [SIZE [PAGE]]

SIZE is small, medium (default) or large. Rewrites what lies between the markers of PAGE (docs/padding.md). Needs
nothing but aq and Python. The arithmetic is that of autoquant=gradient_default in fp32.

The last pad position sees no text, and no text sees it. Its gradient comes from one target alone, the first token, and
that target has a gradient nowhere else. So its part of a score is the score of a data set whose samples are cut
to their first token: one target each, predicted from a pad position. Activation ranges have to be those of the whole
captions; the set is therefore the first tokens, then the captions, which give the ranges and are scored as well.
What is left when that part is subtracted is the score with the first target masked.

Checked at every run: ranges of that set are those of the padded captions; without activation quantizers, captions score
the same in both, and the rest equals the score without padding; attention gets nothing from a pad position.

All is done twice: with the model's pad token, which the demo model was trained to see before a caption, and with one
that it never saw.
"""

import json
import math
import os
import platform
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BIN = os.environ.get("AQ_BIN", os.path.join(ROOT, "build", "bin"))
GEN = os.environ.get("AQ_GEN", os.path.join(ROOT, "build", "tests"))
os.environ.setdefault("AQ_CONF", os.path.join(ROOT, "conf"))
DEMO = os.path.join(ROOT, "models", "qwen3_vl_demo", "checkpoint")
PAGE = os.path.join(ROOT, "docs", "padding.md")
BEGIN, END = "<!-- made by tests/oracle/padding.py -->", "<!-- end -->"
CELLS = [("wfp8_afp16", "default"), ("wint8_afp16", "default"), ("wint8_aint8", "default"),
         ("wint8_aint8", "a_per_token_dynamic"), ("wint4_aint8", "default")]
NAMES = [pair if granularity == "default" else f"{pair}/{granularity}" for pair, granularity in CELLS]
DETAILED = ["wint8_aint8", "wint4_aint8"]  # get a table of all groups
UNSEEN = "<|fim_pad|>"
KINDS = ["q/k/v", "o", "gate/up", "down"]  # of groups, and of the inputs that have ranges
ATTENTION, MLP = (0, 1), (2, 3)
SEQ_LEN, BATCH = 512, 8
TOLERANCE = 1e-4


def tool(name, *args, where=BIN, **more):
    return subprocess.run([os.path.join(where, name), *map(str, args)], check=True, capture_output=True, text=True,
                          **more).stdout


# ---- products of aq ----


def read_tensors(path):
    """Name to (shape, flat values) of a safetensors file, and its metadata."""
    codes = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "U8": "B", "U64": "Q"}
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        head, data = json.loads(f.read(size)), f.read()
    meta = json.loads(head.pop("__metadata__")["aq"])
    out = {}
    for name, t in head.items():
        begin, end = t["data_offsets"]
        out[name] = t["shape"], [v for v, in struct.iter_unpack("<" + codes[t["dtype"]], data[begin:end])]
    return out, meta


def read_samples(path):
    tensors, meta = read_tensors(path)
    ids, offsets = tensors["ids"][1], tensors["offsets"][1]
    return [ids[a:b] for a, b in zip(offsets, offsets[1:])], meta


def make_tokens(path, samples, padding, pad_id):
    text = "".join(" ".join(map(str, s)) + "\n" for s in samples)
    tool("make_tokens", "--padding", padding, "--seq-len", SEQ_LEN, "--pad-id", pad_id, "-o", path, where=GEN,
         input=text)


class Scored:
    """Sums per cell, group and sample of one data set, before any normalisation."""

    def __init__(self, tmp, name, samples, padding, pad_id, quants):
        path = os.path.join(tmp, name)
        make_tokens(path + ".tokens", samples, padding, pad_id)
        common = ["--lm", os.path.join(tmp, "lm.json"), "--prefix", len(samples), "--device", "cpu"]
        tool("aq-calib", "ranges", *common, "--dtype", "fp32", "--plain-products", "-o", path + ".ranges", path + ".tokens")
        tool("aq-score", *common, "--tokens", path + ".tokens", "--ranges", path + ".ranges", "--score-samples",
             len(samples), "--dtype", "fp32", "--plain-products", "-o", path + ".store", *quants)
        tensors, self.meta = read_tensors(path + ".store")
        self.ranges, _ = read_tensors(path + ".ranges")
        self.labels = tensors["labels"][1]
        self.cells = []
        for quant in quants:
            with open(quant, encoding="utf-8") as f:
                key = "s/" + json.load(f)["treatment_id"] + "/"
            (groups, count), sums = next(v for k, v in tensors.items() if k.startswith(key))
            self.cells.append([sums[g * count:(g + 1) * count] for g in range(groups)])

    def largest(self):
        """The largest magnitude at each input of linears."""
        n, first, rest = len(self.labels), self.ranges["first"][1], self.ranges["rest"][1]
        text = [max(first[at:at + n] + rest[at:at + n]) for at in range(0, len(first), n)]
        return [max(t, p) for t, p in zip(text, self.ranges["pad"][1])] if "pad" in self.ranges else text


# ---- measuring ----


class Cell:
    """Scores of all groups of one cell, as sums over its captions."""

    def __init__(self, padded, first, none, labels):
        self.padded, self.first, self.none = ([sum(g) for g in rows] for rows in (padded, first, none))
        self.masked = [p - f for p, f in zip(self.padded, self.first)]
        self.batch_share = batch_means(first, labels) / batch_means(padded, labels)


def batch_means(groups, labels):
    """ModelOpt's scale: each batch is divided by the square of its number of targets."""
    spans = [slice(at, at + BATCH) for at in range(0, len(labels), BATCH)]
    return sum(sum(g[span]) / sum(labels[span]) ** 2 for g in groups for span in spans)


def check_near(a, b, what):
    worst = max(abs(x - y) / max(abs(x), abs(y), 1e-300) for x, y in zip(a, b))
    if worst > TOLERANCE:
        sys.exit(f"{what}: {worst:.1e} apart")


def measure(tmp, samples, pad_id, none, quants):
    """The cells with one pad token, and the padded data set."""
    n = len(samples)
    padded = Scored(tmp, f"padded-{pad_id}", samples, "max_length", pad_id, quants)
    both = Scored(tmp, f"both-{pad_id}", [s[:1] for s in samples] + samples, "max_length", pad_id, quants)
    if both.labels != [1] * n + padded.labels or padded.labels != [x + 1 for x in none.labels]:
        sys.exit("targets are not those that were expected: is the pad token part of a caption?")
    check_near(padded.largest(), both.largest(), "ranges of captions beside first tokens")
    cells = []
    for i, (name, p, b) in enumerate(zip(NAMES, padded.cells, both.cells)):
        cell = Cell(p, [g[:n] for g in b], none.cells[i], padded.labels)
        if CELLS[i][0].endswith("afp16"):  # others have rounding ties
            check_near(cell.padded, [sum(g[n:]) for g in b], f"{name}: captions beside first tokens")
            check_near(cell.masked, cell.none, f"{name}: first target masked against no padding")
        if part(cell.first, ATTENTION):
            sys.exit(f"{name}: attention scores at a pad position")
        cells.append(cell)
    return cells, padded


# ---- comparing ----


def part(scores, kinds):
    return sum(s for g, s in enumerate(scores) if g % len(KINDS) in kinds)


def ranks(scores):
    """1 is the most sensitive group; equal scores share the mean of their places."""
    return [1 + sum(t > s for t in scores) + (sum(t == s for t in scores) - 1) / 2 for s in scores]


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    over = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    return over / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


# ---- the page ----


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def percent(share):
    return f"{100 * share:.1f} %" if share else "0"


def shares_table(cells):
    rows = []
    for name, c in zip(NAMES, cells):
        kinds = [percent(part(c.first, (k,)) / part(c.padded, (k,))) for k in range(len(KINDS))]
        rows.append([name, *kinds, percent(sum(c.first) / sum(c.padded)), percent(c.batch_share),
                     *(percent(part(s, MLP) / sum(s)) for s in (c.padded, c.masked, c.none))])
    return table(["cell", *KINDS, "all groups", "all, per_batch_mean", "MLP of all: padded", "masked", "none"], rows)


def ranks_table(cells):
    rows = []
    for name, c in zip(NAMES, cells):
        moved = [abs(a - b) for a, b in zip(ranks(c.padded), ranks(c.none))]
        pairs = [(c.padded, c.none), (c.padded, c.masked), (c.masked, c.none)]
        spans = [[a / b for a, b in zip(scores, c.none)] for scores in (c.padded, c.masked)]
        rows.append([name, *(f"{spearman(a, b):.3f}" for a, b in pairs),
                     f"{sum(m > 0 for m in moved)} of {len(moved)}", f"{max(moved):.0f}",
                     *(f"{min(s):.3f} to {max(s):.3f}" for s in spans)])
    return table(["cell", "Spearman padded, none", "padded, masked", "masked, none", "groups that move",
                  "by at most", "padded / none", "masked / none"], rows)


def groups_table(c):
    rows, places = [], [ranks(s) for s in (c.padded, c.masked, c.none)]
    for g, none in enumerate(c.none):
        rows.append([f"{g // len(KINDS)} {KINDS[g % len(KINDS)]}",
                     *(f"{s[g]:.4g}" for s in (c.padded, c.masked, c.none)), percent(c.first[g] / c.padded[g]),
                     f"{c.padded[g] / none:.3f}", f"{c.masked[g] / none:.3f}", *(f"{p[g]:.0f}" for p in places)])
    return table(["group", "padded", "masked", "none", "pad position", "padded / none", "masked / none",
                  "rank: padded", "masked", "none"], rows)


def ranges_table(padded, none):
    """Inputs of linears where a pad row is larger than all text, by pad token."""
    rows = []
    for token, data in padded.items():
        shown = "`" + token.replace("|", "\\|") + "`"  # a bar ends a cell, in code too
        for i, (pad, text) in enumerate(zip(data.ranges["pad"][1], none.largest())):
            if pad > text:
                rows.append([shown, f"{i // len(KINDS)} {KINDS[i % len(KINDS)]}", f"{pad:.4g}", f"{text:.4g}",
                             f"{pad / text:.3f}"])
    return table(["pad token", "input", "pad row", "text", "ratio"], rows)


def page(size, samples, padded, none):
    """padded: pad token to its cells and data set, the model's own first."""
    n, text = len(samples), sum(map(len, samples))
    rows = n * SEQ_LEN
    version = tool("aq-score", "--version").splitlines()[0]
    out = [f"Demo model, {n} captions (`{size}`), {text} tokens. Padded to {SEQ_LEN},\n"
           f"{percent((rows - text) / rows)} of all positions are padding, and {n} of {text} targets "
           f"({percent(n / text)}) are first tokens.\n\n"
           f"Made with {version}, backend {none.meta['identity']['backend']} (its plain fp32 products), Python "
           f"{platform.python_version()}.\n"]
    for token, (cells, _) in padded.items():
        out += [f"### Padded with `{token}`\n", "Share of the pad position in the padded score, by kind of group:\n",
                shares_table(cells), "Ranks, and ratios of scores over all groups:\n", ranks_table(cells)]
    out += ["### Inputs where a pad row exceeds all text\n",
            ranges_table({t: d for t, (_, d) in padded.items()}, none)]
    for token, (cells, _) in padded.items():
        for name in DETAILED:
            out += [f"### All groups of {name}, padded with `{token}`\n", groups_table(cells[NAMES.index(name)])]
    return "\n".join(out)


def rewrite(path, text):
    with open(path, encoding="utf-8") as f:
        before, rest = f.read().split(BEGIN)
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


def quants_of(tmp):
    out = []
    for i, (pair, granularity) in enumerate(CELLS):
        run = json.loads(tool("aq-resolve", "--config-name", "preset/demo", "quant_pair=" + pair, cwd=ROOT))
        out.append(os.path.join(tmp, f"{i}.json"))
        tool("aq-overlay", "--format", run["quant_pair"]["format_name"], "--granularity", granularity, "-o", out[-1])
    return out


def pad_tokens(pad_id):
    """Text to id: the model's pad token and one that it was never trained on."""
    with open(os.path.join(DEMO, "tokenizer.json"), encoding="utf-8") as f:
        ids = {t["content"]: t["id"] for t in json.load(f)["added_tokens"]}
    own, = (text for text, i in ids.items() if i == pad_id)
    return {own: pad_id, UNSEEN: ids[UNSEEN]}


def main():
    size, path = (sys.argv[1:] + ["medium", PAGE][len(sys.argv) - 1:])[:2]
    with tempfile.TemporaryDirectory() as tmp:
        quants, ids = quants_of(tmp), os.path.join(tmp, "ids")
        tool("aq-extract-lm", "-o", os.path.join(tmp, "lm.json"), DEMO)
        tool("aq-calib", "tokens", "--tokenizer", DEMO, "--seq-len", SEQ_LEN, "--padding", "max_length", "-o", ids,
             os.path.join(ROOT, "datasets", "demo", f"captions_{size}.txt"))
        samples, meta = read_samples(ids)
        tokens = pad_tokens(meta["pad_id"])
        none = Scored(tmp, "none", samples, "none", meta["pad_id"], quants)
        padded = {text: measure(tmp, samples, i, none, quants) for text, i in tokens.items()}
    rewrite(path, page(size, samples, padded, none))


if __name__ == "__main__":
    main()
