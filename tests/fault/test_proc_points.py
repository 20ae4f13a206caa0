#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of proc-checkpoint, or a failure, at any step leaves VM and processes at work, no fork,
and nothing that is half listed; and the next one does."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import ask, check_no_fork, check_works, start_tree, tree_vm  # noqa: E402
from stasistest import (BUILD, Failure, add_case, case, main, new_store, procmem, shared,  # noqa: E402
                        stasis, stasis_json)

NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
POINTS = [n for n in NAMES if n.startswith("proc-")]
# Listed, whole and durable but for a crash of the host.
LISTED = ("proc-renamed",)
_common = {}


def common():
    if not _common:
        t = shared()
        vm = tree_vm(t)
        _common.update(vm=vm, root=start_tree(vm), store=new_store(t))
        check_works(t, vm, "at first")
    return _common


def processes(store):
    return stasis_json("checkpoint-list", *store) if os.path.isdir(store[1]) else []


def fails_at(t, point, how):
    c = common()
    vm, store = c["vm"], c["store"]
    n, before = len(processes(store)), ask(vm)
    result = stasis("proc-checkpoint", vm.name, "--pid", c["root"], *store, expect=None, timeout=600,
                    env={"STASIS_FAULT": f"{point}:{how}"})
    what = f"{how} at {point}"
    t.equal(result.rc, -signal.SIGKILL if how == "kill" else 1, f"{what}: exit of {result!r}")
    try:
        t.wait(lambda: check_no_fork(vm) is None, 20, f"{what}: no fork is left")
    except Failure as failure:
        raise Failure(f"{failure}: {check_no_fork(vm)}") from failure
    vm.check_runs(what=what)
    t.wait(lambda: ask(vm)["paired"] > before["paired"], 120, f"{what}: the tree works")
    t.equal(ask(vm)["bad"], 0, f"{what}: what the tree has found")
    listed = processes(store)
    t.equal(len(listed), n + (how == "kill" and point in LISTED), f"{what}: listed")
    for image in listed:
        stasis("checkpoint-verify", image["id"], *store)
    t.check(procmem.is_alive(vm.pid), "alive")


for _point in POINTS:
    add_case(fails_at, _point, "kill", promise=f"kill at {_point}: the VM works on, no fork is left")
for _point in ("proc-receiving", "proc-renamed"):
    add_case(fails_at, _point, "error", promise=f"error at {_point}: the same, and it says so",
             full=_point == "proc-renamed")


@case
def moved(t):
    """what the guest's kernel has moved before it could be read in its memory is asked for: no error"""
    c = common()
    info = stasis_json("proc-checkpoint", c["vm"].name, "--pid", c["root"], *c["store"],
                       env={"STASIS_FAULT": "proc-placed:error"})
    stasis("checkpoint-verify", info["id"], *c["store"])
    files = os.listdir(os.path.join(c["store"][1], "processes", info["id"]))
    t.check("pages-1.img" in files, files)


@case
def afterwards(t):
    """after all of these one more is taken, and what they left in the store is gone"""
    c = common()
    stasis("proc-checkpoint", c["vm"].name, "--pid", c["root"], *c["store"])
    t.equal(os.listdir(os.path.join(c["store"][1], "tmp")), [], "tmp/")
    check_works(t, c["vm"], "the original")
    c["vm"].guest.check_unharmed(c["vm"])
    c["vm"].check_nothing_left(tracked_allowed=True)


main()
