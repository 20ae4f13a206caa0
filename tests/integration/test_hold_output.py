#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --hold-output nothing that a guest sends is seen outside before an image that remembers it
is durable; and however the series ends, the VM has its network as before."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from held import go_on, held  # noqa: E402
from heldoutput import FAST, Outside, killed_often, killed_until_ahead, sender, series  # noqa: E402
from stasistest import add_case, case, image_ids, main, new_store, run_vm, shared, stasis  # noqa: E402

FILTER = "stasis-hold-"
_vms = []


def sending():
    """One VM for all cases that leave it as it was, and who sees what it sends."""
    if not _vms:
        outside = Outside(shared())
        # So slowly that what a busy host's command holds for minutes has room.
        _vms.append((sender(shared(), outside, send=20000), outside))
    return _vms[0]


def check_flows(t, vm, outside, what):
    """Nothing is held any more, and all that was sent has come."""
    def free():
        with vm.qmp() as qmp:
            return FILTER not in qmp.hmp("info network")
    t.wait(free, 120, f"{what}: no filter is left")
    before = outside.count
    t.wait(lambda: outside.count > before + 20, 120, f"{what}: the VM sends")
    t.wait(lambda: outside.missing() == 0, 120, f"{what}: no frame was lost")


@case
def never_ahead(t):
    """QEMU killed 3 times at random: what was seen is in the newest image, each time"""
    killed_often(t, 3)


@case
def ahead_without(t):
    """without it what was seen is not, so that the test above can tell"""
    t.check(killed_until_ahead(t), "never ahead of the newest image")


def killed_at(t, point):
    vm, outside = sending()
    store = new_store(t)
    result = stasis("checkpoint-create", vm.name, "--every", 20, "--hold-output", *store,
                    expect=-signal.SIGKILL, env={"STASIS_FAULT": f"{point}:kill"})
    t.equal(result.err, "", "stderr")
    check_flows(t, vm, outside, f"killed at {point}")


for _point in ("hold-put", "stopped", "committed", "hold-released"):
    add_case(killed_at, _point, promise=f"stasis killed at {_point}: the VM sends as before")


def not_yet(t, point):
    vm, outside = sending()
    process = held(t, point, "checkpoint-create", vm.name, "--every", 20, "--hold-output", *new_store(t))
    mark = vm.guest.sent(vm)
    t.wait(lambda: vm.guest.sent(vm) > mark + 20, 120, "the guest sends on")
    t.check(outside.most <= mark, f"{outside.most} was seen, and {mark} may have been")
    go_on(process)
    t.wait(lambda: outside.most > mark + 20, 120, "it is let out")
    process.send_signal(signal.SIGINT)
    t.equal(process.wait(120), 130, "exit status")
    check_flows(t, vm, outside, f"held at {point}")


for _point in ("manifest-written", "renamed"):
    add_case(not_yet, _point, promise=f"with an image that is at {_point} nothing is let out yet")


@case
def fails_cleanly(t):
    """a failure at hold-put leaves no image, one at hold-released says which there is; none a filter"""
    vm, outside = sending()
    store = new_store(t)
    create = ["checkpoint-create", vm.name, "--every", 20, "--hold-output", *store]
    stasis(*create, expect=1, env={"STASIS_FAULT": "hold-put:error"})
    t.equal(image_ids(store), [], "images")
    check_flows(t, vm, outside, "a failure at hold-put")
    result = stasis(*create, expect=1, env={"STASIS_FAULT": "hold-released:error"})
    t.check(image_ids(store)[0] in result.err, result)
    check_flows(t, vm, outside, "a failure at hold-released")


@case
def interrupted(t):
    """Ctrl-C in the middle of a series lets go what is held"""
    vm, outside = sending()
    process = series(t, vm, new_store(t), "--hold-output", every=10)
    before = outside.count
    t.wait(lambda: outside.count > before, 120, "something is let out")
    process.send_signal(signal.SIGINT)
    t.equal(process.wait(120), 130, "exit status")
    check_flows(t, vm, outside, "interrupted")


@case
def left_behind(t):
    """what somebody held who is no more, and whose lifeline is neither, is let go by the next command"""
    vm, outside = sending()
    with vm.qmp() as qmp:
        for i in (2, 10, 1):
            qmp.cmd("object-add", **{"qom-type": "filter-buffer", "id": f"{FILTER}{i}-0",
                                     "netdev": "out", "queue": "rx", "interval": 600000000})
    stasis("checkpoint-create", vm.name, *new_store(t))
    check_flows(t, vm, outside, "after the next command")


def chosen(t, interface, is_held):
    outside = Outside(t)
    vm = sender(t, outside, "-netdev", "user,id=other", "-device", "virtio-net-pci,netdev=other,id=nic1", send=20000)
    process = held(t, "manifest-written", "checkpoint-create", vm.name, "--every", 20, "--hold-output",
                   "--hold-only", interface, *new_store(t))
    mark = vm.guest.sent(vm)
    t.wait(lambda: vm.guest.sent(vm) > mark + 20, 120, "the guest sends on")
    if is_held:
        t.check(outside.most <= mark, f"{outside.most} was seen, and {mark} may have been")
    else:
        t.wait(lambda: outside.most > mark, 120, "it is seen at once")
    go_on(process)
    t.wait(lambda: outside.most > mark + 20, 120, "it is let out")
    process.send_signal(signal.SIGINT)
    t.equal(process.wait(120), 130, "exit status")
    check_flows(t, vm, outside, interface)


add_case(chosen, "out", True, promise="with --hold-only that interface's output is held")
add_case(chosen, "nic1", False, promise="and that of others is not")


@case
def refused(t):
    """without a series, with a long period, and without a network interface: a clear error, no image"""
    vm, outside = sending()
    store = new_store(t)
    for options in ([], ["--count", 3], ["--every", 120000]):
        result = stasis("checkpoint-create", vm.name, "--hold-output", *options, *store, expect=2)
        t.check("--every" in result.err, result)
    check_flows(t, vm, outside, "refused")
    result = stasis("checkpoint-create", vm.name, "--hold-output", "--every", 20, "--hold-only", "nic7", *store,
                    expect=12)
    t.check('"nic7"' in result.err and result.err.count("\n") == 1, result)
    stasis("checkpoint-create", vm.name, "--hold-only", "out", *store, expect=2)
    check_flows(t, vm, outside, "refused by name")
    silent = run_vm(t, Bare(mem="32M", set="1M"), accel=FAST)
    result = stasis("checkpoint-create", silent.name, "--hold-output", "--every", 20, *store, expect=1)
    t.check("no network interface" in result.err and result.err.count("\n") == 1, result)
    t.equal(image_ids(store), [], "images")
    silent.check_runs()
    silent.check_nothing_left(tracked_allowed=True)


main()
