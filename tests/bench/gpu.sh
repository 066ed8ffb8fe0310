#!/usr/bin/env bash
# One cell, the classes of treatments against a bare product, upstream's cells, the same within 8 GB, and all cells on a GPU:
# random weights in the dimensions of Qwen3-VL-4B's language model, the 512 captions of ../shared/data. Needs 8 GB of disk in $TMPDIR.
# PRESET=32b LAYERS=32 MEMORY=24G: one cell of the large one.
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

# Upstream's 16 pairs and 9 granularities; and each treatment once: those whose scales lie on rows, columns or the tensor (one bf16 product), and those with scales along K.
declare -A seen=()
upstream=() by_row=() along_k=()
for q in "$work"/quant/*.json; do
    [[ $q =~ FP16_WEIGHT_|NVFP4_DEFAULT|a_per_hidden_channel|w_group128_a_token|fp8_block|MXFP ]] || upstream+=("$q")
    treatment=$(jq -r '.treatment | .w + "|" + .a' "$q")
    [ -z "${seen[$treatment]:-}" ] || continue
    seen[$treatment]=1
    if [[ $treatment =~ ^(none|[a-z0-9]+:(tensor|axis0):static)\|(none|[a-z0-9]+:(tensor:static|token:dynamic))$ ]]; then
        by_row+=("$q")
    else
        along_k+=("$q")
    fi
done

options=(--lm "$work/lm.json" --tokens "$work/tokens" --ranges "$work/ranges" --prefix '16,128,512' --score-samples 512
    --device cuda --dtype bf16 "${limit[@]}")
score() { # score WHAT OPTION... QUANT.json...: into a new store. Leaves seconds and the scores' TFLOP in `took` and `work_of`
    local what=$1 start=$EPOCHREALTIME
    rm -f "$work/store"
    aq-score "${options[@]}" -v -o "$work/store" "${@:2}" 2>"$work/log"
    took=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')
    work_of=$(rm -f "$work/store" && aq-score "${options[@]}" --dry-run "${@:2}" | awk '/^ *scores / { print $2 }')
    awk -v what="$what" -v s="$took" '/candidates computed/ { n = $2 } /peak/ { peak = $(NF - 1) }
        END { printf "%-34s %3d treatments %7.2f s   peak %s GB\n", what, n, s, peak }' "$work/log"
}
class() { # class WHAT QUANT.json...: its scores alone, as a share of the sustained product
    score "$@"
    awk -v s="$took" -v base="$base" -v work="$work_of" -v base_work="$base_work" -v top="$sustained" 'BEGIN {
        rate = (work - base_work) / (s - base)
        printf "%34s %.0f TFLOP in %.2f s: %.0f TFLOP/s, %.0f %% of the product\n", "", work - base_work, s - base, rate, 100 * rate / top }'
}
cell=$work/quant/FP8_DEFAULT_CFG.default.json
score 'one cell, first run' "$cell"
for _ in 1 2 3; do score 'one cell' "$cell"; done
[ "$preset" = 4b ] || exit 0
base=$took base_work=$work_of
"$O/bench/gpu_rate" 5 | tee "$work/rate"
"$O/bench/gpu_blocks"
sustained=$(sed -E 's/.*moments, ([0-9]+) over.*/\1/' "$work/rate")
class 'scales on rows, columns, tensor' "${by_row[@]}"
class 'scales along K' "${along_k[@]}"
score "upstream's cells" "${upstream[@]}"
score "upstream's cells, 8 GB" --memory 8G "${upstream[@]}"
score 'all cells' "$work"/quant/*.json
