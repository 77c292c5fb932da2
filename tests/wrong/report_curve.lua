local _ENV = require "sumi"
local G = net { input = 4, linear(2) }
local D = net { input = 2, linear(1) }

return experiment { "wrong",
  data = ring { batch = 8 },
  forward = function(x) x.fake = G(randn(#x, 4)) end,
  players = {
    player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) + bce(D(x.fake), 0) end } },
    player { "G", G, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.fake), 1) end } },
  },
  steps = 3,
  report = { curve "loss/G/*" },
}
