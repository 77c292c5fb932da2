-- env: SUMI_CPU_WITHOUT=bf16
-- exit: 6
local _ENV = require "sumi"
local D = net { input = 2, linear(1) }

return experiment { "wrong",
  precision = "bf16",
  data = ring { batch = 8 },
  players = { player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return bce(D(x.x), 1) end } } },
  steps = 3,
}
