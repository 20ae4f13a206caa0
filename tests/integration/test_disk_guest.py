#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what a guest has written through its file systems and what it has in memory agree, in every image."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Linux  # noqa: E402
from logdisks import logged, make_disk, raw_of, records  # noqa: E402
from stasistest import (case, fresh_name, main, new_store, restored_vm, run_vm, stasis,  # noqa: E402
                        stasis_json)

N_IMAGES = 10


def start(t):
    paths = [make_disk(t, "a.qcow2", "qcow2"), make_disk(t, "b.raw", "raw")]
    guest = Linux(mem="192M", log="/dev/vda,/dev/vdb")
    vm = run_vm(t, guest, "-drive", f"file={paths[0]},format=qcow2,if=virtio",
                "-blockdev", f"driver=file,node-name=bf,filename={paths[1]}",
                "-blockdev", "driver=raw,node-name=b,file=bf", "-device",
                "virtio-blk-pci,drive=b,id=b")
    t.wait(lambda: logged(vm), 60, "the guest logs")
    return vm, paths


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
