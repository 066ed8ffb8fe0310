# aq-score on a tiny random model: the same bytes whatever the way, and what is refused.
load helpers

setup_file() {
    load helpers
    export T=$BATS_FILE_TMPDIR
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 128 --intermediate 256 --scale 0.08 "$T/model"
    aq-extract-lm -o "$T/lm.json" "$T/model"
    # 48 samples of 3 to 40 tokens: three tiles
    for i in $(seq 48); do seq -s' ' $((i * 7)) $((i * 7 + 2 + i * 11 % 38)); done >"$T/ids"
    "$O"/tests/make_tokens --sizes 8,40 -o "$T/tokens" <"$T/ids"
    aq-calib ranges --device cpu --lm "$T/lm.json" --prefix 8,40 -o "$T/ranges" "$T/tokens"
    for f in FP8_DEFAULT_CFG INT8_WEIGHT_ONLY_CFG INT4_WEIGHT_INT8_ACT_CFG NVFP4_WEIGHT_ONLY_CFG FP16_WEIGHT_INT8_ACT_CFG; do
        aq-overlay --format $f -o "$T/$f.json"
    done
    aq-overlay --format INT8_DEFAULT_CFG --granularity a_per_token_dynamic -o "$T/token.json"
    score "$T/whole"
}

score() { # score STORE [OPTION...]: all candidates
    local store=$1
    shift
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 8,40 --score-samples 40 --device cpu \
        -o "$store" "$@" "$T"/*_CFG.json "$T/token.json" 2>"$store.log"
}

same() { cmp "$1" "$T/whole"; }

some() { # the fastest useful call, for refusals: some STORE [OPTION...]
    local store=$1
    shift
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --prefix 8 --score-samples 8 --device cpu -o "$store" "$@" \
        "$T/INT8_WEIGHT_ONLY_CFG.json"
}

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    export -f score some
}

@test "a store that has everything is left as it is, and nothing is computed" {
    cp "$T/whole" s
    score s
    has "$(cat s.log)" "0 candidates computed"
    same s
    [ ! -e s.part ]
}

@test "--measure: ranges and scores in one pass have the bytes of two; what is there is not touched, what is finished is kept" {
    local n m
    measured() { # measured STORE RANGES [OPTION...]
        aq-score -q --lm "$T/lm.json" --tokens "$T/tokens" --prefix 8,40 --device cpu -o "$1" --measure "$2" "${@:3}" "$T"/*_CFG.json "$T/token.json"
    }
    measured s r --score-samples 40
    same s
    cmp r "$T/ranges"
    stat -c %y r >before
    for m in gradient kl_div; do
        rm -f s
        measured s r --score-samples 8 --method $m # the ranges are of more samples than the scores
        aq-score -q --lm "$T/lm.json" --tokens "$T/tokens" --ranges r --prefix 8,40 --device cpu --score-samples 8 --method $m -o two-$m \
            "$T"/*_CFG.json "$T/token.json"
        cmp s two-$m
    done
    stat -c %y r | cmp - before
    # the scores of more samples than the ranges, and within a limit
    measured s8 r8 --prefix 8 --score-samples 40
    aq-calib ranges -q --device cpu --lm "$T/lm.json" --prefix 8 -o two-r8 "$T/tokens"
    cmp r8 two-r8
    n=$(measured x x --memory 1M 2>&1 | sed -nE 's/.*needs ([0-9]+) MB.*/\1/p')
    rm -f s
    measured s r --score-samples 40 --memory "${n}M"
    same s
    [ ! -e x ]
    # a store that holds all, and ranges that are gone or damaged
    rm r
    measured s r --score-samples 40
    cmp r "$T/ranges"
    printf x | dd of=r bs=1 seek=5000 conv=notrunc status=none
    measured s r --score-samples 40
    cmp r "$T/ranges"
    same s
    aq 0 aq-score --dry-run --lm "$T/lm.json" --tokens "$T/tokens" --prefix 8,40 --score-samples 40 --device cpu --measure none "$T/token.json"
    [ ! -e none ]
    cp "$T/tokens" tokens
    refused 2 "it is an input of this run" measured x tokens --tokens tokens
    refused 2 "exclude each other" measured s r --ranges "$T/ranges"
    refused 2 "not with --shard" measured s r --shard 1/2
    refused 2 "not with --dynamic-batch" measured s r --dynamic-batch 8
}

@test "the same bytes for 1, 2 and 8 threads" {
    for n in 1 2 8; do
        score s$n --threads $n
        same s$n
    done
}

@test "the same bytes from 1, 3 and 7 shards, merged in any order" {
    for n in 1 3 7; do
        for k in $(seq $n); do score part-$n-"$k" --shard "$k/$n"; done
        aq 0 aq-score merge -o m$n $(ls part-$n-? | sort -r)
        same m$n
    done
}

@test "a row of a prefix has the numbers of its samples alone, however many are scored with it" {
    # equal places that differ are refused
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 8 --score-samples 8 --device cpu -o few \
        "$T"/*_CFG.json "$T/token.json"
    aq 0 aq-score merge -o m few "$T/whole"
    same m
    # 16 samples of the first tile: the 8 of the prefix, and zeros
    aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 8 --score-samples 3 --device cpu -o three \
        "$T/FP8_DEFAULT_CFG.json"
    aq 0 aq-score merge -o m three few
    cmp m few
    local size row at
    size=$(od -An -tu8 -N8 few)
    row=$(head -c $((8 + size)) few | tail -c +9 | jq -r 'keys[] | select(startswith("s/") and endswith("/8"))' | head -1)
    at=$((8 + size + $(head -c $((8 + size)) few | tail -c +9 | jq --arg r "$row" '.[$r].data_offsets[0]')))
    [ "$(od -An -tf8 -w8 -j$at -N64 few | awk '$1 > 0' | wc -l)" -eq 8 ]
    [ "$(od -An -tf8 -w8 -v -j$((at + 64)) -N64 few | awk '$1 == 0' | wc -l)" -eq 8 ]
}

@test "the same bytes within --memory, where layer inputs go to a file" {
    score s --memory 1M || true
    need=$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' s.log)
    score s --memory "${need}000000" --dry-run >plan
    grep "in a file" plan
    score s --memory "${need}000000"
    same s
}

@test "candidates and samples added one after another give the bytes of all at once" {
    for q in "$T"/*_CFG.json "$T/token.json"; do
        for n in 8 40; do
            aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 8,40 --score-samples $n \
                --device cpu -q -o s "$q"
        done
    done
    same s
}

@test "one writer at a time" {
    cp "$T/whole" s
    exec 8>s.lock
    flock 8
    refused 1 "is in use" some s
    exec 8>&-
}

@test "a store of another model, data set, method, dtype or rounding is not touched; --replace starts over" {
    some s
    cp s before
    "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 128 --intermediate 256 --seed 2 model2
    aq-extract-lm -o lm2.json model2
    refused 3 "another 'lm'" some s --lm lm2.json
    head -40 "$T/ids" | "$O"/tests/make_tokens -o tokens2
    refused 3 "another 'tokens'" some s --tokens tokens2
    refused 3 "another 'method'" some s --method kl_div
    refused 3 "another 'dtype'" some s --dtype fp32
    refused 3 "another 'operand_rounding'" some s --operand-rounding dtype
    cmp s before
    aq 0 some s --dtype fp32 --replace
    has "$stderr" "starting over"
}

@test "a store of another result_version is not used" {
    some s
    LC_ALL=C sed -i 's/\\"result_version\\": *[0-9]*/\\"result_version\\": 99/' s
    run --separate-stderr some s
    [ "$status" -eq 3 ]
}

# sums_at STORE: where the sums of its first row begin
sums_at() {
    local n
    n=$(od -An -tu8 -N8 "$1")
    echo $((8 + n + $(head -c $((8 + n)) "$1" | tail -c "$n" | jq '[to_entries[] | select(.key | startswith("s/")) | .value.data_offsets[0]] | min')))
}

@test "rows of other activation ranges are dropped and computed again, and no others" {
    local digest n
    n=$(od -An -tu8 -N8 "$T/whole")
    digest=$(head -c $((8 + n)) "$T/whole" | tail -c "$n" | jq -r '.__metadata__.aq | fromjson | .ranges["40"]')
    sed "s/$digest/$(tr 0-9 1-90 <<<"$digest")/" "$T/whole" >s
    "$O"/tests/store_seal s
    aq 0 aq-score ls s
    score s
    has "$(<s.log)" "rows of 's' were measured with other activation ranges and are dropped"
    grep -qE '[1-9] candidates computed, [1-9] were in the store' s.log || { cat s.log; return 1; }
    same s
}

@test "a truncated store, a wrong file and impossible numbers are refused and kept" {
    some s
    size=$(stat -c %s s)
    for n in 0 4 8 100 $((size / 2)) $((size - 1)); do
        head -c "$n" s >cut
        cp cut before
        refused 3 "cut" some cut
        refused 3 "cut" aq-score ls cut
        cmp cut before
    done
    refused 3 "tokens" aq-score ls "$T/tokens"
    at=$(sums_at s)
    for bytes in '\000\000\000\000\000\000\370\177' '\000\000\000\000\000\000\360\277'; do
        cp s bad
        printf "$bytes" | dd of=bad bs=1 seek=$at conv=notrunc status=none
        refused 3 "damaged" some bad
        "$O"/tests/store_seal bad
        refused 3 "sample 0" some bad
    done
}

@test "an unreadable part file is left behind with a warning" {
    head -c 3000 /dev/urandom >s.part
    aq 0 some s
    has "$stderr" "cannot be used"
}

@test "tokens outside the vocabulary, no samples, ranges of other data" {
    echo "1 2 600" | "$O"/tests/make_tokens -o wide
    refused 3 "token id 600" some s --tokens wide --prefix 1 --score-samples 1
    head -40 "$T/ids" | "$O"/tests/make_tokens -o tokens2
    refused 3 "" aq-score --lm "$T/lm.json" --tokens tokens2 --ranges "$T/ranges" --prefix 8 --score-samples 8 \
        --device cpu -o s "$T/FP8_DEFAULT_CFG.json"
    aq-calib ranges -q --lm "$T/lm.json" --prefix 8,40 --dtype fp32 -o ranges32 "$T/tokens"
    refused 3 "ranges 'ranges32' were made with another dtype: 'fp32', now 'bf16'" aq-score --lm "$T/lm.json" --tokens "$T/tokens" \
        --ranges ranges32 --prefix 8 --score-samples 8 --device cpu -o s "$T/FP8_DEFAULT_CFG.json"
    refused 3 "16" aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 16 --score-samples 8 \
        --device cpu -o s "$T/FP8_DEFAULT_CFG.json"
    [ ! -e s ]
}

@test "a treatment in a spelling that is not its own is refused" {
    local w=e2m1:nvfp4'(16)':dynamic a=e2m1:nvfp4'(16)':dynamic
    jq --arg w "$w" --arg a "$a" --arg id "$(printf '%s|%s' "$w" "$a" | sha256sum | head -c 16)" \
        '.treatment = {w: $w, a: $a} | .treatment_id = $id' "$T/FP8_DEFAULT_CFG.json" >q.json
    refused 3 "the second level of nvfp4 activations is static" aq-score --lm "$T/lm.json" --tokens "$T/tokens" \
        --ranges "$T/ranges" --prefix 8 --score-samples 8 --device cpu -o s q.json
}

@test "progress: scoring and ranges say how far they are, from nothing to all" {
    local last='.[0].done == 0 and (.[-1] | .done == .total) and (map(.done) | . == sort) and .[0].total > 3'
    for method in gradient kl_div; do
        some s-$method --method $method --progress=json 2>log
        grep scoring log | jq -es "$last" || { cat log; return 1; }
    done
    aq-calib ranges --progress=json --lm "$T/lm.json" --prefix 8 -o r "$T/tokens" 2>log
    # more often than once a layer
    grep '"ranges"' log | jq -es "$last" || { cat log; return 1; }
}

@test "NaN and infinity in a weight are named" {
    for bytes in '\300\177' '\200\177'; do
        "$O"/tests/random_checkpoint --kind qwen3 --layers 3 --hidden 128 --intermediate 256 bad
        aq-extract-lm -o lm0.json bad
        at=$(jq '.tensors[] | select(.name == "layers.1.mlp.up_proj.weight") | .begin' lm0.json)
        printf "$bytes" | dd of=bad/model.safetensors bs=1 seek=$((at + 2 * 5000)) conv=notrunc status=none
        aq-extract-lm -o bad.json bad
        refused 3 "not finite in sample" some s --lm bad.json
        has "$stderr" "layer 1"
    done
}

@test "what is typed" {
    refused 2 "--shard" some s --shard 4/3
    refused 2 "--prefix" some s --prefix 8,x
    refused 2 "--prefix: 8 does not come after 8" some s --prefix 8,8
    refused 2 "--prefix: 4 does not come after 8" some s --prefix 8,4
    refused 2 "score-samples" some s --score-samples 0
    refused 2 "threads" some s --threads 0
    refused 2 "threads" some s --threads -1
    refused 2 "-o STORE" aq-score --lm a --tokens b --prefix 8 --score-samples 8 x.json
    refused 3 "fp16" some s --dtype fp16
    refused 4 "device" some s --device cuda
    refused 2 "device" some s --device tpu
}

@test "a sample of one token, and no label at all" {
    printf '5\n6 7 8\n' | "$O"/tests/make_tokens -o one
    aq 0 some s --tokens one --prefix 2 --score-samples 2
    printf '5\n6\n' | "$O"/tests/make_tokens -o none
    aq 0 some n --tokens none --prefix 2 --score-samples 2
    cell run.json 2
    aq 0 aq-score collect --run run.json --quant "$T/INT8_WEIGHT_ONLY_CFG.json" s
    refused 3 "no labels" aq-score collect --run run.json --quant "$T/INT8_WEIGHT_ONLY_CFG.json" n
}

@test "the plan writes nothing and counts what is missing" {
    aq 0 some s --dry-run
    [ ! -e s ] && [ ! -e s.part ] && [ ! -e s.lock ]
    has "$output" "rows to compute"
    cp "$T/whole" s
    aq 0 score s --dry-run
    grep -E 'rows to compute +0' <<<"$output"
    # a plan needs no store
    rm s
    aq 0 score s --dry-run
    local with=$output
    local nowhere=(aq-score --lm "$T/lm.json" --tokens "$T/tokens" --ranges "$T/ranges" --prefix 8,40 --score-samples 40
        --device cpu "$T"/*_CFG.json "$T/token.json")
    aq 0 "${nowhere[@]}" --dry-run
    is "$(grep -v GFLOP <<<"$output")" "$(grep -v GFLOP <<<"$with")"
    refused 2 "-o STORE is needed" "${nowhere[@]}"
}

@test "weights are loaded twice, at most" {
    bytes=$(jq '[.tensors[] | .end - .begin] | add' "$T/lm.json")
    aq 0 some s -v
    read -r mb <<<"$(sed -nE 's/.*weights loaded: ([0-9.]+) MB.*/\1/p' <<<"$stderr")"
    jq -en --argjson mb "$mb" --argjson b "$bytes" '$mb * 1e6 <= 2.05 * $b'
}

@test "kl_div: the same store for any threads and shards, and within --memory" {
    kl() { local s=$1; shift; some "$s" --method kl_div --score-samples 40 --prefix 40 "$@" 2>"$s.log"; }
    kl a --threads 1
    kl b --threads 2
    cmp a b
    for k in 1 2 3; do kl p$k --shard $k/3; done
    aq-score merge -o m p3 p1 p2
    cmp a m
    kl c --memory 1M || true
    kl c --memory "$(sed -nE 's/.*needs ([0-9]+) MB.*/\1/p' c.log)000000"
    cmp a c
}

# cell FILE SAMPLES: a run of that size
cell() {
    jq -n --argjson n "$2" '{model: {name: "m", path: "model", dtype: "bf16"},
      dataset: {name: "d", size: "s", root: "r", captions_path: "r/c", max_calib_samples: null, calib_seq_len: 512, padding: "none",
                size_to_max_samples: {s: 99}},
      quant_pair: {name: "pair"}, quant_granularity: {name: "default"},
      autoquant: {method: "gradient", batch_size: 8, effective_bits: 8.0, score_size: 128, normalization: "per_token",
                  operand_rounding: "none"},
      _aq: {schema: "aq.run/1", scheme_name: "pair_autoquant_lm", num_calib_samples: $n, score_samples: $n}}' >"$1"
}

@test "collect: a prefix is scored from its own rows; parts; sums add up" {
    cell run.json 40
    aq 0 aq-score collect --run run.json --quant "$T/INT4_WEIGHT_INT8_ACT_CFG.json" -o scores.json "$T/whole"
    jq -e '.schema == "aq.scores/2" and (.groups | length) == 12 and .identity.prefix == 40 and .identity.ranges != null
           and .groups[0].members == ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj"]
           and .groups[0].activation_only > 0 and .groups[0].weight_only == null
           and (.batches | map(.[0])) == [8, 8, 8, 8, 8] and (.batches | map(.[1]) | add) == .labels
           and .run.dataset.max_calib_samples == 99 and .weights.lm > 0' scores.json
    jq -e '.labels as $n | [.groups[] | (.per_token * $n / .sum - 1) | fabs < 1e-12] | all' scores.json
    cell run8.json 8
    aq 0 aq-score collect --run run8.json --quant "$T/INT4_WEIGHT_INT8_ACT_CFG.json" -o scores8.json "$T/whole"
    jq -en --slurpfile a scores.json --slurpfile b scores8.json '$a[0].identity.ranges != $b[0].identity.ranges'
    aq 0 aq-select scores.json
}

# Each value against its formula, from the sums of the store.
@test "collect: intervals, the group ranked next, and how much larger the first row gets" {
    need_command python3
    cell run.json 40
    aq 0 aq-score collect --ranges "$T/ranges" --run run.json --quant "$T/INT4_WEIGHT_INT8_ACT_CFG.json" -o scores.json "$T/whole"
    aq 0 aq-score collect --run run.json --quant "$T/INT4_WEIGHT_INT8_ACT_CFG.json" -o plain.json "$T/whole"
    jq -e '[.groups[].range_ratio] | all(. == null)' plain.json
    python3 - "$T/whole" "$T/ranges" <<'PY'
import json, math, struct, sys
def tensors(path):
    b = open(path, "rb").read()
    n = struct.unpack("<Q", b[:8])[0]
    h = json.loads(b[8:8 + n])
    h.pop("__metadata__")
    f = {"F64": "d", "F32": "f", "I32": "i", "U8": "B", "U64": "Q"}
    return {k: (v["shape"], struct.unpack("<%d%s" % (math.prod(v["shape"]), f[v["dtype"]]),
            b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])) for k, v in h.items()}
store, ranges, doc = tensors(sys.argv[1]), tensors(sys.argv[2]), json.load(open("scores.json"))
m, t = 40, 2.0226909117347296  # Student's 97.5 % point of 39 degrees
_, sums = store["s/%s/40" % doc["candidate"]["treatment_id"]]
labels = store["labels"][1][:m]
n = sum(labels)
all_samples = len(sums) // len(doc["groups"])
rows = [sums[g * all_samples:g * all_samples + m] for g in range(len(doc["groups"]))]
near = lambda a, b: abs(a - b) <= 1e-9 * abs(b)
def error(r):
    mean = sum(r) / n
    return math.sqrt(m / (m - 1) * sum((s - mean * k) ** 2 for s, k in zip(r, labels))) / n
order = sorted(range(len(rows)), key=lambda g: (-sum(rows[g]), g))
samples = ranges["first"][0][1]
for place, g in enumerate(order):
    e, r = doc["groups"][g], sum(rows[g]) / n
    wide = t * error(rows[g]) / r
    assert near(e["per_token_se"], error(rows[g])), e["name"]
    assert near(e["per_token_ci"][0], r * math.exp(-wide)) and near(e["per_token_ci"][1], r * math.exp(wide)), e["name"]
    if place + 1 == len(order):
        assert e["next"] is None
    else:
        h = order[place + 1]
        d = [a - b for a, b in zip(rows[g], rows[h])]
        assert e["next"]["name"] == doc["groups"][h]["name"]
        assert near(e["next"]["difference"], sum(d) / n) and near(e["next"]["se"], error(d)), e["name"]
    (i,) = e["inputs"]
    most = lambda name: max(ranges[name][1][i * samples:i * samples + m])
    assert near(e["range_ratio"], most("first") / most("rest")), e["name"]
PY
    echo 1 2 3 | "$O"/tests/make_tokens -o other
    aq-calib ranges --device cpu --lm "$T/lm.json" --prefix 1 -o other.st other
    refused 3 "of other tokens" aq-score collect --ranges other.st --run run.json --quant "$T/INT4_WEIGHT_INT8_ACT_CFG.json" "$T/whole"
}

# 12,000 and 1,500 intervals of the demo model's captions against the mean of all 512; intervals of
# plus or minus two errors cover 82 to 84 % and 91 to 92 %.
@test "intervals cover: 87 % at 16 captions, 92 % at 128" {
    if sanitized; then skip "512 captions take minutes in a sanitizer build"; fi
    local m=$REPO/models/qwen3_vl_demo/checkpoint d=$REPO/datasets/demo f
    aq-extract-lm -o lm.json "$m"
    aq-calib tokens --tokenizer "$m" -o tokens "$d/captions_large.txt"
    for f in INT8_WEIGHT_ONLY_CFG INT4_BLOCKWISE_WEIGHT_ONLY_CFG FP8_WEIGHT_ONLY_CFG NVFP4_WEIGHT_ONLY_CFG; do
        aq-overlay --format $f -o $f.json 2>/dev/null
    done
    aq-score --lm lm.json --tokens tokens --prefix 512 -o store ./*_CFG.json
    "$O"/tests/coverage store 16 128 >covered
    cat covered
    awk '{ least = $1 == 16 ? 0.87 : 0.92; if ($2 < least * $3 || $3 < 400) bad = 1 } END { exit bad || NR != 2 }' covered
}

@test "collect: what is missing is named, with the command; a sweep goes on" {
    cell run.json 40
    score half --shard 1/3
    refused 3 "lacks candidate" aq-score collect --run run.json --quant "$T/FP8_DEFAULT_CFG.json" half
    has "$stderr" "run aq-score --prefix 40"
    mkdir -p a/c b/c
    cp run.json a/c && cp run.json b/c
    cp "$T/FP8_DEFAULT_CFG.json" a/quant.json
    aq-overlay --format FP8_WEIGHT_ONLY_CFG -o b/quant.json
    jq -n '{cells: [{dir: "b/c", supported: true}, {dir: "a/c", supported: true}, {dir: "x", supported: false}]}' >cells.json
    refused 3 "lacks candidate" aq-score collect --cells cells.json "$T/whole"
    [ -e a/c/scores.json ] && [ ! -e b/c/scores.json ]
    touch -d 2001-01-01 a/c/scores.json
    aq 3 aq-score collect --cells cells.json "$T/whole"
    is "$(stat -c %y a/c/scores.json | cut -c1-4)" 2001
    cp "$T/whole" s
    aq 0 aq-score gc --keep cells.json s
    is "$(aq-score ls --json s | jq -c '[.rows[].w] | unique')" '["e4m3:tensor:static"]'
    same "$T/whole"
}

@test "collect: groups whose score does not depend on bits are named, and ordinary ones are not" {
    # down_proj of layer 0 is zero, so nothing reaches gate and up; o_proj of layer 1 is exact in every integer and float format
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 128 --intermediate 256 --scale 0.08 \
        --zeros layers.0.mlp.down --signs layers.1.self_attn.o model
    aq-extract-lm -o lm.json model
    head -8 "$T/ids" | "$O"/tests/make_tokens --sizes 8 -o tokens
    aq-calib ranges --device cpu --lm lm.json --prefix 8 -o ranges tokens
    quants=(INT8_WEIGHT_ONLY INT8_WEIGHT_INT4_ACT INT4_WEIGHT_INT8_ACT FP16_WEIGHT_INT8_ACT)
    for f in "${quants[@]}"; do aq-overlay --format "${f}_CFG" -o "$f.json"; done
    cell run.json 8
    flat() { # STORE QUANT
        aq 0 aq-score collect --run run.json --quant "$2.json" -o scores.json "$1"
        flat=$(jq -r '[.groups[] | select(has("flat")) | "\(.name[7:])=\(.flat)"] | join(" ")' scores.json)
    }
    score_these() { aq-score -q --lm lm.json --tokens tokens --ranges ranges --prefix 8 --score-samples 8 --device cpu -o "$@"; }
    dead="0.mlp.gate_proj=zero 0.mlp.down_proj=zero"
    score_these s "${quants[@]/%/.json}"
    flat s INT4_WEIGHT_INT8_ACT
    is "$flat" "$dead 1.self_attn.o_proj=weights"
    has "$stderr" "of 3 of 8 groups does not depend on bits"
    has "$stderr" "layers.0.mlp.gate_proj, layers.0.mlp.down_proj, layers.1.self_attn.o_proj"
    flat s FP16_WEIGHT_INT8_ACT
    is "$flat" "$dead 1.self_attn.o_proj=weights"
    flat s INT8_WEIGHT_INT4_ACT # alone with its activations
    is "$flat" "$dead"
    flat s INT8_WEIGHT_ONLY
    is "$flat" "$dead 1.self_attn.o_proj=zero"
    aq-select -q scores.json -o m.json
    is "$(aq-report --md m.json | grep -c 'layers.1.self_attn.o_proj` (zero)')" 1
    score_these one INT4_WEIGHT_INT8_ACT.json # nothing to compare with
    flat one INT4_WEIGHT_INT8_ACT
    is "$flat" "$dead"
    cell run.json 40
    for f in INT8_WEIGHT_ONLY INT4_WEIGHT_INT8_ACT FP16_WEIGHT_INT8_ACT; do
        flat "$T/whole" $f
        is "$flat$stderr" ""
    done
}

@test "merge refuses parts of different stores, and equal places that differ" {
    some a --score-samples 40
    some b --dtype fp32
    refused 3 "another 'dtype'" aq-score merge -o m a b
    cp a c
    at=$(sums_at c)
    printf '\001' | dd of=c bs=1 seek=$at conv=notrunc status=none
    refused 3 "damaged at layer 0, tile 0" aq-score merge -o m a c
    "$O"/tests/store_seal c
    refused 3 "another sum" aq-score merge -o m a c
    [ ! -e m ]
}
