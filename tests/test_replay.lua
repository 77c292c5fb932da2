-- test_replay.lua -- a replayed step is the played step, bit for bit; what cannot be replayed is played, and that is said once; a step
-- that does not fit the memory is refused before it runs.
local core = require "sumi.core"
local context = require "sumi.context"
local game_of = require "sumi.game"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local here = T.dir .. "/.."
local STEPS <const> = 100

local function prepared(declared)
  local g = game_of.new(declared)
  g.said = {}
  g.say = function(text) g.said[#g.said + 1] = text end
  if g.data.open then
    g.data:open { seed = context.seed, device = context.device }
    g.per_epoch = g.data:steps_per_epoch()
  end
  g.per_epoch = g.per_epoch or 10
  return g
end

local function load_game(name, knobs, device)
  return prepared(T.declared(name, knobs, 7, device))
end

local bits = T.bits

-- Play n steps -> hash of all that a checkpoint holds, everything that was logged, the game
local function run(make, n, played)
  local g = make()
  if played then g.steps_again.off = "asked for" end
  local logged = {}
  for at = 0, n - 1 do
    g:step_once(at)
    for k, name in ipairs(g.names) do logged[#logged + 1] = ("%d %s %.17g"):format(at, name, g.values[k]) end
  end
  if g.data.close then g.data:close() end
  return bits(g), table.concat(logged, "\n"), g
end

local function same_bits(make, n, device)
  local a, log_a = run(make, n, true)
  local b, log_b, g = run(make, n, false)
  T.eq(b, a, "weights, moments and pools after " .. n .. " steps")
  T.eq(log_b, log_a, "what was logged")
  T.eq(table.concat(g.said, "\n"), "", "complaints")
  local again = 0
  for _, k in pairs(g.steps_again.kinds) do again = again + k.replays end
  return again, g
end

local small = {
  { "rings", { width = "32" } },
  { "gan_mnist", { width = "16" } },
  { "dcgan", { size = "16", width = "4", batch = "8" } },
  { "pix2pix", { size = "32", width = "4" } },
  { "cyclegan", { size = "32", width = "4", blocks = "1", pool = "4", epochs = "2" } },
}
for _, e in ipairs(small) do
  T.test(("%s: %d replayed steps give the bits of played ones"):format(e[1], STEPS), function()
    local again = same_bits(function() return load_game(e[1], e[2]) end, STEPS)
    T.eq(again, STEPS - 3, "steps replayed")
  end)
end

-- On a device with graphs the recorded step becomes one: emu has CUDA's graphs, played.
local emulated = pcall(context.reset, 0, "emu", {})
for _, e in ipairs { small[3], small[4], { "cyclegan", { size = "16", width = "2", critic = "2", blocks = "1", pool = "2", layers = "1" } } } do
  if emulated then
    T.test(("%s: 10 steps of a captured graph give the bits of played ones"):format(e[1]), function()
      local again, g = same_bits(function() return load_game(e[1], e[2], "emu") end, 10)
      T.eq(again, 7, "steps replayed")
      T.eq(g.steps_again:sizes()[1].graph, true, "one graph")
    end)
  else
    T.skip(e[1] .. " as a graph", "there is no libsumi_emu.so")
  end
end

-- ---- a small game of one's own; more = what differs ----

local function own(more)
  return function()
    local _ENV = require "sumi"
    context.reset(3, "cpu", {})
    context.config = nil
    local G, D = net { input = 6, linear(8), bn(), lrelu(0.2), linear(4) }, net { input = 4, linear(8), dropout(0.3), linear(1) }
    local spec = { "own", data = { get = function() return { x = randn(16, 4), z = rand(16, 6) } end, batch = 16 }, steps = 100,
      forward = function(x) x.fake = G(x.z) end }
    spec.players = more.players and more.players(G, D) or {
      player { "D", D, adam { 1e-3 }, loss = {
        real = function(x) return bce(D(x.x), 1) end,
        fake = function(x) return (more.fake or bce)(D(x.fake), 0) end } },
      player { "G", G, adam { more.rate or 1e-3 }, loss = { adv = {more.weight or 1, function(x) return bce(D(x.fake), 1) end} } } }
    for k, v in next, more.spec or {} do spec[k] = v end
    return prepared(experiment(spec):game())
  end
end

T.test("schedules and lazy players: every kind of step is replayed with its own numbers", function()
  local weight = function(epoch, step) return step % 3 == 0 and 0 or 1 + step / 7 end
  same_bits(own { weight = weight, rate = function(_, step) return 1e-3 / (1 + step) end }, 40)
  same_bits(own { players = function(G, D)
    local _ENV = require "sumi"
    return {
      player { "D", D, sgd { 0.01, momentum = 0.9 }, times = 3, loss = { adv = function(x) return mse(D(x.x), 1) + mse(D(x.fake), 0) end } },
      player { "G", G, adam { ramp { 1e-3, 0, to = 5 } }, every = 2, loss = { adv = function(x) return mse(D(x.fake), 1) end } } }
  end }, 40)
end)

T.test("gradients of gradients are replayed", function()
  same_bits(own { players = function(G, D)
    local _ENV = require "sumi"
    return { player { "D", D, adam { 1e-3 }, loss = {
      adv = function(x) return D(x.fake):mean() - D(x.x):mean() end,
      gp = {10, function(x) return gradient_penalty(D, x.x, x.fake) end} } },
      player { "G", G, adam { 1e-3 }, loss = { adv = function(x) return -D(x.fake):mean() end } } }
  end }, 20)
end)

T.test("an average of weights follows in a replay", function()
  local avg
  local function make()
    local g = own { players = function(G, D)
      local _ENV = require "sumi"
      avg = average { G, decay = 0.9 }
      return { player { "G", G, adam { 1e-2 }, loss = { adv = function(x) return bce(D(x.fake), 1) end } } }
    end }()
    return g
  end
  same_bits(make, 20)
  T.ok(avg ~= nil, "no average")
end)

-- ---- what cannot be replayed ----

local function played_because(make, why)
  local a, log_a = run(make, 12, true)
  local b, log_b, g = run(make, 12, false)
  T.eq(b, a, "weights")
  T.eq(log_b, log_a, "what was logged")
  T.eq(#g.said, 1, "it is said once")
  T.match(g.said[1] or "", why)
end

T.test("a loss that looks at numbers is played", function()
  played_because(own { fake = function(y, t)
    local _ENV = require "sumi"
    return y:mean():item() > 0 and bce(y, t) or mse(y, t)
  end }, "played op by op, not replayed: it looks at a tensor's numbers, near .*test_replay.lua:%d+")
end)

T.test("a loss that prints, or draws Lua's numbers, is played", function()
  played_because(own { fake = function(y, t)
    local _ENV = require "sumi"
    math.random()
    return bce(y, t)
  end }, "math%.random")
  played_because(own { fake = function(y, t)
    local _ENV = require "sumi"
    print ""
    return bce(y, t)
  end }, "it prints")
  played_because(own { fake = function(y, t)
    local _ENV = require "sumi"
    io.write ""
    return bce(y, t)
  end }, "it uses io%.write")
end)

T.test("a loss with a number of its own that changes is played", function()
  local make, n = nil, 0
  make = own { fake = function(y, t)
    local _ENV = require "sumi"
    n = n + 1
    return bce(y, t) * n
  end }
  played_because(function()
    n = 0
    return make()
  end, "it changes 'n', a variable of the script")
  played_because(function()            -- what no one can see is found by comparing two recordings
    local started = 0
    local function clock()
      started = started + 1
      return started
    end
    return own { fake = setmetatable({}, { __call = function(_, y, t)
      local _ENV = require "sumi"
      return bce(y, t) * clock()
    end }) }()
  end, "op %d+ %(affine%) has another number")
end)

T.test("what a script keeps in its tables is noticed", function()
  local list
  played_because(function()
    list = {}
    return own { fake = function(y, t)
      local _ENV = require "sumi"
      list[#list + 1] = 1
      return #list > 8 and mse(y, t) or bce(y, t)
    end }()
  end, "it changes 'list%.%d+', a variable of the script")
  local spec = { step = function(game, x)
    game.forward(x)
    game:update("D", x)
    if game.values[1] > 0.69 then game:update("G", x) end
  end }
  played_because(own { spec = spec }, "it looks at what is logged")
end)

T.test("a tensor that the host and an op both write is played", function()
  played_because(own { fake = function(y, t)
    local _ENV = require "sumi"
    local e = randn(16, 1)
    e:set_raw(("\0\0\0\63"):rep(16))
    return bce(y * e, t)
  end }, "a tensor is written by the host twice, in parts, or after an op")
  played_because(own { fake = function(y, t)
    local _ENV = require "sumi"
    local e = tensor { 1, 2 }
    e:acc(tensor { 1, 1 })
    return bce(y, t) * e:mean():detach()
  end }, "op acc writes into numbers that the host gave")
end)

-- Data made by get(step), and critics that play three rounds.
local function fed(get, more)
  more = more or {}
  more.spec = { data = { get = function(_, step) return get(step) end, batch = 16 } }
  more.players = more.players or function(G, D)
    local _ENV = require "sumi"
    return { player { "D", D, sgd { 0.01 }, times = 3, loss = { adv = function(x) return mse(D(x.x), rawget(x, "k") or 1) + mse(D(x.fake), 0) end } },
      player { "G", G, adam { 1e-3 }, loss = { adv = function(x) return mse(D(x.fake), 1) end } } }
  end
  return own(more)
end

T.test("data that one tensor holds for several rounds, or with numbers beside the tensors, are played", function()
  local _ENV = setmetatable({}, { __index = function(_, k) return _G[k] or require "sumi"[k] end })
  local buffer = core.full(0, { 16, 4 }):keep()
  played_because(fed(function(step)
    buffer:set_raw(string.pack("f", step % 7):rep(64))
    return { x = buffer, z = rand(16, 6) }
  end), "the batch holds a tensor twice, or one that the step has used")
  played_because(fed(function(step) return { x = randn(16, 4), z = rand(16, 6), k = step // 20 } end),
    "the batch holds 'k', which is no tensor")
end)

T.test("batches of another shape now and then are played, the others replayed; when no recording lasts, all are played", function()
  local function get(often)
    return function(step)
      local _ENV = require "sumi"
      local n = step % often == often - 1 and 8 or 16
      return { x = randn(n, 4), z = rand(n, 6) }
    end
  end
  local players = function(G, D)
    local _ENV = require "sumi"
    return { player { "D", D, adam { 1e-3 }, loss = { adv = function(x) return mse(D(x.x), 1) + mse(D(G(x.z)), 0) end } } }
  end
  local again = same_bits(fed(get(20), { players = players }), 118)
  T.eq(again, 16, "steps replayed since the last of them")
  local a, log_a = run(fed(get(6), { players = players }), 60, true)
  local b, log_b, g = run(fed(get(6), { players = players }), 60, false)
  T.eq(b .. log_b, a .. log_a, "weights and what was logged")
  T.eq(#g.said, 1, "it is said once")
  T.match(g.said[1] or "", "the batch changed its shape from %[16,4%] to %[8,4%]")
end)

T.test("checking the memory leaves what a script keeps alone, and its data", function()
  local function same_checked(make)
    local a, log_a = run(make, 6, true)
    local g = make()
    g.steps_again.off = true
    g:check_memory(0)
    local logged = {}
    for at = 0, 5 do
      g:step_once(at)
      for k, name in ipairs(g.names) do logged[#logged + 1] = ("%d %s %.17g"):format(at, name, g.values[k]) end
    end
    T.eq(bits(g), a, "weights")
    T.eq(table.concat(logged, "\n"), log_a, "what was logged")
  end
  local last, n
  same_checked(function()
    last = core.full(0.5, { 16, 1 }):keep()
    return own { fake = function(y, t)
      local _ENV = require "sumi"
      local loss = bce(y, t) + mse(y, last)
      last = y:detach():keep()
      return loss
    end }()
  end)
  same_checked(function()
    n = 0
    return own { fake = function(y, t)
      local _ENV = require "sumi"
      n = n + 1
      while y:square():mean():item() == 0 do end
      return bce(y, t) * n
    end }()
  end)
  same_checked(function()
    n = 0
    return fed(function()
      local _ENV = require "sumi"
      n = n + 1
      return { x = randn(16, 4) + n / 10, z = rand(16, 6) }
    end)()
  end)
end)

T.test("checking the memory leaves the script's counters alone", function()
  local n = { calls = 0 }
  local g = own { fake = function(y, t)
    local _ENV = require "sumi"
    n.calls = n.calls + 1
    return bce(y, t)
  end }()
  g:check_memory(0)
  T.eq(n.calls, 0)
  g:step_once(0)
  T.eq(n.calls, 1)
end)

T.test("a step function of the script is replayed, unless it asks which step it is", function()
  local spec = { step = function(game, x)
    local _ENV = require "sumi"
    game.forward(x)
    game:update("D", x)
    game:update("G", x)
  end }
  same_bits(own { spec = spec }, 20)
  local asks = { step = function(game, x)
    game.forward(x)
    game:update(game.at % 2 == 0 and "D" or "G", x)
  end }
  played_because(own { spec = asks }, "it asks which step it is")
end)

T.test("replay = false plays every step", function()
  local _, _, g = run(own { spec = { replay = false } }, 6, false)
  T.eq(#g.steps_again:sizes(), 0)
  T.eq(#g.said, 0, "complaints")
end)

-- ---- errors ----

local function error_of(f, ...)
  local ok, err = pcall(f, ...)
  T.ok(not ok, "no error")
  return type(err) == "table" and err or { msg = tostring(err) }
end

T.test("a loss that is not finite ends a replayed step as it ends a played one", function()
  local function diverging() return own { rate = 1e30, weight = 1e30 }() end
  local said = {}
  for k, played in ipairs { true, false } do
    local g = diverging()
    g.steps_again.off = played and "asked for"
    local err
    for at = 0, 60 do
      local ok, e = pcall(g.step_once, g, at)
      if not ok then
        err = e
        break
      end
    end
    core.step_end()
    T.eq(err and err.code, 5, "the code")
    said[k] = err and err.msg .. bits(g)
  end
  T.eq(said[2], said[1])
end)

T.test("after an error in a recorded step the next game is none the worse", function()
  local make = own { spec = { forward = function() error "mine" end } }
  local g = make()
  g.steps_again.off = false
  for at = 0, 3 do T.match(error_of(g.step_once, g, at).msg, "mine") end
  core.step_end()
  same_bits(own {}, 10)
end)

-- ---- memory ----

T.test("a step that does not fit is refused before it runs, with its largest tensors", function()
  local sumi = core.realpath "/proc/self/exe"
  local dir = T.tmpdir()
  local code, _, err = core.spawn { "env", "SUMI_MEMORY=44", sumi, "run", here .. "/experiments/dcgan.lua", "width=16", "batch=64", "--steps", "2", "-q",
    "--results", dir }
  T.eq(code, 6, "exit code")
  T.match(err, "a step needs %d+%.%d MB on cpu; the budget is")
  T.match(err, "%d MB  f32%[64,%d+,%d+,%d+%] [%w_]+  .*dcgan%.lua:%d+")
  local _, plays = run(own {}, 3, true)
  local g = own {}()
  g:check_memory(0)
  T.eq(g.players[1].optimiser.t[1], 0, "a counter of the optimiser")
  local logged = {}
  for at = 0, 2 do
    g:step_once(at)
    for k, name in ipairs(g.names) do logged[#logged + 1] = ("%d %s %.17g"):format(at, name, g.values[k]) end
  end
  T.eq(table.concat(logged, "\n"), plays, "training after the check")
end)

T.test("where a recorded step has no room, steps are played", function()
  local ready = core.list_ready
  core.list_ready = function() error({ code = 6, msg = "out of memory: so many bytes\n  more of it" }, 0) end
  local ok, err = pcall(played_because, own {}, "there is no room: out of memory: so many bytes$")
  core.list_ready = ready
  if not ok then error(err, 0) end
end)

T.test("where memory is short, what recorded steps hold makes room for pictures", function()
  local sumi, codes = core.realpath "/proc/self/exe", {}
  for k, replayed in ipairs { "0", "1" } do
    codes[k] = core.spawn { "env", "SUMI_MEMORY=16", "SUMI_REPLAY=" .. replayed, sumi, "run", here .. "/experiments/dcgan.lua", "size=32", "width=16",
      "batch=64", "--steps", "5", "-q", "--results", T.tmpdir() }
  end
  T.eq(codes[1], 0, "the exit code of played steps")
  T.eq(codes[2], 0, "the exit code of replayed steps")
end)

T.test("the step's memory is laid out once", function()
  local g = load_game("dcgan", small[3][2])
  for at = 0, 5 do g:step_once(at) end
  local s = g.steps_again:sizes()[1]
  local before = core.arena().used
  for at = 6, 30 do g:step_once(at) end
  T.eq(core.arena().used, before, "bytes in use")
  T.ok(s.bytes > 0 and s.entries > 50, "there is no list")
  g.data:close()
end)

return T.done()
