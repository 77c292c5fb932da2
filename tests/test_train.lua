-- test_train.lua -- what training promises: no call to the system's allocator and flat memory from the second step on, the same bits for the
-- same seed, whatever the number of loader threads, and metrics that leave a run alone.
local core = require "sumi.core"
local context = require "sumi.context"
local game_of = require "sumi.game"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")


-- A script of experiments/ as a playable game, without a record.
local function load_game(name, knobs, seed)
  local g = game_of.new(T.declared(name, knobs, seed))
  g.data:open { seed = context.seed, device = "cpu" }
  g.per_epoch = g.data:steps_per_epoch()
  return g
end

local bytes = T.bits

local function steps(g, from, to)
  for at = from, to - 1 do g:step_once(at) end
  return g
end

local small = {
  { "rings", { width = "32" } },
  { "gan_mnist", { width = "16" } },
  { "dcgan", { size = "16", width = "4", batch = "8" } },
  { "pix2pix", { size = "32", width = "4" } },
  { "cyclegan", { size = "32", width = "4", blocks = "1", pool = "4" } },
}

for _, e in ipairs(small) do
  T.test(e[1] .. ": no system allocation and flat memory from the second step on", function()
    local g = steps(load_game(e[1], e[2]), 0, 2)
    steps(g, 2, 30)                    -- Lua's collector finds its own pace meanwhile
    collectgarbage()
    local calls, arena = core.sys_allocs(), core.arena()
    steps(g, 30, 90)
    local after = core.arena()
    T.eq(core.sys_allocs() - calls, 0, "calls of the system's allocator in 60 steps")
    T.eq(after.used, arena.used, "bytes in use")
    T.eq(after.top, arena.top, "bytes ever touched")
    g.data:close()
  end)

  T.test(e[1] .. ": the same seed gives the same bits, another seed others", function()
    local a = bytes(steps(load_game(e[1], e[2], 5), 0, 4))
    local b = bytes(steps(load_game(e[1], e[2], 5), 0, 4))
    local c = bytes(steps(load_game(e[1], e[2], 6), 0, 4))
    T.eq(a, b, "two runs of seed 5")
    T.ok(a ~= c, "seeds 5 and 6 gave the same weights")
  end)
end

T.test("the number of loader threads changes nothing", function()
  local hashes = {}
  for k, n in ipairs { 0, 1, 3 } do
    local g = load_game("cyclegan", small[5][2])
    g.data:close()
    g.data.options.threads = n
    g.data:open { seed = 0, device = "cpu" }
    hashes[k] = bytes(steps(g, 0, 4))
  end
  T.eq(hashes[2], hashes[1])
  T.eq(hashes[3], hashes[1])
end)

T.test("looking at a run does not change it", function()
  local quiet = bytes(steps(load_game("dcgan", small[3][2]), 0, 3))
  local g = load_game("dcgan", small[3][2])
  local dir = T.tmpdir()
  g.run = { dir = dir, sample = function() end }
  g.seconds = 0
  for _, m in ipairs(g.metrics) do m:start(g) end
  for at = 0, 2 do
    g:step_once(at)
    for _, m in ipairs(g.metrics) do
      core.step_begin(0, at)
      m:run(g, at + 1)
      core.step_end()
    end
  end
  T.eq(bytes(g), quiet)
  T.ok(core.stat(dir .. "/samples/fake-00000003.png"), "no picture was written")
end)

T.test("players learn from their own losses alone", function()
  local _ENV = require "sumi"
  context.reset(0, "cpu", {})
  local G = net { input = 4, linear(4) }
  local D = net { input = 4, linear(1) }
  local g0, d0 = G.params[1].tensor:raw(), D.params[1].tensor:raw()
  local e = experiment { "two", data = { get = function() return { x = randn(8, 4) } end, batch = 8 }, steps = 1,
    forward = function(x) x.fake = G(x.x) end,
    players = { player { "D", D, sgd { 0.1 }, loss = { adv = function(x) return bce(D(x.fake), 0) end } } } }
  local g = game_of.new(e:game())
  g.per_epoch = 1
  g:step_once(0)
  T.ok(D.params[1].tensor:raw() ~= d0, "D did not learn")
  T.eq(G.params[1].tensor:raw(), g0, "G learned from D's loss")
end)

T.test("a staged walk gives the gradients of one walk over the weighted sum", function()
  local _ENV = require "sumi"
  context.reset(3, "ref", {})
  local F, D = net { input = 5, linear(7), tanh() }, net { input = 7, linear(1) }
  local x = randn(6, 5)
  local function losses(y) return mse(D(y), 1), l1(y, 0.25), (y * y):mean() end
  local ps = {}
  for _, p in ipairs(F.params) do ps[#ps + 1] = p.tensor end
  core.tape_clear()
  local a, b, c = losses(F(x))
  local want = core.grad(a * 2 + b * 0.5 + c * 3, ps)
  core.tape_clear()
  local y = F(x)
  local mark = core.tape_mark()
  for k, w in ipairs { 2, 0.5, 3 } do
    local t = select(k, losses(y))
    core.pass_seed(t, w)
    core.pass_walk(mark, core.tape_mark(), ps, true)
  end
  core.pass_walk(0, mark, ps, true)
  local got = core.pass_take(ps)
  for k = 1, #ps do
    local d = ((got[k] - want[k]):abs()):sum():item()
    T.near(d, 0, 1e-12, "gradient " .. k)
  end
  core.tape_clear()
  context.reset(0, "cpu", {})
end)

return T.done()
