#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: processes of a libvirt domain are imaged and restored as those of any VM; libvirt sees nothing of
the fork, which has no more rights than the domain's QEMU, and the domain's disks are not written."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
from held import ended, held  # noqa: E402
from libvirthost import QEMU_UID, URI, Events, host, make_domain, start_domain, virsh  # noqa: E402
from proctree import (ask, check_no_fork, check_works, fork_pids, get_ready,  # noqa: E402
                      start_tree, tree_guest)
from stasistest import case, main, new_store, shared, stasis, stasis_json  # noqa: E402

os.environ["STASIS_CONNECT"] = URI
MIB = 1 << 20
# With free slots.
DEVICES = "<controller type='pci' index='0' model='pcie-root'/>" + "".join(
    f"<controller type='pci' index='{i}' model='pcie-root-port'/>" for i in range(1, 9)) + """
<interface type='user'><model type='virtio'/></interface>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{cd}'/>
<target dev='sda' bus='sata'/><readonly/></disk>"""
_common = {}


def make_file(name, size, qcow2=False):
    path = os.path.join(libvirthost.IMAGES, name)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2" if qcow2 else "raw", path, str(size)],
                   check=True)
    return path


def common(t):
    """A domain with two disks, one of them plugged in while it ran, a CD and a network; and a tree."""
    if not _common:
        host(t)
        t = shared()
        disk, cd, late = (make_file("vda", 64 * MIB, qcow2=True), make_file("cd", MIB),
                          make_file("late", 32 * MIB))
        vm = make_domain(t, tree_guest(t, machine="q35", mem="192M"), "tcg", start=False,
                         disks=[{"path": disk}], devices=DEVICES.format(cd=cd))
        stasis("prepare", vm.name, "--apply")
        start_domain(vm)
        get_ready(t, vm)
        vm.virsh("attach-disk", late, "vdb", "--live", "--driver", "qemu", "--subdriver", "raw")
        _common.update(vm=vm, root=start_tree(vm), store=new_store(t))
        check_works(t, vm, "at first")
    return _common


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


@case
def graph(t):
    """proc-list and proc-graph tell of the domain's processes"""
    c = common(t)
    names = {p["pid"]: p["comm"] for p in stasis_json("proc-list", c["vm"].name)}
    t.equal(names[c["root"]], "proc-tree", names)
    members = stasis_json("proc-graph", c["vm"].name, "--pid", c["root"])["members"]
    t.equal(len(members), 3, members)
    t.equal(len(stasis_json("proc-checkpoint", c["vm"].name, "--pid", c["root"], "--dry-run",
                            *c["store"])), 3, "members")


@case
def checkpoint(t):
    """taken while the domain runs on; the fork is no domain, is the domain's user in a sandbox, and has its own disks; --replace takes the processes back"""
    c = common(t)
    vm, store = c["vm"], c["store"]
    before = ask(vm)
    events = Events(t, vm.name)
    process = held(t, "proc-frozen", "--json", "proc-checkpoint", vm.name, "--pid", c["root"], *store)
    t.equal(virsh("list", "--all", "--name").stdout.split(), [vm.name], "domains")
    pids = fork_pids(vm)
    t.equal(len(pids), 1, "forks")
    status = status_of(pids[0])
    t.equal((status["Uid"].split(), status["Gid"].split(), status["Seccomp"], int(status["CapEff"], 16)),
            ([str(QEMU_UID)] * 4, [str(QEMU_UID)] * 4, "2", 0), "rights of the fork")
    with open(f"/proc/{pids[0]}/cmdline", "rb") as f:
        line = f.read().decode()
    t.check(libvirthost.IMAGES + "/vda" not in line and libvirthost.IMAGES + "/late" not in line,
            f"the domain's disks: {line}")
    t.check(f"guest={vm.name}," not in line, "its name")
    check_works(t, vm, "the original, while there is a fork")
    code, said = ended(process)
    t.equal(code, 0, said)
    now = check_works(t, vm, "the original")
    t.check(now["paired"] > before["paired"], "it went on")
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")
    t.check(not [e for e in events.seen() if e.split()[0] not in ("Suspended", "Resumed")],
            f"events: {events.seen()}")
    t.check(not vm.virsh("domblklist").stdout.count("stasis"), "disks")
    image = stasis_json("checkpoint-list", *store)[-1]
    t.equal((image["kind"], image["vm"], len(image["processes"])), ("processes", vm.name, 3), image)
    reached = ask(vm)
    said = stasis_json("proc-restore", image["id"], "--replace", *store)
    t.equal((said["pid"], said["name"]), (c["root"], vm.name), said)
    back = ask(vm)
    t.check(before["paired"] <= back["paired"] and back["bad"] == 0,
            f"restored: {before} {back} {reached}")
    check_works(t, vm, "restored")
    vm.guest.check_unharmed(vm)


@case
def libvirtd_restarted(t):
    """libvirtd restarted while the fork works: the image is taken all the same, and nothing stays in QEMU"""
    c = common(t)
    vm, store = c["vm"], c["store"]
    process = held(t, "proc-frozen", "proc-checkpoint", vm.name, "--pid", c["root"], *store)
    host().restart_libvirtd()
    code, said = ended(process)
    t.equal(code, 0, said)
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")
    with vm.qmp() as qmp:
        left = [n["node-name"] for n in qmp.cmd("query-named-block-nodes", flat=True)
                if n["node-name"].startswith("stasis-")]
    t.equal(left, [], "nodes")
    check_works(t, vm, "the original")


if __name__ == "__main__":
    libvirthost.enter()
    main()
