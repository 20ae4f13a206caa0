#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many checkpoints a second of one VM: how many, what each costs, what the guest loses.

STASIS_BENCH_SECONDS (default 60) is how long; the store is in memory, so that the disk is not what
is measured.
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, Machine, number_from_env, save, stasis,  # noqa: E402
                      stasis_json, summary, table, with_case)

SECONDS = number_from_env("STASIS_BENCH_SECONDS", 60)
RATE = 50  # asked for, a second
RAM = "512M"


def series(t, pages):
    """A guest that rewrites `pages` pages at random between two checkpoints, a bit faster than they
    are taken."""
    store = t.path("ram-disk")
    os.makedirs(store)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store], check=True)
    t.defer(subprocess.run, ["umount", "-l", store], check=False)
    machine = Machine(t, RAM, prepared=True, set=f"{pages * 4}K", fill="text",
                      rate=pages * RATE // 1000 + 1)
    before = machine.guest.state(machine.vm)
    images = stasis_json("checkpoint-create", machine.vm.name, "--store", store, "--every",
                         1000 // RATE, "--count", RATE * SECONDS, "--max-depth", 4000,
                         timeout=SECONDS * 10 + 60)
    after = machine.guest.state(machine.vm)
    machine.guest.check_unharmed(machine.vm, "after the series")
    report = stasis("checkpoint-verify", images[-1]["id"], "--store", store, timeout=600)
    assert report.rc == 0
    took_s = (images[-1]["created_us"] - images[0]["created_us"]) / 1e6
    elapsed_s = (after.tsc - before.tsc) / (after.tsc_khz * 1000)
    rest = images[1:]
    return {"pages": pages, "asked": RATE, "rate": len(rest) / took_s,
            "pause_us": summary([i["cost"]["pause_us"] for i in rest]),
            "total_us": summary([i["cost"]["total_us"] for i in rest]),
            "stored_pages": summary([i["data_pages"] + i["zero_pages"] for i in rest]),
            "stopped_share": sum(i["cost"]["pause_us"] for i in rest) / 1e6 / took_s,
            "guest_share": (after.stores - before.stores) /
                           ((pages * RATE // 1000 + 1) * 1000 * elapsed_s)}


def main():
    if not HAVE_ENGINE:
        print("\nseries: no stasis here to measure")
        return
    found = [with_case(series, pages) for pages in (1000, 5000)]
    table(f"A series of checkpoints, {RAM}, {ACCEL}, {SECONDS} s, asked for {RATE} a second",
          ["pages rewritten between two", "a second", "pages each", "stop µs (most)", "in all µs",
           "stopped", "guest's work done"],
          [[f["pages"], f"{f['rate']:.1f}", f"{f['stored_pages']['median']:.0f}",
            f"{f['pause_us']['median']:.0f} ({f['pause_us']['max']:.0f})",
            f"{f['total_us']['median']:.0f}", f"{f['stopped_share'] * 100:.1f} %",
            f"{f['guest_share'] * 100:.1f} %"] for f in found])
    save("series", found)


main()
