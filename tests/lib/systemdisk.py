# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks with a Linux system on them that never ran, and looking at them without mounting them."""
import hashlib
import os
import re
import shutil
import subprocess

from stasistest import BUILD, ROOT

PROGRAM = "/usr/local/sbin/stasis-agent"
SESSION = "/usr/local/bin/stasis-session"
RESUME = "/usr/local/bin/stasis-resume"
UNIT = "/etc/systemd/system/stasis-agent.service"
LINK = "/etc/systemd/system/multi-user.target.wants/stasis-agent.service"
UNIT_FILE = os.path.join(ROOT, "guest-agent", "stasis-agent.service")
SYSTEM = "Debian GNU/Linux 12 (test)"
BIN_LABEL, UNIT_LABEL = "system_u:object_r:bin_t:s0", "system_u:object_r:systemd_unit_file_t:s0"


def need_libguestfs(t):
    if not os.path.exists(os.path.join(BUILD, "stasis-files")):
        t.skip("built without libguestfs")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def debugfs(path, *commands, write=False):
    script = "\n".join(commands) + "\n"
    return subprocess.run(["debugfs", *(["-w"] if write else []), "-f", "-", path], check=True,
                          input=script, capture_output=True, text=True).stdout


def system_disk(t, name, systemd=True):
    """A disk file whose ext4 holds a tree as Debian's, with labels as SELinux's."""
    tree, path = t.path(name + ".tree"), t.path(name)
    for directory in ("etc/systemd/system", "usr/lib/systemd", "usr/local/sbin", "usr/sbin",
                      "usr/bin", "var", "proc"):
        os.makedirs(os.path.join(tree, directory))
    for link in ("bin", "lib", "sbin"):
        os.makedirs(os.path.join(tree, "usr", link), exist_ok=True)
        os.symlink(f"usr/{link}", os.path.join(tree, link))
    shutil.copy("/bin/busybox", os.path.join(tree, "usr/bin/sh"))
    if systemd:
        shutil.copy("/bin/busybox", os.path.join(tree, "usr/lib/systemd/systemd"))
    for where, text in (("etc/os-release", 'ID=debian\nVERSION_ID="12"\n'
                         f'PRETTY_NAME="{SYSTEM}"\n'),
                        ("etc/debian_version", "12.5\n"), ("etc/fstab", "/dev/vda / ext4\n"),
                        ("etc/hostname", "guest\n")):
        with open(os.path.join(tree, where), "w", encoding="utf-8") as f:
            f.write(text)
    run("mkfs.ext4", "-q", "-F", "-d", tree, path, "64M")
    debugfs(path, f"ea_set /usr/sbin security.selinux {BIN_LABEL}",
            f"ea_set /etc/systemd/system security.selinux {UNIT_LABEL}", write=True)
    return path


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_installed(t, path):
    out = t.path("out")
    for there, here, mode in ((PROGRAM, os.path.join(BUILD, "stasis-agent"), "0755"),
                              (SESSION, os.path.join(BUILD, "stasis-session"), "0755"),
                              (UNIT, UNIT_FILE, "0644")):
        debugfs(path, f"dump {there} {out}")
        t.equal(sha256(out), sha256(here), there)
        said = debugfs(path, f"stat {there}")
        t.check(re.search(rf"Mode:\s+{mode}\b", said) and
                re.search(r"User:\s+0\s+Group:\s+0\b", said), said)
    for link, to in ((LINK, UNIT), (RESUME, "stasis-session")):
        said = debugfs(path, f"stat {link}")
        t.check("Type: symlink" in said and f'"{to}"' in said, said)
    for there, label in ((PROGRAM, BIN_LABEL), (SESSION, BIN_LABEL), (UNIT, UNIT_LABEL)):
        said = debugfs(path, f"ea_get {there} security.selinux")
        t.check(label in said, f"label of {there}: {said}")
    run("e2fsck", "-fn", path)
