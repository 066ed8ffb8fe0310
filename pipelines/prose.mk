# prose.mk -- long prose to calibrate on and to judge by: Jane Austen's novels out of Debian's package r-cran-janeaustenr.
#
#   make -f pipelines/prose.mk                  the package is downloaded with apt-get
#   make -f pipelines/prose.mk DEB=FILE.deb     or is there already
#
# Writes austen_{small,medium,large}.jsonl (16, 64 and 256 samples, each the beginning of the next; 131,072 tokens at the 512 of
# dataset=austen) and austen_heldout.jsonl (64 samples, 32,768 tokens, from two other novels) to OUT=datasets/austen, which is not
# under version control, and SOURCE with package, digest and licence. The text is checked against its digest. Needs python3 and
# dpkg-deb.
#
# Licence: the novels (1811 to 1818) are in the public domain; the package, which holds them as Project Gutenberg has them, is
# under the MIT licence.

PIPELINE_KNOBS := DEB OUT
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk
override OUT := $(or $(OUT),datasets/austen)
.DEFAULT_GOAL := prose
.PHONY: prose

PACKAGE := r-cran-janeaustenr
$(foreach v,DEB OUT,$(call check_path,$(v),$($(v))))
ifneq ($(DEB),)
ifeq ($(wildcard $(DEB)),)
$(error DEB='$(DEB)': no such file)
endif
endif

heldout := $(OUT)/austen_heldout.jsonl
large   := $(OUT)/austen_large.jsonl
parts   := $(OUT)/austen_small.jsonl $(OUT)/austen_medium.jsonl

prose: $(large) $(heldout) $(parts) $(OUT)/SOURCE

package := $(or $(DEB),$(OUT)/.package/$(PACKAGE).deb)
$(OUT)/.package/$(PACKAGE).deb:
	$(call say,FETCH,$(PACKAGE))mkdir -p $(@D); cd $(call quote,$(@D)); apt-get -qq download $(PACKAGE); mv $(PACKAGE)_*.deb $(@F)

$(large) $(heldout) $(OUT)/SOURCE &: $(package) $(PIPELINES)/austen
	$(call say,AUSTEN,$(OUT))$(PIPELINES)/austen $(call quote,$(package)) $(call quote,$(OUT))

$(OUT)/austen_small.jsonl:  lines := 16
$(OUT)/austen_medium.jsonl: lines := 64
$(parts): $(large)
	$(call say,HEAD,$@)head -n $(lines) $< >$@.new; mv $@.new $@
