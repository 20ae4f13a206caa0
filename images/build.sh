#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Build the test guests: what is out of date, and nothing else.
#
#   images/build.sh                            build the small ones
#   images/build.sh debian                     the Debian system, too (debian/recipe.sh)
#   images/build.sh --print bare|kernel|initrd|criu|module|debian   print where one is (built or not)
#
# Outputs lie outside the source tree, in $STASIS_CACHE (default /var/cache/stasis; for those who
# may not write there $XDG_CACHE_HOME/stasis or ~/.cache/stasis):
#
#   bare.elf           the bare-metal guest
#   kernel-VERSION/    Debian's cloud kernel, unpacked: boot/vmlinuz-*, lib/modules/*
#   vmlinuz            link to it
#   initrd.cpio        the Linux guest's root
#   stasis-edu.ko      a driver for that guest, which can fail
#   criu.cpio          what that guest needs for CRIU, to be put behind initrd.cpio
#   debian.ext4        a Debian system's disk
#
# Each output is written aside and renamed, under one lock, so that concurrent runs are safe and an
# interrupted one leaves the old state. A kernel that is there is kept: the network is used once.
# Whether a built guest is current is decided by a digest of everything that goes into it.
set -euo pipefail
umask 022 # a QEMU of another user reads the guests

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kernel_meta=linux-image-cloud-amd64

# In the order they are loaded. Those a kernel does not have as modules are left out.
modules="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk
         virtio_console failover net_failover virtio_net"

# CRIU asks the kernel about sockets by these, and will not start without nf_tables.
criu_modules="inet_diag tcp_diag udp_diag unix_diag netlink_diag af_packet_diag
              crc32c_generic libcrc32c nfnetlink nf_tables"

die() { echo "images/build.sh: $*" >&2; exit 1; }

cache_dir()
{
    local dir=${STASIS_CACHE:-/var/cache/stasis}

    if ! { mkdir -p "$dir" && [ -w "$dir" ]; } 2>/dev/null; then
        [ -z "${STASIS_CACHE:-}" ] || die "cannot write to STASIS_CACHE=$dir"
        dir=${XDG_CACHE_HOME:-$HOME/.cache}/stasis
        mkdir -p "$dir" || die "no place for the test guests: set STASIS_CACHE"
    fi
    (cd "$dir" && pwd)
}

# Is output $1 made of exactly what digest $2 says?
current() { [ -e "$1" ] && [ "$(cat "$1.made-of" 2>/dev/null)" = "$2" ]; }

# digest TEXT FILE...
digest()
{
    local text=$1
    shift
    { echo "$text"; cat -- "$@"; } | sha256sum | cut -d' ' -f1
}

need()
{
    local tool

    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "'$tool' is missing: run tests/deps.sh"
    done
}

publish() # NEW OUTPUT DIGEST
{
    rm -f "$2.made-of"
    mv "$1" "$2"
    echo "$3" > "$2.made-of.$$"
    mv "$2.made-of.$$" "$2.made-of"
    echo "images: built $2"
}

build_bare()
{
    local flags="-m64 -std=gnu17 -O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -no-pie
        -mcmodel=small -mno-red-zone -mgeneral-regs-only -fno-stack-protector
        -fno-asynchronous-unwind-tables -fcf-protection=none -fno-tree-loop-distribute-patterns
        -nostdlib -static -Wl,--build-id=none,--no-warn-rwx-segments"
    local out=$cache/bare.elf sum

    sum=$(digest "$flags" "$here"/bare/*)
    current "$out" "$sum" && return
    need gcc objcopy
    # QEMU's multiboot loader takes 32-bit ELF only; the code in it is 64-bit all the same.
    # shellcheck disable=SC2086
    gcc $flags -Wl,-T,"$here/bare/link.ld" "$here"/bare/boot.S "$here"/bare/*.c -o "$tmp/bare64.elf"
    objcopy -O elf32-i386 "$tmp/bare64.elf" "$tmp/bare.elf"
    publish "$tmp/bare.elf" "$out" "$sum"
}

# The package that the meta package depends on, e.g. linux-image-6.1.0-18-cloud-amd64.
# Nothing when apt's lists are not there yet.
kernel_package()
{
    { apt-cache depends "$kernel_meta" 2>/dev/null || true; } | sed -n 's/^ *Depends: //p;T;q'
}

fetch_kernel()
{
    local package

    [ -e "$cache/vmlinuz" ] && return
    need apt-get apt-cache dpkg-deb
    package=$(kernel_package)
    if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
        apt-get -qq update
        package=$(kernel_package)
    fi
    [ -n "$package" ] || die "apt knows no $kernel_meta: run 'apt-get update' (Debian 12, amd64)"
    echo "images: downloading $package"
    download_kernel "$package" || {
        # Package lists older than the mirror name files that are gone.
        [ "$(id -u)" = 0 ] && apt-get -qq update
        package=$(kernel_package)
        download_kernel "$package" || die "apt-get download $package failed"
    }
    mkdir "$tmp/kernel"
    dpkg-deb -x "$tmp"/deb/*.deb "$tmp/kernel"
    rm -rf "${cache:?}/kernel-$package" "$tmp/kernel/usr/share/doc"
    mv "$tmp/kernel" "$cache/kernel-$package"
    (cd "$cache" && ln -s "kernel-$package"/boot/vmlinuz-* "$tmp/vmlinuz")
    mv -T "$tmp/vmlinuz" "$cache/vmlinuz"
    echo "images: unpacked $cache/kernel-$package"
}

download_kernel()
{
    rm -rf "$tmp/deb"
    mkdir "$tmp/deb"
    (cd "$tmp/deb" && apt-get -q -o APT::Sandbox::User="$(id -un)" download "$1" >&2)
}

build_initrd()
{
    local flags="-std=gnu17 -O2 -Wall -Wextra -Werror -static"
    local out=$cache/initrd.cpio busybox=/bin/busybox root=$tmp/root kernel_dir sum

    kernel_dir=$(dirname "$(dirname "$(readlink -f "$cache/vmlinuz")")")
    [ -x "$busybox" ] || die "$busybox is missing (package busybox-static): run tests/deps.sh"
    sum=$(digest "$flags $modules $kernel_dir" "$here"/linux/* "$busybox" "$here/build.sh")
    current "$out" "$sum" && return
    need gcc cpio

    mkdir -p "$root"/{bin,dev,lib/modules,proc,run,sys,tmp}
    cp "$busybox" "$root/bin/busybox"
    install -m 755 "$here/linux/init" "$root/init"
    # shellcheck disable=SC2086
    gcc $flags "$here"/linux/*.c -o "$root/bin/stasis-job"
    strip "$root/bin/stasis-job"
    add_modules "$root" $modules
    pack "$root" "$tmp/initrd.cpio"
    publish "$tmp/initrd.cpio" "$out" "$sum"
}

# Modules of the guest's kernel, in the order in which init loads them.
add_modules() # ROOT MODULE...
{
    local root=$1 module file

    shift
    mkdir -p "$root/lib/modules"
    for module; do
        file=$(find "$(dirname "$(dirname "$(readlink -f "$cache/vmlinuz")")")/lib/modules" \
            -name "$module.ko" -print -quit)
        [ -n "$file" ] || continue
        cp "$file" "$root/lib/modules/"
        echo "$module" >> "$root/lib/modules/order"
    done
}

# Not compressed: an emulated CPU takes a second for what CRIU needs.
pack() # ROOT OUTPUT
{
    (cd "$1" && find . -exec touch -h -d @0 {} + && find . -print0 | LC_ALL=C sort -z |
        cpio --null --quiet -o -H newc -R 0:0 --reproducible) > "$2"
}

# Debian's criu with the libraries that it is linked with, as they are on this host. An archive of
# its own, since most guests have no use for it, and unpacking takes them time.
build_criu()
{
    local out=$cache/criu.cpio criu=/usr/sbin/criu root=$tmp/criu libraries sum

    [ -x "$criu" ] || die "$criu is missing (package criu): run tests/deps.sh"
    libraries=$(ldd "$criu" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^\t\(\/[^ ]*\) .*/\1/p')
    # shellcheck disable=SC2086
    sum=$(digest "$modules $criu_modules $(readlink -f "$cache/vmlinuz")" \
        "$criu" $libraries "$here/build.sh")
    current "$out" "$sum" && return
    need cpio ldd

    mkdir -p "$root/bin"
    cp "$criu" "$root/bin/"
    # shellcheck disable=SC2086
    for library in $libraries; do
        mkdir -p "$root/$(dirname "$library")"
        cp -L "$library" "$root/$library"
    done
    # shellcheck disable=SC2086
    add_modules "$root" $modules $criu_modules
    pack "$root" "$tmp/criu.cpio"
    publish "$tmp/criu.cpio" "$out" "$sum"
}

# shellcheck source=images/debian/recipe.sh
. "$here/debian/recipe.sh"

# shellcheck source=images/module/recipe.sh
. "$here/module/recipe.sh"

cache=$(cache_dir)
also=
case "${1:-}" in
--print)
    case "${2:-}" in
    bare) echo "$cache/bare.elf" ;;
    kernel) echo "$cache/vmlinuz" ;;
    initrd) echo "$cache/initrd.cpio" ;;
    criu) echo "$cache/criu.cpio" ;;
    module) echo "$cache/stasis-edu.ko" ;;
    debian) echo "$cache/debian.ext4" ;;
    *) die "--print bare, kernel, initrd, criu, module or debian" ;;
    esac
    exit 0
    ;;
'') ;;
debian) also=debian ;;
*) die "usage: images/build.sh [debian | --print bare|kernel|initrd|criu|module|debian]" ;;
esac

need flock
exec 9> "$cache/.lock"
flock 9
rm -rf "$cache"/.build-* # of a run that was killed: we have the lock
tmp=$(mktemp -d "$cache/.build-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
build_bare
fetch_kernel
build_module
build_initrd
build_criu
[ -z "$also" ] || build_debian
