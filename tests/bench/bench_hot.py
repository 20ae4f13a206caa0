#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long the VM stands still when the guest rewrites a large part of its RAM all the time: a
residual that is protected, one that is copied, and QEMU's own ways, in one run.

"stopped" and "stall" as in bench_stop.py.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_stop import migrating, stasis_mode  # noqa: E402
from benchlib import (ACCEL, HAVE_ENGINE, RUNS, Machine, ms, save, summary, table,  # noqa: E402
                      with_case)

RAM = "1G"
SETS = os.environ.get("STASIS_BENCH_HOT", "256M 512M").split()


def live(way):
    def prepare(machine):
        run = stasis_mode(machine, "live")

        def with_way():
            os.environ["STASIS_RESIDUAL"] = way
            try:
                return run()
            finally:
                del os.environ["STASIS_RESIDUAL"]
        return with_way
    return prepare


WAYS = (
    ("QEMU migrate to file", lambda m: migrating(m, False), "memfd"),
    ("QEMU background-snapshot", lambda m: migrating(m, True), "anonymous"),
)
OURS = (
    ("stasis live", live("auto"), "prepared"),
    ("stasis live, always copied", live("copy"), "prepared"),
    ("stasis live, always protected", live("protect"), "prepared"),
    ("stasis live, not prepared", live("auto"), "memfd"),
    ("stasis cow, full", lambda m: stasis_mode(m, "cow", "--full"), "memfd"),
)


def one_way(t, prepare, memory, hot):
    prepared = memory == "prepared"
    machine = Machine(t, RAM, "memfd" if prepared else memory, prepared=prepared, set=hot)
    run = prepare(machine)
    stops, stalls, totals, protected = [], [], [], []
    for number in range(RUNS + 1):
        time.sleep(0.2)
        result, stop_ms, stall_ms, total_s = machine.measure(run)
        if number == 0:  # warms up
            continue
        stops.append(stop_ms)
        stalls.append(stall_ms)
        totals.append(total_s)
        if isinstance(result, dict):
            protected.append(result["cost"]["protected_pages"])
    machine.guest.check_unharmed(machine.vm)
    return {"stopped_ms": summary(stops), "stall_ms": summary(stalls), "total_s": summary(totals),
            "protected_pages": summary(protected)}


def main():
    results = []
    for hot in SETS:
        rows = []
        for name, prepare, memory in WAYS + (OURS if HAVE_ENGINE else ()):
            what = {"way": name, "set": hot, "ram": RAM, "accel": ACCEL}
            try:
                found = with_case(one_way, prepare, memory, hot)
            except Exception as error:  # pylint: disable=broad-except
                rows.append([name, "failed", str(error)[:60], "", ""])
                results.append({**what, "error": str(error)})
                continue
            results.append({**what, **found})
            pages = found["protected_pages"]
            rows.append([name, ms(found["stopped_ms"]), ms(found["stall_ms"]),
                         f"{found['total_s']['median']:.2f}",
                         f"{pages['median'] * 4 // 1024:.0f}" if pages else "-"])
        table(f"Stop time, {RAM} of RAM, {hot} rewritten all the time, {ACCEL}; median (most) of "
              f"{RUNS}",
              ["", "stopped ms", "guest's worst stall ms", "in all s", "protected MiB"], rows)
    save("hot", results)


if __name__ == "__main__":
    main()
