# coco.mk -- the calibration captions for real models, out of COCO 2017's annotations.
#
#   make -f pipelines/coco.mk COCO=annotations/captions_train2017.json
#
# Writes coco2017_captions_{small,medium,large}.txt (16, 128 and 512 lines, each the beginning of the next) to
# OUT=datasets/vlm-quantize-calib. Needs jq, and about 0.5 GB of memory for the real file.

PIPELINE_KNOBS := COCO OUT
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk
override OUT := $(or $(OUT),datasets/vlm-quantize-calib)
.DEFAULT_GOAL := captions
.PHONY: captions

ifeq ($(COCO),)
$(error COCO is not set: make -f pipelines/coco.mk COCO=annotations/captions_train2017.json)
endif
$(call check_path,COCO,$(COCO))
$(call check_path,OUT,$(OUT))
ifeq ($(wildcard $(COCO)),)
$(error COCO='$(COCO)': no such file (captions_train2017.json is in annotations_trainval2017.zip of cocodataset.org))
endif

large := $(OUT)/coco2017_captions_large.txt
parts := $(OUT)/coco2017_captions_small.txt $(OUT)/coco2017_captions_medium.txt

captions: $(large) $(parts)

$(call stamp,$(OUT)/.coco,COCO)

$(large): $(COCO) $(PIPELINES)/coco.jq $(OUT)/.coco
	$(call say,JQ,$@)jq -r -s -f $(PIPELINES)/coco.jq $(COCO) >$@.new || { s=$$?; rm -f $@.new; exit $$s; }; mv $@.new $@

$(OUT)/coco2017_captions_small.txt:  lines := 16
$(OUT)/coco2017_captions_medium.txt: lines := 128
$(parts): $(large)
	$(call say,HEAD,$@)head -n $(lines) $< >$@.new; mv $@.new $@
