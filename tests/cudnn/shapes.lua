-- shapes.lua -- the convolutions of the shipped experiments, one line each, as the scripts' own networks have
-- them (nothing is trained):
--   n h w ci co kh kw stride pad groups direction bias act leak name direction: y (conv) or gx (upconv) is
-- what runs forwards; a mirrored image is counted as the padded one it becomes.
--   sumi lua tests/cudnn/shapes.lua SCRIPT...
local core = require "sumi.core"
local context = require "sumi.context"
local net = require "sumi.net"
local sumi = require "sumi"

-- Folders of data need not be there.
for _, source in ipairs { "images", "mnist", "ring" } do
  rawset(sumi, source, function() return { get = function() end } end)
end

local acts = { none = 0, relu = 1, lrelu = 2, tanh = 3 }
local seen = {}

local function emit(name, l, s, out, batch)
  local o = l.options
  local h, w, p = s[1], s[2], l.pad
  if o.edge == "reflect" then h, w, p = h + 2 * p, w + 2 * p, 0 end
  local x, y, groups = { h, w, s[3] }, out, o.groups or 1
  if l.kind == "upconv" then x, y = out, s end
  local line = ("%d %d %d %d %d %d %d %d %d %d %s %d %d %d"):format(batch, x[1], x[2], x[3], y[3], l.k, l.k,
    l.stride, p, groups, l.kind == "conv" and "y" or "gx", l.b and 1 or 0, acts[o.act or "none"], o.leak or 0)
  if not seen[line] then print(line .. " " .. name) end
  seen[line] = true
end

-- What comes out of layer l for an input of shape s; rows: what the net noted of its plain layers, in order
-- of building.
local function walk(l, s, rows, visit)
  if not l.list then
    rows.at = rows.at + 1
    local out = rows[rows.at].shape
    if l.kind == "conv" or l.kind == "upconv" then visit(l, s, out) end
    return out
  end
  local out = s
  for _, inner in ipairs(l.list) do out = walk(inner, out, rows, visit) end
  return l.kind == "skip" and { s[1], s[2], s[3] + out[3] } or out
end

for _, script in ipairs(arg) do
  context.reset(0, "cpu", {})
  context.config = nil
  local game = dofile(script):game()
  for _, n in ipairs(context.nets) do
    assert(net.is(n))
    n.rows.at = 0
    walk(n.body, n.input, n.rows, function(l, s, out)
      emit(script:match "([^/]*)%.lua$" .. "/" .. n.name, l, s, out, game.config.batch)
    end)
    assert(n.rows.at == #n.rows, "not every layer was met")
  end
end
