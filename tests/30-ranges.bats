#!/usr/bin/env bats
# aq-calib ranges: one pass over the demo model; the same bytes for any number of threads; what it refuses.
load helpers

setup_file() {
    export W=$BATS_FILE_TMPDIR
    cd "$REPO" || return
    aq-extract-lm models/qwen3_vl_demo/checkpoint -o "$W/lm.json"
    aq-calib tokens --tokenizer models/qwen3_vl_demo/checkpoint -o "$W/tokens" datasets/demo/captions_{small,medium}.txt
    aq-calib tokens --tokenizer models/qwen3_vl_demo/checkpoint --padding max_length --seq-len 32 -o "$W/padded" datasets/demo/captions_small.txt
    aq-calib ranges --lm "$W/lm.json" -o "$W/ranges" "$W/tokens"
}

setup() {
    cd "$REPO" || return
}

ranges() {
    aq 0 aq-calib ranges --lm "$W/lm.json" "$@"
}

# header FILE: the JSON header of a safetensors file.
header() {
    local n
    n=$(od -An -t u8 -N 8 "$1" | tr -d ' ')
    tail -c +9 "$1" | head -c "$n"
}

# floats FILE TENSOR [BYTES OF ONE]: its numbers, one a line.
floats() {
    local n begin end size=${3:-4}
    n=$(od -An -t u8 -N 8 "$1" | tr -d ' ')
    read -r begin end < <(header "$1" | jq -r --arg t "$2" '.[$t].data_offsets | "\(.[0]) \(.[1])"')
    tail -c +$((9 + n + begin)) "$1" | head -c $((end - begin)) | od -An -v -t "f$size" -w"$size"
}

@test "the file has a row for every input and a channel range for every size" {
    is "$(header "$W/ranges" | jq -c '.first | [.dtype, .shape]')" '["F32",[28,128]]'
    is "$(header "$W/ranges" | jq -c '.rest | [.dtype, .shape]')" '["F32",[28,128]]'
    is "$(header "$W/ranges" | jq -c '."channel/27" | [.dtype, .shape]')" '["F32",[2,384]]'
    is "$(header "$W/ranges" | jq -c '."channel/1".shape')" '[2,384]'
    is "$(header "$W/ranges" | jq -c '."mean/27" | [.dtype, .shape]')" '["F64",[2,384]]'
    is "$(header "$W/ranges" | jq -r '.__metadata__.aq' | jq -c '[.schema, .prefixes, .dtype]')" '["aq.ranges/2",[16,128],"bf16"]'
    # inputs and groups are those of lm.json
    is "$(header "$W/ranges" | jq -r '.__metadata__.aq' | jq -cS '.inputs, .groups')" "$(jq -cS '.inputs, .groups' "$W/lm.json")"
    is "$(header "$W/ranges" | jq '.pad')" null
}

@test "the largest channel is the largest sample, at each size" {
    local sample channel n
    for n in 16 128; do
        sample=$({ floats "$W/ranges" first | head -n "$n" && floats "$W/ranges" rest | head -n "$n"; } | sort -g | tail -n 1)
        channel=$(floats "$W/ranges" channel/0 | tail -n +$((n == 16 ? 1 : 257)) | head -n 256 | sort -g | tail -n 1)
        is "$channel" "$sample"
    done
}

@test "the same bytes for 1, 2, 3 and 8 threads" {
    local n
    for n in 1 2 3 8; do
        ranges --threads "$n" -o "$BATS_TEST_TMPDIR/r" "$W/tokens"
        cmp "$BATS_TEST_TMPDIR/r" "$W/ranges"
    done
}

@test "sizes that a short data set lacks are left out" {
    ranges --prefix 16 -o "$BATS_TEST_TMPDIR/r" "$W/tokens"
    ranges --prefix 16,512,1000 -o "$BATS_TEST_TMPDIR/s" "$W/tokens"
    has "$stderr" "warning: --prefix: 1000 is left out, there are only 128 samples"
    has "$stderr" "warning: --prefix: 512 is left out"
    cmp "$BATS_TEST_TMPDIR/r" "$BATS_TEST_TMPDIR/s"
}

@test "a shorter prefix gives the same numbers" {
    ranges --prefix 16 -o "$BATS_TEST_TMPDIR/r" "$W/tokens"
    cmp <(floats "$BATS_TEST_TMPDIR/r" channel/14) <(floats "$W/ranges" channel/14 | head -n 256)
    cmp <(floats "$BATS_TEST_TMPDIR/r" mean/14 8) <(floats "$W/ranges" mean/14 8 | head -n 256)
    # another size on the way changes no sum
    ranges --prefix 16,77,128 -o "$BATS_TEST_TMPDIR/r" "$W/tokens"
    cmp <(floats "$BATS_TEST_TMPDIR/r" mean/14 8 | tail -n 256) <(floats "$W/ranges" mean/14 8 | tail -n 256)
}

@test "with padding, the pad row has a range of its own; text rows keep theirs" {
    ranges -o "$BATS_TEST_TMPDIR/r" "$W/padded"
    is "$(header "$BATS_TEST_TMPDIR/r" | jq -c '.pad.shape')" '[28]'
    # a pad attends to nothing, so that the input of the output projection is zero there
    is "$(floats "$BATS_TEST_TMPDIR/r" pad | awk '($1 > 0) != (NR % 4 == 2) { n++ } END { print n }')" 28
    # pads give nothing to the text, whose positions alone are others: rounding of the rotation
    ranges --prefix 16 -o "$BATS_TEST_TMPDIR/plain" "$W/tokens"
    local t
    for t in first rest; do
        paste <(floats "$BATS_TEST_TMPDIR/r" $t) <(floats "$BATS_TEST_TMPDIR/plain" $t) |
            awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4 * $2) bad++ } END { exit !(NR == 448 && bad == 0) }'
    done
}

@test "through a pipe, and with the product on standard output" {
    aq-calib ranges --lm "$W/lm.json" "$W/tokens" | cmp - "$W/ranges"
}

@test "what is typed wrongly" {
    refused 2 "--lm is missing" aq-calib ranges "$W/tokens"
    refused 2 "'x' is not a positive number" aq-calib ranges --lm "$W/lm.json" --prefix 16,x "$W/tokens"
    refused 2 "16 does not come after 128" aq-calib ranges --lm "$W/lm.json" --prefix 128,16 "$W/tokens"
    refused 2 "--prefix: 512, but there are only 128 samples" aq-calib ranges --lm "$W/lm.json" --prefix 512 "$W/tokens"
    refused 2 "unknown device" aq-calib ranges --lm "$W/lm.json" --device gpu "$W/tokens"
    refused 2 "threads" aq-calib ranges --lm "$W/lm.json" --threads 0 "$W/tokens"
    AQ_MATRIX=wide refused 2 "AQ_MATRIX is 'wide'" aq-calib ranges --lm "$W/lm.json" "$W/tokens"
}

@test "files that are something else" {
    refused 3 "not valid UTF-8" aq-calib ranges --lm "$W/tokens" "$W/lm.json"
    refused 3 "ranges" aq-calib ranges --lm "$W/lm.json" "$W/ranges"
    head -c 1000 "$W/tokens" >"$BATS_TEST_TMPDIR/cut"
    refused 3 "cut" aq-calib ranges --lm "$W/lm.json" "$BATS_TEST_TMPDIR/cut"
    # a file from before there were means
    LC_ALL=C sed 's|"mean/5"|"meal/5"|' "$W/ranges" >"$BATS_TEST_TMPDIR/old"
    aq-overlay --format INT8_DEFAULT_CFG -o "$BATS_TEST_TMPDIR/q"
    refused 3 "tensor 'mean/5' is missing" aq-score --lm "$W/lm.json" --tokens "$W/tokens" --ranges "$BATS_TEST_TMPDIR/old" --device cpu -o "$BATS_TEST_TMPDIR/s" "$BATS_TEST_TMPDIR/q"
    has "$stderr" "make it again with 'aq-calib ranges'"
}

@test "a limit that is too small is named before the work" {
    refused 1 "memory limit" aq-calib ranges -q --lm "$W/lm.json" --memory 1M "$W/tokens"
}

@test "cuda without a plugin says what is missing" {
    AQ_BACKEND_PATH=$BATS_TEST_TMPDIR refused 4 "no plugin" aq-calib ranges --lm "$W/lm.json" --device cuda "$W/tokens"
    echo text >"$BATS_TEST_TMPDIR/aq-backend-cuda.so"
    AQ_BACKEND_PATH=$BATS_TEST_TMPDIR refused 4 "cannot load plugin" aq-calib ranges --lm "$W/lm.json" --device cuda "$W/tokens"
}
