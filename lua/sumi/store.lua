-- store.lua -- the run store: results/EXPERIMENT/VARIANT/seed-N/ and what is in it. Creating and reopening
-- runs, finding them, their checkpoints. A run being written is in store_write.lua, reading one in
-- store_read.lua.
--     run.h5        everything so far but the journal's rows: complete at any moment, replaced whole
--     journal.tsv   step, seconds, metric, value: what run.h5 lacks yet
--     status.json   state, step, host, pid: the heartbeat        claim   who owns it, locked while it lives
--     samples/      pictures        ckpt/step-N.h5  checkpoints behind a digest        log.txt  what was printed
local core = require "sumi.core"
local json = require "sumi.json"
local reader = require "sumi.store_read"
local writer = require "sumi.store_write"

local M = { version = reader.version }

---- identity ----

-- What makes two runs repetitions of one another: code, settings but for the seed, data, precision. Each
-- part is preceded by its length, so that no two lists of parts read the same.
function M.identity(o)
  local parts = {}
  local function add(s)
    parts[#parts + 1] = ("%d:"):format(#s)
    parts[#parts + 1] = s
  end
  for _, c in ipairs(o.code or {}) do
    add(c.name:match "[^/]*$")           -- where the script lies is no part of what it says
    add(c.text)
  end
  local config = {}
  for _, knob in ipairs(o.config or {}) do
    if knob[1] ~= "seed" then config[knob[1]] = knob[2] end
  end
  add(json.encode(config))
  for _, d in ipairs(o.data or {}) do add(d.sha256 or "") end
  add(json.encode(o.data_options or {}))
  add(o.precision or "f32")
  return core.sha256(table.unpack(parts))
end

---- creating ----

local function check_part(what, name)
  if type(name) ~= "string" or not name:find "^[^./][^/%c]*$" or name:find "~" then
    core.fail(2, ("%s '%s': a name without '/', '~', and not beginning with '.'"):format(what, tostring(name)))
  end
end

local function beat_age(dir)
  local s = reader.status(dir)
  if not s or s.state ~= "running" or type(s.updated) ~= "number" then return -1 end
  return math.max(0, core.time() - s.updated)
end

-- Takes the claim and tidies what dead owners left.
local function claim(dir)
  local c = core.claim_take(dir .. "/claim", beat_age(dir))
  core.store_sweep(dir)
  core.store_sweep(dir .. "/ckpt")
  core.store_sweep(dir .. "/samples")
  return c
end

local function make_dirs(dir)
  for _, sub in ipairs { "", "/samples", "/ckpt" } do
    local ok, message = core.mkdir_p(dir .. sub)
    if not ok then core.fail(6, message) end
  end
end

local function show(v)
  if type(v) == "table" then return json.encode(v) end
  return tostring(v)
end

-- "lr 0.0002 -> 0.001": the first knobs that differ.
local function differences(old, new, was_precision, precision)
  local was, found = {}, {}
  if was_precision ~= precision then found[1] = ("precision %s -> %s"):format(was_precision, precision) end
  for _, knob in ipairs(old) do was[knob[1]] = knob[2] end
  for _, knob in ipairs(new) do
    local a, b = show(was[knob[1]]), show(knob[2])
    if a ~= b and knob[1] ~= "seed" then found[#found + 1] = ("%s %s -> %s"):format(knob[1], a, b) end
  end
  if #found == 0 then return "its script or data differ" end
  return table.concat(found, ", ", 1, math.min(#found, 4))
end

-- Why a run cannot be created where one is: raises with what to do about it.
local function refuse(dir, o, id)
  local run = reader.read(dir)
  if run.state == "running" then core.claim_take(dir .. "/claim", beat_age(dir)):drop() end
  if run.id and run.id ~= id then
    core.fail(2, ("%s holds another run (%s)\n  try  --variant NAME to keep both, or --fresh to start over"):format(
      dir, differences(run.config, o.config or {}, run.precision or "f32", o.precision or "f32")))
  end
  if run.state == "done" then
    core.fail(2, ("%s is finished (%d steps)\n  try  --seed N for a repetition, or --fresh to start over"):format(
      dir, run.step or 0))
  end
  core.fail(2, ("%s is there already (%s at step %d)\n  try  sumi resume %s, or --fresh to start over"):format(dir,
    run.state, run.step or 0, dir))
end

-- Nothing is deleted by --fresh: the old run goes to seed-N~1, ~2 ..., where patterns do not look.
local function move_aside(dir)
  local c = core.claim_take(dir .. "/claim", beat_age(dir))
  local n = 1
  while core.stat(dir .. "~" .. n) do n = n + 1 end
  local ok, message = core.store_rename(dir, dir .. "~" .. n)
  c:drop()
  if not ok then core.fail(6, message) end
  return dir .. "~" .. n
end

-- A run that ended before its first checkpoint, by a mistake in the script say: there is nothing to go on from.
local function stillborn(dir)
  local state = reader.state(dir, reader.status(dir))
  return (state == "failed" or state == "lost") and #writer.list(dir) == 0
end

-- store.create{results=, experiment=, variant=, seed=, config={{name, value}...}, code={{name=, text=}...},
--   data={{path=, bytes=, sha256=}...}, data_options=, provenance={{name, value}...}, precision=, device=,
--   parent=, steps=, fresh=} -> writer. Without a variant its name is the first 8 digits of its identity.
function M.create(o)
  local id = M.identity(o)
  local variant = o.variant or id:sub(1, 8)
  check_part("experiment", o.experiment)
  check_part("variant", variant)
  local seed = math.tointeger(o.seed) or core.fail(2, "the seed must be a whole number, not " .. tostring(o.seed))
  local dir = ("%s/%s/%s/seed-%d"):format(o.results or "results", o.experiment, variant, seed)
  local moved
  if core.stat(dir .. "/run.h5") then
    if not o.fresh and not stillborn(dir) then refuse(dir, o, id) end
    moved = move_aside(dir)
  end
  make_dirs(dir)
  local owned = claim(dir)
  core.remove(dir .. "/journal.tsv")      -- of a life that ended before its first seal
  local run = { dir = dir, moved = moved, id = id, run_id = core.sha256(id, ":", ("%d"):format(seed)),
    experiment = o.experiment, variant = variant, seed = seed, steps = o.steps, parent = o.parent,
    precision = o.precision or "f32", created = os.date("!%Y-%m-%dT%H:%M:%SZ"), config = o.config or {},
    code = o.code or {}, data = o.data or {}, data_options = o.data_options or {}, provenance = o.provenance or {},
    events = {}, samples = {}, segments = {}, about = {}, journal = core.journal_new() }
  return M.started(run, owned, o.device)
end

-- Lets go of the claim if the writer cannot start.
function M.started(run, owned, device)
  local ok, err = pcall(writer.start, run, owned, device)
  if ok then return run end
  owned:drop()
  error(err, 0)
end

-- store.reopen(dir [, {device=, steps=}]) -> writer that goes on: rows of the journal are sealed, leftovers
-- of the dead owner removed. Call run:newest() and then run:rewind(step) before training on.
function M.reopen(dir, o)
  dir = dir:gsub("(.)/+$", "%1")
  if not reader.is_run(dir) then core.fail(4, dir .. ": no run here (there is no run.h5)") end
  reader.open(dir):close()               -- another version: say so before anything is touched
  make_dirs(dir)
  local owned = claim(dir)
  local ok, run = pcall(reader.load, dir)
  if not ok then
    owned:drop()
    error(run, 0)
  end
  run.steps = o and o.steps or run.steps
  local list = writer.list(dir)
  run.saved, run.sealed, run.ended = list[1] and list[1].step, true, nil
  run.seconds = M.last_seconds(run)
  return M.started(run, owned, o and o.device)
end

-- Seconds of training up to the last row: where the clock of the next life goes on.
function M.last_seconds(run)
  local last = 0.0
  for _, name in ipairs((run.journal:names())) do
    local s = run.journal:series(name)
    local at = s.seconds[#s.seconds]
    if at and at > last then last = at end
  end
  return last
end

---- checkpoints ----

-- store.load(path) -> the checkpoint, verified; raises for a damaged one or another version.
function M.load(path)
  local ckpt, state, message = core.ckpt_open(path)
  if not ckpt then core.fail(state == "unreadable" and 4 or 1, message) end
  return reader.wrap(ckpt, path)
end

-- store.checkpoints(dir) -> {step=, path=, ok=, message=} newest first, every digest checked.
function M.checkpoints(dir)
  local list = writer.list(dir)
  for _, c in ipairs(list) do
    local state, message = core.ckpt_check(c.path)
    c.ok, c.message = state == "good", message
  end
  return list
end

-- store.newest(dir) -> the newest good checkpoint or nil, messages about damaged ones. Changes nothing:
-- run:newest() of a writer also sets the damaged ones aside.
function M.newest(dir)
  local messages = {}
  for _, c in ipairs(writer.list(dir)) do
    local ckpt, _, message = core.ckpt_open(c.path)
    if ckpt then return reader.wrap(ckpt, c.path), messages end
    messages[#messages + 1] = message
  end
  return nil, messages
end

---- finding ----

local function collect(dir, depth, found)
  if reader.is_run(dir) then
    found[#found + 1] = dir
    return found
  end
  if depth == 0 then return found end
  for _, name in ipairs(core.listdir(dir) or {}) do
    local at = dir .. "/" .. name
    local skip = name:find "^%." or name:find "~%d+$"
    local st = not skip and core.stat(at)
    if st and st.type == "dir" then collect(at, depth - 1, found) end
  end
  return found
end

-- A glob as a Lua pattern; * and ? also match '/', so "rings/*" means everything below rings.
local function glob(pattern)
  local p = pattern:gsub("[%^%$%(%)%%%.%+%-]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".")
  return "^" .. p .. "$"
end

local function started(dir)
  local st = core.stat(dir .. "/claim") or core.stat(dir .. "/run.h5")
  return st and st.mtime or 0
end

local function ids(dir)
  local s = reader.status(dir)
  if s and s.id then return s.id, s.run_id end
  local ok, h = pcall(core.h5_open, dir .. "/run.h5")
  if not ok then return "", "" end
  local id, run_id = h:attr("/", "id"), h:attr("/", "run_id")
  h:close()
  return tostring(id), tostring(run_id)
end

local function select(results, all, pattern)
  local chosen = {}
  if pattern == "@last" then
    for _, dir in ipairs(all) do
      if not chosen[1] or started(dir) >= started(chosen[1]) then chosen[1] = dir end
    end
    return chosen
  end
  local lua_pattern = pattern:find "[*?%[]" and glob(pattern)
  local hex = #pattern >= 4 and pattern:find "^%x+$"
  for _, dir in ipairs(all) do
    local rel = dir:sub(#results + 2)
    local hit = lua_pattern and rel:find(lua_pattern) or (rel .. "/"):sub(1, #pattern + 1) == pattern .. "/"
    if not hit and hex then
      local id, run_id = ids(dir)
      hit = id:sub(1, #pattern) == pattern or run_id:sub(1, #pattern) == pattern
    end
    if hit then chosen[#chosen + 1] = dir end
  end
  return chosen
end

local function nothing(results, all, pattern)
  if #all == 0 then
    core.fail(4, ("no run in %s\n  try  sumi run SCRIPT"):format(results))
  end
  local rel = {}
  for i = 1, math.min(#all, 8) do rel[i] = "  " .. all[i]:sub(#results + 2) end
  if #all > 8 then rel[9] = ("  and %d more: sumi ls"):format(#all - 8) end
  core.fail(4, ("no run matches '%s'; in %s there are\n%s"):format(pattern, results, table.concat(rel, "\n")))
end

-- store.find(results, pattern) -> sorted run directories: a path, an id prefix of at least 4 digits, @last,
-- a glob or a folder ("rings/*", "rings"); nil or "" means all. Exit code 4 when nothing matches (but not
-- for all).
function M.find(results, pattern)
  results = (results or "results"):gsub("(.)/+$", "%1")
  pattern = (pattern or ""):gsub("(.)/+$", "%1")
  if pattern ~= "" then
    local dir = pattern:gsub("/run%.h5$", "")
    local st = core.stat(dir)
    if st and st.type == "dir" and reader.is_run(dir) then return { dir } end
    if st and st.type == "dir" and dir:find "/" then
      local found = collect(dir, 3, {})
      if #found > 0 then return found end
    end
  end
  local all = collect(results, 4, {})
  table.sort(all)
  if pattern == "" then return all end
  local chosen = select(results, all, pattern)
  if #chosen == 0 then nothing(results, all, pattern) end
  return chosen
end

-- store.read(dir) -> {dir, id, run_id, experiment, variant, seed, state, step, steps, created, ended,
-- config, names,
--   series(name), summary[name], about[name], samples, events, segments, provenance, code, data, data_options, status}.
M.read, M.state, M.status = reader.read, reader.state, reader.status

return M
