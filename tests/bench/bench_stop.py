#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long the VM stands still: each mode of stasis beside QEMU's own ways, in one run.

"stopped" is QEMU's STOP event to its RESUME event. "stall" is the longest gap that the guest itself
saw by its TSC, which also has what happens outside of the stop: page faults, a busy host.
"""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, BUILD, HAVE_ENGINE, RUNS, SET, SIZES, SIZES_TOLD, Machine,  # noqa: E402
                      QmpError, environment, half, ms, number_from_env, save, size_bytes, summary, table, verdict,
                      verdict_beside, with_case)

# A stop from inside QEMU takes as long on one VM as on itself, but up to a fifth longer or shorter on
# another one that was started the same way: where QEMU's memory happens to lie.
MACHINES = number_from_env("STASIS_BENCH_MACHINES", 3)
FLOOR = "QMP stop, device state, cont"
INSIDE = "the same inside QEMU"
LIVE = "stasis live, prepared"
# Unless sizes are told: where the machine has so much, and what QEMU and we need besides.
LARGE, BESIDE = "16G", "2G"


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
        # It tells of its end before it has tidied up, and then refuses the next one.
        while any(i["type"] == "migration" for i in qmp.cmd("query-yank")):
            time.sleep(0.001)
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


def floor_inside(machine):
    """A stop by the shim with nothing to copy in it."""
    machine.adopt()
    tool = os.path.join(BUILD, "tests", "lib", "stop-floor")
    return lambda: subprocess.run([tool, machine.vm.name], check=True, env=environment(),
                                  stdout=subprocess.DEVNULL)


def busy(machine):
    """No stop at all, but another process at work on the other CPU, about as long as a checkpoint:
    what the host itself does to the guest then."""
    def run():
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            pass
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
    (INSIDE, floor_inside, "prepared"),
    (LIVE, lambda m: stasis_mode(m, "live"), "prepared"),
    (LIVE + ", full", lambda m: stasis_mode(m, "live", "--full"), "prepared"),
    ("no stop, a busy process beside", busy, "prepared"),
)


def on_machine(t, prepare, memory, ram, touched, name, found):
    """RUNS of one way on a machine of its own."""
    prepared = memory == "prepared"
    machine = Machine(t, ram, "memfd" if prepared else memory, prepared=prepared,
                      touch=half(ram) if touched else None)
    run = prepare(machine)
    after = getattr(run, "after", None)
    for number in range(RUNS + 1):
        time.sleep(0.2)
        result, stop_ms, stall_ms, total_s = machine.measure(run)
        if after:
            after()
        if number > 0:  # the first warms up
            found["stopped_ms"].append(stop_ms)
            found["stall_ms"].append(stall_ms)
            found["total_s"].append(total_s)
            if isinstance(result, dict):
                found["recorded_pause_ms"].append(result["cost"]["pause_us"] / 1000)
    machine.guest.check_unharmed(machine.vm, name)


def one_way(name, prepare, memory, ram, touched):
    found = {k: [] for k in ("stopped_ms", "stall_ms", "total_s", "recorded_pause_ms")}
    for _ in range(MACHINES if memory == "prepared" else 1):
        with_case(on_machine, prepare, memory, ram, touched, name, found)
    return {"way": name, "ram": ram, "touched": touched, "memory": memory, "accel": ACCEL,
            **{k: summary(values) for k, values in found.items()}}


def main():
    ways = [w for w in PEERS + (OURS if HAVE_ENGINE else ())
            if re.search(os.environ.get("STASIS_BENCH_WAYS", ""), w[0])]
    results = []
    large = large_fits() if SIZES_TOLD is None else None
    for ram in SIZES + ([LARGE] if large else []):
        for touched in (False, True):
            rows = []
            for name, prepare, memory in ways:
                try:
                    found = one_way(name, prepare, memory, ram, touched)
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
    judge(results)
    if large is False:
        verdict(f"{LIVE}, {LARGE}: beside {SIZES[0]}", "not run: memory", "1.2 x", None)
    save("stop", results)


def large_fits():
    with open("/proc/meminfo") as f:
        available = int(re.search(r"MemAvailable:\s*(\d+) kB", f.read()).group(1)) * 1024
    return available >= size_bytes(LARGE) + size_bytes(BESIDE)


def judge(results):
    """What is promised, in this run: live's stop against its floor at 512 MiB; a prepared VM's
    against its own floor, against its growth with RAM, and against what QEMU does."""
    medians = {(r["way"], r["ram"], r["touched"]): r["stopped_ms"]["median"] for r in results
               if "stopped_ms" in r}
    print()
    for (way, ram, touched), live in medians.items():
        what = f"{way}, {ram}{', touched' if touched else ''}"
        prepared = way.startswith(LIVE)
        floor_ms = medians.get((INSIDE if prepared else FLOOR, ram, touched))
        if floor_ms and (prepared or (way.startswith("stasis live") and ram == "512M")):
            verdict_beside(f"{what}: stop beside the floor", live, floor_ms, 1.5 if prepared else 2)
        if not prepared:
            continue
        if (way, SIZES[0], touched) in medians and ram != SIZES[0]:
            verdict_beside(f"{what}: beside {SIZES[0]}", live, medians[(way, SIZES[0], touched)], 1.2)
        for peer, most in (("QEMU background-snapshot", 1), ("QEMU migrate to file", 0.1)):
            if (peer, ram, touched) in medians:
                verdict_beside(f"{what}: beside {peer}", live, medians[(peer, ram, touched)], most)


if __name__ == "__main__":
    main()
