#!/usr/bin/env python3
"""Unicode as Hugging Face tokenizers sees it: the tables of lib/text/unicode_data.c, and hashes that test_tokenizer.c replays.

    tests/oracle/unicode.py [DIR]

Everything is asked of the package, through its normalizers and pre-tokenizers: no Unicode file is read. Its parts carry
different versions of Unicode (NFC an old one, the regex engine and Digits newer ones), so that no library of a
distribution agrees with all of them. Writes

    lib/text/unicode_data.c           letters, numbers, combining classes, canonical decompositions and compositions
    tests/oracle/tokenizer/nfc.tsv    sha256 of NFC of all code points in blocks, and of each mark with one of each class

With DIR, only DIR/nfc.tsv, of each mark with each mark, which `test_tokenizer DIR` replays.
"""
import hashlib
import os
import sys

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNK = 20000
NFD, NFC = normalizers.NFD(), normalizers.NFC()


def chunks():
    for at in range(0, len(CODES), CHUNK):
        yield CODES[at:at + CHUNK]


def matching(pattern):
    keep = normalizers.Replace(Regex("[^" + pattern + "]"), "")
    return {ord(c) for codes in chunks() for c in keep.normalize_str("".join(map(chr, codes)))}


def digits():
    """A letter after each code point, so that only a digit is alone."""
    split, out = pre_tokenizers.Digits(individual_digits=True), set()
    for codes in chunks():
        for piece, _ in split.pre_tokenize_str("a" + "".join(chr(c) + "a" for c in codes)):
            if len(piece) == 1 and piece != "a":
                out.add(ord(piece))
    return out


def of_each(normalizer, make):
    """normalizer of make(c) for every code point, in few calls."""
    out = {}
    for codes in chunks():
        text = normalizer.normalize_str("\n".join(make(c) if c != 10 else "" for c in codes)).split("\n")
        assert len(text) == len(codes)
        out.update(zip(codes, text))
    out[10] = "\n"
    return out


def combining_classes(nfd):
    """Two marks change places if the class of the first is the higher one: that orders the marks, and Unicode's own numbers
    of classes are of no other use."""
    low, high = "\u0334", "\u0345"  # classes 1 and 240, the lowest and the highest
    after, before = of_each(NFD, lambda c: "a" + chr(c) + low), of_each(NFD, lambda c: "a" + high + chr(c))
    marks = [c for c in CODES if nfd[c] == chr(c) and c != 10
             and (after[c] != "a" + chr(c) + low or before[c] != "a" + high + chr(c))]
    marks = sorted({*marks, ord(low), ord(high)})
    def swaps(a, b):
        return NFD.normalize_str("a" + chr(a) + chr(b)) != "a" + chr(a) + chr(b)
    groups = []  # of marks of one class, in rising order
    for m in marks:
        lo, hi = 0, len(groups)
        while lo < hi:
            mid = (lo + hi) // 2
            if swaps(m, groups[mid][0]):
                lo = mid + 1
            elif swaps(groups[mid][0], m):
                hi = mid
            else:
                groups[mid].append(m)
                break
        else:
            groups.insert(lo, [m])
    return {m: k + 1 for k, group in enumerate(groups) for m in group}, [g[0] for g in groups]


def ranges(codes, value=lambda c: 0):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1 and value(c) == value(out[-1][1]):
            out[-1][1] = c
        else:
            out.append([c, c])
    return [(a, b, value(a)) for a, b in out]


def table(f, head, rows):
    f.write(head + " = {\n")
    line = "   "
    for row in rows:
        if len(line) + len(row) + 2 > 100:
            f.write(line + "\n")
            line = "   "
        line += " " + row + ","
    f.write(line + "\n};\n")


def write_tables(letters, numbers, digit, classes, nfd, nfc):
    hangul = range(0xAC00, 0xD7A4)
    decomposed = [c for c in CODES if nfd[c] != chr(c) and c not in hangul]
    points, rows, pairs = [], [], []
    for c in decomposed:
        composes = nfc[c] == chr(c)
        rows.append(f"{{0x{c:x}, {len(points)}, {len(nfd[c])}}}")
        points += map(ord, nfd[c])
        if composes:
            first = NFC.normalize_str(nfd[c][:-1])
            assert len(first) == 1 and NFC.normalize_str(first + nfd[c][-1]) == chr(c)
            pairs.append((ord(first), ord(nfd[c][-1]), c))
    assert len(points) < 65536 and max(len(nfd[c]) for c in decomposed) <= 4
    with open(os.path.join(ROOT, "lib", "text", "unicode_data.c"), "w") as f:
        f.write("/* Made by tests/oracle/unicode.py from Hugging Face tokenizers "
                f"{tokenizers.__version__}: not edited by hand. */\n"
                '#include "text/unicode_data.h"\n\n// clang-format off\n')
        for name, codes in (("letter", letters), ("number", numbers), ("digit", digit)):
            r = ranges(codes)
            table(f, f"const struct unicode_range unicode_{name}s[UNICODE_{name.upper()}S]",
                  [f"{{0x{a:x}, 0x{b:x}}}" for a, b, _ in r])
        table(f, "const struct unicode_class unicode_classes[UNICODE_CLASSES]",
              [f"{{0x{a:x}, 0x{b:x}, {v}}}" for a, b, v in ranges(classes, classes.get)])
        table(f, "const struct unicode_decomposition unicode_decompositions[UNICODE_DECOMPOSITIONS]", rows)
        table(f, "const uint32_t unicode_points[UNICODE_POINTS]", [f"0x{p:x}" for p in points])
        table(f, "const struct unicode_pair unicode_pairs[UNICODE_PAIRS]",
              [f"{{0x{a:x}, 0x{b:x}, 0x{c:x}}}" for a, b, c in sorted(pairs)])
    sizes = {"LETTERS": len(ranges(letters)), "NUMBERS": len(ranges(numbers)), "DIGITS": len(ranges(digit)),
             "CLASSES": len(ranges(classes, classes.get)), "DECOMPOSITIONS": len(rows), "POINTS": len(points),
             "PAIRS": len(pairs)}
    path = os.path.join(ROOT, "lib", "text", "unicode_data.h")
    head = open(path).read().split("enum {")
    body = "".join(f"\n    UNICODE_{k} = {v}," for k, v in sizes.items())
    open(path, "w").write(head[0] + "enum {" + body + "\n}" + head[1].split("}", 1)[1])


def write_hashes(path, classes, firsts, nfc):
    def line(f, kind, shown, text):
        f.write(f"{kind}\t{shown}\t{hashlib.sha256(text.encode()).hexdigest()}\n")
    marks = sorted(classes)
    with open(path, "w") as f:
        f.write(f"# tokenizers {tokenizers.__version__}: NFC, each with a newline, and the sha256 of all of them\n"
                "# one FIRST LAST: of each code point; pairs MARKS...: of 'a', each of these, and each mark of firsts\n")
        f.write("firsts\t" + " ".join(f"{c:x}" for c in firsts) + "\n")
        for at in range(0, 0x110000, 0x8000):
            codes = [c for c in range(at, at + 0x8000) if c in nfc]
            line(f, "one", f"{at:x} {at + 0x7fff:x}", "".join(nfc[c] + "\n" for c in codes))
        for at in range(0, len(marks), 24):
            part = marks[at:at + 24]
            text = "".join(NFC.normalize_str("a" + chr(m) + chr(p)) + "\n" for m in part for p in firsts)
            line(f, "pairs", " ".join(f"{m:x}" for m in part), text)


def main():
    letters, numbers = matching(r"\p{L}"), matching(r"\p{N}")
    nfd, nfc = of_each(NFD, chr), of_each(NFC, chr)
    classes, firsts = combining_classes(nfd)
    if len(sys.argv) > 1:
        write_hashes(os.path.join(sys.argv[1], "nfc.tsv"), classes, sorted(classes), nfc)
        return
    write_tables(letters, numbers, digits() - numbers, classes, nfd, nfc)
    write_hashes(os.path.join(ROOT, "tests", "oracle", "tokenizer", "nfc.tsv"), classes, firsts, nfc)
    print(f"{len(letters)} letters, {len(numbers)} numbers, {len(classes)} marks in {len(firsts)} classes")


main()
