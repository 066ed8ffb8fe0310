"""Blocks of every GGUF type that aq reads, with the values that the package gguf gives them; and a small file of its writer.

    pip install gguf==0.19.0 numpy
    python tests/oracle/gguf_blocks.py

Writes tests/oracle/gguf/blocks.txt (type, blocks in hex, values as fp32 bits in hex) and tests/oracle/gguf/small.gguf.
"""
import os
import numpy as np
import gguf
from importlib.metadata import version

here = os.path.join(os.path.dirname(__file__), "gguf")
rng = np.random.default_rng(20261129)
T = gguf.GGMLQuantizationType
names = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "NVFP4"]
halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
with open(os.path.join(here, "blocks.txt"), "w") as f:
    f.write(f"# gguf {version('gguf')}, numpy {np.__version__}\n")
    for name in names:
        block, size = gguf.GGML_QUANT_SIZES[T[name]]
        n = 64 if block == 1 else 2 if block == 256 else 4
        b = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in halves.get(name, []):  # finite fp16 scales
            b[:, at:at + 2] = rng.normal(0, 0.05, (n, 1)).astype(np.float16).view(np.uint8)
        if name == "F32":
            b = rng.normal(0, 1, (n, 1)).astype(np.float32).view(np.uint8)
        if name in ("F16", "BF16"):  # no NaN: its payload is nobody's business
            b[:, 1] &= 0xbf
        if name == "MXFP4":
            b[:, 0] = [0, 1, 120, 254]
        if name == "NVFP4":
            b[0, :4] = [0, 1, 0x7e, 0x7f]
        y = gguf.dequantize(b.reshape(1, -1), T[name]).astype(np.float32)
        f.write(f"{name} {b.tobytes().hex()} {y.tobytes().hex()}\n")

w = gguf.GGUFWriter(os.path.join(here, "small.gguf"), "llama")
w.add_uint32("a.u32", 7)
w.add_int32("a.i32", -7)
w.add_float32("a.f32", 0.5)
w.add_bool("a.bool", True)
w.add_string("a.string", "naïve")
w.add_array("a.strings", ["x", "", "yz"])
w.add_array("a.ints", [3, -1, 2])
w.add_uint64("a.u64", 1 << 40)
w.add_float64("a.f64", 0.1)
w.add_tensor("first.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
w.add_tensor("second.weight", gguf.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), T.Q8_0), raw_dtype=T.Q8_0)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
