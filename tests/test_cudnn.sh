#!/bin/bash
# test_cudnn.sh -- cuDNN has a deterministic plan within our workspace for every convolution of every shipped experiment: all three
# directions in f32, tf32 and bf16, for the GPUs that tests/cudnn/*.json describe. No GPU is wanted: cuDNN plans for a description, and
# where it compiles kernels a fake driver (tests/cudnn/fake_driver.c) stands in. Skipped where cuDNN, its headers or the toolkit's
# stub of the driver are not there. VERBOSE=1 lists the plans.
cd "$(dirname "$0")/.." || exit 1
SUMI=${SUMI:-./sumi}
out=${BUILD:-build}/cudnn
mkdir -p "$out" || exit 1

skip() {
  echo "skipped: plans of cuDNN ($1)"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}

nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || skip "no nvcc"
toolkit=$(cd "$(dirname "$nvcc")/.." && pwd -P)
stub=$(ls "$toolkit"/lib64/stubs/libcuda.so "$toolkit"/targets/*/lib/stubs/libcuda.so 2>/dev/null | head -n 1)
[ -n "$stub" ] || skip "the toolkit has no stub of libcuda.so"
flags="-std=c++17 -O1 -g -Wall -Wextra -Werror -DSUMI_HAVE_CUDNN -I$toolkit/include"
echo '#include <cudnn.h>' | g++ $flags -fsyntax-only -x c++ - 2>/dev/null || skip "no cudnn.h"

bash tests/cudnn/fake_driver.sh "$out" "$stub" || exit 1
gcc -std=c11 -O1 -c -o "$out/base.o" runtime/base.c || exit 1
g++ $flags -o "$out/plans" tests/cudnn/plans.cpp cuda/library.cpp cuda/dnn_graph.cpp cuda/dnn_conv.cpp "$out/base.o" -ldl -lpthread || exit 1
"$out/plans" </dev/null >"$out/log" 2>&1
grep -q 'no cuDNN' "$out/log" && skip "$(grep -o 'no cuDNN.*' "$out/log" | head -n 1)"

"$SUMI" lua tests/cudnn/shapes.lua experiments/*.lua >"$out/shapes" || { cat "$out/shapes"; exit 1; }
LD_LIBRARY_PATH=$(cd "$out" && pwd):$LD_LIBRARY_PATH "$out/plans" tests/cudnn/*.json <"$out/shapes"
