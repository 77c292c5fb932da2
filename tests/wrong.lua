-- wrong.lua -- what a script that is wrong is told. Every tests/wrong/NAME.lua is run as a person would run it; exit code and message
-- must be those of NAME.err to the letter, the script's line included. Its first lines may say how:
--   -- args: knob=value ...        -- exit: N        (1 if it is not said)
-- The folder of the runs is shown as RESULTS.   ./sumi lua tests/wrong.lua [-v] [--write] [NAME...]     from the repository's root
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local exe = core.realpath "/proc/self/exe"
local dir = T.dir .. "/wrong"
local tmp = T.tmpdir()

local wanted, write = {}, false
for _, a in ipairs(arg) do
  if a == "--write" then write = true                          -- new messages become the expected ones: read them
  elseif a:sub(1, 1) ~= "-" then wanted[#wanted + 1] = a end
end
if #wanted == 0 then
  for _, file in ipairs(assert(core.listdir(dir))) do wanted[#wanted + 1] = file:match "^(.*)%.lua$" end
end

-- The script's name is given as tests/wrong/NAME.lua, wherever the tests lie: that is what messages name.
local function run(name)
  local script = ("%s/%s.lua"):format(dir, name)
  local text = assert(core.read_file(script))
  local head = text:match "^%-%-[^\n]*\n%-%-[^\n]*\n" or text:match "^[^\n]*\n"
  local results = tmp .. "/" .. name
  local argv = { "env", "OMP_NUM_THREADS=1", "NO_COLOR=1", exe, "run", script, "--results", results, "-q" }
  for a in (head:match "%-%- args: ([^\n]*)" or ""):gmatch "%S+" do argv[#argv + 1] = a end
  local code, out, err = core.spawn(argv)
  return { code = code, out = out, err = err:gsub(results:gsub("%p", "%%%0"), "RESULTS"), exit = tonumber(head:match "%-%- exit: (%d+)") or 1 }
end

-- A message names the script, and shows no stack and no inside of the library.
local function well_formed(name, err)
  T.ok(err:find(("wrong/%s.lua:"):format(name), 1, true) == #T.dir + 2, "does not begin with the script: " .. err)
  T.ok(not err:find "stack traceback" and not err:find "inside the library" and not err:find "table: 0x", "shows our insides: " .. err)
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
