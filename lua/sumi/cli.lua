-- cli.lua -- the command: one table of verbs with their flags makes the parser, the help and the first screen.
-- A verb only parses and hands on; the work is in trainer, show, report and doctor, loaded when they are
-- called. main(args) returns the exit code; a wrong call raises {code = 2, msg = ...} (see core.fail).
local core = require "sumi.core"

local cli = {}
local verbs, by_name = {}, {}

local function verb(t)
  verbs[#verbs + 1] = t
  by_name[t.name] = t
end

-- " (did you mean 'x'?)" for the nearest of `names`, or "" when none is near.
local function did_you_mean(word, names)
  return require("sumi.util").meant(word, names)      -- loaded when there is a mistake, not at every start
end

-- ---- flags ----

-- A flag: {"--name", short = "-n", value = "N", kind = "integer", "what it does"}; without value it is a
-- switch.
local every_verb = {
  { "--results", value = "DIR", "where runs are kept (default: SUMI_RESULTS, else results)" },
  { "--color", value = "WHEN", among = { "auto", "always", "never" },
    "auto, always or never; NO_COLOR is obeyed" },
  { "--help", short = "-h", "this text" },
}

local function flags_of(v)
  local list, find = {}, {}
  for _, source in ipairs { v.flags or {}, v.raw and { every_verb[3] } or every_verb } do
    for _, f in ipairs(source) do
      list[#list + 1] = f
      find[f[1]] = f
      if f.short then find[f.short] = f end
    end
  end
  return list, find
end

local function wrong(v, fmt, ...)
  core.fail(2, ("sumi %s: %s\n  see: sumi help %s"):format(v.name, fmt:format(...), v.name))
end

local function unknown_flag(v, flag)
  local names = {}
  for _, f in ipairs((flags_of(v))) do names[#names + 1] = f[1] end
  wrong(v, "unknown flag '%s'%s   flags: %s", flag, did_you_mean(flag, names), table.concat(names, " "))
end

local function flag_value(v, f, text)
  if f.kind == "integer" then
    local n = math.tointeger(tonumber(text))
    if not n or n < (f.least or 0) then
      wrong(v, "%s wants a whole number of at least %d; found '%s'", f[1], f.least or 0, text)
    end
    return n
  elseif f.kind == "seconds" then
    local n = tonumber(text)
    if not n or n <= 0 then wrong(v, "%s wants seconds; found '%s'", f[1], text) end
    return n
  elseif f.among then
    for _, choice in ipairs(f.among) do
      if choice == text then return text end
    end
    wrong(v, "%s is one of: %s; found '%s'", f[1], table.concat(f.among, " "), text)
  end
  return text
end

-- Split args into options (keyed by flag name without dashes) and the rest. "--" ends flags.
local function parse(v, args)
  local _, find = flags_of(v)
  local opt, rest, i, open = {}, {}, 1, true
  while i <= #args do
    local a = args[i]
    if open and a == "--" then
      open = false
    elseif open and a:sub(1, 1) == "-" and #a > 1 then
      local name, text = a:match "^(%-%-[^=]+)=(.*)$"
      local f = find[name or a] or unknown_flag(v, name or a)
      if f.value and not text then
        i = i + 1
        text = args[i] or wrong(v, "%s wants a value: %s %s", f[1], f[1], f.value)
      elseif text and not f.value then
        wrong(v, "%s takes no value", f[1])
      end
      opt[(f[1]:gsub("^%-+", ""):gsub("%-", "_"))] = f.value and flag_value(v, f, text) or true
    else
      rest[#rest + 1] = a
    end
    i = i + 1
  end
  return opt, rest
end

-- ---- help ----

local function describe_flag(f)
  local left = (f.short and f.short .. ", " or "    ") .. f[1] .. (f.value and " " .. f.value or "")
  return ("  %-26s %s"):format(left, f[2])
end

function cli.help_text(v)
  local out = { "usage: sumi " .. v.name .. " " .. v.args, "", v.long, "", "flags" }
  for _, f in ipairs((flags_of(v))) do out[#out + 1] = describe_flag(f) end
  if v.examples then
    out[#out + 1] = ""
    out[#out + 1] = "examples"
    for _, e in ipairs(v.examples) do out[#out + 1] = "  " .. e end
  end
  return table.concat(out, "\n") .. "\n"
end

local exit_codes = [[
exit codes
  0 ok   1 the script or run failed   2 usage   4 nothing matched   5 diverged
  6 machine (device, memory, disk)   75 stopped at a checkpoint, run me again
  130, 143 a second Ctrl-C or TERM: left without a checkpoint
]]

local function help_all()
  local out = { "usage: sumi VERB ...", "" }
  for _, v in ipairs(verbs) do
    if not v.hidden then
      out[#out + 1] = ("  sumi %-34s %s"):format(v.name .. " " .. (v.brief_args or v.args), v.short)
    end
  end
  out[#out + 1] = "\nRUN is a path, an id (its first four characters or more), @last, or a pattern such as"
    .. " 'rings/*'."
  out[#out + 1] = "sumi help VERB, or sumi VERB --help, says more.\n"
  return table.concat(out, "\n") .. "\n" .. exit_codes
end

-- ---- the verbs ----

local function results_dir(opt)
  return opt.results or os.getenv "SUMI_RESULTS" or "results"
end

-- The script must be there before anything is loaded; suggest one that is.
local function check_script(v, path)
  local st = core.stat(path)
  if st and st.type == "file" then return end
  local near = {}
  for _, dir in ipairs { "experiments", path:match "^(.*)/[^/]*$" or "." } do
    for _, name in ipairs(core.listdir(dir) or {}) do
      if name:find "%.lua$" then near[#near + 1] = dir == "." and name or dir .. "/" .. name end
    end
  end
  local guess = did_you_mean(path, near)
  if guess == "" and #near > 0 then guess = "   there are: " .. table.concat(near, " ") end
  if st then wrong(v, "%s is a folder, not a script%s", path, guess) end
  wrong(v, "no such script: %s%s", path, guess)
end

-- The call as it could be typed again, for the record.
local function command_line(args)
  local out = { "sumi" }
  for _, a in ipairs(args) do
    out[#out + 1] = a:find "^[%w_./=:,+%%@-]+$" and a or "'" .. a:gsub("'", "'\\''") .. "'"
  end
  return table.concat(out, " ")
end

local progress_flags = {
  { "--quiet", short = "-q", "no progress" },
  { "--log-every", value = "S", kind = "seconds", "seconds between log lines where stderr is no terminal (60)" },
}

local function with(flags, more)
  local all = {}
  for _, list in ipairs { flags, more } do
    for _, f in ipairs(list) do all[#all + 1] = f end
  end
  return all
end

local function set_progress(opt)
  local term = require "sumi.term"
  term.quiet, term.log_every = opt.quiet or false, opt.log_every or 60
end

verb {
  name = "run", args = "SCRIPT [knob=value ...]", short = "train",
  long = [[
Train the experiment of a script. knob=value overrides an entry of its config table; an unknown
knob is an error. Ctrl-C stops at a checkpoint (exit 75) and says how to go on; a second Ctrl-C
leaves at once.]],
  flags = with({
    { "--seed", value = "N", kind = "integer", "seed of everything random (default 0)" },
    { "--variant", value = "NAME", "one of the script's ablations, with its knobs" },
    { "--device", value = "D", "where to compute: cpu, cuda, cuda:1, or ref (float64, slow)" },
    { "--precision", value = "P", among = { "f32", "tf32", "bf16" },
      "what networks compute in: f32, tf32 (GPU) or bf16 (default: the script's, else f32)" },
    { "--steps", value = "N", kind = "integer", least = 1, "train N steps instead of what the script says" },
    { "--fresh", "throw away what an earlier run of this variant and seed left" },
    { "--dry", "show config, networks and data; train nothing" },
  }, progress_flags),
  examples = {
    "sumi run experiments/rings.lua",
    "sumi run experiments/cyclegan.lua scale=demo cycle=5 --seed 3",
  },
  call = function(v, opt, rest)
    local script = rest[1] or wrong(v, "SCRIPT is missing")
    check_script(v, script)
    local knobs = {}
    for i = 2, #rest do
      local name, value = rest[i]:match "^([%a_][%w_.]*)=(.*)$"
      if not name then wrong(v, "'%s' is not of the form knob=value", rest[i]) end
      if name == "seed" and not opt.seed then opt.seed = flag_value(v, { "seed", kind = "integer" }, value)
      elseif name == "device" and not opt.device then opt.device = value
      elseif name == "precision" and not opt.precision then opt.precision = value
      else knobs[#knobs + 1] = { name, value } end
    end
    set_progress(opt)
    core.catch_signals()
    return require("sumi.trainer").run {
      script = script, knobs = knobs, seed = opt.seed, variant = opt.variant, device = opt.device,
      precision = opt.precision, steps = opt.steps, results = results_dir(opt), fresh = opt.fresh, dry = opt.dry,
      quiet = opt.quiet, command = command_line(cli.args) }
  end,
}

verb {
  name = "resume", args = "RUN", short = "go on with an interrupted run, to the same bits",
  long = [[
Go on from the newest good checkpoint. What was recorded after it is dropped and counted, and the
result is the same to the bit as if the run had never been interrupted (on the same machine, with
the same threads).]],
  flags = with({
    { "--device", value = "D", "where to compute (default: as before)" },
    { "--steps", value = "N", kind = "integer", least = 1, "train to step N, not to what the run was started with" },
  }, progress_flags),
  examples = { "sumi resume @last", "sumi resume results/rings/default/seed-0" },
  call = function(v, opt, rest)
    if #rest ~= 1 then wrong(v, "one RUN is wanted; found %d", #rest) end
    local dir = require("sumi.show").one(results_dir(opt), rest[1])
    set_progress(opt)
    core.catch_signals()
    return require("sumi.trainer").resume {
      dir = dir, device = opt.device, steps = opt.steps, quiet = opt.quiet, command = command_line(cli.args) }
  end,
}

verb {
  name = "ls", args = "[GLOB]", short = "list runs",
  long = "One line per run: state, steps, the latest losses. GLOB matches EXPERIMENT/VARIANT/seed-N.",
  flags = {
    { "--state", value = "STATE", "only runs in this state",
      among = { "running", "done", "failed", "diverged", "stopped", "lost", "unknown" } },
    { "--json", "machine-readable: a list of objects" },
    { "--tsv", "machine-readable: tab-separated, with a header line" },
  },
  call = function(v, opt, rest)
    if #rest > 1 then wrong(v, "one GLOB at most; found %d (quote it: sumi ls 'rings/*')", #rest) end
    return require("sumi.show").ls(results_dir(opt), rest[1], opt)
  end,
}

verb {
  name = "show", args = "RUN", short = "one run: state, numbers, config, samples",
  long = "Without flags, a page about the run. With flags, only the parts that are named.",
  flags = {
    { "--config", "the resolved config" },
    { "--code", "the script and its modules as they were run" },
    { "--env", "host, device, versions, threads" },
    { "--log", "its log" },
    { "--samples", "paths of its sample grids" },
    { "--metrics", "every metric: last, best, mean of the last tenth" },
    { "--weights-hash", "one SHA-256 over all weights of the newest good checkpoint" },
    { "--json", "machine-readable" },
  },
  call = function(v, opt, rest)
    if #rest ~= 1 then wrong(v, "one RUN is wanted; found %d", #rest) end
    return require("sumi.show").show(results_dir(opt), rest[1], opt)
  end,
}

verb {
  name = "report", args = "SCRIPT|RUN|DIR ...", brief_args = "SCRIPT|RUN...",
  short = "figures and one HTML page from runs",
  long = [[
Draw loss curves (gnuplot: .gp + .tsv, and svg, pdf, png made from them) and write one HTML page
that needs nothing else. Seeds of a variant are pooled, variants are compared. It goes beside the
runs: RUN/report/ for one run, results/EXPERIMENT/report/ for several. The last line printed is the
page's path.]],
  flags = {
    { "--only", value = "NAME", "only the figures whose names match this pattern; no page" },
    { "--out", value = "DIR", "write there instead" },
    { "--open", "open the page in a browser" },
    { "--quiet", short = "-q", "print only the page's path" },
  },
  examples = {
    "sumi report @last",
    "sumi report experiments/rings.lua",
    "sumi report 'rings/*' --only 'loss-G*'",
  },
  call = function(v, opt, rest)
    if #rest == 0 then wrong(v, "what to report on is missing: a script, a run or a folder of runs") end
    return require("sumi.report").main(results_dir(opt), rest, opt)
  end,
}

verb {
  name = "doctor", args = "", short = "what this machine can do, and what is missing",
  long = "Checks CPU, memory, libraries, programs and the results folder; names the remedy for what is absent.",
  flags = { { "--json", "machine-readable" } },
  call = function(v, opt, rest)
    if #rest > 0 then wrong(v, "takes no arguments; found '%s'", rest[1]) end
    return require("sumi.doctor").main(results_dir(opt), opt)
  end,
}

verb {
  name = "goldens", args = "[--device D] FILE...", raw = true, short = "check against reference values",
  long = "Compute every case of the given HDF5 files of reference values and compare.",
  flags = { { "--device", value = "D", "only this device (default: ref and cpu)" } },
  call = function(_, _, rest) return require("sumi.goldens").main(rest) end,
}

verb {
  name = "bench", args = "[NAME...]", raw = true, short = "how fast this machine is",
  long = "Measures start-up, ops, networks and loaders (tests/bench/bench.lua of the source tree).",
  call = function(v, _, rest)
    local path = (cli.root() or ".") .. "/tests/bench/bench.lua"
    if not core.stat(path) then
      core.fail(6, ("sumi %s: %s is not there; it comes with the source tree"):format(v.name, path))
    end
    return by_name.lua.call(v, {}, { path, table.unpack(rest) })
  end,
}

verb {
  name = "lua", args = "FILE [ARG...]", raw = true, hidden = true, short = "run a plain Lua file",
  long = "Run a plain Lua file with the library at hand. A number that it returns is the exit code.",
  call = function(v, _, rest)
    local path = rest[1] or wrong(v, "FILE is missing")
    local chunk, message = loadfile(path)
    if not chunk then core.fail(1, message) end
    _G.arg = { [0] = path, table.unpack(rest, 2) }
    local result = chunk(table.unpack(rest, 2))
    return math.type(result) == "integer" and result or 0
  end,
}

-- ---- the first screen ----

-- The source tree this library was loaded from, or nil when it is installed.
function cli.root()
  return debug.getinfo(1, "S").source:match "^@(.*)/lua/sumi/cli%.lua$"
end

local function recent_runs(results)
  local ok, lines = pcall(function() return require("sumi.show").recent(results, 3) end)
  return ok and lines or {}
end

local function first_screen()
  local term = require "sumi.term"
  local cpu = core.cpu()
  local isa = cpu.amx and "amx" or cpu.avx512 and "avx512" or cpu.avx2 and "avx2" or "baseline"
  local title = "Sumi " .. core.versions().sumi .. " — a laboratory for generative adversarial networks"
  local script = "experiments/rings.lua"
  if not core.stat(script) then script = "SCRIPT" end
  local commands = {
    { "sumi run " .. script, script == "SCRIPT" and "train the experiment of a script"
      or "train a toy GAN: under a minute, no data needed" },
    { "sumi show @last", "what the newest run did" },
    { "sumi report @last", "its loss curves and samples on one page" },
    { "sumi ls", "all runs here" },
    { "sumi doctor", "what this machine can do, and what is missing" } }
  local gpu = core.stat "/dev/nvidia0" and "nvidia" or "none"
  local machine = ("    lua 5.4 · cpu: %s · gpu: %s"):format(isa, gpu)
  local out = { term.paint("bold", title) .. term.paint("dim", machine), "" }
  for _, c in ipairs(commands) do out[#out + 1] = ("  %-34s %s"):format(c[1], c[2]) end
  local recent = recent_runs(results_dir {})
  if #recent > 0 then out[#out + 1] = "" end
  for i, line in ipairs(recent) do out[#out + 1] = (i == 1 and "recent  " or "        ") .. line end
  out[#out + 1] = "\nsumi help lists all verbs; sumi help VERB explains one."
  print(table.concat(out, "\n"))
  return 0
end

local function help(name)
  if not name then
    io.write(help_all())
    return 0
  end
  local v = by_name[name]
  if not v then core.fail(2, ("sumi help: unknown verb '%s'%s"):format(name, did_you_mean(name, cli.names()))) end
  io.write(cli.help_text(v))
  return 0
end

function cli.names()
  local names = {}
  for _, v in ipairs(verbs) do
    if not v.hidden then names[#names + 1] = v.name end
  end
  return names
end

local function wants_help(args, raw)
  for i = 1, #args do
    if args[i] == "--" or (raw and i > 1) then return false end
    if args[i] == "--help" or args[i] == "-h" then return true end
  end
  return false
end

-- Run the command; args are those after the program's name. Returns the exit code.
function cli.main(args)
  cli.args = args
  local name = args[1]
  if not name then return first_screen() end
  if name == "--help" or name == "-h" then return help() end
  if name == "help" then return help(args[2]) end
  if name == "--version" or name == "-V" then
    local v = core.versions()
    print(("sumi %s (lua %s, oneDNN %s, HDF5 %s)"):format(v.sumi, v.lua, v.onednn, v.hdf5))
    return 0
  end
  local v = by_name[name]
  if not v then
    local what = name:sub(1, 1) == "-" and "flag" or "verb"
    local names = what == "flag" and { "--help", "--version" } or cli.names()
    core.fail(2, ("sumi: unknown %s '%s'%s   %ss: %s"):format(what, name, did_you_mean(name, names), what,
                                                              table.concat(names, " ")))
  end
  local rest = table.pack(table.unpack(args, 2))
  if wants_help(rest, v.raw) then return help(name) end
  if v.raw then return v.call(v, {}, rest) or 0 end
  local opt
  opt, rest = parse(v, rest)
  if opt.color then require("sumi.term").colour = opt.color end
  return v.call(v, opt, rest) or 0
end

return cli
