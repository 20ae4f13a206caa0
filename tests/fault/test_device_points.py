#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of a device-restore, or a failure, leaves the VM as it was or with the device back;
or, killed in the middle, half rolled back to the checkpoint that was taken before."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from scratch import read_register, write_register  # noqa: E402
from stasistest import (FAST, add_case, main, new_store, run_vm, shared, stasis,  # noqa: E402
                        stasis_json)

# What the device is afterwards: before, back, or (killed) half way.
POINTS = {"kill": {"device-stopped": "before", "device-kept": "before", "rollback-loaded": "half",
                   "rollback-resumed": "back"},
          "error": {"device-kept": "before", "rollback-disarmed": "before",
                    "rollback-loading": "before", "rollback-loaded": "before"}}
_vm = []


def the_vm():
    if not _vm:
        t = shared()
        vm = run_vm(t, Bare(mem="32M", set="4M"), "-serial", "null", accel=FAST)
        store = new_store(t)
        write_register(vm, 0x11)
        _vm.extend((vm, store, stasis_json("device-checkpoint", vm.name, "serial", *store)["id"]))
    return _vm


def fails_at(t, point, how):
    vm, store, image = the_vm()
    what = f"{how} at {point}"
    write_register(vm, 0x22)
    reached = vm.progress()
    result = stasis("device-restore", vm.name, "serial", image, *store, expect=None,
                    env={"STASIS_FAULT": f"{point}:{how}"})
    t.equal(result.rc, -signal.SIGKILL if how == "kill" else 1, f"{what}: exit of {result!r}")
    if how == "error":
        t.check(result.err.count("\n") == 1 and point in result.err, f"{what}: {result!r}")
    if POINTS[how][point] == "half":
        t.equal(vm.info()["state"], "half-rolled-back", f"{what}: state")
        # The checkpoint is of a VM that stood still, so it is paused then.
        stasis("rollback", vm.name, *store)
        stasis("resume", vm.name)
    vm.check_runs(what=what)
    t.check(vm.progress() >= reached, f"{what}: the guest went back")
    t.equal(vm.info()["rolling_back_to"], None, f"{what}: marked")
    t.equal(read_register(vm), 0x11 if POINTS[how][point] == "back" else 0x22,
            f"{what}: the register")
    vm.guest.check_unharmed(vm)
    stasis("device-restore", vm.name, "serial", image, *store)
    t.equal(read_register(vm), 0x11, f"{what}: the register after that")
    vm.check_runs(what=f"{what}, at the end")
    vm.check_nothing_left(tracked_allowed=True)
    with vm.qmp() as qmp:
        t.equal((qmp.cmd("query-jobs"), qmp.cmd("query-fdsets")), ([], []), f"{what}: left in QEMU")


for _how, _points in POINTS.items():
    for _point in _points:
        add_case(fails_at, _point, _how, promise=f"{_how} at {_point}: as it was, back, or marked")

main()
