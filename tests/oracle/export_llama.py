#!/usr/bin/env python3
"""KL of llama.cpp's logits from transformers' in float32, for a GGUF file of aq-export: unquantized, and with a recipe.

    pip install torch transformers==5.24.0 numpy llama-cpp-python==0.3.36 gguf==0.19.0
    python tests/oracle/export_llama.py SOURCE TEXTS FILE.gguf [OUT.json NAME [LIMIT]]

transformers computes in float32 with the weights that the file holds (gguf.dequantize, NVFP4's second level applied, rows of q and k
in the checkpoint's order), so what is left is llama.cpp's own arithmetic: activations in bf16 beside bf16 weights, and in int8 blocks of
32 beside quantized ones. Each line of TEXTS is a text; their tokens come from the checkpoint's tokenizer. Also says how far the file is
from the checkpoint itself, over all positions and over those that a token follows, and on how many positions the most likely token is the same. Fails if the mean KL is over LIMIT; OUT.json
gets the figures under NAME.
"""
import hashlib, json, os, re, sys
from importlib.metadata import version

import gguf
import numpy as np
import torch
import transformers
import llama_cpp

transformers.utils.logging.disable_progress_bar()
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def load(source):
    config = json.load(open(source + "/config.json"))
    return getattr(transformers, config["architectures"][0]).from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()


def decoded(model, path):
    """The model with the weights of the file."""
    r = gguf.GGUFReader(path)
    tensors = {t.name: t for t in r.tensors}
    arch = r.fields["general.architecture"].contents()
    heads = {k: r.fields[f"{arch}.attention.{n}"].contents() for k, n in (("attn_q", "head_count"), ("attn_k", "head_count_kv"))}
    layers = getattr(model.model, "language_model", model.model).layers
    for name, t in tensors.items():
        m = re.match(r"blk\.(\d+)\.(\w+)\.weight$", name)
        if not m or m[2] not in (*NAMES, *EXPERTS):
            continue
        w = torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).astype(np.float32).copy())
        if name[:-7] + ".scale" in tensors:  # of experts one each
            w = w * torch.from_numpy(tensors[name[:-7] + ".scale"].data.copy()).reshape(-1, *[1] * (w.ndim - 1))
        if m[2] in EXPERTS:  # transformers has gate above up
            experts = layers[int(m[1])].mlp.experts
            into = experts.down_proj if m[2] == EXPERTS[2] else experts.gate_up_proj
            first = w.shape[1] if m[2] == EXPERTS[1] else 0
            with torch.no_grad():
                into[:, first:first + w.shape[1]] = w
            continue
        if arch == "llama" and m[2] in heads:
            n = heads[m[2]]
            w = w.reshape(n, w.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
        with torch.no_grad():
            layers[int(m[1])].get_submodule(NAMES[m[2]]).weight.copy_(w)
    return model


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def main(source, texts, path, out=None, name=None, limit=None):
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    llm = llama_cpp.Llama(path, n_ctx=512, n_batch=512, n_ubatch=512, n_threads=int(os.environ.get("THREADS", 2)), logits_all=True, verbose=False, type_k=0, type_v=0,
                          flash_attn=False)
    plain, held = load(source), decoded(load(source), path)
    rows, effect, counted, same, tokens = [], [], [], 0, 0
    for text in open(texts).read().splitlines():
        ids = tokenizer(text)["input_ids"][:512]
        tokens += llm.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text)["input_ids"]
        llm.reset()
        llm.eval(ids)
        got = torch.log_softmax(torch.tensor(np.array(llm.scores[:len(ids)])).double(), -1)
        with torch.no_grad():
            p, q = (torch.log_softmax(m(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), -1) for m in (held, plain))
        got = got[:, :p.shape[1]]
        rows += kl(p, got).tolist()
        effect += kl(q, p).tolist()
        counted += kl(q, p).tolist()[:-1]
        same += int((p.argmax(-1) == got.argmax(-1)).sum())
    figures = {"kl": float(np.mean(rows)), "effect": float(np.mean(effect)), "effect_before_targets": float(np.mean(counted)), "top1": same / len(rows), "positions": len(rows), "texts_tokenized_alike": tokens,
               "sha256": hashlib.sha256(open(path, "rb").read()).hexdigest()}
    print(name or path, json.dumps(figures))
    if out:
        all_of_them = json.load(open(out)) if os.path.exists(out) else {}
        all_of_them["versions"] = {n: version(n) for n in ("torch", "transformers", "gguf")} | {"llama-cpp-python": llama_cpp.__version__}
        all_of_them[name] = figures
        json.dump(all_of_them, open(out, "w"), indent=1)
    if limit and not figures["kl"] < float(limit):
        sys.exit(f"FAILED: {figures['kl']} is not under {limit}")


if __name__ == "__main__":
    main(*sys.argv[1:])
