-- report.lua -- from runs to figures, a table and one HTML page: which runs, how they are pooled, where it all
-- goes. The drawing is in figure.lua, the page in page.lua, the statistics in stat.lua.
--
-- A model is {title=, runs = {run...}, variants = {{name=, runs=}...}, metrics = {name...}, table = {...}},
-- where a run is what store.read gives, and variants and metrics keep a fixed order.
local core = require "sumi.core"
local figure = require "sumi.figure"
local stat = require "sumi.stat"
local store = require "sumi.store"

local report = {}

-- ---- which runs ----

local function base_name(path) return path:match "([^/]+)$" end

-- Runs that were made by this script: their kept code starts with a file of the same name.
local function runs_of_script(results, script)
  if not core.stat(script) then core.fail(2, "sumi report: no such script: " .. script) end
  local found = {}
  for _, dir in ipairs(store.find(results, "")) do
    local run = store.read(dir)
    local main = run.code and run.code[1]
    if main and base_name(main.name) == base_name(script) then found[#found + 1] = dir end
  end
  if #found == 0 then
    core.fail(4, ("no run of %s in %s\n  try  sumi run %s"):format(script, results, script))
  end
  return found
end

local function expand(results, target)
  if target:find "%.lua$" then return runs_of_script(results, target) end
  return store.find(results, target)
end

local function collect(results, targets)
  local dirs, seen = {}, {}
  for _, target in ipairs(targets) do
    for _, dir in ipairs(expand(results, target)) do
      local real = core.realpath(dir) or dir
      if not seen[real] then
        seen[real] = true
        dirs[#dirs + 1] = dir
      end
    end
  end
  return dirs
end

-- ---- the model ----

local function earlier(a, b)
  local x, y = tostring(a.created or ""), tostring(b.created or "")
  if x ~= y then return x < y end
  return a.dir < b.dir
end

-- Variants in the order in which they were first run, seeds ascending.
local function group(runs)
  local variants, by_name = {}, {}
  local one = true
  for _, run in ipairs(runs) do one = one and run.experiment == runs[1].experiment end
  table.sort(runs, earlier)
  for _, run in ipairs(runs) do
    local name = (one and "" or run.experiment .. "/") .. tostring(run.variant)
    if not by_name[name] then
      by_name[name] = { name = name, runs = {} }
      variants[#variants + 1] = by_name[name]
    end
    table.insert(by_name[name].runs, run)
  end
  for _, v in ipairs(variants) do
    table.sort(v.runs, function(a, b)
      if a.seed ~= b.seed then return a.seed < b.seed end
      return a.dir < b.dir
    end)
  end
  return variants, one and runs[1].experiment or nil
end

-- Loss terms first (in the order of the first run that has them), then the other metrics, then learning rates.
local function metric_names(variants)
  local seen, losses, others, rates = {}, {}, {}, {}
  for _, v in ipairs(variants) do
    for _, run in ipairs(v.runs) do
      for _, name in ipairs(run.names) do
        if not seen[name] then
          seen[name] = true
          local list = name:find "^loss/" and losses or name:find "^rate/" and rates or others
          list[#list + 1] = name
        end
      end
    end
  end
  table.move(others, 1, #others, #losses + 1, losses)
  return table.move(rates, 1, #rates, #losses + 1, losses)
end

-- Seconds that a run has trained: the clock of its last recorded number.
local function seconds_of(run)
  local most = 0
  for _, name in ipairs(run.names) do
    local s = run.series(name)
    if s and s.seconds and #s.seconds > 0 then most = math.max(most, s.seconds[#s.seconds]) end
  end
  return most
end

-- The number that stands for a metric of a run: losses are noisy, so the mean of the last tenth; the rest as
-- measured last.
local function final(run, metric)
  local s = run.summary[metric]
  if not s then return nil end
  if metric:find "^loss/" then return s.mean end
  return s.last
end

-- One cell: over the finished runs of a variant; over all of them, marked, when none has finished.
local function make_cell(v, metric)
  local done, all, other = {}, {}, 0
  for _, run in ipairs(v.runs) do
    local x = final(run, metric)
    if run.state == "done" then done[#done + 1] = x else other = other + 1 end
    all[#all + 1] = x
  end
  local finished = other < #v.runs
  return { value = stat.interval(finished and done or all), finished = finished, runs = #v.runs,
           left_out = finished and other or 0 }
end

local function make_table(model)
  local rows = {}
  for i, metric in ipairs(model.metrics) do
    rows[i] = { metric = metric, cells = {} }
    for k, v in ipairs(model.variants) do rows[i].cells[k] = make_cell(v, metric) end
  end
  return rows
end

function report.model(dirs)
  local runs = {}
  for i, dir in ipairs(dirs) do
    runs[i] = store.read(dir)
    runs[i].dir = dir
  end
  local model = { runs = runs }
  model.variants, model.experiment = group(runs)
  model.metrics = metric_names(model.variants)
  model.title = model.experiment or "several experiments"
  for _, run in ipairs(runs) do run.trained = seconds_of(run) end
  model.table = make_table(model)
  return model
end

-- Text of a cell for people; the marks are explained under the table.
function report.cell_text(cell)
  local text = stat.text(cell.value, " (1 seed)")
  if not cell.finished then text = text .. " *" end
  if cell.left_out > 0 then text = ("%s † %d/%d"):format(text, cell.runs - cell.left_out, cell.runs) end
  return text
end

-- ---- where it goes ----

local function parent(path)
  local up = path:match "^(.*)/[^/]+$"
  if up == nil then return "." end
  return up == "" and "/" or up
end

-- RUN/report for one run; else the report folder of what the runs share: results/EXPERIMENT/report or
-- results/report.
local function out_dir(results, model)
  if #model.runs == 1 then return model.runs[1].dir .. "/report" end
  if model.experiment then return parent(parent(model.runs[1].dir)) .. "/report" end
  return results .. "/report"
end

local function number(x) return stat.finite(x) and ("%.9g"):format(x) or "" end

local function write_table(model, dir)
  local out = { "metric\tvariant\truns\tfinished\tseeds\tmean\tlo95\thi95\tpolicy" }
  for _, row in ipairs(model.table) do
    for k, c in ipairs(row.cells) do
      local v = c.value or { n = 0, mean = 0 / 0, lo = 0 / 0, hi = 0 / 0 }
      local policy = row.metric:find "^loss/" and "mean of the last tenth" or "last"
      out[#out + 1] = table.concat({ row.metric, model.variants[k].name, c.runs,
        c.finished and c.runs - c.left_out or 0, v.n, number(v.mean), number(v.lo), number(v.hi), policy }, "\t")
    end
  end
  local ok, message = core.write_file_atomic(dir .. "/final.tsv", table.concat(out, "\n") .. "\n")
  if not ok then core.fail(6, "report: " .. message) end
end

-- ---- making it ----

-- What the script asked for (report = { curve{...}, strip{...} }) as the newest run kept it; nil: the defaults.
local function kept_declarations(model)
  local newest
  for _, run in ipairs(model.runs) do
    for _, pair in ipairs(run.provenance or {}) do
      if pair[1] == "report" then newest = pair[2] end
    end
  end
  if type(newest) ~= "string" then return nil end
  local list = require("sumi.json").decode(newest)
  return #list > 0 and list or nil
end

local function must_make(dir)
  local ok, message = core.mkdir_p(dir)
  if not ok then core.fail(6, "report: " .. message) end
end

-- build{dirs = {run folders}, results =, out = folder or nil, declarations = {curve{}, strip{}...} or nil,
--       only = glob of figure names or nil, say = function(line) or nil} -> path of report.html (nil with `only`)
function report.build(t)
  local say = t.say or function() end
  local model = report.model(t.dirs)
  local out = t.out or out_dir(t.results or "results", model)
  must_make(out .. "/figures")
  local figures, strips, drawn = {}, {}, 0
  for _, f in ipairs(figure.plan(model, t.declarations or kept_declarations(model))) do
    if f.kind == "strip" then
      strips[#strips + 1] = f
    elseif not t.only or f.name:find(figure.glob(t.only)) then
      figures[#figures + 1] = figure.write(f, out .. "/figures")
      say(("%s/figures/%s.pdf  .svg .png .gp .tsv"):format(out, f.name))
      drawn = drawn + 1
    end
  end
  if t.only then
    if drawn == 0 then core.fail(4, ("no figure is called '%s'"):format(t.only)) end
    return nil
  end
  write_table(model, out)
  local html = require("sumi.page").html(model, figures, strips, out)
  local path = out .. "/report.html"
  local ok, message = core.write_file_atomic(path, html)
  if not ok then core.fail(6, "report: " .. message) end
  return path
end

local function open_page(path)
  local code = core.spawn { "xdg-open", path }
  if code ~= 0 then io.stderr:write("sumi report: no browser could be opened (xdg-open)\n") end
end

-- The verb.
function report.main(results, targets, opt)
  local dirs = collect(results, targets)
  local path = report.build { dirs = dirs, results = results, only = opt.only, out = opt.out,
                              say = not opt.quiet and print or nil }
  if path then
    print(path)
    if opt.open then open_page(path) end
  end
  return 0
end

return report
