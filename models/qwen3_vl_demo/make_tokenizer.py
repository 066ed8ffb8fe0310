#!/usr/bin/env python3
"""Trains the BPE tokenizer of the demo model in the layout of Qwen's tokenizer.json.

    make_tokenizer.py corpus.txt -o DIR      tokenizer.json, tokenizer_config.json
    make_tokenizer.py --encode DIR FILE -o ids.safetensors

The byte symbols have ids 0 to 255 in Qwen's order, merges follow, then the 26 added tokens; the embedding has some
more rows than there are ids, as Qwen's has.
"""
import argparse
import json
import os

MERGES = 1700
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
           "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
         "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"]


def byte_symbols():
    """The character that stands for each byte, printable bytes first: GPT-2's order, which Qwen keeps."""
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(0x100 + i) for i in range(len(others))]


def train(corpus, out):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train([corpus], trainer)

    # the same merges with the byte symbols in Qwen's order
    merges = [tuple(m) for m in json.loads(tok.to_str())["model"]["merges"]]
    vocab = {symbol: i for i, symbol in enumerate(byte_symbols())}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tok.model = models.BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False, byte_fallback=False)
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.post_processor = processors.ByteLevel(**byte_level)
    tok.decoder = decoders.ByteLevel(**byte_level)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN])
    os.makedirs(out, exist_ok=True)
    tok.save(os.path.join(out, "tokenizer.json"))

    added = {str(tok.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                                       "special": t in SPECIAL} for t in SPECIAL + PLAIN}
    config = {"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added,
              "additional_special_tokens": SPECIAL[1:], "bos_token": None, "clean_up_tokenization_spaces": False,
              "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 4096, "pad_token": "<|endoftext|>",
              "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def encode(tokenizer, path):
    """(ids of all lines one after the other, offsets of the lines), as int32 tensors."""
    import torch
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(os.path.join(tokenizer, "tokenizer.json"))
    lines = [line for line in open(path, encoding="utf-8").read().split("\n") if line]
    ids, offsets = [], [0]
    for at in range(0, len(lines), 10000):
        for e in tok.encode_batch_fast(lines[at:at + 10000]):
            ids += e.ids
            offsets.append(len(ids))
    return torch.tensor(ids, dtype=torch.int32), torch.tensor(offsets, dtype=torch.int32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--encode", metavar="DIR")
    parser.add_argument("-o", required=True)
    args = parser.parse_args()
    if args.encode:
        import torch
        from safetensors.torch import save_file

        ids, offsets = encode(args.encode, args.text)
        save_file({"ids": ids.to(torch.int16), "offsets": offsets}, args.o)
    else:
        train(args.text, args.o)


if __name__ == "__main__":
    main()
