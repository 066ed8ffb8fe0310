# shellcheck shell=bash
# write_cells DIR: a quant.json for every cell of upstream's pairs and granularities that can be computed; calibrated ones, which need
# solved numbers, are others' business.
write_cells() {
    local pair format granularity name
    mkdir -p "$1"
    for pair in conf/quant_pair/*.yaml; do
        format=$(sed -nE 's/^format_name: *//p' "$pair")
        for granularity in conf/quant_granularity/*.yaml; do
            name=$(basename "$granularity" .yaml)
            aq-overlay --strict --format "$format" --granularity "$name" -o "$1/$format.$name.json" 2>/dev/null || continue
            if jq -e '.treatment.w | contains("/")' "$1/$format.$name.json" >/dev/null; then rm "$1/$format.$name.json"; fi
        done
    done
}
