#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many checkpoints a second of one VM: how many, what each costs, whether one is torn, what the guest loses.

STASIS_BENCH_SECONDS (default 60) is how long; the store is in memory, so that the disk is not what is measured.
Every hundredth image is exported and looked through. Guests of the long series are paced, so that an image has
as many pages as it is to have; what such a guest loses its pauses hide. So there is a short series, too, of one
that works as fast as it can, beside what it does alone before and after it.
"""
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, RUNS, Machine, guests, number_from_env, save, stasis,  # noqa: E402
                      stasis_json, summary, table, verdict, with_case)
from tap import Failure  # noqa: E402

SECONDS = number_from_env("STASIS_BENCH_SECONDS", 60)
SHORT_SECONDS = min(SECONDS, 10)
RATE = 50  # asked for, a second
RAM = "512M"
LOOK_AT = 100  # one of so many images is looked through


def run_series(machine, store, seconds):
    """The images. The guest's work in it is (page visits, seconds) by its own clock."""
    before = machine.guest.state(machine.vm)
    images = stasis_json("checkpoint-create", machine.vm.name, "--store", store, "--every", 1000 // RATE, "--count",
                         RATE * seconds, "--max-depth", 4000, timeout=seconds * 10 + 60)
    after = machine.guest.state(machine.vm)
    machine.guest.check_unharmed(machine.vm, "after the series")
    return images, (after.stores - before.stores, (after.tsc - before.tsc) / (after.tsc_khz * 1000))


def look(t, images, store):
    """(how many images were exported and looked through, what is wrong with those that are torn)"""
    chosen, path, torn = images[LOOK_AT - 1::LOOK_AT] or images[-1:], t.path("raw"), []
    for image in chosen:
        stasis("export", image["id"], "--format", "raw-memory", path, "--store", store, timeout=600)
        try:
            guests.check_memory_image(t, path)
        except Failure as error:
            torn.append(f"{image['id']}: {error}")
        os.unlink(path)
    stasis("checkpoint-verify", images[-1]["id"], "--store", store, timeout=600)
    return len(chosen), torn


def machine_and_store(t, pages, **options):
    store = t.path("ram-disk")
    os.makedirs(store)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store], check=True)
    t.defer(subprocess.run, ["umount", "-l", store], check=False)
    return Machine(t, RAM, prepared=True, set=f"{pages * 4}K", fill="text", **options), store


def costs(t, images, store):
    took_s = (images[-1]["created_us"] - images[0]["created_us"]) / 1e6
    looked, torn = look(t, images, store)
    rest = images[1:]
    return {"asked": RATE, "rate": len(rest) / took_s, "looked_at": looked, "torn": torn,
            "pause_us": summary([i["cost"]["pause_us"] for i in rest]),
            "total_us": summary([i["cost"]["total_us"] for i in rest]),
            "stored_pages": summary([i["data_pages"] + i["zero_pages"] for i in rest]),
            "stopped_share": sum(i["cost"]["pause_us"] for i in rest) / 1e6 / took_s}


def paced(t, pages):
    """A guest that rewrites `pages` pages at random between two checkpoints, a bit faster than they
    are taken."""
    rate = pages * RATE // 1000 + 1
    machine, store = machine_and_store(t, pages, rate=rate)
    images, (visits, seconds) = run_series(machine, store, SECONDS)
    return {"pages": pages, **costs(t, images, store), "guest_share": visits / (rate * 1000 * seconds)}


def at_full_speed(t, pages):
    """The same guest, when it does nothing but write."""
    machine, store = machine_and_store(t, pages)
    alone = [machine.rate(1) for _ in range(RUNS)]
    images, (visits, seconds) = run_series(machine, store, SHORT_SECONDS)
    stasis("detach", machine.vm.name)
    time.sleep(0.5)
    alone += [machine.rate(1) for _ in range(RUNS)]
    return {"pages": pages, **costs(t, images, store),
            "guest_share": visits / seconds / statistics.median(alone)}


def show(title, found, work):
    table(title, ["pages rewritten between two", "a second", "pages each", "stop µs (most)", "in all µs", "stopped",
                  work],
          [[f["pages"], f"{f['rate']:.1f}", f"{f['stored_pages']['median']:.0f}",
            f"{f['pause_us']['median']:.0f} ({f['pause_us']['max']:.0f})",
            f"{f['total_us']['median']:.0f}", f"{f['stopped_share'] * 100:.1f} %",
            f"{f['guest_share'] * 100:.1f} %"] for f in found])


def judge(found, free):
    print()
    for f in found:
        verdict(f"checkpoints a second over {SECONDS} s, of {f['stored_pages']['median']:.0f} pages",
                f"{f['rate']:.1f}", f"{RATE}", round(f["rate"]) >= RATE)
    looked, torn = sum(f["looked_at"] for f in found + free), sum((f["torn"] for f in found + free), [])
    verdict("torn images", f"{len(torn)} of {looked} that were looked through", "none", not torn, anywhere=True)
    for line in torn:
        print(f"    {line}")
    for f in free:
        lost, stopped = 1 - f["guest_share"], f["stopped_share"]
        verdict(f"loss of speed of a guest that is not paced, {f['pages']} pages",
                f"{lost * 100:.1f} % is {lost / stopped:.1f} x the {stopped * 100:.1f} % that it was stopped", "2 x",
                lost <= 2 * stopped)


def main():
    if not HAVE_ENGINE:
        print("\nseries: no stasis here to measure")
        return
    found = [with_case(paced, pages) for pages in (1000, 5000)]
    show(f"A series of checkpoints, {RAM}, {ACCEL}, {SECONDS} s, asked for {RATE} a second", found,
         "guest's work done")
    free = [with_case(at_full_speed, pages) for pages in (1000, 5000)]
    show(f"The same, {SHORT_SECONDS} s, of a guest that is not paced", free, "of its speed alone")
    judge(found, free)
    save("series", {"paced": found, "full_speed": free})


main()
