#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How soon a restored guest runs: from the call to its first instruction, eager and on demand.

The first instruction is QEMU's RESUME event, by its own clock; the guest at work is when its
state page first moves on from what the image holds.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, RUNS, SIZES, Machine, Qmp, Vm, fresh_name,  # noqa: E402
                      half, ms, save, stasis, summary, table, verdict_beside, with_case)


GROWTH = 1.2  # what is taken for none


def watch_resume(t, vm, began_us):
    """Resume a paused VM through its monitor; when its RESUME came, in µs after began_us."""
    with Qmp(vm.qmp_path) as qmp:
        qmp.cmd("cont")
        return qmp.wait_event("RESUME")[1] - began_us


def restores(t, ram, touched):
    machine = Machine(t, ram, touch=half(ram) if touched else None)
    machine.adopt()
    image = machine.vm.checkpoint("--mode", "stop", "--full", *machine.store, timeout=600)
    stores = machine.guest.state(machine.vm).stores
    store = machine.store
    with machine.vm.qmp() as qmp:
        qmp.cmd("quit")
    found = {"ram": ram, "touched": touched, "image_visits": stores}
    for kind in ("on demand", "eager"):
        first, whole = [], []
        for _ in range(RUNS):
            vm = Vm(t, machine.guest, fresh_name("back"))
            began_us = time.time_ns() // 1000
            # Paused, and let go through a monitor that sees the event: a round trip too much.
            stasis("restore", image["id"], "--name", vm.name, "--paused", *store,
                   *(["--eager"] if kind == "eager" else []), timeout=600)
            info = vm.info()
            vm.pid, vm.qmp_path = info["pid"], info["qmp_path"]
            first.append(watch_resume(t, vm, began_us) / 1000)
            while vm.info()["loading"]:
                time.sleep(0.01)
            whole.append(time.time_ns() / 1e6 - began_us / 1000)
            vm.check_runs(what=f"restored {kind}")
            stasis("kill", vm.name)
        found[kind] = {"first_instruction_ms": summary(first), "all_ram_ms": summary(whole)}
    return found


def main():
    if not HAVE_ENGINE:
        print("\nrestore: no stasis here to measure")
        return
    out = [with_case(restores, ram, touched) for ram in SIZES for touched in (False, True)]
    table(f"Restore, {ACCEL}: ms from the call; median (most) of {RUNS}",
          ["RAM", "touched", "on demand: first instruction", "all RAM", "eager: first instruction"],
          [[r["ram"], "half" if r["touched"] else "no",
            ms(r["on demand"]["first_instruction_ms"]), ms(r["on demand"]["all_ram_ms"]),
            ms(r["eager"]["first_instruction_ms"])] for r in out])
    print()
    first = {(r["ram"], r["touched"]): r["on demand"]["first_instruction_ms"]["median"] for r in out}
    for (ram, touched), took in first.items():
        if ram != SIZES[0]:
            verdict_beside(f"on demand, {ram}{', half touched' if touched else ''}: first instruction, beside {SIZES[0]}",
                           took, first[SIZES[0], touched], GROWTH)
    save("restore", out)


main()
