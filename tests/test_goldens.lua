-- test_goldens.lua -- does `sumi goldens` notice what is wrong? On tests/goldens/small.h5 (made by
-- make.py beside it), which holds right values and every kind of wrong one; and on all networks and
-- runs of $SUMI_SHARED with a spoilt gradient.
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local core = require "sumi.core"
local goldens = require "sumi.goldens"

local small = T.dir .. "/goldens/small.h5"

-- Runs the command's main -> exit code, lines it printed
local function run(...)
  local lines, real = {}, print
  print = function(text)
    for line in tostring(text):gmatch "[^\n]+" do lines[#lines + 1] = line end
  end
  local ok, code = pcall(goldens.main, { ... })
  print = real
  T.ok(ok, tostring(code))
  return code, lines
end

-- The failed and passed groups, in order
local function groups(lines, word)
  local list = {}
  for _, line in ipairs(lines) do
    local group = line:match("^" .. word .. " +small%.h5 %d+_([%w_]+) ")
    if group then list[#list + 1] = group end
  end
  return list
end

for _, device in ipairs { "ref", "cpu" } do
  T.test("small.h5 on " .. device, function()
    local code, lines = run("--device", device, "-v", small)
    T.eq(code, 1)
    T.eq(groups(lines, "FAILED"), { "wrong_value", "wrong_gradient", "wrong_shape", "nan", "not_exact", "not_l2",
      "missing_is_not_zero", "not_computed" })
    T.eq(groups(lines, "ok"), { "right", "exact", "l2", "missing_is_zero" })
    T.eq(lines[#lines], "4 passed, 8 failed, 3 skipped")
  end)
end

T.test("both devices unless one is named; failed lines say what broke which tolerance", function()
  local code, lines = run(small, "--op", "linear")
  T.eq(code, 1)
  T.eq(lines[#lines], "2 passed, 6 failed, 0 skipped")
  local want = "small.h5 002_wrong_value ref: 002_wrong_value/out/out: off by 0.001 (close), tolerance"
  T.ok(lines[1]:find(want, 1, true), lines[1])
end)

T.test("skips are listed by op and do not fail", function()
  local code, lines = run(small, "--op", "frobnicate")
  T.eq({ code, lines }, { 0, { "skipped: frobnicate x 2", "0 passed, 0 failed, 2 skipped" } })
  code, lines = run(small, "--op", "conv2d")
  T.eq({ code, lines[1] }, { 0, "skipped: conv2d (lacks conv2d with padding_mode circular) x 2" })
end)

T.test("a reference that contradicts itself is skipped by name, not passed", function()
  local code, lines = run(small, "--op", "sign", "--device", "ref")
  T.eq(code, 1)                          -- for not_exact
  local want = "the file contradicts itself: 014_contradiction/grad/input is marked as truly zero"
  T.ok(lines[2]:find(want, 1, true), lines[2])
end)

T.test("a spoilt gradient is noticed", function()
  core.mutate("linear", 1.01)
  local _, lines = run(small, "--op", "linear", "--device", "ref")
  core.mutate("linear", 1)
  T.eq(groups(lines, "FAILED"), { "right", "wrong_value", "wrong_gradient", "wrong_shape" })
end)

local shared = os.getenv "SUMI_SHARED"
for _, name in ipairs { "nets", "train" } do
  local path = shared and shared .. "/goldens/" .. name .. ".h5"
  if path and core.stat(path) then
    T.test("a spoilt gradient is noticed in " .. name .. ".h5", function()
      core.mutate("tanh", 1.01)
      local _, lines = run("--device", "cpu", path)
      core.mutate("tanh", 1)
      local passed, failed = lines[#lines]:match "^(%d+) passed, (%d+) failed"
      T.ok(tonumber(failed) > 0, lines[#lines])
      if T.verbose then print(name, passed, failed) end
    end)
  else
    T.skip(name .. ".h5 with a spoilt gradient", "needs SUMI_SHARED")
  end
end

return T.done()
