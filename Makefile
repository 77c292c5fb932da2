# Sumi: `make demo` sets a fresh Debian machine up, trains and reports; `make test` tests. No configure step.
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= gcc
BUILD   ?= build
O       ?= -O3

DEPS = build-essential pkg-config liblua5.4-dev lua5.4 lua-cjson libhdf5-dev libdnnl-dev \
       libjpeg62-turbo-dev libpng-dev libwebp-dev zlib1g-dev gnuplot-nox hdf5-tools

WARN    = -Wall -Wextra -Wshadow -Wmissing-prototypes -Werror
CFLAGS  = -std=c11 $(O) -g -fPIC -fvisibility=default -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp $(WARN) $(SAN) \
          $(shell pkg-config --cflags lua5.4 hdf5-serial 2>/dev/null) -DSUMI_LUADIR='"$(PREFIX)/share/lua/5.4"'
LDLIBS  = $(shell pkg-config --libs hdf5-serial 2>/dev/null) -lhdf5_serial_hl -ldnnl -ljpeg -lpng -lwebp -lz \
          -lgomp -lpthread -ldl -lm
LUALIB  = $(shell pkg-config --libs lua5.4 2>/dev/null)

SRC  = $(wildcard runtime/*.c runtime/*/*.c nn/*.c lua/*.c)
OBJ  = $(SRC:%.c=$(BUILD)/%.o)
CORE = $(filter-out $(BUILD)/lua/main.o,$(OBJ))

.PHONY: all demo test bench install uninstall asan deps clean module
all: sumi module

sumi: $(OBJ)
	@echo "  link  $@"
	@$(CC) $(SAN) -rdynamic -o $@ $^ $(LUALIB) $(LDLIBS)

# The module for a stock lua5.4, which brings its own liblua.
module: $(BUILD)/core.so
$(BUILD)/core.so: $(CORE)
	@echo "  link  $@"
	@$(CC) $(SAN) -shared -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  cc    $<"
	@$(CC) $(CFLAGS) -MMD -c -o $@ $<
-include $(OBJ:.o=.d)

clean:
	rm -rf build build-* sumi
