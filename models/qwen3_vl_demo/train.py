#!/usr/bin/env python3
"""Trains the demo model on encoded captions and writes its checkpoint; needs PyTorch and safetensors, one GPU or a CPU.

    train.py --corpus corpus.safetensors --valid valid.safetensors --tokenizer DIR -o checkpoint --log train.log

--model FILE: another model.py, as ../qwen3_moe_demo/model.py.
"""
import argparse
import importlib.util
import json
import math
import os
import platform
import time

import torch
import torch.nn.functional as F

demo = None  # the model's module, see main


def module_of(path):
    spec = importlib.util.spec_from_file_location("demo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Captions:
    """Rows padded to the longest, on the device; ids in int16."""

    def __init__(self, path, device):
        from safetensors.torch import load_file

        data = load_file(path)
        offsets = data["offsets"].long()
        self.lengths = offsets[1:] - offsets[:-1]
        row = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        column = torch.arange(len(data["ids"])) - offsets[:-1][row]
        self.rows = torch.zeros(len(self.lengths), int(self.lengths.max()), dtype=torch.int16)
        self.rows[row, column] = data["ids"]
        self.ids, self.offsets = data["ids"].long().to(device), offsets
        self.rows, self.lengths_d = self.rows.to(device), self.lengths.to(device)

    def batches(self, size, generator):
        """Index batches of captions of like length, in random order."""
        order = torch.randperm(len(self.lengths), generator=generator)
        out = []
        for chunk in order.split(size * 32):
            chunk = chunk[self.lengths[chunk].argsort(stable=True)]
            out += [b for b in chunk.split(size) if len(b) == size]
        return [out[i] for i in torch.randperm(len(out), generator=generator)]

    def batch(self, index):
        lengths = self.lengths_d[index.to(self.rows.device)]
        return self.rows[index.to(self.rows.device), : int(self.lengths[index].max())].long(), lengths


def with_ends(ids, lengths, end, leading):
    """[end] caption end: the form that a document has in pretraining; half of the batches begin without it."""
    ids = F.pad(ids, (1 if leading else 0, 1), value=end)
    return ids, lengths + (2 if leading else 1)


def ngrams(train, valid, v):
    """Held-out loss of a unigram and of an interpolated bigram model, over the tokens that the model predicts too."""
    def pairs(c):
        first = torch.zeros(len(c.ids), dtype=torch.bool)
        first[c.offsets[:-1]] = True
        first = first.to(c.ids.device)
        return c.ids[:-1][~first[1:]], c.ids[1:][~first[1:]]

    a, b = pairs(train)
    unigram = (torch.bincount(b, minlength=v).double() + 1) / (len(b) + v)
    bigram = torch.bincount(a * v + b, minlength=v * v).view(v, v).double()
    x, y = pairs(valid)
    strength = 5.0  # pseudo-counts of the unigram behind each bigram row
    p = (bigram[x, y] + strength * unigram[y]) / (bigram.sum(1)[x] + strength)
    return float(-unigram[y].log().mean()), float(-p.log().mean())


@torch.no_grad()
def evaluate(model, data):
    total = count = 0
    for index in torch.arange(len(data.lengths)).split(1024):
        s, n = demo.loss_sum(model, *data.batch(index))
        total, count = total + s.double().item(), count + n.item()
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--valid", required=True)
    parser.add_argument("--tokenizer", required=True, metavar="DIR")
    parser.add_argument("-o", required=True, metavar="DIR")
    parser.add_argument("--log", required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--model", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.py"), metavar="FILE")
    args = parser.parse_args()
    global demo
    demo = module_of(args.model)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    log_file = open(args.log, "w", encoding="utf-8")

    def log(text):
        print(text, flush=True)
        log_file.write(text + "\n")
        log_file.flush()

    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    with open(os.path.join(args.tokenizer, "tokenizer.json"), encoding="utf-8") as f:
        added = {t["content"]: t["id"] for t in json.load(f)["added_tokens"]}
    end, vocab = added["<|endoftext|>"], demo.TEXT["vocab_size"]
    started = time.time()
    train, valid = Captions(args.corpus, device), Captions(args.valid, device)
    net = demo.Text(demo.TEXT).to(device)
    text_parameters = sum(p.numel() for p in net.parameters())
    log("torch %s, python %s, %s" % (torch.__version__, platform.python_version(), torch.cuda.get_device_name() if device == "cuda" else "CPU"))
    log("text parameters %d, corpus %d captions %d tokens, held out %d captions %d tokens" %
        (text_parameters, len(train.lengths), len(train.ids), len(valid.lengths), len(valid.ids)))
    log("steps %d, batch %d captions, lr %g, weight decay %g, seed %d, bf16 autocast over fp32 weights" %
        (args.steps, args.batch, args.lr, args.decay, args.seed))
    unigram, bigram = ngrams(train, valid, vocab)
    log("held-out loss in nats per token: unigram %.4f, bigram %.4f" % (unigram, bigram))

    matrices = [p for p in net.parameters() if p.dim() >= 2]
    others = [p for p in net.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=args.decay), dict(params=others, weight_decay=0.0)],
                                  lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda")
    generator = torch.Generator().manual_seed(args.seed)
    warmup, queue, running = min(500, args.steps // 10), [], []
    for step in range(args.steps):
        rate = (step + 1) / warmup if step < warmup else 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warmup) / (args.steps - warmup)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        queue = queue or train.batches(args.batch, generator)
        index = queue.pop()
        ids, lengths = with_ends(*train.batch(index), end, step % 2 == 0)
        # the padding behind a shorter caption is never a target, but its closing token must be
        ids[torch.arange(len(ids), device=device), lengths - 1] = end
        with torch.autocast(device, torch.bfloat16):
            total, count = demo.loss_sum(net, ids, lengths)
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running.append(loss.detach())
        if (step + 1) % max(args.steps // 24, 1) == 0:
            log("step %6d  lr %.2e  train %.4f  held out %.4f  %6.1f s" %
                (step + 1, args.lr * rate, torch.stack(running).mean().item(), evaluate(net, valid), time.time() - started))
            running = []

    demo.save(net, args.o, args.seed, added.__getitem__)
    final = demo.load(args.o).to(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    log("held-out loss of the bf16 checkpoint in fp32: %.4f (perplexity %.2f); unigram %.4f, bigram %.4f" %
        (evaluate(final, valid), math.exp(evaluate(final, valid)), unigram, bigram))
    log("wall time %.1f s" % (time.time() - started))


if __name__ == "__main__":
    main()
