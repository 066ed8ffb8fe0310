# Conventions that every pipeline shares; included first, before anything is expanded.

# Knobs are data, never make or shell text: their raw value is taken before the first expansion, so that
# PAIRS='$(shell ...)' is a wrong name and not a command. LAUNCH is a command by meaning: shell text, not make's.
KNOBS := PAIRS GRANS SIZES MODEL DATASET LAYOUT OVERRIDES EXPERIMENT DEVICE SHARDS BITS OUTPUT_DIR STRICT CELL OUTPUT_MODE MENU \
	ENGINE MEMORY THREADS STOP quant_pair quant_granularity dataset.size output_layout runner.report_only runner.output_dir \
	AQ_BIN AQ_CONF TMP_ROOT LAUNCH V $(PIPELINE_KNOBS)
PAIRS_GIVEN := $(origin PAIRS)
$(foreach k,$(KNOBS),$(eval override $(k) := $$(value $(k))))

# One locale for all that runs here: sorting, numbers and classes of characters do not depend on who starts it.
export LC_ALL := C

# A word that nothing reads would be left out in silence, and a wrong or a far too large sweep begin.
typed    := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
stray    := $(firstword $(filter-out $(KNOBS) MAKEFLAGS MAKEFILES MAKEOVERRIDES -*,$(typed)))
singular := $(firstword $(filter PAIR GRAN SIZE OVERRIDE SHARD,$(typed)))
ifneq ($(singular),)
$(error '$(singular)' is not a variable here: did you mean $(singular)S?)
endif
ifneq ($(stray),)
$(error '$(stray)' is not a variable here: 'make -f $(firstword $(MAKEFILE_LIST)) help' lists them; to change the configuration \
give OVERRIDES="$(stray)=...")
endif

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules
MAKEOVERRIDES :=
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

# $(call odd,TEXT): what is left of it without the letters that paths in rules and recipes may have
plain := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z \
	0 1 2 3 4 5 6 7 8 9 _ . + - / @
odd    = $(strip $(eval rest := $$(1))$(foreach c,$(plain),$(eval rest := $$(subst $(c),,$$(rest))))$(rest))
# $(call check_path,NAME,TEXT)
check_path = $(if $(call odd,$(2))$(filter -%,$(firstword $(2)))$(word 2,$(2)),$(error $(1): a path of letters, digits, _ . + - / @ \
	is needed here$(comma) not '$(2)'))
comma     := ,

PIPELINES := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
$(call check_path,the directory of the pipelines,$(PIPELINES))
# The tools built beside these files, else those installed with them, else those of PATH.
override AQ_BIN := $(or $(AQ_BIN),$(firstword $(patsubst %/aq-score,%,$(wildcard $(PIPELINES)/../build/bin/aq-score \
	$(PIPELINES)/../../../bin/aq-score))),$(patsubst %/,%,$(dir $(shell command -v aq-score))))
override TMP_ROOT := $(or $(TMP_ROOT),tmp)
$(foreach v,AQ_BIN AQ_CONF TMP_ROOT,$(call check_path,$(v),$($(v))))

# The first word of MAKEFLAGS holds the one-letter flags, unless it is a variable or a long option.
make_letters := $(filter-out -%,$(firstword -$(MAKEFLAGS)))$(filter-out --%,$(filter -%,$(firstword -$(MAKEFLAGS))))
looking_only := $(strip $(foreach l,n q t,$(findstring $(l),$(make_letters))))
ifneq ($(findstring e,$(make_letters)),)
$(error make -e would let the environment replace variables of these files: give what is meant on the command line)
endif

say   = $(if $(V),,@$(if $(findstring s,$(make_letters)),,printf '  %-8s %s\n' '$(1)' '$(2)';))
# For the one place where values become arguments of a command: $(shell) of pipelines/settings and the like.
quote = '$(subst ','\'',$(1))'

# Before a make below this one: its own messages go where those of the make above it go (pipelines/aq).
below = if [ -n "$${AQ_SAID:-}" ]; then exec 2>>"$$AQ_NOTES.make"; export AQ_SAY=$$AQ_SAID; fi;

# $(call stamp,FILE,VARIABLE): a file that is out of date exactly when its text differs from the variable's, whose words
# are checked ones.
define stamp_rule
$(1): $$(if $$(subst |$$($(2))|,,|$$(file <$(1))|),FORCE)
	@mkdir -p $$(@D); printf '%s\n' '$$($(2))' >$$@
endef
stamp = $(eval $(call stamp_rule,$(1),$(2)))

# A heavy command keeps its messages in a log beside the product, and shows their end if it fails; its progress goes to the terminal.
# $(call heavy,LOG,COMMAND)
heavy = mkdir -p $(dir $(1)); : >$(1); $(2) --log $(1) || { s=$$?; tail -n 20 $(1) >&2; echo 'the whole log: $(1)' >&2; exit $$s; }
