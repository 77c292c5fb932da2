-- page.lua -- the report as one static HTML file: numbers, curves, samples, config, environment, events, code.
-- It opens from a disk without network and without JavaScript, stays below 5 MB, and depends on the runs only (no date of
-- its own). Which runs and which figures is decided in report.lua.
local assets = require "sumi.page_assets"
local core = require "sumi.core"
local stat = require "sumi.stat"
local term = require "sumi.term"

local page = {}
local picture_budget = 2.6e6         -- bytes of sample pictures before base64 makes a third more of them
local most_pictures = 96             -- so many are encoded at most
local small_file = 16384             -- a PNG up to here is embedded as it is; a larger one as lossy WebP

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }
local function esc(x) return (tostring(x):gsub("[&<>\"']", escapes):gsub("[%z\1-\8\11\12\14-\31]", "?")) end

-- A small buffer: add("text %s", ...) formats, and every %s is escaped; raw() adds as is.
local function buffer()
  local b = {}
  function b.raw(s) b[#b + 1] = s end
  function b.add(fmt, ...)
    local args = table.pack(...)
    for i = 1, args.n do
      if type(args[i]) == "string" then args[i] = esc(args[i]) end
    end
    b[#b + 1] = fmt:format(table.unpack(args, 1, args.n))
  end
  function b.text() return table.concat(b, "\n") end
  return b
end

local function thousands(n)
  local s = ("%d"):format(n)
  repeat
    local k
    s, k = s:gsub("^(%-?%d+)(%d%d%d)", "%1,%2")
  until k == 0
  return s
end

local function seed_text(seed)
  return tostring(math.tointeger(seed) or seed)
end

local function date(t)
  if type(t) == "number" then return os.date("!%Y-%m-%d %H:%M", math.floor(t)) end
  return t and (tostring(t):gsub("T", " "):gsub("%.%d+", ""):gsub("Z$", "")) or "–"
end

-- "../x" from folder `from` to `to`, for links that survive moving the whole results folder.
local function relative(from, to)
  local a, b = {}, {}
  for part in (core.realpath(from) or from):gmatch "[^/]+" do a[#a + 1] = part end
  for part in (core.realpath(to) or to):gmatch "[^/]+" do b[#b + 1] = part end
  local k = 0
  while k < #a and k < #b and a[k + 1] == b[k + 1] do k = k + 1 end
  local out = {}
  for _ = k + 1, #a do out[#out + 1] = ".." end
  table.move(b, k + 1, #b, #out + 1, out)
  return #out > 0 and table.concat(out, "/") or "."
end

local function url(path)
  return (path:gsub("[^%w/%-_.~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

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

local function plural(n, word) return ("%s %s%s"):format(thousands(n), word, n == 1 and "" or "s") end

-- What a reader wants to know first, as computed facts.
local function lead(model)
  local order, n = count_states(model)
  local states = {}
  for i, s in ipairs(order) do states[i] = n[s] .. " " .. s end
  local out = { ("%s of %s: %s."):format(plural(#model.runs, "run"), plural(#model.variants, "variant"),
                                         table.concat(states, ", ")) }
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
  if broken > 0 then out[#out + 1] = ("In %s a loss is no longer a finite number."):format(plural(broken, "run")) end
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
    tile(rate >= 1 and term.number(rate) or term.number(1 / rate), rate >= 1 and "steps per second" or "seconds per step")
  end
  b.raw "</div>"
end

local sections = { { "numbers", "Numbers" }, { "curves", "Curves" }, { "samples", "Samples" }, { "runs", "Runs" },
  { "config", "Config" }, { "events", "Events" }, { "environment", "Environment" }, { "code", "Code" } }

local function head(b, model, has)
  b.raw '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
  b.raw '<meta name="viewport" content="width=device-width,initial-scale=1">\n<meta name="color-scheme" content="light dark">'
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
      local y = hi > lo and 15 - 14 * (v - lo) / (hi - lo) or 8
      d[#d + 1] = ("%s%.1f,%.1f"):format(#d == 0 and "M" or "L", (i - 1) * 70 / math.max(1, #values - 1) + 1, y)
    end
  end
  return ('<svg class="spark" width="72" height="16" viewBox="0 0 72 16" role="img" aria-label="from %s to %s"><path d="%s" '
    .. 'fill="none" stroke="var(--accent)" stroke-width="1.4" stroke-linejoin="round"/></svg>'):format(
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
  b.raw '<section id="numbers">\n<h2>Numbers</h2>\n<div class="scroll"><table class="sortable">\n<thead><tr><th>metric</th>'
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
  if most >= 3 then out[#out + 1] = "± is the half-width of the 95 % t interval over seeds; with two seeds both are given." end
  if most == 2 then out[#out + 1] = "Two values: two seeds." end
  if unfinished then out[#out + 1] = "* no run of this variant has finished; the numbers are of its latest step." end
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
  body = body:gsub("(['\"])black%1", "%1currentColor%1"):gsub("(%d%.%d)%d", "%1"):gsub("%s*\n%s*", "\n")
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
        parts[#parts + 1] = ("%s%s from %s to %s"):format(p.title and p.title ~= s.label and p.title .. " " or "", s.label,
                                                         term.number(first[2]), term.number(last[2]))
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

-- ---- samples ----

-- Width and height from a PNG's head.
local function png_size(bytes)
  if bytes:sub(1, 8) ~= "\137PNG\r\n\26\n" then return nil end
  return string.unpack(">I4I4", bytes, 17)
end

-- One viewer for each tag of a run: {run=, tag=, frames = {{step=, path=}...}}, first seeds of all variants first.
local function find_viewers(model, most)
  local viewers, round = {}, 1
  local more = true
  while more and #viewers < most do
    more = false
    for _, v in ipairs(model.variants) do
      local run = v.runs[round]
      if run then
        more = true
        local by_tag = {}
        for _, s in ipairs(run.samples or {}) do
          local path = run.dir .. "/" .. s.path
          if core.stat(path) then
            if not by_tag[s.tag] then
              by_tag[s.tag] = { run = run, variant = v.name, tag = s.tag, frames = {} }
              viewers[#viewers + 1] = by_tag[s.tag]
            end
            table.insert(by_tag[s.tag].frames, { step = s.step, path = path, size = core.stat(path).size })
          end
        end
      end
    end
    round = round + 1
  end
  return viewers
end

-- k of the frames, evenly spaced, first and last included.
local function thin(frames, k)
  if #frames <= k then return frames end
  if k == 1 then return { frames[#frames] } end
  local out = {}
  for i = 1, k do out[i] = frames[1 + (i - 1) * (#frames - 1) // (k - 1)] end
  return out
end

-- The frame's picture as it will be embedded: {bytes, kind, w, h}; made once.
local function encode(f)
  if f.picture then return f.picture end
  local bytes, kind, w, h
  if f.size <= small_file then
    bytes, kind = core.read_file(f.path), "png"
    if bytes then w, h = png_size(bytes) end
  end
  if not w then
    bytes, w, h = core.thumbnail(f.path, 768, 84)
    kind = "webp"
    if not bytes then core.fail("report: " .. w) end
  end
  f.picture = { bytes = bytes, kind = kind, w = w, h = h }
  return f.picture
end

-- Fewer steps, then fewer viewers, until the pictures fit. Returns the viewers and whether anything was left out.
local function fit(viewers)
  local full, all = 0, #viewers
  for _, v in ipairs(viewers) do full = math.max(full, #v.frames) end
  while #viewers > 0 do
    for k = math.min(full, math.max(1, most_pictures // #viewers)), 1, -1 do
      local bytes = 0
      for _, v in ipairs(viewers) do
        v.shown = thin(v.frames, k)
        for _, f in ipairs(v.shown) do bytes = bytes + #encode(f).bytes end
      end
      if bytes <= picture_budget then return viewers, k < full or #viewers < all end
    end
    table.remove(viewers)
  end
  return viewers, all > 0
end

-- Pixels of a small picture are enlarged by a whole number, until it is about `target` wide.
local function picture(b, f, alt, target)
  local p = encode(f)
  local scale = math.max(1, math.min(8, math.floor(target / p.w)))
  b.raw(('<img src="data:image/%s;base64,%s" width="%d" height="%d"%s alt="%s">'):format(p.kind, core.base64(p.bytes),
    p.w * scale, p.h * scale, scale > 1 and ' class="small"' or "", esc(alt)))
end

local function viewer(b, v, out, model, target)
  local name = v.tag
  if #model.runs > 1 then name = ("%s · %s · seed %s"):format(v.tag, v.variant, seed_text(v.run.seed)) end
  b.raw '<figure class="viewer">'
  b.add("<h3>%s</h3>", name)
  b.raw '<div class="frames">'
  for i, f in ipairs(v.shown) do
    b.add('<div class="frame%s" data-step="%d">', i == #v.shown and " on" or "", f.step)
    picture(b, f, ("%s of %s, seed %s, at step %d"):format(v.tag, v.variant, seed_text(v.run.seed), f.step), target)
    b.add('<small>step %s · <a href="%s">original</a></small></div>', thousands(f.step), url(relative(out, f.path)))
  end
  b.raw "</div></figure>"
end

local function samples(b, model, viewers, left_out, out)
  if #viewers == 0 then return end
  b.raw '<section id="samples">\n<h2>Samples</h2>'
  b.raw '<div class="bar"><button id="play" type="button">Play</button>'
  b.raw '<input id="step" type="range" min="0" value="0" aria-label="Step of the samples"><output id="at"></output>'
  b.raw '<button id="all" type="button">All steps</button></div>\n<div class="samples">'
  for _, v in ipairs(viewers) do viewer(b, v, out, model, #viewers <= 2 and 520 or 340) end
  b.raw "</div>"
  b.add('<p class="note">The same noise or the same inputs at every step.%s</p></section>',
    left_out and " Not every step or seed is shown here; all are in the runs' samples folders." or "")
end

-- A declared strip: a row for each variant, a column for each step.
local function strip(b, model, s)
  local rows, steps = {}, {}
  for _, v in ipairs(find_viewers(model, #model.variants * 8)) do
    if v.tag == s.tag and (s.by == "seed" or v.run == model.variants[1].runs[1] or s.by == "variant") then
      rows[#rows + 1] = v
    end
  end
  if #rows == 0 then core.fail(4, ("strip: no samples are tagged '%s'"):format(s.tag)) end
  for i, f in ipairs(thin(rows[1].frames, 5)) do steps[i] = f.step end
  steps = s.at or steps
  b.add('<figure class="wide"><h3>%s</h3>', s.title or s.tag)
  b.add('<div class="strip" style="grid-template-columns:max-content repeat(%d,1fr)"><div></div>', #steps)
  for _, at in ipairs(steps) do b.add("<div>step %s</div>", thousands(at)) end
  for _, v in ipairs(rows) do
    b.add("<div>%s, seed %s</div>", v.variant, seed_text(v.run.seed))
    for _, at in ipairs(steps) do
      local pick
      for _, f in ipairs(v.frames) do
        if f.step <= at then pick = f end
      end
      b.raw "<div>"
      if pick then picture(b, pick, ("%s of %s at step %d"):format(v.tag, v.variant, pick.step), 200) end
      b.raw "</div>"
    end
  end
  b.raw "</div></figure>"
end

-- ---- runs, config, events, environment, code ----

local function runs(b, model, out)
  b.raw '<section id="runs">\n<h2>Runs</h2>\n<div class="scroll"><table class="sortable">\n<thead><tr>'
  for _, h in ipairs { "run", "id", "state", "step", "time", "speed", "started (UTC)" } do b.add("<th>%s</th>", h) end
  b.raw "</tr></thead>\n<tbody>"
  for _, v in ipairs(model.variants) do
    for _, run in ipairs(v.runs) do
      local rate = run.trained > 0 and (run.step or 0) / run.trained or nil
      b.add('<tr><th scope="row"><a href="%s">%s / seed %s</a></th>', url(relative(out, run.dir)), v.name, seed_text(run.seed))
      b.add('<td class="mono">%s</td><td><span class="state %s">%s</span></td>', tostring(run.id or ""):sub(1, 8),
        run.state or "unknown", run.state or "unknown")
      b.add('<td data-v="%d">%s</td>', run.step or 0,
        thousands(run.step or 0) .. (run.steps and run.steps ~= run.step and " of " .. thousands(run.steps) or ""))
      b.add('<td data-v="%.3f">%s</td><td data-v="%.6g">%s</td><td>%s</td></tr>', run.trained, term.duration(run.trained),
        rate or 0, rate and term.number(rate) .. " it/s" or "–", date(run.created))
    end
  end
  b.raw "</tbody></table></div>"
  page.troubles(b, model)
  b.raw "</section>"
end

-- Runs that did not end well, with the last lines of their logs.
function page.troubles(b, model)
  for _, run in ipairs(model.runs) do
    if run.state == "failed" or run.state == "diverged" or run.state == "lost" then
      local lines = {}
      for line in (core.read_file(run.dir .. "/log.txt") or ""):gmatch "[^\n]+" do lines[#lines + 1] = line end
      b.add("<details open><summary>%s / seed %s %s%s</summary>", tostring(run.variant), seed_text(run.seed), run.state,
        run.reason and ": " .. tostring(run.reason) or "")
      b.add("<pre>%s</pre></details>", table.concat(lines, "\n", math.max(1, #lines - 11)))
    end
  end
end

local function as_text(value)
  if type(value) == "number" then return math.type(value) == "integer" and ("%d"):format(value) or ("%.6g"):format(value) end
  return tostring(value)
end

-- Rows of {key, value of variant 1, ...} from each variant's first run, keys in order of appearance.
local function merge(model, field)
  local keys, rows = {}, {}
  for k, v in ipairs(model.variants) do
    for _, pair in ipairs(v.runs[1][field] or {}) do
      local row = rows[pair[1]]
      if not row then
        row = { pair[1] }
        rows[pair[1]] = row
        keys[#keys + 1] = row
      end
      row[k + 1] = as_text(pair[2])
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

-- The whole page. figures are written ones (figure.write), strips are declarations, out is the folder it will lie in.
function page.html(model, figures, strips, out)
  local viewers, left_out = fit(find_viewers(model, 8))
  local has = { numbers = #model.table > 0, curves = #figures > 0, samples = #viewers > 0, runs = true,
                config = has_any(model, "config"), events = has_any(model, "events"),
                environment = has_any(model, "provenance"), code = has_any(model, "code") }
  local b = buffer()
  head(b, model, has)
  if has.numbers then numbers(b, model) end
  curves(b, figures)
  samples(b, model, viewers, left_out, out)
  for _, s in ipairs(strips) do strip(b, model, s) end
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
