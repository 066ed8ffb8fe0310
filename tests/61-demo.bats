#!/usr/bin/env bats
# The pipeline for real, on the embedded model: every shipped pair x granularity x size in one go, and what a second
# look at it may cost. A sanitizer build takes a smaller grid.
load helpers

setup_file() {
    export T=$BATS_FILE_TMPDIR/tree P=tmp/model-experiments/qwen3_lm_sensitivity/qwen3_vl_demo
    export P2=plain/${P#tmp/}
    mkdir -p "$T/models/qwen3_vl_demo"
    cp -R "$REPO/conf" "$REPO/pipelines" "$T/"
    cp -R "$REPO/models/qwen3_vl_demo/checkpoint" "$T/models/qwen3_vl_demo/"
    mkdir "$T/datasets"
    cp -R "$REPO/datasets/demo" "$T/datasets/"
    export AQ_BIN=$BIN PAIRS='' GRANS=all SIZES=all
    unset PAIRS MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF
    if sanitized; then export PAIRS="wfp8_afp8 wint4_aint8 wfp4_afp8" GRANS="default w_per_tensor w_group64" SIZES="small medium"; fi
    cd "$T"
    make -s -f pipelines/qwen3.mk -j2 >sweep.log 2>&1 || { cat sweep.log; return 1; }
}

setup() { cd "$T"; }

sweep() { make -s -f pipelines/qwen3.mk "$@"; }
computed() { sed -n 's/.*: \([0-9]*\) candidates computed.*/\1/p' "$P/demo_captions/store-gradient.safetensors.log"; }
cells() { jq -r ".cells[] | select($1) | .dir" "$P/cells.json"; }

@test "every cell: manifest, state and all reports, or a verdict with its reason" {
    local supported unsupported dir f
    supported=$(cells .supported | wc -l)
    unsupported=$(cells '.supported | not' | wc -l)
    if ! sanitized; then
        # 21 pairs x 12 granularities, 49 of them unsupported, at three sizes
        is "$supported $unsupported" "609 147"
    fi
    is "$(find tmp -name '*_quant_manifest.json' | wc -l)" "$supported"
    is "$(find tmp -name '*_autoquant_state.pt' | wc -l)" "$supported"
    for f in per-layer-sensitivity.md per-layer-sensitivity.json per-layer-sensitivity.tsv report.html heatmap.svg \
        bars.svg frontier.svg depth.svg strip.svg composed-config.yaml scores.json; do
        while read -r dir; do
            [ -s "$dir/$f" ] || { echo "$dir/$f is missing"; return 1; }
        done < <(cells .supported)
    done
    # the summary leads to every report, and to the page of all
    is "$(grep -oE 'href="[^"#]*/report.html"' "$P/summary.html" | sort -u | wc -l)" "$supported"
    for f in $(grep -oE 'href="[^"#]+' "$P/summary.html" | cut -c7- | sort -u); do [ -s "$P/$f" ] || { echo "$f is missing"; return 1; }; done
    is "$(jq '[.cells[] | select((.supported | not) and (.reason | length) < 20)] | length' "$P/cells.json")" 0
    while read -r dir; do
        grep -qF "$(basename "$(dirname "$dir")")" "$P/summary.md"
        [ ! -e "$dir/scores.json" ]
    done < <(cells '.supported | not')
}

@test "cells of one computation share one row: as many rows as distinct treatments" {
    is "$(computed)" "$(jq -s 'map(select(.supported) | .treatment_id) | unique | length' $P/*/*/quant.json)"
}

@test "a second make does nothing; new time stamps on every input compute no candidate" {
    aq 0 sweep -q
    cp -R $P/wfp8_afp8/default/small/scores.json before.json
    find conf models datasets pipelines -exec touch {} +
    aq 0 sweep
    is "$(computed)" 0
    cmp before.json $P/wfp8_afp8/default/small/scores.json
    aq 0 sweep -q
}

@test "reports come back byte for byte after deleting them, with everything upstream gone" {
    local files=(per-layer-sensitivity.md per-layer-sensitivity.json per-layer-sensitivity.tsv report.html heatmap.svg
        bars.svg frontier.svg depth.svg strip.svg)
    rm -rf copy kept && cp -R tmp copy
    local names=() f
    for f in "${files[@]}"; do names+=(-o -name "$f"); done
    # one cell in twelve: the others are to stay untouched
    find tmp -path '*/default/*' \( -false "${names[@]}" \) -delete
    mkdir kept && mv models datasets kept/
    run sweep reports -j2
    mv kept/* .
    is "$status" 0
    diff -r copy tmp
    touch $P/*/*/*/*_quant_manifest.json
    AQ_BIN=$T/bin
    mkdir -p bin
    ln -sf "$BIN"/aq-{resolve,overlay,report} bin/
    for f in aq-extract-lm aq-calib aq-score aq-select; do printf '#!/bin/sh\necho "$0 was started" >&2; exit 1\n' >"bin/$f"; done
    chmod +x bin/*
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 0 sweep -B reports
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 0 sweep -B runner.report_only=true
    diff -r copy tmp
}

@test "another pair computes its own rows only; back again computes none" {
    sed 's/num_bits: 8/num_bits: 6/' conf/format/INT8_WEIGHT_FP8_ACT_CFG.yaml >conf/format/INT6_WEIGHT_FP8_ACT_CFG.yaml
    printf '%s\n' 'name: wint6_afp8' 'weight: int6' 'activation: fp8' 'format_name: INT6_WEIGHT_FP8_ACT_CFG' \
        'experimental: true' >conf/quant_pair/wint6_afp8.yaml
    PAIRS="wfp8_afp8 wint6_afp8" GRANS=default SIZES=small aq 0 sweep
    is "$(computed)" 1
    [ -s $P/wint6_afp8/default/small/report.html ]
    rm conf/format/INT6_WEIGHT_FP8_ACT_CFG.yaml conf/quant_pair/wint6_afp8.yaml
    cp $P/demo_captions/store-gradient.safetensors store
    PAIRS="wfp8_afp8" GRANS=default SIZES=small aq 0 sweep
    cmp store $P/demo_captions/store-gradient.safetensors
}

# same ROOT DIR...: these cells have the same scores and report under $P2 as under ROOT
same() {
    local root=$1 d
    shift
    [ -d plain ] || two plain >/dev/null 2>&1
    for d; do
        cmp "$P2/$d/scores.json" "$root/${P#tmp/}/$d/scores.json" || return 1
        cmp "$P2/$d/report.html" "$root/${P#tmp/}/$d/report.html" || return 1
    done
}

# two NAME VAR=VALUE...: two pairs by themselves, under a root of their own
two() {
    local root=$1
    shift
    PAIRS="wfp8_afp8 wint4_aint8" GRANS=default SIZES=small make -s -f pipelines/qwen3.mk TMP_ROOT="$root" "$@"
}

@test "SHARDS=3 gives the bytes of one job, for scores and reports" {
    aq 0 two plain
    aq 0 two sharded SHARDS=3 -j2
    same sharded wfp8_afp8/default/small wint4_aint8/default/small
}

@test "select: a recipe over all cells within the budget, nothing scored" {
    PAIRS="wfp8_afp8 wint4_aint8" GRANS=default SIZES=small aq 0 sweep select BITS=5.4
    local m=$P/select/5.4/small/mixed_autoquant_lm_quant_manifest.json
    jq -e '.selection.effective_bits <= 5.4' "$m"
    has "$output" "5.4/small"
}

@test "publish: pair, granularity and run directories of the workflow" {
    PAIRS="wint8_aint8 wfp8_afp16" GRANS="default" SIZES=medium aq 0 sweep LAYOUT=publish
    local d=models/qwen3_vl_demo/layer-analysis
    is "$(cd $d && find . -type f | LC_ALL=C sort)" "$(
        cat <<'L'
./weight-fp8-act-fp16/default/qwen3_vl_demo_autoquant_wfp8_afp16_lm_medium/composed-config.yaml
./weight-fp8-act-fp16/default/qwen3_vl_demo_autoquant_wfp8_afp16_lm_medium/per-layer-sensitivity.json
./weight-fp8-act-fp16/default/qwen3_vl_demo_autoquant_wfp8_afp16_lm_medium/per-layer-sensitivity.md
./weight-fp8-act-fp16/default/qwen3_vl_demo_autoquant_wfp8_afp16_lm_medium/wfp8_afp16_autoquant_lm_autoquant_state.pt
./weight-fp8-act-fp16/default/qwen3_vl_demo_autoquant_wfp8_afp16_lm_medium/wfp8_afp16_autoquant_lm_quant_manifest.json
./weight-int8-act-int8/default/qwen3_vl_demo_autoquant_int8_lm_medium/composed-config.yaml
./weight-int8-act-int8/default/qwen3_vl_demo_autoquant_int8_lm_medium/int8_autoquant_lm_default_autoquant_state.pt
./weight-int8-act-int8/default/qwen3_vl_demo_autoquant_int8_lm_medium/int8_autoquant_lm_default_quant_manifest.json
./weight-int8-act-int8/default/qwen3_vl_demo_autoquant_int8_lm_medium/per-layer-sensitivity.json
./weight-int8-act-int8/default/qwen3_vl_demo_autoquant_int8_lm_medium/per-layer-sensitivity.md
L
    )"
    cmp $d/weight-fp8-act-fp16/default/*/per-layer-sensitivity.json $P/wfp8_afp16/default/medium/per-layer-sensitivity.json
}

@test "the published set: its reports follow from its manifests, its scores are today's" {
    local from=$REPO/models/qwen3_vl_demo/layer-analysis d=models/qwen3_vl_demo/layer-analysis m f
    rm -rf $d && cp -R "$from" $d
    find $d -name 'per-layer-sensitivity.*' -delete
    PAIRS=wint8_aint8 GRANS=default SIZES="small medium large" aq 0 sweep reports LAYOUT=publish
    PAIRS="wint4_aint8 wint4_afp16 wfp8_afp16" GRANS=default SIZES=large aq 0 sweep reports LAYOUT=publish
    diff -r "$from" $d
    # sums in the order of another BLAS kernel put a few inputs on other codes, which moves a layer by up to 1.3e-3
    # (docs/performance.md): 1 % is well above that and far below what another format does
    m=$P/wint8_aint8/default/small/int8_autoquant_lm_default_quant_manifest.json
    PAIRS=wint8_aint8 GRANS=default SIZES=small aq 0 sweep
    f=$(find "$from" -path '*_int8_lm_small/*_quant_manifest.json')
    jq -e -n --slurpfile a "$m" --slurpfile b "$f" '[$a[0], $b[0] | .layer_sensitivity | with_entries(.value |= .scores)]
        | .[0] as $x | .[1] as $y | ($x | keys) == ($y | keys) and ([$x | keys[] as $k | range($x[$k] | length) as $i
            | ($x[$k][$i] - $y[$k][$i] | fabs) <= 0.01 * $y[$k][$i]] | all and length >= 28)'
}

@test "kill -9 of a whole make, again and again: the same products as an undisturbed run" {
    local i pid
    for i in 1 2 3 4 5 6; do
        two killed >/dev/null 2>&1 &
        pid=$!
        sleep 0."$((i * 31 % 9 + 1))"
        pkill -KILL -g "$pid" 2>/dev/null || true
        wait $pid 2>/dev/null || true
    done
    aq 0 two killed
    same killed wfp8_afp8/default/small wint4_aint8/default/small
}

@test "a moved tree does nothing again; a read-only one writes its products elsewhere" {
    local store=$P/demo_captions/store-gradient.safetensors ended same
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 0 sweep
    cp -p "$store" before.st
    mv "$T" "$T-moved"
    cd "$T-moved"
    PAIRS=wfp8_afp8 GRANS=default SIZES=small run sweep
    ended=$status
    same=$(cmp before.st "$store" && [ ! "$store" -nt before.st ] && echo untouched)
    cd ..
    mv "$T-moved" "$T"
    is "$ended $same" "0 untouched"
    cd "$T"
    need_other_user
    mkdir elsewhere
    chmod 777 elsewhere
    chmod -R go+rX "$BATS_RUN_TMPDIR" 2>/dev/null || true
    setpriv --reuid 65534 --clear-groups test -r "$T/conf/quant_pair/wfp8_afp8.yaml" || skip "the tree is out of reach of another user"
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 0 setpriv --reuid 65534 --clear-groups \
        make -s -f pipelines/qwen3.mk TMP_ROOT="$T/elsewhere"
}

@test "products older than their inputs by a wrong clock: made once, then quiet" {
    touch -d '+1 day' conf/quant_pair/wfp8_afp8.yaml datasets/demo/captions_small.txt
    PAIRS=wfp8_afp8 GRANS=default SIZES=small run sweep
    is "$status" 0
    is "$(computed)" 0
    touch conf/quant_pair/wfp8_afp8.yaml datasets/demo/captions_small.txt
}

@test "a full disk in the middle of a sweep: what is finished stays, and the rest follows" {
    need_root
    mkdir -p small
    mount -t tmpfs -o size=1m tmpfs small 2>/dev/null || skip "no tmpfs can be mounted here"
    run two small
    local first=$status
    mount -o remount,size=64m small
    run two small
    local second=$status alike=0
    same small wfp8_afp8/default/small || alike=1
    umount small
    is "$([ "$first" -ne 0 ] && echo failed) $second $alike" "failed 0 0"
}

@test "a truncated product is refused with its name, and comes back when it is removed" {
    local f=$P/wfp8_afp8/default/small/scores.json
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 0 sweep
    cp "$f" whole.json
    : >"$f"
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 2 sweep
    has "$stderr" "$f"
    rm "$f"
    PAIRS=wfp8_afp8 GRANS=default SIZES=small aq 0 sweep
    cmp whole.json "$f"
}
