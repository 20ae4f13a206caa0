#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --disk overlay the image has the disks as of its instant by referring to them; nothing of them is copied, and the VM goes on to new files."""
import glob
import os
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (add_case, case, fresh_name, image_ids, kvm_usable, main, new_store,  # noqa: E402
                        run_vm, stasis, stasis_json, stasis_start)
from tap import PATIENCE  # noqa: E402

KINDS = (("qcow2", "virtio"), ("raw", "drive"), ("raw", "blockdev"), ("qcow2", "blockdev"))
# Where it can be, so that the overlays are put in place by the shim.
ACCEL = "kvm" if kvm_usable() else "tcg"
GUEST = dict(mem="32M", set="2M", rate=5)


def start(t, kinds=KINDS, **options):
    all_disks = disks.make(t, kinds, size=8 << 20)
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
def series_is_told(t):
    """a series that Ctrl-C ends has told with its first image where the VM writes from then on"""
    vm, _ = start(t, KINDS[:1])
    series = stasis_start(t, "checkpoint-create", vm.name, "--disk", "overlay", "--every", "100", *new_store(t))
    t.check(len(series.stdout.readline()) == 27, "the first image")
    series.send_signal(signal.SIGINT)
    _, told = series.communicate(timeout=PATIENCE)
    t.equal((series.returncode, told.count(b"writes to new files")), (130, 1), told)


@case
def chain(t):
    """images one after the other, each with its own content, which a restore reads while the VM runs on; what the VM writes is in the newest files; nothing is copied"""
    vm, all_disks = start(t, accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(1)
    images = []
    for i in range(3):
        write_all(vm, all_disks, rng)
        image = vm.checkpoint("--disk", "overlay", *store)
        images.append((image["id"], [d.snapshot() for d in all_disks]))
        t.equal((image["disks_refer"], image["n_disks"], image["cost"]["disk_copied_bytes"]),
                (True, 0, 0), "nothing copied")
        t.equal(image["parent"], images[i - 1][0] if i > 0 else None, "RAM is incremental")
        t.equal([os.path.basename(p).split(".stasis-")[1] for p in tops(vm)],
                [image["id"]] * len(all_disks), "what the VM writes to")
    vm.check_runs()
    for image_id, models in (images[0], images[2]):
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


@case
def rollback(t):
    """a rollback gives the VM empty files on top of the image's, with its own given up; other images stay whole"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    store, rng = new_store(t), disks.rng_of(2)
    images = []
    for _ in range(3):
        write_all(vm, all_disks, rng)
        image_id = vm.checkpoint_id("--disk", "overlay", *store)
        images.append((image_id, [d.snapshot() for d in all_disks]))
    for i, n_files in ((2, 6), (0, 6), (1, 6)):
        write_all(vm, all_disks, rng)
        given_up = tops(vm)
        stasis("rollback", vm.name, images[i][0], "--force", "--paused", *store)
        t.equal([os.path.exists(p) for p in given_up], [False, False], "what was given up")
        t.equal(len(overlays(t)), n_files, f"files after the rollback to image {i}")
        files_hold(t, tops(vm), images[i][1], f"back at image {i}")
        for disk, model in zip(all_disks, images[i][1]):
            disk.model[:] = model
        stasis("resume", vm.name)
        vm.check_runs(what=f"rolled back to image {i}")
    write_all(vm, all_disks, rng)
    image = vm.checkpoint("--disk", "overlay", *store)
    images.append((image["id"], [d.snapshot() for d in all_disks]))
    t.equal(image["parent"], images[1][0], "incremental to where it went back to")
    for image_id, models in images[2:]:
        restored_holds(t, image_id, store, models, f"image {image_id} after rollbacks")
    # What image 2 alone needed lies aside, and so do the disks of a VM that was restored from it.
    aside = [p for p in overlays(t) if p.endswith(images[1][0])]
    stasis("checkpoint-delete", images[2][0], *store)
    listed = stasis_json("disk-list", vm.name, *store)
    t.equal([f["file"] for f in listed if f["use"] == "aside" and f["overlays"]], aside, "aside")
    t.equal(stasis_json("disk-prune", vm.name, *store)["files"], [], "a VM that is off lies on them")
    shutil.rmtree(os.path.join(store[1], "disks"))
    with open(aside[0], "rb"):
        t.equal([f["file"] for f in stasis_json("disk-prune", vm.name, "-n", *store)["files"]],
                aside[1:], "somebody has one open")
    t.equal(sorted(f["file"] for f in stasis_json("disk-prune", vm.name, "-n", *store)["files"]), aside,
            "to be removed")
    stasis("disk-prune", vm.name, *store)
    t.equal([os.path.exists(p) for p in aside], [False, False], "removed")
    for image_id, models in (images[1], images[3]):
        restored_holds(t, image_id, store, models, f"image {image_id} after that")
    write_all(vm, all_disks, rng)
    vm.check_runs(what="after disk-prune")


@case
def read_through(t):
    """exports, info and verify read through to the files; when one is not as it was each says so and does nothing"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    store, rng = new_store(t), disks.rng_of(3)
    for _ in range(2):
        write_all(vm, all_disks, rng)
        image_id = vm.checkpoint_id("--disk", "overlay", *store)
    models = [d.snapshot() for d in all_disks]
    for disk, model in zip(all_disks, models):
        for fmt in ("raw", "qcow2"):
            path = t.path(f"out.{fmt}")
            stasis("export", image_id, "--format", fmt, "--disk", disk.name, path, *store)
            t.check(disks.content(path, fmt) == model, f"disk {disk.name} as {fmt}")
    stasis("export", image_id, "--format", "raw", "--disk", "nosuch", t.path("no"), *store,
           expect=12)
    files = stasis_json("checkpoint-info", image_id, *store)["disk_files"]
    t.equal([(f["name"], f["depth"], f["problem"]) for f in files],
            [(d.name, depth, None) for d in all_disks for depth in (0, 1)], "files")
    t.equal([f["file"] for f in files if f["depth"] == 1], [d.path for d in all_disks], "bases")
    stasis("checkpoint-verify", image_id, *store)
    name = fresh_name("back")
    for words in (["--in-place"], ["--disk", "none"]):
        result = stasis("restore", image_id, "--name", name, *words, *store, expect=1)
        t.check("--in-place" in result.err, f"it would write to them: {result!r}")
    vm.check_runs()
    # The trap: the VM again, with the command line that it always had.
    vm.kill()
    with open(all_disks[1].path, "r+b") as f:
        f.write(b"x")
    for words in (["checkpoint-verify", image_id], ["restore", image_id, "--name", name],
                  ["clone", image_id, "--name", name],
                  ["export", image_id, "--format", "raw", "--disk", all_disks[1].name,
                   t.path("no")]):
        result = stasis(*words, *store, expect=1)
        t.check(all_disks[1].path in result.err + result.out and "was written to" in
                result.err + result.out, f"{words[0]}: {result!r}")
    t.check(not os.path.exists(t.path("no")), "an export that failed")
    t.equal(os.listdir(os.path.join(store[1], "disks")), [], "disks of a restore that failed")
    files = stasis_json("checkpoint-info", image_id, *store)["disk_files"]
    t.check([f["file"] for f in files if f["problem"]] == [all_disks[1].path], files)


@case
def other_uses(t):
    """devices of a VM on overlays are saved and put back; bundles and streams of such images say that they lack the disks' files"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")), accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(6)
    write_all(vm, all_disks, rng)
    image_id = vm.checkpoint_id("--disk", "overlay", *store)
    models, before = [d.snapshot() for d in all_disks], tops(vm)
    write_all(vm, all_disks, rng)
    saved = stasis_json("device-checkpoint", vm.name, *store)["id"]
    stasis("device-restore", vm.name, "pckbd", saved, *store)
    stasis("device-restore", vm.name, "pckbd", image_id, *store)
    t.equal(tops(vm), before, "what the VM writes to after device-restore")
    vm.check_runs(what="after device-restore")
    stream = stasis("export", image_id, "--format", "qemu", t.path("stream"), *store)
    t.check(all(f"{d.name} is {d.path}" in stream.err for d in all_disks), f"{stream!r}")
    for fmt in ("elf-core", "raw-memory"):
        stasis("export", image_id, "--format", fmt, t.path(fmt), *store)
    result = stasis("bundle-export", t.path("bundle"), image_id, *store)
    t.check(f"image {image_id} refers to" in result.err, f"{result!r}")
    other = ("--store", t.path("other"))
    stasis("bundle-import", t.path("bundle"), *other)
    restored_holds(t, image_id, other, models, "from the bundle")
    stasis("checkpoint-verify", image_id, *other)
    stasis("pause", vm.name)
    files_hold(t, before, [d.snapshot() for d in all_disks], "the VM's own")


@case
def failed(t):
    """a checkpoint that fails, at each step, leaves the VM on its own files, with all that was written meanwhile"""
    vm, all_disks = start(t, accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(4)
    before = tops(vm)
    write_all(vm, all_disks, rng)
    copied = vm.checkpoint_id(*store)
    for point in ("overlay-made", "disk-ready", "disk-taken", "resumed", "overlay-frozen"):
        write_all(vm, all_disks, rng)
        stasis("checkpoint-create", vm.name, "--disk", "overlay", *store, expect=1,
               env={"STASIS_FAULT": f"{point}:error"})
        t.equal(tops(vm), before, f"{point}: what the VM writes to")
        t.equal(overlays(t), [], f"{point}: files")
    stasis("checkpoint-create", vm.name, "--disk", "overlay", "--max-pause", "0.05", *store,
           expect=5)
    t.equal((tops(vm), overlays(t), image_ids(store)), (before, [], [copied]), "too long a pause")
    vm.check_runs()
    image_id = vm.checkpoint_id(*store)
    restored_holds(t, image_id, store, [d.snapshot() for d in all_disks], "a copy after that")
    write_all(vm, all_disks, rng)
    image_id = vm.checkpoint_id("--disk", "overlay", *store)
    restored_holds(t, image_id, store, [d.snapshot() for d in all_disks], "after failures")


@case
def commit(t):
    """disk-commit lets the VM go back to its own files while it runs, not while an image needs them, and completes what was killed"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    store, rng = new_store(t), disks.rng_of(5)
    before = tops(vm)
    t.equal(stasis_json("disk-commit", vm.name, *store)["n_overlays"], 0, "none yet")
    for _ in range(3):
        write_all(vm, all_disks, rng)
        result = stasis("checkpoint-create", vm.name, "--disk", "overlay", *store)
        t.check("disk-commit" in result.err, f"a hint: {result!r}")
    images = image_ids(store)
    write_all(vm, all_disks, rng)
    result = stasis("disk-commit", vm.name, *store, expect=None)
    t.check(result.rc != 0 and images[2] in result.err, f"refused by name: {result!r}")
    t.equal(len(overlays(t)), 6, "files")
    # Down to what an image needs: the newest one gone, the topmost file goes into the next.
    stasis("checkpoint-delete", images.pop(), *store)
    done = stasis_json("disk-commit", vm.name, *store)
    t.equal((done["n_overlays"], done["n_left"], len(overlays(t))), (2, 4, 4), "as far as can be")
    stasis("checkpoint-verify", *images, *store)
    listed = stasis_json("disk-list", vm.name, *store)
    t.equal([(f["use"], len(f["images"])) for f in listed],
            [("written", 0), ("read", 1), ("read", 2)] * 2, "who needs them")
    write_all(vm, all_disks, rng)
    images.append(vm.checkpoint_id("--disk", "overlay", *store))
    stasis("checkpoint-delete", *images[:2], *store)
    t.equal(len(overlays(t)), 6, "deleting images deletes no disk")
    stasis("disk-commit", vm.name, "--force", *store, expect=-9,
           env={"STASIS_FAULT": "overlay-merged:kill"})
    t.check(0 < len(overlays(t)) < 6, f"killed in the middle: {overlays(t)}")
    write_all(vm, all_disks, rng)
    stasis("checkpoint-verify", images[2], *store, expect=1)
    t.equal(stasis_json("disk-commit", vm.name, *store)["n_overlays"], 0, "already done")
    t.equal((tops(vm), overlays(t)), (before, []), "its own files again")
    vm.check_runs()
    copied = vm.checkpoint_id(*store)
    restored_holds(t, copied, store, [d.snapshot() for d in all_disks], "a copy after that")
    stasis("pause", vm.name)
    files_hold(t, before, [d.snapshot() for d in all_disks], "its own files")


def lain_on(t, where):
    vm, all_disks = start(t, (("qcow2", "virtio"),))
    store, rng = new_store(t), disks.rng_of(7)
    write_all(vm, all_disks, rng)
    image_id, model = vm.checkpoint_id("--disk", "overlay", *store), all_disks[0].snapshot()
    name, links = fresh_name("beside"), os.path.join(store[1], "disks")
    stasis("restore", image_id, "--name", name, "--disk-dir", t.path(where), *store, expect=1,
           env={"STASIS_FAULT": "disk-template:error"})
    t.equal(glob.glob(f"{links}/*") + glob.glob(f"{t.path(where)}/{name}.*"), [], "of one that failed")
    stasis("restore", image_id, "--name", name, "--paused", "--disk-dir", t.path(where), *store)
    own = os.path.join(stasis_json("info", name)["disk_dir"], "disk-0.qcow2")
    stasis("kill", name)
    stasis("checkpoint-delete", image_id, *store)
    write_all(vm, all_disks, rng)
    result = stasis("disk-commit", vm.name, *store, expect=None)
    t.check(result.rc != 0 and own in result.err, f"refused, and says why: {result!r}")
    files_hold(t, [own], [model], "the restored VM's disk")
    shutil.rmtree(os.path.dirname(own))
    t.equal(stasis_json("disk-commit", vm.name, *store)["n_overlays"], 1, "without it")
    stasis("pause", vm.name)
    files_hold(t, [all_disks[0].path], [all_disks[0].snapshot()], "the VM's own")


for _where, _words in (("", "beside them"), ("elsewhere", "with its disks elsewhere")):
    add_case(lain_on, _where, promise=f"files that the disk of a VM restored {_words} lies on are not written to, though that VM is off")


if __name__ == "__main__":
    main()
