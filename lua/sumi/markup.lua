-- markup.lua -- small parts for writing HTML: escaping, a buffer, links, numbers and dates as text.
local core = require "sumi.core"

local markup = {}

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }
function markup.esc(x) return (tostring(x):gsub("[&<>\"']", escapes):gsub("[%z\1-\8\11\12\14-\31]", "?")) end

-- A small buffer: add("text %s", ...) formats, and every %s is escaped; raw() adds as is.
function markup.buffer()
  local b = {}
  function b.raw(s) b[#b + 1] = s end
  function b.add(fmt, ...)
    local args = table.pack(...)
    for i = 1, args.n do
      if type(args[i]) == "string" then args[i] = markup.esc(args[i]) end
    end
    b[#b + 1] = fmt:format(table.unpack(args, 1, args.n))
  end
  function b.text() return table.concat(b, "\n") end
  return b
end

function markup.thousands(n)
  local s = ("%d"):format(n)
  repeat
    local k
    s, k = s:gsub("^(%-?%d+)(%d%d%d)", "%1,%2")
  until k == 0
  return s
end

function markup.seed_text(seed)
  return tostring(math.tointeger(seed) or seed)
end

function markup.date(t)
  if type(t) == "number" then return os.date("!%Y-%m-%d %H:%M", math.floor(t)) end
  return t and (tostring(t):gsub("T", " "):gsub("%.%d+", ""):gsub("Z$", "")) or "–"
end

-- "../x" from folder `from` to `to`, for links that survive moving the whole results folder.
function markup.relative(from, to)
  local a, b = {}, {}
  for part in (core.realpath(from) or from):gmatch "[^/]+" do a[#a + 1] = part end
  for part in (core.realpath(to) or to):gmatch "[^/]+" do b[#b + 1] = part end
  local k = 0
  while k < #a and k < #b and a[k + 1] == b[k + 1] do k = k + 1 end
  local out = {}
  for _ = k + 1, #a do out[#out + 1] = ".." end
  table.move(b, k + 1, #b, #out + 1, out)
  return #out > 0 and table.concat(out, "/") or "."
end

function markup.url(path)
  return (path:gsub("[^%w/%-_.~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- "1 run", "1,200 runs"
function markup.plural(n, word) return ("%s %s%s"):format(markup.thousands(n), word, n == 1 and "" or "s") end

return markup
