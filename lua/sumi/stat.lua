-- stat.lua -- the statistics that reports print: mean with a 95 % t interval over seeds, running means. Policy
-- (one place): n >= 3 seeds: mean +- half-width of the t interval; n = 2: both values; n = 1: the value,
-- marked.
local stat = {}

-- 97.5 % quantiles of Student's t for 1..30 degrees of freedom.
local t975 = { 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788,
  2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
  2.0518, 2.0484, 2.0452, 2.0423 }

-- Beyond 30: Cornish-Fisher expansion about the normal quantile z (error below 1e-5; Abramowitz & Stegun
-- 26.7.5).
function stat.t975(df)
  if df <= 30 then return t975[df] end
  local z = 1.959963984540054
  return z + (z ^ 3 + z) / (4 * df) + (5 * z ^ 5 + 16 * z ^ 3 + 3 * z) / (96 * df ^ 2)
end

local function finite(v) return v == v and math.abs(v) ~= math.huge end
stat.finite = finite

-- Mean and half-width of the 95 % t interval of the finite values: {n, mean, half, lo, hi}. n = 2: lo and hi
-- are the values themselves and half is nil; n = 1: lo = hi = mean. nil when no value is finite.
function stat.interval(values)
  local n, sum, lo, hi = 0, 0, math.huge, -math.huge
  for _, v in ipairs(values) do
    if finite(v) then n, sum, lo, hi = n + 1, sum + v, math.min(lo, v), math.max(hi, v) end
  end
  if n == 0 then return nil end
  local mean = sum / n
  if n < 3 then return { n = n, mean = mean, lo = lo, hi = hi } end
  local squares = 0
  for _, v in ipairs(values) do
    if finite(v) then squares = squares + (v - mean) ^ 2 end
  end
  local half = stat.t975(n - 1) * math.sqrt(squares / (n - 1) / n)
  return { n = n, mean = mean, half = half, lo = mean - half, hi = mean + half }
end

-- Digits after the point such that x shows `figures` significant ones.
local function decimals(x, figures)
  if x == 0 or not finite(x) then return 0 end
  return math.max(0, figures - 1 - math.floor(math.log(math.abs(x), 10) + 1e-12))
end

-- The same for very small and very large numbers: "(2.00 ± 0.13)e-4".
local function scaled_text(s, one_seed)
  local power = math.floor(math.log(math.abs(s.mean), 10) + 1e-12)
  local by = 10.0 ^ power
  local t = stat.text { n = s.n, mean = s.mean / by, half = s.half and s.half / by, lo = s.lo / by, hi = s.hi / by }
  return (s.n == 1 and "%se%d%s" or "(%s)e%d%s"):format(t, power, s.n == 1 and one_seed or "")
end

-- Text of an interval: "0.612 ± 0.031" (two significant digits of the half-width), "0.61 / 0.64", "0.612 (1
-- seed)". one_seed: what to append when n = 1.
function stat.text(s, one_seed)
  if not s then return "–" end
  local size = math.abs(s.mean)
  if size ~= 0 and (size < 1e-3 or size >= 1e6) then return scaled_text(s, one_seed) end
  if s.n >= 3 then
    local d = decimals(s.half, 2)
    if s.half == 0 then d = decimals(s.mean, 3) end
    return ("%." .. d .. "f ± %." .. d .. "f"):format(s.mean, s.half)
  end
  local d = decimals(s.mean, 3)
  if s.n == 2 then return ("%." .. d .. "f / %." .. d .. "f"):format(s.lo, s.hi) end
  return ("%." .. d .. "f"):format(s.mean) .. (one_seed or "")
end

-- Centred running mean over `window` entries (odd), cut off at both ends; what is not finite is left out.
function stat.smooth(values, window)
  local sums, counts, out = { [0] = 0 }, { [0] = 0 }, {}
  for i, v in ipairs(values) do
    local ok = finite(v)
    sums[i], counts[i] = sums[i - 1] + (ok and v or 0), counts[i - 1] + (ok and 1 or 0)
  end
  local half, n = window // 2, #values
  for i = 1, n do
    local first, last = math.max(1, i - half), math.min(n, i + half)
    local count = counts[last] - counts[first - 1]
    out[i] = count > 0 and (sums[last] - sums[first - 1]) / count or 0 / 0
  end
  return out
end

-- The q-quantile (0..1) of a sorted list, nearest rank.
function stat.quantile(sorted, q)
  return sorted[math.max(1, math.min(#sorted, math.floor(q * #sorted + 0.5)))]
end

-- Value at x of the piecewise linear curve through (xs, ys), xs ascending; nan outside. `from` is where to
-- start looking (what the last call returned as its second result), so that ascending x cost linear time in
-- total.
function stat.at(xs, ys, x, from)
  local i, n = from or 1, #xs
  if n == 0 or x < xs[1] or x > xs[n] then return 0 / 0, i end
  while i < n and xs[i + 1] <= x do i = i + 1 end
  if xs[i] == x or i == n then return ys[i], i end
  local u = (x - xs[i]) / (xs[i + 1] - xs[i])
  return ys[i] + u * (ys[i + 1] - ys[i]), i
end

return stat
