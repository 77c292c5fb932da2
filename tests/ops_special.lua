-- ops_special.lua -- what the cases of ops.lua cannot show: casts, and bf16 beside f32. Returns a function of the test library,
-- a maker of tensors and the device.
local core = require "sumi.core"

local function casts(T, tensor, device)
  local v = { 1, -2.5, 3.140625, 0, 255, 100.75 }
  for _, to in ipairs { "f64", "f32", "bf16", "u8", "i32" } do
    T.test("cast: to " .. to .. " and back", function()
      local a = tensor(v, { 2, 3 }, "ref")
      local b = tensor(v, { 2, 3 }, device)
      T.eq(core.ops.cast(b, to):dtype(), to)
      T.eq(core.ops.cast(b, to):totable(), core.ops.cast(a, to):totable())
    end)
  end
  T.test("cast: bf16 rounds to nearest even", function()
    local x = tensor({ 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, 1 + 2 ^ -8 + 2 ^ -20, -1 - 2 ^ -8 }, { 4 }, device)
    T.eq(core.ops.cast(x, "bf16"):totable(), { 1.0, 1 + 2 ^ -6, 1 + 2 ^ -7, -1.0 })
  end)
end

-- Operands of both kinds, and what bf16 does to weights.
local function bf16(T, tensor, device)
  local ops = core.ops
  local function make(v, dtype) return ops.cast(tensor(v, { #v }, device), dtype) end
  T.test("bf16 and f32 meet in f32", function()
    local y = ops.add(make({ 1, 2 }, "bf16"), make({ 2 ^ -12, 2 ^ -12 }, "f32"))
    T.eq(y:dtype(), "f32")
    T.eq(y:totable(), { 1 + 2 ^ -12, 2 + 2 ^ -12 })
  end)
  T.test("what is written in place is not cast", function()
    local low, full = make({ 1, 2 }, "bf16"), make({ 1, 2 }, "f32")
    local _, err = pcall(ops.acc, low, full)
    local says = 'acc: y is written in place and is bf16; so must the others be (x:to("bf16") converts)'
    T.ok(tostring(err.msg):find(says, 1, true), err.msg)
    _, err = pcall(ops.ema, low, full, 0.5)
    T.ok(tostring(err.msg):find("ema: avg is written in place and is bf16; it must be f32", 1, true), err.msg)
    ops.acc(full, low)
    T.eq(full:totable(), { 2, 4 })
  end)
  T.test("gradients of a cast weight are summed in f32", function()
    core.tape_clear()
    local w = core.watch(make({ 1, 1 }, "f32"))
    local low = ops.cast(w, "bf16")
    local y = ops.sum(ops.mul(low, make({ 256, 1 }, "bf16"))) + ops.sum(ops.mul(low, make({ 1, 1 / 256 }, "bf16")))
    local g = core.grad(y, { w })[1]
    T.eq({ y:dtype(), g:dtype() }, { "f32", "f32" })
    T.eq(g:totable(), { 257, 1 + 1 / 256 })
  end)
end

return function(T, tensor, device)
  casts(T, tensor, device)
  if device ~= "ref" then bf16(T, tensor, device) end
end
