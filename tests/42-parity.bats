# Scores and choices of aq with autoquant=modelopt_parity against those of ModelOpt, on the CPU and, for what it cannot
# compute there, on a GPU: vectors of tests/oracle/parity.py, which says what each case is and where its allowance for
# rounding ties comes from.
load helpers

# Relative difference allowed to a group and to the sum of a treatment's groups. Where rounding ties or float32 noise
# can move a group by half of it or more (loose, in tests/parity.jq), they are allowed on top.
TOLERANCE=1e-4

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    # the oracle takes plain ranges in place of every algorithm
    cp -R "$REPO/conf" conf
    sed -i 's/^algorithm: [^nm].*/algorithm: max/; s/^algorithm: {.*/algorithm: max/' conf/format/*.yaml
    export AQ_CONF=$PWD/conf
    VECTORS=$REPO/tests/oracle/parity
}

demo() { # demo LENGTH: the demo model and its smallest set of captions
    ln -s "$REPO/models/qwen3_vl_demo/checkpoint" model
    aq-calib tokens --tokenizer model --seq-len "$1" --padding max_length -o tokens \
        "$REPO/datasets/demo/captions_small.txt"
}

tiny() { # tiny CASE PADDING LENGTH: the random model and the case's ids
    "$O/tests/random_checkpoint" --kind qwen3 --layers 3 --head-dim 64 --hidden 128 --intermediate 256 --vocab 512 \
        --scale 0.08 model
    "$O/tests/make_tokens" --padding "$2" --seq-len "$3" -o tokens <"$VECTORS/$1.ids"
}

# cells CASE METHOD: a directory for each row of the vectors, numbered as there
cells() {
    (cd "$REPO" && aq-resolve --config-name preset/demo autoquant=modelopt_parity dataset.padding=max_length \
        model.dtype=fp32 dataset.size=small autoquant.device=cpu autoquant.method="$2") >run.json
    local i=0 format granularity
    while IFS=$'\t' read -r format granularity; do
        mkdir -p "$2/$i/cell"
        ln -s "$PWD/run.json" "$2/$i/cell/run.json"
        aq-overlay --fp4-block 16 --own-scales --format "$format" --granularity "$granularity" -o "$2/$i/quant.json"
        i=$((i + 1))
    done < <(jq -r --arg m "$2" '.[$m][] | [.format, .granularity] | @tsv' "$VECTORS/$1.json")
    jq -n --arg m "$2" --argjson n "$i" '{cells: [range($n) | {dir: "\($m)/\(.)/cell", supported: true}]}' >cells.json
}

# calibrated_cells CASE METHOD: the same of formats whose algorithm is computed, by the rules of the parity preset
calibrated_cells() {
    export AQ_CONF=$REPO/conf
    cells "$1" "$2"
    local i
    for i in "$2"/*/; do
        jq --slurpfile q "$i/quant.json" '{autoquant, quant_pair: {format_name: "X"}, quant_granularity: {name: "default", quant_cfg_overrides: {}},
            _aq: {format: ($q[0] | {quant_cfg, algorithm})}}' run.json | aq-overlay - -o "$i/parity.json"
        mv "$i/parity.json" "$i/quant.json"
    done
}

# replay VECTORS METHOD STRICT LOOSE: scores of all rows, compared: STRICT groups within the tolerance and LOOSE near it
replay() {
    local solved=()
    if [[ $1 = *-calibrated ]]; then calibrated_cells "$1" "$2"; else cells "$1" "$2"; fi
    aq-extract-lm -o lm.json model
    aq-calib ranges --lm lm.json --dtype fp32 --device cpu --prefix 16 -o ranges tokens
    if [[ $1 = *-calibrated ]]; then
        aq-calib solve --lm lm.json --tokens tokens --ranges ranges --dtype fp32 --device cpu --prefix 16 --batch 8 -o solved "$2"/*/quant.json
        solved=(--solved solved)
    fi
    aq-score "${solved[@]}" --lm lm.json --tokens tokens --ranges ranges --prefix 16 --score-samples 16 --dtype fp32 --device cpu \
        --operand-rounding dtype --dynamic-batch 8 --method "$2" -o "store.$2" "$2"/*/quant.json
    aq-score collect --cells cells.json "store.$2"
    local rows
    rows=$(jq --arg m "$2" '.[$m] | length' "$VECTORS/$1.json")
    for ((i = 0; i < rows; i++)); do cat "$2/$i/cell/scores.json"; done |
        jq -s --arg m "$2" --slurpfile v "$VECTORS/$1.json" --argjson tolerance $TOLERANCE \
            -f "$REPO/tests/parity.jq" >result.json
    jq -c 'del(.bad, .sums, .order)' result.json
    jq -c '{bad, sums, order}' result.json
    jq -e '.bad == [] and .sums == [] and .order == []' result.json
    is "$(jq -c '[.strict, .loose]' result.json)" "[$3,$4]"
}

# choices VECTORS METHOD SAME EXPLAINED: what is chosen with the scores that replay left, at the budget of each row. SAME
# rows choose the layers that ModelOpt chose, and EXPLAINED others differ for a reason of tests/choices.jq. The rules of cost
# differ in NVFP4 alone: 4.5 bits where ModelOpt's own presets say so, and the oracle's configurations are none of them.
choices() {
    local i bits
    while IFS=$'\t' read -r i bits; do
        aq-select -q --cost modelopt40 --effective-bits "$bits" "$2/$i/cell/scores.json"
    done < <(jq -r --arg m "$2" '.[$m] | to_entries[] | [.key, .value.bits] | @tsv' "$VECTORS/$1.json") |
        jq -s --arg m "$2" --slurpfile v "$VECTORS/$1.json" -f "$REPO/tests/choices.jq" >choices.json
    jq -c . choices.json
    is "$(jq -c '[.same, .explained, .other]' choices.json)" "[$3,$4,[]]"
}

@test "random model, every treatment, samples padded to 40" {
    tiny tiny max_length 40
    replay tiny gradient 362 970
    choices tiny gradient 98 13
}

@test "random model, samples padded to 40: kl_div" {
    tiny tiny max_length 40
    replay tiny kl_div 12 48
    choices tiny kl_div 4 1
}

@test "random model, samples of equal length without padding" {
    tiny equal none 64
    replay equal gradient 36 24
    choices equal gradient 4 1
}

@test "random model, samples of equal length without padding: kl_div" {
    tiny equal none 64
    replay equal kl_div 12 48
    choices equal kl_div 5 0
}

@test "demo model, captions padded to 32" {
    demo 32
    replay demo gradient 89 51
    choices demo gradient 2 3
}

@test "demo model, captions padded to 32: kl_div" {
    demo 32
    replay demo kl_div 2 138
    choices demo kl_div 5 0
}

@test "demo model, captions padded to 512" {
    demo 512
    replay long gradient 0 28
    choices long gradient 0 1
}

@test "what ModelOpt cannot compute on a CPU is held against it on a GPU, all of it" {
    local pairs='[.[] | [.w, .a]] | sort'
    is "$(jq -c ".skipped | $pairs" "$VECTORS/tiny.json")" "$(jq -c ".gradient | $pairs" "$VECTORS/tiny-cuda.json")"
    is "$(jq -s '[.[].skipped[]] | length' "$VECTORS"/*-cuda.json)" 0
}

@test "on a GPU: random model, samples padded to 40, every treatment that a CPU cannot do" {
    tiny tiny max_length 40
    replay tiny-cuda gradient 53 283
    choices tiny-cuda gradient 26 2
}

@test "on a GPU: random model, samples padded to 40: kl_div" {
    tiny tiny max_length 40
    replay tiny-cuda kl_div 19 53
    choices tiny-cuda kl_div 4 2
}

@test "on a GPU: random model, samples of equal length without padding" {
    tiny equal none 64
    replay equal-cuda gradient 20 52
    choices equal-cuda gradient 6 0
}

@test "on a GPU: random model, samples of equal length without padding: kl_div" {
    tiny equal none 64
    replay equal-cuda kl_div 19 53
    choices equal-cuda kl_div 5 1
}

@test "on a GPU: demo model, captions padded to 32" {
    demo 32
    replay demo-cuda gradient 48 120
    choices demo-cuda gradient 2 4
}

@test "on a GPU: demo model, captions padded to 512" {
    demo 512
    replay long-cuda gradient 5 23
    choices long-cuda gradient 1 0
}

@test "AWQ and SmoothQuant: random model, samples padded to 40" {
    tiny tiny max_length 40
    replay tiny-calibrated gradient 12 24
    choices tiny-calibrated gradient 3 0
}

@test "AWQ and SmoothQuant: random model, samples padded to 40: kl_div" {
    tiny tiny max_length 40
    replay tiny-calibrated kl_div 11 25
    choices tiny-calibrated kl_div 3 0
}

@test "AWQ and SmoothQuant: random model, samples of equal length without padding" {
    tiny equal none 64
    replay equal-calibrated gradient 12 24
    choices equal-calibrated gradient 1 2
}

@test "AWQ and SmoothQuant: random model, samples of equal length without padding: kl_div" {
    tiny equal none 64
    replay equal-calibrated kl_div 11 25
    choices equal-calibrated kl_div 3 0
}
