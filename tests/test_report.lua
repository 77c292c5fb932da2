-- test_report.lua -- ls, show and report on runs that the store wrote: statistics, figures, the page,
-- reproducibility.
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local core = require "sumi.core"
local figure = require "sumi.figure"
local stat = require "sumi.stat"
local store = require "sumi.store"

local exe = assert(core.realpath "/proc/self/exe")
local tmp = T.tmpdir()
local results = tmp .. "/results"

local function sumi(...) return core.spawn { "env", "NO_COLOR=1", "SUMI_RESULTS=" .. results, exe, ... } end

-- ---- runs ----

-- A reproducible wiggle in [-1, 1].
local function wiggle(i, seed) return math.sin(12.9898 * i + 78.233 * seed) end

local script = "-- a <script> & more\nreturn 1\n"

-- A run of `steps` steps; t.at(i, seed) gives {name = value} in t.names' order.
local function make_run(t)
  local run = store.create { results = results, experiment = t.experiment, variant = t.variant, seed = t.seed,
    steps = t.steps, config = { { "batch", 64 }, { "lr", 2e-4 }, { "gan", t.variant } },
    code = { { name = "experiments/" .. t.experiment .. ".lua", text = script } },
    provenance = { { "command", "sumi run x" }, { "cpu", "a <cpu>" } } }
  for i = 1, t.stop or t.steps do
    run:metrics(i, i * 0.01, t.names, t.at(i, t.seed))
    if i % 50 == 0 then
      if t.scores then run:metrics(i, i * 0.01, { "metric/fid" }, { t.scores(i, t.seed) }) end
      local path = ("samples/fake-%08d.png"):format(i)
      core.image_grid(run.dir .. "/" .. path, core.full(wiggle(i, t.seed), { 4, 8, 8, 3 }), 2, 2)
      run:sample(i, "fake", path, 2, 2)
    end
  end
  run:event(1, 0.01, "note", "an <event>")
  run:finish(t.state or "done", 0, t.reason)
  return run.dir
end

local function gan_losses(offset)
  return function(i, seed)
    return { 0.7 - 0.001 * i + 0.05 * wiggle(i, seed) + offset, 0.6 + 0.01 * seed,
             1 + 0.002 * i + 0.1 * wiggle(i, seed + 1) }
  end
end
local gan_names = { "loss/D/real", "loss/D/fake", "loss/G/adv" }

local function fid(i, seed) return 100 / i + 10 * seed end
for seed = 0, 2 do
  make_run { experiment = "toy", variant = "hinge", seed = seed, steps = 200, names = gan_names, at = gan_losses(0),
             scores = fid }
end
core.sleep(1.1)               -- variants are shown in the order in which they were first run, to the second
for seed = 0, 2 do
  make_run { experiment = "toy", variant = "b&c", seed = seed, steps = 200, names = gan_names, scores = fid,
             at = gan_losses(0.1), state = seed == 2 and "failed" or "done", stop = seed == 2 and 120 or nil,
             reason = "it <broke>" }
end
local alone = make_run { experiment = "solo", variant = "default", seed = 0, steps = 120, state = "stopped",
  names = { "loss/G/adv", "loss/G/cycle" },
  at = function(i, seed) return { 0.7 + 0.01 * wiggle(i, seed), 60 - 0.1 * i } end }

-- ---- statistics ----

T.test("t quantiles (R: qt(.975, df))", function()
  for _, c in ipairs { { 1, 12.7062 }, { 2, 4.302653 }, { 4, 2.776445 }, { 30, 2.042272 }, { 31, 2.039513 },
      { 120, 1.97993 } } do
    T.near(stat.t975(c[1]), c[2], 1e-4, "df " .. c[1])
  end
end)

T.test("intervals: three seeds, two, one, none; what is not finite is left out", function()
  local s = stat.interval { 1, 2, 3 }                       -- sd 1: 4.3027 / sqrt 3
  T.near(s.half, 2.48416, 1e-4)
  T.eq({ s.n, s.mean }, { 3, 2.0 })
  T.eq(stat.text(s), "2.0 ± 2.5")
  T.eq(stat.text(stat.interval { 0.6123, 0.6421, 0.6274 }), "0.627 ± 0.037")
  T.eq(stat.text(stat.interval { 1500, 1520, 1540 }), "1520 ± 50")
  T.eq(stat.text(stat.interval { 0.5, 0.75 }), "0.500 / 0.750")
  T.eq(stat.text(stat.interval { 0.5, 0 / 0 }, " (1 seed)"), "0.500 (1 seed)")
  T.eq(stat.text(stat.interval { 0 / 0, math.huge }), "–")
  T.eq(stat.text(stat.interval { 2, 2, 2 }), "2.00 ± 0.00")
  T.eq(stat.text(stat.interval { 2e-4 }, " (1 seed)"), "2.00e-4 (1 seed)")
  T.eq(stat.text(stat.interval { 1.9e-4, 2e-4, 2.1e-4 }), "(2.00 ± 0.25)e-4")
  T.eq(stat.text(stat.interval { 0, 0 }), "0 / 0")
end)

T.test("running mean against the plain sum", function()
  local v = {}
  for i = 1, 50 do v[i] = i == 20 and 0 / 0 or wiggle(i, 3) end
  local got = stat.smooth(v, 7)
  for i = 1, 50 do
    local sum, n = 0, 0
    for j = math.max(1, i - 3), math.min(50, i + 3) do
      if v[j] == v[j] then sum, n = sum + v[j], n + 1 end
    end
    T.near(got[i], sum / n, 1e-12, "entry " .. i)
  end
end)

T.test("a curve between its points", function()
  local xs, ys = { 1, 3, 7 }, { 10.0, 30.0, 70.0 }
  local from
  for _, c in ipairs { { 1, 10 }, { 2, 20 }, { 3, 30 }, { 6, 60 }, { 7, 70 } } do
    local y
    y, from = stat.at(xs, ys, c[1], from)
    T.near(y, c[2], 1e-12)
  end
  local outside = stat.at(xs, ys, 8)
  T.ok(outside ~= outside)
end)

-- ---- planning ----

local function model_of(...)
  local dirs = {}
  for _, pattern in ipairs { ... } do
    for _, dir in ipairs(store.find(results, pattern)) do dirs[#dirs + 1] = dir end
  end
  return require("sumi.report").model(dirs)
end

local function shape(figures)
  local out = {}
  for i, f in ipairs(figures) do
    local panels = {}
    for k, p in ipairs(f.panels) do
      local labels = {}
      for j, s in ipairs(p.series) do labels[j] = s.label end
      panels[k] = (p.title or "") .. ":" .. table.concat(labels, ",")
    end
    out[i] = f.name .. " " .. table.concat(panels, " ")
  end
  return out
end

T.test("figures by default: one for each player with all its terms, one for each other metric", function()
  T.eq(shape(figure.plan(model_of "toy/hinge/*")), { "loss-D :real,fake", "loss-G :adv", "metric-fid :fid" })
  T.eq(shape(figure.plan(model_of "toy/*")),
    { "loss-D real:hinge,b&c fake:hinge,b&c", "loss-G :hinge,b&c", "metric-fid :hinge,b&c" })
end)

T.test("terms of very different size get panels of their own", function()
  T.eq(shape(figure.plan(model_of "solo/*")), { "loss-G adv:adv cycle:cycle" })
end)

T.test("declared figures: globs, by seed, names; what matches nothing is an error that lists the metrics", function()
  local m = model_of "toy/*"
  local declared = { figure.curve { "loss/*/adv", by = "seed", name = "my fig" },
                     figure.curve { "loss/D/*", by = "term" } }
  T.eq(shape(figure.plan(m, declared)),
    { "my-fig :hinge seed 0,hinge seed 1,hinge seed 2,b&c seed 0,b&c seed 1,b&c seed 2", "loss-D :real,fake" })
  local err = T.raises(function() figure.plan(m, { figure.curve { "los/*" } }) end, "no metric matches los/*")
  T.ok(err:find("loss/D/real", 1, true), err)
  T.raises(function() figure.plan(m, { figure.curve { "loss/*", by = "sed" } }) end, "found 'sed'")
end)

-- ---- report, from outside ----

local report_dir = results .. "/toy/report"
local code, out, err = sumi("report", "toy")
local html = core.read_file(report_dir .. "/report.html") or ""

T.test("report: exit 0, the last line is the page", function()
  T.eq({ code, err }, { 0, "" })
  T.eq(out:match "([^\n]*)\n$", report_dir .. "/report.html")
  T.ok(#html > 10000 and #html < 5e6, #html .. " bytes")
end)

local function read_tsv(path)
  local rows = {}
  for line in assert(core.read_file(path)):gmatch "[^\n]+" do
    local row = {}
    for field in (line .. "\t"):gmatch "([^\t]*)\t" do row[#row + 1] = field end
    rows[#rows + 1] = row
  end
  return rows
end

T.test("figures: all kinds of files, and numbers that are right", function()
  for _, name in ipairs { "loss-D", "loss-G", "metric-fid" } do
    for kind, head in pairs { gp = "# " .. name, tsv = "# ", svg = "<?xml", pdf = "%PDF-", png = "\137PNG" } do
      local bytes = core.read_file(("%s/figures/%s.%s"):format(report_dir, name, kind))
      T.eq(bytes and bytes:sub(1, #head), head, name .. "." .. kind)
    end
  end
  local rows = read_tsv(report_dir .. "/figures/metric-fid.tsv")
  T.eq(rows[2], { "# x", "mean", "lo", "hi", "n" })
  T.eq(rows[4][1], "50")                                    -- fid 2, 12, 22: sd 10
  T.near(tonumber(rows[4][2]), 12, 1e-6)
  T.near(tonumber(rows[4][4]) - 12, 4.3027 * 10 / math.sqrt(3), 1e-3)
  T.eq(rows[4][5], "3")
end)

T.test("a figure can be drawn again by hand, to the same picture", function()
  local dir = report_dir .. "/figures"
  local before = core.read_file(dir .. "/loss-D.svg")
  T.eq(core.remove(dir .. "/loss-D.svg"), true)
  T.eq({ core.spawn({ "gnuplot", "loss-D.gp" }, { cwd = dir }) }, { 0, "", "" })
  T.eq(core.read_file(dir .. "/loss-D.svg") == before, true)
end)

T.test("the same runs give the same bytes: page, figures, pdf too", function()
  local function all()
    local bytes = { core.read_file(report_dir .. "/report.html"), core.read_file(report_dir .. "/final.tsv") }
    for _, name in ipairs(core.listdir(report_dir .. "/figures")) do
      bytes[#bytes + 1] = name .. core.read_file(report_dir .. "/figures/" .. name)
    end
    return bytes
  end
  sumi("report", "toy")
  local first = all()
  core.sleep(1.1)                                           -- pdfcairo would write another second
  T.eq((sumi("report", "toy")), 0)
  local second = all()
  for i, bytes in ipairs(first) do T.ok(bytes == second[i], "file " .. i .. " differs: " .. bytes:sub(1, 20)) end
  T.eq(#first, #second)
end)

T.test("final.tsv: means of the last tenth; the failed seed is left out and counted", function()
  local rows, found = read_tsv(report_dir .. "/final.tsv"), {}
  for _, r in ipairs(rows) do found[r[1] .. " " .. r[2]] = r end
  local r = found["loss/D/fake hinge"]                      -- 0.60, 0.61, 0.62: sd 0.01
  T.eq({ r[3], r[4], r[5] }, { "3", "3", "3" })
  T.near(tonumber(r[6]), 0.61, 1e-9)
  T.near(tonumber(r[8]) - tonumber(r[6]), 4.3027 * 0.01 / math.sqrt(3), 1e-6)
  r = found["metric/fid b&c"]
  T.eq({ r[3], r[4], r[5] }, { "3", "2", "2" })
  T.near(tonumber(r[6]), 5.5, 1e-9)                         -- 0.5 and 10.5 at step 200
  T.ok(html:find("† 2/3", 1, true), "no dagger on the page")
end)

-- ---- the page ----

local void = { meta = true, img = true, input = true, br = true, path = true, use = true, circle = true, rect = true,
  feFlood = true, feComposite = true,
  polygon = true, line = true, ellipse = true, polyline = true }

T.test("page: tags are balanced, ids unique, nothing comes from a network", function()
  local body = html:gsub("<style>.-</style>", ""):gsub("<script>.-</script>", ""):gsub("<!doctype html>", "")
  local open, ids = {}, {}
  for close, name, rest in body:gmatch "<(/?)([%a]+)([^>]*)>" do
    if close == "/" then
      T.eq(table.remove(open), name, "closing tag")
    elseif not (void[name] and (rest:sub(-1) == "/" or name == "meta" or name == "img" or name == "input")) then
      open[#open + 1] = name
    end
    for id in rest:gmatch "%sid=['\"]([^'\"]*)['\"]" do
      T.ok(not ids[id], "id twice: " .. id)
      ids[id] = true
    end
  end
  T.eq(open, {})
  T.ok(not html:find "https?://[^w]" and not html:find "src=\"[^d]", "something is loaded from elsewhere")
  T.ok(not html:find "<link" and not html:find "@import")
  for ref in body:gmatch "href=['\"]#([^'\"]*)['\"]" do T.ok(ids[ref], "points to nothing: #" .. ref) end
end)

T.test("page: the labels of inline figures are those of the files", function()
  local n = 0
  for i, name in ipairs { "loss-D", "loss-G", "metric-fid" } do
    local at = html:find('id="fig-' .. name .. '"', 1, true)
    local inline = html:sub(at, html:find("</figure>", at, true))
    local function labels(svg)
      local out = {}
      for text in svg:gmatch "<text>(.-)</text>" do out[#out + 1] = text end
      return out
    end
    local want = labels(core.read_file(report_dir .. "/figures/" .. name .. ".svg"))
    T.eq(labels(inline), want, name)
    n = n + #want
    T.eq(select(2, inline:gsub(" id='f" .. i .. "%-gpDot'", "")), 1)
  end
  T.ok(n > 30, n .. " labels")
end)

T.test("page: every link to a file leads somewhere", function()
  local n = 0
  for link in html:gmatch 'href="([^#][^"]*)"' do
    local path = link:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end)
    T.ok(core.stat(report_dir .. "/" .. path), "no such file: " .. link)
    n = n + 1
  end
  T.ok(n > 20, n .. " links")
end)

T.test("page: every term, every variant, escaped texts, config, events, code, log of the failed run", function()
  for _, text in ipairs { "loss/D/real", "loss/D/fake", "loss/G/adv", "metric/fid", "b&amp;c", "hinge", "a &lt;cpu&gt;",
      "an &lt;event&gt;", "-- a &lt;script&gt; &amp; more", "it &lt;broke&gt;", "batch", "running mean over",
      "95 % t interval over 3 seeds" } do
    T.ok(html:find(text, 1, true), "lacks " .. text)
  end
  T.ok(not html:find("a <cpu>", 1, true))
end)

T.test("page: samples at every step, the last one shown without JavaScript, all with words for them", function()
  local viewers = select(2, html:gsub('class="viewer"', ""))
  T.eq(viewers, 6)
  T.eq(select(2, html:gsub('class="frame on"', "")), viewers)
  T.eq(select(2, html:gsub('data%-step="200"', "")), 5)     -- the failed one ends at 100
  for tag in html:gmatch "<img [^>]*>" do
    T.ok(tag:find 'alt="' and (tag:find 'src="data:image/' or tag:find 'src="data:,"'), tag:sub(1, 80))
  end
  T.ok(html:find('<input id="step" type="range"', 1, true))
end)

T.test("page: big pictures are made small, and it stays below 5 MB", function()
  local dir = results .. "/big/default/seed-0"
  local run = store.create { results = results, experiment = "big", variant = "default", seed = 0, steps = 40 }
  core.rng(1, 0, 2)
  for i = 1, 40 do
    run:metrics(i, i, { "loss/G/adv" }, { 1 / i })
    local path = ("samples/noise-%08d.png"):format(i)
    core.image_grid(dir .. "/" .. path, core.randn({ 4, 160, 160, 3 }), 2, 2)
    run:sample(i, "noise", path, 2, 2)
  end
  run:finish("done", 0)
  T.eq((sumi("report", dir)), 0)
  local page = core.read_file(dir .. "/report/report.html")
  T.ok(#page < 5e6, #page .. " bytes")
  T.ok(select(2, page:gsub("data:image/webp", "")) >= 5, "fewer than five pictures")
  T.ok(page:find('data-step="1"', 1, true) and page:find('data-step="40"', 1, true), "first or last step is missing")
end)

T.test("one run: its own report folder; stopped runs are marked", function()
  T.eq((sumi("report", "-q", alone)), 0)
  local page = core.read_file(alone .. "/report/report.html")
  T.ok(page:find("* no run of this variant has finished", 1, true))
  T.ok(page:find("final (1 seed)", 1, true))
end)

T.test("what the script declared: kept with the run, drawn instead of the defaults", function()
  local function declare(list)
    local run = store.create { results = results, experiment = "told", variant = "default", seed = 0, steps = 100,
      fresh = true, provenance = { { "report", require("sumi.json").encode(list) } } }
    for i = 1, 100 do run:metrics(i, i, gan_names, gan_losses(0)(i, 1)) end
    for _, at in ipairs { 10, 50, 100 } do
      local path = ("samples/fake-%08d.png"):format(at)
      core.image_grid(run.dir .. "/" .. path, core.full(0.1, { 1, 8, 8, 3 }), 1, 1)
      run:sample(at, "fake", path, 1, 1)
    end
    run:finish("done", 0)
    return run.dir
  end
  local dir = declare { figure.curve { "loss/*", name = "mine", title = "All losses", log = true },
                        figure.strip { "sample/fake", at = { 10, 70 }, title = "How it grew" } }
  T.eq({ (select(3, sumi("report", "-q", dir))), (core.listdir(dir .. "/report/figures")) },
    { "", { "mine.gp", "mine.pdf", "mine.png", "mine.raw.tsv", "mine.svg", "mine.tsv" } })
  T.ok(core.read_file(dir .. "/report/figures/mine.gp"):find("set logscale y", 1, true))
  local page = core.read_file(dir .. "/report/report.html")
  local strip = page:match "How it grew(.-)</figure>"
  T.ok(strip and strip:find("step 70", 1, true) and strip:find("at step 50", 1, true), tostring(strip))
  T.eq(select(2, strip:gsub("<img ", "")), 2)
  local c, _, e = sumi("report", declare { figure.strip { "sample/nothing" } })
  T.eq(c, 4)
  T.ok(e:find("no samples are tagged 'nothing'", 1, true), e)
end)

T.test("constants, zeros and learning rates are drawn: rates together, after the other figures", function()
  local values = { 2e-4, 1e-4, 1, 0, 5 }
  local dir = make_run { experiment = "flat", variant = "default", seed = 0, steps = 90,
    names = { "rate/G", "rate/D", "loss/G/adv", "loss/G/zero", "metric/x" },
    at = function(i)
      local v = table.move(values, 1, #values, 1, {})
      v[1] = v[1] * (1 + 1e-16 * (i % 3))                   -- rounding, as schedules have it
      return v
    end }
  local c, _, e = sumi("report", dir)
  T.eq({ c, e }, { 0, "" })
  T.eq(shape(figure.plan(model_of(dir))), { "loss-G :adv,zero", "metric-x :x", "rates :G,D" })
  T.eq(shape(figure.plan(model_of(dir), { figure.curve { "loss/*", "rate/G", "loss/G/*" } })),
    { "loss adv:adv zero:zero G:G" })
end)

T.test("by script; --only draws figures alone; --out", function()
  local path = tmp .. "/toy.lua"
  assert(core.write_file_atomic(path, script))
  local c, o = sumi("report", path, "--only", "loss-*", "--out", tmp .. "/elsewhere")
  T.eq(c, 0)
  T.eq(core.listdir(tmp .. "/elsewhere"), { "figures" })
  T.eq(select(2, o:gsub("\n", "")), 2)
  T.eq((sumi("report", path, "--only", "nosuch")), 4)
  assert(core.write_file_atomic(tmp .. "/other.lua", script))
  local c2, _, e2 = sumi("report", tmp .. "/other.lua")
  T.eq(c2, 4)
  T.ok(e2:find("no run of", 1, true), e2)
end)

T.test("a figure that cannot be drawn is an error that names it, not an empty file", function()
  make_run { experiment = "nan", variant = "default", seed = 0, steps = 20, names = { "loss/G/adv" },
             at = function() return { 0 / 0 } end }
  local c, _, e = sumi("report", "nan")
  T.ok(c == 1 and e:find("loss-G", 1, true), ("exit %d: %s"):format(c, e))
  T.ok(not core.stat(results .. "/nan/default/seed-0/report/report.html"))
  local c2, _, e2 = core.spawn { "env", "PATH=/nonexistent", "SUMI_RESULTS=" .. results, exe, "report", "toy" }
  T.eq(c2, 6)
  T.ok(e2:find("sudo apt install gnuplot-nox", 1, true), e2)
end)

-- ---- ls and show ----

T.test("ls: a line for each run; states, json, tsv", function()
  local _, list = sumi("ls", "toy/*")
  T.eq(select(2, list:gsub("\n", "")), 6)
  T.ok(list:find "toy/hinge/seed%-0 +%x+ +done +200 +%S+ +metric/fid 0.500 [▁-█]+", list)
  local _, failed = sumi("ls", "--state", "failed")
  T.ok(failed:find "^toy/b&c/seed%-2[^\n]*failed +120 of 200[^\n]*\n$", failed)
  local _, tsv = sumi("ls", "--tsv")
  T.eq(select(2, tsv:gsub("\n", "")), #store.find(results) + 1)
  local _, json = sumi("ls", "--json", "toy/hinge/*")
  local t = require("sumi.json").decode(json)
  T.eq({ #t, t[1].run, t[1].state, t[1].step, t[1].seed }, { 3, "toy/hinge/seed-0", "done", 200, 0 })
  T.near(t[1].summary["metric/fid"].last, 0.5, 1e-9)
end)

T.test("show: a page, and its parts", function()
  local _, page = sumi("show", alone)
  for _, text in ipairs { "solo/default/seed-0   stopped", "loss/G/cycle", "batch  64", "2 grids",
      "sumi resume " .. alone } do
    T.ok(page:find(text, 1, true), "lacks " .. text .. "\n" .. page)
  end
  local _, text = sumi("show", alone, "--code")
  T.ok(text:find(script, 1, true), text)
  local _, config = sumi("show", alone, "--config")
  T.eq(config, "  batch  64\n  lr     0.0002\n  gan    default\n")
  local _, samples = sumi("show", alone, "--samples")
  T.ok(samples:find(alone .. "/samples/fake-00000100.png", 1, true), samples)
  local c, o, e = sumi("show", "toy/*")
  T.eq({ c, o }, { 2, "" })
  T.ok(e:find("names 6 runs", 1, true) and e:find("toy/hinge/seed-2", 1, true), e)
  T.eq(require("sumi.json").decode((select(2, sumi("show", alone, "--json")))).config.gan, "default")
end)

T.test("weights hash: of the weights alone, of the newest checkpoint that is whole", function()
  local run = store.create { results = results, experiment = "hash", variant = "default", seed = 0, steps = 9 }
  local function save(step, weight, moment)
    run:metrics(step, step, { "loss/G/adv" }, { 1 })
    run:save(step, { { "G/1/conv.weight", core.full(weight, { 2, 3 }) },
                     { "opt/G/m/G/1/conv.weight", core.full(moment, { 2, 3 }) } }, {})
    local c, o = sumi("show", run.dir, "--weights-hash")
    T.eq(c, 0)
    T.ok(o:find "^%x+\n$" and #o == 65, o)
    return o
  end
  local a = save(1, 0.5, 1)
  T.ok(save(2, 0.5, 2) == a, "moments change the hash")
  local b = save(3, 0.25, 2)
  T.ok(b ~= a, "weights do not change the hash")
  local path = run.dir .. "/ckpt/step-00000003.h5"
  local bytes = core.read_file(path)
  run:close()
  assert(core.write_file_atomic(path, bytes:sub(1, -2) .. string.char(bytes:byte(-1) ~ 1)))
  local c, o, e = sumi("show", run.dir, "--weights-hash")
  T.eq({ c, o }, { 0, a })
  T.ok(e:find("step%-00000003"), e)
end)

core.spawn { "rm", "-rf", tmp }
return T.done()
