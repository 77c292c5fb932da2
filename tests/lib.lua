-- lib.lua -- what the Lua tests share: counting, comparing, and the last line that tests/run adds up.
--
--   local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
--   T.test("addition", function() T.eq(1 + 1, 2) end)
--   return T.done()
--
-- Only failures are printed (all tests with `-v` among the arguments).
local T = { passed = 0, failed = 0, skipped = 0, verbose = false, dir = arg[0]:match "^(.*)/" or "." }

for _, a in ipairs(arg) do T.verbose = T.verbose or a == "-v" end

function T.show(v)
  if type(v) == "string" then return ("%q"):format(v) end
  if type(v) ~= "table" or (getmetatable(v) or {}).__tostring then return tostring(v) end
  local keys, parts = {}, {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(keys) do
    local name = math.type(k) == "integer" and "" or tostring(k) .. "="
    parts[#parts + 1] = name .. T.show(v[k])
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

-- One result. `message` says what was wrong; it is printed only then.
function T.check(name, ok, message)
  if ok then
    T.passed = T.passed + 1
    if T.verbose then print("ok      " .. name) end
  else
    T.failed = T.failed + 1
    print("FAILED  " .. name .. (message and ": " .. tostring(message) or ""))
  end
  return ok
end

function T.skip(name, why)
  T.skipped = T.skipped + 1
  print("skipped " .. name .. ": " .. why)
end

-- A test passes when fn returns; its checks raise.
function T.test(name, fn)
  local ok, err = xpcall(fn, function(e)
    return type(e) == "string" and T.verbose and debug.traceback(e, 2) or e
  end)
  return T.check(name, ok, err)
end

function T.ok(v, message) return v or error(message or "is " .. tostring(v), 2) end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b or (a ~= a and b ~= b) end
  for k, v in pairs(a) do
    if not same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

-- Equal values; tables by content.
function T.eq(got, want, what)
  if same(got, want) then return end
  error(("%s%s, wanted %s"):format(what and what .. ": " or "", T.show(got), T.show(want)), 2)
end

-- text holds the Lua pattern.
function T.match(text, pattern)
  return text:find(pattern) or error(("no match of '%s' in: %s"):format(pattern, text), 2)
end

function T.near(got, want, tolerance, what)
  if math.abs(got - want) <= tolerance then return end
  error(("%s%.9g, wanted %.9g +- %g"):format(what and what .. ": " or "", got, want, tolerance), 2)
end

-- fn must raise a message that contains `text` (plain). Returns the message.
function T.raises(fn, text)
  local ok, err = pcall(fn)
  if ok then error(("nothing was raised; wanted an error with '%s'"):format(text), 2) end
  err = tostring(err)
  if not err:find(text, 1, true) then error(("raised '%s', wanted '%s' in it"):format(err, text), 2) end
  return err
end

-- A fresh directory for a test's files, under TMPDIR.
function T.tmpdir()
  local pipe = assert(io.popen("mktemp -d"))
  local dir = pipe:read "l"
  pipe:close()
  return dir
end

-- What runs a Lua file here: the words before its name.
function T.interpreter()
  local exe = require("sumi.core").realpath "/proc/self/exe"
  return exe:find "/lua[^/]*$" and { exe } or { exe, "lua" }
end

-- Run tests/NAME by the interpreter that runs this test, with `prefix` (assignments, timeout ...) before it, as core.spawn does.
function T.child(prefix, name, ...)
  local core = require "sumi.core"
  local argv = { "env" }
  for _, list in ipairs { prefix, T.interpreter(), { T.dir .. "/" .. name }, { ... } } do
    for _, a in ipairs(list) do argv[#argv + 1] = tostring(a) end
  end
  return core.spawn(argv)
end

-- The last line, and the exit code: `return T.done()` at the end of the file.
-- The declared game of a script of experiments/; its data are not open yet.
function T.declared(name, knobs, seed, device)
  local context = require "sumi.context"
  context.reset(seed, device, knobs)
  context.config = nil
  require("sumi.data").base = { T.dir .. "/../experiments" }
  return dofile(("%s/../experiments/%s.lua"):format(T.dir, name)):game()
end

-- A hash of everything of a game that a checkpoint holds.
function T.bits(game)
  local parts = {}
  for _, t in ipairs(game:tensors()) do parts[#parts + 1] = t[1] .. t[2]:raw() end
  return require("sumi.core").sha256(table.concat(parts))
end

function T.done()
  print(("%d passed, %d failed, %d skipped"):format(T.passed, T.failed, T.skipped))
  return T.failed == 0 and 0 or 1
end

return T
