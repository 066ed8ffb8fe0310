#!/usr/bin/env bash
# aq-overlay: time of one call, and of upstream's grid of 16 formats x 9 granularities one call each. The limit is 10 ms a call.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="${O:-build}/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2016 # backticks of a Markdown table
formats=$(grep -oE '^\| `w(fp|int)[48]_a[a-z0-9]+` \| `[A-Z0-9_]+`' docs/formats.md | cut -d'`' -f4 | grep -v NVFP4_DEFAULT)
granularities='{} {"*input_quantizer":{"type":"static","axis":null}} {"*input_quantizer":{"type":"dynamic","block_sizes":{"-1":null}}}
{"*weight_quantizer":{"axis":0},"*input_quantizer":{"type":"dynamic","block_sizes":{"-1":null}}} {"*weight_quantizer":{"block_sizes":{"-1":64}}}
{"*weight_quantizer":{"block_sizes":{"-1":128}}} {"*weight_quantizer":{"axis":0}} {"*weight_quantizer":{"axis":1}} {"*weight_quantizer":{"axis":null}}'
i=0
for g in $granularities; do
    i=$((i + 1))
    printf '{"name": "g%d", "quant_cfg_overrides": %s}\n' $i "$g" >"$work/$i.json"
done
calls=0
start=$(date +%s%N)
for f in $formats; do
    for ((g = 1; g <= i; g++)); do
        aq-overlay --format "$f" --granularity "$work/$g.json" -o /dev/null
        calls=$((calls + 1))
    done
done
end=$(date +%s%N)
base=$(date +%s%N)
for ((n = 0; n < calls; n++)); do /bin/true; done
empty=$(($(date +%s%N) - base))
awk -v t=$((end - start)) -v e=$empty -v n=$calls 'BEGIN {
    printf "%d cells: %.2f ms a call (limit 10 ms), of which %.2f ms are the start of a process\n", n, t / n / 1e6, e / n / 1e6
    exit t / n > 1e7 }'
