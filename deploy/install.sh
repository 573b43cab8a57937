#!/bin/sh
# Installs keywheel on Linux, or a newer version of it:
#
#   curl -fsSL URL/install.sh | sudo sh
#   curl -fsSL URL/install.sh | sudo sh -s -- --uninstall
#
# The executable goes to /usr/local/bin. Where systemd runs, the service, its user `keywheel` and /etc/keywheel
# are set up too. Settings are never overwritten and never removed, except by --uninstall --purge.
#
# KEYWHEEL_URL is where the files of the release are (the address of this script, without its name).
# DESTDIR puts everything below another directory and changes nothing else on this machine.

# The braces go around everything: a shell runs nothing of it before it has read the last one, so a download that
# was cut short does nothing.
{
main() {
  set -eu
  umask 022
  base_url=${KEYWHEEL_URL:-@RELEASE_URL@}
  base_url=${base_url%/}
  destination=${DESTDIR:-}
  executable=$destination/usr/local/bin/keywheel
  unit=$destination/etc/systemd/system/keywheel.service
  settings=$destination/etc/keywheel
  action=install
  purge=no
  for word in "$@"; do
    case $word in
      --uninstall) action=uninstall ;;
      --purge) purge=yes ;;
      -h | --help)
        usage
        return
        ;;
      *) fail "There is no option $word. Use --uninstall, --purge with it, or --help." 2 ;;
    esac
  done
  if [ "$action" = uninstall ]; then
    need_root
    uninstall
    return
  fi
  [ "$purge" = no ] || fail '--purge goes with --uninstall.' 2
  file=keywheel-linux-$(target) || exit 1
  need_root
  case $base_url in
    http://* | https://*) ;;
    *) fail 'Set KEYWHEEL_URL to where the files of the release are.' 2 ;;
  esac
  if [ -z "$destination" ] && [ -e /usr/bin/keywheel ]; then
    fail 'keywheel is installed as a package here. Install the newer .deb with apt, or remove it first.'
  fi
  # Not in /tmp, which is often a part of the memory: the executable has more than 100 MB.
  temporary=$(mktemp -d /var/tmp/keywheel.XXXXXX)
  trap 'rm -rf "$temporary" "$executable.new"' EXIT
  trap 'exit 1' HUP INT TERM
  put_executable
  if [ -d /run/systemd/system ] || [ -n "$destination" ]; then
    set_up_service
  else
    echo 'There is no systemd here, so no service is set up. Next:'
    echo '  keywheel init     asks for your keys and writes .env'
    echo '  keywheel          runs it'
  fi
}

usage() {
  cat <<'END'
Installs keywheel, or a newer version of it. Run it as root.

  --uninstall           remove the executable and the service
  --uninstall --purge   remove settings, state and the user keywheel too

KEYWHEEL_URL=URL  where the files of the release are
DESTDIR=PATH      put everything below PATH and leave the system alone
END
}

fail() {
  echo "install.sh: $1" >&2
  exit "${2:-1}"
}

need_root() {
  [ -n "$destination" ] || [ "$(id -u)" = 0 ] ||
    fail 'This needs root. Put sudo before sh: curl … | sudo sh'
}

# Prints which build runs here: x64, arm64, x64-musl or arm64-musl.
target() {
  system=$(uname -s)
  [ "$system" = Linux ] || fail "keywheel runs on Linux, and this is $system. Docker runs it there."
  machine=$(uname -m)
  case $machine in
    x86_64 | amd64) processor=x64 ;;
    aarch64 | arm64) processor=arm64 ;;
    arm* | i?86) fail "This system is 32-bit ($machine), and keywheel needs a 64-bit one. A Raspberry Pi 3 and later runs the 64-bit Raspberry Pi OS." ;;
    *) fail "There is no build for $machine, only for x86_64 and aarch64." ;;
  esac
  # A 64-bit kernel can have 32-bit programs, as older installations of Raspberry Pi OS do. The fifth byte of an
  # executable tells: 2 is 64 bit.
  class=$(head -c 5 /proc/self/exe | tail -c 1 | od -An -tu1 | tr -d ' ')
  [ "$class" = 2 ] ||
    fail "The kernel is 64-bit ($machine), but the programs of this system are 32-bit. Install the 64-bit system."
  if [ "$processor" = x64 ] && ! grep -qw sse4_2 /proc/cpuinfo; then
    fail 'This processor has no SSE4.2, which keywheel needs. Those from 2009 and later have it; a virtual machine may hide it.'
  fi
  version=$(libc)
  case $version in
    musl) echo "$processor-musl" ;;
    '')
      # Unknown: the trial run of the executable decides.
      echo "$processor"
      ;;
    *)
      minor=${version#*.}
      if [ "${version%%.*}" -lt 2 ] || { [ "${version%%.*}" = 2 ] && [ "${minor%%.*}" -lt 17 ]; }; then
        fail "The C library of this system is glibc $version, and keywheel needs 2.17 (2012) or later. Update the system."
      fi
      echo "$processor"
      ;;
  esac
}

# Prints the version of glibc as 2.36, or musl, or nothing where neither is known.
libc() {
  version=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc \([0-9][0-9]*\.[0-9][0-9.]*\).*/\1/p')
  if [ -z "$version" ]; then
    text=$(ldd --version 2>&1 || true)
    case $text in
      *musl*) version=musl ;;
      *) version=$(printf '%s\n' "$text" | sed -n '1s/^ldd .*GLIBC.* \([0-9][0-9]*\.[0-9][0-9.]*\)$/\1/p; 1s/^ldd (GNU libc) \([0-9][0-9]*\.[0-9][0-9.]*\)$/\1/p') ;;
    esac
  fi
  echo "$version"
}

# Downloads the file $1 of the release into the temporary directory.
download() {
  if command -v curl >/dev/null; then
    curl -fsSL --retry 3 -o "$temporary/$1" "$base_url/$1" || fail "$base_url/$1 cannot be downloaded."
  elif command -v wget >/dev/null; then
    wget -q -O "$temporary/$1" "$base_url/$1" || fail "$base_url/$1 cannot be downloaded."
  else
    fail 'Neither curl nor wget is here. Install one of them.'
  fi
}

# Downloads the file $1 and compares it with SHA256SUMS.
download_checked() {
  expected=$(sed -n "s/^\\([0-9a-f]\\{64\\}\\) [ *]$1\$/\\1/p" "$temporary/SHA256SUMS")
  [ -n "$expected" ] || fail "SHA256SUMS at $base_url does not name $1."
  download "$1"
  found=$(sha256sum "$temporary/$1" | cut -d ' ' -f 1)
  [ "$found" = "$expected" ] ||
    fail "$1 is not what SHA256SUMS says: its sum is $found instead of $expected. Nothing was installed. Try again later."
}

put_executable() {
  echo "Downloading $file from $base_url"
  download SHA256SUMS
  download_checked "$file"
  download_checked keywheel.service
  if [ -e "$executable" ]; then is_upgrade=yes; else is_upgrade=no; fi
  mkdir -p "$(dirname "$executable")"
  # Beside the final place, so that the last step is a rename, which a running keywheel does not notice. Not run
  # from the temporary directory, where some systems run nothing.
  install -m 755 "$temporary/$file" "$executable.new"
  if ! version=$("$executable.new" --version 2>&1); then
    case $file in
      *-musl) hint=' On Alpine it needs: apk add libstdc++ libgcc' ;;
      *) hint= ;;
    esac
    fail "The executable does not run here: $version.$hint"
  fi
  mv -f "$executable.new" "$executable"
  echo "Installed $version at $executable"
}

set_up_service() {
  mkdir -p "$(dirname "$unit")"
  install -m 644 "$temporary/keywheel.service" "$unit"
  if [ -n "$destination" ]; then
    install -d -m 750 "$settings"
    return
  fi
  if ! id keywheel >/dev/null 2>&1; then
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin keywheel
  fi
  install -d -m 750 -o keywheel -g keywheel "$settings"
  systemctl daemon-reload
  # Whoever stopped or disabled the service meant it: an upgrade restarts only what runs.
  if [ "$is_upgrade" = yes ]; then
    restart=try-restart
  else
    restart=restart
    systemctl --quiet enable keywheel
  fi
  if [ ! -e "$settings/.env" ]; then
    echo 'Next:'
    echo '  sudo keywheel init --system         asks for your keys and writes /etc/keywheel/.env'
    echo '  sudo systemctl restart keywheel     starts the service'
  elif systemctl "$restart" keywheel; then
    echo 'Settings were there and are kept. To look at the service: sudo systemctl status keywheel'
  else
    fail 'keywheel is installed, but the service did not start. To see why: journalctl -u keywheel'
  fi
}

uninstall() {
  if [ -z "$destination" ] && [ -d /run/systemd/system ] && [ -e "$unit" ]; then
    systemctl --quiet disable --now keywheel || true
  fi
  rm -f "$executable" "$unit"
  if [ -z "$destination" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
  if [ "$purge" = no ]; then
    echo 'keywheel is removed. Settings (/etc/keywheel), state (/var/lib/keywheel) and the user keywheel are still there;'
    echo '--uninstall --purge removes them.'
    return
  fi
  rm -rf "$settings" "$destination/var/lib/keywheel" "$destination/var/log/keywheel"
  if [ -z "$destination" ] && id keywheel >/dev/null 2>&1; then
    # busybox has no userdel.
    userdel keywheel 2>/dev/null || deluser keywheel || true
  fi
  echo 'keywheel is removed, with its settings, its state and its user.'
}

main "$@"
exit
}
