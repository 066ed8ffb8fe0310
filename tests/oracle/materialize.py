#!/usr/bin/env python3
"""The language model that aq-extract-lm cuts out gives the logits of the whole model, says transformers.

    tests/oracle/materialize.py      after `make`; writes tests/oracle/materialize/

A random Qwen3-VL checkpoint is loaded by Qwen3VLForConditionalGeneration, its copy by Qwen3ForCausalLM, both in
float64. Kept are the logits of a few positions and the sha256 of the copy's files: tests/21-extract.bats makes the
copy again and compares the bytes.
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
OUT = os.path.join(HERE, "materialize")
BUILD = os.path.join(HERE, "..", "..", os.environ.get("O", "build"))


def main():
    with tempfile.TemporaryDirectory() as tmp:
        full, copy = os.path.join(tmp, "from"), os.path.join(tmp, "to")
        subprocess.run([f"{BUILD}/tests/random_checkpoint", "--seed", "7", full], check=True)
        subprocess.run([f"{BUILD}/bin/aq-extract-lm", "--materialize", copy, "-o", f"{tmp}/lm.json", full], check=True)
        ids = torch.tensor([[1, 5, 9, 500, 3, 3, 77, 123, 0, 256, 42]])
        with torch.no_grad():
            a = Qwen3VLForConditionalGeneration.from_pretrained(full, dtype=torch.float64)(input_ids=ids).logits
            model, info = Qwen3ForCausalLM.from_pretrained(copy, dtype=torch.float64, output_loading_info=True)
            b = model(input_ids=ids).logits
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        # the vision-language model rotates by fp32 tables made for three axes; the tables are equal for text
        assert torch.equal(a, b), (a - b).abs().max()
        os.makedirs(OUT, exist_ok=True)
        with open(os.path.join(OUT, "logits.json"), "w") as f:
            json.dump({"transformers": transformers.__version__, "torch": torch.__version__, "ids": ids[0].tolist(),
                       "largest_difference": float((a - b).abs().max()), "last_position": b[0, -1, :16].tolist()}, f, indent=1)
            f.write("\n")
        with open(os.path.join(OUT, "sha256sums"), "w") as f:
            for name in sorted(os.listdir(copy)):
                f.write(hashlib.sha256(open(os.path.join(copy, name), "rb").read()).hexdigest() + "  " + name + "\n")


main()
