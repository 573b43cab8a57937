#!/usr/bin/env bash
# Builds the executables into dist/, after all checks have passed.
#
#   ./build.sh               x64 and arm64 for glibc, which is every common 64-bit Linux
#   ./build.sh --all         the musl variants (Alpine) too
#   ./build.sh --no-checks   without type check, format check and tests
#   ./build.sh --host FILE   only an executable for this machine, without checks: what the tests run
#
# Node and git are enough: where there is no Bun of the pinned version, npx fetches it. Bun fetches the runtimes of
# the other platforms once, and keeps them. The same source and version give the same bytes, wherever they are built.
set -eu
cd "$(dirname "$0")"

bun_version=1.4.5

fail() {
  echo "build.sh: $1" >&2
  exit "${2:-1}"
}

checks=yes
targets='x64 arm64'
host_file=
while [ $# -gt 0 ]; do
  case $1 in
    --no-checks) checks=no ;;
    --all) targets='x64 arm64 x64-musl arm64-musl' ;;
    --host)
      [ $# -ge 2 ] || fail '--host needs a FILE after it.' 2
      host_file=$2
      checks=no
      shift
      ;;
    *) fail "There is no option $1. Use --all, --no-checks or --host FILE." 2 ;;
  esac
  shift
done

# BUN names one to use; else the one on the PATH, if it is exactly the pinned version; else npx's copy.
bun=${BUN:-bun}
if [ "$("$bun" --version 2>/dev/null || true)" != "$bun_version" ]; then
  command -v npx >/dev/null || fail "Neither Bun $bun_version nor npx is here. Install Node.js, or Bun $bun_version."
  echo "Bun $bun_version is not on the PATH: asking npx for it"
  bun=$(npx -y "bun@$bun_version" --print process.execPath) || fail "npx could not fetch bun@$bun_version."
fi

# A release is a clean tree at the tag v<version>. Anything else says which commit it was, and whether it was changed.
version=$(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' package.json)
[ -n "$version" ] || fail 'package.json has no version.'
if commit=$(git rev-parse --short=7 HEAD 2>/dev/null); then
  changed=$(git status --porcelain --untracked-files=no)
  tag=$(git describe --tags --exact-match --match "v$version" 2>/dev/null || true)
  if [ -n "$changed" ]; then
    version="$version+$commit.changed"
  elif [ -z "$tag" ]; then
    version="$version+$commit"
  fi
fi

if [ "$checks" = yes ]; then
  "$bun" install --frozen-lockfile
  "$bun" --no-script check
  "$bun" fmt --check
  "$bun" test
fi

# Not minified: that would save 0.1 % of the file and a few milliseconds at the start, and take the names out of
# every stack trace. Nothing is read from the working directory by the runtime: a bunfig.toml there could run code,
# and Bun's reading of .env shortens keys with a $ in them. What cannot be turned off in an executable made by Bun
# 1.4.5 are BUN_OPTIONS, BUN_BE_BUN and BUN_INSPECT in its environment: who can set those can run code as its user
# anyway, and a service should be given an environment of its own.
compile() {
  # NODE_ENV is written into the code at build time, so the builder's own must not decide.
  # Bytecode: nothing is parsed at the start, which spares some memory for as long as the proxy runs.
  NODE_ENV=production "$bun" build --compile --bytecode --format=esm --env=disable \
    --no-compile-autoload-dotenv --no-compile-autoload-bunfig \
    --no-compile-autoload-tsconfig --no-compile-autoload-package-json \
    --define "KEYWHEEL_VERSION=\"$version\"" "$@" ./proxy.ts >/dev/null
}

if [ -n "$host_file" ]; then
  compile --outfile "$host_file"
  exit
fi

mkdir -p dist
files=
for target in $targets; do
  case $target in
    x64) bun_target=bun-linux-x64-baseline ;;
    *) bun_target=bun-linux-$target ;;
  esac
  compile --target="$bun_target" --outfile "dist/keywheel-linux-$target"
  files="$files keywheel-linux-$target"
done

echo
echo "keywheel $version"
cd dist
for file in $files; do
  printf '%s  %9s bytes  dist/%s\n' "$(sha256sum "$file" | cut -d ' ' -f 1)" "$(wc -c <"$file" | tr -d ' ')" "$file"
done
