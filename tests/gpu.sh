#!/bin/bash
# gpu.sh -- checks and measures Sumi on the GPU of this machine: in a checkout after `make`, or in
# the folder that `make gpu-bundle` fills, which needs nothing but a driver (and finds cuDNN and
# cuBLASLt in a Python's wheels or a toolkit).
#   [OUT=DIR] [SUMI_GPU_SECONDS=N] tests/gpu.sh [PART...]
# Parts: about props ops goldens replay resume faults sanitizer bench; without any: all.
# The checks run side by side, a few at once; then, alone, the bench. Together they take
# SUMI_GPU_SECONDS (530) at most: every part has a limit of its own and what is left; one that is cut short,
# or that has no time left at all, has failed. Logs and tables go to OUT (results/published/gpu), the
# whole of it as report.md. Ends with 'N passed, N failed, N skipped', and fails if anything failed or
# nothing ran. SUMI_GPU_DEVICE=emu runs everything on the emulator with tiny sizes, to try this script.
cd "$(dirname "$0")/.." || exit 1
DEVICE=${SUMI_GPU_DEVICE:-cuda}
OUT=${OUT:-results/published/gpu}
SUMI=${SUMI:-./sumi}
PYTHON=${SUMI_PEER_PYTHON:-python3}
TOTAL=${SUMI_GPU_SECONDS:-530}
PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
small=
[ "$DEVICE" = emu ] && small=small
passed=0 failed=0 skipped=0
wanted=" $* "
at_once=$(($(nproc) / 3))
[ $at_once -lt 1 ] && at_once=1
[ $at_once -gt 5 ] && at_once=5
mkdir -p "$OUT" || exit 1
SEED=$((RANDOM * 32768 + RANDOM))

say() { echo "$1" | tee -a "$OUT/summary.txt"; }
is_wanted() { [ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]]; }

# verdict NAME EXIT-CODE LOG: one line, and the counts of the log if it ends with some
verdict() {
  local counts p f s
  counts=$(grep -oE '[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$3" | tail -n 1)
  read -r p f s <<<"$(tr -cs 0-9 ' ' <<<"$counts")"
  if [ -z "$counts" ]; then
    p=0 f=1
    [ "$2" = 0 ] && p=1 f=0
  elif [ "$2" != 0 ] && [ "$f" = 0 ]; then
    f=1
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
  case $2 in
    124 | 137) say "FAILED  $1: cut short, out of time" ;;
    not-run) say "FAILED  $1: not run, out of time" ;;
    0) [ "$f" = 0 ] || say "FAILED  $1: $counts" ;;
    *) say "FAILED  $1: exit code $2, ${counts:-no counts}" ;;
  esac
  [ "$f" = 0 ] || { grep -E '^FAILED|ERROR' "$3" | head -n 10; tail -n 3 "$3"; } | tee -a "$OUT/summary.txt"
  say "$(printf '%-28s %5d passed  %d failed  %d skipped' "$1" "$p" "$f" "${s:-0}")"
}

# ---- parts: started a few at once, judged in order when all are done ----

names=() jobs=()

# Wait until fewer than $1 parts run.
until_below() {
  local running pid
  while :; do
    running=0
    for pid in "${jobs[@]}"; do kill -0 "$pid" 2>/dev/null && running=$((running + 1)); done
    [ $running -lt "$1" ] && return
    sleep 0.1
  done
}

# part NAME SECONDS COMMAND...
part() {
  local name=$1 seconds=$2 left
  shift 2
  is_wanted "${name%%-*}" || return 0
  until_below $at_once
  left=$((LIMIT - SECONDS))
  [ "$left" -lt "$seconds" ] && seconds=$left
  names+=("$name")
  : >"$OUT/$name.log"
  echo not-run >"$OUT/$name.code"
  [ "$seconds" -lt 3 ] && return
  { timeout -k 5 "$seconds" "$@" >"$OUT/$name.log" 2>&1 </dev/null; echo $? >"$OUT/$name.code"; } &
  jobs+=($!)
}

settle() {                              # judge what was started
  local name
  until_below 1
  for name in "${names[@]}"; do
    verdict "$name" "$(cat "$OUT/$name.code")" "$OUT/$name.log"
    rm -f "$OUT/$name.code"
  done
  names=() jobs=()
}

skip() {                                # NAME WHY
  is_wanted "$1" || return 0
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
rebuild() {                             # for this GPU alone: that is quick
  local arch
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  timeout 150 make -j"$(nproc)" BUILD=build BIN="$SUMI" ${arch:+CUDA_ARCHS="$arch"} plugins >"$OUT/rebuild.log" 2>&1 ||
    tail -n 3 "$OUT/rebuild.log"
}
state=$(why)
if [[ $state == *"does not load"* || $state == *"was built for"* ]] && [ -e cuda/cuda.mk ] && command -v nvcc >/dev/null; then
  say "the plug-in is built anew: $state"
  rebuild
  state=$(why)
fi
if [ "$state" != ready ]; then
  say "FAILED  no device '$DEVICE': $state"
  say "0 passed, 1 failed, 0 skipped"
  exit 6
fi

# ---- what the parts do ----

about() {
  "$SUMI" --version
  "$SUMI" doctor --color never
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>&1
  nvcc --version 2>&1 | tail -n 2
  "$PYTHON" -c 'import torch; print("torch", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())' 2>&1 | tail -n 1
  return 0
}

# Our own kernels, without cuDNN's: SUMI_CUDNN_DIR names a folder that has none.
sanitized() {                           # TOOL OP...
  local tool=$1 op code=0
  shift
  for op in "$@"; do
    SUMI_CUDNN_DIR=tests compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$SUMI" lua tests/ops.lua --device "$DEVICE" --op "$op" --values || code=1
  done
  return $code
}

faulty() {                              # what fails is told with code 6, leaves nothing, and the next run is well
  local clean fault first second
  clean=$("$SUMI" lua tests/device_child.lua "$DEVICE" 9 | head -n 1)
  echo "clean $clean"
  [[ $clean == *" ok "* ]] || return 1
  for fault in cuda_malloc:1 cuda_copy:5 cuda_launch:30 cuda_launch:100 cuda_lost:60; do
    { read -r first && read -r second; } < <(SUMI_FAULT=$fault "$SUMI" lua tests/device_child.lua "$DEVICE" 9)
    echo "$fault: $first; then $second"
    [[ $first == "0 "*" failed 6 "* ]] || return 1
    if [ $fault = cuda_lost:60 ]; then [[ $second == "0 "*" failed 6 "* ]] || return 1
    else [ "${second##* }" = "${clean##* }" ] || return 1; fi
  done
}

# PyTorch's compiler keeps what it makes on disk: made here meanwhile, it need not be made while we measure.
warm_up() {
  local case
  for case in dcgan64:128 pix2pix256 cyclegan256 cyclegan256:16; do
    nice "$PYTHON" tests/bench/peer_gpu.py $case compile 1 || return
  done
}
export -f about sanitized faulty warm_up
export SUMI DEVICE OUT PYTHON
export SUMI_PEER_PYTHON=$PYTHON

# ---- all of them ----

LIMIT=$TOTAL
has_torch=$(timeout 60 "$PYTHON" -c 'import torch; print(1)' 2>/dev/null)
if is_wanted bench; then
  LIMIT=$((SECONDS + (TOTAL - SECONDS) * 4 / 10))
  if [ -z "$small" ] && [ -n "$has_torch" ]; then
    timeout "$((LIMIT - SECONDS))" bash -c warm_up >"$OUT/warm_up.log" 2>&1 </dev/null &
    warming=$!
  fi
fi

part about 60 bash -c about
if [ -n "$has_torch" ] && [ -z "$small" ]; then part props 60 "$PYTHON" tests/bench/props.py "$OUT/props.json"
else skip props "cuDNN is asked through PyTorch, and there is none"; fi
if [ -n "$small" ]; then
  for op in add sum norm; do part ops-$op 60 "$SUMI" lua tests/ops.lua --device "$DEVICE" --op $op; done
  part ops-seed-$SEED 60 "$SUMI" lua tests/ops.lua --device "$DEVICE" --op conv --values --seed $SEED
  part replay-mlpgan 60 "$SUMI" lua tests/bench/bits.lua mlpgan:2 7 "$DEVICE" f32
else
  for case in cyclegan128 pix2pix256 dcgan64:16 mlpgan; do
    for precision in f32 bf16; do
      part replay-$case-$precision 120 "$SUMI" lua tests/bench/bits.lua $case 100 "$DEVICE" $precision
    done
  done
  for k in 1 2 3; do part ops-$k 180 "$SUMI" lua tests/ops.lua --device "$DEVICE" --part $k/3; done
  part ops-seed-$SEED 120 "$SUMI" lua tests/ops.lua --device "$DEVICE" --values --seed $SEED
  for op in conv conv_gx conv_gw; do
    part ops-own-$op 60 env SUMI_CUDNN_DIR=tests "$SUMI" lua tests/ops.lua --device "$DEVICE" --values --op $op
  done
fi
if [ -e experiments/cyclegan.lua ]; then part resume 150 "$SUMI" lua tests/crash_train.lua 2 "$DEVICE"
else skip resume "experiments/cyclegan.lua is not here"; fi
ls goldens/*.h5 >/dev/null 2>&1 || skip goldens "there are none beside this script"
for file in goldens/*.h5; do
  [ -e "$file" ] || continue
  name=$(basename "$file" .h5)
  [ -n "$small" ] && { [ "$name" = norms ] || [ "$name" = losses ] || continue; }
  part goldens-"$name" 90 "$SUMI" goldens --device "$DEVICE" "$file"
done
part faults 90 bash -c faulty
if command -v compute-sanitizer >/dev/null && [ -z "$small" ]; then
  part sanitizer-memcheck 90 bash -c 'sanitized memcheck norm sum conv matmul adam'
  part sanitizer-racecheck 90 bash -c 'sanitized racecheck norm sum matmul'
else
  skip sanitizer "no compute-sanitizer"
fi
settle
[ -n "$warming" ] && kill "$warming" 2>/dev/null && wait "$warming" 2>/dev/null

LIMIT=$TOTAL
part bench "$TOTAL" "$SUMI" lua tests/bench/gpu.lua "$DEVICE" "$OUT" $((TOTAL - SECONDS - 5)) $small
settle

[ -e "$OUT/bench.md" ] && cat "$OUT/bench.md"
say "$passed passed, $failed failed, $skipped skipped"
{ echo '```'; cat "$OUT/about.log" "$OUT/summary.txt"; echo '```'; echo; cat "$OUT/bench.md"; } >"$OUT/report.md" 2>/dev/null
[ "$failed" = 0 ] && [ $((passed + failed)) -gt 0 ]
