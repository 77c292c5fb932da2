-- loss.lua -- losses as functions of tensors that end in a scalar; the fused kernels are in nn/loss.c.
local core = require "sumi.core"
local util = require "sumi.util"
local ops = core.ops

local loss = {}

-- An op of (x, target) where the target is a tensor or a number.
local function with_target(op, what)
  return function(x, target)
    if not core.is_tensor(x) then core.fail(("%s: wants a tensor first, got %s"):format(what, util.show(x))) end
    if core.is_tensor(target) then return op(x, target) end
    if type(target) ~= "number" then
      core.fail(("%s: the target is a tensor or a number, %s(x, 1); got %s"):format(what, what, util.show(target)))
    end
    return op(x, nil, target)
  end
end

-- bce(logits, target): binary cross entropy of logits, mean. l1, mse: mean absolute and squared difference.
for _, k in ipairs { "bce", "l1", "mse" } do loss[k] = with_target(ops[k], k) end

local function mean(x) return ops.sum(x) * (1 / x:size()) end
loss.mean = mean

local function hinge(x, sign) return mean(ops.lrelu(x * sign + 1, 0)) end   -- mean(max(0, 1 + sign * x))

-- The two players' sides of an adversarial game on logits; d(real, fake) and g(fake) are losses to be made small.
local games = {
  -- non-saturating (Goodfellow et al. 2014)
  bce = { d = function(r, f) return loss.bce(r, 1) + loss.bce(f, 0) end, g = function(f) return loss.bce(f, 1) end },
  -- least squares (Mao et al. 2017), a = 0, b = c = 1
  lsgan = { d = function(r, f) return loss.mse(r, 1) + loss.mse(f, 0) end, g = function(f) return loss.mse(f, 1) end },
  -- hinge (Lim and Ye 2017; Miyato et al. 2018)
  hinge = { d = function(r, f) return hinge(r, -1) + hinge(f, 1) end, g = function(f) return -mean(f) end },
  -- Wasserstein (Arjovsky et al. 2017); wants a penalty of its own, see gradient_penalty
  wgan = { d = function(r, f) return mean(f) - mean(r) end, g = function(f) return -mean(f) end },
}

for _, k in ipairs { "bce", "lsgan", "hinge", "wgan" } do
  games[k].d, games[k].g = core.entry(games[k].d), core.entry(games[k].g)
end

-- adversarial(kind): kind is "bce", "lsgan", "hinge" or "wgan".
function loss.adversarial(kind)
  local names = { "bce", "hinge", "lsgan", "wgan" }
  if games[kind] then return games[kind] end
  core.fail(("adversarial: there is no game %s%s   games: %s"):format(util.show(kind),
    util.meant(tostring(kind), names), table.concat(names, " ")))
end

-- gradient_penalty(D, real, fake): mean((|grad D(x)| - 1)^2) at points between real and fake (Gulrajani et al. 2017, eq. 3).
function loss.gradient_penalty(D, real, fake)
  if not core.is_tensor(real) or not core.is_tensor(fake) then
    core.fail(("gradient_penalty: wants a net and two tensors, gradient_penalty(D, real, fake); got %s and %s"):format(util.show(real),
      util.show(fake)))
  end
  local shape = real:shape()
  local one = { shape[1] }
  for k = 2, #shape do one[k] = 1 end
  local eps = core.rand(one)
  local x = core.watch((real * eps + fake:detach() * (eps * -1 + 1)):detach())
  local g = core.grad(D(x), { x }, nil, true)[1]
  local axes = {}
  for k = 2, #shape do axes[#axes + 1] = k end
  local norm = ops.sqrt(ops.sum(ops.square(g), axes) + 1e-12)
  return mean(ops.square(norm - 1))
end

return loss
