-- term.lua -- how Sumi speaks on a terminal: colours, tables, sparklines, numbers for people, the progress
-- line. Data goes to stdout, talk to stderr. Knows nothing of runs. Widths are columns, times seconds, sizes
-- bytes.
local core = require "sumi.core"

local term = { log_every = 60, quiet = false, colour = "auto" }

-- ---- colours ----

local codes = { bold = "1", dim = "2", red = "31", green = "32", yellow = "33", cyan = "36" }
local fd_of = { out = 1, err = 2 }
local coloured = {}

-- May this stream ("out" or "err") be coloured? NO_COLOR (no-color.org) and TERM=dumb are obeyed.
function term.has_colour(stream)
  if term.colour ~= "auto" then return term.colour == "always" end
  if coloured[stream] == nil then
    local no = os.getenv "NO_COLOR"
    coloured[stream] = not (no and no ~= "") and os.getenv "TERM" ~= "dumb" and core.isatty(fd_of[stream])
  end
  return coloured[stream]
end

function term.paint(colour, text, stream)
  if not colour or not term.has_colour(stream or "out") then return text end
  return "\27[" .. codes[colour] .. "m" .. text .. "\27[0m"
end

function term.width(stream)
  return core.tty_width(fd_of[stream or "out"]) or 80
end

-- Columns that `text` takes: code points, not bytes; colour codes take none.
function term.cells(text)
  local plain = text:gsub("\27%[[%d;]*m", "")
  return utf8.len(plain) or #plain
end

-- ---- numbers for people ----

-- Three significant digits, short: 0.612 1.31 41.8 12500 2e-04
function term.number(x)
  if x == nil then return "-" end
  if x ~= x then return "nan" end
  if x == math.huge or x == -math.huge then return x > 0 and "inf" or "-inf" end
  if math.type(x) == "integer" or (x == math.floor(x) and math.abs(x) < 1e6) then return ("%d"):format(x) end
  local a = tonumber(("%.3g"):format(math.abs(x)))          -- 9.996 is 10.0, not 10.00
  if a >= 1e5 or a < 1e-3 then return ("%.2g"):format(x) end
  if a >= 1000 then return ("%.0f"):format(x) end
  return ("%." .. (a >= 100 and 0 or a >= 10 and 1 or a >= 1 and 2 or 3) .. "f"):format(x)
end

function term.duration(s)
  if not s or s ~= s or s == math.huge then return "?" end
  s = math.floor(s + 0.5)
  if s < 60 then return ("%ds"):format(s) end
  if s < 3600 then return ("%dm%02ds"):format(s // 60, s % 60) end
  if s < 86400 then return ("%dh%02dm"):format(s // 3600, s % 3600 // 60) end
  return ("%dd%02dh"):format(s // 86400, s % 86400 // 3600)
end

function term.bytes(n)
  if not n then return "?" end
  for _, unit in ipairs { "B", "K", "M", "G" } do
    if n < 1000 then return ((n >= 10 or unit == "B") and "%.0f%s" or "%.1f%s"):format(n, unit) end
    n = n / 1024
  end
  return ("%.1fT"):format(n)
end

-- ---- sparklines ----

local blocks = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }

-- Means of n equal slices of values; what is not finite is left out of its slice (an empty slice is nan).
function term.slices(values, n)
  local out, count = {}, #values
  n = math.min(n, count)
  for i = 1, n do
    local sum, k = 0, 0
    for j = (i - 1) * count // n + 1, i * count // n do
      local v = values[j]
      if v == v and math.abs(v) ~= math.huge then sum, k = sum + v, k + 1 end
    end
    out[i] = k > 0 and sum / k or 0 / 0
  end
  return out
end

function term.spark(values, n)
  local s, lo, hi = term.slices(values, n or 8), math.huge, -math.huge
  for _, v in ipairs(s) do
    if v == v then lo, hi = math.min(lo, v), math.max(hi, v) end
  end
  for i, v in ipairs(s) do
    if v ~= v then s[i] = "·"
    elseif hi - lo <= 1e-9 * math.abs(hi) then s[i] = blocks[4]
    else s[i] = blocks[1 + math.min(7, math.floor((v - lo) / (hi - lo) * 8))] end
  end
  return table.concat(s)
end

-- ---- tables ----

-- Lines of a table. rows: lists of strings; align: a string of "l" and "r" per column. The last column is not
-- padded.
function term.table(rows, align)
  local wide = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do wide[i] = math.max(wide[i] or 0, term.cells(cell)) end
  end
  local lines = {}
  for k, row in ipairs(rows) do
    local line = {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(wide[i] - term.cells(cell))
      if align and align:sub(i, i) == "r" then line[i] = pad .. cell
      else line[i] = i < #row and cell .. pad or cell end
    end
    lines[k] = table.concat(line, "  "):gsub("%s+$", "")
  end
  return lines
end

-- ---- the progress line ----

local active                         -- the progress whose line stands on the terminal now
local log                            -- the file that keeps what is said

-- keep(path): from now on what is said, and a log line every term.log_every seconds, is appended to this file
-- too; keep(nil) ends that.
function term.keep(path)
  if log then log:close() end
  log = path and io.open(path, "a")
  if log then log:setvbuf "line" end
end

-- Into the kept log alone: what is printed by other means.
function term.record(text)
  if log then log:write(text, "\n") end
end

-- Say one line on stderr without tearing the progress line.
function term.say(text)
  if log then log:write(text, "\n") end
  if active and active.drawn then io.stderr:write "\r\27[K" end
  io.stderr:write(text, "\n")
  if active and active.drawn then active:draw() end
end

local Progress = {}
Progress.__index = Progress

-- A history of bounded length: when it is full, neighbours are averaged and each entry stands for twice as
-- many.
local function remember(h, v)
  h.sum, h.n = h.sum + v, h.n + 1
  if h.n < h.each then return end
  h[#h + 1], h.sum, h.n = h.sum / h.n, 0, 0
  if #h < 64 then return end
  for i = 1, 32 do h[i] = (h[2 * i - 1] + h[2 * i]) / 2 end
  for i = 33, 64 do h[i] = nil end
  h.each = h.each * 2
end

-- progress{label=, total=} draws on stderr: a line that is redrawn at most ten times a second on a terminal,
-- else one logfmt line at once, then every term.log_every seconds, and at the end.
function term.progress(t)
  local tty = core.isatty(2) and os.getenv "TERM" ~= "dumb"
  active = setmetatable({ label = t.label or "", total = t.total, tty = tty, quiet = term.quiet, history = {},
                          state = {}, last = -math.huge, logged = -math.huge }, Progress)
  return active
end

local function bar(done, width)
  local full = math.max(0, math.min(1, done)) * width
  local n = math.floor(full)
  local line = ("━"):rep(n)
  if n < width then line = line .. (full - n >= 0.5 and "╸" or "─") .. ("─"):rep(width - n - 1) end
  return line
end

-- The pieces after the bar, most important first, so that a narrow terminal drops from the end.
local function pieces(p)
  local s, out = p.state, {}
  out[1] = p.total and ("step %d/%d"):format(s.step or 0, p.total) or ("step %d"):format(s.step or 0)
  if s.rate then
    out[#out + 1] = s.rate >= 1 and term.number(s.rate) .. " it/s" or term.number(1 / s.rate) .. " s/it"
  end
  if s.eta then out[#out + 1] = "eta " .. term.duration(s.eta) end
  for _, l in ipairs(s.losses or {}) do
    local h = p.history[l[1]]
    out[#out + 1] = l[1] .. " " .. term.number(l[2]) .. (h and #h >= 2 and " " .. term.spark(h, 6) or "")
  end
  if s.extra and s.extra ~= "" then out[#out + 1] = s.extra end
  return out
end

-- The bar has one width for one terminal, so that it does not jump while numbers change.
function Progress:line(width)
  local room = self.total and (width >= 100 and 18 or width >= 72 and 10) or 0
  local used = term.cells(self.label) + 2 + (room > 0 and room + 2 or 0)
  local shown = { self.label }
  if room > 0 then shown[2] = bar((self.state.step or 0) / self.total, room) end
  for i, piece in ipairs(pieces(self)) do
    local n = term.cells(piece) + 2
    if i > 1 and used + n > width then break end
    shown[#shown + 1], used = piece, used + n
  end
  return table.concat(shown, "  ")
end

function Progress:draw()
  local line = self:line(term.width "err")
  io.stderr:write("\r\27[K", line)
  io.stderr:flush()
  self.drawn = true
end

-- One line of key=value (logfmt), for files and cluster logs.
function Progress:log_line()
  local s, out = self.state, { os.date "!%Y-%m-%dT%H:%M:%SZ" }
  local function add(key, value) out[#out + 1] = key .. "=" .. value end
  add("step", ("%d"):format(s.step or 0))
  if self.total then add("of", ("%d"):format(self.total)) end
  if s.rate then add("it/s", term.number(s.rate)) end
  if s.eta then add("eta", ("%.0fs"):format(s.eta)) end
  for _, l in ipairs(s.losses or {}) do add(l[1]:find "/" and l[1] or "loss/" .. l[1], ("%.6g"):format(l[2])) end
  add("mem", term.bytes(core.peak_rss()))
  if s.extra and s.extra ~= "" then add("note", ("%q"):format(s.extra)) end
  return table.concat(out, " ")
end

-- update{step=, rate= (steps/s), eta= (s), losses={{name, value}...}, extra=text}: cheap enough for every step.
function Progress:update(state)
  self.state = state
  for _, l in ipairs(state.losses or {}) do
    local h = self.history[l[1]]
    if not h then
      h = { each = 1, sum = 0, n = 0 }
      self.history[l[1]] = h
    end
    remember(h, l[2])
  end
  local now = core.now()
  if now - self.logged >= term.log_every then
    self.logged = now
    self:put_log()
  end
  if self.tty and not self.quiet and now - self.last >= 0.1 then
    self.last = now
    self:draw()
  end
end

function Progress:put_log()
  if not log and (self.quiet or self.tty) then return end
  local line = self:log_line()
  if log then log:write(line, "\n") end
  if not self.quiet and not self.tty then io.stderr:write(line, "\n") end
end

-- The last state stays on the terminal as an ordinary line.
function Progress:done()
  if self.state.step then
    self:put_log()
    if self.tty and not self.quiet then
      self:draw()
      io.stderr:write "\n"
    end
  end
  self.drawn = false
  if active == self then active = nil end
end

return term
