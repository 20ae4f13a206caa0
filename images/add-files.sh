#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The Linux guest's root with more files in it, for guests that need a program of their own:
#
#   images/add-files.sh OUT [--criu] [PATH=FILE…]   FILE lies at PATH in the guest, mode as here;
#                                                   --criu: and what it needs for CRIU
#
# An initrd may be several archives, one behind the other; files of the later ones replace those of
# the earlier.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { echo "usage: images/add-files.sh OUT [--criu] [PATH=FILE…]" >&2; exit 2; }
out=$1
shift
parts=(initrd)
if [ "${1:-}" = --criu ]; then
    parts+=(criu)
    shift
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
for pair; do
    path=${pair%%=*} file=${pair#*=}
    mkdir -p "$root/$(dirname "$path")"
    cp --preserve=mode "$file" "$root/$path"
    # Symbols are for those who have the file itself; the guest has to unpack them at each start. The kernel
    # links its modules by theirs.
    [[ $path == *.ko || "$(head -c 4 "$file" | tr -d '\0')" != $'\x7fELF' ]] || strip "$root/$path"
done
{
    for part in "${parts[@]}"; do
        cat "$("$here"/build.sh --print "$part")"
    done
    (cd "$root" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio --null --quiet -o -H newc -R 0:0)
} > "$out.new"
mv "$out.new" "$out"
