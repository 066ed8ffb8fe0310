"""An exported checkpoint against compressed-tensors' own unpackers, transformers' loading and forward pass.

    pip install torch transformers==5.24.0 compressed-tensors==0.20.1 accelerate
    python tests/oracle/export_ct.py tests/export-mix.json EXPORT SOURCE IDS.json tests/oracle/export/ct.json
    python tests/oracle/export_ct.py tests/export-more.json EXPORT SOURCE - tests/oracle/export/ct-more.json
    python tests/oracle/export_ct.py tests/export-block.json EXPORT SOURCE IDS.json tests/oracle/export/ct-block.json

EXPORT was written by aq-export from SOURCE for the recipe named first (tests/55-export.bats does it); IDS.json holds token ids, a
list for each text; -: no forward pass (with 4-bit activations two runs of one model differ by more than the bound). Fails if a key is missing or unexpected, if a decoded weight is not what its treatment says, or if
logits differ by more than 1e-4 nats. Writes digests of all tensors, so that the same bytes can be known again without Python.
"""
import hashlib, json, os, re, struct, sys
import numpy as np
import torch
import compressed_tensors, transformers
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

f32 = np.float32


def read(d):
    out = {}
    for f in sorted(os.listdir(d)):
        if f.endswith(".safetensors"):
            b = open(os.path.join(d, f), "rb").read()
            n = struct.unpack("<Q", b[:8])[0]
            for k, v in json.loads(b[8:8 + n]).items():
                if k != "__metadata__":
                    a, e = v["data_offsets"]
                    out[k] = (v["dtype"], v["shape"], b[8 + n + a:8 + n + e])
    return out


DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "I8": torch.int8, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64,
          "F8_E4M3": torch.float8_e4m3fn}


def tensor(t):
    return torch.frombuffer(bytearray(t[2]), dtype=DTYPES[t[0]]).reshape(t[1])


# ---- treatments, in fp32 with one rounding an operation (docs/quantizers.md) ----

def e4m3(x):
    return torch.from_numpy(x).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()


E2 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], f32)
EDGE = np.array([.25, .75, 1.25, 1.75, 2.5, 3.5, 5], f32)


def e2m1(x):  # ties to the even code
    a = np.abs(x)
    c = np.searchsorted(EDGE, a, side="left")
    c = c + ((c < 7) & (a == EDGE[np.minimum(c, 6)]) & (c % 2 == 1))
    return np.copysign(E2[c], x)


def tiles(w, n):
    """Each element's range over its tile of n x n; ragged tiles end with the matrix."""
    return np.repeat(np.repeat(np.array([[np.abs(w[i:i + n, k:k + n]).max() for k in range(0, w.shape[1], n)]
                                         for i in range(0, w.shape[0], n)], f32), n, 0), n, 1)[:w.shape[0], :w.shape[1]]


def treat(w, text, amax):
    if text == "none":
        return w
    if text == "e4m3:block(-1:128,-2:128):static":
        k = (f32(1) / tiles(w, 128)) * f32(448)
        return e4m3((w * k).astype(f32)) * (f32(1) / k)
    number, scope, _ = re.match(r"(\w+):(.*):(\w+)$", text).groups()
    r, c = w.shape
    block = re.search(r"-1:(\d+)", scope)
    n = int(block.group(1)) if block else int(re.search(r"\((\d+)\)", scope).group(1)) if "(" in scope else c
    b = w.reshape(r, c // n, n)
    m = np.abs(b).max(2, keepdims=True)
    if scope == "tensor":
        m = np.full_like(m, np.abs(w).max())
    if scope.startswith("nvfp4"):
        gs = f32(amax) / f32(2688)
        s = e4m3(np.minimum(m / (f32(6) * gs), f32(448))) * gs
        s = np.where(s < f32(1e-5), f32(1), s).astype(f32)
        y = e2m1((b / s).astype(f32)) * s
    elif scope.startswith("mx"):
        top = 6 if number == "e2m1" else 448
        _, e = np.frexp(m.astype(np.float64) / top)
        e = np.where(2.0 ** (e - 1) >= m / top, e - 1, e)
        s = (2.0 ** np.where(m == 0, 0, e)).astype(f32)
        y = (e2m1(b / s) if number == "e2m1" else e4m3((b / s).astype(f32))) * s
    elif number == "e4m3":
        k = (f32(1) / np.maximum(m, f32(1e-10))) * f32(448)
        y = e4m3((b * k).astype(f32)) * (f32(1) / k)
    else:
        hi = f32(2 ** (int(number[3:]) - 1) - 1)
        s = hi / m
        y = np.clip(np.rint(b * s), -hi - 1, hi) / s
    return y.reshape(r, c).astype(f32)


def decode(name, scheme, T):
    g = lambda k: T[name + k]
    w, fmt = scheme["weights"], scheme["format"]
    if w["strategy"] == "block":
        q, s = tensor(g(".weight")).float(), tensor(g(".weight_scale"))
        return (q * s.repeat_interleave(128, 0)[:q.shape[0]].repeat_interleave(128, 1)[:, :q.shape[1]]).numpy()
    if fmt in ("int-quantized", "float-quantized"):
        return (tensor(g(".weight")).float() * tensor(g(".weight_scale"))).numpy()
    if fmt == "pack-quantized":
        q = unpack_from_int32(tensor(g(".weight_packed")), w["num_bits"], torch.Size(tensor(g(".weight_shape")).tolist())).float()
        s = tensor(g(".weight_scale")).float()
        return (q * s.repeat_interleave(q.shape[1] // s.shape[1], 1)).numpy()
    if fmt == "mxfp8-quantized":
        q = tensor(g(".weight")).float()
    else:
        p = tensor(g(".weight_packed"))
        q = unpack_fp4_from_uint8(p, p.shape[0], p.shape[1] * 2, dtype=torch.float32)
    if fmt == "nvfp4-pack-quantized":
        s = tensor(g(".weight_scale")).float() / tensor(g(".weight_global_scale"))
        return (q * s.repeat_interleave(16, 1)).numpy()
    s = torch.exp2(tensor(g(".weight_scale")).float() - 127)
    return (q * s.repeat_interleave(32, 1)).numpy()


LIMIT = {"int8_dyn": 2e-7, "int8_static": 2e-7, "nvfp4": 2e-7, "nvfp4a16": 2e-7}  # else: packed, or no difference at all


def main(mix, export, source, ids, out):
    mix = json.load(open(mix))
    S, T, cfg = read(source), read(export), json.load(open(os.path.join(export, "config.json")))
    q = cfg["quantization_config"]
    scheme_of, chosen, served = {}, {}, {}
    stats, bad = {}, []
    W = {k[:-7]: tensor(v).float().numpy() for k, v in S.items() if ".layers." in k and k.endswith("proj.weight")}
    for n in W:
        hits = [g for g in q["config_groups"].values() if any(re.match(t[3:], n) for t in g["targets"])]
        assert len(hits) <= 1, n
        ignored = any(re.match(t[3:], n) for t in q["ignore"])
        assert len(hits) + ignored == 1, n
        if hits:
            scheme_of[n] = hits[0]
        m = re.search(r"layers\.(\d+)\.(.*)$", n)
        first = {"self_attn.k_proj": "self_attn.q_proj", "self_attn.v_proj": "self_attn.q_proj", "mlp.up_proj": "mlp.gate_proj"}
        handle = f"layers.{m[1]}.{first.get(m[2], m[2])}"
        c = [c for p, c in mix["recipe"] if re.search(p, handle)]
        chosen[n] = c[-1] if c else "NONE"
        assert (chosen[n] == "NONE") == (not hits), n
    for n, s in scheme_of.items():
        c = chosen[n]
        m = re.match(r"(.*)(q|k|v|gate|up)_proj$", n)
        mates = [n] if not m else [k for k in W if k.startswith(m[1]) and not re.search(r"(o|down)_proj$", k)]
        y = treat(W[n], mix["treatments"][c][0], max(np.abs(W[k]).max() for k in mates))
        x = served[n] = decode(n, s, T)
        nz = y != 0
        rel = float(np.abs((x[nz] - y[nz]) / y[nz]).max())
        step = np.abs(W[n]).max() / (2 ** (s["weights"]["num_bits"] - 1) - 1)
        e = stats.setdefault(c, {"weights": 0, "equal": 0, "largest_relative": 0.0, "mse_served": 0.0, "mse_scored": 0.0})
        e["weights"] += x.size
        e["equal"] += int((x == y).sum())
        e["largest_relative"] = max(e["largest_relative"], rel)
        e["mse_served"] += float(((W[n] - x).astype(np.float64) ** 2).sum())
        e["mse_scored"] += float(((W[n] - y).astype(np.float64) ** 2).sum())
        packed = s["format"] == "pack-quantized"
        if packed and np.abs(x - y).max() > step * 1.01 or not packed and rel > LIMIT.get(c, 0):
            bad.append((n, c, rel))
    for c, e in stats.items():
        e["mse_ratio"] = round(e.pop("mse_served") / e.pop("mse_scored"), 6)
        print(f"{c:12} {e}")
        if not 0.99 < e["mse_ratio"] < 1.01:
            bad.append((c, e))
    cls = getattr(transformers, cfg["architectures"][0])
    model, info = cls.from_pretrained(export, dtype=torch.bfloat16, output_loading_info=True)
    loading = {k: len(v) for k, v in info.items() if v}
    print("loading info:", loading or "nothing missing, unexpected or mismatched")
    if loading:
        bad.append(loading)

    kl, positions = None, 0
    if ids != "-":
        kl, positions = compare(cls, model, source, mix, chosen, served, T, ids)
        if kl > 1e-4:
            bad.append(("kl", kl))
    if bad:
        sys.exit(f"FAILED: {bad[:5]}")
    tensors = {k: {"dtype": v[0], "shape": v[1], "sha256": hashlib.sha256(v[2]).hexdigest()} for k, v in sorted(T.items())
               if not re.search(r"input_(global_)?scale$", k)}
    json.dump({"versions": {"compressed-tensors": compressed_tensors.__version__, "transformers": transformers.__version__,
                            "torch": torch.__version__}, "loading": loading, "kl": kl, "positions": positions, "schemes": stats,
               "config": q, "tensors": tensors}, open(out, "w"), indent=1)


def compare(cls, model, source, mix, chosen, served, T, ids):
    # the same forward pass in fp32, with decoded weights and aq's activations
    ref = cls.from_pretrained(source, dtype=torch.float32).eval()
    mods = dict(ref.named_modules())

    def hook(text, fixed):
        def f(mod, args):
            x = args[0]
            flat = x.reshape(-1, x.shape[-1]).numpy()
            number, scope, when = re.match(r"(\w+):(.*):(\w+)$", text).groups()
            if when == "static" and not scope.startswith("nvfp4"):
                a = f32(fixed)
                hi = f32(448) if number == "e4m3" else f32(127)
                y = e4m3(np.clip(flat * ((f32(1) / a) * hi), -448, 448)) / ((f32(1) / a) * hi) if number == "e4m3" else np.clip(np.rint(flat * (hi / a)), -128, 127) / (hi / a)
            else:
                y = treat(flat, text.replace("token", "axis0"), fixed)
            return (torch.from_numpy(y.astype(f32)).reshape(x.shape),)
        return f
    for n, c in chosen.items():
        if c == "NONE":
            continue
        mod = mods[n]
        with torch.no_grad():
            mod.weight.copy_(torch.from_numpy(served[n]))
        act = mix["treatments"][c][1]
        if act != "none":
            fixed = 0
            if n + ".input_scale" in T:
                fixed = tensor(T[n + ".input_scale"]).item() * (448 if act.startswith("e4m3") else 127)
            if n + ".input_global_scale" in T:
                fixed = 2688 / tensor(T[n + ".input_global_scale"]).item()
            mod.register_forward_pre_hook(hook(act, fixed))
    total = positions = same = 0
    model.eval()
    for i in json.load(open(ids))[:64]:
        with torch.no_grad():
            a = ref(input_ids=torch.tensor([i])).logits[0].double().log_softmax(-1)
            b = model(input_ids=torch.tensor([i])).logits[0].double().log_softmax(-1)
        total += float((a.exp() * (a - b)).sum())
        positions += a.shape[0]
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
    kl = total / positions
    print(f"transformers, bf16, against the decoded weights in fp32: {kl:.2e} nats a token over {positions} positions, same top token {same / positions:.3f}")
    return kl, positions


main(*sys.argv[1:])
