#!/usr/bin/env bats
# aq-select: budgets, ties, menus, products, and every kind of bad input.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR"
    PUBLISHED=$SHARED/data/published
}

cells() {
    scores a.json wint4_aint8/default 4.125 1
    scores b.json wint8_aint8/default 8 2
}

# changed FILE JQ-PROGRAM: a.json with a change
changed() {
    [ -e a.json ] || cells
    sealed_jq "$2" a.json >"$1"
}

# ---- choosing ----

@test "published manifests give their own score and bits, bit for bit" {
    need_shared
    local d m
    for d in wfp8_afp8 wint4_aint8 int8_lm_large; do
        m=$(echo "$PUBLISHED/$d"/*_quant_manifest.json)
        aq 0 aq-select --unchecked "$m"
        is "$(sed -n '/"autoquant_state": {/,/^  }/p' <<<"$output")" "$(sed -n '/"autoquant_state": {/,/^  }/p' "$m")"
    done
}

@test "joining published cells reaches what the single ones cannot" {
    need_shared
    local fp8=$PUBLISHED/wfp8_afp8/wfp8_afp8_autoquant_lm_quant_manifest.json
    local int4=$PUBLISHED/wint4_aint8/wint4_aint8_autoquant_lm_quant_manifest.json
    score() { aq-select --unchecked "$@" | jq .autoquant_state.score; }
    is "$(score --effective-bits 5.4 "$fp8" "$int4")" 127.6719946646115
    is "$(score --effective-bits 5.4 "$int4")" 285.90178532260745
    is "$(score --effective-bits 8.745 "$fp8" "$int4" | jq '. <= 1.122')" true
    is "$(score --effective-bits 8.745 "$fp8" "$int4")" "$(score --effective-bits 8.745 "$int4" "$fp8")"
}

@test "GLPK agrees on 50 random problems" {
    need_command glpsol
    need_command python3
    aq 0 python3 "$REPO/tests/oracle/select_glpk.py" 50 1
    is "$output" "50 selections are optimal"
}

@test "one cell with room for all is quantized altogether, and its layers are listed with all members" {
    cells
    aq 0 aq-select b.json
    is "$(jq -c '[.autoquant_state.constraints.effective_bits, .autoquant_state.is_satisfied, .num_quantized_layers]' <<<"$output")" '[8,true,28]'
    is "$(jq -c '.selection.recipe["layers.0.self_attn.q_proj.quant_recipe"].members' <<<"$output")" \
        '["layers.0.self_attn.q_proj","layers.0.self_attn.k_proj","layers.0.self_attn.v_proj"]'
    is "$(jq -r '.scheme.name' <<<"$output")" wint8_aint8_autoquant_lm
}

@test "the manifest has the keys in their order and no newline at the end" {
    cells
    aq-select --effective-bits 6 a.json b.json -o m.json
    is "$(jq -c 'keys_unsorted' m.json)" '["scheme","model","num_quantized_layers","layers","autoquant_state","layer_sensitivity","sensitivity_ranking","dataset","quantization","run_config","selection","aq","groups"]'
    is "$(jq -c '.layer_sensitivity[] | keys_unsorted' m.json | sort -u)" \
        '["formats","scores","costs","importance","rank","candidates","scores_per_batch_mean","stderr","storage_bits","weight_only","activation_only","scores_per_token"]'
    is "$(jq -c '.selection | keys_unsorted' m.json)" '["recipe","candidates","budget","effective_bits","reachable_bits","storage_bits","cost","cost_model","denominator","solver","gap","rounding","predicted_kl","pins"]'
    is "$(tail -c 2 m.json)" "$(printf '\n}')"
    is "$(grep -c '"costs"' m.json)" 16
    has "$(cat m.json)" '"CUSTOM_0(effective-bits: 4.125)"'
    has "$(cat m.json)" '"CUSTOM_1(effective-bits: 8.0)"'
    is "$(jq -r .scheme.name m.json)" mixed_autoquant_lm
}

@test "equal inputs give equal bytes, and the state opens as a stored archive" {
    cells
    aq-select --effective-bits 6 a.json b.json --state x.pt -o x.json
    cp a.json b.json "$BATS_TEST_TMPDIR/.." 2>/dev/null || true
    aq-select --effective-bits 6 ./a.json ./b.json --state y.pt -o y.json
    cmp x.json y.json && cmp x.pt y.pt
    is "$(head -c 4 x.pt | od -An -tx1 | tr -d ' ')" 504b0304
    has "$(strings x.pt)" archive/data.pkl
}

@test "a manifest can be selected from again, with the same answer" {
    cells
    aq-select --effective-bits 6 a.json b.json -o m.json
    aq-select --effective-bits 6 m.json -o n.json
    is "$(jq -c '[.autoquant_state, .layer_sensitivity]' n.json)" "$(jq -c '[.autoquant_state, .layer_sensitivity]' m.json)"
    is "$(jq -c '[.selection.recipe[].candidate]' n.json)" "$(jq -c '[.selection.recipe[].candidate]' m.json)"
    aq 0 aq-select --effective-bits 9 m.json
    is "$(jq .autoquant_state.score <<<"$output")" "$(aq-select --effective-bits 9 a.json b.json | jq .autoquant_state.score)"
}

@test "cost rules, denominators and bytes" {
    cells
    is "$(aq-select --cost modelopt40 --effective-bits 4 a.json | jq -c '.autoquant_state.constraints.effective_bits')" 4
    is "$(aq-select --effective-bits 4.125 a.json | jq -c '[.autoquant_state.is_satisfied, .selection.storage_bits]')" '[true,4.125]'
    is "$(aq-select --cost modelopt40 --effective-bits 4 a.json | jq -c '.selection.storage_bits')" 4.125
    is "$(aq-select --count-vision --effective-bits 9 a.json b.json | jq -r '.selection.denominator')" lm+vision
    # 34,816 weights at 6 bits are 26,112 bytes
    is "$(aq-select --size 26112 a.json b.json | jq -c '[.selection.budget, .autoquant_state.score]')" \
        "$(aq-select --effective-bits 6 a.json b.json | jq -c '[.selection.budget, .autoquant_state.score]')"
    # the vision tower stays at 16 bits: (34816 * b + 10000 * 16) / 44816
    is "$(aq-select -q --count-vision --effective-bits 5 a.json | jq -c '.selection.reachable_bits[0] * 44816 - 10000 * 16 == 34816 * 4.125')" true
}

@test "every budget at once: rises in bits, falls in score, and agrees with single budgets" {
    cells
    aq-select --frontier a.json b.json >f.tsv
    is "$(head -1 f.tsv)" "$(printf 'bits\tscore\tgroup\tfrom\tto')"
    awk -F'\t' 'NR > 1 && $1 != b { if (n++ && ($1 <= b || $2 >= s)) exit 1; b = $1; s = $2 } END { exit n < 20 }' f.tsv
    is "$(awk -F'\t' '$4 == "-"' f.tsv | wc -l)" 16
    local b
    for b in 4.125 5 7.3 11 16; do
        is "$(awk -F'\t' -v b=$b 'NR > 1 && $1 <= b { s = $2 } END { print s }' f.tsv)" \
            "$(aq-select --effective-bits $b a.json b.json | grep -A5 '"autoquant_state"' -m1 >/dev/null; aq-select --effective-bits $b a.json b.json | sed -n 's/^    "score": \(.*\),$/\1/p' | head -1)"
    done
}

# Costs are whole numbers, budgets products that are rounded: 8.201680672268907 used to select 8.0.
@test "a budget that was printed, fed back, selects itself; a breath less never exceeds it" {
    need_command python3
    cells
    python3 - <<'PY'
import json, math, subprocess
# --unchecked: the second round edits the weights
run = lambda b, *f: json.loads(subprocess.run(["aq-select", "-q", "--unchecked", "--effective-bits", repr(b), *f], check=True,
                               capture_output=True, text=True).stdout)["selection"]["effective_bits"]
def check(*files):
    out = subprocess.run(["aq-select", "--unchecked", "--frontier", *files], check=True, capture_output=True, text=True).stdout
    budgets = sorted({float(l.split("\t")[0]) for l in out.split("\n")[1:] if l})
    assert len(budgets) > 8, len(budgets)
    for b in budgets:
        assert run(b, *files) == b, (b, run(b, *files))
        less = math.nextafter(b, 0)
        if b > budgets[0]:
            assert run(less, *files) <= less, (less, run(less, *files))
check("a.json", "b.json")
for weights in (999, 1190, 34816 / 119):
    for name in ("a", "b"):
        doc = json.load(open(name + ".json"))
        for i, g in enumerate(doc["groups"]):
            g["weights"] = int(weights) * (i % 7 + 1) + i
        doc["weights"]["lm"] = sum(g["weights"] for g in doc["groups"])
        json.dump(doc, open(name + "2.json", "w"))
    check("a2.json", "b2.json")
PY
}

@test "a budget out of reach: the cheapest, said and warned; --strict is exit 3" {
    cells
    aq 0 aq-select --effective-bits 3 b.json
    is "$(jq -c '[.autoquant_state.is_satisfied, .autoquant_state.constraints.effective_bits]' <<<"$output")" '[false,8]'
    is "$stderr" "aq-select: warning: the budget of 3.0 bits is out of reach: the smallest reachable is 8.0"
    refused 3 "the budget of 3.0 bits is out of reach: the smallest reachable is 8.0" aq-select --strict --effective-bits 3 b.json
    aq 0 aq-select --strict --effective-bits 8 b.json
    aq 0 aq-select --strict --effective-bits 16 b.json
    is "$(jq .autoquant_state.score <<<"$output")" 0
}

@test "all scores zero, all equal: the cheapest, deterministic" {
    changed z.json '.groups[] |= (.sum = 0 | .per_token = 0 | .per_batch_mean = 0)'
    is "$(aq-select --effective-bits 16 z.json | jq -c '.autoquant_state.constraints.effective_bits')" 4.125
    scores b.json wint8_aint8/default 8 2
    sealed_jq '.groups[] |= (.per_token = 0)' b.json >y.json
    is "$(aq-select --effective-bits 16 z.json y.json | jq -c '[.selection.recipe[].candidate] | unique')" '["wint4_aint8/default"]'
}

@test "ties by the thousand: cheapest first, then by order, and ranks in the order of the groups" {
    scores a.json wint4_aint8/default 4 1 300
    scores b.json wint8_aint8/default 8 1 300
    local f
    for f in a b; do sealed_jq '.groups[] |= (.weights = 1024 | .per_token = 1) | .weights.lm = 1024 * (.groups | length)' $f.json >$f$f.json; done
    aq 0 aq-select --effective-bits 10 aa.json bb.json
    # half of the groups at 16 bits makes 10; of all such choices the one whose first groups are the cheap ones
    is "$(jq -c '[.selection.recipe[].candidate] | [.[:600], .[600:]] | map(unique)' <<<"$output")" '[["wint4_aint8/default"],["NONE"]]'
    is "$(jq '.autoquant_state.score' <<<"$output")" 600
    is "$(jq -c '[.layer_sensitivity[].rank] == [range(1; 1201)]' <<<"$output")" true
}

@test "a cell that means the same as another one is left out" {
    cells
    sealed_jq '.candidate.name = "wint4_aint8/w_group128"' a.json >c.json
    aq 0 aq-select -v --effective-bits 6 a.json c.json b.json
    has "$stderr" "is the same treatment as 'wint4_aint8/default'"
    is "$(jq -c '.scheme.quant_formats' <<<"$output")" '["WINT4_AINT8_CFG","WINT8_AINT8_CFG"]'
}

@test "disabled layers keep 16 bits and count" {
    changed d.json '.run.autoquant.disabled_layers = ["layers.0.*"]'
    aq 0 aq-select --effective-bits 16 d.json
    is "$(jq -c '.layer_sensitivity["layers.0.mlp.down_proj.quant_recipe"].formats' <<<"$output")" '["NONE(effective-bits: 16.0)"]'
    aq 0 aq-select -q --effective-bits 7 d.json
    is "$(jq -c '.autoquant_state.constraints.effective_bits * 34816 == (8704 * 16 + 26112 * 4.125)' <<<"$output")" true
}

@test "monotone scores, as ModelOpt has them" {
    scores a.json w4/default 4 1 1
    sealed_jq '.groups[].per_token = 2' a.json >p.json
    sealed_jq '.groups[].per_token = 5 | .candidate.name = "w6/default" | .candidate.treatment_id = "x" | .candidate.bits.storage = 6' a.json >q.json
    sealed_jq '.groups[].per_token = 3 | .candidate.name = "w8/default" | .candidate.treatment_id = "y" | .candidate.bits.storage = 8' a.json >r.json
    scores() { aq-select "$@" p.json q.json r.json | jq -c '.layer_sensitivity["layers.0.mlp.down_proj.quant_recipe"].scores'; }
    is "$(scores)" '[2,5,3,0]'
    is "$(scores --monotone v40)" '[2,2,2,0]'
    is "$(scores --monotone v39)" '[2,2,3,0]'
    sealed_jq '.run.autoquant.monotone = true' p.json >p2.json && mv p2.json p.json
    is "$(scores)" '[2,2,2,0]'
    is "$(scores --monotone no)" '[2,5,3,0]'
}

@test "the threshold search of kl_div" {
    local f
    cells
    for f in a b; do sealed_jq '.identity.method = "kl_div" | .run.autoquant.solver = "threshold"' $f.json >k$f.json; done
    aq 0 aq-select --effective-bits 6 ka.json kb.json
    is "$(jq -r .selection.solver <<<"$output")" threshold
    local worst
    worst=$(jq '[.selection.recipe[]] | length' <<<"$output")
    is "$worst" 16
    aq 0 aq-select --solver exact --effective-bits 6 ka.json kb.json
    is "$(jq -r .selection.solver <<<"$output")" exact
    refused 2 "--solver threshold is for kl_div scores only" aq-select --solver threshold a.json
    # ModelOpt's switch is without effect on gradient scores
    sealed_jq '.run.autoquant.solver = "threshold"' a.json >g.json
    is "$(aq-select --effective-bits 16 g.json | jq -r .selection.solver)" exact
}

# ---- menus ----

@test "pins, bans and menus act, and the manifest says what they cost" {
    cells
    printf -- '- {match: "layers.0.*", never: [wint4_aint8/default]}\n- {match: "re:layers\\\\.3\\\\..*", pin: NONE}\n- match: layers.1.mlp.up_proj\n  only: [wint8_aint8/default, NONE]\n' >menu.yaml
    aq 0 aq-select --effective-bits 9 --menu menu.yaml a.json b.json
    is "$(jq -c '[.selection.recipe | to_entries[] | select(.key | startswith("layers.3.")) | .value.candidate] | unique' <<<"$output")" '["NONE"]'
    is "$(jq -c '[.selection.recipe | to_entries[] | select(.key | startswith("layers.0.")) | .value.candidate] | index("wint4_aint8/default")' <<<"$output")" null
    is "$(jq -c '.selection.recipe["layers.1.mlp.gate_proj.quant_recipe"].candidate == "wint4_aint8/default"' <<<"$output")" false
    is "$(jq -c '[.selection.pins[] | [.rule, .match, (.score_cost >= 0)]]' <<<"$output")" \
        '[["never","layers.0.*",true],["pin","re:layers\\.3\\..*",true],["only","layers.1.mlp.up_proj",true]]'
    local free
    free=$(aq-select --effective-bits 9 a.json b.json | jq .autoquant_state.score)
    is "$(jq --argjson free "$free" '.autoquant_state.score >= $free' <<<"$output")" true
}

@test "menus that are wrong are refused with the place" {
    cells
    menu() { printf '%s\n' "$1" >menu.yaml; refused 3 "$2" aq-select --menu menu.yaml a.json b.json; }
    menu '- {match: "layers.9.*", pin: NONE}' "menu.yaml: [0].match: 'layers.9.*' matches no module"
    menu '- {match: "layers.0.*", pin: wint5}' "menu.yaml: [0].pin: there is no candidate 'wint5'"
    has "$stderr" "candidates: wint4_aint8/default, wint8_aint8/default, NONE"
    menu '- {match: "layers.0.*", pin: [NONE]}' "a pin names one candidate"
    menu '- {match: "layers.0.*", only: []}' "the list is empty"
    menu '- {match: "layers.0.*", ban: [NONE]}' "unknown key"
    menu '- {match: "layers.0.*"}' "expected exactly one of only, never, pin, found 0"
    menu '- {match: "re:layers.(", pin: NONE}' "is not valid at character"
    menu '{match: "x"}' "expected a list of rules, found an object"
    menu '- x' "expected a rule such as"
    menu '- {match: 5, pin: NONE}' "[0].match: expected a string, found an integer"
    printf -- '- {match: "layers.0.*", pin: NONE}\n- {match: "layers.0.*", pin: wint4_aint8/default}\n' >menu.yaml
    refused 3 "[1]: 'layers.0.*' leaves no format for 'layers.0.self_attn.q_proj'" aq-select --menu menu.yaml a.json b.json
    refused 1 "nowhere.yaml" aq-select --menu nowhere.yaml a.json
    printf -- '- {match: "layers.*", pin: NONE}\n' >menu.yaml
    refused 3 "is out of reach: the smallest reachable is 16.0" aq-select --strict --menu menu.yaml a.json
    menu '- {match: "re:(l+)+x", pin: NONE}' "matches no module"
}

# ---- what was typed ----

@test "budgets that are none are usage errors" {
    cells
    local b
    for b in 0 -1 16.5 17 nan inf 5.4x 5,4 1e308 '' ' 5' +5 0x10; do
        refused 2 "aq-select: --effective-bits" aq-select "--effective-bits=$b" a.json
    done
    refused 2 "--size" aq-select --size 0 a.json
    refused 2 "--size" aq-select --size=-5 a.json
    refused 2 "exclude each other" aq-select --size 5M --effective-bits 5 a.json
    refused 2 "--size counts stored bytes" aq-select --size 5M --cost modelopt40 a.json
    refused 2 "--cost: 'bits' is not one of: storage, modelopt40, modelopt47" aq-select --cost bits a.json
    refused 2 "--frontier is every budget" aq-select --frontier --effective-bits 5 a.json
    aq 0 aq-select --effective-bits 1e-9 -q a.json
}

@test "inputs that do not belong together are refused with the keys that differ" {
    cells
    local k
    for k in lm tokens method prefix score_samples; do
        sealed_jq --arg k $k '.identity[$k] = if $k == "method" then "kl_div" elif ($k | . == "prefix" or . == "score_samples") then 128 else "other" end' b.json >c.json
        refused 3 "cannot be joined: they differ in $k" aq-select a.json c.json
    done
    sealed_jq '.run.autoquant.normalization = "per_batch_mean"' b.json >c.json
    refused 3 "they differ in normalization ('per_token' and 'per_batch_mean')" aq-select a.json c.json
    sealed_jq '.run.dataset.padding = "max_length"' b.json >c.json
    refused 3 "they differ in padding" aq-select a.json c.json
    sealed_jq '.identity.lm = "x" | .identity.tokens = "y"' b.json >c.json
    refused 3 "they differ in lm ('lm-digest' and 'x'), tokens ('tokens-digest' and 'y')" aq-select a.json c.json
    refused 3 "candidate 'wint4_aint8/default' is given twice" aq-select a.json a.json
    scores c.json wint8_aint8/default 8 2 3
    refused 3 "'a.json' has 16 groups, 'c.json' has 12" aq-select a.json c.json
    sealed_jq '.groups[3].weights = 7' b.json >c.json
    refused 3 "'layers.0.mlp.down_proj' has 2048.0 weights in 'a.json' and 7.0 in 'c.json'" aq-select a.json c.json
    sealed_jq '.identity.backend = "cuda"' b.json >c.json
    aq 0 aq-select --effective-bits 6 a.json c.json
    has "$stderr" "warning: 'a.json' and 'c.json' differ in backend"
}

@test "a manifest of another tool needs --unchecked, and its cost rule" {
    need_shared
    local m=$PUBLISHED/wfp8_afp8/wfp8_afp8_autoquant_lm_quant_manifest.json
    refused 3 "does not say where its scores come from: no lm, tokens" aq-select "$m"
    has "$stderr" "give --unchecked"
    refused 3 "does not say what its candidates cost by the rule 'storage'" aq-select --unchecked --cost storage "$m"
    has "$stderr" "it knows 'modelopt40'"
}

# ---- content of files ----

# bad JQ-PROGRAM TEXT: a.json with a change is refused
bad() {
    changed bad.json "$1"
    refused 3 "$2" aq-select bad.json
}

@test "every key of scores.json has its type" {
    bad '.schema = "aq.scores/1"' "schema is 'aq.scores/1', expected 'aq.scores/2'"
    bad 'del(.schema)' "not a product of aq"
    bad '[.]' "expected an object with schema"
    bad 'del(.run)' "key 'run' is missing"
    bad '.run.scheme = []' "run.scheme: expected an object, found a list"
    bad '.run.autoquant.effective_bits = "8"' "run.autoquant.effective_bits: expected a number, found a string"
    bad '.run.autoquant.effective_bits = 99' "the budget of the run is outside (0, 16]"
    bad '.run.autoquant.normalization = "per_sample"' "expected one of: per_token, per_batch_mean"
    bad '.run.autoquant.cost = "cheap"' "expected one of: storage, modelopt40, modelopt47"
    bad '.run.autoquant.count_vision = 1' "run.autoquant.count_vision: expected a boolean, found an integer"
    bad 'del(.identity.lm)' "identity: key 'lm' is missing"
    bad '.identity = null' "identity: expected an object, found null"
    bad '.candidate.name = ""' "a candidate cannot be named ''"
    bad '.candidate.name = "NONE"' "a candidate cannot be named 'NONE'"
    bad '.candidate.bits.storage = 0' "'storage' is outside (0, 16]"
    bad '.candidate.bits.storage = 17' "'storage' is outside (0, 16]"
    bad 'del(.candidate.bits.modelopt40)' "candidate.bits: key 'modelopt40' is missing"
    bad '.weights.lm = -1' "weights.lm: expected an integer from 0"
    bad '.weights.lm = 1' "weights.lm is less than the sum of the weights of the groups"
    bad '.weights.vision = 1.5' "weights.vision: expected an integer, found a number"
    bad '.groups = []' "groups: there is no group"
    bad '.groups = {}' "groups: expected a list, found an object"
    bad '.groups[1] = null' "groups[1]: expected an object, found null"
    bad '.groups[1].name = 5' "groups[1].name: expected a string, found an integer"
    bad '.groups[1].members = []' "groups[1].members: the first member must be the group's name"
    bad '.groups[1].members = ["x"]' "the first member must be the group's name"
    bad '.groups[0].members[1] = 3' "groups[0].members[1]: expected a string, found an integer"
    bad '.groups[4] = .groups[0]' "module 'layers.0.self_attn.q_proj' appears twice"
    bad '.groups[0].members[1] = "layers.3.mlp.down_proj"' "module 'layers.3.mlp.down_proj' appears twice"
}

@test "weights and scores that are none" {
    bad '.groups[0].weights = 0' "groups[0].weights: expected an integer from 1"
    bad '.groups[0].weights = -4' "groups[0].weights: expected an integer from 1"
    bad '.groups[0].weights = 4.5' "groups[0].weights: expected an integer, found a number"
    bad '.groups[0].weights = 4611686018427387904' "groups[0].weights: expected an integer from 1"
    bad '.groups[0].per_token = null' "groups[0].per_token: expected a number, found null"
    bad '.groups[0].per_token = "1"' "groups[0].per_token: expected a number, found a string"
    bad 'del(.groups[0].sum)' "groups[0]: key 'sum' is missing"
    bad '.groups[0].per_token = -1' "cannot be negative"
    bad '.groups[0].per_token_se = -1' "a standard error cannot be negative"
    bad '.groups[].per_token = 1e308' "the sum of the scores is too large"
    changed ok.json '.groups[0].per_token = 1e300 | .groups[1].per_token = 1e-300 | .groups[2].per_token = 5e-324'
    aq 0 aq-select --effective-bits 4.125 ok.json
    is "$(jq .autoquant_state.score <<<"$output")" 1e+300
    changed kl.json '.identity.method = "kl_div" | .groups[0].per_token = -1e-9'
    aq 0 aq-select kl.json
    changed nan.json . && sed -i '0,/"per_token": [0-9.e-]*/s//"per_token": NaN/' nan.json
    refused 3 "nan.json:" aq-select nan.json
    sed '0,/NaN/s//1e999/' nan.json >inf.json
    refused 3 "inf.json:" aq-select inf.json
}

@test "costs of a manifest: zero and fractions are exact or said to be rounded, too large is refused" {
    cells
    aq-select --effective-bits 6 a.json b.json -o m.json
    local cost='.layer_sensitivity["layers.0.mlp.down_proj.quant_recipe"].costs[0]'
    with_cost() { jq "$cost = $1" m.json >cost.json; }
    with_cost 0
    aq 0 aq-select --effective-bits 6 cost.json
    is "$(jq .selection.rounding <<<"$output")" 0
    with_cost 0.1
    aq 0 aq-select --effective-bits 6 cost.json
    has "$stderr" "warning: costs were rounded up, by at most"
    is "$(jq '.selection.rounding > 0 and .selection.rounding < 1e-9' <<<"$output")" true
    with_cost -1
    refused 3 "costs[0]: a cost cannot be negative" aq-select cost.json
    with_cost 4611686018427387904
    refused 3 "the costs are too large to be added exactly" aq-select cost.json
    jq '.layer_sensitivity[] |= (.scores[0] = 1e308 | del(.importance, .rank)) | del(.sensitivity_ranking)' m.json >big.json
    refused 3 "the sum of the scores is too large" aq-select big.json
}

@test "files that are not what they should be" {
    cells
    refused 1 "cannot open 'none.json'" aq-select none.json
    refused 3 "." aq-select .
    : >empty.json
    refused 3 "empty.json:" aq-select empty.json
    local n
    for n in 1 100 1000 5000; do
        head -c $n a.json >cut.json
        refused 3 "cut.json:" aq-select cut.json
    done
    printf '{"a": 1, "a": 2}' >twice.json
    refused 3 "key 'a' appears twice" aq-select twice.json
    printf '{"layer_sensitivity": {}}' >half.json
    refused 3 "expected the keys 'layer_sensitivity' and 'autoquant_state'" aq-select half.json
    refused 3 "standard input" aq-select - <empty.json
    aq-select --effective-bits 8 <b.json >/dev/null
}

@test "hostile names come out escaped" {
    cells
    local evil=$'layers.0.\e[2J<script>|"\u202egnp.mlp\x01'
    sealed_jq --arg n "$evil" '.groups[0].name = $n | .groups[0].members = [$n]' a.json >evil.json
    aq 0 aq-select --effective-bits 16 evil.json
    [[ $output != *$'\e'* && $output != *$'\u202e'* ]]
    aq 0 aq-select --frontier evil.json
    [[ $output != *$'\e'* && $output != *$'\u202e'* ]]
    sealed_jq --arg n "$evil" '.candidate.name = $n' a.json >evil2.json
    refused 3 "is given twice" aq-select evil2.json evil2.json
    [[ $stderr != *$'\e'* && $stderr != *$'\u202e'* ]]
}

@test "a product that cannot be written leaves nothing behind" {
    cells
    mkdir ro
    refused 1 "nowhere/m.json" aq-select b.json -o nowhere/m.json
    refused 1 "nowhere/x.pt" aq-select b.json --state nowhere/x.pt -o m.json
    [ ! -e m.json ]
    if [ -e /dev/full ]; then
        run bash -c 'aq-select b.json >/dev/full'
        is "$status" 1
    fi
    is "$(find . -name '*.tmp*' -o -name '.*.json*' | wc -l)" 0
}

# ---- speed ----

@test "36 layers and five candidates: every budget below 2 s and 300 MB, one below a second" {
    local i=0 b
    for b in 4.125 4.5 8 8.125 6; do scores $((++i)).json w$i/default $b $i 36; done
    sanitized && skip "not in a sanitizer build"
    (ulimit -v 300000 && within 2 aq-select --frontier -o f.tsv [1-5].json)
    [ "$(wc -l <f.tsv)" -gt 1000 ]
    within 1 aq-select --effective-bits 5.4 [1-5].json
}

@test "1,200 groups: the frontier comes with a proven gap" {
    scores a.json w4/default 4.125 1 300
    scores b.json w8/default 8 2 300
    aq 0 aq-select --frontier a.json b.json -o f.tsv
    has "$stderr" "too many groups for an exact answer: the score is within"
    # with all at 16 bits nothing is left of the scores, not even rounding
    is "$(tail -1 f.tsv | cut -f1-2)" "$(printf '16.0\t0.0')"
    aq 0 aq-select --effective-bits 6 a.json b.json -o m.json
    is "$(jq '.selection.gap' m.json)" 0
}
