# Conventions that every pipeline shares; included first, before anything is expanded.

# Knobs are data, never make or shell text: their raw value is taken before the first expansion, so that
# PAIRS='$(shell ...)' is a wrong name and not a command.
KNOBS := PAIRS GRANS SIZES MODEL DATASET LAYOUT OVERRIDES EXPERIMENT DEVICE SHARDS BITS OUTPUT_DIR PRESET STRICT CELL OUTPUT_MODE \
	quant_pair quant_granularity dataset.size output_layout runner.report_only runner.output_dir
PAIRS_GIVEN := $(origin PAIRS)
$(foreach k,$(KNOBS),$(eval override $(k) := $$(value $(k))))

# A word that nothing reads would be left out in silence, and a wrong or a far too large sweep begin. Other
# variables in capitals may be meant for a make above this one.
typed    := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
capitals := $(foreach c,A B C D E F G H I J K L M N O P Q R S T U V W X Y Z _,$(c)%)
stray    := $(firstword $(filter-out $(KNOBS) $(capitals),$(typed)))
singular := $(firstword $(filter PAIR GRAN SIZE OVERRIDE SHARD,$(typed)))
ifneq ($(stray),)
$(error '$(stray)' is not a variable here: to change the configuration give OVERRIDES="$(stray)=...")
endif
ifneq ($(singular),)
$(error '$(singular)' is not a variable here: did you mean $(singular)S?)
endif

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: FORCE
FORCE:

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or newer is needed, this is $(MAKE_VERSION))
endif
ifneq ($(words $(CURDIR)),1)
$(error the path '$(CURDIR)' contains blanks, which make cannot handle: move the tree or start from a path without blanks)
endif

PIPELINES := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
# Built tools beside the tree, else the installed ones.
AQ_BIN    ?= $(if $(wildcard build/bin/aq-score),build/bin,$(patsubst %/,%,$(dir $(shell command -v aq-score))))
TMP_ROOT  ?= tmp
LAUNCH    ?=
V         ?=

# The first word of MAKEFLAGS holds the one-letter flags, unless it is a variable or a long option.
make_letters := $(filter-out -%,$(firstword -$(MAKEFLAGS)))$(filter-out --%,$(filter -%,$(firstword -$(MAKEFLAGS))))
looking_only := $(strip $(foreach l,n q t,$(findstring $(l),$(make_letters))))

say   = $(if $(V),,@$(if $(findstring s,$(make_letters)),,printf '  %-8s %s\n' '$(1)' '$(2)';))
quote = '$(subst ','\'',$(1))'

# $(call stamp,FILE,VARIABLE): a file that is out of date exactly when its text differs from the variable's.
define stamp_rule
$(1): $$(if $$(subst |$$($(2))|,,|$$(file <$(1))|),FORCE)
	@mkdir -p $$(@D); printf '%s\n' $$(call quote,$$($(2))) >$$@
endef
stamp = $(eval $(call stamp_rule,$(1),$(2)))

# A heavy command keeps its messages beside the product and shows their end if it fails.
# $(call heavy,LOG,COMMAND)
heavy = mkdir -p $(dir $(1)); $(2) 2>$(1) || { s=$$?; tail -n 20 $(1) >&2; echo 'the whole log: $(1)' >&2; exit $$s; }
