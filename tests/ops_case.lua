-- ops_case.lua -- an op's case, from its text: tensors with their numbers, and options. What the text means is in ops.lua.

-- "x, stride:int2=1, edge:enum(a|b)=a" -> { {name=, kind=, optional=} ... }; kind nil: a tensor
local function signature(sig)
  local inside = sig:match "^[%w_]+(%b())":sub(2, -2)
  local params = {}
  for part in inside:gsub("%b()", ""):gmatch "[^,]+" do
    local name, optional, kind = part:match "^%s*([%w_]+)(%??):?([%w]*)"
    params[#params + 1] = { name = name, kind = kind ~= "" and kind or nil, optional = optional == "?" }
  end
  return params
end

-- splitmix64: the numbers depend on the text of the case and on the seed
local seed = 0
local function generator(text)
  local state = 1469598103934665603 + seed
  for k = 1, #text do state = (state ~ text:byte(k)) * 1099511628211 end
  return function()
    state = state + 0x9E3779B97F4A7C15
    local z = state
    z = (z ~ z >> 30) * 0xBF58476D1CE4E5B9
    z = (z ~ z >> 27) * 0x94D049BB133111EB
    return ((z ~ z >> 31) >> 11) * 2.0 ^ -53
  end
end

local function f32(v) return (string.unpack("<f", string.pack("<f", v))) end

-- To bf16: nearest, ties to even.
local function bf16(v)
  local u = string.unpack("<I4", string.pack("<f", v))
  return (string.unpack("<f", string.pack("<I4", (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000)))
end

local makers = {
  pos = function(u) return f32(0.5 + u()) end,
  ["01"] = function(u) return f32(u()) end,
  signed = function(u)
    local size = 0.05 + 1.95 * u()
    return f32(u() < 0.5 and -size or size)
  end,
}

local function volume(shape)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return n
end

local function fill(n, make, u)
  local v = {}
  for k = 1, n do v[k] = make(u) end
  return v
end

local function ints(text)
  local list = {}
  for word in text:gmatch "-?%d+" do list[#list + 1] = math.tointeger(tonumber(word)) end
  return list
end

local function parse_tensor(text, u)
  local shape, what = text:match "^([%d,()]*)@?(%w*)$"
  if not shape then error(("'%s' is no tensor; write 2,3 or 2,3@pos"):format(text)) end
  local t = { shape = ints(shape) }
  local below = what == "u8" and 256 or what:match "^int(%d+)$"
  local make = makers[what == "" and "signed" or what]
  if below then
    t.dtype = what == "u8" and "u8" or "i32"
    make = function() return math.floor(u() * tonumber(below)) end
  end
  t.v = fill(volume(t.shape), make or error("unknown contents @" .. what), u)
  return t
end

local function parse_option(kind, text)
  if kind == "enum" then return text end
  if kind == "real" then return tonumber(text) end
  local list = ints(text)
  if kind == "shape" or kind == "axes" or #list > 1 then return list end
  return list[1]
end

-- -> { op=, text=, u=generator, tensors = {{name=, shape=, v=, dtype=, written=}...}, options = {} }
local function parse_case(op, text)
  local c = { op = op, text = text, u = generator(op.name .. text), tensors = {}, options = {} }
  local words, slot = {}, 0
  for name, value in text:gmatch "([%w_]+)=(%S*)" do words[name] = value end
  for _, p in ipairs(signature(op.sig)) do
    local word = words[p.name]
    words[p.name] = nil
    if word and p.kind then c.options[p.name] = parse_option(p.kind, word) end
    if word and not p.kind then
      local t = parse_tensor(word, c.u)
      t.name, t.written, t.active = p.name, op.writes >> slot & 1 == 1, op.f32 >> slot & 1 == 0 and not t.dtype
      c.tensors[#c.tensors + 1] = t
    end
    if not p.kind then slot = slot + 1 end
  end
  if next(words) then error(("case '%s': the op has no %s"):format(text, (next(words)))) end
  return c
end

-- The case with its activations in bf16, or nil if it has none.
local function lowered(c)
  if c.op.any_dtype then return end
  local low, any = { op = c.op, text = c.text, u = generator(c.text), tensors = {}, options = c.options, low = true }, false
  for k, t in ipairs(c.tensors) do
    local copy = {}
    for name, v in pairs(t) do copy[name] = v end
    low.tensors[k] = copy
    if t.active then
      any = true
      copy.v, copy.low = {}, true
      for j, x in ipairs(t.v) do copy.v[j] = bf16(x) end
    end
  end
  return any and low or nil
end

return { set_seed = function(n) seed = n end, parse = parse_case, lowered = lowered, fill = fill, makers = makers, bf16 = bf16 }
