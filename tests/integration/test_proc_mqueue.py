#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: processes that talk by POSIX message queues go on with all messages in them, in their order,
whoever waited in one, and by stock CRIU, too; what can't be taken is refused beforehand."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import check_no_fork, sh  # noqa: E402
from queuering import END, TAKE_NAME, check_ring, ring_vm, start_ring  # noqa: E402
from stasistest import case, main, new_store, shared, stasis, stasis_json  # noqa: E402
from stockcriu import disk_for_criu, export_for_criu, restore_by_criu  # noqa: E402

_common = {}


def common():
    """A VM with a ring of queues at work, and an image of it."""
    if not _common:
        t = shared()
        disk, options = disk_for_criu(t)
        vm = ring_vm(t, *options)
        root, store = start_ring(vm), new_store(t)
        before = check_ring(t, vm, "at first")
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store)
        _common.update(vm=vm, root=root, store=store, disk=disk, info=info, before=before)
    return _common


def look(vm):
    """What /queue-ring is: its owner, mode and what waits in it."""
    return sh(vm, "mkdir -p /mq; mount -t mqueue mq /mq; stat -c '%u %g %a %n' /mq/*; umount /mq")


@case
def taken(t):
    """the original works on, with its queue; the image says what CRIU does not"""
    c = common()
    check_ring(t, c["vm"], "the original", c["before"])
    t.equal(look(c["vm"]), "7 8 640 /mq/queue-ring\n", "the queue")
    t.equal(len(c["info"]["processes"]), 3, c["info"])
    t.check("mqueue.bin" in os.listdir(os.path.join(c["store"][1], "processes", c["info"]["id"])),
            "its file")


@case
def replaced(t):
    """a queue of its name is left alone until --replace is given; then they go back, with its messages"""
    c = common()
    vm, image = c["vm"], (c["info"]["id"], *c["store"])
    reached = check_ring(t, vm, "before")
    sh(vm, f"{END}; {TAKE_NAME}")
    result = stasis("proc-restore", *image, expect=1)
    t.check("/queue-ring" in result.err and "--replace" in result.err and result.err.count("\n") == 1,
            f"{result!r}")
    t.check(look(vm) != "7 8 640 /mq/queue-ring\n", "left alone")
    stasis("proc-restore", *image, "--replace")
    now = check_ring(t, vm, "replaced", c["before"])
    t.check(now["received"] < reached["received"] + 100000, f"{now} {reached}")
    t.equal(look(vm), "7 8 640 /mq/queue-ring\n", "the queue")


@case
def by_stock_criu(t):
    """by `criu restore` with the options that stasis-mqueue adds, from an exported directory alone"""
    c = common()
    vm = c["vm"]
    directory, command = export_for_criu(t, c["info"], c["store"])
    t.check("DIR/stasis-mqueue DIR criu restore" in command, command)
    sh(vm, END)
    restore_by_criu(vm, c["disk"], directory, command)
    check_ring(t, vm, "restored by criu", c["before"])


@case
def refused(t):
    """before anything is stopped: who is told by mq_notify, and --direct"""
    c = common()
    vm = c["vm"]
    sh(vm, END)
    root = start_ring(vm)
    result = stasis("proc-checkpoint", vm.name, "--pid", root, "--direct", *c["store"], expect=4)
    t.check("message queue" in result.err and result.err.count("\n") == 3, f"{result!r}")
    sh(vm, END)
    root = start_ring(vm, "notify")
    result = stasis("proc-checkpoint", vm.name, "--pid", root, *c["store"], expect=4)
    t.check("mq_notify" in result.err and "/queue-ring-n" in result.err and
            result.err.count("\n") == 3, f"{result!r}")
    t.equal(check_no_fork(vm), None, "forks")
    check_ring(t, vm, "left alone")


main()
