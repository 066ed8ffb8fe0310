#!/usr/bin/env bats
# aq-resolve: the worked examples of the configuration rules as a user types them, run.json,
# sweeps, questions, depfiles.
load helpers

setup() {
    cd "$REPO" || return 1
    export AQ_CONF=$REPO/conf
}

# show KEY EXPECTED [OVERRIDE...]
show() {
    local key=$1 want=$2
    shift 2
    aq 0 aq-resolve -q --show "$key" "$@" && is "$output" "$want"
}

@test "run.json: the configuration as composed, and _aq last" {
    aq 0 aq-resolve quant_pair=wint8_aint8 dataset.size=medium
    local run=$output
    is "$(jq -r 'keys_unsorted | join(" ")' <<<"$run")" "model dataset quant_pair quant_granularity autoquant output_layout hardware experiment runner _aq"
    is "$(jq -r '._aq | keys_unsorted | join(" ")' <<<"$run")" "schema scheme_name num_calib_samples score_samples out_dir format overrides"
    is "$(jq -r ._aq.schema <<<"$run")" "aq.run/1"
    is "$(jq -c ._aq.overrides <<<"$run")" '["quant_pair=wint8_aint8","dataset.size=medium"]'
    is "$(jq -r ._aq.format.algorithm <<<"$run")" max
    grep -q '"effective_bits": 8.0,' <<<"$run"
    is "$(tail -c1 <<<"$run" | wc -l)" 1
}

@test "--format yaml is the configuration without _aq" {
    aq 0 aq-resolve --format yaml
    has "$output" "  effective_bits: 8.0"
    [[ $output != *_aq* ]]
    has "$output" "  output_dir: null"
}

@test "scheme name: of the pair, or by its own name" {
    show _aq.scheme_name wfp8_afp8_autoquant_lm
    show _aq.scheme_name int8_autoquant_lm_default quant_pair=wint8_aint8
    show _aq.scheme_name custom +quant_pair.scheme_name=custom
    show _aq.scheme_name wint8_aint8_autoquant_lm quant_pair=wint8_aint8 quant_pair.scheme_name=null
}

@test "samples: by size, by number, and scored in whole batches" {
    show _aq.num_calib_samples 512
    show _aq.num_calib_samples 16 dataset.size=small
    show _aq.num_calib_samples 64 dataset.max_calib_samples=64
    show _aq.num_calib_samples 4 +dataset.size_to_max_samples.tiny=4 dataset.size=tiny
    show _aq.score_samples 128
    show _aq.score_samples 16 dataset.size=small
    show _aq.score_samples 96 autoquant.batch_size=32 autoquant.score_size=100
    show _aq.score_samples 8 autoquant.score_size=1
}

@test "output directory: explicit, tmp, publish" {
    local exp=tmp/model-experiments/qwen3_lm_sensitivity/qwen3_vl_4b_instruct
    show _aq.out_dir $exp/wfp8_afp8/default/large
    show _aq.out_dir out/x runner.output_dir=out/x output_layout=publish
    HOME=/home/me show _aq.out_dir /home/me/x "runner.output_dir='~/x'"
    local root=models/qwen3_vl_4b_instruct/layer-analysis
    show _aq.out_dir $root/weight-fp8-act-fp16/default/qwen3_vl_4b_instruct_autoquant_wfp8_afp16_lm_small \
        output_layout=publish quant_pair=wfp8_afp16 dataset.size=small
    show _aq.out_dir $root/weight-int4-act-int8/recipe_match_channel_token/qwen3_vl_4b_instruct_autoquant_wint4_aint8_lm_small \
        output_layout=publish quant_pair=wint4_aint8 quant_granularity=recipe_match_channel_token dataset.size=small
    show _aq.out_dir $root/weight-int8-act-int8/default/qwen3_vl_4b_autoquant_int8_lm_medium \
        output_layout=publish quant_pair=wint8_aint8 dataset.size=medium
    show _aq.out_dir $root/custom-pair/default/custom-run \
        output_layout=publish +quant_pair.publish_pair_dir=custom-pair +quant_pair.publish_run_dir=custom-run
    show _aq.out_dir models/wfp8_afp8/large 'runner.output_dir=models/${quant_pair.name}/${dataset.size}'
    show _aq.out_dir /x/weight-fp8-act-fp8/default/other_autoquant_wfp8_afp8_lm_large output_layout=publish output_layout.root_dir=/x model.name=other
}

@test "values of the run: job name, overrides, directories" {
    show hydra.job.override_dirname dataset.size=small,quant_pair=wint8_afp16 quant_pair=wint8_afp16 dataset.size=small hydra.job.name=x
    show hydra.job.name x hydra.job.name=x
    show _aq.out_dir zz/dataset.size=small 'hydra.run.dir=zz/${hydra:job.override_dirname}' dataset.size=small
    show x "$PWD" '+x=${hydra:runtime.cwd}'
    show x wint8_aint8 '+x=${hydra:runtime.choices.quant_pair}' quant_pair=wint8_aint8
    show x "$(date +%Y)" '+x=${now:%Y}'
}

@test "model=NAME and the models that there are" {
    show model.name qwen3_8b model=qwen3_8b
    show model.path models/qwen3_vl_demo/checkpoint model=qwen3_vl_demo
    show model.path /abs model=qwen3_0_6b model.path=/abs
    refused 2 "unknown model 'qwen3_8'" aq-resolve model=qwen3_8
    has "$stderr" "did you mean qwen3_8b?"
    aq 0 aq-resolve --list model
    is "$(wc -l <<<"$output")" "$(find conf/model -mindepth 1 -maxdepth 1 -type d | wc -l)"
    [ "$(wc -l <<<"$output")" -ge 41 ]
    aq 0 aq-resolve -q -m "model=$(paste -sd, <<<"$output")"
    is "$(jq -r 'select(.model | .name and .path and .dtype == "bf16" and .family) | .model.name' <<<"$output" | sort -u | wc -l)" "$(find conf/model -mindepth 1 -maxdepth 1 -type d | wc -l)"
    aq 0 aq-resolve -m model=qwen3_4b,qwen3_8b
    is "$(jq -r .model.name <<<"$output" | paste -sd' ')" "qwen3_4b qwen3_8b"
}

@test "coverage is kept as it is written, and changes nothing that is computed" {
    show quant_pair.coverage_mode lm_default quant_pair=wint8_aint8
    show quant_pair.coverage_mode anything quant_pair=wint8_aint8 quant_pair.coverage_mode=anything
    show quant_pair.coverage_fraction 0.5 +quant_pair.coverage_fraction=0.5
    is "$(aq-resolve -q quant_pair=wint8_aint8 quant_pair.coverage_mode=anything +quant_pair.coverage_fraction=0.5 | aq-overlay)" \
        "$(aq-resolve -q quant_pair=wint8_aint8 | aq-overlay)"
}

@test "preset/demo" {
    aq 0 aq-resolve --config-name preset/demo
    is "$(jq -r '.model.name + " " + .dataset.name + " " + .dataset.size' <<<"$output")" "qwen3_vl_demo demo_captions small"
    is "$(jq -r .dataset.captions_path <<<"$output")" datasets/demo/captions_small.txt
}

@test "parity with ModelOpt is one option, and leaves device and padding alone" {
    aq 0 aq-resolve autoquant=modelopt_parity
    is "$(jq -c '.autoquant | [.normalization, .cost, .monotone, .operand_rounding, .dynamic_range, .fp4_block, .solver, .device]' <<<"$output")" \
        '["per_batch_mean","modelopt47",true,"dtype","per_batch",16,"threshold","auto"]'
    is "$(jq -r .dataset.padding <<<"$output")" none
}

@test "an experimental pair is one warning, which -q silences" {
    aq 0 aq-resolve quant_pair=wint4_aint8
    is "$stderr" "aq-resolve: warning: quant_pair 'wint4_aint8' is marked experimental"
    aq 0 aq-resolve -q quant_pair=wint4_aint8
    is "$stderr" ""
    aq 0 aq-resolve -m quant_pair=wint4_aint8 dataset.size=small,medium
    is "$(wc -l <<<"$stderr")" 1
    aq 0 aq-resolve -m quant_pair=wint4_aint8,wfp8_afp8,wint8_aint4 dataset.size=small,medium
    is "$stderr" "aq-resolve: warning: 2 quant_pairs are marked experimental: 'wint4_aint8', 'wint8_aint4'"
}

@test "-m: a line of JSON for each job, the last key fastest" {
    aq 0 aq-resolve -m quant_pair=wfp4_afp8,wfp8_afp8 dataset.size=small,medium
    is "$(jq -r '.quant_pair.name + "/" + .dataset.size' <<<"$output" | paste -sd' ')" "wfp4_afp8/small wfp4_afp8/medium wfp8_afp8/small wfp8_afp8/medium"
    is "$(head -1 <<<"$output" | jq -r ._aq.out_dir)" tmp/model-experiments/qwen3_lm_sensitivity/qwen3_vl_4b_instruct/wfp4_afp8/default/small
    aq 0 aq-resolve -m 'quant_pair=glob(*,exclude=[wfp*,*only])' -q
    is "$(wc -l <<<"$output")" 13
    aq 0 aq-resolve -m dataset.size=large,small hydra.sweep.dir=out 'hydra.sweep.subdir=${hydra:job.num}'
    is "$(jq -r ._aq.out_dir <<<"$output" | paste -sd' ')" "out/0 out/1"
    is "$(head -1 <<<"$output" | jq -c ._aq.overrides)" '["dataset.size=large","hydra.sweep.dir=out","hydra.sweep.subdir=${hydra:job.num}"]'
}

@test "-m --dir: a file for each job, unchanged ones are left alone" {
    local d=$BATS_TEST_TMPDIR/d
    aq 0 aq-resolve -m --dir "$d" quant_pair=wfp8_afp8 dataset.size=small,medium --depfile "$d.mk"
    is "$(cd "$d" && find . -name run.json | sort | paste -sd' ')" "./wfp8_afp8/default/medium/run.json ./wfp8_afp8/default/small/run.json"
    touch -d 2001-01-01 "$d/wfp8_afp8/default/small/run.json"
    aq 0 aq-resolve -m --dir "$d" quant_pair=wfp8_afp8 dataset.size=small,medium
    is "$(date -r "$d/wfp8_afp8/default/small/run.json" +%Y)" 2001
    aq 0 aq-resolve -m --dir "$d" --format yaml quant_pair=wfp8_afp8 dataset.size=small
    [ -f "$d/wfp8_afp8/default/small/composed-config.yaml" ]
    has "$(<"$d.mk")" "$d/wfp8_afp8/default/small/run.json $d/wfp8_afp8/default/medium/run.json: $REPO/conf/model/"
}

@test "jobs that would write to one directory are refused before any work" {
    local d=$BATS_TEST_TMPDIR/d
    refused 2 "would both write to" aq-resolve -q -m --dir "$d" autoquant.effective_bits=4,6
    has "$stderr" "hydra.sweep.subdir"
    [ ! -e "$d" ]
    refused 2 "would both write to 'tmp/" aq-resolve -q -m quant_pair=wint8_aint8,wint8_aint8_lm_only
    refused 2 "would both write to 'out'" aq-resolve -q -m runner.output_dir=out dataset.size=small,large
    refused 2 "would both write to" aq-resolve -q -m dataset.size=small,small
    aq 0 aq-resolve -q -m autoquant.effective_bits=4,6 'hydra.sweep.subdir=${autoquant.effective_bits}'
}

@test "one bad job stops the whole sweep" {
    refused 2 "could not find 'quant_pair/nope'" aq-resolve -m quant_pair=wfp8_afp8,nope
}

@test "a sweep needs -m" {
    refused 2 "ambiguous value for argument 'dataset.size=small,large'" aq-resolve dataset.size=small,large
    has "$stderr" "dataset.size=[a,b]" && has "$stderr" "add -m"
    refused 2 "require -m" aq-resolve 'dataset.size=choice(small,large)'
}

@test "--explain names file and line, or the override" {
    aq 0 aq-resolve --explain dataset.size
    is "$output" "$REPO/conf/dataset/vlm_coco2017_captions.yaml:$(grep -n '^size:' conf/dataset/vlm_coco2017_captions.yaml | cut -d: -f1)"
    aq 0 aq-resolve quant_pair=wint8_aint8 dataset.size=small --explain dataset.size
    is "$output" "override 2"
    aq 0 aq-resolve autoquant=modelopt_parity --explain autoquant
    has "$output" "autoquant.cost	$REPO/conf/autoquant/modelopt_parity.yaml:"
    has "$output" "autoquant.method	$REPO/conf/autoquant/gradient_default.yaml:"
    aq 0 aq-resolve --explain hydra.output_subdir
    is "$output" "(built in):1"
}

@test "--show prints bare values, and mappings as JSON or YAML" {
    show runner.output_dir null
    show autoquant.verbose true
    show autoquant.effective_bits 8.0
    aq 0 aq-resolve --show dataset.size_to_max_samples
    is "$(jq -c . <<<"$output")" '{"small":16,"medium":128,"large":512}'
    aq 0 aq-resolve --show dataset.size_to_max_samples --format yaml
    is "$output" $'small: 16\nmedium: 128\nlarge: 512'
    show 'quant_granularity.quant_cfg_overrides[*weight_quantizer].block_sizes.-1' 64 quant_granularity=w_group64
    refused 2 "there is no key 'dataset.siz'" aq-resolve --show dataset.siz
    has "$stderr" "did you mean size?"
}

@test "--list" {
    aq 0 aq-resolve --list quant_pair
    is "$(wc -l <<<"$output")" 26
    aq 0 aq-resolve --list quant_granularity
    is "$(wc -l <<<"$output")" 12
    refused 2 "there is no group 'quant_pairs'" aq-resolve --list quant_pairs
    has "$stderr" "did you mean quant_pair?"
}

@test "--config-dir is searched first, and adds options" {
    local d=$BATS_TEST_TMPDIR/extra
    mkdir -p "$d/quant_pair"
    printf 'name: mine\nweight: int8\nactivation: fp8\nformat_name: INT8_WEIGHT_FP8_ACT_CFG\nexperimental: false\n' >"$d/quant_pair/mine.yaml"
    aq 0 aq-resolve --config-dir "$d" quant_pair=mine --show _aq.scheme_name
    is "$output" mine_autoquant_lm
    aq 0 aq-resolve --config-dir "$d" --list quant_pair
    is "$(wc -l <<<"$output")" 27
}

@test "--depfile: make remakes the product when one of its files changes" {
    local d=$BATS_TEST_TMPDIR/make
    mkdir "$d"
    cp -R conf "$d/conf"
    cd "$d"
    unset AQ_CONF
    cat >Makefile <<'MK'
a b.json:
	@aq-resolve -q quant_pair=wint8_aint8 -o $@ --depfile deps.mk && echo made
-include deps.mk
MK
    sed -i 's/^a b.json/run.json/' Makefile
    aq 0 make -s run.json
    is "$output" made
    aq 0 make -q run.json
    touch -d '+1 hour' conf/quant_pair/wint8_aint8.yaml
    aq 0 make -s -n run.json
    has "$output" aq-resolve
    touch -d '+1 hour' run.json
    touch conf/quant_pair/wfp8_afp8.yaml
    aq 0 make -q run.json
    touch -d '+2 hours' conf/format/INT8_LM_DEFAULT_CFG.yaml
    aq 1 make -q run.json
}

@test "equal arguments give equal bytes, in any directory" {
    local a b
    a=$(aq-resolve -q quant_pair=wint4_aint8 | sha256sum)
    b=$(cd / && aq-resolve -q quant_pair=wint4_aint8 | sha256sum)
    is "$a" "$b"
}

@test "every cell of the shipped tree resolves" {
    aq 0 aq-resolve -q -m 'quant_pair=glob(*,exclude=*_lm_only)' 'quant_granularity=glob(*)' dataset.size=small,medium,large
    is "$(wc -l <<<"$output")" $((25 * 12 * 3))
    is "$(jq -r ._aq.out_dir <<<"$output" | sort -u | wc -l)" $((25 * 12 * 3))
}

@test "options that go not together" {
    refused 2 "exclude one another" aq-resolve --list model --show x
    refused 2 "--dir needs -m" aq-resolve --dir x
    refused 2 "--depfile needs" aq-resolve --depfile x
    refused 2 "go only with a product" aq-resolve -m --show x
}

@test "the examples of the manual page run" {
    command -v mandoc >/dev/null || skip "mandoc is not installed"
    sed -n '/^\.Sh EXAMPLES/,/^\.Sh/p' docs/man/aq-resolve.1 | sed -n 's/^\.Dl \$ //p' | sed 's/\\e/\\/g; s/\\&//g' >"$BATS_TEST_TMPDIR/examples"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/examples")" -ge 5 ]
    cd "$BATS_TEST_TMPDIR" && cp -R "$REPO/conf" conf
    while read -r line; do
        bash -eu -o pipefail -c "$line" >/dev/null 2>"$BATS_TEST_TMPDIR/err" || { echo "failed: $line"; cat "$BATS_TEST_TMPDIR/err"; return 1; }
    done <"$BATS_TEST_TMPDIR/examples"
}

@test "one name for a dtype; float16 is refused before any work" {
    is "$(aq-resolve -q model.dtype=bfloat16 | jq -r .model.dtype)" bf16
    is "$(aq-resolve -q model.dtype=float32 | jq -r .model.dtype)" fp32
    is "$(aq-resolve -q --format yaml model.dtype=float32 | grep dtype:)" "  dtype: fp32"
    refused 2 "model.dtype: expected one of bf16, fp32" aq-resolve model.dtype=fp16
    refused 2 "model.dtype: expected one of bf16, fp32" aq-resolve model.dtype=float16
}

@test "wint8_aint8 publishes under the name of its model" {
    is "$(aq-resolve -q --show _aq.out_dir quant_pair=wint8_aint8 output_layout=publish dataset.size=small)" \
        models/qwen3_vl_4b_instruct/layer-analysis/weight-int8-act-int8/default/qwen3_vl_4b_autoquant_int8_lm_small
    is "$(aq-resolve -q --show _aq.out_dir model=llama_3_1_8b quant_pair=wint8_aint8 output_layout=publish dataset.size=small)" \
        models/llama_3_1_8b/layer-analysis/weight-int8-act-int8/default/llama_3_1_8b_autoquant_int8_lm_small
}

@test "-m --dir links what the runs read, relative to where they start; ~/ is the home directory" {
    cd "$BATS_TEST_TMPDIR"
    cp -R "$REPO/conf" .
    mkdir -p models/qwen3_vl_demo/checkpoint datasets/demo
    local model=(--config-name preset/lm_sensitivity)
    aq 0 aq-resolve "${model[@]}" -m --dir a/b dataset.size=small,medium
    is "$(readlink a/b/in/checkpoint)" ../../../models/qwen3_vl_demo/checkpoint
    is "$(readlink a/b/in/captions-large)" ../../../datasets/demo/captions_large.txt
    is "$(readlink a/b/in/captions-heldout)" ../../../datasets/demo/captions_heldout.txt
    # one file for all sizes is the text that recipes are chosen by: nothing is held out
    aq 0 aq-resolve "${model[@]}" -q -m --dir one dataset.size=small dataset.captions_path=datasets/demo/captions_small.txt
    is "$(echo one/in/*)" "one/in/captions-large one/in/captions-medium one/in/captions-small one/in/checkpoint"
    is "$(cat a/b/.runs)" $'wfp8_afp8/default/small\nwfp8_afp8/default/medium'
    aq 0 aq-resolve "${model[@]}" -q -m --dir a/b dataset.size=small model.path=~/m
    is "$(readlink a/b/in/checkpoint)" "$HOME/m"
    refused 2 "needs quotes at column 12" aq-resolve "${model[@]}" model.path=~root/x
    mkdir -p more/dataset
    sed 's|^  large: 512|  "l/../../x": 512|' "$REPO/conf/dataset/demo_captions.yaml" >more/dataset/odd.yaml
    refused 3 "dataset.size_to_max_samples: 'l/../../x' is not a name" \
        aq-resolve --config-dir more "${model[@]}" -q -m --dir odd dataset=odd dataset.size=small
    aq 0 aq-resolve "${model[@]}" -q -m --dir several 'hydra.sweep.subdir=${model.name}' model=qwen3_4b,qwen3_8b
    [ ! -e several/in ]
}

@test "--overrides: one a line after those typed; --scoring-id: what scoring reads, however it was set" {
    cd "$BATS_TEST_TMPDIR"
    printf '%s\n' dataset.size=small '' autoquant.batch_size=4 >list
    is "$(AQ_CONF=$REPO/conf aq-resolve -q --overrides list dataset.size=large | jq -c '[.dataset.size, .autoquant.batch_size]')" '["small",4]'
    id() { printf '%s\n' "$@" | AQ_CONF=$REPO/conf aq-resolve -q --scoring-id --overrides - model=qwen3_4b; }
    is "$(id autoquant.effective_bits=5 autoquant.cost=modelopt40 +quant_pair.scheme_name=x)" ""
    [[ $(id autoquant.batch_size=4) =~ ^[0-9a-f]{8}$ ]]
    is "$(id autoquant.batch_size=4 autoquant.score_size=64)" "$(id autoquant.score_size=64 autoquant.effective_bits=3 autoquant.batch_size=4)"
    is "$(id autoquant.batch_size=8)" ""
    [ "$(id model.path=/a)" != "$(id model.path=/b)" ]
    is "$(id autoquant=modelopt_parity)" "$(id autoquant.operand_rounding=dtype autoquant.dynamic_range=per_batch autoquant.fp4_block=16 autoquant.shared_scale=false)"
    AQ_CONF=$REPO/conf refused 2 "exclude one another" aq-resolve --scoring-id --list model
}

@test "names are letters, digits and _ . + -" {
    local bad
    for bad in 'a b' "a'b" 'a;b' '-a' '.a' 'a$b' 'a%b' 'a/b' $'a\nb'; do
        run --separate-stderr aq-resolve -q "++quant_pair.scheme_name=\"$bad\""
        is "$status" 2
        has "$stderr" "expected a name: letters, digits, _ . + -"
    done
    aq 0 aq-resolve -q '++quant_pair.scheme_name=A_1.b+c-d'
}
