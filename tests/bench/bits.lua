-- bits.lua CASE[:BATCH] STEPS DEVICE [PRECISION] -- trains a case of cases.lua and prints one
-- SHA-256 over all that a checkpoint would hold. With SUMI_REPLAY=0 every step is played op by op;
-- the two must print the same.
local case, steps, device, precision = ...
local core = require "sumi.core"
local context = require "sumi.context"
context.reset(1, device)
context.set_precision(precision or "f32")
local name, batch = case:match "^(%w+):?(%d*)$"
local declared = dofile((arg[0]:match "^(.*)/[^/]*$" or ".") .. "/cases.lua")[name](math.tointeger(tonumber(batch)))
local game = require("sumi.game").new(declared)
game.per_epoch = 1
game.say = function(text) io.stderr:write(text, "\n") end
for at = 0, tonumber(steps) - 1 do game:step_once(at) end
local parts = {}
for k, t in ipairs(game:tensors()) do parts[k] = t[1] .. t[2]:raw() end
print(core.sha256(table.concat(parts)))
