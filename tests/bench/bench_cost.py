#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What checkpoints cost besides the stop: guest slowdown, size of images, copy rate."""
import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, BUILD, HAVE_ENGINE, MIB, RUNS, SET, SIZES, Machine,  # noqa: E402
                      environment, half, save, size_bytes, stasis, summary, table, verdict, with_case)
import shimtalk  # noqa: E402
from shimtalk import Monitor  # noqa: E402

DIRTY_PAGES = 1000


# (prepared by stasis run, what one run is)
WAYS = {
    "live, full": (False, ("--mode", "live", "--full")),
    "cow, full": (False, ("--mode", "cow", "--full")),
    "stop, full": (False, ("--mode", "stop", "--full")),
    "prepared, live, full": (True, ("--mode", "live", "--full")),
    "prepared, live, incremental": (True, ("--mode", "live")),
}


def slowdown(t, ram, prepared):
    """The guest's speed: alone, beside a process that only computes, tracked (armed, nothing going
    on), and while it is copied; as {name: {"rates": page visits a second, "seconds": of each}}."""
    machine = Machine(t, ram, touch=half(ram), prepared=prepared)
    prefix = "prepared, " if prepared else ""

    def during(action):
        """Speed over all of action(), a stop included; seconds."""
        runs = [machine.rate_over(action) for _ in range(RUNS)]
        return {"rates": [rate for rate, _ in runs],
                "seconds": statistics.median([seconds for _, seconds in runs])}

    second = lambda: time.sleep(1.0)  # noqa: E731
    found = {f"{prefix}alone": during(second),
             f"{prefix}beside a busy process": during(lambda: busy_beside(1.0))}
    if prepared:
        found[f"{prefix}log re-armed once"] = rearmed(machine, during)
    machine.adopt()
    machine.vm.checkpoint("--mode", "live", *machine.store)
    for name, (wants, options) in WAYS.items():
        if wants == prepared:
            found[f"while copied: {name}"] = during(
                lambda o=options: machine.vm.checkpoint(*o, *machine.store, timeout=600))
    machine.vm.checkpoint("--mode", "live", *machine.store)
    # The first visit of a page since the checkpoint is what tracking costs; later ones are free.
    found[f"{prefix}tracked"] = during(second)
    stasis("detach", machine.vm.name)
    found[f"{prefix}alone again"] = during(second)
    alone = statistics.median(found[f"{prefix}alone"]["rates"] +
                              found[f"{prefix}alone again"]["rates"])
    for way in found.values():
        way["of_alone"] = statistics.median(way["rates"]) / alone
        way["lost_ms"] = way["seconds"] * (1 - way["of_alone"]) * 1000
    return found


def rearmed(machine, during):
    """The floor of a checkpoint of a set that is rewritten all the time: each of its pages has to
    be armed once, and faults once."""
    monitor = Monitor(machine.vm.pid)
    assert (monitor.admitted, monitor.share(), monitor.call(shimtalk.START)) == (0, 0, 0)

    def rearm():
        monitor.harvest(rearm=True)
        time.sleep(0.1)
    time.sleep(1.0)
    try:
        return during(rearm)
    finally:
        monitor.call(shimtalk.STOP)
        monitor.close()


def busy_beside(seconds):
    """What the host itself takes away: another process on the other CPU."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(seconds)
        busy.kill()


def sizes(t, ram, touched):
    """Bytes in the store of a full image, and of an increment with about DIRTY_PAGES pages."""
    machine = Machine(t, ram, set=f"{DIRTY_PAGES * 4}K", touch=half(ram) if touched else None)
    machine.adopt()
    full = machine.vm.checkpoint("--mode", "live", "--full", *machine.store, timeout=600)
    pages, stored, took = [], [], []
    for _ in range(RUNS):
        time.sleep(0.2)
        image = machine.vm.checkpoint("--mode", "live", *machine.store, timeout=600)
        pages.append(image["data_pages"] + image["zero_pages"])
        stored.append(image["stored_bytes"])
        took.append(image["cost"]["total_us"] / 1000)
    return {"ram": ram, "touched": touched, "full_bytes": full["stored_bytes"],
            "pages": summary(pages), "increment_bytes": summary(stored),
            "increment_ms": summary(took)}


def memcpy():
    tool = os.path.join(BUILD, "tests", "lib", "memcpy-bench")
    return json.loads(subprocess.run([tool], check=True, stdout=subprocess.PIPE).stdout)


def copy_rate(t, ram, codec):
    """Bytes of guest memory that a full checkpoint takes in a second, and what it took in all."""
    store = t.path("ram-disk")
    os.makedirs(store)
    # In memory, so that the disk is not what is measured.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store], check=True)
    t.defer(subprocess.run, ["umount", "-l", store], check=False)
    machine = Machine(t, ram, touch=f"{size_bytes(ram) * 3 // 4 // MIB}M", rate=1)
    machine.adopt()
    rates = []
    for number in range(RUNS + 1):
        image = machine.vm.checkpoint("--mode", "live", "--full", "--compress", codec, "--store",
                                      store, timeout=600)
        stasis("checkpoint-delete", image["id"], "--store", store, expect=None)
        if number > 0:
            rates.append(image["cost"]["copied_bytes"] * 1e6 / image["cost"]["total_us"])
    return summary(rates)


def capture_rate(t, ram):
    """Bytes of guest memory that are in our buffers after a second of copying: mode stop, where
    nothing but the copying is timed."""
    machine = Machine(t, ram, touch=f"{size_bytes(ram) * 3 // 4 // MIB}M", rate=1)
    machine.adopt()
    rates = []
    for _ in range(RUNS):
        image = machine.vm.checkpoint("--mode", "stop", "--full", *machine.store, timeout=600)
        rates.append(image["cost"]["copied_bytes"] * 1e6 / image["cost"]["ram_us"])
    return summary(rates)


def increment_rate(t, ram):
    """Microseconds from the harvest up to pages in a buffer, and of a memcpy of as many pages."""
    machine = Machine(t, ram, prepared=True, touch=f"{size_bytes(ram) * 7 // 8 // MIB}M", rate=100)
    machine.adopt()
    tool = os.path.join(BUILD, "tests", "lib", "increment-rate")
    out = subprocess.run([tool, machine.vm.name, str(4 * RUNS + 1)], check=True, text=True,
                         env=environment(), stdout=subprocess.PIPE).stdout
    # The first gets memory and maps the guest's.
    runs = [json.loads(line) for line in out.splitlines()][1:]
    return {"pages": summary([r["pages"] for r in runs]),
            "us": summary([r["harvest_us"] + r["ready_us"] + r["copy_us"] for r in runs]),
            "memcpy_us": summary([r["memcpy_us"] for r in runs])}


def human(n_bytes):
    return f"{n_bytes / MIB:.2f}"


def judge_speed(found):
    """Of a prepared VM where there is one."""
    prefix = "prepared, " if "prepared, tracked" in found else ""
    asked = [(f"{prefix}tracked", 2)] + [(name, 10) for name in found
                                         if name.startswith(f"while copied: {prefix}live")]
    beside = (1 - found[f"{prefix}beside a busy process"]["of_alone"]) * 100
    print()
    for name, most in asked:
        lost = (1 - found[name]["of_alone"]) * 100
        verdict(f"guest's loss of speed, {name}", f"{lost:.1f} % (beside a busy process {beside:.1f})",
                f"{most} %", lost <= most)


def main():
    if not HAVE_ENGINE:
        print("\ncost: no stasis here to measure")
        return
    out = {"accel": ACCEL}
    ram = SIZES[0]
    out["slowdown"] = {**with_case(slowdown, ram, False),
                       **(with_case(slowdown, ram, True) if ACCEL == "kvm" else {})}
    table(f"Speed of the guest, {ram}, {ACCEL}, {SET} rewritten all the time; medians of {RUNS}",
          ["", "M visits/s", "of alone", "over s", "lost ms"],
          [[name, f"{statistics.median(w['rates']) / 1e6:.1f}", f"{w['of_alone'] * 100:.1f} %",
            f"{w['seconds']:.2f}", f"{w['lost_ms']:.0f}"] for name, w in out["slowdown"].items()])
    judge_speed(out["slowdown"])

    out["sizes"] = [with_case(sizes, ram, touched) for ram in SIZES for touched in (False, True)]
    table(f"Size of images, MiB; an increment after {DIRTY_PAGES} pages were rewritten",
          ["RAM", "touched", "full", "increment", "its pages", "its ms"],
          [[s["ram"], "half" if s["touched"] else "no", human(s["full_bytes"]),
            human(s["increment_bytes"]["median"]), f"{s['pages']['median']:.0f}",
            f"{s['increment_ms']['median']:.0f}"] for s in out["sizes"]])

    found = out["increment"] = with_case(increment_rate, ram)
    ratio = found["us"]["median"] / found["memcpy_us"]["median"]
    table(f"An increment in a series, {ram}: harvest to buffer beside memcpy of as many pages, "
          f"median of {4 * RUNS}", ["pages", "ms", "memcpy ms", "ratio"],
          [[f"{found['pages']['median']:.0f}", f"{found['us']['median'] / 1000:.1f}",
            f"{found['memcpy_us']['median'] / 1000:.1f}", f"{ratio:.2f}"]])
    print()
    verdict("increment, harvest to buffer, for each page", f"{ratio:.2f} x a memcpy", "1.5 x", ratio <= 1.5)

    out["memcpy"] = memcpy()
    base = out["memcpy"]["far_bytes_per_s"]
    rows = [["memcpy, one thread", f"{base / MIB:.0f}", "100 %"]]
    found = out["capture"] = with_case(capture_rate, SIZES[0])
    rows.append(["guest to buffer, in the stop", f"{found['median'] / MIB:.0f}",
                 f"{found['median'] / base * 100:.0f} %"])
    for codec in ("none", "lz4", "zstd"):
        found = out[f"copy_{codec}"] = with_case(copy_rate, SIZES[0], codec)
        rows.append([f"guest to durable image, {codec}", f"{found['median'] / MIB:.0f}",
                     f"{found['median'] / base * 100:.0f} %"])
    table(f"Copy rate, {SIZES[0]} of which 3/4 random data, store in memory, call to commit",
          ["", "MiB/s", "of memcpy"], rows)
    share = out["capture"]["median"] / base
    print()
    verdict("guest to buffer, beside one thread's memcpy", f"{share * 100:.0f} % of it", "at least 50 %", share >= 0.5)
    save("cost", out)


main()
