local _ENV = require "sumi"
return experiment { "wrong",
  build = function(c)
    return { playres = {} }
  end,
}
