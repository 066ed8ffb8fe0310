#!/usr/bin/env bats
# Calibrated pairs in a sweep: the solve step comes between ranges and store where a cell needs it, and nowhere else; and, on the embedded
# model, a sweep of them to a checkpoint and its receipt.
load helpers

setup() {
    T=$BATS_TEST_TMPDIR/tree
    mkdir -p "$T/bin" "$T/models/qwen3_vl_demo/checkpoint" "$T/datasets/demo"
    cp -R "$REPO/conf" "$REPO/pipelines" "$T/"
    local t
    for t in aq-resolve aq-overlay; do ln -s "$BIN/$t" "$T/bin/$t"; done
    for t in aq-extract-lm aq-calib aq-score aq-select aq-report; do ln -s "$REPO/tests/stubs/heavy" "$T/bin/$t"; done
    echo '{}' >"$T/models/qwen3_vl_demo/checkpoint/config.json"
    echo weights >"$T/models/qwen3_vl_demo/checkpoint/model.safetensors"
    echo '{}' >"$T/models/qwen3_vl_demo/checkpoint/tokenizer.json"
    for t in small medium large heldout; do echo "a caption" >"$T/datasets/demo/captions_$t.txt"; done
    cd "$T"
    export AQ_BIN=bin AQ_STUB_LOG=$BATS_TEST_TMPDIR/log
    unset MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF
    P=tmp/model-experiments/lm_sensitivity/qwen3_vl_demo
    S=$P/demo_captions/solved.safetensors
    : >"$AQ_STUB_LOG"
}

sweep() { make -s -f pipelines/sweep.mk DEVICE=cpu PAIRS="${PAIRS:-wint8_afp16 wint4_afp16_gptq}" GRANS="${GRANS:-default}" SIZES="${SIZES:-small medium}" "$@"; }
calls() { grep -c "^$1" "$AQ_STUB_LOG" || true; }
forget() { : >"$AQ_STUB_LOG"; }

@test "one solve before the store, and none without a calibrated cell; a second run makes nothing" {
    PAIRS=wint8_afp16 aq 0 sweep
    is "$(calls 'aq-calib solve')" 0
    is "$(grep -c -e --solved "$AQ_STUB_LOG")" 0
    forget
    aq 0 sweep
    is "$(grep '^aq-calib' "$AQ_STUB_LOG" | cut -d' ' -f-2)" "aq-calib solve"
    has "$(grep '^aq-calib solve' "$AQ_STUB_LOG")" "--prefix 128 "
    has "$(grep '^aq-calib solve' "$AQ_STUB_LOG")" "-o $S $P/wint4_afp16_gptq/default/quant.json"
    has "$(grep '^aq-score --lm' "$AQ_STUB_LOG")" "--solved $S"
    # over the largest size alone
    is "$(jq -r '.cells[] | select(.supported | not) | "\(.pair)/\(.size): \(.reason)"' $P/cells.json)" \
        "wint4_afp16_gptq/small: calibrated candidates are solved over the largest size of the sweep alone"
    forget
    aq 0 sweep
    is "$(cat "$AQ_STUB_LOG")" ""
    aq 0 sweep -q
    aq 0 sweep plan
    has "$output" "aq-calib solve finds the numbers of 1 calibrated treatments before"
}

@test "solved again: for other ranges, another largest size, another pair; not for another plain pair" {
    aq 0 sweep
    forget
    PAIRS="wint8_afp16 wint4_afp16_gptq wint4_afp16" aq 0 sweep
    is "$(calls 'aq-calib solve')" 0
    PAIRS="wint8_afp16 wint4_afp16_gptq wint4_afp16_awq" aq 0 sweep
    is "$(calls 'aq-calib solve')" 1
    has "$(grep '^aq-calib solve' "$AQ_STUB_LOG")" "wint4_afp16_awq/default/quant.json"
    forget
    SIZES="small medium large" aq 0 sweep
    has "$(grep '^aq-calib solve' "$AQ_STUB_LOG")" "--prefix 512 "
    forget
    SIZES="small medium large" aq 0 sweep OVERRIDES=dataset.calib_seq_len=64 EXPERIMENT=lm_sensitivity
    is "$(calls 'aq-calib ranges')$(calls 'aq-calib solve')" 11
}

@test "killed while it solves: the rerun solves, and scores" {
    AQ_STUB_KILL=aq-calib:solve aq 2 sweep
    [ ! -e $S ]
    is "$(calls 'aq-score --lm')" 0
    forget
    aq 0 sweep
    is "$(calls 'aq-calib solve')$(calls 'aq-score --lm')$(calls 'aq-calib ranges')" 110
}

@test "by default the calibrated pairs are left out, for servable ones too" {
    aq 0 make -s -f pipelines/sweep.mk GRANS=w_group64 SIZES=small plan
    [[ $output != *_gptq* && $output != *_awq* && $output != *_smooth* && $output != *_sweep* ]]
    has "$output" "wint4_afp16/w_group64/small"
    aq 0 make -s -f pipelines/sweep.mk PAIRS=servable GRANS=w_group64 SIZES=small plan
    [[ $output != *_gptq* && $output != *_awq* ]]
}

@test "the embedded model: calibrated candidates, selected for an engine, are a checkpoint with a receipt" {
    sanitized && skip "whole pipelines are not run under sanitizers"
    local o=$BATS_TEST_TMPDIR/real E
    cd "$REPO"
    E=$o/model-experiments/lm_sensitivity/qwen3_vl_demo
    aq 0 make -s -f pipelines/sweep.mk AQ_BIN="$BIN" TMP_ROOT="$o" DEVICE=cpu PAIRS="wint4_afp16 wint4_afp16_gptq wint4_afp16_awq" GRANS=w_group64 SIZES=small \
        BITS=4.3 ENGINE=vllm export eval
    # AWQ has no norm to go to in o and down, GPTQ goes everywhere
    is "$(jq -r '.selection.recipe | to_entries[] | select(.value.candidate | startswith("wint4_afp16_awq")) | .key' "$E"/select/4.3/small/*_quant_manifest.json |
        grep -cE 'o_proj|down_proj')" 0
    [ "$(jq '[.selection.recipe[].candidate | select(test("_gptq|_awq"))] | length' "$E"/select/4.3/small/*_quant_manifest.json)" -gt 10 ]
    # the report has both candidates side by side: sums and the rank of the first line, calculated again
    local m md
    m=$(echo "$E"/select/4.3/small/*_quant_manifest.json) md=$E/select/4.3/small/per-layer-sensitivity.md
    jq '[.layer_sensitivity | to_entries[].value | (.candidates | index("wint4_afp16/w_group64")) as $p | (.candidates | index("wint4_afp16_gptq/w_group64")) as $s |
        {p: .scores[$p], s: .scores[$s]}] | (map(.p) | sort | reverse) as $ps | (map(.s) | sort | reverse) as $ss |
        {ratio: ((map(.s) | add) / (map(.p) | add)), better: (map(select(.s < .p)) | length), n: length,
         most: (map(.p as $x | .s as $y | ($ps | index($x)) - ($ss | index($y)) | fabs) | max)}' "$m" >"$o/both.json"
    sed -n '/^### wint4_afp16\/w_group64 and wint4_afp16_gptq\/w_group64/,/^### /p' "$md" >"$o/section"
    has "$(cat "$o/section")" "($(jq '.ratio * 100 | round / 100' "$o/both.json") times); lower in $(jq .better "$o/both.json") of $(jq .n "$o/both.json") groups"
    is "$(grep -m 1 -E '\|[+-][0-9]+\|$' "$o/section" | sed 's/.*|[+-]\([0-9]*\)|$/\1/')" "$(jq .most "$o/both.json")"
    is "$(grep -c '^### wint4' "$md")" 2
    # the page has it too, a row for every group; and both say that 16 captions are too few for the widest input
    local html=$E/select/4.3/small/report.html tokens warning
    sed -n '/<section id="calibrated"/,/<\/section>/p' "$html" >"$o/page"
    has "$(cat "$o/page")" "($(jq '.ratio * 100 | round / 100' "$o/both.json") times); lower in $(jq .better "$o/both.json") of $(jq .n "$o/both.json") groups"
    is "$(grep -c '^<tr><td' "$o/page")" $((2 * $(jq .n "$o/both.json")))
    has "$(cat "$html")" '<a href="#calibrated">'
    tokens=$(jq .tokens "$E/wint4_afp16/w_group64/small/scores.json") # all 16 are scored
    warning="Calibrated candidates were solved over $tokens tokens, fewer than 4 for each of the 384 columns of the widest input"
    has "$(cat "$md")" "**$warning"
    has "$(cat "$o/page")" "$warning"
    aq 0 aq-eval -q --device cpu --reference "$E/lm.json" --domain heldout="$E/demo_captions/heldout.safetensors" -o "$o/written.json" "$E/select/4.3/small/export-vllm"
    jq -se 'map(.all.kl.mean) | .[0] > 1e-5 and (.[0] - .[1] | fabs) < 2e-2 * .[0]' "$E/select/4.3/small/eval.json" "$o/written.json" >/dev/null ||
        { jq .all.kl.mean "$E/select/4.3/small/eval.json" "$o/written.json"; return 1; }
}
