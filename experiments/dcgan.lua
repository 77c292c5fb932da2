-- Pictures from noise by strided convolutions (Radford, Metz and Chintala 2015; layers of dcgan.torch).
local _ENV = require "sumi"

local c = config { data = "data/comics/train", size = 64, width = 64, z = 100, lr = 2e-4, batch = 64, epochs = 25, steps = 0,
                   presets = { demo = { size = 32, width = 32, batch = 32, steps = 1200 } } }

-- From 4x4 pixels up to size and back: each stage doubles the pixels and halves the channels.
local stages = math.floor(math.log(c.size // 4, 2) + 0.5)
local plain = { bias = false }
local function up(i)   return seq { upconv(c.width * 2 ^ (stages - 1 - i) // 1, 4, 2, plain), bn(), relu() } end
local function down(i) return seq { conv(c.width * 2 ^ i // 1, 4, 2, plain), bn(), lrelu(0.2) } end

local G = net { input = {1, 1, c.z}, init = normal(0.02),
  upconv(c.width * 2 ^ (stages - 1) // 1, 4, 1, { pad = 0, bias = false }), bn(), relu(),
  times(stages - 1, up), upconv(3, 4, 2, plain), tanh() }
local D = net { input = {c.size, c.size, 3}, init = normal(0.02),
  conv(c.width, 4, 2, plain), lrelu(0.2), times(stages - 1, down), conv(1, 4, 1, { pad = 0, bias = false }) }

return experiment { "dcgan",
  data = images { c.data, size = c.size * 3 // 2, crop = c.size, flip = true, batch = c.batch },
  forward = function(b) b.fake = G(randn(#b, 1, 1, c.z)) end,
  players = {
    player { "D", D, adam { c.lr, beta1 = 0.5 }, loss = {
      real = function(b) return bce(D(b.x), 1) end,
      fake = function(b) return bce(D(b.fake), 0) end } },
    player { "G", G, adam { c.lr, beta1 = 0.5 }, loss = {
      adv  = function(b) return bce(D(b.fake), 1) end } },
  },
  epochs = c.epochs, steps = c.steps > 0 and c.steps or nil,
  metrics = { grid { "fake", every = 200 } },
}
