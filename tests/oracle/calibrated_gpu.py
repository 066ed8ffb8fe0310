#!/usr/bin/env python3
"""Block scales of NVFP4 weights as ModelOpt searches them on a GPU, for tests/unit/test_calibrated.c.

    tests/oracle/calibrated_gpu.py OUT.safetensors     # nvidia-modelopt, Triton, a GPU; reads calibrated/vectors.safetensors

Weights: a and b of the vectors, and c (96, 512) with heavy tails, a block of zeros and one of a single large value. For each
    NAME/gpu_sweep    NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG, weights alone: the best of the 126 e4m3 scales of a block
    NAME/gpu_4o6      NVFP4_FOUR_OVER_SIX_CFG, weights alone: the better of two
dequantized, and c/w itself.
"""
import copy
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")
import modelopt
import modelopt.torch.quantization as mtq
import numpy as np
import safetensors.numpy
import torch
import triton

HERE = pathlib.Path(__file__).parent
CONFIGS = {"gpu_sweep": mtq.NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG, "gpu_4o6": mtq.NVFP4_FOUR_OVER_SIX_CFG}


def heavy():
    generator = torch.Generator().manual_seed(7)
    w = torch.randn(96, 512, generator=generator) * torch.exp(torch.randn(96, 512, generator=generator)) / 16
    w[3, 32:48] = 0
    w[5, 64:80] = 0
    w[5, 70] = 2.5
    return w


def weights_alone(config):
    config = copy.deepcopy(config)
    for entry in config["quant_cfg"]:
        if "input_quantizer" in entry["quantizer_name"]:
            entry.pop("cfg", None)
            entry["enable"] = False
    return config


def dequantized(weight, config):
    net = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)).cuda()
    with torch.no_grad():
        net[0].weight.copy_(weight)
        mtq.quantize(net, weights_alone(config), lambda m: m(torch.ones(1, weight.shape[1], device="cuda")))
        assert net[0].weight_quantizer.is_enabled and not net[0].input_quantizer.is_enabled
        return net[0].weight_quantizer(net[0].weight).float().cpu().numpy()


def main():
    weights = {"c": heavy()}
    with safetensors.safe_open(HERE / "calibrated" / "vectors.safetensors", "pt") as f:
        weights.update({name: f.get_tensor(name + "/w") for name in "ab"})
    out = {"c/w": weights["c"].numpy()}
    for name, weight in weights.items():
        for key, config in CONFIGS.items():
            out[f"{name}/{key}"] = np.ascontiguousarray(dequantized(weight, config))
    versions = {"modelopt": modelopt.__version__, "torch": torch.__version__, "triton": triton.__version__,
                "gpu": torch.cuda.get_device_name()}
    safetensors.numpy.save_file(out, sys.argv[1], metadata=versions)
    print(versions, {k: float(np.square(v.astype(np.float64)).sum()) for k, v in out.items()})


main()
