#!/usr/bin/env python3
"""Vectors of calibrated candidates: what ModelOpt makes of two linears on the CPU.

    python3 -m venv v && v/bin/pip install torch nvidia-modelopt==0.47.0 safetensors
    v/bin/python tests/oracle/calibrated.py          # writes tests/oracle/calibrated/vectors.safetensors

For each linear NAME ("a", "b": the output of a, through SiLU, is the input of b):
    NAME/w        the weight                       NAME/x      its inputs, all batches
    NAME/gptq     INT4 blocks of 128 after GPTQ (block 128, damping 0.01, columns as they come), dequantized
    NAME/mse4, NAME/mse8     INT4 blocks of 128, INT8 per row with ranges found by mean squared error, dequantized
    NAME/awq      AWQ-lite's scales for INT4 blocks of 128 (1 / pre_quant_scale), NAME/alpha the exponent
    NAME/clip     ranges of INT4 blocks of 128 after AWQ's clip, whose losses take 64 rows of a batch: all of them here
    NAME/full     the same after AWQ-lite with the scales NAME/fullscale, of the scaled weight
    NAME/smooth1, NAME/smooth5    SmoothQuant's factors of the input (pre_quant_scale) for alpha 1 and 0.5
and in float64, by numpy, what ModelOpt does not have on a CPU:
    NAME/static   GPTQ with columns by falling second moment, dequantized (llm-compressor's actorder: static)
    sweep, 4o6, blocks   NVFP4 blocks of 16 of NAME a's weight: best e4m3 scale, and the better of two; their squared errors
"""
import copy
import os
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import modelopt
import modelopt.torch.quantization as mtq
from safetensors.numpy import save_file

torch.set_num_threads(1)
f32 = np.float32


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(256, 64, bias=False)
        self.b = nn.Linear(64, 32, bias=False)

    def forward(self, x):
        return self.b(F.silu(self.a(x)))


G = {"a": 128, "b": 32}
net = Net()
gen = torch.Generator().manual_seed(1)
with torch.no_grad():
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=gen) / p.shape[1] ** 0.5)
channel = torch.exp(1.2 * torch.randn(256, generator=gen))
batches = [torch.randn(2, 32, 256, generator=gen) * channel for _ in range(3)]
with torch.no_grad():
    x = {"a": torch.cat(batches).reshape(-1, 256), "b": torch.cat([F.silu(net.a(b)) for b in batches]).reshape(-1, 64)}
w = {n: getattr(net, n).weight.detach().numpy().copy() for n in "ab"}
out = {}
for n in "ab":
    out[n + "/w"] = w[n]
    out[n + "/x"] = x[n].numpy()


def loop(m):
    for b in batches:
        m(b)


def quantize(base, algorithm, block=None):
    """ModelOpt's model; block lengths by linear."""
    cfg = copy.deepcopy(base)
    cfg["algorithm"] = algorithm
    m = copy.deepcopy(net)
    if block:
        for entry in cfg["quant_cfg"]:
            if entry.get("quantizer_name") == "*weight_quantizer":
                entry["cfg"]["block_sizes"] = {-1: block, "type": "static"}
    mtq.quantize(m, cfg, loop)
    return m


def dequantized(module):
    with torch.no_grad():
        return module.weight_quantizer(module.weight).detach().numpy().astype(f32)


def amax(module):
    """Of every block, (rows, blocks)."""
    return module.weight_quantizer.amax.detach().numpy().astype(f32).reshape(module.weight.shape[0], -1)


for n in "ab":
    m = quantize(mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG, {"method": "gptq"}, G[n])
    out[n + "/gptq"] = getattr(m, n).weight.detach().numpy().astype(f32)
    m = quantize(mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG, {"method": "mse"}, G[n])
    out[n + "/mse4"] = dequantized(getattr(m, n))
    m = quantize(mtq.INT8_DEFAULT_CFG, {"method": "mse"})
    out[n + "/mse8"] = dequantized(getattr(m, n))
    m = quantize(mtq.INT4_AWQ_CFG, {"method": "awq_lite", "alpha_step": 0.1, "debug": True}, G[n])
    out[n + "/awq"] = (1 / getattr(m, n).input_quantizer._pre_quant_scale.numpy().ravel()).astype(f32)
    out[n + "/alpha"] = np.array([getattr(m, n).awq_lite.best_alpha], f32)
    m = quantize(mtq.INT4_AWQ_CFG, {"method": "awq_clip"}, G[n])
    out[n + "/clip"] = amax(getattr(m, n))
    m = quantize(mtq.INT4_AWQ_CFG, {"method": "awq_full", "alpha_step": 0.1}, G[n])
    out[n + "/full"] = amax(getattr(m, n))
    out[n + "/fullscale"] = (1 / getattr(m, n).input_quantizer._pre_quant_scale.numpy().ravel()).astype(f32)
    for alpha, key in ((1.0, "smooth1"), (0.5, "smooth5")):
        m = quantize(mtq.INT8_SMOOTHQUANT_CFG, {"method": "smoothquant", "alpha": alpha})
        out[n + "/" + key] = getattr(m, n).input_quantizer._pre_quant_scale.numpy().ravel().astype(f32)


def gptq(n, order):
    """In float64."""
    v = w[n].astype(np.float64).copy()
    rows, cols = v.shape
    xs = out[n + "/x"].astype(np.float64)
    h = 2.0 / len(xs) * xs.T @ xs
    mul = (f32(7) / np.abs(w[n].reshape(rows, -1, G[n])).max(-1)).astype(f32)
    group = np.arange(cols) // G[n]
    perm = np.argsort(-np.diag(h), kind="stable") if order else np.arange(cols)
    v, h, group = v[:, perm], h[perm][:, perm], group[perm]
    h[np.arange(cols), np.arange(cols)] += 0.01 * np.mean(np.diag(h))
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    q = np.zeros_like(v)
    for j in range(cols):
        s = mul[:, group[j]].astype(np.float64)
        q[:, j] = np.clip(np.rint(v[:, j] * s), -8, 7) / s
        v[:, j:] -= np.outer((v[:, j] - q[:, j]) / u[j, j], u[j, j:])
    return q[:, np.argsort(perm)].astype(f32)


for n in "ab":
    out[n + "/static"] = gptq(n, True)

# NVFP4 by numpy
E2 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], f32)


def e2m1(a):
    s, a = np.sign(a), np.abs(a)
    r = np.zeros(a.shape, int)
    for k, t in enumerate(np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], f32)):
        r += (a > t) if k % 2 == 0 else (a >= t)
    return s * E2[np.minimum(r, 7)]


def e4m3(v):
    v = np.asarray(v, f32)
    e = np.maximum(np.floor(np.log2(np.maximum(np.abs(v), 1e-30))), -6)
    step = 2.0 ** (e - 3)
    return np.clip(np.rint(v / step) * step, -448, 448).astype(f32)


def value(code):
    e, m = code >> 3, code & 7
    return m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)


scales = np.array([value(c) for c in range(1, 127)], f32)
blk = w["a"].reshape(-1, 16)
most = np.abs(blk).max(1)


def best(trials):
    least, found = np.full(len(blk), np.inf), np.zeros_like(blk)
    for s in trials:
        s = np.broadcast_to(np.asarray(s, f32), (len(blk),))[:, None]
        y = (e2m1(blk / s) * s).astype(f32)
        e = ((y.astype(np.float64) - blk) ** 2).sum(1)
        found = np.where((e < least)[:, None], y, found)
        least = np.minimum(least, e)
    return found.reshape(w["a"].shape)


second = f32(most.max() / f32(2688))
out["a/sweep"] = best([c * second for c in scales])
second = f32(most.max() / f32(1536))
out["a/4o6"] = best([e4m3(most * f32(k) / (6 * second)) * second for k in (1.0, 1.5)])

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "calibrated", "vectors.safetensors")
versions = {"modelopt": modelopt.__version__, "torch": torch.__version__, "numpy": np.__version__}
save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, path, metadata=versions)
print(path, versions, sum(v.nbytes for v in out.values()), "bytes")
