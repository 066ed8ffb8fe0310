#!/usr/bin/env bats
# pipelines/coco.mk: calibration captions out of COCO's annotation file, on a made-up file of its shape.
load helpers

setup() {
    T=$BATS_TEST_TMPDIR
    cd "$T"
    unset MAKEFLAGS MAKELEVEL MFLAGS
    # 2000 captions of 701 images; ids with gaps, in order; every tenth caption has COCO's stray line breaks and blanks
    [ -e ann.json ] || jq -n '{info: {year: 2017}, images: [], annotations: [range(2000) | {
        image_id: (. % 701 * 7 + 9), id: (. * 3 + 37),
        caption: (if . % 10 == 0 then " A dog  on a\nbench, number \(.).\n" else "A cat in a box, number \(.)." end)}]}' >ann.json
}

coco() { make -s -f "$REPO/pipelines/coco.mk" COCO="${COCO:-ann.json}" OUT="${OUT:-out}" "$@"; }
f() { echo "${2:-out}/coco2017_captions_$1.txt"; }

# with FILTER: the made-up file changed by jq, as bad.json
with() { jq "$1" ann.json >bad.json; }

coco_refuses() {
    run --separate-stderr coco COCO=bad.json OUT=bad
    if [ "$status" -eq 0 ] || [[ $stderr != *"$1"* ]] || compgen -G 'bad/*captions*' >/dev/null; then
        printf 'exit status %s\nexpected: %s\nstderr: %s\n' "$status" "$1" "$stderr"
        return 1
    fi
}

@test "16, 128 and 512 lines, each file the beginning of the next" {
    aq 0 coco
    is "$(wc -l <"$(f small)") $(wc -l <"$(f medium)") $(wc -l <"$(f large)")" "16 128 512"
    cmp <(head -n 16 "$(f medium)") "$(f small)"
    cmp <(head -n 128 "$(f large)") "$(f medium)"
}

@test "one caption of an image, no text twice, blanks folded" {
    aq 0 coco
    is "$(sort -u "$(f large)" | wc -l)" 512
    # the caption's number modulo 701 is the image
    is "$(sed 's/.*number \([0-9]*\)\.$/\1/' "$(f large)" | awk '{print $1 % 701}' | sort -u | wc -l)" 512
    run grep -E '^ | $|  |	' "$(f large)"
    is "$output" ""
    [ "$(grep -c '^A dog on a bench, number [0-9]*\.$' "$(f large)")" -gt 20 ]
}

@test "captions come from all over the file" {
    aq 0 coco
    # quarters of the file: each holds 128 of 512 on average
    sed 's/.*number \([0-9]*\)\.$/\1/' "$(f large)" | awk '{n[int($1 / 500)]++} END {for (i = 0; i < 4; i++) if (n[i] < 90 || n[i] > 170) exit 1}'
}

@test "same bytes for the same annotations in another order, and on every machine" {
    aq 0 coco
    jq '.annotations |= reverse' ann.json >turned.json
    aq 0 coco COCO=turned.json OUT=turned
    cmp "$(f large)" "$(f large turned)"
    is "$(sha256sum <"$(f large)" | cut -c1-16)" "97858bef21a0fc69"
}

@test "a second run does nothing; another file or a changed one is read again" {
    aq 0 coco
    aq 0 coco -q
    touch -d '1 minute ago' "$(f large)"
    touch ann.json
    aq 1 coco -q
    aq 0 coco
    with '.annotations |= map(.caption += " Again")'
    touch -d '1 hour ago' bad.json
    aq 0 coco COCO=bad.json
    is "$(grep -c 'Again$' "$(f large)")" 512
    is "$(grep -c 'Again$' "$(f small)")" 16
}

@test "what is not COCO's annotation file is refused by name, and leaves nothing" {
    echo '{"annotations": [{"id": 1,' >bad.json; coco_refuses 'Unfinished JSON term'
    : >bad.json; coco_refuses 'found 0 JSON values, expected one'
    echo '{} {}' >bad.json; coco_refuses 'found 2 JSON values, expected one'
    echo '[]' >bad.json; coco_refuses "no array 'annotations'"
    echo '{"annotations": {}}' >bad.json; coco_refuses "no array 'annotations'"
    echo '{"annotations": []}' >bad.json; coco_refuses 'found 0 usable captions of different images, 512 are needed'
    # instances_train2017.json has annotations too, without captions
    with '.annotations |= map(del(.caption))'; coco_refuses 'annotations[0]: caption is null, expected a string'
    with '.annotations[7] = 5'; coco_refuses 'annotations[7]: is of type number, expected an object'
    with '.annotations[8].caption = 5'; coco_refuses 'annotations[8]: caption is 5, expected a string'
    with '.annotations[9].id = "1"'; coco_refuses 'annotations[9]: id is "1", expected a whole number'
    with '.annotations[9].id = 1.5'; coco_refuses 'annotations[9]: id is 1.5, expected a whole number'
    with '.annotations[9].id = -1'; coco_refuses 'annotations[9]: id is -1, expected a whole number'
    with '.annotations[9].id = 1e300'; coco_refuses 'annotations[9]: id is 1'
    with '.annotations[9].image_id = null'; coco_refuses 'annotations[9]: image_id is null, expected a whole number'
    with '.annotations |= .[:500]'; coco_refuses 'found 500 usable captions of different images, 512 are needed'
}

@test "captions of no use are passed over" {
    jq '.annotations |= (map(select(.id % 2 == 1) | .caption = " \n ") + map(select(.id % 2 == 0)))
        | .annotations[0].caption = "123" | .annotations[1].caption = ("long " * 9999) | .annotations[2].caption = "bad \ufffd text"' \
        ann.json >mixed.json
    aq 0 coco COCO=mixed.json OUT=mixed
    run grep -vE '^A (cat in a box|dog on a bench), number [0-9]*[13579]\.$' "$(f large mixed)"
    is "$output" ""
}

@test "COCO is a path, and never make or shell text" {
    run --separate-stderr make -s -f "$REPO/pipelines/coco.mk"
    is "$status" 2; has "$stderr" "COCO is not set: make -f pipelines/coco.mk COCO="
    run --separate-stderr coco COCO=nowhere.json
    is "$status" 2; has "$stderr" "COCO='nowhere.json': no such file"
    run --separate-stderr coco COCO='a b.json'
    is "$status" 2; has "$stderr" "COCO: a path of letters, digits"
    # shellcheck disable=SC2016
    run --separate-stderr coco COCO='$(shell >made)' OUT='out'
    is "$status" 2
    [ ! -e made ]
}
