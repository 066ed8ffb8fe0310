#!/usr/bin/env bash
# Divergences, random weights. On a GPU: positions of one recipe in bf16 with operands of one and of three products and windows of 512
# tokens, divergences of all groups one by one, trials of a polish, and singles of SINGLES=9300 positions. On two processors, in the dimensions of SmolLM2-135M: 16,384
# positions of one recipe, and exchanges of a polish on 4,096 tokens, such as are refused early and such as are measured to the end on two
# texts. WHAT='positions kl_div trials singles cpu exchanges accepted' chooses; POSITIONS=1000000
# measures all that the aim says, 100,000 do to see the rate. Needs 9 GB of disk in $TMPDIR for the GPU's part.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$PWD/$O/bin:$PATH" AQ_CONF=$PWD/conf LC_ALL=C
gpu=
! nvidia-smi -L >/dev/null 2>&1 || gpu='positions kl_div trials singles'
WHAT=${WHAT:-$gpu cpu exchanges accepted} POSITIONS=${POSITIONS:-100000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# text NAME SAMPLES LENGTH SEED [VOCABULARY]: tokens at random
text() {
    awk -v n="$2" -v tokens="$3" -v seed="$4" -v ids="${5:-49000}" 'BEGIN { x = seed # srand() does not repeat itself in every awk
        for (i = 0; i < n; i++) { line = ""; for (k = 0; k < tokens; k++) { x = x * 16807 % 2147483647; line = line x % ids " " } print line } }' |
        "$O/tests/make_tokens" --sizes "$2" -o "$work/$1"
}

# recipe NAME LM TREATMENT: every group in it, weights alone
recipe() {
    jq --argjson treatments "{\"a\": [\"$3\", \"none\"]}" --argjson cycle '["a"]' -f tests/manifest.jq "$2" >"$work/$1.json"
}

# seconds WHAT AIM COMMAND...: its seconds, which are left in `took`
seconds() {
    local what=$1 aim=$2 start=$EPOCHREALTIME
    shift 2
    "$@"
    took=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')
    printf '%-70s %7.2f s   (aim: %s)\n' "$what" "$took" "$aim"
}

model4b() {
    [ -e "$work/4b.json" ] && return
    "$O/tests/random_checkpoint" --preset 4b --vision-depth 0 "$work/4b"
    aq-extract-lm -q -o "$work/4b.json" "$work/4b"
}

positions() {
    local n first='' name aim=60
    model4b
    for name in one:int8:axis0:static 'three:int4:block(-1:32):static'; do
        recipe "${name%%:*}" "$work/4b.json" "${name#*:}"
        for n in 20000 "$POSITIONS"; do # the first is for what does not depend on the number: the noise floor is that of 12,288 positions
            text windows $(((n + 510) / 511)) 512 1
            seconds "$n positions, ${name%%:*}-product operands" "$aim s for 1,000,000" \
                aq-eval -q --device cuda --dtype bf16 --reference "$work/4b.json" --domain t="$work/windows" -o "$work/eval.json" "$work/${name%%:*}.json"
            [ "$n" != 20000 ] || first=$took
        done
        jq -r '"    KL \(.all.kl.mean) +- \(.all.kl.se), noise floor \(.noise_floor), \(.all.positions) positions"' "$work/eval.json"
        awk -v a="$first" -v b="$took" -v n="$POSITIONS" 'BEGIN { r = (b - a) / (n - 20000); printf "    %.2f s for each 100,000, %.1f s besides: 1,000,000 in %.0f s\n", r * 1e5, a - r * 20000, a + r * 980000 }'
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

# scores_of LM LAYERS: of two candidates, into scores-4.json and scores-8.json
scores_of() {
    local lm=$1 layers=$2 bits
    for bits in 4 8; do
        jq -n -f tests/scores.jq --arg name "wint${bits}_afp16/default" --argjson bits $bits --argjson seed $bits --argjson layers "$layers" |
            jq --slurpfile lm "$lm" '.identity.lm = $lm[0].digest.sample | .groups = ([.groups, $lm[0].groups] | transpose | map(.[0] + .[1]))
                | .weights.lm = ([.groups[].weights] | add)' | "$O/tests/json_seal" >"$work/scores-$bits.json"
    done
}

# polish LM LAYERS TOKENS OPTION...: into polished.json, from scores that promise much, so that no trial is left out; the texts have 32 samples,
# of which whole numbers fill a tile
polish() {
    local lm=$1 layers=$2 length=$(($3 / 32)) t
    shift 3
    scores_of "$lm" "$layers"
    for t in search:3 confirm:4; do text "${t%:*}" 32 "$length" "${t#*:}"; done
    aq-select -q --effective-bits 6 -o "$work/start.json" "$work"/scores-{4,8}.json
    aq-eval polish -q --reference "$lm" --search s="$work/search" --confirm c="$work/confirm" -o "$work/polished.json" "$@" "$work/start.json" \
        "$work"/scores-{4,8}.json
}

# trials_of WHAT AIM COUNT POLISH...: seconds of up to COUNT trials, and of one apart from what the texts, the reference and the start take
trials_of() {
    local what=$1 aim=$2 n first=
    for n in 1 "$3"; do
        seconds "$n trials of a polish, $what" "$aim" polish "${@:4}" --trials "$n"
        jq -r '.selection.polish | "    \(.trials) trials, \(.accepted) accepted: \(.stopped)"' "$work/polished.json"
        first=${first:-$took}
    done
    jq -r --argjson a "$first" --argjson b "$took" '.selection.polish.trials | "    one of them: \(if . > 1 then ($b - $a) / (. - 1) else null end) s"' "$work/polished.json"
}

trials() {
    "$O/tests/random_checkpoint" --kind qwen3 --preset 2b --hidden 1024 --intermediate 3072 --layers 28 --heads 16 --kv-heads 8 "$work/06b"
    aq-extract-lm -q -o "$work/06b.json" "$work/06b"
    trials_of '16,384 tokens, dimensions of 0.6B' '60 s for 600' 600 "$work/06b.json" 28 16384 --device cuda --dtype bf16 --time "${SECONDS_EACH:-60}"
}

model135m() {
    [ -e "$work/135m.json" ] && return
    "$O/tests/random_checkpoint" --kind qwen3 --hidden 576 --intermediate 1536 --layers 30 --heads 9 --kv-heads 3 --head-dim 64 --vocab 49152 --scale 0.05 "$work/135m"
    aq-extract-lm -q -o "$work/135m.json" "$work/135m"
}

singles() { # samples of 50 positions
    model135m
    scores_of "$work/135m.json" 30
    text singles $((${SINGLES:-9300} / 50)) 51 1
    seconds "singles of 120 groups in two formats, ${SINGLES:-9300} positions, fp32, dimensions of SmolLM2" '92 s' aq-eval singles -q --device cuda --dtype fp32 \
        --reference "$work/135m.json" --domain s="$work/singles" -o "$work/singles.st" "$work"/scores-{4,8}.json
}

two_processors() { # of those that there are, and the model that they work on
    local two
    two=$(taskset -cp $$ | sed 's/.*: //' | tr , '\n' | awk -F- '{ for (i = $1; i <= ($2 == "" ? $1 : $2); i++) print i }' | head -n 2 | paste -sd,)
    taskset -cp "$two" $BASHPID >/dev/null
    lscpu | sed -n 's/^Model name: */two of: /p'
    model135m
}

cpu() {
    two_processors
    recipe int4 "$work/135m.json" 'int4:block(-1:128):static'
    text windows 33 512 1 49152
    seconds '16,384 positions of one recipe, dimensions of SmolLM2, two processors' '120 s' aq-eval -q --device cpu --reference "$work/135m.json" \
        --domain t="$work/windows" -o "$work/eval.json" "$work/int4.json"
}

exchanges() {
    two_processors
    trials_of '4,096 tokens, dimensions of SmolLM2' '6 s for each' "${EXCHANGES:-11}" "$work/135m.json" 30 4096 --device cpu
}

accepted() { # from a recipe at random, which nearly every exchange improves
    local k n name first='' samples=32
    two_processors
    for k in search:3 confirm:4 measure:5; do text "${k%:*}" $samples 128 "${k#*:}" 49152; done
    aq-overlay --format INT4_BLOCKWISE_WEIGHT_ONLY_CFG -o "$work/quant-4.json"
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o "$work/quant-8.json"
    aq-score -q --dtype fp32 --device cpu --lm "$work/135m.json" --tokens "$work/measure" --prefix $samples --score-samples $samples -o "$work/store" "$work"/quant-{4,8}.json
    for n in 4 8; do
        name=wint${n}_afp16
        aq-resolve --config-name preset/lm_sensitivity model=smollm2_135m dataset=demo_captions dataset.size=large "quant_pair=$name" quant_granularity=default \
            "autoquant.score_size=$samples" "dataset.size_to_max_samples.large=$samples" model.dtype=fp32 >"$work/run.json"
        aq-score collect -q --run "$work/run.json" --quant "$work/quant-$n.json" "$work/store" >"$work/found-$n.json"
    done
    aq-select -q --unchecked --effective-bits 6 --random 2 --dir "$work/random" "$work"/found-{4,8}.json # the second is at random
    for n in 1 "${ACCEPTED:-5}"; do
        seconds "$n trials from a recipe at random, 4,096 tokens, dimensions of SmolLM2" '6 s for each of two measurements' aq-eval polish -q --device cpu \
            --reference "$work/135m.json" --search s="$work/search" --confirm c="$work/confirm" --trials "$n" -o "$work/polished.json" "$work/random/2.json" \
            "$work"/found-{4,8}.json
        jq -r '.selection.polish | "    \(.trials) trials, \(.accepted) accepted: \(.stopped)"' "$work/polished.json"
        first=${first:-$took}
    done
    awk -v a="$first" -v b="$took" -v n="${ACCEPTED:-5}" 'BEGIN { printf "    one measurement: %.2f s where all were accepted\n", (b - a) / (n - 1) / 2 }'
}

[ -z "$gpu" ] || nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
for what in $WHAT; do ($what); done
