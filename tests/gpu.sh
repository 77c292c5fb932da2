#!/bin/bash
# gpu.sh -- checks and measures Sumi on the GPU of this machine: in a checkout after `make`, or in
# the folder that `make gpu-bundle` fills, which needs nothing but a driver (and finds cuDNN and
# cuBLASLt in a Python's wheels or a toolkit).
#   [OUT=DIR] tests/gpu.sh [PART...]
# Parts: about ops goldens faults sanitizer replay bench; without any: all, in this order.
# Every part has its own time limit; its log and tables go to OUT (results/published/gpu). Ends with
# 'N passed, N failed, N skipped', and fails if anything failed or nothing ran. SUMI_GPU_DEVICE=emu
# runs everything on the emulator with tiny sizes, to try this script.
cd "$(dirname "$0")/.." || exit 1
DEVICE=${SUMI_GPU_DEVICE:-cuda}
OUT=${OUT:-results/published/gpu}
SUMI=${SUMI:-./sumi}
small=
[ "$DEVICE" = emu ] && small=small
passed=0 failed=0 skipped=0
wanted=" $* "
mkdir -p "$OUT" || exit 1

say() { echo "$1" | tee -a "$OUT/summary.txt"; }

# verdict NAME EXIT-CODE LOG: one line, and the counts of the log if it ends with some
verdict() {
  local counts p f s
  counts=$(grep -oE '[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$3" | tail -n 1)
  read -r p f s <<<"$(tr -cs 0-9 ' ' <<<"$counts")"
  if [ -z "$counts" ]; then
    p=$(($2 == 0)) f=$(($2 != 0))
  elif [ "$2" != 0 ] && [ "$f" = 0 ]; then
    f=1
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
  [ "$2" = 124 ] && say "FAILED  $1: out of time"
  if [ "$f" != 0 ]; then
    say "FAILED  $1: exit code $2, ${counts:-no counts}"
    { grep -E '^FAILED|ERROR' "$3" | head -n 10; tail -n 3 "$3"; } | tee -a "$OUT/summary.txt"
  fi
  say "$(printf '%-12s %5d passed  %d failed  %d skipped' "$1" "$p" "$f" "${s:-0}")"
}

# part NAME SECONDS COMMAND...
part() {
  local name=$1 seconds=$2
  shift 2
  [ "$wanted" = "  " ] || [[ $wanted == *" ${name%%-*} "* ]] || return 0
  timeout -k 10 "$seconds" "$@" >"$OUT/$name.log" 2>&1 </dev/null
  verdict "$name" $? "$OUT/$name.log"
}

skip() {                                # NAME WHY
  [ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]] || return 0
  say "skipped $1: $2"
  skipped=$((skipped + 1))
}

# ---- the program and the plug-in must start here ----
: >"$OUT/summary.txt"
if ! "$SUMI" --version >"$OUT/version.log" 2>&1; then
  say "FAILED  $SUMI does not start here: $(tail -n 1 "$OUT/version.log"); build it on this machine with make"
  say "0 passed, 1 failed, 0 skipped"
  exit 1
fi
why() {
  "$SUMI" lua /dev/stdin <<<"p = require('sumi.core').plugin('$DEVICE') io.write(p.ready and 'ready' or p.text)" 2>&1
}
state=$(why)
if [[ $state == *"does not load"* || $state == *"was built for"* ]] && [ -e cuda/cuda.mk ] && command -v nvcc >/dev/null; then
  say "the plug-in is built anew: $state"
  make -j"$(nproc)" BUILD=build BIN="$SUMI" plugins >"$OUT/rebuild.log" 2>&1 || tail -n 3 "$OUT/rebuild.log"
  state=$(why)
fi
if [ "$state" != ready ]; then
  say "FAILED  no device '$DEVICE': $state"
  say "0 passed, 1 failed, 0 skipped"
  exit 6
fi

about() {
  "$SUMI" --version
  "$SUMI" doctor --color never
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>&1
  nvcc --version 2>&1 | tail -n 2
  python3 -c 'import torch; print("torch", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())' 2>&1 | tail -n 1
  return 0
}

sanitized() {                           # TOOL OP...
  local tool=$1 op code=0
  shift
  for op in "$@"; do
    compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 9 \
      "$SUMI" lua tests/ops.lua --device "$DEVICE" --op "$op" || code=1
  done
  return $code
}

replayed() {                            # CASE STEPS PRECISION: steps replayed as a graph give the bits of played ones
  local played graph
  played=$(SUMI_REPLAY=0 "$SUMI" lua tests/bench/bits.lua "$1" "$2" "$DEVICE" "$3") || return 1
  graph=$("$SUMI" lua tests/bench/bits.lua "$1" "$2" "$DEVICE" "$3" 2>"$OUT/said") || return 1
  cat "$OUT/said"
  echo "$1 $3 played $played replayed $graph"
  [ -n "$played" ] && [ "$played" = "$graph" ] && ! grep -q . "$OUT/said"
}
faulty() {                              # what fails is told with code 6, leaves nothing, and the next run is well
  local clean fault first second
  clean=$("$SUMI" lua tests/device_child.lua "$DEVICE" 9 | head -n 1)
  echo "clean $clean"
  [[ $clean == *" ok "* ]] || return 1
  for fault in cuda_malloc:1 cuda_copy:5 cuda_launch:30 cuda_launch:150 cuda_lost:60; do
    { read -r first && read -r second; } < <(SUMI_FAULT=$fault "$SUMI" lua tests/device_child.lua "$DEVICE" 9)
    echo "$fault: $first; then $second"
    [[ $first == "0 "*" failed 6 "* ]] || return 1
    if [ $fault = cuda_lost:60 ]; then [[ $second == "0 "*" failed 6 "* ]] || return 1
    else [ "${second##* }" = "${clean##* }" ] || return 1; fi
  done
}
export -f about sanitized replayed faulty
export SUMI DEVICE OUT

part about 60 bash -c about
if [ -n "$small" ]; then
  for op in add sum norm; do part ops-$op 60 "$SUMI" lua tests/ops.lua --device "$DEVICE" --op $op; done
else
  part ops 150 "$SUMI" lua tests/ops.lua --device "$DEVICE"
fi
ls goldens/*.h5 >/dev/null 2>&1 || skip goldens "there are none beside this script"
for file in goldens/*.h5; do
  [ -e "$file" ] || continue
  name=$(basename "$file" .h5)
  [ -n "$small" ] && { [ "$name" = norms ] || [ "$name" = losses ] || continue; }
  part goldens-"$name" 60 "$SUMI" goldens --device "$DEVICE" "$file"
done
part faults 60 bash -c faulty
if command -v compute-sanitizer >/dev/null && [ -z "$small" ]; then
  part sanitizer-memcheck 60 bash -c 'sanitized memcheck norm sum conv matmul adam'
  part sanitizer-racecheck 60 bash -c 'sanitized racecheck norm sum matmul'
else
  skip sanitizer "no compute-sanitizer"
fi
if [ -n "$small" ]; then
  part replay-mlpgan 60 bash -c 'replayed mlpgan:2 7 f32'
else
  for case in mlpgan dcgan64:16 pix2pix256 cyclegan128; do
    for precision in f32 bf16; do part replay-$case-$precision 60 bash -c "replayed $case 100 $precision"; done
  done
fi
part bench 540 "$SUMI" lua tests/bench/gpu.lua "$DEVICE" "$OUT" $small

[ -e "$OUT/bench.md" ] && cat "$OUT/bench.md"
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ $((passed + failed)) -gt 0 ]
