#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an image has the disks as they were at its instant; the original disks are never touched."""
import json
import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
import held  # noqa: E402
from guests import Bare  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import (attach, case, fresh_name, image_ids, kvm_usable, main,  # noqa: E402
                        mount_tmpfs, new_store, plain_qemu, restored_vm, run_vm, stasis, stasis_json, stasis_start)

KINDS = (("qcow2", "virtio"), ("raw", "drive"), ("raw", "blockdev"), ("qcow2", "blockdev"))


def start(t, kinds=KINDS, **options):
    """A VM whose disks are the test's to write to."""
    all_disks = disks.make(t, kinds)
    arguments = [word for disk in all_disks for word in disk.arguments()]
    guest = Bare(mem="32M", set="2M", rate=5)
    return run_vm(t, guest, *arguments, **options), all_disks


# Where it can be, so that disks are taken by the shim, as QEMU is stopped from inside.
ACCEL = "kvm" if kvm_usable() else "tcg"


def write_all(vm, all_disks, rng):
    with vm.qmp() as qmp:
        return sum(disk.write_some(qmp, rng) for disk in all_disks)


def check_disks(t, all_disks, directory, models, what):
    """The files that a restored VM got hold what the models say."""
    for i, (disk, model) in enumerate(zip(all_disks, models)):
        found = disks.content(os.path.join(directory, f"disk-{i}.qcow2"))
        first = next((n for n in range(len(model)) if found[n] != model[n]), None) \
            if found != model else None
        t.check(found == model, f"{what}: disk {disk.name} differs at {first}")


def restore_and_look(t, image_id, store, all_disks, models, what):
    name = fresh_name("back")
    t.defer(stasis, "kill", "--remove-disks", name, expect=None)
    stasis("restore", image_id, "--name", name, "--paused", *store)
    directory = stasis_json("info", name)["disk_dir"]
    stasis("kill", name)
    check_disks(t, all_disks, directory, models, what)
    return directory


def nothing_of_ours(t, vm, bitmaps=()):
    """No node, export, server or bitmap of ours in QEMU but the bitmaps of image `bitmaps`."""
    with vm.qmp() as qmp:
        nodes = qmp.cmd("query-named-block-nodes", flat=True)
        exports = qmp.cmd("query-block-exports")
        devices = qmp.cmd("query-block")
        fdsets = qmp.cmd("query-fdsets")
    names = [n["node-name"] for n in nodes]
    t.check(not [n for n in names if n.startswith("stasis-")], f"nodes left: {names}")
    t.equal(exports, [], "exports left")
    # A paused QEMU keeps what the device loader lent it until that is used again.
    t.check(not fdsets or vm.status() != "running", f"descriptor sets left: {fdsets}")
    for device in devices:
        node = device.get("inserted", {}).get("node-name", "")
        t.check(not node.startswith("stasis-"), f"a filter is left: {device}")
    left = {b["name"] for n in nodes for b in n.get("dirty-bitmaps", [])}
    t.equal(left, {f"stasis-{i}" for i in bitmaps}, "bitmaps")


@case
def chain(t):
    """ten checkpoints while disks are written: each brings back its own content, whatever is deleted or folded; originals stay as they are"""
    vm, all_disks = start(t, accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(4)
    images = []
    for i in range(10):
        dirty = write_all(vm, all_disks, rng)
        image = vm.checkpoint(*store)
        images.append((image["id"], [d.snapshot() for d in all_disks]))
        t.equal(image["n_disks"], len(all_disks), "disks in the image")
        if i > 0:
            t.equal(image["parent"], images[i - 1][0], "incremental")
            t.check(image["cost"]["disk_copied_bytes"] <= dirty,
                    f"copied {image['cost']['disk_copied_bytes']} where {dirty} were written")
    nothing_of_ours(t, vm, [images[-1][0]])
    vm.check_runs()
    stasis("export", images[6][0], "--format", "raw", "--disk", all_disks[2].name, t.path("out"),
           *store)
    with open(t.path("out"), "rb") as f:
        t.check(f.read() == images[6][1][2], "an exported disk")
    # A disk of each sort of file, the last with holes and data up to its end.
    for number, disk in enumerate(all_disks):
        path = t.path(f"out{number}.qcow2")
        stasis("export", images[6][0], "--format", "qcow2", "--disk", disk.name, path, *store)
        checked = subprocess.run(["qemu-img", "check", "--output=json", path], text=True,
                                 capture_output=True, check=True)
        said = json.loads(checked.stdout)
        t.check(not {"leaks", "corruptions", "check-errors"} &
                {k for k, v in said.items() if v}, f"qemu-img check: {said}")
        t.check(disks.content(path) == images[6][1][number], f"disk {disk.name} as qcow2")
    for fmt in ("raw", "qcow2"):
        stasis("export", "latest", "--format", fmt, "--disk", "nosuch", t.path("no"), *store,
               expect=12)
        stasis("export", "latest", "--format", fmt, t.path("no"), *store, expect=2)
    t.check(not os.path.exists(t.path("no")), "a file of an export that failed")
    shown = stasis_json("checkpoint-info", images[-1][0], *store)["disks"]
    t.equal([d["name"] for d in shown], [d.name for d in all_disks], "names of disks")
    vm.kill()
    before = [disks.sha256(d.path) for d in all_disks]
    for i in (0, 4, 9):
        restore_and_look(t, *images[i][:1], store, all_disks, images[i][1], f"image {i}")
    stasis("checkpoint-delete", images[0][0], images[3][0], images[4][0], *store)
    stasis("store-fold", "--max-depth", "2", *store)
    stasis("store-check", "--read-data", *store)
    for i in (1, 5, 8, 9):
        restore_and_look(t, images[i][0], store, all_disks, images[i][1], f"image {i} folded")
    t.equal([disks.sha256(d.path) for d in all_disks], before, "the original disks")


@case
def running(t):
    """a restored VM writes to its own disk only, its next image has that, and it outlives image and cache"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    store, rng = new_store(t), disks.rng_of(5)
    write_all(vm, all_disks, rng)
    image_id = vm.checkpoint_id(*store)
    vm.kill()
    before = [disks.sha256(d.path) for d in all_disks]
    back = restored_vm(t, image_id, store, vm.guest)
    write_all(back, all_disks, rng)
    subprocess.run(["rm", "-rf", os.path.join(store[1], "cache")], check=True)
    again = back.checkpoint_id("--full", *store)
    stasis("checkpoint-delete", image_id, *store)
    models = [d.snapshot() for d in all_disks]
    write_all(back, all_disks, rng)
    back.check_runs()
    directory = back.info()["disk_dir"]
    back.kill()
    check_disks(t, all_disks, directory, [d.snapshot() for d in all_disks], "its own disks")
    restore_and_look(t, again, store, all_disks, models, "image of the restored VM")
    t.equal([disks.sha256(d.path) for d in all_disks], before, "the original disks")


@case
def in_place(t):
    """restore --in-place writes the image's content to the original disks, unless they are in use"""
    vm, all_disks = start(t)
    store, rng = new_store(t), disks.rng_of(12)
    write_all(vm, all_disks, rng)
    image_id, models = vm.checkpoint_id(*store), [d.snapshot() for d in all_disks]
    write_all(vm, all_disks, rng)
    name = fresh_name("back")
    t.defer(stasis, "kill", name, expect=None)
    result = stasis("restore", image_id, "--name", name, "--in-place", *store, expect=1)
    t.check("in use" in result.err, f"in use: {result!r}")
    vm.check_runs()
    vm.kill()
    # A reader that knows nothing of QEMU's locks.
    with open(all_disks[1].path, "rb"):
        result = stasis("restore", image_id, "--name", name, "--in-place", *store, expect=1)
    t.check(all_disks[1].path in result.err, f"read by someone: {result!r}")
    check_originals(t, all_disks, "refused")
    stasis("restore", image_id, "--name", name, "--in-place", "--paused", *store)
    t.equal(stasis_json("info", name)["disk_dir"], None, "disks of its own")
    for disk, model in zip(all_disks, models):
        disk.model[:] = model
    check_originals(t, all_disks, "written in place")


@case
def block_device(t):
    """a block device is copied, taken back and written in place as a file is; read-only disks, CDs and drives without a medium are left alone"""
    disk = disks.make(t, (("raw", "drive"),), size=8 << 20)[0]
    disk.path = disks.loop_device(t, disk.path)
    iso = t.path("cd.iso")
    with open(iso, "wb") as f:
        f.write(os.urandom(1 << 20))
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *disk.arguments(),
                "-drive", f"file={iso},format=raw,if=virtio,readonly=on",
                "-drive", f"file={iso},format=raw,if=none,media=cdrom,readonly=on,id=cd",
                "-device", "ide-cd,drive=cd,id=drive0", "-device", "ide-cd,id=drive1", accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(14)
    write_all(vm, [disk], rng)
    image, model = vm.checkpoint(*store), disk.snapshot()
    t.equal(image["n_disks"], 1, "disks in the image")
    restore_and_look(t, image["id"], store, [disk], [model], "of a block device")
    write_all(vm, [disk], rng)
    with vm.qmp() as qmp:  # the guest's, or who runs it, may do that at any time
        qmp.cmd("eject", id="drive0", force=True)
    second, later = vm.checkpoint_id(*store), disk.snapshot()
    stasis("rollback", vm.name, image["id"], "--force", "--paused", *store)
    with open(disk.path, "rb") as f:
        t.check(f.read() == model, "back at the first image")
    vm.kill()
    stasis("restore", second, "--in-place", "--paused", *store)
    with open(disk.path, "rb") as f:
        t.check(f.read() == later, "written in place")
    stasis("kill", vm.name)


@case
def clones(t):
    """clones have disks of their own, also where the machine has -blockdev, and they go with them"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    store, rng = new_store(t), disks.rng_of(6)
    write_all(vm, all_disks, rng)
    image_id = vm.checkpoint_id(*store)
    name = fresh_name("clone")
    for i in (1, 2):
        t.defer(stasis, "kill", f"{name}-{i}", expect=None)
    stasis("clone", image_id, "--count", "2", "--name", name, *store)
    dirs = [stasis_json("info", f"{name}-{i}")["disk_dir"] for i in (1, 2)]
    t.check(dirs[0] != dirs[1], "directories of their own")
    base = [os.stat(os.path.join(d, "disk-0.base")) for d in dirs]
    t.equal(base[0].st_ino, base[1].st_ino, "the content is shared")
    for i in (1, 2):
        stasis("kill", f"{name}-{i}")
    t.equal([os.path.exists(d) for d in dirs], [False, False], "disks of the clones")


@case
def left_out(t):
    """--disk none leaves the disks out; the image restores with those that the command line names"""
    vm, all_disks = start(t, (("raw", "drive"),))
    store = new_store(t)
    image = vm.checkpoint("--disk", "none", *store)
    t.equal((image["n_disks"], image["disk_bytes"]), (0, 0), "disks in the image")
    nothing_of_ours(t, vm)
    vm.kill()
    back = restored_vm(t, image["id"], store, vm.guest)
    t.equal(back.info()["disk_dir"], None, "disks of its own")
    del all_disks


@case
def failed(t):
    """a checkpoint that fails after the instant loses nothing: the next increment has it all"""
    all_disks, monitor = disks.make(t, KINDS), t.path("second.sock")
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5),
                *[word for disk in all_disks for word in disk.arguments()], "-qmp",
                f"unix:{monitor},server=on,wait=off", accel=ACCEL)
    store, rng = new_store(t), disks.rng_of(7)
    write_all(vm, all_disks, rng)
    first = vm.checkpoint_id(*store)
    for point in ("disk-ready", "disk-taken", "disk-open", "disk-half", "committed"):
        write_all(vm, all_disks, rng)
        stasis("checkpoint-create", vm.name, *store, expect=1,
               env={"STASIS_FAULT": f"{point}:error"})
        nothing_of_ours(t, vm, [first])
    # What is written while the old bitmaps count no more is in the new ones only.
    with Qmp(monitor) as qmp:
        process = stasis_start(t, "checkpoint-create", vm.name, *store,
                               env={"STASIS_FAULT": "committed:error"})
        t.wait(lambda: qmp.cmd("query-block-exports") or process.poll() is not None, 20,
               "a disk is exported")
        os.kill(process.pid, signal.SIGSTOP)
        for disk in all_disks:
            disk.write_some(qmp, rng)
        os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=600)
    t.equal(process.returncode, 1, "failed at the end")
    nothing_of_ours(t, vm, [first])
    image = vm.checkpoint(*store)
    t.equal(image["parent"], first, "incremental")
    vm.check_runs()
    restore_and_look(t, image["id"], store, all_disks, [d.snapshot() for d in all_disks],
                     "after failures")


@case
def server_in_use(t):
    """an NBD server that somebody else has started is used, and left alone"""
    vm, all_disks = start(t, (("qcow2", "virtio"),))
    store, rng = new_store(t), disks.rng_of(8)
    write_all(vm, all_disks, rng)
    path = t.path("nbd.sock")
    with vm.qmp() as qmp:
        qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    image_id = vm.checkpoint_id(*store)
    info = subprocess.run(["qemu-img", "info", f"nbd+unix:///none?socket={path}"],
                          capture_output=True, text=True, check=False)
    t.check("export" in info.stderr.lower(), f"their server still answers: {info}")
    models = [d.snapshot() for d in all_disks]
    with vm.qmp() as qmp:
        qmp.cmd("nbd-server-stop")
        qmp.cmd("nbd-server-start",
                    addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
    result = stasis("checkpoint-create", vm.name, *store, expect=1)
    t.check(re.search(r"NBD server.*in use", result.err), f"refused by name: {result!r}")
    with vm.qmp() as qmp:
        qmp.cmd("nbd-server-stop")
    nothing_of_ours(t, vm, [image_id])
    vm.check_runs()
    vm.kill()
    restore_and_look(t, image_id, store, all_disks, models, "read through their server")


@case
def store_full(t):
    """a full store fails the checkpoint with a clear error; a guest that overwrites more than the scratch file has room for is not harmed"""
    path = t.path("small")
    os.mkdir(path)
    mount_tmpfs(t, path, 40 << 20)
    disk = disks.make(t, (("raw", "virtio"),), size=64 << 20)[0]
    monitor = t.path("second.sock")
    with open(disk.path, "r+b") as f:
        disk.model[:] = os.urandom(disk.size)
        f.write(disk.model)
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *disk.arguments(), "-qmp",
                f"unix:{monitor},server=on,wait=off")
    small = ("--store", os.path.join(path, "store"))
    result = stasis("checkpoint-create", vm.name, *small, expect=None)
    t.check(result.rc != 0 and "No space left" in result.err, f"a clear error: {result!r}")
    nothing_of_ours(t, vm)
    vm.check_runs(what="store full")
    # Held still before anything is copied, while the guest overwrites all of its disk.
    process = held.held(t, "disk-open", "checkpoint-create", vm.name, *small)
    with Qmp(monitor) as qmp:
        for i in range(12):
            disk.write(qmp, i * (5 << 20), 5 << 20, i + 1)
    code, said = held.ended(process)
    t.check(code != 0, f"the checkpoint fails: {said}")
    nothing_of_ours(t, vm)
    vm.check_runs(what="scratch file full")
    stasis("pause", vm.name)
    check_originals(t, [disk], "what the guest wrote")


@case
def interrupted(t):
    """Ctrl-C while disks are copied, and a pause budget that can't be kept: the VM runs, nothing is left"""
    disk = disks.make(t, (("raw", "virtio"),))[0]
    with open(disk.path, "r+b") as f:
        f.write(os.urandom(disk.size))
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *disk.arguments())
    store = new_store(t)
    for point in ("disk-open", "disk-half"):
        code, said, images = held.interrupted(t, point, vm, store)
        t.equal(code, 130, f"Ctrl-C at {point}: {said}")
        if images:  # and their bitmaps
            stasis("detach", vm.name)
            attach(vm)
        nothing_of_ours(t, vm)
    stasis("checkpoint-create", vm.name, "--max-pause", "0.05", *store, expect=5)
    nothing_of_ours(t, vm)
    t.equal(image_ids(store), [], "images")
    vm.check_runs()
    vm.checkpoint(*store)


@case
def other_user(t):
    """a sandboxed QEMU of another user, attached: it needs to open nothing of ours"""
    all_disks = disks.make(t, (("raw", "drive"),))
    os.chown(all_disks[0].path, 65534, 65534)
    vm = plain_qemu(t, Bare(mem="32M", set="2M", rate=5), *all_disks[0].arguments(), uid=65534,
                    sandbox=True)
    attach(vm)
    store, rng = new_store(t), disks.rng_of(9)
    write_all(vm, all_disks, rng)
    image_id = vm.checkpoint_id(*store)
    restore_and_look(t, image_id, store, all_disks, [d.snapshot() for d in all_disks], "image")
    stasis("detach", vm.name)
    nothing_of_ours(t, vm)
    vm.check_runs()


@case
def refused(t):
    """what can't be copied is refused by name, and nothing is touched"""
    disk = disks.make(t, (("raw", "drive"),))[0]
    arguments = disk.arguments()
    arguments[-1] += ",share-rw=on"
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *arguments)
    store = new_store(t)
    result = stasis("checkpoint-create", vm.name, *store, expect=1)
    t.check("disk d0" in result.err and "share-rw" in result.err, repr(result))
    nothing_of_ours(t, vm)
    vm.checkpoint("--disk", "none", *store)
    vm.check_runs()
    vm.kill()
    # QEMU 7.2 would not survive it; virtio-blk's it does (test_disk_guest).
    other = disks.make(t, (("raw", "drive"),))[0]
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *other.arguments()[:2], "-object",
                "iothread,id=io", "-device", "virtio-scsi-pci,id=hba,iothread=io", "-device",
                "scsi-hd,drive=d0,bus=hba.0")
    result = stasis("checkpoint-create", vm.name, *store, expect=1)
    t.check("disk d0" in result.err and "iothread" in result.err, repr(result))
    nothing_of_ours(t, vm)
    vm.checkpoint("--disk", "none", *store)
    vm.check_runs()


def check_originals(t, all_disks, what):
    for disk in all_disks:
        found = disks.content(disk.path, disk.format)
        t.check(found == disk.snapshot(), f"{what}: disk {disk.name} differs")


def back_to(t, vm, all_disks, image, what, *options):
    image_id, models = image
    result = stasis_json("rollback", vm.name, image_id, "--force", "--paused", *options)
    for disk, model in zip(all_disks, models):
        disk.model[:] = model
    check_originals(t, all_disks, what)
    nothing_of_ours(t, vm, [image_id])
    stasis("resume", vm.name)
    vm.check_runs(what=what)
    return result


@case
def rollback(t):
    """a rollback takes the disks back too, to ancestors and descendants, and the next image is an increment"""
    vm, all_disks = start(t)
    store, rng = new_store(t), disks.rng_of(10)
    images = []
    for _ in range(3):
        write_all(vm, all_disks, rng)
        images.append((vm.checkpoint_id(*store), [d.snapshot() for d in all_disks]))
    dirty = write_all(vm, all_disks, rng)
    result = back_to(t, vm, all_disks, images[2], "the last image", *store)
    t.check(0 < result["rewritten_disk_pages"] <= dirty // 4096 + 64, f"only what differs: {result}")
    for i in (0, 2, 1):
        write_all(vm, all_disks, rng)
        back_to(t, vm, all_disks, images[i], f"image {i}", *store)
    dirty = write_all(vm, all_disks, rng)
    image = vm.checkpoint(*store)
    t.equal(image["parent"], images[1][0], "incremental to where it went back to")
    t.check(image["cost"]["disk_copied_bytes"] <= dirty, f"no more than written: {image}")
    restore_and_look(t, image["id"], store, all_disks, [d.snapshot() for d in all_disks], "after")
    # Without tracking all is compared.
    write_all(vm, all_disks, rng)
    stasis("detach", vm.name)
    attach(vm)
    back_to(t, vm, all_disks, images[0], "compared", *store)


@case
def rollback_dies(t):
    """kill -9 in the middle of writing disks back: another rollback completes it"""
    vm, all_disks = start(t, (("qcow2", "virtio"), ("raw", "blockdev")))
    store, rng = new_store(t), disks.rng_of(11)
    write_all(vm, all_disks, rng)
    image = vm.checkpoint_id(*store), [d.snapshot() for d in all_disks]
    for point in ("rollback-disk", "rollback-disks"):
        write_all(vm, all_disks, rng)
        stasis("rollback", vm.name, image[0], "--force", *store, expect=-9,
               env={"STASIS_FAULT": f"{point}:kill"})
        t.equal(vm.info()["state"], "half-rolled-back", point)
        back_to(t, vm, all_disks, image, f"after kill at {point}", *store)


if __name__ == "__main__":
    main()
