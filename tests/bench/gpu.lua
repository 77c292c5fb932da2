-- gpu.lua DEVICE OUT SECONDS [small] -- the GAN steps of cases.lua on a GPU in bf16 and tf32, against PyTorch in
-- three ways (peer_gpu.py), each in a process of its own. Writes OUT/bench.tsv and OUT/bench.md anew after every
-- process. Milliseconds of a step: the median of all. $SUMI_PEER_PYTHON, or python3, is the peer if it can import
-- torch. small: tiny cases and no peer, to try the script itself.
--
-- Everything ends within SECONDS. First all is measured once: what the goals want and costs little, then what is
-- compiled for long, then tf32; then again while time is left. What had no time is listed as not run and counts
-- as a failure, but for tf32.
-- The floors (H200: 790 TFLOP/s in bf16, 4.3 TB/s) are what the arithmetic or the traffic of a step needs at the
-- least; the goals are those of the issue.
local core = require "sumi.core"

local device, out, seconds, small = ...
local here = arg[0]:match "^(.*)/[^/]*$" or "."
local sumi = core.realpath "/proc/self/exe"
local deadline = core.now() + tonumber(seconds)
local MEMORY <const> = 0.7               -- goal: of what PyTorch's quickest way holds

local cases = {
  { "cyclegan256", floor = 2.39, steps = 60, ms = 12, ratio = 1.5 },
  { "cyclegan256:16", floor = 38.2, steps = 12, ms = 100, ratio = 1.3 },
  { "pix2pix256", floor = 0.56, steps = 150, ms = 2.5, ratio = 2 },
  { "dcgan64:128", floor = 0.37, steps = 150, ms = 2.2, ratio = 2 },
}
if small then cases = { { "mlpgan:4", floor = 0.01, steps = 2, ms = 1, ratio = 2 } } end

local python = os.getenv "SUMI_PEER_PYTHON" or "python3"
local has_torch = not small and core.spawn { python, "-c", "import torch" } == 0

-- ---- one process ----

local function last_line(text)
  local t = {}
  for k, v in (text:match "([^\n]*times=[^\n]*)" or ""):gmatch "([%w_]+)=(%S+)" do t[k] = v end
  return t.times and t
end

-- Adds what a process measures to row r; at most `limit` seconds.
local function measure(r, limit)
  local argv = { "timeout", "-k", "2", ("%.0f"):format(limit) }
  table.move(r.argv, 1, #r.argv, #argv + 1, argv)
  local began = core.now()
  local code, said, err = core.spawn(argv)
  local t = code == 0 and last_line(said)
  r.took = core.now() - began
  if not t then
    r.why = code == 124 and ("failed: more than %.0f s"):format(limit)
      or "failed: " .. ((err ~= "" and err or said or "no answer"):gsub("%s+$", ""):match "[^\n]*$")
    return
  end
  for v in t.times:gmatch "[^,]+" do r.ms[#r.ms + 1] = tonumber(v) end
  r.memory, r.torch = tonumber(t.device_mb), t.torch
end

local rows = {}

local function add(case, who, turn, ...)
  rows[#rows + 1] = { case = case, who = who, ours = who:match "^sumi" ~= nil, turn = turn, ms = {}, argv = { ... },
    why = "not run: out of time" }
end

local turns = { f32 = 1, bf16 = 1, eager = 1, compile = 2, tf32 = 3 }
for _, c in ipairs(cases) do
  for _, precision in ipairs(small and { "f32" } or { "bf16", "tf32" }) do
    add(c, "sumi " .. precision, turns[precision], sumi, "lua", here .. "/step.lua", c[1], tostring(c.steps), "4", precision, device)
  end
  for _, mode in ipairs(has_torch and { "bf16", "eager", "compile" } or {}) do
    add(c, "torch " .. mode, turns[mode], python, here .. "/peer_gpu.py", c[1], mode, tostring(c.steps), "4")
  end
end

-- ---- tables ----

local function median(v)
  v = table.move(v, 1, #v, 1, {})
  table.sort(v)
  return #v > 0 and (v[(#v + 1) // 2] + v[#v // 2 + 1]) / 2 or nil
end

-- PyTorch's quickest way for a case.
local function best_peer(case)
  local best
  for _, r in ipairs(rows) do
    local ms = not r.ours and r.case == case and median(r.ms)
    if ms and (not best or ms < best.at) then best = { at = ms, memory = r.memory } end
  end
  return best
end

local function met(ok) return ok and "met" or "missed" end

-- What the issue asks of our bf16: time, time against PyTorch, memory against PyTorch.
local function goals(r, ms, peer)
  if r.who ~= "sumi bf16" then return "" end
  local list = { ("<= %g ms %s"):format(r.case.ms, met(ms <= r.case.ms)) }
  if peer then
    list[2] = (">= %gx %s"):format(r.case.ratio, met(peer.at / ms >= r.case.ratio))
    list[3] = ("memory <= %gx %s"):format(MEMORY, met(r.memory <= MEMORY * peer.memory))
  end
  return table.concat(list, ", ")
end

local function markdown_row(r)
  local ms, peer = median(r.ms), best_peer(r.case)
  if not ms then return ("| %s | %s | %s | | | | | |"):format(r.case[1], r.who, r.why) end
  return ("| %s | %s | %.2f | %.0f | %s | %s | %.0f %% | %s |"):format(r.case[1], r.who, ms, r.memory or 0,
    peer and ("%.2f"):format(peer.at / ms) or "", peer and ("%.2f"):format(r.memory / peer.memory) or "",
    100 * r.case.floor / ms, goals(r, ms, peer))
end

local function write()
  local torch
  local tsv = { "case\twho\tms\tdevice_mb\tsteps\tfailed" }
  for _, r in ipairs(rows) do
    torch = r.torch or torch
    tsv[#tsv + 1] = ("%s\t%s\t%s\t%s\t%d\t%s"):format(r.case[1], r.who, median(r.ms) or "", r.memory or "", #r.ms,
      #r.ms == 0 and r.why or "")
  end
  local md = { ("Device: %s. Peer: %s.\n"):format(core.describe_device(device), torch and "PyTorch " .. torch or "none here"),
    "| step | who | ms | memory MB | best PyTorch / this | memory, this / best PyTorch | of the H200 floor | goals |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |" }
  for _, r in ipairs(rows) do md[#md + 1] = markdown_row(r) end
  core.write_file_atomic(out .. "/bench.tsv", table.concat(tsv, "\n") .. "\n")
  core.write_file_atomic(out .. "/bench.md", table.concat(md, "\n") .. "\n")
  return table.concat(md, "\n")
end

-- ---- all of them, and again ----

local function left() return deadline - core.now() end

-- Those of one turn. A process may take twice its share of what is left.
local function first_time(turn)
  local waiting = 0
  for _, r in ipairs(rows) do waiting = waiting + (r.turn == turn and 1 or 0) end
  for _, r in ipairs(rows) do
    if r.turn == turn and left() > 10 then
      measure(r, math.max(10, math.min(120, 2 * left() / (waiting + 1))))
      write()
      waiting = waiting - 1
    end
  end
end

core.mkdir_p(out)
write()
for turn = 1, 3 do first_time(turn) end
for _, r in ipairs(rows) do
  if r.turn == 1 and #r.ms > 0 and left() > 1.5 * r.took + 2 then measure(r, left()) end
end
print(write())
local failures = 0
for _, r in ipairs(rows) do
  if #r.ms == 0 and (r.turn < 3 or r.why:match "^failed") then failures = failures + 1 end
end
print(("%d passed, %d failed"):format(#rows - failures, failures))
return failures > 0 and 1 or 0
