#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an image is an instant — whatever the mode, the accelerator and the guest's speed.

The bare-metal guest numbers its visits to its pages and works at full speed all the time. An image
in which two moments are mixed holds numbers that no single moment had (images/bare/state.h). And
every second image is compared, byte for byte and with all RAM blocks, with a copy of the VM that is
made while it is stopped (tests/lib/reference-check.c).
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare, check_memory_image  # noqa: E402
from stasistest import (MODES, accelerators, add_case, checkpoint_with_reference,  # noqa: E402
                        main, new_store, number_from_env, restored_vm, run_vm, stasis, stasis_json)

N_CHECKPOINTS = number_from_env("STASIS_TEST_CHECKPOINTS", 8)
MANY = N_CHECKPOINTS > 8
# Images in a row that are increments, after a full one.
CHAIN = 10


def checkpoint(t, vm, mode, store, i, tracker):
    """The i-th checkpoint; returns its description."""
    if i % 2 or tracker:
        image_id = checkpoint_with_reference(t, vm, mode, store, *tracker)
        return stasis_json("checkpoint-info", image_id, *store)
    return vm.checkpoint("--mode", mode, *(["--full"] if i % CHAIN == 0 else []), *store)


def export_and_check(t, image_id, store):
    path = t.path("memory.raw")
    stasis("export", image_id, "--format", "raw-memory", path, *store)
    state = check_memory_image(t, path)
    os.unlink(path)
    return state


def check_goes_on(t, guest, image_id, saved, store, *options):
    """A VM restored from the image works on from where the image was."""
    vm = restored_vm(t, image_id, store, guest, *options)
    what = f"restored from {image_id} {' '.join(options)}"
    now = guest.state(vm)
    t.check(now.stores >= saved.stores,
            f"{what}: at {now.stores} visits; the image is from {saved.stores}")
    t.wait(lambda: guest.state(vm).stores > saved.stores + 3 * saved.pages, 60,
           f"{what}: works on for 3 rounds")
    guest.check_unharmed(vm, what)
    vm.check_runs(what=what)
    stasis("kill", vm.name)


def instants(t, mode, accel, pattern, count, tracker=(), **options):
    guest = Bare(**{"mem": "32M", "set": "8M", "pattern": pattern, **options})
    vm = run_vm(t, guest, accel=accel)
    store = new_store(t)
    states, stops, increments = [], [], 0
    for i in range(count):
        before = guest.progress(vm)
        image = checkpoint(t, vm, mode, store, i, tracker)
        after = guest.progress(vm)
        state = export_and_check(t, image["id"], store)
        # The instant lies within the call, give or take the batch that the guest was in.
        slack = state.batch
        t.check(before <= state.stores + slack and state.stores <= after + slack,
                f"image {i} is of visit {state.stores}; the call went from {before} to {after}")
        t.check(not states or state.stores >= states[-1][1].stores,
                f"image {i} is older than the one before it")
        chained = mode != "cow" and not tracker and i % CHAIN != 0
        t.equal(image["parent"], states[-1][0] if chained else None, f"parent of image {i}")
        increments += chained
        states.append((image["id"], state))
        stops.append(image["cost"]["pause_us"])
    stops.sort()
    t.note(f"{mode}, {accel}: {increments} increments; stopped {stops[len(stops) // 2] / 1000:.1f} "
           f"ms (median), {stops[-1] / 1000:.1f} ms (most)")
    guest.check_unharmed(vm, "the guest that was checkpointed")
    vm.check_runs()
    stasis("kill", vm.name)
    # A full one, one from within a chain, and the end of a chain; each way of filling RAM.
    inside = min(count // 2 + 3, count - 1)
    for at, options in ((0, ()), (inside, ("--eager",)), (-1, ()), (-1, ("--eager",))) if MANY else \
            ((inside, ("--eager",)), (-1, ())):
        check_goes_on(t, guest, *states[at], store, *options)


def aside(t, accel):
    """An image aside (of which a fork is made) between each two of a chain: the chain goes on in
    increments, as if it had not been; the guest is slow enough that each write counts."""
    guest = Bare(mem="48M", set="32M", pattern="random", rate=200, idle=0)
    vm = run_vm(t, guest, accel=accel)
    store, other = new_store(t), new_store(t, "other")
    last = vm.checkpoint_id(*store)
    for i in range(2):
        before = guest.progress(vm)
        t.wait(lambda before=before: guest.progress(vm) > before, 120, "the guest works on")
        image = stasis_json("checkpoint-info",
                            checkpoint_with_reference(t, vm, "live", store, "auto", "0", other[1]),
                            *store)
        t.equal(image["parent"], last, f"parent of image {i}")
        export_and_check(t, image["id"], store)
        last = image["id"]
    images = stasis_json("checkpoint-list", *other)
    t.equal([i["parent"] for i in images], [None] * 2, "images aside")
    for image in images:
        export_and_check(t, image["id"], other)
    guest.check_unharmed(vm, "the guest that was checkpointed")


for _accel in accelerators():
    add_case(aside, _accel, promise=f"images aside, {_accel}: they and the chain that they are not "
                                    "part of are equal to the stopped VM")
    for _mode in MODES:
        # The order of writes: in sequence, and (where writes meet the copier anywhere) at random.
        _pattern = "random" if _mode == "cow" else "seq"
        add_case(instants, _mode, _accel, _pattern, N_CHECKPOINTS,
                 promise=f"{N_CHECKPOINTS} checkpoints, mode {_mode}, {_accel}, guest writing "
                         f"{_pattern}: none torn, equal to the stopped VM, restored guests go on")
    # Slow enough that a write which is lost between two looks at what is dirty is not made good by
    # the next one.
    _count = max(4, N_CHECKPOINTS // 10)
    add_case(lambda t, accel=_accel, count=_count:
             instants(t, "live", accel, "random", count, mem="80M", set="64M", rate=200, idle=0),
             promise=f"{_count} checkpoints, mode live, {_accel}, guest writing random pages "
                     "slowly: none torn, equal to the stopped VM, restored guests go on")
    _count = max(4, N_CHECKPOINTS // 5)
    add_case(instants, "live", _accel, "random", _count, ("uffd-sync",),
             promise=f"{_count} checkpoints, mode live, synchronous tracker, {_accel}: none torn, "
                     "equal to the stopped VM, restored guests go on")
main()
