"""The demo model in plain PyTorch: the text part of Qwen3-VL, and its checkpoint in the published layout."""
import json
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

TEXT = dict(vocab_size=2048, hidden_size=256, intermediate_size=384, num_hidden_layers=7, num_attention_heads=6,
            num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-6, rope_theta=5000000)
VISION = dict(depth=2, hidden_size=32, intermediate_size=128, num_heads=2, in_channels=3, patch_size=16, temporal_patch_size=2,
              spatial_merge_size=2, num_position_embeddings=2304, deepstack_visual_indexes=[0, 1])


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)


def linear(n_in, n_out):
    return nn.Linear(n_in, n_out, bias=False)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.q_proj = linear(c["hidden_size"], self.heads * self.d)
        self.k_proj = linear(c["hidden_size"], self.kv * self.d)
        self.v_proj = linear(c["hidden_size"], self.kv * self.d)
        self.o_proj = linear(self.heads * self.d, c["hidden_size"])
        self.q_norm = Norm(self.d, c["rms_norm_eps"])
        self.k_norm = Norm(self.d, c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(b, t, self.heads, self.d))
        k = self.k_norm(self.k_proj(x).view(b, t, self.kv, self.d))
        v = self.v_proj(x).view(b, t, self.kv, self.d)
        q, k = (rotate(a.transpose(1, 2), cos, sin) for a in (q, k))
        group = self.heads // self.kv
        k, v = (a.repeat_interleave(group, dim=1) for a in (k, v.transpose(1, 2)))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, self.heads * self.d))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = linear(c["hidden_size"], c["intermediate_size"])
        self.up_proj = linear(c["hidden_size"], c["intermediate_size"])
        self.down_proj = linear(c["intermediate_size"], c["hidden_size"])

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Text(nn.Module):
    """ids (B, T) -> logits (B, T, V); the head is the embedding."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # what writes to the residual stream starts smaller, by the number of writers
                writer = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c["num_hidden_layers"]) if writer else 0.02)

    def forward(self, ids):
        d, t = self.c["head_dim"], torch.arange(ids.shape[1], device=ids.device)
        inverse = self.c["rope_theta"] ** (-torch.arange(0, d, 2, device=ids.device, dtype=torch.float32) / d)
        angle = t[:, None] * inverse
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin())
        return F.linear(self.norm(x), self.embed_tokens.weight)


def loss_sum(model, ids, lengths):
    """Summed next-token loss of right-padded rows and the number of predicted tokens; the first is not predicted."""
    logits = model(ids)[:, :-1].float()
    targets = ids[:, 1:].clone()
    targets[torch.arange(1, ids.shape[1], device=ids.device)[None] >= lengths[:, None]] = -100
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"), (targets != -100).sum()


# ---- checkpoint ----

def vision_tensors(seed):
    """A vision tower of the right names and shapes, never trained: there are no images here."""
    g, v, out = torch.Generator().manual_seed(seed), VISION, {}
    d, f, merged = v["hidden_size"], v["intermediate_size"], v["hidden_size"] * v["spatial_merge_size"] ** 2

    def weight(name, *shape):
        out[name + ".weight"] = torch.randn(shape, generator=g) * 0.02

    def affine(name, n_out, *rest):
        weight(name, n_out, *rest)
        out[name + ".bias"] = torch.zeros(n_out)

    def norm(name, n):
        out[name + ".weight"], out[name + ".bias"] = torch.ones(n), torch.zeros(n)

    def merger(name, n):
        norm(name + ".norm", n)
        affine(name + ".linear_fc1", merged, merged)
        affine(name + ".linear_fc2", TEXT["hidden_size"], merged)

    affine("patch_embed.proj", d, v["in_channels"], v["temporal_patch_size"], v["patch_size"], v["patch_size"])
    weight("pos_embed", v["num_position_embeddings"], d)
    for j in range(v["depth"]):
        norm("blocks.%d.norm1" % j, d)
        norm("blocks.%d.norm2" % j, d)
        affine("blocks.%d.attn.qkv" % j, 3 * d, d)
        affine("blocks.%d.attn.proj" % j, d, d)
        affine("blocks.%d.mlp.linear_fc1" % j, f, d)
        affine("blocks.%d.mlp.linear_fc2" % j, d, f)
    merger("merger", d)
    for k in range(len(v["deepstack_visual_indexes"])):
        merger("deepstack_merger_list.%d" % k, merged)
    return {"model.visual." + name: t for name, t in out.items()}


def config(token_id):
    text = {k: TEXT[k] for k in ("head_dim", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
                                 "num_key_value_heads", "rms_norm_eps", "rope_theta", "vocab_size")}
    quarter = TEXT["head_dim"] // 2
    section = [quarter - 2 * (quarter * 5 // 16), quarter * 5 // 16, quarter * 5 // 16]
    text.update(attention_bias=False, attention_dropout=0.0, bos_token_id=token_id("<|endoftext|>"), dtype="bfloat16",
                eos_token_id=token_id("<|im_end|>"), hidden_act="silu", initializer_range=0.02, max_position_embeddings=4096,
                model_type="qwen3_vl_text", rope_scaling={"mrope_interleaved": True, "mrope_section": section, "rope_type": "default"},
                tie_word_embeddings=True, use_cache=True)
    vision = dict(VISION, hidden_act="gelu_pytorch_tanh", initializer_range=0.02, model_type="qwen3_vl", out_hidden_size=TEXT["hidden_size"])
    return dict(architectures=["Qwen3VLForConditionalGeneration"], image_token_id=token_id("<|image_pad|>"), model_type="qwen3_vl",
                text_config=dict(sorted(text.items())), tie_word_embeddings=True, transformers_version="4.57.0",
                video_token_id=token_id("<|video_pad|>"), vision_config=dict(sorted(vision.items())),
                vision_end_token_id=token_id("<|vision_end|>"), vision_start_token_id=token_id("<|vision_start|>"))


def save(model, directory, seed, token_id):
    """Two shards: the embedding and the first half of the layers; the rest and the vision tower."""
    from safetensors.torch import save_file

    tensors = {"model.language_model." + n: p.detach().cpu() for n, p in model.state_dict().items()}
    tensors.update(vision_tensors(seed))
    tensors = {n: t.to(torch.bfloat16).contiguous() for n, t in tensors.items()}
    half = TEXT["num_hidden_layers"] // 2

    def shard(name):
        parts = name.split(".")
        first = parts[2] == "embed_tokens" or (parts[2] == "layers" and int(parts[3]) <= half)
        return "model-0000%d-of-00002.safetensors" % (1 if first else 2)

    os.makedirs(directory, exist_ok=True)
    weight_map = {name: shard(name) for name in sorted(tensors)}
    for file in sorted(set(weight_map.values())):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == file}, os.path.join(directory, file), metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    for name, value in (("model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}),
                        ("config.json", config(token_id))):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2)
            f.write("\n")


def load(directory, dtype=torch.float32):
    """The text part of a checkpoint that save() wrote."""
    from safetensors import safe_open

    prefix, state = "model.language_model.", {}
    with open(os.path.join(directory, "model.safetensors.index.json"), encoding="utf-8") as f:
        weight_map = json.load(f)["weight_map"]
    for file in sorted(set(weight_map.values())):
        with safe_open(os.path.join(directory, file), "pt") as shard:
            for name in shard.keys():
                if name.startswith(prefix):
                    state[name[len(prefix):]] = shard.get_tensor(name)
    model = Text(TEXT)
    model.load_state_dict(state)
    return model.to(dtype)
