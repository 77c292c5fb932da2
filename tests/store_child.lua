-- store_child.lua -- a process that writes a run until it is killed or something fails;
-- tests/test_store.lua and tests/crash_store.lua start it.  ./sumi lua tests/store_child.lua MODE RESULTS
-- [ELEMENTS]
--
--   steps N    creates the run (or goes on with it), N steps, a checkpoint every 5; prints "failed CODE MESSAGE" if so
--   readable   seals as often as it can for some seconds
local core = require "sumi.core"
local store = require "sumi.store"

local mode, results, n, elements = arg[1], arg[2], math.tointeger(tonumber(arg[3])) or 0, tonumber(arg[4] or 1000)
local names = { "loss/D/real", "loss/G/adv" }

-- What every number of a step must be: the tests compute the same.
local function value(step, k) return math.sin(step * 1.25 + k) end

local function open()
  local dir = results .. "/crash/loop/seed-1"
  if not core.stat(dir .. "/run.h5") then
    return store.create { results = results, experiment = "crash", variant = "loop", seed = 1, config = { { "lr", 0.1 } },
      code = { { name = "x.lua", text = "return 1" } } }, 0
  end
  local run = store.reopen(dir)
  local ckpt = run:newest()
  local from = ckpt and ckpt.step or 0
  run:rewind(from)
  return run, from
end

local function tensors(step)
  return { { "G/1/weight", core.full(step, { elements }) }, { "D/1/weight", core.full(-step, { elements }) },
    { "adam/m/G/1/weight", core.full(step / 2, { elements }) } }
end

-- steps: how far this life got is kept beside the results, so that the tests know which rows must be there.
local function steps()
  local log = results .. "/progress"
  os.remove(log)
  local run, from = open()
  local progress = assert(io.open(log, "w"))
  progress:setvbuf "no"
  for step = from + 1, from + n do
    run:metrics(step, step * 0.5, names, { value(step, 1), value(step, 2) })
    progress:write(step, "\n")
    if step % 7 == 0 then run:event(step, step * 0.5, "note", "step " .. step) end
    if step % 5 == 0 then run:save(step, tensors(step), { step = step, third = step / 3 }) end
  end
  local ok, message = run:finish("stopped", 75, "enough steps")
  if not ok then core.fail(6, message) end
end

local function readable()
  local run = open()
  local stop, step = core.now() + n, 0
  while core.now() < stop do
    step = step + 1
    run:metrics(step, step * 0.5, names, { value(step, 1), value(step, 2) })
    run:seal()
  end
  run:finish("done", 0)
end

local ok, err = pcall(mode == "steps" and steps or readable)
if ok then
  print "finished"
  os.exit(0)
end
print(("failed %s %s"):format(type(err) == "table" and err.code or "?", tostring(err)))
os.exit(type(err) == "table" and err.code or 1)
