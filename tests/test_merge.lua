-- test_merge.lua -- on the emulated GPU: executions that a recorded step runs as one launch (cu_op.many) give the
-- bits of single ones, and gradients that are not finite are counted, tensor by tensor, wherever in it they are.
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local ops <const> = core.ops

if not core.plugin "emu".path then
  T.skip("merged launches", "there is no emulator")
  return T.done()
end

-- Sizes below, at and above what a block covers, and odd ones.
local SIZES <const> = { 1, 7, 64, 2047, 2048, 2049, 5000, 3 }
local NAN <const>, INF <const> = 0 / 0, math.huge

local function tensor(n, salt, dtype)
  local v = {}
  for k = 1, n do v[k] = ((k * 7919 + salt * 104729) % 2003 - 1001) / 613 end
  if salt % 10 == 4 then                 -- Adam's mean squares
    for k = 1, n do v[k] = v[k] ^ 2 end
  end
  local t = core.tensor(v, { n }, "emu")
  return (dtype and ops.cast(t, dtype) or t):keep()
end

-- make() gives a fresh state (a list of tensors); step(state, at) applies ops to it. Two steps one by one against
-- one that is recorded and one that runs as a graph.
local function compare(make, step)
  local function played(state, at)
    core.step_begin(1, at)
    step(state, at)
    core.step_end()
  end
  local one, two = make(), make()
  for at = 0, 1 do played(one, at) end
  local list = core.list_begin("emu", false)
  played(two, 0)
  local ok, why = core.list_end()
  T.ok(ok, why)
  T.eq(core.list_ready(list), nil)
  T.ok(core.list_sizes(list).graph, "no graph")
  core.list_run(list, 1, {})
  core.list_free(list)
  for k, t in ipairs(one) do T.eq(core.sha256(two[k]:raw()), core.sha256(t:raw()), "tensor " .. k) end
  return two
end

-- For every size a group of `parts` tensors, then extra ones.
local function state_of(parts, dtype, ...)
  local extra = { ... }
  return function()
    local s = {}
    for k, n in ipairs(SIZES) do
      for j = 1, parts do s[#s + 1] = tensor(n, 10 * k + j, dtype) end
    end
    for _, v in ipairs(extra) do s[#s + 1] = core.tensor({ v }, { 1 }, "emu"):keep() end
    return s
  end
end

local function each(state, parts, fn)
  for k = 0, #SIZES - 1 do
    local args = { table.unpack(state, k * parts + 1, (k + 1) * parts) }
    args[parts + 1] = k
    fn(table.unpack(args))
  end
end

T.test("adam, with a counter and without", function()
  for _, counted in ipairs { false, true } do
    local make = state_of(4, nil, 0)
    compare(make, function(s)
      each(s, 4, function(p, g, m, v, k)
        ops.adam(p, g, m, v, counted and s[#s] or nil, { lr = 0.1 + k, beta1 = 0.5, step = 3, weight_decay = 0.01 })
      end)
      each(s, 4, function(p, g, m, v, k)
        ops.adam { p = p, g = g, m = m, v = v, lr = 0.1, step = 2 + k, decoupled = true, weight_decay = 0.1 }
      end)
    end)
  end
end)

T.test("sgd with momentum, its first step and Nesterov's", function()
  for _, o in ipairs { { step = 1 }, { step = 2 }, { step = 2, nesterov = true } } do
    compare(state_of(3), function(s)
      each(s, 3, function(p, g, b, k)
        ops.sgd { p = p, g = g, b = b, lr = 0.1 * k, momentum = 0.9, step = o.step, nesterov = o.nesterov }
      end)
    end)
  end
end)

T.test("ema, acc and copy_into, also of bf16", function()
  compare(state_of(2), function(s) each(s, 2, function(a, b, k) ops.ema(a, b, 1 / (k + 2)) end) end)
  for _, dtype in ipairs { "f32", "bf16" } do
    compare(state_of(2, dtype), function(s) each(s, 2, function(y, x) ops.acc(y, x) end) end)
    compare(state_of(2, dtype), function(s) each(s, 2, function(y, x) ops.copy_into(y, x) end) end)
  end
end)

T.test("what reads or writes another one's tensor is not merged with it", function()
  compare(state_of(2), function(s)
    local y = s[9]
    for k = 1, 4 do ops.acc(y, ops.affine(y, 0.5, k)) end
    ops.copy_into(s[10], y)
    ops.acc(y, s[10])
    ops.copy_into(s[10], y)
  end)
end)

-- A gradient of n numbers, all 1 but the one at `at`.
local function spoiled(n, at, v)
  local g = {}
  for k = 1, n do g[k] = k == at and v or 1 end
  return core.tensor(g, { n }, "emu"):keep()
end

T.test("gradients that are not finite are counted once for each tensor", function()
  for _, case in ipairs { { 1, 1 }, { 64, 64 }, { 2048, 1 }, { 2049, 2049 }, { 5000, 4099 }, { 5000, 3 } } do
    local n, at = table.unpack(case)
    for _, v in ipairs { NAN, INF, -INF } do
      local g, bad = spoiled(n, at, v), core.tensor({ 5 }, { 1 }, "emu"):keep()
      T.eq(ops.finite(g):item(), 0)
      ops.adam { p = tensor(n, 1), g = g, m = tensor(n, 2), v = tensor(n, 3), bad = bad, lr = 0.1, step = 1 }
      T.eq(bad:item(), 6)
      ops.sgd { p = tensor(n, 1), g = g, bad = bad, lr = 0.1, step = 1 }
      T.eq(bad:item(), 7)
    end
    T.eq(ops.finite(spoiled(n, at, 3e38)):item(), 1)
    T.eq(ops.finite(ops.cast(spoiled(n, at, INF), "bf16")):item(), 0)
  end
end)

T.test("a shared counter counts in a merged launch too", function()
  local bad_ones = { [2] = true, [5] = true, [7] = true }
  local function make()
    local s = {}
    for k, n in ipairs(SIZES) do
      s[#s + 1], s[#s + 2] = tensor(n, k), spoiled(n, n, bad_ones[k] and NAN or 2)
    end
    s[#s + 1] = core.tensor({ 0 }, { 1 }, "emu"):keep()
    return s
  end
  local s = compare(make, function(s)
    each(s, 2, function(p, g) ops.sgd { p = p, g = g, bad = s[#s], lr = 0.5, step = 1 } end)
  end)
  T.eq(s[#s]:item(), 6)
end)

return T.done()
