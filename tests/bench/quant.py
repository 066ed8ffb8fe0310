#!/usr/bin/env python3
"""ModelOpt's fake quantization on the CPU, one thread: TSV of treatment, dtype, Melem/s (median)."""
import importlib.util
import pathlib
import sys
import time

import torch

torch.set_num_threads(1)
here = pathlib.Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("oracle", here.parent / "oracle" / "quant.py")
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)

rows, cols, rounds = (int(a) for a in sys.argv[1:4])
x32 = torch.randn(rows, cols) * 0.02
for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
    x = x32.to(dtype)
    for treatment in ("int8:tensor:static", "int8:axis0:static", "e4m3:tensor:static", "e4m3:axis0:static"):
        q = oracle.quantizer(treatment)
        oracle.calibrate(q, x)
        seconds = []
        with torch.no_grad():
            for _ in range(rounds):
                t = time.thread_time()
                q(x)
                seconds.append(time.thread_time() - t)
        seconds.sort()
        print(treatment, name, round(rows * cols / seconds[rounds // 2] * 1e-6), sep="\t")
