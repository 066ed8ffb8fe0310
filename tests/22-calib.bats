# aq-calib tokens: caption files in, ids out, and what is refused. The ids themselves: tests/unit/test_tokenizer.c.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    TINY=$REPO/tests/data/tiny-tokenizer
    DEMO=$REPO/datasets/demo
}

# meta FILE: the metadata as JSON
meta() {
    local n
    n=$(od -An -t u8 -N 8 "$1")
    tail -c +9 "$1" | head -c "$n" | jq -r '.__metadata__.aq'
}

# ids FILE: the ids, one a line
ids() {
    local n at
    n=$(od -An -t u8 -N 8 "$1")
    read -r at end <<<"$(tail -c +9 "$1" | head -c "$n" | jq -r '.ids.data_offsets | "\(.[0]) \(.[1])"')"
    tail -c +$((9 + n + at)) "$1" | head -c $((end - at)) | od -An -v -t d4 -w4 | tr -d ' '
}

# vocabulary FILE: what the digest of a tokenizer is taken of: id, length and bytes of each symbol, the two ids of each merge
vocabulary() {
    jq -r '.model | (.vocab | to_entries | sort_by(.value)[] | "\(.value) \(.key | utf8bytelength) \(.key)"),
        (.vocab as $v | .merges[] | map($v[.]) | "m \(.[0]) \(.[1])")' "$1" |
        LC_ALL=C perl -ne 'if (/^m (\d+) (\d+)$/) { print pack("VV", $1, $2) } elsif (/^(\d+) (\d+) (.*)$/) { print pack("VV", $1, $2), $3 }'
}

# dump TEXT...: captions from printf, ids of each on a line
dumped() {
    printf "$@" >captions.txt
    aq 0 aq-calib tokens -q -t "$TINY" --dump captions.txt || return 1
    sed -n 's/^\t\([0-9 ]*\)$/\1/p' <<<"$output"
}

bad() {
    refused "$@"
}

@test "sizes, padding, counts and digest" {
    aq 0 aq-calib tokens -t "$TINY" --padding max_length --seq-len 40 -o t.st "$DEMO"/captions_{small,medium,large}.txt
    is "$output$stderr" ""
    is "$(meta t.st | jq -c 'del(.digest, .provenance)')" \
        '{"schema":"aq.tokens/2","sizes":{"small":16,"medium":128,"large":512},"padding":"max_length","seq_len":40,"pad_id":320,"truncated":'"$(meta t.st | jq .truncated)"',"tokenizer":'"$(meta t.st | jq .tokenizer)"'}'
    is "$(meta t.st | jq -r .tokenizer)" "$(vocabulary "$TINY/tokenizer.json" | sha256sum | cut -d' ' -f1)"
    is "$(meta t.st | jq -c .provenance)" '{"tool":"aq-calib","result_version":8,"inputs":{"tokenizer":"'"$(cat "$TINY"/tokenizer_config.json "$TINY"/tokenizer.json | sha256sum | cut -d' ' -f1)"'","captions":"'"$(sha256sum <"$DEMO/captions_large.txt" | cut -d' ' -f1)"'"}}'
    aq-calib tokens -t "$TINY" --seq-len 40 -o u.st --size few="$DEMO/captions_small.txt" --size many="$DEMO/captions_large.txt"
    is "$(meta u.st | jq -c .sizes)" '{"few":16,"many":512}'
    is "$(ids t.st | sha256sum)" "$(ids u.st | sha256sum)"
    [ "$(meta t.st | jq .digest)" != "$(meta u.st | jq .digest)" ]
    aq-calib tokens -t "$TINY/tokenizer.json" --padding max_length --seq-len 40 "$DEMO"/captions_{small,medium,large}.txt | cmp - t.st
}

@test "captions of the shipped data give the published ids" {
    need_shared
    gzip -dc "$SHARED/data/qwen3-tokenizer/tokenizer.json.gz" >tokenizer.json
    cp "$SHARED/data/qwen3-tokenizer/tokenizer_config.json" .
    within 2 aq-calib tokens -v -t . -o t.st "$SHARED"/data/vlm-quantize-calib/coco2017_captions_{small,medium,large}.txt
    has "$stderr" "512 samples, 6066 tokens"
    is "$(meta t.st | jq .pad_id)" 151643
    is "$(ids t.st | head -11 | tr '\n' ' ')" "32 883 911 311 470 264 8683 448 806 31415 81512 "
}

@test "line ends, blanks, empty lines, byte-order mark" {
    want=$(dumped 'a b\nc\n')
    is "$(dumped 'a b\r\nc\r\n')" "$want"
    is "$(dumped 'a b\rc')" "$want"
    is "$(dumped 'a b\r\n\n\r\r\n  \t\nc')" "$want"
    is "$(dumped ' \t a b \xc2\xa0\xe3\x80\x80\n\x1cc\x0b\x0c\n')" "$want"
    is "$(dumped 'a b\nc\r')" "$want"
    # U+2028 ends no line; a byte-order mark is a character like others
    is "$(dumped 'a\xe2\x80\xa8b' | wc -l)" 1
    [ "$(dumped '\xef\xbb\xbfa b\nc\n')" != "$want" ]
    # a line that is cut anywhere by the reader's blocks
    for n in 65533 65534 65535 65536 65537; do
        { head -c $n /dev/zero | tr '\0' x; printf '\r\nab\r\n'; } >long.txt
        aq 0 aq-calib tokens -q -t "$TINY" --dump long.txt
        is "$(grep -c '^[0-9]' <<<"$output")" 2
    done
}

# The digest of the captions is that of the stripped lines: no tokenizer in between.
@test "lines and blanks are what Python takes for lines and blanks" {
    need_command python3
    for seed in {1..12}; do
        want=$(python3 - "$seed" <<'PY'
import hashlib, random, sys
random.seed(int(sys.argv[1]))
parts = ["\n", "\r", "\r\n", " ", "\t", "\v", "\f", *map(chr, (0, 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0, 0x1680, 0x180e, 0x2000,
         0x200a, 0x200b, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff)), "a", "\u00e9", "\u65e5"]
text = "".join(random.choices(parts, k=random.choice([50, 3000, 70000]))) + "x"
open("c.txt", "w", encoding="utf-8", newline="").write(text)
lines = [line.strip() for line in open("c.txt", encoding="utf-8")]
lines = [line for line in lines if line]
print(len(lines), hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest())
PY
        )
        aq-calib tokens -q -t "$TINY" --seq-len 2 -o t.st c.txt
        is "$(meta t.st | jq -r '"\(.sizes.small) \(.provenance.inputs.captions)"')" "$want"
    done
}

@test "added tokens in a caption, a truncated caption, a caption of one token" {
    has "$(dumped 'a<|endoftext|>b')" " 320 "
    printf 'a man rides the red horse\nx\n' >c.txt
    aq 0 aq-calib tokens -v -t "$TINY" --seq-len 3 -o t.st c.txt
    has "$stderr" "1 samples have one token, hence nothing to predict"
    has "$stderr" "1 samples were cut to 3 tokens"
    is "$(meta t.st | jq -c '[.truncated, .seq_len]')" '[1,3]'
    is "$(ids t.st | wc -l)" 4
    aq 0 aq-calib tokens -t "$TINY" --seq-len 1 -o t.st c.txt
}

# lines of JSON with jq's program from nothing
lines() { jq -nc "$@" >c.jsonl; }

@test "JSON lines of text give the ids of the text, blanks at its ends included" {
    lines '{text: "a man rides"}, {id: 7, text: " the red horse\n"}, {text: "  "}, {text: "x"}'
    aq 0 aq-calib tokens -v -t "$TINY" -o t.st c.jsonl
    has "$stderr" "3 samples"
    { dumped 'a man rides\n'; aq-calib tokens -q -t "$TINY" --dump c.jsonl | sed -n 5p; dumped 'x\n'; } | tr -d '\t' | tr ' ' '\n' >want
    is "$(ids t.st)" "$(cat want)"
    aq 0 aq-calib tokens -q -t "$TINY" --dump c.jsonl
    has "$output" '[ the][ re][d][ ho][rs][e][\n]'
    # the same file as text is JSON's own letters
    aq 0 aq-calib tokens -q -t "$TINY" --format text --dump c.jsonl
    has "$output" 'man rides"'
    refused 3 "neither text nor JSON lines" aq-calib tokens -t "$TINY" -o u.st <(echo '{"text": "a')
    has "$stderr" "--format text"
    printf '[\n{"text": "a"}]\n' >list.json
    refused 3 "neither text nor JSON lines" aq-calib tokens -t "$TINY" -o u.st list.json
    has "$stderr" "jq -c '.[]'"
    echo '[{"text": "a"}]' >list.json
    refused 3 "list.json:1: a JSON list, expected an object a line" aq-calib tokens -t "$TINY" -o u.st list.json
    printf '{red} car\n[INST] x\n' >braces.txt
    aq 0 aq-calib tokens -t "$TINY" -o u.st braces.txt
    aq 0 aq-calib tokens -t "$TINY" -o u.st <(printf '[ a ]\n')
}

@test "sizes of JSON lines; the first line alone says which format" {
    lines 'range(9) | {text: "dog \(.)"}'
    head -n 4 c.jsonl >few.jsonl
    aq 0 aq-calib tokens -t "$TINY" -o t.st few.jsonl c.jsonl
    is "$(meta t.st | jq -c .sizes)" '{"small":4,"medium":9}'
    echo 'plain text' >>c.jsonl
    refused 3 "c.jsonl:10:1:1" aq-calib tokens -t "$TINY" -o t2.st c.jsonl
    echo hello >c.txt
    refused 3 "c.txt:1:1:1" aq-calib tokens -t "$TINY" --format jsonl -o t2.st c.txt
    [ ! -e t2.st ]
}

@test "another shape: file, line and key" {
    shape() {
        refused 3 "$1" aq-calib tokens -t "$TINY" -o t.st <(echo '{"text": "a"}'; jq -nc "$2")
    }
    shape "the first key is 'caption'" '{caption: "a"}'
    shape "both 'text' and 'messages'" '{text: "a", messages: []}'
    shape "text: expected a string, found an integer" '{text: 7}'
    shape "expected an object, found a list" '[1]'
    shape "messages: there are no messages" '{messages: []}'
    shape "messages[0].role: 'tool' is not supported" '{messages: [{role: "tool", content: "x"}]}'
    shape "messages[0]: key 'content' is missing" '{messages: [{role: "user"}]}'
    shape "messages[0].tool_calls: calls of tools are not supported" '{messages: [{role: "assistant", content: "", tool_calls: [1]}]}'
    shape "tools: tools are not supported" '{messages: [{role: "user", content: ""}], tools: [{}]}'
    shape "conversations[0].from: 'bing' is not supported" '{conversations: [{from: "bing", value: "x"}]}'
    shape ":2: a conversation, but the tokenizer has no chat template" '{messages: [{role: "user", content: "a"}]}'
    has "$stderr" "input_ids"
    shape ":2: input_ids, but the records before it have text" '{input_ids: [1]}'
    shape "input_ids[1]: expected a token id from 0 to 2147483647" '{input_ids: [1, -1]}'
    shape "input_ids[0]: expected a token id" '{input_ids: [2147483648]}'
    shape "input_ids: there are no ids" '{input_ids: []}'
}

@test "ready-made ids: no tokenizer, no special tokens, every token a target" {
    lines '{input_ids: [5, 320, 2147483647]}, {input_ids: [7]}'
    aq 0 aq-calib tokens -o t.st c.jsonl
    is "$(ids t.st | tr '\n' ' ')" "5 320 2147483647 7 "
    is "$(meta t.st | jq -c '[.tokenizer, .pad_id, .provenance.inputs.tokenizer]')" '[null,-1,null]'
    aq 0 aq-calib tokens -t "$TINY" -o u.st c.jsonl
    cmp t.st u.st
    aq 0 aq-calib tokens --seq-len 2 --pad-id 320 --padding max_length -o t.st c.jsonl
    is "$(meta t.st | jq -c '[.truncated, .pad_id, .padding]')" '[1,320,"max_length"]'
    refused 3 "ready-made ids name no pad token, which --padding max_length needs: --pad-id N" aq-calib tokens --padding max_length -o u.st c.jsonl
    echo hello >c.txt
    refused 2 "--tokenizer is missing: c.txt:1 is text" aq-calib tokens -o u.st c.txt
    aq 0 aq-calib tokens -q --dump c.jsonl
    has "$output" "5 320 2147483647"
}

@test "conversations through the chat template of the checkpoint" {
    mkdir t
    cp "$TINY/tokenizer.json" t/
    chatml="{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    jq --arg t "$chatml" '.chat_template = $t' "$TINY/tokenizer_config.json" >t/tokenizer_config.json
    lines '{messages: [{role: "user", content: "a man"}, {role: "assistant", content: "the horse"}]}'
    aq 0 aq-calib tokens -t t -o chat.st c.jsonl
    lines '{text: "<|im_start|>user\na man<|im_end|>\n<|im_start|>assistant\nthe horse<|im_end|>\n"}'
    aq 0 aq-calib tokens -t t -o text.st c.jsonl
    is "$(ids chat.st)" "$(ids text.st)"
    lines '{conversations: [{from: "human", value: "a man"}, {from: "gpt", value: "the horse"}]}'
    aq 0 aq-calib tokens -t t -o chat.st c.jsonl
    is "$(ids chat.st)" "$(ids text.st)"
    # a file of its own goes before the configuration
    echo '{{ messages }}' >t/chat_template.jinja
    refused 3 "c.jsonl:1: the chat template (sha256 " aq-calib tokens -t t -o u.st c.jsonl
    has "$stderr" 'JSON lines with "text", or "input_ids"'
    printf '%s\n' "$chatml" >t/chat_template.jinja
    aq 0 aq-calib tokens -t t -o chat.st c.jsonl
    jq '.chat_template = [{name: "tool_use", template: "x"}, {name: "default", template: "y"}]' "$TINY/tokenizer_config.json" >t/tokenizer_config.json
    rm t/chat_template.jinja
    refused 3 "the chat template" aq-calib tokens -t t -o u.st c.jsonl
}

@test "Qwen3's own chat template, from its tokenizer_config.json" {
    need_shared
    gzip -dc "$SHARED/data/qwen3-tokenizer/tokenizer.json.gz" >tokenizer.json
    cp "$SHARED/data/qwen3-tokenizer/tokenizer_config.json" .
    lines '{messages: [{role: "user", content: "2+2?"}, {role: "assistant", content: "4"}]}'
    aq 0 aq-calib tokens -t . -o t.st c.jsonl
    # <|im_start|> user \n 2 + 2 ? <|im_end|> \n <|im_start|> assistant \n <think> \n\n </think> \n\n 4 <|im_end|> \n
    is "$(ids t.st | tr '\n' ' ')" "151644 872 198 17 10 17 30 151645 198 151644 77091 198 151667 271 151668 271 19 151645 198 "
}

@test "special tokens around a text, and without" {
    llama=$REPO/tests/oracle/tokenizer/llama2.json
    mkdir t && cp "$llama" t/tokenizer.json
    echo 'the man' >c.txt
    aq 0 aq-calib tokens -t t -o with.st c.txt
    aq 0 aq-calib tokens -t t --no-special -o without.st c.txt
    is "$(ids with.st | tr '\n' ' ')" "1 $(ids without.st | tr '\n' ' ')2 "
    # cut between them
    aq 0 aq-calib tokens -t t --seq-len 3 -o cut.st c.txt
    is "$(ids cut.st | tr '\n' ' ')" "1 $(ids without.st | head -1) 2 "
    refused 2 "--seq-len leaves no room between the special tokens" aq-calib tokens -t t --seq-len 2 -o u.st c.txt
    # a template writes its own
    lines '{input_ids: [5]}'
    aq 0 aq-calib tokens -t t -o u.st c.jsonl
    is "$(ids u.st)" 5
}

# windows FILE: the samples, ids joined by blanks, and from where positions count
windows() {
    local n
    n=$(od -An -t u8 -N 8 "$1")
    perl -e 'local $/; my $d = <STDIN>; my ($n) = unpack("Q<", $d); my $h = substr($d, 8, $n);
        sub tensor { my ($name, $type) = @_; $h =~ /"$name":\s*\{[^}]*"data_offsets":\s*\[(\d+),\s*(\d+)\]/ or return; unpack("$type*", substr($d, 8 + $n + $1, $2 - $1)) }
        my @i = tensor("ids", "l<"); my @o = tensor("offsets", "q<"); my @c = tensor("count_from", "l<");
        print join(" ", @i[$o[$_] .. $o[$_ + 1] - 1]), (@c ? " from $c[$_]" : ""), "\n" for 0 .. $#o - 1' <"$1"
}

@test "windows: no gap, no overlap; with a stride, positions that count" {
    lines '{input_ids: [range(10)]}, {input_ids: [20, 21]}'
    aq 0 aq-calib tokens --window 4 -o t.st c.jsonl
    is "$(windows t.st)" "0 1 2 3
4 5 6 7
8 9
20 21"
    is "$(meta t.st | jq -c '[.seq_len, .truncated, .sizes.small]')" '[4,0,4]'
    # each id but a text's first is a target once: position p predicts id p + 1
    aq 0 aq-calib tokens --window 4 --stride 2 -o u.st c.jsonl
    is "$(windows u.st)" "0 1 2 3 from 0
2 3 4 5 from 1
4 5 6 7 from 1
6 7 8 9 from 1
20 21 from 0"
    [ "$(meta t.st | jq .digest)" != "$(meta u.st | jq .digest)" ]
    aq 0 aq-calib tokens --window 3 --stride 3 -o v.st c.jsonl
    is "$(windows v.st | tail -2)" "6 7 8 from 0
20 21 from 0"
    aq 0 aq-calib tokens --window 4 --limit 2 -o t.st c.jsonl
    is "$(windows t.st | wc -l)" 2
    # the begin token in each, the end token in the last
    mkdir t && cp "$REPO/tests/oracle/tokenizer/llama2.json" t/tokenizer.json
    printf 'the man and the woman and the garden\n' >c.txt
    aq 0 aq-calib tokens -t t --window 6 -o t.st c.txt
    aq 0 aq-calib tokens -t t --no-special -o all.st c.txt
    is "$(windows t.st | sed 's/^1 //; $s/ 2$//' | tr '\n' ' ')" "$(ids all.st | tr '\n' ' ')"
    is "$(windows t.st | grep -c '^1 ')" "$(windows t.st | wc -l)"
    is "$(windows t.st | grep -c ' 2$')" 1
    refused 2 "--stride 6 leaves gaps: a window holds 4 ids of a text" aq-calib tokens -t t --window 6 --stride 6 -o u.st c.txt
    # sizes are counted in windows
    lines '{input_ids: [range(10)]}'
    cp c.jsonl one.jsonl
    lines '{input_ids: [range(10)]}, {input_ids: [range(5)]}'
    aq 0 aq-calib tokens --window 4 -o t.st one.jsonl c.jsonl
    is "$(meta t.st | jq -c .sizes)" '{"small":3,"medium":4}'
}

# Overlapping windows predict each id but a text's first once, as one long sample would.
@test "positions that are context are no targets of the scores" {
    demo=$REPO/models/qwen3_vl_demo/checkpoint
    export AQ_CONF=$REPO/conf
    aq-extract-lm "$demo" -o lm.json
    aq-resolve -q --config-name preset/demo quant_pair=wfp8_afp8 dataset.size=small -o run.json
    aq-overlay run.json -o quant.json
    lines '{input_ids: [range(10; 20)]}'
    labels() {
        aq 0 aq-calib tokens "$@" -o t.st c.jsonl
        aq 0 aq-calib ranges --lm lm.json --prefix 1 -o r.st t.st
        rm -f s.st
        aq 0 aq-score -q --device cpu --lm lm.json --tokens t.st --ranges r.st --prefix 1 -o s.st quant.json
        perl -e 'local $/; my $d = <STDIN>; my ($n) = unpack("Q<", $d); my $h = substr($d, 8, $n);
            $h =~ /"labels":\s*\{[^}]*"data_offsets":\s*\[(\d+),\s*(\d+)\]/ or exit 1;
            print join(" ", unpack("l<*", substr($d, 8 + $n + $1, $2 - $1))), "\n"' <s.st
    }
    is "$(labels)" "9"
    is "$(labels --window 6)" "5 3"
    is "$(labels --window 6 --stride 3)" "5 3 1"
    aq 0 aq-calib tokens --window 6 --stride 3 -o t.st c.jsonl
    refused 3 "'t.st' has overlapping windows, and --method kl_div counts every position" \
        aq-score -q --device cpu --lm lm.json --tokens t.st --prefix 1 --method kl_div -o u.st quant.json
}

@test "sizes that are no prefixes" {
    printf 'a\nb\n' >small.txt
    printf 'a\nc\nd\n' >large.txt
    bad 3 "small.txt:2: 'b' differs from large.txt:2: 'c'" aq-calib tokens -t "$TINY" -o t.st small.txt large.txt
    has "$stderr" "each size must be a prefix of the next one"
    printf 'a\n\n b \n\nd\n' >large.txt
    aq 0 aq-calib tokens -t "$TINY" -o t.st small.txt large.txt
    bad 3 "'small' has more lines than 'medium'" aq-calib tokens -t "$TINY" -o u.st large.txt small.txt
    bad 3 "sizes must rise" aq-calib tokens -t "$TINY" -o u.st large.txt small.txt large.txt
    [ ! -e u.st ]
}

@test "caption files that are none" {
    : >empty
    printf '\n  \r\n\t\n' >blank
    mkdir dir
    bad 3 "'empty' holds no captions" aq-calib tokens -t "$TINY" -o t empty
    bad 3 "'blank' holds no captions" aq-calib tokens -t "$TINY" -o t blank
    bad 3 "'dir' is a directory" aq-calib tokens -t "$TINY" -o t dir
    bad 1 "cannot open 'none'" aq-calib tokens -t "$TINY" -o t none
    bad 2 "no file given" aq-calib tokens -t "$TINY" -o t
    [ ! -e t ]
}

@test "UTF-8 that is none: file, line and byte" {
    for seq in '\xff' '\xc0\x80' '\xed\xa0\x80' '\xf5\x80\x80\x80' '\xe2\x82' '\x80' '\xf0\x9f\x98'; do
        printf "good\nab${seq}\nc\n" >c.txt
        bad 3 "c.txt:2:3: not valid UTF-8" aq-calib tokens -t "$TINY" -o t c.txt
    done
    printf 'a\r\n\r\nb\rc\r\n\xff\r\n' >c.txt # each end of a line counts once
    bad 3 "c.txt:5:1: not valid UTF-8" aq-calib tokens -t "$TINY" -o t c.txt
    printf 'a\0b\n' >c.txt
    aq 0 aq-calib tokens -t "$TINY" -o t c.txt
    is "$(ids t | wc -l)" 3
}

@test "pipes and standard input" {
    want=$(aq-calib tokens -t "$TINY" "$DEMO/captions_small.txt" | sha256sum)
    is "$(aq-calib tokens -t "$TINY" - <"$DEMO/captions_small.txt" | sha256sum)" "$want"
    is "$(aq-calib tokens -t "$TINY" <(cat "$DEMO/captions_small.txt") | sha256sum)" "$want"
}

@test "options" {
    for n in 0 -1 2147483648 1e3 5x ''; do
        bad 2 "seq-len" aq-calib tokens -t "$TINY" --seq-len="$n" -o t "$DEMO/captions_small.txt"
    done
    for n in 0 -1 1000000000000; do
        bad 2 "limit" aq-calib tokens -t "$TINY" --limit="$n" -o t "$DEMO/captions_small.txt"
    done
    bad 2 "format" aq-calib tokens -t "$TINY" --format json -o t "$DEMO/captions_small.txt"
    bad 2 "pad-id" aq-calib tokens -t "$TINY" --pad-id=-1 -o t "$DEMO/captions_small.txt"
    bad 2 "a window is the longest sample" aq-calib tokens -t "$TINY" --window 8 --seq-len 8 -o t "$DEMO/captions_small.txt"
    bad 2 "--stride needs --window" aq-calib tokens -t "$TINY" --stride 8 -o t "$DEMO/captions_small.txt"
    bad 2 "--stride 9 is larger than --window 8" aq-calib tokens -t "$TINY" --stride 9 --window 8 -o t "$DEMO/captions_small.txt"
    aq 0 aq-calib tokens -t "$TINY" --pad-id 7 -o t "$DEMO/captions_small.txt"
    is "$(meta t | jq .pad_id)" 7
    bad 2 "padding" aq-calib tokens -t "$TINY" --padding left -o t "$DEMO/captions_small.txt"
    bad 2 "--size 'x': expected NAME=FILE" aq-calib tokens -t "$TINY" --size x -o t
    bad 2 "--size '=x'" aq-calib tokens -t "$TINY" --size =x -o t
    bad 2 "size 'small' is given twice" aq-calib tokens -t "$TINY" --size small=x -o t y
    bad 2 "4 files" aq-calib tokens -t "$TINY" -o t a b c d
    bad 2 "--tokenizer is missing" aq-calib tokens -o t "$DEMO/captions_small.txt"
    bad 2 "unknown command 'tokns'" aq-calib tokns
    bad 2 "no command given" aq-calib
    aq 0 aq-calib --help
    aq 0 aq-calib tokens --help
    has "$output" "--padding"
    aq 0 aq-calib tokens -t "$TINY" --limit 5 -o t "$DEMO"/captions_{small,large}.txt
    is "$(meta t | jq -c .sizes)" '{"small":5,"medium":5}'
    aq 0 aq-calib tokens -t "$TINY" --limit 10000000 -o t "$DEMO/captions_small.txt"
    is "$(meta t | jq -c .sizes)" '{"small":16}'
}

@test "tokenizers that are none" {
    mkdir none
    bad 3 "found neither tokenizer.json nor vocab.json" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    bad 1 "cannot read tokenizer 'gone'" aq-calib tokens -t gone -o t "$DEMO/captions_small.txt"
    gzip -c "$TINY/tokenizer.json" >none/tokenizer.json
    bad 3 "gzip data: unpack it first" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    : >none/tokenizer.json
    bad 3 "none/tokenizer.json:1:1" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    echo '[]' >none/tokenizer.json
    bad 3 "none/tokenizer.json: expected a tokenizer's object, found a list" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    echo '{}' >none/tokenizer.json
    bad 3 "key 'model' is missing" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    size=$(stat -c %s "$TINY/tokenizer.json")
    for ((part = 1; part < 50; part++)); do # bats' run uses i
        head -c $((size * part / 50)) "$TINY/tokenizer.json" >none/tokenizer.json
        bad 3 "none/tokenizer.json:" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    done
    truncate -s 257M none/tokenizer.json
    bad 3 "'none/tokenizer.json' is larger than the limit of 268435456 bytes" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    cp "$TINY/tokenizer.json" none/
    echo '{"pad_token": "<|none|>"}' >none/tokenizer_config.json
    bad 3 "pad token '<|none|>' is not a token" aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    echo '{"pad_token": {"content": "<|im_start|>"}}' >none/tokenizer_config.json
    aq 0 aq-calib tokens -t none -o t "$DEMO/captions_small.txt"
    is "$(meta t | jq .pad_id)" 321
    echo '{"pad_token": null}' >none/tokenizer_config.json
    bad 3 "the tokenizer has no pad token, which --padding max_length needs: --pad-id N" aq-calib tokens --padding max_length -t none -o t2 "$DEMO/captions_small.txt"
    [ ! -e t2 ]
}

@test "a begin token, and a byte without a symbol" {
    mkdir t
    jq -c '.model.vocab |= (del(.["\u0104"]) | to_entries | sort_by(.value) | to_entries | map({key: .value.key, value: .key}) | from_entries)' \
        "$REPO/tests/oracle/tokenizer/gpt2.json" >t/tokenizer.json
    jq -c '.added_tokens = [] | .post_processor = null' t/tokenizer.json >t/t && mv t/t t/tokenizer.json
    printf 'fine\nab\4c\n' >c.txt
    bad 3 "c.txt:2: byte 0x04 has no symbol in the vocabulary" aq-calib tokens -t t -o t.st c.txt
    aq 0 aq-calib tokens -t t -o t.st --limit 1 c.txt
}

@test "merges as text, and vocab.json with merges.txt, give the same" {
    digest() {
        aq-calib tokens -t "$1" -o t.st "$DEMO/captions_large.txt"
        meta t.st | jq -r .digest
    }
    want=$(digest "$TINY")
    mkdir text old
    jq -c '.model.merges |= map(join(" "))' "$TINY/tokenizer.json" >text/tokenizer.json
    cp "$TINY/tokenizer_config.json" text/
    is "$(digest text)" "$want"
    jq -c .model.vocab "$TINY/tokenizer.json" >old/vocab.json
    { echo '#version: 0.2'; jq -r '.model.merges[] | join(" ")' "$TINY/tokenizer.json"; } >old/merges.txt
    jq -c '{added_tokens_decoder: (.added_tokens | map({key: (.id | tostring), value: del(.id)}) | from_entries), pad_token: "<|endoftext|>"}' \
        "$TINY/tokenizer.json" >old/tokenizer_config.json
    is "$(digest old)" "$want"
    is "$(digest old/vocab.json)" "$want"
    truncate -s -1 old/merges.txt
    is "$(digest old)" "$want"
    cp old/tokenizer_config.json kept.json
    jq '.added_tokens_decoder |= with_entries(.key = "x")' kept.json >old/tokenizer_config.json
    bad 3 "'x' is not an id" aq-calib tokens -t old -o t "$DEMO/captions_small.txt"
    cp kept.json old/tokenizer_config.json
    cp old/vocab.json kept.json
    echo '[]' >old/vocab.json
    bad 3 "old/vocab.json: expected an object of symbols" aq-calib tokens -t old -o t "$DEMO/captions_small.txt"
    cp kept.json old/vocab.json
    echo ' x' >>old/merges.txt
    bad 3 "old/merges.txt:" aq-calib tokens -t old -o t "$DEMO/captions_small.txt"
    rm old/merges.txt
    bad 3 "'old/merges.txt' is missing" aq-calib tokens -t old -o t "$DEMO/captions_small.txt"
}

@test "no merges at all, merges in a circle, huge added tokens" {
    mkdir t
    jq -c '.model.merges = [] | .model.vocab |= with_entries(select(.value < 256))
        | .added_tokens = [{id: 256, content: "<|endoftext|>"}]' "$TINY/tokenizer.json" >t/tokenizer.json
    printf 'the man' >c.txt
    aq 0 aq-calib tokens -t t -o t.st c.txt
    is "$(ids t.st | wc -l)" 7
    # each merge makes a symbol that is longer than its parts: a circle needs a pair twice
    jq -c '.model.merges += [.model.merges[0]]' "$TINY/tokenizer.json" >t/tokenizer.json
    bad 3 "the merge is there twice" aq-calib tokens -t t -o t.st c.txt
    jq -c '.added_tokens[0].content = ("x" * 100000)' "$TINY/tokenizer.json" >t/tokenizer.json
    bad 3 "an added token of 100000 bytes, expected 1 to 256" aq-calib tokens -t t -o t.st c.txt
    jq -c '.added_tokens = [range(100000) | {id: (320 + .), content: "<\(.)>"}]' "$TINY/tokenizer.json" >t/tokenizer.json
    printf '<99999><0>' >c.txt
    aq 0 aq-calib tokens -q -t t -o t.st c.txt
    is "$(ids t.st | tr '\n' ' ')" "100319 320 "
}

@test "a line of ten megabytes, and one above the limit" {
    n=10000000
    if sanitized; then n=1000000; fi
    head -c $n /dev/zero | tr '\0' a >long.txt
    within 15 aq-calib tokens -t "$TINY" -o t.st long.txt
    is "$(meta t.st | jq .truncated)" 1
    head -c 16777217 /dev/zero | tr '\0' a >long.txt
    bad 3 "long.txt:1: longer than 16777216 bytes" aq-calib tokens -t "$TINY" -o t2.st long.txt
}

@test "a million captions; the first 512 of them at once" {
    yes 'a man rides the red horse in the garden' | head -n 1000000 >many.txt
    within 2 aq-calib tokens -t "$TINY" --limit 512 -o t.st many.txt
    is "$(meta t.st | jq .sizes.small)" 512
    sanitized && return
    within 30 aq-calib tokens -t "$TINY" -o t.st many.txt
    is "$(meta t.st | jq .sizes.small)" 1000000
}

@test "the product replaces an old one only when it is whole" {
    echo old >t.st
    printf 'good\n\xff\n' >c.txt
    bad 3 "c.txt:2:1" aq-calib tokens -t "$TINY" -o t.st c.txt
    is "$(cat t.st)" old
    is "$(find . -name '.aq-*' | wc -l)" 0
}
