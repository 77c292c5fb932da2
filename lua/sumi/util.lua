-- util.lua -- strict option tables and "did you mean". Used wherever a script hands over names.
local core = require "sumi.core"

local util = {}

-- Edits between two words: insert, delete, replace, swap neighbours (optimal string alignment).
local function distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

-- The name in the list nearest to the given one, nil if none is near. Ties go to the first.
function util.suggest(name, list)
  name = tostring(name)
  local best, at
  for _, candidate in ipairs(list) do
    local d = distance(name:lower(), candidate:lower())
    local longer = math.max(#name, #candidate)
    local near = d <= math.max(1, longer // 3) and d < longer
    if near and (not best or d < best) then best, at = d, candidate end
  end
  return at
end

-- "; did you mean 'x'?" or, when nothing is near, "; there are a, b, c".
function util.did_you_mean(name, list)
  local near = util.suggest(name, list)
  if near then return ("; did you mean '%s'?"):format(near) end
  return #list > 0 and "; there are " .. table.concat(list, ", ") or ""
end

-- " (did you mean 'x'?)", or "" when nothing is near.
function util.meant(name, list)
  local near = util.suggest(name, list)
  return near and (" (did you mean '%s'?)"):format(near) or ""
end

-- Names of a map's string keys, sorted: order never comes from pairs.
function util.names(map)
  local list = {}
  for k in pairs(map) do
    if type(k) == "string" then list[#list + 1] = k end
  end
  table.sort(list)
  return list
end

-- A value as a message names it: no addresses, so that a message is the same each time.
local show
function show(v)
  if type(v) == "string" then return ("'%s'"):format(v) end
  if core.is_tensor(v) then return tostring(v):match "^[^{ ]*" end
  if type(v) ~= "table" and type(v) ~= "function" then return tostring(v) end
  if type(v) == "table" and #v > 0 and #v <= 4 and not getmetatable(v) then
    local parts = {}
    for k = 1, #v do parts[k] = type(v[k]) == "table" and "a table" or show(v[k]) end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  local name = type(v) == "table" and rawget(getmetatable(v) or {}, "__name")
  local noun = name and name:gsub("^sumi%.", "") or type(v)
  return (noun:find "^[aeiou]" and "an " or "a ") .. noun
end
util.show = show

local function is_kind(v, kind)
  if kind == "any" then return true end
  if kind == "integer" then
    return math.type(v) == "integer" or (type(v) == "number" and v == math.floor(v) and math.abs(v) < 2^53)
  end
  if kind == "callable" then
    local meta = getmetatable(v)
    return type(v) == "function" or (type(meta) == "table" and meta.__call ~= nil)
  end
  return type(v) == kind
end

local article = {integer = "a whole number", number = "a number", string = "a string", table = "a table",
                 boolean = "true or false", ["function"] = "a function", callable = "a function"}

local function check_value(name, v, rule, what)
  local kinds, fits = {}, false
  for kind in (rule.type or "any"):gmatch "%a+" do
    fits = fits or is_kind(v, kind)
    kinds[#kinds + 1] = article[kind] or kind
  end
  if not fits then
    core.fail(("%s: %s must be %s, not %s"):format(what, name, table.concat(kinds, " or "), show(v)))
  end
  if rule.choices then
    for _, choice in ipairs(rule.choices) do
      if v == choice then return v end
    end
    local near = util.suggest(v, rule.choices)
    core.fail(("%s: %s = %s is not one of '%s'%s"):format(what, name, show(v),
      table.concat(rule.choices, "', '"), near and ("; did you mean '%s'?"):format(near) or ""))
  end
  if type(v) ~= "number" then return v end
  if v ~= v then core.fail(("%s: %s is not a number (nan)"):format(what, name)) end
  local least, most = rule.min or v, rule.max or v
  if v < least then core.fail(("%s: %s must be at least %s, not %s"):format(what, name, least, show(v))) end
  if v > most then core.fail(("%s: %s must be at most %s, not %s"):format(what, name, most, show(v))) end
  return kinds[1] == article.integer and #kinds == 1 and math.tointeger(v) or v
end

-- Check the table `given` against `spec` and return a new one with the defaults filled in. A spec entry
-- is a type ("integer", or several: "integer|table") or {type=, default=, choices={...}, min=, max=,
-- required=true}; spec[1], spec[2] ... are positional. An unknown name is an error with a suggestion.
-- `what` names the caller in messages.
function util.options(given, spec, what)
  given = given == nil and {} or given
  if type(given) ~= "table" then
    core.fail(("%s: wants a table of options, not %s"):format(what, show(given)))
  end
  local out, names = {}, util.names(spec)
  for _, name in ipairs(util.names(given)) do
    if spec[name] == nil then
      core.fail(("%s: there is no option '%s'%s"):format(what, name, util.did_you_mean(name, names)))
    end
  end
  for k in pairs(given) do
    if type(k) ~= "string" and spec[k] == nil then
      core.fail(("%s: takes %d positional value%s; name the others: %s"):format(what, #spec,
        #spec == 1 and "" or "s", table.concat(names, ", ")))
    end
  end
  for i = 1, #spec do names[#names + 1] = i end
  for _, name in ipairs(names) do
    local rule, v = spec[name], given[name]
    if type(rule) == "string" then rule = {type = rule} end
    local label = math.type(name) and "value " .. name or name
    if v ~= nil then out[name] = check_value(label, v, rule, what)
    elseif rule.required then core.fail(("%s: %s is missing"):format(what, label))
    else out[name] = rule.default end
  end
  return out
end

-- Names alone: every string key of `given` is one of `names`, or an error with a suggestion. Without
-- `positional` a list part is an error too. Returns given.
function util.strict(given, names, what, positional)
  if type(given) ~= "table" then core.fail(("%s: wants a table, not %s"):format(what, show(given))) end
  local known = {}
  for _, k in ipairs(names) do known[k] = true end
  for _, k in ipairs(util.names(given)) do
    if not known[k] then
      core.fail(("%s: there is no option '%s'%s"):format(what, k, util.did_you_mean(k, names)))
    end
  end
  if not positional and #given > 0 then
    core.fail(("%s: options have names: %s"):format(what, table.concat(names, ", ")))
  end
  return given
end

-- 1234567 -> "1,234,567"
function util.thousands(n)
  local s = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (s:gsub("^,", ""))
end

return util
