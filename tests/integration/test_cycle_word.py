#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --cycle-word a checkpoint falls right after the guest has changed that word of its memory,
or there is none and the VM runs on; with --missed-word it tells how many deadlines the guest missed over it;
a policy with a deadline does so each time."""
import json
import os
import re
import signal
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from daemonhost import Daemon  # noqa: E402
from guests import Bare, State, check_memory_image  # noqa: E402
from held import go_on, held  # noqa: E402
from stasistest import (FAST, case, image_ids, main, new_store, run_vm, stasis,  # noqa: E402
                        stasis_json, willing)

WORD = hex(State.GPA + State.CYCLES)
MISSED = hex(State.GPA + State.MISSED)
PERIOD_S, WORK = 2, 64


def cycles_in(t, image, store):
    """Ends of cycles by the image's memory, which is one instant, and in the slack after the last of them: no work of
    the next has been done."""
    stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
    with open(t.path("raw"), "rb") as f:
        f.seek(State.GPA + State.CYCLES)
        found, = struct.unpack("<Q", f.read(8))
    state = check_memory_image(t, t.path("raw"))
    t.equal(state.stores, found * WORK, f"visits in {found} cycles")
    os.unlink(t.path("raw"))
    return found


@case
def at_the_end(t):
    """the image has one end of a cycle more than there were when it was asked for"""
    vm = run_vm(t, Bare(mem="32M", set="1M", period=PERIOD_S * 1000000, work=WORK), accel=FAST)
    store = new_store(t)
    for _ in range(2):
        before = vm.guest.cycles(vm)
        image = stasis_json("checkpoint-create", vm.name, "--cycle-word", WORD, "--cycle-wait", 60000,
                            *store)
        found = cycles_in(t, image, store)
        t.check(found > before, f"{found} ends of cycles in the image, {before} before")
        t.equal(image["cost"]["missed_deadlines"], None, "nobody counts")
    vm.check_runs(what="at the end")


@case
def too_late(t):
    """a stop that would come when the slack is over is not made: the next end of a cycle is waited for"""
    vm = run_vm(t, Bare(mem="32M", set="1M", period=PERIOD_S * 1000000, work=WORK), accel=FAST)
    store = new_store(t)
    process = held(t, "cycle-ended", "checkpoint-create", "--json", vm.name, "--cycle-word", WORD, "--cycle-wait", 120000,
                   *store)
    before = vm.guest.cycles(vm)
    t.wait(lambda: vm.guest.cycles(vm) > before, 60, "another cycle ends")
    before = vm.guest.cycles(vm)
    go_on(process)
    out, err = process.communicate(timeout=120)
    t.equal(process.returncode, 0, err)
    found = cycles_in(t, json.loads(out)["result"], store)
    t.check(found > before, f"{found} ends of cycles in the image, {before} when it might have stopped")


@case
def dies_there(t):
    """stasis killed right before the stop, or failing there: the VM runs on, and the next image is taken"""
    vm = run_vm(t, Bare(mem="32M", set="1M", period=100000, work=WORK), accel=FAST)
    store = new_store(t)
    for how, code in (("kill", -signal.SIGKILL), ("error", 1)):
        stasis("checkpoint-create", vm.name, "--cycle-word", WORD, "--cycle-wait", 60000, *store, expect=code,
               env={"STASIS_FAULT": f"cycle-ended:{how}"})
        vm.check_runs(what=how)
        t.equal(image_ids(store), [], f"images after {how}")
    vm.checkpoint("--cycle-word", WORD, "--cycle-wait", 60000, *store)
    vm.guest.check_unharmed(vm)


@case
def no_end(t):
    """a guest that does not change it is not stopped, nor is one whose address is no memory"""
    vm = run_vm(t, Bare(mem="32M", set="1M"), accel=FAST)
    store = new_store(t)
    result = stasis("checkpoint-create", vm.name, "--cycle-word", WORD, "--cycle-wait", 100, *store,
                    expect=5)
    t.check(WORD in result.err, result)
    result = stasis("checkpoint-create", vm.name, "--missed-word", "0x7ffffff0", *store, expect=2)
    t.check("no memory" in result.err, result)
    for address, why in (("0x400251", "multiple of 8"), ("0x7ffffff0", "no memory"),
                         ("here", "no address"), ("0", "no address")):
        result = stasis("checkpoint-create", vm.name, "--cycle-word", address, *store, expect=2)
        t.check(why in result.err.splitlines()[0], result)
    t.equal(image_ids(store), [], "images")
    vm.check_runs(what="after that")
    vm.check_nothing_left(tracked_allowed=True)
    stasis("checkpoint-create", vm.name, *store)


@case
def missed(t):
    """deadlines that the guest misses over a checkpoint are in the image, by its own count"""
    # Each cycle takes longer than a microsecond, so each is missed.
    vm = run_vm(t, Bare(mem="32M", set="1M", period=20000, work=20000, deadline=1), accel=FAST)
    store = new_store(t)
    t.wait(lambda: vm.guest.state(vm).missed > 0, 60, "the guest counts what it misses")
    before = vm.guest.state(vm).missed
    image = vm.checkpoint("--cycle-word", WORD, "--missed-word", MISSED, *store)
    after = vm.guest.state(vm).missed
    counted = image["cost"]["missed_deadlines"]
    # A cycle's end has been waited for, and that one was too late.
    t.check(1 <= counted <= after - before, f"{counted} counted; {before} before, {after} after")
    info = stasis("checkpoint-info", image["id"], *store).out
    t.check(re.search(rf"Deadlines missed: +{counted} meanwhile", info), info)


@case
def by_policy(t):
    """a policy's image falls at the end of a cycle and tells of deadlines; where the slack is too short, or the
    loop stands still, there is none, and the VM runs on"""
    # A stop on a host that has no time takes what it takes: long cycles, of which nearly all is slack.
    vm = run_vm(t, Bare(mem="32M", set="1M", period=PERIOD_S * 1000000, work=WORK), accel=FAST)
    daemon = Daemon(t)
    store = ("--store", daemon.store)
    loop = ("--every", "1h", "--cycle-word", WORD, "--missed-word", MISSED, "--deadline", 2000)
    for slack, why in ((2000, "less than its period"), (None, "slack")):
        words = (*loop, "--slack", slack) if slack else loop
        t.check(why in daemon.run("policy-set", vm.name, *words, expect=2).err, why)
    daemon.run("policy-set", vm.name, *loop, "--slack", 1999)
    before = vm.guest.cycles(vm)
    run = willing(t, lambda: stasis("policy-run", "--json", vm.name, env=daemon.env, expect=None)).json
    image = stasis_json("checkpoint-info", run["id"], *store)
    t.check(cycles_in(t, image, store) > before, "an end of a cycle was waited for")
    t.equal(run["missed_deadlines"], image["cost"]["missed_deadlines"], "what the run tells")
    # No stop is as short as a microsecond.
    daemon.run("policy-set", vm.name, *loop, "--slack", 0.001)
    said = daemon.run("policy-run", vm.name, expect=5)
    t.check("the VM was not stopped" in said.err or "allowed" in said.err, said)
    vm.check_runs(what="after that")
    t.equal(len(image_ids(store)), 1, "images")

    # The daemon sums up.
    daemon.run("policy-set", vm.name, *loop, "--slack", 1999)
    daemon.start()
    daemon.wait_images(1, vm.name)
    state = daemon.state_of(vm.name)
    t.equal(state["missed_deadlines"], sum(i["cost"]["missed_deadlines"] for i in daemon.images()
                                           if i["id"] == state["last_image"]), "of one run")


if __name__ == "__main__":
    main()
