"""The mixture-of-experts demo model in plain PyTorch: Qwen3-MoE, with attention and norms of ../qwen3_vl_demo/model.py."""
import importlib.util
import json
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

_spec = importlib.util.spec_from_file_location("dense_demo", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "qwen3_vl_demo", "model.py"))
dense = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dense)

TEXT = dict(vocab_size=2048, hidden_size=256, moe_intermediate_size=128, num_experts=8, num_experts_per_tok=2, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-6, rope_theta=1000000)
BALANCE = 0.01  # weight of the balancing loss in training; it is no part of what train.py reports as held out


class Experts(nn.Module):
    """Every expert on every token, then the chosen ones: simple, and small enough to be fast."""

    def __init__(self, c):
        super().__init__()
        e, d, m = c["num_experts"], c["hidden_size"], c["moe_intermediate_size"]
        self.k = c["num_experts_per_tok"]
        self.gate = dense.linear(d, e)
        self.gate_up = nn.Parameter(torch.empty(e, d, 2 * m))
        self.down = nn.Parameter(torch.empty(e, m, d))
        self.balance = None

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            p = F.softmax(F.linear(x.float(), self.gate.weight.float()), -1)
        top, chosen = p.topk(self.k, -1)
        w = torch.zeros_like(p).scatter(-1, chosen, top / top.sum(-1, keepdim=True))
        # share of the tokens times mean probability, summed over the experts: 1 if both are even
        self.balance = p.shape[-1] * ((w > 0).float().mean(0) / self.k * p.mean(0)).sum()
        gate, up = torch.matmul(x, self.gate_up).chunk(2, -1)  # (E, T, M)
        f = torch.matmul(F.silu(gate) * up, self.down)  # (E, T, D)
        return (f * w.t()[..., None]).sum(0).to(x.dtype).view(shape)


class Layer(dense.Layer):
    def __init__(self, c):
        super().__init__(dict(c, intermediate_size=1))
        self.mlp = Experts(c)


class Text(nn.Module):
    """ids (B, T) -> logits (B, T, V); the head is the embedding."""

    forward = dense.Text.forward

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = dense.Norm(c["hidden_size"], c["rms_norm_eps"])
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                writer = name.endswith(("o_proj.weight", "mlp.down"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c["num_hidden_layers"]) if writer else 0.02)


def loss_sum(model, ids, lengths):
    """As the dense demo's; while gradients are wanted, with the balancing loss."""
    loss, count = dense.loss_sum(model, ids, lengths)
    if torch.is_grad_enabled():
        loss = loss + BALANCE * count * sum(layer.mlp.balance for layer in model.layers) / len(model.layers)
    return loss, count


# ---- checkpoint: one tensor for each matrix of each expert, as the hub has them ----

def config(token_id):
    return dict(sorted(dict(TEXT, architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0,
                            bos_token_id=token_id("<|endoftext|>"), decoder_sparse_step=1, dtype="bfloat16",
                            eos_token_id=token_id("<|im_end|>"), hidden_act="silu", initializer_range=0.02,
                            intermediate_size=3 * TEXT["moe_intermediate_size"], max_position_embeddings=4096, mlp_only_layers=[],
                            model_type="qwen3_moe", norm_topk_prob=True, output_router_logits=False, rope_scaling=None,
                            router_aux_loss_coef=BALANCE, sliding_window=None, tie_word_embeddings=True,
                            transformers_version="4.57.0", use_cache=True, use_sliding_window=False).items()))


def save(model, directory, seed, token_id):
    from safetensors.torch import save_file

    del seed  # there is nothing that was not trained
    tensors = {}
    for name, p in model.state_dict().items():
        base = "model." + name
        if name.endswith("mlp.gate_up"):
            for e, one in enumerate(p):
                gate, up = one.t().chunk(2, 0)
                tensors["%s.experts.%d.gate_proj.weight" % (base[:-len(".gate_up")], e)] = gate
                tensors["%s.experts.%d.up_proj.weight" % (base[:-len(".gate_up")], e)] = up
        elif name.endswith("mlp.down"):
            for e, one in enumerate(p):
                tensors["%s.experts.%d.down_proj.weight" % (base[:-len(".down")], e)] = one.t()
        else:
            tensors[base] = p
    tensors = {n: t.detach().cpu().to(torch.bfloat16).contiguous() for n, t in sorted(tensors.items())}
    os.makedirs(directory, exist_ok=True)
    save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(token_id), f, indent=2)
        f.write("\n")


def load(directory, dtype=torch.float32):
    from safetensors.torch import load_file

    tensors = load_file(os.path.join(directory, "model.safetensors"))
    state = {}
    for i in range(TEXT["num_hidden_layers"]):
        base = "layers.%d.mlp" % i
        pick = lambda e, part: tensors["model.%s.experts.%d.%s.weight" % (base, e, part)].t()
        experts = range(TEXT["num_experts"])
        state[base + ".gate_up"] = torch.stack([torch.cat([pick(e, "gate_proj"), pick(e, "up_proj")], 1) for e in experts])
        state[base + ".down"] = torch.stack([pick(e, "down_proj") for e in experts])
    state.update({n[len("model."):]: t for n, t in tensors.items() if ".experts." not in n})
    model = Text(TEXT)
    model.load_state_dict(state)
    return model.to(dtype)
