#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the disks of a libvirt domain are of the image's instant, and a restored domain or a clone
has that content, whatever became of the originals."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
import held  # noqa: E402
import libvirthost  # noqa: E402
from libvirthost import URI, Events, destroy, virsh  # noqa: E402
from logdisks import records  # noqa: E402
from logdomains import check_restored, logs_on, restored, sources, start  # noqa: E402
from stasistest import (case, fresh_name, main, new_store, number_from_env,  # noqa: E402
                        stasis, stasis_json)

os.environ["STASIS_CONNECT"] = URI
N_IMAGES = number_from_env("STASIS_TEST_LOGGED", 3)


@case
def every_image(t):
    """images of a domain that logs to a qcow2 and a raw disk: each restored domain's file systems
    pass fsck and agree with its memory to the last record; originals stay as they are"""
    vm, paths = start(t)
    store = new_store(t)
    images = []
    for _ in range(N_IMAGES):
        images.append(vm.checkpoint(*store))
        logs_on(vm)
    t.check(all(i["parent"] for i in images[1:]), "increments")
    vm.guest.check_unharmed(vm)
    jobs = virsh("qemu-monitor-command", vm.name, '{"execute":"query-block-jobs"}').stdout
    t.check('"return":[]' in jobs, f"left in QEMU: {jobs}")
    destroy(vm.name)
    before = [disks.sha256(path) for path in paths]
    for number, image in enumerate(images):
        stasis("restore", image["id"], "--paused", *store)
        back = restored(t, vm.name, vm)
        t.check(not set(sources(back)) & set(paths), f"it has the originals: {sources(back)}")
        check_restored(t, back, f"image {number}")
        stasis("kill", "--remove-disks", vm.name)
    t.equal([disks.sha256(path) for path in paths], before, "the original disks")


def contents(t, paths):
    """What a guest would see of them."""
    return [disks.content(path, "qcow2" if path.endswith("qcow2") else "raw") for path in paths]


def check_originals(t, vm, paths, what):
    """Paused as taken back: file systems on the original disks are whole, and agree with memory to
    the last record."""
    on_disk = []
    for path, content in zip(paths, contents(t, paths)):
        with open(t.path("look.raw"), "wb") as f:
            f.write(content)
        on_disk.append(records(t, t.path("look.raw"), f"{what}, {path}"))
    said = len(vm.guest.console(vm))

    def new():
        """Records it says after that; a line that was half out belongs to what is gone."""
        return [int(n) for n in re.findall(r"^logged (\d+)$(?=\n)", vm.guest.console(vm)[said:],
                                           re.M)]
    stasis("resume", vm.name)
    t.wait(lambda: len(new()) >= 2, 60, f"{what}: the guest logs on")
    in_ram = new()[0] - 1
    t.check(all(in_ram <= n <= in_ram + 1 for n in on_disk),
            f"{what}: {on_disk} records on its disks, {in_ram} in memory")


def nothing_of_ours(t, vm):
    with vm.qmp() as qmp:
        nodes = [n["node-name"] for n in qmp.cmd("query-named-block-nodes", flat=True)]
        drives = [d["inserted"]["node-name"] for d in qmp.cmd("query-block") if "inserted" in d]
        exports = qmp.cmd("query-block-exports")
    t.check(not [n for n in nodes + drives if n.startswith("stasis-")], f"{nodes}, {drives}")
    t.equal(exports, [], "exports left")


@case
def taken_back(t):
    """a rollback takes a domain's disks along, to older and newer images; libvirt sees each step and has its disks as before, and the next image is an increment"""
    vm, paths = start(t)
    store = new_store(t)
    images = []
    for _ in range(2):
        images.append(vm.checkpoint_id(*store))
        logs_on(vm)
    xml, events = vm.xml(), Events(t, vm.name)
    for what, image in (("the last image", images[1]), ("an older one", images[0]),
                        ("a newer one", images[1])):
        seen = len(events.seen())
        result = stasis_json("rollback", vm.name, image, "--force", "--paused", *store)
        t.equal((result["resumed"], vm.state().split()[0]), (False, "paused"), what)
        t.check(result["rewritten_disk_pages"] > 0, f"{what}: {result}")
        nothing_of_ours(t, vm)
        check_originals(t, vm, paths, what)
        t.equal(vm.state(), "running (unpaused)", what)
        t.wait(lambda n=seen: len(events.seen()) >= n + 2, 20, "libvirt's events")
        t.equal(events.seen()[seen:], ["Suspended Paused", "Resumed Unpaused"], what)
        logs_on(vm)
    t.equal(vm.xml(), xml, "its XML")
    t.check("wr_req" in virsh("domblkstat", vm.name, "vda").stdout, "libvirt's figures of a disk")
    after = vm.checkpoint(*store)
    t.equal(after["parent"], images[1], "an increment to where it went back to")
    stasis("rollback", vm.name, after["id"], "--force", "--paused", *store)
    check_originals(t, vm, paths, "an image that was taken after a rollback")


@case
def in_place(t):
    """restore --in-place gives the original disks the image's content and the domain goes on with them; while anything has one open it is refused, and nothing is changed"""
    vm, paths = start(t)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    logs_on(vm)
    result = stasis("restore", image, "--in-place", "--name", fresh_name("twin"), *store, expect=1)
    t.check("in use" in result.err, f"used by the domain: {result!r}")
    logs_on(vm)
    destroy(vm.name)
    before = contents(t, paths)
    with open(paths[1], "rb"):
        result = stasis("restore", image, "--in-place", *store, expect=1)
    t.check("b.raw is in use" in result.err, f"read by someone: {result!r}")
    t.check(contents(t, paths) == before, "refused, and a disk was written")
    t.equal(vm.state().split(" (")[0], "shut off", "the domain")
    stasis("restore", image, "--in-place", "--paused", *store)
    back = restored(t, vm.name, vm)
    t.equal(sources(back), paths, "its disks")
    check_originals(t, back, paths, "in place")
    back.guest.check_unharmed(back)
    after = back.checkpoint(*store)
    t.equal(after["parent"], image, "the next image")


@case
def others(t):
    """a clone has the image's content, too; --disk none takes the disks of the XML; one that the XML
    has not is named"""
    vm, paths = start(t)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    logs_on(vm)
    destroy(vm.name)
    before = contents(t, paths)
    name = stasis_json("clone", image, "--paused", *store)["clones"][0]["name"]
    clone = restored(t, name, vm, console=vm.name)
    check_restored(t, clone, "a clone")
    destroy(name)
    other = fresh_name("none")
    stasis("restore", image, "--disk", "none", "--paused", "--name", other, *store)
    t.equal(sources(restored(t, other, vm)), paths, "with --disk none")
    destroy(other)
    t.check(contents(t, paths) == before, "--disk none has written to a disk")
    xml = t.path("other.xml")
    with open(xml, "w", encoding="utf-8") as f:
        f.write(virsh("dumpxml", "--inactive", vm.name).stdout.replace("b.raw", "c.raw"))
    result = stasis("restore", image, "--xml", xml, *store, expect=1)
    t.check("b.raw" in result.err and result.err.count("\n") == 1, result.err)
    left = subprocess.run(["find", os.path.dirname(paths[0]), "-name", f"{vm.name}.??????"],
                          capture_output=True, text=True, check=True).stdout
    t.equal(left, "", "left behind")


@case
def not_kept(t):
    """a domain whose disks can't be kept with it is ended before its guest runs; what a killed restore left goes with the next, and what others have beside it stays"""
    vm, paths = start(t)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    destroy(vm.name)
    beside = os.path.dirname(paths[0])

    def made():
        return sorted(glob.glob(os.path.join(beside, f"{vm.name}.??????")))
    for name in ("windows", "backup.x7Gh2a"):
        os.mkdir(os.path.join(beside, name))
        with open(os.path.join(beside, name, "disk-0.qcow2"), "w", encoding="utf-8") as f:
            f.write("somebody's")
    process = held.held(t, "domain-loaded", "restore", image, *store)
    directory, = made()
    mark = os.path.join(directory, "vm.json")
    with open(mark, encoding="utf-8") as f:
        t.equal(json.load(f)["temporary"], True, "while it is made")
    os.unlink(mark)
    os.makedirs(os.path.join(mark, "in the way"))
    code, said = held.ended(process)
    t.check(code == 1 and "vm.json" in said and "ended again" in said, f"{code}, {said}")
    t.equal(vm.state().split(" (")[0], "shut off", "the domain")
    t.equal(os.listdir(directory), ["vm.json"], "its disks")
    shutil.rmtree(directory)
    stasis("restore", image, *store, expect=-signal.SIGKILL,
           env={"STASIS_FAULT": "domain-loaded:kill"})
    t.wait(lambda: vm.state().startswith("shut off"), 60, "the domain is ended")
    left, = made()
    stasis("restore", image, "--paused", *store)
    back = restored(t, vm.name, vm)
    t.check(left not in made() and len(made()) == 1, f"{left} is left: {made()}")
    with open(os.path.join(made()[0], "vm.json"), encoding="utf-8") as f:
        mark = json.load(f)
    t.equal((mark["pid"], mark["temporary"]), (back.pid, False), "whose they are")
    check_restored(t, back, "after that")
    for name in ("windows", "backup.x7Gh2a"):
        with open(os.path.join(beside, name, "disk-0.qcow2"), encoding="utf-8") as f:
            t.equal(f.read(), "somebody's", name)


if __name__ == "__main__":
    libvirthost.enter()
    main()
