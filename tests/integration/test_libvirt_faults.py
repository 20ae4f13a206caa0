#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what goes wrong while the disks of a libvirt domain are copied (libvirtd is restarted, the
domain destroyed, a file system full) is said clearly and harms nobody: every write of the guest's
succeeds, nothing of ours stays in QEMU, and the next checkpoint restores right."""
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
import held  # noqa: E402
import libvirthost  # noqa: E402
import procmem  # noqa: E402
from libvirthost import URI, destroy, host  # noqa: E402
from logdisks import logged, records  # noqa: E402
from logdomains import check_restored, logs_on, restored, sources, start  # noqa: E402
from stasistest import (add_case, case, full_case, image_ids, main, mount_tmpfs, new_store, shared,  # noqa: E402
                        stasis)

os.environ["STASIS_CONNECT"] = URI

# What the guest's kernel says of a disk that failed it, and what its script does.
HARM = ("I/O error", "EXT4-fs error", "Remounting filesystem", "JOB failed", "can't create")


class Watched:
    """A domain whose guest logs to two disks, and what its QEMU held before anything went wrong."""

    def __init__(self, vm):
        self.vm = vm
        self.fds = self._fds()
        self.blocks = self._blocks()

    def _fds(self):
        # What it was lent while it was paused, and has given back since, QEMU drops when libvirtd
        # goes away: there may be less.
        return Counter([f"set {s['fdset-id']}" for s in self._ask("query-fdsets")] +
                       procmem.open_fds(self.vm.pid))

    def _blocks(self):
        """Disks, as libvirt has them."""
        return self.vm.virsh("domblklist").stdout, \
            re.findall(r"<disk .*?</disk>", self.vm.xml(), re.S)

    def _ask(self, command, **arguments):
        return self.vm.qmp().cmd(command, **arguments)

    def check(self, t, image, what):
        """The guest works and has seen no error, libvirt has the domain as it was, and of ours there
        are just the bitmaps that count since `image` (None: none), one for each disk."""
        vm = self.vm
        t.wait(lambda: vm.state().startswith("running"), 30, f"{what}: it runs, {vm.state()}")
        logs_on(vm)
        said = [line for line in vm.guest.console(vm).splitlines() if any(h in line for h in HARM)]
        t.equal(said, [], f"{what}: the guest was told of")
        failed = [disk["stats"][f"failed_{kind}_operations"] for disk in self._ask("query-blockstats")
                  for kind in ("rd", "wr", "flush", "unmap")]
        t.equal(set(failed), {0}, f"{what}: requests of the guest's that failed")
        nodes = self._ask("query-named-block-nodes", flat=True)
        t.equal([n["node-name"] for n in nodes if n["node-name"].startswith("stasis-")], [],
                f"{what}: nodes left")
        t.equal([b["name"] for n in nodes for b in n.get("dirty-bitmaps", [])],
                [f"stasis-{image}"] * 2 if image else [], f"{what}: bitmaps")
        for command in ("query-block-exports", "query-block-jobs", "query-jobs"):
            t.equal(self._ask(command), [], f"{what}: {command}")
        t.wait(lambda: not self._fds() - self.fds, 10,
               f"{what}: more descriptors than before, {self._fds() - self.fds}")
        t.equal(self._blocks(), self.blocks, f"{what}: its disks as libvirt has them")
        for target in ("vda", "vdb"):
            vm.virsh("domblkinfo", target)


_watched = None


def domain():
    """The program's one domain, of whose disks one has an iothread; another when it has ended."""
    global _watched  # pylint: disable=global-statement
    if _watched is None or not procmem.is_alive(_watched.vm.pid):
        _watched = None
        _watched = Watched(start(shared(), iothread=1)[0])
    return _watched


def ready(t, store):
    """The domain with an image, and what QEMU holds since that was taken."""
    vm = domain().vm
    image = vm.checkpoint_id(*store)
    logs_on(vm)
    return Watched(vm), image


def restore_instead(vm, image, store, what):
    """Have the image restored in the domain's place; that is the program's domain from now on."""
    global _watched  # pylint: disable=global-statement
    destroy(vm.name)
    stasis("restore", image, "--paused", *store)
    back = restored(shared(), vm.name, vm)
    check_restored(shared(), back, what)
    _watched = Watched(back)


def goes_on(t, watched, parent, store, what):
    """The next checkpoint is an increment to `parent`, and restores right."""
    image = watched.vm.checkpoint(*store)
    t.equal(image["parent"], parent, f"{what}: the next image's parent")
    watched.check(t, image["id"], f"{what}, the next checkpoint")
    stasis("store-check", "--read-data", *store)
    restore_instead(watched.vm, image["id"], store, what)


def begin(t, point, vm, store):
    """A checkpoint, held at a moment at which the guest writes through the filters."""
    process = held.held(t, point, "checkpoint-create", vm.name, *store)
    nodes = [n["node-name"] for n in vm.qmp().cmd("query-named-block-nodes", flat=True)]
    t.equal(sorted(n for n in nodes if n.startswith("stasis-filter-")),
            ["stasis-filter-0", "stasis-filter-1"], f"filters at {point}")
    return process


def small_store(t, size=192 << 20):
    path = t.path("small")
    mount_tmpfs(t, path, size)
    return path, ["--store", os.path.join(path, "store")]


def fill(path):
    """Leave no room where `path` is; returns the file that takes it."""
    filler = os.path.join(path, "filler")
    with open(filler, "wb", buffering=0) as f:
        for size in (1 << 20, 4096):
            try:
                while True:
                    f.write(bytes(size))
            except OSError:
                pass
    return filler


# ---- libvirtd ----

def restarted(t, point):
    store = new_store(t)
    watched, first = ready(t, store)
    process = begin(t, point, watched.vm, store)
    host().restart_libvirtd(signal.SIGTERM)
    logs_on(watched.vm)
    code, said = held.ended(process)
    t.equal(code, 0, said)
    ids = image_ids(store)
    t.equal(len(ids), 2, "images")
    second = next(i for i in ids if i != first)
    watched.check(t, second, f"libvirtd restarted at {point}")
    goes_on(t, watched, second, store, f"libvirtd restarted at {point}")


for _point, _what in (("disk-open", "before any of the disks is read"),
                      ("disk-half", "in the middle of reading the disks")):
    add_case(restarted, _point,
             promise=f"libvirtd restarted {_what}, one of which has an iothread: the checkpoint is "
                     "taken, libvirt has the disks as they were, and nothing is left behind",
             full=_point == "disk-open")


def hangs_and_dies(t, point):
    store = new_store(t)
    watched, first = ready(t, store)
    process = held.held(t, point, "checkpoint-create", watched.vm.name, *store)
    host().daemons["libvirtd"].send_signal(signal.SIGSTOP)
    held.go_on(process)
    # All that it still does without libvirtd: reading disks, or the commit.
    held.wait_idle(t, process)
    host().restart_libvirtd(signal.SIGKILL)
    code, said = held.ended(process)
    t.equal(code, 0, said)
    second = next(i for i in image_ids(store) if i != first)
    watched.check(t, second, f"libvirtd killed after {point}")
    goes_on(t, watched, second, store, f"libvirtd killed after {point}")


for _point, _what in (("disk-half", "the filters are taken away"),
                      ("disk-closed", "the old bitmaps are removed")):
    add_case(hangs_and_dies, _point,
             promise=f"libvirtd hangs while {_what}, and is killed with a command of ours under way: "
                     "the checkpoint is taken, and nothing is left behind",
             full=_point == "disk-half")


# ---- no room ----

@full_case
def store_full(t):
    """the store's file system is full while disks are copied: a clear error, and nothing is lost"""
    path, store = small_store(t)
    watched, first = ready(t, store)
    process = begin(t, "disk-half", watched.vm, store)
    filler = fill(path)
    code, said = held.ended(process)
    t.equal(code, 1, said)
    # What the guest overwrites is saved beside the image, and may be the first to find no room.
    t.check(re.search("No space left on device|no room left for what the guest overwrites", said) and
            said.count("\n") == 1, f"a clear error: {said}")
    watched.check(t, first, "store full")
    t.equal(image_ids(store), [first], "images")
    os.unlink(filler)
    t.equal(os.listdir(os.path.join(path, "store", "tmp")), [], "left in the store")
    goes_on(t, watched, first, store, "store full")


@case
def scratch_full(t):
    """no room to save what the guest overwrites while disks are copied: its writes pass, the checkpoint
    fails with a clear error, and nothing is lost"""
    path, store = small_store(t)
    watched, first = ready(t, store)
    process = begin(t, "disk-open", watched.vm, store)
    filler = fill(path)
    # What it writes again and again may be saved already. Its journals go on to clusters that are not.
    logs_on(watched.vm, n=30)
    os.unlink(filler)
    code, said = held.ended(process)
    t.equal(code, 1, said)
    t.check("no room left for what the guest overwrites" in said and said.count("\n") == 1,
            f"a clear error: {said}")
    watched.check(t, first, "scratch file full")
    t.equal(image_ids(store), [first], "images")
    goes_on(t, watched, first, store, "scratch file full")


# ---- the domain ----

@case
def destroyed(t):
    """the domain destroyed while disks are copied: a clear error, no image, and all that the guest was
    told is on its disks; brought back, it can be checkpointed as ever"""
    store = new_store(t)
    watched, first = ready(t, store)
    vm = watched.vm
    files = sources(vm)
    process = begin(t, "disk-half", vm, store)
    logs_on(vm)
    vm.virsh("destroy")
    last = logged(vm)[-1]
    code, said = held.ended(process)
    t.equal(code, 1, said)
    t.check(f"VM {vm.name} has ended meanwhile" in said and said.count("\n") == 1 and
            "no room" not in said, f"a clear error: {said}")
    t.equal(image_ids(store), [first], "images")
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "left in the store")
    t.equal(libvirthost.qemu_pids(), [], "QEMU processes")
    for path in files:
        info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", path], check=True,
                                         capture_output=True, text=True).stdout)
        raw = t.path("look.raw")
        with open(raw, "wb") as f:
            f.write(disks.content(path, info["format"]))
        n = records(t, raw, path)
        t.check(last <= n, f"{path}: {n} records where the guest said {last}")
    restore_instead(vm, first, store, "destroyed")
    goes_on(t, _watched, first, store, "destroyed")


if __name__ == "__main__":
    libvirthost.enter()
    main()
