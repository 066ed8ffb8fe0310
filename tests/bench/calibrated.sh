#!/usr/bin/env bash
# Seconds of calibrated candidates at the dimensions of Qwen3-VL-4B's language model: aq-calib solve of each method alone and of all, then
# aq-score of the methods that need no solving alone and of all candidates, for 6.7k tokens in 512 samples. Random weights, LAYERS=2 of 36
# layers: what grows with layers is the difference between LAYERS and one; ALONE= leaves out the methods alone. DEVICE=cuda (aim: all of 36
# layers within 60 s on an H200), DTYPE=bf16. Needs 1.6 GB of disk in $TMPDIR (36 layers: 11 GB) and 4 GB of memory.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$O/bin:$PATH"
device=${DEVICE:-cuda} dtype=${DTYPE:-bf16} layers=${LAYERS:-2}
[ "$device" != cuda ] || nvidia-smi -L >/dev/null 2>&1 || { echo 'no GPU: nothing to measure'; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk 'BEGIN { srand(1); for (s = 0; s < 512; s++) { for (i = 0; i < 13; i++) printf "%d ", 1 + int(rand() * 151000); print "" } }' |
    "$O/tests/make_tokens" --sizes 512 -o "$work/tokens"
mkdir "$work/q"
for pair in wint4_afp16 wint4_afp16_gptq wint4_afp16_awq wint8_aint8 wint8_aint8_smooth wfp4_afp16 wfp4_afp16_sweep; do
    aq-resolve -q quant_pair=$pair | aq-overlay - -o "$work/q/$pair.json"
done
aq-resolve -q quant_pair=wint4_afp16_awq | jq '._aq.format.algorithm.method = "awq_full"' | aq-overlay - -o "$work/q/clip.json"
for pair in wint4_afp16 wint8_aint8; do
    aq-resolve -q quant_pair=$pair | jq '._aq.format.algorithm = {method: "mse"}' | aq-overlay - -o "$work/q/${pair}_mse.json"
done
aq-overlay --format NVFP4_FOUR_OVER_SIX_CFG -o "$work/q/four_over_six.json"
now() { printf '%s' "$EPOCHREALTIME"; }
spent() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
model() { # model LAYERS: $work/lm.json and ranges
    rm -rf "$work/model"
    "$O/tests/random_checkpoint" --preset 4b --layers "$1" --vision-depth 0 "$work/model"
    aq-extract-lm -q -o "$work/lm.json" "$work/model"
    local start
    start=$(now)
    aq-calib ranges -q --device "$device" --dtype "$dtype" --lm "$work/lm.json" --prefix 512 -o "$work/ranges" "$work/tokens"
    printf '%d layers  %-24s %8s s\n' "$1" ranges "$(spent "$start")"
}
timed() { # timed LAYERS WHAT COMMAND...
    local start
    start=$(now)
    "${@:3}"
    printf '%d layers  %-24s %8s s\n' "$1" "$2" "$(spent "$start")"
}
solve() {
    rm -f "$work/solved"
    aq-calib solve -q --device "$device" --dtype "$dtype" --lm "$work/lm.json" --tokens "$work/tokens" --ranges "$work/ranges" \
        -o "$work/solved" "$@" 2>"$work/log"
}
score() {
    rm -f "$work/store"
    aq-score -q --device "$device" --dtype "$dtype" --lm "$work/lm.json" --tokens "$work/tokens" --ranges "$work/ranges" \
        --solved "$work/solved" --score-samples 512 -o "$work/store" "$@" 2>"$work/log"
}
for n in 1 "$layers"; do
    model "$n"
    [ -n "${ALONE-1}" ] && [ "$n" = "$layers" ] && for pair in wint4_afp16_gptq wint4_afp16_awq wint8_aint8_smooth clip; do
        timed "$n" "solve $pair" solve "$work/q/$pair.json"
    done
    [ -n "${ALONE-1}" ] && [ "$n" = "$layers" ] && for pair in wint4_afp16_mse wint8_aint8_mse wfp4_afp16_sweep four_over_six; do
        timed "$n" "score $pair" score "$work/q/$pair.json"
    done
    timed "$n" 'solve all' solve "$work"/q/*.json
    timed "$n" 'score all' score "$work"/q/*.json
done
