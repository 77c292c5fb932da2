-- ops.lua -- the op harness: every op x case, from the op table alone.  sumi lua tests/ops.lua
-- [--op NAME] [--device D] [--part K/N] [--values] [--seed N] [-v]     (--seed: other numbers)
--
-- An op's cases are strings: "x=2,5,5,3 w=4,3,3,3 stride=2". A tensor is its shape and, behind an
-- @, what is in it: pos (0.5 to 1.5), 01 (0 to 1), intN (whole numbers below N, i32), u8 (bytes); without it
-- signed numbers between 0.05 and 2 in size. A shape of () is a scalar. All other words are options
-- by name. For each case:
--   value     on the device against `ref`, written tensors too; inputs that are not written stay as they are
--   gradient  of <c, y> for a random signed c: on ref against central differences, on the device against ref
--   second    the gradient of <gradient, v> in x and in c, likewise
--   repeat    the same bits again, and no tensor left alive
-- and for each op: its gradient times -1, 0 and 1.01 must make the gradient check fail (mutation).
--
-- On devices other than ref the same in bf16, as far as the first gradient: the activations are rounded to bf16
-- first, so that both compute from the same numbers, and the results in bf16 may be off by 2^-8 of the largest.
--
-- Tolerances of float32 come from the case itself: how far the reference moves when its inputs move
-- by half a unit in their last place (the farthest of three times), times 32, plus 8 such units of
-- the largest result.
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local special = dofile(T.dir .. "/ops_special.lua")
local cases = dofile(T.dir .. "/ops_case.lua")
local parse_case, lowered, fill, makers, bf16 = cases.parse, cases.lowered, cases.fill, cases.makers, cases.bf16

local EPS32 <const> = 2.0 ^ -24
local EPS16 <const> = 2.0 ^ -9         -- half a unit in the last place of bf16
local STEP <const> = 1e-6              -- of the central differences

-- Ops that the cases cannot show. Each is tested where the reason says.
local caseless = { cast = "what comes out is another dtype: see ops_special.lua" }
-- Ops whose gradient is zero wherever it exists, so that no factor shows.
local flat = { sign = true, ge = true, finite = true }

-- ---- running ----

local function packed(v)
  local parts = {}
  for k = 1, #v, 128 do
    local last = math.min(k + 127, #v)
    parts[#parts + 1] = string.pack(("d"):rep(last - k + 1), table.unpack(v, k, last))
  end
  return table.concat(parts)
end

local function tensor(v, shape, device, dtype) return core.tensor(packed(v), shape, device, dtype) end

local function upload_one(t, device, v)
  return tensor(v or t.v, t.shape, device, t.dtype or (t.low and device ~= "ref" and "bf16" or nil))
end

-- The tensors of a case on a device, in order; moved[k] replaces the numbers of the k-th.
local function upload(c, device, moved)
  local list = {}
  for k, t in ipairs(c.tensors) do list[k] = upload_one(t, device, moved and moved[k]) end
  return list
end

local function apply(c, list)
  local args = {}
  for name, value in pairs(c.options) do args[name] = value end
  for k, t in ipairs(c.tensors) do args[t.name] = list[k] end
  return { core.ops[c.op.name](args) }
end

-- What the op computes: its outputs, then the tensors it wrote.
local function results(c, device, moved)
  local list = upload(c, device, moved)
  local out = apply(c, list)
  for k, t in ipairs(c.tensors) do
    if t.written then out[#out + 1] = list[k] end
  end
  return out, list
end

local function direction(n, u, low)
  local d = fill(n, makers.signed, u)
  for k = 1, low and n or 0 do d[k] = bf16(d[k]) end
  return d
end

-- v + h*d for each k where d[k] is given
local function moved_by(c, d, h)
  local m = {}
  for k, t in ipairs(c.tensors) do
    if d[k] then
      local v = {}
      for j, x in ipairs(t.v) do v[j] = x + h * d[k][j] end
      m[k] = v
    end
  end
  return m
end

-- Numbers moved by half a unit in the last place of a float32 (or by eps), up or down at random; and all inputs
-- of a case.
local function shaken(c, v, eps)
  local m = {}
  eps = eps or EPS32
  for j, x in ipairs(v) do m[j] = x * (1 + (c.u() < 0.5 and -eps or eps)) end
  return m
end

local function jitter(c, eps)
  local m = {}
  for k, t in ipairs(c.tensors) do m[k] = not t.dtype and shaken(c, t.v, eps) or nil end
  return m
end

local function largest(v)
  local m = 0.0
  for _, x in ipairs(v) do
    x = math.abs(x)
    if not (x <= m) then m = x end     -- a NaN stays
  end
  return m
end

local function farthest(a, b)
  local m = 0.0
  for k, x in ipairs(a) do
    local d = x == b[k] and 0.0 or math.abs(x - b[k])
    if not (d <= m) then m = d end
  end
  return m
end

local function dot(a, b)
  local s, size = 0.0, 0.0
  for k, x in ipairs(a) do
    s = s + x * b[k]
    size = size + (x * b[k]) ^ 2
  end
  return s, math.sqrt(size)
end

-- Lists of tensors as lists of numbers.
local function numbers(list)
  local n = {}
  for k, t in ipairs(list) do n[k] = t:totable() end
  return n
end

-- How far the lists of numbers that fn() gives for moved inputs are from `want`: the farthest of
-- three, for each list.
local function sensitivity(fn, want)
  local far = {}
  for k in ipairs(want) do far[k] = 0.0 end
  for _ = 1, 3 do
    for k, v in ipairs(fn()) do far[k] = math.max(far[k], farthest(v, want[k])) end
  end
  return far
end

-- got and wanted: lists of lists of numbers; moved(): the wanted ones of moved inputs; share[k]: of the largest
-- number by which list k may be off besides -> nil or what is wrong
local function compare32(got, want, moved, what, share)
  local far = sensitivity(moved, want)
  if #got ~= #want then return ("%d results, ref has %d"):format(#got, #want) end
  for k, w in ipairs(want) do
    if #got[k] ~= #w then return ("%s %d has %d numbers, ref has %d"):format(what, k, #got[k], #w) end
    local tolerance = 32 * far[k] + (8 * EPS32 + (share and share[k] or 0)) * largest(w)
    local worst = farthest(got[k], w)
    if not (worst <= tolerance) then
      return ("%s %d is off by %.3g, at most %.3g (largest %.3g)"):format(what, k, worst, tolerance, largest(w))
    end
  end
end

-- ---- the checks: each returns nil or what is wrong ----

local function intact(c, list, device)
  for k, t in ipairs(c.tensors) do
    local fresh = t.written or upload_one(t, device)
    if not t.written and fresh:raw() ~= list[k]:raw() then
      return ("its input %s was changed"):format(t.name)
    end
  end
end

-- Of a bf16 weight cuDNN makes the gradient in bf16, and Sumi widens it. SUMI_TEST_CUDNN: so does the device (tests/test_cudnn.sh).
local function widened(c, device)
  return c.op.name == "conv_gw" and (device:find "^cuda" or os.getenv "SUMI_TEST_CUDNN")
end

local function check_value(c, device)
  local want, at_ref = results(c, "ref")
  local wrong = intact(c, at_ref, "ref")
  local values = numbers(want)
  for k, v in ipairs(values) do
    local m = largest(v)
    if not (m < math.huge) then return ("ref: result %d holds %s"):format(k, m) end
  end
  if wrong or device == "ref" then return wrong end
  local got, at_device = results(c, device)
  local share = {}                     -- what rounding a result to bf16 costs
  for k, t in ipairs(want) do
    local a, b = table.concat(t:shape(), ","), table.concat(got[k]:shape(), ",")
    if a ~= b then return ("result %d has the shape [%s], on ref [%s]"):format(k, b, a) end
    share[k] = (got[k]:dtype() == "bf16" or c.low and widened(c, device)) and 2 ^ -8 or c.low and 2 ^ -20 or 0
    if got[k]:dtype() == "bf16" and not c.low then return ("result %d is bf16, the inputs are not"):format(k) end
  end
  return intact(c, at_device, device)
    or compare32(numbers(got), values, function()
      return numbers(results(c, "ref", jitter(c)))
    end, "result", share)
end

-- Which tensors can be differentiated: indices into c.tensors.
local function variables(c)
  local list = {}
  for k, t in ipairs(c.tensors) do
    if not t.dtype then list[#list + 1] = k end
  end
  return list
end

-- The recorded op: outputs, and watched tensors in the order of `vars`.
local function record(c, device, vars, moved)
  core.tape_clear()
  local list, xs = upload(c, device, moved), {}
  for j, k in ipairs(vars) do
    list[k] = core.watch(list[k])
    xs[j] = list[k]
  end
  return apply(c, list), xs
end

-- Gradients of <cot, output o> as numbers.
local function first(c, device, vars, o, cot, moved)
  local out, xs = record(c, device, vars, moved)
  local gy = tensor(cot, out[o]:shape(), device)
  return numbers(core.grad(out[o], xs, gy))
end

-- Gradients of sum over k of <vs[k], gradient k> in the variables and (last) in the cotangent.
local function second(c, device, vars, o, cot, vs, moved)
  local out, xs = record(c, device, vars, moved)
  local gy = core.watch(tensor(cot, out[o]:shape(), device))
  local gs = core.grad(out[o], xs, gy, true)
  xs[#xs + 1] = gy
  local sums
  for k, g in ipairs(gs) do
    local parts = numbers(core.grad(g, xs, tensor(vs[k], g:shape(), device)))
    if not sums then sums = parts end
    for j = 1, sums ~= parts and #parts or 0 do
      for i, v in ipairs(parts[j]) do sums[j][i] = sums[j][i] + v end
    end
  end
  return sums
end

local function difference(f, text, g, d)
  local up, down = f(STEP), f(-STEP)
  local slope = (up - down) / (2 * STEP)
  local got, size = dot(g, d)
  local noise = 1e-8 * math.max(math.abs(up), 1)
  local tolerance = 2e-5 * size + noise
  if math.abs(got - slope) <= tolerance then return end
  local say = "%s is %.9g along a random direction, central difference %.9g (tolerance %.2g)"
  return say:format(text, got, slope, tolerance)
end

local function check_first_ref(c, vars, o, cot)
  local g = first(c, "ref", vars, o, cot)
  for j, k in ipairs(vars) do
    local t = c.tensors[k]
    for _ = 1, #t.v < 500 and 2 or 1 do
      local d = direction(#t.v, c.u)
      local wrong = difference(function(h)
        return (dot(apply(c, upload(c, "ref", moved_by(c, { [k] = d }, h)))[o]:totable(), cot))
      end, ("output %d: the gradient of %s"):format(o, t.name), g[j], d)
      if wrong then return wrong end
    end
  end
end

local function check_second_ref(c, vars, o, cot, vs)
  local g = second(c, "ref", vars, o, cot, vs)
  local function contracted(moved, gy)
    local sum = 0
    for k, gx in ipairs(first(c, "ref", vars, o, gy, moved)) do sum = sum + (dot(gx, vs[k])) end
    return sum
  end
  for j = 1, #vars + 1 do
    local k = vars[j]
    local t = k and c.tensors[k] or { name = "the cotangent", v = cot }
    local d = direction(#t.v, c.u)
    local wrong = difference(function(h)
      if k then return contracted(moved_by(c, { [k] = d }, h), cot) end
      local gy = {}
      for i, v in ipairs(cot) do gy[i] = v + h * d[i] end
      return contracted(nil, gy)
    end, ("output %d: the second gradient in %s"):format(o, t.name), g[j], d)
    if wrong then return wrong end
  end
end

-- fn(output, cotangent, vars) for each output; the first complaint is returned
local function each_output(c, fn)
  local vars = variables(c)
  for o, y in ipairs(apply(c, upload(c, "ref"))) do
    local wrong = fn(o, direction(y:size(), c.u), vars)
    if wrong then return wrong end
  end
end

-- All outputs in one loss: the sum of what each gives alone.
local function check_joined(c)
  local vars, sums = variables(c), nil
  local out, xs = record(c, "ref", vars)
  if #out < 2 then return end
  local total, cots = nil, {}
  for o, y in ipairs(out) do
    cots[o] = direction(y:size(), c.u)
    local term = core.ops.sum(core.ops.mul(y, tensor(cots[o], y:shape(), "ref")))
    total = total and total + term or term
  end
  local joined = numbers(core.grad(total, xs))
  for o = 1, #cots do
    local parts = first(c, "ref", vars, o, cots[o])
    sums = sums or {}
    for j, p in ipairs(parts) do
      sums[j] = sums[j] or fill(#p, function() return 0.0 end)
      for i, v in ipairs(p) do sums[j][i] = sums[j][i] + v end
    end
  end
  for j, k in ipairs(vars) do
    if not (farthest(sums[j], joined[j]) <= 1e-10 * (1 + largest(sums[j]))) then
      return ("all outputs at once: the gradient of %s is not the sum of theirs"):format(c.tensors[k].name)
    end
  end
end

local function check_first(c, device)
  return each_output(c, function(o, cot, vars)
    local wrong = check_first_ref(c, vars, o, cot)
    if wrong or device == "ref" then return wrong end
    return compare32(first(c, device, vars, o, cot), first(c, "ref", vars, o, cot), function()
      return first(c, "ref", vars, o, shaken(c, cot), jitter(c))
    end, "gradient")
  end) or check_joined(c)
end

-- In bf16 a gradient is made of several roundings: what they cost is seen by moving the inputs by as much.
local function check_first_bf16(c, device)
  local vars = variables(c)
  for o, y in ipairs(apply(c, upload(c, "ref"))) do
    local cot = direction(y:size(), c.u, true)
    local want, got = first(c, "ref", vars, o, cot), first(c, device, vars, o, cot)
    local far = sensitivity(function() return first(c, "ref", vars, o, shaken(c, cot, EPS16), jitter(c, EPS16)) end, want)
    for k, w in ipairs(want) do
      local tolerance, worst = 4 * far[k] + 2 ^ -7 * largest(w), farthest(got[k], w)
      if not (worst <= tolerance) then
        return ("output %d: the gradient of %s is off by %.3g, at most %.3g (largest %.3g)"):format(o, c.tensors[vars[k]].name,
          worst, tolerance, largest(w))
      end
    end
    local out, xs = record(c, device, vars)
    for k, g in ipairs(core.grad(out[o], xs)) do
      if g:dtype() ~= xs[k]:dtype() then
        return ("the gradient of %s is %s, it is %s"):format(c.tensors[vars[k]].name, g:dtype(), xs[k]:dtype())
      end
    end
  end
end

local function check_second(c, device)
  return each_output(c, function(o, cot, vars)
    local vs = {}
    for j, k in ipairs(vars) do vs[j] = direction(#c.tensors[k].v, c.u) end
    local wrong = check_second_ref(c, vars, o, cot, vs)
    if wrong or device == "ref" then return wrong end
    return compare32(second(c, device, vars, o, cot, vs), second(c, "ref", vars, o, cot, vs), function()
      local ws = {}
      for j, v in ipairs(vs) do ws[j] = shaken(c, v) end
      return second(c, "ref", vars, o, shaken(c, cot), ws, jitter(c))
    end, "second gradient")
  end)
end

-- Inside a step, twice: the same bits.
local function bits(c, device)
  core.step_begin(1, 1)
  local raw = {}
  for _, t in ipairs((results(c, device))) do raw[#raw + 1] = t:raw() end
  if c.op.differentiable then
    local vars = variables(c)
    local out, xs = record(c, device, vars)
    local gy = core.full(1.5, out[1]:shape(), device)
    for _, g in ipairs(core.grad(out[1], xs, gy)) do raw[#raw + 1] = g:raw() end
  end
  core.step_end()
  return raw
end

local function check_repeat(c, device)
  local a, b = bits(c, device), bits(c, device)
  for k = 1, #a do
    if a[k] ~= b[k] then return ("result %d differs when computed again"):format(k) end
  end
end

-- ---- one op ----

local function alive()
  core.tape_clear()
  collectgarbage()
  collectgarbage()
  return core.memory("ref").tensors
end

local function run_check(name, fn, c, device)
  local before = alive()
  local ok, wrong = pcall(fn, c, device)
  if not ok then wrong = tostring(wrong) end
  local after = alive()
  if not wrong and after ~= before then wrong = ("%d tensors left alive"):format(after - before) end
  return T.check(name, not wrong, wrong)
end

-- Does a gradient wrong by this factor go unnoticed?
local function unnoticed(op, cases, factor)
  core.mutate(op.name, factor)
  local noticed = false
  for _, c in ipairs(cases) do
    local ok, wrong = pcall(each_output, c, function(o, cot, vars) return check_first_ref(c, vars, o, cot) end)
    noticed = noticed or (ok and wrong ~= nil)
    if noticed then break end
  end
  core.mutate(op.name, 1)
  alive()
  return not noticed
end

local function test_mutations(op, cases)
  if flat[op.name] then return end
  for _, factor in ipairs { -1, 0, 1.01 } do
    T.check(("%s: mutation %g"):format(op.name, factor), not unnoticed(op, cases, factor),
            "a gradient that is wrong by this factor passes every case")
  end
end

local values_only = false               -- --values: no gradients

local function test_op(op, device)
  if caseless[op.name] then return end
  local has = T.check(op.name .. ": cases", #op.cases > 0, "an op without a case; add .cases to its entry")
  if not has or not T.check(op.name .. ": kernel", op.cpu or device ~= "cpu", "no cpu kernel") then return end
  local cases, gradients = {}, op.differentiable and not values_only
  for _, text in ipairs(op.cases) do
    local ok, c = pcall(parse_case, op, text)
    local name = ("%s: %s: "):format(op.name, text)
    if not ok then
      T.check(name .. "case", false, c)
    else
      cases[#cases + 1] = c
      run_check(name .. "value", check_value, c, device)
      run_check(name .. "repeat", check_repeat, c, device)
      if gradients then
        run_check(name .. "gradient", check_first, c, device)
        run_check(name .. "second", check_second, c, device)
      end
      local low = device ~= "ref" and lowered(c)
      if low then
        run_check(name .. "bf16 value", check_value, low, device)
        run_check(name .. "bf16 repeat", check_repeat, low, device)
        if gradients then run_check(name .. "bf16 gradient", check_first_bf16, low, device) end
      end
    end
  end
  if gradients then test_mutations(op, cases) end
end

local function main()
  local only, device, part, parts = nil, "cpu", 1, 1
  for k, a in ipairs(arg) do
    if a == "--op" then only = arg[k + 1] end
    if a == "--values" then values_only = true end
    if a == "--seed" then cases.set_seed(math.tointeger(tonumber(arg[k + 1]))) end
    if a == "--device" then device = arg[k + 1] end
    if a == "--part" then
      part, parts = arg[k + 1]:match "^(%d+)/(%d+)$"   -- every N-th op, from the K-th
      part, parts = math.tointeger(tonumber(part)), math.tointeger(tonumber(parts))
    end
  end
  local found = false
  for k, op in ipairs(core.op_table()) do
    if op.name == only or not only and (k - part) % parts == 0 then
      found = true
      local start = os.clock()
      test_op(op, device)
      if T.verbose then print(("        %s took %.2f s"):format(op.name, os.clock() - start)) end
    end
  end
  if not only and part == 1 or only == "cast" then
    special(T, tensor, device)
  end
  if not found then T.check("--op " .. tostring(only), false, "there is no such op") end
  return T.done()
end

return main()
