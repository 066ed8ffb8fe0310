#!/usr/bin/env bats
# aq-select --random: recipes to hold predictions against.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    scores a.json wint8_aint8/default 8 1 6
    scores b.json wint4_afp16/default 4 2 6
}

bits() { jq .selection.effective_bits "$@"; }

@test "near-optimal and random recipes in turn, over all budgets, in bounds of their budget" {
    aq 0 aq-select --random 20 --seed 7 --dir d a.json b.json
    is "$(cd d && ls | sort -n | tr '\n' ' ')" "$(seq -f %.0f.json 20 | tr '\n' ' ')"
    is "$(jq -c .selection.random d/3.json d/4.json)" $'{"kind":"near-optimal","seed":7,"number":3,"count":20}\n{"kind":"random","seed":7,"number":4,"count":20}'
    is "$(jq -s 'map(.selection | .effective_bits <= .budget) | all' d/*.json)" true
    # budgets are spread evenly, and a pair shares one
    is "$(jq -s '[.[].selection.budget] | .[0] == .[1] and .[18] == .[19]' $(printf 'd/%s.json ' $(seq 20)))" true
    is "$(jq -s '[.[].selection.budget] | [range(2; 20; 2) as $i | .[$i] - .[$i - 2]] | (max - min) < 0.01 and min > 0' $(printf 'd/%s.json ' $(seq 20)))" true
    # what they cost is the table's: never below the best recipe at their bits, and the near ones are better than the random ones
    local i worse=0
    for i in 5 6 7 9 11 13; do
        aq-select -q --effective-bits "$(bits d/$i.json)" a.json b.json | jq .autoquant_state.score >best
        is "$(jq -n --slurpfile b best --slurpfile r d/$i.json '$r[0].autoquant_state.score >= $b[0] - 1e-12')" true
        if [ $((i % 2)) -eq 1 ]; then worse=$((worse + $(jq -n --slurpfile b best --slurpfile r d/$i.json 'if $r[0].autoquant_state.score > $b[0] then 1 else 0 end'))); fi
    done
    [ $worse -gt 0 ] # near-optimal is not optimal
    is "$(jq -s '([.[] | select(.selection.random.kind == "near-optimal").autoquant_state.score] | add)
        < ([.[] | select(.selection.random.kind == "random").autoquant_state.score] | add)' d/*.json)" true
    is "$(jq -s 'map(.selection.recipe | map_values(.candidate)) | unique | length > 12' d/*.json)" true
}

@test "a recipe depends on the seed and its number" {
    aq 0 aq-select --random 6 --seed 7 --dir one a.json b.json
    aq 0 aq-select --random 6 --seed 7 --dir two a.json b.json
    aq 0 aq-select --random 6 --seed 8 --dir other a.json b.json
    diff -r one two
    [ "$(jq -c '[.selection.recipe[].candidate]' one/*)" != "$(jq -c '[.selection.recipe[].candidate]' other/*)" ]
}

@test "recipes of one budget, which differ" {
    aq 0 aq-select --random 12 --seed 7 --effective-bits 5 --dir d a.json b.json
    is "$(jq -s 'map(.selection.budget) | unique == [5]' d/*.json)" true
    is "$(jq -s 'map(.selection.effective_bits <= 5) | all' d/*.json)" true
    is "$(jq -s 'map(.selection.recipe | map_values(.candidate)) | unique | length > 6' d/*.json)" true
}

@test "what does not go together is refused" {
    refused 2 "--dir is needed" aq-select --random 3 a.json
    refused 2 "go with --random" aq-select --seed 3 a.json
    refused 2 "--random is many recipes in a directory" aq-select --random 3 --dir d --size 1M a.json
    refused 2 "--random is many recipes in a directory" aq-select --random 3 --dir d -o x a.json
}
