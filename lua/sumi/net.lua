-- net.lua -- net{ input = {h, w, c}, layers... }: builds the layers for an input, owns their parameters, runs them.
local core = require "sumi.core"
local util = require "sumi.util"
local context = require "sumi.context"
local layer = require "sumi.layer"

local net = {}
local Net = {}
Net.__index = Net
Net.__name = "sumi.net"

function net.is(v) return getmetatable(v) == Net end

-- ---- initial weights ----

-- normal(std): weights N(0, std), norm gains N(1, std), biases 0 (Radford et al. 2015, and what pix2pix and CycleGAN use).
function net.normal(std)
  if std ~= nil and type(std) ~= "number" then
    core.fail("normal: wants the deviation of the weights, normal(0.02); got " .. util.show(std))
  end
  return { kind = "normal", std = std or 0.02 }
end

local default_init = { kind = "uniform" }   -- PyTorch's default: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases

local Builder = {}
Builder.__index = Builder

function Builder:add(list, what, tensor)
  local name = self.path .. "." .. what
  tensor:keep():name(name)
  list[#list + 1] = { name = name, tensor = tensor }
  self.count = self.count + tensor:size()
  return tensor
end

function Builder:weight(what, shape, fan_in)
  local t
  if self.init.kind == "normal" then
    t = core.randn(shape, 0, self.init.std)
  else
    local bound = 1 / math.sqrt(fan_in)
    t = core.rand(shape, -bound, bound)
  end
  return self:add(self.net.params, what, t:learn())
end

function Builder:bias(what, n, fan_in)
  if self.init.kind == "normal" then return self:zeros(what, n) end
  return self:weight(what, { n }, fan_in)
end

function Builder:zeros(what, n) return self:add(self.net.params, what, core.full(0, { n }):learn()) end

function Builder:gain(what, n)
  local t = self.init.kind == "normal" and core.randn({ n }, 1, self.init.std) or core.full(1, { n })
  return self:add(self.net.params, what, t:learn())
end

function Builder:buffer(what, n, value)
  local counted = self.count
  local t = self:add(self.net.buffers, what, core.full(value, { n }))
  self.count = counted
  return t
end

-- Build layer l as entry k of the current one; notes a row for print(net).
function Builder:child(k, l, s)
  if l.built then
    core.fail_at(l.at, ("%s: this layer stands in a net twice (before as %s); make a second one, e.g. by a function that returns it")
      :format(l.text, l.built))
  end
  local path = self.path
  self.path = (self.prefix[#self.prefix] or "") .. k .. "/" .. l.kind
  l.built = self.path
  self.prefix[#self.prefix + 1] = (self.prefix[#self.prefix] or "") .. k .. "/"
  if l.has_bias and l.bias == nil then l.bias = true end
  local before, row = self.count, { text = l.text, depth = #self.prefix }
  if not l.list then self.rows[#self.rows + 1] = row end
  self.macs = 0
  local out = l:build(self, s)
  self.prefix[#self.prefix] = nil
  self.path = path
  row.shape, row.count, row.macs = out, self.count - before, self.macs
  if not l.list then self.net.macs = self.net.macs + self.macs end
  self.macs = 0
  return out
end

-- ---- the net ----

local function input_shape(spec)
  local s = spec.input
  if type(s) == "number" then s = { s } end
  local fits, out = type(s) == "table" and (#s == 1 or #s == 3), {}
  for k = 1, fits and #s or 0 do
    out[k] = math.tointeger(s[k])
    fits = fits and out[k] and out[k] >= 1
  end
  if not fits then
    core.fail(("net: input = {h, w, c} or {c} says what one example is, in whole numbers; got %s"):format(
      util.show(s)))
  end
  return out
end

-- net{ ["name",] input = {h, w, c}, init = normal(0.02), layers... } -> a function of a batch
function net.new(spec)
  util.strict(spec, { "input", "init", "name" }, "net", true)
  local list, name = {}, spec.name
  for k, l in ipairs(spec) do
    if k == 1 and type(l) == "string" then name = l else list[#list + 1] = l end
  end
  for k in next, spec do            -- holes: entries that were false or nil
    if math.type(k) == "integer" and k > #spec then list[k] = spec[k] end
  end
  local self = setmetatable({ params = {}, buffers = {}, macs = 0, name = name, spec_name = name, at = core.where() }, Net)
  local body = layer.seq(list, "net")
  if #body.list == 0 then core.fail("net: has no layers") end
  if spec.init ~= nil and type(spec.init) ~= "table" then
    core.fail("net: init = normal(0.02) says how weights are drawn; got " .. util.show(spec.init))
  end
  local b = setmetatable({ net = self, init = spec.init or default_init, path = "", prefix = {}, count = 0, macs = 0, rows = {} },
    Builder)
  self.input = input_shape(spec)
  self.output = body:build(b, self.input)
  self.body, self.rows, self.count = body, b.rows, b.count
  context.nets[#context.nets + 1] = self
  return self
end

local function describe(shape) return "{n, " .. table.concat(shape, ", ") .. "}" end

local function check_input(self, x)
  if not core.is_tensor(x) then
    core.fail(("net %s: wants a tensor %s, got %s"):format(self.name or "", describe(self.input), util.show(x)))
  end
  local s, ok = x:shape(), true
  ok = #s == #self.input + 1
  for k, d in ipairs(self.input) do ok = ok and s[k + 1] == d end
  if ok then return end
  table.remove(s, 1)
  core.fail(("net %s: wants %s, its input is %s%s"):format(self.name or "", describe(self.input), describe(s),
    x:name() and (" (" .. x:name() .. ")") or ""))
end

Net.__call = core.entry(function(self, x)
  check_input(self, x)
  core.enter()
  local y = self.body:run(layer.low(x))
  core.leave()
  return y
end)

-- All numbers that a checkpoint must hold: parameters, then buffers, in order of building.
function Net:state()
  local out = {}
  for _, list in ipairs { self.params, self.buffers } do
    for _, p in ipairs(list) do out[#out + 1] = p end
  end
  return out
end

-- A copy of what the layers are made of; `tensors` maps each tensor of the original to its copy.
local function copy_layer(l, tensors)
  local out = setmetatable({}, getmetatable(l))
  for k, v in next, l do
    if k == "list" or k == "runs" then
      out[k] = {}
      for i, inner in ipairs(v) do
        tensors[inner] = tensors[inner] or copy_layer(inner, tensors)   -- list and runs share their layers
        out[k][i] = tensors[inner]
      end
    else
      out[k] = core.is_tensor(v) and tensors[v] or v
    end
  end
  return out
end

-- A net of the same layers with copies of all numbers; its parameters do not learn.
function Net:twin()
  local twin, map = setmetatable({}, Net), {}
  for k, v in next, self do twin[k] = v end
  for _, what in ipairs { "params", "buffers" } do
    twin[what] = {}
    for k, p in ipairs(self[what]) do
      local t = core.full(0, p.tensor:shape()):keep():name(p.name)
      core.ops.copy_into(t, p.tensor)
      map[p.tensor] = t
      twin[what][k] = { name = p.name, tensor = t }
    end
  end
  twin.body, twin.spec_name = copy_layer(self.body, map), nil
  context.nets[#context.nets + 1] = twin
  return twin
end

-- Give the net a name; its tensors are then called NAME/3/conv.weight.
function Net:rename(name)
  self.name = name
  for _, p in ipairs(self:state()) do
    p.key = name .. "/" .. p.name
    p.tensor:name(p.key)
  end
  return self
end

local function human(n)
  for _, u in ipairs { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } } do
    if n >= u[1] then return ("%.2f%s"):format(n / u[1], u[2]) end
  end
  return ("%d"):format(n)
end

function Net:__tostring()
  local lines = { ("%-34s %-18s %12s %10s"):format("net " .. (self.name or ""), "output", "parameters", "MACs") }
  lines[2] = ("%-34s %-18s"):format("  input", layer.shape_text(self.input))
  for _, r in ipairs(self.rows) do
    lines[#lines + 1] = ("%-34s %-18s %12s %10s"):format(("  "):rep(r.depth) .. r.text, layer.shape_text(r.shape),
      r.count > 0 and util.thousands(r.count) or "", r.macs > 0 and human(r.macs) or "")
  end
  lines[#lines + 1] = ("%-34s %-18s %12s %10s"):format("  total", layer.shape_text(self.output), util.thousands(self.count),
    human(self.macs))
  return table.concat(lines, "\n")
end

return net
