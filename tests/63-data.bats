#!/usr/bin/env bats
# Nothing in the data is code: each way a value can get into a pipeline is tried with texts that a shell or make would run. A
# canary is a file that must not appear. The tools that compute are stand-ins.
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
    for t in small medium large; do echo "a caption" >"$T/datasets/demo/captions_$t.txt"; done
    cd "$T"
    export AQ_BIN=bin AQ_STUB_LOG=$BATS_TEST_TMPDIR/log
    unset AQ_CONF
    P=tmp/model-experiments/lm_sensitivity/qwen3_vl_demo
    : >"$AQ_STUB_LOG"
    # every separator, quote and expansion of a shell and of make; a canary without a slash, so that file names can hold it
    EVIL=('$(shell touch canary)' '$(shell touch${IFS}canary)' '`touch canary`' '$(touch canary)' ';touch canary;' '|touch canary'
        '&touch canary&' $'\ntouch canary\n' "';touch canary;'" '";touch canary;"' '#' '%' 'a b' '-rf' '--eval=$(shell touch canary)'
        '${shell touch canary}' "\\';touch canary;'" $'x\n\ttouch canary' '$(eval $(shell touch canary))' '$$(touch canary)' '*' '~' ':=')
}

sweep() { timeout 60 make -s -f pipelines/sweep.mk PAIRS=wfp8_afp8 SIZES=small "$@"; }

# alive WHAT: no canary, neither here nor where a tool may have gone
alive() {
    local found
    found=$(find "$BATS_TEST_TMPDIR" / -maxdepth 1 -name 'canary*' 2>/dev/null; find "$T" -name canary 2>/dev/null)
    [ -z "$found" ] || { echo "run by $1: $found"; return 1; }
}

@test "every variable, on the command line and in the environment, under every way of looking and doing" {
    local evil knob
    local n=0
    # every variable with a seventh of the texts, in turn: a variable that is run by one is run by most
    for evil in "${EVIL[@]}"; do
        for knob in PAIRS GRANS SIZES MODEL DATASET LAYOUT EXPERIMENT BITS DEVICE SHARDS OVERRIDES OUTPUT_DIR STRICT CELL OUTPUT_MODE MENU \
            ENGINE MEMORY THREADS STOP TMP_ROOT AQ_CONF AQ_BIN V quant_pair quant_granularity dataset.size output_layout runner.report_only \
            runner.output_dir; do
            [ $((n++ % 7)) -eq 0 ] || continue
            run sweep "$knob=$evil" plan
            alive "plan $knob=$evil" || return 1
        done
    done
    for evil in '$(shell touch canary)' '`touch canary`' ';touch canary;' "';touch canary;'" $'\ntouch canary\n'; do
        for knob in PAIRS GRANS SIZES MODEL DATASET LAYOUT EXPERIMENT BITS DEVICE SHARDS OVERRIDES OUTPUT_DIR CELL OUTPUT_MODE MENU TMP_ROOT \
            AQ_CONF AQ_BIN V AQ_LOCKED LOOKING METHOD P face front settings AQ_OVERRIDES STALE COPIES; do
            run env "$knob=$evil" timeout 60 make -s -f pipelines/sweep.mk plan
            alive "env $knob=$evil" || return 1
        done
    done
}

@test "values that hold on to a real run: sweep, select, publish, reports, clean-cell, -n, -q" {
    local evil goal
    for evil in '$(shell touch canary)' '`touch canary`' ';touch canary;' "';touch canary;'"; do
        for goal in sweep select publish reports clean-cell int8-phases "-n sweep" "-q sweep"; do
            # shellcheck disable=SC2086
            run sweep "OUTPUT_DIR=\"out$evil\"" $goal
            alive "OUTPUT_DIR=$evil $goal" || return 1
            # shellcheck disable=SC2086
            run sweep "OVERRIDES=\"++quant_pair.scheme_name='$evil'\"" $goal
            alive "scheme_name=$evil $goal" || return 1
            # shellcheck disable=SC2086
            run sweep "CELL=$evil" $goal
            alive "CELL=$evil $goal" || return 1
            # shellcheck disable=SC2086
            run sweep "OUTPUT_MODE=$evil" "MODEL=$evil" $goal
            alive "OUTPUT_MODE, MODEL=$evil $goal" || return 1
        done
        rm -rf tmp out*
    done
}

@test "goals are words, too" {
    local evil
    for evil in "${EVIL[@]}"; do
        [[ $evil != *=* ]] || continue
        run sweep "$evil"
        alive "goal $evil" || return 1
    done
}

@test "an output directory with odd characters is made, not run" {
    # shellcheck disable=SC2016
    local d='out $(shell touch canary);`touch canary`&|%#'
    # shellcheck disable=SC2089,SC2090
    aq 0 sweep "OUTPUT_DIR='$d'"
    alive "OUTPUT_DIR"
    [ -e "$d/wfp8_afp8_autoquant_lm_quant_manifest.json" ]
    [ "$(readlink -f $P/wfp8_afp8/default/small/.published)" = "$PWD/$d/wfp8_afp8_autoquant_lm_quant_manifest.json" ]
    is "$(cat $P/overrides.txt)" "runner.output_dir='$d'"
    rm "$d/wfp8_afp8_autoquant_lm_quant_manifest.json"
    aq 0 sweep "OUTPUT_DIR='$d'"
    [ -e "$d/wfp8_afp8_autoquant_lm_quant_manifest.json" ]
}

@test "hostile values of configuration files" {
    local evil key
    for evil in '$(shell touch canary)' '`touch canary`' ';touch canary;' "';touch canary;'" '$(touch canary)'; do
        for key in scheme_name publish_pair_dir publish_run_dir name weight format_name; do
            cp "$REPO/conf/quant_pair/wfp8_afp8.yaml" conf/quant_pair/
            sed -i "/^$key:/d" conf/quant_pair/wfp8_afp8.yaml
            printf '%s: "%s"\n' "$key" "$evil" >>conf/quant_pair/wfp8_afp8.yaml
            run sweep LAYOUT=publish
            alive "quant_pair.$key: $evil" || return 1
            run sweep plan LAYOUT=publish
            alive "plan quant_pair.$key: $evil" || return 1
        done
        cp "$REPO/conf/quant_pair/wfp8_afp8.yaml" conf/quant_pair/
        for key in captions_path root size_to_max_samples padding; do
            cp "$REPO/conf/dataset/demo_captions.yaml" conf/dataset/
            sed -i "/^$key:/d" conf/dataset/demo_captions.yaml
            printf '%s: "%s"\n' "$key" "$evil" >>conf/dataset/demo_captions.yaml
            echo "a caption" >"${evil//\//_}" 2>/dev/null || true
            run sweep
            alive "dataset.$key: $evil" || return 1
        done
        cp "$REPO/conf/dataset/demo_captions.yaml" conf/dataset/
        for key in path dtype name; do
            sed "/^$key:/d" "$REPO/conf/model/qwen3_vl_demo/arch/qwen3_vl_demo.default.yaml" >conf/model/qwen3_vl_demo/arch/qwen3_vl_demo.default.yaml
            printf '%s: "%s"\n' "$key" "$evil" >>conf/model/qwen3_vl_demo/arch/qwen3_vl_demo.default.yaml
            run sweep
            alive "model.$key: $evil" || return 1
        done
        cp "$REPO/conf/model/qwen3_vl_demo/arch/qwen3_vl_demo.default.yaml" conf/model/qwen3_vl_demo/arch/
    done
}

@test "a hostile file name among the options is refused by its name" {
    local evil
    for evil in 'a$(shell touch canary).yaml' 'b`touch canary`.yaml' 'c;touch canary;.yaml' '-rf.yaml' 'd e.yaml' $'f\ng.yaml'; do
        cp conf/quant_pair/wfp8_afp8.yaml "conf/quant_pair/$evil"
        aq 2 timeout 60 make -s -f pipelines/sweep.mk plan
        has "$stderr" "is not named with letters, digits, _ . + -"
        alive "conf/quant_pair/$evil"
        rm -f "conf/quant_pair/$evil"
    done
}

@test "checkpoints and captions of any name are read, through links" {
    local d
    # names that were run by the recipes once
    for d in 'y`{touch,canary}`' 'y&{touch,canary}&' 'x;{touch,canary};:' 'a b' '$(shell touch canary)' '-rf' 'q(1)[2]:3'; do
        rm -rf tmp
        cp -R models/qwen3_vl_demo/checkpoint "./$d"
        cp datasets/demo/captions_small.txt "./$d/captions.txt"
        printf 'name: odd\nroot: null\nsize: small\ncaptions_path: "%s/captions.txt"\nsize_to_max_samples: {small: 16}\nmax_calib_samples: null\ncalib_seq_len: 512\npadding: none\n' "./$d" >conf/dataset/odd.yaml
        { grep -v '^path:' "$REPO/conf/model/qwen3_vl_demo/arch/qwen3_vl_demo.default.yaml" && printf 'path: "./%s"\n' "$d"; } \
            >conf/model/qwen3_vl_demo/arch/qwen3_vl_demo.default.yaml
        aq 0 sweep DATASET=odd
        alive "model.path: $d"
        cmp "$P/in/captions-small" "./$d/captions.txt"
        [ "$P/in/checkpoint/config.json" -ef "./$d/config.json" ]
        aq 0 sweep DATASET=odd -q
        aq 0 sweep DATASET=odd -n
        alive "model.path: $d"
        ! grep -qF "canary" "$AQ_STUB_LOG"
    done
}

@test "names of files in a checkpoint are never a rule's: refused, or not looked at" {
    local evil
    # A rule's prerequisites end at ; where its recipe begins: with a file of the name before it, the rest was run.
    touch models/qwen3_vl_demo/checkpoint/x
    for evil in 'x;touch canary;' 'x;touch canary;#' 'x:' 'x=y' 'x|y' 'x%' 'a b' $'x\n\ttouch canary' '$(shell touch canary)' '`touch canary`'; do
        cp models/qwen3_vl_demo/checkpoint/model.safetensors "models/qwen3_vl_demo/checkpoint/$evil.safetensors"
        aq 2 sweep
        alive "checkpoint with $evil.safetensors"
        has "$stderr" "a file of the checkpoint has a name with other letters than"
        aq 2 sweep plan
        alive "plan, checkpoint with $evil.safetensors"
        rm -f "models/qwen3_vl_demo/checkpoint/$evil.safetensors"
    done
    # what is no part of a checkpoint may have any name
    touch "models/qwen3_vl_demo/checkpoint/x;touch canary;.txt"
    aq 0 sweep
    alive "checkpoint with a text"
}

@test "prose.mk and coco.mk: paths of plain letters" {
    local evil
    mkdir pipe
    touch pipe/x
    for evil in "${EVIL[@]}" 'x;>canary;'; do
        cp "$BATS_TEST_FILENAME" "pipe/${evil//\//_}.deb"
        run timeout 60 make -s -f pipelines/prose.mk "DEB=pipe/${evil//\//_}.deb" OUT=out
        [ "$status" -ne 0 ]
        alive "DEB=$evil"
        run timeout 60 make -s -f pipelines/prose.mk DEB=pipe/x "OUT=out$evil"
        alive "prose OUT=$evil"
        run timeout 60 make -s -f pipelines/coco.mk "COCO=pipe/${evil//\//_}.deb" "OUT=out$evil"
        alive "coco $evil"
    done
}

@test "clean-cell removes a cell of the sweep and nothing else" {
    aq 0 sweep
    mkdir kept
    local evil
    for evil in '% kept' '%' 'wfp8_afp8/default/%' '% ;touch canary' '../../../../kept' 'wfp8_afp8/default/small kept' '/' '.' '-rf'; do
        aq 2 sweep clean-cell CELL="$evil"
        alive "CELL=$evil"
        [ -d kept ] && [ -e $P/wfp8_afp8/default/small/run.json ]
    done
    # a cell of another sweep
    mkdir -p $P/wint8_aint8/default/small
    aq 2 sweep clean-cell CELL=wint8_aint8/default/small
    [ -d $P/wint8_aint8/default/small ]
    aq 0 sweep clean-cell CELL=wfp8_afp8/default/small
    [ ! -e $P/wfp8_afp8/default/small ]
}

@test "the locks of with-device are in a directory of this user, and no link is followed" {
    need_command setpriv
    local dir
    dir=$BATS_TEST_TMPDIR/run
    mkdir "$dir"
    echo precious >victim
    mkdir "$dir/aq-devices-$(id -u)"
    ln -s "$PWD/victim" "$dir/aq-devices-$(id -u)/0.lock"
    # a link in a directory of ours can only be ours: it is opened, and nothing is cut
    XDG_RUNTIME_DIR=$dir AQ_DEVICES=0 aq 0 pipelines/with-device true
    is "$(cat victim)" precious
    rm -r "$dir/aq-devices-$(id -u)"
    ln -s "$PWD" "$dir/aq-devices-$(id -u)"
    XDG_RUNTIME_DIR=$dir AQ_DEVICES=0 aq 1 pipelines/with-device true
    has "$stderr" "is not a directory of this user"
    [ ! -e 0.lock ]
    AQ_DEVICES='$(touch canary) `touch canary`;touch canary *' XDG_RUNTIME_DIR=$BATS_TEST_TMPDIR aq 0 pipelines/with-device true
    alive AQ_DEVICES
}

@test "the tools of this tree, or of its installation, never those of the working directory" {
    mkdir -p elsewhere/build/bin
    printf '#!/bin/sh\ntouch canary\n' >elsewhere/build/bin/aq-score
    chmod +x elsewhere/build/bin/aq-score
    cp elsewhere/build/bin/aq-score elsewhere/build/bin/aq-resolve
    cd elsewhere
    unset AQ_BIN
    PATH=/usr/bin:/bin run make -s -f ../pipelines/sweep.mk PAIRS=wfp8_afp8 SIZES=small
    [ "$status" -ne 0 ]
    [ ! -e canary ]
}

@test "make -e and unknown variables are refused" {
    aq 2 sweep -e
    has "$stderr" "make -e"
    local word
    for word in METHOD=kl_div PRESET=demo STORE=x P=/tmp MENUS=x SCORES=x "face=demo"; do
        aq 2 sweep "$word"
        has "$stderr" "'${word%%=*}' is not a variable here"
    done
    [ ! -e tmp ]
}

@test "what is refused is one line" {
    aq 2 sweep OVERRIDES="model.path=/tmp/x(y"
    is "$(wc -l <<<"$stderr")" 1
    aq 2 sweep OVERRIDES=$'model.dtype=bf16\nmodel.path=/tmp/[x'
    is "$(wc -l <<<"$stderr")" 1
    # the make under the lock adds a line that its parent says of it
    aq 2 sweep OVERRIDES="model.path=-x"
    is "$(wc -l <<<"$stderr")" 2
    has "$stderr" "no checkpoint at '-x' (model.path)"
    aq 2 sweep DATASET=vlm_coco2017_captions
    has "$stderr" "no captions at 'datasets/vlm-quantize-calib/coco2017_captions_small.txt'"
    is "$(wc -l <<<"$stderr")" 2
}
