#!/usr/bin/env python3
"""Hugging Face tokenizers, one thread, as tests/bench/tokens.c: tokens.py TOKENIZER_JSON CAPTIONS ROUNDS."""
import hashlib
import sys
import time

from tokenizers import Tokenizer


def least(rounds, work):
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        result = work()
        times.append((time.thread_time() - start) * 1e3)
    return min(times), result


rounds = int(sys.argv[3])
captions = [line.strip() for line in open(sys.argv[2], encoding="utf-8") if line.strip()]
load, tok = least(rounds, lambda: Tokenizer.from_file(sys.argv[1]))
# encode_batch_fast, in one call, is the quickest way in: no character offsets, no Python between captions
encode, out = least(rounds, lambda: tok.encode_batch_fast(captions, add_special_tokens=False))
text = "".join("".join(f"{i} " for i in e.ids) + "\n" for e in out)
print(f"{load:.1f}\t{encode:.2f}\t{sum(len(e.ids) for e in out)}\t{hashlib.sha256(text.encode()).hexdigest()}")
