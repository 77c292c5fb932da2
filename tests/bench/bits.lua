-- bits.lua CASE[:BATCH] STEPS DEVICE [PRECISION] -- trains a case of cases.lua twice, once played op by op and once
-- replayed, and compares a SHA-256 over all that a checkpoint would hold. Fails where the bits differ, where steps
-- were not replayed, or where a device with graphs did not make one of the step.
local case, steps, device, precision = ...
local core = require "sumi.core"
local context = require "sumi.context"
local name, batch = case:match "^(%w+):?(%d*)$"
local dir = arg[0]:match "^(.*)/[^/]*$" or "."
steps = math.tointeger(tonumber(steps))

local function train(played)
  context.reset(1, device)
  context.set_precision(precision or "f32")
  local game = require("sumi.game").new(dofile(dir .. "/cases.lua")[name](math.tointeger(tonumber(batch))))
  local said = {}
  game.per_epoch = 1
  game.say = function(text) said[#said + 1] = text end
  if played then game.steps_again.off = "asked for" end
  for at = 0, steps - 1 do game:step_once(at) end
  local parts = {}
  for k, t in ipairs(game:tensors()) do parts[k] = t[1] .. t[2]:raw() end
  return core.sha256(table.concat(parts)), said, game.steps_again
end

local played = train(true)
core.step_end()
collectgarbage()
local replayed, said, again = train(false)
local size = again:sizes()[1]
local wrong = said[1] or replayed ~= played and "the bits differ"
  or not size and "no step was replayed" or device ~= "cpu" and not size.graph and "the step is no graph"
print(("%s %s %s: %d steps played %s replayed %s%s"):format(case, precision or "f32", device, steps, played:sub(1, 16),
  replayed:sub(1, 16), wrong and "; " .. wrong or ""))
return wrong and 1 or 0
