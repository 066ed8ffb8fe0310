#!/usr/bin/env bash
# Fake quantization, one thread: share of the speed of a copy by the same loop (aim: 0.60; nvfp4 and token 0.30), times the
# plain C kernels, and times ModelOpt's CPU path (aim: int8 5, e4m3 10) where $AQ_ORACLE_PYTHON can import it.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
python=${AQ_ORACLE_PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$O/bench/quant" >"$work/ours"
if "$python" -c 'import modelopt.torch.quantization' 2>/dev/null; then
    "$python" tests/bench/quant.py 2048 8192 3 >"$work/peer" 2>/dev/null
else
    echo "skipped: comparison with ModelOpt (AQ_ORACLE_PYTHON=$python cannot import modelopt)"
    : >"$work/peer"
fi
awk -F'\t' 'NR == FNR { peer[$1, $2] = $3; next }
    FNR == 1 { printf "%-24s %-5s %9s %7s %9s %9s %12s\n", $1, $2, $3, $4, $5, $6, "of_modelopt"; next }
    { p = peer[$1, $2]; printf "%-24s %-5s %9s %7s %9s %9s %12s\n", $1, $2, $3, $4, $5, $6, p ? sprintf("%.0f", $3 / p) : "-" }' \
    "$work/peer" "$work/ours"
