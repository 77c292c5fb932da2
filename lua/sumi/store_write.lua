-- store_write.lua -- the writer of one run: journal, seals, status, checkpoints. Only the claim's owner has
-- one.
--
-- What must hold at every instruction (a kill may come at any): run.h5 is complete; journal.tsv has what it
-- lacks; the newest checkpoint that verifies is whole. So: seal = write run.h5, then empty the journal.
-- rewind = seal what is there, drop rows, seal again: a kill between leaves the one state or the other, and
-- no dropped row can come back.
local core = require "sumi.core"
local json = require "sumi.json"
local reader = require "sumi.store_read"

local M = {}

M.seal_every = 60             -- seconds between automatic seals; more if sealing takes over 1/50 of the time
M.beat_every = 30             -- seconds between heartbeats
M.keep = 2                    -- checkpoints kept besides the best

local W = {}                  -- a writer's functions

local function iso(t) return os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(t)) end

-- HDF5 strings are UTF-8: a script in another encoding is kept with its odd bytes shown as ?.
local function clean(s)
  s = tostring(s)
  if not utf8.len(s) then s = s:gsub("[\128-\255]", "?") end
  return (s:gsub("\0", "?"))
end

---- sealing ----

local function put_config(img, config)
  local values, order = {}, {}
  img:group "/config"
  for i, knob in ipairs(config) do
    local name, value = knob[1], knob[2]
    values[name], order[i] = value, name
    local kind = type(value)
    if kind == "string" then value = clean(value)
    elseif kind ~= "number" and kind ~= "boolean" then value = json.encode(value) end
    img:set("/config", name, value)
  end
  img:set("/config", "json", json.encode(values))
  img:set("/config", "order", table.concat(order, "\n"))
end

local function put_provenance(img, list)
  local order = {}
  img:group "/provenance"
  for i, pair in ipairs(list) do
    local name, value = tostring(pair[1]), pair[2]
    order[i] = name
    if type(value) == "table" then value = json.encode(value) end
    if type(value) == "string" then value = clean(value) end
    if type(value) == "string" and #value > 1024 then img:text("/provenance/" .. name, value)
    elseif value ~= nil then img:set("/provenance", name, value) end
  end
  img:set("/provenance", "order", table.concat(order, "\n"))
end

-- Names are paths of the machine the run was made on; inside the file they must stay below /code.
local function put_code(img, code)
  img:group "/code"
  local taken = {}
  for i, c in ipairs(code) do
    local parts = {}
    for part in clean(c.name):gmatch "[^/]+" do
      if part ~= "." then parts[#parts + 1] = part == ".." and "up" or part end
    end
    local at = "/code/" .. table.concat(parts, "/")
    if taken[at] or #parts == 0 then at = at .. "#" .. i end
    taken[at] = true
    img:text(at, clean(c.text))
    img:set(at, "name", clean(c.name))
    img:set(at, "order", i)
  end
end

local function put_data(img, run)
  local rows = {}
  for i, d in ipairs(run.data) do rows[i] = { clean(d.path), d.bytes, d.sha256 or "" } end
  img:table("/data", "files", { { "path", "t" }, { "bytes", "i" }, { "sha256", "t" } }, rows)
  img:set("/data", "options", json.encode(run.data_options or {}))
end

local function put_metrics(img, run, squeeze)
  img:group "/metrics"
  local rows = {}
  for i, name in ipairs((run.journal:names())) do
    local at, about = "/metrics/" .. name, run.about[name] or {}
    run.journal:seal(img, name, at, squeeze)
    img:set(at, "better", about.better or "lower")
    if about.unit then img:set(at, "unit", about.unit) end
    if about.protocol then img:set(at, "protocol", about.protocol) end
    rows[i] = reader.summarise(run, name) or
      { metric = name, rows = 0, last = 0.0, best = 0.0, best_step = -1, mean = 0.0,
        better = about.better or "lower" }
  end
  img:table("/summary", "summary", { { "metric", "t" }, { "rows", "i" }, { "last", "r" }, { "best", "r" },
    { "best_step", "i" }, { "mean", "r" }, { "better", "t" } }, rows)
end

local function put_tables(img, run)
  img:table("/samples", "samples", { { "step", "i" }, { "tag", "t" }, { "path", "t" }, { "sha256", "t" },
    { "rows", "i" }, { "cols", "i" } }, run.samples)
  img:table("/events", "events", { { "step", "i" }, { "seconds", "r" }, { "kind", "t" }, { "text", "t" } },
    run.events)
  img:table("/segments", "process lives", { { "first_step", "i" }, { "last_step", "i" }, { "host", "t" },
    { "device", "t" }, { "job", "t" }, { "pid", "i" }, { "version", "t" }, { "start", "t" }, { "end", "t" },
    { "exit_code", "i" } }, run.segments)
end

local root_fields = { "id", "run_id", "experiment", "variant", "seed", "steps", "step", "created", "ended",
  "parent", "device", "precision" }

local function build(run, squeeze)
  local _, rows = run.journal:names()
  local img = core.h5_begin(rows * 24 + (1 << 18))
  img:set("/", "format", reader.format)
  img:set("/", "format_version", reader.version)
  img:set("/", "state", run.state.state)
  for _, name in ipairs(root_fields) do
    local value = run[name]
    if type(value) == "string" then value = clean(value) end
    if value ~= nil then img:set("/", name, value) end
  end
  put_config(img, run.config)
  put_provenance(img, run.provenance)
  put_code(img, run.code)
  put_data(img, run)
  put_metrics(img, run, squeeze)
  put_tables(img, run)
  return img
end

-- What an error message may promise.
local function intact(run)
  local parts = { run.sealed and "run.h5" or nil }
  if run.saved then parts[#parts + 1] = "step " .. run.saved end
  if #parts == 0 then return "nothing was there before" end
  return table.concat(parts, " and ") .. (#parts > 1 and " are intact" or " is intact")
end

local function seal(run, squeeze)
  local began = core.now()
  local segment = run.segments[#run.segments]
  segment.last_step = run.step
  local img <close> = build(run, squeeze)
  img:put(run.dir .. "/run.h5", { site = "seal", what = "run.h5", intact = intact(run) })
  run.sealed = true
  run.journal:intact(intact(run))
  run.journal:empty()
  local now = core.now()
  run.seal_due = now + math.max(M.seal_every, 50 * (now - began))
end

-- run:seal(): run.h5 now has every row. Raises (exit code 6) when the disk refuses; nothing is lost then.
function W.seal(run) seal(run, false) end

---- numbers ----

-- run:metrics(step, seconds, names, values): arrays of names and numbers; one write to the journal.
function W.metrics(run, step, seconds, names, values)
  local now = run.journal:step(step, seconds, names, values)
  run.step, run.seconds = step, seconds
  if now >= run.beat_due then run:beat() end
  if now >= run.seal_due then seal(run, false) end
end

-- run:describe(name, {better = "lower"|"higher", unit=, protocol=}): attributes of a metric's table.
function W.describe(run, name, about)
  if about.better and about.better ~= "lower" and about.better ~= "higher" then
    core.fail(1, ("metric '%s': better is \"lower\" or \"higher\", not %q"):format(name, tostring(about.better)))
  end
  run.about[name] = { better = about.better, unit = about.unit, protocol = about.protocol }
  run.journal:note(run.step, run.seconds, "@about:" .. name, json.encode(run.about[name]))
end

-- run:event(step, seconds, kind, text)
function W.event(run, step, seconds, kind, text)
  kind, text = clean(kind):gsub("[%c]", " "), clean(text)
  run.events[#run.events + 1] = { step = step, seconds = seconds + 0.0, kind = kind, text = text }
  run.journal:note(step, seconds, "@event:" .. kind, text)
end

-- run:sample(step, tag, path, rows, cols): a picture that has been written, path relative to the run's
-- directory.
function W.sample(run, step, tag, path, rows, cols)
  tag, path = clean(tag):gsub("[%c]", " "), clean(path)
  local bytes = core.read_file(run.dir .. "/" .. path)
  local sha = bytes and core.sha256(bytes) or ""
  local kept = {}
  for _, s in ipairs(run.samples) do
    if s.step ~= step or s.tag ~= tag then kept[#kept + 1] = s end
  end
  kept[#kept + 1] = { step = step, tag = tag, path = path, sha256 = sha, rows = rows or 1, cols = cols or 1 }
  run.samples = kept
  run.journal:note(step, run.seconds, "@sample:" .. tag, ("%s %d %d %s"):format(sha, rows or 1, cols or 1, path))
end

---- status ----

local function put_status(run)
  local s = run.state
  s.step, s.updated = run.step, core.time()
  core.store_put(run.dir .. "/status.json", json.encode(s) .. "\n", { site = "status", what = "status.json",
    intact = intact(run) })
end

-- The heartbeat: a full disk must not stop a run because of it.
function W.beat(run)
  run.beat_due = core.now() + M.beat_every
  return pcall(put_status, run)
end

-- run:status{state=, step=, reason=, ...}: changes fields of status.json and writes it at once.
function W.status(run, fields)
  for name, value in pairs(fields) do run.state[name] = value end
  if fields.step then run.step = fields.step end
  return run:beat()
end

---- checkpoints ----

local function ckpt_path(dir, step) return ("%s/ckpt/step-%08d.h5"):format(dir, step) end

-- {step=, path=} newest first.
function M.list(dir)
  local found = {}
  for _, name in ipairs(core.listdir(dir .. "/ckpt") or {}) do
    local step = name:match "^step%-(%d+)%.h5$"
    if step then found[#found + 1] = { step = math.tointeger(step), path = dir .. "/ckpt/" .. name } end
  end
  table.sort(found, function(a, b) return a.step > b.step end)
  return found
end

local function best_step(dir)
  local text = core.read_file(dir .. "/ckpt/best")
  return text and math.tointeger(text:match "^step%-(%d+)%.h5")
end

local function delete_older(run, step)
  local best, newer = best_step(run.dir), 0
  for _, c in ipairs(M.list(run.dir)) do
    if c.step <= step then
      newer = newer + 1
      if newer > M.keep and c.step ~= best then core.remove(c.path) end
    end
  end
end

-- run:save(step, {{name, tensor}...}, meta) -> path. Seals first; when it returns the checkpoint is on disk
-- and was read back. When the disk refuses it raises (exit code 6), and the older checkpoints are as they
-- were.
function W.save(run, step, tensors, meta)
  run.step = math.max(run.step, step)
  seal(run, false)
  local path = ckpt_path(run.dir, step)
  core.mkdir_p(run.dir .. "/ckpt")
  local bytes = core.ckpt_save(path, step, tensors, json.encode(meta or {}), intact(run))
  run.saved = step
  run.journal:intact(intact(run))
  run:event(step, run.seconds, "checkpoint", ("ckpt/step-%08d.h5, %d bytes"):format(step, bytes))
  delete_older(run, step)
  return path
end

-- run:best(step): the checkpoint of that step is kept whatever follows.
function W.best(run, step)
  core.store_put(run.dir .. "/ckpt/best", ("step-%08d.h5\n"):format(step), { site = "best", what = "ckpt/best",
    intact = intact(run) })
end

local function set_aside(path)
  local to, n = path .. ".corrupt", 1
  while core.stat(to) do
    n = n + 1
    to = path .. ".corrupt" .. n
  end
  return core.store_rename(path, to) and to or path
end

-- run:newest() -> checkpoint or nil, list of messages: the newest whose digest is right. Damaged ones are
-- renamed .corrupt, reported in /events and passed over; one of another version stops everything.
function W.newest(run)
  local reports = {}
  for _, c in ipairs(M.list(run.dir)) do
    local ckpt, state, message = core.ckpt_open(c.path)
    if ckpt then
      run.saved = c.step
      return reader.wrap(ckpt, c.path), reports
    end
    if state ~= "corrupt" then core.fail(state == "unreadable" and 6 or 1, message) end
    local to = set_aside(c.path)
    reports[#reports + 1] = ("%s; renamed to %s"):format(message, to:match "[^/]+$")
    run:event(run.step, run.seconds, "warning", reports[#reports])
  end
  return nil, reports
end

-- run:rewind(step) -> rows dropped: forgets every row, sample and checkpoint beyond it, and says so in
-- /events.
function W.rewind(run, step)
  seal(run, false)
  local dropped = run.journal:drop_after(step)
  local kept, beyond = {}, {}
  for _, s in ipairs(run.samples) do
    if s.step <= step then kept[#kept + 1] = s end
  end
  for _, c in ipairs(M.list(run.dir)) do
    if c.step > step then beyond[#beyond + 1] = c end
  end
  run.samples, run.step = kept, step
  local text = ("rewound %d row%s to step %d"):format(dropped, dropped == 1 and "" or "s", step)
  if #beyond > 0 then text = text .. (", %d checkpoint%s removed"):format(#beyond, #beyond == 1 and "" or "s") end
  if dropped > 0 or #beyond > 0 then
    run.events[#run.events + 1] = { step = step, seconds = run.seconds, kind = "rewind", text = text }
  end
  -- Before the seal: were they still there after it, a killed rewind would leave a checkpoint without its
  -- rows.
  for _, c in ipairs(beyond) do core.remove(c.path) end
  if run.saved == step then delete_older(run, step) end    -- a kill may have come before that was done
  seal(run, false)
  return dropped
end

---- the end ----

-- run:finish(state, exit_code, reason) -> true, or false and a message: never raises, so that the cause of
-- the end is what people see. Seals for good (shuffled and deflated), writes the status, gives up the claim.
function W.finish(run, state, exit_code, reason)
  if not run.claim then return true end
  run.ended = iso(core.time())
  run.state.state, run.state.exit_code, run.state.reason = state, exit_code or 0, reason
  local segment = run.segments[#run.segments]
  segment["end"], segment.exit_code = run.ended, exit_code or 0
  local ok, message = pcall(seal, run, state ~= "stopped")
  local ok2, message2 = pcall(put_status, run)
  run:close()
  if ok and ok2 then return true end
  return false, tostring(not ok and message or message2)
end

-- run:close(): lets go of the files and the claim, as a kill would, but in order. The state stays what it
-- was.
function W.close(run)
  run.journal:close()
  if run.claim then run.claim:drop() end
  run.claim = nil
end

-- Makes a record (as store_read loads it, or a new one) a writer: claim held, journal open, sealed, status
-- written.
function M.start(run, claim, device)
  local me = core.owner_self()
  for name, f in pairs(W) do run[name] = f end
  run.claim = claim
  run.step, run.seconds = run.step or 0, run.seconds or 0.0
  run.device = device or run.device or "cpu"
  run.beat_due, run.seal_due = core.now() + M.beat_every, core.now() + M.seal_every
  run.state = { state = "running", host = me.host, pid = me.pid, boot = me.boot, job = me.job,
    started = core.time(), id = run.id, run_id = run.run_id, steps = run.steps }
  run.segments[#run.segments + 1] = { first_step = run.step, last_step = run.step, host = me.host,
    device = run.device, job = me.job, pid = me.pid, version = core.version, start = iso(core.time()), ["end"] = "", exit_code = -1 }
  run.journal:open(run.dir .. "/journal.tsv")
  seal(run, false)
  run:beat()
  return run
end

return M
