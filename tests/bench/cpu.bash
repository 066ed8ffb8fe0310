# Times of short commands: sourced by benchmarks.
# shellcheck shell=bash

# cpu_ms N COMMAND...: processor milliseconds of one call, the smallest mean of three times N calls. Unlike time on the clock it is
# nearly the same on a busy machine.
cpu_ms() {
    local calls=$1 TIMEFORMAT='%U %S'
    shift
    for _ in 1 2 3; do
        { time for ((n = 0; n < calls; n++)); do "$@" >/dev/null; done; } 2>&1
    done | awk -v n="$calls" '{ t = ($1 + $2) * 1000 / n } NR == 1 || t < least { least = t } END { print least }'
}
