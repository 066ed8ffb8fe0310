#!/usr/bin/env bash
# A checkpoint with the 4B model's dimensions and 4 layers, scored within 1.5 GB and within 0.5 GB: the peak of anonymous memory
# (aim: below --memory), the weights loaded (aim: twice the model's at most), and the same bytes. Each run is confined to
# its --memory: by a cgroup where one can be made (through systemd-run, or as root in the hierarchy of either version), else by a
# limit on private writable memory (ulimit -d), which leaves out the mapped weights; that counts what is reserved, so OpenBLAS's
# buffers of 128 MB a thread, hardly touched, come on top. Needs 1.6 GB in $TMPDIR; some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
O=$(realpath "${O:-build}")
export PATH="$O/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$O/tests/random_checkpoint" --preset 4b --kind qwen3 --layers 4 "$work/model"
aq-extract-lm -o "$work/lm.json" "$work/model"
for i in $(seq 40); do seq -s' ' $((i * 71)) $((i * 71 + 2 + i * 11 % 38)); done |
    "$O/tests/make_tokens" -o "$work/tokens"
aq-calib ranges --lm "$work/lm.json" --device cpu -o "$work/ranges" "$work/tokens"
for f in INT8_DEFAULT_CFG INT4_BLOCKWISE_WEIGHT_ONLY_CFG; do aq-overlay --format $f -o "$work/$f.json"; done

group='' limit=''
if systemd-run --quiet --scope -p MemoryMax=64M true 2>/dev/null; then
    how=systemd-run
elif group=/sys/fs/cgroup/memory/aq.$$ && mkdir "$group" 2>/dev/null && [ -e "$group/memory.limit_in_bytes" ]; then
    how='a cgroup' limit=memory.limit_in_bytes
elif group=/sys/fs/cgroup/aq.$$ && mkdir "$group" 2>/dev/null && [ -e "$group/memory.max" ]; then
    how='a cgroup' limit=memory.max
else
    how='ulimit -d'
fi
trap 'rm -rf "$work"; rmdir "$group" 2>/dev/null || true' EXIT

# confined MB COMMAND...: prints its peak of anonymous memory in MB.
confined() {
    local mb=$1 pid peak=0 now
    shift
    case $how in
    systemd-run) systemd-run --quiet --scope -p MemorySwapMax=0 -p "MemoryMax=$((mb * 1000000))" "$@" & ;;
    'a cgroup') (echo $((mb * 1000000)) >"$group/$limit" && echo "$BASHPID" >"$group/cgroup.procs" && exec "$@") & ;;
    *) (ulimit -d $((mb * 1000000 / 1024 + ($(nproc) + 1) * 131072)) && exec "$@") & ;;
    esac
    pid=$!
    while now=$(awk '/^RssAnon/ { print $2 }' /proc/$pid/status 2>/dev/null) && [ -n "$now" ]; do
        [ "$now" -le "$peak" ] || peak=$now
        sleep 0.1
    done
    wait $pid
    echo $((peak * 1024 / 1000000))
}

weights=$(jq '[.tensors[] | .end - .begin] | add' "$work/lm.json")
for mb in 1500 500; do
    peak=$(confined $mb aq-score --lm "$work/lm.json" --tokens "$work/tokens" --ranges "$work/ranges" --method gradient --dtype bf16 \
        --device cpu --memory ${mb}M --progress=never -v -o "$work/$mb" "$work"/*_CFG.json 2>"$work/log") ||
        { tail "$work/log" >&2; exit 1; }
    read -r read <<<"$(sed -nE 's/.*weights loaded: ([0-9.]+) MB.*/\1/p' "$work/log")"
    awk -v mb=$mb -v peak="$peak" -v r="$read" -v w="$weights" -v how="$how" 'BEGIN {
        printf "memory   --memory %d MB (confined by %s): peak of anonymous memory %d MB, model %.0f MB, weights loaded %.2f times\n",
            mb, how, peak, w / 1e6, r * 1e6 / w }'
done
cmp "$work/1500" "$work/500" && echo 'memory   the same bytes within both'
