-- wrong.lua -- what a script that is wrong is told. Every tests/wrong/NAME.lua is run as a person would run it; exit
-- code and message must be those of NAME.err to the letter, the script's line included. Its first lines may say how:
--   -- args: knob=value ...     -- env: NAME=value     -- exit: N (1 if it is not said)
-- The folder of the runs is shown as RESULTS. Messages name scripts as they were called, so from the repository's root:
--   ./sumi lua tests/wrong.lua [-v] [--write] [NAME...]
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local exe = core.realpath "/proc/self/exe"
local dir = T.dir .. "/wrong"
local tmp = T.tmpdir()

local wanted, write = {}, false
for _, a in ipairs(arg) do
  if a == "--write" then write = true      -- new messages become the expected ones: read them
  elseif a:sub(1, 1) ~= "-" then wanted[#wanted + 1] = a end
end
if #wanted == 0 then
  for _, file in ipairs(assert(core.listdir(dir))) do wanted[#wanted + 1] = file:match "^(.*)%.lua$" end
end

local function run(name)
  local script = ("%s/%s.lua"):format(dir, name)
  local text = assert(core.read_file(script))
  local head = text:match "^(.-)\nlocal _ENV" or ""
  local results = tmp .. "/" .. name
  local env = head:match "%-%- env: ([^\n]*)" or "SUMI_TRACE="
  local argv = { "env", "OMP_NUM_THREADS=1", "NO_COLOR=1", env, exe, "run", script, "--results", results, "-q" }
  for a in (head:match "%-%- args: ([^\n]*)" or ""):gmatch "%S+" do argv[#argv + 1] = a end
  local code, out, err = core.spawn(argv)
  return { code = code, out = out, err = (err:gsub(results:gsub("%p", "%%%0"), "RESULTS")),
    exit = tonumber(head:match "%-%- exit: (%d+)") or 1 }
end

-- A message names the script, and shows no stack and no inside of the library.
local function well_formed(name, err)
  T.ok(err:find(("%s/%s.lua:"):format(dir, name), 1, true) == 1, "does not begin with the script: " .. err)
  for _, words in ipairs { "stack traceback", "inside the library", "table: 0x", "function: 0x" } do
    T.ok(not err:find(words, 1, true), "shows our insides: " .. err)
  end
end

for _, name in ipairs(wanted) do
  T.test("wrong/" .. name, function()
    local got = run(name)
    local path = ("%s/%s.err"):format(dir, name)
    if write then assert(core.write_file_atomic(path, got.err)) end
    T.eq(got.err, core.read_file(path) or "", "message")
    T.eq(got.code, got.exit, "exit code")
    T.eq(got.out, "", "standard output")
    well_formed(name, got.err)
  end)
end

core.spawn { "rm", "-rf", tmp }
return T.done()
