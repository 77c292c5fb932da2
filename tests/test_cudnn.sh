#!/bin/bash
# test_cudnn.sh -- convolutions by cuDNN and products by cuBLASLt, without a GPU. Two halves:
#
# Around them: what dnn.cu and blas.cu do before and behind the libraries' kernels, in the emulator over
# libraries that are plain loops (tests/cudnn/fake_*.cpp), by the op harness against ref. Wants g++ and the
# emulator's objects ($BUILD/emu).
#
# Plans: the real cuDNN has a deterministic plan within our workspace for every convolution of every shipped
# experiment, all three directions in f32, tf32 and bf16, for the GPUs that tests/cudnn/*.json describe.
# Where it compiles kernels a fake driver (tests/cudnn/fake_driver.c) stands in. Skipped where cuDNN, its
# headers or the toolkit's stub of the driver are not there. VERBOSE=1 lists the plans.
cd "$(dirname "$0")/.." || exit 1
SUMI=${SUMI:-./sumi}
BUILD=${BUILD:-build}
out=$BUILD/cudnn
passed=0 failed=0 skipped=0
mkdir -p "$out" || exit 1

skip() {
  echo "skipped: $1 ($2)"
  skipped=$((skipped + 1))
}

# count NAME COMMAND...: adds up what the command counts; a command that does not count has failed.
count() {
  local name=$1 counts p f s
  shift
  "$@" >"$out/log" 2>&1
  counts=$(grep -oE '[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$out/log" | tail -n 1)
  read -r p f s <<<"$(tr -cs 0-9 ' ' <<<"$counts")"
  grep -E '^(FAILED|skipped|  |cuDNN)' "$out/log"
  if [ -z "$counts" ]; then
    echo "FAILED  $name: $(tail -n 3 "$out/log" | tr '\n' ' ')"
    f=1
  fi
  passed=$((passed + ${p:-0})) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
}

# make_it NAME COMMAND...: silent where it works.
make_it() {
  local name=$1
  shift
  "$@" >"$out/log" 2>&1 && return
  echo "FAILED  $name: $(grep -m 1 error "$out/log" || tail -n 1 "$out/log")"
  failed=$((failed + 1))
  return 1
}

around() {
  local what="ops over played libraries" objects op
  objects=$(ls "$BUILD"/emu/cuda/*.o "$BUILD"/emu/cuda/emu/*.o 2>/dev/null | grep -vE '/(conv|dnn|matmul|blas)\.cu\.o$')
  [ -n "$objects" ] || { skip "$what" "no emulator in $BUILD"; return; }
  make_it "$what" g++ -std=c++17 -O2 -g -fPIC -fvisibility=hidden -DSUMI_EMU -DSUMI_PLAYED -DSUMI_HAVE_CUDNN -Wall -Wextra -Werror \
    -Itests/cudnn/played -shared -o "$out/libsumi_emu.so" -x c++ cuda/conv.cu tests/cudnn/fake_dnn.cpp cuda/matmul.cu tests/cudnn/fake_blas.cpp \
    -x none $objects -ldl || return
  for op in conv conv_gx conv_gw matmul linear; do
    count "$what: $op" env SUMI_TEST_CUDNN=1 SUMI_BACKEND_DIR="$out" "$SUMI" lua tests/ops.lua --op $op --device emu --values
  done
  count "$what: rows of a tensor" env SUMI_BACKEND_DIR="$out" "$SUMI" lua tests/cudnn/rows.lua emu
}

plans() {
  local what="plans of cuDNN" nvcc toolkit stub flags
  nvcc=$(readlink -f "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")
  [ -x "$nvcc" ] || { skip "$what" "no nvcc"; return; }
  toolkit=${nvcc%/bin/nvcc}
  stub=$(ls "$toolkit"/lib64/stubs/libcuda.so "$toolkit"/targets/*/lib/stubs/libcuda.so 2>/dev/null | head -n 1)
  [ -n "$stub" ] || { skip "$what" "the toolkit has no stub of libcuda.so"; return; }
  flags="-std=c++17 -O1 -g -Wall -Wextra -Werror -DSUMI_HAVE_CUDNN -I$toolkit/include"
  echo '#include <cudnn.h>' | g++ $flags -fsyntax-only -x c++ - 2>/dev/null || { skip "$what" "no cudnn.h"; return; }
  make_it "a fake driver" bash tests/cudnn/fake_driver.sh "$out" "$stub" &&
    make_it "$what" gcc -std=c11 -O1 -c -o "$out/base.o" runtime/base.c &&
    make_it "$what" g++ $flags -o "$out/plans" tests/cudnn/plans.cpp cuda/library.cpp cuda/dnn_graph.cpp cuda/dnn_conv.cpp \
      "$out/base.o" -ldl -lpthread || return
  "$out/plans" </dev/null 2>&1 | grep -q 'no cuDNN' && { skip "$what" "no cuDNN"; return; }
  "$SUMI" lua tests/cudnn/shapes.lua experiments/*.lua >"$out/shapes" 2>"$out/log" ||
    { echo "FAILED  the list of shapes: $(cat "$out/log")"; failed=$((failed + 1)); return; }
  count "$what" env LD_LIBRARY_PATH="$(cd "$out" && pwd):$LD_LIBRARY_PATH" bash -c '"$0" tests/cudnn/*.json <"$1"' "$out/plans" "$out/shapes"
}

around
plans
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
