# demo.mk -- the main job on the embedded model: 3 pairs x 2 granularities x 3 sizes, then the top of one report.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk
.DEFAULT_GOAL := demo
.PHONY: demo

PAIRS := wfp8_afp8 wint8_aint8 wint4_aint8
GRANS := default recipe_match_channel_token
SIZES := small medium large
P     := $(TMP_ROOT)/model-experiments/qwen3_lm_sensitivity/qwen3_vl_demo
CELL  := $(P)/wint8_aint8/default/large

demo:
	+@$(MAKE) --no-print-directory -f $(PIPELINES)/qwen3.mk PAIRS='$(PAIRS)' GRANS='$(GRANS)' SIZES='$(SIZES)' MODEL=qwen3_vl_demo sweep
	@echo; echo 'the five layers that suffer most from INT8 weights and activations (512 captions):'
	@sort -t "$$(printf '\t')" -k7gr $(CELL)/per-layer-sensitivity.tsv | awk -F'\t' '$$5 != "layer" && n < 5 {n++; printf "  %-32s %s\n", $$5, $$7}'
	@printf '%s\n' '' 'report:   $(CELL)/report.html' 'summary:  $(P)/summary.md' \
	  'tables:   $(P)/<pair>/<granularity>/<size>/per-layer-sensitivity.md'
