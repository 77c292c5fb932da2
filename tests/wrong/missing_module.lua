local _ENV = require "sumi"
local layers = require "my_layers"
