#!/usr/bin/env python3
"""What aq made of a real model against float64: tests/real/compare.py VECTORS TOKENS STORE; prints TAP. Needs numpy alone."""
import json
import sys

import numpy


def read(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header, data = json.loads(f.read(n)), f.read()
    types = {"F64": numpy.float64, "F32": numpy.float32, "I64": numpy.int64, "I32": numpy.int32}
    return header.pop("__metadata__", {}), {k: numpy.frombuffer(data[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
                                            for k, t in header.items() if t["dtype"] in types}


def main():
    expected = json.load(open(sys.argv[1]))
    _, tokens = read(sys.argv[2])
    meta, store = read(sys.argv[3])
    failed, count = 0, 0

    def ok(good, what):
        nonlocal failed, count
        count += 1
        failed += not good
        print(f"{'ok' if good else 'not ok'} {count} - {what}")

    ok(tokens["ids"].tolist() == expected["ids"] and tokens["offsets"].tolist() == expected["offsets"], "ids of the captions")
    candidates = json.loads(meta["aq"])["candidates"]
    for treatment, scores in expected["scores"].items():
        found = [i for i, c in candidates.items() if c["w"] == treatment and c["a"] == "none"]
        s = store[f"s/{found[0]}/0"].sum(axis=1) if found else numpy.zeros(len(scores))
        far = float(numpy.max(numpy.abs(s / numpy.array(scores) - 1)))
        ok(bool(found) and far < 1e-4, f"{treatment}: scores of {len(scores)} groups (largest distance {far:.1e})")
    print(f"1..{count}")
    print(f"{count - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
