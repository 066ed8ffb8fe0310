#!/usr/bin/env python3
"""ModelOpt's auto_quantize (gradient) on one GPU, for the comparison of docs/performance.md.

    tests/bench/modelopt_gpu.py TOKENS.safetensors

A model with the dimensions of Qwen3-VL-4B's language model and random weights; samples in batches of 8, padded on the left
to 512 and one call a format, as the published sweep drives it; then its best settings: all formats in one call, batches of
64 samples padded to their longest. TOKENS is a product of aq-calib tokens. BATCHES=24: of the first kind FP8 alone, on 8 and 24
batches, every batch being the same work; the time of all follows from the two. BATCHES=0: the best settings alone. LAYERS, HIDDEN and SAMPLES in the environment make a
smaller trial, also without a GPU.
"""
import copy
import os
import sys
import time

import modelopt
import modelopt.torch.quantization as mtq
import torch
from safetensors import safe_open
from transformers import Qwen3Config, Qwen3ForCausalLM

FORMATS = ["FP8_DEFAULT_CFG", "INT8_DEFAULT_CFG", "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"]
PAD = 151643
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def samples(path):
    with safe_open(path, "pt") as f:
        ids, at = f.get_tensor("ids").long(), f.get_tensor("offsets").tolist()
    rows = [ids[a:b] for a, b in zip(at, at[1:])]
    return rows[: int(os.environ.get("SAMPLES", len(rows)))]


def batches(rows, size, length):
    out = []
    for i in range(0, len(rows), size):
        some = rows[i : i + size]
        n = length or max(len(r) for r in some)
        ids = torch.full((len(some), n), PAD)
        for k, r in enumerate(some):
            ids[k, n - len(r) :] = r
        mask = ids != PAD
        out.append({"input_ids": ids.to(DEVICE), "attention_mask": mask.long().to(DEVICE),
                    "labels": torch.where(mask, ids, -100).to(DEVICE)})
    return out


def model():
    hidden = int(os.environ.get("HIDDEN", 2560))
    config = Qwen3Config(hidden_size=hidden, intermediate_size=hidden * 19 // 5,
                         num_hidden_layers=int(os.environ.get("LAYERS", 36)), num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, vocab_size=151936, rope_theta=5e6, rms_norm_eps=1e-6,
                         tie_word_embeddings=True, dtype=torch.bfloat16)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        return Qwen3ForCausalLM(config).eval()


def run(what, formats, data):
    """Prints and returns the seconds of one call."""
    m = model()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.time()
    mtq.auto_quantize(m, constraints={"effective_bits": 11.0},
                      quantization_formats=[copy.deepcopy(getattr(mtq, f)) for f in formats],
                      data_loader=data, forward_step=lambda m, b: m(**b), loss_func=lambda o, b: o.loss,
                      num_calib_steps=len(data), num_score_steps=len(data), verbose=False)
    peak = 0
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    took = time.time() - start
    print(f"{what}: {took:.1f} s, peak {peak / 1e9:.1f} GB", flush=True)
    del m
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return took


def as_upstream(rows):
    padded = batches(rows, 8, 512)
    what = "padded to 512, batches of 8"
    some = int(os.environ.get("BATCHES", -1))
    for f in FORMATS if some < 0 else []:
        run(f"{f}, {what}", [f], padded)
    if some <= 0:
        return
    few, more = (run(f"{FORMATS[0]}, {what}, {n} of {len(padded)}", FORMATS[:1], padded[:n]) for n in (some // 3, some))
    each = (more - few) / (some - some // 3)
    print(f"{FORMATS[0]}, {what}: {more + each * (len(padded) - some):.1f} s, extrapolated", flush=True)


def main():
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    print("modelopt", modelopt.__version__, "torch", torch.__version__, name, flush=True)
    rows = samples(sys.argv[1])
    run("warm-up", FORMATS[:1], batches(rows[:16], 8, 512))
    as_upstream(rows)
    run("all in one call, batches of 64 padded to their longest", FORMATS, batches(rows, 64, 0))


if __name__ == "__main__":
    main()
