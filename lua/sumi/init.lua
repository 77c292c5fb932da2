-- init.lua -- `local _ENV = require "sumi"`: every name a script may use, and nothing else. A name that is not here, or an
-- assignment to one that was not declared `local`, is an error with its line.
local core = require "sumi.core"
local util = require "sumi.util"
local context = require "sumi.context"
local layer = require "sumi.layer"
local net = require "sumi.net"
local loss = require "sumi.loss"
local replay = require "sumi.replay"
local optim = require "sumi.optim"
local schedule = require "sumi.schedule"
local memory = require "sumi.memory"
local experiment = require "sumi.experiment"
local data = require "sumi.data"
local metric = require "sumi.metric"
local ops = core.ops

core.library(debug.getinfo(1, "S").source:match "^@(.*/)")   -- under a stock lua5.4 nobody else has said where the library lies

local names = {}

-- ---- tensors ----

for _, op in ipairs(core.op_table()) do
  names[op.name] = ops[op.name]
  if not rawget(core.methods, op.name) then core.methods[op.name] = ops[op.name] end
end
for _, k in ipairs { "tensor", "full", "randn", "rand", "watch" } do names[k] = core[k] end

-- grad(y, x) -> dy/dx, itself differentiable; x may be a list of tensors, then so is the result.
function names.grad(y, x)
  local list = type(x) == "table" and getmetatable(x) == nil
  for _, t in ipairs(list and x or { x or false }) do
    if not core.is_tensor(t) then core.fail("grad: grad(y, x) wants a tensor or a list of tensors as x, got " .. util.show(t)) end
  end
  if not core.is_tensor(y) then core.fail("grad: grad(y, x) wants a tensor as y, got " .. util.show(y)) end
  if not list then return core.grad(y, { x }, nil, true)[1] end
  return core.grad(y, x, nil, true)
end

-- no_grad(f, ...) -> f(...), unrecorded.
function names.no_grad(f, ...)
  local was = core.recording(false)
  local out = table.pack(pcall(f, ...))
  core.recording(was)
  if not out[1] then error(out[2], 0) end
  return table.unpack(out, 2, out.n)
end

-- x:mean(axes) -> the mean over all axes, or over those given (counted from 1).
function core.methods.mean(x, axes)
  if not axes then return loss.mean(x) end
  local y = ops.sum(x, axes)
  return y * (y:size() / x:size())
end

local letters = { [4] = { n = 1, h = 2, w = 3, c = 4 }, [2] = { n = 1, c = 2 } }

-- x:slice(axis, first, last): entries first to last of an axis, counted from 1, from the end when negative; axis is a number or
-- one of "n", "h", "w", "c".
function core.methods.slice(x, axis, first, last)
  local shape = x:shape()
  local named = letters[#shape] or {}
  local k = type(axis) == "string" and named[axis] or axis
  if math.type(k) ~= "integer" or not shape[k] then
    core.fail(("slice: the axes of a tensor with %d are 1 to %d%s; got %s"):format(#shape, #shape,
      named.h and ", or n, h, w, c" or named.n and ", or n, c" or "", util.show(axis)))
  end
  local d = shape[k]
  first, last = first or 1, last or d
  if first < 0 then first = d + 1 + first end
  if last < 0 then last = d + 1 + last end
  return ops.slice(x, k, first - 1, last - first + 1)
end

function core.methods.reshape(x, ...)
  local to = ...
  return ops.reshape(x, type(to) == "table" and to or { ... })
end

-- A method that tensors do not have.
setmetatable(core.methods, { __index = function(_, k)
  core.fail(("a tensor has no method '%s'%s"):format(tostring(k), util.meant(k, util.names(core.methods))))
end })

-- ---- what a script declares ----

local layers = { "conv", "upconv", "linear", "bn", "inorm", "flatten", "seq", "skip", "residual", "times" }
for _, k in ipairs(layers) do names[k] = layer[k] end

-- relu() is a layer, relu(x) a number crunched: what has both meanings chooses by its first argument.
local function both(kind, make, run)
  names[kind] = function(x, ...)
    if core.is_tensor(x) then return run(x, ...) end
    return make(x, ...)
  end
end
local function relu(x) return ops.lrelu(x, 0) end
core.methods.relu = relu
both("relu", layer.relu, relu)
both("lrelu", layer.lrelu, function(x, slope) return ops.lrelu(x, slope or 0.2) end)
both("tanh", layer.tanh, ops.tanh)
both("sigmoid", layer.sigmoid, ops.sigmoid)
both("dropout", layer.dropout, function(x, p) return core.dropout(x, p or 0.5) end)
both("pad", layer.pad, ops.pad)
both("reshape", layer.reshape, core.methods.reshape)

names.net, names.normal = net.new, net.normal
names.adam, names.sgd = optim.adam, optim.sgd
names.ramp, names.cosine, names.step = schedule.ramp, schedule.cosine, schedule.step
names.pool, names.average = memory.pool, memory.average
names.experiment, names.player, names.config = experiment.new, experiment.player, experiment.config
for _, k in ipairs { "bce", "l1", "mse", "adversarial", "gradient_penalty" } do names[k] = loss[k] end
for _, k in ipairs { "images", "mnist", "ring", "points_grid" } do names[k] = data[k] end
for _, k in ipairs { "grid", "modes", "measure" } do names[k] = metric[k] end
for _, k in ipairs { "curve", "strip" } do
  names[k] = function(t)               -- gnuplot's side is loaded only when a script names a figure
    if type(t) ~= "table" then
      core.fail(("%s: wants what it shows in a table, %s"):format(k, k == "curve" and 'curve { "loss/G/*" }' or 'strip { "sample/fake" }'))
    end
    return require("sumi.figure")[k](t)
  end
end

-- ---- plain Lua ----

for _, k in ipairs { "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "print", "rawequal", "rawget", "rawlen",
  "rawset", "select", "setmetatable", "tonumber", "tostring", "type", "xpcall", "math", "string", "table", "io",
  "os", "utf8", "debug", "coroutine", "load", "dofile", "collectgarbage" } do
  names[k] = _G[k]
end
names.sumi_version = core.version

-- A step that prints or draws Lua's own numbers cannot be replayed (replay.lua); a dry one prints nothing.
function names.print(...)
  core.list_refuse "it prints"
  if not replay.dry() then print(...) end
end
names.math = setmetatable({ random = function(...)
  core.list_refuse "it draws from math.random (rand, randn and dropout can be replayed)"
  return math.random(...)
end }, { __index = math, __pairs = function() return next, math, nil end })

-- Nor can one that reads, writes or asks for the time; nothing is written in a dry one.
local function watched(lib, why)
  return setmetatable({}, { __index = function(_, k)
    core.list_refuse(why:format(k))
    if k == "write" and replay.dry() then return function() end end
    return lib[k]
  end, __pairs = function() return next, lib, nil end })
end
names.io, names.os = watched(io, "it uses io.%s"), watched(os, "it uses os.%s")

-- require, with a message that fits on a line.
function names.require(name)
  if package.loaded[name] == nil and not package.preload[name] and not package.searchpath(name, package.path)
    and not package.searchpath(name, package.cpath) then
    local file = name:gsub("%.", "/") .. ".lua"
    core.fail(("require: there is no module '%s'; a module of a script is a file beside it, here %s"):format(name, file))
  end
  return require(name)
end
names.context = context

local list = util.names(names)

-- Behind core.entry a mistake in `return net{...}` keeps its line.
for _, t in ipairs { names, core.methods } do
  for _, k in ipairs(util.names(t)) do
    if type(t[k]) == "function" then t[k] = core.entry(t[k]) end
  end
end
for _, k in ipairs(layers) do layer.makers[names[k]] = k end

return setmetatable({}, {
  __index = function(_, k)
    local v = names[k]
    if v ~= nil then return v end
    core.fail(("unknown name '%s'%s"):format(tostring(k), util.meant(tostring(k), list)))
  end,
  __newindex = function(_, k)
    core.fail(("'%s' is assigned but was not declared: write local %s = ..."):format(tostring(k), tostring(k)))
  end,
  __pairs = function() return next, names, nil end,
})
