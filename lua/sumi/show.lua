-- show.lua -- runs as text: ls (a line each), show (a page about one), and what the first screen tells of
-- recent runs. Reads runs through store.lua only. Data goes to stdout.
local core = require "sumi.core"
local store = require "sumi.store"
local term = require "sumi.term"

local show = {}

local state_colour = { done = "green", running = "cyan", stopped = "yellow", unknown = "yellow", failed = "red",
                       diverged = "red", lost = "red" }

local function run_name(run)
  return ("%s/%s/seed-%s"):format(run.experiment, run.variant, tostring(run.seed))
end

-- Of this run alone; run.id is of its variant (code, config, data) and shared by its seeds. Both find it.
local function short_id(run) return tostring(run.run_id or run.id or ""):sub(1, 8) end

-- The one run that a pattern names; more than one is a usage error that lists them.
function show.one(results, pattern)
  local dirs = store.find(results, pattern)
  if #dirs > 1 then
    core.fail(2, ("'%s' names %d runs; name one of\n  %s"):format(pattern, #dirs, table.concat(dirs, "\n  ", 1,
      math.min(#dirs, 20))))
  end
  return dirs[1]
end

-- Metrics worth a place on a line: what is measured, then the first loss of each player.
local function headline(run, most)
  local out, players = {}, {}
  for _, name in ipairs(run.names) do
    if not name:find "^loss/" and not name:find "^rate/" then out[#out + 1] = name end
  end
  for _, name in ipairs(run.names) do
    local player = name:match "^loss/([^/]+)"
    if player and not players[player] then
      players[player] = true
      out[#out + 1] = name
    end
  end
  return table.move(out, 1, math.min(most, #out), 1, {})
end

-- Rows are read only for runs that are quickly read: a list of many long runs must not take minutes.
local function is_small(run)
  local rows = 0
  for _, name in ipairs(run.names) do rows = rows + (run.summary[name] and run.summary[name].rows or 0) end
  return rows <= 300000
end

local function headline_text(run, most)
  local out = {}
  for i, name in ipairs(headline(run, most)) do
    local s = is_small(run) and run.series(name)
    local summary = run.summary[name] or {}
    local value = name:find "^loss/" and summary.mean or summary.last
    out[i] = ("%s %s %s"):format(name:gsub("^loss/", ""), term.number(value), s and term.spark(s.value, 8) or "")
  end
  return table.concat(out, "  ")
end

local function steps_text(run)
  if run.steps and run.steps ~= run.step then return ("%d of %d"):format(run.step or 0, run.steps) end
  return ("%d"):format(run.step or 0)
end

local function seconds_of(run)
  if run.status and run.status.seconds then return run.status.seconds end
  local s = run.names[1] and run.series(run.names[1])
  return s and s.seconds and s.seconds[#s.seconds] or 0
end

-- ---- ls ----

local function record(run)
  return { run = run_name(run), dir = run.dir, id = run.run_id or run.id, variant_id = run.id,
           experiment = run.experiment, variant = run.variant, seed = run.seed, state = run.state, step = run.step,
           steps = run.steps, seconds = seconds_of(run), created = run.created, ended = run.ended }
end

local columns = { "run", "id", "state", "step", "steps", "seconds", "created", "ended", "dir" }

local function print_tsv(runs)
  print(table.concat(columns, "\t"))
  for _, run in ipairs(runs) do
    local r, cells = record(run), {}
    for i, key in ipairs(columns) do cells[i] = r[key] == nil and "" or tostring(r[key]):gsub("[\t\n]", " ") end
    print(table.concat(cells, "\t"))
  end
end

-- JSON has no nan and no infinity.
local function json_number(x) return x and x == x and math.abs(x) ~= math.huge and x or nil end

local function summary_of(run)
  local out = {}
  for _, name in ipairs(run.names) do
    local s = run.summary[name] or {}
    out[name] = { last = json_number(s.last), mean = json_number(s.mean), best = json_number(s.best),
                  best_step = s.best_step }
  end
  return out
end

local function print_json(runs)
  local json = require "sumi.json"
  local list = {}
  for i, run in ipairs(runs) do
    list[i] = record(run)
    list[i].summary = summary_of(run)
  end
  print(#list > 0 and json.encode(list) or "[]")
end

function show.ls(results, pattern, opt)
  local runs = {}
  for _, dir in ipairs(store.find(results, pattern)) do
    local run = store.read(dir)
    run.dir = dir
    if not opt.state or run.state == opt.state then runs[#runs + 1] = run end
  end
  if opt.json then print_json(runs) elseif opt.tsv then print_tsv(runs) else show.list(runs) end
  if #runs == 0 and not opt.json and not opt.tsv then
    io.stderr:write(("no runs%s in %s\n"):format(opt.state and " that are " .. opt.state or "", results))
  end
  return 0
end

function show.list(runs)
  local rows = {}
  for i, run in ipairs(runs) do
    rows[i] = { term.paint("bold", run_name(run)), short_id(run),
                term.paint(state_colour[run.state], run.state or "unknown"), steps_text(run),
                term.duration(seconds_of(run)), headline_text(run, 3) }
  end
  for _, line in ipairs(term.table(rows, "lllrrl")) do print(line) end
end

-- The newest runs for the first screen: `most` lines.
function show.recent(results, most)
  local dirs = store.find(results)
  local when = {}
  for _, dir in ipairs(dirs) do
    local st = core.stat(dir .. "/status.json") or core.stat(dir .. "/run.h5") or core.stat(dir)
    when[dir] = st and st.mtime or 0
  end
  table.sort(dirs, function(a, b)
    if when[a] ~= when[b] then return when[a] > when[b] end
    return a < b
  end)
  local rows = {}
  for i = 1, math.min(most, #dirs) do
    local run = store.read(dirs[i])
    local tail = headline_text(run, 1)
    if run.state == "stopped" or run.state == "lost" then tail = ("→ sumi resume %s"):format(dirs[i]) end
    local state = term.paint(state_colour[run.state], run.state or "unknown")
    rows[i] = { run_name(run), state, "step " .. steps_text(run), tail }
  end
  return term.table(rows)
end

-- ---- show ----

local function print_lines(lines, indent)
  for _, line in ipairs(lines) do print((indent or "") .. line) end
end

local function title(text) print("\n" .. term.paint("bold", text)) end

local function value_text(v)
  if type(v) == "number" then return math.type(v) == "integer" and ("%d"):format(v) or ("%.10g"):format(v) end
  return tostring(v)
end

local function print_pairs(list)
  local rows = {}
  for i, pair in ipairs(list or {}) do rows[i] = { pair[1], value_text(pair[2]) } end
  print_lines(term.table(rows), "  ")
end

local function print_metrics(run)
  local rows = { { "metric", "last", "mean", "best", "at step", "" } }
  for _, name in ipairs(run.names) do
    local s, series = run.summary[name] or {}, run.series(name)
    local judged = not name:find "^loss/" and not name:find "^rate/"
    rows[#rows + 1] = { name, term.number(s.last), term.number(s.mean), judged and term.number(s.best) or "",
                        judged and s.best_step and ("%d"):format(s.best_step) or "",
                        series and term.spark(series.value, 24) or "" }
  end
  print_lines(term.table(rows, "lrrrrl"), "  ")
  print(term.paint("dim", "  mean: over the last tenth of the rows"))
end

local function print_samples(run)
  for _, s in ipairs(run.samples or {}) do
    print(("  step %-8d %-12s %s/%s"):format(s.step, s.tag, run.dir, s.path))
  end
end

local function print_code(run)
  for _, c in ipairs(run.code or {}) do
    print(term.paint("dim", "-- " .. c.name))
    io.write(c.text, c.text:sub(-1) == "\n" and "" or "\n")
  end
end

local function print_log(run)
  local text = core.read_file(run.dir .. "/log.txt")
  if not text then core.fail(4, run.dir .. ": no log.txt") end
  io.write(text)
end

-- Checkpoints are many and tell nothing.
local function notable(run)
  local list = {}
  for _, e in ipairs(run.events or {}) do
    if e.kind ~= "checkpoint" then list[#list + 1] = e end
  end
  return list
end

local function print_events(events, most)
  local rows = {}
  for i = math.max(1, #events - most + 1), #events do
    local e = events[i]
    rows[#rows + 1] = { ("step %d"):format(e.step or 0), e.kind or "", e.text or "" }
  end
  print_lines(term.table(rows), "  ")
end

local function print_overview(run)
  print(("%s   %s   id %s"):format(term.paint("bold", run_name(run)),
    term.paint(state_colour[run.state], run.state or "unknown"), short_id(run)))
  local seconds = seconds_of(run)
  local rate = seconds > 0 and ("   %s it/s"):format(term.number((run.step or 0) / seconds)) or ""
  print(("  step %s   %s%s   %s"):format(steps_text(run), term.duration(seconds), rate, run.dir))
  if run.reason and run.reason ~= "" then print("  " .. tostring(run.reason)) end
  title "metrics"
  print_metrics(run)
  if run.config and #run.config > 0 then
    title "config"
    print_pairs(run.config)
  end
  if run.samples and #run.samples > 0 then
    local last = run.samples[#run.samples]
    title "samples"
    print(("  %d grids, the last %s/%s"):format(#run.samples, run.dir, last.path))
  end
  local events = notable(run)
  if #events > 0 then
    title "events"
    print_events(events, 5)
  end
  title "next"
  if run.state ~= "done" and run.state ~= "running" then print("  sumi resume " .. run.dir) end
  print("  sumi report " .. run.dir)
end

-- Not weights: optimisers' moments and the pools of old fakes, which a checkpoint also holds.
local function weights_of(c)
  local names = {}
  for _, name in ipairs(c.names) do
    if not name:find "^opt/" and not name:find "^pool/" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- One SHA-256 over name, dtype, shape and bytes of all weights, in name order, of the newest checkpoint that is
-- whole.
local function print_weights_hash(run)
  local c, messages = store.newest(run.dir)
  for _, message in ipairs(messages) do io.stderr:write(message, "\n") end
  if not c then core.fail(4, run.dir .. ": no checkpoint that is whole") end
  local names = weights_of(c)
  print(c.hash(names))
  io.stderr:write(("step %d, %d tensors, %s\n"):format(c.step, #names, c.path))
  c.close()
end

local parts = {
  { "config", function(run) print_pairs(run.config) end },
  { "env", function(run) print_pairs(run.provenance) end },
  { "metrics", print_metrics },
  { "samples", print_samples },
  { "code", print_code },
  { "log", print_log },
  { "weights_hash", print_weights_hash },
}

local function object(list)
  local out = {}
  for _, pair in ipairs(list or {}) do out[pair[1]] = pair[2] end
  return out
end

local function show_json(run)
  local r = record(run)
  r.reason, r.metrics, r.config, r.env = run.reason, summary_of(run), object(run.config), object(run.provenance)
  r.samples, r.events, r.segments = run.samples, run.events, run.segments
  print(require("sumi.json").encode(r))
end

function show.show(results, pattern, opt)
  local dir = show.one(results, pattern)
  local run = store.read(dir)
  run.dir = dir
  if opt.json then
    show_json(run)
    return 0
  end
  local any = false
  for _, part in ipairs(parts) do
    if opt[part[1]] then
      part[2](run)
      any = true
    end
  end
  if not any then print_overview(run) end
  return 0
end

return show
