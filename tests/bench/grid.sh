#!/usr/bin/env bash
# The whole grid of treatments on one layer of the 4B model's dimensions and 512 tokens, against bare sgemm calls of the same
# shapes (aim: 1.3 times at most in fp32), and on the matrix units against fp32 (aim: 2 times and more where AMX is), by
# product class: int8 codes, bf16 codes, and values that are not codes on one side ("terms": three bf16 numbers each on AMX, fp32
# elsewhere). Every class is a call with its own passes through the layer, so that the gain of the products alone is larger:
# see the bench "engine". Some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/cells.bash
O=${O:-build}
export PATH="$O/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$O/tests/random_checkpoint" --preset 4b --kind qwen3 --layers 1 --vocab 4096 "$work/model"
aq-extract-lm -o "$work/lm.json" "$work/model"
for i in $(seq 32); do seq -s' ' "$i" $((i + 15)); done | "$O/tests/make_tokens" -o "$work/tokens"
aq-calib ranges --lm "$work/lm.json" --device cpu -o "$work/ranges" "$work/tokens"
write_cells "$work/quant"
# One line for each distinct treatment, by class.
jq -r '[.treatment.w, .treatment.a, input_filename] | @tsv' "$work"/quant/*.json | awk -F'\t' '!seen[$1, $2]++ {
        class = $2 ~ /^none$|axis-1|nvfp4/ || $1 ~ /axis1/ ? "terms" \
            : $1 ~ /^int|nvfp4\((64|128)\)/ && $2 ~ /^int/ ? "int8" : "bf16"
        print class "\t" $3 }' | sort >"$work/lines"
"$O/bench/grid" "$work/lm.json" "$work/tokens" "$work/ranges" "$work/store" <"$work/lines" 2>"$work/log" || { tail "$work/log" >&2; exit 1; }
