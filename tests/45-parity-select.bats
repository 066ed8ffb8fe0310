#!/usr/bin/env bats
# The selection of aq against that of ModelOpt's solver over ModelOpt's scores: vectors of tests/oracle/parity_select.py.
load helpers

@test "autoquant=modelopt_parity chooses what ModelOpt's solver chooses, at every budget" {
    local vectors=$REPO/tests/oracle/parity/select.json bits want found
    cd "$REPO"
    unset MAKEFLAGS MAKELEVEL MFLAGS AQ_CONF
    AQ_BIN=$BIN aq 0 make -s -f pipelines/qwen3.mk PAIRS=wfp16_afp8 SIZES=small DEVICE=cpu TMP_ROOT="$BATS_TEST_TMPDIR/t" \
        OVERRIDES="autoquant=modelopt_parity dataset.padding=max_length model.dtype=fp32"
    is "$(jq -r .format "$vectors")" "$(jq -r .quant_pair.format_name "$BATS_TEST_TMPDIR"/t/*/*/*/wfp16_afp8/default/small/run.json)"
    is "$(jq .identity.dynamic_batch "$BATS_TEST_TMPDIR"/t/*/*/*/wfp16_afp8/default/small/scores.json)" 8
    while read -r bits want; do
        aq-select --effective-bits "$bits" -o "$BATS_TEST_TMPDIR/m.json" "$BATS_TEST_TMPDIR"/t/*/*/*/wfp16_afp8/default/small/scores.json
        found=$(jq -r --slurpfile v "$vectors" '.selection.recipe as $r | [$v[0].groups[]
            | if $r[. + ".quant_recipe"].candidate == "NONE" then "0" else "1" end] | join("")' "$BATS_TEST_TMPDIR/m.json")
        is "$bits $found" "$bits $want"
    done < <(jq -r '.budgets[] | "\(.bits) \(.chosen)"' "$vectors")
}
