#!/bin/bash
# Boots the prepared guest (see setup.sh), runs one Python program in it and copies its console to stdout.
# Usage: boot.sh PROGRAM.py        Environment: GUEST_PYTHON (the checkout's .venv), GUEST_MEMORY (MiB),
#        GUEST_REPLUGS (how often the service's camera is pulled; 50 for the trial), DETR_SENTRY_CACHE.
# QEMU emulates (TCG): nested machines often have a KVM that does not work, and the test measures behaviour, not speed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${DETR_SENTRY_CACHE:-$HOME/.cache/detr-sentry}/guest
program=$(realpath "${1:?usage: boot.sh PROGRAM.py}")
python=${GUEST_PYTHON:-$(cd "$here/../../.." && pwd)/.venv/bin/python}
kernel=$(cat "$cache/ready" 2> /dev/null) || { echo "camera guest: not prepared, run $here/setup.sh" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/tree/{bin,modules,proc,sys,dev,host,write,root}
cp /bin/busybox "$work/tree/bin/"
cp "$here/init" "$work/tree/init"
for module in virtio_pci 9pnet_virtio 9p overlay; do
  /sbin/modprobe -d "$cache/root" -S "$kernel" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
  cp "$file" "$work/tree/modules/"
  basename "$file" >> "$work/tree/modules/order"
done
(cd "$work/tree" && find . | cpio --quiet -o -H newc | gzip -1) > "$work/initrd"

# The console is a pipe or a file: QEMU must not read the terminal.
qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m "${GUEST_MEMORY:-1536}" \
  -nodefaults -no-reboot -display none -chardev stdio,id=console,signal=off -serial chardev:console \
  -kernel "$cache/root/boot/vmlinuz-$kernel" -initrd "$work/initrd" \
  -append "console=ttyS0 quiet panic=-1 mitigations=off guest.cache=$cache guest.python=$python guest.program=$program guest.replugs=${GUEST_REPLUGS:-}" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap < /dev/null
