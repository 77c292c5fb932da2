#!/bin/bash
# fake_driver.sh OUT STUB -- makes OUT/libcuda.so.1 of fake_driver.c and, for every other function that
# NVIDIA's stub library STUB exports, one that fails. cuDNN then plans kernels that it compiles itself,
# without a GPU.
set -e
here=$(dirname "$0") out=$1 stub=$2
mkdir -p "$out"
grep -oE '\bcu[A-Z][A-Za-z0-9_]*\(' "$here/fake_driver.c" | tr -d '(' | sort -u >"$out/own"
{
  echo '/* made by fake_driver.sh */'
  nm -D --defined-only "$stub" | awk '$2 == "T" { print $3 }' | sort -u | comm -23 - "$out/own" |
    sed 's/.*/int &(void); int &(void) { return 801; }/'
} >"$out/stubs.c"
gcc -shared -fPIC -O1 -w -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1" "$here/fake_driver.c" "$out/stubs.c" -ldl
