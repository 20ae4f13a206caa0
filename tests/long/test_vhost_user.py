#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a device that another process serves is no hindrance when the guest suspends it."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import WithAgent, wait_agent  # noqa: E402
from edu import LINE, line_disk, line_of  # noqa: E402
from stasistest import (case, end_pid, main, new_store, restored_vm, run_vm, stasis)  # noqa: E402


@case
def vhost_user(t):
    """a vhost-user disk, refused without: saved with --guest-suspend, works on, and in the VM restored,
    which has the same daemon"""
    store = new_store(t)
    disk, socket = line_disk(t, "vhost.img"), t.path("vhost.sock")
    # pylint: disable-next=consider-using-with
    daemon = subprocess.Popen(["qemu-storage-daemon", "--blockdev",
                               f"driver=file,node-name=f,filename={disk}", "--export",
                               "type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,"
                               f"addr.path={socket}"])
    t.defer(end_pid, daemon.pid)
    t.wait(lambda: os.path.exists(socket), 60, "the daemon")
    vm = run_vm(t, WithAgent(t, mem="160M", memory="1M"), "-chardev", f"socket,id=c,path={socket}",
                "-device", "vhost-user-blk-pci,id=disk7,chardev=c", options=("--agent",))
    wait_agent(t, vm)
    t.equal(line_of(vm), LINE, "before")
    result = stasis("checkpoint-create", vm.name, *store, expect=1)
    t.check("disk7" in result.err and "vhost-user" in result.err, result.err)
    image = vm.checkpoint("--guest-suspend", "disk7", *store)
    t.equal((image["suspended"][0]["method"], image["parent"]), ("unbind", None), "the image")
    t.equal(line_of(vm), LINE, "after")
    again = vm.checkpoint("--guest-suspend", "disk7", *store)
    t.equal(again["parent"], None, "the next one is a full one, too")
    stasis("kill", vm.name)
    back = restored_vm(t, image["id"], store, vm.guest)
    wait_agent(t, back)
    t.wait(lambda: line_of(back, expect=None) == LINE, 120, "restored, the disk can be read")


main()
