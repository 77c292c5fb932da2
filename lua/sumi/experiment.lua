-- experiment.lua -- what a script returns: the game it plays, checked as soon as it is written down.
local core = require "sumi.core"
local util = require "sumi.util"
local context = require "sumi.context"
local net = require "sumi.net"
local optim = require "sumi.optim"
local schedule = require "sumi.schedule"

local experiment = {}
local Experiment, Player = {}, {}
Experiment.__index, Player.__index = Experiment, Player
Experiment.__name, Player.__name = "sumi.experiment", "sumi.player"

-- ---- knobs ----

local kinds = { number = "a number", string = "text", boolean = "true or false", table = "a Lua table" }

-- The value a knob's text stands for: it must be of the default's type.
local function parse(name, text, default)
  local v = text
  if text == "true" or text == "false" then v = text == "true"
  elseif tonumber(text) then v = tonumber(text)
  elseif text:sub(1, 1) == "{" then
    local f = load("return " .. text, "=knob", "t", {})
    local ok, t = pcall(f or error)
    if not ok then core.fail(2, ("knob %s: '%s' is no Lua table"):format(name, text)) end
    v = t
  end
  if type(default) == "string" and type(v) == "number" then v = text end
  if default ~= nil and type(v) ~= type(default) then
    core.fail(2, ("knob %s wants %s (default %s), got '%s'"):format(name, kinds[type(default)] or "something else",
      util.show(default), text))
  end
  if math.type(default) == "integer" and math.type(v) == "float" then
    if v ~= math.floor(v) then core.fail(2, ("knob %s wants a whole number (default %d), got '%s'"):format(name, default, text)) end
    v = math.tointeger(v)
  end
  return v
end

local function sorted(t)
  local names = {}
  for k in next, t do names[#names + 1] = k end
  table.sort(names)
  return names
end
experiment.sorted = sorted

local function unknown_knob(name, known)
  core.fail(2, ("unknown knob '%s'%s   knobs: %s"):format(name, util.meant(name, known), table.concat(known, " ")))
end

local function apply_preset(c, presets, scale)
  if scale == "full" then return end
  local preset = presets[scale]
  if not preset then
    local names = sorted(presets)
    names[#names + 1] = "full"
    core.fail(2, ("knob scale: there is no preset '%s'; there is %s"):format(scale, table.concat(names, ", ")))
  end
  for _, k in ipairs(sorted(preset)) do
    if c[k] == nil then core.fail(("presets.%s: '%s' is no knob of config%s"):format(scale, k, util.meant(k, sorted(c)))) end
    c[k] = preset[k]
  end
end

-- config{knob = default, ..., presets = {demo = {...}}}: the knobs of this run, resolved: default < preset (scale=demo) < command line.
function experiment.config(spec)
  if type(spec) ~= "table" then core.fail("config: wants a table of knobs, config { size = 64 }; got " .. util.show(spec)) end
  local c, presets = {}, spec.presets
  for k in next, spec do
    if type(k) ~= "string" then core.fail("config: every knob has a name, config { size = 64 }") end
  end
  for _, k in ipairs(sorted(spec)) do
    if k ~= "presets" then c[k] = spec[k] end
  end
  if presets and c.scale == nil then c.scale = "full" end
  local known = sorted(c)
  if presets then apply_preset(c, presets, context.knobs.scale or c.scale) end
  for _, k in ipairs(sorted(context.knobs)) do
    if c[k] == nil then unknown_knob(k, known) end
    c[k] = parse(k, context.knobs[k], c[k])
  end
  context.config = c
  return setmetatable(c, { __index = function(_, k)
    core.fail(("there is no knob '%s'%s   knobs: %s"):format(tostring(k), util.meant(k, known), table.concat(known, " ")))
  end })
end

-- ---- players ----

local function one_loss(where, v)
  if type(v) == "function" then return { weight = 1, f = v } end
  if type(v) == "table" and type(v[2]) == "function" then
    return { weight = schedule.check(v[1], where .. ": the weight"), f = v[2] }
  end
  core.fail(("%s wants a function of the batch, or {weight, function}; got %s"):format(where, util.show(v)))
end

local function read_losses(name, spec)
  if type(spec.loss) ~= "table" then
    core.fail(("player %s: wants loss = { name = function(x) ... end }; got %s"):format(name, util.show(spec.loss)))
  end
  local losses = {}
  for _, k in ipairs(sorted(spec.loss)) do
    local where = ("player %s: loss %s"):format(name, tostring(k))
    if type(k) ~= "string" then core.fail(where .. ": losses have names, loss = { adv = function(x) ... end }") end
    local l = one_loss(where, spec.loss[k])
    l.name, l.key, l.at = k, "loss/" .. name .. "/" .. k, core.where(l.f)
    losses[#losses + 1] = l
  end
  if #losses == 0 then core.fail(("player %s has no loss"):format(name)) end
  return losses
end

-- player{"G", net or {nets}, adam{...}, loss = {name = fn or {weight, fn}}, times = 1, every = 1}
function experiment.player(spec)
  util.strict(spec, { "loss", "times", "every" }, "player", true)
  local name, nets, opt = spec[1], spec[2], spec[3]
  if type(name) ~= "string" or not name:find "^[%w_.-]+$" then
    core.fail(('player: its name comes first, player{"G", net, adam{...}, loss = {...}}; got %s'):format(util.show(name)))
  end
  if net.is(nets) then nets = { nets } end
  if type(nets) ~= "table" or getmetatable(nets) or #nets == 0 then
    core.fail(("player %s: its net (or a list of nets) comes second, got %s"):format(name, util.show(nets)))
  end
  for _, n in ipairs(nets) do
    if not net.is(n) then core.fail(("player %s: its net (or a list of nets) comes second, got %s"):format(name, util.show(n))) end
  end
  if not optim.is(opt) then
    core.fail(("player %s: its optimiser comes third, adam{2e-4, beta1 = 0.5}; got %s"):format(name, util.show(opt)))
  end
  for _, k in ipairs { "times", "every" } do
    if spec[k] and (math.type(spec[k]) ~= "integer" or spec[k] < 1) then
      core.fail(("player %s: %s wants a whole number of at least 1, got %s"):format(name, k, util.show(spec[k])))
    end
  end
  return setmetatable({ name = name, at = core.where(), nets = nets, opt = opt, losses = read_losses(name, spec), times = spec.times or 1,
    every = spec.every or 1 }, Player)
end

-- ---- the experiment ----

local fields = { "config", "build", "data", "forward", "players", "epochs", "steps", "metrics", "ablate", "report", "step",
  "checkpoint", "sample", "presets", "log", "replay", "precision" }

-- experiment{"name", config =, build = function(c) return {...} end, or data =, forward =, players =, epochs = or steps =, ...}
function experiment.new(spec)
  util.strict(spec, fields, "experiment", true)
  if type(spec[1]) ~= "string" or not spec[1]:match("^[%w][%w_.-]*$") then
    core.fail('experiment: its name comes first: letters, digits, "_", "-" and "."')
  end
  for _, k in ipairs { "forward", "build", "step" } do
    if spec[k] ~= nil and type(spec[k]) ~= "function" then
      core.fail(("experiment: %s wants a function, got %s"):format(k, util.show(spec[k])))
    end
  end
  context.check_precision(spec.precision, "experiment: precision")
  return setmetatable({ name = spec[1], spec = spec, at = core.where() }, Experiment)
end

function experiment.is(v) return getmetatable(v) == Experiment end

local function check_players(g)
  if type(g.players) ~= "table" or #g.players == 0 then
    core.fail_at(g.where, "experiment: players = { player{...}, ... } is missing")
  end
  local seen = {}
  for _, p in ipairs(g.players) do
    if getmetatable(p) ~= Player then
      core.fail_at(g.where, "experiment: players is a list of player{...}, an entry is " .. util.show(p))
    end
    if seen[p.name] then core.fail_at(p.at, ("player %s: another player has this name already"):format(p.name)) end
    seen[p.name] = true
  end
end

-- g.where is the line of build, or of the experiment where there is none.
local function check_game(g)
  check_players(g)
  if type(g.data) ~= "table" or not g.data.get then
    core.fail_at(g.where, ("experiment: wants data = images{...}, mnist{...} or ring{...}; got %s"):format(util.show(g.data)))
  end
  if not g.epochs and not g.steps then core.fail_at(g.where, "experiment: say how long: epochs = N or steps = N") end
  for _, k in ipairs { "epochs", "steps" } do
    local v = g[k]
    if v and (type(v) ~= "number" or v < 1 or (k == "steps" and v ~= math.floor(v))) then
      core.fail_at(g.where, ("experiment: %s wants a %snumber of at least 1, got %s"):format(k,
        k == "steps" and "whole " or "", util.show(v)))
    end
  end
end

local function name_nets(g)
  local named = {}
  for _, p in ipairs(g.players) do
    for k, n in ipairs(p.nets) do
      if not named[n] then
        n:rename(n.spec_name or (#p.nets == 1 and p.name or p.name .. k))
        named[n] = true
      end
    end
  end
  for k, a in ipairs(context.averages) do
    a.copy:rename(a.copy.spec_name or (a.source.name .. "_average"))
    named[a.copy] = true
  end
  local k = 0
  for _, n in ipairs(context.nets) do
    if not named[n] then
      k = k + 1
      n:rename(n.spec_name or ("net" .. k))
    end
  end
  local by_name = {}
  for _, n in ipairs(context.nets) do
    if by_name[n.name] then
      core.fail_at(n.at or "", ("net: two nets are called '%s'; give one another name: net{\"NAME\", ...}"):format(n.name))
    end
    by_name[n.name] = true
  end
end

-- Resolve the knobs, build the game, name its nets. Returns {name, config, players, data, forward, epochs, steps, metrics, ...}.
function Experiment:game()
  local spec = self.spec
  local c = context.config
  if spec.config then
    if c then core.fail_at(self.at, "experiment: config stands twice, as a call and in the experiment") end
    if type(spec.config) ~= "table" then
      core.fail_at(self.at, "experiment: config wants a table of knobs, got " .. util.show(spec.config))
    end
    local t = {}
    for k, v in next, spec.config do t[k] = v end
    t.presets = spec.presets or t.presets
    core.blame(self.at)
    c = experiment.config(t)
    core.blame()
  elseif not c then
    core.blame(self.at)
    c = experiment.config {}
    core.blame()
  end
  local g = { where = self.at }
  for _, k in ipairs(fields) do g[k] = spec[k] end
  if spec.build then
    local built = spec.build(c)
    g.where = core.where(spec.build)
    if type(built) ~= "table" then
      core.fail_at(g.where, "experiment: build(c) must return { data =, players =, ... }, this one returned " .. util.show(built))
    end
    core.blame(g.where)
    util.strict(built, fields, "build's result")
    context.check_precision(built.precision, "build: precision")
    core.blame()
    for _, k in ipairs(sorted(built)) do g[k] = built[k] end
  end
  g.name, g.config = self.name, c
  check_game(g)
  name_nets(g)
  return g
end

return experiment
