# reports.mk -- reports from the manifests that exist. No rule here can make a manifest, so nothing here can start a
# scoring run, not even under -B. sweep.mk includes it for the goal `reports` and under runner.report_only=true.
# A report is rendered whatever its time says, and replaced where its bytes differ.

export P AQ_BIN MODEL DATASET EXPERIMENT LAYOUT PAIRS_GIVEN
export AQ_ENGINE := $(SERVED_BY)
export AQ_FACE := $(face)
listed := $(shell P='$(P)' AQ_BIN='$(AQ_BIN)' AQ_FACE='$(face)' MODEL='$(MODEL)' DATASET='$(DATASET)' EXPERIMENT='$(EXPERIMENT)' \
	LAYOUT='$(LAYOUT)' PAIRS_GIVEN='$(PAIRS_GIVEN)' AQ_CONF='$(CONF)' $(values) \
	$(PIPELINES)/reports list '$(PAIR_NAMES)' '$(GRANS)' '$(SIZES)')
$(foreach w,$(filter error=%,$(listed)),$(error $(subst |, ,$(patsubst error=%,%,$(w)))))

RENDERED := $(addprefix render/,$(listed))
.PHONY: $(RENDERED)
$(RENDERED): render/%:
	$(call say,REPORT,$*)$(PIPELINES)/reports render $*
$(GOALS): $(RENDERED)
