#!/usr/bin/env bash
# Other tools that score a model's layers, on the same GPU, tokens and dimensions, where $AQ_ORACLE_PYTHON (default: python3) can import
# them: ModelOpt's auto_quantize and AutoRound's AutoScheme, each as it comes and at its best, against aq-score over the same formats.
# aq's times are of whole processes, with the weights read and the ranges measured; theirs of the call alone, the model being loaded.
# Random weights in the dimensions of Qwen3-VL-4B's language model (CHECKPOINT=DIR: of that one), the 512 captions of ../shared/data. Needs
# 8 GB of disk in $TMPDIR. ModelOpt compiles kernels at its first call, a minute; RUNS=3: aq's times are medians of so many; BATCHES: as
# modelopt_gpu.py says, DEPTHS: as autoround_gpu.py does; PEERS="modelopt autoround" chooses.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$O/bin:$PATH" AQ_CONF=$PWD/conf
python=${AQ_ORACLE_PYTHON:-python3} device=${DEVICE:-cuda} data=../shared/data
[ "$device" != cuda ] || nvidia-smi -L >/dev/null 2>&1 || { echo 'no GPU: nothing to measure'; exit 0; }
[ -d $data ] || { echo "no captions in $data: nothing to measure"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
runs=${RUNS:-3}
# shellcheck disable=SC2086
[ -n "${CHECKPOINT:-}" ] || "$O/tests/random_checkpoint" --preset 4b --vision-depth 0 ${SHAPE:-} "$work/model"
aq-extract-lm -q -o "$work/lm.json" "${CHECKPOINT:-$work/model}"
mkdir "$work/tokenizer"
gzip -dc $data/qwen3-tokenizer/tokenizer.json.gz >"$work/tokenizer/tokenizer.json"
cp $data/qwen3-tokenizer/tokenizer_config.json "$work/tokenizer"
aq-calib tokens -q --tokenizer "$work/tokenizer" -o "$work/tokens" $data/vlm-quantize-calib/coco2017_captions_large.txt

quant() { # quant FORMAT GRANULARITY: its file
    local to=$work/$1.$2.json
    [ -e "$to" ] || aq-overlay --strict --format "$1" --granularity "$2" -o "$to"
    echo "$to"
}
ours() { # ours NAME QUANT.json...: ranges and scores from nothing, the median of the runs, to $work/aq
    local name=$1 took=() TIMEFORMAT=%R
    shift
    for ((i = 0; i < runs; i++)); do
        rm -f "$work/store" "$work/ranges"
        took+=("$({ time aq-score -q --device "$device" --dtype bf16 --lm "$work/lm.json" --tokens "$work/tokens" --measure "$work/ranges" \
            --prefix 512 --score-samples 512 -o "$work/store" "$@"; } 2>&1)")
    done
    printf '%s %s\n' "$name" "$(printf '%s\n' "${took[@]}" | sort -g | sed -n "$(((runs + 1) / 2))p")" | tee -a "$work/aq"
}
fp8=$(quant FP8_DEFAULT_CFG default)
ours fp8 "$fp8"
ours formats "$fp8" "$(quant INT8_DEFAULT_CFG default)" "$(quant INT4_BLOCKWISE_WEIGHT_ONLY_CFG default)"
ours options "$(quant INT4_BLOCKWISE_WEIGHT_ONLY_CFG default)" "$(quant INT8_WEIGHT_ONLY_CFG w_group128)"
seconds() { awk -v name="$1" '$1 == name { print $2 }' "$work/aq"; }

against() { # against NAME PATTERN WHAT: the seconds of the peer's line with PATTERN before its colon, and of aq's NAME
    sed -nE "s/^.*$2: ([0-9.]+) s.*/\1/p" "$work/peer" | awk -v o="$(seconds "$1")" -v what="$3" \
        '{ printf "%-64s %7.1f s, aq %5.2f s: %.0f times\n", what, $1, o, $1 / o }'
}
peer() { # peer MODULE SCRIPT
    [[ " ${PEERS:-modelopt autoround} " == *" ${2%_gpu.py} "* ]] || return 1
    if ! "$python" -c "import $1" 2>/dev/null; then
        echo "skipped: $python cannot import $1"
        return 1
    fi
    "$python" "tests/bench/$2" "$work/tokens" 2>"$work/log" | tee "$work/peer" || { tail -n 5 "$work/log" >&2; return 1; }
}
if BATCHES=${BATCHES:-24} peer modelopt.torch.quantization modelopt_gpu.py; then
    against fp8 'padded to 512, batches of 8' 'ModelOpt, FP8, padded to 512, batches of 8'
    against formats 'padded to their longest' 'ModelOpt, three formats in one call, batches of 64, short padding'
fi
if peer auto_round autoround_gpu.py; then
    against options 'a block at a time, batches of 8' 'AutoScheme, two options, a block on the device at a time'
    against options 'model on the device, batches of 8' 'AutoScheme, two options, model on the device'
fi
