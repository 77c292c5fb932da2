-- context.lua -- what the script being loaded declares: nets, pools, averages, in the order in which it makes them.
-- One script is loaded at a time; the trainer reads this list, names what is in it, and keeps it in checkpoints.
local core = require "sumi.core"
local util = require "sumi.util"

local context = { seed = 0, device = "cpu", mode = "train", precision = "f32", nets = {}, pools = {}, averages = {}, knobs = {} }

-- Forget the last script. Weights are drawn from (seed, stream 2) in the order in which nets are made.
function context.reset(seed, device, knobs)
  context.seed, context.device, context.mode = seed or 0, device or "cpu", "train"
  context.nets, context.pools, context.averages = {}, {}, {}
  context.knobs, context.known = knobs or {}, {}
  core.set_device(context.device)
  context.set_precision "f32"
  core.rng(context.seed, 0, 2)
end

-- ---- precision: what nets compute in ----

-- f32; tf32: f32 whose convolutions and products may round their operands to 10 bits, on devices that have it; bf16: activations
-- and the operands of convolutions and products have 8 bits, sums, statistics, losses, weights and optimisers stay f32.
context.precisions = { "f32", "tf32", "bf16" }

-- "f32" or what is given; anything else is the mistake of whoever is blamed, with exit code `code`.
function context.check_precision(p, what, code)
  for _, known in ipairs(context.precisions) do
    if p == nil or p == known then return p end
  end
  core.fail(code or 1, ('%s is one of %s; got %s'):format(what, table.concat(context.precisions, ", "), util.show(p)))
end

local function check_cpu()
  local cpu = core.cpu()
  if cpu.bf16 or os.getenv "SUMI_BF16" == "force" then return end
  core.fail(6, "precision bf16: this CPU multiplies no bf16 (it has neither AVX512-BF16 nor AMX), so it would be slower than " ..
    "f32; use precision = \"f32\", or SUMI_BF16=force to compute it all the same")
end

-- A device that cannot is refused; on the CPU tf32 is f32.
function context.set_precision(p)
  if p ~= "f32" and context.device == "ref" then
    core.fail(2, ("precision %s: ref computes in float64, which is the specification; use --device cpu, or precision = \"f32\""):format(p))
  end
  if p == "bf16" and context.device == "cpu" then check_cpu() end
  core.set_tf32(p == "tf32")
  context.precision = p
end

return context
