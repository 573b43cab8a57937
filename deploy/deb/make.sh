#!/usr/bin/env bash
# Makes the Debian package, for ./build.sh --release:
#
#   SOURCE_DATE_EPOCH=N deploy/deb/make.sh VERSION amd64|arm64 EXECUTABLE OUTPUT.deb
#
# The same input gives the same bytes. No debhelper: its strip would destroy the executable, whose code stands
# behind the end of an ELF file.
set -eu
umask 022
[ $# -eq 4 ] || {
  echo 'make.sh: usage: make.sh VERSION amd64|arm64 EXECUTABLE OUTPUT.deb' >&2
  exit 2
}
version=$1
architecture=$2
executable=$(realpath "$3")
output=$(realpath "$4")
: "${SOURCE_DATE_EPOCH:?must be set, so that the package is the same whenever it is made}"
export SOURCE_DATE_EPOCH
cd "$(dirname "$0")/.."

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
put() { # MODE FILE PATH-IN-THE-PACKAGE
  install -D -m "$1" "$2" "$root/$3"
}
doc=usr/share/doc/keywheel

put 755 "$executable" usr/bin/keywheel
mkdir -p "$root/usr/lib/systemd/system"
sed 's|/usr/local/bin/|/usr/bin/|g' keywheel.service >"$root/usr/lib/systemd/system/keywheel.service"
put 644 man/keywheel.1 usr/share/man/man1/keywheel.1
gzip -9n "$root/usr/share/man/man1/keywheel.1"
put 644 completions/keywheel.bash usr/share/bash-completion/completions/keywheel
put 644 completions/_keywheel usr/share/zsh/vendor-completions/_keywheel
put 644 completions/keywheel.fish usr/share/fish/vendor_completions.d/keywheel.fish
put 644 ../.env.example "$doc/examples/env.example"
put 644 prometheus.yml "$doc/examples/prometheus.yml"
put 644 alerts.yml "$doc/examples/alerts.yml"
put 644 grafana-dashboard.json "$doc/examples/grafana-dashboard.json"
put 644 deb/copyright "$doc/copyright"
put 644 deb/lintian-overrides usr/share/lintian/overrides/keywheel
gzip -9n >"$root/$doc/changelog.gz" <<END
keywheel ($version) stable; urgency=medium

  * Version $version. What changed is told on the page of the release.

 -- The keywheel authors <keywheel@users.noreply.github.com>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
  put 755 "deb/$script" "DEBIAN/$script"
done
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
chmod 644 "$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<END
Package: keywheel
Version: $version
Architecture: $architecture
Maintainer: The keywheel authors <keywheel@users.noreply.github.com>
Installed-Size: $(du -k -s --apparent-size "$root/usr" | cut -f 1)
Depends: adduser, libc6 (>= 2.17)
Section: net
Priority: optional
Description: key pool in front of an LLM provider
 keywheel is a proxy between LLM clients and their provider. It holds a pool of
 API keys and hides their rate limits: a request goes out with a key that has
 room, and where there is none, it waits instead of failing.
 .
 After the installation, "keywheel init --system" asks for the settings.
END

# One thread: the bytes that several make depend on their number.
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$root" "$output" >/dev/null
