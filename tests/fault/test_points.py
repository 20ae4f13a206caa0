#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of stasis, or a failure, at any step of a checkpoint harms neither VM nor store."""
import signal
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from stasistest import (BUILD, accelerators, add_case, case, image_ids, main, new_store,  # noqa: E402
                        run_vm, stasis)

FAST = "kvm" if "kvm" in accelerators() else "tcg"
MODES = ("live", "cow")
NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
# Points that were passed, by way of failing: {(mode, how): names}
_met = {}


def checkpoint_with_fault(t, vm, mode, point, how, store):
    """One checkpoint that ends at the point, if it comes there."""
    before = image_ids(store) if os.path.isdir(store[1]) else []
    result = stasis("checkpoint-create", vm.name, "--mode", mode, *store, expect=None,
                    env={"STASIS_FAULT": f"{point}:{how}"}, timeout=60)
    what = f"{how} at {point}, mode {mode}"
    if result.rc != 0:
        _met.setdefault((mode, how), set()).add(point)
    if how == "kill":
        t.check(result.rc in (0, -signal.SIGKILL), f"{what}: {result!r}")
    else:
        t.check(result.rc in (0, 1), f"{what}: {result!r}")
        if result.rc == 1:
            t.check(result.out == "" and result.err.count("\n") == 1 and point in result.err,
                    f"{what}: no clear error: {result!r}")
    vm.check_runs(2.0, what)
    vm.check_nothing_left(tracked_allowed=True)
    after = image_ids(store)
    # From "renamed" on the image is whole, and may be listed; before, it must not be.
    new = set(after) - set(before)
    if result.rc != 0 and NAMES.index(point) < NAMES.index("renamed"):
        t.check(not new, f"{what}: a half image is listed: {new}")
    for image_id in new:
        stasis("checkpoint-verify", image_id, *store)


def fails_at(t, point, mode, how):
    guest = Bare(mem="48M", set="8M")
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    # The first checkpoint of a VM prepares it, later ones find it tracked: both can fail here.
    for attempt in ("first", "later"):
        checkpoint_with_fault(t, vm, mode, point, how, store)
        # No repair: the next one just works.
        image = vm.checkpoint("--mode", mode, *store)
        stasis("checkpoint-verify", image["id"], *store)
        vm.check_runs(what=f"checkpoint after {how} at {point} ({attempt})")
    guest.check_unharmed(vm)
    stasis("detach", vm.name)
    vm.check_nothing_left()
    vm.check_runs(what="after detach")
    vm.kill()


for _how in ("kill", "error"):
    for _mode in MODES:
        for _point in NAMES:
            add_case(fails_at, _point, _mode, _how,
                     promise=f"{_how} at {_point}, mode {_mode}: VM and store unharmed, the next "
                             "checkpoint works")


@case
def points_are_met(t):
    """the fault points are real: at least 20 of them are passed by these checkpoints"""
    for how in ("kill", "error"):
        met = set().union(*(_met.get((mode, how), set()) for mode in MODES))
        t.note(f"{how}: met {len(met)} of {len(NAMES)}; never: {sorted(set(NAMES) - met)}")
        t.check(len(met) >= 20, f"{how}: only {len(met)} points were passed: {sorted(met)}")


main()
