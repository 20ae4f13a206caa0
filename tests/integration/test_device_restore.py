#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: one device of a VM is saved and put back by itself; its memory and its other devices are
those that it had, and whatever goes wrong it runs on."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from scratch import read_register, write_register  # noqa: E402
from stasistest import (FAST, case, image_ids, main, new_store, run_vm, stasis,  # noqa: E402
                        stasis_json)
from tap import shared  # noqa: E402

_vm = []


def the_vm():
    """One VM for all cases, which each leaves running, and its store."""
    if not _vm:
        t = shared()
        disk = t.path("disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"], check=True)
        # The clock of day follows the host's unless told otherwise.
        vm = run_vm(t, Bare(mem="32M", set="4M"), "-rtc", "clock=vm", "-serial", "null", "-serial",
                    "null", "-device", "e1000,addr=8", "-drive", f"file={disk},format=qcow2,if=virtio",
                    accel=FAST)
        _vm.extend((vm, new_store(t)))
    return _vm


@case
def listed_live(t):
    """device-list of a running VM names what an image of it has, and the VM runs on"""
    vm, store = the_vm()
    devices = stasis_json("device-list", vm.name, *store)
    vm.check_runs()
    image = stasis_json("device-list", vm.checkpoint_id(*store), *store)
    t.equal([(d["name"], d["instance"], d["version"]) for d in devices],
            [(d["name"], d["instance"], d["version"]) for d in image], "devices")
    t.check("serial" in stasis("device-list", vm.name, *store).out, "its table")


@case
def an_image_of_devices(t):
    """device-checkpoint makes an image that is listed, shown, compared, verified and deleted, and
    nothing else is done with"""
    vm, store = the_vm()
    before = vm.checkpoint_id(*store)
    made = stasis_json("device-checkpoint", vm.name, "--note", "only these", *store)
    vm.check_runs()
    vm.check_nothing_left(tracked_allowed=True)
    t.equal((made["ram_bytes"], made["mode"], made["parent"]), (0, "devices", None), "the image")
    listing = stasis("checkpoint-list", *store).out
    [line] = [line for line in listing.splitlines() if "only these" in line]
    t.check(" devices " in line, listing)
    t.check("devices only" in stasis("checkpoint-info", made["id"], *store).out, "shown")
    stasis("checkpoint-verify", made["id"], *store)
    stasis("store-check", "--read-data", *store)
    named = [[(d["name"], d["instance"]) for d in stasis_json("device-list", of, *store)]
             for of in (made["id"], before)]
    t.equal(named[0], named[1], "the devices of the image, and of one of the whole VM")
    stasis("device-diff", before, made["id"], *store)
    for words in (("restore", made["id"]), ("clone", made["id"], "--name", f"{vm.name}-c"),
                  ("rollback", vm.name, made["id"], "--force"),
                  ("export", made["id"], "--format", "elf-core", t.path("core"))):
        refused = stasis(*words, *store, expect=1)
        t.check("devices only" in refused.err, refused.err)
    following = stasis_json("checkpoint-create", vm.name, *store)
    t.equal(following["parent"], before, "the next one's parent")
    stasis("checkpoint-delete", made["id"], *store)
    t.check(made["id"] not in image_ids(store), "it is gone")
    vm.check_runs()


@case
def some_devices(t):
    """device-checkpoint takes those that are named, and says who is meant when that is not clear"""
    vm, store = the_vm()
    full = {(d["name"], d["instance"]): d for d in stasis_json("device-list", vm.name, *store)}
    made = stasis_json("device-checkpoint", vm.name, "serial#1", "e1000", *store)
    devices = stasis_json("device-list", made["id"], *store)
    t.equal(sorted(d["name"].rpartition("/")[2] for d in devices), ["e1000", "serial"], "devices")
    t.check(all(full[d["name"], d["instance"]] == d for d in devices), "as in the VM", devices)
    before = image_ids(store)
    t.check("serial#0, serial#1" in
            stasis("device-checkpoint", vm.name, "serial", *store, expect=2).err, "two of them")
    t.check("nonsuch" in
            stasis("device-checkpoint", vm.name, "nonsuch", *store, expect=12).err, "none")
    t.equal(image_ids(store), before, "images")
    vm.check_runs()


@case
def one_device(t):
    """device-restore puts one device back: memory and all others are as before, to the byte, and the
    VM stays paused where it was"""
    vm, store = the_vm()
    stasis("pause", vm.name)
    write_register(vm, 0x11)
    made = stasis_json("device-checkpoint", vm.name, "serial#0", *store)["id"]
    write_register(vm, 0x22)
    before = vm.checkpoint_id(*store)
    done = stasis_json("device-restore", vm.name, "serial#0", made, *store)
    t.equal(vm.status(), "paused", "status")
    t.equal((done["name"], done["changed_bytes"], done["stop_us"]), ("serial", 1, 0), "told")
    t.equal(read_register(vm), 0x11, "the register")
    after = vm.checkpoint_id(*store)
    changes = stasis_json("device-diff", before, after, *store)
    t.equal([(c["name"], c["instance"], c["changed_bytes"]) for c in changes
             if c["state"] != "same"], [("serial", 0, 1)], "what changed")
    cores = []
    for image in (before, after):
        cores.append(t.path(f"{image}.raw"))
        stasis("export", image, "--format", "elf-core", cores[-1], *store)
    memory = [open(core, "rb").read() for core in cores]
    t.equal(len(memory[0]), len(memory[1]), "memory")
    first = next((i for i in range(0, len(memory[0]), 4096)
                  if memory[0][i:i + 4096] != memory[1][i:i + 4096]), None)
    t.equal(first, None, "where memory differs")
    again = stasis_json("device-restore", vm.name, "serial#0", made, *store)
    t.equal((again["changed_bytes"], again["safety_id"]), (0, None), "once more")
    stasis("resume", vm.name)
    vm.check_runs()


@case
def of_a_running_vm(t):
    """device-restore in a running VM: its memory stays what the guest wrote, it goes on, a warning says
    what its driver may see, and the checkpoint before it is whole"""
    vm, store = the_vm()
    write_register(vm, 0x33)
    made = stasis_json("device-checkpoint", vm.name, *store)["id"]
    write_register(vm, 0x44)
    reached = vm.progress()
    known = image_ids(store)
    result = stasis("device-restore", vm.name, "serial#0", made, *store)
    t.check("warning: serial: " in result.err, result.err)
    t.equal(read_register(vm), 0x33, "the register")
    t.check(vm.progress() >= reached, "the guest went back")
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    safety = result.out.strip()
    t.equal(set(image_ids(store)) - set(known), {safety}, "images that were made")
    stasis("checkpoint-verify", safety, *store)
    vm.check_nothing_left(tracked_allowed=True)
    stasis("rollback", vm.name, safety, "--force", *store)
    stasis("resume", vm.name)
    t.equal(read_register(vm), 0x44, "the register before")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def refused(t):
    """device-restore of what the guest can't stand says why and needs --force; nothing is done"""
    vm, store = the_vm()
    made = stasis_json("device-checkpoint", vm.name, *store)["id"]
    vm.check_runs()
    before = image_ids(store)
    t.check("time jumps back" in
            stasis("device-restore", vm.name, "timer", made, *store, expect=6).err, "why")
    for words, code in ((("nonsuch", made), 12), (("serial", made), 2), (("serial#0", "ffff"), 12)):
        stasis("device-restore", vm.name, *words, *store, expect=code)
    other = run_vm(t, Bare(mem="32M"), "-machine", "q35", accel=FAST)
    result = stasis("device-restore", other.name, "serial#0", made, *store, expect=1)
    t.check("is of a machine" in result.err, result.err)
    t.equal(image_ids(store), before, "images")
    vm.check_runs()


@case
def a_load_that_fails(t):
    """a state that QEMU refuses in the middle of loading (another card's): the VM is as it was, runs, and
    the error says so"""
    vm, store = the_vm()
    other = run_vm(t, Bare(mem="32M"), "-serial", "null", "-serial", "null", "-device",
                   "e1000-82544gc,addr=8", accel=FAST)
    made = stasis_json("device-checkpoint", other.name, "e1000", *store)["id"]
    write_register(vm, 0x55)
    reached = vm.progress()
    result = stasis("device-restore", vm.name, "e1000", made, *store, expect=1)
    t.check("the VM is as it was before" in result.err and "snapshot-load" in result.err, result.err)
    vm.check_runs()
    t.check(vm.progress() >= reached, "the guest went back")
    t.equal(vm.info()["rolling_back_to"], None, "marked")
    t.equal(read_register(vm), 0x55, "another device's register")
    vm.guest.check_unharmed(vm)
    vm.check_nothing_left(tracked_allowed=True)


if __name__ == "__main__":
    main()
