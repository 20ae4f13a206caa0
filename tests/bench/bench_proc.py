#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a process is frozen for an image of it: the largest gap of its own clock, for anonymous and shared
memory of rising size, by proc-checkpoint, by a plain `criu dump` in the same guest, and by one after a pre-dump.

Two gaps are told of what stops the VM: around that stop, which is the freeze, and the largest from beginning to
end, which takes seconds and so has all else that the machine does to this guest's only CPU, a thread like others.
STASIS_BENCH_PROC_NICE is the niceness of the VM's QEMU, as a VM with deadlines would have; 0 leaves it alone.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (Qmp, RUNS, ms, new_store, number_from_env, save, summary, table,  # noqa: E402
                      verdict, with_case)
from proctree import ask, ask_gaps, end_tree, sh, start_tree, tree_vm  # noqa: E402
from stasistest import stasis, stasis_json  # noqa: E402

MEMORY = list(map(int, os.environ.get("STASIS_BENCH_PROC", "1 64 256 1024").split()))
# As much is dumped into the guest's memory, by plain CRIU and in the fork.
GUEST_RAM = f"{number_from_env('STASIS_BENCH_PROC_RAM', 384 + 3 * max(MEMORY))}M"
NICENESS = int(os.environ.get("STASIS_BENCH_PROC_NICE", "-15"))
WHERE = os.environ.get("STASIS_BENCH_PROC_WHERE")
# What proc-tree leaves out around its being asked, and a bit.
SETTLE_SECONDS = 1.3
LIMIT_MS = 5


def set_niceness(pid, niceness):
    """Of all its threads, and of its session where the scheduler groups by those."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
    try:
        with open(f"/proc/{pid}/autogroup", "w") as f:
            f.write(str(niceness))
    except OSError:
        pass  # none here


def stopped_at(qmp):
    """When the VM was last stopped, by the host's clock."""
    return [at_us for name, at_us, _ in qmp.events if name == "STOP"][-1] / 1e6


def nothing(_vm, _root, _store):
    """What this guest does to a process that nobody dumps."""
    time.sleep(3)
    return {}


def stop_alone(vm, _root, _store):
    """The floor of anything over QMP."""
    path = os.path.join(os.path.dirname(vm.observer_path), "devices")
    with Qmp(vm.observer_path) as qmp:
        qmp.cmd("stop")
        qmp.cmd("xen-save-devices-state", filename=path, live=False)
        qmp.cmd("cont")
        qmp.catch_up()
        return {"stop_ms": sum(qmp.stops_us()) / 1000, "stopped_at": stopped_at(qmp)}


def by_stasis(vm, root, store):
    with Qmp(vm.observer_path) as qmp:
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store, timeout=900)
        qmp.catch_up()
        stopped = stopped_at(qmp)
    stasis("checkpoint-delete", info["id"], *store)
    if WHERE:
        print(f"  {info['cost']}", file=sys.stderr)
    return {"stop_ms": info["cost"]["pause_us"] / 1000, "stopped_at": stopped,
            "total_s": info["cost"]["total_us"] / 1e6}


def by_criu(vm, root, _store):
    began = time.monotonic()
    sh(vm, f"mkdir /run/d && criu dump -t {root} -D /run/d --manage-cgroups=ignore --leave-running "
           ">/run/d/log 2>&1; status=$?; rm -r /run/d; exit $status", timeout=600000)
    return {"total_s": time.monotonic() - began}


def by_pre_dump(vm, root, _store):
    """The first takes most of the memory while it runs on, but freezes it too."""
    began = time.monotonic()
    sh(vm, f"mkdir -p /run/d/1 /run/d/2 && criu pre-dump -t {root} -D /run/d/1 >/run/d/log 2>&1 && "
           f"criu dump -t {root} -D /run/d/2 --prev-images-dir ../1 --track-mem "
           "--manage-cgroups=ignore --leave-running >/run/d/log 2>&1; status=$?; rm -r /run/d; "
           "exit $status", timeout=600000)
    return {"total_s": time.monotonic() - began}


WAYS = {"nothing": nothing, "stop alone": stop_alone, "proc-checkpoint": by_stasis,
        "criu dump": by_criu, "criu pre-dump, dump": by_pre_dump}

COLUMNS = (("nothing", "gap_ms", "nothing"), ("stop alone", "stop_ms", "stop alone"),
           ("stop alone", "around_ms", "gap"), ("proc-checkpoint", "stop_ms", "proc-checkpoint"),
           ("proc-checkpoint", "around_ms", "gap"), ("proc-checkpoint", "gap_ms", "in all"),
           ("criu dump", "gap_ms", "criu dump"), ("criu pre-dump, dump", "gap_ms", "pre-dump, dump"))


def once(vm, way, root, store):
    """(the largest gap in ms, what the way tells of itself)"""
    ask(vm, "reset")
    time.sleep(SETTLE_SECONDS)
    more = WAYS[way](vm, root, store)
    time.sleep(SETTLE_SECONDS)
    now, where = ask_gaps(vm)
    assert now["bad"] == 0, now
    if "stopped_at" in more:
        ago_ms = int((time.time() - more.pop("stopped_at")) * 1000)
        more["around_ms"] = ask(vm, f"ago={ago_ms}")["gap_us"] / 1000
    if WHERE:
        print(f"  {way}: {more} {where}", file=sys.stderr)
    return now["gap_us"] / 1000, more


def measure_way(vm, way, root, store, row):
    gaps, more = [], []
    for _ in range(RUNS):
        try:
            gap, told = once(vm, way, root, store)
        except Exception as error:  # pylint: disable=broad-except
            print(f"bench: {row['kind']} {row['mib']} MiB, {way}: {error}", file=sys.stderr)
            break
        gaps.append(gap)
        more.append(told)
    row[way] = {"gap_ms": summary(gaps)}
    for key in more[0] if more else ():
        row[way][key] = summary([m[key] for m in more])


def measure(t):
    path = t.path("observer")
    vm = tree_vm(t, "-qmp", f"unix:{path},server=on,wait=off", mem=GUEST_RAM)
    vm.observer_path = path
    store = new_store(t)
    sh(vm, "criu check >/dev/null 2>&1; true")
    rows = []
    for kind in ("anonymous", "shared"):
        for mib in MEMORY:
            row = {"kind": kind, "mib": mib}
            root = start_tree(vm, *((mib, 0) if kind == "anonymous" else (0, mib)), calm=False)
            set_niceness(vm.pid, NICENESS)
            for way in WAYS:
                measure_way(vm, way, root, store, row)
            set_niceness(vm.pid, 0)
            end_tree(vm, root)
            rows.append(row)
    return rows


def judge(rows):
    """What is promised: flat, and at most the VM's stop and 5 ms."""
    print()
    for row in rows:
        gap, stop = (row["proc-checkpoint"].get(key) for key in ("around_ms", "stop_ms"))
        if gap and stop:
            over = gap["median"] - stop["median"]
            verdict(f"{row['mib']} MiB {row['kind']}",
                    f"{gap['median']:.1f} ms is {over:.1f} ms beyond the stop of {stop['median']:.1f} ms",
                    f"{LIMIT_MS} ms", over <= LIMIT_MS, anywhere=True)


def main():
    rows = with_case(measure)
    what = f"QEMU at niceness {NICENESS}" if NICENESS else "QEMU as any other process"
    table(f"Largest gap of a process's own clock, Linux under TCG, {what}; ms, median (most) of {RUNS}",
          ["", *(head for _, _, head in COLUMNS)],
          [[f"{r['mib']} MiB {r['kind']}", *(ms(r[way].get(key)) for way, key, _ in COLUMNS)]
           for r in rows])
    ways = [way for way in WAYS if "total_s" in rows[0][way]]
    table("In all, s", ["", *ways],
          [[f"{r['mib']} MiB {r['kind']}", *(ms(r[way].get("total_s")) for way in ways)]
           for r in rows])
    judge(rows)
    save("proc", rows)


if __name__ == "__main__":
    main()
