# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# A Debian system with systemd and SQLite, on a disk of its own: part of images/build.sh.
#
#   debian.ext4    a file system without partitions, for stasis.root= of the Linux guest's initrd
#
# Packages are those of this machine's own release, from where its apt has them, checked by its
# keys; they are downloaded and set up once (root needed).

debian_packages=systemd-sysv,udev,sqlite3,criu
debian_size=640M # sparse

# "deb URI SUITE COMPONENT" for each component of release $1 that apt has from Debian, without updates.
debian_sources()
{
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' "Codename: $1" | sort -u
}

build_debian()
{
    local out=$cache/debian.ext4 root=$tmp/debian release sum sources=()
    local leave_out=() path

    # shellcheck source=/dev/null
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    sum=$(digest "$debian_packages $debian_size $release" "$here"/debian/*)
    current "$out" "$sum" && return
    need mmdebstrap mkfs.ext4 apt-get
    [ "$(id -u)" = 0 ] || die "root is needed to set up a Debian system"
    mapfile -t sources < <(debian_sources "$release")
    if [ ${#sources[@]} = 0 ]; then
        apt-get -qq update
        mapfile -t sources < <(debian_sources "$release")
    fi
    [ ${#sources[@]} -gt 0 ] || die "apt knows no mirror of Debian $release: see sources.list(5)"

    echo "images: setting up Debian $release"
    for path in doc man locale info; do
        leave_out+=(--dpkgopt="path-exclude=/usr/share/$path/*")
    done
    (
        # The one thing of this machine's apt.conf that its own would not know.
        eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
        export http_proxy https_proxy
        mmdebstrap --quiet --mode=root --variant=essential --include="$debian_packages" \
            "${leave_out[@]}" "$release" "$root" "${sources[@]}"
    )
    install -m 644 "$here/debian/fstab" "$root/etc/fstab"
    echo guest > "$root/etc/hostname"
    install -m 755 "$here/debian/stasis-load" "$root/usr/local/sbin/"
    install -m 644 "$here/debian/stasis-load.service" "$root/etc/systemd/system/"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -s /etc/systemd/system/stasis-load.service \
        "$root/etc/systemd/system/multi-user.target.wants/"
    mkfs.ext4 -q -m 0 -L debian -d "$root" "$tmp/debian.ext4" "$debian_size"
    publish "$tmp/debian.ext4" "$out" "$sum"
}
