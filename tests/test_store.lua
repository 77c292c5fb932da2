-- test_store.lua -- the run store: journal, seals, claims, states, finding, checkpoints, and every durable
-- step failing on purpose. Kills are in crash_store.lua.     ./sumi lua tests/test_store.lua [-v]
local core = require "sumi.core"
local json = require "sumi.json"
local store = require "sumi.store"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local tmp = T.tmpdir()

local function child(prefix, ...) return T.child(prefix, "store_child.lua", ...) end

local count = 0
local function options(more)
  count = count + 1
  local o = { results = tmp .. "/" .. count, experiment = "rings", variant = "hinge", seed = 3, steps = 100,
    config = { { "lr", 2e-4 }, { "batch", 64 }, { "loss", "hinge" }, { "flip", true }, { "sizes", { 32, 64 } } },
    code = { { name = "experiments/rings.lua", text = "return 1 -- \u{e9}\n" }, { name = "../lib/x.lua", text = "x" } },
    data = { { path = "a.jpg", bytes = 12, sha256 = ("ab"):rep(32) } }, data_options = { crop = 64 },
    provenance = { { "command", "sumi run x" }, { "dirty", false }, { "diff", ("x"):rep(5000) }, { "threads", 2 } } }
  for k, v in pairs(more or {}) do o[k] = v end
  return o
end

local names = { "loss/D/real", "loss/G/adv", "fid" }

local function write_rows(run, from, to)
  for s = from, to do
    run:metrics(s, s * 0.5, names, { 1 / s, s == 7 and 0 / 0 or s == 8 and -math.huge or s * 1.0, -s / 3 })
  end
end

local function read_file(path) return assert(core.read_file(path), path) end

local function write_file(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function code_of(fn)
  local ok, err = pcall(fn)
  return not ok and type(err) == "table" and err.code or nil
end

---- JSON ----

T.test("json gives back what it was given", function()
  local t = { a = 5, b = 5.0, c = 0.1 + 0.2, d = math.maxinteger, e = { 1, 2, { x = "q\n\"\0\u{e9}\\" } }, g = -math.huge,
    h = {}, i = true, k = -0.0, l = math.mininteger, m = 5e-324, n = 1.7976931348623157e308 }
  local u = json.decode(json.encode(t))
  T.eq(u, t)
  T.eq(math.type(u.a) .. math.type(u.b) .. math.type(u.l), "integerfloatinteger")
  T.eq(1 / u.k, -math.huge, "the sign of zero")
  T.ok(json.decode "NaN" ~= json.decode "NaN")
  T.eq(json.encode { b = 1, a = { 2e-4 } }, '{"a":[0.0002],"b":1}')
  T.eq(json.decode '"\\ud83d\\ude00"', "\u{1F600}")
end)

for _, bad in ipairs { "", "{", "[1,", '{"a"}', '"x', "tru", "0x10", "[1] 2", '{"a":1,}', '"\\u12"', ("["):rep(200) } do
  T.test("json refuses " .. bad:sub(1, 12), function() T.raises(function() json.decode(bad) end, "json: ") end)
end

---- rows ----

T.test("a run in progress is read from its journal, bit for bit", function()
  local run = store.create(options())
  write_rows(run, 1, 20)
  local r = store.read(run.dir)
  T.eq({ r.state, r.step, r.steps, r.names, r.seed, r.variant }, { "running", 20, 100, names, 3, "hinge" })
  for i = 1, 20 do
    T.eq(r.series("loss/D/real").value[i], 1 / i)
    T.eq(r.series("fid").value[i], -i / 3)
    T.eq({ r.series("fid").step[i], r.series("fid").seconds[i] }, { i, i * 0.5 })
  end
  T.ok(r.series("loss/G/adv").value[7] ~= r.series("loss/G/adv").value[7], "NaN is kept")
  T.eq(r.series("loss/G/adv").value[8], -math.huge)
  run:seal()
  T.eq(read_file(run.dir .. "/journal.tsv"), "", "the journal after a seal")
  write_rows(run, 21, 23)
  T.eq(#store.read(run.dir).series("fid").value, 23, "sealed and not sealed together")
  run:finish("done", 0)
  r = store.read(run.dir)
  T.eq({ r.state, r.step, #r.series("fid").value, r.series("loss/D/real").value[3] }, { "done", 23, 23, 1 / 3 })
end)

T.test("journal lines: format, torn and foreign ones, rows that are sealed already", function()
  local run = store.create(options())
  run:metrics(1, 0.25, { "a" }, { 0.1 })
  T.eq(read_file(run.dir .. "/journal.tsv"), "1\t0.25\ta\t0.10000000000000001\n")
  run:seal()
  write_file(run.dir .. "/journal.tsv", "1\t0.25\ta\t0.1\n2\t0.5\ta\t7\nnonsense\n3\tx\ta\t1\n3\t1\ta\n3\t1\ta\t1x\n" ..
    "3\t1\t../b\t1\n3\t0.75\tb/c\tinf\n4\t1\ta\t99")
  local r = store.read(run.dir)
  T.eq(r.series "a", { step = { 1, 2 }, seconds = { 0.25, 0.5 }, value = { 0.1, 7.0 } })
  T.eq(r.names, { "a", "b/c" })
  T.eq(r.series("b/c").value, { math.huge })
  run:close()
end)

T.test("a late metric of the sealed step is kept", function()
  local run = store.create(options())
  run:metrics(5, 1, { "a" }, { 1 })
  run:seal()
  run:metrics(5, 1, { "fid" }, { 2 })
  T.eq(store.read(run.dir).series("fid").value, { 2.0 })
  run:close()
  T.eq(store.reopen(run.dir).journal:series("fid").value, { 2.0 })
end)

T.test("a kill between a seal and the emptying of the journal repeats nothing", function()
  local run = store.create(options())
  write_rows(run, 1, 5)
  run:event(3, 1.5, "warning", "tab\t line\n back\\slash")
  run:sample(5, "fake", "samples/fake-5.png", 2, 3)
  local journal = read_file(run.dir .. "/journal.tsv")
  run:seal()
  write_file(run.dir .. "/journal.tsv", journal)
  local r = store.read(run.dir)
  T.eq({ #r.series("fid").step, #r.events, #r.samples }, { 5, 1, 1 })
  T.eq(r.events[1], { step = 3, seconds = 1.5, kind = "warning", text = "tab\t line\n back\\slash" })
  T.eq({ r.samples[1].tag, r.samples[1].path, r.samples[1].rows, r.samples[1].cols }, { "fake", "samples/fake-5.png", 2, 3 })
  run:close()
end)

T.test("events and samples are read before they are sealed", function()
  local run = store.create(options())
  write_file(run.dir .. "/samples/a b.png", "abc")
  run:event(0, 0, "nan", "loss/D is nan")
  run:sample(2, "fake", "samples/a b.png", 8, 8)
  local r = store.read(run.dir)
  T.eq({ r.events[1].kind, r.events[1].text, r.samples[1].path }, { "nan", "loss/D is nan", "samples/a b.png" })
  T.eq(r.samples[1].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  run:close()
end)

T.test("summary: last, best by direction, mean of the last tenth", function()
  local run = store.create(options())
  run:describe("acc", { better = "higher", unit = "%" })
  for s = 1, 30 do run:metrics(s, s, { "acc", "loss" }, { s == 12 and 99 or s, s == 12 and -1 or s == 13 and 0 / 0 or s }) end
  for _, when in ipairs { "live", "sealed" } do
    if when == "sealed" then run:finish("done", 0) end
    local s = store.read(run.dir).summary
    T.eq({ s.acc.last, s.acc.best, s.acc.best_step, s.acc.mean }, { 30.0, 99.0, 12, 29.0 }, when)
    T.eq({ s.loss.last, s.loss.best, s.loss.best_step, s.loss.rows }, { 30.0, -1.0, 12, 30 }, when)
  end
  T.eq(store.read(run.dir).about.acc, { better = "higher", unit = "%" })
end)

T.test("one write and no allocation per step", function()
  local run = store.create(options())
  local values = { 1.5, 2.5, 3.5 }
  for s = 1, 300 do run:metrics(s, s, names, values) end
  local function writes() return tonumber(read_file("/proc/self/io"):match "syscw: (%d+)") end
  local before, allocs = writes(), core.sys_allocs()
  for s = 301, 400 do run:metrics(s, s, names, values) end
  allocs = core.sys_allocs() - allocs
  T.eq(writes() - before, 100, "writes in 100 steps")
  T.eq(allocs, 0, "allocations in 100 steps")
  run:close()
end)

for name, why in pairs { ["a//b"] = "without empty parts", ["../x"] = "'.' or '..'", [""] = "without empty parts",
  ["a\tb"] = "no tabs", ["@x"] = "do not begin with '@'", ["loss"] = "one cannot be inside the other" } do
  T.test("metric name " .. name:gsub("\t", "TAB"), function()
    local run = store.create(options())
    run:metrics(1, 1, { "loss/G" }, { 1 })
    T.raises(function() run:metrics(2, 2, { name }, { 1 }) end, why)
    run:close()
  end)
end

---- what is in run.h5 ----

T.test("the record comes back: config, code, data, provenance, segments", function()
  local o = options()
  local run = store.create(o)
  run:finish("failed", 1, "x.lua:3: oops")
  local r = store.read(run.dir)
  T.eq(r.config, o.config)
  T.eq(r.code, o.code)
  T.eq(r.data, o.data)
  T.eq(r.data_options, o.data_options)
  T.eq(r.provenance, o.provenance)
  T.eq({ r.state, r.reason, r.exit_code, #r.segments, r.segments[1].exit_code, r.segments[1].pid },
    { "failed", "x.lua:3: oops", 1, 1, 1, core.pid() })
  T.eq(#r.id, 64)
end)

T.test("the reader for any HDF5 file", function()
  local img, path = core.h5_begin(), tmp .. "/any.h5"
  img:group "/a/b"
  img:set("/a", "text", "\u{fc}ber")
  img:set("/a", "int", math.mininteger)
  img:set("/a", "real", 0.1)
  img:set("/a", "yes", true)
  img:set("/a", "list", { 1.5, 2.5 })
  img:set("/a", "words", { "x", "", "z" })
  img:text("/a/long", ("y"):rep(200000))
  img:table("/t", "a table", { { "i", "i" }, { "r", "r" }, { "t", "t" } }, { { 1, 0.5, "one" }, { i = 2, r = 1, t = "" } })
  T.ok(img:put(path) > 200000)
  T.raises(function() img:group "/late" end, "closed")
  local h = core.h5_open(path)
  T.eq({ h:list "/", h:list "/a", h:attrs "/a" }, { { "a", "t" }, { "b", "long" },
    { "int", "list", "real", "text", "words", "yes" } })
  T.eq({ h:attr("/a", "text"), h:attr("/a", "int"), h:attr("/a", "real"), h:attr("/a", "yes"), h:attr("/a", "list"),
    h:attr("/a", "words") }, { "\u{fc}ber", math.mininteger, 0.1, true, { 1.5, 2.5 }, { "x", "", "z" } })
  T.eq({ h:kind "/a", h:kind "/t", h:kind "/none", h:kind "/a/none/x" }, { "group", "dataset" })
  T.eq({ h:attr("/a", "none") }, { nil, path .. ": '/a' has no attribute 'none'" })
  T.eq(#h:read "/a/long", 200000)
  T.eq({ h:columns "/t" }, { { i = { 1, 2 }, r = { 0.5, 1.0 }, t = { "one", "" } }, { "i", "r", "t" }, 2 })
  T.raises(function() h:read "/none" end, "no dataset '/none'")
  T.raises(function() core.h5_open(tmp .. "/none.h5") end, "no such file")
  write_file(tmp .. "/text.h5", "text")
  T.raises(function() core.h5_open(tmp .. "/text.h5") end, "not an HDF5 file")
end)

local function other_version(dir, version, format)
  local img = core.h5_begin()
  img:set("/", "format", format or "sumi-run")
  img:set("/", "format_version", version)
  img:put(dir .. "/run.h5")
  return read_file(dir .. "/run.h5")
end

T.test("a run.h5 of another format version is named and not touched", function()
  local o = options()
  local run = store.create(o)
  run:finish("stopped", 75)
  local bytes = other_version(run.dir, 7)
  for _, f in ipairs { store.read, store.reopen, function() store.create(o) end } do
    local message = T.raises(function() f(run.dir) end, "format version 7, this Sumi reads and writes version 1")
    T.ok(message:find(run.dir .. "/run.h5", 1, true), message)
  end
  T.eq(read_file(run.dir .. "/run.h5"), bytes)
  other_version(run.dir, 1, "something")
  T.raises(function() store.read(run.dir) end, "not a run of Sumi")
end)

---- identity and creating ----

T.test("identity: code, config, data and precision, not the seed or the order of knobs", function()
  local id = store.identity(options())
  T.eq(store.identity(options { seed = 9, provenance = {}, device = "ref" }), id)
  local o = options()
  table.insert(o.config, 1, table.remove(o.config))
  o.config[6] = { "seed", 8 }
  o.code[1].name = "elsewhere/rings.lua"
  T.eq(store.identity(o), id)
  for _, change in ipairs { { config = { { "lr", 1e-3 } } }, { code = { { name = "rings.lua", text = "return 2" } } },
    { data = {} }, { data_options = { crop = 65 } }, { precision = "bf16" } } do
    T.ok(store.identity(options(change)) ~= id)
  end
  local a = { code = { { name = "x", text = "ab" }, { name = "y", text = "c" } } }
  local b = { code = { { name = "x", text = "a" }, { name = "y", text = "bc" } } }
  T.ok(store.identity(a) ~= store.identity(b))
end)

T.test("creating where a run is: what to do about it; --fresh keeps the old one aside", function()
  local o = options()
  local run = store.create(o)
  write_rows(run, 1, 4)
  run:finish("stopped", 75)
  local message = T.raises(function() store.create(o) end, "is there already (stopped at step 4)")
  T.ok(message:find("sumi resume " .. run.dir, 1, true), message)
  o.config[1][2] = 1e-3
  T.raises(function() store.create(o) end, "holds another run (lr 0.0002 -> 0.001)")
  T.eq(code_of(function() store.create(o) end), 2)
  o.fresh = true
  local new = store.create(o)
  T.eq({ new.dir, new.moved }, { run.dir, run.dir .. "~1" })
  T.eq(#store.read(new.moved).series("fid").step, 4)
  T.eq(store.find(o.results), { new.dir })
  new:finish("done", 0)
  o.fresh = nil
  T.raises(function() store.create(o) end, "is finished (0 steps)")
  for _, bad in ipairs { "../x", "a/b", ".x", "", "a~1" } do
    T.raises(function() store.create(options { variant = bad }) end, "variant '" .. bad .. "'")
  end
  T.eq(store.create(options { variant = false }).variant, store.identity(options()):sub(1, 8))
end)

---- claims and states ----

local function fake_claim(dir, fields)
  local me = core.owner_self()
  for k, v in pairs(fields) do me[k] = v end
  write_file(dir .. "/claim", ("pid %d\nhost %s\nboot %s\njob %s\nsince %s\n"):format(me.pid, me.host, me.boot, me.job,
    me.since))
end

local function fake_status(dir, fields)
  local s = json.decode(read_file(dir .. "/status.json"))
  for k, v in pairs(fields) do s[k] = v end
  write_file(dir .. "/status.json", json.encode(s))
end

T.test("a second writer is told who has the run", function()
  local o = options()
  local run = store.create(o)
  local want = ("%s: process %d on %s is writing this run"):format(run.dir, core.pid(), core.owner_self().host)
  T.raises(function() store.reopen(run.dir) end, want)
  T.raises(function() store.create(o) end, want)
  o.fresh = true
  T.raises(function() store.create(o) end, want)
  local results = o.results .. "/c"
  core.mkdir_p(results .. "/crash/loop")
  os.rename(run.dir, results .. "/crash/loop/seed-1")
  local code, out = child({}, "steps", results, 3)
  T.eq(code, 1)
  T.ok(out:find(("process %d on"):format(core.pid()), 1, true), out)
  run:close()
end)

T.test("a dead owner's claim is taken over, a living one elsewhere is not", function()
  local run = store.create(options())
  run:close()
  local dir = run.dir
  local cases = {
    { "dead here", { pid = 999999 }, {}, true },
    { "its pid lives on in another process", { pid = 1 }, {}, true },
    { "before a reboot", { boot = "other", pid = 1 }, { updated = core.time() }, true },
    { "elsewhere, silent for long", { boot = "other", host = "h", pid = 7 }, { updated = core.time() - 400 }, true },
    { "elsewhere, stopped", { boot = "other", host = "h", pid = 7 }, { state = "stopped", updated = core.time() }, true },
    { "elsewhere, alive", { boot = "other", host = "h", pid = 7 }, { state = "running", updated = core.time() }, false } }
  for _, case in ipairs(cases) do
    fake_claim(dir, case[2])
    fake_status(dir, case[3])
    if case[4] then
      local again = store.reopen(dir)
      T.ok(read_file(dir .. "/claim"):find("pid " .. core.pid() .. "\n", 1, true), case[1])
      again:close()
    else
      local message = T.raises(function() store.reopen(dir) end, "process 7 on h wrote this run")
      T.ok(message:find("remove " .. dir .. "/claim", 1, true), message)
    end
  end
  write_file(dir .. "/claim", "")
  store.reopen(dir):close()
end)

T.test("the state is computed, and unknown when nobody knows", function()
  local run = store.create(options())
  local dir = run.dir
  T.eq(store.state(dir), "running")
  run:close()
  T.eq(store.state(dir), "lost", "the lock is free")
  fake_claim(dir, { boot = "other", host = "h" })
  T.eq(store.state(dir), "running", "elsewhere, with a heartbeat")
  fake_status(dir, { updated = core.time() - 301 })
  T.eq(store.state(dir), "lost", "elsewhere, silent")
  for _, s in ipairs { "done", "failed", "diverged", "stopped" } do
    fake_status(dir, { state = s })
    T.eq(store.state(dir), s)
  end
  fake_status(dir, { state = "running", updated = core.time() })
  write_file(dir .. "/claim", "")
  T.eq(store.state(dir), "lost", "killed while it took the claim")
  write_file(dir .. "/status.json", "{")
  T.eq(store.state(dir), "unknown", "unreadable status")
  os.remove(dir .. "/status.json")
  T.eq(store.read(dir).state, "unknown", "no status")
  os.remove(dir .. "/claim")
  T.eq(store.read(dir).state, "unknown", "nothing but run.h5")
end)

---- going on ----

T.test("reopen and rewind: rows, samples and checkpoints beyond the step go, and it is said", function()
  local run = store.create(options())
  write_rows(run, 1, 10)
  run:save(10, { { "w", core.full(1, { 3 }) } }, {})
  write_rows(run, 11, 15)
  run:sample(4, "fake", "samples/4.png", 1, 1)
  run:sample(15, "fake", "samples/15.png", 1, 1)
  run:save(15, { { "w", core.full(2, { 3 }) } }, {})
  write_rows(run, 16, 17)
  write_file(run.dir .. "/.run.h5.12345.tmp", "half")
  write_file(run.dir .. "/ckpt/.step-00000020.h5.12345.tmp", "half")
  write_file(run.dir .. "/.mine.tmp", "not a temporary of ours")
  run:close()
  local again = store.reopen(run.dir)
  T.eq({ again.step, again.seconds, #again.segments }, { 17, 8.5, 2 })
  T.eq(again:rewind(10), 21)
  again:close()
  local r = store.read(run.dir)
  T.eq({ r.series("fid").step[10], #r.series("fid").step, #r.samples, #store.checkpoints(run.dir) }, { 10, 10, 1, 1 })
  T.eq(r.events[#r.events].text, "rewound 21 rows to step 10, 1 checkpoint removed")
  T.eq({ core.stat(run.dir .. "/.run.h5.12345.tmp") ~= nil, core.stat(run.dir .. "/ckpt/.step-00000020.h5.12345.tmp") ~= nil,
    core.stat(run.dir .. "/.mine.tmp") ~= nil }, { false, false, true })
end)

---- finding ----

T.test("find: paths, prefixes, @last, globs, folders; and nothing", function()
  local o = options()
  local dirs = {}
  for i, p in ipairs { { "rings", "bce", 0 }, { "rings", "hinge", 0 }, { "rings", "hinge", 1 }, { "dcgan", "x", 0 } } do
    o.experiment, o.variant, o.seed = p[1], p[2], p[3]
    o.config = { { "loss", p[2] } }
    local run = store.create(o)
    run:finish("done", 0)
    dirs[i] = run.dir
    core.sleep(0.01)
  end
  local root = o.results
  local function find(p) return store.find(root, p) end
  T.eq(find(), { dirs[4], dirs[1], dirs[2], dirs[3] })
  T.eq(find "rings/*", { dirs[1], dirs[2], dirs[3] })
  T.eq(find "rings", { dirs[1], dirs[2], dirs[3] })
  T.eq(find "rings/hinge", { dirs[2], dirs[3] })
  T.eq(find "rings/hinge/seed-1", { dirs[3] })
  T.eq(find "*/seed-1", { dirs[3] })
  T.eq(find "rings/h????/seed-0", { dirs[2] })
  T.eq(find "@last", { dirs[4] })
  T.eq(find(dirs[1]), { dirs[1] })
  T.eq(find(dirs[1] .. "/run.h5"), { dirs[1] })
  T.eq(find(root .. "/rings"), { dirs[1], dirs[2], dirs[3] })
  local r = store.read(dirs[3])
  T.eq(find(r.run_id:sub(1, 6)), { dirs[3] })
  T.eq(find(r.id:sub(1, 8)), { dirs[2], dirs[3] })
  local message = T.raises(function() find "ring" end, "no run matches 'ring'")
  T.ok(message:find("dcgan/x/seed-0", 1, true), message)
  T.eq(code_of(function() find "ring" end), 4)
  T.eq(store.find(tmp .. "/none"), {})
  T.eq(code_of(function() store.find(tmp .. "/none", "x") end), 4)
end)

---- checkpoints ----

T.test("a checkpoint gives back every bit, and only into the same shape", function()
  local run = store.create(options())
  local odd = core.tensor({ 1, -0.0, 1e-45, 3.4028234663852886e38, 0 / 0, -math.huge }, { 2, 3 })
  local double = core.tensor({ 0.1, 1e-310 }, { 2 }, "ref")
  local list = { { "G/1/weight", odd }, { "D/w", double }, { "scalar", core.full(7, {}) }, { "none", core.full(1, { 0, 4 }) } }
  run:save(3, list, { step = 3, third = 1 / 3, pool = { 1, 2 }, seed = math.maxinteger })
  local c = store.load(store.checkpoints(run.dir)[1].path)
  T.eq({ c.step, c.names }, { 3, { "G/1/weight", "D/w", "scalar", "none" } })
  T.eq(c.meta, { step = 3, third = 1 / 3, pool = { 1, 2 }, seed = math.maxinteger })
  T.eq({ c.spec "G/1/weight" }, { "f32", { 2, 3 } })
  T.eq({ c.spec "scalar" }, { "f32", {} })
  local back = core.full(0, { 2, 3 })
  c.into("G/1/weight", back)
  T.eq(back:raw(), odd:raw())
  T.eq(c.bytes "D/w", string.pack("<dd", 0.1, 1e-310))
  T.eq(c.hash { "G/1/weight" } == c.hash { "D/w" }, false)
  T.raises(function() c.into("G/1/weight", core.full(0, { 3, 2 })) end,
    "checkpoint: 'G/1/weight' is f32[2,3] there and f32[3,2] in this net")
  T.raises(function() c.into("D/w", core.full(0, { 2 })) end, "is f64[2] there and f32[2]")
  T.raises(function() c.into("G/2/weight", back) end, "no tensor 'G/2/weight'")
  c.close()
  run:close()
end)

T.test("the last two checkpoints and the best are kept", function()
  local run = store.create(options())
  local function steps()
    local s = {}
    for i, c in ipairs(store.checkpoints(run.dir)) do s[i] = c.ok and c.step end
    return s
  end
  for step = 1, 6 do
    run:save(step, { { "w", core.full(step, { 10 }) } }, {})
    if step == 2 then run:best(2) end
  end
  T.eq(steps(), { 6, 5, 2 })
  T.eq(store.newest(run.dir).step, 6)
  run:close()
end)

local function flip(path, at, bit)
  local f = assert(io.open(path, "r+b"))
  f:seek("set", at)
  local byte = f:read(1):byte()
  f:seek("set", at)
  f:write(string.char(byte ~ (1 << bit)))
  f:close()
end

T.test("every flipped bit is noticed before libhdf5 sees it", function()
  local run = store.create(options())
  run:save(1, { { "w", core.full(1, { 4 }) } }, {})
  run:close()
  local path = store.checkpoints(run.dir)[1].path
  local size, accepted = core.stat(path).size, 0
  for at = 0, size - 1 do
    for bit = at < 512 and 0 or at % 8, at < 512 and 7 or at % 8 do
      flip(path, at, bit)
      if core.ckpt_check(path) ~= "corrupt" then accepted = accepted + 1 end
      flip(path, at, bit)
    end
  end
  T.eq(accepted, 0, "accepted flips")
  T.eq(core.ckpt_check(path), "good")
  local bytes = read_file(path)
  for _, wrong in ipairs { "", "S", bytes:sub(1, 512), bytes:sub(1, -2), bytes .. "x", ("\0"):rep(4096) } do
    write_file(path, wrong)
    T.eq(core.ckpt_check(path), "corrupt")
  end
end)

T.test("a damaged checkpoint is set aside and reported, the one before is used", function()
  local run = store.create(options())
  for step = 1, 2 do run:save(step, { { "w", core.full(step, { 100 }) } }, {}) end
  local path = store.checkpoints(run.dir)[1].path
  run:close()
  flip(path, core.stat(path).size - 100, 3)
  T.raises(function() store.load(path) end, "damaged")
  local c, messages = store.newest(run.dir)
  T.eq({ c.step, #messages }, { 1, 1 })
  T.ok(core.stat(path), "a reader renames nothing")
  local again = store.reopen(run.dir)
  local good, reports = again:newest()
  T.eq({ good.step, #reports, core.stat(path), core.stat(path .. ".corrupt").type }, { 1, 1, nil, "file" })
  T.ok(reports[1]:find("renamed to step-00000002.h5.corrupt", 1, true), reports[1])
  again:close()
  T.eq(store.read(run.dir).events[3].kind, "warning")
end)

T.test("a checkpoint of another version is undamaged, and refused", function()
  local run = store.create(options())
  run:save(1, { { "w", core.full(1, { 4 }) } }, {})
  local path = store.checkpoints(run.dir)[1].path
  local b = read_file(path)
  local head = b:sub(1, 8) .. "\9\0\0\0" .. b:sub(13, 24)
  local digest = core.sha256(head, ("\0"):rep(32), b:sub(57))
  write_file(path, head .. digest:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end) .. b:sub(57))
  T.eq((core.ckpt_check(path)), "other")
  T.raises(function() run:newest() end, "checkpoint of format version 9, this Sumi reads version 1")
  T.ok(core.stat(path), "it keeps its name")
  run:close()
end)

---- failures on purpose ----

local function stray(dir)
  for _, d in ipairs { dir, dir .. "/ckpt" } do
    for _, name in ipairs(core.listdir(d)) do
      if name:find "%.tmp$" then return d .. "/" .. name end
    end
  end
end

-- The first save is at step 5; the fault strikes in the second, at step 10. By then three seals were made:
-- at the start, before the first checkpoint, before the second.
local failing = {}
for _, step in ipairs { "open", "write", "fsync", "verify", "rename", "dirsync" } do
  failing[#failing + 1] = { "ckpt-" .. step .. ":2", step == "dirsync" and 10 or 5 }
  failing[#failing + 1] = { "seal-" .. step .. ":3", 5 }
end
failing[#failing + 1] = { "journal-write:10", 5, 7 }      -- seven steps and two events were written before
failing[#failing + 1] = { "journal-empty:3", 5 }

for _, case in ipairs(failing) do
  T.test("failure at " .. case[1], function()
    local results = tmp .. "/" .. case[1]
    local code, out = child({ "SUMI_FAULT=" .. case[1] }, "steps", results, 12)
    local dir = results .. "/crash/loop/seed-1"
    T.eq(code, 6, "exit code (" .. out .. ")")
    T.ok(out:find("failed 6 ", 1, true) and out:find(dir, 1, true), out)
    T.ok(out:find("run.h5 and step 5 are intact", 1, true), out)
    if case[1]:find "write" then T.ok(out:find(" is full (", 1, true) and out:find(" needs ", 1, true), out) end
    T.eq(stray(dir), nil, "stray file")
    T.eq(store.newest(dir).step, case[2])
    local r = store.read(dir)
    T.eq(r.summary["loss/G/adv"].rows, case[3] or 10, "rows")
    T.eq(child({}, "steps", results, 12), 0, "going on")
  end)
end

T.test("a heartbeat that cannot be written stops nothing", function()
  T.eq(child({ "SUMI_FAULT=status-write:1" }, "steps", tmp .. "/beat", 12), 0)
end)

T.test("a limit on file sizes is an error, not a death", function()
  local results = tmp .. "/limit"
  local script = 'ulimit -f 300; exec "$@"'
  local code, out = child({ "sh", "-c", script, "sh" }, "steps", results, 12, 200000)
  T.eq(code, 6, out)
  T.ok(out:find("needs 2.4 MB, more than a file may have here (ulimit -f); run.h5 is intact", 1, true), out)
  T.eq(stray(results .. "/crash/loop/seed-1"), nil)
end)

-- A disk of 4 MB that is really full, where this process may make one.
local disk = tmp .. "/disk"
core.mkdir_p(disk)
if core.spawn { "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk } == 0 then
  T.test("a full disk: what is needed, what is free, what is intact; and on it goes when there is room", function()
    T.eq(child({}, "steps", disk, 7, 80000), 0)
    write_file(disk .. "/filler", ("x"):rep(2500000))
    local code, out = child({}, "steps", disk, 12, 80000)
    T.eq(code, 6, out)
    T.ok(out:find("on tmpfs is full (", 1, true) and out:find "the checkpoint of step 10 needs 9%d%d KB" and
      out:find("run.h5 and step 5 are intact", 1, true), out)
    T.eq(stray(disk .. "/crash/loop/seed-1"), nil)
    os.remove(disk .. "/filler")
    T.eq(child({}, "steps", disk, 12, 80000), 0)
    local newest = store.newest(disk .. "/crash/loop/seed-1")
    T.eq(newest.step, 15)
    newest.close()                        -- what is mapped cannot be unmounted
  end)
  T.eq(core.spawn { "umount", disk }, 0, "umount")
end

---- other readers ----

local function python()
  for _, p in ipairs { "/usr/bin/python3", "python3" } do
    if core.spawn { p, "-c", "import h5py" } == 0 then return p end
  end
end

local reads = [[
import sys, time, h5py
path, rows = sys.argv[1], 0
for i in range(100):
    with h5py.File(path) as f:
        t = f['metrics/loss/G/adv'][:] if 'metrics/loss' in f else []
        assert [int(r['step']) for r in t] == list(range(1, len(t) + 1)), i
        assert len(t) >= rows
        rows = len(t)
        assert f.attrs['format'] == 'sumi-run' and f['config'].attrs['lr'] == 0.1
    time.sleep(0.01)
print(rows)
]]

T.test("h5py and h5ls read a run that is being written, 100 times of 100", function()
  local results = tmp .. "/live"
  local path = results .. "/crash/loop/seed-1/run.h5"
  local py = python()
  local tools = { py and ("%s -c '%s' %s"):format(py, reads:gsub("'", "'\\''"), path),
    core.spawn { "h5ls", "--version" } == 0 and
      ("for i in $(seq 100); do h5ls -r %s >/dev/null 2>&1 || exit 1; sleep 0.01; done; echo 100"):format(path) or nil }
  if #tools < 2 then return T.skip("h5py and h5ls", "python3-h5py and hdf5-tools are not both installed") end
  for _, tool in ipairs(tools) do
    core.spawn { "rm", "-rf", results }
    local words = {}
    for _, list in ipairs { T.interpreter(), { T.dir .. "/store_child.lua", "readable", results, "90" } } do
      for _, w in ipairs(list) do words[#words + 1] = "'" .. w .. "'" end
    end
    local script = ("%s & writer=$!; while ! test -f %s; do sleep 0.01; done; %s; rc=$?; kill -0 $writer || rc=99; " ..
      "kill $writer; wait $writer; exit $rc"):format(table.concat(words, " "), path, tool)
    local code, out, err = core.spawn { "sh", "-c", script }
    T.eq(code, 0, out .. err)
    T.ok(tonumber(out) and tonumber(out) > 20, "rows seen: " .. out)
  end
end)

core.spawn { "rm", "-rf", tmp }
return T.done()
