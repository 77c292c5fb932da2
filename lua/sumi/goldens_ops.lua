-- goldens_ops.lua -- operations under PyTorch's names, options and layouts, made of Sumi's ops. For
-- `sumi goldens` only.
--
-- ops.NAME(t, o): t are the tensors of a case by name (NCHW, OIHW as stored), o its options; gives
-- the result, or a table of results by name. What Sumi does not have is not here, or calls `lacks`:
-- such cases are skipped, never passed.
local core = require "sumi.core"
local schedule = require "sumi.schedule"

local M = { ops = {} }
local ops = M.ops

-- Stops a case: it needs something that Sumi does not have (yet).
function M.lacks(what) error({ lacks = what }, 0) end
local lacks = M.lacks

-- Sumi's op of this name.
local su = setmetatable({}, { __index = function(_, name) return core.ops[name] or lacks(name) end })
M.su = su

-- ---- layouts ----

function M.nhwc(x) return su.permute(x, { 1, 3, 4, 2 }) end
function M.nchw(x) return su.permute(x, { 1, 4, 2, 3 }) end
local nhwc, nchw = M.nhwc, M.nchw

-- fn on channels-last, for inputs [n,c] and [n,c,h,w]
local function channels_last(x, fn)
  local ndim = #x:shape()
  if ndim == 2 then return fn(x) end
  if ndim ~= 4 then lacks(("%d axes"):format(ndim)) end
  return nchw(fn(nhwc(x)))
end

-- An option of one number or of [height, width].
local function pair(v, fallback)
  if v == nil then v = fallback end
  if type(v) == "table" then return v[1], v[2] end
  return v, v
end

local function axis(x, dim) return dim >= 0 and dim + 1 or #x:shape() + dim + 1 end

local function axes(x, dims)
  if dims == nil then return nil end
  local list = {}
  for k, d in ipairs(type(dims) == "table" and dims or { dims }) do list[k] = axis(x, d) end
  return list
end

local function volume(shape)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return n
end

-- ---- elementwise ----

for name, mine in pairs { exp = "exp", log = "log", sqrt = "sqrt", rsqrt = "rsqrt", abs = "abs", sign = "sign",
  sin = "sin", cos = "cos", square = "square", tanh = "tanh", sigmoid = "sigmoid", reciprocal = "recip" } do
  ops[name] = function(t) return su[mine](t.input) end
end
for _, name in ipairs { "add", "sub", "mul", "div", "maximum" } do
  ops[name] = function(t) return su[name](t.input, t.other) end
end

function ops.minimum(t)
  if core.ops.minimum then return su.minimum(t.input, t.other) end
  return -su.maximum(-t.input, -t.other)             -- as su_minimum does
end

function ops.neg(t) return -t.input end
function ops.relu(t) return su.lrelu(t.input, 0) end
function ops.leaky_relu(t, o) return su.lrelu(t.input, o.negative_slope) end
function ops.pow_scalar(t, o) return t.input ^ o.exponent end
function ops.clamp(t, o) return su.clamp(t.input, o.min or -math.huge, o.max or math.huge) end

function ops.softplus(t, o)
  if (o.beta or 1) ~= 1 then lacks "softplus with a beta" end
  return su.softplus(t.input)                        -- the threshold only decides how it is computed
end

-- ---- linear algebra ----

function ops.linear(t)
  local shape = t.input:shape()
  local ci = shape[#shape]
  local y = su.linear(su.reshape(t.input, { -1, ci }), t.weight, t.bias)
  shape[#shape] = y:shape()[2]
  return su.reshape(y, shape)
end

function ops.matmul(t)
  local a, b = t.input:shape(), t.other:shape()
  if #b > 2 then lacks "bmm" end
  local left = su.reshape(t.input, #a == 1 and { 1, a[1] } or { -1, a[#a] })
  local right = #b == 1 and su.reshape(t.other, { b[1], 1 }) or t.other
  a[#a] = nil
  if #b == 2 then a[#a + 1] = b[2] end
  local y = su.matmul(left, right)
  return #a == 0 and su.sum(y) or su.reshape(y, a)
end

local function conv_options(o)
  local sh, sw = pair(o.stride, 1)
  local ph, pw = pair(o.padding, 0)
  local dh, dw = pair(o.dilation, 1)
  return { stride = { sh, sw }, pad = { ph, ph, pw, pw }, dilation = { dh, dw }, groups = o.groups or 1 }
end

function ops.conv2d(t, o)
  local mode = o.padding_mode or "zeros"
  if mode ~= "zeros" and mode ~= "reflect" then lacks("conv2d with padding_mode " .. mode) end
  local options = conv_options(o)
  options.x, options.w, options.b = nhwc(t.input), su.permute(t.weight, { 1, 3, 4, 2 }), t.bias
  options.edge = mode == "reflect" and "reflect" or "zero"
  return nchw(su.conv(options))
end

-- The transposed convolution is the adjoint of a convolution from its outputs to its inputs, whose
-- weight it keeps: what PyTorch calls [in, out/groups, kh, kw] is that convolution's [co,
-- ci/groups, kh, kw].
function ops.conv_transpose2d(t, o)
  local options = conv_options(o)
  local extra = { pair(o.output_padding, 0) }
  local x, w = t.input:shape(), t.weight:shape()
  options.size = {}
  for k = 1, 2 do
    local s, p, d = options.stride[k], options.pad[2 * k], options.dilation[k]
    options.size[k] = (x[2 + k] - 1) * s - 2 * p + d * (w[2 + k] - 1) + extra[k] + 1
  end
  options.gy, options.w, options.b = nhwc(t.input), su.permute(t.weight, { 1, 3, 4, 2 }), t.bias
  return nchw(su.conv_gx(options))
end

-- ---- shape ----

function ops.cat(t, o)
  local y
  for _, name in ipairs(o.tensors) do
    y = y and su.concat(y, t[name], axis(y, o.dim)) or t[name]
  end
  return y
end

function ops.slice(t, o)
  local y = t.input
  for k, s in ipairs(o.slices) do
    if s.step ~= 1 then lacks "slice with a step" end
    y = su.slice(y, k, s.start, s.stop - s.start)
  end
  return y
end

function ops.permute(t, o) return su.permute(t.input, axes(t.input, o.dims)) end
function ops.reshape(t, o) return su.reshape(t.input, o.shape) end
function ops.permute_reshape(t, o) return su.reshape(ops.permute(t, o), o.shape) end
function ops.expand(t, o) return su.expand(t.input, o.size) end

-- ---- reductions ----

function ops.sum(t, o) return su.sum(t.input, { axes = axes(t.input, o.dim), keep = o.keepdim or false }) end

function ops.mean(t, o)
  local y = ops.sum(t, o)
  return y * (y:size() / t.input:size())
end
function M.mean(x) return ops.mean({ input = x }, {}) end
local mean = M.mean

-- ---- padding: pad is left, right, top, bottom ----

local edges = { reflect = "reflect", replicate = "replicate", constant = "zero" }

function ops.pad(t, o)
  local p, edge = o.pad, edges[o.mode]
  if not edge or (o.value or 0) ~= 0 then lacks("pad " .. o.mode .. (edge and " with a value" or "")) end
  return nchw(su.pad(nhwc(t.input), { pad = { p[3], p[4], p[1], p[2] }, edge = edge }))
end

-- ---- norms ----

-- Statistics given or of the batch; running ones are moved in place in training.
local function norm_with_running(t, o, over)
  local given = { act = "none", eps = o.eps, gain = t.weight, bias = t.bias }
  if not o.training and t.running_mean then
    given.mean, given.var = t.running_mean, t.running_var
    return channels_last(t.input, function(x)
      given.x = x
      return su.norm_eval(given)
    end)
  end
  given.over = over
  return channels_last(t.input, function(x)
    given.x = x
    local y, m, rstd = su.norm(given)
    if t.running_mean then
      local how = { momentum = o.momentum, eps = o.eps, count = x:size() // m:size() }
      su.stat_update(t.running_mean, t.running_var, m, rstd, how)
    end
    return y
  end)
end

function ops.batch_norm(t, o) return norm_with_running(t, o, "batch") end
function ops.instance_norm(t, o) return norm_with_running(t, o, "instance") end

-- x viewed as [groups, numbers of a group, 1] and normalised over each
local function norm_rows(x, groups, eps)
  local y = su.norm(su.reshape(x, { groups, -1, 1 }), { over = "instance", eps = eps })
  return su.reshape(y, x:shape())
end

function ops.layer_norm(t, o)
  local y = norm_rows(t.input, t.input:size() // volume(o.normalized_shape), o.eps)
  if t.weight then y = y * t.weight end
  return t.bias and y + t.bias or y
end

function ops.group_norm(t, o)
  local y = norm_rows(t.input, t.input:shape()[1] * o.num_groups, o.eps)
  local shape = { -1, 1, 1 }
  if t.weight then y = y * su.reshape(t.weight, shape) end
  return t.bias and y + su.reshape(t.bias, shape) or y
end

function ops.ema(t, o)
  local rows, avg = nil, t.ema
  local shape = t.weights:shape()
  table.remove(shape, 1)
  for k = 0, o.steps - 1 do
    local d = o.warm_up and math.min(o.decay, (1 + k) / (10 + k)) or o.decay
    su.ema(avg, su.reshape(su.slice(t.weights, 1, k, 1), shape), d)
    local row = su.reshape(avg * 1, { 1, table.unpack(shape) })
    rows = rows and su.concat(rows, row, 1) or row
  end
  return rows
end

-- ---- losses ----

-- A mean, or the sum it stands for.
local function reduced(y, x, reduction)
  if reduction == "sum" then return y * x:size() end
  return reduction == "mean" and y or lacks("reduction " .. reduction)
end

function ops.bce_with_logits(t, o) return reduced(su.bce(t.input, t.target), t.input, o.reduction) end
function ops.l1_loss(t, o) return reduced(su.l1(t.input, t.target), t.input, o.reduction) end
function ops.mse_loss(t, o) return reduced(su.mse(t.input, t.target), t.input, o.reduction) end

local function bce(x, target) return su.bce(x, { target = target }) end
local function mse(x, target) return su.mse(x, { target = target }) end
M.bce, M.mse = bce, mse

local function relativistic(up, down) return bce(up - mean(down), 1) + bce(down - mean(up), 0) end

local gan = {
  minimax = {
    D = function(real, fake) return bce(real, 1) + bce(fake, 0) end,
    G = function(_, fake) return -bce(fake, 0) end,
  },
  nonsaturating = {
    D = function(real, fake) return bce(real, 1) + bce(fake, 0) end,
    G = function(_, fake) return bce(fake, 1) end,
  },
  hinge = {
    D = function(real, fake) return su.hinge(real, 1) + su.hinge(fake, -1) end,
    G = function(_, fake) return -mean(fake) end,
  },
  wasserstein = {
    D = function(real, fake) return mean(fake) - mean(real) end,
    G = function(_, fake) return -mean(fake) end,
  },
  lsgan = {
    D = function(real, fake, o) return (mse(real, o.b) + mse(fake, o.a)) * 0.5 end,
    G = function(_, fake, o) return mse(fake, o.c) * 0.5 end,
  },
  relativistic_average = {
    D = function(real, fake) return relativistic(real, fake) end,
    G = function(real, fake) return relativistic(fake, real) end,
  },
}

function ops.gan_loss(t, o)
  local mode = gan[o.mode] or lacks("gan_loss " .. o.mode)
  return mode[o.player](t.real, t.fake, o)
end

function ops.content_loss(t, o) return su[o.distance](t.input, t.target) end
function ops.cycle_loss(t, o) return su.l1(t.reconstructed, t.input) * o.lambda_cycle end
function ops.identity_loss(t, o) return su.l1(t.mapped, t.input) * (o.lambda_cycle * o.lambda_identity) end

function ops.feature_matching(t, o)
  local total
  for k, weight in ipairs(o.weights) do
    local term = su.l1(t["fake" .. k - 1], t["real" .. k - 1]:detach()) * weight
    total = total and total + term or term
  end
  return total
end

-- ---- optimisers: K from in/grad.K of every step ----

-- update(p, g, step) for each parameter; out/K holds p after each step
local function trajectory(t, o, update)
  local results = {}
  for _, name in ipairs(o.parameters) do
    local p, grads, rows = t[name], t["grad." .. name], nil
    local shape = p:shape()
    for step = 1, o.steps do
      update(p, su.reshape(su.slice(grads, 1, step - 1, 1), shape), step, name)
      local row = su.reshape(p * 1, { 1, table.unpack(shape) })
      rows = rows and su.concat(rows, row, 1) or row
    end
    results[name] = rows
  end
  return results
end

local function zeros_like(p) return core.full(0, p:shape(), p:device()) end
M.zeros_like = zeros_like

ops["optim.sgd"] = function(t, o)
  local moving = {}
  return trajectory(t, o, function(p, g, step, name)
    moving[name] = moving[name] or (o.momentum and zeros_like(p))
    su.sgd { p = p, g = g, b = moving[name] or nil, lr = o.lr, momentum = o.momentum or 0, step = step,
      dampening = o.dampening or 0, weight_decay = o.weight_decay or 0, nesterov = o.nesterov or false }
  end)
end

-- One step of Adam on p; moments by name are made at first.
function M.adam(moments, name, p, g, step, o)
  local s = moments[name]
  if not s then
    s = { m = zeros_like(p):keep(), v = zeros_like(p):keep() }   -- first made inside a step
    moments[name] = s
  end
  su.adam { p = p, g = g, m = s.m, v = s.v, lr = o.lr, beta1 = o.betas[1], beta2 = o.betas[2], eps = o.eps,
    weight_decay = o.weight_decay or 0, step = step, decoupled = o.decoupled or false }
end

ops["optim.adam"] = function(t, o)
  if o.amsgrad then lacks "adam with amsgrad" end
  local moments = {}
  return trajectory(t, o, function(p, g, step, name) M.adam(moments, name, p, g, step, o) end)
end

ops["optim.adamw"] = function(t, o)
  o.decoupled = true
  return ops["optim.adam"](t, o)
end

-- ---- schedules ----

local schedules = {
  cyclegan_linear = function(o)
    return schedule.ramp { o.lr, 0, from = o.n_epochs - 1, to = o.n_epochs + o.n_epochs_decay }
  end,
  linear_to_zero = function(o)
    return schedule.ramp { o.lr, 0, from = o.n_epochs, to = o.n_epochs + o.n_epochs_decay }
  end,
  multistep = function(o) return schedule.step { o.lr, at = o.milestones, gamma = o.gamma } end,
  warmup = function(o) return schedule.ramp { o.lr / o.warmup, o.lr, to = o.warmup - 1 } end,
  step = function(o)
    local at = {}
    for e = o.step_size, o.epochs, o.step_size do at[#at + 1] = e end
    return schedule.step { o.lr, at = at, gamma = o.gamma }
  end,
  cosine = function(o)
    if o.epochs > o.T_max + 1 then lacks "cosine beyond its end" end
    return schedule.cosine { o.lr, o.eta_min, to = o.T_max }
  end,
}

function ops.lr_schedule(t, o)
  local s = (schedules[o.schedule] or lacks("lr_schedule " .. o.schedule))(o)
  local rates = {}
  for e = 0, o.epochs - 1 do rates[e + 1] = schedule.value(s, e, e) end
  return { lr = core.tensor(rates, { o.epochs }, t.lr0:device()) }
end

return M
