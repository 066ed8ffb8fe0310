#!/usr/bin/env bash
# Gradient scores of the demo model against ModelOpt's auto_quantize on this CPU, where $AQ_ORACLE_PYTHON can import it:
# one cell on 512 captions (aim: 60 times faster than ModelOpt padded to 512 tokens as upstream drives it, 5 times faster
# than the same call on unpadded batches), and all cells of the grid on 128 captions (aim: 300 times one ModelOpt run per
# cell). ModelOpt's time is extrapolated from one padded batch of 8 captions in each of five cells, every such batch
# being the same work, and from 16 unpadded ones. Ratios of CPU seconds hold on a busy machine as well; wall seconds need a
# quiet one.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/cells.bash
O=$(realpath "${O:-build}")
export PATH="$O/bin:$PATH"
python=${AQ_ORACLE_PYTHON:-python3}
if ! "$python" -c 'import modelopt.torch.quantization' 2>/dev/null; then
    echo "skipped: AQ_ORACLE_PYTHON=$python cannot import modelopt"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=models/qwen3_vl_demo/checkpoint

aq-extract-lm -o "$work/lm.json" $model
aq-extract-lm --materialize "$work/model" $model >/dev/null
aq-calib tokens --tokenizer $model -o "$work/tokens" datasets/demo/captions_{medium,large}.txt
aq-calib tokens --tokenizer $model --padding max_length --seq-len 512 -o "$work/padded" datasets/demo/captions_medium.txt

write_cells "$work/quant"
cells=$(find "$work/quant" -name '*.json' | wc -l)

# timed COMMAND...: adds its wall and CPU seconds to $wall and $cpu.
timed() {
    local TIMEFORMAT='%R %U %S' r u s
    read -r r u s < <({ time "$@" >/dev/null 2>"$work/log"; } 2>&1)
    wall=$(awk "BEGIN { print $wall + $r }") cpu=$(awk "BEGIN { print $cpu + $u + $s }")
}

# ours TIMES PREFIX QUANT.json...: ranges and scores, from the files on; the median of TIMES runs.
ours() {
    local times=$1 n=$2
    shift 2
    for ((i = 0; i < times; i++)); do
        wall=0 cpu=0
        rm -f "$work/store"
        timed aq-calib ranges --lm "$work/lm.json" --prefix "$n" --device cpu --dtype fp32 -o "$work/ranges" "$work/tokens"
        timed aq-score --lm "$work/lm.json" --tokens "$work/tokens" --ranges "$work/ranges" --prefix "$n" --score-samples "$n" \
            --method gradient --dtype fp32 --device cpu -o "$work/store" "$@"
        echo "$wall $cpu"
    done | sort -n | sed -n "$(((times + 1) / 2))p" >"$work/median"
    read -r wall cpu <"$work/median"
}

ours 5 512 "$work/quant/INT8_DEFAULT_CFG.default.json"
one_wall=$wall one_cpu=$cpu
ours 1 128 "$work"/quant/*.json
measured=(INT8_DEFAULT_CFG.default FP8_DEFAULT_CFG.default INT4_WEIGHT_INT8_ACT_CFG.w_group128_a_token
    INT8_WEIGHT_ONLY_CFG.w_per_out_channel FP8_WEIGHT_INT4_ACT_CFG.w_group64)
measured=("${measured[@]/#/"$work/quant/"}")
"$python" tests/bench/auto_quantize.py "$work/model" "$work/padded" "${measured[@]/%/.json}" >"$work/peer" 2>"$work/log" ||
    { tail -n 5 "$work/log" >&2; exit 1; }
awk -F'\t' -v ow="$one_wall" -v oc="$one_cpu" -v gw="$wall" -v gc="$cpu" -v cells="$cells" '
    function line(what, pw, pc, w, c, aim) {
        printf "%-38s ModelOpt %9.1f s wall %9.1f s CPU; aq %6.1f s wall %6.1f s CPU: %.1f times, by CPU seconds %.1f (aim: %d)\n",
            what, pw, pc, w, c, pw / w, pc / c, aim }
    $1 ~ /^(un)?padded$/ && !($1 in c) { w[$1] = $2; c[$1] = $3 } # of the first cell; ModelOpt prints lines of its own
    $1 == "padded" { pw += $2; pc += $3; n++ }
    END {
        line("one cell, 512 captions, padded", 64 * w["padded"], 64 * c["padded"], ow, oc, 60)
        line("one cell, 512 captions, unpadded", 64 * w["unpadded"], 64 * c["unpadded"], ow, oc, 5)
        line(sprintf("%d cells, 128 captions, padded", cells), 16 * cells * pw / n, 16 * cells * pc / n, gw, gc, 300)
    }' "$work/peer"
