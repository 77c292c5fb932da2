-- device_child.lua -- run by test_device.lua: plays a small game on a device twice and says how
-- each went: "ok BITS" or "failed CODE MESSAGE", then how many tensors live and how many bytes are
-- in use once all is dropped.  lua device_child.lua DEVICE STEPS
local core = require "sumi.core"
local context = require "sumi.context"
local game_of = require "sumi.game"

local device, steps = arg[1], math.tointeger(tonumber(arg[2]))

local function play()
  local _ENV <close> = setmetatable({}, { __index = require "sumi", __close = function() core.step_end() end })
  context.reset(3, device, {})
  context.config = nil
  local G, D = net { input = 6, linear(8), bn(), lrelu(0.2), linear(4) }, net { input = 4, linear(8), dropout(0.3), linear(1) }
  local game = game_of.new(experiment { "own", steps = 100,
    data = { get = function() return { x = randn(16, 4), z = rand(16, 6) } end, batch = 16 },
    forward = function(x) x.fake = G(x.z) end,
    players = {
      player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) + bce(D(x.fake), 0) end } },
      player { "G", G, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.fake), 1) end } } } }:game())
  game.say, game.per_epoch = function() end, 10
  local ok, err = pcall(function()
    for at = 0, steps - 1 do game:step_once(at) end
    local parts = {}
    for _, t in ipairs(game:tensors()) do parts[#parts + 1] = t[1] .. t[2]:raw() end
    return core.sha256(table.concat(parts))
  end)
  if game.steps_again.stop then game.steps_again:stop "the end" end
  return ok, err
end

local function attempt()
  local outcome = table.pack(pcall(play))
  if outcome[1] then table.remove(outcome, 1) end
  local text = outcome[1] and "ok " .. outcome[2]
    or ("failed %s %s"):format(type(outcome[2]) == "table" and outcome[2].code or "-", tostring(outcome[2]):gsub("\n.*", ""))
  outcome = nil
  core.step_end()
  if core.list_open and core.list_open() then text = "a recording was left open; " .. text end
  core.list_rest(device)
  context.reset(0, "cpu", {})
  collectgarbage()
  collectgarbage()
  local a = core.arena(device)
  print(("%d %d %s"):format(a.tensors, a.used, text))
end

attempt()
attempt()
