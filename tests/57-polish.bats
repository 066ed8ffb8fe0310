#!/usr/bin/env bats
# aq-eval polish: what it says it measured is what aq-eval measures, the same bits for any threads and memory, limits, and what is
# refused. How moves are judged is in tests/unit/test_polish.c.
load helpers

F=$BATS_FILE_TMPDIR

setup_file() {
    cd "$REPO" || return
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --scale 0.1 "$F/model"
    aq-extract-lm -q -o "$F/lm.json" "$F/model"
    text 40 1 search
    text 40 2 confirm
    text 40 3 held
    text 9 4 few
    made "$F/4.json" wint4_afp16/default 4 1
    made "$F/8.json" wint8_afp16/default 8 2
    # from far away: the recipe of a menu that pins the wrong groups, within a budget that allows better ones
    printf '%s\n' '- {match: "layers.0.*", pin: wint8_afp16/default}' '- {match: "layers.1.*", pin: wint4_afp16/default}' >"$F/menu.yaml"
    aq-select -q --effective-bits 8 --menu "$F/menu.yaml" -o "$F/start.json" "$F/4.json" "$F/8.json"
    polish -o "$F/polished.json" "$F/start.json" "$F/4.json" "$F/8.json"
}

setup() {
    cd "$REPO" || return
    T=$BATS_TEST_TMPDIR
}

# text SAMPLES SEED NAME: samples of 3 to 22 tokens
text() {
    local i
    for i in $(seq "$1"); do seq -s" " $((i * 5 % 250 + $2 * 31)) "$2" $((i * 5 % 250 + $2 * 31 + $2 * (2 + i * 11 % 20))); done |
        "$O"/tests/make_tokens --sizes "$1" -o "$F/$3"
}

# made FILE NAME BITS SEED [FILTER]: scores of the model, whatever they are
made() {
    scores "$1.any" "$2" "$3" "$4" 2
    sealed_jq --arg lm "$(jq -r .digest.sample "$F/lm.json")" ".identity.lm = \$lm | (.groups[] | .per_token, .per_token_se) /= 1e4 | ${5:-.}" "$1.any" >"$1"
}

polish() {
    aq-eval polish -q --device cpu --reference "$F/lm.json" --search s="$F/search" --confirm c="$F/confirm" --held-out h="$F/held" "$@"
}

kl() { aq-eval -q --device cpu --reference "$F/lm.json" --domain t="$1" "$2" | jq .all.kl.mean; }

near() { is "$(jq -n "($1 - $2 | fabs) <= 1e-9 * ($2 | fabs)")" true; }

@test "a recipe that can be better becomes better, on all three texts as aq-eval measures them" {
    local p=.selection.polish
    is "$(jq -c "[$p.kept, $p.complete, $p.accepted > 0, .selection.solver, .aq.provenance.tool]" "$F/polished.json")" \
        '["polished",true,true,"polish","aq-eval"]'
    near "$(jq "$p.search.before" "$F/polished.json")" "$(kl "$F/search" "$F/start.json")"
    near "$(jq "$p.confirm.before" "$F/polished.json")" "$(kl "$F/confirm" "$F/start.json")"
    near "$(jq "$p.search.after" "$F/polished.json")" "$(kl "$F/search" "$F/polished.json")"
    near "$(jq "$p.confirm.after" "$F/polished.json")" "$(kl "$F/confirm" "$F/polished.json")"
    near "$(jq "$p.held_out.before" "$F/polished.json")" "$(kl "$F/held" "$F/start.json")"
    near "$(jq "$p.held_out.after" "$F/polished.json")" "$(kl "$F/held" "$F/polished.json")"
    near "$(jq "$p.held_out | .before + .difference" "$F/polished.json")" "$(jq "$p.held_out.after" "$F/polished.json")"
    is "$(jq "$p.search.after < $p.search.before and $p.confirm.after < $p.confirm.before" "$F/polished.json")" true
    is "$(jq '.selection | .effective_bits <= .budget' "$F/polished.json")" true
    is "$(jq "[$p.moves[] | select(.accepted)] | length == $(jq "$p.accepted" "$F/polished.json")" "$F/polished.json")" true
    is "$(jq "[$p.moves[] | select(.accepted) | .search.difference < -2 * .search.se and .confirm.difference < -.confirm.se] | all" "$F/polished.json")" true
    # a recipe that reports and further selections read
    aq 0 aq-report --md "$F/polished.json"
    aq 0 aq-select -q --effective-bits 6 "$F/polished.json"
}

@test "predictions by what was measured alone and together, of the same model" {
    local n p=.selection.polish
    aq-eval singles -q --device cpu --reference "$F/lm.json" --domain s="$F/search" -o "$F/singles" "$F/4.json" "$F/8.json"
    for n in 1 2; do
        aq 0 polish --threads $n --pairs "$F/singles" -o "$T/$n.json" "$F/start.json" "$F/4.json" "$F/8.json"
    done
    cmp "$T/1.json" "$T/2.json"
    is "$(jq -c "[$p.kept, $p.accepted > 0, ($p.share >= 0 and $p.share <= 1), ($p.pairs | length)]" "$T/1.json")" '["polished",true,true,64]'
    is "$(jq "$p.search.after < $p.search.before" "$T/1.json")" true
    is "$(jq "$p | has(\"pairs\")" "$F/polished.json")" false
    # what the first accepted move was predicted to change is what it did, better than by scores that say nothing
    is "$(jq "$p.moves[0] | (.predicted / .search.difference) as \$x | \$x > 0.5 and \$x < 2" "$T/1.json")" true
    cp "$F/singles" "$T/singles"
    printf '\x01' | dd of="$T/singles" bs=1 seek=$(($(stat -c %s "$T/singles") - 1)) conv=notrunc status=none
    refused 3 "the file is damaged" polish --pairs "$T/singles" -o "$T/none.json" "$F/start.json" "$F/4.json" "$F/8.json"
    made "$T/other.json" wint4_afp16/w_group64 4 3
    refused 3 "has nothing of" polish --pairs "$F/singles" -o "$T/none.json" "$F/start.json" "$F/4.json" "$F/8.json" "$T/other.json"
    [ ! -e "$T/none.json" ]
}

@test "the same bits for any number of threads, and with kept inputs in a file" {
    local n
    for n in 1 2 8; do
        aq 0 polish --threads $n -o "$T/$n.json" "$F/start.json" "$F/4.json" "$F/8.json"
        cmp "$T/$n.json" "$F/polished.json"
    done
    text 150 5 long
    long() {
        aq-eval polish -v --device cpu --reference "$F/lm.json" --search s="$F/long" --confirm c="$F/confirm" "$@" "$F/start.json" "$F/4.json" "$F/8.json"
    }
    aq 0 long -o "$T/memory.json"
    has "$stderr" "MB of kept inputs in memory"
    aq 1 long --memory 1M
    [[ $stderr =~ ([0-9]+)" MB are needed" ]]
    aq 0 long --memory "${BASH_REMATCH[1]}000000" -o "$T/file.json"
    has "$stderr" "MB of kept inputs in a file"
    cmp "$T/file.json" "$T/memory.json"
}

@test "a gain that may be chance is not taken" {
    # the held-out text knows nothing of the search text's gain: 30 samples of two tokens
    for i in $(seq 30); do echo "$i $i"; done | "$O"/tests/make_tokens --sizes 30 -o "$T/short"
    aq 0 aq-eval polish --device cpu --reference "$F/lm.json" --search s="$F/search" --confirm c="$F/confirm" --held-out h="$T/short" --trials 40 \
        -o "$T/p.json" <(jq . "$F/polished.json") "$F/4.json" "$F/8.json"
    is "$(jq -c '[.selection.polish | .kept, .accepted, .held_out]' "$T/p.json")" '["start",0,null]'
    has "$stderr" "no move was accepted: the recipe stays as it is"
    is "$(jq -c .selection.recipe "$T/p.json")" "$(jq -c .selection.recipe "$F/polished.json")"
    has "$stderr" "warning: the search text has "
}

# A model whose tokens below 256 have embeddings in the first half of the columns, the others in the second; what layer 0's q, k and v do
# with the first half is in INT4 exactly, unlike in INT8, and with the second half far from it.
planted() {
    "$O"/tests/random_checkpoint --kind qwen3 --layers 2 --hidden 64 --intermediate 128 --scale 0.1 "$T/model"
    python3 - "$T/model/model.safetensors" <<'PY'
import json, struct, sys
with open(sys.argv[1], "rb") as f:
    data = bytearray(f.read())
n = 8 + struct.unpack("<Q", data[:8])[0]
def change(name, new):
    t = json.loads(data[8:n])[name]
    assert t["dtype"] == "BF16"
    for row in range(t["shape"][0]):
        for column in range(t["shape"][1]):
            at = n + t["data_offsets"][0] + 2 * (row * t["shape"][1] + column)
            x = new(row, column, struct.unpack("<f", b"\0\0" + data[at:at + 2])[0])
            data[at:at + 2] = struct.pack("<f", x)[2:]
change("model.embed_tokens.weight", lambda token, column, x: x if (token < 256) == (column < 32) else 0.0)
# a row's largest is 7 / 32: INT4's step is 1 / 32
for kind in "qkv":
    change(f"model.layers.0.self_attn.{kind}_proj.weight",
           lambda row, column, x: ((row * 5 + column * 3) % 15 - 7 if column else 7) / 32 if column < 32 else ((row + column) % 6 - 2.5) / 32)
with open(sys.argv[1], "wb") as f:
    f.write(data)
PY
    aq-extract-lm -q -o "$T/lm.json" "$T/model"
}

# half NAME FIRST SEED: 40 samples of tokens of one half
half() {
    local i
    for i in $(seq 40); do seq -s" " $(($2 + i * 5 % 40 + $3)) "$3" $(($2 + i * 5 % 40 + $3 * (2 + i * 7 % 12))); done |
        "$O"/tests/make_tokens --sizes 40 -o "$T/$1"
}

@test "a planted bad move, good on the search text and bad on the confirm text, is refused" {
    need_command python3
    planted
    half search 1 2
    half confirm 260 2
    half like-search 1 3
    local bits lm p=.selection.polish
    lm=$(jq -r .digest.sample "$T/lm.json")
    # scores in which the planted group costs nothing in either, so that its moves come first
    for bits in 4 8; do
        scores "$T/any" "wint${bits}_afp16/default" "$bits" 1 2
        sealed_jq --arg lm "$lm" '.identity.lm = $lm | (.groups[] | .per_token, .per_token_se) /= 1e4 | .groups[0].per_token = 0' "$T/any" >"$T/$bits.json"
    done
    # no bits to spare: 8 of them for that group alone
    printf '%s\n' '- {match: "layers.0.self_attn.q_proj", pin: wint8_afp16/default}' '- {match: "re:layers[.]0[.].*(o|gate|down)_proj", pin: wint4_afp16/default}' '- {match: "layers.1.*", pin: wint4_afp16/default}' >"$T/menu.yaml"
    aq-select -q --effective-bits 4.353 --menu "$T/menu.yaml" -o "$T/start.json" "$T/4.json" "$T/8.json"
    run_polish() {
        aq 0 aq-eval polish --device cpu --reference "$T/lm.json" --search s="$T/search" --confirm c="$1" -o "$2" "$T/start.json" "$T/4.json" "$T/8.json"
    }
    run_polish "$T/confirm" "$T/p.json"
    jq -c "$p" "$T/p.json"
    is "$(jq -c "[$p | .accepted, .kept, (.moves | length > 0)]" "$T/p.json")" '[0,"start",true]'
    is "$(jq -c "[$p.moves[] | .accepted, .search.difference < -2 * .search.se, .confirm.difference > 2 * .confirm.se,
        any(.changes[]; .group == \"layers.0.self_attn.q_proj\" and .to == \"wint4_afp16/default\")] | [_nwise(4)] | unique" "$T/p.json")" '[[false,true,true,true]]'
    is "$(jq -c "[$p.moves[].changes] | length == (unique | length)" "$T/p.json")" true # none was tried again
    is "$(jq -c .selection.recipe "$T/p.json")" "$(jq -c .selection.recipe "$T/start.json")"
    has "$stderr" "no move was accepted"
    # it is the confirm text that refuses it
    run_polish "$T/like-search" "$T/p.json"
    is "$(jq -c "[$p | .accepted > 0, .kept]" "$T/p.json")" '[true,"polished"]'
    is "$(jq -r '.selection.recipe["layers.0.self_attn.q_proj.quant_recipe"].candidate' "$T/p.json")" wint4_afp16/default
}

@test "limits end it earlier, and it says so" {
    aq 0 polish --time 1e-6 -o "$T/p.json" "$F/start.json" "$F/4.json" "$F/8.json"
    is "$(jq -c '[.selection.polish | .complete, .trials, .stopped]' "$T/p.json")" '[false,0,"the time is over"]'
    is "$(jq -c .selection.recipe "$T/p.json")" "$(jq -c .selection.recipe "$F/start.json")"
    aq 0 polish --trials 1 -o "$T/p.json" "$F/start.json" "$F/4.json" "$F/8.json"
    is "$(jq -c '[.selection.polish | .complete, .trials]' "$T/p.json")" '[true,1]'
}

@test "texts that can judge nothing are refused" {
    refused 3 "has 9 samples: fewer than 30" polish --search f="$F/few" "$F/start.json" "$F/4.json"
    refused 3 "are one text" polish --confirm other="$F/search" "$F/start.json" "$F/4.json"
    refused 2 "a text 's' is given twice" polish --confirm s="$F/confirm" "$F/start.json" "$F/4.json"
    refused 2 "--search and --confirm NAME=TOKENS are needed" aq-eval polish --reference "$F/lm.json" --search s="$F/search" "$F/start.json" "$F/4.json"
    refused 2 "--time must be above 0" polish --time 0 "$F/start.json" "$F/4.json"
}

@test "a number that is none is named with its sample, and no recipe is written" {
    cp -r "$F/model" "$T/bad"
    printf '\xc0\x7f' | dd of="$T/bad/model.safetensors" bs=1 conv=notrunc status=none \
        seek="$(jq '.tensors[] | select(.name == "norm.weight").begin' "$F/lm.json")"
    aq-extract-lm -q -o "$T/bad.json" "$T/bad"
    made "$T/4.json" wint4_afp16/default 4 1 ".identity.lm = \"$(jq -r .digest.sample "$T/bad.json")\""
    aq-select -q --effective-bits 8 -o "$T/start.json" "$T/4.json"
    refused 3 "the divergence is not finite in sample 0 of 's'" aq-eval polish -q --device cpu --reference "$T/bad.json" --search s="$F/search" \
        --confirm c="$F/confirm" -o "$T/p.json" "$T/start.json" "$T/4.json"
    [ ! -e "$T/p.json" ]
}

@test "scores and recipes that do not belong together are refused" {
    refused 3 "is in none of the scores" polish "$F/start.json" "$F/4.json"
    made "$T/x.json" wint4_afp16/default 4 1 '.identity.lm = "other"'
    refused 3 "was made from another checkpoint" polish "$F/start.json" "$T/x.json"
    jq 'del(.selection.budget)' "$F/start.json" >"$T/m.json"
    refused 3 "selection.budget is missing" polish "$T/m.json" "$F/4.json" "$F/8.json"
    jq '.selection.budget = 4.5' "$F/start.json" >"$T/m.json"
    refused 3 "over its own budget" polish "$T/m.json" "$F/4.json" "$F/8.json"
    made "$T/static.json" wint4_afp16/default 4 1 '.candidate.treatment.a = "int8:tensor:static"'
    refused 2 "--ranges is needed" polish "$F/start.json" "$T/static.json" "$F/8.json"
}
