# safetensors files through the tools: what other programs wrote, what they are when they are broken, large ones.
# The rules of the header one by one: tests/unit/test_safetensors.c.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    COPY=$O/tests/st_copy
}

# st HEADER BYTES: a file with this header and BYTES zero bytes
st() {
    local n=${#1}
    # shellcheck disable=SC2059
    printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x\\0\\0\\0\\0' $((n & 255)) $((n >> 8 & 255)) $((n >> 16 & 255)) $((n >> 24)))"
    printf '%s' "$1"
    head -c "$2" /dev/zero
}

@test "files of the Python library come out of our writer byte for byte" {
    for f in "$REPO"/tests/oracle/safetensors/*.safetensors; do
        [ "$(basename "$f")" != odd.safetensors ] || continue
        aq 0 "$COPY" "$f" copy.safetensors
        cmp "$f" copy.safetensors
    done
}

@test "scalars, empty tensors, eight dimensions and 8-bit floats as the Python library writes them" {
    aq 0 "$COPY" "$REPO/tests/oracle/safetensors/odd.safetensors" copy.safetensors
    cmp "$REPO/tests/oracle/safetensors/odd.safetensors" copy.safetensors
    has "$output" "scalar F32 0 1"
    has "$output" "empty F32 2 0"
    has "$output" "rank8 F32 8 6"
    has "$output" "f8 F8_E4M3 1 7"
}

@test "a header at the limit of 100,000,000 bytes is read, one byte more is not" {
    n=100000000
    {
        printf '\x00\xe1\xf5\x05\0\0\0\0{}'
        head -c $((n - 2)) /dev/zero | tr '\0' ' '
    } >big
    within 5 "$COPY" big out
    {
        printf '\x01\xe1\xf5\x05\0\0\0\0{}'
        head -c $((n - 1)) /dev/zero | tr '\0' ' '
    } >big
    refused 3 "the limit is 100000000" "$COPY" big out
}

@test "a header length beyond all sense is refused without asking for memory" {
    sanitized && skip "address space is not limited in a sanitizer build"
    printf '\xff\xff\xff\xff\xff\xff\xff\x7f{}' >f
    ulimit -v 200000
    refused 3 "header length is 9223372036854775807 bytes" "$COPY" f out
}

@test "100,000 tensors in a second or two, duplicates found" {
    header=$(jq -cn '[range(100000) | {key: "t\(.)", value: {dtype: "U8", shape: [1], data_offsets: [., . + 1]}}] | from_entries')
    st "$header" 100000 >many
    within 5 "$COPY" many out
    is "${#lines[@]}" 100000
    st "${header%\}},\"t7\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[100000,100001]}}" 100001 >many
    refused 3 "key 't7' appears twice" "$COPY" many out
}

@test "random order in the header is legal" {
    st '{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}' 2 >f
    aq 0 "$COPY" f out
    is "$output" $'a U8 1 1\nb U8 1 1'
}

@test "names are never printed raw" {
    st '{"\u001b[2J\n":{"dtype":"U9","shape":[1],"data_offsets":[0,1]}}' 1 >f
    refused 3 '\x1b[2J\n' "$COPY" f out
    st "{\"$(head -c 5000 /dev/zero | tr '\0' n)\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}" 1 >f
    refused 3 "a tensor name has 5000 bytes, the limit is 1024" "$COPY" f out
    [ ${#stderr} -lt 600 ]
}

@test "other kinds of files are named" {
    mkdir ckpt
    cp "$REPO/models/qwen3_vl_demo/checkpoint/config.json" ckpt/
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n' >ckpt/model.safetensors
    refused 3 "this is a Git LFS pointer, not the file itself" aq-extract-lm ckpt
    has "$stderr" "git lfs pull"
    has "$stderr" "ckpt/model.safetensors"
    printf 'PK\x03\x04aaaaaaaaaaaaaaaaaaaa' >ckpt/model.safetensors
    refused 3 "a zip archive" aq-extract-lm ckpt
    : >ckpt/model.safetensors
    refused 3 "too short for a safetensors header: 0 bytes" aq-extract-lm ckpt
}
