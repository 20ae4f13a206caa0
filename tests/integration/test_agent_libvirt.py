#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the agent in a libvirt domain is found by the channel that `prepare` gives it, and is told of
a restore and a clone as that of any VM."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
from agentguest import MACHINE_ID, WithAgent, wait_agent  # noqa: E402
from libvirthost import URI, Domain, destroy, forget, host, make_domain, start_domain  # noqa: E402
from stasistest import case, fresh_name, main, new_store, stasis, stasis_json  # noqa: E402

os.environ["STASIS_CONNECT"] = URI


def known(t, name, guest):
    """A domain that stasis started."""
    t.defer(forget, name)
    vm = Domain(t, guest, name)
    vm.learn()
    return vm


@case
def domain(t):
    """agent-info, agent-exec, and a domain that goes on from an image"""
    host(t)
    vm = make_domain(t, WithAgent(t, machine="q35"), "tcg", start=False)
    stasis("prepare", vm.name, "--apply")
    start_domain(vm)
    wait_agent(t, vm)
    t.equal(stasis_json("agent-info", vm.name)["n_instants"], 0, "told of instants")
    t.equal(stasis("agent-exec", vm.name, "--", "busybox", "echo", "hello").out, "hello\n", "exec")
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    t.equal(stasis("agent-ping", vm.name).rc, 0, "agent-ping after a checkpoint")
    destroy(vm.name)
    time.sleep(2)
    stasis("restore", image, *store)
    back = known(t, vm.name, vm.guest)
    said = stasis_json("agent-info", back.name)
    t.equal((said["n_instants"], said["last_instant"], said["machine_id"]),
            (1, "restored", MACHINE_ID), "agent-info")
    t.check(abs(said["clock_ahead_us"]) < 1e6, f"clock: {said['clock_ahead_us']} us")
    name = fresh_name("clone")
    t.defer(forget, name)
    stasis("clone", image, "--name", name, *store)
    twin = known(t, name, vm.guest)
    said = stasis_json("agent-info", twin.name)
    t.equal((said["n_instants"], said["last_instant"]), (1, "cloned"), "agent-info of the clone")
    t.check(said["machine_id"] != MACHINE_ID, "the clone's machine id")


if __name__ == "__main__":
    libvirthost.enter()
    main()
