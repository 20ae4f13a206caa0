#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --disk overlay the image has the disks as of its instant by referring to them; nothing of them is copied, and the VM goes on to new files."""
import glob
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (case, fresh_name, image_ids, kvm_usable, main, mount_tmpfs,  # noqa: E402
                        new_store, restored_vm, run_vm, stasis, stasis_json)

KINDS = (("qcow2", "virtio"), ("raw", "drive"), ("raw", "blockdev"), ("qcow2", "blockdev"))
# Where it can be, so that the overlays are put in place by the shim.
ACCEL = "kvm" if kvm_usable() else "tcg"
GUEST = dict(mem="32M", set="2M", rate=5)


def start(t, kinds=KINDS, **options):
    all_disks = disks.make(t, kinds)
    arguments = [word for disk in all_disks for word in disk.arguments()]
    return run_vm(t, Bare(**GUEST), *arguments, **options), all_disks


def write_all(vm, all_disks, rng):
    with vm.qmp() as qmp:
        for disk in all_disks:
            disk.write_some(qmp, rng)


def tops(vm):
    """The files that the VM's devices write to, by disk."""
    with vm.qmp() as qmp:
        devices = [d for d in qmp.cmd("query-block") if "inserted" in d]
    return [d["inserted"]["image"]["filename"] for d in devices]


def overlays(t):
    return sorted(glob.glob(t.path("*.stasis-*")))


def files_hold(t, paths, models, what):
    for path, model in zip(paths, models):
        fmt = "qcow2" if path.endswith(".qcow2") or ".stasis-" in path else "raw"
        t.check(disks.content(path, fmt) == model, f"{what}: {path}")


def restored_holds(t, image_id, store, models, what):
    """A VM of it has the content, in files of its own."""
    name = fresh_name("back")
    t.defer(stasis, "kill", "--remove-disks", name, expect=None)
    stasis("restore", image_id, "--name", name, "--paused", *store)
    directory = stasis_json("info", name)["disk_dir"]
    stasis("kill", name)
    files_hold(t, [os.path.join(directory, f"disk-{i}.qcow2") for i in range(len(models))], models,
               what)
    stasis("kill", "--remove-disks", name, expect=None)


@case
def chain(t):
    """images one after the other, each with its own content, which a restore reads while the VM runs on; what the VM writes is in the newest files; nothing is copied"""
    vm, all_disks = start(t, accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(1)
    images = []
    for i in range(4):
        write_all(vm, all_disks, rng)
        image = vm.checkpoint("--disk", "overlay", *store)
        images.append((image["id"], [d.snapshot() for d in all_disks]))
        t.equal((image["disks_refer"], image["n_disks"], image["cost"]["disk_copied_bytes"]),
                (True, 0, 0), "nothing copied")
        t.equal(image["parent"], images[i - 1][0] if i > 0 else None, "RAM is incremental")
        t.equal([os.path.basename(p).split(".stasis-")[1] for p in tops(vm)],
                [image["id"]] * len(all_disks), "what the VM writes to")
    vm.check_runs()
    for image_id, models in images:
        restored_holds(t, image_id, store, models, f"image {image_id}")
    write_all(vm, all_disks, rng)
    latest = tops(vm)
    # A copy on top of overlays, as ever.
    copied = vm.checkpoint(*store)
    models = [d.snapshot() for d in all_disks]
    restored_holds(t, copied["id"], store, models, "a copy of a VM on overlays")
    vm.kill()
    files_hold(t, latest, models, "the VM's own files")
    stasis("checkpoint-verify", images[0][0], *store)


if __name__ == "__main__":
    main()
