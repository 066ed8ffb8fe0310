#!/usr/bin/env python3
"""The language model that aq-extract-lm cuts out gives the logits of the whole model, says transformers.

    tests/oracle/materialize.py      after `make all test-bin`; writes tests/oracle/materialize/

A random Qwen3-VL checkpoint and the demo model are loaded by Qwen3VLForConditionalGeneration, their copies by
Qwen3ForCausalLM, all in float64. Kept are logits of one position and the sha256 of the copies' files:
tests/21-extract.bats makes the copies again and compares the bytes.
"""
import hashlib
import json
import os
import subprocess
import tempfile

import torch
import transformers
from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
OUT = os.path.join(HERE, "materialize")
BUILD = os.path.join(ROOT, os.environ.get("O", "build"))


def digest(checkpoint, *options):
    out = subprocess.run([f"{BUILD}/bin/aq-extract-lm", *options, checkpoint], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)["digest"]["sha256"]


def compare(name, full, copy):
    before = digest(full, "--materialize", copy)
    ids = torch.tensor([[1, 5, 9, 500, 3, 3, 77, 123, 0, 256, 42]])
    with torch.no_grad():
        vl = Qwen3VLForConditionalGeneration.from_pretrained(full, dtype=torch.float64)
        a = vl(input_ids=ids).logits
        model, info = Qwen3ForCausalLM.from_pretrained(copy, dtype=torch.float64, output_loading_info=True)
        b = model(input_ids=ids).logits
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    # the vision-language model rotates by fp32 tables made for three axes; the tables are equal for text
    assert torch.equal(a, b), (a - b).abs().max()
    # what transformers saves is the same language model, under three prefixes
    for saved, part in (("vl", vl), ("lm", model), ("base", model.model)):
        part.to(torch.bfloat16).save_pretrained(f"{copy}.{saved}", max_shard_size="1MB")
        assert digest(f"{copy}.{saved}") == before, saved
    with open(os.path.join(OUT, f"{name}.sha256sums"), "w") as f:
        for file in sorted(os.listdir(copy)):
            f.write(hashlib.sha256(open(os.path.join(copy, file), "rb").read()).hexdigest() + "  " + file + "\n")
    return {"ids": ids[0].tolist(), "largest_difference": float((a - b).abs().max()), "last_position": b[0, -1, :16].tolist()}


def main():
    os.makedirs(OUT, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        random = os.path.join(tmp, "from")
        subprocess.run([f"{BUILD}/tests/random_checkpoint", "--seed", "7", random], check=True)
        found = {"transformers": transformers.__version__, "torch": torch.__version__,
                 "random": compare("random", random, os.path.join(tmp, "to")),
                 "demo": compare("demo", os.path.join(ROOT, "models/qwen3_vl_demo/checkpoint"), os.path.join(tmp, "demo"))}
    with open(os.path.join(OUT, "logits.json"), "w") as f:
        json.dump(found, f, indent=1)
        f.write("\n")


main()
