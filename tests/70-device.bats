# Which device: what is said where there is none, and, on a machine with a GPU, the CUDA backend against the CPU.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR AQ_CONF=$REPO/conf
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 128 --intermediate 256 --scale 0.08 "$T/model"
    aq-extract-lm -o "$T/lm.json" "$T/model"
    # a few tiles of any device
    for i in $(seq 250); do seq -s' ' $((i * 7 % 400)) $((i * 7 % 400 + 2 + i * 11 % 38)); done >"$T/ids"
    "$O"/tests/make_tokens --sizes 8,240 -o "$T/tokens" <"$T/ids"
    for f in INT8_WEIGHT_ONLY_CFG NVFP4_WEIGHT_ONLY_CFG; do aq-overlay --format $f -o "$T/$f.json"; done
    aq-overlay --format INT8_DEFAULT_CFG --granularity a_per_token_dynamic -o "$T/token.json"
}

setup() { cd "$BATS_TEST_TMPDIR" || return; }

score() { # score STORE [OPTION...]
    local store=$1
    shift
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --score-samples 240 -o "$store" "$@" "$T"/*_CFG.json "$T/token.json"
}

plugin() { # plugin ABI DEVICES: one in this directory that has an interface and finds devices, and no more
    cat >p.c <<EOF
#include "backend/backend.h"
static int probe(const struct backend_host *host, struct aq_err *err)
{
    if ($2 == 0)
        host->err_set(err, AQ_EBACKEND, "the driver finds no GPU");
    return $2;
}
static const struct backend_ops ops = {.abi = $1, .struct_size = sizeof ops, .name = "cuda", .probe = probe};
const struct backend_ops *aq_backend_plugin(void) { return &ops; }
EOF
    ${CC:-cc} -shared -fPIC -I"$REPO/lib" -o aq-backend-cuda.so p.c
    export AQ_BACKEND_PATH=$PWD
}

@test "no plugin, no plugin at all, another interface, no device, no such device: each says which" {
    need_command "${CC:-cc}"
    AQ_BACKEND_PATH=$PWD refused 4 "no plugin 'aq-backend-cuda.so'" score s --device cuda
    echo 'int x;' >x.c && ${CC:-cc} -shared -fPIC -o aq-backend-cuda.so x.c
    AQ_BACKEND_PATH=$PWD refused 4 "is not a backend plugin" score s --device cuda
    plugin 99 1
    refused 4 "has interface 99 of" score s --device cuda
    plugin BACKEND_ABI 0
    refused 4 "device 'cuda': the driver finds no GPU" score s --device cuda
    plugin BACKEND_ABI 2
    refused 4 "there is no device cuda:7, only 2" score s --device cuda:7
    [ ! -e s ]
}

@test "a plugin without a table, cut short, a named pipe, one that ends the program: exit 4 with the reason" {
    need_command "${CC:-cc}"
    local size n
    export AQ_BACKEND_PATH=$PWD
    so() { ${CC:-cc} -shared -fPIC -o aq-backend-cuda.so x.c; }
    echo 'void *aq_backend_plugin(void) { return 0; }' >x.c && so
    refused 4 "has no table of operations" score s --device cuda
    plugin BACKEND_ABI 2
    cp aq-backend-cuda.so whole
    size=$(stat -c %s whole)
    for n in 64 100 1000 4096 5000 8192 $((size / 2)) $((size - 1)); do
        head -c "$n" whole >aq-backend-cuda.so
        refused 4 "cannot load plugin: " score s --device cuda
    done
    for code in 0 1 7; do
        printf '#include <stdlib.h>\n__attribute__((constructor)) static void c(void) { exit(%s); }\n' $code >x.c && so
        refused 4 "cannot load plugin: '$PWD/aq-backend-cuda.so' ended the program" score s --device cuda
        refused 4 "ended the program" score s --device auto
    done
    rm aq-backend-cuda.so
    mkfifo aq-backend-cuda.so
    refused 4 "is a named pipe, expected a file" timeout 10 aq-score --lm "$T/lm.json" --tokens "$T/tokens" --device cuda -o s "$T/token.json"
    [ ! -e s ]
}

@test "auto computes on the CPU where no GPU serves, says why, and gives the CPU's bytes" {
    plugin BACKEND_ABI 0
    aq 0 score s --device auto -v
    has "$stderr" "device: cpu (the driver finds no GPU)"
    aq 0 score c --device cpu
    cmp s c
}

@test "the plugin itself: no driver is said to be missing" {
    [ -e "$O/lib/aq-backend-cuda.so" ] || skip "built without CUDA"
    [ ! -e /dev/nvidiactl ] || skip "this machine has a driver"
    export AQ_BACKEND_PATH=$O/lib
    run --separate-stderr score s --device cuda
    [[ $stderr != *libcublas* ]] || skip "cuBLAS is not installed"
    [ "$status" -eq 4 ] && has "$stderr" "there is no NVIDIA driver on this machine"
}

# bats test_tags=gpu
@test "every op and quantizer against the CPU" {
    aq 0 "$O/tests/backend_parity"
    [[ $output != *"not ok"* ]]
}

# Sums in double come in another order, so that a code or a choice on the border of two may be the other one: counted, and ranges and
# scales to the bit.
# bats test_tags=gpu
@test "what calibrated candidates are solved from: factors, codes, clipped ranges and AWQ's scales against the host" {
    aq 0 "$O/tests/solve_parity"
    [[ $output != *"not ok"* ]]
    grep 'codes differ' <<<"$output" | sed 's/^/# /' >&3
}

# The programs that compare the CPU with float64, on the GPU: logits, loss and gradients of every family; of mixtures where tokens
# go, the router's part of the gradient, scores of the experts, ties, and that a row's bits do not depend on the rows beside it.
# bats test_tags=gpu
@test "tiny models of every family and mixtures of experts on the GPU, against float64" {
    cd "$REPO" || return
    aq 0 "$O/tests/test_families" cuda
    [[ $output != *"not ok"* ]]
    aq 0 "$O/tests/test_experts" cuda
    [[ $output != *"not ok"* ]]
}

# bats test_tags=gpu
@test "the same bytes from run to run, and from any shards" {
    for d in fp32 bf16; do
        score s --device cuda --dtype $d
        score again --device cuda --dtype $d
        cmp s again
        for k in 1 2 3; do score part$k --device cuda --dtype $d --shard $k/3; done
        aq 0 aq-score merge -o m part1 part2 part3
        cmp m s
        rm s again part? m
    done
}

# bats test_tags=gpu
@test "weights are loaded once; the same bytes within --memory; a limit that is too small is named" {
    loaded() { sed -nE 's/.*weights loaded: ([0-9.]+) MB.*/\1/p' <<<"$stderr"; }
    local once twice
    aq 0 score s -v --device cuda
    once=$(loaded)
    refused 1 "is too little" score m --device cuda --memory 1M
    need=$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' <<<"$stderr")
    aq 0 score m -v --device cuda --memory "${need}000000"
    cmp m s
    twice=$(loaded)
    echo "loaded: $once MB, within the limit $twice MB"
    jq -en "$once * 1e6 <= 1.02 * $(jq '[.tensors[] | .end - .begin] | add' "$T/lm.json") and $once <= $twice"
}

# demo STORE DEVICE DTYPE OPTION... QUANT...: the demo model MODEL and its captions, with ranges of the same device and dtype
demo() {
    local store=$1 device=$2 dtype=$3 m=$T/$MODEL ranges=$T/$MODEL/ranges-$2-$3
    shift 3
    [ -e "$ranges" ] || aq-calib ranges -q --device "$device" --dtype "$dtype" --lm "$m/lm.json" --prefix 16,128,512 -o "$ranges" "$m/tokens"
    aq-score -q --lm "$m/lm.json" --tokens "$m/tokens" --ranges "$ranges" --device "$device" --dtype "$dtype" -o "$store" "$@"
}

demo_inputs() { # demo_inputs [MODEL]
    MODEL=${1:-qwen3_vl_demo}
    local f checkpoint=$REPO/models/$MODEL/checkpoint
    if [ ! -e "$T/$MODEL" ]; then
        mkdir "$T/$MODEL"
        aq-extract-lm -q -o "$T/$MODEL/lm.json" "$checkpoint"
        aq-calib tokens -q --tokenizer "$checkpoint" -o "$T/$MODEL/tokens" "$REPO"/datasets/demo/captions_{small,medium,large}.txt
    fi
    [ ! -e "$T/demo" ] || return 0
    mkdir -p "$T/demo/quant"
    for f in FP8_DEFAULT_CFG INT8_WEIGHT_ONLY_CFG NVFP4_WEIGHT_ONLY_CFG INT4_BLOCKWISE_WEIGHT_ONLY_CFG INT8_DEFAULT_CFG NVFP4_DEFAULT_CFG; do
        aq-overlay --format $f -o "$T/demo/quant/$f.json"
    done
    aq-overlay --format INT8_DEFAULT_CFG --granularity a_per_token_dynamic -o "$T/demo/quant/token.json"
}

# agrees EXPECTED FOUND SAMPLES WEIGHTS BOTH SUM: relative bounds on a layer group of rows with quantized weights alone, on one
# of rows with quantized activations as well, and on the sum over all groups; the ten largest groups are the same, but for one
# that is no further below the tenth than that last bound: the order of such two is not known.
agrees() {
    "$O/tests/store_diff" "$1" "$2" "$3" >rows
    [ -s rows ]
    awk -v what="$2" '{ if ($4 > w[$3] + 0) w[$3] = $4; if ($5 > sum) sum = $5; if ($6 > 0) moved = moved " " $6 }
        END { print "# " what ": at most " w["weights"] + 0 " (weights), " w["both"] + 0 " (both), sums " sum (moved ? "; below the tenth" moved : "") }' rows >&3
    awk -v weights="$4" -v both="$5" -v sum="$6" '
        $4 + 0 > ($3 == "weights" ? weights : both) || $5 + 0 > sum || $6 + 0 > sum { print "too far: " $0; bad = 1 }
        END { exit bad }' rows
}

# Weights quantize to the same codes everywhere, so rows that quantize nothing else differ by the rounding of sums. An input of a
# linear is itself a rounded sum: where it is next to the border of two codes, another order of adding puts it on the other
# code, and the error of that one element jumps by a step. A layer whose score a few such elements make moves by far more than
# rounding, in both directions; sums over layers hardly do. The CPU is no different: with another kernel of OpenBLAS single
# layers of these rows move by up to 1e-3. So a layer has a loose bound there, and what is used of the scores a tight one.
# bats test_tags=gpu
@test "the demo model scored by the GPU and by the CPU" {
    demo_inputs
    local prefix=(--prefix '128,512' --score-samples 128)
    demo cpu cpu fp32 "${prefix[@]}" "$T"/demo/quant/*.json
    demo fp32 cuda fp32 "${prefix[@]}" "$T"/demo/quant/*.json
    agrees cpu fp32 128 1e-4 1e-2 1e-4
    demo bf16 cuda bf16 "${prefix[@]}" "$T"/demo/quant/*.json
    agrees cpu bf16 128 2e-2 2e-1 2e-2
}

# A prefix of 16 captions fills one chunk of a tile of six.
# bats test_tags=gpu
@test "a prefix takes the chunks of its samples: the bytes of a call of its own, and the CPU's scores" {
    demo_inputs
    for d in fp32 bf16; do
        demo all cuda $d --prefix 16,128,512 "$T"/demo/quant/*.json
        demo few cuda $d --prefix 16 --score-samples 16 "$T"/demo/quant/*.json
        aq 0 aq-score merge -o m all few
        cmp m all
        rm all few m
    done
    demo few cuda fp32 --prefix 16 --score-samples 16 "$T"/demo/quant/*.json
    demo cpu cpu fp32 --prefix 16 --score-samples 16 "$T"/demo/quant/*.json
    # an eighth of the captions above: a sum averages over an eighth of such elements, so that it scatters by the root of 8 more
    agrees cpu few 16 1e-4 1e-2 3e-4
}

# bats test_tags=gpu
@test "the demo model by divergence, on the GPU and on the CPU" {
    demo_inputs
    local options=(--method kl_div --prefix 16 --score-samples 8)
    demo cpu cpu fp32 "${options[@]}" "$T"/demo/quant/INT8_{WEIGHT_ONLY,DEFAULT}_CFG.json
    demo cuda cuda fp32 "${options[@]}" "$T"/demo/quant/INT8_{WEIGHT_ONLY,DEFAULT}_CFG.json
    agrees cpu cuda 8 1e-2 1e-1 1e-4
}

# bats test_tags=gpu
@test "dynamic ranges over batches, on the GPU and on the CPU" {
    demo_inputs
    aq-overlay --format MXINT8_DEFAULT_CFG --granularity a_per_tensor_static -o batch.json
    local options=(--dtype fp32 --prefix 128 --score-samples 128 --dynamic-batch 8)
    demo cpu cpu fp32 "${options[@]}" batch.json
    demo cuda cuda fp32 "${options[@]}" batch.json
    agrees cpu cuda 128 1e-4 1e-2 1e-4
}

# In bf16 what is between an expert's two products is rounded, in the reference and under a treatment: where weights of INT8 alone
# move it by less than that, the difference of the two roundings is a tenth of a layer's score. The router may also decide otherwise
# than in fp32.
# bats test_tags=gpu
@test "the demo mixture of experts on the GPU: the CPU's scores by both methods; the same bytes from any shards, memory and rows" {
    demo_inputs qwen3_moe_demo
    local quant=("$T"/demo/quant/*.json) options=(--prefix 128 --score-samples 128) need k
    demo cpu cpu fp32 "${options[@]}" "${quant[@]}"
    demo cuda cuda fp32 "${options[@]}" "${quant[@]}"
    agrees cpu cuda 128 1e-4 1e-2 1e-4
    demo bf16 cuda bf16 "${options[@]}" "${quant[@]}"
    agrees cpu bf16 128 2e-1 2e-1 5e-2
    demo again cuda bf16 "${options[@]}" "${quant[@]}"
    cmp bf16 again
    for k in 1 2; do demo part$k cuda bf16 "${options[@]}" --shard $k/2 "${quant[@]}"; done
    aq 0 aq-score merge -o m part1 part2
    cmp m bf16
    run --separate-stderr demo small cuda bf16 "${options[@]}" --memory 1M "${quant[@]}"
    need=$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' <<<"$stderr")
    demo small cuda bf16 "${options[@]}" --memory "${need}000000" "${quant[@]}"
    cmp small bf16
    demo one cuda bf16 "${options[@]}" "$T/demo/quant/NVFP4_DEFAULT_CFG.json" # each candidate's rows beside no others
    aq 0 "$O/tests/store_diff" one bf16 128
    is "$(awk '$4 + 0 != 0 || $5 + 0 != 0' <<<"$output")" ''
    options=(--method kl_div --prefix 16 --score-samples 8)
    demo kl-cpu cpu fp32 "${options[@]}" "$T"/demo/quant/INT8_{WEIGHT_ONLY,DEFAULT}_CFG.json
    demo kl-cuda cuda fp32 "${options[@]}" "$T"/demo/quant/INT8_{WEIGHT_ONLY,DEFAULT}_CFG.json
    # Under quantized activations one group's eight samples hold an input on the border of two codes: the CPU's own sums by OpenBLAS's
    # kernels for SkylakeX and for Haswell are 6.5e-4 apart there, and 8e-5 with quantized weights alone. Three times the first.
    agrees kl-cpu kl-cuda 8 1e-2 1e-1 2e-3
}

# Codes, scales and ranges of calibrated candidates are those of one file, so that the two devices differ by how they add and, in
# bf16, by the terms of what is scaled. A GPU's own moments are sums of its own activations: its codes differ from the CPU's where a
# value falls on the border of two.
# bats test_tags=gpu
@test "calibrated candidates of the demo model: the CPU's scores and KL; what the GPU solves by itself serves as well" {
    demo_inputs
    local m=$T/qwen3_vl_demo quant=() f n solve
    mkdir -p calibrated
    for f in INT4_GPTQ_CFG INT4_AWQ_CFG INT8_SMOOTHQUANT_HALF_CFG NVFP4_WEIGHT_ONLY_SWEEP_CFG NVFP4_AWQ_FULL_CFG; do
        aq-overlay --format $f -o calibrated/$f.json
        ! jq -e .supported calibrated/$f.json >/dev/null || quant+=("calibrated/$f.json")
    done
    [ "${#quant[@]}" -ge 4 ]
    aq-resolve -q quant_pair=wint8_aint8 | jq '._aq.format.algorithm = {method: "mse"}' | aq-overlay - -o calibrated/mse.json
    quant+=(calibrated/mse.json)
    demo cpu cpu fp32 --prefix 128 --score-samples 16 "$T/demo/quant/INT8_WEIGHT_ONLY_CFG.json" # makes the ranges
    demo cuda cuda fp32 --prefix 128 --score-samples 16 "$T/demo/quant/INT8_WEIGHT_ONLY_CFG.json"
    demo cuda16 cuda bf16 --prefix 128 --score-samples 16 "$T/demo/quant/INT8_WEIGHT_ONLY_CFG.json"
    solve() { aq-calib solve -q --lm "$m/lm.json" --tokens "$m/tokens" --prefix 128 --device "$1" --dtype "$2" --ranges "$m/ranges-$1-$2" -o "$3" "${@:4}" "${quant[@]}"; }
    solve cpu fp32 solved
    solve cuda fp32 own
    solve cuda fp32 again
    cmp own again
    # what a context takes is counted, so that a tile fits where a layer's moments do not
    refused 1 "the moments of a layer and its factor need" solve cuda fp32 small --memory 400M
    solve cuda fp32 small --memory "$(sed -nE 's/.*need ([0-9]+) MB.*/\1/p' <<<"$stderr")M"
    cmp own small
    local options=(--prefix 128 --score-samples 128 --solved "$PWD/solved")
    demo c cpu fp32 "${options[@]}" "${quant[@]}"
    demo fp32 cuda fp32 "${options[@]}" "${quant[@]}"
    agrees c fp32 128 1e-4 1e-2 1e-4
    demo bf16 cuda bf16 "${options[@]}" "${quant[@]}"
    agrees c bf16 128 2e-2 2e-1 2e-2
    demo twice cuda bf16 "${options[@]}" "${quant[@]}"
    cmp bf16 twice
    for n in 1 2 3; do demo part$n cuda bf16 "${options[@]}" --shard $n/3 "${quant[@]}"; done
    aq 0 aq-score merge -o merged part1 part2 part3
    cmp merged bf16
    demo alone cuda fp32 "${options[@]}" --solved "$PWD/own" "${quant[@]}"
    aq 0 "$O/tests/store_diff" c alone 128
    echo "# solved by the GPU, at most: $(sort -k5 -g <<<"$output" | tail -n 1)" >&3
    awk '$5 + 0 > 5e-2 { bad = 1 } END { exit bad }' <<<"$output"
    # ModelOpt's quarter of the batches, and scales of each linear's own
    local quarter=()
    for f in wint4_afp16_awq wint8_aint8_smooth; do
        aq-resolve -q quant_pair=$f autoquant.awq_shared=own autoquant.awq_samples=quarter | aq-overlay - -o "calibrated/quarter-$f.json"
        quarter+=("calibrated/quarter-$f.json")
    done
    [[ $(jq -r .treatment.w "${quarter[0]}") = awq*own,quarter* ]]
    for n in cpu cuda; do
        aq-calib solve -q --lm "$m/lm.json" --tokens "$m/tokens" --prefix 128 --device $n --dtype fp32 --ranges "$m/ranges-$n-fp32" -o quarter-$n "${quarter[@]}"
        demo q-$n $n fp32 --prefix 128 --score-samples 128 --solved "$PWD/quarter-$n" "${quarter[@]}"
    done
    agrees q-cpu q-cuda 128 5e-2 1e-1 5e-2
    demo kl-cpu cpu fp32 --method kl_div --prefix 128 --score-samples 8 --solved "$PWD/solved" "${quant[@]}"
    demo kl-cuda cuda fp32 --method kl_div --prefix 128 --score-samples 8 --solved "$PWD/solved" "${quant[@]}"
    agrees kl-cpu kl-cuda 8 1e-2 1e-1 1e-3
    # a recipe of all of them, measured: the KL of what the scores are of
    jq --argjson treatments "$(jq -n '[inputs | [.treatment.w, .treatment.a]] | to_entries | map({key: "c\(.key)", value}) | from_entries' "${quant[@]}")" \
        --argjson cycle "$(jq -nc '[inputs] | keys | map("c\(.)")' "${quant[@]}")" -f "$REPO/tests/manifest.jq" "$m/lm.json" >recipe.json
    for n in cpu cuda; do
        aq 0 aq-eval -q --device $n --dtype fp32 --reference "$m/lm.json" --domain text="$m/tokens" --ranges "$m/ranges-$n-fp32" --solved solved \
            -o kl-$n.json recipe.json
    done
    aq 0 aq-eval -q --device cuda --dtype bf16 --reference "$m/lm.json" --domain text="$m/tokens" --ranges "$m/ranges-cuda-bf16" --solved solved -o kl-bf16.json recipe.json
    echo "# KL of a recipe: cpu $(jq .all.kl.mean kl-cpu.json), cuda $(jq .all.kl.mean kl-cuda.json), bf16 $(jq .all.kl.mean kl-bf16.json)" >&3
    jq -en '[inputs.all.kl.mean] | .[0] > 1e-4 and ((.[1] / .[0] - 1) | fabs) < 1e-3' kl-cpu.json kl-cuda.json
}

# bats test_tags=gpu
@test "calibrated experts of the demo mixture: what the GPU solves is the same from run to run, and serves as well as what the CPU does" {
    demo_inputs qwen3_moe_demo
    local m=$T/qwen3_moe_demo quant=() p n
    mkdir -p experts
    for p in wint4_afp16_gptq wint4_afp16_awq wint8_aint8_smooth; do
        aq-resolve -q quant_pair=$p | aq-overlay - -o "experts/$p.json"
        quant+=("experts/$p.json")
    done
    aq-resolve -q quant_pair=wint4_afp16_awq | jq '._aq.format.algorithm.method = "awq_full"' | aq-overlay - -o experts/clip.json
    quant+=(experts/clip.json)
    for n in cpu cuda again; do
        [ "$n" = again ] || demo "made-$n" "$n" fp32 --prefix 128 --score-samples 16 "$T/demo/quant/INT8_WEIGHT_ONLY_CFG.json" # makes the ranges
        aq 0 aq-calib solve --lm "$m/lm.json" --tokens "$m/tokens" --prefix 128 --device "${n/again/cuda}" --dtype fp32 \
            --ranges "$m/ranges-${n/again/cuda}-fp32" -o "solved-$n" "${quant[@]}"
    done
    cmp solved-cuda solved-again
    small() { aq-calib solve -q --lm "$m/lm.json" --tokens "$m/tokens" --prefix 128 --device cuda --dtype fp32 --ranges "$m/ranges-cuda-fp32" -o small --memory "$1" "${quant[@]}"; }
    refused 1 "the moments of a layer and its factor need" small 400M
    small "$(sed -nE 's/.*need ([0-9]+) MB.*/\1/p' <<<"$stderr")M"
    cmp solved-cuda small
    for n in cpu cuda; do demo $n cuda fp32 --prefix 128 --score-samples 128 --solved "$PWD/solved-$n" "${quant[@]}"; done
    agrees cpu cuda 128 5e-2 1e-1 5e-2
}

# bats test_tags=gpu
@test "aq-eval on the GPU: the same bytes from run to run, from 1, 3 and 7 shards, and within --memory; 0 against itself; the CPU's divergences" {
    demo_inputs
    local m=$T/qwen3_vl_demo d n k need
    made() { jq --argjson treatments "$1" --argjson cycle "$2" -f "$REPO/tests/manifest.jq" "$m/lm.json"; }
    made '{"a": ["int4:block(-1:128):static", "none"], "b": ["e4m3:axis0:static", "none"], "c": ["e2m1:nvfp4(16):dynamic", "none"]}' '["a", "b", "NONE", "c"]' >weights.json
    made '{"a": ["int4:block(-1:128):static", "none"], "b": ["e4m3:axis0:static", "e4m3:token:dynamic"], "c": ["e2m1:nvfp4(16):dynamic", "none"],
        "d": ["int8:axis0:static", "int8:token:dynamic"]}' '["a", "b", "NONE", "c", "d"]' >mixed.json
    measure() { aq-eval -q --reference "$m/lm.json" --domain text="$m/tokens" "$@"; }
    for d in fp32 bf16; do
        aq 0 measure --device cuda --dtype $d -o $d.json mixed.json
        aq 0 measure --device cuda --dtype $d -o again.json mixed.json
        cmp again.json $d.json
        for n in 1 3 7; do
            for k in $(seq $n); do aq 0 measure --device cuda --dtype $d --shard $k/$n -o part-$n-$k mixed.json; done
            # shellcheck disable=SC2046
            aq 0 aq-eval merge -o merged.json $(printf "part-$n-%s " $(seq $n))
            cmp merged.json $d.json
            rm part-*
        done
        aq 1 measure --device cuda --dtype $d --memory 1M mixed.json
        need=$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' <<<"$stderr")
        aq 0 measure --device cuda --dtype $d --memory "${need}000000" -o small.json mixed.json
        cmp small.json $d.json
        aq 0 measure --device cuda --dtype $d "$m/lm.json"
        is "$(jq -c '[.all.kl.max, .all.reverse_kl.max, .all.top1]' <<<"$output")" '[0,0,1]'
    done
    # an activation that falls on another code moves a divergence by more than rounding does, and bf16 by more than that
    local found share
    for n in weights:1e-4 mixed:2e-2; do
        IFS=: read -r n share <<<"$n"
        for d in cpu:fp32 cuda:fp32 cuda:bf16; do aq 0 measure --device "${d%:*}" --dtype "${d#*:}" -o "$d.json" $n.json; done
        found=$(jq -c '[inputs.all.kl.mean]' -n cpu:fp32.json cuda:fp32.json cuda:bf16.json)
        echo "# KL of the recipe of $n, on the CPU and on the GPU in fp32 and bf16: $found" >&3
        jq -en --argjson x "$found" --argjson share "$share" '$x[0] > 1e-4 and ($x[1] / $x[0] - 1 | fabs) < $share and ($x[2] / $x[0] - 1 | fabs) < 5e-2'
    done
}

# bats test_tags=gpu
@test "aq-eval singles on the GPU: the same bytes from run to run; the CPU's numbers" {
    demo_inputs
    local m=$T/qwen3_vl_demo d n off bits
    for bits in 4 8; do # of this model's groups, whatever they are
        scores any wint${bits}_afp16/default $bits $bits "$(jq '[.groups[].layer] | max + 1' "$m/lm.json")"
        sealed_jq --slurpfile lm "$m/lm.json" '.identity.lm = $lm[0].digest.sample | .groups = ([.groups, $lm[0].groups] | transpose | map(.[0] + .[1]))
            | .weights.lm = ([.groups[].weights] | add)' any >$bits.json
    done
    head -n 100 "$REPO/datasets/demo/captions_medium.txt" >captions
    aq-calib tokens -q --tokenizer "$REPO/models/qwen3_vl_demo/checkpoint" -o tokens captions
    measure() { aq-eval singles -q --reference "$m/lm.json" --domain s=tokens "$@" 4.json 8.json; }
    measure --device cpu --dtype fp32 -o cpu:fp32
    for d in fp32 bf16; do
        measure --device cuda --dtype $d -o cuda:$d
        measure --device cuda --dtype $d -o again
        cmp again cuda:$d
    done
    # the size of the differences by that of the numbers, which are few: sums over the samples, and over the positions
    far() {
        jq -n --argjson n "$1" --slurpfile a <(numbers cpu:fp32 "$2") --slurpfile b <(numbers cuda:fp32 "$2") '
            def sums: [_nwise($n) | add]; [($a | sums), ($b | sums)] | transpose | (map(.[0] - .[1] | . * .) | add) / (map(.[0] | . * .) | add) | sqrt'
    }
    for n in 100:kl 1:cov; do
        off=$(far "${n%:*}" "${n#*:}")
        echo "# ${n#*:} of singles on the GPU: off by $off" >&3
        jq -en --argjson x "$off" '$x < 1e-4'
    done
}

# bats test_tags=gpu
@test "compute-sanitizer finds nothing on a tiny model" {
    need_command compute-sanitizer
    # cuBLAS's bf16 kernels store through the copy engine, which initcheck and racecheck do not see
    compute-sanitizer --tool memcheck --error-exitcode 9 "$O/bin/aq-score" -q --lm "$T/lm.json" --tokens "$T/tokens" \
        --score-samples 8 --device cuda --dtype bf16 -o b "$T"/*_CFG.json
    aq-extract-lm -q -o moe.json "$REPO/tests/oracle/families/qwen3_moe"
    for i in 1 2 3 4 5; do seq -s' ' 1 $((i * 8)); done | "$O/tests/make_tokens" --sizes 5 -o moe-tokens
    for tool in memcheck racecheck initcheck; do
        compute-sanitizer --tool $tool --error-exitcode 9 "$O/bin/aq-score" -q --lm moe.json --tokens moe-tokens \
            --score-samples 5 --device cuda --dtype fp32 -o moe-$tool "$T/INT8_WEIGHT_ONLY_CFG.json"
    done
    for tool in racecheck initcheck; do
        compute-sanitizer --tool $tool --error-exitcode 9 "$O/bin/aq-score" -q --lm "$T/lm.json" --tokens "$T/tokens" \
            --score-samples 8 --device cuda --dtype fp32 -o s-$tool "$T"/*_CFG.json
    done
}
