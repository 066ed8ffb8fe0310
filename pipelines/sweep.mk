# sweep.mk -- per-layer quantization sensitivity: PAIRS x GRANS x SIZES of one model, as make targets.
#
#   make -f pipelines/sweep.mk PAIRS="wfp8_afp8 wint8_aint8" SIZES=small
#   make -f pipelines/sweep.mk help

include $(dir $(lastword $(MAKEFILE_LIST)))common.mk
# The face: the primary configuration under conf/preset, and the name of the experiment. qwen3.mk is another one.
ifneq ($(origin face),file)
face := lm_sensitivity
front := $(PIPELINES)/sweep.mk
endif
.DEFAULT_GOAL := sweep

CONF := $(or $(AQ_CONF),$(if $(wildcard conf/preset),conf,$(PIPELINES)/../conf))
export AQ_CONF := $(CONF)
export AQ_BIN

## sweep: every cell's manifest and reports, and the summary (default)
## plan: the cells, and what aq-score would do; writes nothing
## reports: only what is derived from manifests; can never start a scoring run
## select: one recipe over all cells of the sweep within BITS (default: the preset's budget)
## summary: summary.md, .tsv and .html over all cells of the sweep, which are made first
## publish: the sweep, copied to models/<model>/layer-analysis/ (same as LAYOUT=publish)
## int8-phases: the three-phase INT8 run (small, medium, large); OUTPUT_MODE=publish (default) or tmp
## clean-cell: remove the products of CELL=pair/granularity/size; scores stay in the store
## help: this list
.PHONY: sweep plan reports select summary publish int8-phases clean-cell help

GOALS := $(or $(MAKECMDGOALS),sweep)

ifeq ($(GOALS),help)
help:
	@sed -n 's/^## //p' $(PIPELINES)/sweep.mk | awk -F': ' '{printf "  %-12s %s\n", $$1, substr($$0, length($$1) + 3)}'
	@printf '%s\n' '' 'variables (default):' \
	  '  PAIRS       precision pairs, blank-separated (all in conf/quant_pair but wint8_aint8_lm_only)' \
	  '  GRANS       granularities, or "all" (default)' \
	  '  SIZES       small medium large, or "all" (small)' \
	  '  MODEL       a directory of conf/model (qwen3_vl_demo, the embedded one)' \
	  '  DATASET     an option of conf/dataset (demo_captions; vlm_coco2017_captions for other models)' \
	  '  OVERRIDES   "a.b=v ..." for every cell, as aq-resolve takes them (none)' \
	  '  EXPERIMENT  name of the directory of products ($(face), plus a hash of OVERRIDES)' \
	  '  LAYOUT      tmp or publish (tmp)' \
	  '  OUTPUT_DIR  explicit output directory; with several cells it needs $${...}' \
	  '  BITS        budget for select, in effective bits (autoquant.effective_bits)' \
	  '  DEVICE      auto, cpu, cuda or cuda:N (auto)' \
	  '  SHARDS      jobs that share the scoring (1)' \
	  "  LAUNCH      prefix of the heavy jobs: pipelines/with-device, 'srun --gres=gpu:1', ... (none)" \
	  '  STRICT      1: an unsupported cell is an error (0)' \
	  '  V           1: show the commands' \
	  '' 'examples:' \
	  '  make -f $(front) PAIRS="wfp8_afp8 wint8_aint8" SIZES=all' \
	  '  make -f $(front) select BITS=5.4 PAIRS="wfp8_afp8 wint4_aint8" -j2' \
	  '  make -f $(front) MODEL=qwen3_vl_4b_instruct OVERRIDES="model.path=/data/Qwen3-VL-4B-Instruct" LAYOUT=publish'
else ifeq ($(GOALS),int8-phases)
int8-phases:
	+@case '$(or $(filter publish tmp,$(OUTPUT_MODE)),$(if $(OUTPUT_MODE),bad,publish))' in \
	  publish) exec $(MAKE) -f $(front) sweep PAIRS=wint8_aint8 GRANS=default SIZES='small medium large' LAYOUT=publish ;; \
	  tmp) exec $(MAKE) -f $(front) sweep PAIRS=wint8_aint8 GRANS=default SIZES='small medium large' \
	         OUTPUT_DIR='$(TMP_ROOT)/$(or $(subst qwen3_vl_4b_instruct,qwen3_vl_4b,$(MODEL)),qwen3_vl_demo)_autoquant_int8_lm_$${dataset.size}' ;; \
	  *) echo "OUTPUT_MODE must be publish or tmp" >&2; exit 1 ;; \
	esac
else

# ---- settings: checked in one place, before anything is written ----

# the make under the lock gets what its parent has checked
ifeq ($(AQ_LOCKED),)
settings := $(shell $(PIPELINES)/settings FACE=$(face) CONF=$(call quote,$(CONF)) PAIRS_GIVEN=$(PAIRS_GIVEN) \
	$(foreach k,$(filter-out CELL OUTPUT_MODE PRESET,$(KNOBS)),$(k)=$(call quote,$($(k)))))
else
settings := $(AQ_LOCKED)
endif
$(foreach w,$(filter error=%,$(settings)),$(error $(subst |, ,$(patsubst error=%,%,$(w)))))
ifeq ($(settings),)
$(error pipelines/settings failed)
endif
knob  = $(firstword $(subst =, ,$(1)))
$(foreach w,$(settings),$(eval override $(call knob,$(w)) := $(subst |, ,$(patsubst $(call knob,$(w))=%,%,$(w)))))
override OUTPUT_DIR := $(or $(OUTPUT_DIR),$(runner.output_dir))
ifneq ($(filter publish,$(GOALS)),)
override LAYOUT := publish
endif

P    := $(TMP_ROOT)/model-experiments/$(EXPERIMENT)/$(MODEL)
ARGS := $(P)/.args
ifeq ($(wildcard $(AQ_BIN)/aq-score),)
$(error the tools are not built: run 'make' first, or set AQ_BIN)
endif

ifneq ($(or $(REPORT_ONLY),$(filter reports,$(GOALS))),)
include $(PIPELINES)/reports.mk
else

# One make at a time in one tree of products: the whole run happens under a lock, which an orphaned recipe of a
# killed make still holds. Looking (-n, -q, plan) neither locks nor writes.
ifneq ($(or $(looking_only),$(filter plan,$(GOALS))),)
LOOKING := 1
endif
ifeq ($(or $(LOOKING),$(AQ_LOCKED)),)
.PHONY: $(GOALS) locked
$(GOALS): locked ; @:
locked:
	+@mkdir -p $(P); flock -n -E 75 $(P)/.lock $(MAKE) --no-print-directory -f $(front) $(GOALS) AQ_LOCKED=$(call quote,$(settings)) || { \
	  s=$$?; [ $$s -ne 75 ] || echo "$(P) is in use by another make: wait for it, or choose another EXPERIMENT" >&2; exit $$s; }
else

# ---- configuration plane ----

# what each tool calls the version of its results: a rebuilt binary alone remakes nothing
versions := $(shell for t in resolve overlay extract-lm calib score select report; do echo $$t=$$($(AQ_BIN)/aq-$$t --result-version); done)
version   = $(patsubst $(1)=%,%,$(filter $(1)=%,$(versions)))

make_cells = $(PIPELINES)/cells $(face) $(1) $(MODEL) $(DATASET) $(EXPERIMENT) $(LAYOUT) '$(PAIRS)' '$(GRANS)' '$(SIZES)' '$(DEVICE)' \
	$(call quote,$(OUTPUT_DIR)) $(call quote,$(OVERRIDES))
cells_text := $(strip $(MODEL) $(DATASET) $(LAYOUT) $(PAIRS) / $(GRANS) / $(SIZES) / $(DEVICE) $(OUTPUT_DIR) $(OVERRIDES) $(call version,resolve).$(call version,overlay))

ifdef LOOKING
# Up to date: use what is there. Else compose into a scratch directory and pretend.
fresh := $(shell [ -e $(P)/cells.mk ] && [ "$$(cat $(ARGS)/cells 2>/dev/null)" = $(call quote,$(cells_text)) ] \
	&& [ -z "$$(find $(CONF) $(PIPELINES)/cells -newer $(P)/cells.mk -print -quit)" ] && echo 1)
ifdef fresh
include $(P)/cells.mk
else
scratch := $(shell mktemp -d)
ifneq ($(shell AQ_BIN=$(AQ_BIN) AQ_CELLS_ROOT=$(scratch) $(call make_cells,$(P)) >&2 && echo ok),ok)
$(shell rm -rf $(scratch))
$(error the cells cannot be composed)
endif
-include $(scratch)/cells.mk
$(shell rm -rf $(scratch))
endif
else
$(call stamp,$(ARGS)/cells,cells_text)
# Made once a run: a file dated in the future would make it out of date, and make start over, without end.
$(P)/cells.mk: $(ARGS)/cells $(if $(MAKE_RESTARTS),,$(PIPELINES)/cells)
	$(call say,CELLS,$(words $(PAIRS)) x $(words $(GRANS)) x $(words $(SIZES)))$(call make_cells,$(P))
ifeq ($(MAKE_RESTARTS),)
-include $(P)/cells.d
endif
include $(P)/cells.mk
endif

# A configuration file that somebody deleted.
$(RUNS) $(RUNS:run.json=composed-config.yaml) $(ALL_QUANTS) $(P)/cells.json &:
	$(call say,CELLS,again)$(call make_cells,$(P))

ifneq ($(and $(filter 1,$(STRICT)),$(UNSUPPORTED)),)
$(error unsupported cells with STRICT=1: $(UNSUPPORTED:$(P)/%=%); the reasons are in $(P)/cells.json)
endif

# ---- one per model, one per data set ----

D      := $(P)/$(DATASET)
LM     := $(P)/lm.json
TOKENS := $(D)/tokens.safetensors
RANGES := $(D)/ranges.safetensors
STORE  := $(D)/store-$(METHOD).safetensors

# cells.mk is made first, and make starts over with it: until then there is nothing to check
ifeq ($(or $(LOOKING),$(if $(RUNS),,none),$(wildcard $(MODEL_PATH)/config.json $(STORE))),)
$(error no checkpoint at '$(MODEL_PATH)' (model.path): set it with OVERRIDES="model.path=/path/to/checkpoint")
endif
ifeq ($(or $(LOOKING),$(if $(RUNS),,none),$(CAPTIONS)),)
$(error no captions for DATASET=$(DATASET): see datasets/ and conf/dataset/$(DATASET).yaml)
endif

extract_text := $(MODEL_PATH) $(call version,extract-lm)
calib_text   := $(DTYPE) $(DEVICE_SET) $(CAPTION_ARGS) $(PADDING) $(SEQ_LEN) $(PREFIXES) $(call version,calib)
score_text   := $(DTYPE) $(ROUNDING) $(DYNAMIC_BATCH) $(SCORE_PREFIXES) $(SCORE_SAMPLES) $(call version,score)
select_text  := $(call version,select)
report_text  := $(call version,report)
$(foreach s,extract calib score select report,$(call stamp,$(ARGS)/$(s),$(s)_text))

$(LM): $(wildcard $(MODEL_PATH)/config.json $(MODEL_PATH)/*.safetensors $(MODEL_PATH)/*.index.json) $(ARGS)/extract
	$(call say,EXTRACT,$@)mkdir -p $(@D); $(AQ_BIN)/aq-extract-lm -o $@ $(MODEL_PATH)
$(TOKENS): $(wildcard $(CAPTIONS) $(MODEL_PATH)/tokenizer.json $(MODEL_PATH)/vocab.json $(MODEL_PATH)/merges.txt) $(ARGS)/calib
	$(call say,TOKENS,$@)mkdir -p $(@D); $(AQ_BIN)/aq-calib tokens --tokenizer $(MODEL_PATH) --seq-len $(SEQ_LEN) \
	  --padding $(PADDING) -o $@ $(CAPTION_ARGS)
$(RANGES): $(LM) $(TOKENS)
	$(call say,RANGES,$@)$(call heavy,$@.log,$(LAUNCH) $(AQ_BIN)/aq-calib ranges --lm $(LM) --prefix $(PREFIXES) --device $(DEVICE_SET) --dtype $(DTYPE) --progress=never -o $@ $(TOKENS))

# ---- the store: all cells in one call, by content ----

score = $(AQ_BIN)/aq-score --lm $(LM) --tokens $(TOKENS) --ranges $(RANGES) --prefix $(SCORE_PREFIXES) --score-samples $(SCORE_SAMPLES) \
	--method $(METHOD) --dtype $(DTYPE) --operand-rounding $(ROUNDING) --dynamic-batch $(DYNAMIC_BATCH) --device $(DEVICE_SET) --replace
score_inputs := $(LM) $(TOKENS) $(RANGES) $(QUANTS) $(ARGS)/score

ifeq ($(SHARDS),1)
$(STORE): $(score_inputs)
	$(call say,SCORE,$(words $(QUANTS)) treatments asked for: $@)$(call heavy,$@.log,$(LAUNCH) $(score) -v --progress=never -o $@ $(QUANTS)); \
	touch $@; grep -E 'candidates computed' $@.log || true
else
SHARD_STEMS := $(shell seq -f '%.0f-of-$(SHARDS)' $(SHARDS))
PARTS := $(SHARD_STEMS:%=$(D)/shards/$(METHOD)-%.safetensors)
$(PARTS): $(D)/shards/$(METHOD)-%.safetensors: $(score_inputs)
	$(call say,SHARD,$@)$(call heavy,$@.log,$(LAUNCH) $(score) -v --progress=never --shard $(subst -of-,/,$*) -o $@ $(QUANTS)); touch $@
$(STORE): $(PARTS)
	$(call say,MERGE,$@)$(AQ_BIN)/aq-score merge -o $@ $(PARTS)
endif

# ---- cells ----

# One process writes every cell's scores.json that changed; a missing file makes it run again.
COLLECTED := $(D)/.collected-$(METHOD)
$(COLLECTED): $(STORE) $(RUNS) $(QUANTS) $(P)/cells.json $(if $(filter-out $(wildcard $(SCORES)),$(SCORES)),FORCE)
	$(call say,COLLECT,$(words $(SCORES)) cells)$(AQ_BIN)/aq-score collect --ranges $(RANGES) --cells $(P)/cells.json $(STORE); touch $@
# The empty recipe makes make look at the file's time again: scores that did not change stop the chain. When only
# looking, nothing changes, and an older file is not something to do.
$(SCORES): $(if $(LOOKING),|) $(COLLECTED) ;

# $(1): directory/scheme
do_select  = $(call say,SELECT,$(1))$(AQ_BIN)/aq-select --state $(1)_autoquant_state.pt -o $(1)_quant_manifest.json $(dir $(1))scores.json
do_report  = $(call say,REPORT,$(dir $(1)))$(AQ_BIN)/aq-report --all $(dir $(1)) $(1)_quant_manifest.json
# $(1): cell directory  $(2): scheme. The manifest comes last: where it is, the rest is.
do_publish = $(call say,PUBLISH,$(@D))$(PIPELINES)/publish $(@D) $(1)/composed-config.yaml $(1)/per-layer-sensitivity.md \
	$(1)/per-layer-sensitivity.json $(1)/$(2)_autoquant_state.pt $(1)/$(2)_quant_manifest.json

sweep: $(RUNS:run.json=composed-config.yaml) $(REPORTS) $(P)/summary.md $(P)/summary.tsv $(P)/summary.html $(PUBLISHED)
# a recipe of a phony target would always be something to do: under -q there is none
ifeq ($(findstring q,$(looking_only)),)
sweep: ; @echo '$(words $(SCORES)) cells, $(words $(UNSUPPORTED)) unsupported: $(P)/summary.md'
endif
publish: sweep
	@printf '%s\n' $(sort $(patsubst %/,%,$(dir $(PUBLISHED))))

summary: $(P)/summary.md
$(P)/summary.md $(P)/summary.tsv $(P)/summary.html &: $(MANIFESTS) $(P)/cells.json $(ARGS)/report
	$(call say,SUMMARY,$(P))for f in md tsv html; do \
	  xargs -a $(P)/.manifests $(AQ_BIN)/aq-report summary --$$f --cells $(P)/cells.json -o $(P)/summary.$$f; done

# ---- one recipe over all cells ----

BITS_DIR := $(P)/select/$(or $(BITS),default)
SELECTED := $(foreach s,$(SIZES),$(if $(SCORES_$(s)),$(BITS_DIR)/$(s)/report.html))
menu_text := $(PAIRS) / $(GRANS)
$(call stamp,$(ARGS)/menu-$(or $(BITS),default),menu_text)
select: $(SELECTED)
	@for f in $(SELECTED:report.html=*_quant_manifest.json); do \
	  jq -r --arg f "$$f" '"\($$f): \(.selection.effective_bits) bits, score \(.autoquant_state.score)"' "$$f"; done
define select_rule
$(BITS_DIR)/$(1)/report.html: $$(SCORES_$(1)) $(ARGS)/select $(ARGS)/report $(ARGS)/menu-$(or $(BITS),default)
	$$(call say,SELECT,$$(@D))mkdir -p $$(@D); rm -f $$(@D)/*_quant_manifest.json; \
	xargs -a $(P)/.scores-$(1) $(AQ_BIN)/aq-select $(if $(BITS),--effective-bits $(BITS)) \
	  --state $$(@D)/mixed_autoquant_lm_autoquant_state.pt -o $$(@D)/mixed_autoquant_lm_quant_manifest.json; \
	$(AQ_BIN)/aq-report --all $$(@D) $$(@D)/mixed_autoquant_lm_quant_manifest.json
endef
$(foreach s,$(SIZES),$(if $(SCORES_$(s)),$(eval $(call select_rule,$(s)))))

# ---- looking and cleaning ----

plan:
	@printf '%s cells in %s, %s of them unsupported\n' '$(words $(RUNS))' '$(P)' '$(words $(UNSUPPORTED))'
	@$(if $(SCORES),printf '  %s\n' $(SCORES:$(P)/%/scores.json=%))
	@$(if $(UNSUPPORTED),printf '  %s (unsupported)\n' $(UNSUPPORTED:$(P)/%=%))
	@if [ -e $(LM) ] && [ -e $(TOKENS) ] && [ -e $(RANGES) ] && [ -z '$(filter-out $(wildcard $(QUANTS)),$(QUANTS))' ]; then \
	  $(score) --dry-run -o $(STORE) $(QUANTS); else echo 'nothing is scored yet: the plan of aq-score needs lm.json, tokens and ranges'; fi

clean-cell:
	@case '$(filter $(P)/$(CELL),$(RUNS:/run.json=))' in '') echo "CELL=pair/granularity/size must name a cell of the sweep" >&2; exit 2 ;; esac
	rm -rf $(P)/$(CELL)

endif # locked
endif # report-only
endif # help
