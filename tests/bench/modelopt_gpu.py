#!/usr/bin/env python3
"""ModelOpt's auto_quantize (gradient) on one GPU, for the comparison of docs/performance.md.

    tests/bench/modelopt_gpu.py TOKENS.safetensors

A model with the dimensions of Qwen3-VL-4B's language model and random weights; samples in batches of 8, padded on the left
to 512 and one call a format, as the published sweep drives it; then its best settings: all formats in one call, batches of
64 samples padded to their longest. TOKENS is a product of aq-calib tokens.
"""
import copy
import sys
import time

import modelopt
import modelopt.torch.quantization as mtq
import torch
from safetensors import safe_open
from transformers import Qwen3Config, Qwen3ForCausalLM

FORMATS = ["FP8_DEFAULT_CFG", "INT8_DEFAULT_CFG", "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"]
PAD = 151643


def samples(path):
    with safe_open(path, "pt") as f:
        ids, at = f.get_tensor("ids").long(), f.get_tensor("offsets").tolist()
    return [ids[a:b] for a, b in zip(at, at[1:])]


def batches(rows, size, length):
    out = []
    for i in range(0, len(rows), size):
        some = rows[i : i + size]
        n = length or max(len(r) for r in some)
        ids = torch.full((len(some), n), PAD)
        for k, r in enumerate(some):
            ids[k, n - len(r) :] = r
        mask = ids != PAD
        out.append({"input_ids": ids.cuda(), "attention_mask": mask.long().cuda(),
                    "labels": torch.where(mask, ids, -100).cuda()})
    return out


def model():
    config = Qwen3Config(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, vocab_size=151936, rope_theta=5e6, rms_norm_eps=1e-6,
                         tie_word_embeddings=True, dtype=torch.bfloat16)
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        return Qwen3ForCausalLM(config).eval()


def run(what, formats, data):
    m = model()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.time()
    mtq.auto_quantize(m, constraints={"effective_bits": 11.0},
                      quantization_formats=[copy.deepcopy(getattr(mtq, f)) for f in formats],
                      data_loader=data, forward_step=lambda m, b: m(**b), loss_func=lambda o, b: o.loss,
                      num_calib_steps=len(data), num_score_steps=len(data), verbose=False)
    torch.cuda.synchronize()
    print(f"{what}: {time.time() - start:.1f} s, peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)
    del m
    torch.cuda.empty_cache()


def main():
    print("modelopt", modelopt.__version__, "torch", torch.__version__, torch.cuda.get_device_name(), flush=True)
    rows = samples(sys.argv[1])
    run("warm-up", FORMATS[:1], batches(rows[:16], 8, 512))
    padded = batches(rows, 8, 512)
    for f in FORMATS:
        run(f"{f}, padded to 512, batches of 8", [f], padded)
    run("all in one call, batches of 64 padded to their longest", FORMATS, batches(rows, 64, 0))


if __name__ == "__main__":
    main()
