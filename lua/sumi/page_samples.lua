-- page_samples.lua -- the sample pictures of the report page: which are shown, how they are made small, viewers
-- and strips. All pictures together stay below a budget, so that the page stays below 5 MB.
local core = require "sumi.core"
local markup = require "sumi.markup"

local samples = {}
local picture_budget = 2.6e6         -- bytes of sample pictures before base64 makes a third more of them
local most_pictures = 96             -- so many are encoded at most
local small_file = 16384             -- a PNG up to here is embedded as it is; a larger one as lossy WebP

local esc = markup.esc
local thousands = markup.thousands
local seed_text = markup.seed_text
local relative = markup.relative
local url = markup.url

-- Width and height from a PNG's head.
local function png_size(bytes)
  if bytes:sub(1, 8) ~= "\137PNG\r\n\26\n" then return nil end
  return string.unpack(">I4I4", bytes, 17)
end

-- One viewer for each tag of a run: {run=, tag=, frames = {{step=, path=}...}}, first seeds of all variants
-- first.
function samples.find(model, most)
  local viewers, round = {}, 1
  local more = true
  while more and #viewers < most do
    more = false
    for _, v in ipairs(model.variants) do
      local run = v.runs[round]
      if run then
        more = true
        local by_tag = {}
        for _, s in ipairs(run.samples or {}) do
          local path = run.dir .. "/" .. s.path
          if core.stat(path) then
            if not by_tag[s.tag] then
              by_tag[s.tag] = { run = run, variant = v.name, tag = s.tag, frames = {} }
              viewers[#viewers + 1] = by_tag[s.tag]
            end
            table.insert(by_tag[s.tag].frames, { step = s.step, path = path, size = core.stat(path).size })
          end
        end
      end
    end
    round = round + 1
  end
  return viewers
end

-- k of the frames, evenly spaced, first and last included.
local function thin(frames, k)
  if #frames <= k then return frames end
  if k == 1 then return { frames[#frames] } end
  local out = {}
  for i = 1, k do out[i] = frames[1 + (i - 1) * (#frames - 1) // (k - 1)] end
  return out
end

-- The frame's picture as it will be embedded: {bytes, kind, w, h}; made once.
local function encode(f)
  if f.picture then return f.picture end
  local bytes, kind, w, h
  if f.size <= small_file then
    bytes, kind = core.read_file(f.path), "png"
    if bytes then w, h = png_size(bytes) end
  end
  if not w then
    bytes, w, h = core.thumbnail(f.path, 768, 84)
    kind = "webp"
    if not bytes then core.fail("report: " .. w) end
  end
  f.picture = { bytes = bytes, kind = kind, w = w, h = h }
  return f.picture
end

-- Fewer steps, then fewer viewers, until the pictures fit. Returns the viewers and whether anything was left
-- out.
function samples.fit(viewers)
  local full, all = 0, #viewers
  for _, v in ipairs(viewers) do full = math.max(full, #v.frames) end
  while #viewers > 0 do
    for k = math.min(full, math.max(1, most_pictures // #viewers)), 1, -1 do
      local bytes = 0
      for _, v in ipairs(viewers) do
        v.shown = thin(v.frames, k)
        for _, f in ipairs(v.shown) do bytes = bytes + #encode(f).bytes end
      end
      if bytes <= picture_budget then return viewers, k < full or #viewers < all end
    end
    table.remove(viewers)
  end
  return viewers, all > 0
end

-- Pixels of a small picture are enlarged by a whole number, until it is about `target` wide.
local function picture(b, f, alt, target)
  local p = encode(f)
  local scale = math.max(1, math.min(8, math.floor(target / p.w)))
  b.raw(('<img src="data:image/%s;base64,%s" width="%d" height="%d"%s alt="%s">'):format(p.kind,
    core.base64(p.bytes), p.w * scale, p.h * scale, scale > 1 and ' class="small"' or "", esc(alt)))
end

local function viewer(b, v, out, model, target)
  local name = v.tag:gsub("%-", " | ")                     -- "a-ab-b-ba" is a grid of these columns
  if #model.runs > 1 then name = ("%s · %s · seed %s"):format(name, v.variant, seed_text(v.run.seed)) end
  b.raw '<figure class="viewer">'
  b.add("<h3>%s</h3>", name)
  b.raw '<div class="frames">'
  for i, f in ipairs(v.shown) do
    b.add('<div class="frame%s" data-step="%d">', i == #v.shown and " on" or "", f.step)
    local what = ("%s of %s, seed %s"):format(v.tag, v.variant, seed_text(v.run.seed))
    picture(b, f, ("%s, at step %d"):format(what, f.step), target)
    b.add('<small>step %s · <a href="%s">original</a></small></div>', thousands(f.step),
      url(relative(out, f.path)))
  end
  b.raw "</div></figure>"
end

function samples.section(b, model, viewers, left_out, out)
  if #viewers == 0 then return end
  b.raw '<section id="samples">\n<h2>Samples</h2>'
  b.raw '<div class="bar"><button id="play" type="button">Play</button>'
  b.raw '<input id="step" type="range" min="0" value="0" aria-label="Step of the samples">'
  b.raw '<output id="at"></output>'
  b.raw '<button id="all" type="button">All steps</button></div>\n<div class="samples">'
  for _, v in ipairs(viewers) do viewer(b, v, out, model, #viewers <= 2 and 560 or 360) end
  b.raw "</div>"
  b.add('<p class="note">The same noise or the same inputs at every step.%s</p></section>',
    left_out and " Not every step or seed is shown here; all are in the runs' samples folders." or "")
end

-- Which viewers a strip has as rows: by = "variant": the first seed of each; "seed": every run; else the first
-- run.
local function strip_rows(model, s)
  local rows, first = {}, {}
  for _, v in ipairs(model.variants) do first[v.runs[1]] = true end
  for _, v in ipairs(samples.find(model, math.huge)) do
    local wanted = s.by == "seed" or (s.by == "variant" and first[v.run]) or v.run == model.variants[1].runs[1]
    if v.tag == s.tag and wanted then rows[#rows + 1] = v end
  end
  if #rows == 0 then core.fail(4, ("strip: no samples are tagged '%s'"):format(s.tag)) end
  return rows
end

-- A declared strip: a column for each step, which shows the newest grid that is not later.
function samples.strip(b, model, s)
  local rows, steps = strip_rows(model, s), {}
  for i, f in ipairs(thin(rows[1].frames, 5)) do steps[i] = f.step end
  steps = s.at or steps
  b.add('<figure class="wide"><h3>%s</h3>', s.title or "Samples: " .. s.tag)
  b.add('<div class="strip" style="grid-template-columns:max-content repeat(%d,1fr)"><div></div>', #steps)
  for _, at in ipairs(steps) do b.add("<div>step %s</div>", thousands(at)) end
  for _, v in ipairs(rows) do
    b.add("<div>%s, seed %s</div>", v.variant, seed_text(v.run.seed))
    for _, at in ipairs(steps) do
      local pick
      for _, f in ipairs(v.frames) do
        if f.step <= at then pick = f end
      end
      b.raw "<div>"
      if pick then picture(b, pick, ("%s of %s at step %d"):format(v.tag, v.variant, pick.step), 200) end
      b.raw "</div>"
    end
  end
  b.raw "</div></figure>"
end

return samples
