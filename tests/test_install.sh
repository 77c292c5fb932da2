#!/bin/bash
# test_install.sh -- `make install` into a staging folder: the installed command runs and finds its library, and a stock lua5.4 can
# `require "sumi"`, trains a step with it, and gets errors that name the script's line.
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

check() {
  local name=$1
  shift
  if out=$("$@" 2>&1); then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo "FAILED  $name: $out"
  fi
}

BUILD=${BUILD:-build}
check "make install" make -s install PREFIX=/usr DESTDIR="$tmp" BIN="${SUMI:-./sumi}" BUILD="$BUILD"
check "the staged files" test -x "$tmp/usr/bin/sumi" -a -f "$tmp/usr/lib/lua/5.4/sumi/core.so" -a -f "$tmp/usr/share/lua/5.4/sumi/init.lua"
[ ! -e "$BUILD/libsumi_cuda.so" ] || check "the plug-in, and not the one for tests" \
  test -f "$tmp/usr/lib/sumi/libsumi_cuda.so" -a ! -e "$tmp/usr/lib/sumi/libsumi_emu.so"
cat >"$tmp/x.lua" <<'LUA'
local _ENV = require "sumi"
local w = full(2, {3}):learn()
local g = grad((w * w):sum(), w)
assert(g:totable()[1] == 4)
local ok, err = pcall(function() return conv(8, 3, 1, { sride = 2 }) end)
assert(not ok and tostring(err):find("x.lua:5: conv: there is no option 'sride'", 1, true), tostring(err))
LUA
if command -v lua5.4 >/dev/null; then
  if [ "$BUILD" = build ]; then       # a sanitized module cannot be loaded by an ordinary lua
    check "a stock lua5.4" env LUA_PATH="$tmp/usr/share/lua/5.4/?.lua;$tmp/usr/share/lua/5.4/?/init.lua" \
      LUA_CPATH="$tmp/usr/lib/lua/5.4/?.so" lua5.4 "$tmp/x.lua"
  fi
fi
check "make uninstall" make -s uninstall PREFIX=/usr DESTDIR="$tmp"
check "nothing is left" test ! -e "$tmp/usr/bin/sumi" -a ! -e "$tmp/usr/share/lua/5.4/sumi" -a ! -e "$tmp/usr/lib/sumi"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
