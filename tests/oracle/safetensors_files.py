#!/usr/bin/env python3
"""Files written by the Python safetensors library, for tests/20-safetensors.bats.

    tests/oracle/safetensors_files.py            writes tests/oracle/safetensors/*.safetensors and VERSION
    tests/oracle/safetensors_files.py DIR        reads every *.safetensors of DIR with the library and compares it with
                                           the committed file of the same name, tensor by tensor

DIR is filled by `build/tests/st_copy IN OUT`, which reads with our reader and writes with our writer.
"""
import glob
import os
import sys

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "safetensors")


def files():
    g = torch.Generator().manual_seed(5)
    rand = lambda *s: torch.randn(*s, generator=g)
    ints = lambda t: torch.randint(-100, 100, (3, 2), generator=g).to(t)
    dtypes = {"b": torch.bool, "u8": torch.uint8, "i8": torch.int8, "i16": torch.int16, "u16": torch.uint16, "i32": torch.int32,
              "u32": torch.uint32, "i64": torch.int64, "u64": torch.uint64}
    yield "floats", {"z.weight": rand(4, 8).bfloat16(), "a.weight": rand(3).half(), "m": rand(2, 2, 2), "d": rand(5).double()}, {"format": "pt"}
    yield "every_int", {k: ints(t) for k, t in dtypes.items()}, None
    yield "odd", {"scalar": torch.tensor(1.5), "empty": torch.zeros(2, 0), "f8": rand(7).to(torch.float8_e4m3fn),
                  "e5": rand(3).to(torch.float8_e5m2), "rank8": rand(1, 1, 2, 1, 1, 1, 1, 3)}, {"note": 'quote " and \\ and \n'}
    yield "nothing", {}, {"format": "pt"}
    yield "nan", {"x": torch.tensor([float("nan"), float("inf"), -0.0])}, None


def write():
    for name, tensors, meta in files():
        save_file(tensors, os.path.join(HERE, name + ".safetensors"), metadata=meta)
    with open(os.path.join(HERE, "VERSION"), "w") as f:
        f.write(f"safetensors {safetensors.__version__}, torch {torch.__version__}\n")


def compare(directory):
    for ours in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        with safe_open(ours, "pt") as a, safe_open(os.path.join(HERE, os.path.basename(ours)), "pt") as b:
            assert sorted(a.keys()) == sorted(b.keys()) and a.metadata() == b.metadata(), ours
            for k in a.keys():
                x, y = a.get_tensor(k), b.get_tensor(k)
                assert x.dtype == y.dtype and x.shape == y.shape, (ours, k)
                assert x.contiguous().view(-1).view(torch.uint8).equal(y.contiguous().view(-1).view(torch.uint8)) or x.numel() == 0 or x.dim() == 0 and x.item() == y.item(), (ours, k)
        print("equal:", os.path.basename(ours))


compare(sys.argv[1]) if len(sys.argv) > 1 else write()
