-- test_device.lua -- devices from plug-ins: how they are found and refused, and what a failing
-- device leaves behind. The device is the emulator (libsumi_emu.so); what a GPU adds is in
-- tests/gpu.sh.
local core = require "sumi.core"
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")

local root = core.realpath(T.dir .. "/..")
local dir = core.realpath(T.tmpdir())

-- Run `code` in a Lua of its own; prefix: assignments and other words before it. -> exit code,
-- stdout, stderr
local function lua(prefix, code)
  core.write_file_atomic(dir .. "/code.lua", code)
  local argv = { "env" }
  for _, list in ipairs { prefix, T.interpreter(), { dir .. "/code.lua" } } do
    for _, a in ipairs(list) do argv[#argv + 1] = a end
  end
  return core.spawn(argv)
end

local function sumi(prefix, ...)
  local exe = T.interpreter()[1]
  local argv = { "env" }
  for _, list in ipairs { prefix, { exe }, { ... } } do
    for _, a in ipairs(list) do argv[#argv + 1] = a end
  end
  return core.spawn(argv)
end

-- The one line with which asking for a device fails, and its code.
local ask = [[
local core = require "sumi.core"
local ok, e = pcall(core.describe_device, %q)
local plugin = core.plugin(%q)
print(ok, type(e) == "table" and e.code, plugin.ready, plugin.path, (tostring(e):gsub("^[^ ]*: ", "")))
]]
local function refusal(name, folder)
  local _, out = lua({ "SUMI_BACKEND_DIR=" .. folder }, ask:format(name, name))
  local ok, code, ready, path, text = out:match "^(%S+)\t(%S+)\t(%S+)\t(%S+)\t([^\n]*)\n$"
  T.ok(text, "more or less than a line: " .. out)
  T.eq(ok .. " " .. code .. " " .. ready, "false 6 false")
  return text, path
end

-- ---- where plug-ins are looked for ----

T.test("a plug-in that is nowhere", function()
  local text, path = refusal("nosuch", dir)
  T.match(text, "^no device 'nosuch': no libsumi_nosuch%.so in /")
  T.ok(text:find(dir, 1, true) and text:find("/lib/sumi", 1, true), text)
  T.match(text, "; there is: ref, cpu$")
  T.eq(path, "nil")
end)

T.test("names that are no names of plug-ins are not looked for", function()
  for _, name in ipairs { "../emu", "/tmp/x", "Emu", "emu:", "emu:x", "" } do
    T.eq(refusal(name, dir), ("no device '%s': there is: ref, cpu"):format(name))
  end
end)

T.test("the current folder is not looked in", function()
  local here = dir .. "/here"
  core.mkdir_p(here)
  core.write_file_atomic(here .. "/libsumi_near.so", "found in the current folder")
  local inner = ("cd %s && exec \"$@\""):format(here)
  for _, folder in ipairs { "", dir } do
    local _, out = lua({ "SUMI_BACKEND_DIR=" .. folder, "LD_LIBRARY_PATH=" .. here, "sh", "-c", inner, "sh" }, ask:format("near", "near"))
    T.match(out, "no libsumi_near%.so in ")
  end
end)

-- ---- plug-ins that are refused ----

local function compiled(name, code)
  core.write_file_atomic(dir .. "/" .. name .. ".c", code)
  local so = ("%s/libsumi_%s.so"):format(dir, name)
  local rc, _, err = core.spawn { "cc", "-shared", "-fPIC", "-I" .. root .. "/runtime", "-o", so, dir .. "/" .. name .. ".c" }
  T.eq(rc, 0, err)
  return so
end

local entry = [[
#include "plugin.h"
#include <stdio.h>
static su_device d = {.abi = %s, .name = "x"};
su_device *sumi_plugin(uint32_t abi, const char *name, char *why, size_t n) { %s; return %s; }
]]

T.test("a file that is no shared object", function()
  core.write_file_atomic(dir .. "/libsumi_text.so", "text")
  local text, path = refusal("text", dir)
  T.match(text, "^no device 'text': /.*/libsumi_text%.so does not load %(.*%); build it anew with make; device=cpu computes here$")
  T.eq(path, dir .. "/libsumi_text.so")
end)

T.test("a shared object without the entry", function()
  compiled("empty", "int x;")
  T.match(refusal("empty", dir), "/libsumi_empty%.so is no plug%-in of Sumi %(it has no sumi_plugin%); build it anew with make;")
end)

T.test("a plug-in for another version of the program", function()
  compiled("stranger", entry:format("SU_DEVICE_ABI", "void su_gone(void); su_gone()", "&d"))
  T.match(refusal("stranger", dir), "/libsumi_stranger%.so does not load %(undefined symbol: su_gone%); build it anew with make;")
  compiled("old", entry:format("SU_DEVICE_ABI + 1", "", "&d"))
  T.match(refusal("old", dir), "/libsumi_old%.so was built for interface %d+, this program has %d+; build both anew with make;")
end)

T.test("the emulator judges the interface itself", function()
  core.write_file_atomic(dir .. "/abi.c", [[
    #include <dlfcn.h>
    #include <stdio.h>
    int main(int n, char **a) {
      char why[200];
      void *(*entry)(unsigned, const char *, char *, unsigned long) = 0;
      void *lib = dlopen(a[n - 1], RTLD_LAZY);
      if (lib) *(void **)&entry = dlsym(lib, "sumi_plugin");
      puts(!entry ? dlerror() : entry(99, "emu", why, sizeof why) ? "took it" : why);
    }]])
  local emu = core.plugin "emu".path
  if not emu then return T.skip("the emulator judges the interface itself", "it is loaded already or not there") end
  T.eq((core.spawn { "cc", "-rdynamic", "-o", dir .. "/abi", dir .. "/abi.c", "-ldl" }), 0)
  local _, out = core.spawn { dir .. "/abi", emu }
  T.match(out, "^libsumi_emu.so was built for interface %d+, this program has 99; build both anew with make\n$")
end)

T.test("a plug-in's own reason and remedy are passed on", function()
  compiled("why", entry:format("SU_DEVICE_ABI", 'snprintf(why, n, "no machine %s; buy one", name)', "0"))
  T.eq(refusal("why", dir), "no device 'why': no machine why; buy one; device=cpu computes here")
  T.eq(refusal("why:3", dir), "no device 'why:3': no machine why:3; buy one; device=cpu computes here")
end)

-- ---- a GPU that is not there ----

T.test("device=cuda without a GPU: exit 6, one line", function()
  local p = core.plugin "cuda"
  if p.ready then return T.skip("device=cuda without a GPU", "there is one") end
  for _, folder in ipairs { "", dir } do
    local code, out, err = sumi({ "SUMI_BACKEND_DIR=" .. folder }, "run", root .. "/experiments/dcgan.lua", "device=cuda",
      "--results", dir .. "/results")
    T.eq(code, 6)
    T.eq(out, "")
    T.match(err, "^no device 'cuda': [^\n]*\n$")
    if p.path then T.match(err, "; device=cpu computes here\n$") end
  end
  local code, out = sumi({}, "doctor")
  T.eq(code, 0, "doctor")
  T.match(out, p.path and "plug%-in +/[^\n]*libsumi_cuda" or "gpu +[^\n]*no libsumi_cuda%.so in /[^\n]*\n +try make")
end)

-- ---- the emulator as a device ----

T.test("emu: one device under two names", function()
  T.eq(core.describe_device "emu", "CUDA kernels emulated on this CPU: for tests")
  T.eq(core.tensor({ 1, 2 }, { 2 }, "emu:0"):device(), "emu")
  T.eq(core.plugin "emu".ready, true)
  T.raises(function() core.describe_device "emu:1" end, "no device 'emu:1': this process computes on emu")
  T.match(refusal("emu:1", ""), "^no device 'emu:1': one device is emulated, emu:1 is not there; use emu; device=cpu computes here$")
end)

T.test("a stock lua5.4 loads the plug-in too", function()
  local so = root .. "/" .. (os.getenv "BUILD" or "build") .. "/core.so"
  local has = core.spawn { "lua5.4", "-v" }
  if has ~= 0 or not core.stat(so) then return T.skip("a stock lua5.4 loads the plug-in too", "no lua5.4, or no core.so") end
  core.write_file_atomic(dir .. "/stock.lua", ([[
    package.path = %q .. "/lua/?.lua;" .. %q .. "/lua/?/init.lua;" .. package.path
    package.preload["sumi.core"] = assert(package.loadlib(%q, "luaopen_sumi_core"))
    local _ENV = require "sumi"
    print(tensor({ 1, -2, 4 }, { 3 }, "emu"):relu():sum():item())
  ]]):format(root, root, so))
  local code, out, err = core.spawn { "lua5.4", dir .. "/stock.lua" }
  T.eq(code, 0, err)
  T.eq(out, "5.0\n")
end)

-- ---- memory ----

T.test("the budget of a device is SUMI_GPU_MEMORY", function()
  local _, out = lua({ "SUMI_GPU_MEMORY=3" }, [[
    local core = require "sumi.core"
    local x = core.full(1, { 1 << 18 }, "emu")
    local ok, e = pcall(core.full, 1, { 1 << 20 }, "emu")
    print(ok, e.code, (tostring(e):gsub("\n.*", "")))
    print(core.arena "emu".used, core.full(2, { 1 << 18 }, "emu"):size())
  ]])
  T.match(out, "^false\t6\t[^\n]*out of memory: [^\n]*the budget is 3%.1 MB %(SUMI_GPU_MEMORY sets it, in MiB%)")
  T.match(out, "\n1048576\t262144\n$")
end)

-- ---- faults: the n-th growth, launch, copy fails; the device is lost ----

local STEPS <const> = 9                -- three are played, two recorded, the others run as a graph

local function child(fault)
  local code, out, err = T.child({ "SUMI_FAULT=" .. fault }, "device_child.lua", "emu", STEPS)
  T.eq(code, 0, fault .. ": the process, " .. tostring(err))
  local both = {}
  for tensors, used, outcome in out:gmatch "(%d+) (%d+) ([^\n]*)\n" do
    both[#both + 1] = { tensors = tonumber(tensors), used = tonumber(used), outcome = outcome }
  end
  T.eq(#both, 2, fault .. ": " .. out .. err)
  return both[1], both[2]
end

local clean = child "none:0"

-- Nothing may be left over, and what succeeds has the right bits.
local function tidy(fault, r)
  T.eq(r.tensors, 0, fault .. ": tensors that live")
  T.ok(r.used <= clean.used, ("%s: %d bytes in use, without a fault %d"):format(fault, r.used, clean.used))
  if r.outcome:match "^ok" then T.eq(r.outcome, clean.outcome, fault .. ": bits") end
end

-- Every fault of a site at the given passes; how many ended a run, and in which words.
local function faults(site, passes)
  local failed, words = 0, {}
  for _, n in ipairs(passes) do
    local fault = site .. ":" .. n
    local first, second = child(fault)
    tidy(fault, first)
    tidy(fault, second)
    local code, text = first.outcome:match "^failed (%S+) (.*)$"
    if code then
      failed = failed + 1
      T.eq(code, "6", fault .. ": " .. text)
      words[#words + 1] = text
    end
    if code then T.eq(second.outcome, clean.outcome, fault .. ": the next run in this process") end
  end
  return failed, table.concat(words, "\n")
end

local function range(first, last, by)
  local list = {}
  for n = first, last, by do list[#list + 1] = n end
  return list
end

T.test("a game without faults leaves nothing", function()
  T.match(clean.outcome, "^ok %x+$")
  T.eq(clean.tensors, 0)
end)

T.test("a growth of device memory that fails", function()
  local failed, words = faults("cuda_malloc", { 1, 2, 3 })
  T.ok(failed >= 1, "no fault was met")
  T.match(words, "out of memory on emu: .*more of device memory refused; .*are in use")
end)

T.test("a launch that fails while steps are played", function()
  local passes = range(1, 200, 7)
  local failed, words = faults("cuda_launch", passes)
  T.eq(failed, #passes)
  T.match(words, "emu: matmul: failed on purpose")
end)

T.test("a launch that fails in a captured step, or while it is captured", function()
  local passes = range(201, 285, 2)
  local failed, words = faults("cuda_launch", passes)
  T.ok(failed >= 5 and failed < #passes, "a failed capture must not end the run; a failed graph must")
  T.match(words, "emu: graph: failed on purpose")
end)

T.test("a copy that fails", function()
  local failed, words = faults("cuda_copy", range(1, 30, 1))
  T.ok(failed >= 12, failed .. " of 30")
  T.match(words, "copy to the device: failed on purpose")
  T.match(words, "copy from the device: failed on purpose")
end)

T.test("a lost device stays lost in its process, and nothing else breaks", function()
  for _, n in ipairs(range(1, 290, 17)) do
    local fault = "cuda_lost:" .. n
    for _, r in ipairs { child(fault) } do
      tidy(fault, r)
      T.match(r.outcome, "^failed 6 .*the device was lost; this process cannot use it any more, a new one can %(sumi resume RUN%)$")
    end
  end
  T.eq(child "none:0".outcome, clean.outcome, "the next process")
end)

return T.done()
