# qwen3.mk -- sweep.mk under the names of the Qwen3 workflow: preset and experiment qwen3_lm_sensitivity.
#
#   make -f pipelines/qwen3.mk PAIRS="wfp8_afp8 wint8_aint8" SIZES=small
#   make -f pipelines/qwen3.mk help
face  := qwen3_lm_sensitivity
front := $(lastword $(MAKEFILE_LIST))
include $(dir $(front))sweep.mk
