-- replay.lua -- the training step as a recorded list of ops (runtime/replay.h): after warm-up a step runs without Lua, to the same bits.
--
-- Steps come in kinds (which players have their turn, which scheduled losses count); each kind is played once, recorded twice, and replayed
-- from then on if both recordings say the same. Every CHECK steps one is played and recorded again: a step that changed by itself is
-- found out then at the latest. What changes between steps is told: data are inputs, schedules and counters are live numbers. A step
-- that looks at numbers, prints, counts in a variable of its own, or keeps what it made cannot be replayed; it is played op by op, and that
-- is said once.
local core = require "sumi.core"
local context = require "sumi.context"
local util = require "sumi.util"
local upvalues = require "sumi.upvalues"

local replay = {}
local Replay = {}
Replay.__index = Replay

local WARM <const>, TRIES <const>, CHECK <const>, KINDS <const>, WORTH <const> = 1, 4, 1000, 8, 5

local open                               -- what is being recorded: {list=, lives=, results=, inputs=, dry=}

-- ---- what the game says while it plays ----

-- A number that is another one in each step: get() gives it. Ops take what comes first; the second is its value now.
function replay.live(get)
  local v = get()
  if not open then return v, v end
  local n = #open.lives
  open.lives[n + 1] = get
  return core.list_number(v, n), v, n + 1
end

-- What f makes is no part of the step, and made in a dry one as well.
function replay.aside(f)
  if not open then return f() end
  core.list_pause(true)
  local x = f()
  core.list_pause(false)
  return x
end

-- The one number of t, and where it will be found in a replay. info is what the game wants to know about it then.
function replay.observe(t, info)
  if not open then return t:item() end
  local v = open.dry and 0.0 or replay.aside(function() return t:item() end)
  local k = core.list_result(t) + 1
  open.results[k] = info
  return v, k
end

-- The data of a round: made outside of the recording, and its inputs. from is where they come from: a function of no arguments.
function replay.fetch(round, from)
  local x = replay.aside(from)
  if not open then return x end
  for _, name in ipairs(util.names(x)) do
    if core.is_tensor(x[name]) then open.inputs[#open.inputs + 1] = { round, name, core.list_input(x[name]) }
    else core.list_refuse(("the batch holds '%s', which is no tensor"):format(name)) end
  end
  return x
end

-- ---- recording ----

local closing = { __close = function()
  if open then core.list_end() end
  open = nil
end }

-- Play step `at` of the game and record it. -> recording, or nil and why not
local function record(game, at, dry)
  open = { list = core.list_begin(context.device, dry), lives = {}, results = {}, inputs = {}, dry = dry }
  local _ <close> = setmetatable({}, closing)
  local r = open
  local before = upvalues.of(game:functions())
  game:play(at)
  local changed = upvalues.changed(before)
  if changed then core.list_refuse(("it changes '%s', a variable of the script"):format(changed)) end
  local ok, why = core.list_end()
  r.names, r.sources = { table.unpack(game.names) }, { table.unpack(game.sources) }
  if ok or dry then return r end
  core.list_free(r.list)
  return nil, why
end

local function same(a, b)
  if table.concat(a.names, " ") ~= table.concat(b.names, " ") then return false, "it logs other names" end
  return core.list_same(a.list, b.list)
end

function replay.new(game)
  local off = os.getenv "SUMI_REPLAY" == "0" or game.replay == false
  return setmetatable({ game = game, kinds = {}, count = 0, off = off }, Replay)
end

-- The memory of all recordings goes back.
function Replay:forget()
  for _, k in pairs(self.kinds) do
    if k.ready then core.list_free(k.ready.list) end
  end
  self.kinds, self.count = {}, 0
end

function Replay:stop(why)
  self.off = why
  self:forget()
  core.list_rest(context.device)
  local say = self.game.say or function() end
  say(("steps are played op by op, not replayed: %s"):format(why))
end

-- The recordings of a kind of step; too many kinds are all forgotten.
function Replay:kind(key)
  local k = self.kinds[key]
  if k then return k end
  if self.count == KINDS then self:forget() end
  k = { seen = 0, tries = 0, replays = 0 }
  self.kinds[key], self.count = k, self.count + 1
  return k
end

-- The data of this step do not fit the recording: it is made anew, unless none lasts.
function Replay:misfit(k, why)
  core.list_free(k.ready.list)
  core.list_rest(context.device)
  k.misfits = k.replays < WORTH and (k.misfits or 0) + 1 or 0
  k.ready, k.last, k.seen, k.tries, k.replays = nil, nil, 1, 0, 0
  if k.misfits == TRIES then self:stop(why) end
end

-- Two recordings said the same: from now on this one runs, if its memory can be had.
function Replay:begin(k, r)
  local ok, no_graph = pcall(core.list_ready, r.list)
  if not ok then
    core.list_free(r.list)
    return self:stop("there is no room: " .. tostring(no_graph.msg or no_graph):match "^[^\n]*")
  end
  k.ready = r
  if no_graph and self.game.say and not self.told then
    self.game.say("steps are replayed op by op, not as one graph: " .. no_graph)
    self.told = true
  end
end

-- Play and record; ready after two recordings that say the same.
function Replay:learn(k, at)
  core.list_rest(context.device)
  local r, why = record(self.game, at)
  if r and k.ready then
    local ok, what = same(k.ready, r)
    core.list_free(r.list)
    k.replays = 0
    if not ok then self:stop(("step %d is not what was recorded: %s"):format(at + 1, what)) end
    return
  end
  if r and k.last then
    local ok, what = same(k.last, r)
    core.list_free(k.last.list)
    k.last, why = nil, what
    if ok then return self:begin(k, r) end
  end
  k.last = r
  if not why then return end             -- the first of two
  k.tries = k.tries + 1
  if k.tries == TRIES then self:stop(why) end
end

-- ---- replaying ----

-- The data of every round, as the game would fetch them. -> false and why when they do not fit
local function give(game, r, at)
  local k = 1
  for round = 0, game.draws - 1 do
    game:begin(at, round)
    core.blame(game.data.at)
    local x = game.data:get(at * game.draws + round)
    core.blame()
    while r.inputs[k] and r.inputs[k][1] == round do
      local ok, why = core.list_give(r.list, r.inputs[k][3], x[r.inputs[k][2]])
      if not ok then return false, why end
      k = k + 1
    end
    core.step_end()
  end
  return true
end

local function run(game, r, at)
  r.values, r.found = r.values or {}, r.found or {}
  for k, get in ipairs(r.lives) do
    local v = get()
    r.values[k] = v
    core.list_set(r.list, k - 1, v)
  end
  local bad = core.list_run(r.list, at, r.found)
  for k = #game.names, 1, -1 do game.names[k], game.values[k] = nil, nil end
  for k, name in ipairs(r.names) do
    local s = r.sources[k]
    game.names[k], game.values[k] = name, s > 0 and r.found[s] or r.values[-s]
  end
  if bad then game:diverged(r.results[bad], r.found[bad]) end
end

-- Step `at`: replayed where it can be, played where it must.
function Replay:step(at)
  local game = self.game
  if self.off then return game:play(at) end
  local k = self:kind(game:kind(at))
  k.seen = k.seen + 1
  if k.ready and k.replays < CHECK then
    k.replays = k.replays + 1
    local fits, why = give(game, k.ready, at)
    if fits then return run(game, k.ready, at) end
    self:misfit(k, why)
    return game:play(at)
  end
  if k.seen <= WARM then
    core.list_rest(context.device)       -- what other kinds of steps hold is room for this one
    return game:play(at)
  end
  self:learn(k, at)
end

-- What the replayed steps are made of, for tests and the bench: a list of {entries, bytes, ...}.
function Replay:sizes()
  local out = {}
  for _, key in ipairs(util.names(self.kinds)) do
    local k = self.kinds[key]
    if k.ready then out[#out + 1] = core.list_sizes(k.ready.list) end
  end
  return out
end

-- ---- before anything runs ----

-- Does a step fit the device's memory? It is played without running anything; an error of code 6 says what does not fit.
function replay.check(game, at)
  local undo, before = game:remember(), upvalues.of(game:functions(game.data))
  local ok, r = pcall(record, game, at, true)
  core.step_end()
  undo()
  upvalues.restore(before)
  if not ok and type(r) == "table" and r.code == 6 then error(r, 0) end   -- a device tells a failure once
  if not ok then return end              -- the step itself will tell
  core.blame(game.where)
  core.list_fits(r.list)
  core.blame()
  core.list_free(r.list)
end

function replay.dry() return open and open.dry end

return replay
