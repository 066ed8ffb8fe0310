#!/usr/bin/env bash
# The full sweep of the embedded model from nothing and a make that has nothing to do, in wall time, on a scratch root;
# the no-op beside a bare make over as many files. Best of 7: others' load only ever adds.
set -euo pipefail
cd "$(dirname "$0")/../.."
export AQ_BIN=${O:-build}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sweep() { make -s -f pipelines/qwen3.mk GRANS=all SIZES=all TMP_ROOT="$work" "$@" >/dev/null 2>"$work/err" || { cat "$work/err"; return 1; }; }

seconds() { # seconds COMMAND...
    local TIMEFORMAT=%R
    { time "$@" >/dev/null; } 2>&1
}
best() { # best N COMMAND...
    local n=$1
    shift
    for ((i = 0; i < n; i++)); do seconds "$@"; done | sort -g | head -1
}

if [ -x /usr/bin/time ]; then
    # the largest process; the sweep runs two at a time
    export -f sweep
    export work
    /usr/bin/time -f '%e %U %M' -o "$work/time" bash -euc 'sweep -j2'
    read -r wall user kb <"$work/time"
else
    wall=$(seconds sweep -j2) user='?' kb=0
fi
cells=$(jq '[.cells[] | select(.supported)] | length' "$work"/model-experiments/*/*/cells.json)
files=$(find "$work/model-experiments" -type f ! -name '.*' | wc -l)

# as many files, each made from the one before it in groups of ten, no recipe to run
mkdir "$work/bare"
(
    cd "$work/bare"
    for ((i = 0; i < files / 10; i++)); do
        echo "all: $(seq -f "f$i-%g" -s' ' 9)"
        echo "$(seq -f "f$i-%g" -s' ' 9): f$i-0 ; @touch \$@"
        touch "f$i-0"
    done >Makefile
    make -s -j2 all
)
noop=$(best 7 sweep)
bare=$(best 7 make -s -C "$work/bare" all)
awk -v w="$wall" -v u="$user" -v kb="$kb" -v c="$cells" -v f="$files" -v n="$noop" -v b="$bare" 'BEGIN {
    printf "full sweep, %d cells, %d files: %.1f s wall at -j2 (limit 90 s), %s s of processor, largest process %.0f MB (limit 1 GB)\n", c, f, w, u, kb / 1024
    printf "no-op: %.2f s (limit 0.3 s), %.1fx a bare make over as many files (%.2f s)\n", n, n / b, b }'
