-- crash_store.lua -- the run store under SIGKILL: at random moments and at every durable step of every kind
-- of file. After each kill the store must be whole: run.h5 opens, all rows up to the last are there with
-- their exact values, the newest checkpoint verifies and holds one step's numbers; after reopening nothing
-- stray is left.
--   ./sumi lua tests/crash_store.lua [-v] [KILLS]       (default 40 random kills)
local core = require "sumi.core"
local store = require "sumi.store"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local kills = 40
for _, a in ipairs(arg) do kills = math.tointeger(tonumber(a)) or kills end

local tmp = T.tmpdir()

local function child(prefix, ...) return T.child(prefix, "store_child.lua", ...) end

local function value(step, k) return math.sin(step * 1.25 + k) end

local function check_rows(run)
  for k, name in ipairs { "loss/D/real", "loss/G/adv" } do
    local s = run.summary[name] and run.series(name) or { step = {}, value = {} }
    for i = 1, #s.step do
      T.eq(s.step[i], i, name .. ": step of row " .. i)
      T.eq(s.value[i], value(i, k), name .. ": value of row " .. i)
    end
  end
end

local function check_checkpoint(dir)
  local newest, messages = store.newest(dir)
  T.eq(messages, {}, "damaged checkpoints")
  if not newest then return 0 end
  local step = newest.step
  local one = { ["G/1/weight"] = step, ["D/1/weight"] = -step, ["adam/m/G/1/weight"] = step / 2 }
  for _, name in ipairs(newest.names) do
    local bytes = newest.bytes(name)
    T.eq(bytes, string.pack("<f", one[name]):rep(#bytes // 4), name .. " of step " .. step)
  end
  T.eq(newest.meta, { step = step, third = step / 3 }, "meta")
  newest.close()
  return step
end

-- Every row whose run:metrics returned.
local function check_progress(results, run)
  local last
  for line in (core.read_file(results .. "/progress") or ""):gmatch "(%d+)\n" do last = tonumber(line) end
  if not last then return end
  local s = run.series "loss/G/adv"
  T.ok((s.step[#s.step] or 0) >= last, ("rows end at %s, step %d was written"):format(s.step[#s.step], last))
end

local expected = { ["run.h5"] = true, ["journal.tsv"] = true, ["status.json"] = true, claim = true, samples = true,
  ckpt = true }

local function check_no_strays(dir)
  for _, name in ipairs(core.listdir(dir)) do T.ok(expected[name], "stray file " .. name) end
  local count = 0
  for _, name in ipairs(core.listdir(dir .. "/ckpt")) do
    T.ok(name:find "^step%-%d+%.h5$", "stray file ckpt/" .. name)
    count = count + 1
  end
  T.ok(count <= 3, count .. " checkpoints are kept")
end

-- After a kill: readable as it is; and after reopening, rewound to its checkpoint and without strays.
local function check_store(results)
  local dir = results .. "/crash/loop/seed-1"
  if not core.stat(dir .. "/run.h5") then return nil end          -- killed before there was a run
  local run = store.read(dir)
  local dead = run.state == "lost" or run.state == "unknown" or run.state == "stopped"
  T.ok(dead, ("state is %s; claim %q"):format(run.state, core.read_file(dir .. "/claim") or "none"))
  check_rows(run)
  check_progress(results, run)
  os.remove(results .. "/progress")
  local step = check_checkpoint(dir)
  local again = store.reopen(dir)
  again:rewind(step)
  local rows = again.journal:last()
  again:close()
  T.eq(math.max(rows, 0), step, "rows up to the checkpoint, after rewinding")
  T.eq(check_checkpoint(dir), step, "newest checkpoint after reopening")
  check_rows(store.read(dir))
  check_no_strays(dir)
  return step
end

math.randomseed(20240607)
local went_on = 0
T.test(kills .. " kills at random moments", function()
  local results, last = tmp .. "/random", 0
  -- Delays in units of what a life of two checkpoints takes here and now: a loaded machine is slower.
  local life = core.now()
  T.eq(child({}, "steps", tmp .. "/timed", 10, 100000), 0)
  life = core.now() - life
  for i = 1, kills do
    local delay = ("%.3f"):format(life * (0.1 + 2 * math.random()))
    local code, out = child({ "timeout", "--foreground", "-s", "KILL", delay }, "steps", results, 1000000, 100000)
    T.eq(code, 137, "exit of kill " .. i .. " (" .. tostring(out) .. ")")
    local step = check_store(results)
    T.ok(not step or step >= last, ("kill %d: step %s after %d"):format(i, tostring(step), last))
    if step and step > last then went_on = went_on + 1 end
    last = step or last
  end
  T.ok(went_on > kills // 20, "only " .. went_on .. " lives got as far as a checkpoint")
end)

local sites = {}
for _, file in ipairs { "seal", "ckpt", "status" } do
  for _, step in ipairs { "open", "write", "fsync", "rename", "dirsync" } do sites[#sites + 1] = file .. "-" .. step end
end
for _, name in ipairs { "seal-verify", "ckpt-verify", "journal-write", "journal-empty", "claim-write" } do
  sites[#sites + 1] = name
end
-- Which pass of the site: in the first life, in a later one, and for seals inside the rewind of a later one.
for _, site in ipairs(sites) do
  local passes = { 1, 3 }
  if site:find "^claim" then passes = { 1 } elseif site:find "^status" then passes = { 2 } end
  for _, pass in ipairs(passes) do
    for _, fresh in ipairs { true, false } do
      T.test(("kill at %s:%d in %s life"):format(site, pass, fresh and "the first" or "a later"), function()
        local results = ("%s/%s-%d-%s"):format(tmp, site, pass, fresh)
        if not fresh then T.eq(child({}, "steps", results, 12), 0) end
        local code, out = child({ ("SUMI_KILL_AT=%s:%d"):format(site, pass) }, "steps", results, 21)
        T.eq(code, 137, "exit (" .. tostring(out) .. ")")
        local step = check_store(results)
        T.eq(child({}, "steps", results, 12), 0, "the next life")
        T.eq(check_store(results), ((step or 0) + 12) // 5 * 5, "checkpoint of the next life")
      end)
    end
  end
end

core.spawn { "rm", "-rf", tmp }
return T.done()
