# Sumi: `make demo` sets a fresh Debian machine up, trains on the sample data and opens with a report; `make test` tests.
# No configure step: `make` says what it found. Variables: PREFIX DESTDIR CC O (optimisation) SAN (sanitizers) BUILD BIN.
PREFIX  ?= /usr/local
DESTDIR ?=
BUILD   ?= build
BIN     ?= sumi
O       ?= -O3
ifeq ($(origin CC),default)
CC := gcc
endif

WARN    = -Wall -Wextra -Wshadow -Wmissing-prototypes -Werror
CFLAGS  = -std=c11 $(O) -g -fPIC -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp $(WARN) $(SAN) \
          $(shell pkg-config --cflags lua5.4 hdf5-serial 2>/dev/null) -DSUMI_LUADIR='"$(PREFIX)/share/lua/5.4"' -DSUMI_LIBDIR='"$(PREFIX)/lib/sumi"'
LDLIBS  = $(shell pkg-config --libs hdf5-serial 2>/dev/null) -ldnnl -ljpeg -lpng -lwebp -lz \
          -lgomp -lpthread -ldl -lm
LUALIB  = $(shell pkg-config --libs lua5.4 2>/dev/null)

SRC   = $(wildcard runtime/*.c runtime/*/*.c nn/*.c lua/*.c)
OBJ   = $(SRC:%.c=$(BUILD)/%.o)
CORE  = $(filter-out $(BUILD)/lua/main.o,$(OBJ))
TESTS = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/test_*.c))

.PHONY: all demo test bench install uninstall asan deps test-deps found clean

all: found $(BIN) $(BUILD)/core.so plugins

# ---- what a build needs: header to look for, Debian package, what it is for ----
NEEDS = lua5.4/lua.h:liblua5.4-dev:Lua hdf5/serial/hdf5.h:libhdf5-dev:HDF5 oneapi/dnnl/dnnl.h:libdnnl-dev:oneDNN \
        jpeglib.h:libjpeg62-turbo-dev:JPEG png.h:libpng-dev:PNG webp/decode.h:libwebp-dev:WebP zlib.h:zlib1g-dev:zlib
TOOLS = gcc:build-essential pkg-config:pkg-config gnuplot:gnuplot-nox h5ls:hdf5-tools lua5.4:lua5.4

found:
	@ok=1; for need in $(NEEDS); do IFS=: read -r header package name <<<"$$need"; \
	  if echo "#include <stdio.h>" | cat - <(echo "#include <$$header>") | $(CC) $(CFLAGS) -w -fsyntax-only -x c - 2>/dev/null; \
	  then printf '  found   %s\n' "$$name"; \
	  else printf '  absent  %-8s apt install %s (or: make deps)\n' "$$name" "$$package"; ok=0; fi; done; \
	for tool in $(TOOLS); do IFS=: read -r program package <<<"$$tool"; \
	  command -v "$$program" >/dev/null || printf '  absent  %-8s apt install %s (or: make deps)\n' "$$program" "$$package"; done; \
	[ $$ok = 1 ]
found: SHELL = /bin/bash
found: found-cuda

# apt-get, only for what is missing, with sudo when we are not root
DEPS      = build-essential pkg-config liblua5.4-dev lua5.4 libhdf5-dev libdnnl-dev libjpeg62-turbo-dev libpng-dev \
            libwebp-dev zlib1g-dev gnuplot-nox hdf5-tools
TEST_DEPS = python3 python3-h5py
apt = missing=; for p in $(1); do dpkg -s $$p 2>/dev/null | grep -q '^Status: install ok installed' || missing="$$missing $$p"; done; \
  if [ -n "$$missing" ]; then echo "  installing$$missing"; \
    [ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; export DEBIAN_FRONTEND=noninteractive; \
    $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

deps:
	@command -v apt-get >/dev/null || { echo "no apt-get here; Sumi needs: $(DEPS)"; exit 1; }
	@$(call apt,$(DEPS))
test-deps: deps
	@$(call apt,$(TEST_DEPS))

# ---- building ----
$(BIN): $(OBJ)
	@echo "  link    $@"
	@$(CC) $(SAN) -rdynamic -o $@ $^ $(LUALIB) $(LDLIBS)

# The module for a stock lua5.4, which brings its own liblua.
$(BUILD)/core.so: $(CORE)
	@echo "  link    $@"
	@$(CC) $(SAN) -shared -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  cc      $<"
	@$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
-include $(OBJ:.o=.d)

$(BUILD)/tests/%: tests/%.c $(CORE)
	@mkdir -p $(@D)
	@echo "  link    $@"
	@$(CC) $(CFLAGS) -o $@ $< $(CORE) $(LUALIB) $(LDLIBS)

include cuda/cuda.mk

# ---- using ----
demo: deps
	@$(MAKE) --no-print-directory -j2 all
	./$(BIN) run experiments/cyclegan.lua scale=demo --variant demo --fresh
	./$(BIN) report cyclegan/demo

test: test-deps
	@$(MAKE) --no-print-directory -j2 all $(TESTS)
	@BUILD=$(BUILD) SUMI=./$(BIN) tests/run

bench: all
	./$(BIN) bench

# The whole suite under AddressSanitizer and UndefinedBehaviorSanitizer, in a build of its own.
asan: test-deps
	@mkdir -p build-asan/bin && ln -sfn ../../lua build-asan/bin/lua && ln -sfn ../../tests build-asan/bin/tests
	@$(MAKE) --no-print-directory -j2 BUILD=build-asan BIN=build-asan/bin/sumi O=-O1 \
	  SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" all asan-tests
	@ASAN_OPTIONS=detect_leaks=0 BUILD=build-asan SUMI=build-asan/bin/sumi tests/run
asan-tests: $(TESTS)

LIBDIR = $(DESTDIR)$(PREFIX)/lib/lua/5.4/sumi
PLUGDIR = $(DESTDIR)$(PREFIX)/lib/sumi
SHARE  = $(DESTDIR)$(PREFIX)/share/lua/5.4/sumi
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(LIBDIR) $(SHARE) $(DESTDIR)$(PREFIX)/share/doc/sumi
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/sumi
	install -m 755 $(BUILD)/core.so $(LIBDIR)/core.so
	for so in $(filter-out %_emu.so,$(PLUGINS)); do install -D -m 755 -t $(PLUGDIR) $$so; done
	install -m 644 lua/sumi/*.lua $(SHARE)
	install -m 644 README.md LICENSE $(DESTDIR)$(PREFIX)/share/doc/sumi
uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/bin/sumi $(LIBDIR) $(PLUGDIR) $(SHARE) $(DESTDIR)$(PREFIX)/share/doc/sumi

clean:
	rm -rf build build-asan sumi libsumi_*.so
