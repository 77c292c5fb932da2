-- doctor.lua -- what this machine can do and what is missing, one line each, with the remedy. Exit
-- code 6 when something that Sumi needs is absent. Each check is a function that returns status,
-- text and (when absent) the remedy.
local core = require "sumi.core"
local term = require "sumi.term"

local doctor = {}

-- status: "ok", "no" (needed and absent), "none" (absent, and fine without)
local checks = {
  { "cpu", function()
    local cpu, has, lacks = core.cpu(), {}, {}
    for _, f in ipairs { "avx2", "avx512", "avx512_bf16", "amx" } do
      local list = cpu[f] and has or lacks
      list[#list + 1] = f
    end
    local isa = #has > 0 and table.concat(has, " ") or "no vectors"
    local text = ("%s, %d threads; %s"):format(cpu.name, cpu.threads, isa)
    if #lacks > 0 then text = text .. " (not: " .. table.concat(lacks, " ") .. ")" end
    return "ok", text
  end },
  { "memory", function()
    local m = core.memory()
    local text = ("%s, %s available"):format(term.bytes(m.total), term.bytes(m.available))
    if m.available < 2 ^ 30 then return "no", text .. "; training wants at least 1.0G", "close other programs" end
    return "ok", text
  end },
  { "lua", function() return "ok", core.versions().lua end },
  { "oneDNN", function() return "ok", core.versions().onednn .. ": grouped and bf16 convolutions" end },
  { "HDF5", function() return "ok", core.versions().hdf5 .. ": runs and checkpoints" end },
  { "images", function()
    local v = core.versions()
    return "ok", ("jpeg (%s), png (libpng %s), webp (%s)"):format(v.jpeg, v.png, v.webp)
  end },
  { "gnuplot", function()
    local code, out = core.spawn { "gnuplot", "--version" }
    if not code then return "no", "not there: report draws with it", "sudo apt install gnuplot-nox" end
    local version = out:match "gnuplot ([%d.]+)" or "?"
    local bad = core.spawn { "gnuplot", "-e", "set terminal svg; set terminal pdfcairo; set terminal pngcairo" }
    if bad ~= 0 then
      return "no", version .. " lacks one of svg, pdfcairo, pngcairo", "sudo apt install gnuplot-nox"
    end
    return "ok", version .. ": svg, pdf, png"
  end },
  { "fonts", function()
    local code, out = core.spawn { "fc-match", "sans" }
    if code ~= 0 then return "none", "cannot be listed (fontconfig is not there); figures use gnuplot's own" end
    if not out:find "%S" then
      return "no", "none: figures would have no labels", "sudo apt install fonts-dejavu-core"
    end
    return "ok", "figures are set in " .. (out:match '"([^"]+)"' or out:gsub("%s+$", ""))
  end },
}

-- ---- the GPU: all that depends on one look at the plug-in ----

-- "reason; remedy" -> reason, remedy
local function reason_and_remedy(text)
  local reason, remedy = text:match "^(.-); (.*)$"
  return reason or text, remedy
end

-- How people come by what the plug-in misses; it computes without these libraries too, but slower.
local function library(text, name, loss, package)
  if text:match "^no " then
    local reason, remedy = reason_and_remedy(text)
    return "none", reason .. ": " .. loss, remedy or "pip install " .. package
  end
  return "ok", (text:gsub("^" .. name .. " ", ""))
end

local function gpu_checks()
  local p = core.plugin "cuda"
  if not p.path then
    local seen = core.stat "/dev/nvidia0" and "an NVIDIA GPU is here, but " or ""
    return { { "gpu", "none", seen .. p.text:gsub(" %(make.*", "") .. ": Sumi computes on the CPU",
               "make, where nvcc is (CUDA's toolkit)" } }
  end
  local plugin = { "plug-in", "ok", p.path }
  if not p.ready then
    local reason, remedy = reason_and_remedy(p.text)
    return { plugin, { "gpu", "none", reason .. ": Sumi computes on the CPU", remedy } }
  end
  local device, libraries = reason_and_remedy(p.text)
  local dnn, blas = (libraries or ""):match "^(.-), (n?o? ?cuBLASLt.*)$"
  return { plugin, { "gpu", "ok", device },
    { "cuDNN", library(dnn or "no cuDNN", "cuDNN", "convolutions are Sumi's own, slower", "nvidia-cudnn-cu13") },
    { "cuBLASLt", library(blas or "no cuBLASLt", "cuBLASLt", "matrix products are Sumi's own, slower", "nvidia-cublas") } }
end

-- The nearest folder that exists decides, since results/ is made when it is needed.
local function check_results(results)
  local dir = results
  while not core.stat(dir) do
    local up = dir:match "^(.*)/[^/]*$"
    dir = up == nil and "." or up == "" and "/" or up
  end
  if core.stat(dir).type ~= "dir" then
    return "no", ("%s is not a folder"):format(dir), "name another: --results DIR or SUMI_RESULTS"
  end
  if not core.writable(dir) then
    return "no", ("%s cannot be written"):format(dir), "name another: --results DIR or SUMI_RESULTS"
  end
  local free = core.disk_free(dir) or 0
  local text = ("%s, %s free"):format(results, term.bytes(free))
  if free < 256 * 2 ^ 20 then return "no", text .. ": too little for checkpoints", "free some space" end
  return "ok", text
end

function doctor.examine(results)
  local found = {}
  for i, c in ipairs(checks) do
    local status, text, remedy = c[2]()
    found[i] = { name = c[1], status = status, text = text, remedy = remedy }
  end
  for _, c in ipairs(gpu_checks()) do
    found[#found + 1] = { name = c[1], status = c[2], text = c[3], remedy = c[4] }
  end
  local status, text, remedy = check_results(results)
  found[#found + 1] = { name = "results", status = status, text = text, remedy = remedy }
  return found
end

local marks = { ok = { "✓", "green" }, no = { "✗", "red" }, none = { "–", "dim" } }

function doctor.main(results, opt)
  local found, missing = doctor.examine(results), 0
  for _, f in ipairs(found) do
    if f.status == "no" then missing = missing + 1 end
  end
  if opt.json then
    print(require("sumi.json").encode(found))
    return missing > 0 and 6 or 0
  end
  for _, f in ipairs(found) do
    local mark = marks[f.status]
    print(("%s %-10s %s"):format(term.paint(mark[2], mark[1]), f.name, f.text))
    if f.remedy then print(("  %-10s %s %s"):format("", term.paint("bold", "try"), f.remedy)) end
  end
  if missing > 0 then
    io.stderr:write(("sumi doctor: %d of %d missing\n"):format(missing, #found))
    return 6
  end
  return 0
end

return doctor
