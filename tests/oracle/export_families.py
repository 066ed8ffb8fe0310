#!/usr/bin/env python3
"""GGUF files of aq-export for every family, against llama.cpp: its converter, its engine, its tokenizer.

    pip install torch transformers==5.24.0 sentencepiece numpy llama-cpp-python==0.3.36
    LLAMA_CPP=llama_cpp_python-0.3.36/vendor/llama.cpp python tests/oracle/export_families.py [--make] [CASE...]

LLAMA_CPP is llama.cpp's source, whose converter (conversion/) and package gguf are imported. --make writes the checkpoints anew:
tests/oracle/export/families/CASE/{config.json,model.safetensors} with random weights and tests/oracle/export/tokenizers/*.
Otherwise they are read. For each case:

  * aq-export (build/bin, through tests/gguf_case) writes the unquantized model and a quantized one;
  * the converter writes the same checkpoint: every key that it writes has the same value in aq's file, and every tensor the same
    type and bytes. Keys that aq writes beside them are in MORE; names of splits are compared below instead, since the converter
    knows published tokenizers alone;
  * llama.cpp computes logits of random tokens from aq's file, transformers those of the checkpoint in float32: the mean KL must
    stay under 1e-5 (llama.cpp rounds activations to bf16 before it multiplies them with bf16 weights), and from the file of the same
    checkpoint in float32 under 1e-10 (an f32 cache in both; Gemma 1e-6: its GELU comes from a table in fp16);
  * llama.cpp tokenizes captions and odd strings as tokenizers does with the checkpoint's tokenizer.json. Texts that begin with a
    blank, or have special tokens in them, are counted apart: with SentencePiece's kind llama.cpp puts a blank before every piece of
    text, as SentencePiece itself does, and tokenizer.json's Metaspace only before one that has none;
  * gguf.dequantize of the quantized file equals, bit for bit, what its blocks should hold (fp16 scales and codes as in
    tests/oracle/export_gguf.py), rows of q and k in the converter's order.

Writes tests/oracle/export/families.json: figures, and keys and digests of both files for tests/57-gguf.bats.
"""
import hashlib, json, os, re, shutil, subprocess, sys, tempfile
from importlib.metadata import version

sys.path[:0] = [os.environ["LLAMA_CPP"] + "/gguf-py", os.environ["LLAMA_CPP"], os.path.dirname(os.path.abspath(__file__))]
import gguf  # llama.cpp's own: the converter needs it
import numpy as np
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT, TOKENIZERS = HERE + "/export/families", HERE + "/export/tokenizers"
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)

SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=464, rms_norm_eps=1e-5, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=None,
             tie_word_embeddings=True)


def sized(**changes):
    return {**SMALL, **changes}


def rope(kind="default", theta=1e4, **rest):
    return {"rope_type": kind, "rope_theta": theta, **rest}


LLAMA3 = rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
TWO = {"sliding_attention": rope(theta=1e4), "full_attention": rope("linear", 1e6, factor=8.0)}
# name: class prefix, weights' type, tokenizer, config
CASES = {
    "llama": ("Llama", "bf16", "llama3", sized(rope_parameters=LLAMA3)),
    "llama_bias": ("Llama", "f32", "pieces", sized(head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                                                  rope_parameters=rope("linear", factor=4.0))),
    "mistral": ("Mistral", "bf16", "pieces", sized(head_dim=16, sliding_window=None, tie_word_embeddings=False,
                                                  rope_parameters=rope(theta=1e6))),
    "qwen2": ("Qwen2", "bf16", "qwen2", sized(rope_parameters=rope("yarn", 1e6, factor=4.0, original_max_position_embeddings=64))),
    "qwen3": ("Qwen3", "bf16", "qwen2", sized(head_dim=16, rope_parameters=rope(theta=1e6))),
    "smollm3": ("SmolLM3", "bf16", "llama3", sized(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], layer_types=["full_attention"] * 4,
                                                   rope_parameters=rope(theta=2e6))),
    "phi3": ("Phi3", "bf16", "pieces", sized(sliding_window=None, original_max_position_embeddings=256, rope_parameters=rope())),
    "phi3_longrope": ("Phi3", "bf16", "gpt4o", sized(
        hidden_size=64, sliding_window=None, original_max_position_embeddings=256, max_position_embeddings=1024,
        rope_parameters=rope("longrope", 1e4, short_factor=[1.0, 1.3, 1.7, 2.0], long_factor=[2.0, 3.0, 4.0, 5.0], partial_rotary_factor=0.5,
                             original_max_position_embeddings=256))),
    "granite": ("Granite", "bf16", "digits", sized(embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0,
                                                  attention_multiplier=0.3, rope_parameters=rope())),
    "olmo2": ("Olmo2", "f32", "dbrx", sized(tie_word_embeddings=False, rope_parameters=rope(theta=5e5))),
    "gemma2": ("Gemma2", "bf16", "gemma", sized(
        head_dim=16, num_hidden_layers=3, sliding_window=8, query_pre_attn_scalar=16, attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0, hidden_activation="gelu_pytorch_tanh", rope_parameters=rope())),
    "gemma3": ("Gemma3Text", "bf16", "gemma", sized(
        head_dim=16, num_hidden_layers=6, sliding_window=8, query_pre_attn_scalar=16,
        layer_types=["sliding_attention"] * 5 + ["full_attention"], rope_parameters=TWO)),
    "gemma3_pattern": ("Gemma3Text", "bf16", "gemma", sized(
        head_dim=16, sliding_window=8, query_pre_attn_scalar=16, layer_types=["full_attention", "sliding_attention"], rope_parameters=TWO)),
}
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# what aq says beside the converter: sizes that llama.cpp would take for granted
MORE = {"attention.key_length", "attention.value_length", "rope.freq_base", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        "rope.freq_base_swa", "attention.sliding_window_pattern"}
ODD = ["", " ", "  two  blanks", "A dog runs.", "It's 2024, isn't it? 12345", "tab\tand\nline\r\n\nends", "naïve café — 東京 🙂", "<unk> <s> x",
       "ALLCAPS mixedCase HTTPServer/2 'S 'll", "▁mark", "a" * 60]


# ---- checkpoints ----

def keep(name, t, cls, bos):
    """tokenizer.json, and tokenizer_config.json as published checkpoints have it; bos goes before every text."""
    if bos:
        special = {"SpecialToken": {"id": bos, "type_id": 0}}
        a, b = ({"Sequence": {"id": x, "type_id": i}} for i, x in enumerate("AB"))
        ids = [x["id"] for x in t["added_tokens"] if x["content"] == bos]
        t["post_processor"] = {"type": "TemplateProcessing", "single": [special, a], "pair": [special, a, b],
                               "special_tokens": {bos: {"id": bos, "ids": ids, "tokens": [bos]}}}
    config = {"tokenizer_class": cls, "added_tokens_decoder": {str(x["id"]): {k: v for k, v in x.items() if k != "id"} for x in t["added_tokens"]}}
    config |= {"bos_token": bos} if bos else {}
    config |= {"unk_token": "<unk>"} if cls in ("LlamaTokenizer", "GemmaTokenizer") else {}
    json.dump(t, open(f"{TOKENIZERS}/{name}/tokenizer.json", "w"), ensure_ascii=False)
    json.dump(config, open(f"{TOKENIZERS}/{name}/tokenizer_config.json", "w"), ensure_ascii=False, indent=1)


def make_tokenizers():
    import sentencepiece
    shutil.rmtree(TOKENIZERS, ignore_errors=True)
    os.makedirs(TOKENIZERS)
    text = ROOT + "/datasets/demo/captions_large.txt"
    for name, cls, more in (("pieces", "LlamaTokenizer", dict(unk_id=0, bos_id=1, eos_id=2)),
                            ("gemma", "GemmaTokenizer", dict(add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>",
                                                             eos_piece="<eos>", user_defined_symbols=["<mask>", "\n\n", "▁▁"]))):
        with tempfile.TemporaryDirectory() as d:
            sentencepiece.SentencePieceTrainer.train(
                input=text, model_prefix=d + "/tokenizer", vocab_size=440, model_type="bpe", byte_fallback=True, character_coverage=0.9999,
                normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1, split_digits=True, minloglevel=2, **more)
            json.dump({"tokenizer_class": cls}, open(d + "/tokenizer_config.json", "w"))
            transformers.AutoTokenizer.from_pretrained(d).save_pretrained(d + "/out")
            os.makedirs(TOKENIZERS + "/" + name)
            shutil.copy(d + "/tokenizer.model", f"{TOKENIZERS}/{name}/tokenizer.model")
            keep(name, json.load(open(d + "/out/tokenizer.json")), cls, "<bos>" if name == "gemma" else "<s>")
    source = json.load(open(HERE + "/tokenizer/llama3.json"))
    words = source["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    cased = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
    for name, regex, whole, post in (("llama3", words, True, True), ("dbrx", words, False, False), ("gpt4o", cased, False, False),
                                     ("qwen2", words.replace("{1,3}", ""), False, False), ("digits", None, False, False)):
        t = json.loads(json.dumps(source if regex else json.load(open(HERE + "/tokenizer/digits.json"))))
        if regex:
            t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex
            t["model"]["ignore_merges"] = whole
        if not post:
            t["post_processor"] = None
        if name in ("gpt4o", "qwen2"):  # its class adds this one
            t["added_tokens"].append({**t["added_tokens"][0], "id": 343, "content": "<|endoftext|>"})
        os.makedirs(TOKENIZERS + "/" + name)
        keep(name, t, "GPT2Tokenizer" if name == "gpt4o" else "PreTrainedTokenizerFast", t["added_tokens"][0]["content"] if post else None)


def model_class(prefix):
    return getattr(transformers, ("Gemma3" if prefix == "Gemma3Text" else prefix) + "ForCausalLM")


def make_checkpoint(name):
    from families import randomize
    prefix, kind, _, values = CASES[name]
    torch.manual_seed(sorted(CASES).index(name))
    model = model_class(prefix)._from_config(getattr(transformers, prefix + "Config")(**values), attn_implementation="eager").float()
    randomize(model, TYPES[kind])
    d = f"{OUT}/{name}"
    shutil.rmtree(d, ignore_errors=True)
    with torch.no_grad():  # logits about as wide as a small trained model's
        for n, p in model.named_parameters():
            if "embed_tokens" in n or "lm_head" in n:
                p.mul_(0.15)
    model.to(TYPES[kind]).save_pretrained(d)
    if os.path.exists(d + "/generation_config.json"):
        os.remove(d + "/generation_config.json")


# ---- the two files ----

def aq(name, work, kind, source="source"):
    path = f"{work}/{source}-{kind}.gguf"
    subprocess.run([ROOT + "/tests/gguf_case", name, kind, path, source], check=True, cwd=work)
    return path


def converted(name, work, pre):
    """The same checkpoint through llama.cpp's converter, as bf16 or f32, whichever it has."""
    import conversion
    from conversion.base import ModelBase, ModelType
    from pathlib import Path
    d, kind = Path(work + "/source"), CASES[name][1]
    hparams = ModelBase.load_hparams(d, False)
    cls = conversion.get_model_class(conversion.base.get_model_architecture(hparams, ModelType.TEXT))
    ftype = {"bf16": gguf.LlamaFileType.MOSTLY_BF16, "f16": gguf.LlamaFileType.MOSTLY_F16, "f32": gguf.LlamaFileType.ALL_F32}[kind]
    out = work + "/theirs.gguf"
    with torch.inference_mode():
        model = cls(d, ftype, Path(out))
        model.get_vocab_base_pre = lambda tokenizer: pre
        model.write()
    return out


def values(path):
    r = gguf.GGUFReader(path)
    return {k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.")}, {t.name: t for t in r.tensors}


def compare_with_converter(name, ours, theirs):
    ka, ta = values(ours)
    kb, tb = values(theirs)
    arch = ka["general.architecture"]
    skipped = ("general.name", "general.basename", "general.size_label", "general.sampling", "general.finetune", "general.version", "general.tags",
               "general.source", "general.base_model", "tokenizer.ggml.add_sep_token")
    wrong = {k: shown(ka.get(k), v) for k, v in kb.items() if not k.startswith(skipped) and (k not in ka or different(ka[k], v))}
    more = {k for k in ka if k not in kb} - {f"{arch}.{k}" for k in MORE} - {"general.name", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix"}
    bad = [k for k in set(ta) | set(tb) if k not in ta or k not in tb or ta[k].tensor_type != tb[k].tensor_type
           or ta[k].data.tobytes() != tb[k].data.tobytes()]
    return wrong, more, bad


def shown(a, b):
    if isinstance(a, list) and isinstance(b, list):
        return len(a), len(b), [(i, x, y) for i, (x, y) in enumerate(zip(a, b)) if x != y][:5]
    return a, b


def different(a, b):
    if isinstance(a, float) or isinstance(b, float):
        return not np.isclose(a, b, rtol=1e-6)
    if isinstance(a, list) and a and isinstance(a[0], float):
        return len(a) != len(b) or not np.allclose(a, b)
    return a != b


# ---- logits and tokens ----

def logits(path, prompts):
    import llama_cpp
    llm = llama_cpp.Llama(path, n_ctx=64, n_batch=64, n_ubatch=64, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0,
                          flash_attn=False)
    for ids in prompts:
        llm.reset()
        llm.eval(ids)
        yield torch.tensor(np.array(llm.scores[:len(ids)])).double()


def divergence(name, path, source):
    """Mean KL of llama.cpp's distributions from transformers', the largest difference of a logit, and how wide logits are."""
    model = model_class(CASES[name][0]).from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(5)
    prompts = [torch.randint(3, 400, (n,)).tolist() for n in (3, 24, 40)]
    kls, largest, width = [], 0.0, 0.0
    for ids, got in zip(prompts, logits(path, prompts)):
        with torch.no_grad():
            ref = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
        p, q = torch.log_softmax(ref, -1), torch.log_softmax(got, -1)
        kls += (p.exp() * (p - q)).sum(-1).tolist()
        largest, width = max(largest, float((ref - got).abs().max())), max(width, float(ref.std()))
    return float(np.mean(kls)), largest, width, len(kls)


def in_float32(name, work):
    model = model_class(CASES[name][0]).from_pretrained(work + "/source", dtype=torch.float32)
    shutil.copytree(work + "/source", work + "/wide")
    model.save_pretrained(work + "/wide")
    return work + "/wide"


def tokens(path, source):
    import llama_cpp
    from tokenizers import Tokenizer
    llm, tok = llama_cpp.Llama(path, vocab_only=True, verbose=False), Tokenizer.from_file(source + "/tokenizer.json")
    lines = [l for l in open(ROOT + "/datasets/demo/captions_small.txt").read().split("\n") + ODD if l]
    others = [l for l in lines if llm.tokenize(l.encode(), add_bos=True, special=True) != tok.encode(l).ids]
    edge = [l for l in others if l[0] in " ▁" or "<" in l]
    return len(lines), len(edge), [l for l in others if l not in edge]


# ---- quantized blocks ----

def check_blocks(name, path, plain):
    from export_gguf import expected
    _, q = values(path)
    _, p = values(plain)
    stats = {}
    recipe = json.load(open(ROOT + "/tests/export-families.json"))["treatments"]
    text = {"Q8_0": recipe["q8"][0], "Q4_0": recipe["q4"][0], "MXFP4": recipe["mx"][0]}
    for n, t in q.items():
        kind = t.tensor_type.name
        x = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
        w = gguf.dequantize(p[n].data, p[n].tensor_type).astype(np.float32)
        y = expected(w, text[kind]) if kind in text else w
        e = stats.setdefault(kind, [0, 0])
        e[0] += x.size
        e[1] += int((x.reshape(-1) != y.reshape(-1)).sum())
    return stats


def facts(path):
    r = subprocess.run([ROOT + "/build/tests/gguf_digest", "--values", path], check=True, capture_output=True, text=True).stdout
    k, t = values(path)
    lines = []
    for key, v in k.items():
        if isinstance(v, list):
            text = "".join(("true" if x is True else "false" if x is False else "%.9g" % x if isinstance(x, float) else str(x)) + "\n" for x in v)
            lines.append(f"{key} {len(v)} {hashlib.sha256(text.encode()).hexdigest()}")
        else:
            lines.append(f"{key} " + ("true" if v is True else "false" if v is False else "%.9g" % v if isinstance(v, float) else str(v)))
    assert r == "".join(l + "\n" for l in lines), (r, lines)
    return {"keys": hashlib.sha256(r.encode()).hexdigest(),
            "tensors": {t.name: f"{t.tensor_type.name} {hashlib.sha256(t.data.tobytes()).hexdigest()}" for t in t.values()}}


def main():
    words = sys.argv[1:]
    if "--make" in words:
        make_tokenizers()
    names = [w for w in words if w != "--make"] or list(CASES)
    path = HERE + "/export/families.json"
    out = json.load(open(path)) if os.path.exists(path) else {"cases": {}}
    import llama_cpp
    out["versions"] = {n: version(n) for n in ("torch", "transformers", "sentencepiece", "tokenizers")} | {"llama-cpp-python": llama_cpp.__version__}
    failed = []
    for name in names:
        if "--make" in words:
            make_checkpoint(name)
        with tempfile.TemporaryDirectory() as work:
            shutil.copytree(f"{OUT}/{name}", work + "/source")
            for f in os.listdir(f"{TOKENIZERS}/{CASES[name][2]}"):
                shutil.copy(f"{TOKENIZERS}/{CASES[name][2]}/{f}", work + "/source")
            plain, coded = aq(name, work, "plain"), aq(name, work, "coded")
            keys, _ = values(plain)
            wrong, more, bad = compare_with_converter(name, plain, converted(name, work, keys["tokenizer.ggml.pre"]))
            kl, largest, width, positions = divergence(name, plain, work + "/source")
            exact = divergence(name, aq(name, work, "plain", os.path.basename(in_float32(name, work))), work + "/wide")[0]
            texts, edge, others = tokens(plain, work + "/source")
            stats = check_blocks(name, coded, plain)
            print(f"{name:15} KL {kl:.1e} over {positions} positions, of float32 {exact:.1e} (logits {width:.2f} wide, largest difference "
                  f"{largest:.1e}), {texts} texts, {edge} with blanks otherwise, {len(others)} tokenized otherwise; values {stats}; "
                  f"keys {wrong or 'as the converter writes them'}, beside them {sorted(more)}, tensors {bad or 'the same bytes'}")
            if wrong or more or bad or others or not kl < 1e-5 or not exact < (1e-6 if "gemma" in name else 1e-10) or any(e[1] for e in stats.values()):
                failed.append(name)
                print("   ", others[:3])
            out["cases"][name] = {"tokenizer": CASES[name][2], "kl": kl, "kl_float32": exact, "positions": positions, "texts": texts,
                                  "texts_with_blanks_otherwise": edge, "values": stats,
                                  "plain": facts(plain), "coded": facts(coded)}
    json.dump(out, open(path, "w"), indent=1)
    if failed:
        sys.exit(f"FAILED: {failed}")


if __name__ == "__main__":
    main()
