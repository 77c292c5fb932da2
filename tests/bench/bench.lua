-- bench.lua -- `sumi bench [NAME...]`: how fast this machine trains, against PyTorch if there is one.
--
-- Every case runs in a process of its own (peak memory is its own too), Sumi and the peer in turns, so that
-- both meet the same weather. The peer is $SUMI_PEER_PYTHON, or python3, when it can import torch; otherwise its
-- columns stay empty. Names: start, eager, conv, mlpgan, dcgan64, pix2pix256, cyclegan128; none means all. Each case has
-- a row for f32 and, where the CPU multiplies it, for bf16; "played" is the same step run op by op by Lua instead of replayed.
-- SUMI_BENCH_ROUNDS (2): turns of each.
local core = require "sumi.core"

local here = arg[0]:match "^(.*)/[^/]*$" or "."
local sumi = core.realpath "/proc/self/exe"
local rounds = tonumber(os.getenv "SUMI_BENCH_ROUNDS" or 2)

local cases = {
  { "mlpgan", steps = 200, seconds = 4, modes = { "f32" } },
  { "dcgan64", steps = 12, seconds = 12, modes = { "f32", "cl" } },
  { "pix2pix256", steps = 8, seconds = 12, modes = { "f32", "cl" } },
  { "cyclegan128", steps = 5, seconds = 20, modes = { "f32", "cl" } },
}

-- ---- small things ----

local function median(v)
  local t = table.move(v, 1, #v, 1, {})
  table.sort(t)
  local k = #t // 2
  return #t % 2 == 1 and t[k + 1] or (t[k] + t[k + 1]) / 2
end

local function fields(line)
  local t = {}
  for k, v in line:gmatch "([%w_]+)=(%S+)" do t[k] = v end
  return t
end

local function numbers(text)
  local t = {}
  for v in text:gmatch "[^,]+" do t[#t + 1] = tonumber(v) end
  return t
end

local function ms(v) return v and (v < 100 and "%.2f" or "%.0f"):format(v) or "" end

-- Run a program; the fields of the last line that has any, or nil and what it said.
local function ask(argv)
  local code, out, err = core.spawn(argv)
  if code ~= 0 then return nil, (err and err ~= "" and err or out or ""):match "[^\n]*\n?$" or "failed" end
  local found
  for line in out:gmatch "[^\n]+" do
    if line:find "times=" or line:find "=" then found = fields(line) end
  end
  return found, "it printed nothing"
end

local function find_peer()
  local program = os.getenv "SUMI_PEER_PYTHON" or "python3"
  local code, out = core.spawn { program, "-c", "import torch; print('version=' + torch.__version__)" }
  if code == 0 then return program, fields(out).version end
end

local function wanted(name)
  if #arg == 0 then return true end
  for _, a in ipairs(arg) do
    if a == name then return true end
  end
end

-- ---- training steps ----

local function add(sum, r)
  if not r then return end
  for _, t in ipairs(numbers(r.times)) do sum.times[#sum.times + 1] = t end
  sum.peak = math.max(sum.peak or 0, tonumber(r.peak_mb))
  sum.flops = tonumber(r.flops) or sum.flops
end

local function run_case(c, peer)
  local ours, theirs, note = { times = {}, played = { times = {} }, bf16 = { times = {} } }, {}, nil
  local function our_step(sum, replay, precision)
    local r, why = ask { "env", "SUMI_REPLAY=" .. replay, sumi, "lua", here .. "/step.lua", c[1], tostring(c.steps),
      tostring(c.seconds), precision }
    note = not r and why or note
    add(sum, r)
  end
  for _ = 1, rounds do
    our_step(ours, "1", "f32")
    our_step(ours.played, "0", "f32")
    if core.cpu().bf16 then our_step(ours.bf16, "1", "bf16") end
    for _, mode in ipairs(peer and c.modes or {}) do
      theirs[mode] = theirs[mode] or { times = {} }
      local argv = { peer, here .. "/peer.py", c[1], mode, tostring(c.steps), tostring(c.seconds) }
      argv[#argv + 1] = tostring(core.threads())
      add(theirs[mode], ask(argv))
    end
  end
  local best                            -- the mode in which the peer is fastest
  for _, mode in ipairs(c.modes) do
    local t = theirs[mode]
    if t and #t.times > 0 and (not best or median(t.times) < median(best.times)) then
      t.mode, best = mode, t
    end
  end
  return ours, best, note
end

local function faster(o, p)
  local m, t = median(o.times), median(p.times)
  return p.mode, ms(t), ms(math.min(table.unpack(p.times))), ("%.0f"):format(p.peak), ("%.2fx"):format(t / m),
    ("%.2fx"):format(o.peak / p.peak)
end

local function step_row(row, name, o, p)
  local m = median(o.times)
  local peer = table.pack("", "", "", "", "", "")
  if p then peer = table.pack(faster(o, p)) end
  local played = o.played and #o.played.times > 0 and ms(median(o.played.times)) or ""
  print(row:format(name, ms(m), ms(math.min(table.unpack(o.times))), played, ("%.0f"):format(o.peak),
    ("%.0f"):format(o.flops / m * 1e-6), table.unpack(peer)))
end

local function step_table(peer)
  local row = "  %-18s %10s %10s %10s %8s %9s   %-5s %10s %10s %8s %8s %8s"
  print(row:format("training step", "median ms", "min ms", "played ms", "peak MB", "GFLOP/s", "peer", "median ms", "min ms",
    "peak MB", "faster", "memory"))
  for _, c in ipairs(cases) do
    if wanted(c[1]) then
      local o, p, note = run_case(c, peer)
      if #o.times == 0 then print(("  %-18s failed: %s"):format(c[1], note))
      else step_row(row, c[1], o, p) end
      if #o.bf16.times > 0 then step_row(row, c[1] .. " bf16", o.bf16, p) end
    end
  end
end

-- ---- start-up and overhead ----

local function start_table()
  local line, first = {}, {}
  for k = 1, 7 do
    local t = core.now()
    local r, why = ask { sumi, "lua", here .. "/step.lua", "mlpgan", "1" }
    if not r then print("  start-up failed: " .. why) return end
    line[k], first[k] = 1e3 * (r.first_line - t), 1e3 * (r.first_step - t)
  end
  print(("  process start to the first Lua line      %8.1f ms"):format(median(line)))
  print(("  process start to the first finished step %8.1f ms   (mlpgan)"):format(median(first)))
end

-- Microseconds per call of f(x), best of several runs of n.
local function per_call(f, x, n)
  local best = math.huge
  for _ = 1, 9 do
    core.step_begin(1, 1)
    core.enter()
    local t = core.now()
    for _ = 1, n do f(x) end
    best = math.min(best, core.now() - t)
    core.leave()
    core.step_end()
  end
  return 1e6 * best / n
end

local function eager_table()
  local x = core.full(1, { 2 }):keep()
  local w = core.full(1, { 2 }):keep():learn()
  local function op(a) core.drop(a + 1) end
  print(("  an op on two numbers, from Lua           %8.2f us"):format(per_call(op, x, 20000)))
  print(("  the same, recorded for a gradient        %8.2f us"):format(per_call(op, w, 20000)))
end

-- ---- convolutions ----

-- name, images, height = width of x, ci, co, kernel, stride, pad, edge
local convs = {
  { "3x3 residual, 32 px", 1, 32, 256, 256, 3, 1, 1, "reflect" },
  { "3x3, 128 px", 1, 128, 64, 64, 3, 1, 1, "zero" },
  { "7x7 in, 128 px", 1, 128, 3, 64, 7, 1, 3, "reflect" },
  { "7x7 out, 128 px", 1, 128, 64, 3, 7, 1, 3, "reflect" },
  { "3x3 /2, 128 px", 1, 128, 64, 128, 3, 2, 1, "zero" },
  { "3x3 /2, 64 px", 1, 64, 128, 256, 3, 2, 1, "zero" },
  { "4x4 /2, 64 px", 1, 64, 64, 128, 4, 2, 1, "zero" },
  { "4x4, 16 px", 1, 16, 256, 512, 4, 1, 1, "zero" },
  { "4x4 /2, 32 px, 64 images", 64, 32, 64, 128, 4, 2, 1, "zero" },
  { "4x4 /2, 8 px, 64 images", 64, 8, 256, 512, 4, 2, 1, "zero" },
  { "4x4 /2, 4 px", 1, 4, 512, 512, 4, 2, 1, "zero" },
}

local function gflops(flop, f)
  local best, began = math.huge, core.now()
  repeat
    core.step_begin(1, 1)
    local t = core.now()
    f()
    best = math.min(best, core.now() - t)
    core.step_end()
  until core.now() - began > 0.3
  return ("%.0f"):format(1e-9 * flop / best)
end

-- The rates of y, gx and gw with operands of a dtype.
local function conv_rates(c, dtype)
  local ops = core.ops
  local _, n, size, ci, co, k, s, pad, edge = table.unpack(c)
  local out = (size + 2 * pad - k) // s + 1
  local flop = 2 * n * out * out * co * ci * k * k
  local function make(shape) return ops.cast(core.rand(shape, -1, 1), dtype):keep() end
  core.step_begin(1, 0)
  local x, w, g = make { n, size, size, ci }, make { co, k, k, ci }, make { n, out, out, co }
  core.step_end()
  local o = { stride = s, pad = pad, edge = edge }
  local ox = { stride = s, pad = pad, edge = edge, size = { size, size } }
  local ow = { stride = s, pad = pad, edge = edge, kernel = { k, k } }
  local y, gx, gw = gflops(flop, function() ops.conv(x, w, nil, o) end), gflops(flop, function() ops.conv_gx(g, w, nil, ox) end),
    gflops(flop, function() ops.conv_gw(x, g, ow) end)
  for _, t in ipairs { x, w, g } do core.drop(t) end
  return y, gx, gw
end

local function conv_table()
  local row = "  %-26s %13s %8s %8s %8s"
  print(row:format("convolution", "ci -> co", "y", "gx", "gw") .. "   GFLOP/s as the definition counts them")
  for _, c in ipairs(convs) do
    print(row:format(c[1], c[4] .. " -> " .. c[5], conv_rates(c, "f32")))
    if core.cpu().bf16 then print(row:format("", "bf16", conv_rates(c, "bf16"))) end
  end
end

-- ---- the report ----

require("sumi.context").reset(1, "cpu")
local peer, version = find_peer()
local cpu = core.cpu()
local who = peer and "PyTorch " .. version or "none (set SUMI_PEER_PYTHON to a python that has torch)"
print(("sumi %s on %s, %d threads; peer: %s"):format(core.version, cpu.name or cpu.model or "an unknown CPU",
  core.threads(), who))
if wanted "start" then start_table() end
if wanted "eager" then eager_table() end
if wanted "conv" then conv_table() end
step_table(peer)
return 0
