#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much later what a guest sends is seen when its output is held (checkpoint-create --hold-output), by
the period, and what the guest loses by that.

The guest sends a frame each millisecond, with its TSC; what frames take that nobody holds, before and
after, tells which time of ours that is. The store is on a disk: an image is durable before anything is
let go. STASIS_BENCH_HOLD (default 8) is the seconds of each period.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, Machine, new_store, number_from_env, quantile, save,  # noqa: E402
                      stasis_json, summary, table, with_case)
from heldoutput import Outside, series  # noqa: E402
from stasistest import end_process  # noqa: E402

SECONDS = number_from_env("STASIS_BENCH_HOLD", 8)
RAM = "512M"
PERIODS = (10, 25, 50, 100, 250)
COST_PERIODS = (50, 100)
RATE = 2  # pages a millisecond that the guest of the latencies rewrites


def arrivals(outside, seconds):
    outside.arrivals = []
    time.sleep(seconds)
    found, outside.arrivals = outside.arrivals, None
    return found


def quickest(found, khz):
    """The frame of a free stretch that took least: (TSC, time)."""
    at, tsc = min(found, key=lambda a: a[0] - a[1] / (khz * 1000))
    return tsc, at


def latencies_ms(found, before, after):
    """How much later than by the line through two quickest ones."""
    (tsc0, at0), (tsc1, at1) = before, after
    slope = (at1 - at0) / (tsc1 - tsc0)
    return [(at - at0 - (tsc - tsc0) * slope) * 1000 for at, tsc in found]


def latency(t, period):
    outside = Outside(t)
    machine = Machine(t, RAM, prepared=True, more=outside.qemu_args(), rate=RATE, send=1000)
    khz, store = machine.guest.state(machine.vm).tsc_khz, new_store(t)
    free = arrivals(outside, 2)
    before = quickest(free, khz)
    process = series(t, machine.vm, store, "--hold-output", every=period)
    time.sleep(max(0.5, 4 * period / 1000))  # the first image is a full one
    held = arrivals(outside, SECONDS)
    end_process(process)
    time.sleep(0.5)
    after = quickest(arrivals(outside, 2), khz)
    until = time.monotonic() + 30
    while outside.missing() > 0 and time.monotonic() < until:
        time.sleep(0.01)
    machine.guest.check_unharmed(machine.vm)
    images = stasis_json("checkpoint-list", *store)[1:]
    found = latencies_ms(held, before, after)
    return {"period_ms": period, "missing": outside.missing(),
            "image_ms": summary([i["cost"]["total_us"] / 1000 for i in images]),
            "added_ms": summary(found), "p90_ms": quantile(found, 0.9),
            "free_ms": summary(latencies_ms(free, before, after))}


def cost(t, period):
    """Of a guest that rewrites 32 MiB as fast as it can."""
    outside = Outside(t)
    machine = Machine(t, RAM, prepared=True, more=outside.qemu_args(), send=1000)
    result = {"period_ms": period, "free": machine.rate(SECONDS)}
    for name, options in (("series", ()), ("held", ("--hold-output",))):
        process = series(t, machine.vm, new_store(t, name), *options, every=period)
        time.sleep(1)
        result[name] = machine.rate(SECONDS)
        end_process(process)
    result["free_again"] = machine.rate(SECONDS)
    return result


def main():
    if not HAVE_ENGINE:
        print("\nhold: no stasis here to measure")
        return
    added = [with_case(latency, period) for period in PERIODS]
    table(f"Held output, {RAM}, {ACCEL}, a frame each ms, {RATE * 1000} pages a second rewritten, "
          f"{SECONDS} s: seen later by (ms)",
          ["period (ms)", "median", "90 %", "99 %", "most", "an image until its sync (ms)", "lost",
           "not held: median", "99 %"],
          [[a["period_ms"], f"{a['added_ms']['median']:.1f}", f"{a['p90_ms']:.1f}",
            f"{a['added_ms']['p99']:.1f}", f"{a['added_ms']['max']:.1f}",
            f"{a['image_ms']['median']:.0f}", a["missing"], f"{a['free_ms']['median']:.2f}", f"{a['free_ms']['p99']:.2f}"] for a in added])
    costs = [with_case(cost, period) for period in COST_PERIODS]
    table(f"What a guest does that rewrites 32 MiB all the time, {RAM}, {ACCEL} (alone = 100 %)",
          ["period (ms)", "series", "series, output held"],
          [[c["period_ms"], *(f"{200 * c[name] / (c['free'] + c['free_again']):.1f} %"
                              for name in ("series", "held"))] for c in costs])
    save("hold", {"added": added, "cost": costs})


main()
