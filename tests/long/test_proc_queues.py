#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: POSIX message queues of a stasis-session are in its own IPC namespace wherever it goes on, and
a queue that somebody outside has, too, stays the same one."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import sh  # noqa: E402
from queuering import TAKE_NAME, check_ring, ring_vm, start_ring  # noqa: E402
from stasistest import case, main, new_store, stasis, stasis_json  # noqa: E402


@case
def session(t):
    """a session with an IPC namespace of its own goes on in another VM, where the same name is taken, with
    limits lower than those of its queue"""
    vm, store = ring_vm(t), new_store(t)
    first = start_ring(vm, session="stasis-session -b --")
    t.wait(lambda: stasis("agent-exec", vm.name, "--", "queue-ring", "ask", expect=None).rc == 0, 120,
           "it answers")
    before = check_ring(t, vm, "in a session")
    info = stasis_json("proc-checkpoint", vm.name, "--pid", first, *store)
    t.equal((info["session"], len(info["processes"])), (True, 4), info)
    other = ring_vm(t)
    sh(other, f"{TAKE_NAME}; echo 5 > /proc/sys/fs/mqueue/msg_max")
    said = stasis_json("proc-restore", info["id"], "--domain", other.name, *store)
    check_ring(t, other, "in another VM", before)
    t.equal(sh(other, f"ls -l /proc/{said['pid']}/ns/ipc /proc/self/ns/ipc | sed 's/.*-> //' | sort -u "
                      "| wc -l"), "2\n", "IPC namespaces")
    # And from there on: what was restored is taken again.
    again = stasis_json("proc-checkpoint", other.name, "--pid", said["pid"], *store)
    stasis("proc-restore", again["id"], "--replace", *store)
    check_ring(t, other, "taken again", before)


@case
def cut(t):
    """who has the queue and stays outside keeps it, and those who are restored get that one"""
    vm, store = ring_vm(t), new_store(t)
    root = start_ring(vm, "other")
    both = stasis_json("proc-checkpoint", vm.name, "--pid", root, "--dry-run", *store)
    t.equal(len(both), 4, f"with the other one: {both}")
    name = next(e["object"] for e in stasis_json("proc-graph", vm.name, "--pid", root)["edges"]
                if e["relation"] == "mqueue" and "/queue-ring[" in e["object"])
    info = stasis_json("proc-checkpoint", vm.name, "--pid", root, "--boundary", "tree", *store)
    pids = {p["pid"] for p in info["processes"]}
    other = ({m["pid"] for m in both} - pids).pop()
    t.equal(len(pids), 3, f"without {name}")
    sh(vm, f"kill -9 {' '.join(map(str, pids))}; while [ -e /proc/{root} ]; do usleep 10000; done")
    stasis("proc-restore", info["id"], *store)
    inode = sh(vm, f"stat -Lc %i /proc/{other}/fd/*").strip()
    t.check(inode in sh(vm, f"stat -Lc %i /proc/{root}/fd/*").split(), "the same queue")


main()
