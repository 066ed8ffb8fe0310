#!/usr/bin/env python3
"""Fake quantization by nvidia-modelopt on the CPU: vectors for tests/unit/test_quant_oracle.c.

    tests/oracle/quant.py modelopt > tests/oracle/quant/modelopt_cpu.tsv
    tests/oracle/quant.py formulas > tests/oracle/quant/formulas.tsv

Inputs come from a generator that the test repeats in C (tests/unit/quant_inputs.h), so that a case is
one word: of a line of role, treatment, distribution and dtype, one word for every shape in the head of
the file, the first 16 digits of the SHA-256 of ModelOpt's output with every NaN written as
7fc0(0000).

ModelOpt has no CPU path for NVFP4 and MX. `quant.py formulas` writes their vectors from the formulas
of docs/quantizers.md, by numpy and searches in tables of codes (formulas.tsv); quant_gpu.py holds
those formulas against ModelOpt on a GPU.
"""
import hashlib
import sys
import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore")
import modelopt  # noqa: E402
from modelopt.torch.quantization.config import QuantizerAttributeConfig  # noqa: E402
from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: E402

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def draw(stream, n):
    """splitmix64: element i of a stream is the mix of (stream * 2^32 + i + 1) * GAMMA."""
    with np.errstate(over="ignore"):
        z = (np.uint64(stream) * np.uint64(1 << 32) + np.arange(1, n + 1, dtype=np.uint64)) * GAMMA
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def bell(r):
    """Four 16-bit uniforms, added: a bell of standard deviation 0.64, and full fp32 mantissas."""
    s = sum(((r >> np.uint64(k)) & np.uint64(0xFFFF)).astype(np.int64) for k in (0, 16, 32, 48))
    return (s - 131070).astype(np.float32) * np.float32(1.7e-5)


def inputs(dist, rows, cols, number):
    n = rows * cols
    r = draw(1, n)
    t = draw(2, n)
    i = np.arange(n)
    if dist == "normal":
        x = bell(r)
    elif dist == "heavy":
        zeros = np.zeros(n, np.int64)
        for k in range(24):
            zeros += ((t & np.uint64((1 << (k + 1)) - 1)) == 0).astype(np.int64)
        x = bell(r) * np.ldexp(np.float32(1), zeros).astype(np.float32)
    elif dist == "constant":
        x = np.full(n, 0.7, np.float32)
    elif dist == "zeros":
        x = np.where(r & np.uint64(1), np.float32(-0.0), np.float32(0.0)).astype(np.float32)
    elif dist == "denormal":
        x = (r & np.uint64(0x807FFFFF)).astype(np.uint32).view(np.float32)
    elif dist == "tiny":
        x = bell(r) * np.ldexp(np.float32(1), -20 - (i // cols) % 8).astype(np.float32)
    elif dist == "huge":
        x = bell(r) * np.float32(2.0**120)
    elif dist == "ties":
        sign = np.where(t & np.uint64(1), np.float32(-1), np.float32(1))
        if number.startswith("e"):
            m = (np.uint64(16) + (r & np.uint64(15))).astype(np.float32)
            x = m * np.ldexp(np.float32(1), ((r >> np.uint64(8)) % np.uint64(19)).astype(np.int64) - 14).astype(np.float32)
            top = np.float32(448)
        else:
            hi = 2 ** (int(number[3:]) - 1) - 1
            x = (r % np.uint64(hi + 1)).astype(np.float32) + np.float32(0.5)
            top = np.float32(hi)
        x = np.where(i % 8 == 0, top, x) * sign
    elif dist == "nonfinite":
        x = bell(r)
        which = t % np.uint64(29)
        x = np.where(which == 0, np.float32(np.inf), x)
        x = np.where(which == 1, np.float32(-np.inf), x)
        x = np.where(which == 2, np.float32(np.nan), x)
    else:
        raise ValueError(dist)
    return x.astype(np.float32).reshape(rows, cols)


def tensor(dist, rows, cols, number, dtype):
    """The inputs as a tensor; torch gives NaN in bf16 all bits, ours is 7fc0."""
    x = torch.from_numpy(inputs(dist, rows, cols, number)).to(dtype)
    if dtype == torch.bfloat16:
        x.view(torch.int16)[torch.isnan(x)] = 0x7FC0
    return x


def digest(y):
    if y.dtype == torch.bfloat16:
        bits = y.contiguous().view(torch.int16).numpy().view(np.uint16).copy()
        bits[(bits & 0x7FFF) > 0x7F80] = 0x7FC0
    else:
        bits = y.contiguous().numpy().view(np.uint32).copy()
        bits[(bits & 0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
    return hashlib.sha256(bits.tobytes()).hexdigest()[:16]


def bits_of(number):
    return (4, 3) if number == "e4m3" else int(number[3:])


def quantizer(step):
    number, scope, when = step.rsplit(":", 1)[0].split(":", 1) + [step.rsplit(":", 1)[1]]
    kind = {"num_bits": bits_of(number)}
    if when == "dynamic":
        kind["type"] = "dynamic"
    if scope == "tensor":
        kind["axis"] = None
    elif scope.startswith("axis"):
        kind["axis"] = int(scope[4:])
    elif scope == "token":
        kind["block_sizes"] = {-1: None, "type": "dynamic"}
        kind["type"] = "dynamic"
    else:
        parts = scope[len("block("):-1].split(",")
        kind["block_sizes"] = {int(p.split(":")[0]): int(p.split(":")[1]) for p in parts}
    return TensorQuantizer(QuantizerAttributeConfig(**kind))


def calibrate(q, x):
    q.disable_quant()
    q.enable_calib()
    q(x)
    q.load_calib_amax()
    q.enable_quant()
    q.disable_calib()


def as_weight(treatment, x):
    for step in treatment.split("+"):
        q = quantizer(step)
        calibrate(q, x)
        x = q(x)
    return x


def as_activation(treatment, x):
    """A static range is that of the first half of the rows, so that some elements are clipped."""
    q = quantizer(treatment)
    if treatment.endswith("static"):
        calibrate(q, x[: (x.shape[0] + 1) // 2])
    return q(x)


NUMBERS = ["int8", "int4", "int3", "e4m3"]
DISTS = ["normal", "heavy", "constant", "zeros", "denormal", "tiny", "huge", "ties"]
SHAPES = [(1, 17), (3, 37), (7, 131), (24, 64), (33, 300)]


def cases():
    for number in NUMBERS:
        for scope in ["tensor", "axis0", "axis1", "block(-1:16)", "block(-1:17)", "block(-2:3)",
                      "block(-1:16,-2:3)"]:
            yield "w", f"{number}:{scope}:static"
        for scope in ["tensor:static", "tensor:dynamic", "token:dynamic", "axis-1:static"]:
            yield "a", f"{number}:{scope}"
    for number in ["int2", "int5", "int6", "int7"]:
        yield "w", f"{number}:axis0:static"
    yield "w", "int4:block(-1:16):static+e4m3:tensor:static"
    yield "w", "e4m3:axis0:static+int8:tensor:static"


# ---- formats without a CPU path: the formulas ----

def magnitudes(exp_bits, man, top):
    """All numbers of a format from 0 to top, by their definition."""
    bias = 2 ** (exp_bits - 1) - 1
    m = [f * 2.0 ** (1 - bias - man) for f in range(2**man)]
    m += [(1 + f / 2**man) * 2.0 ** (e - bias) for e in range(1, 2**exp_bits) for f in range(2**man)]
    return np.array([v for v in m if v <= top])


TABLE = {
    "e2m1": magnitudes(2, 1, 6.0), "e3m2": magnitudes(3, 2, 28.0), "e2m3": magnitudes(2, 3, 7.5),
    "e4m3": magnitudes(4, 3, 448.0), "e5m2": magnitudes(5, 2, 57344.0), "int8": np.arange(128.0),
}


def nearest(a, number):
    """Magnitudes to the nearest code, ties to the even one; NaN as the format has it."""
    table = TABLE[number]
    middles = (table[1:] + table[:-1]) / 2
    v = a.astype(np.float64)
    nan = np.isnan(v)
    v = np.where(nan, np.inf, v)
    below = np.searchsorted(middles, v, side="left")  # a middle itself counts as below
    tie = (below < len(middles)) & (middles[np.minimum(below, len(middles) - 1)] == v)
    q = table[np.where(tie & (below % 2 == 1), below + 1, below)].astype(np.float32)
    return np.where(nan & (number in ("e4m3", "e5m2", "int8")), np.float32(np.nan), q)


def in_blocks(x, b):
    rows, cols = x.shape
    padded = np.zeros((rows, -(-cols // b) * b), np.float32)
    padded[:, :cols] = x
    return padded.reshape(rows, -1, b)


def unblock(y, cols):
    return y.reshape(y.shape[0], -1)[:, :cols]


def nvfp4(x, b, g, static):
    f = np.float32
    if not np.isfinite(g):
        return np.full(x.shape, np.nan, f)
    xb = in_blocks(x, b)
    m = np.nanmax(np.where(np.isnan(xb), f(0), np.abs(xb)), axis=-1, keepdims=True)
    if static:
        a = f(g / f(6))
        k = f(f(f(1) / (f(1) if a <= 2.0**-24 else a)) * f(448))
        s = nearest((m / f(6)) * k, "e4m3") * f(f(1) / k)
    else:
        gs = f(g / f(2688))
        gs = gs if gs > 0 else f(1e-12)
        t = np.minimum(m / f(f(6) * gs), f(448))
        s = nearest(t, "e4m3") * gs
        s = np.where(s >= f(1e-5), s, f(1))
    q = nearest(np.abs(xb) / s, "e2m1")
    return unblock(np.where(xb >= 0, q, -q) * s, x.shape[1])


def mx(x, b, number):
    f = np.float32
    xb = in_blocks(x, b)
    m = np.where(np.isnan(xb), f(0), np.minimum(np.abs(xb), np.finfo(f).max)).max(axis=-1, keepdims=True)
    r = m / f(TABLE[number][-1])
    frac, e = np.frexp(r.astype(np.float64))
    e = np.where(frac == 0.5, e - 1, e)
    e = np.where(m == 0, 0, np.clip(e, -127, 127))
    up, down = np.ldexp(f(1), e).astype(f), np.ldexp(f(1), -e).astype(f)
    q = np.copysign(nearest(np.abs(xb) * down, number), xb)
    return unblock(q * up, x.shape[1])


def act_block(x, b):
    """e4m3 with a range for each row and b columns, at least 1e-10; torch rounds to e4m3."""
    f = np.float32
    xb = in_blocks(x, b)
    m = np.nanmax(np.where(np.isnan(xb), f(0), np.abs(xb)), axis=-1, keepdims=True)
    k = (f(1) / np.maximum(m, f(1e-10))) * f(448)
    q = torch.from_numpy((xb * k).astype(f)).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    return unblock(q * (f(1) / k), x.shape[1])


def by_formula(role, treatment, x):
    """x: fp32 values, bf16 ones widened."""
    number, scope, when = treatment.split(":", 1)[0], *treatment.split(":", 1)[1].rsplit(":", 1)
    b = int(scope[scope.index("(") + 1 : -1].removeprefix("-1:"))
    with np.errstate(all="ignore"):
        if scope.startswith("mx"):
            return mx(x, b, number)
        if scope.startswith("block"):
            return act_block(x, b)
        rows = x if role == "w" or when == "dynamic" else x[: (x.shape[0] + 1) // 2]
        return nvfp4(x, b, np.abs(rows).max(), role == "w" and when == "static")


def formula_cases():
    for treatment in ("e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(5):dynamic", "e2m1:nvfp4(32):dynamic",
                      "e2m1:nvfp4(16):static", "e2m1:nvfp4(7):static"):
        yield "w", treatment
    for number in TABLE:
        for b in (8, 16, 32):
            yield "w", f"{number}:mx({b}):dynamic"
    for treatment in ("e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):static", "e2m1:nvfp4(9):static"):
        yield "a", treatment
    for number in TABLE:
        yield "a", f"{number}:mx(32):dynamic"
    for b in (128, 16, 5):
        yield "a", f"e4m3:block(-1:{b}):dynamic"


def formula_case(role, treatment, dist, rows, cols, dtype):
    if int(treatment.split("(")[1].split(")")[0].removeprefix("-1:")) > cols:
        return "-"
    x = tensor(dist, rows, cols, treatment.split(":")[0], dtype)
    return digest(torch.from_numpy(by_formula(role, treatment, x.float().numpy())).to(dtype))


# ---- files ----

def case(role, treatment, dist, rows, cols, dtype):
    if "-2:3" in treatment and rows < 3:
        return "-"  # we refuse blocks longer than the matrix
    x = tensor(dist, rows, cols, treatment.split(":")[0], dtype)
    with torch.no_grad():
        return digest((as_weight if role == "w" else as_activation)(treatment, x))


def write(which, one):
    print("# shapes", *(f"{r}x{c}" for r, c in SHAPES))
    for role, treatment in which:
        for dist in DISTS + ["nonfinite"]:
            if dist == "nonfinite" and (role == "w" or treatment.endswith("static")):
                continue  # refused, as by ModelOpt's calibrator
            for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
                words = [one(role, treatment, dist, r, c, dtype) for r, c in SHAPES]
                print(role, treatment, dist, name, *words, sep="\t")


def main():
    if sys.argv[1:] == ["modelopt"]:
        print(f"# quant.py modelopt: nvidia-modelopt {modelopt.__version__}, torch {torch.__version__}")
        write(cases(), case)
    elif sys.argv[1:] == ["formulas"]:
        print(f"# quant.py formulas: numpy {np.__version__}, torch {torch.__version__}")
        write(formula_cases(), formula_case)
    else:
        sys.exit("usage: quant.py modelopt | formulas")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
