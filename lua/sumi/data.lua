-- data.lua -- where examples come from: folders of images, pairs, labelled folders, MNIST, and two toys.
--
-- A data object knows its options when it is made (so that mistakes are reported at the script's line)
-- and touches no file until data:open{seed=, device=, channels=, start=}. data:get(step) depends on
-- (seed, step) only.
local core = require "sumi.core"
local util = require "sumi.util"

local data = {}

-- Folders that relative paths are looked up in before the current one; the experiment loader puts the
-- script's here.
data.base = {}

local methods = {}
local meta = {__index = methods, __name = "sumi.data"}

local function fail(fmt, ...) core.fail(fmt:format(...)) end

-- ---- paths ----

-- The first place where the path exists: below each base folder, then as it is.
local function resolve(path, what, kind)
  local tried = {}
  if path:sub(1, 1) ~= "/" then
    for i, base in ipairs(data.base) do tried[i] = base .. "/" .. path end
  end
  tried[#tried + 1] = path
  for _, candidate in ipairs(tried) do
    if core.stat(candidate) then return candidate end
  end
  fail("%s: there is no %s '%s' (looked for %s)", what, kind, path, table.concat(tried, ", "))
end

local function folder_files(folder, o, what)
  local dir = resolve(folder, what, "folder")
  local files, others, filtered = core.image_files(dir, o.filter)
  if #files == 0 then
    local hint = "put .jpg, .jpeg, .png or .webp files there"
    if filtered > 0 then
      hint = ("%d images are there, but filter = '%s' matches none"):format(filtered, o.filter)
    elseif others > 0 then
      hint = others == 1 and "its one file is not .jpg, .jpeg, .png or .webp" or
        ("its %d files are not .jpg, .jpeg, .png or .webp"):format(others)
    end
    fail("%s: the folder %s holds no images; %s", what, folder, hint)
  end
  local list = {}
  for i, name in ipairs(files) do
    if o.limit and i > o.limit then break end
    list[i] = {name = name, path = dir .. "/" .. name, shown = folder .. "/" .. name}
  end
  return list
end

local function paths(list)
  local out = {}
  for i, file in ipairs(list) do out[i] = file.path end
  return out
end

-- ---- what each layout lists; returns the loader's table and the files in manifest order ----

local function stem(name) return (name:gsub("%.%w+$", "")) end

local function by_stem(list, what)
  local map = {}
  for _, file in ipairs(list) do
    local twin = map[stem(file.name)]
    if twin then fail("%s: %s and %s have one name; which is the pair's?", what, twin.shown, file.shown) end
    map[stem(file.name)] = file
  end
  return map
end

local function first_without(list, map, folder, what)
  for _, file in ipairs(list) do
    if not map[stem(file.name)] then
      fail("%s: %s has no partner: there is no %s.* in %s", what, file.shown, stem(file.name), folder)
    end
  end
end

local function two_folders(o, limit, what)
  return folder_files(o.a, {filter = o.filter_a or o.filter, limit = limit}, what),
         folder_files(o.b, {filter = o.filter_b or o.filter, limit = limit}, what)
end

local function list_pairs(o, what)
  local a, b = two_folders(o, nil, what)
  local in_a, in_b = by_stem(a, what), by_stem(b, what)
  first_without(a, in_b, o.b, what)
  first_without(b, in_a, o.a, what)
  local partners, files = {}, {}
  for i = 1, math.min(#a, o.limit or #a) do
    partners[i] = in_b[stem(a[i].name)]
    files[2 * i - 1], files[2 * i] = a[i], partners[i]
  end
  if o.limit then a = table.move(a, 1, math.min(#a, o.limit), 1, {}) end
  return {a = paths(a), partners = paths(partners)}, files
end

local function list_unpaired(o, what)
  local a, b = two_folders(o, o.limit, what)
  return {a = paths(a), b = paths(b)}, table.move(b, 1, #b, #a + 1, table.move(a, 1, #a, 1, {}))
end

local function list_labels(o, what)
  local files = folder_files(o[1], o, what)
  local classes, index, labels = {}, {}, {}
  for i, file in ipairs(files) do
    local class = file.name:match "^([^/]+)/"
    if not class then
      fail("%s: labels = true wants one subfolder for each class, but %s lies in none", what, file.shown)
    end
    if not index[class] then
      classes[#classes + 1] = class
      index[class] = #classes - 1
    end
    labels[i] = index[class]
  end
  return {a = paths(files), labels = labels}, files, classes
end

local function list_images(o, what)
  if o.labels then return list_labels(o, what) end
  if o.a then return (o.paired and list_pairs or list_unpaired)(o, what) end
  local files = folder_files(o[1] or o.ab, o, what)
  return {a = paths(files), halves = o.ab and o.side or nil}, files
end

-- ---- options ----

local shared = {
  size = "integer|table", crop = "integer|table",
  fit = {type = "string", choices = {"exact", "short"}, default = "exact"},
  flip = {type = "boolean", default = false}, jitter = {type = "integer", default = 0, min = 0, max = 4096},
  resize = {type = "string", choices = {"bicubic", "bilinear"}, default = "bicubic"},
  batch = {type = "integer", default = 1, min = 1, max = 65536},
  channels = {type = "integer", min = 1, max = 4},
  on_error = {type = "string", choices = {"fail", "skip"}, default = "fail"},
  threads = {type = "integer", default = 2, min = 0, max = 64}, train = {type = "boolean", default = true},
  shuffle = "boolean", limit = {type = "integer", min = 1},
  cache = {type = "number", default = 1024, min = 0},   -- MB of RAM for decoded images
}

local function with_shared(more)
  for _, k in ipairs(util.names(shared)) do more[k] = shared[k] end
  return more
end

-- 64 or {48, 64} -> height, width
local function extent(v, name, what)
  if v == nil then return nil end
  local h, w = v, v
  if type(v) == "table" then h, w = v[1], v[2] end
  local function pixels(n) return math.type(n) == "integer" and n >= 1 and n <= 16384 end
  if not (pixels(h) and pixels(w)) or (type(v) == "table" and #v ~= 2) then
    fail("%s: %s is a number of pixels from 1 to 16384, or {height, width}", what, name)
  end
  return h, w
end

-- Checks what does not need files.
local function look(o, what)
  local size_h, size_w = extent(o.size, "size", what)
  local crop_h, crop_w = extent(o.crop, "crop", what)
  if o.fit == "short" then
    if not size_h then fail("%s: fit = 'short' resizes the short side to size: give size = N", what) end
    if type(o.size) == "table" then fail("%s: fit = 'short' wants one number as size", what) end
    if not crop_h then crop_h, crop_w = size_h, size_h end
  end
  if size_h and crop_h and (crop_h > size_h or crop_w > size_w) then
    fail("%s: a crop of %dx%d cannot come from images of %dx%d; give size of at least %d", what, crop_w,
      crop_h, size_w, size_h, math.max(crop_h, crop_w))
  end
  if o.jitter > 0 and not size_h then fail("%s: jitter varies the load size: give size = N", what) end
  if o.shuffle == nil then o.shuffle = o.train end
  return {size_h = size_h, size_w = size_w, crop_h = crop_h, crop_w = crop_w, short_side = o.fit == "short",
          jitter = o.jitter, flip = o.flip, train = o.train, resize = o.resize}
end

local function object(kind, o, fields)
  fields.kind, fields.options, fields.batch, fields.at = kind, o, o.batch, core.where()
  return setmetatable(fields, meta)
end

-- What images and mnist have in common: resize to size (exactly, or with fit = 'short' its short side),
-- then crop (at random, or the middle with train = false), then flip. jitter = N resizes to size + 0..N,
-- drawn for each example, and crops back to crop or size. on_error = 'skip' replaces a broken image by the
-- next good one. Neither threads nor cache change what a step gets.
--
-- images{ "dir" | a="dir", b="dir" | ab="dir", ... } -> data. One folder gives batches {x=}, two give
-- {a=, b=}: unpaired, or with paired = true pairs of equal names; ab = images whose halves are the pair
-- (side = 'ba': the left half is b). filter = "glob" (filter_a, filter_b for one side) is matched against
-- the path below the folder and against the name alone. labels = true: one subfolder for each class, y
-- counts from 0 in the order of their names.
function data.images(given)
  local what = "images"
  if type(given) == "string" then given = {given} end
  local o = util.options(given, with_shared {"string", a = "string", b = "string", ab = "string",
    filter = "string", filter_a = "string", filter_b = "string", paired = {type = "boolean", default = false},
    side = {type = "string", choices = {"ab", "ba"}, default = "ab"},
    labels = {type = "boolean", default = false}}, what)
  local sources = (o[1] and 1 or 0) + ((o.a or o.b) and 1 or 0) + (o.ab and 1 or 0)
  if sources ~= 1 or (o.a == nil) ~= (o.b == nil) then
    fail 'images: wants one source: images{"folder"}, images{a = "folder", b = "folder"}, images{ab = "folder"}'
  end
  if (o.filter_a or o.filter_b) and not o.a then
    fail "images: filter_a and filter_b belong to a = and b =; use filter ="
  end
  if o.paired and not o.a then fail "images: paired = true wants two folders: a = and b =" end
  if o.labels and not o[1] then
    fail 'images: labels = true wants one folder with a subfolder for each class: images{"folder"}'
  end
  local two = o.a or o.ab
  return object("images", o, {look = look(o, what), names = two and {"a", "b"} or {"x"},
    default_channels = 3, list = function() return list_images(o, what) end})
end

-- ---- MNIST ----

local function idx_file(o, which)
  local name = (o.split == "test" and "t10k-" or "train-") .. which
  local dir = resolve(o[1], "mnist", "folder")
  for _, ending in ipairs {".gz", ""} do
    local path = dir .. "/" .. name .. ending
    if core.stat(path) then return {path = path, shown = o[1] .. "/" .. name .. ending} end
  end
  fail("mnist: %s holds no %s or %s.gz", o[1], name, name)
end

local function list_mnist(o)
  local images, labels
  if o[1] then
    images, labels = idx_file(o, "images-idx3-ubyte"), idx_file(o, "labels-idx1-ubyte")
  else
    images = {path = resolve(o.images, "mnist", "file"), shown = o.images}
    labels = o.labels and {path = resolve(o.labels, "mnist", "file"), shown = o.labels}
  end
  local bytes, shape = core.idx_read(images.path)
  if #shape ~= 3 then fail("mnist: %s has %d dimensions; images have 3", images.shown, #shape) end
  local n = math.min(shape[1], o.limit or shape[1])
  local t = {bytes = bytes, n = n, bytes_h = shape[2], bytes_w = shape[3]}
  if not labels then return t, {images} end
  local y, count = core.idx_read(labels.path)
  if #count ~= 1 or count[1] ~= shape[1] then
    fail("mnist: %s holds %d labels, %s %d images", labels.shown, count[1], images.shown, shape[1])
  end
  t.labels = {}
  for i = 1, n do t.labels[i] = y:byte(i) end
  return t, {images, labels}
end

-- mnist{ "dir", split = "train" | "test" } or mnist{ images = "file", labels = "file" } -> data with {x=,
-- y=}. The files are idx, gzipped or not; size = 32 resizes the 28 pixels.
function data.mnist(given)
  if type(given) == "string" then given = {given} end
  local o = util.options(given, with_shared {"string", images = "string", labels = "string",
    split = {type = "string", choices = {"train", "test"}, default = "train"}}, "mnist")
  if (o[1] == nil) == (o.images == nil) or (o.labels and not o.images) then
    fail 'mnist: wants mnist{"folder"} or mnist{images = "file", labels = "file"}'
  end
  return object("mnist", o, {look = look(o, "mnist"), names = {"x"}, default_channels = 1,
    list = function() return list_mnist(o) end})
end

-- ---- toys: points in the plane ----

local toy_spec = {batch = {type = "integer", default = 64, min = 1, max = 1 << 20},
                  count = {type = "integer", default = 51200, min = 1},
                  labels = {type = "boolean", default = false}}

local function toy(kind, given, more, modes_of)
  for _, k in ipairs(util.names(toy_spec)) do more[k] = more[k] or toy_spec[k] end
  local o = util.options(given, more, kind)
  if o.count < o.batch then
    fail("%s: an epoch (count = %d) is shorter than a batch of %d", kind, o.count, o.batch)
  end
  return object(kind, o, {modes = modes_of(o), std = o.std, names = {"x"}})
end

-- ring{modes = 8, radius = 2, std = 0.02, batch =, count =, labels =} -> data with {x = [n,2]}: Gaussians
-- on a circle, the first at (radius, 0). data.modes are the centres, data.std their width, count the
-- examples that are called an epoch.
function data.ring(given)
  return toy("ring", given, {modes = {type = "integer", default = 8, min = 1, max = 4096},
    radius = {type = "number", default = 2}, std = {type = "number", default = 0.02, min = 0}}, function(o)
    local list = {}
    for i = 1, o.modes do
      local turn = 2 * math.pi * (i - 1) / o.modes
      list[i] = {o.radius * math.cos(turn), o.radius * math.sin(turn)}
    end
    return list
  end)
end

-- points_grid{side = 5, spacing = 2, std = 0.05, ...} -> data like ring: side x side Gaussians around the
-- origin.
function data.points_grid(given)
  return toy("points_grid", given, {side = {type = "integer", default = 5, min = 1, max = 64},
    spacing = {type = "number", default = 2}, std = {type = "number", default = 0.05, min = 0}}, function(o)
    local list, middle = {}, (o.side + 1) / 2
    for i = 1, o.side do
      for j = 1, o.side do list[#list + 1] = {(i - middle) * o.spacing, (j - middle) * o.spacing} end
    end
    return list
  end)
end

-- ---- what the trainer uses ----

local function channels_of(self, wanted)
  local own = self.options.channels
  if own and wanted and own ~= wanted then
    fail("%s: channels = %d, but the network wants %d; give channels = %d, or change the network's input",
      self.kind, own, wanted, wanted)
  end
  if wanted and (wanted < 1 or wanted > 4) then
    fail("%s: the network wants %d channels; images have 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA)",
      self.kind, wanted)
  end
  return own or wanted or self.default_channels
end

-- open{seed=, device="cpu", channels=nil, start=0}: lists the files, looks at the first image, starts the
-- threads. start is the step that will be asked for first (resuming).
function methods:open(given)
  local g = util.options(given, {seed = {type = "integer", default = 0}, channels = "integer",
    device = {type = "string", default = "cpu"}, start = {type = "integer", default = 0, min = 0}}, "open")
  self:close()
  self.seed, self.device = g.seed, g.device
  if self.modes then
    self.opened = true
    return self
  end
  local o, t = self.options, nil
  t, self.files, self.classes = self.list()
  for _, k in ipairs(util.names(self.look)) do t[k] = self.look[k] end
  t.channels = channels_of(self, g.channels)
  t.seed, t.device, t.start = g.seed, g.device, g.start
  t.batch, t.threads, t.shuffle = o.batch, o.threads, o.shuffle
  t.skip, t.cache_bytes = o.on_error == "skip", math.floor(o.cache * 1e6)
  self.loader = core.loader(t)
  self.channels, self.warned, self.opened = t.channels, 0, true
  return self
end

local function must_be_open(self)
  if self.opened then return end
  fail("%s: the data are not open; the trainer opens them, or call data:open{seed = 1}", self.kind)
end

-- Examples in an epoch.
function methods:count()
  if self.modes then return self.options.count end
  must_be_open(self)
  return (self.loader:count())
end

-- Full batches in an epoch.
function methods:steps_per_epoch() return self:count() // self.batch end

-- Height, width and channels of a batch's images.
function methods:shape()
  must_be_open(self)
  if self.modes then fail("%s: points have no height and width", self.kind) end
  return self.loader:shape()
end

-- The batch of a step counted from 0: {x=} or {a=, b=}, images [n,h,w,c] in [-1,1] or points [n,2]; y [n]
-- where there are labels.
function methods:get(step)
  must_be_open(self)
  if self.loader then return self.loader:get(step, self.names) end
  local x, y = core.points {modes = self.modes, std = self.std, n = self.batch, seed = self.seed, step = step,
                            device = self.device}
  return {x = x, y = self.options.labels and y or nil}
end

-- Messages since the last call about broken images that were replaced (on_error = 'skip'), each image once.
function methods:warnings()
  local list = {}
  if not self.loader then return list end
  while true do
    local text = self.loader:warning(self.warned + 1)
    if not text then return list end
    self.warned = self.warned + 1
    list[#list + 1] = "skipped a broken image: " .. text
  end
end

-- {{path=, bytes=, sha256=}, ...} of the files in the order in which they are used. Paths are as the
-- script gives them.
function methods:manifest()
  local list = {}
  if not self.modes then must_be_open(self) end
  for i, file in ipairs(self.files or {}) do
    if core.stat(file.path) then
      local hash, bytes = core.file_digest(file.path)
      list[i] = {path = file.shown, bytes = bytes, sha256 = hash}
    else
      list[i] = {path = file.shown, bytes = 0, sha256 = "missing"}   -- a dangling link: get reports it
    end
  end
  return list
end

-- Every option with its value, flat, for the record. Sizes are "HxW".
function methods:describe()
  local flat = {kind = self.kind, channels = self.channels}
  flat.classes = self.classes and table.concat(self.classes, " ")
  for _, k in ipairs(util.names(self.options)) do
    local v = self.options[k]
    flat[k] = type(v) == "table" and table.concat(v, "x") or v
  end
  flat.folder = self.options[1]
  return flat
end

function methods:close()
  if self.loader then self.loader:close() end
  self.loader, self.opened = nil, false
end

function meta.__tostring(self)
  local parts = {}
  local flat = self:describe()
  for _, k in ipairs(util.names(flat)) do
    if k ~= "kind" then parts[#parts + 1] = k .. "=" .. tostring(flat[k]) end
  end
  return self.kind .. "{" .. table.concat(parts, ", ") .. "}"
end

return data
