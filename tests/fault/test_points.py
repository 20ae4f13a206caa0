#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of stasis, or a failure, at any step of a checkpoint harms neither VM nor store."""
import signal
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (BUILD, accelerators, add_case, attach, case, image_ids, main,  # noqa: E402
                        new_store, plain_qemu, shared, stasis)

FAST = "kvm" if "kvm" in accelerators() else "tcg"
NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
# The points that a mode's first checkpoint of a VM does not come to. Mode stop shares all but the
# stop itself with live.
AROUND_THE_STOP = ("before-stop", "stopped", "harvested", "devices-saved", "resumed", "committed")
POINTS = {"live": [n for n in NAMES if n not in ("cow-half", "unregistered")],
          "cow": [n for n in NAMES if n not in ("copy-half", "round-end")],
          "stop": [n for n in NAMES if n in AROUND_THE_STOP]}
# Nothing can be reported there.
CANT_FAIL = ("uffd-injecting", "unregistered")
# A process that is killed here leaves QEMU a userfaultfd that watches nothing, until the next
# checkpoint or detach.
STRAY = ("uffd-injecting", "uffd-injected", "uffd-fetched")
# Met by the checkpoint of a VM that is not tracked yet, and by none after.
PREPARING = ("uffd-injecting", "uffd-injected", "uffd-fetched", "registered", "protect-half",
             "armed")
_met = {"kill": set(), "error": set()}
_vm = []


def the_vm():
    """One QEMU for all cases, and its descriptors; a new one when a case left it harmed."""
    if not _vm:
        vm = plain_qemu(shared(), Bare(mem="32M", set="4M"), accel=FAST)
        _vm.extend((vm, procmem.open_fds(vm.pid)))
    return _vm


def checkpoint_with_fault(t, vm, mode, point, how, store, expect_met):
    """One checkpoint that ends at the point."""
    before = image_ids(store) if os.path.isdir(store[1]) else []
    result = stasis("checkpoint-create", vm.name, "--mode", mode, *store, expect=None,
                    env={"STASIS_FAULT": f"{point}:{how}"}, timeout=60)
    what = f"{how} at {point}, mode {mode}"
    if expect_met:
        t.check(result.rc != 0, f"{what}: the checkpoint did not come there: {result!r}")
    if result.rc != 0:
        _met[how].add(point)
        t.equal(result.out, "", f"{what}: stdout")
    if how == "kill":
        t.check(result.rc in (0, -signal.SIGKILL), f"{what}: {result!r}")
    else:
        t.check(result.rc in (0, 1), f"{what}: {result!r}")
        if result.rc == 1:
            t.check(result.err.count("\n") == 1 and point in result.err,
                    f"{what}: no clear error: {result!r}")
    vm.check_runs(what=what)
    vm.check_nothing_left(tracked_allowed=True, stray_allowed=how == "kill" and point in STRAY)
    # From "renamed" on the image is whole, and may be listed; before, it must not be.
    new = set(image_ids(store)) - set(before)
    if result.rc != 0 and NAMES.index(point) < NAMES.index("renamed"):
        t.check(not new, f"{what}: a half image is listed: {new}")
    for image_id in new:
        stasis("checkpoint-verify", image_id, *store)


def fails_at(t, point, mode, how):
    vm, fds = the_vm()
    harmed, _vm[:] = list(_vm), []
    t.defer(lambda: None if _vm else (vm.forget(), vm.kill()))
    store = new_store(t)
    attach(vm)
    # The first checkpoint of a VM prepares it, later ones find it tracked: both can fail here.
    for attempt in ("first", "later"):
        if attempt == "later" and (mode != "live" or point in PREPARING):
            break
        checkpoint_with_fault(t, vm, mode, point, how, store, expect_met=attempt == "first")
        # No repair: the next one just works.
        image = vm.checkpoint("--mode", mode, *store)
        stasis("checkpoint-verify", image["id"], *store)
        vm.check_nothing_left(tracked_allowed=True)
        vm.check_runs(what=f"checkpoint after {how} at {point} ({attempt})")
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "left aside in the store")
    vm.guest.check_unharmed(vm)
    stasis("detach", vm.name)
    vm.check_as_before(fds)
    vm.check_runs(what="after detach")
    _vm.extend(harmed)


for _how in ("kill", "error"):
    for _mode, _points in POINTS.items():
        for _point in _points:
            if _how == "error" and _point in CANT_FAIL:
                continue
            add_case(fails_at, _point, _mode, _how,
                     promise=f"{_how} at {_point}, mode {_mode}: VM and store unharmed, the next "
                             "checkpoint works")


@case
def points_are_met(t):
    """the fault points are real: every one is passed, and at least 20 by being killed there"""
    for how, met in _met.items():
        never = set(NAMES) - met - (set(CANT_FAIL) if how == "error" else set())
        t.equal(sorted(never), [], f"points never met ({how})")
    t.check(len(_met["kill"]) >= 20, f"only {len(_met['kill'])} points")


main()
