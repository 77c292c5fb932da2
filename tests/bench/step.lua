-- step.lua CASE[:BATCH] STEPS [SECONDS [PRECISION [DEVICE]]] -- a process of its own for one case, so that its memory is its own. Prints a
-- line that bench.lua reads: the clock at the first Lua line and after the first step (to be compared with the
-- parent's), and milliseconds of each further step.
local core = require "sumi.core"
local first_line = core.now()
local case, steps, seconds, precision, device = ...
local context = require "sumi.context"
context.reset(1, device or "cpu")
context.set_precision(precision or "f32")
local cases = dofile((arg[0]:match "^(.*)/[^/]*$" or ".") .. "/cases.lua")
local name, batch = case:match "^(%w+):?(%d*)$"
local declared, flops = cases[name](math.tointeger(tonumber(batch)))
local game = require("sumi.game").new(declared)
game.per_epoch = 1
game:check_memory(0)                     -- as the trainer does
game:step_once(0)
local first_step = core.now()
for at = 1, 3 do game:step_once(at) end  -- from the fourth on steps are replayed
local times, began, allocs = {}, core.now(), core.sys_allocs()
for k = 1, tonumber(steps) do
  local t = core.now()
  game:step_once(k + 3)
  times[k] = ("%.4f"):format(1e3 * (core.now() - t))
  if core.now() - began > tonumber(seconds or 1e9) then break end
end

-- Most memory this program held; getrusage would count what the parent held when it forked.
local function peak()
  for l in io.lines "/proc/self/status" do
    local kb = l:match "^VmHWM:%s+(%d+)"
    if kb then return tonumber(kb) / 1024 end
  end
  return core.peak_rss() / 2 ^ 20
end

local line = "first_line=%.6f first_step=%.6f flops=%.0f peak_mb=%.1f device_mb=%.1f allocs=%d times=%s\n"
io.write(line:format(first_line, first_step, flops, peak(), core.arena(context.device).peak / 2 ^ 20, core.sys_allocs() - allocs,
  table.concat(times, ",")))
