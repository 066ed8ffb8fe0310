#!/usr/bin/env bats
# The model that ships: its files agree with each other, with the tools, and with what its log says.
load helpers

D=$REPO/models/qwen3_vl_demo
C=$D/checkpoint
DATA=$REPO/datasets/demo

@test "shards are as long as their headers say, and hold what the index says" {
    local f n
    for f in model-00001-of-00002.safetensors model-00002-of-00002.safetensors; do
        n=$(od -An -tu8 -N8 "$C/$f" | tr -d ' ')
        tail -c +9 "$C/$f" | head -c "$n" >"$BATS_TEST_TMPDIR/$f.json"
        is "$(stat -c %s "$C/$f")" "$(jq --argjson n "$n" '8 + $n + ([.[] | .data_offsets[1]? // 0] | max)' "$BATS_TEST_TMPDIR/$f.json")"
        is "$(jq -c 'del(.__metadata__) | map(.dtype) | unique' "$BATS_TEST_TMPDIR/$f.json")" '["BF16"]'
        is "$(jq -c 'del(.__metadata__) | keys' "$BATS_TEST_TMPDIR/$f.json")" \
            "$(jq -c --arg f "$f" '.weight_map | to_entries | map(select(.value == $f).key) | sort' "$C/model.safetensors.index.json")"
    done
    is "$(jq -s 'map(del(.__metadata__) | .[] | .data_offsets | .[1] - .[0]) | add' "$BATS_TEST_TMPDIR"/*.json)" \
        "$(jq .metadata.total_size "$C/model.safetensors.index.json")"
}

@test "it is small, and its shape tells sizes apart that a bug could confuse" {
    [ "$(cat "$C"/*.safetensors | wc -c)" -lt 10000000 ]
    is "$(jq -r '.model_type, .text_config.model_type' "$C/config.json" | tr '\n' ' ')" "qwen3_vl qwen3_vl_text "
    is "$(jq '.text_config | .num_hidden_layers >= 6 and .hidden_size >= 256 and .intermediate_size % 128 == 0
        and .num_attention_heads > .num_key_value_heads and .num_attention_heads * .head_dim != .hidden_size
        and .rope_theta == 5000000 and .tie_word_embeddings and (.rope_scaling.mrope_section | add) * 2 == .head_dim' "$C/config.json")" true
}

@test "aq-extract-lm finds 7 layers and drops the vision tower" {
    aq 0 aq-extract-lm "$C"
    is "$(jq -c '.arch | [.num_hidden_layers, .hidden_size, .head_dim, .rope_theta, .tie_word_embeddings]' <<<"$output")" "[7,256,64,5000000,true]"
    is "$(jq '.tensors | length' <<<"$output")" "$((7 * 11 + 2))"
    is "$(jq -c '.dropped | map([.prefix, .tensors, .elements])' <<<"$output")" '[["model.visual.",45,297504]]'
    is "$(jq -r .head <<<"$output")" embed_tokens.weight
}

# The data of all tensors of a checkpoint, in the order of lm.json, by its byte ranges.
tensor_bytes() {
    local file begin end
    while read -r file begin end; do
        dd if="$1/$file" bs=64K iflag=skip_bytes,count_bytes skip="$begin" count=$((end - begin)) status=none
    done < <(aq-extract-lm "$1" | jq -r '.files as $f | .tensors[] | "\($f[.file].name) \(.begin) \(.end)"')
}

@test "aq-extract-lm --materialize leaves the language model alone, in the same bytes" {
    local out=$BATS_TEST_TMPDIR/lm
    aq 0 aq-extract-lm --materialize "$out" "$C"
    is "$(aq-extract-lm "$out" | jq -c '[(.tensors | length), (.dropped | length)]')" "[79,0]"
    is "$(tensor_bytes "$out" | sha256sum)" "$(tensor_bytes "$C" | sha256sum)"
    is "$(tensor_bytes "$C" | wc -c)" $((2 * 4428416))
}

@test "tokenizer: Qwen's layout, every byte, merges that lead to symbols, ids without gaps below the vocabulary size" {
    jq -e '.normalizer.type == "NFC" and .model.type == "BPE" and (.model.ignore_merges | not) and .model.unk_token == null
        and (.pre_tokenizer.pretokenizers | map(.type)) == ["Split", "ByteLevel"]' "$C/tokenizer.json"
    jq -e '[.model.vocab[], .added_tokens[].id] | sort == [range(length)]' "$C/tokenizer.json"
    jq -e '.model.vocab as $v | all(.model.merges[]; if type == "string" then split(" ") else . end | $v[.[0]] and $v[.[1]] and $v[add])' "$C/tokenizer.json"
    is "$(jq '[.model.vocab | to_entries[] | select(.value < 256).key | length] | unique | tojson' -r "$C/tokenizer.json")" "[1]"
    is "$(jq '.model.vocab["!"], .model.vocab["Ġ"]' "$C/tokenizer.json" | tr '\n' ' ')" "0 220 "
    is "$(jq -r '.added_tokens[:3][].content' "$C/tokenizer.json" | tr '\n' ' ')" "<|endoftext|> <|im_start|> <|im_end|> "
    local rows ids
    rows=$(jq .text_config.vocab_size "$C/config.json")
    ids=$(jq '(.model.vocab | length) + (.added_tokens | length)' "$C/tokenizer.json")
    [ "$ids" -le "$rows" ]
    is "$(jq -r .pad_token "$C/tokenizer_config.json")" "<|endoftext|>"
    is "$(jq -r '.image_token_id as $i | $i' "$C/config.json")" "$(jq '.added_tokens[] | select(.content == "<|image_pad|>").id' "$C/tokenizer.json")"
}

@test "captions: nested, none empty, held-out ones apart, and written again by the generator in the same bytes" {
    local n
    is "$(for n in small medium large heldout; do grep -c . "$DATA/captions_$n.txt"; done | tr '\n' ' ')" "16 128 512 512 "
    cmp <(head -n 16 "$DATA/captions_large.txt") "$DATA/captions_small.txt"
    cmp <(head -n 128 "$DATA/captions_large.txt") "$DATA/captions_medium.txt"
    is "$(sort "$DATA/captions_large.txt" "$DATA/captions_heldout.txt" | uniq -d)" ""
    command -v python3 >/dev/null || skip "python3 is not installed: not generated again"
    python3 -B "$D/make_corpus.py" demo -o "$BATS_TEST_TMPDIR"
    for n in small medium large heldout; do cmp "$BATS_TEST_TMPDIR/captions_$n.txt" "$DATA/captions_$n.txt"; done
}

@test "the tools count the tokens that HF tokenizers counted" {
    [ -x "$BIN/aq-calib" ] || skip "aq-calib is not built"
    local n header
    for n in "small 203" "medium 1610" "large 6364" "heldout 6409"; do
        grep -Fq "| \`captions_${n% *}.txt\` | $(wc -l <"$DATA/captions_${n% *}.txt") | ${n#* } |" "$DATA/README.md"
        aq 0 aq-calib tokens --tokenizer "$C" -o "$BATS_TEST_TMPDIR/tokens.safetensors" "$DATA/captions_${n% *}.txt"
        header=$(tail -c +9 "$BATS_TEST_TMPDIR/tokens.safetensors" | head -c "$(od -An -tu8 -N8 "$BATS_TEST_TMPDIR/tokens.safetensors" | tr -d ' ')")
        is "$(jq -c .ids.shape <<<"$header")" "[${n#* }]"
    done
}

@test "the generator never offers a demo caption for training" {
    need_command python3
    python3 -B - "$D" "$DATA/captions_large.txt" "$DATA/captions_heldout.txt" <<'END'
import sys
sys.path.insert(0, sys.argv[1])
from make_corpus import CALIBRATION, HELDOUT, TRAIN, captions, shelf
for path, wanted in (sys.argv[2], CALIBRATION), (sys.argv[3], HELDOUT):
    assert {shelf(line) for line in open(path, encoding="utf-8")} == {wanted}
assert shelf("A dog, on a BENCH.") == shelf("a dog on a bench\n")
assert all(shelf(c) >= TRAIN for c in captions(5, range(TRAIN, 256), 2000))
END
}

@test "the log: trained on a GPU, and better than counting words" {
    grep -q 'NVIDIA H200$' "$D/train.log"
    # held-out loss of the checkpoint against the two models that count
    awk '/^held-out loss of the bf16 checkpoint/ {
        for (i = 1; i < NF; i++) { if ($i == "fp32:") own = $(i + 1); if ($i == "unigram") uni = $(i + 1) + 0; if ($i == "bigram") bi = $(i + 1) + 0 }
        exit !(own > 0 && own < bi - 0.5 && bi < uni) }' "$D/train.log"
}

@test "it looks trained to the analysis: layers differ by much more than a factor of ten" {
    cd "$BATS_TEST_TMPDIR" || return
    export AQ_CONF=$REPO/conf
    aq-resolve -q --config-name preset/demo quant_pair=wint4_aint8 dataset.size=small -o run.json
    aq-overlay -q run.json -o quant.json
    aq-extract-lm -o lm.json "$C"
    aq-calib tokens --tokenizer "$C" -o tokens.st "$DATA/captions_small.txt"
    aq-calib ranges -q --lm lm.json --device cpu -o ranges.st tokens.st
    aq-score -q --lm lm.json --tokens tokens.st --ranges ranges.st --prefix 16 --score-samples 16 --device cpu -o store.st quant.json
    aq-score collect --run run.json --quant quant.json -o scores.json store.st
    # all groups, and those of one kind and size
    is "$(jq '[.groups[].per_token] | max / min > 100' scores.json)" true
    is "$(jq '[.groups[] | select(.name | test("down_proj")) | .per_token] | max / min > 10' scores.json)" true
}
