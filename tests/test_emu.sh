#!/bin/bash
# test_emu.sh -- the CUDA kernels, run by the emulator under AddressSanitizer: the op harness and
# the reference values; and that the harness notices when barriers are left out. An op runs with all
# device memory forbidden but its operands (cuda/guard.h).
BUILD=${BUILD:-build} SUMI=${SUMI:-./sumi} SUMI_SHARED=${SUMI_SHARED:-../shared}
passed=0 failed=0 skipped=0

result() {                              # NAME OK DETAIL
  if [ "$2" = 1 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED  $1: $3"; fi
}
finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ $failed = 0 ]
  exit
}

asan=$(g++ -print-file-name=libasan.so)
log=$(mktemp) || exit 1
trap 'rm -f "$log" "$log.2"' EXIT
if ! make -s BUILD="$BUILD" BIN="$SUMI" "$BUILD/emu-asan/libsumi_emu.so" >"$log" 2>&1; then
  result "the emulator under AddressSanitizer is built" 0 "$(tail -n 3 "$log")"
  finish
fi

emu_sumi() {                            # under AddressSanitizer
  env LD_PRELOAD="$asan" ASAN_OPTIONS=detect_leaks=0 SUMI_BACKEND_DIR="$(realpath "$BUILD/emu-asan")" "$SUMI" "$@" </dev/null
}

# Adds the counts of the last line; a program that ends otherwise has failed.
count() {                               # NAME EXIT-CODE LOG
  local counts p f s log=$3
  counts=$(grep -oE '[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1)
  read -r p f s <<<"$(tr -cs 0-9 ' ' <<<"$counts")"
  grep '^FAILED' "$log" | sed "s/^FAILED /FAILED  $1:/" | head -n 20
  if [ -z "$counts" ] || { [ "$2" != 0 ] && [ "$f" = 0 ]; }; then
    result "$1" 0 "exit code $2: $(grep -m 1 -E 'ERROR|emu:' "$log" || tail -n 1 "$log")"
  fi
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0}))
}

emu_sumi lua tests/ops.lua --device emu --part 1/2 >"$log" 2>&1 &
emu_sumi lua tests/ops.lua --device emu --part 2/2 >"$log.2" 2>&1
count "ops on emu (second half)" $? "$log.2"
wait $!
count "ops on emu (first half)" $? "$log"

if [ -d "$SUMI_SHARED/goldens" ]; then
  for name in ops norms losses optim; do
    [ -e "$SUMI_SHARED/goldens/$name.h5" ] || continue
    emu_sumi goldens --device emu "$SUMI_SHARED/goldens/$name.h5" >"$log" 2>&1
    count "goldens $name on emu" $? "$log"
  done
else
  echo "skipped goldens on emu: none (SUMI_SHARED names the directory that holds goldens/)"
  skipped=$((skipped + 1))
fi

# ---- barriers left out: 0 all of them, 1 every thread's first ----
for mutant in norm:0 norm:1 norm_gx:0 norm_gx:1 sum:0 sum:1 matmul:0 conv:0 mse:0; do
  op=${mutant%:*} which=${mutant#*:}
  env SUMI_EMU_MUTATE_SYNC=$which "$SUMI" lua tests/ops.lua --device emu --op $op >"$log" 2>&1 </dev/null
  noticed=0
  grep -qE '^[0-9]+ passed, [1-9][0-9]* failed' "$log" && noticed=1
  result "$op without cu_sync ($which) fails" $noticed "it passed: $(tail -n 1 "$log")"
done
finish
