#!/usr/bin/env bash
# The data plane. Tokenizer: load (limit 300 ms) and 4,096 captions, against Hugging Face tokenizers on one thread where
# $AQ_ORACLE_PYTHON can import it; the ids must be the same. Checkpoints of the 4B model: lm.json of all of it (8.9 GB,
# sparse), and a copy of two of its layers against cp of the same files. There about 0.65 is to be expected: what cp copies
# stays at its place within a page, but tensors move, and the kernel takes half as long again for that.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=${O:-build}
export PATH="$O/bin:$PATH"
python=${AQ_ORACLE_PYTHON:-python3}
shared=../shared/data
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tokenizer() {
    if [ ! -d "$shared" ]; then
        echo "skipped: tokenizer (no test data in ../shared)"
        return
    fi
    mkdir "$work/qwen3"
    gzip -dc "$shared/qwen3-tokenizer/tokenizer.json.gz" >"$work/qwen3/tokenizer.json"
    for _ in {1..8}; do cat "$shared/vlm-quantize-calib/coco2017_captions_large.txt"; done >"$work/captions"
    local load encode count sum peer_load peer_encode peer_sum
    read -r load encode count sum <<<"$("$O/bench/tokens" "$work/qwen3" "$work/captions" 5)"
    awk -v l="$load" -v e="$encode" -v n="$count" 'BEGIN {
        printf "tokenizer: loaded in %.0f ms (limit 300 ms); 4096 captions, %d ids in %.1f ms\n", l, n, e; exit l > 300 }'
    if ! "$python" -c 'import tokenizers' 2>/dev/null; then
        echo "skipped: comparison with tokenizers (AQ_ORACLE_PYTHON=$python cannot import it)"
        return
    fi
    read -r peer_load peer_encode _ peer_sum <<<"$(TOKENIZERS_PARALLELISM=false "$python" tests/bench/tokens.py \
        "$work/qwen3/tokenizer.json" "$work/captions" 5)"
    [ "$sum" = "$peer_sum" ] || { echo "the ids differ from those of Hugging Face tokenizers"; return 1; }
    awk -v l="$load" -v e="$encode" -v pl="$peer_load" -v pe="$peer_encode" 'BEGIN {
        printf "           Hugging Face: %.0f ms, %.1f ms; the same ids %.1f times as fast (limit 1)\n", pl, pe, pe / e
        exit pe < e }'
}

# milliseconds COMMAND...: the fastest of three runs
milliseconds() {
    local start ms least=999999999
    for _ in 1 2 3; do
        rm -rf "$work/copy"
        start=$(date +%s%N)
        "$@"
        ms=$((($(date +%s%N) - start) / 1000000))
        ((ms >= least)) || least=$ms
    done
    echo "$least"
}

# What aq-extract-lm does for safety, cp does not: the bytes are on the disk at the end.
synced_copy() {
    cp -r "$1" "$2"
    sync "$2"/*
}

checkpoints() {
    "$O/tests/random_checkpoint" -p 4b --sparse --shards 2 "$work/4b"
    local ms ours cp rss
    ms=$(milliseconds aq-extract-lm -o "$work/lm.json" "$work/4b")
    echo "lm.json of a checkpoint of $(du -b --apparent-size -c "$work/4b"/*.safetensors | tail -1 | cut -f1) bytes: $ms ms"
    "$O/tests/random_checkpoint" -p 4b --layers 2 --vocab 20000 --vision-depth 0 "$work/two"
    cp=$(milliseconds synced_copy "$work/two" "$work/copy")
    ours=$(milliseconds aq-extract-lm --materialize "$work/copy" -o "$work/lm.json" "$work/two")
    rm -rf "$work/copy"
    /usr/bin/time -f %M -o "$work/rss" aq-extract-lm --materialize "$work/copy" -o "$work/lm.json" "$work/two"
    rss=$(cat "$work/rss")
    awk -v o="$ours" -v c="$cp" -v r="$rss" -v b="$(stat -c %s "$work/two/model.safetensors")" 'BEGIN {
        printf "copy of %.0f MB: %d ms, %.2f of the speed of cp and sync; %.0f MB of memory (limit 200 MB)\n",
            b / 1e6, o, c / o, r / 1e3
        exit r > 200000 }'
}

tokenizer
checkpoints
