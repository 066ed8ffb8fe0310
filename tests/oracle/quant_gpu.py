#!/usr/bin/env python3
"""ModelOpt's fake quantization on a GPU, held against the formulas and against its CPU path.

    tests/oracle/quant_gpu.py > tests/oracle/quant/modelopt_gpu.tsv 2> exceptions.tsv

Needs nvidia-modelopt, Triton and a GPU of compute capability 8.9 or newer; MX also needs ModelOpt's
CUDA extension, which is compiled at its first use (nvcc, ninja). stdout: vectors in the form of
quant.py, with "-" for a case in which the GPU differs from the reference: those are exceptions,
not vectors. stderr: for every treatment, distribution and dtype with exceptions, how many elements
differ, how many of them by more than the last bits (another code), and an example.

NVFP4 is asked for with blocks of 16 only: the Triton kernel does not see any other length.
"""
import importlib.util
import pathlib
import sys

import modelopt
import torch

spec = importlib.util.spec_from_file_location("oracle", pathlib.Path(__file__).with_name("quant.py"))
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)

from modelopt.torch.quantization.config import QuantizerAttributeConfig  # noqa: E402
from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: E402

BITS = {"e2m1": (2, 1), "e3m2": (3, 2), "e2m3": (2, 3), "e4m3": (4, 3), "e5m2": (5, 2), "int8": 8}


def block_quantizer(treatment):
    number, scope, _ = treatment.split(":")
    b = int(scope[scope.index("(") + 1 : -1])
    scale = (8, 0) if scope.startswith("mx") else (4, 3)
    sizes = {-1: b, "type": "dynamic", "scale_bits": scale}
    return TensorQuantizer(QuantizerAttributeConfig(num_bits=BITS[number], block_sizes=sizes)).cuda()


def on_gpu(role, treatment, x):
    x = x.cuda()
    if "(" in treatment and "block" not in treatment:
        q = block_quantizer(treatment)
        if "nvfp4" in treatment and role == "w":
            oracle.calibrate(q, x)
        elif treatment.endswith("static"):
            oracle.calibrate(q, x[: (x.shape[0] + 1) // 2])
        return q(x).cpu()
    return (oracle.as_weight if role == "w" else oracle.as_activation)(treatment, x).cpu()


def reference(role, treatment, x):
    if "(" in treatment and "block" not in treatment:
        return torch.from_numpy(oracle.by_formula(role, treatment, x.float().numpy())).to(x.dtype)
    return (oracle.as_weight if role == "w" else oracle.as_activation)(treatment, x)


def treatments():
    yield "w", "e2m1:nvfp4(16):dynamic"
    yield "a", "e2m1:nvfp4(16):dynamic"
    yield "a", "e2m1:nvfp4(16):static"
    for number in BITS:
        for b in (8, 16, 32):
            yield "w", f"{number}:mx({b}):dynamic"
        yield "a", f"{number}:mx(32):dynamic"
    for number in ("int8", "int4", "e4m3"):
        for scope in ("tensor", "axis0", "axis1", "block(-1:16)", "block(-1:16,-2:3)"):
            yield "w", f"{number}:{scope}:static"
        for scope in ("tensor:static", "tensor:dynamic", "token:dynamic"):
            yield "a", f"{number}:{scope}"


class Exceptions:
    """What differs in the cases of one line."""

    def __init__(self):
        self.elements = self.differ = self.codes = 0
        self.example = ""

    def add(self, x, found, expected):
        both_nan = found.isnan() & expected.isnan()
        bits = torch.int16 if found.dtype == torch.bfloat16 else torch.int32
        same = both_nan | (found.view(bits) == expected.view(bits))
        self.elements += found.numel()
        self.differ += int((~same).sum())
        f, e = found.double(), expected.double()
        far = ~same & ~((f - e).abs() <= 2.0**-6 * e.abs())
        self.codes += int(far.sum())
        if not self.example and not bool(same.all()):
            i = int((~same).flatten().nonzero()[0])
            of = [t.flatten()[i].item() for t in (x, found, expected)]
            self.example = f"{of[0]!r}: gpu {of[1]!r}, expected {of[2]!r}"
        return bool(same.all())


def usable(role, treatment, dist, rows, cols):
    if "(" in treatment:
        words = treatment.split("(")[1].split(")")[0].replace("-1:", "").replace("-2:", "").split(",")
        if int(words[0]) > cols or (len(words) > 1 and int(words[1]) > rows):
            return False
    return True


def main():
    print(f"# quant_gpu.py: nvidia-modelopt {modelopt.__version__}, torch {torch.__version__},",
          torch.cuda.get_device_name())
    print("# shapes", *(f"{r}x{c}" for r, c in oracle.SHAPES))
    print("role\ttreatment\tdist\tdtype\telements\tdiffer\tother_code\texample", file=sys.stderr)
    for role, treatment in treatments():
        for dist in oracle.DISTS + ["nonfinite"]:
            if dist == "nonfinite" and (role == "w" or treatment.endswith("static") or "(" not in treatment):
                continue  # a NaN range trips an assertion on the device, which ends the process
            for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
                words, exceptions = [], Exceptions()
                for rows, cols in oracle.SHAPES:
                    word = "-"
                    if usable(role, treatment, dist, rows, cols):
                        x = oracle.tensor(dist, rows, cols, treatment.split(":")[0], dtype)
                        with torch.no_grad():
                            found, expected = on_gpu(role, treatment, x), reference(role, treatment, x)
                        if exceptions.add(x, found, expected):
                            word = oracle.digest(found)
                    words.append(word)
                print(role, treatment, dist, name, *words, sep="\t")
                if exceptions.differ:
                    e = exceptions
                    print(role, treatment, dist, name, e.elements, e.differ, e.codes, e.example, sep="\t",
                          file=sys.stderr)


if __name__ == "__main__":
    main()
