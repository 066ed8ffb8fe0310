#!/usr/bin/env python3
"""ModelOpt's auto_quantize on the CPU: seconds of one batch of 8 captions, in fp32 on all CPUs.

    auto_quantize.py CHECKPOINT TOKENS QUANT.json...

One line of TSV for each cell with batches padded to the data set's length, as upstream drives it, and for the first
cell also one with batches padded to their longest caption alone: the kind of batch, wall and CPU seconds a batch.
What a run costs before its first batch is measured with a batch of two tokens and taken off.
"""
import json
import os
import sys
import time

import modelopt.torch.quantization as mtq
import safetensors
import torch
import transformers

BATCH = 8


def attributes(cfg):
    """As ModelOpt spells them: integer keys of blocks, tuples for float formats."""
    def value(v):
        if isinstance(v, dict):
            return {int(k) if k.lstrip("-").isdigit() else k: value(x) for k, x in v.items()}
        return tuple(v) if isinstance(v, list) else v

    return {k: value(v) for k, v in cfg.items()}


def read_format(path):
    with open(path) as f:
        quant = json.load(f)
    entries = {k: [attributes(c) for c in v] if isinstance(v, list) else attributes(v)
               for k, v in quant["quant_cfg"].items()}
    return {"quant_cfg": entries, "algorithm": quant["algorithm"]}


def read_batches(path):
    """Left-padded to the data set's length, and to the longest of each batch."""
    with safetensors.safe_open(path, "pt") as f:
        meta = json.loads(f.metadata()["aq"])
        ids, offsets = f.get_tensor("ids").tolist(), f.get_tensor("offsets").tolist()
    samples = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
    padded, unpadded = [], []
    for at in range(0, len(samples), BATCH):
        part = samples[at:at + BATCH]
        for to, length in ((padded, meta["seq_len"]), (unpadded, max(map(len, part)))):
            rows = [[meta["pad_id"]] * (length - len(s)) + s for s in part]
            mask = [[0] * (length - len(s)) + [1] * len(s) for s in part]
            to.append({"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)})
    return meta["pad_id"], padded, unpadded


def seconds(path, config, batches, pad_id):
    def loss(output, batch):
        targets = batch["input_ids"][:, 1:].reshape(-1)
        logits = output.logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=pad_id)

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    wall, cpu = time.perf_counter(), time.process_time()
    mtq.auto_quantize(model.eval(), constraints={"effective_bits": 16.0}, quantization_formats=[config],
                      data_loader=batches, forward_step=lambda m, b: m(**b), loss_func=loss, method="gradient",
                      disabled_layers=["*lm_head*"], num_calib_steps=len(batches), num_score_steps=len(batches))
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    path, tokens, *cells = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pad_id, padded, unpadded = read_batches(tokens)
    shortest = [{k: v[:, -2:] for k, v in padded[0].items()}]
    seconds(path, read_format(cells[0]), shortest, pad_id)  # the first run also loads code
    for i, cell in enumerate(cells):
        config = read_format(cell)
        start = seconds(path, config, shortest, pad_id)
        kinds = {"padded": padded[:1]} | ({"unpadded": unpadded} if i == 0 else {})
        for kind, batches in kinds.items():
            each = [(t - s) / len(batches) for t, s in zip(seconds(path, config, batches, pad_id), start)]
            print(kind, *(f"{t:.4f}" for t in each), sep="\t", flush=True)


main()
