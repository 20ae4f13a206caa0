#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what fails in a libvirt domain is taken back by try and by guard in place, as in any VM, and
libvirt goes on to know the domain; a guard's bundle has its images."""
import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
from guardtest import Guard  # noqa: E402
from libvirthost import URI, host, make_domain  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import FAST, add_case, case, main, shared, stasis, stasis_json, stasis_start  # noqa: E402

os.environ["STASIS_CONNECT"] = URI
_common = {}


def domain():
    if not _common:
        t = shared()
        host(t)
        _common["vm"] = make_domain(t, Bare(mem="64M", set="4M", rate=200), FAST)
    return _common["vm"]


@case
def tried(t):
    """a command that fails has not been, one that ends well stays; the same QEMU runs on"""
    vm = domain()
    pid = vm.pid
    t.equal(stasis("try", vm.name, "--", "false", expect=1).rc, 1, "the command's status")
    vm.check_runs()
    stasis("try", vm.name, "--", "true")
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    vm.learn()
    t.equal(vm.pid, pid, "QEMU's process")


@case
def guarded(t):
    """a hang is taken back in place, and each time there is a bundle"""
    vm = domain()
    os.mkdir(t.path("out"))
    process = stasis_start(t, "guard", vm.name, "--json", "--progress", "json", "--every", 200, "--keep",
                           40, "--on", "hang=1", "--do", "capture", "--do", "rollback", "--output",
                           t.path("out"))
    seen = []
    for line in process.stderr:
        if not line.startswith(b"{"):  # a remark
            t.note(line.decode(errors="replace"))
            continue
        seen.append(json.loads(line))
        images = sum(one["event"] == "image" for one in seen)
        if seen[-1]["event"] == "image" and images == 3:
            vm.guest.fail(vm, Bare.HANG)
        if seen[-1]["event"] == "rolled-back":
            break
    t.check(seen[-1]["event"] == "rolled-back", seen[-5:])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    t.equal(process.returncode, 0, f"exit status: {out} {err}")
    [path] = json.loads(out)["result"]["bundles"]
    info = stasis_json("bundle-info", path, "--verify")
    t.equal((info["kind"], info["domain"]), ("hang", vm.name), info)
    t.check("restore or clone --connect" in stasis("replay", path, expect=1).err, "what is said of a replay")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


def ends(t, how, kind):
    vm = make_domain(t, Bare(mem="64M", set="4M", rate=200), FAST)
    guard = Guard(t, vm, "--every", 200, "--output", t.dir)
    guard.wait("image", 2)
    how(vm)
    found = guard.end(0 if kind is None else 125)
    t.equal(found.get("last", {}).get("kind"), kind, found)
    t.equal("ended" in found, kind is None, found)


add_case(ends, lambda vm: vm.virsh("destroy"), None, promise="a domain that is destroyed has not failed")
add_case(ends, lambda vm: os.kill(vm.pid, signal.SIGKILL), "crash",
         promise="one whose QEMU is killed has")

if __name__ == "__main__":
    libvirthost.enter()
    main()
