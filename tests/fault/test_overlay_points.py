#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of stasis at any step of putting overlays on a VM's disks leaves the VM running and nothing lost: without an image the disks are as they were, with all that was written meanwhile, and no file is left."""
import glob
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Bare  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import (BUILD, add_case, case, fresh_name, image_ids, main, mount_tmpfs,  # noqa: E402
                        need_kvm, new_store, run_vm, stasis, stasis_json)

KINDS = (("qcow2", "virtio"), ("raw", "blockdev"))


def start(t, **options):
    all_disks, monitor = disks.make(t, KINDS, size=8 << 20), t.path("second.sock")
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5),
                *[word for disk in all_disks for word in disk.arguments()], "-qmp",
                f"unix:{monitor},server=on,wait=off", **options)
    return vm, all_disks, monitor


def tops(qmp):
    return [d["inserted"]["image"]["filename"] for d in qmp.cmd("query-block") if "inserted" in d]


def ours(qmp):
    return [n["node-name"] for n in qmp.cmd("query-named-block-nodes", flat=True)
            if n["node-name"].startswith("stasis-")]


def write(qmp, all_disks, rng):
    for disk in all_disks:
        disk.write_some(qmp, rng)


def gated_sweep(t):
    """The program that undoes what a killed command has left, waiting for a file: (environment, file).
    Nothing is written meanwhile: a write by the monitor's qemu-io that QEMU 7.2 holds back while a
    block job ends is let go before its new disk may be written to, and QEMU aborts ("child->perm &
    BLK_PERM_WRITE")."""
    path, gate = t.path("gated-sweep"), t.path("gate")
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.05; done\n"
                f'exec {os.path.join(BUILD, "stasis-sweep")} "$@"\n')
    os.chmod(path, 0o700)
    return {"STASIS_SWEEP": path}, gate


def killed(t, point, accel):
    if accel == "kvm":
        need_kvm(t)
    vm, all_disks, monitor = start(t, accel=accel)
    store, rng = new_store(t), disks.rng_of(point)
    listed = point == "overlay-listed"
    env, gate = gated_sweep(t)
    with Qmp(monitor) as qmp:
        before = tops(qmp)
        write(qmp, all_disks, rng)
        stasis("checkpoint-create", vm.name, "--disk", "overlay", *store, expect=-signal.SIGKILL,
               env={"STASIS_FAULT": f"{point}:kill", **env})
        write(qmp, all_disks, rng)
        with open(gate, "w"):
            pass
        vm.check_runs(what=f"killed at {point}")
        t.equal(len(image_ids(store)), int(listed), "images")
        # The file that QEMU does not know yet is the next command's to remove.
        if point == "overlay-made":
            stasis("detach", vm.name)
        if listed:
            t.equal([os.path.basename(p).split(".stasis-")[1] for p in tops(qmp)],
                    image_ids(store) * 2, "the VM stays on its overlays")
        else:
            t.wait(lambda: (tops(qmp), ours(qmp), glob.glob(t.path("*.stasis-*"))) ==
                   (before, [], []), 60, f"{point}: taken back")
        write(qmp, all_disks, rng)
        qmp.cmd("stop")
        for path, disk in zip(tops(qmp), all_disks):
            fmt = "qcow2" if ".stasis-" in path else disk.format
            t.check(disks.content(path, fmt) == disk.snapshot(), f"what {disk.name} holds")
        qmp.cmd("cont")
    if point == "overlay-made":
        return
    # And the next one is whole.
    image_id, models = vm.checkpoint_id("--disk", "overlay", *store), \
        [d.snapshot() for d in all_disks]
    name = fresh_name("back")
    t.defer(stasis, "kill", "--remove-disks", name, expect=None)
    stasis("restore", image_id, "--name", name, "--paused", *store)
    directory = stasis_json("info", name)["disk_dir"]
    stasis("kill", name)
    for i, model in enumerate(models):
        t.check(disks.content(os.path.join(directory, f"disk-{i}.qcow2")) == model, f"disk {i}")
    stasis("detach", vm.name)


FEW = ("overlay-made", "overlay-frozen", "overlay-listed")
for _point in (*FEW, "disk-ready", "stopped", "disk-taken", "resumed"):
    add_case(killed, _point, "tcg", full=_point not in FEW,
             promise=f"kill -9 at {_point}: the VM runs, and its disks have all that was written")
add_case(killed, "disk-taken", "kvm", promise="the same where the VM is stopped from inside QEMU")


@case
def rollback_killed(t):
    """kill -9 in the middle of a rollback: another one completes it, and what the first had made is gone"""
    vm, all_disks, monitor = start(t)
    store, rng = new_store(t), disks.rng_of("rollback")
    with Qmp(monitor) as qmp:
        write(qmp, all_disks, rng)
        image_id, models = vm.checkpoint_id("--disk", "overlay", *store), \
            [d.snapshot() for d in all_disks]
        for point in ("rollback-disk", "rollback-disks"):
            write(qmp, all_disks, rng)
            stasis("rollback", vm.name, image_id, "--force", *store, expect=-9,
                   env={"STASIS_FAULT": f"{point}:kill"})
            t.equal(vm.info()["state"], "half-rolled-back", point)
            stasis("rollback", vm.name, image_id, "--force", "--paused", *store)
            files = tops(qmp)
            t.equal(sorted(files), sorted(glob.glob(t.path("*.stasis-*"))), f"{point}: files")
            for path, disk, model in zip(files, all_disks, models):
                t.check(disks.content(path) == model, f"{point}: {path}")
                disk.model[:] = model
            stasis("resume", vm.name)
            vm.check_runs(what=point)


@case
def full(t):
    """no room for an overlay, and then none for what the guest writes to it: clear errors, nothing lost"""
    small = t.path("small")
    os.mkdir(small)
    mount_tmpfs(t, small, 8 << 20)
    path, monitor = os.path.join(small, "disk.raw"), t.path("second.sock")
    disk = disks.Disk(path, "raw", "drive", 0, size=16 << 20)
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *disk.arguments(), "-qmp",
                f"unix:{monitor},server=on,wait=off")
    store = new_store(t)
    with Qmp(monitor) as qmp:
        disk.write(qmp, 0, 4 << 20, 7)
        with open(os.path.join(small, "filler"), "wb") as f:
            try:
                f.write(bytes(8 << 20))
                f.flush()
            except OSError:
                pass
        result = stasis("checkpoint-create", vm.name, "--disk", "overlay", *store, expect=1)
        t.check("No space left" in result.err, f"a clear error: {result!r}")
        t.equal((tops(qmp), ours(qmp), glob.glob(os.path.join(small, "*.stasis-*"))),
                ([path], [], []), "as before")
        os.unlink(os.path.join(small, "filler"))
        # The store is full: what the VM wrote meanwhile goes back.
        tiny = t.path("tiny")
        os.mkdir(tiny)
        mount_tmpfs(t, tiny, 256 << 10)
        result = stasis("checkpoint-create", vm.name, "--disk", "overlay", "--store",
                        os.path.join(tiny, "store"), expect=None)
        t.check(result.rc != 0 and "No space left" in result.err, f"a clear error: {result!r}")
        t.equal((tops(qmp), ours(qmp), glob.glob(os.path.join(small, "*.stasis-*"))),
                ([path], [], []), "as before")
        vm.check_runs()
        qmp.cmd("stop")
        t.check(disks.content(path, "raw") == disk.snapshot(), "what the disk holds")


if __name__ == "__main__":
    main()
