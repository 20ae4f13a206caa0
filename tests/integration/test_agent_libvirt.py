#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the agent in a libvirt domain is found by the channel that `prepare` gives it, freezes file
systems, and is told of a restore and a clone as that of any VM; it can be put into a domain that is shut
off."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import held  # noqa: E402
import libvirthost  # noqa: E402
from agentguest import (MACHINE_ID, WithAgent, check_clock, set_clock_back,  # noqa: E402
                        wait_agent)
from libvirthost import URI, Domain, destroy, forget, host, make_domain, start_domain  # noqa: E402
from guests import Bare  # noqa: E402
from logdisks import journal_is_needed, logged, make_disk  # noqa: E402
from logdomains import logs_on  # noqa: E402
from stasistest import (case, fresh_name, image_ids, main, new_store, shared, stasis,  # noqa: E402
                        stasis_json)
from systemdisk import SYSTEM, check_installed, need_libguestfs, system_disk  # noqa: E402

os.environ["STASIS_CONNECT"] = URI


def known(t, name, guest):
    """A domain that stasis started."""
    t.defer(forget, name)
    vm = Domain(t, guest, name)
    vm.learn()
    return vm


def told(t, vm):
    """What the agent says once it has been told."""
    def info():
        result = stasis("agent-info", "--json", vm.name, expect=None)
        return result.rc == 0 and result.json["n_instants"] and result.json
    return t.wait(info, 60, "it has been told")


_common = {}


def common():
    """A domain whose guest logs to a raw disk without an end, and has an agent; the path of the disk."""
    if not _common:
        t = shared()
        host(t)
        path = make_disk(t, "log.raw", "raw")
        os.chmod(path, 0o666)
        vm = make_domain(t, WithAgent(t, machine="q35", log="/dev/vda", memory="1M"), "tcg",
                         start=False, disks=[{"path": path, "driver": "raw"}])
        stasis("prepare", vm.name, "--apply")
        start_domain(vm)
        wait_agent(t, vm)
        t.wait(lambda: logged(vm), 120, "the guest logs")
        _common.update(vm=vm, disk=path)
    return _common["vm"], _common["disk"]


@case
def quiesced(t):
    """--quiesce through a domain's channel: the image's file system needs no journal; an error, kill -9
    and a restart of libvirtd while it is frozen: the guest thaws"""
    vm, disk = common()
    store = new_store(t)
    create = ("checkpoint-create", vm.name, "--quiesce", *store)
    image = vm.checkpoint("--quiesce", *store)
    t.check(image["quiesced"] and image["cost"]["frozen_us"] > 0, image)
    raw = t.path("exported")
    name = stasis_json("checkpoint-info", image["id"], *store)["disks"][0]["name"]
    stasis("export", image["id"], "--format", "raw", "--disk", name, raw, *store)
    t.check(not journal_is_needed(raw), "the journal is needed")
    done = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
    t.equal(done.returncode, 0, f"e2fsck: {done.stdout[-600:]}")
    logs_on(vm)
    for point in ("quiesced", "stopped", "resumed"):
        result = stasis(*create, env={"STASIS_FAULT": f"{point}:error"}, expect=1)
        t.check(result.err.count("\n") == 1 and point in result.err, f"{result!r}")
        logs_on(vm)
    process = held.held(t, "quiesced", *create)
    t.check(not journal_is_needed(disk), "the disk while it is frozen")
    process.kill()
    process.wait()
    # Nobody speaks to the agent.
    t.wait(lambda: journal_is_needed(disk), 120, "it thaws by itself")
    logs_on(vm)
    process = held.held(t, "quiesced", *create)
    host().restart_libvirtd()
    code, said = held.ended(process)
    t.check(code == 1 and "libvirtd was restarted" in said and said.count("\n") == 1, said)
    logs_on(vm)
    t.equal(image_ids(store), [image["id"]], "images of what failed")
    t.check(vm.checkpoint("--quiesce", *store)["quiesced"], "the next one")


@case
def domain(t):
    """agent-info, agent-exec, proc-list, proc-graph, and a domain that goes on from an image"""
    vm, _ = common()
    t.equal(stasis_json("agent-info", vm.name)["n_instants"], 0, "told of instants")
    t.equal(stasis("agent-exec", vm.name, "--", "busybox", "echo", "hello").out, "hello\n", "exec")
    agent = [p["pid"] for p in stasis_json("proc-list", vm.name) if p["comm"] == "stasis-agent"]
    t.equal(len(agent), 1, f"proc-list: {agent}")
    refused = stasis("proc-graph", vm.name, "--pid", *agent, expect=4)
    t.equal(refused.err.count("\n"), 3, f"proc-graph: {refused!r}")
    store = new_store(t)
    set_clock_back(vm)
    image = vm.checkpoint_id(*store)
    t.equal(stasis("agent-ping", vm.name).rc, 0, "agent-ping after a checkpoint")
    destroy(vm.name)
    stasis("restore", image, *store)
    back = known(t, vm.name, vm.guest)
    said = told(t, back)
    t.equal((said["n_instants"], said["last_instant"], said["machine_id"]),
            (1, "restored", MACHINE_ID), "agent-info")
    check_clock(t, said)
    name = fresh_name("clone")
    t.defer(forget, name)
    stasis("clone", image, "--name", name, *store)
    twin = known(t, name, vm.guest)
    said = told(t, twin)
    t.equal((said["n_instants"], said["last_instant"]), (1, "cloned"), "agent-info of the clone")
    t.check(said["machine_id"] != MACHINE_ID, "the clone's machine id")


@case
def installed(t):
    """agent-install into a domain that is shut off: its disk has the agent, its definition the channel;
    one that runs is refused"""
    need_libguestfs(t)
    host(t)
    disk = os.path.join(libvirthost.IMAGES, "system.raw")
    shutil.move(system_disk(t, "system"), disk)
    vm = make_domain(t, Bare(mem="32M", set="1M"), "tcg", start=False,
                     disks=[{"path": disk, "driver": "raw"}])
    vm.virsh("start")
    result = stasis("agent-install", vm.name, expect=1)
    t.check("running" in result.err and result.err.count("\n") == 1, f"{result!r}")
    vm.virsh("destroy")
    said = stasis_json("agent-install", vm.name)
    t.equal((said["domain"], said["system"], said["changed"]), (vm.name, SYSTEM, True), said)
    t.check(any("channel" in note for note in said["notes"]), said)
    check_installed(t, disk)
    xml = vm.xml("--inactive")
    t.check("org.stasis.agent.0" in xml and "memfd" not in xml, xml)
    vm.virsh("start")


if __name__ == "__main__":
    libvirthost.enter()
    main()
