"""Recipe files of aq-export against the tools that read them: ModelOpt's quantize and llm-compressor's parser.

    pip install nvidia-modelopt==0.47.0 llmcompressor==0.14.0.1 transformers==5.24.0
    python tests/oracle/export_recipes.py modelopt CONFIG.py SOURCE tests/export-mix.json
    python tests/oracle/export_recipes.py llm-compressor recipe.yaml SOURCE tests/export-mix.json

CONFIG.py and recipe.yaml were written by aq-export from SOURCE for the recipe named last. Every module must get its own format, and no
other module any.
"""
import json, re, runpy, sys
import torch
import transformers


def chosen(mix, name):
    m = re.search(r"layers\.(\d+)\.(.*)$", name)
    first = {"self_attn.k_proj": "self_attn.q_proj", "self_attn.v_proj": "self_attn.q_proj", "mlp.up_proj": "mlp.gate_proj"}
    c = [c for p, c in mix["recipe"] if m and re.search(p, f"layers.{m[1]}.{first.get(m[2], m[2])}")]
    return mix["treatments"][c[-1]] if c else ["none", "none"]


def says(q):
    """A ModelOpt quantizer as a treatment."""
    if not q.is_enabled:
        return "none"
    n = {(4, 3): "e4m3", (2, 1): "e2m1"}.get(q.num_bits, f"int{q.num_bits}" if isinstance(q.num_bits, int) else q.num_bits)
    b = q.block_sizes
    if b and b.get("scale_bits") == (4, 3):
        return f"{n}:nvfp4({b[-1]})"
    if b and b.get("scale_bits") == (8, 0):
        return f"{n}:mx({b[-1]})"
    if b and b.get(-1, 0) is None:
        return f"{n}:token"
    if b:
        return f"{n}:block(-1:{b[-1]})"
    return f"{n}:tensor" if q.axis is None else f"{n}:axis{q.axis}"


def modelopt(path, source, mix):
    import modelopt.torch.quantization as mtq
    config = runpy.run_path(path)["CONFIG"]
    arch = json.load(open(source + "/config.json"))["architectures"][0]
    model = getattr(transformers, arch).from_pretrained(source, dtype=torch.bfloat16).eval()
    mtq.quantize(model, config, None)
    right = others = 0
    for name, m in model.named_modules():
        if not hasattr(m, "weight_quantizer"):
            continue
        want = [re.sub(r":(static|dynamic)$", "", t) for t in chosen(mix, name)]
        if "visual" in name or "lm_head" in name:
            want = ["none", "none"]
        got = [says(m.weight_quantizer), says(m.input_quantizer)]
        if got != want:
            sys.exit(f"{name}: {got}, expected {want}")
        right += got != ["none", "none"]
        others += got == ["none", "none"]
    print(f"ModelOpt: {right} modules have their formats, {others} have none")


def llm_compressor(path, source, mix):
    from llmcompressor.recipe import Recipe
    from compressed_tensors.quantization import apply_quantization_config
    recipe = Recipe.create_instance(path)
    config = recipe.modifiers[0].resolve_quantization_config()
    arch = json.load(open(source + "/config.json"))["architectures"][0]
    model = getattr(transformers, arch).from_pretrained(source, dtype=torch.bfloat16)
    apply_quantization_config(model, config)
    have = {n: m.quantization_scheme for n, m in model.named_modules() if getattr(m, "quantization_scheme", None)}
    want = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "visual" not in n and chosen(mix, n)[0] != "none"}
    if set(have) != want:
        sys.exit(f"other modules: {sorted(set(have) ^ want)[:5]}")
    for n, s in have.items():
        w, a = chosen(mix, n)
        bits = {"e2m1": 4, "e4m3": 8}.get(w.split(":")[0]) or int(re.match(r"int(\d)", w)[1])
        if s.weights.num_bits != bits or (s.weights.type.value if hasattr(s.weights.type, "value") else s.weights.type) != ("int" if w.startswith("int") else "float"):
            sys.exit(f"{n}: {s.weights}")
        if (s.input_activations is None) != (a == "none"):
            sys.exit(f"{n}: {s.input_activations}")
    print(f"llm-compressor: {len(have)} of {len(want)} modules get their scheme, no other module one")


{"modelopt": modelopt, "llm-compressor": llm_compressor}[sys.argv[1]](sys.argv[2], sys.argv[3], json.load(open(sys.argv[4])))
