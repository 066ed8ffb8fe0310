#!/usr/bin/env bash
# aq-select on the shapes of Qwen3-VL-4B (36 layers, five candidates for a group), and far beyond.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$(realpath "${O:-build}")/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# cells LAYERS BITS...: one scores.json a candidate, with the weights of the real layers
cells() {
    local layers=$1 n=0 bits
    shift
    rm -f "$work"/cell*.json
    for bits; do
        n=$((n + 1))
        jq -n -f tests/scores.jq --arg name "w$n/default" --argjson bits "$bits" --argjson seed $n --argjson layers "$layers" |
            jq '.groups[].weights |= {"1536": 15728640, "1024": 10485760, "4096": 49807360, "2048": 24903680}[tostring]
                | .weights.lm = ([.groups[].weights] | add)' >"$work/cell$n.json"
    done
}
measure() { python3 tests/bench/measure.py "$@" "$work"/cell*.json; }

cells 36 4.125 4.5 6 8 8.125
measure "144 groups, 5 candidates: every budget" 2000 300 aq-select --frontier
measure "144 groups, 5 candidates: one budget" 100 300 aq-select --effective-bits 5.4
cells 250 4.125 8
measure "1,000 groups, 2 candidates: every budget, exact" 5000 2048 aq-select --frontier
cells 2500 4 4.125 4.5 5 6 8 8.125 8.5
measure "10,000 groups, 8 candidates: every budget" 5000 2048 aq-select --frontier
measure "10,000 groups, 8 candidates: one budget, exact" 5000 2048 aq-select --effective-bits 5.4
