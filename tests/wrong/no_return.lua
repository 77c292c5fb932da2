local _ENV = require "sumi"
local G = net { input = 4, linear(2) }
