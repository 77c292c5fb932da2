-- Colour for line drawings, learned from pairs (Isola et al. 2017).
local _ENV = require "sumi"

local c = config { data = "data/pairs/train", size = 256, width = 64, lr = 2e-4, l1 = 100, batch = 1, epochs = 200, steps = 0,
                   presets = { demo = { size = 64, width = 16, steps = 1500 } } }

-- A U-Net is an onion: each ring halves the image, lets the next ring work on it, and joins what comes back to what it sent in.
local depth = math.floor(math.log(c.size, 2) + 0.5)
local function channels(i) return c.width * math.min(2 ^ (i - 1), 8) // 1 end
local function ring(i, out)
  local outer, inner = i == 1, i == depth
  return seq {
    not outer and lrelu(0.2), conv(channels(i), 4, 2), not (outer or inner) and bn(),
    not inner and skip(ring(i + 1, channels(i))),
    relu(), upconv(out, 4, 2), not outer and bn(), i > depth - 3 and dropout(0.5) }
end
local function down(n, s) return seq { conv(n, 4, s or 2, { pad = 1 }), bn(), lrelu(0.2) } end

local G = net { input = {c.size, c.size, 3}, init = normal(0.02), ring(1, 3), tanh() }
local D = net { input = {c.size, c.size, 6}, init = normal(0.02),
  conv(c.width, 4, 2), lrelu(0.2), down(2 * c.width), down(4 * c.width), down(8 * c.width, 1), conv(1, 4, 1, { pad = 1 }) }

return experiment { "pix2pix",
  data = images { ab = c.data, side = "ba", size = c.size * 286 // 256, crop = c.size, flip = true, batch = c.batch },
  forward = function(x) x.fake = G(x.a) end,
  players = {
    player { "D", D, adam { c.lr, beta1 = 0.5 }, loss = {
      real = {0.5, function(x) return bce(D(x.a .. x.b), 1) end},
      fake = {0.5, function(x) return bce(D(x.a .. x.fake), 0) end} } },
    player { "G", G, adam { c.lr, beta1 = 0.5 }, loss = {
      adv = function(x) return bce(D(x.a .. x.fake), 1) end,
      l1  = {c.l1, function(x) return l1(x.fake, x.b) end} } },
  },
  epochs = c.epochs, steps = c.steps > 0 and c.steps or nil,
  metrics = { grid { "a", "fake", "b", every = 250, n = 6, columns = 2 } },
}
