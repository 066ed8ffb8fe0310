#!/usr/bin/env bats
# Calibrated candidates: aq-calib solve, the same bytes for any threads and after a kill; what aq-score and aq-eval make of it, and
# what is refused. Numbers against ModelOpt are in tests/unit/test_calibrated.c.
load helpers

F=$BATS_FILE_TMPDIR

setup_file() {
    cd "$REPO" || return
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 64 --intermediate 128 --scale 0.2 "$F/model"
    aq-extract-lm -o "$F/lm.json" "$F/model"
    for i in $(seq 60); do seq -s" " $((i * 5)) $((i * 5 + 2 + i * 11 % 38)); done >"$F/ids"
    "$O"/tests/make_tokens --sizes 60 -o "$F/tokens" <"$F/ids"
    aq-calib ranges --device cpu --lm "$F/lm.json" --prefix 60 -o "$F/ranges" "$F/tokens"
    conf "$F/conf"
    quant rtn INT4 max
    quant gptq INT4 gptq
    quant awq INT4 awq_lite
    quant full INT4 awq_full
    quant int8 INT8 max
    quant smooth INT8 '{method: smoothquant, alpha: 0.5}'
    quant mse INT4 mse
    quant rtnfp4 FP4 max
    quant sweep FP4S '{method: mse, fp8_scale_sweep: true}'
    solve -o "$F/solved" "$F"/{rtn,gptq,awq,full,smooth,mse}.json
}

setup() {
    cd "$REPO" || return
    T=$BATS_TEST_TMPDIR
}

# conf DIR: a configuration of a few formats
conf() {
    mkdir -p "$1/format" "$1/quant_granularity"
    cp conf/quant_granularity/* "$1/quant_granularity"
    cat >"$1/INT4" <<'Y'
quant_cfg: {"*weight_quantizer": {num_bits: 4, block_sizes: {-1: 32, type: static}, enable: true}, "*input_quantizer": {enable: false}}
Y
    cat >"$1/INT8" <<'Y'
quant_cfg: {"*weight_quantizer": {num_bits: 8, axis: 0}, "*input_quantizer": {num_bits: 8, axis: null}}
Y
    cat >"$1/FP4" <<'Y'
quant_cfg: {"*weight_quantizer": {num_bits: [2, 1], block_sizes: {-1: 16, type: dynamic, scale_bits: [4, 3]}, enable: true}, "*input_quantizer": {enable: false}}
Y
    sed 's/type: dynamic/type: static/' "$1/FP4" >"$1/FP4S"
    cat >"$1/FP8" <<'Y'
quant_cfg: {"*weight_quantizer": {num_bits: [4, 3], axis: null}, "*input_quantizer": {num_bits: [4, 3], axis: null}}
Y
}

# quant NAME FORMAT ALGORITHM: $F/NAME.json
quant() {
    { cat "$F/conf/$2"; printf 'algorithm: %s\n' "$3"; } >"$F/conf/format/T_$1.yaml"
    aq-overlay --config-dir "$F/conf" --format "T_$1" -o "$F/$1.json"
}

solve() {
    aq-calib solve -q --device cpu --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" "$@"
}

score() {
    aq-score -q --device cpu --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" "$@"
}


@test "treatments of algorithms" {
    is "$(jq -r .treatment.w "$F/gptq.json")" 'gptq{128,0.01,static,plain}/int4:block(-1:32):static'
    is "$(jq -r .treatment.w "$F/awq.json")" 'awq{0.1,joint,all,identity}/int4:block(-1:32):static'
    is "$(jq -r .treatment.w "$F/full.json")" 'clip/awq{0.1,joint,all,identity}/int4:block(-1:32):static'
    is "$(jq -r .treatment.w "$F/smooth.json")" 'smooth{0.5}/int8:axis0:static'
    is "$(jq -r .treatment.w "$F/mse.json")" 'mse{aq}/int4:block(-1:32):static'
    is "$(jq -r .treatment.w "$F/sweep.json")" 'sweep/e2m1:nvfp4(16):dynamic@group'
}

@test "the same bytes for any threads, and in pieces" {
    aq 0 solve --threads 1 -o "$T/one" "$F"/{smooth,full,awq,gptq}.json
    cmp "$T/one" "$F/solved"
    aq 0 solve --threads 3 -o "$T/parts" "$F/gptq.json" "$F/rtn.json"
    aq 0 solve -o "$T/parts" "$F/awq.json"
    aq 0 solve -o "$T/parts" "$F"/{full,smooth,gptq}.json
    cmp "$T/parts" "$F/solved"
    [ ! -e "$T/parts.part" ]
}

@test "layers that a run left when it was broken off are not made again" {
    need_preload
    aq 0 solve -o "$T/killed" "$F"/{smooth,full,awq,gptq}.json
    rm "$T/killed"
    FAULT=rename:ENOSPC:3 LD_PRELOAD="$O/tests/fault.so" refused 1 "No space left" \
        aq-calib solve -q --device cpu --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" -o "$T/killed" "$F"/{smooth,full,awq,gptq}.json
    [ ! -e "$T/killed" ]
    is "$(cd "$T/killed.part" && echo *)" "0.safetensors 1.safetensors"
    local before
    before=$(stat -c %Y.%i "$T/killed.part/0.safetensors")
    cp -a "$T/killed.part" "$T/kept"
    aq 0 solve -o "$T/killed" "$F"/{smooth,full,awq,gptq}.json
    cmp "$T/killed" "$F/solved"
    [ -n "$before" ] && [ ! -e "$T/killed.part" ]
}

@test "some of the layers: kept until all are there; what is no range of layers" {
    aq 0 aq-calib solve --device cpu --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" --layers 2-2 -o "$T/some" "$F"/{smooth,full,awq,gptq}.json
    has "$stderr" "layers 2 to 2 are in '$T/some.part'; '$T/some' is written once 2 more are"
    [ ! -e "$T/some" ]
    is "$(cd "$T/some.part" && echo *)" 2.safetensors
    aq 0 solve --layers 0-1 -o "$T/some" "$F"/{smooth,full,awq,gptq}.json
    cmp "$T/some" "$F/solved"
    [ ! -e "$T/some.part" ]
    local bad
    for bad in 1 x 0-3 2-1 -1-2 1-2x '' 00000000000-1; do
        refused 2 "--layers: expected A-B with A <= B < 3, the layers of the model, not '$bad'" solve --layers "$bad" -o "$T/x" "$F/gptq.json"
    done
}

@test "aq-score: GPTQ, AWQ and searched ranges below rounding; a store knows what it was made of" {
    aq 0 score --solved "$F/solved" -o "$T/store" "$F"/{rtn,gptq,awq,full,int8,smooth,mse,rtnfp4,sweep}.json
    aq 0 score --threads 1 --solved "$F/solved" -o "$T/again" "$F"/{rtn,gptq,awq,full,int8,smooth,mse,rtnfp4,sweep}.json
    cmp "$T/store" "$T/again"
    is "$(aq-score ls --json "$T/store" | jq '.rows | length')" 9
    refused 2 "is calibrated: --solved is needed" score -o "$T/none" "$F/gptq.json"
    aq 0 score -o "$T/data-free" "$F"/{mse,sweep}.json # these need nothing
    # another text gives other numbers
    head -n 20 "$F/ids" | "$O"/tests/make_tokens --sizes 20 -o "$T/tokens"
    aq 0 aq-calib ranges -q --device cpu --lm "$F/lm.json" --prefix 20 -o "$T/ranges" "$T/tokens"
    aq 0 aq-calib solve -q --device cpu --lm "$F/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" -o "$T/other" "$F/gptq.json"
    refused 3 "1 rows of store '$T/store' are of candidates that were solved otherwise" score --solved "$T/other" -o "$T/store" "$F/gptq.json"
    aq 0 score --replace --solved "$T/other" -o "$T/store" "$F/gptq.json"
    is "$(aq-score ls --json "$T/store" | jq '.rows | length')" 9
}

@test "kl_div and aq-eval: the calibrated model is nearer" {
    local n kl=()
    aq 0 score --method kl_div --score-samples 8 --solved "$F/solved" -o "$T/kl" "$F"/{rtn,gptq,awq,smooth,int8}.json
    for n in rtn gptq awq full int8 smooth mse rtnfp4 sweep; do
        jq --argjson treatments "$(jq '{a: [.treatment.w, .treatment.a]}' "$F/$n.json")" --argjson cycle '["a"]' -f tests/manifest.jq "$F/lm.json" >"$T/$n.json"
    done
    aq 0 aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" --solved "$F/solved" -o "$T/ev" \
        "$T"/{rtn,gptq,awq,full,mse,rtnfp4,sweep,int8,smooth}.json
    mapfile -t kl < <(for n in $(seq 9); do jq '.all.kl.mean' "$T/ev/$n.json"; done)
    jq -en '$ARGS.positional | map(tonumber) | .[1] < .[0] * 0.7 and .[2] < .[0] and .[3] < .[0] and .[4] < .[0] and .[6] < .[5] and .[8] < .[7] * 1.2' \
        --args "${kl[@]}" >/dev/null || { echo "${kl[@]}"; return 1; }
    is "$(jq 'has("inputs") or (.. | objects | select(has("solved")) | true)' "$T/ev/2.json" | head -n 1)" true
    refused 2 "has a calibrated candidate in layers.0.self_attn.q_proj: --solved is needed" \
        aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$F/tokens" -o "$T/x.json" "$T/gptq.json"
    # the weights of a manifest without any scaling are the same whoever quantizes the inputs
    refused 3 "has no candidate" aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" --solved "$F/solved" -o "$T/x.json" \
        <(jq '.' "$T/gptq.json" | sed 's/gptq{128,0.01,static/gptq{128,0.01,none/')
}

@test "what is refused" {
    local n
    cp "$F/solved" "$T/s"
    n=$(stat -c %s "$T/s")
    printf '\x55' | dd of="$T/s" bs=1 seek=$((n - 100)) conv=notrunc status=none
    refused 3 "is damaged: its digest is another" score --solved "$T/s" -o "$T/store" "$F"/{gptq,awq,full,smooth}.json
    head -c $((n / 2)) "$F/solved" >"$T/s"
    refused 3 "$T/s: truncated" score --solved "$T/s" -o "$T/store" "$F/gptq.json"
    refused 3 "schema is 'aq.ranges/2', expected 'aq.solved/1'" score --solved "$F/ranges" -o "$T/store" "$F/gptq.json"
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 64 --intermediate 128 --scale 0.3 "$T/model"
    aq-extract-lm -q -o "$T/lm.json" "$T/model"
    aq-calib ranges -q --device cpu --lm "$T/lm.json" --prefix 60 -o "$T/r" "$F/tokens"
    refused 3 "was solved for another model" aq-score -q --device cpu --lm "$T/lm.json" --tokens "$F/tokens" --ranges "$T/r" --solved "$F/solved" -o "$T/store" "$F/gptq.json"
    cp "$F/solved" "$T/mine"
    refused 3 "was solved with another 'lm'" aq-calib solve -q --device cpu --lm "$T/lm.json" --tokens "$F/tokens" --ranges "$T/r" -o "$T/mine" "$F/gptq.json"
    aq 0 aq-calib solve --replace --device cpu --lm "$T/lm.json" --tokens "$F/tokens" --ranges "$T/r" -o "$T/mine" "$F/gptq.json"
    [[ $stderr = *"starting over"*"1 candidates solved, 0 were there"* ]]
    refused 3 "have no prefix 17" solve --prefix 17 -o "$T/x" "$F/gptq.json"
    refused 1 "the moments of a layer and its factor need" solve --memory 2.8M -o "$T/x" "$F/gptq.json"
    refused 2 "-o FILE is needed" solve "$F/gptq.json"
    refused 2 "--ranges is missing" aq-calib solve --lm "$F/lm.json" --tokens "$F/tokens" -o "$T/x" "$F/gptq.json"
    # few tokens for a column
    run --separate-stderr aq-calib solve --device cpu --lm "$F/lm.json" --tokens "$F/tokens" --ranges "$F/ranges" -o "$T/x" "$F/gptq.json"
    [[ $stderr != *"fewer than 4"* ]]
    head -n 5 "$F/ids" | "$O"/tests/make_tokens --sizes 5 -o "$T/few"
    aq-calib ranges -q --device cpu --lm "$F/lm.json" --prefix 5 -o "$T/fr" "$T/few"
    run --separate-stderr aq-calib solve -v --device cpu --lm "$F/lm.json" --tokens "$T/few" --ranges "$T/fr" -o "$T/y" "$F/gptq.json"
    has "$stderr" "input 'layers.0.down': 0.812 tokens for each of its 128 columns"
    [[ $stderr = *"tokens are fewer than 4 for each of the 128 columns of input 'layers.0."* ]]
}

@test "moments of one layer at a time, within --memory: three layers' would not fit" {
    sanitized && skip "sanitizers take memory of their own"
    local need layer quant=$F/gptq.json
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 512 --intermediate 1536 --vocab 512 --scale 0.05 "$T/model"
    aq-extract-lm -q -o "$T/lm.json" "$T/model"
    aq 0 aq-calib ranges -q --device cpu --lm "$T/lm.json" --prefix 60 -o "$T/ranges" "$F/tokens"
    solve() { aq-calib solve -q --device cpu --threads 1 --lm "$T/lm.json" --tokens "$F/tokens" --ranges "$T/ranges" -o "$T/solved" "$@" "$quant"; }
    refused 1 "the moments of a layer and its factor need" solve --memory 32M
    need=$(sed -nE 's/.*need ([0-9]+) MB.*/\1/p' <<<"$stderr")
    layer=$(jq -n '[512, 512, 512, 1536] | map(. * . * 8e-6) | add | floor')
    # 135 MB are OpenBLAS's for a thread, 25 the program's
    (ulimit -d $(((135 + 25 + need) * 1000)) && solve --memory "${need}M")
    [ -e "$T/solved" ] && [ $((2 * layer)) -ge 50 ]
}

@test "algorithms out of range, and where the quantizers leave them nothing to do" {
    local bad
    while IFS=$'\t' read -r format algorithm bad; do
        { cat "$F/conf/$format"; printf 'algorithm: %s\n' "$algorithm"; } >"$F/conf/format/T_bad.yaml"
        run --separate-stderr aq-overlay --strict --config-dir "$F/conf" --format T_bad
        is "$status" 3
        [[ $stderr = *"$bad"* ]] || { echo "$stderr"; return 1; }
    done <<'E'
INT8	{method: smoothquant, alpha: 1.5}	1.5 is outside 0..1
INT8	{method: smoothquant, alpha: x}	expected a number
INT4	{method: awq_lite, alpha_step: 0}	0 is outside
INT4	{method: gptq, block_size: 0.5}	0.5 is outside
INT4	{method: gptq, block_size: 1.5}	is not whole
INT4	{method: gptq, percdamp: 2}	2 is outside
INT4	smoothquant	smoothing is for quantized activations
FP4	gptq	gptq goes with integers
FP4	awq_clip	clip goes with integers in blocks
FP4	mse	mse goes with ranges per tensor
E
    refused 3 "expected joint or own" aq-overlay <(jq -n --slurpfile q "$F/awq.json" '{autoquant: {awq_shared: "x"}, quant_pair: {format_name: "X"},
        quant_granularity: {name: "g", quant_cfg_overrides: {}}, _aq: {format: ($q[0] | {quant_cfg, algorithm})}}')
}

@test "scales of each linear's own, over a quarter of the batches: scored, as ModelOpt does, and served by nobody" {
    local name text
    for name in awq smooth; do
        aq 0 aq-overlay <(jq -n --slurpfile q "$F/$name.json" '{autoquant: {awq_shared: "own", awq_samples: "quarter"}, quant_pair: {format_name: "X"},
            quant_granularity: {name: "g", quant_cfg_overrides: {}}, _aq: {format: ($q[0] | {quant_cfg, algorithm})}}')
        printf '%s\n' "$output" >"$T/$name.json"
    done
    is "$(jq -r .treatment.w "$T/awq.json")" 'awq{0.1,own,quarter,identity}/int4:block(-1:32):static'
    is "$(jq -r .treatment.w "$T/smooth.json")" 'smooth{0.5,own}/int8:axis0:static'
    aq 0 solve --batch 8 --threads 1 -o "$T/solved" "$T"/{awq,smooth}.json
    aq 0 solve --batch 8 --threads 3 -o "$T/again" "$T"/{awq,smooth}.json
    cmp "$T/solved" "$T/again"
    refused 3 "was solved with another 'batch'" solve --batch 4 -o "$T/solved" "$T"/{awq,smooth}.json
    aq 0 score --solved "$T/solved" -o "$T/store" "$T"/{awq,smooth}.json
    aq 0 score --threads 1 --method kl_div --score-samples 4 --solved "$T/solved" -o "$T/kl" "$T"/{awq,smooth}.json
    jq --argjson treatments "$(jq '{a: [.treatment.w, .treatment.a]}' "$T/smooth.json")" --argjson cycle '["a"]' -f tests/manifest.jq "$F/lm.json" >"$T/m.json"
    refused 3 "scales of each linear's own are there to compare scores" \
        aq-eval -q --device cpu --reference "$F/lm.json" --domain text="$F/tokens" --ranges "$F/ranges" --solved "$T/solved" -o "$T/x.json" "$T/m.json"
}

@test "an input that no sample reaches: every column of it is dead, and weights are rounded as they are" {
    # a norm whose weight is 0 gives nothing on
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --scale 0.2 --zeros input_layernorm "$T/model"
    aq-extract-lm -q -o "$T/lm.json" "$T/model"
    aq-calib ranges -q --device cpu --lm "$T/lm.json" --prefix 60 -o "$T/ranges" "$F/tokens"
    aq 0 aq-calib solve -q --device cpu --lm "$T/lm.json" --tokens "$F/tokens" --ranges "$T/ranges" -o "$T/solved" "$F"/{gptq,awq,full,smooth}.json
    aq 0 aq-score -q --device cpu --lm "$T/lm.json" --tokens "$F/tokens" --ranges "$T/ranges" --solved "$T/solved" -o "$T/store" "$F"/{gptq,awq,full,smooth}.json
}

@test "every preset that asks for an algorithm is computed as such, refused with a reason, or warned about" {
    local format warned=() refused=()
    while read -r format; do
        aq 0 aq-overlay --config-dir conf --format "$format"
        if [[ $stderr = *"is not applied"* ]]; then
            warned+=("$format")
        elif ! jq -e '.supported and (.treatment.w | test("^(smooth|awq|clip|gptq|mse|sweep|4o6)[{/]"))' <<<"$output" >/dev/null; then
            jq -e '.reason | length > 20' <<<"$output" >/dev/null
            refused+=("$format")
        fi
    done < <(grep -LE '^algorithm: (max|null)' conf/format/*.yaml | xargs -n 1 basename -s .yaml)
    is "${warned[*]}" NVFP4_SVDQUANT_DEFAULT_CFG
    # clip goes with integers in blocks; ModelOpt 0.40 refuses local Hessian's quantizers
    is "${refused[*]}" "NVFP4_AWQ_CLIP_CFG NVFP4_AWQ_FULL_CFG NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG"
}

@test "any method with any granularity that allows it, and the reason where not" {
    # what allows it is read from the treatment of plain rounding
    local method granularity format w a allowed n=0 both=()
    local -A base=([INT4]=rtn [INT8]=int8 [FP8]=fp8) algorithm=([smooth]='{method: smoothquant, alpha: 0.5}' [awq]=awq_lite [clip]=awq_clip [gptq]=gptq [mse]=mse)
    quant fp8 FP8 max
    for format in "${!base[@]}"; do
        for granularity in "$F"/conf/quant_granularity/*.yaml; do
            granularity=$(basename -s .yaml "$granularity")
            IFS=$'\t' read -r w a <<<"$(aq-overlay -q --config-dir "$F/conf" --format "T_${base[$format]}" --granularity "$granularity" | jq -r 'if .supported then [.treatment.w, .treatment.a] | @tsv else "" end')"
            [ -n "$w" ] || continue
            for method in "${!algorithm[@]}"; do
                case $method in
                smooth) [[ $w = *axis1:* || $a = none || $a = *axis-1* ]] && allowed='^$' || allowed=. ;;
                awq) [[ $w = *axis1:* || $a = *axis-1* ]] && allowed='^$' || allowed=. ;;
                clip) allowed='^int[0-9]:block\(-1:[0-9]+\):static$' ;;
                gptq) allowed='^int[0-9]:(tensor|axis0|block\(-1:[0-9]+\)):static$' ;;
                mse) allowed='^(int[0-9]|e4m3):(tensor|axis0|axis1|block\([^)]*\)):static$' ;;
                esac
                { cat "$F/conf/$format"; printf 'algorithm: %s\n' "${algorithm[$method]}"; } >"$F/conf/format/T_any.yaml"
                aq-overlay -q --config-dir "$F/conf" --format T_any --granularity "$granularity" >"$T/any.json"
                if [[ $w != none && $w =~ $allowed ]]; then
                    both[1]=1
                    jq -e '.supported' "$T/any.json" >/dev/null || { echo "$method $granularity $w $a"; jq -c '.reason' "$T/any.json"; return 1; }
                else
                    both[0]=1
                    jq -e '(.supported | not) and (.reason | length > 20)' "$T/any.json" >/dev/null || { echo "$method $granularity $w $a is not refused"; return 1; }
                fi
                n=$((n + 1))
            done
        done
    done
    [ $n -ge 100 ] && is "${both[*]}" "1 1"
}
