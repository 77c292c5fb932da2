-- Photographs to comics and back, without pairs (Zhu et al. 2017), and what each term buys.
local _ENV = require "sumi"

local mirror = { edge = "reflect" }
local function act(l) return seq { l, inorm(), relu() } end

local function generator(c)
  local w = c.width
  local function block() return residual { act(conv(4 * w, 3, 1, mirror)), conv(4 * w, 3, 1, mirror), inorm() } end
  return net { input = {c.size, c.size, 3}, init = normal(0.02),
    act(conv(w, 7, 1, mirror)), act(conv(2 * w, 3, 2)), act(conv(4 * w, 3, 2)), times(c.blocks, block),
    act(upconv(2 * w, c.up, 2)), act(upconv(w, c.up, 2)), conv(3, 7, 1, mirror), tanh() }
end

-- A PatchGAN of c.layers strided stages: 3 see 70 pixels, 2 see 34, 1 sees 16.
local function critic(c)
  local w = c.critic
  local function down(n, s) return seq { conv(n, 4, s, { pad = 1 }), inorm(), lrelu(0.2) } end
  return net { input = {c.size, c.size, 3}, init = normal(0.02), conv(w, 4, 2), lrelu(0.2),
    times(c.layers, function(i) return down(w * math.min(2 ^ i, 8) // 1, i < c.layers and 2 or 1) end),
    conv(1, 4, 1, { pad = 1 }) }
end

return experiment { "cyclegan",
  config = { photos = "data/photos/train", comics = "data/comics/train", style = "*", size = 256, width = 64, blocks = 9,
             up = 3, critic = 64, layers = 3, cycle = 10, identity = 5, pool = 50, gan = "lsgan", lr = 2e-4, batch = 1,
             epochs = 200, steps = 0 },
  presets = { demo = { size = 64, width = 32, blocks = 2, up = 4, critic = 24, layers = 1, lr = 4e-4, epochs = 9,
                       style = "[dn]*" } },

  build = function(c)
    local AB, BA, DA, DB = generator(c), generator(c), critic(c), critic(c)
    local gan, old_a, old_b = adversarial(c.gan), pool(c.pool), pool(c.pool)
    -- constant for 100 epochs, then 1 - (e - 99) / 101: the factor of the authors' PyTorch code
    local opt = adam { ramp { c.lr, 0, from = c.epochs / 2 - 1, to = c.epochs }, beta1 = 0.5 }
    return {
      data = images { a = c.photos, b = c.comics, filter_b = c.style, size = c.size * 286 // 256, crop = c.size, flip = true,
                      batch = c.batch },
      forward = function(x) x.ab, x.ba = AB(x.a), BA(x.b) end,
      players = {
        player { "G", {AB, BA}, opt, loss = {
          adv      = function(x) return gan.g(DB(x.ab)) + gan.g(DA(x.ba)) end,
          cycle    = {c.cycle, function(x) return l1(BA(x.ab), x.a) + l1(AB(x.ba), x.b) end},
          identity = {c.identity, function(x) return l1(AB(x.b), x.b) + l1(BA(x.a), x.a) end} } },
        player { "D", {DA, DB}, opt, loss = {
          a = {0.5, function(x) return gan.d(DA(x.a), DA(old_a(x.ba))) end},
          b = {0.5, function(x) return gan.d(DB(x.b), DB(old_b(x.ab))) end} } },
      },
      epochs = c.epochs, steps = c.steps > 0 and c.steps or nil,
      metrics = { grid { "a", "ab", "b", "ba", every = 250, n = 6 } },
    }
  end,

  ablate = { seeds = 3,
    { "full" },
    { "no cycle", cycle = 0 },
    { "no identity", identity = 0 },
    { "no pool", pool = 0 },
    { "minimax", gan = "bce" } },
}
