# cuda.mk -- the plug-ins, included by the Makefile: libsumi_emu.so by g++ anywhere, libsumi_cuda.so
# where nvcc is. They lie beside core.so and beside the program. Variables: NVCC CUDA_ARCHS (e.g.
# CUDA_ARCHS=90). Kernels have nothing of one architecture, so each is compiled once to PTX of the
# least of them, which travels too, for newer GPUs, and from there to every one.
NVCC       ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCHS ?= 80 86 89 90 100 120

CU_KERNELS := $(filter-out cuda/rt_cuda.cu,$(wildcard cuda/*.cu))
CU_DEVICE  := cuda/device.cpp cuda/graph.cpp cuda/merge.cpp
BINDIR     := $(patsubst %/,%,$(dir $(BIN)))

# ---- the emulator: the same kernels, compiled as C++ ----
EMU_SRC   = $(CU_KERNELS) $(CU_DEVICE) $(wildcard cuda/emu/*.cpp)
EMU_FLAGS = -std=c++17 -g -fPIC -fvisibility=hidden -DSUMI_EMU -Wall -Wextra -Werror
EMU_OBJ   = $(EMU_SRC:%=$(BUILD)/emu/%.o)
ASAN_OBJ  = $(EMU_SRC:%=$(BUILD)/emu-asan/%.o)
PLUGINS   = $(BUILD)/libsumi_emu.so
PLUG_LINK = --version-script=cuda/plugin.map

$(BUILD)/emu/%.o: % cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  c++     $<"
	@$(CXX) $(EMU_FLAGS) -O2 $(SAN) -MMD -MP -x c++ -c -o $@ $<
$(BUILD)/emu-asan/%.o: % cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  c++     $< (asan)"
	@$(CXX) $(EMU_FLAGS) -O2 -fno-omit-frame-pointer -fsanitize=address -MMD -MP -x c++ -c -o $@ $<

# Renamed into place: a program that has the old one loaded keeps it.
$(BUILD)/libsumi_emu.so: $(EMU_OBJ)
	@echo "  link    $@"
	@$(CXX) $(SAN) -shared $(PLUG_LINK:%=-Wl,%) -o $@.new $^ && mv -f $@.new $@
$(BUILD)/emu-asan/libsumi_emu.so: $(ASAN_OBJ)
	@echo "  link    $@"
	@$(CXX) -fsanitize=address -shared $(PLUG_LINK:%=-Wl,%) -o $@.new $^ && mv -f $@.new $@
-include $(EMU_OBJ:.o=.d) $(ASAN_OBJ:.o=.d)

# ---- CUDA ----
ifneq ($(NVCC),)
PLUGINS  += $(BUILD)/libsumi_cuda.so
CUDNN_H  := $(shell echo '\#include <cudnn.h>' | $(NVCC) -x c -E - >/dev/null 2>&1 && echo 1)
SMALLER  := $(shell $(NVCC) --help 2>/dev/null | grep -q -e --compress-mode && echo --compress-mode=size)
NV_FLAGS  = -std=c++17 -O3 --Werror all-warnings -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden -cudart static \
            $(SMALLER) $(if $(CUDNN_H),-DSUMI_HAVE_CUDNN)
COMMA    := ,
SPACE    := $(subst ,, )
NV_LEAST  = compute_$(firstword $(CUDA_ARCHS))
NV_ARCHS  = -gencode 'arch=$(NV_LEAST),code=[$(subst $(SPACE),$(COMMA),$(CUDA_ARCHS:%=sm_%) $(NV_LEAST))]'
NV_HOST   = $(filter-out cuda/fake_%,$(wildcard cuda/*.cpp))
NV_OBJ    = $(CU_KERNELS:%=$(BUILD)/%.o) $(NV_HOST:%=$(BUILD)/%.o) $(BUILD)/cuda/rt_cuda.cu.o

# What ptxas says of each kernel (registers, spills) stays in the .log: tests/test_cuda_build.sh
# holds it against cuda/budget.txt.
$(BUILD)/cuda/%.cu.o: cuda/%.cu cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  nvcc    $<"
	@$(NVCC) $(NV_FLAGS) $(NV_ARCHS) --threads 2 -Xptxas -v -MMD -MP -c -o $@ $< >$(@:.o=.log) 2>&1 || { cat $(@:.o=.log); exit 1; }
# No kernels in these: one architecture will do.
$(BUILD)/cuda/%.cpp.o: cuda/%.cpp cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  nvcc    $<"
	@$(NVCC) $(NV_FLAGS) -arch=sm_$(firstword $(CUDA_ARCHS)) -MMD -MP -x cu -c -o $@ $<
$(BUILD)/libsumi_cuda.so: $(NV_OBJ)
	@echo "  link    $@"
	@$(NVCC) -shared -cudart static -Xcompiler -static-libstdc++,-static-libgcc $(PLUG_LINK:%=-Xlinker %) -o $@.new $^ -ldl \
	  && mv -f $@.new $@
-include $(NV_OBJ:.o=.d)
endif

ifneq ($(BINDIR),$(BUILD))
$(BINDIR)/libsumi_%.so: $(BUILD)/libsumi_%.so
	@cp $< $@.new && mv -f $@.new $@
endif
plugins: $(PLUGINS) $(PLUGINS:$(BUILD)/%=$(BINDIR)/%)
.PHONY: plugins

found-cuda:
ifeq ($(NVCC),)
	@echo "  absent  nvcc     no libsumi_cuda.so: NVIDIA GPUs stay unused (its kernels are still tested, by libsumi_emu.so)"
else
	@echo "  found   nvcc: libsumi_cuda.so, for NVIDIA GPUs of sm_$(firstword $(CUDA_ARCHS)) and later"
ifeq ($(CUDNN_H),)
	@echo "  absent  cudnn.h  convolutions on NVIDIA GPUs will be Sumi's own, slower ones"
else
	@echo "  found   cudnn.h: convolutions on NVIDIA GPUs by cuDNN, where that is installed"
endif
endif
.PHONY: found-cuda

# ---- what a bare GPU machine needs, in one folder: a driver, and at best cuDNN and cuBLASLt in a Python's wheels, are all it must have.
# The program has its libraries inside, but for the C library, and goes without oneDNN (calls of it
# fail), so `cpu` lacks grouped convolutions and bf16 there. GOLDENS=DIR: reference values to take
# along. Then, over there: tests/gpu.sh ----
GPU     = $(BUILD)/gpu
GOLDENS ?= $(wildcard $(or $(SUMI_SHARED),../shared)/goldens)
CARRIED = lua5.4 hdf5 sz aec jpeg png webp z gomp
$(GPU)/sumi: $(OBJ)
	@mkdir -p $(GPU)
	@echo "  link    $@"
	@{ echo 'typedef struct { int major, minor, patch; const char *hash; unsigned cpu, gpu; } version;'; \
	   echo 'static const version none; const version *dnnl_version(void); const version *dnnl_version(void) { return &none; }'; \
	   nm -u $^ | grep -o 'dnnl_[a-z0-9_]*' | sort -u | grep -vx dnnl_version | sed 's/.*/int &(void); int &(void) { return 5; }/'; \
	 } >$(GPU)/without_dnnl.c
	@$(CC) -O1 -c -o $(GPU)/without_dnnl.o $(GPU)/without_dnnl.c
	@$(CC) -rdynamic -o $@ $^ $(GPU)/without_dnnl.o $(shell pkg-config --libs-only-L hdf5-serial) \
	  -Wl,-Bstatic $(CARRIED:%=-l%) -Wl,-Bdynamic -lpthread -ldl -lm
	@strip --strip-debug $@ && rm $(GPU)/without_dnnl.*
gpu-bundle: $(GPU)/sumi $(PLUGINS)
	@rm -rf $(GPU)/tests $(GPU)/goldens $(GPU)/experiments && mkdir -p $(GPU)/tests $(GPU)/goldens $(GPU)/experiments/data
	@cp $(PLUGINS) $(GPU) && strip --strip-debug $(GPU)/libsumi_*.so
	@cp -r Makefile lua runtime nn cuda $(GPU)
	@cp -r tests/*.lua tests/gpu.sh tests/bench $(GPU)/tests
	@cp experiments/cyclegan.lua $(GPU)/experiments && cp -r experiments/data/photos experiments/data/comics $(GPU)/experiments/data
	@for name in ops norms losses optim nets; do \
	  [ -z "$(GOLDENS)" ] || [ ! -e "$(GOLDENS)/$$name.h5" ] || cp "$(GOLDENS)/$$name.h5" $(GPU)/goldens; done
	@chmod -R u+w $(GPU)
	@echo "  $(GPU): $$(du -sm $(GPU) | cut -f1) MB"; [ "$$(du -sm $(GPU) | cut -f1)" -lt 40 ]
.PHONY: gpu-bundle
