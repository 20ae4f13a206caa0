#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what changed in a VM's devices between two images is told, device by device and field by
field, and nothing else is."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from stasistest import FAST, case, main, new_store, run_vm, stasis, stasis_json  # noqa: E402
from tap import shared  # noqa: E402

SCRATCH_PORT = 0x3F8 + 7  # a serial port's scratch register, which nothing looks at
_images = None


def two_images():
    """(VM, store, before, after, value): of a paused VM, in which one register of one device was written
    in between; its value before that."""
    global _images  # pylint: disable=global-statement
    if _images is None:
        t = shared()
        # The clock of day follows the host's unless told otherwise.
        vm = run_vm(t, Bare(mem="48M"), "-rtc", "clock=vm", "-serial", "null", accel=FAST)
        store = new_store(t)
        stasis("pause", vm.name)
        before = vm.checkpoint_id(*store)
        with vm.qmp() as qmp:
            said = qmp.cmd("human-monitor-command", command_line=f"i /b {SCRATCH_PORT}")
            qmp.cmd("human-monitor-command", command_line=f"o /b {SCRATCH_PORT} 0x77")
        after = vm.checkpoint_id(*store)
        register = said.split()[-1]
        t.check(register.startswith("0x") and register != "0x77", "the register", said)
        _images = (vm, store, before, after, register)
    return _images


@case
def listed(t):
    """device-list names the devices whose state is in an image, as checkpoint-info does"""
    _, store, before, *_ = two_images()
    devices = stasis_json("device-list", before, *store)
    t.check({"cpu", "serial", "timer"} <= {d["name"] for d in devices}, "device names", devices)
    t.equal(devices, stasis_json("checkpoint-info", before, "--devices", *store)["devices"], "devices")
    t.check("serial" in stasis("device-list", before, *store).out, "its table")


@case
def one_device(t):
    """device-diff finds the one device that changed, and how much of it"""
    _, store, before, after, _ = two_images()
    changes = stasis_json("device-diff", before, after, *store)
    t.equal([(c["name"], c["changed_bytes"], c["fields"]) for c in changes
             if c["state"] != "same"], [("serial", 1, None)], "what changed")
    t.check(len(changes) > 8, "the others are there, too", changes)
    shown = stasis("device-diff", before, after, *store).out.splitlines()
    t.equal(len(shown), 2, f"lines for people: {shown}")
    t.check("serial" in shown[1] and "1 of " in shown[1], shown[1])
    same = stasis("device-diff", before, before, *store)
    t.equal(same.out, "", "no table of nothing")
    t.check("are the same in both" in same.err, same.err)


@case
def one_field(t):
    """device-diff --fields names the register and its values, by QEMU's own description, and the QEMU
    that was asked is gone"""
    vm, store, before, after, register = two_images()
    known = stasis_json("list")
    changes = stasis_json("device-diff", before, after, "--fields", *store, timeout=120)
    [serial] = [c for c in changes if c["state"] != "same"]
    [field] = serial["fields"]
    t.equal((field["path"].rpartition(".")[2], field["before"], field["after"]),
            ("scr", register, "0x77"), f"the field: {field}")
    described = [c for c in changes if c["fields"] is not None]
    t.equal(len(described), len(changes), "every device has fields")
    t.equal(stasis_json("list"), known, "VMs that are known")
    back = stasis_json("device-diff", after, before, "--fields", *store, timeout=120)
    [[again]] = [c["fields"] for c in back if c["fields"]]
    t.equal((again["path"], again["before"], again["after"]), (field["path"], "0x77", register),
            "the other way round")
    text = stasis("device-diff", before, after, "--fields", *store, timeout=120).out
    t.check("-> 0x77" in text, text)
    stasis("resume", vm.name)
    vm.check_runs()


@case
def errors(t):
    """images that are not there are named"""
    _, store, before, *_ = two_images()
    for words in (("device-list", "ffff"), ("device-diff", before, "ffff"),
                  ("device-diff", "ffff", before)):
        t.check("ffff" in stasis(*words, *store, expect=12).err, words)


if __name__ == "__main__":
    main()
