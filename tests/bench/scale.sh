#!/usr/bin/env bash
# How the time of aq-score grows: with samples, layers, treatments, the width of layers, and devices. Between two neighbours of each series
# stands the exponent, log(time ratio) / log(size ratio): 1 is linear, less is a part that does not grow. Then what models up to 235B
# take by the plan of aq-score, at the rate that its products have here. docs/scale.md has the figures.
#
#   make bench BENCH=scale              on the GPU where there is one, else on the CPU
#   DEVICE=cpu RUNS=5 make bench BENCH=scale
#
# Seconds are those of the wall on a GPU, and of the processors on a CPU, where other work disturbs them less. Random weights, samples of
# 12 tokens. Needs 9 GB in $TMPDIR for a GPU, 0.4 GB for a CPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/cells.bash
O=$(realpath "${O:-build}")
export PATH="$O/bin:$PATH" AQ_CONF=$PWD/conf
device=${DEVICE:-$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
runs=${RUNS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$device" = cpu ]; then
    sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c
    dtype=fp32 samples=(32 64 128 256 512) layers=(1 2 4 8) rows=(1 4 16 64) widths=(256 512 1024 2048)
    usual=(64 2 1 512) # samples, layers, treatments and width of the series that vary something else
    more='--head-dim 64 --vocab 8192'
else
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    dtype=bf16 samples=(64 128 256 512 1024) layers=(2 4 8 16 32) rows=(1 4 16 64) widths=(1024 2048 4096 8192)
    usual=(512 4 16 2560)
    more='--head-dim 128 --vocab 151936'
fi

# model LAYERS WIDTH: its lm.json, made once; a feed-forward part 3.8 times as wide, as in Qwen3-VL-4B
model() {
    local dir=$work/$1x$2 heads=$(($2 / 128))
    [ "$device" != cpu ] || heads=$(($2 / 64))
    if [ ! -e "$dir.json" ]; then
        # shellcheck disable=SC2086
        "$O/tests/random_checkpoint" --kind qwen3 --layers "$1" --hidden "$2" --intermediate $(($2 * 19 / 5 / 128 * 128)) --heads "$heads" \
            --kv-heads $((heads > 3 ? heads / 4 : heads)) $more "$dir"
        aq-extract-lm -q -o "$dir.json" "$dir"
    fi
    echo "$dir.json"
}
tokens() { # tokens SAMPLES
    [ -e "$work/tokens.$1" ] || for ((i = 0; i < $1; i++)); do seq -s' ' $((i * 7 % 4000)) $((i * 7 % 4000 + 11)); done |
        "$O/tests/make_tokens" -o "$work/tokens.$1"
}
# Every treatment of upstream's cells once; those of the first n take all kinds of products from n = 16 on.
write_cells "$work/cells"
mkdir "$work/quant"
n=100
for q in "$work"/cells/*.json; do
    id=$(jq -r .treatment_id "$q")
    if ! compgen -G "$work/quant/*-$id.json" >/dev/null; then cp "$q" "$work/quant/$((n++))-$id.json"; fi
done
all=("$work"/quant/*.json)
# every seventh treatment first, so that neighbours of one format do not stand together
mixed=()
for ((k = 0; k < 7; k++)); do for ((i = k; i < ${#all[@]}; i += 7)); do mixed+=("${all[i]}"); done; done

seconds() { # seconds SAMPLES LAYERS TREATMENTS WIDTH [SHARD]: the median of the runs
    local lm k took=() TIMEFORMAT='%U %S'
    [ "$device" = cpu ] || TIMEFORMAT=%R
    lm=$(model "$2" "$4")
    tokens "$1"
    [ -e "$lm.$1" ] || aq-calib ranges -q --device "$device" --dtype $dtype --lm "$lm" --prefix "$1" -o "$lm.$1" "$work/tokens.$1"
    for ((k = 0; k < runs; k++)); do
        rm -f "$work/store"
        took+=("$({ time aq-score -q --device "$device" --dtype $dtype --lm "$lm" --tokens "$work/tokens.$1" --ranges "$lm.$1" --prefix "$1" \
            --score-samples "$1" -o "$work/store" "${mixed[@]:0:$3}"; } 2>&1 | awk '{ print $1 + $2 }')")
    done
    printf '%s\n' "${took[@]}" | sort -g | sed -n "$(((runs + 1) / 2))p"
}

series() { # series NAME POSITION VALUE...: all else as usual
    local name=$1 at=$2 v t
    local size=("${usual[@]}")
    shift 2
    printf '\n%-14s seconds  exponent\n' "$name"
    for v; do
        size[at]=$v
        t=$(seconds "${size[@]}")
        echo "$v $t"
    done | awk '{ printf "%-12s %9.2f", $1, $2
        if (NR > 1) printf "  %8.2f", log($2 / t) / log($1 / v)
        print ""; v = $1; t = $2 }'
    [ "$device" = cpu ] || rm -rf "$work"/*x* # the weights of 32 layers are 6 GB
}
what=" ${WHAT:-samples layers treatments width models} "
if [[ $what == *' samples '* ]]; then series samples 0 "${samples[@]}"; fi
if [[ $what == *' layers '* ]]; then series layers 1 "${layers[@]}"; fi
if [[ $what == *' treatments '* ]]; then series treatments 2 "${rows[@]}" "${#mixed[@]}"; fi
if [[ $what == *' width '* ]]; then series width 3 "${widths[@]}"; fi
[[ $what == *' models '* ]] || exit 0

# The rate of scores alone: the work of all treatments less that of one, by the time that it took more.
work_of() { # work_of LM TREATMENTS: TFLOP of their scores of the usual samples, by the plan
    local n=${usual[0]}
    aq-score --dry-run --device cpu --lm "$1" --tokens "$work/tokens.$n" --prefix "$n" --score-samples "$n" "${mixed[@]:0:$2}" |
        awk '/^ *scores / { print $2 }'
}
tokens 512
every=${#mixed[@]} at=("${usual[@]}")
at[2]=1 && one=$(seconds "${at[@]}")
at[2]=$every && all_of_them=$(seconds "${at[@]}")
lm=$(model "${at[1]}" "${at[3]}")
rate=$(awk -v a="$(work_of "$lm" 1)" -v b="$(work_of "$lm" "$every")" -v s="$one" -v t="$all_of_them" 'BEGIN { print (b - a) / (t - s) }')
rm -rf "$work"/*x*
printf '\nscores of %d treatments: %.3f TFLOP/s, quantizing and comparing included\n\n' "$every" "$rate"
printf '%-26s %9s %12s %12s %12s %12s\n' '512 samples of 12 tokens' 'weights' 'one cell' 'all' 'one cell' 'all'
printf '%-26s %9s %12s %12s %12s %12s\n' '' 'GB, bf16' 'TFLOP' 'TFLOP' 'seconds' 'seconds'
row() { # row NAME OPTION...: a model of these sizes, as headers alone
    local name=$1 total part
    shift
    "$O/tests/random_checkpoint" --config-only "$@" "$work/shape"
    aq-extract-lm -q --shapes "$work/sparse" -o "$work/shape.json" "$work/shape"
    for part in 1 "$every"; do
        aq-score --dry-run --device cpu --lm "$work/shape.json" --tokens "$work/tokens.512" --prefix 512 --score-samples 512 \
            "${mixed[@]:0:$part}" | awk '/ TFLOP$/ { sum += $(NF - 1) } END { print sum }'
    done >"$work/flops"
    total=$(find "$work/sparse" -name '*.safetensors' -printf '%s\n' | awk '{ s += $1 } END { print s / 1e9 }')
    awk -v name="$name" -v gb="$total" -v rate="$rate" '{ f[NR] = $1 } END {
        printf "%-26s %9.1f %12.0f %12.0f %12.1f %12.1f\n", name, gb, f[1], f[2], f[1] / rate, f[2] / rate }' "$work/flops"
    rm -rf "$work/shape" "$work/sparse"
}
row 'Qwen3-0.6B' --kind qwen3 --layers 28 --hidden 1024 --intermediate 3072 --heads 16 --kv-heads 8 --head-dim 128 --vocab 151936 --tied yes
row 'Qwen3-4B' --kind qwen3 --layers 36 --hidden 2560 --intermediate 9728 --heads 32 --kv-heads 8 --head-dim 128 --vocab 151936 --tied yes
row 'Qwen3-32B' --kind qwen3 --layers 64 --hidden 5120 --intermediate 25600 --heads 64 --kv-heads 8 --head-dim 128 --vocab 151936
row 'Llama 3.1 70B' --kind qwen3 --layers 80 --hidden 8192 --intermediate 28672 --heads 64 --kv-heads 8 --head-dim 128 --vocab 128256
row 'Qwen3-30B-A3B' --kind qwen3_moe --layers 48 --hidden 2048 --intermediate 6144 --heads 32 --kv-heads 4 --head-dim 128 --vocab 151936 \
    --experts 128 --per-token 8 --moe-intermediate 768
row 'Qwen3-235B-A22B' --kind qwen3_moe --layers 94 --hidden 4096 --intermediate 12288 --heads 64 --kv-heads 4 --head-dim 128 --vocab 151936 \
    --experts 128 --per-token 8 --moe-intermediate 1536
