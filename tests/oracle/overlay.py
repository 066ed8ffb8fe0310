#!/usr/bin/env python3
"""Vectors for aq-overlay from NVIDIA ModelOpt itself.

    python tests/oracle/overlay.py        # writes tests/oracle/overlay/modelopt-<version>.json

Run it once with nvidia-modelopt 0.40.0 (the version whose rules aq follows) and once with the newest
one (the second column of bits). tests/unit/test_overlay.c replays the files without Python.

presets      quant_cfg and algorithm of every preset that conf/format/ has, without the default disable list
cells        every format x granularity: the merged configuration, whether ModelOpt's validation takes it,
             AutoQuant's bits and the preset it is equal to
quantizers   single quantizers, usual and odd: validation, and where a CPU can run them a digest of what they
             make of fixed tensors, so that equal treatments can be held against equal numbers
"""

import copy
import hashlib
import json
import os
import sys
import warnings

warnings.filterwarnings("ignore")

import modelopt
import torch
import yaml
from modelopt.torch.quantization import config as mc
from modelopt.torch.quantization.algorithms import estimate_quant_compression
from modelopt.torch.quantization.config import QuantizeConfig, QuantizerAttributeConfig
from modelopt.torch.quantization.nn import TensorQuantizer

HERE = os.path.dirname(os.path.abspath(__file__))
FORMATS = os.path.join(HERE, "..", "..", "conf", "format")
OLD = modelopt.__version__.startswith("0.40")
W, A = "*weight_quantizer", "*input_quantizer"

TOKEN = {"type": "dynamic", "block_sizes": {-1: None}}
GRANULARITIES = {
    "default": {},
    "a_per_tensor_static": {A: {"type": "static", "axis": None}},
    "a_per_token_dynamic": {A: TOKEN},
    "recipe_match_channel_token": {W: {"axis": 0}, A: TOKEN},
    "w_group64": {W: {"block_sizes": {-1: 64}}},
    "w_group128": {W: {"block_sizes": {-1: 128}}},
    "w_per_out_channel": {W: {"axis": 0}},
    "w_per_in_channel": {W: {"axis": 1}},
    "w_per_tensor": {W: {"axis": None}},
    "w_group128_a_token": {W: {"block_sizes": {-1: 128}}, A: TOKEN},
    "a_per_hidden_channel": {A: {"axis": -1}},
    # null beside its partner means unset
    "null_blocks": {W: {"axis": 0, "block_sizes": None}, A: {"axis": None, "type": "dynamic", "block_sizes": {-1: None}}},
    "only_null_blocks": {W: {"block_sizes": None}},
    "both_null": {W: {"axis": None, "block_sizes": None}},
}


def merge_entry(base, over):
    """The rules of the overlay, written down a second time."""
    out = copy.deepcopy(base)
    for key, value in over.items():
        if key not in ("axis", "block_sizes"):
            out[key] = copy.deepcopy(value)
    blocks = over.get("block_sizes")
    if blocks is not None:
        out.pop("axis", None)
        out["block_sizes"] = {**(out.get("block_sizes") or {}), **blocks}
    elif "axis" in over:
        out.pop("block_sizes", None)
        out["axis"] = over["axis"]
    elif "block_sizes" in over:
        out.pop("block_sizes", None)
    return out


def merge(cfg, overrides):
    cfg = copy.deepcopy(cfg)
    for key, over in overrides.items():
        base = cfg["quant_cfg"].get(key, {})
        if isinstance(base, list):
            cfg["quant_cfg"][key] = [merge_entry(b, over) for b in base]
        else:
            cfg["quant_cfg"][key] = merge_entry(base, over)
    carry_axis(cfg["quant_cfg"], overrides)
    return cfg


def carry_axis(quant_cfg, overrides):
    """An enabled `default` gets the axis of the weights, or else of the inputs."""
    default = quant_cfg.get("default")
    axes = [overrides[k]["axis"] for k in (W, A) if "axis" in overrides.get(k, {})]
    if not axes or "default" in overrides or not isinstance(default, dict) or default.get("enable") is not True:
        return
    default["axis"] = axes[0]
    if axes[0] is not None:
        default.pop("block_sizes", None)


def tuples(value):
    """num_bits and scale_bits are tuples in ModelOpt and lists in files."""
    if isinstance(value, dict):
        return {k: tuple(v) if k in ("num_bits", "scale_bits") and isinstance(v, list) else tuples(v) for k, v in value.items()}
    return [tuples(v) for v in value] if isinstance(value, list) else value


def without_defaults(cfg):
    """The entries that a preset has beyond the default disable list, as a map from pattern to attributes."""
    if isinstance(cfg, dict):
        named = mc._default_disabled_quantizer_cfg
        whole = all(k in cfg for k in named)
        return {k: v for k, v in cfg.items() if not (whole and k in named) and k not in ("*output_quantizer", "default")}
    out = {}
    for entry in cfg:
        if entry.get("cfg") is not None and "parent_class" not in entry:
            steps = entry["cfg"] if isinstance(entry["cfg"], list) else [entry["cfg"]]
            steps = [dict(c, enable=entry.get("enable", True)) for c in steps]
            out[entry["quantizer_name"]] = steps if isinstance(entry["cfg"], list) else steps[0]
    return out


def library_entries():
    """0.47: attributes of a preset's entry -> its own effective_bits."""
    out = {}
    for name in mc.choices:
        for attributes in without_defaults(getattr(mc, name)["quant_cfg"]).values():
            if isinstance(attributes, dict) and attributes.get("effective_bits") is not None:
                out[identity(attributes)] = attributes["effective_bits"]
    return out


def identity(attributes):
    return json.dumps(text_keys({k: attributes.get(k) for k in ("num_bits", "block_sizes")}), sort_keys=True)


def with_library_bits(cfg, known):
    def entry(e):
        bits = known.get(identity(e)) if e.get("enable", True) else None
        return dict(e, effective_bits=bits) if bits else e

    q = {k: [entry(e) for e in v] if isinstance(v, list) else entry(v) for k, v in cfg["quant_cfg"].items()}
    return dict(cfg, quant_cfg=q)


def label(cfg):
    """AutoQuant's name: the preset with these very contents. A key `default` of our own stands for no disable list."""
    for name in sorted(mc.choices):
        preset = getattr(mc, name)
        same = without_defaults(preset["quant_cfg"]) == cfg["quant_cfg"] and preset["algorithm"] == cfg["algorithm"]
        if same and "default" not in cfg["quant_cfg"]:
            return name
    return None


def cells(formats):
    known = {} if OLD else library_entries()
    for name, cfg in formats.items():
        for granularity, overrides in GRANULARITIES.items():
            merged = tuples(merge(cfg, overrides))
            row = {"format": name, "granularity": granularity}
            if OLD:
                row["quant_cfg"] = merged["quant_cfg"]
            try:
                checked = QuantizeConfig(**(merged if OLD else with_library_bits(merged, known)))
                row["bits"] = 16 * estimate_quant_compression(checked)
                row["valid"] = True
            except (ValueError, AssertionError):
                row["valid"] = False
            if OLD:
                row["label"] = label(merged)
            yield row


# ---- numbers ----

WEIGHTS = []
for bits in (2, 4, 8, (4, 3)):
    WEIGHTS += [{"num_bits": bits, **g} for g in ({}, {"axis": 0}, {"axis": 1}, {"block_sizes": {-1: 16}})]
WEIGHTS += [{"num_bits": 4, **g} for g in (
    {"axis": -1}, {"axis": -2}, {"axis": [0, 1]}, {"axis": []}, {"axis": 2}, {"axis": [-2]}, {"axis": [0, -1]},
    {"type": "dynamic"}, {"type": "dynamic", "axis": 0}, {"type": "dynamic", "block_sizes": {-1: 16}},
    {"block_sizes": {-1: None}}, {"block_sizes": {-2: None}}, {"block_sizes": {-1: None, -2: None}},
    {"block_sizes": {1: 16}}, {"block_sizes": {-2: 16}}, {"block_sizes": {0: 16}}, {"block_sizes": {-1: 16, -2: 8}},
    {"block_sizes": {-2: 8, -1: 16}}, {"block_sizes": {1: 16, 0: 8}}, {"block_sizes": {-1: 16, -2: 1}},
    {"block_sizes": {-1: 1, -2: 8}}, {"block_sizes": {-1: 1}}, {"block_sizes": {-1: 16, -2: None}},
    {"block_sizes": {-1: 16, "type": "static"}}, 
    {"block_sizes": {-1: 16, "scale_bits": [4, 3]}}, {"block_sizes": {-3: 16}},
    {"block_sizes": {-1: 16}, "axis": 0}, {"block_sizes": {-1: 16}, "axis": None}, {"enable": False},
    {"block_sizes": {-1: None, "type": "dynamic"}}, {"block_sizes": {-1: 16, "type": "dynamic"}},
    {"block_sizes": {-1: 16, -2: 16, "type": "dynamic", "scale_bits": [8, 0]}},
    {"block_sizes": {-1: 16, "type": "dynamic", "scale_bits": [8, 0]}},
    {"narrow_range": True}, {"pass_through_bwd": True}, {"trt_high_precision_dtype": "Half"})]
WEIGHTS += [{"num_bits": n} for n in (-1, 0, 1, 3, 5, 6, 7, 9, [5, 2], [2, 1], [3, 2], [2, 3], [1, 2], [0, 3], [3, 0], [4, 4])]
WEIGHTS += [{}, {"enable": True}, {"enable": False}, {"num_bits": [2, 1], "axis": 0},
            {"num_bits": [2, 1], "block_sizes": {-1: None, "type": "dynamic", "scale_bits": [4, 3]}},
            {"num_bits": [2, 1], "block_sizes": {-1: 16, "scale_bits": [4, 3]}},
            {"num_bits": [2, 1], "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": [4, 3]}, "axis": 0},
            {"num_bits": [4, 3], "narrow_range": True}, {"num_bits": 8, "calibrator": "histogram"}]
INPUTS = []
for bits in (4, 8, (4, 3)):
    INPUTS += [{"num_bits": bits, **g} for g in (
        {}, {"type": "dynamic"}, {"type": "dynamic", "block_sizes": {-1: None}}, {"axis": -1}, {"axis": 2},
        {"type": "dynamic", "axis": [0, 1]}, {"axis": 0}, {"axis": 1}, {"block_sizes": {-1: None}}, {"axis": [0, 1]},
        {"block_sizes": {-1: 50}}, {"block_sizes": {-1: 50}, "type": "dynamic"}, {"block_sizes": {-1: None, -2: None, -3: None}},
        {"block_sizes": {-2: None, -3: None}}, {"axis": [0, 1, 2]}, {"type": "dynamic", "axis": -1}, {"axis": 3}, {"enable": False})]


def digest(t):
    return hashlib.sha256(t.detach().to(torch.float32).contiguous().numpy().tobytes()).hexdigest()[:16]


def calibrated(attributes, tensors):
    q = TensorQuantizer(QuantizerAttributeConfig(**tuples(attributes)))
    if q.is_enabled and not q._dynamic:
        q.disable_quant()
        q.enable_calib()
        for t in tensors:
            q(t)
        q.load_calib_amax()
        q.disable_calib()
        q.enable_quant()
    return q


def heavy(shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g) * torch.exp(torch.randn(shape, generator=g))


def run_weight(attributes):
    w = heavy((24, 200), 1)
    return digest(calibrated(attributes, [w])(w))


def run_input(attributes):
    """Three batches, the last one shorter and narrower, as a last batch of unpadded captions is."""
    batches = [heavy((3, 7, 200), 2), heavy((3, 7, 200), 3), heavy((2, 5, 200), 4)]
    q = calibrated(attributes, batches)
    return "".join(digest(q(b)) for b in batches)


def quantizers():
    for of, cases, run in (("weight", WEIGHTS, run_weight), ("input", INPUTS, run_input)):
        for attributes in cases:
            row = {"of": of, "attributes": attributes, "valid": True, "digest": None, "error": None}
            try:
                QuantizerAttributeConfig(**tuples(attributes))
            except (ValueError, AssertionError):
                row["valid"] = False
            if row["valid"]:
                try:
                    row["digest"] = run(attributes)
                except Exception as e:  # noqa: BLE001: whatever it is, ModelOpt does not run this
                    row["error"] = type(e).__name__
            yield row


def text_keys(value):
    """Keys and tuples as JSON has them."""
    if isinstance(value, dict):
        return {str(k): text_keys(v) for k, v in value.items()}
    return [text_keys(v) for v in value] if isinstance(value, (list, tuple)) else value


def plain(value):
    """Pydantic objects as dicts, with what was set only; without the newest attribute, which is a column of its own."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(exclude_unset=True))
    if isinstance(value, dict):
        return {k: bool(v) if k == "four_over_six" else plain(v) for k, v in value.items() if k != "effective_bits"}
    return [plain(v) for v in value] if isinstance(value, list) else value


def main():
    formats, presets = {}, {}
    for file in sorted(os.listdir(FORMATS)):
        name = file.removesuffix(".yaml")
        with open(os.path.join(FORMATS, file), encoding="utf-8") as f:
            data = yaml.safe_load(f)
        formats[name] = {"quant_cfg": data["quant_cfg"], "algorithm": data["algorithm"]}
        if "modelopt" in data and hasattr(mc, name):
            preset = plain(getattr(mc, name))
            presets[name] = {"quant_cfg": without_defaults(preset["quant_cfg"]), "algorithm": preset["algorithm"], "choice": name in mc.choices}
    if OLD:
        formats.pop("NVFP4_FOUR_OVER_SIX_CFG")  # a key that 0.40 has never heard of
    out = {
        "versions": {"modelopt": modelopt.__version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "granularities": GRANULARITIES,
        "presets": presets,
        "cells": list(cells(formats)),
        "quantizers": list(quantizers()) if OLD else [],
    }
    path = os.path.join(HERE, "overlay", f"modelopt-{modelopt.__version__}.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\n")
        for i, (key, value) in enumerate(text_keys(out).items()):
            f.write(f"{',' if i else ''}\n{json.dumps(key)}: ")
            if isinstance(value, list):
                f.write("[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]")
            else:
                f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}")
        f.write("\n}\n")
    valid = sum(c["valid"] for c in out["cells"])
    print(f"{path}: {len(presets)} presets, {len(out['cells'])} cells ({valid} valid), {len(out['quantizers'])} quantizers")


if __name__ == "__main__":
    main()
