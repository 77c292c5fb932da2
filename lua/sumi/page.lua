-- page.lua -- the report as one static HTML file: numbers, curves, samples, config, environment, events, code.
-- It opens from a disk without network and without JavaScript, stays below 5 MB, and depends on the runs only
-- (no date of its own). Which runs and which figures is decided in report.lua.
local assets = require "sumi.page_assets"
local core = require "sumi.core"
local markup = require "sumi.markup"
local samples = require "sumi.page_samples"
local stat = require "sumi.stat"
local term = require "sumi.term"

local page = {}
local esc = markup.esc
local buffer = markup.buffer
local thousands = markup.thousands
local seed_text = markup.seed_text
local date = markup.date
local relative = markup.relative
local url = markup.url
local plural = markup.plural

-- ---- head ----

local function count_states(model)
  local order, n = {}, {}
  for _, run in ipairs(model.runs) do
    local s = run.state or "unknown"
    if not n[s] then order[#order + 1] = s end
    n[s] = (n[s] or 0) + 1
  end
  return order, n
end

-- What a reader wants to know first, as computed facts.
local function lead(model)
  local order, n = count_states(model)
  local states = {}
  for i, s in ipairs(order) do states[i] = n[s] .. " " .. s end
  local out = { ("%s of %s: %s."):format(plural(#model.runs, "run"), plural(#model.variants, "variant"),
                                         table.concat(states, ", ")) }
  if #model.runs == 1 then
    local run = model.runs[1]
    out[1] = ("Variant %s, seed %s, %s."):format(run.variant, seed_text(run.seed), states[1]:gsub("^1 ", ""))
    if run.reason and run.reason ~= "" then out[2] = "Reason: " .. tostring(run.reason):match "^[^\n]*" .. "." end
  end
  local broken = 0
  for _, run in ipairs(model.runs) do
    for _, name in ipairs(run.names) do
      local s = run.summary[name]
      if s and s.last and not stat.finite(s.last) then
        broken = broken + 1
        break
      end
    end
  end
  if broken > 0 then
    out[#out + 1] = ("In %s a loss is no longer a finite number."):format(plural(broken, "run"))
  end
  return table.concat(out, " ")
end

local function tiles(b, model)
  local steps, seconds = 0, 0
  for _, run in ipairs(model.runs) do
    steps, seconds = steps + (run.step or 0), seconds + run.trained
  end
  local first = model.runs[1]
  b.raw '<div class="tiles">'
  local function tile(value, what) b.add('<div class="tile"><b>%s</b><span>%s</span></div>', value, what) end
  if #model.runs == 1 then
    tile(thousands(first.step or 0), first.steps and "of " .. thousands(first.steps) .. " steps" or "steps")
    tile(seed_text(first.seed), "seed")
  else
    tile(tostring(#model.runs), "runs")
    tile(tostring(#model.variants), #model.variants == 1 and "variant" or "variants")
    tile(thousands(steps), "steps in all")
  end
  tile(term.duration(seconds), "of training")
  if seconds > 0 then
    local rate = steps / seconds
    if rate >= 1 then tile(term.number(rate), "steps per second")
    else tile(term.number(1 / rate), "seconds per step") end
  end
  b.raw "</div>"
end

local sections = { { "numbers", "Numbers" }, { "curves", "Curves" }, { "samples", "Samples" }, { "runs", "Runs" },
  { "config", "Config" }, { "events", "Events" }, { "environment", "Environment" }, { "code", "Code" } }

local function head(b, model, has)
  b.raw '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
  b.raw '<meta name="viewport" content="width=device-width,initial-scale=1">'
  b.raw '<meta name="color-scheme" content="light dark">'
  b.add("<title>%s · Sumi report</title>", model.title)
  b.raw("<style>\n" .. assets.css .. "</style>\n</head>\n<body>")
  b.raw '<header>\n<div class="brand">Sumi report</div>'
  b.add("<h1>%s</h1>", model.title)
  b.add('<p class="lead">%s</p>', lead(model))
  tiles(b, model)
  b.raw '<nav aria-label="Sections">'
  for _, s in ipairs(sections) do
    if has[s[1]] then b.add('<a href="#%s">%s</a>', s[1], s[2]) end
  end
  b.raw "</nav>\n</header>\n<main>"
end

-- ---- numbers ----

-- An inline curve of 24 points, no axes: what went where.
local function spark(list, metric)
  local values
  for _, run in ipairs(list) do
    local s = run.series(metric)
    if s and #s.value > 1 then
      local slices = term.slices(s.value, 24)
      if not values then values = slices end
    end
  end
  if not values then return "" end
  local lo, hi = math.huge, -math.huge
  for _, v in ipairs(values) do
    if stat.finite(v) then lo, hi = math.min(lo, v), math.max(hi, v) end
  end
  local d = {}
  for i, v in ipairs(values) do
    if stat.finite(v) then
      local y = hi - lo > 1e-9 * math.abs(hi) and 15 - 14 * (v - lo) / (hi - lo) or 8
      d[#d + 1] = ("%s%.1f,%.1f"):format(#d == 0 and "M" or "L", (i - 1) * 70 / math.max(1, #values - 1) + 1, y)
    end
  end
  return ('<svg class="spark" width="72" height="16" viewBox="0 0 72 16" role="img" aria-label="from %s to %s">'
    .. '<path d="%s" fill="none" stroke="var(--accent)" stroke-width="1.4" stroke-linejoin="round"/></svg>'):format(
    term.number(values[1]), term.number(values[#values]), table.concat(d))
end

local function first_tenth(run, metric)
  local s = run.series(metric)
  if not s or #s.value == 0 then return 0 / 0 end
  local sum, k = 0, 0
  for i = 1, math.max(1, #s.value // 10) do
    if stat.finite(s.value[i]) then sum, k = sum + s.value[i], k + 1 end
  end
  return k > 0 and sum / k or 0 / 0
end

local function starts(variant, metric)
  local values = {}
  for i, run in ipairs(variant.runs) do values[i] = first_tenth(run, metric) end
  return stat.interval(values)
end

-- With one run everything is of one seed: said once in the head instead of in each cell.
local function one_seed(model)
  return #model.runs == 1
end

local function numbers(b, model)
  local report = require "sumi.report"
  local single = #model.variants == 1
  local function cell_text(c)
    local text = report.cell_text(c)
    return one_seed(model) and text:gsub(" %(1 seed%)", "") or text
  end
  b.raw '<section id="numbers">\n<h2>Numbers</h2>\n<div class="scroll"><table class="sortable">'
  b.raw '<thead><tr><th>metric</th>'
  if single then
    b.raw '<th class="n">first tenth</th>'
    b.add('<th class="n">final%s</th><th>course</th>', one_seed(model) and " (1 seed)" or "")
  else
    for _, v in ipairs(model.variants) do b.add('<th class="n">%s</th>', v.name) end
  end
  b.raw "</tr></thead>\n<tbody>"
  for _, row in ipairs(model.table) do
    b.add('<tr><th scope="row" class="mono">%s</th>', row.metric)
    if single then
      local s = starts(model.variants[1], row.metric)
      b.add('<td class="n" data-v="%.9g">%s</td>', s and s.mean or 0, stat.text(s))
    end
    for k, c in ipairs(row.cells) do
      b.add('<td class="n" data-v="%.9g">%s', c.value and c.value.mean or 0, cell_text(c))
      if not single then b.raw(spark(model.variants[k].runs, row.metric)) end
      b.raw "</td>"
    end
    if single then b.raw("<td>" .. spark(model.variants[1].runs, row.metric) .. "</td>") end
    b.raw "</tr>"
  end
  b.raw "</tbody></table></div>"
  page.table_note(b, model)
  b.raw "</section>"
end

-- How the numbers were made, and what the marks mean; only what applies.
function page.table_note(b, model)
  local most, unfinished, left_out = 0, false, false
  for _, row in ipairs(model.table) do
    for _, c in ipairs(row.cells) do
      most = math.max(most, c.value and c.value.n or 0)
      unfinished, left_out = unfinished or not c.finished, left_out or c.left_out > 0
    end
  end
  local out = { "Losses: mean of the last tenth of the steps. Other metrics: the last measurement." }
  if most >= 3 then
    out[#out + 1] = "± is the half-width of the 95 % t interval over seeds; with two seeds both are given."
  end
  if most == 2 then out[#out + 1] = "Two values: two seeds." end
  if unfinished then
    out[#out + 1] = "* no run of this variant has finished; the numbers are of its latest step."
  end
  if left_out then out[#out + 1] = "† runs that did not finish are left out: finished/all." end
  b.add('<p class="note">%s The same as a file: <a href="final.tsv">final.tsv</a></p>', table.concat(out, " "))
end

-- ---- curves ----

-- gnuplot's svg made fit for a page: no fixed ink or paper (dark mode), ids of its own, less precision.
function page.inline_svg(svg, id, label)
  local body = svg:match "<svg.->(.*)</svg>" or ""
  local box = svg:match 'viewBox="([^"]*)"' or "0 0 560 340"
  body = body:gsub("<title>.-</title>", ""):gsub("<desc>.-</desc>", "")
  body = body:gsub('<rect x="0" y="0" width="%d+" height="%d+" fill="#ffffff"/>', "", 1)
  body = body:gsub(" id=(['\"])", " id=%1" .. id .. "-"):gsub("xlink:href='#", "href='#" .. id .. "-")
    :gsub("(clip%-path=\"url%(#)", "%1" .. id .. "-")
  body = body:gsub("(['\"])black%1", "%1currentColor%1"):gsub("%s*\n%s*", "\n")
  body = body:gsub("( d=')([^']*)", function(head, path) return head .. path:gsub("(%d%.%d)%d", "%1") end)
  body = body:gsub("<g [^>]*>\n</g>\n", "")
  return ('<svg class="plot" viewBox="%s" role="img" aria-label="%s">%s</svg>'):format(box, esc(label), body)
end

-- Alt text: what each curve did, in words.
local function describe(f)
  local parts = {}
  for _, p in ipairs(f.panels) do
    for _, s in ipairs(p.series) do
      local first, last
      for _, r in ipairs(s.rows) do
        if stat.finite(r[2]) then first, last = first or r, r end
      end
      if first and #parts < 12 then
        local name = (p.title and p.title ~= s.label and p.title .. " " or "") .. s.label
        parts[#parts + 1] = ("%s from %s to %s"):format(name, term.number(first[2]), term.number(last[2]))
      end
    end
  end
  return f.title .. " over steps: " .. table.concat(parts, "; ")
end

local function curves(b, figures)
  if #figures == 0 then return end
  b.raw '<section id="curves">\n<h2>Curves</h2>\n<div class="figures">'
  for i, f in ipairs(figures) do
    b.add('<figure%s id="fig-%s">', "", f.name)
    if #f.panels > 1 then b[#b] = b[#b]:gsub("<figure", '<figure class="wide"') end
    b.add("<h3>%s</h3>", f.title)
    b.raw(page.inline_svg(f.svg, "f" .. i, describe(f)))
    b.add("<figcaption>%s", f.caption)
    b.raw '<span class="files">'
    for _, kind in ipairs { "pdf", "svg", "png", "gp", "tsv" } do
      b.add('<a href="figures/%s.%s">%s</a>', url(f.name), kind, kind)
    end
    b.raw "</span></figcaption>\n</figure>"
  end
  b.raw "</div></section>"
end

-- ---- runs, config, events, environment, code ----

local function runs(b, model, out)
  b.raw '<section id="runs">\n<h2>Runs</h2>\n<div class="scroll"><table class="sortable">\n<thead><tr>'
  for _, h in ipairs { "run", "id", "state", "step", "time", "speed" } do b.add("<th>%s</th>", h) end
  b.raw "<th>started (UTC)</th></tr></thead>\n<tbody>"
  for _, v in ipairs(model.variants) do
    for _, run in ipairs(v.runs) do
      local rate = run.trained > 0 and (run.step or 0) / run.trained or nil
      local id, state = tostring(run.run_id or run.id or ""):sub(1, 8), run.state or "unknown"
      b.add('<tr><th scope="row"><a href="%s">%s / seed %s</a></th>', url(relative(out, run.dir)), v.name,
        seed_text(run.seed))
      b.add('<td class="mono">%s</td><td><span class="state %s">%s</span></td>', id, state, state)
      b.add('<td data-v="%d">%s</td>', run.step or 0,
        thousands(run.step or 0) .. (run.steps and run.steps ~= run.step and " of " .. thousands(run.steps) or ""))
      b.add('<td data-v="%.3f">%s</td>', run.trained, term.duration(run.trained))
      b.add('<td data-v="%.6g">%s</td><td>%s</td></tr>', rate or 0, rate and term.number(rate) .. " it/s" or "–",
        date(run.created))
    end
  end
  b.raw "</tbody></table></div>"
  page.troubles(b, model)
  b.raw "</section>"
end

-- Runs that did not end well, with their reasons and the last lines of their logs.
function page.troubles(b, model)
  for _, run in ipairs(model.runs) do
    if run.state == "failed" or run.state == "diverged" or run.state == "lost" then
      local lines = {}
      for line in (core.read_file(run.dir .. "/log.txt") or ""):gmatch "[^\n]+" do lines[#lines + 1] = line end
      local why = run.reason and run.reason ~= "" and ": " .. tostring(run.reason) or ""
      b.add('<p><span class="state %s">%s</span> %s / seed %s%s</p>', run.state, run.state, tostring(run.variant),
        seed_text(run.seed), why)
      if #lines > 0 then b.add("<pre>%s</pre>", table.concat(lines, "\n", math.max(1, #lines - 11))) end
    end
  end
end

local function as_text(value)
  if type(value) == "number" then return (math.type(value) == "integer" and "%d" or "%.6g"):format(value) end
  return tostring(value)
end

-- Rows of {key, value of variant 1, ...} from each variant's first run, keys in order of appearance.
local function merge(model, field)
  local keys, rows = {}, {}
  for k, v in ipairs(model.variants) do
    for _, pair in ipairs(v.runs[1][field] or {}) do
      local row = rows[pair[1]]
      if not row and pair[1] ~= "report" then
        row = { pair[1] }
        rows[pair[1]] = row
        keys[#keys + 1] = row
      end
      if row then row[k + 1] = as_text(pair[2]) end
    end
  end
  return keys
end

local function pairs_table(b, model, field)
  local rows, columns, same = merge(model, field), #model.variants, true
  local function differs(row)
    for k = 2, columns do
      if row[k + 1] ~= row[2] then return true end
    end
    return false
  end
  for _, row in ipairs(rows) do same = same and not differs(row) end
  local shown = same and 1 or columns
  b.raw '<div class="scroll"><table>'
  if shown > 1 then
    b.raw "<thead><tr><th></th>"
    for _, v in ipairs(model.variants) do b.add("<th>%s</th>", v.name) end
    b.raw "</tr></thead>"
  end
  b.raw "<tbody>"
  for _, row in ipairs(rows) do
    local class = shown > 1 and differs(row) and ' class="differs"' or ""
    b.add('<tr><th scope="row" class="mono">%s</th>', row[1])
    for k = 1, shown do b.raw(("<td%s>%s</td>"):format(class, esc(row[k + 1] or "–"))) end
    b.raw "</tr>"
  end
  b.raw "</tbody></table></div>"
end

local function config(b, model)
  b.raw '<section id="config">\n<h2>Config</h2>'
  pairs_table(b, model, "config")
  b.raw "</section>"
end

local function environment(b, model)
  b.raw '<section id="environment">\n<h2>Environment and provenance</h2>'
  pairs_table(b, model, "provenance")
  if #model.runs > #model.variants then
    b.raw '<p class="note">Of the first run of each variant; every run keeps its own in run.h5.</p>'
  end
  b.raw "</section>"
end

-- Checkpoints are counted, not listed: there are hundreds and nothing is to be learnt from them.
local function notable(run)
  local list, checkpoints = {}, 0
  for _, e in ipairs(run.events or {}) do
    if e.kind == "checkpoint" then checkpoints = checkpoints + 1 else list[#list + 1] = e end
  end
  return list, checkpoints
end

local function has_notable(model)
  for _, run in ipairs(model.runs) do
    if #(notable(run)) > 0 then return true end
  end
  return false
end

local function events(b, model)
  b.raw '<section id="events">\n<h2>Events</h2>\n<div class="scroll"><table><thead><tr>'
  for _, h in ipairs { "run", "step", "kind", "what" } do b.add("<th>%s</th>", h) end
  b.raw "</tr></thead><tbody>"
  local most, hidden, saved = math.max(5, 60 // #model.runs), 0, 0
  for _, run in ipairs(model.runs) do
    local list, checkpoints = notable(run)
    local from = math.max(1, #list - most + 1)
    hidden, saved = hidden + from - 1, saved + checkpoints
    for i = from, #list do
      local e = list[i]
      b.add('<tr><th scope="row">%s / seed %s</th><td>%d</td><td>%s</td><td class="wrap">%s</td></tr>',
        tostring(run.variant), seed_text(run.seed), e.step or 0, e.kind or "", e.text or "")
    end
  end
  b.add('</tbody></table></div><p class="note">%s written.%s</p></section>', plural(saved, "checkpoint"),
    hidden > 0 and (" %d earlier events are in the runs' run.h5."):format(hidden) or "")
end

local function code(b, model)
  b.raw '<section id="code">\n<h2>Code</h2>\n<p>As it was when the run started.</p>'
  local seen = {}
  for _, v in ipairs(model.variants) do
    for i, c in ipairs(v.runs[1].code or {}) do
      if not seen[c.text] then
        seen[c.text] = true
        b.add("<details%s><summary class=\"mono\">%s</summary>", "", c.name)
        if i == 1 then b[#b] = b[#b]:gsub("<details", "<details open", 1) end
        b.add("<pre>%s</pre></details>", c.text)
      end
    end
  end
  b.raw "</section>"
end

local function has_any(model, field)
  for _, run in ipairs(model.runs) do
    if run[field] and #run[field] > 0 then return true end
  end
  return false
end

-- The whole page. figures are written ones (figure.write), strips are declarations, out is the folder it will
-- lie in.
function page.html(model, figures, strips, out)
  local viewers, left_out = samples.fit(samples.find(model, 8))
  local has = { numbers = #model.table > 0, curves = #figures > 0, samples = #viewers > 0, runs = true,
                config = has_any(model, "config"), events = has_notable(model),
                environment = has_any(model, "provenance"), code = has_any(model, "code") }
  local b = buffer()
  head(b, model, has)
  if has.numbers then numbers(b, model) end
  curves(b, figures)
  samples.section(b, model, viewers, left_out, out)
  if #strips > 0 then b.raw '<section id="strips"><h2>Over the steps</h2>' end
  for _, s in ipairs(strips) do samples.strip(b, model, s) end
  if #strips > 0 then b.raw "</section>" end
  runs(b, model, out)
  if has.config then config(b, model) end
  if has.events then events(b, model) end
  if has.environment then environment(b, model) end
  if has.code then code(b, model) end
  b.raw '</main>\n<dialog id="zoom"><img src="data:," alt=""></dialog>'
  b.add("<footer>Made by sumi %s from %s. Figures, their data and their gnuplot scripts lie in figures/.</footer>",
    core.versions().sumi, plural(#model.runs, "run"))
  b.raw("<script>\n" .. assets.js .. "</script>\n</body>\n</html>\n")
  return b.text()
end

return page
