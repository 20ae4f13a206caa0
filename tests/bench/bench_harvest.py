#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading KVM's dirty log: by bitmap and by dirty ring, as the shim in QEMU sees it, and what the
log costs the guest. The monitor is tests/lib/shimtalk.py; times are the shim's own."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, RUNS, SIZES, Machine, half, save, summary, table,  # noqa: E402
                      with_case)
import shimtalk  # noqa: E402
from shimtalk import Monitor  # noqa: E402

SET_PAGES = 8192
HARVESTS = 10 * RUNS
# 0: a bitmap. The first ring holds the set, the second is drained nine times in between.
RINGS = (0, 16384, 1024)


def harvests(machine, monitor, stopped):
    """Microseconds in the shim, and pages found. Stopped: as in a checkpoint's pause, and the re-arming
    that follows is not counted."""
    times, pages = [], 0
    for _ in range(HARVESTS):
        before = machine.guest.progress(machine.vm)
        while machine.guest.progress(machine.vm) < before + 2 * SET_PAGES:
            time.sleep(0.001)
        if stopped:
            machine.observer.cmd("stop")
        result = monitor.call(shimtalk.HARVEST, 0 if stopped else shimtalk.REARM, monitor.layout)
        assert result == 0, result
        times.append(monitor.took_ns / 1000)
        if stopped:
            pages = len(monitor.harvest(rearm=True))
            machine.observer.cmd("cont")
    monitor.buffer[:] = bytes(len(monitor.buffer))
    return summary(times), pages


def measure(t, ram, ring):
    more = ("-accel", f"kvm,dirty-ring-size={ring}") if ring else ()
    machine = Machine(t, ram, prepared=True, touch=half(ram), more=more)
    alone = summary([machine.rate(0.5) for _ in range(RUNS)])
    monitor = Monitor(machine.vm.pid)
    t.defer(monitor.close)
    assert shimtalk.Page(machine.vm.pid).ring_entries == ring
    assert (monitor.admitted, monitor.share(), monitor.call(shimtalk.START)) == (0, 0, 0)
    out = {"ram": ram, "ring": ring, "start_us": monitor.took_ns / 1000}
    out["running_us"], _ = harvests(machine, monitor, stopped=False)
    out["stopped_us"], out["pages"] = harvests(machine, monitor, stopped=True)
    tracked = summary([machine.rate(0.5) for _ in range(RUNS)])
    out["speed"] = tracked["median"] / alone["median"]
    return out


def main():
    if ACCEL != "kvm":
        print("\nharvest: no KVM here")
        return
    rows = [with_case(measure, ram, ring) for ram in SIZES for ring in RINGS]
    table(f"Reading KVM's log of {SET_PAGES} pages in the shim, µs, median (most) of {HARVESTS}",
          ["", "running, re-arming", "stopped", "turn on", "pages", "guest's speed"],
          [[f"{r['ram']}, " + (f"ring of {r['ring']}" if r["ring"] else "bitmap"),
            *(f"{r[k]['median']:.0f} ({r[k]['max']:.0f})" for k in ("running_us", "stopped_us")),
            f"{r['start_us']:.0f}", r["pages"], f"{r['speed'] * 100:.1f} %"] for r in rows])
    save("harvest", rows)


if __name__ == "__main__":
    main()
