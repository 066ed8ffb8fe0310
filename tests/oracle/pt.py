"""The archive of a search state, made without aq: Python's zipfile and pickle opcodes by hand, then opened
by torch. Writes pt/state.zip, which tests compare byte for byte, and pt/versions.txt.

    /opt/oracle/bin/python tests/oracle/pt.py
"""
import io
import json
import pathlib
import pickletools
import struct
import sys
import zipfile

import torch

here = pathlib.Path(__file__).parent / "pt"
value = json.loads((here / "state.json").read_text())


def pickled(v):
    if v is None:
        return b"N"
    if v is True or v is False:
        return b"\x88" if v else b"\x89"
    if isinstance(v, int):
        if -(2**31) <= v < 2**31:
            return b"J" + struct.pack("<i", v)
        return b"\x8a\x08" + struct.pack("<q", v)
    if isinstance(v, float):
        return b"G" + struct.pack(">d", v)
    if isinstance(v, str):
        raw = v.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(v, list):
        return b"]" + (b"(" + b"".join(map(pickled, v)) + b"e" if v else b"")
    items = b"".join(pickled(k) + pickled(x) for k, x in v.items())
    return b"}" + (b"(" + items + b"u" if v else b"")


data = b"\x80\x02" + pickled(value) + b"."
pickletools.dis(data, io.StringIO())
out = io.BytesIO()
with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:
    for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
        info = zipfile.ZipInfo("archive/" + name, (1980, 1, 1, 0, 0, 0))
        info.create_system = 0
        info.create_version = info.extract_version = 10
        z.writestr(info, content)
(here / "state.zip").write_bytes(out.getvalue())
loaded = torch.load(here / "state.zip", weights_only=True)
assert loaded == value, loaded
for path in sys.argv[1:]:  # archives made by aq-select
    print(path, sorted(torch.load(path, weights_only=True)))
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntorch {torch.__version__}\n")
