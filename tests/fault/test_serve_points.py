#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of agent-serve at any step leaves nobody waiting: who asked for a checkpoint has it from
whoever serves next, and goes on from it; after a failure it is told, and the server serves on."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from coopguest import Server, coop_vm, sh_beside, start_coop, wait_log  # noqa: E402
from stasistest import (add_case, case, image_ids, main, new_store, shared, stasis)  # noqa: E402

_common = {}


def common():
    if not _common:
        t = shared()
        _common.update(vm=coop_vm(t), store=new_store(t))
    return _common["vm"], _common["store"]


def asks(t, point):
    vm, _ = common()
    log = f"/tmp/{point}"
    sh_beside(vm, f"rm -f {log}")
    start_coop(vm, log, "freeze", "vm")
    wait_log(t, vm, log, "line 7 count 1")
    return log


def killed(t, point):
    vm, store = common()
    log = asks(t, point)
    rc, _, err = Server(t, vm, *store, env={"STASIS_FAULT": f"{point}:kill"}).wait()
    t.equal(rc, -signal.SIGKILL, f"killed at {point}: {err}")
    vm.check_runs(what=f"killed at {point}")
    server = Server(t, vm, *store)
    wait_log(t, vm, log, "returned 0 line 8 count 1", what="whoever serves next")
    t.equal(server.end()[0], 0, "the next one")
    ids = image_ids(store)
    stasis("checkpoint-verify", ids[-1], *store)
    # Its number is right: the guest learns that it was taken back.
    stasis("rollback", vm.name, ids[-1], "--force", *store)
    server = Server(t, vm, *store)
    t.equal(wait_log(t, vm, log, "returned 1 line 8 count 1"),
            ["line 7 count 1", "returned 1 line 8 count 1"], "rolled back")
    t.equal(server.end()[0], 0, "Ctrl-C")


def fails(t, point, result):
    vm, store = common()
    log = asks(t, point)
    server = Server(t, vm, *store, env={"STASIS_FAULT": f"{point}:error"})
    wait_log(t, vm, log, f"returned {result} line 8 count 1")
    log = asks(t, point)
    wait_log(t, vm, log, "returned 0 line 8 count 1", what="it serves on")
    rc, _, err = server.end()
    t.check(rc == 0 and (result == 0 or err.count(point) == 1), rc, err)


@case
def let_go(t):
    """kill before the image: programs that got ready go on at once, also when nobody serves any more"""
    vm, store = common()
    log = "/tmp/let-go"
    pid = start_coop(vm, log, "told")
    t.defer(sh_beside, vm, f"kill {pid}")
    wait_log(t, vm, log, "listening")
    rc, _, err = Server(t, vm, "--every", "1s", *store, env={"STASIS_FAULT": "serve-ready:kill"}).wait()
    t.equal(rc, -signal.SIGKILL, err)
    t.equal(wait_log(t, vm, log, "after"), ["listening", "before", "after"], "what it is told")


for _point in ("serve-taken", "serve-ready", "serve-imaged", "serve-told"):
    add_case(killed, _point, promise=f"kill at {_point}: the next one serves, and rolls back")
for _point, _result, _full in (("serve-taken", -121, True), ("serve-ready", -121, False),
                               ("serve-told", 0, True)):
    add_case(fails, _point, _result, full=_full,
             promise=f"error at {_point}: the program is told, the next one served")

main()
