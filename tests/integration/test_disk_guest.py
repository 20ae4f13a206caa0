#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what a guest has written through its file systems and what it has in memory agree, in every image."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Linux  # noqa: E402
from stasistest import (case, fresh_name, main, new_store, restored_vm, run_vm, stasis,  # noqa: E402
                        stasis_json)

SIZE = 48 << 20
N_IMAGES = 10


def make_disk(t, name, fmt):
    raw = t.path(name + ".mkfs")
    with open(raw, "wb") as f:
        f.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", raw], check=True)
    path = t.path(name)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, raw, path], check=True)
    os.unlink(raw)
    return path


def start(t):
    paths = [make_disk(t, "a.qcow2", "qcow2"), make_disk(t, "b.raw", "raw")]
    guest = Linux(mem="192M", log="/dev/vda,/dev/vdb")
    vm = run_vm(t, guest, "-drive", f"file={paths[0]},format=qcow2,if=virtio",
                "-blockdev", f"driver=file,node-name=bf,filename={paths[1]}",
                "-blockdev", "driver=raw,node-name=b,file=bf", "-device",
                "virtio-blk-pci,drive=b,id=b")
    t.wait(lambda: logged(vm), 60, "the guest logs")
    return vm, paths


def logged(vm):
    """Numbers of the records that the guest says are on its disks."""
    return [int(n) for n in re.findall(r"^logged (\d+)$(?=\n)", vm.guest.console(vm), re.M)]


def records(t, raw, what):
    """The log on the file system in the raw file, after fsck."""
    repair = subprocess.run(["e2fsck", "-fy", raw], capture_output=True, text=True, check=False)
    t.check(repair.returncode in (0, 1) and "UNEXPECTED" not in repair.stdout,
            f"{what}: replaying the journal: {repair.stdout[-600:]}")
    # The superblock's sums are written at unmounting only; all else is the journal's.
    rest = re.sub(r"Free (blocks|inodes) count wrong.*\nFix\? yes\n", "", repair.stdout)
    for sign in ("Fix?", "Clear?", "wrong", "corrupt"):
        t.check(sign not in rest, f"{what}: e2fsck: {repair.stdout[-600:]}")
    clean = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
    t.equal(clean.returncode, 0, f"{what}: e2fsck: {clean.stdout[-600:]}")
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


@case
def every_image(t):
    """ten images of a guest that logs to a qcow2 and a raw disk: fsck passes, disk and RAM agree to the last record, and the guest goes on; originals stay as they are"""
    vm, paths = start(t)
    store = new_store(t)
    images = []
    for _ in range(N_IMAGES):
        images.append(vm.checkpoint(*store))
        last = logged(vm)[-1]
        t.wait(lambda n=last: logged(vm)[-1] > n + 3, 30, "the guest logs on")
    t.check(all(i["parent"] for i in images[1:]), "increments")
    vm.guest.check_unharmed(vm)
    vm.kill()
    for path in paths:
        fmt = "qcow2" if path.endswith("qcow2") else "raw"
        with open(t.path("look.raw"), "wb") as f:
            f.write(disks.content(path, fmt))
        records(t, t.path("look.raw"), f"{path} of the killed VM")
    before = [disks.sha256(path) for path in paths]
    for number, image in enumerate(images):
        name = fresh_name("at")
        t.defer(stasis, "kill", "--remove-disks", name, expect=None)
        stasis("restore", image["id"], "--name", name, "--paused", *store)
        directory = stasis_json("info", name)["disk_dir"]
        stasis("kill", name)
        on_disk = [records(t, raw_of(t, os.path.join(directory, f"disk-{i}.qcow2")),
                           f"image {number}, disk {i}") for i in range(2)]
        back = restored_vm(t, image["id"], store, vm.guest)
        t.wait(lambda b=back: len(logged(b)) >= 5, 60, "the restored guest logs")
        in_ram = logged(back)[0] - 1
        t.check(all(in_ram <= n <= in_ram + 1 for n in on_disk),
                f"image {number}: {on_disk} records on its disks, {in_ram} in memory")
        if number in (0, N_IMAGES - 1):
            back.guest.check_unharmed(back, f"image {number}")
        stasis("pause", back.name)
        time.sleep(0.1)
        said, directory = logged(back)[-1], back.info()["disk_dir"]
        back.kill()
        for i in range(2):
            n = records(t, raw_of(t, os.path.join(directory, f"disk-{i}.qcow2")),
                        f"after going on from image {number}, disk {i}")
            t.check(said <= n <= said + 1, f"image {number}: {n} records where it said {said}")
    t.equal([disks.sha256(path) for path in paths], before, "the original disks")


@case
def taken_back(t):
    """rolled back again and again while it logs: file systems and memory stay of one piece"""
    vm, paths = start(t)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    at = logged(vm)[-1]
    for _ in range(4):
        n = logged(vm)[-1]
        t.wait(lambda m=n: logged(vm)[-1] > m + 5, 30, "the guest logs on")
        stasis("rollback", vm.name, image_id, "--force", *store)
        t.wait(lambda: logged(vm)[-1] < at + 4, 30, "it is back where it was")
    n = logged(vm)[-1]
    t.wait(lambda: logged(vm)[-1] > n + 5, 30, "the guest logs on")
    stasis("pause", vm.name)
    time.sleep(0.1)
    said = logged(vm)[-1]
    vm.kill()
    for path in paths:
        fmt = "qcow2" if path.endswith("qcow2") else "raw"
        with open(t.path("look.raw"), "wb") as f:
            f.write(disks.content(path, fmt))
        n = records(t, t.path("look.raw"), path)
        t.check(said <= n <= said + 1, f"{path}: {n} records where it said {said}")


if __name__ == "__main__":
    main()
