"""A GGUF file of aq-export against the package gguf: values of every tensor, keys, tokenizer; and llama.cpp if it is there.

    pip install gguf==0.19.0 numpy
    python tests/oracle/export_gguf.py tests/export-gguf.json FILE.gguf SOURCE tests/oracle/export/gguf.json

    python tests/oracle/export_gguf.py tests/export-gguf-experts.json FILE.gguf models/qwen3_moe_demo/checkpoint tests/oracle/export/gguf_experts.json

FILE was written by aq-export from SOURCE for the recipe named first; with a `cycle`, the groups of a mixture take it in turn, gate with up
and down of the experts as a group each. Fails if gguf.dequantize gives other values than the blocks
should hold. Writes a digest of every tensor, so that the same bytes can be known again without Python.
"""
import hashlib, json, re, sys
import numpy as np
import gguf
from importlib.metadata import version

f32, f16 = np.float32, np.float16
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate": "ffn_gate_inp", "mlp.experts.gate_proj": "ffn_gate_exps",
         "mlp.experts.up_proj": "ffn_up_exps", "mlp.experts.down_proj": "ffn_down_exps"}
E4 = np.array([(m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0**(e - 7)) for e in range(16) for m in range(8)][:127])
E2, EDGE = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], f32), np.array([.25, .75, 1.25, 1.75, 2.5, 3.5, 5], f32)


def read(d):
    import os, struct
    out = {}
    for f in sorted(os.listdir(d)):
        if f.endswith(".safetensors"):
            b = open(os.path.join(d, f), "rb").read()
            n = struct.unpack("<Q", b[:8])[0]
            for k, v in json.loads(b[8:8 + n]).items():
                if k != "__metadata__":
                    a, e = v["data_offsets"]
                    u = np.frombuffer(b[8 + n + a:8 + n + e], np.uint16).astype(np.uint32) << 16
                    out[k] = u.view(f32).reshape(v["shape"])
    return out


def e4m3(x):
    hi = np.clip(np.searchsorted(E4, x), 0, 126)
    lo = np.maximum(hi - 1, 0)
    up = (E4[hi] - x < x - E4[lo]) | ((E4[hi] - x == x - E4[lo]) & (hi % 2 == 0))
    return np.where(up | (x == E4[hi]), E4[hi], E4[lo])


def e2m1(x):
    a = np.abs(x)
    c = np.searchsorted(EDGE, a, side="left")
    c = c + ((c < 7) & (a == EDGE[np.minimum(c, 6)]) & (c % 2 == 1))
    return np.copysign(E2[c], x)


def expected(w, text):
    number, scope, _ = re.match(r"(\w+):(.*):(\w+)$", text).groups()
    r, c = w.shape
    n = int(re.search(r"-1:(\d+)", scope)[1]) if "-1:" in scope else int(re.search(r"\((\d+)\)", scope)[1]) if "(" in scope else c
    b = w.reshape(r, c // n, n)
    m = np.abs(b).max(2, keepdims=True)
    if scope == "tensor":
        m = np.full_like(m, np.abs(w).max())
    if number.startswith("int"):  # codes for the scale as fp16 holds it
        hi = f32(2 ** (int(number[3:]) - 1) - 1)
        d = (m / hi).astype(f16).astype(f32)
        y = np.clip(np.rint(b / d), -hi - 1, hi) * d
    elif scope.startswith("nvfp4"):
        gs = np.abs(w).max() / f32(2688)
        sc = e4m3(np.minimum(m / (f32(6) * gs), f32(448))).astype(f32)
        s = sc * gs
        y = e2m1((b / np.where(s < f32(1e-5), f32(1), s)).astype(f32)) * sc * gs
    else:
        s = (2.0 ** np.ceil(np.log2(m.astype(np.float64) / 6))).astype(f32)
        y = e2m1(b / s) * s
    return y.reshape(r, c).astype(f32)


PARTS = ("gate_proj", "up_proj", "down_proj")


def stacked(S):
    """Tensors of experts one above the other, under the name without a number."""
    out = {}
    for k, w in S.items():
        m = re.match(r"(.*\.mlp)\.experts\.(\d+)\.(\w+)\.weight$", k)
        if m:
            out.setdefault(f"{m[1]}.experts.{m[3]}.weight", {})[int(m[2])] = w
        else:
            out[k] = w
    return {k: np.stack([w[e] for e in sorted(w)]) if isinstance(w, dict) else w for k, w in out.items()}


def cycled(cycle, layers):
    groups = [f"layers.{l}.{g}" for l in range(layers) for g in ("self_attn.q_proj", "self_attn.o_proj", "mlp.experts.gate_up", "mlp.experts.down")]
    return [[f"^{re.escape(g)}$", cycle[i % len(cycle)]] for i, g in enumerate(groups)]


def expected_experts(S, name, w, text):
    """An expert's gate and up are one matrix, with one range where it spans a tensor."""
    if name.endswith("down_proj.weight"):
        return np.stack([expected(x, text) for x in w])
    both = [np.concatenate(x) for x in zip(*(S[re.sub(r"(gate|up)_proj", p, name)] for p in PARTS[:2]))]
    first = w.shape[1] if "up_proj" in name else 0
    return np.stack([expected(x, text)[first:first + w.shape[1]] for x in both])


def main(mix, path, source, out):
    mix, S, r = json.load(open(mix)), stacked(read(source)), gguf.GGUFReader(path)
    T, bad, stats = {t.name: t for t in r.tensors}, [], {}
    if "cycle" in mix:
        mix["recipe"] = cycled(mix["cycle"], json.load(open(source + "/config.json"))["num_hidden_layers"])
    for k, w in S.items():
        m = re.match(r"model\.(?:language_model\.)?(.*)\.weight$", k)
        if not m:
            continue
        n, l = m[1], re.match(r"layers\.(\d+)\.(.*)", m[1])
        name = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(n) or f"blk.{l[1]}.{NAMES[l[2]]}"
        t = T.pop(name + ".weight")
        x = gguf.dequantize(t.data, t.tensor_type).reshape(w.shape).astype(f32)
        text = "none"
        if l:
            first = {"mlp.experts.gate_proj": "mlp.experts.gate_up", "mlp.experts.up_proj": "mlp.experts.gate_up",
                     "mlp.experts.down_proj": "mlp.experts.down", "self_attn.k_proj": "self_attn.q_proj", "self_attn.v_proj": "self_attn.q_proj", "mlp.up_proj": "mlp.gate_proj"}
            c = [c for p, c in mix["recipe"] if re.search(p, f"layers.{l[1]}.{first.get(l[2], l[2])}")]
            if c and w.ndim > 1:
                text = mix["treatments"].get(c[-1], ["none"])[0]
        if name + ".scale" in T:
            x = (x * T.pop(name + ".scale").data.astype(f32).reshape(-1, *[1] * (x.ndim - 1))).astype(f32)
        y = w if text == "none" else expected_experts(S, k, w, text) if w.ndim == 3 else expected(w, text)
        e = stats.setdefault(f"{t.tensor_type.name} {text}", [0, 0, 0.0])
        e[0] += w.size
        e[1] += int((x != y).sum())
        e[2] = max(e[2], float((np.abs(x - y) / np.where(y == 0, 1, np.abs(y))).max()))
        if e[2] > (2e-7 if "nvfp4" in text else 0):
            bad.append((name, e))
    for k, e in stats.items():
        print(f"{k:40} weights {e[0]}, other values {e[1]}, largest relative difference {e[2]:.1e}")
    if T:
        bad.append(("tensors too many", list(T)))
    tokens = json.load(open(source + "/tokenizer.json"))
    get = lambda k: r.fields[k].contents()
    vocab = {**tokens["model"]["vocab"], **{t["content"]: t["id"] for t in tokens["added_tokens"]}}
    listed = get("tokenizer.ggml.tokens")
    wrong = [k for k, v in vocab.items() if listed[v] != k]
    if wrong or get("tokenizer.ggml.merges") != [m if isinstance(m, str) else " ".join(m) for m in tokens["model"]["merges"]]:
        bad.append(("tokenizer", wrong[:3]))
    keys = {k: (f.contents() if f.types[0] != gguf.GGUFValueType.ARRAY or len(f.contents()) < 9 else len(f.contents()))
            for k, f in r.fields.items() if not k.startswith("GGUF.")}
    if bad:
        sys.exit(f"FAILED: {bad[:5]}")
    digests = {t.name: {"type": t.tensor_type.name, "sha256": hashlib.sha256(t.data.tobytes()).hexdigest()} for t in r.tensors}
    json.dump({"versions": {"gguf": version("gguf"), "numpy": np.__version__}, "values": stats, "keys": keys, "tensors": digests},
              open(out, "w"), indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
