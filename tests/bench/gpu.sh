#!/usr/bin/env bash
# One cell, all cells, and all cells within 8 GB on a GPU: random weights in the dimensions of Qwen3-VL-4B's language model, the
# 512 captions of ../shared/data. Needs 8 GB of disk in $TMPDIR. PRESET=32b LAYERS=32 MEMORY=24G: one cell of the large one.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/cells.bash
O=${O:-build}
export PATH="$O/bin:$PATH"
data=../shared/data
nvidia-smi -L >/dev/null 2>&1 || { echo 'no GPU: nothing to measure'; exit 0; }
[ -d $data ] || { echo "no captions in $data: nothing to measure"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
preset=${PRESET:-4b}
limit=(${MEMORY:+--memory "$MEMORY"})
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$O/tests/random_checkpoint" --preset "$preset" ${LAYERS:+--layers "$LAYERS"} --vision-depth 0 "$work/model"
aq-extract-lm -o "$work/lm.json" "$work/model"
mkdir "$work/tokenizer"
gzip -dc $data/qwen3-tokenizer/tokenizer.json.gz >"$work/tokenizer/tokenizer.json"
cp $data/qwen3-tokenizer/tokenizer_config.json "$work/tokenizer"
aq-calib tokens --tokenizer "$work/tokenizer" -o "$work/tokens" $data/vlm-quantize-calib/coco2017_captions_{small,medium,large}.txt
aq-calib ranges --device cuda --lm "$work/lm.json" --prefix 16,128,512 -o "$work/ranges" "$work/tokens"
write_cells "$work/quant"
cells=("$work"/quant/*.json)

score() { # score WHAT OPTION... QUANT.json...: a new store each time
    local what=$1 start=$EPOCHREALTIME
    rm -f "$work/store"
    aq-score --lm "$work/lm.json" --tokens "$work/tokens" --ranges "$work/ranges" --prefix 16,128,512 --score-samples 512 \
        --device cuda -v -o "$work/store" "${@:2}" 2>"$work/log"
    awk -v what="$what" -v a="$start" -v b="$EPOCHREALTIME" '/candidates computed/ { n = $2 } /peak/ { peak = $(NF - 1) }
        END { printf "%-22s %3d treatments %7.2f s   peak %s GB\n", what, n, b - a, peak }' "$work/log"
}
score 'one cell, first run' "${limit[@]}" "$work/quant/FP8_DEFAULT_CFG.default.json"
score 'one cell' "${limit[@]}" "$work/quant/FP8_DEFAULT_CFG.default.json"
[ "$preset" = 4b ] || exit 0
score 'all cells' "${cells[@]}"
score 'all cells, 8 GB' --memory 8G "${cells[@]}"
