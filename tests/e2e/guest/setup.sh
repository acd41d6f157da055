#!/bin/bash
# Prepares the guest that tests the engine against real V4L2 drivers: QEMU, a Debian kernel with vivid and 9p (the cloud kernel has
# neither) and v4l2loopback built for it. About one minute on a bare Debian 12 as root; later runs find everything and end at once.
# Everything but the apt packages lies in ${DETR_SENTRY_CACHE:-$HOME/.cache/detr-sentry}/guest and may be deleted at any time.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
cache=${DETR_SENTRY_CACHE:-$HOME/.cache/detr-sentry}/guest

give_up() {
  printf 'camera guest: %s\n' "$@" >&2
  exit 1
}

command -v apt-get dpkg-query apt-cache > /dev/null ||
  give_up "this set-up knows Debian 12 (amd64) only: apt-get and dpkg are not here." \
    "Run it in a Debian 12 container or machine; without it, 'make e2e' has no kernel camera to test."
[ "$(dpkg --print-architecture)" = amd64 ] ||
  give_up "the guest shares this machine's programs and its kernel is amd64; this machine is $(dpkg --print-architecture)."

# A machine may have never fetched its package lists.
if ! apt-cache show linux-image-amd64 > /dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || give_up "no package lists yet. Run: sudo apt-get update"
  apt-get update -qq
fi
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: linux-image-\([0-9].*\)$/\1/p' | head -n 1)
[ -n "$kernel" ] || give_up "apt knows no linux-image-amd64 (is this Debian 12?)."

missing=()
for package in qemu-system-x86 busybox-static cpio kmod make gcc "linux-headers-$kernel"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || give_up "missing packages. Run: sudo apt-get install --no-install-recommends ${missing[*]}"
  apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null; } ||
    give_up "apt could not install ${missing[*]}"
fi

if [ "$(cat "$cache/ready" 2> /dev/null || true)" = "$kernel" ]; then
  echo "camera guest: ready (kernel $kernel, $cache)"
  exit 0
fi

rm -rf "$cache"
mkdir -p "$cache"/{packages,root,loopback}
# apt's unprivileged downloader cannot write under /root; as root it then warns and works.
(cd "$cache/packages" && apt-get download -qq "linux-image-$kernel" v4l2loopback-dkms 2> /dev/null) ||
  give_up "apt could not download linux-image-$kernel and v4l2loopback-dkms (no network, or lists too old: apt-get update)."
dpkg -x "$cache"/packages/linux-image-*.deb "$cache/root"
dpkg -x "$cache"/packages/v4l2loopback-dkms_*.deb "$cache/loopback"
rm -r "$cache/packages"

source=$(echo "$cache"/loopback/usr/src/v4l2loopback-*)
make -s -C "/usr/src/linux-headers-$kernel" M="$source" modules > "$cache/loopback.log" 2>&1 ||
  give_up "v4l2loopback did not build; see $cache/loopback.log"
install -D -m 644 "$source/v4l2loopback.ko" "$cache/root/lib/modules/$kernel/extra/v4l2loopback.ko"
rm -r "$cache/loopback"
/sbin/depmod -b "$cache/root" "$kernel"
echo "$kernel" > "$cache/ready"
echo "camera guest: ready (kernel $kernel, $cache)"
