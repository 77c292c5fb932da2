-- json.lua -- JSON that gives back what it was given: integers stay integers, doubles keep all 17 digits,
-- NaN and infinities are written as Python's json writes and reads them. Object keys are sorted, so equal
-- tables have equal texts. (lua-cjson keeps 14 digits and no order: good for showing, not for resuming to
-- the same bits.)
local M = {}

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
  ["\t"] = "\\t" }

local function escape_byte(c) return escapes[c] or string.format("\\u%04x", c:byte()) end

local function quote(s)
  s = s:gsub('[%c"\\\127]', escape_byte)
  if not utf8.len(s) then s = s:gsub("[\128-\255]", escape_byte) end   -- not UTF-8: each byte as that code point
  return '"' .. s .. '"'
end

local function number(x)
  if math.type(x) == "integer" then return string.format("%d", x) end
  if x ~= x then return "NaN" end
  if x == math.huge then return "Infinity" end
  if x == -math.huge then return "-Infinity" end
  local s = string.format("%.15g", x)                    -- the shortest that reads back as the same double
  if tonumber(s) ~= x then s = string.format("%.16g", x) end
  if tonumber(s) ~= x then s = string.format("%.17g", x) end
  if not s:find "[.e]" then s = s .. ".0" end
  return s
end

local encode

local function encode_table(t, out, depth)
  if depth > 100 then error("json: tables nested deeper than 100, or in a circle") end
  local n = #t
  if n > 0 then
    out[#out + 1] = "["
    for i = 1, n do
      if i > 1 then out[#out + 1] = "," end
      encode(t[i], out, depth + 1)
    end
    out[#out + 1] = "]"
    return
  end
  local keys = {}
  for k in pairs(t) do
    if type(k) ~= "string" then error("json: a table has numbers 1..n or strings as keys, not " .. tostring(k)) end
    keys[#keys + 1] = k
  end
  table.sort(keys)
  out[#out + 1] = "{"
  for i, k in ipairs(keys) do
    out[#out + 1] = (i > 1 and "," or "") .. quote(k) .. ":"
    encode(t[k], out, depth + 1)
  end
  out[#out + 1] = "}"
end

encode = function(v, out, depth)
  local kind = type(v)
  if kind == "table" then return encode_table(v, out, depth) end
  if kind == "string" then out[#out + 1] = quote(v)
  elseif kind == "number" then out[#out + 1] = number(v)
  elseif kind == "boolean" then out[#out + 1] = tostring(v)
  elseif kind == "nil" then out[#out + 1] = "null"
  else error("json: a " .. kind .. " cannot be written") end
end

-- An empty table is written as {}.
function M.encode(v)
  local out = {}
  encode(v, out, 0)
  return table.concat(out)
end

---- reading ----

local plain = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function fail(s, at, what)
  local _, line = s:sub(1, at):gsub("\n", "")
  error(string.format("json: %s in line %d, at byte %d", what, line + 1, at), 0)
end

local function code_unit(s, at)
  local hex = s:match("^%x%x%x%x", at)
  if not hex then fail(s, at, "\\u without four hex digits") end
  return tonumber(hex, 16)
end

local function read_escape(s, at)
  local c = s:sub(at, at)
  if plain[c] then return plain[c], at + 1 end
  if c ~= "u" then fail(s, at, "unknown escape \\" .. c) end
  local u = code_unit(s, at + 1)
  at = at + 5
  if u >= 0xD800 and u < 0xDC00 and s:sub(at, at + 1) == "\\u" then
    local low = code_unit(s, at + 2)
    if low >= 0xDC00 and low < 0xE000 then return utf8.char(0x10000 + (u - 0xD800) * 1024 + low - 0xDC00), at + 6 end
  end
  return utf8.char(u), at
end

local function read_string(s, at)
  local parts = {}
  at = at + 1
  while true do
    local stop = s:find('["\\]', at) or fail(s, #s, "a string that does not end")
    parts[#parts + 1] = s:sub(at, stop - 1)
    if s:sub(stop, stop) == '"' then return table.concat(parts), stop + 1 end
    parts[#parts + 1], at = read_escape(s, stop + 1)
  end
end

local words = { ["true"] = true, ["false"] = false, NaN = 0 / 0, Infinity = math.huge, ["-Infinity"] = -math.huge }

local function read_scalar(s, at)
  local text = s:match("^[-+.%w]+", at) or fail(s, at, "a value is missing")
  if text == "null" then return nil, at + 4 end
  if words[text] ~= nil then return words[text], at + #text end
  local x = text:find("^-?%d") and not text:find("[xX]") and tonumber(text)
  if not x then fail(s, at, "'" .. text .. "' is no value") end
  return x, at + #text
end

local read

local function skip(s, at) return s:find("[^ \t\r\n]", at) or fail(s, #s, "the text ends too early") end

local function read_items(s, at, close, each)
  at = skip(s, at + 1)
  if s:sub(at, at) == close then return at + 1 end
  while true do
    at = skip(s, each(skip(s, at)))
    local c = s:sub(at, at)
    if c == close then return at + 1 end
    if c ~= "," then fail(s, at, "',' or '" .. close .. "' is missing") end
    at = at + 1
  end
end

read = function(s, at, depth)
  if depth > 100 then fail(s, at, "more than 100 levels") end
  local c, t = s:sub(at, at), {}
  if c == '"' then return read_string(s, at) end
  if c == "[" then
    local n = 0
    return t, read_items(s, at, "]", function(from)
      n = n + 1
      t[n], from = read(s, from, depth + 1)
      return from
    end)
  end
  if c ~= "{" then return read_scalar(s, at) end
  return t, read_items(s, at, "}", function(from)
    if s:sub(from, from) ~= '"' then fail(s, from, "a key in quotes is missing") end
    local key
    key, from = read_string(s, from)
    from = skip(s, from)
    if s:sub(from, from) ~= ":" then fail(s, from, "':' is missing") end
    t[key], from = read(s, skip(s, from + 1), depth + 1)
    return from
  end)
end

-- Raises a text error for anything that is not JSON. null becomes nil.
function M.decode(s)
  local v, at = read(s, skip(s, 1), 0)
  if s:find("[^ \t\r\n]", at) then fail(s, at, "more after the value") end
  return v
end

return M
