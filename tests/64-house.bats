#!/usr/bin/env bats
# The pipelines where they did not expect to be started: other locales, killed makes before them.
load helpers

setup() {
    T=$BATS_TEST_TMPDIR/tree
    mkdir -p "$T/models/qwen3_vl_demo" "$T/datasets"
    cp -R "$REPO/conf" "$REPO/pipelines" "$T/"
    cp -R "$REPO/models/qwen3_vl_demo/checkpoint" "$T/models/qwen3_vl_demo/"
    cp -R "$REPO/datasets/demo" "$T/datasets/"
    cd "$T"
    export AQ_BIN=$BIN
    unset AQ_CONF
    P=model-experiments/lm_sensitivity/qwen3_vl_demo
}

demo() { make -s -f pipelines/sweep.mk PAIRS="wfp8_afp8 wint4_aint8" SIZES=small TMP_ROOT="$1" sweep select BITS=6; }

@test "the same bytes in de_DE and tr_TR, made for this test" {
    need_command localedef
    local l locales=$BATS_TEST_TMPDIR/locales
    mkdir "$locales"
    for l in de_DE tr_TR; do
        localedef -c -i "$l" -f UTF-8 "$locales/$l.UTF-8" 2>/dev/null || [ -d "$locales/$l.UTF-8" ] || skip "localedef has no source of $l"
        is "$(LOCPATH=$locales LC_ALL=$l.UTF-8 locale decimal_point)" ,
    done
    # the tests' own, which the shells of the pipelines would inherit with their language
    unset -f awk grep od sed sort
    # products name their directory, so all have the same one
    LC_ALL=C aq 0 demo t
    mv t c
    for l in de_DE tr_TR; do
        aq 0 env LOCPATH="$locales" LC_ALL=$l.UTF-8 LANG=$l.UTF-8 LANGUAGE=$l make -s -f pipelines/sweep.mk \
            PAIRS="wfp8_afp8 wint4_aint8" SIZES=small TMP_ROOT=t sweep select BITS=6
        diff -r -x '*.log' -x .lock c t
        rm -r t
    done
    # the ranking that make demo prints
    LC_ALL=C aq 0 make -s -f pipelines/demo.mk
    local first=${output##*the five layers}
    aq 0 env LOCPATH="$locales" LC_ALL=de_DE.UTF-8 make -s -f pipelines/demo.mk
    is "${output##*the five layers}" "$first"
    has "$first" "layers.3.mlp.down_proj"
}

@test "what killed runs left is removed by the next run" {
    aq 0 demo t
    touch "t/$P/.aq-123.tmp" "t/$P/wfp8_afp8/default/small/.aq-x.tmp" "t/$P/overrides.txt.new"
    aq 0 demo t
    is "$(find t -name '.aq-*' -o -name '*.new')" ""
    aq 0 make -q -s -f pipelines/sweep.mk PAIRS="wfp8_afp8 wint4_aint8" SIZES=small TMP_ROOT=t
}
