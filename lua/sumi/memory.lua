-- memory.lua -- what training remembers between steps: the pool of old fakes and the average of a net's weights.
local core = require "sumi.core"
local util = require "sumi.util"
local context = require "sumi.context"
local replay = require "sumi.replay"

local memory = {}

-- ---- image pool ----

local Pool = {}
Pool.__index = Pool
Pool.__name = "sumi.pool"

-- pool(n): a function of a batch of fakes that returns as many, each either itself or, with probability 1/2, an older one that it
-- replaces; the first n are stored and returned (Shrivastava et al. 2017; junyanz's CycleGAN). pool(0) returns its argument.
function memory.pool(n)
  if math.type(n) ~= "integer" or n < 0 then core.fail("pool: wants a number of images, at least 0; got " .. util.show(n)) end
  local self = setmetatable({ size = n, count = 0 }, Pool)
  context.pools[#context.pools + 1] = self
  return self
end

function Pool:reserve(shape, dtype)
  local s = { self.size, table.unpack(shape, 2) }
  self.images = core.full(0, s, nil, dtype):keep()
  return self.images
end

-- How many pictures are stored now; afterwards, with n more. A replayed step asks as often as a played one.
function Pool:advance(n)
  local before = self.count
  self.count = math.min(self.size, before + n)
  return before
end

Pool.__call = core.entry(function(self, x)
  if not core.is_tensor(x) then core.fail("pool: wants a batch of pictures, a tensor; got " .. util.show(x)) end
  x = x:detach()
  if self.size == 0 or context.mode ~= "train" then return x end
  local store, n = self.images or replay.aside(function() return self:reserve(x:shape(), x:dtype()) end), #x
  return core.pool(store, x, (replay.live(function() return self:advance(n) end)))
end)

-- ---- average of weights ----

-- average{G, decay = 0.999}: a net like G whose weights follow w = decay * w + (1 - decay) * G's after every step (EMA).
function memory.average(spec)
  local net = require "sumi.net"
  util.strict(spec, { "decay" }, "average", true)
  local source, decay = spec[1], spec.decay or 0.999
  if not net.is(source) then core.fail("average: wants a net first, average{net, decay = 0.999}; got " .. util.show(source)) end
  if type(decay) ~= "number" or decay < 0 or decay >= 1 then
    core.fail("average: decay lies in [0,1), got " .. util.show(decay))
  end
  local copy = source:twin()
  context.averages[#context.averages + 1] = { source = source, copy = copy, decay = decay }
  return copy
end

-- After a step: every average follows its net; running statistics are copied as they are.
function memory.follow()
  for _, a in ipairs(context.averages) do
    for k, p in ipairs(a.copy.params) do core.ops.ema(p.tensor, a.source.params[k].tensor, a.decay) end
    for k, b in ipairs(a.copy.buffers) do core.ops.copy_into(b.tensor, a.source.buffers[k].tensor) end
  end
end

return memory
