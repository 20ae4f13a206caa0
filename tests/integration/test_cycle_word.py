#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --cycle-word a checkpoint falls right after the guest has changed that word of its memory,
or there is none and the VM runs on."""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare, State, check_memory_image  # noqa: E402
from stasistest import (accelerators, case, image_ids, main, new_store, run_vm, stasis,  # noqa: E402
                        stasis_json)

FAST = "kvm" if "kvm" in accelerators() else "tcg"
WORD = hex(State.GPA + State.CYCLES)
PERIOD_S = 2


@case
def at_the_end(t):
    """the image has one end of a cycle more than there were when it was asked for"""
    vm = run_vm(t, Bare(mem="32M", set="1M", period=PERIOD_S * 1000000, work=64), accel=FAST)
    store = new_store(t)
    for _ in range(2):
        before = vm.guest.cycles(vm)
        image = stasis_json("checkpoint-create", vm.name, "--cycle-word", WORD, "--cycle-wait", 60000,
                            *store)
        stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
        with open(t.path("raw"), "rb") as f:
            f.seek(State.GPA + State.CYCLES)
            found, = struct.unpack("<Q", f.read(8))
        t.check(found > before, f"{found} ends of cycles in the image, {before} before")
        check_memory_image(t, t.path("raw"))
        os.unlink(t.path("raw"))
    vm.check_runs(what="at the end")


@case
def no_end(t):
    """a guest that does not change it is not stopped, nor is one whose address is no memory"""
    vm = run_vm(t, Bare(mem="32M", set="1M"), accel=FAST)
    store = new_store(t)
    result = stasis("checkpoint-create", vm.name, "--cycle-word", WORD, "--cycle-wait", 100, *store,
                    expect=5)
    t.check(WORD in result.err, result)
    for address, why in (("0x400251", "multiple of 8"), ("0x7ffffff0", "no memory"),
                         ("here", "no address"), ("0", "no address")):
        result = stasis("checkpoint-create", vm.name, "--cycle-word", address, *store, expect=2)
        t.check(why in result.err.splitlines()[0], result)
    t.equal(image_ids(store), [], "images")
    vm.check_runs(what="after that")
    vm.check_nothing_left(tracked_allowed=True)
    stasis("checkpoint-create", vm.name, *store)


main()
