# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks on which a Linux guest logs numbered records through a file system (Linux(log=…)), and what
must be on them."""
import os
import re
import subprocess
import time

import disks

SIZE = 48 << 20


def make_disk(t, name, fmt):
    raw = t.path(name + ".mkfs")
    with open(raw, "wb") as f:
        f.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", raw], check=True)
    path = t.path(name)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, raw, path], check=True)
    os.unlink(raw)
    return path


def logged(vm):
    """Numbers of the records that the guest says are on its disks."""
    return [int(n) for n in re.findall(r"^logged (\d+)$(?=\n)", vm.guest.console(vm), re.M)]


def journal_is_needed(path):
    """Does the file system in the raw file say that its journal is to be replayed? It does while it
    is mounted and not frozen."""
    for _ in range(20):
        done = subprocess.run(["dumpe2fs", "-h", path], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return "needs_recovery" in done.stdout
        time.sleep(0.1)  # the guest may be writing to just what was read
    raise RuntimeError(f"dumpe2fs: {done}")


def fsck(t, raw, what):
    """Replay the journal of the file system in the raw file, in which nothing else may be to mend."""
    repair = subprocess.run(["e2fsck", "-fy", raw], capture_output=True, text=True, check=False)
    t.check(repair.returncode in (0, 1) and "UNEXPECTED" not in repair.stdout,
            f"{what}: replaying the journal: {repair.stdout[-600:]}")
    # The superblock's sums are written at unmounting only; all else is the journal's.
    rest = re.sub(r"Free (blocks|inodes) count wrong.*\nFix\? yes\n", "", repair.stdout)
    for sign in ("Fix?", "Clear?", "wrong", "corrupt"):
        t.check(sign not in rest, f"{what}: e2fsck: {repair.stdout[-600:]}")
    clean = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
    t.equal(clean.returncode, 0, f"{what}: e2fsck: {clean.stdout[-600:]}")


def records(t, raw, what):
    """The log on the file system in the raw file, after fsck."""
    fsck(t, raw, what)
    log = subprocess.run(["debugfs", "-R", "cat /log", raw], capture_output=True, text=True,
                         check=True).stdout
    numbers = [int(line.split()[1]) for line in log.splitlines()]
    t.equal(numbers, list(range(1, len(numbers) + 1)), f"{what}: records, without a gap")
    return len(numbers)


def raw_of(t, path):
    raw = t.path("look.raw")
    with open(raw, "wb") as f:
        f.write(disks.content(path))
    return raw
