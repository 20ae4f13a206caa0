#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an image is an instant — whatever the mode, the accelerator and the guest's speed.

The bare-metal guest numbers its visits to its pages and works at full speed all the time. An image
in which two moments are mixed holds numbers that no single moment had (images/bare/state.h).
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare, check_memory_image  # noqa: E402
from stasistest import (MODES, accelerators, add_case, main, new_store, number_from_env,  # noqa: E402
                        restored_vm, run_vm, stasis)

N_CHECKPOINTS = number_from_env("STASIS_TEST_CHECKPOINTS", 50)
N_RESTORES = 3


def export_and_check(t, image_id, store):
    path = t.path("memory.raw")
    stasis("export", image_id, "--format", "raw-memory", path, *store)
    state = check_memory_image(t, path)
    os.unlink(path)
    return state


def check_goes_on(t, guest, image_id, saved, store):
    """A VM restored from the image works on from where the image was."""
    vm = restored_vm(t, image_id, store, guest)
    now = guest.state(vm)
    t.check(now.stores >= saved.stores,
            f"restored at {now.stores} visits, its image is from {saved.stores}")
    t.wait(lambda: guest.state(vm).stores > saved.stores + 3 * saved.pages, 60,
           "the restored guest works on for 3 rounds")
    guest.check_unharmed(vm, f"restored from {image_id}")
    vm.check_runs(what="restored guest")
    stasis("kill", vm.name)


def instants(t, mode, accel, pattern):
    guest = Bare(mem="48M", set="16M", pattern=pattern)
    vm = run_vm(t, guest, accel=accel)
    store = new_store(t)
    kept, stops, last = [], [], 0
    for i in range(N_CHECKPOINTS):
        # A new chain now and then: full images and increments alike.
        full = ["--full"] if i % 10 == 0 else []
        before = guest.progress(vm)
        image = vm.checkpoint("--mode", mode, *full, *store)
        after = guest.progress(vm)
        state = export_and_check(t, image["id"], store)
        # The instant lies within the call, give or take the batch that the guest was in.
        slack = state.batch
        t.check(before <= state.stores + slack and state.stores <= after + slack,
                f"image {i} is of visit {state.stores}; the call went from {before} to {after}")
        t.check(state.stores > last, f"image {i} is older than the one before it")
        if full or mode == "live":
            t.equal(image["parent"] is None, bool(full), f"image {i} is a full one")
        last = state.stores
        stops.append(image["cost"]["pause_us"])
        if i % max(1, N_CHECKPOINTS // N_RESTORES) == N_CHECKPOINTS // N_RESTORES - 1:
            kept.append((image["id"], state))
    stops.sort()
    t.note(f"{mode}, {accel}: stopped {stops[len(stops) // 2] / 1000:.1f} ms (median), "
           f"{stops[-1] / 1000:.1f} ms (most)")
    guest.check_unharmed(vm, "the guest that was checkpointed")
    vm.check_runs()
    stasis("kill", vm.name)
    t.check(kept, "no image was kept for a restore")
    for image_id, state in kept:
        check_goes_on(t, guest, image_id, state, store)


for _accel in accelerators():
    for _mode in MODES:
        # The order of writes: in sequence, and (where writes meet the copier anywhere) at random.
        _pattern = "random" if _mode == "cow" else "seq"
        add_case(instants, _mode, _accel, _pattern,
                 promise=f"{N_CHECKPOINTS} checkpoints, mode {_mode}, {_accel}, guest writing "
                         f"{_pattern}: none torn, restored guests go on")
main()
