# lm.json to a manifest without scores: every group has the candidates of $treatments and NONE, and takes those of $cycle in turn.
. as $lm | ($treatments | keys_unsorted) as $names
| def entry: {formats: (($names | map("\(.)(effective-bits: 8.0)")) + ["NONE(effective-bits: 16.0)"]), scores: (($names | map(1.0)) + [0.0]),
    costs: (($names | map(8.0)) + [16.0]), candidates: ($names + ["NONE"])};
{scheme: {name: "made", auto_quantize_bits: 8.0, auto_quantize_method: "gradient", quant_formats: $names}, num_quantized_layers: ($lm.groups | length),
 layers: {}, autoquant_state: {keys: []},
 layer_sensitivity: ($lm.groups | map({key: "\(.name).quant_recipe", value: entry}) | from_entries),
 selection: {recipe: ($lm.groups | to_entries | map({key: "\(.value.name).quant_recipe", value: {candidate: $cycle[.key % ($cycle | length)], label: "x",
    members: .value.members}}) | from_entries),
   candidates: ($treatments | map_values({w: .[0], a: .[1], treatment_id: "0", num_bits: {weight: 8, activation: 16}}))}}
