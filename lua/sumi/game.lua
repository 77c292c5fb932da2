-- game.lua -- one step of a game: every player in turn computes its losses and learns from them. No files, no progress, no clock.
--
-- A player's losses are walked back one at a time to where they leave the part that `forward` recorded, so that each one's memory is free
-- before the next is computed; the common part is walked once, with the sum of what arrived.
local core = require "sumi.core"
local context = require "sumi.context"
local util = require "sumi.util"
local optim = require "sumi.optim"
local schedule = require "sumi.schedule"
local memory = require "sumi.memory"
local replay = require "sumi.replay"

local Game = {}
Game.__index = Game

local Batch = { __name = "sumi.batch" }

-- #x is the number of examples.
function Batch.__len(x) return rawget(x, 1) or x._n end
function Batch.__index(x, k)
  if type(k) == "string" and k:sub(1, 1) ~= "_" then
    local names = {}
    for name in next, x do
      if type(name) == "string" and name:sub(1, 1) ~= "_" then names[#names + 1] = name end
    end
    table.sort(names)
    core.fail(("x.%s is nil%s; x has: %s"):format(k, util.meant(k, names), table.concat(names, " ")))
  end
end

local game = {}

local function params_of(nets)
  local keys, tensors, seen = {}, {}, {}
  for _, n in ipairs(nets) do
    for _, p in ipairs(n.params) do
      if not seen[p.tensor] then
        seen[p.tensor] = true
        keys[#keys + 1] = p
        tensors[#tensors + 1] = p.tensor
      end
    end
  end
  return keys, tensors
end

-- The declared game made playable: optimiser states, names of what is logged.
function game.new(declared)
  local self = setmetatable(declared, Game)
  self.draws = 1
  for _, p in ipairs(self.players) do
    p.keys, p.tensors = params_of(p.nets)
    p.optimiser = optim.new(p.opt, p.keys)
    p.rate_key = "rate/" .. p.name
    p.rate = function() return schedule.value(p.opt.lr, self.epoch, self.at) end
    for _, l in ipairs(p.losses) do
      l.now = function() return schedule.value(l.weight, self.epoch, self.at) end
      self.varies = self.varies or type(l.weight) ~= "number"
    end
    self.varies = self.varies or p.every > 1
    self.draws = math.max(self.draws, p.times)
  end
  self.forward = self.forward or function() end
  self.names, self.values, self.sources = {}, {}, {}
  self.steps_again = replay.new(self)
  return self
end

-- A batch as scripts see it; the data's own table stays as it is.
function Game:batch(data)
  local x, first = {}, nil
  for k, v in next, data do x[k] = v end
  first = x.x or x.a or x.y
  x._n = first and #first or self.data.batch
  return setmetatable(x, Batch)
end

-- source says where a replay finds v: k for result k, -k for live number k.
local function log(self, name, v, source)
  local k = #self.names + 1
  self.names[k], self.values[k], self.sources[k] = name, v, source or 0
end

local function check_loss(p, l, t)
  if not core.is_tensor(t) then
    core.fail_at(l.at, ("player %s: loss %s must return a tensor of one number, it returned %s"):format(p.name, l.name,
      util.show(t)))
  end
  if t:size() ~= 1 then
    core.fail_at(l.at, ("player %s: loss %s must return one number, it returned %s; end it with :mean()"):format(p.name, l.name,
      util.show(t)))
  end
end

function Game:diverged(l, v)
  local what = v ~= v and "nan" or "infinite"
  core.fail_at(l.at, 5, ("step %d: %s is %s"):format(self.at + 1, l.key, what))
end

-- Compute each loss and send its cotangent back as far as `common`, the mark where forward ended.
local function walk_losses(self, p, x, common)
  local learned = false
  for _, l in ipairs(p.losses) do
    local fixed = type(l.weight) == "number"
    local w = fixed and l.weight or l.now()
    if w ~= 0 then
      local t = l.f(x)
      check_loss(p, l, t)
      local v, source = replay.observe(t, l)
      log(self, l.key, v, source)
      if v ~= v or v == math.huge or v == -math.huge then self:diverged(l, v) end
      local upto = core.tape_mark()
      core.blame(l.at)
      core.pass_seed(t, fixed and w or replay.live(l.now))
      core.pass_walk(common, upto, p.tensors, true)
      core.blame()
      learned = true
    end
  end
  return learned
end

-- Does a later player still need the graph that forward recorded?
local function last_reader(self, k, common)
  for j = k + 1, #self.players do
    if core.tape_reads(common, self.players[j].tensors) then return false end
  end
  return true
end

local function learn(self, p, k, x, common)
  if not walk_losses(self, p, x, common) then return end
  if core.tape_reads(common, p.tensors) then
    core.pass_walk(0, common, p.tensors, last_reader(self, k, common))
  end
  local grads = core.pass_take(p.tensors)
  local any = false
  for j = 1, #grads do any = any or grads[j] end
  if not any then
    core.fail_at(p.at, ("player %s: none of its losses depends on its weights, so it cannot learn; is there a :detach(), " ..
      "or another player's net?"):format(p.name))
  end
  if type(p.opt.lr) == "number" then return p.optimiser:update(p.opt.lr, grads) end
  local rate, v, source = replay.live(p.rate)
  log(self, p.rate_key, v, source and -source)
  p.optimiser:update(rate, grads)
end

-- One round: a fresh batch, forward, and the players whose turn it is. Critics with times = n play n rounds.
local function round(self, r, last)
  core.blame(self.data.at)
  local x = self:fetch(r)
  core.blame()
  self.forward(x)
  local common = core.tape_mark()
  for k, p in ipairs(self.players) do
    local turn = last or r < p.times - 1
    if turn and self.at % p.every == 0 then
      learn(self, p, k, x, common)
    end
  end
end

-- The batch of round r of this step.
function Game:fetch(r)
  return self:batch(replay.fetch(r, function() return self.data:get(self.at * self.draws + r) end))
end

-- Opens round r of step `at`: the last one draws from stream 0.
function Game:begin(at, r)
  core.step_begin(context.seed, at)
  if r < self.draws - 1 then core.rng(context.seed, at, 100 + r) end
end

-- What a script's own step function sees: a step that asks which one it is cannot be replayed.
local function seen_by_script(self)
  return setmetatable({}, { __newindex = self, __index = function(_, k)
    if k == "at" or k == "epoch" then core.list_refuse "it asks which step it is" end
    if k == "values" then core.list_refuse "it looks at what is logged" end
    local v = self[k]
    if Game[k] ~= v or type(v) ~= "function" then return v end
    return function(_, ...) return v(self, ...) end
  end })
end

-- Play step `at` op by op.
function Game:play(at)
  for r = 0, self.draws - 1 do
    self:begin(at, r)
    local last = r == self.draws - 1
    for k = #self.names, 1, -1 do self.names[k], self.values[k], self.sources[k] = nil, nil, nil end   -- the last round is what is logged
    if self.step and last then self.step(seen_by_script(self), self:fetch(r))
    else round(self, r, last) end
    if last then memory.follow() end
    core.step_end()
  end
end

-- Steps of one kind do the same ops: whose turn it is, which losses have a weight.
function Game:kind(at)
  if not self.varies then return "" end
  local parts = {}
  for _, p in ipairs(self.players) do
    parts[#parts + 1] = at % p.every == 0 and p.name or ""
    for _, l in ipairs(p.losses) do
      if type(l.weight) ~= "number" then parts[#parts + 1] = l.now() == 0 and "0" or "1" end
    end
  end
  return table.concat(parts, " ")
end

-- Step `at` (from 0): played, or replayed to the same bits (replay.lua). self.names and self.values then hold what is logged.
-- Errors leave no open step.
function Game:step_once(at)
  self.at, self.epoch = at, at * self.draws // self.per_epoch
  context.mode = "train"
  self.steps_again:step(at)
  collectgarbage "step"                -- a young collection: what the step left behind makes room for the next one
end

-- An error of code 6 when step `at` does not fit the memory; nothing is computed and nothing changes.
function Game:check_memory(at)
  self.at, self.epoch = at, at * self.draws // self.per_epoch
  context.mode = "train"
  replay.check(self, at)
end

-- The script's functions that a step calls, and what else is given.
function Game:functions(...)
  local list = { self.forward, self.step or self.forward, ... }
  for _, p in ipairs(self.players) do
    for _, l in ipairs(p.losses) do list[#list + 1] = l.f end
  end
  return list
end

-- The counters that playing a step changes; the function that comes back restores them.
function Game:remember()
  local t, pools = {}, {}
  for k, p in ipairs(self.players) do t[k] = { table.unpack(p.optimiser.t) } end
  for k, pool in ipairs(context.pools) do pools[k] = pool.count end
  return function()
    for k, p in ipairs(self.players) do
      for j, n in ipairs(t[k]) do p.optimiser.t[j] = n end
    end
    for k, pool in ipairs(context.pools) do pool.count = pools[k] end
  end
end

-- For a script's own step function: let one player (by name) learn from x now.
function Game:update(name, x)
  for k, p in ipairs(self.players) do
    if p.name == name then return learn(self, p, k, x, core.tape_mark()) end
  end
  core.fail(("game:update: there is no player '%s'"):format(tostring(name)))
end

-- ---- everything a checkpoint must hold ----

function Game:tensors()
  local out = {}
  for _, n in ipairs(context.nets) do
    for _, p in ipairs(n:state()) do out[#out + 1] = { p.key, p.tensor } end
  end
  for _, p in ipairs(self.players) do
    for _, t in ipairs(p.optimiser:tensors("opt/" .. p.name)) do out[#out + 1] = t end
  end
  for k, pool in ipairs(context.pools) do
    if pool.images then out[#out + 1] = { "pool/" .. k, pool.images } end
  end
  return out
end

-- Counters beside the tensors.
function Game:counters()
  local t, pools = {}, {}
  for _, p in ipairs(self.players) do t[p.name] = p.optimiser.t end
  for k, pool in ipairs(context.pools) do
    pools[k] = { count = pool.count, shape = pool.images and pool.images:shape(), dtype = pool.images and pool.images:dtype() }
  end
  return { updates = t, pools = pools }
end

-- The reverse: into(name, tensor) fills a tensor from a checkpoint.
function Game:restore(meta, into)
  for k, pool in ipairs(context.pools) do
    local saved = meta.pools[k]
    pool.count = saved.count
    if saved.shape then pool:reserve(saved.shape, saved.dtype) end
  end
  for _, p in ipairs(self.players) do
    for j, n in ipairs(meta.updates[p.name]) do p.optimiser.t[j] = math.tointeger(n) end
  end
  for _, t in ipairs(self:tensors()) do into(t[1], t[2]) end
end

return game
