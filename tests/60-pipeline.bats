#!/usr/bin/env bats
# The pipeline's rules: what runs again after each kind of change, and what never runs. The configuration tools are the
# real ones; the tools that compute are stand-ins that log their calls.
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
    for t in small medium large; do echo "a caption" >"$T/datasets/demo/captions_$t.txt"; done
    cd "$T"
    export AQ_BIN=bin AQ_STUB_LOG=$BATS_TEST_TMPDIR/log
    unset MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF
    P=tmp/model-experiments/qwen3_lm_sensitivity/qwen3_vl_demo
    : >"$AQ_STUB_LOG"
}

sweep() { make -s -f pipelines/qwen3.mk PAIRS="${PAIRS:-wfp8_afp8 wint8_aint8}" GRANS="${GRANS:-default}" SIZES="${SIZES:-small medium}" "$@"; }
calls() { grep -c "^$1" "$AQ_STUB_LOG" || true; }
forget() { : >"$AQ_STUB_LOG"; }

@test "first run: each thing once; second run: nothing" {
    aq 0 sweep -j2
    is "$(calls aq-extract-lm)" 1
    is "$(calls 'aq-calib tokens')" 1
    is "$(calls 'aq-calib ranges')" 0 # in one pass with the scores
    is "$(calls 'aq-score --lm')" 1
    is "$(grep -c -- "--measure $P/demo_captions/ranges.safetensors" "$AQ_STUB_LOG")" 1
    is "$(calls 'aq-score collect')" 1
    is "$(calls aq-select)" 4
    is "$(calls 'aq-report --all')" 4
    # the pages over all cells first, with the reports beside them
    is "$(grep '^aq-report' "$AQ_STUB_LOG" | sed -n 1,2p | cut -d' ' -f2 | sort | xargs)" 'explore summary'
    [ -e $P/wint8_aint8/default/medium/int8_autoquant_lm_default_quant_manifest.json ]
    [ -e $P/wfp8_afp8/default/small/composed-config.yaml ]
    forget
    aq 0 sweep
    is "$(cat "$AQ_STUB_LOG")" ""
    aq 0 sweep -q
}

@test "ranges and scores in one pass: where neither is there, by one job alone; ranges that are there are kept" {
    local d=$P/demo_captions
    AQ_STUB_AFTER=measure aq 2 sweep
    [ -e $d/ranges.safetensors ]
    [ ! -e $d/store-gradient.safetensors ]
    stat -c %Y.%y $d/ranges.safetensors >before
    forget
    aq 0 sweep
    is "$(calls 'aq-calib ranges')$(calls 'aq-score --lm')$(grep -c -- --measure "$AQ_STUB_LOG" || true)" 010
    stat -c %Y.%y $d/ranges.safetensors | cmp - before
    for f in ranges.safetensors store-gradient.safetensors; do
        rm $d/$f
        forget
        aq 0 sweep
        is "$(grep -c -- --measure "$AQ_STUB_LOG" || true)" 0
    done
    rm $d/*.safetensors
    forget
    aq 0 sweep SHARDS=2
    is "$(calls 'aq-calib ranges')$(grep -c -- --measure "$AQ_STUB_LOG" || true)" 10
    aq 0 sweep -q SHARDS=2
}

@test "adding a pair computes that pair; going back computes nothing" {
    aq 0 sweep
    forget
    PAIRS="wfp8_afp8 wint8_aint8 wint4_aint8" aq 0 sweep
    is "$(calls 'aq-score --lm')" 1
    is "$(calls aq-select)" 2
    is "$(calls aq-extract-lm)$(calls aq-calib)" 00
    grep -q '1 candidates computed' $P/demo_captions/store-gradient.safetensors.log
    forget
    aq 0 sweep
    is "$(calls aq-select)$(calls 'aq-report --all')$(calls 'aq-score --lm')" 000
}

@test "an edited overlay recomputes its own cells" {
    GRANS="default w_group128" aq 0 sweep
    forget
    sed -i 's/128/64/' conf/quant_granularity/w_group128.yaml
    GRANS="default w_group128" aq 0 sweep
    is "$(calls aq-select)" 4
    is "$(calls aq-extract-lm)$(calls aq-calib)" 00
    ! grep 'aq-select' "$AQ_STUB_LOG" | grep -q /default/
}

@test "a comment in a configuration file recomputes nothing" {
    aq 0 sweep
    forget
    echo '# a comment' >>conf/quant_pair/wfp8_afp8.yaml
    aq 0 sweep
    is "$(cat "$AQ_STUB_LOG")" ""
}

@test "another budget selects again and scores nothing" {
    aq 0 sweep
    forget
    aq 0 sweep OVERRIDES=autoquant.effective_bits=7.0
    is "$(calls aq-select)" 4
    is "$(calls 'aq-score --lm')" 0
}

@test "other overrides get an experiment of their own; their order does not matter" {
    aq 0 sweep OVERRIDES="autoquant.batch_size=4 autoquant.score_size=8" SIZES=small
    aq 0 sweep OVERRIDES="autoquant.score_size=8 autoquant.batch_size=4" SIZES=small
    is "$(ls tmp/model-experiments | wc -l)" 1
    [[ $(ls tmp/model-experiments) =~ ^qwen3_lm_sensitivity\+[0-9a-f]{8}$ ]]
}

@test "new captions, a new checkpoint, a new result version: what depends on them" {
    aq 0 sweep
    forget
    echo "another" >datasets/demo/captions_small.txt
    aq 0 sweep
    is "$(calls aq-extract-lm) $(calls 'aq-calib tokens') $(calls 'aq-calib ranges') $(calls 'aq-score --lm')" "0 1 1 1"
    forget
    echo other >models/qwen3_vl_demo/checkpoint/model.safetensors
    aq 0 sweep
    is "$(calls aq-extract-lm) $(calls 'aq-calib tokens') $(calls 'aq-calib ranges') $(calls 'aq-score --lm')" "1 0 1 1"
    forget
    touch "$REPO/tests/stubs/heavy" # a tool of another version is another file
    AQ_STUB_VERSION=aq-score:2 aq 0 sweep
    is "$(calls aq-extract-lm) $(calls aq-calib) $(calls 'aq-score --lm') $(calls 'aq-score collect')" "0 0 1 1"
    forget
    touch "$REPO/tests/stubs/heavy"
    AQ_STUB_VERSION=3 aq 0 sweep
    is "$(calls 'aq-score --lm') $(calls aq-select)" "1 4"
}

@test "a rebuilt binary alone remakes nothing" {
    aq 0 sweep
    forget
    touch "$REPO/tests/stubs/heavy"
    aq 0 sweep
    is "$(cat "$AQ_STUB_LOG")" ""
}

@test "deleted products come back, one by one" {
    aq 0 sweep
    local f
    for f in scores.json per-layer-sensitivity.md heatmap.svg run.json composed-config.yaml; do
        forget
        rm $P/wfp8_afp8/default/small/$f
        aq 0 sweep
        [ -e $P/wfp8_afp8/default/small/$f ] || { echo "$f did not come back"; return 1; }
        is "$(calls 'aq-score --lm')" 0
    done
    rm -r $P/wfp8_afp8
    aq 0 sweep
    [ -e $P/wfp8_afp8/default/small/report.html ]
}

@test "a plan of a tree that is not there composes it once, elsewhere, and leaves nothing" {
    rm bin/aq-resolve
    printf '#!/bin/sh\necho "aq-resolve $*" >>"$AQ_STUB_LOG"\nexec "%s" "$@"\n' "$BIN/aq-resolve" >bin/aq-resolve
    chmod +x bin/aq-resolve
    mkdir scratch
    TMPDIR=$PWD/scratch aq 0 sweep plan
    has "$output" "4 cells in $P"
    is "$(grep -c -- '--dir' "$AQ_STUB_LOG")" 1
    is "$(grep -c -- --result-version "$AQ_STUB_LOG" || true)" 0
    is "$(ls scratch)" ""
    [ ! -e tmp ]
    forget
    TMPDIR=$PWD/scratch aq 0 pipelines/aq plan PAIRS="wfp8_afp8 wint8_aint8" SIZES="small medium"
    has "$output" "4 cells in ${P/qwen3_/}"
    is "$(grep -c -- '--dir' "$AQ_STUB_LOG")" 1
    is "$(ls scratch)" ""
    [ ! -e tmp ]
}

@test "files that come and go between two makes are noticed, also after one that found all in place" {
    aq 0 sweep
    aq 0 sweep
    [ -e $P/.args/whole ]
    rm $P/wint8_aint8/default/medium/bars.svg
    aq 1 sweep -q
    aq 0 sweep
    [ -e $P/wint8_aint8/default/medium/bars.svg ]
    aq 0 sweep -q
    # of other cells nothing is known
    SIZES=large aq 1 sweep -q
    touch $P/wint8_aint8/default/medium/.aq-1.tmp
    aq 0 sweep
    [ ! -e $P/wint8_aint8/default/medium/.aq-1.tmp ]
}

@test "report-only makes reports again and never scores, also under -B" {
    aq 0 sweep
    cp $P/wfp8_afp8/default/small/per-layer-sensitivity.md before
    rm $P/*/*/*/per-layer-sensitivity.* $P/*/*/*/report.html
    rm -r models
    forget
    aq 0 sweep reports
    is "$(calls 'aq-report --all')" 4
    cmp before $P/wfp8_afp8/default/small/per-layer-sensitivity.md
    aq 0 sweep -B OVERRIDES=runner.report_only=true
    aq 0 sweep -B runner.report_only=true
    is "$(calls aq-score)$(calls aq-select)$(calls aq-calib)$(calls aq-extract-lm)" 0000
}

@test "report-only without a manifest says where it looked" {
    aq 2 sweep reports
    has "$stderr" "report-only was requested, but there is no manifest at: $P/wfp8_afp8/default/small/"
    [ ! -e tmp ]
}

@test "unsupported cells are listed and do not fail the sweep; STRICT=1 makes them fail" {
    PAIRS="wfp4_afp8 wfp8_afp8" GRANS="w_per_tensor" aq 0 sweep SIZES=small
    jq -e '.cells[] | select(.pair == "wfp4_afp8") | .supported == false and (.reason | length > 0)' $P/cells.json
    [ ! -e $P/wfp4_afp8/w_per_tensor/small/scores.json ]
    PAIRS="wfp4_afp8 wfp8_afp8" GRANS="w_per_tensor" aq 2 sweep SIZES=small STRICT=1
    has "$stderr" "wfp4_afp8/w_per_tensor/small"
}

@test "looking writes nothing: -n, -q, plan, help" {
    aq 0 sweep -n
    aq 1 sweep -q
    aq 0 make -s -f pipelines/qwen3.mk help
    has "$output" "PAIRS"
    is "$(cat "$AQ_STUB_LOG")" ""
    # the plan reads headers and captions, and scores nothing
    aq 0 sweep plan
    has "$output" "4 cells"
    has "$output" "a plan"
    is "$(grep -v -e ^aq-extract-lm -e '^aq-calib tokens' -e ' --dry-run ' "$AQ_STUB_LOG")" ""
    [ ! -e tmp ]
    aq 0 sweep
    forget
    cp -R tmp before
    aq 0 sweep -n
    aq 0 sweep plan
    diff -r --no-dereference tmp before
}

@test "wrong names are exit 2 with the choices, before anything runs" {
    PAIRS=wfp9 aq 2 sweep
    has "$stderr" "PAIRS: unknown 'wfp9': choose from:"
    has "$stderr" "wint8_aint8"
    GRANS=nope aq 2 sweep
    has "$stderr" "GRANS: unknown 'nope'"
    SIZES=huge aq 2 sweep
    has "$stderr" "SIZES: unknown 'huge': choose from: small medium large"
    aq 2 sweep PAIRS=
    has "$stderr" "PAIRS is empty"
    aq 2 sweep PAIRS="wfp8_afp8 wfp8_afp8"
    has "$stderr" "given twice"
    aq 2 sweep MODEL=nope
    has "$stderr" "choose from:"
    aq 2 sweep LAYOUT=elsewhere
    aq 2 sweep SHARDS=0
    aq 2 sweep OVERRIDES=quant_pair=wfp8_afp8
    has "$stderr" "use PAIRS"
    aq 2 sweep OVERRIDES=runner.output_dir=out
    has "$stderr" "use OUTPUT_DIR"
    aq 2 sweep OUTPUT_DIR=out
    has "$stderr" "one directory for 4 cells"
    aq 2 sweep autoquant.effective_bits=7 # nothing would read it
    has "$stderr" 'give OVERRIDES="autoquant.effective_bits=..."'
    aq 2 sweep +quant_pair.scheme_name=x
    has "$stderr" "'+quant_pair.scheme_name' is not a variable here"
    aq 2 sweep PAIR=wfp8_afp8
    has "$stderr" "did you mean PAIRS?"
    [ ! -e tmp ]
    is "$(cat "$AQ_STUB_LOG")" ""
}

@test "values are data: no shell runs them" {
    local evil
    for evil in ';touch canary' '$(shell touch canary)' '`touch canary`' '"; touch canary; "' "'; touch canary; '" \
        '#' '%' '../../etc' '${shell touch canary}' '$$(touch canary)' '| touch canary'; do
        for knob in PAIRS GRANS SIZES MODEL DATASET LAYOUT EXPERIMENT BITS DEVICE SHARDS OVERRIDES; do
            run make -s -f pipelines/qwen3.mk PAIRS=wfp8_afp8 SIZES=small "$knob=$evil" plan
            [ ! -e canary ] || { echo "$knob=$evil was run"; return 1; }
            run env "$knob=$evil" make -s -f pipelines/qwen3.mk help
            [ ! -e canary ] || { echo "env $knob=$evil was run"; return 1; }
        done
    done
}

@test "a failing cell under -k: the others finish, the rerun does that one" {
    AQ_STUB_FAIL=aq-select:wfp8_afp8/default/small aq 2 sweep -k
    has "$stderr" "told to fail"
    [ ! -e $P/wfp8_afp8/default/small/wfp8_afp8_autoquant_lm_quant_manifest.json ]
    [ -e $P/wint8_aint8/default/medium/report.html ]
    forget
    aq 0 sweep
    is "$(calls aq-select)" 1
}

@test "kill -9 of one tool under -j8 -k: the others finish, the rerun does that cell" {
    AQ_STUB_KILL=aq-select:wint8_aint8/default/medium aq 2 sweep -j8 -k
    [ ! -e $P/wint8_aint8/default/medium/int8_autoquant_lm_default_quant_manifest.json ]
    is "$(find tmp -name report.html | wc -l)" 3
    forget
    aq 0 sweep -j8
    is "$(calls aq-select) $(calls 'aq-report --all') $(calls 'aq-score --lm')" "1 1 0"
}

@test "a dead jobserver in MAKEFLAGS, and make's --shuffle where it is known" {
    MAKEFLAGS=' -j2 --jobserver-auth=98,99' aq 0 timeout 60 make -s -f pipelines/qwen3.mk PAIRS=wfp8_afp8
    MAKEFLAGS=' -j2 --jobserver-auth=fifo:/nonexistent' run timeout 60 make -s -f pipelines/qwen3.mk PAIRS=wfp8_afp8
    [ "$status" -ne 124 ]
    if make --help | grep -q shuffle; then aq 0 sweep --shuffle; fi
}

@test "a failing heavy job shows the end of its log and names it" {
    AQ_STUB_FAIL=aq-score:--lm aq 2 sweep
    has "$stderr" "aq-score: told to fail"
    has "$stderr" "store-gradient.safetensors.log"
    [ ! -e $P/demo_captions/store-gradient.safetensors ]
}

@test "two makes at once: one says that the tree is in use" {
    AQ_STUB_SLEEP=aq-score:2 sweep >first.log 2>&1 &
    local first=$!
    sleep 1
    aq 2 sweep
    has "$stderr" "is in use by another make"
    wait $first
    aq 0 sweep -q
}

@test "an interrupted sweep leaves no partial product and converges" {
    local i
    for i in 1 2 3 4 5; do
        AQ_STUB_SLEEP=aq-select:0.1 setsid make -s -f pipelines/qwen3.mk PAIRS="wfp8_afp8 wint8_aint8" SIZES="small medium" -j2 >/dev/null 2>&1 &
        local pid=$!
        sleep 0."$((i * 17 % 9 + 1))"
        kill -TERM -- -$pid 2>/dev/null || true
        wait $pid 2>/dev/null || true
        sleep 0.3
    done
    aq 0 sweep
    is "$(find tmp -name '*quant_manifest.json' | wc -l)" 4
    is "$(find tmp -name '*.tmp' | wc -l)" 0
}

@test "publish: the layout of the workflow, byte for byte the cell's products" {
    PAIRS="wint8_aint8 wfp8_afp16" aq 0 sweep SIZES=medium LAYOUT=publish
    local d=models/qwen3_vl_demo/layer-analysis
    [ -e $d/weight-int8-act-int8/default/qwen3_vl_demo_autoquant_int8_lm_medium/int8_autoquant_lm_default_quant_manifest.json ]
    d=$d/weight-fp8-act-fp16/default/qwen3_vl_demo_autoquant_wfp8_afp16_lm_medium
    is "$(cd $d && echo *)" "composed-config.yaml per-layer-sensitivity.json per-layer-sensitivity.md wfp8_afp16_autoquant_lm_autoquant_state.pt wfp8_afp16_autoquant_lm_quant_manifest.json"
    cmp $d/per-layer-sensitivity.md $P/wfp8_afp16/default/medium/per-layer-sensitivity.md
    forget
    PAIRS="wint8_aint8 wfp8_afp16" aq 0 sweep SIZES=medium LAYOUT=publish
    is "$(cat "$AQ_STUB_LOG")" ""
}

@test "names of the Hydra workflow work as variables" {
    aq 0 make -s -f pipelines/qwen3.mk quant_pair=wfp8_afp8,wint8_aint8 quant_granularity=default dataset.size=small,medium output_layout=tmp
    is "$(calls aq-select)" 4
    forget
    aq 0 sweep
    is "$(calls aq-select)" 0
    aq 0 make -s -f pipelines/qwen3.mk quant_pair=wfp8_afp8 dataset.size=small runner.output_dir=out/here
    [ -e out/here/wfp8_afp8_autoquant_lm_quant_manifest.json ]
}

@test "int8-phases: small, medium, large published; OUTPUT_MODE=tmp elsewhere" {
    aq 0 make -s -f pipelines/qwen3.mk int8-phases
    is "$(find models -name '*_quant_manifest.json' | wc -l)" 3
    aq 0 make -s -f pipelines/qwen3.mk int8-phases OUTPUT_MODE=tmp
    [ -e tmp/qwen3_vl_demo_autoquant_int8_lm_small/per-layer-sensitivity.md ]
    aq 2 make -s -f pipelines/qwen3.mk int8-phases OUTPUT_MODE=elsewhere
}

@test "select: one recipe a size over all cells" {
    aq 0 sweep
    run -0 sweep -n select BITS=5.4
    forget
    sweep select BITS=5.4 || true # the stand-in's manifest has no selection to print
    is "$(calls aq-select)" 2
    grep aq-select "$AQ_STUB_LOG" | head -1 | grep -q 'wfp8_afp8.*wint8_aint8'
}

@test "SHARDS=3: three jobs under LAUNCH, then a merge" {
    cat >launch <<'L'
#!/bin/bash
echo "launched $(basename "$1")" >>"$AQ_STUB_LOG"
exec "$@"
L
    chmod +x launch
    aq 0 sweep SHARDS=3 LAUNCH=./launch
    is "$(calls 'aq-score --lm')" 3
    is "$(calls 'aq-score merge')" 1
    is "$(calls 'launched aq-score')" 3
    grep -q -- '--shard 2/3' "$AQ_STUB_LOG"
}

@test "SHARDS=auto: a job for each GPU, one where there is none or DEVICE is cpu" {
    AQ_DEVICES="0 1" aq 0 sweep SHARDS=auto -j2
    is "$(calls 'aq-score --lm')$(calls 'aq-score merge')" 21
    grep -q -- '--shard 2/2' "$AQ_STUB_LOG"
    AQ_DEVICES="0 1" aq 0 sweep SHARDS=auto -q
    forget
    AQ_DEVICES="0 1" aq 0 sweep SHARDS=auto DEVICE=cpu TMP_ROOT=cpu
    AQ_DEVICES=" " aq 0 sweep SHARDS=auto TMP_ROOT=none
    is "$(calls 'aq-score --lm')$(calls 'aq-score merge')" 20
    run ! grep -q -- '--shard' "$AQ_STUB_LOG"
    is "$(AQ_DEVICES='2 3 5' pipelines/with-device --count)" 3
    mkdir -p none
    printf '#!/bin/sh\nexit 9\n' >none/nvidia-smi # as without a driver
    chmod +x none/nvidia-smi
    is "$(AQ_DEVICES='' PATH="$PWD/none:$PATH" pipelines/with-device --count)" 1
}

@test "a failed shard is redone alone" {
    AQ_STUB_FAIL="aq-score:--shard 2/3" aq 2 sweep SHARDS=3 -k
    forget
    aq 0 sweep SHARDS=3
    is "$(calls 'aq-score --lm')" 1
    is "$(calls 'aq-score merge')" 1
}

@test "-j8 -O, --trace, an odd SHELL and MAKEFLAGS work" {
    SHELL=/bin/sh aq 0 sweep -j8 -O
    is "$(calls aq-select)" 4
    aq 0 sweep --trace
    MAKEFLAGS=k aq 0 sweep
}

@test "a path with blanks is refused clearly" {
    mkdir "with blank"
    cp -R conf pipelines bin "with blank/"
    cd "with blank"
    aq 2 sweep
    has "$stderr" "contains blanks"
}

@test "clean-cell removes one cell, and the store brings it back" {
    aq 0 sweep
    aq 2 sweep clean-cell CELL=nope/x/y
    aq 0 sweep clean-cell CELL=wfp8_afp8/default/small
    [ ! -e $P/wfp8_afp8/default/small ]
    forget
    aq 0 sweep
    is "$(calls 'aq-score --lm') $(calls aq-select)" "0 1"
}

@test "missing checkpoint or captions: said before work starts" {
    rm -r models
    aq 2 sweep
    has "$stderr" "no checkpoint at 'models/qwen3_vl_demo/checkpoint'"
    has "$stderr" "model.path="
}

@test "captions that were moved, once the configuration says where" {
    SIZES=small aq 0 sweep
    mv datasets/demo datasets/moved
    SIZES=small aq 2 sweep
    has "$stderr" "no captions at 'datasets/demo/captions_small.txt'"
    sed -i 's#^root: .*#root: datasets/moved#' conf/dataset/demo_captions.yaml
    SIZES=small aq 0 sweep
}

@test "report-only renders whatever the time stamps say" {
    aq 0 sweep
    local f=$P/wfp8_afp8/default/small/per-layer-sensitivity.md
    cp $f good
    echo garbled >$f
    touch -d '+1 hour' $f
    aq 0 sweep reports
    cmp good $f
    is "$(find tmp -name '.aq-render*')" ""
}

@test "a sweep of unsupported cells only is a summary of reasons" {
    PAIRS=wfp4_afp8 GRANS=w_per_tensor aq 0 sweep SIZES=small
    [ -e $P/summary.md ]
    [ ! -e $P/demo_captions ]
}

@test "overrides that scoring does not read keep the experiment; equal values share one; overrides.txt lists them" {
    local o
    PAIRS=wfp8_afp8 aq 0 sweep SIZES=small
    forget
    for o in autoquant.effective_bits=7 autoquant.cost=modelopt47 autoquant.solver=threshold autoquant.monotone=true \
        autoquant.normalization=per_batch_mean "'autoquant.disabled_layers=[layers.0.*]'" autoquant.count_vision=true \
        ++quant_pair.scheme_name=mine output_layout.root_dir=x autoquant.cost_model=active; do
        PAIRS=wfp8_afp8 aq 0 sweep SIZES=small OVERRIDES="$o"
        is "$(cat $P/overrides.txt)" "${o//\'/}"
    done
    is "$(ls tmp/model-experiments)" qwen3_lm_sensitivity
    is "$(calls 'aq-score --lm')$(calls aq-calib)$(calls aq-extract-lm)" 000
    PAIRS=wfp8_afp8 aq 0 sweep SIZES=small OVERRIDES="autoquant.batch_size=4"
    PAIRS=wfp8_afp8 aq 0 sweep SIZES=small OVERRIDES="autoquant.batch_size=4 autoquant.effective_bits=6"
    PAIRS=wfp8_afp8 aq 0 sweep SIZES=small OVERRIDES="autoquant.batch_size=8"
    is "$(ls tmp/model-experiments | wc -l)" 2
    is "$(calls 'aq-score --lm')" 1
}

@test "a sweep of the small size needs the small captions alone, and a larger one later makes the ranges once more" {
    rm datasets/demo/captions_large.txt datasets/demo/captions_medium.txt
    aq 0 sweep SIZES=small
    grep -e --measure "$AQ_STUB_LOG" | grep -q -- '--prefix 16 '
    echo "a caption" >datasets/demo/captions_medium.txt
    aq 0 sweep SIZES="small medium"
    grep 'aq-calib ranges' "$AQ_STUB_LOG" | grep -q -- '--prefix 16,128 '
    forget
    aq 0 sweep SIZES=small
    is "$(calls aq-calib)" 0
    aq 2 sweep SIZES=large
    has "$stderr" "no captions at 'datasets/demo/captions_large.txt'"
}
