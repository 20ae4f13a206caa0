#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs the Debian packages that building, running and testing need; only what is missing, and
# nothing (not even a look at the network) when all is there.
#
#   tests/deps.sh [GROUP…]     default: all groups but deb and long
#   tests/deps.sh --print [GROUP…]   print the packages, one a line
set -euo pipefail

# The one list of packages. A group holds what it adds to those before it.
declare -A groups=(
    [build]="gcc libc6-dev make pkg-config libglib2.0-dev libjson-glib-dev liblz4-dev libzstd-dev
             libssl-dev libxxhash-dev nettle-dev libnbd-dev libedit-dev libvirt-dev libxml2-dev libguestfs-dev
             libsoup-3.0-dev libglib2.0-dev-bin"
    [run]="qemu-system-x86"
    # The Linux guest is put together from Debian packages, without installing a kernel.
    # criu is for the guest: it and its libraries are copied into it.
    [guests]="busybox-static cpio python3 criu"
    # graphviz: pictures of who belongs together; binutils: readelf; man-db and groff-base: the man page is checked; clang: fuzz targets;
    # qemu-utils: qcow2 files for the ways that the figures are compared with; libvirt-daemon,
    # without libvirt-daemon-system: tests start the daemons by themselves, in namespaces; packers:
    # what virsh save may use; dbus-daemon … systemd: who may do what by stasisd, and its unit; e2fsprogs … linux-image: disks for libguestfs, and its appliance's kernel.
    [test]="python3 python3-yaml binutils graphviz gdb man-db groff-base clang libclang-rt-14-dev qemu-utils
            libvirt-daemon libvirt-clients dbus-daemon polkitd libglib2.0-bin systemd
            bzip2 gzip lzop xz-utils zstd e2fsprogs fdisk fuse3 linux-image-cloud-amd64"
    # Only for make deb.
    [deb]="debhelper dpkg-dev fakeroot"
    # Only for make check-long: sets up a Debian system; a browser for the page.
    [long]="mmdebstrap chromium"
)
all_groups=(build run guests test deb long)
default_groups=(build run guests test)

print=no
if [ "${1:-}" = --print ]; then
    print=yes
    shift
fi
[ $# -gt 0 ] || set -- "${default_groups[@]}"

wanted=()
for group; do
    if [ -z "${groups[$group]:-}" ]; then
        echo "deps: unknown group '$group'; there are: ${all_groups[*]}" >&2
        exit 2
    fi
    # Unquoted on purpose: a group is a list of words.
    wanted+=(${groups[$group]})
done
if [ $print = yes ]; then
    printf '%s\n' "${wanted[@]}" | sort -u
    exit 0
fi

if ! command -v dpkg-query >/dev/null; then
    echo "deps: no dpkg here; install what these Debian packages hold: ${wanted[*]}" >&2
    exit 1
fi

# Status of each, in one query. Unknown packages are reported on stderr and by the exit code; both
# mean "missing" here.
declare -A there=()
while read -r package status; do
    [ "$status" != installed ] || there[$package]=yes
done < <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)

missing=()
for package in "${wanted[@]}"; do
    [ -n "${there[$package]:-}" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "deps: missing: ${missing[*]}" >&2
    echo "deps: install them as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One retry each: a mirror in the middle of its update answers with a hash mismatch.
try() {
    "$@" >"$log" 2>&1 || { sleep 3 && "$@" >"$log" 2>&1; }
}
if ! { try apt-get -q update &&
       try apt-get -q -y --no-install-recommends install "${missing[@]}"; }; then
    tail -n 20 "$log" >&2
    echo "deps: apt-get failed (above); missing: ${missing[*]}" >&2
    exit 1
fi
