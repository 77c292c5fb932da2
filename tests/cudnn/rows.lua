-- rows.lua [DEVICE] -- conv, linear and matmul of rows of a larger tensor, which do not lie on 16 bytes as the
-- libraries' plans want their operands: our own kernels serve then, with the numbers of ref.
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/../lib.lua")
local device = ... or "emu"

-- Numbers between -0.9 and 0.9; from row `first` on, if given.
local function made(shape, where, first)
  local n, v = 1, {}
  for _, d in ipairs(shape) do n = n * d end
  for k = 1, n do v[k] = (k * 37 % 19 - 9) / 10 end
  local t = core.tensor(string.pack(("d"):rep(n), table.unpack(v)), shape, where)
  return first and t:rows(first, shape[1] - first + 1) or t
end

local calls = {
  linear = function(at) return core.ops.linear { x = made({ 7, 3 }, at, 2), w = made({ 5, 3 }, at), b = made({ 5 }, at) } end,
  matmul = function(at) return core.ops.matmul { a = made({ 6, 3 }, at), b = made({ 4, 5 }, at, 2) } end,
  conv = function(at) return core.ops.conv { x = made({ 3, 3, 3, 1 }, at, 2), w = made({ 2, 3, 3, 1 }, at), pad = 1 } end,
}
for _, name in ipairs { "linear", "matmul", "conv" } do
  T.test(name .. " of rows", function()
    local want, got = calls[name] "ref":totable(), calls[name](device):totable()
    for k, v in ipairs(want) do T.ok(math.abs(got[k] - v) < 1e-5, ("number %d is %g, ref has %g"):format(k, got[k], v)) end
  end)
end
return T.done()
