# Prose: the short set that ships, and the long one that pipelines/prose.mk makes from a Debian package.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return
    PROSE=$REPO/datasets/demo_prose
}

@test "demo prose: nested sizes, held-out lines apart, no line twice, none empty, ASCII; the table of its README" {
    is "$(for n in small medium large heldout; do wc -l <"$PROSE/prose_$n.txt"; done | tr '\n' ' ')" "16 128 512 512 "
    cmp <(head -n 16 "$PROSE/prose_large.txt") "$PROSE/prose_small.txt"
    cmp <(head -n 128 "$PROSE/prose_large.txt") "$PROSE/prose_medium.txt"
    is "$(sort "$PROSE/prose_large.txt" "$PROSE/prose_heldout.txt" | uniq -d)" ""
    is "$(LC_ALL=C grep -c '^ \|  \| $\|^$\|[^ -~]' "$PROSE"/prose_{large,heldout}.txt | sed 's/.*://' | tr '\n' ' ')" "0 0 "
    for n in small medium large heldout; do
        grep -Fq "| \`prose_$n.txt\` | $(wc -l <"$PROSE/prose_$n.txt") | $(wc -c <"$PROSE/prose_$n.txt") |" "$PROSE/README.md"
    done
}

@test "demo prose is an option, and its sizes are those of one data set" {
    aq 0 aq-resolve --config-dir "$REPO/conf" --config-name preset/demo dataset=demo_prose dataset.size=medium
    is "$(jq -r '.dataset.captions_path + " " + (._aq.num_calib_samples | tostring)' <<<"$output")" "datasets/demo_prose/prose_medium.txt 128"
    aq 0 aq-calib tokens -t "$REPO/models/qwen3_vl_demo/checkpoint" -o t.st "$PROSE"/prose_{small,medium,large}.txt
    aq 0 aq-resolve --config-dir "$REPO/conf" --config-name preset/demo dataset=austen dataset.size=small
    is "$(jq -r '.dataset.captions_path + " " + (._aq.num_calib_samples | tostring)' <<<"$output")" "datasets/austen/austen_small.jsonl 16"
}

# package DIR: a .deb of this directory
package() {
    mkdir -p "$1/DEBIAN"
    printf 'Package: r-cran-janeaustenr\nVersion: 9\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' >"$1/DEBIAN/control"
    dpkg-deb -b "$1" "$2" >/dev/null
}

@test "the long set: another package and other text are refused, and leave nothing" {
    need_command python3
    need_command dpkg-deb
    run make -f "$REPO/pipelines/prose.mk" DEB=gone.deb
    is "$status" 2
    has "$output" "DEB='gone.deb': no such file"
    package empty other.deb
    run make -f "$REPO/pipelines/prose.mk" DEB=other.deb OUT=out
    is "$status" 2
    has "$output" "austen: 'other.deb' is not r-cran-janeaustenr"
    mkdir -p full/usr/lib/R/site-library/janeaustenr/data
    python3 - full/usr/lib/R/site-library/janeaustenr/data <<'PY'
import struct, sys, zlib
base, index = b"", b""
for title in ("PRIDE AND PREJUDICE", "SENSE AND SENSIBILITY", "EMMA", "MANSFIELD PARK", "PERSUASION", "NORTHANGER ABBEY"):
    lines = [title, ""] + [x for i in range(1000) for x in (f"line {i} of {title} " + "and so on " * 40, "")]
    data = b"X\n" + struct.pack(">iiiii", 2, 0, 0, 16, len(lines)) + b"".join(struct.pack(">ii", 9, len(s)) + s.encode() for s in lines)
    piece = struct.pack(">i", len(data)) + zlib.compress(data)
    index += struct.pack(">iiii", 13, 2, len(base), len(piece))
    base += piece
open(sys.argv[1] + "/Rdata.rdb", "wb").write(base)
open(sys.argv[1] + "/Rdata.rdx", "wb").write(zlib.compress(index))
PY
    package full full.deb
    run make -f "$REPO/pipelines/prose.mk" DEB=full.deb OUT=out
    is "$status" 2
    has "$output" "gives another text than version 1.0.0-1"
    [ ! -e out/austen_large.jsonl ]
}

# The package itself: AUSTEN_DEB=FILE, or downloaded by 'make -f pipelines/prose.mk' before.
@test "the long set: 131,072 tokens to calibrate, 32,768 held out" {
    deb=${AUSTEN_DEB:-$REPO/datasets/austen/.package/r-cran-janeaustenr.deb}
    [ -e "$deb" ] || skip "the package r-cran-janeaustenr is not here (AUSTEN_DEB=FILE.deb)"
    make -f "$REPO/pipelines/prose.mk" DEB="$deb" OUT=out
    for n in large heldout; do
        aq 0 aq-calib tokens -v -t "$REPO/models/qwen3_vl_demo/checkpoint" -o t.st out/austen_$n.jsonl
        has "$stderr" "$([ $n = large ] && echo "256 samples, 131072 tokens" || echo "64 samples, 32768 tokens")"
    done
    aq 0 aq-calib tokens -t "$REPO/models/qwen3_vl_demo/checkpoint" -o t.st out/austen_{small,medium,large}.jsonl
    grep -q '^licence: ' out/SOURCE
}
