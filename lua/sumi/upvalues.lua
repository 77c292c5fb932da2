-- upvalues.lua -- what the functions of a script remember between calls: numbers, strings and booleans in their upvalues, and in plain tables and
-- functions that these hold. A replayed step does not call them, so a counter in a loss must be noticed; a dry step calls them
-- once too often, so it must be put back. Fields that a step adds to a table count as well.
local upvalues = {}

local library <const> = debug.getinfo(1, "S").source:match "^@(.*/)" or "@"
local DEPTH <const>, FIELDS <const> = 3, 1000

local function of_library(f)
  local source = debug.getinfo(f, "S").source
  return source:sub(1, 1) ~= "@" or source:sub(2, #library + 1) == library
end

local plain = { number = true, string = true, boolean = true, ["nil"] = true }

local look                              -- look(value, name, depth, snap)

local function look_function(f, name, depth, snap)
  if of_library(f) then return end
  for k = 1, 255 do
    local n, v = debug.getupvalue(f, k)
    if not n then return end
    if plain[type(v)] then snap[#snap + 1] = { f = f, k = k, v = v, name = n }
    else look(v, n, depth + 1, snap) end
  end
end

local function look_table(t, name, depth, snap)
  if getmetatable(t) ~= nil then return end
  local n, had = 0, {}
  for k, v in next, t do
    n = n + 1
    if n > FIELDS then return end
    had[k] = true
    local field = ("%s.%s"):format(name, tostring(k))
    if plain[type(v)] then snap[#snap + 1] = { t = t, k = k, v = v, name = field }
    else look(v, field, depth + 1, snap) end
  end
  snap[#snap + 1] = { t = t, had = had, name = name }
end

-- A field that was not there.
local function added(e)
  for k in next, e.t do
    if not e.had[k] then return k end
  end
end

function look(v, name, depth, snap)
  local kind = type(v)
  if depth > DEPTH or snap.seen[v] or (kind ~= "function" and kind ~= "table") then return end
  snap.seen[v] = true
  if kind == "function" then look_function(v, name, depth, snap)
  else look_table(v, name, depth, snap) end
end

local function now(e)
  if e.t then return rawget(e.t, e.k) end
  local _, v = debug.getupvalue(e.f, e.k)
  return v
end

-- The state of a list of functions as it is now.
function upvalues.of(functions)
  local snap = { seen = {} }
  for _, f in ipairs(functions) do look(f, "", 0, snap) end
  snap.seen = nil
  return snap
end

-- The name of something that is not as it was, or nil.
function upvalues.changed(snap)
  for _, e in ipairs(snap) do
    local new = e.had and added(e)
    if new ~= nil then return ("%s.%s"):format(e.name, tostring(new)) end
    local v = now(e)
    if not e.had and v ~= e.v and not (v ~= v and e.v ~= e.v) then return e.name end
  end
end

function upvalues.restore(snap)
  for _, e in ipairs(snap) do
    if e.had then
      for k in added, e do e.t[k] = nil end
    elseif e.t then e.t[e.k] = e.v
    else debug.setupvalue(e.f, e.k, e.v) end
  end
end

return upvalues
