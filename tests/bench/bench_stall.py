#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The longest time for which the guest itself did not run, over each of STASIS_BENCH_STALLS checkpoints
as a whole (default 200), beside the stop in it; and beside what the host does to a guest in as long
a time without any: with nothing going on, and with a process at work on another CPU."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, SET, SIZES, Machine, number_from_env,  # noqa: E402
                      quantile, save, table, verdict, with_case)

COUNT = number_from_env("STASIS_BENCH_STALLS", 200)
PROMISED_MS = 1  # beside the stop


def idle(machine):
    return lambda: time.sleep(0.12)


def busy(machine):
    """About as long, and as busy, as a checkpoint."""
    def run():
        end = time.monotonic() + 0.12
        while time.monotonic() < end:
            pass
    return run


def checkpoints(mode):
    def prepare(machine):
        machine.adopt()
        return lambda: machine.vm.checkpoint("--mode", mode, *machine.store, timeout=600)
    return prepare


WAYS = (("no checkpoint", idle), ("no checkpoint, a busy process beside", busy),
        ("stasis live", checkpoints("live")), ("stasis stop", checkpoints("stop")))


def stalls(t, ram, prepare):
    """[(the guest's worst stall, QEMU's stop)] in ms."""
    machine = Machine(t, ram, prepared=True)
    run = prepare(machine)
    run()
    found = []
    for _ in range(COUNT):
        time.sleep(0.1)
        _, stop_ms, stall_ms, _ = machine.measure(run)
        found.append((stall_ms, stop_ms))
    machine.guest.check_unharmed(machine.vm, "at the end")
    return found


def main():
    if not HAVE_ENGINE or ACCEL != "kvm":
        print("\nstall: needs stasis, and KVM, to measure")
        return
    ram, rows, out = SIZES[0], [], {}
    for name, prepare in WAYS:
        found = with_case(stalls, ram, prepare)
        beyond = [stall - stop for stall, stop in found]
        out[name] = {"stall_ms": [s for s, _ in found], "stop_ms": [s for _, s in found]}
        rows.append([name, *(f"{quantile([s for s, _ in found], q):.1f}" for q in (.5, .9, .99, 1)),
                     *(f"{quantile(beyond, q):.1f}" for q in (.5, .9, .99, 1))])
    table(f"The guest's worst stall, and how much of it is not the stop, ms; {COUNT} checkpoints each, "
          f"{ram}, prepared, {SET} rewritten all the time",
          ["", "stall, median", "90 %", "99 %", "most", "beyond, median", "90 %", "99 %", "most"],
          rows)
    at_99 = {name: quantile([stall - stop for stall, stop in zip(found["stall_ms"], found["stop_ms"])], .99)
             for name, found in out.items()}
    print()
    verdict("stasis live: the guest's worst stall beyond the stop, at 99 %",
            f"{at_99['stasis live']:.1f} ms (by the host alone {at_99['no checkpoint']:.1f}, and "
            f"{at_99['no checkpoint, a busy process beside']:.1f} beside a busy process)",
            f"{PROMISED_MS} ms", at_99["stasis live"] <= PROMISED_MS)
    save("stall", out)


main()
