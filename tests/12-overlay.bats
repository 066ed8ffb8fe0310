#!/usr/bin/env bats
# aq-overlay: one effective configuration from a run or from names, and what happens to bad ones.
load helpers

setup_file() {
    # Formats are the shipped ones; granularities are those of the vectors, in files of their own.
    local conf=$BATS_FILE_TMPDIR/conf g
    mkdir -p "$conf/quant_granularity"
    ln -s "$REPO/conf/format" "$conf/format"
    while read -r g; do
        jq --arg g "$g" '{name: $g, quant_cfg_overrides: .granularities[$g]}' "$REPO/tests/oracle/overlay/modelopt-0.40.0.json" \
            >"$conf/quant_granularity/$g.yaml"
    done < <(jq -r '.granularities | keys[]' "$REPO/tests/oracle/overlay/modelopt-0.40.0.json")
    cp "$REPO/conf/quant_granularity/fp8_block.yaml" "$conf/quant_granularity/" # not ModelOpt's
}

setup() {
    export AQ_CONF=$BATS_FILE_TMPDIR/conf
    cd "$BATS_TEST_TMPDIR" || return
}

# make_run FORMAT OVERRIDES [JQ]: a run.json as aq-resolve writes it, then changed by a jq program.
make_run() {
    jq -n --arg f "$1" --argjson o "$2" '{model: {name: "m"}, dataset: {size: "small"},
        quant_pair: {name: "p", weight: "w", activation: "a", format_name: $f, experimental: false},
        quant_granularity: {name: "g", quant_cfg_overrides: $o}, autoquant: {effective_bits: 8.0, fp4_block: "honour"}}' | jq "${3:-.}" >run.json
}

@test "the whole document" {
    aq 0 aq-overlay --format W4A8_NVFP4_FP8_CFG --granularity a_per_token_dynamic
    diff <(printf '%s\n' "$output") - <<'E'
{
  "schema": "aq.quant/1",
  "base_format_name": "W4A8_NVFP4_FP8_CFG",
  "quant_granularity": {
    "name": "a_per_token_dynamic",
    "quant_cfg_overrides": {
      "*input_quantizer": {
        "type": "dynamic",
        "block_sizes": {
          "-1": null
        }
      }
    }
  },
  "quant_cfg": {
    "*weight_quantizer": {
      "num_bits": [
        2,
        1
      ],
      "block_sizes": {
        "-1": 32,
        "type": "dynamic",
        "scale_bits": [
          4,
          3
        ]
      },
      "axis": null,
      "enable": true
    },
    "*input_quantizer": {
      "num_bits": [
        4,
        3
      ],
      "enable": true,
      "type": "dynamic",
      "block_sizes": {
        "-1": null
      }
    }
  },
  "algorithm": "max",
  "effective_quantizer_summary": {
    "*weight_quantizer": {
      "axis": null,
      "block_sizes": {
        "-1": 32,
        "type": "dynamic",
        "scale_bits": [
          4,
          3
        ]
      }
    },
    "*input_quantizer": {
      "type": "dynamic",
      "block_sizes": {
        "-1": null
      }
    }
  },
  "treatment": {
    "w": "e2m1:nvfp4(32):dynamic@group",
    "a": "e4m3:token:dynamic"
  },
  "treatment_id": "c3c91500d7b4697a",
  "label": "CUSTOM_0",
  "bits": {
    "modelopt40": 4.0,
    "modelopt47": 4.0,
    "storage": 4.25
  },
  "supported": true,
  "reason": null
}
E
}

@test "treatment_id is the beginning of the sha256 of the two treatments" {
    aq 0 aq-overlay --format FP8_DEFAULT_CFG
    is "$(jq -r .treatment_id <<<"$output")" "$(jq -j '.treatment.w + "|" + .treatment.a' <<<"$output" | sha256sum | cut -c1-16)"
}

@test "a run as operand, on standard input, with its own format and without: the same" {
    make_run INT4_WEIGHT_INT8_ACT_CFG '{"*weight_quantizer": {"block_sizes": {"-1": 64}}}'
    aq 0 aq-overlay run.json
    local first=$output
    is "$(aq-overlay <run.json)" "$first"
    is "$(aq-overlay - <run.json)" "$first"
    is "$(aq-overlay --format INT4_WEIGHT_INT8_ACT_CFG --granularity w_group64 | jq -c .treatment)" "$(jq -c .treatment <<<"$first")"
    jq --argjson f "$(jq -n '{quant_cfg: {"*weight_quantizer": {num_bits: 4, block_sizes: {"-1": 128}, enable: true},
        "*input_quantizer": {num_bits: 8, axis: null, enable: true}}, algorithm: "max"}')" '._aq.format = $f' run.json >own.json
    is "$(aq-overlay own.json)" "$first"
    jq '._aq.format.algorithm = "svdquant"' own.json >svd.json
    aq 0 aq-overlay svd.json
    is "$(jq -c '[.supported, .algorithm]' <<<"$output")" '[true,"svdquant"]'
    is "$stderr" "aq-overlay: warning: algorithm 'svdquant' is not applied: scores will be those of plain rounding"
    aq 0 aq-overlay -q svd.json
    is "$stderr" ""
}

@test "neither size nor budget shows in the product" {
    make_run FP8_DEFAULT_CFG '{}'
    local first
    first=$(aq-overlay run.json)
    make_run FP8_DEFAULT_CFG '{}' '.dataset.size = "large" | .autoquant.effective_bits = 5.5 | ._aq.overrides = ["x=1"]'
    is "$(aq-overlay run.json)" "$first"
}

@test "autoquant.fp4_block: honour is the default, 16 is read in both spellings" {
    local v
    for v in '"honour"' null; do
        make_run W4A8_NVFP4_FP8_CFG '{}' ".autoquant.fp4_block = $v"
        is "$(aq-overlay run.json | jq -c '[.treatment.w, .bits.storage]')" '["e2m1:nvfp4(32):dynamic@group",4.25]'
    done
    for v in '"16"' 16; do
        make_run W4A8_NVFP4_FP8_CFG '{}' ".autoquant.fp4_block = $v"
        is "$(aq-overlay run.json | jq -c '[.treatment.w, .bits.storage]')" '["e2m1:nvfp4(16):dynamic@group",4.5]'
    done
    make_run W4A8_NVFP4_FP8_CFG '{}' 'del(.autoquant)'
    is "$(aq-overlay run.json | jq -r .treatment.w)" 'e2m1:nvfp4(32):dynamic@group'
    for v in 32 '"honor"' true '[16]'; do
        make_run W4A8_NVFP4_FP8_CFG '{}' ".autoquant.fp4_block = $v"
        refused 3 "run.json: autoquant.fp4_block: expected honour or 16" aq-overlay run.json
    done
    is "$(aq-overlay --format W4A8_NVFP4_FP8_CFG --fp4-block 16 | jq -r .treatment.w)" 'e2m1:nvfp4(16):dynamic@group'
    is "$(aq-overlay --format W4A8_NVFP4_FP8_CFG --fp4-block=honour | jq -r .treatment.w)" 'e2m1:nvfp4(32):dynamic@group'
}

@test "one second level for a group of linears, or one for each: autoquant.shared_scale" {
    local v
    make_run NVFP4_DEFAULT_CFG '{}'
    is "$(aq-overlay run.json | jq -c .treatment)" '{"w":"e2m1:nvfp4(16):dynamic@group","a":"e2m1:nvfp4(16):static"}'
    make_run NVFP4_DEFAULT_CFG '{}' '.autoquant.shared_scale = false'
    is "$(aq-overlay run.json | jq -c .treatment)" '{"w":"e2m1:nvfp4(16):dynamic","a":"e2m1:nvfp4(16):static"}'
    is "$(aq-overlay --format NVFP4_DEFAULT_CFG --own-scales | jq -c .treatment)" "$(aq-overlay run.json | jq -c .treatment)"
    make_run MXFP4_WEIGHT_ONLY_CFG '{}' '.autoquant.shared_scale = true'
    is "$(aq-overlay run.json | jq -r .treatment.w)" 'e2m1:mx(32):dynamic'
    for v in 1 '"true"'; do
        make_run NVFP4_DEFAULT_CFG '{}' ".autoquant.shared_scale = $v"
        refused 3 "run.json: autoquant.shared_scale: expected true or false" aq-overlay run.json
    done
}

@test "what cannot run is said, not failed; --strict fails and writes nothing" {
    aq 0 aq-overlay --format NVFP4_WEIGHT_ONLY_CFG --granularity w_per_tensor
    is "$(jq -c '[.supported, .treatment.w, .treatment.a, .treatment_id, .bits.storage, .label]' <<<"$output")" \
        '[false,null,"none",null,null,"CUSTOM_0"]'
    has "$(jq -r .reason <<<"$output")" "(rule 3)"
    refused 3 "NVFP4_WEIGHT_ONLY_CFG with granularity w_per_tensor is not supported: weights: e2m1 needs" \
        aq-overlay --strict --format NVFP4_WEIGHT_ONLY_CFG --granularity w_per_tensor -o q.json
    [ ! -e q.json ]
    aq 0 aq-overlay --strict --format NVFP4_WEIGHT_ONLY_CFG -o q.json
    is "$(jq .supported q.json)" true
}

@test "each rule is reached" {
    local rule attributes
    while IFS=$'\t' read -r rule attributes; do
        make_run FP8_DEFAULT_CFG null "._aq.format = {quant_cfg: $attributes, algorithm: \"max\"}"
        aq 0 aq-overlay run.json
        has "$(jq -r '.reason // "supported"' <<<"$output")" "(rule $rule)" || { echo "$attributes"; return 1; }
    done <<'E'
1	{"*weight_quantizer": {axis: 0, block_sizes: {"-1": 16}}}
2	{"*weight_quantizer": {num_bits: [2, 1], block_sizes: {"-1": 16, "-2": 16, type: "dynamic", scale_bits: [4, 3]}}}
2	{"*weight_quantizer": {num_bits: [2, 1], block_sizes: {"-2": 16, type: "dynamic", scale_bits: [4, 3]}}}
3	{"*weight_quantizer": {num_bits: [5, 2]}}
3	{"*weight_quantizer": {num_bits: [2, 1], block_sizes: {"-1": 16, type: "static", scale_bits: [4, 3]}}}
6	{"*weight_quantizer": {num_bits: [3, 2], block_sizes: {"-1": 64, type: "dynamic", scale_bits: [8, 0]}}}
8	{"*input_quantizer": {num_bits: [2, 1], type: "dynamic", block_sizes: {"-1": null, type: "dynamic"}}}
9	{"*weight_quantizer": {num_bits: 8, block_sizes: {"-1": 16, type: "dynamic"}}}
9	{"*weight_quantizer": {num_bits: 8, block_sizes: {"-1": 16, type: "dynamic", scale_bits: 8}}}
10	{"*weight_quantizer": {num_bits: 4, block_sizes: {"-1": 16, type: "dynamic", scale_bits: [8, 0]}}}
10	{"*weight_quantizer": {num_bits: [4, 3], block_sizes: {"-1": 16, type: "dynamic", scale_bits: [4, 3]}}}
11	{"*input_quantizer": {num_bits: 8, block_sizes: {"-1": 64}}}
11	{"*input_quantizer": {num_bits: 8, block_sizes: {"-1": null}}}
20	{"*weight_quantizer": {num_bits: 1}}
20	{"*weight_quantizer": {num_bits: 9}}
20	{"*weight_quantizer": {num_bits: -4}}
20	{"*weight_quantizer": {num_bits: [0, 3], block_sizes: {"-1": 16, type: "dynamic"}}}
21	{"*weight_quantizer": {enable: true}}
22	{"*weight_quantizer": {num_bits: 8, bias: {"-1": null}}}
22	{"*input_quantizer": [{num_bits: 8}, {num_bits: 4}]}
23	{"*weight_quantizer": {num_bits: 8, axis: 2}}
23	{"*weight_quantizer": {num_bits: 8, block_sizes: {"-3": 16}}}
24	{"*input_quantizer": {num_bits: 8, axis: 0}}
24	{"*input_quantizer": {num_bits: 8, axis: -1, type: "dynamic"}}
25	{"*weight_quantizer": {enable: false}, "*input_quantizer": {enable: false}}
25	{"*mlp*weight_quantizer": {num_bits: 8}}
25	{}
E
}

@test "a static range without a calibration pass is a dynamic one" {
    aq 0 aq-overlay --format W4A8_MXFP4_FP8_CFG
    is "$(jq -c .treatment <<<"$output")" '{"w":"e2m1:mx(32):dynamic","a":"e4m3:tensor:dynamic"}'
}

@test "a sequence on weights, and a key default" {
    make_run X '{"*weight_quantizer": {"type": "static"}}' '._aq.format = {algorithm: {method: "max"},
        quant_cfg: {"*weight_quantizer": [{num_bits: 4, block_sizes: {"-1": 128}}, {num_bits: [4, 3]}], default: {num_bits: 8}}}'
    aq 0 aq-overlay run.json
    is "$(jq -c '[.treatment.w, .treatment.a, .bits.storage, .bits.modelopt40]' <<<"$output")" \
        '["int4:block(-1:128):static+e4m3:tensor:static","int8:tensor:static",4.125,4]'
    is "$(jq -c '.quant_cfg["*weight_quantizer"][1]' <<<"$output")" '{"num_bits":[4,3],"type":"static"}'
}

@test "the tables of docs/formats.md are what the tool says" {
    local pair format w a b40 b47 storage n=0 g label
    while IFS='|' read -r _ pair format w a b40 b47 storage _; do
        is "$(aq-overlay --format "${format//[\` ]/}" |
            jq -c '[.treatment.w, .treatment.a] + ([.bits.modelopt40, .bits.modelopt47, .bits.storage] | map(. * 1000))')" \
            "$(jq -nc --arg w "${w//[\` ]/}" --arg a "${a//[\` ]/}" "[\$w, \$a] + ([$b40, $b47, $storage] | map(. * 1000))")" || return 1
        n=$((n + 1))
    done < <(grep -E '^\| `w[a-z0-9_]+` \| `[A-Z0-9_]+` \| `[a-z0-9:(),@{}./-]+` \| ' "$REPO/docs/formats.md")
    is "$n" 26
    while IFS='|' read -r _ pair g label _; do
        format=$(grep -E "^\| ${pair// /} \| .*:" "$REPO/docs/formats.md" | head -1 | cut -d'|' -f3)
        is "$(aq-overlay --format "${format//[\` ]/}" --granularity "${g//[\` ]/}" | jq -r .label)" "${label//[\` ]/}" || return 1
        n=$((n + 1))
    done < <(grep -E '^\| `w[a-z0-9_]+` \| `[a-z0-9_]+` \| `[A-Z0-9_]+` \|$' "$REPO/docs/formats.md")
    [ "$n" -ge 33 ]
}

# every_run OVERRIDE...: a line "supported treatment_id" for each cell of the shipped tree, made by aq-resolve.
every_run() {
    local line
    while IFS= read -r line; do
        aq-overlay <<<"$line" || return 1
    done < <(AQ_CONF=$REPO/conf aq-resolve -q -m "$@") | jq -r '[.supported, .treatment_id] | @tsv'
}

@test "the shipped tree: 128 of upstream's 144 cells run, 82 distinct as its kernels read FP4 blocks, 90 as configured" {
    [ -x "$BIN/aq-resolve" ] || skip "aq-resolve is not built"
    local pairs grans
    pairs=$(cd "$REPO/conf/quant_pair" && ls w*[48]_a*[0-9].yaml | grep -vE 'wfp4_afp4|^wmx' | sed 's/.yaml//' | paste -sd,)
    grans=$(cd "$REPO/conf/quant_granularity" && ls | grep -vE 'w_group128_a_token|a_per_hidden_channel|fp8_block' | sed 's/.yaml//' | paste -sd,)
    every_run "quant_pair=$pairs" "quant_granularity=$grans" autoquant=modelopt_parity >parity
    is "$(wc -l <parity) $(grep -c ^true parity) $(grep ^true parity | sort -u | wc -l)" "144 128 82"
    every_run "quant_pair=$pairs" "quant_granularity=$grans" >honour
    is "$(wc -l <honour) $(grep -c ^true honour) $(grep ^true honour | sort -u | wc -l)" "144 128 90"
}

@test "bits as stored count the scales of blocks, and no others" {
    local format bits
    while read -r format bits; do
        is "$format $(aq-overlay --format "$format" | jq .bits.storage)" "$format $bits"
    done <<'END'
FP8_DEFAULT_CFG 8
INT8_DEFAULT_CFG 8
NVFP4_DEFAULT_CFG 4.5
MXFP4_DEFAULT_CFG 4.25
MXFP8_DEFAULT_CFG 8.25
INT4_BLOCKWISE_WEIGHT_ONLY_CFG 4.125
END
}

@test "the granularities of docs/formats.md, of the tests and of conf/ are one" {
    local g name weights inputs n=0
    for g in "$REPO"/conf/quant_granularity/*.yaml; do
        name=$(basename "$g" .yaml)
        is "$(aq-overlay --format FP8_DEFAULT_CFG --granularity "$g" | jq -c .quant_granularity)" \
            "$(aq-overlay --format FP8_DEFAULT_CFG --granularity "$name" | jq -c .quant_granularity)" || return 1
        IFS='|' read -r _ _ weights inputs _ < <(grep "^| \`$name\` | .* | .* | .* | .* | .* | .* |" "$REPO/docs/formats.md")
        printf 'name: %s\nquant_cfg_overrides: {%s%s%s}\n' "$name" "${weights:+$(tr -d '\`' <<<"${weights// /}" | sed -n 's/^{/"*weight_quantizer": {/p')}" \
            "$([[ $weights == *{* && $inputs == *{* ]] && echo ', ')" "$(tr -d '\`' <<<"$inputs" | sed -n 's/^ {/"*input_quantizer": {/p')" | sed 's/:\([^ ]\)/: \1/g' >doc.yaml
        is "$(aq-overlay --format FP8_DEFAULT_CFG --granularity doc.yaml | jq -c .quant_granularity)" \
            "$(aq-overlay --format FP8_DEFAULT_CFG --granularity "$g" | jq -c .quant_granularity)" || { cat doc.yaml; return 1; }
        n=$((n + 1))
    done
    is "$n" 12
}

@test "a granularity from a file, in YAML and in JSON" {
    printf 'name: mine\nquant_cfg_overrides:\n  "*weight_quantizer":\n    block_sizes: {-1: 32}\n' >g.yaml
    is "$(aq-overlay --format INT8_WEIGHT_ONLY_CFG --granularity g.yaml | jq -r '.quant_granularity.name, .treatment.w')" $'mine\nint8:block(-1:32):static'
    echo '{"name": "mine", "quant_cfg_overrides": {"*weight_quantizer": {"block_sizes": {"-1": 32}}}}' >g.json
    is "$(aq-overlay --format INT8_WEIGHT_ONLY_CFG --granularity ./g.json)" "$(aq-overlay --format INT8_WEIGHT_ONLY_CFG --granularity g.yaml)"
    printf 'name: mine\nquant_cfg_overrides: null\n' >g.yaml
    is "$(aq-overlay --format INT8_WEIGHT_ONLY_CFG --granularity g.yaml | jq -c '[.label, .quant_granularity.quant_cfg_overrides]')" '["INT8_WEIGHT_ONLY_CFG",{}]'
}

@test "usage: options that exclude one another, unknown names" {
    refused 2 "a run and --format exclude one another" aq-overlay --format FP8_DEFAULT_CFG run.json
    refused 2 "--granularity needs --format" aq-overlay --granularity default
    refused 2 "--fp4-block needs --format" aq-overlay --fp4-block 16
    refused 2 "--own-scales needs --format" aq-overlay --own-scales
    refused 2 "--fp4-block: '8' is not one of: honour, 16" aq-overlay --format FP8_DEFAULT_CFG --fp4-block 8
    refused 2 "unexpected operand 'b'" aq-overlay a b
    refused 2 "unknown format 'FP8_DEFUALT_CFG'" aq-overlay --format FP8_DEFUALT_CFG
    has "$stderr" "did you mean FP8_DEFAULT_CFG? there are: FP16_WEIGHT_FP8_ACT_CFG, "
    refused 2 "unknown format 'fp8_default_cfg'" aq-overlay --format fp8_default_cfg
    refused 2 "unknown granularity 'w_group65'" aq-overlay --format FP8_DEFAULT_CFG --granularity w_group65
    has "$stderr" "did you mean w_group64? there are: a_per_hidden_channel, "
    refused 2 "unknown format '../quant_granularity/default'" aq-overlay --format ../quant_granularity/default
    refused 2 "unknown format ''" aq-overlay --format ''
    refused 2 "unknown format '.'" aq-overlay --format .
    refused 2 "unknown format 'a\\nb'" aq-overlay --format $'a\nb'
    refused 2 "unknown format" aq-overlay --format "$(printf 'x%.0s' {1..5000})"
    refused 1 "cannot open 'no.yaml'" aq-overlay --format FP8_DEFAULT_CFG --granularity no.yaml
    refused 2 "--config-dir: '/nope' is not a directory" aq-overlay --config-dir /nope --format FP8_DEFAULT_CFG
    AQ_CONF=/nope refused 2 "\$AQ_CONF: '/nope' is not a directory" aq-overlay --format FP8_DEFAULT_CFG
}

@test "documents that are no run" {
    refused 3 "standard input:1:1: " aq-overlay </dev/null
    echo '{' >run.json
    refused 3 "run.json:2:1: " aq-overlay run.json
    echo '[]' >run.json
    refused 3 "run.json: expected a run of aq-resolve, found a list" aq-overlay run.json
    echo '{"schema": "aq.lm/1"}' >run.json
    refused 3 "run.json: schema is 'aq.lm/1', expected a run of aq-resolve" aq-overlay run.json
    echo '{}' >run.json
    refused 3 "run.json: key 'quant_pair' is missing" aq-overlay run.json
    echo '{"Quant_pair": {}}' >run.json
    refused 3 "run.json: key 'quant_pair' is missing" aq-overlay run.json
    echo '{"quant_pair": {"format_name": "A", "format_name": "B"}}' >run.json
    refused 3 "run.json:1:38: key 'format_name' appears twice" aq-overlay run.json
    make_run FP8_DEFAULT_CFG '{}' '.quant_pair = "wfp8_afp8"'
    refused 3 "run.json: quant_pair: expected an object, found a string" aq-overlay run.json
    make_run FP8_DEFAULT_CFG '{}' '.quant_pair.format_name = 8'
    refused 3 "run.json: quant_pair.format_name: expected a string, found an integer" aq-overlay run.json
    make_run FP8_DEFAULT_CFG '{}' '.quant_granularity.name = null'
    refused 3 "run.json: quant_granularity.name: expected a string, found null" aq-overlay run.json
    make_run FP8_DEFAULT_CFG '{}' 'del(.quant_granularity.quant_cfg_overrides)'
    refused 3 "run.json: quant_granularity: key 'quant_cfg_overrides' is missing" aq-overlay run.json
    make_run NOPE_CFG '{}'
    refused 3 "run.json: quant_pair.format_name: unknown format 'NOPE_CFG'" aq-overlay run.json
    make_run ../../x '{}'
    refused 3 "run.json: quant_pair.format_name: unknown format '../../x'" aq-overlay run.json
    make_run FP8_DEFAULT_CFG '{}' '._aq.schema = "aq.run/2"'
    refused 3 "run.json: _aq.schema: expected 'aq.run/1', as this version writes it" aq-overlay run.json
    refused 1 "cannot open 'no.json'" aq-overlay no.json
    refused 3 "'.' is a directory, expected a file" aq-overlay .
}

@test "hostile formats and granularities: one line, place and key named" {
    local program text
    while IFS=$'\t' read -r program text; do
        make_run FP8_DEFAULT_CFG '{}' "$program"
        refused 3 "run.json: $text" aq-overlay run.json || { echo "$program"; return 1; }
    done <<'E'
.quant_granularity.quant_cfg_overrides = []	quant_granularity.quant_cfg_overrides: expected an object or null, found a list
.quant_granularity.quant_cfg_overrides = {"*output_quantizer": {}}	quant_granularity.quant_cfg_overrides.*output_quantizer: not a key that a granularity can override
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": null}	quant_granularity.quant_cfg_overrides.*weight_quantizer: expected an object of quantizer attributes, found null
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": []}	quant_granularity.quant_cfg_overrides.*weight_quantizer: expected an object of quantizer attributes, found a list
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {axis: 0, block_sizes: {"-1": 8}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer: axis and block_sizes cannot both be set
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {nun_bits: 4}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.nun_bits: unknown quantizer attribute
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {block_sizes: {"-1": 0}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.block_sizes.-1: expected an integer from 1 to 1048576
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {block_sizes: {"-1": -128}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.block_sizes.-1: expected an integer from 1 to 1048576
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {block_sizes: {"-1": 1048577}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.block_sizes.-1: expected an integer from 1 to 1048576
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {block_sizes: {"-1": 2147483648}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.block_sizes.-1: expected an integer from 1 to 1048576
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {block_sizes: {"-1": 1e30}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.block_sizes.-1: expected an integer
.quant_granularity.quant_cfg_overrides = {"*weight_quantizer": {block_sizes: {size: 8}}}	quant_granularity.quant_cfg_overrides.*weight_quantizer.block_sizes.size: unknown key of block_sizes
._aq.format = "FP8_DEFAULT_CFG"	_aq.format: expected an object, found a string
._aq.format = {quant_cfg: {}}	_aq.format: key 'algorithm' is missing
._aq.format = {algorithm: "max"}	_aq.format: key 'quant_cfg' is missing
._aq.format = {quant_cfg: {}, algorithm: 3}	_aq.format.algorithm: expected a name, an object with 'method' or null, found an integer
._aq.format = {quant_cfg: {}, algorithm: {}}	_aq.format.algorithm: expected a member 'method'
._aq.format = {quant_cfg: {}, algorithm: "max", extra: 1}	_aq.format: unknown key 'extra' of a format
._aq.format = {quant_cfg: [], algorithm: "max"}	_aq.format.quant_cfg: expected an object, found a list
._aq.format = {quant_cfg: {"*weight_quantizer": []}, algorithm: "max"}	_aq.format.quant_cfg.*weight_quantizer: an empty list of quantizers
._aq.format = {quant_cfg: {"*weight_quantizer": [1]}, algorithm: "max"}	_aq.format.quant_cfg.*weight_quantizer[0]: expected an object of quantizer attributes, found an integer
._aq.format = {quant_cfg: {"*weight_quantizer": {num_bits: "4"}}, algorithm: "max"}	_aq.format.quant_cfg.*weight_quantizer.num_bits: expected an integer, found a string
._aq.format = {quant_cfg: {"a\nb": 1}, algorithm: "max"}	_aq.format.quant_cfg.a\nb: expected an object of quantizer attributes, found an integer
E
    make_run FP8_DEFAULT_CFG null '._aq.format = {algorithm: "max", quant_cfg: {"*weight_quantizer": [range(5) | {num_bits: 8}]}}'
    refused 3 "more than 4 quantizers in a sequence" aq-overlay run.json
    printf 'name: x\nquant_cfg_overrides: {}\nextra: 1\n' >g.yaml
    refused 3 "g.yaml: unknown key 'extra' of a granularity" aq-overlay --format FP8_DEFAULT_CFG --granularity g.yaml
    printf 'quant_cfg_overrides: {}\n' >g.yaml
    refused 3 "g.yaml: key 'name' is missing" aq-overlay --format FP8_DEFAULT_CFG --granularity g.yaml
    printf 'name: x\n' >g.yaml
    refused 3 "g.yaml: key 'quant_cfg_overrides' is missing" aq-overlay --format FP8_DEFAULT_CFG --granularity g.yaml
    printf 'name: x\nname: y\n' >g.yaml
    refused 3 "g.yaml:2:" aq-overlay --format FP8_DEFAULT_CFG --granularity g.yaml
}

@test "large and deep runs are read in time" {
    jq -n '[range(100000) | {key: "k\(.)", value: .}] | from_entries + {quant_pair: {format_name: "FP8_DEFAULT_CFG"},
        quant_granularity: {name: "d", quant_cfg_overrides: {}}}' >run.json
    aq 0 timeout 5 aq-overlay run.json
    # ten million levels, on a small stack; and the deepest that is read
    yes '[' | head -n 10000000 | tr -d '\n' >run.json
    refused 3 "run.json:1:202: nested too deeply" bash -c 'ulimit -s 256; timeout 5 aq-overlay run.json'
    yes '{"a":' | head -n 1000000 | tr -d '\n' >run.json
    refused 3 "run.json:1:1002: nested too deeply" bash -c 'ulimit -s 256; timeout 5 aq-overlay run.json'
    { printf '[%.0s' {1..200} && printf ']%.0s' {1..200}; } >run.json
    refused 3 "run.json: expected a run of aq-resolve, found a list" bash -c 'ulimit -s 256; aq-overlay run.json'
}

@test "a broken format file spoils the label of nobody silently" {
    mkdir conf && cp -R "$AQ_CONF/quant_granularity" conf/ && cp -R "$REPO/conf/format" conf/
    echo 'quant_cfg: {"*weight_quantizer": {num_bit: 4}}' >conf/format/A.yaml
    AQ_CONF=conf refused 3 "conf/format/A.yaml: key 'algorithm' is missing" aq-overlay --format FP8_DEFAULT_CFG
}

@test "a label that is not what its format computes" {
    AQ_CONF=$REPO/conf aq-resolve -q quant_pair=wint4_aint8 >run.json
    jq '.quant_pair.weight = "int8"' run.json >bad.json
    refused 3 "quant_pair.weight: label 'int8' is not what its format computes: int4:" aq-overlay bad.json
    jq '.quant_pair.activation = "fp16"' run.json >bad.json
    refused 3 "quant_pair.activation: label 'fp16' is not what its format computes: int8:" aq-overlay bad.json
    jq '.quant_pair.activation = "mine"' run.json >good.json
    aq 0 aq-overlay good.json
}

@test "what a format quantizes beyond linear layers is named" {
    aq 0 aq-overlay --format NVFP4_FP8_MHA_CONFIG
    has "$stderr" "*q_bmm_quantizer, *k_bmm_quantizer, *v_bmm_quantizer, *softmax_quantizer, transformer_blocks*bmm2_output_quantizer"
    aq 0 aq-overlay --format FP8_DEFAULT_CFG
    is "$stderr" ""
}

@test "the axis of a granularity reaches an enabled default" {
    is "$(aq-overlay --format INT8_ALL_LAYERS_CFG --granularity w_per_in_channel | jq -c .quant_cfg.default.axis)" 1
    is "$(aq-overlay --format INT8_DEFAULT_CFG --granularity w_per_in_channel | jq -c .quant_cfg.default)" null
}

@test "--cells: quant.json, cells.json and words for make; names that make could read otherwise are refused" {
    export AQ_CONF=$REPO/conf
    local by='hydra.sweep.subdir=${hydra:runtime.choices.quant_pair}/${hydra:runtime.choices.quant_granularity}/${dataset.size}'
    aq 0 aq-resolve -q -m --dir p quant_pair=wfp8_afp8,wfp4_afp8 quant_granularity=w_per_tensor dataset.size=small,medium "$by"
    aq 0 aq-overlay --cells p
    is "$(jq -c '[.schema, (.cells[] | [.pair, .size, .supported, (.reason | type), .dir])]' p/cells.json)" \
        '["aq.cells/2",["wfp8_afp8","small",true,"null","p/wfp8_afp8/w_per_tensor/small"],["wfp8_afp8","medium",true,"null","p/wfp8_afp8/w_per_tensor/medium"],["wfp4_afp8","small",false,"string","p/wfp4_afp8/w_per_tensor/small"],["wfp4_afp8","medium",false,"string","p/wfp4_afp8/w_per_tensor/medium"]]'
    cmp p/wfp8_afp8/w_per_tensor/quant.json <(aq-overlay p/wfp8_afp8/w_per_tensor/small/run.json)
    ! grep -vE '^(# made by aq-overlay --cells: words only|[A-Z_]+ :=[A-Za-z0-9_.+:/ -]*)$' p/cells.mk
    grep -qx 'CELLS := wfp8_afp8/w_per_tensor/small wfp8_afp8/w_per_tensor/medium' p/cells.mk
    grep -qx 'UNSUPPORTED := wfp4_afp8/w_per_tensor/small wfp4_afp8/w_per_tensor/medium' p/cells.mk
    local bad
    for bad in '_aq.scheme_name' 'model.dtype' 'dataset.padding' 'autoquant.method' 'autoquant.device' 'autoquant.operand_rounding'; do
        cp p/wfp8_afp8/w_per_tensor/small/run.json kept
        jq --arg k "$bad" 'setpath($k | split("."); "$(shell touch canary)")' kept >p/wfp8_afp8/w_per_tensor/small/run.json
        refused 3 "${bad##*.}" aq-overlay -q --cells p
        cp kept p/wfp8_afp8/w_per_tensor/small/run.json
    done
    mkdir -p p/x
    cp p/wfp8_afp8/w_per_tensor/small/run.json p/x/run.json
    for bad in wfp8_afp8/w_per_tensor/../../x wfp8_afp8/../x wfp8_afp8/../wfp8_afp8/w_per_tensor/small wfp8_afp8/w_per_tensor /x/small x; do
        printf '%s\n' "$bad" >p/.runs
        refused 3 "is not a cell" aq-overlay --cells p
    done
    refused 2 "--cells excludes" aq-overlay --cells p -o x
}
