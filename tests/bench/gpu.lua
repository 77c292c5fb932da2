-- gpu.lua DEVICE OUT [small] -- the GAN steps of cases.lua on a GPU in bf16, against PyTorch in
-- three ways (peer_gpu.py), in turns, each in a process of its own. Writes OUT/bench.tsv and
-- OUT/bench.md. Milliseconds of a step: the median of all. $SUMI_PEER_PYTHON, or python3, is the
-- peer if it can import torch. small: tiny cases and no peer, to try the script itself. The floors
-- (H200: 790 TFLOP/s in bf16, 4.3 TB/s) are what the arithmetic or the traffic of a step needs at
-- the least.
local core = require "sumi.core"

local device, out, small = ...
local here = arg[0]:match "^(.*)/[^/]*$" or "."
local sumi = core.realpath "/proc/self/exe"
local ROUNDS <const> = 2

local cases = {
  { "cyclegan256", floor = 2.39, steps = 60 },
  { "cyclegan256:16", floor = 38.2, steps = 12 },
  { "pix2pix256", floor = 0.56, steps = 150 },
  { "dcgan64:128", floor = 0.37, steps = 150 },
}
if small then cases = { { "mlpgan:4", floor = 0.01, steps = 2 } } end
local peers = { "eager", "bf16", "compile" }

local function last_line(text)
  local t = {}
  for k, v in (text:match "([^\n]*times=[^\n]*)" or ""):gmatch "([%w_]+)=(%S+)" do t[k] = v end
  return t.times and t
end

-- Milliseconds and device memory, or why not.
local function ask(argv)
  local code, said, err = core.spawn(argv)
  local t = code == 0 and last_line(said)
  if not t then return nil, (err ~= "" and err or said):gsub("%s+$", ""):match "[^\n]*$" end
  local ms = {}
  for v in t.times:gmatch "[^,]+" do ms[#ms + 1] = tonumber(v) end
  return ms, tonumber(t.device_mb), t.torch
end

local function median(v)
  table.sort(v)
  return (v[(#v + 1) // 2] + v[#v // 2 + 1]) / 2
end

local python = os.getenv "SUMI_PEER_PYTHON" or "python3"
local has_torch = not small and core.spawn { python, "-c", "import torch" } == 0

local function commands(case, steps)
  local list = {}
  for _, precision in ipairs(small and { "f32" } or { "bf16", "tf32" }) do
    list[#list + 1] = { "sumi " .. precision, sumi, "lua", here .. "/step.lua", case, steps, "8", precision, device }
  end
  for _, mode in ipairs(has_torch and peers or {}) do
    list[#list + 1] = { "torch " .. mode, "timeout", "150", python, here .. "/peer_gpu.py", case, mode, steps, "8" }
  end
  return list
end

local rows, failures, torch = {}, 0, nil
for _, c in ipairs(cases) do
  local list = commands(c[1], tostring(c.steps))
  local found = {}
  for _ = 1, ROUNDS do
    for k, argv in ipairs(list) do
      local f = found[k] or { ms = {} }
      found[k] = f
      if not f.why then
        local ms, memory, version = ask(table.move(argv, 2, #argv, 1, {}))
        if ms then
          table.move(ms, 1, #ms, #f.ms + 1, f.ms)
          f.memory, torch = memory, version or torch
        else
          f.why = memory
        end
      end
    end
  end
  for k, argv in ipairs(list) do
    local f = found[k]
    if f.why and argv[1]:match "^sumi" then failures = failures + 1 end
    rows[#rows + 1] = { case = c[1], who = argv[1], ms = #f.ms > 0 and median(f.ms) or nil, memory = f.memory, floor = c.floor,
      steps = #f.ms, why = f.why }
  end
end

-- The quickest way of PyTorch for a case.
local function best_peer(case)
  local best
  for _, r in ipairs(rows) do
    if r.case == case and r.ms and r.who:match "^torch" and (not best or r.ms < best) then best = r.ms end
  end
  return best
end

local tsv = { "case\twho\tms\tdevice_mb\tsteps\tfailed" }
local md = { ("Device: %s. Peer: %s.\n"):format(core.describe_device(device), torch and "PyTorch " .. torch or "none here"),
  "| step | who | ms | memory MB | best PyTorch / this | of the H200 floor |", "| --- | --- | ---: | ---: | ---: | ---: |" }
for _, r in ipairs(rows) do
  local peer = best_peer(r.case)
  tsv[#tsv + 1] = ("%s\t%s\t%s\t%s\t%d\t%s"):format(r.case, r.who, r.ms or "", r.memory or "", r.steps, r.why or "")
  md[#md + 1] = ("| %s | %s | %s | %s | %s | %s |"):format(r.case, r.who, r.ms and ("%.2f"):format(r.ms) or "failed: " .. r.why,
    r.memory and ("%.0f"):format(r.memory) or "", r.ms and peer and ("%.2f"):format(peer / r.ms) or "",
    r.ms and ("%.0f %%"):format(100 * r.floor / r.ms) or "")
end
core.mkdir_p(out)
core.write_file_atomic(out .. "/bench.tsv", table.concat(tsv, "\n") .. "\n")
core.write_file_atomic(out .. "/bench.md", table.concat(md, "\n") .. "\n")
print(table.concat(md, "\n"))
return failures > 0 and 1 or 0
