-- test_bf16.lua -- training in bf16: what stays f32, how near it is to f32, the same bits after a resume, flat memory,
-- large convolutions in parts, and who is refused. What single ops do on small cases is in ops.lua. Runs on every CPU:
-- where bf16 would be refused it is forced.
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local core = require "sumi.core"
local context = require "sumi.context"
local game_of = require "sumi.game"
local _ENV = setmetatable({ T = T, core = core, game_of = game_of, arg = arg }, { __index = require "sumi" })
context = require "sumi.context"

local here = T.dir .. "/.."
local exe = core.realpath "/proc/self/exe"

local function fresh(precision, seed)
  context.reset(seed or 0, "cpu", {})
  context.precision = precision          -- not set_precision, which asks the CPU
end

-- ---- a small GAN ----

local function small_gan(precision, replay)
  fresh(precision)
  local G = net { input = {1, 1, 16}, init = normal(0.02), upconv(16, 4, 1, { pad = 0 }), bn(), relu(),
    upconv(8, 4, 2), bn(), relu(), upconv(3, 4, 2), tanh() }
  local D = net { input = {16, 16, 3}, init = normal(0.02), conv(8, 4, 2), lrelu(0.2), conv(16, 4, 2), bn(), lrelu(0.2),
    conv(1, 4, 1, { pad = 0 }) }
  local data = { batch = 16, get = function(_, step)
    core.rng(1, step, 9)
    local x = tanh(randn(16, 16, 16, 3) * 0.3 + 0.5)
    core.rng(0, step, 0)
    return { x = x }
  end }
  local opt = adam { 2e-4, beta1 = 0.5 }
  local g = game_of.new(experiment { "small", data = data, steps = 1000, replay = replay,
    forward = function(x) x.fake = G(randn(16, 1, 1, 16)) end,
    players = {
      player { "D", D, opt, loss = {
        real = function(x) return bce(D(x.x), 1) end,
        fake = function(x) return bce(D(x.fake), 0) end } },
      player { "G", G, opt, loss = { adv = function(x) return bce(D(x.fake), 1) end } } } }:game())
  g.per_epoch = 10
  return g, G, D
end

local function play(g, first, last)      -- from one line, whose name is interned once
  for at = first, last do g:step_once(at) end
end

local function losses(precision, steps)
  local g, out = small_gan(precision), {}
  for at = 0, steps - 1 do
    g:step_once(at)
    out[at + 1] = table.move(g.values, 1, #g.values, 1, {})
  end
  return out, g
end

T.test("thirty steps in bf16 stay near those in f32", function()
  local a, b = losses("f32", 30), losses("bf16", 30)
  local same = true
  for k = 1, #a[1] do
    local sum = 0
    for at = 1, 30 do
      T.near(b[at][k] / a[at][k], 1, 0.1, ("step %d, loss %d (f32 %g)"):format(at, k, a[at][k]))
      same = same and a[at][k] == b[at][k]
      sum = sum + b[at][k] / a[at][k] / 30
    end
    T.near(sum, 1, 0.02, ("loss %d on average"):format(k))
  end
  T.ok(not same, "bf16 computed the very numbers of f32")
end)

T.test("weights, their gradients and the optimiser are f32, what nets hand out is bf16", function()
  local g, G, D = small_gan "bf16"
  g:step_once(0)
  for _, t in ipairs(g:tensors()) do T.eq(t[2]:dtype(), "f32", t[1]) end
  local y = G(randn(2, 1, 1, 16))
  T.eq(y:dtype(), "bf16")
  T.eq(bce(D(y), 1):dtype(), "f32")
  T.eq(grad(bce(D(y), 1), D.params[1].tensor):dtype(), "f32")
  T.eq(D(y):rows(1):item(), D(y):totable()[1])
  core.tape_clear()
end)

T.test("a gradient in bf16 points where that in f32 does", function()
  local found = {}
  for _, precision in ipairs { "f32", "bf16" } do
    local _, _, D = small_gan(precision)
    core.rng(3, 0, 0)
    local x = randn(16, 16, 16, 3)
    local gx = grad(mse(D(x), 1), D.params[1].tensor)
    found[precision] = gx
    core.tape_clear()
  end
  local far = square(found.bf16 - found.f32):sum():item() / square(found.f32):sum():item()
  T.ok(far > 0 and far ^ 0.5 < 0.1, "relative distance " .. far ^ 0.5)
end)

T.test("bf16: no system allocation and flat memory from the second step on", function()
  for _, replay in ipairs { false, true } do
    local g = small_gan("bf16", replay)
    play(g, 0, 59)                       -- Lua's collector finds its own pace meanwhile
    collectgarbage()
    local calls, arena = core.sys_allocs(), core.arena()
    play(g, 60, 119)
    T.eq(core.sys_allocs() - calls, 0, "calls of the system's allocator, replay " .. tostring(replay))
    T.eq(core.arena().used, arena.used, "bytes in use")
    T.eq(core.arena().top, arena.top, "bytes ever touched")
  end
end)

T.test("replayed or played op by op: the same bits", function()
  local hash = {}
  for _, replay in ipairs { false, true } do
    local g = small_gan("bf16", replay)
    for at = 0, 9 do g:step_once(at) end
    local parts = {}
    for _, t in ipairs(g:tensors()) do parts[#parts + 1] = t[2]:raw() end
    hash[#hash + 1] = core.sha256(table.concat(parts))
  end
  T.eq(hash[2], hash[1])
end)

-- ---- convolutions large enough to be cut into parts ----

local function farthest(a, b)
  local d = core.ops.abs(core.ops.cast(a, "f32") - b):totable()
  local size, far = 0, 0
  for k, v in ipairs(b:totable()) do size, far = math.max(size, math.abs(v)), math.max(far, d[k]) end
  return far / size
end

-- images, height = width, ci, co, kernel, stride, pad, edge; bands of rows with a rest, groups of images with a rest,
-- gw of many pixels (summed) and of few (groups of outputs), channels that fill no block, rows that nothing reads
for _, c in ipairs { { 1, 97, 24, 40, 3, 1, 1, "zero" }, { 1, 96, 16, 48, 3, 2, 1, "zero" }, { 37, 17, 20, 72, 4, 2, 1, "zero" },
  { 3, 41, 40, 33, 3, 1, 1, "reflect" }, { 1, 61, 3, 64, 7, 1, 3, "reflect" }, { 1, 64, 32, 100, 4, 2, 1, "zero" },
  { 4, 22, 30, 46, 3, 3, 0, "zero" } } do
  T.test("conv in bf16 against f32: " .. table.concat(c, " "), function()
    fresh "f32"
    local n, size, ci, co, k, s, pad, edge = table.unpack(c)
    local out = (size + 2 * pad - k) // s + 1
    local function pair(shape)
      local low = core.ops.cast(core.rand(shape, -1, 1), "bf16")
      return low, core.ops.cast(low, "f32")
    end
    local x, X = pair { n, size, size, ci }
    local w, W = pair { co, k, k, ci }
    local g, G = pair { n, out, out, co }
    local b, bx = core.rand({ co }, -1, 1), core.rand({ ci }, -1, 1)
    local o = { stride = s, pad = pad, edge = edge, act = "lrelu", leak = 200 }
    local ox = { stride = s, pad = pad, edge = edge, size = { size, size } }
    local ow = { stride = s, pad = pad, edge = edge, kernel = { k, k } }
    local ops = core.ops
    T.ok(farthest(ops.conv(x, w, b, o), ops.conv(X, W, b, o)) < 2 ^ -8, "y")
    T.ok(farthest(ops.conv_gx(g, w, bx, ox), ops.conv_gx(G, W, bx, ox)) < 2 ^ -8, "gx with a bias")
    T.ok(farthest(ops.conv_gx(g, w, nil, ox), ops.conv_gx(G, W, nil, ox)) < 2 ^ -8, "gx")
    T.ok(farthest(ops.conv_gw(x, g, ow), ops.conv_gw(X, G, ow)) < 2 ^ -16, "gw")
    T.eq(ops.conv_gw(x, g, ow):raw(), ops.conv_gw(x, g, ow):raw(), "gw again")
    local threads = core.threads()
    core.threads(1)
    local alone = ops.conv_gw(x, g, ow):raw()
    core.threads(threads)
    T.eq(ops.conv_gw(x, g, ow):raw(), alone, "gw by one thread")
  end)
end

-- ---- casts of weights ----

T.test("a weight is cast once, again when it changes, and again when its cast was spent", function()
  fresh "bf16"
  core.tape_clear()
  local w = full(1.5, { 4 }):learn():keep()
  local a, v = core.cast_once(w, "bf16")
  local b = core.cast_once(w, "bf16", a, v)
  T.ok(rawequal(a, b), "cast twice")
  core.ops.fill(w, 2.5)
  local c, u = core.cast_once(w, "bf16", a, v)
  T.eq(c:totable(), { 2.5, 2.5, 2.5, 2.5 })
  local mark = core.tape_mark()
  local loss = core.ops.sum(core.ops.mul(c, c))
  core.pass_seed(loss, 1)
  core.pass_walk(0, core.tape_mark(), { w }, true)
  T.eq(core.pass_take({ w })[1]:totable(), { 5, 5, 5, 5 })
  local d = core.cast_once(w, "bf16", c, u)
  T.ok(not rawequal(c, d), "a spent cast was used again")
  core.recording(false)
  local e, n = core.cast_once(w, "bf16")
  core.recording(true)
  T.ok(not rawequal(e, (core.cast_once(w, "bf16", e, n))), "an unrecorded cast was used where gradients are wanted")
  core.tape_clear()
end)

T.test("two losses of one player, a net used twice: gradients as in f32", function()
  local found = {}
  for _, precision in ipairs { "f32", "bf16" } do
    fresh(precision)
    local G, D = net { input = 4, linear(8), tanh(), linear(4) }, net { input = 4, linear(8), tanh(), linear(1) }
    local before = {}
    for k, p in ipairs(G.params) do before[k] = p.tensor:totable() end
    local data = { batch = 8, get = function() return { x = full(0.5, { 8, 4 }) } end }
    local g = game_of.new(experiment { "twice", data = data, steps = 1,
      forward = function(x) x.fake = G(x.x) end,
      players = { player { "G", G, sgd { 1 }, loss = { cycle = function(x) return mse(G(x.fake), x.x) end,
        adv = function(x) return mse(D(x.fake), 1) end, again = function(x) return l1(G(x.x), 0.1) end } } } }:game())
    g.per_epoch = 1
    g:step_once(0)
    local d = {}
    for k, p in ipairs(G.params) do
      for j, v in ipairs(p.tensor:totable()) do d[#d + 1] = v - before[k][j] end
    end
    found[precision] = d
  end
  local far, size = 0, 0
  for k, v in ipairs(found.f32) do far, size = far + (v - found.bf16[k]) ^ 2, size + v ^ 2 end
  T.ok(far > 0 and far / size < 0.03 ^ 2, "relative distance " .. (far / size) ^ 0.5)
end)

T.test("the gradient penalty, a gradient of a gradient, in bf16", function()
  fresh "bf16"
  local D = net { input = 2, linear(16), tanh(), linear(1) }
  local data = { batch = 32, get = function() return { x = randn(32, 2) } end }
  local g = game_of.new(experiment { "gp", data = data, steps = 300, players = {
    player { "D", D, adam { 1e-2 }, loss = { gp = function(x) return gradient_penalty(D, x.x, x.x * 0.5) end } } } }:game())
  g.per_epoch = 10
  for at = 0, 299 do g:step_once(at) end
  T.ok(g.values[1] < 0.02, "the penalty is still " .. g.values[1])
end)

T.test("a pool keeps bf16 pictures", function()
  fresh "bf16"
  local p = pool(2)
  core.rng(0, 0, 0)
  local x = core.ops.cast(full(3, { 1, 2, 2, 1 }), "bf16")
  T.eq(p(x):dtype(), "bf16")
  T.eq(p.images:dtype(), "bf16")
  T.eq(p(x):totable(), { 3, 3, 3, 3 })
end)

-- ---- the command ----

local tmp = T.tmpdir()

local function sumi(env, ...)
  local argv = { "env", "NO_COLOR=1", "SUMI_BF16=force" }
  for _, e in ipairs(env) do argv[#argv + 1] = e end
  argv[#argv + 1] = exe
  for _, a in ipairs { ... } do argv[#argv + 1] = a end
  return core.spawn(argv)
end

local tiny = { "size=32", "width=4", "blocks=1", "critic=4", "layers=1", "pool=3" }

local function train(results, steps, precision)
  local script = here .. "/experiments/cyclegan.lua"
  local code, _, err = sumi({}, "run", script, "--results", tmp .. "/" .. results, "-q", "--steps", tostring(steps), "--precision", precision,
    table.unpack(tiny))
  T.eq(code, 0, err)
  return tmp .. "/" .. results .. "/cyclegan/default/seed-0"
end

local function weights(dir)
  local code, out, err = sumi({}, "show", dir, "--weights-hash")
  T.eq(code, 0, err)
  return out:match "%x+"
end

T.test("a resumed bf16 run has the bits of one that was not interrupted", function()
  local whole, cut = train("whole", 6, "bf16"), train("cut", 3, "bf16")
  local code, _, err = sumi({}, "resume", cut, "--steps", "6", "-q")
  T.eq(code, 0, err)
  T.eq(weights(cut), weights(whole))
  local _, out = sumi({}, "show", cut, "--env")
  T.ok(out:find "precision%s+bf16", "the record does not say bf16: " .. out)
  T.ok(weights(train("f32", 6, "f32")) ~= weights(whole), "f32 gave the same weights")
end)

T.test("another precision is another run", function()
  local script = here .. "/experiments/cyclegan.lua"
  local code, _, err = sumi({}, "run", script, "--results", tmp .. "/whole", "-q", "--steps", "6",
    table.unpack(tiny))
  T.eq(code, 2)
  T.ok(err:find("precision bf16 -> f32", 1, true), err)
end)

T.test("who cannot is told why and what would be right", function()
  local script = here .. "/experiments/rings.lua"
  local function try(env, ...) return sumi(env, "run", script, "--results", tmp .. "/refused", "-q", "--steps", "1", ...) end
  local code, _, err = try({ "SUMI_BF16=", "SUMI_CPU_WITHOUT=bf16" }, "precision=bf16")
  T.eq(code, 6)
  for _, words in ipairs { "multiplies no bf16", 'precision = "f32"', "SUMI_BF16=force" } do
    T.ok(err:find(words, 1, true), err)
  end
  code = try({ "SUMI_CPU_WITHOUT=bf16" }, "precision=bf16", "--fresh")
  T.eq(code, 0, "forced")
  code, _, err = try({}, "precision=bf16", "--device", "ref")
  T.eq(code, 2)
  T.ok(err:find("ref computes in float64", 1, true), err)
  code, _, err = try({}, "precision=half")
  T.eq(code, 2)
  T.ok(err:find("--precision is one of f32, tf32, bf16; got 'half'", 1, true), err)
  code, _, err = try({}, "precision=tf32", "--fresh")
  T.eq(code, 0, err)
  T.ok(err:find("on the CPU this is f32", 1, true), err)
end)

for _, e in ipairs { "rings width=16", "gan_mnist width=16", "dcgan size=16 width=4 batch=8", "pix2pix size=32 width=4" } do
  T.test("a few steps in bf16: " .. e, function()
    local words = {}
    for w in e:gmatch "%S+" do words[#words + 1] = w end
    local script = ("%s/experiments/%s.lua"):format(here, table.remove(words, 1))
    local code, _, err = sumi({}, "run", script, "--results", tmp .. "/few", "-q", "--steps", "4", "precision=bf16",
      table.unpack(words))
    T.eq(code, 0, err)
  end)
end

core.spawn { "rm", "-rf", tmp }
return T.done()
