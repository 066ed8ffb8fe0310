#!/usr/bin/env bash
# One cell (INT8 weights) of one layer of Qwen3-30B-A3B's dimensions, 2,048 tokens on all processors: aq-score as a whole beside the bare
# sgemm calls of the same shapes in fp32, in turn and by the same BLAS (aim: bare is 60 % of it or more). Medians of RUNS pairs; processor
# time is what other work disturbs least. Needs 1.3 GB in $TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$O/bin:$PATH" AQ_CONF=$PWD/conf
runs=${RUNS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c
echo "OPENBLAS_CORETYPE=${OPENBLAS_CORETYPE-}"
"$O/tests/random_checkpoint" --preset 30b-a3b --kind qwen3_moe --layers 1 --vocab 4096 "$work/model"
aq-extract-lm -q -o "$work/lm.json" "$work/model"
for i in $(seq 128); do seq -s' ' $((i * 7)) $((i * 7 + 15)); done | "$O/tests/make_tokens" -o "$work/tokens"
aq-overlay --format INT8_WEIGHT_ONLY_CFG -o "$work/cell.json"
TIMEFORMAT='%R %U %S'
for ((k = 0; k < runs; k++)); do
    rm -f "$work/store"
    read -r wall processors < <("$O/bench/experts")
    { time aq-score -q --lm "$work/lm.json" --tokens "$work/tokens" --prefix 128 --device cpu -o "$work/store" "$work/cell.json" \
        2>"$work/log"; } 2>&1 | awk -v w="$wall" -v p="$processors" '{ print w, $1, w / $1, p, $2 + $3, p / ($2 + $3) }'
done >"$work/times"
median() { # median COLUMN
    cut -d' ' -f"$1" "$work/times" | sort -g | sed -n "$(((runs + 1) / 2))p"
}
printf 'wall       bare %6.2f s  cell %6.2f s  %.2f of it bare\n' "$(median 1)" "$(median 2)" "$(median 3)"
printf 'processors bare %6.2f s  cell %6.2f s  %.2f of it bare (aim: 0.6)\n' "$(median 4)" "$(median 5)" "$(median 6)"
