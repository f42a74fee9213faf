#!/usr/bin/env bash
# Becomes systemd as process 1 of a machine of its own: `unshare -mpfCnui --kill-child boot.sh WORK INSTALLED PACKAGES
# SOURCES`. Its file system is this machine's, with all changes in memory; on top of it what INSTALLED holds (maybe
# nothing), PACKAGES where the installed program finds what it depends on, and SOURCES to install from. Its network is
# a loopback.
set -euo pipefail
work="$1" installed="$2" packages="$3" sources="$4"
root="$work/root"

mount --make-rprivate /
mkdir -p "$root" "$work/memory"
mount -t tmpfs tmpfs "$work/memory"
mkdir -p "$work/memory/upper" "$work/memory/work"
cp -a "$installed/." "$work/memory/upper/"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/memory/upper,workdir=$work/memory/work" "$root"
mkdir -p "$root/opt/packages" "$root/usr/src/aspen"
mount --bind -o ro "$packages" "$root/opt/packages"
mount --bind -o ro "$sources" "$root/usr/src/aspen"
# What belongs to the real kernel is not this system's to set: its units see that and leave it alone.
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
ip link set lo up

# Nothing of this machine's own services.
rm -rf "$root"/etc/systemd/system/*
: >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/test.target" <<'UNIT'
[Unit]
Requires=sysinit.target dbus.socket
After=sysinit.target dbus.socket
UNIT
if [[ -e "$root/usr/local/lib/sysusers.d/aspen.conf" ]]; then
  chroot "$root" systemd-sysusers /usr/local/lib/sysusers.d/aspen.conf
  chroot "$root" systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/aspen.conf
fi
exec env -i container=test PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  chroot "$root" /lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=0
