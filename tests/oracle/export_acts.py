"""Quantized activations: the mean KL of an exported checkpoint, by transformers with compressed-tensors' own forward pass.

    pip install torch transformers==5.24.0 compressed-tensors==0.20.1 accelerate
    python tests/oracle/export_acts.py EXPORT SOURCE IDS.json tests/oracle/export/acts.json

EXPORT was written by aq-export from SOURCE for the recipe of tests/export-acts.json (tests/55-export.bats does it); IDS.json holds
token ids, a list for each text. Both models compute in fp32, and activations are quantized by compressed-tensors: nothing here is
aq's. The mean over at least 4,096 positions is what aq-eval of the same directory must find within 2 %: one code that falls on the other
side of a tie moves single positions by as much as the quantization itself.
"""
import hashlib, json, math, os, re, struct, sys
import torch
import compressed_tensors, transformers


def digests(d):
    out = {}
    for f in sorted(os.listdir(d)):
        if f.endswith(".safetensors"):
            b = open(os.path.join(d, f), "rb").read()
            n = struct.unpack("<Q", b[:8])[0]
            for k, v in json.loads(b[8:8 + n]).items():
                if k != "__metadata__" and not re.search(r"input_scale$", k):
                    a, e = v["data_offsets"]
                    out[k] = hashlib.sha256(b[8 + n + a:8 + n + e]).hexdigest()
    return out


def main(export, source, ids, out):
    config = json.load(open(os.path.join(export, "config.json")))
    cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(export, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    ref = cls.from_pretrained(source, dtype=torch.float32).eval()
    model.eval()
    quantized = sum(getattr(m, "quantization_scheme", None) is not None and m.quantization_scheme.input_activations is not None
                    for m in model.modules())
    assert quantized == 49, quantized  # seven linears of seven layers
    texts = json.load(open(ids))
    ends = [k + 1 for k in range(len(texts)) if sum(len(t) - 1 for t in texts[:k + 1]) >= 4096]
    texts = texts[:ends[0]]
    sums, counts = [], []
    for at in range(0, len(texts), 48):  # filled up at their ends, which no position before them sees
        some = texts[at:at + 48]
        batch = torch.tensor([t + [0] * (max(map(len, some)) - len(t)) for t in some])
        with torch.no_grad():
            a = ref(input_ids=batch).logits.double().log_softmax(-1)
            b = model(input_ids=batch).logits.double().log_softmax(-1)
        kl = (a.exp() * (a - b)).sum(-1)
        for t, k in zip(some, kl):
            sums.append(float(k[:len(t) - 1].sum()))
            counts.append(len(t) - 1)
    n, m = sum(counts), len(sums)
    mean = sum(sums) / n
    error = math.sqrt(m / (m - 1) * sum((s - mean * c) ** 2 for s, c in zip(sums, counts))) / n
    print(f"KL {mean:.6e} +- {error:.1e} nats over {n} positions of {m} texts")
    json.dump({"versions": {"compressed-tensors": compressed_tensors.__version__, "transformers": transformers.__version__,
                            "torch": torch.__version__}, "kl": mean, "se": error, "positions": n, "texts": m,
               "tensors": hashlib.sha256("".join(sorted(f"{k} {v}\n" for k, v in digests(export).items())).encode()).hexdigest()}, open(out, "w"), indent=1)


main(*sys.argv[1:])
