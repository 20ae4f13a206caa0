#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a restore wins by remembering which pages the VM touched first.

The guest's set lies at the end of its RAM, behind memory that it has filled and does not use, so that
bringing in pages in order is of no use to it. Faults are those that the guest (or QEMU for it) waited
for, by the pager's own count; the time is from the call until the guest has been through its set the
given number of times.
"""
import json
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, MIB, RUNS, SIZES, Machine, Vm, fresh_name, ms,  # noqa: E402
                      save, size_bytes, stasis, summary, table, with_case)

ROUNDS = 2
KINDS = {"demand, no memory": ["--no-prefetch"], "demand, with memory": [], "eager": ["--eager"]}


def faults_of(vm):
    path = os.path.join(os.environ["STASIS_RUNTIME_DIR"], vm.name, "pager.log")
    if not os.path.exists(path):
        return 0
    with open(path) as f:
        return int(re.search(r"all RAM is there: (\d+) faults", f.read()).group(1))


def one(t, machine, image_id, saved, options):
    """Restore once: ms to the return of the command, ms to the last round, faults."""
    vm = Vm(t, machine.guest, fresh_name("back"))
    began = time.monotonic()
    stasis("restore", image_id, "--name", vm.name, *machine.store, *options, timeout=600)
    started = time.monotonic() - began
    # Not by `stasis info`: that takes as long as some of the rounds.
    with open(os.path.join(os.environ["STASIS_RUNTIME_DIR"], vm.name, "vm.json")) as f:
        record = json.load(f)
    vm.pid, vm.qmp_path = record["pid"], record["qmp_path"]
    while machine.guest.progress(vm) < saved.stores + ROUNDS * saved.pages:
        time.sleep(0.001)
    worked = time.monotonic() - began
    while vm.info()["loading"]:
        time.sleep(0.01)
    time.sleep(0.05)
    machine.guest.check_unharmed(vm)
    faults = faults_of(vm)
    stasis("kill", vm.name)
    return started * 1000, worked * 1000, faults


def state_in_image(t, machine, image_id):
    vm = Vm(t, machine.guest, fresh_name("paused"))
    stasis("restore", image_id, "--name", vm.name, "--paused", "--no-prefetch", *machine.store)
    vm.learn()
    state = machine.guest.state(vm)
    stasis("kill", vm.name)
    return state


def restores(t, ram):
    size = size_bytes(ram) // MIB
    machine = Machine(t, ram, set="32M", base=f"{min(size, 3072) - 40}M", pattern="random",
                      touch=f"{size - 128}M", fill="text")
    machine.adopt()
    image_id = machine.vm.checkpoint("--mode", "stop", "--full", *machine.store, timeout=600)["id"]
    with machine.vm.qmp() as qmp:
        qmp.cmd("quit")
    saved = state_in_image(t, machine, image_id)
    one(t, machine, image_id, saved, [])  # learns
    found = {"ram": ram}
    for kind, options in KINDS.items():
        rows = [one(t, machine, image_id, saved, options) for _ in range(RUNS)]
        found[kind] = {what: summary([row[i] for row in rows])
                       for i, what in enumerate(("command_ms", "rounds_ms", "faults"))}
    return found


def main():
    if not HAVE_ENGINE:
        print("\nprefetch: no stasis here to measure")
        return
    out = [with_case(restores, ram) for ram in SIZES]
    table(f"Restore with a memory, {ACCEL}: ms from the call; median (most) of {RUNS}",
          ["RAM", "kind", "command", f"{ROUNDS} rounds of 32 MiB", "faults"],
          [[r["ram"], kind, ms(r[kind]["command_ms"]), ms(r[kind]["rounds_ms"]),
            f"{r[kind]['faults']['median']:.0f} ({r[kind]['faults']['max']:.0f})"]
           for r in out for kind in KINDS])
    save("prefetch", out)


main()
