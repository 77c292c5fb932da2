-- crash_train.lua -- a CycleGAN run killed with SIGKILL again and again, at random moments and inside its saves, and resumed each time:
-- its final weights must be those of the run that nobody disturbed, bit for bit, and no file may be left over.
--   ./sumi lua tests/crash_train.lua [-v] [KILLS] [DEVICE]       (default 10, cpu)
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local kills, device = 10, "cpu"
for _, a in ipairs(arg) do
  if tonumber(a) then kills = math.tointeger(tonumber(a))
  elseif a ~= "-v" then device = a end
end

local tmp = T.tmpdir()
local sumi = core.realpath "/proc/self/exe"
local script = T.dir .. "/../experiments/cyclegan.lua"
local steps = device == "cpu" and 40 or 12
local knobs = { "size=32", "width=4", "blocks=1", "pool=6", "epochs=2", "steps=" .. steps, "device=" .. device }
if device == "emu" then table.move({ "size=16", "width=2", "critic=2", "layers=1" }, 1, 4, #knobs + 1, knobs) end

-- Pictures and checkpoints often, so that kills meet them.
-- -> {code =, out =, err =}; code is 128 + the signal that killed it.
local function sumi_run(prefix, ...)
  local argv = { "env", "SUMI_CHECKPOINT=3" }
  for _, list in ipairs { prefix, { sumi }, { ... } } do
    for _, a in ipairs(list) do argv[#argv + 1] = a end
  end
  local code, out, err = core.spawn(argv)
  return { code = code, stdout = out or "", stderr = err or "" }
end

local function start(prefix, results)
  return sumi_run(prefix, "run", script, "--results", results, "-q", table.unpack(knobs))
end

local function weights(dir)
  local r = sumi_run({}, "show", dir, "--weights-hash")
  return r.stdout:match "%x+" and r.stdout:match(("%x"):rep(64)) or ("no hash: " .. r.stdout .. r.stderr)
end

local began = core.now()
local calm = start({}, tmp .. "/calm")
local length = core.now() - began
T.check("the undisturbed run finishes", calm.code == 0, calm.stderr)
local wanted = weights(tmp .. "/calm/cyclegan/default/seed-0")

local random = math.random
math.randomseed(20261123)
local sites = { "ckpt-open", "ckpt-write", "ckpt-fsync", "ckpt-verify", "ckpt-rename", "ckpt-dirsync", "seal-write", "seal-rename",
  "journal-write" }

-- Half of the kills come from a clock, half from inside a durable write.
local function prefix_of(k)
  if k % 2 == 0 then return { "timeout", "-s", "KILL", ("%.3f"):format(0.05 + random() * length * 0.8) } end
  return { ("SUMI_KILL_AT=%s:%d"):format(sites[1 + (k // 2) % #sites], random(1, 4)) }
end

local function stray(dir)
  local list = {}
  for _, sub in ipairs { "", "/ckpt", "/samples" } do
    for _, name in ipairs(core.listdir(dir .. sub) or {}) do
      if name:find "tmp" or name:find "corrupt" then list[#list + 1] = sub .. "/" .. name end
    end
  end
  return table.concat(list, " ")
end

local done, died, lives = 0, 0, 0
while died < kills and lives < 6 * kills do
  lives = lives + 1
  local results = ("%s/run%d"):format(tmp, done)
  local dir = results .. "/cyclegan/default/seed-0"
  local alive = core.stat(dir .. "/run.h5")
  local r
  if alive then r = sumi_run(prefix_of(died), "resume", dir, "-q") else r = start(prefix_of(died), results) end
  if r.code == 0 then
    T.check(("run %d ends with the same weights"):format(done + 1), weights(dir) == wanted, weights(dir))
    T.check(("run %d leaves nothing behind"):format(done + 1), stray(dir) == "", stray(dir))
    done = done + 1
  elseif r.code == 137 or r.signal == 9 or r.code == 124 then
    died = died + 1
  else
    T.check("a killed run resumes", false, ("exit %s: %s"):format(tostring(r.code), r.stderr))
    break
  end
end
local last = ("%s/run%d/cyclegan/default/seed-0"):format(tmp, done)
if core.stat(last .. "/run.h5") then
  local r = sumi_run({}, "resume", last, "-q")
  T.check("the last killed run resumes", r.code == 0, r.stderr)
  T.check("the last killed run ends with the same weights", weights(last) == wanted, weights(last))
  T.check("the last killed run leaves nothing behind", stray(last) == "", stray(last))
end
T.check(("%d kills met"):format(kills), died >= kills, ("only %d kills in %d lives"):format(died, lives))
return T.done()
