-- test_cli.lua -- the command from outside: help, wrong calls and their exit codes, signals; and the machine's
-- functions.
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local core = require "sumi.core"
local cli = require "sumi.cli"

local exe = assert(core.realpath "/proc/self/exe")
local tmp = T.tmpdir()

-- Run sumi; a first argument {NAME = value} is put into its environment. Returns code, stdout, stderr.
local function sumi(...)
  local argv = { "env", "NO_COLOR=1", "SUMI_RESULTS=" .. tmp .. "/none" }
  local args = table.pack(...)
  for i = 1, args.n do
    if type(args[i]) == "table" then argv[#argv + 1] = args[i][1] else break end
  end
  argv[#argv + 1] = exe
  for i = 1, args.n do
    if type(args[i]) == "string" then argv[#argv + 1] = args[i] end
  end
  return core.spawn(argv)
end

local function script(name, text)
  local path = tmp .. "/" .. name
  assert(core.write_file_atomic(path, text))
  return path
end

-- ---- help ----

T.test("no arguments: a screen of at most 24 lines, only verbs that exist", function()
  local code, out = sumi()
  T.eq(code, 0)
  local lines = select(2, out:gsub("\n", ""))
  T.ok(lines <= 24 and lines >= 6, lines .. " lines")
  local known = {}
  for _, name in ipairs(cli.names()) do known[name] = true end
  known.help = true
  for name in out:gmatch "\n%s+sumi (%a+)" do T.ok(known[name], "the screen offers " .. name) end
end)

T.test("help of each verb, both ways, names every flag it takes", function()
  for _, name in ipairs(cli.names()) do
    local code, out, err = sumi("help", name)
    T.eq({ code, err }, { 0, "" }, name)
    T.ok(out:find("usage: sumi " .. name, 1, true), name .. ": no usage line")
    T.eq({ sumi(name, "--help") }, { 0, out, "" }, name .. " --help")
  end
  local _, all = sumi("help")
  for _, name in ipairs(cli.names()) do T.ok(all:find("\n  sumi " .. name, 1, true), "help lacks " .. name) end
end)

T.test("version", function()
  local code, out = sumi("--version")
  T.eq(code, 0)
  T.eq(out:match "^sumi (%S+)", core.version or core.versions().sumi)
end)

-- ---- wrong calls: arguments -> words of the message; all exit 2 with nothing on stdout ----

local plain = script("plain.lua", "return 0\n")
local wrong = {
  { { "rnu" }, "unknown verb 'rnu' (did you mean 'run'?)" },
  { { "reprot", "x" }, "did you mean 'report'?" },
  { { "--versoin" }, "did you mean '--version'?" },
  { { "help", "sohw" }, "did you mean 'show'?" },
  { { "run" }, "SCRIPT is missing" },
  { { "run", tmp .. "/plian.lua" }, "did you mean '" .. plain .. "'?" },
  { { "run", tmp }, "is a folder, not a script" },
  { { "run", plain, "--sed", "3" }, "did you mean '--seed'?" },
  { { "run", plain, "--seed" }, "--seed wants a value" },
  { { "run", plain, "--seed", "x1" }, "--seed wants a whole number of at least 0; found 'x1'" },
  { { "run", plain, "--seed=1.5" }, "found '1.5'" },
  { { "run", plain, "--steps", "0" }, "of at least 1; found '0'" },
  { { "run", plain, "--fresh=yes" }, "--fresh takes no value" },
  { { "run", plain, "seed=abc" }, "wants a whole number" },
  { { "run", plain, "5=3" }, "not of the form knob=value" },
  { { "run", "--", "--seed" }, "no such script: --seed" },
  { { "resume" }, "one RUN is wanted; found 0" },
  { { "ls", "a", "b" }, "one GLOB at most" },
  { { "ls", "--state", "dnoe" }, "--state is one of: running done" },
  { { "show" }, "one RUN is wanted" },
  { { "report" }, "what to report on is missing" },
  { { "report", tmp .. "/nothing.lua" }, "no such script" },
  { { "doctor", "x" }, "takes no arguments" },
}

for _, case in ipairs(wrong) do
  T.test("wrong: sumi " .. table.concat(case[1], " "), function()
    local code, out, err = sumi(table.unpack(case[1]))
    T.ok(err:find(case[2], 1, true), ("stderr is %q"):format(err))
    T.eq({ code, out }, { 2, "" })
    T.ok(not err:find "stack traceback", "a stack trace")
  end)
end

-- ---- nothing there ----

T.test("no such run is 4; an empty ls is 0", function()
  for _, args in ipairs { { "show", "@last" }, { "resume", "abcd1234" }, { "report", "x/*" }, { "ls", "x/*" } } do
    local code, out, err = sumi(table.unpack(args))
    T.eq({ code, out }, { 4, "" }, table.concat(args, " "))
    T.ok(#err > 10)
  end
  T.eq({ sumi("ls") }, { 0, "", "no runs in " .. tmp .. "/none\n" })
  T.eq({ sumi("ls", "--json") }, { 0, "[]\n", "" })
  local code, out = sumi("ls", "--tsv")
  T.eq({ code, out:match "^run\tid\tstate\t[^\n]*\n$" ~= nil }, { 0, true })
end)

-- ---- lua ----

T.test("lua runs a file with its arguments and returns its number", function()
  local path = script("args.lua", "print(arg[0], arg[1], ..., #arg)\nreturn 7\n")
  T.eq({ sumi("lua", path, "a b", "--seed") }, { 7, path .. "\ta b\ta b\t2\n", "" })
  local code, _, err = sumi("lua", script("bad.lua", "local x = = 1\n"))
  T.eq(code, 1)
  T.ok(err:find("bad.lua:1:", 1, true), err)
end)

-- ---- doctor ----

T.test("doctor says ok here, and names the remedy where gnuplot is missing", function()
  local code, out = sumi("doctor")
  T.eq(code, 0, out)
  for _, name in ipairs { "cpu", "memory", "oneDNN", "HDF5", "gnuplot", "gpu", "results" } do
    T.ok(out:find("\n?[^\n]* " .. name .. " +%S"), "no line for " .. name)
  end
  code, out = sumi({ "PATH=/nonexistent" }, "doctor")
  T.eq(code, 6)
  T.ok(out:find("✗ gnuplot", 1, true) and out:find("sudo apt install gnuplot-nox", 1, true), out)
  local _, json = sumi("doctor", "--json")
  T.eq(require("sumi.json").decode(json)[1].name, "cpu")
end)

T.test("doctor: a results folder that cannot be one", function()
  local code, out = sumi("doctor", "--results", plain .. "/x")
  T.eq(code, 6)
  T.ok(out:find("is not a folder", 1, true), out)
end)

-- ---- signals ----

T.test("the first signal sets a flag; INT twice leaves with 130, TERM twice with 143", function()
  local one = script("one.lua", [[
    local core = require "sumi.core"
    core.catch_signals()
    assert(core.signal_pending() == nil)
    core.raise_signal "USR1"
    assert(core.signal_pending() == "USR1")
    core.raise_signal "TERM"
    assert(core.signal_pending() == "TERM")
    core.signal_clear()
    core.raise_signal "INT"
    assert(core.signal_pending() == "INT")
    print "alive"
    if arg[1] then
      core.signal_clear()
      core.raise_signal(arg[1])
      core.raise_signal(arg[1])
    end
    print "still alive"]])
  T.eq({ sumi("lua", one) }, { 0, "alive\nstill alive\n", "" })
  T.eq((sumi("lua", one, "INT")), 130)
  T.eq((sumi("lua", one, "TERM")), 143)
  T.eq((sumi("lua", one, "USR1")), 0)
end)

-- ---- talk ----

T.test("progress where stderr is no terminal: a log line at once, every log_every seconds, and at the end", function()
  local path = script("progress.lua", [[
    local core, term = require "sumi.core", require "sumi.term"
    term.log_every = 0.15
    local p = term.progress { label = "x seed 0", total = 40 }
    for i = 1, 40 do
      p:update { step = i, rate = 12.5, eta = 90, losses = { { "D", 0.5 }, { "metric/x", 2 } }, extra = "a note" }
      core.sleep(0.01)
    end
    p:done()]])
  local code, out, err = sumi("lua", path)
  T.eq({ code, out }, { 0, "" })
  local lines = {}
  for line in err:gmatch "[^\n]+" do lines[#lines + 1] = line end
  T.ok(#lines >= 3 and #lines <= 6, #lines .. " lines")
  local when, rest = lines[1]:match "^(%S+) (.*)$"
  T.ok(when:find "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", when)
  T.ok(rest:find '^step=1 of=40 it/s=12.5 eta=90s loss/D=0.5 metric/x=2 mem=%S+ note="a note"$', rest)
  T.ok(lines[#lines]:find "step=40 of=40", lines[#lines])
end)

T.test("progress line: fits the width and drops from the end", function()
  local term = require "sumi.term"
  term.quiet = true
  local p = term.progress { label = "dcgan seed 0", total = 100 }
  for i = 1, 50 do
    p:update { step = i, rate = 38.2, eta = 167, losses = { { "D", 1 / i }, { "G", i } }, extra = "fid 41.8" }
  end
  local wide = p:line(140)
  T.ok(wide:find("step 50/100  38.2 it/s  eta 2m47s  D 0.020", 1, true) and wide:find("fid 41.8", 1, true), wide)
  T.ok(wide:find("━━━━━━━━━─", 1, true), wide)
  for width = 40, 140, 7 do
    local line = p:line(width)
    T.ok(term.cells(line) <= width, ("%d columns in %d: %s"):format(term.cells(line), width, line))
    T.ok(line:find("step 50/100", 1, true), line)
  end
  p:done()
  term.quiet = false
end)

T.test("numbers for people", function()
  local term = require "sumi.term"
  local cases = { { 0.6123, "0.612" }, { 1.3149, "1.31" }, { 41.83, "41.8" }, { 412.7, "413" }, { 12500, "12500" },
    { 2e-4, "0.0002" }, { 0 / 0, "nan" }, { -math.huge, "-inf" }, { 1.5e7 + 0.5, "1.5e+07" } }
  for _, c in ipairs(cases) do T.eq(term.number(c[1]), c[2]) end
  T.eq(term.duration(167), "2m47s")
  T.eq(term.duration(90061), "1d01h")
  T.eq(term.spark({ 1, 2, 3, 4, 5, 6, 7, 8 }, 8), "▁▂▃▄▅▆▇█")
  T.eq(term.spark({ 1, 0 / 0, 2 }, 3), "▁·█")
  T.eq(term.table({ { "a", "bé", "x" }, { "aaa", "b", "y" } }, "lrl"), { "a    bé  x", "aaa   b  y" })
end)

-- ---- the machine ----

T.test("spawn: arguments as they are, both outputs, exit codes, a folder, what is not there", function()
  T.eq({ core.spawn { "printf", "%s|%s", "a b", "$HOME;*" } }, { 0, "a b|$HOME;*", "" })
  T.eq({ core.spawn({ "sh", "-c", "pwd; echo oops >&2; exit 3" }, { cwd = "/" }) }, { 3, "/\n", "oops\n" })
  T.eq((core.spawn { "sh", "-c", "kill -9 $$" }), 137)
  local code, out = core.spawn { "sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2" }
  T.eq({ code, #out }, { 0, 3000000 })
  local none, message = core.spawn { "no-such-program-here" }
  T.eq({ none, message }, { nil, "no-such-program-here: No such file or directory" })
end)

T.test("files: whole or not at all, folders, and what is not there", function()
  local dir = tmp .. "/a/b"
  T.eq(core.mkdir_p(dir), true)
  T.eq(core.mkdir_p(dir), true)
  T.eq(core.write_file_atomic(dir .. "/f", "one\0two"), true)
  T.eq(core.read_file(dir .. "/f"), "one\0two")
  T.eq(core.read_file(dir .. "/f", 3), "one")
  T.eq(core.write_file_atomic(dir .. "/f", ""), true)
  T.eq(core.stat(dir .. "/f").size, 0)
  T.eq(core.stat(dir).type, "dir")
  T.eq(core.listdir(tmp .. "/a"), { "b" })
  T.eq(core.listdir(dir), { "f" })
  T.eq((core.listdir(tmp .. "/none")), nil)
  T.eq((core.read_file(dir)), nil)
  T.eq((core.write_file_atomic(tmp .. "/none/x", "y")), nil)
  T.eq((core.mkdir_p(dir .. "/f/g")), nil)
  T.eq(core.realpath(dir .. "/../b"), core.realpath(dir))
  T.eq(core.remove(dir .. "/f"), true)
  T.eq((core.remove(dir .. "/f")), nil)
  T.ok(core.disk_free(tmp) > 0)
end)

T.test("base64 (RFC 4648 section 10)", function()
  local cases = { { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg==" },
    { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" }, { "\255\254\253", "//79" } }
  for _, c in ipairs(cases) do T.eq(core.base64(c[1]), c[2]) end
end)

T.test("host: cpu, memory, versions", function()
  local cpu, m, v = core.cpu(), core.memory(), core.versions()
  T.ok(cpu.threads >= 1 and #cpu.name > 0)
  T.ok(m.total >= m.available and m.available > 0)
  T.ok(core.peak_rss() > 2 ^ 20 and core.peak_rss() < m.total)
  for _, name in ipairs { "lua", "hdf5", "onednn", "png", "webp", "zlib" } do
    T.ok(v[name]:find "^%d+%.%d+", name .. " is " .. tostring(v[name]))
  end
  local t = core.now()
  core.sleep(0.02)
  T.ok(core.now() - t >= 0.019)
end)

core.spawn { "rm", "-rf", tmp }
return T.done()
