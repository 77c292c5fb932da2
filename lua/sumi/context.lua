-- context.lua -- what the script being loaded declares: nets, pools, averages, in the order in which it makes them.
-- One script is loaded at a time; the trainer reads this list, names what is in it, and keeps it in checkpoints.
local context = { seed = 0, device = "cpu", mode = "train", nets = {}, pools = {}, averages = {}, knobs = {} }

-- Forget the last script. Weights are drawn from (seed, stream 2) in the order in which nets are made.
function context.reset(seed, device, knobs)
  local core = require "sumi.core"
  context.seed, context.device, context.mode = seed or 0, device or "cpu", "train"
  context.nets, context.pools, context.averages = {}, {}, {}
  context.knobs, context.known = knobs or {}, {}
  core.set_device(context.device)
  core.rng(context.seed, 0, 2)
end

return context
