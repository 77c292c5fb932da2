local _ENV = require "sumi"
return experiment { "wrong",
  build = function(c)
    local D = net { input = 2, linear(1) }
  end,
}
