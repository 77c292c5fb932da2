-- test_data.lua -- data objects as scripts and the trainer use them: layouts, determinism, messages. Run
-- from the repository's root.
local T = dofile((arg[0]:match "^(.*)/" or ".") .. "/lib.lua")
local core = require "sumi.core"
local data = require "sumi.data"
local util = require "sumi.util"

local root = T.tmpdir()
local here = root .. "/set"

-- A picture of one shade, h x w, with a brighter left half.
local function picture(path, h, w, shade)
  core.mkdir_p(path:match "^(.*)/")
  local flat = {}
  for i = 0, h * w - 1 do
    flat[3 * i + 1], flat[3 * i + 2], flat[3 * i + 3] = shade, shade, i % w < w // 2 and 1 or shade
  end
  core.image_grid(path, core.tensor(flat, {1, h, w, 3}), 1, 1)
end

local function write(path, text)
  core.mkdir_p(path:match "^(.*)/")
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

local function fails(words, fn, code)
  local ok, err = pcall(fn)
  if ok then error("did not fail; should say: " .. words, 2) end
  local text = tostring(err)
  if not text:find(words, 1, true) then error(("says %q, not %q"):format(text, words), 2) end
  if code and err.code ~= code then error(("has code %s, not %d"):format(tostring(err.code), code), 2) end
end

-- What fails when these data are opened.
local function opening(words, d) return fails(words, function() d:open {} end) end

-- All numbers of a batch in one string.
local function bytes(batch)
  local parts = {}
  for _, k in ipairs {"a", "b", "x", "y"} do parts[#parts + 1] = batch[k] and batch[k]:raw() or "-" end
  return table.concat(parts)
end

for i = 0, 6 do
  picture(("%s/a/n%d.png"):format(here, i), 20 + i, 24, i / 10 - 0.5)
  picture(("%s/b/n%d.png"):format(here, i), 20 + i, 24, 0.5 - i / 10)
  picture(("%s/wide/n%d.png"):format(here, i), 16, 32, i / 10)
  picture(("%s/classes/%s/n%d.png"):format(here, i < 4 and "cat" or "dog", i), 16, 16, i / 10 - 0.5)
end

-- ---- layouts ----

T.test("a folder", function()
  local d = data.images {here .. "/a", size = 16, batch = 2}:open {seed = 1}
  T.eq(d:count(), 7)
  T.eq(d:steps_per_epoch(), 3)
  local b = d:get(0)
  T.eq(b.x:shape(), {2, 16, 16, 3})
  T.eq(b.a, nil)
  T.eq(b.y, nil)
  local flat = d:describe()
  T.eq({flat.kind, flat.size, flat.batch, flat.folder, flat.channels}, {"images", 16, 2, here .. "/a", 3})
  d:close()
  fails("not open", function() d:get(0) end)
end)

T.test("the base folder is tried before the current one", function()
  data.base = {root .. "/nowhere", root}
  local d = data.images {"set/a", size = 8}:open {seed = 1}
  T.eq(d:manifest()[1].path, "set/a/n0.png")
  data.base = {}
  fails("there is no folder 'set/a' (looked for set/a)", function() data.images {"set/a"}:open {seed = 1} end)
end)

T.test("the manifest has the hash of every file", function()
  local d = data.images {here .. "/a", size = 8, limit = 3}:open {seed = 1}
  local list = d:manifest()
  T.eq(#list, 3)
  local text = read(here .. "/a/n2.png")
  T.eq(list[3], {path = here .. "/a/n2.png", bytes = #text, sha256 = core.sha256(text)})
end)

T.test("labels", function()
  local d = data.images {here .. "/classes", labels = true, batch = 7, shuffle = false}:open {seed = 1}
  T.eq(d.classes, {"cat", "dog"})
  T.eq(d:get(0).y:totable(), {0, 0, 0, 0, 1, 1, 1})
  opening("one subfolder for each class", data.images {here .. "/a", labels = true})
end)

T.test("aligned pairs get the same crop and flip", function()
  local d = data.images {a = here .. "/a", b = here .. "/b", paired = true, size = 20, crop = 8, flip = true,
                         batch = 2}:open {seed = 5}
  for step = 0, 20 do
    local b = d:get(step)
    local x, y = b.a:totable(), b.b:totable()
    for i = 1, #x, 3 do
      T.ok(math.abs(x[i] + y[i]) < 0.02, "shades of partners are opposite")
      T.ok((x[i + 2] > 0.9) == (y[i + 2] > 0.9), "the bright half is at the same place")
    end
  end
  local list = d:manifest()
  T.eq({#list, list[1].path, list[2].path}, {14, here .. "/a/n0.png", here .. "/b/n0.png"})
end)

T.test("a file without partner is named", function()
  picture(here .. "/c/n0.png", 16, 16, 0)
  fails("set/a/n1.png has no partner: there is no n1.* in " .. here .. "/c", function()
    data.images {a = here .. "/a", b = here .. "/c", paired = true}:open {seed = 1}
  end)
  opening("set/a/n1.png has no partner", data.images {a = here .. "/c", b = here .. "/a", paired = true})
end)

T.test("side by side", function()
  local left = data.images {ab = here .. "/wide", train = false}:open {seed = 1}:get(0)
  local right = data.images {ab = here .. "/wide", side = "ba", train = false}:open {seed = 1}:get(0)
  T.eq(left.a:shape(), {1, 16, 16, 3})
  T.eq(left.a:raw(), right.b:raw())
  T.eq(left.b:raw(), right.a:raw())
  T.ok(left.a:raw() ~= left.b:raw())
end)

T.test("filter and limit", function()
  local d = data.images {here .. "/a", filter = "n[1-3].png", size = 8}:open {seed = 1}
  T.eq(d:count(), 3)
  local u = data.images {a = here .. "/a", b = here .. "/b", filter_b = "n6*", size = 8}:open {seed = 1}
  T.eq({u:count(), #u:manifest()}, {7, 8})
  opening("7 images are there, but filter = 'z*' matches none", data.images {here .. "/a", filter = "z*"})
end)

T.test("mnist", function()
  local d = data.mnist {"experiments/data/mnist", batch = 50, shuffle = false}:open {seed = 1}
  T.eq(d:count(), 10000)
  T.eq({d:shape()}, {28, 28, 1})
  local y = d:get(0).y:totable()
  T.eq({y[1], y[2], y[3], y[4], y[5]}, {5, 0, 4, 1, 9})
  local test = data.mnist {"experiments/data/mnist", split = "test", size = 32, limit = 100, batch = 100,
                           train = false}:open {}
  T.eq({test:count(), test:steps_per_epoch()}, {100, 1})
  T.eq(test:get(0).x:shape(), {100, 32, 32, 1})
  T.eq({test:get(0).y:totable()[1], test:get(0).y:totable()[2]}, {7, 2})
  opening("holds no train-images-idx3-ubyte", data.mnist {here})
  opening("not an idx file", data.mnist {images = here .. "/a/n0.png"})
end)

T.test("toys", function()
  local d = data.ring {batch = 4000, labels = true}:open {seed = 3}
  T.eq(#d.modes, 8)
  local b = d:get(2)
  T.eq(b.x:shape(), {4000, 2})
  local x, y, hits, spread = b.x:totable(), b.y:totable(), {}, 0
  for i = 1, 4000 do
    local m = d.modes[y[i] + 1]
    hits[y[i]] = (hits[y[i]] or 0) + 1
    spread = spread + (x[2 * i - 1] - m[1]) ^ 2 + (x[2 * i] - m[2]) ^ 2
  end
  for m = 0, 7 do T.ok(hits[m] > 400 and hits[m] < 600, "a mode has about 500 of 4000 points") end
  T.ok(math.abs(math.sqrt(spread / 8000) - 0.02) < 0.001, "the spread is std")
  T.eq(d:get(2).x:raw(), b.x:raw())
  T.ok(d:get(3).x:raw() ~= b.x:raw())
  local g = data.points_grid {batch = 10}:open {seed = 1}
  T.eq({#g.modes, g.modes[1][1], g.modes[25][2]}, {25, -4.0, 4.0})
  T.eq({g:count(), g:steps_per_epoch()}, {51200, 5120})
  fails("there is no option 'mode'; did you mean 'modes'?", function() data.ring {mode = 8} end)
end)

-- ---- the same run whatever the threads ----

T.test("threads, cache and the way to a step change nothing", function()
  local function options(more)
    local o = {a = here .. "/a", b = here .. "/b", size = 20, crop = 16, jitter = 4, flip = true, batch = 3}
    for k, v in pairs(more) do o[k] = v end
    return o
  end
  local want = {}
  local first = data.images(options {threads = 0}):open {seed = 9}
  for step = 0, 30 do want[step] = bytes(first:get(step)) end
  for _, more in ipairs {{threads = 1}, {threads = 4}, {threads = 4, cache = 0}} do
    local d = data.images(options(more)):open {seed = 9}
    for step = 0, 30 do T.ok(bytes(d:get(step)) == want[step], "step " .. step) end
    T.ok(bytes(d:get(7)) == want[7], "back to step 7")
  end
  local resumed = data.images(options {threads = 2}):open {seed = 9, start = 17}
  for step = 17, 30 do T.ok(bytes(resumed:get(step)) == want[step], "resumed at 17, step " .. step) end
  T.ok(bytes(data.images(options {}):open {seed = 10}:get(0)) ~= want[0], "another seed")
end)

-- A GPU gets bytes and makes numbers of them (op picture): the same ones.
T.test("a device that takes bytes gets the CPU's floats", function()
  if not core.plugin "emu".path then return T.skip("bytes to a device", "there is no emulator") end
  local sources = {
    {here .. "/a", size = 18, crop = {12, 9}, flip = true, jitter = 5, batch = 3},
    {here .. "/classes", labels = true, channels = 1, batch = 7},
    {ab = here .. "/wide", flip = true, crop = 8, batch = 2, threads = 0},
    {a = here .. "/a", b = here .. "/b", size = 10, channels = 4, batch = 3},
  }
  for _, o in ipairs(sources) do
    local want, got = data.images(o):open {seed = 3}, data.images(o):open {seed = 3, device = "emu"}
    for step = 0, 9 do
      local a, b = want:get(step), got:get(step)
      T.eq(b.x and b.x:device() or b.a:device(), "emu")
      T.eq(bytes(b), bytes(a))
    end
  end
end)

T.test("no allocation by the loader once the images are in RAM", function()
  local d = data.images {here .. "/a", size = 20, crop = 16, batch = 2}:open {seed = 1}
  for step = 0, 40 do
    core.step_begin(1, step)
    d:get(step)
    core.step_end()
  end
  collectgarbage()
  local before = core.sys_allocs()
  for step = 41, 140 do
    core.step_begin(1, step)
    d:get(step)
    core.step_end()
  end
  T.eq(core.sys_allocs() - before, 0)
end)

T.test("not training: the middle, in order, unflipped", function()
  local d = data.images {here .. "/a", size = 20, crop = 10, flip = true, train = false}:open {seed = 1}
  local whole = core.image_read(here .. "/a/n0.png", {h = 20, w = 20}):totable()
  local got = d:get(0).x:totable()
  for y = 0, 9 do
    for k = 1, 30 do T.eq(got[30 * y + k], whole[60 * (y + 5) + 15 + k]) end
  end
end)

-- ---- messages ----

T.test("wrong options", function()
  fails("images: there is no option 'sze'; did you mean 'size'?", function() data.images {"x", sze = 3} end)
  fails("images: batch must be a whole number, not 2.5", function() data.images {"x", batch = 2.5} end)
  fails("images: batch must be at least 1, not 0", function() data.images {"x", batch = 0} end)
  fails("resize = 'bicubc' is not one of 'bicubic', 'bilinear'; did you mean 'bicubic'?", function()
    data.images {"x", resize = "bicubc"}
  end)
  fails("images: wants one source", function() data.images {} end)
  fails("images: wants one source", function() data.images {"x", a = "y", b = "z"} end)
  fails("images: wants one source", function() data.images {a = "y"} end)
  fails("paired = true wants two folders", function() data.images {"x", paired = true} end)
  fails("a crop of 64x64 cannot come from images of 32x32", function() data.images {"x", size = 32, crop = 64} end)
  fails("size is a number of pixels", function() data.images {"x", size = {1, 2, 3}} end)
  fails("fit = 'short' resizes the short side", function() data.images {"x", fit = "short"} end)
  fails("jitter varies the load size", function() data.images {"x", jitter = 3} end)
  fails("mnist: wants mnist", function() data.mnist {} end)
end)

T.test("wrong folders", function()
  core.mkdir_p(here .. "/empty")
  write(here .. "/texts/readme.txt", "no picture")
  opening("there is no folder '/no/such/folder'", data.images {"/no/such/folder"})
  opening("the folder " .. here .. "/empty holds no images; put .jpg", data.images {here .. "/empty"})
  opening("its one file is not .jpg, .jpeg, .png or .webp", data.images {here .. "/texts"})
  opening("is a file, not a folder", data.images {here .. "/a/n0.png"})
  opening("give batch = 7 or less", data.images {here .. "/a", size = 8, batch = 8})
end)

T.test("wrong sizes and channels", function()
  opening("n0.png: 24x20 is smaller than the crop of 22x22", data.images {here .. "/a", crop = 22})
  local d = data.images {here .. "/a", shuffle = false}:open {}
  d:get(0)
  fails("n1.png: is 24x21, but the first image is 24x20; give size = N", function() d:get(1) end)
  opening("partner", data.images {a = here .. "/a", b = here .. "/classes/cat", paired = true})
  picture(here .. "/uneven/a/n0.png", 16, 16, 0)
  picture(here .. "/uneven/b/n0.png", 16, 18, 0)
  fails("b/n0.png is 18x16; give size = N so that both become equal", function()
    data.images {a = here .. "/uneven/a", b = here .. "/uneven/b", paired = true}:open {}
  end)
  local gray, any = data.images {here .. "/a", channels = 1, size = 8}, data.images {here .. "/a", size = 8}
  fails("channels = 1, but the network wants 3", function() gray:open {channels = 3} end)
  fails("the network wants 6 channels", function() any:open {channels = 6} end)
  local _, _, c = data.images {here .. "/a", size = 8}:open {channels = 1}:shape()
  T.eq(c, 1)
end)

local function broken_folder(name, content)
  local dir = here .. "/" .. name
  for i = 0, 4 do picture(("%s/n%d.png"):format(dir, i), 16, 16, i / 10) end
  write(dir .. "/n2.jpg", content)
  return dir
end

T.test("broken images fail by name, or are skipped and named once", function()
  local whole = read "tests/images/colour.jpg"
  local cases = {
    truncated = {whole:sub(1, #whole // 2), "truncated JPEG"}, empty_file = {"", "the file is empty"},
    no_image = {"hello", "not an image that Sumi reads"}, cmyk = {read "tests/images/cmyk.jpg", "a CMYK JPEG"},
  }
  for _, name in ipairs(util.names(cases)) do
    local dir = broken_folder(name, cases[name][1])
    local d = data.images {dir, size = 8, shuffle = false, threads = 0}:open {seed = 1}
    d:get(0)
    fails(dir .. "/n2.jpg: " .. cases[name][2], function() d:get(2) end)
    for _, threads in ipairs {0, 3} do
      local o = {dir, size = 8, shuffle = false, on_error = "skip", threads = threads}
      local s = data.images(o):open {seed = 1}
      T.eq(#s:warnings(), 0)
      T.eq(s:count(), 6)
      local batches = {}
      for step = 0, 11 do batches[step] = bytes(s:get(step)) end
      T.ok(batches[2] == batches[3] and batches[2] ~= batches[1], "the next good one takes its place")
      local warnings = s:warnings()
      T.eq(#warnings, 1)
      T.ok(warnings[1]:find(dir .. "/n2.jpg: " .. cases[name][2], 1, true), warnings[1])
      T.eq(#s:warnings(), 0)
    end
  end
end)

T.test("an unreadable image is named", function()
  local dir = broken_folder("links", "")
  os.remove(dir .. "/n2.jpg")
  local ok = os.execute(("ln -s /no/such/file '%s/n2.jpg'"):format(dir))
  T.ok(ok, "ln")
  local d = data.images {dir, size = 8, shuffle = false}:open {seed = 1}
  fails("n2.jpg: No such file or directory", function() for step = 0, 5 do d:get(step) end end)
  T.eq(d:manifest()[3].sha256, "missing")
end)

T.test("pictures", function()
  local path = root .. "/grid.png"
  local t = core.tensor({-1, 0, 1, 0.5, -0.5, 0.25}, {6, 1, 1, 1})
  core.image_grid(path, t, 2, 3, 1)
  local back = core.image_read(path)
  T.eq(back:shape(), {1, 3, 5, 1})
  local v = back:totable()
  T.eq({v[1], v[2], v[5], v[6]}, {-1.0, 1.0, 1.0, 1.0})
  T.near(v[3], 0, 0.01)
  T.near(v[11], 0.5, 0.01)
  fails("wants [n,h,w,c], not [2]", function() core.image_grid(path, core.tensor({1, 2}, {2}), 1, 1) end)
  fails("1 or 3 channels", function() core.image_grid(path, core.tensor({1, 2}, {1, 1, 1, 2}), 1, 1) end)
  fails("No such file or directory", function() core.image_grid("/no/such/folder/x.png", t, 1, 1) end, 6)
  fails("/no/such.png: No such file", function() core.image_read "/no/such.png" end)
end)

T.test("suggestions", function()
  local list = {"batch", "size", "channels", "shuffle"}
  for typo, right in pairs {bacth = "batch", sise = "size", chanels = "channels"} do
    T.eq(util.suggest(typo, list), right)
  end
  T.eq(util.suggest("zebra", list), nil)
  T.eq(util.did_you_mean("zebra", list), "; there are batch, size, channels, shuffle")
end)

os.execute(("rm -rf '%s'"):format(root))
return T.done()
