#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest with deadlines: how many it misses over STASIS_BENCH_SECONDS (default 60) with a checkpoint
each second, beside stop-and-copy, QEMU's snapshot-save, and none at all."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_stop import snapshot_save  # noqa: E402
from benchlib import (ACCEL, HAVE_ENGINE, Machine, number_from_env, save, table,  # noqa: E402
                      verdict, with_case)

SECONDS = number_from_env("STASIS_BENCH_SECONDS", 60)
RAM = "512M"
PERIODS_US = (1000, 10000)


def nothing(machine):
    return lambda: None


def mode(name):
    def prepare(machine):
        machine.adopt()
        return lambda: machine.vm.checkpoint("--mode", name, *machine.store, timeout=600)
    return prepare


def once_a_second(t, prepare, period_us):
    machine = Machine(t, RAM, prepared=True, touch="128M", period=period_us, work=64)
    run = prepare(machine)
    after = getattr(run, "after", None)
    run()  # the first is a full one
    if after:
        after()
    missed = machine.guest.state(machine.vm).missed
    begun = due = time.monotonic()
    while due < begun + SECONDS:
        run()
        if after:
            after()
        due = max(due + 1, time.monotonic())
        time.sleep(max(0, due - time.monotonic()))
    machine.guest.check_unharmed(machine.vm, "at the end")
    return machine.guest.state(machine.vm).missed - missed


def judge(found):
    """Caused is what is missed beyond what is missed without a checkpoint."""
    print()
    for i, period_us in enumerate(PERIODS_US):
        caused = {name: max(0, missed[i] - found["no checkpoint"][i]) for name, missed in found.items()}
        ours = caused["stasis live"]
        for peer in ("stasis stop", "QEMU snapshot-save"):
            verdict(f"{1000000 // period_us} Hz, deadlines missed by stasis live beside {peer}",
                    f"{ours} beside {caused[peer]}", "fewer than a tenth",
                    ours * 10 < caused[peer] if caused[peer] else None)


def main():
    if not HAVE_ENGINE:
        print("\ndeadlines: no stasis here to measure")
        return
    ways = (("no checkpoint", nothing), ("stasis live", mode("live")), ("stasis cow", mode("cow")),
            ("stasis stop", mode("stop")), ("QEMU snapshot-save", snapshot_save))
    found = {name: [with_case(once_a_second, prepare, p) for p in PERIODS_US]
             for name, prepare in ways}
    table(f"Deadlines missed in {SECONDS} s with a checkpoint each second, {RAM}, {ACCEL}",
          ["", *(f"{1000000 // p} Hz" for p in PERIODS_US)],
          [[name, *missed] for name, missed in found.items()])
    judge(found)
    save("deadlines", found)


main()
