# What a person sees on a terminal while long steps run.
load helpers
slow=(SIZES=large PAIRS=wint8_aint8 GRANS=default THREADS=1 "OVERRIDES=autoquant.method=kl_div autoquant.score_size=64")

setup_file() {
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf AQ_BIN=$BIN
    cd "$T" || return
    ln -s "$REPO"/{models,datasets} .
    make -f "$REPO/pipelines/sweep.mk" "${slow[@]}" EXPERIMENT=plain >plain.seen 2>&1 || { cat plain.seen; return 1; }
}
setup() { cd "$T" || return; need_command script; }

# on_terminal FILE COMMAND...: runs it on a pseudo-terminal, and keeps what appeared, a line for each rewriting
on_terminal() {
    local file=$1 text
    shift
    printf -v text '%q ' "$@"
    script -qec "$text" /dev/null </dev/null | tr '\r' '\n' >"$file"
}

@test "a sweep on a terminal shows the progress of its long steps, and the line goes away" {
    on_terminal seen make -f "$REPO/pipelines/sweep.mk" "${slow[@]}"
    grep -qE '^scoring: +[0-9]+%, [0-9]+ s, about [0-9]+ s to go' seen || { cat seen; return 1; }
    # rising, and only forward
    grep -oE '^scoring: +[0-9]+' seen | grep -oE '[0-9]+$' >shares
    [ "$(wc -l <shares)" -ge 2 ]
    sort -nc shares
    # the messages are in the log, not between
    grep -q 'candidates computed' tmp/model-experiments/*/qwen3_vl_demo/demo_captions/store-kl_div.safetensors.log
    ! grep -q 'aq-score: backend' seen
    grep -q '^1 cells, 0 unsupported' seen
}

@test "Ctrl-C in aq sweep: one line, exit 130, no product under its name" {
    local text
    printf -v text '%q ' "$REPO/pipelines/aq" sweep "${slow[@]}" EXPERIMENT=stopped
    : >stopped
    set +e
    { for _ in {1..300}; do if grep -q 'scoring:' stopped; then break; fi; sleep 0.1; done
        printf '\003' && sleep 0.5; } 2>/dev/null |
        script -qefc "env --default-signal=INT $text" /dev/null >stopped # tests in the background of a shell ignore it
    status=${PIPESTATUS[1]}
    set -e
    is "$status" 130
    tr '\r' '\n' <stopped | sed 's/\x1b\[K//g; /^$/d' >lines
    is "$(tail -n 1 lines)" "aq: interrupted: what is done is kept, and the same command goes on from there"
    ! grep -E '^make|wait|pipelines/aq: line|Error' lines
    [ ! -e tmp/model-experiments/stopped/qwen3_vl_demo/demo_captions/store-kl_div.safetensors ]
}

@test "without a terminal nothing is rewritten" {
    ! grep -q 'scoring:' plain.seen
    ! grep -q $'\r' plain.seen
}

@test "--progress=json: an object at least every second, whose time to go runs down" {
    local p=tmp/model-experiments/plain/qwen3_vl_demo
    aq 0 aq-score --lm $p/lm.json --tokens $p/demo_captions/tokens.safetensors --ranges $p/demo_captions/ranges.safetensors --prefix 512 --score-samples 16 \
        --method kl_div --threads 1 --progress=json -o again $p/wint8_aint8/default/quant.json
    grep '"scoring"' <<<"$stderr" >objects
    jq -es '(.[0].eta_s == null) and (.[-1] | .done == .total) and ([.[].done] | . == sort)
        and ([.[].elapsed_s] as $t | all(range(1; $t | length); $t[.] - $t[. - 1] < 3))' objects || { cat objects; return 1; }
    # at half time the estimate is within 30 % of what it took; a machine that does other things too is given the benefit of the doubt once
    jq -es '.[-1].elapsed_s as $last | (map(select(.done * 2 >= .total and .eta_s != null)) | first) as $h
        | $h.eta_s >= 0.5 * ($last - $h.elapsed_s) - 1 and $h.eta_s <= 2 * ($last - $h.elapsed_s) + 1' objects || { cat objects; return 1; }
}
