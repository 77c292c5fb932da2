local _ENV = require "sumi"
local D = net { input = 2, linear(1) }

return experiment { "wrong",
  precision = "half",
  data = ring { batch = 8 },
  players = { player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) end } } },
  steps = 3,
}
