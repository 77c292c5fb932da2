local _ENV = require "sumi"
return experiment { "wrong", data = ring { batch = 8 }, steps = 3 }
