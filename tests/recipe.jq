# A manifest with another recipe: the candidates of $treatments ({name: [weight, activation]}) in the place of the one that it
# has, chosen group by group as $recipe ([[pattern of the group's name, candidate], ...], the last match wins; else NONE).
def spread(f): . as $e | ([range($treatments | length)] | map($e | f));
.selection.candidates = ($treatments | map_values({w: .[0], a: .[1], treatment_id: "0", num_bits: {weight: 8, activation: 16}}))
| .layer_sensitivity |= map_values(
    (.candidates | index("NONE")) as $none | (1 - $none) as $one
    | .candidates = ($treatments | keys_unsorted) + ["NONE"]
    | .formats = ($treatments | keys_unsorted | map("\(.)(effective-bits: 8.0)")) + ["NONE(effective-bits: 16.0)"]
    | reduce (["scores", "costs", "scores_per_batch_mean", "stderr", "storage_bits", "scores_per_token", "per_token_dot", "first_position"][]) as $k
        (.; .[$k] = (.[$k] as $v | [range($treatments | length)] | map($v[$one])) + [.[$k][$none]])
    | del(.flat, .weight_only, .activation_only))
| .selection.recipe |= with_entries(.key as $k
    | .value.candidate = (reduce $recipe[] as $r ("NONE"; if ($k | test($r[0])) then $r[1] else . end)) | .value.label = .value.candidate)
