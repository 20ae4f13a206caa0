#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what a guest has written through its file systems and what it has in memory agree, in every image."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Linux  # noqa: E402
from logdisks import logged, make_disk, raw_of, records  # noqa: E402
from stasistest import (FULL, case, fresh_name, image_ids, main, new_store, number_from_env,  # noqa: E402
                        restored_vm, run_vm, stasis, stasis_json)

N_IMAGES = number_from_env("STASIS_TEST_LOGGED", 3)


def start(t, iothreads=False):
    paths = [make_disk(t, "a.qcow2", "qcow2"), make_disk(t, "b.raw", "raw")]
    guest = Linux(mem="192M", log="/dev/vda,/dev/vdb")
    own = [",iothread=io0", ",iothread=io1"] if iothreads else ["", ""]
    vm = run_vm(t, guest, *(["-object", "iothread,id=io0", "-object", "iothread,id=io1"]
                            if iothreads else []),
                "-drive", f"file={paths[0]},format=qcow2,if=none,id=a",
                "-device", f"virtio-blk-pci,drive=a,id=va{own[0]}",
                "-blockdev", f"driver=file,node-name=bf,filename={paths[1]}",
                "-blockdev", "driver=raw,node-name=b,file=bf", "-device",
                f"virtio-blk-pci,drive=b,id=b{own[1]}")
    t.wait(lambda: logged(vm), 60, "the guest logs")
    return vm, paths


def go_on(vm, n=3):
    last = logged(vm)[-1]
    vm.t.wait(lambda: logged(vm)[-1] > last + n, 30, "the guest logs on")


def times_back(vm):
    """How often it has said a number that was not the next one. It may be far on again by now."""
    numbers = logged(vm)
    return sum(b <= a for a, b in zip(numbers, numbers[1:]))


def check_image(t, vm, image_id, store, what):
    """Disks as restored pass fsck, and agree with memory to the last record; the VM, which runs."""
    name = fresh_name("at")
    t.defer(stasis, "kill", "--remove-disks", name, expect=None)
    stasis("restore", image_id, "--name", name, "--paused", *store)
    directory = stasis_json("info", name)["disk_dir"]
    stasis("kill", name)
    on_disk = [records(t, raw_of(t, os.path.join(directory, f"disk-{i}.qcow2")),
                       f"{what}, disk {i}") for i in range(2)]
    back = restored_vm(t, image_id, store, vm.guest)
    t.wait(lambda: len(logged(back)) >= 5, 60, "the restored guest logs")
    in_ram = logged(back)[0] - 1
    t.check(all(in_ram <= n <= in_ram + 1 for n in on_disk),
            f"{what}: {on_disk} records on its disks, {in_ram} in memory")
    return back


def check_files(t, vm, paths, what):
    """What the guest has said last is in its files."""
    stasis("pause", vm.name)
    time.sleep(0.1)
    said = logged(vm)[-1]
    vm.kill()
    for path in paths:
        with open(t.path("look.raw"), "wb") as f:
            f.write(disks.content(path, "qcow2" if path.endswith("qcow2") else "raw"))
        n = records(t, t.path("look.raw"), f"{what}, {path}")
        t.check(said <= n <= said + 1, f"{what}, {path}: {n} records where it said {said}")


@case
def every_image(t):
    """images of a guest that logs to a qcow2 and a raw disk: fsck passes, disk and RAM agree to the last record, and the guest goes on; originals stay as they are"""
    vm, paths = start(t)
    store = new_store(t)
    images = []
    for _ in range(N_IMAGES):
        images.append(vm.checkpoint(*store))
        go_on(vm)
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
        back = check_image(t, vm, image["id"], store, f"image {number}")
        if number in (0, N_IMAGES - 1):
            back.guest.check_unharmed(back, f"image {number}")
        directory = back.info()["disk_dir"]
        check_files(t, back, [os.path.join(directory, f"disk-{i}.qcow2") for i in range(2)],
                    f"going on from image {number}")
    t.equal([disks.sha256(path) for path in paths], before, "the original disks")


@case
def taken_back(t):
    """rolled back again and again while it logs: file systems and memory stay of one piece"""
    vm, paths = start(t)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    for _ in range(4 if FULL else 2):
        go_on(vm, 5)
        before = times_back(vm)
        stasis("rollback", vm.name, image_id, "--force", *store)
        t.wait(lambda n=before: times_back(vm) > n, 30, "it is back where it was")
    go_on(vm, 5)
    check_files(t, vm, paths, "at the end")


@case
def iothreads(t):
    """disks with threads of their own, busy all the while: images, kill -9 in the middle of reading them, a rollback; the VM lives through all of it and every record is right"""
    vm, paths = start(t, iothreads=True)
    store = new_store(t)
    for point in ("disk-open", "disk-half", "disk-taken"):
        stasis("checkpoint-create", vm.name, *store, expect=-signal.SIGKILL,
               env={"STASIS_FAULT": f"{point}:kill"})
        go_on(vm)
    t.equal(image_ids(store), [], "images")
    first = vm.checkpoint_id(*store)
    go_on(vm)
    second = vm.checkpoint(*store)
    t.equal(second["parent"], first, "an increment")
    go_on(vm)
    check_image(t, vm, second["id"], store, "an image").kill()
    before = times_back(vm)
    stasis("rollback", vm.name, first, "--force", *store)
    t.wait(lambda: times_back(vm) > before, 30, "it is back where it was")
    go_on(vm)
    third = vm.checkpoint(*store)
    t.equal(third["parent"], first, "an increment to where it went back to")
    go_on(vm)
    check_files(t, vm, paths, "at the end")


if __name__ == "__main__":
    main()
