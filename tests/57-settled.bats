#!/usr/bin/env bats
# aq-select --settled: do the recipes of nested sizes agree?
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    # two candidates at each of three sizes; the small size has the groups in another order of their scores
    size 16 3 1 && size 128 2 1 && size 512 2 1
}

# size SAMPLES SEED ERROR: scores of both candidates; ERROR times a tenth of the score is the standard error
size() {
    local bits
    for bits in 4 8; do
        scores any.json "wint${bits}_afp16/default" $bits "$2"
        sealed_jq --argjson n "$1" --argjson e "$3" '.identity.prefix = $n | (.groups[].per_token_se) *= $e' any.json >"$1-$bits.json"
    done
}

@test "the smallest size from which on all agree" {
    aq 0 aq-select --settled --effective-bits 6 512-8.json 16-4.json 128-8.json 16-8.json 128-4.json 512-4.json
    is "$(jq -c '[.schema, .budget, .settled, [.sizes[] | .samples]]' <<<"$output")" '["aq.settled/1",6,128,[16,128,512]]'
    is "$(jq -c '.sizes[2] | [.same_weights, .difference, .se, .agrees]' <<<"$output")" '[1,0,0,true]'
    is "$(jq -c '.sizes[0] | [.same_weights, .difference, .se, .agrees]' <<<"$output")" '[null,null,null,null]'
    is "$(jq -c '.sizes[1] | [.same_weights < 1, .difference > 1.96 * .se, .agrees]' <<<"$output")" '[true,true,false]'
}

@test "difference, error and share of the weights are those of the two recipes" {
    aq-select -q --effective-bits 6 -o a.json 16-4.json 16-8.json
    aq-select -q --effective-bits 6 -o b.json 128-4.json 128-8.json
    aq 0 aq-select --settled --effective-bits 6 16-4.json 16-8.json 128-4.json 128-8.json
    jq -en --slurpfile a a.json --slurpfile b b.json --slurpfile s4 128-4.json --slurpfile s8 128-8.json --argjson found "$output" '
        def taken($m): $m[0].selection.recipe | map(.candidate);
        [$s4, $s8 | .[0].groups] as [$four, $eight] | def of($c; $i): if $c == "NONE" then [0, 0] else
            (if $c[:5] == "wint4" then $four else $eight end)[$i] | [.per_token, .per_token_se] end;
        [taken($a), taken($b)] | transpose | to_entries | map(.value as [$x, $y] | {same: ($x == $y), w: $four[.key].weights,
            d: (of($x; .key)[0] - of($y; .key)[0]), e: (pow(of($x; .key)[1]; 2) + pow(of($y; .key)[1]; 2))})
        | ((map(select(.same).w) | add) / (map(.w) | add)) as $same | map(select(.same | not))
        | [$same, (map(.d) | add), (map(.e) | add | sqrt)] as [$s, $d, $e] | $found.sizes[1]
        | (.same_weights - $s | fabs) < 1e-12 and (.difference - $d | fabs) < 1e-12 and (.se - $e | fabs) < 1e-12' >/dev/null
}

@test "what the larger size cannot tell apart agrees" {
    size 128 2 1000 && size 512 2 1000
    aq 0 aq-select --settled --effective-bits 6 16-4.json 16-8.json 128-4.json 128-8.json
    is "$(jq -c '[.settled, .sizes[1].agrees, .sizes[1].same_weights < 1]' <<<"$output")" '[16,true,true]'
    size 512 5 1
    aq 0 aq-select --settled --effective-bits 6 16-4.json 16-8.json 128-4.json 128-8.json 512-4.json 512-8.json
    is "$(jq -c '[.settled, [.sizes[].agrees]]' <<<"$output")" '[null,[null,true,false]]'
}

@test "what cannot be compared is refused" {
    refused 2 "all files are of 16 samples" aq-select --settled 16-4.json 16-8.json
    refused 3 "have different candidates" aq-select --settled 16-4.json 128-8.json
    sealed_jq '.identity.lm = "other"' 128-4.json >other.json
    refused 3 "differs from" aq-select --settled 16-4.json other.json
    refused 2 "--settled goes with" aq-select --settled --frontier 16-4.json 128-4.json
}

@test "STOP=settled: sizes one after another, until two agree" {
    cd "$REPO" || return
    unset MAKEFLAGS MAKELEVEL MFLAGS
    export AQ_BIN=$BIN
    local goal=(make --no-print-directory -f pipelines/sweep.mk PAIRS='wint4_afp16 wint8_afp16' GRANS=default TMP_ROOT="$BATS_TEST_TMPDIR/tmp" BITS=6)
    aq 0 "${goal[@]}" SIZES='small medium large' STOP=settled
    local p=$BATS_TEST_TMPDIR/tmp/model-experiments/lm_sensitivity/qwen3_vl_demo last
    last=$(jq -r '.sizes[-1].samples' "$p/settled.json")
    has "$output" "% of the weights choose as before; "
    # it stops at the first size that agrees, and has no more
    is "$(jq -c '[.sizes[1:-1][].agrees] | any' "$p/settled.json")" false
    if [ "$last" = 128 ]; then
        is "$(jq .sizes[-1].agrees "$p/settled.json")" true
        [ ! -e "$p/wint4_afp16/default/large" ]
    else
        [ -e "$p/wint4_afp16/default/large/scores.json" ]
    fi
    refused 2 "SIZES needs two or more" "${goal[@]}" SIZES=small STOP=settled
    refused 2 "is not: settled" "${goal[@]}" SIZES=all STOP=soon
    refused 2 "STOP goes with the goal sweep alone" "${goal[@]}" select SIZES=all STOP=settled
}
