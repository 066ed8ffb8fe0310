#!/usr/bin/env bash
# One cell (INT8 weights) of one layer of Qwen3-30B-A3B's dimensions, 2,048 tokens on all processors: aq-score as a whole beside the bare
# sgemm calls of the same shapes in fp32, in turn and by the same BLAS (aim: bare is 60 % of it or more), and what a second layer adds, since
# all but the last layer of a model are as that one. Medians of RUNS turns; processor time is what other work disturbs least. Needs 2.5 GB in
# $TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$O/bin:$PATH" AQ_CONF=$PWD/conf
runs=${RUNS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c
echo "OPENBLAS_CORETYPE=${OPENBLAS_CORETYPE-}"
for i in $(seq 128); do seq -s' ' $((i * 7)) $((i * 7 + 15)); done | "$O/tests/make_tokens" -o "$work/tokens"
aq-overlay --format INT8_WEIGHT_ONLY_CFG -o "$work/cell.json"
for n in 1 2; do
    "$O/tests/random_checkpoint" --preset 30b-a3b --kind qwen3_moe --layers $n --vocab 4096 "$work/model$n"
    aq-extract-lm -q -o "$work/lm$n.json" "$work/model$n"
done
TIMEFORMAT='%R %U %S'
cell() { # cell LAYERS: seconds, and those of all processors
    rm -f "$work/store"
    { time aq-score -q --lm "$work/lm$1.json" --tokens "$work/tokens" --prefix 128 --device cpu -o "$work/store" "$work/cell.json" \
        2>"$work/log"; } 2>&1 | awk '{ print $1, $2 + $3 }'
}
for ((k = 0; k < runs; k++)); do
    echo "$("$O/bench/experts") $(cell 1) $(cell 2)"
done | awk '{ print $1, $3, $1 / $3, $5 - $3, $1 / ($5 - $3), $2, $4, $2 / $4, $6 - $4, $2 / ($6 - $4) }' >"$work/times"
median() { # median COLUMN
    cut -d' ' -f"$1" "$work/times" | sort -g | sed -n "$(((runs + 1) / 2))p"
}
line() { # line WHAT FIRST-COLUMN
    printf '%-10s bare %6.2f s  cell %6.2f s, %.2f of it bare  a layer more %6.2f s, %.2f of it bare%s\n' "$1" \
        "$(median "$2")" "$(median $(($2 + 1)))" "$(median $(($2 + 2)))" "$(median $(($2 + 3)))" "$(median $(($2 + 4)))" "${3-}"
}
line wall 1
line processors 6 ' (aim: 0.6)'
