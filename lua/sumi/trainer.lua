-- trainer.lua -- `sumi run` and `sumi resume`: loads a script, plays its game step by step, keeps the record, answers signals.
local core = require "sumi.core"
local context = require "sumi.context"
local experiment = require "sumi.experiment"
local game_of = require "sumi.game"
local json = require "sumi.json"
local metric = require "sumi.metric"
local store = require "sumi.store"
local term = require "sumi.term"
local util = require "sumi.util"

local trainer = {}

-- ---- loading a script ----

-- The files that a script requires are part of the experiment and are kept with it.
local function user_modules(before)
  local code = {}
  for _, name in ipairs(util.names(package.loaded)) do
    if not before[name] and name:sub(1, 4) ~= "sumi" then
      local path = package.searchpath(name, package.path)
      local text = path and core.read_file(path)
      if text then code[#code + 1] = { name = "module:" .. name, text = text } end
    end
  end
  return code
end

local function call_script(path, text)
  local f, err = load(text, "@" .. path, "t")
  if not f then
    local line, what = err:match "^.-:(%d+): (.*)$"       -- Lua shortens long paths
    core.fail_at(path .. (line and ":" .. line or "") .. ": ", what or err)
  end
  local exp = f()
  if not experiment.is(exp) then
    core.fail_at("", ("%s: a script ends in `return experiment{...}`, this one returned %s"):format(path, util.show(exp)))
  end
  return exp
end

-- What the command line says comes before what the script says.
local function set_precision(o, declared)
  if not o.precision then core.blame(declared.where) end
  context.set_precision(o.precision or declared.precision or "f32")
  core.blame()
  if context.precision == "tf32" and context.device == "cpu" then term.say "precision tf32: on the CPU this is f32" end
end

-- Load and build: o.script, o.text, o.knobs {name = value}, o.seed, o.device, o.precision (nil: the script's). Returns the game
-- and the code.
local function load_game(o)
  context.reset(o.seed, o.device, o.knobs)
  if o.precision then context.set_precision(o.precision) end
  local dir = o.script:match "^(.*)/[^/]*$" or "."
  require("sumi.data").base = { dir }
  package.path = dir .. "/?.lua;" .. package.path
  local before = {}
  for k in next, package.loaded do before[k] = true end
  context.config = nil
  local exp = call_script(o.script, o.text)
  local declared = exp:game()
  set_precision(o, declared)
  local code = { { name = o.script, text = o.text } }
  for _, m in ipairs(user_modules(before)) do code[#code + 1] = m end
  return game_of.new(declared), code
end

local function open_data(g)
  core.blame(g.data.at)
  g.data:open { seed = context.seed, device = context.device }
  g.per_epoch = g.data:steps_per_epoch()
  if g.per_epoch < 1 then
    core.fail(("%s: there are %d examples, fewer than one batch of %d"):format(g.data.kind or "data", g.data:count(), g.data.batch))
  end
  core.blame()
end

local function total_steps(g, asked)
  return asked or g.steps or math.ceil(g.epochs * g.per_epoch / g.draws)
end

-- ---- what is recorded ----

local function config_list(g)
  local out = {}
  for _, k in ipairs(util.names(g.config)) do out[#out + 1] = { k, g.config[k] } end
  return out
end

local function provenance(o, g)
  local cpu = core.cpu()
  local list = { { "command", o.command or "" }, { "cwd", core.getcwd() }, { "script", o.script }, { "host", core.hostname() },
    { "cpu", cpu.name or cpu.model or "" }, { "threads", core.threads() }, { "device", context.device },
    { "precision", context.precision }, { "deterministic", true }, { "sumi", core.version } }
  local v = core.versions()
  for _, k in ipairs(util.names(v)) do list[#list + 1] = { "version_" .. k, v[k] } end
  if g.report then list[#list + 1] = { "report", json.encode(g.report) } end
  return list
end

local function all_finite(g)
  for _, t in ipairs(g:tensors()) do
    if core.ops.finite(t[2]):item() == 0 then return t[1] end
  end
end

-- A checkpoint of the state before step `at`. A state that is not finite is no state to go on from.
local function save(g, at)
  local bad = all_finite(g)
  if bad then
    core.fail(5, ("step %d: %s is not finite"):format(at, bad))
  end
  local meta = g:counters()
  meta.seed, meta.step, meta.steps, meta.seconds = context.seed, at, g.total, g.seconds
  meta.threads, meta.device, meta.precision, meta.philox = core.threads(), context.device, context.precision, 1
  local began = core.now()
  g.run:save(at, g:tensors(), meta)
  g.saved_at, g.saved_when = at, core.now()
  g.save_every = math.max(60, 30 * (g.saved_when - began))     -- saving takes 3% of the time at most
end

local function measure_all(g, at, force)
  for _, m in ipairs(g.metrics) do
    local every = m.every == "epoch" and math.max(1, g.per_epoch // g.draws) or m.every
    if force or at % every == 0 then
      core.step_begin(context.seed, at)
      core.blame(m.at)
      local found = m:run(g, at)
      core.blame()
      core.step_end()
      local names, values = {}, {}
      for k, f in ipairs(found) do
        names[k], values[k] = "metric/" .. f[1], f[2]
        if not g.described[f[1]] then
          g.run:describe(names[k], { better = f[3] })
          g.described[f[1]] = true
        end
      end
      if #names > 0 then g.run:metrics(at, g.seconds, names, values) end
    end
  end
end

-- ---- the loop ----

-- One number for each player: the sum of its terms as they were logged.
local function summary(g)
  local out, at = {}, {}
  for k, name in ipairs(g.names) do
    local player = name:match "^loss/([^/]+)/"
    if player then
      if not at[player] then
        out[#out + 1] = { player, 0 }
        at[player] = out[#out]
      end
      at[player][2] = at[player][2] + g.values[k]
    end
  end
  return out
end

local function report_warnings(g, at)
  if not g.data.warnings then return end
  for _, text in ipairs(g.data:warnings()) do
    term.say(text)
    g.run:event(at, g.seconds, "warning", text)
  end
end

local function due(g, at)
  local every = g.checkpoint_steps
  if every then return at % every == 0 end
  return core.now() - g.saved_when >= (g.save_every or 60)
end

local function stop_by_signal(g, at, name)
  if g.saved_at ~= at then save(g, at) end
  g.run:event(at, g.seconds, "signal", name)
  g.run:finish("stopped", 75, name)
  term.say(("stopped by SIG%s at step %d of %d; go on with:  sumi resume %s"):format(name, at, g.total, g.run.dir))
  return 75
end

local function play(g, first)
  local p = term.progress { label = ("%s seed %d"):format(g.name, context.seed), total = g.total }
  local began, before = core.now(), g.seconds
  g.saved_when = g.saved_when or began
  g.say = function(text)
    term.say(text)
    g.run:event((g.at or first) + 1, g.seconds, "note", text)
  end
  g:check_memory(first)
  for at = first, g.total - 1 do
    local t0 = core.now()
    g:step_once(at)
    local done = at + 1
    local now = core.now()
    g.seconds = before + now - began
    g.pace = g.pace and 0.95 * g.pace + 0.05 * (now - t0) or now - t0
    g.run:metrics(done, g.seconds, g.names, g.values)
    p:update { step = done, rate = 1 / g.pace, eta = (g.total - done) * g.pace, losses = summary(g) }
    report_warnings(g, done)
    measure_all(g, done, done == g.total)
    local signal = core.signal_pending()
    if signal then
      p:done()
      return stop_by_signal(g, done, signal)
    end
    if done < g.total and due(g, done) then save(g, done) end
  end
  p:done()
  save(g, g.total)
  g.run:finish("done", 0)
  if g.last_words then print(g.last_words) end
  print(g.run.dir)
  return 0
end

-- Whatever ends a run early is written down with it before it is told.
local function guarded(g, first)
  term.keep(g.run.dir .. "/log.txt")
  local ok, err = xpcall(play, core.explain, g, first)
  if ok then return err end
  if type(err) ~= "table" then err = { code = 1, msg = tostring(err) } end
  core.step_end()
  core.blame()
  local code = err.code or 1
  local state = code == 5 and "diverged" or "failed"
  pcall(g.run.event, g.run, (g.at or -1) + 1, g.seconds, code == 5 and "nan" or "error", tostring(err.msg))
  g.run:finish(state, code, tostring(err.msg))
  local note = g.saved_at and ("  last good checkpoint: step %d of %s"):format(g.saved_at, g.run.dir) or
    ("  no checkpoint was written yet; the record is in %s"):format(g.run.dir)
  if code == 6 then note = note .. ("\n  once that is mended, go on with:  sumi resume %s"):format(g.run.dir) end
  local text = tostring(err.msg) .. "\n" .. note
  term.record(text)
  term.keep(nil)
  core.fail_at("", code, text)
end

local function prepare(g)
  g.seconds, g.described = g.seconds or 0, {}
  g.metrics = g.metrics or {}
  for k, m in ipairs(g.metrics) do
    if not metric.is(m) then
      core.fail_at(g.where, ("metrics: entry %d is no metric (grid, modes, measure): %s"):format(k, util.show(m)))
    end
    core.blame(m.at)
    if m.start then m:start(g) end
    core.blame()
  end
  local every = os.getenv "SUMI_CHECKPOINT"
  g.checkpoint_steps = every and math.tointeger(tonumber(every)) or g.checkpoint
end

local function dry(g)
  for _, n in ipairs(context.nets) do print(tostring(n) .. "\n") end
  print("config")
  for _, k in ipairs(util.names(g.config)) do print(("  %-12s %s"):format(k, tostring(g.config[k]))) end
  print("players")
  for _, p in ipairs(g.players) do
    local names = {}
    for k, l in ipairs(p.losses) do names[k] = l.name end
    print(("  %-4s learns from %s"):format(p.name, table.concat(names, ", ")))
  end
  print(("data      %s"):format(tostring(g.data)))
  print(("steps     %d, of %d an epoch"):format(g.total, g.per_epoch))
  return 0
end

-- run{script=, knobs={{name, text}...}, seed=, variant=, device=, precision=, steps=, results=, fresh=, dry=} -> exit code
function trainer.run(o)
  local text = core.read_file(o.script)
  if not text then core.fail(2, o.script .. ": no such script") end
  local knobs = {}
  for _, k in ipairs(o.knobs or {}) do knobs[k[1]] = k[2] end
  local g, code = load_game { script = o.script, text = text, knobs = knobs, seed = o.seed or 0, device = o.device or "cpu",
    precision = context.check_precision(o.precision, "--precision", 2) }
  open_data(g)
  g.total = total_steps(g, o.steps)
  if o.dry then return dry(g) end
  prepare(g)
  g.run = store.create { results = o.results, experiment = g.name, variant = o.variant or "default", seed = o.seed or 0,
    config = config_list(g), code = code, data = g.data:manifest(), data_options = g.data:describe(), provenance = provenance(o, g),
    steps = g.total, fresh = o.fresh, device = context.device, precision = context.precision }
  if g.run.moved then term.say("the run that was there is now " .. g.run.moved) end
  return guarded(g, 0)
end

-- ---- going on ----

local function knobs_of(rec)
  local knobs = {}
  for _, k in ipairs(rec.config) do knobs[k[1]] = k[2] end
  return knobs
end

local function provenance_of(rec, name)
  for _, p in ipairs(rec.provenance) do
    if p[1] == name then return p[2] end
  end
end

-- The script as it was: its text and its modules come from the run, its place (for data) from where it lay.
local function script_of(rec)
  for k = 2, #rec.code do
    local name = rec.code[k].name:match "^module:(.*)$"
    if name then package.preload[name] = load(rec.code[k].text, "@" .. name, "t") end
  end
  return rec.code[1].name, rec.code[1].text
end

local function restore(g, run, rec)
  local ckpt, reports = run:newest(store.wrap)
  for _, text in ipairs(reports) do term.say(text) end
  local at = 0
  if ckpt then
    at = math.tointeger(ckpt.step)
    if ckpt.meta.threads ~= core.threads() then
      term.say(("the run used %d threads; so does this"):format(ckpt.meta.threads))
      core.threads(math.tointeger(ckpt.meta.threads))
    end
    g:restore(ckpt.meta, ckpt.into)
    g.seconds = ckpt.meta.seconds
    ckpt.close()
    g.saved_at = at
  end
  local dropped = run:rewind(at)
  run:event(at, g.seconds or 0, "resume", ("from step %d"):format(at))
  term.say(("resuming %s at step %d of %d%s"):format(rec.dir, at, g.total,
    dropped > 0 and (" (%d rows after it are dropped and computed again)"):format(dropped) or ""))
  return at
end

-- resume{dir=, device=, steps=} -> exit code. The same script text, knobs, seed and data; the newest checkpoint that is whole.
function trainer.resume(o)
  local rec = store.read(o.dir)
  if rec.state == "done" and not (o.steps and o.steps > (rec.steps or 0)) then
    term.say(("%s is finished (%d steps); --steps N goes on to step N"):format(rec.dir, rec.steps or 0))
    return 0
  end
  if not rec.code[1] then core.fail(1, rec.dir .. ": its record holds no script") end
  local run = store.reopen(o.dir, { steps = o.steps, device = o.device })
  local ok, g, at = xpcall(function()
    local script, text = script_of(rec)
    local g = load_game { script = script, text = text, knobs = knobs_of(rec), seed = rec.seed,
      device = o.device or provenance_of(rec, "device") or "cpu", precision = rec.precision or "f32" }
    g.run = run
    open_data(g)
    g.total = o.steps or rec.steps or total_steps(g)
    prepare(g)
    return g, restore(g, run, rec)
  end, core.explain)
  if not ok then
    run:close()
    error(g, 0)
  end
  return guarded(g, at)
end

return trainer
