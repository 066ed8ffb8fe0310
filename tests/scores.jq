# Makes a scores.json (aq.scores/2) without a model: jq -n -f tests/scores.jq --argjson layers 4 --arg name
# wint8_aint8/default --argjson bits 8 --argjson seed 1. Scores fall with the bits and wander with the layer.
def wander($i): (($i * 7919 + $seed * 104729) % 1009) / 1009;
def kinds: [["self_attn.q_proj", ["q_proj", "k_proj", "v_proj"], 1536], ["self_attn.o_proj", ["o_proj"], 1024],
            ["mlp.gate_proj", ["gate_proj", "up_proj"], 4096], ["mlp.down_proj", ["down_proj"], 2048]];
($name | split("/")) as [$pair, $granularity]
| (["qkv", "o", "gate_up", "down"]) as $names
| [range($layers) as $l | kinds | to_entries[] | .key as $k | .value as [$kind, $all, $weights]
   | ($l * 4 + $k) as $i
   | (pow(2; 6 - $bits) * (0.01 + wander($i)) * $weights / 1000) as $s
   | {name: "layers.\($l).\($kind)",
      members: [$all[] | "layers.\($l).\($kind | split(".")[0]).\(.)"],
      modules: [$all[] | "model.layers.\($l).\($kind | split(".")[0]).\(.)"],
      layer: $l, kind: $names[$k], inputs: [$i], shapes: [$all[] | [($weights / ($all | length)), 1]],
      weights: $weights, cost_weight: 1, sum: ($s * 100), per_token: $s, per_token_se: ($s / 10),
      per_batch_mean: ($s * 2), per_batch_mean_se: ($s / 5),
      weight_only: ($s / 4), activation_only: ($s / 2), saturation: 0}] as $groups
| {schema: "aq.scores/2",
   run: {scheme: {name: "\($pair)_autoquant_lm", auto_quantize_bits: 8.0, auto_quantize_method: "gradient",
                  auto_quantize_score_size: 16, coverage_mode: "lm_only", coverage_fraction: 1.0,
                  quant_formats: ["\($pair | ascii_upcase)_CFG"]},
         model: {id: "models/sample"},
         dataset: {name: "sample_captions", size: "small", root: "data", captions_path: "data/small.txt",
                   max_calib_samples: 16, num_calib_samples: 16, calib_seq_len: 64, batch_size: 8, num_calib_batches: 2},
         quantization: {base_format_name: "\($pair | ascii_upcase)_CFG",
                        quant_granularity: {name: $granularity, quant_cfg_overrides: {}},
                        effective_quantizer_summary: {"*weight_quantizer": {axis: 0}, "*input_quantizer": {axis: null}}},
         autoquant: {method: "gradient", effective_bits: 8.0, score_size: 16, batch_size: 8, normalization: "per_token",
                     cost: "storage", monotone: false, solver: "exact", count_vision: false, include_lm_head: false,
                     disabled_layers: []}},
   identity: {lm: "lm-digest", tokens: "tokens-digest", method: "gradient", dtype: "bf16", operand_rounding: "none",
              backend: "cpu/none/fp32", tile_tokens: 256, result_version: 1, prefix: 16, score_samples: 16, ranges: null},
   candidate: {name: $name, treatment_id: "\($pair)-\($granularity)", label: "CUSTOM_0",
               treatment: {w: "int\($bits | floor):axis0:static", a: "none"},
               num_bits: {weight: ($bits | floor), activation: 16},
               bits: {modelopt40: ($bits | floor), modelopt47: ($bits | floor), storage: $bits}},
   tokens: 200, labels: 184,
   weights: {lm: ([$groups[].weights] | add), head: 4096, vision: 10000},
   batches: [[8, 92], [8, 92]],
   groups: $groups}
