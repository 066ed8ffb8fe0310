#!/usr/bin/env python3
"""GPTQ with static activation order by llm-compressor, on the linears of calibrated/vectors.safetensors.

    python3 -m venv v && v/bin/pip install llmcompressor safetensors
    v/bin/python tests/oracle/calibrated_llmc.py     # writes tests/oracle/calibrated/llmc.safetensors

NAME/llmc: the weight dequantized, INT4 in blocks of 128 ("a") and 32 ("b"), block size 128, damping 0.01, actorder static. The
scale is the block's largest magnitude over 7, this project's, not llm-compressor's over 7.5: what is compared is the order of
columns and how errors are passed on.
"""
import importlib.metadata
import os
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from safetensors.numpy import load_file, save_file

torch.set_num_threads(1)
here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "calibrated")
vectors = load_file(os.path.join(here, "vectors.safetensors"))
out = {}
for name, group in {"a": 128, "b": 32}.items():
    w = torch.from_numpy(vectors[name + "/w"].copy())
    x = torch.from_numpy(vectors[name + "/x"].astype(np.float64))
    hessian = 2 / len(x) * x.T @ x
    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=group, actorder="static")
    scale = w.reshape(len(w), -1, group).abs().amax(-1) / 7
    zero = torch.zeros_like(scale)
    q, _, fallback = quantize_weight(w.clone()[None], hessian[None], scale[None], zero[None], None, args, blocksize=128, percdamp=0.01)
    assert not fallback.any()
    out[name + "/llmc"] = q[0].numpy().astype(np.float32)
    static = vectors[name + "/static"]
    print(name, "codes that differ from float64's:", int((np.abs(out[name + "/llmc"] - static) > scale.numpy().repeat(group, 1) / 2).sum()), "of", static.size)
versions = {p: importlib.metadata.version(p) for p in ("llmcompressor", "compressed-tensors", "torch", "numpy")}
save_file(out, os.path.join(here, "llmc.safetensors"), metadata=versions)
print(versions)
