#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How often a VM can be taken back: rollbacks a second, beside QEMU's own snapshot-load of the
whole VM on the same machine.

The guest rewrites a set of about 1,000 pages; between two rollbacks it runs long enough to write
all of it. QEMU's own way needs a qcow2 disk for RAM and devices; it lies in memory.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, MIB, RUNS, SIZES, Machine, half, ms, save,  # noqa: E402
                      stasis_json, summary, table, verdict, with_case)
from scratch import write_register  # noqa: E402
from stasistest import number_from_env  # noqa: E402

COUNT = number_from_env("STASIS_BENCH_ROLLBACKS", 200)
PEER_COUNT = 5
PAGES = 1024
PROMISED = 100  # a second
RUN_MS = 10  # the guest between two rollbacks


def conclude(qmp, command, job):
    """Run a job command of QEMU's to its end; seconds."""
    began = time.monotonic()
    qmp.cmd(command, job_id=job, tag="s", vmstate="disk", devices=["disk"])
    while True:
        [state] = [j for j in qmp.cmd("query-jobs") if j["id"] == job]
        if state["status"] == "concluded":
            break
        time.sleep(0.0005)
    took = time.monotonic() - began
    qmp.cmd("job-dismiss", id=job)
    if "error" in state:
        raise RuntimeError(f"{command}: {state['error']}")
    return took


def qemus_own(t, ram):
    path = f"/dev/shm/stasis-bench-{os.getpid()}.qcow2"
    t.defer(os.unlink, path)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    machine = Machine(t, ram, touch=half(ram), set=f"{PAGES * 4}K", more=[
        "-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={path}"])
    took = []
    with machine.vm.qmp() as qmp:
        conclude(qmp, "snapshot-save", "save")
        for _ in range(PEER_COUNT):
            time.sleep(RUN_MS / 1000)
            took.append(conclude(qmp, "snapshot-load", "load") * 1000)
    machine.vm.check_runs(what="after snapshot-load")
    return took


def one_device(machine):
    """How long the VM stands still when its serial port alone is put back (device-restore)."""
    stops = []
    for _ in range(RUNS):
        write_register(machine.vm, 0x11)
        image = stasis_json("device-checkpoint", machine.vm.name, "serial", *machine.store)["id"]
        write_register(machine.vm, 0x22)
        done = stasis_json("device-restore", machine.vm.name, "serial", image, *machine.store,
                           timeout=600)
        stops.append(done["stop_us"] / 1000)
    return summary(stops)


def ours(t, ram, prepared):
    machine = Machine(t, ram, touch=half(ram), set=f"{PAGES * 4}K", prepared=prepared,
                      more=["-serial", "null"])
    machine.adopt()
    machine.vm.checkpoint(*machine.store, timeout=600)
    runs = stasis_json("rollback", machine.vm.name, "--force", "--count", COUNT, "--interval",
                       RUN_MS, *machine.store, timeout=600)
    machine.vm.check_runs(what="after rollbacks")
    machine.guest.check_unharmed(machine.vm)
    devices = one_device(machine)
    # The first one reads the pages from the image.
    first, runs = runs[0], runs[1:]
    found = {f"{name}_ms": summary([r[f"{name}_us"] / 1000 for r in runs])
             for name in ("total", "stop", "device", "ram")}
    found["device_restore_stop_ms"] = devices
    found["pages"] = summary([r["rewritten_pages"] for r in runs])
    found["first_ms"] = first["total_us"] / 1000
    found["per_second"] = 1e6 * len(runs) / sum(r["total_us"] for r in runs)
    return found


def main():
    out = []
    for ram in SIZES:
        peer = summary(with_case(qemus_own, ram))
        for prepared in (True, False) if HAVE_ENGINE else (False,):
            row = {"ram": ram, "prepared": prepared, "snapshot_load_ms": peer}
            if HAVE_ENGINE:
                row.update(with_case(ours, ram, prepared))
            out.append(row)
    table(f"Rollback in place, {ACCEL}: about {PAGES} pages ({PAGES * 4096 // MIB} MiB) written; "
          f"ms, median (most) of {COUNT}; half of RAM touched",
          ["RAM", "VM prepared", "pages", "rollback", "VM stopped", "devices", "memory", "a second",
           "stopped for one device", "QEMU's snapshot-load", "a second"],
          [[r["ram"], "yes" if r["prepared"] else "no", f"{r['pages']['median']:.0f}",
            ms(r["total_ms"]), ms(r["stop_ms"]), ms(r["device_ms"]), ms(r["ram_ms"]),
            f"{r['per_second']:.0f}", ms(r["device_restore_stop_ms"]), ms(r["snapshot_load_ms"]),
            f"{1000 / r['snapshot_load_ms']['median']:.1f}"] for r in out if "total_ms" in r])
    print()
    for row in out:
        if "per_second" in row:
            verdict(f"{row['ram']}, {'' if row['prepared'] else 'not '}prepared: rollbacks with "
                    f"{row['pages']['median']:.0f} dirty pages", f"{row['per_second']:.0f} a second",
                    f"at least {PROMISED}", row["per_second"] >= PROMISED)
    save("rollback", out)


main()
