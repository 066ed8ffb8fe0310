#!/usr/bin/env python3
"""Tiny random checkpoints of every family, and what transformers computes with them, for
tests/unit/test_families.c.

Computes in float64: logits, summed loss of each sample, and the gradient of that sum at the output
of every linear, and of every mixture of experts. A case is a directory: config.json and model.safetensors as transformers writes them
(bf16, fp16 or fp32 weights), and expected.safetensors with the samples and the results.

    tests/oracle/families.py [CASE...]      rewrites tests/oracle/families/*

Rows are packed as the engine packs them: the samples one after the other, without padding.
"""

import copy
import os
import shutil
import sys

import safetensors.torch
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

LENGTHS = [5, 1, 9, 2, 7]
D = torch.float64

SMALL = dict(hidden_size=20, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=61, rms_norm_eps=1e-5, max_position_embeddings=512,
             bos_token_id=1, eos_token_id=2, pad_token_id=None)


def sized(**changes):
    return {**SMALL, **changes}


def rope(kind="default", theta=1e4, **rest):
    return {"rope_type": kind, "rope_theta": theta, **rest}


# name: model class prefix, weights' type, arguments of its config
CASES = {
    # plain Llama: grouped heads, head_dim = hidden / heads
    "llama": ("Llama", "bf16", sized(hidden_size=24, rope_parameters=rope())),
    # untied, one key head, biases everywhere, head_dim of its own
    "llama_bias": ("Llama", "f32", sized(num_key_value_heads=1, head_dim=6, attention_bias=True,
                                         mlp_bias=True, tie_word_embeddings=False,
                                         rope_parameters=rope(theta=5e5))),
    "llama_llama3": ("Llama", "bf16", sized(
        head_dim=10, tie_word_embeddings=True,
        rope_parameters=rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64))),
    "llama_linear": ("Llama", "f16", sized(head_dim=8,
                                           rope_parameters=rope("linear", factor=4.0))),
    "llama_dynamic": ("Llama", "bf16", sized(head_dim=8,
                                             rope_parameters=rope("dynamic", factor=2.0))),
    "llama_yarn": ("Llama", "bf16", sized(
        head_dim=16, rope_parameters=rope("yarn", 1e4, factor=4.0,
                                          original_max_position_embeddings=32))),
    "llama_yarn_mscale": ("Llama", "bf16", sized(
        head_dim=16, rope_parameters=rope("yarn", 1e4, factor=16.0, mscale=0.8, mscale_all_dim=0.5,
                                          beta_fast=16.0, beta_slow=2.0, truncate=False,
                                          original_max_position_embeddings=32))),
    "qwen2": ("Qwen2", "bf16", sized(hidden_size=36, num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True,
                                     rope_parameters=rope(theta=1e6))),
    # a window that the samples exceed, in the layers from the second on
    "qwen2_window": ("Qwen2", "bf16", sized(
        hidden_size=24, num_hidden_layers=3, use_sliding_window=True, sliding_window=4,
        max_window_layers=1, rope_parameters=rope(theta=1e6))),
    "qwen2_5_vl": ("Qwen2_5_VL", "bf16", sized(
        hidden_size=24, rope_parameters=rope(theta=1e6, mrope_section=[1, 1, 1]))),
    "mistral": ("Mistral", "bf16", sized(head_dim=7 * 2, sliding_window=4,
                                         rope_parameters=rope())),
    "mistral_full": ("Mistral", "f16", sized(head_dim=10, sliding_window=None,
                                             rope_parameters=rope(theta=1e6))),
    "smollm3": ("SmolLM3", "bf16", sized(
        hidden_size=24, num_hidden_layers=5, no_rope_layers=[1, 1, 0, 1, 1],
        layer_types=["full_attention"] * 5, rope_parameters=rope(theta=2e6))),
    "phi3": ("Phi3", "bf16", sized(hidden_size=24, sliding_window=None, rope_parameters=rope())),
    # a part of each head rotates; longrope: short factors, and a factor on cosines and sines
    "phi3_longrope": ("Phi3", "bf16", sized(
        hidden_size=40, sliding_window=6, original_max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters=rope("longrope", 1e4, short_factor=[1.0, 1.3, 1.7], long_factor=[2.0, 3.0, 4.0],
                             partial_rotary_factor=0.6, original_max_position_embeddings=64))),
    "granite": ("Granite", "bf16", sized(
        hidden_size=24, embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0,
        attention_multiplier=0.3, tie_word_embeddings=True, rope_parameters=rope())),
    "olmo2": ("Olmo2", "f32", sized(hidden_size=24, rope_parameters=rope(theta=5e5))),
    "olmo3": ("Olmo3", "bf16", sized(
        hidden_size=32, num_hidden_layers=4, sliding_window=4,
        rope_parameters={"sliding_attention": rope(theta=5e5),
                         "full_attention": rope("yarn", 5e5, factor=8.0, attention_factor=1.2,
                                                original_max_position_embeddings=64)})),
    "gemma2": ("Gemma2", "bf16", sized(
        head_dim=10, num_hidden_layers=4, sliding_window=4, query_pre_attn_scalar=17,
        attn_logit_softcapping=3.0, final_logit_softcapping=4.0,
        hidden_activation="gelu_pytorch_tanh", rope_parameters=rope())),
    "gemma3_text": ("Gemma3Text", "bf16", sized(
        head_dim=10, num_hidden_layers=3, sliding_window=4, query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"sliding_attention": rope(theta=1e4),
                         "full_attention": rope("linear", 1e6, factor=8.0)})),
    "gemma3": ("Gemma3", "bf16", sized(
        head_dim=10, num_hidden_layers=2, sliding_window=512, query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": rope(theta=1e4), "full_attention": rope(theta=1e6)})),
}
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=16, hidden_size=24)
CASES.update({
    # every second layer has experts
    "qwen3_moe": ("Qwen3Moe", "bf16", sized(
        **{**EXPERTS, "num_hidden_layers": 3}, head_dim=8, num_experts=8, norm_topk_prob=True,
        decoder_sparse_step=2, mlp_only_layers=[], rope_parameters=rope(theta=1e6))),
    # weights that do not add up to 1; a layer named as dense
    "qwen3_moe_plain": ("Qwen3Moe", "f32", sized(
        **EXPERTS, head_dim=8, num_experts=6, norm_topk_prob=False, decoder_sparse_step=1,
        mlp_only_layers=[0], tie_word_embeddings=True, rope_parameters=rope(theta=1e6))),
    # as many experts for a token as there are; one alone
    "qwen3_moe_all": ("Qwen3Moe", "f32", sized(
        **{**EXPERTS, "num_experts_per_tok": 3}, head_dim=8, num_experts=3, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], rope_parameters=rope(theta=1e6))),
    "qwen3_moe_one": ("Qwen3Moe", "f32", sized(
        **{**EXPERTS, "num_experts_per_tok": 1}, head_dim=8, num_experts=4, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], rope_parameters=rope(theta=1e6))),
    # fused tensors, as (experts, out, in); below the same ones as (experts, in, out)
    "qwen3_vl_moe": ("Qwen3VLMoe", "bf16", sized(
        **EXPERTS, head_dim=8, num_experts=8, decoder_sparse_step=1, mlp_only_layers=[],
        rope_parameters=rope(theta=1e6, mrope_section=[2, 1, 1]))),
    "mixtral": ("Mixtral", "bf16", sized(
        hidden_size=24, intermediate_size=16, num_local_experts=4, num_experts_per_tok=2, head_dim=8,
        sliding_window=None, rope_parameters=rope(theta=1e6))),
    "olmoe": ("Olmoe", "bf16", sized(
        hidden_size=24, intermediate_size=16, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=False, rope_parameters=rope())),
})
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def norm_in_input_dtype(self, x):
    """The library's norms compute in float32 whatever their input; the oracle wants float64."""
    eps = getattr(self, "variance_epsilon", getattr(self, "eps", None))
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return y * (1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight)


def build(prefix, values):
    if prefix == "Qwen2_5_VL":
        vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=24)
        text = {k: v for k, v in values.items() if k != "tie_word_embeddings"}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision,
                                               tie_word_embeddings=False)
        cls = transformers.Qwen2_5_VLForConditionalGeneration
    elif prefix == "Qwen3VLMoe":
        vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=24,
                      deepstack_visual_indexes=[0])
        config = transformers.Qwen3VLMoeConfig(text_config={**values, "tie_word_embeddings": False},
                                               vision_config=vision, tie_word_embeddings=False)
        cls = transformers.Qwen3VLMoeForConditionalGeneration
    elif prefix == "Gemma3":
        vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                      num_attention_heads=2, image_size=28, patch_size=14)
        config = transformers.Gemma3Config(text_config=values, vision_config=vision)
        cls = transformers.Gemma3ForConditionalGeneration
    else:
        config = getattr(transformers, prefix + "Config")(**values)
        name = "Gemma3" if prefix == "Gemma3Text" else prefix
        cls = getattr(transformers, name + "ForCausalLM")
    if "expert" in str(values):
        for c in (config, getattr(config, "text_config", config)):
            c._experts_implementation = "eager"
    return cls._from_config(config, attn_implementation="eager")


def text_part(model):
    inner = model.model
    return getattr(inner, "language_model", inner)


def randomize(model, dtype):
    with torch.no_grad():
        for name, p in model.named_parameters():
            one_plus = "gemma" in model.config.model_type
            if "norm" in name:
                p.copy_((0 if one_plus else 1) + 0.2 * torch.randn(p.shape))
            elif name.endswith(".bias"):
                p.copy_(0.3 * torch.randn(p.shape))
            else:
                p.copy_(torch.randn(p.shape) * (0.5 if "embed" in name else p.shape[-1] ** -0.5))
            p.copy_(p.to(dtype).to(p.dtype))


def linears(model):
    return [(n, m) for n, m in text_part(model).named_modules() if isinstance(m, torch.nn.Linear)]


def mixtures(model):
    return [(n + ".experts", m) for n, m in text_part(model).named_modules()
            if type(m).__name__.endswith("SparseMoeBlock")]


def reference(model, dtype):
    """The same model in float64, its norms too, and Gemma's scale of embeddings as in `dtype`."""
    for m in model.modules():
        if type(m).__name__.endswith("RMSNorm"):
            m.forward = norm_in_input_dtype.__get__(m)
    model = model.double().eval()
    if "gemma" in model.config.model_type:
        text = text_part(model)
        scale = torch.tensor(text.config.hidden_size ** 0.5, dtype=torch.float32).to(dtype).double()
        table = text.embed_tokens
        table.forward = lambda ids: torch.nn.functional.embedding(ids, table.weight) * scale
    return model


def run(model, samples):
    found, grads, logits, losses = {}, {}, [], []
    for name, module in linears(model) + mixtures(model):
        def keep(_module, _inputs, output, key=name):
            output = output[0] if isinstance(output, tuple) else output
            output.retain_grad()
            found[key] = output
        module.register_forward_hook(keep)
    for ids in samples:
        model.zero_grad()
        z = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        targets = torch.tensor(ids[1:] + [-100])
        loss = torch.nn.functional.cross_entropy(z, targets, ignore_index=-100, reduction="sum")
        loss.backward()
        logits.append(z.detach())
        losses.append(loss.item())
        for key, y in found.items():
            grads.setdefault(key, []).append(y.grad.reshape(-1, y.shape[-1]).clone())
    out = {"logits": torch.cat(logits).float(), "loss": torch.tensor(losses, dtype=D)}
    out.update({f"dy/{k.removeprefix('layers.')}": torch.cat(g).float() for k, g in grads.items()})
    return out


def check_scale(model):
    """What is patched for float64 is what the library does: the same model, unpatched, in float32."""
    ids = torch.tensor([[7, 11, 3, 2, 9]])
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def turned(directory, to):
    """The same checkpoint with the fused weights of experts as (experts, in, out)."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(directory, to)
    path = os.path.join(to, "model.safetensors")
    tensors = safetensors.torch.load_file(path)
    for key in tensors:
        if ".experts." in key:
            tensors[key] = tensors[key].transpose(1, 2).contiguous()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def make(name, directory):
    prefix, kind, values = CASES[name]
    dtype = TYPES[kind]
    torch.manual_seed(sorted(CASES).index(name))
    model = build(prefix, values).float().eval()
    randomize(model, dtype)
    before = check_scale(model)
    shutil.rmtree(directory, ignore_errors=True)
    copy.deepcopy(model).to(dtype).save_pretrained(directory) # .to() rounds frequencies, too
    if os.path.exists(os.path.join(directory, "generation_config.json")):
        os.remove(os.path.join(directory, "generation_config.json"))
    model = reference(model, dtype)
    after = check_scale(model)
    far = ((after - before).norm() / after.norm()).item()
    limit = 5e-3 if "gemma" in name and dtype == torch.bfloat16 else 1e-5
    assert far < limit, (name, far)
    samples = [torch.randint(0, values["vocab_size"], (n,)).tolist() for n in LENGTHS]
    tensors = run(model, samples)
    offsets = [0]
    for ids in samples:
        offsets.append(offsets[-1] + len(ids))
    tensors["ids"] = torch.tensor(sum(samples, []), dtype=torch.int32)
    tensors["offsets"] = torch.tensor(offsets, dtype=torch.int64)
    meta = {"torch": torch.__version__, "transformers": transformers.__version__, "case": name}
    path = os.path.join(directory, "expected.safetensors")
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=meta)
    size = sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))
    if name == "qwen3_vl_moe":
        turned(directory, directory + "_turned")
    print(f"{name}: {size} bytes, float32 as it is against float64: {far:.1e}")


def main():
    torch.set_num_threads(1)
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
    for name in sys.argv[1:] or CASES:
        make(name, os.path.join(here, name))


if __name__ == "__main__":
    main()
