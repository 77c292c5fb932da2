-- cases.lua -- the training steps that `sumi bench` times: games on made-up data, the same networks, losses and
-- order as in peer.py. Each case takes the batch (nil: its own) and returns its game and the floating point operations of
-- one step, counted as the definition of the layers has them.
local _ENV = require "sumi"

local cases = {}

-- Data that never change and cost nothing: fixed noise in [-1,1].
local function constant(batch, fields)
  return { batch = batch, get = function(self)
    if not self.held then
      self.held = {}
      for name, shape in pairs(fields) do self.held[name] = rand(shape, -1, 1):keep() end
    end
    return self.held
  end }
end

local function game(name, data, forward, players)
  return experiment { name, data = data, forward = forward, players = players, steps = 1000000 }:game()
end

local opt = adam { 2e-4, beta1 = 0.5 }

-- ---- MLP GAN, 784 numbers, batch 64 ----

function cases.mlpgan(batch)
  local n = batch or 64
  local G = net { input = 100, linear(256), lrelu(0.2), linear(512), lrelu(0.2), linear(1024), lrelu(0.2),
    linear(784), tanh() }
  local D = net { input = 784, linear(512), lrelu(0.2), linear(256), lrelu(0.2), linear(1) }
  local gan = adversarial "bce"
  local data = constant(n, { x = { n, 784 } })
  local g = game("mlpgan", data, function(x) x.fake = G(randn({ n, 100 })) end, {
    player { "D", D, opt, loss = { adv = function(x) return gan.d(D(x.x), D(x.fake)) end } },
    player { "G", G, opt, loss = { adv = function(x) return gan.g(D(x.fake)) end } } })
  return g, 2 * n * (3 * G.macs + 8 * D.macs)
end

-- ---- DCGAN, 64 px, batch 64 ----

function cases.dcgan64(batch)
  local n = batch or 64
  local function up(c, k, s, p) return seq { upconv(c, k, s, { pad = p }), bn(), relu() } end
  local function down(c) return seq { conv(c, 4, 2, { pad = 1 }), bn(), lrelu(0.2) } end
  local G = net { input = { 1, 1, 100 }, init = normal(0.02), up(512, 4, 1, 0), up(256, 4, 2, 1),
    up(128, 4, 2, 1), up(64, 4, 2, 1), upconv(3, 4, 2, { pad = 1, bias = false }), tanh() }
  local D = net { input = { 64, 64, 3 }, init = normal(0.02), conv(64, 4, 2, { pad = 1, bias = false }),
    lrelu(0.2), down(128), down(256), down(512), conv(1, 4, 1, { pad = 0, bias = false }) }
  local gan = adversarial "bce"
  local data = constant(n, { x = { n, 64, 64, 3 } })
  local g = game("dcgan64", data, function(x) x.fake = G(randn({ n, 1, 1, 100 })) end, {
    player { "D", D, opt, loss = { adv = function(x) return gan.d(D(x.x), D(x.fake)) end } },
    player { "G", G, opt, loss = { adv = function(x) return gan.g(D(x.fake)) end } } })
  return g, 2 * n * (3 * G.macs + 8 * D.macs)
end

-- ---- pix2pix, U-Net 256, batch 1 ----

local function patch_critic(size, channels, width, norm)
  local function down(c, s) return seq { conv(c, 4, s, { pad = 1 }), norm(), lrelu(0.2) } end
  return net { input = { size, size, channels }, init = normal(0.02), conv(width, 4, 2, { pad = 1 }), lrelu(0.2),
    down(2 * width, 2), down(4 * width, 2), down(8 * width, 1), conv(1, 4, 1, { pad = 1 }) }
end

local function unet(size, width)
  local function level(inner, outer, within, drop)
    local list = { lrelu(0.2), conv(inner, 4, 2, { pad = 1 }), within and bn(), within or false, relu(),
      upconv(outer, 4, 2), bn(), drop and dropout(0.5) }
    return skip(seq(list))
  end
  local body = level(8 * width, 8 * width)
  for _ = 1, 3 do body = level(8 * width, 8 * width, body, true) end
  body = level(8 * width, 4 * width, body)
  body = level(4 * width, 2 * width, body)
  body = level(2 * width, width, body)
  return net { input = { size, size, 3 }, init = normal(0.02), conv(width, 4, 2, { pad = 1 }), body, relu(),
    upconv(3, 4, 2), tanh() }
end

function cases.pix2pix256(batch)
  local n = batch or 1
  local G, D = unet(256, 64), patch_critic(256, 6, 64, bn)
  local gan = adversarial "bce"
  local function judge(a, b) return D(concat(a, b, 4)) end
  local data = constant(n, { a = { n, 256, 256, 3 }, b = { n, 256, 256, 3 } })
  local g = game("pix2pix256", data, function(x) x.fake = G(x.a) end, {
    player { "D", D, opt, loss = {
      adv = { 0.5, function(x) return gan.d(judge(x.a, x.b), judge(x.a, x.fake)) end } } },
    player { "G", G, opt, loss = { adv = function(x) return gan.g(judge(x.a, x.fake)) end,
      l1 = { 100, function(x) return l1(x.fake, x.b) end } } } })
  return g, 2 * n * (3 * G.macs + 8 * D.macs)
end

-- ---- CycleGAN, ResNet-9, 128 px (256 px on GPUs), batch 1 ----

local function resnet(size, width, blocks)
  local mirror = { edge = "reflect" }
  local function act(l) return seq { l, inorm(), relu() } end
  local function block()
    return residual { act(conv(4 * width, 3, 1, mirror)), conv(4 * width, 3, 1, mirror), inorm() }
  end
  return net { input = { size, size, 3 }, init = normal(0.02), act(conv(width, 7, 1, mirror)),
    act(conv(2 * width, 3, 2)), act(conv(4 * width, 3, 2)), times(blocks, block), act(upconv(2 * width, 3, 2)),
    act(upconv(width, 3, 2)), conv(3, 7, 1, mirror), tanh() }
end

local function cyclegan(size, n)
  local AB, BA = resnet(size, 64, 9), resnet(size, 64, 9)
  local DA, DB = patch_critic(size, 3, 64, inorm), patch_critic(size, 3, 64, inorm)
  local gan = adversarial "lsgan"
  local data = constant(n, { a = { n, size, size, 3 }, b = { n, size, size, 3 } })
  local g = game("cyclegan" .. size, data, function(x) x.ab, x.ba = AB(x.a), BA(x.b) end, {
    player { "G", { AB, BA }, opt, loss = {
      adv = function(x) return gan.g(DB(x.ab)) + gan.g(DA(x.ba)) end,
      cycle = { 10, function(x) return l1(BA(x.ab), x.a) + l1(AB(x.ba), x.b) end },
      identity = { 5, function(x) return l1(AB(x.b), x.b) + l1(BA(x.a), x.a) end } } },
    player { "D", { DA, DB }, opt, loss = {
      adv = { 0.5, function(x) return gan.d(DA(x.a), DA(x.ba)) + gan.d(DB(x.b), DB(x.ab)) end } } } })
  return g, 2 * n * (6 * 3 * AB.macs + (2 * 2 + 4 * 3) * DA.macs)
end

function cases.cyclegan128(batch) return cyclegan(128, batch or 1) end
function cases.cyclegan256(batch) return cyclegan(256, batch or 1) end

return cases
