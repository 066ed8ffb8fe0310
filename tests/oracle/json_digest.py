#!/usr/bin/env python3
"""Vectors for lib/io/json_digest: python3 tests/oracle/json_digest.py > tests/oracle/json/digest.txt

One line each: the digest, a tab, the document. Python's json module reads the document; only its values enter the digest, as
lib/io/json_digest.h says.
"""
import hashlib
import json
import struct
import sys


def tokens(v, skip=None):
    if isinstance(v, dict):
        yield b"{"
        for k, x in v.items():
            if k != skip:
                k = k.encode()
                yield b"k" + struct.pack("<Q", len(k)) + k
                yield from tokens(x)
        yield b"}"
    elif isinstance(v, list):
        yield b"["
        for x in v:
            yield from tokens(x)
        yield b"]"
    elif isinstance(v, str):
        v = v.encode()
        yield b"s" + struct.pack("<Q", len(v)) + v
    elif v is None:
        yield b"z"
    elif isinstance(v, bool):
        yield b"t" if v else b"f"
    else:
        yield b"n" + struct.pack("<d", float(v))


DOCUMENTS = [
    "{}", "[]", "null", "true", "false", "0", "-0", "-0.0", "1", "1.0", '""', '"1"',
    '{"a": 1, "b": [2, 3.5, {"c": null}]}', '{"b": [2, 3.5, {"c": null}], "a": 1}',
    '{"a": "", "": "a"}', '{"a": ["b"]}', '["a", "b"]', '["ab", ""]', "[[], []]", "[[[]]]",
    '{"digest": "x", "a": {"digest": "y"}}', '{"a": {"digest": "y"}}', '{"a": {}, "digest": 7}',
    '"\\u00e9\\ud83d\\ude00\\n"', "[1e-320, 1.7976931348623157e308, 0.1, 9007199254740993, 12345678901234567890]",
]
for text in DOCUMENTS:
    digest = hashlib.sha256(b"".join(tokens(json.loads(text), "digest"))).hexdigest()
    sys.stdout.write(f"{digest}\t{text}\n")
