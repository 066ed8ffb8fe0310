#!/usr/bin/env bash
# aq-report: a report of 10,000 groups and a summary of 300 cells, a second each; a page of a real size for comparison.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$(realpath "${O:-build}")/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# manifest FILE LAYERS SEED
manifest() {
    jq -n -f tests/scores.jq --arg name wint4_aint8/default --argjson bits 4.125 --argjson seed "$3" --argjson layers "$2" |
        aq-select -q --effective-bits 16 -o "$1"
}
measure() { python3 tests/bench/measure.py "$@"; }

manifest "$work/large" 2500 1
manifest "$work/real" 36 1
for format in --md --json --tsv --html; do
    measure "10,000 groups: $format" 1000 300 aq-report $format "$work/large"
done
measure "10,000 groups: --all" 2000 300 aq-report --all "$work/all" "$work/large"
measure "144 groups: --html" 1000 300 aq-report --html "$work/real"
for ((i = 0; i < 300; i++)); do
    size=$((i % 3))
    jq --arg pair "wint${i}_aint8/default" --arg size "${size/0/small}" '.dataset.size = $size
        | .layer_sensitivity[].candidates[0] = $pair | .selection.recipe[].candidate |= if . == "NONE" then . else $pair end' \
        "$work/real" >"$work/cell$i"
done
for format in --md --tsv --html; do
    measure "300 cells of 144 groups: summary $format" 1000 300 aq-report summary $format "$work"/cell*
done
