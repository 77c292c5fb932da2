-- test_nn.lua -- the library above the ops: nets, schedules, optimisers, pool, average, critics that play several rounds, penalties.
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local core = require "sumi.core"
local context = require "sumi.context"
local game_of = require "sumi.game"
local schedule = require "sumi.schedule"
local _ENV = setmetatable({ T = T, core = core, game_of = game_of, schedule = schedule }, { __index = require "sumi" })
context = require "sumi.context"

local function fresh(seed) context.reset(seed or 0, "cpu", {}) end

local function play(spec, steps)
  local g = game_of.new(experiment(spec):game())
  g.per_epoch = 10
  for at = 0, steps - 1 do g:step_once(at) end
  return g
end

-- Batches that say which step they are of.
local function counter(batch, width)
  return { batch = batch, get = function(_, step) return { x = full(step, { batch, width or 1 }) } end }
end

T.test("a net infers shapes, counts parameters and multiplications, and prints them", function()
  fresh()
  local n = net { "N", input = {32, 32, 3}, conv(8, 4, 2), inorm(), relu(), upconv(3, 3, 2), tanh() }
  T.eq(n.output, { 32, 32, 3 })
  T.eq(n.count, 8 * 4 * 4 * 3 + 8 * 3 * 3 * 3 + 3)     -- no bias in front of a norm
  T.eq(n.macs, 16 * 16 * 8 * 48 + 16 * 16 * 8 * 9 * 3)
  local text = tostring(n)
  for _, part in ipairs { "conv(8, 4, 2)", "{16, 16, 8}", "384", "upconv(3, 3, 2)", "total" } do
    T.ok(text:find(part, 1, true), "print(net) lacks " .. part .. ":\n" .. text)
  end
end)

T.test("fused layers give what the separate ops give", function()
  fresh(1)
  local n = net { input = {6, 6, 4}, residual { conv(4, 3), bn(), lrelu(0.3), conv(4, 3), bn() } }
  local x = randn(3, 6, 6, 4)
  local p = {}
  for _, q in ipairs(n.params) do p[#p + 1] = q.tensor end
  local function plain(v, gain, shift)
    local m = v:mean({ 1, 2, 3 }):reshape(1, 1, 1, 4)
    local d = v - m
    return d / (square(d):mean({ 1, 2, 3 }):reshape(1, 1, 1, 4) + 1e-5) ^ 0.5 * gain + shift
  end
  local a = plain(core.ops.conv(x, p[1], { pad = 1 }), p[2], p[3])
  local y = plain(core.ops.conv(lrelu(a, 0.3), p[4], { pad = 1 }), p[5], p[6]) + x
  T.near((n(x) - y):abs():sum():item() / y:size(), 0, 1e-6)
end)

T.test("a convolution takes its activation in without changing a bit", function()
  fresh(2)
  local n = net { input = {37, 35, 6}, conv(24, 3), lrelu(0.2), conv(17, 5, 2, { edge = "reflect" }), relu(),
    upconv(9, 4, 2), tanh(), conv(3, 1), lrelu(0.123456) }
  local x = randn(2, 37, 35, 6)
  T.eq(#n.body.runs, 5)                                 -- 0.123456 is no whole number of thousandths
  local p, w = {}, {}
  for k, q in ipairs(n.params) do p[k], w[k] = q.tensor, q.tensor end
  local ops = core.ops
  local function apart()
    local y = lrelu(ops.conv(x, p[1], p[2], { pad = 1 }), 0.2)
    y = relu(ops.conv(y, p[3], p[4], { pad = 2, stride = 2, edge = "reflect" }))
    y = ops.tanh(ops.conv_gx(y, p[5], p[6], { pad = 1, stride = 2, size = { 38, 36 } }))
    return lrelu(ops.conv(y, p[7], p[8]), 0.123456)
  end
  local a, b = n(x), apart()
  T.eq(a:totable(), b:totable())
  local ga, gb = grad(square(a):sum(), w), grad(square(b):sum(), w)
  for k = 1, #w do T.eq(ga[k]:totable(), gb[k]:totable()) end
end)

-- A ResNet block and its neighbours on a device: what comes out, every gradient, and what a penalty on gradients makes of them.
local function block_on(device)
  context.reset(3, device, {})
  local n = net { input = {12, 10, 8}, conv(16, 3), inorm(), relu(),
    residual { conv(16, 3, { edge = "reflect" }), bn(), lrelu(0.1), conv(16, 3, { edge = "reflect" }), inorm() },
    conv(8, 1), bn(), relu(), conv(3, 7, 2, { edge = "reflect" }) }
  core.rng(6, 0, 0)
  local x, w, out, pads = randn(2, 12, 10, 8), {}, {}, 0
  for k, q in ipairs(n.params) do w[k] = q.tensor end
  local loss = square(n(x)):sum()
  out[1] = loss:totable()
  for _, g in ipairs(grad(loss, w)) do out[#out + 1] = g:totable() end
  core.tape_clear()
  local seen = core.watch(x)
  local first = grad(square(n(seen)):sum(), seen)
  for _, g in ipairs(grad(square(first):sum(), w)) do out[#out + 1] = g:totable() end
  core.tape_clear()
  context.mode = "eval"
  out[#out + 1] = n(x):totable()
  for _, l in ipairs { n.body, n.body.list[4].list[1] } do
    for _, r in ipairs(l.runs) do pads = pads + (r.is_norm and r.options.pad or 0) end
  end
  context.reset(0, "cpu", {})
  return out, pads
end

T.test("a norm makes the mirrored border of the convolution behind it, where the device wants that", function()
  if not core.plugin "emu".ready then return T.skip("norm with a border", "no libsumi_emu.so") end
  local want, none = block_on "cpu"
  local got, pads = block_on "emu"
  T.eq({ none, pads }, { 0, 4 })
  T.eq(#got, #want)
  for k, v in ipairs(want) do
    local most = 0
    for _, a in ipairs(v) do most = math.max(most, math.abs(a)) end
    T.ok(most > 0, "result " .. k .. " says nothing")
    for i, a in ipairs(v) do T.near(got[k][i], a, 2e-4 * most, ("result %d, number %d"):format(k, i)) end
  end
end)

T.test("a norm says which border it cannot mirror", function()
  fresh()
  local norm, x = core.ops.norm, full(1, { 2, 4, 5, 3 })
  T.raises(function() norm(x, { pad = 4 }) end, "norm: a mirrored border of 4 wants an image larger than it; has [2,4,5,3]")
  T.raises(function() norm(x, { pad = -1 }) end, "norm: pad must not be negative, is -1")
  T.raises(function() norm(full(1, { 4, 3 }), { pad = 1 }) end, "norm: pad mirrors images [n,h,w,c], has [4,3]")
  local stat = full(1, { 3 })
  T.raises(function() core.ops.norm_gx(x, x, stat, stat, { pad = 1 }) end, "norm_gx: gy wants [2,6,7,3], has [2,4,5,3]")
end)

T.test("schedules", function()
  fresh()
  local r = ramp { 1, 0, from = 99, to = 200 }
  T.eq(schedule.value(r, 99, 0), 1)
  T.near(schedule.value(r, 100, 0), 1 - 1 / 101, 1e-15)
  T.eq(schedule.value(r, 250, 0), 0)
  T.near(schedule.value(cosine { 2, 0, epochs = 10 }, 5, 0), 1, 1e-12)
  T.near(schedule.value(step { 1, at = { 3, 6 }, gamma = 0.1 }, 6, 0), 0.01, 1e-15)
  T.eq(schedule.value(ramp { 0, 10, epochs = 10, unit = "step" }, 0, 5), 5)
  T.eq(schedule.value(function(e) return e * 2 end, 4, 0), 8)
end)

T.test("the pool returns the first images themselves, then old ones half of the time", function()
  fresh()
  local p, returned = pool(3), {}
  core.rng(0, 0, 0)
  for k = 1, 200 do returned[k] = p(full(k, { 1, 2, 2, 1 })):rows(1):totable()[1] end
  T.eq({ returned[1], returned[2], returned[3] }, { 1, 2, 3 })
  local old, at = 0, {}
  for k = 4, 200 do
    old = old + (returned[k] ~= k and 1 or 0)
    T.ok(returned[k] <= k, "an image from the future")
    T.ok(not at[returned[k]] or returned[k] <= 3, "an image that was replaced came back")
    if returned[k] ~= k then at[returned[k]] = true end
  end
  T.ok(old > 70 and old < 130, old .. " of 197 were old")
  T.eq(pool(0)(full(7, { 1, 1, 1, 1 })):item(), 7)
end)

T.test("a batch goes through the pool picture by picture: none is lost, none comes twice", function()
  fresh()
  local size, n, came = 4, 3, {}
  local p = pool(size)
  core.rng(6, 0, 0)
  local gone, swapped = {}, 0
  for k = 0, 59 do
    local x = tensor({ 3 * k + 1, 3 * k + 2, 3 * k + 3 }, { n, 1, 1, 1 })
    for j, v in ipairs(p(x):totable()) do
      came[#came + 1] = v
      swapped = swapped + (v ~= 3 * k + j and 1 or 0)
      if #came > size then
        T.ok(not gone[v], "picture " .. v .. " came twice")
        gone[v] = true
      end
    end
  end
  for _, v in ipairs(p.images:totable()) do
    T.ok(not gone[v], "picture " .. v .. " is stored, but was handed out")
    gone[v] = true
  end
  for v = size + 1, 180 do T.ok(gone[v], "picture " .. v .. " is lost") end
  T.eq(p.count, size)
  T.ok(swapped > 60 and swapped < 120, swapped .. " of 176 were older ones")
end)

T.test("an average follows its net", function()
  fresh()
  local G = net { input = 1, linear(1, { bias = false }) }
  local A = average { G, decay = 0.5 }
  local w0 = G.params[1].tensor:item()
  play({ "avg", data = counter(1), steps = 1,
    players = { player { "G", G, sgd { 1 }, loss = { up = function() return G(full(1, { 1, 1 })):sum() * -1 end } } } }, 1)
  T.near(G.params[1].tensor:item(), w0 + 1, 1e-6)
  T.near(A.params[1].tensor:item(), w0 + 0.5, 1e-6)
  T.near(A(full(1, { 1, 1 })):item(), w0 + 0.5, 1e-6)
end)

T.test("times: a critic plays several rounds, each with a batch of its own", function()
  fresh()
  local seen = { D = {}, G = {} }
  local D, G = net { input = 1, linear(1) }, net { input = 1, linear(1) }
  local function loss_of(name, n)
    return function(x)
      seen[name][#seen[name] + 1] = x.x:item()
      return n(x.x):sum()
    end
  end
  local g = play({ "rounds", data = counter(1), steps = 2, players = {
    player { "D", D, sgd { 0.1 }, times = 3, loss = { a = loss_of("D", D) } },
    player { "G", G, sgd { 0.1 }, every = 2, loss = { a = loss_of("G", G) } } } }, 2)
  T.eq(seen.D, { 0, 1, 2, 3, 4, 5 })
  T.eq(seen.G, { 2 })
  T.eq(g.names, { "loss/D/a" }, "what step 2 logs: each term once, from the last round")
end)

T.test("a weight of 0 is not computed", function()
  fresh()
  local D, called = net { input = 1, linear(1) }, 0
  play({ "zero", data = counter(1), steps = 1, players = { player { "D", D, sgd { 0.1 }, loss = {
    a = function(x) return D(x.x):sum() end,
    b = { 0, function(x) called = called + 1 return D(x.x):sum() end } } } } }, 1)
  T.eq(called, 0)
end)

T.test("the gradient penalty pulls a critic's slope to 1", function()
  fresh()
  local D = net { input = 2, linear(16), tanh(), linear(1) }
  local g = play({ "gp", data = { batch = 32, get = function() return { x = randn(32, 2) } end }, steps = 300, players = {
    player { "D", D, adam { 1e-2 }, loss = { gp = function(x) return gradient_penalty(D, x.x, x.x * 0.5) end } } } }, 300)
  T.ok(g.values[1] < 0.02, "the penalty is still " .. g.values[1])
end)

T.test("a custom step updates players one by one", function()
  fresh()
  local D = net { input = 1, linear(1) }
  local before = D.params[1].tensor:item()
  play({ "own", data = counter(1), steps = 1, step = function(game, x)
      game:update("D", x)
    end,
    players = { player { "D", D, sgd { 0.1 }, loss = { a = function(x) return D(x.x + 1):sum() end } } } }, 1)
  T.near(D.params[1].tensor:item(), before - 0.1, 1e-6)
end)

T.test("adam's eps_hat adds eps before the bias correction", function()
  fresh()
  for _, hat in ipairs { false, true } do
    local p, g, m, v = full(1, { 1 }), full(0.1, { 1 }), full(0, { 1 }), full(0, { 1 })
    core.ops.adam(p, g, m, v, nil, 0.01, 0.9, 0.999, 0.5, 0, 1, hat)
    local vt = 0.001 * 0.01
    local want = hat and 1 - 0.01 * math.sqrt(1 - 0.999) / 0.1 * 0.01 / (math.sqrt(vt) + 0.5) or 1 - 0.01 * 0.1 / (0.1 + 0.5)
    T.near(p:item(), want, 1e-6)
  end
end)

T.test("a tensor of a step that has ended says so", function()
  fresh()
  core.step_begin(0, 0)
  local t, kept = randn(3), randn(3):keep()
  core.step_end()
  T.raises(function() return t + 1 end, "belonged to a step that has ended")
  T.eq(#(kept + 1):totable(), 3)
end)

T.test("gradients flow through gradients: the second derivative of x^3 is 6x", function()
  fresh()
  local x = watch(full(2, { 1 }))
  local d1 = grad((x * x * x):sum(), x)
  local d2 = grad(d1:sum(), x)
  T.near(d1:item(), 12, 1e-5)
  T.near(d2:item(), 12, 1e-5)
end)

T.test("a saved value that was overwritten is noticed", function()
  fresh()
  local w = full(3, { 2 }):learn()
  local y = (w * w):sum()
  core.ops.fill(w, 5)
  T.raises(function() return grad(y, w) end, "written in place")
  core.tape_clear()
end)

return T.done()
