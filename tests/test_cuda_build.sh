#!/bin/bash
# test_cuda_build.sh -- what ptxas said of every kernel for every GPU when libsumi_cuda.so was built
# (the logs are the build's), held against cuda/budget.txt: registers within budget, nothing
# spilled, no stack. `tests/test_cuda_build.sh write` writes the budget anew.
BUILD=${BUILD:-build}
budget=cuda/budget.txt

if ! ls "$BUILD"/cuda/*.cu.log >/dev/null 2>&1; then
  echo "skipped the kernels' registers: libsumi_cuda.so is not built here (there is no nvcc)"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

# FILE/KERNEL GPU REGISTERS STACK SPILLED, of all instances of a kernel's template together the most
kernels() {
  for log in "$BUILD"/cuda/*.cu.log; do
    source=cuda/$(basename "$log" .log)
    [ -e "$source" ] || continue
    awk -v file="$(basename "$log" .cu.log)" '
      /Compiling entry function/ { split($0, q, "\047"); name = q[2]; gpu = q[4] }
      /bytes stack frame/        { stack = $1; spilled = $5 + $9 }
      /Used [0-9]+ registers/    { for (k = 1; k < NF; k++) if ($k == "Used") print name, gpu, $(k + 1), stack, spilled, file }
    ' "$log"
  done | c++filt | sed -E 's/^void //; s/\(anonymous namespace\):://g' |
    awk '{ name = $0; sub(/[<(].*/, "", name); file = $NF; key = file "/" name " " $(NF - 4)
           if ($(NF - 3) > r[key]) r[key] = $(NF - 3)
           if ($(NF - 2) > s[key]) s[key] = $(NF - 2)
           if ($(NF - 1) > p[key]) p[key] = $(NF - 1)
           seen[key] = 1 }
         END { for (k in seen) print k, r[k] + 0, s[k] + 0, p[k] + 0 }' | sort
}

if [ "${1:-}" = write ]; then
  { echo "# Registers per thread that a kernel may use on any GPU (the most over its instances, up to the next multiple of 8)."
    kernels | awk '{ if ($3 > r[$1]) r[$1] = $3 } END { for (k in r) print k, int((r[k] + 7) / 8) * 8 }' | sort; } >$budget
  exit
fi

kernels | awk -v budget=$budget '
  function bad(text) { print "FAILED  " text; failed++ }
  BEGIN { while ((getline line < budget) > 0) if (line !~ /^#/) { split(line, w, " "); may[w[1]] = w[2] } }
  { seen[$1] = 1
    if (!($1 in may)) bad($1 " is not in " budget ": it uses " $3 " registers on " $2)
    else if ($3 > may[$1]) bad($1 " uses " $3 " registers on " $2 ", its budget is " may[$1])
    else if ($4 > 0 || $5 > 0) bad($1 " keeps " $4 " bytes on the stack and spills " $5 " on " $2)
    else passed++ }
  END { for (k in may) if (!(k in seen)) bad(k " of " budget " is no kernel any more")
        printf "%d passed, %d failed, 0 skipped\n", passed, failed
        exit failed > 0 }'
