-- goldens_train.lua -- whole training runs and double backward of the goldens. For `sumi goldens` only.
--
-- A run's config.algorithm spells out the steps of each family; they are the functions in
-- `families`, whose numbers (optimisers, weights, rates, counts) all come from the file.
local core = require "sumi.core"
local net = require "sumi.goldens_net"
local schedule = require "sumi.schedule"
local torch = require "sumi.goldens_ops"
local ops, lacks, su, mean, bce, mse = torch.ops, torch.lacks, torch.su, torch.mean, torch.bce, torch.mse

local M = {}

-- ---- a run ----

local function sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

-- Parameters (not buffers) of the nets an optimiser moves, in order of name: { {name, tensor} ... }
local function learnt(case, nets)
  local list = {}
  for _, k in ipairs(nets) do
    for _, name in ipairs(case.parameter_names) do
      local of_net = name:sub(1, #k + 1) == k .. "."
      if of_net and not case.buffers[name] then list[#list + 1] = { name, case.param[name] } end
    end
  end
  return list
end

local function rate_of(config)
  if not config.lr_schedule then return function(lr) return lr end end
  local steps = config.lr_schedule:match "^linear to zero over (%d+) steps$"
  if not steps then lacks("lr_schedule '" .. config.lr_schedule .. "'") end
  return function(lr, step)
    return schedule.value(schedule.ramp { lr, 0, to = tonumber(steps), unit = "step" }, 0, step)
  end
end

-- run.step(NAME, loss): optimiser NAME moves its nets along the gradient of loss
local function optimisers(case, run)
  local rate = rate_of(case.config)
  for _, name in ipairs(sorted(case.config.optimiser)) do
    local o = case.config.optimiser[name]
    if o.kind ~= "Adam" then lacks("optimiser " .. o.kind) end
    run.optimiser[name] = { o = o, learnt = learnt(case, o.nets), moments = {}, count = 0 }
  end
  function run.step(name, loss)
    local s = run.optimiser[name]
    local xs = {}
    for k, p in ipairs(s.learnt) do xs[k] = p[2] end
    s.count = s.count + 1
    local o = setmetatable({ lr = rate(s.o.lr, run.t) }, { __index = s.o })
    for k, g in ipairs(core.grad(loss, xs)) do
      torch.adam(s.moments, s.learnt[k][1], s.learnt[k][2], g, s.count, o)
    end
  end
end

local function networks(case, run)
  for name, description in pairs(case.config.nets) do
    net.check(description)
    run[name] = function(...)
      local inputs = {}
      for k, input in ipairs(description.inputs) do inputs[input] = select(k, ...) end
      local out = net.outputs(description, inputs, function(p) return case.param[name .. "." .. p] end, true)
      return out.out
    end
  end
end

-- How far each net is from its start, over parameters with two or more axes.
local function distance(list, start)
  local sum = 0
  for k, p in ipairs(list) do
    if #p[2]:shape() >= 2 then
      for j, v in ipairs(p[2]:totable()) do sum = sum + (v - start[k][j]) ^ 2 end
    end
  end
  return math.sqrt(sum)
end

local function watch_distance(case, run)
  local parts = {}
  for name in pairs(case.config.nets) do
    local list, start = learnt(case, { name }), {}
    for k, p in ipairs(list) do start[k] = p[2]:totable() end
    parts[name] = function() return distance(list, start) end
  end
  return function()
    for name, far in pairs(parts) do run.log("moved." .. name, far()) end
  end
end

-- The data of step t (from 0), or of sub-step j of it.
local function rows(case)
  return function(name, t, j)
    local x = assert(case.input[name], name)
    for _, index in ipairs { t, j } do
      local shape = x:shape()
      table.remove(shape, 1)
      x = su.reshape(su.slice(x, 1, index, 1), shape)
    end
    return x
  end
end

local families = {}

-- train.gan, train.cgan; nets may take labels as a second input
function families.gan(run, data, t)
  local x, z, y = data("x", t), data("z", t), run.labels and data("y", t)
  local fake = run.G(z, y)
  local d_real, d_fake = bce(run.D(x, y), 1), nil
  d_fake = bce(run.D(fake:detach(), y), 0)
  run.log("loss.d_real", d_real)
  run.log("loss.d_fake", d_fake)
  run.step("D", d_real + d_fake)
  local g = bce(run.D(fake, y), 1)
  run.log("loss.g", g)
  run.step("G", g)
end

-- mean over n of (||d sum(D(x)) / dx_n|| - 1)^2; also the gradient and the norms
local function penalty(critic, x)
  local g = core.grad(critic(x), { x }, nil, true)[1]
  local all = {}
  for k = 2, #g:shape() do all[#all + 1] = k end
  local norm = su.sqrt(su.sum(su.square(g), { axes = all }))
  return mean(su.square(norm - 1)), g, norm
end

function families.wgan_gp(run, data, t)
  for j = 0, run.config.n_critic - 1 do
    local fake, real, eps = run.G(data("z_d", t, j)):detach(), data("x", t, j), data("eps", t, j)
    local wasserstein = mean(run.D(fake)) - mean(run.D(real))
    local between = core.watch(eps * real + (1 - eps) * fake)
    local gp = penalty(run.D, between)
    run.log(("loss.d%d_wasserstein"):format(j), wasserstein)
    run.log(("loss.d%d_penalty"):format(j), gp)
    run.step("D", wasserstein + gp * run.config.lambda)
  end
  local g = -mean(run.D(run.G(data("z_g", t))))
  run.log("loss.g", g)
  run.step("G", g)
end

function families.pix2pix(run, data, t)
  local a, b = data("a", t), data("b", t)
  local fake = run.G(a)
  local d_fake = bce(run.D(su.concat(a, fake:detach(), 2)), 0)
  local d_real = bce(run.D(su.concat(a, b, 2)), 1)
  run.log("loss.d_fake", d_fake)
  run.log("loss.d_real", d_real)
  run.step("D", (d_fake + d_real) * 0.5)
  local g_gan, g_l1 = bce(run.D(su.concat(a, fake, 2)), 1), su.l1(fake, b)
  run.log("loss.g_gan", g_gan)
  run.log("loss.g_l1", g_l1)
  run.step("G", g_gan + g_l1 * run.config.lambda_l1)
end

local function judged(critic, real, fake)
  return (mse(critic(real), 1) + mse(critic(fake:detach()), 0)) * 0.5
end

function families.cyclegan(run, data, t)
  local a, b, c = data("a", t), data("b", t), run.config
  local fake_b, fake_a = run.G_A(a), nil
  local rec_a = run.G_B(fake_b)
  fake_a = run.G_B(b)
  local rec_b = run.G_A(fake_a)
  local l = {
    gan_a = mse(run.D_A(fake_b), 1), gan_b = mse(run.D_B(fake_a), 1),
    cycle_a = su.l1(rec_a, a), cycle_b = su.l1(rec_b, b),
    identity_a = su.l1(run.G_A(b), b), identity_b = su.l1(run.G_B(a), a),
  }
  local identity = (l.identity_a + l.identity_b) * (c.lambda_cycle * c.lambda_identity)
  run.step("G", l.gan_a + l.gan_b + (l.cycle_a + l.cycle_b) * c.lambda_cycle + identity)
  l.d_a, l.d_b = judged(run.D_A, b, fake_b), judged(run.D_B, a, fake_a)
  run.step("D", l.d_a + l.d_b)
  for name, loss in pairs(l) do run.log("loss." .. name, loss) end
end

families.cgan = families.gan

-- Trains as the case says -> its outputs by name. Every step is one step of the runtime.
local function train(case, family)
  local config, out = case.config, {}
  local run = { config = config, optimiser = {}, labels = case.input.y ~= nil }
  function run.log(name, value)
    out[name] = out[name] or {}
    table.insert(out[name], type(value) == "number" and value or value:item())
  end
  networks(case, run)
  optimisers(case, run)
  local far, data = watch_distance(case, run), rows(case)
  for name, p in pairs(case.param) do p:learn(not case.buffers[name]) end
  for t = 0, config.steps - 1 do
    run.t = t
    core.step_begin(0, t)
    local ok, err = pcall(family, run, data, t)
    core.step_end()
    if not ok then error(err, 0) end
    far()
  end
  for name, list in pairs(out) do out[name] = core.tensor(list, { #list }, case.device) end
  for name, p in pairs(case.param) do out["final." .. name] = p end
  return out
end

M.cases = {}
for name, family in pairs(families) do
  M.cases["train." .. name] = function(case) return train(case, family) end
end

-- ---- double backward ----

local function critic_of(case)
  return function(x)
    local inputs = { [case.config.net.inputs[1]] = x }
    return net.outputs(case.config.net, inputs, function(p) return case.param[p] end, true).out
  end
end

M.cases["penalty.wgan_gp"] = function(case)
  local t = case.input
  local gp, g, norm = penalty(critic_of(case), t.eps * t.real + (1 - t.eps) * t.fake)
  return { out = gp * case.config.lambda, ["aux.gradient"] = g, ["aux.norm"] = norm }
end

M.cases["penalty.r1"] = function(case)
  local g = core.grad(critic_of(case)(case.input.real), { case.input.real }, nil, true)[1]
  local n = g:shape()[1]
  return { out = su.sum(su.square(g)) * (case.config.gamma / (2 * n)), ["aux.gradient"] = g }
end

local function deviation(x)
  local v, sum, squares = x:totable(), 0, 0
  for _, a in ipairs(v) do sum = sum + a end
  for _, a in ipairs(v) do squares = squares + (a - sum / #v) ^ 2 end
  return math.sqrt(squares / (#v - 1))
end

M.cases["penalty.dragan"] = function(case)
  local t = case.input
  local x = t.real + t.alpha * t.noise * (0.5 * deviation(t.real))
  local gp, g, norm = penalty(critic_of(case), x)
  return { out = gp * case.config.lambda, ["aux.gradient"] = g, ["aux.norm"] = norm }
end

M.cases["penalty.path_length"] = function(case)
  local t = case.input
  local j = core.grad(critic_of(case)(t.w), { t.w }, t.noise, true)[1]
  local length = su.sqrt(su.sum(su.square(j), { axes = { 2 } }))
  local old = t.mean_old:item()
  local now = old + case.config.decay * (mean(length):item() - old)
  return { out = mean(su.square(length - now)), ["aux.gradient"] = j, ["aux.norm"] = length,
           ["aux.mean_new"] = core.tensor({ now }, {}, case.device) }
end

function ops.mean_mul(t) return t.input * ops.mean(t, { dim = -1, keepdim = true }) end

-- out = sum over k of <gradient of <f, cot> in k, v.k>
function M.cases.gradgrad(case)
  local config, t = case.config, {}
  local f = ops[config.of] or lacks(config.of)
  for name, x in pairs(case.input) do t[name] = x end
  for name, x in pairs(case.param) do t[name] = x end
  local y = f(t, config.options)
  if config.options["then"] == "square" then y = su.square(y) end
  local names, xs = {}, {}
  for _, name in ipairs(case.input_names) do
    local k = name:match "^v%.(.*)$"
    if k then
      names[#names + 1] = k
      xs[#xs + 1] = t[k]
    end
  end
  local out, total = {}, nil
  for k, g in ipairs(core.grad(y, xs, t.cot, true)) do
    local term = su.sum(g * t["v." .. names[k]])
    total = total and total + term or term
    out["aux.grad." .. names[k]] = g
  end
  out.out = total
  return out
end

return M
