#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sealing costs: in the stop nothing, as it is done after it; in throughput, beside the cipher's
own floor; and in how long a checkpoint and an eager restore take."""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (BUILD, Machine, environment, restored_vm, save, stasis, summary,  # noqa: E402
                      table, with_case)

RAM = "512M"
STOPS = int(os.environ.get("STASIS_BENCH_SEAL_STOPS", "15"))
FULL, BLOCKS = 2, 2


def cipher():
    tool = os.path.join(BUILD, "tests", "lib", "seal-bench")
    return json.loads(subprocess.run([tool], check=True, stdout=subprocess.PIPE,
                                     env=environment()).stdout)


def stores(t):
    """{name: options}: both in memory, so that no disk is measured."""
    disk, key = t.path("ram-disk"), t.path("key")
    os.makedirs(disk)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    t.defer(subprocess.run, ["umount", "-l", disk], check=False)
    stasis("store-key-generate", key)
    stasis("store-init", disk + "/sealed", "--encrypt", "--sign", "--key-file", key)
    return {"plain": ("--store", disk + "/plain"),
            "sealed": ("--store", disk + "/sealed", "--key-file", key)}


def one_block(t, machine, store, found):
    """Full images, a series of increments (their stops are what counts), eager restores."""
    for _ in range(FULL):
        image = machine.vm.checkpoint("--mode", "live", "--full", *store, timeout=600)
        found["full"].append(image["cost"]["total_us"] / 1000)
    for _ in range(STOPS):
        found["stop"].append(
            machine.vm.checkpoint("--mode", "live", *store)["cost"]["pause_us"] / 1000)
    for _ in range(FULL):
        began = time.monotonic()
        vm = restored_vm(t, image["id"], store, machine.guest, "--eager", "--paused")
        found["eager"].append((time.monotonic() - began) * 1000)
        stasis("kill", vm.name)


def checkpoints(t):
    """The two by turns, so that what else goes on hits both."""
    machine = Machine(t, RAM, prepared=True, touch="384M")
    both = stores(t)
    found = {name: {"full": [], "stop": [], "eager": []} for name in both}
    for _ in range(BLOCKS):
        for name, store in both.items():
            one_block(t, machine, store, found[name])
    return {name: {f"{what}_ms": summary(values) for what, values in one.items()}
            for name, one in found.items()}


def main():
    speed = cipher()
    found = with_case(checkpoints)
    rows = [("memcpy", "64 KiB", speed["memcpy_64k"]), ("SHA-256", "64 KiB", speed["sha256_64k"]),
            ("AES-256-GCM alone (floor)", "64 KiB", speed["floor_64k"]),
            ("sealed", "64 KiB", speed["seal_64k"]), ("opened", "64 KiB", speed["unseal_64k"]),
            ("AES-256-GCM alone (floor)", "4 KiB", speed["floor_4k"]),
            ("sealed", "4 KiB", speed["seal_4k"]),
            ("extents into an image, plain", "64 KiB", speed["add"]),
            ("extents into an image, sealed", "64 KiB", speed["add_sealed"]),
            ("extents from an image, plain", "64 KiB", speed["read"]),
            ("extents from an image, sealed", "64 KiB", speed["read_sealed"])]
    table("One thread, MiB/s", ["what", "bytes", "MiB/s"],
          [[a, b, f"{c:.0f}"] for a, b, c in rows])

    def cell(way, what):
        s = found[way][what]
        return f"{s['median']:.2f} ({s['min']:.2f}–{s['max']:.2f})"
    table(f"{RAM}, 384 MiB of it random, store in memory; median (least–most)",
          ["store", "stop, ms", "full checkpoint, ms", "restore --eager, ms"],
          [[way, cell(way, "stop_ms"), cell(way, "full_ms"), cell(way, "eager_ms")]
           for way in found])
    save("seal", {"speed": speed, "checkpoints": found})


main()
