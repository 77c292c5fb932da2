local _ENV = require "sumi"

local function down(n)
  return conv(n, 5, 1, { pad = 0 })
end

local function critic()
  return net { input = {8, 8, 3},
    down(4), down(8),
    down(1) }
end

return experiment { "wrong",
  build = function(c)
    local D = critic()
    return { players = { D } }
  end,
}
