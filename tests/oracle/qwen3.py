#!/usr/bin/env python3
"""Reference forward and backward of small random Qwen3 models, for tests/unit/test_qwen3.c and
tests/unit/test_ranges.c.

Computes in float64 with transformers: logits, summed loss of each sample, the gradient of that
sum at the output of every linear, and the largest and mean magnitudes at their inputs. Writes one safetensors file a case, weights included
(bf16 values, so that the model under test reads exactly the same numbers).

    tests/oracle/qwen3.py         rewrites tests/oracle/qwen3/*.safetensors

The demo checkpoint's file has no weights, and gradients of its first and last layer.

Rows are packed as the engine packs them: the samples one behind the other; with padding, one pad
row in front of each padded sample (the last of its equal pad rows).
"""

import json
import os

import safetensors.torch
import tokenizers
import torch
import transformers
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_vl import modeling_qwen3_vl

LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def norm_in_input_dtype(self, x):
    """The library's norm computes in float32 whatever its input; the oracle wants float64."""
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * (x * scale)


modeling_qwen3.Qwen3RMSNorm.forward = norm_in_input_dtype
modeling_qwen3_vl.Qwen3VLTextRMSNorm.forward = norm_in_input_dtype

CASES = {
    # name: kind, tied, layers, hidden, intermediate, heads, kv heads, head dim, vocab, theta, padding
    "plain": ("qwen3", True, 1, 24, 40, 4, 4, 8, 61, 1e6, 0),
    "grouped": ("qwen3", False, 2, 32, 48, 4, 2, 10, 67, 1e4, 0),
    "deep": ("qwen3", True, 5, 20, 36, 6, 1, 6, 53, 5e6, 0),
    "vl": ("qwen3_vl", True, 3, 32, 56, 4, 2, 16, 71, 5e6, 0),
    "padded": ("qwen3", False, 2, 28, 44, 4, 2, 8, 59, 1e6, 9),
}
LENGTHS = [5, 1, 9, 2, 7]
PREFIXES = [2, 5]
INPUTS = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj", "gate_up": "mlp.gate_proj",
          "down": "mlp.down_proj"}
PAD = 3


def build(kind, tied, layers, hidden, inter, heads, kv, dim, vocab, theta):
    common = dict(hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim, vocab_size=vocab,
                  rms_norm_eps=1e-6, tie_word_embeddings=tied, max_position_embeddings=512)
    if kind == "qwen3":
        config = transformers.Qwen3Config(
            rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
        return transformers.Qwen3ForCausalLM._from_config(config, attn_implementation="sdpa")
    section = [dim // 2 - 2 * (dim // 6), dim // 6, dim // 6]
    text = dict(rope_parameters={"rope_type": "default", "rope_theta": theta,
                                 "mrope_section": section, "mrope_interleaved": True}, **common)
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=hidden,
                  deepstack_visual_indexes=[0], num_position_embeddings=16)
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision,
                                        tie_word_embeddings=tied)
    return transformers.Qwen3VLForConditionalGeneration._from_config(config,
                                                                     attn_implementation="sdpa")


def randomize(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn(p.shape))
            else:
                p.copy_(torch.randn(p.shape) * (0.5 if "embed" in name else p.shape[-1] ** -0.5))
            p.copy_(p.to(torch.bfloat16).to(p.dtype))


def text_part(model):
    inner = model.model
    return getattr(inner, "language_model", inner)


def lm_weights(model):
    out = {n: p for n, p in text_part(model).state_dict().items()}
    if not model.config.tie_word_embeddings:
        out["lm_head.weight"] = model.lm_head.weight
    return {n: p.detach().to(torch.bfloat16).contiguous() for n, p in out.items()}


def run(model, samples, seq_len):
    """Expected tensors, rows packed. Each sample on its own, left-padded if seq_len."""
    found = {}
    layers = text_part(model).layers
    logits, losses, grads, inputs = [], [], {}, {}
    hooks = []
    for i, layer in enumerate(layers):
        for name in LINEARS:
            module = layer.get_submodule(name)

            def keep(_module, _inputs, output, key=f"{i}.{name}"):
                output.retain_grad()
                found[key] = output

            hooks.append(module.register_forward_hook(keep))
        for name, reader in INPUTS.items():
            def measure(_module, args, key=f"{i}.{name}"):
                inputs.setdefault(key, []).append(args[0][0].detach().abs())

            hooks.append(layer.get_submodule(reader).register_forward_pre_hook(measure))
    for ids in samples:
        pads = max(seq_len - len(ids), 0)
        row = torch.tensor([[PAD] * pads + ids])
        mask = torch.tensor([[0] * pads + [1] * len(ids)])
        model.zero_grad()
        hidden = text_part(model)(input_ids=row, attention_mask=mask, use_cache=False)
        z = model.lm_head(hidden.last_hidden_state)[0]
        targets = torch.tensor(([-100] * (pads - 1) if pads else []) + (ids if pads else ids[1:])
                               + [-100])
        targets[targets == PAD] = -100
        loss = torch.nn.functional.cross_entropy(z, targets, ignore_index=-100, reduction="sum")
        if loss.grad_fn is not None:
            loss.backward()
        first = max(pads - 1, 0)
        logits.append(z.detach()[first:])
        losses.append(loss.item())
        for key, y in found.items():
            g = y.grad[0]
            assert not g[:first].any(), "a pad row before the last has a gradient"
            grads.setdefault(key, []).append(g[first:].clone())
    for h in hooks:
        h.remove()
    out = {"logits": torch.cat(logits).float(), "loss": torch.tensor(losses, dtype=torch.float64)}
    out.update({f"dy/{k}": torch.cat(g).float() for k, g in grads.items()})
    out["amax"] = torch.stack([torch.stack([x.max() for x in xs]) for xs in inputs.values()]).float()
    if seq_len:
        padded = [len(ids) < seq_len for ids in samples].index(True)
        out["pad"] = torch.stack([xs[padded][0].max() for xs in inputs.values()]).float()
    for key, xs in inputs.items():
        rows = [torch.cat(xs[:p]).max(dim=0).values for p in PREFIXES]
        out[f"channel/{key}"] = torch.stack(rows).float()
        text = [x[len(x) - len(ids):] for x, ids in zip(xs, samples)]
        out[f"mean/{key}"] = torch.stack([torch.cat(text[:p]).mean(dim=0) for p in PREFIXES])
    return out


def config_of(model):
    c = getattr(model.config, "text_config", model.config)
    keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps"]
    out = {k: getattr(c, k) for k in keys}
    out["rope_theta"] = c.rope_parameters["rope_theta"]
    out["tie_word_embeddings"] = model.config.tie_word_embeddings
    return out


def demo(root, path):
    """The shipped checkpoint on a caption of its own."""
    directory = os.path.join(root, "models/qwen3_vl_demo/checkpoint")
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="sdpa").eval()
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    with open(os.path.join(root, "datasets/demo/captions_small.txt")) as f:
        samples = [tokenizer.encode(line.strip()).ids for line in f][:1]
    tensors = run(model, samples, 0)
    last = model.config.text_config.num_hidden_layers - 1
    kept = [f"dy/{i}." for i in (0, last)]
    tensors = {n: t for n, t in tensors.items()
               if n in ("logits", "loss") or n.startswith(tuple(kept))}
    save(path, model, tensors, samples, 0)


def save(path, model, tensors, samples, seq_len):
    offsets = [0]
    for ids in samples:
        offsets.append(offsets[-1] + len(ids))
    tensors["ids"] = torch.tensor(sum(samples, []), dtype=torch.int32)
    tensors["offsets"] = torch.tensor(offsets, dtype=torch.int64)
    meta = {"config": json.dumps(config_of(model)), "seq_len": str(seq_len), "pad_id": str(PAD),
            "torch": torch.__version__, "transformers": transformers.__version__}
    safetensors.torch.save_file(tensors, path, metadata=meta)
    print(path, os.path.getsize(path))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    demo(os.path.join(here, "../.."), os.path.join(here, "qwen3", "demo.safetensors"))
    for name, (*shape, seq_len) in CASES.items():
        torch.manual_seed(sorted(CASES).index(name))
        model = build(*shape).double().eval()
        randomize(model)
        vocab = shape[8]
        samples = [torch.randint(0, vocab, (n,)).tolist() for n in LENGTHS]
        if seq_len:
            with torch.no_grad():  # what the engine relies on: a row without a key gives zero
                q = torch.randn(1, 1, 4, 8, dtype=torch.float64)
                blind = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
                y = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=blind)
                assert not y.any(), "fully masked rows are not zero"
        tensors = lm_weights(model)
        tensors.update(run(model, samples, seq_len))
        save(os.path.join(here, "qwen3", name + ".safetensors"), model, tensors, samples, seq_len)


if __name__ == "__main__":
    main()
