#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a process is frozen for an image of it: the largest gap of its own clock, for anonymous and shared
memory of rising size, by proc-checkpoint and by plain `criu dump` in the same guest."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import RUNS, new_store, number_from_env, save, summary, table, with_case  # noqa: E402
from proctree import ask, end_tree, sh, start_tree, tree_vm  # noqa: E402
from stasistest import stasis, stasis_json  # noqa: E402

MEMORY = os.environ.get("STASIS_BENCH_PROC", "1 64 256 1024").split()
# 1 GiB is dumped into the guest's memory, by plain CRIU and in the fork.
GUEST_RAM = f"{number_from_env('STASIS_BENCH_PROC_RAM', 512 + 3 * max(map(int, MEMORY)))}M"


def idle(vm, _root, _store):
    """What this guest does to a process that nobody dumps."""
    sh(vm, "sleep 2")
    return {}


def by_stasis(vm, root, store):
    info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store, timeout=600)
    stasis("checkpoint-delete", info["id"], *store)
    return {"pause_ms": info["cost"]["pause_us"] / 1000,
            "total_s": info["cost"]["total_us"] / 1e6}


def by_criu(vm, root, _store):
    began = time.monotonic()
    sh(vm, f"mkdir /run/d && criu dump -t {root} -D /run/d --manage-cgroups=ignore --leave-running "
           ">/run/d/log 2>&1; status=$?; rm -r /run/d; exit $status", timeout=600000)
    return {"total_s": time.monotonic() - began}


def by_pre_dump(vm, root, _store):
    """What is frozen by the last of two: the first takes most of the memory while it runs on."""
    began = time.monotonic()
    sh(vm, f"mkdir -p /run/d/1 /run/d/2 && criu pre-dump -t {root} -D /run/d/1 "
           ">/run/d/log 2>&1", timeout=600000)
    ask(vm, "reset")
    sh(vm, f"criu dump -t {root} -D /run/d/2 --prev-images-dir ../1 --track-mem "
           "--manage-cgroups=ignore --leave-running >/run/d/log 2>&1; status=$?; rm -r /run/d; "
           "exit $status", timeout=600000)
    return {"total_s": time.monotonic() - began}


WAYS = {"nothing": idle, "proc-checkpoint": by_stasis, "criu dump": by_criu,
        "criu pre-dump, dump": by_pre_dump}


def measure(t):
    vm = tree_vm(t, mem=GUEST_RAM)
    store = new_store(t)
    rows = []
    for kind in ("anonymous", "shared"):
        for mib in MEMORY:
            root = start_tree(vm, *((mib, 0) if kind == "anonymous" else (0, mib)))
            for way, run in WAYS.items():
                gaps, more = [], []
                for _ in range(RUNS):
                    ask(vm, "reset")
                    try:
                        more.append(run(vm, root, store))
                    except Exception as error:  # pylint: disable=broad-except
                        print(f"bench: {kind} {mib} MiB, {way}: {error}", file=sys.stderr)
                        break
                    now = ask(vm)
                    assert now["bad"] == 0, now
                    gaps.append(now["gap_us"] / 1000)
                row = {"kind": kind, "mib": int(mib), "way": way, "gap_ms": summary(gaps)}
                for key in more[0] if more else ():
                    row[key] = summary([m[key] for m in more])
                rows.append(row)
            end_tree(vm, root)
    return rows


def cell(stats):
    return f"{stats['median']:.1f} ({stats['max']:.1f})" if stats else "-"


def main():
    rows = with_case(measure)
    table(f"Largest gap of a process's own clock, Linux under TCG, ms, median (most) of {RUNS}",
          ["", "by", "gap", "the VM's pause", "took, s"],
          [[f"{r['mib']} MiB {r['kind']}", r["way"], cell(r["gap_ms"]), cell(r.get("pause_ms")),
            cell(r.get("total_s"))] for r in rows])
    save("proc", rows)


if __name__ == "__main__":
    main()
