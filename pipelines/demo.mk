# demo.mk -- the main job on the embedded model: 3 pairs x 2 granularities x 3 sizes, then the top of one report and the recipe
# at 6 bits as a checkpoint that engines load.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk
.DEFAULT_GOAL := demo
.PHONY: demo

DEMO_PAIRS := wfp8_afp8 wint8_aint8 wint4_afp16
DEMO_GRANS := default recipe_match_channel_token
DEMO_SIZES := small medium large
P    := $(TMP_ROOT)/model-experiments/lm_sensitivity/qwen3_vl_demo
TOP  := $(P)/wint8_aint8/default/large

demo:
	+@$(below) TMP_ROOT=$(TMP_ROOT) AQ_BIN=$(AQ_BIN) AQ_CONF=$(AQ_CONF) $(MAKE) --no-print-directory \
	  -f $(PIPELINES)/sweep.mk PAIRS='$(DEMO_PAIRS)' GRANS='$(DEMO_GRANS)' SIZES='$(DEMO_SIZES)' MODEL=qwen3_vl_demo BITS=6 \
	  ENGINE=vllm:sm90 sweep export
	@echo; echo 'the five layers that suffer most from INT8 weights and activations (512 captions):'
	@sort -t "$$(printf '\t')" -k7gr $(TOP)/per-layer-sensitivity.tsv | \
	  awk -F'\t' '$$5 != "layer" && n < 5 {n++; printf "  %-32s %.3e  (standard error %.1e)\n", $$15, $$7, $$8}'
	@printf '%s\n' '' 'report:   $(TOP)/report.html' 'summary:  $(P)/summary.md' \
	  'explore:  $(P)/explore.html (all cells on one page, and the best recipe for any budget)' \
	  'model:    $(P)/select/6/large/export-vllm-sm90 (6 bits a weight: vLLM, SGLang and transformers load it; CHECK.md there says as what)' \
	  'tables:   $(P)/<pair>/<granularity>/<size>/per-layer-sensitivity.md'
	@printf 'tools:    export PATH=%q:$$PATH\n' "$$(realpath $(AQ_BIN))"
