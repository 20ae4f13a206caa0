#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long the VM stands still: each mode of stasis beside QEMU's own ways, in one run.

"stopped" is QEMU's STOP event to its RESUME event. "stall" is the longest gap that the guest itself
saw by its TSC, which also has what happens outside of the stop: page faults, a busy host.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, RUNS, SET, SIZES, Machine, QmpError, half, ms,  # noqa: E402
                      save, summary, table, with_case)

FLOOR = "QMP stop, device state, cont"


# ---- QEMU's own ways: each prepares a machine once and returns what one run does ----

def floor(machine):
    path = machine.t.path("devices")
    qmp = machine.vm.qmp()
    machine.t.defer(qmp.close)

    def run():
        qmp.cmd("stop")
        qmp.cmd("xen-save-devices-state", filename=path, live=False)
        qmp.cmd("cont")
    return run


def snapshot_save(machine):
    """Needs a writable qcow2, where the memory goes."""
    path = machine.t.path("state.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64K"], check=True)
    qmp = machine.vm.qmp()
    machine.t.defer(qmp.close)
    qmp.cmd("blockdev-add", **{"driver": "qcow2", "node-name": "state",
                               "file": {"driver": "file", "filename": path}})

    def job(command, **arguments):
        name = f"{command}{time.monotonic_ns()}"
        start = len(qmp.events)
        qmp.cmd(command, job_id=name, tag="bench", devices=["state"], **arguments)
        qmp.wait_event("JOB_STATUS_CHANGE", timeout=600, start=start,
                       match=lambda d: d["id"] == name and d["status"] == "concluded")
        error = [j for j in qmp.cmd("query-jobs") if j["id"] == name][0].get("error")
        qmp.cmd("job-dismiss", id=name)
        if error:
            raise RuntimeError(f"{command}: {error}")

    run = lambda: job("snapshot-save", vmstate="state")  # noqa: E731
    run.after = lambda: job("snapshot-delete")
    return run


def cont(qmp):
    """Right after its last event QEMU still refuses for a moment: "not finalized yet"."""
    while True:
        try:
            return qmp.cmd("cont")
        except QmpError as error:
            if "not finalized" not in str(error):
                raise


def migrating(machine, background):
    path = machine.t.path("stream")
    qmp = machine.vm.qmp()
    machine.t.defer(qmp.close)
    names = ["events"] + (["background-snapshot"] if background else [])
    qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": n, "state": True}
                                                      for n in names])
    # As fast as it goes: by default it is held to 128 MiB/s.
    qmp.cmd("migrate-set-parameters", **{"max-bandwidth": 64 << 30})

    def run():
        start = len(qmp.events)
        qmp.cmd("migrate", uri=f"exec:cat > {path}")
        end = qmp.wait_event("MIGRATION", timeout=600, start=start,
                             match=lambda d: d["status"] in ("completed", "failed", "cancelled"))
        if end[2]["status"] != "completed":
            raise RuntimeError(f"migrate: {qmp.cmd('query-migrate')}")
        if not background:
            cont(qmp)
        size = os.path.getsize(path)
        os.unlink(path)
        return size
    return run


PEERS = (
    (FLOOR, floor, "memfd"),
    ("QEMU snapshot-save", snapshot_save, "memfd"),
    ("QEMU migrate to file", lambda m: migrating(m, False), "memfd"),
    # Refused with shared memory.
    ("QEMU background-snapshot", lambda m: migrating(m, True), "anonymous"),
)


# ---- stasis ----

def stasis_mode(machine, mode, *options):
    machine.adopt()
    return lambda: machine.vm.checkpoint("--mode", mode, *options, *machine.store, timeout=600)


OURS = (
    ("stasis live, full", lambda m: stasis_mode(m, "live", "--full"), "memfd"),
    ("stasis live, incremental", lambda m: stasis_mode(m, "live"), "memfd"),
    ("stasis cow, full", lambda m: stasis_mode(m, "cow", "--full"), "memfd"),
    ("stasis stop, full", lambda m: stasis_mode(m, "stop", "--full"), "memfd"),
)


def one_way(t, name, prepare, memory, ram, touched):
    machine = Machine(t, ram, memory, touch=half(ram) if touched else None)
    run = prepare(machine)
    after = getattr(run, "after", None)
    stops, stalls, totals, recorded = [], [], [], []
    for number in range(RUNS + 1):
        time.sleep(0.2)
        result, stop_ms, stall_ms, total_s = machine.measure(run)
        if after:
            after()
        if isinstance(result, dict):
            recorded.append(result["cost"]["pause_us"] / 1000)
        if number > 0:  # the first warms up
            stops.append(stop_ms)
            stalls.append(stall_ms)
            totals.append(total_s)
    machine.guest.check_unharmed(machine.vm, name)
    return {"way": name, "ram": ram, "touched": touched, "memory": memory, "accel": ACCEL,
            "stopped_ms": summary(stops), "stall_ms": summary(stalls), "total_s": summary(totals),
            "recorded_pause_ms": summary(recorded)}


def main():
    ways = PEERS + (OURS if HAVE_ENGINE else ())
    results = []
    for ram in SIZES:
        for touched in (False, True):
            rows = []
            for name, prepare, memory in ways:
                try:
                    found = with_case(one_way, name, prepare, memory, ram, touched)
                except Exception as error:  # pylint: disable=broad-except
                    rows.append([name, "failed", str(error)[:60], ""])
                    results.append({"way": name, "ram": ram, "touched": touched,
                                    "error": str(error)})
                    continue
                results.append(found)
                rows.append([name, ms(found["stopped_ms"]), ms(found["stall_ms"]),
                             f"{found['total_s']['median']:.2f}"])
            what = "half of it filled with random data" if touched else "untouched"
            table(f"Stop time, {ram} of RAM ({what}), {SET} rewritten all the time, {ACCEL}; "
                  f"median (most) of {RUNS}",
                  ["", "stopped ms", "guest's worst stall ms", "in all s"], rows)
    save("stop", results)
    judge(results)


def judge(results):
    """The one figure that is promised: live's stop against the floor, in this run, at 512 MiB."""
    medians = {(r["way"], r["touched"]): r["stopped_ms"]["median"] for r in results
               if r["ram"] == "512M" and "stopped_ms" in r}
    for (way, touched), live in medians.items():
        base = medians.get((FLOOR, touched))
        if way.startswith("stasis live") and base:
            verdict = "kept" if live <= 2 * base else "MISSED"
            print(f"\n  {way}{', touched' if touched else ''}: {live:.1f} ms is "
                  f"{live / base:.2f} x the floor of {base:.1f} ms (promise: 2 x): {verdict}")


main()
