#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of a rollback, or a failure, at any step leaves the VM as it was or paused and
marked, never running in between; and the rollback again completes it."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from stasistest import (BUILD, FAST, add_case, case, environment, main, new_store,  # noqa: E402
                        run_vm, shared, stasis)

NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
POINTS = [n for n in NAMES if n.startswith("rollback-")]
# The VM goes on as it was.
UNCHANGED = {"kill": ("rollback-ready", "rollback-stopped", "rollback-read", "rollback-marked"),
             "error": ("rollback-ready", "rollback-stopped", "rollback-read", "rollback-marked",
                       "rollback-disarmed")}
# The VM is what it should be, and runs.
DONE = ("rollback-resumed",)
_vm = []


def the_vm():
    """One VM for all cases, its store and its image: each case leaves it running and whole."""
    if not _vm:
        t = shared()
        disk = t.path("disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"], check=True)
        vm = run_vm(t, Bare(mem="32M", set="4M", rate=200), "-rtc", "clock=vm", "-drive",
                    f"file={disk},format=qcow2,if=virtio", accel=FAST)
        store = new_store(t)
        _vm.extend((vm, store, vm.checkpoint_id(*store)))
    return _vm


def check_half(t, vm, store, image_id, what):
    """Paused, known as half rolled back, and not to be used for anything else."""
    info = vm.info()
    t.equal((info["state"], info["rolling_back_to"]), ("half-rolled-back", image_id),
            f"{what}: info")
    t.check("half rolled back" in stasis("info", vm.name).out, f"{what}: info for people")
    t.equal(vm.status(), "paused", f"{what}: query-status")
    for command in (("resume", vm.name), ("checkpoint-create", vm.name, *store),
                    ("detach", vm.name)):
        result = stasis(*command, expect=1)
        t.check(f"stasis rollback {vm.name}" in result.err, f"{what}: {command[0]}: {result!r}")
    t.equal(vm.status(), "paused", f"{what}: query-status after that")


def check_exact(t, vm, store, image_id, **env):
    done = subprocess.run([os.path.join(BUILD, "tests", "lib", "rollback-check"), vm.name, store[1],
                           "1", image_id], capture_output=True, text=True, check=False, timeout=600,
                          env=environment(**env))
    t.equal(done.returncode, 0, f"rollback-check: {done.stdout}{done.stderr[:1000]}")


def fails_at(t, point, how):
    vm, store, image_id = the_vm()
    before = vm.progress()
    t.wait(lambda: vm.progress() > before, 10, "the guest works")
    reached = vm.progress()
    result = stasis("rollback", vm.name, "--force", *store, expect=None,
                    env={"STASIS_FAULT": f"{point}:{how}"})
    what = f"{how} at {point}"
    t.equal(result.rc, -signal.SIGKILL if how == "kill" else 1, f"{what}: exit of {result!r}")
    if how == "error":
        t.check(result.err.count("\n") == 1 and point in result.err, f"{what}: {result!r}")
    if point in UNCHANGED[how]:
        vm.check_runs(what=what)
        t.check(vm.progress() >= reached, f"{what}: the VM is not as it was")
        t.equal(vm.info()["rolling_back_to"], None, f"{what}: marked")
    elif point in DONE:
        vm.check_runs(what=what)
        t.equal(vm.info()["rolling_back_to"], None, f"{what}: marked")
    else:
        if how == "error":
            t.check("half rolled back" in result.err, f"{what}: {result!r}")
        check_half(t, vm, store, image_id, what)
        # No --force: there is nothing to lose in such a state.
        stasis("rollback", vm.name, *store)
        t.equal(vm.info()["rolling_back_to"], None, f"{what}: marked after completion")
    vm.check_runs(what=f"{what}, at the end")
    check_exact(t, vm, store, image_id)
    vm.guest.check_unharmed(vm)
    vm.check_nothing_left(tracked_allowed=True)
    with vm.qmp() as qmp:
        t.equal((qmp.cmd("query-jobs"), qmp.cmd("query-fdsets")), ([], []), f"{what}: left in QEMU")


for _how in ("kill", "error"):
    for _point in POINTS:
        add_case(fails_at, _point, _how,
                 promise=f"{_how} at {_point}: as it was, or paused, marked and completed later")


def same_object_tries_again(t, point):
    vm, store, image_id = the_vm()
    before = vm.progress()
    t.wait(lambda: vm.progress() > before, 10, "the guest works")
    check_exact(t, vm, store, image_id, STASIS_FAULT=f"{point}:error")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


for _point in ("rollback-read", "rollback-loaded", "rollback-harvested", "rollback-written",
               "rollback-recorded"):
    add_case(same_object_tries_again, _point,
             promise=f"error at {_point}: the same object's next rollback completes it, exactly")


@case
def completed_by_a_kill(t):
    """a VM that is half rolled back can be killed, and its name has no mark then"""
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=200), accel=FAST)
    store = new_store(t)
    vm.checkpoint_id(*store)
    stasis("rollback", vm.name, "--force", *store, expect=None,
           env={"STASIS_FAULT": "rollback-loaded"})
    t.equal(vm.info()["state"], "half-rolled-back", "state")
    stasis("kill", vm.name)
    again = run_vm(t, Bare(mem="32M", set="1M", rate=200), accel=FAST, name=vm.name)
    t.equal(again.info()["rolling_back_to"], None, "marked")
    again.check_runs()


main()
