local _ENV = require "sumi"
return net { input = 4, linear(2) }
