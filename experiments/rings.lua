-- Eight Gaussians on a ring: the smallest GAN that can fail (mode collapse; Metz et al. 2017).
local _ENV = require "sumi"

local c = config { modes = 8, steps = 8000, batch = 256, width = 64, gan = "bce", lr = 2e-4, z = 2 }

local function mlp(inputs, outputs)
  return net { input = inputs, linear(c.width), lrelu(0.2), linear(c.width), lrelu(0.2), linear(outputs) }
end
local G, D = mlp(c.z, 2), mlp(2, 1)
local gan, opt = adversarial(c.gan), adam { c.lr, beta1 = 0.5 }

return experiment { "rings",
  data = ring { modes = c.modes, batch = c.batch },
  forward = function(b) b.fake = G(randn(#b, c.z)) end,
  players = {
    player { "D", D, opt, loss = { adv = function(b) return gan.d(D(b.x), D(b.fake)) end } },
    player { "G", G, opt, loss = { adv = function(b) return gan.g(D(b.fake)) end } },
  },
  steps = c.steps,
  metrics = { modes { "fake", every = 1000 } },
}
