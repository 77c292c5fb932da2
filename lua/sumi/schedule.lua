-- schedule.lua -- rates, weights and probabilities that change: ramp, cosine, step, or a function of the epoch.
-- A schedule is evaluated at whole epochs (0, 1, ...) unless unit = "step". Times outside the range hold the end values.
local core = require "sumi.core"
local util = require "sumi.util"

local schedule = {}
local Schedule = {}
Schedule.__index = Schedule
Schedule.__name = "sumi.schedule"

local function make(spec, what, at)
  if spec.unit and spec.unit ~= "epoch" and spec.unit ~= "step" then
    core.fail(what .. ': unit is "epoch" or "step"')
  end
  return setmetatable({ spec = spec, unit = spec.unit or "epoch", at = at }, Schedule)
end

local function range(spec, what)
  if type(spec) ~= "table" then
    core.fail(("%s: wants a table, %s{2e-4, 0, to = 100}; got %s"):format(what, what, util.show(spec)))
  end
  util.strict(spec, { "from", "to", "epochs", "unit" }, what, true)
  local from, to = spec.from or 0, spec.to or spec.epochs
  if type(from) ~= "number" or (to and type(to) ~= "number") then
    core.fail(("%s: from and to are numbers of epochs; got %s and %s"):format(what, util.show(from), util.show(to)))
  end
  if not to or to <= from then
    core.fail(("%s: say when it ends: to = N, after from = %g, or epochs = N from the start"):format(what, from))
  end
  if type(spec[1]) ~= "number" or type(spec[2]) ~= "number" then
    core.fail(("%s: the first two entries are the values at its start and its end, %s{2e-4, 0, ...}; got %s and %s"):format(what,
      what, util.show(spec[1]), util.show(spec[2])))
  end
  return spec[1], spec[2], from, to
end

local function share(t, from, to) return math.min(1, math.max(0, (t - from) / (to - from))) end

-- ramp{a, b, from = 0, to = N | epochs = N, unit = "epoch"}: a until `from`, then linearly to b at `to`.
function schedule.ramp(spec)
  local a, b, from, to = range(spec, "ramp")
  return make(spec, "ramp", function(t) return a + (b - a) * share(t, from, to) end)
end

-- cosine{a, b, from =, to =}: half a cosine from a to b (Loshchilov and Hutter 2017, without restarts).
function schedule.cosine(spec)
  local a, b, from, to = range(spec, "cosine")
  return make(spec, "cosine",
    function(t) return b + (a - b) * 0.5 * (1 + math.cos(math.pi * share(t, from, to))) end)
end

-- step{a, at = {30, 60}, gamma = 0.1}: multiplied by gamma at each of the times.
function schedule.step(spec)
  if type(spec) ~= "table" or type(spec[1]) ~= "number" or type(spec.at) ~= "table" then
    core.fail("step: wants a value and the times at which it falls, step{2e-4, at = {30, 60}, gamma = 0.1}")
  end
  util.strict(spec, { "at", "gamma", "unit" }, "step", true)
  local gamma = spec.gamma or 0.1
  return make(spec, "step", function(t)
    local v = spec[1]
    for _, when in ipairs(spec.at) do
      if t >= when then v = v * gamma end
    end
    return v
  end)
end

function schedule.is(v) return type(v) == "function" or getmetatable(v) == Schedule end

-- The value of a number, a schedule or a function of (epoch, step).
function schedule.value(v, epoch, step)
  if type(v) == "number" then return v end
  if type(v) == "function" then
    local x = v(epoch, step)
    if type(x) == "number" then return x end
    core.fail_at(core.where(v), "a schedule must return a number, this one returned " .. util.show(x))
  end
  return v.at(v.unit == "step" and step or epoch)
end

-- A number, a schedule or a function; anything else is an error that names `what`.
function schedule.check(v, what)
  if type(v) == "number" or schedule.is(v) then return v end
  core.fail(("%s wants a number, a schedule (ramp, cosine, step) or a function of the epoch, got %s"):format(what, util.show(v)))
end

return schedule
