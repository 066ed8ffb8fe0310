#!/usr/bin/env python3
"""Fake quantization by nvidia-modelopt on the CPU: vectors for tests/unit/test_quant_oracle.c.

    tests/oracle/quant.py > tests/oracle/quant/modelopt_cpu.tsv

Inputs come from a generator that the test repeats in C (tests/unit/quant_inputs.h), so that a case is
one word: of a line of role, treatment, distribution and dtype, one word for every shape in the head of
the file, the first 16 digits of the SHA-256 of ModelOpt's output with every NaN written as
7fc0(0000). Formats that ModelOpt has on GPUs only: quant_gpu.py.
"""
import hashlib
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
        if number == "e4m3":
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


def case(role, treatment, dist, rows, cols, dtype):
    if "-2:3" in treatment and rows < 3:
        return "-"  # we refuse blocks longer than the matrix
    x = torch.from_numpy(inputs(dist, rows, cols, treatment.split(":")[0])).to(dtype)
    with torch.no_grad():
        return digest((as_weight if role == "w" else as_activation)(treatment, x))


def main():
    print(f"# tests/oracle/quant.py: nvidia-modelopt {modelopt.__version__}, torch {torch.__version__}")
    print("# shapes", *(f"{r}x{c}" for r, c in SHAPES))
    for role, treatment in cases():
        for dist in DISTS + ["nonfinite"]:
            if dist == "nonfinite" and treatment.endswith("static"):
                continue  # the calibrator refuses it, and so do we
            for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
                words = [case(role, treatment, dist, r, c, dtype) for r, c in SHAPES]
                print(role, treatment, dist, name, *words, sep="\t")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
