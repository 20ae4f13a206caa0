#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what is tried in a Linux guest is done or has not been; an agent that is silent is seen, and
the guest goes on from before."""
import json
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import WithAgent, wait_agent  # noqa: E402
from stasistest import case, main, run_vm, stasis, stasis_start  # noqa: E402
from transactions import recover  # noqa: E402


def in_guest(script):
    return ["busybox", "sh", "-c", script]


@case
def tried_in_the_guest(t):
    """--guest runs the command in the guest, also while QEMU's monitor is in use; what it did stays or
    has not been; a guest without its agent is taken back to when it had one"""
    vm = run_vm(t, WithAgent(t), "-device", "pvpanic", options=("--agent",))
    wait_agent(t, vm)
    done = stasis("try", vm.name, "--guest", "--", *in_guest("echo x > /made; echo said; exit 4"),
                  expect=4)
    t.check("said" in done.out, done)
    stasis("agent-exec", vm.name, "--", *in_guest("test ! -e /made"))
    stasis("try", vm.name, "--guest", "--on", "panic,exit", "--",
           *in_guest("echo x > /made"))
    stasis("agent-exec", vm.name, "--", *in_guest("test -e /made"))
    guard = stasis_start(t, "guard", vm.name, "--json", "--progress", "json", "--every", "1000",
                         "--keep", "40", "--on", "agent-lost=12", "--do", "rollback")
    told = []

    def has_told(what):
        line = guard.stderr.readline()
        if not line:
            raise RuntimeError(f"the guard has ended: {told}")
        told.append(json.loads(line)["event"])
        return told[-1] == what
    for _ in range(3):
        t.wait(lambda: has_told("image"), 120, "an image")
    # The agent and its workers, but not what runs this. That ends with its conversation, which is not to
    # be over before it has come to that.
    stasis("agent-exec", vm.name, "--timeout", 3000, "--",
           *in_guest("for p in $(busybox pidof stasis-agent); do busybox kill -STOP $p; done"),
           expect=None)
    t.wait(lambda: has_told("rolled-back"), 180, "it goes on from before")
    wait_agent(t, vm)
    guard.send_signal(signal.SIGINT)
    out, _ = guard.communicate(timeout=120)
    t.equal(json.loads(out)["result"]["rollbacks"], 1, "rollbacks")
    stasis("agent-exec", vm.name, "--", *in_guest("test -e /made"))


@case
def held_and_killed(t):
    """a try that is held lets the guest's command go on, and is told of its end later; one that is killed at
    any moment leaves the guest as it was, without the command, or as the command has left it"""
    vm = run_vm(t, WithAgent(t), options=("--agent",))
    wait_agent(t, vm)
    process = stasis_start(t, "try", vm.name, "--guest", "--",
                           *in_guest("echo HELD-BEGINS > /dev/console; busybox sleep 2; "
                                     "echo HELD-ENDS > /dev/console; exit 3"))
    t.wait(lambda: "HELD-BEGINS" in vm.guest.console(vm), 120, "the command runs")
    process.send_signal(signal.SIGSTOP)
    t.wait(lambda: "HELD-ENDS" in vm.guest.console(vm), 120, "it goes on to its end")
    process.send_signal(signal.SIGCONT)
    t.equal(process.wait(120), 3, "its status, heard late")
    rng = random.Random(5)
    ends = []
    for n in range(2):
        process = stasis_start(t, "try", vm.name, "--guest", "--",
                               *in_guest(f"echo {n} > /tried; echo TRIED-{n} > /dev/console; "
                                         "busybox sleep 1.5; echo whole >> /tried"))
        if n % 2:
            t.wait(lambda n=n: f"TRIED-{n}" in vm.guest.console(vm), 120, "the command runs")
        time.sleep(rng.random())
        process.kill()
        process.communicate(timeout=120)
        recover(t, vm)
        vm.check_runs(what=f"try {n} was killed")
        wait_agent(t, vm)
        found = stasis("agent-exec", vm.name, "--",
                       *in_guest("busybox cat /tried 2>/dev/null; busybox pidof sleep"),
                       expect=None).out.split()
        ends.append(found)
        t.check(found in ([], [str(n), "whole"]), f"try {n} was killed: {found}")
        stasis("agent-exec", vm.name, "--", *in_guest("busybox rm -f /tried"))
    t.note(f"found in the guest: {ends}")


main()
