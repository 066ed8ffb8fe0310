# reports.mk -- reports from the manifests that exist. No rule here can make a manifest, so nothing here can start a
# scoring run, not even under -B. sweep.mk includes it for the goal `reports` and under runner.report_only=true.

comma := ,
commas = $(subst $() $(),$(comma),$(strip $(1)))
cell_dirs := $(foreach p,$(PAIRS),$(foreach g,$(GRANS),$(foreach s,$(SIZES),$(P)/$(p)/$(g)/$(s))))

ifeq ($(LAYOUT)$(OUTPUT_DIR),tmp)
REPORT_NAMES := per-layer-sensitivity.md per-layer-sensitivity.json per-layer-sensitivity.tsv report.html \
	heatmap.svg bars.svg frontier.svg depth.svg strip.svg
wanted := $(cell_dirs:%=%/*_quant_manifest.json)
else
# published directories hold the two reports of the workflow only; the configuration says where they are
REPORT_NAMES := per-layer-sensitivity.md per-layer-sensitivity.json
wanted := $(shell $(AQ_BIN)/aq-resolve --config-name preset/$(face) -q -m model=$(MODEL) dataset=$(DATASET) \
	experiment=$(EXPERIMENT) output_layout=$(LAYOUT) quant_pair=$(call commas,$(PAIRS)) quant_granularity=$(call commas,$(GRANS)) \
	dataset.size=$(call commas,$(SIZES)) $(if $(OUTPUT_DIR),runner.output_dir=$(call quote,$(OUTPUT_DIR))) \
	| jq -r '._aq.out_dir + "/" + ._aq.scheme_name + "_quant_manifest.json"')
endif

MANIFESTS := $(foreach w,$(wanted),$(wildcard $(w)))
# Cells that were asked for by name must be there; with the default of all pairs, those that exist are meant.
lacking := $(strip $(foreach w,$(wanted),$(if $(wildcard $(w)),,$(w))))
# Cells that cannot be had are not lacking.
ifneq ($(and $(lacking),$(wildcard $(P)/cells.json)),)
unsupported := $(shell jq -r '.cells[] | select(.supported | not) | .dir, .out_dir' $(P)/cells.json)
lacking := $(strip $(foreach w,$(lacking),$(if $(filter $(unsupported),$(patsubst %/,%,$(dir $(w)))),,$(w))))
endif
ifneq ($(and $(lacking),$(or $(filter-out undefined,$(PAIRS_GIVEN)),$(if $(MANIFESTS),,none))),)
$(error report-only was requested, but there is no manifest at: $(wordlist 1,5,$(lacking))$(if $(word 6,$(lacking)), and more))
endif

define report_rule
$(addprefix $(dir $(1)),$(REPORT_NAMES)) &: $(1)
	$$(call say,REPORT,$(dir $(1)))$(if $(filter report.html,$(REPORT_NAMES)),$(AQ_BIN)/aq-report --all $(dir $(1)) $(1),\
	$(AQ_BIN)/aq-report --md -o $(dir $(1))per-layer-sensitivity.md $(1); \
	$(AQ_BIN)/aq-report --json -o $(dir $(1))per-layer-sensitivity.json $(1))
endef
$(foreach m,$(MANIFESTS),$(eval $(call report_rule,$(m))))

$(GOALS): $(foreach m,$(MANIFESTS),$(addprefix $(dir $(m)),$(REPORT_NAMES)))
