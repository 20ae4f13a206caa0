#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of stasis at any step of copying disks leaves the VM running, its disks whole, and nothing: what it had there is cleared away without another command."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (BUILD, add_case, case, fresh_name, image_ids, main, need_kvm,  # noqa: E402
                        new_store, run_vm, stasis, stasis_json)

NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
# Where the VM is stopped from inside QEMU.
INSIDE = "disk-given"
POINTS = [n for n in NAMES if n.startswith("disk-") and n not in ("disk-template", INSIDE)]


def ours(vm):
    """What of ours is in QEMU's block layer."""
    with vm.qmp() as qmp:
        nodes = qmp.cmd("query-named-block-nodes", flat=True)
        exports = qmp.cmd("query-block-exports")
    return ([n["node-name"] for n in nodes if n["node-name"].startswith("stasis-")],
            [e["id"] for e in exports],
            [b["name"] for n in nodes for b in n.get("dirty-bitmaps", []) if "name" in b])


def killed(t, point, accel):
    if accel == "kvm":
        need_kvm(t)
    all_disks = disks.make(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5),
                *[word for disk in all_disks for word in disk.arguments()], accel=accel)
    store, rng = new_store(t), disks.rng_of(point)

    def write():
        with vm.qmp() as qmp:
            for disk in all_disks:
                disk.write_some(qmp, rng)
    for attempt in ("full", "increment"):
        write()
        stasis("checkpoint-create", vm.name, *store, expect=-signal.SIGKILL,
               env={"STASIS_FAULT": f"{point}:kill"})
        t.equal(image_ids(store), [], f"{attempt}: an image of a killed checkpoint")
        vm.check_runs(what=f"{attempt}: killed at {point}")
        t.wait(lambda: ours(vm) == ([], [], []), 60, f"{attempt}: {point}: cleared away")
        write()
        image_id = vm.checkpoint_id(*store)
        nodes, exports, bitmaps = ours(vm)
        t.equal((nodes, exports, set(bitmaps)), ([], [], {f"stasis-{image_id}"}), "left in QEMU")
        name = fresh_name("back")
        t.defer(stasis, "kill", "--remove-disks", name, expect=None)
        stasis("restore", image_id, "--name", name, "--paused", *store)
        directory = stasis_json("info", name)["disk_dir"]
        stasis("kill", name)
        for i, disk in enumerate(all_disks):
            held = disks.content(os.path.join(directory, f"disk-{i}.qcow2"))
            t.check(held == disk.snapshot(), f"{attempt}: disk {disk.name} after {point}")
        stasis("checkpoint-delete", image_id, *store)
    stasis("checkpoint-create", vm.name, *store, expect=-signal.SIGKILL,
           env={"STASIS_FAULT": f"{point}:kill"})
    stasis("detach", vm.name)
    t.equal(ours(vm), ([], [], []), "left in QEMU after detach")
    # Its own files are whole, too.
    with vm.qmp() as qmp:
        qmp.cmd("stop")
    for disk in all_disks:
        t.check(disks.content(disk.path, disk.format) == disk.snapshot(), f"file of {disk.name}")


for _point in POINTS:
    add_case(killed, _point, "tcg",
             promise=f"kill -9 at {_point}: the VM runs, and the next image is right")
add_case(killed, "disk-taken", "kvm", promise="the same where the VM is stopped from inside QEMU")


@case
def never_given(t):
    """a checkpoint that fails or is killed when the shim knows of the disks, and has done nothing yet, leaves them as they are"""
    need_kvm(t)
    all_disks = disks.make(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5),
                *[word for disk in all_disks for word in disk.arguments()], accel="kvm")
    store = new_store(t)
    for how, code in (("error", 1), ("kill", -signal.SIGKILL)):
        stasis("checkpoint-create", vm.name, *store, expect=code,
               env={"STASIS_FAULT": f"{INSIDE}:{how}"})
        vm.check_runs(what=f"{how} at {INSIDE}")
        t.wait(lambda: ours(vm) == ([], [], []), 60, f"{how} at {INSIDE}: cleared away")
    vm.checkpoint_id(*store)


@case
def restore_killed(t):
    """a restore that is killed leaves a directory of disks that the next one removes"""
    all_disks = disks.make(t, (("raw", "drive"),))
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *all_disks[0].arguments())
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    name = fresh_name("back")
    t.defer(stasis, "kill", "--remove-disks", name, expect=None)
    stasis("restore", image_id, "--name", name, *store, expect=-signal.SIGKILL,
           env={"STASIS_FAULT": "disk-template:kill"})
    t.equal(len(os.listdir(os.path.join(store[1], "disks"))), 1, "a leftover")
    stasis("restore", image_id, "--name", name, *store)
    t.equal(os.listdir(os.path.join(store[1], "disks")),
            [os.path.basename(stasis_json("info", name)["disk_dir"])], "directories of disks")
    stasis("kill", "--remove-disks", name)
    t.equal(os.listdir(os.path.join(store[1], "disks")), [], "directories of disks at the end")


if __name__ == "__main__":
    main()
