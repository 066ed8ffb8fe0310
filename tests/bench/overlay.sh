#!/usr/bin/env bash
# aq-overlay, in processor time: a call over upstream's grid of 16 formats x 9 granularities, one call each (limit 10 ms).
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="${O:-build}/bin:$PATH"
. tests/bench/cpu.bash
# the cells of upstream's grid: not what only we have
formats=$(sed -n 's/^format_name: //p' conf/quant_pair/w{fp,int}[48]_a{fp8,fp16,int4,int8}.yaml)
granularities=$(find conf/quant_granularity -name '*.yaml' ! -name w_group128_a_token.yaml ! -name a_per_hidden_channel.yaml ! -name fp8_block.yaml -exec basename {} .yaml ';')

grid() {
    local f g
    for f in $formats; do
        for g in $granularities; do aq-overlay --format "$f" --granularity "$g"; done
    done
}

cells=$(($(wc -w <<<"$formats") * $(wc -w <<<"$granularities")))
all=$(cpu_ms 1 grid)
empty=$(cpu_ms 100 /bin/true)
awk -v t="$all" -v e="$empty" -v n="$cells" 'BEGIN {
    printf "%d cells: %.2f ms a call (limit 10 ms), of which %.2f ms are the start of a process\n", n, t / n, e
    exit t / n > 10 }'
