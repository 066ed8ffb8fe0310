#!/usr/bin/env python3
"""Other people's files: a GGUF file of old and K types, and a checkpoint with an algorithm of ModelOpt's in each place.

    O=build tests/oracle/eval_files.py     rewrites tests/oracle/eval_files/ and eval_files.json

gguf 0.19.0 quantizes what it can, and decodes; blocks of K types, which it only decodes, are random. ModelOpt packs integers,
NVFP4 and MXFP8 by its own functions. Divergences are those of transformers in float64 with the decoded weights. The references are
random models of tests/random_checkpoint, which the test makes again. tests/47-eval.bats runs aq-eval on both files.
"""
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version

import gguf
import numpy as np
import safetensors.torch
import torch
import transformers
from modelopt.torch.export import quant_utils
from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor

import eval as reference

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "eval_files")
T = gguf.GGMLQuantizationType
rng = np.random.default_rng(20261130)
F = np.float32


def model_options(hidden, intermediate, layers):
    return ["--kind", "qwen3", "--hidden", str(hidden), "--intermediate", str(intermediate), "--layers", str(layers), "--heads", "2",
            "--kv-heads", "1", "--head-dim", "32", "--vocab", "64", "--tied", "yes", "--scale", "0.1"]


def random_model(directory, options):
    o = os.path.join(HERE, "../..", os.environ.get("O", "build"), "tests/random_checkpoint")
    subprocess.run([o, *options, directory], check=True)
    with open(os.path.join(directory, "model.safetensors"), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


# ---- GGUF ----

GGUF_TYPES = [{"q_proj": "Q4_K", "k_proj": "Q5_K", "v_proj": "Q6_K", "o_proj": "Q4_1", "gate_proj": "Q5_0", "up_proj": "Q5_1",
               "down_proj": "Q4_1"},
              {"q_proj": "Q6_K", "k_proj": "Q4_K", "v_proj": "Q5_K", "o_proj": "Q5_0", "gate_proj": "Q8_0", "up_proj": "Q4_0",
               "down_proj": "Q5_1"}]
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
         "up_proj": "ffn_up", "down_proj": "ffn_down", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
SCALES = {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def blocks_of(w, kind):
    """Bytes of a matrix; K types: whatever blocks, with small scales."""
    if kind not in SCALES:
        return gguf.quantize(w, T[kind])
    block, size = gguf.GGML_QUANT_SIZES[T[kind]]
    b = rng.integers(0, 256, (w.size // block, size), dtype=np.uint8)
    for at in SCALES[kind]:
        b[:, at:at + 2] = rng.normal(0, 3e-4 if kind != "Q6_K" else 1e-4, (len(b), 1)).astype(np.float16).view(np.uint8)
    return b.reshape(w.shape[0], -1)


def gguf_name(name):
    parts = name.removeprefix("model.").split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{NAMES[parts[-2]]}.weight"
    return {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[0]] + ".weight"


def gguf_file(source, path):
    with open(os.path.join(source, "config.json")) as f:
        c = json.load(f)
    w = gguf.GGUFWriter(path, "qwen3")
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(float(c["rope_theta"]))
    decoded, digests = {}, {}
    for name, t in safetensors.torch.load_file(os.path.join(source, "model.safetensors")).items():
        x, parts = t.float().numpy(), name.split(".")
        kind = "F32" if x.ndim == 1 else "Q8_0" if "embed" in name else GGUF_TYPES[int(parts[2])][parts[-2]]
        raw = x if kind == "F32" else blocks_of(x, kind)
        w.add_tensor(gguf_name(name), raw, raw_dtype=None if kind == "F32" else T[kind])
        decoded[name] = x if kind == "F32" else gguf.dequantize(raw, T[kind]).astype(F).reshape(x.shape)
        digests[gguf_name(name)] = hashlib.sha256(np.ascontiguousarray(decoded[name], F).tobytes()).hexdigest()
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return {k: torch.from_numpy(v.copy()) for k, v in decoded.items()}, digests


# ---- ModelOpt ----

ALGORITHMS = [{"qkv": "FP8", "o": "W8A16", "gate_up": "NVFP4", "down": "MXFP8"},
              {"qkv": "FP8_PER_CHANNEL_PER_TOKEN", "o": "W8A8_SQ_PER_CHANNEL", "gate_up": "W4A16_AWQ", "down": "W4A16_NVFP4"},
              {"qkv": "NVFP4_AWQ", "o": "FP8_PB_WO", "gate_up": "W4A8_AWQ", "down": None}]
GROUP = {"NVFP4": 16, "NVFP4_AWQ": 16, "W4A16_NVFP4": 16, "MXFP8": 32, "W4A16_AWQ": 32, "W4A8_AWQ": 32, "FP8_PB_WO": 32}
KINDS = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "o_proj": "o", "gate_proj": "gate_up", "up_proj": "gate_up",
         "down_proj": "down"}


def e2m1_packed(p):
    table = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], F)
    out = np.empty((p.shape[0], p.shape[1] * 2), F)
    out[:, 0::2], out[:, 1::2] = table[p & 15], table[p >> 4]
    return out


def int4_rows(p):
    q = np.empty((p.shape[0] * 2, p.shape[1]), F)
    low, high = (p & 15).astype(np.int8), (p >> 4).astype(np.int8)
    q[0::2], q[1::2] = np.where(low > 7, low - 16, low), np.where(high > 7, high - 16, high)
    return q


def encode(w, algorithm, pre):
    """Tensors of a module, its weight in fp32 as they say it, without the factor of the inputs."""
    out, n = {}, GROUP.get(algorithm)
    if pre is not None:
        out["pre_quant_scale"] = torch.from_numpy(pre)
        w = (w / pre).astype(F)
    a, x = np.abs(w), torch.from_numpy(w)
    if algorithm == "FP8":
        s = torch.tensor(F(a.max()) / F(448))
        q = quant_utils.to_quantized_weight(x, s, "fp8")
        out |= {"weight": q, "weight_scale": s}
        return out, (q.float() * s).numpy()
    if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
        s = torch.from_numpy((a.max(1) / F(448)).astype(F))
        q = quant_utils.to_quantized_weight(x, s, "fp8_pc_pt")
        out |= {"weight": q, "weight_scale": s}
        return out, (q.float() * s[:, None]).numpy()
    if algorithm == "FP8_PB_WO":
        tiles = a.reshape(w.shape[0] // n, n, w.shape[1] // n, n).max((1, 3))
        s = torch.from_numpy((tiles / F(448)).astype(F))
        wide = s.repeat_interleave(n, 0).repeat_interleave(n, 1)
        q = (x / wide).to(torch.float8_e4m3fn)
        out |= {"weight": q, "weight_scale": s}
        return out, (q.float() * wide).numpy()
    if algorithm in ("W8A16", "W8A8_SQ_PER_CHANNEL"):
        s = torch.from_numpy((a.max(1) / F(127)).astype(F))
        q = quant_utils.to_quantized_weight(x, s, "int8_sq")
        out |= {"weight": q, "weight_scale": s}
        return out, (q.float() * s[:, None]).numpy()
    if algorithm in ("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4"):
        s2 = torch.tensor(F(a.max()) / F(2688))
        s = NVFP4QTensor.get_weights_scaling_factor(x, n, s2)[0]
        q = quant_utils.to_quantized_weight(x, s, "nvfp4", s2, n)
        out |= {"weight": q, "weight_scale": s, "weight_scale_2": s2}
        scale = (s.float() * s2).repeat_interleave(n, 1)
        return out, e2m1_packed(q.numpy()) * scale.numpy()
    if algorithm == "MXFP8":
        s = MXFP8QTensor.get_weights_scaling_factor(x)
        q = quant_utils.to_quantized_weight(x, s, "mxfp8")
        out |= {"weight": q, "weight_scale": s}
        scale = torch.exp2(s.float() - 127).repeat_interleave(n, 1)
        return out, (q.float() * scale).numpy()
    s = torch.from_numpy((a.reshape(w.shape[0], -1, n).max(2) / F(7)).astype(F))
    q = quant_utils.to_quantized_weight(x, s, "int4_awq", None, n)
    out |= {"weight": q, "weight_scale": s}
    value = torch.from_numpy(int4_rows(q.numpy()) * s.repeat_interleave(n, 1).numpy())
    if algorithm == "W4A8_AWQ":
        s2 = value.abs().max() / 448
        out["weight_scale_2"] = s2
        value = (value / s2).to(torch.float8_e4m3fn).float() * s2
    return out, value.numpy()


def fp4_act(x, scale):
    """Blocks of 16, whose scales are e4m3 times one for all."""
    flat, out = x.reshape(-1, 16), np.empty_like(x).reshape(-1, 16)
    m = np.abs(flat).max(1, keepdims=True)
    s = (reference.e4m3_round(np.minimum((m / (F(6) * scale)).astype(F), F(448))) * scale).astype(F)
    s = np.where(s < 1e-5, F(1), s)
    q = reference.e2m1_round(np.abs(flat) / s)
    out[:] = np.where(flat >= 0, q, -q) * s
    return out.reshape(x.shape)


def mx_act(x):
    flat = x.reshape(-1, 32)
    m = np.abs(flat).max(1, keepdims=True)
    e = np.ceil(np.log2(np.where(m > 0, m, 1) / F(448)))
    k = np.exp2(e).astype(F)
    return (reference.e4m3_round(flat / k) * k).reshape(x.shape)


def act_of(algorithm, amax):
    """A function of the input, after its factor, and the scale in the file; or None."""
    if algorithm in ("FP8", "W4A8_AWQ"):
        s = F(amax) / F(448)
        return lambda x: reference.act(x, "ftensor", s * F(448)), s
    if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
        return lambda x: reference.act(x, "ftoken", 0), None
    if algorithm == "W8A8_SQ_PER_CHANNEL":
        s = F(amax) / F(127)
        return lambda x: reference.act(x, "static", s * F(127)), s
    if algorithm in ("NVFP4", "NVFP4_AWQ"):
        s = F(amax) / F(2688)
        return lambda x: fp4_act(x, s), s
    if algorithm == "MXFP8":
        return mx_act, None
    return None, None


def modelopt_file(source, directory, samples):
    model, changed = reference.open_model(source), reference.open_model(source)
    amax = reference.ranges(model, samples)
    modules = dict(changed.named_modules())
    groups = dict((id(m), g) for g, m in reference.linears(changed))
    out, layers = {}, {}
    for name, t in safetensors.torch.load_file(os.path.join(source, "model.safetensors")).items():
        parts, module = name.split("."), name.removesuffix(".weight")
        algorithm = ALGORITHMS[int(parts[2])][KINDS[parts[-2]]] if parts[-2] in KINDS else None
        if not algorithm:
            out[name] = t
            continue
        w = t.float().numpy()
        pre = None
        if algorithm.endswith("_AWQ"):
            pre = np.random.default_rng(int(parts[2])).uniform(.5, 2, w.shape[1]).astype(F)
        tensors, decoded = encode(w, algorithm, pre)
        feed, scale = act_of(algorithm, amax[groups[id(modules[module])]] * (2 if pre is not None else 1))
        if scale is not None:
            tensors["input_scale"] = torch.tensor(scale)
        out.update({f"{module}.{k}": v.contiguous() for k, v in tensors.items()})
        layers[module] = {"quant_algo": algorithm} | ({"group_size": GROUP[algorithm]} if algorithm in GROUP else {})
        modules[module].weight.data = torch.from_numpy(decoded.copy()).double()

        def hook(_m, args, feed=feed, pre=pre):
            x = args[0].detach().float().numpy()
            x = (x * pre).astype(F) if pre is not None else x
            return (torch.from_numpy((feed(x) if feed else x).copy()).double(),)
        modules[module].register_forward_pre_hook(hook)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    safetensors.torch.save_file(out, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(source, "config.json")) as f:
        config = json.load(f)
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": ["lm_head"],
                                     "producer": {"name": "modelopt", "version": version("nvidia-modelopt")},
                                     "quantized_layers": layers}
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    return reference.compare(reference.logits(model, samples), reference.logits(changed, samples), samples)


def main():
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    samples = reference.tiny_samples(64, 7)
    doc = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__, "gguf": version("gguf"),
                        "modelopt": version("nvidia-modelopt")}, "samples": samples}
    with tempfile.TemporaryDirectory() as tmp:
        source = os.path.join(tmp, "gguf")
        options = model_options(256, 32, 2)
        digest = random_model(source, options)
        decoded, digests = gguf_file(source, os.path.join(OUT, "types.gguf"))
        model, changed = reference.open_model(source), reference.open_model(source)
        missing, unexpected = changed.load_state_dict({k: v.double() for k, v in decoded.items()}, strict=False)
        assert missing in ([], ["lm_head.weight"]) and not unexpected, (missing, unexpected)
        doc["gguf"] = {"model": options, "sha256": digest, "decoded": digests,
                       "expected": reference.compare(reference.logits(model, samples), reference.logits(changed, samples), samples)}
        source = os.path.join(tmp, "modelopt")
        options = model_options(64, 64, 3)
        digest = random_model(source, options)
        doc["modelopt"] = {"model": options, "sha256": digest,
                           "expected": modelopt_file(source, os.path.join(OUT, "modelopt"), samples)}
    with open(os.path.join(HERE, "eval_files.json"), "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
