#!/usr/bin/env bash
# Builds the executables into dist/, after all checks have passed.
#
#   ./build.sh               x64 and arm64 for glibc, which is every common 64-bit Linux
#   ./build.sh --all         the musl variants (Alpine) too
#   ./build.sh --release     all of them, the Debian packages, the installer and SHA256SUMS: what a release consists of
#   ./build.sh --no-checks   without type check, format check and tests
#   ./build.sh --library     the npm package into dist/npm (or --to DIR): a `fetch` with a pool of keys for Bun, Node, Deno
#   ./build.sh --host FILE   only an executable for this machine, without checks: what the tests run
#
# Node and git are enough: where there is no Bun of the pinned version, npx fetches it. --release also needs dpkg-deb,
# so Debian or Ubuntu. The same source and version give the same bytes, wherever they are built.
#
# For --release, RELEASE_URL is where the files will be found. It is written into install.sh:
#   RELEASE_URL=https://github.com/OWNER/keywheel/releases/download/v1.2.3 ./build.sh --release
set -eu
umask 022
cd "$(dirname "$0")"

bun_version=1.4.5

# An executable is a Bun runtime with our code behind it. Bun fetches the runtimes for other platforms, so their
# sha256 is written here: a runtime with another one is not used. For another version of Bun, let the check fail,
# compare each sum with the file `bin/bun` in the npm package `@oven/bun-linux-…` of that version, and write it here.
runtime_sum() {
  case $1 in
    x64) echo f05d28a3862f4b84395c7fa32480b835dd47482e80b7e7a49a115227f0c06083 ;;
    arm64) echo 04778f1f42399a69d086853e9c7af4acf574b2f21a43d0dc673853d8b84a2923 ;;
    x64-musl) echo cf5d285ddbe256785a5121a3c113191a6b577504976374c7cfd5aedca609b720 ;;
    arm64-musl) echo 9c48986093073afec8b76a3e285303598dd2462f52748aecb65e4d94866e1ea3 ;;
  esac
}

fail() {
  echo "build.sh: $1" >&2
  exit "${2:-1}"
}

checks=yes
release=no
targets='x64 arm64'
host_file=
library=no
library_dir=dist/npm
while [ $# -gt 0 ]; do
  case $1 in
    --no-checks) checks=no ;;
    --all) targets='x64 arm64 x64-musl arm64-musl' ;;
    --library) library=yes ;;
    --to)
      [ $# -ge 2 ] || fail '--to needs a DIR after it.' 2
      library_dir=$2
      shift
      ;;
    --release)
      targets='x64 arm64 x64-musl arm64-musl'
      release=yes
      ;;
    --host)
      [ $# -ge 2 ] || fail '--host needs a FILE after it.' 2
      host_file=$2
      checks=no
      shift
      ;;
    *) fail "There is no option $1. Use --release, --library, --all, --no-checks or --host FILE." 2 ;;
  esac
  shift
done

if [ "$release" = yes ]; then
  command -v dpkg-deb >/dev/null || fail 'dpkg-deb is not here, and --release makes Debian packages. Use Debian or Ubuntu.'
fi

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
  # Splitting: what the program imports late becomes a file of its own, which is not even evaluated before that.
  NODE_ENV=production "$bun" build --compile --splitting --bytecode --format=esm --env=disable \
    --no-compile-autoload-dotenv --no-compile-autoload-bunfig \
    --no-compile-autoload-tsconfig --no-compile-autoload-package-json \
    --define "KEYWHEEL_VERSION=\"$version\"" --define KEYWHEEL_EXECUTABLE=true "$@" ./proxy.ts >/dev/null
}

if [ -n "$host_file" ]; then
  compile --outfile "$host_file"
  exit
fi

# The npm package: one file of JavaScript without comments, white space and long names; its types, which are
# lib/library/public.ts as it is; and its README. Whatever only the program needs is not in it: nothing of that is reached
# from createPooledFetch.
build_library() {
  local entry
  rm -rf "$library_dir"
  mkdir -p "$library_dir"
  entry=$(mktemp -d)
  printf 'export { createPooledFetch } from "%s/proxy.ts";\n' "$PWD" >"$entry/keywheel.ts"
  NODE_ENV=production "$bun" build --target=node --format=esm --env=disable --minify \
    --define "KEYWHEEL_VERSION=\"$version\"" --define import.meta.main=false \
    --banner 'import { Buffer } from "node:buffer";' \
    --outdir "$library_dir" "$entry/keywheel.ts" >/dev/null || fail 'The library could not be built.'
  rm -r "$entry"
  cp lib/library/public.ts "$library_dir/keywheel.d.ts"
  cp LICENSE "$library_dir/"
  sed -e '/^|/s/  */ /g' -e '/^|/s/---*/--/g' deploy/npm/README.md >"$library_dir/README.md" # tables without their padding
  cat >"$library_dir/package.json" <<END
{
  "name": "keywheel",
  "version": "$version",
  "description": "A fetch with a pool of API keys behind it: makes rate limits of LLM providers disappear",
  "license": "MIT",
  "type": "module",
  "main": "./keywheel.js",
  "types": "./keywheel.d.ts",
  "exports": { ".": { "types": "./keywheel.d.ts", "default": "./keywheel.js" } },
  "files": ["keywheel.js", "keywheel.d.ts"],
  "sideEffects": false,
  "engines": { "node": ">=20", "bun": ">=1.2", "deno": ">=2" },
  "keywords": ["llm", "openai", "anthropic", "gemini", "rate-limit", "api-keys", "fetch"]
}
END
}

if [ "$library" = yes ]; then
  build_library
  echo "keywheel $version: $library_dir, $(cat "$library_dir"/* | wc -c | tr -d ' ') bytes"
  exit
fi

# Bun's name for a target.
bun_target() {
  case $1 in
    x64) echo bun-linux-x64-baseline ;;
    x64-musl) echo bun-linux-x64-musl-baseline ;;
    arm64*) echo "bun-linux-aarch64${1#arm64}" ;;
  esac
}

sum_of() {
  sha256sum "$1" | cut -d ' ' -f 1
}

# Where the runtime for target $1 is kept.
runtime_file() {
  echo "${XDG_CACHE_HOME:-$HOME/.cache}/keywheel-build/$(bun_target "$1")-v$bun_version"
}

# Fetches the runtime for target $1, if it is not there yet, and checks it. Bun fetches one when it compiles, so an
# empty program is compiled. Where Bun needs no other file than itself for that, it is the runtime.
get_runtime() {
  local file cache sum empty
  file=$(runtime_file "$1")
  if [ ! -f "$file" ]; then
    cache=$(dirname "$file")
    mkdir -p "$cache"
    empty=$(mktemp -d)
    : >"$empty/empty.js"
    BUN_INSTALL_CACHE_DIR=$cache "$bun" build --compile --target="$(basename "$file")" \
      --outfile "$empty/out" "$empty/empty.js" >/dev/null || fail "Bun could not fetch the runtime $(basename "$file")."
    rm -r "$empty"
    [ -f "$file" ] || cp "$("$bun" --print process.execPath)" "$file"
  fi
  sum=$(sum_of "$file")
  [ "$sum" = "$(runtime_sum "$1")" ] || {
    echo "build.sh: $file is not the runtime that this script knows. Its sha256 is $sum." >&2
    fail 'Delete it and try again. If it stays so, do not use it: find out who changed it.'
  }
}

for target in $targets; do
  get_runtime "$target"
done

# What is in dist/ afterwards is what this run has made.
rm -rf dist
mkdir dist
for target in $targets; do
  compile --target="$(bun_target "$target")" --compile-executable-path="$(runtime_file "$target")" \
    --outfile "dist/keywheel-linux-$target"
done

if [ "$release" = yes ]; then
  # Nothing in a package is younger than the commit, whenever it is made.
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
  export SOURCE_DATE_EPOCH
  # Packing takes a minute, so both at once.
  deploy/deb/make.sh "$version" amd64 dist/keywheel-linux-x64 dist/keywheel_amd64.deb &
  amd64=$!
  deploy/deb/make.sh "$version" arm64 dist/keywheel-linux-arm64 dist/keywheel_arm64.deb
  wait "$amd64"
  install -m 644 deploy/keywheel.service dist/
  sed "s|@RELEASE_URL@|${RELEASE_URL:-}|" deploy/install.sh >dist/install.sh
  chmod 755 dist/install.sh
  # The npm package as `npm pack` makes it, but for the order and the dates of its files.
  library_dir=$(mktemp -d)/package
  build_library
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    -C "$(dirname "$library_dir")" -cf - package | gzip -9n >dist/keywheel-npm.tgz
  rm -r "$(dirname "$library_dir")"
fi

echo
echo "keywheel $version"
cd dist
LC_ALL=C
export LC_ALL
sums=$(for file in *; do if [ -f "$file" ]; then sha256sum "$file"; fi; done)
printf '%s\n' "$sums" >SHA256SUMS
while read -r sum file; do
  printf '%s  %9s bytes  dist/%s\n' "$sum" "$(wc -c <"$file" | tr -d ' ')" "$file"
done <SHA256SUMS
