#!/usr/bin/env bats
# Error statistics of quantized weights, by the test tool quant_probe.
load helpers

probe() { "$O/tests/quant_probe" "$@"; }

# one_tensor FILE SHAPE BYTES: a safetensors file with the fp32 tensor "w".
one_tensor() {
    local bytes header
    bytes=$(printf '%b' "$3" | wc -c)
    header='{"w":{"dtype":"F32","shape":'$2',"data_offsets":[0,'$bytes']}}'
    while [ $((${#header} % 8)) -ne 0 ]; do header+=' '; done
    # shellcheck disable=SC2059 # the length as a byte
    { printf "\\x$(printf %x ${#header})\0\0\0\0\0\0\0%s" "$header"; printf '%b' "$3"; } >"$1"
}

@test "statistics of four numbers" {
    # 127, 0.25, -0.5, 2 in steps of 1
    one_tensor "$BATS_TEST_TMPDIR/w.safetensors" '[1,4]' '\x00\x00\xfe\x42\x00\x00\x80\x3e\x00\x00\x00\xbf\x00\x00\x00\x40'
    aq 0 probe "$BATS_TEST_TMPDIR/w.safetensors" int8:tensor:static none
    is "${lines[0]}" $'tensor\ttreatment\telements\tmse\tsqnr_db\tmax_error\tclipped'
    is "${lines[1]}" $'w\tint8:tensor:static\t4\t7.812500e-02\t47.13\t5.000000e-01\t0.000000'
    is "${lines[2]}" $'w\tnone\t4\t0.000000e+00\tinf\t0.000000e+00\t0.000000'
}

@test "formats rank as they should on the demo model" {
    aq 0 probe "$REPO/models/qwen3_vl_demo/checkpoint/model-00001-of-00002.safetensors"
    # signal to noise of one matrix, from the best format to the worst
    local order
    order=$(awk -F'\t' '/layers.0.mlp.gate_proj/ { print $5, $2 }' <<<"$output" | sort -rn | cut -d' ' -f2 | tr '\n' ' ')
    [ -n "$order" ]
    has "$order" 'int8:axis0:static '
    is "$(cut -d' ' -f1 <<<"$order")" int8:axis0:static
    is "$(awk '{ print $NF }' <<<"$order")" int4:axis0:static
    # e2m1 in blocks of 16 with e4m3 scales beats powers of two for every 32
    has "${order#*nvfp4}" 'e2m1:mx(32):dynamic'
}

@test "what does not fit is said, one line each" {
    one_tensor "$BATS_TEST_TMPDIR/w.safetensors" '[1,4]' '\x00\x00\xfe\x42\x00\x00\x80\x3e\x00\x00\x00\xbf\x00\x00\xc0\x7f'
    aq 0 probe "$BATS_TEST_TMPDIR/w.safetensors" int8:token:dynamic 'int4:block(-1:0):static' int8:axis0:static
    # shellcheck disable=SC2154
    is "$(wc -l <<<"$stderr")" 3
    has "$stderr" "w: treatment 'int8:token:dynamic': a scope of activations, not of a weight"
    has "$stderr" 'expected a block length from 1 to 1048576'
    has "$stderr" 'w: element (0, 3) is not a number'
}
