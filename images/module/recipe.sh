# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The test driver (edu.c), for the Linux guest's kernel: sourced by images/build.sh. Debian's headers
# of that kernel are downloaded and unpacked beside it, not installed.

headers_dir() { echo "$(dirname "$(dirname "$(readlink -f "$cache/vmlinuz")")")/headers"; }

# Of the kernel that is there; where the mirror has a later one only, that one is taken.
fetch_headers()
{
    local version deb place

    [ -e "$(headers_dir)" ] && return
    need apt-get dpkg-deb
    version=$(basename "$(readlink -f "$cache/vmlinuz")")
    version=${version#vmlinuz-}
    mkdir -p "$tmp/headers"
    echo "images: downloading linux-headers-$version"
    rm -rf "$tmp/deb"
    mkdir "$tmp/deb"
    (cd "$tmp/deb" && apt-get -q -o APT::Sandbox::User="$(id -un)" download \
        "linux-headers-$version" "linux-headers-${version%%-cloud-amd64}-common" \
        "linux-kbuild-${version%.*}" >&2) || return
    for deb in "$tmp"/deb/*.deb; do
        dpkg-deb -x "$deb" "$tmp/headers"
    done
    place=$(headers_dir)
    # The one absolute path in them.
    sed -i "s#/usr/src/#$place/usr/src/#" "$tmp"/headers/usr/src/linux-headers-*-cloud-amd64/Makefile
    mv -T "$tmp/headers" "$place"
}

build_module()
{
    local out=$cache/stasis-edu.ko sum kernel

    fetch_headers || {
        echo "images: no headers for this kernel any more: fetching a later one" >&2
        rm -f "$cache/vmlinuz"
        fetch_kernel
        fetch_headers || die "headers of the guest's kernel can't be downloaded"
    }
    kernel=$(readlink -f "$cache/vmlinuz")
    sum=$(digest "$kernel" "$here"/module/*)
    current "$out" "$sum" && return
    need make gcc
    mkdir "$tmp/module"
    cp "$here/module/edu.c" "$tmp/module/stasis-edu.c"
    echo "obj-m := stasis-edu.o" > "$tmp/module/Makefile"
    make -s -C "$(echo "$(headers_dir)"/usr/src/linux-headers-*-cloud-amd64)" M="$tmp/module" modules
    strip --strip-debug "$tmp/module/stasis-edu.ko"
    publish "$tmp/module/stasis-edu.ko" "$out" "$sum"
}
