#!/usr/bin/env python3
"""AutoRound's AutoScheme (delta loss) on one GPU, for the comparison of docs/performance.md.

    tests/bench/autoround_gpu.py TOKENS.safetensors

A model with the dimensions of Qwen3-VL-4B's language model and random weights, two options (INT4 in groups of 128, and INT8,
weights only), the head left alone. AutoScheme's loader joins texts to samples of one length and asks for a tokenizer: here it
gets the ids of TOKENS, a product of aq-calib tokens, joined to samples of 256, its own length. First with the model kept on the
device, then as it is by default (a block on the device at a time, batches of 8). DEPTHS=6,12: models of so many layers, and the time
of all 36 follows from the two, every layer being the same work. Without a GPU, or with LAYERS, HIDDEN and SAMPLES in the environment,
a smaller trial.
"""
import os
import sys
import time

os.environ.setdefault("AR_ENABLE_AUTO_SCHEME_PARALLEL", "0")  # workers are for several GPUs, and load from a checkpoint

import auto_round  # noqa: E402
import torch  # noqa: E402
from auto_round.auto_scheme import delta_loss  # noqa: E402
from auto_round.auto_scheme.gen_auto_scheme import AutoScheme, GenScheme  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = ["W4A16", "W8A16"]
LENGTH = 256


def samples(path):
    with safe_open(path, "pt") as f:
        ids = f.get_tensor("ids").long()
    count = int(os.environ.get("SAMPLES", -(-len(ids) // LENGTH)))
    ids = torch.cat([ids, ids[: LENGTH * count]])  # the last sample is filled from the first
    return ids[: LENGTH * count].reshape(count, LENGTH)


def model(layers):
    hidden = int(os.environ.get("HIDDEN", 2560))
    config = Qwen3Config(hidden_size=hidden, intermediate_size=hidden * 19 // 5, num_hidden_layers=layers,
                         num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=151936, rope_theta=5e6,
                         rms_norm_eps=1e-6, tie_word_embeddings=True, dtype=torch.bfloat16)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        m = Qwen3ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    m.config._name_or_path = None  # else its scores are kept in a cache for the next call
    return m


def run(layers, rows, **options):
    m = model(layers)
    names = [n for n, layer in m.named_modules() if isinstance(layer, torch.nn.Linear) and n != "lm_head"]
    delta_loss.get_dataloader = lambda *_, bs, **__: [{"input_ids": b, "attention_mask": torch.ones_like(b)} for b in rows.split(bs)]
    scheme = AutoScheme(avg_bits=6.0, options=list(OPTIONS), nsamples=len(rows), seqlen=LENGTH, device_map=DEVICE, **options)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.time()
    chosen = GenScheme(scheme, m, names, {}, tokenizer=object(), enable_torch_compile=False).get_layer_config()
    took = time.time() - start
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if DEVICE == "cuda" else ""
    print(f"  {layers} layers: {took:.1f} s{peak}, {len(chosen)} linears", flush=True)
    del m
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return took


def measure(what, rows, **options):
    layers = int(os.environ.get("LAYERS", 36))
    depths = [int(d) for d in os.environ.get("DEPTHS", str(layers)).split(",")]
    took = [run(d, rows, **options) for d in depths]
    found, how = took[-1], ""
    if depths[-1] != layers:
        found += (took[-1] - took[0]) / (depths[-1] - depths[0]) * (layers - depths[-1])
        how = ", extrapolated"
    print(f"AutoScheme, {' and '.join(OPTIONS)}, {what}, batches of 8: {found:.1f} s{how}", flush=True)


def main():
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    print("auto-round", auto_round.__version__, "torch", torch.__version__, name, flush=True)
    rows = samples(sys.argv[1])
    measure("model on the device", rows, low_gpu_mem_usage=False, batch_size=8)
    measure("a block at a time", rows, low_cpu_mem_usage=False)


if __name__ == "__main__":
    main()
