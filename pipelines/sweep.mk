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

## sweep: every cell's manifest and reports, the summary, and explore.html, all cells in one page (default)
## plan: the cells, and what aq-score would do; writes nothing
## reports: only what is derived from manifests; can never start a scoring run
## select: one recipe over all cells of the sweep within BITS (default: the preset's budget)
## summary: summary.md, .tsv and .html over all cells of the sweep, which are made first
## explore: explore.html and sweep.tsv: all cells in one page and in one table of every layer
## eval: what the recipes of `select` cost on held-out text: select/<bits>/<size>/eval.json and eval.html
## export: the recipes of `select` as checkpoints for ENGINE, in select/<bits>/<size>/export-<engine>
## publish: the sweep, copied to models/<model>/layer-analysis/ (same as LAYOUT=publish)
## int8-phases: the three-phase INT8 run (small, medium, large); OUTPUT_MODE=publish (default) or tmp
## clean-cell: remove the products of CELL=pair/granularity/size; scores stay in the store
## help: this list
.PHONY: sweep plan reports select summary explore eval export publish int8-phases clean-cell help

GOALS := $(or $(MAKECMDGOALS),sweep)
$(foreach g,$(GOALS),$(call check_path,a goal,$(g)))

ifeq ($(GOALS),help)
help:
	@sed -n 's/^## //p' $(PIPELINES)/sweep.mk | awk -F': ' '{printf "  %-12s %s\n", $$1, substr($$0, length($$1) + 3)}'
	@printf '%s\n' '' 'variables (default):' \
	  '  PAIRS       precision pairs, blank-separated (all in conf/quant_pair but wint8_aint8_lm_only and the calibrated ones,' \
	  '              *_gptq *_awq *_smooth *_sweep, which take longer than all others together: name them);' \
	  '              servable: those that ENGINE serves as they are scored, with one of GRANS at least' \
	  '  GRANS       granularities, or "all" (default)' \
	  '  SIZES       small medium large, or "all" (small)' \
	  '  MODEL       a directory of conf/model (qwen3_vl_demo, the embedded one)' \
	  '  DATASET     an option of conf/dataset (demo_captions; vlm_coco2017_captions for other models)' \
	  '  OVERRIDES   "a.b=v ..." for every cell, as aq-resolve takes them (none)' \
	  '  EXPERIMENT  name of the directory of products ($(face), plus a hash of OVERRIDES)' \
	  '  LAYOUT      tmp or publish (tmp)' \
	  '  OUTPUT_DIR  explicit output directory; with several cells it needs $${...}' \
	  '  MENU        file of the candidates that layers may have, for select (aq-select --menu)' \
	  '  BITS        budget for select, in effective bits (autoquant.effective_bits)' \
	  '  ENGINE      engine of export, servable and the verdicts in the summary: vllm, sglang, trtllm, llamacpp, transformers,' \
	  '              with :smNN and :tpN (vllm)' \
	  '  DEVICE      auto, cpu, cuda or cuda:N (auto)' \
	  '  STOP        settled: sizes one after another, until the recipes of two agree (aq-select --settled)' \
	  '  THREADS     threads of aq-score (all processors)' \
	  '  MEMORY      memory that aq-score may use, such as 16G (three quarters of what is free)' \
	  '  SHARDS      jobs that share the scoring, for -j; auto: one for each GPU (1)' \
	  "  LAUNCH      prefix of the heavy jobs: pipelines/with-device, 'srun --gres=gpu:1', ... (none)" \
	  '  STRICT      1: an unsupported cell is an error (0)' \
	  '  CELL        pair/granularity/size, for clean-cell' \
	  '  OUTPUT_MODE publish or tmp, for int8-phases (publish)' \
	  '  TMP_ROOT    where products go (tmp)' \
	  '  AQ_BIN      the directory of the tools (those built or installed with this file)' \
	  '  AQ_CONF     the configuration tree (conf)' \
	  '  V           1: show the commands' \
	  '' 'examples:' \
	  '  make -f $(front) PAIRS="wfp8_afp8 wint8_aint8" SIZES=all' \
	  '  make -f $(front) select BITS=5.4 PAIRS="wfp8_afp8 wint4_afp16" -j2' \
	  '  make -f $(front) MODEL=qwen3_vl_4b_instruct OVERRIDES="model.path=/data/Qwen3-VL-4B-Instruct" LAYOUT=publish'
else

# ---- settings: checked in one place, before anything is written ----

# What travels to recipes as data travels in the environment; below $(shell) the same, by hand.
export AQ_OVERRIDES := $(OVERRIDES)
override OUTPUT_DIR := $(or $(OUTPUT_DIR),$(runner.output_dir))
override runner.output_dir :=
export AQ_OUTPUT_DIR := $(OUTPUT_DIR)
values = AQ_OVERRIDES=$(call quote,$(AQ_OVERRIDES)) AQ_OUTPUT_DIR=$(call quote,$(AQ_OUTPUT_DIR)) AQ_DEVICE='$(DEVICE)'

# A job for each device must hold one of its own.
ifneq ($(and $(filter auto,$(value SHARDS)),$(if $(value LAUNCH),,1)),)
LAUNCH := $(call quote,$(PIPELINES)/with-device)
endif
# what settings are for: the plan, the lock that a make below takes its turn under, or the work
look := $(if $(filter-out plan,$(GOALS)),$(if $(looking_only)$(value AQ_LOCKED),,lock),plan)
settings := $(shell $(PIPELINES)/settings FACE='$(face)' CONF='$(CONF)' LOOK=$(look) PAIRS_GIVEN='$(PAIRS_GIVEN)' \
	$(foreach k,$(filter-out OUTPUT_MODE AQ_CONF LAUNCH V,$(KNOBS)),$(k)=$(call quote,$($(k)))))
$(foreach w,$(filter error=%,$(settings)),$(error $(subst |, ,$(patsubst error=%,%,$(w)))))
ifeq ($(settings),)
$(error pipelines/settings failed)
endif
# $(call take,WORDS): NAME=value|value ... become variables
knob = $(firstword $(subst =, ,$(1)))
take = $(foreach w,$(1),$(eval override $(call knob,$(w)) := $$(subst |, ,$(patsubst $(call knob,$(w))=%,%,$(w)))))
$(call take,$(settings))
export AQ_DEVICE := $(DEVICE)
ifneq ($(filter publish,$(GOALS)),)
override LAYOUT := publish
endif

P    := $(TMP_ROOT)/model-experiments/$(EXPERIMENT)/$(MODEL)
ARGS := $(P)/.args
# the engine that reports show first and checkpoints are written for; ENGINE is checked by now
SERVED_BY := $(or $(ENGINE),vllm)

# the variables of a make below this one, which gets none from the command line
export MODEL DATASET PAIRS GRANS SIZES LAYOUT EXPERIMENT DEVICE SHARDS BITS STRICT CELL MENU MEMORY THREADS ENGINE OVERRIDES OUTPUT_DIR \
	TMP_ROOT LAUNCH V

ifneq ($(STOP),)
# Sizes in their order, each together with the smaller ones: the store keeps what it has.
ifneq ($(GOALS),sweep)
$(error STOP goes with the goal sweep alone)
endif
settle = $(AQ_BIN)/aq-select -q --settled $(if $(BITS),--effective-bits $(BITS)) $(if $(MENU),--menu $(MENU)) -o $(P)/settled.json
settle_says = .sizes[-1] | "\($$s): \(.same_weights * 100 | round) % of the weights choose as before; " + \
	if .agrees then "settled" else "not settled: \(.difference) +- \(.se // "?")" end
sweep:
	+@$(below) sizes=; for size in $(SIZES); do \
	  more=$${sizes:+1}; sizes="$$sizes $$size"; \
	  $(MAKE) --no-print-directory -f $(front) sweep STOP= SIZES="$$sizes"; \
	  [ -n "$$more" ] || continue; \
	  jq -r '.cells[] | select(.supported) | "\(.dir)/scores.json"' $(P)/cells.json | xargs $(settle); \
	  jq -r --arg s "$$size" '$(settle_says)' $(P)/settled.json; \
	  if jq -e .sizes[-1].agrees $(P)/settled.json >/dev/null; then break; fi; \
	done
else ifeq ($(GOALS),int8-phases)
phases = $(MAKE) --no-print-directory -f $(front) sweep PAIRS=wint8_aint8 GRANS=default SIZES='small medium large' \
	EXPERIMENT='$(EXPERIMENT)'
int8-phases:
	+@$(below) case '$(if $(OUTPUT_MODE),$(or $(filter publish tmp,$(OUTPUT_MODE)),bad),publish)' in \
	  publish) exec $(phases) LAYOUT=publish ;; \
	  tmp) exec $(phases) OUTPUT_DIR='$(TMP_ROOT)/$(subst qwen3_vl_4b_instruct,qwen3_vl_4b,$(MODEL))_autoquant_int8_lm_$${dataset.size}' ;; \
	  *) echo "OUTPUT_MODE must be publish or tmp" >&2; exit 1 ;; \
	esac
else ifneq ($(or $(REPORT_ONLY),$(filter reports,$(GOALS))),)
include $(PIPELINES)/reports.mk
else

# ---- configuration plane ----

version = $(patsubst $(1):%,%,$(filter $(1):%,$(VERSIONS)))
commas  = $(subst $() $(),$(comma),$(strip $(1)))

# One process composes all cells and writes what changed; the directory is the option's name, not quant_pair.name: two
# options may share a name.
resolve = $(AQ_BIN)/aq-resolve --config-name preset/$(face) -m --dir $(1) --overrides $(1)/overrides.txt model=$(MODEL) dataset=$(DATASET) \
	experiment=$(EXPERIMENT) output_layout=$(LAYOUT) quant_pair=$(call commas,$(PAIR_NAMES)) quant_granularity=$(call commas,$(GRANS)) \
	dataset.size=$(call commas,$(SIZES)) \
	'hydra.sweep.subdir=$${hydra:runtime.choices.quant_pair}/$${hydra:runtime.choices.quant_granularity}/$${dataset.size}'
overlay = $(AQ_BIN)/aq-overlay --cells $(1) --engine $(SERVED_BY) $(if $(filter servable,$(PAIRS)),--servable)
compose = mkdir -p $(ARGS); $(PIPELINES)/overrides $(P)/overrides.txt; $(call resolve,$(P)); $(call resolve,$(P)) -q --format yaml; \
	$(call overlay,$(P)); echo $(KEY) >$(ARGS)/cells
# The same in the scratch directory "$$d" of a plan, but for what a plan does not read; once.
overrides_scratch = $(if $(AQ_OVERRIDES)$(AQ_DEVICE)$(AQ_OUTPUT_DIR),$(PIPELINES)/overrides "$$d/overrides.txt",: >"$$d/overrides.txt")
compose_scratch = if [ ! -e "$$d/cells.mk" ]; then $(overrides_scratch); $(call resolve,"$$d"); $(call overlay,"$$d"); fi
# and the directory: that of `aq plan` and of a make above this one, else one of its own, as there
new_scratch = d=$${TMPDIR:-/dev/shm}; [ -w "$$d" ] || d=/tmp; d=$$(mktemp -d "$$d/aq.XXXXXX")
scratch = d=$${AQ_SCRATCH:-}; if [ -z "$$d" ]; then $(new_scratch); export AQ_SCRATCH=$$d; trap 'rm -rf -- "$$d"' EXIT; fi

# One make at a time in one tree of products: the whole run happens under a lock, which an orphaned recipe of a
# killed make still holds. Looking (-n, -q, plan) neither locks nor writes.
LOOKING := $(if $(or $(looking_only),$(filter plan,$(GOALS))),1)
ifeq ($(GOALS)$(looking_only)$(if $(STALE),,fresh)$(value AQ_SCRATCH),plan)
# What is not there yet is composed, by a make below this one, in a directory that goes again.
.PHONY: plan
plan:
	+@$(scratch); $(MAKE) --no-print-directory -f $(front) plan
else ifeq ($(or $(LOOKING),$(value AQ_LOCKED)),)
.PHONY: $(GOALS) locked
# of several goals the second would be "nothing to be done"
$(GOALS): locked ; $(if $(word 2,$(GOALS)),@:)
locked:
	+@mkdir -p $(P); $(below) AQ_LOCKED=1 flock -n -E 75 $(P)/.lock $(MAKE) --no-print-directory -f $(front) $(GOALS) || { \
	  s=$$?; [ $$s -ne 75 ] || echo "$(P) is in use by another make: wait for it, or choose another EXPERIMENT" >&$${AQ_SAID:-2}; \
	  [ -n "$${AQ_NOTES:-}" ] && [ "$$MAKELEVEL" = 1 ] || exit $$s; printf '%s\n' "$$MAKELEVEL $$s" "failed $$s" >>"$$AQ_NOTES"; }
else

ifneq ($(MAKE_RESTARTS),)
override WHOLE :=
endif

ifeq ($(LOOKING),1)
# Up to date: use what is there. Else take the words of what was composed elsewhere.
ifeq ($(STALE),)
include $(P)/cells.mk
else
looked := $(shell set -eu; $(scratch); export AQ_CONF='$(CONF)' $(values); { $(compose_scratch); } >&2; \
	sed -n 's/ *:= */=/; s/ /|/g; /^[A-Z_]*=/p' "$$d/cells.mk")
ifeq ($(looked),)
$(error the cells cannot be composed)
endif
$(call take,$(looked))
endif
else
# Killed runs leave half-written files under names of their own; nobody else writes here now.
$(if $(MAKE_RESTARTS)$(WHOLE),,$(shell find $(P) -type f \( -name '.aq-*' -o -name '*.new' \) -delete))
# Made at most once a run: a file dated in the future would make it out of date, and make start over, without end.
ifeq ($(MAKE_RESTARTS)$(if $(STALE),,fresh),)
$(P)/cells.mk: FORCE
	$(call say,CELLS,$(words $(PAIR_NAMES)) x $(words $(GRANS)) x $(words $(SIZES)))$(compose)
endif
include $(P)/cells.mk
endif

RUNS       := $(patsubst %,$(P)/%/run.json,$(CELLS) $(UNSUPPORTED))
override ALL_QUANTS := $(ALL_QUANTS:%=$(P)/%)
override QUANTS := $(QUANTS:%=$(P)/%)
override SOLVED_QUANTS := $(SOLVED_QUANTS:%=$(P)/%)
SCORES     := $(CELLS:%=$(P)/%/scores.json)
MANIFESTS  := $(SCHEMES:%=$(P)/%_quant_manifest.json)
REPORT_NAMES := per-layer-sensitivity.md per-layer-sensitivity.json per-layer-sensitivity.tsv report.html \
	heatmap.svg bars.svg frontier.svg depth.svg strip.svg
# Of the files that are made together, make looks at one, the last to be written; of the others it must only know which
# are gone. As grouped targets they would take longer to read than all that a make with nothing to do does.
REPORTS    := $(CELLS:%=$(P)/%/report.html)
gone        = $(if $(WHOLE),,$(filter-out $(wildcard $(1)),$(1)))
parts       = $(foreach n,$(filter-out report.html,$(REPORT_NAMES)),$(CELLS:%=$(P)/%/$(n)))

# A configuration file that somebody deleted.
CONFIGURED := $(RUNS) $(RUNS:run.json=composed-config.yaml) $(ALL_QUANTS)
$(P)/cells.json: $(if $(call gone,$(CONFIGURED)),FORCE)
	$(call say,CELLS,again)$(compose)
$(CONFIGURED): | $(P)/cells.json ;

ifneq ($(and $(filter 1,$(STRICT)),$(UNSUPPORTED)),)
$(error unsupported cells with STRICT=1: $(UNSUPPORTED); the reasons are in $(P)/cells.json)
endif

# ---- one per model, one per data set ----

D      := $(P)/$(DATASET)
CKPT   := $(P)/in/checkpoint
LM     := $(P)/lm.json
TOKENS := $(D)/tokens.safetensors
RANGES := $(D)/ranges.safetensors
STORE  := $(D)/store-$(METHOD).safetensors
# what calibrated candidates need beside the model; where no cell has one, it is not made
SOLVED := $(if $(SOLVED_QUANTS),$(D)/solved.safetensors)

# which sizes have captions; and that those of the cells, and the checkpoint, are there
size_of  = $(firstword $(subst :, ,$(1)))
there   := $(if $(WHOLE),$(foreach s,$(SIZE_SAMPLES),$(if $(realpath $(P)/in/captions-$(call size_of,$(s))),$(call size_of,$(s)))))
looked_at = $(shell $(PIPELINES)/inputs $(P) '$(SIZES)' '$(DATASET)' $(foreach s,$(SIZE_SAMPLES),$(call size_of,$(s))))
all_there = $(and $(WHOLE),$(if $(filter-out $(there),$(SIZES)),,1))
there   := $(if $(CELLS),$(if $(and $(LOOKING),$(STALE)),,$(if $(all_there),$(there),$(looked_at))))
# links of a configuration that is about to be composed anew say nothing yet
settled := $(if $(LOOKING)$(if $(MAKE_RESTARTS),,$(STALE)),,1)
$(foreach w,$(filter error=%,$(there)),$(if $(settled),$(error $(subst |, ,$(patsubst error=%,%,$(w))))))
there   := $(filter-out error=%,$(there))
CAPTIONS := $(patsubst %,$(P)/in/captions-%,$(there))

# The ranges cover the sizes of the cells and those that they cover already: a smaller sweep afterwards makes nothing.
samples  := $(foreach s,$(SIZE_SAMPLES),$(lastword $(subst :, ,$(s))))
have     := $(if $(wildcard $(RANGES)),$(file <$(D)/.prefixes))
PREFIXES := $(filter $(SCORE_PREFIXES) $(have),$(samples))

extract_text  := $(CHECKPOINT_ID) $(MOE_SPLIT) $(call version,extract-lm)
calib_text    := $(CHECKPOINT_ID) $(CAPTIONS_ID) $(there) $(PADDING) $(SEQ_LEN) $(call version,calib)
prefixes_text := $(PREFIXES)
ranges_text   := $(DEVICE_SET) $(DTYPE)
solve_text    := $(lastword $(SCORE_PREFIXES)) $(DYNAMIC_BATCH) $(DEVICE_SET) $(DTYPE) $(call version,calib)
score_text    := $(DTYPE) $(ROUNDING) $(DYNAMIC_BATCH) $(SCORE_PREFIXES) $(SCORE_SAMPLES) $(call version,score)
select_text   := $(call version,select)
report_text   := $(call version,report) $(SERVED_BY)
$(foreach s,extract score select report,$(call stamp,$(ARGS)/$(s),$(s)_text))
$(call stamp,$(ARGS)/calib-$(DATASET),calib_text)
$(call stamp,$(ARGS)/ranges-$(DATASET),ranges_text)
$(call stamp,$(D)/.prefixes,prefixes_text)
$(if $(SOLVED),$(call stamp,$(ARGS)/solve-$(DATASET),solve_text))

# Somebody else named these files, and a rule takes ; : = | % in a name for its own: what follows a ; would be its recipe.
weights := $(wildcard $(CKPT)/config.json $(CKPT)/*.safetensors $(CKPT)/*.index.json)
ifneq ($(call odd,$(weights))$(filter-out $(wildcard $(weights)),$(weights)),)
$(error a file of the checkpoint has a name with other letters than A-Z a-z 0-9 _ . + - @: give it another name, or move it out \
of the directory)
endif
$(LM): $(weights) $(ARGS)/extract
	$(call say,EXTRACT,$@)mkdir -p $(@D); $(AQ_BIN)/aq-extract-lm $(if $(MOE_SPLIT),--moe-split) -o $@ $(CKPT)
tokenizer := $(wildcard $(CKPT)/tokenizer.json $(CKPT)/vocab.json $(CKPT)/merges.txt)
$(TOKENS): $(CAPTIONS) $(tokenizer) $(ARGS)/calib-$(DATASET)
	$(call say,TOKENS,$@)mkdir -p $(@D); $(AQ_BIN)/aq-calib tokens --tokenizer $(CKPT) --seq-len $(SEQ_LEN) \
	  --padding $(PADDING) -o $@ $(foreach s,$(there),--size $(s)=$(P)/in/captions-$(s))
# what the heavy tools share: how much of the machine they may have, and the numbers of calibrated candidates
limits      = $(if $(THREADS),--threads $(THREADS)) $(if $(MEMORY),--memory $(MEMORY))
with_solved = $(if $(SOLVED),--solved $(SOLVED))
# Where neither ranges nor a store are there, one job makes both in one forward pass: below, with the store.
measuring := $(if $(SOLVED)$(wildcard $(RANGES) $(STORE)),,$(and $(filter 1,$(SHARDS)),$(filter 0,$(DYNAMIC_BATCH)),$(QUANTS),1))
range_inputs := $(LM) $(TOKENS) $(D)/.prefixes $(ARGS)/ranges-$(DATASET)
ifeq ($(measuring),)
$(RANGES): $(range_inputs)
	$(call say,RANGES,$@)$(call heavy,$@.log,$(LAUNCH) $(AQ_BIN)/aq-calib ranges --lm $(LM) --prefix $(call commas,$(PREFIXES)) \
	  --device $(DEVICE_SET) --dtype $(DTYPE) -o $@ $(TOKENS))
endif

ifneq ($(SOLVED),)
# Candidates that are there are kept, and a killed run goes on after the last layer that it finished. Over the largest size alone:
# cells of calibrated pairs at smaller sizes are unsupported.
$(SOLVED): $(LM) $(TOKENS) $(RANGES) $(SOLVED_QUANTS) $(ARGS)/solve-$(DATASET)
	$(call say,SOLVE,$(words $(SOLVED_QUANTS)) treatments: $@)$(call heavy,$@.log,$(LAUNCH) $(AQ_BIN)/aq-calib solve --lm $(LM) \
	  --tokens $(TOKENS) --ranges $(RANGES) --prefix $(lastword $(SCORE_PREFIXES)) --device $(DEVICE_SET) --dtype $(DTYPE) $(limits) \
	  $(if $(filter-out 0,$(DYNAMIC_BATCH)),--batch $(DYNAMIC_BATCH)) --replace -o $@ $(SOLVED_QUANTS)); touch $@
endif

# ---- the store: all cells in one call, by content ----

score_options = --prefix $(call commas,$(SCORE_PREFIXES)) \
	--score-samples $(SCORE_SAMPLES) --method $(METHOD) --dtype $(DTYPE) --operand-rounding $(ROUNDING) \
	--dynamic-batch $(DYNAMIC_BATCH) --device $(DEVICE_SET) $(limits) --replace
score = $(AQ_BIN)/aq-score --lm $(LM) --tokens $(TOKENS) $(if $(measuring),--measure,--ranges) $(RANGES) $(with_solved) $(score_options)
score_inputs := $(LM) $(TOKENS) $(RANGES) $(SOLVED) $(QUANTS) $(ARGS)/score

ifneq ($(measuring),)
# The ranges appear whole, before the first score: what comes to an end after that keeps them.
.PRECIOUS: $(RANGES)
$(RANGES) $(STORE) &: $(range_inputs) $(QUANTS) $(ARGS)/score
	$(call say,SCORE,ranges and $(words $(QUANTS)) treatments: $(STORE))$(call heavy,$(STORE).log,$(LAUNCH) $(score) -v \
	  -o $(STORE) $(QUANTS)); touch $(STORE); grep -E 'going on|candidates computed' $(STORE).log || true
else ifeq ($(SHARDS),1)
$(STORE): $(score_inputs)
	$(call say,SCORE,$(words $(QUANTS)) treatments: $@)$(call heavy,$@.log,$(LAUNCH) $(score) -v -o $@ $(QUANTS)); \
	touch $@; grep -E 'going on|candidates computed' $@.log || true
else
SHARD_STEMS := $(shell seq -f '%.0f-of-$(SHARDS)' $(SHARDS))
PARTS := $(SHARD_STEMS:%=$(D)/shards/$(METHOD)-%.safetensors)
$(PARTS): $(D)/shards/$(METHOD)-%.safetensors: $(score_inputs)
	$(call say,SHARD,$@)$(call heavy,$@.log,$(LAUNCH) $(score) -v $(if $(filter 1-of-%,$*),,--progress=never) \
	  --shard $(subst -of-,/,$*) -o $@ $(QUANTS)); touch $@
$(STORE): $(PARTS)
	$(call say,MERGE,$@)$(AQ_BIN)/aq-score merge -o $@ $(PARTS)
endif

# ---- cells ----

# One process writes every cell's scores.json that changed; a missing file makes it run again.
COLLECTED := $(D)/.collected-$(METHOD)
$(COLLECTED): $(STORE) $(RUNS) $(QUANTS) $(P)/cells.json $(if $(call gone,$(SCORES)),FORCE)
	$(call say,COLLECT,$(words $(SCORES)) cells)$(AQ_BIN)/aq-score collect --ranges $(RANGES) --cells $(P)/cells.json $(STORE); touch $@
# The empty recipe makes make look at the file's time again: scores that did not change stop the chain. When only
# looking, nothing changes, and an older file is not something to do.
$(SCORES): $(if $(LOOKING),|) $(COLLECTED) ;

# A line for each of hundreds of cells would scroll away all others: V=1 has them.
cell_say = $(if $(V),printf '  %-8s %s\n' '$(1)' '$(2)';,@)
# $(1): directory/scheme. Its only common warning, a budget that the cell cannot reach, is one line at the end for all cells.
do_select = $(call cell_say,SELECT,$(1))$(AQ_BIN)/aq-select $(if $(V),,-q )--state $(1)_autoquant_state.pt \
	-o $(1)_quant_manifest.json $(dir $(1))scores.json
do_report = $(call cell_say,REPORT,$(dir $(1)))$(AQ_BIN)/aq-report --all $(dir $(1)) --engine $(SERVED_BY) $(1)_quant_manifest.json
define cell_rule
$(1)_quant_manifest.json $(1)_autoquant_state.pt &: $(dir $(1))scores.json $(ARGS)/select ; $$(call do_select,$(1))
$(dir $(1))report.html: $(1)_quant_manifest.json $(ARGS)/report ; $$(call do_report,$(1))

endef
$(eval $(foreach s,$(SCHEMES),$(call cell_rule,$(P)/$(s))))
again := $(sort $(dir $(call gone,$(parts))))
ifneq ($(again),)
$(again:%=%report.html): FORCE
endif

# Products that also belong elsewhere: run.json says where, and .published is a link to the manifest there.
COPIES := $(PUBLISHED:%=$(P)/%/.published)
ifneq ($(COPIES),)
$(COPIES): $(P)/%/.published: $(P)/%/report.html $(P)/%/composed-config.yaml $(P)/%/run.json
	$(call say,PUBLISH,$*)$(PIPELINES)/publish $(P)/$*
endif

# The pages over all cells take one process each: they come first, so that under -j the reports of cells are made beside them. While a
# manifest is missing make passes the pages over and would start every report before it looks at them again: reports wait for the last
# one, but under -k, where a cell that fails keeps no other from its report.
ifeq ($(findstring k,$(make_letters)),)
.PHONY: chosen
chosen: $(MANIFESTS)
$(REPORTS): | chosen
endif
sweep: $(CONFIGURED) $(if $(MANIFESTS),$(P)/explore.html) $(P)/summary.md $(P)/summary.tsv $(P)/summary.html $(REPORTS) $(COPIES)
# a recipe of a phony target would always be something to do: under -q there is none
ifeq ($(findstring q,$(looking_only)),)
sweep: ; @echo '$(words $(SCORES)) cells, $(words $(UNSUPPORTED)) unsupported: $(P)/summary.md'$(if $(findstring s,$(make_letters)),,; \
	  $(PIPELINES)/show-summary $(P)/summary.tsv)
	$(if $(WHOLE),,@echo $(KEY) >$(ARGS)/whole; touch -d '1 second ago' $(ARGS)/whole)
endif
publish: sweep
	@jq -r '._aq.out_dir | gsub("[[:cntrl:]]"; "?")' $(PUBLISHED:%=$(P)/%/run.json) | sort -u

# Hundreds of names do not fit into one command: $(call names,FILE,WORDS) writes them for xargs, to a file of each recipe's own.
names = $(if $(LOOKING),,$(file >$(1),$(2)))
summary: $(P)/summary.md
$(P)/summary.md $(P)/summary.tsv $(P)/summary.html &: $(MANIFESTS) $(P)/cells.json $(ARGS)/report
	$(call names,$(P)/.manifests-summary,$(MANIFESTS))$(call say,SUMMARY,$(P))xargs -a $(P)/.manifests-summary \
	  $(AQ_BIN)/aq-report summary --all $(P) --cells $(P)/cells.json

explore: $(P)/explore.html $(P)/sweep.tsv
ifeq ($(findstring q,$(looking_only)),)
explore: ; @printf '%s\n' $^
endif
$(P)/explore.html: $(MANIFESTS) $(P)/cells.json $(ARGS)/report
	$(call names,$(P)/.manifests-explore,$(MANIFESTS))$(call say,EXPLORE,$@)xargs -a $(P)/.manifests-explore \
	  $(AQ_BIN)/aq-report explore --cells $(P)/cells.json -o $@
$(P)/sweep.tsv: $(MANIFESTS) $(P)/cells.json $(ARGS)/report
	$(call names,$(P)/.manifests-sweep,$(MANIFESTS))$(call say,TABLE,$@)xargs -a $(P)/.manifests-sweep \
	  $(AQ_BIN)/aq-report sweep --tsv --cells $(P)/cells.json -o $@

# ---- one recipe over all cells ----

BITS_DIR := $(P)/select/$(or $(BITS),default)
scores_of = $(patsubst %,$(P)/%/scores.json,$(filter %/$(1),$(CELLS)))
SELECTED := $(foreach s,$(SIZES),$(if $(call scores_of,$(s)),$(BITS_DIR)/$(s)/report.html))
# What is to be exported, or asked for as servable, is chosen among what the engine serves.
CHOSEN_FOR := $(or $(ENGINE),$(if $(filter servable,$(PAIRS))$(filter export,$(GOALS)),vllm))
menu_text := $(PAIR_NAMES) / $(GRANS) / $(MENU) / $(CHOSEN_FOR)
$(call stamp,$(ARGS)/menu-$(or $(BITS),default),menu_text)
select: $(SELECTED)
	@for f in $(SELECTED:report.html=*_quant_manifest.json); do \
	  jq -r --arg f "$$f" '"\($$f): \(.selection.effective_bits) bits, score \(.autoquant_state.score)"' "$$f"; done
define select_rule
$(BITS_DIR)/$(1)/report.html: $$(call scores_of,$(1)) $(MENU) $(ARGS)/select $(ARGS)/report $(ARGS)/menu-$(or $(BITS),default)
	$$(call names,$(P)/.scores-$(1),$$(call scores_of,$(1)))$$(call say,SELECT,$$(@D))mkdir -p $$(@D); rm -f $$(@D)/*_quant_manifest.json; \
	xargs -a $(P)/.scores-$(1) $(AQ_BIN)/aq-select $(if $(BITS),--effective-bits $(BITS)) $(if $(MENU),--menu $(MENU)) \
	  $(if $(CHOSEN_FOR),--engine $(CHOSEN_FOR)) --state $$(@D)/mixed_autoquant_lm_autoquant_state.pt \
	  -o $$(@D)/mixed_autoquant_lm_quant_manifest.json; \
	$(AQ_BIN)/aq-report --all $$(@D) --engine $(SERVED_BY) $$(@D)/mixed_autoquant_lm_quant_manifest.json
endef
$(foreach s,$(SIZES),$(if $(call scores_of,$(s)),$(eval $(call select_rule,$(s)))))

# ---- what a recipe costs on text that chose nothing ----

EVALS   := $(SELECTED:report.html=eval.json)
HELDOUT := $(P)/in/captions-heldout
ifneq ($(filter eval,$(GOALS)),)
# the same look at the link as for the captions of a size: what it says is text without odd letters
heldout := $(if $(LOOKING)$(STALE),,$(shell $(PIPELINES)/inputs $(P) heldout '$(DATASET)' heldout))
$(foreach w,$(filter error=%,$(heldout)),$(error no held-out text: $(subst |, ,$(patsubst error=%,%,$(w))); it is named like the \
captions of a size, for the size 'heldout'))
eval_text := $(shell $(AQ_BIN)/aq-eval --result-version | head -n 1) $(DTYPE)
$(call stamp,$(ARGS)/eval,eval_text)
endif
$(D)/heldout.safetensors: $(if $(LOOKING),$(wildcard $(HELDOUT)),$(HELDOUT)) $(tokenizer) $(ARGS)/calib-$(DATASET)
	$(call say,TOKENS,$@)mkdir -p $(@D); $(AQ_BIN)/aq-calib tokens --tokenizer $(CKPT) --seq-len $(SEQ_LEN) \
	  --padding none -o $@ --size heldout=$(HELDOUT)
ifneq ($(EVALS),)
$(EVALS): $(BITS_DIR)/%/eval.json: $(BITS_DIR)/%/report.html $(LM) $(RANGES) $(SOLVED) $(D)/heldout.safetensors $(ARGS)/eval
	$(call say,EVAL,$@)$(call heavy,$@.log,$(LAUNCH) $(AQ_BIN)/aq-eval --reference $(LM) --domain heldout=$(D)/heldout.safetensors \
	  --ranges $(RANGES) $(with_solved) --dtype $(DTYPE) --device $(DEVICE_SET) $(limits) -o $@ \
	  $(BITS_DIR)/$*/mixed_autoquant_lm_quant_manifest.json)
# the other directories are the shell's to list: their names are nobody's text
$(EVALS:.json=.html): %/eval.html: %/eval.json $(ARGS)/report
	$(call say,REPORT,$@)set --; for f in $(P)/select/*/$(notdir $*)/eval.json; do \
	    [ "$$f" = $< ] || [ ! -e "$$f" ] || set -- "$$@" --eval "$$f"; done; \
	  $(AQ_BIN)/aq-report --html --engine $(SERVED_BY) --eval $< "$$@" -o $@ $*/mixed_autoquant_lm_quant_manifest.json
endif
eval_says = .all | "\($$f): KL \(.kl.mean) +- \(.kl.se // "?") nats, " + \
	"perplexity \(.ppl) (reference \(.ppl_reference))"
eval: $(EVALS) $(EVALS:.json=.html)
	@for f in $(EVALS); do jq -r --arg f "$$f" '$(eval_says)' "$$f"; done

# One directory an engine; it exports again where the recipe, the checkpoint or the tool changed.
ENGINE_DIR := export-$(subst :,-,$(SERVED_BY))
EXPORTED   := $(SELECTED:report.html=$(ENGINE_DIR)/.done)
export_text := $(call version,export)
$(call stamp,$(ARGS)/export,export_text)
export: $(EXPORTED)
ifeq ($(findstring q,$(looking_only)),)
export: ; @printf '%s\n' $(EXPORTED:/.done=)
endif
ifneq ($(EXPORTED),)
$(EXPORTED): $(BITS_DIR)/%/$(ENGINE_DIR)/.done: $(BITS_DIR)/%/report.html $(LM) $(RANGES) $(SOLVED) $(ARGS)/export
	$(call say,EXPORT,$(@D))rm -rf $(@D); $(if $(filter llamacpp%,$(ENGINE)),mkdir -p $(@D); )$(AQ_BIN)/aq-export \
	  --engine $(SERVED_BY) --lm $(LM) --ranges $(RANGES) $(with_solved) -o $(@D)$(if $(filter llamacpp%,$(ENGINE)),/model.gguf) \
	  $(BITS_DIR)/$*/mixed_autoquant_lm_quant_manifest.json; touch $@
endif

# ---- looking and cleaning ----

plan:
	@printf '%s cells in %s, %s of them unsupported\n' '$(words $(RUNS))' '$(P)' '$(words $(UNSUPPORTED))'; \
	$(if $(CELLS),printf '  %s\n' $(CELLS);) \
	$(if $(UNSUPPORTED),printf '  %s (unsupported)\n' $(UNSUPPORTED);) \
	$(if $(SOLVED),printf '%s\n' 'aq-calib solve finds the numbers of $(words $(SOLVED_QUANTS)) calibrated treatments before$(if \
	$(wildcard $(SOLVED)), (those that are not there))';) \
	$(if $(CELLS),$(scratch); $(if $(STALE)$(call gone,$(QUANTS)),{ $(compose_scratch); } >/dev/null 2>&1;) \
	$(PIPELINES)/plan $(P) $(DATASET) "$$d" '$(or $(there),$(SIZES))' $(SEQ_LEN) $(PADDING) -- \
	  $(AQ_BIN)/aq-score $(score_options) $(if $(measuring),--measure $(RANGES)) -o $(STORE) $(QUANTS))

ifneq ($(filter clean-cell,$(GOALS)),)
ifeq ($(and $(CELL),$(filter $(CELL),$(CELLS) $(UNSUPPORTED))),)
$(error CELL=pair/granularity/size must name a cell of the sweep)
endif
endif
clean-cell:
	rm -rf $(P)/$(CELL)

endif # locked
endif # int8-phases, report-only
endif # help
