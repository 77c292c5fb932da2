-- test_readme.lua -- the README is true: its shell commands succeed (make demo and make test are run by CI itself), its script trains, and its
-- op compiles.
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local root = T.dir .. "/.."
local tmp = T.tmpdir()
local text = core.read_file(root .. "/README.md")
local sumi = core.realpath "/proc/self/exe"

local function blocks(kind)
  local out = {}
  for body in text:gmatch("\n```" .. kind .. "\n(.-)\n```") do out[#out + 1] = body end
  return out
end

-- Runs land in a folder of their own; the commands are otherwise as they stand.
local function sh(command)
  local line = ("cd %q && export SUMI_RESULTS=%q && %s"):format(core.realpath(root), tmp .. "/results", command)
  return core.spawn { "bash", "-c", line }
end

local n = 0
for _, body in ipairs(blocks "sh") do
  for line in body:gmatch "[^\n]+" do
    local command = line:gsub("%s+#.*$", ""):gsub("%f[%w]results/", tmp .. "/results/"):gsub("^%./sumi", sumi)
    if not command:find "^make " then
      n = n + 1
      local code, _, err = sh(command)
      T.check(line:gsub("%s+#.*$", ""), code == 0, ("exit %s: %s"):format(tostring(code), err))
    end
  end
end
T.check("the README shows commands", n >= 8, n)

for k, body in ipairs(blocks "lua") do
  local path = ("%s/readme%d.lua"):format(tmp, k)
  core.write_file_atomic(path, body .. "\n")
  local code, out, err = sh(("%s run %s steps=20 -q"):format(sumi, path))
  T.check("the script of the README trains", code == 0 and out:find "modes %d of 8", err)
end

for k, body in ipairs(blocks "c") do
  local path = ("%s/op%d.c"):format(tmp, k)
  core.write_file_atomic(path, body .. "\n")
  local code, _, err = sh(("${CC:-gcc} -std=c11 -Wall -Wextra -Werror -Iruntime/ops -Iruntime -c %s -o %s/op.o"):format(path, tmp))
  T.check("the op of the README compiles", code == 0, err)
end

return T.done()
