-- optim.lua -- optimisers: what a player's script says (adam{...}, sgd{...}) and the state that belongs to each parameter.
local core = require "sumi.core"
local util = require "sumi.util"
local schedule = require "sumi.schedule"
local replay = require "sumi.replay"
local ops = core.ops

local optim = {}
local Spec = {}
Spec.__index = Spec
Spec.__name = "sumi.optimiser"

function optim.is(v) return getmetatable(v) == Spec end

local unit = { type = "number", min = 0, max = 1 }
local positive = { type = "number", min = 0 }
local options = {
  adam = { "any", lr = "any", beta1 = unit, beta2 = unit, eps = positive, weight_decay = positive, eps_hat = "boolean" },
  sgd = { "any", lr = "any", momentum = positive, nesterov = "boolean", weight_decay = positive } }

local function spec(kind, t)
  t = util.options(t, options[kind], kind)
  local lr = t[1] == nil and t.lr or t[1]
  t.lr = schedule.check(lr == nil and optim.rates[kind] or lr, kind .. ": the learning rate")
  t.kind = kind
  return setmetatable(t, Spec)
end
optim.rates = { adam = 1e-3, sgd = 1e-2 }

-- adam{lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, eps_hat = false}: Kingma and Ba 2015. eps is added behind the bias
-- correction as in PyTorch; eps_hat = true adds it before, as Torch7 and TensorFlow do.
function optim.adam(t) return spec("adam", t) end

-- sgd{lr, momentum = 0, nesterov = false, weight_decay = 0}
function optim.sgd(t) return spec("sgd", t) end

local slots = { adam = { "m", "v" }, sgd = { "momentum" } }

-- The state of `spec` for a list of {key=, tensor=}: step counts and moments, which a checkpoint holds.
function optim.new(s, params)
  local self = { spec = s, params = params, t = {}, ticks = {}, slots = slots[s.kind], state = {} }
  for k, p in ipairs(params) do
    self.t[k] = 0
    self.ticks[k] = function()
      self.t[k] = self.t[k] + 1
      return self.t[k]
    end
    self.state[k] = {}
    for _, slot in ipairs(self.slots) do
      if slot ~= "momentum" or (s.momentum or 0) ~= 0 then
        self.state[k][slot] = core.full(0, p.tensor:shape()):keep()
      end
    end
  end
  return setmetatable(self, { __index = optim })
end

local function adam_step(s, lr, p, g, st, t)
  ops.adam(p, g, st.m, st.v, nil, lr, s.beta1 or 0.9, s.beta2 or 0.999, s.eps or 1e-8, s.weight_decay or 0, t, s.eps_hat)
end

local function sgd_step(s, lr, p, g, st, t)
  ops.sgd(p, g, st.momentum, nil, lr, s.momentum or 0, 0, s.weight_decay or 0, t, s.nesterov)
end

local steps = { adam = adam_step, sgd = sgd_step }

-- One update. grads[k] is false where no gradient arrived: that parameter and its moments stay as they are.
function optim:update(lr, grads)
  local step = steps[self.spec.kind]
  for k, p in ipairs(self.params) do
    local g = grads[k]
    if g then
      step(self.spec, lr, p.tensor, g, self.state[k], (replay.live(self.ticks[k])))
      core.drop(g)
    end
  end
end

-- Everything a checkpoint must hold: ordered {name, tensor}.
function optim:tensors(prefix)
  local out = {}
  for k, p in ipairs(self.params) do
    for _, slot in ipairs(self.slots) do
      local t = self.state[k][slot]
      if t then out[#out + 1] = { prefix .. "/" .. slot .. "/" .. p.key, t } end
    end
  end
  return out
end

return optim
