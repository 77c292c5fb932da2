-- Digits from noise by two perceptrons (Goodfellow et al. 2014; layers of PyTorch-GAN's gan.py).
local _ENV = require "sumi"

local c = config { data = "data/mnist", width = 128, z = 100, lr = 2e-4, batch = 64, epochs = 200, steps = 0,
                   presets = { demo = { steps = 6000 } } }

local function fc(n) return seq { linear(n), bn(), lrelu(0.2) } end

local G = net { input = c.z, linear(c.width), lrelu(0.2), fc(2 * c.width), fc(4 * c.width), fc(8 * c.width),
  linear(784), tanh(), reshape(28, 28, 1) }
local D = net { input = {28, 28, 1}, linear(4 * c.width), lrelu(0.2), linear(2 * c.width), lrelu(0.2), linear(1) }

return experiment { "gan_mnist",
  data = mnist { c.data, batch = c.batch },
  forward = function(b) b.fake = G(randn(#b, c.z)) end,
  players = {
    player { "G", G, adam { c.lr, beta1 = 0.5 }, loss = {
      adv  = function(b) return bce(D(b.fake), 1) end } },
    player { "D", D, adam { c.lr, beta1 = 0.5 }, loss = {
      real = {0.5, function(b) return bce(D(b.x), 1) end},
      fake = {0.5, function(b) return bce(D(b.fake), 0) end} } },
  },
  epochs = c.epochs, steps = c.steps > 0 and c.steps or nil,
  metrics = { grid { "fake", every = 1000 } },
}
