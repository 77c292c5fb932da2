-- goldens.lua -- `sumi goldens FILE...`: computes every case of HDF5 files of reference values
-- (made by another framework) and compares. Every shape and every option comes from the file. What
-- the operations are made of is in goldens_ops.lua, networks in goldens_net.lua, training runs and
-- double backward in goldens_train.lua.
--
-- A file's root has groups NNN_name with the attributes op and config (JSON) and the groups in,
-- param, out, grad. With L = sum over outputs of <out, cotangent>, grad/X is dL/dX. Each expected
-- dataset says how it compares: close, l2, exact.
local core = require "sumi.core"
local json = require "sumi.json"
local nets = require "sumi.goldens_net"
local torch = require "sumi.goldens_ops"
local training = require "sumi.goldens_train"

local M = {}

-- ---- reading a case ----

local function children(file, path) return file:kind(path) == "group" and file:list(path) or {} end

local function tensor(file, path, device)
  local shape, dtype = file:shape(path)
  local integers = dtype == nil or dtype == "u8" or dtype == "i32"
  local t = core.tensor(("\0"):rep(8 * math.max(1, M.volume(shape))), shape, device, integers and "i32" or nil)
  file:into(path, t)
  return t, integers
end

function M.volume(shape)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return n
end

-- The tensors of in/ and param/ on a device. What can have a gradient is watched, except in
-- training runs, where the parameters themselves learn.
local function load(file, group, device)
  local case = { group = group, device = device, input = {}, param = {}, buffers = {}, cotangents = {} }
  case.op, case.config = file:attr(group, "op"), json.decode(file:attr(group, "config"))
  case.input_names, case.parameter_names = {}, children(file, group .. "/param")
  local watch = not case.op:find "^train%." and not case.op:find "^optim%." and core.watch
  for _, name in ipairs(children(file, group .. "/in")) do
    local path = group .. "/in/" .. name
    local t, integers = tensor(file, path, device)
    local output = name == "_cotangent" and "out" or name:match "^_cotangent%.(.*)$"
    if output then
      case.cotangents[output] = t
    else
      case.input_names[#case.input_names + 1] = name
      case.input[name] = watch and not integers and watch(t) or t
    end
  end
  for _, name in ipairs(case.parameter_names) do
    local path = group .. "/param/" .. name
    local t = tensor(file, path, device)
    case.buffers[name] = file:attr(path, "buffer") == 1
    case.param[name] = watch and not case.buffers[name] and watch(t) or t
  end
  return case
end

-- ---- computing a case ----

local function all_tensors(case)
  local t = {}
  for name, x in pairs(case.input) do t[name] = x end
  for name, x in pairs(case.param) do t[name] = x end
  return t
end

-- op name -> function(case) giving a tensor or outputs by name; nil: not in Sumi
local function handler(op)
  if training.cases[op] then return training.cases[op] end
  if op:find "^net%." then
    return function(case)
      local function parameter(name) return case.param[name] end
      return nets.outputs(case.config, case.input, parameter, case.config.training ~= false)
    end
  end
  local fn = torch.ops[op]
  if not fn then return nil end
  return function(case)
    if op:find "^optim%." then case.config.parameters = case.parameter_names end
    return fn(all_tensors(case), case.config)
  end
end

-- dL/dX for the names of grad/
local function gradients(case, out, names)
  local xs, sums = {}, {}
  for k, name in ipairs(names) do
    xs[k] = case.param[name] or case.input[name] or error("grad/" .. name .. " of nothing")
  end
  for output, cotangent in pairs(case.cotangents) do
    for k, g in ipairs(core.grad(out[output] or error("no output " .. output), xs, cotangent)) do
      sums[k] = sums[k] and sums[k] + g or g
    end
  end
  return sums
end

local function results(case, out, expected)
  if core.is_tensor(out) then out = { out = out } end
  for _, name in ipairs(expected) do
    local state = name:match "^state%.(.*)$"
    if state and not out[name] then out[name] = case.param[state] end      -- buffers are written in place
  end
  return out
end

-- ---- comparing ----

local function list(v) return type(v) == "table" and v or { v } end

-- -> worst error, tolerance it met or broke, passed
local checks = {}

function checks.close(got, want, rtol, atol)
  local worst, limit, margin = 0, atol, -math.huge
  for k, w in ipairs(want) do
    local error_, tolerance = math.abs(got[k] - w), atol + rtol * math.abs(w)
    if not (error_ - tolerance <= margin) then worst, limit, margin = error_, tolerance, error_ - tolerance end
  end
  return worst, limit, worst <= limit
end

function checks.l2(got, want, _, atol)
  local sum = 0
  for k, w in ipairs(want) do sum = sum + (got[k] - w) ^ 2 end
  return math.sqrt(sum), atol, math.sqrt(sum) <= atol
end

function checks.exact(got, want)
  local worst = 0
  for k, w in ipairs(want) do
    local error_ = got[k] == w and 0 or math.abs(got[k] - w)
    if not (error_ <= worst) then worst = error_ end
  end
  return worst, 0, worst == 0
end

local function finite(v)
  for _, x in ipairs(v) do
    if x ~= x or x == math.huge or x == -math.huge then return false end
  end
  return true
end

-- The numbers of a computed tensor, or what is wrong with it before any comparison.
local function numbers_of(t, shape)
  local a, b = table.concat(t:shape(), ","), table.concat(shape, ",")
  if a ~= b then return nil, ("shape [%s], wanted [%s]"):format(a, b) end
  local got = t:totable()
  if not finite(got) then return nil, "holds a NaN or an infinity" end
  return got
end

local function zeros(n)
  local v = {}
  for k = 1, n do v[k] = 0 end
  return v
end

-- Marked as truly zero (null = 1) and yet far from it: nothing that is right can agree.
local function contradicts_itself(file, path, want, atol)
  if file:attr(path, "null") ~= 1 or not path:find "/grad/" then return false end
  local worst = checks.close(zeros(#want), want, 0, atol)
  return worst > atol and worst
end

-- nil, or what is wrong with a computed tensor (nil: missing); and whether it is the file that is wrong
local function compare(file, path, t, missing_is_zero)
  local want, shape = file:read(path)
  want, shape = list(want), shape or {}
  if not t and not missing_is_zero then return path .. ": not computed" end
  local got, wrong = zeros(#want), nil
  if t then got, wrong = numbers_of(t, shape) end
  if wrong then return ("%s: %s"):format(path, wrong) end
  local kind, rtol, atol = file:attr(path, "compare"), file:attr(path, "rtol32"), file:attr(path, "atol32")
  local check = checks[kind] or error(("%s: compare '%s' is none of close, l2, exact"):format(path, kind))
  local worst, limit, ok = check(got, want, rtol, atol)
  if ok then return end
  local stored = contradicts_itself(file, path, want, atol)
  if stored and select(3, check(got, zeros(#want), rtol, atol)) then
    return ("%s is marked as truly zero, but holds %.3g"):format(path, stored), true
  end
  return ("%s: off by %.3g (%s), tolerance %.3g"):format(path, worst, kind, limit)
end

-- What is wrong in each dataset of out/ and grad/, in order; and what is wrong with the file itself.
local function judge(file, case, out)
  local expected = children(file, case.group .. "/out")
  local wrong, file_wrong = {}, nil
  local function dataset(path, t, missing_is_zero)
    local complaint, theirs = compare(file, path, t, missing_is_zero)
    if theirs then file_wrong = complaint else wrong[#wrong + 1] = complaint end
  end
  out = results(case, out, expected)
  for _, name in ipairs(expected) do
    if out[name] or not name:find "^aux%." then dataset(case.group .. "/out/" .. name, out[name]) end
  end
  local names = children(file, case.group .. "/grad")
  local gx = #names > 0 and gradients(case, out, names) or {}
  for k, name in ipairs(names) do dataset(case.group .. "/grad/" .. name, gx[k], true) end
  return wrong, file_wrong
end

-- ---- running and reporting ----

local Report = {}
Report.__index = Report

function Report:skip(op, why, what)
  self.skipped = self.skipped + 1
  local key = why == op and op or ("%s (%s%s)"):format(op, what or "lacks ", why)
  if not self.skips[key] then
    self.skips[key] = 0
    self.skip_order[#self.skip_order + 1] = key
  end
  self.skips[key] = self.skips[key] + 1
end

function Report:fail(where, complaints)
  self.failed = self.failed + 1
  local more = #complaints > 1 and (" (and %d more)"):format(#complaints - 1) or ""
  print(("FAILED  %s %s%s"):format(where, complaints[1], more))
  for k = 2, self.verbose and #complaints or 1 do print("        " .. complaints[k]) end
end

function Report:pass(where)
  self.passed = self.passed + 1
  if self.verbose then print("ok      " .. where) end
end

-- One case on one device.
local function run_case(report, file, name, group, device)
  local op = file:attr(group, "op")
  local fn = handler(op)
  if not fn then return report:skip(op, op) end
  local where = ("%s %s %s:"):format(name, group, device)
  local start = os.clock()
  local ok, wrong, theirs = pcall(function()
    local case = load(file, group, device)
    return judge(file, case, fn(case))
  end)
  core.tape_clear()
  collectgarbage()
  if not ok and type(wrong) == "table" and wrong.lacks then return report:skip(op, wrong.lacks) end
  if not ok then wrong = { tostring(wrong) } end
  if #wrong > 0 then return report:fail(where, wrong) end
  if theirs then return report:skip(op, theirs, "the file contradicts itself: ") end
  report:pass(("%s %.2f s"):format(where, os.clock() - start))
end

local function run_file(report, path, options)
  local file = core.h5_open(path)
  local name = path:match "[^/]*$"
  local found = false
  for _, group in ipairs(file:list "/") do
    local op = file:kind(group) == "group" and file:attr(group, "op")
    if op and (not options.op or op == options.op) then
      found = true
      for _, device in ipairs(options.devices) do run_case(report, file, name, group, device) end
    end
  end
  file:close()
  return found
end

local function usage(message)
  local call = "sumi goldens [--device D] [--op NAME] [-v] FILE..."
  io.stderr:write(("sumi goldens: %s\nusage: %s\n"):format(message, call))
  return 2
end

local function parse(args)
  local options, k = { files = {}, devices = { "ref", "cpu" } }, 1
  while args[k] do
    local a = args[k]
    if a == "-v" or a == "--verbose" then options.verbose = true
    elseif a == "--device" or a == "--op" then
      k = k + 1
      if not args[k] then return nil, a .. " wants a name" end
      if a == "--op" then options.op = args[k] else options.devices = { args[k] } end
    elseif a:find "^%-" then return nil, "unknown option " .. a
    else options.files[#options.files + 1] = a end
    k = k + 1
  end
  if #options.files == 0 then return nil, "name at least one HDF5 file of reference values" end
  return options
end

-- args: the words after `sumi goldens` -> exit code: 0 if nothing failed (skipped cases do not fail)
function M.main(args)
  local options, message = parse(args)
  if not options then return usage(message) end
  local report = setmetatable({ passed = 0, failed = 0, skipped = 0, skips = {}, skip_order = {},
    verbose = options.verbose }, Report)
  for _, device in ipairs(options.devices) do core.describe_device(device) end   -- or an error
  local found = false
  for _, path in ipairs(options.files) do found = run_file(report, path, options) or found end
  if not found then return usage(options.op and "no case of op " .. options.op or "no cases in these files") end
  for _, key in ipairs(report.skip_order) do print(("skipped: %s x %d"):format(key, report.skips[key])) end
  print(("%d passed, %d failed, %d skipped"):format(report.passed, report.failed, report.skipped))
  return report.failed == 0 and 0 or 1
end

return M
