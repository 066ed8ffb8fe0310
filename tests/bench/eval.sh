#!/usr/bin/env bash
# Divergences on a GPU, random weights: positions of one recipe in bf16 with operands of one and of three products and windows of 512
# tokens, divergences of all groups one by one, and trials of a polish. WHAT='positions kl_div trials' chooses; POSITIONS=1000000
# measures all that the aim says, 100,000 do to see the rate. Needs 9 GB of disk in $TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$PWD/$O/bin:$PATH" AQ_CONF=$PWD/conf LC_ALL=C
nvidia-smi -L >/dev/null 2>&1 || { echo 'no GPU: nothing to measure'; exit 0; }
WHAT=${WHAT:-positions kl_div trials} POSITIONS=${POSITIONS:-100000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# text NAME SAMPLES LENGTH SEED: tokens at random
text() {
    awk -v n="$2" -v tokens="$3" -v seed="$4" 'BEGIN { srand(seed)
        for (i = 0; i < n; i++) { line = ""; for (k = 0; k < tokens; k++) line = line int(rand() * 150000) " "; print line } }' |
        "$O/tests/make_tokens" --sizes "$2" -o "$work/$1"
}

# recipe NAME LM TREATMENT: every group in it, weights alone
recipe() {
    jq --argjson treatments "{\"a\": [\"$3\", \"none\"]}" --argjson cycle '["a"]' -f tests/manifest.jq "$2" >"$work/$1.json"
}

# seconds WHAT AIM COMMAND...
seconds() {
    local what=$1 aim=$2 start=$EPOCHREALTIME
    shift 2
    "$@"
    awk -v a="$start" -v b="$EPOCHREALTIME" -v what="$what" -v aim="$aim" 'BEGIN { printf "%-70s %7.2f s   (aim: %s)\n", what, b - a, aim }'
}

model4b() {
    [ -e "$work/4b.json" ] && return
    "$O/tests/random_checkpoint" --preset 4b --vision-depth 0 "$work/4b"
    aq-extract-lm -q -o "$work/4b.json" "$work/4b"
}

positions() {
    local samples=$(((POSITIONS + 510) / 511)) name aim=60
    model4b
    text windows "$samples" 512 1
    for name in one:int8:axis0:static 'three:int4:block(-1:128):static'; do
        recipe "${name%%:*}" "$work/4b.json" "${name#*:}"
        seconds "$POSITIONS positions, ${name%%:*}-product operands" "$aim s for 1,000,000" \
            aq-eval -q --device cuda --dtype bf16 --reference "$work/4b.json" --domain t="$work/windows" -o "$work/eval.json" "$work/${name%%:*}.json"
        jq -r '"    KL \(.all.kl.mean) +- \(.all.kl.se), noise floor \(.noise_floor), \(.all.positions) positions"' "$work/eval.json"
        aim=90
    done
}

kl_div() {
    model4b
    text captions 512 12 2
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o "$work/quant.json"
    seconds 'kl_div of 144 groups, one candidate, 512 samples of 12 tokens' '20 s' aq-score -q --device cuda --dtype bf16 --method kl_div \
        --lm "$work/4b.json" --tokens "$work/captions" --prefix 512 --score-samples 512 -o "$work/store" "$work/quant.json"
}

# made BITS: scores of the model, whatever they are
made() {
    jq -n -f tests/scores.jq --arg name "wint$1_afp16/default" --argjson bits "$1" --argjson seed "$1" --argjson layers 28 |
        jq --slurpfile lm "$work/06b.json" '.identity.lm = $lm[0].digest.sample | .groups = ([.groups, $lm[0].groups] | transpose | map(.[0] + .[1]))
            | (.groups[] | .per_token, .per_token_se) /= 1e4' | "$O/tests/json_seal" >"$work/scores-$1.json"
}

trials() {
    local name
    "$O/tests/random_checkpoint" --kind qwen3 --preset 2b --hidden 1024 --intermediate 3072 --layers 28 --heads 16 --kv-heads 8 "$work/06b"
    aq-extract-lm -q -o "$work/06b.json" "$work/06b"
    made 4
    made 8
    text search 32 513 3
    text confirm 32 513 4
    aq-select -q --effective-bits 6 -o "$work/start.json" "$work"/scores-{4,8}.json
    seconds '600 trials of a polish, 16,384 positions, dimensions of 0.6B' '60 s' aq-eval polish -q --device cuda --dtype bf16 --time "${SECONDS_EACH:-90}" \
        --reference "$work/06b.json" --search s="$work/search" --confirm c="$work/confirm" -o "$work/polished.json" "$work/start.json" "$work"/scores-{4,8}.json
    jq -r '.selection.polish | "    \(.trials) trials, \(.accepted) accepted: \(.stopped)"' "$work/polished.json"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
for what in $WHAT; do $what; done
