#!/usr/bin/env bash
# aq-resolve, in processor time: a call that composes one run (limit 10 ms); every shipped pair x granularity x size in one -m
# call against Hydra composing the same runs in one process (limit 100 times as long). $AQ_ORACLE_PYTHON must import hydra for that.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="${O:-build}/bin:$PATH"
. tests/bench/cpu.bash
python=${AQ_ORACLE_PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sweep=('quant_pair=glob(*,exclude=*_lm_only)' 'quant_granularity=glob(*)' 'dataset.size=small,medium,large')

aq-resolve -q -m "${sweep[@]}" | jq -r '._aq.overrides | join(" ")' >"$work/jobs"
jobs=$(wc -l <"$work/jobs")
one=$(cpu_ms 100 aq-resolve -q quant_pair=wint4_aint8 quant_granularity=w_group64 dataset.size=small)
empty=$(cpu_ms 100 /bin/true)
all=$(cpu_ms 3 aq-resolve -q -m "${sweep[@]}")
printf 'one run: %.2f ms (limit 10 ms), of which %.2f ms are the start of a process\n' "$one" "$empty"
printf '%d runs in one call: %.0f ms\n' "$jobs" "$all"
if "$python" -c 'import hydra' 2>/dev/null; then
    theirs=$("$python" tests/bench/resolve.py "$PWD/conf" preset/qwen3_lm_sensitivity <"$work/jobs")
    awk -v ours="$all" -v theirs="$theirs" 'BEGIN {
        printf "Hydra, the same runs in one process: %.1f s, %.0f times as long (limit 100)\n", theirs, theirs * 1e3 / ours
        exit theirs * 1e3 / ours < 100 }'
else
    echo "skipped: comparison with Hydra (AQ_ORACLE_PYTHON=$python cannot import hydra)"
fi
awk -v one="$one" 'BEGIN { exit one > 10 }'
