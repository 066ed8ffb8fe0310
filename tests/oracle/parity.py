#!/usr/bin/env python3
"""Scores and choices of ModelOpt's AutoQuant, for tests/42-parity.bats.

    tests/oracle/parity.py [--device cpu|cuda] [CASE...]
    tests/oracle/parity.py --device cuda --prepare DIR      where the tools are built (AQ_BIN, AQ_GEN), then
    tests/oracle/parity.py --device cuda --from DIR -o OUT  on a machine with a GPU and ModelOpt

Drives mtq.auto_quantize as upstream does: one format and NONE, batches of 8 samples, labels are the ids, mean cross
entropy over the targets of a batch that are not the pad id, all in float32. lm_head is disabled and left out of the
cost, the budget lets a bit more than half of the weights be quantized. Every distinct treatment that the formats and
granularities of conf/ give is tried on the CPU; those that ModelOpt cannot run there are listed with its reason, and
they are what a GPU (8.9 or newer; nvcc and ninja for ModelOpt's extensions) is for: cases ending in -cuda.

    tiny    a random model, 16 samples left-padded to 40: every treatment
    equal   the same model, 16 samples of 12 tokens, no padding: the treatments of FEW
    demo    the demo model, 16 captions left-padded to 32: the treatments of FEW
    long    the same padded to 512: one treatment

kl_div is ModelOpt's with one change: log-probabilities are taken in float64 from its float32 logits. In float32 the
sum cancels to noise of up to some per cent of a small divergence. What remains is the noise of the logits
themselves, measured as the divergence between the model in float32 and in float64 (kl_noise).

Activations that lie next to a rounding tie fall one way here and the other way there, since two float32 programs
agree to some 1e-6 only, and one such element moves a small score by up to some 1e-3. For every group and treatment
the allowance is computed: quantize each input moved up and moved down by TIE of its size and add up what the
elements that come out a step apart can do to the score, as a share of it. What remains is the noise of the difference
of two float32 products, large beside INT8's small difference: its size is computed for every group.

Weight codes have no such ties on a CPU. A GPU divides approximately and takes some bf16 weights on a tie to the other
side (codes: how many). The score is taken with the codes of the formulas too: shift is what that adds to it, as a
share. No allowance is made for it: scores are compared after it is applied.

Writes <case>.json or <case>-cuda.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")

import modelopt
import modelopt.torch.quantization as mtq
import quant_gpu
import safetensors
import torch
import transformers
from modelopt.torch.quantization import algorithms, extensions

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
OUT = os.path.join(HERE, "parity")
BIN = os.environ.get("AQ_BIN", os.path.join(ROOT, "build", "bin"))
GEN = os.environ.get("AQ_GEN", os.path.join(ROOT, "build", "tests"))
os.environ.setdefault("AQ_CONF", os.path.join(ROOT, "conf"))
DEMO = os.path.join(ROOT, "models", "qwen3_vl_demo", "checkpoint")
CAPTIONS = os.path.join(ROOT, "datasets", "demo", "captions_small.txt")
BATCH = 8
TIE = 3e-6

TINY = ["--kind", "qwen3", "--layers", "3", "--head-dim", "64", "--hidden", "128", "--intermediate", "256",
        "--vocab", "512", "--scale", "0.08"]
FEW = {"cpu": ["FP8_WEIGHT_ONLY_CFG", "INT8_WEIGHT_ONLY_CFG", "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
               "INT4_WEIGHT_INT8_ACT_CFG", "FP8_DEFAULT_CFG"],
       "cuda": ["NVFP4_WEIGHT_ONLY_CFG", "NVFP4_DEFAULT_CFG", "W4A8_NVFP4_FP8_CFG", "MXFP4_DEFAULT_CFG",
                "MXFP8_DEFAULT_CFG", "MXINT8_DEFAULT_CFG"]}
LONG = {"cpu": "FP16_WEIGHT_FP8_ACT_CFG", "cuda": "NVFP4_DEFAULT_CFG"}


def tool(name, *args):
    return subprocess.run([os.path.join(BIN, name), *args], check=True, capture_output=True, text=True).stdout


def options(group):
    return tool("aq-resolve", "--list", group).split()


def formats_of_pairs():
    found = []
    for pair in options("quant_pair"):
        run = json.loads(tool("aq-resolve", "--config-name", "preset/demo", "quant_pair=" + pair))
        found.append(run["quant_pair"]["format_name"])
    return found


def treatments(formats):
    """Distinct supported treatments, each with the first format and granularity that gives it."""
    found = {}
    for name in formats:
        for granularity in ["default"] + options("quant_granularity"):
            args = ["--fp4-block", "16", "--format", name, "--granularity", granularity]
            try:
                q = json.loads(tool("aq-overlay", *args))
            except subprocess.CalledProcessError:
                continue
            if q["supported"]:
                found.setdefault(q["treatment_id"], (name, granularity, q))
    return list(found.values())


def attributes(cfg):
    """As ModelOpt spells it: integer keys of blocks, tuples for float formats."""
    out = {}
    for key, value in cfg.items():
        if key == "block_sizes" and value is not None:
            value = {int(k) if k.lstrip("-").isdigit() else k: tuple(v) if isinstance(v, list) else v
                     for k, v in value.items()}
        elif isinstance(value, list):
            value = tuple(value)
        out[key] = value
    return out


def config_of(quant):
    """As ModelOpt's presets are: all is off but what the rules turn on."""
    entries = {k: [attributes(c) for c in v] if isinstance(v, list) else attributes(v)
               for k, v in quant["quant_cfg"].items()}
    return {"quant_cfg": {"*": {"enable": False}, **entries}, "algorithm": quant["algorithm"] and "max"}


# ---- data ----


def read_tokens(path):
    with safetensors.safe_open(path, "pt") as f:
        meta = json.loads(f.metadata()["aq"])
        ids, offsets = f.get_tensor("ids").tolist(), f.get_tensor("offsets").tolist()
    return meta, [ids[a:b] for a, b in zip(offsets, offsets[1:])]


def make_tokens(path, ids, padding, seq_len):
    with open(ids, "rb") as f:
        subprocess.run([os.path.join(GEN, "make_tokens"), "--padding", padding, "--seq-len", str(seq_len), "-o", path],
                       stdin=f, check=True)


def batches_of(samples, meta, device):
    out = []
    for at in range(0, len(samples), BATCH):
        part = samples[at:at + BATCH]
        length = meta["seq_len"] if meta["padding"] == "max_length" else len(part[0])
        ids = torch.tensor([[meta["pad_id"]] * (length - len(s)) + s for s in part], device=device)
        mask = torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in part], device=device)
        out.append({"input_ids": ids, "attention_mask": mask})
    return out


# ---- the model ----


def load(path, device, dtype=torch.float32):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def loss_of(pad_id):
    def loss(output, batch):
        targets = batch["input_ids"][:, 1:].reshape(-1)
        logits = output.logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets, ignore_index=pad_id)

    return loss


def check_masked_rows(model, batch):
    """A row that sees nothing must get exactly 0 from attention, as the engine has it."""
    seen = []
    hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    assert (seen[0][batch["attention_mask"] == 0] == 0).all(), "fully masked rows are not 0"


def linears_of(model):
    return {name.removeprefix("model."): module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name.startswith("model.layers.")}


def group_of(name):
    for member, first in (("k_proj", "q_proj"), ("v_proj", "q_proj"), ("up_proj", "gate_proj")):
        if name.endswith(member):
            return name.removesuffix(member) + first
    return name


def capture(model, batches, pad_id):
    """Per batch and linear: its input and the gradient at its output."""
    seen, loss = [], loss_of(pad_id)
    names = linears_of(model)

    def hook(name):
        def keep(module, args, output):
            seen[-1][name] = [args[0].detach(), None]
            output.register_hook(lambda g: seen[-1][name].__setitem__(1, g.detach()))
        return keep

    hooks = [module.register_forward_hook(hook(name)) for name, module in names.items()]
    for batch in batches:
        seen.append({})
        loss(model(**batch), batch).backward()
    for h in hooks:
        h.remove()
    return seen


def kl_noise(path, batches):
    device = batches[0]["input_ids"].device
    sum, exact, model = 0.0, load(path, device, torch.float64), load(path, device)
    with torch.no_grad():
        for batch in batches:
            p, q = (torch.log_softmax(m(**batch).logits.double(), -1) for m in (exact, model))
            sum += torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
    return sum


# ---- ModelOpt ----


def drive(path, quant, batches, meta, method):
    """Scores and choice per group, in ModelOpt's order."""
    bits = 16 - 0.55 * (16 - quant["bits"]["modelopt47"])
    gradient = method == "gradient"
    kind = {"loss_func": loss_of(meta["pad_id"])} if gradient else {}
    _, state = mtq.auto_quantize(
        load(path, batches[0]["input_ids"].device),
        constraints={"effective_bits": bits, "cost": {"excluded_module_name_patterns": ["*lm_head*"]}},
        quantization_formats=[config_of(quant)], data_loader=batches,
        forward_step=(lambda m, b: m(**b)) if gradient else (lambda m, b: m(**b).logits),
        disabled_layers=["*lm_head*"], num_calib_steps=len(batches), num_score_steps=len(batches), method=method,
        **kind)
    out = {}
    for name, stats in state["candidate_stats"].items():
        short = name.removeprefix("model.").removesuffix(".quant_recipe")
        if short.startswith("layers."):
            none = "NONE" in str(state["best"]["recipe"][name])
            out[short] = (float(stats["scores"][0]), 0 if none else 1)
    return bits, out


def quantized(path, quant, batches):
    """The model as a recipe of auto_quantize has it, to which a rule that names modules applies nowhere."""
    config = config_of(quant)
    if quant["treatment"]["w"] == "none":
        config["quant_cfg"] = {k: v for k, v in config["quant_cfg"].items() if not k.endswith("weight_quantizer")}
    model = load(path, batches[0]["input_ids"].device)
    return mtq.quantize(model, config, forward_loop=lambda m: [m(**b) for b in batches])


def by_formula(treatment, weight):
    """The quantized weight as the formulas have it, which is that of ModelOpt's CPU path where there is one."""
    if treatment == "none":
        return weight
    return quant_gpu.reference("w", treatment, weight.detach().cpu()).to(weight.device)


def weights_of(model, quant):
    """Of each linear: its quantized weight, the same by the formulas, and in how many codes they differ."""
    out = {}
    for name, module in linears_of(model).items():
        weight, formula = module.weight_quantizer(module.weight), by_formula(quant["treatment"]["w"], module.weight)
        out[name] = weight, formula, ((weight - formula).abs() > 2**-6 * formula.abs()).sum().item()
    return out


def slack(model, weights, seen, scores):
    """Per group, as shares of its score: what elements next to a rounding tie can do to it, the noise of taking the
    difference of two products in float32, found by taking it in float64 too, and what the codes of the formulas add."""
    change, noise, shift = (dict.fromkeys(scores, 0.0) for _ in range(3))
    linear = torch.nn.functional.linear
    with torch.no_grad():
        for name, module in linears_of(model).items():
            weight, formula, _ = weights[name]
            for batch in seen:
                x, g = batch[name]
                code, g2 = module.input_quantizer(x), g.square()
                d = linear(code, weight) - linear(x, module.weight)
                plain = linear(x.double(), module.weight.double())
                exact = linear(code.double(), weight.double()) - plain
                here = linear(code.double(), formula.double()) - plain
                noise[group_of(name)] += (2 * g2 * d * (d - exact)).square().sum().item()
                shift[group_of(name)] += (g2 * (here.square() - exact.square())).sum().item()
                near = TIE * (x.abs() + x.square().mean(-1, keepdim=True).sqrt())
                step = module.input_quantizer(x + near) - module.input_quantizer(x - near)
                tied = (step.abs() > 10 * near) & (g != 0).any(-1, keepdim=True)
                if not module.input_quantizer.is_enabled or not tied.any():
                    continue
                b, t, k = tied.nonzero(as_tuple=True)
                e = step[b, t, k, None] * weight[:, k].T
                both = (2 * g2[b, t] * d[b, t] * e).sum(1).abs() + (g2[b, t] * e.square()).sum(1)
                change[group_of(name)] += both.sum().item()
    scale = {name: max(score, 1e-300) for name, score in scores.items()}
    ties = [float(f"{change[name] / scale[name]:.1e}") for name in scores]
    return ties, [float(f"{noise[name] ** 0.5 / scale[name]:.1e}") for name in scores], [
        float(f"{shift[name] / scale[name]:.3e}") for name in scores]


def kl_shift(path, model, weights, batches, scores):
    """What the codes of the formulas add to the divergence with one group replaced, as a share of it. In float64."""
    exact = load(path, batches[0]["input_ids"].device, torch.float64)
    quantizers, plain = linears_of(model), linears_of(exact)
    log_probs = lambda: [torch.log_softmax(exact(**batch).logits, -1) for batch in batches]
    divergence = lambda: sum(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
                             for q, p in zip(log_probs(), unchanged))

    def replace(name, weight):
        quantize = quantizers[name].input_quantizer
        plain[name].forward = lambda x: torch.nn.functional.linear(quantize(x.float()).double(), weight.double())

    shares = []
    with torch.no_grad():
        unchanged = log_probs()
        for group in scores:
            members, found = [name for name in plain if group_of(name) == group], []
            for which in (0, 1):
                for name in members:
                    replace(name, weights[name][which])
                found.append(divergence())
            for name in members:
                del plain[name].forward
            assert abs(found[0] / scores[group] - 1) < 0.01, "not the divergence that ModelOpt measures"
            shares.append(float(f"{(found[1] - found[0]) / found[0]:.3e}"))
    return shares


def versions(device):
    found = {p.__name__: p.__version__ for p in (modelopt, torch, transformers)}
    if device == "cpu":
        return found
    import triton

    built = [name for name in ("", "_fp8", "_mx") if getattr(extensions, "get_cuda_ext" + name)()]
    return {**found, "triton": triton.__version__, "gpu": torch.cuda.get_device_name(),
            "extensions": ["cuda_ext" + name for name in built]}


def run(case, path, tokens, wanted, kl, device, out):
    meta, samples = read_tokens(tokens)
    batches = batches_of(samples, meta, device)
    model = load(path, device)
    if meta["padding"] == "max_length":
        check_masked_rows(model, batches[0])
    seen = capture(model, batches, meta["pad_id"])
    head = {**versions(device), "padding": meta["padding"], "seq_len": meta["seq_len"], "tie": TIE,
            "kl_noise": kl_noise(path, batches)}
    rows = {"gradient": [], "kl_div": [], "skipped": []}
    for name, granularity, quant in wanted:
        entry = {"format": name, "granularity": granularity, **quant["treatment"]}
        for method in ("gradient", "kl_div"):
            if method == "kl_div" and not (name in kl and granularity == "default"):
                continue
            try:
                bits, found = drive(path, quant, batches, meta, method)
            except Exception as e:  # whatever ModelOpt raises is its reason
                reason = str(e).split("error: ")[-1].splitlines()[0][:160]
                rows["skipped"].append({**entry, "method": method, "reason": reason})
                continue
            head["groups"] = list(found)
            scores = {g: s for g, (s, _) in found.items()}
            if method == "gradient":  # kl_div comes after it and takes the same shares for ties and noise
                changed = quantized(path, quant, batches)
                with torch.no_grad():
                    weights = weights_of(changed, quant)
                ties, noise, shift = slack(changed, weights, seen, scores)
                codes = sum(differ for _, _, differ in weights.values())
            elif codes:
                shift = kl_shift(path, changed, weights, batches, scores)
            row = {**entry, "noise": noise, "bits": bits, "scores": [float(f"{x:.9g}") for x in scores.values()],
                   "chosen": "".join(str(c) for _, c in found.values())}
            if any(ties) or quant["treatment"]["a"] != "none":
                row["ties"] = ties
            if codes:
                row["codes"], row["shift"] = codes, shift
            rows[method].append(row)
            print(case, method, name, granularity, sum(scores.values()), file=sys.stderr)
    with open(os.path.join(out, case + ".json"), "w") as f:
        lists = [f'"{key}": [\n  ' + ",\n  ".join(map(json.dumps, value)) + "]" for key, value in rows.items()]
        f.write(json.dumps(head)[:-1] + ",\n " + ",\n ".join(lists) + "}\n")


# ---- cases ----


def prepare(to, cases, device):
    """All that run() needs and the tools make, so that it can run where they are not."""
    every = treatments(formats_of_pairs() + options("format"))
    few, long = ([t for t in every if t[0] in names and t[1] == "default"] for names in (FEW[device], [LONG[device]]))
    if device == "cuda":
        with open(os.path.join(OUT, "tiny.json")) as f:
            skipped = [(row["w"], row["a"]) for row in json.load(f)["skipped"]]
        every = [t for t in every if (t[2]["treatment"]["w"], t[2]["treatment"]["a"]) in skipped]
    subprocess.run([os.path.join(GEN, "random_checkpoint"), *TINY, to + "/tiny"], check=True)
    tool("aq-extract-lm", "--materialize", to + "/demo", DEMO)
    make_tokens(to + "/tiny.tokens", OUT + "/tiny.ids", "max_length", 40)
    make_tokens(to + "/equal.tokens", OUT + "/equal.ids", "none", 64)
    for case, length in ("demo", 32), ("long", 512):
        tool("aq-calib", "tokens", "--tokenizer", DEMO, "--seq-len", str(length), "--padding", "max_length",
             "-o", f"{to}/{case}.tokens", CAPTIONS)
    wanted = {"tiny": ("tiny", every, FEW[device]), "equal": ("tiny", few, FEW[device]), "demo": ("demo", few, FEW["cpu"]),
              "long": ("demo", long, [])}
    with open(to + "/cases.json", "w") as f:
        json.dump({case: wanted[case] for case in cases}, f)


def measure(prepared, device, out):
    torch.set_num_threads(1)
    algorithms._get_log_prob = lambda logits, lm_head=None: torch.log_softmax(logits.double(), dim=-1)
    if device == "cuda":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        for other in ("flash", "mem_efficient", "cudnn"):  # plain attention gives masked rows 0, and sums in one order
            getattr(torch.backends.cuda, f"enable_{other}_sdp")(False)
    os.makedirs(out, exist_ok=True)
    with open(prepared + "/cases.json") as f:
        for case, (model, wanted, kl) in json.load(f).items():
            name = case if device == "cpu" else f"{case}-{device}"
            run(name, f"{prepared}/{model}", f"{prepared}/{case}.tokens", wanted, kl, device, out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=FEW, default="cpu")
    parser.add_argument("--prepare", metavar="DIR", help="only make the inputs")
    parser.add_argument("--from", metavar="DIR", dest="prepared", help="take inputs made before")
    parser.add_argument("-o", metavar="OUT", dest="out", default=OUT)
    parser.add_argument("cases", nargs="*", default=["tiny", "equal", "demo", "long"])
    args = parser.parse_args()
    if args.prepare:
        os.makedirs(args.prepare)
        prepare(args.prepare, args.cases, args.device)
    elif args.prepared:
        measure(args.prepared, args.device, args.out)
    else:
        with tempfile.TemporaryDirectory() as tmp:
            prepare(tmp, args.cases, args.device)
            measure(tmp, args.device, args.out)


if __name__ == "__main__":
    main()
