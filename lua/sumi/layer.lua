-- layer.lua -- the layers of `net`. A layer knows how to build itself for an input shape (which makes its parameters and says the
-- shape that comes out) and how to run. Shapes are those of one example: {h, w, c} or {c}. Options are strict.
local core = require "sumi.core"
local util = require "sumi.util"
local context = require "sumi.context"
local ops = core.ops

local layer = {}
local Layer = {}
Layer.__index = Layer
Layer.__name = "sumi.layer"

local function make(kind, text, fields)
  fields.kind, fields.text, fields.at = kind, text, core.where()
  return setmetatable(fields, Layer)
end

-- A layer that does not fit: the error names the line where the layer was written.
local function unfit(self, fmt, ...) core.fail_at(self.at, self.text .. ": " .. fmt:format(...)) end

function layer.is(v) return getmetatable(v) == Layer end

local function shape_text(s) return "{" .. table.concat(s, ", ") .. "}" end
layer.shape_text = shape_text

local function whole(what, v, least)
  local n = math.tointeger(tonumber(v))
  if not n or n < least then core.fail(("%s must be a whole number of at least %d, not %s"):format(what, least, util.show(v))) end
  return n
end

local function image_in(self, s)
  if #s ~= 3 then
    unfit(self, "wants images {h, w, c}, its input is %s; reshape(h, w, c) makes images", shape_text(s))
  end
  return s[1], s[2], s[3]
end

-- ---- precision ----

-- x as a layer computes with it.
local function low(x)
  if context.precision ~= "bf16" or x:dtype() ~= "f32" then return x end
  return ops.cast(x, "bf16")
end
layer.low = low

-- A weight likewise: cast once and used until it changes or the part of the tape that holds the cast is spent.
local casts = setmetatable({}, { __mode = "k" })

local function low_weight(w)
  if context.precision ~= "bf16" then return w end
  local held = casts[w]
  if not held then
    held = {}
    casts[w] = held
  end
  local t, version = core.cast_once(w, "bf16", held[1], held[2])
  if t ~= held[1] then core.drop(held[1]) end
  held[1], held[2] = t, version
  return t
end

-- ---- convolutions ----

local edge = { type = "string", choices = { "zero", "reflect" } }
local count = { type = "integer", min = 1, default = 1 }
local conv_options = { pad = { type = "integer", min = 0 }, bias = "boolean", edge = edge, groups = count, dilation = count }
local upconv_options = { pad = { type = "integer", min = 0 }, bias = "boolean", out_pad = { type = "integer", min = 0 } }

-- Take the activation behind a convolution into its kernel, which knows slopes in thousandths; false: it can't.
local function fuse_conv(self, act, slope)
  local leak = 0
  if act == "lrelu" then
    leak = math.tointeger(math.floor(slope * 1000 + 0.5))
    if not leak or leak < 0 or leak / 1000 ~= slope then return false end
    if leak == 0 then act = "relu" end
  end
  self.options.act, self.options.leak = act, leak
  return true
end

local function build_conv(self, b, s)
  local h, w, c = image_in(self, s)
  local k, st, p, d, g = self.k, self.stride, self.pad, self.dilation, self.groups
  if c % g ~= 0 or self.out % g ~= 0 then
    unfit(self, "groups = %d must divide both its %d input and its %d output channels", g, c, self.out)
  end
  local oh, ow = (h + 2 * p - d * (k - 1) - 1) // st + 1, (w + 2 * p - d * (k - 1) - 1) // st + 1
  if oh < 1 or ow < 1 then
    unfit(self, "a window of %dx%d does not fit its input of %dx%d pixels padded by %d; use a larger input, a smaller kernel " ..
      "or pad", k, k, h, w, p)
  end
  if self.edge == "reflect" and (p >= h or p >= w) then
    unfit(self, "reflecting %d pixels needs more than %d of them, its input has %dx%d", p, p, h, w)
  end
  self.weight = b:weight("weight", { self.out, k, k, c // g }, c // g * k * k)
  if self.bias then self.b = b:bias("bias", self.out, c // g * k * k) end
  self.options = { stride = st, pad = p, dilation = d, groups = g, edge = self.edge }
  b.macs = oh * ow * self.out * k * k * (c // g)
  return { oh, ow, self.out }
end

-- conv(out, k, stride = 1, {pad = (k-1)//2, bias =, edge = "zero", groups = 1, dilation = 1}). Without bias it is biasless when a
-- norm follows in the same seq (which would cancel it), else it has one.
function layer.conv(out, k, stride, opt)
  if type(stride) == "table" then stride, opt = 1, stride end
  opt = util.options(opt, conv_options, "conv")
  out, k, stride = whole("conv: outputs", out, 1), whole("conv: kernel", k, 1), whole("conv: stride", stride or 1, 1)
  local text = ("conv(%d, %d, %d)"):format(out, k, stride)
  return make("conv", text, { out = out, k = k, stride = stride, pad = opt.pad or (k - 1) // 2, bias = opt.bias,
    edge = opt.edge or "zero", groups = opt.groups, dilation = opt.dilation, has_bias = true, build = build_conv, fuse = fuse_conv,
    run = function(self, x) return ops.conv(low(x), low_weight(self.weight), self.b, self.options) end })
end

local function build_upconv(self, b, s)
  local h, w, c = image_in(self, s)
  local k, st, p = self.k, self.stride, self.pad
  local oh, ow = (h - 1) * st - 2 * p + k + self.out_pad, (w - 1) * st - 2 * p + k + self.out_pad
  if oh < 1 or ow < 1 then unfit(self, "nothing is left of its input of %dx%d pixels", h, w) end
  self.weight = b:weight("weight", { c, k, k, self.out }, self.out * k * k)
  if self.bias then self.b = b:bias("bias", self.out, self.out * k * k) end
  self.size = { oh, ow }
  self.options = { size = self.size, stride = st, pad = p }
  b.macs = h * w * c * k * k * self.out
  return { oh, ow, self.out }
end

-- upconv(out, k, stride, {pad =, bias =, out_pad =}): transposed convolution. Without `pad` the image grows by exactly `stride`.
function layer.upconv(out, k, stride, opt)
  if type(stride) == "table" then stride, opt = 1, stride end
  opt = util.options(opt, upconv_options, "upconv")
  out, k, stride = whole("upconv: outputs", out, 1), whole("upconv: kernel", k, 1), whole("upconv: stride", stride or 1, 1)
  local pad = opt.pad or (k - 1) // 2
  local out_pad = opt.out_pad or (opt.pad and 0 or math.max(0, stride - k + 2 * pad))
  return make("upconv", ("upconv(%d, %d, %d)"):format(out, k, stride), { out = out, k = k, stride = stride, pad = pad,
    out_pad = out_pad, bias = opt.bias, has_bias = true, build = build_upconv, fuse = fuse_conv,
    run = function(self, x) return ops.conv_gx(low(x), low_weight(self.weight), self.b, self.options) end })
end

-- linear(out, {bias = true}): y = x W' + b on {c}; images are flattened first.
function layer.linear(out, opt)
  opt = util.options(opt, { bias = "boolean" }, "linear")
  out = whole("linear: outputs", out, 1)
  return make("linear", ("linear(%d)"):format(out), { out = out, bias = opt.bias, has_bias = true,
    build = function(self, b, s)
      local c = 1
      for _, d in ipairs(s) do c = c * d end
      self.flatten = #s > 1
      self.c = c
      self.weight = b:weight("weight", { out, c }, c)
      if self.bias then self.b = b:bias("bias", out, c) end
      b.macs = c * out
      return { out }
    end,
    run = function(self, x)
      if self.flatten then x = ops.reshape(x, { -1, self.c }) end
      return ops.linear(low(x), low_weight(self.weight), self.b)
    end })
end

-- ---- norms ----

local function build_norm(self, b, s)
  local c = s[#s]
  if self.over == "instance" then image_in(self, s) end
  self.count = #s == 3 and s[1] * s[2] or 1
  if self.over == "instance" and self.count == 1 then
    unfit(self, "one pixel has no deviation to divide by; its input is %s", shape_text(s))
  end
  if self.affine then self.gain, self.shift = b:gain("weight", c), b:zeros("bias", c) end
  if self.over == "batch" then
    self.mean, self.var = b:buffer("running_mean", c, 0), b:buffer("running_var", c, 1)
  end
  return s
end

local function run_norm(self, x, residual)
  if self.over == "batch" and context.mode == "eval" then
    local y = ops.norm_eval(x, self.mean, self.var, self.gain, self.shift, self.eval_options)
    if self.options.pad then return ops.pad(y, self.options.pad, "reflect") end
    return residual and y + residual or y
  end
  local y, mean, rstd = ops.norm(x, self.gain, self.shift, residual, self.options)
  if self.over == "batch" and context.mode == "train" then
    local n = #x * self.count
    if n < 2 then core.fail(self.text .. ": batch norm of one number has no deviation; use a larger batch or inorm") end
    ops.stat_update(self.mean, self.var, mean, rstd, self.momentum, self.eps, n)
  end
  core.drop(mean)
  core.drop(rstd)
  return y
end

local function norm(kind, over, opt, affine)
  opt = util.options(opt, { eps = { type = "number", min = 0 }, momentum = { type = "number", min = 0, max = 1 }, affine = "boolean" },
    kind)
  if opt.affine ~= nil then affine = opt.affine end
  local eps = opt.eps or 1e-5
  return make(kind, kind .. "()", { over = over, affine = affine, eps = eps, momentum = opt.momentum or 0.1, is_norm = true,
    options = { over = over, act = "none", eps = eps, slope = 0 }, eval_options = { act = "none", eps = eps, slope = 0 },
    build = build_norm, run = run_norm,
    fuse = function(self, act, slope)
      if act == "tanh" then return false end
      for _, o in ipairs { self.options, self.eval_options } do o.act, o.slope = act, slope end
      return true
    end })
end

-- bn{eps = 1e-5, momentum = 0.1, affine = true}: batch norm (Ioffe and Szegedy 2015), PyTorch's conventions.
function layer.bn(opt) return norm("bn", "batch", opt, true) end
-- inorm{eps = 1e-5, affine = false}: instance norm (Ulyanov, Vedaldi and Lempitsky 2016).
function layer.inorm(opt) return norm("inorm", "instance", opt, false) end

-- ---- activations and the rest ----

local function same(_, _, s) return s end

local function activation(kind, text, run, act, slope)
  return make(kind, text, { build = same, run = run, act = act, slope = slope })
end

function layer.relu() return activation("relu", "relu()", function(_, x) return ops.lrelu(x, 0) end, "relu", 0) end
function layer.lrelu(slope)
  slope = slope or 0.2
  if type(slope) ~= "number" then core.fail("lrelu: the slope is a number, lrelu(0.2); got " .. util.show(slope)) end
  return activation("lrelu", ("lrelu(%g)"):format(slope), function(_, x) return ops.lrelu(x, slope) end, "lrelu", slope)
end
function layer.tanh() return activation("tanh", "tanh()", function(_, x) return ops.tanh(x) end, "tanh") end
function layer.sigmoid() return activation("sigmoid", "sigmoid()", function(_, x) return ops.sigmoid(x) end) end

-- dropout(p): off in eval mode only.
function layer.dropout(p)
  p = p or 0.5
  if type(p) ~= "number" or p < 0 or p >= 1 then core.fail(("dropout: p lies in [0,1), got %s"):format(util.show(p))) end
  return make("dropout", ("dropout(%g)"):format(p), { build = same, run = function(_, x)
    if context.mode == "eval" then return x end
    return core.dropout(x, p)
  end })
end

function layer.flatten()
  return make("flatten", "flatten()", {
    build = function(self, _, s)
      self.n = 1
      for _, d in ipairs(s) do self.n = self.n * d end
      return { self.n }
    end,
    run = function(self, x) return ops.reshape(x, { -1, self.n }) end })
end

function layer.reshape(...)
  local to = { ... }
  for k, d in ipairs(to) do to[k] = whole("reshape: axis " .. k, d, 1) end
  if #to ~= 1 and #to ~= 3 then core.fail(("reshape: makes {h, w, c} or {c} of each example; got %d numbers"):format(#to)) end
  return make("reshape", "reshape(" .. table.concat(to, ", ") .. ")", {
    build = function(self, _, s)
      local a, b = 1, 1
      for _, d in ipairs(s) do a = a * d end
      for _, d in ipairs(to) do b = b * d end
      if a ~= b then unfit(self, "its input %s has %d numbers, not %d", shape_text(s), a, b) end
      return to
    end,
    run = function(_, x) return ops.reshape(x, { -1, table.unpack(to) }) end })
end

-- pad(n, {edge = "reflect"}): n pixels on each side.
function layer.pad(n, opt)
  local how = util.options(opt, { edge = edge }, "pad").edge or "reflect"
  n = whole("pad: pixels", n, 0)
  return make("pad", ("pad(%d)"):format(n), {
    build = function(self, _, s)
      local h, w, c = image_in(self, s)
      if how == "reflect" and (n >= h or n >= w) then
        unfit(self, "reflecting %d pixels needs more than %d of them, its input has %dx%d", n, n, h, w)
      end
      return { h + 2 * n, w + 2 * n, c }
    end,
    run = function(_, x) return ops.pad(x, n, how) end })
end

-- A Lua function is a layer: it is tried once on zeros to learn what comes out.
local function from_function(f)
  return make("function", "function", { user = true,
    build = function(_, _, s)
      local was = core.recording(false)
      local y = f(core.full(0, { 2, table.unpack(s) }))
      core.recording(was)
      if not core.is_tensor(y) then
        core.fail_at(core.where(f), "a function in a net must return a tensor, this one returned " .. util.show(y))
      end
      local out = y:shape()
      table.remove(out, 1)
      return out
    end,
    run = function(_, x) return f(x) end })
end

-- ---- layers of layers ----

layer.makers = {}                        -- function of the script's world -> its name: conv stands in for a forgotten conv(...)

local function as_layer(v, where)
  if layer.is(v) then return v end
  local name = layer.makers[v]
  if name then core.fail(("%s: %s makes a layer when it is called: %s(...)"):format(where, name, name)) end
  if type(v) == "function" then return from_function(v) end
  if type(v) == "table" and getmetatable(v) == nil then return layer.seq(v) end
  core.fail(("%s: a layer or a function is wanted, got %s"):format(where, util.show(v)))
end

-- Entries that are false are left out, so that `cond and bn()` reads well.
local function entries(list, where)
  if type(list) ~= "table" or layer.is(list) then
    core.fail(("%s: wants a list of layers, %s { ... }; got %s"):format(where, where, util.show(list)))
  end
  local out, last = {}, 0
  for k in next, list do
    if math.type(k) ~= "integer" then core.fail(("%s: holds layers, '%s' is none of its options"):format(where, tostring(k))) end
    if k > last then last = k end
  end
  for k = 1, last do
    if list[k] then out[#out + 1] = as_layer(list[k], ("%s: entry %d"):format(where, k)) end
  end
  return out
end

-- A norm or a convolution takes the activation behind it into its own kernel; what stays in the list is what runs.
local function fuse(list)
  local run = {}
  for k, l in ipairs(list) do
    local before = list[k - 1]
    if before and before.fuse and l.act and not before.fused and before:fuse(l.act, l.slope) then
      before.fused = true
    else
      run[#run + 1] = l
    end
  end
  return run
end

-- Where the device writes a mirrored border in the norm's own kernel, the norm in front of a convolution makes it.
local function give_borders(runs)
  for k, l in ipairs(runs) do
    local after = runs[k + 1]
    if l.is_norm and after and after.edge == "reflect" and after.pad > 0 and core.device_info().pads then
      l.options.pad = after.pad
      after.options.pad, after.options.edge = 0, "zero"
    end
  end
end

local function build_seq(self, b, s)
  for k, l in ipairs(self.list) do
    if l.has_bias and l.bias == nil then l.bias = not (self.list[k + 1] and self.list[k + 1].is_norm) end
    s = b:child(k, l, s)
  end
  self.runs = fuse(self.list)
  give_borders(self.runs)
  return s
end

-- What only this seq has seen is given back at once: the tape keeps what gradients need.
local function run_seq(self, x, residual)
  local list, own = self.runs, false
  local n = #list
  for k = 1, n do
    local l = list[k]
    local y = l:run(x, k == n and residual or nil)
    if y ~= x then
      if own and not l.user then core.drop(x) end
      own = not l.user                 -- a function of the script may hold what it took or gave
    end
    x = y
  end
  return x
end

function layer.seq(list, where)
  return make("seq", "seq", { list = entries(list, where or "seq"), build = build_seq, run = run_seq })
end

-- times(n, f): n layers made by f(i).
function layer.times(n, f)
  n = whole("times: the count", n, 0)
  if type(f) ~= "function" then core.fail("times: times(n, f) wants a function that makes a layer; got " .. util.show(f)) end
  local list = {}
  for k = 1, n do list[k] = f(k) or false end
  return layer.seq(list, "times")
end

-- skip(l): the input and what l makes of it, joined along the channels (U-Net).
function layer.skip(l)
  if not l then core.fail "skip: wants a layer, skip(seq { ... })" end
  local inner = as_layer(l, "skip")
  return make("skip", "skip", { list = { inner },
    build = function(self, b, s)
      local out = b:child(1, inner, s)
      if #out ~= 3 or out[1] ~= s[1] or out[2] ~= s[2] then
        unfit(self, "%s comes back as %s; what is inside must return the height and width that it got", shape_text(s),
          shape_text(out))
      end
      return { s[1], s[2], s[3] + out[3] }
    end,
    run = function(self, x)
      local l = self.list[1]
      local y = l:run(x)
      local z = ops.concat(x, y, 4)
      if not l.user then core.drop(y) end
      return z
    end })
end

local function same_shape(a, b)
  local same_rank = #a == #b
  for k = 1, #a do same_rank = same_rank and a[k] == b[k] end
  return same_rank
end

-- residual{...}: x + f(x). A norm at the end of f adds x in its own kernel.
function layer.residual(list)
  local inner = layer.seq(list, "residual")
  return make("residual", "residual", { list = { inner },
    build = function(self, b, s)
      local out = b:child(1, inner, s)
      if not same_shape(out, s) then
        unfit(self, "%s comes back as %s, which cannot be added to it; both must be the same", shape_text(s), shape_text(out))
      end
      local last = inner.runs[#inner.runs]
      self.fused = last and last.is_norm and not last.fused
      return s
    end,
    run = function(self, x)
      if self.fused then return self.list[1]:run(x, x) end
      return x + self.list[1]:run(x)
    end })
end

return layer
