-- test_bad.lua -- what a run meets in the world: broken pictures, NaN, full disks, signals, a second process, damaged
-- files. Each time: the exit code, a message that says what and where, and nothing lost, which is to say that the run
-- goes on afterwards and ends at the same weights as one that nothing happened to. (Wrong scripts are in tests/wrong.)
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local exe = core.realpath "/proc/self/exe"
local tmp = T.tmpdir()
local here = core.realpath(T.dir)
local rings = here .. "/../experiments/rings.lua"
local knobs = { "steps=120", "width=8", "batch=16", "z=4", "modes=4" }

-- ---- running sumi ----

-- env is a list of NAME=value; the rest is the command line. -> {code =, out =, err =}
local function sumi(env, ...)
  local argv = { "env", "NO_COLOR=1", "OMP_NUM_THREADS=1" }
  for _, list in ipairs { env, { exe }, { ... } } do
    for _, a in ipairs(list) do argv[#argv + 1] = a end
  end
  local code, out, err = core.spawn(argv)
  return { code = code, out = out, err = err }
end

-- A shell script; $1 is sumi, $2 ... what is given here.
local function shell(script, ...)
  local code, out, err = core.spawn { "env", "NO_COLOR=1", "OMP_NUM_THREADS=1", "timeout", "60", "sh", "-c", script,
    "sh", exe, ... }
  return { code = code, out = out, err = err }
end

local count = 0
local function fresh_dir()
  count = count + 1
  return ("%s/r%d"):format(tmp, count)
end

local often = "SUMI_CHECKPOINT=20"

local function train(results, env, ...)
  local more = table.pack(...)
  for _, k in ipairs(knobs) do more[#more + 1] = k end
  return sumi(env, "run", rings, "--results", results, "-q", table.unpack(more))
end

local function weights(dir)
  local r = sumi({}, "show", dir, "--weights-hash")
  return r.code == 0 and r.out:match "%x+" or "no weights: " .. r.err
end

local function expect(r, code, ...)
  T.eq({ r.code, code ~= r.code and r.err or "" }, { code, "" }, "exit code")
  for _, words in ipairs { ... } do
    T.ok(r.err:find(words, 1, true), ("the message lacks %q: %s"):format(words, r.err))
  end
  T.ok(not r.err:find "stack traceback" and not r.err:find "inside the library", "shows our insides: " .. r.err)
  return r
end

local function events(dir)
  local list = {}
  for _, e in ipairs(require("sumi.store").read(dir).events) do list[#list + 1] = e.kind .. ": " .. e.text end
  return table.concat(list, "\n")
end

local function flip(path, at)
  local bytes = assert(core.read_file(path))
  at = at < 0 and #bytes + at or at
  assert(core.write_file_atomic(path, bytes:sub(1, at) .. string.char(bytes:byte(at + 1) ~ 1) .. bytes:sub(at + 2)))
end

local function write(path, text) assert(core.write_file_atomic(path, text)) end

local calm = fresh_dir()
expect(train(calm, { often }), 0)
local calm_run = calm .. "/rings/default/seed-0"
local wanted = weights(calm_run)
T.check("the undisturbed run has weights", #wanted == 64, wanted)

-- The run goes on and ends as if nothing had been.
local function goes_on(dir, ...)
  local r = expect(sumi({ often }, "resume", dir, "-q"), 0, ...)
  T.eq(weights(dir), wanted, "weights at the end")
  return r
end

-- ---- pictures ----

local text = [[
local _ENV = require "sumi"
local c = config { data = "set", on_error = "fail", threads = 2, channels = 3 }
local G = net { input = {1, 1, 4}, upconv(c.channels, 16, 1, { pad = 0 }), tanh() }
local D = net { input = {16, 16, c.channels}, conv(4, 4, 4), lrelu(), linear(1) }
return experiment { "pictures",
  data = images { c.data, size = 24, crop = 16, batch = 4, on_error = c.on_error, threads = c.threads,
                  channels = c.channels },
  forward = function(x) x.fake = G(randn(#x, 1, 1, 4)) end,
  players = {
    player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) + bce(D(x.fake), 0) end } },
    player { "G", G, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.fake), 1) end } } },
  steps = 8 }
]]
local pictures = tmp .. "/pictures.lua"
write(pictures, text)

local function picture(path, h, w, shade)
  core.mkdir_p(path:match "^(.*)/")
  local flat = {}
  for i = 1, h * w * 3 do flat[i] = shade + (i % 7) / 20 end
  core.image_grid(path, core.tensor(flat, { 1, h, w, 3 }), 1, 1)
end

-- A folder of seven good pictures and a bad one, which is number 4.
local function folder(name, make_bad)
  local dir = tmp .. "/" .. name
  for k = 1, 8 do
    if k ~= 4 then picture(("%s/p%d.png"):format(dir, k), 30, 30, k / 10 - 0.6) end
  end
  make_bad(dir)
  return dir
end

local function copy(from, to)
  return function(dir) write(dir .. "/" .. to, assert(core.read_file(here .. "/images/" .. from))) end
end

-- Trains on a folder of pictures; more are knobs.
local results
local function look_at(dir, script, ...)
  results = fresh_dir()
  return sumi({}, "run", script, "data=" .. dir, "--results", results, ...)
end

local bad = {
  { "cmyk", "p4.jpg", copy("cmyk.jpg", "p4.jpg"), "a CMYK JPEG" },
  { "truncated", "p4.jpg", copy("truncated.jpg", "p4.jpg"), "truncated JPEG" },
  { "truncated_png", "p4.png", copy("truncated.png", "p4.png"), "truncated PNG" },
  { "empty", "p4.jpg", function(dir) write(dir .. "/p4.jpg", "") end, "empty" },
  { "text", "p4.png", copy("text.jpg", "p4.png"), "not an image that Sumi reads" },
  { "gone", "p4.png", function(dir) core.spawn { "ln", "-s", "/none/p.png", dir .. "/p4.png" } end, "No such file" },
  { "locked", "p4.png", function(dir)
    picture(dir .. "/p4.png", 30, 30, 0)
    core.spawn { "chmod", "000", dir .. "/p4.png" }
  end, "Permission denied" },
}

local _, uid = core.spawn { "id", "-u" }
local root = uid:match "%d+" == "0"

for _, b in ipairs(bad) do
  local name, file, make_bad, words = table.unpack(b)
  if name == "locked" and root then T.skip("pictures: locked", "root may read every file")
  else
    local dir = folder(name, make_bad)
    T.test(("pictures: %s, on_error = fail"):format(name), function()
      local r = expect(look_at(dir, pictures, "-q"), 1, file, words)
      T.ok(r.err:find(pictures .. ":6: ", 1, true) == 1, "does not begin with the script's line: " .. r.err)
    end)
    T.test(("pictures: %s, on_error = skip"):format(name), function()
      local hashes = {}
      for k, threads in ipairs { 0, 3 } do
        local r = expect(look_at(dir, pictures, "on_error=skip", "threads=" .. threads), 0)
        local run = results .. "/pictures/default/seed-0"
        hashes[k] = weights(run)
        T.eq(select(2, r.err:gsub("skipped a broken image", "")), 1, "how often it is told:\n" .. r.err .. "\n")
        T.ok(r.err:find(words, 1, true) and r.err:find(file, 1, true), r.err)
        T.eq(select(2, events(run):gsub("warning: skipped[^\n]*" .. file, "")), 1, "events")
      end
      T.eq(hashes[2], hashes[1], "weights with another number of threads")
    end)
  end
end

T.test("pictures: every one broken", function()
  local dir = tmp .. "/all_broken"
  core.mkdir_p(dir)
  for k = 1, 4 do copy("truncated.jpg", ("p%d.jpg"):format(k))(dir) end
  expect(look_at(dir, pictures, "on_error=skip", "-q"), 1, "pictures.lua:6: ", "all_broken")
end)

T.test("pictures: smaller than the crop", function()
  local dir = tmp .. "/small"
  for k = 1, 4 do picture(("%s/p%d.png"):format(dir, k), 12, 12, k / 10) end
  local script = tmp .. "/crop.lua"
  write(script, (text:gsub("size = 24, ", "")))
  expect(look_at(dir, script, "-q"), 1, "crop.lua:6: ", "12x12", "crop of 16x16")
end)

T.test("pictures: a wrong number of channels", function()
  local dir = folder("channels", copy("rgb.png", "p4.png"))
  expect(look_at(dir, pictures, "channels=7", "-q"), 1, "pictures.lua:6: ", "channels must be at most 4, not 7")
  local script = tmp .. "/six.lua"
  write(script, (text:gsub("{16, 16, c.channels}", "{16, 16, 6}")))
  expect(look_at(dir, script, "-q"), 1, "six.lua:10: ",
    "net D: wants {n, 16, 16, 6}, its input is {n, 16, 16, 3}")
end)

T.test("pictures: a folder that is not there, or empty", function()
  core.mkdir_p(tmp .. "/nothing")
  expect(look_at(tmp .. "/nothing", pictures, "-q"), 1, "pictures.lua:6: ", "holds no images")
  expect(look_at("no/such", pictures, "-q"), 1, "pictures.lua:6: ", "there is no folder 'no/such'")
end)

-- ---- numbers that are none ----

local sick = tmp .. "/sick.lua"
write(sick, [[
local _ENV = require "sumi"
local c = config { at = 13, rate = 1e-3, steps = 30 }
local G, D = net { input = 4, linear(2) }, net { input = 2, linear(1) }
local n = 0
return experiment { "sick",
  data = ring { batch = 8 },
  forward = function(x)
    n = n + 1
    x.fake = G(randn(#x, 4)) * (n == c.at and 0 / 0 or 1)
  end,
  players = {
    player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) + bce(D(x.fake), 0) end } },
    player { "G", G, adam { function(_, step) return step == 12 and c.rate or 1e-3 end },
      loss = { adv = function(x) return bce(D(x.fake), 1) end } } },
  steps = c.steps }
]])

T.test("NaN: exit 5, the loss, the last good checkpoint; and it goes on from there", function()
  local results = fresh_dir()
  local dir = results .. "/sick/default/seed-0"
  local r = expect(sumi({ "SUMI_CHECKPOINT=5" }, "run", sick, "--results", results, "-q"), 5,
    "sick.lua:12: step 13: loss/D/adv is nan", "last good checkpoint: step 10 of " .. dir)
  T.eq(r.out, "")
  T.ok(events(dir):find("nan: [^\n]*loss/D/adv is nan"), events(dir))
  T.eq(require("sumi.store").read(dir).state, "diverged")
  T.eq(require("sumi.store").newest(dir).step, 10)
  expect(sumi({ "SUMI_CHECKPOINT=5" }, "resume", dir, "-q"), 5, "step 23", "last good checkpoint: step 20")
  expect(sumi({ "SUMI_CHECKPOINT=5" }, "resume", dir, "-q"), 0)
end)

T.test("weights that are not finite are no checkpoint", function()
  local results = fresh_dir()
  local dir = results .. "/sick/default/seed-0"
  local r = sumi({ "SUMI_CHECKPOINT=1" }, "run", sick, "at=0", "rate=1e308", "--results", results, "-q")
  expect(r, 5, "step 13: G/1/linear.", "is not finite", "last good checkpoint: step 12")
  T.eq(require("sumi.store").newest(dir).step, 12)
end)

-- ---- full disks ----

for _, case in ipairs { { "ckpt-write:3", "checkpoint", 40 }, { "seal-write:4", "run.h5", 40 },
  { "ckpt-fsync:2", "checkpoint", 20 }, { "journal-write:70", "journal", 60 }, { "ckpt-verify:2", "checkpoint", 20 },
  { "seal-rename:4", "run.h5", 40 } } do
  T.test("the disk refuses at " .. case[1], function()
    local results = fresh_dir()
    local dir = results .. "/rings/default/seed-0"
    local r = train(results, { often, "SUMI_FAULT=" .. case[1] })
    expect(r, 6, case[2], "intact")
    T.eq(require("sumi.store").newest(dir).step, case[3], "newest checkpoint")
    goes_on(dir)
  end)
end

T.test("a heartbeat that cannot be written stops nothing", function()
  local results = fresh_dir()
  expect(train(results, { often, "SUMI_FAULT=status-write:1" }), 0)
  T.eq(weights(results .. "/rings/default/seed-0"), wanted)
end)

T.test("a limit on the size of files: exit 6, and it goes on without it", function()
  local results = fresh_dir()
  local dir = results .. "/rings/default/seed-0"
  local r = shell("ulimit -f $(($2 / 512)); shift 2; exec \"$@\"", tostring(40 * 1024), "env", often, exe, "run",
    rings, "--results", results, "-q", table.unpack(knobs))
  expect(r, 6, "ulimit -f", "run.h5 is intact", "sumi resume " .. dir)
  goes_on(dir)
end)

T.test("a full file system: exit 6, and it goes on when there is room", function()
  local dir = tmp .. "/disk"
  core.mkdir_p(dir)
  local r = shell([[
exe=$1 dir=$2; shift 2
unshare -m true 2>/dev/null || exit 99
unshare -m sh -c '
  exe=$0 dir=$1; shift
  mount -t tmpfs -o size=400k sumi_test "$dir" 2>/dev/null || exit 99
  cd "$dir" && shift
  dd if=/dev/zero of=filler bs=1k count=$((400 - 64)) 2>/dev/null
  "$exe" run "$@" --results r -q || echo "run $?"
  rm filler
  "$exe" resume r/rings/default/seed-0 -q || echo "resume $?"
  "$exe" show r/rings/default/seed-0 --weights-hash' "$exe" "$dir" "$dir" "$@"
]], dir, rings, table.unpack(knobs))
  if r.code == 99 then return T.skip("a full file system", "no right to mount one") end
  T.ok(r.out:find("run 6", 1, true), "exit code of the run: " .. r.out .. r.err)
  T.ok(r.err:find("is full", 1, true) and r.err:find("intact", 1, true), r.err)
  T.ok(r.out:find(wanted, 1, true), "weights: " .. r.out)
end)

-- ---- signals and a second process ----

-- A run that takes its time in step 31 when SLOW says how long; it makes the file MARK when it is there.
local slow = tmp .. "/slow.lua"
write(slow, (assert(core.read_file(rings)):gsub("return experiment", [[
local n = 0
local function dawdle()
  n = n + 1
  if n ~= 31 or not os.getenv "SLOW" then return end
  io.open(os.getenv "MARK", "w"):close()
  local until_when = os.clock() + os.getenv "SLOW"
  repeat until os.clock() > until_when
end

return experiment]]):gsub("forward = function%(b%)", "%0 dawdle()")))

-- Starts it, waits until it is in step 31, does `meanwhile` ($p is its process), and prints "code N", its exit code.
local function during(results, seconds, meanwhile)
  local mark = results .. ".mark"
  return shell(([[
exe=$1; shift
SLOW=%s MARK=%s SUMI_CHECKPOINT=20 "$exe" run "$@" & p=$!
until [ -e %s ]; do sleep 0.02; kill -0 $p || exit 98; done
%s
wait $p; echo "code $?"]]):format(seconds, mark, mark, meanwhile), slow, "--results", results, "-q", table.unpack(knobs))
end

for _, case in ipairs { { "INT", "once" }, { "TERM", "once" } } do
  T.test(("SIG%s %s: a checkpoint, exit 75, how to go on"):format(case[1], case[2]), function()
    local results = fresh_dir()
    local dir = results .. "/rings/default/seed-0"
    local r = during(results, 0.3, "kill -" .. case[1] .. " $p")
    T.ok(r.out:find("code 75", 1, true), r.out .. r.err)
    expect(r, 0, ("stopped by SIG%s at step 31 of 120"):format(case[1]), "sumi resume " .. dir)
    T.eq(require("sumi.store").read(dir).state, "stopped")
    T.eq(require("sumi.store").newest(dir).step, 31)
    goes_on(dir)
  end)
end

for _, case in ipairs { { "INT", 130 }, { "TERM", 143 } } do
  T.test(("SIG%s twice: exit %d at once, and it can be resumed"):format(table.unpack(case)), function()
    local results = fresh_dir()
    local dir = results .. "/rings/default/seed-0"
    local began = core.now()
    local r = during(results, 8, ("kill -%s $p; sleep 0.2; kill -%s $p"):format(case[1], case[1]))
    T.ok(core.now() - began < 7, "did not leave at once")
    T.ok(r.out:find("code " .. case[2], 1, true), r.out .. r.err)
    T.eq(require("sumi.store").read(dir).state, "lost")
    T.eq(require("sumi.store").newest(dir).step, 20)
    goes_on(dir)
  end)
end

T.test("a second process on a run is sent away, with the first one's number", function()
  local results = fresh_dir()
  local dir = results .. "/rings/default/seed-0"
  local r = during(results, 2, ([[
echo "pid $p"
"$exe" resume %s -q; echo "resume $?"
"$exe" run "$@" -q; echo "run $?"
"$exe" run "$@" -q --fresh; echo "fresh $?"]]):format(dir))
  local pid = r.out:match "pid (%d+)"
  local _, told = r.err:gsub("process " .. pid .. " on ", "")
  T.eq(told, 3, "times that the process is named in:\n" .. r.err)
  T.ok(r.out:find("resume 1\nrun 1\nfresh 1\n", 1, true), "exit codes: " .. r.out)
  T.ok(r.out:find("code 0", 1, true), "the first process was disturbed: " .. r.out .. r.err)
  T.eq(weights(dir), wanted)
end)

-- ---- damaged and foreign files ----

-- A run that was killed with the checkpoints 40 and 60 written.
local function killed()
  local results = fresh_dir()
  local r = train(results, { often, "SUMI_KILL_AT=journal-write:71" })
  T.eq(r.code, 137)
  return results .. "/rings/default/seed-0"
end

T.test("a checkpoint with a flipped bit is set aside, the one before is used", function()
  for _, at in ipairs { 4000, -9, 200 } do
    local dir = killed()
    flip(dir .. "/ckpt/step-00000060.h5", at)
    goes_on(dir, "step-00000060.h5", "renamed to step-00000060.h5.corrupt", "at step 40 of 120")
    T.ok(core.stat(dir .. "/ckpt/step-00000060.h5.corrupt"), "it is gone")
    T.ok(events(dir):find("warning: [^\n]*step%-00000060"), events(dir))
  end
end)

T.test("no checkpoint is whole: it begins again, and ends the same", function()
  local dir = killed()
  flip(dir .. "/ckpt/step-00000060.h5", 4000)
  write(dir .. "/ckpt/step-00000040.h5", "")
  goes_on(dir, "step-00000060.h5.corrupt", "step-00000040.h5.corrupt", "at step 0 of 120")
end)

T.test("run.h5 of another format version is left alone", function()
  local dir = killed()
  local img = core.h5_begin(1 << 16)
  img:set("/", "format", "sumi-run")
  img:set("/", "format_version", 99)
  img:put(dir .. "/run.h5", { site = "test", what = "run.h5" })
  local before = core.read_file(dir .. "/run.h5")
  for _, args in ipairs { { "resume", dir }, { "show", dir }, { "report", dir } } do
    expect(sumi({}, table.unpack(args)), 1, dir .. "/run.h5", "format version 99", "version 1")
  end
  expect(train(dir:match "^(.*)/rings", {}), 1, "format version 99")
  T.eq(core.read_file(dir .. "/run.h5"), before, "the file")
  T.ok(core.stat(dir .. "/ckpt/step-00000060.h5"), "its checkpoint is gone")
end)

T.test("run.h5 that is no HDF5 file, or half of one", function()
  local dir = killed()
  local whole = core.read_file(dir .. "/run.h5")
  for _, text in ipairs { "", "not HDF5", whole:sub(1, #whole // 2) } do
    write(dir .. "/run.h5", text)
    expect(sumi({}, "resume", dir), 1, dir .. "/run.h5")
    expect(sumi({}, "show", dir), 1, dir .. "/run.h5")
    T.eq(core.read_file(dir .. "/run.h5"), text, "the file")
  end
  write(dir .. "/run.h5", whole)
  goes_on(dir)
end)

-- ---- runs that are there, or are not ----

T.test("a run that is there is not overwritten", function()
  expect(train(calm, {}), 2, "is finished (120 steps)", "--fresh")
  local dir = killed()
  expect(train(dir:match "^(.*)/rings", {}), 2, "lost at step 6", "sumi resume " .. dir)
  expect(sumi({}, "run", rings, "--results", calm, "-q", "steps=60"), 2, "steps 120 -> 60", "--variant NAME")
  T.eq(weights(calm_run), wanted, "the old run's weights")
end)

T.test("--fresh keeps what was there", function()
  local results = fresh_dir()
  expect(train(results, {}), 0)
  expect(train(results, {}, "--fresh"), 0, "seed-0~1")
  T.eq(weights(results .. "/rings/default/seed-0~1"), wanted)
  T.eq(weights(results .. "/rings/default/seed-0"), wanted)
end)

T.test("a finished run is not resumed, and says what to do", function()
  local before = core.read_file(calm_run .. "/run.h5")
  expect(sumi({}, "resume", calm_run), 0, "is finished (120 steps)", "--steps N")
  T.eq(core.read_file(calm_run .. "/run.h5"), before)
end)

T.test("no such run is 4", function()
  expect(sumi({}, "resume", "no/such/run", "--results", calm), 4, "no/such/run")
  expect(sumi({}, "show", "abcd1234", "--results", calm), 4, "abcd1234", "rings/default/seed-0")
end)

-- ---- reading while it is written ----

local reader = [[
import sys, h5py
last = 0
for k in range(100):
    with h5py.File(sys.argv[1], "r") as f:
        assert f.attrs["format_version"] == 1, "version"
        n = len(f["metrics/loss/D/adv"]) if "metrics/loss/D/adv" in f else 0
        assert n >= last, "fewer rows than before"
        last = n
print("read", k + 1, "rows", last)
]]

local function while_it_runs(command, ...)
  return shell([[
exe=$1 results=$2 script=$3; shift 3
file=$results/rings/default/seed-0/run.h5
SUMI_CHECKPOINT=1 "$exe" run "$script" --results "$results" -q steps=1000000 width=8 batch=16 >/dev/null & p=$!
until [ -e "$file" ]; do sleep 0.02; done
]] .. command .. [[

kill -0 $p && echo "still running"
kill -9 $p]], ...)
end

T.test("h5ls reads run.h5 100 times while it is written", function()
  if not core.spawn { "h5ls", "--version" } then return T.skip("h5ls during a run", "h5ls is not here (hdf5-tools)") end
  local r = while_it_runs([[
good=0 k=0
while [ $k -lt 100 ]; do k=$((k + 1)); h5ls -r "$file" | grep -q "^/metrics " && good=$((good + 1)); done
echo "good $good"]], fresh_dir(), rings)
  T.ok(r.out:find("good 100\nstill running", 1, true), r.out .. r.err)
end)

T.test("h5py reads run.h5 100 times while it is written", function()
  local code = core.spawn { "/usr/bin/python3", "-c", "import h5py" }
  if code ~= 0 then return T.skip("h5py during a run", "there is no h5py for /usr/bin/python3 (python3-h5py)") end
  write(tmp .. "/reader.py", reader)
  local r = while_it_runs([[/usr/bin/python3 "$1" "$file"]], fresh_dir(), rings, tmp .. "/reader.py")
  T.ok(r.out:find "read 100 rows %d+\nstill running", r.out .. r.err)
end)

core.spawn { "chmod", "-R", "u+rw", tmp }
core.spawn { "rm", "-rf", tmp }
return T.done()
