# Scores of aq with autoquant=modelopt_parity against those of ModelOpt on the CPU: vectors of tests/oracle/parity.py.
load helpers

# Relative difference allowed beside a group's rounding ties.
TOLERANCE=1e-4

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    VECTORS=$REPO/tests/oracle/parity
}

demo() { # demo LENGTH: the demo model and its smallest set of captions
    ln -s "$REPO/models/qwen3_vl_demo/checkpoint" model
    aq-calib tokens --tokenizer model --seq-len "$1" --padding max_length -o tokens \
        "$REPO/datasets/demo/captions_small.txt"
}

# cells CASE METHOD: a directory for each row of the vectors, numbered as there
cells() {
    (cd "$REPO" && aq-resolve --config-name preset/demo autoquant=modelopt_parity dataset.padding=max_length \
        model.dtype=fp32 dataset.size=small autoquant.device=cpu autoquant.method="$2") >run.json
    local i=0 format granularity
    while IFS=$'\t' read -r format granularity; do
        mkdir -p "$2/$i/cell"
        ln -s "$PWD/run.json" "$2/$i/cell/run.json"
        aq-overlay --fp4-block 16 --format "$format" --granularity "$granularity" -o "$2/$i/quant.json"
        i=$((i + 1))
    done < <(jq -r --arg m "$2" '.[$m][] | [.format, .granularity] | @tsv' "$VECTORS/$1.json")
    jq -n --arg m "$2" --argjson n "$i" '{cells: [range($n) | {dir: "\($m)/\(.)/cell", supported: true}]}' >cells.json
}

# replay CASE METHOD: scores of all rows, compared; prints how many groups took their allowance for ties
replay() {
    cells "$1" "$2"
    aq-extract-lm -o lm.json model
    aq-calib ranges --lm lm.json --prefix 16 -o ranges tokens
    aq-score --lm lm.json --tokens tokens --ranges ranges --prefix 16 --score-samples 16 --dtype fp32 --device cpu \
        --operand-rounding dtype --method "$2" -o store "$2"/*/quant.json
    aq-score collect --cells cells.json store
    local rows
    rows=$(jq --arg m "$2" '.[$m] | length' "$VECTORS/$1.json")
    for ((i = 0; i < rows; i++)); do cat "$2/$i/cell/scores.json"; done |
        jq -s --arg m "$2" --slurpfile v "$VECTORS/$1.json" --argjson tolerance $TOLERANCE \
            -f "$REPO/tests/parity.jq" >result.json
    jq -c '{groups, tied, worst}' result.json
    jq -e '.groups > 0 and .bad == [] and .order == []' result.json
}


@test "demo model, captions padded to 512" {
    demo 512
    replay long gradient
}
