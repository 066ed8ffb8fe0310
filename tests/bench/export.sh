#!/usr/bin/env bash
# aq-export of a random model against `cp` and `sync` of its checkpoint, and against 200 million weights a second; memory beside the
# maps; RUNS=3 of each in turn, the median last. PRESET=4b (of tests/gen/random_checkpoint.c), SCRATCH=tmp/bench-export (kept: remove it
# by hand).
set -euo pipefail
O=${O:-build}
preset=${PRESET:-4b}
dir=${SCRATCH:-tmp/bench-export}/$preset
export PATH=$PWD/$O/bin:$PATH AQ_CONF=$PWD/conf
mkdir -p "$dir"
[ -e "$dir/model/config.json" ] || "$O/tests/random_checkpoint" --preset "$preset" --shards 3 "$dir/model"
aq-extract-lm -q -o "$dir/lm.json" "$dir/model"
jq --argjson treatments '{"w4": ["int4:block(-1:128):static", "none"], "f8": ["e4m3:axis0:static", "e4m3:token:dynamic"], "nv": ["e2m1:nvfp4(16):dynamic", "none"],
    "i8": ["int8:axis0:static", "int8:token:dynamic"]}' --argjson cycle '["w4", "f8", "nv", "i8"]' -f tests/manifest.jq "$dir/lm.json" >"$dir/manifest.json"
weights=$(jq '[.groups[].weights] | add' "$dir/lm.json")

# seconds COMMAND...: into $took; nothing dirty before, all of it on the disk after
seconds() {
    local start
    sync
    start=$(date +%s%N)
    "$@"
    sync
    took=$(($(date +%s%N) - start))
}
runs=${RUNS:-3}
: >"$dir/shares"
for _ in $(seq "$runs"); do
    rm -rf "$dir/copy" "$dir/out"
    seconds cp -r "$dir/model" "$dir/copy"
    copy=$took
    rm -rf "$dir/copy"
    seconds /usr/bin/time -f '%M %U %S' -o "$dir/rss" aq-export -q --engine vllm:sm90 --lm "$dir/lm.json" -o "$dir/out" "$dir/manifest.json"
    awk -v c="$copy" -v e="$took" -v w="$weights" -v from="$(du -sb "$dir/model" | cut -f1)" -v to="$(du -sb "$dir/out" | cut -f1)" -v used="$(<"$dir/rss")" 'BEGIN {
        split(used, u)
        printf "export %.1f s, cp and sync %.1f s: %.0f %% of its speed; processor time %.1f s; %.0f million weights a second; %.2f GB to %.2f GB; resident %.2f GB with the maps\n",
            e / 1e9, c / 1e9, 100 * c / e, u[2] + u[3], w / e * 1e3, from / 1e9, to / 1e9, u[1] / 1e6}'
    awk -v c="$copy" -v e="$took" 'BEGIN {printf "%.1f\n", 100 * c / e}' >>"$dir/shares"
done
printf 'median of %d runs: %s %% of the speed of cp and sync\n' "$runs" "$(sort -n "$dir/shares" | sed -n "$(((runs + 1) / 2))p")"
rm -rf "$dir/out"
