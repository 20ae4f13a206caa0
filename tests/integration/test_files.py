#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: files in disks are read as the guest has them, and the disks are never written to."""
import base64
import os
import signal
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare  # noqa: E402
from sealed import sealed_store  # noqa: E402
from stasistest import (FAST, FULL, case, main, new_store, run_vm, side_by_side,  # noqa: E402
                        stasis, stasis_start)
from systemdisk import need_libguestfs  # noqa: E402

BIG = os.urandom(3 << 20)


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def file_system(t, path, offset=0, size="48M"):
    """An ext4 with some files at `offset` of a disk file."""
    source = t.path("source")
    if not os.path.exists(source):
        os.makedirs(os.path.join(source, "etc", "deep"))
        for name, content in (("etc/hello", b"hello\n"), ("etc/deep/big", BIG), ("etc/empty", b"")):
            with open(os.path.join(source, name), "wb") as f:
                f.write(content)
        os.chmod(os.path.join(source, "etc", "hello"), 0o640)
        os.symlink("hello", os.path.join(source, "etc", "link"))
        os.mknod(os.path.join(source, "etc", "deep", "sda"), stat.S_IFBLK | 0o666, os.makedev(8, 0))
        os.mkfifo(os.path.join(source, "etc", "deep", "pipe"))
        with open(os.path.join(source, "etc", "deep", "su"), "wb"):
            pass
        os.chmod(os.path.join(source, "etc", "deep", "su"), 0o6755)
    run("mkfs.ext4", "-q", "-F", "-d", source, "-E", f"offset={offset}", path, size)


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return f.read().split()


def disk(t, name):
    path = t.path(name)
    with open(path, "wb") as f:
        f.truncate(128 << 20)
    return path


def some_image(t, *disks, how=("copy",), store=None):
    """An image of a VM with these disk files, the last of several, taken so; without any, the disk is
    given by hand."""
    more = [word for path in disks
            for word in ("-drive", f"file={path},format=raw,if=virtio")]
    vm = run_vm(t, Bare(mem="32M", set="8M"), *more, accel=FAST)
    store = store or new_store(t)
    for one in how:
        image_id = vm.checkpoint_id("--disk", one, *store)
    stasis("kill", vm.name)
    return image_id, store


@case
def one_file_system(t):
    """an image's disk with one file system, in an encrypted store: its files are listed and copied out (with all
    combinations: printed, and one that is not there is named) as they were, whatever became of the
    original; what would be a device or a program of root's here is not"""
    need_libguestfs(t)
    path = disk(t, "disk")
    file_system(t, path, size="96M")
    image_id, how = some_image(t, path, store=sealed_store(t)[0])
    os.truncate(path, 0)
    os.mkdir(t.path("out"))
    # Each is a VM that takes seconds to start.
    listed, copied, *printed = side_by_side(
        t, ("file-ls", "--json", image_id, "/etc", *how),
        ("file-copy-out", image_id, "/etc", t.path("out"), *how),
        *([("file-cat", "--json", image_id, "/etc/link", "/etc/nothing", "/etc/hello", *how)]
          if FULL else []))
    files = {f["name"]: f for f in listed.json}
    t.equal(sorted(files), ["deep", "empty", "hello", "link"], "names")
    t.equal({k: files["hello"][k] for k in ("type", "mode", "size_bytes", "target")},
            {"type": "file", "mode": 0o640, "size_bytes": 6, "target": None}, "hello")
    t.equal((files["link"]["type"], files["link"]["target"]), ("symlink", "hello"), "link")
    for one in printed:
        t.equal(base64.b64decode(one.json["content_base64"]), b"hello\nhello\n", "content as JSON")
        t.check(one.rc == 12 and "/etc/nothing" in one.envelope["error"]["message"], f"{one!r}")
    t.equal(copied.rc, 0, f"{copied!r}")
    with open(t.path("out/etc/deep/big"), "rb") as f:
        t.check(f.read() == BIG, "the copy is another file")
    t.equal(sorted(os.listdir(t.path("out/etc/deep"))), ["big", "su"], "no device and no pipe")
    t.equal(stat.S_IMODE(os.stat(t.path("out/etc/deep/su")).st_mode), 0o755, "no set-user-ID bit")
    t.equal(os.listdir(t.path("out")), ["etc"], "nothing is left beside it")


@case
def several_file_systems(t):
    """a disk with two and no operating system: one is mounted, its files are there to read and not to
    write, until umount; the process that served them is gone then (an image that refers to its disk; with
    all combinations: which of the two is meant has to be said)"""
    need_libguestfs(t)
    path = disk(t, "disk")
    subprocess.run(["sfdisk", "-q", path], input=b"2048,48M\n,48M\n", check=True)
    for number in (0, 1):
        file_system(t, path, offset=(2048 << 9) + number * (48 << 20))
    # Of an image that refers to its disk: a file on top of another.
    image_id, how = some_image(t, path, how=("overlay", "overlay"))
    directory = t.path("a mount")
    os.mkdir(directory)
    t.defer(subprocess.run, ["umount", "-l", directory], check=False, stderr=subprocess.DEVNULL)
    mounted, *unclear = side_by_side(
        t, ("mount", image_id, directory, "--filesystem", "/dev/sda2", *how),
        *([("file-ls", image_id, *how)] if FULL else []))
    t.check(all(one.rc == 2 and "/dev/sda1, /dev/sda2" in one.err for one in unclear), f"{unclear!r}")
    t.equal(mounted.rc, 0, f"{mounted!r}")
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        server = int(next(line for line in f if f"stasis:{image_id}" in line)
                     .split(f"stasis:{image_id}:")[1].split()[0])
    with open(os.path.join(directory, "etc", "deep", "big"), "rb") as f:
        t.check(f.read() == BIG, "another file is there")
        t.check("in use" in stasis("umount", directory, expect=1).err, "says that it is in use")
    try:
        with open(os.path.join(directory, "new"), "w", encoding="utf-8"):
            t.check(False, "it can be written to")
    except OSError:
        pass
    stasis("umount", directory)
    t.equal(os.listdir(directory), [], "left in the directory")
    t.check(not procmem.is_alive(server), "the server is left")
    stasis("umount", directory, expect=12)


@case
def called_off(t):
    """Ctrl-C while the appliance starts ends it, and what a directory is not is said at once"""
    need_libguestfs(t)
    path = disk(t, "disk")
    file_system(t, path)
    image_id, store = some_image(t)
    stasis("file-ls", image_id, "/", *store, expect=1)  # it has no disks
    stasis("file-ls", image_id, "etc", "--disk-file", path, *store, expect=2)
    stasis("mount", image_id, path, "--disk-file", path, *store, expect=2)
    command = stasis_start(t, "file-ls", image_id, "/", "--disk-file", path, *store)
    # Anywhere in its start will do, once there is a process that starts the appliance.
    t.wait(lambda: children_of(command.pid) or command.poll() is not None, 30, "it is at work")
    time.sleep(1)
    command.send_signal(signal.SIGINT)
    t.equal(command.wait(600), 130, "its exit")


main()
