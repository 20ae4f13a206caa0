#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasis_freeze() returns 1 at the line where it was called in whoever goes on from an image, each
time: STASIS_FREEZES (100) VMs restored from one image, and as often a process that is restored in another
VM; and an error, in time, where nobody serves."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from coopguest import (Server, coop_vm, log_of, sh_beside, start_coop,  # noqa: E402
                       wait_log)
from stasistest import (case, main, new_store, number_from_env, restored_vm, shared,  # noqa: E402
                        stasis)

TIMES = number_from_env("STASIS_FREEZES", 100)
PID = 21000
_common = {}


def common():
    if not _common:
        t = shared()
        _common.update(vm=coop_vm(t, mem="128M"), store=new_store(t))
    return _common["vm"], _common["store"]


def frozen(t, scope, log, **how):
    """The image of a program that asks for the 3rd time: it has gone on from nothing yet."""
    vm, store = common()
    start_coop(vm, log, "freeze", scope, 3, **how)
    rc, ids, err = Server(t, vm, "--count", 3, "--min-interval", 10, *store).wait()
    t.equal((rc, len(ids)), (0, 3), err)
    wait_log(t, vm, log, "returned 0 line 8 count 3")
    return ids[-1]


@case
def of_the_vm(t):
    """VMs from one image: each returns 1 at that line, with what it had counted, and so on from there"""
    vm, store = common()
    image = frozen(t, "vm", "/tmp/v")
    want = [line for n in (1, 2) for line in (f"line 7 count {n}", f"returned 0 line 8 count {n}")]
    want += ["line 7 count 3", "returned 1 line 8 count 3"]
    for i in range(TIMES):
        other = restored_vm(t, image, store, vm.guest)
        t.equal(wait_log(t, other, "/tmp/v", want[-1]), want, f"time {i}")
        stasis("kill", other.name)


@case
def of_a_process(t):
    """a process, restored in another VM again and again: the same"""
    vm, store = common()
    image = frozen(t, "process", "/tmp/p", pid=PID)
    other = coop_vm(t, mem="128M")
    for i in range(TIMES):
        sh_beside(other, "rm -f /tmp/p")
        stasis("proc-restore", image, "--domain", other.name, *store)
        t.equal(wait_log(t, other, "/tmp/p", "returned 1 line 8 count 3"),
                ["returned 1 line 8 count 3"], f"time {i}")
        t.wait(lambda: sh_beside(other, f"[ -e /proc/{PID} ] && echo there; true") == "", 60, "it ends")
    t.check(log_of(vm, "/tmp/p")[-1] == "returned 0 line 8 count 3", "nothing came back")


@case
def nobody_serves(t):
    """where nobody serves it is told so after ten seconds"""
    vm, _ = common()
    start_coop(vm, "/tmp/nobody", "freeze", "vm")
    wait_log(t, vm, "/tmp/nobody", "returned -112 line 8 count 1", what="EHOSTDOWN")


main()
