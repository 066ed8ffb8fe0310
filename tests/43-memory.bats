#!/usr/bin/env bats
# A model about three times larger than --memory: streamed from its file, with the same bytes as without a limit.
load helpers

@test "a model several times larger than --memory gives the same bytes, each weight loaded at most twice" {
    cd "$BATS_TEST_TMPDIR"
    export AQ_CONF=$REPO/conf
    "$O"/tests/random_checkpoint --kind qwen3 --layers 48 --hidden 512 --intermediate 1536 --vocab 1024 --scale 0.05 m
    aq-extract-lm -o lm.json m
    seq -s' ' 20 | "$O"/tests/make_tokens -o tokens
    aq-overlay --format INT8_WEIGHT_ONLY_CFG -o q.json
    score() {
        aq-score --lm lm.json --tokens tokens --method gradient --dtype bf16 --device cpu --threads 2 "$@" q.json
    }
    refused 1 "is too little" score --memory 1M -o small
    need=$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' <<<"$stderr")
    weights=$(jq '[.tensors[] | .end - .begin] | add' lm.json)
    [ $((need * 2500000)) -lt "$weights" ]
    aq 0 score --memory "${need}M" -v -o small
    read=$(sed -nE 's/.*weights loaded: ([0-9.]+) MB.*/\1/p' <<<"$stderr")
    jq -en "$read * 1e6 <= 2 * $weights"
    aq 0 score -o whole
    cmp small whole
}
