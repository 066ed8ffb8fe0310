#!/usr/bin/env python3
"""Vectors of the tokenizer from Hugging Face tokenizers; the replay is tests/unit/test_tokenizer.c.

    tests/oracle/tokenizer.py QWEN3_TOKENIZER_JSON [COUNT DIR]

QWEN3_TOKENIZER_JSON is the published file, unpacked. Writes tests/oracle/tokenizer/ and tests/data/tiny-tokenizer/:

    pieces.txt      what fuzzed strings are made of: "piece HEX..." and "range HEX HEX" (code points)
    strings.tsv     text as JSON, ids: read, checked against the package, and written again
    qwen3.tsv       sha256 of the ids of each 1,000 of 100,000 fuzzed strings, Qwen3's tokenizer
    tiny.tsv        the same of 10,000 strings, the tiny one
    KIND.json       a small tokenizer of a kind, trained and serialized by the package
    KIND.tsv        the same of 5,000 strings; "refused" in place of ids where a byte has no symbol

With COUNT and DIR, the hashes of that many strings of each KIND go to DIR: `build/tests/unit/test_tokenizer DIR` replays them.
"""
import hashlib
import json
import os
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
TINY = os.path.join(HERE, "..", "..", "data", "tiny-tokenizer")
SEED = 20240617
MASK = (1 << 64) - 1

# Old blocks only: libraries carry different versions of Unicode.
RANGES = """0000 001f  0020 007e  007f 009f  00a0 00ff  0100 017f  0180 024f  0250 02af  02b0 02ff  0300 036f  0370 03ff
0400 04ff  0531 0556  0591 05f4  0600 06ff  0710 074a  0780 07b1  0901 094d  0950 0970  0985 09b9  0a05 0a39  0b83 0bb9
0b85 0bcd  0e01 0e3a  0e40 0e5b  0e81 0eb0  0f00 0f47  0f71 0f84  10a0 10c5  10d0 10fa  1100 11ff  1200 1248  1780 17b3
1800 180e  1820 1877  1d00 1dbf  1e00 1eff  1f00 1fff  2000 206f  2070 208e  20a0 20b5  20d0 20f0  2100 214f  2150 2188
2190 21ff  2200 22ff  2460 24ff  2500 25ff  2600 26ff  2701 27be  2e80 2ef3  3000 303f  3041 309f  30a0 30ff  3105 312c
3131 318e  3200 32ff  4e00 9fa5  a000 a48c  ac00 d7a3  e000 e0ff  f900 fa2d  fb00 fb4f  fb50 fdff  fe00 fe0f  fe20 fe23
fe30 fe4f  ff01 ff60  ff61 ffdc  ffe0 fffd  10000 1004d  10330 1034a  10400 1049d  1d100 1d1dd  1d400 1d7ff  1f1e6 1f1ff
1f300 1f5ff  1f600 1f64f  1f680 1f6c5  1f900 1f9ff  20000 2a6d6  2f800 2fa1d  e0001 e007f  100000 1000ff"""
PIECES = ["'s", "'S", "'t", "'re", "'RE", "'ve", "'Ve", "'m", "'ll", "'LL", "'d", "'\u017f", "''", "\u2019s", "'", " ", "  ",
          "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u200b", "\ufeff",
          "\u1680", "\u2028", "\u180e", "\u202f", "a", "b", "the", " the", "The", " a", "man", " man", "ing", "1", "12", "2024",
          " 1", "\u00b2", "\u0664", "\u2167", "\u00bd", ".", ",", "...", "!!!", "!\n", "?", "-", "--", "_", "(", ")", "[", "]{",
          "\"", "/", "\\", "#", "$", "://", "<|", "|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endoftext", "<think>",
          "</think>", "<tool_call>", "<|image_pad|>", "\u00e9", "e\u0301", "a\u0327\u0301", "a\u0301\u0327", "\u212b", "\u2126",
          "\u0958", "\ufb01", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u65e5\u672c", "\u4f60\u597d", "\uff0c", "\u0e2a\u0e27",
          "\u0928\u092e\u0938\u094d", "\u0645\u0631", "\u05e9\u05c1", "\U0001f600", "\U0001f469\u200d\U0001f467", "\u2764\ufe0f",
          "\U0001f1fa\U0001f1f8", "\U0001f44d\U0001f3fd", "\u0301", "\u0344", "\u0f73", "\u1fbe", "\x00", "\x1c", "\x7f",
          "<s>", "</s>", "<unk>", "<pad>", " <pad> ", "<0x0A>", "\u2581", "\u2581\u2581", "\u2581a", " the man", "the  man", "<|user|>",
          "  <|user|>", "<|user|> \n", "<mask>", "\t<mask> ", "a<mask>b", "123", "1234", "12345678", "9.99", "  x", " \r\n x", "\x04", "\xc0",
          "\u00ad", "\ue000", "\U0010ffff", "aaaaaaaaaaaaaaaa", "================", "supercalifragilistic"]


def pieces():
    out = [[ord(c) for c in p] for p in PIECES]
    numbers = [int(x, 16) for x in RANGES.split()]
    return out, list(zip(numbers[0::2], numbers[1::2]))


class Random:
    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return (z ^ z >> 31) % n


def fuzzed(rng, fixed, ranges):
    """Up to 24 parts: a fixed piece, a character of any block, or a word of one block."""
    out = []
    for _ in range(1 + rng.below(24)):
        kind = rng.below(8)
        if kind < 4:
            out += fixed[rng.below(len(fixed))]
            continue
        lo, hi = ranges[rng.below(len(ranges))]
        for _ in range(1 if kind < 6 else 1 + rng.below(6)):
            out.append(lo + rng.below(hi - lo + 1))
    return "".join(map(chr, out))


def hashes(tok, path, count, lacks_bytes=False):
    rng = Random(SEED)
    fixed, ranges = pieces()
    added = {t.content: len(t.content.encode()) for t in tok.get_added_tokens_decoder().values()}
    refused = 0
    with open(path, "w") as f:
        f.write(f"# tokenizers {tokenizers.__version__}, seed {SEED}: first string, strings, sha256 of their lines of ids\n")
        for at in range(0, count, 1000):
            h = hashlib.sha256()
            texts = [fuzzed(rng, fixed, ranges) for _ in range(1000)]
            for text, e in zip(texts, tok.encode_batch(texts, add_special_tokens=False)):
                line = " ".join(map(str, e.ids))
                if lacks_bytes and sum(added.get(t, len(t)) for t in e.tokens) != len(text.encode()):
                    line, refused = "refused", refused + 1
                h.update((line + "\n").encode())
            f.write(f"{at}\t1000\t{h.hexdigest()}\n")
    print(f"{os.path.basename(path)}: {count} strings, {refused} refused")


CORPUS = ["a man rides the red horse", "the woman reads a book in the garden", "aaaa aaa aa a", "two dogs and three cats",
          "the man and the woman", "it's the dog's bone, isn't it?", "caf\u00e9 caf\u00e9 \u65e5\u672c \u65e5\u672c\u8a9e"] * 4


def train_tiny():
    """A few KB in the layout of Qwen3's: 256 bytes, a few dozen merges, two added tokens."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    pattern = next(s for s in json.load(open(sys.argv[1]))["pre_tokenizer"]["pretokenizers"] if s["type"] == "Split")
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern["pattern"]["Regex"]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    os.makedirs(TINY, exist_ok=True)
    data = json.loads(tok.to_str())
    data["post_processor"] = None
    with open(os.path.join(TINY, "tokenizer.json"), "w") as f:
        json.dump(data, f, ensure_ascii=False)
        f.write("\n")
    with open(os.path.join(TINY, "tokenizer_config.json"), "w") as f:
        json.dump({"pad_token": "<|endoftext|>", "eos_token": "<|im_start|>"}, f)
        f.write("\n")
    return Tokenizer.from_file(os.path.join(TINY, "tokenizer.json"))


# ---- one small tokenizer of each kind ----

QWEN_REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
WORDS = CORPUS + ["1234 12 123 2024", "the 12 men, the 345 women", "  two  blanks   three", "a\n\nb\n", "don't DON'T", "!!! ... --"]


def bytes_step(regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=regex)


def trained(size, normalizer=None, pre_tokenizer=None, byte_level=True):
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    if pre_tokenizer:
        tok.pre_tokenizer = pre_tokenizer
    tok.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=size, show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else []))
    return tok


def with_model(tok, **changes):
    data = json.loads(tok.to_str())
    data["model"].update(changes)
    return Tokenizer.from_str(json.dumps(data))


def without_bytes(tok, missing):
    """A vocabulary that lacks some symbols, with its ids closed up, as SmolLM2's."""
    data = json.loads(tok.to_str())
    chars = pre_tokenizers.ByteLevel.alphabet()
    shown = {c: normalizers.ByteLevel().normalize_str(chr(c)) for c in missing if c < 128}
    gone = set(shown.values()) | {"\u00c0", "\u00c1", "\u00f5", "\u00ff"}
    assert gone <= set(chars)
    vocab = [s for s in data["model"]["vocab"] if not gone & set(s)]
    data["model"]["vocab"] = {s: i for i, s in enumerate(vocab)}
    data["model"]["merges"] = [m for m in data["model"]["merges"] if not gone & set("".join(m))]
    return Tokenizer.from_str(json.dumps(data))


def fallback(tok, specials, bytes_=range(256), all_merges=False, **model):
    """Special tokens and bytes in front, as in files that come from sentencepiece; with all_merges every pair that makes a
    symbol is a merge, in the order of the symbols, which is what converters write."""
    data = json.loads(tok.to_str())
    symbols = specials + [f"<0x{b:02X}>" for b in bytes_] + list(data["model"]["vocab"])
    data["model"]["vocab"] = vocab = {s: i for i, s in enumerate(symbols)}
    if all_merges:
        data["model"]["merges"] = [[s[:k], s[k:]] for s in list(vocab)[len(specials) + len(bytes_):] for k in range(1, len(s))
                                   if s[:k] in vocab and s[k:] in vocab]
    data["model"].update(model)
    return Tokenizer.from_str(json.dumps(data))


def begin(tok, before, after=()):
    tok.add_special_tokens([*before, *after])
    names = [*before, "$A", *after]
    tok.post_processor = processors.TemplateProcessing(
        single=" ".join(names), pair=" ".join(names) + " $B:1", special_tokens=[(t, tok.token_to_id(t)) for t in [*before, *after]])
    return tok


def kinds():
    """name -> tokenizer, and whether bytes are missing"""
    mark = "\u2581"
    llama3 = with_model(trained(340, None, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_REGEX), "isolated"), bytes_step(False)])), ignore_merges=True)
    # a word of the vocabulary that no merge makes
    data = json.loads(llama3.to_str())
    for w in ("\u0120garden", "supercalifragilistic", "123", "dog"):
        data["model"]["vocab"].setdefault(w, len(data["model"]["vocab"]))
    llama3 = Tokenizer.from_str(json.dumps(data))
    template = begin(llama3, ["<|begin_of_text|>"])
    data = json.loads(template.to_str())
    data["post_processor"] = {"type": "Sequence", "processors": [json.loads(trained(300, None, bytes_step(True)).to_str())["post_processor"]
                              or {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                              data["post_processor"]]}
    yield "llama3", Tokenizer.from_str(json.dumps(data)), False

    gpt2 = trained(330, None, bytes_step(True))
    gpt2.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    gpt2.add_tokens([AddedToken("<|user|>", lstrip=True, normalized=False), AddedToken("<mask>", rstrip=True, normalized=True)])
    yield "gpt2", gpt2, False

    smol = without_bytes(trained(330, None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_step(True)])),
                         [4, 6, 0x13, 0x14, 0x16, 0x1d])
    smol.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    yield "digits", smol, True
    runs = trained(330, normalizers.NFC(), pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), bytes_step(True)]))
    runs.add_tokens([AddedToken("caf\u00e9", normalized=True), AddedToken("e\u0301", normalized=True)])
    yield "digit_runs", runs, False

    prepend = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    llama2 = fallback(trained(300, prepend, None, False), ["<unk>", "<s>", "</s>"], all_merges=True,
                      unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    llama2.add_special_tokens(["<unk>"])
    begin(llama2, ["<s>"], ["</s>"])
    llama2.add_tokens([AddedToken("<|user|>", rstrip=True, normalized=False), AddedToken("<mask>", normalized=True),
                       AddedToken("<pad>", lstrip=True, rstrip=True, normalized=False)])
    yield "llama2", llama2, False

    first = pre_tokenizers.Metaspace(mark, prepend_scheme="first", split=False)
    mistral = begin(fallback(trained(300, None, first, False), ["<unk>", "<s>", "</s>"], unk_token="<unk>", byte_fallback=True,
                             fuse_unk=True), ["<s>"])
    mistral.add_special_tokens(["<unk>", "</s>"])
    yield "metaspace_first", mistral, False
    always = begin(fallback(trained(300, None, pre_tokenizers.Metaspace(mark, prepend_scheme="always", split=True), False),
                            ["<unk>", "<s>"], bytes_=[*range(0x80), 0xc3, 0xa9, 0xe2, 0x80, 0x99], unk_token="<unk>", byte_fallback=True,
                            fuse_unk=True), ["<s>"])
    yield "metaspace_always", always, False
    never = fallback(trained(300, None, pre_tokenizers.Metaspace(mark, prepend_scheme="never", split=True), False),
                     ["<unk>"], bytes_=[], unk_token="<unk>", fuse_unk=False)
    never.add_tokens([AddedToken("<s>", normalized=False)])
    yield "unknown", never, False

    gemma = fallback(trained(300, normalizers.Replace(" ", mark), pre_tokenizers.Split(" ", "merged_with_previous"), False),
                     ["<pad>", "<eos>", "<bos>", "<unk>"], all_merges=True, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    gemma.add_special_tokens(["<pad>", "<unk>"])
    begin(gemma, ["<bos>"])
    gemma.add_tokens([AddedToken("\n\n", normalized=False), AddedToken(mark * 2, normalized=False), AddedToken("<mask>", normalized=False)])
    yield "gemma", gemma, False
    # the same split where blanks are left for it
    blanks = fallback(trained(300, None, pre_tokenizers.Split(" ", "merged_with_previous"), False), ["<unk>"], unk_token="<unk>",
                      byte_fallback=True)
    yield "after_blank", blanks, False


def make_kinds(count, folder):
    for name, tok, lacks_bytes in kinds():
        text = tok.to_str()
        if folder == HERE:
            with open(os.path.join(HERE, name + ".json"), "w") as f:
                f.write(json.dumps(json.loads(text), ensure_ascii=False) + "\n")
        tok = Tokenizer.from_file(os.path.join(HERE, name + ".json"))
        hashes(tok, os.path.join(folder, name + ".tsv"), count, lacks_bytes)


def main():
    if len(sys.argv) > 2:
        make_kinds(int(sys.argv[2]), sys.argv[3])
        return
    qwen = Tokenizer.from_file(sys.argv[1])
    fixed, ranges = pieces()
    with open(os.path.join(HERE, "pieces.txt"), "w") as f:
        for p in fixed:
            f.write("piece " + " ".join(f"{c:x}" for c in p) + "\n")
        for lo, hi in ranges:
            f.write(f"range {lo:x} {hi:x}\n")
    known = [line.split("\t") for line in open(os.path.join(HERE, "strings.tsv"))]
    with open(os.path.join(HERE, "strings.tsv"), "w") as f:
        for text, ids in known:
            text, ids = json.loads(text), [int(i) for i in ids.split()]
            assert qwen.encode(text, add_special_tokens=False).ids == ids, text
            f.write(json.dumps(text) + "\t" + " ".join(map(str, ids)) + "\n")
    hashes(qwen, os.path.join(HERE, "qwen3.tsv"), 100000)
    hashes(train_tiny(), os.path.join(HERE, "tiny.tsv"), 10000)
    make_kinds(5000, HERE)


main()
