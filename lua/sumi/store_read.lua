-- store_read.lua -- a run directory as a table: run.h5, then the rows of journal.tsv that are not sealed
-- yet, then who is alive. Writes nothing. (store.lua has the layout; writing is in store_write.lua.)
local core = require "sumi.core"
local json = require "sumi.json"

local M = {}

M.format, M.version = "sumi-run", 1
M.stale = 300                 -- seconds without a heartbeat after which a run that cannot be asked counts as lost

local function read_text(path)
  local text = core.read_file(path)
  return text
end

-- status.json as a table; nil when it is not there or not readable.
function M.status(dir)
  local text = read_text(dir .. "/status.json")
  local ok, t = pcall(json.decode, text or "")
  if ok and type(t) == "table" and type(t.state) == "string" then return t end
  return nil
end

-- The state is computed, never written back: what status.json says, unless it says "running". Then the lock
-- of the claim decides on this machine, and the heartbeat elsewhere.
function M.state(dir, status)
  status = status or M.status(dir)
  local held, owner = core.claim_peek(dir .. "/claim")
  if held == "held" then return status and status.state ~= "running" and status.state or "running" end
  if not status then return "unknown" end
  if status.state ~= "running" then return status.state end
  if held == "free" then return "lost" end
  if owner.pid == 0 and status.boot == core.owner_self().boot then return "lost" end   -- a claim never written
  if type(status.updated) ~= "number" then return "unknown" end
  local age = core.time() - status.updated
  if age < M.stale then return "running" end
  return owner.pid > 0 and "lost" or "unknown"
end

-- Is there a run here at all?
function M.is_run(dir)
  return core.stat(dir .. "/run.h5") ~= nil or core.stat(dir .. "/claim") ~= nil
end

---- run.h5 ----

-- Opens it; raises for another format or version, naming the file.
function M.open(dir)
  local path = dir .. "/run.h5"
  if not core.stat(path) then core.fail(4, ("%s: no run here (there is no run.h5)"):format(dir)) end
  local h = core.h5_open(path)
  local format, version = h:attr("/", "format"), h:attr("/", "format_version")
  if format == M.format and version == M.version then return h end
  h:close()
  if format ~= M.format then
    core.fail(1, ("%s: not a run of Sumi (its format is %s)"):format(path,
      format and "'" .. tostring(format) .. "'" or "not given"))
  end
  core.fail(1, ("%s: format version %s, this Sumi reads and writes version %d; open it with the Sumi " ..
    "that wrote it. The file was not touched"):format(path, tostring(version), M.version))
end

local root_fields = { "id", "run_id", "experiment", "variant", "seed", "steps", "step", "created", "ended",
  "parent", "device", "precision" }

-- The rows of a table as an array of {column = value}.
local function rows_of(h, path)
  local rows = {}
  if h:kind(path) ~= "dataset" then return rows end
  local columns, names, n = h:columns(path)
  for i = 1, n do
    local row = {}
    for _, name in ipairs(names) do row[name] = columns[name][i] end
    rows[i] = row
  end
  return rows
end

local function lines(text)
  local out = {}
  for line in (text or ""):gmatch "([^\n]+)" do out[#out + 1] = line end
  return out
end

local function read_config(h)
  local ok, values = pcall(json.decode, h:attr("/config", "json") or "{}")
  local list = {}
  for _, name in ipairs(lines(h:attr("/config", "order"))) do
    list[#list + 1] = { name, ok and values[name] }
  end
  return list
end

local function read_provenance(h)
  local list = {}
  for _, name in ipairs(lines(h:attr("/provenance", "order"))) do
    local value = h:attr("/provenance", name)
    if value == nil and h:kind("/provenance/" .. name) == "dataset" then value = h:read("/provenance/" .. name) end
    list[#list + 1] = { name, value }
  end
  return list
end

local function walk_text(h, path, found)
  for _, name in ipairs(h:list(path)) do
    local at = path .. "/" .. name
    if h:kind(at) == "group" then walk_text(h, at, found)
    elseif h:kind(at) == "dataset" then
      found[#found + 1] = { name = h:attr(at, "name") or at:sub(#"/code/" + 1), text = h:read(at),
        order = h:attr(at, "order") or 0 }
    end
  end
  return found
end

local function read_code(h)
  if h:kind "/code" ~= "group" then return {} end
  local found = walk_text(h, "/code", {})
  table.sort(found, function(a, b) return a.order < b.order end)
  for _, c in ipairs(found) do c.order = nil end
  return found
end

local function read_data(h)
  local options = {}
  if h:kind "/data" ~= "dataset" then return {}, options end
  local ok, t = pcall(json.decode, h:attr("/data", "options") or "{}")
  return rows_of(h, "/data"), ok and t or options
end

-- What is sealed, but for the metrics' rows.
local function read_sealed(rec, h)
  for _, name in ipairs(root_fields) do rec[name] = h:attr("/", name) end
  rec.config, rec.provenance, rec.code = read_config(h), read_provenance(h), read_code(h)
  rec.data, rec.data_options = read_data(h)
  rec.events, rec.samples, rec.segments = rows_of(h, "/events"), rows_of(h, "/samples"), rows_of(h, "/segments")
  rec.names, rec.summary, rec.about = {}, {}, {}
  for _, row in ipairs(rows_of(h, "/summary")) do
    local name = row.metric
    rec.names[#rec.names + 1] = name
    if row.rows > 0 then rec.summary[name] = row end
    local at = "/metrics/" .. name
    rec.about[name] = { better = h:attr(at, "better"), unit = h:attr(at, "unit"),
      protocol = h:attr(at, "protocol") }
  end
end

local function add_note(rec, note)
  local step, seconds, key, text = note[1], note[2], note[3], note[4]
  local kind, rest = key:match "^@(%a+):(.*)$"
  if kind == "about" then
    local ok, about = pcall(json.decode, text)
    rec.about[rest] = ok and about or nil
  end
  if kind == "event" then
    for _, e in ipairs(rec.events) do
      if e.step == step and e.seconds == seconds and e.kind == rest and e.text == text then return end
    end
    rec.events[#rec.events + 1] = { step = step, seconds = seconds, kind = rest, text = text }
  elseif kind == "sample" then
    local sha, rows, cols, path = text:match "^(%x*) (%d+) (%d+) (.*)$"
    if not path then return end
    for _, s in ipairs(rec.samples) do
      if s.step == step and s.tag == rest and s.path == path then return end
    end
    rec.samples[#rec.samples + 1] = { step = step, tag = rest, path = path, sha256 = sha,
      rows = math.tointeger(rows), cols = math.tointeger(cols) }
  end
end

-- last, best, best_step, mean of a metric's rows in memory; nil when it has none.
function M.summarise(rec, name)
  local about = rec.about[name]
  local better = about and about.better or "lower"
  local rows, last, best, best_step, mean = rec.journal:summary(name, better == "higher")
  if rows == 0 then return nil end
  return { metric = name, rows = rows, last = last, best = best, best_step = best_step, mean = mean,
    better = better }
end

-- The rows themselves: sealed ones, then the journal's.
local function load_rows(rec, h, tail)
  rec.journal = core.journal_new()
  for _, name in ipairs(rec.names) do rec.journal:load(h, name, "/metrics/" .. name) end
  if not tail then return end
  local notes = rec.journal:replay(tail)
  for _, note in ipairs(notes) do add_note(rec, note) end
  rec.names = rec.journal:names()
  for _, name in ipairs(rec.names) do
    rec.about[name] = rec.about[name] or {}
    rec.summary[name] = M.summarise(rec, name)
  end
  rec.step = math.max(rec.step or 0, rec.journal:last())
end

-- Everything, rows included: what a writer goes on from.
function M.load(dir)
  -- The journal first: rows that are sealed between the two reads are then seen twice and skipped, never
  -- missed.
  local tail = read_text(dir .. "/journal.tsv")
  local rec = { dir = dir }
  local h <close> = M.open(dir)
  read_sealed(rec, h)
  load_rows(rec, h, tail or "")
  return rec
end

-- A run that only has its claim and status yet, or whose run.h5 is not written yet.
local function bare(dir)
  local empty = { dir = dir, config = {}, names = {}, summary = {}, samples = {}, events = {}, segments = {},
    provenance = {}, code = {}, data = {}, data_options = {}, about = {}, journal = core.journal_new() }
  empty.variant, empty.seed = dir:match "([^/]+)/seed%-(%-?%d+)$"
  empty.experiment = dir:match "([^/]+)/[^/]+/[^/]+$"
  empty.seed = math.tointeger(empty.seed)
  return empty
end

-- See store.read. Rows of finished runs are read when first asked for, so that listing many runs
-- is quick.
function M.read(dir)
  dir = dir:gsub("(.)/+$", "%1")
  if not core.stat(dir .. "/run.h5") then
    if not M.is_run(dir) then core.fail(4, dir .. ": no run here (there is no run.h5)") end
    local rec = bare(dir)
    rec.state = M.state(dir)
    return M.finish(rec)
  end
  local tail = read_text(dir .. "/journal.tsv")
  local rec = { dir = dir }
  local h <close> = M.open(dir)
  read_sealed(rec, h)
  if tail and tail ~= "" then load_rows(rec, h, tail) end
  return M.finish(rec)
end

function M.finish(rec)
  local status = M.status(rec.dir)
  rec.status = status
  rec.state = M.state(rec.dir, status)
  if status then
    rec.reason, rec.exit_code = status.reason, status.exit_code
    rec.step = math.max(rec.step or 0, math.tointeger(status.step) or 0)
  end
  rec.series = function(name)
    if not rec.journal then
      local h <close> = M.open(rec.dir)
      load_rows(rec, h, nil)
    end
    return rec.journal:series(name)
  end
  return rec
end

---- checkpoints ----

-- An opened checkpoint: {step=, meta=, names=, path=, into(name, tensor), spec(name) -> dtype, shape,
-- bytes(name), hash([names]) -> SHA-256 of names, types, shapes and bytes, close()}
function M.wrap(ckpt, path)
  local step, meta, names = ckpt:head()
  return { step = step, meta = json.decode(meta), names = names, path = path,
    into = function(name, tensor) return ckpt:into(name, tensor) end,
    spec = function(name) return ckpt:spec(name) end,
    bytes = function(name) return ckpt:bytes(name) end,
    hash = function(list) return ckpt:hash(list or names) end,
    close = function() ckpt:close() end }
end

return M
