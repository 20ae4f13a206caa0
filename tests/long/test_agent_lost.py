#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an agent that works for somebody is not taken for lost, however long that takes; one that has
stopped under that work is."""
import json
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import WithAgent, wait_agent  # noqa: E402
from stasistest import case, main, run_vm, stasis, stasis_start  # noqa: E402

LIMIT_S = 15


def in_guest(script):
    return ["--", "busybox", "sh", "-c", script]


@case
def a_busy_channel(t):
    """a command of twice the guard's time has the channel to its end; then one under which the agent
    stops: the guard takes the VM back before that command's time is up"""
    vm = run_vm(t, WithAgent(t), options=("--agent",))
    wait_agent(t, vm)
    guard = stasis_start(t, "guard", vm.name, "--json", "--progress", "json", "--every", "2000",
                         "--keep", "40", "--on", f"agent-lost={LIMIT_S}", "--do", "rollback")
    told = []

    def read():
        for line in guard.stderr:
            told.append(json.loads(line)["event"])
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    t.wait(lambda: told.count("image") >= 2, 120, "images")
    stasis("agent-exec", vm.name, "--timeout", 300000, *in_guest(f"sleep {2 * LIMIT_S}"))
    t.check("failure" not in told, "the agent was taken for lost while it worked")
    work = stasis_start(t, "agent-exec", vm.name, "--timeout", 600000,
                        *in_guest("busybox kill -STOP $(busybox pidof stasis-agent); sleep 600"))
    t.wait(lambda: "rolled-back" in told, 240, "it goes on from before")
    # It may go on to wait for an answer, and has the channel meanwhile; no reason to go back again.
    n = told.count("image")
    t.wait(lambda: told.count("image") >= n + LIMIT_S // 2, 240, "images of the time after")
    work.send_signal(signal.SIGINT)
    work.communicate(timeout=120)
    wait_agent(t, vm)
    guard.send_signal(signal.SIGINT)
    t.equal(guard.wait(120), 0, "the guard's end")
    reader.join(60)
    # An answer that the host hears late may come after an image of the moment behind it: then it goes back
    # once more.
    t.check(1 <= told.count("failure") <= 2, f"failures in {told}")


main()
