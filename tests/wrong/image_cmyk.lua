local _ENV = require "sumi"
local G = net { input = {1, 1, 4}, upconv(3, 8, 1, { pad = 0 }) }
local D = net { input = {8, 8, 3}, conv(1, 8, 1, { pad = 0 }) }

return experiment { "wrong",
  data = images { "../images", filter = "cmyk.jpg", size = 8 },
  forward = function(x) x.fake = G(randn(#x, 1, 1, 4)) end,
  players = {
    player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) + bce(D(x.fake), 0) end } },
    player { "G", G, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.fake), 1) end } },
  },
  steps = 3,
}
