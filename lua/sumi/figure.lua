-- figure.lua -- loss curves as files: NAME.gp, its data NAME.tsv (x mean lo hi n) and NAME.raw.tsv (x y), and
-- the svg, pdf and png that gnuplot makes of them. A .gp is self-contained: edit it and run `gnuplot NAME.gp`
-- again. Declared by scripts (curve{...}, strip{...}) or planned from the metrics that runs have. Not here: the
-- HTML page.
--
-- A model (see report.lua) is {variants = {{name=, runs = {run...}}...}, metrics = {name...}}; a run is what
-- store.read gives. A figure is {name=, title=, log=, panels = {{title=, series = {{label=, metric=, runs=,
-- style=}...}}...}}.
local core = require "sumi.core"
local stat = require "sumi.stat"

local figure = {}
local points = 400                   -- most x positions of a drawn curve
local slices = 250                   -- a raw curve keeps the extremes of this many slices

-- Okabe-Ito; the dash patterns keep curves apart in grey print and for the colour-blind.
local colours = { "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999" }
local dashes = { "solid", "(14,5)", "(4,4)", "(14,4,3,4)", "(24,6)", "(8,3,2,3,2,3)" }

-- ---- declarations ----

-- curve{ "loss/G/*", by = "variant" | "term" | "seed", log =, smooth = window in points (1: none), name =,
-- title = }
function figure.curve(t)
  local d = { kind = "curve", metrics = {} }
  for k, v in pairs(t) do
    if type(k) == "string" then d[k] = v end
  end
  if type(d.metrics) == "string" then d.metrics = { d.metrics } end
  for _, glob in ipairs(t) do d.metrics[#d.metrics + 1] = glob end
  return d
end

-- strip{ "sample/fake", at = {steps}, by = "variant" | "seed" }: samples side by side; drawn by the page, not
-- by gnuplot.
function figure.strip(t)
  return { kind = "strip", tag = t[1]:gsub("^sample/", ""), at = t.at, by = t.by, title = t.title, name = t.name }
end

-- "loss/*/adv" as a Lua pattern; as in patterns of runs, * and ? also match a slash.
function figure.glob(g)
  local p = g:gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".")
  return "^" .. p .. "$"
end

local function matching(metrics, globs)
  local out, seen = {}, {}
  for _, g in ipairs(globs) do
    local pattern = figure.glob(g)
    for _, m in ipairs(metrics) do
      if not seen[m] and (m == g or m:find(pattern)) then
        seen[m] = true
        out[#out + 1] = m
      end
    end
  end
  return out
end

-- ---- planning ----

local function all_runs(model)
  local runs = {}
  for _, v in ipairs(model.variants) do table.move(v.runs, 1, #v.runs, #runs + 1, runs) end
  return runs
end

-- What a metric is called beside others of its group: loss/G/adv -> adv.
local function short(metric) return metric:match "([^/]+)$" end

-- Names for curves that stand together: the last part where that tells them apart, else more of it.
local function labels_of(metrics)
  local count, out = {}, {}
  for _, m in ipairs(metrics) do count[short(m)] = (count[short(m)] or 0) + 1 end
  for i, m in ipairs(metrics) do out[i] = count[short(m)] == 1 and short(m) or m:gsub("^loss/", "") end
  return out
end

local function typical(model, metric)
  local values = {}
  for _, run in ipairs(all_runs(model)) do
    local s = run.summary[metric]
    if s and s.mean and stat.finite(s.mean) then values[#values + 1] = math.abs(s.mean) end
  end
  table.sort(values)
  return stat.quantile(values, 0.5)
end

-- Terms that differ by more than this cannot share an axis.
local widest = 25

local function share_axis(model, metrics)
  local lo, hi
  for _, m in ipairs(metrics) do
    local v = typical(model, m)
    if v and v > 1e-12 then lo, hi = math.min(lo or v, v), math.max(hi or v, v) end
  end
  return not lo or hi / lo <= widest
end

local function term_panels(model, metrics)
  local panels, runs = {}, all_runs(model)
  local together, labels = share_axis(model, metrics), labels_of(metrics)
  for i, m in ipairs(metrics) do
    if i == 1 or not together then
      panels[#panels + 1] = { title = not together and labels[i] or nil, series = {} }
    end
    local panel = panels[#panels]
    panel.series[#panel.series + 1] = { label = labels[i], metric = m, runs = runs,
                                         style = together and i or 1 }
  end
  return panels
end

-- One panel for each metric, one curve for each variant or seed.
local function compared_panels(model, metrics, by)
  local panels, labels = {}, labels_of(metrics)
  for i, m in ipairs(metrics) do
    local panel = { title = #metrics > 1 and labels[i] or nil, series = {} }
    for _, v in ipairs(model.variants) do
      for _, runs in ipairs(by == "seed" and v.runs or { v.runs }) do
        local label = v.name
        if by == "seed" then
          label = (#model.variants > 1 and v.name .. " " or "") .. "seed " .. tostring(runs.seed)
          runs = { runs }
        end
        panel.series[#panel.series + 1] = { label = label, metric = m, runs = runs, style = #panel.series + 1 }
      end
    end
    panels[#panels + 1] = panel
  end
  return panels
end

local function file_name(text)
  return (text:gsub("[^%w%-_.]+", "-"):gsub("^[-.]+", ""):gsub("%-+$", ""))
end

local function make_figure(model, d)
  local metrics = matching(model.metrics, d.metrics)
  if #metrics == 0 then
    core.fail(4, ("curve: no metric matches %s   metrics: %s"):format(table.concat(d.metrics, " "),
                                                                     table.concat(model.metrics, " ")))
  end
  local by = d.by or (#model.variants > 1 and "variant" or "term")
  if by ~= "term" and by ~= "variant" and by ~= "seed" then
    core.fail(("curve: by is one of: term variant seed; found '%s'"):format(tostring(by)))
  end
  local panels = by == "term" and term_panels(model, metrics) or compared_panels(model, metrics, by)
  return { kind = "curve", name = file_name(d.name or d.metrics[1]:gsub("/?%*", "")), metrics = metrics,
           title = d.title or table.concat(metrics, ", "), ylabel = d.ylabel or "value", log = d.log,
           smooth = d.smooth, panels = panels }
end

-- The figures when a script declares none: one for each player with all its loss terms, one for each other
-- metric, one for all learning rates.
function figure.defaults(model)
  local out, players, rates = {}, {}, {}
  for _, m in ipairs(model.metrics) do
    local player = m:match "^loss/([^/]+)"
    if m:find "^rate/" then
      rates[#rates + 1] = m
    elseif not player then
      out[#out + 1] = figure.curve { m, title = m, ylabel = short(m) }
    elseif not players[player] then
      players[player] = figure.curve { name = "loss-" .. player, title = "Losses of " .. player, ylabel = "loss" }
      table.insert(out, #players + 1, players[player])
      players[#players + 1] = player
    end
    if player then table.insert(players[player].metrics, m) end
  end
  if #rates > 0 then
    out[#out + 1] = figure.curve { metrics = rates, name = "rates", title = "Learning rates", ylabel = "rate",
                                   smooth = 1 }
  end
  return out
end

-- Figures for a list of declarations (nil: the defaults), in order. Strips pass through.
function figure.plan(model, declarations)
  local figures, used = {}, {}
  for _, d in ipairs(declarations or figure.defaults(model)) do
    local f = d.kind == "strip" and d or make_figure(model, d)
    if f.name then
      local base, k = f.name, 1
      while used[f.name] do
        k = k + 1
        f.name = base .. "-" .. k
      end
      used[f.name] = true
    end
    figures[#figures + 1] = f
  end
  return figures
end

-- ---- numbers of a curve ----

-- Sorted steps that occur in any of the runs, thinned evenly to `points`, first and last included.
local function grid_of(list)
  local seen, steps = {}, {}
  for _, s in ipairs(list) do
    for _, x in ipairs(s.step) do
      if not seen[x] then
        seen[x] = true
        steps[#steps + 1] = x
      end
    end
  end
  table.sort(steps)
  if #steps <= points then return steps, steps end
  local out = {}
  for i = 1, points do out[i] = steps[1 + (i - 1) * (#steps - 1) // (points - 1)] end
  return out, steps
end

local function default_window(n)
  if n < 60 then return 1 end
  return math.min(1001, n // 40 * 2 + 1)
end

-- Mean over runs at each step where any has a finite value.
local function mean_by_step(list, steps)
  if #list == 1 then return list[1].step, list[1].value end
  local sum, count, xs, ys = {}, {}, {}, {}
  for _, s in ipairs(list) do
    for i, x in ipairs(s.step) do
      local v = s.value[i]
      if stat.finite(v) then sum[x], count[x] = (sum[x] or 0) + v, (count[x] or 0) + 1 end
    end
  end
  for _, x in ipairs(steps) do
    if count[x] then xs[#xs + 1], ys[#ys + 1] = x, sum[x] / count[x] end
  end
  return xs, ys
end

-- Thin (xs, ys) but keep what the eye would see: the lowest and the highest of each slice, in their order.
local function thin(xs, ys)
  local n, out = #xs, {}
  if n <= 2 * slices then
    for i = 1, n do out[i] = { xs[i], ys[i] } end
    return out
  end
  for k = 1, slices do
    local lo, hi
    for i = (k - 1) * n // slices + 1, k * n // slices do
      local v = ys[i]
      if stat.finite(v) then
        if not lo or v < ys[lo] then lo = i end
        if not hi or v > ys[hi] then hi = i end
      end
    end
    if lo then
      out[#out + 1] = { xs[math.min(lo, hi)], ys[math.min(lo, hi)] }
      if lo ~= hi then out[#out + 1] = { xs[math.max(lo, hi)], ys[math.max(lo, hi)] } end
    end
  end
  return out
end

-- Lowest, 1 %, 99 % and highest of the finite values; nil when there is none.
local function spread(values)
  local sorted = {}
  for _, v in ipairs(values) do
    if stat.finite(v) then sorted[#sorted + 1] = v end
  end
  table.sort(sorted)
  if #sorted == 0 then return nil end
  return { sorted[1], stat.quantile(sorted, 0.01), stat.quantile(sorted, 0.99), sorted[#sorted] }
end

-- Fill series.rows {x, mean, lo, hi, n}, series.raw {{x, y}...} (nil when nothing was smoothed), series.window,
-- series.n.
local function compute(series, smooth)
  local list = {}
  for _, run in ipairs(series.runs) do
    local s = run.series(series.metric)
    if s and #s.step > 0 then list[#list + 1] = s end
  end
  series.rows, series.n = {}, #list
  if #list == 0 then return end
  local grid, steps = grid_of(list)
  local window = smooth or default_window(#list[1].step)
  local curves, from = {}, {}
  for k, s in ipairs(list) do curves[k] = window > 1 and stat.smooth(s.value, window) or s.value end
  for _, x in ipairs(grid) do
    local values = {}
    for k, s in ipairs(list) do values[k], from[k] = stat.at(s.step, curves[k], x, from[k]) end
    local i = stat.interval(values)
    series.rows[#series.rows + 1] = i and { x, i.mean, i.lo, i.hi, i.n } or { x, 0 / 0, 0 / 0, 0 / 0, 0 }
  end
  if window > 1 then
    local xs, ys = mean_by_step(list, steps)
    series.raw, series.spread = thin(xs, ys), spread(ys)
    series.thinned = #series.raw < #xs
    local s = list[1].step
    series.window = math.floor(window * (s[#s] - s[1]) / (#s - 1) + 0.5)
  end
end

-- The range of y that is drawn: all of the curves and bands, and the middle 98 % of the raw values. Returns lo,
-- hi, and whether raw values lie outside.
local function y_range(panel, log)
  local lo, hi, least, most = math.huge, -math.huge, math.huge, -math.huge
  local function take(v)
    if stat.finite(v) and (not log or v > 0) then lo, hi = math.min(lo, v), math.max(hi, v) end
  end
  for _, s in ipairs(panel.series) do
    for _, r in ipairs(s.rows) do
      for k = 2, 4 do take(r[k]) end
    end
    if s.spread then
      take(s.spread[2])
      take(s.spread[3])
      least, most = math.min(least, s.spread[1]), math.max(most, s.spread[4])
    end
  end
  if lo > hi then return nil end
  local outside = least < lo or most > hi
  if log then return lo / 1.1, hi * 1.1, outside end
  local size = math.max(math.abs(lo), math.abs(hi))
  local margin = 0.05 * (hi - lo)
  if hi - lo <= 1e-6 * size then margin = size > 0 and 0.1 * size or 1 end      -- a constant, or its rounding
  return lo - margin, hi + margin, outside
end

-- "20k", "1.5M": exact for the round numbers that ticks are.
local function tick_text(x)
  for _, u in ipairs { { 1000000, "M" }, { 1000, "k" } } do
    if x >= u[1] then return ("%g%s"):format(x / u[1], u[2]) end
  end
  return ("%d"):format(x)
end

-- The step axis: from 0 (or, for a stretch far from it, the first step) to the last, about five round ticks.
local function x_axis(f)
  local first, last = math.huge, 1
  for _, p in ipairs(f.panels) do
    for _, s in ipairs(p.series) do
      if #s.rows > 0 then first, last = math.min(first, s.rows[1][1]), math.max(last, s.rows[#s.rows][1]) end
    end
  end
  if first < 0.5 * last or first == math.huge or first == last then first = 0 end
  local each = 1
  while (last - first) / each > 6 do
    local lead = tonumber((("%d"):format(each)):sub(1, 1))
    each = lead == 2 and each // 2 * 5 or each * 2
  end
  local ticks = {}
  for x = (first + each - 1) // each * each, last, each do
    ticks[#ticks + 1] = ("'%s' %d"):format(tick_text(x), x)
  end
  return ("set xrange [%d:%d]\nset xtics (%s)"):format(first, last, table.concat(ticks, ", "))
end

-- ---- files ----

local function cell(x)
  if x ~= x then return "nan" end
  return math.type(x) == "integer" and ("%d"):format(x) or ("%.7g"):format(x)
end

-- Blocks separated by two blank lines (gnuplot's `index`), one for each series.
local function tsv(head, list, key)
  local out = { head }
  local block = 0
  for _, s in ipairs(list) do
    if s[key] and #s[key] > 0 then
      out[#out + 1] = ("%s# index %d: %s\t%s"):format(block > 0 and "\n\n" or "", block, s.metric, s.label)
      s[key .. "_index"] = block
      block = block + 1
      for _, row in ipairs(s[key]) do
        local cells = {}
        for i, x in ipairs(row) do cells[i] = cell(x) end
        out[#out + 1] = table.concat(cells, "\t")
      end
    end
  end
  return block > 0 and table.concat(out, "\n") .. "\n" or nil
end

local function quote(text) return "'" .. text:gsub("'", "''"):gsub("[%c]", " ") .. "'" end

local band = "  data index %d using 1:3:4 with filledcurves ls %d fs transparent solid 0.2 noborder notitle"

-- The plot command of one panel: bands below, raw curves faint, then the means.
local function plot_command(f, panel)
  local bands, raws, lines = {}, {}, {}
  for _, s in ipairs(panel.series) do
    if s.rows_index then
      local with = #s.rows < 60 and ("with linespoints ls %d pt 7 ps 0.35"):format(s.style)
        or ("with lines ls %d"):format(s.style)
      if s.n >= 2 then
        bands[#bands + 1] = band:format(s.rows_index, s.style)
      end
      if s.raw_index then
        raws[#raws + 1] = ("  raw index %d using 1:2 with lines ls %d notitle"):format(s.raw_index, 100 + s.style)
      end
      local known = #panel.series == 1 and (s.label == panel.title or s.label == f.ylabel)
      local title = known and "notitle" or "title " .. quote(s.label)
      lines[#lines + 1] = ("  data index %d using 1:2 %s %s"):format(s.rows_index, with, title)
    end
  end
  local all = {}
  for _, list in ipairs { bands, raws, lines } do table.move(list, 1, #list, #all + 1, all) end
  if #all == 0 then
    core.fail(("figure %s: no finite value in %s\n  try  --only with the names of other figures"):format(f.name,
      table.concat(f.metrics, ", ")))
  end
  return "plot \\\n" .. table.concat(all, ", \\\n")
end

local function layout(n)
  if n <= 3 then return 1, n end
  if n == 4 then return 2, 2 end
  return (n + 2) // 3, 3
end

local function styles(f)
  local out, seen = {}, {}
  for _, p in ipairs(f.panels) do
    for _, s in ipairs(p.series) do
      if not seen[s.style] then
        seen[s.style] = true
        local colour = colours[(s.style - 1) % #colours + 1]
        local dash = dashes[(s.style - 1) % #dashes + 1]
        out[#out + 1] = ("set style line %d lc rgb '%s' lw 2 dt %s"):format(s.style, colour, dash)
        local faint = (s.n > 1 and "#cc" or "#a8") .. colour:sub(2)
        out[#out + 1] = ("set style line %d lc rgb '%s' lw 0.7 dt solid"):format(100 + s.style, faint)
      end
    end
  end
  return table.concat(out, "\n")
end

local function panel_commands(f, panel)
  local out = {}
  local lo, hi, outside = y_range(panel, f.log)
  panel.outside = outside
  out[1] = lo and ("set yrange [%.9g:%.9g]"):format(lo, hi) or "set yrange [*:*]"
  out[2] = panel.title and "set title " .. quote(panel.title) or "unset title"
  out[#out + 1] = plot_command(f, panel)
  return table.concat(out, "\n")
end

local script = [[
# $NAME.gp -- $TITLE
# Made by sumi report; self-contained: edit it and run `gnuplot $NAME.gp` in this folder to redraw.
data = '$NAME.tsv'        # x mean lo hi n, one block for each curve (index 0, 1, ...)
raw = '$NAME.raw.tsv'     # x y before smoothing (there only if a curve was smoothed)
set encoding utf8
$STYLES
set border 3 lw 0.8
set tics nomirror out scale 0.6
set style line 300 lt 1 lc rgb '#d8d8d8' lw 0.5 dt solid
set grid ytics ls 300
set key above left horizontal Left reverse samplen 2.5 width 0
$XAXIS
set xlabel 'step'
set ylabel $YLABEL
set format y '%g'
$LOG
do for [kind in 'svg pdf png'] {
if (kind eq 'svg') { set terminal svg size $SVG dynamic noenhanced font 'sans-serif,13' background rgb 'white' }
if (kind eq 'pdf') { set terminal pdfcairo size $PDF noenhanced font 'sans,7' linewidth 0.7 }
if (kind eq 'png') { set terminal pngcairo size $PNG noenhanced font 'sans,18' linewidth 1.6 }
set output '$NAME.'.kind
$PLOTS
}
unset output
]]

local function fill(template, values)
  return (template:gsub("%$(%u+)", values))
end

local function gnuplot_script(f)
  local rows, cols = layout(#f.panels)
  local wide, tall = cols == 1 and 560 or 1120, rows * (cols == 3 and 310 or 340)
  local plots = {}
  for i, p in ipairs(f.panels) do plots[i] = panel_commands(f, p) end
  local body = table.concat(plots, "\n")
  if #plots > 1 then body = ("set multiplot layout %d,%d\n%s\nunset multiplot"):format(rows, cols, body) end
  local inches = cols == 1 and 3.3 or 6.8             -- one or two columns of a paper
  local high = inches * tall / wide * (cols == 1 and 1.1 or 1.3)
  return fill(script, { NAME = f.name, TITLE = f.title:gsub("%c", " "), STYLES = styles(f), XAXIS = x_axis(f),
    YLABEL = quote(f.ylabel), LOG = f.log and "set logscale y" or "unset logscale", PLOTS = body,
    SVG = ("%d,%d"):format(wide, tall), PDF = ("%.1fin,%.2fin"):format(inches, high),
    PNG = ("%d,%d"):format(2 * wide, 2 * tall) })
end

-- What the curves are, in one or two sentences; every smoothing is named.
local function caption(f)
  local least, most, window, outside, thinned = math.huge, 0, nil, false, false
  for _, p in ipairs(f.panels) do
    outside = outside or p.outside
    for _, s in ipairs(p.series) do
      if s.n > 0 then least, most = math.min(least, s.n), math.max(most, s.n) end
      if s.window then window = math.max(window or 0, s.window) end
      thinned = thinned or s.thinned
    end
  end
  local out = {}
  local over = most >= 2 and " (mean over seeds)" or ""
  if window then
    out[1] = ("Thick: running mean over %d steps%s; faint: %s%s."):format(window, over,
      thinned and "the lowest and highest single steps" or "every step", over)
  elseif most >= 2 then
    out[1] = "Mean over seeds."
  end
  if most >= 3 then
    out[#out + 1] = "Band: 95 % t interval over " .. (least == most and tostring(most) or least .. " to " .. most)
      .. " seeds" .. (least < 3 and " (two seeds: their range)." or ".")
  elseif most == 2 then
    out[#out + 1] = "Band: range of two seeds."
  end
  if outside then out[#out + 1] = "The axis leaves out the most extreme 2 % of single steps." end
  return table.concat(out, " ")
end

-- pdfcairo writes the time of day; overwrite its digits (same length, so the cross references stay right) to
-- make the file depend on the numbers only.
local function freeze_date(path)
  local bytes = assert(core.read_file(path))
  local frozen = bytes:gsub("(/CreationDate%s*%(D:)%d+", function(head)
    return head .. "20000101000000"
  end):gsub("(/CreationDate%s*%(D:%d+)([^%)]*)", function(head, zone) return head .. zone:gsub("%d", "0") end)
  if #frozen == #bytes then assert(core.write_file_atomic(path, frozen)) end
end

local function put(path, text)
  local ok, message = core.write_file_atomic(path, text)
  if not ok then core.fail(6, "report: " .. message) end
end

local function run_gnuplot(f, dir)
  local code, out, err = core.spawn({ "gnuplot", f.name .. ".gp" }, { cwd = dir })
  if not code then
    core.fail(6, "report: gnuplot is not there (" .. out .. ")\n  try  sudo apt install gnuplot-nox")
  end
  for _, kind in ipairs { "svg", "pdf", "png" } do
    local st = core.stat(("%s/%s.%s"):format(dir, f.name, kind))
    if code ~= 0 or not st or st.size == 0 or err:find "%S" then
      core.fail(("figure %s: gnuplot %s/%s.gp ended with %d and made no usable %s\n%s%s"):format(
        f.name, dir, f.name, code, kind, out, err))
    end
  end
end

-- Write a planned curve figure into dir (which exists) and draw it. Adds f.svg (its text) and f.caption.
function figure.write(f, dir)
  local series = {}
  for _, p in ipairs(f.panels) do
    for _, s in ipairs(p.series) do
      compute(s, f.smooth)
      series[#series + 1] = s
    end
  end
  local base = dir .. "/" .. f.name
  for _, kind in ipairs { ".svg", ".pdf", ".png", ".raw.tsv" } do core.remove(base .. kind) end
  local title = "# " .. f.title:gsub("%c", " ")
  put(base .. ".tsv", tsv(title .. "\n# x\tmean\tlo\thi\tn", series, "rows") or title .. "\n# no data\n")
  local raw = tsv(title .. ", before smoothing\n# x\ty", series, "raw")
  if raw then put(base .. ".raw.tsv", raw) end
  put(base .. ".gp", gnuplot_script(f))
  run_gnuplot(f, dir)
  freeze_date(base .. ".pdf")
  f.caption = caption(f)
  f.svg = assert(core.read_file(base .. ".svg"))
  return f
end

return figure
