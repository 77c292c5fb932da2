-- metric.lua -- what is looked at while a game is trained: sample grids, mode counts, and measures of the script's own.
-- A metric is {every = N steps or "epoch", start(self, game), run(self, game, step) -> {{name, value}...}}; it never changes the run:
-- it draws from its own random stream and updates no running statistics.
local core = require "sumi.core"
local util = require "sumi.util"
local context = require "sumi.context"
local ops = core.ops

local metric = {}
local Metric = {}
Metric.__index = Metric
Metric.__name = "sumi.metric"

function metric.is(v) return getmetatable(v) == Metric end

local function make(kind, spec, names, fields)
  util.strict(spec, names, kind, true)
  local every = spec.every or fields.every or 500
  if every ~= "epoch" and (math.type(every) ~= "integer" or every < 1) then
    core.fail(('%s: every is a number of steps or "epoch", got %s'):format(kind, util.show(every)))
  end
  fields.at = core.where()
  fields.kind, fields.every, fields.spec = kind, every, spec
  return setmetatable(fields, Metric)
end

-- The same noise each time: whatever a metric draws, it draws from (seed, stream 3).
function metric.quietly(f)
  local was, mode = core.recording(false), context.mode
  context.mode = "sample"
  core.rng(context.seed, 0, 3)
  local ok, err = pcall(f)
  context.mode = mode
  core.recording(was)
  if not ok then error(err, 0) end
end

-- ---- grids of samples ----

local function is_picture(t)
  local s = core.is_tensor(t) and t:shape()
  return s and #s == 4 and (s[4] == 1 or s[4] == 3)
end

-- Pictures among what forward made, and the data beside them where there are any.
local function default_fields(x)
  local out = {}
  for _, k in ipairs { "a", "ab", "fake", "b", "ba" } do
    if is_picture(x[k]) then out[#out + 1] = k end
  end
  if #out == 1 or (#out == 2 and not x.a) then return { "fake" } end
  return out
end

-- Examples kept for the whole run, so that pictures of different steps can be compared.
local function fixed_batches(game, n)
  local out, have = {}, 0
  while have < n do
    local x = game.data:get(#out)
    for _, k in ipairs(util.names(x)) do x[k]:keep() end
    out[#out + 1] = x
    have = have + game.data.batch
    if game.data.batch == 0 then break end
  end
  return out
end

local function rows_of(batches, fields, n)
  local tiles
  local count = 0
  for _, x in ipairs(batches) do
    for k = 1, #x[fields[1]] do
      if count < n then
        for _, f in ipairs(fields) do
          local t = x[f]:rows(k)
          local more = tiles and ops.concat(tiles, t, 1) or t
          if tiles then core.drop(tiles) end   -- or their memory would grow with the square of n
          tiles = more
        end
        count = count + 1
      end
    end
  end
  return tiles, count
end

local function grid_run(self, game, step)
  local spec = self.spec
  local dir, name = game.run.dir, ("samples/%s-%08d.png"):format(self.tag, step)
  metric.quietly(function()
    local made = {}
    for k, fixed in ipairs(self.batches) do
      local x = game:batch(fixed)
      game.forward(x)
      made[k] = x
    end
    local fields = self.fields or default_fields(made[1])
    for _, f in ipairs(fields) do
      if not is_picture(made[1][f]) then
        core.fail(("grid: x.%s is %s, no picture; pictures are [n,h,w,1] or [n,h,w,3]"):format(f, util.show(made[1][f])))
      end
    end
    local tiles, count = rows_of(made, fields, self.n)
    local cols = #fields > 1 and #fields * (spec.columns or 1) or spec.columns or math.ceil(math.sqrt(count))
    local rows = math.ceil(count * #fields / cols)
    core.mkdir_p(dir .. "/samples")
    core.image_grid(dir .. "/" .. name, tiles, rows, cols)
    game.run:sample(step, self.tag, name, rows, cols)
  end)
  return {}
end

-- grid{"fake" or several fields of x, every = 500, n = 64, columns =}: a PNG of samples with fixed noise and fixed data; several
-- fields stand side by side, one row for each example.
function metric.grid(spec)
  local fields
  if type(spec) ~= "table" then core.fail('grid: wants fields of x, grid { "fake", every = 500 }; got ' .. util.show(spec)) end
  for k, f in ipairs(spec) do
    if type(f) ~= "string" then core.fail("grid: fields of x are named by strings, got " .. util.show(f)) end
    fields = fields or {}
    fields[k] = f
  end
  return make("grid", spec, { "every", "n", "columns", "tag" }, { fields = fields, run = grid_run,
    tag = spec.tag or (fields and table.concat(fields, "-")) or "samples",
    start = function(self, game)
      self.n = spec.n or (fields and #fields > 1 and 4) or (game.data.batch >= 8 and math.min(64, game.data.batch)) or 4
      self.batches = fixed_batches(game, self.n)
    end })
end

-- ---- modes of a toy ----

local function count_modes(points, modes, std)
  local hits, good, v = {}, 0, points:totable()
  local near = (3 * std) ^ 2
  for k = 1, #v, 2 do
    for m, c in ipairs(modes) do
      if (v[k] - c[1]) ^ 2 + (v[k + 1] - c[2]) ^ 2 <= near then
        hits[m] = (hits[m] or 0) + 1
        good = good + 1
        break
      end
    end
  end
  local covered = 0
  for m = 1, #modes do covered = covered + (hits[m] and 1 or 0) end
  return covered, good / (#v / 2)
end

-- modes{"fake", every = 500, samples = 2500}: of a toy (ring, points_grid), how many modes have a sample within three deviations, and
-- the share of samples that are that near to one (Metz et al. 2017).
function metric.modes(spec)
  return make("modes", spec, { "every", "samples" }, {
    start = function(_, game)
      if not game.data.modes then core.fail("modes: only ring{...} and points_grid{...} have modes to count") end
    end,
    run = function(_, game)
      local covered, good
      local modes, points = game.data.modes, nil
      metric.quietly(function()
        while not points or #points < (spec.samples or 2500) do
          local x = game:batch(game.data:get(0))
          game.forward(x)
          points = points and ops.concat(points, x[spec[1] or "fake"], 1) or x[spec[1] or "fake"]
        end
        covered, good = count_modes(points, modes, game.data.std)
      end)
      game.last_words = ("modes %d of %d"):format(covered, #modes)
      return { { "modes", covered, "higher" }, { "good_samples", good, "higher" } }
    end })
end

-- measure{"name", function(game, step) return number end, every = 500, better = "lower"}: a number of the script's own.
function metric.measure(spec)
  if type(spec) ~= "table" or type(spec[1]) ~= "string" or type(spec[2]) ~= "function" then
    core.fail('measure: measure{"name", function(game, step) return number end}')
  end
  return make("measure", spec, { "every", "better" }, { run = function(_, game, step)
    local v
    metric.quietly(function() v = spec[2](game, step) end)
    if core.is_tensor(v) then v = v:item() end
    if type(v) ~= "number" then
      core.fail_at(core.where(spec[2]), ("measure %s: its function must return a number, it returned %s"):format(spec[1],
        util.show(v)))
    end
    return { { spec[1], v, spec.better or "lower" } }
  end })
end

return metric
