-- goldens_net.lua -- the networks of the goldens, rebuilt from their JSON descriptions: layers in
-- order of evaluation, under torch.nn's names, each made of the operations of goldens_ops.lua. For
-- `sumi goldens` only.
local torch = require "sumi.goldens_ops"
local ops, lacks, su = torch.ops, torch.lacks, torch.su

-- types.NAME(xs, args, p, training): xs are the inputs of the layer, p(suffix) its parameter
-- `name.suffix` or nil.
local M = { types = {} }
local types = M.types

-- ---- layers of torch.nn ----

function types.Linear(xs, _, p) return ops.linear { input = xs[1], weight = p "weight", bias = p "bias" } end

function types.Conv2d(xs, args, p)
  return ops.conv2d({ input = xs[1], weight = p "weight", bias = p "bias" }, args)
end

function types.ConvTranspose2d(xs, args, p)
  return ops.conv_transpose2d({ input = xs[1], weight = p "weight", bias = p "bias" }, args)
end

local function norm_layer(op)
  return function(xs, args, p, training)
    local t = { input = xs[1], weight = p "weight", bias = p "bias" }
    t.running_mean, t.running_var = p "running_mean", p "running_var"
    local o = setmetatable({ training = training }, { __index = args })
    return ops[op](t, o)
  end
end

types.BatchNorm1d = norm_layer "batch_norm"
types.BatchNorm2d = norm_layer "batch_norm"
types.InstanceNorm2d = norm_layer "instance_norm"
types.LayerNorm = norm_layer "layer_norm"
types.GroupNorm = norm_layer "group_norm"

local function elementwise(op)
  return function(xs, args) return ops[op]({ input = xs[1] }, args) end
end

types.ReLU = elementwise "relu"
types.LeakyReLU = elementwise "leaky_relu"
types.Tanh = elementwise "tanh"
types.Sigmoid = elementwise "sigmoid"
types.Softplus = elementwise "softplus"
function types.Identity(xs) return xs[1] end

function types.Dropout(xs, args, _, training)
  if training and args.p ~= 0 then lacks "Dropout that draws as PyTorch does" end
  return xs[1]
end
types.Dropout2d = types.Dropout

local function padding(mode)
  return function(xs, args)
    local p = args.padding
    if type(p) ~= "table" then p = { p, p, p, p } end
    return ops.pad({ input = xs[1] }, { pad = p, mode = mode })
  end
end

types.ReflectionPad2d = padding "reflect"
types.ReplicationPad2d = padding "replicate"
types.ZeroPad2d = padding "constant"

-- ---- functions ----

function types.view(xs, args)
  return su.reshape(xs[1], { xs[1]:shape()[1], table.unpack(args.shape) })
end

function types.cat(xs, args)
  local t, names = {}, {}
  for k, x in ipairs(xs) do
    names[k] = "x" .. k
    t[names[k]] = x
  end
  return ops.cat(t, { dim = args.dim, tensors = names })
end

function types.add(xs) return xs[1] + xs[2] end
function types.mul(xs) return xs[1] * xs[2] end
function types.sum(xs, args) return ops.sum({ input = xs[1] }, args) end
function types.scale(xs, args) return xs[1] * args.factor end
types.leaky_relu = types.LeakyReLU
function types.Parameter(_, _, p) return p "" end

-- ---- a network ----

-- The layer types a description needs and that are missing, in order; empty when the network can be
-- computed.
local function missing(net)
  local names = {}
  for _, layer in ipairs(net.layers) do
    local want = layer.spectral_norm and "spectral_norm" or not types[layer.type] and layer.type
    if want and not names[want] then
      names[want] = true
      names[#names + 1] = want
    end
  end
  return names
end

function M.check(net)
  local names = missing(net)
  if #names > 0 then lacks(table.concat(names, ", ")) end
end

-- Computes net for inputs by name. parameters(name) -> tensor or nil. -> every layer's value by name.
function M.run(net, inputs, parameters, training)
  M.check(net)
  local values = {}
  for _, name in ipairs(net.inputs) do values[name] = inputs[name] or error("no input called " .. name) end
  for _, layer in ipairs(net.layers) do
    local xs = {}
    for k, name in ipairs(layer["in"] or {}) do xs[k] = values[name] or error("no layer called " .. name) end
    local function p(suffix) return parameters(suffix == "" and layer.name or layer.name .. "." .. suffix) end
    values[layer.name] = types[layer.type](xs, layer.args or {}, p, training)
  end
  return values
end

-- The same, giving the outputs of the net by name.
function M.outputs(net, inputs, parameters, training)
  local values, out = M.run(net, inputs, parameters, training), {}
  for name, layer in pairs(net.outputs) do out[name] = values[layer] end
  return out
end

return M
