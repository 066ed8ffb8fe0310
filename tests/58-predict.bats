# What a recipe is predicted to cost in nats, and what reports say of the first position and of pad rows.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR"
}

# with FILE PROGRAM: FILE's scores changed by a jq program, sealed
with() {
    scores plain.json wint4_afp16/default 4 1
    sealed_jq "$2" plain.json >"$1"
}

predicted() { aq-select -q "$@" | jq -c .selection.predicted_kl; }
near() { jq -en --argjson p "$1" "\$p | $2 | fabs < 1e-12"; } # EXPRESSION is relative to 0

@test "the sum of the recipe's scores per token, and the interval of weights or of activations" {
    with a.json .
    local sum
    sum=$(jq '[.groups[].per_token] | add' a.json)
    near "$(predicted --effective-bits 4 a.json)" ".nats / (0.46 * $sum) - 1"
    near "$(predicted --effective-bits 4 a.json)" ".low * 1.6 / .nats - 1"
    near "$(predicted --effective-bits 4 a.json)" ".high / 1.6 / .nats - 1"
    is "$(predicted --effective-bits 16 a.json)" '{"nats":0,"low":0,"high":0,"flagged":[]}'
    # half of the groups
    aq-select -q --effective-bits 9 a.json -o m.json
    sum=$(jq --slurpfile a a.json '.selection.recipe as $r | [$a[0].groups[] | select($r["\(.name).quant_recipe"].candidate != "NONE").per_token] | add' m.json)
    near "$(jq .selection.predicted_kl m.json)" ".nats / (0.46 * $sum) - 1"
    # the same again from the manifest
    is "$(predicted --effective-bits 9 m.json)" "$(jq -c .selection.predicted_kl m.json)"
    # one quantized activation in the recipe
    with b.json '.candidate.treatment.a = "int8:token:dynamic" | .candidate.name = "wint8_aint8/default" | .candidate.treatment_id = "b"
        | .candidate.bits |= map_values(8) | .candidate.num_bits.weight = 8'
    near "$(predicted --effective-bits 4.1 a.json b.json)" ".high / 1.6 / .nats - 1"
    near "$(predicted --effective-bits 8 b.json)" ".high / 2.6 / .nats - 1"
    near "$(predicted --effective-bits 8 b.json)" ".low * 2 / .nats - 1"
    # whatever the normalization of the run, and monotone or not
    with c.json '.run.autoquant.normalization = "per_batch_mean"'
    is "$(predicted --effective-bits 4 c.json)" "$(predicted --effective-bits 4 a.json)"
    is "$(predicted --effective-bits 4 --monotone v40 a.json)" "$(predicted --effective-bits 4 a.json)"
}

@test "two scores that differ by more than 3 either way flag the group, and the second one is taken" {
    with a.json '.groups |= [.[] | .per_token_dot = .per_token]
        | .groups[0].per_token_dot /= 3.01 | .groups[1].per_token_dot *= 3.01
        | .groups[2].per_token_dot /= 2.99 | .groups[3].per_token_dot *= 2.99 | .groups[4].per_token_dot = null'
    is "$(predicted --effective-bits 4 a.json | jq -c .flagged)" "$(jq -c '[.groups[0, 1].name]' a.json)"
    near "$(predicted --effective-bits 4 a.json)" \
        ".nats / (0.46 * $(jq '[.groups[0, 1].per_token_dot, .groups[2:][].per_token] | add' a.json)) - 1"
    aq-select -q --effective-bits 4 a.json -o m.json
    is "$(predicted --effective-bits 4 m.json)" "$(jq -c .selection.predicted_kl m.json)"
    has "$(aq-report --html m.json)" "For 2 groups the two forms of the score differ"
}

@test "kl_div: the sum itself, and nothing is flagged" {
    with a.json '.identity.method = "kl_div" | .run.autoquant.method = "kl_div" | .run.scheme.auto_quantize_method = "kl_div"
        | .groups[0].per_token_dot = 1e9'
    near "$(predicted --effective-bits 4 a.json)" ".nats / $(jq '[.groups[].per_token] | add' a.json) - 1"
    is "$(predicted --effective-bits 4 a.json | jq -c .flagged)" '[]'
    with b.json '.identity.method = "kl_div" | .run.autoquant.method = "kl_div" | .groups |= map(.per_token = -1e-9 | .per_batch_mean = -1e-7)'
    is "$(predicted --effective-bits 4 b.json)" '{"nats":0,"low":0,"high":0,"flagged":[]}'
}

@test "null where a manifest does not say, and impossible second scores are refused" {
    with a.json .
    aq-select -q --effective-bits 4 a.json -o m.json
    jq 'del(.layer_sensitivity[].scores_per_token)' m.json >old.json
    is "$(predicted old.json)" null
    jq 'del(.selection.candidates)' m.json >old.json
    is "$(predicted old.json)" null
    [[ $(aq-report --html old.json) == *"Predicted"* && $(aq-select -q old.json | aq-report --html) != *"Predicted"* ]]
    with bad.json '.groups[3].per_token_dot = -1'
    refused 3 "cannot be negative" aq-select bad.json
    with bad.json '.groups[3].first_position = "x"'
    refused 3 "groups[3].first_position" aq-select bad.json
    jq '.layer_sensitivity[].range_ratio = []' m.json >bad.json
    refused 3 "range_ratio" aq-report --md bad.json
    jq '.layer_sensitivity[].per_token_dot = [1]' m.json >bad.json
    refused 3 "per_token_dot: expected 2 values" aq-report --md bad.json
}

@test "reports name attention sinks and list the first position's share and the range ratio" {
    # both limits are met by the first group alone
    with a.json '.groups |= [.[] | .first_position = 0.29 | .range_ratio = 9.9] | .groups[0] += {first_position: 0.3, range_ratio: 10}
        | .groups[1].first_position = 0.9 | .groups[2].range_ratio = 200'
    aq-select -q a.json -o m.json
    aq-report --md m.json >md
    is "$(grep '^Attention sinks' md | grep -o '`[^`]*`' | tr '\n' ' ')" '`layers.0.self_attn.q_proj` '
    is "$(grep -F '|layers.0.self_attn.q_proj|' md | tail -1)" '|layers.0.self_attn.q_proj|30.0 %|10|'
    is "$(grep -F '|layers.0.mlp.gate_proj|' md | tail -1)" '|layers.0.mlp.gate_proj|29.0 %|200|'
    aq-report --html m.json >html
    is "$(grep -c 'Attention sinks' html)" 1
    has "$(grep 'Attention sinks' html)" '<code>layers.0.self_attn.q+k+v_proj</code>'
    has "$(cat html)" '>first position</'
    has "$(cat html)" '>range ratio</'
    # nothing where nothing is known
    aq-select -q plain.json | tee plain.m | aq-report --md | tee md
    [[ $(cat md) != *"Attention sinks"* && $(cat md) != *"First position"* ]]
    [[ $(aq-report --html plain.m) != *"range ratio"* ]]
}

@test "reports say what the pad row makes of the score, and warn above 20 %" {
    local share
    for share in 0.19 0.21; do
        with a.json '.run.dataset.padding = "max_length" | .groups |= [.[] | .first_position = '$share' | .range_ratio = 200]'
        aq-select -q a.json -o m.json
        aq-report --md m.json >md
        aq-report --html m.json >html
        has "$(cat md)" "$(jq -n $share*100).0 % of the total sensitivity comes from the pad row"
        has "$(cat html)" "$(jq -n $share*100).0 % of the total sensitivity comes from the pad row"
        is "$(grep -c '^Warning: Samples are padded' md) $(grep -c 'class="warn">Samples' html)" "$([ $share = 0.21 ] && echo '1 1' || echo '0 0')"
        [[ $(cat md html) != *"Attention sinks"* ]]
        has "$(cat html)" '>pad row</'
    done
}

@test "explore shows the prediction of aq-select at every corner" {
    need_command python3
    with a.json '.groups |= [.[] | .per_token_dot = .per_token] | .groups[0].per_token_dot *= 4'
    scores plain.json wint8_afp16/default 8 2
    sealed_jq . plain.json >b.json
    mkdir -p P/wint4_afp16/default/small P/wint8_afp16/default/small
    aq-select -q a.json -o P/wint4_afp16/default/small/m.json
    aq-select -q b.json -o P/wint8_afp16/default/small/m.json
    jq -n '{schema: "aq.cells/2", cells: [["wint4_afp16", "wint8_afp16"][] | {pair: ., granularity: "default", size: "small", supported: true, reason: null,
        dir: "P/\(.)/default/small"}]}' >cells.json
    aq 0 aq-report explore --cells cells.json P/*/default/small/m.json -o explore.html
    sed -n '/<script type="application\/json" id="data">/,/<\/script>/p' explore.html | sed '1d;$d' >data.json
    jq -c '.frontiers[0].corners[] | [.[0], .[4], .[5], .[6]]' data.json >corners
    [ "$(wc -l <corners)" -gt 10 ]
    local line
    for line in $(sed -n '1p;5p;11p' corners); do
        local found
        found=$(predicted --effective-bits "$(jq '.[0]' <<<"$line")" a.json b.json)
        jq -en --argjson a "$line" --argjson p "$found" '[$a[1] / $p.nats, $a[2] / $p.low, $a[3] / $p.high] | all(. - 1 | fabs < 1e-3)'
    done
    # a cell's own: all groups in the format
    local found
    found=$(predicted --effective-bits 4 a.json)
    jq -e --argjson p "$found" '.cells[0][8] | length == 4 and (.[0] | length == 16) and (.[1] / $p.nats - 1 | fabs < 1e-3)
        and ((.[0] | add) / $p.nats - 1 | fabs < 1e-3)' data.json
}
