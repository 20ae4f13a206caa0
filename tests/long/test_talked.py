#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --boundary talked a checkpoint forces along who was really talked to and nobody else: of drawn
workloads of 40 tasks in 10 applications, which a closure or a checkpoint of everything has all of, a
quarter at most.

STASIS_TEST_TALKED (5) is how many workloads."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import check_no_fork, sh, start_drawn_talkers, tree_vm  # noqa: E402
from stasistest import (add_case, main, new_store, number_from_env, shared, stasis,  # noqa: E402
                        stasis_json)

APPS, TASKS = 10, 4
# A guest that the host has no time for takes its time.
PATIENT = ("--timeout", 60000)
_common = {}


def common():
    if not _common:
        t = shared()
        _common.update(vm=tree_vm(t), store=new_store(t))
    return _common["vm"], _common["store"]


def forced_along(t, seed):
    vm, store = common()
    apps, truth = start_drawn_talkers(vm, APPS, TASKS, seed)
    t.defer(sh, vm, "kill -9 $(pidof talkers) 2>/dev/null; :")
    everybody = sorted(truth)
    t.equal(len(everybody), APPS * TASKS, "tasks")

    def of(pid, boundary="talked"):
        found = stasis_json("proc-graph", vm.name, "--pid", pid, "--boundary", boundary,
                            *PATIENT)
        return sorted(member["pid"] for member in found["members"])
    t.equal(of(everybody[0], "closure"), everybody, "a closure")
    for n, app in enumerate(apps):
        # Of one task of each: all of a set have the same. It grows until all have had their turn; counting
        # begins with the first look.
        pid = app[n % len(app)]
        t.wait(lambda pid=pid: of(pid) == sorted(truth[pid]), 120,
               f"workload {seed}, of {pid}: {sorted(truth[pid])}")
    mean = sum(len(one) for one in truth.values()) / len(everybody)
    t.note(f"applications of {sorted(map(len, apps))}; forced along in the mean {mean:.1f} of "
           f"{len(everybody)} tasks ({mean / len(everybody):.2f}), at most "
           f"{max(map(len, truth.values()))}")
    t.check(mean * 4 <= len(everybody), f"{mean} of {len(everybody)}")
    # And that is what is taken.
    pid = apps[seed % APPS][0]
    info = stasis_json("proc-checkpoint", vm.name, "--pid", pid, "--boundary", "talked", *store,
                       timeout=600)
    taken = {p["pid"] for p in info["processes"]} & set(everybody)
    t.equal(sorted(taken), sorted(truth[pid]), "processes in the image")
    stasis("checkpoint-delete", info["id"], *store)
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")


for _seed in range(1, number_from_env("STASIS_TEST_TALKED", 5) + 1):
    add_case(forced_along, _seed, promise=f"workload {_seed}: the sets are the truth, a quarter at most")

main()
